//! Many handoffs of one service under load, with a fault in each second one: nothing is lost, and nothing creeps.

use nix::sys::signal::Signal;

use crate::clients::{Check, require, until};
use crate::load::{self, Load};
use crate::process::{Place, Process, Program};
use crate::rows::{self, Count, Fault, Loss, Row, Scene, Side, Then};

/// How many handoffs, faulty ones included.
const HANDOFFS: u64 = 200;
/// The next handoff does not wait for the last one to be over.
const NO_PROBATION: &str = "probation=0";
/// From this generation on the processes are alike: each has inherited, and from one that had.
const ALIKE: u64 = 3;

/// What is said of a run that went well.
pub(crate) struct Summary {
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) answered: usize,
}

pub(crate) fn run(mut place: Place) -> Check<Summary> {
    let mut current = Process::start(&place, NO_PROBATION, None)?;
    place.listen = current.serves()?.listen;
    for generation in 2..=ALIKE {
        current = replace(&place, current, generation)?;
    }
    let descriptors = current.descriptors();

    let faults = harmless_faults();
    let load = Load::start(&place);
    let mut generation = ALIKE;
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    for handoff in 0..HANDOFFS {
        if handoff % 2 == 1 {
            fail(&place, faults[chance.below(faults.len())])?;
        } else {
            current = replace(&place, current, generation + 1)?;
            generation += 1;
        }
    }
    let samples = load.stop();
    let missed = samples.iter().find(|sample| sample.result.is_err());
    require(missed.is_none(), || format!("a request was lost: {missed:?}"))?;
    let last = load::ask(&place)?;
    let answered = samples.len() + 1;
    require(last.requests == answered as u64, || format!("{answered} answered, {} counted", last.requests))?;
    // Those of before may count the connection to a predecessor that had just ended.
    let same = || current.descriptors().is_subset(&descriptors).then_some(());
    until("no other descriptors are open than before", same)
        .map_err(|error| format!("{error}: {:?}, not {descriptors:?}", current.descriptors()))?;
    current.signal(Signal::SIGTERM);
    current.ended_well()?;
    let completed = generation - ALIKE;
    Ok(Summary { completed, failed: HANDOFFS - completed, answered })
}

/// The faults from which the predecessor goes on as if nothing had happened, at once.
fn harmless_faults() -> Vec<Row> {
    let harmless = |row: &Row| {
        row.scene == Scene::Handoff
            && row.side == Side::Successor
            // Whoever is told to stop has to be told while it initialises.
            && !matches!(row.fault, Fault::Stop | Fault::Term)
            && row.then == Then::Predecessor
            && (row.loss, row.count) == (Loss::None, Count::Exact)
            // Without probation nobody would take back.
            && (row.point, row.frame) != ("after-send", "active")
            && !["draining", "farewell"].contains(&row.frame)
    };
    rows::of(Program::Http).into_iter().filter(harmless).collect()
}

/// A successor that does not get to serve. Until the predecessor has noticed, it is busy.
fn fail(place: &Place, row: Row) -> Check {
    let mut successor = Process::start(place, "", Some(&row.order()))?;
    successor.ended().map_err(|error| format!("{}: {error}", row.line()))?;
    until("the predecessor has noticed", || place.status().ok()?["successor"].is_null().then_some(()))
        .map_err(|error| format!("{}: {error}", row.line()))
}

fn replace(place: &Place, mut current: Process, generation: u64) -> Check<Process> {
    let mut next = Process::start(place, NO_PROBATION, None)?;
    let found = next.serves()?.generation;
    require(found == generation, || format!("generation {found} instead of {generation}"))?;
    current.ended_well()?;
    Ok(next)
}

/// A sequence that looks random and is the same in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}
