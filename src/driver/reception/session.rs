//! One connection to the control socket before it says `receive`.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use crate::core::wire::{
    ClientFrame, Concluded, ErrorCode, Failure, Frame, Receive, ServerFrame, WireError, parse_client_line,
};
use crate::core::{Answer, Desk, Inspector};
use crate::driver::channel::{Channel, Fill};
use crate::driver::descriptor::Attachment;
use crate::driver::generation::{Asker, Generation, Notice};
use crate::error::{Error, Result};
use crate::sys::event::{Interest, Poller, is_hung_up};

/// How many lines of one that looks are answered before it is the others' turn.
const LINES_A_TURN: usize = 8;
/// How much may wait to be sent to one that looks before it is no longer read from.
const MAX_QUEUED: usize = 262_144;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) channel: Channel<Attachment>,
    pub(super) inspector: Inspector,
    pub(super) token: u64,
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) interest: Interest,
    /// It has closed its end for writing.
    pub(super) only_listens: bool,
    /// It asks for the service, and waits until it is seen that the one before it is gone.
    pub(super) waits: Option<Receive>,
    /// It has heard its last word.
    pub(super) closing: bool,
}

pub(super) fn hung_up(generation: &Generation) {
    let generation = generation.number;
    tracing::warn!(event = "hung_up", generation, "a successor hung up before the application accepted it");
}

pub(super) enum Turn {
    Stays,
    /// It stays, and has said more that can be answered.
    Unfinished,
    Ends,
    Begins(Receive),
}

impl Session {
    pub(super) fn new(stream: UnixStream, token: u64, pidfd: Option<OwnedFd>, now: Instant) -> Result<Session> {
        let channel = Channel::new(stream, false).map_err(Error::io("set up a control connection"))?;
        let (inspector, interest) = (Inspector::new(now), Interest::Read);
        Ok(Session { channel, inspector, token, pidfd, interest, only_listens: false, waits: None, closing: false })
    }

    /// Answers some of what is whole, and reads once. What is to be said goes out at the end: a successor that speaks
    /// at once hears the greeting together with the offer.
    // M36
    pub(super) fn turn(&mut self, generation: &Generation, now: Instant) -> Turn {
        if let Some(receive) = self.waits.take() {
            if is_hung_up(self.channel.as_fd()) {
                return Turn::Ends;
            }
            if generation.has_lost_successor() {
                self.waits = Some(receive);
                return Turn::Stays;
            }
            if let Some(receive) = self.answer(generation, now, Ok(ClientFrame::Receive(receive))) {
                return Turn::Begins(receive);
            }
        }
        let (mut received, mut lines, mut understood) = (false, 0, false);
        while !self.closing && self.waits.is_none() && lines < LINES_A_TURN && self.channel.queued() <= MAX_QUEUED {
            if let Some(line) = self.channel.next_frame(parse_client_line) {
                if let Some(receive) = self.answer(generation, now, line.map(|(frame, _)| frame)) {
                    return Turn::Begins(receive);
                }
                lines += 1;
                continue;
            }
            if received {
                understood = true;
                break;
            }
            match self.channel.fill() {
                Fill::Some => received = true,
                Fill::Nothing => {
                    understood = true;
                    break;
                }
                // `echo watch | socat` says all that it has to say at once, and goes on listening.
                Fill::Closed if self.inspector.listens() && !is_hung_up(self.channel.as_fd()) => {
                    (self.only_listens, understood) = (true, true);
                    break;
                }
                Fill::Closed => return Turn::Ends,
            }
        }
        self.flush();
        match (self.closing, self.channel.queued()) {
            (true, 0) => Turn::Ends,
            (true, _) => Turn::Stays,
            // Where too much waits to be sent, room to send it comes first.
            (false, queued) if understood || self.waits.is_some() || queued > MAX_QUEUED => Turn::Stays,
            (false, _) => Turn::Unfinished,
        }
    }

    // M41, M89, M148
    fn answer(
        &mut self,
        generation: &Generation,
        now: Instant,
        line: Result<ClientFrame, WireError>,
    ) -> Option<Receive> {
        let mut lost = false;
        // The one in the way may be this one, whose first connection broke a moment ago.
        if matches!(line, Ok(ClientFrame::Receive(_))) {
            (0..generation.withdraw_lost()).for_each(|_| hung_up(generation));
            lost = generation.has_lost_successor();
        }
        match self.inspector.line(now, line, Desk { lost, ..generation.desk() }) {
            Answer::Reply(frame) => self.say(&frame),
            Answer::Close(frame) => {
                self.say(&frame);
                self.closing = true;
            }
            Answer::Refuse(pid, failure) => {
                generation.refused(pid, &failure);
                self.say(&ServerFrame::from(failure));
                self.closing = true;
            }
            Answer::Status => self.say(&ServerFrame::from(generation.status())),
            Answer::Watch => {
                generation.listen();
                self.say(&ServerFrame::from(generation.status()));
            }
            Answer::Upgrade(timeout) => {
                if let Err(message) = generation.ask_upgrade(timeout, Asker::Session(self.token)) {
                    // Somebody else has asked since the desk was looked at.
                    self.inspector.concluded();
                    self.say(&ServerFrame::from(Failure { code: ErrorCode::Busy, message }));
                }
            }
            Answer::Stop(frame) => {
                self.say(&frame);
                generation.ask_stop();
            }
            Answer::Begin(receive) => {
                generation.receives(&receive);
                return Some(receive);
            }
            Answer::Keep(receive) => {
                generation.keeper_receives(receive.pid);
                return Some(receive);
            }
            Answer::Wait(receive) => self.waits = Some(receive),
        }
        None
    }

    pub(super) fn say(&mut self, frame: &impl Frame) {
        self.channel.queue(frame, Vec::new());
    }

    pub(super) fn flush(&mut self) {
        if self.channel.flush(&[]).is_err() {
            self.closing = true;
        }
    }

    /// Says one more thing without waiting; the connection is about to be closed.
    pub(super) fn last_word(&mut self, frame: ServerFrame) {
        self.say(&frame);
        self.flush();
    }

    /// Tells of one thing that has happened, if that is still wanted.
    pub(super) fn hear(&mut self, notice: &Notice) {
        match notice {
            Notice::Event(event) if self.inspector.listens() => self.say(&ServerFrame::from(event.clone())),
            Notice::Outcome(asker, attempt) if *asker == self.token => {
                self.say(&ServerFrame::from(Concluded { attempt: attempt.clone() }));
                self.inspector.concluded();
                // One that can ask nothing more and listens no more has heard all.
                self.closing |= self.only_listens && !self.inspector.listens();
            }
            _ => {}
        }
    }

    /// Has the poller watch for what this session waits for now.
    pub(super) fn rearm(&mut self, poller: &Poller) {
        let wanted = match self.channel.queued() {
            0 if self.only_listens || self.waits.is_some() => Interest::HangUp,
            0 => Interest::Read,
            queued if self.closing || self.only_listens || queued > MAX_QUEUED => Interest::Write,
            _ => Interest::Both,
        };
        if wanted != self.interest {
            // The connection is in the set for as long as the session is.
            let _ = poller.change(self.channel.as_fd(), self.token, wanted);
            self.interest = wanted;
        }
    }
}

impl Session {
    /// Whether it is to go: it has heard its last word, or does not read what it asked for.
    pub(super) fn is_spent(&self) -> bool {
        let queued = self.channel.queued();
        queued > MAX_QUEUED || (self.closing && queued == 0)
    }
}
