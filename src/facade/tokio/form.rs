//! What the form for tokio is made of.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, PoisonError};

use ::tokio::net::{TcpListener, UdpSocket, UnixDatagram, UnixListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::{Acceptor, Counted, Listener, Watched};
use crate::facade::form::{Form, Gated, Tokio, sealed};

impl sealed::Sealed for Tokio {}

impl Form for Tokio {
    type TcpAcceptor = Acceptor<TcpListener>;
    type UnixAcceptor = Acceptor<UnixListener>;
    type TcpListener = TcpListener;
    type UdpSocket = UdpSocket;
    type UnixDatagram = UnixDatagram;
    type Counted = Counted;
    type Connections = TaskTracker;
    type Term = Terms;

    fn connections() -> io::Result<TaskTracker> {
        Ok(TaskTracker::new())
    }

    fn count(connections: &TaskTracker) -> usize {
        connections.len()
    }

    fn begin(connections: &TaskTracker) -> Counted {
        Counted(connections.token())
    }

    fn is_superseded(term: &Terms) -> bool {
        term.now().superseded.is_cancelled()
    }

    fn tcp_listener(listener: std::net::TcpListener) -> io::Result<TcpListener> {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    }

    fn udp_socket(socket: std::net::UdpSocket) -> io::Result<UdpSocket> {
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    }

    fn unix_datagram(socket: std::os::unix::net::UnixDatagram) -> io::Result<UnixDatagram> {
        socket.set_nonblocking(true)?;
        UnixDatagram::from_std(socket)
    }

    fn accept_tcp(
        listener: std::net::TcpListener,
        connections: &TaskTracker,
    ) -> io::Result<Gated<Acceptor<TcpListener>>> {
        listener.set_nonblocking(true)?;
        gated(listener, connections)
    }

    fn accept_unix(
        listener: std::os::unix::net::UnixListener,
        connections: &TaskTracker,
    ) -> io::Result<Gated<Acceptor<UnixListener>>> {
        listener.set_nonblocking(true)?;
        gated(listener, connections)
    }
}

fn gated<L, S>(listener: S, connections: &TaskTracker) -> io::Result<Gated<Acceptor<L>>>
where
    L: Listener<Watched = Watched<S>>,
    S: AsFd + AsRawFd + Send + Sync + 'static,
{
    let listener = Arc::new(Watched::new(listener)?);
    let acceptor = Acceptor::new(Arc::clone(&listener), connections.clone());
    Ok(Gated { gate: acceptor.door(), listener, acceptor })
}

/// The term that this process is in: another one when it serves again.
#[derive(Debug, Clone, Default)]
pub struct Terms(Arc<Mutex<Term>>);

/// The time for which this process accepts, up to the end of its drain.
#[derive(Debug, Clone, Default)]
pub(super) struct Term {
    /// Cancelled when this process is about to be told to stop accepting.
    pub(super) superseding: CancellationToken,
    /// Cancelled when this process is to stop accepting.
    pub(super) superseded: CancellationToken,
    /// Cancelled when its drain deadline has passed.
    pub(super) overdue: CancellationToken,
}

impl Terms {
    pub(super) fn now(&self) -> Term {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// This process serves again.
    pub(super) fn renew(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Term::default();
    }
}
