//! A service that initialises, on tokio.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::tokio::net::{TcpListener, UdpSocket, UnixDatagram, UnixListener};
use socket2::{Socket, Type};
use tokio_util::task::TaskTracker;

use super::accept::{Acceptor, Listener};
use super::handle::Handle;
use super::handoff::{Handoff, Stewarding};
use super::receive::{Inheritance, handoff_receive, with_tokio};
use crate::core::wire::Entry;
use crate::driver::descriptor::Inheritable;
use crate::driver::steward::{Operation, Steward};
use crate::error::{Result, StateError};
use crate::facade::registry::{self, Registry};
use crate::facade::{Announcer, HandoffBuilder, Hook, Hooks, Plan};
use crate::state::{Received, State};

/// [`crate::Starting`] on tokio: a service that initialises. On an upgrade its predecessor serves meanwhile.
///
/// Dropping it gives the handoff up; the predecessor goes on serving.
#[derive(Debug)]
pub struct Starting {
    inheritance: Inheritance,
    registry: Registry,
    connections: TaskTracker,
    hooks: Hooks,
    operation: Operation,
    announcer: Announcer,
    drain: Duration,
}

impl HandoffBuilder<Handoff> {
    /// [`crate::HandoffBuilder::start`] on tokio.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn start(self) -> Result<Starting> {
        let Plan { config, operation, announcer, drain } = self.plan();
        let mut inheritance = handoff_receive(config).await?;
        inheritance.inherited.operated = true;
        Ok(Starting {
            inheritance,
            registry: Registry::default(),
            connections: TaskTracker::new(),
            hooks: Hooks::default(),
            operation,
            announcer,
            drain,
        })
    }
}

impl Starting {
    /// Whether nobody was there to inherit from.
    pub fn is_cold_start(&self) -> bool {
        self.inheritance.is_cold_start()
    }

    /// The generation that this process is about to be, from 1.
    pub fn generation(&self) -> u64 {
        self.inheritance.generation()
    }

    /// [`crate::Starting::tcp_listener`] as tokio's.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn tcp_listener(&mut self, name: &str, addr: SocketAddr) -> Result<Acceptor<TcpListener>> {
        self.tcp_listener_with(name, addr, |_| Ok(()))
    }

    /// [`crate::Starting::tcp_listener_with`] as tokio's.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn tcp_listener_with(
        &mut self,
        name: &str,
        addr: SocketAddr,
        mut options: impl FnMut(&Socket) -> std::io::Result<()>,
    ) -> Result<Acceptor<TcpListener>> {
        self.registry.claim(name)?;
        let (facts, listener) = registry::tcp_listener(&mut self.inheritance.inherited, name, addr, &mut options)?;
        let listener = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
        Ok(self.acceptor(facts, listener.map_err(with_tokio(name))?))
    }

    /// [`crate::Starting::udp_socket`] as tokio's.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn udp_socket(&mut self, name: &str, addr: SocketAddr) -> Result<UdpSocket> {
        self.udp_socket_with(name, addr, |_| Ok(()))
    }

    /// [`crate::Starting::udp_socket_with`] as tokio's.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn udp_socket_with(
        &mut self,
        name: &str,
        addr: SocketAddr,
        mut options: impl FnMut(&Socket) -> std::io::Result<()>,
    ) -> Result<UdpSocket> {
        self.registry.claim(name)?;
        let socket = registry::udp_socket(&mut self.inheritance.inherited, name, addr, &mut options)?;
        self.keep(name, &socket)?;
        socket.set_nonblocking(true).and_then(|()| UdpSocket::from_std(socket)).map_err(with_tokio(name))
    }

    /// [`crate::Starting::unix_listener`] as tokio's.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn unix_listener(&mut self, name: &str, path: impl AsRef<Path>) -> Result<Acceptor<UnixListener>> {
        self.unix_listener_with(name, path, |_| Ok(()))
    }

    /// [`crate::Starting::unix_listener_with`] as tokio's.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn unix_listener_with(
        &mut self,
        name: &str,
        path: impl AsRef<Path>,
        mut options: impl FnMut(&Socket) -> std::io::Result<()>,
    ) -> Result<Acceptor<UnixListener>> {
        self.registry.claim(name)?;
        let inherited = &mut self.inheritance.inherited;
        let (facts, listener): (_, std::os::unix::net::UnixListener) =
            registry::unix_socket(inherited, name, path.as_ref(), Type::STREAM, &mut options)?;
        let listener = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
        Ok(self.acceptor(facts, listener.map_err(with_tokio(name))?))
    }

    /// [`crate::Starting::unix_datagram`] as tokio's.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn unix_datagram(&mut self, name: &str, path: impl AsRef<Path>) -> Result<UnixDatagram> {
        self.unix_datagram_with(name, path, |_| Ok(()))
    }

    /// [`crate::Starting::unix_datagram_with`] as tokio's.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn unix_datagram_with(
        &mut self,
        name: &str,
        path: impl AsRef<Path>,
        mut options: impl FnMut(&Socket) -> std::io::Result<()>,
    ) -> Result<UnixDatagram> {
        self.registry.claim(name)?;
        let inherited = &mut self.inheritance.inherited;
        let (_, socket): (_, std::os::unix::net::UnixDatagram) =
            registry::unix_socket(inherited, name, path.as_ref(), Type::DGRAM, &mut options)?;
        self.keep(name, &socket)?;
        socket.set_nonblocking(true).and_then(|()| UnixDatagram::from_std(socket)).map_err(with_tokio(name))
    }

    /// [`crate::Starting::unix_seqpacket_listener`]: a descriptor, to be waited for with tokio's `AsyncFd`.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn unix_seqpacket_listener(
        &mut self,
        name: &str,
        path: impl AsRef<Path>,
        mut options: impl FnMut(&Socket) -> std::io::Result<()>,
    ) -> Result<OwnedFd> {
        self.registry.claim(name)?;
        let inherited = &mut self.inheritance.inherited;
        let (_, socket): (_, OwnedFd) =
            registry::unix_socket(inherited, name, path.as_ref(), Type::SEQPACKET, &mut options)?;
        self.keep(name, &socket)?;
        Ok(socket)
    }

    /// [`crate::Starting::take_or_else`]: a std type, to be made tokio's with its `from_std`.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn take_or_else<T, E>(&mut self, name: &str, make: impl FnOnce() -> Result<T, E>) -> Result<T>
    where
        T: Inheritable + AsFd,
        E: Into<std::io::Error>,
    {
        self.registry.claim(name)?;
        let taken = self.inheritance.take_or_else(name, make)?;
        self.keep(name, &taken)?;
        Ok(taken)
    }

    /// [`crate::Starting::take_all`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn take_all<T: Inheritable>(&mut self, name: &str) -> Result<Vec<T>> {
        self.inheritance.take_all(name)
    }

    /// [`crate::Starting::state`], decoded on a thread for blocking work.
    ///
    /// # Errors
    ///
    /// As there.
    #[cfg(feature = "bincode")]
    pub async fn state<T: serde::de::DeserializeOwned + Send + 'static>(&self) -> Result<Option<T>, StateError> {
        self.inheritance.state().await
    }

    /// [`crate::Starting::state_with`], decoded on a thread for blocking work.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn state_with<T: Send + 'static>(
        &self,
        decode: impl FnOnce(&Received) -> Result<T, StateError> + Send + 'static,
    ) -> Result<Option<T>, StateError> {
        self.inheritance.state_with(decode).await
    }

    /// [`crate::Starting::progress`].
    pub fn progress(&mut self, message: &str) {
        self.inheritance.progress(message);
    }

    /// [`crate::Starting::on_offer`], called on a thread for blocking work.
    pub fn on_offer<S: Into<Option<State>>>(&mut self, snapshot: impl FnMut() -> S + Send + 'static) {
        self.hooks.snapshot = Hook::new(snapshot);
    }

    /// [`crate::Starting::on_release`], called on a thread for blocking work.
    pub fn on_release<S: Into<Option<State>>>(&mut self, last: impl FnMut() -> S + Send + 'static) {
        self.hooks.last = Hook::new(last);
    }

    /// [`crate::Starting::on_farewell`], called on a thread for blocking work.
    pub fn on_farewell<S: Into<Option<State>>>(&mut self, farewell: impl FnMut() -> S + Send + 'static) {
        self.hooks.farewell = Hook::new(farewell);
    }

    /// [`crate::Starting::ready`] on tokio. Cancelling it gives the handoff up.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn ready(self) -> Result<Handoff> {
        let Starting { inheritance, registry, connections, hooks, operation, announcer, drain } = self;
        let steward = Steward::prepare(operation)?;
        let control = inheritance.ready().await?;
        let generation = Arc::clone(control.inner());
        let steward = Some(Stewarding::Idle(steward.appoint(Arc::clone(&generation))?));
        announcer.serving();
        let handle = Handle { registry, connections, generation, term: Arc::default(), drain };
        Ok(Handoff { control: Some(control), steward, handle, hooks, announcer })
    }

    fn acceptor<L: Listener + AsFd>(&mut self, facts: Arc<Entry>, listener: L) -> Acceptor<L> {
        let acceptor = Acceptor::new(listener, self.connections.clone());
        let (listener, gate) = acceptor.parts();
        self.registry.add_listener(facts, listener, gate);
        acceptor
    }

    fn keep(&mut self, name: &str, fd: &impl AsFd) -> Result<()> {
        self.registry.add(name, vec![registry::copy(name, fd)?]).map(|_| ())
    }
}
