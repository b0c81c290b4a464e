//! One generation of a service, as its control socket shows it: what the application's calls and the
//! background that serves the control socket share.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::core::record::{Laps, micros, remember};
use crate::core::wire::{
    Attempt, Entry, ErrorCode, Event, Failure, FdStatus, FileId, Hello, MAX_LINE, MAX_TEXT, News, Outcome, PROTOCOL,
    Phase, PredecessorStatus, Receive, Status, SuccessorStatus, shorten,
};
use crate::core::{Cause, Desk, Packet, Peer, Successor};
use crate::driver::channel::{Channel, Link};
use crate::driver::descriptor::{Attachment, named, status_of};
use crate::driver::giving::Giving;
use crate::driver::place::Place;
use crate::error::{Error, Result, StateError};
use crate::state::Received;
use crate::sys::event::{Poller, Signal, is_hung_up};

#[cfg(test)]
mod tests;

/// One generation.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) config: Config,
    pub(crate) number: u64,
    pub(crate) place: Place,
    pub(crate) listener: UnixListener,
    /// The identity of the path that leads to the listener, if it still did when this generation began.
    pub(crate) path_id: Option<FileId>,
    since: Instant,
    /// Wakes the background.
    pub(crate) wake: Signal,
    /// Counts the successors that wait for the application.
    pub(crate) arrivals: Signal,
    /// Counts the predecessor's farewells that wait for the application, and one for its departure.
    pub(crate) farewells: Signal,
    /// Raised for good once there is no predecessor to wait for.
    pub(crate) departed: Signal,
    /// Counts the requests that wait for whoever operates the service.
    pub(crate) requests: Signal,
    board: Mutex<Board>,
}

/// What changes.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) phase: Phase,
    pub(crate) named: Named,
    pub(crate) history: VecDeque<Attempt>,
    pub(crate) successor: Option<SuccessorStatus>,
    pub(crate) arrivals: VecDeque<Arrival>,
    /// Whether the control socket is this generation's to accept on.
    pub(crate) accepting: bool,
    /// The application is done with the control socket.
    pub(crate) closed: bool,
    /// It was let go by a panic: this is a crash, and nobody is to be told otherwise.
    pub(crate) crashed: bool,
    pub(crate) predecessor: Option<PredecessorStatus>,
    /// The connection to the predecessor, until the background takes it.
    pub(crate) link: Option<Link<Successor<OwnedFd>>>,
    pub(crate) farewells: VecDeque<Packet<OwnedFd>>,
    /// The predecessor's final state, until the application takes it.
    pub(crate) final_state: Option<Packet<OwnedFd>>,
    /// Whether somebody takes requests, or is about to.
    pub(crate) operated: bool,
    /// The service was told to stop. It may still hand over, where a handoff is under way.
    pub(crate) stopping: bool,
    pub(crate) requests: VecDeque<Request>,
    /// The upgrade under way.
    pub(crate) upgrade: Option<Upgrade>,
    /// How many connections listen for events.
    pub(crate) listening: usize,
    /// What they have not been told yet.
    pub(crate) notices: Vec<Notice>,
}

/// What a connection that listens is to be told.
#[derive(Debug)]
pub(crate) enum Notice {
    Event(Event),
    /// How the upgrade ended that this connection asked for.
    Outcome(u64, Attempt),
}

/// What somebody asks of whoever operates the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// A new process is to take over, and to be ready within this time, if one is said.
    Upgrade(Option<Duration>),
    Stop,
}

/// An upgrade that was asked for.
#[derive(Debug)]
pub(crate) struct Upgrade {
    pub(crate) began: Instant,
    pub(crate) asker: Asker,
}

/// Who wants to hear how an upgrade ended.
pub(crate) enum Asker {
    /// A signal does not.
    Nobody,
    /// This connection.
    Session(u64),
    /// This call.
    Call(Box<dyn FnOnce(Attempt) + Send>),
}

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Asker::Nobody => "Nobody",
            Asker::Session(_) => "Session",
            Asker::Call(_) => "Call",
        })
    }
}

/// A successor that said `receive`.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) channel: Channel<Attachment>,
    pub(crate) receive: Receive,
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) began: Instant,
    /// Where it is watched while it waits.
    pub(crate) watched: Watch,
}

/// A connection's place in the background's poller.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) poller: Arc<Poller>,
    pub(crate) token: u64,
}

/// Where a generation comes from.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) number: u64,
    /// What the path led to when the predecessor had it; `None`: this process has bound it itself.
    pub(crate) path: Option<FileId>,
    pub(crate) named: Named,
    /// Whether somebody will take requests.
    pub(crate) operated: bool,
}

impl Generation {
    pub(crate) fn new(config: Config, place: Place, listener: UnixListener, origin: Origin) -> io::Result<Generation> {
        let found = place.look().ok().flatten();
        let path_id = found.filter(|found| origin.path.is_none_or(|expected| *found == expected));
        Ok(Generation {
            config,
            number: origin.number,
            place,
            listener,
            path_id,
            since: Instant::now(),
            wake: Signal::new()?,
            arrivals: Signal::new()?,
            farewells: Signal::new()?,
            departed: Signal::new()?,
            requests: Signal::new()?,
            board: Mutex::new(Board {
                phase: Phase::Serving,
                named: origin.named,
                history: VecDeque::new(),
                successor: None,
                arrivals: VecDeque::new(),
                accepting: false,
                closed: false,
                crashed: false,
                predecessor: None,
                link: None,
                farewells: VecDeque::new(),
                final_state: None,
                operated: origin.operated,
                stopping: false,
                requests: VecDeque::new(),
                upgrade: None,
                listening: 0,
                notices: Vec::new(),
            }),
        })
    }

    /// The board. A panic elsewhere leaves it whole: every change to it is one assignment or one push.
    pub(crate) fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The service is this generation's from here on.
    pub(crate) fn open(&self) {
        self.board().accepting = true;
        self.wake.raise();
    }

    pub(crate) fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL,
            name: shorten(&self.config.name, MAX_TEXT),
            version: shorten(&self.config.version, MAX_TEXT),
            pid: std::process::id(),
            generation: self.number,
            phase: self.board().phase,
        }
    }

    // M32
    pub(crate) fn status(&self) -> Status {
        let board = self.board();
        Status {
            name: shorten(&self.config.name, MAX_TEXT),
            version: shorten(&self.config.version, MAX_TEXT),
            pid: std::process::id(),
            generation: self.number,
            phase: board.phase,
            uptime_ms: self.since.elapsed().as_millis() as u64,
            fds: board.named.shown.clone(),
            fd_count: board.named.count,
            history: board.history.iter().cloned().collect(),
            successor: board.successor.clone(),
            predecessor: board.predecessor.clone(),
        }
    }

    /// Puts a successor in the queue for the application, unless that has let the control socket go meanwhile.
    pub(crate) fn arrive(&self, arrival: Arrival) {
        let mut board = self.board();
        if board.closed {
            board.no_successor();
            return;
        }
        board.arrivals.push_back(arrival);
        // Before anybody can take it, as with a request.
        self.arrivals.raise();
    }

    /// The next successor that waits; `None`: wait for [`Generation::arrivals`].
    pub(crate) fn try_accept(self: &Arc<Self>) -> Option<Result<Giving>> {
        let mut board = self.board();
        if board.closed || !board.accepting {
            return Some(Err(Error::Closed));
        }
        let arrival = board.arrivals.pop_front()?;
        self.arrivals.lower();
        arrival.watched.poller.remove(arrival.channel.as_fd());
        drop(board);
        let giving = Giving::new(Arc::clone(self), arrival);
        if giving.is_err() {
            self.board().no_successor();
        }
        Some(giving)
    }

    /// The successor that waited under this token has hung up: the next one is welcome. Returns whether there was one.
    pub(crate) fn withdraw(&self, token: u64) -> bool {
        let mut board = self.board();
        let Some(place) = board.arrivals.iter().position(|arrival| arrival.watched.token == token) else {
            return false;
        };
        let Some(arrival) = board.arrivals.remove(place) else { return false };
        self.arrivals.lower();
        arrival.watched.poller.remove(arrival.channel.as_fd());
        let reason = Cause::Closed(Peer::Successor).to_string();
        drop(board);
        self.failed(arrival.receive.pid, arrival.began, &reason, Board::no_successor);
        true
    }

    /// Withdraws those that wait and have hung up, though nobody has said so yet. Returns how many there were.
    // M106
    pub(crate) fn withdraw_lost(&self) -> usize {
        let is_lost = |arrival: &&Arrival| is_hung_up(arrival.channel.as_fd());
        let lost: Vec<u64> = self.board().arrivals.iter().filter(is_lost).map(|lost| lost.watched.token).collect();
        lost.into_iter().filter(|token| self.withdraw(*token)).count()
    }

    /// The predecessor's next farewell, or that there will be none; `None`: wait for [`Generation::farewells`].
    pub(crate) fn try_farewell(&self) -> Option<Result<Option<Received>, StateError>> {
        let mut board = self.board();
        let Some(packet) = board.farewells.pop_front() else {
            return board.predecessor.is_none().then_some(Ok(None));
        };
        self.farewells.lower();
        drop(board);
        Some(Received::open(packet, &self.config.schemas).map(Some))
    }

    pub(crate) fn take_final_state(&self) -> Result<Option<Received>, StateError> {
        let packet = self.board().final_state.take();
        packet.map(|packet| Received::open(packet, &self.config.schemas)).transpose()
    }

    /// Names these in `status` in the place of so many others of this name.
    pub(crate) fn rename(&self, name: &str, others: usize, entries: &[Entry]) {
        let mut board = self.board();
        board.named.remove(name, others);
        entries.iter().for_each(|entry| board.named.add(entry));
    }

    /// Names a socket or file in `status`.
    pub(crate) fn register(&self, name: &str, fd: &impl AsFd) -> Result<()> {
        let named = named(name, fd)?;
        self.board().named.add(&named);
        Ok(())
    }

    /// Begins an upgrade, unless something is in its way: then says what.
    pub(crate) fn ask_upgrade(&self, timeout: Option<Duration>, asker: Asker) -> Result<(), String> {
        let board = self.board();
        if board.closed {
            return Err("this process has stopped, or handed the service over".to_owned());
        }
        if let Some(busy) = board.desk().busy() {
            return Err(busy);
        }
        self.begin_upgrade(board, timeout, asker);
        Ok(())
    }

    pub(crate) fn begin_upgrade(&self, mut board: MutexGuard<'_, Board>, timeout: Option<Duration>, asker: Asker) {
        board.upgrade = Some(Upgrade { began: Instant::now(), asker });
        self.ask(board, Request::Upgrade(timeout), News::Upgrade, "a new process is to take over");
        // Not under the lock: a subscriber is the application's own code.
        tracing::info!(event = "upgrade", generation = self.number, "a new process is to take over");
    }

    /// An upgrade that a call of the application's asks for.
    pub(crate) fn call_upgrade(&self, tell: Box<dyn FnOnce(Attempt) + Send>) -> Result<()> {
        let asked = self.ask_upgrade(None, Asker::Call(tell));
        asked.map_err(|message| Error::Refused { code: ErrorCode::Busy, message })
    }

    pub(crate) fn ask_stop(&self) {
        let mut board = self.board();
        board.stopping = true;
        self.ask(board, Request::Stop, News::Stop, "the service is to stop");
        tracing::info!(event = "stop", generation = self.number, "the service is to stop");
    }

    /// Puts a request in the queue. Those who listen are told of it before anybody takes it. It is counted before, too: a
    /// count that comes after is ahead of the queue for good, and whoever waits for it spins.
    fn ask(&self, mut board: MutexGuard<'_, Board>, request: Request, news: News, message: &str) {
        board.requests.push_back(request);
        board.publish(self.event(news, None, None, message));
        self.requests.raise();
        drop(board);
        self.wake.raise();
    }

    /// The next request; `None`: wait for [`Generation::requests`].
    pub(crate) fn try_request(&self) -> Option<Request> {
        let request = self.board().requests.pop_front()?;
        self.requests.lower();
        Some(request)
    }

    /// An upgrade ended before its successor asked for the service; `pid` is 0 where no process was started.
    pub(crate) fn upgrade_failed(&self, pid: u32, reason: &str) {
        let began = self.board().upgrade.as_ref().map(|upgrade| upgrade.began);
        self.failed(pid, began.unwrap_or_else(Instant::now), reason, |_| {});
    }

    /// A successor was turned away. Where it is the one of an upgrade and could not be spoken with, that was all.
    pub(crate) fn refused(&self, pid: u32, failure: &Failure) {
        let (generation, reason) = (self.number, failure.message.as_str());
        tracing::info!(event = "refused", generation, successor = pid, reason, "turned a successor away");
        self.tell(News::Refused, Some(pid), None, failure.message.clone());
        let ends_upgrade = failure.code != ErrorCode::Busy && self.board().desk().upgrading;
        if ends_upgrade {
            self.upgrade_failed(pid, &failure.message);
        }
    }

    /// An attempt ended before the application had to do with it.
    fn failed(&self, pid: u32, began: Instant, reason: &str, change: impl FnOnce(&mut Board)) {
        let mut attempt = Laps::new(began).attempt(self.number, pid, Outcome::Failed);
        attempt.reason = Some(shorten(reason, MAX_TEXT));
        let event = self.event(News::Failed, Some(pid), Some(began), reason);
        self.conclude(attempt, event, change);
    }

    /// Puts an attempt into the history, with the change that it makes, and tells how it ended: at one moment, since
    /// whoever hears of it may act on it at once. Whoever asked for an upgrade hears nothing after its outcome.
    // M91, M105
    pub(crate) fn conclude(&self, attempt: Attempt, event: Event, change: impl FnOnce(&mut Board)) {
        let mut board = self.board();
        remember(&mut board.history, attempt.clone());
        change(&mut board);
        board.publish(event);
        match board.upgrade.take().map(|upgrade| upgrade.asker) {
            Some(Asker::Session(token)) => board.notices.push(Notice::Outcome(token, attempt)),
            Some(Asker::Call(tell)) => tell(attempt),
            Some(Asker::Nobody) | None => {}
        }
        drop(board);
        self.wake.raise();
    }

    /// Tells those who listen that something happened to this generation, or in a handoff that began at `since`.
    pub(crate) fn tell(&self, event: News, pid: Option<u32>, since: Option<Instant>, message: String) {
        self.publish(self.event(event, pid, since, &message));
    }

    pub(crate) fn event(&self, event: News, pid: Option<u32>, since: Option<Instant>, message: &str) -> Event {
        let elapsed_us = since.map(|since| micros(since.elapsed()));
        let message = shorten(message, MAX_TEXT);
        Event { event, generation: self.number, pid, elapsed_us, connections: None, message }
    }

    /// Wakes the background only where somebody listens: on its way, a handoff has better things to do.
    pub(crate) fn publish(&self, event: Event) {
        let heard = self.board().publish(event);
        if heard {
            self.wake.raise();
        }
    }

    /// There is no predecessor to wait for, any more or at all. `drained` says for how long it has drained.
    pub(crate) fn predecessor_departed(&self, drained: Option<Duration>) {
        let mut board = self.board();
        board.predecessor = None;
        let ours = std::process::id();
        // The handoff to this generation: attempts of its own may have come after it.
        let handoff = board.history.iter_mut().find(|attempt| {
            attempt.from + 1 == self.number && attempt.successor_pid == ours && attempt.outcome == Outcome::Completed
        });
        if let (Some(handoff), Some(drained)) = (handoff, drained) {
            handoff.drain_us = Some(micros(drained));
        }
        drop(board);
        self.farewells.raise();
        self.departed.raise();
    }

    /// The application lets the control socket go. The path goes too if it is still ours: during and after a
    /// handoff it is the successor's, and a predecessor that takes back from a crash still has its listener.
    pub(crate) fn close(&self) {
        if self.board().upgrade.is_some() {
            // Nobody will begin it, and somebody may wait for it.
            self.upgrade_failed(0, "the service has stopped");
        }
        let mut board = self.board();
        board.closed = true;
        board.crashed = std::thread::panicking();
        if board.arrivals.drain(..).count() > 0 {
            // Nobody has accepted it, and nobody will.
            board.no_successor();
        }
        if board.accepting {
            board.accepting = false;
            if let (Some(ours), None, false) = (self.path_id, &board.successor, board.crashed) {
                self.place.remove(ours);
            }
        }
        drop(board);
        self.wake.raise();
        self.arrivals.raise();
    }
}

impl Board {
    /// Whether the background has nothing more to do. While a handoff is under way it goes on hearing this
    /// generation's own predecessor, whose last words are to be passed on.
    pub(crate) fn is_done(&self) -> bool {
        self.closed && (self.successor.is_none() || self.predecessor.is_none())
    }

    /// There is no successor any more, and the service is this generation's.
    pub(crate) fn no_successor(&mut self) {
        self.successor = None;
        self.phase = Phase::Serving;
    }

    /// Tells those who listen, if any do: returns whether, and then the background has to be woken.
    fn publish(&mut self, event: Event) -> bool {
        let heard = self.listening > 0;
        if heard {
            self.notices.push(Notice::Event(event));
        }
        heard
    }

    pub(crate) fn desk(&self) -> Desk {
        let successor = match (&self.successor, self.accepting) {
            (Some(successor), _) => Some(successor.pid),
            (None, true) => None,
            // It has been handed over: whoever is next finds the next generation at the path.
            (None, false) => Some(std::process::id()),
        };
        Desk { operable: self.operated, successor, upgrading: self.upgrade.is_some(), stopping: self.stopping }
    }
}

/// The descriptors that `status` names.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// As many as leave the status line within its limit.
    shown: Vec<FdStatus>,
    /// How long they are on the line, at the most.
    length: usize,
    /// How many there are.
    count: u64,
}

impl Named {
    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Takes a name off the list, which stood for so many.
    pub(crate) fn remove(&mut self, name: &str, count: usize) {
        self.count = self.count.saturating_sub(count as u64);
        self.shown.retain(|shown| shown.name.as_str() != name);
    }

    pub(crate) fn add(&mut self, entry: &Entry) {
        // What a status line needs besides: a full history with the longest reasons is the most of it.
        const ROOM: usize = MAX_LINE / 2;

        self.count += 1;
        let length = 96 + 6 * (entry.name.as_str().len() + entry.addr.as_ref().map_or(0, String::len));
        // Once one does not fit, the list ends, rather than going on with shorter ones.
        self.length = (self.length + length).min(ROOM);
        if self.length < ROOM {
            self.shown.push(status_of(entry));
        }
    }
}
