//! A blocking echo service on std threads, without tokio, that is replaced without losing a connection.
//!
//! ```text
//! cargo run --example echo --no-default-features -- 127.0.0.1:7777 /tmp/echo.sock
//! ```
//!
//! Start it again with the same arguments, and the new process takes over. Connections stay with the process
//! that accepted them, until their client ends them or the drain deadline comes. It hears no signals: one that ends it is a crash,
//! after which a generation that still drains accepts again; one that hears them calls `Control::close`.

use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fd_handoff::{Acceptor, Config, Control, Offer, Ready, Released, Timeouts, handoff_receive};

const DRAIN: Duration = Duration::from_secs(10);

#[allow(dead_code, reason = "unused where another program runs this service")]
fn main() -> Result<(), Box<dyn Error>> {
    run(std::env::args().skip(1))
}

/// The whole life of one generation.
pub(crate) fn run(mut args: impl Iterator<Item = String>) -> Result<(), Box<dyn Error>> {
    let (Some(listen), Some(path)) = (args.next(), args.next()) else {
        return Err("usage: echo ADDRESS CONTROL-SOCKET".into());
    };
    let listen: SocketAddr = listen.parse()?;
    let config = Config::new(PathBuf::from(path)).name("echo").timeouts(|timeouts| {
        timeouts.drain = DRAIN;
        set(timeouts, args.next().as_deref().unwrap_or_default());
    });

    let mut inheritance = handoff_receive(config)?;
    let wanted = args.next().and_then(|count| count.parse().ok()).unwrap_or_default();
    let more = more(inheritance.take_all("more")?, wanted)?;
    let listener = inheritance.tcp_listener("echo", listen)?;
    let listen = listener.local_addr()?;
    let service = Service { acceptor: Acceptor::new(listener)?, more };
    let control = inheritance.ready()?;
    service.start();
    println!("ready generation={} pid={} listen={listen}", control.generation(), std::process::id());
    serve(&control, &service)
}

/// Other deadlines than the library's, for tests: `active=500,drain=1000`, in milliseconds.
fn set(timeouts: &mut Timeouts, wanted: &str) {
    for (name, millis) in wanted.split(',').filter_map(|wanted| wanted.split_once('=')) {
        let timeout = match name {
            "offer" => &mut timeouts.offer,
            "transfer" => &mut timeouts.transfer,
            "ready" => &mut timeouts.ready,
            "release" => &mut timeouts.release,
            "active" => &mut timeouts.active,
            "drain" => &mut timeouts.drain,
            "probation" => &mut timeouts.probation,
            _ => continue,
        };
        *timeout = Duration::from_millis(millis.parse().unwrap_or_default());
    }
}

/// So many more descriptors that go along, for tests: what was inherited, or else new ones.
fn more(inherited: Vec<File>, wanted: usize) -> std::io::Result<Vec<File>> {
    let missing = wanted.saturating_sub(inherited.len());
    let new = (0..missing).map(|_| File::open("/dev/null"));
    inherited.into_iter().map(Ok).chain(new).collect()
}

/// Hands over to each successor that asks, until one has taken the service.
fn serve(control: &Control, service: &Service) -> Result<(), Box<dyn Error>> {
    loop {
        let offer = Offer::new().descriptor("echo", service.acceptor.listener()).group("more", &service.more);
        let Ok(ready) = control.accept()?.offer(offer) else {
            // It failed, this process still serves, and the reason is in the log and in status.
            continue;
        };
        match release(ready, service) {
            Ok(()) => return Ok(()),
            Err(failure) if failure.may_serve() => service.start(),
            Err(failure) => return Err(failure.into()),
        }
    }
}

/// Gives the service up and drains. An error that allows it means that this process serves again.
fn release(ready: Ready, service: &Service) -> Result<(), fd_handoff::Failure> {
    service.acceptor.stop();
    let mut released = ready.release(None)?;
    drain(&mut released, service)?;
    released.farewell(None)
}

/// Waits for the last connection to end, or for the drain deadline, and watches the successor meanwhile.
fn drain(released: &mut Released, service: &Service) -> Result<(), fd_handoff::Failure> {
    const TELL: Duration = Duration::from_millis(200);

    let deadline = Instant::now() + DRAIN;
    loop {
        let left = service.acceptor.connections() as u64;
        released.draining(left);
        if left == 0 || Instant::now() >= deadline {
            return Ok(());
        }
        let until = deadline.min(Instant::now() + TELL);
        if let Some(failure) = released.lost(Some(until)) {
            return Err(failure);
        }
    }
}

struct Service {
    acceptor: Acceptor<TcpListener>,
    more: Vec<File>,
}

impl Service {
    /// Accepts on a thread of its own until the acceptor is stopped.
    fn start(&self) {
        self.acceptor.resume();
        let acceptor = self.acceptor.clone();
        std::thread::spawn(move || {
            while let Ok(Some((connection, _))) = acceptor.accept() {
                std::thread::spawn(move || echo(connection));
            }
        });
    }
}

/// Sends back what comes, until the client has said everything.
fn echo(mut stream: impl Read + Write) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}
