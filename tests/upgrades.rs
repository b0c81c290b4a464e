//! The facade as operators see it: a service in a process of its own, which starts its successors itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;

use common::child::{self, command_of};
use common::world::{World, install, kill, open_files, outcome, play, role_of, wait_for};
use common::{Form, forms, pairings};
use fd_handoff::client::{Attempt, News, Outcome, Phase, Step};
use fd_handoff::{Error, ErrorCode};
use nix::sys::signal::Signal;

pairings! {
    an_upgrade_by_each_trigger
    a_successor_that_dies_while_its_predecessor_drains
    two_generations_drain_and_the_sum_is_exact
}

forms! {
    a_stop_by_each_trigger
    one_upgrade_at_a_time
    a_stop_while_the_own_new_process_initialises
    a_stop_during_a_handoff_that_fails
    a_stop_ends_the_new_process_that_has_not_asked_yet
    a_binary_that_exits_at_once
    a_binary_that_hangs_before_receive
    a_binary_that_hangs_after_receive
    a_binary_that_panics
    a_binary_that_is_not_executable
    a_binary_that_does_not_exist
    a_binary_that_speaks_another_version
    a_command_that_panics
    a_new_process_that_was_turned_away_and_stays_is_ended
    a_drain_waits_for_connections_and_says_how_many
    a_drain_ends_at_its_deadline
    a_binary_that_was_replaced_is_the_new_one
    a_binary_behind_a_link_that_moves_is_the_new_one
    a_binary_in_a_working_directory_behind_a_link_that_moves_is_the_new_one
}

fn assert_completed(attempt: &Attempt) {
    assert_eq!((attempt.outcome, attempt.reason.as_deref()), (Outcome::Completed, None));
}

fn an_upgrade_by_each_trigger(old: Form, new: Form) {
    let mut world = World::start(old);
    let first = world.pid();
    assert_eq!(world.pidfile(), Some(first));
    world.next(&role_of(new));

    assert_completed(&world.upgrade(None));
    world.hears(&["serving 2", "exits 1"]);
    world.serves(2);
    assert_eq!(world.pidfile(), Some(world.pid()));

    world.next(&role_of(old));
    world.signal(Signal::SIGHUP);
    world.hears(&["serving 3", "exits 2"]);
    world.serves(3);

    // A call, in the generation that a line to the service reaches.
    world.next(&role_of(new));
    let (mut stream, ..) = world.connect();
    stream.write_all(b"u").unwrap();
    drop(stream);
    world.hears(&["completed", "serving 4", "exits 3"]);
    world.serves(4);
    assert_eq!(world.pidfile(), Some(world.pid()));
    let history = world.status().history;
    assert_eq!(history.len(), 3);
    history.iter().for_each(assert_completed);
}

fn a_stop_by_each_trigger(form: Form) {
    let triggers: [fn(&World); 3] = [
        |world| world.signal(Signal::SIGTERM),
        |world| drop(world.client().stop().unwrap().last()),
        |world| world.connect().0.write_all(b"s").unwrap(),
    ];
    for trigger in triggers {
        let mut world = World::start(form);
        trigger(&world);
        world.hears(&["exits 1"]);
        assert!(world.child.wait().1.success());
        assert!(!world.place.path.exists());
        assert_eq!(world.pidfile(), None);
    }
}

fn busy(world: &World) -> String {
    match world.client().upgrade(None).unwrap().next().unwrap() {
        Err(Error::Refused { code: ErrorCode::Busy, message }) => message,
        other => panic!("{other:?}"),
    }
}

/// Whoever asks while one is under way is told so, and a signal is as good as no signal.
fn one_upgrade_at_a_time(form: Form) {
    let world = World::start(form);
    world.next("hangs before receive");
    let mut steps = world.client().upgrade(Some(common::PATIENCE)).unwrap();
    let pid = spawned(&mut steps);
    assert!(busy(&world).contains("an upgrade is under way"));
    world.signal(Signal::SIGHUP);
    world.connect().0.write_all(b"u").unwrap();
    let mut world = world;
    world.hears(&["busy"]);
    kill(pid, Signal::SIGKILL);
    let attempt = outcome(steps);
    assert_eq!((attempt.outcome, attempt.successor_pid), (Outcome::Failed, pid));

    world.next("hangs after receive");
    let steps = world.client().upgrade(Some(common::PATIENCE)).unwrap();
    wait_for("it initialises", || world.status().phase == Phase::Initialising);
    let pid = world.status().successor.unwrap().pid;
    assert!(busy(&world).contains(&format!("a handoff to process {pid} is under way")));
    kill(pid, Signal::SIGKILL);
    assert_eq!(outcome(steps).outcome, Outcome::Failed);
    assert_eq!(world.status().history.len(), 2);

    world.next(&role_of(form));
    assert_completed(&world.upgrade(None));
    world.hears(&["serving 2", "exits 1"]);
}

/// The process that an upgrade has started.
fn spawned(steps: &mut impl Iterator<Item = fd_handoff::Result<Step>>) -> u32 {
    loop {
        match steps.next().unwrap().unwrap() {
            Step::Event(event) if event.event == News::Spawned => return event.pid.unwrap(),
            Step::Event(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// The new process is this one's own, and ends with the upgrade.
// M129
fn a_stop_while_the_own_new_process_initialises(form: Form) {
    let mut world = World::start(form);
    world.next(&format!("waits to {}", role_of(form)));
    let steps = world.client().upgrade(None).unwrap();
    wait_for("it initialises", || world.status().phase == Phase::Initialising);
    let pid = world.status().successor.unwrap().pid;
    world.client().stop().unwrap();
    let attempt = outcome(steps);
    assert_eq!((attempt.outcome, attempt.reason.as_deref()), (Outcome::Failed, Some("the service was told to stop")));
    world.hears(&["exits 1"]);
    wait_for("it is gone", || !is_alive(pid));
    assert!(!world.place.path.exists());
}

fn a_stop_during_a_handoff_that_fails(form: Form) {
    let mut world = World::start(form);
    world.next("hangs after receive");
    let steps = world.client().upgrade(None).unwrap();
    wait_for("it initialises", || world.status().phase == Phase::Initialising);
    world.client().stop().unwrap();
    assert_eq!(outcome(steps).outcome, Outcome::Failed);
    world.hears(&["exits 1"]);
    assert!(!world.place.path.exists());
}

/// It would find nobody, and begin a cold start of a service that was to stop.
fn a_stop_ends_the_new_process_that_has_not_asked_yet(form: Form) {
    let mut world = World::start(form);
    world.next("hangs before receive");
    let mut steps = world.client().upgrade(None).unwrap();
    let pid = spawned(&mut steps);
    world.client().stop().unwrap();
    let attempt = outcome(steps);
    assert_eq!((attempt.outcome, attempt.reason.as_deref()), (Outcome::Failed, Some("the service was told to stop")));
    world.hears(&["exits 1"]);
    wait_for("it is gone", || !is_alive(pid));
}

/// Not gone and not a zombie, which is its new parent's to reap.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim_start().starts_with('Z'))
}

/// The old one serves on and says why; nothing is left of the attempt; and the next upgrade goes well.
fn broken(form: Form, next: &str, timeout: Option<u64>, why: &str) {
    let mut world = World::start(form);
    let descriptors = open_files(world.child.pid());
    world.next(next);
    let attempt = world.upgrade(timeout.map(Duration::from_millis));
    let reason = attempt.reason.clone().unwrap();
    assert_eq!(attempt.outcome, Outcome::Failed);
    assert!(reason.contains(why) && !reason.contains('\n'), "{reason:?}");
    world.serves(1);
    assert_eq!(world.status().history, [attempt]);
    assert_eq!(world.pidfile(), Some(world.child.pid()));
    world.is_clean(descriptors);
    world.next(&role_of(form));
    assert_completed(&world.upgrade(None));
    world.hears(&["serving 2", "exits 1"]);
    world.serves(2);
}

fn a_binary_that_exits_at_once(form: Form) {
    broken(form, "exits at once", None, "ended (exit status: 3) before it asked for the service");
}

fn a_binary_that_hangs_before_receive(form: Form) {
    broken(form, "hangs before receive", Some(100), "did not ask for the service in time");
}

/// Whatever progress it makes. A machine that is busy may not let it come that far.
fn a_binary_that_hangs_after_receive(form: Form) {
    broken(form, "hangs after receive", Some(2000), "time");
}

fn a_binary_that_panics(form: Form) {
    broken(form, "panics", None, "the successor's application panicked");
}

fn a_binary_that_is_not_executable(form: Form) {
    broken(form, "is not executable", None, "ermission denied");
}

fn a_binary_that_does_not_exist(form: Form) {
    broken(form, "does not exist", None, "no such program: No such file");
}

fn a_binary_that_speaks_another_version(form: Form) {
    broken(form, "speaks another version", None, "the successor 7 to 9");
}

fn a_command_that_panics(form: Form) {
    broken(form, "panics before it is started", None, "no command today");
}

fn a_new_process_that_was_turned_away_and_stays_is_ended(form: Form) {
    let mut world = World::start(form);
    let descriptors = open_files(world.child.pid());
    world.next("speaks another version and stays");
    let attempt = world.upgrade(Some(common::PATIENCE * 10));
    wait_for("it is gone", || !is_alive(attempt.successor_pid));
    world.next("exits at once");
    assert_eq!(world.upgrade(None).outcome, Outcome::Failed);
    world.is_clean(descriptors);
    world.next(&role_of(form));
    assert_completed(&world.upgrade(None));
    world.hears(&["serving 2", "exits 1"]);
}

fn a_successor_that_dies_while_its_predecessor_drains(old: Form, new: Form) {
    let mut world = World::start(old);
    let (kept, ..) = world.connect();
    world.next(&role_of(new));
    assert_completed(&world.upgrade(None));
    world.hears(&["serving 2"]);
    world.serves(2);
    kill(world.pid(), Signal::SIGKILL);
    world.hears(&["resumes 1"]);
    world.serves(1);
    assert_eq!(world.pidfile(), Some(world.child.pid()));
    let last = world.status().history.pop().unwrap();
    assert_eq!(last.outcome, Outcome::TakenBack);
    wait_for("its child has been reaped", || common::world::children(world.child.pid()).is_empty());

    assert_completed(&world.upgrade(None));
    world.hears(&["serving 2"]);
    world.serves(2);
    assert_eq!(world.pidfile(), Some(world.pid()));
    drop(kept);
    world.hears(&["exits 1"]);
}

fn send(stream: &mut std::net::TcpStream, count: usize) {
    let bytes = vec![b'.'; count];
    stream.write_all(&bytes).unwrap();
    stream.read_exact(&mut vec![0; count]).unwrap();
}

/// What each connection has added before and after each handoff is counted once.
fn two_generations_drain_and_the_sum_is_exact(old: Form, new: Form) {
    let mut world = World::start(old);
    let (mut first, ..) = world.connect();
    send(&mut first, 1);
    world.next(&role_of(new));
    assert_completed(&world.upgrade(None));
    world.hears(&["serving 2"]);
    let (mut second, generation, total) = world.connect();
    assert_eq!((generation, total), (2, 1));
    send(&mut first, 10);
    send(&mut second, 2);
    world.next(&role_of(old));
    assert_completed(&world.upgrade(None));
    world.hears(&["serving 3"]);
    send(&mut first, 20);
    send(&mut second, 5);
    assert_eq!(world.status().generation, 3);
    drop(first);
    world.hears(&["exits 1"]);
    drop(second);
    world.hears(&["exits 2"]);
    wait_for("the sum is exact", || world.connect().2 == 38);
    world.serves(3);
}

fn a_drain_waits_for_connections_and_says_how_many(form: Form) {
    let mut world = World::start(form);
    let (kept, also_kept) = (world.connect().0, world.connect().0);
    let (_, steps) = world.client().watch().unwrap();
    assert_completed(&world.upgrade(None));
    world.hears(&["serving 2"]);
    let mut left = steps.filter_map(|step| match step.unwrap() {
        Step::Event(event) if event.event == News::Draining => event.connections,
        _ => None,
    });
    assert_eq!(left.next(), Some(2));
    drop(kept);
    drop(also_kept);
    assert_eq!(left.last(), Some(0));
    world.hears(&["exits 1"]);
}

fn a_drain_ends_at_its_deadline(form: Form) {
    let mut world = World::start_with(form, &[("drain", "100")]);
    let (mut kept, ..) = world.connect();
    assert_completed(&world.upgrade(None));
    world.hears(&["serving 2", "exits 1"]);
    assert_eq!(kept.read(&mut [0]).unwrap_or(0), 0);
    world.serves(2);
}

/// Its executable is this file.
fn assert_runs(world: &World, program: &Path) {
    let (running, there) =
        (fs::metadata(format!("/proc/{}/exe", world.pid())).unwrap(), fs::metadata(program).unwrap());
    assert_eq!((running.dev(), running.ino()), (there.dev(), there.ino()));
}

fn upgrade_by_itself(world: &mut World) {
    let generation = world.status().generation;
    assert_completed(&world.upgrade(None));
    world.hears(&[&format!("serving {}", generation + 1), &format!("exits {generation}")]);
}

const BY_ITSELF: [(&str, &str); 1] = [("by itself", "")];

fn a_binary_that_was_replaced_is_the_new_one(form: Form) {
    let mut world = World::run(form, &BY_ITSELF, |place| {
        let program = install(&place.directory.path().join("program"));
        command_of(&program, &role_of(form), &place.path)
    });
    let at = |name: &str| world.place.directory.path().join(name);
    let (program, new, old) = (at("program"), at("new"), at("old"));
    assert_runs(&world, &program);
    // Over the old one.
    fs::rename(install(&new), &program).unwrap();
    upgrade_by_itself(&mut world);
    assert_runs(&world, &program);
    // The old one out of the way first.
    fs::rename(&program, old).unwrap();
    install(&program);
    upgrade_by_itself(&mut world);
    assert_runs(&world, &program);
}

/// Two releases, and a link to the first.
fn releases(directory: &Path) {
    for release in ["1", "2"] {
        fs::create_dir(directory.join(release)).unwrap();
        install(&directory.join(release).join("program"));
    }
    symlink("1", directory.join("current")).unwrap();
}

/// As deployment tools do it.
fn second_release(world: &World) -> std::path::PathBuf {
    let at = |name: &str| world.place.directory.path().join(name);
    symlink("2", at("next current")).unwrap();
    fs::rename(at("next current"), at("current")).unwrap();
    at("2/program")
}

fn a_binary_behind_a_link_that_moves_is_the_new_one(form: Form) {
    let mut world = World::run(form, &BY_ITSELF, |place| {
        releases(place.directory.path());
        command_of(&place.directory.path().join("current/program"), &role_of(form), &place.path)
    });
    let program = second_release(&world);
    upgrade_by_itself(&mut world);
    assert_runs(&world, &program);
}

fn a_binary_in_a_working_directory_behind_a_link_that_moves_is_the_new_one(form: Form) {
    let mut world = World::run(form, &BY_ITSELF, |place| {
        releases(place.directory.path());
        let current = place.directory.path().join("current");
        let mut command = command_of(&current.join("program"), &role_of(form), &place.path);
        command.arg0("./program").current_dir(&current).env("PWD", current);
        command
    });
    let program = second_release(&world);
    upgrade_by_itself(&mut world);
    assert_runs(&world, &program);
}

#[cfg(feature = "systemd")]
forms! {
    the_service_manager_hears_who_serves
    the_watchdog_hears_of_whoever_serves
}

/// What systemd listens on.
#[cfg(feature = "systemd")]
struct Manager {
    _directory: tempfile::TempDir,
    path: std::path::PathBuf,
    socket: std::os::unix::net::UnixDatagram,
}

#[cfg(feature = "systemd")]
impl Manager {
    fn new() -> Manager {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify.sock");
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(common::PATIENCE)).unwrap();
        Manager { _directory: directory, path, socket }
    }

    fn hears(&self) -> String {
        let mut bytes = [0; 256];
        let count = self.socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    }

    /// A service that tells it.
    fn runs(&self, form: Form, env: &[(&str, &str)]) -> World {
        World::run(form, &[], |place| {
            let mut command = child::command(&role_of(form), &place.path);
            command.env("NOTIFY_SOCKET", &self.path).envs(env.iter().copied());
            command
        })
    }
}

#[cfg(feature = "systemd")]
fn the_watchdog_hears_of_whoever_serves(form: Form) {
    const ALIVE: &str = "WATCHDOG=1\n";
    let manager = Manager::new();
    let mut world = manager.runs(form, &[("WATCHDOG_USEC", "400000")]);
    assert!(manager.hears().starts_with("MAINPID="));
    assert_eq!([manager.hears(), manager.hears()], [ALIVE, ALIVE]);

    world.next(&role_of(form));
    assert_completed(&world.upgrade(None));
    world.hears(&["serving 2", "exits 1"]);
    let gives_it_away = format!("MAINPID={}\nREADY=1\nSTATUS=the successor serves\n{ALIVE}", world.pid());
    while manager.hears() != gives_it_away {}
    // The old process has said all that it had to say: a sign that is given now is the new one's.
    manager.socket.set_nonblocking(true).unwrap();
    while manager.socket.recv(&mut [0; 256]).is_ok() {}
    manager.socket.set_nonblocking(false).unwrap();
    assert_eq!([manager.hears(), manager.hears()], [ALIVE, ALIVE]);
    world.client().stop().unwrap();
    world.hears(&["exits 2"]);
}

#[cfg(feature = "systemd")]
fn the_service_manager_hears_who_serves(form: Form) {
    let manager = Manager::new();
    let hears = || manager.hears();
    let mut world = manager.runs(form, &[]);
    let serves = |pid: u32| format!("MAINPID={pid}\nREADY=1\nSTATUS=");
    assert_eq!(hears(), format!("{}generation 1 serves\n", serves(world.pid())));

    // One that fails: the reload that has begun ends.
    world.next("a role that there is not");
    assert_eq!(world.upgrade(None).outcome, Outcome::Failed);
    assert!(hears().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert!(hears().starts_with("READY=1\nSTATUS=the upgrade failed: "));

    // Whoever is the main process says that another one is, and what that one says is only then heard by all managers.
    world.next(&role_of(form));
    assert_completed(&world.upgrade(None));
    world.hears(&["serving 2", "exits 1"]);
    let mut heard: Vec<String> = (0..4).map(|_| hears()).collect();
    let status = ["generation 2 serves", "the successor serves"];
    let status = status.map(|status| format!("{}{status}\n", serves(world.pid())));
    // The two processes say it at the same time.
    heard[2..].sort();
    assert!(heard[..2].iter().all(|words| words.starts_with("RELOADING=1\nMONOTONIC_USEC=")), "{heard:?}");
    assert_eq!(heard[2..], status);

    world.client().stop().unwrap();
    world.hears(&["exits 2"]);
    let stopping = hears();
    assert!(stopping.starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC="), "{stopping}");
    assert!(stopping.ends_with("\nSTATUS=stopping: connections are ending\n"), "{stopping}");
}

#[test]
#[ignore = "run by other tests as a process of its own"]
fn child_main() {
    if let Some((role, parent)) = child::role() {
        play(&role, &parent.path);
    }
}
