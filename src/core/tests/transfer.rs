//! The offer, the batches and the snapshot: what is sent, and what is refused on receipt.

use std::sync::Arc;

use super::pair::{PIDFD, Pair, SECOND, WAITS, entry, gift, info, offer, packet, receive};
use crate::core::wire::{
    Attempt, Descriptors, Draining, Entry, ErrorCode, Failure, Farewell, FileId, Frame, Hello, MAX_BATCH,
    MAX_DESCRIPTORS, MAX_HISTORY, MAX_LINE, MAX_NAME, MAX_STATE, MAX_TEXT, Name, Offer, Outcome, Phase, Receive,
    Release, ServerFrame, Snapshot, VersionRange,
};
use crate::core::{
    Cause, Gift, Peer, PredecessorCommand as GiverCommand, PredecessorEvent as GiverEvent, SuccessorEvent as TakerEvent,
};

fn batches(pair: &Pair) -> Vec<(Descriptors, Vec<u32>)> {
    let batch = |(frame, fds): &(ServerFrame, Vec<u32>)| match frame {
        ServerFrame::Descriptors(batch) => Some((batch.clone(), fds.clone())),
        _ => None,
    };
    pair.giver_said.iter().filter_map(batch).collect()
}

fn arrived(pair: &Pair) -> Vec<u32> {
    let numbers = |event: &TakerEvent<u32>| match event {
        TakerEvent::Batch(batch) => batch.iter().map(|(_, fd)| *fd).collect(),
        _ => vec![],
    };
    pair.taker_events.iter().flat_map(numbers).collect()
}

fn give(gift: Gift<u32>) -> Pair {
    let mut pair = Pair::new();
    pair.give(GiverCommand::Offer(Box::new(gift)));
    pair.run();
    pair
}

// M21, M44
#[test]
fn descriptors_come_in_acknowledged_batches() {
    let mut pair = Pair::new();
    pair.give(GiverCommand::Offer(Box::new(gift(600, Some(packet(48, 0))))));
    assert_eq!(pair.giver_tags(), ["offer", "descriptors", "descriptors"], "the third waits for the first");
    pair.run();
    let sizes: Vec<usize> = batches(&pair).iter().map(|(_, fds)| fds.len()).collect();
    assert_eq!(sizes, [MAX_BATCH, MAX_BATCH, 600 - 2 * MAX_BATCH]);
    assert_eq!(arrived(&pair), (0..600).collect::<Vec<u32>>());
    assert_eq!(pair.giver_tags(), ["offer", "descriptors", "descriptors", "descriptors", "state"]);
    assert_eq!(pair.giver_events, [GiverEvent::Transferred]);
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Complete(Some(packet(48, 0)))));
}

// M21
#[test]
fn batch_sizes_at_their_limit() {
    for (count, expected) in [(1, 1), (252, 1), (253, 2), (504, 2), (505, 3)] {
        let pair = give(gift(count, None));
        assert_eq!(batches(&pair).len(), expected, "{count} descriptors");
        assert_eq!(arrived(&pair).len(), count as usize);
    }
}

// M11
#[test]
fn batches_are_cut_by_the_length_of_their_line_too() {
    let long = |number: u32| {
        // Every byte of a quotation mark is doubled on the wire.
        let name = Name::try_from(format!("{}{number:04}", "\"".repeat(MAX_NAME - 4))).unwrap();
        let file = Some(FileId { dev: u64::MAX, ino: u64::MAX });
        let addr = Some("\u{1}".repeat(107));
        let (cookie, netns) = (Some(u64::MAX), Some(u64::MAX));
        (Arc::new(Entry { name, addr, cookie, netns, file, ..Entry::clone(&entry("x", 0)) }), number)
    };
    let descriptors = (0..MAX_BATCH as u32).map(long).collect();
    let pair = give(Gift { descriptors, ..gift(0, None) });
    assert!(batches(&pair).len() > 1);
    for (frame, _) in &pair.giver_said {
        assert!(frame.to_line().len() <= MAX_LINE);
    }
    assert_eq!(arrived(&pair), (0..MAX_BATCH as u32).collect::<Vec<u32>>());
}

#[test]
fn an_offer_of_nothing_goes_through() {
    let pair = give(gift(0, None));
    assert_eq!(pair.giver_tags(), ["offer"]);
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Complete(None)));
    let pair = give(gift(0, Some(packet(1, 0))));
    assert_eq!(pair.giver_tags(), ["offer", "state"]);
}

#[test]
fn the_pidfd_rides_on_the_offer() {
    let pair = give(gift(1, None));
    assert_eq!(pair.giver_said.first().map(|(_, fds)| fds.clone()), Some(vec![PIDFD]));
    assert!(matches!(&pair.taker_events[..], [TakerEvent::Offered(_, Some(PIDFD)), ..]));
    let pair = give(Gift { pidfd: None, ..gift(1, None) });
    assert!(matches!(&pair.taker_events[..], [TakerEvent::Offered(_, None), ..]));
}

// M43
#[test]
fn a_snapshot_that_the_successor_does_not_read_is_not_offered() {
    let pair = give(gift(1, Some(packet(48, 1))));
    assert_eq!(pair.giver_tags(), ["abort"]);
    assert_eq!(pair.giver_aborted(), Some(ErrorCode::Schema));
    let accepted = vec![0, 2];
    assert_eq!(pair.giver_events, [GiverEvent::Failed(Cause::Schema { offered: 1, accepted })]);
    assert!(pair.giver_accepts());
}

// M141
#[test]
fn a_snapshot_of_a_shape_that_the_successor_does_not_name_is_not_offered() {
    let mut pair = Pair::made(WAITS, Receive { fingerprints: Some(vec![7]), ..receive() }, true);
    let mut state = packet(48, 0);
    state.info.fingerprint = Some(8);
    pair.give(GiverCommand::Offer(Box::new(gift(1, Some(state)))));
    assert_eq!((pair.giver_tags(), pair.giver_aborted()), (vec!["abort"], Some(ErrorCode::Schema)));
    assert_eq!(pair.giver_events, [GiverEvent::Failed(Cause::Fingerprint { offered: 8, accepted: vec![7] })]);
    assert!(pair.giver_accepts());
}

// M144
#[test]
fn a_service_of_another_name_is_left_alone() {
    let ours = VersionRange { min: 1, max: 1 };
    let greeted = |services: Option<&[&str]>, named: Option<bool>| {
        let services = services.map(|services| services.iter().map(|name| (*name).to_owned()).collect());
        let mut pair = Pair::made(WAITS, Receive { services, ..receive() }, true);
        pair.hear_giver(Hello { named, ..hello(ours) }, vec![]);
        pair.taker_aborted()
    };
    assert_eq!(greeted(Some(&["other", "another"]), None), Some(ErrorCode::Name));
    assert_eq!(greeted(Some(&["other"]), Some(true)), Some(ErrorCode::Name));
    assert_eq!(greeted(Some(&["other", "app"]), None), None);
    assert_eq!(greeted(None, None), None, "it takes any");
    assert_eq!(greeted(Some(&["other"]), Some(false)), None, "nobody has chosen that name");
}

// M64
#[test]
fn the_protocol_does_not_look_at_the_codec() {
    let mut state = packet(48, 0);
    state.info.codec = "something nobody has heard of".to_owned();
    let pair = give(gift(1, Some(state.clone())));
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Complete(Some(state))));
}

#[test]
fn each_step_of_the_transfer_has_a_deadline() {
    let mut pair = Pair::new();
    pair.give(GiverCommand::Offer(Box::new(gift(600, None))));
    pair.advance(9 * SECOND);
    pair.run();
    assert_eq!(pair.giver_events, [GiverEvent::Transferred]);

    let mut pair = Pair::new();
    pair.give(GiverCommand::Offer(Box::new(gift(600, None))));
    pair.drop_frames_to_taker();
    pair.advance(10 * SECOND);
    assert_eq!(pair.giver_aborted(), Some(ErrorCode::Timeout));
}

#[test]
fn a_batch_or_snapshot_that_never_comes_is_given_up() {
    for announced in [Offer { descriptors: 1, batches: 1, ..offer() }, Offer { state: Some(info(1, 0)), ..offer() }] {
        let mut pair = Pair::new();
        pair.hear_giver(announced, vec![PIDFD]);
        pair.advance(10 * SECOND);
        assert_eq!(pair.taker_aborted(), Some(ErrorCode::Timeout));
    }
}

fn hello(protocol: VersionRange) -> Hello {
    let (name, version) = ("app".to_owned(), "1".to_owned());
    Hello { protocol, name, version, pid: 1, generation: 1, phase: Phase::Serving, named: None, instance: None }
}

fn refuses(announced: Offer) -> Option<ErrorCode> {
    let mut pair = Pair::new();
    pair.hear_giver(announced, vec![PIDFD]);
    pair.taker_aborted()
}

fn attempt(reason: Option<String>) -> Attempt {
    Attempt {
        from: 1,
        successor_pid: 2,
        instance: None,
        outcome: Outcome::Failed,
        reason,
        began_unix_ms: 0,
        total_us: 0,
        transfer_us: None,
        initialise_us: None,
        release_us: None,
        pause_us: None,
        drain_us: None,
    }
}

// M27, M42
#[test]
fn offers_beyond_the_limits_are_refused() {
    let most = MAX_DESCRIPTORS as u32;
    assert_eq!(refuses(Offer { descriptors: most, batches: 66, ..offer() }), None);
    let bad = [
        ("too many descriptors", Offer { descriptors: most + 1, batches: 66, ..offer() }),
        ("more batches than descriptors", Offer { descriptors: 1, batches: 2, ..offer() }),
        ("batches of nothing", Offer { descriptors: 0, batches: 1, ..offer() }),
        ("descriptors in no batch", Offer { descriptors: 1, batches: 0, ..offer() }),
        ("too large a state", Offer { state: Some(info(MAX_STATE + 1, 0)), ..offer() }),
        ("too long a history", Offer { history: vec![attempt(None); MAX_HISTORY + 1], ..offer() }),
        ("too long a reason", Offer { history: vec![attempt(Some("x".repeat(MAX_TEXT + 1)))], ..offer() }),
        ("no generation", Offer { generation: 0, ..offer() }),
        ("no next generation", Offer { generation: u64::MAX, ..offer() }),
    ];
    for (what, announced) in bad {
        assert_eq!(refuses(announced), Some(ErrorCode::Malformed), "{what}");
    }
    let mut state = info(1, 0);
    assert_eq!(refuses(Offer { state: Some(info(MAX_STATE, 0)), ..offer() }), None);
    state.codec = "x".repeat(MAX_TEXT + 1);
    assert_eq!(refuses(Offer { state: Some(state), ..offer() }), Some(ErrorCode::Malformed));
}

// M42
#[test]
fn an_offer_in_an_unknown_version_is_refused() {
    for protocol in [0, 2] {
        assert_eq!(refuses(Offer { protocol, ..offer() }), Some(ErrorCode::Version));
    }
}

// M40
#[test]
fn a_service_without_a_version_in_common_is_left_alone() {
    let mut pair = Pair::new();
    pair.hear_giver(hello(VersionRange { min: 1, max: 7 }), vec![]);
    assert_eq!(pair.taker_aborted(), None);
    pair.hear_giver(hello(VersionRange { min: 2, max: 7 }), vec![]);
    assert_eq!(pair.taker_aborted(), Some(ErrorCode::Version));
}

// M100
#[test]
fn a_greeting_may_be_missing_or_come_twice_before_the_offer() {
    let ours = VersionRange { min: 1, max: 1 };
    for greetings in 0..3 {
        let mut pair = Pair::new();
        for _ in 0..greetings {
            pair.hear_giver(hello(ours), vec![]);
        }
        pair.hear_giver(promised(2, 1), vec![PIDFD]);
        assert_eq!(pair.taker_aborted(), None);
        assert!(matches!(pair.taker_events.last(), Some(TakerEvent::Offered(..))));
        pair.hear_giver(hello(ours), vec![]);
        assert_eq!(pair.taker_aborted(), Some(ErrorCode::OutOfOrder), "after it there is nothing to greet for");
    }
}

#[test]
fn a_refusal_is_passed_on() {
    let mut pair = Pair::new();
    pair.hear_giver(Failure { code: ErrorCode::Busy, message: "later".to_owned() }, vec![]);
    let cause = Cause::Refused { code: ErrorCode::Busy, message: "later".to_owned() };
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Failed(cause)));
}

/// A successor that was promised this, and got this batch.
fn takes(announced: Offer, batch: u32, entries: Vec<Arc<Entry>>) -> Option<ErrorCode> {
    let mut pair = Pair::new();
    pair.hear_giver(announced, vec![PIDFD]);
    let fds = (0..entries.len() as u32).collect();
    pair.hear_giver(Descriptors { batch, entries }, fds);
    pair.taker_aborted()
}

fn promised(descriptors: u32, batches: u32) -> Offer {
    Offer { descriptors, batches, ..offer() }
}

fn entries(count: usize) -> Vec<Arc<Entry>> {
    (0..count as u32).map(|index| entry("http", index)).collect()
}

// M27, M45
#[test]
fn batches_that_break_their_promise_are_refused() {
    assert_eq!(takes(promised(2, 1), 0, entries(2)), None);
    let malformed = Some(ErrorCode::Malformed);
    assert_eq!(takes(promised(4, 2), 1, entries(2)), malformed, "not the next one");
    assert_eq!(takes(promised(4, 2), 0, entries(0)), malformed, "empty");
    assert_eq!(takes(promised(1, 1), 0, entries(2)), malformed, "more than announced");
    assert_eq!(takes(promised(3, 1), 0, entries(2)), malformed, "fewer than announced");
    assert_eq!(takes(promised(253, 1), 0, entries(253)), malformed, "too large");
}

// M58
#[test]
fn indexes_count_up_from_zero() {
    let malformed = Some(ErrorCode::Malformed);
    assert_eq!(takes(promised(2, 1), 0, vec![entry("a", 0), entry("b", 0)]), None);
    assert_eq!(takes(promised(2, 1), 0, vec![entry("a", 0), entry("a", 0)]), malformed, "twice");
    assert_eq!(takes(promised(2, 1), 0, vec![entry("a", 0), entry("a", 2)]), malformed, "a gap");
    assert_eq!(takes(promised(1, 1), 0, vec![entry("a", 1)]), malformed, "not from 0");
}

// M25
#[test]
fn a_frame_with_too_few_or_too_many_descriptors_ends_the_handoff() {
    for fds in [vec![], vec![1], vec![1, 2, 3]] {
        let mut pair = Pair::new();
        pair.hear_giver(promised(2, 1), vec![PIDFD]);
        pair.hear_giver(Descriptors { batch: 0, entries: entries(2) }, fds);
        assert_eq!(pair.taker_aborted(), Some(ErrorCode::Descriptors));
    }
    for fds in [vec![], vec![1, 2]] {
        let mut pair = Pair::new();
        pair.hear_giver(offer(), fds);
        assert_eq!(pair.taker_aborted(), Some(ErrorCode::Descriptors));
    }
    let mut pair = Pair::new();
    pair.hear_giver(Offer { state: Some(info(1, 0)), ..offer() }, vec![PIDFD]);
    pair.hear_giver(Snapshot { state: info(1, 0) }, vec![]);
    assert_eq!(pair.taker_aborted(), Some(ErrorCode::Descriptors));
}

// M25
#[test]
fn a_release_with_the_wrong_descriptors_is_refused_before_it_commits() {
    for (state, fds) in [(None, vec![1]), (Some(info(1, 0)), vec![])] {
        let mut pair = Pair::initialising().readied();
        pair.hear_giver(Release { state, monotonic_us: 0, timens: None }, fds);
        assert_eq!(pair.taker_aborted(), Some(ErrorCode::Descriptors));
        assert!(!pair.taker_accepts());
    }
}

// M25
#[test]
fn a_frame_that_carries_none_comes_with_none() {
    let mut pair = Pair::new();
    pair.hear_giver(Failure { code: ErrorCode::Busy, message: String::new() }, vec![1]);
    let (frame, expected, arrived) = ("error", 0, 1);
    let cause = Cause::DescriptorsLost { frame, expected, arrived };
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Failed(cause)));
}

// M98
#[test]
fn a_frame_that_may_not_come_now_is_out_of_order_whatever_it_carries() {
    let state = || info(1, 0);
    let release = || Release { state: Some(state()), monotonic_us: 0, timens: None };
    let misplaced: [(ServerFrame, &[u32]); 10] = [
        (offer().into(), &[PIDFD]),
        (offer().into(), &[]),
        (Snapshot { state: state() }.into(), &[1]),
        (Snapshot { state: state() }.into(), &[]),
        (release().into(), &[1]),
        (release().into(), &[1, 2]),
        (Farewell { state: Some(state()), more: false }.into(), &[1]),
        (Draining { connections: 1 }.into(), &[]),
        (Draining { connections: 1 }.into(), &[1]),
        (hello(VersionRange { min: 1, max: 1 }).into(), &[1]),
    ];
    for (frame, fds) in misplaced {
        // A batch is due, and nothing else.
        let mut pair = Pair::new();
        pair.hear_giver(promised(2, 1), vec![PIDFD]);
        let cause = Cause::OutOfOrder { peer: Peer::Predecessor, frame: frame.tag() };
        pair.hear_giver(frame, fds.to_vec());
        assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Failed(cause)));
        assert_eq!(pair.taker_aborted(), Some(ErrorCode::OutOfOrder));
    }
}

// M46
#[test]
fn the_snapshot_is_the_one_that_was_announced() {
    for other in [info(2, 0), info(1, 2)] {
        let mut pair = Pair::new();
        pair.hear_giver(Offer { state: Some(info(1, 0)), ..offer() }, vec![PIDFD]);
        pair.hear_giver(Snapshot { state: other }, vec![1]);
        assert_eq!(pair.taker_aborted(), Some(ErrorCode::Malformed));
    }
}

#[test]
fn a_predecessor_that_closes_during_the_transfer_is_lost() {
    let mut pair = Pair::new();
    pair.hear_giver(promised(2, 1), vec![PIDFD]);
    pair.giver_closes();
    assert_eq!(pair.taker_events.last(), Some(&TakerEvent::Failed(Cause::Closed(Peer::Predecessor))));
    assert!(!pair.taker.has_everything());
}

#[test]
fn a_successor_without_schemas_takes_descriptors_alone() {
    let mut pair = Pair::made(WAITS, Receive { schemas: vec![], ..receive() }, true);
    pair.give(GiverCommand::Offer(Box::new(gift(1, None))));
    pair.run();
    assert_eq!(pair.giver_events, [GiverEvent::Transferred]);
}
