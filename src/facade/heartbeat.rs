//! What an application says of its own life, where a service manager waits for signs of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// One part of an application that has to be alive for the service to be: a thread that works jobs off, the loop of a task. See
/// [`Handle::heartbeat`](crate::form::Handle::heartbeat). Dropped, it is not asked for any more.
#[derive(Debug)]
pub struct Heartbeat(Arc<AtomicBool>);

impl Heartbeat {
    /// Says that this part is alive. It costs next to nothing: call it in each turn of a loop, and at least four times in
    /// `WATCHDOG_USEC` (`WatchdogSec=` of the unit).
    pub fn beat(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The heartbeats of one application.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hearts(Arc<Mutex<Vec<Weak<AtomicBool>>>>);

impl Hearts {
    /// Another one. It counts as alive until it is asked for the first time.
    pub(crate) fn begin(&self) -> Heartbeat {
        let heart = Arc::new(AtomicBool::new(true));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&heart));
        Heartbeat(heart)
    }

    /// Whether each of them has beaten since the last time that all had.
    pub(crate) fn all_beat(&self) -> bool {
        let mut hearts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hearts.retain(|heart| heart.strong_count() > 0);
        let alive: Vec<_> = hearts.iter().filter_map(Weak::upgrade).collect();
        let all = alive.iter().all(|heart| heart.load(Ordering::Acquire));
        if all {
            alive.iter().for_each(|heart| heart.store(false, Ordering::Release));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_that_there_is_has_to_beat_each_time() {
        let hearts = Hearts::default();
        assert!(hearts.all_beat(), "there is none");
        let (one, other) = (hearts.begin(), hearts.begin());
        assert!(hearts.all_beat(), "they have just begun");
        one.beat();
        assert!(!hearts.all_beat());
        other.beat();
        assert!(hearts.all_beat(), "the one has beaten since the last time that all had");
        assert!(!hearts.all_beat());
        other.beat();
        drop(one);
        assert!(hearts.all_beat(), "what is gone is not asked for");
    }
}
