//! Services under a real systemd, under load: reload, restart, stop and crash.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod activators;
mod blocking;
#[path = "../common/clients.rs"]
mod clients;
mod crashes;
#[path = "../common/example.rs"]
mod example;
mod hardened;
mod load;
mod machine;
mod reloads;
mod sockets;
mod stops;
mod templates;
mod watchdog;

use std::path::Path;
use std::process::Command;

use clients::{Check, require, until};
use machine::{Debian, Machine};

const SOCKET: &str = "/run/app/handoff.sock";

/// A new process has three seconds to be ready.
fn unit(how: &str) -> Vec<(String, String)> {
    let service = format!(
        "/srv/bin/http --listen 127.0.0.1:8080 --control {SOCKET} --drain 3000 --timeouts ready=3000,probation=200"
    );
    let text = format!("[Service]\n{how}\nExecStart={service}\nRuntimeDirectory=app\n");
    vec![("app.service".to_owned(), text)]
}

/// The files that `handoff unit` writes for the same service, and a drop-in with what is to be different.
fn shipped(more: &[&str], changes: &str) -> Vec<(String, String)> {
    let quick = "ready=3000,probation=200";
    let service = ["--listen", "127.0.0.1:8080", "--control", SOCKET, "--drain", "3000", "--timeouts", quick];
    shipped_for("http", &service, more, changes)
}

fn shipped_for(program: &str, service: &[&str], more: &[&str], changes: &str) -> Vec<(String, String)> {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_handoff"));
    command.args(["unit", &format!("/srv/bin/{program}"), "--name", "app", "--path", SOCKET]);
    command.args(["--handoff", "/srv/bin/handoff", "--output"]).arg(directory.path()).args(more);
    command.arg("--").args(service);
    let written = command.output().unwrap();
    assert!(written.status.success(), "{}", machine::said(&written));
    let files = directory.path().read_dir().unwrap().map(|file| file.unwrap().path());
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let mut files: Vec<_> = files.map(|path| (name(&path), std::fs::read_to_string(&path).unwrap())).collect();
    let service = files.iter().map(|(name, _)| name).find(|name| name.ends_with(".service")).unwrap();
    files.push((format!("{service}.d/changes.conf"), changes.to_owned()));
    files
}

/// What a test has found, for whoever reads its output; or what is wrong, with all that the journal has.
fn report(machine: &Machine, found: Check<String>) {
    match found {
        Ok(found) => println!("{found}"),
        Err(error) => panic!("{error}\n{}", machine.journal()),
    }
}

/// The process that systemd takes for the main one.
fn main_pid(machine: &Machine) -> u64 {
    machine.property("app.service", "MainPID").parse().unwrap()
}
