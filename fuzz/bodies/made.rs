//! What more than one of the fuzzers makes up.

use std::time::Duration;

use fd_handoff::core::Waits;
use fd_handoff::core::wire::{Attempt, Ending, Frame, Offer, ServerFrame};

pub(crate) const WAITS: Waits = Waits {
    offer: Duration::from_secs(60),
    transfer: Duration::from_secs(10),
    ready: Duration::from_secs(60),
    release: Duration::from_secs(30),
    active: Duration::from_secs(5),
    drain: Duration::from_secs(30),
    probation: Duration::ZERO,
};

pub(crate) fn offer() -> Offer {
    Offer {
        protocol: 1,
        generation: 3,
        pid: 4100,
        pidfd: true,
        descriptors: 0,
        batches: 0,
        state: None,
        path: None,
        ready_timeout_ms: 60_000,
        active_timeout_ms: 5_000,
        drain_timeout_ms: 30_000,
        history: vec![],
        instance: None,
        superseded: vec![],
    }
}

/// What may get more fields is made from a line, as it comes.
pub(crate) fn read(line: &str) -> ServerFrame {
    ServerFrame::parse(line.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn attempt() -> Attempt {
    let line = r#"{"type":"outcome","from":1,"successor_pid":1,"outcome":"failed","began_unix_ms":1,"total_us":1}"#;
    match read(line) {
        ServerFrame::Concluded(concluded) => concluded.attempt,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn ending(number: u8) -> Ending {
    [Ending::HandedOver, Ending::Stopped, Ending::Unknown][usize::from(number) % 3]
}

/// Up to an hour.
pub(crate) fn duration(argument: u8) -> Duration {
    Duration::from_millis([0, 1, 250, 1_000, 5_000, 10_000, 30_000, 3_600_000][usize::from(argument & 7)])
}
