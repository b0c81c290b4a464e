//! The model: which steps there are, which of them may come next, and what must hold throughout.

use std::fmt;

use fd_handoff::core::Input;
use fd_handoff::core::wire::ClientFrame;
use stateright::{Model, Property};

use crate::mistake::Mistake;
use crate::setting::Setting;
use crate::world::{Call, Giving, Life, News, Side, Stop, Taking, World, promise};

/// Every handoff that a setting allows.
#[derive(Debug, Clone)]
pub(crate) struct Handoff {
    pub(crate) setting: Setting,
    /// Looks at this promise alone, and stops where it is broken first.
    pub(crate) only: Option<&'static str>,
}

/// One step. Processes and connections are meant by their place in the [`World`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    // What happens by itself, sooner or later.
    Connect(usize),
    Accept(usize, usize),
    Answer(usize),
    Offer(usize),
    Progress(usize),
    Ready(usize),
    StopAccepting(usize),
    Release(usize),
    Count(usize),
    Farewell(usize),
    Hear(usize, Side),
    Timeout(usize, Side),
    Killed(usize),
    Unsent(usize),
    Sent(usize),
    Settle(usize),
    Keep(usize),
    LetGo(usize),
    Exit(usize),
    // What need not happen.
    Crash(usize),
    Stop(usize),
    Fail(usize),
    Jam(usize),
    GiveUp(usize),
    HangUp(usize, Side),
    Silence(usize),
    Continue(usize),
}

impl Model for Handoff {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(&self.setting)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        self.own_course(world, steps);
        self.mishaps(world, steps);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        self.take(&mut next, step);
        next.tidy();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Handoff>> {
        let mut properties = vec![
            Property::always(promise::ONE, |_, world| serving(world) <= 1),
            Property::always(promise::SERVED, |model: &Handoff, world| {
                kept(world, promise::SERVED) && !model.is_abandoned(world)
            }),
            Property::always(promise::FINAL, |_, world| knows_what_was_released(world)),
            Property::always(promise::FAILED, |model: &Handoff, world| owners_accept(&model.setting, world)),
            Property::always(promise::BUSY, |_, world| kept(world, promise::BUSY)),
            Property::always(promise::ORPHAN, |_, world| kept(world, promise::ORPHAN)),
            Property::always(promise::SETTLED, |_, world| kept(world, promise::SETTLED)),
            Property::always(promise::LOCK, |model: &Handoff, world| {
                !model.setting.arbiter || owners_hold_the_lock(world)
            }),
            Property::always(promise::OUTRUN, |_, world| kept(world, promise::OUTRUN)),
            Property::always(promise::STOPPED, |_, world| kept(world, promise::STOPPED)),
            Property::always(promise::LET_GO, |_, world| kept(world, promise::LET_GO)),
            Property::always(promise::FAREWELL, |_, world| kept(world, promise::FAREWELL)),
        ];
        properties.retain(|property| self.only.is_none_or(|only| only == property.name));
        properties
    }
}

impl Handoff {
    /// What happens by itself.
    fn own_course(&self, world: &World, steps: &mut Vec<Step>) {
        for (who, process) in world.processes.iter().enumerate() {
            if process.doomed {
                steps.push(Step::Killed(who));
            }
            self.ends(world, who, steps);
            if self.setting.is_keeper(who) {
                self.keeper(world, who, steps);
            } else if process.life == Life::Runs
                && process.attempts > 0
                && world.is_idle(who)
                && self.is_next(world, who)
            {
                steps.push(Step::Connect(who));
            }
        }
        for k in 0..world.calls.len() {
            self.listener(world, k, steps);
            self.application(world, k, steps);
            self.link(world, k, Side::Taker, steps);
            self.link(world, k, Side::Giver, steps);
        }
    }

    /// A keeper that has nothing to do with anybody looks for the service, or takes it.
    fn keeper(&self, world: &World, who: usize, steps: &mut Vec<Step>) {
        let process = &world.processes[who];
        let is_busy = world.calls.iter().any(|call| call.taker == who && call.successor.is_some());
        if !world.runs(who)
            || process.accepting
            || is_busy
            || process.stop != Stop::No
            || world.has_stopped_accepting(who)
        {
            return;
        }
        // Until it is seen whether the one that it gives the service to serves, that handoff decides.
        let gives = world.calls.iter().any(|call| call.gives(who));
        let is_given = |call: &Call| matches!(call.giving, Giving::Draining | Giving::Counting | Giving::Parting);
        let is_giving = world.calls.iter().any(|call| call.gives(who) && !is_given(call));
        if process.attempts > 0 && world.is_listening() && !is_giving {
            steps.push(Step::Connect(who));
        }
        if process.holds && !gives && world.is_left_to(&self.setting, who) {
            steps.push(Step::Keep(who));
        }
    }

    /// Whether this successor is not the same as one that has not looked for the service yet: of two that are alike, the
    /// first is the first.
    fn is_next(&self, world: &World, who: usize) -> bool {
        let at_first = |who: usize| self.setting.attempts.get(who - 1);
        who < 2 || at_first(who) != at_first(who - 1) || Some(&world.processes[who - 1].attempts) < at_first(who - 1)
    }

    /// How a process goes on that is on its way out.
    fn ends(&self, world: &World, who: usize, steps: &mut Vec<Step>) {
        let process = &world.processes[who];
        if process.life != Life::Runs {
            return;
        }
        if process.leaving {
            return steps.push(Step::Exit(who));
        }
        if process.stop == Stop::Draining {
            steps.push(Step::Settle(who));
        }
        // Nobody waits for longer than a moment, and whoever runs lets go within that.
        let hurries = process.stop == Stop::Settling && self.setting.makes(Mistake::StopsUnwaited);
        if process.letting_go && (world.is_unwatched(who) || world.has_silent_heirs(who) || hurries) {
            steps.push(Step::LetGo(who));
        }
    }

    /// Who may accept this connection from the listener's backlog, and read its first line.
    fn listener(&self, world: &World, k: usize, steps: &mut Vec<Step>) {
        let call = &world.calls[k];
        match call.giver {
            None => {
                let owners =
                    (0..world.processes.len()).filter(|&who| world.runs(who) && world.processes[who].accepting);
                let owners = owners.filter(|&who| self.setting.chains || world.is_first(who));
                steps.extend(owners.map(|who| Step::Accept(k, who)));
            }
            Some(giver) if world.runs(giver) && call.giving == Giving::Looking && !call.to_giver.is_empty() => {
                steps.push(Step::Answer(k));
            }
            Some(_) => {}
        }
    }

    /// What the two applications do next.
    fn application(&self, world: &World, k: usize, steps: &mut Vec<Step>) {
        let call = &world.calls[k];
        if world.runs(call.taker) {
            match call.taking {
                Taking::Initialising if self.setting.reports => steps.extend([Step::Progress(k), Step::Ready(k)]),
                Taking::Initialising | Taking::Progressing => steps.push(Step::Ready(k)),
                _ => {}
            }
        }
        let Some(giver) = call.giver.filter(|giver| world.runs(*giver)) else { return };
        match call.giving {
            Giving::Requested => steps.push(Step::Offer(k)),
            Giving::Ready if self.setting.is_keeper(call.taker) && !world.processes[giver].yields => {}
            Giving::Ready => steps.push(Step::StopAccepting(k)),
            Giving::Stopped => steps.push(Step::Release(k)),
            // A generation's own predecessor speaks first.
            Giving::Draining | Giving::Counting if !world.follows(giver) => steps.push(Step::Farewell(k)),
            _ => {}
        }
        if call.giving == Giving::Draining && self.setting.reports {
            steps.push(Step::Count(k));
        }
        if call.jammed {
            steps.extend([Step::Unsent(k), Step::Sent(k)]);
        }
    }

    /// What the link at this end finds, or whether its deadline may pass.
    fn link(&self, world: &World, k: usize, side: Side, steps: &mut Vec<Step>) {
        let call = &world.calls[k];
        let is_open = match side {
            Side::Taker => call.successor.is_some(),
            Side::Giver => call.predecessor.is_some(),
        };
        if !is_open || !call.process(side).is_some_and(|who| world.runs(who)) {
            return;
        }
        let news = world.news(k, side);
        if news.is_some() {
            steps.push(Step::Hear(k, side));
        }
        let is_quiet = news.is_none() || self.setting.makes(Mistake::TimesOutUnread);
        if is_quiet && call.deadline(side).is_some() {
            steps.push(Step::Timeout(k, side));
        }
    }

    /// What may go wrong, or is decided outside.
    fn mishaps(&self, world: &World, steps: &mut Vec<Step>) {
        let Setting { crashes, silences, stops, hang_ups, failures, jams, .. } = self.setting;
        let silent = (0..world.processes.len()).filter(|&who| world.processes[who].life == Life::Silent);
        steps.extend(silent.map(Step::Continue));
        if world.faults == 0 {
            return;
        }
        for (who, process) in world.processes.iter().enumerate() {
            let matters = process.holds || !world.is_idle(who);
            let runs = world.runs(who);
            if crashes && matters && process.life != Life::Dead {
                steps.push(Step::Crash(who));
            }
            if silences && matters && runs {
                steps.push(Step::Silence(who));
            }
            let owns = process.accepting || world.has_stopped_accepting(who);
            if stops && runs && owns && process.stop == Stop::No && !process.yields {
                steps.push(Step::Stop(who));
            }
        }
        for (k, call) in world.calls.iter().enumerate() {
            let is_early = matches!(call.giving, Giving::Requested | Giving::Offered | Giving::Ready | Giving::Stopped);
            let takes = call.successor.is_some() && world.runs(call.taker);
            if stops && takes && !call.serves() {
                steps.push(Step::GiveUp(k));
            }
            if failures && takes && call.serves() && world.processes[call.taker].accepting {
                steps.push(Step::Fail(k));
            }
            if jams && call.giving == Giving::Stopped && call.giver.is_some_and(|giver| world.runs(giver)) {
                steps.push(Step::Jam(k));
            }
            if hang_ups && takes && call.serves() {
                steps.push(Step::HangUp(k, Side::Taker));
            }
            if hang_ups && is_early && call.giver.is_some_and(|giver| world.runs(giver)) {
                steps.push(Step::HangUp(k, Side::Giver));
            }
        }
    }

    fn take(&self, world: &mut World, step: Step) {
        let setting = &self.setting;
        if step.is_mishap() && world.faults != Setting::ANY_NUMBER {
            world.faults -= u8::from(!matches!(step, Step::Continue(_)));
        }
        match step {
            Step::Connect(who) => world.connect(setting, who),
            Step::Accept(k, who) => world.calls[k].giver = Some(who),
            Step::Hear(k, Side::Taker) => self.taker_hears(world, k),
            Step::Hear(k, Side::Giver) => self.giver_hears(world, k),
            Step::Timeout(k, Side::Taker) => self.taker_times_out(world, k),
            Step::Timeout(k, Side::Giver) => world.tell_giver(setting, k, Input::Timeout),
            Step::Progress(k) => world.progress(setting, k),
            Step::Ready(k) => world.ready(setting, k),
            Step::Killed(who) | Step::Crash(who) | Step::Exit(who) => world.crash(setting, who),
            Step::Settle(who) => world.stopped(setting, who),
            Step::Keep(who) => world.keep(who),
            Step::LetGo(who) => world.let_copies_go(setting, who),
            Step::Fail(k) => world.fail(setting, k),
            Step::Unsent(k) => world.unsent(setting, k),
            Step::Sent(k) => world.calls[k].jammed = false,
            Step::Stop(who) => world.stop(setting, who),
            Step::GiveUp(k) => world.abort_taking(setting, k),
            Step::HangUp(k, side) => world.hang_up(k, side),
            Step::Silence(who) => world.processes[who].life = Life::Silent,
            Step::Continue(who) => world.processes[who].life = Life::Runs,
            Step::Count(k) => world.count(setting, k),
            Step::Answer(k)
            | Step::Offer(k)
            | Step::StopAccepting(k)
            | Step::Release(k)
            | Step::Jam(k)
            | Step::Farewell(k) => self.give(world, step, k),
        }
    }

    /// A step of the predecessor's application.
    fn give(&self, world: &mut World, step: Step, k: usize) {
        let setting = &self.setting;
        let Some(giver) = world.calls[k].giver else { return };
        match step {
            Step::Answer(_) => world.answer(setting, k, giver),
            Step::Offer(_) => world.offer(setting, k, giver),
            Step::StopAccepting(_) => world.stop_accepting(setting, k, giver),
            Step::Release(_) => world.release(setting, k, giver),
            Step::Jam(_) => world.jam(setting, k, giver),
            Step::Farewell(_) => world.farewell(setting, k, giver),
            _ => {}
        }
    }

    fn taker_hears(&self, world: &mut World, k: usize) {
        let news = self.news(world, k, Side::Taker);
        let call = &mut world.calls[k];
        let input = match news {
            Some(News::Frame) => {
                let Some((frame, fds)) = call.to_taker.pop_front() else { return };
                Input::Frame(frame, fds)
            }
            Some(News::Eof) => {
                call.taker_ear.said_eof = true;
                if self.setting.makes(Mistake::TakesEofForDeath) { Input::Died } else { Input::Eof }
            }
            Some(News::Death) => {
                call.taker_ear.said_dead = true;
                if self.setting.makes(Mistake::MissesPredecessorsDeath) {
                    return;
                }
                Input::Died
            }
            None => return,
        };
        world.tell_taker(&self.setting, k, input);
        world.let_go(k);
    }

    fn giver_hears(&self, world: &mut World, k: usize) {
        let news = self.news(world, k, Side::Giver);
        let call = &mut world.calls[k];
        let input = match news {
            Some(News::Frame) => {
                let Some((frame, fds)) = call.to_giver.pop_front() else { return };
                if matches!(frame, ClientFrame::Settled(_)) && self.setting.makes(Mistake::MissesSettled) {
                    return;
                }
                Input::Frame(frame, fds)
            }
            Some(News::Eof) => {
                call.giver_ear.said_eof = true;
                if self.setting.makes(Mistake::TakesEofForDeath) { Input::Died } else { Input::Eof }
            }
            Some(News::Death) => {
                call.giver_ear.said_dead = true;
                let drains = matches!(call.giving, Giving::Draining | Giving::Counting | Giving::Parting);
                if drains && self.setting.makes(Mistake::MissesDeathInDrain) {
                    return;
                }
                Input::Died
            }
            None => return,
        };
        world.tell_giver(&self.setting, k, input);
    }

    fn taker_times_out(&self, world: &mut World, k: usize) {
        let is_impatient =
            world.calls[k].taking == Taking::Readied && self.setting.makes(Mistake::TakesSilenceForDeath);
        let input = if is_impatient { Input::Died } else { Input::Timeout };
        world.tell_taker(&self.setting, k, input);
    }

    fn news(&self, world: &World, k: usize, side: Side) -> Option<News> {
        let is_first = self.setting.makes(Mistake::ReportsDeathFirst) && world.death_is_known(k, side);
        if is_first { Some(News::Death) } else { world.news(k, side) }
    }

    /// Nothing will happen any more, nobody serves, and somebody waits who could. A successor that is silent and
    /// cannot be ended is the one excuse: it may be serving, as far as anybody can know.
    fn is_abandoned(&self, world: &World) -> bool {
        // A keeper that has nothing can only wait, and where somebody is silent who has copies, the service is that one's.
        let keeps = |who: usize| world.processes[who].holds && !world.somebody_else_holds(who);
        let could = |who| world.runs(who) && (!self.setting.is_keeper(who) || keeps(who));
        if serving(world) > 0 || !(0..world.processes.len()).any(could) {
            return false;
        }
        let mut steps = Vec::new();
        self.own_course(world, &mut steps);
        let may_fence = self.setting.may_fence && self.setting.pidfds;
        steps.is_empty() && (may_fence || !world.awaits_a_silent_successor())
    }
}

impl Step {
    /// Whether it may as well not happen.
    fn is_mishap(self) -> bool {
        use Step::{Continue, Crash, Fail, GiveUp, HangUp, Jam, Silence, Stop};
        matches!(self, Crash(_) | Stop(_) | Fail(_) | Jam(_) | GiveUp(_) | HangUp(..) | Silence(_) | Continue(_))
    }
}

fn kept(world: &World, promise: &'static str) -> bool {
    world.breach != Some(promise)
}

/// How many accept, or would if they were continued.
fn serving(world: &World) -> usize {
    world.processes.iter().filter(|process| process.accepting).count()
}

/// Whoever serves by a release knows what came with it, and so does everybody else, unless whoever released was killed: a
/// predecessor of that one's may have been faster than the one that it released to.
fn knows_what_was_released(world: &World) -> bool {
    let mut owners = world.processes.iter().filter(|process| process.accepting);
    let lost = world.processes[world.releaser].crashed;
    owners.all(|process| process.knows & world.committed == world.committed || lost && !process.released_to)
}

fn owners_hold_the_lock(world: &World) -> bool {
    (0..world.processes.len()).all(|who| !world.processes[who].accepting || world.lock == Some(who))
}

/// Who owns the service and has not stopped accepting in order to release it, accepts.
fn owners_accept(setting: &Setting, world: &World) -> bool {
    (0..world.processes.len()).all(|who| {
        let process = &world.processes[who];
        process.accepting
            || !process.holds
            || setting.is_keeper(who)
            || process.stop != Stop::No
            || process.leaving
            || world.is_taking(who)
            || world.has_stopped_accepting(who)
            || world.has_released(who)
    })
}

/// A step in words, in the world that it is taken in.
pub(crate) fn describe(world: &World, step: Step) -> String {
    match step {
        Step::Connect(who) => format!("{} looks for the service", name(who)),
        Step::Accept(k, who) => format!("{} accepts the connection of {}", name(who), taker(world, k)),
        Step::Answer(k) => format!("{} reads the first line of {}", giver(world, k), taker(world, k)),
        Step::Offer(k) => format!("{} makes its offer to {}", giver(world, k), taker(world, k)),
        Step::Ready(k) => format!("{} has initialised and says ready", taker(world, k)),
        Step::StopAccepting(k) => format!("{} stops accepting", giver(world, k)),
        Step::Release(k) => format!("{} releases", giver(world, k)),
        Step::Progress(k) => format!("{} tells how it initialises", taker(world, k)),
        Step::Count(k) => format!("{} tells how many connections are left", giver(world, k)),
        Step::Farewell(k) => format!("{} has drained and says farewell", giver(world, k)),
        Step::Hear(k, Side::Taker) => format!("{} {}", taker(world, k), heard(world, k, Side::Taker)),
        Step::Hear(k, Side::Giver) => format!("{} {}", giver(world, k), heard(world, k, Side::Giver)),
        Step::Timeout(k, Side::Taker) => format!("{}'s deadline passes", taker(world, k)),
        Step::Timeout(k, Side::Giver) => format!("{}'s deadline passes", giver(world, k)),
        Step::Killed(who) => format!("the kernel ends {}", name(who)),
        Step::Unsent(k) => format!("{} hears that its release has not left", giver(world, k)),
        Step::Sent(k) => format!("the release of {} leaves after all", giver(world, k)),
        Step::Settle(who) => format!("{} has drained and says that it stops", name(who)),
        Step::Keep(who) => format!("{} takes the service, which nobody serves", name(who)),
        Step::LetGo(who) => format!("{} closes its copies", name(who)),
        Step::Exit(who) => format!("{} ends", name(who)),
        Step::Crash(who) => format!("{} crashes", name(who)),
        Step::Stop(who) => format!("{} is told to stop", name(who)),
        Step::Fail(k) => format!("{} finds that it cannot serve", taker(world, k)),
        Step::Jam(k) => format!("{} releases, and the kernel does not take it", giver(world, k)),
        Step::GiveUp(k) => format!("{} gives up", taker(world, k)),
        Step::HangUp(k, Side::Taker) => format!("{} closes its connection without a word", taker(world, k)),
        Step::HangUp(k, Side::Giver) => format!("{} closes its connection without a word", giver(world, k)),
        Step::Silence(who) => format!("{} falls silent", name(who)),
        Step::Continue(who) => format!("{} runs again", name(who)),
    }
}

fn heard(world: &World, k: usize, side: Side) -> String {
    let call = &world.calls[k];
    let tag = match side {
        Side::Taker => call.to_taker.front().map(|(frame, _)| frame.tag()),
        Side::Giver => call.to_giver.front().map(|(frame, _)| frame.tag()),
    };
    match (world.news(k, side), tag) {
        (Some(News::Frame), Some(tag)) => format!("reads {tag}"),
        (Some(News::Eof), _) => "reads the end of the stream".to_owned(),
        _ => "hears of the death at the other end".to_owned(),
    }
}

fn taker(world: &World, k: usize) -> impl fmt::Display {
    name(world.calls[k].taker)
}

fn giver(world: &World, k: usize) -> impl fmt::Display {
    world.calls[k].giver.map_or("nobody".to_owned(), name)
}

fn name(who: usize) -> String {
    if who == 0 { "P".to_owned() } else { format!("S{who}") }
}

/// Who accepts, in words.
pub(crate) fn owners(world: &World) -> String {
    let owners: Vec<String> =
        (0..world.processes.len()).filter(|&who| world.processes[who].accepting).map(name).collect();
    if owners.is_empty() { "nobody".to_owned() } else { owners.join(" and ") }
}
