//! Sockets: sending and receiving with descriptors, and what the kernel says of a socket.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::socket::UnixCredentials;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags};
use sendfd::SendWithFd;

/// The kernel's limit of descriptors in one message, `SCM_MAX_FD`.
const SCM_MAX_FD: usize = 253;

/// What one receive brought.
#[derive(Debug)]
pub(crate) struct Received {
    /// How many bytes; 0 at the end of the stream.
    pub(crate) bytes: usize,
    /// Every descriptor that arrived, each with CLOEXEC.
    pub(crate) fds: Vec<OwnedFd>,
    /// Descriptors were dropped (`MSG_CTRUNC`).
    pub(crate) truncated: bool,
}

/// Receives without blocking, with room for as many descriptors as one message can carry.
///
/// nix withholds the control messages of a truncated receive, and with them the descriptors that did arrive,
/// which would leak; rustix's buffer closes them. `MSG_CMSG_CLOEXEC` is atomic, where `fcntl` afterwards
/// would race with a fork in another thread.
pub(crate) fn receive_with_fds(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SCM_MAX_FD))];
    receive(stream, buffer, &mut space)
}

/// Receives without blocking and without room for descriptors: the kernel closes what was sent, and says so.
// M26
pub(crate) fn receive_bytes(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<Received> {
    receive(stream, buffer, &mut [])
}

// M22
fn receive(stream: &UnixStream, buffer: &mut [u8], space: &mut [MaybeUninit<u8>]) -> io::Result<Received> {
    let mut control = RecvAncillaryBuffer::new(space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = rustix::net::recvmsg(stream, &mut [io::IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    Ok(Received { bytes: message.bytes, fds, truncated: message.flags.contains(ReturnFlags::CTRUNC) })
}

/// Sends without blocking. `MSG_NOSIGNAL` keeps SIGPIPE away.
pub(crate) fn send(stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
}

/// Sends with descriptors on the first byte. The stream must be non-blocking.
// M19
pub(crate) fn send_with_fds(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    without_sigpipe(|| stream.send_with_fd(bytes, &raw))
}

/// `sendfd` sends without `MSG_NOSIGNAL`. Rust programs ignore SIGPIPE from the start, but one may have set it
/// back to kill; so it is blocked for this thread around the call, and taken off the queue if it came.
fn without_sigpipe<T>(send: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut pipe = SigSet::empty();
    pipe.add(nix::sys::signal::Signal::SIGPIPE);
    let before = pipe.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let result = send();
    let broken = result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
    if broken && !before.contains(nix::sys::signal::Signal::SIGPIPE) {
        take_pending(&pipe);
    }
    before.thread_set_mask()?;
    result
}

/// Takes one pending signal of the set off this thread's queue, if there is one.
#[allow(unsafe_code)]
fn take_pending(set: &SigSet) {
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both pointers are to live values, and a null siginfo is allowed.
    unsafe { libc::sigtimedwait(set.as_ref(), std::ptr::null_mut(), &raw const at_once) };
}

/// Accepts a connection that does not block, whether the listener does or not. See `accept4(2)`.
#[cfg(feature = "tokio")]
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<(socket2::Socket, socket2::SockAddr)> {
    socket2::SockRef::from(&listener).accept4(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
}

/// `SO_PEERCRED`: who connected, or, on the connecting side, who called `listen`. See `unix(7)`.
pub(crate) fn peer_credentials(stream: &UnixStream) -> io::Result<UnixCredentials> {
    Ok(nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerCredentials)?)
}

/// `SO_PEERPIDFD`, Linux 6.5: a pidfd of the same process. Fails where it is dead already.
pub(crate) fn peer_pidfd(stream: &UnixStream) -> io::Result<OwnedFd> {
    let fd: RawFd = option(stream.as_fd(), SO_PEERPIDFD)?;
    Ok(super::file::own(fd))
}

/// `SO_PASSRIGHTS` 0, Linux 6.16: nobody can send descriptors to this socket.
pub(crate) fn refuse_descriptors(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, SO_PASSRIGHTS, 0)
}

/// `SO_COOKIE`, Linux 4.12.
pub(crate) fn cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    option(socket, libc::SO_COOKIE)
}

/// `SO_NETNS_COOKIE`, Linux 5.14.
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    option(socket, SO_NETNS_COOKIE)
}

/// The network namespace of this process, by the cookie of a socket that is made in it. `None` where the kernel does not say.
pub(crate) fn own_netns() -> Option<u64> {
    let (socket, _other) = UnixStream::pair().ok()?;
    netns_cookie(socket.as_fd()).ok()
}

/// `SO_TYPE`: SOCK_STREAM and the like.
pub(crate) fn kind(socket: BorrowedFd<'_>) -> io::Result<i32> {
    option(socket, libc::SO_TYPE)
}

/// Whether the socket is TCP's and listens: the first byte of `TCP_INFO` is the state. See `tcp(7)`. Only a
/// TCP socket knows the option.
#[allow(unsafe_code)]
pub(crate) fn is_tcp_listener(socket: BorrowedFd<'_>) -> bool {
    const TCP_LISTEN: u8 = 10;
    let mut state = 0_u8;
    let mut length = 1;
    // SAFETY: state is a live place of `length` bytes, any bits of which make a valid u8.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast(),
            &raw mut length,
        )
    };
    result == 0 && state == TCP_LISTEN
}

/// How many connections wait to be accepted at a TCP listener: of a listening socket `TCP_INFO` tells that in the place of the
/// segments that are not acknowledged, see `tcp_get_info` in the kernel. `None` for what is not one.
#[allow(unsafe_code)]
pub(crate) fn waiting(socket: BorrowedFd<'_>) -> Option<u32> {
    if !is_tcp_listener(socket) {
        return None;
    }
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: info is a live place of `length` bytes, all of them zero, which is a valid tcp_info, as is what the kernel writes.
    let (result, info) = unsafe {
        let place = info.as_mut_ptr().cast();
        let result = libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, place, &raw mut length);
        (result, info.assume_init())
    };
    (result == 0).then_some(info.tcpi_unacked)
}

/// Whether the network namespace of an IPv4 socket has an interface with an address besides loopback; `None` where the kernel does
/// not say. A socket asks in its own namespace, wherever the process is. See `SIOCGIFCONF` in `netdevice(7)`.
#[allow(unsafe_code)]
pub(crate) fn has_way_out(socket: BorrowedFd<'_>) -> Option<bool> {
    /// More than these are not looked at: one is enough.
    const MOST: usize = 64;
    let mut places = [MaybeUninit::<libc::ifreq>::zeroed(); MOST];
    let mut list = libc::ifconf {
        ifc_len: size_of_val(&places) as i32,
        ifc_ifcu: libc::__c_anonymous_ifc_ifcu { ifcu_req: places.as_mut_ptr().cast() },
    };
    // SAFETY: list names a live buffer and its length in bytes, of which the kernel fills a part with whole entries.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFCONF as libc::Ioctl, &raw mut list) };
    if result != 0 {
        return None;
    }
    let count = usize::try_from(list.ifc_len).unwrap_or(0) / size_of::<libc::ifreq>();
    let is_loopback = |place: &MaybeUninit<libc::ifreq>| {
        // SAFETY: all zero is a valid ifreq, as is what the kernel writes; of its union every IPv4 entry has the address.
        let address = unsafe { place.assume_init_ref().ifr_ifru.ifru_addr };
        // Behind the port, see sockaddr_in.
        address.sa_data[2] == 127
    };
    Some(!places[..count.min(MOST)].iter().all(is_loopback))
}

/// `SO_ACCEPTCONN`.
pub(crate) fn is_listening(socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(option::<i32>(socket, libc::SO_ACCEPTCONN)? != 0)
}

// Numbers of the generic socket ABI; they differ on sparc and parisc alone, which Rust's std supports as
// tier 3 at the most, and there the calls fail as on an older kernel.
const SO_NETNS_COOKIE: i32 = 71;
const SO_PEERPIDFD: i32 = 77;
const SO_PASSRIGHTS: i32 = 83;

/// A type of which every bit pattern is a value.
trait Plain: Copy + Default {}
impl Plain for i32 {}
impl Plain for u64 {}

/// Reads one socket option at `SOL_SOCKET`. See `getsockopt(2)`.
#[allow(unsafe_code)]
fn option<T: Plain>(socket: BorrowedFd<'_>, name: i32) -> io::Result<T> {
    let mut value = T::default();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: value is a live place of `length` bytes, any bits of which make a valid T.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut length)
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// Sets one socket option at `SOL_SOCKET`. See `setsockopt(2)`.
#[allow(unsafe_code)]
fn set_option(socket: BorrowedFd<'_>, name: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: value is a live i32, and `length` is its size.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
