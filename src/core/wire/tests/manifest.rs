//! The frame that is read and written by hand, beside what serde makes of it.

use std::sync::Arc;

use crate::core::wire::*;

fn frame() -> ServerFrame {
    Descriptors { batch: 65, entries: entries() }.into()
}

fn without_escapes() -> Descriptors {
    let entries = entries().into_iter().filter(|entry| !entry.name.as_str().contains('"')).collect();
    Descriptors { batch: 65, entries }
}

fn entries() -> Vec<Arc<Entry>> {
    let full = Entry {
        name: Name::try_from("é \"quoted\" \\").unwrap(),
        index: 3,
        kind: Kind::UnixSeqpacketListener,
        addr: Some("[::1]:80".to_owned()),
        cookie: Some(u64::MAX),
        netns: Some(1),
        file: Some(FileId { dev: 0, ino: u64::MAX }),
        path: Some(FileId { dev: u64::MAX, ino: 0 }),
        passed: true,
    };
    let plain = Entry { name: Name::try_from("http").unwrap(), kind: Kind::TcpListener, file: None, ..full.clone() };
    let pipe =
        Entry { kind: Kind::Pipe, index: 0, addr: None, cookie: None, netns: None, file: full.file, ..plain.clone() };
    let pipe = Entry { passed: false, ..pipe };
    [plain, pipe, full].map(Arc::new).into()
}

#[test]
fn it_is_written_as_serde_writes_it() {
    let empty = Descriptors { batch: 0, entries: Vec::new() }.into();
    for frame in [frame(), empty] {
        assert_eq!(String::from_utf8(frame.to_object()).unwrap(), serde_json::to_string(&frame).unwrap());
        assert_eq!(ServerFrame::parse(&frame.to_object()), Ok(frame));
    }
}

#[test]
fn a_line_without_escapes_is_read_by_hand() {
    let frame = without_escapes();
    let line = String::from_utf8(ServerFrame::from(frame.clone()).to_object()).unwrap();
    assert_eq!(crate::core::wire::manifest::read(&line), Some(frame));
}

/// A peer's in another language may have all of these.
#[test]
fn both_readers_take_null_for_what_is_absent() {
    let line =
        |field: &str| format!(r#"{{"type":"descriptors","batch":0,"entries":[{{"name":"a",{field}"kind":"file"}}]}}"#);
    let plain = ServerFrame::parse(line("").as_bytes()).unwrap();
    for field in ["index", "addr", "cookie", "netns", "file", "path", "passed"] {
        let line = line(&format!(r#""{field}":null,"#));
        assert_eq!(ServerFrame::parse(line.as_bytes()).as_ref(), Ok(&plain), "{line}");
        assert_eq!(ServerFrame::parse(format!(" {line}").as_bytes()).as_ref(), Ok(&plain), "{line}");
    }
}

#[test]
fn both_readers_know_the_limits() {
    let line = |kind: usize, addr: usize| {
        let (kind, addr) = ("k".repeat(kind), "a".repeat(addr));
        format!(r#"{{"type":"descriptors","batch":0,"entries":[{{"name":"a","kind":"{kind}","addr":"{addr}"}}]}}"#)
    };
    for (kind, addr, fits) in [(MAX_WORD, MAX_ADDR, true), (MAX_WORD + 1, 1, false), (1, MAX_ADDR + 1, false)] {
        let line = line(kind, addr);
        assert_eq!(ServerFrame::parse(line.as_bytes()).is_ok(), fits);
        assert_eq!(ServerFrame::parse(format!(" {line}").as_bytes()).is_ok(), fits);
        assert_eq!(crate::core::wire::manifest::read(&line).is_some(), fits);
    }
}

/// Whatever happens to a line, it means what it means to serde, which gets to see it where it begins with a space.
#[test]
fn it_is_read_as_serde_reads_it() {
    let line = ServerFrame::from(without_escapes()).to_object();
    let same = |changed: &[u8]| {
        let by_serde = ServerFrame::parse(&[b" ", changed].concat());
        assert_eq!(ServerFrame::parse(changed).ok(), by_serde.ok(), "{}", String::from_utf8_lossy(changed));
    };
    for place in 0..line.len() {
        same(&line[..place]);
        same(&[&line[..place], &line[place + 1..]].concat());
        for byte in *b"\"\\{}[],:0 19-.ex\x1f\x7f\xff" {
            same(&[&line[..place], &[byte], &line[place + 1..]].concat());
            same(&[&line[..place], &[byte], &line[place..]].concat());
        }
    }
}
