//! Other processes: the test binary itself, run again to play a role.
//!
//! A test file that needs them has an ignored test named `child_main` which hands over to [`play`].

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::PATIENCE;

const ROLE: &str = "FD_HANDOFF_TEST_ROLE";
const PATH: &str = "FD_HANDOFF_TEST_PATH";

/// A user that owns nothing.
pub(crate) const NOBODY: u32 = 65534;

/// A child process, and the line to it. It is killed when this is dropped.
pub(crate) struct Child {
    process: std::process::Child,
    line: BufReader<UnixStream>,
}

impl Child {
    /// Runs `role` in a child process with the control socket's path.
    pub(crate) fn start(role: &str, path: &Path) -> Child {
        Child::run(role, path, |_| {})
    }

    /// Runs `role` as a user that owns nothing.
    pub(crate) fn start_as_nobody(role: &str, path: &Path) -> Child {
        Child::run(role, path, |command| {
            command.uid(NOBODY).gid(NOBODY);
        })
    }

    fn run(role: &str, path: &Path, set: impl FnOnce(&mut Command)) -> Child {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // Not the path of the binary: another user may not be able to reach it.
        let mut command = Command::new("/proc/self/exe");
        command.args(["--exact", "child_main", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(ROLE, role).env(PATH, path).stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
        set(&mut command);
        let process = command.spawn().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        Child { process, line: BufReader::new(ours) }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn tell(&mut self, word: &str) {
        writeln!(self.line.get_mut(), "{word}").unwrap();
    }

    /// The next line that the child says.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        self.line.read_line(&mut line).expect("the child says nothing");
        assert!(line.ends_with('\n'), "the child is gone");
        line.trim_end().to_owned()
    }

    /// Kills it, and returns when it is dead.
    pub(crate) fn kill(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
        self.process.wait().unwrap();
    }

    /// Waits until it has gone by itself, or by another's hand. Returns what it has said that nobody has heard.
    pub(crate) fn wait(&mut self) -> (String, std::process::ExitStatus) {
        let mut rest = String::new();
        // Its end of the line is closed when it is gone.
        while self.line.read_line(&mut rest).expect("the child does not end") > 0 {}
        (rest, self.process.wait().unwrap())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The child's end of the line.
pub(crate) struct Parent {
    line: BufReader<UnixStream>,
    pub(crate) path: PathBuf,
}

impl Parent {
    pub(crate) fn tell(&mut self, word: impl std::fmt::Display) {
        writeln!(self.line.get_mut(), "{word}").unwrap();
    }

    /// The next word. Without a parent there is nothing left to do.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        if self.line.read_line(&mut line).unwrap_or(0) == 0 {
            std::process::exit(1);
        }
        line.trim_end().to_owned()
    }
}

/// In `child_main`: the role to play; `None` where somebody runs all the ignored tests.
pub(crate) fn role() -> Option<(String, Parent)> {
    let role = std::env::var(ROLE).ok()?;
    let path = PathBuf::from(std::env::var_os(PATH)?);
    let line = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().ok()?);
    Some((role, Parent { line: BufReader::new(line), path }))
}
