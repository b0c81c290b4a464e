//! Services under a real systemd, under load: reload, restart, stop and crash.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../common/clients.rs"]
mod clients;
#[path = "../common/example.rs"]
mod example;
mod load;
mod machine;
mod reloads;
mod sockets;
mod stops;
mod watchdog;

use clients::{Check, require, until};
use machine::{Debian, Machine};

const SOCKET: &str = "/run/app/handoff.sock";

/// A new process has three seconds to be ready.
fn unit(how: &str) -> String {
    let service = format!(
        "/srv/bin/http --listen 127.0.0.1:8080 --control {SOCKET} --drain 3000 --timeouts ready=3000,probation=200"
    );
    format!("[Service]\n{how}\nExecStart={service}\nRuntimeDirectory=app\n")
}

/// What a test has found, for whoever reads its output; or what is wrong, with all that the journal has.
fn report(machine: &Machine, found: Check<String>) {
    match found {
        Ok(found) => println!("{found}"),
        Err(error) => panic!("{error}\n{}", machine.journal("app.service")),
    }
}

/// The process that systemd takes for the main one.
fn main_pid(machine: &Machine) -> u64 {
    machine.property("app.service", "MainPID").parse().unwrap()
}
