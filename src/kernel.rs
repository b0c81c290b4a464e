//! What the running kernel offers, found by trying it.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use crate::sys::{file, process, socket};

/// Of what this library rests on, or uses where it is there, what works in this process: a kernel may be too old, and
/// a container's filter of system calls may forbid it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Kernel {
    /// A memfd that can be sealed, in which a state travels. Linux 3.17.
    pub memfd_sealing: io::Result<()>,
    /// `pidfd_open(2)`, by which the death of a process is known for certain. Linux 5.3.
    pub pidfd_open: io::Result<()>,
    /// `SO_PEERPIDFD`, by which it is known in any pid namespace. Linux 6.5.
    pub peer_pidfd: io::Result<()>,
    /// `SO_PASSRIGHTS`, by which nobody can send descriptors that are not wanted. Linux 6.16.
    pub pass_rights: io::Result<()>,
    /// `SO_COOKIE`, which tells sockets apart. Linux 4.12.
    pub socket_cookie: io::Result<()>,
    /// `SO_NETNS_COOKIE`, which tells network namespaces apart. Linux 5.14.
    pub netns_cookie: io::Result<()>,
}

impl Kernel {
    /// Tries each of them.
    ///
    /// # Errors
    ///
    /// Where there is not even a pair of sockets to try it on.
    pub fn probe() -> io::Result<Kernel> {
        let (stream, _other) = UnixStream::pair()?;
        Ok(Kernel {
            memfd_sealing: seal_a_memfd(),
            pidfd_open: process::own_pidfd().map(drop),
            peer_pidfd: socket::peer_pidfd(&stream).map(drop),
            socket_cookie: socket::cookie(stream.as_fd()).map(drop),
            netns_cookie: socket::netns_cookie(stream.as_fd()).map(drop),
            // Last: it changes the socket.
            pass_rights: socket::refuse_descriptors(stream.as_fd()),
        })
    }
}

fn seal_a_memfd() -> io::Result<()> {
    file::seal(&file::memfd(c"fd-handoff-probe")?)
}

#[cfg(test)]
mod tests {
    use super::Kernel;

    #[test]
    fn what_the_library_cannot_do_without_is_found() {
        let kernel = Kernel::probe().unwrap();
        kernel.memfd_sealing.unwrap();
        kernel.pidfd_open.unwrap();
        kernel.socket_cookie.unwrap();
    }
}
