//! RLIMIT_NOFILE.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Room for what a process opens besides: the control connection, state, pidfds, log files, new connections.
const SPARE: u64 = 32;

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

/// How many descriptors this process has open. Since Linux 6.2 the size of /proc/self/fd says so.
fn open_files() -> io::Result<u64> {
    let size = std::fs::metadata("/proc/self/fd")?.len();
    if size > 0 {
        return Ok(size);
    }
    Ok(std::fs::read_dir("/proc/self/fd")?.count() as u64)
}
