//! The control socket's path: who may bind it, what it replaces, who removes it, and whom it names.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::scope;
use std::time::Duration;

use common::child::{self, Child, Parent};
use common::raw::Raw;
use common::{Control, Form, Inheritance, Place, Service, config, forms, is_root, pairings, place, stale_socket};
use fd_handoff::{Error, Offer, PathProblem, Result};

pairings! {
    the_path_survives_handoffs
    two_cold_starts_at_once
    a_long_path
    a_running_service_is_left_alone
}

forms! {
    the_mode
    a_stale_socket_is_replaced
    what_is_not_a_socket_is_left_alone
    a_directory_that_is_not_there
    a_name_too_long
    no_permission
    the_path_goes_with_its_service
    a_path_that_is_not_ours_any_more
    no_cold_start
    a_start_that_takes_too_long
    a_cold_start_that_is_given_up
}

fn problem<T>(result: Result<T>, expected: &Path) -> PathProblem {
    match result.err() {
        Some(Error::Path { path, problem }) => {
            assert_eq!(path, expected);
            problem
        }
        other => panic!("{other:?}"),
    }
}

/// Both calls find the same thing wrong with a path.
fn problems(form: Form, path: &Path) -> [PathProblem; 2] {
    [problem(form.listen(config(path)), path), problem(form.receive(config(path)), path)]
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn the_mode(form: Form) {
    let Place { directory, path } = place();
    let control = form.listen(config(&path)).unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(names(directory.path()), ["control.sock", "control.sock.lock"]);
    assert_eq!(mode(&directory.path().join("control.sock.lock")) & 0o077, 0);
    control.close();
    let _control = form.listen(config(&path).mode(0o660)).unwrap();
    assert_eq!(mode(&path), 0o660);
}

/// The umask is the process's, so this needs one of its own.
#[test]
fn the_mode_under_umask_0_from_the_first_instant() {
    let Place { directory: _directory, path } = place();
    assert_eq!(Child::start("umask", &path).hear(), "fresh 600, stale 600");
}

fn listen_under_umask_0(mut parent: Parent) {
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let over = AtomicBool::new(false);
    let worst = scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut worst = 0;
            while !over.load(Ordering::SeqCst) {
                if let Ok(seen) = fs::symlink_metadata(&parent.path) {
                    worst |= seen.mode() & 0o777;
                }
            }
            worst
        });
        for _ in 0..200 {
            drop(Form::Blocking.listen(config(&parent.path)).unwrap());
        }
        let _control = Form::Blocking.listen(config(&parent.path)).unwrap();
        let last = mode(&parent.path);
        over.store(true, Ordering::SeqCst);
        watcher.join().unwrap() | last
    });
    let stale = parent.path.with_file_name("stale.sock");
    stale_socket(&stale);
    let _control = Form::Blocking.listen(config(&stale)).unwrap();
    parent.tell(format!("fresh {worst:o}, stale {:o}", mode(&stale)));
}

fn a_stale_socket_is_replaced(form: Form) {
    let Place { directory, path } = place();
    stale_socket(&path);
    fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
    let before = fs::metadata(&path).unwrap().ino();
    let control = form.listen(config(&path)).unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_ne!(fs::metadata(&path).unwrap().ino(), before);
    Raw::greeted(&path);
    assert_eq!(names(directory.path()), ["control.sock", "control.sock.lock"], "nothing temporary is left");
    control.close();
    assert_eq!(names(directory.path()), ["control.sock.lock"]);

    stale_socket(&path);
    let inheritance = form.receive(config(&path)).unwrap();
    assert!(inheritance.is_cold_start());
    assert_eq!(inheritance.ready().unwrap().generation(), 1);
}

fn a_running_service_is_left_alone(old: Form, new: Form) {
    let Place { directory, path } = place();
    let service = Service::start(old, config(&path), &path);
    let inode = fs::metadata(&path).unwrap().ino();
    for _ in 0..3 {
        assert!(matches!(problem(new.listen(config(&path)), &path), PathProblem::AlreadyRunning));
    }
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    assert_eq!(names(directory.path()), ["control.sock", "control.sock.lock"]);
    service.assert_unharmed();
}

fn what_is_not_a_socket_is_left_alone(form: Form) {
    let Place { directory, path } = place();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("file"), "precious").unwrap();
    fs::create_dir(at("directory")).unwrap();
    let service = Service::start(form, config(&path), &path);
    std::os::unix::fs::symlink(&path, at("link to a service")).unwrap();
    std::os::unix::fs::symlink(at("nothing"), at("link to nothing")).unwrap();
    for name in ["file", "directory", "link to a service", "link to nothing"] {
        for problem in problems(form, &at(name)) {
            assert!(matches!(problem, PathProblem::NotASocket), "{problem}");
        }
    }
    assert_eq!(fs::read_to_string(at("file")).unwrap(), "precious");
    assert!(at("link to nothing").is_symlink() && !at("nothing").exists());
    service.assert_unharmed();
}

fn a_directory_that_is_not_there(form: Form) {
    let Place { directory, path } = place();
    for problem in problems(form, &directory.path().join("nowhere/control.sock")) {
        assert!(matches!(problem, PathProblem::NoDirectory), "{problem}");
    }
    fs::write(&path, "a file").unwrap();
    for problem in problems(form, &path.join("control.sock")) {
        assert!(matches!(problem, PathProblem::Io { .. }), "{problem}");
    }
    for path in ["/", ".."] {
        for problem in problems(form, Path::new(path)) {
            assert!(matches!(problem, PathProblem::NoName), "{problem}");
        }
    }
}

fn a_name_too_long(form: Form) {
    let Place { directory, .. } = place();
    let service = form.listen(config(&directory.path().join("n".repeat(80)))).unwrap();
    assert_eq!(service.generation(), 1);
    for problem in problems(form, &directory.path().join("n".repeat(81))) {
        assert!(matches!(problem, PathProblem::NameTooLong(81)), "{problem}");
    }
}

fn a_long_path(old: Form, new: Form) {
    let Place { directory, .. } = place();
    let deep = directory.path().join("d".repeat(100)).join("e".repeat(100));
    fs::create_dir_all(&deep).unwrap();
    for path in [deep.join("control.sock"), deep.join("n".repeat(80))] {
        assert!(path.as_os_str().len() > 107);
        let control = old.listen(config(&path)).unwrap();
        assert!(fs::metadata(&path).unwrap().file_type().is_socket());
        assert_eq!(mode(&path), 0o600);
        scope(|scope| {
            let successor = scope.spawn(|| new.receive(config(&path)).unwrap().ready().unwrap());
            control.give(Offer::new(), None).unwrap().farewell(None).unwrap();
            let control = successor.join().unwrap();
            assert_eq!(control.generation(), 2);
            assert!(matches!(problem(old.listen(config(&path)), &path), PathProblem::AlreadyRunning));
            control.close();
        });
        assert!(!path.exists(), "the last generation removes it");
        // A stale one.
        stale_socket_at_a_long_path(&path);
        old.listen(config(&path)).unwrap().close();
    }
    assert_eq!(names(&deep).iter().filter(|name| !name.ends_with(".lock")).count(), 0);
}

fn stale_socket_at_a_long_path(path: &Path) {
    use std::os::fd::AsRawFd;
    let directory = fs::File::open(path.parent().unwrap()).unwrap();
    let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    stale_socket(&short.join(path.file_name().unwrap()));
}

fn no_permission(form: Form) {
    if !is_root() {
        return;
    }
    let Place { directory, path } = place();
    let role = if form == Form::Blocking { "problems" } else { "problems on tokio" };
    let denied = format!("{} {}", PathProblem::Permission, PathProblem::Permission);
    // Not even to be searched.
    assert_eq!(Child::start_as_nobody(role, &path).hear(), denied);
    // Searched, but not written to: nothing can be created.
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(Child::start_as_nobody(role, &path).hear(), denied);
    // A socket that only its owner may connect to.
    let service = Service::start(form, config(&path), &path);
    assert_eq!(Child::start_as_nobody(role, &path).hear(), denied);
    service.assert_unharmed();
}

fn tell_problems(form: Form, mut parent: Parent) {
    let [listen, receive] = problems(form, &parent.path);
    parent.tell(format!("{listen} {receive}"));
}

fn the_path_goes_with_its_service(form: Form) {
    let Place { directory: _directory, path } = place();
    let control = form.listen(config(&path)).unwrap();
    control.close();
    assert!(!path.exists());
    let control = form.receive(config(&path)).unwrap().ready().unwrap();
    assert!(path.exists());
    control.close();
    assert!(!path.exists());
}

/// At one stroke: what is removed is put back.
fn bind_over(path: &Path) -> UnixListener {
    let beside = path.with_file_name("foreign");
    let listener = UnixListener::bind(&beside).unwrap();
    fs::rename(beside, path).unwrap();
    listener
}

fn a_path_that_is_not_ours_any_more(form: Form) {
    let Place { directory: _directory, path } = place();
    let control = form.listen(config(&path)).unwrap();
    let foreign = bind_over(&path);
    control.close();
    assert!(path.exists(), "somebody else's socket is left alone");
    drop(foreign);
    fs::remove_file(&path).unwrap();

    // Nor by a generation that inherited its control socket.
    let control = form.listen(config(&path)).unwrap();
    scope(|scope| {
        let successor = scope.spawn(|| form.receive(config(&path)).unwrap().ready().unwrap());
        control.give(Offer::new(), None).unwrap().farewell(None).unwrap();
        let control = successor.join().unwrap();
        let file = path.with_file_name("file");
        fs::write(&file, "a file").unwrap();
        fs::rename(file, &path).unwrap();
        control.close();
    });
    assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
    fs::remove_file(&path).unwrap();

    // Nor a path that was another's when the generation began.
    let control = form.listen(config(&path)).unwrap();
    let foreign = scope(|scope| {
        let inheritance = scope.spawn(|| form.receive(config(&path)).unwrap());
        let asking = control.accept().unwrap();
        let given = scope.spawn(|| asking.offer(Offer::new()).unwrap().release(None).unwrap().farewell(None).unwrap());
        let inheritance = inheritance.join().unwrap();
        let foreign = bind_over(&path);
        let control = inheritance.ready().unwrap();
        given.join().unwrap();
        control.close();
        foreign
    });
    assert!(path.exists());
    drop(foreign);
}

fn the_path_survives_handoffs(old: Form, new: Form) {
    let Place { directory, path } = place();
    let mut control = old.listen(config(&path)).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    for generation in 2..=5 {
        let form = if generation % 2 == 0 { new } else { old };
        control = scope(|scope| {
            let successor = scope.spawn(|| form.receive(config(&path)).unwrap().ready().unwrap());
            control.give(Offer::new(), None).unwrap().farewell(None).unwrap();
            drop(control);
            assert!(path.exists());
            successor.join().unwrap()
        });
        assert_eq!(control.generation(), generation);
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        assert_eq!(Raw::greeted(&path).ask("status")["generation"], generation);
    }
    control.close();
    assert_eq!(names(directory.path()), ["control.sock.lock"]);
}

/// `SO_PEERCRED` on the connecting side names who serves, also after a handoff.
#[test]
fn the_kernel_names_the_generation_that_serves() {
    let Place { directory: _directory, path } = place();
    let control = Form::Blocking.listen(config(&path)).unwrap();
    assert_eq!(Raw::greeted(&path).server_pid(), std::process::id());
    let mut child = Child::start("serve", &path);
    control.give(Offer::new(), None).unwrap().farewell(None).unwrap();
    assert_eq!(child.hear(), "serving");
    assert_eq!(Raw::greeted(&path).server_pid(), child.pid());
    let control = Form::Blocking.receive(config(&path)).unwrap().ready().unwrap();
    assert_eq!(Raw::greeted(&path).server_pid(), std::process::id());
    assert_eq!(control.generation(), 3);
}

fn serve_once(mut parent: Parent) {
    let control = Form::Blocking.receive(config(&parent.path)).unwrap().ready().unwrap();
    parent.tell("serving");
    control.give(Offer::new(), None).unwrap().farewell(None).unwrap();
}

/// One of them wins, and the other takes the service over from it.
fn two_cold_starts_at_once(old: Form, new: Form) {
    let Place { directory, path } = place();
    for _ in 0..10 {
        let barrier = Barrier::new(2);
        let start = |form: Form| -> Control {
            barrier.wait();
            let inheritance: Inheritance = form.receive(config(&path)).unwrap();
            let cold = inheritance.is_cold_start();
            let control = inheritance.ready().unwrap();
            assert_eq!(control.generation(), if cold { 1 } else { 2 });
            if cold {
                control.give(Offer::new(), None).unwrap().farewell(None).unwrap();
            }
            control
        };
        let (first, second) = scope(|scope| {
            let second = scope.spawn(|| start(new));
            (start(old), second.join().unwrap())
        });
        assert_eq!(first.generation() + second.generation(), 3);
        first.close();
        second.close();
        assert_eq!(names(directory.path()), ["control.sock.lock"]);
    }
}

fn no_cold_start(form: Form) {
    let Place { directory, path } = place();
    let only_after_another = || config(&path).cold_start(false);
    assert!(matches!(problem(form.receive(only_after_another()), &path), PathProblem::NobodyThere));
    assert!(names(directory.path()).is_empty(), "nothing is left behind");
    stale_socket(&path);
    assert!(matches!(problem(form.receive(only_after_another()), &path), PathProblem::NobodyThere));
    // It is about receiving: a program that inherits nothing has nothing but a cold start.
    let control = form.listen(only_after_another()).unwrap();
    scope(|scope| {
        let successor = scope.spawn(|| form.receive(only_after_another()).unwrap().ready().unwrap());
        control.give(Offer::new(), None).unwrap().farewell(None).unwrap();
        assert_eq!(successor.join().unwrap().generation(), 2);
    });
}

/// A cold start keeps the lock until it is ready.
fn a_start_that_takes_too_long(form: Form) {
    let Place { directory: _directory, path } = place();
    let slow = form.receive(config(&path)).unwrap();
    assert!(slow.is_cold_start());
    let patience = Duration::from_millis(50);
    let hasty = || config(&path).timeouts(|waits| waits.lock = patience);
    for problem in [problem(form.receive(hasty()), &path), problem(form.listen(hasty()), &path)] {
        assert!(matches!(problem, PathProblem::Starting(waited) if waited == patience), "{problem}");
    }
    let control = slow.ready().unwrap();
    assert_eq!((control.generation(), Raw::greeted(&path).ask("status")["generation"].as_u64()), (1, Some(1)));
}

fn a_cold_start_that_is_given_up(form: Form) {
    let Place { directory: _directory, path } = place();
    let given_up = form.receive(config(&path)).unwrap();
    assert!(given_up.is_cold_start());
    drop(given_up);
    assert!(!path.exists(), "nobody will ever answer there");
    let control = form.listen(config(&path)).unwrap();
    assert_eq!(control.generation(), 1);
    Raw::greeted(&path);
}

/// A stale socket is replaced where there is no room for another one beside it.
#[test]
#[ignore = "needs root, and a mount namespace"]
fn a_stale_socket_in_a_directory_without_a_free_inode_is_replaced() {
    let Place { directory: _directory, path } = place();
    let mut child = Child::start("no inode", &path);
    assert_eq!(child.hear(), "replaced");
}

fn listen_without_an_inode(mut parent: Parent) {
    use nix::mount::{MsFlags, mount};
    let directory = parent.path.parent().unwrap();
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
    mount(Some("none"), directory, Some("tmpfs"), MsFlags::empty(), Some("nr_inodes=8")).unwrap();
    // What is dropped has crashed: its path stays.
    drop(Form::Blocking.listen(config(&parent.path)).unwrap());
    let mut others = (0..).map(|number| fs::write(directory.join(format!("{number}")), ""));
    assert_eq!(others.find_map(|written| written.err()).unwrap().kind(), std::io::ErrorKind::StorageFull);
    for form in [Form::last(), Form::Blocking] {
        let control = form.listen(config(&parent.path)).unwrap();
        assert_eq!(Raw::greeted(&parent.path).ask("status")["generation"], 1);
        drop(control);
    }
    parent.tell("replaced");
}

#[test]
#[ignore = "run by other tests as a process of its own"]
fn child_main() {
    let Some((role, parent)) = child::role() else { return };
    match role.as_str() {
        "umask" => listen_under_umask_0(parent),
        "problems" => tell_problems(Form::Blocking, parent),
        "problems on tokio" => tell_problems(Form::last(), parent),
        "serve" => serve_once(parent),
        "no inode" => listen_without_an_inode(parent),
        other => panic!("no role {other}"),
    }
}
