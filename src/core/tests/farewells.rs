//! The drain, and the last states.

use super::pair::{Pair, SECOND, WAITS, info, packet};
use crate::core::wire::{Ending, Farewell, MAX_FAREWELLS, ServerFrame};
use crate::core::{
    Departure, Packet, PredecessorCommand as GiverCommand, PredecessorEvent as GiverEvent,
    SuccessorCommand as TakerCommand, SuccessorEvent as TakerEvent,
};

fn farewells(pair: &Pair) -> Vec<Packet<u32>> {
    let farewell = |event: &TakerEvent<u32>| match event {
        TakerEvent::Farewell(packet) => Some(packet.clone()),
        _ => None,
    };
    pair.taker_events.iter().filter_map(farewell).collect()
}

#[test]
fn draining_is_passed_on() {
    let mut pair = Pair::serving(WAITS);
    pair.give(GiverCommand::Draining(12));
    pair.run();
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Draining(12)));
}

// M85
#[test]
fn farewells_come_in_order_and_all_but_the_last_say_more() {
    let mut pair = Pair::serving(WAITS);
    pair.give(GiverCommand::Farewell(vec![packet(1, 0), packet(2, 0), packet(3, 0)]));
    pair.run();
    assert_eq!(farewells(&pair), [packet(1, 0), packet(2, 0), packet(3, 0)]);
    let more = |(frame, _): &(ServerFrame, Vec<u32>)| match frame {
        ServerFrame::Farewell(farewell) => Some(farewell.more),
        _ => None,
    };
    assert_eq!(pair.giver_said.iter().filter_map(more).collect::<Vec<bool>>(), [true, true, false]);
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Departed(Departure::Farewell)));
}

// M86
#[test]
fn of_too_many_farewells_the_newest_are_said() {
    let mut pair = Pair::serving(WAITS);
    let all: Vec<_> = (0..=MAX_FAREWELLS as u32).map(|number| packet(number, 0)).collect();
    pair.give(GiverCommand::Farewell(all.clone()));
    pair.run();
    assert_eq!(farewells(&pair), all[1..]);
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Departed(Departure::Farewell)));
}

// M86
#[test]
fn a_predecessor_without_end_is_not_listened_to() {
    let mut pair = Pair::serving(WAITS);
    for _ in 0..2 * MAX_FAREWELLS {
        pair.hear_giver(Farewell { state: Some(info(1, 0)), more: true }, vec![1]);
    }
    assert!(farewells(&pair).len() < MAX_FAREWELLS);
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Departed(Departure::Lost)));
    assert!(pair.taker_accepts());
}

// M87
#[test]
fn a_drain_that_takes_too_long_is_not_waited_for() {
    let mut pair = Pair::serving(WAITS);
    pair.advance(30 * SECOND);
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Departed(Departure::Overdue)));
    assert!(pair.taker_accepts());
}

// M76, M87
#[test]
fn an_overdue_predecessor_still_hears_settled() {
    let mut pair = Pair::serving(WAITS);
    pair.advance(30 * SECOND);
    pair.give(GiverCommand::Farewell(vec![packet(1, 0)]));
    pair.run();
    assert_eq!(farewells(&pair), [], "too late to be heard");

    let mut pair = Pair::serving(WAITS);
    pair.advance(30 * SECOND);
    pair.take(TakerCommand::Settle(Ending::Stopped));
    pair.kill_taker();
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Settled(Ending::Stopped)));
    assert!(!pair.giver_accepts());
}

#[test]
fn the_drain_deadline_is_the_predecessors() {
    let mut waits = WAITS;
    waits.drain = 1000 * SECOND;
    let mut pair = Pair::serving(waits);
    // The offer says 30 seconds.
    pair.advance(30 * SECOND);
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Departed(Departure::Overdue)));
}

#[test]
fn a_farewell_says_no_more_than_once() {
    let mut pair = Pair::serving(WAITS);
    pair.give(GiverCommand::Farewell(vec![]));
    let said = pair.giver_said.len();
    pair.give(GiverCommand::Farewell(vec![packet(1, 0)]));
    pair.give(GiverCommand::Draining(1));
    assert_eq!(pair.giver_said.len(), said);
}
