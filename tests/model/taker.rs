//! The successor's end of a connection: its link, and its application.

use std::collections::VecDeque;

use fd_handoff::Cause;
use fd_handoff::core::wire::{Ending, PROTOCOL, Receive, ServerFrame};
use fd_handoff::core::{Departure, Input, Output, Role, Successor, SuccessorCommand, SuccessorEvent};

use crate::mistake::Mistake;
use crate::setting::Setting;
use crate::world::{
    BASE, Call, Ear, Fd, Giving, LISTENERS, PIDFD, Process, Side, Stop, Taker, Taking, WAITS, World, now, promise,
};

impl World {
    /// Hands one thing to the successor's machine, and does what it wants done.
    pub(crate) fn tell_taker(&mut self, setting: &Setting, k: usize, input: Input<Taker>) {
        let Some(role) = &mut self.calls[k].successor else { return };
        let released = matches!(input, Input::Frame(ServerFrame::Release(_), _));
        role.handle(now(role.deadline(), &input), input);
        let unclaimed = if released { Mistake::AcceptsUnclaimed } else { Mistake::SucceedsUnclaimed };
        self.carry_out_taker(setting, k, setting.makes(unclaimed));
    }

    fn carry_out_taker(&mut self, setting: &Setting, k: usize, unclaimed: bool) {
        while let Some(output) = self.calls[k].successor.as_mut().and_then(Role::poll_output) {
            match output {
                Output::Send(frame, fds) if self.calls[k].giving != Giving::Closed => {
                    self.calls[k].to_giver.push_back((frame, fds));
                }
                Output::Send(..) | Output::Fence | Output::Withdraw => {}
                Output::Claim => {
                    let ours = unclaimed || self.claim(setting, self.calls[k].taker);
                    if let Some(role) = &mut self.calls[k].successor {
                        role.handle(*BASE, Input::Claimed(ours));
                    }
                }
                Output::Disclaim => self.disclaim(self.calls[k].taker),
                Output::Event(event) => self.taker_event(setting, k, event),
            }
        }
    }

    /// Looks for the service; where there is none, begins it.
    pub(crate) fn connect(&mut self, setting: &Setting, taker: usize) {
        let standby = setting.is_keeper(taker);
        if !self.is_listening() {
            self.processes[taker] = Process { accepting: true, holds: true, ..Process::default() };
            // One of its own: nobody else has it.
            self.lock = setting.arbiter.then_some(taker);
            // What the others knew died with them.
            self.committed = 0;
            return;
        }
        self.processes[taker].attempts -= 1;
        let receive = Receive {
            protocol: PROTOCOL,
            pid: taker as u32,
            version: String::new(),
            schemas: vec![1],
            fingerprints: None,
            services: None,
            standby,
            instance: None,
            take: false,
        };
        self.calls.push(Call {
            taker,
            giver: None,
            successor: Some(Successor::new(receive, WAITS, *BASE)),
            predecessor: None,
            taking: Taking::Waiting,
            giving: Giving::Looking,
            to_taker: VecDeque::new(),
            to_giver: VecDeque::new(),
            jammed: false,
            taker_ear: Ear::default(),
            giver_ear: Ear::default(),
        });
        self.carry_out_taker(setting, self.calls.len() - 1, false);
    }

    pub(crate) fn progress(&mut self, setting: &Setting, k: usize) {
        self.calls[k].taking = Taking::Progressing;
        let message = "warming caches".to_owned();
        self.tell_taker(setting, k, Input::Command(SuccessorCommand::Progress(message)));
    }

    pub(crate) fn ready(&mut self, setting: &Setting, k: usize) {
        self.calls[k].taking = Taking::Readied;
        self.tell_taker(setting, k, Input::Command(SuccessorCommand::Ready));
        let taker = self.calls[k].taker;
        self.processes[taker].accepting |= setting.makes(Mistake::ServesAtReady);
        self.let_go(k);
    }

    fn taker_event(&mut self, setting: &Setting, k: usize, event: SuccessorEvent<Fd>) {
        let taker = self.calls[k].taker;
        match event {
            SuccessorEvent::Offered(_, pidfd) => self.calls[k].taker_ear.pidfd = pidfd == Some(PIDFD),
            SuccessorEvent::Batch(batch) => {
                let fds: Vec<Fd> = batch.into_iter().map(|(_, fd)| fd).collect();
                assert_eq!(fds, LISTENERS.map(|(_, fd)| fd), "the descriptors are those that were offered, in order");
                self.processes[taker].holds = true;
            }
            SuccessorEvent::Complete(snapshot) => {
                self.processes[taker].knows |= snapshot.map_or(0, |packet| packet.memfd);
                self.calls[k].taking = Taking::Initialising;
                self.processes[taker].kept |= setting.is_keeper(taker);
            }
            SuccessorEvent::Released { state, release } => {
                let state = state.filter(|_| !setting.makes(Mistake::DropsTheFinalState));
                self.processes[taker].knows |= state.map_or(0, |packet| packet.memfd);
                self.processes[taker].accepting = true;
                self.processes[taker].released_to = release.is_some();
                self.processes[taker].attempts = 0;
                self.calls[k].taking = Taking::Following;
                if release.is_none() && self.calls[k].giver.is_some_and(|giver| self.processes[giver].stopped) {
                    self.broke(promise::STOPPED);
                }
                if release.is_none() && !self.giver_is_dead(k) {
                    self.broke(promise::ORPHAN);
                }
            }
            SuccessorEvent::Farewell(_) if setting.makes(Mistake::DropsTheFarewell) => {}
            SuccessorEvent::Farewell(packet) => self.processes[taker].knows |= packet.memfd,
            SuccessorEvent::Departed(how) => self.departed(setting, k, how),
            SuccessorEvent::Failed(cause) => self.taking_failed(setting, k, &cause),
            SuccessorEvent::Hello(_) | SuccessorEvent::Draining(_) | SuccessorEvent::Checkpoint(_) => {}
        }
    }

    fn departed(&mut self, setting: &Setting, k: usize, how: Departure) {
        let Call { taker, giver, .. } = self.calls[k];
        let owed = giver.map_or(0, |giver| self.processes[giver].knows);
        if how == Departure::Farewell && self.processes[taker].knows & owed != owed {
            self.broke(promise::FAREWELL);
        }
        self.calls[k].taking = Taking::Alone;
        // The predecessor may still watch over this side: it has to hear when this side stops in good order.
        if setting.makes(Mistake::HangsUpAtFarewell) {
            self.calls[k].close(Side::Taker);
        }
    }

    fn taking_failed(&mut self, setting: &Setting, k: usize, cause: &Cause) {
        if setting.is_keeper(self.calls[k].taker) {
            return self.stop_keeping(k);
        }
        let had_everything = self.calls[k].taking != Taking::Waiting;
        let was_told = matches!(cause, Cause::Here(_) | Cause::Aborted { .. } | Cause::Outrun(_));
        if setting.pidfds && had_everything && !was_told && self.giver_is_dead(k) {
            self.broke(promise::ORPHAN);
        }
        self.stop_taking(k);
    }

    /// A keeper whose connection is over looks again, or takes the service.
    fn stop_keeping(&mut self, k: usize) {
        let keeper = &mut self.processes[self.calls[k].taker];
        keeper.holds = keeper.kept;
        let is_of_use = keeper.holds || keeper.attempts > 0;
        self.calls[k].close(Side::Taker);
        if !is_of_use {
            self.die(self.calls[k].taker);
        }
    }

    /// A keeper takes the service: nobody serves it.
    pub(crate) fn keep(&mut self, keeper: usize) {
        self.lock = Some(keeper);
        if !self.somebody_else_holds(keeper) {
            // What others knew died with them.
            self.committed &= self.processes[keeper].knows;
        }
        self.processes[keeper].accepting = true;
        self.processes[keeper].released_to = false;
    }

    /// Closes what came, and tries again or exits.
    pub(crate) fn stop_taking(&mut self, k: usize) {
        let taker = self.calls[k].taker;
        self.processes[taker].holds = false;
        self.processes[taker].accepting = false;
        self.calls[k].close(Side::Taker);
        if self.processes[taker].attempts == 0 {
            self.die(taker);
        }
    }

    pub(crate) fn abort_taking(&mut self, setting: &Setting, k: usize) {
        match self.calls[k].taking {
            // A transfer that is dropped says nothing.
            Taking::Waiting => self.stop_taking(k),
            _ => {
                let cause = Cause::Here("the successor's application gave up".to_owned());
                self.tell_taker(setting, k, Input::Command(SuccessorCommand::Abort(cause)));
            }
        }
    }

    fn giver_is_dead(&self, k: usize) -> bool {
        self.calls[k].giver.is_some_and(|giver| self.is_dead(giver))
    }

    /// Tells the predecessor, if one watches over this process, that nobody is to take back. What says more stands.
    pub(crate) fn settle(&mut self, setting: &Setting, who: usize, ending: Ending) {
        for k in 0..self.calls.len() {
            if self.calls[k].taker == who && self.calls[k].serves() {
                self.tell_taker(setting, k, Input::Command(SuccessorCommand::Settle(ending)));
                if self.processes[who].settled != Some(Ending::Stopped) {
                    self.processes[who].settled = Some(ending);
                }
            }
        }
    }

    /// Exits, with a word to whoever watches over this process.
    pub(crate) fn leave(&mut self, setting: &Setting, who: usize) {
        self.settle(setting, who, Ending::HandedOver);
        self.die(who);
    }

    /// One side closes its connection without a word, and lives.
    pub(crate) fn hang_up(&mut self, k: usize, side: Side) {
        let Call { taker, giver, .. } = self.calls[k];
        self.calls[k].close(side);
        match side {
            Side::Taker => self.processes[taker].estranged = true,
            Side::Giver => {
                let giver = &mut self.processes[giver.unwrap_or(taker)];
                (giver.accepting, giver.estranged) = (true, true);
            }
        }
    }

    /// A successor whose predecessor is gone has no more use for the connection.
    pub(crate) fn let_go(&mut self, k: usize) {
        let call = &self.calls[k];
        if call.serves() && call.successor.as_ref().is_some_and(Successor::is_over) {
            self.calls[k].close(Side::Taker);
        }
    }

    /// A process that serves is told to stop: it does not accept any more, and its handoff is over.
    pub(crate) fn stop(&mut self, setting: &Setting, who: usize) {
        let keeping = self.keeping(setting, who).filter(|_| self.processes[who].accepting);
        for k in 0..self.calls.len() {
            if self.calls[k].gives(who) && Some(k) != keeping {
                self.abort_giving(setting, k);
            }
        }
        if keeping.is_some() {
            self.processes[who].yields = true;
            return;
        }
        self.processes[who].accepting = false;
        self.processes[who].stop = Stop::Draining;
    }

    /// Its connections have ended. It says so, and stays until everybody has let go.
    pub(crate) fn stopped(&mut self, setting: &Setting, who: usize) {
        let heirs = self.heirs(who);
        self.settle(setting, who, Ending::Stopped);
        let process = &mut self.processes[who];
        process.stopped = !process.estranged;
        process.heirs = heirs;
        process.stop = Stop::Settling;
        process.letting_go = true;
    }

    /// An owner finds that it cannot serve. It says so to its predecessor, does nothing more, and is about to end.
    pub(crate) fn fail(&mut self, setting: &Setting, k: usize) {
        let taker = self.calls[k].taker;
        self.processes[taker].accepting = false;
        self.processes[taker].leaving = true;
        self.processes[taker].crashed = true;
        let reason = "cannot bind a port".to_owned();
        self.tell_taker(setting, k, Input::Command(SuccessorCommand::Relinquish(reason)));
        self.calls[k].close(Side::Taker);
    }
}
