//! Load on a service: clients on threads of this process.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::client::{Client, Sample};

/// How long a client rests that has lost a request, at the least: one that asks again at once would take a whole core to
/// be refused.
const AFTER_A_LOSS: Duration = Duration::from_micros(100);

/// How many clients, and how busy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clients {
    /// Those that open a connection for each request.
    pub(crate) new: usize,
    /// Those that keep theirs.
    pub(crate) kept: usize,
    /// How long each rests between two requests.
    pub(crate) rest: Duration,
}

/// Clients that ask until they are told to end.
#[derive(Debug)]
pub(crate) struct Load {
    end: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Sample>>>,
}

impl Load {
    pub(crate) fn begin(addr: SocketAddr, clients: Clients) -> Load {
        let end = Arc::new(AtomicBool::new(false));
        let client = |index| {
            let client = Client::new(addr, index >= clients.new);
            let end = Arc::clone(&end);
            std::thread::spawn(move || ask_until(&end, client, clients.rest))
        };
        let clients = (0..clients.new + clients.kept).map(client).collect();
        Load { end, clients }
    }

    /// Ends it, and gives every request that was asked.
    pub(crate) fn end(mut self) -> Vec<Sample> {
        self.end.store(true, Relaxed);
        self.clients.drain(..).flat_map(|client| client.join().expect("a client panicked")).collect()
    }
}

/// Whoever has failed meanwhile has no use for the requests.
impl Drop for Load {
    fn drop(&mut self) {
        self.end.store(true, Relaxed);
    }
}

fn ask_until(end: &AtomicBool, mut client: Client, rest: Duration) -> Vec<Sample> {
    let mut samples = Vec::new();
    while !end.load(Relaxed) {
        let sample = client.ask();
        let rest = if sample.result.is_ok() { rest } else { rest.max(AFTER_A_LOSS) };
        samples.push(sample);
        if !rest.is_zero() {
            std::thread::sleep(rest);
        }
    }
    samples
}

/// Requests without an answer, by what their clients were told.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Losses {
    pub(crate) refused: usize,
    pub(crate) reset: usize,
    /// Anything else: the connection ended, or nothing came for five seconds.
    pub(crate) failed: usize,
}

impl Losses {
    pub(crate) fn of(samples: &[Sample]) -> Losses {
        let mut losses = Losses::default();
        for error in samples.iter().filter_map(|sample| sample.result.err()) {
            match error {
                ErrorKind::ConnectionRefused => losses.refused += 1,
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => losses.reset += 1,
                _ => losses.failed += 1,
            }
        }
        losses
    }

    pub(crate) fn total(&self) -> usize {
        self.refused + self.reset + self.failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_counted_by_what_the_client_was_told() {
        let sample = |result| Sample { began: Duration::ZERO, took: Duration::ZERO, result };
        let errors = [ErrorKind::BrokenPipe, ErrorKind::ConnectionRefused, ErrorKind::WouldBlock];
        let mut samples: Vec<Sample> = errors.into_iter().map(|error| sample(Err(error))).collect();
        samples.push(sample(Ok(())));
        assert_eq!(Losses::of(&samples), Losses { refused: 1, reset: 1, failed: 1 });
        assert_eq!(Losses::of(&samples).total(), 3);
    }
}
