//! Clients of a service in a machine, each request on a connection of its own.

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
    ask(&mut connection).map_err(|error| format!("lost: {error}"))
}

/// One request, and its answer.
fn ask(connection: &mut TcpStream) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("}\n") {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("answered {answer:?}")))
}
