//! Services under a real systemd, under load: reload, restart, stop and crash.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../common/clients.rs"]
mod clients;
#[path = "../common/example.rs"]
mod example;
mod load;
mod machine;
mod reloads;

use clients::{Check, require, until};
use machine::{Debian, Machine};

const SOCKET: &str = "/run/app/handoff.sock";

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
