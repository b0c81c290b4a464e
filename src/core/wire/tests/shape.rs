//! What is looked at in a line before its fields are read, beside a reader that is slow and simple.

use std::collections::BTreeSet;
use std::fmt;

use proptest::prelude::*;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};

use crate::core::wire::{MAX_DEPTH, shape};

/// Any value, so many levels below the line.
#[derive(Clone, Copy)]
struct Level(usize);

impl<'de> DeserializeSeed<'de> for Level {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Level {
    fn below<E: Error>(self) -> Result<Level, E> {
        if self.0 < MAX_DEPTH { Ok(Level(self.0 + 1)) } else { Err(E::custom("too deep")) }
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let below = self.below()?;
        while list.next_element_seed(below)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let (below, mut names) = (self.below()?, BTreeSet::new());
        while let Some(name) = object.next_key::<String>()? {
            if !names.insert(name) {
                return Err(A::Error::custom("twice"));
            }
            object.next_value_seed(below)?;
        }
        Ok(())
    }
}

fn slow(line: &str) -> bool {
    let mut reader = serde_json::Deserializer::from_str(line);
    // It has a limit of its own, which is higher.
    let read = Level(0).deserialize(&mut reader);
    read.is_ok() && reader.end().is_ok()
}

/// The same few names in several spellings, and what looks like the end of one and is not.
fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        r#""""#,
        r#""a""#,
        r#""\u0061""#,
        r#""b""#,
        r#""\"""#,
        r#""\u0022""#,
        r#""\\""#,
        r#""\u005c""#,
        r#""a\":{""#,
        r#""é""#,
        r#""\u00e9""#,
        r#""a,""#,
        r#""}""#,
        r#""]""#,
    ])
}

fn space() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "", "", " ", "\t", "\r", "  "])
}

fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![name().prop_map(str::to_owned), Just("null".to_owned()), Just("7".to_owned())];
    leaf.prop_recursive(40, 60, 4, |inner| {
        let field = (name(), space(), space(), inner.clone())
            .prop_map(|(name, before, after, value)| format!("{before}{name}{after}:{before}{value}{after}"));
        let list = prop::collection::vec(inner, 0..4).prop_map(|list| format!("[{}]", list.join(" ,")));
        let object = prop::collection::vec(field, 0..4).prop_map(|fields| format!("{{{}}}", fields.join(",")));
        prop_oneof![list, object]
    })
}

proptest! {
    // M95, M97
    #[test]
    fn it_refuses_what_a_slow_reader_refuses(name in name(), value in value(), around in 0..MAX_DEPTH + 2) {
        let line = format!("{{\"type\":\"ready\",{name}:{}{value}{}}}", "[".repeat(around), "]".repeat(around));
        prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&line).is_ok(), "{}", line);
        prop_assert_eq!(shape::check(&line).is_ok(), slow(&line), "{}", line);
    }

    #[test]
    fn it_reads_anything_to_its_end(line in "[\\[\\]{}\",:\\\\a u0-9é]{0,40}") {
        let _ = shape::check(&line);
        let _ = shape::check(&format!("{{{line}"));
    }
}
