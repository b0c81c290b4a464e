//! Signals as descriptors that one can wait for, in either form.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::libc;
use signal_hook::SigId;

use crate::error::{Error, Result};

/// A Unix signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SignalKind(i32);

impl SignalKind {
    /// SIGHUP: a terminal that closes, and by custom "read your configuration again".
    pub const fn hangup() -> SignalKind {
        SignalKind(libc::SIGHUP)
    }

    /// SIGINT: Ctrl-C.
    pub const fn interrupt() -> SignalKind {
        SignalKind(libc::SIGINT)
    }

    /// SIGQUIT.
    pub const fn quit() -> SignalKind {
        SignalKind(libc::SIGQUIT)
    }

    /// SIGTERM: how service managers and containers ask a process to end.
    pub const fn terminate() -> SignalKind {
        SignalKind(libc::SIGTERM)
    }

    /// SIGUSR1.
    pub const fn user_defined1() -> SignalKind {
        SignalKind(libc::SIGUSR1)
    }

    /// SIGUSR2.
    pub const fn user_defined2() -> SignalKind {
        SignalKind(libc::SIGUSR2)
    }

    /// Any other, by its number: see `signal(7)`.
    pub const fn from_raw(number: i32) -> SignalKind {
        SignalKind(number)
    }
}

/// Some signals, as one descriptor. Dropped, they do nothing any more.
#[derive(Debug)]
pub(super) struct Signals {
    stream: UnixStream,
    /// Kept open: the end of the stream would be readable for ever.
    written: UnixStream,
    registered: Vec<SigId>,
}

impl Signals {
    pub(super) fn new(kinds: &[SignalKind]) -> Result<Signals> {
        let (stream, written) = UnixStream::pair().map_err(Error::io("make a pipe for signals"))?;
        stream.set_nonblocking(true).map_err(Error::io("make a pipe for signals"))?;
        let mut signals = Signals { stream, written, registered: Vec::new() };
        for SignalKind(number) in kinds {
            // Linux has no signal that signal-hook refuses and that could be caught.
            let registered = signals
                .written
                .try_clone()
                .and_then(|written| signal_hook::low_level::pipe::register(*number, written));
            signals.registered.push(registered.map_err(Error::io(format!("catch signal {number}")))?);
        }
        Ok(signals)
    }

    /// Whether one came since this was last asked. Several that came together count as one.
    pub(super) fn came(&self) -> bool {
        let mut buffer = [0; 64];
        let mut came = false;
        loop {
            match (&self.stream).read(&mut buffer) {
                Ok(1..) => came = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return came,
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}
