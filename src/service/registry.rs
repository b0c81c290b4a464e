//! The named sockets of a service: bound or inherited at the start, and offered to each successor.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::descriptor::Inheritable;
use crate::error::{Error, Result};
use crate::generation::Generation;
use crate::giving::Offer;
use crate::taking::Inherited;

/// How many connections may wait to be accepted; the kernel bounds it by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A descriptor that somebody else uses as well.
pub(crate) type Shared = Arc<dyn AsFd + Send + Sync>;

/// What can be shut, so that nothing more is accepted on a socket.
pub(crate) trait Shuts: Send + Sync {
    fn shut(&self);
    fn open(&self);
}

impl Shuts for crate::accept::Gate {
    fn shut(&self) {
        crate::accept::Gate::shut(self);
    }

    fn open(&self) {
        crate::accept::Gate::open(self);
    }
}

/// The sockets of one generation by name, in the order in which they were registered.
#[derive(Clone, Default)]
pub(crate) struct Registry(Arc<Mutex<Vec<Registered>>>);

struct Registered {
    name: String,
    fds: Vec<Shared>,
    gates: Vec<Arc<dyn Shuts>>,
    /// A Unix socket's path, to be removed when the service stops.
    path: Option<Bound>,
}

/// A path that leads to a socket of this service.
struct Bound {
    path: PathBuf,
    id: (u64, u64),
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lock().iter().map(|registered| &registered.name)).finish()
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Vec<Registered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, name: &str, fd: Shared, gate: Option<Arc<dyn Shuts>>) {
        self.add_group(name, vec![fd], gate);
    }

    /// Adds descriptors under a name, in the place of those that had it before.
    pub(crate) fn add_group(&self, name: &str, fds: Vec<Shared>, gate: Option<Arc<dyn Shuts>>) {
        let path = fds.first().and_then(Bound::of);
        let registered = Registered { name: name.to_owned(), fds, gates: gate.into_iter().collect(), path };
        let mut all = self.lock();
        match all.iter_mut().find(|it| it.name == name) {
            Some(before) => *before = registered,
            None => all.push(registered),
        }
    }

    /// Stops accepting on the sockets of a name, and no longer offers them. Returns whether there were any.
    pub(crate) fn remove(&self, name: &str) -> bool {
        let mut all = self.lock();
        let Some(place) = all.iter().position(|it| it.name == name) else { return false };
        let removed = all.remove(place);
        removed.gates.iter().for_each(|gate| gate.shut());
        removed.path.iter().for_each(Bound::remove);
        true
    }

    pub(crate) fn shut(&self) {
        self.lock().iter().flat_map(|it| &it.gates).for_each(|gate| gate.shut());
    }

    pub(crate) fn open(&self) {
        self.lock().iter().flat_map(|it| &it.gates).for_each(|gate| gate.open());
    }

    /// The paths of Unix sockets go with a service that stops without a successor.
    pub(crate) fn remove_paths(&self) {
        self.lock().iter().filter_map(|it| it.path.as_ref()).for_each(Bound::remove);
    }

    /// Everything that goes into an offer.
    pub(crate) fn table(&self) -> Vec<(String, Vec<Shared>)> {
        self.lock().iter().map(|it| (it.name.clone(), it.fds.clone())).collect()
    }
}

/// An offer of everything in the table.
pub(crate) fn offer(table: &[(String, Vec<Shared>)]) -> Offer<'_> {
    table.iter().fold(Offer::new(), |offer, (name, fds)| offer.group(name, fds))
}

impl Bound {
    fn of(fd: &Shared) -> Option<Bound> {
        let addr = socket2::SockRef::from(fd).local_addr().ok()?;
        let path = addr.as_pathname()?.to_owned();
        let found = fs::symlink_metadata(&path).ok()?;
        found.file_type().is_socket().then(|| Bound { path, id: (found.dev(), found.ino()) })
    }

    /// Removes the path if it still leads to what it led to at first.
    fn remove(&self) {
        let still = fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.id);
        if still {
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub(crate) fn register_group<'a, T: AsFd + 'a>(
    registry: &Registry,
    generation: &Generation,
    name: &str,
    fds: impl IntoIterator<Item = &'a T>,
) -> Result<()> {
    let mut copies = Vec::new();
    for fd in fds {
        generation.register(name, fd)?;
        copies.push(copy(name, fd)?);
    }
    registry.add_group(name, copies, None);
    Ok(())
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
) -> Result<std::net::TcpListener> {
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
) -> Result<std::net::UdpSocket> {
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
) -> Result<T> {
    if let Some(found) = inherited.address(name).filter(|found| Path::new(found) != path) {
        let (name, found, wanted) = (name.to_owned(), found.to_owned(), path.display().to_string());
        return Err(Error::AddressChanged { name, found, wanted });
    }
    inherited.take_or_else(name, || -> io::Result<T> {
        let socket = Socket::new(Domain::UNIX, kind, None)?;
        options(&socket)?;
        let addr = SockAddr::unix(path)?;
        bind_unix(&socket, &addr, path, kind).map_err(|error| at(path, &error))?;
        if kind != Type::DGRAM {
            socket.listen(BACKLOG)?;
        }
        Ok(T::from(OwnedFd::from(socket)))
    })
}

fn bind_unix(socket: &Socket, addr: &SockAddr, path: &Path, kind: Type) -> io::Result<()> {
    match socket.bind(addr) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path, addr, kind)? => {
            fs::remove_file(path)?;
            socket.bind(addr)
        }
        bound => bound,
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
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
