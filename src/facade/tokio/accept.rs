//! Accepting on tokio, so that it can be stopped and started again, and connections are counted.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::pin::{Pin, pin};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use ::tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use ::tokio::sync::Notify;
use ::tokio::time::sleep;
use futures_core::Stream;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::driver::descriptor::Shared;
use crate::facade::form::{self, Tokio};
use crate::facade::registry::Shuts;

/// How long a server waits after a failed `accept(2)`: the process is out of descriptors, most likely.
const AFTER_AN_ERROR: Duration = Duration::from_millis(100);

/// Accepts connections on a listener, from any number of tasks, until this process is superseded.
///
/// It is made by [`Starting`](super::Starting). With the feature `axum` it can be given to `axum::serve`.
#[derive(Debug)]
pub struct Acceptor<L> {
    door: Arc<Door<L>>,
    connections: TaskTracker,
}

/// Another handle to the same acceptor. Written by hand: no listener is `Clone`, nor has to be.
impl<L> Clone for Acceptor<L> {
    fn clone(&self) -> Acceptor<L> {
        Acceptor { door: Arc::clone(&self.door), connections: self.connections.clone() }
    }
}

/// A listener behind its gate, until this process lets it go. It is dropped then, and tokio forgets it: its number is not
/// to stand for anything else as long as tokio knows it.
#[derive(Debug)]
pub(super) struct Door<L> {
    gate: Gate,
    listener: RwLock<Option<Arc<L>>>,
}

impl<L> Door<L> {
    fn listener(&self) -> Option<Arc<L>> {
        self.listener.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What lets tasks through to accept. Shut means that nobody accepts, nor is about to.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// Counts how often it was shut or opened: while that is even, it is open.
    turns: RwLock<u64>,
    /// Rung to have those who wait look at the gate again.
    bell: Notify,
}

impl Gate {
    fn turns(&self) -> u64 {
        *self.turns.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `accept` if the gate is open, and was not shut since it had made so many `turns`. It cannot be shut meanwhile.
    fn pass<T>(&self, turns: u64, accept: impl FnOnce() -> T) -> Option<T> {
        let now = self.turns.read().unwrap_or_else(PoisonError::into_inner);
        (*now == turns && is_open(turns)).then(accept)
    }

    fn turn(&self, open: bool) {
        let mut turns = self.turns.write().unwrap_or_else(PoisonError::into_inner);
        if is_open(*turns) != open {
            *turns += 1;
        }
    }
}

fn is_open(turns: u64) -> bool {
    turns % 2 == 0
}

impl<L: Send + Sync> Shuts for Door<L> {
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

/// A listener that an [`Acceptor`] can accept on. Sealed.
pub trait Listener: sealed::Sealed + Send + Sync + 'static {
    /// An accepted connection.
    type Stream: Send + 'static;
    /// A peer's address.
    type Addr: Send + 'static;
    #[doc(hidden)]
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Addr)>> + Send;
    #[doc(hidden)]
    fn local_addr(&self) -> io::Result<Self::Addr>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for tokio::net::TcpListener {}
    impl Sealed for tokio::net::UnixListener {}
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        TcpListener::accept(self).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;
    type Addr = ::tokio::net::unix::SocketAddr;

    async fn accept(&self) -> io::Result<(UnixStream, ::tokio::net::unix::SocketAddr)> {
        UnixListener::accept(self).await
    }

    fn local_addr(&self) -> io::Result<::tokio::net::unix::SocketAddr> {
        UnixListener::local_addr(self)
    }
}

/// A connection, and where it comes from.
pub type Accepted<L> = (Connection<<L as Listener>::Stream>, <L as Listener>::Addr);

impl<L> Acceptor<L> {
    pub(super) fn new(listener: Arc<L>, connections: TaskTracker) -> Acceptor<L> {
        let listener = RwLock::new(Some(listener));
        Acceptor { door: Arc::new(Door { gate: Gate::default(), listener }), connections }
    }

    /// The listener. Do not keep it: its address is taken as long as somebody has it. `None` once this process has let it
    /// go: another one has the service, or nobody.
    pub fn listener(&self) -> Option<Arc<L>> {
        self.door.listener()
    }

    pub(super) fn door(&self) -> Arc<Door<L>> {
        Arc::clone(&self.door)
    }
}

impl<L: Listener> Acceptor<L> {
    /// Where it listens.
    ///
    /// # Errors
    ///
    /// What `getsockname(2)` says, and [`NotConnected`](io::ErrorKind::NotConnected) once this process has let it go.
    pub fn local_addr(&self) -> io::Result<L::Addr> {
        self.listener().ok_or(io::ErrorKind::NotConnected)?.local_addr()
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
        let turns = gate.turns();
        // It is heard from here on, whether it is waited for yet or not.
        let mut bell = pin!(gate.bell.notified());
        let Some(listener) = self.listener() else { return Ok(None) };
        let mut accept = pin!(listener.accept());
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

        async fn accept(&self) -> io::Result<((), ())> {
            Ok(((), ()))
        }

        fn local_addr(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Never has a connection.
    struct Quiet;

    impl sealed::Sealed for Quiet {}

    impl Listener for Quiet {
        type Stream = ();
        type Addr = ();

        async fn accept(&self) -> io::Result<((), ())> {
            std::future::pending().await
        }

        fn local_addr(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A process that serves again may hear late that it was to stop.
    #[test]
    fn a_late_bell_ends_only_what_waited_when_the_gate_was_shut() {
        let acceptor = Acceptor::new(Arc::new(Quiet), TaskTracker::new());
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
        let acceptors: Vec<_> = (0..ROUNDS).map(|_| Acceptor::new(Arc::new(Busy), TaskTracker::new())).collect();
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
