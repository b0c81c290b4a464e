#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::thread::scope;

use super::*;
use crate::driver::reception::Reception;
use crate::sys::event::is_readable;

/// A count that is ahead of its queue stays so, and whoever waits for it would spin.
#[test]
fn what_has_been_taken_is_no_longer_counted() {
    const MANY: usize = 10_000;
    let directory = tempfile::tempdir().unwrap();
    let generation = generation(&directory.path().join("control.sock"));
    scope(|scope| {
        scope.spawn(|| (0..MANY).for_each(|_| generation.ask_stop()));
        let mut taken = 0;
        while taken < MANY {
            taken += usize::from(generation.try_request().is_some());
        }
    });
    assert!(!is_readable(generation.requests.as_fd()));
}

fn generation(path: &std::path::Path) -> Generation {
    let place = Place::open(path).unwrap();
    let listener = UnixListener::bind(path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let origin = Origin { number: 1, path: None, named: Named::default(), operated: true };
    Generation::new(Config::new(path), place, listener, origin).unwrap()
}

// M106
#[test]
fn a_successor_that_comes_again_at_once_is_not_in_its_own_way() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    const RECEIVE: &[u8] = br#"{"type":"receive","protocol":{"min":1,"max":1},"pid":4711,"version":"1","schemas":[]}"#;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let generation = Arc::new(generation(&path));
    let mut reception = Reception::new(Arc::clone(&generation)).unwrap();
    let mut step = || {
        reception.step(Instant::now());
    };
    generation.open();
    step();
    let ask = || {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(&[RECEIVE, b"\n"].concat()).unwrap();
        stream
    };
    for _ in 0..3 {
        let first = ask();
        step();
        assert_eq!(generation.board().arrivals.len(), 1);
        // Both happen while the background sleeps.
        drop(first);
        let mut second = ask();
        step();
        assert_eq!(generation.board().arrivals.len(), 1, "the second one");
        generation.board().arrivals.clear();
        generation.board().no_successor();
        let mut heard = String::new();
        second.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "", "nothing against it");
    }
    let history: Vec<Outcome> = generation.board().history.iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(history, [Outcome::Failed; 3], "of those that hung up");
}
