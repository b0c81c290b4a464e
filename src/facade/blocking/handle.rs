//! What other threads can do with a service.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use crate::core::wire::Attempt;
use crate::driver::generation::Generation;
use crate::error::{Error, Result};
use crate::facade::blocking::accept::Connections;
use crate::facade::registry::{self, Registry};

/// What other threads can do with a service.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) registry: Registry,
    pub(super) connections: Connections,
    pub(super) generation: Arc<Generation>,
    pub(super) superseded: Arc<AtomicBool>,
}

impl Handle {
    /// Whether this process is to stop accepting, or has. A server may then tell each of its clients that this is the
    /// last answer on their connection.
    pub fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::SeqCst)
    }

    /// How many connections are counted.
    pub fn connections(&self) -> usize {
        self.connections.count()
    }

    /// Counts a connection, or a job, that did not come from a listener of [`Starting`](crate::Starting), until what
    /// this returns is dropped: the drain waits for it.
    pub fn count(&self) -> crate::facade::blocking::accept::Counted {
        self.connections.begin()
    }

    /// Has a new process take over, and waits for the outcome. Not to be called on the thread that is in
    /// [`Handoff::superseded`](crate::Handoff::superseded).
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with the code `busy` where an upgrade or a handoff is under way.
    pub fn upgrade(&self) -> Result<Attempt> {
        let (sender, outcome) = mpsc::channel();
        let tell = Box::new(move |attempt| drop(sender.send(attempt)));
        self.generation.call_upgrade(tell)?;
        outcome.recv().map_err(|_| Error::Closed)
    }

    /// Stops the service.
    pub fn stop(&self) {
        self.generation.ask_stop();
    }

    /// Names another socket or file, and offers it to each successor, in the place of those that had the name. It is
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
        registry::register_group(&self.registry, &self.generation, name, fds)
    }

    /// Stops accepting on the sockets of this name, and no longer offers them: the service gives a part of itself up,
    /// and serves on with the rest. Returns whether there were any.
    pub fn forget(&self, name: &str) -> bool {
        registry::forget(&self.registry, &self.generation, name)
    }

    /// Nothing more is accepted here from now on.
    pub(super) fn supersede(&self) {
        self.superseded.store(true, Ordering::SeqCst);
        self.registry.shut();
    }
}
