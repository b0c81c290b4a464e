//! Any sequence of operations on a predecessor and a successor: their applications' wishes in any order, frames that
//! come late, are lost, are made up or do not leave, ends of the connection, deaths, time, and a third process that takes the
//! lock of the owner whenever it is free.
//!
//! The input: one byte of setting, then two bytes for each operation: which one, and its argument.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::made::{WAITS, attempt, duration, ending, offer, read};
use fd_handoff::Cause;
use fd_handoff::core::wire::{
    Abort, Active, ClientFrame, Descriptors, Draining, Ending, Entry, ErrorCode, Failure, Farewell, Frame, GetStatus,
    Kind, MAX_BATCH, MAX_LINE, MAX_TEXT, MAX_UNACKNOWLEDGED, Name, Offer, PROTOCOL, Progress, Ready, Receive, Received,
    Release, ServerFrame, Settled, Snapshot, StateInfo, WireError,
};
use fd_handoff::core::{
    Gift, Input, Output, Packet, Predecessor, PredecessorCommand, PredecessorEvent, Role, Successor, SuccessorCommand,
    SuccessorEvent, Waits,
};

/// A predecessor refuses so many frames by name after its release.
const MOST_REFUSED: usize = 16;
/// So many operations of one input are carried out.
const MOST: usize = 400;
/// Longer than any deadline that the setting asks for.
const LONGEST: Duration = Duration::from_secs(2 * 3_600);

/// A descriptor. There is no way to copy one, and those that live are counted.
#[derive(Debug)]
struct Fd {
    number: u32,
    living: Rc<Cell<usize>>,
}

impl Drop for Fd {
    fn drop(&mut self) {
        self.living.set(self.living.get() - 1);
    }
}

/// Who holds the lock of the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Nobody,
    Giver,
    Taker,
    /// A third process, which serves.
    Another,
}

struct World {
    now: Instant,
    giver: Predecessor<Fd>,
    taker: Successor<Fd>,
    living: Rc<Cell<usize>>,
    next_fd: u32,
    to_giver: VecDeque<ClientFrame>,
    to_taker: VecDeque<(ServerFrame, Vec<Fd>)>,
    /// What the successor's application holds.
    taken: Vec<Fd>,
    giver_lives: bool,
    taker_lives: bool,
    /// Whether each side still reads: not after the end of the stream, nor after garbage.
    giver_reads: bool,
    taker_reads: bool,
    /// Whether the predecessor has a pidfd of the successor.
    giver_sees: bool,
    /// The successor is a keeper.
    standby: bool,
    /// Whether the successor has a pidfd of the predecessor.
    taker_sees: bool,
    may_kill: bool,
    /// Killed, and the kernel has not said so yet.
    doomed: bool,
    giver_told: bool,
    taker_told: bool,
    released: bool,
    /// The predecessor's application accepts.
    owns: bool,
    settled: Option<Ending>,
    let_go: bool,
    refused: usize,
    /// There is a lock of the owner.
    has_lock: bool,
    lock: Holder,
    /// So many of the last frames to each side have not left when the other hears of it.
    stuck: usize,
    giver_over: bool,
    serves: bool,
    relinquished: bool,
    taker_over: bool,
    /// Somebody spoke in a role's name and said what gives the service away: there may be two from here on, where there is
    /// no lock.
    lied: bool,
    /// How many descriptors the predecessor keeps to send.
    kept: usize,
    batches: u32,
    acknowledged: u32,
}

/// One input.
///
/// # Panics
///
/// A state machine did what it must not.
pub(crate) fn run(data: &[u8]) {
    let Some((&setting, operations)) = data.split_first() else { return };
    let mut world = World::new(setting);
    for operation in operations.chunks_exact(2).take(MOST) {
        world.operate(operation[0], operation[1]);
        world.check();
    }
    // Left alone, both come to rest.
    world.advance(LONGEST);
    let living = Rc::clone(&world.living);
    drop(world);
    assert_eq!(living.get(), 0, "descriptors leaked");
}

impl World {
    fn new(setting: u8) -> World {
        let now = Instant::now();
        let bit = |number: u8| setting >> number & 1 == 1;
        let waits = Waits { probation: if bit(0) { Duration::from_secs(3_600) } else { Duration::ZERO }, ..WAITS };
        let receive = Receive {
            protocol: PROTOCOL,
            pid: 4711,
            version: "1".to_owned(),
            schemas: if bit(1) { vec![] } else { vec![0, 1] },
            fingerprints: None,
            services: None,
            standby: bit(5),
            instance: None,
            take: false,
        };
        let mut world = World {
            now,
            giver: Predecessor::new(receive.clone(), waits, !bit(2)),
            taker: Successor::new(receive, waits, now),
            living: Rc::default(),
            next_fd: 0,
            to_giver: VecDeque::new(),
            to_taker: VecDeque::new(),
            taken: Vec::new(),
            giver_lives: true,
            taker_lives: true,
            giver_reads: true,
            taker_reads: true,
            giver_sees: !bit(2),
            standby: bit(5),
            taker_sees: false,
            may_kill: !bit(3),
            doomed: false,
            giver_told: false,
            taker_told: false,
            released: false,
            owns: true,
            settled: None,
            let_go: false,
            refused: 0,
            has_lock: !bit(4),
            lock: Holder::Giver,
            stuck: 0,
            giver_over: false,
            serves: false,
            relinquished: false,
            taker_over: false,
            lied: false,
            kept: 0,
            batches: 0,
            acknowledged: 0,
        };
        world.collect();
        // The predecessor exists because `receive` has been read.
        assert!(matches!(world.to_giver.pop_front(), Some(ClientFrame::Receive(_))));
        world
    }

    fn operate(&mut self, operation: u8, argument: u8) {
        match operation % 26 {
            0 | 1 => self.carry_to_taker(),
            2 | 3 => self.carry_to_giver(),
            4 => {
                while !self.to_taker.is_empty() || !self.to_giver.is_empty() {
                    self.carry_to_taker();
                    self.carry_to_giver();
                }
            }
            5 => self.wish_of_giver(argument),
            6 => self.wish_of_taker(argument),
            7 => self.offer(argument),
            8 => {
                let state = (argument & 1 == 1).then(|| self.packet(argument));
                self.give(PredecessorCommand::Release { state, monotonic_us: 1, timens: None });
            }
            9 => self.take(SuccessorCommand::Ready),
            10 => self.advance(duration(argument)),
            // A relay loses what it carries.
            11 if argument & 1 == 0 => drop(self.to_taker.pop_front()),
            11 => drop(self.to_giver.pop_front()),
            12 => self.end_of_giver(argument),
            13 => self.end_of_taker(argument),
            14 => self.tell_of_deaths(),
            15 => {
                self.break_link(argument);
            }
            16 => self.forge_for_giver(argument),
            17 => self.forge_for_taker(argument),
            18 => self.garble(argument),
            20 => self.stick(argument),
            21 => self.move_lock(),
            22 => self.flood(argument),
            23 if argument & 1 == 0 => self.give(PredecessorCommand::LetGo),
            23 => self.take(SuccessorCommand::Relinquish("\u{2026}".repeat(usize::from(argument)))),
            24 => self.answer_unasked(argument),
            25 if argument & 3 == 0 => self.give(PredecessorCommand::Renew),
            25 => {
                let checkpoint = self.packet(argument);
                self.give(PredecessorCommand::Checkpoint(checkpoint));
            }
            _ => {
                self.giver_input(Input::Timeout);
                self.taker_input(Input::Timeout);
            }
        }
    }

    fn carry_to_taker(&mut self) {
        if let Some((frame, fds)) = self.to_taker.pop_front() {
            if self.taker_reads {
                self.taker_input(Input::Frame(frame, fds));
            }
        }
    }

    fn carry_to_giver(&mut self) {
        if let Some(frame) = self.to_giver.pop_front() {
            if self.giver_reads {
                self.giver_input(Input::Frame(frame, vec![]));
            }
        }
    }

    fn wish_of_giver(&mut self, argument: u8) {
        let count = usize::from(argument >> 2);
        match argument & 3 {
            0 => self.give(PredecessorCommand::Abort(ErrorCode::Application, "b\u{e4}d\n".repeat(40 * count))),
            1 => self.give(PredecessorCommand::Draining(count as u64)),
            // Up to 126: more than may be said.
            2 => {
                let states = (0..2 * count).map(|_| self.packet(0)).collect();
                self.give(PredecessorCommand::Farewell(states));
            }
            _ => self.give(PredecessorCommand::Farewell(vec![])),
        }
    }

    fn wish_of_taker(&mut self, argument: u8) {
        let text = "\u{2026}".repeat(16 * usize::from(argument >> 2));
        match argument & 3 {
            0 => self.take(SuccessorCommand::Progress(text)),
            1 => self.take(SuccessorCommand::Settle(ending(argument >> 2))),
            2 => self.take(SuccessorCommand::Abort(Cause::Here(text))),
            _ => self.take(SuccessorCommand::Ready),
        }
    }

    fn offer(&mut self, argument: u8) {
        let count = [0, 1, 3, 252, 253, 505, 40, 8][usize::from(argument & 7)];
        let descriptors: VecDeque<(Arc<Entry>, Fd)> = (0..count)
            .map(|index| {
                let fd = self.fd();
                (entry(&format!("d{}", fd.number), 0, argument & 64 != 0 && index % 3 == 0), fd)
            })
            .collect();
        let snapshot = (argument & 8 == 8).then(|| self.packet(argument >> 4 & 3));
        let pidfd = (argument & 128 == 0).then(|| self.fd());
        self.kept = self.living.get();
        self.give(PredecessorCommand::Offer(Box::new(Gift { offer: offer(), pidfd, descriptors, snapshot })));
    }

    /// The predecessor's application wants something.
    fn give(&mut self, command: PredecessorCommand<Fd>) {
        self.giver_input(Input::Command(command));
    }

    /// The successor's application wants something.
    fn take(&mut self, command: SuccessorCommand) {
        self.taker_input(Input::Command(command));
    }

    fn giver_input(&mut self, input: Input<Predecessor<Fd>>) {
        if self.giver_lives {
            let over = self.giver_over;
            self.let_go |= matches!(&input, Input::Command(PredecessorCommand::LetGo));
            if matches!(&input, Input::Frame(ClientFrame::Received(_), _)) {
                self.acknowledged += 1;
            }
            self.giver.handle(self.now, input);
            assert!(!(over && self.collect()), "a predecessor that is over goes on");
            self.collect();
        }
    }

    fn taker_input(&mut self, input: Input<Successor<Fd>>) {
        if self.taker_lives {
            let over = self.taker_over;
            self.relinquished |= self.serves && matches!(&input, Input::Command(SuccessorCommand::Relinquish(_)));
            self.taker.handle(self.now, input);
            assert!(!(over && self.collect()), "a successor that is over goes on");
            self.collect();
        }
    }

    /// Lets time pass. Deadlines go off in their order.
    fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        for _ in 0..100 {
            let giver = self.giver.deadline().filter(|_| self.giver_lives);
            let taker = self.taker.deadline().filter(|_| self.taker_lives);
            let Some(next) = giver.into_iter().chain(taker).min().filter(|next| *next <= until) else {
                self.now = until;
                return;
            };
            self.now = next.max(self.now);
            self.giver_input(Input::Timeout);
            self.taker_input(Input::Timeout);
            self.check();
        }
        panic!("deadlines without end");
    }

    fn end_of_giver(&mut self, argument: u8) {
        if self.giver_lives {
            self.giver_lives = false;
            self.free(Holder::Giver);
            self.stream_ends_for_taker();
            if argument & 1 == 1 {
                self.tell_of_deaths();
            }
        }
    }

    fn end_of_taker(&mut self, argument: u8) {
        if self.taker_lives {
            self.taker_lives = false;
            self.free(Holder::Taker);
            self.stream_ends_for_giver();
            if argument & 1 == 1 {
                self.tell_of_deaths();
            }
        }
    }

    /// What has been said is read, then the end of the stream.
    fn stream_ends_for_taker(&mut self) {
        while !self.to_taker.is_empty() {
            self.carry_to_taker();
        }
        if std::mem::replace(&mut self.taker_reads, false) {
            self.taker_input(Input::Eof);
        }
    }

    fn stream_ends_for_giver(&mut self) {
        while !self.to_giver.is_empty() {
            self.carry_to_giver();
        }
        if std::mem::replace(&mut self.giver_reads, false) {
            self.giver_input(Input::Eof);
        }
    }

    /// The kernel says who is dead, to those that it can say it to.
    fn tell_of_deaths(&mut self) {
        if self.doomed && self.taker_lives {
            self.taker_lives = false;
            self.free(Holder::Taker);
            self.stream_ends_for_giver();
        }
        if !self.taker_lives && self.giver_sees && !self.giver_told {
            self.giver_told = true;
            self.giver_input(Input::Died);
        }
        if !self.giver_lives && self.taker_sees && !self.taker_told {
            self.taker_told = true;
            self.taker_input(Input::Died);
        }
    }

    /// Both live, and a connection ends, in one direction or both. What is on its way may be lost.
    fn break_link(&mut self, argument: u8) {
        if argument & 4 == 4 {
            self.to_taker.clear();
            self.to_giver.clear();
        }
        if argument & 1 == 0 {
            self.stream_ends_for_taker();
        }
        if argument & 2 == 0 {
            self.stream_ends_for_giver();
        }
    }

    fn garble(&mut self, argument: u8) {
        let error = match argument >> 1 & 3 {
            0 => WireError::TooLong,
            1 => WireError::Malformed("x".to_owned()),
            2 => WireError::UnknownType("x".to_owned()),
            _ => WireError::Truncated,
        };
        if error.leaves_the_stream_whole() {
            match argument & 1 {
                0 if self.giver_reads => self.giver_input(Input::Garbled(error)),
                1 if self.taker_reads => self.taker_input(Input::Garbled(error)),
                _ => {}
            }
            return;
        }
        // What follows other garbage is not read, and counts as the end.
        if argument & 1 == 0 && std::mem::replace(&mut self.giver_reads, false) {
            self.giver_input(Input::Garbled(error));
            self.giver_input(Input::Eof);
        } else if argument & 1 == 1 && std::mem::replace(&mut self.taker_reads, false) {
            self.taker_input(Input::Garbled(error));
            self.taker_input(Input::Eof);
        }
    }

    /// Of the last frames to one side not a byte has left, and its sender hears of it.
    fn stick(&mut self, argument: u8) {
        let reason = "too many references".to_owned();
        let most = 1 + usize::from(argument >> 1 & 3);
        if argument & 1 == 0 {
            self.stuck = most.min(self.to_taker.len());
            let first = self.to_taker.len() - self.stuck;
            let Some(frame) = self.to_taker.get(first).map(|(frame, _)| frame.tag()) else { return };
            self.giver_input(Input::Unsent { frame, reason });
        } else {
            self.stuck = most.min(self.to_giver.len());
            let Some(frame) = self.to_giver.get(self.to_giver.len() - self.stuck).map(ClientFrame::tag) else { return };
            self.taker_input(Input::Unsent { frame, reason });
        }
        self.stuck = 0;
    }

    /// A third process takes the lock where it is free, and ends where it has it.
    fn move_lock(&mut self) {
        match self.lock {
            Holder::Nobody => self.lock = Holder::Another,
            Holder::Another => self.lock = Holder::Nobody,
            Holder::Giver | Holder::Taker => {}
        }
    }

    fn claim(&mut self, who: Holder) -> bool {
        if self.lock == Holder::Nobody {
            self.lock = who;
        }
        self.lock == who || !self.has_lock
    }

    fn free(&mut self, who: Holder) {
        if self.lock == who {
            self.lock = Holder::Nobody;
        }
    }

    /// Lines without end that mean nothing.
    fn flood(&mut self, argument: u8) {
        for number in 0..usize::from(argument) {
            if !self.giver_reads {
                return;
            }
            self.giver_input(match number % 3 {
                0 => Input::Frame(Ready {}.into(), vec![]),
                1 => Input::Garbled(WireError::UnknownType("x".repeat(200))),
                _ => Input::Garbled(WireError::Malformed("x".repeat(2 * MAX_TEXT))),
            });
        }
    }

    /// Answers to questions that nobody has asked.
    fn answer_unasked(&mut self, argument: u8) {
        let ours = argument & 1 == 1;
        self.giver_input(Input::Claimed(ours));
        self.taker_input(Input::Claimed(ours));
    }

    fn forge_for_giver(&mut self, argument: u8) {
        let number = u32::from(argument >> 4);
        let frame: ClientFrame = match argument % 9 {
            0 => Received { batch: number }.into(),
            1 => Ready {}.into(),
            2 => Active {}.into(),
            3 => Settled { ending: ending(argument >> 4) }.into(),
            4 => Progress { message: "p".repeat(MAX_TEXT + number as usize - 7) }.into(),
            5 => GetStatus {}.into(),
            6 => {
                // Of the successor's own mouth it would mean that it does not serve.
                self.lied = true;
                Abort { code: ErrorCode::Unknown, reason: "r\n".repeat(100 * number as usize) }.into()
            }
            7 => Receive {
                protocol: PROTOCOL,
                pid: 1,
                version: String::new(),
                schemas: vec![],
                fingerprints: None,
                services: None,
                standby: false,
                instance: None,
                take: false,
            }
            .into(),
            _ => {
                let fds = (0..number).map(|_| self.fd()).collect();
                if self.giver_reads {
                    self.giver_input(Input::Frame(Ready {}.into(), fds));
                }
                return;
            }
        };
        if self.giver_reads {
            self.giver_input(Input::Frame(frame, vec![]));
        }
    }

    fn forge_for_taker(&mut self, argument: u8) {
        let number = u32::from(argument >> 4);
        let state = |present: bool| present.then(|| info(0));
        let frame: ServerFrame = match argument & 15 {
            0 => hello(number),
            kind @ 1..=4 => Offer {
                protocol: if number == 15 { 9 } else { 1 },
                generation: if number == 14 { u64::MAX } else { 7 },
                pidfd: kind == 2,
                descriptors: [number, 1, 3, 16_385][usize::from(kind) - 1],
                batches: if kind == 1 { number } else { 1 },
                state: (kind == 3).then(|| StateInfo { length: u64::from(number) << 38, ..info(0) }),
                drain_timeout_ms: if number == 13 { u64::MAX } else { 30_000 },
                history: (0..number + 3).map(|_| attempt()).collect(),
                ..offer()
            }
            .into(),
            kind @ 5..=7 => {
                let count = if kind == 7 { MAX_BATCH as u32 + number - 7 } else { number & 3 };
                let entries = (0..count).map(|index| entry("forged", index, kind == 6)).collect();
                Descriptors { batch: u32::from(kind == 6), entries }.into()
            }
            8 => Snapshot { state: info(number) }.into(),
            9 => {
                self.lied = true;
                Release { state: state(number & 1 == 1), monotonic_us: u64::MAX, timens: None }.into()
            }
            10 => Draining { connections: u64::MAX }.into(),
            11 | 12 => Farewell { state: state(number & 1 == 1), more: number & 2 == 2 }.into(),
            13 => Abort { code: ErrorCode::Unknown, reason: "r".repeat(200 * number as usize) }.into(),
            14 => Failure { code: ErrorCode::Busy, message: "\n".repeat(200 * number as usize) }.into(),
            _ => Farewell { state: Some(StateInfo { length: u64::MAX, ..info(0) }), more: true }.into(),
        };
        let announced = match &frame {
            ServerFrame::Offer(offer) => usize::from(offer.pidfd),
            ServerFrame::Descriptors(batch) => batch.entries.len(),
            ServerFrame::Snapshot(_) => 1,
            ServerFrame::Release(Release { state, .. }) | ServerFrame::Farewell(Farewell { state, .. }) => {
                usize::from(state.is_some())
            }
            _ => 0,
        };
        // Now and then a descriptor too many.
        let fds = (0..announced + usize::from(number == 12)).map(|_| self.fd()).collect();
        if self.taker_reads {
            self.taker_input(Input::Frame(frame, fds));
        }
    }

    /// Takes all outputs, and checks each. Returns whether there were any.
    fn collect(&mut self) -> bool {
        let mut any = false;
        while let Some(output) = self.giver.poll_output() {
            any = true;
            assert!(!self.giver_over, "a predecessor's last event is followed by {output:?}");
            match output {
                Output::Send(frame, fds) => self.giver_says(frame, fds),
                Output::Event(event) => self.giver_tells(event),
                Output::Fence => {
                    assert!(self.released, "a predecessor that still serves ends its successor");
                    self.doomed |= self.giver_sees && self.may_kill;
                    self.giver.handle(self.now, Input::Fenced(self.doomed));
                }
                Output::Claim => {
                    assert!(!self.owns, "a predecessor that serves asks whether it may");
                    let ours = self.claim(Holder::Giver);
                    self.giver.handle(self.now, Input::Claimed(ours));
                }
                Output::Disclaim => self.free(Holder::Giver),
                Output::Withdraw => {
                    let rest = self.to_taker.len() - self.stuck;
                    let withdrawn = self.to_taker.split_off(rest);
                    self.stuck = 0;
                    self.released &= !withdrawn.iter().any(|(frame, _)| matches!(frame, ServerFrame::Release(_)));
                }
            }
        }
        while let Some(output) = self.taker.poll_output() {
            any = true;
            match output {
                Output::Send(frame, fds) => {
                    assert!(fds.is_empty(), "a successor sends no descriptors");
                    assert!(!self.taker_over, "a successor's last event is followed by {frame:?}");
                    check_line(&frame);
                    self.to_giver.push_back(frame);
                }
                Output::Event(event) => self.taker_tells(event),
                Output::Fence => panic!("a successor ends nobody"),
                Output::Claim => {
                    assert!(!self.serves, "a successor that serves asks whether it may");
                    let ours = self.claim(Holder::Taker);
                    self.taker.handle(self.now, Input::Claimed(ours));
                }
                Output::Disclaim => {
                    assert!(self.relinquished, "a successor that serves gives up its lock");
                    self.free(Holder::Taker);
                }
                Output::Withdraw => {
                    assert!(!self.serves, "a successor that serves takes something back");
                    let rest = self.to_giver.len() - self.stuck;
                    self.to_giver.truncate(rest);
                    self.stuck = 0;
                }
            }
        }
        any
    }

    fn giver_says(&mut self, frame: ServerFrame, fds: Vec<Fd>) {
        check_line(&frame);
        match &frame {
            ServerFrame::Descriptors(batch) => {
                assert!((1..=MAX_BATCH).contains(&batch.entries.len()) && batch.entries.len() == fds.len());
                for (entry, fd) in batch.entries.iter().zip(&fds) {
                    assert_eq!(entry.name.as_str(), format!("d{}", fd.number), "descriptors are mixed up");
                }
                self.batches += 1;
                assert!(self.batches - self.acknowledged.min(self.batches) <= MAX_UNACKNOWLEDGED);
            }
            ServerFrame::Release(_) => {
                assert!(self.owns, "released twice");
                assert!(self.lock != Holder::Giver, "released with the lock");
                self.released = true;
                self.owns = false;
            }
            ServerFrame::Failure(_) => {
                assert!(!self.owns, "an answer where the handoff ends");
                self.refused += 1;
                assert!(self.refused <= MOST_REFUSED, "answers without end");
            }
            _ => {}
        }
        self.to_taker.push_back((frame, fds));
    }

    fn giver_tells(&mut self, event: PredecessorEvent) {
        match event {
            PredecessorEvent::Failed(_) => {
                assert!(!self.released, "failed, and nobody serves");
                self.giver_over = true;
                self.owns = true;
            }
            PredecessorEvent::TakenBack(_) => {
                assert!(self.released, "taken back what was never given");
                assert!(self.settled.is_none(), "taken back from one whose own successor may serve");
                self.giver_over = true;
                self.owns = true;
            }
            PredecessorEvent::Unknown(_) => {
                assert!(!self.owns, "gone without a release");
                self.giver_over = true;
            }
            PredecessorEvent::Departed => {
                assert!(self.released, "gone without a release");
                assert!(self.settled != Some(Ending::Stopped) || self.let_go, "gone with its copies");
                self.giver_over = true;
            }
            PredecessorEvent::Settled(ending) => {
                assert!(self.released, "a successor serves that was given nothing");
                assert!(self.settled != Some(Ending::Stopped), "something less was said after the last word");
                self.settled = Some(ending);
                self.let_go = false;
            }
            PredecessorEvent::Active | PredecessorEvent::Stranded | PredecessorEvent::ProbationOver => {
                assert!(self.released, "a successor serves that was given nothing");
            }
            PredecessorEvent::Progress(message) => assert!(message.len() <= MAX_TEXT),
            PredecessorEvent::Transferred | PredecessorEvent::Ready => {
                assert!(!self.released);
                self.kept = 0;
            }
        }
    }

    fn taker_tells(&mut self, event: SuccessorEvent<Fd>) {
        let gone = matches!(event, SuccessorEvent::Departed(_));
        assert!(!self.taker_over || gone, "a successor's last event is followed by {event:?}");
        match event {
            SuccessorEvent::Offered(_, pidfd) => {
                assert!(!self.serves);
                self.taker_sees = pidfd.is_some();
                self.taken.extend(pidfd);
            }
            SuccessorEvent::Batch(batch) => {
                for (entry, fd) in batch {
                    let name = entry.name.as_str();
                    assert!(name == "forged" || name == format!("d{}", fd.number), "descriptors are mixed up");
                    self.taken.push(fd);
                }
            }
            SuccessorEvent::Complete(state) => self.keep(state),
            SuccessorEvent::Checkpoint(state) => {
                assert!(self.standby && !self.serves, "a second snapshot, and no keeper");
                self.keep(Some(state));
            }
            SuccessorEvent::Released { state, release } => {
                assert!(!self.serves && self.taker.has_everything(), "serves twice, or without everything");
                assert!(release.is_some() || !self.giver_lives, "takes over from one that lives");
                assert!(release.is_some() || !self.standby, "a keeper takes over by itself");
                self.serves = true;
                self.keep(state);
            }
            SuccessorEvent::Farewell(state) => {
                assert!(self.serves);
                self.keep(Some(state));
            }
            SuccessorEvent::Departed(_) | SuccessorEvent::Draining(_) => assert!(self.serves),
            SuccessorEvent::Failed(_) => {
                assert!(!self.serves, "a successor that serves fails");
                self.taker_over = true;
                assert!(self.taker.is_over());
                // It must not serve what it received.
                self.taken.clear();
            }
            SuccessorEvent::Hello(_) => {}
        }
    }

    fn keep(&mut self, state: Option<Packet<Fd>>) {
        self.taken.extend(state.map(|packet| packet.memfd));
    }

    fn check(&self) {
        let giver_accepts = self.giver_lives && self.owns;
        let taker_accepts = self.taker_lives && self.serves && !self.relinquished;
        if self.has_lock {
            // Whatever is said in whoever's name.
            assert!(!giver_accepts || self.lock == Holder::Giver, "a predecessor accepts without the lock");
            assert!(!taker_accepts || self.lock == Holder::Taker, "a successor accepts without the lock");
        }
        let may_be_two = self.lied && !self.has_lock;
        assert!(may_be_two || !(giver_accepts && taker_accepts), "two generations accept");
        if self.giver_over {
            assert_eq!(self.giver.deadline(), None, "a predecessor that is over waits");
        }
        if self.taker.is_over() {
            assert_eq!(self.taker.deadline(), None, "a successor that is over waits");
        }
        // Where the offer names no drain deadline in earnest, the successor has none either.
        if let Some(deadline) = self.giver.deadline() {
            assert!(deadline <= self.now + LONGEST, "a predecessor waits for ever");
        }
        let on_their_way: usize = self.to_taker.iter().map(|(_, fds)| fds.len()).sum();
        let held = self.living.get() - on_their_way - self.taken.len();
        let kept = if self.giver_over { 0 } else { self.kept };
        assert!(held <= kept, "{held} descriptors are kept for nothing");
    }

    fn fd(&mut self) -> Fd {
        self.living.set(self.living.get() + 1);
        self.next_fd += 1;
        Fd { number: self.next_fd, living: Rc::clone(&self.living) }
    }

    /// A state. The successor reads the schemas 0 and 1, or none.
    fn packet(&mut self, schema: u8) -> Packet<Fd> {
        Packet { info: info(u32::from(schema & 3)), memfd: self.fd() }
    }
}

/// What is said fits a line, and is understood as it was meant.
fn check_line<T: Frame + PartialEq + std::fmt::Debug>(frame: &T) {
    let line = frame.to_line();
    assert!(line.len() <= MAX_LINE, "a line of {} bytes", line.len());
    assert_eq!(T::parse(line.trim_ascii_end()).as_ref(), Ok(frame));
}

fn info(schema: u32) -> StateInfo {
    StateInfo { length: 8, schema, codec: "raw".to_owned(), fingerprint: None }
}

fn entry(name: &str, index: u32, long: bool) -> Arc<Entry> {
    let name = Name::try_from(name.to_owned()).unwrap_or_else(|error| panic!("{error}"));
    let addr = long.then(|| "\u{1}".repeat(300));
    Arc::new(Entry {
        name,
        index,
        kind: Kind::TcpListener,
        addr,
        cookie: Some(u64::MAX),
        netns: None,
        file: None,
        path: None,
        passed: false,
    })
}

fn hello(min: u32) -> ServerFrame {
    read(&format!(
        r#"{{"type":"hello","protocol":{{"min":{min},"max":2}},"name":"","version":"","pid":0,"generation":0,"phase":"?"}}"#
    ))
}
