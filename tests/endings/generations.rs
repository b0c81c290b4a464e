//! Four generations alive, three of which drain, and one ends.

use nix::sys::signal::Signal;

use crate::Rows;
use crate::clients::{Check, require};
use crate::load::{self, Load};
use crate::process::{Client, Process, World};

const TAGS: [&str; 4] = ["O", "P", "S", "T"];
/// Clients who look who accepts.
const CLIENTS: usize = 2;

pub(crate) fn rows(rows: &mut Rows) {
    for how in ["kill", "error", "stop"] {
        for (victim, tag) in TAGS.iter().enumerate() {
            let name = format!("of four generations, {tag} ends by {how}");
            rows.add(&name, move |world| one_ends(world, victim, how));
        }
    }
    rows.add("of four generations, T is killed, then S, then P", |world| each_ends(world, &[3, 2, 1]));
    rows.add("of four generations, S is killed, then T, and nobody is in the way of a start", heirs_are_gone);
}

/// Four of them, each with a connection of its own.
struct Family {
    processes: Vec<Process>,
    kept: Vec<Client>,
}

impl Family {
    fn start(world: &World) -> Check<Family> {
        let mut family = Family { processes: Vec::new(), kept: Vec::new() };
        for tag in TAGS {
            let process = world.serving(tag, "")?;
            let mut client = world.connect()?;
            let answer = client.ask()?;
            require(answer.pid == process.pid(), || format!("{tag} was to answer: {answer:?}"))?;
            family.processes.push(process);
            family.kept.push(client);
        }
        Ok(family)
    }

    fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }

    /// Connections of the living are answered by whoever has accepted them.
    fn serve_on(&mut self) -> Check {
        for (process, client) in self.processes.iter().zip(&mut self.kept) {
            if process.is_alive() {
                let answer = client.ask().map_err(|error| format!("{}: {error}", process.tag))?;
                require(answer.pid == process.pid(), || format!("{answer:?}"))?;
            }
        }
        Ok(())
    }
}

fn one_ends(world: &World, victim: usize, how: &str) -> Check<String> {
    let mut family = Family::start(world)?;
    if (victim, how) == (3, "stop") {
        return owner_stopped(world, family);
    }
    let load = Load::start(world, CLIENTS, 1);
    load.goes_on(4)?;
    let dead = match how {
        "kill" => family.processes[victim].kill()?,
        "error" => {
            world.tell(TAGS[victim], "end error")?;
            family.processes[victim].exits_with(1)?
        }
        _ => return stopped(world, family, victim, load),
    };
    let owner = if victim == 3 { 2 } else { 3 };
    let waited = world.answers_since(dead, family.processes[owner].pid())?;
    load.goes_on(4)?;
    let samples = load.stop();
    load::none_refused(&samples)?;
    load::one_at_a_time(&samples, &if victim == 3 { reversed(&family) } else { family.pids() })?;
    world.owned_by(&family.processes[owner], owner as u64 + 1)?;
    family.serve_on()?;
    // The service can still be replaced.
    let next = world.serving("N", "")?;
    world.owned_by(&next, owner as u64 + 2)?;
    family.serve_on()?;
    Ok(waited)
}

fn reversed(family: &Family) -> Vec<u32> {
    family.pids().into_iter().rev().collect()
}

/// Nobody takes the place of an owner that stops.
fn owner_stopped(world: &World, mut family: Family) -> Check<String> {
    family.processes[3].signal(Signal::SIGTERM);
    // It drains.
    world.hears("T", "superseded")?;
    family.serve_on()?;
    family.processes[3].signal(Signal::SIGTERM);
    family.processes[3].exits_with(0)?;
    let next = world.serving("N", "")?;
    world.owned_by(&next, 1)?;
    family.serve_on()?;
    Ok(String::new())
}

/// One that drains goes on, and ends when it is told again.
fn stopped(world: &World, mut family: Family, victim: usize, load: Load) -> Check<String> {
    let pids = family.pids();
    family.processes[victim].signal(Signal::SIGTERM);
    world.has_told_to_stop()?;
    family.serve_on()?;
    family.processes[victim].signal(Signal::SIGTERM);
    let dead = family.processes[victim].exits_with(0)?;
    let waited = world.answers_since(dead, pids[3])?;
    load.goes_on(4)?;
    let samples = load.stop();
    load::none_refused(&samples)?;
    load::none_lost(&samples)?;
    load::one_at_a_time(&samples, &pids)?;
    world.owned_by(&family.processes[3], 4)?;
    family.serve_on()?;
    Ok(waited)
}

/// Whoever was replaced watches the one that has replaced it, and nobody else. When S is dead while T serves, P has no claim
/// any more, and O none since P was past its probation: both let go. So nobody takes T's place, and a start finds every
/// address free.
fn heirs_are_gone(world: &World) -> Check<String> {
    let mut family = Family::start(world)?;
    family.processes[2].kill()?;
    world.owned_by(&family.processes[3], 4)?;
    for heir in 0..2 {
        world.has_let_go(&family.processes[heir], &family.processes[3])?;
    }
    family.processes[3].kill()?;
    let next = world.serving("N", "")?;
    world.owned_by(&next, 1)?;
    family.serve_on()?;
    Ok(String::new())
}

/// Killed in this order; whoever is the youngest serves.
fn each_ends(world: &World, victims: &[usize]) -> Check<String> {
    let mut family = Family::start(world)?;
    let load = Load::start(world, CLIENTS, 1);
    let mut figures = Vec::new();
    for victim in victims {
        load.goes_on(4)?;
        let dead = family.processes[*victim].kill()?;
        let youngest = family.processes.iter().rposition(Process::is_alive).ok_or("all are dead")?;
        figures.push(
            world
                .answers_since(dead, family.processes[youngest].pid())
                .map_err(|error| format!("{} is dead, and {}: {error}", TAGS[*victim], TAGS[youngest]))?,
        );
        world.owned_by(&family.processes[youngest], youngest as u64 + 1)?;
        family.serve_on()?;
    }
    load.goes_on(4)?;
    let samples = load.stop();
    load::none_refused(&samples)?;
    load::one_at_a_time(&samples, &reversed(&family))?;
    Ok(figures.join(", "))
}
