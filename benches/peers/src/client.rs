//! A client as there are many: HTTP/1.1 requests over a socket that blocks, and what becomes of each.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use peers::now;
use socket2::SockRef;

/// No request takes this long unless it is lost.
const LOST_AFTER: Duration = Duration::from_secs(5);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// One request, by the clock of [`now`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) began: Duration,
    pub(crate) took: Duration,
    pub(crate) result: Result<(), ErrorKind>,
}

impl Sample {
    pub(crate) fn ended(&self) -> Duration {
        self.began + self.took
    }

    /// Whether it was under way at any time from `from` to `to`.
    pub(crate) fn overlaps(&self, from: Duration, to: Duration) -> bool {
        self.began <= to && self.ended() >= from
    }
}

/// Asks one request after the other.
#[derive(Debug)]
pub(crate) struct Client {
    addr: SocketAddr,
    /// It keeps its connection for as long as the server does.
    keeps: bool,
    kept: Option<TcpStream>,
}

impl Client {
    pub(crate) fn new(addr: SocketAddr, keeps: bool) -> Client {
        Client { addr, keeps, kept: None }
    }

    /// Asks once. A new connection is part of the request; one that was kept and has died since is its failure.
    pub(crate) fn ask(&mut self) -> Sample {
        let began = now();
        let result = self.try_ask().map_err(|error| error.kind());
        Sample { began, took: now() - began, result }
    }

    fn try_ask(&mut self) -> io::Result<()> {
        let mut connection = match self.kept.take() {
            Some(kept) => kept,
            None => connect(self.addr)?,
        };
        connection.write_all(REQUEST)?;
        let answer = read_answer(&mut connection)?;
        if self.keeps && !answer.closes {
            self.kept = Some(connection);
        }
        Ok(())
    }
}

fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let connection = TcpStream::connect_timeout(&addr, LOST_AFTER)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(LOST_AFTER))?;
    // A connection whose client closes it first keeps its port for a minute, see `TIME_WAIT` in tcp(7): at this rate
    // there would soon be none left. One that is reset does not, and its answer has been read.
    SockRef::from(&connection).set_linger(Some(Duration::ZERO))?;
    Ok(connection)
}

#[derive(Debug, PartialEq)]
struct Answer {
    /// It is the last one on its connection.
    closes: bool,
}

fn read_answer(connection: &mut impl Read) -> io::Result<Answer> {
    let mut buffer = [0; 2_048];
    let mut filled = 0;
    loop {
        let read = connection.read(&mut buffer[filled..])?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        filled += read;
        if let Some(answer) = parse(&buffer[..filled]).ok_or(ErrorKind::InvalidData)? {
            return Ok(answer);
        }
    }
}

/// The answer, if it is there as a whole by now. `None` where it makes no sense or is not `200 OK`.
fn parse(bytes: &[u8]) -> Option<Option<Answer>> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes).ok()? else { return Some(None) };
    let header = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok()
    };
    if response.code != Some(200) {
        return None;
    }
    let length: usize = header("content-length")?.parse().ok()?;
    let closes = header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Some((bytes.len() >= head + length).then_some(Answer { closes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n42\n";
    const LAST: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\n42\n";

    #[test]
    fn an_answer_may_come_in_pieces() {
        for length in 0..ANSWER.len() {
            assert_eq!(parse(&ANSWER[..length]), Some(None), "{length} bytes");
        }
        assert_eq!(parse(ANSWER), Some(Some(Answer { closes: false })));
    }

    #[test]
    fn the_last_answer_says_so() {
        assert_eq!(parse(LAST), Some(Some(Answer { closes: true })));
    }

    #[test]
    fn anything_but_ok_is_a_failure() {
        assert_eq!(parse(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"), None);
        assert_eq!(parse(b"SSH-2.0-OpenSSH\r\n"), None);
    }

    #[test]
    fn an_answer_that_breaks_off_is_a_failure() {
        let error = read_answer(&mut &ANSWER[..20]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
}
