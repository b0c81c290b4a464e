//! Processes: credentials and pidfds.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
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

/// The ids of the process behind a pidfd: in our pid namespace (0 where it is not in there), and in each one below that
/// it is in, up to its own. Nothing where it is dead, or where there is no `/proc`. See `NSpid` in `proc_pid_status(5)`.
pub(crate) fn ids(pidfd: BorrowedFd<'_>) -> Option<Vec<u32>> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let line = |name| info.lines().find_map(|line| line.strip_prefix(name));
    // A kernel without pid namespaces has the second alone.
    let ids = line("NSpid:").or_else(|| line("Pid:"))?;
    ids.split_whitespace().map(|id| id.parse().ok()).collect()
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
