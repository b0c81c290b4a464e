//! The successor's side of one handoff, without the waiting: what the blocking and the tokio calls share.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::Span;
use tracing::field::Empty;

use crate::config::Config;
use crate::core::record::remember;
use crate::core::wire::{self, Attempt, Entry, FileId, Outcome, PROTOCOL, PredecessorStatus, Receive, Release};
use crate::core::{Cause, Packet, Successor, SuccessorCommand as Command, SuccessorEvent as Event};
use crate::driver::arbiter::Arbiter;
use crate::driver::channel::{Channel, Link};
use crate::driver::descriptor::{Inheritable, Unclaimed, check, named, serves};
use crate::driver::early_stop::LastWords;
use crate::driver::generation::{Generation, Legacy, Named, Origin};
use crate::driver::giving::make_room;
use crate::driver::laps::Laps;
use crate::driver::place::{self, Lock, Place};
use crate::driver::reception::Reception;
use crate::driver::signals::Caught;
use crate::error::{Error, PathProblem, Result};
use crate::state::Received;
use crate::sys::{file, limits, process, socket};

/// How many times to look for the service again when the one that was found is lost on the way.
const ATTEMPTS: u32 = 3;

/// How soon to look again for a service whose process is about to end.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Looks for the running service, and finds it or the right to be the first.
#[derive(Debug)]
pub(crate) struct Search {
    config: Config,
    began: Instant,
    attempts: u32,
    /// The process that had the service when it was last found.
    found: Option<OwnedFd>,
}

/// What a look found.
#[derive(Debug)]
pub(crate) enum Found {
    /// A service runs here.
    Service(Box<Transfer>),
    /// Nobody does, and nobody else can begin to while the lock is held.
    Nobody(Box<Inherited>),
    /// Another process is starting; look again at this moment.
    Starting(Instant),
}

impl Search {
    pub(crate) fn new(config: Config) -> Search {
        Search { config, began: Instant::now(), attempts: 0, found: None }
    }

    // M1, M3
    pub(crate) fn look(&mut self) -> Result<Found> {
        let place = Place::open(&self.config.path)?;
        if let Some(stream) = place.connect()? {
            self.attempts += 1;
            self.found = other_process(&stream);
            return Ok(Found::Service(Box::new(Transfer::begin(self.config.clone(), place, stream.into())?)));
        }
        // Nobody answers for it any more, and it still has every address: it is about to end.
        let lingers = self.found.as_ref().is_some_and(|pidfd| !process::is_dead(pidfd.as_fd()));
        if lingers && self.began.elapsed() < self.config.timeouts.lock {
            return Ok(Found::Starting(Instant::now() + LOOK_AGAIN));
        }
        if !self.config.cold_start {
            return Err(place.problem(PathProblem::NobodyThere));
        }
        let Some(lock) = place.try_lock()? else {
            return Ok(Found::Starting(place.retry_lock_at(self.began, self.config.timeouts.lock)?));
        };
        // Somebody may have started between the look and the lock.
        if place.connect()?.is_some() {
            drop(lock);
            return self.look();
        }
        let listener = place.bind(self.config.mode)?;
        // No release, one day, is to wait for it.
        file::time_namespace();
        Ok(Found::Nobody(Box::new(Inherited::nothing(self.config.clone(), place, listener, lock))))
    }

    /// Whether a failed transfer is a reason to look again: the service died on the way, and by now there may
    /// be another one, or nobody.
    pub(crate) fn may_look_again(&self, error: &Error) -> bool {
        matches!(error, Error::PredecessorLost(_)) && self.config.cold_start && self.attempts < ATTEMPTS
    }
}

/// The process at the other end, if it is another one.
fn other_process(stream: &std::os::unix::net::UnixStream) -> Option<OwnedFd> {
    let peer = socket::peer_credentials(stream).ok()?;
    let is_other = u32::try_from(peer.pid()).ok() != Some(std::process::id());
    is_other.then(|| socket::peer_pidfd(stream).ok()).flatten()
}

/// A transfer under way: everything is still on its way here.
#[derive(Debug)]
pub(crate) struct Transfer {
    link: Link<Successor<OwnedFd>>,
    /// What has come; it is whole when the transfer is.
    parts: Option<Parts>,
    /// Our own finding that made us give up, more exact than the cause that the peer hears.
    error: Option<Error>,
}

#[derive(Debug)]
struct Parts {
    config: Config,
    place: Place,
    began: Instant,
    /// Our own network namespace, where sockets of another one are to be refused.
    netns: Option<u64>,
    offer: Option<Box<wire::Offer>>,
    unclaimed: Unclaimed,
}

impl Transfer {
    // M29
    fn begin(config: Config, place: Place, stream: OwnedFd) -> Result<Transfer> {
        let stream = std::os::unix::net::UnixStream::from(stream);
        let peer = socket::peer_credentials(&stream).map_err(Error::io("read the service's credentials"))?;
        config.peers.check(&peer)?;
        let netns = socket::netns_cookie(stream.as_fd()).ok().filter(|_| !config.foreign_netns);
        let channel = Channel::new(stream, true).map_err(Error::io("set up the control connection"))?;
        let receive = Receive {
            protocol: PROTOCOL,
            pid: std::process::id(),
            version: wire::shorten(&config.version, wire::MAX_TEXT),
            schemas: config.schemas.clone(),
        };
        let began = Instant::now();
        let role = Successor::new(receive, config.timeouts.waits(), began);
        let mut link = Link::new(role, channel, None).map_err(Error::io("watch the control connection"))?;
        link.span = tracing::error_span!(
            "handoff",
            role = "successor",
            generation = Empty,
            predecessor = Empty,
            successor = std::process::id()
        );
        let parts = Parts { config, place, began, netns, offer: None, unclaimed: Unclaimed::default() };
        Ok(Transfer { link, parts: Some(parts), error: None })
    }

    pub(crate) fn link(&self) -> &Link<Successor<OwnedFd>> {
        &self.link
    }

    pub(crate) fn place_problem(&self, problem: PathProblem) -> Error {
        // The parts are whole until the transfer is, which it cannot be before the first poll.
        self.parts.as_ref().map_or(Error::Closed, |parts| parts.place.problem(problem))
    }

    /// Does all that can be done now. `Some`: the transfer is over, one way or the other.
    pub(crate) fn poll(&mut self) -> Option<Result<Arrived>> {
        let span = self.link.span.clone();
        let _entered = span.enter();
        while let Some(event) = self.link.step(Instant::now(), &[]) {
            // What was on its way here before we gave up, a complete transfer above all, counts no more.
            if self.error.is_some() && !matches!(event, Event::Failed(_)) {
                continue;
            }
            match self.note(event) {
                Ok(None) => {}
                Ok(Some(arrived)) => return Some(Ok(arrived)),
                Err(error) => {
                    // The peer hears the reason before the connection closes.
                    self.link.command(Command::Abort(Cause::Mismatch(error.to_string())));
                    self.error.get_or_insert(error);
                }
            }
        }
        // The answer is on its way. It will be needed when nobody accepts, and then it is here.
        file::time_namespace();
        // An error that the role has no event for (it was over already) still ends the transfer.
        if self.parts.is_none() { self.error.take().map(Err) } else { None }
    }

    // M56, M59
    fn note(&mut self, event: Event<OwnedFd>) -> Result<Option<Arrived>> {
        let Some(parts) = &mut self.parts else { return Ok(None) };
        match event {
            Event::Hello(hello) => {
                let span = &self.link.span;
                span.record("predecessor", hello.pid).record("generation", hello.generation.saturating_add(1));
                tracing::info!(event = "found", version = hello.version, "found the running service");
            }
            Event::Offered(offer, pidfd) => {
                let descriptors = offer.descriptors as usize;
                make_room(descriptors)?;
                drop(limits::widen_table(offer.descriptors.into(), offer.descriptors.into()));
                parts.unclaimed.reserve(descriptors);
                if let Some(pidfd) = pidfd {
                    self.link.watch(pidfd).map_err(Error::io("watch the predecessor"))?;
                }
                parts.offer = Some(offer);
            }
            Event::Batch(batch) => {
                for (entry, fd) in &batch {
                    check(entry, fd.as_fd(), parts.netns)
                        .map_err(|mismatch| Error::Handoff(Cause::Mismatch(mismatch.to_string())))?;
                }
                parts.unclaimed.insert(batch);
            }
            Event::Complete(snapshot) => {
                let missing = || Error::Handoff(Cause::Mismatch("the control listener did not come".to_owned()));
                let control = parts.unclaimed.take_control().ok_or_else(missing)?;
                let arbiter = parts.unclaimed.take_owner().map(Arbiter::inherited);
                self.link.arbiter = arbiter.and_then(without_proc).map(Arc::new);
                let schemas = &parts.config.schemas;
                let state = snapshot.map(|packet| Received::open(packet, schemas)).transpose()?;
                let Some(Parts { config, place, began, offer: Some(offer), unclaimed, .. }) = self.parts.take() else {
                    return Ok(None);
                };
                return Ok(Some(Arrived { config, place, began, offer, unclaimed, control, state }));
            }
            Event::Failed(cause) => {
                self.parts = None;
                self.error.get_or_insert_with(|| Error::from_cause(cause, false));
            }
            Event::Released { .. } | Event::Draining(_) | Event::Farewell(_) | Event::Departed(_) => {}
        }
        Ok(None)
    }

    /// Puts what arrived together with the connection it came over.
    pub(crate) fn finish(self, arrived: Arrived) -> Inherited {
        let Arrived { config, place, began, offer, unclaimed, control, state } = arrived;
        let laps = Laps { transferred: Some(Instant::now()), ..Laps::new(began) };
        let (transfer_us, descriptors) = (laps.transfer_us(), offer.descriptors);
        self.link
            .span
            .in_scope(|| tracing::info!(event = "arrived", transfer_us, descriptors, "everything has arrived"));
        Inherited {
            config,
            place,
            control: UnixListener::from(control),
            unclaimed,
            state: state.map(Arc::new),
            named: Named::default(),
            operated: false,
            arbiter: self.link.arbiter.clone(),
            source: Source::Predecessor(Box::new(Claim {
                offer,
                laps,
                link: Some(self.link),
                failed: None,
                last_error: Mutex::default(),
            })),
        }
    }
}

/// Everything that a transfer brings.
#[derive(Debug)]
pub(crate) struct Arrived {
    config: Config,
    place: Place,
    began: Instant,
    offer: Box<wire::Offer>,
    unclaimed: Unclaimed,
    control: OwnedFd,
    state: Option<Received>,
}

/// What a new generation begins with, while it initialises.
#[derive(Debug)]
pub(crate) struct Inherited {
    config: Config,
    place: Place,
    control: UnixListener,
    unclaimed: Unclaimed,
    state: Option<Arc<Received>>,
    /// What the application has named so far.
    named: Named,
    /// Whether somebody will take requests to upgrade and to stop.
    pub(crate) operated: bool,
    /// What the owner of the service holds.
    arbiter: Option<Arc<Arbiter>>,
    source: Source,
}

/// Where a generation gets the service from.
#[derive(Debug)]
enum Source {
    /// From nobody: a cold start, and the lock that makes it the only one.
    Cold(ColdStart),
    /// From a predecessor that still serves, as far as is known.
    Predecessor(Box<Claim>),
}

/// The right to be the first. A start that fails before it serves takes its socket away again, while nobody else can bind.
#[derive(Debug)]
struct ColdStart {
    path: PathBuf,
    /// What the path leads to, until somebody serves there.
    ours: Option<FileId>,
    _lock: Lock,
}

impl Drop for ColdStart {
    fn drop(&mut self) {
        if let Some(ours) = self.ours {
            let _ = Place::open(&self.path).map(|place| place.remove(ours));
        }
    }
}

/// A complete transfer that has not come to its end. Dropped before that, it is given up, and says why.
#[derive(Debug)]
struct Claim {
    offer: Box<wire::Offer>,
    laps: Laps,
    /// Absent once the handoff has come to its end.
    link: Option<Link<Successor<OwnedFd>>>,
    /// How the handoff ended, where that was heard before ready, which reports it.
    failed: Option<Cause>,
    /// What the application's last call failed of, if it did: the reason, should it now give up.
    last_error: Mutex<Option<String>>,
}

impl Claim {
    fn say(&mut self, command: Command) {
        if let Some(link) = &mut self.link {
            link.command(command);
            while let Some(event) = link.step(Instant::now(), &[]) {
                if let Event::Failed(cause) = event {
                    self.failed = Some(cause);
                }
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let last_error = self.last_error.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let reason = last_error.unwrap_or_else(|| {
            let how = if std::thread::panicking() { "panicked" } else { "gave up" };
            format!("the successor's application {how}")
        });
        self.say(Command::Abort(Cause::Here(reason)));
    }
}

impl Inherited {
    fn nothing(config: Config, place: Place, control: UnixListener, lock: Lock) -> Inherited {
        let (path, ours) = (place.path().to_owned(), place.look().ok().flatten());
        let source = Source::Cold(ColdStart { path, ours, _lock: lock });
        Inherited {
            config,
            place,
            control,
            unclaimed: Unclaimed::default(),
            state: None,
            named: Named::default(),
            operated: false,
            arbiter: None,
            source,
        }
    }

    /// What a process leaves behind that is told to stop while it initialises.
    pub(crate) fn last_words(&self) -> LastWords {
        let path = match &self.source {
            Source::Cold(cold) => cold.ours.map(|ours| (cold.path.clone(), ours)),
            Source::Predecessor(_) => None,
        };
        // Without it the end of this process says as much.
        LastWords { predecessor: self.source.link().and_then(|link| link.try_clone().ok()), path }
    }

    pub(crate) fn is_cold_start(&self) -> bool {
        self.source.is_cold()
    }

    /// The generation that this process is about to be.
    pub(crate) fn generation(&self) -> u64 {
        self.source.generation()
    }

    /// The address of what was inherited under a name and has not been taken.
    pub(crate) fn address(&self, name: &str) -> Option<&str> {
        self.unclaimed.address(name)
    }

    pub(crate) fn state(&self) -> Option<&Arc<Received>> {
        self.state.as_ref()
    }

    pub(crate) fn take_all<T: Inheritable>(&mut self, name: &str) -> Result<Vec<T>> {
        let taken = self.unclaimed.take_all(name)?;
        Ok(taken.into_iter().map(|(entry, fd)| self.claimed(&entry, fd)).collect())
    }

    pub(crate) fn take<T: Inheritable>(&mut self, name: &str) -> Result<Option<T>> {
        let taken = self.unclaimed.take(name)?;
        Ok(taken.map(|(entry, fd)| self.claimed(&entry, fd)))
    }

    pub(crate) fn take_or_else<T, E>(&mut self, name: &str, make: impl FnOnce() -> Result<T, E>) -> Result<T>
    where
        T: Inheritable + AsFd,
        E: Into<std::io::Error>,
    {
        self.take_or_make(name, make).map(|(_, taken)| taken)
    }

    /// [`Inherited::take_or_else`], and what the kernel says of it.
    pub(crate) fn take_or_make<T, E>(
        &mut self,
        name: &str,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<(Arc<Entry>, T)>
    where
        T: Inheritable + AsFd,
        E: Into<std::io::Error>,
    {
        let (entry, taken) = match self.unclaimed.take(name)? {
            Some(inherited) => inherited,
            None => {
                let made = make().map_err(|error| Error::io(format!("make \"{name}\""))(error.into()))?;
                (Arc::new(named(name, &made)?), made)
            }
        };
        self.named.add(&entry);
        Ok((entry, taken))
    }

    /// The inherited socket of this name if it is bound to `wanted`, or else a new one.
    pub(crate) fn take_bound<T>(
        &mut self,
        name: &str,
        wanted: SocketAddr,
        bind: impl FnOnce(SocketAddr) -> std::io::Result<T>,
    ) -> Result<(Arc<Entry>, T)>
    where
        T: Inheritable + AsFd,
    {
        if let Some(found) = self.unclaimed.address(name) {
            if !found.parse().is_ok_and(|bound| serves(bound, wanted)) {
                let (name, found, wanted) = (name.to_owned(), found.to_owned(), wanted.to_string());
                return Err(Error::AddressChanged { name, found, wanted });
            }
        }
        self.take_or_make(name, || {
            bind(wanted).map_err(|error| std::io::Error::new(error.kind(), format!("{wanted}: {error}")))
        })
    }

    pub(crate) fn register(&mut self, name: &str, fd: &impl AsFd) -> Result<()> {
        self.named.add(&named(name, fd)?);
        Ok(())
    }

    fn claimed<T>(&mut self, entry: &Entry, fd: T) -> T {
        self.named.add(entry);
        fd
    }

    /// Remembers what a call of the application's failed of. One that goes well later tells that it was no reason to
    /// give up.
    pub(crate) fn noted<T, E: fmt::Display>(&self, done: Result<T, E>) -> Result<T, E> {
        self.source.noted(done)
    }

    /// Gives the handoff up. On a cold start there is nobody to tell.
    pub(crate) fn fail(self, reason: &str) {
        let _ = self.noted::<(), _>(Err(reason));
    }

    pub(crate) fn progress(&mut self, message: &str) {
        if let Source::Predecessor(claim) = &mut self.source {
            claim.last_error = Mutex::default();
            claim.say(Command::Progress(message.to_owned()));
        }
    }

    /// Closes what nobody took, and acquires all that it takes to own the service. The reception is to be driven from here
    /// on, and [`Prepared::say_ready`] called once whatever else the caller needs is there.
    pub(crate) fn prepare(self, signals: Option<Arc<Caught>>) -> Result<(Prepared, Reception)> {
        let unclaimed = self.unclaimed.names();
        if !unclaimed.is_empty() {
            if self.config.strict {
                return self.source.noted(Err(Error::Unclaimed(unclaimed)));
            }
            tracing::warn!(event = "unclaimed", names = ?unclaimed, "closing inherited descriptors that nobody took");
        }
        drop(self.unclaimed);
        let (number, path) = (self.source.generation(), self.source.path());
        let arbiter = self.arbiter.or_else(|| without_proc(Arbiter::new()).map(Arc::new));
        let origin = Origin { number, path, named: self.named, operated: self.operated, arbiter };
        let generation = Generation::new(self.config, self.place, self.control, origin)
            .map_err(Error::io("set up the new generation"));
        let generation = Arc::new(self.source.noted(generation)?);
        if self.source.is_cold() {
            // Now, rather than when a child is started for the first upgrade: twice what a generation needs itself, since
            // its table will be made with room for that of the next.
            drop(limits::widen_table(generation.named(), limits::OWN));
            place::listen(generation.listener.as_fd()).map_err(Error::io("listen on the control socket"))?;
        }
        let predecessor = self.source.link().map(Link::poller);
        let reception = Reception::new(Arc::clone(&generation), signals, predecessor.map(AsRef::as_ref))
            .map_err(Error::io("set up the control socket"));
        let reception = self.source.noted(reception)?;
        Ok((Prepared { generation, source: self.source }, reception))
    }
}

/// A new generation that lacks nothing, but has not said so.
#[derive(Debug)]
pub(crate) struct Prepared {
    generation: Arc<Generation>,
    source: Source,
}

impl Prepared {
    pub(crate) fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// What to wait for once it has said so; nothing on a cold start.
    #[cfg(feature = "tokio")]
    pub(crate) fn poller(&self) -> Option<Arc<crate::sys::event::Poller>> {
        self.source.link().map(|link| Arc::clone(link.poller()))
    }

    /// [`Inherited::noted`].
    pub(crate) fn noted<T>(&self, done: Result<T>) -> Result<T> {
        self.source.noted(done)
    }

    /// Says that this process can serve.
    pub(crate) fn say_ready(self) -> Readied {
        let Prepared { generation, mut source } = self;
        if let Source::Predecessor(claim) = &mut source {
            claim.laps.ready = Some(Instant::now());
            if let Some(link) = &mut claim.link {
                let initialise_us = claim.laps.initialise_us();
                link.span.in_scope(|| tracing::info!(event = "initialised", initialise_us, "this process can serve"));
                link.command(Command::Ready);
            }
        }
        let mut readied = Readied { generation, source, outcome: None };
        // The word is on its way while the caller sets the reception up.
        readied.outcome = readied.advance();
        readied
    }
}

/// Without `/proc` there is no lock of the owner, and the rule for two processes has to do.
fn without_proc(arbiter: std::io::Result<Arbiter>) -> Option<Arbiter> {
    let failed = |error: &std::io::Error| {
        tracing::warn!(event = "arbiter_failed", %error, "there is no lock of the owner");
    };
    arbiter.inspect_err(failed).ok()
}

impl Source {
    fn is_cold(&self) -> bool {
        matches!(self, Source::Cold(_))
    }

    fn link(&self) -> Option<&Link<Successor<OwnedFd>>> {
        match self {
            Source::Predecessor(claim) => claim.link.as_ref(),
            Source::Cold(_) => None,
        }
    }

    fn noted<T, E: fmt::Display>(&self, done: Result<T, E>) -> Result<T, E> {
        if let Source::Predecessor(claim) = self {
            let last_error = done.as_ref().err().map(ToString::to_string);
            *claim.last_error.lock().unwrap_or_else(PoisonError::into_inner) = last_error;
        }
        done
    }

    fn generation(&self) -> u64 {
        match self {
            Source::Cold(_) => 1,
            Source::Predecessor(claim) => claim.offer.generation + 1,
        }
    }

    /// What the path has to lead to for it to be ours to remove; a cold start has just bound it.
    fn path(&self) -> Option<FileId> {
        match self {
            Source::Cold(_) => None,
            Source::Predecessor(claim) => claim.offer.path,
        }
    }
}

/// A new generation that can serve, and waits for the service to be released to it.
#[derive(Debug)]
pub(crate) struct Readied {
    generation: Arc<Generation>,
    source: Source,
    outcome: Option<Result<Takeover>>,
}

/// How the service came to this process.
#[derive(Debug)]
pub(crate) struct Takeover {
    state: Option<Packet<OwnedFd>>,
    release: Option<Release>,
}

impl Readied {
    /// [`Inherited::noted`].
    pub(crate) fn noted<T>(&self, done: Result<T>) -> Result<T> {
        self.source.noted(done)
    }

    /// What to wait for; nothing on a cold start.
    pub(crate) fn link(&self) -> Option<&Link<Successor<OwnedFd>>> {
        self.source.link()
    }

    /// Does all that can be done now. `Some`: this process owns the service, or the handoff failed.
    pub(crate) fn poll(&mut self) -> Option<Result<Takeover>> {
        self.outcome.take().or_else(|| self.advance())
    }

    fn advance(&mut self) -> Option<Result<Takeover>> {
        let nothing = Takeover { state: None, release: None };
        let Source::Predecessor(claim) = &mut self.source else { return Some(Ok(nothing)) };
        if let Some(cause) = claim.failed.take() {
            return Some(Err(Error::from_cause(cause, true)));
        }
        let Some(link) = &mut claim.link else { return Some(Ok(nothing)) };
        while let Some(event) = link.step(Instant::now(), &[]) {
            match event {
                Event::Released { state, release } => return Some(Ok(Takeover { state, release })),
                Event::Failed(cause) => return Some(Err(Error::from_cause(cause, true))),
                _ => {}
            }
        }
        None
    }

    /// Begins the new generation.
    // M9, M122
    pub(crate) fn own(self, takeover: Takeover) {
        let Readied { generation, mut source, .. } = self;
        if let Source::Cold(cold) = &mut source {
            cold.ours = None;
        }
        let span = match &source {
            Source::Predecessor(claim) => claim.link.as_ref().map_or_else(Span::none, |link| link.span.clone()),
            Source::Cold(_) => Span::none(),
        };
        let _entered = span.enter();
        let mut pause_us = None;
        // The predecessor's is held already; one of its own this process takes now.
        if let Some(arbiter) = generation.arbiter.as_ref().filter(|arbiter| !arbiter.is_inherited()) {
            arbiter.claim();
        }
        let mut legacy = Legacy { final_state: takeover.state, ..Legacy::default() };
        if let Source::Predecessor(mut claim) = source {
            let orphaned = takeover.release.is_none();
            let mut history: VecDeque<Attempt> = claim.offer.history.drain(..).collect();
            let outcome = if orphaned { Outcome::Orphaned } else { Outcome::Completed };
            claim.laps.active = Some(Instant::now());
            let pause = takeover.release.as_ref().and_then(|release| pause_since(release, file::time_namespace()));
            claim.laps.released = pause.zip(claim.laps.active).and_then(|(pause, active)| active.checked_sub(pause));
            let attempt = claim.laps.attempt(claim.offer.generation, std::process::id(), outcome);
            pause_us = attempt.pause_us;
            remember(&mut history, attempt);

            // The flag is its predecessor's choice until here, and the background never waits in accept.
            if let Err(error) = generation.listener.set_nonblocking(true) {
                tracing::error!(event = "control_socket_blocks", %error, "cannot make the control socket non-blocking");
            }
            // Names this process as the one that serves; the socket works without.
            let _ = place::listen(generation.listener.as_fd());
            legacy.history = history;
            let link = claim.link.take();
            if orphaned {
                tracing::warn!(
                    event = "orphaned",
                    "the predecessor died; this process took over without its final state"
                );
            } else {
                legacy.predecessor =
                    link.map(|link| (PredecessorStatus { pid: claim.offer.pid, connections: None }, link));
            }
        }
        tracing::info!(event = "serving", generation = generation.number, pause_us, "this process serves");
        generation.own(legacy);
    }
}

/// How long ago the predecessor released, where its clock is ours.
fn pause_since(release: &Release, ours: Option<u64>) -> Option<Duration> {
    if ours.is_none() || ours != release.timens {
        return None;
    }
    process::monotonic().checked_sub(Duration::from_micros(release.monotonic_us))
}
