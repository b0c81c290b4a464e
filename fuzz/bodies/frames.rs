//! Any bytes, cut into any chunks, with descriptors on any of them, against a reader that is slow and simple.
//!
//! The input: one byte that says how many bytes of instructions follow, the instructions, and the stream. An
//! instruction says how long the next chunk is, how many descriptors come with it, and whether some were lost; they
//! are used over and over until the stream ends.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use fd_handoff::core::wire::{ClientFrame, Frame, FrameReader, MAX_LINE, ServerFrame, WireError, parse_client_line};

/// How long a stream gets that is made long by repeating it: more than a line may be.
const LONG: usize = MAX_LINE + 9_000;
/// In so many chunks at the most, more or less: the model searches everything again after each.
const CHUNKS: usize = 128;
/// So many lines are also parsed: a long stream has the same ones again and again.
const UNDERSTOOD: usize = 64;

/// A descriptor. There is no way to copy one, and those that live are counted.
struct Fd {
    number: u32,
    living: Rc<Cell<usize>>,
}

impl Drop for Fd {
    fn drop(&mut self) {
        self.living.set(self.living.get() - 1);
    }
}

struct Chunk {
    length: usize,
    descriptors: u32,
    spoilt: bool,
    /// Whether lines are taken out after it.
    read: bool,
}

/// One input.
///
/// # Panics
///
/// The reader or the parsers did what they must not.
pub(crate) fn run(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else { return };
    let (instructions, stream) = rest.split_at(usize::from(first & 31).min(rest.len()));
    let mut stream = stream.to_vec();
    if first >> 5 == 7 && !stream.is_empty() {
        stream = stream.repeat(LONG.div_ceil(stream.len()));
    }
    let shortest = stream.len() / CHUNKS;
    let mut instructions = instructions.iter().cycle();
    let living = Rc::new(Cell::new(0));
    let (mut reader, mut model) = (FrameReader::default(), Model::default());
    let (mut number, mut stream) = (0, &stream[..]);
    while !stream.is_empty() {
        let chunk = instructions.next().map_or_else(|| Chunk::all(stream), |byte| Chunk::read_from(*byte));
        let length = chunk.length.max(shortest);
        let (bytes, rest) = stream.split_at(length.min(stream.len()));
        stream = rest;
        if chunk.spoilt {
            reader.push_spoilt(bytes, WireError::Truncated);
            model.push(bytes, vec![], Some(WireError::Truncated));
        } else {
            let numbers: Vec<u32> = (number..number + chunk.descriptors).collect();
            number += chunk.descriptors;
            living.set(living.get() + numbers.len());
            let fds = numbers.iter().map(|number| Fd { number: *number, living: Rc::clone(&living) }).collect();
            reader.push(bytes, fds);
            let stray = (!numbers.is_empty()).then_some(WireError::StrayDescriptors);
            model.push(bytes, numbers, stray);
        }
        if chunk.read || stream.is_empty() {
            compare(&mut reader, &mut model);
            assert!(reader.pending() < MAX_LINE, "{} bytes of an unfinished line are kept", reader.pending());
            assert!(living.get() <= model.attached.values().map(Vec::len).sum(), "descriptors are kept for no line");
        }
    }
    reader.end(WireError::Broken("the end".to_owned()));
    model.broken.get_or_insert(WireError::Broken("the end".to_owned()));
    compare(&mut reader, &mut model);
    drop(reader);
    assert_eq!(living.get(), 0, "descriptors leaked");
}

impl Chunk {
    fn all(stream: &[u8]) -> Chunk {
        Chunk { length: stream.len(), descriptors: 0, spoilt: false, read: true }
    }

    fn read_from(byte: u8) -> Chunk {
        const LENGTHS: [usize; 16] =
            [1, 2, 3, 5, 8, 13, 21, 34, 89, 233, 1_024, 4_096, 16_384, 65_536, MAX_LINE - 1, MAX_LINE + 1];
        let descriptors = [0, 0, 1, 0, 2, 252, 0, 1][usize::from(byte >> 4 & 7)];
        let spoilt = byte >> 4 == 0b1011;
        Chunk { length: LENGTHS[usize::from(byte & 15)], descriptors, spoilt, read: byte < 128 }
    }
}

/// A line and the numbers of its descriptors.
type Line = (Vec<u8>, Vec<u32>);

/// The reader as one would write it with no thought for speed: everything is kept, and places never move.
#[derive(Default)]
struct Model {
    text: Vec<u8>,
    /// Where the next line begins.
    next: usize,
    attached: BTreeMap<usize, Vec<u32>>,
    /// How many lines there were.
    lines: usize,
    broken: Option<WireError>,
}

impl Model {
    fn push(&mut self, bytes: &[u8], descriptors: Vec<u32>, spoilt: Option<WireError>) {
        if self.broken.is_some() {
            return;
        }
        let begins = |text: &[u8], place: usize| place == 0 || text[place - 1] == b'\n';
        let chunk = self.text.len();
        self.text.extend_from_slice(bytes);
        let Some(error) = spoilt else { return };
        let last = (chunk..self.text.len()).rev().find(|place| begins(&self.text, *place));
        match last {
            Some(place) if !descriptors.is_empty() => drop(self.attached.insert(place, descriptors)),
            place => {
                let under_way = || (0..=chunk).rev().find(|place| begins(&self.text, *place));
                self.text.truncate(place.or_else(under_way).unwrap_or_default());
                self.broken = Some(error);
            }
        }
    }

    fn next_line(&mut self) -> Option<Result<Line, WireError>> {
        loop {
            let rest = &self.text[self.next..];
            let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
                if self.broken.is_none() && rest.len() >= MAX_LINE {
                    self.broken = Some(WireError::TooLong);
                }
                return self.broken.clone().map(|error| self.stop(error));
            };
            if length >= MAX_LINE {
                return Some(self.stop(WireError::TooLong));
            }
            let line = trimmed(&rest[..length]).to_vec();
            let descriptors = self.attached.remove(&self.next).unwrap_or_default();
            self.next += length + 1;
            if !line.is_empty() {
                return Some(Ok((line, descriptors)));
            }
            if !descriptors.is_empty() {
                return Some(self.stop(WireError::StrayDescriptors));
            }
        }
    }

    fn stop<T>(&mut self, error: WireError) -> Result<T, WireError> {
        self.text.truncate(self.next);
        self.attached.clear();
        self.broken = Some(error.clone());
        Err(error)
    }
}

/// Takes out of both what is whole, and finds it equal.
fn compare(reader: &mut FrameReader<Fd>, model: &mut Model) {
    loop {
        let read = reader.next_line();
        match (read, model.next_line()) {
            (None, None) => return,
            (Some(Ok((line, fds))), Some(Ok((expected, numbers)))) => {
                assert_eq!(line, expected);
                assert_eq!(fds.iter().map(|fd| fd.number).collect::<Vec<_>>(), numbers);
                model.lines += 1;
                if model.lines <= UNDERSTOOD {
                    understand(line);
                }
            }
            (Some(Err(error)), Some(Err(expected))) => {
                assert_eq!(error, expected);
                assert_eq!(reader.next_line().map(|line| line.map(drop)), Some(Err(error)), "an error is the end");
                return;
            }
            (read, expected) => {
                panic!("{:?} instead of {expected:?}", read.map(|line| line.map(|(line, _)| line.len())))
            }
        }
    }
}

/// What parses says the same again once it is written down.
fn understand(line: &[u8]) {
    repeat::<ClientFrame>(line);
    repeat::<ServerFrame>(line);
    if line.len() + 1 < MAX_LINE {
        // One of the frames is read by hand, unless it begins with a space.
        assert_eq!(ServerFrame::parse(line).ok(), ServerFrame::parse(&[b" ", line].concat()).ok());
    }
    if let Ok(frame) = parse_client_line(line) {
        repeat::<ClientFrame>(frame.to_line().trim_ascii_end());
    }
}

fn repeat<T: Frame + PartialEq + std::fmt::Debug>(line: &[u8]) {
    let frame = match T::parse(line) {
        Ok(frame) => frame,
        Err(error) => {
            assert!(error.to_string().len() < 2_048, "an error as long as what it is about");
            return;
        }
    };
    let written = frame.to_line();
    assert_eq!(newlines(&written), 1, "a frame is one line");
    // What was left out comes back as null, so that the longest lines grow beyond the limit.
    if let Some(line) = written.strip_suffix(b"\n").filter(|line| line.len() < MAX_LINE) {
        assert_eq!(T::parse(line).as_ref(), Ok(&frame));
    }
}

fn newlines(line: &[u8]) -> usize {
    line.iter().filter(|byte| **byte == b'\n').count()
}

/// Without the white space of JSON at both ends.
fn trimmed(mut line: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\r', rest @ ..] | [rest @ .., b' ' | b'\t' | b'\r'] = line {
        line = rest;
    }
    line
}
