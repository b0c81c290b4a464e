//! State: how long it takes to the new generation, and how often it is in memory on the way.

use std::time::Duration;

use peers::{now, resident, write_once};

use crate::contestant::{ALL, Contestant};
use crate::draw::{Bar, bars};
use crate::figures::{Figures, median};
use crate::options::Options;
use crate::proc::Memory;
use crate::report::{Section, Table, Verdict};
use crate::run::{Outcome, Run};

/// MiB. The goals are for the last one, in a quick run for the one in the middle.
const SIZES: &[usize] = &[1, 64, 1_024];
/// What the new process does when it has read the state: it still has all of it while its memory is looked at.
const INIT: Duration = Duration::from_millis(200);
const WRITING: &str = "writing it once into a memfd";
/// How many times as long as writing it once it may take to arrive.
const LONGER: f64 = 1.3;
/// How much of the state the new process may have in memory of its own: what is no second copy.
const COPY: f64 = 0.125;

pub(crate) fn section(options: &Options) -> Section {
    let sizes = if options.quick { &SIZES[1..2] } else { SIZES };
    let sizes: Vec<Size> = sizes.iter().map(|mib| Size::measure(options, *mib)).collect();
    let mut table = Table::new(&[
        "",
        "MiB",
        "the new one has it, ms",
        "times as long as writing",
        "has read it, ms",
        "MiB/s",
        "new process: peak, MiB",
        "its own",
        "shared",
        "old process: peak, MiB",
        "grown by",
    ]);
    sizes.iter().flat_map(Size::cells).for_each(|cells| table.row(&cells));
    let groups: Vec<(String, Vec<Bar>)> = sizes.iter().map(Size::bars).collect();
    let picture = bars("State for the new generation", "from the trigger until it has read it all", &groups);
    Section {
        title: "State",
        text: format!("{ABOUT}![how long state takes](state.svg)\n\n{table}"),
        pictures: vec![("state.svg".to_owned(), picture)],
        verdicts: sizes.last().map(Size::judge).unwrap_or_default(),
    }
}

const ABOUT: &str = "Raw bytes that the old process has in memory go to the new one by the way that each library has for \
    state: a memfd for fd-handoff and the floor, a pipe for shellflip; the others have none. Times are from the trigger, \
    so the start of the new process is in them: until it *has* the state, and until it has *read* every byte. Beside them \
    is what nothing below a copy can avoid: to write the same bytes once into a fresh memfd, by a process that does nothing \
    else, right before each trigger. *Times as long* is the median over these pairs. MiB/s is by the time to the last byte read. *Its own* is what the new process has \
    that it shares with nobody (`RssAnon`, or where that is more, what its peak `VmHWM` says beyond what it shares or \
    has of files), *shared* is what it has mapped of the memfd (`RssShmem`), whose pages are there once for both \
    processes. The old process's growth is its peak over that before the trigger: a memfd that is written and not mapped \
    is in no process's figures. Times are a median, and in brackets the least and the greatest; memory is a median.\n\n";

/// Every contestant with a state of one size.
struct Size {
    mib: usize,
    /// Writing it once, by the harness itself.
    writing: Figures,
    rows: Vec<Row>,
}

/// One contestant.
struct Row {
    contestant: &'static Contestant,
    /// From the trigger.
    arrived: Figures,
    read: Figures,
    /// Until it has arrived, as a multiple of the writing right before.
    longer: Vec<f64>,
    memory: Vec<Footprint>,
}

/// KiB at the most.
struct Footprint {
    new: u64,
    new_own: u64,
    new_shared: u64,
    old: u64,
    old_grown: u64,
}

impl Size {
    /// Every contestant in turn, round after round, so that what else the machine does meets all of them alike.
    fn measure(options: &Options, mib: usize) -> Size {
        let taking_part = |contestant: &&Contestant| contestant.gives_state && options.admits(contestant.name);
        let rows = ALL.iter().filter(taking_part).map(Row::new).collect();
        let mut size = Size { mib, writing: Figures::default(), rows };
        let state = resident(mib);
        for _ in 0..options.rounds(5, 5) {
            size.rows.iter_mut().for_each(|row| row.measure(&state, &mut size.writing));
        }
        size
    }

    fn cells(&self) -> Vec<[String; 11]> {
        let mut writing = [const { String::new() }; 11];
        [writing[0], writing[1], writing[2]] = [WRITING.to_owned(), self.mib.to_string(), self.writing.to_string()];
        writing[5] = self.per_second(&self.writing);
        std::iter::once(writing).chain(self.rows.iter().map(|row| row.cells(self))).collect()
    }

    fn per_second(&self, figures: &Figures) -> String {
        figures.median().map_or("–".to_owned(), |time| format!("{:.0}", self.mib as f64 / time.as_secs_f64()))
    }

    fn bars(&self) -> (String, Vec<Bar>) {
        let writing = Bar::beside(WRITING, &self.writing);
        let rows = self.rows.iter().map(|row| Bar::new(row.contestant, &row.read));
        (format!("{} MiB", self.mib), std::iter::once(writing).chain(rows).collect())
    }

    /// It is written once, and nobody makes a copy of it.
    fn judge(&self) -> Vec<Verdict> {
        let mib = self.mib;
        let judge = |row: &Row| {
            let name = row.contestant.name;
            let longer = median(&row.longer)?;
            let own = row.kib(|memory| memory.new_own)? as f64 / 1_024.0 / mib as f64;
            Some([
                Verdict::of_times(format!("{name}: {mib} MiB arrived / {WRITING}"), longer, LONGER),
                Verdict::of_times(format!("{name}: the new one's own memory / {mib} MiB"), own, COPY),
            ])
        };
        self.rows.iter().filter(|row| row.contestant.is_ours()).filter_map(judge).flatten().collect()
    }
}

fn time_writing(state: &[u8]) -> Outcome<Duration> {
    let began = now();
    let memfd = write_once(state).map_err(|error| error.to_string())?;
    let took = now() - began;
    drop(memfd);
    Ok(took)
}

impl Row {
    fn new(contestant: &'static Contestant) -> Row {
        Row {
            contestant,
            arrived: Figures::default(),
            read: Figures::default(),
            longer: Vec::new(),
            memory: Vec::new(),
        }
    }

    fn measure(&mut self, state: &[u8], writing: &mut Figures) {
        // Who has failed once would fail again, and take its time for it.
        if self.read.trouble.is_some() {
            return;
        }
        if let Err(trouble) = self.once(state, writing) {
            self.read.add(Err(trouble));
        }
    }

    fn once(&mut self, state: &[u8], writing: &mut Figures) -> Outcome<()> {
        // Held until the last moment, so that the writing and the service both find pages that have just been freed: a
        // hypervisor may take away what is free for long, and others have to come from it first.
        let reserve = [write_once(state), write_once(state)];
        let mut run = Run::start(self.contestant, |args| {
            args.state = state.len() >> 20;
            args.init = INIT;
        })?;
        let old = run.pid;
        let old_before = Memory::of(old)?;
        drop(reserve);
        let written = time_writing(state)?;
        let triggered = run.begin_upgrade()?;
        let arrived = run.wait("arrived", |pid| pid != old)?;
        let at_arrival = Memory::of(arrived.pid)?;
        let read = run.wait("state", |pid| pid == arrived.pid)?;
        let (new_after, old_after) = (Memory::of(read.pid)?, Memory::of(old)?);
        run.end_upgrade(triggered)?;

        writing.add(Ok(written));
        self.longer.push((arrived.at - triggered).as_secs_f64() / written.as_secs_f64());
        self.arrived.add(Ok(arrived.at - triggered));
        self.read.add(Ok(read.at - triggered));
        self.memory.push(Footprint {
            new: new_after.peak,
            new_own: at_arrival.peak_of_its_own().max(new_after.anon),
            new_shared: new_after.shared,
            old: old_after.peak,
            old_grown: old_after.peak - old_before.peak,
        });
        Ok(())
    }

    fn kib(&self, of: impl Fn(&Footprint) -> u64) -> Option<u64> {
        median(&self.memory.iter().map(of).collect::<Vec<u64>>())
    }

    fn cells(&self, size: &Size) -> [String; 11] {
        let mib = |of: fn(&Footprint) -> u64| {
            self.kib(of).map_or("–".to_owned(), |kib| format!("{:.1}", kib as f64 / 1_024.0))
        };
        [
            self.contestant.name.to_owned(),
            size.mib.to_string(),
            self.arrived.to_string(),
            median(&self.longer).map_or("–".to_owned(), |longer| format!("{longer:.2}")),
            self.read.to_string(),
            size.per_second(&self.read),
            mib(|memory| memory.new),
            mib(|memory| memory.new_own),
            mib(|memory| memory.new_shared),
            mib(|memory| memory.old),
            mib(|memory| memory.old_grown),
        ]
    }
}
