//! What the guides show of files that are shipped stands so in those files, which other tests run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::fs;
use std::path::Path;

/// The blocks of code of these languages in a page.
fn blocks<'a>(page: &'a str, languages: &[&str]) -> Vec<&'a str> {
    let parts: Vec<&str> = page.split("```").collect();
    let blocks = parts.iter().skip(1).step_by(2);
    blocks
        .filter_map(|block| block.split_once('\n'))
        .filter(|(language, _)| languages.contains(language))
        .map(|(_, code)| code)
        .collect()
}

#[test]
fn the_guide_on_containers_shows_what_is_in_the_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/containers.md")).unwrap();
    let files = fs::read_dir(root.join("examples/containers")).unwrap();
    let files: Vec<String> = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    let blocks = blocks(&page, &["yaml", "dockerfile", "sh"]);
    assert!(blocks.len() > 8, "{blocks:?}");
    for block in blocks {
        assert!(files.iter().any(|file| file.contains(block)), "in no file of examples/containers:\n{block}");
    }
}
