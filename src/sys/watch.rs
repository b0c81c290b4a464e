//! Being told of changes to a path: `inotify(7)`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// What happens to a directory itself, and not to what is in it.
const ITSELF: AddWatchFlags = AddWatchFlags::IN_MOVE_SELF.union(AddWatchFlags::IN_DELETE_SELF);
/// What happens to a file: a name that is taken from it changes its count of links.
const FILE: AddWatchFlags = ITSELF.union(AddWatchFlags::IN_ATTRIB).union(AddWatchFlags::IN_DONT_FOLLOW);
/// What happens to the names in a directory, and who may change them.
const NAMES: AddWatchFlags = ITSELF
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVE);

/// How many times to read before it is the others' turn.
const READS: usize = 16;

/// Watches one path, and each directory and symbolic link on the way to it: readable once something has changed there.
#[derive(Debug)]
pub(crate) struct PathWatch {
    inotify: Inotify,
    held: Vec<WatchDescriptor>,
}

impl PathWatch {
    pub(crate) fn new() -> io::Result<PathWatch> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(PathWatch { inotify, held: Vec::new() })
    }

    /// Watches what is on the way to the absolute path `path` now, and nothing else any more. Whoever looks at the path
    /// after this, and not before, misses nothing.
    ///
    /// # Errors
    ///
    /// A limit that is reached. What this process may not read is left out.
    pub(crate) fn renew(&mut self, path: &Path) -> io::Result<()> {
        let mut watched = Vec::new();
        let directory = path.parent().unwrap_or(path);
        // Where links lead. Their own watches come after it: of one directory that is in both, the last word counts.
        let resolved = std::fs::canonicalize(directory).unwrap_or_default();
        for ancestor in resolved.ancestors() {
            self.add(&mut watched, ancestor, ITSELF)?;
        }
        // What has the name, if anything has, tells of its own end; a directory with many other names tells of all.
        let mut awaited = !self.add(&mut watched, path, FILE)?;
        for ancestor in directory.ancestors() {
            self.add(&mut watched, ancestor, ITSELF | AddWatchFlags::IN_DONT_FOLLOW)?;
            let of_what = if awaited { NAMES } else { ITSELF };
            // The first that exists is where the next name on the way will appear.
            awaited &= !self.add(&mut watched, ancestor, of_what)?;
        }
        for gone in std::mem::replace(&mut self.held, watched) {
            if !self.held.contains(&gone) {
                // It fails where the directory is gone, and its watch with it.
                let _ = self.inotify.rm_watch(gone);
            }
        }
        Ok(())
    }

    /// Takes what has been told off the queue.
    pub(crate) fn lower(&self) {
        for _ in 0..READS {
            if self.inotify.read_events().is_err() {
                return;
            }
        }
    }

    /// Returns whether there was something to watch that this process may watch.
    fn add(&self, watched: &mut Vec<WatchDescriptor>, path: &Path, flags: AddWatchFlags) -> io::Result<bool> {
        match self.inotify.add_watch(path, flags) {
            Ok(watch) => {
                watched.push(watch);
                Ok(true)
            }
            Err(errno @ (Errno::ENOSPC | Errno::ENOMEM)) => Err(errno.into()),
            Err(_) => Ok(false),
        }
    }
}

impl AsFd for PathWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
