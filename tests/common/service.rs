//! The facade's two forms behind one set of calls.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fd_handoff::client::Attempt;
use fd_handoff::{Config, Failure, Finish, HandoffBuilder, Inheritable, Received, Result, State, StateError};
use socket2::Socket;
#[cfg(feature = "tokio")]
use tokio::runtime::Runtime;

#[cfg(feature = "tokio")]
use super::runtime;
use super::{Form, sides};

sides! { Starting Handoff Handle }

/// What is set on a builder of either form.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) drain: Option<Duration>,
    pub(crate) pidfile: Option<std::path::PathBuf>,
    pub(crate) signals: bool,
    pub(crate) successor: Option<Box<dyn FnMut() -> std::process::Command + Send>>,
    pub(crate) elsewhere: bool,
}

impl Plan {
    fn apply<H>(self, mut builder: HandoffBuilder<H>) -> HandoffBuilder<H> {
        if let Some(drain) = self.drain {
            builder = builder.drain(drain);
        }
        if let Some(pidfile) = self.pidfile {
            builder = builder.pidfile(pidfile);
        }
        if self.signals {
            use fd_handoff::SignalKind;
            builder = builder.upgrade_on(SignalKind::hangup()).stop_on(SignalKind::terminate());
        }
        if let Some(successor) = self.successor {
            builder = builder.successor(successor);
        }
        if self.elsewhere { builder.successor_elsewhere() } else { builder }
    }
}

impl Form {
    pub(crate) fn start(self, config: impl Into<Config>) -> Result<Starting> {
        self.start_with(config, Plan::default())
    }

    pub(crate) fn start_with(self, config: impl Into<Config>, plan: Plan) -> Result<Starting> {
        match self {
            Form::Blocking => plan.apply(fd_handoff::Handoff::builder(config)).start().map(Starting::Blocking),
            #[cfg(feature = "tokio")]
            Form::Tokio => {
                let runtime = runtime();
                let starting = runtime.block_on(plan.apply(fd_handoff::tokio::Handoff::builder(config)).start());
                starting.map(|starting| Starting::Tokio(starting, runtime))
            }
        }
    }
}

/// An acceptor of either form.
#[derive(Clone)]
pub(crate) enum Door {
    Blocking(fd_handoff::Acceptor<TcpListener>),
    #[cfg(feature = "tokio")]
    Tokio(fd_handoff::tokio::Acceptor<tokio::net::TcpListener>, Arc<Runtime>),
}

/// What counts a connection until it is dropped.
pub(crate) type Counted = Box<dyn std::any::Any + Send>;

impl Door {
    pub(crate) fn addr(&self) -> SocketAddr {
        match self {
            Door::Blocking(it) => it.local_addr(),
            #[cfg(feature = "tokio")]
            Door::Tokio(it, _) => it.local_addr(),
        }
        .unwrap()
    }

    /// What the kernel knows it by.
    pub(crate) fn inode(&self) -> u64 {
        match self {
            Door::Blocking(it) => super::raw::inode(it),
            #[cfg(feature = "tokio")]
            Door::Tokio(it, _) => super::raw::inode(&*it.listener().unwrap()),
        }
    }

    /// A counted connection; `None` when superseded.
    pub(crate) fn accept(&self) -> Option<(TcpStream, Counted)> {
        match self {
            Door::Blocking(it) => {
                let (stream, counted) = it.accept().unwrap()?.0.into_parts();
                Some((stream, Box::new(counted)))
            }
            #[cfg(feature = "tokio")]
            Door::Tokio(it, runtime) => {
                let (stream, counted) = runtime.block_on(it.accept()).unwrap()?.0.into_parts();
                let stream = stream.into_std().unwrap();
                stream.set_nonblocking(false).unwrap();
                Some((stream, Box::new(counted)))
            }
        }
    }
}

/// A Unix listener's acceptor of either form.
pub(crate) enum UnixDoor {
    Blocking(fd_handoff::Acceptor<UnixListener>),
    #[cfg(feature = "tokio")]
    Tokio(fd_handoff::tokio::Acceptor<tokio::net::UnixListener>, Arc<Runtime>),
}

impl UnixDoor {
    pub(crate) fn accepts(&self) -> bool {
        match self {
            UnixDoor::Blocking(it) => it.accept().unwrap().is_some(),
            #[cfg(feature = "tokio")]
            UnixDoor::Tokio(it, runtime) => runtime.block_on(it.accept()).unwrap().is_some(),
        }
    }
}

/// Calls what does not wait, inside the runtime.
macro_rules! call {
    ($self:ident, $it:ident => $call:expr) => {
        match $self {
            Self::Blocking($it) => $call,
            #[cfg(feature = "tokio")]
            Self::Tokio($it, runtime) => {
                let _inside = runtime.enter();
                $call
            }
        }
    };
}

impl Starting {
    pub(crate) fn tcp(&mut self, name: &str) -> Result<Door> {
        self.tcp_with(name, "127.0.0.1:0".parse().unwrap(), |_| Ok(()))
    }

    pub(crate) fn tcp_with(
        &mut self,
        name: &str,
        addr: SocketAddr,
        options: impl FnMut(&Socket) -> std::io::Result<()>,
    ) -> Result<Door> {
        match self {
            Starting::Blocking(it) => it.tcp_listener_with(name, addr, options).map(Door::Blocking),
            #[cfg(feature = "tokio")]
            Starting::Tokio(it, runtime) => {
                let _inside = runtime.enter();
                let acceptor = it.tcp_listener_with(name, addr, options);
                acceptor.map(|acceptor| Door::Tokio(acceptor, Arc::clone(runtime)))
            }
        }
    }

    pub(crate) fn udp_with(
        &mut self,
        name: &str,
        options: impl FnMut(&Socket) -> std::io::Result<()>,
    ) -> Result<UdpSocket> {
        let addr = "127.0.0.1:0".parse().unwrap();
        match self {
            Starting::Blocking(it) => it.udp_socket_with(name, addr, options),
            #[cfg(feature = "tokio")]
            Starting::Tokio(it, runtime) => {
                let _inside = runtime.enter();
                it.udp_socket_with(name, addr, options).map(|socket| socket.into_std().unwrap())
            }
        }
    }

    pub(crate) fn udp_at(&mut self, name: &str, addr: SocketAddr) -> Result<UdpSocket> {
        match self {
            Starting::Blocking(it) => it.udp_socket(name, addr),
            #[cfg(feature = "tokio")]
            Starting::Tokio(it, runtime) => {
                let _inside = runtime.enter();
                it.udp_socket(name, addr).map(|socket| socket.into_std().unwrap())
            }
        }
    }

    pub(crate) fn unix(&mut self, name: &str, path: impl AsRef<Path>) -> Result<UnixDoor> {
        match self {
            Starting::Blocking(it) => it.unix_listener(name, path).map(UnixDoor::Blocking),
            #[cfg(feature = "tokio")]
            Starting::Tokio(it, runtime) => {
                let _inside = runtime.enter();
                let acceptor = it.unix_listener(name, path);
                acceptor.map(|acceptor| UnixDoor::Tokio(acceptor, Arc::clone(runtime)))
            }
        }
    }

    pub(crate) fn seqpacket(
        &mut self,
        name: &str,
        path: impl AsRef<Path>,
        options: impl FnMut(&Socket) -> std::io::Result<()>,
    ) -> Result<OwnedFd> {
        match self {
            Starting::Blocking(it) => it.unix_seqpacket_listener(name, path, options),
            #[cfg(feature = "tokio")]
            Starting::Tokio(it, _) => it.unix_seqpacket_listener(name, path, options),
        }
    }

    pub(crate) fn unix_datagram(&mut self, name: &str, path: impl AsRef<Path>) -> Result<UnixDatagram> {
        match self {
            Starting::Blocking(it) => it.unix_datagram(name, path),
            #[cfg(feature = "tokio")]
            Starting::Tokio(it, runtime) => {
                let _inside = runtime.enter();
                it.unix_datagram(name, path).map(|socket| socket.into_std().unwrap())
            }
        }
    }

    pub(crate) fn take_or_else<T: Inheritable + AsFd>(
        &mut self,
        name: &str,
        make: impl FnOnce() -> std::io::Result<T>,
    ) -> Result<T> {
        call!(self, it => it.take_or_else(name, make))
    }

    pub(crate) fn tcp_or_else(
        &mut self,
        name: &str,
        make: impl FnOnce() -> std::io::Result<TcpListener>,
    ) -> Result<Door> {
        match self {
            Starting::Blocking(it) => it.listener_or_else(name, make).map(Door::Blocking),
            #[cfg(feature = "tokio")]
            Starting::Tokio(it, runtime) => {
                let _inside = runtime.enter();
                let acceptor = it.listener_or_else(name, make);
                acceptor.map(|acceptor| Door::Tokio(acceptor, Arc::clone(runtime)))
            }
        }
    }

    pub(crate) fn unix_or_else(
        &mut self,
        name: &str,
        make: impl FnOnce() -> std::io::Result<UnixListener>,
    ) -> Result<UnixDoor> {
        match self {
            Starting::Blocking(it) => it.listener_or_else(name, make).map(UnixDoor::Blocking),
            #[cfg(feature = "tokio")]
            Starting::Tokio(it, runtime) => {
                let _inside = runtime.enter();
                let acceptor = it.listener_or_else(name, make);
                acceptor.map(|acceptor| UnixDoor::Tokio(acceptor, Arc::clone(runtime)))
            }
        }
    }

    pub(crate) fn listeners(&mut self, name: &str) -> Result<Vec<Door>> {
        match self {
            Starting::Blocking(it) => Ok(it.listeners::<TcpListener>(name)?.into_iter().map(Door::Blocking).collect()),
            #[cfg(feature = "tokio")]
            Starting::Tokio(it, runtime) => {
                let _inside = runtime.enter();
                let acceptors = it.listeners::<TcpListener>(name)?;
                Ok(acceptors.into_iter().map(|acceptor| Door::Tokio(acceptor, Arc::clone(runtime))).collect())
            }
        }
    }

    pub(crate) fn take_all<T: Inheritable>(&mut self, name: &str) -> Result<Vec<T>> {
        call!(self, it => it.take_all(name))
    }

    pub(crate) fn generation(&self) -> u64 {
        call!(self, it => it.generation())
    }

    pub(crate) fn handle(&self) -> Handle {
        match self {
            Starting::Blocking(it) => Handle::Blocking(it.handle()),
            #[cfg(feature = "tokio")]
            Starting::Tokio(it, runtime) => Handle::Tokio(it.handle(), Arc::clone(runtime)),
        }
    }

    /// The snapshot's bytes as text.
    pub(crate) fn text(&self) -> Option<String> {
        let decode = |state: &Received| Ok(super::text(state));
        match self {
            Starting::Blocking(it) => it.state_with(decode),
            #[cfg(feature = "tokio")]
            Starting::Tokio(it, runtime) => runtime.block_on(it.state_with(decode)),
        }
        .unwrap()
    }

    pub(crate) fn state_with<T: Send + 'static>(
        &self,
        decode: impl FnOnce(&Received) -> Result<T, StateError> + Send + 'static,
    ) -> Result<Option<T>, StateError> {
        match self {
            Starting::Blocking(it) => it.state_with(decode),
            #[cfg(feature = "tokio")]
            Starting::Tokio(it, runtime) => runtime.block_on(it.state_with(decode)),
        }
    }

    pub(crate) fn fail(self, reason: &str) {
        call!(self, it => it.fail(reason));
    }

    pub(crate) fn progress(&mut self, message: &str) {
        call!(self, it => it.progress(message));
    }

    pub(crate) fn on_offer<S: Into<Option<State>>>(&mut self, give: impl FnMut() -> S + Send + 'static) {
        call!(self, it => it.on_offer(give));
    }

    pub(crate) fn on_release<S: Into<Option<State>>>(&mut self, give: impl FnMut() -> S + Send + 'static) {
        call!(self, it => it.on_release(give));
    }

    pub(crate) fn on_farewell<S: Into<Option<State>>>(&mut self, give: impl FnMut() -> S + Send + 'static) {
        call!(self, it => it.on_farewell(give));
    }

    pub(crate) fn ready(self) -> Result<Handoff> {
        match self {
            Starting::Blocking(it) => it.ready().map(Handoff::Blocking),
            #[cfg(feature = "tokio")]
            Starting::Tokio(it, runtime) => {
                let handoff = runtime.block_on(it.ready());
                handoff.map(|handoff| Handoff::Tokio(handoff, runtime))
            }
        }
    }
}

impl Handoff {
    pub(crate) fn superseded(&mut self) {
        match self {
            Handoff::Blocking(it) => it.superseded(),
            #[cfg(feature = "tokio")]
            Handoff::Tokio(it, runtime) => {
                let superseded = {
                    let _inside = runtime.enter();
                    it.superseded()
                };
                runtime.block_on(superseded);
            }
        }
    }

    pub(crate) fn finish(&mut self) -> Result<Finish, Failure> {
        match self {
            Handoff::Blocking(it) => it.finish(),
            #[cfg(feature = "tokio")]
            Handoff::Tokio(it, runtime) => {
                let drained = it.handle().drained();
                runtime.block_on(it.finish(drained))
            }
        }
    }

    /// Serves until it is superseded, and hands over or stops.
    pub(crate) fn run(&mut self) -> Result<Finish, Failure> {
        self.superseded();
        self.finish()
    }

    pub(crate) fn handle(&self) -> Handle {
        match self {
            Handoff::Blocking(it) => Handle::Blocking(it.handle()),
            #[cfg(feature = "tokio")]
            Handoff::Tokio(it, runtime) => Handle::Tokio(it.handle(), Arc::clone(runtime)),
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        call!(self, it => it.generation())
    }

    pub(crate) fn final_text(&self) -> Option<String> {
        let state: Result<_, StateError> = call!(self, it => it.final_state());
        state.unwrap().map(|state| super::text(&state))
    }

    pub(crate) fn absorb_farewells(&mut self, absorb: impl FnMut(Received) + Send + 'static) {
        call!(self, it => it.absorb_farewells(absorb));
    }
}

impl Handle {
    pub(crate) fn is_superseded(&self) -> bool {
        call!(self, it => it.is_superseded())
    }

    pub(crate) fn connections(&self) -> usize {
        call!(self, it => it.connections())
    }

    pub(crate) fn count(&self) -> Counted {
        match self {
            Handle::Blocking(it) => Box::new(it.count()),
            #[cfg(feature = "tokio")]
            Handle::Tokio(it, _) => Box::new(it.count()),
        }
    }

    pub(crate) fn upgrade(&self) -> Result<Attempt> {
        match self {
            Handle::Blocking(it) => it.upgrade(),
            #[cfg(feature = "tokio")]
            Handle::Tokio(it, runtime) => runtime.block_on(it.upgrade()),
        }
    }

    pub(crate) fn stop(&self) {
        call!(self, it => it.stop());
    }

    pub(crate) fn register(&self, name: &str, fd: &impl AsFd) -> Result<()> {
        call!(self, it => it.register(name, fd))
    }

    pub(crate) fn register_group<'a, T: AsFd + 'a>(
        &self,
        name: &str,
        fds: impl IntoIterator<Item = &'a T>,
    ) -> Result<()> {
        call!(self, it => it.register_group(name, fds))
    }

    pub(crate) fn forget(&self, name: &str) -> bool {
        call!(self, it => it.forget(name))
    }
}

impl Clone for Handle {
    fn clone(&self) -> Handle {
        match self {
            Handle::Blocking(it) => Handle::Blocking(it.clone()),
            #[cfg(feature = "tokio")]
            Handle::Tokio(it, runtime) => Handle::Tokio(it.clone(), Arc::clone(runtime)),
        }
    }
}
