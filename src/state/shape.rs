//! The shape of a type: the order, names and types of all that a codec without names writes of it, as the type's
//! `Deserialize` asks for it.
//!
//! A value shows little of its type: an empty list or an absent option hides what could be in it, and an enumeration all
//! variants but one. `Deserialize` shows everything, if it is asked often enough: it is fed values that mean nothing, in several
//! passes, until each option, list, map and variant has been looked into. Where it refuses what it is fed, it has said by then
//! what it reads; what it would have read next is asked for by its name, or the shape remains unseen, which is an error.

use std::any::{TypeId, type_name};
use std::fmt::{self, Write};
use std::marker::PhantomData;

use serde::de::value::{BorrowedStrDeserializer, U32Deserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::caught;

/// How deep a type may be nested: what is traced stands on this thread's stack.
const MAX_DEPTH: usize = 128;
/// How much is asked of a type, over all passes. Ordinary ones take a few hundred steps.
const MAX_STEPS: usize = 500_000;
/// How many places a type may have. One that uses another twice has that one's places twice.
const MAX_PLACES: usize = 50_000;
/// Texts for types that do not take each: the first one that is taken is kept.
const TEXTS: [&str; 6] =
    ["a", "1", "2000-01-01T00:00:00Z", "00000000-0000-0000-0000-000000000001", "127.0.0.1:1", "http://a.example/"];
/// Lengths for types that do not take any bytes.
const LENGTHS: [usize; 8] = [16, 0, 1, 4, 8, 12, 20, 32];

/// A type's shape, as text: `Counts { served: u64, failed: u64 }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape(String);

impl Shape {
    /// The shape of `T`: the same for every program, compiler and machine.
    ///
    /// # Errors
    ///
    /// Why it cannot be seen.
    pub(crate) fn of<T: DeserializeOwned>() -> Result<Shape, String> {
        caught(trace::<T>).and_then(|traced| traced)
    }

    /// FNV-1a: equal where the shapes are, and else different, but for one time in 2^64.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.0
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn trace<T: DeserializeOwned>() -> Result<Shape, String> {
    let mut trace = Trace::default();
    let root = trace.place();
    let mut idle = 0;
    while !trace.nodes[root].done {
        trace.moved = false;
        let made = trace.visit(root, false, PhantomData::<T>);
        if let Some(problem) = trace.fatal {
            return Err(problem);
        }
        idle = if trace.moved { 0 } else { idle + 1 };
        if let (Err(Refused(problem)), true) = (made, idle > trace.patience + 4) {
            return Err(format!(
                "it refuses each value that was tried, so that nobody sees what it reads next: {problem}"
            ));
        }
    }
    let mut text = String::new();
    trace.write(root, &mut text);
    Ok(Shape(text))
}

/// What has been seen of a type so far: a tree of places, each of which reads one value.
#[derive(Default)]
struct Trace {
    nodes: Vec<Node>,
    /// The containers around the place that is looked at, from the outside in.
    around: Vec<usize>,
    depth: usize,
    steps: usize,
    /// Whether this pass has shown something new.
    moved: bool,
    /// After how many passes that show nothing new none will.
    patience: usize,
    /// What no other pass can mend.
    fatal: Option<String>,
}

/// A place where a value is read.
#[derive(Default)]
struct Node {
    /// What is asked for here; nothing until somebody has looked.
    what: Option<What>,
    /// Who asks.
    visitor: Option<TypeId>,
    /// The parts of it, in the order in which they are read; of an enumeration the variants.
    parts: Vec<usize>,
    /// A structure's fields, asked for by name, where a part of it has no value.
    fields: Vec<usize>,
    /// Which way to take next, and which one was taken last.
    next: usize,
    way: usize,
    /// The first way that has led to a value.
    good: Option<usize>,
    /// Whether all of it has been seen.
    done: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// A number, a text, bytes: its type, and how many values there are to try.
    Plain(&'static str, usize),
    Option,
    Seq,
    Map,
    UnitStruct(&'static str),
    Newtype(&'static str),
    /// What a variant holds, if it is one value.
    Payload,
    Tuple(&'static str, usize),
    Struct(&'static str, &'static [&'static str]),
    Enum(&'static str, &'static [&'static str]),
    /// What one of the containers around is: a type that contains itself.
    Again {
        target: usize,
        levels: usize,
    },
    /// A variant that nobody can read.
    Absent,
}

/// Why there is no value.
#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl Error for Refused {
    fn custom<T: fmt::Display>(message: T) -> Refused {
        Refused(message.to_string())
    }
}

impl Trace {
    fn place(&mut self) -> usize {
        self.nodes.push(Node::default());
        self.nodes.len() - 1
    }

    /// The place of a part.
    fn part(&mut self, node: usize, index: usize) -> usize {
        while self.nodes[node].parts.len() <= index {
            let part = self.place();
            self.nodes[node].parts.push(part);
        }
        self.nodes[node].parts[index]
    }

    /// Looks at a place once. To replay is to take only ways that are known to lead to a value.
    fn visit<'de, S: DeserializeSeed<'de>>(&mut self, node: usize, replay: bool, seed: S) -> Result<S::Value, Refused> {
        self.depth += 1;
        self.steps += 1;
        let made = if self.depth > MAX_DEPTH {
            Err(self.fail(format!("it is nested more than {MAX_DEPTH} deep")))
        } else if self.steps > MAX_STEPS || self.nodes.len() > MAX_PLACES {
            Err(self.fail("it has too many parts".to_owned()))
        } else {
            seed.deserialize(Tracer { trace: self, node, replay })
        };
        self.depth -= 1;
        if !replay {
            self.note(node, made.is_ok());
        }
        made
    }

    fn fail(&mut self, problem: String) -> Refused {
        self.fatal.get_or_insert_with(|| problem.clone());
        Refused(problem)
    }

    /// What is asked for at a place. A type that contains itself is not looked into twice.
    fn ask<V>(&mut self, node: usize, what: What) -> Result<(), Refused> {
        let visitor = Some(typeid::of::<V>());
        if let Some(known) = self.nodes[node].what {
            let same = match known {
                What::Again { target, .. } => self.nodes[target].what,
                known => Some(known),
            };
            return match same == Some(what) {
                true => Ok(()),
                false => Err(self.fail("it does not read the same each time".to_owned())),
            };
        }
        // Who carries something along may ask for something else at the next level.
        let stateless = size_of::<V>() == 0 && !matches!(what, What::Plain(..) | What::Payload);
        let is_same = |around: &Node| stateless && around.visitor == visitor && around.what == Some(what);
        let again = self.around.iter().rposition(|&around| is_same(&self.nodes[around]));
        let found = match again {
            Some(position) => What::Again { target: self.around[position], levels: self.around.len() - position },
            None => what,
        };
        if let What::Enum(_, variants) = found {
            self.patience += 2 * variants.len();
            for variant in 0..variants.len() {
                self.part(node, variant);
            }
        }
        self.moved = true;
        (self.nodes[node].what, self.nodes[node].visitor) = (Some(found), visitor);
        Ok(())
    }

    /// What a look at a place has shown.
    fn note(&mut self, node: usize, made: bool) {
        let what = self.nodes[node].what;
        if let Some(What::Enum(_, variants)) = what {
            if !variants.is_empty() {
                let variant = self.nodes[node].parts[self.nodes[node].way];
                self.nodes[variant].what.get_or_insert(What::Absent);
                self.note(variant, made);
            }
        }
        let parts_done = self.are_done(&self.nodes[node].parts);
        let it = &self.nodes[node];
        let read_all = |count: usize| made || it.parts.len() == count;
        let done = match what {
            None | Some(What::Plain(..) | What::UnitStruct(_) | What::Again { .. } | What::Absent) => true,
            Some(What::Option | What::Seq | What::Newtype(_) | What::Payload) => it.parts.len() == 1 && parts_done,
            Some(What::Map) => it.parts.len() == 2 && parts_done,
            Some(What::Tuple(_, count)) => read_all(count) && parts_done,
            Some(What::Struct(_, names)) => {
                (it.way == 0 && read_all(names.len()) && parts_done)
                    || (!it.fields.is_empty() && self.are_done(&it.fields))
            }
            Some(What::Enum(..)) => parts_done,
        };
        let by_name = matches!(what, Some(What::Struct(..))) && !made && parts_done && !done;
        let it = &mut self.nodes[node];
        it.next = match what {
            Some(What::Plain(_, tries)) if !made && it.good.is_none() && it.way + 1 < tries => {
                self.moved = true;
                it.way + 1
            }
            Some(What::Plain(..)) => it.way,
            Some(What::Option | What::Seq | What::Map) => usize::from(it.way == 0 && !made),
            Some(What::Struct(..)) => usize::from(it.way == 0 && by_name),
            Some(What::Enum(_, variants)) => (it.way + 1) % variants.len().max(1),
            _ => 0,
        };
        let good = it.good.or(made.then_some(it.way));
        let done = it.done || done;
        self.moved |= (good, done) != (it.good, it.done);
        (it.good, it.done) = (good, done);
    }

    fn are_done(&self, nodes: &[usize]) -> bool {
        nodes.iter().all(|&node| self.nodes[node].done)
    }

    fn write(&self, node: usize, text: &mut String) {
        let it = &self.nodes[node];
        let list = |text: &mut String, nodes: &[usize], names: Option<&[&str]>| {
            for (index, &part) in nodes.iter().enumerate() {
                text.push_str(if index == 0 { "" } else { ", " });
                if let Some(name) = names.and_then(|names| names.get(index)) {
                    text.push_str(&plain(name));
                    text.push_str(": ");
                }
                self.write(part, text);
            }
        };
        let name = |text: &mut String, name: &str| text.push_str(&plain(name));
        match it.what {
            None => text.push('-'),
            Some(What::Absent) => text.push('!'),
            Some(What::Plain(kind, _)) => text.push_str(kind),
            Some(What::Again { levels, .. }) => {
                let _ = write!(text, "^{levels}");
            }
            Some(What::Option) => {
                text.push_str("Option<");
                list(text, &it.parts, None);
                text.push('>');
            }
            Some(What::Seq) => {
                text.push('[');
                list(text, &it.parts, None);
                text.push(']');
            }
            Some(What::Map) => {
                text.push_str("Map<");
                list(text, &it.parts, None);
                text.push('>');
            }
            Some(What::UnitStruct(unit)) => {
                text.push_str("struct ");
                name(text, unit);
            }
            Some(What::Newtype(tuple) | What::Tuple(tuple, _)) => {
                name(text, tuple);
                text.push('(');
                list(text, &it.parts, None);
                text.push(')');
            }
            Some(What::Payload) => list(text, &it.parts, None),
            Some(What::Struct(structure, names)) => {
                let by_name = it.good.is_none() && !it.fields.is_empty() && self.are_done(&it.fields);
                let fields = if by_name { &it.fields } else { &it.parts };
                name(text, structure);
                text.push_str(if structure.is_empty() { "{ " } else { " { " });
                if fields.len() == names.len() {
                    list(text, fields, Some(names));
                } else {
                    // Some have other names as well.
                    let _ = write!(text, "{names:?}: ");
                    list(text, fields, None);
                }
                text.push_str(" }");
            }
            Some(What::Enum(enumeration, names)) => {
                text.push_str("enum ");
                name(text, enumeration);
                text.push_str(" { ");
                list(text, &it.parts, Some(names));
                text.push_str(" }");
            }
        }
    }
}

/// A name as it is where it cannot be taken for anything else.
fn plain(name: &str) -> String {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if is_plain { name.to_owned() } else { format!("{name:?}") }
}

/// One look at one place.
struct Tracer<'a> {
    trace: &'a mut Trace,
    node: usize,
    replay: bool,
}

impl Tracer<'_> {
    /// The way to take here.
    fn way(&mut self, ways: usize) -> Result<usize, Refused> {
        let it = &self.trace.nodes[self.node];
        let way = match it.what {
            _ if self.replay => {
                it.good.ok_or_else(|| Refused("a type that contains itself has no value yet".to_owned()))?
            }
            Some(What::Enum(..)) if !it.done => {
                let undone = |way: &usize| !self.trace.nodes[it.parts[*way]].done;
                (it.next..ways).chain(0..it.next).find(undone).unwrap_or(0)
            }
            _ if it.done && it.good.is_some() => it.good.unwrap_or(0),
            _ => it.next,
        };
        if !self.replay {
            self.trace.nodes[self.node].way = way;
        }
        Ok(way)
    }

    fn plain<T>(
        mut self,
        kind: &'static str,
        tries: usize,
        visit: impl FnOnce(usize) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        self.trace.ask::<()>(self.node, What::Plain(kind, tries))?;
        self.way(tries).and_then(visit)
    }

    /// Looks into a container. One that is the same as one around it is made as that one can be made.
    fn into<V, T>(
        mut self,
        what: What,
        look: impl FnOnce(&mut Tracer<'_>) -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        self.trace.ask::<V>(self.node, what)?;
        if let Some(What::Again { target, .. }) = self.trace.nodes[self.node].what {
            (self.node, self.replay) = (target, true);
        }
        self.trace.depth += 1;
        if self.trace.depth > MAX_DEPTH {
            self.trace.depth -= 1;
            return Err(self.trace.fail(format!("it is nested more than {MAX_DEPTH} deep")));
        }
        self.trace.around.push(self.node);
        let made = look(&mut self);
        self.trace.around.pop();
        self.trace.depth -= 1;
        made
    }

    /// A part of this, looked at through the visitor of the whole.
    fn inner<T>(&mut self, visit: impl FnOnce(Tracer<'_>) -> Result<T, Refused>) -> Result<T, Refused> {
        let part = self.trace.part(self.node, 0);
        let made = visit(Tracer { trace: self.trace, node: part, replay: self.replay });
        if !self.replay {
            self.trace.note(part, made.is_ok());
        }
        made
    }

    /// Parts that are read one after the other.
    fn parts(&mut self, count: usize) -> Parts<'_> {
        Parts { trace: self.trace, node: self.node, replay: self.replay, count, next: 0 }
    }

    fn tuple<'de, V: Visitor<'de>>(self, name: &'static str, count: usize, visitor: V) -> Result<V::Value, Refused> {
        self.into::<V, _>(What::Tuple(name, count), |it| {
            it.way(1)?;
            visitor.visit_seq(it.parts(count))
        })
    }

    /// A structure, in its order; or else one field after the other by its name, so that one without a value hides no other.
    fn structure<'de, V: Visitor<'de>>(
        self,
        name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.into::<V, _>(What::Struct(name, names), |it| {
            if it.way(2)? == 0 {
                return visitor.visit_seq(it.parts(names.len()));
            }
            while it.trace.nodes[it.node].fields.len() < names.len() {
                let field = it.trace.place();
                it.trace.nodes[it.node].fields.push(field);
            }
            let fields = &it.trace.nodes[it.node].fields;
            let field = fields.iter().position(|&field| !it.trace.nodes[field].done).unwrap_or(0);
            let (node, name) = (fields[field], names[field]);
            visitor.visit_map(Field { trace: it.trace, node, name: Some(name) })
        })
    }
}

macro_rules! plain {
    ($($method:ident, $visit:ident: $kind:literal, $values:expr;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
            let values = $values;
            self.plain($kind, values.len(), |way| visitor.$visit(values[way]))
        })*
    };
}

macro_rules! never {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Refused> {
            let visitor = type_name::<V>();
            Err(self.trace.fail(format!("{visitor} reads only formats that say what they hold, and bincode is none")))
        })*
    };
}

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = Refused;

    never! { deserialize_any deserialize_identifier deserialize_ignored_any }

    plain! {
        deserialize_bool, visit_bool: "bool", [false, true];
        deserialize_i8, visit_i8: "i8", [1_i8, 0];
        deserialize_i16, visit_i16: "i16", [1_i16, 0];
        deserialize_i32, visit_i32: "i32", [1_i32, 0];
        deserialize_i64, visit_i64: "i64", [1_i64, 0];
        deserialize_i128, visit_i128: "i128", [1_i128, 0];
        deserialize_u8, visit_u8: "u8", [1_u8, 0];
        deserialize_u16, visit_u16: "u16", [1_u16, 0];
        deserialize_u32, visit_u32: "u32", [1_u32, 0];
        deserialize_u64, visit_u64: "u64", [1_u64, 0];
        deserialize_u128, visit_u128: "u128", [1_u128, 0];
        deserialize_f32, visit_f32: "f32", [1_f32, 0.0];
        deserialize_f64, visit_f64: "f64", [1_f64, 0.0];
        deserialize_char, visit_char: "char", ['a', '1'];
        deserialize_str, visit_str: "str", TEXTS;
        deserialize_string, visit_str: "str", TEXTS;
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.plain("bytes", LENGTHS.len(), |way| visitor.visit_byte_buf(vec![1; LENGTHS[way]]))
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.plain("()", 1, |_| visitor.visit_unit())
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Refused> {
        self.into::<V, _>(What::UnitStruct(name), |it| {
            it.way(1)?;
            visitor.visit_unit()
        })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.into::<V, _>(What::Option, |it| match it.way(2)? {
            0 => it.inner(|part| visitor.visit_some(part)),
            _ => visitor.visit_none(),
        })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Refused> {
        self.into::<V, _>(What::Newtype(name), |it| {
            it.way(1)?;
            it.inner(|part| visitor.visit_newtype_struct(part))
        })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.into::<V, _>(What::Seq, |it| {
            let count = 1 - it.way(2)?;
            visitor.visit_seq(it.parts(count))
        })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        self.into::<V, _>(What::Map, |it| {
            let count = 2 * (1 - it.way(2)?);
            visitor.visit_map(it.parts(count))
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, count: usize, visitor: V) -> Result<V::Value, Refused> {
        self.tuple("", count, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        count: usize,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.tuple(name, count, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.structure(name, names, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.into::<V, _>(What::Enum(name, names), |it| {
            if names.is_empty() {
                return Err(Refused(format!("{name} has no variants")));
            }
            let way = it.way(names.len())?;
            let node = it.trace.nodes[it.node].parts[way];
            visitor.visit_enum(Variant { way, at: Tracer { trace: it.trace, node, replay: it.replay } })
        })
    }

    /// As bincode says of itself.
    fn is_human_readable(&self) -> bool {
        false
    }
}

/// The parts of a container, one after the other.
struct Parts<'a> {
    trace: &'a mut Trace,
    node: usize,
    replay: bool,
    count: usize,
    next: usize,
}

impl Parts<'_> {
    fn next<'de, S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refused> {
        if self.next == self.count {
            return Ok(None);
        }
        let part = self.trace.part(self.node, self.next);
        self.next += 1;
        self.trace.visit(part, self.replay, seed).map(Some)
    }
}

impl<'de> SeqAccess<'de> for Parts<'_> {
    type Error = Refused;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refused> {
        self.next(seed)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.count - self.next)
    }
}

impl<'de> MapAccess<'de> for Parts<'_> {
    type Error = Refused;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refused> {
        self.next(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Refused> {
        self.next(seed)?.ok_or_else(|| Refused("a key has one value".to_owned()))
    }

    fn size_hint(&self) -> Option<usize> {
        Some((self.count - self.next) / 2)
    }
}

/// One field, asked for by its name.
struct Field<'a> {
    trace: &'a mut Trace,
    node: usize,
    name: Option<&'static str>,
}

impl<'de> MapAccess<'de> for Field<'_> {
    type Error = Refused;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Refused> {
        self.name.take().map(|name| seed.deserialize(BorrowedStrDeserializer::new(name))).transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Refused> {
        self.trace.visit(self.node, false, seed)
    }
}

/// One variant of an enumeration.
struct Variant<'a> {
    way: usize,
    at: Tracer<'a>,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Refused;
    type Variant = Tracer<'a>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Tracer<'a>), Refused> {
        // By its number, as bincode does.
        let index = U32Deserializer::<Refused>::new(u32::try_from(self.way).map_err(Refused::custom)?);
        Ok((seed.deserialize(index)?, self.at))
    }
}

impl<'de> VariantAccess<'de> for Tracer<'_> {
    type Error = Refused;

    fn unit_variant(self) -> Result<(), Refused> {
        self.plain("()", 1, |_| Ok(()))
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Refused> {
        self.into::<(), _>(What::Payload, |it| {
            it.way(1)?;
            let part = it.trace.part(it.node, 0);
            it.trace.visit(part, it.replay, seed)
        })
    }

    fn tuple_variant<V: Visitor<'de>>(self, count: usize, visitor: V) -> Result<V::Value, Refused> {
        self.tuple("", count, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, names: &'static [&'static str], visitor: V) -> Result<V::Value, Refused> {
        self.structure("", names, visitor)
    }
}

#[cfg(test)]
mod tests;
