//! A predecessor and a successor, stepped against each other. Time passes only when a test says so.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::wire::{ClientFrame, Entry, ErrorCode, Kind, Name, Offer, PROTOCOL, Receive, ServerFrame, StateInfo};
use crate::core::{
    Gift, Input, Output, Packet, Predecessor, PredecessorCommand as GiverCommand, PredecessorEvent as GiverEvent, Role,
    Successor, SuccessorCommand as TakerCommand, SuccessorEvent as TakerEvent, Waits,
};

pub(super) const SECOND: Duration = Duration::from_secs(1);
/// The pidfd that the predecessor attaches.
pub(super) const PIDFD: u32 = 9_999;

pub(super) const WAITS: Waits = Waits {
    offer: Duration::from_secs(60),
    transfer: Duration::from_secs(10),
    ready: Duration::from_secs(60),
    release: Duration::from_secs(30),
    active: Duration::from_secs(5),
    drain: Duration::from_secs(30),
    probation: Duration::ZERO,
};

/// Who holds the lock of the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    Nobody,
    Giver,
    Taker,
    /// A third process.
    Another,
}

/// Why a frame cannot be sent.
pub(super) const FULL: &str = "too many references";

/// Both ends of one handoff. Frames reach the other side when [`Pair::run`] carries them.
pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) giver: Predecessor<u32>,
    pub(super) taker: Successor<u32>,
    pub(super) giver_events: Vec<GiverEvent>,
    pub(super) taker_events: Vec<TakerEvent<u32>>,
    /// Everything that each side has said.
    pub(super) giver_said: Vec<(ServerFrame, Vec<u32>)>,
    pub(super) taker_said: Vec<ClientFrame>,
    to_giver: VecDeque<ClientFrame>,
    to_taker: VecDeque<(ServerFrame, Vec<u32>)>,
    /// How often the predecessor asked for its peer's end.
    pub(super) fences: usize,
    /// Who holds the lock of the owner.
    pub(super) lock: Holder,
    giver_lives: bool,
    taker_lives: bool,
}

impl Pair {
    pub(super) fn new() -> Pair {
        Pair::with(WAITS)
    }

    pub(super) fn with(waits: Waits) -> Pair {
        Pair::made(waits, receive(), true)
    }

    /// A predecessor that has no pidfd of its successor.
    pub(super) fn blind() -> Pair {
        Pair::made(WAITS, receive(), false)
    }

    pub(super) fn made(waits: Waits, receive: Receive, sees_death: bool) -> Pair {
        let now = Instant::now();
        let mut pair = Pair {
            now,
            giver: Predecessor::new(receive.clone(), waits, sees_death),
            taker: Successor::new(receive, waits, now),
            giver_events: Vec::new(),
            taker_events: Vec::new(),
            giver_said: Vec::new(),
            taker_said: Vec::new(),
            to_giver: VecDeque::new(),
            to_taker: VecDeque::new(),
            fences: 0,
            lock: Holder::Giver,
            giver_lives: true,
            taker_lives: true,
        };
        pair.collect();
        // The predecessor exists because somebody else has read `receive`.
        assert!(matches!(pair.to_giver.pop_front(), Some(ClientFrame::Receive(_))));
        pair
    }

    /// The successor has everything, and initialises.
    pub(super) fn initialising() -> Pair {
        Pair::new().offered()
    }

    pub(super) fn offered(mut self) -> Pair {
        self.give(GiverCommand::Offer(Box::new(gift(3, Some(packet(48, 0))))));
        self.run();
        self
    }

    /// The successor has said `ready`.
    pub(super) fn readied(mut self) -> Pair {
        self.take(TakerCommand::Ready);
        self.run();
        self
    }

    /// The predecessor has said `release`, and the successor has not read it.
    pub(super) fn release(mut self) -> Pair {
        self.give(release(None));
        self
    }

    /// The successor serves.
    pub(super) fn serving(waits: Waits) -> Pair {
        let mut pair = Pair::with(waits).offered().readied().release();
        pair.run();
        pair
    }

    /// The predecessor's application wants something.
    pub(super) fn give(&mut self, command: GiverCommand<u32>) {
        self.giver.handle(self.now, Input::Command(command));
        self.collect();
    }

    /// The successor's application wants something.
    pub(super) fn take(&mut self, command: TakerCommand) {
        self.taker.handle(self.now, Input::Command(command));
        self.collect();
    }

    /// Carries frames until neither side has more to say.
    pub(super) fn run(&mut self) {
        while self.carry_one() {}
    }

    pub(super) fn carry_one(&mut self) -> bool {
        if let Some((frame, fds)) = self.to_taker.pop_front() {
            self.hear_giver(frame, fds);
            return true;
        }
        if let Some(frame) = self.to_giver.pop_front() {
            self.hear_taker(frame);
            return true;
        }
        false
    }

    /// The successor reads this, whoever wrote it.
    pub(super) fn hear_giver(&mut self, frame: impl Into<ServerFrame>, fds: Vec<u32>) {
        if self.taker_lives {
            self.taker.handle(self.now, Input::Frame(frame.into(), fds));
            self.collect();
        }
    }

    /// The successor reads the next frame, and its application wants something before anything has followed from that.
    pub(super) fn hear_and_take(&mut self, command: TakerCommand) {
        let (frame, fds) = self.to_taker.pop_front().expect("a frame is on its way");
        self.taker.handle(self.now, Input::Frame(frame, fds));
        self.take(command);
    }

    /// The predecessor reads this, whoever wrote it.
    pub(super) fn hear_taker(&mut self, frame: impl Into<ClientFrame>) {
        if self.giver_lives {
            self.giver.handle(self.now, Input::Frame(frame.into(), vec![]));
            self.collect();
        }
    }

    pub(super) fn giver_input(&mut self, input: Input<Predecessor<u32>>) {
        self.giver.handle(self.now, input);
        self.collect();
    }

    pub(super) fn taker_input(&mut self, input: Input<Successor<u32>>) {
        self.taker.handle(self.now, input);
        self.collect();
    }

    /// Lets time pass. Deadlines go off in their order.
    pub(super) fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        let deadlines = |pair: &Pair| [pair.giver.deadline(), pair.taker.deadline()].into_iter().flatten().min();
        while let Some(deadline) = deadlines(self).filter(|deadline| *deadline <= until) {
            self.now = deadline.max(self.now);
            self.giver_input(Input::Timeout);
            self.taker_input(Input::Timeout);
        }
        self.now = until;
    }

    /// The successor dies. What it has said is read first.
    pub(super) fn kill_taker(&mut self) {
        self.taker_lives = false;
        self.free(Holder::Taker);
        self.taker_closes();
        self.giver_input(Input::Died);
    }

    /// The successor closes its end, and lives.
    pub(super) fn taker_closes(&mut self) {
        while let Some(frame) = self.to_giver.pop_front() {
            self.hear_taker(frame);
        }
        self.giver_input(Input::Eof);
    }

    /// The predecessor dies. What it has said is read first.
    pub(super) fn kill_giver(&mut self) {
        self.giver_lives = false;
        self.free(Holder::Giver);
        self.giver_closes();
        self.taker_input(Input::Died);
    }

    /// The predecessor dies, and another process is faster.
    pub(super) fn kill_giver_outrun(&mut self) {
        self.lock = Holder::Another;
        self.kill_giver();
    }

    /// The predecessor closes its end, and lives.
    pub(super) fn giver_closes(&mut self) {
        while let Some((frame, fds)) = self.to_taker.pop_front() {
            self.hear_giver(frame, fds);
        }
        self.taker_input(Input::Eof);
    }

    /// What was on its way to the successor is lost, as when it never reads again.
    pub(super) fn drop_frames_to_taker(&mut self) {
        self.to_taker.clear();
    }

    /// Not a byte of this frame of the predecessor's has left.
    pub(super) fn giver_cannot_send(&mut self, frame: &'static str) {
        self.giver_input(Input::Unsent { frame, reason: FULL.to_owned() });
    }

    /// Not a byte of this frame of the successor's has left.
    pub(super) fn taker_cannot_send(&mut self, frame: &'static str) {
        self.taker_input(Input::Unsent { frame, reason: FULL.to_owned() });
    }

    /// Whether the predecessor's application accepts: until `release`, and after taking back, or where the release could
    /// not be sent.
    pub(super) fn giver_accepts(&self) -> bool {
        let released = self.giver_said.iter().any(|(frame, _)| matches!(frame, ServerFrame::Release(_)));
        let owns = |event: &GiverEvent| matches!(event, GiverEvent::TakenBack(_) | GiverEvent::Failed(_));
        self.giver_lives && (!released || self.giver_events.iter().any(owns))
    }

    /// Whether the successor's application accepts.
    pub(super) fn taker_accepts(&self) -> bool {
        let serves = self.taker_events.iter().any(|event| matches!(event, TakerEvent::Released { .. }));
        self.taker_lives && serves && !self.taker_tags().contains(&"abort")
    }

    pub(super) fn taker_released(&self) -> Option<bool> {
        self.taker_events.iter().find_map(|event| match event {
            TakerEvent::Released { release, .. } => Some(release.is_some()),
            _ => None,
        })
    }

    /// The code of the last `abort` that the predecessor said.
    pub(super) fn giver_aborted(&self) -> Option<ErrorCode> {
        self.giver_said.iter().rev().find_map(|(frame, _)| match frame {
            ServerFrame::Abort(abort) => Some(abort.code),
            _ => None,
        })
    }

    /// The code of the last `abort` that the successor said.
    pub(super) fn taker_aborted(&self) -> Option<ErrorCode> {
        self.taker_said.iter().rev().find_map(|frame| match frame {
            ClientFrame::Abort(abort) => Some(abort.code),
            _ => None,
        })
    }

    pub(super) fn giver_tags(&self) -> Vec<&'static str> {
        self.giver_said.iter().map(|(frame, _)| frame.tag()).collect()
    }

    pub(super) fn taker_tags(&self) -> Vec<&'static str> {
        self.taker_said.iter().map(ClientFrame::tag).collect()
    }

    fn collect(&mut self) {
        while let Some(output) = self.giver.poll_output() {
            match output {
                Output::Send(frame, fds) => {
                    let released = matches!(frame, ServerFrame::Release(_));
                    assert!(!released || self.lock != Holder::Giver, "the lock is given up before the service");
                    self.giver_said.push((frame.clone(), fds.clone()));
                    self.to_taker.push_back((frame, fds));
                }
                Output::Event(event) => self.giver_events.push(event),
                Output::Fence => self.fences += 1,
                Output::Claim => {
                    let ours = self.claim(Holder::Giver);
                    self.giver.handle(self.now, Input::Claimed(ours));
                }
                Output::Disclaim => self.free(Holder::Giver),
                // What was carried has left; nothing else has.
                Output::Withdraw => self.to_taker.clear(),
            }
        }
        while let Some(output) = self.taker.poll_output() {
            match output {
                Output::Send(frame, fds) => {
                    assert!(fds.is_empty(), "a successor sends no descriptors");
                    let serves = matches!(frame, ClientFrame::Active(_));
                    assert!(!serves || self.lock == Holder::Taker, "the lock is taken before it is said");
                    self.taker_said.push(frame.clone());
                    self.to_giver.push_back(frame);
                }
                Output::Event(event) => self.taker_events.push(event),
                Output::Fence => panic!("a successor ends nobody"),
                Output::Claim => {
                    let ours = self.claim(Holder::Taker);
                    self.taker.handle(self.now, Input::Claimed(ours));
                }
                Output::Disclaim => self.free(Holder::Taker),
                Output::Withdraw => self.to_giver.clear(),
            }
        }
        assert!(!(self.giver_accepts() && self.taker_accepts()), "two generations accept");
    }

    fn claim(&mut self, who: Holder) -> bool {
        if self.lock == Holder::Nobody {
            self.lock = who;
        }
        self.lock == who
    }

    fn free(&mut self, who: Holder) {
        if self.lock == who {
            self.lock = Holder::Nobody;
        }
    }
}

pub(super) fn receive() -> Receive {
    Receive {
        protocol: PROTOCOL,
        pid: 4711,
        version: "1.5.0".to_owned(),
        schemas: vec![0, 2],
        fingerprints: None,
        services: None,
        standby: false,
        instance: None,
        take: false,
    }
}

pub(super) fn entry(name: &str, index: u32) -> Arc<Entry> {
    let name = Name::try_from(name.to_owned()).unwrap();
    Arc::new(Entry {
        name,
        index,
        kind: Kind::TcpListener,
        addr: None,
        cookie: None,
        netns: None,
        file: None,
        path: None,
        passed: false,
    })
}

pub(super) fn offer() -> Offer {
    Offer {
        protocol: 1,
        generation: 3,
        pid: 4100,
        pidfd: true,
        descriptors: 0,
        batches: 0,
        state: None,
        path: None,
        ready_timeout_ms: 60_000,
        active_timeout_ms: 5_000,
        drain_timeout_ms: 30_000,
        history: vec![],
        instance: None,
        superseded: vec![],
    }
}

/// So many descriptors, numbered from 0, of one name.
pub(super) fn gift(count: u32, snapshot: Option<Packet<u32>>) -> Gift<u32> {
    let descriptors = (0..count).map(|number| (entry("http", number), number)).collect();
    Gift { offer: offer(), pidfd: Some(PIDFD), descriptors, snapshot }
}

/// A state whose memfd has its length for a number.
pub(super) fn packet(length: u32, schema: u32) -> Packet<u32> {
    Packet { info: info(u64::from(length), schema), memfd: length }
}

pub(super) fn info(length: u64, schema: u32) -> StateInfo {
    StateInfo { length, schema, codec: "raw".to_owned(), fingerprint: None }
}

pub(super) fn release(state: Option<Packet<u32>>) -> GiverCommand<u32> {
    GiverCommand::Release { state, monotonic_us: 1, timens: None }
}
