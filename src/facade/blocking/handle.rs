//! What other threads can do with a service.

use std::sync::mpsc;

use crate::core::wire::Attempt;
use crate::error::{Error, Result};
use crate::facade::form::{self, Blocking};

/// What other threads can do with a service.
///
/// What does not wait is said once for both forms, by [`form::Handle`].
pub type Handle = form::Handle<Blocking>;

impl Handle {
    /// Has a new process take over, and waits for the outcome. Not to be called on the thread that is in
    /// [`Handoff::superseded`](crate::Handoff::superseded).
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with the code `busy` where an upgrade or a handoff is under way, or this process does not
    /// serve yet.
    pub fn upgrade(&self) -> Result<Attempt> {
        let (sender, outcome) = mpsc::channel();
        let tell = Box::new(move |attempt| drop(sender.send(attempt)));
        self.seat.call_upgrade(tell)?;
        outcome.recv().map_err(|_| Error::Closed)
    }

    /// Nothing more is accepted here from now on.
    pub(super) fn supersede(&self) {
        self.term.supersede();
        self.registry.shut();
    }
}
