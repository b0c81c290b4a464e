//! One generation around its handoffs: its life, its way out and its role together, as a driver joins them, whatever its
//! successors say, however often, and however anybody ends.
//!
//! The input: one byte of setting, then two bytes for each operation: which one, and its argument.

use std::time::{Duration, Instant};

use crate::made::{WAITS, attempt, duration, ending, offer};
use fd_handoff::core::wire::{
    Abort, Active, ClientFrame, Ending, ErrorCode, Frame, MAX_HISTORY, PROTOCOL, Progress, Ready, Receive, Received,
    ServerFrame, Settled, WireError,
};
use fd_handoff::core::{
    Finish, FinishInput, FinishOutput, FinishWaits, Gift, Input, Leave, Lifecycle, Output, Predecessor,
    PredecessorCommand as Command, PredecessorEvent as Event, Role,
};

/// So many operations of one input are carried out.
const MOST: usize = 400;
/// How much may follow from one thing that has happened.
const CONSEQUENCES: usize = 16;
const WAYS_OUT: FinishWaits = FinishWaits {
    hook: Duration::from_secs(10),
    drain: Duration::from_secs(30),
    ending: Duration::from_secs(1),
    settle: Duration::from_secs(2),
};

struct World {
    now: Instant,
    life: Lifecycle,
    finish: Option<Finish>,
    role: Option<Predecessor<u32>>,
    /// Whether the kernel says when the successor is dead, and whether it can be ended.
    sees: bool,
    kills: bool,
    /// Whether another process has the lock of the owner when this one claims it.
    outrun: bool,
    proceeding: bool,
    /// The application was asked for a state.
    asked: bool,
    /// What the application knows: it is to accept no more.
    superseded: bool,
    /// The service was given up.
    released: bool,
    /// Something has happened from which the successor can be known not to serve.
    gone: bool,
    told_to_stop: usize,
    /// The process has ended, well or not.
    ended: bool,
}

/// One input.
///
/// # Panics
///
/// The way out went where it must not.
pub(crate) fn run(data: &[u8]) {
    let Some((&setting, operations)) = data.split_first() else { return };
    let mut world = World::new(setting);
    for operation in operations.chunks_exact(2).take(MOST) {
        world.operate(operation[0], operation[1]);
        world.check();
    }
    world.come_to_rest();
}

impl World {
    fn new(setting: u8) -> World {
        let bit = |number: u8| setting >> number & 1 == 1;
        let mut life = Lifecycle::new(1, 4100, true);
        life.own([].into(), None);
        World {
            now: Instant::now(),
            life,
            finish: None,
            role: None,
            sees: !bit(0),
            kills: !bit(1),
            outrun: bit(2),
            proceeding: false,
            asked: false,
            superseded: false,
            released: false,
            gone: false,
            told_to_stop: 0,
            ended: false,
        }
    }

    fn operate(&mut self, operation: u8, argument: u8) {
        if self.ended {
            return;
        }
        match operation % 16 {
            0 | 1 => self.successor_comes(),
            2 => self.application_gives(Ok(())),
            3 if argument & 7 == 0 => self.application_gives(Err("no state".to_owned())),
            3 => self.application_gives(Ok(())),
            4 => self.proceed(),
            5 => self.happens(FinishInput::Drained),
            6 => self.stop(),
            7 => (0..argument).for_each(|_| self.stop()),
            8 | 9 => self.successor_says(frame(argument)),
            10 => (0..4 * u32::from(argument)).for_each(|number| self.flood(number)),
            11 if argument & 1 == 0 => self.hears(Input::Eof),
            11 => self.successor_dies(),
            12 => self.advance(duration(argument)),
            13 => self.happens(FinishInput::Followed),
            14 => self.everybody_lets_go(),
            _ if argument & 15 == 0 => self.crash(),
            _ => self.hears(Input::Unsent { frame: "release", reason: "no memory".to_owned() }),
        }
    }

    /// It is told that one is under way, or begins.
    fn successor_comes(&mut self) {
        let free = self.life.desk().successor.is_none();
        assert!(!free || self.role.is_none(), "two handoffs at once");
        if !free || self.finish.is_some() || !self.life.is_accepting() {
            return;
        }
        let receive = Receive {
            protocol: PROTOCOL,
            pid: 4711,
            version: "1".to_owned(),
            schemas: vec![0],
            fingerprints: None,
            services: None,
            standby: false,
            instance: None,
            take: false,
        };
        self.life.receive(&receive);
        self.role = Some(Predecessor::new(receive, WAITS, self.sees));
        self.gone = false;
        self.begin(Finish::hand_over(WAYS_OUT));
    }

    fn begin(&mut self, finish: Finish) {
        self.finish = Some(finish);
        if self.proceeding {
            self.happens(FinishInput::Proceed);
        }
        self.follow();
    }

    fn application_gives(&mut self, given: Result<(), String>) {
        if !std::mem::take(&mut self.asked) {
            return;
        }
        let offers = given.is_ok() && self.finish.as_ref().is_some_and(|finish| !finish.has_superseded());
        self.happens(FinishInput::Given(given));
        if offers {
            let gift = Gift { offer: offer(), pidfd: Some(1), descriptors: [].into(), snapshot: None };
            self.wants(Command::Offer(Box::new(gift)));
        }
    }

    fn proceed(&mut self) {
        self.proceeding = true;
        self.happens(FinishInput::Proceed);
    }

    fn stop(&mut self) {
        if self.ended {
            return;
        }
        self.told_to_stop += usize::from(self.life.tell_to_stop(self.now));
        match &self.finish {
            None => self.begin(Finish::stop(self.now, WAYS_OUT, false)),
            Some(_) if self.life.is_to_end_now() => self.happens(FinishInput::EndNow),
            Some(_) => {}
        }
    }

    fn successor_says(&mut self, frame: ClientFrame) {
        self.gone |= matches!(frame, ClientFrame::Abort(_));
        self.hears(Input::Frame(frame, vec![]));
    }

    fn flood(&mut self, number: u32) {
        match number % 4 {
            0 => self.successor_says(Progress { message: "still at it".to_owned() }.into()),
            1 => self.successor_says(Settled { ending: Ending::HandedOver }.into()),
            2 => self.hears(Input::Garbled(WireError::Malformed("x".to_owned()))),
            _ => self.successor_says(Active {}.into()),
        }
    }

    /// What it has said before is read; then the end of the stream, and what the kernel says where it can.
    fn successor_dies(&mut self) {
        self.hears(Input::Eof);
        if self.sees {
            self.gone = true;
            self.hears(Input::Died);
        }
    }

    fn everybody_lets_go(&mut self) {
        self.wants(Command::LetGo);
        self.happens(FinishInput::LetGo);
    }

    fn crash(&mut self) {
        self.life.leave(Leave::Crashed);
        self.ended = true;
        self.check();
    }

    /// Deadlines go off in their order.
    fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        for _ in 0..100 {
            let role = self.role.as_ref().and_then(Predecessor::deadline);
            let finish = self.finish.as_ref().and_then(Finish::deadline);
            let next = role.into_iter().chain(finish).min();
            let Some(next) = next.filter(|next| *next <= until && !self.ended) else {
                self.now = until;
                return;
            };
            self.now = next.max(self.now);
            self.hears(Input::Timeout);
            self.happens(FinishInput::Timeout);
        }
        panic!("deadlines without end");
    }

    fn wants(&mut self, command: Command<u32>) {
        self.hears(Input::Command(command));
    }

    fn hears(&mut self, input: Input<Predecessor<u32>>) {
        if let Some(role) = self.role.as_mut().filter(|_| !self.ended) {
            role.handle(self.now, input);
            self.follow();
        }
    }

    fn happens(&mut self, input: FinishInput) {
        if let Some(finish) = self.finish.as_mut().filter(|_| !self.ended) {
            finish.handle(self.now, input);
            self.follow();
        }
    }

    /// Carries out what comes out, until nothing does.
    fn follow(&mut self) {
        for _ in 0..CONSEQUENCES {
            if let Some(output) = self.role.as_mut().and_then(Predecessor::poll_output) {
                self.carry_out(output);
            } else if let Some(output) = self.finish.as_mut().and_then(Finish::poll_output) {
                self.leave_by(output);
            } else {
                return;
            }
        }
        panic!("one thing has more than {CONSEQUENCES} consequences");
    }

    fn carry_out(&mut self, output: Output<ServerFrame, u32, Event>) {
        let answer = match output {
            Output::Send(frame, _) => return self.send(&frame),
            Output::Event(event) => return self.event(event),
            Output::Claim => Input::Claimed(!self.outrun),
            Output::Fence => {
                // The kernel says that it is dead, and no more is heard of it.
                self.gone |= self.kills;
                Input::Fenced(self.kills)
            }
            Output::Disclaim | Output::Withdraw => return,
        };
        if let Some(role) = &mut self.role {
            role.handle(self.now, answer);
            if self.gone && self.sees {
                role.handle(self.now, Input::Died);
            }
        }
    }

    fn send(&mut self, frame: &ServerFrame) {
        assert!(!matches!(frame, ServerFrame::Release(_)) || self.superseded, "released while it accepts");
        assert!(frame.to_line().len() <= 131_072);
    }

    fn event(&mut self, event: Event) {
        let input = match event {
            Event::Transferred => return self.life.transferred(),
            Event::Progress(message) => return self.life.progress(message),
            Event::Stranded => return self.life.strand(),
            Event::ProbationOver => return,
            Event::Ready => FinishInput::Ready,
            Event::Active => {
                assert!(self.released, "active before release");
                self.life.hand_over(attempt());
                FinishInput::Active
            }
            Event::Settled(ending) => FinishInput::Settled(ending),
            Event::Departed => {
                self.role = None;
                FinishInput::Departed
            }
            Event::Failed(_) => self.keep(),
            Event::TakenBack(_) => {
                assert!(self.gone, "taken back from one that may serve");
                self.keep()
            }
            Event::Unknown(_) => {
                self.role = None;
                self.life.conclude(attempt());
                FinishInput::Unknown
            }
        };
        if let Some(finish) = &mut self.finish {
            finish.handle(self.now, input);
        }
    }

    fn keep(&mut self) -> FinishInput {
        (self.role, self.released, self.asked) = (None, false, false);
        self.life.keep(attempt());
        FinishInput::Kept
    }

    fn leave_by(&mut self, output: FinishOutput) {
        match output {
            FinishOutput::Offer | FinishOutput::AskFinal | FinishOutput::AskFarewell => self.asked = true,
            FinishOutput::Supersede => self.superseded = true,
            FinishOutput::Release => {
                assert!(!self.released && self.superseded);
                self.released = true;
                self.life.release();
                self.tell(Command::Release { state: None, monotonic_us: 1, timens: None });
            }
            FinishOutput::GiveUp(reason) => {
                assert!(!self.released, "given up after release");
                self.tell(Command::Abort(ErrorCode::Application, reason));
            }
            FinishOutput::Farewell => self.tell(Command::Farewell(vec![])),
            FinishOutput::Drain | FinishOutput::EndConnections | FinishOutput::Follow | FinishOutput::Settle => {}
            FinishOutput::Resume => self.resume(),
            FinishOutput::Exit => {
                let stopped = self.life.is_accepting();
                self.end(if stopped { Leave::Stopped } else { Leave::HandedOver });
            }
            FinishOutput::Fail => self.end(Leave::Crashed),
        }
    }

    fn tell(&mut self, command: Command<u32>) {
        if let Some(role) = &mut self.role {
            role.handle(self.now, Input::Command(command));
        }
    }

    /// The service is this process's. One that was told to stop meanwhile stops.
    fn resume(&mut self) {
        assert!(self.life.is_accepting() && !self.released);
        let superseded = std::mem::take(&mut self.superseded);
        self.finish = self.life.is_stopping().then(|| Finish::stop(self.now, WAYS_OUT, superseded));
        if let Some(finish) = &mut self.finish {
            self.superseded = superseded;
            if self.proceeding {
                finish.handle(self.now, FinishInput::Proceed);
            }
        } else if superseded {
            self.proceeding = false;
        }
    }

    fn end(&mut self, how: Leave) {
        self.life.leave(how);
        self.ended = true;
    }

    fn check(&self) {
        assert!(!self.released || !self.life.is_accepting(), "accepts what it has released");
        assert!(!self.ended || !self.life.is_accepting(), "accepts after its end");
        assert!(self.told_to_stop <= 2, "a stop says something new {} times", self.told_to_stop);
        assert!(self.life.history().len() <= MAX_HISTORY);
        let limit = self.life.stop_limit(WAYS_OUT.drain);
        assert_eq!(limit.is_some(), self.life.is_stopping());
        assert!(!self.life.is_to_end_now() || self.life.is_stopping());
    }

    /// Everybody else does what he is there for, or is gone: nothing is in the way of an end any more.
    fn come_to_rest(mut self) {
        for _ in 0..8 {
            self.successor_dies();
            self.application_gives(Ok(()));
            self.proceed();
            self.advance(Duration::from_secs(2 * 3_600));
            self.happens(FinishInput::Followed);
            self.everybody_lets_go();
            self.check();
        }
        let stranded = self.role.is_some() && !self.sees;
        assert!(self.ended || self.finish.is_none() || stranded, "stuck: {:?}", self.finish);
    }
}

fn frame(argument: u8) -> ClientFrame {
    match argument % 8 {
        0 => Received { batch: u32::from(argument >> 3 & 3) }.into(),
        1 => Progress { message: "m".repeat(usize::from(argument) * 8) }.into(),
        2 | 3 => Ready {}.into(),
        4 | 5 => Active {}.into(),
        6 => Settled { ending: ending(argument >> 3) }.into(),
        _ => Abort { code: ErrorCode::Application, reason: "r".repeat(usize::from(argument)) }.into(),
    }
}
