//! Frames out of order, and lines that are none, before and after the commit point.

use super::pair::{Pair, SECOND, WAITS, gift, packet, receive, release};
use crate::core::wire::{
    Active, ClientFrame, Draining, Ending, ErrorCode, Farewell, MAX_TEXT, Progress, Ready, Receive, Received, Release,
    ServerFrame, Settled, WireError,
};
use crate::core::{
    Cause, Input, Peer, PredecessorCommand as GiverCommand, PredecessorEvent as GiverEvent,
    SuccessorCommand as TakerCommand, SuccessorEvent as TakerEvent,
};

#[test]
fn a_successor_frame_out_of_order_before_release_ends_the_handoff() {
    let early: [(&str, ClientFrame); 6] = [
        ("ready before the offer", Ready {}.into()),
        ("active", Active {}.into()),
        ("settled", Settled { ending: Ending::Stopped }.into()),
        ("a batch that was never sent", Received { batch: 0 }.into()),
        ("progress", Progress { message: String::new() }.into()),
        ("a word", crate::core::wire::GetStatus {}.into()),
    ];
    for (what, frame) in early {
        let mut pair = Pair::new();
        pair.hear_taker(frame);
        assert_eq!(pair.giver_aborted(), Some(ErrorCode::OutOfOrder), "{what}");
        assert!(pair.giver_accepts(), "{what}");
    }
}

#[test]
fn received_names_the_batch_that_is_on_its_way() {
    let mut pair = Pair::new();
    pair.give(GiverCommand::Offer(Box::new(gift(600, None))));
    pair.hear_taker(Received { batch: 1 });
    assert_eq!(pair.giver_aborted(), Some(ErrorCode::OutOfOrder));
}

#[test]
fn ready_is_said_once() {
    let mut pair = Pair::initialising().readied();
    pair.hear_taker(Ready {});
    assert_eq!(pair.giver_aborted(), Some(ErrorCode::OutOfOrder));
}

// M77, M128
#[test]
fn a_frame_out_of_order_after_release_is_refused_and_decides_nothing() {
    let mut pair = Pair::initialising().readied().release();
    pair.hear_taker(Ready {});
    assert!(
        matches!(pair.giver_said.last(), Some((ServerFrame::Failure(error), _)) if error.code == ErrorCode::OutOfOrder)
    );
    assert!(!pair.giver_accepts());
    pair.hear_taker(Active {});
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Active));
}

#[test]
fn garbage_before_release_ends_the_handoff() {
    let mut pair = Pair::initialising();
    pair.giver_input(Input::Garbled(WireError::UnknownType("hop".to_owned())));
    assert_eq!(pair.giver_aborted(), Some(ErrorCode::UnknownType));
    assert!(pair.giver_accepts());
}

#[test]
fn garbage_while_draining_decides_nothing() {
    let mut pair = Pair::serving(WAITS);
    pair.giver_input(Input::Garbled(WireError::TooLong));
    pair.giver_input(Input::Eof);
    pair.advance(100 * SECOND);
    assert!(!pair.giver_accepts());
    pair.give(GiverCommand::Farewell(vec![]));
    assert!(!pair.giver_accepts());
    pair.advance(30 * SECOND);
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Departed), "it lives, as far as anybody can tell");
}

fn refusals(pair: &Pair) -> Vec<ErrorCode> {
    let code = |(frame, _): &(ServerFrame, Vec<u32>)| match frame {
        ServerFrame::Failure(failure) => Some(failure.code),
        _ => None,
    };
    pair.giver_said.iter().filter_map(code).collect()
}

// M77
#[test]
fn lines_that_mean_nothing_after_release_are_answered_and_active_is_read_behind_them() {
    let mut pair = Pair::initialising().readied().release();
    pair.giver_input(Input::Garbled(WireError::UnknownType("hop".to_owned())));
    pair.giver_input(Input::Garbled(WireError::Malformed("no JSON".to_owned())));
    pair.hear_taker(Ready {});
    assert_eq!(refusals(&pair), [ErrorCode::UnknownType, ErrorCode::Malformed, ErrorCode::OutOfOrder]);
    pair.run();
    assert!(pair.taker_accepts());
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Active));
    assert_eq!(pair.fences, 0);
}

#[test]
fn a_flood_after_release_is_answered_sixteen_times_and_active_is_read_behind_it() {
    let mut pair = Pair::initialising().readied().release();
    for number in 0..10_000 {
        if number % 2 == 0 {
            pair.hear_taker(Ready {});
        } else {
            pair.giver_input(Input::Garbled(WireError::UnknownType("hop".to_owned())));
        }
    }
    assert_eq!(refusals(&pair).len(), 16);
    pair.run();
    assert!(pair.taker_accepts());
    assert_eq!(pair.giver_events.last(), Some(&GiverEvent::Active));
    pair.hear_taker(Ready {});
    assert_eq!(refusals(&pair).len(), 16, "nor later");
}

#[test]
fn long_names_of_unknown_types_are_cut_in_the_answer() {
    let mut pair = Pair::initialising().readied().release();
    pair.giver_input(Input::Garbled(WireError::Malformed("x".repeat(2 * MAX_TEXT))));
    let (frame, _) = pair.giver_said.last().cloned().unwrap();
    assert!(matches!(frame, ServerFrame::Failure(failure) if failure.message.len() == MAX_TEXT));
}

#[test]
fn a_predecessor_frame_out_of_order_ends_the_handoff() {
    let frames: [ServerFrame; 3] = [
        Release { state: None, monotonic_us: 0, timens: None }.into(),
        Draining { connections: 1 }.into(),
        Farewell { state: None, more: false }.into(),
    ];
    for frame in frames {
        let mut pair = Pair::initialising();
        pair.hear_giver(frame, vec![]);
        assert_eq!(pair.taker_aborted(), Some(ErrorCode::OutOfOrder));
        assert!(!pair.taker_accepts());
    }
}

// M53
#[test]
fn a_release_before_ready_is_no_release() {
    let mut pair = Pair::initialising();
    pair.hear_giver(Release { state: None, monotonic_us: 0, timens: None }, vec![]);
    pair.take(TakerCommand::Ready);
    assert!(!pair.taker_accepts());
}

// M49
#[test]
fn ready_and_progress_wait_for_the_end_of_the_transfer() {
    let mut pair = Pair::new();
    pair.give(GiverCommand::Offer(Box::new(gift(300, Some(packet(4, 0))))));
    pair.carry_one();
    pair.take(TakerCommand::Ready);
    pair.take(TakerCommand::Progress("early".to_owned()));
    assert_eq!(pair.taker_tags(), ["receive"]);
}

// M27
#[test]
fn a_progress_message_beyond_its_limit_ends_the_handoff() {
    let mut pair = Pair::initialising();
    pair.hear_taker(Progress { message: "x".repeat(MAX_TEXT) });
    assert_eq!(pair.giver_aborted(), None);
    pair.hear_taker(Progress { message: "x".repeat(MAX_TEXT + 1) });
    assert_eq!(pair.giver_aborted(), Some(ErrorCode::Malformed));
}

// M27
#[test]
fn our_own_texts_are_cut_to_their_limit() {
    let mut pair = Pair::initialising();
    pair.take(TakerCommand::Progress("é".repeat(MAX_TEXT)));
    pair.run();
    assert!(matches!(pair.giver_events.last(), Some(GiverEvent::Progress(message)) if message.len() == MAX_TEXT));
    pair.give(GiverCommand::Abort(ErrorCode::Application, "x".repeat(MAX_TEXT * 2)));
    let (frame, _) = pair.giver_said.last().cloned().unwrap();
    assert!(matches!(frame, ServerFrame::Abort(abort) if abort.reason.len() == MAX_TEXT));
}

#[test]
fn the_other_sides_reasons_are_cut_to_their_limit() {
    let mut pair = Pair::initialising();
    let reason = "x".repeat(MAX_TEXT * 2);
    pair.hear_taker(crate::core::wire::Abort { code: ErrorCode::Application, reason });
    let cut = |event: &GiverEvent| matches!(event, GiverEvent::Failed(Cause::Aborted { reason, .. }) if reason.len() == MAX_TEXT);
    assert!(pair.giver_events.iter().any(cut));
}

// M26
#[test]
fn a_predecessor_takes_no_descriptors() {
    let mut pair = Pair::initialising();
    pair.giver_input(Input::Frame(Ready {}.into(), vec![7]));
    assert_eq!(pair.giver_aborted(), Some(ErrorCode::Descriptors));
    assert!(!pair.giver_events.contains(&GiverEvent::Ready));
}

// M141
#[test]
fn a_final_state_of_a_shape_that_the_successor_does_not_name_stops_the_release() {
    let shaped = |fingerprint| {
        let mut state = packet(4, 0);
        state.info.fingerprint = fingerprint;
        state
    };
    let released = |named: Option<Vec<u64>>, fingerprint: Option<u64>| {
        let mut pair = Pair::made(WAITS, Receive { fingerprints: named, ..receive() }, true);
        pair.give(GiverCommand::Offer(Box::new(gift(1, None))));
        pair.run();
        let mut pair = pair.readied();
        pair.give(release(Some(shaped(fingerprint))));
        (pair.giver_aborted(), pair.giver_accepts())
    };
    assert_eq!(released(Some(vec![7]), Some(8)), (Some(ErrorCode::Schema), true));
    assert_eq!(released(Some(vec![]), Some(8)), (Some(ErrorCode::Schema), true));
    for (named, fingerprint) in [(Some(vec![7, 8]), Some(8)), (None, Some(8)), (Some(vec![7]), None)] {
        assert_eq!(released(named, fingerprint), (None, false));
    }
}

// M52
#[test]
fn a_final_state_that_the_successor_does_not_read_stops_the_release() {
    let mut pair = Pair::initialising().readied();
    pair.give(release(Some(packet(4, 1))));
    assert_eq!(pair.giver_aborted(), Some(ErrorCode::Schema));
    assert!(pair.giver_accepts());
    let mut pair = Pair::initialising().readied();
    pair.give(release(Some(packet(4, 2))));
    pair.run();
    assert!(
        pair.taker_events.iter().any(|event| {
            matches!(event, TakerEvent::Released { state: Some(state), .. } if *state == packet(4, 2))
        })
    );
}

// M88
#[test]
fn whoever_gives_up_says_why() {
    let mut pair = Pair::initialising();
    pair.give(GiverCommand::Abort(ErrorCode::Application, "stopping".to_owned()));
    assert_eq!(pair.giver_aborted(), Some(ErrorCode::Application));
    let mut pair = Pair::initialising();
    pair.take(TakerCommand::Abort(Cause::Mismatch("not what was said".to_owned())));
    assert_eq!(pair.taker_aborted(), Some(ErrorCode::Descriptors));
    let mut pair = Pair::new();
    pair.advance(60 * SECOND);
    assert_eq!(pair.taker_aborted(), Some(ErrorCode::Timeout), "no offer");
}

#[test]
fn a_release_that_never_comes_is_given_up() {
    let mut pair = Pair::initialising().readied();
    pair.advance(30 * SECOND);
    assert_eq!(pair.taker_aborted(), Some(ErrorCode::Timeout));
    pair.run();
    assert!(matches!(pair.giver_events.last(), Some(GiverEvent::Failed(Cause::Aborted { peer: Peer::Successor, .. }))));
}
