//! The facade, blocking. It runs in the calls of the application: there is no thread besides the one that serves the
//! control socket.

use std::os::fd::AsFd;
use std::sync::Arc;

use crate::config::Config;
use crate::driver::generation::Generation;
use crate::driver::steward::{Duty, Over, Steward};
use crate::error::{Failure, StateError};
use crate::facade::blocking::handle::Handle;
use crate::facade::blocking::listen::{Control, pause};
use crate::facade::{Finish, HandoffBuilder};
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
///
/// Dropped before the service was handed over or stopped, it is the end of a process that has crashed: nobody is told
/// anything, and a predecessor that still drains takes the service back once this process is dead. So `main` may return any
/// error at any time. [`Handoff::fail`] names a reason, and [`Handoff::finish`] stops in good order.
#[derive(Debug)]
pub struct Handoff {
    pub(super) control: Option<Control>,
    pub(super) generation: Arc<Generation>,
    pub(super) steward: Steward,
    pub(super) handle: Handle,
    /// The application has been told to stop accepting.
    pub(super) superseded: bool,
}

impl Handoff {
    /// How to run the service at this control socket. To be called first in `main`: it notes by which path, with what
    /// arguments and from where the program was started. With the feature `systemd` it takes the descriptors that `LISTEN_FDS`
    /// speaks of, once in a process: from then on nothing else in this program may.
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
    ///
    /// # Panics
    ///
    /// Where nobody hears signals and answers at the control socket any more, since the library has panicked again and
    /// again.
    pub fn superseded(&mut self) {
        while !self.superseded {
            match self.next_duty() {
                Duty::Supersede => self.supersede(),
                Duty::Over(Over::Broken(reason)) => broken(&reason),
                // Nothing has been given up.
                Duty::EndConnections | Duty::Over(_) => {}
            }
        }
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
    ///
    /// # Panics
    ///
    /// As [`Handoff::superseded`].
    pub fn finish(&mut self) -> Result<Finish, Failure> {
        if self.control.is_none() {
            return Ok(Finish::Exit);
        }
        if !self.superseded {
            // Told already, it is not to be told twice: that would end it at once.
            if !self.generation.is_stopping() {
                self.handle.stop();
            }
            self.superseded();
        }
        // What has happened since then comes first: the successor may be gone, or its time over.
        let mut next = self.steward.poll();
        self.steward.proceed();
        loop {
            match next.take().unwrap_or_else(|| self.next_duty()) {
                Duty::Supersede => self.supersede(),
                // The kernel ends them with this process.
                Duty::EndConnections => {}
                Duty::Over(Over::Resume) => {
                    self.resume();
                    return Ok(Finish::Resume);
                }
                Duty::Over(Over::Exit | Over::Dropped) => {
                    self.control = None;
                    return Ok(Finish::Exit);
                }
                Duty::Over(Over::Failed(failure)) => {
                    self.control = None;
                    return Err(failure);
                }
                Duty::Over(Over::Broken(reason)) => broken(&reason),
            }
        }
    }

    /// This process owns the service, and cannot serve: a state that does not decode, a port that cannot be bound. Nothing
    /// is accepted here from now on. A predecessor that still drains, or watches, hears the reason and takes the service back
    /// at once.
    pub fn fail(mut self, reason: impl std::fmt::Display) {
        self.handle.supersede();
        if let Some(control) = self.control.take() {
            control.fail(reason);
        }
    }

    /// What other threads can do with the service.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// This process's generation, from 1.
    pub fn generation(&self) -> u64 {
        self.generation.number
    }

    /// The state that the predecessor sent with its release, once: what had changed since the snapshot.
    ///
    /// # Errors
    ///
    /// As [`Control::final_state`].
    pub fn final_state(&self) -> Result<Option<Received>, StateError> {
        self.generation.take_final_state()
    }

    /// Has `absorb` called with each of the predecessor's farewells, one after the other, on a thread of its own, while
    /// this process is in [`Handoff::superseded`] and [`Handoff::finish`]. Those that nobody takes are passed on to the
    /// successor.
    pub fn absorb_farewells(&mut self, absorb: impl FnMut(Received) + Send + 'static) {
        self.steward.absorb_farewells(absorb);
    }

    /// What the steward has for this form to do next.
    fn next_duty(&mut self) -> Duty {
        loop {
            let none_left = self.handle.connections.none_left();
            if self.steward.is_draining() && self.handle.connections.count() == 0 {
                self.steward.drained();
            }
            if let Some(duty) = self.steward.poll() {
                return duty;
            }
            let fds = [self.steward.poller().as_fd(), none_left.as_fd()];
            pause(wait_readable(&fds, self.steward.deadline()));
            none_left.lower();
        }
    }

    fn supersede(&mut self) {
        self.superseded = true;
        self.handle.supersede();
    }

    fn resume(&mut self) {
        self.superseded = false;
        self.steward.announce();
        self.handle.term.renew();
        self.handle.registry.open();
    }
}

impl Drop for Handoff {
    /// Whoever would be accepted now would be lost with this process; in the queue he waits for the next one.
    fn drop(&mut self) {
        if self.control.is_some() {
            self.handle.registry.shut();
        }
    }
}

/// The rule is that this process hears who tells it to stop, and answers for the service. It ends, and heirs take over.
fn broken(reason: &str) -> ! {
    panic!("the background of the control socket has panicked again and again: {reason}")
}
