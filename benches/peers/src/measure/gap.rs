//! The gap: how long nobody accepts, by how long the new generation initialises.

use std::thread::sleep;
use std::time::Duration;

use crate::client::Sample;
use crate::contestant::{ALL, Contestant};
use crate::draw::{Bar, bars};
use crate::figures::Figures;
use crate::load::{Clients, Load};
use crate::options::Options;
use crate::report::{Section, Table, Verdict};
use crate::run::{Outcome, Run};

const INITS: &[Duration] = &[Duration::ZERO, Duration::from_millis(100), Duration::from_millis(2_000)];
/// One request after the other, each on a connection of its own.
const PROBE: Clients = Clients { new: 1, kept: 0, rest: Duration::ZERO };
/// How long the probe asks before the trigger, for comparison.
const BEFORE: Duration = Duration::from_millis(200);
/// What an upgrade does to its clients may show when it is over.
const TAIL: Duration = Duration::from_millis(50);
/// The hand-over is from this long before one of them says that it serves, or is told, until this long after the other.
const AROUND: Duration = Duration::from_millis(10);
/// How long nobody may accept.
const SHORT: Duration = Duration::from_millis(1);
/// How many times as long the gap may be where the new generation initialises for long. One that depends on that would
/// be thousands of times as long; what the machine does in these few tenths of a millisecond is up to twice.
const LONGER: f64 = 3.0;

pub(crate) fn section(options: &Options) -> Section {
    let mut table = Table::new(&[
        "",
        "initialises, ms",
        "nobody accepts, ms",
        "longest wait: hand-over, ms",
        "before any upgrade, ms",
        "whole upgrade, ms",
    ]);
    let rows = measure(options);
    rows.iter().for_each(|row| table.row(&row.cells()));
    let picture = bars("The gap that a client feels at the hand-over", "longest wait for an answer", &groups(&rows));
    Section {
        title: "The gap",
        text: format!("{ABOUT}![the gap that a client feels](gap.svg)\n\n{table}"),
        pictures: vec![("gap.svg".to_owned(), picture)],
        verdicts: judge(&rows),
    }
}

fn groups(rows: &[Row]) -> Vec<(String, Vec<Bar>)> {
    let groups = rows.chunk_by(|row, next| row.init == next.init);
    let group = |rows: &[Row]| {
        let name = format!("The new generation initialises for {} ms", rows[0].init.as_millis());
        (name, rows.iter().map(|row| Bar::new(row.contestant, &row.hand_over)).collect())
    };
    groups.map(group).collect()
}

fn inits(options: &Options) -> Vec<Duration> {
    let goes = |init: &Duration| !options.quick || [INITS.first(), INITS.last()].contains(&Some(init));
    INITS.iter().copied().filter(goes).collect()
}

const ABOUT: &str = "*Nobody accepts* is what the services themselves say: from the old generation's stop until the new \
    one serves. It is not known where the library does not say when the old one stops. *Longest wait* is what a client \
    feels that asks one request after the other, each on a connection of its own, and again when one is lost: the longest \
    time between two answers. It is given for the hand-over (from 10 ms before the first of \"the old one is told\" and \
    \"the new one serves\" until 10 ms after the second), for 20 ms before the upgrade, which is what the machine does to \
    a client anyhow, and for the whole upgrade, where the machine has the more time to do so the longer it takes. Times \
    are a median, and in brackets the least and the greatest.\n\n";

/// One contestant, with one time to initialise.
struct Row {
    contestant: &'static Contestant,
    init: Duration,
    /// From the old one's stop until the new one served, and the other way round.
    nobody: Figures,
    both: Figures,
    /// The longest time between two answers: at the hand-over, before the trigger, and in the whole upgrade.
    hand_over: Figures,
    before: Figures,
    whole: Figures,
}

/// Every contestant in turn, round after round, so that what else the machine does meets all of them alike.
fn measure(options: &Options) -> Vec<Row> {
    // A quick run has time for what has a goal.
    let admits = |contestant: &&Contestant| {
        options.admits(contestant.name) && (!options.quick || contestant.is_ours() || contestant.is_floor())
    };
    let mut rows = Vec::new();
    for init in inits(options) {
        rows.extend(ALL.iter().filter(admits).map(|contestant| Row::new(contestant, init)));
    }
    for _ in 0..options.rounds(5, 3) {
        rows.iter_mut().for_each(Row::measure);
    }
    rows
}

impl Row {
    fn new(contestant: &'static Contestant, init: Duration) -> Row {
        Row {
            contestant,
            init,
            nobody: Figures::default(),
            both: Figures::default(),
            hand_over: Figures::default(),
            before: Figures::default(),
            whole: Figures::default(),
        }
    }

    fn measure(&mut self) {
        // Who has failed once would fail again, and take its time for it.
        if self.hand_over.trouble.is_some() {
            return;
        }
        if let Err(trouble) = self.once() {
            self.hand_over.add(Err(trouble));
        }
    }

    fn once(&mut self) -> Outcome<()> {
        let mut run = Run::start(self.contestant, |args| args.init = self.init)?;
        let addr = run.args.addresses().next().ok_or("no address")?;
        let old = run.pid;
        let probe = Load::begin(addr, PROBE);
        sleep(BEFORE);
        let upgrade = run.upgrade()?;
        sleep(TAIL);
        let samples = probe.end();

        let (first, last) = (upgrade.serving.min(upgrade.told), upgrade.serving.max(upgrade.told));
        let longest = |from, to| longest_wait(&samples, from, to).ok_or("no answers".to_owned());
        self.hand_over.add(longest(first - AROUND, last + AROUND));
        self.before.add(longest(upgrade.triggered - 3 * AROUND, upgrade.triggered - AROUND));
        self.whole.add(longest(upgrade.triggered, last + TAIL));
        if let Some(stopped) = run.heard("stopped", |pid| pid == old) {
            self.nobody.add(Ok(upgrade.serving.saturating_sub(stopped.at)));
            self.both.add(Ok(stopped.at.saturating_sub(upgrade.serving)));
        }
        Ok(())
    }

    fn cells(&self) -> [String; 6] {
        let overlap = self.both.median().is_some_and(|both| !both.is_zero());
        let nobody = if overlap { format!("none: both accept for {}", self.both) } else { self.nobody.to_string() };
        [
            self.contestant.name.to_owned(),
            self.init.as_millis().to_string(),
            nobody,
            self.hand_over.to_string(),
            self.before.to_string(),
            self.whole.to_string(),
        ]
    }
}

/// The longest time between an answer and the next one, of all such times that have touched the one from `from` to `to`.
fn longest_wait(samples: &[Sample], from: Duration, to: Duration) -> Option<Duration> {
    let answers: Vec<Duration> = samples.iter().filter(|sample| sample.result.is_ok()).map(Sample::ended).collect();
    let touching = answers.windows(2).filter(|pair| pair[0] <= to && pair[1] >= from);
    touching.map(|pair| pair[1] - pair[0]).max()
}

/// The gap is short, however long the new one initialises. By what the services say: what a client feels is for the
/// most part what the machine does to it anyhow.
fn judge(rows: &[Row]) -> Vec<Verdict> {
    let (Some(shortest), Some(longest)) = (INITS.first(), INITS.last()) else { return Vec::new() };
    let ours = rows.iter().filter(|row| row.contestant.is_ours() && row.init == *shortest);
    let verdicts = ours.filter_map(|at_once| {
        let name = at_once.contestant.name;
        let late = rows.iter().find(|row| row.contestant.name == name && row.init == *longest)?;
        let long = late.nobody.median()?.as_secs_f64() / SHORT.as_secs_f64();
        let longer = late.nobody.ratio(&at_once.nobody)?;
        Some([
            Verdict::of_times(format!("{name}: nobody accepts / 1 ms"), long, 1.0),
            Verdict::of_times(format!("{name}: gap at 2,000 ms / at 0 ms"), longer, LONGER),
        ])
    });
    verdicts.flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn sample(began: u64, took: u64, result: Result<(), ErrorKind>) -> Sample {
        Sample { began: millis(began), took: millis(took), result }
    }

    #[test]
    fn the_wait_goes_on_until_an_answer() {
        let refused = Err(ErrorKind::ConnectionRefused);
        let samples = [sample(0, 10, Ok(())), sample(10, 1, refused), sample(12, 1, refused), sample(14, 6, Ok(()))];
        assert_eq!(longest_wait(&samples, millis(0), millis(100)), Some(millis(10)));
    }

    #[test]
    fn only_the_waits_of_the_time_count() {
        let samples = [0, 50, 60, 80, 81].map(|began| sample(began, 0, Ok(())));
        assert_eq!(longest_wait(&samples, millis(55), millis(70)), Some(millis(20)));
        assert_eq!(longest_wait(&samples, millis(81), millis(90)), Some(millis(1)));
        assert_eq!(longest_wait(&samples, millis(90), millis(99)), None);
    }
}
