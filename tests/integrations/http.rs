//! HTTP/1.1 by hand: every byte that is sent or awaited shows here.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::{Client, PATIENCE};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// Clients that open a connection for each request, and clients that keep theirs for as long as the service does.
pub(crate) fn clients(addr: SocketAddr) -> Vec<Client> {
    let fresh = (0..2).map(|_| client(addr, false));
    let kept = (0..4).map(|_| client(addr, true));
    fresh.chain(kept).collect()
}

fn client(addr: SocketAddr, keeps: bool) -> Client {
    Box::new(move |tell| {
        let mut kept = None;
        let mut request = || {
            let mut connection = kept.take().map_or_else(|| Connection::open(addr), Ok)?;
            connection.send(REQUEST)?;
            let closes = connection.answer()?;
            kept = Some(connection).filter(|_| keeps && !closes);
            Ok::<_, io::Error>(())
        };
        while tell(request().map_err(|error| error.to_string())) {}
    })
}

/// An idle connection, and one with half a request: the process that accepted them answers, and closes them.
pub(crate) fn hold(addr: SocketAddr) -> impl FnOnce() {
    let mut idle = Connection::open(addr).unwrap();
    idle.send(REQUEST).unwrap();
    assert!(!idle.answer().unwrap());
    let mut begun = Connection::open(addr).unwrap();
    begun.send(REQUEST).unwrap();
    assert!(!begun.answer().unwrap());
    let (half, rest) = REQUEST.split_at(REQUEST.len() / 2);
    begun.send(half).unwrap();
    move || {
        idle.send(REQUEST).unwrap();
        begun.send(rest).unwrap();
        for mut connection in [idle, begun] {
            assert!(connection.answer().unwrap(), "the last answer says that it is");
            assert_eq!(connection.0.read(&mut [0]).unwrap(), 0);
        }
    }
}

struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(addr: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Connection(BufReader::new(stream)))
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// Reads an answer, and returns whether it is the last one on this connection.
    fn answer(&mut self) -> io::Result<bool> {
        let status = self.line()?;
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
        self.0.read_exact(&mut body)?;
        let well = status.starts_with("HTTP/1.1 200 ") && body.starts_with(b"generation ");
        if well { Ok(closes) } else { Err(io::Error::other(status)) }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line)
    }
}
