//! Serves the control socket in the background: greets, answers those who look, and hands a successor that
//! says `receive` to the application. It also listens to the predecessor while that one drains.
//!
//! Nothing here waits; a driver steps it and waits for its poller in between.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::record::micros;
use crate::core::wire::{
    ClientFrame, Concluded, ErrorCode, Event, Failure, Frame, News, Phase, Receive, ServerFrame, SuccessorStatus,
    WireError, parse_client_line,
};
use crate::core::{Answer, Inspector, MAX_INSPECTORS, Successor, SuccessorCommand, SuccessorEvent};
use crate::driver::channel::{Channel, Fill, Link};
use crate::driver::descriptor::Attachment;
use crate::driver::generation::{Arrival, Asker, Generation, Notice, Watch};
use crate::driver::giving;
use crate::error::Error;
use crate::sys::event::{Interest, Poller, is_hung_up};
use crate::sys::{process, socket};

const LISTENER: u64 = 0;
const WAKE: u64 = 1;
const PREDECESSOR: u64 = 2;
const FIRST_SESSION: u64 = 3;

/// What a handoff opens here besides what it offers: a poller, our own pidfd, a memfd for each of the states, the files
/// under `/proc` that it reads.
const HANDOFF_FILES: usize = 8;
/// How many lines of one that looks are answered before it is the others' turn.
const LINES_A_TURN: usize = 8;
/// How much may wait to be sent to one that looks before it is no longer read from.
const MAX_QUEUED: usize = 262_144;
/// How long to leave the listener alone when the process is out of descriptors.
const OUT_OF_FILES_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Reception {
    generation: Arc<Generation>,
    poller: Arc<Poller>,
    sessions: HashMap<u64, Session>,
    /// Those whose turn ended before everything that they said was answered.
    unfinished: Vec<u64>,
    next_session: u64,
    predecessor: Option<Link<Successor<OwnedFd>>>,
    /// Since when it drains.
    followed_since: Option<Instant>,
    /// Whether the poller watches the listener.
    listening: bool,
    /// Until when it does not, though it should.
    paused_until: Option<Instant>,
}

/// What to do after a step.
pub(crate) enum Next {
    /// Wait for the poller, or until this moment.
    Wait(Option<Instant>),
    /// Nothing: it is over.
    Exit,
}

#[derive(Debug)]
struct Session {
    channel: Channel<Attachment>,
    inspector: Inspector,
    token: u64,
    pidfd: Option<OwnedFd>,
    interest: Interest,
    /// It has closed its end for writing.
    only_listens: bool,
    /// It has heard its last word.
    closing: bool,
}

impl Reception {
    pub(crate) fn new(generation: Arc<Generation>) -> io::Result<Reception> {
        let poller = Poller::new()?;
        poller.add(generation.wake.as_fd(), WAKE, Interest::Read)?;
        Ok(Reception {
            generation,
            poller: Arc::new(poller),
            sessions: HashMap::new(),
            unfinished: Vec::new(),
            next_session: FIRST_SESSION,
            predecessor: None,
            followed_since: None,
            listening: false,
            paused_until: None,
        })
    }

    /// Listens to the predecessor, from the moment that the service is ours until it is gone.
    fn follow_predecessor(&mut self) {
        let Some(predecessor) = self.generation.board().link.take() else { return };
        if let Err(error) = self.poller.add(predecessor.poller().as_fd(), PREDECESSOR, Interest::Read) {
            // It is still heard whenever something else wakes us, and at its drain deadline.
            tracing::error!(event = "watch_failed", %error, "cannot watch the predecessor");
        }
        self.predecessor = Some(predecessor);
        self.followed_since = Some(Instant::now());
    }

    pub(crate) fn poller(&self) -> &Arc<Poller> {
        &self.poller
    }

    /// Does all that can be done now.
    pub(crate) fn step(&mut self, now: Instant) -> Next {
        let mut ready = self.poller.ready().unwrap_or_default();
        let unfinished = std::mem::take(&mut self.unfinished);
        ready.extend(unfinished.into_iter().filter(|token| !ready.contains(token)).collect::<Vec<_>>());
        for token in ready {
            match token {
                WAKE => self.generation.wake.lower(),
                LISTENER => self.accept(now),
                PREDECESSOR => {}
                session => self.serve(session, now),
            }
        }
        self.follow_predecessor();
        self.hear_predecessor(now);
        self.expire(now);
        self.follow_board(now);
        // Looked at first: what happened before the application was done is passed on.
        let done = self.generation.board().is_done();
        self.pass_on_news();
        if done {
            self.leave(now);
            return Next::Exit;
        }
        if !self.unfinished.is_empty() {
            // Nothing else tells of what has been received already.
            self.generation.wake.raise();
        }
        Next::Wait(self.deadline())
    }

    /// The application is done: the predecessor is told that nobody needs to take back.
    fn leave(&mut self, now: Instant) {
        // What was said between the last look and the end.
        self.pass_on_news();
        self.settle(now);
        self.poller.remove(self.generation.listener.as_fd());
    }

    /// Tells the predecessor that our end will not be a crash, unless it is one.
    fn settle(&mut self, now: Instant) {
        let crashed = self.generation.board().crashed;
        if let Some(link) = self.predecessor.as_mut().filter(|_| !crashed) {
            link.command(SuccessorCommand::Settle);
        }
        self.hear_predecessor(now);
    }

    fn deadline(&self) -> Option<Instant> {
        let sessions = self.sessions.values().filter_map(|session| session.inspector.deadline());
        let predecessor = self.predecessor.as_ref().and_then(Link::deadline);
        sessions.chain(predecessor).chain(self.paused_until).min()
    }

    /// Watches the listener exactly while it is ours to accept on.
    fn follow_board(&mut self, now: Instant) {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        let wanted = self.paused_until.is_none() && self.generation.board().accepting;
        if wanted == self.listening {
            return;
        }
        let listener = self.generation.listener.as_fd();
        if wanted {
            if let Err(error) = self.poller.add(listener, LISTENER, Interest::Read) {
                tracing::error!(event = "watch_failed", %error, "cannot watch the control socket; trying again");
                self.paused_until = Some(now + OUT_OF_FILES_PAUSE);
                return;
            }
        } else {
            self.poller.remove(listener);
        }
        self.listening = wanted;
    }

    fn accept(&mut self, now: Instant) {
        loop {
            let accepted = {
                // Under the lock: a release that has happened is one that is seen here.
                let board = self.generation.board();
                if !board.accepting {
                    return;
                }
                self.generation.listener.accept()
            };
            match accepted {
                Ok((stream, _)) => {
                    if let Err(error) = self.greet(stream, now) {
                        tracing::debug!(event = "connection_lost", %error, "a control connection went away at once");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if is_out_of_files(&error) && self.dismiss_quietest(Inspector::out_of_files()) => {}
                Err(error) if is_out_of_files(&error) => {
                    tracing::warn!(event = "accept_failed", %error, "cannot accept on the control socket");
                    self.paused_until = Some(now + OUT_OF_FILES_PAUSE);
                    return;
                }
                Err(error) => {
                    tracing::debug!(event = "connection_lost", %error, "a control connection failed");
                    return;
                }
            }
        }
    }

    // M28, M30, M38
    fn greet(&mut self, stream: UnixStream, now: Instant) -> Result<(), Error> {
        // Best effort: without it the kernel closes what is sent here on arrival.
        let _ = socket::refuse_descriptors(stream.as_fd());
        let peer = socket::peer_credentials(&stream).map_err(Error::io("read a peer's credentials"))?;
        let pidfd = self.pidfd_of(&stream, peer.pid());
        let channel = Channel::new(stream, false).map_err(Error::io("set up a control connection"))?;
        let inspector = Inspector::new(now);
        let token = self.next_session;
        self.next_session += 1;
        let mut session =
            Session { channel, inspector, token, pidfd, interest: Interest::Read, only_listens: false, closing: false };
        if let Err(denied) = self.generation.config.peers.check(&peer) {
            let generation = self.generation.number;
            tracing::warn!(
                event = "denied",
                generation,
                uid = peer.uid(),
                gid = peer.gid(),
                "denied a control connection"
            );
            session.last_word(Failure { code: ErrorCode::Denied, message: denied.to_string() }.into());
            return Ok(());
        }
        session.say(&ServerFrame::from(self.generation.hello()));
        if self.sessions.len() >= MAX_INSPECTORS {
            self.dismiss_quietest(Inspector::evicted());
        }
        self.poller.add(session.channel.as_fd(), token, Interest::Read).map_err(Error::io("watch a connection"))?;
        self.sessions.insert(token, session);
        // A successor speaks first, and needs no further wake-up.
        self.serve(token, now);
        Ok(())
    }

    /// A successor whose death we cannot see is a worse one: those who look make room for its pidfd.
    fn pidfd_of(&mut self, stream: &UnixStream, pid: i32) -> Option<OwnedFd> {
        loop {
            match socket::peer_pidfd(stream).or_else(|_| process::pidfd_of(pid)) {
                Ok(pidfd) => return Some(pidfd),
                Err(error) if is_out_of_files(&error) && self.dismiss_quietest(Inspector::out_of_files()) => {}
                Err(_) => return None,
            }
        }
    }

    /// Sees to it that those who look leave a handoff the descriptors that it needs, as far as one can know before
    /// there is an offer.
    fn spare_files(&mut self) {
        let named = self.generation.board().named.count() as usize;
        while giving::make_room(named.min(giving::IN_FLIGHT) + HANDOFF_FILES).is_err() {
            if !self.dismiss_quietest(Inspector::out_of_files()) {
                return;
            }
        }
    }

    /// Ends the session that has been quiet longest. Returns whether there was one.
    // M38
    fn dismiss_quietest(&mut self, word: ServerFrame) -> bool {
        // Several that came in one step share a moment; tokens tell which was first.
        let quietest = self.sessions.iter().min_by_key(|(token, session)| (session.inspector.rank(), **token));
        let Some(token) = quietest.map(|(token, _)| *token) else { return false };
        self.dismiss(token, word);
        true
    }

    fn dismiss(&mut self, token: u64, word: ServerFrame) {
        if let Some(mut session) = self.sessions.remove(&token) {
            self.poller.remove(session.channel.as_fd());
            session.last_word(word);
        }
    }

    /// Tells those who listen what has happened. One that does not read what it asked for is let go.
    // M89
    fn pass_on_news(&mut self) {
        let notices = std::mem::take(&mut self.generation.board().notices);
        if notices.is_empty() {
            return;
        }
        self.sessions.retain(|_, session| {
            if !session.inspector.listens() {
                return true;
            }
            notices.iter().for_each(|notice| session.hear(notice));
            session.flush();
            let queued = session.channel.queued();
            let stays = queued <= MAX_QUEUED && !(session.closing && queued == 0);
            if stays {
                session.rearm(&self.poller)
            } else {
                self.poller.remove(session.channel.as_fd())
            }
            stays
        });
        // Some may have gone since they were last counted.
        let listening = self.sessions.values().filter(|session| session.inspector.listens()).count();
        self.generation.board().listening = listening;
    }

    // M37
    fn expire(&mut self, now: Instant) {
        let is_late = |session: &Session| session.inspector.deadline().is_some_and(|deadline| deadline <= now);
        let late = self.sessions.iter().filter(|(_, session)| is_late(session));
        let late: Vec<u64> = late.map(|(token, _)| *token).collect();
        for token in late {
            self.dismiss(token, Inspector::timeout());
        }
    }

    /// Reads from one session once, and answers what is whole.
    // M83
    fn serve(&mut self, token: u64, now: Instant) {
        let Some(mut session) = self.sessions.remove(&token) else {
            // It waits for the application, and the only thing that is listened for is its end.
            if self.generation.withdraw(token) {
                hung_up(&self.generation);
            }
            return;
        };
        match session.turn(&self.generation, now) {
            stays @ (Turn::Stays | Turn::Unfinished) => {
                if matches!(stays, Turn::Unfinished) {
                    self.unfinished.push(token);
                }
                session.rearm(&self.poller);
                self.sessions.insert(token, session);
            }
            Turn::Ends => self.poller.remove(session.channel.as_fd()),
            Turn::Begins(receive) => {
                // Before anything is given away: a predecessor that took back on our death would accept beside
                // the successor that has the service by then.
                self.settle(now);
                self.spare_files();
                let Session { channel, pidfd, .. } = session;
                // Until the application accepts it, it may hang up. The connection is in the set, so this does not fail.
                let _ = self.poller.change(channel.as_fd(), token, Interest::HangUp);
                let watched = Watch { poller: Arc::clone(&self.poller), token };
                self.generation.arrive(Arrival { channel, receive, pidfd, began: now, watched });
            }
        }
    }

    // M82
    fn hear_predecessor(&mut self, now: Instant) {
        let Some(link) = &mut self.predecessor else { return };
        let span = link.span.clone();
        let _entered = span.enter();
        let generation = &self.generation;
        let news = |event, connections, message: String| {
            let pid = generation.board().predecessor.as_ref().map(|predecessor| predecessor.pid);
            generation.publish(Event {
                event,
                generation: generation.number - 1,
                pid,
                elapsed_us: None,
                connections,
                message,
            });
        };
        while let Some(event) = link.step(now, &[]) {
            match event {
                SuccessorEvent::Draining(connections) => {
                    news(News::Draining, Some(connections), left(connections));
                    if let Some(predecessor) = &mut generation.board().predecessor {
                        predecessor.connections = Some(connections);
                    }
                }
                SuccessorEvent::Farewell(packet) => {
                    let mut board = generation.board();
                    board.farewells.push_back(packet);
                    // Before anybody can take it, as with a request.
                    generation.farewells.raise();
                }
                SuccessorEvent::Departed(how) => {
                    let drained = self.followed_since.map(|since| now - since);
                    let drain_us = drained.map(micros);
                    tracing::info!(event = "departed", ?how, drain_us, "the predecessor is gone");
                    news(News::Farewell, None, "the predecessor is gone".to_owned());
                    generation.predecessor_departed(drained);
                }
                // The transfer is behind us.
                _ => {}
            }
        }
        // It may have said farewell and watch us still: what we have to say to it goes over this connection.
        if link.role.is_over() {
            self.poller.remove(link.poller().as_fd());
            self.predecessor = None;
        }
    }
}

impl Drop for Reception {
    /// A runtime that shuts down drops its tasks where they are: an application that was done with the control
    /// socket before that has stopped in good order all the same, and its predecessor is not to take back.
    fn drop(&mut self) {
        let closed = self.generation.board().closed;
        if closed {
            // It may never have got to run.
            self.follow_predecessor();
            self.settle(Instant::now());
        }
    }
}

/// How far a drain is, for people.
pub(crate) fn left(connections: u64) -> String {
    match connections {
        1 => "1 connection is left".to_owned(),
        count => format!("{count} connections are left"),
    }
}

fn hung_up(generation: &Generation) {
    let generation = generation.number;
    tracing::warn!(event = "hung_up", generation, "a successor hung up before the application accepted it");
}

fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::EMFILE | nix::libc::ENFILE))
}

enum Turn {
    Stays,
    /// It stays, and has said more that can be answered.
    Unfinished,
    Ends,
    Begins(Receive),
}

impl Session {
    /// Answers some of what is whole, and reads once. What is to be said goes out at the end: a successor that speaks
    /// at once hears the greeting together with the offer.
    // M36
    fn turn(&mut self, generation: &Generation, now: Instant) -> Turn {
        let (mut received, mut lines, mut understood) = (false, 0, false);
        while !self.closing && lines < LINES_A_TURN && self.channel.queued() <= MAX_QUEUED {
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
            (false, queued) if understood || queued > MAX_QUEUED => Turn::Stays,
            (false, _) => Turn::Unfinished,
        }
    }

    // M41, M89
    fn answer(
        &mut self,
        generation: &Generation,
        now: Instant,
        line: Result<ClientFrame, WireError>,
    ) -> Option<Receive> {
        // The one in the way may be this one, whose first connection broke a moment ago.
        if matches!(line, Ok(ClientFrame::Receive(_))) {
            (0..generation.withdraw_lost()).for_each(|_| hung_up(generation));
        }
        let mut board = generation.board();
        match self.inspector.line(now, line, board.desk()) {
            Answer::Reply(frame) => self.say(&frame),
            Answer::Close(frame) => {
                self.say(&frame);
                self.closing = true;
            }
            Answer::Refuse(pid, failure) => {
                drop(board);
                generation.refused(pid, &failure);
                self.say(&ServerFrame::from(failure));
                self.closing = true;
            }
            Answer::Status => {
                drop(board);
                self.say(&ServerFrame::from(generation.status()));
            }
            Answer::Watch => {
                board.listening += 1;
                drop(board);
                self.say(&ServerFrame::from(generation.status()));
            }
            Answer::Upgrade(timeout) => {
                board.listening += 1;
                generation.begin_upgrade(board, timeout, Asker::Session(self.token));
            }
            Answer::Stop(frame) => {
                drop(board);
                self.say(&frame);
                generation.ask_stop();
            }
            Answer::Begin(receive) => {
                let (pid, version) = (receive.pid, receive.version.clone());
                board.successor = Some(SuccessorStatus { pid, version, progress: None });
                board.phase = Phase::Offering;
                return Some(receive);
            }
        }
        None
    }

    fn say(&mut self, frame: &impl Frame) {
        self.channel.queue(frame, Vec::new());
    }

    fn flush(&mut self) {
        if self.channel.flush(&[]).is_err() {
            self.closing = true;
        }
    }

    /// Says one more thing without waiting; the connection is about to be closed.
    fn last_word(&mut self, frame: ServerFrame) {
        self.say(&frame);
        self.flush();
    }

    /// Tells of one thing that has happened, if that is still wanted.
    fn hear(&mut self, notice: &Notice) {
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
    fn rearm(&mut self, poller: &Poller) {
        let wanted = match self.channel.queued() {
            0 if self.only_listens => Interest::HangUp,
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
