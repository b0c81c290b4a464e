//! One generation of a service, as its control socket shows it: what the application's calls and the
//! background that serves the control socket share.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use crate::channel::{Channel, Link};
use crate::config::Config;
use crate::control_socket::Place;
use crate::descriptor::{Attachment, named, status_of};
use crate::error::{Error, Result, StateError};
use crate::giving::Giving;
use crate::protocol::{Cause, Packet, Peer, Successor};
use crate::state::Received;
use crate::sys::event::{Poller, Signal};
use crate::wire::{
    Attempt, Entry, FdStatus, FileId, Hello, MAX_HISTORY, MAX_LINE, MAX_TEXT, Outcome, PROTOCOL, Phase,
    PredecessorStatus, Receive, Status, SuccessorStatus, shorten,
};

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
        drop(board);
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
        let mut attempt = attempt(self.number, arrival.receive.pid, arrival.began, Outcome::Failed);
        attempt.reason = Some(Cause::Closed(Peer::Successor).to_string());
        board.record(attempt);
        board.no_successor();
        true
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

    /// Names a socket or file in `status`.
    pub(crate) fn register(&self, name: &str, fd: &impl AsFd) -> Result<()> {
        let named = named(name, fd)?;
        self.board().named.add(&named);
        Ok(())
    }

    /// There is no predecessor to wait for, any more or at all.
    pub(crate) fn predecessor_departed(&self) {
        self.board().predecessor = None;
        self.farewells.raise();
        self.departed.raise();
    }

    /// The application lets the control socket go. The path goes too if it is still ours: during and after a
    /// handoff it is the successor's, and a predecessor that takes back from a crash still has its listener.
    pub(crate) fn close(&self) {
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

    pub(crate) fn record(&mut self, attempt: Attempt) {
        remember(&mut self.history, attempt);
    }
}

/// Adds an attempt to a history, and forgets the oldest where there are too many.
pub(crate) fn remember(history: &mut VecDeque<Attempt>, attempt: Attempt) {
    history.push_back(attempt);
    while history.len() > MAX_HISTORY {
        history.pop_front();
    }
}

/// An attempt that began at `began` and ends now.
pub(crate) fn attempt(from: u64, successor_pid: u32, began: Instant, outcome: Outcome) -> Attempt {
    let total = began.elapsed();
    let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().saturating_sub(total);
    Attempt {
        from,
        successor_pid,
        outcome,
        reason: None,
        began_unix_ms: began.as_millis() as u64,
        total_us: total.as_micros() as u64,
        pause_us: None,
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
