//! The predecessor's end of a connection: its link, and its application.

use std::sync::Arc;

use fd_handoff::core::wire::{
    ClientFrame, Ending, Entry, ErrorCode, Kind, Name, Offer, PROTOCOL, Ready, Receive, Received, ServerFrame,
    StateInfo,
};
use fd_handoff::core::{
    Answer, Desk, Gift, Input, Inspector, Output, Packet, Predecessor, PredecessorCommand, PredecessorEvent, Role,
};

use crate::mistake::Mistake;
use crate::setting::Setting;
use crate::world::{
    BASE, Call, Fd, Giver, Giving, LISTENERS, Life, PIDFD, Process, Side, Stop, WAITS, World, now, promise,
};

impl World {
    /// A predecessor's machine that has released.
    pub(crate) fn released() -> Giver {
        let setting = Setting { faults: 0, ..crate::PAIR };
        let mut world = World::new(&setting);
        world.connect(&setting, 1);
        world.calls[0].giver = Some(0);
        world.answer(&setting, 0, 0);
        world.offer(&setting, 0, 0);
        let giver = world.calls[0].predecessor.take();
        let mut giver = giver.expect("the handoff has begun");
        let ready = [ClientFrame::from(Received { batch: 0 }), Ready {}.into()];
        ready.into_iter().for_each(|frame| giver.handle(*BASE, Input::Frame(frame, vec![])));
        let release = PredecessorCommand::Release { state: None, monotonic_us: 0, timens: None };
        giver.handle(*BASE, Input::Command(release));
        while giver.poll_output().is_some() {}
        giver
    }

    /// Hands one thing to the predecessor's machine, and does what it wants done.
    pub(crate) fn tell_giver(&mut self, setting: &Setting, k: usize, input: Input<Giver>) {
        let mut input = Some(input);
        while let Some(next) = input.take() {
            let Some(role) = &mut self.calls[k].predecessor else { return };
            role.handle(now(role.deadline(), &next), next);
            while let Some(output) = self.calls[k].predecessor.as_mut().and_then(Role::poll_output) {
                match output {
                    Output::Send(frame, fds) if self.calls[k].successor.is_some() => {
                        self.calls[k].to_taker.push_back((frame, fds));
                    }
                    Output::Send(..) => {}
                    Output::Event(event) => self.giver_event(setting, k, &event),
                    Output::Fence => input = Some(self.fence(setting, k)),
                    Output::Claim => input = Some(Input::Claimed(self.claim_back(setting, k))),
                    Output::Disclaim => self.give_the_lock_up(setting, k),
                    Output::Withdraw => self.calls[k].withdraw(),
                }
            }
        }
    }

    fn fence(&mut self, setting: &Setting, k: usize) -> Input<Giver> {
        if setting.makes(Mistake::TakesBackUnfenced) {
            return Input::Died;
        }
        match self.kill(setting, k) {
            true if setting.makes(Mistake::CallsTheFencedDead) => Input::Died,
            false if setting.makes(Mistake::CallsTheUnfencedDead) => Input::Died,
            taken => Input::Fenced(taken),
        }
    }

    fn claim_back(&mut self, setting: &Setting, k: usize) -> bool {
        let Some(giver) = self.calls[k].giver else { return false };
        if setting.makes(Mistake::TakesBackUnclaimed) {
            return true;
        }
        let ours = self.claim(setting, giver);
        self.processes[giver].outrun |= !ours;
        ours
    }

    fn give_the_lock_up(&mut self, setting: &Setting, k: usize) {
        if let Some(giver) = self.calls[k].giver.filter(|_| !setting.makes(Mistake::KeepsTheLock)) {
            self.disclaim(giver);
        }
    }

    fn giver_event(&mut self, setting: &Setting, k: usize, event: &PredecessorEvent) {
        let Some(giver) = self.calls[k].giver else { return };
        match event {
            PredecessorEvent::Ready => self.calls[k].giving = Giving::Ready,
            PredecessorEvent::Active => {
                self.renew_keeper(setting, k, giver);
                self.processes[giver].accepting = false;
                self.processes[giver].handed_over = true;
                self.processes[giver].holds &= !setting.makes(Mistake::LetsGoEarly);
                self.calls[k].giving = Giving::Draining;
            }
            PredecessorEvent::ProbationOver => self.settle(setting, giver, Ending::HandedOver),
            PredecessorEvent::Settled(ending) => self.wind_up(setting, giver, *ending),
            // Nothing was given up, and nothing depended on it.
            PredecessorEvent::Failed(_) if self.is_beside(setting, k, giver) => self.calls[k].close(Side::Giver),
            PredecessorEvent::Failed(_) => self.resume(setting, k, giver),
            PredecessorEvent::TakenBack(_) => {
                let taker = &self.processes[self.calls[k].taker];
                if taker.settled.is_some() || taker.stopped {
                    self.broke(promise::SETTLED);
                }
                self.resume(setting, k, giver);
            }
            PredecessorEvent::Unknown(_) => {
                if setting.pidfds && !self.processes[giver].outrun {
                    self.broke(promise::SERVED);
                }
                self.die(giver);
            }
            PredecessorEvent::Departed => {
                let taker = &self.processes[self.calls[k].taker];
                // Who stops and gives the service up to its keeper does not watch over that.
                let stops = setting.is_keeper(self.calls[k].taker);
                let watched = taker.settled.is_none() && !self.processes[giver].outrun && !stops;
                // It does not wait either for one that it has not heard from in time.
                self.overtime |= stops && self.heirs(giver) != 0;
                if setting.pidfds && taker.life == Life::Dead && watched {
                    self.broke(promise::SERVED);
                }
                if setting.is_keeper(giver) {
                    // It has copies, and looks for the service again.
                    self.settle(setting, giver, Ending::HandedOver);
                    self.calls[k].close(Side::Giver);
                    return;
                }
                self.leave(setting, giver);
            }
            PredecessorEvent::Transferred | PredecessorEvent::Progress(_) | PredecessorEvent::Stranded => {}
        }
    }

    /// The service is this process's, still or again.
    fn resume(&mut self, setting: &Setting, k: usize, giver: usize) {
        if !self.processes[giver].holds {
            self.broke(promise::LET_GO);
        }
        let unsent = self.calls[k].giving == Giving::Released && setting.makes(Mistake::GivesUpUnsent);
        self.processes[giver].accepting |= !setting.makes(Mistake::StaysOutAfterFailure) && !unsent;
        self.calls[k].close(Side::Giver);
        if std::mem::take(&mut self.processes[giver].yields) {
            // It was told to stop, and there is no keeper any more.
            self.stop(setting, giver);
        }
    }

    /// What the keeper has is the successor's to give from here on.
    fn renew_keeper(&mut self, setting: &Setting, k: usize, giver: usize) {
        if setting.is_keeper(self.calls[k].taker) {
            return;
        }
        for other in 0..self.calls.len() {
            if self.calls[other].gives(giver) && setting.is_keeper(self.calls[other].taker) {
                self.command_giver(setting, other, PredecessorCommand::Renew);
            }
        }
    }

    /// Whether this is the handoff with a keeper, and the service goes on meanwhile.
    fn is_beside(&self, setting: &Setting, k: usize, giver: usize) -> bool {
        setting.is_keeper(self.calls[k].taker) && !self.processes[giver].yields
    }

    /// Reads the first line of a connection, as `reception` does.
    pub(crate) fn answer(&mut self, setting: &Setting, k: usize, giver: usize) {
        let Some((frame, _)) = self.calls[k].to_giver.pop_front() else { return };
        let is_keepers = |call: &&Call| setting.is_keeper(call.taker);
        let given = || self.calls.iter().filter(|call| call.gives(giver));
        let in_the_way = !self.processes[giver].accepting || self.processes[giver].yields;
        let keeper = given().find(is_keepers).map(|call| call.taker as u32).or(in_the_way.then_some(giver as u32));
        let ours = given().find(|call| !is_keepers(call) || self.processes[giver].yields);
        let busy_with = match ours {
            Some(call) => Some(call.taker as u32),
            None if self.processes[giver].accepting => None,
            None => Some(giver as u32),
        };
        let told = busy_with.filter(|_| !setting.makes(Mistake::IsNeverBusy));
        let desk = Desk { successor: told, keeper, operable: true, ..Desk::default() };
        match Inspector::new(*BASE).line(*BASE, Ok(frame), desk) {
            Answer::Begin(receive) => {
                if busy_with.is_some() {
                    self.broke(promise::BUSY);
                }
                // Whoever hands over is not to be succeeded by its predecessor as well. Where there is a lock, that one
                // finds it taken; where there is none, two would take over.
                let settles = if setting.arbiter {
                    setting.makes(Mistake::SettlesEarly)
                } else {
                    !setting.makes(Mistake::HandsOverUnsettled)
                };
                if settles {
                    self.settle(setting, giver, Ending::HandedOver);
                }
                self.begin(setting, k, receive);
            }
            Answer::Keep(receive) => self.begin(setting, k, receive),
            Answer::Refuse(_, failure) => self.refuse(k, failure.into()),
            Answer::Close(frame) => self.refuse(k, frame),
            other => unreachable!("{other:?}: the first line here is always receive"),
        }
    }

    fn begin(&mut self, setting: &Setting, k: usize, receive: Receive) {
        let call = &mut self.calls[k];
        call.giving = Giving::Requested;
        call.giver_ear.pidfd = setting.pidfds;
        call.predecessor = Some(Predecessor::new(receive, WAITS, setting.pidfds));
    }

    fn refuse(&mut self, k: usize, frame: ServerFrame) {
        if self.calls[k].successor.is_some() {
            self.calls[k].to_taker.push_back((frame, vec![]));
        }
        self.calls[k].close(Side::Giver);
    }

    pub(crate) fn offer(&mut self, setting: &Setting, k: usize, giver: usize) {
        let snapshot = packet(self.processes[giver].knows);
        self.calls[k].giving = Giving::Offered;
        let descriptors = LISTENERS.map(|(name, fd)| (entry(name), fd)).into();
        let pidfd = setting.pidfds.then_some(PIDFD);
        let gift = Gift { offer: announcement(giver), pidfd, descriptors, snapshot: Some(snapshot) };
        self.command_giver(setting, k, PredecessorCommand::Offer(Box::new(gift)));
    }

    pub(crate) fn stop_accepting(&mut self, setting: &Setting, k: usize, giver: usize) {
        self.processes[giver].accepting = setting.makes(Mistake::ReleasesBeforeItStops);
        self.processes[giver].knows |= update_before_release(giver);
        self.calls[k].giving = Giving::Stopped;
    }

    pub(crate) fn release(&mut self, setting: &Setting, k: usize, giver: usize) {
        let knows = self.processes[giver].knows;
        (self.committed, self.releaser) = (knows, giver);
        self.calls[k].giving = Giving::Released;
        let state = Some(packet(knows));
        self.command_giver(setting, k, PredecessorCommand::Release { state, monotonic_us: 0, timens: None });
    }

    /// The release stays in the queue, and the predecessor does not know yet.
    pub(crate) fn jam(&mut self, setting: &Setting, k: usize, giver: usize) {
        let queued = self.calls[k].to_taker.len();
        self.release(setting, k, giver);
        self.calls[k].jammed = self.calls[k].to_taker.len() > queued;
    }

    pub(crate) fn unsent(&mut self, setting: &Setting, k: usize) {
        let reason = "too many references".to_owned();
        self.tell_giver(setting, k, Input::Unsent { frame: "release", reason });
    }

    /// Nobody takes back here from now on.
    fn wind_up(&mut self, setting: &Setting, giver: usize, ending: Ending) {
        self.settle(setting, giver, ending);
        match ending {
            Ending::Stopped => self.processes[giver].letting_go = true,
            _ => self.processes[giver].holds = setting.is_keeper(giver),
        }
    }

    /// Closes the copies that a process has, since the service has stopped.
    pub(crate) fn let_copies_go(&mut self, setting: &Setting, who: usize) {
        self.overtime |= self.has_silent_heirs(who);
        self.processes[who].letting_go = false;
        // What a keeper has it keeps: the next process takes over from it.
        self.processes[who].holds = setting.is_keeper(who) && self.processes[who].stop == Stop::No;
        for k in 0..self.calls.len() {
            if self.calls[k].gives(who) {
                self.command_giver(setting, k, PredecessorCommand::LetGo);
            }
        }
        if self.processes[who].stop == Stop::Settling {
            self.end_the_service(setting, who);
        }
    }

    /// The last one goes. Whoever starts now finds every address free, unless one of those that watched over it was killed
    /// on the way, or is silent: nobody passes the word on then.
    fn end_the_service(&mut self, setting: &Setting, who: usize) {
        let heirs = self.processes[who].heirs;
        let heirs = || {
            (0..self.processes.len()).filter(|heir| heirs >> heir & 1 == 1).map(|heir| (heir, &self.processes[heir]))
        };
        let in_order = !self.overtime && !self.processes[who].estranged && !heirs().any(|(_, heir)| heir.crashed);
        let has_copies =
            |(who, heir): (usize, &Process)| heir.life == Life::Runs && heir.holds && !setting.is_keeper(who);
        if in_order && heirs().any(has_copies) {
            self.broke(promise::STOPPED);
        }
        self.die(who);
    }

    pub(crate) fn count(&mut self, setting: &Setting, k: usize) {
        self.calls[k].giving = Giving::Counting;
        self.command_giver(setting, k, PredecessorCommand::Draining(1));
    }

    pub(crate) fn farewell(&mut self, setting: &Setting, k: usize, giver: usize) {
        self.processes[giver].knows |= update_before_farewell(giver);
        self.calls[k].giving = Giving::Parting;
        let states = vec![packet(self.processes[giver].knows)];
        self.command_giver(setting, k, PredecessorCommand::Farewell(states));
    }

    pub(crate) fn abort_giving(&mut self, setting: &Setting, k: usize) {
        let reason = "the predecessor's application gave up".to_owned();
        self.command_giver(setting, k, PredecessorCommand::Abort(ErrorCode::Application, reason));
    }

    fn command_giver(&mut self, setting: &Setting, k: usize, command: PredecessorCommand<Fd>) {
        self.tell_giver(setting, k, Input::Command(command));
    }
}

fn update_before_release(who: usize) -> u8 {
    1 << (2 * who)
}

fn update_before_farewell(who: usize) -> u8 {
    2 << (2 * who)
}

fn packet(memfd: Fd) -> Packet<Fd> {
    Packet { info: StateInfo { length: 1, schema: 1, codec: String::new(), fingerprint: None }, memfd }
}

fn entry(name: &str) -> Arc<Entry> {
    let name = if name == "@control" { Name::control() } else { Name::try_from(name.to_owned()).expect("a good name") };
    Arc::new(Entry {
        name,
        index: 0,
        kind: Kind::TcpListener,
        addr: None,
        cookie: None,
        netns: None,
        file: None,
        path: None,
        passed: false,
    })
}

fn announcement(giver: usize) -> Offer {
    Offer {
        protocol: PROTOCOL.max,
        generation: 1,
        pid: giver as u32,
        pidfd: false,
        descriptors: 0,
        batches: 0,
        state: None,
        path: None,
        ready_timeout_ms: 1000,
        active_timeout_ms: 1000,
        drain_timeout_ms: 1000,
        history: vec![],
        instance: None,
        superseded: vec![],
    }
}
