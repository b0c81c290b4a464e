//! What stands in public signatures has a name in this crate: a program needs no other one to spell it.

#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::io;

use fd_handoff::client::Client;
use fd_handoff::tokio::{Connection, Counted, Handoff};
use fd_handoff::{Error, WireError, socket2};

/// As a function of its own, which has to name the type.
fn share_port(socket: &socket2::Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

/// As a field of a program's own struct, which has to name what counts.
struct Session {
    stream: tokio::net::TcpStream,
    counted: Counted,
}

impl From<Connection<tokio::net::TcpStream>> for Session {
    fn from(connection: Connection<tokio::net::TcpStream>) -> Session {
        let (stream, counted) = connection.into_parts();
        Session { stream, counted }
    }
}

#[tokio::test]
async fn a_connection_is_counted_for_as_long_as_what_counts_it_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let mut starting = Handoff::builder(directory.path().join("control.sock")).start().await.unwrap();
    let acceptor = starting.tcp_listener_with("a", "127.0.0.1:0".parse().unwrap(), share_port).unwrap();
    assert!(socket2::SockRef::from(&*acceptor.listener().unwrap()).reuse_port().unwrap());
    let handoff = starting.ready().await.unwrap();

    let _client = tokio::net::TcpStream::connect(acceptor.local_addr().unwrap()).await.unwrap();
    let session = Session::from(acceptor.accept().await.unwrap().unwrap().0);
    let job: Counted = handoff.handle().count();
    assert_eq!(handoff.handle().connections(), 2);
    drop(session.stream);
    assert_eq!(handoff.handle().connections(), 2);
    drop((session.counted, job));
    assert_eq!(handoff.handle().connections(), 0);
}

#[test]
fn what_is_wrong_with_a_line_has_a_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            use std::io::Write;
            listener.accept().unwrap().0.write_all(b"220 mail.example.org ESMTP\n").unwrap();
        });
        Client::connect(&path).map(drop).unwrap_err()
    });
    let Error::Garbled(what) = error else { panic!("{error}") };
    let what: WireError = what;
    assert!(matches!(what, WireError::Malformed(_)), "{what}");
}
