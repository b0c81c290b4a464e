//! Looking into a running service and telling it what to do, over its control socket. The `handoff` command is made
//! of this; so can a deployment tool be.
//!
//! ```no_run
//! use fd_handoff::client::{Client, Step};
//! # fn main() -> fd_handoff::Result<()> {
//! let status = Client::connect("/run/app/handoff.sock")?.status()?;
//! println!("generation {} of {}, process {}", status.generation, status.name, status.pid);
//!
//! for step in Client::connect("/run/app/handoff.sock")?.upgrade(None)? {
//!     match step? {
//!         Step::Event(event) => println!("{}", event.message),
//!         Step::Outcome(attempt) => println!("{:?} after {} microseconds", attempt.outcome, attempt.total_us),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

pub use crate::core::wire::{
    Attempt, Event, FdStatus, Hello, News, Outcome, Phase, PredecessorStatus, Status, SuccessorStatus, VersionRange,
};
use crate::core::wire::{ClientFrame, Frame, GetStatus, ServerFrame, Stop, Upgrade, Watch};
use crate::driver::channel::{Channel, Fill};
use crate::driver::place::Place;
use crate::error::{Error, PathProblem, Result};
pub use crate::kernel::Kernel;
use crate::sys::event::wait_readable;

/// How long the service may take to answer. It answers from memory: one that takes longer is stopped, or no service.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to a service's control socket. It never disturbs a handoff.
#[derive(Debug)]
pub struct Client {
    channel: Channel<OwnedFd>,
    hello: Hello,
}

/// Something that the service says while it is watched or upgraded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Something happened.
    Event(Event),
    /// How the upgrade ended that this client asked for. Nothing follows.
    Outcome(Attempt),
}

/// What the service says from here on, as an iterator that waits for it. It ends with an upgrade's outcome, or when
/// the service closes the connection, as it does when it stops or has been replaced.
#[derive(Debug)]
pub struct Steps {
    channel: Channel<OwnedFd>,
    over: bool,
}

impl Client {
    /// Connects, and reads the greeting.
    ///
    /// # Errors
    ///
    /// [`PathProblem::NobodyThere`] and whatever else is wrong with the path; [`Error::Refused`] where this user may
    /// not connect; [`Error::NoAnswer`] where whoever listens does not greet within 5 s.
    pub fn connect(path: impl AsRef<Path>) -> Result<Client> {
        let place = Place::open(path.as_ref())?;
        let stream = place.connect()?.ok_or_else(|| place.problem(PathProblem::NobodyThere))?;
        let mut channel = Channel::new(stream, false).map_err(Error::io("set up the control connection"))?;
        match answer(&mut channel)? {
            ServerFrame::Hello(hello) => Ok(Client { channel, hello }),
            other => Err(unexpected(&other)),
        }
    }

    /// How the service greeted.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// What the service is doing.
    ///
    /// # Errors
    ///
    /// [`Error::Disconnected`], [`Error::NoAnswer`].
    pub fn status(&mut self) -> Result<Status> {
        match self.ask(GetStatus {})? {
            ServerFrame::Status(status) => Ok(status),
            other => Err(unexpected(&other)),
        }
    }

    /// What the service is doing, and then what happens.
    ///
    /// # Errors
    ///
    /// As [`Client::status`].
    pub fn watch(mut self) -> Result<(Status, Steps)> {
        match self.ask(Watch {})? {
            ServerFrame::Status(status) => Ok((status, Steps { channel: self.channel, over: false })),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks for a new process to take over, and says how it goes. The new process has `timeout`, or else the service's
    /// own deadline, to be ready.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`]: with the code `busy` where an upgrade or a handoff is under way, with `unsupported` where
    /// the service does not take such requests. What the steps say comes after that.
    pub fn upgrade(mut self, timeout: Option<Duration>) -> Result<Steps> {
        let timeout_ms = timeout.map(|timeout| timeout.as_millis().try_into().unwrap_or(u64::MAX));
        say(&mut self.channel, Upgrade { timeout_ms })?;
        Ok(Steps { channel: self.channel, over: false })
    }

    /// Tells the service to stop, and returns when it has heard so. The steps end when it has stopped.
    ///
    /// # Errors
    ///
    /// As [`Client::upgrade`].
    pub fn stop(mut self) -> Result<Steps> {
        match self.ask(Stop {})? {
            ServerFrame::Stopping(_) => Ok(Steps { channel: self.channel, over: false }),
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&mut self, question: impl Into<ClientFrame>) -> Result<ServerFrame> {
        say(&mut self.channel, question)?;
        answer(&mut self.channel)
    }
}

impl Iterator for Steps {
    type Item = Result<Step>;

    fn next(&mut self) -> Option<Result<Step>> {
        self.step(None)
    }
}

impl Steps {
    /// The next step, if it comes within `timeout`; else [`Error::NoAnswer`], and it can be waited for again.
    pub fn next_within(&mut self, timeout: Duration) -> Option<Result<Step>> {
        self.step(Some(timeout))
    }

    fn step(&mut self, timeout: Option<Duration>) -> Option<Result<Step>> {
        if self.over {
            return None;
        }
        let step = match hear(&mut self.channel, timeout) {
            Ok(ServerFrame::Event(event)) => return Some(Ok(Step::Event(event))),
            Err(error @ Error::NoAnswer { .. }) => return Some(Err(error)),
            Ok(ServerFrame::Concluded(concluded)) => Some(Ok(Step::Outcome(concluded.attempt))),
            Ok(ServerFrame::Failure(failure)) => Some(Err(refused(failure))),
            Ok(other) => Some(Err(unexpected(&other))),
            Err(Error::Disconnected) => None,
            Err(error) => Some(Err(error)),
        };
        self.over = true;
        step
    }
}

fn say(channel: &mut Channel<OwnedFd>, frame: impl Into<ClientFrame>) -> Result<()> {
    channel.queue(&frame.into(), Vec::new());
    // A line this short always finds room.
    channel.flush(&[]).map_err(|stuck| Error::io("write to the control socket")(stuck.into_error()))
}

/// The answer to a question; an error that the service says is one here.
fn answer(channel: &mut Channel<OwnedFd>) -> Result<ServerFrame> {
    match hear(channel, Some(ANSWER_TIMEOUT))? {
        ServerFrame::Failure(failure) => Err(refused(failure)),
        frame => Ok(frame),
    }
}

fn hear(channel: &mut Channel<OwnedFd>, timeout: Option<Duration>) -> Result<ServerFrame> {
    // What is too long for a clock is for ever.
    let deadline = timeout.and_then(|timeout| Some((Instant::now().checked_add(timeout)?, timeout)));
    loop {
        if let Some(frame) = channel.next_frame(ServerFrame::parse) {
            return frame.map(|(frame, _)| frame).map_err(Error::Garbled);
        }
        match channel.fill() {
            Fill::Some => {}
            Fill::Closed => return Err(Error::Disconnected),
            Fill::Nothing => match deadline {
                Some((deadline, after)) if deadline <= Instant::now() => return Err(Error::NoAnswer { after }),
                _ => wait(channel, deadline.map(|(deadline, _)| deadline))?,
            },
        }
    }
}

fn wait(channel: &Channel<OwnedFd>, deadline: Option<Instant>) -> Result<()> {
    wait_readable(&[channel.as_fd()], deadline).map_err(Error::io("wait for the service"))
}

fn refused(failure: crate::core::wire::Failure) -> Error {
    Error::Refused { code: failure.code, message: failure.message }
}

fn unexpected(frame: &ServerFrame) -> Error {
    Error::Garbled(crate::core::wire::WireError::Malformed(format!("{} is no answer to that", frame.tag())))
}
