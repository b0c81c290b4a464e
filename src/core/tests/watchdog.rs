//! Signs of life: whose they are, and when they are given.

use std::time::{Duration, Instant};

use crate::core::Watchdog;

const EVERY: Duration = Duration::from_secs(8);

#[test]
fn whoever_serves_gives_one_at_once_and_then_in_each_interval() {
    let (mut watchdog, now) = (Watchdog::new(Some(EVERY)), Instant::now());
    assert_eq!(watchdog.deadline(), None, "it does not serve");
    watchdog.serves(now);
    assert!(watchdog.is_due(now));
    watchdog.looked(now, true);
    assert_eq!(watchdog.deadline(), Some(now + EVERY));
    assert!(!watchdog.is_due(now + EVERY / 2) && watchdog.is_due(now + EVERY));
    watchdog.superseded();
    assert_eq!(watchdog.deadline(), None);
    watchdog.serves(now + 2 * EVERY);
    assert!(watchdog.is_due(now + 2 * EVERY), "it has taken the service back");
}

#[test]
fn one_that_is_late_is_looked_at_again_soon() {
    let (mut watchdog, now) = (Watchdog::new(Some(EVERY)), Instant::now());
    watchdog.serves(now);
    watchdog.looked(now, false);
    assert_eq!(watchdog.deadline(), Some(now + EVERY / 8));
}

#[test]
fn nobody_is_woken_where_nobody_waits_for_them() {
    let (mut watchdog, now) = (Watchdog::new(None), Instant::now());
    watchdog.serves(now);
    assert_eq!(watchdog.deadline(), None);
    assert!(!watchdog.is_due(now + EVERY));
}
