//! Named descriptors: what the kernel says of one, the manifest, and takes that check kind and work once.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::Arc;

use nix::libc;
use rustix::fs::FileType;
use socket2::SockRef;

use crate::core::wire::{CONTROL_NAME, Entry, FdStatus, FileId, Kind, Name, NameError, OWNER_NAME};
use crate::driver::bound::Bound;
use crate::error::{Error, Result};
use crate::sys::{file, socket};

/// What the kernel says of one descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) kind: Kind,
    pub(crate) addr: Option<Address>,
    pub(crate) cookie: Option<u64>,
    pub(crate) file: Option<FileId>,
}

/// A socket's local address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Inet(SocketAddr),
    /// A path, or `@` and an abstract name.
    Unix(String),
}

impl Address {
    fn of(addr: &socket2::SockAddr) -> Option<Address> {
        if let Some(addr) = addr.as_socket() {
            return Some(Address::Inet(addr));
        }
        if let Some(path) = addr.as_pathname() {
            return Some(Address::Unix(path.to_string_lossy().into_owned()));
        }
        let name = addr.as_abstract_namespace()?;
        Some(Address::Unix(format!("@{}", String::from_utf8_lossy(name))))
    }

    /// Whether a line of the manifest means it. To read an address takes a part of the time that writing one does.
    fn is(&self, text: &str) -> bool {
        match self {
            Address::Inet(addr) => text.parse() == Ok(*addr),
            Address::Unix(name) => name == text,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(addr) => addr.fmt(f),
            Address::Unix(name) => f.write_str(name),
        }
    }
}

/// Asks the kernel what `fd` is.
pub(crate) fn describe(fd: BorrowedFd<'_>) -> io::Result<Facts> {
    match SockRef::from(&fd).local_addr() {
        Ok(addr) => describe_socket(fd, &addr),
        Err(error) if error.raw_os_error() == Some(libc::ENOTSOCK) => describe_file(fd),
        Err(error) => Err(error),
    }
}

fn describe_socket(fd: BorrowedFd<'_>, addr: &socket2::SockAddr) -> io::Result<Facts> {
    let kind = socket_kind(fd, addr)?;
    // A kernel older than the option is served without it.
    Ok(Facts { kind, addr: Address::of(addr), cookie: socket::cookie(fd).ok(), file: None })
}

fn socket_kind(fd: BorrowedFd<'_>, addr: &socket2::SockAddr) -> io::Result<Kind> {
    let inet = addr.is_ipv4() || addr.is_ipv6();
    if !inet && !addr.is_unix() {
        return Ok(Kind::Other);
    }
    // One call in the place of two for the kind that there are most of.
    if inet && socket::is_tcp_listener(fd) {
        return Ok(Kind::TcpListener);
    }
    let kind = socket::kind(fd)?;
    if kind == libc::SOCK_DGRAM {
        return Ok(if inet { Kind::UdpSocket } else { Kind::UnixDatagram });
    }
    let listening = socket::is_listening(fd)?;
    Ok(match (kind, inet, listening) {
        (libc::SOCK_STREAM, true, true) => Kind::TcpListener,
        (libc::SOCK_STREAM, true, false) => Kind::TcpStream,
        (libc::SOCK_STREAM, false, true) => Kind::UnixListener,
        (libc::SOCK_STREAM, false, false) => Kind::UnixStream,
        (libc::SOCK_SEQPACKET, false, true) => Kind::UnixSeqpacketListener,
        (libc::SOCK_SEQPACKET, false, false) => Kind::UnixSeqpacket,
        _ => Kind::Other,
    })
}

fn describe_file(fd: BorrowedFd<'_>) -> io::Result<Facts> {
    let stat = file::stat(fd)?;
    let kind = match file::file_type(&stat) {
        FileType::RegularFile => Kind::File,
        FileType::Fifo => Kind::Pipe,
        _ => Kind::Other,
    };
    Ok(Facts { kind, addr: None, cookie: None, file: Some(file::id(&stat)) })
}

/// A name that an application gives: not one of the protocol's own.
// M57
pub(crate) fn application_name(name: &str) -> Result<Name, NameError> {
    if name.starts_with('@') {
        return Err(NameError::Reserved(name.to_owned()));
    }
    Name::try_from(name)
}

pub(crate) fn entry(name: Name, index: u32, facts: Facts) -> Entry {
    let Facts { kind, addr, cookie, file } = facts;
    let addr = addr.map(|addr| addr.to_string());
    Entry { name, index, kind, addr, cookie, netns: None, file, path: None, passed: false }
}

pub(crate) fn status_of(entry: &Entry) -> FdStatus {
    // A socket of another kind is reached in any.
    let netns = entry.netns.filter(|_| is_inet(entry.kind));
    FdStatus { name: entry.name.clone(), kind: entry.kind, addr: entry.addr.clone(), netns }
}

/// A descriptor of this process's own under a name.
pub(crate) fn named(name: &str, fd: &impl AsFd) -> Result<Entry> {
    examine(application_name(name)?, 0, fd.as_fd())
}

/// The line of the manifest for one of this process's own descriptors.
pub(crate) fn examine(name: Name, index: u32, fd: BorrowedFd<'_>) -> Result<Entry> {
    let facts = describe(fd).map_err(|error| Error::io(format!("examine the descriptor \"{name}\""))(error))?;
    // Nothing but a socket has one.
    let netns = facts.cookie.and_then(|_| socket::netns_cookie(fd).ok());
    Ok(Entry { netns, ..entry(name, index, facts) })
}

/// What is wrong with a descriptor that arrived.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Mismatch {
    #[error("\"{name}\" is announced as {announced} and arrived as {arrived}")]
    Facts { name: Name, announced: String, arrived: String },
    #[error(
        "\"{name}\" ({addr}) lives in another network namespace, and would be a black hole once that goes away; \
         run both processes in one network namespace (host networking, one Pod, or network_mode \"service:...\"), \
         or allow it with Config::allow_foreign_netns"
    )]
    Namespace { name: Name, addr: String },
    #[error("\"{name}\" cannot be examined: {error}")]
    Unreadable { name: Name, error: String },
}

/// Compares a descriptor that arrived with its line of the manifest. `netns` is this process's own network
/// namespace, where sockets of another one are to be refused.
// M59
pub(crate) fn check(entry: &Entry, fd: BorrowedFd<'_>, netns: Option<u64>) -> Result<(), Mismatch> {
    let name = || entry.name.clone();
    // A file need not be asked first whether it is a socket; one that is a socket all the same is found out.
    let file = entry.file.is_some();
    let facts = if file { describe_file(fd) } else { describe(fd) };
    let facts = facts.map_err(|error| Mismatch::Unreadable { name: name(), error: error.to_string() })?;
    let same_addr = match (&facts.addr, &entry.addr) {
        (Some(addr), Some(announced)) => addr.is(announced),
        (None, None) => true,
        _ => false,
    };
    let differs =
        facts.kind != entry.kind || !same_addr || differ(facts.cookie, entry.cookie) || differ(facts.file, entry.file);
    if differs {
        let arrived = shown(&self::entry(name(), 0, facts));
        return Err(Mismatch::Facts { name: name(), announced: shown(entry), arrived });
    }
    if is_inet(facts.kind) && netns.is_some() && differ(netns_of(entry, fd), netns) {
        return Err(Mismatch::Namespace { name: name(), addr: entry.addr.clone().unwrap_or_default() });
    }
    Ok(())
}

fn is_inet(kind: Kind) -> bool {
    matches!(kind, Kind::TcpListener | Kind::TcpStream | Kind::UdpSocket)
}

/// The namespace of a socket is the one that the manifest names: the cookie shows that this is the socket that
/// the predecessor described.
fn netns_of(entry: &Entry, socket: BorrowedFd<'_>) -> Option<u64> {
    match (entry.cookie, entry.netns) {
        (Some(_), Some(netns)) => Some(netns),
        _ => socket::netns_cookie(socket).ok(),
    }
}

/// Whether both sides know the fact and disagree. One that either kernel or peer does not tell decides nothing.
fn differ<T: PartialEq>(ours: Option<T>, theirs: Option<T>) -> bool {
    ours.is_some() && theirs.is_some() && ours != theirs
}

fn shown(entry: &Entry) -> String {
    let mut text = entry.kind.to_string();
    if let Some(addr) = &entry.addr {
        text += &format!(" at {addr}");
    }
    if let Some(cookie) = entry.cookie {
        text += &format!(" (cookie {cookie})");
    }
    if let Some(FileId { dev, ino }) = entry.file {
        text += &format!(" (device {dev}, inode {ino})");
    }
    text
}

/// A type that a handed-over descriptor can be taken as. It is sealed: the kinds that each type accepts are
/// this library's to say.
pub trait Inheritable: From<OwnedFd> + sealed::Sealed {
    /// The kinds of descriptor that this type stands for; empty: every kind.
    #[doc(hidden)]
    const KINDS: &'static [Kind];
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! inheritable {
    ($($type:ty: $kinds:expr,)*) => {
        $(impl sealed::Sealed for $type {}
        impl Inheritable for $type {
            const KINDS: &'static [Kind] = &$kinds;
        })*
    };
}

inheritable! {
    TcpListener: [Kind::TcpListener],
    TcpStream: [Kind::TcpStream],
    UdpSocket: [Kind::UdpSocket],
    UnixListener: [Kind::UnixListener],
    UnixStream: [Kind::UnixStream],
    UnixDatagram: [Kind::UnixDatagram],
    File: [Kind::File, Kind::Pipe, Kind::Other],
    OwnedFd: [],
}

/// The name of what is passed by somebody who gives no names: see `sd_listen_fds_with_names(3)`.
const PASSED_WITHOUT_NAME: &str = "unknown";

/// Descriptors that arrived and have not been taken.
#[derive(Debug, Default)]
pub(crate) struct Unclaimed {
    by_name: HashMap<Name, Vec<Delivered>>,
}

/// A descriptor that arrived, with its line of the manifest.
pub(crate) type Delivered = (Arc<Entry>, OwnedFd);

impl Unclaimed {
    /// Has room for so many at once.
    pub(crate) fn reserve(&mut self, count: usize) {
        self.by_name.reserve(count);
    }

    /// Puts a batch in. The protocol has seen to it that indexes come in order.
    pub(crate) fn insert(&mut self, batch: Vec<Delivered>) {
        for (entry, fd) in batch {
            self.by_name.entry(entry.name.clone()).or_default().push((entry, fd));
        }
    }

    /// What whoever started this process has passed to it. What a predecessor has offered under the same name comes first.
    ///
    /// # Errors
    ///
    /// A descriptor that the kernel does not say anything of.
    pub(crate) fn add_passed(&mut self, passed: Vec<(String, OwnedFd)>) -> Result<()> {
        let mut groups: Vec<(Name, Vec<Delivered>)> = Vec::new();
        for (name, fd) in passed {
            let Ok(name) = application_name(&name) else {
                tracing::warn!(event = "passed_unnamed", name, "closing a passed descriptor, whose name is none");
                continue;
            };
            if self.by_name.contains_key(&name) {
                tracing::info!(event = "passed_again", %name, "closing a passed descriptor: the predecessor's serves");
                continue;
            }
            let index = groups.iter().position(|(known, _)| *known == name);
            let index = index.unwrap_or_else(|| {
                groups.push((name.clone(), Vec::new()));
                groups.len() - 1
            });
            let group = &mut groups[index].1;
            let entry = Entry { passed: true, ..examine(name, group.len() as u32, fd.as_fd())? };
            group.push((Arc::new(entry), fd));
        }
        self.by_name.extend(groups);
        Ok(())
    }

    /// Gives this name to what was passed without one, and has the wanted address: an activator need not know names.
    pub(crate) fn name_passed(&mut self, name: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let name = application_name(name)?;
        if self.by_name.contains_key(&name) {
            return Ok(());
        }
        let Some(group) = self.by_name.get_mut(PASSED_WITHOUT_NAME) else { return Ok(()) };
        let is_wanted = |(entry, _): &Delivered| entry.passed && entry.addr.as_deref().is_some_and(&wanted);
        let Some(place) = group.iter().position(is_wanted) else { return Ok(()) };
        let (entry, fd) = group.remove(place);
        if group.is_empty() {
            self.by_name.remove(PASSED_WITHOUT_NAME);
        }
        let entry = Entry { name: name.clone(), index: 0, ..Entry::clone(&entry) };
        self.by_name.insert(name, vec![(Arc::new(entry), fd)]);
        Ok(())
    }

    /// Takes all that was passed, in this generation or an earlier one, and that nobody took.
    pub(crate) fn remove_passed(&mut self) -> Vec<(Name, Vec<Delivered>)> {
        let passed = |(_, group): &(&Name, &Vec<Delivered>)| group.iter().any(|(entry, _)| entry.passed);
        let names: Vec<Name> = self.by_name.iter().filter(passed).map(|(name, _)| name.clone()).collect();
        names.into_iter().filter_map(|name| self.by_name.remove_entry(&name)).collect()
    }

    /// Takes the control listener, if what has its name is one.
    pub(crate) fn take_control(&mut self) -> Option<OwnedFd> {
        let control = self.by_name.remove(CONTROL_NAME)?;
        control.into_iter().next().filter(|(entry, _)| entry.kind == Kind::UnixListener).map(|(_, fd)| fd)
    }

    /// Takes the file whose lock the owner of the service holds, if there is one.
    pub(crate) fn take_owner(&mut self) -> Option<OwnedFd> {
        let owner = self.by_name.remove(OWNER_NAME)?;
        owner.into_iter().next().map(|(_, fd)| fd)
    }

    /// Takes all the descriptors of one name, in the order in which they were offered.
    pub(crate) fn take_all<T: Inheritable>(&mut self, name: &str) -> Result<Vec<(Arc<Entry>, T)>> {
        let Some((name, group)) = self.find(name)? else { return Ok(Vec::new()) };
        if let Some((entry, _)) = group.iter().find(|(entry, _)| !accepts::<T>(entry.kind)) {
            return Err(Error::WrongKind { name: name.clone(), found: entry.kind, wanted: T::KINDS });
        }
        let name = name.clone();
        let group = self.by_name.remove(&name).unwrap_or_default();
        Ok(group.into_iter().map(|(entry, fd)| (entry, T::from(fd))).collect())
    }

    /// Takes the only descriptor of a name.
    pub(crate) fn take<T: Inheritable>(&mut self, name: &str) -> Result<Option<(Arc<Entry>, T)>> {
        match self.find(name)? {
            Some((name, group)) if group.len() > 1 => Err(Error::Several { name: name.clone(), count: group.len() }),
            _ => Ok(self.take_all(name)?.pop()),
        }
    }

    /// The address of the only descriptor of a name, before it is taken.
    pub(crate) fn address(&self, name: &str) -> Option<&str> {
        self.by_name.get(name)?.first()?.0.addr.as_deref()
    }

    /// Everything that is the application's, by name and then in the order in which it was offered.
    pub(crate) fn into_all(self) -> Vec<Delivered> {
        let mut groups: Vec<(Name, Vec<Delivered>)> = self.by_name.into_iter().collect();
        groups.retain(|(name, _)| !name.as_str().starts_with('@'));
        groups.sort_by(|(one, _), (other, _)| one.cmp(other));
        groups.into_iter().flat_map(|(_, group)| group).collect()
    }

    /// The names that nobody took.
    pub(crate) fn names(&self) -> Vec<String> {
        // A name of the protocol's own that this version does not know is nobody's.
        let ours = self.by_name.keys().filter(|name| !name.as_str().starts_with('@'));
        let mut names: Vec<String> = ours.map(Name::to_string).collect();
        names.sort_unstable();
        names
    }

    /// The paths that the service has bound of what nobody took.
    pub(crate) fn paths(&self) -> Vec<Bound> {
        let left = self.by_name.values().flatten();
        left.filter_map(|(entry, fd)| Bound::known(fd, entry.path?)).collect()
    }

    /// What has this name, which is to be one that an application may use.
    fn find(&self, name: &str) -> Result<Option<(&Name, &Vec<Delivered>)>> {
        match self.by_name.get_key_value(name) {
            Some(found) if !name.starts_with('@') => Ok(Some(found)),
            _ => application_name(name).map(|_| None).map_err(Error::from),
        }
    }
}

fn accepts<T: Inheritable>(kind: Kind) -> bool {
    T::KINDS.is_empty() || T::KINDS.contains(&kind)
}

/// Whether a socket bound to `bound` is what a program that wants `wanted` would have bound: port 0 stands for
/// any port.
pub(crate) fn serves(bound: SocketAddr, wanted: SocketAddr) -> bool {
    bound.ip() == wanted.ip() && (wanted.port() == 0 || bound.port() == wanted.port())
}

/// A descriptor that somebody else uses as well.
pub(crate) type Shared = Arc<dyn AsFd + Send + Sync>;

/// A descriptor in an offer, on its way from the application through the protocol to the socket.
#[derive(Clone)]
pub(crate) enum Attachment {
    /// The place in the table of what the application lends for the time of the offer.
    Lent(usize),
    /// The application's, which goes on using it.
    Shared(Shared),
    /// The library's own: a memfd or a pidfd.
    Own(Arc<OwnedFd>),
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attachment::Lent(place) => f.debug_tuple("Lent").field(place).finish(),
            Attachment::Shared(fd) => f.debug_tuple("Shared").field(&fd.as_fd()).finish(),
            Attachment::Own(fd) => f.debug_tuple("Own").field(fd).finish(),
        }
    }
}

impl From<OwnedFd> for Attachment {
    fn from(fd: OwnedFd) -> Attachment {
        Attachment::Own(Arc::new(fd))
    }
}

impl crate::driver::channel::Carried for Attachment {
    fn resolve<'a>(&'a self, table: &'a [BorrowedFd<'a>]) -> BorrowedFd<'a> {
        match self {
            Attachment::Lent(place) => table[*place],
            Attachment::Shared(fd) => fd.as_fd(),
            Attachment::Own(fd) => fd.as_fd(),
        }
    }
}
