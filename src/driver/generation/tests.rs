#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::thread::scope;

use super::*;
use crate::driver::place;
use crate::driver::reception::Reception;
use crate::sys::event::is_readable;

fn generation(path: &std::path::Path) -> Generation {
    let place = Place::open(path).unwrap();
    let listener = UnixListener::bind(path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let origin = Origin {
        lineage: crate::core::Lineage::default(),
        number: 1,
        paths: [place.look().unwrap(), None],
        unwanted: Vec::new(),
        named: Named::default(),
        operated: true,
        arbiter: None,
    };
    let generation = Generation::new(Config::new(path), place, listener, origin).unwrap();
    generation.own(Legacy::default());
    generation
}

/// Whoever says *stop* in a loop says it once, and once more: nothing grows, and the operator is not kept awake.
#[test]
fn a_stop_that_is_said_in_a_loop_is_one_request() {
    let directory = tempfile::tempdir().unwrap();
    let generation = generation(&directory.path().join("control.sock"));
    generation.listen();
    scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..10_000).for_each(|_| generation.ask_stop()));
        }
    });
    assert!(generation.is_stopping() && generation.is_to_end_now());
    assert_eq!(generation.take_notices().len(), 2);
    while is_readable(generation.requests.as_fd()) {
        generation.requests.lower();
    }
}

/// What is let go is closed, though its number stays.
#[test]
fn letting_go_closes_the_listener_and_what_else_is_held() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let generation = generation(&path);
    place::listen(generation.control().listener.as_fd()).unwrap();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    generation.holds(move |stand_in| {
        file::replace(held.as_fd(), stand_in);
        // Still there, and nobody's listener.
        std::mem::forget(held);
    });
    UnixStream::connect(&path).unwrap();
    generation.let_go();
    assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), io::ErrorKind::NotFound, "it owned the service");
    std::net::TcpListener::bind(address).unwrap();
    assert!(generation.has_let_go() && is_readable(generation.let_go.as_fd()));
}

// M106
#[test]
fn a_successor_that_comes_again_at_once_is_not_in_its_own_way() {
    use std::io::{Read, Write};

    const RECEIVE: &[u8] = br#"{"type":"receive","protocol":{"min":1,"max":1},"pid":4711,"version":"1","schemas":[]}"#;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let generation = Arc::new(generation(&path));
    let mut reception = Reception::new(Arc::clone(&generation), None, None).unwrap();
    let mut step = || {
        reception.step(Instant::now());
    };
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
        generation.no_successor();
        let mut heard = String::new();
        second.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "", "nothing against it");
    }
    let history: Vec<Outcome> = generation.history().iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(history, [Outcome::Failed; 3], "of those that hung up");
}
