//! The frame `descriptors`, written and read by hand. A handoff has thousands of its entries and a handful of everything
//! else, and serde's way through the same JSON takes several times as long. What is not in the very form that is
//! written here, a peer's in another language say, is left to serde, and so is every mistake.

use std::sync::Arc;

use serde::de::IntoDeserializer;
use serde::{Deserialize, Serialize};

use super::{Descriptors, Entry, FileId, Kind, MAX_ADDR, MAX_WORD, Name};

const PASSED: &str = r#","passed":true"#;

/// As serde would write it, without the newline.
pub(super) fn write(frame: &Descriptors) -> Vec<u8> {
    // About what an entry takes with a short name.
    let mut line = Vec::with_capacity(64 + 160 * frame.entries.len());
    put(&mut line, r#"{"type":"descriptors","batch":"#, &frame.batch);
    line.extend_from_slice(br#","entries":["#);
    for (place, entry) in frame.entries.iter().enumerate() {
        if place > 0 {
            line.push(b',');
        }
        write_entry(&mut line, entry);
    }
    line.extend_from_slice(b"]}");
    line
}

fn write_entry(line: &mut Vec<u8>, entry: &Entry) {
    put(line, r#"{"name":"#, &entry.name);
    if entry.index > 0 {
        put(line, r#","index":"#, &entry.index);
    }
    put(line, r#","kind":"#, &entry.kind);
    if let Some(addr) = &entry.addr {
        put(line, r#","addr":"#, addr);
    }
    if let Some(cookie) = &entry.cookie {
        put(line, r#","cookie":"#, cookie);
    }
    if let Some(netns) = &entry.netns {
        put(line, r#","netns":"#, netns);
    }
    for (key, id) in [(r#","file":{"dev":"#, &entry.file), (r#","path":{"dev":"#, &entry.path)] {
        if let Some(FileId { dev, ino }) = id {
            put(line, key, dev);
            put(line, r#","ino":"#, ino);
            line.push(b'}');
        }
    }
    if entry.passed {
        line.extend_from_slice(PASSED.as_bytes());
    }
    line.push(b'}');
}

fn put(line: &mut Vec<u8>, key: &str, value: &impl Serialize) {
    line.extend_from_slice(key.as_bytes());
    // Memory takes every byte, and numbers and texts have no other way to fail.
    let _ = serde_json::to_writer(line, value);
}

/// Reads what [`write`] has written. `None`: it may be something else, and serde is to say what.
pub(super) fn read(line: &str) -> Option<Descriptors> {
    let mut rest = Rest(line);
    rest.skip(r#"{"type":"descriptors","batch":"#)?;
    let batch = rest.number()?;
    rest.skip(r#","entries":["#)?;
    let mut entries: Vec<Arc<Entry>> = Vec::new();
    if rest.skip("]}").is_none() {
        loop {
            let entry = read_entry(&mut rest, entries.last())?;
            entries.push(Arc::new(entry));
            if rest.skip(",").is_none() {
                break;
            }
        }
        rest.skip("]}")?;
    }
    rest.0.is_empty().then_some(Descriptors { batch, entries })
}

fn read_entry(rest: &mut Rest<'_>, last: Option<&Arc<Entry>>) -> Option<Entry> {
    rest.skip(r#"{"name":""#)?;
    let name = rest.text()?;
    // Those of one name come together as a rule.
    let name = match last.filter(|last| last.name.as_str() == name) {
        Some(last) => last.name.clone(),
        None => Name::try_from(name).ok()?,
    };
    let index = rest.number_after(r#","index":"#)?.unwrap_or(0);
    rest.skip(r#","kind":""#)?;
    let kind = kind(rest.text().filter(|word| word.len() <= MAX_WORD)?)?;
    let addr = match rest.skip(r#","addr":""#) {
        Some(()) => Some(rest.text().filter(|addr| addr.len() <= MAX_ADDR)?.to_owned()),
        None => None,
    };
    let cookie = rest.number_after(r#","cookie":"#)?;
    let netns = rest.number_after(r#","netns":"#)?;
    let file = rest.file_id_after(r#","file":{"dev":"#)?;
    let path = rest.file_id_after(r#","path":{"dev":"#)?;
    let passed = rest.skip(PASSED).is_some();
    rest.skip("}")?;
    Some(Entry { name, index, kind, addr, cookie, netns, file, path, passed })
}

fn kind(word: &str) -> Option<Kind> {
    Kind::deserialize(IntoDeserializer::<serde::de::value::Error>::into_deserializer(word)).ok()
}

/// What of the line is not read yet.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn skip(&mut self, expected: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    /// Up to the quotation mark at the end of a text in which nothing is escaped, and over it.
    fn text(&mut self) -> Option<&'a str> {
        let end = self.0.bytes().position(|byte| byte == b'"' || byte == b'\\' || byte < b' ')?;
        let (text, rest) = self.0.split_at(end);
        self.0 = rest.strip_prefix('"')?;
        Some(text)
    }

    /// A number as JSON has them. One that ends in another way than `write` lets it end fails at what comes next.
    fn number<T: TryFrom<u64>>(&mut self) -> Option<T> {
        let end = self.0.bytes().position(|byte| !byte.is_ascii_digit())?;
        let (digits, rest) = self.0.split_at(end);
        if digits.len() > 1 && digits.starts_with('0') {
            return None;
        }
        self.0 = rest;
        digits.parse::<u64>().ok()?.try_into().ok()
    }

    /// The number of a key that need not be there.
    fn number_after<T: TryFrom<u64>>(&mut self, key: &str) -> Option<Option<T>> {
        match self.skip(key) {
            Some(()) => self.number().map(Some),
            None => Some(None),
        }
    }

    /// The file of a key that need not be there.
    fn file_id_after(&mut self, key: &str) -> Option<Option<FileId>> {
        let Some(dev) = self.number_after(key)? else { return Some(None) };
        let ino = self.number_after(r#","ino":"#)??;
        self.skip("}")?;
        Some(Some(FileId { dev, ino }))
    }
}
