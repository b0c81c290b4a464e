//! Another program at the control path: it does not take the service over unless it is told to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;
#[cfg(feature = "bincode")]
#[path = "common/example.rs"]
mod example;

use std::path::Path;
use std::thread::scope;

use common::raw::{Raw, RawPredecessor};
use common::service::Plan;
use common::{Form, PATIENCE, Place, Service, config, forms, pairings, place};
use fd_handoff::client::{Client, News, Outcome, Step};
use fd_handoff::{Config, Error, Finish};
use serde_json::json;

pairings! {
    another_name_is_refused_before_anything_is_given
    a_service_that_was_renamed_is_taken_over
    names_that_nobody_has_chosen_are_not_compared
    an_upgrade_to_another_program_says_so
}

forms! {
    a_service_by_hand_of_another_name_is_left_alone
}

fn named(path: &Path, name: &str) -> Config {
    config(path).name(name)
}

fn other(error: Option<Error>) -> (String, Vec<String>) {
    match error {
        Some(Error::OtherService { found, wanted }) => (found, wanted),
        other => panic!("{other:?}"),
    }
}

// M143, M144
fn another_name_is_refused_before_anything_is_given(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let service = Service::start(old, named(&path, "billing"), &path);
    let error = new.receive(named(&path, "invoices").replaces("orders")).err();
    let told = error.as_ref().map(ToString::to_string).unwrap_or_default();
    assert!(told.contains(r#""billing""#) && told.contains(r#"["invoices", "orders"]"#), "{told}");
    assert!(told.contains(r#"Config::replaces("billing")"#), "what to do: {told}");
    assert_eq!(other(error), ("billing".to_owned(), vec!["invoices".to_owned(), "orders".to_owned()]));
    // No attempt of it is in the history, and whoever is meant takes over.
    assert_eq!(Raw::greeted(&path).ask("status")["history"], json!([]));
    service.assert_unharmed();
}

fn a_service_that_was_renamed_is_taken_over(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let control = old.listen(named(&path, "billing")).unwrap();
    scope(|scope| {
        let successor =
            scope.spawn(|| new.receive(named(&path, "invoices").replaces("billing")).unwrap().ready().unwrap());
        control.give(fd_handoff::Offer::new(), None).unwrap().farewell(None).unwrap();
        assert_eq!(successor.join().unwrap().generation(), 2);
    });
}

/// The program's file may have its version in its name.
fn names_that_nobody_has_chosen_are_not_compared(old: Form, new: Form) {
    let unnamed = |path: &Path| Config::new(path).timeouts(|waits| waits.active = PATIENCE);
    for (gives, takes) in [(false, true), (true, false), (false, false)] {
        let Place { directory: _directory, path } = place();
        let config = |named: bool, name: &str| if named { unnamed(&path).name(name) } else { unnamed(&path) };
        let control =
            old.listen(config(gives, "billing").timeouts(|waits| waits.probation = std::time::Duration::ZERO));
        let control = control.unwrap();
        scope(|scope| {
            let successor = scope.spawn(|| new.receive(config(takes, "invoices")).unwrap().ready().unwrap());
            control.give(fd_handoff::Offer::new(), None).unwrap().farewell(None).unwrap();
            assert_eq!(successor.join().unwrap().generation(), 2);
        });
    }
}

// M143
fn an_upgrade_to_another_program_says_so(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let plan = Plan { elsewhere: true, ..Plan::default() };
    let mut handoff = old.start_with(named(&path, "billing"), plan).unwrap().ready().unwrap();
    scope(|scope| {
        let serving = scope.spawn(move || while handoff.run().unwrap() == Finish::Resume {});
        let mut steps = Client::connect(&path).unwrap().upgrade(None).unwrap();
        // Once it is awaited, the wrong one comes.
        while !matches!(steps.next().unwrap().unwrap(), Step::Event(event) if event.event == News::Awaited) {}
        assert!(matches!(new.receive(named(&path, "invoices")), Err(Error::OtherService { .. })));
        let attempt = loop {
            match steps.next().unwrap().unwrap() {
                Step::Outcome(attempt) => break attempt,
                Step::Event(_) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(attempt.outcome, Outcome::Failed);
        let reason = attempt.reason.unwrap();
        assert!(reason.contains(r#"this is the service "billing""#) && reason.contains("invoices"), "{reason}");
        Client::connect(&path).unwrap().stop().unwrap();
        serving.join().unwrap();
    });
}

/// One that compares nothing itself.
// M144
fn a_service_by_hand_of_another_name_is_left_alone(form: Form) {
    let Place { directory: _directory, path } = place();
    let old = RawPredecessor::new(&path);
    scope(|scope| {
        let successor = scope.spawn(|| form.receive(named(&path, "invoices")).err());
        let mut raw = old.accept();
        raw.say(&json!({
            "type": "hello", "protocol": {"min": 1, "max": 1}, "name": "billing", "version": "0", "pid": 1, "generation": 1,
            "phase": "serving",
        }));
        let receive = raw.expect("receive");
        assert_eq!(receive["services"], json!(["invoices"]));
        raw.expect_error("abort", "name");
        assert_eq!(other(successor.join().unwrap()).0, "billing");
    });
}

/// Real programs: the example `http`, on tokio, and the example `echo`, on threads.
#[cfg(all(feature = "tokio", feature = "bincode"))]
#[test]
fn the_examples_do_not_take_each_other_over() {
    use std::process::Command;

    use example::{Process, program};

    let (_directory, path) = example::place();
    let http = ["--listen", "127.0.0.1:0", "--control", path.as_str()];
    let echo = ["127.0.0.1:0", path.as_str()];
    for ((ours, ours_with), (other, other_with)) in
        [(("http", &http[..]), ("echo", &echo[..])), (("echo", &echo[..]), ("http", &http[..]))]
    {
        let mut serves = Process::start(ours, ours_with);
        let refused = Command::new(program(other)).args(other_with).output().unwrap();
        assert!(!refused.status.success());
        let told = String::from_utf8_lossy(&refused.stderr);
        let wanted = format!("the service that runs here is {ours:?}, and this program takes over [{other:?}] alone");
        assert!(told.contains(&wanted), "{told}");
        serves.connect();
        let mut next = Process::start(ours, ours_with);
        assert_eq!(next.word("generation="), "2");
        serves.ends_well();
        Client::connect(Path::new(&path)).unwrap().status().unwrap();
        next.child.kill().unwrap();
        next.child.wait().unwrap();
    }
}
