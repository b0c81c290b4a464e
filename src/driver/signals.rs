//! Signals as descriptors that one can wait for, in either form, and what they do before and after.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::libc;
use signal_hook::SigId;

use crate::error::{Error, Result};
use crate::sys::process;

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

/// The signals of a service, from its start until nothing is left for them to say.
#[derive(Debug)]
pub(crate) struct Caught {
    pub(super) stop: Signals,
    pub(super) upgrade: Signals,
}

impl Caught {
    pub(crate) fn new(stop_on: &[SignalKind], upgrade_on: &[SignalKind]) -> Result<Caught> {
        Ok(Caught { stop: Signals::new(stop_on)?, upgrade: Signals::new(upgrade_on)? })
    }

    /// Whether this process was told to stop since this was last asked.
    pub(crate) fn stop_came(&self) -> bool {
        self.stop.came()
    }

    /// Readable once it was.
    pub(crate) fn stop_fd(&self) -> BorrowedFd<'_> {
        self.stop.as_fd()
    }

    /// Whether any of them stops the service.
    pub(crate) fn can_stop(&self) -> bool {
        !self.stop.kinds.is_empty()
    }

    /// Ends this process as the signal that stops it would, had nobody caught it.
    pub(super) fn end_process(&self) -> ! {
        let SignalKind(number) = self.stop.kinds.first().copied().unwrap_or(SignalKind::terminate());
        // The kernel keeps from a process 1 whatever it does not catch, see pid_namespaces(7).
        if !process::is_init() {
            let _ = signal_hook::low_level::emulate_default_handler(number);
        }
        signal_hook::low_level::exit(status_of(number))
    }
}

/// What a shell says of a process that a signal has ended.
fn status_of(number: i32) -> i32 {
    128 + number
}

/// Some signals, as one descriptor. Once it is dropped, they have their default action again, unless somebody else in this
/// process had caught them before.
#[derive(Debug)]
pub(super) struct Signals {
    kinds: Vec<SignalKind>,
    stream: UnixStream,
    /// Kept open: the end of the stream would be readable for ever.
    written: UnixStream,
    registered: Vec<SigId>,
    defaults: Vec<DefaultAction>,
}

impl Signals {
    pub(super) fn new(kinds: &[SignalKind]) -> Result<Signals> {
        let (stream, written) = UnixStream::pair().map_err(Error::io("make a pipe for signals"))?;
        stream.set_nonblocking(true).map_err(Error::io("make a pipe for signals"))?;
        let (registered, defaults) = (Vec::new(), Vec::new());
        let mut signals = Signals { kinds: kinds.to_vec(), stream, written, registered, defaults };
        for SignalKind(number) in kinds {
            let default = DefaultAction::suspend(*number).map_err(Error::io(format!("catch signal {number}")))?;
            signals.defaults.extend(default);
            // Linux has no signal that signal-hook refuses and that could be caught.
            let registered = signals
                .written
                .try_clone()
                .and_then(|written| signal_hook::low_level::pipe::register(*number, written));
            signals.registered.push(registered.map_err(Error::io(format!("catch signal {number}")))?);
        }
        Ok(signals)
    }

    /// One that came is for somebody else to hear.
    pub(super) fn put_back(&self) {
        // It fails only where there are so many already that one more says nothing.
        let _ = (&self.written).write(&[0]);
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

/// The default action of a signal, while somebody catches that. What catches a signal for the first time stays installed for
/// good, so the action is emulated afterwards.
#[derive(Debug)]
struct DefaultAction(i32);

/// Whether each signal is to do what it does by default, and how many catch it.
static SUSPENDED: Mutex<BTreeMap<i32, (Arc<AtomicBool>, usize)>> = Mutex::new(BTreeMap::new());

impl DefaultAction {
    /// `None` where the signal does something else.
    fn suspend(number: i32) -> io::Result<Option<DefaultAction>> {
        let mut suspended = SUSPENDED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((acts, users)) = suspended.get_mut(&number) {
            acts.store(false, Ordering::SeqCst);
            *users += 1;
            return Ok(Some(DefaultAction(number)));
        }
        if !process::has_default_action(number)? {
            return Ok(None);
        }
        let acts = Arc::new(AtomicBool::new(false));
        if process::is_init() {
            signal_hook::flag::register_conditional_shutdown(number, status_of(number), Arc::clone(&acts))?;
        } else {
            signal_hook::flag::register_conditional_default(number, Arc::clone(&acts))?;
        }
        suspended.insert(number, (acts, 1));
        Ok(Some(DefaultAction(number)))
    }
}

impl Drop for DefaultAction {
    fn drop(&mut self) {
        let mut suspended = SUSPENDED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((acts, users)) = suspended.get_mut(&self.0) {
            *users -= 1;
            acts.store(*users == 0, Ordering::SeqCst);
        }
    }
}
