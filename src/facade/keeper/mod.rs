//! A process that keeps a service while nobody serves it.

mod event;

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

pub use event::{KeeperEvent, KeptSince};

use crate::config::Config;
use crate::core::StateTries;
use crate::core::wire::{ErrorCode, KeptStatus};
use crate::driver::SignalKind;
use crate::driver::descriptor::Shared;
use crate::driver::generation::Generation;
use crate::driver::giving::{Giving, Milestone};
use crate::driver::signals::Caught;
use crate::driver::taking::{Found, Inherited, Kept, Readied, Search, Transfer, again, share};
use crate::error::{Error, PathProblem, Result};
use crate::facade::blocking::{Control, Inheritance, Released, pause};
use crate::facade::registry;
use crate::sys::event::{Signal, is_readable, wait_readable};

/// How soon to look again where there is no service yet, or where it is about to be another process's.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How often that pause doubles where the service refuses a keeper: another one may be there for as long as it lives.
const MOST_DOUBLED: u32 = 5;
/// How soon to try again whether the service is nobody's.
const CLAIM_AGAIN: Duration = Duration::from_millis(20);
/// How often a crashed process may have had the same state.
const STATE_TRIES: u32 = 3;

/// A process that holds copies of a service's sockets and its last state, serves nobody, and gives them to the next process.
///
/// It looks for the service at the control socket, and receives everything. From then on
///
/// - a crash of the service refuses nobody: connections wait in the backlog, the keeper answers at the control socket, and the next
///   process takes over from it, with the state of the last [checkpoint](crate::Handle::checkpoint);
/// - a service that is told to stop gives everything up to the keeper, with its final state and its farewell, so that a stop that is
///   followed by a start (`docker restart`, `systemctl restart`) loses nothing either.
///
/// The command `handoff keep` is one. A service is kept by one process at a time; services that are made of the two calls
/// ([`handoff_listen`](crate::handoff_listen)), without [`Handoff`](crate::Handoff), give nothing to a keeper.
///
/// ```no_run
/// # fn main() -> fd_handoff::Result<()> {
/// fd_handoff::Keeper::new("/run/app/handoff.sock")
///     .listen("http", "0.0.0.0:8080".parse().unwrap())   // a cold start finds it there
///     .run()                                              // until SIGTERM or SIGINT
/// # }
/// ```
pub struct Keeper {
    config: Config,
    sockets: Vec<(String, SocketAddr)>,
    state_tries: u32,
    hears: Box<dyn FnMut(&KeeperEvent) + Send>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (config, sockets) = (&self.config, &self.sockets);
        f.debug_struct("Keeper").field("config", config).field("sockets", sockets).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Keeps the service at this control socket. Of the configuration it uses the path, the mode, the peers and the timeouts.
    pub fn new(config: impl Into<Config>) -> Keeper {
        let config = Config { standby: true, ..config.into().allow_foreign_netns(true).cold_start(false) };
        Keeper { config, sockets: Vec::new(), state_tries: STATE_TRIES, hears: Box::new(|_| ()) }
    }

    /// One that a superseded service becomes.
    pub(crate) fn instead_of(config: Config, error: &Error) -> Keeper {
        tracing::warn!(event = "superseded", %error, "this instance waits as a keeper");
        Keeper::new(config)
    }

    /// Keeps the service for as long as this process lives, or until that cannot be.
    pub(crate) fn for_ever(self) -> Error {
        let never = signal().map(|never| Stop::Asked(Arc::new(never)));
        let kept = never.and_then(|never| Keeping::new(self, never)).and_then(Keeping::run);
        kept.err().unwrap_or(Error::Stopped)
    }

    /// Where no service runs, binds a TCP listener of this name, and gives it to the first process that starts. So the sockets are
    /// there before the service is, and are those of the keeper's network namespace. Port 0 stands for any port.
    #[must_use]
    pub fn listen(mut self, name: &str, addr: SocketAddr) -> Keeper {
        self.sockets.push((name.to_owned(), addr));
        self.config = self.config.cold_start(true);
        self
    }

    /// A state of which so many processes in a row have died, before they could serve, is left out, loudly: the next process gets
    /// the sockets alone. One has died of it that crashed, or said that it cannot read it. Default: 3.
    #[must_use]
    pub fn state_tries(mut self, tries: u32) -> Keeper {
        self.state_tries = tries;
        self
    }

    /// Has `hears` called with each thing that happens, on the thread of [`Keeper::run`]. The same is logged with `tracing`.
    #[must_use]
    pub fn on_event(mut self, hears: impl FnMut(&KeeperEvent) + Send + 'static) -> Keeper {
        self.hears = Box::new(hears);
        self
    }

    /// Keeps the service until SIGTERM or SIGINT. Where another process serves then, nothing happens to the service; where none
    /// does, its sockets are closed, and who waits is refused.
    ///
    /// # Errors
    ///
    /// Where the path cannot be used, an address cannot be bound, or the kernel has neither memory nor descriptors to begin with.
    /// What goes wrong later is logged and tried again.
    pub fn run(self) -> Result<()> {
        let signals = Caught::new(&[SignalKind::terminate(), SignalKind::interrupt()], &[])?;
        Keeping::new(self, Stop::Signals(signals))?.run()
    }

    /// As [`Keeper::run`], on a thread of its own, until [`RunningKeeper::stop`].
    ///
    /// # Errors
    ///
    /// Where there is no thread, or no descriptor, to be had. What goes wrong later is an error of `stop`.
    pub fn start(self) -> Result<RunningKeeper> {
        self.start_telling(|| ())
    }

    /// As [`Keeper::start`]; `ended` is called when it has ended, by itself or not.
    pub(crate) fn start_telling(self, ended: impl FnOnce() + Send + 'static) -> Result<RunningKeeper> {
        let asked = Arc::new(signal()?);
        let keeping = Keeping::new(self, Stop::Asked(Arc::clone(&asked)))?;
        let thread = Builder::new().name("fd-handoff-keep".to_owned()).spawn(move || {
            let kept = keeping.run();
            ended();
            kept
        });
        let thread = thread.map_err(Error::io("start the thread that keeps the service"))?;
        Ok(RunningKeeper { asked, thread: Some(thread) })
    }
}

/// A [`Keeper`] on a thread of its own. Dropped, it stops as by [`RunningKeeper::stop`].
#[derive(Debug)]
pub struct RunningKeeper {
    asked: Arc<Signal>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl RunningKeeper {
    /// Stops keeping, as [`Keeper::run`] does on SIGTERM.
    ///
    /// # Errors
    ///
    /// What has ended it before, as of [`Keeper::run`].
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.asked.raise();
        // A panic has been printed; there is nothing to be done about it.
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap_or(Ok(())))
    }
}

impl Drop for RunningKeeper {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(event = "keeper_failed", %error, "the service was not kept");
        }
    }
}

/// Whether a service was not taken over because another instance has superseded this one.
pub(crate) fn is_superseded(error: &Error) -> bool {
    matches!(error, Error::Refused { code: ErrorCode::Superseded, .. })
}

/// What ends a keeper.
enum Stop {
    Signals(Caught),
    Asked(Arc<Signal>),
}

impl Stop {
    /// Whether it was told to stop. A signal is heard once, and what this process asks for itself stays asked.
    fn came(&self) -> bool {
        match self {
            Stop::Signals(signals) => signals.stop_came(),
            Stop::Asked(asked) => is_readable(asked.as_fd()),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Stop::Signals(signals) => signals.stop_fd(),
            Stop::Asked(asked) => asked.as_fd(),
        }
    }
}

fn signal() -> Result<Signal> {
    Signal::new().map_err(Error::io("make an eventfd descriptor"))
}

/// A keeper at work.
struct Keeping {
    keeper: Keeper,
    stop: Stop,
    /// What it has, of the service as it was last seen.
    kept: Option<Kept>,
    tries: StateTries,
    /// The control socket comes back with it where a process that took the service over has died in its first moments.
    given_back: Sender<Control>,
    back: Receiver<Control>,
    woken: Arc<Signal>,
    /// What was last said of a search in vain: once is enough.
    said: String,
    /// How often in a row a service was found that did not give anything.
    in_vain: u32,
}

/// What a keeper has to do next.
enum Next {
    /// Look for the owner.
    Look,
    /// Nobody serves: give everything to the next process.
    Keep(Control),
    /// End.
    Stop,
}

impl fmt::Debug for Keeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeping").field("keeper", &self.keeper).finish_non_exhaustive()
    }
}

impl Keeping {
    fn new(keeper: Keeper, stop: Stop) -> Result<Keeping> {
        let (given_back, back) = channel();
        let (woken, tries) = (Arc::new(signal()?), StateTries::new(keeper.state_tries));
        Ok(Keeping { keeper, stop, kept: None, tries, given_back, back, woken, said: String::new(), in_vain: 0 })
    }

    fn run(mut self) -> Result<()> {
        let mut next = Next::Look;
        loop {
            next = match next {
                Next::Look => self.look()?,
                Next::Keep(control) => self.keep(control),
                Next::Stop => return Ok(()),
            }
        }
    }

    /// Looks for the owner until it is found, or turns out to be nobody. Whoever holds the sockets of a service goes on whatever
    /// happens: with it they would go.
    fn look(&mut self) -> Result<Next> {
        loop {
            if let Some(next) = self.decided() {
                return Ok(next);
            }
            match self.find() {
                Ok(Some(Found::Service(transfer))) => {
                    if let Some(next) = self.receive(*transfer) {
                        return Ok(next);
                    }
                }
                Ok(Some(Found::Nobody(inherited))) => return self.begin(*inherited).map(Next::Keep),
                Ok(Some(Found::Starting(_)) | None) => {}
                // Nothing that the service does makes these go away.
                Err(error @ Error::Path { .. }) if self.kept.is_none() => return Err(error),
                Err(error) => self.say_once(&error.to_string()),
            }
            self.wait(&[], Some(self.again()));
        }
    }

    fn find(&self) -> Result<Option<Found>> {
        // Whoever holds the sockets of a service does not begin another one.
        let cold_start = self.keeper.config.cold_start && self.kept.is_none();
        match Search::new(self.keeper.config.clone().cold_start(cold_start)).look() {
            Err(Error::Path { problem: PathProblem::NobodyThere | PathProblem::NoDirectory, .. }) => Ok(None),
            found => found.map(Some),
        }
    }

    /// What has happened that makes looking needless: this process was told to stop, or the service is its own.
    fn decided(&mut self) -> Option<Next> {
        if self.stop.came() {
            return Some(Next::Stop);
        }
        self.woken.lower();
        let why = KeptSince::Crash { pid: self.owner() };
        if let Ok(control) = self.back.try_recv() {
            self.tell(control.inner(), why);
            self.keeping(why);
            return Some(Next::Keep(control));
        }
        let control = self.or_say(|it| it.claim(why)).flatten()?;
        self.keeping(why);
        Some(Next::Keep(control))
    }

    /// Takes a service that nobody serves, if this is one.
    fn claim(&mut self, why: KeptSince) -> Result<Option<Control>> {
        let Some(kept) = &mut self.kept else { return Ok(None) };
        let Some(inherited) = kept.claim(&self.keeper.config)? else { return Ok(None) };
        let tell = |generation: &Arc<Generation>| {
            self.tell(generation, why);
            Ok(())
        };
        Inheritance::from(inherited).ready_with(None, tell).map(|(control, ())| Some(control))
    }

    /// What fails is said, and tried again.
    fn or_say<T>(&mut self, attempt: impl FnOnce(&mut Keeping) -> Result<T>) -> Option<T> {
        match attempt(self) {
            Ok(done) => Some(done),
            Err(error) => {
                self.say_once(&error.to_string());
                None
            }
        }
    }

    /// When to look again. Where there is something to claim, sooner; where the service refuses a keeper, later and later.
    fn again(&self) -> Instant {
        let pause = if self.kept.is_some() { CLAIM_AGAIN } else { LOOK_AGAIN };
        Instant::now() + pause * 2_u32.pow(self.in_vain.min(MOST_DOUBLED))
    }

    /// Receives everything from the owner, and stands by.
    fn receive(&mut self, mut transfer: Transfer) -> Option<Next> {
        loop {
            match transfer.poll() {
                Some(Ok(arrived)) => return self.or_say(|it| it.stand_by(transfer.finish(arrived))).flatten(),
                Some(Err(error)) => {
                    self.in_vain = self.in_vain.saturating_add(1);
                    self.say_once(&error.to_string());
                    return None;
                }
                None => {}
            }
            let until = self.kept.is_some().then(|| Instant::now() + CLAIM_AGAIN);
            let poller = Arc::clone(transfer.link().poller());
            self.wait(&[poller.as_fd()], transfer.link().deadline().into_iter().chain(until).min());
            if let Some(next) = self.decided() {
                return Some(next);
            }
        }
    }

    /// Has everything, and waits for the owner's end.
    fn stand_by(&mut self, mut inherited: Inherited) -> Result<Option<Next>> {
        let kept = Kept::of(&mut inherited)?;
        let (pid, generation) = (kept.owner().pid, kept.owner().generation);
        kept.name(&mut inherited);
        self.kept = Some(kept);
        self.tries.renew();
        self.in_vain = 0;
        let (prepared, reception) = inherited.prepare(None)?;
        self.tell(prepared.generation(), KeptSince::Stop { pid });
        let control = Control::begin(Arc::clone(prepared.generation()), reception)?;
        let mut readied = prepared.say_ready();
        self.said.clear();
        self.say(&KeeperEvent::StandingBy { pid, generation });
        loop {
            let outcome = readied.poll();
            self.take_checkpoint(&mut readied);
            match outcome {
                Some(Ok(takeover)) => {
                    readied.own(takeover);
                    if let Some(kept) = &mut self.kept {
                        kept.last = control.inner().take_final_packet().map(share);
                    }
                    self.keeping(KeptSince::Stop { pid });
                    return Ok(Some(Next::Keep(control)));
                }
                Some(Err(error)) => {
                    tracing::debug!(event = "owner_lost", owner = pid, %error, "looking for the owner");
                    return Ok(None);
                }
                None => {}
            }
            let Some(link) = readied.link() else { return Ok(None) };
            let (poller, deadline) = (Arc::clone(link.poller()), link.deadline());
            self.wait(&[poller.as_fd()], deadline);
            if self.stop.came() {
                return Ok(Some(Next::Stop));
            }
        }
    }

    fn take_checkpoint(&mut self, readied: &mut Readied) {
        let Some((checkpoint, kept)) = readied.take_checkpoint().zip(self.kept.as_mut()) else { return };
        tracing::debug!(event = "checkpoint", state_bytes = checkpoint.info.length, "a newer snapshot");
        kept.snapshot = Some(share(checkpoint));
        self.tries.renew();
    }

    /// Nobody has ever served here: what the first process is to find is bound.
    fn begin(&mut self, mut inherited: Inherited) -> Result<Control> {
        let mut sockets = Vec::new();
        for (name, addr) in &self.keeper.sockets {
            let (entry, listener) = registry::tcp_listener(&mut inherited, name, *addr, &mut |_| Ok(()))?;
            sockets.push((entry, Arc::new(listener) as Shared));
        }
        self.kept = Some(Kept::bound(&inherited, sockets)?);
        let tell = |generation: &Arc<Generation>| {
            self.tell(generation, KeptSince::TheBeginning);
            Ok(())
        };
        let (control, ()) = Inheritance::from(inherited).ready_with(None, tell)?;
        self.keeping(KeptSince::TheBeginning);
        Ok(control)
    }

    /// Nobody serves.
    fn keeping(&mut self, why: KeptSince) {
        self.said.clear();
        self.say(&KeeperEvent::Keeping(why));
    }

    /// Has `status` say why nobody serves, once that is so, and who waits.
    fn tell(&self, generation: &Generation, why: KeptSince) {
        let waiting = self.kept.as_ref().map(Kept::waiting);
        generation.keeps(Box::new(move |since| KeptStatus {
            for_ms: since.elapsed().as_millis() as u64,
            reason: why.to_string(),
            waiting: waiting.as_ref().map_or(0, |waiting| waiting()),
        }));
    }

    /// Gives everything to the next process that asks.
    fn keep(&mut self, control: Control) -> Next {
        let generation = Arc::clone(control.inner());
        loop {
            match generation.try_accept() {
                Some(Ok(arrival)) => match Giving::new(Arc::clone(&generation), arrival) {
                    Ok(giving) => {
                        if let Some(given) = self.give(giving) {
                            return self.follow(control, given);
                        }
                    }
                    Err(error) => {
                        tracing::error!(event = "hand_over_failed", %error, "cannot hand over");
                        generation.no_successor();
                    }
                },
                // It was lost to nobody knows whom.
                Some(Err(_)) => return Next::Look,
                None => {}
            }
            if self.stop.came() {
                let waiting = self.kept.as_ref().map_or(0, |kept| kept.waiting()());
                self.say(&KeeperEvent::Closed { waiting });
                self.kept = None;
                control.close();
                return Next::Stop;
            }
            self.wait(&[generation.arrivals.as_fd()], None);
        }
    }

    /// One handoff. `None`: the service is still this keeper's, or nobody knows whose.
    fn give(&mut self, mut giving: Giving) -> Option<Giving> {
        let kept = self.kept.as_ref()?;
        let gives = self.tries.gives();
        let snapshot = kept.snapshot.as_ref().filter(|_| gives).and_then(|packet| again(packet).ok());
        if let Err(error) = giving.offer(kept.offer(), snapshot) {
            giving.give_up(error);
            return None;
        }
        loop {
            match giving.poll(&[]) {
                Some(Milestone::Ready) => {
                    let last = self.kept.as_ref()?.last.as_ref();
                    giving.release(last.filter(|_| gives).and_then(|packet| again(packet).ok()));
                }
                Some(Milestone::Active) => return Some(giving),
                Some(Milestone::Over(failure)) => {
                    self.failed(giving.successor().pid, failure.cause());
                    return None;
                }
                Some(Milestone::Settled(_) | Milestone::Departed) => {}
                None => giving.wait(&[], None),
            }
        }
    }

    fn failed(&mut self, pid: u32, error: &Error) {
        self.say(&KeeperEvent::NotTaken { pid, reason: error.to_string() });
        let Error::Handoff(cause) = error else { return };
        if self.tries.failed(cause) {
            self.say(&KeeperEvent::StateLeftOut { tries: self.keeper.state_tries });
        }
    }

    /// The process that has the service, as far as is known.
    fn owner(&self) -> u32 {
        self.kept.as_ref().map_or(0, |kept| kept.owner().pid)
    }

    /// The service is the next process's. What is to be said to that still is said in the background: the farewells of a
    /// process before, and how this keeper ends, until probation is over.
    fn follow(&mut self, control: Control, giving: Giving) -> Next {
        let generation = control.inner();
        let pid = giving.successor().pid;
        self.say(&KeeperEvent::Given { pid });
        if let Some(kept) = &mut self.kept {
            if let Err(error) = kept.given_by(generation, giving.successor(), giving.successor_pidfd()) {
                self.say_once(&error.to_string());
            }
        }
        let (back, woken) = (self.given_back.clone(), Arc::clone(&self.woken));
        let follow = move || {
            let released = Released::from(giving);
            if let Err(failure) = released.farewell(None) {
                if failure.may_serve() {
                    // It ends only where nobody is left to hear.
                    let _ = back.send(control);
                    woken.raise();
                }
            }
        };
        if let Err(error) = Builder::new().name("fd-handoff-follow".to_owned()).spawn(follow) {
            // It was moved there: the end of the handoff is the end of a process that has crashed, to whoever hears it.
            tracing::error!(event = "thread_failed", %error, "cannot follow the process that has taken over");
        }
        Next::Look
    }

    fn say_once(&mut self, message: &str) {
        if self.said != message {
            message.clone_into(&mut self.said);
            self.say(&KeeperEvent::NotKept { reason: message.to_owned() });
        }
    }

    fn say(&mut self, event: &KeeperEvent) {
        event.log();
        (self.keeper.hears)(event);
    }

    fn wait(&self, also: &[BorrowedFd<'_>], until: Option<Instant>) {
        let mut fds = vec![self.stop.fd(), self.woken.as_fd()];
        fds.extend_from_slice(also);
        pause(wait_readable(&fds, until));
    }
}
