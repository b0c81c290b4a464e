//! The facade, blocking. It runs in the calls of the application: there is no thread besides the one that serves the
//! control socket.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use socket2::{Socket, Type};

use crate::config::Config;
use crate::core::wire::{Attempt, Entry};
use crate::driver::descriptor::Inheritable;
use crate::driver::generation::Generation;
use crate::driver::steward::{Duty, Operation, Steward};
use crate::error::{Error, Failure, Result, StateError};
use crate::facade::blocking::accept::{Acceptor, Connections, Listener};
use crate::facade::blocking::listen::{Control, Ready, Released, Successor, pause};
use crate::facade::blocking::receive::{Inheritance, handoff_receive};
use crate::facade::registry::{self, Registry};
use crate::facade::{Absorb, Announcer, Finish, HandoffBuilder, Hook, Hooks, Plan, TELL};
use crate::state::{Received, State};
use crate::sys::event::wait_readable;

/// A service that serves, hands itself over, and stops.
///
/// Threads of the application accept and serve; this is for the main thread:
///
/// ```no_run
/// use fd_handoff::{Finish, Handoff, SignalKind};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut starting = Handoff::builder("/run/app/handoff.sock")
///     .upgrade_on(SignalKind::hangup())
///     .stop_on(SignalKind::terminate())
///     .start()?;
/// let http = starting.tcp_listener("http", "0.0.0.0:8080".parse()?)?;
/// let mut handoff = starting.ready()?;
/// # fn serve_on_threads(_: &fd_handoff::Acceptor<std::net::TcpListener>) {}
/// loop {
///     serve_on_threads(&http);            // until `http.accept()` gives `None`
///     handoff.superseded();               // a successor is ready, or the service is to stop
///     match handoff.finish()? {           // give the service up, and drain
///         Finish::Exit => return Ok(()),
///         Finish::Resume => continue,     // the successor was lost: accept again
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Handoff {
    control: Option<Control>,
    steward: Steward,
    handle: Handle,
    hooks: Hooks,
    announcer: Announcer,
    drain: Duration,
    turn: Option<Turn>,
}

/// Why this process has stopped accepting.
#[derive(Debug)]
enum Turn {
    Ready(Box<Ready>),
    Stop,
}

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

impl Handoff {
    /// How to run the service at this control socket. To be called first in `main`: it notes by which path, with what
    /// arguments and from where the program was started.
    pub fn builder(config: impl Into<Config>) -> HandoffBuilder<Handoff> {
        HandoffBuilder::new(config.into())
    }
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

impl Handoff {
    /// Waits until this process is to stop accepting: a successor is ready, or the service was told to stop. Listeners
    /// of [`Starting`] have stopped when it returns. Then end whatever else takes in work, and call
    /// [`Handoff::finish`].
    ///
    /// A handoff that fails meanwhile is logged and in `status`, and changes nothing.
    pub fn superseded(&mut self) {
        while self.turn.is_none() {
            self.turn = match self.steward.poll() {
                None => {
                    pause(wait_readable(&[self.steward.poller().as_fd()], self.steward.deadline()));
                    None
                }
                Some(Duty::Absorb(farewell)) => self.absorb(farewell),
                Some(Duty::HandOver(giving)) => self.hand_over(Successor { giving: *giving }),
                Some(Duty::Stop) => Some(Turn::Stop),
            };
        }
        self.handle.supersede();
    }

    /// Gives the service up, waits until the accepted connections have ended or the drain deadline has passed, and says
    /// farewell; or just drains, where the service was told to stop.
    ///
    /// Connections are counted by the listeners of [`Starting`], and by [`Handle::count`].
    ///
    /// Called while nobody has superseded this process, it stops the service as [`Handle::stop`] does. Called again after
    /// [`Finish::Exit`], it does nothing.
    ///
    /// # Errors
    ///
    /// Where nobody can tell who serves, or the last state could not be handed over: exit.
    pub fn finish(&mut self) -> Result<Finish, Failure> {
        if self.control.is_none() {
            return Ok(Finish::Exit);
        }
        if self.turn.is_none() {
            self.handle.stop();
            self.superseded();
        }
        let Some(Turn::Ready(ready)) = self.turn.take() else {
            self.stop();
            return Ok(Finish::Exit);
        };
        match self.release(*ready) {
            Ok(()) => {
                self.control = None;
                Ok(Finish::Exit)
            }
            Err(failure) if failure.may_serve() => {
                self.announcer.serving();
                self.handle.superseded.store(false, Ordering::SeqCst);
                self.handle.registry.open();
                Ok(Finish::Resume)
            }
            Err(failure) => {
                self.control = None;
                Err(failure)
            }
        }
    }

    /// What other threads can do with the service.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// This process's generation, from 1.
    pub fn generation(&self) -> u64 {
        self.handle.generation.number
    }

    /// The state that the predecessor sent with its release, once: what had changed since the snapshot.
    ///
    /// # Errors
    ///
    /// As [`Control::final_state`].
    pub fn final_state(&self) -> Result<Option<Received>, StateError> {
        self.handle.generation.take_final_state()
    }

    /// Has `absorb` called with each of the predecessor's farewells, from [`Handoff::superseded`] and
    /// [`Handoff::finish`]. Those that nobody takes are passed on to the successor.
    ///
    /// # Errors
    ///
    /// What the kernel says where it cannot wait for them.
    pub fn absorb_farewells(&mut self, absorb: impl FnMut(Received) + Send + 'static) -> Result<()> {
        self.hooks.absorb = Some(Absorb::new(absorb));
        self.steward.absorb_farewells()
    }

    fn absorb(&self, farewell: Received) -> Option<Turn> {
        if let Some(absorb) = &self.hooks.absorb {
            absorb.call(farewell);
        }
        None
    }

    fn hand_over(&self, successor: Successor) -> Option<Turn> {
        let snapshot = match self.hooks.snapshot.call() {
            Ok(snapshot) => snapshot,
            Err(error) => {
                successor.refuse(&error.to_string());
                return None;
            }
        };
        let table = self.handle.registry.table();
        let offer = snapshot.into_iter().fold(registry::offer(&table), |offer, state| offer.state(state));
        // Why it failed is in the log and in `status`.
        successor.offer(offer).ok().map(Box::new).map(Turn::Ready)
    }

    fn release(&mut self, mut ready: Ready) -> Result<(), Failure> {
        let last = ready.check(self.hooks.last.call())?;
        let mut released = ready.release(last)?;
        self.drain(&mut released)?;
        released.await_predecessor()?;
        while let Some(farewell) = self.steward.farewell() {
            self.absorb(farewell);
        }
        let farewell = self.hooks.farewell.call().unwrap_or_else(|error| {
            tracing::error!(event = "state_lost", %error, "the last state is lost");
            None
        });
        released.farewell(farewell)
    }

    fn drain(&self, released: &mut Released) -> Result<(), Failure> {
        let connections = &self.handle.connections;
        let none_left = connections.none_left();
        let deadline = Instant::now() + self.drain;
        let mut told = None;
        loop {
            let (left, now) = (connections.count(), Instant::now());
            if told.replace(left) != Some(left) {
                released.draining(left as u64);
            }
            if left == 0 {
                return Ok(());
            }
            if deadline <= now {
                tracing::warn!(
                    event = "overdue",
                    connections = left,
                    "the drain deadline has passed; ending what is left"
                );
                return Ok(());
            }
            if let Some(failure) = released.lost_or(none_left.as_fd(), Some(deadline.min(now + TELL))) {
                return Err(failure);
            }
            none_left.lower();
        }
    }

    fn stop(&mut self) {
        self.announcer.stopping();
        self.handle.supersede();
        let connections = &self.handle.connections;
        let none_left = connections.none_left();
        let deadline = Instant::now() + self.drain;
        while connections.count() > 0 && Instant::now() < deadline {
            pause(wait_readable(&[none_left.as_fd()], Some(deadline)));
            none_left.lower();
        }
        // As long as the control socket is there, nobody else begins to serve, and makes these anew.
        self.handle.registry.remove_paths();
        self.announcer.stopped();
        self.control = None;
    }
}

/// What other threads can do with a service.
#[derive(Debug, Clone)]
pub struct Handle {
    registry: Registry,
    connections: Connections,
    generation: Arc<Generation>,
    superseded: Arc<AtomicBool>,
}

impl Handle {
    /// Whether this process is to stop accepting, or has. A server may then tell each of its clients that this is the
    /// last answer on their connection.
    pub fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::SeqCst)
    }

    /// How many connections are counted.
    pub fn connections(&self) -> usize {
        self.connections.count()
    }

    /// Counts a connection, or a job, that did not come from a listener of [`Starting`], until what this returns is
    /// dropped: the drain waits for it.
    pub fn count(&self) -> crate::facade::blocking::accept::Counted {
        self.connections.begin()
    }

    /// Has a new process take over, and waits for the outcome. Not to be called on the thread that is in
    /// [`Handoff::superseded`].
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with the code `busy` where an upgrade or a handoff is under way.
    pub fn upgrade(&self) -> Result<Attempt> {
        let (sender, outcome) = mpsc::channel();
        let tell = Box::new(move |attempt| drop(sender.send(attempt)));
        self.generation.call_upgrade(tell)?;
        outcome.recv().map_err(|_| Error::Closed)
    }

    /// Stops the service.
    pub fn stop(&self) {
        self.generation.ask_stop();
    }

    /// Names another socket or file, and offers it to each successor, in the place of those that had the name. It is
    /// duplicated: it stays open here until it is [forgotten](Handle::forget).
    ///
    /// # Errors
    ///
    /// A name that is not allowed, or a descriptor that cannot be examined or duplicated.
    pub fn register(&self, name: &str, fd: &impl AsFd) -> Result<()> {
        self.register_group(name, [fd])
    }

    /// As [`Handle::register`], for several under one name.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register_group<'a, T: AsFd + 'a>(&self, name: &str, fds: impl IntoIterator<Item = &'a T>) -> Result<()> {
        registry::register_group(&self.registry, &self.generation, name, fds)
    }

    /// Stops accepting on the sockets of this name, and no longer offers them: the service gives a part of itself up,
    /// and serves on with the rest. Returns whether there were any.
    pub fn forget(&self, name: &str) -> bool {
        registry::forget(&self.registry, &self.generation, name)
    }

    /// Nothing more is accepted here from now on.
    fn supersede(&self) {
        self.superseded.store(true, Ordering::SeqCst);
        self.registry.shut();
    }
}
