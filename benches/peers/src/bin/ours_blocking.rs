//! fd-handoff's facade on threads: one for each listener, one for each connection.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::sync::Arc;

use fd_handoff::{Finish, Handle, Handoff, Received, SignalKind, State, StateError};
use peers::{Args, resident, stamp, touch};

const ACCEPTING_STACK: usize = 64 << 10;

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
    let mut handoff = starting.ready()?;

    for acceptor in acceptors {
        let handle = handoff.handle();
        std::thread::Builder::new().stack_size(ACCEPTING_STACK).spawn(move || {
            while let Ok(Some((connection, _))) = acceptor.accept() {
                let handle = handle.clone();
                std::thread::spawn(move || serve(BufReader::new(connection), &handle));
            }
        })?;
    }
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
    stamp("arrived");
    touch(state);
    stamp("state");
    Ok(())
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
