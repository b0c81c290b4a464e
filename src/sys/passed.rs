//! Descriptors that whoever has started this process passed to it.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Takes them, with their names, once in the life of a process. They have CLOEXEC from here on. See `sd_listen_fds(3)`.
#[allow(unsafe_code)]
pub(crate) fn passed() -> io::Result<Vec<(String, OwnedFd)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let passed = sd_notify::listen_fds_with_names()?;
    // SAFETY: LISTEN_PID is this process's, which makes the descriptors its own; they are open, or CLOEXEC could not have been
    // set; and nobody else has been given them, since this is the first call.
    Ok(passed.map(|(fd, name)| (name, unsafe { OwnedFd::from_raw_fd(fd) })).collect())
}
