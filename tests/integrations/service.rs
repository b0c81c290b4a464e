//! A service as processes that follow each other.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use fd_handoff::client::{Client, Outcome, Step};
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};

use crate::PATIENCE;
use crate::example::program;

/// How a new process is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    Signal,
    Request,
    Hand,
}

pub(crate) struct Service {
    program: PathBuf,
    directory: tempfile::TempDir,
    /// What every process has as its standard output, those that were started by their predecessors as well.
    output: File,
    lines: Receiver<String>,
    current: Ready,
    /// Those that have not ended.
    running: Vec<Pid>,
}

/// What a process says when it serves.
#[derive(Debug, Clone, Copy)]
struct Ready {
    generation: u64,
    pid: Pid,
    listen: SocketAddr,
}

impl Service {
    pub(crate) fn start(example: &str) -> Service {
        // Processes whose parent has ended become this one's children, so that it learns how they end.
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(File::from(read)).lines();
            lines.map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let nobody = Ready { generation: 0, pid: Pid::this(), listen: "127.0.0.1:0".parse().unwrap() };
        let mut service = Service {
            program: program(example),
            directory: tempfile::tempdir().unwrap(),
            output: File::from(write),
            lines,
            current: nobody,
            running: Vec::new(),
        };
        service.spawn();
        service.await_ready();
        service
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.current.listen
    }

    /// Replaces the process that serves, and returns it.
    pub(crate) fn replace(&mut self, way: Way) -> Pid {
        let before = self.current;
        match way {
            Way::Signal => kill(before.pid, Signal::SIGHUP).unwrap(),
            Way::Request => self.request(),
            Way::Hand => self.spawn(),
        }
        self.await_ready();
        assert_eq!(self.current.generation, before.generation + 1);
        assert_eq!(self.current.listen, before.listen);
        before.pid
    }

    pub(crate) fn stop(mut self) {
        let last = self.current.pid;
        kill(last, Signal::SIGTERM).unwrap();
        self.ended_well(last);
        assert!(!self.control().exists());
    }

    /// Waits until this process has ended, with the exit code 0.
    pub(crate) fn ended_well(&mut self, process: Pid) {
        let (sender, ended) = channel();
        std::thread::spawn(move || sender.send(waitpid(process, None)));
        let ended = ended.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{process} does not end"));
        self.running.retain(|running| *running != process);
        assert_eq!(ended, Ok(WaitStatus::Exited(process, 0)));
    }

    fn control(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    #[expect(clippy::zombie_processes, reason = "it is waited for by its id, as are those that it starts")]
    fn spawn(&mut self) {
        let mut command = Command::new(&self.program);
        command.arg("127.0.0.1:0").arg(self.control()).stdin(Stdio::null());
        let child = command.stdout(self.output.try_clone().unwrap()).spawn().unwrap();
        self.running.push(Pid::from_raw(child.id().try_into().unwrap()));
    }

    fn request(&self) {
        let steps = Client::connect(self.control()).unwrap().upgrade(None).unwrap();
        let outcome = steps.map(Result::unwrap).find_map(|step| match step {
            Step::Outcome(attempt) => Some(attempt.outcome),
            _ => None,
        });
        assert_eq!(outcome, Some(Outcome::Completed));
    }

    fn await_ready(&mut self) {
        let line = self.lines.recv_timeout(PATIENCE).expect("no process gets ready");
        self.current = Ready::parse(&line).unwrap_or_else(|| panic!("{line:?}"));
        if !self.running.contains(&self.current.pid) {
            self.running.push(self.current.pid);
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        for process in &self.running {
            let _ = kill(*process, Signal::SIGKILL);
        }
        for process in &self.running {
            let _ = waitpid(*process, None);
        }
    }
}

impl Ready {
    fn parse(line: &str) -> Option<Ready> {
        let words: Vec<&str> = line.strip_prefix("ready ")?.split_whitespace().collect();
        let word = |key: &str| words.iter().find_map(|word| word.strip_prefix(key));
        Some(Ready {
            generation: word("generation=")?.parse().ok()?,
            pid: Pid::from_raw(word("pid=")?.parse().ok()?),
            listen: word("listen=")?.parse().ok()?,
        })
    }
}
