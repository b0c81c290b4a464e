//! Files: memfds and their seals, locks, and what a path leads to.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;

use super::limits::opening;
use crate::core::wire::FileId;

const SEALS: SealFlag =
    SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_WRITE).union(SealFlag::F_SEAL_SEAL);

/// An empty memfd that can be sealed. See `memfd_create(2)`.
pub(crate) fn memfd(name: &CStr) -> io::Result<File> {
    opening(|| Ok(File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?)))
}

/// Another description of an open file: a lock of its own, and an offset. See `proc(5)`, `/proc/pid/fd`.
pub(crate) fn reopen(fd: BorrowedFd<'_>) -> io::Result<File> {
    File::options().read(true).write(true).open(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// A part of a file, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(crate) start: i64,
    pub(crate) length: i64,
}

/// Takes this description's lock on a part of the file, for itself alone, if no other description has one there. See
/// `F_OFD_SETLK` in `fcntl(2)`.
pub(crate) fn lock_own(file: &File, range: Range) -> io::Result<bool> {
    try_lock_range(file, &flock(nix::libc::F_WRLCK, range))
}

/// As [`lock_own`], for as many as want it.
pub(crate) fn lock_shared(file: &File, range: Range) -> io::Result<bool> {
    try_lock_range(file, &flock(nix::libc::F_RDLCK, range))
}

fn try_lock_range(file: &File, lock: &nix::libc::flock) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(lock)) {
        Ok(_) => Ok(true),
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether another description holds a lock there. See `F_OFD_GETLK` in `fcntl(2)`.
pub(crate) fn is_locked(file: &File, range: Range) -> io::Result<bool> {
    let mut found = flock(nix::libc::F_WRLCK, range);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    Ok(i32::from(found.l_type) != nix::libc::F_UNLCK)
}

/// Gives it back.
pub(crate) fn unlock_own(file: &File, range: Range) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&flock(nix::libc::F_UNLCK, range)))?;
    Ok(())
}

fn flock(kind: i32, range: Range) -> nix::libc::flock {
    let (l_type, l_whence) = (kind as i16, nix::libc::SEEK_SET as i16);
    nix::libc::flock { l_type, l_whence, l_start: range.start, l_len: range.length, l_pid: 0 }
}

/// O_NONBLOCK, which belongs to the open file description, and so to every process that has a copy. See `fcntl(2)`.
pub(crate) fn is_nonblocking(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(rustix::fs::fcntl_getfl(fd)?.contains(OFlags::NONBLOCK))
}

/// Sets it, or clears it, and leaves the other flags as they are.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>, nonblocking: bool) -> io::Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(fd)?;
    if flags.contains(OFlags::NONBLOCK) != nonblocking {
        flags.set(OFlags::NONBLOCK, nonblocking);
        rustix::fs::fcntl_setfl(fd, flags)?;
    }
    Ok(())
}

/// Seals a memfd against every change, further seals included.
// M60
pub(crate) fn seal(memfd: &File) -> io::Result<()> {
    fcntl(memfd, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(())
}

/// Whether nobody can change what a mapping of `fd` shows, nor cut it short.
// M61
pub(crate) fn is_sealed(fd: BorrowedFd<'_>) -> bool {
    let needed = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_WRITE;
    // Anything but a memfd answers EINVAL.
    fcntl(fd, FcntlArg::F_GET_SEALS).is_ok_and(|seals| SealFlag::from_bits_truncate(seals).contains(needed))
}

/// Maps a sealed memfd for reading.
#[allow(unsafe_code)]
pub(crate) fn map(memfd: &File) -> io::Result<memmap2::Mmap> {
    // SAFETY: a file that shrinks or changes under a mapping is what makes this unsafe. The caller has seen
    // the seals that forbid both, and a seal cannot be taken off.
    unsafe { memmap2::Mmap::map(memfd) }
}

/// `fstat(2)` itself: the C library takes the way over `newfstatat(2)`, and so through a path lookup.
pub(crate) fn stat(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    Ok(rustix::fs::fstat(fd)?)
}

pub(crate) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

// The widths of st_dev and st_ino differ between architectures.
#[allow(clippy::unnecessary_cast)]
pub(crate) fn id(stat: &Stat) -> FileId {
    FileId { dev: stat.st_dev as u64, ino: stat.st_ino as u64 }
}

/// Opens a directory to reach names in it; nothing is read from it.
pub(crate) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    opening(|| Ok(nix::fcntl::open(path, flags, Mode::empty())?))
}

/// What `name` in `directory` is, without following a symbolic link; nothing where there is nothing.
pub(crate) fn stat_at(directory: BorrowedFd<'_>, name: &Path) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Sets the permission bits of `name` in `directory`, if they differ, without following a symbolic link.
pub(crate) fn set_mode_at(directory: BorrowedFd<'_>, name: &Path, mode: u32) -> io::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = opening(|| Ok(nix::fcntl::openat(directory, name, flags, Mode::empty())?))?;
    let mode = Mode::from_bits_truncate(mode);
    if Mode::from_bits_truncate(stat(file.as_fd())?.st_mode) == mode {
        return Ok(());
    }
    // fchmod(2) refuses O_PATH, and fchmodat2(2) with a flag against links is new in Linux 6.6.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode.bits()))
}

pub(crate) fn rename_at(directory: BorrowedFd<'_>, from: &Path, to: &Path) -> io::Result<()> {
    Ok(nix::fcntl::renameat(directory, from, directory, to)?)
}

pub(crate) fn unlink_at(directory: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
    Ok(nix::unistd::unlinkat(directory, name, nix::unistd::UnlinkatFlags::NoRemoveDir)?)
}

/// Opens, and creates if need be, a lock file that only this user can open. It is never removed: removing
/// a lock file lets two processes hold "the" lock.
// M2
pub(crate) fn open_lock(directory: BorrowedFd<'_>, name: &Path) -> io::Result<File> {
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    opening(|| Ok(File::from(nix::fcntl::openat(directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?)))
}

/// Takes the lock of `flock(2)` if nobody holds it. Closing the file gives it back.
#[allow(unsafe_code)]
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: flock takes two integers, and the descriptor is borrowed from a live file.
    let result = unsafe { nix::libc::flock(file.as_raw_fd(), nix::libc::LOCK_EX | nix::libc::LOCK_NB) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock { Ok(false) } else { Err(error) }
}

/// The inode of this process's time namespace; clocks of two namespaces cannot be compared. Asked once: a process with
/// threads stays in its own, see `time_namespaces(7)`.
pub(crate) fn time_namespace() -> Option<u64> {
    static INODE: OnceLock<Option<u64>> = OnceLock::new();
    *INODE.get_or_init(|| rustix::fs::stat("/proc/self/ns/time").ok().map(|stat| id(&stat).ino))
}

/// Makes the number of `fd` stand for what `with` is: whatever it stood for is closed here, and nowhere else. Whoever owns the
/// number goes on owning it. See `dup3(2)`.
#[allow(unsafe_code)]
pub(crate) fn replace(fd: BorrowedFd<'_>, with: BorrowedFd<'_>) {
    // SAFETY: the number belongs to a live owner, who lends it; it is never closed here, and stays open throughout.
    let mut owned = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(fd.as_raw_fd()) });
    if let Err(error) = rustix::io::dup3(with, &mut owned, rustix::io::DupFlags::CLOEXEC) {
        // EBUSY, while another thread opens a descriptor of this number: it cannot, since the number is open.
        tracing::error!(event = "not_let_go", %error, "cannot let a socket go");
    }
}

/// Takes ownership of a descriptor number that the kernel has just handed to the caller.
#[allow(unsafe_code)]
pub(super) fn own(fd: std::os::fd::RawFd) -> OwnedFd {
    // SAFETY: only called inside `sys`, with a number that a system call has just returned as new.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
