//! What other threads and tasks can do with a service, in either form.

use std::os::fd::AsFd;

use crate::driver::seat::Seat;
use crate::error::{Result, StateError};
use crate::facade::form::Form;
use crate::facade::heartbeat::{Heartbeat, Hearts};
use crate::facade::registry::{self, Registry};
use crate::state::State;

/// What other threads or tasks can do with a service: [`crate::Handle`], and [`crate::tokio::Handle`] on tokio.
///
/// [`Starting::handle`](crate::form::Starting::handle) gives one before this process serves, and the same service is meant later.
#[derive(Debug)]
pub struct Handle<F: Form> {
    pub(super) registry: Registry,
    pub(super) connections: F::Connections,
    pub(super) seat: Seat,
    pub(super) term: F::Term,
    pub(super) hearts: Hearts,
}

/// Another handle to the same service. Written by hand: no form is `Clone`, nor has to be.
impl<F: Form> Clone for Handle<F> {
    fn clone(&self) -> Handle<F> {
        Handle {
            registry: self.registry.clone(),
            connections: self.connections.clone(),
            seat: self.seat.clone(),
            term: self.term.clone(),
            hearts: self.hearts.clone(),
        }
    }
}

impl<F: Form> Handle<F> {
    /// Whether this process is to stop accepting, or has. A server may then tell each of its clients that this is the
    /// last answer on their connection: `Connection: close` in HTTP/1.1.
    pub fn is_superseded(&self) -> bool {
        F::is_superseded(&self.term)
    }

    /// How many connections are counted.
    pub fn connections(&self) -> usize {
        F::count(&self.connections)
    }

    /// Counts a connection, or a job, that did not come from an acceptor of
    /// [`Starting`](crate::form::Starting), until what this returns is dropped: the drain waits for it.
    pub fn count(&self) -> F::Counted {
        F::begin(&self.connections)
    }

    /// Another part of the application that has to be alive for the service to be. Where a service manager wants signs of life
    /// (`WatchdogSec=` in a unit, with the feature `systemd`), whoever serves gives them: as long as the library's own task runs,
    /// or the thread that is in [`superseded`](crate::Handoff::superseded) and [`finish`](crate::Handoff::finish), and each
    /// heartbeat that there is has beaten since. So a service that hangs is ended and started again. Without a watchdog this costs
    /// nothing, and wakes nobody.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let starting = fd_handoff::Handoff::builder("/run/app/handoff.sock").start()?;
    /// # let jobs = std::sync::mpsc::channel::<fn()>().1;
    /// let heartbeat = starting.handle().heartbeat();
    /// std::thread::spawn(move || loop {
    ///     heartbeat.beat();
    ///     if let Ok(job) = jobs.recv_timeout(std::time::Duration::from_secs(1)) {
    ///         job();
    ///     }
    /// });
    /// # Ok(())
    /// # }
    /// ```
    pub fn heartbeat(&self) -> Heartbeat {
        self.hearts.begin()
    }

    /// Stops the service: it accepts nothing more, drains, and [`Finish::Exit`](crate::Finish) is what it ends with. Whoever says so
    /// again, by this call, a signal or at the control socket, has it wait for nothing any more.
    ///
    /// Before this process serves, it is the start that ends: `ready` gives [`Error::Stopped`](crate::Error::Stopped), and the
    /// predecessor serves on, and hears why.
    pub fn stop(&self) {
        self.seat.ask_stop();
    }

    /// Gives a newer snapshot to whoever keeps the service, see [`Keeper`](crate::Keeper), now or later: with it the next process
    /// begins, if this one crashes. It is sealed here, in the time that this call takes; as often as the service can afford to
    /// lose what came since. A process that takes over while this one serves gets what
    /// [`Starting::on_offer`](crate::form::Starting::on_offer) gives, as before.
    ///
    /// # Errors
    ///
    /// Where the state cannot be encoded, or there is no memory for it.
    pub fn checkpoint(&self, state: State) -> Result<(), StateError> {
        self.seat.checkpoint(state.seal()?);
        Ok(())
    }

    /// Names another socket or file, before this process serves or later, and offers it to each successor, in the place of those that had the name. It is
    /// duplicated: it stays open here until it is [forgotten](Handle::forget).
    ///
    /// # Errors
    ///
    /// A name that is not allowed, or a descriptor that cannot be examined or duplicated.
    pub fn register(&self, name: &str, fd: &impl AsFd) -> Result<()> {
        self.register_group(name, [fd])
    }

    /// As [`Handle::register`], for several under one name.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register_group<'a, T: AsFd + 'a>(&self, name: &str, fds: impl IntoIterator<Item = &'a T>) -> Result<()> {
        registry::register_group(&self.registry, &self.seat, name, fds)
    }

    /// Stops accepting on the sockets of this name, and no longer offers them: the service gives a part of itself up,
    /// and serves on with the rest. Returns whether there were any.
    pub fn forget(&self, name: &str) -> bool {
        registry::forget(&self.registry, &self.seat, name)
    }
}
