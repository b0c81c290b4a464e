//! A service that initialises, blocking.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Socket, Type};

use crate::core::wire::Entry;
use crate::driver::descriptor::Inheritable;
use crate::driver::steward::{Operation, Steward};
use crate::error::{Error, Result, StateError};
use crate::facade::blocking::accept::{Acceptor, Connections, Listener};
use crate::facade::blocking::handle::Handle;
use crate::facade::blocking::handoff::Handoff;
use crate::facade::blocking::receive::{Inheritance, handoff_receive};
use crate::facade::registry::{self, Registry};
use crate::facade::{Announcer, HandoffBuilder, Hook, Hooks, Plan};
use crate::state::{Received, State};

/// A service that initialises. On an upgrade its predecessor serves meanwhile.
///
/// Dropping it gives the handoff up; the predecessor goes on serving.
#[derive(Debug)]
pub struct Starting {
    inheritance: Inheritance,
    registry: Registry,
    connections: Connections,
    hooks: Hooks,
    operation: Operation,
    announcer: Announcer,
    drain: Duration,
}

impl HandoffBuilder<Handoff> {
    /// Takes over from the process that runs at the control socket, or begins a cold start.
    ///
    /// # Errors
    ///
    /// As [`handoff_receive`].
    pub fn start(self) -> Result<Starting> {
        let Plan { config, operation, announcer, drain } = self.plan();
        let mut inheritance = handoff_receive(config)?;
        inheritance.inherited.operated = true;
        Ok(Starting {
            inheritance,
            registry: Registry::default(),
            connections: Connections::new().map_err(Error::io("count connections"))?,
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

    /// The inherited listener of this name, or else a new one, bound to `addr`. Port 0 stands for any port.
    ///
    /// # Errors
    ///
    /// [`Error::AddressChanged`] where the inherited one is bound elsewhere, and what `bind(2)` says.
    pub fn tcp_listener(&mut self, name: &str, addr: SocketAddr) -> Result<Acceptor<TcpListener>> {
        self.tcp_listener_with(name, addr, |_| Ok(()))
    }

    /// As [`Starting::tcp_listener`]; `options` sets what is to be set on a new socket before it is bound.
    ///
    /// # Errors
    ///
    /// As there, and what `options` says.
    pub fn tcp_listener_with(
        &mut self,
        name: &str,
        addr: SocketAddr,
        mut options: impl FnMut(&Socket) -> std::io::Result<()>,
    ) -> Result<Acceptor<TcpListener>> {
        self.registry.claim(name)?;
        let (facts, listener) = registry::tcp_listener(&mut self.inheritance.inherited, name, addr, &mut options)?;
        self.acceptor(facts, listener)
    }

    /// The inherited UDP socket of this name, or else a new one, bound to `addr`. Port 0 stands for any port. Stop
    /// reading from it when superseded: what has come stays for the successor.
    ///
    /// # Errors
    ///
    /// As [`Starting::tcp_listener`].
    pub fn udp_socket(&mut self, name: &str, addr: SocketAddr) -> Result<UdpSocket> {
        self.udp_socket_with(name, addr, |_| Ok(()))
    }

    /// As [`Starting::udp_socket`]; `options` sets what is to be set on a new socket before it is bound.
    ///
    /// # Errors
    ///
    /// As there, and what `options` says.
    pub fn udp_socket_with(
        &mut self,
        name: &str,
        addr: SocketAddr,
        mut options: impl FnMut(&Socket) -> std::io::Result<()>,
    ) -> Result<UdpSocket> {
        self.registry.claim(name)?;
        let socket = registry::udp_socket(&mut self.inheritance.inherited, name, addr, &mut options)?;
        self.keep(name, &socket)?;
        Ok(socket)
    }

    /// The inherited Unix listener of this name, or else a new one at `path`. A socket there that nobody listens on is
    /// replaced. The path is removed when the service stops, and never at an upgrade.
    ///
    /// # Errors
    ///
    /// As [`Starting::tcp_listener`].
    pub fn unix_listener(&mut self, name: &str, path: impl AsRef<Path>) -> Result<Acceptor<UnixListener>> {
        self.unix_listener_with(name, path, |_| Ok(()))
    }

    /// As [`Starting::unix_listener`]; `options` sets what is to be set on a new socket before it is bound.
    ///
    /// # Errors
    ///
    /// As there, and what `options` says.
    pub fn unix_listener_with(
        &mut self,
        name: &str,
        path: impl AsRef<Path>,
        mut options: impl FnMut(&Socket) -> std::io::Result<()>,
    ) -> Result<Acceptor<UnixListener>> {
        self.registry.claim(name)?;
        let inherited = &mut self.inheritance.inherited;
        let (facts, listener): (_, UnixListener) =
            registry::unix_socket(inherited, name, path.as_ref(), Type::STREAM, &mut options)?;
        self.acceptor(facts, listener)
    }

    /// The inherited Unix datagram socket of this name, or else a new one at `path`, as with
    /// [`Starting::unix_listener`].
    ///
    /// # Errors
    ///
    /// As [`Starting::tcp_listener`].
    pub fn unix_datagram(&mut self, name: &str, path: impl AsRef<Path>) -> Result<UnixDatagram> {
        self.unix_datagram_with(name, path, |_| Ok(()))
    }

    /// As [`Starting::unix_datagram`]; `options` sets what is to be set on a new socket before it is bound.
    ///
    /// # Errors
    ///
    /// As there, and what `options` says.
    pub fn unix_datagram_with(
        &mut self,
        name: &str,
        path: impl AsRef<Path>,
        mut options: impl FnMut(&Socket) -> std::io::Result<()>,
    ) -> Result<UnixDatagram> {
        self.registry.claim(name)?;
        let inherited = &mut self.inheritance.inherited;
        let (_, socket): (_, UnixDatagram) =
            registry::unix_socket(inherited, name, path.as_ref(), Type::DGRAM, &mut options)?;
        self.keep(name, &socket)?;
        Ok(socket)
    }

    /// The inherited Unix seqpacket listener of this name, or else a new one at `path`, as with
    /// [`Starting::unix_listener`]; the standard library has no type for it. `options` sets what is to be set on a new
    /// socket before it is bound. Stop accepting on it when superseded.
    ///
    /// # Errors
    ///
    /// As [`Starting::tcp_listener`], and what `options` says.
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

    /// The inherited descriptor of this name, or else what `make` makes: for a socket or file of any other kind. It is
    /// offered to each successor.
    ///
    /// # Errors
    ///
    /// As [`Inheritance::take`], and what `make` says.
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

    /// All the inherited descriptors of this name, in their order. They are offered to a successor only if they are
    /// registered again, with [`Handle::register_group`].
    ///
    /// # Errors
    ///
    /// As [`Inheritance::take_all`].
    pub fn take_all<T: Inheritable>(&mut self, name: &str) -> Result<Vec<T>> {
        self.inheritance.take_all(name)
    }

    /// The snapshot, if there is one, as [`State::serde`] was given it.
    ///
    /// # Errors
    ///
    /// As [`Received::serde`].
    #[cfg(feature = "bincode")]
    pub fn state<T: serde::de::DeserializeOwned>(&self) -> Result<Option<T>, StateError> {
        self.inheritance.state()
    }

    /// The snapshot, if there is one, as `decode` reads it.
    ///
    /// # Errors
    ///
    /// What `decode` says.
    pub fn state_with<T>(
        &self,
        decode: impl FnOnce(&Received) -> Result<T, StateError>,
    ) -> Result<Option<T>, StateError> {
        self.inheritance.state_with(decode)
    }

    /// Tells the predecessor how the initialisation goes, and begins its ready deadline anew.
    pub fn progress(&mut self, message: &str) {
        self.inheritance.progress(message);
    }

    /// Gives the snapshot, each time that a successor comes: a large part of the state, taken while serving. Nothing is
    /// lost where it panics: that handoff fails.
    pub fn on_offer<S: Into<Option<State>>>(&mut self, snapshot: impl FnMut() -> S + Send + 'static) {
        self.hooks.snapshot = Hook::new(snapshot);
    }

    /// Gives what has changed since the snapshot, when nothing is accepted any more and the successor waits.
    pub fn on_release<S: Into<Option<State>>>(&mut self, last: impl FnMut() -> S + Send + 'static) {
        self.hooks.last = Hook::new(last);
    }

    /// Gives what the last connections have changed since then, when they have ended.
    pub fn on_farewell<S: Into<Option<State>>>(&mut self, farewell: impl FnMut() -> S + Send + 'static) {
        self.hooks.farewell = Hook::new(farewell);
    }

    /// Says that this process can serve, and waits until the service is its own: accept when it returns.
    ///
    /// The signals of the builder are caught from here on.
    ///
    /// # Errors
    ///
    /// As [`Inheritance::ready`].
    pub fn ready(self) -> Result<Handoff> {
        let Starting { inheritance, registry, connections, hooks, operation, announcer, drain } = self;
        let steward = Steward::prepare(operation)?;
        let control = inheritance.ready()?;
        let generation = Arc::clone(control.inner());
        let steward = steward.appoint(Arc::clone(&generation))?;
        announcer.serving();
        let handle = Handle { registry, connections, generation, superseded: Arc::default() };
        Ok(Handoff { control: Some(control), steward, handle, hooks, announcer, drain, turn: None })
    }

    fn acceptor<L>(&mut self, facts: Arc<Entry>, listener: L) -> Result<Acceptor<L>>
    where
        L: Listener + Send + Sync + 'static,
    {
        let acceptor = Acceptor::counted(listener, self.connections.clone());
        let acceptor = acceptor.map_err(|error| Error::io(format!("accept on \"{}\"", facts.name))(error))?;
        let (listener, gate) = acceptor.parts();
        self.registry.add_listener(facts, listener, gate);
        Ok(acceptor)
    }

    fn keep(&mut self, name: &str, fd: &impl AsFd) -> Result<()> {
        self.registry.add(name, vec![registry::copy(name, fd)?]).map(|_| ())
    }
}
