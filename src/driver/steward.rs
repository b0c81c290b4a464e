//! What a service does besides serving: it hears signals and requests, starts the new process at an upgrade, sees to
//! its end, and says when a successor is there. Shared by the blocking and the tokio form; nothing here waits.

use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::SignalKind;
use super::launch::Launch;
use super::signals::Signals;
use crate::core::wire::News;
use crate::driver::child::Spawned;
use crate::driver::generation::{Asker, Generation, Request};
use crate::driver::giving::Giving;
use crate::error::{Error, Result};
use crate::state::{Received, caught};
use crate::sys::event::{Interest, Poller};
use crate::sys::{limits, process};

const ARRIVALS: u64 = 0;
const REQUESTS: u64 = 1;
const UPGRADE: u64 = 2;
const STOP: u64 = 3;
const CHILD: u64 = 4;
const FAREWELLS: u64 = 5;

/// What makes a service upgrade and stop, and how the new process is started.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) upgrade_on: Vec<SignalKind>,
    pub(crate) stop_on: Vec<SignalKind>,
    pub(crate) launch: Launch,
}

#[derive(Debug)]
pub(crate) struct Steward {
    generation: Arc<Generation>,
    poller: Arc<Poller>,
    upgrade: Signals,
    stop: Signals,
    launch: Launch,
    /// The new process of an upgrade, until it asks for the service.
    child: Option<Child>,
    /// By when the new process has to be ready.
    limit: Option<Instant>,
    /// Whether the predecessor's farewells are read here.
    absorbs: bool,
    stopping: bool,
}

#[derive(Debug)]
struct Child {
    spawned: Spawned,
    pidfd: Option<OwnedFd>,
}

/// What the driver has to do.
#[derive(Debug)]
pub(crate) enum Duty {
    /// Hand over to this successor.
    HandOver(Box<Giving>),
    /// Take this farewell of the predecessor.
    Absorb(Received),
    /// Stop serving.
    Stop,
}

impl Steward {
    /// Catches the signals from here on.
    pub(crate) fn prepare(operation: Operation) -> Result<Unappointed> {
        let poller = Poller::new().map_err(Error::io("make an epoll descriptor"))?;
        let catch = |kinds: &[SignalKind], token| {
            let signals = Signals::new(kinds)?;
            poller.add(signals.as_fd(), token, Interest::Read).map_err(Error::io("watch for signals"))?;
            Ok::<_, Error>(signals)
        };
        let upgrade = catch(&operation.upgrade_on, UPGRADE)?;
        let stop = catch(&operation.stop_on, STOP)?;
        Ok(Unappointed { poller, upgrade, stop, launch: operation.launch })
    }

    pub(crate) fn poller(&self) -> &Arc<Poller> {
        &self.poller
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.limit
    }

    /// Does all that can be done now. `None`: wait for the poller or the deadline, then ask again.
    // M93
    pub(crate) fn poll(&mut self) -> Option<Duty> {
        self.hear();
        if self.stopping {
            self.give_upgrade_up();
            return Some(Duty::Stop);
        }
        while let Some(giving) = self.generation.try_accept() {
            match giving {
                Ok(giving) => return Some(Duty::HandOver(Box::new(self.send_child_along(giving)))),
                Err(Error::Closed) => {
                    self.give_upgrade_up();
                    return Some(Duty::Stop);
                }
                Err(error) => tracing::error!(event = "hand_over_failed", %error, "cannot hand over"),
            }
        }
        if let Some(farewell) = self.farewell() {
            return Some(Duty::Absorb(farewell));
        }
        self.look_after_child();
        None
    }

    /// From here on the predecessor's farewells are this application's, rather than passed on unread.
    pub(crate) fn absorb_farewells(&mut self) -> Result<()> {
        let watched = self.poller.add(self.generation.farewells.as_fd(), FAREWELLS, Interest::Read);
        self.absorbs = true;
        watched.map_err(Error::io("watch for the predecessor's farewells"))
    }

    /// The next of the predecessor's farewells.
    pub(crate) fn farewell(&mut self) -> Option<Received> {
        while self.absorbs {
            match self.generation.try_farewell()? {
                Ok(Some(farewell)) => return Some(farewell),
                Ok(None) => {
                    // The predecessor is gone, and this stays readable for good.
                    self.poller.remove(self.generation.farewells.as_fd());
                    self.absorbs = false;
                }
                Err(error) => tracing::error!(event = "farewell_lost", %error, "a farewell is lost"),
            }
        }
        None
    }

    /// Takes signals and requests.
    fn hear(&mut self) {
        if self.stop.came() {
            self.generation.ask_stop();
        }
        if self.upgrade.came() {
            if let Err(busy) = self.generation.ask_upgrade(None, Asker::Nobody) {
                let generation = self.generation.number;
                tracing::warn!(event = "busy", generation, reason = %busy, "a signal asked for an upgrade in vain");
            }
        }
        while let Some(request) = self.generation.try_request() {
            match request {
                Request::Stop => self.stopping = true,
                Request::Upgrade(timeout) => self.begin_upgrade(timeout),
            }
        }
    }

    fn begin_upgrade(&mut self, timeout: Option<Duration>) {
        // That of an upgrade before, which was turned away and has not ended.
        self.dismiss_child();
        let timeout = timeout.unwrap_or(self.generation.config.timeouts.ready);
        self.limit = Instant::now().checked_add(timeout);
        {
            let board = self.generation.board();
            // Somebody has started a new process in the meantime: it is that of the upgrade, or was.
            if board.upgrade.is_none() || board.successor.is_some() {
                return;
            }
        }
        let Some(command) = self.command() else {
            tracing::info!(
                event = "awaited",
                generation = self.generation.number,
                "waiting for a new process to take over"
            );
            let message = "waiting for the new process: start it now".to_owned();
            return self.generation.tell(News::Awaited, None, None, message);
        };
        // Held while the child is started: its table is then made with room for what it opens itself.
        let named = self.generation.board().named.count();
        let _wide = limits::widen_table(named, 0);
        let started = command.and_then(|mut command| Spawned::start(&mut command).map_err(|error| error.to_string()));
        match started {
            Ok(spawned) => self.started(spawned),
            Err(reason) => {
                let generation = self.generation.number;
                tracing::error!(event = "spawn_failed", generation, %reason, "cannot upgrade");
                self.limit = None;
                self.generation.upgrade_failed(0, &reason);
            }
        }
    }

    /// What to start; `None` where somebody else does.
    fn command(&mut self) -> Option<Result<Command, String>> {
        match &mut self.launch {
            // A process 1 takes every other one of its pid namespace with it when it ends.
            Launch::Itself(_) if std::process::id() == 1 => None,
            Launch::Itself(program) => Some(Ok(program.command())),
            Launch::Command(make) => Some(caught(make.get_mut().unwrap_or_else(PoisonError::into_inner))),
            Launch::Elsewhere => None,
        }
    }

    fn started(&mut self, spawned: Spawned) {
        let pid = spawned.pid();
        let generation = self.generation.number;
        tracing::info!(event = "spawned", generation, successor = pid, "started the new process");
        self.generation.tell(News::Spawned, Some(pid), None, format!("started process {pid}"));
        let pidfd = i32::try_from(pid).ok().and_then(|pid| process::pidfd_of(pid).ok());
        if let Some(pidfd) = &pidfd {
            if let Err(error) = self.poller.add(pidfd.as_fd(), CHILD, Interest::Read) {
                // Its end is then found at the deadline.
                tracing::error!(event = "watch_failed", %error, "cannot watch the new process");
            }
        }
        self.child = Some(Child { spawned, pidfd });
    }

    /// The handoff is that of the upgrade, if there is one: with its process, which is ended if the handoff fails, and
    /// its deadline.
    fn send_child_along(&mut self, mut giving: Giving) -> Giving {
        if let Some(limit) = self.limit.take() {
            giving.limit(limit);
        }
        if let Some(child) = self.take_child() {
            giving.with_child(child.spawned);
        }
        giving
    }

    /// Ends an upgrade whose new process died, is late, or was turned away.
    fn look_after_child(&mut self) {
        if !self.generation.board().desk().upgrading {
            // What turned it away has said so.
            self.limit = None;
            return self.dismiss_child();
        }
        let late = self.limit.is_some_and(|limit| limit <= Instant::now());
        let died = self.child.as_ref().is_some_and(Child::is_dead);
        if !late && !died {
            return;
        }
        self.limit = None;
        let pid = self.child.as_ref().map_or(0, |child| child.spawned.pid());
        let reason = match self.take_child() {
            Some(child) if died => child.spawned.epitaph(),
            Some(child) => {
                child.spawned.end_in_background(self.generation.config.timeouts.end);
                format!("process {pid} did not ask for the service in time")
            }
            None => "nobody asked for the service in time".to_owned(),
        };
        let (generation, successor) = (self.generation.number, pid);
        tracing::error!(event = "upgrade_failed", generation, successor, %reason, "the upgrade failed");
        self.generation.upgrade_failed(pid, &reason);
    }

    /// The service stops: whoever waits for the outcome of an upgrade hears that there will be none.
    fn give_upgrade_up(&mut self) {
        self.limit = None;
        let pid = self.child.as_ref().map_or(0, |child| child.spawned.pid());
        self.dismiss_child();
        if self.generation.board().desk().upgrading {
            self.generation.upgrade_failed(pid, "the service was told to stop");
        }
    }

    fn dismiss_child(&mut self) {
        if let Some(child) = self.take_child() {
            child.spawned.end_in_background(self.generation.config.timeouts.end);
        }
    }

    fn take_child(&mut self) -> Option<Child> {
        let child = self.child.take()?;
        if let Some(pidfd) = &child.pidfd {
            self.poller.remove(pidfd.as_fd());
        }
        Some(child)
    }
}

impl Child {
    fn is_dead(&self) -> bool {
        self.pidfd.as_ref().is_some_and(|pidfd| process::is_dead(pidfd.as_fd()))
    }
}

/// A steward without a generation: it catches signals already, so that none ends a process that is about to serve.
#[derive(Debug)]
pub(crate) struct Unappointed {
    poller: Poller,
    upgrade: Signals,
    stop: Signals,
    launch: Launch,
}

impl Unappointed {
    /// From here on requests are taken.
    pub(crate) fn appoint(self, generation: Arc<Generation>) -> Result<Steward> {
        let Unappointed { poller, upgrade, stop, launch } = self;
        let watched = poller
            .add(generation.arrivals.as_fd(), ARRIVALS, Interest::Read)
            .and_then(|()| poller.add(generation.requests.as_fd(), REQUESTS, Interest::Read));
        watched.map_err(Error::io("watch for successors"))?;
        let poller = Arc::new(poller);
        Ok(Steward {
            generation,
            poller,
            upgrade,
            stop,
            launch,
            child: None,
            limit: None,
            absorbs: false,
            stopping: false,
        })
    }
}
