//! Who owns the service: a test for each row of the table, and for what must not count as death.

use std::time::Duration;

use super::pair::{PIDFD, Pair, SECOND, WAITS, gift, release};
use crate::core::wire::{Abort, Active, ClientFrame, Ending, ErrorCode, WireError};
use crate::core::{
    CLOSE_GRACE, Cause, Departure, Gift, Input, Peer, PredecessorCommand as GiverCommand,
    PredecessorEvent as GiverEvent, SuccessorCommand as TakerCommand, SuccessorEvent as TakerEvent, Waits,
};

const PROBATION: Waits = Waits { probation: Duration::from_secs(20), ..WAITS };

fn failed(event: &GiverEvent) -> bool {
    matches!(event, GiverEvent::Failed(_))
}

// M50, M54
#[test]
fn a_handoff_goes_through() {
    let mut pair = Pair::initialising();
    pair.give(release(None));
    assert!(pair.giver_accepts(), "release before ready is not said");
    let mut pair = pair.readied();
    assert!(pair.giver_accepts() && !pair.taker_accepts());
    pair.give(release(None));
    assert!(!pair.giver_accepts() && !pair.taker_accepts());
    pair.run();
    assert!(pair.taker_accepts());
    pair.give(GiverCommand::Farewell(vec![]));
    pair.run();
    let heard = ["offer", "descriptors", "state", "release", "farewell"];
    assert_eq!(pair.giver_tags(), heard);
    assert_eq!(pair.taker_tags(), ["receive", "received", "ready", "active"]);
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Departed));
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Departed(Departure::Farewell)));
}

// M70
#[test]
fn a_successor_that_dies_before_release_changes_nothing() {
    for mut pair in [Pair::new(), Pair::initialising(), Pair::initialising().readied()] {
        pair.kill_taker();
        assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Failed(Cause::Died(Peer::Successor))));
        assert!(pair.giver_accepts());
    }
}

#[test]
fn a_successor_that_dies_in_the_transfer_changes_nothing() {
    let mut pair = Pair::new();
    pair.give(GiverCommand::Offer(Box::new(gift(600, None))));
    pair.carry_one();
    pair.kill_taker();
    assert!(pair.giver_events.iter().any(failed));
    assert!(pair.giver_accepts());
}

// M70
#[test]
fn a_successor_that_aborts_before_release_changes_nothing() {
    for mut pair in [Pair::new(), Pair::initialising(), Pair::initialising().readied()] {
        pair.take(TakerCommand::Abort(Cause::Here("no".to_owned())));
        pair.run();
        let reason = "no".to_owned();
        let cause = Cause::Aborted { peer: Peer::Successor, code: ErrorCode::Application, reason };
        assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Failed(cause)));
        assert!(pair.giver_accepts() && !pair.taker_accepts());
    }
}

// M48
#[test]
fn a_successor_that_is_late_with_ready_is_told_so() {
    let mut pair = Pair::initialising();
    pair.advance(59 * SECOND);
    assert!(!pair.giver_events.iter().any(failed));
    pair.advance(SECOND);
    pair.run();
    assert_eq!(pair.giver_aborted(), Some(ErrorCode::Timeout));
    assert!(pair.giver_accepts());
    assert!(matches!(pair.taker_events.last(), Some(TakerEvent::Failed(Cause::Aborted { .. }))));
}

// M47
#[test]
fn progress_begins_the_ready_deadline_anew() {
    let mut pair = Pair::initialising();
    for _ in 0..10 {
        pair.advance(59 * SECOND);
        pair.take(TakerCommand::Progress("warming caches".to_owned()));
        pair.run();
    }
    assert!(!pair.giver_events.iter().any(failed));
    pair.advance(60 * SECOND);
    assert!(pair.giver_events.iter().any(failed));
}

// M71
#[test]
fn a_predecessor_that_dies_before_everything_arrived_leaves_nothing_to_serve() {
    let mut pair = Pair::new();
    pair.give(GiverCommand::Offer(Box::new(gift(600, None))));
    pair.carry_one();
    pair.carry_one();
    pair.kill_giver();
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Failed(Cause::Closed(Peer::Predecessor))));
    pair.take(TakerCommand::Ready);
    pair.advance(100 * SECOND);
    assert!(!pair.taker_accepts());
}

#[test]
fn a_death_that_is_told_before_the_end_of_the_stream_is_as_good() {
    let mut pair = Pair::new();
    pair.taker_input(Input::Died);
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Failed(Cause::Died(Peer::Predecessor))));
}

// M53, M72
#[test]
fn an_orphan_takes_over_when_it_is_ready() {
    let mut pair = Pair::initialising();
    pair.kill_giver();
    assert!(!pair.taker_accepts(), "not before it is ready");
    pair.take(TakerCommand::Ready);
    assert_eq!(pair.taker_released(), Some(false));
    assert!(!pair.taker_tags().contains(&"active"), "nobody is there to hear it");
}

// M72
#[test]
fn a_predecessor_that_dies_after_ready_is_succeeded_at_once() {
    let mut pair = Pair::initialising().readied();
    pair.kill_giver();
    assert_eq!(pair.taker_released(), Some(false));
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Departed(Departure::Lost)));
}

#[test]
fn a_release_that_was_read_before_the_death_counts() {
    let mut pair = Pair::initialising().readied().release();
    pair.kill_giver();
    assert_eq!(pair.taker_released(), Some(true));
}

// M67, M73
#[test]
fn a_predecessor_that_closes_and_lives_keeps_the_service() {
    let mut pair = Pair::initialising().readied();
    pair.giver_closes();
    pair.advance(29 * SECOND);
    assert!(!pair.taker_accepts());
    assert!(!pair.taker_events.iter().any(|event| matches!(event, TakerEvent::Failed(_))), "it may be about to die");
    pair.advance(SECOND);
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Failed(Cause::Closed(Peer::Predecessor))));
    pair.taker_input(Input::Died);
    assert!(!pair.taker_accepts(), "too late: somebody else may have started");
}

// M72
#[test]
fn a_predecessor_that_takes_its_time_to_die_is_waited_for() {
    for closes_first in [true, false] {
        let mut pair = Pair::initialising();
        if closes_first {
            pair.giver_closes();
            pair.advance(20 * SECOND);
        }
        let mut pair = pair.readied();
        if !closes_first {
            pair.giver_closes();
        }
        pair.advance(29 * SECOND);
        pair.kill_giver();
        assert_eq!(pair.taker_released(), Some(false), "its core was written, or its memory freed, for so long");
    }
}

// M67, M69
#[test]
fn a_predecessor_that_closed_earlier_still_has_to_be_dead() {
    for pidfd in [Some(PIDFD), None] {
        let mut pair = Pair::new();
        pair.give(GiverCommand::Offer(Box::new(Gift { pidfd, ..gift(3, None) })));
        pair.run();
        pair.giver_closes();
        pair.advance(20 * SECOND);
        pair.take(TakerCommand::Ready);
        // Where the kernel will not tell, there is nothing to wait for.
        let wait = if pidfd.is_some() { 30 * SECOND } else { CLOSE_GRACE };
        pair.advance(wait - Duration::from_millis(1));
        assert!(!pair.taker_events.iter().any(|event| matches!(event, TakerEvent::Failed(_))));
        pair.advance(Duration::from_millis(1));
        assert!(!pair.taker_accepts());
        assert!(matches!(pair.taker_events.last(), Some(TakerEvent::Failed(_))));
    }
}

// M73
#[test]
fn a_predecessor_that_aborts_keeps_the_service() {
    for mut pair in [Pair::new(), Pair::initialising(), Pair::initialising().readied()] {
        pair.give(GiverCommand::Abort(ErrorCode::Application, "stopping".to_owned()));
        pair.run();
        pair.kill_giver();
        pair.take(TakerCommand::Ready);
        assert!(!pair.taker_accepts());
        assert!(matches!(pair.taker_events.last(), Some(TakerEvent::Failed(Cause::Aborted { .. }))));
    }
}

// M74
#[test]
fn a_successor_that_dies_between_release_and_active_gives_the_service_back() {
    let mut pair = Pair::initialising().readied().release();
    pair.kill_taker();
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::TakenBack(Cause::Died(Peer::Successor))));
    assert!(pair.giver_accepts());
}

// M74
#[test]
fn a_successor_that_gives_up_while_release_is_on_its_way_gives_the_service_back() {
    let mut pair = Pair::initialising().readied();
    pair.advance(30 * SECOND);
    assert_eq!(pair.taker_aborted(), Some(ErrorCode::Timeout), "release took too long");
    pair.give(release(None));
    pair.run();
    assert!(matches!(pair.giver_events.last(), Some(GiverEvent::TakenBack(Cause::Aborted { .. }))));
    assert!(pair.giver_accepts() && !pair.taker_accepts());
}

// M77, M78
#[test]
fn a_silent_successor_is_killed_and_only_its_death_gives_the_service_back() {
    let mut pair = Pair::initialising().readied().release();
    pair.drop_frames_to_taker();
    pair.advance(5 * SECOND);
    assert_eq!(pair.fences, 1);
    assert!(!pair.giver_accepts(), "the deadline alone decides nothing");
    pair.giver_input(Input::Fenced(true));
    pair.advance(1000 * SECOND);
    assert!(!pair.giver_accepts(), "nor does the signal");
    pair.kill_taker();
    assert!(pair.giver_accepts());
}

// M78
#[test]
fn a_successor_that_is_being_killed_cannot_change_its_mind() {
    let mut pair = Pair::initialising().readied().release();
    pair.drop_frames_to_taker();
    pair.advance(5 * SECOND);
    pair.giver_input(Input::Fenced(true));
    pair.hear_taker(Active {});
    assert!(!pair.giver_events.contains(&GiverEvent::Active));
    pair.kill_taker();
    assert!(pair.giver_accepts());
}

// M77
#[test]
fn neither_the_end_of_the_stream_nor_garbage_gives_the_service_back() {
    let mut pair = Pair::initialising().readied().release();
    pair.giver_input(Input::Garbled(WireError::Malformed("noise".to_owned())));
    pair.giver_input(Input::Eof);
    assert!(!pair.giver_accepts());
    pair.advance(5 * SECOND);
    assert_eq!(pair.fences, 1, "a deadline is all that is left");
    pair.giver_input(Input::Fenced(true));
    pair.giver_input(Input::Died);
    assert!(pair.giver_accepts());
}

// M79
#[test]
fn a_successor_that_cannot_be_killed_strands_its_predecessor() {
    let mut pair = Pair::initialising().readied().release();
    pair.drop_frames_to_taker();
    pair.advance(5 * SECOND);
    pair.giver_input(Input::Fenced(false));
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Stranded));
    pair.advance(1000 * SECOND);
    pair.giver_input(Input::Eof);
    assert!(!pair.giver_accepts());
    pair.kill_taker();
    assert!(pair.giver_accepts());
}

// M79
#[test]
fn a_stranded_predecessor_hears_a_late_active() {
    let mut pair = Pair::initialising().readied().release();
    pair.advance(5 * SECOND);
    pair.giver_input(Input::Fenced(false));
    pair.run();
    assert!(pair.taker_accepts());
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Active));
}

// M69, M79
#[test]
fn without_a_pidfd_a_closed_and_silent_successor_keeps_its_predecessor_out() {
    for closes_first in [true, false] {
        let mut pair = Pair::blind().offered().readied().release();
        pair.drop_frames_to_taker();
        if closes_first {
            pair.taker_closes();
        }
        pair.advance(5 * SECOND);
        pair.giver_input(Input::Fenced(false));
        if !closes_first {
            assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Stranded));
            pair.taker_closes();
        }
        assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Unknown(Cause::Closed(Peer::Successor))));
        assert!(!pair.giver_accepts());
    }
}

// M67
#[test]
fn a_successor_that_closes_before_release_is_given_a_moment_to_be_dead() {
    let mut pair = Pair::initialising();
    pair.taker_closes();
    assert!(!pair.giver_events.iter().any(failed));
    pair.advance(CLOSE_GRACE);
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Failed(Cause::Closed(Peer::Successor))));
}

#[test]
fn a_successor_that_closed_is_not_waited_for_though_the_offer_comes_afterwards() {
    let mut pair = Pair::new();
    pair.taker_closes();
    pair.give(GiverCommand::Offer(Box::new(gift(3, None))));
    pair.advance(CLOSE_GRACE);
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Failed(Cause::Closed(Peer::Successor))));
}

#[test]
fn nothing_is_released_to_a_successor_that_has_closed() {
    let mut pair = Pair::initialising().readied();
    pair.taker_closes();
    pair.give(release(None));
    assert!(pair.giver_accepts());
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Failed(Cause::Closed(Peer::Successor))));
}

#[test]
fn without_a_pidfd_there_is_no_moment_to_wait_for() {
    let mut pair = Pair::blind().offered();
    pair.taker_closes();
    pair.advance(Duration::ZERO);
    assert!(pair.giver_events.iter().any(failed));
}

// M75
#[test]
fn a_successor_that_dies_during_the_drain_gives_the_service_back() {
    let mut pair = Pair::serving(WAITS);
    pair.advance(3600 * SECOND);
    pair.kill_taker();
    assert!(pair.giver_accepts());
}

// M75
#[test]
fn a_successor_that_dies_in_probation_gives_the_service_back_after_the_drain() {
    let mut pair = Pair::serving(PROBATION);
    pair.give(GiverCommand::Farewell(vec![]));
    pair.run();
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Active), "drained, and still here");
    pair.advance(19 * SECOND);
    pair.kill_taker();
    assert!(pair.giver_accepts());
}

#[test]
fn probation_ends() {
    let mut pair = Pair::serving(PROBATION);
    pair.give(GiverCommand::Farewell(vec![]));
    pair.advance(20 * SECOND);
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Departed));
    pair.kill_taker();
    assert!(!pair.giver_accepts(), "over is over");
}

// M76
#[test]
fn a_settled_successor_may_end_during_the_drain() {
    let mut pair = Pair::serving(PROBATION);
    pair.take(TakerCommand::Settle(Ending::HandedOver));
    pair.run();
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Settled(Ending::HandedOver)));
    pair.kill_taker();
    assert!(!pair.giver_accepts());
    pair.give(GiverCommand::Farewell(vec![]));
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Departed), "and probation has ended with it");
}

// M76, M82
#[test]
fn a_successor_can_settle_after_the_farewell_while_it_is_on_probation() {
    let mut pair = Pair::serving(PROBATION);
    pair.give(GiverCommand::Farewell(vec![]));
    pair.run();
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Departed(Departure::Farewell)));
    assert!(!pair.taker.is_over(), "the connection has to be kept");
    pair.take(TakerCommand::Settle(Ending::HandedOver));
    pair.run();
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Departed));
    pair.giver_closes();
    assert!(pair.taker.is_over());
}

#[test]
fn settled_is_said_once_and_heard_once() {
    let mut pair = Pair::serving(PROBATION);
    pair.take(TakerCommand::Settle(Ending::HandedOver));
    pair.take(TakerCommand::Settle(Ending::HandedOver));
    pair.hear_taker(crate::core::wire::Settled { ending: Ending::HandedOver });
    pair.run();
    assert_eq!(pair.taker_tags().iter().filter(|tag| **tag == "settled").count(), 1);
    assert_eq!(pair.giver_events.iter().filter(|event| **event == GiverEvent::Settled(Ending::HandedOver)).count(), 1);
    assert!(!pair.giver_tags().contains(&"error"));
}

#[test]
fn a_predecessor_that_dies_while_draining_leaves_its_successor_alone() {
    let mut pair = Pair::serving(WAITS);
    pair.kill_giver();
    assert!(pair.taker_accepts());
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Departed(Departure::Lost)));
}

// M80, M81
#[test]
fn a_serving_successor_neither_aborts_nor_hears_an_abort() {
    let mut pair = Pair::serving(WAITS);
    pair.take(TakerCommand::Abort(Cause::Here("too late".to_owned())));
    assert_eq!(pair.taker_aborted(), None);
    let mut pair = Pair::serving(WAITS);
    pair.hear_giver(Abort { code: ErrorCode::Application, reason: String::new() }, vec![]);
    pair.hear_giver(crate::core::wire::Failure { code: ErrorCode::OutOfOrder, message: String::new() }, vec![]);
    pair.give(GiverCommand::Farewell(vec![super::pair::packet(8, 0)]));
    pair.run();
    assert!(pair.taker_accepts());
    assert!(pair.taker_events.contains(&TakerEvent::Farewell(super::pair::packet(8, 0))), "it still listens");
}

// M81
#[test]
fn garbage_cannot_stop_a_serving_successor() {
    let mut pair = Pair::serving(WAITS);
    pair.taker_input(Input::Garbled(WireError::TooLong));
    assert!(pair.taker_accepts());
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Departed(Departure::Lost)));
    assert_eq!(pair.taker_aborted(), None);
}

// M65
#[test]
fn nothing_that_comes_after_the_end_changes_it() {
    let mut pair = Pair::initialising();
    pair.give(GiverCommand::Abort(ErrorCode::Application, "stopping".to_owned()));
    let (events, said) = (pair.giver_events.len(), pair.giver_said.len());
    let frames: [ClientFrame; 3] = [
        Active {}.into(),
        crate::core::wire::Ready {}.into(),
        Abort { code: ErrorCode::Busy, reason: String::new() }.into(),
    ];
    for frame in frames {
        pair.hear_taker(frame);
    }
    pair.giver_input(Input::Garbled(WireError::TooLong));
    pair.giver_input(Input::Eof);
    pair.giver_input(Input::Died);
    pair.give(release(None));
    pair.give(GiverCommand::Abort(ErrorCode::Application, "again".to_owned()));
    pair.advance(1000 * SECOND);
    assert_eq!((pair.giver_events.len(), pair.giver_said.len()), (events, said));
}

// M65
#[test]
fn a_release_that_comes_after_a_successor_gave_up_changes_nothing() {
    let mut pair = Pair::initialising().readied();
    pair.take(TakerCommand::Abort(Cause::Here("no".to_owned())));
    pair.give(release(None));
    let (frame, fds) = pair.giver_said.last().cloned().unwrap();
    pair.hear_giver(frame, fds);
    assert!(!pair.taker_accepts());
}
