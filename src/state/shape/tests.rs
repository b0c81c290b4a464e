//! What can be seen of a type, and what cannot.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::Shape;

fn shape<T: DeserializeOwned>() -> String {
    Shape::of::<T>().unwrap_or_else(|problem| panic!("{}: {problem}", std::any::type_name::<T>())).to_string()
}

fn unseen<T: DeserializeOwned>() -> String {
    Shape::of::<T>().expect_err(std::any::type_name::<T>())
}

#[derive(Serialize, Deserialize)]
struct Counts {
    served: u64,
    failed: u64,
}

mod swapped {
    #[derive(serde::Deserialize)]
    pub(super) struct Counts {
        pub(super) failed: u64,
        pub(super) served: u64,
    }
}

#[test]
fn fields_that_change_places_are_another_shape() {
    assert_eq!(shape::<Counts>(), "Counts { served: u64, failed: u64 }");
    assert_eq!(shape::<swapped::Counts>(), "Counts { failed: u64, served: u64 }");
    // What bincode alone makes of it.
    let config = bincode::config::standard();
    let bytes = bincode::serde::encode_to_vec(Counts { served: 7, failed: 1 }, config).unwrap();
    let (wrong, _): (swapped::Counts, _) = bincode::serde::decode_from_slice(&bytes, config).unwrap();
    assert_eq!((wrong.served, wrong.failed), (1, 7));
}

/// A compiler, a serde or a version of this library that saw them otherwise would refuse every upgrade to it.
#[test]
fn fingerprints_are_the_same_everywhere_and_for_ever() {
    assert_eq!(Shape::of::<u64>().unwrap().fingerprint(), 5_563_585_020_063_213_298);
    assert_eq!(Shape::of::<Counts>().unwrap().fingerprint(), 7_422_133_480_160_105_527);
}

#[test]
fn what_a_value_can_hide_is_seen() {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "its shape is all that counts")]
    enum Kind {
        Idle,
        Busy(u8),
        Moving { x: i32, to: Option<String> },
        Pair(char, f64),
        Nested(Inner),
    }
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "its shape is all that counts")]
    enum Inner {
        One([u8; 2]),
        Two(BTreeSet<u16>),
        Three,
    }
    #[derive(Deserialize)]
    struct Unit;
    #[derive(Deserialize)]
    struct Seconds(#[expect(dead_code)] u64);
    #[derive(Deserialize)]
    struct Pair(#[expect(dead_code)] u64, #[expect(dead_code)] Seconds);

    let inner = "enum Inner { One: (u8, u8), Two: [u16], Three: () }";
    let kind = format!(
        "enum Kind {{ Idle: (), Busy: u8, Moving: {{ x: i32, to: Option<str> }}, Pair: (char, f64), Nested: {inner} }}"
    );
    assert_eq!(shape::<Kind>(), kind);
    assert_eq!(shape::<Option<Kind>>(), format!("Option<{kind}>"));
    assert_eq!(shape::<Vec<Option<Vec<u8>>>>(), "[Option<[u8]>]");
    assert_eq!(shape::<HashMap<String, Vec<Kind>>>(), format!("Map<str, [{kind}]>"));
    assert_eq!(shape::<(Unit, Seconds, Pair, ())>(), "(struct Unit, Seconds(u64), Pair(u64, Seconds(u64)), ())");
    assert_eq!(shape::<(Kind, Inner, bool)>(), format!("({kind}, {inner}, bool)"));
    assert_eq!(shape::<Option<Option<u8>>>(), "Option<Option<u8>>");
}

/// Generic types have one name for different shapes.
#[test]
fn one_name_may_stand_for_several_shapes() {
    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct Page<T> {
        items: Vec<T>,
    }
    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct Book {
        first: Page<u8>,
        second: Page<String>,
        whole: Page<Page<u8>>,
    }
    let page = |of: &str| format!("Page {{ items: [{of}] }}");
    let whole = page(&page("u8"));
    let wanted = format!("Book {{ first: {}, second: {}, whole: {whole} }}", page("u8"), page("str"));
    assert_eq!(shape::<Book>(), wanted);
}

#[test]
fn types_that_contain_themselves_end() {
    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct Node {
        children: Vec<Node>,
        next: Option<Box<Node>>,
        value: u64,
    }
    // The variants that end it come last.
    #[derive(Deserialize)]
    #[expect(dead_code)]
    enum Term {
        Add(Box<Term>, Box<Term>),
        Call { name: String, with: HashMap<String, Term> },
        Not(Box<Term>),
        Number(i64),
    }
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Tree(#[expect(dead_code)] Vec<Tree>);
    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct Even(Option<Box<Odd>>);
    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct Odd(Box<Even>, u8);

    assert_eq!(shape::<Node>(), "Node { children: [^2], next: Option<^2>, value: u64 }");
    let term = shape::<Term>();
    let wanted = "enum Term { Add: (^2, ^2), Call: { name: str, with: Map<str, ^3> }, Not: ^2, Number: i64 }";
    assert_eq!(term, wanted);
    assert_eq!(shape::<(Term, u8)>(), format!("({term}, u8)"));
    assert_eq!(shape::<Tree>(), "[^1]");
    assert_eq!(shape::<Even>(), "Even(Option<Odd(^3, u8)>)");
}

/// One that cannot be made, since each of it needs another.
#[test]
fn a_type_without_a_value_is_seen_where_names_lead_through_it() {
    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct Endless {
        own: Box<Endless>,
        count: u64,
    }
    #[derive(Deserialize)]
    enum Never {}
    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct Unreachable {
        never: Never,
        count: u64,
    }
    assert_eq!(shape::<Endless>(), "Endless { own: ^1, count: u64 }");
    assert_eq!(shape::<Unreachable>(), "Unreachable { never: enum Never {  }, count: u64 }");
}

#[test]
fn types_of_the_standard_library_are_seen() {
    assert_eq!(shape::<(NonZeroU64, Arc<str>, Box<[u8]>)>(), "(u64, str, [u8])");
    assert_eq!(shape::<AtomicU64>(), "u64");
    let v4 = "(u8, u8, u8, u8)";
    let v6 = format!("({})", ["u8"; 16].join(", "));
    assert_eq!(shape::<IpAddr>(), format!("enum IpAddr {{ V4: {v4}, V6: {v6} }}"));
    assert_eq!(shape::<SocketAddr>(), format!("enum SocketAddr {{ V4: ({v4}, u16), V6: ({v6}, u16) }}"));
    assert_eq!(shape::<Duration>(), "Duration { secs: u64, nanos: u32 }");
    assert_eq!(shape::<SystemTime>(), "SystemTime { secs_since_epoch: u64, nanos_since_epoch: u32 }");
    assert_eq!(shape::<Result<u8, String>>(), "enum Result { Ok: u8, Err: str }");
    assert_eq!(shape::<std::ops::Range<u8>>(), "Range { start: u8, end: u8 }");
    assert_eq!(shape::<std::ops::Bound<u8>>(), "enum Bound { Unbounded: (), Included: u8, Excluded: u8 }");
    assert_eq!(shape::<PathBuf>(), "str");
    assert_eq!(shape::<std::ffi::OsString>(), "enum OsString { Unix: [u8], Windows: ! }");
    assert_eq!(shape::<std::marker::PhantomData<u8>>(), "struct PhantomData");
}

/// As a time or an identity may read itself: from a text, and not from any.
#[derive(PartialEq, Eq, Hash)]
struct Email;

impl<'de> Deserialize<'de> for Email {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Email, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.contains('@') { Ok(Email) } else { Err(D::Error::custom("an address has an @")) }
    }
}

/// Made from a number, but not from each.
#[derive(Deserialize)]
#[serde(try_from = "u8")]
struct Zero;

impl TryFrom<u8> for Zero {
    type Error = String;

    fn try_from(number: u8) -> Result<Zero, String> {
        if number == 0 { Ok(Zero) } else { Err(format!("{number} is not 0")) }
    }
}

#[test]
fn a_type_that_refuses_what_it_is_fed_hides_no_other_field() {
    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct User {
        id: u64,
        email: Email,
        logins: Vec<u64>,
        kind: Kind,
    }
    #[derive(Deserialize)]
    #[expect(dead_code)]
    enum Kind {
        Guest { invited_by: Email, times: u8 },
        Member(Email),
    }
    let kind = "enum Kind { Guest: { invited_by: str, times: u8 }, Member: str }";
    let user = format!("User {{ id: u64, email: str, logins: [u64], kind: {kind} }}");
    assert_eq!(shape::<User>(), user);
    assert_eq!(shape::<HashMap<u8, User>>(), format!("Map<u8, {user}>"));
    assert_eq!(shape::<(u8, Email)>(), "(u8, str)");
    assert_eq!(shape::<(Zero, u16)>(), "(u8, u16)");
}

#[test]
fn what_cannot_be_seen_is_an_error_that_says_why() {
    let problem = unseen::<(Email, u8)>();
    assert!(problem.contains("refuses each value that was tried") && problem.contains("an @"), "{problem}");
    unseen::<HashMap<Email, u8>>();

    // Tells by what comes which of them it is: bincode does not say.
    #[derive(Deserialize)]
    #[serde(untagged)]
    #[expect(dead_code)]
    enum Either {
        Number(u64),
        Text(String),
    }
    let problem = unseen::<Vec<Either>>();
    assert!(problem.contains("formats that say what they hold"), "{problem}");
    unseen::<serde_json::Value>();
}

/// What one that is not derived may do.
#[test]
fn one_that_asks_for_something_else_each_time_is_an_error() {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    static TURN: AtomicBool = AtomicBool::new(false);
    struct Fickle;
    impl<'de> Deserialize<'de> for Fickle {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fickle, D::Error> {
            let number = TURN.fetch_not(Relaxed);
            if number {
                u8::deserialize(deserializer).map(|_| Fickle)
            } else {
                bool::deserialize(deserializer).map(|_| Fickle)
            }
        }
    }
    #[derive(Deserialize)]
    #[expect(dead_code)]
    enum Several {
        One(u8),
        Two(u8),
        Three(u8),
    }
    let problem = unseen::<(Fickle, Several)>();
    assert!(problem.contains("not read the same"), "{problem}");

    struct Panics;
    impl<'de> Deserialize<'de> for Panics {
        fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Panics, D::Error> {
            panic!("on purpose")
        }
    }
    assert!(unseen::<Panics>().contains("on purpose"));
}

/// The same visitor at each level, with another task: what it carries counts.
#[test]
fn levels_that_only_look_alike_are_told_apart() {
    struct Levels<const DEPTH: usize>;
    struct Level(usize);
    impl<'de> Visitor<'de> for Level {
        type Value = ();
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a level")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
            while seq.next_element_seed(Level(self.0))?.is_some() {}
            Ok(())
        }
    }
    impl<'de> serde::de::DeserializeSeed<'de> for Level {
        type Value = ();
        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
            match self.0 {
                0 => u8::deserialize(deserializer).map(drop),
                depth => deserializer.deserialize_seq(Level(depth - 1)),
            }
        }
    }
    impl<'de, const DEPTH: usize> Deserialize<'de> for Levels<DEPTH> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            serde::de::DeserializeSeed::deserialize(Level(DEPTH), deserializer).map(|()| Levels)
        }
    }
    assert_eq!(shape::<Levels<2>>(), "[[u8]]");
    assert_eq!(shape::<Levels<3>>(), "[[[u8]]]");
    assert!(unseen::<Levels<200>>().contains("deep"));
}

#[test]
fn names_that_look_like_shapes_are_quoted() {
    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct Sly {
        #[serde(rename = "a: u8, b")]
        a: u8,
    }
    assert_eq!(shape::<Sly>(), r#"Sly { "a: u8, b": u8 }"#);
    #[derive(Deserialize)]
    #[expect(dead_code)]
    struct Renamed {
        #[serde(alias = "before")]
        now: u8,
        other: BTreeMap<u8, u8>,
    }
    assert_eq!(shape::<Renamed>(), r#"Renamed { ["before", "now", "other"]: u8, Map<u8, u8> }"#);
}

#[test]
fn a_type_with_too_many_parts_is_an_error_and_takes_no_time() {
    #[derive(Deserialize)]
    struct Twice<T>(#[expect(dead_code)] Box<T>, #[expect(dead_code)] Box<T>);
    type Four<T> = Twice<Twice<T>>;
    type Sixteen<T> = Four<Four<T>>;
    assert_eq!(shape::<Four<u8>>(), "Twice(Twice(u8, u8), Twice(u8, u8))");
    assert!(unseen::<Sixteen<Sixteen<Sixteen<Sixteen<Four<u8>>>>>>().contains("too many parts"));
}
