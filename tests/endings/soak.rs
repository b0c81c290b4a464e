//! Many handoffs in a row under load, with an ending in each second one: nothing is refused, and every count is exact whose
//! holder lived.

use std::collections::BTreeSet;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::Rows;
use crate::clients::{Check, require, until};
use crate::crashes::ENDINGS;
use crate::load::{self, Load};
use crate::process::{Form, Process, World};

/// How many handoffs, those that fail included.
const HANDOFFS: u64 = 200;
/// How many clients, and how many requests each makes on a connection.
const CLIENTS: usize = 3;
const REQUESTS: usize = 3;
/// How many handoffs there are between two looks at the count, where nobody dies who holds it.
const SEGMENT: u64 = 8;
/// Long enough to be there when a successor dies that has just begun to serve.
const WORDS: &str = "probation=3000";

/// What happens in a handoff.
#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    /// The new process ends in this way while it initialises.
    Initialising(&'static str),
    /// It is sent this while it initialises.
    Signalled(Signal),
    /// It ends in this way once the service is its own.
    Ready(&'static str),
    /// It ends in this way while it serves.
    Serving(&'static str),
    /// The old process ends in this way while the new one initialises.
    Predecessor(&'static str),
    /// The old process is told to stop meanwhile.
    PredecessorStops,
}

impl Fault {
    /// Whether a process ends without a word that has answered requests.
    fn loses_count(self) -> bool {
        matches!(self, Fault::Serving(_) | Fault::Predecessor(_))
    }

    fn all() -> Vec<Fault> {
        let endings = ENDINGS.into_iter().map(|(how, _)| how);
        let given_up = endings.clone().chain(["fail"]);
        let mut all =
            vec![Fault::Signalled(Signal::SIGKILL), Fault::Signalled(Signal::SIGTERM), Fault::PredecessorStops];
        all.extend(given_up.clone().map(Fault::Initialising));
        all.extend(given_up.map(Fault::Ready));
        all.extend(endings.clone().map(Fault::Serving));
        all.extend(endings.map(Fault::Predecessor));
        all
    }
}

pub(crate) fn rows(rows: &mut Rows) {
    rows.add_in(Form::Tokio, "two hundred handoffs, and an ending in each second one", |world| Soak::new(world)?.run());
}

struct Soak<'a> {
    world: &'a World,
    current: Process,
    generation: u64,
    /// Replaced ones that may still watch.
    older: Vec<Process>,
    /// Those who were given the service by one that lived, and who hear its farewell.
    taken_over: BTreeSet<String>,
    started: u64,
    chance: Chance,
    answered: u64,
    failed: u64,
}

impl<'a> Soak<'a> {
    fn new(world: &'a World) -> Check<Soak<'a>> {
        let current = world.serving("G0", WORDS)?;
        let chance = Chance(0x9e37_79b9_7f4a_7c15);
        let (older, taken_over) = (Vec::new(), BTreeSet::new());
        Ok(Soak { world, current, generation: 1, older, taken_over, started: 0, chance, answered: 0, failed: 0 })
    }

    fn run(mut self) -> Check<String> {
        let began = Instant::now();
        let faults = Fault::all();
        let mut plan = Vec::new();
        for handoff in 0..HANDOFFS {
            plan.push(if handoff % 2 == 1 { faults[self.chance.below(faults.len())] } else { Fault::None });
        }
        let mut number = 0;
        let mut plan = plan.into_iter().peekable();
        while plan.peek().is_some() {
            let mut segment = Vec::new();
            while let Some(fault) = plan.next() {
                segment.push(fault);
                let next_loses = plan.peek().is_some_and(|next| next.loses_count());
                if segment.len() as u64 == SEGMENT || fault.loses_count() || next_loses {
                    break;
                }
            }
            self.segment(&segment).map_err(|error| format!("handoffs from {number} on, {segment:?}: {error}"))?;
            number += segment.len();
        }
        self.current.signal(Signal::SIGTERM);
        self.current.exits_with(0)?;
        for old in &mut self.older {
            old.exits_with(0)?;
        }
        let (took, completed) = (began.elapsed().as_secs_f64(), HANDOFFS - self.failed);
        Ok(format!("{completed} completed, {} failed, {} answered, {took:.0} s", self.failed, self.answered))
    }

    fn segment(&mut self, faults: &[Fault]) -> Check {
        let before = self.settled_count()?;
        let load = Load::start(self.world, CLIENTS, REQUESTS);
        load.goes_on(4)?;
        for fault in faults {
            self.handoff(*fault).map_err(|error| format!("{fault:?}: {error}"))?;
            load.goes_on(4)?;
        }
        let samples = load.stop();
        load::none_refused(&samples)?;
        if faults.iter().any(|fault| fault.loses_count()) {
            return Ok(());
        }
        load::none_lost(&samples)?;
        let answered: u64 = samples.iter().map(|sample| sample.answered).sum();
        self.answered += answered;
        let expected = before + answered;
        let found = self.settled_count()? - 1;
        require(found == expected, || format!("{found} counted, {expected} answered"))
    }

    /// How many were answered up to now, this one included, when the last farewell is taken in.
    fn settled_count(&self) -> Check<u64> {
        if self.taken_over.contains(&self.current.tag) {
            self.world.hears(&self.current.tag, "absorbs")?;
        }
        Ok(self.world.ask()?.count + 1)
    }

    fn handoff(&mut self, fault: Fault) -> Check {
        self.started += 1;
        let tag = format!("G{}", self.started);
        let form = if self.started % 2 == 0 { "form=tokio" } else { "form=blocking" };
        let start = |words: String| self.world.start(&tag, &format!("{form} {WORDS} {words}"));
        match fault {
            Fault::None => {
                let new = start(String::new())?;
                self.succeeded(new)
            }
            Fault::Initialising(how) => {
                let mut new = start(format!("init={how}"))?;
                new.ended()?;
                self.still_serves()
            }
            Fault::Signalled(signal) => {
                let mut new = start("init=wait".to_owned())?;
                self.world.hears(&tag, "initialises")?;
                new.signal(signal);
                new.ends_by(signal)?;
                self.still_serves()
            }
            Fault::Ready(how) => {
                let mut new = start(format!("ready={how}"))?;
                new.ended()?;
                self.still_serves()
            }
            Fault::Serving(how) => {
                let mut new = start(String::new())?;
                self.world.hears(&tag, "serves")?;
                if how == "kill" {
                    new.kill()?;
                } else {
                    self.world.tell(&tag, &format!("end {how}"))?;
                    new.ended()?;
                }
                self.still_serves()
            }
            Fault::Predecessor(how) => {
                let new = start("init=wait".to_owned())?;
                self.world.hears(&tag, "initialises")?;
                if how == "kill" {
                    self.current.kill()?;
                } else {
                    self.world.tell(&self.current.tag, &format!("end {how}"))?;
                    self.current.ended()?;
                }
                self.world.tell(&tag, "go")?;
                self.inherited(new)
            }
            Fault::PredecessorStops => {
                let new = start("init=wait".to_owned())?;
                self.world.hears(&tag, "initialises")?;
                self.current.signal(Signal::SIGTERM);
                self.world.tell(&tag, "go")?;
                self.succeeded(new)
            }
        }
    }

    fn succeeded(&mut self, new: Process) -> Check {
        self.world.hears(&new.tag, "serves")?;
        self.generation += 1;
        self.taken_over.insert(new.tag.clone());
        self.older.push(std::mem::replace(&mut self.current, new));
        let served = self.world.status()?;
        let fits = served["pid"] == self.current.pid() && served["generation"] == self.generation;
        require(fits, || format!("{} was to serve: {served}", self.current.tag))?;
        let (older, ended) = std::mem::take(&mut self.older).into_iter().partition(Process::is_alive);
        self.older = older;
        let mut ended: Vec<Process> = ended;
        ended.iter_mut().try_for_each(|old| old.exits_with(0).map(drop))
    }

    /// The owner is dead: the service is the new one's, or that of one before which had not let go yet.
    fn inherited(&mut self, mut new: Process) -> Check {
        let status = until("an heir serves", || {
            let status = self.world.status().ok()?;
            (status["phase"] == "serving").then_some(status)
        })?;
        let generation = status["generation"].as_u64().ok_or("no generation")?;
        if status["pid"] == new.pid() {
            require(generation == self.generation + 1, || format!("generation {generation} of the new process"))?;
            self.current = new;
        } else {
            let heir = self.older.iter().position(|old| status["pid"] == old.pid());
            self.current = self.older.remove(heir.ok_or_else(|| format!("a stranger serves: {status}"))?);
            new.exits_with(1)?;
            self.failed += 1;
        }
        self.generation = generation;
        let answer = self.world.ask()?;
        require(answer.pid == self.current.pid(), || format!("{answer:?}, not {}", self.current.tag))
    }

    /// The one before, which is not busy any more.
    fn still_serves(&mut self) -> Check {
        self.failed += 1;
        let pid = self.current.pid();
        let serves = || {
            let status = self.world.status().ok()?;
            (status["pid"] == pid && status["successor"].is_null() && status["phase"] == "serving").then_some(())
        };
        until("the one before serves", serves).map_err(|error| format!("{error}: {:?}", self.world.status()))
    }
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
