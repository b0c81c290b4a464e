//! What both forms say alike, said once: [`Starting`], [`Inheritance`], [`Handle`] and [`Connection`] of a [`Form`].
//!
//! A program names them as [`crate::Starting`] or [`crate::tokio::Starting`], and needs nothing from here. What
//! waits, and so differs, is on the type of the one form or the other: [`crate::Starting::ready`] blocks, and
//! [`crate::tokio::Starting::ready`] is to be awaited.

use std::fmt::Debug;
use std::io;
use std::net;
use std::os::fd::AsFd;
use std::os::unix::net as unix;
use std::sync::Arc;

use super::registry::Shuts;
use crate::driver::descriptor::{Inheritable, Shared};

pub use super::connection::Connection;
pub use super::handle::Handle;
pub use super::inheritance::Inheritance;
pub use super::starting::Starting;

/// The [form](Form) whose calls block: std's sockets, and threads.
#[derive(Debug, Clone, Copy)]
pub enum Blocking {}

/// The [form](Form) whose calls are awaited: tokio's sockets, and tasks.
#[cfg(feature = "tokio")]
#[derive(Debug, Clone, Copy)]
pub enum Tokio {}

/// How a program waits: [`Blocking`], or [`Tokio`](crate::form::Tokio) with the feature `tokio`. Sealed.
pub trait Form: sealed::Sealed + Debug + Sized + 'static {
    /// Accepts on a TCP listener until this process is superseded: an [`Acceptor`](crate::Acceptor) of std's listener, or one on
    /// tokio.
    type TcpAcceptor;
    /// The same for a Unix listener.
    type UnixAcceptor;
    /// A TCP listener: std's or tokio's.
    type TcpListener;
    /// A UDP socket: std's or tokio's.
    type UdpSocket;
    /// A Unix datagram socket: std's or tokio's.
    type UnixDatagram;
    /// Counts a connection until it is dropped.
    type Counted;

    /// How many connections there are.
    #[doc(hidden)]
    type Connections: Debug + Clone + Send + Sync + 'static;
    /// Says when this process is superseded.
    #[doc(hidden)]
    type Term: Debug + Clone + Default;

    #[doc(hidden)]
    fn connections() -> io::Result<Self::Connections>;
    #[doc(hidden)]
    fn count(connections: &Self::Connections) -> usize;
    #[doc(hidden)]
    fn begin(connections: &Self::Connections) -> Self::Counted;
    #[doc(hidden)]
    fn is_superseded(term: &Self::Term) -> bool;

    #[doc(hidden)]
    fn tcp_listener(listener: net::TcpListener) -> io::Result<Self::TcpListener>;
    #[doc(hidden)]
    fn udp_socket(socket: net::UdpSocket) -> io::Result<Self::UdpSocket>;
    #[doc(hidden)]
    fn unix_datagram(socket: unix::UnixDatagram) -> io::Result<Self::UnixDatagram>;
    #[doc(hidden)]
    fn accept_tcp(listener: net::TcpListener, connections: &Self::Connections) -> io::Result<Gated<Self::TcpAcceptor>>;
    #[doc(hidden)]
    fn accept_unix(
        listener: unix::UnixListener,
        connections: &Self::Connections,
    ) -> io::Result<Gated<Self::UnixAcceptor>>;
}

/// A listener of the standard library's that becomes what the form accepts on:
/// [`Starting::listener_or_else`](crate::form::Starting::listener_or_else) is given one. Sealed.
pub trait IntoAcceptor<F: Form>: Inheritable + AsFd {
    /// What accepts on it.
    type Acceptor;

    #[doc(hidden)]
    fn gated(self, connections: &F::Connections) -> io::Result<Gated<Self::Acceptor>>;
}

impl<F: Form> IntoAcceptor<F> for net::TcpListener {
    type Acceptor = F::TcpAcceptor;

    fn gated(self, connections: &F::Connections) -> io::Result<Gated<F::TcpAcceptor>> {
        F::accept_tcp(self, connections)
    }
}

impl<F: Form> IntoAcceptor<F> for unix::UnixListener {
    type Acceptor = F::UnixAcceptor;

    fn gated(self, connections: &F::Connections) -> io::Result<Gated<F::UnixAcceptor>> {
        F::accept_unix(self, connections)
    }
}

/// An acceptor, and what the registry keeps of it.
#[doc(hidden)]
pub struct Gated<A> {
    pub(super) acceptor: A,
    pub(super) listener: Shared,
    pub(super) gate: Arc<dyn Shuts>,
}

pub(super) mod sealed {
    pub trait Sealed {}
}
