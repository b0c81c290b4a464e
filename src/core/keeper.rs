//! What a keeper decides: whether a state is still given that one process after the other has died of.

use super::wire::ErrorCode;
use super::{Cause, Peer};

/// How often a process may die of a state. `0`: it is never given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StateTries {
    limit: u32,
    died: u32,
}

impl StateTries {
    /// None has died.
    pub fn new(limit: u32) -> StateTries {
        StateTries { limit, died: 0 }
    }

    /// Whether the state is given.
    // M175
    pub fn gives(&self) -> bool {
        self.died < self.limit
    }

    /// There is another state, which nobody has died of.
    pub fn renew(&mut self) {
        self.died = 0;
    }

    /// A process that had everything did not take the service. Returns whether the state is left out from here on, and was
    /// not before.
    // M175
    pub fn failed(&mut self, cause: &Cause) -> bool {
        if !is_of_the_state(cause) {
            return false;
        }
        self.died = self.died.saturating_add(1);
        self.died == self.limit
    }
}

/// Whether a process may have ended because of the state: it crashed, or says that it cannot read it. One that gives up for
/// another reason of its own has nothing to do with it.
fn is_of_the_state(cause: &Cause) -> bool {
    match cause {
        Cause::Died(Peer::Successor) | Cause::Closed(Peer::Successor) => true,
        Cause::Aborted { code, .. } => *code == ErrorCode::Schema,
        _ => false,
    }
}
