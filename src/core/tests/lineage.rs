//! Which instances a service has gone through.

use super::pair::receive;
use crate::core::wire::{ErrorCode, MAX_SUPERSEDED, Receive};
use crate::core::{Answer, Desk, Inspector, Lineage};
use std::time::Instant;

fn named(name: &str) -> Option<String> {
    Some(name.to_owned())
}

fn through(names: &[&str]) -> Lineage {
    names.iter().fold(Lineage::default(), |lineage, name| lineage.taken_over_by(named(name)))
}

// M152
#[test]
fn whoever_is_taken_over_from_is_superseded() {
    assert_eq!(through(&["a"]).superseded(), [""; 0]);
    assert_eq!(through(&["a", "a"]).superseded(), [""; 0], "an upgrade within one container");
    assert_eq!(through(&["a", "b", "b", "c"]).superseded(), ["a", "b"]);
    // It was told to: a rollback.
    assert_eq!(through(&["a", "b", "a"]).superseded(), ["b"]);
    assert_eq!(through(&["a", "b", "a"]).instance(), Some("a"));
}

#[test]
fn one_without_a_name_supersedes_nobody() {
    let lineage = through(&["a", "b"]).taken_over_by(None);
    assert_eq!((lineage.instance(), lineage.superseded()), (None, &["a".to_owned()][..]));
    assert_eq!(lineage.taken_over_by(named("b")).superseded(), ["a"]);
}

// M153
#[test]
fn a_keeper_changes_nothing() {
    let lineage = through(&["a", "b"]);
    assert_eq!(lineage.clone().kept(), lineage);
    assert_eq!(lineage.kept().taken_over_by(named("b")).superseded(), ["a"], "the same container, after a restart");
}

#[test]
fn so_many_are_remembered() {
    let names: Vec<String> = (0..MAX_SUPERSEDED + 9).map(|number| number.to_string()).collect();
    let lineage = through(&names.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(lineage.superseded().len(), MAX_SUPERSEDED);
    assert_eq!(lineage.superseded()[0], "8");
}

// M150
#[test]
fn one_that_was_superseded_and_comes_back_is_refused_unless_it_is_told_to_take_the_service() {
    let lineage = through(&["a", "b"]);
    let ask = |receive: Receive| {
        let desk = Desk { operable: true, superseded: lineage.superseded(), ..Desk::default() };
        Inspector::new(Instant::now()).line(Instant::now(), Ok(receive.into()), desk)
    };
    let from = |instance: Option<&str>| Receive { instance: instance.map(str::to_owned), ..receive() };
    for welcome in [from(None), from(Some("b")), from(Some("c")), Receive { take: true, ..from(Some("a")) }] {
        assert_eq!(ask(welcome.clone()), Answer::Begin(welcome));
    }
    let keeper = Receive { standby: true, ..from(Some("a")) };
    assert_eq!(ask(keeper.clone()), Answer::Keep(keeper));
    match ask(from(Some("a"))) {
        Answer::Refuse(_, failure) => {
            assert_eq!(failure.code, ErrorCode::Superseded);
            assert!(failure.message.contains("HANDOFF_TAKE=1"), "{}", failure.message);
        }
        other => panic!("{other:?}"),
    }
}
