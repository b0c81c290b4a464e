//! fd-handoff's facade on threads: one for each connection, and one that accepts.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use fd_handoff::{Acceptor, Finish, Handle, Handoff, Received, SignalKind, State, StateError};
use peers::{Args, resident, stamp, take_in};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;

fn main() -> Result<(), Box<dyn Error>> {
    stamp("main");
    let args = Args::parse();
    let mut starting = Handoff::builder(args.control()).upgrade_on(SignalKind::hangup()).start()?;
    let cold = starting.is_cold_start();
    let ballast = if cold { args.ballast() } else { Vec::new() };
    if cold && args.state > 0 {
        let state = Arc::new(resident(args.state));
        starting.on_offer(move || {
            let state = Arc::clone(&state);
            State::writer(move |out| out.write_all(&state))
        });
    }
    let mut acceptors = Vec::new();
    for addr in args.addresses() {
        acceptors.push(starting.tcp_listener(&addr.to_string(), addr)?);
    }
    if !cold {
        starting.state_with(read)?;
        args.initialise();
    }
    let accepting = Accepting::on(acceptors)?;
    let mut handoff = starting.ready()?;

    let handle = handoff.handle();
    std::thread::spawn(move || accepting.run(&handle));
    stamp("serving");
    handoff.superseded();
    // The acceptors have stopped by themselves.
    stamp("stopped");
    stamp("told");
    let finish = handoff.finish()?;
    drop(ballast);
    match finish {
        Finish::Exit => Ok(()),
        Finish::Resume => Err("the successor was lost".into()),
    }
}

fn read(state: &Received) -> Result<(), StateError> {
    take_in(state);
    Ok(())
}

/// One listener is waited for in `accept`, several with epoll.
enum Accepting {
    One(Acceptor<TcpListener>),
    Several(OwnedFd, Vec<Acceptor<TcpListener>>),
}

impl Accepting {
    fn on(mut acceptors: Vec<Acceptor<TcpListener>>) -> io::Result<Accepting> {
        if acceptors.len() == 1 {
            return Ok(Accepting::One(acceptors.remove(0)));
        }
        let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (place, acceptor) in acceptors.iter().enumerate() {
            epoll::add(&ready, acceptor, epoll::EventData::new_u64(place as u64), epoll::EventFlags::IN)?;
        }
        Ok(Accepting::Several(ready, acceptors))
    }

    /// Until this process is superseded.
    fn run(self, handle: &Handle) -> io::Result<()> {
        match self {
            Accepting::One(acceptor) => while accept(&acceptor, handle)? {},
            Accepting::Several(ready, acceptors) => loop {
                let mut events = Vec::with_capacity(64);
                epoll::wait(&ready, spare_capacity(&mut events), None)?;
                for event in events {
                    if !accept(&acceptors[event.data.u64() as usize], handle)? {
                        return Ok(());
                    }
                }
            },
        }
        Ok(())
    }
}

/// Returns whether there may be more.
fn accept(acceptor: &Acceptor<TcpListener>, handle: &Handle) -> io::Result<bool> {
    let Some((connection, _)) = acceptor.accept()? else { return Ok(false) };
    let handle = handle.clone();
    std::thread::spawn(move || serve(BufReader::new(connection), &handle));
    Ok(true)
}

/// HTTP/1.1, requests without a body.
fn serve<S: io::Read + Write>(mut connection: BufReader<S>, handle: &Handle) -> io::Result<()> {
    let mut line = String::new();
    while connection.read_line(&mut line)? > 0 {
        if line == "\r\n" {
            let close = if handle.is_superseded() { "connection: close\r\n" } else { "" };
            let body = format!("{}\n", std::process::id());
            let answer = format!("HTTP/1.1 200 OK\r\n{close}content-length: {}\r\n\r\n{body}", body.len());
            connection.get_mut().write_all(answer.as_bytes())?;
            if !close.is_empty() {
                break;
            }
        }
        line.clear();
    }
    Ok(())
}
