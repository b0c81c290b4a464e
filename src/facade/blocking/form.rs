//! What the blocking form is made of.

use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::facade::blocking::accept::{Acceptor, Connections, Counted, Listener};
use crate::facade::form::{Blocking, Form, Gated, sealed};

impl sealed::Sealed for Blocking {}

impl Form for Blocking {
    type TcpAcceptor = Acceptor<TcpListener>;
    type UnixAcceptor = Acceptor<UnixListener>;
    type TcpListener = TcpListener;
    type UdpSocket = UdpSocket;
    type UnixDatagram = UnixDatagram;
    type Counted = Counted;
    type Connections = Connections;
    type Term = Term;

    fn connections() -> io::Result<Connections> {
        Connections::new()
    }

    fn count(connections: &Connections) -> usize {
        connections.count()
    }

    fn begin(connections: &Connections) -> Counted {
        connections.begin()
    }

    fn is_superseded(term: &Term) -> bool {
        term.0.load(Ordering::SeqCst)
    }

    fn tcp_listener(listener: TcpListener) -> io::Result<TcpListener> {
        Ok(listener)
    }

    fn udp_socket(socket: UdpSocket) -> io::Result<UdpSocket> {
        Ok(socket)
    }

    fn unix_datagram(socket: UnixDatagram) -> io::Result<UnixDatagram> {
        Ok(socket)
    }

    fn accept_tcp(listener: TcpListener, connections: &Connections) -> io::Result<Gated<Acceptor<TcpListener>>> {
        gated(listener, connections)
    }

    fn accept_unix(listener: UnixListener, connections: &Connections) -> io::Result<Gated<Acceptor<UnixListener>>> {
        gated(listener, connections)
    }
}

fn gated<L>(listener: L, connections: &Connections) -> io::Result<Gated<Acceptor<L>>>
where
    L: Listener + Send + Sync + 'static,
{
    let acceptor = Acceptor::counted(listener, connections.clone())?;
    let (listener, gate) = acceptor.parts();
    Ok(Gated { acceptor, listener, gate })
}

/// Whether this process is to stop accepting, or has.
#[derive(Debug, Clone, Default)]
pub struct Term(Arc<AtomicBool>);

impl Term {
    pub(super) fn supersede(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// This process serves again.
    pub(super) fn renew(&self) {
        self.0.store(false, Ordering::SeqCst);
    }
}
