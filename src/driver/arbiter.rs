//! Who owns the service, where several processes could: the lock that the kernel takes from a process when it dies.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::sys::file;

/// A file that every generation has, and this process's own description of it. **Whoever accepts holds an exclusive lock
/// on it**, of the kind that belongs to the description (`F_OFD_SETLK`, see `fcntl(2)`): children that share the
/// descriptor share the lock, other processes do not.
#[derive(Debug)]
pub(crate) struct Arbiter {
    /// What is handed over. Nobody locks by it: its description is everybody's.
    shared: Arc<OwnedFd>,
    own: File,
    /// Whether the predecessor has it, too, and so cannot take back while another process holds the lock.
    inherited: bool,
}

impl Arbiter {
    /// One for a service whose predecessors have none.
    pub(crate) fn new() -> io::Result<Arbiter> {
        Arbiter::open(file::memfd(c"fd-handoff-owner")?.into(), false)
    }

    /// The predecessor's. It fails where there is no `/proc`.
    pub(crate) fn inherited(shared: OwnedFd) -> io::Result<Arbiter> {
        Arbiter::open(shared, true)
    }

    fn open(shared: OwnedFd, inherited: bool) -> io::Result<Arbiter> {
        let own = file::reopen(shared.as_fd())?;
        Ok(Arbiter { shared: Arc::new(shared), own, inherited })
    }

    pub(crate) fn is_inherited(&self) -> bool {
        self.inherited
    }

    pub(crate) fn shared(&self) -> &Arc<OwnedFd> {
        &self.shared
    }

    /// Takes the lock, unless another process holds it. Where the kernel can say neither, the rule for two processes
    /// holds: whoever sees that the other is dead owns the service.
    pub(crate) fn claim(&self) -> bool {
        file::lock_own(&self.own).unwrap_or_else(|error| {
            tracing::error!(event = "arbiter_failed", %error, "cannot take the lock of the owner");
            true
        })
    }

    pub(crate) fn disclaim(&self) {
        if let Err(error) = file::unlock_own(&self.own) {
            tracing::error!(event = "arbiter_failed", %error, "cannot give the lock of the owner back");
        }
    }
}

/// Without `/proc` there is no lock of the owner, and the rule for two processes has to do.
pub(crate) fn or_none(arbiter: io::Result<Arbiter>) -> Option<Arc<Arbiter>> {
    let failed = |error: &io::Error| {
        tracing::warn!(event = "arbiter_failed", %error, "there is no lock of the owner");
    };
    arbiter.inspect_err(failed).ok().map(Arc::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_until_it_gives_it_up_or_is_gone() {
        let first = Arbiter::new().unwrap();
        let second = Arbiter::inherited(first.shared().try_clone().unwrap()).unwrap();
        assert!(first.claim());
        assert!(first.claim(), "whoever holds it may take it again");
        assert!(!second.claim());
        first.disclaim();
        assert!(second.claim());
        assert!(!first.claim());
        drop(second);
        assert!(first.claim());
    }
}
