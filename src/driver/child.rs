//! A successor that this process starts itself: if it does not take the service, it is ended and reaped.

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::error::{Error, Result};
use crate::sys::event::wait_readable;
use crate::sys::{limits, process};

/// How often to look after a child where the kernel lets nobody wait for its end (`pidfd_open(2)` is forbidden).
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A successor process that this one has started.
///
/// Nothing is inherited: it connects to the control socket like any other. Hand it to
/// [`Successor::with_child`](crate::Successor::with_child) once it has connected, and it is ended and reaped if the
/// handoff fails. Dropped, it is left to itself.
#[derive(Debug)]
pub struct Spawned(Child);

/// What a service manager has said to this process alone: which descriptors it has passed (`sd_listen_fds(3)`), and who has to
/// give signs of life (`sd_watchdog_enabled(3)`).
const SAID_TO_ONE: [&str; 5] = ["LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// Unless the application wants to tell the new process something of the kind.
fn forget_what_was_said_to_us(command: &mut Command) {
    for variable in SAID_TO_ONE {
        if !command.get_envs().any(|(name, _)| name == variable) {
            command.env_remove(variable);
        }
    }
}

impl Spawned {
    /// Starts it. As long as the command has no `pre_exec`, the cost does not grow with this process: the standard
    /// library then uses `posix_spawn(3)`. What a service manager has said to this process alone (`LISTEN_PID`, `LISTEN_FDS`,
    /// `LISTEN_FDNAMES`, `WATCHDOG_PID`) is not in its environment, unless the command says so.
    ///
    /// # Errors
    ///
    /// Where the program cannot be started: it does not exist, or is not executable.
    pub fn start(command: &mut Command) -> Result<Spawned> {
        let program = command.get_program().to_string_lossy().into_owned();
        forget_what_was_said_to_us(command);
        limits::opening(|| command.spawn()).map(Spawned).map_err(Error::io(format!("start {program}")))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Asks it to end (SIGTERM), kills it (SIGKILL) if it has not after `grace`, and reaps it. Blocks as long as
    /// that takes.
    ///
    /// # Errors
    ///
    /// What `wait(2)` says.
    pub fn end(self, grace: Duration) -> Result<ExitStatus> {
        self.ask_to_end();
        self.see_end(grace)
    }

    /// Sees to it that one that was asked to end does, and reaps it.
    fn see_end(mut self, grace: Duration) -> Result<ExitStatus> {
        let ended = self.ends_within(grace);
        if !ended {
            tracing::warn!(
                event = "killed",
                successor = self.pid(),
                "the successor does not end when asked to; killing it"
            );
            // It fails only for a process that is dead.
            let _ = self.0.kill();
        }
        self.0.wait().map_err(Error::io("wait for the successor to end"))
    }

    /// How it ended, for people; it is dead, and reaped here.
    pub(crate) fn epitaph(mut self) -> String {
        let pid = self.pid();
        match self.0.wait() {
            Ok(status) => format!("process {pid} ended ({status}) before it asked for the service"),
            Err(error) => format!("process {pid} ended before it asked for the service ({error})"),
        }
    }

    fn ask_to_end(&self) {
        // The id is its own until it is reaped.
        if let Ok(pid) = i32::try_from(self.pid()) {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    /// A descriptor that is readable once it is dead, where the kernel lets one have it.
    pub(crate) fn pidfd(&self) -> Option<OwnedFd> {
        let pid = i32::try_from(self.pid()).ok()?;
        limits::opening(|| process::pidfd_of(pid)).ok()
    }

    /// Whether it is dead; it is reaped then.
    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(Some(_)))
    }

    /// Returns whether it was dead in time.
    fn ends_within(&mut self, grace: Duration) -> bool {
        let pidfd = self.pidfd();
        let deadline = Instant::now().checked_add(grace);
        while !self.has_ended() {
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return false;
            }
            match &pidfd {
                Some(pidfd) => drop(wait_readable(&[pidfd.as_fd()], deadline)),
                None => std::thread::sleep(LOOK_AGAIN),
            }
        }
        true
    }

    /// Asks it to end at once, since this process may be about to exit, and sees to it on a thread of its own.
    pub(crate) fn end_in_background(self, grace: Duration) {
        let pid = self.pid();
        self.ask_to_end();
        let end = move || match self.see_end(grace) {
            Ok(status) => {
                tracing::info!(event = "ended", successor = pid, %status, "ended what did not take the service")
            }
            Err(error) => tracing::error!(event = "end_failed", successor = pid, %error, "cannot reap the successor"),
        };
        if let Err(error) = std::thread::Builder::new().name("fd-handoff-end".to_owned()).spawn(end) {
            // No thread is to be had, so there is no time to give it.
            tracing::warn!(event = "no_thread", successor = pid, %error, "no thread can see to the successor's end; killing it");
            if let Err(error) = process::kill_child(pid) {
                tracing::error!(event = "end_failed", successor = pid, %error, "cannot end the successor");
            }
        }
    }
}
