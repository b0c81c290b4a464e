//! The lock that whoever accepts holds: who takes it and gives it up when, and what follows where another process has it.

use super::pair::{Holder, Pair, SECOND, WAITS, release};
use crate::core::wire::{Ending, ErrorCode};
use crate::core::{
    Cause, Input, Peer, PredecessorCommand as GiverCommand, PredecessorEvent as GiverEvent, Role,
    SuccessorCommand as TakerCommand, SuccessorEvent as TakerEvent, Waits,
};

const PROBATION: Waits = Waits { probation: SECOND, ..WAITS };

// M120, M122
#[test]
fn the_lock_goes_from_whoever_accepts_to_whoever_accepts() {
    let mut pair = Pair::initialising().readied();
    assert_eq!(pair.lock, Holder::Giver);
    pair.give(release(None));
    assert_eq!(pair.lock, Holder::Nobody);
    pair.run();
    assert_eq!(pair.lock, Holder::Taker);
    pair.kill_taker();
    assert_eq!(pair.lock, Holder::Giver);
    assert!(pair.giver_accepts());
}

#[test]
fn a_handoff_that_fails_before_release_leaves_the_lock_where_it_is() {
    let mut pair = Pair::initialising().readied();
    pair.take(TakerCommand::Abort(Cause::Here("no".to_owned())));
    pair.run();
    assert_eq!(pair.lock, Holder::Giver);
    assert!(pair.giver_accepts());
}

/// The predecessor of the predecessor took back, for instance, since the predecessor is dead.
#[test]
fn a_successor_that_is_released_to_stays_out_where_another_process_serves() {
    let mut pair = Pair::initialising().readied().release();
    pair.lock = Holder::Another;
    pair.run();
    assert!(!pair.taker_accepts());
    assert!(!pair.taker_tags().contains(&"active"));
    assert_eq!(pair.taker_aborted(), Some(ErrorCode::Application));
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Failed(Cause::Outrun(Peer::Predecessor))));
    assert!(!pair.giver_accepts(), "nor does the predecessor");
    assert!(matches!(pair.giver_events.last(), Some(GiverEvent::Unknown(Cause::Aborted { .. }))));
}

// M123
#[test]
fn a_successor_that_could_not_take_the_lock_gives_the_service_back() {
    let mut pair = Pair::initialising().readied().release();
    pair.lock = Holder::Another;
    pair.carry_one();
    pair.lock = Holder::Nobody;
    pair.run();
    assert!(matches!(pair.giver_events.last(), Some(GiverEvent::TakenBack(Cause::Aborted { .. }))));
    assert!(pair.giver_accepts());
    assert_eq!(pair.lock, Holder::Giver);
}

/// As its destructor says it where a panic comes between the release and what follows from it.
#[test]
fn a_successor_that_gives_up_while_it_takes_the_lock_lets_it_go_before_it_says_so() {
    let mut pair = Pair::initialising().readied().release();
    pair.hear_and_take(TakerCommand::Abort(Cause::Here("a panic".to_owned())));
    assert_eq!(pair.lock, Holder::Nobody);
    pair.run();
    assert!(!pair.taker_tags().contains(&"active"));
    assert!(matches!(pair.giver_events.last(), Some(GiverEvent::TakenBack(Cause::Aborted { .. }))));
    assert!(pair.giver_accepts());
}

// M72
#[test]
fn an_orphan_takes_the_lock() {
    let mut pair = Pair::initialising();
    pair.kill_giver();
    assert_eq!(pair.lock, Holder::Nobody, "not before it is ready");
    pair.take(TakerCommand::Ready);
    assert_eq!(pair.lock, Holder::Taker);
    assert_eq!(pair.taker_released(), Some(false));
}

// M124
#[test]
fn an_orphan_that_is_outrun_fails() {
    for ready_first in [true, false] {
        let mut pair = Pair::initialising();
        if ready_first {
            pair = pair.readied();
        }
        pair.kill_giver_outrun();
        if !ready_first {
            assert!(!pair.taker_events.iter().any(|event| matches!(event, TakerEvent::Failed(_))));
            pair.take(TakerCommand::Ready);
        }
        assert!(!pair.taker_accepts());
        assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Failed(Cause::Outrun(Peer::Predecessor))));
        assert!(pair.taker.is_over());
        assert_eq!(pair.lock, Holder::Another);
    }
}

/// The successor's own successor serves by then, as a rule.
#[test]
fn a_predecessor_that_drains_stays_out_where_another_process_serves() {
    let mut pair = Pair::serving(WAITS);
    pair.lock = Holder::Another;
    pair.kill_taker();
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Settled(Ending::HandedOver)));
    assert!(!pair.giver_accepts());
    pair.lock = Holder::Nobody;
    pair.giver_input(Input::Died);
    assert!(!pair.giver_accepts(), "what it let go it does not take");
    pair.give(GiverCommand::Farewell(vec![]));
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Departed));
}

#[test]
fn a_predecessor_that_has_drained_departs_where_another_process_serves() {
    let mut pair = Pair::serving(PROBATION);
    pair.give(GiverCommand::Farewell(vec![]));
    pair.lock = Holder::Another;
    pair.kill_taker();
    let (settled, departed) = (GiverEvent::Settled(Ending::HandedOver), GiverEvent::Departed);
    assert_eq!(pair.giver_events[pair.giver_events.len() - 2..], [settled, departed]);
    assert_eq!(pair.giver.deadline(), None);
}

#[test]
fn a_predecessor_that_waits_for_active_stays_out_where_another_process_serves() {
    for fenced in [None, Some(true), Some(false)] {
        let mut pair = Pair::initialising().readied().release();
        pair.drop_frames_to_taker();
        if let Some(taken) = fenced {
            pair.advance(5 * SECOND);
            pair.giver_input(Input::Fenced(taken));
        }
        pair.lock = Holder::Another;
        pair.kill_taker();
        assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Unknown(Cause::Died(Peer::Successor))));
        assert!(!pair.giver_accepts());
    }
}

/// A successor that serves and says that it does not, though it still holds the lock.
#[test]
fn an_abort_from_one_that_serves_gives_nothing_back() {
    let mut pair = Pair::serving(WAITS);
    let reason = "no more".to_owned();
    pair.hear_taker(crate::core::wire::Abort { code: ErrorCode::Application, reason });
    assert!(!pair.giver_accepts() && pair.taker_accepts());
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Settled(Ending::HandedOver)));
}

#[test]
fn nobody_answers_a_question_that_was_not_asked() {
    let mut pair = Pair::serving(WAITS);
    let (giver, taker) = (pair.giver_events.len(), pair.taker_events.len());
    for ours in [true, false] {
        pair.giver_input(Input::Claimed(ours));
        pair.taker_input(Input::Claimed(ours));
    }
    assert_eq!((pair.giver_events.len(), pair.taker_events.len()), (giver, taker));
}
