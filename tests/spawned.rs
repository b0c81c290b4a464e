//! A successor that the service starts itself, and that does not take the service.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Form, PATIENCE, Place, cause, config, forms, place};
use fd_handoff::{Cause, Error, Offer, Owner, Spawned, handoff_listen};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::Pid;

forms! {
    a_child_that_never_gets_ready_is_ended_and_reaped
}

const ROLE: &str = "FD_HANDOFF_TEST_SPAWNED";

/// This test binary, as a successor that asks for the service and does no more.
fn silent(path: &Path, role: &str) -> Spawned {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", "child_main", "--ignored"]).env(ROLE, role).env("PATH_TO_SOCKET", path);
    Spawned::start(command.stdout(Stdio::null())).unwrap()
}

#[test]
#[ignore = "run by other tests as a process of its own"]
#[allow(unsafe_code, reason = "setting a signal's disposition")]
fn child_main() {
    let Ok(role) = std::env::var(ROLE) else { return };
    if role == "stubborn" {
        // SAFETY: ignoring a signal runs no code.
        unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }.unwrap();
    }
    let _inheritance = fd_handoff::handoff_receive(Path::new(&std::env::var_os("PATH_TO_SOCKET").unwrap())).unwrap();
    loop {
        std::thread::park();
    }
}

fn a_child_that_never_gets_ready_is_ended_and_reaped(form: Form) {
    let Place { directory: _directory, path } = place();
    let hasty = config(&path).timeouts(|waits| {
        waits.ready = Duration::from_millis(100);
        waits.end = Duration::from_millis(50);
    });
    let control = form.listen(hasty).unwrap();
    let child = silent(&path, "stubborn");
    let pid = Pid::from_raw(child.pid().try_into().unwrap());
    let failure = control.accept().unwrap().with_child(child).offer(Offer::new()).err().unwrap();
    assert_eq!(failure.owner(), Owner::StillUs);
    assert!(matches!(cause(&failure), Cause::Late { awaited: "ready", .. }), "{failure}");
    // Nothing tells when it is reaped but that it is gone.
    let began = Instant::now();
    while kill(pid, None).is_ok() {
        assert!(began.elapsed() < PATIENCE, "it is still there");
        std::thread::yield_now();
    }
}

/// Runs a silent child until it has everything, and ends it.
fn end(role: &str, grace: Duration) -> std::process::ExitStatus {
    let Place { directory: _directory, path } = place();
    let control = handoff_listen(config(&path)).unwrap();
    let child = silent(&path, role);
    let successor = control.accept().unwrap();
    assert_eq!(successor.pid(), child.pid());
    child.end(grace).unwrap()
}

#[test]
fn a_child_ends_when_it_is_asked_to() {
    assert_eq!(end("obedient", PATIENCE).signal(), Some(Signal::SIGTERM as i32));
}

#[test]
fn a_child_that_does_not_end_is_killed() {
    assert_eq!(end("stubborn", Duration::from_millis(50)).signal(), Some(Signal::SIGKILL as i32));
}

#[test]
fn a_program_that_does_not_exist_is_named() {
    match Spawned::start(&mut Command::new("/nonexistent/service")) {
        Err(Error::Io { doing, .. }) => assert!(doing.contains("/nonexistent/service"), "{doing}"),
        other => panic!("{other:?}"),
    }
}
