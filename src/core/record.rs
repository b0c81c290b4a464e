//! Attempts at a handoff: the last few of them.

use std::collections::VecDeque;
use std::time::Duration;

use crate::core::wire::{Attempt, MAX_HISTORY};

pub(crate) fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap_or(u64::MAX)
}

/// Adds an attempt, and forgets the oldest where there are too many.
// M105
pub(crate) fn remember(history: &mut VecDeque<Attempt>, attempt: Attempt) {
    history.push_back(attempt);
    while history.len() > MAX_HISTORY {
        history.pop_front();
    }
}
