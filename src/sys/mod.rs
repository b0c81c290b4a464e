//! One system call per function, and the only place for `unsafe`.

pub(crate) mod container;
pub(crate) mod event;
pub(crate) mod file;
pub(crate) mod limits;
#[cfg(feature = "systemd")]
pub(crate) mod passed;
pub(crate) mod process;
pub(crate) mod socket;
pub(crate) mod watch;
