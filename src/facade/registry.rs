//! The named sockets of a service: bound or inherited at the start, and offered to each successor.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use indexmap::IndexMap;
use indexmap::map::Entry as Place;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::core::wire::{Entry, Name};
use crate::driver::bound::Bound;
use crate::driver::descriptor::{Inheritable, Shared, application_name, named};
use crate::driver::giving::Offer;
use crate::driver::seat::Seat;
use crate::driver::taking::Inherited;
use crate::error::{Error, Result};
use crate::sys::socket;

/// How many connections may wait to be accepted; the kernel bounds it by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// What can be shut, so that nothing more is accepted on a socket.
pub(crate) trait Shuts: Send + Sync {
    /// Nothing is accepted once this has returned.
    fn shut(&self);
    /// Wakes those who wait behind it, so that they find it shut.
    fn tell(&self);
    fn open(&self);
    /// Lets the listener go behind it, for good. Where its number has to stay, `stand_in` takes its place.
    fn let_go(&self, listener: &Shared, stand_in: BorrowedFd<'_>);
}

/// The sockets of one generation by name, in the order in which they were registered. What an offer is made from stays as
/// it is while others change the registry.
#[derive(Clone, Default)]
pub(crate) struct Registry(Arc<Mutex<Arc<Table>>>);

pub(crate) type Table = IndexMap<Name, Registered>;

#[derive(Clone)]
pub(crate) struct Registered {
    fds: Vec<Shared>,
    /// What the kernel says of a listener: that stays as it is, and need not be asked at each offer.
    facts: Option<Arc<Entry>>,
    gates: Vec<Arc<dyn Shuts>>,
    /// A Unix socket's path, where this service has bound it: it is removed when the service stops.
    path: Option<Bound>,
    /// That of what had the name before.
    path_before: Option<Bound>,
    /// Whoever started the service has passed it.
    passed: bool,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.table().keys()).finish()
    }
}

impl Registry {
    /// Everything that goes into an offer.
    pub(crate) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Table>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a name is free.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateName`]: of two listeners with one name, a successor would get one.
    pub(crate) fn claim(&self, name: &str) -> Result<()> {
        if self.lock().contains_key(name) { Err(Error::DuplicateName(application_name(name)?)) } else { Ok(()) }
    }

    /// Adds a listener that is accepted on through `gate`.
    pub(crate) fn add_listener(&self, facts: Arc<Entry>, fd: Shared, gate: Arc<dyn Shuts>) {
        let path = facts.path.and_then(|id| Bound::known(&fd, id));
        let (name, passed) = (facts.name.clone(), facts.passed);
        // A predecessor on an older kernel, or in another language, may have told less than there is to know.
        let is_whole = facts.cookie.is_some() && facts.netns.is_some();
        let facts = is_whole.then_some(facts);
        self.insert(name, Registered { fds: vec![fd], facts, gates: vec![gate], path, path_before: None, passed });
    }

    /// Adds a socket that is accepted on by nobody, or by whatever the application has for it. `path` is what its path leads to,
    /// where this service has bound it.
    // M134
    pub(crate) fn add(&self, facts: &Entry, fd: Shared) {
        let path = facts.path.and_then(|id| Bound::known(&fd, id));
        let passed = facts.passed;
        let registered = Registered { fds: vec![fd], facts: None, gates: Vec::new(), path, path_before: None, passed };
        self.insert(facts.name.clone(), registered);
    }

    /// Adds the sockets of one name, each with the gate that it is accepted on through, or without.
    pub(crate) fn add_group(&self, name: &Name, fds: Vec<Shared>, gates: Vec<Arc<dyn Shuts>>, passed: bool) {
        let registered = Registered { fds, facts: None, gates, path: None, path_before: None, passed };
        self.insert(name.clone(), registered);
    }

    /// Adds the application's descriptors under a name, in the place of those that had it before. Returns how many those were.
    fn replace(&self, name: &str, fds: Vec<Shared>) -> Result<usize> {
        let (facts, gates, path, path_before, passed) = (None, Vec::new(), None, None, false);
        Ok(self.insert(application_name(name)?, Registered { fds, facts, gates, path, path_before, passed }))
    }

    fn insert(&self, name: Name, registered: Registered) -> usize {
        match Arc::make_mut(&mut self.lock()).entry(name) {
            Place::Vacant(place) => {
                place.insert(registered);
                0
            }
            Place::Occupied(mut place) => place.get_mut().give_way_to(registered),
        }
    }

    /// Stops accepting on the sockets of a name, and no longer offers them. Returns how many there were.
    pub(crate) fn remove(&self, name: &str) -> usize {
        let Some(removed) = Arc::make_mut(&mut self.lock()).shift_remove(name) else { return 0 };
        removed.gates.iter().for_each(|gate| gate.shut());
        removed.gates.iter().for_each(|gate| gate.tell());
        removed.paths().for_each(Bound::remove);
        removed.fds.len()
    }

    /// Nothing more is accepted from here on.
    pub(crate) fn shut(&self) {
        self.lock().values().flat_map(|it| &it.gates).for_each(|gate| gate.shut());
    }

    /// Wakes those who wait for connections that will not come.
    #[cfg(feature = "tokio")]
    pub(crate) fn tell(&self) {
        self.table().values().flat_map(|it| &it.gates).for_each(|gate| gate.tell());
    }

    /// Under the lock, as all that changes a gate: one that was forgotten meanwhile stays shut.
    pub(crate) fn open(&self) {
        self.lock().values().flat_map(|it| &it.gates).for_each(|gate| gate.open());
    }

    /// Closes this process's copies of everything, those in the application's acceptors as well: `stand_in` takes their place.
    pub(crate) fn let_go(&self, stand_in: BorrowedFd<'_>) {
        let table = std::mem::take(&mut *self.lock());
        let gated = table.values().flat_map(|it| it.gates.iter().zip(&it.fds));
        gated.for_each(|(gate, listener)| gate.let_go(listener, stand_in));
        // Copies of what the application has are closed with the table.
    }

    /// The paths of Unix sockets go with a service that stops without a successor.
    pub(crate) fn remove_paths(&self) {
        self.table().values().flat_map(Registered::paths).for_each(Bound::remove);
    }
}

impl Registered {
    fn paths(&self) -> impl Iterator<Item = &Bound> {
        self.path.iter().chain(&self.path_before)
    }

    /// Puts another in its place. Returns how many descriptors this one had.
    fn give_way_to(&mut self, mut other: Registered) -> usize {
        // Whoever still accepts on those has to stop with the others.
        other.gates.append(&mut self.gates);
        other.path_before = self.path.take().or(self.path_before.take());
        std::mem::replace(self, other).fds.len()
    }
}

/// An offer of everything in the table.
pub(crate) fn offer(table: &Table) -> Offer<'static> {
    table.iter().fold(Offer::with_capacity(table.len()), |offer, (name, it)| match &it.facts {
        Some(facts) => it.fds.iter().fold(offer, |offer, fd| offer.known(facts, fd)),
        None => offer.shared(name.as_str(), &it.fds, it.path.as_ref().map(Bound::id), it.passed),
    })
}

/// Why nobody reaches the sockets, where their network namespace is not this process's and has no way out any more: the container
/// that owned it is gone.
pub(crate) fn cut_off(table: &Table) -> Option<&'static str> {
    const GONE: &str = "the sockets live in another network namespace, which has no interface left but loopback: the container that \
        owned it is gone, and nobody reaches them; stop the service, restart its keeper if it has one, and start the service where there \
        is a network";
    let own = socket::own_netns()?;
    let sockets = table.values().flat_map(|it| &it.fds).map(|fd| fd.as_fd());
    let reaches_out = |fd: &BorrowedFd<'_>| {
        let addr = SockRef::from(fd).local_addr().ok().and_then(|addr| addr.as_socket());
        addr.is_some_and(|addr| addr.is_ipv4() && !addr.ip().is_loopback())
    };
    let mut foreign =
        sockets.filter(reaches_out).filter(|fd| socket::netns_cookie(*fd).is_ok_and(|cookie| cookie != own));
    let is_cut_off = socket::has_way_out(foreign.next()?) == Some(false);
    is_cut_off.then_some(GONE)
}

pub(crate) fn register_group<'a, T: AsFd + 'a>(
    registry: &Registry,
    seat: &Seat,
    name: &str,
    fds: impl IntoIterator<Item = &'a T>,
) -> Result<()> {
    let (mut entries, mut copies) = (Vec::new(), Vec::new());
    for fd in fds {
        entries.push(named(name, fd)?);
        copies.push(copy(name, fd)?);
    }
    // Whatever it is, others have bound it, or it has no path of its own: an accepted connection shows its listener's.
    let before = registry.replace(name, copies)?;
    seat.rename(name, before, entries);
    Ok(())
}

/// [`Registry::remove`], and out of `status`.
pub(crate) fn forget(registry: &Registry, seat: &Seat, name: &str) -> bool {
    let removed = registry.remove(name);
    seat.rename(name, removed, Vec::new());
    removed > 0
}

/// Another descriptor of the same description.
pub(crate) fn copy(name: &str, fd: &impl AsFd) -> Result<Shared> {
    let copy: OwnedFd = fd.as_fd().try_clone_to_owned().map_err(Error::io(format!("duplicate \"{name}\"")))?;
    Ok(Arc::new(copy))
}

/// Options that are set on a new socket before it is bound.
pub(crate) type Options<'a> = &'a mut dyn FnMut(&Socket) -> io::Result<()>;

pub(crate) fn tcp_listener(
    inherited: &mut Inherited,
    name: &str,
    addr: SocketAddr,
    options: Options<'_>,
) -> Result<(Arc<Entry>, std::net::TcpListener)> {
    inherited.take_bound(name, addr, |addr| {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
        // As the standard library does: connections of an earlier run in TIME_WAIT are not in the way.
        socket.set_reuse_address(true)?;
        options(&socket)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    })
}

pub(crate) fn udp_socket(
    inherited: &mut Inherited,
    name: &str,
    addr: SocketAddr,
    options: Options<'_>,
) -> Result<(Arc<Entry>, std::net::UdpSocket)> {
    inherited.take_bound(name, addr, |addr| {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, None)?;
        options(&socket)?;
        socket.bind(&addr.into())?;
        Ok(socket.into())
    })
}

/// A Unix socket at a path. Where a socket is there that nobody has open, it is replaced.
pub(crate) fn unix_socket<T: Inheritable + AsFd>(
    inherited: &mut Inherited,
    name: &str,
    path: &Path,
    kind: Type,
    options: Options<'_>,
) -> Result<(Arc<Entry>, T)> {
    let found = inherited.address(name, |found| is_same(found, path))?;
    if let Some(found) = found.filter(|found| !is_same(found, path)) {
        let (name, found, wanted) = (name.to_owned(), found.to_owned(), path.display().to_string());
        return Err(Error::AddressChanged { name, found, wanted });
    }
    let mut just_bound = false;
    let (facts, socket) = inherited.take_or_make(name, || -> io::Result<T> {
        let socket = Socket::new(Domain::UNIX, kind, None)?;
        options(&socket)?;
        let addr = SockAddr::unix(path)?;
        bind_unix(&socket, &addr, path, kind).map_err(|error| at(path, &error))?;
        just_bound = true;
        if kind != Type::DGRAM {
            socket.listen(BACKLOG)?;
        }
        Ok(T::from(OwnedFd::from(socket)))
    })?;
    if !just_bound {
        return Ok((facts, socket));
    }
    let path = Bound::just_now(&socket).map(|bound| bound.id());
    Ok((Arc::new(Entry { path, ..Entry::clone(&facts) }), socket))
}

fn bind_unix(socket: &Socket, addr: &SockAddr, path: &Path, kind: Type) -> io::Result<()> {
    match socket.bind(addr) {
        // An abstract one goes with its last owner.
        Err(error)
            if error.kind() == io::ErrorKind::AddrInUse
                && addr.as_pathname().is_some()
                && is_stale(path, addr, kind)? =>
        {
            fs::remove_file(path)?;
            socket.bind(addr)
        }
        bound => bound,
    }
}

/// Whether an inherited socket's address is the one that is wanted. A relative path is one from the directory in which
/// either process was started.
fn is_same(found: &str, wanted: &Path) -> bool {
    match wanted.as_os_str().as_bytes().strip_prefix(b"\0") {
        Some(name) => found.strip_prefix('@').is_some_and(|found| found == String::from_utf8_lossy(name)),
        None => match (std::path::absolute(found), std::path::absolute(wanted)) {
            (Ok(found), Ok(wanted)) => found == wanted,
            _ => Path::new(found) == wanted,
        },
    }
}

/// Whether there is a socket that nobody listens on.
fn is_stale(path: &Path, addr: &SockAddr, kind: Type) -> io::Result<bool> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let probe = Socket::new(Domain::UNIX, kind, None)?;
    probe.set_nonblocking(true)?;
    Ok(matches!(probe.connect(addr), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused))
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display().to_string().replace('\0', "@")))
}
