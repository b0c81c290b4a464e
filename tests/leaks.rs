//! A hundred handoffs leave nothing behind. In a process of its own: it counts what is open.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs::File;
use std::os::fd::AsFd;
use std::thread::scope;

use common::raw::Raw;
use common::{Form, Place, cause, config, pipe, place};
use fd_handoff::{Cause, Offer, State};

#[test]
fn a_hundred_handoffs_leak_nothing() {
    let forms = [(Form::Blocking, Form::Blocking), (Form::Blocking, Form::last()), (Form::last(), Form::last())];
    // What is opened once and kept: by the standard library, by the kernel's first use of a facility.
    // The mixed pairing runs in both directions: each completed handoff turns the roles round.
    for (old, new) in forms {
        handoffs(old, new, 2);
    }
    let before = open();
    for (old, new) in forms {
        handoffs(old, new, 34);
        assert_eq!(open(), before);
    }
}

/// So many handoffs, completed and failed ones in turn, and the service's end.
fn handoffs(mut old: Form, mut new: Form, count: u32) {
    let Place { directory: _directory, path } = place();
    let (out, into) = pipe();
    let fds = [out.as_fd(), into.as_fd()];
    let offer = || Offer::new().group("pipe", &fds).state(State::bytes("snapshot"));
    let mut control = old.listen(config(&path)).unwrap();
    for number in 0..count {
        match number % 8 {
            // The successor's application gives up.
            1 => scope(|scope| {
                let successor = scope.spawn(|| drop(new.receive(config(&path)).unwrap()));
                let failure = control.give(offer(), None).map(drop).unwrap_err();
                assert!(matches!(cause(&failure), Cause::Aborted { .. }), "{failure}");
                successor.join().unwrap();
            }),
            // It hangs up in the middle of a batch.
            3 => scope(|scope| {
                let given = scope.spawn(|| control.give(offer(), None).map(drop).unwrap_err());
                let mut raw = Raw::receive(&path);
                raw.expect("offer");
                raw.byte(&mut Vec::new()).unwrap();
                drop(raw);
                assert!(matches!(cause(&given.join().unwrap()), Cause::Closed(_)));
            }),
            // This side's application refuses.
            5 => scope(|scope| {
                let successor = scope.spawn(|| new.receive(config(&path)).unwrap().ready().map(drop).unwrap_err());
                control.accept().unwrap().offer(offer()).unwrap().refuse("not now");
                successor.join().unwrap();
            }),
            // What arrives cannot be used.
            7 => scope(|scope| {
                let successor = scope.spawn(|| new.receive(config(&path).schemas([3])).map(drop).unwrap_err());
                control.give(offer(), None).map(drop).unwrap_err();
                successor.join().unwrap();
            }),
            _ => {
                let next = scope(|scope| {
                    let successor = scope.spawn(|| {
                        let mut inheritance = new.receive(config(&path)).unwrap();
                        assert_eq!(inheritance.take_all::<File>("pipe").unwrap().len(), 2);
                        inheritance.ready().unwrap()
                    });
                    let released = control.give(offer(), Some(State::bytes("final"))).unwrap();
                    released.farewell(Some(State::bytes("farewell"))).unwrap();
                    successor.join().unwrap()
                });
                // Half of the states are never looked at.
                if number % 4 == 0 {
                    assert!(next.final_state().unwrap().is_some());
                    while next.farewell().unwrap().is_some() {}
                }
                std::mem::replace(&mut control, next).close();
                std::mem::swap(&mut old, &mut new);
            }
        }
    }
    control.close();
}

fn open() -> Vec<String> {
    let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    // The name alone identifies no memfd, socket or pipe, but a leak is one name more.
    let mut fds: Vec<String> =
        fds.filter_map(|fd| Some(std::fs::read_link(fd.path()).ok()?.display().to_string())).collect();
    fds.sort();
    fds
}
