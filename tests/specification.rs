//! Each numbered MUST of `protocol.md` is named by a test, in a comment `// M12` or `// M12, M13` above it or in it, and by
//! the code that keeps it, in the same way. Writes `docs/conformance.md`, which says so of each of them:
//!
//! ```text
//! FD_HANDOFF_WRITE=1 cargo test --test specification
//! ```

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The text between the brackets of a number in the specification.
fn number(text: &str) -> Option<u32> {
    text.strip_prefix('M')?.parse().ok()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The numbers of the specification, in their order.
fn specified() -> Vec<u32> {
    let text = fs::read_to_string(root().join("protocol.md")).unwrap();
    text.split('[').filter_map(|part| number(part.split_once(']')?.0)).collect()
}

/// The numbers that a comment line names; empty for any other line.
fn named_in(line: &str) -> Vec<u32> {
    let Some(comment) = line.trim_start().strip_prefix("// ") else { return Vec::new() };
    let numbers: Option<Vec<u32>> = comment.split(", ").map(|part| number(part.trim())).collect();
    numbers.unwrap_or_default()
}

/// Whether a line makes what follows it a test.
fn is_test(line: &str) -> bool {
    let line = line.trim_start();
    let made = line.starts_with("forms! {") || line.starts_with("pairings! {");
    made || line.starts_with("#[") && line.trim_end_matches(']').split(['[', ':', '(']).any(|word| word == "test")
}

/// Whether the comment in this place belongs to a test: one follows it before the next blank line, or has begun before it.
fn is_by_a_test(lines: &[&str], place: usize) -> bool {
    let mut below = lines[place..].iter().take_while(|line| !line.trim().is_empty());
    lines[..place].iter().any(|line| is_test(line)) || below.any(|line| is_test(line))
}

/// A number in a comment, and what it stands at.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mention {
    /// From the root.
    path: String,
    /// `function`, or `Type::function`.
    item: String,
    in_test: bool,
}

/// The numbers that one file names.
fn mentions(path: &str, text: &str) -> Vec<(u32, Mention)> {
    let lines: Vec<&str> = text.lines().collect();
    let of_tests = path.starts_with("tests/") || path.ends_with("tests.rs") || path.contains("/tests/");
    let mention = |place: usize| {
        let in_test = is_by_a_test(&lines, place);
        // What is in a test's file and belongs to no test counts for nothing.
        (in_test || !of_tests).then(|| Mention { path: path.to_owned(), item: item_at(&lines, place), in_test })
    };
    let numbers = |(place, line): (usize, &&str)| {
        named_in(line).into_iter().filter_map(|number| Some((number, mention(place)?))).collect::<Vec<_>>()
    };
    lines.iter().enumerate().flat_map(numbers).collect()
}

/// What a comment stands above, or else within.
fn item_at(lines: &[&str], place: usize) -> String {
    let is_said_of_it = |line: &&&str| line.trim_start().starts_with("//") || line.trim_start().starts_with("#[");
    let below = lines[place..].iter().find(|line| !is_said_of_it(line)).and_then(|line| declared(line));
    let (place, name) = match below {
        Some(name) => (place, name),
        None => {
            let is_function = |line: &str| declared(line).filter(|_| line.contains("fn "));
            let above = (0..place).rev().find_map(|place| Some((place, is_function(lines[place])?)));
            above.unwrap_or_else(|| panic!("line {} belongs to nothing", place + 1))
        }
    };
    let block =
        (0..place).rev().map(|place| lines[place]).find(|line| line.starts_with('}') || line.starts_with("impl"));
    match block.and_then(|line| line.strip_prefix("impl")) {
        Some(header) => format!("{}::{name}", implemented(header)),
        None => name,
    }
}

/// The name of what a line declares.
fn declared(line: &str) -> Option<String> {
    const KEYWORDS: [&str; 9] = ["fn", "const", "static", "struct", "enum", "trait", "type", "mod", "macro_rules!"];
    let mut words =
        line.split_whitespace().skip_while(|word| matches!(*word, "async" | "unsafe") || word.starts_with("pub"));
    let keyword = words.next()?;
    let keyword = if keyword == "const" && line.contains(" fn ") { words.next()? } else { keyword };
    if !KEYWORDS.contains(&keyword) {
        return None;
    }
    let name: String = words.next()?.chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// The type of which an `impl` says something.
fn implemented(header: &str) -> String {
    let header = header.split_once(" for ").map_or(header, |(_, of)| of);
    let mut open = 0;
    let of_parameters = |char: char| {
        open += i32::from(char == '<') - i32::from(char == '>');
        open > 0 || matches!(char, '>' | ' ')
    };
    let of = header.trim_start_matches(of_parameters);
    of.chars().take_while(|char| char.is_alphanumeric()).collect()
}

/// Where each number is named.
fn named() -> BTreeMap<u32, BTreeSet<Mention>> {
    let mut named: BTreeMap<u32, BTreeSet<Mention>> = BTreeMap::new();
    let mut directories = vec![root().join("src"), root().join("tests")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let shown = path.strip_prefix(root()).unwrap().display().to_string();
                for (number, mention) in mentions(&shown, &fs::read_to_string(&path).unwrap()) {
                    named.entry(number).or_default().insert(mention);
                }
            }
        }
    }
    named
}

/// The numbers that nothing of this kind names.
fn not_named_by(tests: bool) -> Vec<String> {
    let named = named();
    let is_named = |number: &u32| {
        named.get(number).is_some_and(|mentions| mentions.iter().any(|mention| mention.in_test == tests))
    };
    specified().iter().filter(|number| !is_named(number)).map(|number| format!("M{number}")).collect()
}

/// The parts of the specification within which a sentence begins and ends: paragraphs, items, rows.
fn blocks() -> Vec<String> {
    let text = fs::read_to_string(root().join("protocol.md")).unwrap();
    let mut blocks = vec![String::new()];
    let mut in_example = false;
    for line in text.lines().map(str::trim) {
        in_example ^= line.starts_with("```");
        let number = line.split_once(". ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        if line.is_empty() || in_example || number || line.starts_with(['|', '#']) || line.starts_with("- ") {
            blocks.push(String::new());
        }
        if in_example || line.starts_with("```") {
            continue;
        }
        let line = if number { line.split_once(". ").unwrap().1 } else { line.strip_prefix("- ").unwrap_or(line) };
        let block = blocks.last_mut().unwrap();
        block.push_str(if block.is_empty() { "" } else { " " });
        block.push_str(line);
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// Each requirement and its number.
fn requirements() -> BTreeMap<u32, String> {
    let mut requirements = BTreeMap::new();
    for block in blocks() {
        for (place, _) in block.match_indices("[M") {
            if let Some(number) = block[place + 1..].split_once(']').and_then(|(inner, _)| number(inner)) {
                requirements.insert(number, sentence(&block, place));
            }
        }
    }
    requirements
}

/// The sentence in which this place is, for a cell of a table of a page in `docs`.
fn sentence(block: &str, place: usize) -> String {
    let row: Vec<&str> = block.trim_matches('|').split(" | ").map(str::trim).collect();
    let sentence = if block.starts_with('|') {
        row.join(": ")
    } else {
        let start = block[..place].rfind(". ").map_or(0, |end| end + 2);
        let end = block[place..].find(". ").map_or(block.len(), |end| place + end + 1);
        block[start..end].to_owned()
    };
    let mut plain = String::new();
    for (count, part) in sentence.split(" [M").enumerate() {
        plain.push_str(if count == 0 { part } else { part.split_once(']').unwrap().1 });
    }
    plain.replace("](#", "](../protocol.md#").replace('|', "\\|")
}

/// The page that shows all of it.
fn page() -> String {
    let (requirements, named) = (requirements(), named());
    let mut page = include_str!("conformance.md").to_owned();
    let nothing = BTreeSet::new();
    for (number, requirement) in requirements {
        let mentions = named.get(&number).unwrap_or(&nothing);
        let links = |in_test: bool| {
            let those = mentions.iter().filter(|mention| mention.in_test == in_test);
            let links: Vec<String> = those.map(|Mention { path, item, .. }| format!("[`{item}`](../{path})")).collect();
            links.join(", ")
        };
        page.push_str(&format!("| M{number} | {requirement} | {} | {} |\n", links(false), links(true)));
    }
    page
}

/// One that is gone is not given to something else: the first ones have stayed.
#[test]
fn no_number_stands_for_two_requirements() {
    let mut seen = BTreeSet::new();
    for number in specified() {
        assert!(seen.insert(number), "M{number} comes twice");
    }
    assert!((1..=93).all(|number| seen.contains(&number)), "M1 to M93 are the first requirements");
}

#[test]
fn every_requirement_has_a_number() {
    let text = fs::read_to_string(root().join("protocol.md")).unwrap();
    // The introduction says what MUST stands for.
    let body = text.split_once("\n## 1 ").unwrap().1;
    for block in body.split("\n\n").flat_map(|block| block.split("\n- ")) {
        assert!(!block.contains("MUST") || block.contains("[M"), "no number: {block}");
    }
}

#[test]
fn every_number_is_named_by_a_test() {
    let missing = not_named_by(true);
    assert!(missing.is_empty(), "no test names {}", missing.join(", "));
}

#[test]
fn every_number_is_named_where_it_is_kept() {
    let missing = not_named_by(false);
    assert!(missing.is_empty(), "no code names {}", missing.join(", "));
}

#[test]
fn every_named_number_is_specified() {
    let specified: BTreeSet<u32> = specified().into_iter().collect();
    for (number, mentions) in named() {
        assert!(specified.contains(&number), "protocol.md does not have M{number}, named by {mentions:?}");
    }
}

#[test]
fn the_page_says_where_each_is_kept_and_tested() {
    let path = root().join("docs/conformance.md");
    let page = page();
    if std::env::var_os("FD_HANDOFF_WRITE").is_some() {
        return fs::write(path, page).unwrap();
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    assert!(found == page, "docs/conformance.md is not what sources and tests say: run this with FD_HANDOFF_WRITE=1");
}

#[test]
fn comments_are_read_as_they_are_meant() {
    assert_eq!(named_in("    // M1, M22"), [1, 22]);
    assert_eq!(named_in("// M1 and more"), []);
    assert_eq!(named_in("let m = 1; // M1"), []);
    let found = |path: &str, text: &str| -> Vec<(u32, String, bool)> {
        let mentions = mentions(path, text).into_iter();
        mentions.map(|(number, mention)| (number, mention.item, mention.in_test)).collect()
    };
    let (a, in_a) = ("tests/a.rs", "a".to_owned());
    let both = [(1, in_a.clone(), true), (2, in_a.clone(), true)];
    assert_eq!(found(a, "// M1\n#[test]\nfn a() {\n    // M2\n}\n"), both);
    assert_eq!(found(a, "// M1\n#[tokio::test]\nasync fn a() {}\n"), [(1, in_a.clone(), true)]);
    assert_eq!(found(a, "// M1\n\nfn a() {}\n"), []);
    let code = "/// Does.\n// M1\npub(crate) fn a() {}\n\nimpl<F: Fd> T<F> {\n    fn b() {\n        // M2\n        go();\n    }\n}\n\nconst C: u8 = 1;\n";
    assert_eq!(found("src/a.rs", code), [(1, in_a, false), (2, "T::b".to_owned(), false)]);
    assert_eq!(implemented("<F> Role for Taker<F> {"), "Taker");
}

#[test]
fn sentences_are_read_as_they_are_meant() {
    let block = "One. Two MUST be [M1], and MUST stay so [M2]. It is [M3]";
    assert_eq!(sentence(block, block.find("[M2").unwrap()), "Two MUST be, and MUST stay so.");
    assert_eq!(sentence(block, block.find("[M3").unwrap()), "It is");
    assert_eq!(sentence("| S dies | P: it MUST [M4] |", 17), "S dies: P: it MUST");
    let requirements = requirements();
    assert_eq!(requirements.keys().copied().collect::<BTreeSet<u32>>(), specified().into_iter().collect());
    for (number, requirement) in requirements {
        assert!(requirement.contains("MUST") || number == 47, "M{number}: {requirement}");
    }
}
