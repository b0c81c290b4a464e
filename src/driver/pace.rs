//! How much of what others send is taken in before it is somebody else's turn.

use std::time::{Duration, Instant};

/// How long whoever has sent too much waits for his next turn, so that he takes none of the others' time: that of the
/// application first of all. What else he says waits in the kernel.
const PAUSE: Duration = Duration::from_millis(2);

/// Counts what is taken in from one source (a token bucket).
#[derive(Debug)]
pub(super) struct Pace {
    a_turn: u32,
    at_once: u32,
    left: u32,
    since: Option<Instant>,
}

impl Pace {
    /// `a_turn`: how much may come every two milliseconds. `at_once`: how much may, after a time without any.
    pub(super) const fn new(a_turn: u32, at_once: u32) -> Pace {
        Pace { a_turn, at_once, left: at_once, since: None }
    }

    /// One more was taken in. Returns until when to pause, if it was the last for now.
    // M146
    pub(super) fn take(&mut self, now: Instant) -> Option<Instant> {
        let since = *self.since.get_or_insert(now);
        let turns = now.duration_since(since).as_nanos() / PAUSE.as_nanos();
        if turns > 0 {
            let more = self.a_turn.saturating_mul(u32::try_from(turns).unwrap_or(u32::MAX));
            (self.left, self.since) = (self.left.saturating_add(more).min(self.at_once), Some(now));
        }
        self.left = self.left.saturating_sub(1);
        (self.left == 0).then(|| now + PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // M146
    #[test]
    fn whoever_sends_without_end_is_one_of_many() {
        let (mut pace, mut now) = (Pace::new(8, 100), Instant::now());
        let end = now + Duration::from_secs(1);
        let (mut taken, mut turns) = (0, 0);
        while now < end {
            taken += 1;
            if let Some(until) = pace.take(now) {
                (turns, now) = (turns + 1, until);
            }
        }
        assert_eq!((taken, turns), (100 + 499 * 8, 500));
    }

    #[test]
    fn whoever_sends_now_and_then_is_not_held_up() {
        let (mut pace, mut now) = (Pace::new(8, 8), Instant::now());
        for _ in 0..1_000 {
            now += PAUSE / 6;
            assert_eq!(pace.take(now), None);
        }
    }

    /// A process that was stopped for a while finds all of it at once.
    #[test]
    fn what_has_come_in_a_long_time_is_taken_in_at_once() {
        let (mut pace, now) = (Pace::new(8, 100), Instant::now());
        assert_eq!((0..99).find_map(|_| pace.take(now)), None);
        assert_eq!(pace.take(now), Some(now + PAUSE));
        let later = now + Duration::from_secs(1);
        assert_eq!((0..99).find_map(|_| pace.take(later)), None);
    }
}
