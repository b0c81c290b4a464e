//! The service as a process: this same program, which plays the example.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use crate::clients::{Check, PATIENCE, require, until};

/// The example that is put to the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// On tokio, with a count that is handed over.
    Http,
    /// Blocking, without state.
    Echo,
}

/// Where a service of one row is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) program: Program,
    pub(crate) listen: SocketAddr,
    pub(crate) control: PathBuf,
    pub(crate) log: PathBuf,
    /// Milliseconds of initialisation.
    pub(crate) slow: u64,
    /// How many descriptors go along besides the usual ones.
    pub(crate) more: usize,
}

impl Place {
    pub(crate) fn status(&self) -> Check<Value> {
        status(&self.control).map_err(|error| format!("cannot ask for the status: {error}"))
    }
}

fn status(path: &Path) -> std::io::Result<Value> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"status\n")?;
    let mut lines = BufReader::new(stream).lines();
    lines.next().transpose()?;
    let line = lines.next().transpose()?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok(serde_json::from_str(&line)?)
}

/// One process of the service. It is killed and reaped when this is dropped.
pub(crate) struct Process {
    pid: Pid,
    output: File,
    ended: Option<WaitStatus>,
}

/// The line that says that a process serves.
pub(crate) struct Serves {
    pub(crate) generation: u64,
    pub(crate) listen: SocketAddr,
}

impl Process {
    /// Starts one with the deadlines that are not the usual ones, and a fault.
    pub(crate) fn start(place: &Place, timeouts: &str, fault: Option<&str>) -> Check<Process> {
        Process::spawn(place, timeouts, fault).map_err(|error| format!("cannot start the service: {error}"))
    }

    /// Starts a keeper of the service, with a fault.
    pub(crate) fn keep(place: &Place, fault: Option<&str>) -> Check<Process> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("keep").arg(&place.control);
        Process::run(command, place, fault).map_err(|error| format!("cannot start a keeper: {error}"))
    }

    fn spawn(place: &Place, timeouts: &str, fault: Option<&str>) -> std::io::Result<Process> {
        let mut command = Command::new("/proc/self/exe");
        match place.program {
            Program::Http => {
                command.args(["http", "--listen", &place.listen.to_string(), "--control"]).arg(&place.control);
                command.args(["--slow-start", &place.slow.to_string(), "--more", &place.more.to_string()]);
                command.args(["--timeouts", timeouts].iter().filter(|_| !timeouts.is_empty()));
            }
            Program::Echo => {
                command
                    .args(["echo", &place.listen.to_string()])
                    .arg(&place.control)
                    .args([timeouts, &place.more.to_string()]);
            }
        }
        Process::run(command, place, fault)
    }

    fn run(mut command: Command, place: &Place, fault: Option<&str>) -> std::io::Result<Process> {
        let log = File::options().create(true).append(true).open(&place.log)?;
        command.env("RUST_LOG", "info").env("RUST_BACKTRACE", "0").env_remove("FD_HANDOFF_FAULT");
        if let Some(fault) = fault {
            command.env("FD_HANDOFF_FAULT", fault);
        }
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK)?;
        let child = command.stdin(Stdio::null()).stdout(write).stderr(log).spawn()?;
        Ok(Process { pid: Pid::from_raw(child.id() as i32), output: File::from(read), ended: None })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Waits until it serves.
    pub(crate) fn serves(&mut self) -> Check<Serves> {
        let mut text = String::new();
        let line = until("a process serves", || {
            // Nothing to read yet is an error like any other; what was read stays in the text.
            let _ = std::io::Read::read_to_string(&mut self.output, &mut text);
            let ended = !text.ends_with('\n') && self.look(WaitPidFlag::empty()).is_some();
            (ended || text.ends_with('\n')).then(|| text.clone())
        })?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key));
        let serves = value("generation=")
            .and_then(|text| text.parse().ok())
            .zip(value("listen=").and_then(|text| text.parse().ok()));
        let (generation, listen) = serves.ok_or_else(|| format!("a process did not get to serve: {line:?}"))?;
        Ok(Serves { generation, listen })
    }

    fn look(&mut self, flags: WaitPidFlag) -> Option<WaitStatus> {
        if self.ended.is_some() {
            return self.ended;
        }
        match waitpid(self.pid, Some(flags | WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => None,
            Ok(stopped @ WaitStatus::Stopped(..)) => Some(stopped),
            Ok(ended) => {
                self.ended = Some(ended);
                self.ended
            }
            Err(error) => panic!("cannot wait for {}: {error}", self.pid),
        }
    }

    /// Waits until it has ended, and reaps it.
    pub(crate) fn ended(&mut self) -> Check<WaitStatus> {
        until("a process ends", || self.look(WaitPidFlag::empty()))
    }

    pub(crate) fn ended_well(&mut self) -> Check {
        self.exited(0)
    }

    pub(crate) fn exited(&mut self, code: i32) -> Check {
        let status = self.ended()?;
        require(matches!(status, WaitStatus::Exited(_, found) if found == code), || {
            format!("a process was to exit with {code}: {status:?}")
        })
    }

    pub(crate) fn killed(&mut self, by: Signal) -> Check {
        let status = self.ended()?;
        require(matches!(status, WaitStatus::Signaled(_, signal, _) if signal == by), || {
            format!("{by} was to end a process: {status:?}")
        })
    }

    /// Waits until it has stopped.
    pub(crate) fn stopped(&mut self) -> Check {
        let status = until("a process stops", || self.look(WaitPidFlag::WUNTRACED))?;
        require(matches!(status, WaitStatus::Stopped(..)), || format!("a process was to stop: {status:?}"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            let _ = kill(self.pid, signal);
        }
    }

    /// The numbers of the descriptors that it has open.
    pub(crate) fn descriptors(&self) -> BTreeSet<u32> {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.pid));
        let numbers = open.into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers.collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.signal(Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}
