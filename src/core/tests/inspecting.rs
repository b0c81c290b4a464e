//! A connection before `receive`.

use std::time::{Duration, Instant};

use super::pair::receive;
use crate::core::wire::{
    Active, ClientFrame, ErrorCode, GetStatus, Help, MAX_SCHEMAS, MAX_SERVICES, MAX_TEXT, Receive, ServerFrame, Stop,
    Upgrade, VersionRange, Watch, WireError, parse_client_line,
};
use crate::core::{Answer, Desk, Inspector, MAX_INSPECTORS, QUIET_LIMIT};

fn answer(line: Result<ClientFrame, WireError>, successor: Option<u32>) -> Answer {
    at(Desk { successor, ..Desk::default() }, line)
}

fn at(desk: Desk<'_>, line: Result<ClientFrame, WireError>) -> Answer {
    Inspector::new(Instant::now()).line(Instant::now(), line, desk)
}

fn said(answer: &Answer) -> (bool, Option<ErrorCode>) {
    match answer {
        Answer::Reply(ServerFrame::Failure(failure)) => (true, Some(failure.code)),
        Answer::Close(ServerFrame::Failure(failure)) | Answer::Refuse(_, failure) => (false, Some(failure.code)),
        _ => (true, None),
    }
}

#[test]
fn questions_are_answered() {
    assert!(matches!(answer(Ok(Help {}.into()), None), Answer::Reply(ServerFrame::HelpText(_))));
    assert_eq!(answer(Ok(GetStatus {}.into()), None), Answer::Status);
    assert_eq!(answer(Ok(receive().into()), None), Answer::Begin(receive()));
}

// M148
#[test]
fn whoever_comes_after_one_that_is_lost_waits() {
    let desk = Desk { successor: Some(4242), lost: true, ..Desk::default() };
    assert_eq!(at(desk, Ok(receive().into())), Answer::Wait(receive()));
    assert_eq!(at(desk, Ok(GetStatus {}.into())), Answer::Status);
}

// M31
#[test]
fn what_is_not_offered_is_unsupported() {
    for frame in [Upgrade::default().into(), Stop {}.into()] {
        assert_eq!(said(&answer(Ok(frame), None)), (true, Some(ErrorCode::Unsupported)));
    }
}

// M31
#[test]
fn what_is_offered_is_done() {
    let desk = Desk { operable: true, ..Desk::default() };
    let upgrade = |timeout_ms| at(desk, Ok(Upgrade { timeout_ms }.into()));
    assert_eq!(upgrade(None), Answer::Upgrade(None));
    assert_eq!(upgrade(Some(1500)), Answer::Upgrade(Some(Duration::from_millis(1500))));
    assert!(matches!(at(desk, Ok(Stop {}.into())), Answer::Stop(ServerFrame::Stopping(_))));
}

// M90
#[test]
fn one_upgrade_at_a_time() {
    let busy = |successor, upgrading, stopping| {
        let desk = Desk { operable: true, successor, upgrading, stopping, ..Desk::default() };
        said(&at(desk, Ok(Upgrade::default().into())))
    };
    assert_eq!(busy(Some(4711), false, false), (true, Some(ErrorCode::Busy)));
    assert_eq!(busy(None, true, false), (true, Some(ErrorCode::Busy)));
    assert_eq!(busy(None, false, true), (true, Some(ErrorCode::Busy)), "one that stops has no time for it");
    // The new process that an upgrade waits for is welcome.
    let awaited = Desk { operable: true, upgrading: true, ..Desk::default() };
    assert_eq!(at(awaited, Ok(receive().into())), Answer::Begin(receive()));
}

// M37
#[test]
fn one_that_listens_may_be_quiet_for_ever() {
    let began = Instant::now();
    let desk = Desk { operable: true, ..Desk::default() };
    for frame in [Watch {}.into(), Upgrade::default().into()] {
        let (mut listens, looks) = (Inspector::new(began), Inspector::new(began));
        listens.line(began, Ok(frame), desk);
        assert!(listens.listens() && !looks.listens());
        assert_eq!(listens.deadline(), None);
        assert!(looks.rank() < listens.rank(), "one that only looks makes room first");
    }
}

// M33
#[test]
fn frames_of_a_handoff_wait_for_receive() {
    assert_eq!(said(&answer(Ok(Active {}.into()), None)), (true, Some(ErrorCode::OutOfOrder)));
}

// M34, M35
#[test]
fn mistakes_are_told_and_a_broken_stream_is_closed() {
    let malformed = WireError::Malformed("no".to_owned());
    assert_eq!(said(&answer(Err(malformed), None)), (true, Some(ErrorCode::Malformed)));
    assert_eq!(
        said(&answer(Err(WireError::UnknownType("hop".to_owned())), None)),
        (true, Some(ErrorCode::UnknownType))
    );
    assert_eq!(said(&answer(Err(WireError::TooLong), None)), (false, Some(ErrorCode::TooLong)));
    assert_eq!(said(&answer(Err(WireError::StrayDescriptors), None)), (false, Some(ErrorCode::Descriptors)));
    assert_eq!(said(&answer(Err(WireError::Truncated), None)), (false, Some(ErrorCode::Descriptors)));
}

// M99
#[test]
fn a_receive_that_is_malformed_is_answered_and_closed() {
    let said_to = |line: &str| said(&answer(parse_client_line(line.as_bytes()), None));
    let malformed = [
        r#"{"type":"receive"}"#,
        r#"{"type":"receive","protocol":{"min":-1,"max":1},"pid":1,"version":"","schemas":[]}"#,
        r#"{"type":"receive","protocol":[1,1],"pid":1,"version":"","schemas":[]}"#,
        r#"{"pid":1,"pid":2,"type":"receive","protocol":{"min":1,"max":1},"version":"","schemas":[]}"#,
    ];
    for line in malformed {
        assert_eq!(said_to(line), (false, Some(ErrorCode::Malformed)), "{line}");
    }
    // Whoever does not say receive, or does not say it in JSON, may try again.
    for line in ["receive", r#"{"type":"receive","pid":"#, r#"{"type":"received"}"#, r#"{"receive":1}"#, "{}"] {
        assert_eq!(said_to(line), (true, Some(ErrorCode::Malformed)), "{line}");
    }
    let unknown = r#"{"type":"receive","new":{},"protocol":{"min":1,"max":1},"pid":1,"version":"","schemas":[]}"#;
    assert_eq!(said_to(unknown), (true, None), "unknown fields are fine");
}

// M41
#[test]
fn a_second_successor_is_told_who_is_first() {
    let busy = answer(Ok(receive().into()), Some(4711));
    assert_eq!(said(&busy), (false, Some(ErrorCode::Busy)));
    assert!(matches!(busy, Answer::Refuse(_, failure) if failure.message.contains("4711")));
}

// M39
#[test]
fn a_successor_without_a_version_in_common_is_refused() {
    let begins = |min, max| {
        let protocol = VersionRange { min, max };
        said(&answer(Ok(Receive { protocol, ..receive() }.into()), None))
    };
    assert_eq!(begins(1, 9), (true, None));
    assert_eq!(begins(2, 9), (false, Some(ErrorCode::Version)));
    assert_eq!(begins(0, 0), (false, Some(ErrorCode::Version)));
}

// M143
#[test]
fn a_successor_of_another_service_is_refused() {
    let begins = |name: Option<&str>, services: Option<&[&str]>| {
        let services = services.map(|services| services.iter().map(|name| (*name).to_owned()).collect());
        said(&at(Desk { name, ..Desk::default() }, Ok(Receive { services, ..receive() }.into())))
    };
    assert_eq!(begins(Some("app"), Some(&["other", "another"])), (false, Some(ErrorCode::Name)));
    assert_eq!(begins(Some("app"), Some(&[])), (false, Some(ErrorCode::Name)));
    for (name, services) in
        [(Some("app"), Some(&["other", "app"][..])), (Some("app"), None), (None, Some(&["other"][..])), (None, None)]
    {
        assert_eq!(begins(name, services), (true, None));
    }
}

// M27
#[test]
fn a_receive_with_too_many_names_or_fingerprints_is_refused() {
    let begins = |services: usize, length: usize, fingerprints: usize| {
        let services = Some(vec!["x".repeat(length); services]);
        let fingerprints = Some(vec![0; fingerprints]);
        said(&answer(Ok(Receive { services, fingerprints, ..receive() }.into()), None)).1
    };
    assert_eq!(begins(MAX_SERVICES, MAX_TEXT, MAX_SCHEMAS), None);
    assert_eq!(begins(MAX_SERVICES + 1, 1, 1), Some(ErrorCode::Malformed));
    assert_eq!(begins(1, MAX_TEXT + 1, 1), Some(ErrorCode::Malformed));
    assert_eq!(begins(1, 1, MAX_SCHEMAS + 1), Some(ErrorCode::Malformed));
}

// M27
#[test]
fn a_receive_beyond_the_limits_is_refused() {
    let begins = |schemas: usize, version: usize| {
        let (schemas, version) = (vec![0; schemas], "x".repeat(version));
        said(&answer(Ok(Receive { schemas, version, ..receive() }.into()), None)).1
    };
    assert_eq!(begins(MAX_SCHEMAS, MAX_TEXT), None);
    assert_eq!(begins(MAX_SCHEMAS + 1, 1), Some(ErrorCode::Malformed));
    assert_eq!(begins(1, MAX_TEXT + 1), Some(ErrorCode::Malformed));
}

// M37
#[test]
fn every_line_begins_the_quiet_limit_anew() {
    let began = Instant::now();
    let mut inspector = Inspector::new(began);
    assert_eq!(inspector.deadline(), Some(began + QUIET_LIMIT));
    let later = began + Duration::from_secs(59);
    inspector.line(later, Ok(GetStatus {}.into()), Desk::default());
    assert_eq!(inspector.deadline(), Some(later + QUIET_LIMIT));
    assert_eq!(inspector.rank(), (false, later));
    assert!(matches!(Inspector::timeout(), ServerFrame::Failure(failure) if failure.code == ErrorCode::Timeout));
}

#[test]
fn one_that_makes_room_hears_why() {
    let evicted = Inspector::evicted();
    let names_the_cap = |message: &str| message.contains(&MAX_INSPECTORS.to_string());
    assert!(matches!(evicted, ServerFrame::Failure(failure) if names_the_cap(&failure.message)));
}

// M170
#[test]
fn a_keeper_is_in_nobodys_way() {
    let standby = || Receive { standby: true, ..receive() };
    let ask = |desk, receive: Receive| at(desk, Ok(receive.into()));
    let desk = Desk { operable: true, ..Desk::default() };
    assert_eq!(ask(desk, standby()), Answer::Keep(standby()));
    // While a handoff is under way, and one that is lost.
    let during = Desk { successor: Some(7), lost: true, upgrading: true, ..desk };
    assert_eq!(ask(during, standby()), Answer::Keep(standby()));
    // The other way round.
    let kept = Desk { keeper: Some(12), ..desk };
    assert_eq!(ask(kept, receive()), Answer::Begin(receive()));
    assert_eq!(at(kept, Ok(Upgrade::default().into())), Answer::Upgrade(None));
    assert_eq!(said(&ask(kept, standby())), (false, Some(ErrorCode::Busy)));
    assert_eq!(said(&ask(Desk::default(), standby())), (false, Some(ErrorCode::Unsupported)));
    // Nothing that a keeper is told is the outcome of an upgrade.
    assert!(matches!(ask(kept, standby()), Answer::Close(_)));
}
