//! Each numbered MUST of `protocol.md` is named by a test, in a comment `// M12` or `// M12, M13` above it or in it.

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

/// The numbers that the tests of one file name, each with its line. A comment counts where a test follows it
/// before the next blank line, or where a test has begun before it.
fn named_by_tests(text: &str) -> Vec<(u32, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let is_test = |line: &str| {
        let line = line.trim_start();
        let made = line.starts_with("forms! {") || line.starts_with("pairings! {");
        made || line.starts_with("#[") && line.trim_end_matches(']').split(['[', ':', '(']).any(|word| word == "test")
    };
    let is_by_a_test = |place: usize| {
        let below = lines[place..].iter().take_while(|line| !line.trim().is_empty());
        lines[..place].iter().any(|line| is_test(line)) || below.into_iter().any(|line| is_test(line))
    };
    let numbers = |(place, line): (usize, &&str)| {
        let by_a_test = is_by_a_test(place);
        named_in(line).into_iter().filter(move |_| by_a_test).map(move |number| (number, place + 1)).collect::<Vec<_>>()
    };
    lines.iter().enumerate().flat_map(numbers).collect()
}

/// Where each number is named.
fn named() -> BTreeMap<u32, String> {
    let mut named = BTreeMap::new();
    let mut directories = vec![root().join("src"), root().join("tests")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let shown = path.strip_prefix(root()).unwrap().display().to_string();
                for (number, line) in named_by_tests(&fs::read_to_string(&path).unwrap()) {
                    named.insert(number, format!("{shown}:{line}"));
                }
            }
        }
    }
    named
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
    let named = named();
    let missing: Vec<String> =
        specified().iter().filter(|number| !named.contains_key(number)).map(|number| format!("M{number}")).collect();
    assert!(missing.is_empty(), "no test names {}", missing.join(", "));
}

#[test]
fn every_named_number_is_specified() {
    let specified: BTreeSet<u32> = specified().into_iter().collect();
    for (number, place) in named() {
        assert!(specified.contains(&number), "{place} names M{number}, which protocol.md does not have");
    }
}

#[test]
fn comments_are_read_as_they_are_meant() {
    assert_eq!(named_in("    // M1, M22"), [1, 22]);
    assert_eq!(named_in("// M1 and more"), []);
    assert_eq!(named_in("let m = 1; // M1"), []);
    assert_eq!(named_by_tests("// M1\n#[test]\nfn a() {\n    // M2\n}\n"), [(1, 1), (2, 4)]);
    assert_eq!(named_by_tests("// M1\n#[tokio::test]\nfn a() {}\n"), [(1, 1)]);
    assert_eq!(named_by_tests("// M1\n\nfn a() {}\n"), []);
}
