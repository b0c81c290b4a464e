//! beyond-handoff: a supervisor, which is started first, has the listeners and starts every generation.
//!
//! `told` is when `Incumbent::serve` returns, which is when the supervisor has committed the upgrade. `stopped` is
//! before that: the old generation accepts no more from the moment it drains, and the new one not before that.
//! A generation initialises after `wait_for_begin`, where the library's documentation opens the state.
//!
//! Each successor makes the listeners block, also those of the generation that still accepts: they are the same open
//! file descriptions. With tokio's own listener the old generation would hang in `accept(2)`, see `accept_now`.

use std::env;
use std::error::Error;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use handoff::role::ENV_LISTEN_FDS;
use handoff::{
    DataDirLock, DrainReport, Drainable, Incumbent, ReadinessSnapshot, Role, SealReport, SpawnSpec, StateSnapshot,
    Supervisor, detect_role, pass_listener_fds_on_spawn,
};
use peers::{Args, Server, bind, stamp};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinHandle, spawn_blocking};

type Listener = Arc<AsyncFd<TcpListener>>;

fn main() -> Result<(), Box<dyn Error>> {
    if env::var_os(ENV_LISTEN_FDS).is_none() {
        return Runtime::new()?.block_on(supervise(&Args::parse()));
    }
    stamp("main");
    // Changes the environment, so before the runtime has threads.
    let role = detect_role()?;
    Runtime::new()?.block_on(generation(&Args::parse(), role))
}

async fn supervise(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let program = env::current_exe()?;
    let listeners = args.addresses().map(|addr| bind(addr, false)).collect::<io::Result<Vec<_>>>()?;
    let named: Vec<_> =
        listeners.iter().enumerate().map(|(index, listener)| (index.to_string(), listener.as_raw_fd())).collect();
    let mut first = Command::new(&program);
    pass_listener_fds_on_spawn(first.args(args.to_vec()), &named, None);
    let mut running = first.spawn()?;

    let supervisor = Supervisor::new(&args.control())?;
    let supervisor = named.into_iter().fold(supervisor, |supervisor, (name, fd)| supervisor.with_listener(name, fd));
    while hangup.recv().await.is_some() {
        let next = SpawnSpec { args: args.to_vec(), ..SpawnSpec::new(&program) };
        match supervisor.perform_handoff(next) {
            Ok(outcome) => {
                if let Some(next) = outcome.child {
                    reap(std::mem::replace(&mut running, next));
                } else {
                    eprintln!("not upgraded: {:?}", outcome.abort_reason);
                }
            }
            Err(error) => eprintln!("not upgraded: {error}"),
        }
    }
    Ok(())
}

/// An old generation may take its time, and the next upgrade does not wait for it.
fn reap(mut old: Child) {
    std::thread::spawn(move || old.wait());
}

async fn generation(args: &Args, role: Role) -> Result<(), Box<dyn Error>> {
    let (ballast, listeners, incumbent);
    match role {
        Role::ColdStart { mut inherited } => {
            ballast = args.ballast();
            listeners = take_listeners(args, |name| inherited.take(name))?;
            let lock = DataDirLock::acquire_or_break_stale(&args.dir)?;
            incumbent = Incumbent::bind_cold_start(&args.control(), lock)?;
        }
        Role::Successor(successor) => {
            let mut begun = successor.handshake(Vec::new())?.wait_for_begin()?;
            ballast = Vec::new();
            listeners = take_listeners(args, |name| begun.take_listener(name))?;
            let lock = DataDirLock::acquire(&args.dir)?;
            args.initialise();
            let ready = ReadinessSnapshot { healthz_ok: true, ..ReadinessSnapshot::default() };
            incumbent = begun.announce_and_bind(ready, &args.control(), lock)?;
        }
    }
    let server = Server::default();
    let accepting = Accepting::new(listeners.clone(), server.clone());
    stamp("serving");

    spawn_blocking(move || incumbent.serve(accepting)).await??;
    stamp("told");
    server.drained().await;
    drop((listeners, ballast));
    Ok(())
}

fn take_listeners(args: &Args, mut take: impl FnMut(&str) -> Option<TcpListener>) -> io::Result<Vec<Listener>> {
    let mut one = |index: usize| {
        let listener = take(&index.to_string()).ok_or(io::ErrorKind::NotFound)?;
        // SAFETY: it has its descriptor until it is dropped, which is with the `AsyncFd`.
        Ok(Arc::new(unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }?))
    };
    (0..args.listeners).map(&mut one).collect()
}

/// What the library is to stop, and to start again where an upgrade fails.
struct Accepting {
    listeners: Vec<Listener>,
    server: Server,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    runtime: Handle,
}

impl Accepting {
    fn new(listeners: Vec<Listener>, server: Server) -> Accepting {
        let accepting = Accepting { listeners, server, tasks: Mutex::default(), runtime: Handle::current() };
        accepting.start();
        accepting
    }

    fn start(&self) {
        let _runtime = self.runtime.enter();
        let accept = |listener| tokio::spawn(accept(Arc::clone(listener), self.server.clone()));
        let tasks = self.listeners.iter().map(accept).collect();
        *self.tasks.lock().unwrap_or_else(PoisonError::into_inner) = tasks;
    }
}

/// The requests write nothing, so that none needs to have ended before the next generation begins.
impl Drainable for Accepting {
    fn drain(&self, _deadline: Instant) -> handoff::Result<DrainReport> {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        self.runtime.block_on(self.server.stop(tasks));
        stamp("stopped");
        Ok(DrainReport { open_conns_remaining: 0, accept_closed: true })
    }

    fn seal(&self) -> handoff::Result<SealReport> {
        Ok(SealReport::default())
    }

    fn resume_after_abort(&self) -> handoff::Result<()> {
        self.start();
        Ok(())
    }

    fn snapshot_state(&self) -> StateSnapshot {
        StateSnapshot::default()
    }
}

async fn accept(listener: Listener, server: Server) {
    loop {
        match accept_one(&listener).await {
            Ok(stream) => server.serve(stream),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn accept_one(listener: &AsyncFd<TcpListener>) -> io::Result<TcpStream> {
    let accepted = listener.async_io(Interest::READABLE, accept_now).await?;
    accepted.set_nonblocking(true)?;
    TcpStream::from_std(accepted)
}

/// As if the listener did not block. Nobody else accepts at the same time.
fn accept_now(listener: &TcpListener) -> io::Result<std::net::TcpStream> {
    if poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&Timespec::default()))? == 0 {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    listener.accept().map(|(stream, _)| stream)
}
