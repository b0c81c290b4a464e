//! Frames of which not a byte has left.

use super::pair::{FULL, Holder, Pair, WAITS, packet, release};
use crate::core::wire::{ClientFrame, ErrorCode, ServerFrame};
use crate::core::{
    Cause, Departure, Input, PredecessorCommand as GiverCommand, PredecessorEvent as GiverEvent,
    SuccessorCommand as TakerCommand, SuccessorEvent as TakerEvent,
};

fn cause(frame: &'static str) -> Cause {
    Cause::Unsent { frame, reason: FULL.to_owned() }
}

// M70, M121
#[test]
fn a_release_that_cannot_be_sent_gives_nothing_up() {
    let mut pair = Pair::initialising().readied().release();
    assert_eq!(pair.lock, Holder::Nobody);
    pair.giver_cannot_send("release");
    assert_eq!(pair.lock, Holder::Giver, "it is taken again");
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Failed(cause("release"))));
    assert_eq!(pair.giver_aborted(), Some(ErrorCode::Application));
    assert!(pair.giver_accepts());
    pair.run();
    assert!(!pair.taker_accepts(), "it was never released to");
    assert!(
        matches!(pair.taker_events.last(), Some(TakerEvent::Failed(Cause::Aborted { reason, .. })) if reason.contains(FULL))
    );
    assert_eq!(pair.fences, 0, "and is not ended for it");
}

#[test]
fn a_release_that_cannot_be_sent_while_another_process_serves_stays_out() {
    let mut pair = Pair::initialising().readied().release();
    pair.lock = Holder::Another;
    pair.giver_cannot_send("release");
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Unknown(cause("release"))));
    assert!(!pair.giver_accepts());
}

#[test]
fn a_successor_that_dies_over_an_unsent_release_is_taken_back_from() {
    let mut pair = Pair::initialising().readied().release();
    pair.drop_frames_to_taker();
    pair.kill_taker();
    assert!(pair.giver_accepts());
    let events = pair.giver_events.len();
    pair.giver_cannot_send("release");
    assert_eq!(pair.giver_events.len(), events);
}

#[test]
fn what_cannot_be_sent_before_release_fails_the_handoff() {
    for (mut pair, frame) in
        [(Pair::new(), "offer"), (Pair::initialising(), "state"), (Pair::initialising().readied(), "state")]
    {
        pair.giver_cannot_send(frame);
        assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Failed(cause(frame))));
        assert!(pair.giver_accepts());
        pair.run();
        assert!(matches!(pair.taker_events.last(), Some(TakerEvent::Failed(Cause::Aborted { .. }))));
    }
    let mut pair = Pair::initialising();
    pair.take(TakerCommand::Ready);
    pair.taker_cannot_send("ready");
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Failed(cause("ready"))));
    pair.run();
    assert!(!pair.giver_events.contains(&GiverEvent::Ready), "it was withdrawn");
    assert!(matches!(pair.giver_events.last(), Some(GiverEvent::Failed(Cause::Aborted { .. }))));
}

#[test]
fn an_active_that_cannot_be_sent_is_tried_again() {
    let mut pair = Pair::initialising().readied().release();
    pair.carry_one();
    assert!(pair.taker_accepts());
    let said = pair.taker_said.len();
    (0..3).for_each(|_| pair.taker_cannot_send("active"));
    assert_eq!(pair.taker_said.len(), said);
    assert!(matches!(pair.taker_said.last(), Some(ClientFrame::Active(_))));
    pair.run();
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Active), "it was not withdrawn");
    assert!(pair.taker_accepts());
}

#[test]
fn a_farewell_that_cannot_be_sent_is_tried_again() {
    let mut pair = Pair::serving(WAITS);
    pair.give(GiverCommand::Draining(3));
    pair.giver_cannot_send("draining");
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Active));
    pair.give(GiverCommand::Farewell(vec![packet(8, 0)]));
    let events = pair.giver_events.len();
    pair.giver_cannot_send("farewell");
    assert_eq!(pair.giver_events.len(), events);
    assert!(matches!(pair.giver_said.last(), Some((ServerFrame::Farewell(_), _))));
    pair.run();
    assert!(pair.taker_events.contains(&TakerEvent::Farewell(packet(8, 0))));
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Departed(Departure::Farewell)));
}

/// The deadline for `active` runs on meanwhile, and a release that is on its way is not withdrawn for another frame.
#[test]
fn an_answer_that_cannot_be_sent_leaves_the_release_alone() {
    let mut pair = Pair::initialising().readied().release();
    pair.giver_input(Input::Garbled(crate::core::wire::WireError::UnknownType("hop".to_owned())));
    pair.giver_cannot_send("error");
    assert!(!pair.giver_accepts());
    pair.run();
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Active));
}

#[test]
fn a_release_that_cannot_be_sent_twice_fails_once() {
    let mut pair = Pair::initialising().readied();
    pair.give(release(None));
    pair.giver_cannot_send("release");
    pair.giver_cannot_send("abort");
    pair.giver_cannot_send("release");
    let failed = |event: &&GiverEvent| matches!(event, GiverEvent::Failed(_));
    assert_eq!(pair.giver_events.iter().filter(failed).count(), 1);
}
