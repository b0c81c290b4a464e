//! What is only a precaution, or can be had in another way, is forbidden, as a seccomp filter does it: services are upgraded
//! and stopped all the same.

#![cfg(all(feature = "tokio", feature = "bincode"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;
#[path = "common/example.rs"]
mod example;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use common::{PATIENCE, Place, place};
use example::Process;
use fd_handoff::client::Client;

// What it takes to follow a process to its end, the limit of open files, and watching a directory.
const CALLS: [&str; 3] = ["pidfd_open", "prlimit64,getrlimit,setrlimit", "inotify_init1"];

#[test]
#[ignore = "needs strace"]
fn what_is_forbidden_is_done_without() {
    for calls in CALLS {
        without(calls);
    }
}

fn without(calls: &str) {
    let Place { directory, path } = place();
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:error=EPERM"));
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", &trace, "-e", &inject, "-o"]).arg(directory.path().join("calls"));
    strace.arg(example::program("http")).args(["--listen", "127.0.0.1:0", "--timeouts", "probation=0", "--control"]);
    let mut first = Process::begin(strace.arg(&path));
    let addr = first.word("listen=").to_owned();
    for generation in 2..=3 {
        let steps = Client::connect(&path).unwrap().upgrade(None).unwrap();
        let last = steps.map(|step| format!("{:?}", step.unwrap())).last().unwrap();
        assert!(last.contains("Completed"), "without {calls}: {last}");
        assert!(get(&addr).contains(&format!("\"generation\":{generation}")));
    }
    let told = Client::connect(&path).unwrap().stop().unwrap().last();
    assert!(told.is_none_or(|step| step.is_ok()), "without {calls}");
    // It ends with the last process that it traces.
    first.ends_well();
    assert!(!Path::new(&path).exists());
}

fn get(addr: &str) -> String {
    let mut connection = TcpStream::connect(addr).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    connection.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}
