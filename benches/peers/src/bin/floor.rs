//! The floor: the same program, started by `posix_spawn(3)` and given the listeners by the bare system calls. Nothing
//! is checked, no failure is survived, and nobody can look on.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::ptr::null_mut;
use std::sync::Arc;

use peers::bare::{BATCH, receive, send};
use peers::{Args, Server, bind, resident, stamp, take_in, write_once};
use rustix::fs::{SealFlags, fcntl_add_seals};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    stamp("main");
    let args = Args::parse();
    let mut hangup = signal(SignalKind::hangup())?;
    let ballast = if args.upgrade { Vec::new() } else { args.ballast() };
    let state = if args.upgrade { Vec::new() } else { resident(args.state) };
    let (listeners, control) = if args.upgrade { inherit(&args)? } else { make(&args)? };
    let server = Server::default();
    let accepting = listeners.iter().map(|listener| server.accept(Arc::clone(listener))).collect();
    stamp("serving");

    hangup.recv().await;
    let next = Args { upgrade: true, state: state.len() >> 20, ..args };
    Command::new(std::env::current_exe()?).args(next.to_vec()).spawn()?;
    // Written while the successor starts.
    let state = if state.is_empty() { None } else { Some(sealed(&state)?) };
    let mut successor = give(&listeners, state.as_ref(), &control)?;
    stamp("told");
    server.stop(accepting).await;
    stamp("stopped");
    successor.write_all(&[0])?;
    server.drained().await;
    drop(ballast);
    Ok(())
}

type Listeners = Vec<Arc<TcpListener>>;

fn make(args: &Args) -> Result<(Listeners, UnixListener), Box<dyn Error>> {
    let control = UnixListener::bind(args.control())?;
    let listeners = args.addresses().map(|addr| tokio_listener(bind(addr, false)?)).collect::<io::Result<_>>()?;
    Ok((listeners, control))
}

/// Returns once the successor is ready.
fn give(listeners: &Listeners, state: Option<&File>, control: &UnixListener) -> io::Result<UnixStream> {
    let (mut successor, _) = control.accept()?;
    let fds: Vec<BorrowedFd<'_>> = listeners.iter().map(|listener| listener.as_fd()).collect();
    let state = state.map(File::as_fd);
    for batch in fds.chunks(BATCH).chain(state.as_slice().chunks(1)) {
        send(&successor, 1, batch)?;
        successor.read_exact(&mut [0])?;
    }
    successor.read_exact(&mut [0])?;
    Ok(successor)
}

/// Returns once the predecessor has stopped.
fn inherit(args: &Args) -> Result<(Listeners, UnixListener), Box<dyn Error>> {
    let mut predecessor = UnixStream::connect(args.control())?;
    let mut received = Vec::new();
    while received.len() < args.listeners {
        receive(&predecessor, 1, &mut received)?;
        predecessor.write_all(&[0])?;
    }
    let state = if args.state > 0 { Some(receive_state(&mut predecessor, args.state << 20)?) } else { None };
    std::fs::remove_file(args.control())?;
    let control = UnixListener::bind(args.control())?;
    args.initialise();
    drop(state);
    predecessor.write_all(&[0])?;
    predecessor.read_exact(&mut [0])?;
    let listeners = received.into_iter().map(|listener| tokio_listener(listener.into())).collect::<io::Result<_>>()?;
    Ok((listeners, control))
}

fn sealed(state: &[u8]) -> io::Result<File> {
    let memfd = write_once(state)?;
    fcntl_add_seals(&memfd, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(memfd)
}

fn receive_state(predecessor: &mut UnixStream, length: usize) -> io::Result<Mapped> {
    let mut received = Vec::new();
    receive(predecessor, 1, &mut received)?;
    predecessor.write_all(&[0])?;
    let memfd = received.pop().ok_or(io::ErrorKind::UnexpectedEof)?;
    let state = Mapped::new(&memfd, length)?;
    take_in(&state);
    Ok(state)
}

/// A file in memory, to be read.
struct Mapped {
    start: *mut u8,
    length: usize,
}

impl Mapped {
    fn new(file: &OwnedFd, length: usize) -> io::Result<Mapped> {
        // SAFETY: nothing is mapped at the address, which the kernel chooses.
        let start = unsafe { mmap(null_mut(), length, ProtFlags::READ, MapFlags::SHARED, file, 0)? };
        Ok(Mapped { start: start.cast(), length })
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: it is mapped for as long as `self` lives, and its seals keep it as it is.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: whatever borrows from it has ended.
        let _ = unsafe { munmap(self.start.cast(), self.length) };
    }
}

fn tokio_listener(listener: std::net::TcpListener) -> io::Result<Arc<TcpListener>> {
    TcpListener::from_std(listener).map(Arc::new)
}
