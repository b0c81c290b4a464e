//! Accepting on tokio, so that it can be stopped and started again, and connections are counted.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::tokio::io::unix::AsyncFd;
use ::tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use ::tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use ::tokio::sync::Notify;
use ::tokio::time::sleep;
use futures_core::Stream;
use socket2::SockAddr;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::driver::descriptor::Shared;
use crate::facade::form::{self, Tokio};
use crate::facade::registry::Shuts;
use crate::sys::event::is_readable;
use crate::sys::socket;

/// How long a server waits after a failed `accept(2)`: the process is out of descriptors, most likely.
const AFTER_AN_ERROR: Duration = Duration::from_millis(100);

/// Accepts connections on a listener, from any number of tasks, until this process is superseded. `L` is tokio's type of the
/// listener, [`TcpListener`](::tokio::net::TcpListener) or [`UnixListener`](::tokio::net::UnixListener).
///
/// It is made by [`Starting`](super::Starting). With the feature `axum` it can be given to `axum::serve`. It never blocks the
/// runtime, whatever another process that has the socket does to its O_NONBLOCK: see [`crate::Acceptor`].
#[derive(Debug)]
pub struct Acceptor<L: Listener> {
    door: Arc<Door<L::Watched>>,
    connections: TaskTracker,
}

/// Another handle to the same acceptor. Written by hand: no listener is `Clone`, nor has to be.
impl<L: Listener> Clone for Acceptor<L> {
    fn clone(&self) -> Acceptor<L> {
        Acceptor { door: Arc::clone(&self.door), connections: self.connections.clone() }
    }
}

/// A listener behind its gate, until this process lets it go. It is dropped then, and tokio forgets it: its number is not
/// to stand for anything else as long as tokio knows it.
#[derive(Debug)]
pub(super) struct Door<W> {
    gate: Gate,
    listener: RwLock<Option<Arc<W>>>,
}

impl<W> Door<W> {
    fn listener(&self) -> Option<Arc<W>> {
        self.listener.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What lets tasks through to accept, one at a time. Shut means that nobody accepts, nor is about to.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// Counts how often it was shut or opened: while that is even, it is open.
    turns: Mutex<u64>,
    /// Rung to have those who wait look at the gate again.
    bell: Notify,
}

impl Gate {
    fn turns(&self) -> MutexGuard<'_, u64> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `accept` if the gate is open, and was not shut since it had made so many `turns`. It cannot be shut meanwhile,
    /// and nobody else in this process takes the connection that `accept` has seen.
    fn pass<T>(&self, turns: u64, accept: impl FnOnce() -> T) -> Option<T> {
        let now = self.turns();
        (*now == turns && is_open(turns)).then(accept)
    }

    fn turn(&self, open: bool) {
        let mut turns = self.turns();
        if is_open(*turns) != open {
            *turns += 1;
        }
    }
}

fn is_open(turns: u64) -> bool {
    turns % 2 == 0
}

impl<W: Send + Sync> Shuts for Door<W> {
    fn shut(&self) {
        self.gate.turn(false);
    }

    fn tell(&self) {
        self.gate.bell.notify_waiters();
    }

    fn open(&self) {
        self.gate.turn(true);
    }

    /// Whoever waits for it has been told that nothing will come, and holds it no longer than until he has heard.
    fn let_go(&self, _listener: &Shared, _stand_in: BorrowedFd<'_>) {
        drop(self.listener.write().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// A listener that an [`Acceptor`] can accept on: tokio's [`TcpListener`](::tokio::net::TcpListener) and
/// [`UnixListener`](::tokio::net::UnixListener). Sealed.
pub trait Listener: sealed::Sealed + 'static {
    /// An accepted connection.
    type Stream: Send + 'static;
    /// A peer's address.
    type Addr: Send + 'static;
    /// The listener as the standard library has it.
    type Std: Send + Sync + 'static;
    /// What is waited for, and accepted on.
    #[doc(hidden)]
    type Watched: Send + Sync + 'static;
    #[doc(hidden)]
    fn std(watched: &Self::Watched) -> &Arc<Self::Std>;
    #[doc(hidden)]
    fn accept(watched: &Self::Watched) -> impl Future<Output = io::Result<(Self::Stream, Self::Addr)>> + Send;
    #[doc(hidden)]
    fn local_addr(watched: &Self::Watched) -> io::Result<Self::Addr>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for tokio::net::TcpListener {}
    impl Sealed for tokio::net::UnixListener {}
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    type Addr = SocketAddr;
    type Std = std::net::TcpListener;
    type Watched = Watched<Self::Std>;

    fn std(watched: &Self::Watched) -> &Arc<Self::Std> {
        watched.0.get_ref()
    }

    async fn accept(watched: &Self::Watched) -> io::Result<(TcpStream, SocketAddr)> {
        let (socket, addr) = watched.accept().await?;
        let addr = addr.as_socket().ok_or(io::ErrorKind::InvalidData)?;
        Ok((TcpStream::from_std(socket.into())?, addr))
    }

    fn local_addr(watched: &Self::Watched) -> io::Result<SocketAddr> {
        Self::std(watched).local_addr()
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;
    type Addr = ::tokio::net::unix::SocketAddr;
    type Std = std::os::unix::net::UnixListener;
    type Watched = Watched<Self::Std>;

    fn std(watched: &Self::Watched) -> &Arc<Self::Std> {
        watched.0.get_ref()
    }

    async fn accept(watched: &Self::Watched) -> io::Result<(UnixStream, ::tokio::net::unix::SocketAddr)> {
        let (socket, addr) = watched.accept().await?;
        // Most have no address.
        let addr = addr.as_unix().map_or_else(|| std::os::unix::net::SocketAddr::from_pathname(""), Ok)?;
        Ok((UnixStream::from_std(socket.into())?, addr.into()))
    }

    fn local_addr(watched: &Self::Watched) -> io::Result<::tokio::net::unix::SocketAddr> {
        Self::std(watched).local_addr().map(Into::into)
    }
}

/// A listener that tokio waits for. tokio's own types leave it to O_NONBLOCK that `accept(2)` returns; this one asks first.
#[derive(Debug)]
pub struct Watched<S: AsRawFd>(AsyncFd<Arc<S>>);

impl<S: AsFd + AsRawFd> Watched<S> {
    // Deprecated for the reason that `super::Watched` gives.
    #[allow(deprecated)]
    pub(super) fn new(listener: S) -> io::Result<Watched<S>> {
        AsyncFd::with_interest(Arc::new(listener), Interest::READABLE).map(Watched)
    }

    /// Polled by one task at a time: the gate sees to it.
    async fn accept(&self) -> io::Result<(socket2::Socket, SockAddr)> {
        self.0.async_io(Interest::READABLE, |listener| try_accept(listener.as_fd())).await
    }
}

/// The flag is every holder's to change; a connection that waits is taken by whoever accepts, which is us alone.
// M137
fn try_accept(listener: BorrowedFd<'_>) -> io::Result<(socket2::Socket, SockAddr)> {
    if is_readable(listener) { socket::accept(listener) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

impl<S: AsFd + AsRawFd> AsFd for Watched<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

/// A connection, and where it comes from.
pub type Accepted<L> = (Connection<<L as Listener>::Stream>, <L as Listener>::Addr);

impl<L: Listener> Acceptor<L> {
    /// The listener, as the standard library has it: to set options on it. Do not keep it, since its address is taken as long
    /// as somebody has it, and do not accept on it, since nobody counts what that takes. `None` once this process has let it
    /// go: another one has the service, or nobody.
    pub fn listener(&self) -> Option<Arc<L::Std>> {
        self.door.listener().map(|watched| Arc::clone(L::std(&watched)))
    }

    pub(super) fn new(watched: Arc<L::Watched>, connections: TaskTracker) -> Acceptor<L> {
        let listener = RwLock::new(Some(watched));
        Acceptor { door: Arc::new(Door { gate: Gate::default(), listener }), connections }
    }

    pub(super) fn door(&self) -> Arc<Door<L::Watched>> {
        Arc::clone(&self.door)
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// What `getsockname(2)` says, and [`NotConnected`](io::ErrorKind::NotConnected) once this process has let it go.
    pub fn local_addr(&self) -> io::Result<L::Addr> {
        L::local_addr(&*self.door.listener().ok_or(io::ErrorKind::NotConnected)?)
    }

    /// Waits for a connection; `None` once this process is superseded. Connections that wait in the kernel's queue
    /// then stay there, for the successor. Cancelling it loses nothing.
    ///
    /// # Errors
    ///
    /// What `accept(2)` says. Most of it concerns one connection, or goes away with time (too many open files): wait a
    /// little, and accept again.
    pub async fn accept(&self) -> io::Result<Option<Accepted<L>>> {
        let gate = &self.door.gate;
        let turns = *gate.turns();
        // It is heard from here on, whether it is waited for yet or not.
        let mut bell = pin!(gate.bell.notified());
        let Some(listener) = self.door.listener() else { return Ok(None) };
        let mut accept = pin!(L::accept(&listener));
        poll_fn(|cx| {
            loop {
                // Counted before the gate can be shut: a drain that begins then waits for it.
                let accepted = gate.pass(turns, || {
                    let accepted = accept.as_mut().poll(cx);
                    accepted.map_ok(|(stream, addr)| {
                        (Connection { stream, counted: Counted(self.connections.token()) }, addr)
                    })
                });
                match accepted {
                    None => return Poll::Ready(Ok(None)),
                    Some(Poll::Ready(accepted)) => return Poll::Ready(accepted.map(Some)),
                    Some(Poll::Pending) => {}
                }
                ready!(bell.as_mut().poll(cx));
                bell.set(gate.bell.notified());
            }
        })
        .await
    }

    /// As [`Acceptor::accept`], for servers that would try again at once after an error.
    pub(super) async fn accept_calmly(&self) -> io::Result<Option<Accepted<L>>> {
        let accepted = self.accept().await;
        if let Err(error) = &accepted {
            tracing::warn!(event = "accept_failed", error = %crate::error::advised(error), "cannot accept");
            sleep(AFTER_AN_ERROR).await;
        }
        accepted
    }

    /// The connections as a stream that ends when this process is superseded, for servers that count their connections
    /// themselves, such as tonic's. After an error, which it has logged, it waits a little.
    pub fn incoming(&self) -> Incoming<L> {
        Incoming { acceptor: self.clone(), next: None }
    }
}

type Next<S> = Pin<Box<dyn Future<Output = io::Result<Option<S>>> + Send>>;

/// See [`Acceptor::incoming`].
pub struct Incoming<L: Listener> {
    acceptor: Acceptor<L>,
    next: Option<Next<L::Stream>>,
}

impl<L: Listener> std::fmt::Debug for Incoming<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").finish_non_exhaustive()
    }
}

impl<L: Listener> Stream for Incoming<L> {
    type Item = io::Result<L::Stream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let acceptor = self.acceptor.clone();
        let next = self.next.get_or_insert_with(|| {
            Box::pin(
                async move { Ok(acceptor.accept_calmly().await?.map(|(connection, _)| connection.into_parts().0)) },
            )
        });
        let accepted = ready!(next.as_mut().poll(cx));
        self.next = None;
        Poll::Ready(accepted.transpose())
    }
}

/// A connection, counted until it is dropped. It is used like the stream in it.
pub type Connection<S> = form::Connection<Tokio, S>;

/// Counts a connection, or a job, until it is dropped.
#[derive(Debug)]
pub struct Counted(#[expect(dead_code, reason = "it counts by being there")] pub(super) TaskTrackerToken);

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Always has a connection.
    struct Busy;

    impl sealed::Sealed for Busy {}

    impl Listener for Busy {
        type Stream = ();
        type Addr = ();
        type Std = ();
        type Watched = Arc<()>;

        fn std(watched: &Arc<()>) -> &Arc<()> {
            watched
        }

        async fn accept(_: &Arc<()>) -> io::Result<((), ())> {
            Ok(((), ()))
        }

        fn local_addr(_: &Arc<()>) -> io::Result<()> {
            Ok(())
        }
    }

    /// Never has a connection.
    struct Quiet;

    impl sealed::Sealed for Quiet {}

    impl Listener for Quiet {
        type Stream = ();
        type Addr = ();
        type Std = ();
        type Watched = Arc<()>;

        fn std(watched: &Arc<()>) -> &Arc<()> {
            watched
        }

        async fn accept(_: &Arc<()>) -> io::Result<((), ())> {
            std::future::pending().await
        }

        fn local_addr(_: &Arc<()>) -> io::Result<()> {
            Ok(())
        }
    }

    /// A process that serves again may hear late that it was to stop.
    #[test]
    fn a_late_bell_ends_only_what_waited_when_the_gate_was_shut() {
        let acceptor = Acceptor::<Quiet>::new(Arc::default(), TaskTracker::new());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut before = Box::pin(acceptor.accept());
        assert!(before.as_mut().poll(&mut cx).is_pending());
        acceptor.door.shut();
        acceptor.door.open();
        let mut after = Box::pin(acceptor.accept());
        assert!(after.as_mut().poll(&mut cx).is_pending());

        acceptor.door.tell();
        assert!(matches!(before.as_mut().poll(&mut cx), Poll::Ready(Ok(None))));
        assert!(after.as_mut().poll(&mut cx).is_pending());

        acceptor.door.shut();
        acceptor.door.tell();
        assert!(matches!(after.as_mut().poll(&mut cx), Poll::Ready(Ok(None))));
    }

    /// Whoever shuts the gate and then counts, as a drain does, counts every connection that was accepted.
    #[test]
    fn what_was_accepted_before_the_gate_was_shut_is_counted() {
        const ROUNDS: usize = 50_000;

        let runtime = ::tokio::runtime::Builder::new_current_thread().build().unwrap();
        let acceptors: Vec<_> =
            (0..ROUNDS).map(|_| Acceptor::<Busy>::new(Arc::default(), TaskTracker::new())).collect();
        let round = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let counts = scope.spawn(|| {
                let count = |(number, acceptor): (usize, &Acceptor<Busy>)| {
                    while round.load(Ordering::SeqCst) < number {
                        std::thread::yield_now();
                    }
                    acceptor.door.shut();
                    acceptor.connections.len()
                };
                acceptors.iter().enumerate().map(count).collect::<Vec<_>>()
            });
            let accept = |(number, acceptor): (usize, &Acceptor<Busy>)| {
                round.store(number, Ordering::SeqCst);
                runtime.block_on(acceptor.accept()).unwrap()
            };
            let accepted: Vec<_> = acceptors.iter().enumerate().map(accept).collect();
            for (accepted, counted) in accepted.iter().zip(counts.join().unwrap()) {
                assert_eq!(usize::from(accepted.is_some()), counted);
            }
        });
    }
}
