//! Clients of a service in a machine, each request on a connection of its own, and connections that are kept.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use crate::clients::{Check, Clients, PATIENCE, require};
use crate::machine::{Machine, served_at};

/// How long a client rests between two requests.
const REST: Duration = Duration::from_millis(3);

/// What became of a request, in words where it was not answered.
pub(crate) type Sample = Result<(), String>;

pub(crate) struct Load(Clients<Sample>);

impl Load {
    pub(crate) fn start(machine: &Machine, clients: usize) -> Load {
        let network = machine.network();
        Load(Clients::all((0..clients).map(|_| {
            let network = network.clone();
            move |stop: &AtomicBool, answered: &AtomicU64| {
                network.enter();
                let mut samples = Vec::new();
                while !stop.load(SeqCst) {
                    let sample = visit();
                    if sample.is_ok() {
                        answered.fetch_add(1, SeqCst);
                    }
                    samples.push(sample);
                    thread::sleep(REST);
                }
                samples
            }
        })))
    }

    pub(crate) fn goes_on(&self) -> Check {
        self.0.goes_on(10)
    }

    pub(crate) fn stop(self) -> Vec<Sample> {
        self.0.stop()
    }

    /// Stops it, and all that was asked has to be answered.
    pub(crate) fn none_lost(self) -> Check<usize> {
        let samples = self.stop();
        let bad: Vec<_> = samples.iter().filter_map(|sample| sample.as_ref().err()).collect();
        require(bad.is_empty(), || format!("{} of {} lost: {:?}", bad.len(), samples.len(), &bad[..bad.len().min(5)]))?;
        Ok(samples.len())
    }
}

fn visit() -> Sample {
    let mut connection = TcpStream::connect(served_at()).map_err(|error| format!("refused: {error}"))?;
    ask(&mut connection, "close").map_err(|error| format!("lost: {error}"))
}

/// One request, and its answer. While the service drains, it closes the connection after that.
fn ask(connection: &mut TcpStream, then: &str) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    write!(connection, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: {then}\r\n\r\n")?;
    let mut answer = String::new();
    while !is_whole(&answer) {
        let mut bytes = [0; 1024];
        match connection.read(&mut bytes)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => answer.push_str(&String::from_utf8_lossy(&bytes[..count])),
        }
    }
    if answer.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(io::Error::other(format!("answered {answer:?}"))) }
}

fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let head = head.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}

/// A connection that its client keeps.
pub(crate) struct Kept(TcpStream);

impl Kept {
    /// So many, each of which was answered once.
    pub(crate) fn open(machine: &Machine, count: usize) -> Check<Vec<Kept>> {
        let network = machine.network();
        let open = move || {
            let mut connection = TcpStream::connect(served_at())?;
            ask(&mut connection, "keep-alive").map(|()| Kept(connection))
        };
        let all = move || {
            network.enter();
            (0..count).map(|_| open()).collect::<io::Result<_>>()
        };
        thread::spawn(all).join().unwrap().map_err(|error| format!("cannot open a connection: {error}"))
    }

    /// It is answered once more.
    pub(crate) fn answered_once_more(mut self) -> Check {
        ask(&mut self.0, "keep-alive").map_err(|error| format!("a kept connection was cut: {error}"))
    }
}
