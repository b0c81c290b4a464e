//! The words `watch`, `upgrade` and `stop`, said by hand to a service that runs on the facade.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::Path;
use std::thread::JoinHandle;

use common::raw::Raw;
use common::{Form, PATIENCE, Place, config, forms, place};
use fd_handoff::{Config, Finish, Offer, handoff_receive};
use serde_json::{Value, json};

forms! {
    a_handoff_is_watched
    an_upgrade_is_told_how_it_ends
    one_that_has_said_everything_goes_on_listening
    an_upgrade_has_its_time
    one_that_was_superseded_and_comes_back_ends_no_upgrade
    a_stop_waits_for_a_handoff
    a_stop_ends_the_service
}

/// Runs a service without sockets, whose successors others start, until it is to exit.
fn service(form: Form, path: &Path) -> JoinHandle<Finish> {
    service_with(form, config(path))
}

fn service_with(form: Form, config: Config) -> JoinHandle<Finish> {
    let (says_ready, is_ready) = std::sync::mpsc::channel();
    let service = std::thread::spawn(move || match form {
        Form::Blocking => {
            let builder = fd_handoff::Handoff::builder(config).successor_elsewhere();
            let mut handoff = builder.start().unwrap().ready().unwrap();
            says_ready.send(()).unwrap();
            handoff.superseded();
            handoff.finish().unwrap()
        }
        #[cfg(feature = "tokio")]
        Form::Tokio => common::runtime().block_on(async {
            let builder = fd_handoff::tokio::Handoff::builder(config).successor_elsewhere();
            let mut handoff = builder.start().await.unwrap().ready().await.unwrap();
            says_ready.send(()).unwrap();
            handoff.superseded().await;
            handoff.finish(std::future::ready(())).await.unwrap()
        }),
    });
    is_ready.recv_timeout(PATIENCE).unwrap();
    service
}

/// Reads events up to this one.
fn event(raw: &mut Raw, wanted: &str) -> Value {
    loop {
        let frame = raw.expect("event");
        if frame["event"] == wanted {
            return frame;
        }
    }
}

/// Takes the service over, and lets it go again.
fn take_over(successor: &mut Raw) {
    successor.take_offer();
    successor.say(&json!({"type": "ready"}));
    successor.expect("release");
    successor.say(&json!({"type": "active"}));
    successor.say(&json!({"type": "settled", "ending": "handed_over"}));
}

// M89
fn a_handoff_is_watched(form: Form) {
    let Place { directory: _directory, path } = place();
    let service = service(form, &path);
    let mut watcher = Raw::greeted(&path);
    let status = watcher.ask("watch");
    assert_eq!((&status["type"], &status["phase"]), (&json!("status"), &json!("serving")));
    let mut successor = Raw::receive(&path);
    successor.take_offer();
    successor.say(&json!({"type": "progress", "message": "warming caches"}));
    successor.say(&json!({"type": "ready"}));
    successor.expect("release");
    successor.say(&json!({"type": "active"}));
    successor.say(&json!({"type": "settled", "ending": "handed_over"}));
    // It may settle before or after this process has drained, or too late to be heard.
    let heard = std::iter::from_fn(|| Some(watcher.line()?.0));
    let news: Vec<Value> = heard.filter(|event| event["event"] != "settled").collect();
    let names: Vec<&str> = news.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["receive", "transferred", "progress", "ready", "release", "active", "draining", "farewell"]);
    assert_eq!((&news[2]["message"], &news[2]["pid"]), (&json!("warming caches"), &json!(4242)));
    assert!(news.iter().all(|event| event["generation"] == 1), "{news:?}");
    assert_eq!(service.join().unwrap(), Finish::Exit);
}

/// Whatever has replaced it restarts it in the middle of the next rollout.
// M154
fn one_that_was_superseded_and_comes_back_ends_no_upgrade(form: Form) {
    let Place { directory: _directory, path } = place();
    let first = handoff_receive(config(&path).instance("a")).unwrap().ready().unwrap();
    let giving = std::thread::spawn(move || {
        let ready = first.accept().unwrap().offer(Offer::new()).unwrap();
        ready.release(None).unwrap().farewell(None).unwrap();
    });
    let service = service_with(form, config(&path).instance("b"));
    giving.join().unwrap();
    let mut asker = Raw::greeted(&path);
    asker.write(b"upgrade\n");
    event(&mut asker, "awaited");
    let mut comes_back = Raw::greeted(&path);
    comes_back.say(&json!({
        "type": "receive", "protocol": { "min": 1, "max": 1 }, "pid": 1, "version": "1", "schemas": [0], "instance": "a",
    }));
    comes_back.expect_error("error", "superseded");
    event(&mut asker, "refused");
    take_over(&mut Raw::receive(&path));
    let outcome = loop {
        let (frame, _) = asker.line().unwrap();
        if frame["type"] == "outcome" {
            break frame;
        }
    };
    assert_eq!((&outcome["outcome"], &outcome["successor_pid"]), (&json!("completed"), &json!(4242)), "{outcome}");
    assert_eq!(service.join().unwrap(), Finish::Exit);
}

// M90, M91, M92
fn an_upgrade_is_told_how_it_ends(form: Form) {
    let Place { directory: _directory, path } = place();
    let service = service(form, &path);
    let (mut asker, mut late) = (Raw::greeted(&path), Raw::greeted(&path));
    asker.write(b"upgrade\n");
    event(&mut asker, "awaited");
    assert_eq!(late.ask("upgrade")["code"], "busy");
    // One that gives up ends the upgrade.
    let mut fickle = Raw::receive(&path);
    fickle.take_offer();
    assert!(late.ask("upgrade")["message"].as_str().unwrap().contains("4242"));
    fickle.say(&json!({"type": "abort", "code": "application", "reason": "no licence"}));
    event(&mut asker, "failed");
    let outcome = asker.expect("outcome");
    assert_eq!((&outcome["outcome"], &outcome["successor_pid"]), (&json!("failed"), &json!(4242)));
    assert!(outcome["reason"].as_str().unwrap().contains("no licence"), "{outcome}");
    // The same connection may ask again.
    asker.write(b"upgrade\n");
    event(&mut asker, "awaited");
    take_over(&mut Raw::receive(&path));
    event(&mut asker, "active");
    let outcome = asker.expect("outcome");
    assert_eq!(outcome["outcome"], "completed", "{outcome}");
    assert_eq!(service.join().unwrap(), Finish::Exit);
}

/// As `echo upgrade | socat` does.
fn one_that_has_said_everything_goes_on_listening(form: Form) {
    let Place { directory: _directory, path } = place();
    let service = service(form, &path);
    let (mut watcher, mut asker, mut gone) = (Raw::greeted(&path), Raw::greeted(&path), Raw::greeted(&path));
    assert_eq!(watcher.ask("watch")["type"], "status");
    assert_eq!(gone.ask("watch")["type"], "status");
    asker.write(b"upgrade\n");
    [&watcher, &asker, &gone].into_iter().for_each(Raw::close_for_writing);
    event(&mut gone, "awaited");
    drop(gone);
    event(&mut asker, "awaited");
    let mut fickle = Raw::receive(&path);
    fickle.take_offer();
    fickle.say(&json!({"type": "abort", "code": "application", "reason": "no licence"}));
    event(&mut asker, "failed");
    asker.expect("outcome");
    asker.expect_end();
    event(&mut watcher, "failed");
    take_over(&mut Raw::receive(&path));
    event(&mut watcher, "farewell");
    assert_eq!(service.join().unwrap(), Finish::Exit);
}

fn an_upgrade_has_its_time(form: Form) {
    let Place { directory: _directory, path } = place();
    let service = service(form, &path);
    let mut asker = Raw::greeted(&path);
    asker.say(&json!({"type": "upgrade", "timeout_ms": 20}));
    event(&mut asker, "failed");
    assert!(asker.expect("outcome")["reason"].as_str().unwrap().contains("nobody asked for the service in time"));
    // A successor that goes on for ever with its initialisation.
    asker.say(&json!({"type": "upgrade", "timeout_ms": 300}));
    event(&mut asker, "awaited");
    let mut slow = Raw::receive(&path);
    slow.take_offer();
    slow.say(&json!({"type": "progress", "message": "still at it"}));
    slow.expect_error("abort", "timeout");
    event(&mut asker, "failed");
    assert_eq!(asker.expect("outcome")["outcome"], "failed");
    assert_eq!(asker.ask("stop")["type"], "stopping");
    assert_eq!(service.join().unwrap(), Finish::Exit);
}

// M93
fn a_stop_waits_for_a_handoff(form: Form) {
    let Place { directory: _directory, path } = place();
    let service = service(form, &path);
    let mut operator = Raw::greeted(&path);
    let mut successor = Raw::receive(&path);
    successor.take_offer();
    assert_eq!(operator.ask("stop")["type"], "stopping");
    successor.say(&json!({"type": "ready"}));
    successor.expect("release");
    successor.say(&json!({"type": "active"}));
    successor.expect("draining");
    successor.expect("farewell");
    assert_eq!(service.join().unwrap(), Finish::Exit);
    assert!(path.exists(), "the path is the successor's");
}

fn a_stop_ends_the_service(form: Form) {
    let Place { directory: _directory, path } = place();
    let service = service(form, &path);
    let mut operator = Raw::greeted(&path);
    let mut fickle = Raw::receive(&path);
    fickle.take_offer();
    assert_eq!(operator.ask("stop")["type"], "stopping");
    // The handoff that it waited for fails, and nothing keeps it any more.
    drop(fickle);
    while operator.line().is_some() {}
    assert_eq!(service.join().unwrap(), Finish::Exit);
    assert!(!path.exists());
}
