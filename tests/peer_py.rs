//! `examples/peer.py`, a peer in another language written from protocol.md, between two processes of the example `http`.

#![cfg(all(feature = "tokio", feature = "bincode"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;
#[path = "common/example.rs"]
mod example;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use common::raw::Raw;
use common::{PATIENCE, Place, place};
use example::Process;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Enough that the count does not fit the shortest form of its encoding.
const MANY: u64 = 300;

/// The peer and what it prints. Killed, if a test fails before it has ended.
struct Peer {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Peer {
    /// Returns once it serves.
    fn start(control: &Path) -> Peer {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/peer.py");
        let mut command = Command::new("python3");
        let mut child = command.arg(script).arg(control).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut peer = Peer { child, lines };
        peer.prints("serving ");
        peer
    }

    /// Nothing of its predecessor is to come any more.
    fn is_alone(&mut self) {
        self.prints("heard the farewell ");
    }

    fn prints(&mut self, beginning: &str) {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert!(line.starts_with(beginning), "{line:?}");
    }

    fn ends_well(&mut self) {
        self.prints("released");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The example `http`. Returns it and its address once it serves.
fn start_http(listen: &str, control: &Path) -> (Process, String) {
    let http = Process::start("http", &["--listen", listen, "--control", control.to_str().unwrap()]);
    let addr = http.word("listen=").to_owned();
    (http, addr)
}

/// One request on a connection of its own.
fn get(addr: &str) -> Value {
    let mut connection = TcpStream::connect(addr).expect("no connection is refused");
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    connection.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("every connection is answered");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    serde_json::from_str(body).unwrap()
}

fn answers(process: &Child, generation: u64, requests: u64) -> Value {
    json!({"pid": process.id(), "generation": generation, "requests": requests})
}

/// Generation 1, and the peer as generation 2, which has counted one request.
fn service_of_the_peer() -> (Place, Peer, String) {
    let place = place();
    let (mut first, addr) = start_http("127.0.0.1:0", &place.path);
    let mut peer = Peer::start(&place.path);
    first.ends_well();
    peer.is_alone();
    assert_eq!(get(&addr), answers(&peer.child, 2, 1));
    (place, peer, addr)
}

/// Tells the load to stop, also where a test fails: it would never end.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Makes requests until it is told to stop. Returns how many.
fn load(addr: &str, stop: &AtomicBool) -> u64 {
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) {
        get(addr);
        made += 1;
    }
    made
}

#[test]
fn the_peer_has_fewer_than_80_lines() {
    let lines: Vec<&str> = include_str!("../examples/peer.py").lines().collect();
    assert!(lines.len() < 80, "{} lines", lines.len());
    let long: Vec<_> = lines.iter().filter(|line| line.chars().count() > 120).collect();
    assert!(long.is_empty(), "longer than 120 characters: {long:#?}");
}

// M125
#[test]
#[ignore = "needs python3"]
fn a_peer_in_python_takes_the_service_and_gives_it_back() {
    let place = place();
    let (mut first, addr) = start_http("127.0.0.1:0", &place.path);
    for asked in 1..=MANY {
        assert_eq!(get(&addr), answers(&first.child, 1, asked));
    }
    let mut peer = Peer::start(&place.path);
    first.ends_well();
    peer.is_alone();
    assert_eq!(get(&addr), answers(&peer.child, 2, MANY + 1));
    assert_eq!(get(&addr), answers(&peer.child, 2, MANY + 2));

    let (mut third, _) = start_http(&addr, &place.path);
    peer.ends_well();
    assert_eq!(get(&addr), answers(&third.child, 3, MANY + 3));
    kill(Pid::from_raw(third.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    third.ends_well();
    assert!(!place.path.exists(), "the last generation has removed the path");
}

#[test]
#[ignore = "needs python3"]
fn under_load_no_request_is_lost() {
    let place = place();
    let (mut first, addr) = start_http("127.0.0.1:0", &place.path);
    let stop = AtomicBool::new(false);
    let (made, third) = std::thread::scope(|scope| {
        let ends = Stop(&stop);
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(|| load(&addr, &stop))).collect();
        let mut peer = Peer::start(&place.path);
        first.ends_well();
        peer.is_alone();
        assert_eq!(get(&addr)["generation"], 2);
        let (third, _) = start_http(&addr, &place.path);
        peer.ends_well();
        drop(ends);
        let made: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
        (made + 1, third)
    });
    assert_eq!(get(&addr), answers(&third.child, 3, made + 1));
}

#[test]
#[ignore = "needs python3"]
fn what_the_predecessor_still_answers_is_added() {
    let place = place();
    let (mut first, addr) = start_http("127.0.0.1:0", &place.path);
    let mut early = BufReader::new(TcpStream::connect(&addr).unwrap());
    early.get_mut().set_read_timeout(Some(PATIENCE)).unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    early.get_mut().write_all(request).unwrap();
    let mut line = String::new();
    while !line.ends_with("}\n") {
        early.read_line(&mut line).unwrap();
    }

    let mut peer = Peer::start(&place.path);
    assert_eq!(get(&addr), answers(&peer.child, 2, 2));
    assert_eq!(get(&addr), answers(&peer.child, 2, 3));
    early.get_mut().write_all(request).unwrap();
    let mut rest = String::new();
    early.read_to_string(&mut rest).unwrap();
    assert!(rest.contains(r#""generation":1,"requests":2}"#), "{rest}");
    first.ends_well();
    peer.is_alone();
    assert_eq!(get(&addr), answers(&peer.child, 2, 5));
}

#[test]
#[ignore = "needs python3"]
fn whoever_goes_away_before_the_release_leaves_the_service_to_the_peer() {
    let (place, mut peer, addr) = service_of_the_peer();
    let mut inspector = Raw::greeted(&place.path);
    inspector.say(&json!({"type": "status"}));
    inspector.expect("abort");
    assert_eq!(get(&addr), answers(&peer.child, 2, 2));

    let mut successor = Raw::receive(&place.path);
    successor.take_offer();
    assert_eq!(get(&addr), answers(&peer.child, 2, 3));
    drop(successor);
    let (third, _) = start_http(&addr, &place.path);
    peer.ends_well();
    assert_eq!(get(&addr), answers(&third.child, 3, 4));
}
