//! Paths that lead to Unix sockets which the service itself has bound: those alone are the service's to remove.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use socket2::SockRef;

use crate::core::wire::FileId;

/// A path that leads to a socket which this service has bound, in this generation or an earlier one.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    path: PathBuf,
    id: FileId,
}

impl Bound {
    /// That of a socket which this process has just bound. One without a path has none.
    pub(crate) fn just_now(socket: &impl AsFd) -> Option<Bound> {
        let path = path_of(socket)?;
        let id = socket_at(&path)?;
        Some(Bound { path, id })
    }

    /// That of a socket of which it is known what its path led to when the service bound it.
    pub(crate) fn known(socket: &impl AsFd, id: FileId) -> Option<Bound> {
        Some(Bound { path: path_of(socket)?, id })
    }

    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    /// Removes the path if it still leads to that socket.
    // M134
    pub(crate) fn remove(&self) {
        if socket_at(&self.path) != Some(self.id) {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            let path = self.path.display();
            tracing::warn!(event = "remove_failed", %path, %error, "cannot remove a socket that the service has bound");
        }
    }
}

/// The application may change its directory, and the path is to be removed at the end.
fn path_of(socket: &impl AsFd) -> Option<PathBuf> {
    let addr = SockRef::from(socket).local_addr().ok()?;
    std::path::absolute(addr.as_pathname()?).ok()
}

fn socket_at(path: &Path) -> Option<FileId> {
    let found = fs::symlink_metadata(path).ok().filter(|found| found.file_type().is_socket())?;
    Some(FileId { dev: found.dev(), ino: found.ino() })
}
