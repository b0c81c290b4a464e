//! At rest: what a library costs a service that nobody upgrades.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use crate::contestant::{ALL, Contestant};
use crate::figures::{Latency, median};
use crate::load::{Clients, Load};
use crate::options::Options;
use crate::proc::{Memory, Thread, threads};
use crate::report::{Section, Table, Verdict};
use crate::run::{Outcome, Run, end_of};

/// What the others are compared with: the same server without any library.
const WITHOUT: &str = "plain restart";
const SHOWN: &[&str] = &["fd-handoff (tokio)", "fd-handoff (blocking)", WITHOUT, "floor"];
/// Those with the same server, accepting on the same runtime.
const ASKED: &[&str] = &["fd-handoff (tokio)", WITHOUT, "floor"];
/// Whose threads can be compared, and the name of those that the library has started where they cannot.
const COMPARED: &str = "fd-handoff (tokio)";
const THREAD: &str = "fd-handoff";
/// tokio lets a thread for blocking work go when it has had nothing to do for 10 s.
const SETTLES: Duration = Duration::from_secs(11);
const CLIENTS: Clients = Clients { new: 4, kept: 4, rest: Duration::ZERO };
/// How long each service is asked in its turn.
const TURN: Duration = Duration::from_millis(200);
/// How many times as long the median request may take with the library.
const SLOWER: f64 = 1.1;

pub(crate) fn section(options: &Options) -> Section {
    let window = Duration::from_secs(if options.quick { 3 } else { 10 });
    let rows = sleepers(options, window);
    let mut resting =
        Table::new(&["", "generation", "threads", "resident, MiB", "of them its own, MiB", "wake-ups in a minute"]);
    rows.iter().for_each(|row| resting.row(&row.cells()));
    let latencies = latencies(options);
    let mut asked = Table::new(&["", "requests", "p50 / p99 / p99.9 / max, ms", "p50 / p50 without"]);
    latencies.iter().for_each(|served| asked.row(&served.cells(&latencies)));
    Section {
        title: "At rest",
        text: format!("{}{resting}\n{asked}", about(window)),
        verdicts: judge(&rows).into_iter().chain(judge_latency(&latencies)).collect(),
        ..Section::default()
    }
}

fn about(window: Duration) -> String {
    format!(
        "A service that nobody asks and nobody upgrades, beside the same one without a library, {} s after it has \
         started or has taken over: its threads by their names, its memory (`VmRSS`, `RssAnon`), and how often one of \
         its threads has run in {} s (the context switches of all of them), scaled to a minute; medians of some starts, \
         but of the wake-ups the most. With tokio, fd-handoff is tasks on the runtime that is there, and no thread. Its \
         blocking form has one thread, `fd-handoff`, which answers those who look on and sleeps until somebody connects; \
         the main thread waits in `superseded`, and the one more is the service's own, which accepts. Neither has a timer \
         while nothing is under way (`ARCHITECTURE.md`, \"How a call runs\"). More threads there are only for a time: for \
         state, tokio's own for blocking work, and `fd-handoff-end` while a successor is ended that has not taken over. \
         Then requests from {} clients that open a connection for each and {} that keep \
         theirs, without any upgrade, for {} ms of each service in its turn, started anew for it, and so on; the last \
         column compares the turn in the middle. The floor, which has the same server and no library either, shows how far two equal services differ.\n\n",
        SETTLES.as_secs(),
        window.as_secs(),
        CLIENTS.new,
        CLIENTS.kept,
        TURN.as_millis()
    )
}

/// One contestant, in its first generation or its second.
struct Row {
    contestant: &'static Contestant,
    generation: u32,
    /// One for each start.
    seen: Vec<Seen>,
    trouble: Option<String>,
}

/// A service at rest.
struct Seen {
    threads: Vec<Thread>,
    memory: Memory,
    /// How often its threads have run.
    per_minute: f64,
}

/// All services at once: whoever sleeps is in nobody's way.
fn sleepers(options: &Options, window: Duration) -> Vec<Row> {
    let taking_part = |contestant: &&Contestant| SHOWN.contains(&contestant.name) && options.admits(contestant.name);
    let rows = ALL.iter().filter(taking_part).flat_map(|contestant| [Row::new(contestant, 1), Row::new(contestant, 2)]);
    // There is no second generation without anything to hand over.
    let mut rows: Vec<Row> = rows.filter(|row| row.generation == 1 || row.contestant.name != WITHOUT).collect();
    let starts = options.rounds(5, 3);
    let running: Vec<Vec<Run>> = rows.iter_mut().map(|row| row.start(starts)).collect();
    sleep(SETTLES);
    let before: Vec<Vec<Outcome<Vec<Thread>>>> =
        running.iter().map(|runs| runs.iter().map(|run| threads(run.pid)).collect()).collect();
    sleep(window);
    for ((row, runs), before) in rows.iter_mut().zip(&running).zip(before) {
        for (run, before) in runs.iter().zip(before) {
            match before.and_then(|before| Seen::now(run.pid, &before, window)) {
                Ok(seen) => row.seen.push(seen),
                Err(trouble) => row.trouble = Some(trouble),
            }
        }
    }
    rows
}

impl Seen {
    fn now(pid: u32, before: &[Thread], window: Duration) -> Outcome<Seen> {
        // First of all: to be looked at wakes nobody.
        let threads = threads(pid)?;
        let per_minute = wakeups(before, &threads) as f64 * 60.0 / window.as_secs_f64();
        Ok(Seen { threads, memory: Memory::of(pid)?, per_minute })
    }
}

/// How often these threads have run from one look to the next. One that has ended meanwhile has run to do so.
fn wakeups(before: &[Thread], after: &[Thread]) -> u64 {
    let in_before = |id| before.iter().find(|thread| thread.id == id).map_or(0, |thread| thread.switches);
    let run: u64 = after.iter().map(|thread| thread.switches - in_before(thread.id)).sum();
    let ended = before.iter().filter(|thread| after.iter().all(|other| other.id != thread.id));
    run + ended.count() as u64
}

impl Row {
    fn new(contestant: &'static Contestant, generation: u32) -> Row {
        Row { contestant, generation, seen: Vec::new(), trouble: None }
    }

    fn start(&mut self, starts: usize) -> Vec<Run> {
        let runs: Outcome<Vec<Run>> = (0..starts).map(|_| self.start_one()).collect();
        runs.unwrap_or_else(|trouble| {
            self.trouble = Some(trouble);
            Vec::new()
        })
    }

    fn start_one(&self) -> Outcome<Run> {
        let mut run = Run::start(self.contestant, |_| ())?;
        for _ in 1..self.generation {
            let old = end_of(run.pid)?;
            run.upgrade()?;
            old.join().map_err(|_| "nobody saw the old process end")?;
        }
        Ok(run)
    }

    fn threads(&self) -> Option<usize> {
        median(&self.seen.iter().map(|seen| seen.threads.len()).collect::<Vec<_>>())
    }

    fn threads_of_the_library(&self) -> Option<usize> {
        let of = |seen: &Seen| seen.threads.iter().filter(|thread| thread.name.starts_with(THREAD)).count();
        self.seen.iter().map(of).max()
    }

    fn per_minute(&self) -> Option<f64> {
        self.seen.iter().map(|seen| seen.per_minute).reduce(f64::max)
    }

    fn cells(&self) -> [String; 6] {
        let mib = |of: fn(&Memory) -> u64| {
            let kib = median(&self.seen.iter().map(|seen| of(&seen.memory)).collect::<Vec<u64>>());
            kib.map_or("–".to_owned(), |kib| format!("{:.2}", kib as f64 / 1_024.0))
        };
        let threads = match (&self.trouble, self.seen.iter().max_by_key(|seen| seen.threads.len())) {
            (Some(trouble), _) => trouble.clone(),
            (None, Some(most)) => format!("{}: {}", most.threads.len(), names(&most.threads)),
            (None, None) => "–".to_owned(),
        };
        [
            self.contestant.name.to_owned(),
            self.generation.to_string(),
            threads,
            mib(|memory| memory.resident),
            mib(|memory| memory.anon),
            self.per_minute().map_or("–".to_owned(), |count| format!("{count:.0}")),
        ]
    }
}

/// `2 × worker, main`.
fn names(threads: &[Thread]) -> String {
    let mut counts = BTreeMap::new();
    threads.iter().for_each(|thread| *counts.entry(thread.name.as_str()).or_insert(0) += 1);
    let name =
        |(name, count): (&str, i32)| if count == 1 { format!("`{name}`") } else { format!("{count} × `{name}`") };
    counts.into_iter().map(name).collect::<Vec<_>>().join(", ")
}

/// With tokio it needs no thread, without it one; and nobody wakes up who has nothing to do.
fn judge(rows: &[Row]) -> Vec<Verdict> {
    let without = rows.iter().find(|row| row.contestant.name == WITHOUT).and_then(Row::threads);
    let judge = |row: &Row| {
        let of = format!("{}, generation {}", row.contestant.name, row.generation);
        let threads = if row.contestant.name == COMPARED {
            let more = row.threads()? as f64 - without? as f64;
            Verdict::of_counts(format!("{of}: threads more than without"), more, 0.0)
        } else {
            let own = row.threads_of_the_library()? as f64;
            Verdict::of_counts(format!("{of}: threads of the library"), own, 1.0)
        };
        Some([threads, Verdict::of_counts(format!("{of}: wake-ups in a minute"), row.per_minute()?, 0.0)])
    };
    rows.iter().filter(|row| row.contestant.is_ours()).filter_map(judge).flatten().collect()
}

/// One contestant's requests.
struct Served {
    contestant: &'static Contestant,
    /// Of all rounds.
    latency: Latency,
    /// The median request of each round.
    medians: Vec<Duration>,
    trouble: Option<String>,
}

/// Every contestant in turn, round after round.
fn latencies(options: &Options) -> Vec<Served> {
    let asked = |contestant: &&Contestant| ASKED.contains(&contestant.name) && options.admits(contestant.name);
    let mut served: Vec<Served> = ALL.iter().filter(asked).map(Served::new).collect();
    let count = served.len();
    for round in 0..options.rounds(50, 25) {
        // Each of them is the first as often as the others.
        (0..count).for_each(|turn| served[(round + turn) % count].measure());
    }
    served
}

impl Served {
    fn new(contestant: &'static Contestant) -> Served {
        Served { contestant, latency: Latency::new(), medians: Vec::new(), trouble: None }
    }

    fn measure(&mut self) {
        // Who has failed once would fail again, and take its time for it.
        if self.trouble.is_none() {
            self.trouble = self.once().err();
        }
    }

    /// A service of its own: with one for all turns, two equal programs came out up to a fifth apart.
    fn once(&mut self) -> Outcome<()> {
        let run = Run::start(self.contestant, |_| ())?;
        let addr = run.args.addresses().next().ok_or("no address")?;
        let load = Load::begin(addr, CLIENTS);
        sleep(TURN);
        let samples = load.end();
        if let Some(error) = samples.iter().find_map(|sample| sample.result.err()) {
            return Err(format!("a request failed: {error}"));
        }
        samples.iter().for_each(|sample| self.latency.add(sample.took));
        self.medians.extend(median(&samples.iter().map(|sample| sample.took).collect::<Vec<_>>()));
        Ok(())
    }

    /// By the medians over the rounds: a round that the machine has spoilt does not count.
    fn slower(&self, all: &[Served]) -> Option<f64> {
        let without = all.iter().find(|served| served.contestant.name == WITHOUT)?;
        let (with, without) = (median(&self.medians)?, median(&without.medians)?);
        Some(with.as_secs_f64() / without.as_secs_f64())
    }

    fn cells(&self, all: &[Served]) -> [String; 4] {
        let count = self.latency.count().to_string();
        [
            self.contestant.name.to_owned(),
            self.trouble.as_ref().map_or(count.clone(), |trouble| format!("{count}, {trouble}")),
            self.latency.to_string(),
            self.slower(all).map_or("–".to_owned(), |slower| format!("{slower:.2}")),
        ]
    }
}

fn judge_latency(all: &[Served]) -> Option<Verdict> {
    let ours = all.iter().find(|served| served.contestant.is_ours())?;
    let what = format!("{}: p50 of a request / without", ours.contestant.name);
    Some(Verdict::of_times(what, ours.slower(all)?, SLOWER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(id: u32, name: &str, switches: u64) -> Thread {
        Thread { id, name: name.to_owned(), switches }
    }

    #[test]
    fn a_thread_that_comes_or_goes_has_run() {
        let before = [thread(1, "main", 5), thread(2, "gone", 9)];
        let after = [thread(1, "main", 5), thread(3, "new", 2)];
        assert_eq!(wakeups(&before, &before), 0);
        assert_eq!(wakeups(&before, &after), 3);
    }

    #[test]
    fn threads_are_counted_by_name() {
        let threads = [thread(1, "main", 0), thread(2, "worker", 0), thread(3, "worker", 0)];
        assert_eq!(names(&threads), "`main`, 2 × `worker`");
    }
}
