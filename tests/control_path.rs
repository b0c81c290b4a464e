//! The control path of a running service is removed, renamed, taken by a stranger or barred: it is put back where that is
//! possible and safe, and said where it is not; and no upgrade starts a process that does not find the running one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::scope;
use std::time::Duration;

use common::child::{self, Child, NOBODY, Parent};
use common::raw::Raw;
use common::service::Plan;
use common::world::{World, kill, play, role_of, wait_for};
use common::{Form, Place, config, forms, is_root, pairings, place};
use fd_handoff::Finish;
use fd_handoff::client::{Client, Event, News, Outcome, Phase, Step, Steps};
use nix::sys::inotify::{InitFlags, Inotify};
use nix::sys::signal::Signal;

pairings! {
    a_path_that_was_removed_is_put_back
    a_directory_that_was_renamed_gets_a_socket_of_its_name
    a_path_that_is_removed_during_a_handoff
    whoever_takes_back_puts_its_own_socket_there
}

forms! {
    somebody_elses_socket_is_left_in_peace
    what_is_no_socket_is_left_in_peace
    what_a_stranger_leaves_behind_is_replaced
    a_path_that_is_removed_during_a_cold_start
    a_directory_that_comes_and_goes
    a_directory_behind_a_link_that_moves
    a_handoff_that_fails_after_its_path_was_removed
    those_who_wait_to_be_accepted_are_heard
    without_notices_an_upgrade_looks
    a_service_that_cannot_look_there_any_more
    a_directory_that_is_read_only
}

/// Reads on to this event.
fn event(steps: &mut Steps, wanted: News) -> Event {
    loop {
        match steps.next_within(common::PATIENCE).unwrap().unwrap() {
            Step::Event(event) if event.event == wanted => return event,
            _ => {}
        }
    }
}

fn watch(world: &World) -> Steps {
    world.client().watch().unwrap().1
}

/// A new process takes the service over, and finds it by its path.
fn upgrade(world: &mut World, generation: u64) {
    world.signal(Signal::SIGHUP);
    world.hears(&[&format!("serving {generation}"), &format!("exits {}", generation - 1)]);
    world.serves(generation);
}

fn put_back(world: &World) {
    wait_for("the path leads to the service", || Client::connect(&world.place.path).is_ok());
}

/// Puts a socket of this process in the place of what is there, at one stroke.
fn bind_over(path: &Path) -> UnixListener {
    let beside = path.with_file_name("stranger");
    let listener = UnixListener::bind(&beside).unwrap();
    fs::rename(beside, path).unwrap();
    listener
}

/// Renames a directory, and makes another one of its name.
fn replace(directory: &Path) -> PathBuf {
    let renamed = directory.with_extension("renamed");
    fs::rename(directory, &renamed).unwrap();
    fs::create_dir(directory).unwrap();
    fs::copy(renamed.join("next"), directory.join("next")).unwrap();
    renamed
}

// M132
fn a_path_that_was_removed_is_put_back(old: Form, new: Form) {
    let mut world = World::start(old);
    let mut steps = watch(&world);
    world.next(&role_of(new));
    let path = world.place.path.clone();
    fs::remove_file(&path).unwrap();
    event(&mut steps, News::PathRestored);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(world.status().path_lost, None);
    upgrade(&mut world, 2);
    // Twice in a row, in a generation that has inherited it.
    for _ in 0..2 {
        let before = fs::metadata(&path).unwrap().ino();
        fs::remove_file(&path).unwrap();
        wait_for("another socket is there", || fs::metadata(&path).is_ok_and(|found| found.ino() != before));
        put_back(&world);
    }
    world.next(&role_of(old));
    upgrade(&mut world, 3);
    world.client().stop().unwrap();
    world.hears(&["exits 3"]);
    assert!(!path.exists(), "the new one is the service's as well");
}

fn a_directory_that_was_renamed_gets_a_socket_of_its_name(old: Form, new: Form) {
    let mut world = World::start(old);
    let mut steps = watch(&world);
    let renamed = replace(world.place.directory.path());
    world.next(&role_of(new));
    event(&mut steps, News::PathRestored);
    assert!(!renamed.join("control.sock").exists(), "nobody would accept there");
    upgrade(&mut world, 2);
    fs::remove_dir_all(renamed).unwrap();
    let renamed = replace(world.place.directory.path());
    world.next(&role_of(old));
    put_back(&world);
    fs::remove_dir_all(renamed).unwrap();
    upgrade(&mut world, 3);
}

/// Nobody looks while a handoff is under way. Whoever has the service after it does.
// M132
fn a_path_that_is_removed_during_a_handoff(old: Form, new: Form) {
    let mut world = World::start(old);
    world.next(&format!("waits to {}", role_of(new)));
    scope(|scope| {
        let client = world.client();
        let upgrading = scope.spawn(|| common::world::outcome(client.upgrade(None).unwrap()));
        wait_for("the new process initialises", || world.status().phase == Phase::Initialising);
        let mut looking = world.client();
        fs::remove_file(&world.place.path).unwrap();
        assert_eq!(looking.status().unwrap().phase, Phase::Initialising);
        assert!(!world.place.path.exists());
        world.set("go", "");
        assert_eq!(upgrading.join().unwrap().outcome, Outcome::Completed);
    });
    world.hears(&["serving 2", "exits 1"]);
    put_back(&world);
    world.next(&role_of(old));
    upgrade(&mut world, 3);
}

fn a_handoff_that_fails_after_its_path_was_removed(form: Form) {
    let mut world = World::start(form);
    world.next(&format!("waits to {}", role_of(form)));
    let mut steps = world.client().upgrade(None).unwrap();
    event(&mut steps, News::Transferred);
    fs::remove_file(&world.place.path).unwrap();
    let successor = event_pid(&world);
    kill(successor, Signal::SIGKILL);
    assert_eq!(common::world::outcome(steps).outcome, Outcome::Failed);
    put_back(&world);
    world.next(&role_of(form));
    upgrade(&mut world, 2);
}

/// The process that the first one has started.
fn event_pid(world: &World) -> u32 {
    common::world::children(world.child.pid())[0]
}

/// The successor has put a socket of its own there, which dies with it.
fn whoever_takes_back_puts_its_own_socket_there(old: Form, new: Form) {
    let mut world = World::start(old);
    let (connection, ..) = world.connect();
    world.next(&role_of(new));
    world.signal(Signal::SIGHUP);
    world.hears(&["serving 2"]);
    let before = fs::metadata(&world.place.path).unwrap().ino();
    fs::remove_file(&world.place.path).unwrap();
    wait_for("another socket is there", || fs::metadata(&world.place.path).is_ok_and(|found| found.ino() != before));
    put_back(&world);
    kill(world.pid(), Signal::SIGKILL);
    world.hears(&["resumes 1"]);
    put_back(&world);
    world.serves(1);
    drop(connection);
    upgrade(&mut world, 2);
}

// M132, M133
fn somebody_elses_socket_is_left_in_peace(form: Form) {
    let mut world = World::start(form);
    let (mut steps, mut looking) = (watch(&world), world.client());
    let stranger = bind_over(&world.place.path);
    let message = event(&mut steps, News::PathLost).message;
    assert!(message.contains("another process listens there"), "{message}");
    let status = looking.status().unwrap();
    assert_eq!(status.path_lost.as_deref(), Some("another process listens there"));
    kill(status.pid, Signal::SIGHUP);
    event(&mut steps, News::Failed);
    let status = looking.status().unwrap();
    let reason = status.history[0].reason.clone().unwrap();
    assert!(reason.contains("another process listens there"), "{reason}");
    assert_eq!((status.history[0].successor_pid, status.phase), (0, Phase::Serving), "no process was started");
    assert_eq!(common::world::outcome(looking.upgrade(None).unwrap()).reason, Some(reason));
    assert_eq!(world.connect().1, 1, "it serves on");
    // Nothing was said to it, and it is still there.
    let (mut visitor, _) = stranger.accept().unwrap();
    assert_eq!(std::io::Read::read(&mut visitor, &mut [0; 8]).unwrap(), 0);
    std::os::unix::net::UnixStream::connect(&world.place.path).unwrap();
    fs::remove_file(&world.place.path).unwrap();
    event(&mut steps, News::PathRestored);
    upgrade(&mut world, 2);
}

// M5
fn what_is_no_socket_is_left_in_peace(form: Form) {
    let mut world = World::start(form);
    let mut steps = watch(&world);
    let file = world.place.path.with_file_name("file");
    fs::write(&file, "precious").unwrap();
    fs::rename(&file, &world.place.path).unwrap();
    let message = event(&mut steps, News::PathLost).message;
    assert!(message.contains("not a socket"), "{message}");
    assert_eq!(fs::read_to_string(&world.place.path).unwrap(), "precious");
    fs::rename(&world.place.path, &file).unwrap();
    event(&mut steps, News::PathRestored);
    upgrade(&mut world, 2);
}

fn what_a_stranger_leaves_behind_is_replaced(form: Form) {
    let mut world = World::start(form);
    let mut steps = watch(&world);
    let beside = world.place.path.with_file_name("stale");
    common::stale_socket(&beside);
    fs::rename(beside, &world.place.path).unwrap();
    event(&mut steps, News::PathLost);
    event(&mut steps, News::PathRestored);
    upgrade(&mut world, 2);
}

fn a_path_that_is_removed_during_a_cold_start(form: Form) {
    let Place { directory: _directory, path } = place();
    let starting = form.start(config(&path)).unwrap();
    fs::remove_file(&path).unwrap();
    let mut handoff = starting.ready().unwrap();
    wait_for("the path leads to the service", || Client::connect(&path).is_ok());
    assert_eq!(Client::connect(&path).unwrap().hello().generation, 1);
    assert_eq!(handoff.finish().unwrap(), Finish::Exit);
    assert!(!path.exists());
}

fn a_directory_that_comes_and_goes(form: Form) {
    let mut world = World::start(form);
    let directory = world.place.directory.path().to_owned();
    for _ in 0..100 {
        // It may be in the middle of putting its socket there.
        wait_for("it can be removed", || fs::remove_dir_all(&directory).is_ok());
        fs::create_dir(&directory).unwrap();
    }
    wait_for("it can be removed", || fs::remove_dir_all(&directory).is_ok());
    // Before its directory is there again, nothing can be.
    wait_for("it is noticed", || !world.place.path.exists());
    fs::create_dir(&directory).unwrap();
    put_back(&world);
    world.next(&role_of(form));
    upgrade(&mut world, 2);
}

fn a_directory_behind_a_link_that_moves(form: Form) {
    let mut world = World::run(form, &[], |place| {
        for name in ["first", "second"] {
            let directory = place.directory.path().join(name);
            fs::create_dir(&directory).unwrap();
            fs::write(directory.join("next"), role_of(form)).unwrap();
        }
        symlink("first", place.directory.path().join("current")).unwrap();
        child::command(&role_of(form), &place.directory.path().join("current/control.sock"))
    });
    let directory = world.place.directory.path().to_owned();
    world.place.path = directory.join("current/control.sock");
    symlink("second", directory.join("next link")).unwrap();
    fs::rename(directory.join("next link"), directory.join("current")).unwrap();
    put_back(&world);
    assert!(directory.join("second/control.sock").exists() && !directory.join("first/control.sock").exists());
    upgrade(&mut world, 2);
}

/// Whoever has connected before the path was lost, and was not accepted yet.
fn those_who_wait_to_be_accepted_are_heard(form: Form) {
    let world = World::start(form);
    let pid = world.pid();
    kill(pid, Signal::SIGSTOP);
    let waiting = std::os::unix::net::UnixStream::connect(&world.place.path).unwrap();
    fs::remove_file(&world.place.path).unwrap();
    kill(pid, Signal::SIGCONT);
    put_back(&world);
    let mut waiting = Raw::new(waiting);
    waiting.expect("hello");
    assert_eq!(waiting.ask("status")["generation"], 1);
}

/// This role, as this user.
fn command_as(user: u32, role: &str, path: &Path) -> Command {
    let mut command = child::command(role, path);
    command.uid(user).gid(user);
    command
}

/// A service of a user that owns nothing but the directory of its socket.
fn start_as(user: u32, form: Form) -> World {
    World::run(form, &[], |place| {
        chown(place.directory.path(), Some(user), Some(user)).unwrap();
        command_as(user, &role_of(form), &place.path)
    })
}

// M133
fn without_notices_an_upgrade_looks(form: Form) {
    if !is_root() {
        return;
    }
    // Nobody else's limit.
    let user = NOBODY - 1 - form as u32;
    let place = place();
    let mut hog = Child::run(command_as(user, "holds every inotify instance", &place.path));
    assert_eq!(hog.hear(), "held");
    let mut world = start_as(user, form);
    fs::remove_file(&world.place.path).unwrap();
    kill(world.child.pid(), Signal::SIGHUP);
    world.hears(&["serving 2", "exits 1"]);
    world.serves(2);
    let (mut steps, mut looking) = (watch(&world), world.client());
    let _stranger = bind_over(&world.place.path);
    kill(looking.status().unwrap().pid, Signal::SIGHUP);
    event(&mut steps, News::Failed);
    assert_eq!(looking.status().unwrap().history.last().unwrap().successor_pid, 0, "no process was started");
}

fn a_directory_that_is_read_only(form: Form) {
    if !is_root() {
        return;
    }
    let mut world = start_as(NOBODY, form);
    let (mut steps, mut looking) = (watch(&world), world.client());
    let directory = world.place.directory.path().to_owned();
    fs::set_permissions(&directory, Permissions::from_mode(0o555)).unwrap();
    fs::remove_file(&world.place.path).unwrap();
    let message = event(&mut steps, News::PathLost).message;
    assert!(message.contains("cannot be put back"), "{message}");
    kill(looking.status().unwrap().pid, Signal::SIGHUP);
    event(&mut steps, News::Failed);
    assert_eq!(looking.status().unwrap().history[0].successor_pid, 0);
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    event(&mut steps, News::PathRestored);
    upgrade(&mut world, 2);
}

/// It has given up the right to, or the directory that the path begins in. Another process may find it all the same.
fn a_service_that_cannot_look_there_any_more(form: Form) {
    if !is_root() {
        return;
    }
    for role in ["gives up its rights", "changes its root"] {
        let Place { directory, path } = place();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).unwrap();
        let mut child = Child::start(&format!("{role} {form:?}"), &path);
        assert_eq!(child.hear(), "serving");
        let asker = Client::connect(&path).unwrap();
        let outcome = common::world::outcome(asker.upgrade(Some(Duration::from_millis(20))).unwrap());
        assert_eq!(outcome.reason.as_deref(), Some("nobody asked for the service in time"), "{role}");
        assert!(path.exists());
    }
}

fn serve_from_elsewhere(form: Form, mut parent: Parent, go_there: impl FnOnce(&Path)) {
    let plan = Plan { elsewhere: true, ..Plan::default() };
    let mut handoff = form.start_with(config(&parent.path), plan).unwrap().ready().unwrap();
    go_there(&parent.path);
    parent.tell("serving");
    let _ = handoff.run();
}

fn give_up_rights(_path: &Path) {
    nix::unistd::setuid(nix::unistd::Uid::from_raw(NOBODY)).unwrap();
}

fn change_root(path: &Path) {
    nix::unistd::chroot(path.parent().unwrap()).unwrap();
    std::env::set_current_dir("/").unwrap();
}

/// Until its parent has gone.
fn hold_every_inotify_instance(mut parent: Parent) {
    let held: Vec<Inotify> = std::iter::from_fn(|| Inotify::init(InitFlags::IN_CLOEXEC).ok()).collect();
    assert!(!held.is_empty());
    parent.tell("held");
    parent.hear();
}

#[test]
#[ignore = "run by other tests as a process of its own"]
fn child_main() {
    let Some((role, parent)) = child::role() else { return };
    match role.as_str() {
        "holds every inotify instance" => hold_every_inotify_instance(parent),
        "gives up its rights Blocking" => serve_from_elsewhere(Form::Blocking, parent, give_up_rights),
        "gives up its rights Tokio" => serve_from_elsewhere(Form::last(), parent, give_up_rights),
        "changes its root Blocking" => serve_from_elsewhere(Form::Blocking, parent, change_root),
        "changes its root Tokio" => serve_from_elsewhere(Form::last(), parent, change_root),
        role => play(role, &parent.path),
    }
}
