//! An upgrade that was asked for, until its new process asks for the service: that process is started, and seen to.

use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::CHILD;
use crate::core::wire::News;
use crate::driver::child::{LOOK_AGAIN, Spawned};
use crate::driver::generation::Generation;
use crate::driver::giving::Giving;
use crate::driver::launch::{Launch, takes_children_along};
use crate::state::caught;
use crate::sys::event::{Interest, Poller};
use crate::sys::limits;

#[derive(Debug)]
pub(super) struct Upgrade {
    generation: Arc<Generation>,
    poller: Arc<Poller>,
    launch: Launch,
    /// The new process, until it asks for the service.
    child: Option<Child>,
    /// By when it has to be ready.
    limit: Option<Instant>,
}

#[derive(Debug)]
struct Child {
    spawned: Spawned,
    pidfd: Option<OwnedFd>,
}

/// Where the new process is started.
enum Started {
    Here(Result<Command, String>),
    /// By somebody else, and what is to be said of that.
    Elsewhere(String),
}

impl Upgrade {
    pub(super) fn new(generation: Arc<Generation>, poller: Arc<Poller>, launch: Launch) -> Upgrade {
        Upgrade { generation, poller, launch, child: None, limit: None }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let unwatched = self.child.as_ref().is_some_and(|child| child.pidfd.is_none());
        let look = unwatched.then(|| Instant::now() + LOOK_AGAIN);
        self.limit.into_iter().chain(look).min()
    }

    pub(super) fn begin(&mut self, timeout: Option<Duration>) {
        // That of an upgrade before, which was turned away and has not ended.
        self.dismiss_child();
        let timeout = timeout.unwrap_or(self.generation.config.timeouts.ready);
        if let Some(lost) = self.generation.path_lost() {
            return self.cannot_begin(&format!("a new process would not find this one by the control path: {lost}"));
        }
        self.limit = Instant::now().checked_add(timeout);
        let command = match self.command() {
            Started::Here(command) => command,
            Started::Elsewhere(why) => return self.await_successor(&why),
        };
        // Held while the child is started: its table is then made with room for what it opens itself.
        let _wide = limits::widen_table(self.generation.named(), 0);
        let started = command.and_then(|mut command| Spawned::start(&mut command).map_err(|error| error.to_string()));
        match started {
            Ok(spawned) => self.started(spawned),
            Err(reason) => self.cannot_begin(&reason),
        }
    }

    // M133
    fn cannot_begin(&mut self, reason: &str) {
        let generation = self.generation.number;
        tracing::error!(event = "spawn_failed", generation, reason, "cannot upgrade");
        self.limit = None;
        self.generation.upgrade_failed(0, reason);
    }

    fn command(&mut self) -> Started {
        match &mut self.launch {
            Launch::Itself(program) => match takes_children_along() {
                Some(why) => Started::Elsewhere(format!(", from elsewhere: {why}")),
                None => Started::Here(Ok(program.command())),
            },
            Launch::Command(make) => Started::Here(caught(make.get_mut().unwrap_or_else(PoisonError::into_inner))),
            Launch::Elsewhere => Started::Elsewhere(String::new()),
        }
    }

    fn await_successor(&self, why: &str) {
        let generation = self.generation.number;
        tracing::info!(event = "awaited", generation, "waiting for a new process to take over{why}");
        let message = format!("waiting for the new process: start it now{why}");
        self.generation.tell(News::Awaited, None, None, message);
    }

    fn started(&mut self, spawned: Spawned) {
        let pid = spawned.pid();
        let generation = self.generation.number;
        tracing::info!(event = "spawned", generation, successor = pid, "started the new process");
        self.generation.tell(News::Spawned, Some(pid), None, format!("started process {pid}"));
        let pidfd = spawned.pidfd();
        if let Some(pidfd) = &pidfd {
            if let Err(error) = self.poller.add(pidfd.as_fd(), CHILD, Interest::Read) {
                // Its end is then found at the deadline.
                tracing::error!(event = "watch_failed", %error, "cannot watch the new process");
            }
        }
        self.child = Some(Child { spawned, pidfd });
    }

    /// A successor has asked for the service. The handoff is that of the upgrade, if there is one: with its process, which
    /// is ended if the handoff fails, and its deadline, which this returns.
    pub(super) fn send_along(&mut self, giving: &mut Giving) -> Option<Instant> {
        if let Some(child) = self.take_child() {
            giving.with_child(child.spawned);
        }
        self.limit.take()
    }

    /// Ends an upgrade whose new process died, is late, or was turned away.
    pub(super) fn look_after_child(&mut self) {
        if !self.generation.desk().upgrading {
            // What turned it away has said so.
            self.limit = None;
            return self.dismiss_child();
        }
        let late = self.limit.is_some_and(|limit| limit <= Instant::now());
        let died = self.child.as_mut().is_some_and(|child| child.spawned.has_ended());
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
    pub(super) fn give_up(&mut self) {
        self.limit = None;
        let pid = self.child.as_ref().map_or(0, |child| child.spawned.pid());
        self.dismiss_child();
        if self.generation.awaits_successor() {
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
