//! Processes: credentials and pidfds.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};

use super::limits::opening;

/// A pidfd of this process. See `pidfd_open(2)`, Linux 5.3. Where that call is forbidden, a socket whose other end is ours has
/// one, too.
pub(crate) fn own_pidfd() -> io::Result<OwnedFd> {
    opening(|| match rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()) {
        Ok(pidfd) => Ok(pidfd),
        Err(rustix::io::Errno::MFILE) => Err(rustix::io::Errno::MFILE.into()),
        Err(_) => super::socket::peer_pidfd(&UnixStream::pair()?.0),
    })
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
    // The kernel knows this clock, and the C library where to read it.
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// Kills a child that nobody has reaped, so that its id is its own, and reaps it.
pub(crate) fn kill_child(pid: u32) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    rustix::process::kill_process(pid, Signal::KILL)?;
    rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())?;
    Ok(())
}

/// Whether this process is the first of its pid namespace: the kernel ends all others with it, and keeps from it the
/// signals that it does not catch. See `pid_namespaces(7)`.
pub(crate) fn is_init() -> bool {
    std::process::id() == 1
}

/// Whether a signal does what it does in a program that does not know of it. See `sigaction(2)`.
#[allow(unsafe_code)]
pub(crate) fn has_default_action(signal: i32) -> io::Result<bool> {
    let mut current = std::mem::MaybeUninit::<nix::libc::sigaction>::zeroed();
    // SAFETY: without a new action the call only writes the current one to where the pointer leads.
    let result = unsafe { nix::libc::sigaction(signal, std::ptr::null(), current.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has written it, and zeroes are one as well.
    Ok(unsafe { current.assume_init() }.sa_sigaction == nix::libc::SIG_DFL)
}
