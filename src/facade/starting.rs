//! A service that initialises, in either form.

use std::fmt::Display;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Socket, Type};

use crate::core::wire::{Entry, Kind};
use crate::driver::descriptor::{Inheritable, Shared, application_name};
use crate::driver::early_stop::EarlyStop;
use crate::driver::generation::Generation;
use crate::driver::hooks::{Hook, Hooks};
use crate::driver::launch::Launch;
use crate::driver::seat::Seat;
use crate::driver::steward::{Application, Steward};
use crate::driver::worker::Surround;
use crate::error::{Error, Result};
use crate::facade::form::{Form, Gated, IntoAcceptor};
use crate::facade::handle::Handle;
use crate::facade::heartbeat::Hearts;
use crate::facade::inheritance::{Inheritance, waiting_on};
use crate::facade::registry::{self, Registry};
use crate::facade::{Announcer, Plan};
use crate::state::State;

/// A service that initialises. On an upgrade its predecessor serves meanwhile. [`crate::Starting`], and
/// [`crate::tokio::Starting`] on tokio.
///
/// Dropping it gives the handoff up; the predecessor goes on serving, and is told what the last call failed of, if it
/// did. [`Starting::fail`] names another reason.
#[derive(Debug)]
pub struct Starting<F: Form> {
    pub(super) inheritance: Inheritance<F>,
    pub(super) handle: Handle<F>,
    pub(super) hooks: Hooks,
    pub(super) launch: Launch,
    pub(super) announcer: Announcer,
    pub(super) drain: Duration,
    /// Hears the signals that stop this process while it initialises.
    pub(super) early: EarlyStop,
}

/// What goes from a service that initialises to the one that serves.
pub(super) struct Parts<F: Form> {
    pub(super) handle: Handle<F>,
    pub(super) hooks: Hooks,
    pub(super) launch: Launch,
    pub(super) announcer: Announcer,
    pub(super) drain: Duration,
}

impl<F: Form> Starting<F> {
    /// What was taken over is to be run as the plan says.
    ///
    /// # Errors
    ///
    /// What the kernel says where connections cannot be counted.
    pub(super) fn begin(mut inheritance: Inheritance<F>, how: Plan, early: EarlyStop) -> Result<Starting<F>> {
        inheritance.inherited.operated = true;
        let passed = inheritance.inherited.add_passed(how.passed);
        inheritance.inherited.noted(passed)?;
        early.leave_behind(inheritance.inherited.last_words());
        let connections = F::connections().map_err(Error::io("count connections"));
        let connections = inheritance.inherited.noted(connections)?;
        Ok(Starting {
            inheritance,
            handle: Handle {
                registry: Registry::default(),
                connections,
                seat: Seat::default(),
                term: F::Term::default(),
                hearts: Hearts::default(),
            },
            hooks: Hooks::default(),
            launch: how.operation.launch,
            announcer: how.announcer,
            drain: how.drain,
            early,
        })
    }

    /// What makes a steward for the new generation, once there is one: all that can fail of it comes before this process
    /// says that it is ready.
    pub(super) fn steward(
        parts: Parts<F>,
        surround: Option<Surround>,
        ending: Duration,
    ) -> impl FnOnce(&Arc<Generation>) -> Result<Steward> {
        let Parts { handle: Handle { registry, connections, seat, hearts, .. }, hooks, launch, announcer, drain } =
            parts;
        move |generation| {
            seat.take(generation)?;
            let (sockets, held, bound) = (registry.clone(), registry.clone(), registry);
            generation.holds(move |stand_in| held.let_go(stand_in));
            let looking = sockets.clone();
            generation.looks(move || registry::cut_off(&looking.table()));
            let (telling, ready) = (announcer.clone(), generation.config.timeouts.ready);
            generation.tells(move |event| telling.tell(event, ready));
            let (announcing, ending_soon, number) = (announcer.clone(), announcer.clone(), generation.number);
            let (living, minded) = (announcer.clone(), announcer.clone());
            let watchdog = announcer.watchdog();
            let sign_of_life = move || {
                let alive = hearts.all_beat();
                if alive {
                    living.alive();
                }
                alive
            };
            let application = Application {
                hooks,
                offer: Box::new(move || registry::offer(&sockets.table())),
                connections: Box::new(move || F::count(&connections)),
                serving: Box::new(move || announcing.serving(number)),
                stopping: Box::new(move |limit| ending_soon.stopping(limit)),
                stopped: Box::new(move || bound.remove_paths()),
                withdrawn: Box::new(move || announcer.stopped()),
                watchdog,
                sign_of_life: Box::new(sign_of_life),
                is_minded_apart: Box::new(move || minded.is_minded_apart()),
                surround,
                drain,
                ending,
            };
            Steward::appoint(Arc::clone(generation), launch, application)
        }
    }

    /// What other threads and tasks can do with the service, those that are set up before it serves as well. It is the same as
    /// `Handoff::handle` gives later: who waits on it for the end of the service hears of it, what is registered is offered to
    /// each successor, and [`stop`](Handle::stop) ends this start. An upgrade is refused until this process serves.
    pub fn handle(&self) -> Handle<F> {
        self.handle.clone()
    }

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
    /// With the feature `systemd`, one that whoever started the service has passed under this name (`LISTEN_FDNAMES`, in a socket
    /// unit `FileDescriptorName=`) is as good as inherited, and so is one without a name that is bound to `addr`: see
    /// `sd_listen_fds(3)`. That holds for each call of this type.
    ///
    /// # Errors
    ///
    /// [`Error::AddressChanged`] where the inherited one is bound elsewhere, and what `bind(2)` says.
    pub fn tcp_listener(&mut self, name: &str, addr: SocketAddr) -> Result<F::TcpAcceptor> {
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
    ) -> Result<F::TcpAcceptor> {
        self.under(name, |it| {
            let (facts, listener) = registry::tcp_listener(&mut it.inheritance.inherited, name, addr, &mut options)?;
            let gated = F::accept_tcp(listener, &it.handle.connections).map_err(waiting_on(name))?;
            Ok(it.accept_behind(facts, gated))
        })
    }

    /// The inherited UDP socket of this name, or else a new one, bound to `addr`. Port 0 stands for any port. Stop
    /// reading from it when superseded: what has come stays for the successor. It is the application's own: when the service
    /// stops, its address is free once the application has dropped it.
    ///
    /// # Errors
    ///
    /// As [`Starting::tcp_listener`].
    pub fn udp_socket(&mut self, name: &str, addr: SocketAddr) -> Result<F::UdpSocket> {
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
    ) -> Result<F::UdpSocket> {
        self.under(name, |it| {
            let (facts, socket) = registry::udp_socket(&mut it.inheritance.inherited, name, addr, &mut options)?;
            it.keep(&facts, &socket)?;
            F::udp_socket(socket).map_err(waiting_on(name))
        })
    }

    /// The inherited Unix listener of this name, or else a new one at `path`. A socket there that nobody listens on is
    /// replaced. Where this service has bound it, in whichever generation, the path is removed when the service stops, and
    /// never at an upgrade; one that was passed to the service keeps its path. An inherited one that the new version does not
    /// take loses its path once nobody is left who would serve there again.
    ///
    /// # Errors
    ///
    /// As [`Starting::tcp_listener`].
    pub fn unix_listener(&mut self, name: &str, path: impl AsRef<Path>) -> Result<F::UnixAcceptor> {
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
    ) -> Result<F::UnixAcceptor> {
        self.under(name, |it| {
            let inherited = &mut it.inheritance.inherited;
            let (facts, listener) = registry::unix_socket(inherited, name, path.as_ref(), Type::STREAM, &mut options)?;
            let gated = F::accept_unix(listener, &it.handle.connections).map_err(waiting_on(name))?;
            Ok(it.accept_behind(facts, gated))
        })
    }

    /// The inherited Unix datagram socket of this name, or else a new one at `path`, as with
    /// [`Starting::unix_listener`].
    ///
    /// # Errors
    ///
    /// As [`Starting::tcp_listener`].
    pub fn unix_datagram(&mut self, name: &str, path: impl AsRef<Path>) -> Result<F::UnixDatagram> {
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
    ) -> Result<F::UnixDatagram> {
        self.under(name, |it| {
            let inherited = &mut it.inheritance.inherited;
            let (facts, socket): (_, UnixDatagram) =
                registry::unix_socket(inherited, name, path.as_ref(), Type::DGRAM, &mut options)?;
            it.keep(&facts, &socket)?;
            F::unix_datagram(socket).map_err(waiting_on(name))
        })
    }

    /// The inherited Unix seqpacket listener of this name, or else a new one at `path`, as with
    /// [`Starting::unix_listener`]; neither the standard library nor tokio has a type for it. `options` sets what is to
    /// be set on a new socket before it is bound. Stop accepting on it when superseded; on tokio, `AsyncFd` waits for it.
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
        self.under(name, |it| {
            let inherited = &mut it.inheritance.inherited;
            let (facts, socket): (_, OwnedFd) =
                registry::unix_socket(inherited, name, path.as_ref(), Type::SEQPACKET, &mut options)?;
            if facts.kind != Kind::UnixSeqpacketListener {
                let (name, found) = (facts.name.clone(), facts.kind);
                return Err(Error::WrongKind { name, found, wanted: &[Kind::UnixSeqpacketListener] });
            }
            it.keep(&facts, &socket)?;
            Ok(socket)
        })
    }

    /// The inherited descriptor of this name, or else what `make` makes: for a socket or file of any other kind. It is
    /// offered to each successor. In either form it is a type of std's, to be made tokio's with its `from_std`. What this gives
    /// is the application's own: when the service stops, nobody closes it but the application.
    ///
    /// # Errors
    ///
    /// As [`Inheritance::take`], and what `make` says.
    pub fn take_or_else<T, E>(&mut self, name: &str, make: impl FnOnce() -> Result<T, E>) -> Result<T>
    where
        T: Inheritable + AsFd,
        E: Into<std::io::Error>,
    {
        self.under(name, |it| {
            let (facts, taken) = it.inheritance.inherited.take_or_make(name, make)?;
            it.keep(&facts, &taken)?;
            Ok(taken)
        })
    }

    /// The inherited listener of this name, or else what `make` makes: one that was made in a way that
    /// [`Starting::tcp_listener_with`] has no room for. It is accepted on as any other, and offered to each successor.
    ///
    /// `make` gives a [`TcpListener`](std::net::TcpListener) or a [`UnixListener`](std::os::unix::net::UnixListener) of the standard
    /// library's; tokio's have `into_std`. The address of an inherited one is not compared with anything, and the path of a Unix
    /// listener is the program's own to remove.
    ///
    /// ```no_run
    /// # fn made() -> std::io::Result<std::net::TcpListener> { std::net::TcpListener::bind("127.0.0.1:0") }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut starting = fd_handoff::Handoff::builder("/run/app/handoff.sock").start()?;
    /// let http = starting.listener_or_else("http", || made())?;          // asked on a cold start, or where it is new
    /// while let Some((connection, peer)) = http.accept()? {
    ///     # let _ = (connection, peer);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Inheritance::take`], what `make` says, and [`Error::WrongKind`] where what it makes does not listen.
    pub fn listener_or_else<L, E>(&mut self, name: &str, make: impl FnOnce() -> Result<L, E>) -> Result<L::Acceptor>
    where
        L: IntoAcceptor<F>,
        E: Into<std::io::Error>,
    {
        self.under(name, |it| {
            let (facts, listener) = it.inheritance.inherited.take_or_make(name, make)?;
            if !L::KINDS.contains(&facts.kind) {
                return Err(Error::WrongKind { name: facts.name.clone(), found: facts.kind, wanted: L::KINDS });
            }
            let gated = listener.gated(&it.handle.connections).map_err(waiting_on(name))?;
            Ok(it.accept_behind(facts, gated))
        })
    }

    /// All the inherited listeners of this name, in their order, such as those that a socket unit with several `ListenStream=`
    /// passes: each is accepted on as any other, and all of them are offered to each successor as one group. Empty where there is
    /// none.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut starting = fd_handoff::Handoff::builder("/run/app/handoff.sock").start()?;
    /// for http in starting.listeners::<std::net::TcpListener>("http")? {
    ///     std::thread::spawn(move || while let Ok(Some((connection, peer))) = http.accept() {
    ///         # let _ = (connection, peer);
    ///     });
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Inheritance::take_all`].
    pub fn listeners<L: IntoAcceptor<F>>(&mut self, name: &str) -> Result<Vec<L::Acceptor>> {
        self.under(name, |it| {
            let taken: Vec<(Arc<Entry>, L)> = it.inheritance.inherited.take_group(name)?;
            let Some(passed) = taken.first().map(|(entry, _)| entry.passed) else { return Ok(Vec::new()) };
            let (mut fds, mut gates, mut acceptors) = (Vec::new(), Vec::new(), Vec::new());
            for (_, listener) in taken {
                let gated = listener.gated(&it.handle.connections).map_err(waiting_on(name))?;
                fds.push(gated.listener);
                gates.push(gated.gate);
                acceptors.push(gated.acceptor);
            }
            it.handle.registry.add_group(&application_name(name)?, fds, gates, passed);
            Ok(acceptors)
        })
    }

    /// All the inherited descriptors of this name, in their order. They are offered to a successor only if they are
    /// registered again, with [`Handle::register_group`](crate::form::Handle::register_group).
    ///
    /// # Errors
    ///
    /// As [`Inheritance::take_all`].
    pub fn take_all<T: Inheritable>(&mut self, name: &str) -> Result<Vec<T>> {
        self.inheritance.take_all(name)
    }

    /// Tells the predecessor how the initialisation goes, and begins its ready deadline anew. With the feature `systemd` the
    /// service manager that has started this process hears it as well, and waits as long from here on.
    pub fn progress(&mut self, message: &str) {
        self.announcer.starting(message, self.inheritance.inherited.ready_timeout());
        self.inheritance.progress(message);
    }

    /// Gives the handoff up, and tells the predecessor why, as [`Inheritance::fail`] does.
    pub fn fail(self, reason: impl Display) {
        self.inheritance.fail(reason);
    }

    /// Gives the snapshot, each time that a successor comes, or a [`Keeper`](crate::Keeper): a large part of the state, taken while serving. Nothing is
    /// lost where it panics: that handoff fails. This and the other two are called on a thread of their own, and may take
    /// [`Timeouts::hook`](crate::Timeouts) where clients wait for them.
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

    /// Runs a call of the application's for a name that is free, and remembers why it failed.
    fn under<T>(&mut self, name: &str, call: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let done = self.handle.registry.claim(name).and_then(|()| call(self));
        self.inheritance.inherited.noted(done)
    }

    fn accept_behind<A>(&mut self, facts: Arc<Entry>, gated: Gated<A>) -> A {
        self.handle.registry.add_listener(facts, gated.listener, gated.gate);
        gated.acceptor
    }

    fn keep(&mut self, facts: &Entry, fd: &impl AsFd) -> Result<()> {
        self.handle.registry.add(facts, registry::copy(facts.name.as_str(), fd)?);
        Ok(())
    }

    /// What whoever started this service has passed, and the application does not know, is kept for a successor that does. Where
    /// the application is to know everything, it is left to be found.
    pub(super) fn keep_passed(&mut self) {
        if self.inheritance.inherited.is_strict() {
            return;
        }
        for (name, group) in self.inheritance.inherited.unknown_and_passed() {
            tracing::info!(event = "kept", %name, "keeping a socket that was passed, and that nobody took, for a successor");
            let fds = group.into_iter().map(|fd| Arc::new(fd) as Shared).collect();
            self.handle.registry.add_group(&name, fds, Vec::new(), true);
        }
    }
}
