//! State on its way: codecs, schemas, lengths, seals.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::scope;

use common::raw::{RawPredecessor, state_info};
use common::{Form, Inheritance, Place, Service, cause, config, forms, pairings, place, text};
use fd_handoff::{Cause, Error, ErrorCode, Offer, Owner, Peer, State, StateError};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::Value;

pairings! {
    raw_bytes_and_a_writer
    a_snapshot_of_another_schema
    a_final_state_of_another_schema
    a_farewell_of_another_schema
    many_schemas
    no_state_at_all
}

forms! {
    a_snapshot_of_another_schema_from_a_peer_that_does_not_ask
    a_state_shorter_or_longer_than_said
    an_unsealed_memfd_is_read_and_a_sealed_one_mapped
    an_unsealed_state_that_no_memory_holds
    an_empty_state_is_one_and_a_pipe_is_none
    a_codec_that_fails
}

fn raw_bytes_and_a_writer(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let control = old.listen(config(&path)).unwrap();
    scope(|scope| {
        let successor = scope.spawn(|| {
            let inheritance = new.receive(config(&path)).unwrap();
            let received = inheritance.received().unwrap();
            assert_eq!((received.codec(), received.schema()), ("raw", 0));
            let sum = inheritance.state_with(|state| Ok(state.iter().map(|byte| u64::from(*byte)).sum::<u64>()));
            assert_eq!(sum.unwrap(), Some(3 << 20), "three MiB of ones");
            inheritance.ready().unwrap()
        });
        let offer = Offer::new().state(State::bytes(vec![1; 3 << 20]));
        let ready = control.accept().unwrap().offer(offer).unwrap();
        let writer = State::writer(|out| (0..1000).try_for_each(|line| writeln!(out, "line {line}")));
        ready.release(Some(writer)).unwrap().farewell(Some(State::bytes(""))).unwrap();
        let control = successor.join().unwrap();
        let last = text(&control.final_state().unwrap().unwrap());
        assert!(last.starts_with("line 0\n") && last.ends_with("line 999\n"), "{last}");
        assert!(control.farewell().unwrap().unwrap().is_empty(), "an empty state is a state");
    });
}

fn no_state_at_all(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let control = old.listen(config(&path)).unwrap();
    scope(|scope| {
        let successor = scope.spawn(|| {
            let inheritance = new.receive(config(&path)).unwrap();
            assert!(inheritance.received().is_none());
            assert!(inheritance.state_with(|state| Ok(state.len())).unwrap().is_none());
            inheritance.ready().unwrap()
        });
        control.give(Offer::new(), None).unwrap().farewell(None).unwrap();
        let control = successor.join().unwrap();
        assert!(control.final_state().unwrap().is_none());
        assert!(control.farewell().unwrap().is_none());
    });
}

/// The predecessor finds out, before it gives anything.
fn a_snapshot_of_another_schema(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let service = Service::start_with(old, config(&path), &path, |listener| {
        Offer::new().descriptor("http", listener).state(State::bytes("snapshot").schema(7))
    });
    match new.receive(config(&path).schemas([1, 2])).err() {
        Some(Error::Handoff(Cause::Aborted { peer: Peer::Predecessor, code: ErrorCode::Schema, reason })) => {
            assert!(reason.contains('7') && reason.contains("[1, 2]"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let failure = service.failure();
    assert_eq!(failure.owner(), Owner::StillUs);
    assert_eq!(*cause(&failure), Cause::Schema { offered: 7, accepted: vec![1, 2] });
    let inheritance = new.receive(config(&path).schemas([1, 7])).unwrap();
    assert_eq!(inheritance.received().unwrap().schema(), 7);
    assert_eq!(inheritance.ready().unwrap().generation(), 2);
}

/// The predecessor finds out before it gives the service up.
fn a_final_state_of_another_schema(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let control = old.listen(config(&path)).unwrap();
    scope(|scope| {
        let successor = scope.spawn(|| new.receive(config(&path)).unwrap().ready());
        let failure = control.give(Offer::new(), Some(State::bytes("final").schema(5))).err().unwrap();
        assert_eq!(failure.owner(), Owner::StillUs);
        assert_eq!(*cause(&failure), Cause::Schema { offered: 5, accepted: vec![0] });
        match successor.join().unwrap().err() {
            Some(Error::Handoff(Cause::Aborted { code: ErrorCode::Schema, .. })) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(common::raw::Raw::greeted(&path).ask("status")["phase"], "serving");
    });
}

/// By then the service is the successor's: it goes on without that state, and is told.
fn a_farewell_of_another_schema(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let control = old.listen(config(&path)).unwrap();
    scope(|scope| {
        let successor = scope.spawn(|| new.receive(config(&path)).unwrap().ready().unwrap());
        let released = control.give(Offer::new(), None).unwrap();
        released.farewell(Some(State::bytes("farewell").schema(6))).unwrap();
        let control = successor.join().unwrap();
        match control.farewell() {
            Err(Error::State(StateError::Schema { found, accepted })) => assert_eq!((found, accepted), (6, vec![0])),
            other => panic!("{other:?}"),
        }
        assert!(control.farewell().unwrap().is_none());
        assert_eq!(common::raw::Raw::greeted(&path).ask("status")["phase"], "serving");
    });
}

fn many_schemas(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let service = Service::start(old, config(&path), &path);
    // More than the protocol allows is refused before a handoff begins.
    match new.receive(config(&path).schemas(0..65)).err() {
        Some(Error::Refused { code: ErrorCode::Malformed, message }) => assert!(message.contains("64"), "{message}"),
        other => panic!("{other:?}"),
    }
    service.assert_unharmed();
}

/// What a predecessor by hand gives as its snapshot, to a successor that reads the schemas 0 and 1.
fn receive_snapshot(form: Form, path: &Path, info: &Value, memfd: &File) -> Result<Inheritance, Error> {
    let old = RawPredecessor::new(path);
    let received = scope(|scope| {
        let successor = scope.spawn(|| form.receive(config(path).schemas([0, 1]).cold_start(false)));
        let mut raw = old.greet();
        old.give(&mut raw, info);
        raw.say_with(&serde_json::json!({"type": "state", "state": info}), &[memfd.as_fd()]).unwrap();
        let received = successor.join().unwrap();
        if let Err(error) = &received {
            // The predecessor hears why, and goes on serving.
            let reason = raw.expect_error("abort", "descriptors");
            assert!(reason.contains(&error.to_string()), "{reason}");
        }
        received
    });
    std::fs::remove_file(path).unwrap();
    received
}

fn memfd(name: &str, bytes: &[u8]) -> File {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    let mut file = File::from(fd);
    file.write_all(bytes).unwrap();
    file
}

fn seal(memfd: &File) {
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(memfd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
}

fn a_snapshot_of_another_schema_from_a_peer_that_does_not_ask(form: Form) {
    let Place { directory: _directory, path } = place();
    let error = receive_snapshot(form, &path, &state_info(4, 9, "raw"), &memfd("state", b"four")).err();
    match error {
        Some(Error::State(StateError::Schema { found, accepted })) => assert_eq!((found, accepted), (9, vec![0, 1])),
        other => panic!("{other:?}"),
    }
}

fn a_state_shorter_or_longer_than_said(form: Form) {
    let Place { directory: _directory, path } = place();
    for sealed in [false, true] {
        for said in [0, 3, 5, 1 << 30] {
            let memfd = memfd("state", b"four");
            if sealed {
                seal(&memfd);
            }
            match receive_snapshot(form, &path, &state_info(said, 0, "raw"), &memfd).err() {
                Some(Error::State(StateError::Length { announced, found })) => {
                    assert_eq!((announced, found), (said as u64, 4));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn an_unsealed_memfd_is_read_and_a_sealed_one_mapped(form: Form) {
    let Place { directory: _directory, path } = place();
    let names = if form == Form::Blocking {
        ["unsealed blocking", "sealed blocking"]
    } else {
        ["unsealed tokio", "sealed tokio"]
    };
    let is_mapped = |name: &str| {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.contains(&format!("memfd:{name}"))
    };

    let unsealed = memfd(names[0], b"as it was");
    let inheritance = receive_snapshot(form, &path, &state_info(9, 0, "raw"), &unsealed).unwrap();
    assert!(!is_mapped(names[0]));
    // Its sender can still change it, and cut it short: under a mapping that would be a SIGBUS.
    unsealed.write_all_at(b"AS IT ISN", 0).unwrap();
    unsealed.set_len(0).unwrap();
    assert_eq!(inheritance.text().as_deref(), Some("as it was"));

    let sealed = memfd(names[1], b"for good");
    seal(&sealed);
    let inheritance = receive_snapshot(form, &path, &state_info(8, 0, "raw"), &sealed).unwrap();
    assert!(is_mapped(names[1]));
    assert_eq!(inheritance.text().as_deref(), Some("for good"));
    drop(inheritance);
    assert!(!is_mapped(names[1]));

    // A write seal alone does not keep it from being cut short.
    let half = memfd(names[0], b"half");
    fcntl(&half, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap();
    let inheritance = receive_snapshot(form, &path, &state_info(4, 0, "raw"), &half).unwrap();
    assert!(!is_mapped(names[0]));
    assert_eq!(inheritance.text().as_deref(), Some("half"));

    // The offset belongs to both sides: where it stands says nothing.
    let moved = memfd(names[0], b"from the beginning");
    let inheritance = receive_snapshot(form, &path, &state_info(18, 0, "raw"), &moved).unwrap();
    assert_eq!(inheritance.text().as_deref(), Some("from the beginning"));
}

// M104
/// Its length is true, and costs its sender nothing: nobody has written to it.
fn an_unsealed_state_that_no_memory_holds(form: Form) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    const LENGTH: usize = 1 << 40;
    // Whatever the kernel would promise.
    let (_, hard) = getrlimit(Resource::RLIMIT_AS).unwrap();
    setrlimit(Resource::RLIMIT_AS, (LENGTH as u64 / 2).min(hard), hard).unwrap();
    let Place { directory: _directory, path } = place();
    let memfd = memfd("state", b"");
    memfd.set_len(LENGTH as u64).unwrap();
    match receive_snapshot(form, &path, &state_info(LENGTH, 0, "raw"), &memfd).err() {
        Some(Error::State(error @ StateError::TooMuchToCopy { length })) => {
            assert_eq!(length, LENGTH as u64);
            assert!(error.to_string().contains("seal"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

// M102, M103
fn an_empty_state_is_one_and_a_pipe_is_none(form: Form) {
    let Place { directory: _directory, path } = place();
    let (reader, _writer) = nix::unistd::pipe().unwrap();
    let pipe = File::from(reader);
    let directory = File::open("/").unwrap();
    for other in [&pipe, &directory] {
        let length = other.metadata().unwrap().len() as usize;
        match receive_snapshot(form, &path, &state_info(length, 0, "raw"), other).err() {
            Some(Error::State(StateError::NotAFile)) => {}
            error => panic!("{error:?}"),
        }
    }
    for sealed in [false, true] {
        let memfd = memfd("state", b"");
        if sealed {
            seal(&memfd);
        }
        let inheritance = receive_snapshot(form, &path, &state_info(0, 0, "raw"), &memfd).unwrap();
        assert!(inheritance.received().unwrap().is_empty());
        assert_eq!(inheritance.text().as_deref(), Some(""));
    }
}

fn a_codec_that_fails(form: Form) {
    let Place { directory: _directory, path } = place();
    let broken = || State::writer(|_| Err(std::io::Error::other("out of order")));
    let control = form.listen(config(&path)).unwrap();
    scope(|scope| {
        let refused = scope.spawn(|| form.receive(config(&path)).map(drop).unwrap_err());
        let failure = control.give(Offer::new().state(broken()), None).map(drop).unwrap_err();
        assert_eq!(failure.owner(), Owner::StillUs);
        assert!(matches!(failure.cause(), Error::State(StateError::Encode(_))), "{failure}");
        assert!(refused.join().unwrap().to_string().contains("out of order"));

        let refused = scope.spawn(|| form.receive(config(&path)).unwrap().ready().map(drop).unwrap_err());
        let failure = control.give(Offer::new(), Some(broken())).map(drop).unwrap_err();
        assert_eq!(failure.owner(), Owner::StillUs, "a final state comes before the release");
        assert!(matches!(failure.cause(), Error::State(StateError::Encode(_))), "{failure}");
        assert!(refused.join().unwrap().to_string().contains("out of order"));

        let successor = scope.spawn(|| form.receive(config(&path)).unwrap().ready().unwrap());
        control.give(Offer::new(), None).unwrap().farewell(None).unwrap();
        assert_eq!(successor.join().unwrap().generation(), 2);
    });
}

#[cfg(feature = "bincode")]
use codecs::{
    a_farewell_of_another_shape, a_final_state_of_another_shape, a_snapshot_of_another_shape, garbage_for_the_codec,
    older_shapes_are_read_as_such, types_that_hide_their_shape, values_through_both_traits,
};

#[cfg(feature = "bincode")]
pairings! {
    a_farewell_of_another_shape
    a_final_state_of_another_shape
    a_snapshot_of_another_shape
    older_shapes_are_read_as_such
    values_through_both_traits
}

#[cfg(feature = "bincode")]
forms! {
    garbage_for_the_codec
    types_that_hide_their_shape
}

#[cfg(feature = "bincode")]
mod codecs {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, Clone, PartialEq, bincode::Encode, bincode::Decode, serde::Serialize, serde::Deserialize)]
    struct Session {
        id: u64,
        user: String,
        seen: BTreeMap<String, Vec<u8>>,
    }

    fn sessions() -> Vec<Session> {
        let seen = BTreeMap::from([("today".to_owned(), vec![1, 2, 3]), ("never".to_owned(), vec![])]);
        vec![Session { id: u64::MAX, user: "Ada".to_owned(), seen }; 1000]
    }

    pub(crate) fn values_through_both_traits(old: Form, new: Form) {
        let Place { directory: _directory, path } = place();
        let control = old.listen(config(&path)).unwrap();
        scope(|scope| {
            let successor = scope.spawn(|| {
                let inheritance = new.receive(config(&path).schemas([0, 1])).unwrap();
                assert_eq!(inheritance.received().unwrap().codec(), "bincode2");
                assert!(matches!(inheritance.state::<Vec<Session>>(), Err(StateError::Codec { .. })));
                let state = inheritance.state_with(|state| state.bincode::<Vec<Session>>()).unwrap();
                assert_eq!(state, Some(sessions()));
                inheritance.ready().unwrap()
            });
            let offer = Offer::new().state(State::bincode(1, sessions()));
            let released = control.give(offer, Some(State::serde(sessions()))).unwrap();
            released.farewell(Some(State::bytes("neither"))).unwrap();
            let control = successor.join().unwrap();
            let last = control.final_state().unwrap().unwrap();
            match last.bincode::<Vec<Session>>() {
                Err(StateError::Codec { found, wanted }) => {
                    assert_eq!((&*found, wanted), ("bincode2+serde", "bincode2"))
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(last.serde::<Vec<Session>>().unwrap(), sessions());
            let farewell = control.farewell().unwrap().unwrap();
            assert!(matches!(farewell.serde::<u8>(), Err(StateError::Codec { found, .. }) if found == "raw"));
        });
    }

    #[derive(bincode::Encode, serde::Serialize)]
    enum Shape {
        #[expect(dead_code, reason = "the first one, so that the next is not")]
        Point,
        Circle(u64),
        Named {
            name: String,
            sides: Option<u8>,
        },
    }

    /// For whoever has no bincode: the examples of protocol.md are what both traits write.
    #[test]
    fn the_layout_in_the_specification_is_that_of_the_codec() {
        use std::fmt::Write as _;

        fn bytes(value: impl bincode::Encode + serde::Serialize) -> String {
            let config = bincode::config::standard();
            let own = bincode::encode_to_vec(&value, config).unwrap();
            assert_eq!(bincode::serde::encode_to_vec(&value, config).unwrap(), own);
            own.iter().fold(String::new(), |mut text, byte| {
                write!(text, "{}{byte:02x}", if text.is_empty() { "" } else { " " }).unwrap();
                text
            })
        }
        let named = Shape::Named { name: "hexagon".to_owned(), sides: Some(6) };
        let rows = [
            ("u64 0", bytes(0_u64)),
            ("u64 250", bytes(250_u64)),
            ("u64 251", bytes(251_u64)),
            ("u64 4711, the counter of the example `http`", bytes(4711_u64)),
            ("u64 65535", bytes(65_535_u64)),
            ("u64 65536", bytes(65_536_u64)),
            ("u64 4294967296", bytes(1_u64 << 32)),
            ("u64 18446744073709551615", bytes(u64::MAX)),
            ("u16 300", bytes(300_u16)),
            ("u8 255", bytes(255_u8)),
            ("i8 -1", bytes(-1_i8)),
            ("i64 -1", bytes(-1_i64)),
            ("i64 1", bytes(1_i64)),
            ("i64 -126", bytes(-126_i64)),
            ("bool true", bytes(true)),
            ("f64 1.5", bytes(1.5_f64)),
            ("character é", bytes('é')),
            ("text Ada", bytes("Ada")),
            ("no value of an optional u64", bytes(None::<u64>)),
            ("the value 300 of an optional u64", bytes(Some(300_u64))),
            ("list of u16: 1, 300", bytes(vec![1_u16, 300])),
            ("array of two u16: 1, 300", bytes([1_u16, 300])),
            ("map: a to 1, b to 2 (u8)", bytes(BTreeMap::from([("a", 1_u8), ("b", 2)]))),
            ("the second variant of an enumeration, with u64 5", bytes(Shape::Circle(5))),
            ("its third, with the text hexagon and an optional u8, 6", bytes(named)),
        ];
        let longer = [0xfd, 1, 0, 0, 0, 0, 0, 0, 0];
        let config = bincode::config::standard();
        assert_eq!(bincode::decode_from_slice::<u64, _>(&longer, config).unwrap(), (1, 9));
        assert_eq!(bincode::serde::decode_from_slice::<u64, _>(&longer, config).unwrap(), (1, 9));
        let specification = include_str!("../protocol.md");
        for (value, bytes) in rows {
            let row = format!("| {value} | `{bytes}` |");
            assert!(specification.contains(&row), "{row}");
        }
    }

    #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Counts {
        served: u64,
        failed: u64,
    }

    const COUNTS: Counts = Counts { served: 7, failed: 1 };

    /// The same type in the next version.
    mod next {
        #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        pub(super) struct Counts {
            pub(super) failed: u64,
            pub(super) served: u64,
        }
    }

    fn assert_other_shape(error: &StateError) {
        assert!(matches!(error, StateError::Shape { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("Counts { failed: u64, served: u64 }") && text.contains("State::schema"), "{text}");
    }

    /// While the new version initialises, so that the old one never stops serving.
    // M142
    pub(crate) fn a_snapshot_of_another_shape(old: Form, new: Form) {
        let Place { directory: _directory, path } = place();
        let control = old.listen(config(&path)).unwrap();
        scope(|scope| {
            let successor = scope.spawn(|| {
                let inheritance = new.receive(config(&path)).unwrap();
                assert_eq!(inheritance.state::<Counts>().unwrap(), Some(COUNTS), "what has not changed is read");
                assert_other_shape(&inheritance.state::<next::Counts>().unwrap_err());
            });
            let failure = control.give(Offer::new().state(State::serde(COUNTS)), None).err().unwrap();
            assert_eq!(failure.owner(), Owner::StillUs);
            assert!(failure.to_string().contains("another shape"), "{failure}");
            successor.join().unwrap();
        });
        assert_eq!(common::raw::Raw::greeted(&path).ask("status")["phase"], "serving");
    }

    // M141, M142
    pub(crate) fn a_final_state_of_another_shape(old: Form, new: Form) {
        let Place { directory: _directory, path } = place();
        let control = old.listen(config(&path)).unwrap();
        scope(|scope| {
            // One that says what it reads hears of it before anything is given up.
            let named = config(&path).reads::<next::Counts>().reads::<Session>();
            let successor = scope.spawn(|| new.receive(named).unwrap().ready());
            let failure = control.give(Offer::new(), Some(State::serde(COUNTS))).err().unwrap();
            assert_eq!(failure.owner(), Owner::StillUs);
            match cause(&failure) {
                Cause::Fingerprint { accepted, .. } => assert_eq!(accepted.len(), 2),
                other => panic!("{other}"),
            }
            assert!(failure.to_string().contains("Config::reads"), "what to do: {failure}");
            match successor.join().unwrap().err() {
                Some(Error::Handoff(Cause::Aborted { code: ErrorCode::Schema, .. })) => {}
                other => panic!("{other:?}"),
            }
            // So does one whose snapshot it would be.
            let successor = scope.spawn(|| new.receive(config(&path).reads::<next::Counts>()).err());
            let failure = control.give(Offer::new().state(State::serde(COUNTS)), None).err().unwrap();
            assert!(matches!(cause(&failure), Cause::Fingerprint { .. }), "{failure}");
            assert!(matches!(successor.join().unwrap(), Some(Error::Handoff(Cause::Aborted { .. }))));

            // One that does not, before it has wrong numbers.
            let successor = scope.spawn(|| new.receive(config(&path)).unwrap().ready().unwrap());
            control.give(Offer::new(), Some(State::serde(COUNTS))).unwrap().farewell(None).unwrap();
            let last = successor.join().unwrap().final_state().unwrap().unwrap();
            assert_other_shape(&last.serde::<next::Counts>().unwrap_err());
        });
    }

    // M142
    pub(crate) fn a_farewell_of_another_shape(old: Form, new: Form) {
        let Place { directory: _directory, path } = place();
        let control = old.listen(config(&path)).unwrap();
        scope(|scope| {
            let successor =
                scope.spawn(|| new.receive(config(&path).reads::<next::Counts>()).unwrap().ready().unwrap());
            control.give(Offer::new(), None).unwrap().farewell(Some(State::serde(COUNTS))).unwrap();
            let farewell = successor.join().unwrap().farewell().unwrap().unwrap();
            assert_other_shape(&farewell.serde::<next::Counts>().unwrap_err());
        });
    }

    /// A version that reads its predecessor's type too, and one whose application numbers the shapes.
    pub(crate) fn older_shapes_are_read_as_such(old: Form, new: Form) {
        let Place { directory: _directory, path } = place();
        let control = old.listen(config(&path)).unwrap();
        scope(|scope| {
            let both = config(&path).reads::<Counts>().reads::<next::Counts>().schemas([0, 1]);
            let successor = scope.spawn(|| {
                let inheritance = new.receive(both).unwrap();
                let counts = inheritance.state_with(|state| {
                    state.serde::<next::Counts>().or_else(|_| {
                        let Counts { served, failed } = state.serde()?;
                        Ok(next::Counts { failed, served })
                    })
                });
                assert_eq!(counts.unwrap(), Some(next::Counts { failed: 1, served: 7 }));
                inheritance.ready().unwrap()
            });
            let offer = Offer::new().state(State::serde(COUNTS));
            control.give(offer, Some(State::serde((7_u8, 1_u8)).schema(1))).unwrap().farewell(None).unwrap();
            let last = successor.join().unwrap().final_state().unwrap().unwrap();
            // What a number stands for is the application's to know.
            assert_eq!((last.schema(), last.serde::<[u8; 2]>().unwrap()), (1, [7, 1]));
        });
    }

    /// Reads no text that anybody would guess.
    #[derive(Debug, PartialEq, Eq, Hash)]
    struct Odd;

    impl serde::Serialize for Odd {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_str("odd")
        }
    }

    impl<'de> serde::Deserialize<'de> for Odd {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Odd, D::Error> {
            let text = String::deserialize(deserializer)?;
            if text == "odd" { Ok(Odd) } else { Err(serde::de::Error::custom(format!("{text:?} is not odd"))) }
        }
    }

    // M142
    pub(crate) fn types_that_hide_their_shape(form: Form) {
        let Place { directory: _directory, path } = place();
        let is_unseen = |error: &StateError| {
            assert!(matches!(error, StateError::Unseen { .. }), "{error}");
            assert!(error.to_string().contains("is not odd. Number it"), "{error}");
        };
        // At the first start, and not at the first upgrade.
        match form.receive(config(&path).reads::<(Odd, u8)>()).err() {
            Some(Error::State(error)) => is_unseen(&error),
            other => panic!("{other:?}"),
        }
        let first = form.receive(config(&path)).unwrap();
        is_unseen(&first.state::<(Odd, u8)>().unwrap_err());
        drop(first);
        // An application that numbers its shapes knows better.
        let first = form.receive(config(&path).schemas([1])).unwrap();
        assert_eq!(first.state::<(Odd, u8)>().unwrap(), None);
        let control = first.ready().unwrap();
        scope(|scope| {
            let refused = scope.spawn(|| form.receive(config(&path)).map(drop).unwrap_err());
            let failure = control.give(Offer::new().state(State::serde((Odd, 1_u8))), None).err().unwrap();
            assert_eq!(failure.owner(), Owner::StillUs);
            assert!(matches!(failure.cause(), Error::State(StateError::Unseen { .. })), "{failure}");
            refused.join().unwrap();
            let refused = scope.spawn(|| form.receive(config(&path)).map(drop).unwrap_err());
            let failure = control.give(Offer::new().state(State::bincode(0, 1_u8)), None).err().unwrap();
            assert!(matches!(failure.cause(), Error::State(StateError::NoSchema { .. })), "{failure}");
            refused.join().unwrap();

            let successor = scope.spawn(|| {
                let inheritance = form.receive(config(&path).schemas([1])).unwrap();
                assert_eq!(inheritance.state::<(Odd, u8)>().unwrap(), Some((Odd, 1)));
                inheritance.ready().unwrap()
            });
            let numbered = State::serde((Odd, 1_u8)).schema(1);
            control.give(Offer::new().state(numbered), None).unwrap().farewell(None).unwrap();
            successor.join().unwrap();
        });
        std::fs::remove_file(&path).unwrap();
        // By hand, and without a word of what it is.
        let said = state_info(1, 0, "bincode2+serde");
        let unsaid = receive_snapshot(form, &path, &said, &memfd("state", &[7])).unwrap();
        assert!(matches!(unsaid.state::<u8>(), Err(StateError::NoSchema { .. })));
    }

    pub(crate) fn garbage_for_the_codec(form: Form) {
        let Place { directory: _directory, path } = place();
        let receive = |codec: &str, bytes: &[u8]| {
            receive_snapshot(form, &path, &state_info(bytes.len(), 1, codec), &memfd("state", bytes)).unwrap()
        };
        let garbage = receive("bincode2+serde", &[0xff; 64]);
        assert!(matches!(garbage.state::<Session>(), Err(StateError::Decode(_))));
        let empty = receive("bincode2+serde", b"");
        assert!(matches!(empty.state::<Session>(), Err(StateError::Decode(_))));
        let longer = receive("bincode2+serde", &[1, 2, 3]);
        assert!(matches!(longer.state::<u8>(), Err(StateError::Trailing { left: 2 })));
        let longer = receive("bincode2", &[1, 2, 3]);
        let value = longer.state_with(|state| state.bincode::<u8>());
        assert!(matches!(value, Err(StateError::Trailing { left: 2 })));
        // A length that no machine has: it must not be believed.
        let huge = receive("bincode2", &[253, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
        let value = huge.state_with(|state| state.bincode::<Vec<u64>>());
        assert!(matches!(value, Err(StateError::Decode(_))));
        let foreign = receive("postcard", &[1]);
        assert!(matches!(foreign.state::<u8>(), Err(StateError::Codec { found, .. }) if found == "postcard"));
    }
}

/// On a runtime with one thread, that thread never encodes or decodes.
#[cfg(feature = "tokio")]
#[test]
fn codecs_run_beside_the_runtime() {
    use fd_handoff::tokio::{decode, handoff_listen, handoff_receive};
    use std::sync::mpsc::channel;
    use std::thread::current;

    let Place { directory: _directory, path } = place();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let here = current().id();
    let (encoded, encoders) = channel();
    let state = || {
        let encoded = encoded.clone();
        State::writer(move |out| {
            encoded.send(current().id()).unwrap();
            out.write_all(b"state")
        })
    };
    runtime.block_on(async {
        let control = handoff_listen(config(&path)).await.unwrap();
        let successor = tokio::spawn({
            let config = config(&path);
            async move {
                let inheritance = handoff_receive(config).await.unwrap();
                let decoder = inheritance.state_with(|_| Ok(current().id())).await.unwrap();
                (decoder.unwrap(), inheritance.ready().await.unwrap())
            }
        });
        let ready = control.accept().await.unwrap().offer(Offer::new().state(state())).await.unwrap();
        let released = ready.release(Some(state())).await.unwrap();
        released.farewell(Some(state())).await.unwrap();
        let (decoder, control) = successor.await.unwrap();
        assert_ne!(decoder, here);
        let last = control.final_state().unwrap().unwrap();
        assert_ne!(decode(last, |_| Ok(current().id())).await.unwrap(), here);
    });
    let encoders: Vec<_> = encoders.try_iter().collect();
    assert_eq!(encoders.len(), 3);
    assert!(!encoders.contains(&here));
}

/// A panic in the application's codec is an error of that handoff.
#[cfg(feature = "tokio")]
#[test]
fn a_codec_that_panics_on_tokio() {
    let Place { directory: _directory, path } = place();
    let control = Form::Tokio.listen(config(&path)).unwrap();
    scope(|scope| {
        let refused = scope.spawn(|| Form::Tokio.receive(config(&path)).map(drop).unwrap_err());
        let state = State::writer(|_| -> std::io::Result<()> { panic!("in the test's codec, on purpose") });
        let failure = control.give(Offer::new().state(state), None).map(drop).unwrap_err();
        assert_eq!(failure.owner(), Owner::StillUs);
        assert!(matches!(failure.cause(), Error::State(StateError::Encode(_))), "{failure}");
        assert!(matches!(refused.join().unwrap(), Error::Handoff(Cause::Aborted { .. })));
        let successor = scope.spawn(|| Form::Tokio.receive(config(&path)).unwrap().ready().unwrap());
        control.give(Offer::new(), None).unwrap().farewell(None).unwrap();
        assert_eq!(successor.join().unwrap().generation(), 2);
    });
}
