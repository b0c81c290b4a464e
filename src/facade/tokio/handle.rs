//! What other tasks can do with a service.

use ::tokio::sync::oneshot;

use super::form::Term;
use crate::core::wire::Attempt;
use crate::error::{Error, Result};
use crate::facade::form::{self, Tokio};

/// [`crate::Handle`] on tokio: what other tasks can do with a service.
///
/// What does not wait is said once for both forms, by [`form::Handle`].
pub type Handle = form::Handle<Tokio>;

impl Handle {
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

    /// Has a new process take over, and waits for the outcome.
    ///
    /// # Errors
    ///
    /// As [`crate::Handle::upgrade`].
    pub async fn upgrade(&self) -> Result<Attempt> {
        let (sender, outcome) = oneshot::channel();
        // Whoever asked may have gone.
        self.seat.call_upgrade(Box::new(move |attempt| drop(sender.send(attempt))))?;
        outcome.await.map_err(|_| Error::Closed)
    }

    pub(super) fn term(&self) -> Term {
        self.term.now()
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
