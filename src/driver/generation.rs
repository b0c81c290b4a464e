//! One generation of a service, as its control socket shows it: what the application's calls and the
//! background that serves the control socket share.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::core::record::micros;
use crate::core::wire::{
    Attempt, Ending, Entry, ErrorCode, Event, Failure, FileId, Hello, KeptStatus, MAX_TEXT, News, Outcome, PROTOCOL,
    Phase, PredecessorStatus, Receive, Status, shorten,
};
use crate::core::{Cause, Desk, Leave, Lifecycle, Lineage, Packet, Peer, Predecessor, Successor};
use crate::driver::arbiter::Arbiter;
use crate::driver::bound::Bound;
use crate::driver::channel::{Channel, Link};
use crate::driver::descriptor::{Attachment, named};
use crate::driver::laps::Laps;
use crate::driver::named::Named;
use crate::driver::place::{self, Control, Place};
use crate::error::{Error, Result, StateError};
use crate::state::Received;
use crate::sys::event::{Poller, Signal, is_hung_up};
use crate::sys::file;

#[cfg(test)]
mod tests;

/// One generation.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) config: Config,
    pub(crate) number: u64,
    /// What the owner of the service holds. Absent where there is no `/proc`.
    pub(crate) arbiter: Option<Arc<Arbiter>>,
    /// Whose the service is, and was.
    pub(crate) lineage: Lineage,
    since: Instant,
    /// Wakes the background.
    pub(crate) wake: Signal,
    /// Counts the successors that wait for the application.
    pub(crate) arrivals: Signal,
    /// Counts the predecessor's farewells that wait for the application, and one for its departure.
    pub(crate) farewells: Signal,
    /// Raised for good once there is no predecessor to wait for.
    pub(crate) departed: Signal,
    /// Raised for good once nobody would take back if this process died.
    pub(crate) unwatched: Signal,
    /// Raised for good once this process has let its copies go.
    pub(crate) let_go: Signal,
    /// Counts what whoever operates the service has to look at.
    pub(crate) requests: Signal,
    board: Mutex<Board>,
    hears: OnceLock<Hears>,
    /// Looks whether nobody reaches the sockets any more.
    cut_off: OnceLock<Look>,
}

/// Why nobody reaches the sockets, if so.
struct Look(Box<dyn Fn() -> Option<&'static str> + Send + Sync>);

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Look")
    }
}

/// Who hears of each event at once, in this process.
struct Hears(Box<dyn Fn(&Event) + Send + Sync>);

impl fmt::Debug for Hears {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hears")
    }
}

/// Tells of a service that this process keeps.
pub(crate) type Tale = Box<dyn Fn(Instant) -> KeptStatus + Send>;

/// What changes.
struct Board {
    life: Lifecycle,
    /// The control socket: another one where its path was lost, and put back.
    control: Arc<Control>,
    /// Why its path does not lead here, if it does not.
    path_lost: Option<String>,
    /// Whether somebody wants to know that anew.
    path_doubted: bool,
    named: Named,
    arrivals: VecDeque<Arrival>,
    /// What a keeper is to have.
    keeper: KeeperMail,
    /// What is to be told of a service that this process keeps, and since when it is nobody's but this process's.
    kept: Option<Tale>,
    kept_since: Instant,
    /// The connection to the successor under way, once the application has accepted it.
    accepted: Weak<UnixStream>,
    /// The connection to the predecessor, until the background takes it.
    link: Option<Link<Successor<OwnedFd>>>,
    /// What the background has to say to the predecessor.
    word: Option<Word>,
    /// Handoffs that were dropped, until the background has ended them.
    dropped: Vec<Link<Predecessor<Attachment>>>,
    farewells: VecDeque<Packet<OwnedFd>>,
    /// The predecessor's final state, until the application takes it.
    final_state: Option<Packet<OwnedFd>>,
    /// The upgrade that nobody has begun: by when its new process has to be ready.
    upgrade: Option<Option<Duration>>,
    /// Who wants to hear how the upgrade under way ends.
    asker: Asker,
    /// Lets go of what else there are copies of: the application's sockets.
    holdings: Option<Holdings>,
    letting_go: LettingGo,
    /// What the path leads to, until it is removed: once.
    path: Option<FileId>,
    /// The paths of inherited sockets that nobody took: a predecessor that takes back would still serve there.
    unwanted: Vec<Bound>,
    /// Whether the predecessor would take back.
    watched: bool,
    /// Why the background has given up.
    broken: Option<String>,
    /// How many connections listen for events.
    listening: usize,
    /// What they have not been told yet.
    notices: Vec<Notice>,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("life", &self.life).finish_non_exhaustive()
    }
}

/// Closes what there are copies of: the descriptor that it gets takes the place of each.
type Holdings = Box<dyn FnOnce(BorrowedFd<'_>) + Send>;

/// How far this process is with letting its copies go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LettingGo {
    Not,
    /// Once its own predecessor has, or at this moment.
    By(Instant),
    /// It is at it.
    Now,
    Done,
}

/// How long a process that lets go waits for its own predecessor to do so first.
pub(crate) const SETTLE: Duration = Duration::from_secs(1);

/// What is said to a predecessor that drains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Word {
    /// This process's end will be no reason to take back.
    Settle(Ending),
    /// This process does not accept, and will not: take back now.
    Relinquish(String),
}

/// What a connection that listens is to be told.
#[derive(Debug)]
pub(crate) enum Notice {
    Event(Event),
    /// How the upgrade ended that this connection asked for.
    Outcome(u64, Attempt),
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

/// What the steward has not given to a keeper yet.
#[derive(Debug, Default)]
pub(crate) struct KeeperMail {
    /// A keeper that asks for everything.
    pub(crate) arrival: Option<Arrival>,
    /// A newer snapshot.
    pub(crate) checkpoint: Option<Packet<OwnedFd>>,
    /// What a keeper has is not what is served any more.
    pub(crate) stale: bool,
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
    /// What the path led to when this process bound it; or when the predecessor had it, and when it was found there.
    pub(crate) paths: [Option<FileId>; 2],
    /// The paths of inherited sockets that nobody took, and that the service itself has bound.
    pub(crate) unwanted: Vec<Bound>,
    pub(crate) named: Named,
    /// Whether somebody will take requests.
    pub(crate) operated: bool,
    pub(crate) arbiter: Option<Arc<Arbiter>>,
    pub(crate) lineage: Lineage,
}

/// How the service came to a generation.
#[derive(Debug, Default)]
pub(crate) struct Legacy {
    pub(crate) history: VecDeque<Attempt>,
    pub(crate) final_state: Option<Packet<OwnedFd>>,
    /// The predecessor that drains, and the connection to it.
    pub(crate) predecessor: Option<(PredecessorStatus, Link<Successor<OwnedFd>>)>,
}

impl Generation {
    pub(crate) fn new(config: Config, place: Place, listener: UnixListener, origin: Origin) -> io::Result<Generation> {
        let life = Lifecycle::new(origin.number, std::process::id(), origin.operated);
        let life = if config.standby { life.of_keeper() } else { life };
        // What it leads to now, if that is ours; or else what has to come back.
        let found = place.look().ok().flatten().filter(|found| origin.paths.contains(&Some(*found)));
        let path = found.or(origin.paths[0]).or(origin.paths[1]);
        Ok(Generation {
            config,
            number: origin.number,
            arbiter: origin.arbiter,
            lineage: origin.lineage,
            since: Instant::now(),
            wake: Signal::new()?,
            arrivals: Signal::new()?,
            farewells: Signal::new()?,
            departed: Signal::new()?,
            unwatched: Signal::new()?,
            let_go: Signal::new()?,
            requests: Signal::new()?,
            board: Mutex::new(Board {
                life,
                kept: None,
                kept_since: Instant::now(),
                named: origin.named,
                arrivals: VecDeque::new(),
                keeper: KeeperMail::default(),
                accepted: Weak::new(),
                link: None,
                word: None,
                dropped: Vec::new(),
                farewells: VecDeque::new(),
                final_state: None,
                upgrade: None,
                asker: Asker::Nobody,
                holdings: None,
                letting_go: LettingGo::Not,
                path,
                control: Arc::new(Control { place, listener, path }),
                path_lost: None,
                path_doubted: false,
                unwanted: origin.unwanted,
                watched: false,
                broken: None,
                listening: 0,
                notices: Vec::new(),
            }),
            hears: OnceLock::new(),
            cut_off: OnceLock::new(),
        })
    }

    /// What `status` is to say of a service that this process keeps.
    pub(crate) fn keeps(&self, tell: Tale) {
        self.board().kept = Some(tell);
    }

    /// The board. A panic elsewhere leaves it whole: every change to it is one assignment, one push or one transition.
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The service is this generation's from here on.
    pub(crate) fn own(&self, legacy: Legacy) {
        self.sign();
        let (status, link) = legacy.predecessor.unzip();
        let mut board = self.board();
        board.final_state = legacy.final_state;
        board.kept_since = Instant::now();
        board.watched = link.is_some();
        board.link = link;
        board.life.own(legacy.history, status);
        let unwatched = !board.watched;
        drop(board);
        if unwatched {
            self.unwatched();
        }
        self.wake.raise();
    }

    /// Whoever may come after this owner can tell that there was one.
    pub(crate) fn sign(&self) {
        self.arbiter.iter().for_each(|arbiter| arbiter.sign());
    }

    /// The control socket is this generation's, and nobody else's.
    pub(crate) fn listens_alone(&self) {
        let listener = &self.control().listener;
        // The flag is its predecessor's choice until here, and the background never waits in accept.
        if let Err(error) = listener.set_nonblocking(true) {
            tracing::error!(event = "control_socket_blocks", %error, "cannot make the control socket non-blocking");
        }
        // Names this process as the one that serves; the socket works without.
        let _ = place::listen(listener.as_fd());
    }

    pub(crate) fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL,
            name: self.config.shown_name(),
            version: shorten(&self.config.version, MAX_TEXT),
            pid: std::process::id(),
            generation: self.number,
            phase: self.phase(),
            named: self.config.name.is_none().then_some(false),
            instance: self.lineage.instance().map(str::to_owned),
        }
    }

    // M32
    pub(crate) fn status(&self) -> Status {
        let board = self.board();
        Status {
            name: self.config.shown_name(),
            version: shorten(&self.config.version, MAX_TEXT),
            pid: std::process::id(),
            generation: self.number,
            phase: board.life.phase(),
            uptime_ms: self.since.elapsed().as_millis() as u64,
            fds: board.named.shown.clone(),
            fd_count: board.named.count,
            history: board.life.history().iter().cloned().collect(),
            successor: board.life.successor().cloned(),
            predecessor: board.life.predecessor().cloned(),
            instance: self.lineage.instance().map(str::to_owned),
            cut_off: self.cut_off.get().and_then(|Look(look)| look()).map(str::to_owned),
            keeper: board.life.keeper(),
            kept: board.kept.as_ref().filter(|_| board.life.is_accepting()).map(|tell| tell(board.kept_since)),
            path_lost: board.path_lost.as_deref().map(|lost| shorten(lost, MAX_TEXT)),
        }
    }

    /// The control socket, as it is now.
    pub(crate) fn control(&self) -> Arc<Control> {
        Arc::clone(&self.board().control)
    }

    /// Whether its path is to be looked after, and whether somebody wants to know where it leads.
    pub(crate) fn path_to_keep(&self) -> (bool, bool) {
        let board = self.board();
        (board.life.keeps_path() && board.letting_go == LettingGo::Not, board.path_doubted)
    }

    /// Puts this socket in the place of the one that has lost its path, unless that is not this process's to do any more.
    /// Returns that one, or else this.
    // M132
    pub(crate) fn replace_control(&self, control: Arc<Control>) -> Result<Arc<Control>, Arc<Control>> {
        let mut board = self.board();
        if !board.life.keeps_path() || board.letting_go != LettingGo::Not {
            return Err(control);
        }
        board.path = control.path;
        // A keeper has the one before.
        self.outdate(&mut board);
        Ok(std::mem::replace(&mut board.control, control))
    }

    /// Somebody has looked where the path leads: why not here, if it does not.
    pub(crate) fn path_seen(&self, lost: Option<&str>) {
        let mut board = self.board();
        board.path_lost = lost.map(str::to_owned);
        if std::mem::take(&mut board.path_doubted) {
            drop(board);
            // An upgrade waits for it.
            self.requests.raise();
        }
    }

    /// See [`Status::path_lost`].
    pub(crate) fn path_lost(&self) -> Option<String> {
        self.board().path_lost.clone()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.board().life.phase()
    }

    pub(crate) fn desk(&self) -> Desk<'_> {
        let (name, superseded) = (self.config.name.as_deref(), self.lineage.superseded());
        Desk { name, superseded, ..self.board().life.desk() }
    }

    pub(crate) fn history(&self) -> Vec<Attempt> {
        self.board().life.history().iter().cloned().collect()
    }

    /// Accepts one connection on the control socket, if it is this generation's. A release that has happened is one that
    /// is seen here.
    pub(crate) fn accept(&self) -> Option<io::Result<UnixStream>> {
        let board = self.board();
        board.life.is_accepting().then(|| place::accept(&board.control.listener))
    }

    pub(crate) fn has_owned(&self) -> bool {
        self.board().life.has_owned()
    }

    pub(crate) fn is_accepting(&self) -> bool {
        self.board().life.is_accepting()
    }

    /// How the application let the service go, if it has.
    pub(crate) fn left(&self) -> Option<Leave> {
        self.board().life.left()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.board().life.is_done()
    }

    /// A successor asks for the service: the queue is for the application to take from.
    pub(crate) fn receives(&self, receive: &Receive) {
        let mut board = self.board();
        board.life.receive(receive);
        // The one before it may not be closed yet.
        board.accepted = Weak::new();
    }

    /// Puts a successor in the queue for the application, unless that has let the control socket go meanwhile.
    pub(crate) fn arrive(&self, arrival: Arrival) {
        let mut board = self.board();
        if board.life.left().is_some() {
            board.life.no_successor();
            return;
        }
        board.arrivals.push_back(arrival);
        // Before anybody can take it, as with a request.
        self.arrivals.raise();
    }

    /// The next successor that waits; `None`: wait for [`Generation::arrivals`].
    pub(crate) fn try_accept(&self) -> Option<Result<Arrival>> {
        let mut board = self.board();
        // Where nobody answers at the control socket any more, nobody will come.
        if board.life.left().is_some() || !board.life.is_accepting() || board.broken.is_some() {
            return Some(Err(Error::Closed));
        }
        let arrival = board.arrivals.pop_front()?;
        self.arrivals.lower();
        board.accepted = arrival.channel.watched();
        arrival.watched.poller.remove(arrival.channel.as_fd());
        Some(Ok(arrival))
    }

    pub(crate) fn keeper_receives(&self, pid: u32) {
        self.board().life.keeper_receives(pid);
    }

    /// A keeper asks for everything: the steward sees to it.
    pub(crate) fn keeper_arrives(&self, arrival: Arrival) {
        self.mail_keeper(|mail| mail.arrival = Some(arrival));
    }

    /// The application has a newer snapshot for the keeper, there is one or not.
    pub(crate) fn checkpoint(&self, packet: Packet<OwnedFd>) {
        self.mail_keeper(|mail| mail.checkpoint = Some(packet));
    }

    /// What is served is not what a keeper has any more, if there is one.
    fn outdate(&self, board: &mut Board) {
        if board.life.keeper().is_some() {
            board.keeper.stale = true;
            self.requests.raise();
        }
    }

    fn mail_keeper(&self, put: impl FnOnce(&mut KeeperMail)) {
        put(&mut self.board().keeper);
        self.requests.raise();
    }

    pub(crate) fn take_keeper_mail(&self) -> KeeperMail {
        std::mem::take(&mut self.board().keeper)
    }

    /// The keeper has everything that is served now.
    pub(crate) fn keeper_holds(&self, pid: u32) {
        self.board().life.keeper_holds();
        tracing::info!(event = "kept", generation = self.number, keeper = pid, "a keeper has everything");
        self.tell(News::Kept, Some(pid), None, format!("process {pid} keeps the service"));
    }

    pub(crate) fn no_keeper(&self) {
        self.board().life.no_keeper();
    }

    /// The handoff that was to begin could not: the next successor is welcome.
    pub(crate) fn no_successor(&self) {
        self.board().life.no_successor();
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
        drop(board);
        let reason = Cause::Closed(Peer::Successor).to_string();
        self.failed(arrival.receive.pid, arrival.began, &reason, Lifecycle::no_successor);
        true
    }

    /// Withdraws those that wait and have hung up, though nobody has said so yet. Returns how many there were.
    // M106
    pub(crate) fn withdraw_lost(&self) -> usize {
        let is_lost = |arrival: &&Arrival| is_hung_up(arrival.channel.as_fd());
        let lost: Vec<u64> = self.board().arrivals.iter().filter(is_lost).map(|lost| lost.watched.token).collect();
        lost.into_iter().filter(|token| self.withdraw(*token)).count()
    }

    /// Whether the successor under way has closed its connection before anything was given up: the application has not
    /// noticed yet, or waits whether that was its death.
    pub(crate) fn has_lost_successor(&self) -> bool {
        let board = self.board();
        let accepted = board.accepted.upgrade().filter(|_| board.life.successor_may_go());
        accepted.is_some_and(|stream| is_hung_up(stream.as_fd()))
    }

    pub(crate) fn has_own_child(&self) {
        self.board().life.has_own_child();
    }

    pub(crate) fn transferred(&self) {
        self.board().life.transferred();
    }

    pub(crate) fn progress(&self, message: String) {
        self.board().life.progress(message);
    }

    /// From here on this generation accepts nothing, on the control socket either.
    pub(crate) fn release(&self) {
        self.board().life.release();
    }

    pub(crate) fn strand(&self) {
        self.board().life.strand();
    }

    /// The predecessor's next farewell, or that there will be none; `None`: wait for [`Generation::farewells`].
    pub(crate) fn try_farewell(&self) -> Option<Result<Option<Received>, StateError>> {
        let mut board = self.board();
        let Some(packet) = board.farewells.pop_front() else {
            return board.life.predecessor().is_none().then_some(Ok(None));
        };
        self.farewells.lower();
        drop(board);
        Some(Received::open(packet, &self.config.schemas).map(Some))
    }

    /// The final state as it came, for whoever passes it on.
    pub(crate) fn take_final_packet(&self) -> Option<Packet<OwnedFd>> {
        self.board().final_state.take()
    }

    pub(crate) fn take_final_state(&self) -> Result<Option<Received>, StateError> {
        let packet = self.board().final_state.take();
        packet.map(|packet| Received::open(packet, &self.config.schemas)).transpose()
    }

    /// The predecessor's farewells that nobody here has read.
    pub(crate) fn unread_farewells(&self) -> Vec<Packet<OwnedFd>> {
        self.board().farewells.drain(..).collect()
    }

    /// What is named in `status`, in the place of what was.
    pub(crate) fn name(&self, named: Named) {
        self.board().named = named;
    }

    /// Names these in `status` in the place of so many others of this name.
    pub(crate) fn rename(&self, name: &str, others: usize, entries: &[Entry]) {
        let mut board = self.board();
        board.named.remove(name, others);
        entries.iter().for_each(|entry| board.named.add(entry));
        self.outdate(&mut board);
    }

    /// Names a socket or file in `status`.
    pub(crate) fn register(&self, name: &str, fd: &impl AsFd) -> Result<()> {
        let named = named(name, fd)?;
        self.board().named.add(&named);
        Ok(())
    }

    pub(crate) fn named(&self) -> u64 {
        self.board().named.count
    }

    /// Begins an upgrade, unless something is in its way: then says what.
    pub(crate) fn ask_upgrade(&self, timeout: Option<Duration>, asker: Asker) -> Result<(), String> {
        let mut board = self.board();
        board.life.ask_upgrade(Instant::now())?;
        board.asker = asker;
        board.upgrade = Some(timeout);
        // A new process that does not find this one would start beside it.
        board.path_doubted = true;
        if matches!(board.asker, Asker::Session(_)) {
            board.listening += 1;
        }
        self.ask(board, News::Upgrade, "a new process is to take over");
        // Not under the lock: a subscriber is the application's own code.
        tracing::info!(event = "upgrade", generation = self.number, "a new process is to take over");
        Ok(())
    }

    /// An upgrade that a call of the application's asks for.
    pub(crate) fn call_upgrade(&self, tell: Box<dyn FnOnce(Attempt) + Send>) -> Result<()> {
        let asked = self.ask_upgrade(None, Asker::Call(tell));
        asked.map_err(|message| Error::Refused { code: ErrorCode::Busy, message })
    }

    /// The service is told to stop. However often that is said, it is one request; the second time nothing is waited for.
    pub(crate) fn ask_stop(&self) {
        let mut board = self.board();
        if !board.life.tell_to_stop(Instant::now()) {
            return;
        }
        let again = board.life.is_to_end_now();
        let message = if again { "the service is to end now" } else { "the service is to stop" };
        self.ask(board, News::Stop, message);
        tracing::info!(event = "stop", generation = self.number, again, "{message}");
    }

    /// Has the operator look. Those who listen are told of it before.
    fn ask(&self, mut board: MutexGuard<'_, Board>, news: News, message: &str) {
        let event = self.event(news, None, None, message);
        board.publish(event.clone());
        self.requests.raise();
        drop(board);
        self.wake.raise();
        self.say(&event);
    }

    /// The upgrade that was asked for and that nobody has begun: by when its process has to be ready, if that was said.
    pub(crate) fn take_upgrade(&self) -> Option<Option<Duration>> {
        let mut board = self.board();
        if board.path_doubted {
            return None;
        }
        let upgrade = board.upgrade.take()?;
        // Somebody has started a new process in the meantime: it is that of the upgrade, or was.
        board.life.awaits_successor().then_some(upgrade)
    }

    pub(crate) fn awaits_successor(&self) -> bool {
        self.board().life.awaits_successor()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.board().life.is_stopping()
    }

    pub(crate) fn is_to_end_now(&self) -> bool {
        self.board().life.is_to_end_now()
    }

    /// See [`Lifecycle::stop_limit`].
    pub(crate) fn stop_limit(&self, drain: Duration) -> Option<Instant> {
        self.board().life.stop_limit(drain)
    }

    /// An upgrade ended before its successor asked for the service; `pid` is 0 where no process was started.
    pub(crate) fn upgrade_failed(&self, pid: u32, reason: &str) {
        let began = self.board().life.upgrading();
        self.failed(pid, began.unwrap_or_else(Instant::now), reason, |_| {});
    }

    /// A successor was turned away. Where it is the one of an upgrade and could not be spoken with, that was all.
    pub(crate) fn refused(&self, pid: u32, failure: &Failure) {
        let (generation, reason) = (self.number, failure.message.as_str());
        tracing::info!(event = "refused", generation, successor = pid, reason, "turned a successor away");
        self.tell(News::Refused, Some(pid), None, failure.message.clone());
        let is_given_up = self.board().life.is_given_up_with(failure.code);
        if is_given_up {
            self.upgrade_failed(pid, &failure.message);
        }
    }

    /// An attempt ended before the application had to do with it.
    fn failed(&self, pid: u32, began: Instant, reason: &str, change: impl FnOnce(&mut Lifecycle)) {
        let mut attempt = Laps::new(began).attempt(self.number, pid, Outcome::Failed);
        attempt.reason = Some(shorten(reason, MAX_TEXT));
        let event = self.event(News::Failed, Some(pid).filter(|pid| *pid != 0), Some(began), reason);
        self.conclude(attempt, event, |life, attempt| {
            change(life);
            life.conclude(attempt);
        });
    }

    /// Puts an attempt into the history, with the change that it makes, and tells how it ended: at one moment, since
    /// whoever hears of it may act on it at once. Whoever asked for an upgrade hears nothing after its outcome.
    // M91, M105
    pub(crate) fn conclude(&self, attempt: Attempt, event: Event, change: impl FnOnce(&mut Lifecycle, Attempt)) {
        self.say(&event);
        let mut board = self.board();
        change(&mut board.life, attempt.clone());
        board.publish(event);
        board.upgrade = None;
        let asker = std::mem::replace(&mut board.asker, Asker::Nobody);
        if let Asker::Session(token) = asker {
            board.notices.push(Notice::Outcome(token, attempt));
        } else if let Asker::Call(tell) = asker {
            tell(attempt);
        }
        drop(board);
        self.wake.raise();
        self.requests.raise();
    }

    /// Tells those who listen that something happened to this generation, or in a handoff that began at `since`.
    pub(crate) fn tell(&self, event: News, pid: Option<u32>, since: Option<Instant>, message: String) {
        self.publish(self.event(event, pid, since, &message));
    }

    pub(crate) fn event(&self, event: News, pid: Option<u32>, since: Option<Instant>, message: &str) -> Event {
        let elapsed_us = since.map(|since| micros(since.elapsed()));
        let message = shorten(message, MAX_TEXT);
        Event { event, generation: self.number, pid, instance: None, elapsed_us, connections: None, message }
    }

    /// Wakes the background only where somebody listens: on its way, a handoff has better things to do.
    pub(crate) fn publish(&self, event: Event) {
        if self.publish_later(event) {
            self.wake.raise();
        }
    }

    /// As [`Generation::publish`], but that the caller wakes the background when it has the time. Returns whether it is to.
    #[must_use]
    pub(crate) fn publish_later(&self, event: Event) -> bool {
        self.say(&event);
        self.board().publish(event)
    }

    /// One more connection listens for events.
    pub(crate) fn listen(&self) {
        self.board().listening += 1;
    }

    /// So many do.
    pub(crate) fn listening(&self, count: usize) {
        self.board().listening = count;
    }

    pub(crate) fn take_notices(&self) -> Vec<Notice> {
        std::mem::take(&mut self.board().notices)
    }

    /// The connection to the predecessor, for the background.
    pub(crate) fn take_link(&self) -> Option<Link<Successor<OwnedFd>>> {
        self.board().link.take()
    }

    pub(crate) fn predecessor_pid(&self) -> Option<u32> {
        self.board().life.predecessor().map(|predecessor| predecessor.pid)
    }

    pub(crate) fn has_predecessor(&self) -> bool {
        self.board().life.predecessor().is_some()
    }

    pub(crate) fn predecessor_drains(&self, connections: u64) {
        self.board().life.predecessor_drains(connections);
    }

    pub(crate) fn keep_farewell(&self, packet: Packet<OwnedFd>) {
        let mut board = self.board();
        board.farewells.push_back(packet);
        // Before anybody can take it, as with a request.
        self.farewells.raise();
    }

    /// There is no predecessor to wait for, any more or at all. `drained` says for how long it has drained.
    pub(crate) fn predecessor_departed(&self, drained: Option<Duration>) {
        self.board().life.predecessor_departed(drained);
        self.farewells.raise();
        self.departed.raise();
        self.requests.raise();
    }

    /// The predecessor is told, by the background. The word that says more stands.
    pub(crate) fn say_to_predecessor(&self, word: Word) {
        let mut board = self.board();
        if !matches!(board.word, Some(Word::Relinquish(_) | Word::Settle(Ending::Stopped))) {
            board.word = Some(word);
        }
        drop(board);
        self.wake.raise();
    }

    pub(crate) fn word_to_predecessor(&self) -> Option<Word> {
        self.board().word.clone()
    }

    /// What is to be let go besides the control socket: it gets the descriptor that is to take the place of each.
    pub(crate) fn holds(&self, holdings: impl FnOnce(BorrowedFd<'_>) + Send + 'static) {
        self.board().holdings = Some(Box::new(holdings));
    }

    /// Has `look` say in `status` why nobody reaches the sockets, if so.
    pub(crate) fn looks(&self, look: impl Fn() -> Option<&'static str> + Send + Sync + 'static) {
        self.cut_off.get_or_init(|| Look(Box::new(look)));
    }

    /// Has `hears` called with each event.
    pub(crate) fn tells(&self, hears: impl Fn(&Event) + Send + Sync + 'static) {
        self.hears.get_or_init(|| Hears(Box::new(hears)));
    }

    fn say(&self, event: &Event) {
        if let Some(Hears(hears)) = self.hears.get() {
            hears(event);
        }
    }

    /// The predecessor is gone, or has let go.
    pub(crate) fn unwatched(&self) {
        self.board().watched = false;
        self.remove_unwanted();
        self.unwatched.raise();
        self.requests.raise();
    }

    /// Nobody comes back who would serve there.
    // M135
    fn remove_unwanted(&self) {
        let unwanted = std::mem::take(&mut self.board().unwanted);
        unwanted.iter().for_each(Bound::remove);
    }

    /// Nobody will take back here. The predecessor hears the same, and the background lets everything go: at once where
    /// another process serves; after the predecessor where nobody does, so that whoever starts next finds every address free.
    // M126
    pub(crate) fn wind_up(&self, ending: Ending) {
        let wait = if ending == Ending::Stopped { SETTLE } else { Duration::ZERO };
        let mut board = self.board();
        if board.letting_go == LettingGo::Not {
            board.letting_go = LettingGo::By(Instant::now() + wait);
        }
        drop(board);
        // Behind it: the background is woken by this, and looks at both.
        self.say_to_predecessor(Word::Settle(ending));
    }

    /// When this process lets its copies go at the latest, if it is about to.
    pub(crate) fn lets_go_at(&self) -> Option<Instant> {
        if let LettingGo::By(at) = self.board().letting_go { Some(at) } else { None }
    }

    /// Whether it is to do so now.
    pub(crate) fn is_to_let_go(&self, now: Instant) -> bool {
        let board = self.board();
        matches!(board.letting_go, LettingGo::By(at) if !board.watched || at <= now)
    }

    /// Lets the copies of everything go: they are closed, whoever else in this process still holds them.
    pub(crate) fn let_go(&self) {
        let mut board = self.board();
        let holdings = board.holdings.take();
        board.letting_go = LettingGo::Now;
        let owned = if board.life.is_accepting() { board.path.take() } else { None };
        let control = Arc::clone(&board.control);
        drop(board);
        holdings.into_iter().for_each(|let_go| let_go(self.let_go.as_fd()));
        self.remove_unwanted();
        // Before the listener: whoever starts next puts a socket of its own there once nobody listens, and that one is not
        // to be removed.
        if let Some(ours) = owned {
            control.place.remove(ours);
        }
        file::replace(control.listener.as_fd(), self.let_go.as_fd());
        self.renounce();
        // Not before: whoever sees it tells others that every address is free.
        self.board().letting_go = LettingGo::Done;
        self.let_go.raise();
        self.requests.raise();
    }

    /// This process will not own the service any more.
    fn renounce(&self) {
        self.arbiter.iter().for_each(|arbiter| arbiter.renounce());
    }

    pub(crate) fn has_let_go(&self) -> bool {
        self.board().letting_go == LettingGo::Done
    }

    /// A handoff was dropped before its release. If this process goes on, its successor hears so from the background; if it
    /// is about to end, it has crashed, and says nothing.
    pub(crate) fn drop_handoff(&self, link: Link<Predecessor<Attachment>>) {
        let mut board = self.board();
        if board.life.left().is_none() {
            board.dropped.push(link);
            drop(board);
            self.wake.raise();
        }
    }

    pub(crate) fn take_dropped(&self) -> Vec<Link<Predecessor<Attachment>>> {
        std::mem::take(&mut self.board().dropped)
    }

    /// The background cannot go on, and nobody hears signals or answers at the control socket any more.
    pub(crate) fn break_down(&self, reason: String) {
        self.board().broken = Some(reason);
        self.requests.raise();
        self.arrivals.raise();
    }

    pub(crate) fn broken(&self) -> Option<String> {
        self.board().broken.clone()
    }

    /// This process owns the service and cannot serve. It does not accept any more.
    pub(crate) fn fail(&self, reason: &str) {
        tracing::error!(event = "application_failed", reason, "this process cannot serve");
        self.say_to_predecessor(Word::Relinquish(shorten(reason, MAX_TEXT)));
        // Whoever has a claim need not wait for this process's end.
        if let Some(arbiter) = &self.arbiter {
            arbiter.disclaim();
        }
        self.leave(Leave::Crashed);
    }

    /// The application lets the service go. The background sees to the rest: it tells the predecessor, removes the path if
    /// that is to be, and ends.
    pub(crate) fn leave(&self, how: Leave) {
        let mut board = self.board();
        let awaited = board.life.upgrading().is_some() && board.life.left().is_none();
        let leaving = board.life.leave(how);
        let dropped = board.arrivals.drain(..).count() > 0;
        if dropped {
            // Nobody has accepted it, and nobody will.
            board.life.no_successor();
        }
        let path = if leaving.removes_path { board.path.take() } else { None };
        let control = Arc::clone(&board.control);
        drop(board);
        if awaited {
            // Nobody will begin it, and somebody may wait for it.
            self.upgrade_failed(0, "the service has stopped");
        }
        if let Some(ours) = path {
            control.place.remove(ours);
        }
        if let Some(ending) = leaving.settles {
            self.renounce();
            self.remove_unwanted();
            self.say_to_predecessor(Word::Settle(ending));
        }
        self.wake.raise();
        self.arrivals.raise();
        self.requests.raise();
    }
}

impl Board {
    /// Tells those who listen, if any do: returns whether, and then the background has to be woken.
    fn publish(&mut self, event: Event) -> bool {
        let heard = self.listening > 0;
        if heard {
            self.notices.push(Notice::Event(event));
        }
        heard
    }
}
