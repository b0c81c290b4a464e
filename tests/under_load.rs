//! A service under load that is upgraded again and again by the command `handoff`, and by many at once.

#![cfg(all(feature = "cli", feature = "tokio", feature = "bincode"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "common/example.rs"]
mod example;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use example::program;
use fd_handoff::client::{Client, Outcome, Status};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a client rests between two requests.
const REST: Duration = Duration::from_millis(3);

/// The example service. Every generation is in the process group of the first.
struct Service {
    first: Child,
    addr: String,
    control: PathBuf,
    /// Kept open for the generations to come, which say that they are ready.
    _output: BufReader<ChildStdout>,
}

impl Service {
    fn start(directory: &Path, slow_start: &str) -> Service {
        let control = directory.join("http.sock");
        let mut command = Command::new(program("http"));
        command.args(["--listen", "127.0.0.1:0", "--slow-start", slow_start, "--control"]).arg(&control);
        let mut first = command.stdout(Stdio::piped()).process_group(0).spawn().unwrap();
        let mut output = BufReader::new(first.stdout.take().unwrap());
        let mut ready = String::new();
        output.read_line(&mut ready).unwrap();
        let addr = ready.split_whitespace().find_map(|word| word.strip_prefix("listen=")).unwrap().to_owned();
        Service { first, addr, control, _output: output }
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.first.id() as i32)
    }

    fn status(&self) -> Status {
        Client::connect(&self.control).unwrap().status().unwrap()
    }

    fn handoff(&self, word: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_handoff")).arg(word).arg(&self.control).output().unwrap()
    }

    /// Waits until no process of any generation is there. The first one is this process's to reap.
    fn is_gone(&mut self) {
        assert!(self.first.wait().unwrap().success());
        until("no process is left", || killpg(self.group(), None) == Err(Errno::ESRCH));
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // There is none where the test has gone well.
        let _ = killpg(self.group(), Signal::SIGKILL);
        let _ = self.first.wait();
    }
}

/// For what can be seen and not be waited for.
fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(REST);
    }
}

/// Clients that make requests all the time: two on a new connection each, two on one that they keep.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<io::Result<()>>>,
}

impl Load {
    fn on(service: &Service) -> Load {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let clients = [false, false, true, true].map(|keeps| {
            let (stop, answered, addr) = (Arc::clone(&stop), Arc::clone(&answered), service.addr.clone());
            std::thread::spawn(move || {
                let mut kept = None;
                while !stop.load(SeqCst) {
                    let connection = kept.take().map_or_else(|| connect(&addr), Ok)?;
                    let (_, connection) = ask(connection)?;
                    answered.fetch_add(1, SeqCst);
                    kept = connection.filter(|_| keeps);
                    std::thread::sleep(REST);
                }
                Ok(())
            })
        });
        Load { stop, answered, clients: clients.into() }
    }

    fn goes_on(&self) {
        let seen = self.answered.load(SeqCst);
        until("requests are answered", || self.answered.load(SeqCst) > seen + 8);
    }

    /// How many requests were answered, which is all of them.
    fn end(self) -> u64 {
        self.stop.store(true, SeqCst);
        for client in self.clients {
            client.join().unwrap().expect("every request is answered");
        }
        self.answered.load(SeqCst)
    }
}

fn connect(addr: &str) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(BufReader::new(stream))
}

/// One request. Gives what the service said, and the connection if it may be used again.
fn ask(mut connection: BufReader<TcpStream>) -> io::Result<(Value, Option<BufReader<TcpStream>>)> {
    connection.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")?;
    let (mut length, mut closes) = (0, false);
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        closes |= line == "connection: close";
        length = line.strip_prefix("content-length: ").map_or(length, |length| length.parse().unwrap());
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    Ok((serde_json::from_slice(&body)?, Some(connection).filter(|_| !closes)))
}

#[test]
fn fifty_upgrades_in_a_row() {
    const UPGRADES: u64 = 50;

    let directory = tempfile::tempdir().unwrap();
    let mut service = Service::start(directory.path(), "0");
    let load = Load::on(&service);
    for generation in 2..=UPGRADES + 1 {
        let output = service.handoff("upgrade");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(service.status().generation, generation);
        load.goes_on();
    }
    let answered = load.end();
    // The last drain may still add to the count.
    until("the farewells are in", || service.status().predecessor.is_none());
    let (last, _) = ask(connect(&service.addr).unwrap()).unwrap();
    assert_eq!(last["requests"], answered + 1);
    assert!(service.handoff("stop").status.success());
    service.is_gone();
}

#[test]
fn ten_at_once() {
    let directory = tempfile::tempdir().unwrap();
    // Long enough for all ten to come while the new process initialises.
    let mut service = Service::start(directory.path(), "3000");
    let load = Load::on(&service);
    let start = Barrier::new(10);
    let first = service.group();
    let outputs: Vec<Output> = std::thread::scope(|scope| {
        let signals: Vec<_> = (0..5).map(|_| scope.spawn(|| (start.wait(), kill(first, Signal::SIGHUP)))).collect();
        let upgrade = || {
            start.wait();
            service.handoff("upgrade")
        };
        let commands: Vec<_> = (0..5).map(|_| scope.spawn(upgrade)).collect();
        signals.into_iter().for_each(|signal| signal.join().unwrap().1.unwrap());
        commands.into_iter().map(|command| command.join().unwrap()).collect()
    });
    let (upgraded, told): (Vec<&Output>, Vec<&Output>) = outputs.iter().partition(|output| output.status.success());
    assert!(upgraded.len() <= 1, "one of them at the most: a signal may have been first");
    for output in told {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains("under way"), "{said}");
    }
    until("the new generation serves", || service.status().generation == 2);
    load.goes_on();
    let answered = load.end();
    until("the farewell is in", || service.status().predecessor.is_none());
    let status = service.status();
    assert_eq!(status.generation, 2);
    let outcomes: Vec<Outcome> = status.history.iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(outcomes, [Outcome::Completed]);
    let (last, _) = ask(connect(&service.addr).unwrap()).unwrap();
    assert_eq!(last["requests"], answered + 1);
    assert!(service.handoff("stop").status.success());
    service.is_gone();
}
