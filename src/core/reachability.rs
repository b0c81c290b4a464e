//! Whether the control socket's path leads to this service, and what to do where it does not.
//!
//! Whoever looks says what it has seen, and does what it is told. Only the owner of the service looks, and only while no
//! handoff is under way: of two processes that put a socket there, one would be in the other's way.

use std::time::{Duration, Instant};

use super::wire::FileId;

/// When to look again at what is in the way, and try again what has failed: later each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// What the owner of a service knows of its control path.
#[derive(Debug, Default)]
pub struct Reachability {
    lost: Option<Lost>,
}

#[derive(Debug)]
struct Lost {
    reason: String,
    /// What is in the way.
    found: Option<FileId>,
    /// The attempt to put it back has failed: what happens there meanwhile may be its own doing.
    failed: bool,
    pause: Duration,
    again_at: Instant,
}

/// What a look at the path has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// This service.
    Ours,
    /// Nothing.
    Nothing,
    /// A socket that nobody listens on.
    Stale(FileId),
    /// A socket that somebody else listens on.
    Taken(FileId),
    /// The path cannot be reached, or leads to what is no socket.
    Barred(String),
}

/// What follows from a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathStep {
    /// Nothing that is not known.
    Nothing,
    /// The path is to be put back.
    PutBack,
    /// The path is lost, or for another reason than before: that is to be said.
    Lost,
    /// It leads to this service again.
    Found,
}

impl Reachability {
    /// Why the path does not lead here, if it does not.
    pub fn lost(&self) -> Option<&str> {
        self.lost.as_ref().map(|lost| lost.reason.as_str())
    }

    /// When to look again, though nothing tells of a change.
    pub fn deadline(&self) -> Option<Instant> {
        self.lost.as_ref().map(|lost| lost.again_at)
    }

    /// Whether a change at the path is a reason to look before that.
    pub fn heeds_changes(&self) -> bool {
        self.lost.as_ref().is_none_or(|lost| !lost.failed)
    }

    /// Whether to see who listens on what was found there. One that is known is left in peace for a while.
    pub fn may_probe(&self, now: Instant, found: FileId) -> bool {
        self.lost.as_ref().is_none_or(|lost| lost.found != Some(found) || lost.again_at <= now)
    }

    /// Takes in what a look has found.
    // M132
    pub fn saw(&mut self, now: Instant, sight: Sight) -> PathStep {
        match sight {
            Sight::Ours if self.lost.take().is_some() => PathStep::Found,
            Sight::Ours => PathStep::Nothing,
            Sight::Nothing => PathStep::PutBack,
            // Whoever has just bound it is about to listen: it is replaced if it is the same a moment later.
            Sight::Stale(found) if self.has_waited_for(now, found) => PathStep::PutBack,
            Sight::Stale(found) => self.lose(now, Some(found), "a socket is there that nobody listens on", false),
            Sight::Taken(found) => self.lose(now, Some(found), "another process listens there", false),
            Sight::Barred(reason) => self.lose(now, None, &reason, false),
        }
    }

    /// It was put back.
    pub fn restored(&mut self) {
        self.lost = None;
    }

    /// It could not be put back.
    pub fn failed(&mut self, now: Instant, reason: &str) -> PathStep {
        let found = self.lost.as_ref().and_then(|lost| lost.found);
        self.lose(now, found, reason, true)
    }

    fn has_waited_for(&self, now: Instant, found: FileId) -> bool {
        self.lost.as_ref().is_some_and(|lost| lost.found == Some(found) && lost.again_at <= now)
    }

    fn lose(&mut self, now: Instant, found: Option<FileId>, reason: &str, failed: bool) -> PathStep {
        let before = self.lost.take();
        let is_news = before.as_ref().is_none_or(|before| before.reason != reason);
        let same = before.filter(|before| before.found == found);
        let (pause, again_at) = match same {
            // Whoever asks in between does not put it off.
            Some(before) if now < before.again_at => (before.pause, before.again_at),
            Some(before) => {
                let pause = (before.pause * 2).min(LAST_PAUSE);
                (pause, now + pause)
            }
            None => (FIRST_PAUSE, now + FIRST_PAUSE),
        };
        self.lost = Some(Lost { reason: reason.to_owned(), found, failed, pause, again_at });
        if is_news { PathStep::Lost } else { PathStep::Nothing }
    }
}
