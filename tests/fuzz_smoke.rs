//! What the fuzzers run, on a plain compiler: over the corpus, and over inputs from a generator with a fixed seed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../fuzz/bodies/endings.rs"]
mod endings;
#[path = "../fuzz/bodies/frames.rs"]
mod frames;
#[path = "../fuzz/bodies/inspectors.rs"]
mod inspectors;
#[path = "../fuzz/bodies/made.rs"]
mod made;
#[path = "../fuzz/bodies/operations.rs"]
mod operations;

use std::path::Path;

#[test]
fn the_corpus_of_endings() {
    over_corpus("endings", endings::run);
}

#[test]
fn the_corpus_of_frames() {
    over_corpus("frames", frames::run);
}

#[test]
fn the_corpus_of_inspectors() {
    over_corpus("inspectors", inspectors::run);
}

#[test]
fn the_corpus_of_operations() {
    over_corpus("operations", operations::run);
}

#[test]
fn frames_at_random() {
    let corpus = corpus("frames");
    let mut random = Random(1);
    for _ in 0..800 {
        // Noise alone hardly ever parses: most inputs are mistakes made in good ones.
        let mut input = corpus[random.below(corpus.len())].1.clone();
        for _ in 0..random.below(6) {
            random.spoil(&mut input);
        }
        // Long lines are in the corpus, and slow.
        if let Some(first) = input.first_mut() {
            *first &= 0x3f;
        }
        frames::run(&input);
    }
}

#[test]
fn endings_at_random() {
    let corpus = corpus("endings");
    let mut random = Random(4);
    for _ in 0..20_000 {
        // What happens in any order hardly ever comes to an end: most inputs are a way there, and things that come between.
        let mut input = corpus[random.below(corpus.len())].1.clone();
        input[0] = random.byte();
        for _ in 0..random.below(6) {
            let place = 1 + 2 * random.below(input.len() / 2 + 1);
            let operation = [random.byte(), random.byte()];
            let others = if random.below(3) == 0 { place..(place + 2).min(input.len()) } else { place..place };
            input.splice(others, operation);
        }
        endings::run(&input);
    }
}

#[test]
fn inspectors_at_random() {
    let mut random = Random(3);
    for _ in 0..200 {
        let length = 2 * random.below(60);
        let input: Vec<u8> = (0..length).map(|_| random.byte()).collect();
        inspectors::run(&input);
    }
}

#[test]
fn operations_at_random() {
    let mut random = Random(2);
    for _ in 0..2_000 {
        let length = 1 + 2 * random.below(120);
        let input: Vec<u8> = (0..length).map(|_| random.byte()).collect();
        operations::run(&input);
    }
}

fn over_corpus(target: &str, run: impl Fn(&[u8])) {
    for (name, input) in corpus(target) {
        eprintln!("{target}/{name}");
        run(&input);
    }
}

/// The inputs, by their files' names.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() > 10, "the corpus is missing");
    files.sort();
    let read = |path: &std::path::PathBuf| {
        (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap())
    };
    files.iter().map(read).collect()
}

/// The same numbers each time (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// Makes one mistake.
    fn spoil(&mut self, input: &mut Vec<u8>) {
        let place = self.below(input.len());
        match self.below(4) {
            0 => input.insert(place, self.byte()),
            1 if !input.is_empty() => drop(input.remove(place)),
            2 if !input.is_empty() => input[place] = self.byte(),
            _ => {
                let part = input[place..].to_vec();
                input.extend(part);
            }
        }
    }
}
