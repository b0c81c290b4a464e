//! How long the steps of an attempt take: the clocks that [`crate::core`] does not read.

use std::time::{Instant, SystemTime};

use crate::core::record::micros;
use crate::core::wire::{Attempt, Outcome};

/// When one attempt reached which step.
#[derive(Debug)]
pub(crate) struct Laps {
    pub(crate) began: Instant,
    pub(crate) transferred: Option<Instant>,
    pub(crate) ready: Option<Instant>,
    pub(crate) released: Option<Instant>,
    pub(crate) active: Option<Instant>,
}

impl Laps {
    pub(crate) fn new(began: Instant) -> Laps {
        Laps { began, transferred: None, ready: None, released: None, active: None }
    }

    /// An attempt that ends now.
    pub(crate) fn attempt(&self, from: u64, successor_pid: u32, outcome: Outcome) -> Attempt {
        let total = self.began.elapsed();
        let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().saturating_sub(total);
        Attempt {
            from,
            successor_pid,
            instance: None,
            outcome,
            reason: None,
            began_unix_ms: began.as_millis() as u64,
            total_us: micros(total),
            transfer_us: self.transfer_us(),
            initialise_us: self.initialise_us(),
            release_us: self.release_us(),
            pause_us: self.pause_us(),
            drain_us: None,
        }
    }

    pub(crate) fn transfer_us(&self) -> Option<u64> {
        lap(Some(self.began), self.transferred)
    }

    pub(crate) fn initialise_us(&self) -> Option<u64> {
        lap(self.transferred, self.ready)
    }

    pub(crate) fn release_us(&self) -> Option<u64> {
        lap(self.ready, self.released)
    }

    pub(crate) fn pause_us(&self) -> Option<u64> {
        lap(self.released, self.active)
    }
}

fn lap(from: Option<Instant>, to: Option<Instant>) -> Option<u64> {
    Some(micros(to?.saturating_duration_since(from?)))
}
