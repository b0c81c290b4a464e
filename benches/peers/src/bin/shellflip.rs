//! shellflip. It hands over no sockets, and documents no way to: what is done here is the fastest that it leaves room
//! for. The listeners are made without CLOEXEC, so that the new process has them from its first moment, under the same
//! numbers, and the pipe for state says which numbers these are.
//!
//! It restarts on its signal, and its coordination socket is off: with that, `pre_exec` would have the standard library
//! `fork(2)` instead of `posix_spawn(3)`, which takes longer the larger the process is.

use std::error::Error;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::Arc;

use async_trait::async_trait;
use peers::{Args, Server, bind, resident, stamp, take_in};
use rustix::io::{FdFlags, fcntl_setfd};
use shellflip::RestartConfig;
use shellflip::lifecycle::{LifecycleHandler, PipeReader, PipeWriter, receive_from_old_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    stamp("main");
    let args = Args::parse();
    let (ballast, generation, listeners) = match receive_from_old_process() {
        Some(pipe) => successor(&args, pipe).await?,
        None => first(&args)?,
    };
    let config =
        RestartConfig { lifecycle_handler: Box::new(generation), exit_on_error: false, ..RestartConfig::default() };
    let restart = config.try_into_restart_task()?;

    let server = Server::default();
    let mut accepting = Vec::new();
    for listener in listeners {
        accepting.push(server.accept(Arc::new(tokio::net::TcpListener::from_std(listener)?)));
    }
    stamp("serving");
    // The first poll tells the old process that this one is ready.
    restart.await?;
    stamp("told");
    server.stop(accepting).await;
    stamp("stopped");
    server.drained().await;
    drop(ballast);
    Ok(())
}

type Ballast = Vec<u8>;

fn first(args: &Args) -> io::Result<(Ballast, Generation, Vec<TcpListener>)> {
    let ballast = args.ballast();
    let mut listeners = Vec::new();
    for addr in args.addresses() {
        let listener = bind(addr, false)?;
        fcntl_setfd(&listener, FdFlags::empty())?;
        listeners.push(listener);
    }
    let numbers = listeners.iter().map(AsRawFd::as_raw_fd).collect();
    Ok((ballast, Generation { numbers, state: resident(args.state) }, listeners))
}

async fn successor(args: &Args, mut pipe: PipeReader) -> io::Result<(Ballast, Generation, Vec<TcpListener>)> {
    let mut numbers = vec![0; args.listeners * size_of::<RawFd>()];
    pipe.read_exact(&mut numbers).await?;
    let numbers: Vec<RawFd> = numbers.as_chunks().0.iter().copied().map(RawFd::from_ne_bytes).collect();
    let mut state = Vec::with_capacity(args.state << 20);
    pipe.read_to_end(&mut state).await?;
    take_in(&state);
    args.initialise();
    // SAFETY: the old process has left these numbers to this one, and nobody else has been told of them.
    let listeners = numbers.iter().map(|number| unsafe { TcpListener::from_raw_fd(*number) }).collect();
    Ok((Ballast::new(), Generation { numbers, state }, listeners))
}

/// What one generation gives to the next.
struct Generation {
    /// The listeners' descriptors.
    numbers: Vec<RawFd>,
    state: Vec<u8>,
}

#[async_trait]
impl LifecycleHandler for Generation {
    async fn send_to_new_process(&mut self, mut pipe: PipeWriter) -> io::Result<()> {
        let numbers: Vec<u8> = self.numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        pipe.write_all(&numbers).await?;
        pipe.write_all(&self.state).await?;
        pipe.flush().await
    }
}
