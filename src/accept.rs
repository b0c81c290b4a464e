//! Accepting in a blocking server, so that it can be stopped and started again.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sys::event::{Signal, wait_readable};

/// Accepts connections on a listener, from any number of threads, until it is stopped.
///
/// A plain blocking `accept` cannot be ended from another thread, and a successor that makes the listener
/// non-blocking would make it fail: the flag belongs to the socket's open file description, which both
/// processes share (see `fcntl(2)`). This one makes the listener non-blocking itself, and waits for it or for
/// [`Acceptor::stop`]. It needs the flag to stay: no other holder of the socket may make it blocking again.
#[derive(Debug)]
pub struct Acceptor<L> {
    shared: Arc<Shared<L>>,
}

/// Another handle to the same acceptor. Written by hand: no listener is `Clone`, nor has to be.
impl<L> Clone for Acceptor<L> {
    fn clone(&self) -> Acceptor<L> {
        Acceptor { shared: Arc::clone(&self.shared) }
    }
}

#[derive(Debug)]
struct Shared<L> {
    listener: L,
    stop: Signal,
    stopped: AtomicBool,
}

/// A listener that an [`Acceptor`] can accept on. Sealed.
pub trait Listener: AsFd + sealed::Sealed {
    /// An accepted connection.
    type Stream;
    /// A peer's address.
    type Addr;
    #[doc(hidden)]
    fn set_nonblocking(&self) -> io::Result<()>;
    #[doc(hidden)]
    fn try_accept(&self) -> io::Result<(Self::Stream, Self::Addr)>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for std::net::TcpListener {}
    impl Sealed for std::os::unix::net::UnixListener {}
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    type Addr = SocketAddr;

    fn set_nonblocking(&self) -> io::Result<()> {
        TcpListener::set_nonblocking(self, true)
    }

    fn try_accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.accept()
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;
    type Addr = std::os::unix::net::SocketAddr;

    fn set_nonblocking(&self) -> io::Result<()> {
        UnixListener::set_nonblocking(self, true)
    }

    fn try_accept(&self) -> io::Result<(UnixStream, std::os::unix::net::SocketAddr)> {
        self.accept()
    }
}

impl<L: Listener> Acceptor<L> {
    /// Takes a listener over, and makes it non-blocking; accepted connections block as usual.
    ///
    /// # Errors
    ///
    /// What `fcntl(2)` or `eventfd(2)` say.
    pub fn new(listener: L) -> io::Result<Acceptor<L>> {
        listener.set_nonblocking()?;
        let shared = Shared { listener, stop: Signal::new()?, stopped: AtomicBool::new(false) };
        Ok(Acceptor { shared: Arc::new(shared) })
    }

    /// Waits for a connection; `None` once [`Acceptor::stop`] was called.
    ///
    /// # Errors
    ///
    /// What `accept(2)` says, save that no connection is there.
    pub fn accept(&self) -> io::Result<Option<(L::Stream, L::Addr)>> {
        loop {
            if self.shared.stopped.load(Ordering::SeqCst) {
                return Ok(None);
            }
            match self.shared.listener.try_accept() {
                Ok(accepted) => return Ok(Some(accepted)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait_readable(&[self.shared.listener.as_fd(), self.shared.stop.as_fd()], None)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes every present and future [`Acceptor::accept`] return `None`. Connections that wait in the
    /// kernel's queue stay there, for the successor.
    pub fn stop(&self) {
        if !self.shared.stopped.swap(true, Ordering::SeqCst) {
            self.shared.stop.raise();
        }
    }

    /// Accepts again after [`Acceptor::stop`]: this process has taken the service back.
    pub fn resume(&self) {
        if self.shared.stopped.swap(false, Ordering::SeqCst) {
            self.shared.stop.lower();
        }
    }

    /// The listener.
    pub fn listener(&self) -> &L {
        &self.shared.listener
    }
}

impl<L: Listener> AsFd for Acceptor<L> {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.shared.listener.as_fd()
    }
}
