//! Lost requests: one upgrade after the other under load, and what its clients noticed.

use std::thread::sleep;
use std::time::Duration;

use crate::client::Sample;
use crate::contestant::{ALL, Contestant};
use crate::figures::Latency;
use crate::load::{Clients, Load, Losses};
use crate::options::Options;
use crate::report::{Section, Table, Verdict};
use crate::run::{Outcome, Run};

/// Clients of either kind. Every contestant gets the first load, ours and the floor the others as well.
const LOADS: &[usize] = &[4, 1, 16];
/// What an upgrade does to its clients may show when it is over.
const TAIL: Duration = Duration::from_millis(50);
/// The time between two windows, for comparison.
const BETWEEN: Duration = Duration::from_millis(300);
/// How many times as long requests may take while an upgrade is under way.
const SLOWER: f64 = 2.0;

pub(crate) fn section(options: &Options) -> Section {
    let upgrades = options.rounds(20, 3);
    let mut table = Table::new(&[
        "",
        "clients",
        "upgrades",
        "requests",
        "refused",
        "reset",
        "failed",
        "inside: p50 / p99 / p99.9 / max, ms",
        "outside: p50 / p99 / p99.9 / max, ms",
    ]);
    let mut verdicts = Vec::new();
    for contestant in ALL.iter().filter(|contestant| options.admits(contestant.name)) {
        let rows: Vec<Row> =
            loads(options, contestant).iter().map(|load| measure(contestant, *load, upgrades)).collect();
        rows.iter().for_each(|row| table.row(&row.cells()));
        if contestant.is_ours() {
            verdicts.extend(judge(contestant.name, &rows));
        }
    }
    Section { title: "Lost requests", text: format!("{}{table}", about(upgrades)), verdicts, ..Section::default() }
}

fn about(upgrades: usize) -> String {
    let (tail, between) = (TAIL.as_millis(), BETWEEN.as_millis());
    format!(
        "{upgrades} upgrades in a row of one running service, over loopback, under load without a pause: as many clients \
         that open a connection for each request as clients that keep theirs. *Inside* are the requests that were under \
         way at some time from an upgrade's trigger until {tail} ms after the new generation served and the old one was \
         told, *outside* those of the {between} ms in between. A connection that is closed after an answer that said so \
         is no loss; one that ends under a request, or before its client could know, is.\n\n"
    )
}

fn loads(options: &Options, contestant: &Contestant) -> &'static [usize] {
    let all = (contestant.is_ours() || contestant.is_floor()) && !options.quick;
    if all { LOADS } else { &LOADS[..1] }
}

/// One contestant under one load.
struct Row {
    name: &'static str,
    clients: usize,
    upgrades: usize,
    requests: usize,
    losses: Losses,
    inside: Latency,
    outside: Latency,
    trouble: Option<String>,
}

fn measure(contestant: &Contestant, clients: usize, upgrades: usize) -> Row {
    let mut windows = Vec::new();
    let (samples, trouble) = match under_load(contestant, clients, upgrades, &mut windows) {
        Ok((samples, trouble)) => (samples, trouble),
        Err(trouble) => (Vec::new(), Some(trouble)),
    };
    let (inside, outside) = by_window(&samples, &windows);
    Row {
        name: contestant.name,
        clients,
        upgrades: windows.len(),
        requests: samples.len(),
        losses: Losses::of(&samples),
        inside,
        outside,
        trouble,
    }
}

/// The requests, and the trouble that has ended the upgrades early.
fn under_load(
    contestant: &Contestant,
    clients: usize,
    upgrades: usize,
    windows: &mut Vec<Window>,
) -> Outcome<(Vec<Sample>, Option<String>)> {
    let mut run = Run::start(contestant, |_| ())?;
    let addr = run.args.addresses().next().ok_or("no address")?;
    let load = Load::begin(addr, Clients { new: clients, kept: clients, rest: Duration::ZERO });
    sleep(BETWEEN);
    let mut trouble = None;
    for _ in 0..upgrades {
        match run.upgrade() {
            Ok(upgrade) => windows.push((upgrade.triggered, upgrade.serving.max(upgrade.told) + TAIL)),
            Err(error) => {
                trouble = Some(error);
                break;
            }
        }
        sleep(TAIL + BETWEEN);
    }
    // The service goes on until its clients have ended.
    Ok((load.end(), trouble))
}

type Window = (Duration, Duration);

/// The latency of the requests that have touched a window, and of the others.
fn by_window(samples: &[Sample], windows: &[Window]) -> (Latency, Latency) {
    let (mut inside, mut outside) = (Latency::new(), Latency::new());
    for sample in samples.iter().filter(|sample| sample.result.is_ok()) {
        let touches = windows.iter().any(|(from, to)| sample.overlaps(*from, *to));
        if touches { &mut inside } else { &mut outside }.add(sample.took);
    }
    (inside, outside)
}

impl Row {
    /// How many times as long the slowest hundredth takes inside.
    fn slower(&self) -> f64 {
        self.inside.at(0.99).as_secs_f64() / self.outside.at(0.99).as_secs_f64()
    }

    fn cells(&self) -> [String; 9] {
        let upgrades = match &self.trouble {
            Some(trouble) => format!("{}, then: {trouble}", self.upgrades),
            None => self.upgrades.to_string(),
        };
        [
            self.name.to_owned(),
            format!("{0} + {0}", self.clients),
            upgrades,
            self.requests.to_string(),
            self.losses.refused.to_string(),
            self.losses.reset.to_string(),
            self.losses.failed.to_string(),
            self.inside.to_string(),
            self.outside.to_string(),
        ]
    }
}

/// Over all loads: nothing is lost, also where an upgrade fails, and at the worst of them no request takes long.
fn judge(name: &str, rows: &[Row]) -> [Verdict; 2] {
    let lost: usize = rows.iter().map(|row| row.losses.total() + usize::from(row.trouble.is_some())).sum();
    let slower = rows.iter().map(Row::slower).fold(0.0, f64::max);
    [
        Verdict::of_counts(format!("{name}: requests lost"), lost as f64, 0.0),
        Verdict::of_times(format!("{name}: p99 inside / p99 outside, worst load"), slower, SLOWER),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(began: u64, took: u64) -> Sample {
        Sample { began: Duration::from_millis(began), took: Duration::from_millis(took), result: Ok(()) }
    }

    #[test]
    fn a_request_that_touches_a_window_is_inside() {
        let window = (Duration::from_millis(100), Duration::from_millis(200));
        let samples =
            [sample(50, 10), sample(80, 30), sample(120, 5), sample(190, 50), sample(201, 7), sample(90, 200)];
        let (inside, outside) = by_window(&samples, &[window]);
        assert_eq!((inside.count(), outside.count()), (4, 2));
        assert_eq!(outside.to_string(), "7.00 / 10.0 / 10.0 / 10.0");
    }

    #[test]
    fn a_lost_request_has_no_latency() {
        let lost = Sample { result: Err(std::io::ErrorKind::ConnectionReset), ..sample(0, 1) };
        let (inside, outside) = by_window(&[lost], &[(Duration::ZERO, Duration::MAX)]);
        assert_eq!((inside.to_string(), outside.to_string()), ("–".to_owned(), "–".to_owned()));
    }
}
