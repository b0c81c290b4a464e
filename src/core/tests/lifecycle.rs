//! A generation's life around its handoffs.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::core::wire::{Ending, ErrorCode, PROTOCOL, Receive};
use crate::core::{Leave, Leaving, Lifecycle};

fn serving() -> Lifecycle {
    let mut life = Lifecycle::new(2, 22, true);
    life.own(VecDeque::new(), None);
    life
}

fn receive() -> Receive {
    Receive {
        protocol: PROTOCOL,
        pid: 33,
        version: "1".to_owned(),
        schemas: vec![0],
        fingerprints: None,
        services: None,
        standby: false,
        instance: None,
        take: false,
    }
}

#[test]
fn an_upgrade_is_busy_with_itself_a_handoff_and_a_stop() {
    let (mut life, now) = (serving(), Instant::now());
    assert_eq!(life.ask_upgrade(now), Ok(()));
    assert!(life.ask_upgrade(now).is_err());
    let mut life = serving();
    life.receive(&receive());
    assert!(life.ask_upgrade(now).is_err());
    let mut life = serving();
    life.tell_to_stop(now);
    assert!(life.ask_upgrade(now).is_err());
}

#[test]
fn no_upgrade_begins_before_the_service_is_owned() {
    let mut life = Lifecycle::new(2, 22, true);
    assert_eq!(life.ask_upgrade(Instant::now()), Err(Lifecycle::NOT_YET.to_owned()));
    life.own(VecDeque::new(), None);
    assert_eq!(life.ask_upgrade(Instant::now()), Ok(()));
}

#[test]
fn whoever_comes_too_late_is_not_told_to_try_again_by_one_that_has_stopped() {
    let desk = |how| {
        let mut life = serving();
        life.leave(how);
        life.desk().successor
    };
    assert_eq!((desk(Leave::Stopped), desk(Leave::Crashed)), (None, None));
    assert_eq!(desk(Leave::HandedOver), Some(22));
}

// M154
#[test]
fn an_upgrade_goes_on_after_one_that_was_superseded_or_is_in_the_way() {
    let mut life = serving();
    assert!(!life.is_given_up_with(ErrorCode::Version), "there is none");
    assert!(life.ask_upgrade(Instant::now()).is_ok());
    assert!(!life.is_given_up_with(ErrorCode::Superseded) && !life.is_given_up_with(ErrorCode::Busy));
    assert!(life.is_given_up_with(ErrorCode::Version) && life.is_given_up_with(ErrorCode::Name));
}

// M129
#[test]
fn a_stop_ends_an_own_child_at_once_and_leaves_others_the_time_of_a_drain() {
    let (mut life, now, drain) = (serving(), Instant::now(), Duration::from_secs(3));
    life.receive(&receive());
    assert_eq!(life.stop_limit(drain), None);
    life.tell_to_stop(now);
    assert_eq!(life.stop_limit(drain), Some(now + drain));
    life.has_own_child();
    assert_eq!(life.stop_limit(drain), Some(now));
}

#[test]
fn two_words_are_all_that_a_stop_can_say() {
    let (mut life, now) = (serving(), Instant::now());
    assert!(life.tell_to_stop(now) && !life.is_to_end_now());
    assert!(life.tell_to_stop(now) && life.is_to_end_now());
    assert!(!life.tell_to_stop(now));
}

#[test]
fn only_one_that_stops_while_it_serves_removes_the_path() {
    assert!(serving().leave(Leave::Stopped).removes_path);
    assert_eq!(serving().leave(Leave::Crashed), Leaving { removes_path: false, settles: None });
    let mut life = serving();
    life.receive(&receive());
    life.release();
    assert_eq!(life.leave(Leave::HandedOver), Leaving { removes_path: false, settles: Some(Ending::HandedOver) });
}

// M127
#[test]
fn a_crash_stays_one_whatever_is_said_behind_it() {
    let mut life = serving();
    life.leave(Leave::Crashed);
    assert_eq!(life.leave(Leave::Stopped).settles, None);
    assert_eq!(life.left(), Some(Leave::Crashed));
}
