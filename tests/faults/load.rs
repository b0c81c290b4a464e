//! Clients that make requests all the time, and note what became of each.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::clients::{Check, Clients, PATIENCE};
use crate::process::{Place, Program};

/// How long a client rests between two requests: enough load to be interrupted, few enough connections to leave
/// the machine's ports alone.
const REST: Duration = Duration::from_millis(4);
/// What one client does at the most.
const MAX_REQUESTS: usize = 20_000;
/// Clients that open a connection for each request, and clients that keep theirs.
const FRESH: usize = 2;
const KEPT: usize = 2;
pub(crate) const CLIENTS: usize = FRESH + KEPT;

/// How many requests one connection to a service is good for that never closes one.
const KEPT_FOR: u32 = 10;

/// Who has answered (nobody knows of an echo), and the how manieth request it was.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) struct Answer {
    pub(crate) pid: i32,
    pub(crate) generation: u64,
    pub(crate) requests: u64,
}

/// One request.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) client: usize,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    /// The first on its connection.
    pub(crate) fresh: bool,
    pub(crate) result: Result<Answer, Miss>,
}

/// A request without an answer.
#[derive(Debug)]
pub(crate) enum Miss {
    Refused,
    Lost(#[expect(dead_code, reason = "shown where a row fails")] io::Error),
}

/// Clients at work.
pub(crate) type Load = Clients<Sample>;

impl Load {
    pub(crate) fn start(place: &Place) -> Load {
        Clients::all((0..CLIENTS).map(|number| {
            let keeps = number >= FRESH;
            let mut client = Client { number, program: place.program, addr: place.listen, keeps, connection: None };
            move |stop: &AtomicBool, answered: &AtomicU64| client.run(stop, answered)
        }))
    }
}

/// One request on a connection of its own.
pub(crate) fn ask(place: &Place) -> Check<Answer> {
    let mut connection = Connection::open(place.listen).map_err(|error| format!("a late request: {error}"))?;
    let (answer, _) = connection.exchange(place.program).map_err(|error| format!("a late request: {error}"))?;
    Ok(answer)
}

struct Client {
    number: usize,
    program: Program,
    addr: SocketAddr,
    keeps: bool,
    connection: Option<Connection>,
}

impl Client {
    fn run(&mut self, stop: &AtomicBool, answered: &AtomicU64) -> Vec<Sample> {
        let mut samples = Vec::new();
        while !stop.load(SeqCst) && samples.len() < MAX_REQUESTS {
            let sample = self.request();
            answered.fetch_add(u64::from(sample.result.is_ok()), SeqCst);
            samples.push(sample);
            std::thread::sleep(REST);
        }
        samples
    }

    fn request(&mut self) -> Sample {
        let fresh = self.connection.is_none();
        let began = Instant::now();
        let result = self.answer();
        Sample { client: self.number, began, ended: Instant::now(), fresh, result }
    }

    fn answer(&mut self) -> Result<Answer, Miss> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.addr).map_err(Miss::from)?,
        };
        let (answer, closes) = connection.exchange(self.program).map_err(Miss::Lost)?;
        if self.keeps && !closes {
            self.connection = Some(connection);
        }
        Ok(answer)
    }
}

impl From<io::Error> for Miss {
    fn from(error: io::Error) -> Miss {
        if error.kind() == io::ErrorKind::ConnectionRefused { Miss::Refused } else { Miss::Lost(error) }
    }
}

pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    requests: u32,
}

impl Connection {
    pub(crate) fn open(addr: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream: BufReader::new(stream), requests: 0 })
    }

    /// One request and its answer, and whether the connection has come to its end with it.
    pub(crate) fn exchange(&mut self, program: Program) -> io::Result<(Answer, bool)> {
        self.requests += 1;
        match program {
            Program::Http => self.get(),
            Program::Echo => self.echo().map(|()| (Answer::default(), self.requests == KEPT_FOR)),
        }
    }

    pub(crate) fn close(&self) {
        // It may be closed already.
        let _ = self.stream.get_ref().shutdown(std::net::Shutdown::Both);
    }

    fn get(&mut self) -> io::Result<(Answer, bool)> {
        self.stream.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")?;
        let (mut length, mut closes) = (0, false);
        loop {
            let header = self.line()?.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            closes |= header == "connection: close";
            if let Some(value) = header.strip_prefix("content-length: ") {
                length = value.parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((serde_json::from_slice(&body)?, closes))
    }

    fn echo(&mut self) -> io::Result<()> {
        let said = format!("request {}\n", self.requests);
        self.stream.get_mut().write_all(said.as_bytes())?;
        let heard = self.line()?;
        if heard == said { Ok(()) } else { Err(io::Error::other(heard)) }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line)
    }
}
