//! The example services as processes.

#![allow(dead_code, reason = "each test file uses what it needs")]

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// One process of an example. Killed, if a test fails before it has ended.
pub(crate) struct Process {
    pub(crate) child: Child,
    /// Open for as long as the test goes on: a successor that the process starts writes to it as well.
    _stdout: BufReader<ChildStdout>,
    ready: String,
}

impl Process {
    /// Starts one, and returns once it serves.
    pub(crate) fn start(example: &str, args: &[&str]) -> Process {
        Process::start_with(example, args, &[])
    }

    /// As [`Process::start`], with these in its environment.
    pub(crate) fn start_with(example: &str, args: &[&str], env: &[(&str, &str)]) -> Process {
        Process::begin(Command::new(program(example)).args(args).envs(env.iter().copied()))
    }

    /// By this command.
    pub(crate) fn begin(command: &mut Command) -> Process {
        // Where these tests run in a container, it is that of all of them.
        command.env("HANDOFF_INSTANCE", "");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut ready).unwrap();
        assert!(ready.starts_with("ready generation="), "{ready:?}");
        Process { child, _stdout: stdout, ready }
    }

    pub(crate) fn word(&self, key: &str) -> &str {
        self.ready.split_whitespace().find_map(|word| word.strip_prefix(key)).unwrap()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect(self.word("listen=")).unwrap()
    }

    pub(crate) fn ends_well(&mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Cargo builds the examples beside the tests.
pub(crate) fn program(example: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().and_then(Path::parent).unwrap().join("examples").join(example);
    assert!(program.exists(), "{} is not built: run cargo test, or cargo build --examples", program.display());
    program
}

/// A directory for the control socket, and its path.
pub(crate) fn place() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock").to_str().unwrap().to_owned();
    (directory, path)
}
