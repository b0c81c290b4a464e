//! Who owns the service, where several processes could: the lock that the kernel takes from a process when it dies.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::sys::file::{self, Range};

/// What the owner locks: the bytes in which its generation is.
const OWNER: Range = Range { start: 0, length: 8 };
/// What everybody locks together who may become the owner: a keeper waits for them.
const HEIRS: Range = Range { start: 8, length: 1 };

/// A file that every generation has, and this process's own description of it. **Whoever accepts holds an exclusive lock
/// on it**, of the kind that belongs to the description (`F_OFD_SETLK`, see `fcntl(2)`): children that share the
/// descriptor share the lock, other processes do not. In the file is the generation of the last who held it: between
/// two owners nobody does. Whoever may become the owner, if the owner dies, holds a shared one as well, see [`Arbiter::claim_last`].
#[derive(Debug)]
pub(crate) struct Arbiter {
    /// What is handed over. Nobody locks by it: its description is everybody's.
    shared: Arc<OwnedFd>,
    own: File,
    /// The generation of this process.
    generation: u64,
    /// Whether the predecessor has it, too, and so cannot take back while another process holds the lock.
    inherited: bool,
}

impl Arbiter {
    /// One for a service whose predecessors have none.
    pub(crate) fn new(generation: u64) -> io::Result<Arbiter> {
        let arbiter = Arbiter::open(file::memfd(c"fd-handoff-owner")?.into(), generation, false)?;
        file::lock_shared(&arbiter.own, HEIRS)?;
        Ok(arbiter)
    }

    /// The predecessor's. It fails where there is no `/proc`.
    pub(crate) fn inherited(shared: OwnedFd, generation: u64) -> io::Result<Arbiter> {
        let arbiter = Arbiter::kept(shared, generation)?;
        file::lock_shared(&arbiter.own, HEIRS)?;
        Ok(arbiter)
    }

    /// The owner's, for a keeper of it.
    pub(crate) fn kept(shared: OwnedFd, generation: u64) -> io::Result<Arbiter> {
        let arbiter = Arbiter::open(shared, generation, true)?;
        // What will be asked while nobody accepts is asked once before: whether the kernel lets us, and for the first time.
        file::is_locked(&arbiter.own, OWNER)?;
        arbiter.is_left_behind()?;
        Ok(arbiter)
    }

    fn open(shared: OwnedFd, generation: u64, inherited: bool) -> io::Result<Arbiter> {
        let own = file::reopen(shared.as_fd())?;
        Ok(Arbiter { shared: Arc::new(shared), own, generation, inherited })
    }

    pub(crate) fn is_inherited(&self) -> bool {
        self.inherited
    }

    pub(crate) fn shared(&self) -> &Arc<OwnedFd> {
        &self.shared
    }

    /// Takes the lock, unless another process holds it, or has held it for a service that has gone on without this one.
    /// Where the kernel cannot say, the rule for two processes holds: whoever sees that the other is dead owns the service.
    pub(crate) fn claim(&self) -> Claim {
        self.try_claim().unwrap_or_else(|error| {
            tracing::error!(event = "arbiter_failed", %error, "cannot take the lock of the owner");
            Claim::Ours
        })
    }

    fn try_claim(&self) -> io::Result<Claim> {
        if !file::lock_own(&self.own, OWNER)? {
            return Ok(if self.is_left_behind()? { Claim::Lost } else { Claim::Held });
        }
        if self.is_left_behind()? {
            file::unlock_own(&self.own, OWNER)?;
            return Ok(Claim::Lost);
        }
        Ok(Claim::Ours)
    }

    /// As [`Arbiter::claim`], for a keeper: whoever can serve comes first, and is waited for. Somebody who initialises when the
    /// owner dies takes its place when it is ready, and somebody who drains does so at once.
    // M173
    pub(crate) fn claim_last(&self) -> Claim {
        let heirs = file::is_locked(&self.own, HEIRS);
        let heirs = heirs.unwrap_or_else(|error| {
            tracing::error!(event = "arbiter_failed", %error, "cannot see who may become the owner");
            false
        });
        if heirs { Claim::Held } else { self.claim() }
    }

    /// This process will not become the owner any more.
    pub(crate) fn renounce(&self) {
        if let Err(error) = file::unlock_own(&self.own, HEIRS) {
            tracing::error!(event = "arbiter_failed", %error, "cannot renounce the service");
        }
    }

    /// Writes that this generation has owned the service. That can wait until it accepts: nobody gets the lock before.
    // M130
    pub(crate) fn sign(&self) {
        if let Err(error) = self.own.write_all_at(&self.generation.to_le_bytes(), 0) {
            tracing::error!(event = "arbiter_failed", %error, "cannot sign as the owner");
        }
    }

    /// Whether a process has owned the service to which this one has not handed over: a successor's successor.
    // M131
    fn is_left_behind(&self) -> io::Result<bool> {
        let mut last = [0; 8];
        match self.own.read_exact_at(&mut last, 0) {
            Ok(()) => Ok(u64::from_le_bytes(last) > self.generation.saturating_add(1)),
            // Nobody has written it: the first owner has yet to, or is of another make.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn disclaim(&self) {
        if let Err(error) = file::unlock_own(&self.own, OWNER) {
            tracing::error!(event = "arbiter_failed", %error, "cannot give the lock of the owner back");
        }
    }
}

/// What became of an attempt to take the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    Ours,
    /// Another process holds it: the owner, or for a moment a child of one that has died.
    Held,
    /// The service has gone on without this process.
    Lost,
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

    fn generation(number: u64, first: &Arbiter) -> Arbiter {
        Arbiter::inherited(first.shared().try_clone().unwrap(), number).unwrap()
    }

    #[test]
    fn one_holds_it_until_it_gives_it_up_or_is_gone() {
        let first = Arbiter::new(1).unwrap();
        let second = generation(2, &first);
        assert_eq!(first.claim(), Claim::Ours);
        assert_eq!(first.claim(), Claim::Ours, "whoever holds it may take it again");
        assert_eq!(second.claim(), Claim::Held);
        first.disclaim();
        assert_eq!(second.claim(), Claim::Ours);
        assert_eq!(first.claim(), Claim::Held);
        drop(second);
        assert_eq!(first.claim(), Claim::Ours);
    }

    #[test]
    // M173
    fn a_keeper_comes_after_everybody_who_could_serve() {
        let owner = Arbiter::new(1).unwrap();
        let heir = generation(2, &owner);
        let keeper = Arbiter::kept(owner.shared().try_clone().unwrap(), 2).unwrap();
        assert_eq!(owner.claim(), Claim::Ours);
        assert_eq!(keeper.claim_last(), Claim::Held);
        drop(owner);
        assert_eq!(keeper.claim_last(), Claim::Held, "an heir lives");
        heir.renounce();
        assert_eq!(keeper.claim_last(), Claim::Ours);
        assert_eq!(heir.claim(), Claim::Held);
    }

    #[test]
    // M130, M131
    fn between_two_later_owners_it_is_nobodys_and_yet_not_for_an_ancestor() {
        let first = Arbiter::new(1).unwrap();
        let [second, third, fourth] = [2, 3, 4].map(|number| generation(number, &first));
        for (owner, next) in [(&first, &second), (&second, &third)] {
            assert_eq!(owner.claim(), Claim::Ours);
            owner.sign();
            owner.disclaim();
            assert_eq!(next.claim(), Claim::Ours);
            next.sign();
        }
        assert_eq!(first.claim(), Claim::Lost, "held by its successor's successor");
        third.disclaim();
        assert_eq!(first.claim(), Claim::Lost, "on its way to the next");
        for owner in [fourth, third, second] {
            assert_eq!(
                owner.claim(),
                Claim::Ours,
                "one by one the service may come back, and no ancestor was in the way"
            );
            owner.sign();
        }
        assert_eq!(first.claim(), Claim::Ours);
    }
}
