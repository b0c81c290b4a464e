//! What the measurements come to: sections of Markdown with their pictures, and ratios with their goals.

use std::path::Path;
use std::{fmt, fs, io};

use crate::machine;

/// Why ours is as far from the floor as it is: this is not measured but found by profiling.
const DISTANCE: &str = include_str!("distance.md");

/// Writes `benchmarks.md` and the pictures.
pub(crate) fn write(sections: &[Section], docs: &Path) -> io::Result<()> {
    for (name, svg) in sections.iter().flat_map(|section| &section.pictures) {
        fs::write(docs.join(name), svg)?;
    }
    fs::write(docs.join("benchmarks.md"), page(sections))
}

fn page(sections: &[Section]) -> String {
    let mut page = format!(
        "# Benchmarks\n\n{ABOUT}{}\n## Goals\n\n{JUDGED}{}\n## What the distance to the floor consists of\n\n{DISTANCE}",
        machine::description(),
        goals(sections)
    );
    for section in sections {
        page += &format!("\n## {}\n\n{}", section.title, section.text);
    }
    page
}

const ABOUT: &str = "\
fd-handoff beside its peers, on the same work in the same run. This page is written by one command, from figures that it \
has just measured:\n\n\
```sh\ncd benches/peers && cargo run --release\n```\n\n\
Every contestant is a small HTTP service on another library: the same one, but that pingora-core and the blocking form bring \
servers of their own. The *floor* is that service with the bare system \
calls: nothing is checked, no failure is survived, and nobody can look on. Absolute times say little on another machine; \
compare them within a table.\n\n";

const JUDGED: &str = "\
Each goal is a ratio within this run. `--quick` measures a part of it, and fails where a ratio of times is more than five \
times its goal, or a count is beyond it.\n\n";

/// Every ratio with its goal.
pub(crate) fn goals(sections: &[Section]) -> String {
    let verdicts = sections.iter().flat_map(|section| &section.verdicts);
    let head = "| | measured | at the most | |\n| --- | --- | --- | --- |\n".to_owned();
    verdicts.fold(head, |goals, verdict| goals + &format!("{verdict}\n"))
}

/// One measurement's part of `docs/benchmarks.md`.
#[derive(Debug, Default)]
pub(crate) struct Section {
    pub(crate) title: &'static str,
    /// Markdown: what was done, and the tables.
    pub(crate) text: String,
    /// File name and SVG, which the text refers to.
    pub(crate) pictures: Vec<(String, String)>,
    pub(crate) verdicts: Vec<Verdict>,
}

/// A ratio measured in this run, and what it may be at the most.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) what: String,
    pub(crate) ratio: f64,
    pub(crate) goal: f64,
    /// How many times its goal a ratio has to be to count as clearly broken.
    pub(crate) room: f64,
}

impl Verdict {
    /// A ratio of times, which has room: these machines are shared, and noisy.
    pub(crate) fn of_times(what: String, ratio: f64, goal: f64) -> Verdict {
        Verdict { what, ratio, goal, room: 5.0 }
    }

    /// Of what the machine's other load does not touch.
    pub(crate) fn of_counts(what: String, ratio: f64, goal: f64) -> Verdict {
        Verdict { what, ratio, goal, room: 1.0 }
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.ratio > self.goal * self.room
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.ratio <= self.goal { "met" } else { "**not met**" };
        write!(f, "| {} | {:.2} | {} | {word} |", self.what, self.ratio, self.goal)
    }
}

/// A table in Markdown.
#[derive(Debug)]
pub(crate) struct Table {
    lines: Vec<String>,
}

impl Table {
    pub(crate) fn new(columns: &[&str]) -> Table {
        let rule = columns.iter().map(|_| "---").collect::<Vec<_>>();
        Table { lines: vec![line(columns), line(&rule)] }
    }

    pub(crate) fn row(&mut self, cells: &[String]) {
        self.lines.push(line(cells));
    }
}

fn line<S: AsRef<str>>(cells: &[S]) -> String {
    cells.iter().fold(String::from("|"), |line, cell| line + " " + cell.as_ref() + " |")
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
