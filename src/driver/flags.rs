//! O_NONBLOCK of what was offered, to be put right where a successor that fails has changed it.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};

use crate::driver::descriptor::Shared;
use crate::sys::file;

/// Whether what was offered was non-blocking. O_NONBLOCK belongs to the open file description, which a successor shares.
#[derive(Default)]
pub(crate) struct Flags {
    /// Of what was lent, in its order.
    lent: Vec<bool>,
    /// Held weakly: whoever uses them lets them go at any time.
    shared: Vec<(Weak<dyn AsFd + Send + Sync>, bool)>,
}

impl Flags {
    pub(crate) fn lend(&mut self, nonblocking: bool) {
        self.lent.push(nonblocking);
    }

    pub(crate) fn share(&mut self, fd: &Shared, nonblocking: bool) {
        self.shared.push((Arc::downgrade(fd), nonblocking));
    }

    /// Puts back what has changed, of what is still here.
    pub(crate) fn restore(self, table: &[BorrowedFd<'_>]) {
        table.iter().zip(self.lent).for_each(|(fd, nonblocking)| restore(*fd, nonblocking));
        let shared = self.shared.into_iter().filter_map(|(fd, nonblocking)| Some((fd.upgrade()?, nonblocking)));
        shared.for_each(|(fd, nonblocking)| restore(fd.as_fd(), nonblocking));
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flags").finish_non_exhaustive()
    }
}

pub(crate) fn restore(fd: BorrowedFd<'_>, nonblocking: bool) {
    if let Err(error) = file::set_nonblocking(fd, nonblocking) {
        tracing::warn!(event = "flags_not_restored", %error, "cannot put O_NONBLOCK of a descriptor right");
    }
}
