//! How a successor that serves ends, and what its predecessor makes of it.

use std::time::Duration;

use super::pair::{Holder, Pair, SECOND, WAITS};
use crate::core::wire::{Ending, ErrorCode, Settled};
use crate::core::{
    Cause, Departure, Input, Peer, PredecessorCommand as GiverCommand, PredecessorEvent as GiverEvent, Role,
    SuccessorCommand as TakerCommand, SuccessorEvent as TakerEvent, Waits,
};

const PROBATION: Waits = Waits { probation: Duration::from_secs(20), ..WAITS };

fn settle(pair: &mut Pair, ending: Ending) {
    pair.take(TakerCommand::Settle(ending));
    pair.run();
}

fn settled(pair: &Pair) -> Vec<Ending> {
    let ending = |event: &GiverEvent| if let GiverEvent::Settled(ending) = event { Some(*ending) } else { None };
    pair.giver_events.iter().filter_map(ending).collect()
}

// M76, M126
#[test]
fn a_successor_that_has_stopped_waits_until_its_predecessor_has_let_go() {
    let mut pair = Pair::serving(PROBATION);
    settle(&mut pair, Ending::Stopped);
    assert_eq!(settled(&pair), [Ending::Stopped]);
    assert!(!pair.giver_events.contains(&GiverEvent::Departed));
    pair.advance(1000 * SECOND);
    pair.give(GiverCommand::Farewell(vec![]));
    assert!(!pair.giver_events.contains(&GiverEvent::Departed), "neither time nor the end of the drain lets go");
    pair.give(GiverCommand::LetGo);
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Departed));
    pair.kill_taker();
    assert!(!pair.giver_accepts());
}

// M76, M82
#[test]
fn a_predecessor_that_has_drained_lets_go_before_it_departs() {
    let mut pair = Pair::serving(PROBATION);
    pair.give(GiverCommand::Farewell(vec![]));
    pair.run();
    settle(&mut pair, Ending::Stopped);
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Settled(Ending::Stopped)));
    pair.advance(1000 * SECOND);
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Settled(Ending::Stopped)));
    pair.give(GiverCommand::LetGo);
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Departed));
}

#[test]
fn letting_go_ends_nothing_else() {
    let mut pair = Pair::serving(PROBATION);
    pair.give(GiverCommand::LetGo);
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Active));
    settle(&mut pair, Ending::HandedOver);
    pair.give(GiverCommand::LetGo);
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Settled(Ending::HandedOver)), "it goes on draining");
    pair.give(GiverCommand::Farewell(vec![]));
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Departed));
}

#[test]
fn one_that_has_handed_over_and_is_told_to_stop_says_both() {
    let mut pair = Pair::serving(PROBATION);
    settle(&mut pair, Ending::HandedOver);
    settle(&mut pair, Ending::Stopped);
    assert_eq!(settled(&pair), [Ending::HandedOver, Ending::Stopped]);
    pair.give(GiverCommand::LetGo);
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Departed));
}

/// Somebody waits for the predecessor to let go, and a lesser word behind it does not change that.
#[test]
fn stopped_is_the_last_word() {
    let mut pair = Pair::serving(PROBATION);
    settle(&mut pair, Ending::Stopped);
    settle(&mut pair, Ending::HandedOver);
    assert_eq!(pair.taker_tags().iter().filter(|tag| **tag == "settled").count(), 1);
    pair.hear_taker(Settled { ending: Ending::HandedOver });
    pair.hear_taker(Settled { ending: Ending::Stopped });
    pair.hear_taker(Settled { ending: Ending::Unknown });
    assert_eq!(settled(&pair), [Ending::Stopped]);
    assert_eq!(pair.giver_aborted(), None);
    pair.give(GiverCommand::LetGo);
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Departed));
}

#[test]
fn an_ending_of_a_later_version_means_no_taking_back() {
    let mut pair = Pair::serving(PROBATION);
    pair.hear_taker(Settled { ending: Ending::Unknown });
    assert_eq!(settled(&pair), [Ending::Unknown]);
    pair.kill_taker();
    assert!(!pair.giver_accepts());
    pair.give(GiverCommand::Farewell(vec![]));
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Departed));
}

// M78
#[test]
fn one_that_is_being_ended_and_has_stopped_is_not_taken_back_from() {
    let mut pair = Pair::initialising().readied().release();
    pair.advance(5 * SECOND);
    pair.giver_input(Input::Fenced(true));
    pair.run();
    settle(&mut pair, Ending::Stopped);
    assert_eq!(settled(&pair), [Ending::Stopped]);
    pair.give(GiverCommand::LetGo);
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Departed));
}

// M75
#[test]
fn a_successor_that_closes_without_a_word_has_crashed_and_its_death_is_waited_for() {
    for closes_first in [true, false] {
        let mut pair = Pair::serving(WAITS);
        if closes_first {
            pair.taker_closes();
            pair.give(GiverCommand::Farewell(vec![]));
        } else {
            // Its drain is over at once, and its probation is not.
            pair = Pair::serving(PROBATION);
            pair.give(GiverCommand::Farewell(vec![]));
            pair.taker_closes();
        }
        pair.advance(29 * SECOND);
        assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Active), "its core is being written, for instance");
        pair.kill_taker();
        assert!(pair.giver_accepts());
    }
}

#[test]
fn a_successor_that_closes_and_lives_is_not_waited_for_longer_than_a_drain() {
    let mut pair = Pair::serving(WAITS);
    pair.taker_closes();
    pair.give(GiverCommand::Farewell(vec![]));
    pair.advance(30 * SECOND);
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Departed));
    assert!(!pair.giver_accepts());
}

#[test]
fn without_a_pidfd_there_is_no_death_to_wait_for() {
    let mut pair = Pair::blind().offered().readied().release();
    pair.run();
    pair.taker_closes();
    pair.give(GiverCommand::Farewell(vec![]));
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Departed));
}

#[test]
fn the_end_of_probation_is_told_once_while_the_drain_goes_on() {
    let mut pair = Pair::serving(PROBATION);
    pair.advance(19 * SECOND);
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Active));
    pair.advance(1000 * SECOND);
    assert_eq!(pair.giver_events.iter().filter(|event| **event == GiverEvent::ProbationOver).count(), 1);
    pair.kill_taker();
    assert!(pair.giver_accepts(), "whoever still drains takes back all the same");
}

#[test]
fn probation_of_one_that_settled_does_not_end() {
    let mut pair = Pair::serving(PROBATION);
    settle(&mut pair, Ending::HandedOver);
    pair.advance(1000 * SECOND);
    assert!(!pair.giver_events.contains(&GiverEvent::ProbationOver));
}

#[test]
fn an_owner_that_cannot_serve_gives_the_service_back_at_once() {
    for farewell_first in [true, false] {
        let mut pair = Pair::serving(PROBATION);
        if farewell_first {
            pair.give(GiverCommand::Farewell(vec![]));
            pair.run();
        }
        pair.take(TakerCommand::Relinquish("cannot bind port 80".to_owned()));
        assert_eq!(pair.lock, Holder::Nobody, "the lock first, then the word");
        assert_eq!(pair.taker_aborted(), Some(ErrorCode::Application));
        pair.run();
        let (code, reason) = (ErrorCode::Application, "cannot bind port 80".to_owned());
        let cause = Cause::Aborted { peer: Peer::Successor, code, reason };
        assert_eq!(pair.giver_events.last(), Some(&GiverEvent::TakenBack(cause)));
        assert!(pair.giver_accepts() && !pair.taker_accepts());
        assert!(pair.taker.is_over());
        assert_eq!(pair.taker.deadline(), None);
    }
}

#[test]
fn only_an_owner_with_a_predecessor_gives_the_service_back() {
    let mut pair = Pair::initialising().readied();
    pair.take(TakerCommand::Relinquish("early".to_owned()));
    assert_eq!(pair.taker_aborted(), None);
    assert_eq!(pair.lock, Holder::Giver);
    let mut pair = Pair::serving(WAITS);
    pair.kill_giver();
    pair.take(TakerCommand::Relinquish("alone".to_owned()));
    assert_eq!(pair.taker_aborted(), None, "nobody hears it");
    assert_eq!(pair.lock, Holder::Nobody, "another heir may wait for it");
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Departed(Departure::Lost)));
}

/// It has handed over, so that its own end means nothing, whatever it says.
#[test]
fn one_that_has_settled_gives_nothing_back() {
    let mut pair = Pair::serving(PROBATION);
    settle(&mut pair, Ending::HandedOver);
    pair.take(TakerCommand::Relinquish("late".to_owned()));
    pair.run();
    assert!(!pair.giver_accepts());
}
