//! How large a model is, and what may happen in it.

use crate::mistake::Mistake;

/// One model: a kernel, a number of successors, and what may go wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    /// Each successor, and how often it may look for the service.
    pub(crate) attempts: &'static [u8],
    /// Both sides have a pidfd of the other.
    pub(crate) pidfds: bool,
    /// The predecessor may kill its successor.
    pub(crate) may_fence: bool,
    /// Every process has the lock of the owner. Without it, a generation settles before it offers anything.
    pub(crate) arbiter: bool,
    /// How many things may go wrong.
    pub(crate) faults: u8,
    /// Processes may be killed, from outside.
    pub(crate) crashes: bool,
    /// An owner may find that it cannot serve: it says so to a predecessor that still drains, and ends.
    pub(crate) failures: bool,
    /// A release may be one that the kernel does not take for now.
    pub(crate) jams: bool,
    /// Processes may be stopped by SIGSTOP, and continued.
    pub(crate) silences: bool,
    /// Those that serve may stop in good order, and successors may give up.
    pub(crate) stops: bool,
    /// A side may close its connection without a word, and live.
    pub(crate) hang_ups: bool,
    /// A successor that serves may itself hand over.
    pub(crate) chains: bool,
    /// The last of them is a keeper, which serves nobody.
    pub(crate) keeper: bool,
    /// Both sides may tell how far they are: the successor initialises, the predecessor drains.
    pub(crate) reports: bool,
    pub(crate) mistake: Option<Mistake>,
}

impl Setting {
    /// Of faults.
    pub(crate) const ANY_NUMBER: u8 = u8::MAX;

    /// Whether this process is the keeper.
    pub(crate) fn is_keeper(&self, who: usize) -> bool {
        self.keeper && who == self.attempts.len()
    }

    pub(crate) fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }
}
