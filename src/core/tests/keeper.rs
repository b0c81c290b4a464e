//! A successor that stands by: it has everything, and takes nothing by itself.

use super::pair::{Holder, Pair, SECOND, WAITS, gift, packet, receive, release};
use crate::core::wire::{ErrorCode, Receive};
use crate::core::{
    Cause, Peer, PredecessorCommand as GiverCommand, PredecessorEvent as GiverEvent, Role, StateTries,
    SuccessorCommand as TakerCommand, SuccessorEvent as TakerEvent, Waits,
};

fn keeper() -> Receive {
    Receive { standby: true, schemas: vec![], ..receive() }
}

/// A keeper that has everything.
fn standing_by() -> Pair {
    let mut pair = Pair::made(Waits { probation: SECOND, ..WAITS }, keeper(), true).offered();
    pair.take(TakerCommand::Ready);
    pair.run();
    pair
}

// M177
#[test]
fn a_keeper_that_reads_no_schema_has_every_state() {
    let mut pair = Pair::made(WAITS, keeper(), true);
    pair.give(GiverCommand::Offer(Box::new(gift(1, Some(packet(48, 9))))));
    pair.run();
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Complete(Some(packet(48, 9)))));
}

// M171
#[test]
fn a_newer_snapshot_takes_the_place_of_the_one_before() {
    let mut pair = standing_by();
    for length in [8, 300] {
        pair.give(GiverCommand::Checkpoint(packet(length, 1)));
        pair.run();
        assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Checkpoint(packet(length, 1))));
    }
}

#[test]
fn nobody_but_a_keeper_has_a_second_snapshot() {
    let mut pair = Pair::initialising().readied();
    pair.give(GiverCommand::Checkpoint(packet(8, 0)));
    assert_eq!(pair.giver_tags().iter().filter(|tag| **tag == "state").count(), 1);
    let state = crate::core::wire::Snapshot { state: packet(8, 0).info };
    pair.hear_giver(state, vec![8]);
    assert_eq!(pair.taker_aborted(), Some(ErrorCode::OutOfOrder));
}

#[test]
fn a_keeper_waits_for_a_release_without_a_deadline() {
    let pair = standing_by();
    assert_eq!(pair.taker.deadline(), None);
    assert_eq!(pair.giver.deadline(), None);
}

// M174
#[test]
fn the_service_that_stops_is_the_keepers_and_is_watched_no_longer_than_it_drains() {
    let mut pair = standing_by();
    pair.give(release(Some(packet(8, 2))));
    pair.run();
    assert!(pair.taker_accepts());
    assert_eq!(pair.lock, Holder::Taker);
    pair.give(GiverCommand::Farewell(vec![packet(16, 2)]));
    pair.run();
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Departed));
    assert!(pair.taker_events.contains(&TakerEvent::Farewell(packet(16, 2))));
}

// M176
#[test]
fn a_keeper_takes_nothing_by_itself() {
    let mut pair = standing_by();
    pair.kill_giver();
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Failed(Cause::Closed(Peer::Predecessor))));
    assert!(!pair.taker_accepts());
    assert_eq!(pair.lock, Holder::Nobody, "whoever initialises, or drains, comes first");
}

// M172
#[test]
fn a_keeper_that_is_to_ask_again_has_no_claim_from_this_handoff() {
    let mut pair = standing_by();
    pair.give(GiverCommand::Renew);
    pair.run();
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Failed(Cause::Renewed)));
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Failed(Cause::Renewed)));
    assert!(pair.giver_accepts());
    let mut pair = Pair::initialising().readied();
    pair.hear_giver(crate::core::wire::Renew {}, vec![]);
    assert_eq!(pair.taker_aborted(), Some(ErrorCode::OutOfOrder), "a successor is no keeper");
}

// M175
#[test]
fn a_state_is_left_out_when_so_many_have_died_of_it() {
    let mut tries = StateTries::new(2);
    let died = Cause::Died(Peer::Successor);
    let gave_up = |code| Cause::Aborted { peer: Peer::Successor, code, reason: String::new() };
    assert!(!tries.failed(&gave_up(ErrorCode::Application)), "a reason of its own");
    assert!(!tries.failed(&died));
    assert!(tries.gives());
    assert!(tries.failed(&gave_up(ErrorCode::Schema)));
    assert!(!tries.gives());
    assert!(!tries.failed(&died), "that is said once");
    tries.renew();
    assert!(tries.gives());
    assert!(!StateTries::new(0).gives());
}
