//! One row with three generations: the grandparent drains a connection that its client keeps, the predecessor hands over to
//! the successor, and one of the three ends.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;

use crate::case::{self, SOME, Seen, ends_by, has_descriptors, order};
use crate::clients::{Check, require, until};
use crate::load::{self, Answer, CLIENTS, Connection, Load, Sample};
use crate::process::{Place, Process};
use crate::rows::{Count, Row, Side, Then};

/// Longer than a row takes: an heir while it drains, and no longer.
const GRANDPARENT: &str = "drain=60000,probation=0";
/// What the client of the grandparent asks for before all others, and then at the end.
const BEFORE: u64 = 1;

struct Family {
    row: Row,
    place: Place,
    processes: BTreeMap<u8, Process>,
    kept: Connection,
    kept_by: i32,
}

/// The numbers of their generations, as long as nothing goes wrong.
const GRANDPARENT_IS: u8 = 1;
const PREDECESSOR_IS: u8 = 2;
const SUCCESSOR_IS: u8 = 3;

pub(crate) fn run(row: Row, mut place: Place) -> Check<Seen> {
    let mut grandparent = Process::start(&place, GRANDPARENT, order(&row, Side::Grandparent).as_deref())?;
    place.listen = grandparent.serves()?.listen;
    let descriptors = grandparent.descriptors().len();
    let mut kept = Connection::open(place.listen).map_err(|error| error.to_string())?;
    let kept_by = ask(&mut kept, &place)?.pid;

    let watches = if row.side == Side::Successor { "probation=20000" } else { "" };
    let mut predecessor = Process::start(&place, watches, order(&row, Side::Predecessor).as_deref())?;
    predecessor.serves()?;
    let load = Load::start(&place);
    load.goes_on(SOME)?;

    let successor = Process::start(&place, "", order(&row, Side::Successor).as_deref())?;
    let processes = [(GRANDPARENT_IS, grandparent), (PREDECESSOR_IS, predecessor), (SUCCESSOR_IS, successor)].into();
    let mut family = Family { row, place, processes, kept, kept_by };
    family.strike()?;
    let (owner, generation) = family.settle()?;
    load.goes_on(SOME)?;
    let samples = load.stop();
    let seen = case::check_losses(&row, &samples)?;
    family.check_owner(owner, generation)?;
    if row.side == Side::Grandparent {
        // Nobody has a last word that it waits for.
        family.process(PREDECESSOR_IS).ended_well()?;
        family.has_no_predecessor()?;
    }
    let last = load::ask(&family.place)?;
    family.check_order(owner, &samples)?;
    family.check_count(&samples, last)?;
    family.end(owner, generation, last, descriptors)?;
    Ok(seen)
}

fn ask(kept: &mut Connection, place: &Place) -> Check<Answer> {
    let answer = kept.exchange(place.program).map_err(|error| format!("the grandparent's connection: {error}"))?;
    Ok(answer.0)
}

impl Family {
    fn process(&mut self, number: u8) -> &mut Process {
        self.processes.get_mut(&number).expect("all three are there until the end")
    }

    fn pid(&self, number: u8) -> i32 {
        self.processes[&number].pid()
    }

    fn faulty(&self) -> u8 {
        match self.row.side {
            Side::Grandparent => GRANDPARENT_IS,
            Side::Predecessor => PREDECESSOR_IS,
            Side::Successor => SUCCESSOR_IS,
        }
    }

    fn has_no_predecessor(&self) -> Check {
        until("the owner has heard that its predecessor is gone", || {
            self.place.status().ok()?["predecessor"].is_null().then_some(())
        })
    }

    fn strike(&mut self) -> Check {
        let (number, fault) = (self.faulty(), self.row.fault);
        ends_by(self.process(number), fault)
    }

    /// Waits until it is over. Returns who serves, and as which generation.
    fn settle(&mut self) -> Check<(u8, u64)> {
        let owner = match self.row.then {
            Then::Predecessor => (PREDECESSOR_IS, 2),
            Then::Successor => (SUCCESSOR_IS, 3),
            Then::Grandparent => (GRANDPARENT_IS, 1),
            Then::Grandchild => (SUCCESSOR_IS, 2),
            _ => self.faster()?,
        };
        let (number, generation) = owner;
        if number == SUCCESSOR_IS {
            let found = self.process(SUCCESSOR_IS).serves()?.generation;
            require(found == generation, || format!("the successor is generation {found}, not {generation}"))?;
        } else if self.faulty() != SUCCESSOR_IS {
            // It had begun for a service that is another's now.
            self.process(SUCCESSOR_IS).exited(1).map_err(|error| format!("the successor: {error}"))?;
        }
        Ok(owner)
    }

    /// Both may take the service, and exactly one of them does.
    fn faster(&mut self) -> Check<(u8, u64)> {
        let pids = [GRANDPARENT_IS, SUCCESSOR_IS].map(|number| (self.pid(number), number));
        let place = self.place.clone();
        until("one of the heirs serves", || {
            let status = place.status().ok()?;
            let (_, number) = pids.iter().find(|(pid, _)| status["pid"] == *pid)?;
            (status["phase"] == "serving").then(|| Some((*number, status["generation"].as_u64()?)))?
        })
    }

    fn check_owner(&self, owner: u8, generation: u64) -> Check {
        let (pid, place) = (self.pid(owner), &self.place);
        let serves = || {
            let status = place.status().ok()?;
            let fits = status["pid"] == pid && status["generation"] == generation && status["phase"] == "serving";
            fits.then_some(())
        };
        until("the right one says that it serves", serves).map_err(|error| format!("{error}: {:?}", place.status()))
    }

    /// Each client sees the service pass as it has passed, and never go back and forth.
    fn check_order(&self, owner: u8, samples: &[Sample]) -> Check {
        let passes: &[u8] = match (self.row.then, self.row.count) {
            (Then::Predecessor, Count::Own) => &[PREDECESSOR_IS, SUCCESSOR_IS, PREDECESSOR_IS],
            (Then::Grandchild, _) => &[PREDECESSOR_IS, GRANDPARENT_IS, SUCCESSOR_IS],
            _ => &[PREDECESSOR_IS, owner],
        };
        for client in 0..CLIENTS {
            let answers = samples.iter().filter(|sample| sample.client == client && sample.fresh);
            let mut pids: Vec<i32> = answers.filter_map(|sample| Some(sample.result.as_ref().ok()?.pid)).collect();
            pids.dedup();
            let mut rest = passes.iter().map(|number| self.pid(*number));
            let fits = pids.iter().all(|pid| rest.any(|next| next == *pid));
            require(fits, || format!("client {client} was answered by {pids:?}"))?;
        }
        Ok(())
    }

    fn check_count(&self, samples: &[Sample], last: Answer) -> Check {
        let answers = samples.iter().filter_map(|sample| sample.result.as_ref().ok());
        let answered = answers.clone().count() as u64 + BEFORE + 1;
        if self.row.count == Count::Exact {
            return require(last.requests == answered, || format!("{} counted, {answered} answered", last.requests));
        }
        let mut own: Vec<u64> = answers.filter(|answer| answer.pid == last.pid).map(|answer| answer.requests).collect();
        own.push(last.requests);
        own.sort_unstable();
        let gapless = own.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        require(gapless, || format!("the survivor's own count has gaps: {own:?}"))?;
        // What the dead one had counted and could not answer.
        let most = answered + CLIENTS as u64;
        require(last.requests <= most, || format!("{} counted, {answered} answered", last.requests))
    }

    /// The grandparent's client goes as well, and all that is left is whoever serves, which can be replaced.
    fn end(mut self, owner: u8, generation: u64, last: Answer, descriptors: usize) -> Check {
        let drains = self.faulty() != GRANDPARENT_IS;
        if drains {
            let answer = ask(&mut self.kept, &self.place)?;
            require(answer.pid == self.kept_by, || format!("the grandparent's connection: {answer:?}"))?;
        }
        // Closed, so that the grandparent has drained.
        self.kept.close();
        let mut survivor = self.processes.remove(&owner).expect("it serves");
        let (faulty, failed) = (self.faulty(), (owner != SUCCESSOR_IS).then_some(SUCCESSOR_IS));
        for (number, process) in &mut self.processes {
            if *number != faulty && Some(*number) != failed {
                process.ended_well().map_err(|error| format!("generation {number}: {error}"))?;
            }
        }
        self.has_no_predecessor()?;
        let place = &self.place;
        has_descriptors(&survivor, descriptors)?;
        let mut next = Process::start(place, "", None)?;
        let found = next.serves()?.generation;
        require(found == generation + 1, || format!("generation {found} follows {generation}"))?;
        // The grandparent's last request comes with its farewell, if whoever would pass that on lives.
        let passed_on = u64::from(self.row.count == Count::Exact && drains);
        let mut asked = 0;
        until("the count is whole", || {
            asked += 1;
            let answer = load::ask(place).ok()?;
            let whole = last.requests + asked + passed_on;
            (self.row.count != Count::Exact || answer.requests == whole).then_some(())
        })?;
        next.signal(Signal::SIGTERM);
        next.ended_well().map_err(|error| format!("the next generation: {error}"))?;
        survivor.ended_well().map_err(|error| format!("the survivor, replaced: {error}"))?;
        require(!place.control.exists(), || "the control socket is left over".to_owned())
    }
}
