//! Clients of the example `http`, half of whom keep their connections.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::PATIENCE;

const CLIENTS: u32 = 6;
/// Enough load to be interrupted, and few enough connections to leave the machine's ports alone.
const REST: Duration = Duration::from_millis(5);

/// What became of the requests.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Sum {
    pub(crate) answered: u64,
    pub(crate) refused: u64,
    /// Reset, or closed without an answer.
    pub(crate) lost: u64,
    pub(crate) longest: Duration,
}

pub(crate) struct Load {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Sum>>,
}

/// One answer: by which process, and how many there were, this one among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) generation: u64,
    pub(crate) requests: u64,
}

impl Load {
    pub(crate) fn start(port: u16) -> Load {
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let clients = (0..CLIENTS).map(|number| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            std::thread::spawn(move || client(addr, number % 2 == 0, &stop, &answered))
        });
        Load { addr, clients: clients.collect(), stop, answered }
    }

    /// Waits until so many more were answered.
    pub(crate) fn goes_on(&self, more: u64) {
        let (began, goal) = (Instant::now(), self.answered.load(SeqCst) + more);
        while self.answered.load(SeqCst) < goal {
            assert!(began.elapsed() < PATIENCE, "nobody answers");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn stop(self) -> (Sum, Answer) {
        self.stop.store(true, SeqCst);
        let sums = self.clients.into_iter().map(|client| client.join().unwrap());
        let sum = sums.fold(Sum::default(), |one, other| Sum {
            answered: one.answered + other.answered,
            refused: one.refused + other.refused,
            lost: one.lost + other.lost,
            longest: one.longest.max(other.longest),
        });
        (sum, Client::open(self.addr).unwrap().ask(false).unwrap().0)
    }

    /// Ends it, nothing was lost, and the count is exact.
    #[track_caller]
    pub(crate) fn lost_nothing(self) -> Sum {
        let (sum, last) = self.stop();
        assert_eq!((sum.refused, sum.lost), (0, 0), "{sum:?}");
        assert_eq!(last.requests, sum.answered + 1, "the count is exact: {sum:?}");
        sum
    }

    /// Ends it: nobody was refused, and lost were at most those in flight at so many crashes.
    #[track_caller]
    pub(crate) fn lost_what_was_in_flight(self, crashes: u64) -> Sum {
        let (sum, last) = self.stop();
        assert_eq!(sum.refused, 0, "{sum:?}");
        // Not exact: each crash costs what came since the last snapshot.
        assert!(last.requests > sum.answered / 2, "the count begins anew: {last:?}, {sum:?}");
        assert!(sum.lost <= crashes * u64::from(CLIENTS), "{sum:?}");
        sum
    }
}

fn client(addr: SocketAddr, keeps: bool, stop: &AtomicBool, answered: &AtomicU64) -> Sum {
    let mut sum = Sum::default();
    let mut kept = None;
    while !stop.load(SeqCst) {
        let began = Instant::now();
        let Some(mut client) = kept.take().or_else(|| Client::open(addr)) else {
            sum.refused += 1;
            std::thread::sleep(REST);
            continue;
        };
        match client.ask(keeps) {
            Some((_, is_last)) => {
                sum.answered += 1;
                answered.fetch_add(1, SeqCst);
                kept = Some(client).filter(|_| keeps && !is_last);
            }
            None => sum.lost += 1,
        }
        sum.longest = sum.longest.max(began.elapsed());
        std::thread::sleep(REST);
    }
    sum
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn open(addr: SocketAddr) -> Option<Client> {
        let stream = TcpStream::connect(addr).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        Some(Client(BufReader::new(stream)))
    }

    /// The answer, and whether it was the last one on this connection.
    fn ask(&mut self, keeps: bool) -> Option<(Answer, bool)> {
        let connection = if keeps { "keep-alive" } else { "close" };
        write!(self.0.get_mut(), "GET / HTTP/1.1\r\nHost: test\r\nConnection: {connection}\r\n\r\n").ok()?;
        let (mut length, mut is_last) = (0, false);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().ok()?;
            }
            is_last |= line == "connection: close";
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).ok()?;
        let body: serde_json::Value = serde_json::from_slice(&body).ok()?;
        let number = |name: &str| body[name].as_u64();
        Some((Answer { generation: number("generation")?, requests: number("requests")? }, is_last))
    }
}
