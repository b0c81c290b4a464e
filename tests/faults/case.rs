//! One row: a handoff under load, with a fault in it.

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use serde_json::Value;

use crate::clients::{Check, require, until};
use crate::load::{self, Answer, CLIENTS, Load, Miss, Sample};
use crate::process::{Place, Process, Program};
use crate::rows::{Count, Fault, Loss, Row, Scene, Side, Then};

/// How many requests show that it goes on.
pub(crate) const SOME: u64 = 20;
/// Milliseconds that nobody waits for.
const LONG: u64 = 60_000;

/// What was seen where all is well.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) answered: usize,
    pub(crate) refused: usize,
    pub(crate) lost: usize,
}

/// The two processes of the handoff.
struct Pair {
    row: Row,
    place: Place,
    predecessor: Process,
    successor: Process,
}

pub(crate) fn run(row: Row, mut place: Place) -> Check<Seen> {
    let mut predecessor =
        Process::start(&place, &predecessor_timeouts(&row), order(&row, Side::Predecessor).as_deref())?;
    place.listen = predecessor.serves()?.listen;
    let descriptors = predecessor.descriptors();
    let load = Load::start(&place);
    load.goes_on(SOME)?;
    let before = load.answered();

    let theirs = Place { slow: initialisation(&row, place.slow), ..place.clone() };
    let successor = Process::start(&theirs, &successor_timeouts(&row), order(&row, Side::Successor).as_deref())?;
    let mut pair = Pair { row, place: place.clone(), predecessor, successor };
    if row.scene == Scene::Stop {
        pair.successor_serves(2)?;
        load.goes_on(SOME)?;
        pair.successor.signal(Signal::SIGTERM);
    }
    if row.then == Then::InTime {
        let nobody = matches!(pair.successor.ended()?, WaitStatus::Exited(_, 0));
        pair.row = row.decided(nobody);
    }
    let row = pair.row;
    pair.strike(&load)?;
    if row.then == Then::Nobody {
        pair.stopped()?;
        return start_anew(&row, &place, load, descriptors.len());
    }
    let generation = pair.settle()?;
    let owner = pair.owner();
    load.goes_on(SOME)?;
    let samples = load.stop();
    let pids = (pair.predecessor.pid(), pair.successor.pid());
    let (mut survivor, other) = pair.split();
    drop(other);

    let seen = check_losses(&row, &samples)?;
    let last = last_answer(&row, &place, &samples)?;
    if place.program == Program::Http {
        require(last.pid == owner && last.generation == generation, || format!("{owner} was to answer, not {last:?}"))?;
        check_owner(&row, pids, &samples)?;
        check_order(&row, pids, &samples)?;
        check_count(&row, before, &samples, last)?;
    }
    let status = place.status()?;
    require(status["pid"] == owner && status["generation"] == generation, || {
        format!("{owner} was to serve: {status}")
    })?;
    has_descriptors(&survivor, descriptors.len())?;
    match place.program {
        Program::Http => hand_over(&place, &mut survivor, last)?,
        Program::Echo => hand_over_without_count(&row, &place, &mut survivor, generation)?,
    }
    Ok(seen)
}

/// The survivor's answer when it has heard all that there is to hear: a farewell may still be on its way.
fn last_answer(row: &Row, place: &Place, samples: &[Sample]) -> Check<Answer> {
    if row.count != Count::Exact {
        return load::ask(place);
    }
    let mut all = samples.iter().filter(|sample| sample.result.is_ok()).count() as u64;
    let mut counted = 0;
    until("every request is counted once", || {
        all += 1;
        let answer = load::ask(place).ok()?;
        counted = answer.requests;
        (counted == all).then_some(answer)
    })
    .map_err(|error| format!("{error}: {counted} counted, {all} answered"))
}

pub(crate) fn has_descriptors(survivor: &Process, count: usize) -> Check {
    until("the survivor has as many descriptors as before", || (survivor.descriptors().len() <= count).then_some(()))
        .map_err(|error| format!("{error}: {:?} instead of {count}", survivor.descriptors()))
}

/// What was told to stop has stopped, and whoever starts next finds everything free.
fn start_anew(row: &Row, place: &Place, load: Load, descriptors: usize) -> Check<Seen> {
    // A dead successor leaves the path behind, where nobody listens.
    let killed = row.side == Side::Successor && row.dies();
    require(killed || !place.control.exists(), || "the control socket is left over".to_owned())?;
    let mut next = Process::start(place, "", None)?;
    let generation = next.serves()?.generation;
    require(generation == 1, || format!("a cold start is generation {generation}"))?;
    load.goes_on(SOME)?;
    let samples = load.stop();
    let seen = check_losses(row, &samples)?;
    let last = load::ask(place)?;
    let answers = samples.iter().filter_map(|sample| sample.result.as_ref().ok());
    let own = 1 + answers.filter(|answer| answer.pid == next.pid()).count() as u64;
    require(last.pid == next.pid() && last.requests == own, || format!("{last:?}, and not {own} requests"))?;
    has_descriptors(&next, descriptors)?;
    hand_over(place, &mut next, last)?;
    Ok(seen)
}

/// One that is to be told to stop while it initialises does so for long.
fn initialisation(row: &Row, usual: u64) -> u64 {
    if row.fault == Fault::Term && row.frame == "progress" { LONG } else { usual }
}

pub(crate) fn order(row: &Row, side: Side) -> Option<String> {
    (row.side == side).then(|| row.order())
}

/// Short where the predecessor has to notice that its successor has stopped; long where it has to outlive its drain.
fn predecessor_timeouts(row: &Row) -> String {
    match (row.side, row.fault, row.deadline) {
        _ if row.scene == Scene::Stop || row.then == Then::Nobody => "probation=20000".to_owned(),
        (Side::Successor, Fault::Stop, deadline) => short(deadline),
        (Side::Successor, ..) if row.is_caught() => String::new(),
        (Side::Successor, ..) => "probation=20000".to_owned(),
        // How long it may drain, it tells its successor itself.
        (Side::Predecessor, Fault::Stop, Some("drain")) => short(row.deadline),
        (Side::Predecessor | Side::Grandparent, ..) => String::new(),
    }
}

fn successor_timeouts(row: &Row) -> String {
    match (row.side, row.fault, row.deadline) {
        (Side::Predecessor, Fault::Stop, deadline) if deadline != Some("drain") => short(deadline),
        _ => String::new(),
    }
}

/// One deadline alone: a busy machine may be late for the others.
fn short(deadline: Option<&str>) -> String {
    deadline.map(|name| format!("{name}=1000")).unwrap_or_default()
}

/// Waits until a fault has ended a process as it does.
pub(crate) fn ends_by(faulty: &mut Process, fault: Fault) -> Check {
    match fault {
        Fault::Kill => faulty.killed(Signal::SIGKILL),
        Fault::Term => faulty.killed(Signal::SIGTERM),
        Fault::Exit | Fault::Return => faulty.exited(0),
        Fault::Error => faulty.exited(1),
        Fault::Panic => faulty.exited(101),
        Fault::Stop | Fault::Abort => Ok(()),
    }
}

impl Pair {
    /// Waits for the fault, and where it is a stop, until the other side has noticed; then lets it go on.
    fn strike(&mut self, load: &Load) -> Check {
        let successor = self.row.side == Side::Successor;
        let faulty = if successor { &mut self.successor } else { &mut self.predecessor };
        match self.row.fault {
            Fault::Stop => {
                faulty.stopped()?;
                self.wait_for_deadline(load)?;
                self.faulty().signal(Signal::SIGCONT);
                Ok(())
            }
            Fault::Panic if self.row.is_caught() => until("the background panics", || {
                let log = std::fs::read_to_string(&self.place.log).unwrap_or_default();
                log.contains("a fault that a test has asked for").then_some(())
            }),
            Fault::Term if !self.row.dies() => Ok(()),
            fault => ends_by(faulty, fault),
        }
    }

    fn faulty(&self) -> &Process {
        if self.row.side == Side::Predecessor { &self.predecessor } else { &self.successor }
    }

    fn wait_for_deadline(&mut self, load: &Load) -> Check {
        match (self.row.side, self.row.then) {
            // Nobody waits for one that has not said what it wants.
            _ if self.row.leaves_no_trace() => load.goes_on(10 * SOME),
            (Side::Predecessor, Then::Predecessor) => self.successor_failed(),
            (Side::Predecessor, Then::Nobody) => self.successor.ended_well(),
            (Side::Predecessor | Side::Grandparent, _) => {
                self.successor_serves(2)?;
                until("the successor waits no longer", || {
                    let status = self.place.status().ok()?;
                    (status["generation"] == 2 && status["predecessor"].is_null()).then_some(())
                })
            }
            (Side::Successor, Then::Predecessor) => {
                until("the predecessor waits no longer", || self.place.status().ok().filter(has_failed).map(drop))
            }
            (Side::Successor, Then::Fenced) => self.successor.killed(Signal::SIGKILL),
            (Side::Successor, _) => self.predecessor.ended_well(),
        }
    }

    /// Waits until it is over, and returns the generation that serves.
    fn settle(&mut self) -> Check<u64> {
        match self.row.then {
            Then::Predecessor | Then::Fenced => {
                if !(self.row.side == Side::Successor && self.row.dies() || self.row.then == Then::Fenced) {
                    self.successor_failed()?;
                }
                self.predecessor_serves()?;
                Ok(1)
            }
            Then::Successor | Then::Orphan => {
                let stopped_late = self.row.side == Side::Predecessor && self.row.fault == Fault::Stop;
                if !stopped_late {
                    self.successor_serves(2)?;
                }
                if !(self.row.side == Side::Predecessor && self.row.dies()) {
                    self.predecessor.ended_well()?;
                }
                Ok(2)
            }
            Then::Anew => self.successor_serves(1).map(|()| 1),
            Then::Nobody | Then::InTime | Then::Grandparent | Then::Grandchild | Then::Heir => {
                unreachable!("in scenes of their own")
            }
        }
    }

    /// Waits until both have ended, and well where the fault has not ended them.
    fn stopped(&mut self) -> Check {
        let dead = self.row.dies().then_some(self.row.side);
        for (side, process) in [(Side::Successor, &mut self.successor), (Side::Predecessor, &mut self.predecessor)] {
            if dead != Some(side) {
                process.ended_well().map_err(|error| format!("{side}: {error}"))?;
            }
        }
        Ok(())
    }

    fn predecessor_serves(&self) -> Check {
        // Where the predecessor has not greeted yet, it may find that the successor is gone before it asks.
        let no_trace = self.row.leaves_no_trace() && self.row.dies() || self.row.frame == "hello";
        until("the predecessor says that it serves", || {
            let status = self.place.status().ok()?;
            let serves = status["phase"] == "serving" && status["generation"] == 1 && status["successor"].is_null();
            (serves && (no_trace || has_failed(&status))).then_some(())
        })
    }

    fn successor_serves(&mut self, generation: u64) -> Check {
        let found = self.successor.serves()?.generation;
        require(found == generation, || format!("the successor is generation {found}, not {generation}"))
    }

    fn successor_failed(&mut self) -> Check {
        self.successor.exited(1).map_err(|error| format!("the successor: {error}"))
    }

    fn survivor_is_predecessor(&self) -> bool {
        matches!(self.row.then, Then::Predecessor | Then::Fenced)
    }

    fn owner(&self) -> i32 {
        if self.survivor_is_predecessor() { self.predecessor.pid() } else { self.successor.pid() }
    }

    /// The survivor and the other.
    fn split(self) -> (Process, Process) {
        if self.survivor_is_predecessor() {
            (self.predecessor, self.successor)
        } else {
            (self.successor, self.predecessor)
        }
    }
}

fn has_failed(status: &Value) -> bool {
    let last = status["history"].as_array().and_then(|history| history.last());
    last.is_some_and(|attempt| attempt["outcome"] == "failed" || attempt["outcome"] == "taken_back")
}

pub(crate) fn check_losses(row: &Row, samples: &[Sample]) -> Check<Seen> {
    let refused = samples.iter().filter(|sample| matches!(sample.result, Err(Miss::Refused))).count();
    let lost: Vec<&Sample> = samples.iter().filter(|sample| matches!(sample.result, Err(Miss::Lost(_)))).collect();
    let most = match row.loss {
        Loss::None => 0,
        Loss::Held => CLIENTS,
        Loss::Outage => usize::MAX,
    };
    require(refused == 0 || row.loss == Loss::Outage, || format!("{refused} requests were refused"))?;
    require(lost.len() <= most, || format!("{} requests were lost: {:?}", lost.len(), lost.first()))?;
    Ok(Seen { answered: samples.len() - refused - lost.len(), refused, lost: lost.len() })
}

/// After the first answer on a new connection from whoever is next, nobody before it answers one any more.
fn check_owner(row: &Row, (predecessor, successor): (i32, i32), samples: &[Sample]) -> Check {
    let fresh = samples.iter().filter(|sample| sample.fresh);
    let fresh: Vec<(&Sample, i32)> =
        fresh.filter_map(|sample| Some((sample, sample.result.as_ref().ok()?.pid))).collect();
    let stranger = fresh.iter().find(|(_, pid)| ![predecessor, successor].contains(pid));
    require(stranger.is_none(), || format!("a stranger has answered: {stranger:?}"))?;
    if row.count == Count::Own {
        // The service went there and back; the order of each client's answers is all that can be looked at.
        return Ok(());
    }
    let has_passed = !matches!(row.then, Then::Predecessor | Then::Fenced);
    let first = fresh.iter().filter(|(_, pid)| *pid == successor).map(|(sample, _)| sample.ended).min();
    require(has_passed == first.is_some(), || format!("answers of the successor: {first:?}"))?;
    let late =
        fresh.iter().find(|(sample, pid)| *pid == predecessor && first.is_some_and(|first| sample.began > first));
    require(late.is_none(), || format!("the predecessor has answered a new connection: {late:?}"))
}

/// Each client sees the service pass as it has passed, and never go back and forth.
fn check_order(row: &Row, (predecessor, successor): (i32, i32), samples: &[Sample]) -> Check {
    for client in 0..CLIENTS {
        let answers = samples.iter().filter(|sample| sample.client == client && sample.fresh);
        let mut pids: Vec<i32> = answers.filter_map(|sample| Some(sample.result.as_ref().ok()?.pid)).collect();
        pids.dedup();
        let fits = match row.count {
            Count::Own => {
                [predecessor, successor, predecessor].windows(pids.len()).any(|seen| seen == pids)
                    || pids == [predecessor]
            }
            _ => pids.len() <= 2,
        };
        require(fits, || format!("client {client} was answered by {pids:?}"))?;
    }
    Ok(())
}

/// `before` requests had been answered when the successor was started.
fn check_count(row: &Row, before: u64, samples: &[Sample], last: Answer) -> Check {
    let answers: Vec<Answer> = samples.iter().filter_map(|sample| sample.result.as_ref().ok().copied()).collect();
    if row.count == Count::Exact {
        // Looked at before.
        return Ok(());
    }
    let mut own: Vec<u64> =
        answers.iter().filter(|answer| answer.pid == last.pid).map(|answer| answer.requests).collect();
    own.push(last.requests);
    own.sort_unstable();
    let first = own[0];
    let gapless = own.iter().zip(first..).all(|(found, expected)| *found == expected);
    require(gapless, || format!("the survivor's own count has gaps: {own:?}"))?;
    let others = answers.iter().filter(|answer| answer.pid != last.pid).count() as u64;
    let inherited = first - 1;
    let fits = match row.count {
        Count::Own => gapless,
        Count::Anew => inherited == 0,
        // What the dead one had answered and could not tell, and had counted and could not answer.
        _ => (before..=others + CLIENTS as u64).contains(&inherited),
    };
    require(fits, || format!("began at {inherited}; {before} before the handoff, {others} in all"))
}

/// Whoever has survived can still be replaced, without a fault, and its count goes on.
fn hand_over(place: &Place, survivor: &mut Process, last: Answer) -> Check {
    let mut next = Process::start(place, "", None)?;
    let generation = next.serves()?.generation;
    require(generation == last.generation + 1, || format!("generation {generation} follows {last:?}"))?;
    let answer = load::ask(place)?;
    let fits = answer.pid == next.pid() && answer.requests == last.requests + 1;
    require(fits, || format!("{answer:?} follows {last:?}"))?;
    next.signal(Signal::SIGTERM);
    next.ended_well().map_err(|error| format!("the next generation: {error}"))?;
    survivor.ended_well().map_err(|error| format!("the survivor, replaced: {error}"))?;
    require(!place.control.exists(), || "the control socket is left over".to_owned())
}

/// As above, for a service that counts nothing, and that SIGTERM merely ends.
fn hand_over_without_count(row: &Row, place: &Place, survivor: &mut Process, generation: u64) -> Check {
    let mut next = Process::start(place, "", None)?;
    let found = next.serves()?.generation;
    require(found == generation + 1, || format!("generation {found} follows {generation}"))?;
    load::ask(place)?;
    if predecessor_timeouts(row).contains("probation") && matches!(row.then, Then::Predecessor) {
        // It watches its successor, and serves again when that is gone.
        next.signal(Signal::SIGKILL);
        next.ended()?;
        return load::ask(place).map(drop);
    }
    survivor.ended_well().map_err(|error| format!("the survivor, replaced: {error}"))
}
