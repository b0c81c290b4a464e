//! The life of one generation around its handoffs: its phase, who has asked for what, how its attempts went, and how it ends.
//!
//! Each transition has a name and is one call. Nothing happens in here but to this state: whoever calls does what follows.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::inspector::Desk;
use super::record::{micros, remember};
use super::wire::{
    Attempt, Ending, ErrorCode, KeeperStatus, Outcome, Phase, PredecessorStatus, Receive, SuccessorStatus,
};

/// One generation's life.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lifecycle {
    number: u64,
    pid: u32,
    phase: Phase,
    /// Whether the control socket is this generation's to accept on.
    accepting: bool,
    /// Whether it ever was.
    owned: bool,
    /// Whether somebody takes requests to upgrade and to stop, or is about to.
    operated: bool,
    left: Option<Leave>,
    successor: Option<SuccessorStatus>,
    /// The successor is a process that this one has started.
    own_child: bool,
    predecessor: Option<PredecessorStatus>,
    /// Who keeps the service for the case that this process ends.
    keeper: Option<KeeperStatus>,
    /// This process is a keeper, and serves nobody.
    keeps: bool,
    /// Since when an upgrade has been asked for that has no outcome.
    upgrade: Option<Instant>,
    told: Told,
    history: VecDeque<Attempt>,
}

/// How a generation's application lets the service go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Leave {
    /// It was told to stop, or has called for it: nobody is to serve.
    Stopped,
    /// Its successor serves.
    HandedOver,
    /// Anything else: an error, a return, a panic. Nobody is told, and whoever has copies takes the service.
    Crashed,
}

/// How often, and since when, the service was told to stop. However many say so at once, it is one state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Told {
    times: u32,
    first: Option<Instant>,
}

/// What a generation's control socket has to see to when its application lets the service go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Leaving {
    /// The path is this generation's to remove: nobody serves after it.
    pub removes_path: bool,
    /// The predecessor is told that this end is no reason to take back.
    pub settles: Option<Ending>,
}

impl Lifecycle {
    /// Why no upgrade begins before the service is this generation's.
    pub const NOT_YET: &str = "this process does not serve yet";

    /// A generation that does not own the service yet.
    pub fn new(number: u64, pid: u32, operated: bool) -> Lifecycle {
        Lifecycle {
            number,
            pid,
            phase: Phase::Serving,
            accepting: false,
            owned: false,
            operated,
            left: None,
            successor: None,
            own_child: false,
            predecessor: None,
            keeper: None,
            keeps: false,
            upgrade: None,
            told: Told::default(),
            history: VecDeque::new(),
        }
    }

    /// One of a process that keeps the service, and serves nobody.
    pub fn of_keeper(self) -> Lifecycle {
        Lifecycle { keeps: true, ..self }
    }

    /// The service is this generation's: from a predecessor that drains, if there is one.
    pub fn own(&mut self, history: VecDeque<Attempt>, predecessor: Option<PredecessorStatus>) {
        self.history = history;
        self.predecessor = predecessor;
        self.owned = true;
        self.accepting = self.left.is_none();
    }

    /// Whether the service is, or was, this generation's.
    pub fn has_owned(&self) -> bool {
        self.owned
    }

    /// Its number, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its phase, as it is told to those who look.
    pub fn phase(&self) -> Phase {
        if self.keeps && self.phase == Phase::Serving { Phase::Kept } else { self.phase }
    }

    /// Who keeps the service.
    pub fn keeper(&self) -> Option<KeeperStatus> {
        self.keeper
    }

    /// A keeper asks for everything.
    pub fn keeper_receives(&mut self, pid: u32) {
        self.keeper = Some(KeeperStatus { pid, holds: false });
    }

    /// It has everything: this process may end as it likes.
    pub fn keeper_holds(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            keeper.holds = true;
        }
    }

    /// Nobody keeps the service.
    pub fn no_keeper(&mut self) {
        self.keeper = None;
    }

    /// Whether the control socket is this generation's to accept on.
    pub fn is_accepting(&self) -> bool {
        self.accepting
    }

    /// Whether the control path is this generation's to look after: it owns the service, and nobody else is about to, who
    /// would not have what it puts there.
    // M132
    pub fn keeps_path(&self) -> bool {
        self.accepting && self.successor.is_none()
    }

    /// How its application let the service go, if it has.
    pub fn left(&self) -> Option<Leave> {
        self.left
    }

    /// The last attempts, oldest first.
    pub fn history(&self) -> &VecDeque<Attempt> {
        &self.history
    }

    /// The successor of the handoff under way.
    pub fn successor(&self) -> Option<&SuccessorStatus> {
        self.successor.as_ref()
    }

    /// Whether there is one that can go without consequences: nothing was released to it.
    pub fn successor_may_go(&self) -> bool {
        self.successor.is_some() && matches!(self.phase, Phase::Offering | Phase::Initialising)
    }

    /// The predecessor, while it drains.
    pub fn predecessor(&self) -> Option<&PredecessorStatus> {
        self.predecessor.as_ref()
    }

    /// What an answer at the control socket depends on, but for the service's name.
    pub fn desk(&self) -> Desk<'static> {
        let successor = match (&self.successor, self.accepting, self.left) {
            (Some(successor), ..) => Some(successor.pid),
            // Of one that has stopped or crashed nobody is turned away: whoever has connected before finds it gone, and looks
            // again, for the next one or for nobody.
            (None, true, _) | (None, false, Some(Leave::Stopped | Leave::Crashed)) => None,
            // It has been handed over: whoever is next finds the next generation at the path.
            (None, false, _) => Some(self.pid),
        };
        let stopping = self.told.times > 0;
        let upgrading = self.upgrade.is_some();
        // Whoever does not own the service, or is about to give it up, has nothing to give to a keeper.
        let in_the_way = (!self.accepting || stopping).then_some(self.pid);
        let keeper = self.keeper.map(|keeper| keeper.pid).or(in_the_way);
        Desk {
            operable: self.operated,
            successor,
            keeper,
            lost: false,
            upgrading,
            stopping,
            name: None,
            superseded: &[],
        }
    }

    /// Somebody asks for an upgrade.
    ///
    /// # Errors
    ///
    /// What is in its way.
    pub fn ask_upgrade(&mut self, now: Instant) -> Result<(), String> {
        if self.left.is_some() {
            return Err("this process has stopped, or handed the service over".to_owned());
        }
        if !self.owned {
            return Err(Lifecycle::NOT_YET.to_owned());
        }
        self.desk().busy().map_or(Ok(()), Err)?;
        self.upgrade = Some(now);
        Ok(())
    }

    /// Since when an upgrade is under way that has no outcome.
    pub fn upgrading(&self) -> Option<Instant> {
        self.upgrade
    }

    /// Whether the upgrade that was asked for still has no successor.
    pub fn awaits_successor(&self) -> bool {
        self.upgrade.is_some() && self.successor.is_none()
    }

    /// Whether the upgrade that was asked for is over with a successor that was refused so. One that is in somebody's way, or that was
    /// superseded, is another one than is waited for.
    // M154
    pub fn is_given_up_with(&self, refusal: ErrorCode) -> bool {
        self.upgrade.is_some() && !matches!(refusal, ErrorCode::Busy | ErrorCode::Superseded)
    }

    /// Somebody tells the service to stop. Returns whether that says more than was said before: the first time it is to
    /// stop, and the second time not to wait for anything.
    pub fn tell_to_stop(&mut self, now: Instant) -> bool {
        self.told.first.get_or_insert(now);
        self.told.times = self.told.times.saturating_add(1);
        self.told.times <= 2
    }

    /// Whether the service is to stop.
    pub fn is_stopping(&self) -> bool {
        self.told.times > 0
    }

    /// Whether it was told again, and is to end now.
    pub fn is_to_end_now(&self) -> bool {
        self.told.times > 1
    }

    /// By when the handoff under way has to be ready, since the service was told to stop: at once where the successor is
    /// this process's own child, which is ended; within the time of a drain where somebody else has started it.
    // M129
    pub fn stop_limit(&self, drain: Duration) -> Option<Instant> {
        let told = self.told.first?;
        Some(if self.own_child { told } else { told + drain })
    }

    /// A successor asks for the service.
    pub fn receive(&mut self, receive: &Receive) {
        let Receive { pid, version, instance, .. } = receive.clone();
        self.successor = Some(SuccessorStatus { pid, version, progress: None, instance });
        self.own_child = false;
        self.phase = Phase::Offering;
    }

    /// That successor is a process that this one has started.
    pub fn has_own_child(&mut self) {
        self.own_child = true;
    }

    /// It has everything.
    pub fn transferred(&mut self) {
        self.phase = Phase::Initialising;
    }

    /// It says how its initialisation goes.
    pub fn progress(&mut self, message: String) {
        if let Some(successor) = &mut self.successor {
            successor.progress = Some(message);
        }
    }

    /// This generation has stopped accepting, and gives the service up.
    pub fn release(&mut self) {
        self.accepting = false;
        self.phase = Phase::Released;
    }

    /// The successor is silent, and cannot be ended.
    pub fn strand(&mut self) {
        self.phase = Phase::Stranded;
    }

    /// The successor serves.
    pub fn hand_over(&mut self, attempt: Attempt) {
        self.phase = Phase::Draining;
        self.conclude(attempt);
    }

    /// The handoff failed, and the service is this generation's: still, or again.
    pub fn keep(&mut self, attempt: Attempt) {
        self.no_successor();
        self.accepting = self.left.is_none();
        self.conclude(attempt);
    }

    /// It ended in a way that leaves everything else as it is: nobody knows who serves, or it never began.
    pub fn conclude(&mut self, attempt: Attempt) {
        remember(&mut self.history, attempt);
        self.upgrade = None;
    }

    /// The successor went before the handoff began.
    pub fn no_successor(&mut self) {
        self.successor = None;
        self.own_child = false;
        self.phase = Phase::Serving;
    }

    /// The predecessor says how many connections it has left.
    pub fn predecessor_drains(&mut self, connections: u64) {
        if let Some(predecessor) = &mut self.predecessor {
            predecessor.connections = Some(connections);
        }
    }

    /// There is no predecessor to wait for any more. `drained` says for how long it has drained.
    pub fn predecessor_departed(&mut self, drained: Option<Duration>) {
        self.predecessor = None;
        // The handoff to this generation: attempts of its own may have come after it.
        let (number, pid) = (self.number, self.pid);
        let handoff = self.history.iter_mut().find(|attempt| {
            attempt.from + 1 == number && attempt.successor_pid == pid && attempt.outcome == Outcome::Completed
        });
        if let (Some(handoff), Some(drained)) = (handoff, drained) {
            handoff.drain_us = Some(micros(drained));
        }
    }

    /// The application lets the service go. Only the first word counts; whoever says nothing once its successor serves has
    /// handed over.
    // M127
    pub fn leave(&mut self, how: Leave) -> Leaving {
        let handed_over = self.phase == Phase::Draining && how == Leave::Crashed;
        let how = if handed_over { Leave::HandedOver } else { how };
        let how = *self.left.get_or_insert(how);
        let owns = std::mem::take(&mut self.accepting);
        Leaving {
            removes_path: owns && how == Leave::Stopped && self.successor.is_none(),
            settles: match how {
                Leave::Stopped => Some(Ending::Stopped),
                Leave::HandedOver => Some(Ending::HandedOver),
                Leave::Crashed => None,
            },
        }
    }

    /// Whether the control socket needs nobody any more. While a handoff is under way this generation's own predecessor is
    /// heard, whose last words are to be passed on.
    pub fn is_done(&self) -> bool {
        self.left.is_some()
            && (self.left == Some(Leave::Crashed) || self.successor.is_none() || self.predecessor.is_none())
    }
}
