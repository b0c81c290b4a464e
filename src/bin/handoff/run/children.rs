//! The processes of a service: those that this command has started, and all that they have left behind.

use std::collections::HashMap;
use std::io;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

/// How many codes are remembered: of the processes that have served, no more than a few end at once.
const MOST: usize = 64;

/// One that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) pid: u32,
    /// As a shell says it: 128 and the signal, where that has ended it.
    pub(super) code: u8,
}

#[derive(Debug, Default)]
pub(super) struct Children {
    codes: HashMap<u32, u8>,
    last: Option<Ended>,
}

impl Children {
    /// A process whose parent has ended becomes this one's child, as it does in a container where this is process 1.
    pub(super) fn adopt() -> io::Result<Children> {
        nix::sys::prctl::set_child_subreaper(true)?;
        Ok(Children::default())
    }

    pub(super) fn start(&mut self, command: &mut Command) -> io::Result<u32> {
        // It is reaped together with all others, by `reap`.
        let pid = command.spawn()?.id();
        self.codes.remove(&pid);
        Ok(pid)
    }

    /// Reaps all that have ended. Returns the last of them, or the last before.
    pub(super) fn reap(&mut self) -> Option<Ended> {
        while let Some(ended) = next() {
            if self.codes.len() >= MOST {
                self.codes.clear();
            }
            self.codes.insert(ended.pid, ended.code);
            self.last = Some(ended);
        }
        self.last
    }

    /// Whether any is left.
    pub(super) fn any(&self) -> bool {
        let look = WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT | WaitPidFlag::WEXITED;
        waitid(Id::All, look) != Err(Errno::ECHILD)
    }

    /// The code of one, or of whoever was last, once none is left.
    pub(super) fn code_once_all_have_ended(&mut self, pid: u32) -> Option<u8> {
        self.reap();
        if self.any() {
            return None;
        }
        let last = self.last.map(|last| last.code);
        Some(self.codes.get(&pid).copied().or(last).unwrap_or_default())
    }

    /// Sends SIGTERM to each that is left: one that drains has no control socket any more, and one that initialises none yet.
    pub(super) fn terminate() {
        for pid in living() {
            // One that has ended needs no telling.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
}

/// The children of all of this process's threads. See `/proc/tid/children` in `proc(5)`.
fn living() -> Vec<i32> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

fn next() -> Option<Ended> {
    loop {
        let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, u8::try_from(code).unwrap_or(u8::MAX)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, u8::try_from(128 + signal as i32).unwrap_or(u8::MAX)),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return None,
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(_) => return None,
        };
        return Some(Ended { pid: pid.as_raw().unsigned_abs(), code });
    }
}
