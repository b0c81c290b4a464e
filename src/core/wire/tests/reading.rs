//! Lines and descriptors out of chunks.

use proptest::prelude::*;

use crate::core::wire::{FrameReader, MAX_LINE, WireError, parse_client_line};

type Lines = Vec<(Vec<u8>, Vec<u32>)>;

/// Everything that can be read now, and the error that ends it.
fn read(reader: &mut FrameReader<u32>) -> (Lines, Option<WireError>) {
    let mut lines = Vec::new();
    while let Some(line) = reader.next_line() {
        match line {
            Ok((line, fds)) => lines.push((line.to_vec(), fds)),
            Err(error) => return (lines, Some(error)),
        }
    }
    (lines, None)
}

fn reader_of(chunks: &[(&[u8], &[u32])]) -> FrameReader<u32> {
    let mut reader = FrameReader::default();
    for (bytes, fds) in chunks {
        reader.push(bytes, fds.to_vec());
    }
    reader
}

fn lines(expected: &[(&str, &[u32])]) -> Lines {
    expected.iter().map(|(line, fds)| (line.as_bytes().to_vec(), fds.to_vec())).collect()
}

// M13
#[test]
fn empty_lines_and_carriage_returns_are_nothing() {
    let mut reader = reader_of(&[(b"\n\r\n  \n one \r\n\n two\n", &[])]);
    assert_eq!(read(&mut reader), (lines(&[("one", &[]), ("two", &[])]), None));
    assert_eq!(reader.pending(), 0);
}

// M94
#[test]
fn white_space_is_that_of_json_and_no_other() {
    let mut reader = reader_of(&[(b"\t \r\n \tone\r\t \n\x0c\n\x0btwo\xa0\n\xc2\xa0\n\0\n", &[])]);
    let (found, error) = read(&mut reader);
    let found: Vec<Vec<u8>> = found.into_iter().map(|(line, _)| line).collect();
    assert_eq!(found, [&b"one"[..], b"\x0c", b"\x0btwo\xa0", b"\xc2\xa0", b"\0"]);
    assert_eq!(error, None);
    for word in [&b"\x0cstatus"[..], b"status\xc2\xa0", b"\x0bstatus"] {
        assert!(matches!(parse_client_line(word), Err(WireError::Malformed(_))));
    }
    assert!(parse_client_line(b"\t status \r").is_ok());
}

// M23
#[test]
fn descriptors_belong_to_the_last_frame_that_begins_with_them() {
    // The end of a frame, a whole one, and the beginning of the one that carries.
    let mut reader = reader_of(&[(b"o", &[]), (b"ne\ntwo\nthr", &[1, 2]), (b"ee\nfour\n", &[3])]);
    let expected = lines(&[("one", &[]), ("two", &[]), ("three", &[1, 2]), ("four", &[3])]);
    assert_eq!(read(&mut reader), (expected, None));
}

// M23
#[test]
fn a_frame_that_begins_at_the_very_start_of_a_chunk_has_its_descriptors() {
    let mut reader = reader_of(&[(b"one\n", &[1]), (b"two\n", &[2])]);
    assert_eq!(read(&mut reader), (lines(&[("one", &[1]), ("two", &[2])]), None));
    reader.push(b"three\n", vec![3]);
    assert_eq!(read(&mut reader), (lines(&[("three", &[3])]), None));
}

// M12
#[test]
fn descriptors_in_the_middle_of_a_frame_are_stray() {
    let mut reader = reader_of(&[(b"one\ntw", &[]), (b"o\n", &[1]), (b"three\n", &[])]);
    assert_eq!(read(&mut reader), (lines(&[("one", &[])]), Some(WireError::StrayDescriptors)));
    assert_eq!(read(&mut reader), (vec![], Some(WireError::StrayDescriptors)), "for good");
}

#[test]
fn descriptors_without_a_byte_or_on_an_empty_line_are_stray() {
    let mut reader = reader_of(&[(b"", &[1])]);
    assert_eq!(read(&mut reader).1, Some(WireError::StrayDescriptors));
    let mut reader = reader_of(&[(b" \n", &[1]), (b"two\n", &[])]);
    assert_eq!(read(&mut reader), (vec![], Some(WireError::StrayDescriptors)));
}

// M24
#[test]
fn a_frame_that_lost_descriptors_does_not_come() {
    let mut reader = reader_of(&[(b"one\ntw", &[])]);
    reader.push_spoilt(b"o\nthree\n", WireError::Truncated);
    assert_eq!(read(&mut reader), (lines(&[("one", &[]), ("two", &[])]), Some(WireError::Truncated)));

    let mut reader = reader_of(&[(b"one\ntw", &[])]);
    reader.push_spoilt(b"o\n", WireError::Truncated);
    reader.push(b"three\n", vec![]);
    assert_eq!(read(&mut reader), (lines(&[("one", &[])]), Some(WireError::Truncated)), "none begins in that chunk");
}

#[test]
fn lines_that_are_whole_come_before_the_end() {
    let mut reader = reader_of(&[(b"one\ntw", &[])]);
    reader.end(WireError::Broken("gone".to_owned()));
    assert_eq!(read(&mut reader), (lines(&[("one", &[])]), Some(WireError::Broken("gone".to_owned()))));
}

// M11
#[test]
fn a_line_is_too_long_from_its_limit_on() {
    let longest = "x".repeat(MAX_LINE - 1);
    let mut reader = reader_of(&[(longest.as_bytes(), &[])]);
    assert_eq!(read(&mut reader), (vec![], None), "its newline may come");
    reader.push(b"\n", vec![]);
    assert_eq!(read(&mut reader).0.first().map(|(line, _)| line.len()), Some(MAX_LINE - 1));

    let mut reader = reader_of(&[(longest.as_bytes(), &[]), (b"x", &[])]);
    assert_eq!(read(&mut reader), (vec![], Some(WireError::TooLong)), "before its end");
    let mut reader = reader_of(&[(longest.as_bytes(), &[]), (b"x\n", &[])]);
    assert_eq!(read(&mut reader), (vec![], Some(WireError::TooLong)));
    let spaces = " ".repeat(MAX_LINE);
    let mut reader = reader_of(&[(spaces.as_bytes(), &[])]);
    assert_eq!(read(&mut reader), (vec![], Some(WireError::TooLong)), "white space counts");
}

// M12
#[test]
fn nothing_is_read_after_a_line_that_was_too_long() {
    let mut reader = reader_of(&[("x".repeat(MAX_LINE).as_bytes(), &[])]);
    assert_eq!(read(&mut reader), (vec![], Some(WireError::TooLong)));
    reader.push(b"\nstatus\n", vec![]);
    assert_eq!(read(&mut reader), (vec![], Some(WireError::TooLong)));
    assert_eq!(reader.pending(), 0, "and nothing is kept");
}

/// What a kernel may deliver of frames that were each sent with a call of their own: any chunks that end behind
/// the first send of a frame with descriptors, at the latest.
fn delivered(frames: &[(Vec<u8>, Vec<u32>)], cuts: &[usize]) -> Vec<(Vec<u8>, Vec<u32>)> {
    let mut chunks = vec![(Vec::new(), Vec::new())];
    let mut cuts = cuts.iter().copied().cycle();
    for (line, fds) in frames {
        let mut rest = &line[..];
        let mut waiting = fds.clone();
        while !rest.is_empty() {
            let take = cuts.next().unwrap_or(1).clamp(1, rest.len());
            let (now, later) = rest.split_at(take);
            let (bytes, carried) = &mut chunks.last_mut().unwrap();
            bytes.extend_from_slice(now);
            carried.append(&mut waiting);
            // A chunk with descriptors ends here; another one when the dice say so.
            if !carried.is_empty() || take % 2 == 1 {
                chunks.push((Vec::new(), Vec::new()));
            }
            rest = later;
        }
    }
    chunks.retain(|(bytes, _)| !bytes.is_empty());
    chunks
}

fn frame() -> impl Strategy<Value = (Vec<u8>, Vec<u32>)> {
    let byte = any::<u8>().prop_map(|byte| if byte == b'\n' || byte.is_ascii_whitespace() { b'x' } else { byte });
    (prop::collection::vec(byte, 1..40), prop::collection::vec(any::<u32>(), 0..4))
}

proptest! {
    // M23
    #[test]
    fn any_chunks_give_the_same_lines(
        frames in prop::collection::vec(frame(), 0..20),
        cuts in prop::collection::vec(1_usize..50, 1..10),
        eagerly in any::<bool>(),
    ) {
        let sent: Vec<_> = frames.iter().map(|(line, fds)| ([&line[..], b"\n"].concat(), fds.clone())).collect();
        let mut reader = FrameReader::default();
        let mut found = Vec::new();
        for (bytes, fds) in delivered(&sent, &cuts) {
            reader.push(&bytes, fds);
            if eagerly {
                let (lines, error) = read(&mut reader);
                prop_assert_eq!(error, None);
                found.extend(lines);
            }
        }
        let (lines, error) = read(&mut reader);
        prop_assert_eq!(error, None);
        found.extend(lines);
        prop_assert_eq!(found, frames);
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_lose_a_descriptor_in_silence(
        chunks in prop::collection::vec((prop::collection::vec(prop_oneof![Just(b'\n'), Just(b' '), any::<u8>()], 0..60),
                                         prop::collection::vec(any::<u32>(), 0..3), 0_u8..20), 0..20),
    ) {
        let mut reader = FrameReader::default();
        let (mut given, mut taken, mut broken) = (0, 0, false);
        for (bytes, fds, choice) in chunks {
            match choice {
                0 => reader.push_spoilt(&bytes, WireError::Truncated),
                1 => reader.end(WireError::Broken("gone".to_owned())),
                _ => {
                    given += fds.len();
                    reader.push(&bytes, fds);
                }
            }
            if choice % 2 == 0 {
                let (lines, error) = read(&mut reader);
                prop_assert!(!broken || (lines.is_empty() && error.is_some()), "an error is for good");
                broken |= error.is_some();
                taken += lines.iter().map(|(_, fds)| fds.len()).sum::<usize>();
            }
        }
        // A line end, so that nothing is waiting.
        reader.push(b"\n", vec![]);
        let (lines, error) = read(&mut reader);
        broken |= error.is_some();
        taken += lines.iter().map(|(_, fds)| fds.len()).sum::<usize>();
        prop_assert!(broken || taken == given);
    }

    #[test]
    fn a_line_at_the_limit_is_an_error_however_it_comes(extra in 0_usize..3, chunk in 1_usize..100_000, ends in any::<bool>()) {
        let mut line = vec![b'x'; MAX_LINE + extra];
        if ends {
            line.push(b'\n');
        }
        let mut reader: FrameReader<u32> = FrameReader::default();
        for bytes in line.chunks(chunk) {
            reader.push(bytes, vec![]);
        }
        prop_assert_eq!(read(&mut reader), (vec![], Some(WireError::TooLong)));
    }
}
