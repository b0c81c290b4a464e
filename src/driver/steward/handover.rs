//! Giving the service up, to a successor or to nobody: carries out what [`Finish`] says.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use super::{Duty, Late, Over, STOPPED, Steward, TOO_LATE};
use crate::core::wire::{Ending, ErrorCode};
use crate::core::{Finish, FinishInput, FinishOutput, FinishWaits, Leave, Packet};
use crate::driver::giving::{Giving, Milestone};
use crate::driver::hooks::Hook;
use crate::driver::worker::Pending;
use crate::error::{Error, Failure, Owner, StateError};

pub(super) type Sealed = Result<Option<Packet<OwnedFd>>, StateError>;

#[derive(Debug)]
pub(super) struct Handover {
    pub(super) finish: Finish,
    /// The successor, unless the service just stops.
    giving: Option<Giving>,
    /// What the application was asked for.
    asked: Option<Pending<Sealed>>,
    /// What it gave.
    state: Option<Packet<OwnedFd>>,
    /// What its last state has cost, if it was lost.
    lost: Option<StateError>,
    failure: Option<Failure>,
    /// By when the successor has to be ready, whatever progress it makes, and why.
    limit: Option<(Instant, Late)>,
    /// The successor is a keeper.
    to_keeper: bool,
    over: bool,
}

impl Handover {
    pub(super) fn to(giving: Giving, waits: FinishWaits, limit: Option<Instant>) -> Handover {
        let limit = limit.map(|limit| (limit, TOO_LATE));
        let to_keeper = giving.is_to_keeper();
        Handover { giving: Some(giving), limit, to_keeper, ..Handover::by(Finish::hand_over(waits)) }
    }

    pub(super) fn stop(waits: FinishWaits, superseded: bool) -> Handover {
        Handover::by(Finish::stop(Instant::now(), waits, superseded))
    }

    fn by(finish: Finish) -> Handover {
        Handover {
            finish,
            giving: None,
            asked: None,
            state: None,
            lost: None,
            failure: None,
            limit: None,
            to_keeper: false,
            over: false,
        }
    }

    pub(super) fn giving(&mut self) -> Option<&mut Giving> {
        self.giving.as_mut()
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let link = self.giving.as_ref().and_then(Giving::deadline);
        let limit = self.limit.map(|(at, _)| at);
        self.finish.deadline().into_iter().chain(link).chain(limit).min()
    }

    pub(super) fn proceed(&mut self) {
        self.finish.handle(Instant::now(), FinishInput::Proceed);
    }

    pub(super) fn drained(&mut self) {
        self.finish.handle(Instant::now(), FinishInput::Drained);
    }

    pub(super) fn end_now(&mut self) {
        self.finish.handle(Instant::now(), FinishInput::EndNow);
    }

    /// The service was told to stop: the successor has until then.
    pub(super) fn limit_by_stop(&mut self, stop: Option<Instant>) {
        let Some(stop) = stop.filter(|_| self.giving.is_some() && !self.finish.has_superseded()) else { return };
        if self.limit.is_none_or(|(limit, _)| stop < limit) {
            self.limit = Some((stop, STOPPED));
        }
    }

    /// Why the successor is given up, if its time is over.
    pub(super) fn late(&mut self, now: Instant) -> Option<Late> {
        if self.finish.has_superseded() {
            self.limit = None;
        }
        let (_, late) = self.limit.filter(|(limit, _)| *limit <= now)?;
        self.limit = None;
        Some(late)
    }

    fn handle(&mut self, input: FinishInput) {
        self.finish.handle(Instant::now(), input);
    }
}

impl Steward {
    /// Does what is to be done, up to what the form has to do.
    pub(super) fn carry_out(&mut self, handover: &mut Handover) -> Option<Duty> {
        while let Some(output) = handover.finish.poll_output() {
            match output {
                FinishOutput::Offer => self.ask(handover, |steward| &steward.application.hooks.snapshot),
                FinishOutput::AskFinal => self.ask(handover, |steward| &steward.application.hooks.last),
                FinishOutput::AskFarewell => self.ask(handover, |steward| &steward.application.hooks.farewell),
                FinishOutput::Supersede => return Some(Duty::Supersede),
                FinishOutput::EndConnections => {
                    let connections = (self.application.connections)();
                    tracing::warn!(
                        event = "overdue",
                        connections,
                        "the drain deadline has passed; ending what is left"
                    );
                    return Some(Duty::EndConnections);
                }
                FinishOutput::Release => self.release(handover),
                FinishOutput::Farewell => self.say_farewell(handover),
                FinishOutput::GiveUp(reason) => self.give_up(handover, reason),
                FinishOutput::Settle => self.settle(),
                // At its beginning and at its end, however close the two are.
                FinishOutput::Drain | FinishOutput::Follow => self.tell_of_drain(handover),
                FinishOutput::Resume => return self.resume(handover),
                FinishOutput::Exit => return Some(self.exit(handover)),
                FinishOutput::Fail => return Some(self.fail(handover)),
            }
        }
        None
    }

    /// Has the application asked, where nobody waits for it.
    fn ask(&self, handover: &mut Handover, which: fn(&Steward) -> &Hook) {
        let hook = which(self).clone();
        match &self.worker {
            Some(worker) if !hook.is_none() => {
                handover.asked = Some(worker.run(move || hook.call()?.map(|state| state.seal()).transpose()));
            }
            _ => self.given(handover, Ok(None)),
        }
    }

    fn given(&self, handover: &mut Handover, state: Sealed) {
        let (state, given) = match state {
            Ok(state) => (state, Ok(())),
            Err(error) => {
                let reason = error.to_string();
                handover.lost = Some(error);
                (None, Err(reason))
            }
        };
        handover.state = state;
        let offers = given.is_ok() && !handover.finish.has_superseded();
        handover.handle(FinishInput::Given(given));
        if offers {
            self.offer(handover);
        }
    }

    fn offer(&self, handover: &mut Handover) {
        let snapshot = handover.state.take();
        let Some(giving) = &mut handover.giving else { return };
        if giving.is_to_keeper() {
            return giving.complete(snapshot);
        }
        if let Err(error) = giving.offer((self.application.offer)(), snapshot) {
            // What follows is found by the next poll.
            giving.cut_short(ErrorCode::Application, &error.to_string());
        }
    }

    fn release(&self, handover: &mut Handover) {
        let state = handover.state.take();
        if let Some(giving) = &mut handover.giving {
            giving.release(state);
        }
    }

    fn say_farewell(&self, handover: &mut Handover) {
        let state = handover.state.take();
        // One that did not come in time may still be on its way; nobody waits for it.
        let unfinished = handover.asked.take().is_some();
        let lost = handover.lost.take();
        if unfinished || lost.is_some() {
            let error = lost.as_ref().map_or("on_farewell did not return in time".to_owned(), ToString::to_string);
            tracing::error!(event = "state_lost", %error, "the last state is lost");
        }
        if let Some(giving) = &mut handover.giving {
            let sealed = lost.map_or(Ok(state), Err);
            handover.failure = giving.farewell(sealed);
        }
    }

    /// Where this process owns the service, nobody does from here on.
    fn settle(&self) {
        if self.generation.is_accepting() {
            (self.application.withdrawn)();
            (self.application.stopped)();
        }
        self.generation.wind_up(Ending::Stopped);
    }

    fn give_up(&self, handover: &mut Handover, reason: String) {
        handover.asked = None;
        if let Some(giving) = &mut handover.giving {
            giving.cut_short(ErrorCode::Application, &reason);
        }
    }

    /// Takes in one thing that has happened. Returns whether there was one.
    pub(super) fn take_in(&mut self, handover: &mut Handover) -> bool {
        let now = Instant::now();
        if self.abort_if_late(handover, now) || self.hear_successor(handover) {
            return true;
        }
        if let Some(state) = handover.asked.as_ref().and_then(Pending::take) {
            handover.asked = None;
            self.given(handover, state);
            return true;
        }
        let input = if handover.finish.deadline().is_some_and(|deadline| deadline <= now) {
            FinishInput::Timeout
        } else if handover.finish.awaits_predecessor() && self.has_absorbed() {
            FinishInput::Followed
        } else if handover.finish.awaits_letting_go() && self.generation.has_let_go() {
            FinishInput::LetGo
        } else if handover.finish.can_hurry() && self.generation.is_to_end_now() {
            FinishInput::EndNow
        } else {
            return false;
        };
        handover.handle(input);
        true
    }

    fn hear_successor(&mut self, handover: &mut Handover) -> bool {
        let Some(giving) = &mut handover.giving else { return false };
        let heard = giving.poll(&[]);
        if matches!(heard, Some(Milestone::Active)) && !(self.application.is_minded_apart)() {
            self.watchdog.superseded();
        }
        let input = match heard {
            Some(Milestone::Ready) => FinishInput::Ready,
            Some(Milestone::Active) => {
                // What it has is the successor's to give from here on.
                self.renew_keeper();
                FinishInput::Active
            }
            Some(Milestone::Settled(ending)) => FinishInput::Settled(ending),
            Some(Milestone::Departed) => return true,
            Some(Milestone::Over(failure)) => {
                let unknown = failure.owner() == Owner::Unknown;
                handover.failure = Some(failure);
                self.let_successor_go(handover);
                if unknown { FinishInput::Unknown } else { FinishInput::Kept }
            }
            None if giving.is_done() => {
                self.let_successor_go(handover);
                FinishInput::Departed
            }
            None => return false,
        };
        handover.handle(input);
        true
    }

    fn let_successor_go(&self, handover: &mut Handover) {
        if let Some(giving) = handover.giving.take() {
            self.poller.remove(giving.poller().as_fd());
        }
    }

    /// The handoff is over, and the service this process's. One that was told to stop meanwhile stops.
    fn resume(&mut self, handover: &mut Handover) -> Option<Duty> {
        let superseded = handover.finish.has_superseded();
        if self.generation.is_stopping() {
            *handover = self.begin_stop(superseded);
            if self.proceeding {
                handover.proceed();
            }
            return self.carry_out(handover);
        }
        handover.over = true;
        if !superseded {
            return None;
        }
        self.proceeding = false;
        Some(Duty::Over(Over::Resume))
    }

    fn exit(&mut self, handover: &mut Handover) -> Duty {
        handover.over = true;
        if handover.to_keeper {
            // It takes the service, and not this process's place.
            (self.application.withdrawn)();
        }
        let stopped = self.generation.is_accepting();
        self.generation.leave(if stopped { Leave::Stopped } else { Leave::HandedOver });
        match handover.failure.take() {
            Some(failure) => Duty::Over(Over::Failed(failure)),
            None => Duty::Over(Over::Exit),
        }
    }

    fn fail(&mut self, handover: &mut Handover) -> Duty {
        handover.over = true;
        let failure = handover.failure.take();
        Duty::Over(Over::Failed(failure.unwrap_or_else(|| Failure::new(Owner::Unknown, Error::Closed))))
    }
}
