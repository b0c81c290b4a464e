//! Processes: credentials and pidfds.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};

/// A pidfd of this process. See `pidfd_open(2)`, Linux 5.3.
pub(crate) fn own_pidfd() -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?)
}

/// A pidfd of the process with this id in our pid namespace.
pub(crate) fn pidfd_of(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Whether the process behind a pidfd is dead: it polls readable, see `pidfd_open(2)`.
pub(crate) fn is_dead(pidfd: BorrowedFd<'_>) -> bool {
    super::event::is_readable(pidfd)
}

/// Kills the process behind a pidfd. It fails where that process is in a pid namespace that is not ours or
/// below ours, and where it is another user's.
pub(crate) fn kill(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::process::pidfd_send_signal(pidfd, Signal::KILL)?)
}

/// `CLOCK_MONOTONIC`, which is the same in every process of one time namespace.
pub(crate) fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}
