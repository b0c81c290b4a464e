//! Predecessors by hand, and relays in between, against a successor: nothing is served that is not whole.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::scope;
use std::time::Duration;

use common::child::{self, Child, Parent};
use common::raw::{self, Raw, RawPredecessor, batch, hello, inode, own_pidfd};
use common::{
    Control, Form, Inheritance, PATIENCE, Place, Service, cause, config, forms, pairings, pipe, place, tcp_listener,
};
use fd_handoff::{Cause, Config, Error, ErrorCode, Owner, Peer, Result};
use serde_json::{Value, json};

pairings! {
    a_relay_that_strips_descriptors
}

forms! {
    a_complete_offer
    names_that_may_not_be
    a_manifest_that_does_not_match
    too_few_too_many_and_no_descriptors
    batches_that_contradict_the_offer
    offers_that_break_a_limit
    descriptors_where_none_belong
    no_control_listener
    a_protocol_of_the_future
    an_error_instead_of_an_offer
    an_abort_at_each_step
    garbage_at_each_step
    the_end_at_each_step
    a_frame_out_of_order_at_each_step
    a_predecessor_that_says_nothing
    killed_before_the_offer_is_complete
    killed_before_the_offer_is_complete_then_a_cold_start
    killed_when_the_offer_is_complete
    killed_while_the_successor_waits_for_release
}

/// A successor against a predecessor that says this.
fn against<T: Send>(
    form: Form,
    path: &Path,
    successor: impl FnOnce(Result<Inheritance>) -> T + Send,
    predecessor: impl FnOnce(&RawPredecessor),
) -> T {
    against_with(config(path), form, path, successor, predecessor)
}

fn against_with<T: Send>(
    config: Config,
    form: Form,
    path: &Path,
    successor: impl FnOnce(Result<Inheritance>) -> T + Send,
    predecessor: impl FnOnce(&RawPredecessor),
) -> T {
    let old = RawPredecessor::new(path);
    let done = scope(|scope| {
        let hasty = config.cold_start(false);
        let successor = scope.spawn(|| successor(form.receive(hasty)));
        predecessor(&old);
        // Whoever waits for more learns that there is none.
        successor.join().unwrap()
    });
    let _ = std::fs::remove_file(path);
    done
}

/// One batch, with entries and descriptors that may not fit each other, after an offer that announces as many
/// as there are entries. Returns the successor's error and what it says to its predecessor.
fn with_batch(
    form: Form,
    entries: impl FnOnce(&RawPredecessor) -> Vec<Value>,
    fds: &[BorrowedFd<'_>],
) -> (Error, Value) {
    let Place { directory: _directory, path } = place();
    let mut said = Value::Null;
    let error = against(
        form,
        &path,
        |received| received.map(drop).unwrap_err(),
        |old| {
            let mut raw = old.greet();
            let entries = entries(old);
            let count = u32::try_from(entries.len()).unwrap();
            raw.say_with(&raw::offer(count, 1, &Value::Null, true), &[own_pidfd().as_fd()]).unwrap();
            let fds: Vec<_> = std::iter::once(old.listener.as_fd()).chain(fds.iter().copied()).collect();
            raw.say_with(&batch(0, &entries), &fds).unwrap();
            said = raw.line().expect("a word of why").0;
            if said["type"] == "received" {
                said = raw.line().expect("a word of why").0;
            }
            raw.expect_end();
        },
    );
    assert_eq!(said["type"], "abort", "{said}");
    (error, said)
}

fn a_complete_offer(form: Form) {
    let Place { directory: _directory, path } = place();
    let (listener, (out, _into)) = (tcp_listener(), pipe());
    let addr = listener.local_addr().unwrap();
    let control = against(
        form,
        &path,
        |received| {
            let mut inheritance = received.unwrap();
            let listener: TcpListener = inheritance.take("http").unwrap().unwrap();
            assert_eq!(listener.local_addr().unwrap(), addr);
            assert!(inheritance.take::<std::fs::File>("pipe").unwrap().is_some());
            inheritance.ready().unwrap()
        },
        |old| {
            let mut raw = old.greet();
            raw.say_with(&raw::offer(3, 2, &Value::Null, true), &[own_pidfd().as_fd()]).unwrap();
            raw.say_with(&batch(0, &[old.control_entry()]), &[old.listener.as_fd()]).unwrap();
            assert_eq!(raw.expect("received")["batch"], 0);
            let entries = [
                json!({"name": "http", "kind": "tcp_listener", "addr": addr, "cookie": cookie(&listener)}),
                json!({"name": "pipe", "kind": "pipe", "later": true}),
            ];
            raw.say_with(&batch(1, &entries), &[listener.as_fd(), out.as_fd()]).unwrap();
            assert_eq!(raw.expect("received")["batch"], 1);
            raw.expect("ready");
            raw.say(&json!({"type": "release", "state": null, "monotonic_us": 0, "timens": null}));
            raw.expect("active");
            raw.say(&json!({"type": "farewell", "state": null, "more": false}));
        },
    );
    assert!(control.farewell().unwrap().is_none());
    assert_eq!(control.generation(), 2);
}

fn cookie(socket: impl AsFd) -> u64 {
    rustix::net::sockopt::socket_cookie(socket).unwrap()
}

fn names_that_may_not_be(form: Form) {
    let (a, b) = (tcp_listener(), tcp_listener());
    let entry = |name: &str, listener: &TcpListener| json!({"name": name, "kind": "tcp_listener", "addr": listener.local_addr().unwrap()});
    let twice = |old: &RawPredecessor| vec![old.control_entry(), entry("twice", &a), entry("twice", &b)];
    let (error, said) = with_batch(form, twice, &[a.as_fd(), b.as_fd()]);
    assert!(matches!(error, Error::Handoff(Cause::Violation(Peer::Predecessor, _))), "{error:?}");
    assert!(error.to_string().contains("twice"), "{error}");
    assert_eq!(said["code"], "malformed");

    let mut skipped = entry("skipped", &b);
    skipped["index"] = json!(2);
    let (error, _) =
        with_batch(form, |old| vec![old.control_entry(), entry("a", &a), skipped], &[a.as_fd(), b.as_fd()]);
    assert!(matches!(error, Error::Handoff(Cause::Violation(Peer::Predecessor, _))), "{error:?}");

    let long = "n".repeat(65);
    for name in ["a\u{1b}[2Jb", "new\nline", "", &long] {
        let (error, said) = with_batch(form, |old| vec![old.control_entry(), entry(name, &a)], &[a.as_fd()]);
        assert!(matches!(error, Error::Handoff(Cause::Garbled(Peer::Predecessor, _))), "{error:?}");
        assert!(!error.to_string().contains(char::is_control), "{error:?}");
        assert_eq!(said["code"], "malformed");
    }
}

fn a_manifest_that_does_not_match(form: Form) {
    let (listener, (out, _into)) = (tcp_listener(), pipe());
    let addr = listener.local_addr().unwrap().to_string();
    let (dev, ino) = {
        let stat = nix::sys::stat::fstat(&out).unwrap();
        (stat.st_dev, inode(&out))
    };
    for (entry, fd) in [
        (json!({"kind": "udp_socket", "addr": addr}), listener.as_fd()),
        (json!({"kind": "tcp_stream", "addr": addr}), listener.as_fd()),
        (json!({"kind": "a_kind_of_the_future", "addr": addr}), listener.as_fd()),
        (json!({"kind": "tcp_listener", "addr": "127.0.0.1:1"}), listener.as_fd()),
        (json!({"kind": "tcp_listener"}), listener.as_fd()),
        (json!({"kind": "tcp_listener", "addr": addr, "cookie": cookie(&listener) + 1}), listener.as_fd()),
        (json!({"kind": "file"}), out.as_fd()),
        (json!({"kind": "tcp_listener", "addr": addr}), out.as_fd()),
        (json!({"kind": "pipe", "file": {"dev": dev, "ino": ino + 1}}), out.as_fd()),
    ] {
        let mut named = entry.clone();
        named["name"] = json!("suspicious");
        let (error, said) = with_batch(form, |old| vec![old.control_entry(), named], &[fd]);
        assert!(matches!(error, Error::Handoff(Cause::Mismatch(_))), "{entry}: {error:?}");
        assert!(error.to_string().contains("\"suspicious\" is announced as"), "{error}");
        assert_eq!(said["code"], "descriptors", "{said}");
        assert!(said["reason"].as_str().unwrap().contains("suspicious"), "{said}");
    }
}

fn too_few_too_many_and_no_descriptors(form: Form) {
    let (a, b) = (tcp_listener(), tcp_listener());
    let entries = |old: &RawPredecessor| {
        let a = json!({"name": "a", "kind": "tcp_listener", "addr": a.local_addr().unwrap()});
        vec![old.control_entry(), a]
    };
    for (fds, count) in [(&[][..], 1), (&[a.as_fd(), b.as_fd()], 3)] {
        let (error, said) = with_batch(form, entries, fds);
        match error {
            Error::Handoff(Cause::DescriptorsLost { frame: "descriptors", expected: 2, arrived }) => {
                assert_eq!(arrived, count);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(said["code"], "descriptors");
    }
    let Place { directory: _directory, path } = place();
    let error = against(
        form,
        &path,
        |received| received.map(drop).unwrap_err(),
        |old| {
            let mut raw = old.greet();
            raw.say_with(&raw::offer(1, 1, &Value::Null, true), &[own_pidfd().as_fd()]).unwrap();
            raw.say(&batch(0, &[old.control_entry()]));
            raw.expect_error("abort", "descriptors");
        },
    );
    assert!(
        matches!(error, Error::Handoff(Cause::DescriptorsLost { frame: "descriptors", expected: 1, arrived: 0 })),
        "{error:?}"
    );
}

/// What a successor answers to an offer and a first batch, of the control listener alone, with these numbers.
fn with_numbers(form: Form, descriptors: u32, batches: u32, number: u32) -> Error {
    let Place { directory: _directory, path } = place();
    against(
        form,
        &path,
        |received| received.map(drop).unwrap_err(),
        |old| {
            let mut raw = old.greet();
            raw.say_with(&raw::offer(descriptors, batches, &Value::Null, true), &[own_pidfd().as_fd()]).unwrap();
            // It may have given up already.
            let _ = raw.say_with(&batch(number, &[old.control_entry()]), &[old.listener.as_fd()]);
            raw.expect_error("abort", "malformed");
        },
    )
}

fn batches_that_contradict_the_offer(form: Form) {
    for (descriptors, batches, number) in [(1, 1, 1), (2, 1, 0), (1, 0, 0), (0, 1, 0), (1, 2, 0)] {
        let error = with_numbers(form, descriptors, batches, number);
        assert!(matches!(error, Error::Handoff(Cause::Violation(Peer::Predecessor, _))), "{error:?}");
    }
    let (error, _) = with_batch_of(form, 253);
    assert!(matches!(error, Error::Handoff(Cause::Violation(Peer::Predecessor, _))), "{error:?}");
}

/// One batch of so many.
fn with_batch_of(form: Form, count: u32) -> (Error, Value) {
    let listener = tcp_listener();
    let entry =
        |index| json!({"name": "many", "index": index, "kind": "tcp_listener", "addr": listener.local_addr().unwrap()});
    let fds = vec![listener.as_fd(); count as usize - 1];
    with_batch(form, |old| std::iter::once(old.control_entry()).chain((0..count - 1).map(entry)).collect(), &fds)
}

fn offers_that_break_a_limit(form: Form) {
    let error = with_numbers(form, 16_385, 66, 0);
    assert!(matches!(error, Error::Handoff(Cause::Violation(Peer::Predecessor, _))), "{error:?}");
    assert!(error.to_string().contains("16384"), "{error}");

    let attempt = json!({"from": 1, "successor_pid": 1, "outcome": "failed", "began_unix_ms": 0, "total_us": 0});
    for (field, value) in [
        ("state", json!({"length": (1_u64 << 40) + 1, "schema": 0, "codec": "raw"})),
        ("state", json!({"length": 1, "schema": 0, "codec": "c".repeat(1025)})),
        ("history", json!(vec![attempt; 17])),
    ] {
        let Place { directory: _directory, path } = place();
        let error = against(
            form,
            &path,
            |received| received.map(drop).unwrap_err(),
            |old| {
                let mut raw = old.greet();
                let mut offer = raw::offer(1, 1, &Value::Null, true);
                offer[field] = value;
                raw.say_with(&offer, &[own_pidfd().as_fd()]).unwrap();
                raw.expect_error("abort", "malformed");
            },
        );
        // A text that is too long makes the line one that cannot be read.
        let refused = matches!(
            error,
            Error::Handoff(Cause::Violation(Peer::Predecessor, _) | Cause::Garbled(Peer::Predecessor, _))
        );
        assert!(refused, "{error:?}");
    }
}

fn descriptors_where_none_belong(form: Form) {
    for (frame, pidfd) in [(hello(), false), (raw::offer(1, 1, &Value::Null, false), true)] {
        let Place { directory: _directory, path } = place();
        let error = against(
            form,
            &path,
            |received| received.map(drop).unwrap_err(),
            |old| {
                let mut raw = if pidfd { old.greet() } else { old.accept() };
                let stray = tcp_listener();
                raw.say_with(&frame, &[stray.as_fd()]).unwrap();
                while raw.line().is_some_and(|(frame, _)| frame["type"] != "abort") {}
            },
        );
        match error {
            Error::Handoff(Cause::DescriptorsLost { expected: 0, arrived: 1, .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn no_control_listener(form: Form) {
    let Place { directory: _directory, path } = place();
    let listener = tcp_listener();
    let entry = json!({"name": "http", "kind": "tcp_listener", "addr": listener.local_addr().unwrap()});
    let error = against(
        form,
        &path,
        |received| received.map(drop).unwrap_err(),
        |old| {
            let mut raw = old.greet();
            raw.say_with(&raw::offer(1, 1, &Value::Null, true), &[own_pidfd().as_fd()]).unwrap();
            raw.say_with(&batch(0, &[entry]), &[listener.as_fd()]).unwrap();
            raw.expect("received");
            raw.expect_error("abort", "descriptors");
        },
    );
    match error {
        Error::Handoff(Cause::Mismatch(what)) => assert!(what.contains("control"), "{what}"),
        other => panic!("{other:?}"),
    }

    // Something that only bears its name would be listened on in vain.
    let (out, _into) = pipe();
    let listener = tcp_listener();
    for (entry, fd) in [
        (json!({"name": "@control", "kind": "pipe"}), out.as_fd()),
        (json!({"name": "@control", "kind": "tcp_listener", "addr": listener.local_addr().unwrap()}), listener.as_fd()),
    ] {
        let Place { directory: _directory, path } = place();
        let error = against(
            form,
            &path,
            |received| received.map(drop).unwrap_err(),
            |old| {
                let mut raw = old.greet();
                raw.say_with(&raw::offer(1, 1, &Value::Null, true), &[own_pidfd().as_fd()]).unwrap();
                raw.say_with(&batch(0, &[entry]), &[fd]).unwrap();
                raw.expect("received");
                raw.expect_error("abort", "descriptors");
            },
        );
        assert!(matches!(error, Error::Handoff(Cause::Mismatch(_))), "{error:?}");
    }
}

fn a_protocol_of_the_future(form: Form) {
    for in_offer in [false, true] {
        let Place { directory: _directory, path } = place();
        let error = against(
            form,
            &path,
            |received| received.map(drop).unwrap_err(),
            |old| {
                let mut raw = old.accept();
                raw.expect("receive");
                let (mut hello, mut offer) = (hello(), raw::offer(1, 1, &Value::Null, false));
                if in_offer {
                    offer["protocol"] = json!(2);
                } else {
                    hello["protocol"] = json!({"min": 2, "max": 9});
                }
                raw.say(&hello);
                raw.say(&offer);
                raw.expect_error("abort", "version");
            },
        );
        match error {
            Error::Refused { code: ErrorCode::Version, message } => assert!(message.contains('2'), "{message}"),
            other => panic!("{other:?}"),
        }
    }
}

fn an_error_instead_of_an_offer(form: Form) {
    let Place { directory: _directory, path } = place();
    let error = against(
        form,
        &path,
        |received| received.map(drop).unwrap_err(),
        |old| {
            let mut raw = old.greet();
            raw.say(&json!({"type": "error", "code": "busy", "message": "come\u{7} back"}));
        },
    );
    match error {
        Error::Refused { code: ErrorCode::Busy, message } => assert_eq!(message, "come  back"),
        other => panic!("{other:?}"),
    }
}

/// Where a predecessor goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum At {
    Accepted,
    Greeted,
    Offered,
    Given,
    Readied,
}

const STEPS: [At; 5] = [At::Accepted, At::Greeted, At::Offered, At::Given, At::Readied];

/// Goes as far as this step, then wrong; returns what the successor makes of it.
fn wrong_at(form: Form, at: At, go_wrong: impl FnOnce(Raw)) -> Error {
    wrong_with(|path: &Path| config(path), form, at, go_wrong)
}

fn wrong_with(config: impl Fn(&Path) -> Config, form: Form, at: At, go_wrong: impl FnOnce(Raw)) -> Error {
    let Place { directory: _directory, path } = place();
    let ready = |received: Result<Inheritance>| received.and_then(Inheritance::ready).map(drop).unwrap_err();
    against_with(config(&path), form, &path, ready, |old| {
        let mut raw = if at == At::Accepted { old.accept() } else { old.greet() };
        if at == At::Offered {
            raw.say_with(&raw::offer(1, 1, &Value::Null, true), &[own_pidfd().as_fd()]).unwrap();
        }
        if at >= At::Given {
            old.give(&mut raw, &Value::Null);
        }
        if at == At::Readied {
            raw.expect("ready");
        }
        go_wrong(raw);
    })
}

fn an_abort_at_each_step(form: Form) {
    for at in STEPS {
        let error = wrong_at(form, at, |mut raw| {
            raw.say(&json!({"type": "abort", "code": "application", "reason": "we stop"}));
            while raw.line().is_some() {}
        });
        match error {
            Error::Handoff(Cause::Aborted { peer: Peer::Predecessor, code: ErrorCode::Application, reason }) => {
                assert_eq!(reason, "we stop");
            }
            other => panic!("{at:?}: {other:?}"),
        }
    }
}

fn garbage_at_each_step(form: Form) {
    for at in STEPS {
        for garbage in [&b"garbage\n"[..], b"{\"type\":\"dance\"}\n", b"{\"type\":\"offer\"}\n", &[b'x'; 131_072]] {
            let error = wrong_at(form, at, |mut raw| {
                raw.write(garbage);
                while raw.line().is_some() {}
            });
            assert!(matches!(error, Error::Handoff(Cause::Garbled(Peer::Predecessor, _))), "{at:?}: {error:?}");
        }
    }
}

/// One that closes without a word is about to die, and has until the release deadline to do so. This one lives on.
fn the_end_at_each_step(form: Form) {
    for at in STEPS {
        let hasty = |path: &Path| config(path).timeouts(|waits| waits.release = Duration::from_millis(300));
        let error = wrong_with(hasty, form, at, drop);
        match error {
            // Everything is here, and its process lives: it serves, so the successor must not.
            Error::Handoff(Cause::Closed(Peer::Predecessor)) if at >= At::Given => {}
            Error::PredecessorLost(Cause::Closed(Peer::Predecessor)) if at < At::Given => {}
            other => panic!("{at:?}: {other:?}"),
        }
    }
}

fn a_frame_out_of_order_at_each_step(form: Form) {
    for at in STEPS {
        for frame in [
            json!({"type": "release", "state": null, "monotonic_us": 0, "timens": null}),
            json!({"type": "farewell", "state": null, "more": false}),
            json!({"type": "draining", "connections": 1}),
            json!({"type": "help", "words": {}}),
        ] {
            let tag = frame["type"].clone();
            // By the time it is read it may be in order.
            if at >= At::Given && tag == "release" {
                continue;
            }
            let error = wrong_at(form, at, |mut raw| {
                raw.say(&frame);
                while raw.line().is_some_and(|(frame, _)| frame["type"] != "abort") {}
            });
            match error {
                Error::Handoff(Cause::OutOfOrder { peer: Peer::Predecessor, frame }) => assert_eq!(tag, frame),
                other => panic!("{at:?}, {tag}: {other:?}"),
            }
        }
    }
}

fn a_predecessor_that_says_nothing(form: Form) {
    let Place { directory: _directory, path } = place();
    let old = RawPredecessor::new(&path);
    let short = Duration::from_millis(30);
    // One deadline is short at a time: a busy machine may take longer than it for a step before.
    let patient = || {
        config(&path)
            .cold_start(false)
            .timeouts(|waits| (waits.offer, waits.transfer, waits.release) = (PATIENCE, PATIENCE, PATIENCE))
    };
    let assert_late = |error: Option<Error>, what: &str| match error {
        Some(Error::Handoff(Cause::Late { peer: Peer::Predecessor, awaited, after })) => {
            assert_eq!((awaited, after), (what, short));
        }
        other => panic!("{other:?}"),
    };
    scope(|scope| {
        let successor = scope.spawn(|| form.receive(patient().timeouts(|waits| waits.offer = short)));
        let raw = old.accept();
        assert_late(successor.join().unwrap().err(), "offer");
        drop(raw);
        let successor = scope.spawn(|| form.receive(patient().timeouts(|waits| waits.transfer = short)));
        let mut raw = old.greet();
        raw.say_with(&raw::offer(1, 1, &Value::Null, true), &[own_pidfd().as_fd()]).unwrap();
        assert_late(successor.join().unwrap().err(), "descriptors");
        raw.expect_error("abort", "timeout");
        drop(raw);
        // It lives, so it serves: the successor must not, however long it waits.
        let successor =
            scope.spawn(|| form.receive(patient().timeouts(|waits| waits.release = short)).unwrap().ready());
        let mut raw = old.greet();
        old.give(&mut raw, &Value::Null);
        raw.expect("ready");
        assert_late(successor.join().unwrap().err(), "release");
        raw.expect_error("abort", "timeout");
    });
}

/// Copies bytes both ways until one end closes. It reads as a relay reads, and so loses the descriptors.
fn relay(one: UnixStream, other: UnixStream) {
    let copy = |mut from: UnixStream, mut to: UnixStream| {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    };
    let back = (other.try_clone().unwrap(), one.try_clone().unwrap());
    scope(|scope| {
        scope.spawn(|| copy(back.0, back.1));
        copy(one, other);
    });
}

fn assert_stripped(service: &Service, error: &Error) {
    match error {
        Error::Handoff(Cause::DescriptorsLost { frame: "offer", expected: 1, arrived: 0 }) => {}
        other => panic!("{other:?}"),
    }
    assert!(error.to_string().contains("relay"), "{error}");
    let failure = service.failure();
    assert_eq!(failure.owner(), Owner::StillUs);
    match cause(&failure) {
        Cause::Aborted { peer: Peer::Successor, code: ErrorCode::Descriptors, reason } => {
            assert!(reason.contains("relay"), "{reason}");
        }
        other => panic!("{other}"),
    }
}

fn a_relay_that_strips_descriptors(old: Form, new: Form) {
    let Place { directory, path } = place();
    let service = Service::start(old, config(&path), &path);
    let beside = directory.path().join("relay.sock");
    let entrance = UnixListener::bind(&beside).unwrap();
    let error = scope(|scope| {
        scope.spawn(|| relay(entrance.accept().unwrap().0, UnixStream::connect(&path).unwrap()));
        new.receive(config(&beside)).map(drop).unwrap_err()
    });
    assert_stripped(&service, &error);
    service.assert_unharmed();
}

#[test]
#[ignore = "needs socat"]
fn a_relay_by_socat() {
    let Place { directory, path } = place();
    let service = Service::start(Form::Blocking, config(&path), &path);
    let beside = directory.path().join("relay.sock");
    let mut socat = std::process::Command::new("socat")
        .args(["-d", "-d"])
        .arg(format!("UNIX-LISTEN:{},fork", beside.display()))
        .arg(format!("UNIX-CONNECT:{}", path.display()))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = std::io::BufReader::new(socat.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening on") {
        line.clear();
        assert_ne!(std::io::BufRead::read_line(&mut log, &mut line).unwrap(), 0, "socat does not listen");
    }
    let error = Form::Blocking.receive(config(&beside)).map(drop).unwrap_err();
    assert_stripped(&service, &error);
    socat.kill().unwrap();
    socat.wait().unwrap();
    service.assert_unharmed();
}

/// Offers, and stays there.
fn offer_and_stay(mut parent: Parent) {
    let old = RawPredecessor::new(&parent.path);
    parent.tell("listening");
    let mut raw = old.greet();
    raw.say_with(&raw::offer(1, 1, &Value::Null, true), &[own_pidfd().as_fd()]).unwrap();
    parent.tell("offered");
    parent.hear();
}

fn killed_before_the_offer_is_complete(form: Form) {
    let Place { directory: _directory, path } = place();
    let mut child = Child::start("offer and stay", &path);
    assert_eq!(child.hear(), "listening");
    let error = scope(|scope| {
        let successor = scope.spawn(|| form.receive(config(&path).cold_start(false)).map(drop).unwrap_err());
        assert_eq!(child.hear(), "offered");
        child.kill();
        successor.join().unwrap()
    });
    match error {
        // Which of the two is seen first is the kernel's to say.
        Error::PredecessorLost(Cause::Closed(Peer::Predecessor) | Cause::Died(Peer::Predecessor)) => {}
        other => panic!("{other:?}"),
    }
}

fn killed_before_the_offer_is_complete_then_a_cold_start(form: Form) {
    let Place { directory: _directory, path } = place();
    let mut child = Child::start("offer and stay", &path);
    assert_eq!(child.hear(), "listening");
    let inheritance = scope(|scope| {
        let successor = scope.spawn(|| form.receive(config(&path)).unwrap());
        assert_eq!(child.hear(), "offered");
        child.kill();
        successor.join().unwrap()
    });
    assert!(inheritance.is_cold_start());
    assert!(inheritance.received().is_none());
    assert_serves(&inheritance.ready().unwrap(), &path, 1);
}

/// It answers, and hands itself over.
fn assert_serves(control: &Control, path: &Path, generation: u64) {
    let status = Raw::greeted(path).ask("status");
    assert_eq!((&status["generation"], &status["phase"]), (&json!(generation), &json!("serving")), "{status}");
    scope(|scope| {
        let successor = scope.spawn(|| Form::Blocking.receive(config(path)).unwrap().ready().unwrap());
        control.give(fd_handoff::Offer::new(), None).unwrap().farewell(None).unwrap();
        assert_eq!(successor.join().unwrap().generation(), generation + 1);
    });
}

/// Gives everything, and waits for a successor that never gets ready.
fn give_everything(mut parent: Parent) {
    let listener = tcp_listener();
    let control = Form::Blocking.listen(config(&parent.path)).unwrap();
    parent.tell(listener.local_addr().unwrap());
    let offer = fd_handoff::Offer::new().descriptor("http", &listener).state(fd_handoff::State::bytes("snapshot"));
    let ready = control.accept().unwrap().offer(offer);
    parent.tell("ready");
    parent.hear();
    drop(ready);
}

fn assert_orphaned(control: &Control, listener: &TcpListener, addr: &str, path: &Path) {
    assert!(control.final_state().unwrap().is_none());
    assert!(control.farewell().unwrap().is_none(), "nobody is left to say it");
    let _client = std::net::TcpStream::connect(addr).unwrap();
    listener.accept().unwrap();
    let status = Raw::greeted(path).ask("status");
    assert_eq!(status["history"][0]["outcome"], "orphaned", "{status}");
    assert_eq!(status["predecessor"], Value::Null, "{status}");
    assert_eq!(Raw::greeted(path).server_pid(), std::process::id());
    assert_serves(control, path, 2);
}

fn killed_when_the_offer_is_complete(form: Form) {
    let Place { directory: _directory, path } = place();
    let mut child = Child::start("give everything", &path);
    let addr = child.hear();
    let mut inheritance = form.receive(config(&path)).unwrap();
    child.kill();
    // The port was never closed: this one waits for whoever takes over.
    let _early = std::net::TcpStream::connect(&addr).unwrap();
    assert_eq!(inheritance.text().as_deref(), Some("snapshot"));
    let listener: TcpListener = inheritance.take("http").unwrap().unwrap();
    let control = inheritance.ready().unwrap();
    listener.accept().unwrap();
    assert_orphaned(&control, &listener, &addr, &path);
}

fn killed_while_the_successor_waits_for_release(form: Form) {
    let Place { directory: _directory, path } = place();
    let mut child = Child::start("give everything", &path);
    let addr = child.hear();
    let mut inheritance = form.receive(config(&path)).unwrap();
    let listener: TcpListener = inheritance.take("http").unwrap().unwrap();
    let control = scope(|scope| {
        let successor = scope.spawn(|| inheritance.ready().unwrap());
        assert_eq!(child.hear(), "ready");
        child.kill();
        successor.join().unwrap()
    });
    assert_orphaned(&control, &listener, &addr, &path);
}

#[test]
#[ignore = "run by other tests as a process of its own"]
fn child_main() {
    let Some((role, parent)) = child::role() else { return };
    match role.as_str() {
        "offer and stay" => offer_and_stay(parent),
        "give everything" => give_everything(parent),
        other => panic!("no role {other}"),
    }
}
