//! How the new process is started at an upgrade.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::error::{Error, Result};

/// Who starts the new process.
pub(crate) enum Launch {
    /// This process: its own program anew.
    Itself(OwnProgram),
    /// This process: whatever the application says. Never locked; it lets the facade's futures be `Send`.
    Command(Mutex<Box<dyn FnMut() -> Command + Send>>),
    /// Somebody else: a service manager, the operator.
    Elsewhere,
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Launch::Itself(program) => program.fmt(f),
            Launch::Command(_) => f.write_str("Command"),
            Launch::Elsewhere => f.write_str("Elsewhere"),
        }
    }
}

/// This program as it was started: by which path, from where, with what arguments.
///
/// The path is looked up anew each time. So a binary that was replaced on disk is the new one, and a symbolic link to
/// the current release leads to the current release.
#[derive(Debug)]
pub(crate) struct OwnProgram {
    program: PathBuf,
    arguments: Vec<OsString>,
    directory: Option<PathBuf>,
}

impl OwnProgram {
    /// To be called before the program changes its working directory.
    pub(crate) fn as_started() -> Result<OwnProgram> {
        let directory = env::current_dir().ok();
        let mut arguments = env::args_os();
        let named = arguments.next().map(PathBuf::from).unwrap_or_default();
        let running = fs::read_link("/proc/self/exe").map(undeleted).map_err(Error::io("find this program's path"))?;
        let program = located(&named, directory.as_deref()).filter(|path| is_running(path)).unwrap_or(running);
        Ok(OwnProgram { program, arguments: arguments.collect(), directory })
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }
}

/// The kernel marks the path of a program that was replaced while it was starting: see `proc(5)`.
fn undeleted(path: PathBuf) -> PathBuf {
    match path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(replaced) if !path.exists() => PathBuf::from(replaced),
        _ => path,
    }
}

/// Where the shell that started this program has found it. Links are not resolved.
fn located(named: &Path, directory: Option<&Path>) -> Option<PathBuf> {
    if named.components().count() > 1 || named.is_absolute() {
        return Some(directory?.join(named));
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|entry| entry.join(named)).find(|candidate| candidate.is_file())
}

/// Whether this path leads to the program that runs: its name for itself (`argv[0]`) may be anything.
fn is_running(path: &Path) -> bool {
    let (Ok(there), Ok(running)) = (fs::metadata(path), fs::metadata("/proc/self/exe")) else { return false };
    (there.dev(), there.ino()) == (running.dev(), running.ino())
}
