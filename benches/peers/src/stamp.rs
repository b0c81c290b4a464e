//! Events on standard output, one a line: `NAME PID NANOSECONDS`, by a clock that all processes share.

use std::io::Write;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The time since the machine began. `CLOCK_MONOTONIC` is the same in every process, see `clock_gettime(2)`.
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Says that something has happened, now. The names:
///
/// - `main`: the first line of a generation's `main`
/// - `serving`: a generation accepts on every listener
/// - `told`: a generation has heard that another one serves in its place
/// - `stopped`: a generation accepts on none of its listeners any more
/// - `arrived`: a generation has the state that it was given, and has not looked at it yet
/// - `state`: a generation has read the whole of the state that it was given
pub fn stamp(event: &str) {
    let at = now().as_nanos();
    // One write, so that lines of several processes do not mix, see `pipe(7)`. Nobody may be listening any more.
    let _ = std::io::stdout().write_all(format!("{event} {} {at}\n", std::process::id()).as_bytes());
}
