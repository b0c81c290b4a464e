//! A pool of threads that is replaced without losing a request: std only, without tokio.
//!
//! ```text
//! cargo run --no-default-features --example threads -- 127.0.0.1:8080 /tmp/threads.sock
//! ```
//!
//! SIGHUP upgrades it, as does `upgrade` at its control socket, or starting it again; SIGTERM stops it.
//!
//! A thread serves one connection at a time, for as long as its client keeps it.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use fd_handoff::{Acceptor, Config, Finish, Handle, Handoff, SignalKind};

const THREADS: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(addr), Some(control)) = (args.next(), args.next()) else {
        return Err("usage: threads ADDRESS CONTROL-SOCKET".into());
    };
    let mut starting = Handoff::builder(Config::new(control).name("threads"))
        .upgrade_on(SignalKind::hangup())
        .stop_on(SignalKind::terminate())
        .start()?;
    let listener = starting.tcp_listener("http", addr.parse()?)?;
    let listen = listener.local_addr()?;
    let mut handoff = starting.ready()?;

    let (generation, pid) = (handoff.generation(), std::process::id());
    println!("ready generation={generation} pid={pid} listen={listen}");
    loop {
        for _ in 0..THREADS {
            let (listener, handle) = (listener.clone(), handoff.handle());
            thread::spawn(move || work(&listener, &handle, generation));
        }
        handoff.superseded();
        // Gives the service up, and waits for the connections that there are; then the threads end with the process.
        match handoff.finish()? {
            Finish::Exit => return Ok(()),
            Finish::Resume => {}
        }
    }
}

/// Serves one connection after the other, until this process is superseded.
fn work(listener: &Acceptor<TcpListener>, handle: &Handle, generation: u64) {
    loop {
        match listener.accept() {
            // A connection that fails concerns its client only.
            Ok(Some((connection, _))) => drop(serve(BufReader::new(connection), handle, generation)),
            Ok(None) => return,
            // Out of descriptors, most likely: they come back as connections end.
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// HTTP/1.1, requests without a body. Once superseded, an answer is the last one on its connection, and says so.
fn serve<S: io::Read + Write>(mut connection: BufReader<S>, handle: &Handle, generation: u64) -> io::Result<()> {
    let mut line = String::new();
    while connection.read_line(&mut line)? > 0 {
        if line == "\r\n" {
            let close = if handle.is_superseded() { "Connection: close\r\n" } else { "" };
            let body = format!("generation {generation}\n");
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{close}\r\n{body}", body.len());
            connection.get_mut().write_all(answer.as_bytes())?;
            if !close.is_empty() {
                break;
            }
        }
        line.clear();
    }
    Ok(())
}
