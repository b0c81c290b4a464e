//! RLIMIT_NOFILE: the limit of open files, and what is kept in reserve for when it is reached.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Room for what a process opens besides: the control connection, state, pidfds, log files, new connections.
const SPARE: u64 = 32;

/// What a new generation opens until it serves: signals, a control socket's background, the states.
pub(crate) const OWN: u64 = 16;

/// A handoff of so many makes no table grow: it has room for 64 at the least.
const FEW: u64 = 32;

/// By how much the soft limit is raised when it is reached.
const STEP: u64 = 64;

/// How many descriptors are needed and how many are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooFewFiles {
    pub(crate) needed: u64,
    pub(crate) hard: u64,
}

/// Makes room for `more` descriptors beside those that are open: raises the soft limit, up to the hard one, as far as that
/// is needed and allowed. Where nobody can say how many are open, or what the limits are, it is for the kernel to refuse
/// what is too much.
///
/// # Errors
///
/// They certainly do not fit.
pub(crate) fn make_room(more: u64) -> Result<(), TooFewFiles> {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Ok(()) };
    let open = open_files().ok();
    let wanted = open.unwrap_or(soft) + more + SPARE;
    if wanted > soft {
        // Where it is forbidden, what is too much is found out one by one.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard);
    }
    match open.map(|open| open + more + OWN) {
        Some(needed) if needed > hard => Err(TooFewFiles { needed, hard }),
        _ => Ok(()),
    }
}

/// Raises the soft limit to so many beside a few, as far as the hard one lets it.
pub(crate) fn allow(many: u64) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if many + SPARE > soft && soft < hard {
        // A precaution: the kernel says where it is too little.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(many + SPARE), hard);
    }
}

/// Opens what a handoff needs, also where the limit of open files is reached: the soft limit is raised if it can be, or else
/// some of the reserve is spent.
pub(crate) fn opening<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match open() {
            Err(error) if is_at_limit(&error) && (raise() || spend(0)) => {}
            opened => return opened,
        }
    }
}

/// Sees to it that there is room for one descriptor that arrives in a message: where there is none, the kernel drops it, and
/// nobody gets it back. See `MSG_CTRUNC` in `recvmsg(2)`.
pub(crate) fn make_room_for_one() {
    // Another thread may take it in the meantime; the next message finds another one.
    let _ = opening(|| another(kept().fds.first()));
}

/// Whether a call failed because this process has as many descriptors open as it may. See `EMFILE` in `open(2)`.
pub(crate) fn is_at_limit(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::EMFILE)
}

/// Raises the soft limit if the hard one lets it.
pub(crate) fn raise() -> bool {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return false };
    soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard.min(soft + STEP), hard).is_ok()
}

/// Descriptors that stand for nothing, kept so that a process at its limit of open files can close some and open what it
/// needs to be asked, upgraded and stopped. The limit is the process's, and so is the reserve: services share it.
#[derive(Debug)]
pub(crate) struct Reserve(());

#[derive(Debug)]
struct Kept {
    fds: Vec<OwnedFd>,
    /// How many services share it.
    services: usize,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept { fds: Vec::new(), services: 0 });

impl Reserve {
    /// How many are kept, where there is room.
    const SIZE: usize = 24;

    /// Begins to keep one, until this is dropped.
    pub(crate) fn keep() -> Reserve {
        kept().services += 1;
        let reserve = Reserve(());
        reserve.refill();
        reserve
    }

    /// Takes back what was spent, as far as there is room by now. Returns how many there are.
    pub(crate) fn refill(&self) -> usize {
        let mut kept = kept();
        while kept.fds.len() < Reserve::SIZE {
            match another(kept.fds.first()) {
                Ok(fd) => kept.fds.push(fd),
                Err(_) => break,
            }
        }
        kept.fds.len()
    }
}

/// Closes one of the reserve, if that leaves so many.
pub(crate) fn spend(left: usize) -> bool {
    let mut kept = kept();
    kept.fds.len() > left && kept.fds.pop().is_some()
}

impl Drop for Reserve {
    fn drop(&mut self) {
        let mut kept = kept();
        kept.services -= 1;
        if kept.services == 0 {
            kept.fds.clear();
        }
    }
}

fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number in the table is all that it takes: they share one description.
fn another(one: Option<&OwnedFd>) -> io::Result<OwnedFd> {
    match one {
        Some(fd) => Ok(rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 0)?),
        None => Ok(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?.into()),
    }
}

/// Grows the table of descriptors at once by what `more` of them and a new generation's own need, where many are handed
/// over: `handed` says how many in all. By itself it doubles as they come, and each time that a process with threads grows
/// its table, the kernel waits for every processor to pass through the scheduler (`expand_fdtable` in `fs/file.c`): 8 to
/// 24 ms as seen on Linux 6.18.
///
/// The table keeps its size, and nothing is done where it is large enough. A child's is as large as its parent's open
/// descriptors make it, so what is returned is to be held while one is started.
pub(crate) fn widen_table(handed: u64, more: u64) -> Option<OwnedFd> {
    if handed <= FEW {
        return None;
    }
    // Where this fails, the table still grows by itself.
    let last = i32::try_from(open_files().ok()? + more + OWN).ok()?;
    let any = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).ok()?;
    rustix::io::fcntl_dupfd_cloexec(any.as_fd(), last).ok()
}

/// How many descriptors this process has open. Since Linux 6.2 the size of /proc/self/fd says so.
fn open_files() -> io::Result<u64> {
    let size = std::fs::metadata("/proc/self/fd")?.len();
    if size > 0 {
        return Ok(size);
    }
    Ok(std::fs::read_dir("/proc/self/fd")?.count() as u64)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    /// `FDSize` of proc(5).
    fn table_size() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        size.trim().parse().unwrap()
    }

    #[test]
    fn a_table_that_was_widened_stays_wide() {
        let last = widen_table(600, 600).unwrap();
        assert!(last.as_raw_fd() >= 600);
        drop(last);
        assert!(table_size() > 600);
    }
}
