//! RLIMIT_NOFILE.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Room for what a process opens besides: the control connection, state, pidfds, log files, new connections.
const SPARE: u64 = 32;

/// What a new generation opens until it serves: signals, a control socket's background, the states.
pub(crate) const OWN: u64 = 16;

/// A handoff of so many makes no table grow: it has room for 64 at the least.
const FEW: u64 = 32;

/// How many descriptors are needed and how many are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooFewFiles {
    pub(crate) needed: u64,
    pub(crate) hard: u64,
}

/// Makes room for `more` descriptors beside those that are open: raises the soft limit, up to the hard one,
/// where that is enough.
pub(crate) fn make_room(more: u64) -> io::Result<Result<(), TooFewFiles>> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let needed = open_files()? + more + SPARE;
    if needed <= soft {
        return Ok(Ok(()));
    }
    if needed > hard {
        return Ok(Err(TooFewFiles { needed, hard }));
    }
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard)?;
    Ok(Ok(()))
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
