//! `Acceptor`: a blocking accept that ends when it has to, whatever a successor does to the listener's flags.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::channel;
use std::thread::scope;

use common::{Form, Place, config, pairings, place, tcp_listener};
use fd_handoff::{Acceptor, Offer};

pairings! {
    a_successor_that_makes_the_listener_non_blocking
    connections_in_the_queue_are_the_successors
}

/// The flag belongs to both processes: a plain blocking accept would fail at once.
fn a_successor_that_makes_the_listener_non_blocking(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let acceptor = Acceptor::new(tcp_listener()).unwrap();
    let addr = acceptor.local_addr().unwrap();
    let control = old.listen(config(&path)).unwrap();
    let (accepted, accepts) = channel();
    let path = &path;
    scope(|scope| {
        let server = acceptor.clone();
        scope.spawn(move || {
            while let Some((stream, _)) = server.accept().unwrap() {
                accepted.send(stream).unwrap();
            }
        });
        let successor = scope.spawn(move || {
            let mut inheritance = new.receive(config(path)).unwrap();
            let listener: TcpListener = inheritance.take("http").unwrap().unwrap();
            listener.set_nonblocking(true).unwrap();
            // The predecessor goes on serving, all the same.
            for _ in 0..10 {
                let mut client = TcpStream::connect(addr).unwrap();
                let mut served = accepts.recv_timeout(common::PATIENCE).unwrap();
                served.write_all(b"served").unwrap();
                drop(served);
                let mut heard = String::new();
                client.read_to_string(&mut heard).unwrap();
                assert_eq!(heard, "served");
            }
            (listener, inheritance.ready().unwrap())
        });
        let ready = control.accept().unwrap().offer(Offer::new().descriptor("http", &acceptor)).unwrap();
        acceptor.stop();
        ready.release(None).unwrap().farewell(None).unwrap();
        successor.join().unwrap();
    });
}

fn connections_in_the_queue_are_the_successors(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let acceptor = Acceptor::new(tcp_listener()).unwrap();
    let control = old.listen(config(&path)).unwrap();
    scope(|scope| {
        let successor = scope.spawn(|| {
            let mut inheritance = new.receive(config(&path)).unwrap();
            let listener: TcpListener = inheritance.take("http").unwrap().unwrap();
            let control = inheritance.ready().unwrap();
            let acceptor = Acceptor::new(listener).unwrap();
            let peer = acceptor.accept().unwrap().unwrap().1;
            (peer, control)
        });
        let ready = control.accept().unwrap().offer(Offer::new().descriptor("http", &acceptor)).unwrap();
        acceptor.stop();
        let client = TcpStream::connect(acceptor.local_addr().unwrap()).unwrap();
        assert!(acceptor.accept().unwrap().is_none());
        drop(acceptor);
        ready.release(None).unwrap().farewell(None).unwrap();
        assert_eq!(successor.join().unwrap().0, client.local_addr().unwrap());
    });
}

#[test]
fn stop_ends_every_accept_and_resume_begins_again() {
    let acceptor = Acceptor::new(tcp_listener()).unwrap();
    let addr = acceptor.local_addr().unwrap();
    for _ in 0..3 {
        scope(|scope| {
            let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| acceptor.accept().unwrap().is_none())).collect();
            acceptor.stop();
            acceptor.stop();
            assert!(waiting.into_iter().all(|waiting| waiting.join().unwrap()));
        });
        let client = TcpStream::connect(addr).unwrap();
        assert!(acceptor.accept().unwrap().is_none(), "it stays in the queue");
        acceptor.resume();
        acceptor.resume();
        let (mut stream, peer) = acceptor.accept().unwrap().unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        // What is accepted blocks as usual.
        scope(|scope| {
            let reading = scope.spawn(move || {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                byte
            });
            (&client).write_all(b"x").unwrap();
            assert_eq!(reading.join().unwrap(), *b"x");
        });
    }
}

#[test]
fn a_unix_listener() {
    let Place { directory: _directory, path } = place();
    let acceptor = Acceptor::new(UnixListener::bind(&path).unwrap()).unwrap();
    scope(|scope| {
        let accepted = scope.spawn(|| acceptor.accept().unwrap().is_some());
        let _client = UnixStream::connect(&path).unwrap();
        assert!(accepted.join().unwrap());
    });
    acceptor.stop();
    assert!(acceptor.accept().unwrap().is_none());
}
