//! Text to types and back.

use crate::core::wire::*;

fn name(name: &str) -> Name {
    Name::try_from(name.to_owned()).unwrap()
}

fn state() -> StateInfo {
    StateInfo { length: u64::MAX, schema: 7, codec: "raw".to_owned(), fingerprint: Some(u64::MAX) }
}

fn attempt(lap: Option<u64>, reason: Option<&str>) -> Attempt {
    Attempt {
        from: 1,
        successor_pid: 2,
        instance: reason.map(str::to_owned),
        outcome: Outcome::TakenBack,
        reason: reason.map(str::to_owned),
        began_unix_ms: 3,
        total_us: 4,
        transfer_us: lap,
        initialise_us: lap,
        release_us: lap,
        pause_us: lap,
        drain_us: lap,
    }
}

fn client_frames() -> Vec<ClientFrame> {
    let protocol = VersionRange { min: 1, max: 2 };
    let text = "two\nlines, \"quotes\", \u{7f}, é and \u{1f980}".to_owned();
    vec![
        Help {}.into(),
        GetStatus {}.into(),
        Watch {}.into(),
        Upgrade::default().into(),
        Upgrade { timeout_ms: Some(1) }.into(),
        Stop {}.into(),
        Receive {
            protocol,
            pid: u32::MAX,
            version: text.clone(),
            schemas: vec![0, u32::MAX],
            fingerprints: Some(vec![u64::MAX]),
            services: Some(vec![text.clone()]),
            standby: true,
            instance: Some(text.clone()),
            take: true,
        }
        .into(),
        Received { batch: 65 }.into(),
        Progress { message: text.clone() }.into(),
        Ready {}.into(),
        Active {}.into(),
        Settled { ending: Ending::Stopped }.into(),
        Settled { ending: Ending::HandedOver }.into(),
        Abort { code: ErrorCode::TooLong, reason: text }.into(),
    ]
}

fn server_frames() -> Vec<ServerFrame> {
    let full = Entry {
        name: name("http"),
        index: 3,
        kind: Kind::UnixSeqpacketListener,
        addr: Some("[::1]:80".to_owned()),
        cookie: Some(u64::MAX),
        netns: Some(1),
        file: Some(FileId { dev: 1, ino: u64::MAX }),
        path: Some(FileId { dev: u64::MAX, ino: 1 }),
        passed: true,
    };
    let bare = Entry {
        index: 0,
        addr: None,
        cookie: None,
        netns: None,
        file: None,
        path: None,
        passed: false,
        ..full.clone()
    };
    let text = || "line\nbreak".to_owned();
    let words = [(text(), text())].into();
    let history = vec![attempt(None, None), attempt(Some(1), Some("a\nb"))];
    let fd = FdStatus { name: name("http"), kind: Kind::Other, addr: None, netns: Some(u64::MAX) };
    vec![
        Hello {
            protocol: PROTOCOL,
            name: text(),
            version: text(),
            pid: 1,
            generation: u64::MAX,
            phase: Phase::Stranded,
            named: Some(false),
            instance: Some(text()),
        }
        .into(),
        HelpText { words }.into(),
        Status {
            name: text(),
            version: text(),
            pid: 1,
            generation: 2,
            phase: Phase::Draining,
            uptime_ms: 3,
            fds: vec![fd],
            fd_count: 9,
            history: history.clone(),
            successor: Some(SuccessorStatus {
                pid: 1,
                version: text(),
                progress: Some(text()),
                instance: Some(text()),
            }),
            predecessor: Some(PredecessorStatus { pid: 2, connections: Some(3) }),
            path_lost: Some(text()),
            cut_off: Some(text()),
            instance: Some(text()),
            keeper: Some(KeeperStatus { pid: 1, holds: true }),
            kept: Some(KeptStatus { for_ms: 1, reason: text(), waiting: 2 }),
        }
        .into(),
        Event {
            event: News::Draining,
            generation: 1,
            pid: Some(2),
            instance: Some(text()),
            elapsed_us: Some(3),
            connections: Some(4),
            message: text(),
        }
        .into(),
        Concluded { attempt: attempt(Some(1), Some("a\nb")) }.into(),
        Stopping {}.into(),
        Failure { code: ErrorCode::UnknownType, message: text() }.into(),
        Offer {
            protocol: 1,
            generation: 2,
            pid: 3,
            pidfd: true,
            descriptors: 4,
            batches: 5,
            state: Some(state()),
            path: Some(FileId { dev: 1, ino: 2 }),
            ready_timeout_ms: 6,
            active_timeout_ms: 7,
            drain_timeout_ms: u64::MAX,
            history,
            instance: Some(text()),
            superseded: vec![text()],
        }
        .into(),
        Descriptors { batch: 0, entries: vec![full.into(), bare.into()] }.into(),
        Snapshot { state: state() }.into(),
        Release { state: None, monotonic_us: 1, timens: Some(u64::MAX) }.into(),
        Renew {}.into(),
        Draining { connections: 0 }.into(),
        Farewell { state: Some(state()), more: true }.into(),
        Abort { code: ErrorCode::Application, reason: text() }.into(),
    ]
}

fn text_of(frame: &impl Frame) -> String {
    let mut line = String::from_utf8(frame.to_line()).unwrap();
    assert_eq!(line.pop(), Some('\n'));
    line
}

fn round_trip<T: Frame + PartialEq + std::fmt::Debug>(frame: &T, tag: &str) {
    let text = text_of(frame);
    assert!(text.starts_with(&format!("{{\"type\":\"{tag}\"")), "type comes first: {text}");
    assert!(!text.contains('\n'), "one line: {text}");
    assert_eq!(&T::parse(text.as_bytes()).unwrap(), frame);
    let unknown = text.replacen('{', "{\"unknown\":{\"deep\":[1,null]},", 1);
    assert_eq!(&T::parse(unknown.as_bytes()).unwrap(), frame, "an unknown field before the others");
    let unknown = format!("{},\"zzz\":null}}", &text[..text.len() - 1]);
    assert_eq!(&T::parse(unknown.as_bytes()).unwrap(), frame, "an unknown field behind the others");
}

// M10, M14
#[test]
fn every_frame_comes_back_with_unknown_fields_around_it() {
    for frame in client_frames() {
        round_trip(&frame, frame.tag());
    }
    for frame in server_frames() {
        round_trip(&frame, frame.tag());
    }
}

// M15
#[test]
fn a_frame_without_a_field_that_it_needs_is_malformed() {
    // An Option may be absent.
    const OPTIONAL: [&str; 28] = [
        "cut_off",
        "instance",
        "take",
        "superseded",
        "standby",
        "keeper",
        "kept",
        "fingerprint",
        "fingerprints",
        "services",
        "named",
        "state",
        "path",
        "successor",
        "predecessor",
        "timens",
        "reason",
        "addr",
        "transfer_us",
        "initialise_us",
        "release_us",
        "pause_us",
        "drain_us",
        "connections",
        "timeout_ms",
        "pid",
        "elapsed_us",
        "path_lost",
    ];
    let check = |text: String, parses: &dyn Fn(&[u8]) -> Option<WireError>| {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        for field in object.keys().filter(|field| *field != "type") {
            let mut without = object.clone();
            without.remove(field);
            let error = parses(&serde_json::to_vec(&without).unwrap());
            let wrong = matches!(error, Some(WireError::Malformed(_)));
            let is_optional =
                OPTIONAL.contains(&field.as_str()) && object["type"] != "state" && object["type"] != "abort";
            let is_optional = is_optional && object["type"] != "draining";
            let is_optional = is_optional && (field != "pid" || object["type"] == "event");
            assert_eq!(wrong, !is_optional, "{field} of {text}");
        }
    };
    for frame in client_frames() {
        check(text_of(&frame), &|line| ClientFrame::parse(line).err());
    }
    for frame in server_frames() {
        check(text_of(&frame), &|line| ServerFrame::parse(line).err());
    }
}

// M15
#[test]
fn what_is_not_a_frame_is_malformed() {
    let lines: [&[u8]; 17] = [
        b"{",
        b"{}",
        b"[]",
        b"null",
        b"{\"type\":7}",
        b"{\"type\":\"received\"}",
        b"{\"type\":\"received\",\"batch\":-1}",
        b"{\"type\":\"received\",\"batch\":1.0}",
        b"{\"type\":\"received\",\"batch\":4294967296}",
        b"{\"type\":\"received\",\"batch\":\"1\"}",
        b"{\"type\":\"received\",\"batch\":1,\"batch\":1}",
        b"{\"type\":\"received\",\"type\":\"received\",\"batch\":1}",
        b"{\"type\":\"ready\"} {}",
        b"{\"type\":\"progress\",\"message\":\"\xff\"}",
        b"{\"type\":\"progress\",\"message\":\"\\ud800\"}",
        b"\xff",
        b"",
    ];
    for line in lines {
        let shown = String::from_utf8_lossy(line);
        assert!(matches!(ClientFrame::parse(line), Err(WireError::Malformed(_))), "{shown}");
        assert!(matches!(parse_client_line(line), Err(WireError::Malformed(_))), "{shown}");
    }
    let nested = format!("{{\"type\":\"ready\",\"deep\":{}", "[".repeat(100_000));
    assert!(matches!(ClientFrame::parse(nested.as_bytes()), Err(WireError::Malformed(_))), "no stack is overrun");
}

/// Every object and every text in a frame, by its place.
fn parts(value: &serde_json::Value, place: String, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            fields.iter().for_each(|(name, field)| parts(field, format!("{place}/{name}"), found));
        }
        serde_json::Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, item)| parts(item, format!("{place}/{index}"), found));
        }
        serde_json::Value::String(_) => {}
        _ => return,
    }
    found.push(place);
}

/// The frame as this library writes it, once for each part that `change` changes, with that part's place.
fn changed(
    text: &str,
    change: impl Fn(&str, &serde_json::Value) -> Option<serde_json::Value>,
) -> Vec<(String, serde_json::Value)> {
    let frame: serde_json::Value = serde_json::from_str(text).unwrap();
    let mut places = Vec::new();
    parts(&frame, String::new(), &mut places);
    let change = |place: String| {
        let mut changed = frame.clone();
        let part = changed.pointer_mut(&place).unwrap();
        *part = change(place.rsplit('/').next().unwrap(), part)?;
        Some((place, changed))
    };
    places.into_iter().filter_map(change).collect()
}

/// Refuses each of these frames. Returns how many there are.
fn assert_malformed<T: Frame + std::fmt::Debug>(_: &T, changed: Vec<(String, serde_json::Value)>) -> usize {
    for (place, changed) in &changed {
        let error = T::parse(changed.to_string().as_bytes()).err();
        assert!(matches!(error, Some(WireError::Malformed(_))), "{place}: {changed}: {error:?}");
    }
    changed.len()
}

// M96
#[test]
fn a_list_is_no_object_and_an_object_no_text() {
    // In the order of the fields, as a struct has them.
    let as_list = |name: &str, part: &serde_json::Value| match part {
        serde_json::Value::Object(fields) if name == "words" => Some(fields.values().cloned().collect()),
        serde_json::Value::Object(fields) => {
            let known = ["min", "max", "dev", "ino", "length", "schema", "codec", "name", "index", "kind", "addr"];
            let first = known.iter().filter_map(|name| fields.get(*name));
            let rest = fields.iter().filter(|(name, _)| !known.contains(&name.as_str())).map(|(_, value)| value);
            Some(first.chain(rest).cloned().collect())
        }
        _ => None,
    };
    let as_object = |_: &str, part: &serde_json::Value| part.as_str().map(|word| serde_json::json!({ word: null }));
    let mut refused = 0;
    for frame in client_frames() {
        refused += assert_malformed(&frame, changed(&text_of(&frame), as_list));
        refused += assert_malformed(&frame, changed(&text_of(&frame), as_object));
    }
    for frame in server_frames() {
        refused += assert_malformed(&frame, changed(&text_of(&frame), as_list));
        refused += assert_malformed(&frame, changed(&text_of(&frame), as_object));
    }
    assert!(refused > 100, "{refused}");
    for list in [r#"["progress"]"#, r#"["receive",{"min":1,"max":1},1,"",[]]"#, r#"["settled"]"#] {
        assert!(matches!(ClientFrame::parse(list.as_bytes()), Err(WireError::Malformed(_))), "{list}");
    }
    let receive = r#"{"type":"receive","protocol":[1,1],"pid":1,"version":"","schemas":[]}"#;
    assert!(matches!(ClientFrame::parse(receive.as_bytes()), Err(WireError::Malformed(_))));
    for entry in [r#"["http",0,"file"]"#, r#"{"name":"http","kind":"file","file":[66,1202]}"#] {
        let line = format!(r#"{{"type":"descriptors","batch":0,"entries":[{entry}]}}"#);
        assert!(matches!(ServerFrame::parse(line.as_bytes()), Err(WireError::Malformed(_))), "{line}");
    }
}

// M97
#[test]
fn a_name_twice_is_malformed_however_it_is_written() {
    let twice = [
        r#"{"type":"received","batch":1,"batch":1}"#,
        r#"{"type":"received","batch":1,"b\u0061tch":2}"#,
        r#"{"type":"received","ty\u0070e":"received","batch":1}"#,
        r#"{"ty\u0070e":"hop","type":"received","batch":1}"#,
        // Nobody here knows these fields.
        r#"{"type":"received","batch":1,"new":1,"new":1}"#,
        r#"{"type":"received","batch":1,"new":1,"\u006eew":1}"#,
        r#"{"type":"received","batch":1,"new":[{"a":{"b":1,"b":2}}]}"#,
        r#"{"type":"hop","new":1,"new":1}"#,
    ];
    for line in twice {
        assert!(matches!(ClientFrame::parse(line.as_bytes()), Err(WireError::Malformed(_))), "{line}");
    }
    let once = [
        r#"{"type":"received","batch":1,"new":"\",\"batch\":2","other":"batch"}"#,
        r#"{"type":"received","batch":1,"Batch":2,"new":{"batch":{"batch":[{"batch":1},{"batch":1}]}}}"#,
        r#"{"type":"received","batch":1,"new":["batch","batch"],"b":"a\\"}"#,
        "{ \"type\" : \"received\" ,\t\"batch\" : 1 , \"\" : {} }",
    ];
    for line in once {
        assert_eq!(ClientFrame::parse(line.as_bytes()), Ok(Received { batch: 1 }.into()), "{line}");
    }
}

// M95
#[test]
fn a_line_is_nested_so_deep_and_no_deeper() {
    // The frame itself is the first level.
    let nested = |depth: usize, open: &str, close: &str| {
        let (open, close) = (open.repeat(depth - 1), close.repeat(depth - 1));
        ClientFrame::parse(format!("{{\"type\":\"ready\",\"new\":{open}0{close}}}").as_bytes())
    };
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        assert_eq!(nested(MAX_DEPTH, open, close), Ok(Ready {}.into()));
        let Err(WireError::Malformed(problem)) = nested(MAX_DEPTH + 1, open, close) else { panic!("too deep") };
        assert!(problem.contains("32"), "{problem}");
    }
    let side_by_side = format!("{{\"type\":\"ready\",\"new\":[{}0]}}", "[[]],{\"a\":{}},".repeat(1_000));
    assert_eq!(ClientFrame::parse(side_by_side.as_bytes()), Ok(Ready {}.into()), "breadth is not depth");
}

// M27
#[test]
fn texts_have_limits() {
    let texts =
        [("name", MAX_TEXT), ("version", MAX_TEXT), ("codec", MAX_TEXT), ("reason", MAX_TEXT), ("addr", MAX_ADDR)];
    let words =
        [("kind", MAX_WORD), ("phase", MAX_WORD), ("outcome", MAX_WORD), ("event", MAX_WORD), ("code", MAX_WORD)];
    let progress = [("progress", MAX_TEXT), ("message", MAX_TEXT)];
    let mut seen = std::collections::BTreeSet::new();
    for frame in server_frames() {
        // For people: these are cut, not refused. A descriptor's name has a test of its own.
        let is_cut = |place: &str| matches!(place, "/message" | "/reason") && matches!(frame.tag(), "error" | "abort");
        let is_name = |place: &str| place.ends_with("/name") && place != "/name";
        for (field, limit) in texts.into_iter().chain(words).chain(progress) {
            let with = |length: usize| {
                let text = |name: &str, part: &serde_json::Value| {
                    (name == field && part.is_string()).then(|| "x".repeat(length).into())
                };
                changed(&text_of(&frame), text)
            };
            for ((place, fits), (_, too_long)) in with(limit).into_iter().zip(with(limit + 1)) {
                if is_cut(&place) || is_name(&place) {
                    continue;
                }
                assert!(ServerFrame::parse(fits.to_string().as_bytes()).is_ok(), "{place} of {}", frame.tag());
                let error = ServerFrame::parse(too_long.to_string().as_bytes()).err();
                assert!(matches!(error, Some(WireError::Malformed(_))), "{place} of {}", frame.tag());
                seen.insert(field);
            }
        }
    }
    assert_eq!(seen.len(), texts.len() + words.len() + progress.len(), "{seen:?}");
}

// M15
#[test]
fn what_is_optional_may_be_null() {
    let entry = r#"{"name":"http","index":null,"kind":"file","addr":null,"cookie":null,"netns":null,"file":null}"#;
    let line = format!(r#"{{"type":"descriptors","batch":0,"entries":[{entry}]}}"#);
    let Ok(ServerFrame::Descriptors(frame)) = ServerFrame::parse(line.as_bytes()) else { panic!("{line}") };
    assert_eq!(frame.entries[0].index, 0);
    // Whatever may be left out may be null, and means the same.
    for frame in server_frames() {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text_of(&frame)).unwrap();
        for field in object.keys().filter(|field| *field != "type") {
            let mut without = object.clone();
            without.remove(field);
            let without = ServerFrame::parse(&serde_json::to_vec(&without).unwrap()).ok();
            let mut null = object.clone();
            null.insert(field.clone(), serde_json::Value::Null);
            let null = ServerFrame::parse(&serde_json::to_vec(&null).unwrap()).ok();
            assert_eq!(without, null, "{field} of {}", frame.tag());
        }
    }
}

// M16
#[test]
fn an_unknown_type_is_told_apart_from_garbage() {
    let error = ClientFrame::parse(b"{\"type\":\"hop\",\"high\":1}").unwrap_err();
    assert_eq!(error, WireError::UnknownType("hop".to_owned()));
    assert_eq!(error.code(), ErrorCode::UnknownType);
    let long = format!("{{\"type\":\"{}\"}}", "x".repeat(1000));
    let Err(WireError::UnknownType(tag)) = ClientFrame::parse(long.as_bytes()) else { panic!("unknown") };
    assert_eq!(tag.len(), MAX_NAME, "what is said back is short");
    assert!(matches!(ClientFrame::parse(b"{\"type\":\"offer\"}"), Err(WireError::UnknownType(_))), "the other side's");
}

// M11
#[test]
fn a_line_at_its_limit_is_read_and_a_longer_one_is_not() {
    let line = |length: usize| {
        let around = "{\"type\":\"progress\",\"message\":\"\"}".len();
        format!("{{\"type\":\"progress\",\"message\":\"{}\"}}", "x".repeat(length - around))
    };
    assert!(ClientFrame::parse(line(MAX_LINE - 1).as_bytes()).is_ok());
    assert_eq!(ClientFrame::parse(line(MAX_LINE).as_bytes()), Err(WireError::TooLong));
}

// M17
#[test]
fn unknown_values_are_tolerated() {
    let value = |text: &str| format!("\"{text}\"");
    assert_eq!(serde_json::from_str::<Kind>(&value("vsock_listener")).unwrap(), Kind::Other);
    assert_eq!(serde_json::from_str::<ErrorCode>(&value("tired")).unwrap(), ErrorCode::Unknown);
    assert_eq!(serde_json::from_str::<Phase>(&value("dreaming")).unwrap(), Phase::Unknown);
    assert_eq!(serde_json::from_str::<Outcome>(&value("odd")).unwrap(), Outcome::Unknown);
    assert_eq!(serde_json::from_str::<Ending>(&value("vanished")).unwrap(), Ending::Unknown);
}

// M18
#[test]
fn people_type_words() {
    let words: [(&[u8], ClientFrame); 5] = [
        (b"help", Help {}.into()),
        (b"status", GetStatus {}.into()),
        (b" watch \r", Watch {}.into()),
        (b"upgrade", Upgrade::default().into()),
        (b"stop", Stop {}.into()),
    ];
    for (word, frame) in words {
        assert_eq!(parse_client_line(word), Ok(frame));
    }
    for word in [&b"Status"[..], b"receive", b"status now", b"quit", b"\"status\""] {
        let Err(WireError::Malformed(message)) = parse_client_line(word) else { panic!("no such word") };
        assert!(message.contains("help, status, watch, upgrade, stop"), "{message}");
    }
}

// M27
#[test]
fn names_have_bounds() {
    assert!(Name::try_from("é".repeat(MAX_NAME / 2)).is_ok());
    assert_eq!(Name::try_from(String::new()), Err(NameError::Empty));
    assert_eq!(Name::try_from("x".repeat(MAX_NAME + 1)), Err(NameError::TooLong(MAX_NAME + 1)));
    for bad in ["a\nb", "\0", "\u{85}"] {
        assert!(matches!(Name::try_from(bad.to_owned()), Err(NameError::ControlCharacter(_))));
    }
    let entry = |name: &str| {
        let entry = format!("{{\"name\":\"{name}\",\"kind\":\"file\"}}");
        ServerFrame::parse(format!("{{\"type\":\"descriptors\",\"batch\":0,\"entries\":[{entry}]}}").as_bytes())
    };
    assert!(entry("journal").is_ok());
    for bad in ["", "a\\nb", &"x".repeat(MAX_NAME + 1)] {
        assert!(matches!(entry(bad), Err(WireError::Malformed(_))), "on receipt too");
    }
}

// M39
#[test]
fn the_highest_common_version_is_chosen() {
    let range = |min, max| VersionRange { min, max };
    assert_eq!(range(1, 1).negotiate(range(1, 1)), Some(1));
    assert_eq!(range(1, 3).negotiate(range(2, 5)), Some(3));
    assert_eq!(range(2, 5).negotiate(range(1, 3)), Some(3));
    assert_eq!(range(1, 1).negotiate(range(2, 3)), None);
    assert_eq!(range(2, 3).negotiate(range(1, 1)), None);
    assert_eq!(range(3, 2).negotiate(range(1, 9)), None, "an empty range");
}

#[test]
fn shortened_text_keeps_whole_characters_and_no_controls() {
    assert_eq!(shorten("héé", 3), "hé");
    assert_eq!(shorten("a\nb\u{1b}[0m", 100), "a b [0m");
    assert_eq!(shorten("", 0), "");
}

#[test]
fn codes_show_as_they_are_on_the_wire() {
    assert_eq!(ErrorCode::OutOfOrder.to_string(), "out_of_order");
    assert_eq!(ErrorCode::TooLong.to_string(), "too_long");
}

#[test]
fn the_examples_of_the_specification_are_frames() {
    let text = include_str!("../../../../protocol.md");
    let mut seen = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(frame) = line.strip_prefix("P: {") {
            let frame = format!("{{{frame}");
            let parsed = ServerFrame::parse(frame.as_bytes()).unwrap_or_else(|error| panic!("{error}: {frame}"));
            assert_eq!(text_of(&parsed), frame, "as this library writes it");
            seen.insert(parsed.tag());
        } else if let Some(frame) = line.strip_prefix("S: {") {
            let frame = format!("{{{frame}");
            let parsed = ClientFrame::parse(frame.as_bytes()).unwrap_or_else(|error| panic!("{error}: {frame}"));
            assert_eq!(text_of(&parsed), frame, "as this library writes it");
            seen.insert(parsed.tag());
        }
    }
    assert!(seen.len() >= 15, "every frame of a handoff has an example: {seen:?}");
}

#[test]
fn the_limits_of_the_specification_are_those_of_the_code() {
    let text = include_str!("../../../../protocol.md");
    let grouped = |number: usize| {
        let digits = number.to_string();
        if digits.len() <= 3 {
            digits
        } else {
            format!("{},{}", &digits[..digits.len() - 3], &digits[digits.len() - 3..])
        }
    };
    let rows = [
        ("a line with its line feed", format!("{} bytes", grouped(MAX_LINE))),
        (
            "descriptors in one handoff, the control listener and the file of the lock among them",
            grouped(MAX_DESCRIPTORS),
        ),
        ("descriptors in one batch", format!("1 to {MAX_BATCH}")),
        ("a descriptor's name", format!("1 to {MAX_NAME} bytes of UTF-8, no control characters")),
        (
            "a free text: a service's `name`, `version`, `message`, `progress`, `reason`, `codec`",
            format!("{} bytes", grouped(MAX_TEXT)),
        ),
        ("a word: `kind`, `code`, `phase`, `outcome`, `event`", format!("{MAX_WORD} bytes")),
        ("a socket's `addr`", format!("{MAX_ADDR} bytes")),
        ("objects and lists nested in one line, the frame's own object among them", format!("{MAX_DEPTH}")),
        ("the schemas that a successor names", grouped(MAX_SCHEMAS)),
        ("the fingerprints that a successor names", grouped(MAX_SCHEMAS)),
        ("the services that a successor names", grouped(crate::core::wire::MAX_SERVICES)),
        ("the attempts in `history`", grouped(MAX_HISTORY)),
        ("the farewells of one generation, relayed ones and its own", grouped(MAX_FAREWELLS)),
        ("the file name of a control socket", format!("{} bytes", crate::core::wire::MAX_FILE_NAME)),
    ];
    for (what, value) in rows {
        assert!(text.contains(&format!("| {what} | {value} |")), "{what}: {value}");
    }
    assert!(text.contains("| 2^40 bytes (1 TiB) |") && MAX_STATE == 1 << 40);
}
