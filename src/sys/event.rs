//! Waiting: `epoll(7)`, `poll(2)` and `eventfd(2)`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::limits::opening;

/// A set of descriptors to wait for, which is itself a descriptor that one can wait for.
#[derive(Debug)]
pub(crate) struct Poller(Epoll);

impl Poller {
    pub(crate) fn new() -> io::Result<Poller> {
        opening(|| Ok(Poller(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?)))
    }

    /// Waits for `fd` to be ready as `interest` says, or closed by the peer. Level-triggered.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(interest.flags(), token))?)
    }

    pub(crate) fn change(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        Ok(self.0.modify(fd, &mut EpollEvent::new(interest.flags(), token))?)
    }

    /// Has to come before `fd` is closed wherever another process may hold the same description: the kernel
    /// would go on reporting it.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) {
        // It fails only where the descriptor is not in the set, which is what is wanted.
        let _ = self.0.delete(fd);
    }

    /// The tokens that are ready now.
    pub(crate) fn ready(&self) -> io::Result<Vec<u64>> {
        let mut events = [EpollEvent::empty(); 64];
        let count = self.0.wait(&mut events, EpollTimeout::ZERO)?;
        Ok(events[..count].iter().map(EpollEvent::data).collect())
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

impl AsRawFd for Poller {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    Read,
    Write,
    Both,
    /// Only to be told that the peer has closed, which the kernel always tells.
    HangUp,
}

impl Interest {
    fn flags(self) -> EpollFlags {
        match self {
            Interest::Read => EpollFlags::EPOLLIN,
            Interest::Write => EpollFlags::EPOLLOUT,
            Interest::Both => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
            Interest::HangUp => EpollFlags::empty(),
        }
    }
}

/// A count that one can wait for: readable while it is above zero.
#[derive(Debug)]
pub(crate) struct Signal(EventFd);

impl Signal {
    pub(crate) fn new() -> io::Result<Signal> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_SEMAPHORE;
        Ok(Signal(EventFd::from_value_and_flags(0, flags)?))
    }

    /// Counts one up.
    pub(crate) fn raise(&self) {
        // It fails only when 2^64 - 2 raises were not taken, and then it is readable all the same.
        let _ = self.0.write(1);
    }

    /// Counts one down, if there is one.
    pub(crate) fn lower(&self) {
        let _ = self.0.read();
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Blocks until one of `fds` is readable or hung up, or the deadline passes. Which of them is found out by
/// trying.
pub(crate) fn wait_readable(fds: &[BorrowedFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    match nix::poll::poll(&mut polled, timeout(deadline)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether `fd` is readable now.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(fd, PollFlags::POLLIN)];
    matches!(nix::poll::poll(&mut polled, PollTimeout::ZERO), Ok(count) if count > 0)
}

/// Whether the peer of a stream has closed it for reading as well as for writing.
pub(crate) fn is_hung_up(stream: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::empty())];
    let found = nix::poll::poll(&mut polled, PollTimeout::ZERO);
    matches!(found, Ok(count) if count > 0)
        && polled[0].revents().is_some_and(|found| found.contains(PollFlags::POLLHUP))
}

/// Rounded up to a millisecond, so that a wait never ends just before its deadline and spins.
fn timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now());
    let millis = left.as_nanos().div_ceil(1_000_000);
    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
}
