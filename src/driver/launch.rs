//! How the new process is started at an upgrade.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

#[cfg(test)]
mod tests;

/// Who starts the new process.
pub(crate) enum Launch {
    /// This process: its own program anew.
    Itself(OwnProgram),
    /// This process: whatever the application says. In a lock only so that the service can be lent to other threads: a
    /// future that runs it is to be `Send`.
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

/// Those who run as process 1 for one program, and end when that does, and everything else in there with them.
const INITS_OF_ONE: [&str; 6] = ["tini", "tini-static", "docker-init", "dumb-init", "catatonit", "podman-init"];

/// Those who run a container's first process from outside, and end what is left of the container when that ends. They are to be seen where
/// the pid namespace is theirs, as with `docker run --pid host`. A name in there has at most 15 bytes, see `proc_pid_comm(5)`.
const RUNTIMES: [&str; 2] = ["containerd-shim", "conmon"];

/// Why a successor that this process starts would not outlive it, if that is so.
pub(crate) fn takes_children_along() -> Option<String> {
    let parent = std::os::unix::process::parent_id();
    let name = fs::read_to_string(format!("/proc/{parent}/comm")).ok();
    ends_everything(std::process::id(), parent, name.as_deref().map(str::trim))
}

/// When process 1 ends, the kernel ends every other one of its pid namespace: see `pid_namespaces(7)`. Whoever runs one
/// program does that for it, from within or, with a shared pid namespace, from outside.
fn ends_everything(own: u32, parent: u32, parent_name: Option<&str>) -> Option<String> {
    if own == 1 {
        return Some("this is process 1, and when it ends, so does everything in its pid namespace".to_owned());
    }
    if parent == 0 {
        return Some(
            "it was started from outside of its pid namespace, where its end may be that of a container".to_owned(),
        );
    }
    let parent = parent_name?;
    if RUNTIMES.contains(&parent) {
        return Some(format!("{parent} runs this process as a container, and ends everything in that with it"));
    }
    INITS_OF_ONE
        .contains(&parent)
        .then(|| format!("{parent} runs this process, and ends with it, and so does everything in its pid namespace"))
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
    pub(crate) fn as_started() -> OwnProgram {
        let directory = working_directory();
        let mut arguments = env::args_os();
        let named = arguments.next().map(PathBuf::from).unwrap_or_default();
        let located = located(&named, directory.as_deref(), env::var_os("PATH")).filter(|path| is_running(path));
        // Without /proc its name for itself has to do, and an upgrade fails where that is wrong.
        let running = || fs::read_link("/proc/self/exe").map_or(named.clone(), undeleted);
        OwnProgram { program: located.unwrap_or_else(running), arguments: arguments.collect(), directory }
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

/// By the name that the shell has for it, if that is true: it may lead through a symbolic link to the current release,
/// which the kernel does not remember.
fn working_directory() -> Option<PathBuf> {
    let named = env::var_os("PWD").map(PathBuf::from);
    named.filter(|path| path.is_absolute() && same_file(path, Path::new("."))).or_else(|| env::current_dir().ok())
}

/// The kernel marks the path of a program that was replaced while it was starting: see `proc(5)`.
fn undeleted(path: PathBuf) -> PathBuf {
    match path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
        Some(replaced) if !path.exists() => PathBuf::from(replaced),
        _ => path,
    }
}

/// Where the shell that started this program has found it. Links are not resolved.
fn located(named: &Path, directory: Option<&Path>, path: Option<OsString>) -> Option<PathBuf> {
    if named.is_absolute() {
        return Some(named.to_owned());
    }
    let directory = directory?;
    if named.components().count() > 1 {
        return Some(directory.join(named));
    }
    // An entry may be relative, and the empty one is where we are.
    let candidates = env::split_paths(&path?).map(|entry| directory.join(entry).join(named)).collect::<Vec<_>>();
    candidates.into_iter().find(|candidate| candidate.is_file())
}

/// Whether this path leads to the program that runs: its name for itself (`argv[0]`) may be anything.
fn is_running(path: &Path) -> bool {
    same_file(path, Path::new("/proc/self/exe"))
}

fn same_file(one: &Path, other: &Path) -> bool {
    let (Ok(one), Ok(other)) = (fs::metadata(one), fs::metadata(other)) else { return false };
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}
