//! A process that keeps the service while nobody serves it: K.

use std::process::{Command, ExitCode};
use std::time::Duration;

use fd_handoff::{Config, Keeper};
use nix::sys::signal::Signal;

use crate::Rows;
use crate::clients::{Check, require, until};
use crate::load::{self, Load};
use crate::process::{Client, Process, World};
use crate::service;

/// Clients under load.
const CLIENTS: usize = 4;
/// How often a service is stopped and started, and how often it is killed.
const TIMES: usize = 8;

pub(crate) fn rows(rows: &mut Rows) {
    rows.add("with a keeper, a stop and a start lose nothing, under load", stop_and_start);
    rows.add("with a keeper, a stop takes the pidfile away, and leaves the sockets", outside);
    rows.add("with a keeper, a stop lets a kept connection drain, whose count arrives", stop_with_a_kept_connection);
    rows.add("with a keeper, a crash and a start refuse nobody, under load", crash_and_start);
    rows.add("a keeper has the last checkpoint of a service that is killed", checkpoint);
    rows.add("a keeper goes along from P to S", goes_along);
    rows.add("P is killed while S initialises: S takes over, and not the keeper", successor_first);
    rows.add("S is killed while P drains: P takes back, and not the keeper", predecessor_first);
    rows.add("S and P are killed: the keeper has the service", both_killed);
    rows.add("S, which took over from the keeper, is killed at once: the keeper has it again", killed_in_probation);
    rows.add("the keeper is killed: P serves on, and a new keeper is fed anew", keeper_killed);
    rows.add("the keeper is stopped: P serves, hands over and stops all the same", keeper_frozen);
    rows.add("the keeper is told to stop while P serves: nothing happens to P", keeper_told_to_stop);
    rows.add("the keeper is told to stop while nobody serves: the next start is a cold one", keeper_ends_the_service);
    rows.add("a second keeper waits, and keeps when the first has gone", second_keeper);
    rows.add("a keeper without descriptors: the service does not care, and another one keeps it", short_of_files);
    rows.add("the control directory is gone when P crashes: the keeper holds on until it is back", without_a_directory);
    rows.add("a state that processes die of is left out", poison);
    rows.add("a keeper that listens first has the sockets before there is a service", listens_first);
    rows.add("the keeper is killed and started again at any moment, under load", restless_keeper);
}

/// In a process of its own: keeps the service.
pub(crate) fn run() -> ExitCode {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false);
    log.with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG).init();
    let behaviour = service::Behaviour::of_this_process();
    service::end_with_the_test();
    let told = behaviour.clone();
    // Nothing of a row is to happen because a machine is slow.
    let config = Config::new(behaviour.path()).timeouts(|timeouts| timeouts.active = Duration::from_secs(60));
    let keeper = Keeper::new(config).state_tries(2).on_event(move |event| service::report(&told, event));
    let keeper = if behaviour.is("binds", "tcp") { keeper.listen("tcp", behaviour.listen()) } else { keeper };
    match keeper.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the keeper failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn keeper(world: &World, tag: &str, words: &str) -> Check<Process> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("keep");
    world.run(command, tag, words)
}

/// A service, and who keeps it.
fn kept(world: &World) -> Check<(Process, Process)> {
    let p = world.serving("P", "checkpoint=yes")?;
    let k = keeper(world, "K", "")?;
    stands_by(world, "K", &p)?;
    Ok((p, k))
}

fn stands_by(world: &World, tag: &str, owner: &Process) -> Check {
    world.hears(tag, &format!("process {},", owner.pid()))
}

/// Both sides say who keeps.
fn is_kept_by(world: &World, k: &Process) -> Check {
    until("the service is kept", || {
        let keeper = world.status().ok()?["keeper"].clone();
        (keeper["pid"] == k.pid() && keeper["holds"] == true).then_some(())
    })
    .map_err(|error| format!("{error}: {:?}", world.status()))
}

/// The keeper answers at the control socket, and says so.
fn nobody_serves(world: &World, k: &Process, why: &str) -> Check {
    let kept = until("the keeper has the service", || {
        let status = world.status().ok()?;
        let is_kept = status["phase"] == "kept" && status["pid"] == k.pid();
        // Where a process dies in its first moments, it is the keeper's again before the keeper can say why.
        (is_kept && status["kept"]["reason"].as_str()?.contains(why)).then_some(())
    });
    kept.map_err(|error| format!("{error}, since it {why}: {:?}", world.status()))
}

fn stop_and_start(world: &World) -> Check<String> {
    let (mut owner, k) = kept(world)?;
    let load = Load::start(world, CLIENTS, 3);
    load.goes_on(8)?;
    for time in 0..TIMES {
        owner.signal(Signal::SIGTERM);
        owner.exits_with(0)?;
        owner = world.serving(&format!("S{time}"), "")?;
        stands_by(world, "K", &owner)?;
        load.goes_on(8)?;
    }
    is_kept_by(world, &k)?;
    let samples = load.stop();
    load::none_refused(&samples)?;
    load::none_lost(&samples)?;
    counted(world, &samples, owner.pid())
}

/// Not an answer was forgotten, nor counted twice.
fn counted(world: &World, samples: &[load::Sample], owner: u32) -> Check<String> {
    let answered: u64 = samples.iter().map(|sample| sample.answered).sum();
    // What the connections of the last one but one have counted may still be on its way.
    let last = until("the count is exact", || world.ask().ok().filter(|last| last.count >= answered));
    let last = last.map_err(|error| format!("{error}: {answered} answers, {:?}", world.ask()))?;
    require(last.pid == owner, || format!("{last:?}"))?;
    let longest = samples.iter().map(|sample| sample.ended - sample.began).max().unwrap_or_default();
    Ok(format!("{answered} answers, longest wait {:.0} ms", longest.as_secs_f64() * 1e3))
}

fn stop_with_a_kept_connection(world: &World) -> Check<String> {
    let (mut p, k) = kept(world)?;
    let mut client = world.connect()?;
    client.ask()?;
    p.signal(Signal::SIGTERM);
    nobody_serves(world, &k, "has stopped")?;
    // It drains, while another serves.
    let s = world.serving("S", "")?;
    let answer = world.ask()?;
    require(answer.pid == s.pid() && answer.count == 1, || format!("{answer:?}"))?;
    for _ in 0..5 {
        require(client.ask()?.pid == p.pid(), || "the connection is P's".to_owned())?;
    }
    drop(client);
    p.exits_with(0)?;
    world.hears("S", "absorbs 5")?;
    let answer = world.ask()?;
    require(answer.count == 7, || format!("{answer:?}"))?;
    Ok(String::new())
}

/// What those outside see.
fn outside(world: &World) -> Check<String> {
    let pidfile = world.control.with_file_name("pid");
    let named = || std::fs::read_to_string(&pidfile).ok().and_then(|pid| pid.trim().parse::<u32>().ok());
    let mut p = world.serving("P", "pidfile=yes")?;
    let k = keeper(world, "K", "")?;
    stands_by(world, "K", &p)?;
    require(named() == Some(p.pid()), || format!("{:?}", named()))?;
    p.signal(Signal::SIGTERM);
    p.exits_with(0)?;
    require(named().is_none(), || format!("{:?}", named()))?;
    nobody_serves(world, &k, "has stopped")?;
    let s = world.serving("S", "pidfile=yes")?;
    require(named() == Some(s.pid()), || format!("{:?}", named()))?;
    Ok(String::new())
}

fn crash_and_start(world: &World) -> Check<String> {
    let (mut owner, k) = kept(world)?;
    let load = Load::start(world, CLIENTS, 1);
    for time in 0..TIMES {
        load.goes_on(8)?;
        owner.kill()?;
        nobody_serves(world, &k, "has crashed")?;
        owner = world.serving(&format!("S{time}"), "")?;
        stands_by(world, "K", &owner)?;
    }
    load.goes_on(8)?;
    let samples = load.stop();
    load::none_refused(&samples)?;
    // Those in flight.
    let lost = samples.iter().filter(|sample| sample.lost).count();
    require(lost <= TIMES * CLIENTS, || format!("{lost} were lost"))?;
    Ok(format!("{lost} in flight"))
}

fn checkpoint(world: &World) -> Check<String> {
    let (mut p, k) = kept(world)?;
    for _ in 0..5 {
        world.ask()?;
    }
    world.tell("P", "checkpoint")?;
    world.hears("P", "checkpointed")?;
    // It has come when the keeper says so.
    world.ask()?;
    until("the keeper has it", || world.log().contains("a newer snapshot").then_some(()))?;
    p.kill()?;
    nobody_serves(world, &k, "has crashed")?;
    let s = world.serving("S", "")?;
    let answer = world.ask()?;
    require(answer.pid == s.pid() && answer.count == 5, || format!("{answer:?}"))?;
    Ok(String::new())
}

fn goes_along(world: &World) -> Check<String> {
    let (_p, k) = kept(world)?;
    let mut s = world.serving("S", "")?;
    stands_by(world, "K", &s)?;
    is_kept_by(world, &k)?;
    world.owned_by(&s, 2)?;
    s.signal(Signal::SIGTERM);
    s.exits_with(0)?;
    let t = world.serving("T", "")?;
    let answer = world.ask()?;
    require(answer.pid == t.pid() && answer.count == 1, || format!("{answer:?}"))?;
    Ok(String::new())
}

// M173
fn successor_first(world: &World) -> Check<String> {
    let (mut p, k) = kept(world)?;
    let s = world.start("S", "init=wait")?;
    world.hears("S", "initialises")?;
    let dead = p.kill()?;
    world.tell("S", "go")?;
    let waited = world.answers_since(dead, s.pid())?;
    stands_by(world, "K", &s)?;
    is_kept_by(world, &k)?;
    require(!world.log().contains("crashed; connections wait"), || "the keeper was in the way".to_owned())?;
    Ok(waited)
}

// M173
fn predecessor_first(world: &World) -> Check<String> {
    let (p, k) = kept(world)?;
    let mut client = world.connect()?;
    client.ask()?;
    let mut s = world.serving("S", "")?;
    stands_by(world, "K", &s)?;
    let dead = s.kill()?;
    let waited = world.answers_since(dead, p.pid())?;
    is_kept_by(world, &k)?;
    require(client.ask()?.pid == p.pid(), || "the connection is P's".to_owned())?;
    require(!world.log().contains("crashed; connections wait"), || "the keeper was in the way".to_owned())?;
    Ok(waited)
}

fn both_killed(world: &World) -> Check<String> {
    let (mut p, k) = kept(world)?;
    let mut client = world.connect()?;
    client.ask()?;
    let mut s = world.serving("S", "")?;
    stands_by(world, "K", &s)?;
    p.signal(Signal::SIGSTOP);
    s.kill()?;
    p.kill()?;
    nobody_serves(world, &k, "has crashed")?;
    let t = world.serving("T", "")?;
    require(world.ask()?.pid == t.pid(), || "T serves".to_owned())?;
    Ok(String::new())
}

fn killed_in_probation(world: &World) -> Check<String> {
    let (mut p, k) = kept(world)?;
    world.ask()?;
    p.signal(Signal::SIGTERM);
    p.exits_with(0)?;
    for (tag, count) in [("S", 1), ("T", 1)] {
        nobody_serves(world, &k, "")?;
        let mut owner = world.serving(tag, "")?;
        let answer = world.ask()?;
        require((answer.pid, answer.count) == (owner.pid(), count), || format!("{answer:?}"))?;
        owner.kill()?;
    }
    nobody_serves(world, &k, "has crashed")?;
    Ok(String::new())
}

fn keeper_killed(world: &World) -> Check<String> {
    let (mut p, mut k) = kept(world)?;
    k.kill()?;
    world.owned_by(&p, 1)?;
    until("nobody keeps it", || world.status().ok()?["keeper"].is_null().then_some(()))?;
    let l = keeper(world, "L", "")?;
    stands_by(world, "L", &p)?;
    is_kept_by(world, &l)?;
    p.kill()?;
    nobody_serves(world, &l, "has crashed")?;
    let s = world.serving("S", "")?;
    require(world.ask()?.pid == s.pid(), || "S serves".to_owned())?;
    Ok(String::new())
}

fn keeper_frozen(world: &World) -> Check<String> {
    let (_p, mut k) = kept(world)?;
    k.signal(Signal::SIGSTOP);
    world.ask()?;
    let mut s = world.serving("S", "")?;
    world.owned_by(&s, 2)?;
    // It does not ask S, being stopped; so this is a stop as any other.
    s.signal(Signal::SIGTERM);
    s.exits_with(0)?;
    let _ = k.kill()?;
    // One that is stopped when the service is about to be its own is ended, and the service stops.
    let mut t = world.serving("T", "active=500")?;
    let mut l = keeper(world, "L", "")?;
    stands_by(world, "L", &t)?;
    l.signal(Signal::SIGSTOP);
    t.signal(Signal::SIGTERM);
    t.exits_with(0)?;
    l.ends_by(Signal::SIGKILL)?;
    let u = world.serving("U", "")?;
    world.owned_by(&u, 1)?;
    Ok(String::new())
}

fn keeper_told_to_stop(world: &World) -> Check<String> {
    let (p, mut k) = kept(world)?;
    k.signal(Signal::SIGTERM);
    k.exits_with(0)?;
    world.owned_by(&p, 1)?;
    let s = world.serving("S", "")?;
    world.owned_by(&s, 2)?;
    Ok(String::new())
}

fn keeper_ends_the_service(world: &World) -> Check<String> {
    let (mut p, mut k) = kept(world)?;
    p.kill()?;
    nobody_serves(world, &k, "has crashed")?;
    k.signal(Signal::SIGTERM);
    k.exits_with(0)?;
    world.hears("K", "told to stop while nobody serves")?;
    require(!world.control.exists(), || "the path is left behind".to_owned())?;
    let s = world.serving("S", "")?;
    world.owned_by(&s, 1)?;
    Ok(String::new())
}

fn second_keeper(world: &World) -> Check<String> {
    let (mut p, mut k) = kept(world)?;
    let l = keeper(world, "L", "")?;
    world.hears("L", "cannot keep the service now")?;
    is_kept_by(world, &k)?;
    k.kill()?;
    stands_by(world, "L", &p)?;
    p.kill()?;
    nobody_serves(world, &l, "has crashed")?;
    Ok(String::new())
}

fn short_of_files(world: &World) -> Check<String> {
    let p = world.serving("P", "")?;
    // Enough to begin, and not to receive anything.
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ulimit -n 20; exec \"$0\" keep"]).arg(program);
    let mut short = world.run(command, "K", "")?;
    world.hears("K", "cannot keep the service now")?;
    world.owned_by(&p, 1)?;
    short.kill()?;
    let k = keeper(world, "L", "")?;
    stands_by(world, "L", &p)?;
    is_kept_by(world, &k)?;
    Ok(String::new())
}

fn without_a_directory(world: &World) -> Check<String> {
    let (mut p, k) = kept(world)?;
    let directory = world.control.parent().ok_or("it is in one")?;
    let elsewhere = directory.with_extension("elsewhere");
    std::fs::rename(directory, &elsewhere).map_err(|error| error.to_string())?;
    p.kill()?;
    let heard = world.hears("K", "cannot keep the service now");
    // Whatever was heard: it is removed at the end by its name.
    std::fs::rename(&elsewhere, directory).map_err(|error| error.to_string())?;
    heard?;
    nobody_serves(world, &k, "has crashed")?;
    let s = world.serving("S", "")?;
    require(world.ask()?.pid == s.pid(), || "S serves".to_owned())?;
    Ok(String::new())
}

fn poison(world: &World) -> Check<String> {
    let (mut p, k) = kept(world)?;
    world.ask()?;
    p.signal(Signal::SIGTERM);
    p.exits_with(0)?;
    nobody_serves(world, &k, "has stopped")?;
    // One that gives up for a reason of its own says nothing of the state.
    for (tag, how, code) in [("A", "init=fail", 1), ("B", "init=exit0", 0), ("C", "init=kill", 9)] {
        let mut failing = world.start(tag, how)?;
        if code == 9 {
            failing.ends_by(Signal::SIGKILL)?
        } else {
            failing.exits_with(code)?
        };
        world.hears("K", &format!("process {} has not taken over", failing.pid()))?;
    }
    world.hears("K", "2 processes in a row have died of the state")?;
    let s = world.serving("S", "")?;
    let answer = world.ask()?;
    require((answer.pid, answer.count) == (s.pid(), 0), || format!("{answer:?}"))?;
    Ok(String::new())
}

fn listens_first(world: &World) -> Check<String> {
    let k = keeper(world, "K", "binds=tcp")?;
    world.hears("K", "no process has served yet")?;
    nobody_serves(world, &k, "no process has served yet")?;
    // Connected, and waiting.
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = Client::open(world.addr).map_err(|error| error.to_string())?;
        client.say().map_err(|error| error.to_string())?;
        clients.push(client);
    }
    let waiting = world.status()?["kept"]["waiting"].clone();
    require(waiting == 3, || format!("{waiting} wait"))?;
    let mut p = world.serving("P", "")?;
    for mut client in clients {
        require(client.hear().is_ok_and(|answer| answer.pid == p.pid()), || "whoever waited is answered".to_owned())?;
    }
    stands_by(world, "K", &p)?;
    p.kill()?;
    nobody_serves(world, &k, "has crashed")?;
    Ok(String::new())
}

fn restless_keeper(world: &World) -> Check<String> {
    let mut p = world.serving("P", "")?;
    let load = Load::start(world, CLIENTS, 3);
    for time in 0..TIMES {
        let mut k = keeper(world, &format!("K{time}"), "")?;
        // At whatever point it is.
        load.goes_on(time as u64)?;
        k.kill()?;
    }
    let k = keeper(world, "K", "")?;
    stands_by(world, "K", &p)?;
    p.signal(Signal::SIGTERM);
    p.exits_with(0)?;
    nobody_serves(world, &k, "has stopped")?;
    let s = world.serving("S", "")?;
    load.goes_on(8)?;
    let samples = load.stop();
    load::none_refused(&samples)?;
    load::none_lost(&samples)?;
    counted(world, &samples, s.pid())
}
