//! `examples/peer.py`, a peer in another language written from protocol.md, between two processes of the example `http`.

#![cfg(all(feature = "tokio", feature = "bincode"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use common::raw::Raw;
use common::{PATIENCE, Place, place};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Enough that the count does not fit the shortest form of its encoding.
const MANY: u64 = 300;

/// A process and what it prints. Killed, if a test fails before it has ended.
struct Process {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Process {
    fn start(command: &mut Command) -> Process {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Process { child, lines }
    }

    /// The next line that begins so.
    fn prints(&mut self, beginning: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.lines.read_line(&mut line).unwrap(), 0, "it ends without saying {beginning:?}");
            if line.starts_with(beginning) {
                return line;
            }
        }
    }

    fn ends_well(&mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The example `http`. Returns it and its address once it serves.
fn start_http(listen: &str, control: &Path) -> (Process, String) {
    let mut http = Process::start(&mut http(listen, control));
    let ready = http.prints("ready ");
    let addr = ready.split_whitespace().find_map(|word| word.strip_prefix("listen=")).unwrap().to_owned();
    (http, addr)
}

fn http(listen: &str, control: &Path) -> Command {
    let mut command = Command::new(program("http"));
    command.args(["--listen", listen, "--control"]).arg(control);
    command
}

/// Cargo builds the examples beside the tests.
fn program(example: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().and_then(Path::parent).unwrap().join("examples").join(example);
    assert!(program.exists(), "{} is not built: run cargo test, or cargo build --examples", program.display());
    program
}

/// The peer, once it serves and nothing of its predecessor is to come.
fn start_peer(control: &Path) -> Process {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/peer.py");
    let mut peer = Process::start(Command::new("python3").arg(script).arg(control));
    peer.prints("serving ");
    peer.prints("heard the farewell");
    peer
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

fn answers(process: &Process, generation: u64, requests: u64) -> Value {
    json!({"pid": process.child.id(), "generation": generation, "requests": requests})
}

/// Generation 1, and the peer as generation 2, which has counted one request.
fn service_of_the_peer() -> (Place, Process, String) {
    let place = place();
    let (mut first, addr) = start_http("127.0.0.1:0", &place.path);
    let peer = start_peer(&place.path);
    first.ends_well();
    assert_eq!(get(&addr), answers(&peer, 2, 1));
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
#[ignore = "needs python3"]
fn a_peer_in_python_takes_the_service_and_gives_it_back() {
    let place = place();
    let (mut first, addr) = start_http("127.0.0.1:0", &place.path);
    for asked in 1..=MANY {
        assert_eq!(get(&addr), answers(&first, 1, asked));
    }
    let mut peer = start_peer(&place.path);
    first.ends_well();
    assert_eq!(get(&addr), answers(&peer, 2, MANY + 1));
    assert_eq!(get(&addr), answers(&peer, 2, MANY + 2));

    let (mut third, _) = start_http(&addr, &place.path);
    peer.prints("gone");
    peer.ends_well();
    assert_eq!(get(&addr), answers(&third, 3, MANY + 3));
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
        let mut peer = start_peer(&place.path);
        first.ends_well();
        assert_eq!(get(&addr)["generation"], 2);
        let (third, _) = start_http(&addr, &place.path);
        peer.ends_well();
        drop(ends);
        let made: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
        (made + 1, third)
    });
    assert_eq!(get(&addr), answers(&third, 3, made + 1));
}

#[test]
#[ignore = "needs python3"]
fn a_successor_that_dies_before_the_release_leaves_the_service_to_the_peer() {
    let (place, mut peer, addr) = service_of_the_peer();
    let mut slow = http(&addr, &place.path);
    let mut slow = Process::start(slow.args(["--slow-start", "600000"]));
    peer.prints("giving to ");
    slow.child.kill().unwrap();
    slow.child.wait().unwrap();
    peer.prints("failed: ");
    assert_eq!(get(&addr), answers(&peer, 2, 2));
    let (third, _) = start_http(&addr, &place.path);
    peer.ends_well();
    assert_eq!(get(&addr), answers(&third, 3, 3));
}

#[test]
#[ignore = "needs python3"]
fn the_peer_takes_back_what_its_successor_gives_up() {
    let (place, mut peer, addr) = service_of_the_peer();
    let mut successor = Raw::receive(&place.path);
    successor.take_offer();
    successor.say(&json!({"type": "ready"}));
    successor.expect("release");
    successor.say(&json!({"type": "abort", "code": "application", "reason": "cannot serve"}));
    peer.prints("taken back");
    assert_eq!(get(&addr), answers(&peer, 2, 2));
}

#[test]
#[ignore = "needs python3"]
fn the_peer_refuses_what_it_does_not_offer() {
    let (place, mut peer, addr) = service_of_the_peer();
    Raw::greeted(&place.path).say(&json!({"type": "status"}));
    peer.prints("failed: out_of_order");
    assert_eq!(get(&addr), answers(&peer, 2, 2));
}
