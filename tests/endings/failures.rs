//! What the kernel refuses at the wrong moment, and peers that say what nobody understands.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::process::{Resource, Rlimit};
use sendfd::SendWithFd;
use serde_json::json;

use crate::Rows;
use crate::clients::{Check, require};
use crate::process::{Process, World};
use crate::raw::Raw;

/// What P may have open where descriptors in flight are the matter, and how many of them are.
const FILES: u64 = 120;
const IN_FLIGHT: usize = 200;
const AT_ONCE: usize = 100;
/// Where all rows are of one user, what is in flight in one row counts in the others.
static IN_FLIGHT_BY_ONE: Mutex<()> = Mutex::new(());

/// What no version of the protocol says, by the names of the rows.
const LINES: [(&str, &str); 3] = [
    ("an unknown type", r#"{"type":"nonsense"}"#),
    ("bad JSON", "{"),
    ("an error", r#"{"type":"error","code":"malformed","message":"a mistake"}"#),
];

pub(crate) fn rows(rows: &mut Rows) {
    rows.add_limited("no thread can be had (RLIMIT_NPROC)", |world| no_thread(world, "processes 0"));
    rows.add_limited("no thread can be had (RLIMIT_AS)", |world| no_thread(world, "memory"));
    rows.add_limited("no process can be started", no_process);
    rows.add("every descriptor is in use", every_descriptor_in_use);
    rows.add_limited("release cannot be sent", release_cannot_be_sent);
    rows.add_limited("release of an upgrade cannot be sent, and then a stop", release_of_an_upgrade_cannot_be_sent);
    for (name, line) in LINES {
        rows.add(&format!("{name} after release"), move |world| not_understood(world, line));
    }
}

/// It limits itself: somebody else may not.
fn limit(world: &World, tag: &str, limit: &str) -> Check {
    world.tell(tag, &format!("limit {limit}"))?;
    world.hears(tag, "limited")
}

/// In the service: limits this process as it was told to. `memory` is what it has, and half a thread's stack.
pub(crate) fn limit_myself(limit: &str) {
    let Some((resource, to)) = limit.split_once(' ') else {
        return if limit == "everything" { use_every_descriptor() } else { leave_no_room_for_a_thread() };
    };
    let to = to.parse().expect("a number");
    set_limit(if resource == "processes" { Resource::Nproc } else { Resource::Nofile }, to);
}

/// Room is left over where a thread has ended, whose stack is kept for the next one, and where the heap of one that has
/// just begun was mapped twice as large as it stays. So a thread takes it as it comes.
fn leave_no_room_for_a_thread() {
    let (tell, limited) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        set_limit(Resource::As, (memory() + 1024) * 1024);
        loop {
            while std::thread::Builder::new().spawn(std::thread::park).is_ok() {}
            let _ = tell.send(());
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    limited.recv().expect("the thread goes on");
}

fn set_limit(resource: Resource, to: u64) {
    let limit = Rlimit { current: Some(to), maximum: Some(to) };
    rustix::process::setrlimit(resource, limit).expect("less is always allowed");
}

/// For good, as a program does that forgets to close them.
fn use_every_descriptor() {
    set_limit(Resource::Nofile, FILES);
    let any = std::io::stdin();
    let all: Vec<_> = std::iter::from_fn(|| any.as_fd().try_clone_to_owned().ok()).collect();
    std::mem::forget(all);
}

fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("there is /proc");
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.split_whitespace().next()?.parse().ok());
    size.expect("it says how large the process is")
}

fn no_thread(world: &World, limited: &str) -> Check<String> {
    let mut old = world.serving("P", "")?;
    world.ask()?;
    limit(world, "P", limited)?;
    let mut new = world.start("S", "")?;
    new.exits_with(1)?;
    let reason = world.attempt("failed")?;
    require(reason.contains("thread"), || format!("the reason is {reason:?}"))?;
    world.owned_by(&old, 1)?;
    let count = world.ask()?.count;
    require(count == 2, || format!("{count} were counted, and not 2"))?;
    old.signal(Signal::SIGTERM);
    old.exits_with(0)?;
    require(!world.control.exists(), || "the control socket is left over".to_owned())?;
    Ok(format!("{reason:?}"))
}

fn no_process(world: &World) -> Check<String> {
    let mut old = world.serving("P", "")?;
    world.next("S", "")?;
    limit(world, "P", "processes 0")?;
    let outcome = world.upgrade()?;
    let reason = outcome["reason"].as_str().unwrap_or_default().to_owned();
    require(outcome["outcome"] == "failed" && !reason.is_empty(), || format!("the outcome is {outcome}"))?;
    let recorded = world.attempt("failed")?;
    require(recorded == reason, || format!("{recorded:?} is not {reason:?}"))?;
    world.owned_by(&old, 1)?;
    old.signal(Signal::SIGTERM);
    old.exits_with(0)?;
    require(!world.control.exists(), || "the control socket is left over".to_owned())?;
    Ok(format!("{reason:?}"))
}

/// The service at its limit can be asked, upgraded and stopped.
fn every_descriptor_in_use(world: &World) -> Check<String> {
    let mut old = world.serving("P", "probation=0")?;
    let mut kept = world.connect()?;
    kept.ask()?;
    limit(world, "P", "everything")?;
    for _ in 0..3 {
        world.status()?;
    }
    let watching = world.open("watch").map_err(|error| format!("cannot watch: {error}"))?;
    world.next("S", "init=fail")?;
    let outcome = world.upgrade()?;
    require(outcome["outcome"] == "failed", || format!("the outcome is {outcome}"))?;
    drop(watching);
    world.next("T", "")?;
    let outcome = world.upgrade()?;
    require(outcome["outcome"] == "completed", || format!("the outcome is {outcome}"))?;
    let count = world.ask()?.count;
    require(count == 1, || format!("{count} were counted, and not 1"))?;
    kept.ask()?;
    drop(kept);
    old.exits_with(0)?;
    let mut last = world.serving("N", "")?;
    limit(world, "N", "everything")?;
    last.signal(Signal::SIGTERM);
    last.exits_with(0)?;
    require(!world.control.exists(), || "the control socket is left over".to_owned())?;
    Ok(String::new())
}

/// Somebody else of that user has descriptors in flight: see `unix(7)`, ETOOMANYREFS.
fn release_cannot_be_sent(world: &World) -> Check<String> {
    let _alone = IN_FLIGHT_BY_ONE.lock();
    let old = world.serving("P", "")?;
    limit(world, "P", &format!("files {FILES}"))?;
    world.ask()?;
    let mut new = world.start("S", "init=wait")?;
    world.hears("S", "initialises")?;
    let mut hog = start_hog(world)?;
    let began = Instant::now();
    world.tell("S", "go")?;
    world.hears("P", "resumes")?;
    let waited = world.answers_since(began, old.pid())?;
    new.exits_with(1)?;
    let reason = world.attempt("failed")?;
    require(reason.to_lowercase().contains("too many references"), || format!("the reason is {reason:?}"))?;
    world.owned_by(&old, 1)?;
    hog.kill()?;
    let next = world.serving("N", "")?;
    world.owned_by(&next, 2)?;
    let count = world.ask()?.count;
    require(count == 4, || format!("{count} were counted, and not 4"))?;
    Ok(format!("{waited}, {reason:?}"))
}

/// Whoever has asked for the upgrade hears why it failed, and the service can be stopped.
fn release_of_an_upgrade_cannot_be_sent(world: &World) -> Check<String> {
    let _alone = IN_FLIGHT_BY_ONE.lock();
    let mut old = world.serving("P", "")?;
    limit(world, "P", &format!("files {FILES}"))?;
    world.next("S", "init=wait")?;
    let mut upgrade = world.begin_upgrade()?;
    world.hears("S", "initialises")?;
    let _hog = start_hog(world)?;
    world.tell("S", "go")?;
    let outcome = upgrade.outcome()?;
    let reason = outcome["reason"].as_str().unwrap_or_default().to_lowercase();
    let fits = outcome["outcome"] == "failed" && reason.contains("too many references");
    require(fits, || format!("the outcome is {outcome}"))?;
    world.owned_by(&old, 1)?;
    old.signal(Signal::SIGTERM);
    old.exits_with(0)?;
    require(!world.control.exists(), || "the control socket is left over".to_owned())?;
    Ok(String::new())
}

fn start_hog(world: &World) -> Check<Process> {
    let mut hog = Command::new("/proc/self/exe");
    hog.arg("hog");
    let hog = world.run(hog, "H", "")?;
    world.hears("H", "has sent")?;
    Ok(hog)
}

/// In a process of its own: keeps so many descriptors in flight.
pub(crate) fn hog() -> ExitCode {
    let pairs: Vec<_> = (0..IN_FLIGHT / AT_ONCE).map(|_| UnixStream::pair().expect("two sockets")).collect();
    let any = vec![std::io::stdin().as_raw_fd(); AT_ONCE];
    for (from, _) in &pairs {
        from.send_with_fd(b".", &any).expect("descriptors are sent");
    }
    println!("H has sent");
    wait_for_the_test();
    drop(pairs);
    ExitCode::SUCCESS
}

fn wait_for_the_test() {
    let _ = std::io::stdin().read(&mut [0]);
}

fn not_understood(world: &World, line: &str) -> Check<String> {
    let mut old = world.serving("P", "active=5000")?;
    let mut kept = world.connect()?;
    kept.ask()?;
    let mut command = Command::new("/proc/self/exe");
    command.arg("raw successor").arg(&world.control).arg(line);
    let mut new = world.run(command, "R", "")?;
    world.hears("R", "is heard")?;
    require(new.is_alive(), || "S was killed".to_owned())?;
    let answer = kept.ask()?;
    require(answer.pid == old.pid(), || format!("the kept connection: {answer:?}"))?;
    let dead = new.kill()?;
    let waited = world.answers_since(dead, old.pid())?;
    drop(kept);
    old.signal(Signal::SIGTERM);
    old.exits_with(0)?;
    Ok(waited)
}

/// In a process of its own, since it may be killed: a successor that says a line of its own between `release` and `active`.
pub(crate) fn successor_by_hand(mut args: impl Iterator<Item = String>) -> ExitCode {
    let path = PathBuf::from(args.next().expect("a path"));
    let line = args.next().expect("a line");
    let mut raw = Raw::receive(&path);
    let taken = raw.take_offer();
    raw.say(&json!({"type": "ready"}));
    raw.expect("release");
    raw.write(format!("{line}\n").as_bytes());
    raw.expect("error");
    raw.say(&json!({"type": "active"}));
    // It has one connection left.
    raw.expect("draining");
    println!("R is heard");
    wait_for_the_test();
    drop(taken);
    ExitCode::SUCCESS
}
