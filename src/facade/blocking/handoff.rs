//! The facade, blocking. It runs in the calls of the application: there is no thread besides the one that serves the
//! control socket.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::driver::steward::{Duty, Steward};
use crate::error::{Failure, Result, StateError};
use crate::facade::blocking::handle::Handle;
use crate::facade::blocking::listen::{Control, Ready, Released, Successor, pause};
use crate::facade::registry;
use crate::facade::{Absorb, Announcer, Finish, HandoffBuilder, Hooks, TELL};
use crate::state::Received;
use crate::sys::event::wait_readable;

/// A service that serves, hands itself over, and stops.
///
/// Threads of the application accept and serve; this is for the main thread:
///
/// ```no_run
/// use fd_handoff::{Finish, Handoff, SignalKind};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut starting = Handoff::builder("/run/app/handoff.sock")
///     .upgrade_on(SignalKind::hangup())
///     .stop_on(SignalKind::terminate())
///     .start()?;
/// let http = starting.tcp_listener("http", "0.0.0.0:8080".parse()?)?;
/// let mut handoff = starting.ready()?;
/// # fn serve_on_threads(_: &fd_handoff::Acceptor<std::net::TcpListener>) {}
/// loop {
///     serve_on_threads(&http);            // until `http.accept()` gives `None`
///     handoff.superseded();               // a successor is ready, or the service is to stop
///     match handoff.finish()? {           // give the service up, and drain
///         Finish::Exit => return Ok(()),
///         Finish::Resume => continue,     // the successor was lost: accept again
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Handoff {
    pub(super) control: Option<Control>,
    pub(super) steward: Steward,
    pub(super) handle: Handle,
    pub(super) hooks: Hooks,
    pub(super) announcer: Announcer,
    pub(super) drain: Duration,
    pub(super) turn: Option<Turn>,
}

/// Why this process has stopped accepting.
#[derive(Debug)]
pub(super) enum Turn {
    Ready(Box<Ready>),
    Stop,
}

impl Handoff {
    /// How to run the service at this control socket. To be called first in `main`: it notes by which path, with what
    /// arguments and from where the program was started.
    pub fn builder(config: impl Into<Config>) -> HandoffBuilder<Handoff> {
        HandoffBuilder::new(config.into())
    }
}

impl Handoff {
    /// Waits until this process is to stop accepting: a successor is ready, or the service was told to stop. Listeners
    /// of [`Starting`](crate::Starting) have stopped when it returns. Then end whatever else takes in work, and call
    /// [`Handoff::finish`].
    ///
    /// A handoff that fails meanwhile is logged and in `status`, and changes nothing.
    pub fn superseded(&mut self) {
        while self.turn.is_none() {
            self.turn = match self.steward.poll() {
                None => {
                    pause(wait_readable(&[self.steward.poller().as_fd()], self.steward.deadline()));
                    None
                }
                Some(Duty::Absorb(farewell)) => self.absorb(farewell),
                Some(Duty::HandOver(giving)) => self.hand_over(Successor { giving: *giving }),
                Some(Duty::Stop) => Some(Turn::Stop),
            };
        }
        self.handle.supersede();
    }

    /// Gives the service up, waits until the accepted connections have ended or the drain deadline has passed, and says
    /// farewell; or just drains, where the service was told to stop.
    ///
    /// Connections are counted by the listeners of [`Starting`](crate::Starting), and by [`Handle::count`].
    ///
    /// Called while nobody has superseded this process, it stops the service as [`Handle::stop`] does. Called again after
    /// [`Finish::Exit`], it does nothing.
    ///
    /// # Errors
    ///
    /// Where nobody can tell who serves, or the last state could not be handed over: exit.
    pub fn finish(&mut self) -> Result<Finish, Failure> {
        if self.control.is_none() {
            return Ok(Finish::Exit);
        }
        if self.turn.is_none() {
            self.handle.stop();
            self.superseded();
        }
        let Some(Turn::Ready(ready)) = self.turn.take() else {
            self.stop();
            return Ok(Finish::Exit);
        };
        match self.release(*ready) {
            Ok(()) => {
                self.control = None;
                Ok(Finish::Exit)
            }
            Err(failure) if failure.may_serve() => {
                self.announcer.serving();
                self.handle.term.renew();
                self.handle.registry.open();
                Ok(Finish::Resume)
            }
            Err(failure) => {
                self.control = None;
                Err(failure)
            }
        }
    }

    /// What other threads can do with the service.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// This process's generation, from 1.
    pub fn generation(&self) -> u64 {
        self.handle.generation.number
    }

    /// The state that the predecessor sent with its release, once: what had changed since the snapshot.
    ///
    /// # Errors
    ///
    /// As [`Control::final_state`].
    pub fn final_state(&self) -> Result<Option<Received>, StateError> {
        self.handle.generation.take_final_state()
    }

    /// Has `absorb` called with each of the predecessor's farewells, from [`Handoff::superseded`] and
    /// [`Handoff::finish`]. Those that nobody takes are passed on to the successor.
    ///
    /// # Errors
    ///
    /// What the kernel says where it cannot wait for them.
    pub fn absorb_farewells(&mut self, absorb: impl FnMut(Received) + Send + 'static) -> Result<()> {
        self.hooks.absorb = Some(Absorb::new(absorb));
        self.steward.absorb_farewells()
    }

    fn absorb(&self, farewell: Received) -> Option<Turn> {
        if let Some(absorb) = &self.hooks.absorb {
            absorb.call(farewell);
        }
        None
    }

    fn hand_over(&self, successor: Successor) -> Option<Turn> {
        let snapshot = match self.hooks.snapshot.call() {
            Ok(snapshot) => snapshot,
            Err(error) => {
                successor.refuse(&error.to_string());
                return None;
            }
        };
        let table = self.handle.registry.table();
        let offer = snapshot.into_iter().fold(registry::offer(&table), |offer, state| offer.state(state));
        // Why it failed is in the log and in `status`.
        successor.offer(offer).ok().map(Box::new).map(Turn::Ready)
    }

    fn release(&mut self, mut ready: Ready) -> Result<(), Failure> {
        let last = ready.check(self.hooks.last.call())?;
        let mut released = ready.release(last)?;
        self.drain(&mut released)?;
        released.await_predecessor()?;
        while let Some(farewell) = self.steward.farewell() {
            self.absorb(farewell);
        }
        let farewell = self.hooks.farewell.call().unwrap_or_else(|error| {
            tracing::error!(event = "state_lost", %error, "the last state is lost");
            None
        });
        released.farewell(farewell)
    }

    fn drain(&self, released: &mut Released) -> Result<(), Failure> {
        let connections = &self.handle.connections;
        let none_left = connections.none_left();
        let deadline = Instant::now() + self.drain;
        let mut told = None;
        loop {
            let (left, now) = (connections.count(), Instant::now());
            if told.replace(left) != Some(left) {
                released.draining(left as u64);
            }
            if left == 0 {
                return Ok(());
            }
            if deadline <= now {
                tracing::warn!(
                    event = "overdue",
                    connections = left,
                    "the drain deadline has passed; ending what is left"
                );
                return Ok(());
            }
            if let Some(failure) = released.lost_or(none_left.as_fd(), Some(deadline.min(now + TELL))) {
                return Err(failure);
            }
            none_left.lower();
        }
    }

    fn stop(&mut self) {
        self.announcer.stopping();
        self.handle.supersede();
        let connections = &self.handle.connections;
        let none_left = connections.none_left();
        let deadline = Instant::now() + self.drain;
        while connections.count() > 0 && Instant::now() < deadline {
            pause(wait_readable(&[none_left.as_fd()], Some(deadline)));
            none_left.lower();
        }
        // As long as the control socket is there, nobody else begins to serve, and makes these anew.
        self.handle.registry.remove_paths();
        self.announcer.stopped();
        self.control = None;
    }
}
