//! Those who may not connect, in the log.

use std::time::{Duration, Instant};

use nix::sys::socket::UnixCredentials;

/// How often they are told of.
const TELL: Duration = Duration::from_secs(1);

/// Those who were turned away since the log has told of any: the first at once, and then all of a second in one line.
#[derive(Debug, Default)]
pub(super) struct Denials {
    count: u64,
    last: Option<UnixCredentials>,
    quiet_until: Option<Instant>,
}

impl Denials {
    pub(super) fn note(&mut self, peer: UnixCredentials) {
        self.count += 1;
        self.last = Some(peer);
    }

    /// When to tell, if there is anything to tell.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.quiet_until.filter(|_| self.count > 0)
    }

    pub(super) fn tell(&mut self, now: Instant, generation: u64) {
        if self.quiet_until.is_some_and(|until| now < until) {
            return;
        }
        let Some(peer) = self.last.take() else { return };
        let count = std::mem::take(&mut self.count);
        self.quiet_until = Some(now + TELL);
        let (uid, gid) = (peer.uid(), peer.gid());
        tracing::warn!(event = "denied", generation, uid, gid, count, "denied control connections");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_may_not_connect_are_told_of_once_a_second() {
        let (mut denials, now) = (Denials::default(), Instant::now());
        let peer = UnixCredentials::new();
        denials.note(peer);
        assert_eq!(denials.deadline(), None, "at once");
        denials.tell(now, 1);
        (0..3).for_each(|_| denials.note(peer));
        denials.tell(now, 1);
        assert_eq!((denials.count, denials.deadline()), (3, Some(now + TELL)));
        denials.tell(now + TELL, 1);
        assert_eq!((denials.count, denials.deadline()), (0, None));
    }
}
