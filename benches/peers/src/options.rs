//! The command line of the harness.

use lexopt::prelude::*;

/// What to measure, and how often.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// `--quick`: a few rounds of what has a goal.
    pub(crate) quick: bool,
    /// `--only`: these measurements; all where there are none.
    pub(crate) only: Vec<String>,
    /// `--contestants`: those whose names have one of these in them; all where there are none.
    pub(crate) contestants: Vec<String>,
    /// `--rounds`: instead of each measurement's own number.
    pub(crate) rounds: Option<usize>,
}

impl Options {
    /// From the command line of this process. Ends it, with a message, where that makes no sense.
    pub(crate) fn parse() -> Options {
        peers::parsed(Options::read)
    }

    fn read(mut parser: lexopt::Parser) -> Result<Options, lexopt::Error> {
        let mut options = Options::default();
        while let Some(option) = parser.next()? {
            match option {
                Long("quick") => options.quick = true,
                Long("only") => options.only = words(&parser.value()?.string()?),
                Long("contestants") => options.contestants = words(&parser.value()?.string()?),
                Long("rounds") => options.rounds = Some(parser.value()?.parse()?),
                _ => return Err(option.unexpected()),
            }
        }
        Ok(options)
    }

    pub(crate) fn wants(&self, measurement: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == measurement)
    }

    /// Whether this is a run of everything, of which a report is made.
    pub(crate) fn is_whole(&self) -> bool {
        !self.quick && self.only.is_empty() && self.contestants.is_empty()
    }

    /// Whether a contestant of this name takes part.
    pub(crate) fn admits(&self, name: &str) -> bool {
        self.contestants.is_empty() || self.contestants.iter().any(|part| name.contains(part.as_str()))
    }

    /// How many rounds: as many as were asked for, or else one of these.
    pub(crate) fn rounds(&self, full: usize, quick: usize) -> usize {
        self.rounds.unwrap_or(if self.quick { quick } else { full })
    }
}

fn words(list: &str) -> Vec<String> {
    list.split(',').map(str::to_owned).collect()
}
