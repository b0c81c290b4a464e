//! What a service does besides serving: it hears requests, starts the new process at an upgrade, hands over to a successor,
//! and stops. Shared by the blocking and the tokio form; nothing here waits, and nothing here decides: the roles, the
//! lifecycle and the way out in [`crate::core`] do.

mod handover;
mod keeper;
mod upgrade;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::SignalKind;
use super::giving::{Giving, left};
use super::hooks::Hooks;
use super::launch::Launch;
use super::worker::{Pending, Surround, Worker};
use crate::config::FOREVER;
use crate::core::wire::ErrorCode;
use crate::core::{FinishWaits, Leave, Watchdog};
use crate::driver::generation::{Generation, SETTLE};
use crate::driver::giving::Offer;
use crate::error::{Error, Failure, Result};
use crate::state::Received;
use crate::sys::event::{Interest, Poller, Signal};
use handover::Handover;
use keeper::Keeper;
use upgrade::Upgrade;

const ARRIVALS: u64 = 0;
const REQUESTS: u64 = 1;
const CHILD: u64 = 2;
const FAREWELLS: u64 = 3;
const JOBS: u64 = 4;
const SUCCESSOR: u64 = 5;
const KEEPER: u64 = 6;

/// How often a drain says how far it is.
const TELL: Duration = Duration::from_millis(250);

/// How soon those outside are told again that this process serves, if that has failed.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(5);

/// What makes a service upgrade and stop, and how the new process is started.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) upgrade_on: Vec<SignalKind>,
    pub(crate) stop_on: Vec<SignalKind>,
    pub(crate) launch: Launch,
}

/// What the service is, as far as giving it up is concerned.
pub(crate) struct Application {
    pub(crate) hooks: Hooks,
    /// An offer of every socket.
    pub(crate) offer: Box<dyn Fn() -> Offer<'static> + Send + Sync>,
    /// How many connections there are.
    pub(crate) connections: Box<dyn Fn() -> usize + Send + Sync>,
    /// Tells those outside that this process serves. Returns whether they know.
    pub(crate) serving: Box<dyn Fn() -> bool + Send + Sync>,
    /// Tells them that the service stops, and how long that may take at the most.
    pub(crate) stopping: Box<dyn Fn(Duration) + Send + Sync>,
    /// The service stops: what only an owner may see to, while nobody else can begin to serve.
    pub(crate) stopped: Box<dyn Fn() + Send + Sync>,
    /// This process serves no more, whoever does.
    pub(crate) withdrawn: Box<dyn Fn() + Send + Sync>,
    /// How often a service manager wants a sign of life, if it does.
    pub(crate) watchdog: Option<Duration>,
    /// Gives it one, if the application says that it lives. Returns whether it does.
    pub(crate) sign_of_life: Box<dyn Fn() -> bool + Send + Sync>,
    /// Whether a service manager minds the successor apart from this process, which it then wants signs of life from until it ends.
    pub(crate) is_minded_apart: Box<dyn Fn() -> bool + Send + Sync>,
    /// What surrounds the application's hooks.
    pub(crate) surround: Option<Surround>,
    /// How long this process may drain.
    pub(crate) drain: Duration,
    /// How long connections may take to end once that time is over, and they were told.
    pub(crate) ending: Duration,
}

/// See above.
pub(crate) struct Steward {
    generation: Arc<Generation>,
    poller: Arc<Poller>,
    application: Application,
    waits: FinishWaits,
    upgrade: Upgrade,
    /// How the service is being given up.
    handover: Option<Handover>,
    keeper: Keeper,
    /// The application has called `finish`.
    proceeding: bool,
    /// What the application's code runs on, while there is any to run.
    worker: Option<Worker>,
    jobs: Arc<Signal>,
    /// Whether the predecessor's farewells are read here, and the one that the application is just taking in.
    absorbs: bool,
    absorbing: Option<Absorbing>,
    /// What it does that on.
    absorber: Option<Worker>,
    /// Which connections were told of last, and when to look again.
    told: Option<usize>,
    tell_again: Option<Instant>,
    /// When to try again to tell those outside that this process serves.
    announce_again: Option<Instant>,
    watchdog: Watchdog,
}

/// A farewell that the application takes in, and how long it may take.
struct Absorbing {
    done: Pending<()>,
    until: Instant,
}

/// What the form has to do.
#[derive(Debug)]
pub(crate) enum Duty {
    /// Have the application stop accepting.
    Supersede,
    /// The drain deadline has passed: end the connections that are left.
    EndConnections,
    /// It is over.
    Over(Over),
}

/// How giving the service up has ended.
#[derive(Debug)]
pub(crate) enum Over {
    /// The service is this process's again: accept.
    Resume,
    /// Exit: the successor serves, or the service has stopped.
    Exit,
    /// Nobody knows whose the service is.
    Failed(Failure),
    /// The application has dropped the service.
    Dropped,
    /// Nobody hears signals and requests any more.
    Broken(String),
}

impl std::fmt::Debug for Steward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steward").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Steward {
    /// From here on requests can be taken. All that can fail is done.
    pub(crate) fn appoint(generation: Arc<Generation>, launch: Launch, application: Application) -> Result<Steward> {
        let watch = Error::io("watch for successors");
        let poller = Poller::new().map_err(Error::io("make an epoll descriptor"))?;
        let jobs = Arc::new(Signal::new().map_err(Error::io("make an eventfd descriptor"))?);
        poller
            .add(generation.arrivals.as_fd(), ARRIVALS, Interest::Read)
            .and_then(|()| poller.add(generation.requests.as_fd(), REQUESTS, Interest::Read))
            .and_then(|()| poller.add(generation.farewells.as_fd(), FAREWELLS, Interest::HangUp))
            .and_then(|()| poller.add(jobs.as_fd(), JOBS, Interest::Read))
            .map_err(watch)?;
        let poller = Arc::new(poller);
        let timeouts = &generation.config.timeouts;
        let (hook, drain, ending) = (timeouts.hook.min(FOREVER), application.drain, application.ending);
        Ok(Steward {
            waits: FinishWaits { hook, drain, ending, settle: SETTLE + SETTLE },
            watchdog: Watchdog::new(application.watchdog),
            upgrade: Upgrade::new(Arc::clone(&generation), Arc::clone(&poller), launch),
            generation,
            poller,
            application,
            handover: None,
            keeper: Keeper::default(),
            proceeding: false,
            worker: None,
            jobs,
            absorbs: false,
            absorbing: None,
            absorber: None,
            told: None,
            tell_again: None,
            announce_again: None,
        })
    }

    /// What to wait for.
    pub(crate) fn poller(&self) -> &Arc<Poller> {
        &self.poller
    }

    /// Until when.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let handover = self.handover.as_ref().and_then(Handover::deadline);
        let stop = self.stop_limit();
        let absorbing = self.absorbing.as_ref().map(|absorbing| absorbing.until);
        let again = self.tell_again.into_iter().chain(self.announce_again).chain(self.watchdog.deadline());
        let own =
            stop.into_iter().chain(self.upgrade.deadline()).chain(again).chain(absorbing).chain(self.keeper.deadline());
        handover.into_iter().chain(own).min()
    }

    /// This process serves, and those outside are to know it.
    pub(crate) fn announce(&mut self) {
        self.watchdog.serves(Instant::now());
        self.tell_who_serves();
        self.give_sign_of_life();
    }

    fn tell_who_serves(&mut self) {
        let known = (self.application.serving)();
        self.announce_again = (!known).then(|| Instant::now() + ANNOUNCE_AGAIN);
    }

    fn announce_if_due(&mut self) {
        if self.announce_again.is_none_or(|again| again > Instant::now()) {
            return;
        }
        self.announce_again = None;
        if self.generation.is_accepting() {
            self.tell_who_serves();
        }
    }

    /// That this is called at all is the least that proves that the service lives.
    fn give_sign_of_life(&mut self) {
        let now = Instant::now();
        if self.watchdog.is_due(now) {
            let alive = (self.application.sign_of_life)();
            self.watchdog.looked(now, alive);
        }
    }

    /// From here on the predecessor's farewells are this application's, rather than passed on unread.
    pub(crate) fn absorb_farewells(&mut self, absorb: impl FnMut(Received) + Send + 'static) {
        self.application.hooks.absorb = Some(super::hooks::Absorb::new(absorb));
        self.absorbs = true;
        self.watch_farewells();
    }

    /// One at a time: the next one waits, and wakes nobody.
    fn watch_farewells(&self) {
        let takes = self.absorbs && self.absorbing.is_none();
        let interest = if takes { Interest::Read } else { Interest::HangUp };
        // It is in the set, so this does not fail.
        let _ = self.poller.change(self.generation.farewells.as_fd(), FAREWELLS, interest);
    }

    /// The application has stopped accepting, or is about to, and waits for the end.
    pub(crate) fn proceed(&mut self) {
        self.proceeding = true;
        if let Some(handover) = &mut self.handover {
            handover.proceed();
        }
    }

    /// The application's connections have ended.
    pub(crate) fn drained(&mut self) {
        if let Some(handover) = &mut self.handover {
            handover.drained();
        }
    }

    /// Whether connections are ending, and the form has to say when they have.
    pub(crate) fn is_draining(&self) -> bool {
        self.handover.as_ref().is_some_and(|handover| handover.finish.is_draining())
    }

    /// Does all that can be done now. `None`: wait for the poller or the deadline, then ask again.
    pub(crate) fn poll(&mut self) -> Option<Duty> {
        self.generation.requests.lower();
        self.jobs.lower();
        if let Some(reason) = self.generation.broken() {
            return Some(Duty::Over(Over::Broken(reason)));
        }
        if self.generation.left() == Some(Leave::Crashed) {
            return Some(Duty::Over(Over::Dropped));
        }
        self.announce_if_due();
        self.give_sign_of_life();
        self.absorb();
        self.keep();
        self.hear();
        self.welcome();
        let duty = self.go_on();
        self.upgrade.look_after_child();
        self.dismiss_worker();
        duty
    }

    /// Takes requests.
    fn hear(&mut self) {
        if self.generation.is_stopping() {
            self.stop();
        }
        if let Some(timeout) = self.generation.take_upgrade() {
            self.upgrade.begin(timeout);
        }
    }

    /// The service was told to stop: at once where nobody is about to take it.
    // M93
    fn stop(&mut self) {
        match &mut self.handover {
            None => {
                self.upgrade.give_up();
                let handover = self.give_up_to_keeper().unwrap_or_else(|| self.begin_stop(false));
                self.hand_over(handover);
            }
            Some(handover) => {
                handover.limit_by_stop(self.generation.stop_limit(self.application.drain));
                if self.generation.is_to_end_now() {
                    handover.end_now();
                }
            }
        }
    }

    /// Gives the service up to nobody. `superseded`: the application knows already.
    fn begin_stop(&self, superseded: bool) -> Handover {
        (self.application.stopping)(self.waits.of_a_stop());
        Handover::stop(self.waits, superseded)
    }

    fn stop_limit(&self) -> Option<Instant> {
        let undecided = self.handover.as_ref().is_some_and(|handover| !handover.finish.has_superseded());
        undecided.then(|| self.generation.stop_limit(self.application.drain)).flatten()
    }

    /// A successor is there.
    fn welcome(&mut self) {
        while self.handover.is_none() {
            let arrival = match self.generation.try_accept() {
                Some(Ok(arrival)) => arrival,
                Some(Err(_)) | None => return,
            };
            match Giving::new(Arc::clone(&self.generation), arrival) {
                Ok(giving) => self.begin(giving),
                Err(error) => {
                    tracing::error!(event = "hand_over_failed", %error, "cannot hand over");
                    self.generation.no_successor();
                }
            }
        }
    }

    fn begin(&mut self, mut giving: Giving) {
        let limit = self.upgrade.send_along(&mut giving);
        if let Err(error) = self.prepare_for(&giving) {
            // It is told why, and so is whoever asked for the upgrade.
            giving.give_up(error);
            return;
        }
        self.hand_over(Handover::to(giving, self.waits, limit));
    }

    /// All that may be missing later is acquired while a failure costs nothing but this handoff.
    fn prepare_for(&mut self, giving: &Giving) -> Result<()> {
        if self.worker.is_none() && !self.application.hooks.is_empty() {
            let worker = Worker::start(&self.jobs, self.application.surround.clone());
            self.worker = Some(worker.map_err(Error::io("start a thread for the application's state"))?);
        }
        let watched = self.poller.add(giving.poller().as_fd(), SUCCESSOR, Interest::Read);
        watched.map_err(Error::io("watch the successor"))
    }

    fn hand_over(&mut self, mut handover: Handover) {
        if self.proceeding {
            handover.proceed();
        }
        self.told = None;
        self.handover = Some(handover);
        self.watch_arrivals(false);
    }

    /// Goes on giving the service up, until the form has something to do.
    fn go_on(&mut self) -> Option<Duty> {
        let mut handover = self.handover.take()?;
        let duty = self.advance(&mut handover);
        if handover.is_over() {
            self.tell_again = None;
            self.watch_arrivals(true);
        } else {
            self.handover = Some(handover);
        }
        duty
    }

    /// Whoever comes while the service is being given up waits, and wakes nobody.
    fn watch_arrivals(&self, watch: bool) {
        let interest = if watch { Interest::Read } else { Interest::HangUp };
        // It is in the set, so this does not fail.
        let _ = self.poller.change(self.generation.arrivals.as_fd(), ARRIVALS, interest);
    }

    fn advance(&mut self, handover: &mut Handover) -> Option<Duty> {
        self.tell_again = None;
        loop {
            if let Some(duty) = self.carry_out(handover) {
                return Some(duty);
            }
            if self.take_in(handover) {
                continue;
            }
            if handover.finish.is_draining() {
                self.tell_of_drain(handover);
            }
            return None;
        }
    }

    /// What the successor, and whoever looks, are told of a drain: when it changes, and not all the time.
    fn tell_of_drain(&mut self, handover: &mut Handover) {
        let count = (self.application.connections)();
        if self.told.replace(count) != Some(count) {
            match handover.giving() {
                Some(giving) => giving.draining(count as u64),
                None => tracing::debug!(event = "draining", connections = count, "{}", left(count as u64)),
            }
        }
        self.tell_again = Some(Instant::now() + TELL);
    }

    /// Has the application take in what the predecessor has said, one after the other.
    fn absorb(&mut self) {
        self.end_absorbing();
        while self.absorbs && self.absorbing.is_none() {
            match self.generation.try_farewell() {
                Some(Ok(Some(farewell))) => self.give_to_absorb(farewell),
                // The predecessor is gone, and this stays readable for good.
                Some(Ok(None)) => {
                    self.absorbs = false;
                    self.watch_farewells();
                }
                Some(Err(error)) => tracing::error!(event = "farewell_lost", %error, "a farewell is lost"),
                None => return,
            }
        }
    }

    fn give_to_absorb(&mut self, farewell: Received) {
        let Some(absorb) = self.application.hooks.absorb.clone() else { return };
        if self.absorber.is_none() {
            self.absorber = Worker::start(&self.jobs, self.application.surround.clone()).ok();
        }
        match &self.absorber {
            Some(absorber) => {
                let done = absorber.run(move || absorb.call(farewell));
                self.absorbing = Some(Absorbing { done, until: Instant::now() + self.waits.hook });
                self.watch_farewells();
            }
            // No thread is to be had. It is worth more than the time that it takes.
            None => absorb.call(farewell),
        }
    }

    /// One that takes too long is not waited for: this process is not to stay for it for ever.
    fn end_absorbing(&mut self) {
        let Some(absorbing) = &self.absorbing else { return };
        let done = absorbing.done.take().is_some();
        if !done && Instant::now() < absorbing.until {
            return;
        }
        if !done {
            let error = "it was not taken in in time";
            tracing::error!(event = "farewell_lost", %error, "a farewell is lost");
            self.absorber = None;
        }
        self.absorbing = None;
        self.watch_farewells();
    }

    /// Whether nothing of the predecessor's is still to be taken in.
    fn has_absorbed(&self) -> bool {
        !self.generation.has_predecessor() && !self.absorbs && self.absorbing.is_none()
    }

    /// At rest there is no thread.
    fn dismiss_worker(&mut self) {
        if self.handover.is_none() {
            self.worker = None;
        }
        if self.absorbing.is_none() {
            self.absorber = None;
        }
    }

    fn abort_if_late(&self, handover: &mut Handover, now: Instant) -> bool {
        let Some((reason, code)) = handover.late(now) else { return false };
        let Some(giving) = handover.giving() else { return false };
        giving.cut_short(code, reason);
        true
    }
}

/// Why a handoff is given up that takes too long.
type Late = (&'static str, ErrorCode);

/// What an upgrade's time limit and the word *stop* say to a successor that is not ready.
const TOO_LATE: Late = ("the upgrade's time is over, and the new process is not ready", ErrorCode::Timeout);
const STOPPED: Late = ("the service was told to stop", ErrorCode::Application);
