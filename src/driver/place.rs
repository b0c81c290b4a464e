//! The control socket's path: connecting to it, and being the first to bind it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FileType;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::core::wire::{FileId, MAX_FILE_NAME};
use crate::error::{Error, PathProblem, Result};
use crate::sys::event::is_readable;
use crate::sys::{file, limits};

/// How long a path may be to be bound and connected to as it is.
const MAX_PATH: usize = 107;
/// How many connections may wait for the control socket to be accepted. Whoever connects behind so many of somebody else's waits
/// for all of them; so they are few, and more than ever come at once in good order.
pub(crate) const BACKLOG: i32 = 64;
/// How long to wait for room in the backlog.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a lock that another process holds is tried again: `flock(2)` knows no deadline.
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// A control socket's path, with its directory open.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    /// The application may change its directory.
    absolute: PathBuf,
    name: PathBuf,
    directory: OwnedFd,
    /// The directory that the path begins in: the application may change that as well.
    root: Option<FileId>,
}

/// A service's control socket.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) place: Place,
    pub(crate) listener: UnixListener,
    /// What the path leads to while it is the service's.
    pub(crate) path: Option<FileId>,
}

/// The lock that lets one process at a time find that nobody serves a path.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held until it is dropped")] File);

impl Place {
    pub(crate) fn open(path: &Path) -> Result<Place> {
        let problem = |problem| Error::Path { path: path.to_owned(), problem };
        let Some(name) = path.file_name() else { return Err(problem(PathProblem::NoName)) };
        if name.len() > MAX_FILE_NAME {
            return Err(problem(PathProblem::NameTooLong(name.len())));
        }
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = file::open_directory(parent).map_err(|error| problem(from_io("open its directory", error)))?;
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok(Place { path: path.to_owned(), absolute, name: PathBuf::from(name), directory, root: root() })
    }

    /// The same path as it is now: its directory may be another one. `None` where this process cannot tell any more, since
    /// it has changed its root directory or given up the right to look.
    pub(crate) fn again(&self) -> Result<Option<Place>> {
        if root() != self.root {
            return Ok(None);
        }
        match Place::open(&self.absolute) {
            Ok(place) => Ok(Some(place)),
            Err(Error::Path { problem: PathProblem::Permission, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Connects to the service that listens here; `None` where nobody does.
    pub(crate) fn connect(&self) -> Result<Option<UnixStream>> {
        if self.look()?.is_none() {
            return Ok(None);
        }
        let connect = || -> io::Result<UnixStream> {
            let socket = stream_socket()?;
            // It blocks only while the backlog is full.
            socket.set_write_timeout(Some(CONNECT_TIMEOUT))?;
            socket.connect(&self.address(&self.name)?)?;
            Ok(UnixStream::from(OwnedFd::from(socket)))
        };
        match connect() {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
                Ok(None)
            }
            Err(error) => Err(self.problem(from_io("connect", error))),
        }
    }

    /// Whether somebody listens here, found without waiting.
    pub(crate) fn is_served(&self) -> Result<bool> {
        let connect = || -> io::Result<()> {
            let socket = stream_socket()?;
            socket.set_nonblocking(true)?;
            socket.connect(&self.address(&self.name)?)
        };
        match connect() {
            Ok(()) => Ok(true),
            // So many wait to be accepted that there is no room for one more.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
                Ok(false)
            }
            Err(error) => Err(self.problem(from_io("connect", error))),
        }
    }

    /// What the path leads to, if it is a socket.
    // M5
    pub(crate) fn look(&self) -> Result<Option<FileId>> {
        let stat = file::stat_at(self.directory.as_fd(), &self.name)
            .map_err(|error| self.problem(from_io("look at it", error)))?;
        match stat {
            None => Ok(None),
            Some(stat) if file::file_type(&stat) == FileType::Socket => Ok(Some(file::id(&stat))),
            Some(_) => Err(self.problem(PathProblem::NotASocket)),
        }
    }

    /// Takes the lock beside the path if nobody holds it.
    // M1
    pub(crate) fn try_lock(&self) -> Result<Option<Lock>> {
        let problem = |error| self.problem(from_io("open its lock file", error));
        let file = file::open_lock(self.directory.as_fd(), &self.beside(".lock")).map_err(problem)?;
        Ok(file::try_lock(&file).map_err(problem)?.then_some(Lock(file)))
    }

    /// When to try the lock again.
    ///
    /// # Errors
    ///
    /// [`PathProblem::Starting`] once the process that holds it has had `timeout` since `began`.
    pub(crate) fn retry_lock_at(&self, began: Instant, timeout: Duration) -> Result<Instant> {
        let next = Instant::now() + LOCK_RETRY;
        if next.duration_since(began) > timeout { Err(self.problem(PathProblem::Starting(timeout))) } else { Ok(next) }
    }

    /// Binds the path, in the place of a stale socket if there is one. Nobody can connect before
    /// [`listen`]. The caller holds the lock and has found that nobody listens.
    // M4
    pub(crate) fn bind(&self, mode: u32) -> Result<UnixListener> {
        let stale = self.look()?.is_some();
        let problem = |error| self.problem(from_io("bind it", error));
        if !stale {
            return self.bind_as(&self.name, mode).map_err(problem);
        }
        let temporary = self.beside(&format!(".{}", std::process::id()));
        // One that a process with our id left behind when it was killed between bind and rename.
        let _ = file::unlink_at(self.directory.as_fd(), &temporary);
        let listener = match self.bind_as(&temporary, mode) {
            // The directory has room for one.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                file::unlink_at(self.directory.as_fd(), &self.name).map_err(problem)?;
                return self.bind_as(&self.name, mode).map_err(problem);
            }
            bound => bound.map_err(problem)?,
        };
        file::rename_at(self.directory.as_fd(), &temporary, &self.name).map_err(|error| {
            let _ = file::unlink_at(self.directory.as_fd(), &temporary);
            self.problem(from_io("replace the stale socket", error))
        })?;
        Ok(listener)
    }

    /// Removes the path if it still leads to `ours`.
    // M7
    pub(crate) fn remove(&self, ours: FileId) {
        if matches!(self.look(), Ok(Some(found)) if found == ours) {
            if let Err(error) = file::unlink_at(self.directory.as_fd(), &self.name) {
                let path = self.path.display();
                tracing::warn!(event = "remove_failed", %path, %error, "cannot remove the control socket");
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn absolute(&self) -> &Path {
        &self.absolute
    }

    pub(crate) fn problem(&self, problem: PathProblem) -> Error {
        Error::Path { path: self.path.clone(), problem }
    }

    // M6, M9
    fn bind_as(&self, name: &Path, mode: u32) -> io::Result<UnixListener> {
        let socket = stream_socket()?;
        socket.set_nonblocking(true)?;
        // The path is created with the mode of the unbound socket less the umask: at no moment with a wider one.
        nix::sys::stat::fchmod(socket.as_fd(), nix::sys::stat::Mode::from_bits_truncate(mode))?;
        socket.bind(&self.address(name)?)?;
        file::set_mode_at(self.directory.as_fd(), name, mode)?;
        Ok(UnixListener::from(OwnedFd::from(socket)))
    }

    /// The address of a name in the directory: the plain path where it fits, or else through the open directory.
    // M8
    fn address(&self, name: &Path) -> io::Result<SockAddr> {
        let plain = self.path.with_file_name(name);
        if plain.as_os_str().len() <= MAX_PATH {
            return SockAddr::unix(plain);
        }
        SockAddr::unix(Path::new("/proc/self/fd").join(self.directory.as_raw_fd().to_string()).join(name))
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.name.clone().into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    }
}

fn stream_socket() -> io::Result<Socket> {
    limits::opening(|| Socket::new(Domain::UNIX, Type::STREAM, None))
}

/// Accepts one connection, if one waits, and never blocks, whatever another process has done to the listener's O_NONBLOCK.
// M137
pub(crate) fn accept(listener: &UnixListener) -> io::Result<UnixStream> {
    if !is_readable(listener.as_fd()) {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    listener.accept().map(|(stream, _)| stream)
}

/// Lets clients connect; on a socket that listens already, names this process as the one that does
/// (`SO_PEERCRED` on the connecting side).
pub(crate) fn listen(listener: BorrowedFd<'_>) -> io::Result<()> {
    let backlog = nix::sys::socket::Backlog::new(BACKLOG)?;
    Ok(nix::sys::socket::listen(&listener, backlog)?)
}

fn root() -> Option<FileId> {
    let found = std::fs::metadata("/").ok()?;
    Some(FileId { dev: found.dev(), ino: found.ino() })
}

fn from_io(doing: &'static str, error: io::Error) -> PathProblem {
    match error.kind() {
        io::ErrorKind::NotFound => PathProblem::NoDirectory,
        io::ErrorKind::PermissionDenied => PathProblem::Permission,
        _ => PathProblem::Io { doing, source: error },
    }
}
