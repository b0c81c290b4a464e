//! `handoff keep` and `handoff run`, around the example service.

#![cfg(all(feature = "cli", feature = "tokio", feature = "bincode"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "common/example.rs"]
mod example;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Command, Stdio};

use example::{Process, place, program};
use fd_handoff::client::{Client, Phase};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, mkfifo};

/// A command that runs, whose lines on stderr are read. It and its children are killed if a test fails before it has ended.
struct Running {
    child: Child,
    lines: BufReader<ChildStderr>,
}

impl Running {
    fn start(command: &mut Command) -> Running {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        Running { child, lines }
    }

    /// The first line from here on with all of these words in it.
    fn says(&mut self, words: &[&str]) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.lines.read_line(&mut line).unwrap(), 0, "it says nothing more, and never {words:?}");
            if words.iter().all(|word| line.contains(word)) {
                return line;
            }
        }
    }

    /// The process that it says it has started.
    fn started(&mut self) -> u32 {
        let line = self.says(&["started process"]);
        line.trim().rsplit(' ').next().unwrap().parse().unwrap()
    }

    fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }

    fn ends_with(&mut self, code: i32) -> String {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(code), "{rest}");
        rest
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // In good order, so that its children go with it.
        self.signal(Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn send(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal);
}

fn handoff(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_handoff"));
    command.args(args).env_remove("HANDOFF_SOCKET");
    command
}

/// `handoff run` of the example, at a port that is free, as far as can be told.
fn run(control: &str, listen: &str, options: &[&str]) -> Running {
    let mut command = handoff(&["run", control]);
    let http = program("http");
    command.args(options).args(["--", http.to_str().unwrap(), "--listen", listen, "--control", control]);
    Running::start(&mut command)
}

/// An address that no other test has.
fn address(number: u8) -> String {
    let run = std::process::id();
    format!("127.{}.{}.{number}:18090", 128 + run % 100, run / 100 % 250)
}

/// Who answers, and how many requests were answered before: after that many.
fn ask(listen: &str) -> (u32, u64) {
    let mut stream = TcpStream::connect(listen).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let body: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    (body["pid"].as_u64().unwrap() as u32, body["requests"].as_u64().unwrap())
}

#[test]
fn a_service_goes_on_through_a_crash_and_an_upgrade_and_ends_as_its_last_process_does() {
    let ((_directory, control), listen) = (place(), address(1));
    let mut service = run(&control, &listen, &[]);
    let first = service.started();
    service.says(&[&format!("process {first}, generation 1, serves")]);
    assert_eq!(ask(&listen).0, first);
    send(first, Signal::SIGKILL);
    // Nobody is refused.
    let (second, _) = ask(&listen);
    service.says(&[&format!("process {first} has crashed")]);
    assert_eq!(service.started(), second);
    service.says(&[&format!("process {second}, generation"), "serves"]);
    // The same by SIGHUP as by `handoff upgrade`.
    for by_signal in [false, true] {
        let before = ask(&listen);
        match by_signal {
            true => service.signal(Signal::SIGHUP),
            false => assert!(handoff(&["upgrade", &control]).output().unwrap().status.success()),
        }
        service.says(&["generation", "serves"]);
        let after = ask(&listen);
        assert_ne!(after.0, before.0);
        assert_eq!(after.1, before.1 + 1, "not a request was forgotten");
    }
    service.signal(Signal::SIGTERM);
    let rest = service.ends_with(0);
    assert!(rest.contains("has stopped; connections wait"), "{rest}");
    assert!(TcpStream::connect(&listen).is_err());
    assert!(!std::path::Path::new(&control).exists());
}

#[test]
fn without_a_restart_it_ends_as_the_service_did() {
    let ((_directory, control), listen) = (place(), address(2));
    let mut service = run(&control, &listen, &["--restart", "no"]);
    let pid = service.started();
    service.says(&["serves; everything is kept"]);
    send(pid, Signal::SIGKILL);
    service.ends_with(137);
    assert!(TcpStream::connect(&listen).is_err());
}

#[test]
fn a_service_that_somebody_else_stops_ends_it_unless_it_is_always_to_run() {
    let ((_directory, control), listen) = (place(), address(3));
    let mut service = run(&control, &listen, &[]);
    service.says(&["serves; everything is kept"]);
    assert!(handoff(&["stop", &control]).output().unwrap().status.success());
    service.ends_with(0);

    let mut service = run(&control, &listen, &["--restart", "always"]);
    service.says(&["serves; everything is kept"]);
    let before = ask(&listen);
    assert!(handoff(&["stop", &control]).output().unwrap().status.success());
    let after = ask(&listen);
    assert_eq!((after.0 == before.0, after.1), (false, before.1 + 1));
    service.signal(Signal::SIGTERM);
    service.ends_with(0);
}

#[test]
fn a_command_that_is_none_of_a_service_ends_as_it_does() {
    let (_directory, control) = place();
    let run = |script: &str| {
        let mut command = handoff(&["run", &control, "--restart", "no", "--", "/bin/sh", "-c", script]);
        Running::start(&mut command)
    };
    run("exit 7").ends_with(7);
    run(&format!("test \"$HANDOFF_SOCKET\" = {control} && exit 6")).ends_with(6);
    // What it leaves behind is waited for, and reaped: a daemon's parent is not the service.
    run("(sleep 0.2; exit 3) & exit 0").ends_with(3);
    let mut hangs = run("trap 'exit 5' TERM; echo here >&2; while :; do sleep 0.02; done");
    hangs.says(&["here"]);
    hangs.signal(Signal::SIGTERM);
    hangs.ends_with(5);
}

#[test]
fn a_command_that_cannot_be_started_says_why() {
    let (_directory, control) = place();
    let done = handoff(&["run", &control, "--", "/nothing/there"]).output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot start /nothing/there: No such file or directory"), "{said}");
}

#[test]
fn as_process_1_it_starts_the_service_again_and_stops_it_when_it_is_told_to() {
    let may = Command::new("unshare").args(["--pid", "--fork", "true"]).output();
    if !may.is_ok_and(|done| done.status.success()) {
        return; // No namespace can be had here.
    }
    let ((_directory, control), listen) = (place(), address(4));
    let mut command = Command::new("unshare");
    command.args([
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        env!("CARGO_BIN_EXE_handoff"),
        "run",
        &control,
        "--",
    ]);
    let http = program("http");
    command.arg(http).args(["--listen", &listen, "--control", &control]);
    let mut service = Running::start(&mut command);
    service.says(&["generation 1, serves; everything is kept"]);
    let before = ask(&listen);
    // An upgrade inside the container: process 1 lives on.
    assert!(handoff(&["upgrade", &control]).output().unwrap().status.success());
    service.says(&["generation 2, serves"]);
    let after = ask(&listen);
    assert_eq!((after.0 == before.0, after.1), (false, before.1 + 1));
    // unshare(1) passes no signal on.
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", service.child.id())).unwrap();
    let init: u32 = children.split_whitespace().next().unwrap().parse().unwrap();
    send(init, Signal::SIGTERM);
    service.ends_with(0);
}

#[test]
fn a_keeper_binds_waits_keeps_and_says_so() {
    let ((_directory, control), listen) = (place(), address(5));
    let socket = format!("http={listen}");
    let mut keeper = Running::start(&mut handoff(&["keep", &control, "--listen", &socket]));
    keeper.says(&["no process has served yet; connections wait for the next process"]);
    let client = Client::connect(&control).unwrap();
    assert_eq!(client.hello().phase, Phase::Kept);
    let waiting = std::thread::spawn({
        let listen = listen.clone();
        move || ask(&listen)
    });
    let mut http = Process::start("http", &["--listen", &listen, "--control", &control]);
    assert_eq!(waiting.join().unwrap(), (http.child.id(), 1));
    keeper.says(&[&format!("process {}, generation 2, serves", http.child.id())]);
    send(http.child.id(), Signal::SIGTERM);
    http.ends_well();
    keeper.says(&["has stopped; connections wait"]);
    let page = handoff(&["status", &control]).output().unwrap();
    let page = String::from_utf8(page.stdout).unwrap();
    assert!(page.contains("kept") && page.contains("has stopped") && page.contains("0 connections wait"), "{page}");
    let refused = handoff(&["stop", &control]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("keeps the service for the next process"));
    keeper.signal(Signal::SIGTERM);
    let rest = keeper.ends_with(0);
    assert!(rest.contains("told to stop while nobody serves"), "{rest}");
}

#[test]
fn an_address_that_is_none_is_wrong_usage() {
    for listen in ["http", "=127.0.0.1:1", "http=localhost"] {
        let done = handoff(&["keep", "/tmp/nothing.sock", "--listen", listen]).output().unwrap();
        assert_eq!(done.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&done.stderr).contains("NAME=ADDR, as in http=0.0.0.0:8080"));
    }
}

#[test]
fn a_service_that_another_process_keeps_is_started_again_and_one_that_was_replaced_from_elsewhere_ends() {
    let ((directory, control), listen) = (place(), address(6));
    let mut keeper = Running::start(&mut handoff(&["keep", &control]));
    // Each process of the service waits for a word, so that the command can be held until the other keeper was first.
    let gate = directory.path().join("gate");
    mkfifo(&gate, Mode::S_IRWXU).unwrap();
    let mut command = handoff(&["run", &control, "--", "sh", "-c", "read word <\"$0\"; exec \"$@\""]);
    command.arg(&gate).arg(program("http")).args(["--listen", &listen, "--control", &control]);
    let mut service = Running::start(&mut command);
    let first = service.started();
    service.signal(Signal::SIGSTOP);
    let held = Pid::from_raw(service.child.id().cast_signed());
    assert_eq!(waitpid(held, Some(WaitPidFlag::WUNTRACED)), Ok(WaitStatus::Stopped(held, Signal::SIGSTOP)));
    fs::write(&gate, "go\n").unwrap();
    keeper.says(&[&format!("process {first}, generation 1, serves")]);
    service.signal(Signal::SIGCONT);
    send(first, Signal::SIGKILL);
    fs::write(&gate, "go\n").unwrap();
    let (second, _) = ask(&listen);
    assert_eq!(service.started(), second);
    // The next one is none of this command's.
    let mut next = Process::start("http", &["--listen", &listen, "--control", &control]);
    service.ends_with(0);
    assert_eq!(ask(&listen).0, next.child.id());
    send(next.child.id(), Signal::SIGTERM);
    next.ends_well();
}

/// As when the container that owns the network of others is removed.
#[test]
fn a_service_whose_sockets_nobody_reaches_says_so() {
    if !Command::new("unshare").args(["--net", "true"]).output().is_ok_and(|done| done.status.success()) {
        return; // No namespace can be had here.
    }
    let (_directory, control) = place();
    let http = program("http");
    let service = ["--listen", "0.0.0.0:18099", "--control", &control, "--timeouts", "probation=0"];
    let mut old = Process::begin(Command::new("unshare").arg("--net").arg(&http).args(service));
    assert_eq!(Client::connect(&control).unwrap().status().unwrap().cut_off, None, "they are its own");
    let next = Process::begin(Command::new(&http).args(service).arg("--foreign-netns"));
    old.ends_well();
    let status = Client::connect(&control).unwrap().status().unwrap();
    assert_eq!(status.pid, next.child.id());
    assert!(status.cut_off.is_some_and(|why| why.contains("nobody reaches them")));
    let page = handoff(&["status", &control]).output().unwrap();
    assert!(String::from_utf8_lossy(&page.stdout).contains("network"));
}

#[test]
fn told_twice_it_waits_for_nothing() {
    let ((_directory, control), listen) = (place(), address(7));
    let mut service = run(&control, &listen, &[]);
    service.says(&["serves; everything is kept"]);
    // It drains for ten seconds, for this one.
    let mut kept = TcpStream::connect(&listen).unwrap();
    write!(kept, "GET / HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut some = [0; 16];
    kept.read_exact(&mut some).unwrap();
    service.signal(Signal::SIGTERM);
    service.says(&["has stopped; connections wait"]);
    service.signal(Signal::SIGTERM);
    service.ends_with(0);
    drop(kept);
}
