#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::thread::scope;

use super::*;
use crate::sys::event::is_readable;

/// A count that is ahead of its queue stays so, and whoever waits for it would spin.
#[test]
fn what_has_been_taken_is_no_longer_counted() {
    const MANY: usize = 10_000;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let place = Place::open(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let origin = Origin { number: 1, path: None, named: Named::default(), operated: true };
    let generation = Generation::new(Config::new(&path), place, listener, origin).unwrap();
    scope(|scope| {
        scope.spawn(|| (0..MANY).for_each(|_| generation.ask_stop()));
        let mut taken = 0;
        while taken < MANY {
            taken += usize::from(generation.try_request().is_some());
        }
    });
    assert!(!is_readable(generation.requests.as_fd()));
}
