//! The bare system calls: bytes with descriptors on them, and nothing looked at.

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

/// What one message carries at the most, see `SCM_MAX_FD` in the kernel.
pub const BATCH: usize = 253;
/// How long a frame of the protocol is, about: the bytes are sent, so they have to be there.
pub const FRAME: usize = 200;
/// How long an entry of the manifest is, about.
pub const ENTRY: usize = 100;

/// Sends so many bytes, with these descriptors on the first of them.
pub fn send(stream: &UnixStream, length: usize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let sent = rustix::net::sendmsg(stream, &[IoSlice::new(&vec![b' '; length])], &mut control, SendFlags::NOSIGNAL)?;
    if sent == length { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Receives so many bytes, and the descriptors that come with them.
pub fn receive(stream: &UnixStream, length: usize, received: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut bytes[filled..])];
        let message = rustix::net::recvmsg(stream, parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        if message.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += message.bytes;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                received.extend(fds);
            }
        }
    }
    Ok(())
}

/// Receives so many bytes, which bring no descriptors.
pub fn expect(mut stream: &UnixStream, length: usize) -> io::Result<()> {
    stream.read_exact(&mut vec![0; length])
}
