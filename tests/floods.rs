//! Floods: whoever connects, asks or reports without end takes no time away from the service, nor from those who have something
//! to say to it. `cargo bench --bench floods` measures how little.
//!
//! Each service is a process of its own: on tokio with one thread and with several, and on threads.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;
#[path = "common/example.rs"]
mod example;

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::child::{self, Child};
use common::raw::Raw;
use common::{PATIENCE, is_root};
use example::{Process, place};
use fd_handoff::client::Client;
use serde_json::json;

/// How many requests show that a service goes on.
const SOME: usize = 100;
/// How long they may take. A few milliseconds do; a service that is held up answers a handful in a second.
const SOON: Duration = Duration::from_secs(5);
/// How much a flood may cost in memory.
const MEMORY: u64 = 8 << 20;

/// How many connections a service takes in every second at the most, and how many wait for it.
const A_SECOND: f64 = 4_000.0;
const WAITING: f64 = 100.0;

/// The ways in which a service runs.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Tokio { workers: u32 },
    Threads,
}

const KINDS: [Kind; 3] = [Kind::Tokio { workers: 1 }, Kind::Tokio { workers: 2 }, Kind::Threads];

/// A service, which requests are made to all the time.
struct Service {
    kind: Kind,
    path: PathBuf,
    process: Process,
    load: Load,
    _directory: tempfile::TempDir,
}

impl Service {
    fn start(kind: Kind) -> Service {
        let (directory, path) = place();
        let path = PathBuf::from(path);
        let process = start(kind, "127.0.0.1:0", &path);
        // Everybody may come as far as the control socket.
        for open in [directory.path(), &path] {
            std::fs::set_permissions(open, Permissions::from_mode(0o777)).unwrap();
        }
        let load = Load::start(process.word("listen=").parse().unwrap());
        let service = Service { kind, path, process, load, _directory: directory };
        service.goes_on();
        service
    }

    fn goes_on(&self) {
        let (began, goal) = (Instant::now(), self.load.answered.load(SeqCst) + SOME);
        wait_for(|| self.load.answered.load(SeqCst) >= goal);
        let took = began.elapsed();
        assert!(took < SOON, "{:?}: {SOME} requests took {took:?}", self.kind);
    }

    /// Another process takes over, and no request is lost.
    fn hand_over(mut self) {
        let listen = self.process.word("listen=").to_owned();
        let mut next = start(self.kind, &listen, &self.path);
        assert_eq!(next.word("generation="), "2");
        self.process.ends_well();
        self.goes_on();
        self.load.ends();
        Client::connect(&self.path).unwrap().stop().unwrap();
        next.ends_well();
    }

    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

fn start(kind: Kind, listen: &str, path: &Path) -> Process {
    let path = path.to_str().unwrap();
    match kind {
        Kind::Tokio { workers } => {
            let workers = workers.to_string();
            let env = [("TOKIO_WORKER_THREADS", workers.as_str())];
            Process::start_with("http", &["--listen", listen, "--control", path], &env)
        }
        Kind::Threads => Process::start("threads", &[listen, path]),
    }
}

/// A client that makes one request after the other, each on a connection of its own.
struct Load {
    answered: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    client: Option<JoinHandle<()>>,
}

impl Load {
    fn start(listen: SocketAddr) -> Load {
        let (answered, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let client = std::thread::spawn({
            let (answered, stop) = (Arc::clone(&answered), Arc::clone(&stop));
            move || {
                while !stop.load(SeqCst) {
                    request(listen);
                    answered.fetch_add(1, SeqCst);
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Load { answered, stop, client: Some(client) }
    }

    /// No request was lost.
    fn ends(&mut self) {
        self.stop.store(true, SeqCst);
        self.client.take().unwrap().join().unwrap();
    }
}

fn wait_for(mut is_there: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_there() {
        assert!(began.elapsed() < PATIENCE, "waited in vain");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn request(listen: SocketAddr) {
    let mut stream = TcpStream::connect(listen).expect("the service is there");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("a request is answered");
    assert!(line.starts_with("HTTP/1.1 200"), "{line:?}");
}

/// Four threads of somebody who may not connect.
// M146
#[test]
fn those_who_may_not_connect_hold_nobody_up() {
    if !is_root() {
        return;
    }
    for kind in KINDS {
        let service = Service::start(kind);
        let mut flood = Child::start_as_nobody("connect without end", &service.path);
        assert_eq!(flood.hear(), "denied");
        let before = service.memory();
        let (began, already) = (Instant::now(), count(&mut flood));
        service.goes_on();
        for _ in 0..10 {
            let began = Instant::now();
            Client::connect(&service.path).unwrap().status().unwrap();
            let took = began.elapsed();
            assert!(took < SOON, "{kind:?}: the status took {took:?}");
        }
        service.goes_on();
        // Those who wait are not taken in yet.
        let most = began.elapsed().as_secs_f64() * A_SECOND + WAITING;
        let came = count(&mut flood) - already;
        assert!(came <= most, "{kind:?}: {came} came instead of {most}");
        assert!(service.memory() < before + MEMORY);
        service.hand_over();
        flood.kill();
    }
}

fn count(flood: &mut Child) -> f64 {
    flood.tell("how many");
    flood.hear().parse().unwrap()
}

// M146, M147
#[test]
fn a_successor_that_reports_without_end_holds_nobody_up() {
    for kind in KINDS {
        let service = Service::start(kind);
        let (_, mut watching) = Client::connect(&service.path).unwrap().watch().unwrap();
        let mut successor = Raw::receive(&service.path);
        successor.take_offer();
        let before = service.memory();
        let flood = Flood::start(successor, &json!({"type": "progress", "message": "still at it"}));
        service.goes_on();
        service.goes_on();
        assert!(service.memory() < before + MEMORY);
        let status = Client::connect(&service.path).unwrap().status().unwrap();
        assert_eq!(status.successor.unwrap().progress.as_deref(), Some("still at it"));
        // Those who listen hear of it now and then, and of its end.
        drop(flood);
        let seen = std::iter::from_fn(|| watching.next());
        let until = seen.map(|step| format!("{:?}", step.unwrap())).take_while(|step| !step.contains("Failed"));
        let told = until.filter(|step| step.contains("Progress")).count();
        assert!((1..200).contains(&told), "{kind:?}: told of {told}");
        service.hand_over();
    }
}

/// During a handoff: it stops the service when the successor is gone, and not before.
#[test]
fn one_that_says_stop_without_end_holds_nobody_up() {
    for kind in KINDS {
        let mut service = Service::start(kind);
        let mut successor = Raw::receive(&service.path);
        successor.take_offer();
        let before = service.memory();
        let (flood, other) = (Raw::greeted(&service.path), Raw::greeted(&service.path));
        let floods = [flood, other].map(|flood| Flood::start(flood, &json!({"type": "stop"})));
        service.goes_on();
        service.goes_on();
        assert!(service.memory() < before + MEMORY);
        service.load.ends();
        drop(successor);
        service.process.ends_well();
        drop(floods);
    }
}

/// A connection on which the same is said over and over, and what is answered is read, until this is dropped.
struct Flood {
    stream: UnixStream,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    fn start(raw: Raw, frame: &serde_json::Value) -> Flood {
        let stream = raw.into_stream();
        let (mut writes, mut reads) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
        reads.set_read_timeout(None).unwrap();
        let text = format!("{frame}\n").repeat(1_000);
        let write = std::thread::spawn(move || while writes.write_all(text.as_bytes()).is_ok() {});
        let read = std::thread::spawn(move || while matches!(reads.read(&mut [0; 4096]), Ok(1..)) {});
        Flood { stream, threads: vec![write, read] }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

#[test]
#[ignore = "run by other tests as a process of its own"]
fn child_main() {
    let Some((role, mut parent)) = child::role() else { return };
    assert_eq!(role, "connect without end");
    Raw::connect(&parent.path).expect_error("error", "denied");
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let path = parent.path.clone();
    let connect = move || {
        loop {
            drop(UnixStream::connect(&path));
            COUNT.fetch_add(1, SeqCst);
        }
    };
    for _ in 0..4 {
        std::thread::spawn(connect.clone());
    }
    parent.tell("denied");
    loop {
        parent.hear();
        parent.tell(COUNT.load(SeqCst));
    }
}
