//! How a generation stops serving: what follows what between a successor that asks and this process's end, or between the
//! word *stop* and it. Without the waiting and the doing: a driver hands in what has happened, and does what comes out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::wire::Ending;

/// How much more time the connections of a process have at the most that was late to see that theirs was over.
const CATCH_UP: Duration = Duration::from_secs(1);

/// The way out of the service. It survives whoever waits for it: whatever has happened is in here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Finish {
    stage: Stage,
    waits: FinishWaits,
    /// The application was told to stop accepting.
    superseded: bool,
    /// It has stopped, and waits for the end.
    proceeding: bool,
    /// Its connections have ended.
    drained: bool,
    /// There is nobody to say farewell to.
    alone: bool,
    /// Nothing is waited for any more.
    hurried: bool,
    deadline: Option<Instant>,
    outputs: VecDeque<FinishOutput>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    /// The application gives its snapshot.
    Snapshot,
    /// The successor gets everything, and initialises.
    Offered,
    /// It is ready, or the service is to stop; the application has to stop accepting.
    Superseded,
    /// The application gives the final state.
    Final,
    /// The handoff is being given up; its end is all that counts.
    GivenUp,
    /// The successor has to say that it serves.
    Released,
    /// The connections end.
    Draining,
    /// They have as much more time as this process was late to see that theirs was over.
    CatchingUp,
    /// Those that are left are being ended.
    Ending,
    /// The own predecessor's last words are waited for.
    Following,
    /// The application gives its last state.
    Farewell,
    /// The farewell is said, and the successor is watched a little longer.
    Parting,
    /// Everybody with copies lets them go.
    Settling,
    Over,
}

/// How long each step may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FinishWaits {
    /// The application, to stop accepting, and to give a state once it has.
    pub hook: Duration,
    /// The connections, to end.
    pub drain: Duration,
    /// Those that are left, once they were told to.
    pub ending: Duration,
    /// The predecessors, to let their copies go when the service stops.
    pub settle: Duration,
}

impl FinishWaits {
    /// How long a stop may take: the application stops accepting, its connections end, and everybody lets go.
    pub fn of_a_stop(&self) -> Duration {
        let waits = [self.hook, self.drain, CATCH_UP, self.ending, self.settle];
        waits.into_iter().fold(Duration::ZERO, Duration::saturating_add)
    }
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FinishInput {
    /// The application has given what it was asked for, or could not.
    Given(Result<(), String>),
    /// The successor can serve.
    Ready,
    /// The application has stopped accepting, and waits.
    Proceed,
    /// The successor serves.
    Active,
    /// The successor's end will be no reason to take back.
    Settled(Ending),
    /// The handoff failed; the service is this process's, still or again.
    Kept,
    /// It failed, and nobody knows whose the service is.
    Unknown,
    /// The connections have ended.
    Drained,
    /// This process was told to stop once more.
    EndNow,
    /// The predecessor has said its last words, and they are taken in.
    Followed,
    /// The successor was watched for as long as it had to be.
    Departed,
    /// Everybody with copies has let them go.
    LetGo,
    /// The deadline has passed.
    Timeout,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FinishOutput {
    /// Ask the application for its snapshot, and offer it.
    Offer,
    /// Have the application stop accepting.
    Supersede,
    /// Ask it for its final state.
    AskFinal,
    /// Release the service with that.
    Release,
    /// Give the handoff up.
    GiveUp(String),
    /// The drain begins: say how far it is, from here on.
    Drain,
    /// The drain deadline has passed: end the connections that are left.
    EndConnections,
    /// Take in the predecessor's last words.
    Follow,
    /// Ask the application for its last state.
    AskFarewell,
    /// Say farewell with that, or without where it could not be had.
    Farewell,
    /// Have everybody let their copies go.
    Settle,
    /// The service is this process's: accept again, if it had stopped.
    Resume,
    /// This process may exit.
    Exit,
    /// Nobody knows whose the service is: exit, and do not accept.
    Fail,
}

impl Finish {
    /// A successor asks for the service.
    pub fn hand_over(waits: FinishWaits) -> Finish {
        Finish::begin(Stage::Snapshot, false, waits, FinishOutput::Offer)
    }

    /// The service is to stop. `superseded`: the application knows already.
    pub fn stop(now: Instant, waits: FinishWaits, superseded: bool) -> Finish {
        let mut finish = Finish::begin(Stage::Superseded, true, waits, FinishOutput::Supersede);
        if superseded {
            finish.outputs.clear();
            finish.superseded = true;
            finish.proceed(now);
        }
        finish
    }

    fn begin(stage: Stage, alone: bool, waits: FinishWaits, first: FinishOutput) -> Finish {
        Finish {
            stage,
            waits,
            superseded: first == FinishOutput::Supersede,
            proceeding: false,
            drained: false,
            alone,
            hurried: false,
            deadline: None,
            outputs: VecDeque::from([first]),
        }
    }

    /// Whether the application has been told to stop accepting.
    pub fn has_superseded(&self) -> bool {
        self.superseded
    }

    /// Whether connections are ending.
    pub fn is_draining(&self) -> bool {
        matches!(self.stage, Stage::Draining | Stage::CatchingUp | Stage::Ending)
    }

    /// Whether to be told once more to stop would change anything.
    pub fn can_hurry(&self) -> bool {
        let ends = matches!(self.stage, Stage::Following | Stage::Farewell | Stage::Parting | Stage::Settling);
        !self.hurried && (ends || self.is_draining())
    }

    /// Whether the predecessor's last words are waited for.
    pub fn awaits_predecessor(&self) -> bool {
        self.stage == Stage::Following
    }

    /// Whether it is waited for that everybody lets go.
    pub fn awaits_letting_go(&self) -> bool {
        self.stage == Stage::Settling
    }

    /// The next thing to do. The only way out.
    pub fn poll_output(&mut self) -> Option<FinishOutput> {
        self.outputs.pop_front()
    }

    /// When to hand in [`FinishInput::Timeout`], if nothing else happens before.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Takes in what has happened. The only way in.
    pub fn handle(&mut self, now: Instant, input: FinishInput) {
        match input {
            FinishInput::Given(given) => self.given(now, given),
            FinishInput::Ready if self.stage == Stage::Offered => self.supersede(now),
            FinishInput::Proceed => self.proceed(now),
            FinishInput::Active if self.stage == Stage::Released => self.drain(now),
            FinishInput::Settled(Ending::Stopped) => self.alone = true,
            FinishInput::Kept if self.stage != Stage::Over => self.end(FinishOutput::Resume),
            FinishInput::Unknown if self.stage != Stage::Over => self.end(FinishOutput::Fail),
            FinishInput::Drained => {
                self.drained = true;
                self.after_drain(now);
            }
            FinishInput::EndNow if !self.hurried => self.hurry(now),
            FinishInput::Followed if self.stage == Stage::Following => self.ask_farewell(now),
            FinishInput::Departed => self.departed(),
            FinishInput::LetGo if self.stage == Stage::Settling => self.end(FinishOutput::Exit),
            FinishInput::Timeout => self.time_out(now),
            _ => {}
        }
    }

    fn given(&mut self, now: Instant, given: Result<(), String>) {
        match (self.stage, given) {
            (Stage::Snapshot, Ok(())) => self.stage = Stage::Offered,
            (Stage::Final, Ok(())) => {
                self.enter(Stage::Released, None);
                self.say(FinishOutput::Release);
            }
            (Stage::Snapshot | Stage::Final, Err(reason)) => self.give_up(reason),
            // Without it the update is lost, and the successor goes on all the same.
            (Stage::Farewell, _) => self.part(now),
            _ => {}
        }
    }

    fn supersede(&mut self, now: Instant) {
        self.superseded = true;
        // Where nobody goes on, the successor is not to wait for ever.
        self.enter(Stage::Superseded, Some(now + self.waits.hook));
        self.say(FinishOutput::Supersede);
        if self.proceeding {
            self.proceed(now);
        }
    }

    fn proceed(&mut self, now: Instant) {
        self.proceeding = true;
        if self.stage != Stage::Superseded {
            return;
        }
        if self.alone {
            return self.drain(now);
        }
        self.enter(Stage::Final, Some(now + self.waits.hook));
        self.say(FinishOutput::AskFinal);
    }

    fn give_up(&mut self, reason: String) {
        self.enter(Stage::GivenUp, None);
        self.say(FinishOutput::GiveUp(reason));
    }

    fn drain(&mut self, now: Instant) {
        self.enter(Stage::Draining, Some(now + self.waits.drain));
        self.say(FinishOutput::Drain);
        self.after_drain(now);
    }

    /// What is still to be said is said, and nothing is waited for: neither for connections, nor for a predecessor, nor for
    /// the end of probation. Before the service is given up, this changes nothing.
    fn hurry(&mut self, now: Instant) {
        match self.stage {
            Stage::Draining | Stage::CatchingUp | Stage::Ending => {
                (self.hurried, self.drained) = (true, true);
                self.after_drain(now);
            }
            Stage::Following => {
                self.hurried = true;
                self.ask_farewell(now);
            }
            Stage::Farewell | Stage::Parting | Stage::Settling => {
                self.hurried = true;
                self.deadline = Some(now);
            }
            _ => {}
        }
    }

    fn after_drain(&mut self, now: Instant) {
        if !self.drained || !self.is_draining() {
            return;
        }
        if self.alone {
            return self.settle(now);
        }
        self.enter(Stage::Following, None);
        self.say(FinishOutput::Follow);
        if self.hurried {
            self.ask_farewell(now);
        }
    }

    fn ask_farewell(&mut self, now: Instant) {
        if self.alone {
            return self.settle(now);
        }
        self.enter(Stage::Farewell, Some(now + self.waits.hook));
        self.say(FinishOutput::AskFarewell);
    }

    fn part(&mut self, now: Instant) {
        if self.alone {
            return self.settle(now);
        }
        self.enter(Stage::Parting, self.hurried.then_some(now));
        self.say(FinishOutput::Farewell);
    }

    fn settle(&mut self, now: Instant) {
        self.enter(Stage::Settling, Some(now + self.waits.settle));
        self.say(FinishOutput::Settle);
    }

    /// The connection to the successor is over, and in good order: at the end, or before, where it has stopped.
    fn departed(&mut self) {
        match self.stage {
            Stage::Parting => self.end(FinishOutput::Exit),
            Stage::Over => {}
            _ => self.alone = true,
        }
    }

    fn time_out(&mut self, now: Instant) {
        let Some(late) = self.deadline.and_then(|deadline| now.checked_duration_since(deadline)) else { return };
        self.deadline = None;
        let hook = self.waits.hook;
        match self.stage {
            Stage::Superseded => self.give_up(format!(
                "the application was told to stop accepting, and did not call finish within {hook:?}"
            )),
            Stage::Final => self.give_up(format!("on_release did not return within {hook:?}")),
            // What has come counts before the time does: a process that was stopped for a while finds its deadline passed,
            // and in the same moment the requests that its connections were sent meanwhile.
            Stage::Draining if !late.is_zero() => self.enter(Stage::CatchingUp, Some(now + late.min(CATCH_UP))),
            Stage::Draining | Stage::CatchingUp => {
                self.enter(Stage::Ending, Some(now + self.waits.ending));
                self.say(FinishOutput::EndConnections);
            }
            Stage::Ending => {
                self.drained = true;
                self.after_drain(now);
            }
            Stage::Farewell => self.part(now),
            Stage::Parting | Stage::Settling => self.end(FinishOutput::Exit),
            Stage::Snapshot | Stage::Offered | Stage::GivenUp | Stage::Released | Stage::Following | Stage::Over => {}
        }
    }

    fn enter(&mut self, stage: Stage, deadline: Option<Instant>) {
        self.stage = stage;
        self.deadline = deadline;
    }

    fn end(&mut self, how: FinishOutput) {
        self.enter(Stage::Over, None);
        self.say(how);
    }

    fn say(&mut self, output: FinishOutput) {
        self.outputs.push_back(output);
    }
}
