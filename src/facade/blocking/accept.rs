//! Accepting in a blocking server, so that it can be stopped and started again, and connections are counted.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::driver::descriptor::Shared;
use crate::facade::form::{self, Blocking};
use crate::facade::registry::Shuts;
use crate::sys::event::{Signal, is_readable, wait_readable};
use crate::sys::file;

/// Accepts connections on a listener, from any number of threads, until it is stopped.
///
/// A plain blocking `accept` cannot be ended from another thread, and a successor that makes the listener
/// non-blocking would make it fail: O_NONBLOCK belongs to the socket's open file description, which both
/// processes share (see `fcntl(2)`). This one waits for a connection or for [`Acceptor::stop`], and accepts when one is there:
/// so it does not matter what another process that has the socket does to the flag. It makes the listener non-blocking
/// itself, for those who accept beside it in other processes.
#[derive(Debug)]
pub struct Acceptor<L> {
    listener: Arc<L>,
    gate: Arc<Gate>,
    connections: Connections,
}

/// Another handle to the same acceptor. Written by hand: no listener is `Clone`, nor has to be.
impl<L> Clone for Acceptor<L> {
    fn clone(&self) -> Acceptor<L> {
        let (listener, gate) = (Arc::clone(&self.listener), Arc::clone(&self.gate));
        Acceptor { listener, gate, connections: self.connections.clone() }
    }
}

/// What lets threads through to accept, one at a time. Shut means that nobody accepts, nor is about to.
#[derive(Debug)]
pub(crate) struct Gate {
    shut: Mutex<bool>,
    stop: Signal,
}

impl Gate {
    fn new() -> io::Result<Gate> {
        Ok(Gate { shut: Mutex::new(false), stop: Signal::new()? })
    }

    fn shut(&self) -> MutexGuard<'_, bool> {
        self.shut.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `accept` unless the gate is shut. It cannot be shut meanwhile, and nobody else in this process takes the connection
    /// that `accept` has seen.
    fn pass<T>(&self, accept: impl FnOnce() -> T) -> Option<T> {
        let shut = self.shut();
        (!*shut).then(accept)
    }

    fn close(&self) {
        if !std::mem::replace(&mut *self.shut(), true) {
            self.stop.raise();
        }
    }

    fn reopen(&self) {
        if std::mem::replace(&mut *self.shut(), false) {
            self.stop.lower();
        }
    }
}

impl Shuts for Gate {
    fn shut(&self) {
        self.close();
    }

    /// [`Gate::close`] has done it.
    fn tell(&self) {}

    fn open(&self) {
        self.reopen();
    }

    /// Threads may wait for it: its number stays theirs.
    fn let_go(&self, listener: &Shared, stand_in: BorrowedFd<'_>) {
        file::replace(listener.as_fd(), stand_in);
    }
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
    #[doc(hidden)]
    fn local_addr(&self) -> io::Result<Self::Addr>;
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

    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
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

    fn local_addr(&self) -> io::Result<std::os::unix::net::SocketAddr> {
        UnixListener::local_addr(self)
    }
}

/// A connection, and where it comes from.
pub type Accepted<L> = (Connection<<L as Listener>::Stream>, <L as Listener>::Addr);

impl<L: Listener> Acceptor<L> {
    /// Takes a listener over, and makes it non-blocking; accepted connections block as usual.
    ///
    /// # Errors
    ///
    /// What `fcntl(2)` or `eventfd(2)` say.
    pub fn new(listener: L) -> io::Result<Acceptor<L>> {
        Acceptor::counted(listener, Connections::new()?)
    }

    /// One that counts its connections together with others.
    pub(crate) fn counted(listener: L, connections: Connections) -> io::Result<Acceptor<L>> {
        listener.set_nonblocking()?;
        Ok(Acceptor { listener: Arc::new(listener), gate: Arc::new(Gate::new()?), connections })
    }

    /// Waits for a connection; `None` once [`Acceptor::stop`] was called.
    ///
    /// # Errors
    ///
    /// What `accept(2)` says, save that no connection is there.
    pub fn accept(&self) -> io::Result<Option<Accepted<L>>> {
        loop {
            let Some(accepted) = self.gate.pass(|| self.try_accept()) else { return Ok(None) };
            match accepted {
                Ok(accepted) => return Ok(Some(accepted)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait_readable(&[self.listener.as_fd(), self.gate.stop.as_fd()], None)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The flag is every holder's to change; a connection that waits is taken by whoever accepts, which is us alone.
    // M137
    fn try_accept(&self) -> io::Result<Accepted<L>> {
        if !is_readable(self.listener.as_fd()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (stream, addr) = self.listener.try_accept()?;
        Ok((Connection { stream, counted: self.connections.begin() }, addr))
    }

    /// Makes every present and future [`Acceptor::accept`] return `None`: when this returns, nothing more is
    /// accepted. Connections that wait in the kernel's queue stay there, for the successor.
    pub fn stop(&self) {
        self.gate.close();
    }

    /// Accepts again after [`Acceptor::stop`]: this process has taken the service back. It makes the listener non-blocking
    /// again, should the successor have changed that.
    pub fn resume(&self) {
        // It does not rest on it.
        let _ = self.listener.set_nonblocking();
        self.gate.reopen();
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// What `getsockname(2)` says.
    pub fn local_addr(&self) -> io::Result<L::Addr> {
        self.listener.local_addr()
    }

    /// The listener.
    pub fn listener(&self) -> &L {
        &self.listener
    }

    /// How many of the accepted connections have not been dropped.
    pub fn connections(&self) -> usize {
        self.connections.count()
    }

    pub(crate) fn parts(&self) -> (Arc<L>, Arc<Gate>) {
        (Arc::clone(&self.listener), Arc::clone(&self.gate))
    }
}

impl<L: Listener> AsFd for Acceptor<L> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// A connection, counted until it is dropped. It is used like the stream in it.
pub type Connection<S> = form::Connection<Blocking, S>;

impl<S: Read> Read for Connection<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl<S: Write> Write for Connection<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl<S: AsFd> AsFd for Connection<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// How many connections there are.
#[derive(Debug, Clone)]
pub struct Connections(Arc<Counter>);

#[derive(Debug)]
struct Counter {
    count: AtomicUsize,
    /// Whether somebody waits for the last one to end.
    awaited: AtomicBool,
    /// Raised then when it ends.
    none_left: Signal,
}

/// Counts one connection until it is dropped.
#[derive(Debug)]
pub struct Counted(Arc<Counter>);

impl Connections {
    pub(crate) fn new() -> io::Result<Connections> {
        let none_left = Signal::new()?;
        Ok(Connections(Arc::new(Counter { count: AtomicUsize::new(0), awaited: AtomicBool::new(false), none_left })))
    }

    pub(crate) fn begin(&self) -> Counted {
        self.0.count.fetch_add(1, Ordering::SeqCst);
        Counted(Arc::clone(&self.0))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.count.load(Ordering::SeqCst)
    }

    /// Readable from the moment that none is left, if that comes after this call: look at the count afterwards.
    pub(crate) fn none_left(&self) -> &Signal {
        self.0.awaited.store(true, Ordering::SeqCst);
        &self.0.none_left
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let last = self.0.count.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.0.awaited.load(Ordering::SeqCst) {
            self.0.none_left.raise();
        }
    }
}
