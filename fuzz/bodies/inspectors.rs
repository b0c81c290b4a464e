//! Floods at the control socket: lines of all kinds, many and at once, cut anywhere, on several connections, while the
//! service goes through what it can go through. Each line is answered once, and as the specification says.
//!
//! The input: two bytes for each operation: which one on which connection, and its argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fd_handoff::core::wire::{
    ClientFrame, ErrorCode, Failure, Frame, FrameReader, MAX_DEPTH, MAX_LINE, MAX_SCHEMAS, MAX_TEXT, Receive,
    ServerFrame, WireError, parse_client_line,
};
use fd_handoff::core::{Answer, Desk, Inspector, QUIET_LIMIT};

/// So many operations of one input are carried out.
const MOST: usize = 200;
/// How many connections there are.
const CONNECTIONS: usize = 4;
/// How often a line is said at once, at the most.
const FLOOD: usize = 64;

/// What the specification says about a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Help,
    Status,
    Watch,
    Upgrade,
    Stop,
    /// A handoff, or the code of its refusal.
    Handoff(Option<ErrorCode>),
    /// An error, and the connection goes on.
    Error(ErrorCode),
    /// An error, and the end.
    End(ErrorCode),
    /// Nothing.
    Silence,
}

/// One connection.
struct Connection {
    reader: FrameReader<()>,
    inspector: Inspector,
    /// What is to be said about the lines that are on their way here. The last one may lack its end.
    due: VecDeque<Due>,
    watches: bool,
    upgrades: bool,
    last_line: Instant,
}

struct World {
    now: Instant,
    desk: Desk<'static>,
    connections: Vec<Connection>,
}

/// One input.
///
/// # Panics
///
/// A line was not answered as it is to be.
pub(crate) fn run(data: &[u8]) {
    let now = Instant::now();
    let connections = (0..CONNECTIONS).map(|_| Connection::new(now)).collect();
    let mut world = World { now, desk: Desk { operable: true, name: Some("app"), ..Desk::default() }, connections };
    for operation in data.chunks_exact(2).take(MOST) {
        world.operate(operation[0], operation[1]);
        world.check();
    }
}

impl World {
    fn operate(&mut self, operation: u8, argument: u8) {
        let which = usize::from(operation >> 6) % CONNECTIONS;
        match operation & 63 {
            // A flood of one kind, in one go or in pieces.
            kind @ (0..48 | 58..62) => {
                let (line, due) = line(kind);
                let times = 1 + usize::from(argument >> 2) % FLOOD;
                // Long ones need not come often.
                let times = times.min(1 + 8_192 / line.len());
                let chunk = [usize::MAX, 1_000, 7, 1][usize::from(argument & 3)].min(MAX_LINE);
                let chunk = if line.len() > 4_096 { chunk.max(1_000) } else { chunk };
                self.connections[which].due.extend(std::iter::repeat_n(due, times));
                for bytes in line.repeat(times).chunks(chunk) {
                    self.connections[which].reader.push(bytes, vec![]);
                    if self.answer(which) {
                        break;
                    }
                }
            }
            48..52 => self.now += Duration::from_secs(u64::from(argument)),
            52 => self.desk.operable = argument & 1 == 0,
            53 => self.desk.successor = (argument & 1 == 0).then_some(u32::from(argument)),
            54 => self.desk.upgrading = argument & 1 == 0,
            55 => self.desk.stopping = argument & 1 == 0,
            56 => {
                let connection = &mut self.connections[which];
                connection.inspector.concluded();
                connection.upgrades = false;
            }
            57 => {
                let error = if argument & 1 == 0 { WireError::StrayDescriptors } else { WireError::Truncated };
                self.connections[which].due.push_back(Due::End(ErrorCode::Descriptors));
                self.connections[which].reader.push_spoilt(b"status\n", error);
                assert!(self.answer(which));
            }
            _ => self.connections[which] = Connection::new(self.now),
        }
    }

    /// Answers what is whole, as a session does. Returns whether that was the end of the connection.
    fn answer(&mut self, which: usize) -> bool {
        let connection = &mut self.connections[which];
        let mut ended = false;
        while let Some(read) = connection.reader.next_line() {
            let line = read.and_then(|(line, _)| parse_client_line(line));
            let mut due = connection.due.pop_front();
            while due == Some(Due::Silence) {
                due = connection.due.pop_front();
            }
            let Some(due) = due else { panic!("{line:?} is more than was said") };
            connection.last_line = self.now;
            let answer = connection.inspector.line(self.now, line, self.desk);
            connection.watches |= matches!(answer, Answer::Watch);
            connection.upgrades |= matches!(answer, Answer::Upgrade(_));
            ended = assert_is_due(due, &answer, self.desk);
            if ended {
                break;
            }
        }
        assert!(connection.reader.pending() < MAX_LINE, "more of a line is kept than one may have");
        if ended {
            *connection = Connection::new(self.now);
        }
        ended
    }

    fn check(&self) {
        for connection in &self.connections {
            let inspector = &connection.inspector;
            let listens = connection.watches || connection.upgrades;
            assert_eq!(inspector.listens(), listens);
            assert_eq!(inspector.rank(), (listens, connection.last_line));
            assert_eq!(inspector.deadline(), (!listens).then(|| connection.last_line + QUIET_LIMIT));
            let waiting = connection.due.iter().filter(|due| **due != Due::Silence).count();
            assert_eq!(waiting, 0, "{:?} was not answered", connection.due);
        }
    }
}

impl Connection {
    fn new(now: Instant) -> Connection {
        let (reader, inspector) = (FrameReader::default(), Inspector::new(now));
        Connection { reader, inspector, due: VecDeque::new(), watches: false, upgrades: false, last_line: now }
    }
}

/// Whether the connection ends.
fn assert_is_due(due: Due, answer: &Answer, desk: Desk<'_>) -> bool {
    let busy = desk.successor.is_some() || desk.upgrading || desk.stopping;
    let due = match due {
        Due::Upgrade | Due::Stop if !desk.operable => Due::Error(ErrorCode::Unsupported),
        Due::Upgrade if busy => Due::Error(ErrorCode::Busy),
        // Whoever is second is told so before anything else is looked at.
        Due::Handoff(_) if desk.successor.is_some() => Due::End(ErrorCode::Busy),
        Due::Handoff(Some(code)) => Due::End(code),
        due => due,
    };
    let code = |failure: &Failure| {
        check_line(&ServerFrame::from(failure.clone()));
        failure.code
    };
    let found = match answer {
        Answer::Reply(ServerFrame::HelpText(_)) => Due::Help,
        Answer::Reply(ServerFrame::Failure(failure)) => Due::Error(code(failure)),
        Answer::Close(ServerFrame::Failure(failure)) | Answer::Refuse(_, failure) => Due::End(code(failure)),
        Answer::Status => Due::Status,
        Answer::Watch => Due::Watch,
        Answer::Upgrade(_) => Due::Upgrade,
        Answer::Stop(ServerFrame::Stopping(_)) => Due::Stop,
        Answer::Begin(receive) => {
            check_receive(receive);
            Due::Handoff(None)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(found, due, "{desk:?}");
    matches!(answer, Answer::Close(_) | Answer::Refuse(..) | Answer::Begin(_))
}

fn check_receive(receive: &Receive) {
    assert!(receive.schemas.len() <= MAX_SCHEMAS && receive.version.len() <= MAX_TEXT);
    assert!(receive.protocol.min <= 1 && receive.protocol.max >= 1);
    let line = ClientFrame::from(receive.clone()).to_line();
    assert!(parse_client_line(&line).is_ok(), "what begins a handoff is a frame");
}

/// What is said fits a line.
fn check_line(frame: &ServerFrame) {
    let line = frame.to_line();
    assert!(line.len() < 4 * MAX_TEXT, "an error as long as what it is about");
    assert_eq!(ServerFrame::parse(&line[..line.len() - 1]).as_ref(), Ok(frame));
}

/// A line with its end, and what is due.
fn line(kind: u8) -> (Vec<u8>, Due) {
    use ErrorCode::{Malformed, Name, OutOfOrder, TooLong, UnknownType, Version};

    let receive = |version: &str, max: u32, schemas: usize| {
        let schemas = vec!["7"; schemas].join(",");
        let protocol = format!(r#"{{"min":{max},"max":{max}}}"#);
        format!(r#"{{"type":"receive","protocol":{protocol},"pid":4711,"version":"{version}","schemas":[{schemas}]}}"#)
    };
    let named = |services: &[&str]| {
        // Rust's own form of these names is that of JSON.
        receive("1", 1, 1).replacen('}', &format!(r#"}},"fingerprints":[0],"services":{services:?}"#), 1)
    };
    let nested = |depth: usize| format!(r#"{{"type":"status","new":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
    let text = |text: &str, due| (text.to_owned(), due);
    let (mut line, due) = match kind {
        0 => text("help", Due::Help),
        1 => text("status", Due::Status),
        2 => text("watch", Due::Watch),
        3 => text("upgrade", Due::Upgrade),
        4 => text("stop", Due::Stop),
        5 => text(r#"{"type":"help"}"#, Due::Help),
        6 => text(r#"{"new":[{"type":"stop"}],"type":"status"}"#, Due::Status),
        7 => text(r#"{"type":"watch","type_":1}"#, Due::Watch),
        8 => text(r#"{"type":"upgrade","timeout_ms":null}"#, Due::Upgrade),
        9 => text(r#"{"timeout_ms":18446744073709551615,"type":"upgrade"}"#, Due::Upgrade),
        10 => text("\t{ \"t\\u0079pe\" : \"st\\u006fp\" } \r", Due::Stop),
        11 => (receive("1", 1, 1), Due::Handoff(None)),
        12 => (receive("", 1, MAX_SCHEMAS), Due::Handoff(None)),
        13 => (receive("", 1, MAX_SCHEMAS + 1), Due::Handoff(Some(Malformed))),
        14 => (receive(&"v".repeat(MAX_TEXT + 1), 1, 0), Due::Handoff(Some(Malformed))),
        15 => (receive("1", 2, 1), Due::Handoff(Some(Version))),
        16 => text(r#"{"type":"receive"}"#, Due::End(Malformed)),
        17 => text(r#"{"type":"receive","protocol":[1,1],"pid":1,"version":"","schemas":[]}"#, Due::End(Malformed)),
        18 => (receive("1", 1, 1).replacen("pid", "p\\u0069d\":1,\"pid", 1), Due::End(Malformed)),
        19 => (receive("1", 1, 1).replacen("4711", "4711.0", 1), Due::End(Malformed)),
        20 => (receive("1", 1, 1).replacen('}', "", 1), Due::Error(Malformed)),
        21 => text("receive", Due::Error(Malformed)),
        22 => text("status now", Due::Error(Malformed)),
        23 => text("\u{c}status", Due::Error(Malformed)),
        24 => text("status\u{a0}", Due::Error(Malformed)),
        25 => text("[\"status\"]", Due::Error(Malformed)),
        26 => text("{}", Due::Error(Malformed)),
        27 => text(r#"{"type":7}"#, Due::Error(Malformed)),
        28 => text(r#"{"type":"status","type":"stop"}"#, Due::Error(Malformed)),
        29 => text(r#"{"type":"status","new":{"a":1,"\u0061":1}}"#, Due::Error(Malformed)),
        30 => text(r#"{"type":"upgrade","timeout_ms":-1}"#, Due::Error(Malformed)),
        31 => text(r#"{"type":"dance"}"#, Due::Error(UnknownType)),
        32 => text(r#"{"type":"offer"}"#, Due::Error(UnknownType)),
        33 => (format!(r#"{{"type":"{}"}}"#, "\u{1f980}".repeat(1_000)), Due::Error(UnknownType)),
        34 => text(r#"{"type":"received","batch":0}"#, Due::Error(OutOfOrder)),
        35 => text(r#"{"type":"progress","message":"\n"}"#, Due::Error(OutOfOrder)),
        36 => text(r#"{"type":"ready"}"#, Due::Error(OutOfOrder)),
        37 => text(r#"{"type":"active"}"#, Due::Error(OutOfOrder)),
        38 => text(r#"{"type":"settled","ending":"stopped"}"#, Due::Error(OutOfOrder)),
        39 => text(r#"{"type":"abort","code":"tired","reason":""}"#, Due::Error(OutOfOrder)),
        40 => (nested(MAX_DEPTH - 1), Due::Status),
        41 => (nested(MAX_DEPTH), Due::Error(Malformed)),
        42 => (nested(60_000), Due::Error(Malformed)),
        43 => text("", Due::Silence),
        44 => text(" \t \r", Due::Silence),
        45 => ("x".repeat(MAX_LINE - 1), Due::Error(Malformed)),
        46 => ("x".repeat(MAX_LINE), Due::End(TooLong)),
        58 => (named(&["other", "app"]), Due::Handoff(None)),
        59 => (named(&[]), Due::Handoff(Some(Name))),
        60 => (named(&["\n".repeat(500).as_str(); 16]), Due::Handoff(Some(Name))),
        61 => (named(&["app"; 17]), Due::Handoff(Some(Malformed))),
        _ => (format!("{{{}", " ".repeat(MAX_LINE)), Due::End(TooLong)),
    };
    line.push('\n');
    (line.into_bytes(), due)
}
