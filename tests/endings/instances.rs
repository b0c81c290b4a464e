//! Containers that come back: a row plays them with names of instances.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::Rows;
use crate::clients::{Check, require, until};
use crate::process::{Process, World};

/// How often containers are started again that were superseded.
const TIMES: usize = 30;

pub(crate) fn rows(rows: &mut Rows) {
    rows.add("an instance that was superseded and comes back waits as a keeper", comes_back);
    rows.add("an instance that was superseded and is told to takes the service back", rolls_back);
    rows.add("with restart: always on all, the newest instance serves, 30 restarts", no_ping_pong);
    rows.add("an instance that is upgraded within itself, or restarted with a keeper, is not superseded", itself);
}

fn instance(world: &World, name: &str, tag: &str, words: &str) -> Check<Process> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("serve").env("HANDOFF_INSTANCE", name);
    world.run(command, tag, words)
}

fn serving(world: &World, name: &str, tag: &str, words: &str) -> Check<Process> {
    let process = instance(world, name, tag, words)?;
    world.hears(tag, "serves")?;
    Ok(process)
}

/// It has everything, and serves nobody.
fn waits(world: &World, process: &Process) -> Check {
    let kept = until("it keeps the service", || {
        let keeper = world.status().ok()?["keeper"].clone();
        (keeper["pid"] == process.pid() && keeper["holds"] == true).then_some(())
    });
    kept.map_err(|error| format!("{error}: {:?}", world.status()))
}

// M150, M151
fn comes_back(world: &World) -> Check<String> {
    let mut a = serving(world, "a", "A", "probation=0")?;
    let mut b = serving(world, "b", "B", "")?;
    a.exits_with(0)?;
    let mut again = instance(world, "a", "A2", "")?;
    waits(world, &again)?;
    let status = world.status()?;
    require(status["instance"] == "b" && status["pid"] == b.pid(), || format!("B serves: {status}"))?;
    require(status["history"][0]["instance"] == "b", || format!("{status}"))?;
    // It is of use: the one that serves crashes, and comes back, and nobody is refused.
    b.kill()?;
    let b = serving(world, "b", "B2", "")?;
    require(world.ask()?.pid == b.pid(), || "B serves again".to_owned())?;
    // It ends when it is told to.
    again.signal(Signal::SIGTERM);
    again.ends_by(Signal::SIGTERM)?;
    require(world.ask()?.pid == b.pid(), || "B serves on".to_owned())?;
    Ok(String::new())
}

fn rolls_back(world: &World) -> Check<String> {
    let mut a = serving(world, "a", "A", "probation=0")?;
    let mut b = serving(world, "b", "B", "probation=0")?;
    a.exits_with(0)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg("serve").env("HANDOFF_INSTANCE", "a").env("HANDOFF_TAKE", "1");
    let a = world.run(command, "A2", "")?;
    world.hears("A2", "serves")?;
    b.exits_with(0)?;
    world.owned_by(&a, 3)?;
    // Now it is the other one that was superseded.
    let b = instance(world, "b", "B2", "")?;
    waits(world, &b)?;
    world.owned_by(&a, 3)?;
    Ok(String::new())
}

fn no_ping_pong(world: &World) -> Check<String> {
    let names = ["a", "b", "c"];
    let mut processes = Vec::new();
    for name in names {
        processes.push(serving(world, name, name, "probation=0")?);
    }
    for process in &mut processes[..2] {
        process.exits_with(0)?;
    }
    let newest = processes.pop().ok_or("three of them")?;
    for time in 0..TIMES {
        let name = names[time % 2];
        let mut again = instance(world, name, &format!("{name}{time}"), "")?;
        waits(world, &again)?;
        require(world.ask()?.pid == newest.pid(), || format!("{name} has taken the service back"))?;
        again.kill()?;
    }
    world.owned_by(&newest, 3)?;
    Ok(String::new())
}

// M152, M153
fn itself(world: &World) -> Check<String> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("keep");
    let mut first = serving(world, "a", "A", "probation=0")?;
    let _keeper = world.run(command, "K", "")?;
    world.hears("K", &format!("process {},", first.pid()))?;
    let mut second = serving(world, "a", "A2", "")?;
    first.exits_with(0)?;
    for time in 3..6 {
        world.hears("K", &format!("process {},", second.pid()))?;
        second.signal(Signal::SIGTERM);
        second.exits_with(0)?;
        second = serving(world, "a", &format!("A{time}"), "")?;
    }
    require(world.ask()?.pid == second.pid(), || "it serves".to_owned())?;
    let status = world.status()?;
    require(status["instance"] == "a", || format!("{status}"))?;
    Ok(String::new())
}
