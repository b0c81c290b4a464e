//! What other tasks can do with a service.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::Counted;
use crate::core::wire::Attempt;
use crate::driver::generation::Generation;
use crate::error::{Error, Result};
use crate::facade::registry::{self, Registry};

/// [`crate::Handle`] on tokio: what other tasks can do with a service.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) registry: Registry,
    pub(super) connections: TaskTracker,
    pub(super) generation: Arc<Generation>,
    /// New when this process serves again.
    pub(super) term: Arc<Mutex<Term>>,
    pub(super) drain: Duration,
}

/// The time for which this process accepts, up to the end of its drain.
#[derive(Debug, Clone, Default)]
pub(super) struct Term {
    /// Cancelled when this process is about to be told to stop accepting.
    pub(super) superseding: CancellationToken,
    /// Cancelled when this process is to stop accepting.
    pub(super) superseded: CancellationToken,
    /// Cancelled when its drain deadline has passed.
    pub(super) overdue: CancellationToken,
}

impl Handle {
    /// Whether this process is to stop accepting, or has. A server may then tell each of its clients that this is the
    /// last answer on their connection: `Connection: close` in HTTP/1.1.
    pub fn is_superseded(&self) -> bool {
        self.term().superseded.is_cancelled()
    }

    /// Completes when this process is to stop accepting; see [`Handoff::superseded`](super::Handoff::superseded).
    pub fn superseded(&self) -> impl Future<Output = ()> + Send + use<> {
        self.term().superseded.cancelled_owned()
    }

    /// Completes when the drain deadline has passed: end the connections that are left, so that what they have changed
    /// is in the farewell. The process exits a second later.
    pub fn overdue(&self) -> impl Future<Output = ()> + Send + use<> {
        self.term().overdue.cancelled_owned()
    }

    /// Completes when this process is superseded, and then its counted connections have ended or its drain deadline has
    /// passed. A server that ends idle connections as soon as its graceful shutdown begins, when the next
    /// request may be on its way, is told to by this: it then has none left, or no time.
    pub fn drained(&self) -> impl Future<Output = ()> + Send + use<> {
        let (superseded, overdue, connections) = (self.superseded(), self.overdue(), self.connections.clone());
        async move {
            superseded.await;
            ::tokio::select! {
                () = connections.wait() => {}
                () = overdue => {}
            }
        }
    }

    /// How many connections are counted.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Counts a connection, or a job, that did not come from an [`Acceptor`](super::Acceptor), until what this
    /// returns is dropped: the drain waits for it.
    pub fn count(&self) -> Counted {
        Counted(self.connections.token())
    }

    /// Has a new process take over, and waits for the outcome.
    ///
    /// # Errors
    ///
    /// As [`crate::Handle::upgrade`].
    pub async fn upgrade(&self) -> Result<Attempt> {
        let (sender, outcome) = oneshot::channel();
        // Whoever asked may have gone.
        self.generation.call_upgrade(Box::new(move |attempt| drop(sender.send(attempt))))?;
        outcome.await.map_err(|_| Error::Closed)
    }

    /// Stops the service.
    pub fn stop(&self) {
        self.generation.ask_stop();
    }

    /// [`crate::Handle::register`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register(&self, name: &str, fd: &impl AsFd) -> Result<()> {
        self.register_group(name, [fd])
    }

    /// [`crate::Handle::register_group`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register_group<'a, T: AsFd + 'a>(&self, name: &str, fds: impl IntoIterator<Item = &'a T>) -> Result<()> {
        registry::register_group(&self.registry, &self.generation, name, fds)
    }

    /// [`crate::Handle::forget`].
    pub fn forget(&self, name: &str) -> bool {
        registry::forget(&self.registry, &self.generation, name)
    }

    pub(super) fn term(&self) -> Term {
        self.term.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Nothing more is accepted here from now on, until the term ends that this returns.
    pub(super) fn shut(&self) -> Term {
        let term = self.term();
        // First: a server that ends with its listener has been superseded, and has not stopped by itself.
        term.superseding.cancel();
        self.registry.shut();
        self.connections.close();
        term
    }

    /// Says so. By now this process may serve again, and has begun another term.
    pub(super) fn tell(&self, term: &Term) {
        term.superseded.cancel();
        // Elsewhere: the release need not wait for what may be thousands of tasks.
        let registry = self.registry.clone();
        ::tokio::spawn(async move { registry.tell() });
    }
}
