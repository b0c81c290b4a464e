//! The facade: a whole service in a few lines. It keeps the named sockets, hears signals and the control socket, starts
//! the new process at an upgrade, and stops accepting, drains and exits when that one has taken over.

mod announcer;
pub(crate) mod blocking;
mod connection;
pub mod form;
mod handle;
mod heartbeat;
mod inheritance;
mod keeper;
pub(crate) mod registry;
mod starting;
#[cfg(feature = "tokio")]
pub mod tokio;

use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

pub(crate) use announcer::Announcer;
pub use heartbeat::Heartbeat;
pub use keeper::{Keeper, KeeperEvent, KeptSince, RunningKeeper};

use crate::config::{Config, FOREVER};
use crate::driver::SignalKind;
use crate::driver::launch::{Launch, OwnProgram};
use crate::driver::steward::Operation;
use crate::error::{Error, Result};
#[cfg(feature = "systemd")]
use crate::sys::passed::passed;

/// What a process that has stopped accepting is to do when its connections have ended, or its successor was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Finish {
    /// Exit: the successor serves, or the service was told to stop.
    Exit,
    /// Accept again: the successor is lost, and the service is this process's.
    Resume,
}

/// How long the drain deadline that the successor is told of lies beyond this process's own: the farewell is said at
/// the end of the drain, and has to arrive.
const FAREWELL_ALLOWANCE: Duration = Duration::from_secs(2);

/// How a service is to be run; `H` is what it becomes, [`Handoff`](crate::Handoff) or [`tokio::Handoff`][on-tokio].
///
#[cfg_attr(feature = "tokio", doc = "[on-tokio]: crate::tokio::Handoff")]
#[cfg_attr(not(feature = "tokio"), doc = "[on-tokio]: crate#features")]
#[derive(Debug)]
pub struct HandoffBuilder<H> {
    config: Config,
    operation: Operation,
    announcer: Announcer,
    passed: std::io::Result<Vec<(String, OwnedFd)>>,
    form: PhantomData<fn() -> H>,
}

/// A builder that has become what it was to build.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) operation: Operation,
    pub(crate) announcer: Announcer,
    /// How long this process may drain.
    pub(crate) drain: Duration,
    /// What whoever started this process has passed to it.
    pub(crate) passed: Vec<(String, OwnedFd)>,
}

impl<H> HandoffBuilder<H> {
    /// What was passed is taken here, so that no child gets it from here on.
    pub(crate) fn new(config: Config) -> HandoffBuilder<H> {
        let launch = Launch::Itself(OwnProgram::as_started());
        let operation = Operation { upgrade_on: Vec::new(), stop_on: Vec::new(), launch };
        HandoffBuilder { config, operation, announcer: Announcer::default(), passed: passed(), form: PhantomData }
    }

    /// A signal that asks for an upgrade. Default: none; the control socket and
    /// [`Handle::upgrade`](crate::Handle::upgrade) always can.
    #[must_use]
    pub fn upgrade_on(mut self, signal: SignalKind) -> Self {
        self.operation.upgrade_on.push(signal);
        self
    }

    /// A signal that stops the service. Default: none; the control socket and
    /// [`Handle::stop`](crate::Handle::stop) always can.
    ///
    /// It is heard from `start` on, also as process 1. A process that still initialises ends, as a program does that
    /// does not catch the signal, and its predecessor hears why. One that drains goes on, and ends at once when it is told
    /// a second time. After [`Finish::Exit`] the signal does what it does by default.
    #[must_use]
    pub fn stop_on(mut self, signal: SignalKind) -> Self {
        self.operation.stop_on.push(signal);
        self
    }

    /// The command that starts the new process at an upgrade: called each time, so that program, arguments,
    /// environment and working directory may differ. Give it no `pre_exec`: as long as it has none, its start costs the
    /// same however large this process is (`posix_spawn(3)`).
    ///
    /// Default: this program by the path that it was started by, looked up anew, with the same arguments from the same
    /// working directory, and with this process's environment. So a binary that was replaced on disk is the new one.
    ///
    /// Nothing need be inherited: the new process finds the service at the control socket.
    #[must_use]
    pub fn successor(mut self, command: impl FnMut() -> Command + Send + 'static) -> Self {
        self.operation.launch = Launch::Command(Mutex::new(Box::new(command)));
        self
    }

    /// The new process is started by somebody else: a service manager, a container runtime, an operator. An upgrade
    /// that is asked for waits for it. This is what a process does whose own end would take the successor along, unless
    /// [`HandoffBuilder::successor`] says what to start: one with the id 1, one that `tini`, `docker-init`, `dumb-init` or
    /// `catatonit` runs, one whose parent is outside of its pid namespace, and one that a container runtime has started in a pid namespace
    /// that it shares (`--pid host`). See `pid_namespaces(7)`.
    #[must_use]
    pub fn successor_elsewhere(mut self) -> Self {
        self.operation.launch = Launch::Elsewhere;
        self
    }

    /// A file with the process id of the generation that serves. It is written when that generation serves, by
    /// `rename(2)`, and removed when the service stops. Default: none.
    #[must_use]
    pub fn pidfile(mut self, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        // The application may change its directory.
        self.announcer.pidfile = Some(std::path::absolute(&path).unwrap_or(path));
        self
    }

    /// How long a process that was replaced or told to stop may drain; what is left of its connections then ends with
    /// it. Default: 30 s, see [`Timeouts::drain`](crate::Timeouts).
    #[must_use]
    pub fn drain(mut self, drain: Duration) -> Self {
        self.config = self.config.timeouts(|timeouts| timeouts.drain = drain);
        self
    }

    pub(crate) fn plan(self) -> Result<(Config, Plan)> {
        let passed = self.passed.map_err(Error::io("take the sockets of LISTEN_FDS"))?;
        let drain = self.config.timeouts.drain.min(FOREVER);
        let allowed = drain.saturating_add(FAREWELL_ALLOWANCE);
        let config = self.config.timeouts(|timeouts| timeouts.drain = allowed);
        Ok((config, Plan { operation: self.operation, announcer: self.announcer, drain, passed }))
    }
}

/// Nobody asks for what a service manager passes.
#[cfg(not(feature = "systemd"))]
fn passed() -> std::io::Result<Vec<(String, OwnedFd)>> {
    Ok(Vec::new())
}
