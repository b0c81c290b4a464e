//! Processes that crash, on either side, in every way there is.

use std::time::Instant;

use nix::sys::signal::Signal;

use crate::Rows;
use crate::clients::{Check, require, until};
use crate::process::{Form, Process, World};

/// An ending of `main`, and the exit code that goes with it; `None`: SIGKILL.
pub(crate) const ENDINGS: [(&str, Option<i32>); 5] =
    [("error", Some(1)), ("return", Some(0)), ("panic", Some(101)), ("exit0", Some(0)), ("kill", None)];

pub(crate) fn rows(rows: &mut Rows) {
    for (how, code) in ENDINGS.into_iter().chain([("fail", Some(1))]) {
        for kept in [false, true] {
            let drains = if kept { "drains" } else { "watches" };
            rows.add(&format!("S ends by {how} after ready, P {drains}"), move |world| {
                successor_ends_after_ready(world, how, code, kept)
            });
        }
    }
    for (how, code) in ENDINGS {
        rows.add(&format!("S ends by {how} while it serves"), move |world| successor_ends_later(world, how, code));
        rows.add(&format!("P ends by {how} before S has everything"), move |world| {
            predecessor_ends_early(world, how, code)
        });
        rows.add(&format!("P ends by {how} while S initialises"), move |world| predecessor_ends(world, how, code));
        rows.add(&format!("P ends by {how} while on_release blocks"), move |world| {
            predecessor_ends_late(world, how, code)
        });
    }
    for (server, code) in [("panic", 101), ("ends", 0)] {
        rows.add_in(Form::Tokio, &format!("the server of S in serve: {server}"), move |world| {
            server_ends(world, server, code)
        });
    }
    rows.add("T gives up, then S is killed while P drains", |world| handoff_of_successor_fails(world, "fails"));
    rows.add("T is killed, then S is killed while P drains", |world| handoff_of_successor_fails(world, "killed"));
    rows.add("S is killed while T initialises and P drains", |world| handoff_of_successor_fails(world, "initialises"));
    rows.add("S dies while on_release blocks", |world| ends_while_hook_blocks(world, Signal::SIGKILL));
    rows.add("S is told to stop while on_release blocks", |world| ends_while_hook_blocks(world, Signal::SIGTERM));
}

fn successor_ends_after_ready(world: &World, how: &str, code: Option<i32>, kept: bool) -> Check<String> {
    let mut old = world.serving("P", "")?;
    let mut client = world.connect()?;
    client.ask()?;
    let mut client = kept.then_some(client);
    world.ask()?;
    let mut new = world.start("S", &format!("ready={how}"))?;
    let (status, dead) = new.ended()?;
    require(status.code() == code, || format!("S ended with {status}"))?;
    let waited = world.answers_since(dead, old.pid())?;
    world.owned_by(&old, 1)?;
    let reason = world.attempt("taken_back")?;
    if how == "fail" {
        require(reason.contains("this version cannot serve"), || format!("the reason is {reason:?}"))?;
    }
    // Two before, one by each of the two looks, and this one.
    let count = world.ask()?.count;
    require(count == 4, || format!("{count} were counted, and not 4"))?;
    if let Some(client) = &mut client {
        let answer = client.ask()?;
        require(answer.pid == old.pid(), || format!("the kept connection is answered by {answer:?}"))?;
    }
    drop(client);
    // Its end is its own, and it can still be replaced.
    let mut next = world.serving("N", "")?;
    let count = world.ask()?.count;
    require(count >= 5, || format!("{count} were counted"))?;
    next.signal(Signal::SIGTERM);
    next.exits_with(0)?;
    old.exits_with(0)?;
    require(!world.control.exists(), || "the control socket is left over".to_owned())?;
    Ok(waited)
}

fn successor_ends_later(world: &World, how: &str, code: Option<i32>) -> Check<String> {
    let mut old = world.serving("P", "")?;
    let mut kept = world.connect()?;
    kept.ask()?;
    let mut new = world.serving("S", "")?;
    world.owned_by(&new, 2)?;
    let dead = end(world, &mut new, how, code)?;
    let waited = world.answers_since(dead, old.pid())?;
    world.owned_by(&old, 1)?;
    world.attempt("taken_back")?;
    drop(kept);
    old.signal(Signal::SIGTERM);
    old.exits_with(0)?;
    require(!world.control.exists(), || "the control socket is left over".to_owned())?;
    Ok(waited)
}

/// Ends a process in this way.
fn end(world: &World, process: &mut Process, how: &str, code: Option<i32>) -> Check<Instant> {
    if how == "kill" {
        return process.kill();
    }
    world.tell(&process.tag, &format!("end {how}"))?;
    let (status, dead) = process.ended()?;
    require(status.code() == code, || format!("{} ended with {status}", process.tag))?;
    Ok(dead)
}

fn predecessor_ends_early(world: &World, how: &str, code: Option<i32>) -> Check<String> {
    let mut old = world.serving("P", "offer=wait lingers")?;
    world.ask()?;
    let new = world.start("S", "")?;
    world.hears("P", "offers")?;
    let dead = end(world, &mut old, how, code)?;
    // Nobody has what it held.
    world.hears("S", "serves")?;
    let took = dead.elapsed();
    world.owned_by(&new, 1)?;
    let count = world.ask()?.count;
    require(count == 1, || format!("{count} were counted, and not 1"))?;
    Ok(format!("{:.1} ms", took.as_secs_f64() * 1e3))
}

fn predecessor_ends_late(world: &World, how: &str, code: Option<i32>) -> Check<String> {
    let mut old = world.serving("P", "release=wait")?;
    world.ask()?;
    let new = world.start("S", "")?;
    world.hears("P", "releases")?;
    let dead = end(world, &mut old, how, code)?;
    let waited = world.answers_since(dead, new.pid())?;
    world.owned_by(&new, 2)?;
    let count = world.ask()?.count;
    require(count == 3, || format!("{count} were counted, and not 3"))?;
    Ok(waited)
}

fn predecessor_ends(world: &World, how: &str, code: Option<i32>) -> Check<String> {
    let mut old = world.serving("P", "")?;
    world.ask()?;
    world.ask()?;
    let mut new = world.start("S", "init=wait")?;
    world.hears("S", "initialises")?;
    end(world, &mut old, how, code)?;
    // It waits in the backlog.
    let mut client = world.connect()?;
    client.say().map_err(|error| format!("a client was refused: {error}"))?;
    let told = Instant::now();
    world.tell("S", "go")?;
    let answer = client.hear().map_err(|error| format!("a client was not answered: {error}"))?;
    let waited = told.elapsed();
    require(answer.pid == new.pid() && answer.count == 2, || format!("{answer:?}"))?;
    world.owned_by(&new, 2)?;
    drop(client);
    new.signal(Signal::SIGTERM);
    new.exits_with(0)?;
    require(!world.control.exists(), || "the control socket is left over".to_owned())?;
    Ok(format!("{:.1} ms", waited.as_secs_f64() * 1e3))
}

fn server_ends(world: &World, server: &str, code: i32) -> Check<String> {
    let old = world.serving("P", "server=serves")?;
    let mut new = world.start("S", &format!("server={server}"))?;
    let dead = new.exits_with(code)?;
    let waited = world.answers_since(dead, old.pid())?;
    world.owned_by(&old, 1)?;
    world.attempt("taken_back")?;
    Ok(waited)
}

fn handoff_of_successor_fails(world: &World, third: &str) -> Check<String> {
    let old = world.serving("P", "")?;
    let mut kept = world.connect()?;
    kept.ask()?;
    let mut new = world.serving("S", "")?;
    world.owned_by(&new, 2)?;
    let mut third_process = world.start("T", if third == "fails" { "init=fail" } else { "init=wait" })?;
    world.hears("T", "initialises")?;
    match third {
        "fails" => drop(third_process.exits_with(1)?),
        "killed" => drop(third_process.kill()?),
        _ => {}
    }
    if third != "initialises" {
        let reason = world.attempt("failed")?;
        let named = third == "killed" || reason.contains("this version does not fit");
        require(named, || format!("the reason is {reason:?}"))?;
    }
    let dead = new.kill()?;
    let waited = world.answers_since(dead, old.pid())?;
    world.owned_by(&old, 1)?;
    world.attempt("taken_back")?;
    if third == "initialises" {
        world.tell("T", "go")?;
        // It goes to whoever serves, or ends.
        until("T has found its place", || {
            let serves = world.has_heard("T", "serves") && world.ask().is_ok_and(|it| it.pid == third_process.pid());
            let ended = !third_process.is_alive() && world.ask().is_ok_and(|it| it.pid == old.pid());
            (serves || ended).then_some(())
        })?;
    }
    let answer = kept.ask()?;
    require(answer.pid == old.pid(), || format!("the kept connection: {answer:?}"))?;
    Ok(waited)
}

fn ends_while_hook_blocks(world: &World, signal: Signal) -> Check<String> {
    let mut old = world.serving("P", "release=wait")?;
    world.ask()?;
    let mut new = world.start("S", "")?;
    world.hears("P", "releases")?;
    new.signal(signal);
    let dead = new.ends_by(signal)?;
    let waited = world.answers_since(dead, old.pid())?;
    world.owned_by(&old, 1)?;
    world.attempt("failed")?;
    world.tell("P", "release")?;
    let mut next = world.serving("N", "")?;
    world.owned_by(&next, 2)?;
    let count = world.ask()?.count;
    require(count == 4, || format!("{count} were counted, and not 4"))?;
    next.signal(Signal::SIGTERM);
    next.exits_with(0)?;
    old.exits_with(0)?;
    Ok(waited)
}
