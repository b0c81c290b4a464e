//! Who owns the service when a successor is lost after the release, or lets go of it in good order.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::scope;
use std::time::{Duration, Instant};

use common::child::{self, Child, Parent};
use common::raw::Raw;
use common::{Control, Form, Place, Released, cause, config, forms, is_root, pairings, place, tcp_listener};
use fd_handoff::{Cause, Error, Failure, Offer, Owner, Peer, State};
use serde_json::{Value, json};

pairings! {
    a_successor_that_dies_while_its_predecessor_drains
    a_successor_that_panics_while_its_predecessor_drains
    a_successor_that_settles
    a_predecessor_that_leaves_without_a_farewell
    a_drain_that_takes_too_long
}

forms! {
    a_successor_that_dies_before_active
    a_silent_successor_is_ended
    a_silent_successor_that_had_hung_up_is_ended
    a_silent_successor_that_may_not_be_ended
    a_release_after_which_nobody_can_tell_who_serves
    a_successor_that_dies_before_the_farewell
    a_successor_that_dies_in_probation
    a_successor_that_settles_in_probation
    looking_at_a_service_that_hands_over
}

/// A service that has to be handed over for good in the end.
struct Given {
    control: Control,
    listener: TcpListener,
}

impl Given {
    fn new(form: Form, path: &Path) -> Given {
        Given { control: form.listen(config(path)).unwrap(), listener: tcp_listener() }
    }

    fn give(&self) -> Result<Released, Failure> {
        self.control.give(Offer::new().descriptor("http", &self.listener), Some(State::bytes("final")))
    }

    /// It is this process's again: it serves, the control socket says so, and a proper successor gets it.
    fn assert_taken_back(&self, failure: &Failure, path: &Path) {
        assert_eq!(failure.owner(), Owner::UsAgain, "{failure}");
        assert!(failure.may_serve());
        assert_eq!(*cause(failure), Cause::Died(Peer::Successor));
        let mut raw = Raw::greeted(path);
        assert_eq!(raw.server_pid(), std::process::id());
        let status = raw.ask("status");
        assert_eq!((&status["phase"], &status["generation"]), (&json!("serving"), &json!(1)), "{status}");
        assert_eq!(status["successor"], Value::Null, "{status}");
        let history = status["history"].as_array().unwrap();
        assert_eq!(history.last().unwrap()["outcome"], "taken_back", "{status}");
        let _client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        self.listener.accept().unwrap();
        scope(|scope| {
            let successor = scope.spawn(|| Form::Blocking.receive(config(path)).unwrap().ready().unwrap());
            self.give().map_err(|failure| failure.to_string()).unwrap().farewell(None).unwrap();
            let control = successor.join().unwrap();
            assert_eq!(control.generation(), 2);
            assert_eq!(Raw::greeted(path).ask("status")["generation"], 2);
        });
    }
}

/// A child that goes all the way, says so, and does as it is told.
fn serve(form: Form, mut parent: Parent) {
    let mut inheritance = form.receive(config(&parent.path)).unwrap();
    let _listener: TcpListener = inheritance.take("http").unwrap().unwrap();
    let control = inheritance.ready().unwrap();
    parent.tell("serving");
    assert_ne!(parent.hear(), "panic", "as told");
    control.close();
    parent.tell("closed");
}

/// On a runtime that ends right after it.
#[cfg(feature = "tokio")]
#[test]
fn a_successor_that_stops_and_whose_runtime_ends_has_settled() {
    let Place { directory: _directory, path } = place();
    let watchful = config(&path).timeouts(|waits| waits.probation = common::PATIENCE);
    let control = Form::Blocking.listen(watchful).unwrap();
    let service = Given { control, listener: tcp_listener() };
    scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let inheritance = fd_handoff::tokio::handoff_receive(config(&path)).await.unwrap();
                inheritance.ready().await.unwrap().close().await;
            });
        });
        let began = Instant::now();
        service.give().map_err(|failure| failure.to_string()).unwrap().farewell(None).unwrap();
        assert!(began.elapsed() < common::PATIENCE, "the predecessor was not told");
    });
}

/// The service has gone on to a process that this one knows nothing of: the lock's file says so.
// M139
fn a_release_after_which_nobody_can_tell_who_serves(form: Form) {
    let Place { directory: _directory, path } = place();
    let service = Given::new(form, &path);
    let (mut looking, mut watching) = (Raw::greeted(&path), Raw::greeted(&path));
    assert_eq!(watching.ask("watch")["type"], "status");
    let failure = scope(|scope| {
        let given = scope.spawn(|| service.give().map(drop).unwrap_err());
        let mut raw = Raw::receive(&path);
        // The control listener is the first.
        let owner = raw.take_offer().swap_remove(1);
        raw.say(&json!({"type": "ready"}));
        raw.expect("release");
        std::fs::File::from(owner).write_all_at(&99_u64.to_le_bytes(), 0).unwrap();
        raw.say(&json!({"type": "abort", "code": "application", "reason": "it fails"}));
        given.join().unwrap()
    });
    assert_eq!(failure.owner(), Owner::Unknown, "{failure}");
    assert!(!failure.may_serve());
    assert_eq!(looking.ask("status")["history"][0]["outcome"], "owner_unknown");
    while watching.expect("event")["event"] != "owner_unknown" {}
}

fn serving(form: Form) -> &'static str {
    if form == Form::Blocking { "serve" } else { "serve on tokio" }
}

/// A child that takes everything by hand, and is silent from the release on.
fn fall_silent(mut parent: Parent, hang_up: bool) {
    let mut raw = Raw::receive(&parent.path);
    let _fds = raw.take_offer();
    raw.say(&json!({"type": "ready"}));
    raw.expect("release");
    parent.tell("released");
    if hang_up {
        drop(raw);
    }
    // Until it is killed.
    parent.hear();
}

fn a_successor_that_dies_before_active(form: Form) {
    let Place { directory: _directory, path } = place();
    let service = Given::new(form, &path);
    let mut child = Child::start("fall silent", &path);
    let failure = scope(|scope| {
        let given = scope.spawn(|| service.give().map(drop).unwrap_err());
        assert_eq!(child.hear(), "released");
        child.kill();
        given.join().unwrap()
    });
    service.assert_taken_back(&failure, &path);
}

/// A successor that may be serving is not raced against: it is dead before this side serves.
fn a_silent_successor_is_ended(form: Form) {
    a_successor_is_ended(form, "fall silent");
}

fn a_silent_successor_that_had_hung_up_is_ended(form: Form) {
    a_successor_is_ended(form, "fall silent and hang up");
}

fn a_successor_is_ended(form: Form, role: &str) {
    let Place { directory: _directory, path } = place();
    let hasty = config(&path).timeouts(|waits| waits.active = Duration::from_millis(200));
    let control = form.listen(hasty).unwrap();
    let service = Given { control, listener: tcp_listener() };
    // On a busy machine one may be ended before it has fallen silent: then it is the next one's turn.
    let began = Instant::now();
    while !is_ended(&service, Child::start(role, &path)).contains("released") {
        assert!(began.elapsed() < common::PATIENCE, "none has got the release");
    }
    let status = Raw::greeted(&path).ask("status");
    assert_eq!((&status["phase"], &status["history"][0]["outcome"]), (&json!("serving"), &json!("taken_back")));
    // One in good order may be late there, too, and is ended for it. This process would be, which is why it is
    // another one.
    let (mut child, released) = loop {
        let child = Child::start("serve", &path);
        match service.give() {
            Ok(released) => break (child, released),
            Err(failure) => drop(assert_ended(&failure, child)),
        }
        assert!(began.elapsed() < common::PATIENCE, "none serves in time");
    };
    released.farewell(None).unwrap();
    assert_eq!(child.hear(), "serving");
}

/// Gives the service to a successor that is ended for its silence. Returns what that had said.
fn is_ended(service: &Given, child: Child) -> String {
    let failure = service.give().map(drop).unwrap_err();
    assert_ended(&failure, child)
}

fn assert_ended(failure: &Failure, mut child: Child) -> String {
    let (said, status) = child.wait();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(nix::libc::SIGKILL));
    assert_eq!(failure.owner(), Owner::UsAgain);
    assert_eq!(*cause(failure), Cause::Died(Peer::Successor));
    said
}

/// Root's process may not be ended by another user. It may be serving, so its predecessor stays out, and says
/// so to whoever looks, until the successor says what it does.
fn a_silent_successor_that_may_not_be_ended(form: Form) {
    use std::os::unix::fs::PermissionsExt;
    if !is_root() {
        return;
    }
    let Place { directory, path } = place();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let role = if form == Form::Blocking { "give twice" } else { "give twice on tokio" };
    let mut child = Child::start_as_nobody(role, &path);
    assert_eq!(child.hear(), "listening");
    for (word, heard) in [
        (json!({"type": "abort", "code": "application", "reason": "no"}), "UsAgain"),
        (json!({"type": "active"}), "released"),
    ] {
        let mut looking = Raw::greeted(&path);
        let mut raw = Raw::receive(&path);
        raw.take_offer();
        raw.say(&json!({"type": "ready"}));
        raw.expect("release");
        while looking.ask("status")["phase"] != "stranded" {}
        raw.say(&word);
        assert_eq!(child.hear(), heard);
    }
}

fn give_twice(form: Form, mut parent: Parent) {
    let hasty = config(&parent.path).timeouts(|waits| waits.active = Duration::from_millis(20));
    let control = form.listen(hasty).unwrap();
    parent.tell("listening");
    let failure = control.give(Offer::new(), None).map(drop).unwrap_err();
    parent.tell(format!("{:?}", failure.owner()));
    let released = control.give(Offer::new(), None).map_err(|failure| failure.to_string()).unwrap();
    parent.tell("released");
    parent.hear();
    drop(released);
}

fn a_successor_that_dies_while_its_predecessor_drains(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let service = Given::new(old, &path);
    let mut child = Child::start(serving(new), &path);
    let mut released = service.give().unwrap();
    assert_eq!(child.hear(), "serving");
    assert!(released.lost(Some(Instant::now())).is_none());
    released.draining(3);
    // M105
    let outcomes = || -> Vec<Value> {
        let status = Raw::greeted(&path).ask("status");
        status["history"].as_array().unwrap().iter().map(|attempt| attempt["outcome"].clone()).collect()
    };
    assert_eq!(outcomes(), ["completed"], "as the successor tells it");
    let failure = scope(|scope| {
        let lost = scope.spawn(|| released.lost(None).unwrap());
        child.kill();
        lost.join().unwrap()
    });
    let status = Raw::greeted(&path).ask("status");
    let [completed, taken_back] = &status["history"].as_array().unwrap()[..] else { panic!("{status}") };
    assert_eq!(
        (&completed["outcome"], &taken_back["outcome"]),
        (&json!("completed"), &json!("taken_back")),
        "{status}"
    );
    for field in ["from", "successor_pid", "transfer_us", "initialise_us", "release_us", "pause_us"] {
        assert_eq!(completed[field], taken_back[field], "{status}");
    }
    let total = |attempt: &Value| attempt["total_us"].as_u64().unwrap();
    assert!(total(completed) < total(taken_back), "both count from receive: {status}");
    service.assert_taken_back(&failure, &path);
}

/// Unwinding lets the control socket go, but that is not stopping in good order.
fn a_successor_that_panics_while_its_predecessor_drains(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let service = Given::new(old, &path);
    let mut child = Child::start(serving(new), &path);
    let mut released = service.give().unwrap();
    assert_eq!(child.hear(), "serving");
    child.tell("panic");
    let failure = released.lost(None).unwrap();
    service.assert_taken_back(&failure, &path);
}

/// What happened while nobody looked is found by the next call.
fn a_successor_that_dies_before_the_farewell(form: Form) {
    let Place { directory: _directory, path } = place();
    let service = Given::new(form, &path);
    let mut child = Child::start("serve", &path);
    let mut released = service.give().unwrap();
    assert_eq!(child.hear(), "serving");
    child.kill();
    released.draining(2);
    let failure = released.lost(Some(Instant::now() + common::PATIENCE)).unwrap();
    service.assert_taken_back(&failure, &path);
}

/// Settled, it is no longer watched: its death is not a reason to take back.
fn a_successor_that_settles(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let service = Given::new(old, &path);
    let mut child = Child::start(serving(new), &path);
    let mut released = service.give().unwrap();
    assert_eq!(child.hear(), "serving");
    child.tell("stop");
    assert_eq!(child.hear(), "closed");
    child.wait();
    assert!(released.lost(Some(Instant::now())).is_none());
    released.draining(1);
    released.farewell(Some(State::bytes("to nobody"))).unwrap();
    assert!(matches!(service.control.accept(), Err(Error::Closed)));
    assert!(!path.exists(), "the one that stopped has removed it");
}

fn in_probation(form: Form, path: &Path) -> Given {
    let watchful = config(path).timeouts(|waits| waits.probation = common::PATIENCE);
    Given { control: form.listen(watchful).unwrap(), listener: tcp_listener() }
}

fn a_successor_that_dies_in_probation(form: Form) {
    let Place { directory: _directory, path } = place();
    let service = in_probation(form, &path);
    let mut child = Child::start("serve until the farewell", &path);
    let released = service.give().unwrap();
    assert_eq!(child.hear(), "serving");
    let failure = scope(|scope| {
        let parting = scope.spawn(|| released.farewell(None).unwrap_err());
        // The farewell is said, and this side watches on.
        assert_eq!(child.hear(), "alone");
        child.kill();
        parting.join().unwrap()
    });
    assert_eq!(failure.owner(), Owner::UsAgain);
    assert_eq!(*cause(&failure), Cause::Died(Peer::Successor));
    assert_eq!(Raw::greeted(&path).ask("status")["generation"], 1);
}

fn serve_until_farewell(mut parent: Parent) {
    let mut inheritance = Form::Blocking.receive(config(&parent.path)).unwrap();
    let _listener: TcpListener = inheritance.take("http").unwrap().unwrap();
    let control = inheritance.ready().unwrap();
    parent.tell("serving");
    while control.farewell().unwrap().is_some() {}
    parent.tell("alone");
    parent.hear();
}

fn a_successor_that_settles_in_probation(form: Form) {
    let Place { directory: _directory, path } = place();
    let service = in_probation(form, &path);
    let mut child = Child::start("settle after the farewell", &path);
    let released = service.give().unwrap();
    assert_eq!(child.hear(), "farewell");
    released.farewell(Some(State::bytes("farewell"))).unwrap();
    assert_eq!(child.hear(), "settled");
}

/// By hand: the library's own successor is not listened to any more after its farewell.
fn settle_after_farewell(mut parent: Parent) {
    let mut raw = Raw::receive(&parent.path);
    let _fds = raw.take_offer();
    raw.say(&json!({"type": "ready"}));
    raw.expect("release");
    raw.say(&json!({"type": "active"}));
    parent.tell("farewell");
    raw.expect("farewell");
    raw.say(&json!({"type": "settled", "ending": "handed_over"}));
    raw.expect_end();
    parent.tell("settled");
}

/// The successor goes on, and learns that nothing more will come.
fn a_predecessor_that_leaves_without_a_farewell(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let service = Given::new(old, &path);
    scope(|scope| {
        let successor = scope.spawn(|| new.receive(config(&path)).unwrap().ready().unwrap());
        drop(service.give().unwrap());
        let control = successor.join().unwrap();
        assert!(control.farewell().unwrap().is_none());
        assert_eq!(Raw::greeted(&path).ask("status")["generation"], 2);
    });
}

/// The successor waits for a farewell no longer than the predecessor said that it would drain.
fn a_drain_that_takes_too_long(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let hasty = config(&path).timeouts(|waits| waits.drain = Duration::from_millis(50));
    let control = old.listen(hasty).unwrap();
    scope(|scope| {
        let successor = scope.spawn(|| new.receive(config(&path)).unwrap().ready().unwrap());
        let released = control.give(Offer::new(), None).unwrap();
        let control = successor.join().unwrap();
        assert!(control.farewell().unwrap().is_none());
        assert_eq!(Raw::greeted(&path).ask("status")["predecessor"], Value::Null);
        drop(released);
    });
}

/// Who looks while it happens sees each phase, and then the next generation at the same path.
fn looking_at_a_service_that_hands_over(form: Form) {
    let Place { directory: _directory, path } = place();
    let service = Given::new(form, &path);
    let mut looking = Raw::greeted(&path);
    let mut raw = Raw::receive(&path);
    let asking = service.control.accept().unwrap();
    assert_eq!(looking.ask("status")["phase"], "offering");
    scope(|scope| {
        let offered = scope.spawn(|| asking.offer(Offer::new()).unwrap());
        raw.take_offer();
        while looking.ask("status")["phase"] != "initialising" {}
        raw.say(&json!({"type": "ready"}));
        let ready = offered.join().unwrap();
        let released = scope.spawn(|| ready.release(None).unwrap());
        raw.expect("release");
        assert_eq!(looking.ask("status")["phase"], "released");
        // Too late for a successor: the next generation takes the next one.
        looking.say(&json!({
            "type": "receive", "protocol": {"min": 1, "max": 1}, "pid": 1, "version": "", "schemas": [],
        }));
        looking.expect_error("error", "busy");
        looking.expect_end();
        raw.say(&json!({"type": "active"}));
        let released = released.join().unwrap();
        released.farewell(None).unwrap();
        raw.expect("farewell");
    });
}

#[test]
#[ignore = "run by other tests as a process of its own"]
fn child_main() {
    let Some((role, parent)) = child::role() else { return };
    match role.as_str() {
        "serve" => serve(Form::Blocking, parent),
        "serve on tokio" => serve(Form::last(), parent),
        "serve until the farewell" => serve_until_farewell(parent),
        "settle after the farewell" => settle_after_farewell(parent),
        "give twice" => give_twice(Form::Blocking, parent),
        "give twice on tokio" => give_twice(Form::last(), parent),
        "fall silent" => fall_silent(parent, false),
        "fall silent and hang up" => fall_silent(parent, true),
        other => panic!("no role {other}"),
    }
}
