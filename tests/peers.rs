//! Strangers and successors by hand against a service that listens: whatever they say, it goes on serving.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::os::fd::AsFd;
use std::time::Duration;

use common::child::{self, Child, NOBODY, Parent};
use common::raw::Raw;
use common::{Form, Place, Service, allow_files, cause, config, forms, is_root, pairings, place, tcp_listener, text};
use fd_handoff::{Cause, Error, ErrorCode, Offer, Owner, Peer, PeerPolicy, State};
use serde_json::{Value, json};

pairings! {
    a_thousand_silent_connections
    busy_names_the_process_in_the_way
}

forms! {
    hello_comes_at_once
    status_says_everything
    help_and_what_is_not_offered
    nonsense_is_answered
    a_line_too_long
    half_a_line_costs_nothing
    a_frame_before_receive
    a_receive_that_cannot_begin
    denied
    a_successor_that_denies_its_predecessor
    another_user_is_denied
    another_user_is_allowed
    descriptors_for_the_predecessor
    descriptors_within_a_handoff
    a_frame_out_of_order
    a_reply_to_the_wrong_batch
    a_successor_that_stops_reading
    a_successor_that_comes_again_after_the_offer
    a_successor_that_hangs_up
    a_successor_that_talks_garbage
    a_successor_that_aborts
    progress_is_shown_and_bounded
    noise_after_release_changes_nothing
    an_abort_after_release_takes_back
    a_status_of_many_descriptors_fits_its_line
}

fn service(form: Form) -> (Place, Service) {
    let place = place();
    let service = Service::start(form, config(&place.path), &place.path);
    (place, service)
}

fn hello_comes_at_once(form: Form) {
    let (place, service) = service(form);
    let hello = Raw::connect(&place.path).expect("hello");
    assert_eq!(hello["protocol"], json!({"min": 1, "max": 1}));
    assert_eq!((&hello["name"], &hello["version"]), (&json!("tested"), &json!("1.2.3")));
    assert_eq!((&hello["pid"], &hello["generation"]), (&json!(std::process::id()), &json!(1)));
    assert_eq!(hello["phase"], "serving");
    service.assert_unharmed();
}

fn status_says_everything(form: Form) {
    let Place { directory: _directory, path } = place();
    let control = form.listen(config(&path)).unwrap();
    let listener = tcp_listener();
    control.register("http", &listener).unwrap();
    let mut raw = Raw::greeted(&path);
    let status = raw.ask("status");
    assert_eq!(status["type"], "status");
    assert_eq!((&status["name"], &status["version"]), (&json!("tested"), &json!("1.2.3")));
    assert_eq!((&status["pid"], &status["generation"]), (&json!(std::process::id()), &json!(1)));
    assert_eq!(status["phase"], "serving");
    let addr = listener.local_addr().unwrap().to_string();
    let mut fd = json!({"name": "http", "kind": "tcp_listener", "addr": addr});
    // The kernel may not say.
    if let Some(netns) = fd_handoff::client::own_network() {
        fd["netns"] = json!(netns);
    }
    assert_eq!(status["fds"], json!([fd]));
    assert_eq!((&status["fd_count"], &status["history"]), (&json!(1), &json!([])));
    assert_eq!((&status["successor"], &status["predecessor"]), (&Value::Null, &Value::Null));
    // The same as a frame, on the same connection, and time goes on.
    let later = raw.ask(r#"{"type":"status"}"#);
    assert!(later["uptime_ms"].as_u64().unwrap() >= status["uptime_ms"].as_u64().unwrap());
    assert!(control.register("@control", &listener).is_err());
    // Unknown fields are no reason to refuse.
    assert_eq!(raw.ask(r#"{"type":"status","later":{"version":2}}"#)["type"], "status");
}

fn help_and_what_is_not_offered(form: Form) {
    let (_place, service) = service(form);
    let mut raw = service.connect();
    let help = raw.ask("help");
    assert!(help["words"]["status"].is_string(), "{help}");
    for word in ["upgrade", "stop"] {
        assert_eq!(raw.ask(word)["code"], "unsupported");
    }
    service.assert_unharmed();
}

fn nonsense_is_answered(form: Form) {
    let (_place, service) = service(form);
    let mut raw = service.connect();
    for (line, code) in [
        ("what are you", "malformed"),
        ("{not json", "malformed"),
        ("{}", "malformed"),
        ("[1]", "malformed"),
        (r#"{"type":7}"#, "malformed"),
        (r#"{"type":"received","batch":-1}"#, "malformed"),
        (r#"{"type":"received","batch":0,"new":{"a":1,"\u0061":2}}"#, "malformed"),
        (r#"{"type":"dance"}"#, "unknown_type"),
        (r#"{"type":"hello"}"#, "unknown_type"),
    ] {
        raw.write(format!("{line}\n").as_bytes());
        assert_ne!(raw.expect_error("error", code), "", "{line}");
    }
    raw.write(b"\xff\xfe\n");
    raw.expect_error("error", "malformed");
    raw.write(b"{\"type\":\"\xff\"}\n");
    raw.expect_error("error", "malformed");
    // Nothing at all is nothing.
    raw.write(b"\n\r\n  \nstatus\r\n");
    assert_eq!(raw.expect("status")["phase"], "serving");
    service.assert_unharmed();
}

fn a_line_too_long(form: Form) {
    let (_place, service) = service(form);
    let mut raw = service.connect();
    raw.write(&[b' '; 131_072]);
    raw.expect_error("error", "too_long");
    raw.expect_end();
    // One byte less is a line.
    let mut raw = service.connect();
    let mut line = vec![b' '; 131_071];
    line[..6].copy_from_slice(b"status");
    *line.last_mut().unwrap() = b'\n';
    raw.write(&line);
    raw.expect("status");
    service.assert_unharmed();
}

fn half_a_line_costs_nothing(form: Form) {
    let (_place, service) = service(form);
    let mut half = service.connect();
    half.write(b"{\"type\":\"sta");
    let mut other = service.connect();
    assert_eq!(other.ask("status")["phase"], "serving");
    half.write(b"tus\"}\nsta");
    half.expect("status");
    service.assert_unharmed();
    half.write(b"tus\n");
}

fn a_frame_before_receive(form: Form) {
    let (_place, service) = service(form);
    let mut raw = service.connect();
    for frame in [
        json!({"type": "received", "batch": 0}),
        json!({"type": "progress", "message": "none"}),
        json!({"type": "ready"}),
        json!({"type": "active"}),
        json!({"type": "settled", "ending": "handed_over"}),
        json!({"type": "abort", "code": "application", "reason": "none"}),
    ] {
        raw.say(&frame);
        let message = raw.expect_error("error", "out_of_order");
        assert!(message.contains(frame["type"].as_str().unwrap()), "{message}");
    }
    assert_eq!(raw.ask("status")["phase"], "serving");
    service.assert_unharmed();
}

fn a_receive_that_cannot_begin(form: Form) {
    let (_place, service) = service(form);
    let receive = |min: u32, max: u32, version: &str, schemas: usize| {
        let mut raw = service.connect();
        let schemas = vec![0; schemas];
        raw.say(&json!({
            "type": "receive", "protocol": {"min": min, "max": max}, "pid": 1, "version": version, "schemas": schemas,
        }));
        raw
    };
    let mut raw = receive(2, 3, "", 1);
    let message = raw.expect_error("error", "version");
    assert!(message.contains("protocol 1,") && message.contains("2 to 3"), "{message}");
    raw.expect_end();
    for (min, max) in [(0, 0), (3, 1)] {
        let mut raw = receive(min, max, "", 1);
        raw.expect_error("error", "version");
        raw.expect_end();
    }
    for mut raw in [receive(1, 1, "", 65), receive(1, 1, &"v".repeat(1025), 1)] {
        raw.expect_error("error", "malformed");
        raw.expect_end();
    }
    // M99
    for line in [
        r#"{"type":"receive"}"#,
        r#"{"type":"receive","protocol":{"min":-1,"max":1},"pid":1,"version":"","schemas":[]}"#,
        r#"{"type":"receive","protocol":[1,1],"pid":1,"version":"","schemas":[]}"#,
    ] {
        let mut raw = service.connect();
        raw.write(format!("{line}\nstatus\n").as_bytes());
        raw.expect_error("error", "malformed");
        raw.expect_end();
    }
    service.assert_unharmed();
}

fn denied(form: Form) {
    let Place { directory: _directory, path } = place();
    let control = form.listen(config(&path).peers(PeerPolicy::nobody())).unwrap();
    let mut raw = Raw::connect(&path);
    raw.expect_error("error", "denied");
    raw.expect_end();
    match form.receive(config(&path)).err() {
        Some(Error::Refused { code: ErrorCode::Denied, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(control.generation(), 1);
}

fn a_successor_that_denies_its_predecessor(form: Form) {
    let (place, service) = service(form);
    match form.receive(config(&place.path).peers(PeerPolicy::nobody())).err() {
        Some(Error::PeerDenied { uid, .. }) => assert_eq!(uid, nix::unistd::geteuid().as_raw()),
        other => panic!("{other:?}"),
    }
    service.assert_unharmed();
}

fn another_user_is_denied(form: Form) {
    if !is_root() {
        return;
    }
    let (place, service) = other_users_service(form, PeerPolicy::default());
    assert_eq!(Child::start_as_nobody("receive", &place.path).hear(), "denied");
    service.assert_unharmed();
}

fn another_user_is_allowed(form: Form) {
    if !is_root() {
        return;
    }
    for policy in [PeerPolicy::default().allow_uid(NOBODY), PeerPolicy::default().allow_gid(NOBODY)] {
        let (place, service) = other_users_service(form, policy);
        let mut child = Child::start_as_nobody("receive", &place.path);
        assert_eq!(child.hear(), "generation 2");
        drop(service);
    }
}

/// A service that the kernel lets every user connect to.
fn other_users_service(form: Form, policy: PeerPolicy) -> (Place, Service) {
    use std::os::unix::fs::PermissionsExt;
    let place = place();
    std::fs::set_permissions(place.directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let service = Service::start(form, config(&place.path).mode(0o666).peers(policy), &place.path);
    (place, service)
}

fn receive_as_another(mut parent: Parent) {
    let received = Form::Blocking.receive(config(&parent.path)).and_then(|inheritance| inheritance.ready());
    match received {
        Ok(control) => parent.tell(format!("generation {}", control.generation())),
        Err(Error::Refused { code, .. }) => parent.tell(code),
        Err(other) => parent.tell(format!("{other:?}")),
    }
}

/// A newer kernel does not let them be sent; where it does, they are closed, and so is the connection.
fn descriptors_for_the_predecessor(form: Form) {
    let (_place, service) = service(form);
    let mut raw = service.connect();
    let (mut out, into) = common::pipe();
    match raw.say_with(&json!({"type": "status"}), &[into.as_fd()]) {
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(nix::libc::EPERM), "{error}");
            assert_eq!(raw.ask("status")["phase"], "serving");
        }
        Ok(()) => {
            raw.expect_error("error", "descriptors");
            raw.expect_end();
        }
    }
    drop(into);
    // The service holds no copy.
    let mut end = String::new();
    std::io::Read::read_to_string(&mut out, &mut end).unwrap();
    service.assert_unharmed();
}

fn descriptors_within_a_handoff(form: Form) {
    let (place, service) = service(form);
    let mut raw = Raw::receive(&place.path);
    raw.take_offer();
    let (mut out, into) = common::pipe();
    let sent = raw.say_with(&json!({"type": "ready"}), &[into.as_fd()]);
    drop(into);
    if let Err(error) = sent {
        assert_eq!(error.raw_os_error(), Some(nix::libc::EPERM), "{error}");
        drop(raw);
    } else {
        raw.expect_error("abort", "descriptors");
    }
    let mut end = String::new();
    std::io::Read::read_to_string(&mut out, &mut end).unwrap();
    assert_eq!(service.failure().owner(), Owner::StillUs);
    service.assert_unharmed();
}

/// Each says something that may not come now, at each step before release.
fn a_frame_out_of_order(form: Form) {
    let (place, service) = service(form);
    let frames = [
        json!({"type": "ready"}),
        json!({"type": "active"}),
        json!({"type": "settled", "ending": "handed_over"}),
        json!({"type": "status"}),
        json!({"type": "progress", "message": "too soon"}),
    ];
    for frame in &frames {
        let mut raw = Raw::receive(&place.path);
        raw.expect("offer");
        raw.say(frame);
        raw.expect("descriptors");
        assert_out_of_order(raw, &service, frame);
    }
    for frame in [&frames[1], &frames[2], &frames[3], &json!({"type": "received", "batch": 0})] {
        let mut raw = Raw::receive(&place.path);
        raw.take_offer();
        raw.say(frame);
        assert_out_of_order(raw, &service, frame);
    }
    service.assert_unharmed();
}

fn assert_out_of_order(mut raw: Raw, service: &Service, frame: &Value) {
    let tag = frame["type"].as_str().unwrap();
    let reason = raw.expect_error("abort", "out_of_order");
    assert!(reason.contains(tag), "{reason}");
    raw.expect_end();
    let failure = service.failure();
    assert_eq!(failure.owner(), Owner::StillUs);
    match cause(&failure) {
        Cause::OutOfOrder { peer: Peer::Successor, frame } => assert_eq!(*frame, tag),
        other => panic!("{other}"),
    }
}

fn a_reply_to_the_wrong_batch(form: Form) {
    let (place, service) = service(form);
    let mut raw = Raw::receive(&place.path);
    raw.expect("offer");
    raw.expect("descriptors");
    let frame = json!({"type": "received", "batch": 1});
    raw.say(&frame);
    assert_out_of_order(raw, &service, &frame);
    service.assert_unharmed();
}

fn a_successor_that_stops_reading(form: Form) {
    let Place { directory: _directory, path } = place();
    let hasty = config(&path).timeouts(|waits| waits.transfer = Duration::from_millis(100));
    let service = Service::start_with(form, hasty, &path, |listener| {
        let many = std::iter::repeat_n(listener, 1000);
        Offer::new().descriptor("http", listener).group("many", many).state(State::bytes("snapshot"))
    });
    let mut raw = Raw::receive(&path);
    raw.expect("offer");
    let mut fds = Vec::new();
    for _ in 0..100 {
        raw.byte(&mut fds).unwrap();
    }
    assert_eq!(fds.len(), 252, "they ride on the first byte");
    let failure = service.failure();
    assert_eq!(failure.owner(), Owner::StillUs);
    match cause(&failure) {
        Cause::Late { peer: Peer::Successor, awaited, .. } => assert_eq!(*awaited, "received"),
        other => panic!("{other}"),
    }
    assert_eq!(service.connect().ask("status")["phase"], "serving");
}

fn a_successor_that_hangs_up(form: Form) {
    let (place, service) = service(form);
    // Before its offer it may be gone before the application has heard of it: that is in `hostile.rs`.
    for step in 1..4 {
        let mut raw = Raw::receive(&place.path);
        if step == 1 {
            raw.expect("offer");
        }
        if step >= 2 {
            raw.take_offer();
        }
        if step == 3 {
            raw.write(b"{\"type\":\"rea");
        }
        drop(raw);
        let failure = service.failure();
        assert_eq!(failure.owner(), Owner::StillUs);
        // This process lives, and the kernel says so.
        assert_eq!(*cause(&failure), Cause::Closed(Peer::Successor));
    }
    service.assert_unharmed();
}

fn a_successor_that_talks_garbage(form: Form) {
    let (place, service) = service(form);
    for (garbage, code) in [
        (b"no frame\n".to_vec(), "malformed"),
        (b"{}\n".to_vec(), "malformed"),
        (b"{\"type\":\"dance\"}\n".to_vec(), "unknown_type"),
        (vec![b'x'; 131_072], "too_long"),
    ] {
        let mut raw = Raw::receive(&place.path);
        raw.take_offer();
        raw.write(&garbage);
        raw.expect_error("abort", code);
        let failure = service.failure();
        assert_eq!(failure.owner(), Owner::StillUs);
        assert!(matches!(cause(&failure), Cause::Garbled(Peer::Successor, _)), "{failure}");
    }
    service.assert_unharmed();
}

fn a_successor_that_aborts(form: Form) {
    let (place, service) = service(form);
    for step in 0..2 {
        let mut raw = Raw::receive(&place.path);
        if step == 1 {
            raw.take_offer();
        }
        raw.say(&json!({"type": "abort", "code": "a_code_of_the_future", "reason": "no\u{7}bell"}));
        let failure = service.failure();
        assert_eq!(failure.owner(), Owner::StillUs);
        match cause(&failure) {
            Cause::Aborted { peer: Peer::Successor, code: ErrorCode::Unknown, reason } => assert_eq!(reason, "no bell"),
            other => panic!("{other}"),
        }
    }
    let history = service.connect().ask("status")["history"].clone();
    assert_eq!(history[1]["successor_pid"], 4242);
    assert!(history[1]["reason"].as_str().unwrap().contains("no bell"), "{history}");
    service.assert_unharmed();
}

fn progress_is_shown_and_bounded(form: Form) {
    let (place, service) = service(form);
    let mut raw = Raw::receive(&place.path);
    raw.take_offer();
    raw.say(&json!({"type": "progress", "message": "warming caches"}));
    // The two connections are served side by side: look until it has been read.
    let mut looking = service.connect();
    let shown = loop {
        let status = looking.ask("status");
        assert_eq!(status["successor"]["pid"], 4242);
        if !status["successor"]["progress"].is_null() {
            break status;
        }
    };
    assert_eq!((&shown["successor"]["progress"], &shown["phase"]), (&json!("warming caches"), &json!("initialising")));
    raw.say(&json!({"type": "progress", "message": "m".repeat(1025)}));
    raw.expect_error("abort", "malformed");
    assert_eq!(service.failure().owner(), Owner::StillUs);
    service.assert_unharmed();
}

/// From release on the successor may be serving: only its word or its death decides.
fn noise_after_release_changes_nothing(form: Form) {
    let Place { directory: _directory, path } = place();
    let control = form.listen(config(&path)).unwrap();
    std::thread::scope(|scope| {
        let given = scope.spawn(|| control.give(Offer::new(), None));
        let mut raw = Raw::receive(&path);
        let fds = raw.take_offer();
        raw.say(&json!({"type": "ready"}));
        raw.expect("release");
        for frame in [json!({"type": "ready"}), json!({"type": "received", "batch": 0}), json!({"type": "status"})] {
            raw.say(&frame);
            raw.expect_error("error", "out_of_order");
        }
        raw.say(&json!({"type": "active"}));
        let mut released = given.join().unwrap().map_err(|failure| failure.to_string()).unwrap();
        released.draining(12);
        assert_eq!(raw.expect("draining")["connections"], 12);
        raw.write(b"garbage\n");
        released.farewell(Some(State::bytes("farewell"))).unwrap();
        let (farewell, memfd) = raw.line().unwrap();
        assert_eq!((&farewell["type"], &farewell["state"]["length"]), (&json!("farewell"), &json!(8)));
        let mut bytes = [0; 8];
        std::os::unix::fs::FileExt::read_exact_at(
            &std::fs::File::from(memfd.into_iter().next().unwrap()),
            &mut bytes,
            0,
        )
        .unwrap();
        assert_eq!(text(&bytes), "farewell");
        raw.expect_end();
        drop(fds);
    });
}

fn an_abort_after_release_takes_back(form: Form) {
    let (place, service) = service(form);
    let mut raw = Raw::receive(&place.path);
    raw.take_offer();
    raw.say(&json!({"type": "ready"}));
    raw.expect("release");
    raw.say(&json!({"type": "abort", "code": "application", "reason": "cannot serve after all"}));
    let failure = service.failure();
    assert_eq!(failure.owner(), Owner::UsAgain);
    assert!(matches!(cause(&failure), Cause::Aborted { peer: Peer::Successor, .. }), "{failure}");
    let status = service.connect().ask("status");
    assert_eq!(status["history"][0]["outcome"], "taken_back", "{status}");
    service.assert_unharmed();
}

fn a_thousand_silent_connections(old: Form, new: Form) {
    // Several of these run at once.
    if !allow_files(8192) {
        return;
    }
    let Place { directory: _directory, path } = place();
    let service = Service::start(old, config(&path), &path);
    let silent: Vec<Raw> = (0..1000).map(|_| Raw::connect(&path)).collect();
    let mut half = service.connect();
    half.write(b"half a li");
    let control = service.hand_over(new);
    assert_eq!(control.generation(), 2);
    let mut silent = silent.into_iter();
    // The first of them made room for the others, and was told.
    let mut first = silent.next().unwrap();
    first.expect("hello");
    first.expect_error("error", "evicted");
    first.expect_end();
    assert_eq!(Raw::greeted(&path).ask("status")["generation"], 2);
}

/// Its end is the end of its handoff; but the predecessor waits for 250 ms whether it has died, which makes the better
/// message. Whoever comes meanwhile waits as well.
// M148
fn a_successor_that_comes_again_after_the_offer(form: Form) {
    let (place, service) = service(form);
    let mut first = Raw::receive(&place.path);
    first.expect("offer");
    drop(first);
    let mut again = Raw::receive(&place.path);
    let offer = again.expect("offer");
    assert_eq!(service.failure().owner(), Owner::StillUs);
    let mut third = Raw::receive(&place.path);
    third.expect_error("error", "busy");
    again.take_offered(&offer);
    drop(again);
    // Of two that come, one is the next, and the other is told of it; one that is gone by then is not waited for.
    drop(Raw::receive(&place.path));
    let mut next = [(); 2].map(|()| Raw::receive(&place.path));
    next[0].expect("offer");
    assert!(next[1].expect_error("error", "busy").contains("4242"));
    drop(next);
    (0..2).for_each(|_| assert_eq!(service.failure().owner(), Owner::StillUs));
    service.assert_unharmed();
}

fn busy_names_the_process_in_the_way(old: Form, new: Form) {
    let (place, service) = service(old);
    let mut raw = Raw::receive(&place.path);
    raw.expect("offer");
    let mut other = Raw::receive(&place.path);
    assert!(other.expect_error("error", "busy").contains("4242"));
    other.expect_end();
    match new.receive(config(&place.path)).err() {
        Some(Error::Refused { code: ErrorCode::Busy, message }) => assert!(message.contains("4242"), "{message}"),
        other => panic!("{other:?}"),
    }
    let status = service.connect().ask("status");
    assert_eq!((&status["phase"], &status["successor"]["pid"]), (&json!("offering"), &json!(4242)));
    assert_eq!(status["successor"]["version"], "raw");
    drop(raw);
    assert_eq!(*cause(&service.failure()), Cause::Closed(Peer::Successor));
    service.assert_unharmed();
}

fn a_status_of_many_descriptors_fits_its_line(form: Form) {
    let Place { directory: _directory, path } = place();
    let control = form.listen(config(&path)).unwrap();
    let listener = tcp_listener();
    for number in 0..2000 {
        control.register(&format!("{number:\u{20}<64}"), &listener).unwrap();
    }
    let status = Raw::greeted(&path).ask("status");
    assert_eq!(status["fd_count"], 2000);
    let shown = status["fds"].as_array().unwrap().len();
    assert!((100..2000).contains(&shown), "{shown}");
    assert!(status.to_string().len() < 131_072);
}

#[test]
#[ignore = "run by other tests as a process of its own"]
fn child_main() {
    let Some((role, parent)) = child::role() else { return };
    match role.as_str() {
        "receive" => receive_as_another(parent),
        other => panic!("no role {other}"),
    }
}

/// tokio hears of a descriptor once. What one turn leaves unread makes no second sound.
#[cfg(feature = "tokio")]
#[test]
fn what_is_left_unread_is_read_on_tokio() {
    let Place { directory: _directory, path } = place();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let control = runtime.block_on(fd_handoff::tokio::handoff_listen(config(&path))).unwrap();
    // All of it is there before the service first looks: more than it reads at once, and again at once.
    let mut raw = Raw::connect(&path);
    raw.write(&[&[b' '; 75_000][..], b"\n", &[b' '; 75_000], b"status\n"].concat());
    runtime.block_on(async {
        let answer = tokio::task::spawn_blocking(move || {
            raw.expect("hello");
            raw.expect("status")
        });
        let answer = tokio::time::timeout(QUIET / 2, answer).await;
        assert_eq!(answer.expect("an answer").unwrap()["phase"], "serving");
        drop(control);
    });
}

/// How long the service lets a connection be quiet: by then it would look again for that alone.
#[cfg(feature = "tokio")]
const QUIET: Duration = fd_handoff::core::QUIET_LIMIT;
