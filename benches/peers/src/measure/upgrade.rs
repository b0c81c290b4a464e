//! Upgrade time: from the trigger until the new generation serves, and until the old one is told.

use std::time::Duration;

use crate::contestant::{ALL, Contestant};
use crate::draw::{Bar, bars};
use crate::figures::Figures;
use crate::options::Options;
use crate::report::{Section, Table, Verdict};
use crate::run::{Outcome, Run};

/// One size, one contestant.
struct Row {
    contestant: &'static Contestant,
    listeners: usize,
    /// MiB resident in the old process.
    ballast: usize,
    /// From the first line of `main` until serving, on a cold start.
    cold: Figures,
    /// From the trigger to the first line of the new one's `main`.
    started: Figures,
    serving: Figures,
    told: Figures,
}

const ABOUT: &str = "\
From the trigger (a signal, or the start of the second process) until the new generation accepts on every listener, and \
until the old one is told so. Each round starts every contestant afresh, one after the other. A figure is the median, \
and in brackets the least and the most. *First line of `main`* is how long the new process took to start, which nobody \
can save; *cold start* is how long the same program takes from there until it serves when it inherits nothing.\n\n";
/// Listeners, and MiB resident in the old process.
const SIZES: &[(usize, usize)] = &[(1, 0), (100, 0), (1_000, 0), (10_000, 0), (1, 1_024)];
const QUICK_SIZES: &[(usize, usize)] = &[(1, 0), (1_000, 0)];
/// How many times as long an upgrade may take as the start of the process and its own initialisation.
const BESIDE_START: f64 = 1.2;

pub(crate) fn section(options: &Options) -> Section {
    let sizes = if options.quick { QUICK_SIZES } else { SIZES };
    let mut section = Section { title: "Upgrade time", text: ABOUT.to_owned(), ..Section::default() };
    let mut groups = Vec::new();
    for (listeners, ballast) in sizes {
        let rows = at_size(options, *listeners, *ballast);
        let heading = heading(*listeners, *ballast);
        section.text += &format!("### {heading}\n\n{}\n", table(&rows));
        section.verdicts.extend(judge(&heading, &rows));
        groups.push((heading, rows.iter().map(|row| Bar::new(row.contestant, &row.serving)).collect()));
    }
    section.text += "![upgrade time](upgrade.svg)\n";
    let picture = bars("From the trigger until the new generation serves", "upgrade time", &groups);
    section.pictures.push(("upgrade.svg".to_owned(), picture));
    section
}

fn heading(listeners: usize, ballast: usize) -> String {
    let listeners = if listeners == 1 { "1 listener".to_owned() } else { format!("{listeners} listeners") };
    if ballast == 0 { listeners } else { format!("{listeners}, {ballast} MiB resident in the old process") }
}

fn table(rows: &[Row]) -> Table {
    let mut table =
        Table::new(&["", "new one serves, ms", "old one told, ms", "first line of `main`, ms", "cold start, ms"]);
    rows.iter().for_each(|row| table.row(&row.cells()));
    table
}

/// Ours against the fastest of the peers, and against what starting the process costs in any case.
fn judge(heading: &str, rows: &[Row]) -> Vec<Verdict> {
    let peers = |row: &&Row| row.contestant.is_peer();
    let best = |figure: fn(&Row) -> &Figures| rows.iter().filter(peers).filter_map(|row| figure(row).median()).min();
    let against = |row: &Row, what, ours: &Figures, best: Option<Duration>| {
        let ratio = ours.median()?.as_secs_f64() / best?.as_secs_f64();
        let what = format!("{heading}: {}, {what} / the fastest peer", row.contestant.name);
        Some(Verdict::of_times(what, ratio, 1.0))
    };
    let start = |row: &Row| {
        // With ballast, the first generation's cold start is for the most part the making of that.
        if row.ballast > 0 {
            return None;
        }
        let start = row.started.median()? + row.cold.median()?;
        let ratio = row.serving.median()?.as_secs_f64() / start.as_secs_f64();
        let what = format!("{heading}: {}, upgrade / process start and its own initialisation", row.contestant.name);
        Some(Verdict::of_times(what, ratio, BESIDE_START))
    };
    let ours = rows.iter().filter(|row| row.contestant.is_ours());
    ours.flat_map(|row| {
        let serves = against(row, "new one serves", &row.serving, best(|row| &row.serving));
        let told = against(row, "old one told", &row.told, best(|row| &row.told));
        [serves, told, start(row)].into_iter().flatten()
    })
    .collect()
}

fn at_size(options: &Options, listeners: usize, ballast: usize) -> Vec<Row> {
    let row = |contestant| Row {
        contestant,
        listeners,
        ballast,
        cold: Figures::default(),
        started: Figures::default(),
        serving: Figures::default(),
        told: Figures::default(),
    };
    let mut rows: Vec<Row> = ALL.iter().filter(|contestant| options.admits(contestant.name)).map(row).collect();
    for _ in 0..options.rounds(9, 5) {
        rows.iter_mut().for_each(Row::measure);
    }
    rows
}

impl Row {
    fn measure(&mut self) {
        let (most, reason) = self.contestant.most_listeners;
        if self.listeners > most {
            self.serving.trouble = Some(format!("at most {most}: {reason}"));
            return;
        }
        // Who has failed once would fail again, and take its time for it.
        if self.serving.trouble.is_some() {
            return;
        }
        match self.once() {
            Ok([cold, started, serving, told]) => {
                self.cold.add(Ok(cold));
                self.started.add(Ok(started));
                self.serving.add(Ok(serving));
                self.told.add(Ok(told));
            }
            Err(trouble) => self.serving.trouble = Some(trouble),
        }
    }

    fn once(&self) -> Outcome<[Duration; 4]> {
        let mut run = Run::start(self.contestant, |args| {
            args.listeners = self.listeners;
            args.ballast = self.ballast;
        })?;
        let first = run.pid;
        let cold = run.wait("serving", |pid| pid == first)?.at - run.wait("main", |pid| pid == first)?.at;
        let upgrade = run.upgrade()?;
        let started = run.wait("main", |pid| pid == upgrade.pid)?.at;
        Ok([
            cold,
            started.saturating_sub(upgrade.triggered),
            upgrade.serving - upgrade.triggered,
            upgrade.told - upgrade.triggered,
        ])
    }

    fn cells(&self) -> [String; 5] {
        let [serving, told, started, cold] =
            [&self.serving, &self.told, &self.started, &self.cold].map(Figures::to_string);
        [self.contestant.name.to_owned(), serving, told, started, cold]
    }
}
