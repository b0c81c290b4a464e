//! What serde does not look at: whether a line is one object at all, how deep it goes, and whether a name comes twice
//! in an object, also one that nobody here reads.

use std::borrow::Cow;
use std::collections::HashSet;

use super::{MAX_DEPTH, MAX_NAME, WireError, shorten};

/// Of a line that is not JSON this may say anything: whoever reads its fields refuses it all the same.
// M15, M95, M97
pub(super) fn check(line: &str) -> Result<(), WireError> {
    if !line.trim_start_matches([' ', '\t', '\r', '\n']).starts_with('{') {
        return malformed("it does not begin with {");
    }
    let mut open: Vec<Container<'_>> = Vec::new();
    // Whether a text that comes now is a name.
    let mut name_is_due = false;
    let (bytes, mut place) = (line.as_bytes(), 0);
    while let Some(&byte) = bytes.get(place) {
        match byte {
            b'{' | b'[' if open.len() == MAX_DEPTH => {
                return malformed(&format!("objects and lists are nested more than {MAX_DEPTH} deep"));
            }
            b'{' => open.push(Container::Object(HashSet::new())),
            b'[' => open.push(Container::List),
            b'}' | b']' => drop(open.pop()),
            b'"' => {
                let Some(end) = end_of_text(bytes, place) else { return malformed("a text without an end") };
                if let (Some(Container::Object(names)), true) = (open.last_mut(), name_is_due) {
                    let name = decoded(&line[place..=end])?;
                    if names.contains(&name) {
                        return malformed(&format!("the field \"{}\" comes twice", shorten(&name, MAX_NAME)));
                    }
                    names.insert(name);
                }
                place = end;
            }
            _ => {}
        }
        // White space between changes nothing.
        if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            name_is_due = matches!((byte, open.last()), (b'{' | b',', Some(Container::Object(_))));
        }
        place += 1;
    }
    Ok(())
}

/// One that is not closed yet.
enum Container<'a> {
    /// With the names that it has so far.
    Object(HashSet<Cow<'a, str>>),
    List,
}

/// Where the quotation mark is that ends the text which begins here.
fn end_of_text(bytes: &[u8], start: usize) -> Option<usize> {
    let mut place = start + 1;
    loop {
        place += memchr::memchr2(b'"', b'\\', bytes.get(place..)?)?;
        if bytes[place] == b'"' {
            return Some(place);
        }
        place += 2;
    }
}

/// What a name in its quotation marks means.
fn decoded(quoted: &str) -> Result<Cow<'_, str>, WireError> {
    if quoted.contains('\\') {
        let name: String = serde_json::from_str(quoted).map_err(|error| super::malformed(&error))?;
        return Ok(Cow::Owned(name));
    }
    Ok(Cow::Borrowed(&quoted[1..quoted.len() - 1]))
}

fn malformed<T>(problem: &str) -> Result<T, WireError> {
    Err(WireError::Malformed(problem.to_owned()))
}
