//! Processes that are told to stop, in every phase.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::Rows;
use crate::clients::{Check, require, until};
use crate::process::{self, Form, Process, World, wait_for_end};

/// How often in a row.
const TIMES: usize = 50;

pub(crate) fn rows(rows: &mut Rows) {
    rows.add("a stop and at once a start, 50 times, P drains", |world| stop_and_start(world, TIMES, false));
    rows.add("a stop and at once a start, O and P drain", |world| stop_and_start(world, 5, true));
    rows.add("SIGTERM while S initialises", stop_of_a_successor);
    rows.add("SIGTERM while a cold start initialises", stop_of_a_cold_start);
    rows.add("SIGTERM while S initialises as process 1", stop_of_a_successor_as_init);
    rows.add("SIGTERM while a cold start initialises as process 1", stop_of_a_cold_start_as_init);
    rows.add("SIGTERM while P's own child initialises", stop_with_own_child);
    rows.add("SIGTERM to P while S from elsewhere initialises, which is ready in time", stop_of_a_predecessor_in_time);
    rows.add("SIGTERM to P while S from elsewhere initialises, which is not ready in time", stop_of_a_predecessor_late);
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        rows.add(&format!("{signal} ends a process that hangs after it has stopped"), move |world| {
            hangs_stopped(world, signal)
        });
        rows.add(&format!("{signal} ends a process that hangs after it has handed over"), move |world| {
            hangs_handed_over(world, signal)
        });
    }
    rows.add("a second SIGTERM ends a drain after a stop", second_stop_while_stopping);
    rows.add("a second SIGTERM ends a drain after a handoff", second_stop_while_handed_over);
    rows.add_in(Form::Tokio, "finish is cancelled while it drains, and called again", finish_cancelled_in_drain);
    rows.add_in(Form::Tokio, "finish is cancelled before release, and called again", finish_cancelled_before_release);
    rows.add_in(Form::Tokio, "serve is cancelled, and called again", serve_cancelled);
}

/// Each time an older generation or two hold copies of the listeners.
fn stop_and_start(world: &World, times: usize, three: bool) -> Check<String> {
    let mut slowest = Duration::ZERO;
    let mut first = world.serving("P0", "")?;
    for time in 0..times {
        let mut kept = vec![(world.connect()?, first.pid())];
        let mut older = vec![first];
        if three {
            older.push(world.serving(&format!("M{time}"), "")?);
            kept.push((world.connect()?, older[1].pid()));
        }
        for (client, pid) in &mut kept {
            let answer = client.ask()?;
            require(answer.pid == *pid, || format!("{answer:?}, not {pid}"))?;
        }
        let mut new = world.serving(&format!("S{time}"), "")?;
        let began = Instant::now();
        if time % 2 == 0 {
            new.signal(Signal::SIGTERM);
            new.exits_with(0)?;
        } else {
            // Told so, and nobody waits until it has.
            world.question("stop").map_err(|error| format!("round {time}: {error}"))?;
        }
        let tag = format!("P{}", time + 1);
        let mut next = world.start(&tag, "")?;
        until("the next serves", || (world.has_heard(&tag, "serves") || !next.is_alive()).then_some(()))?;
        if !next.is_alive() {
            return Err(format!("round {time}: the start failed: {:?}", next.ended()?.0));
        }
        slowest = slowest.max(began.elapsed());
        let answer = world.ask()?;
        require(answer.pid == next.pid(), || format!("round {time}: {answer:?} is not of {}", next.pid()))?;
        require(answer.generation == 1, || format!("round {time}: a cold start is generation {}", answer.generation))?;
        new.exits_with(0)?;
        for (client, pid) in &mut kept {
            let answer = client.ask()?;
            require(answer.pid == *pid, || format!("a kept connection: {answer:?}, not {pid}"))?;
        }
        drop(kept);
        for old in &mut older {
            old.exits_with(0)?;
        }
        first = next;
    }
    first.signal(Signal::SIGTERM);
    first.exits_with(0)?;
    require(!world.control.exists(), || "the control socket is left over".to_owned())?;
    Ok(format!("slowest {:.0} ms", slowest.as_secs_f64() * 1e3))
}

fn stop_of_a_successor(world: &World) -> Check<String> {
    let old = world.serving("P", "")?;
    let mut new = world.start("S", "init=wait")?;
    world.hears("S", "initialises")?;
    let told = Instant::now();
    new.signal(Signal::SIGTERM);
    let took = new.ends_by(Signal::SIGTERM)?.duration_since(told);
    refused_to_serve(world, &old, took)
}

/// P serves on and says why.
fn refused_to_serve(world: &World, old: &Process, took: Duration) -> Check<String> {
    let reason = world.attempt("failed")?;
    require(reason.contains("told to stop"), || format!("the reason is {reason:?}"))?;
    require(took < process::AT_ONCE, || format!("it took {took:?}"))?;
    world.owned_by(old, 1)?;
    let next = world.serving("N", "")?;
    world.owned_by(&next, 2)?;
    Ok(format!("{:.1} ms", took.as_secs_f64() * 1e3))
}

fn stop_of_a_cold_start(world: &World) -> Check<String> {
    let mut cold = world.start("P", "init=wait")?;
    world.hears("P", "initialises")?;
    let told = Instant::now();
    cold.signal(Signal::SIGTERM);
    let took = cold.ends_by(Signal::SIGTERM)?.duration_since(told);
    started_anew(world, took)
}

fn started_anew(world: &World, took: Duration) -> Check<String> {
    require(!world.control.exists(), || "the control socket is left over".to_owned())?;
    require(took < process::AT_ONCE, || format!("it took {took:?}"))?;
    let next = world.serving("N", "")?;
    world.owned_by(&next, 1)?;
    Ok(format!("{:.1} ms", took.as_secs_f64() * 1e3))
}

/// The process 1 of a namespace of its own; `None` where that is not permitted.
fn as_init(world: &World, tag: &str) -> Check<Option<Process>> {
    let may =
        Command::new("unshare").args(["--pid", "--fork", "true"]).output().is_ok_and(|done| done.status.success());
    if !may {
        return Ok(None);
    }
    // What is run is looked up by `unshare`, which is another program.
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]).arg(program).arg("serve");
    let mut process = world.run(command, tag, "init=wait")?;
    world.hears(tag, "initialises")?;
    process.descend()?;
    Ok(Some(process))
}

const SKIPPED: &str = "skipped: no namespace can be had here";

fn stop_of_a_successor_as_init(world: &World) -> Check<String> {
    let old = world.serving("P", "")?;
    let Some(mut new) = as_init(world, "S")? else { return Ok(SKIPPED.to_owned()) };
    let told = Instant::now();
    new.signal(Signal::SIGTERM);
    let took = new.exits_with(128 + Signal::SIGTERM as i32)?.duration_since(told);
    refused_to_serve(world, &old, took)
}

fn stop_of_a_cold_start_as_init(world: &World) -> Check<String> {
    let Some(mut cold) = as_init(world, "P")? else { return Ok(SKIPPED.to_owned()) };
    let told = Instant::now();
    cold.signal(Signal::SIGTERM);
    let took = cold.exits_with(128 + Signal::SIGTERM as i32)?.duration_since(told);
    started_anew(world, took)
}

fn stop_with_own_child(world: &World) -> Check<String> {
    let mut old = world.serving("P", "")?;
    world.next("S", "init=wait")?;
    let mut upgrade = world.begin_upgrade()?;
    world.hears("S", "initialises")?;
    let child = process::children(old.pid()).first().copied().ok_or("P has no child")?;
    let child = process::pidfd(child)?;
    let told = Instant::now();
    old.signal(Signal::SIGTERM);
    let outcome = upgrade.outcome()?;
    let told_why = outcome["outcome"] == "failed" && outcome["reason"] == "the service was told to stop";
    require(told_why, || format!("the outcome is {outcome}"))?;
    wait_for_end(&child).map_err(|error| format!("the child: {error}"))?;
    let took = old.exits_with(0)?.duration_since(told);
    require(!world.has_heard("S", "serves"), || "the child got to serve".to_owned())?;
    started_anew(world, took)
}

fn stop_of_a_predecessor_in_time(world: &World) -> Check<String> {
    let mut old = world.serving("P", "probation=0")?;
    world.ask()?;
    let new = world.start("S", "init=wait")?;
    world.hears("S", "initialises")?;
    old.signal(Signal::SIGTERM);
    // It serves until then.
    world.has_told_to_stop()?;
    let answer = world.ask()?;
    require(answer.pid == old.pid(), || format!("{answer:?}"))?;
    world.tell("S", "go")?;
    world.hears("S", "serves")?;
    old.exits_with(0)?;
    world.owned_by(&new, 2)?;
    let count = world.ask()?.count;
    require(count == 3, || format!("{count} were counted, and not 3"))?;
    Ok(String::new())
}

fn stop_of_a_predecessor_late(world: &World) -> Check<String> {
    let drain = Duration::from_millis(300);
    let mut old = world.serving("P", "drain=300")?;
    let mut new = world.start("S", "init=wait")?;
    world.hears("S", "initialises")?;
    let told = Instant::now();
    old.signal(Signal::SIGTERM);
    let took = old.exits_with(0)?.duration_since(told).saturating_sub(drain);
    world.tell("S", "go")?;
    new.exits_with(1)?;
    require(!world.has_heard("S", "serves"), || "S got to serve".to_owned())?;
    started_anew(world, took)
}

fn hangs_stopped(world: &World, signal: Signal) -> Check<String> {
    let mut old = world.serving("P", "exit=hang")?;
    world.question("stop")?;
    world.hears("P", "exits")?;
    old.signal(signal);
    old.ends_by(signal)?;
    started_anew(world, Duration::ZERO)
}

fn hangs_handed_over(world: &World, signal: Signal) -> Check<String> {
    let mut old = world.serving("P", "exit=hang probation=0")?;
    let new = world.serving("S", "")?;
    world.hears("P", "exits")?;
    old.signal(signal);
    old.ends_by(signal)?;
    world.owned_by(&new, 2)?;
    Ok(String::new())
}

fn second_stop_while_stopping(world: &World) -> Check<String> {
    let mut old = world.serving("P", "")?;
    let mut kept = world.connect()?;
    kept.ask()?;
    old.signal(Signal::SIGTERM);
    world.hears("P", "superseded")?;
    // It goes on with what it has.
    let answer = kept.ask()?;
    require(answer.pid == old.pid(), || format!("{answer:?}"))?;
    let told = Instant::now();
    old.signal(Signal::SIGTERM);
    let took = old.exits_with(0)?.duration_since(told);
    started_anew(world, took)
}

fn second_stop_while_handed_over(world: &World) -> Check<String> {
    let mut old = world.serving("P", "probation=0")?;
    let mut kept = world.connect()?;
    kept.ask()?;
    let new = world.serving("S", "")?;
    old.signal(Signal::SIGTERM);
    world.has_told_to_stop()?;
    let answer = kept.ask()?;
    require(answer.pid == old.pid(), || format!("the kept connection: {answer:?}"))?;
    let told = Instant::now();
    old.signal(Signal::SIGTERM);
    let took = old.exits_with(0)?.duration_since(told);
    require(took < process::AT_ONCE, || format!("it took {took:?}"))?;
    world.owned_by(&new, 2)?;
    // Its farewell has been said all the same: two on the kept connection, and one of the look.
    world.hears("S", "absorbs")?;
    let count = world.ask()?.count;
    require(count == 3, || format!("{count} were counted, and not 3"))?;
    Ok(format!("{:.1} ms", took.as_secs_f64() * 1e3))
}

fn finish_cancelled_in_drain(world: &World) -> Check<String> {
    let mut old = world.serving("P", "probation=0")?;
    let mut kept = world.connect()?;
    kept.ask()?;
    let new = world.serving("S", "")?;
    world.tell("P", "cancel")?;
    world.hears("P", "cancelled")?;
    kept.ask()?;
    world.tell("P", "again")?;
    kept.ask()?;
    require(old.is_alive(), || "P has not waited for its connection".to_owned())?;
    drop(kept);
    old.exits_with(0)?;
    world.owned_by(&new, 2)?;
    until("the farewell is counted", || (world.ask().ok()?.count >= 4).then_some(()))?;
    Ok(String::new())
}

fn finish_cancelled_before_release(world: &World) -> Check<String> {
    let mut old = world.serving("P", "release=wait probation=0")?;
    world.ask()?;
    let new = world.start("S", "")?;
    world.hears("P", "releases")?;
    world.tell("P", "cancel")?;
    world.hears("P", "cancelled")?;
    world.tell("P", "release")?;
    // It is given up all the same.
    world.hears("S", "serves")?;
    world.owned_by(&new, 2)?;
    let third = world.serving("T", "")?;
    world.owned_by(&third, 3)?;
    world.tell("P", "again")?;
    old.exits_with(0)?;
    Ok(String::new())
}

fn serve_cancelled(world: &World) -> Check<String> {
    let mut old = world.serving("P", "server=serves probation=0")?;
    world.ask()?;
    world.tell("P", "cancel")?;
    world.hears("P", "cancelled")?;
    world.owned_by(&old, 1)?;
    let new = world.serving("S", "")?;
    world.owned_by(&new, 2)?;
    old.exits_with(0)?;
    let count = world.ask()?.count;
    require(count == 3, || format!("{count} were counted, and not 3"))?;
    Ok(String::new())
}
