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

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use crate::core::wire::{
    Attempt, Event, FdStatus, Hello, KeeperStatus, KeptStatus, News, Outcome, Phase, PredecessorStatus, Status,
    SuccessorStatus, VersionRange,
};
use crate::core::wire::{ClientFrame, Frame, GetStatus, ServerFrame, Stop, Upgrade, Watch};
use crate::driver::channel::{Channel, Fill};
use crate::driver::place::Place;
use crate::error::{Error, PathProblem, Result};
pub use crate::kernel::Kernel;
use crate::sys::event::wait_readable;
use crate::sys::{container, process, socket};

/// How long the service may take to answer. It answers from memory: one that takes longer is stopped, or no service.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The instance that this process is, as a service in it would be by default, see [`Config::instance`](crate::Config::instance).
pub fn own_instance() -> Option<String> {
    crate::Config::new("").own_instance()
}

/// The id of the container that this process is in, as far as the kernel tells it: in the path of its cgroup, or else the upper directory of
/// its root file system. `None` outside of containers, and where neither is to be seen. Where nobody has chosen an instance, this is it.
pub fn own_container() -> Option<&'static str> {
    container::id()
}

/// The network namespace that this process is in, by its `SO_NETNS_COOKIE` (Linux 5.14), for a comparison with [`FdStatus::netns`]. `None`
/// where the kernel does not say.
pub fn own_network() -> Option<u64> {
    socket::own_netns()
}

/// A connection to a service's control socket. It never disturbs a handoff.
#[derive(Debug)]
pub struct Client {
    channel: Channel<OwnedFd>,
    hello: Hello,
    uid: u32,
    process: Option<Process>,
}

/// The process behind a connection, held by a pidfd (`pidfd_open(2)`): another one that is given the same process id later
/// is not mistaken for it.
#[derive(Debug, Clone)]
pub struct Process(Arc<OwnedFd>);

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
        let uid = socket::peer_credentials(&stream).map_err(Error::io("read the service's credentials"))?.uid();
        // A kernel before 6.5 does not say; nor does it of a process that has ended.
        let process = socket::peer_pidfd(&stream).ok().map(|pidfd| Process(Arc::new(pidfd)));
        let mut channel = Channel::new(stream, false).map_err(Error::io("set up the control connection"))?;
        match answer(&mut channel)? {
            ServerFrame::Hello(hello) => {
                let process = process.filter(|process| process.may_be(hello.pid));
                Ok(Client { channel, hello, uid, process })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// How the service greeted.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// The user whom the service runs as, by `SO_PEERCRED`: see `unix(7)`.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The process that greeted, for waiting until it has ended: that is later than the end of the connection. `None`
    /// where the kernel does not name it (before Linux 6.5), or names another one than the one that greeted, as where
    /// something relays the connection.
    ///
    /// ```no_run
    /// # fn main() -> fd_handoff::Result<()> {
    /// let service = fd_handoff::client::Client::connect("/run/app/handoff.sock")?;
    /// let process = service.process();
    /// service.stop()?.for_each(drop);
    /// if let Some(process) = process {
    ///     process.wait_for_end(None)?; // its ports, locks and files are free
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn process(&self) -> Option<Process> {
        self.process.clone()
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

impl Process {
    /// The process that has this id now, as a service manager tells it in `$MAINPID`.
    ///
    /// # Errors
    ///
    /// Where there is none (`ESRCH`), and where the kernel forbids to hold one (`pidfd_open(2)`).
    pub fn open(id: u32) -> Result<Process> {
        let opened = i32::try_from(id).map_err(std::io::Error::other).and_then(process::pidfd_of);
        opened.map(|pidfd| Process(Arc::new(pidfd))).map_err(Error::io(format!("open process {id}")))
    }

    /// Its process id as this process sees it: `None` where it is in a pid namespace that cannot be seen from here, where
    /// it has ended, and without `/proc`.
    pub fn id(&self) -> Option<u32> {
        process::ids(self.as_fd())?.first().copied().filter(|id| *id != 0)
    }

    /// Waits until it has ended, for `timeout` at the most or for ever, and says whether it has. Everything that it held
    /// is free then.
    ///
    /// # Errors
    ///
    /// Where `poll(2)` fails.
    pub fn wait_for_end(&self, timeout: Option<Duration>) -> Result<bool> {
        // What is too long for a clock is for ever.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        while !process::is_dead(self.as_fd()) {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(false);
            }
            wait_readable(&[self.as_fd()], deadline).map_err(Error::io("wait for the process to end"))?;
        }
        Ok(true)
    }

    /// Whether it is in this process's own container: in its pid namespace (`NSpid` in `proc_pid_status(5)`) and, since containers may
    /// share one, not in another container by its cgroup (`cgroups(7)`). Outside of containers, whether it is in this pid namespace.
    /// `None` where that cannot be told: it has ended, or there is no `/proc`.
    pub fn is_in_own_container(&self) -> Option<bool> {
        // Its id in this namespace, 0 where it is not in there, and then one in each namespace below, down to its own.
        let [id] = process::ids(self.as_fd())?[..] else { return Some(false) };
        if id == 0 {
            return Some(false);
        }
        let is_of_another = container::is_of_another(id);
        // Nobody else has got its id meanwhile.
        self.id().map(|_| !is_of_another)
    }

    /// Whether it may be the process that sees itself as `pid`.
    fn may_be(&self, pid: u32) -> bool {
        match process::ids(self.as_fd()).as_deref() {
            // It cannot be told from here.
            None | Some([] | [0]) => true,
            Some([.., own]) => *own == pid,
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A client of a service that greets as the process with this id.
    fn greeted_by(pid: u32) -> Client {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let hello = r#"{"type":"hello","protocol":{"min":1,"max":1},"name":"a","version":"1","pid":PID,"generation":1,"phase":"serving"}"#;
                writeln!(stream, "{}", hello.replace("PID", &pid.to_string())).unwrap();
                stream
            });
            Client::connect(&path).unwrap()
        })
    }

    #[test]
    fn the_process_that_greeted_is_held_and_no_other() {
        if crate::kernel::Kernel::probe().unwrap().peer_pidfd.is_err() {
            return;
        }
        let client = greeted_by(std::process::id());
        let process = client.process().unwrap();
        assert_eq!(process.id(), Some(std::process::id()));
        assert_eq!(client.uid(), nix::unistd::geteuid().as_raw());
        assert!(!process.wait_for_end(Some(Duration::ZERO)).unwrap());
        assert!(greeted_by(std::process::id() + 1).process().is_none());
    }

    #[test]
    fn the_end_of_a_process_is_seen() {
        let mut child = std::process::Command::new("cat");
        let mut child = child.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let pidfd = process::pidfd_of(child.id().try_into().unwrap()).unwrap();
        let process = Process(Arc::new(pidfd));
        assert_eq!(process.id(), Some(child.id()));
        assert!(!process.wait_for_end(Some(Duration::ZERO)).unwrap());
        // It ends when there is no more to read.
        drop(child.stdin.take());
        let mut rest = String::new();
        assert_eq!(BufReader::new(child.stdout.take().unwrap()).read_line(&mut rest).unwrap(), 0);
        assert!(process.wait_for_end(None).unwrap());
        child.wait().unwrap();
        assert_eq!(process.id(), None);
    }
}
