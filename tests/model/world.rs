//! The state of the model: processes, the connections between them, and the machines at their ends.

use std::collections::VecDeque;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use fd_handoff::core::wire::{ClientFrame, Ending, ServerFrame};
use fd_handoff::core::{Input, Predecessor, Role, Successor, Waits};

use crate::mistake::Mistake;
use crate::setting::Setting;

/// A descriptor. A memfd is the set of updates that its state holds; see [`Process::knows`].
pub(crate) type Fd = u8;
pub(crate) type Taker = Successor<Fd>;
pub(crate) type Giver = Predecessor<Fd>;

/// What is offered, in this order.
pub(crate) const LISTENERS: [(&str, Fd); 2] = [("@control", 0xF0), ("http", 0xF1)];
pub(crate) const PIDFD: Fd = 0xFF;

/// Time stands still here; a deadline is the only thing that can be later.
pub(crate) static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Everything there is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) processes: Vec<Process>,
    pub(crate) calls: Vec<Call>,
    /// How many more things may go wrong.
    pub(crate) faults: u8,
    /// Who holds the lock of the owner.
    pub(crate) lock: Option<usize>,
    /// The updates that the last release committed to: whoever serves next has to know them.
    pub(crate) committed: u8,
    /// Whose release that was.
    pub(crate) releaser: usize,
    /// A process that stopped did not wait any longer for one that is silent.
    pub(crate) overtime: bool,
    /// The first promise that a step (rather than a state) broke.
    pub(crate) breach: Option<&'static str>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) life: Life,
    /// SIGKILL is on its way.
    pub(crate) doomed: bool,
    /// Accepts: serves, and answers at the control socket.
    pub(crate) accepting: bool,
    /// Has copies of the listening sockets.
    pub(crate) holds: bool,
    /// How far it is with its end, if it was told to stop.
    pub(crate) stop: Stop,
    /// Stopped in good order, and has said so to whoever watches over it.
    pub(crate) stopped: bool,
    /// Those that watched over it then, directly or not: one bit each.
    pub(crate) heirs: u8,
    /// What it said to its predecessor about its end.
    pub(crate) settled: Option<Ending>,
    /// Is to close its copies, once its own predecessor has.
    pub(crate) letting_go: bool,
    /// Cannot serve, and is about to end.
    pub(crate) leaving: bool,
    /// Has ended, and nobody was told.
    pub(crate) crashed: bool,
    /// Heard `active` once.
    pub(crate) handed_over: bool,
    /// Came to the service by a release.
    pub(crate) released_to: bool,
    /// Wanted to take back, and another process was faster.
    pub(crate) outrun: bool,
    /// Closed a connection without a word.
    pub(crate) estranged: bool,
    /// Was told to stop, and gives the service up to its keeper.
    pub(crate) yields: bool,
    /// A keeper that has everything of a service.
    pub(crate) kept: bool,
    /// The updates in its state. Each process makes two: before its release, and before its farewell.
    pub(crate) knows: u8,
    /// How often it may still look for the service.
    pub(crate) attempts: u8,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) enum Life {
    #[default]
    Runs,
    /// SIGSTOP.
    Silent,
    Dead,
}

/// How far an owner is that was told to stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) enum Stop {
    #[default]
    No,
    /// It does not accept, and its connections end.
    Draining,
    /// It has said that it stops, and waits until whoever watches over it has let go.
    Settling,
}

/// A connection of a successor to the control socket. An end without its machine is closed, or not accepted yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Call {
    pub(crate) taker: usize,
    /// `None`: it waits in the listener's backlog.
    pub(crate) giver: Option<usize>,
    pub(crate) successor: Option<Taker>,
    pub(crate) predecessor: Option<Giver>,
    pub(crate) taking: Taking,
    pub(crate) giving: Giving,
    pub(crate) to_taker: VecDeque<(ServerFrame, Vec<Fd>)>,
    pub(crate) to_giver: VecDeque<(ClientFrame, Vec<Fd>)>,
    /// The last frame to the successor is a release of which not a byte has left.
    pub(crate) jammed: bool,
    pub(crate) taker_ear: Ear,
    pub(crate) giver_ear: Ear,
}

/// What a `Link` remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Ear {
    pub(crate) said_eof: bool,
    pub(crate) said_dead: bool,
    /// Has a pidfd of the peer.
    pub(crate) pidfd: bool,
}

/// How far the successor's application is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Taking {
    Waiting,
    Initialising,
    /// Initialises, and has told of it.
    Progressing,
    Readied,
    /// Serves, and waits for its predecessor's last words.
    Following,
    /// Serves, and waits for nothing.
    Alone,
}

/// How far the predecessor's application is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Giving {
    /// The connection has not said `receive`.
    Looking,
    Requested,
    Offered,
    Ready,
    Stopped,
    Released,
    Draining,
    /// Drains, and has told how many connections are left.
    Counting,
    Parting,
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Taker,
    Giver,
}

/// The next thing that a link would find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    Frame,
    Eof,
    Death,
}

pub(crate) mod promise {
    pub(crate) const ONE: &str = "never two generations accept";
    pub(crate) const SERVED: &str = "somebody serves while anybody can";
    pub(crate) const FINAL: &str = "no final state is lost once released";
    pub(crate) const FAILED: &str = "a failed handoff leaves the predecessor serving";
    pub(crate) const BUSY: &str = "a busy successor disturbs nothing";
    pub(crate) const ORPHAN: &str = "an orphan takes over, and only when its predecessor is dead";
    pub(crate) const SETTLED: &str = "settled means no taking back";
    pub(crate) const LOCK: &str = "whoever accepts holds the lock";
    pub(crate) const OUTRUN: &str = "whoever is refused the lock is refused it by an owner";
    pub(crate) const STOPPED: &str = "after a stop in good order nobody holds copies";
    pub(crate) const LET_GO: &str = "whoever has let go stays out";
    pub(crate) const FAREWELL: &str = "a farewell brings what the last connections changed";
}

impl World {
    pub(crate) fn new(setting: &Setting) -> World {
        let first = Process { accepting: true, holds: true, ..Process::default() };
        let others = setting.attempts.iter().map(|&attempts| Process { attempts, ..Process::default() });
        World {
            processes: std::iter::once(first).chain(others).collect(),
            calls: Vec::new(),
            faults: setting.faults,
            lock: setting.arbiter.then_some(0),
            committed: 0,
            releaser: 0,
            overtime: false,
            breach: None,
        }
    }

    pub(crate) fn runs(&self, who: usize) -> bool {
        self.processes[who].life == Life::Runs && !self.processes[who].leaving
    }

    pub(crate) fn is_dead(&self, who: usize) -> bool {
        self.processes[who].life == Life::Dead
    }

    pub(crate) fn broke(&mut self, promise: &'static str) {
        self.breach.get_or_insert(promise);
    }

    /// Whether this process began the service.
    pub(crate) fn is_first(&self, who: usize) -> bool {
        who == 0
    }

    /// Whether it still has to hear its own predecessor's last words.
    pub(crate) fn follows(&self, who: usize) -> bool {
        self.calls.iter().any(|call| call.taker == who && call.taking == Taking::Following)
    }

    /// Whether it is a successor that does not serve yet.
    pub(crate) fn is_taking(&self, who: usize) -> bool {
        self.calls.iter().any(|call| call.taker == who && call.successor.is_some() && !call.serves())
    }

    /// Whether it is between its last accept and the release.
    pub(crate) fn has_stopped_accepting(&self, who: usize) -> bool {
        self.calls.iter().any(|call| call.giver == Some(who) && call.giving == Giving::Stopped)
    }

    pub(crate) fn has_released(&self, who: usize) -> bool {
        let late = |giving| matches!(giving, Giving::Released | Giving::Draining | Giving::Counting | Giving::Parting);
        self.calls.iter().any(|call| call.giver == Some(who) && late(call.giving))
    }

    /// Whether this process has the lock and serves, or is on its way out of that.
    pub(crate) fn is_owner(&self, who: usize) -> bool {
        let process = &self.processes[who];
        process.accepting || process.stop != Stop::No || self.has_stopped_accepting(who)
    }

    /// Whether nobody watches over this process.
    pub(crate) fn is_unwatched(&self, who: usize) -> bool {
        !self.calls.iter().any(|call| call.taker == who && call.successor.is_some())
    }

    /// Those that watch over this process, directly or not: one bit each.
    pub(crate) fn heirs(&self, who: usize) -> u8 {
        let watches = |call: &&Call, heirs: u8| {
            (call.taker == who || heirs >> call.taker & 1 == 1)
                && call.successor.is_some()
                && call.predecessor.is_some()
        };
        let mut heirs = 0;
        // A keeper may have given the service to one that then gave it up to the keeper.
        for _ in &self.processes {
            let givers = self.calls.iter().filter(|call| watches(call, heirs)).filter_map(|call| call.giver);
            heirs |= givers.fold(0, |heirs, giver| heirs | 1 << giver);
        }
        heirs & !(1 << who)
    }

    /// Whether one of those is silent, so that they do not let go in time.
    pub(crate) fn has_silent_heirs(&self, who: usize) -> bool {
        let heirs = self.heirs(who);
        (0..self.processes.len()).any(|who| heirs >> who & 1 == 1 && self.processes[who].life == Life::Silent)
    }

    /// Whether somebody has released to a process that does not answer.
    pub(crate) fn awaits_a_silent_successor(&self) -> bool {
        let silent = |who: usize| self.processes[who].life == Life::Silent;
        self.calls.iter().any(|call| call.giving == Giving::Released && silent(call.taker))
    }

    /// The handoff of this process with its keeper, which has everything.
    pub(crate) fn keeping(&self, setting: &Setting, who: usize) -> Option<usize> {
        let is_ready = |call: &Call| call.gives(who) && setting.is_keeper(call.taker) && call.giving == Giving::Ready;
        self.calls.iter().position(is_ready)
    }

    /// Whether a keeper may take the service: nobody has it, and nobody else could.
    pub(crate) fn is_left_to(&self, setting: &Setting, who: usize) -> bool {
        let waits_for_them = !setting.makes(Mistake::KeepsBeforeOthers);
        self.lock.is_none() && !(waits_for_them && self.somebody_else_holds(who))
    }

    pub(crate) fn somebody_else_holds(&self, who: usize) -> bool {
        let mut others = (0..self.processes.len()).filter(|&other| other != who && !self.is_dead(other));
        others.any(|other| self.processes[other].holds)
    }

    /// Whether there is a copy of the listener, in a process or on its way to one.
    pub(crate) fn is_listening(&self) -> bool {
        let carries = |call: &Call| call.to_taker.iter().any(|(frame, _)| matches!(frame, ServerFrame::Descriptors(_)));
        self.processes.iter().any(|process| process.holds) || self.calls.iter().any(carries)
    }

    /// Whether this process takes part in nothing.
    pub(crate) fn is_idle(&self, who: usize) -> bool {
        !self.processes[who].holds && !self.calls.iter().any(|call| call.taker == who && call.successor.is_some())
    }

    /// Forgets what is over, so that worlds which differ in nothing else are one.
    pub(crate) fn tidy(&mut self) {
        if !self.is_listening() {
            // The backlog goes with the last copy of the listener.
            for call in self.calls.iter_mut().filter(|call| call.giver.is_none()) {
                call.giving = Giving::Closed;
                call.to_giver.clear();
            }
        }
        self.calls.retain(|call| call.successor.is_some() || call.giving != Giving::Closed);
    }

    // The kernel.

    /// The process is gone, and all that it had open is closed.
    pub(crate) fn die(&mut self, who: usize) {
        let Process { knows, stopped, settled, crashed, .. } = self.processes[who];
        self.processes[who] = Process { life: Life::Dead, knows, stopped, settled, crashed, ..Process::default() };
        self.disclaim(who);
        for call in &mut self.calls {
            if call.taker == who {
                call.close(Side::Taker);
            }
            if call.giver == Some(who) {
                call.close(Side::Giver);
            }
        }
    }

    /// Takes the lock of the owner, unless another process has it.
    pub(crate) fn claim(&mut self, setting: &Setting, who: usize) -> bool {
        if !setting.arbiter {
            return true;
        }
        let holder = *self.lock.get_or_insert(who);
        if holder != who && !self.is_owner(holder) {
            self.broke(promise::OUTRUN);
        }
        holder == who
    }

    pub(crate) fn disclaim(&mut self, who: usize) {
        if self.lock == Some(who) {
            self.lock = None;
        }
    }

    /// The process ends, and nobody is told.
    pub(crate) fn crash(&mut self, setting: &Setting, who: usize) {
        let process = &self.processes[who];
        let settled_early = process.settled == Some(Ending::HandedOver) && !process.handed_over;
        if setting.arbiter && process.accepting && settled_early && self.heirs(who) != 0 {
            // They drain, and could have served.
            self.broke(promise::SERVED);
        }
        self.processes[who].crashed = true;
        self.die(who);
    }

    /// What a link finds next: frames, then EOF, then the death, as in `channel::Link::take_in`.
    pub(crate) fn news(&self, k: usize, side: Side) -> Option<News> {
        let call = &self.calls[k];
        let (ear, unread, peer_open) = match side {
            Side::Taker => {
                let unread = call.to_taker.len() - usize::from(call.jammed);
                (&call.taker_ear, unread, call.giving != Giving::Closed)
            }
            Side::Giver => (&call.giver_ear, call.to_giver.len(), call.successor.is_some()),
        };
        match unread {
            1.. => Some(News::Frame),
            0 if !peer_open && !ear.said_eof => Some(News::Eof),
            0 => self.death_is_known(k, side).then_some(News::Death),
        }
    }

    /// Whether the pidfd at this end says that the peer is dead, whatever is still to be read.
    pub(crate) fn death_is_known(&self, k: usize, side: Side) -> bool {
        let call = &self.calls[k];
        let (ear, peer) = match side {
            Side::Taker => (&call.taker_ear, call.giver),
            Side::Giver => (&call.giver_ear, Some(call.taker)),
        };
        ear.pidfd && !ear.said_dead && peer.is_some_and(|peer| self.is_dead(peer))
    }

    /// What a fence does: whether the kernel takes the signal.
    pub(crate) fn kill(&mut self, setting: &Setting, k: usize) -> bool {
        let Call { taker, giver_ear, .. } = &self.calls[k];
        let taken = setting.may_fence && giver_ear.pidfd;
        self.processes[*taker].doomed |= taken && self.processes[*taker].life != Life::Dead;
        taken
    }
}

impl Call {
    /// Whether this is a handoff by `who` that has not come to its end.
    pub(crate) fn gives(&self, who: usize) -> bool {
        self.giver == Some(who) && self.predecessor.is_some()
    }

    /// Whether the successor has become the one that serves.
    pub(crate) fn serves(&self) -> bool {
        matches!(self.taking, Taking::Following | Taking::Alone)
    }

    pub(crate) fn close(&mut self, side: Side) {
        match side {
            Side::Taker => {
                self.successor = None;
                self.to_taker.clear();
                self.jammed = false;
                self.taker_ear = Ear::default();
                self.taking = Taking::Waiting;
            }
            Side::Giver => {
                self.withdraw();
                self.predecessor = None;
                self.to_giver.clear();
                self.giver_ear = Ear::default();
                self.giving = Giving::Closed;
            }
        }
    }

    /// Forgets the frame of which not a byte has left.
    pub(crate) fn withdraw(&mut self) {
        if std::mem::take(&mut self.jammed) {
            self.to_taker.pop_back();
        }
    }

    pub(crate) fn deadline(&self, side: Side) -> Option<Instant> {
        match side {
            Side::Taker => self.successor.as_ref().and_then(Role::deadline),
            Side::Giver => self.predecessor.as_ref().and_then(Role::deadline),
        }
    }

    pub(crate) fn process(&self, side: Side) -> Option<usize> {
        match side {
            Side::Taker => Some(self.taker),
            Side::Giver => self.giver,
        }
    }
}

/// No wait is zero, so that each deadline is one that can pass or not pass.
pub(crate) const WAITS: Waits = {
    let second = Duration::from_secs(1);
    Waits {
        offer: second,
        transfer: second,
        ready: second,
        release: second,
        active: second,
        drain: second,
        probation: second,
    }
};

/// A deadline passes when the checker wants it to.
pub(crate) fn now<R: Role>(deadline: Option<Instant>, input: &Input<R>) -> Instant {
    match input {
        Input::Timeout => deadline.unwrap_or(*BASE),
        _ => *BASE,
    }
}

/// When every deadline has passed.
pub(crate) fn later() -> Instant {
    *BASE + Duration::from_secs(1)
}
