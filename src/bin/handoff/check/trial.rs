//! A handoff from this process to another, over a socket of its own beside the path.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fd_handoff::{Config, Control, Offer, handoff_listen, handoff_receive};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Finding;
use super::place::directory_of;
use crate::format::micros;
use crate::problem::Problem;

const CHECK: &str = "handoff";
/// The pipe's name.
const PIPE: &str = "pipe";
/// The argument by which the command starts itself as the successor.
const SUCCESSOR: &str = "@check-successor";
/// What travels through it.
const BYTE: u8 = 42;
/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(5);

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

pub(super) fn attempt(path: &Path) -> Finding {
    let directory = directory_of(path);
    if !directory.is_dir() {
        return Finding::warning(CHECK, "not tried: there is no directory to try it in", "see to what failed above");
    }
    let place = Temporary(directory.join(format!(".handoff-check-{}", std::process::id())));
    let began = Instant::now();
    match hand_over(&place.0) {
        Ok(()) => {
            let took = micros(began.elapsed().as_micros().try_into().unwrap_or(u64::MAX));
            Finding::ok(CHECK, format!("a pipe went to another process over a socket in that directory, in {took}"))
        }
        Err(error) => Finding::failed(
            CHECK,
            format!("could not be done: {error}"),
            "see to what failed above; if nothing did, a security module may forbid it: look at the kernel's log",
        ),
    }
}

/// The socket and what is made beside it: gone when this is.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let mut lock = self.0.clone().into_os_string();
        lock.push(".lock");
        // What was never made is not there.
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_file(lock);
    }
}

/// Hands the writing end of a pipe to a child, and reads what comes out at the other end.
fn hand_over(path: &Path) -> Outcome<()> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let control = handoff_listen(config(path))?;
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(give(&control, writer)));

    let mut child = Command::new(std::env::current_exe()?);
    child.arg(SUCCESSOR).arg(path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // Each of its steps has a deadline, so it ends.
    let ended = child.spawn()?.wait_with_output()?;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        return Err(format!("the successor failed: {}", said.trim().trim_start_matches("error: ")).into());
    }
    told.recv_timeout(PATIENCE).map_err(|_| "the predecessor does not end")??;
    read_byte(reader)
}

fn config(path: &Path) -> Config {
    Config::new(path).name("handoff check").version(env!("CARGO_PKG_VERSION")).timeouts(|timeouts| {
        timeouts.lock = PATIENCE;
        timeouts.offer = PATIENCE;
        timeouts.transfer = PATIENCE;
        timeouts.ready = PATIENCE;
        timeouts.release = PATIENCE;
        timeouts.active = PATIENCE;
        timeouts.drain = PATIENCE;
    })
}

/// The predecessor's side.
fn give(control: &Control, writer: OwnedFd) -> Outcome<()> {
    let successor = control.accept()?;
    let ready = successor.offer(Offer::new().descriptor(PIPE, &writer))?;
    let released = ready.release(None)?;
    // From here on the pipe has one writer.
    drop(writer);
    Ok(released.farewell(None)?)
}

/// The successor's side, where this process was started for it. No subcommand: completions would offer it.
pub(crate) fn successor() -> Option<Result<(), Problem>> {
    let mut arguments = std::env::args_os().skip(1);
    let (role, path) = (arguments.next()?, PathBuf::from(arguments.next()?));
    (role == SUCCESSOR).then(|| take(&path).map_err(|error| Problem::failed(error.to_string())))
}

fn take(path: &Path) -> Outcome<()> {
    let mut inheritance = handoff_receive(config(path).cold_start(false))?;
    let mut pipe: File = inheritance.take(PIPE)?.ok_or("the pipe did not arrive")?;
    let control = inheritance.ready()?;
    pipe.write_all(&[BYTE])?;
    // Until the predecessor has gone.
    while control.farewell()?.is_some() {}
    control.close();
    Ok(())
}

fn read_byte(reader: OwnedFd) -> Outcome<()> {
    let patience = PollTimeout::try_from(PATIENCE)?;
    if poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], patience)? == 0 {
        return Err("nothing comes out of the pipe".into());
    }
    let mut all = Vec::new();
    File::from(reader).read_to_end(&mut all)?;
    if all != [BYTE] {
        return Err("what comes out of the pipe is not what was written".into());
    }
    Ok(())
}
