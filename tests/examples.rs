//! The example services as their users see them: real processes, started again with the same arguments.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "common/example.rs"]
mod example;

use std::io::{Read, Write};
use std::net::TcpStream;

use example::{Process, place};

#[cfg(all(feature = "tokio", feature = "bincode"))]
mod http {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::example::program;

    /// How long anything may take that has to happen.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn start(listen: &str, control: &str, drain: &str) -> Process {
        Process::start("http", &["--listen", listen, "--control", control, "--drain", drain])
    }

    /// A response: whether it closes the connection, and its numbers.
    struct Answer {
        closes: bool,
        generation: u64,
        requests: u64,
    }

    fn get(connection: &mut BufReader<TcpStream>) -> Answer {
        connection.get_mut().write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut closes = false;
        let mut length = 0;
        loop {
            let mut line = String::new();
            connection.read_line(&mut line).unwrap();
            let line = line.trim().to_ascii_lowercase();
            closes |= line == "connection: close";
            length = line.strip_prefix("content-length: ").map_or(length, |value| value.parse().unwrap());
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body).unwrap();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        Answer {
            closes,
            generation: body["generation"].as_u64().unwrap(),
            requests: body["requests"].as_u64().unwrap(),
        }
    }

    #[test]
    fn an_idle_connection_is_served_once_more_and_then_closed() {
        let (_directory, control) = place();
        let mut first = start("127.0.0.1:0", &control, "60000");
        let mut kept = BufReader::new(first.connect());
        assert!(!get(&mut kept).closes);

        let second = start(first.word("listen="), &control, "60000");
        assert_eq!((first.word("generation="), second.word("generation=")), ("1", "2"));
        assert_eq!(get(&mut BufReader::new(second.connect())).generation, 2);
        let last = get(&mut kept);
        assert_eq!((last.generation, last.closes), (1, true));
        assert_eq!(kept.read(&mut [0]).unwrap(), 0);
        first.ends_well();

        // What the first generation answered last is added as soon as its farewell is read.
        let began = Instant::now();
        let mut asked = 4;
        while get(&mut BufReader::new(second.connect())).requests != asked {
            assert!(began.elapsed() < PATIENCE, "the farewell is lost");
            asked += 1;
        }
    }

    #[test]
    fn the_drain_deadline_ends_what_is_left() {
        let (_directory, control) = place();
        let mut first = start("127.0.0.1:0", &control, "100");
        let mut kept = BufReader::new(first.connect());
        get(&mut kept);
        let _second = start(first.word("listen="), &control, "100");
        assert_eq!(kept.read(&mut [0]).unwrap(), 0);
        first.ends_well();
    }

    #[test]
    fn stopping_removes_the_control_socket() {
        let (_directory, control) = place();
        let mut only = start("127.0.0.1:0", &control, "100");
        terminate(&only.child);
        only.ends_well();
        assert!(!Path::new(&control).exists());
    }

    /// It finishes the handoff, because its successor gets ready within the time of a drain.
    #[test]
    fn a_service_that_is_told_to_stop_during_a_handoff_hands_over() {
        let (_directory, control) = place();
        let mut first = start("127.0.0.1:0", &control, "20000");
        let listen = first.word("listen=").to_owned();
        let second = std::thread::scope(|scope| {
            // Time enough for what comes next, on a busy machine as well.
            let args = ["--listen", &listen, "--control", &control, "--slow-start", "2000"];
            let second = scope.spawn(move || Process::start("http", &args));
            await_phase(&control, "initialising");
            terminate(&first.child);
            second.join().unwrap()
        });
        assert_eq!(second.word("generation="), "2");
        first.ends_well();
        assert_eq!(get(&mut BufReader::new(second.connect())).generation, 2);
    }

    /// Its successor does not get ready: then it stops.
    #[test]
    fn a_service_that_is_told_to_stop_during_a_handoff_that_fails_stops() {
        let (_directory, control) = place();
        let mut first = start("127.0.0.1:0", &control, "100");
        let args = ["--listen", first.word("listen="), "--control", &control, "--slow-start", "600000"];
        let mut second = Command::new(program("http")).args(args).spawn().unwrap();
        await_phase(&control, "initialising");
        terminate(&first.child);
        second.kill().unwrap();
        second.wait().unwrap();
        first.ends_well();
        assert!(!Path::new(&control).exists());
    }

    fn terminate(process: &Child) {
        let pid = nix::unistd::Pid::from_raw(process.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    /// Asks for the status until it shows this phase.
    fn await_phase(control: &str, phase: &str) {
        let mut connection = BufReader::new(UnixStream::connect(control).unwrap());
        let mut line = String::new();
        let wanted = format!("\"phase\":\"{phase}\"");
        while !line.contains(&wanted) {
            line.clear();
            connection.get_mut().write_all(b"status\n").unwrap();
            assert_ne!(connection.read_line(&mut line).unwrap(), 0, "the service is gone");
        }
    }
}

#[test]
fn an_echo_connection_outlives_the_handoff() {
    let (_directory, control) = place();
    let echo = |connection: &mut TcpStream| {
        connection.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        connection.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
    };
    let mut first = Process::start("echo", &["127.0.0.1:0", &control]);
    let mut kept = first.connect();
    echo(&mut kept);

    let second = Process::start("echo", &[first.word("listen="), &control]);
    assert_eq!(second.word("generation="), "2");
    echo(&mut kept);
    echo(&mut second.connect());
    assert!(first.child.try_wait().unwrap().is_none(), "it still has a connection");
    drop(kept);
    first.ends_well();
}
