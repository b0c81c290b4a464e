//! Sockets that whoever starts the service passes to it (`sd_listen_fds(3)`): by name, by address, in groups, and over upgrades.

#![cfg(feature = "systemd")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use common::child::{self, Child, Parent};
use common::raw::inode;
use common::service::{Handoff, Starting};
use common::{Form, Place, config, forms, place};
use fd_handoff::{Finish, Result};

forms! {
    what_is_passed_is_taken_by_name_and_inherited
    what_is_passed_without_a_name_is_taken_by_its_address
    several_of_one_name_are_accepted_on_one_by_one
    what_is_passed_and_not_what_is_wanted_is_an_error_that_names_both
    what_nobody_knows_is_kept_for_whoever_does
    a_new_process_that_the_service_starts_is_passed_nothing
}

fn role_of(form: Form) -> String {
    format!("{form:?}")
}

/// Starts the service with these sockets as an activator does, which executes it in its own place. `names` as in LISTEN_FDNAMES.
fn activate(form: Form, path: &Path, names: Option<&str>, passed: [OwnedFd; 2]) -> Child {
    let service = child::command(&role_of(form), path);
    let mut command = Command::new("sh");
    let become_it = "exec 3>&1 4>&2 >/dev/null 2>/dev/null; export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$@\"";
    command.args(["-c", become_it, "sh"]).arg(std::env::current_exe().unwrap()).args(service.get_args());
    command.envs(service.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(names) = names {
        command.env("LISTEN_FDNAMES", names);
    }
    let [first, second] = passed;
    command.stdout(Stdio::from(first)).stderr(Stdio::from(second));
    let mut service = Child::run(command);
    assert_eq!(service.hear(), "sockets 2, said true");
    service
}

/// Starts it without any, as an operator does who replaces it.
fn replace(form: Form, path: &Path) -> Child {
    let mut service = Child::start(&role_of(form), path);
    assert_eq!(service.hear(), "sockets 0, said false");
    service
}

fn asks(service: &mut Child, what: &str) -> String {
    service.tell(what);
    service.hear()
}

fn tcp() -> (TcpListener, SocketAddr, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (addr, number) = (listener.local_addr().unwrap(), inode(listener.as_fd()));
    (listener, addr, format!("took {number}"))
}

fn what_is_passed_is_taken_by_name_and_inherited(form: Form) {
    let Place { directory, path } = place();
    let at = directory.path().join("app.sock");
    let (http, addr, is_http) = tcp();
    let unix = UnixListener::bind(&at).unwrap();
    let (tcp, unix_at) = (format!("tcp http {addr}"), format!("unix admin {}", at.display()));
    let mut first = activate(form, &path, Some("http:admin"), [http.into(), unix.into()]);
    assert_eq!(asks(&mut first, &tcp), is_http);
    assert_eq!(asks(&mut first, &unix_at), "took it");
    assert_eq!(asks(&mut first, "ready"), "generation 1");
    TcpStream::connect(addr).unwrap();

    let mut second = replace(form, &path);
    assert_eq!(asks(&mut second, &tcp), is_http);
    assert_eq!(asks(&mut second, &unix_at), "took it");
    assert_eq!(asks(&mut second, "ready"), "generation 2");
    first.wait();
    TcpStream::connect(addr).unwrap();
    UnixStream::connect(&at).unwrap();
    second.tell("stop");
    second.wait();
    assert!(at.exists(), "the path is the activator's");
}

fn what_is_passed_without_a_name_is_taken_by_its_address(form: Form) {
    let Place { directory, path } = place();
    let at = directory.path().join("app.sock");
    let (http, addr, is_http) = tcp();
    let unix = UnixListener::bind(&at).unwrap();
    let mut first = activate(form, &path, None, [http.into(), unix.into()]);
    assert_eq!(asks(&mut first, &format!("tcp http {addr}")), is_http);
    assert_eq!(asks(&mut first, &format!("unix admin {}", at.display())), "took it");
    assert_eq!(asks(&mut first, "ready"), "generation 1");
    let mut second = replace(form, &path);
    assert_eq!(asks(&mut second, &format!("tcp http {addr}")), is_http);
}

fn several_of_one_name_are_accepted_on_one_by_one(form: Form) {
    let Place { directory: _directory, path } = place();
    let ((one, at_one, _), (other, at_other, _)) = (tcp(), tcp());
    let mut first = activate(form, &path, Some("http:http"), [one.into(), other.into()]);
    assert_eq!(asks(&mut first, "all http"), format!("at {at_one} {at_other}"));
    assert_eq!(asks(&mut first, "all none"), "at");
    assert_eq!(asks(&mut first, "ready"), "generation 1");
    let mut second = replace(form, &path);
    assert_eq!(asks(&mut second, "all http"), format!("at {at_one} {at_other}"));
    assert_eq!(asks(&mut second, "ready"), "generation 2");
    // It accepts no more, and has ended.
    first.wait();
    for addr in [at_one, at_other] {
        TcpStream::connect(addr).unwrap();
    }
}

fn what_is_passed_and_not_what_is_wanted_is_an_error_that_names_both(form: Form) {
    let Place { directory, path } = place();
    let at = directory.path().join("app.sock");
    let (http, addr, _) = tcp();
    let unix = UnixListener::bind(&at).unwrap();
    let mut service = activate(form, &path, Some("http:admin"), [http.into(), unix.into()]);
    for (what, wanted, found) in [
        ("tcp http 127.0.0.9:1".to_owned(), "127.0.0.9:1", addr.to_string()),
        (format!("unix admin {}/other", directory.path().display()), "/other", at.display().to_string()),
        (format!("seqpacket admin {}", at.display()), "Unix seqpacket listener", "Unix listener".to_owned()),
        (format!("udp http {addr}"), "UDP socket", "TCP listener".to_owned()),
    ] {
        let error = asks(&mut service, &what);
        assert!(error.starts_with("error ") && error.contains(wanted) && error.contains(&found), "{what}: {error}");
    }
}

fn what_nobody_knows_is_kept_for_whoever_does(form: Form) {
    let Place { directory: _directory, path } = place();
    let ((http, addr, is_http), (metrics, at_metrics, is_metrics)) = (tcp(), tcp());
    let http_at = format!("tcp http {addr}");
    let mut first = activate(form, &path, Some("http:metrics"), [http.into(), metrics.into()]);
    assert_eq!(asks(&mut first, &http_at), is_http);
    assert_eq!(asks(&mut first, "ready"), "generation 1");
    let mut second = replace(form, &path);
    assert_eq!(asks(&mut second, &http_at), is_http);
    assert_eq!(asks(&mut second, "ready"), "generation 2");
    first.wait();
    let mut third = replace(form, &path);
    assert_eq!(asks(&mut third, &http_at), is_http);
    assert_eq!(asks(&mut third, &format!("tcp metrics {at_metrics}")), is_metrics);
}

fn a_new_process_that_the_service_starts_is_passed_nothing(form: Form) {
    let Place { directory: _directory, path } = place();
    let ((http, addr, is_http), (other, ..)) = (tcp(), tcp());
    let mut service = activate(form, &path, Some("http:other"), [http.into(), other.into()]);
    assert_eq!(asks(&mut service, &format!("tcp http {addr}")), is_http);
    assert_eq!(asks(&mut service, "ready"), "generation 1");
    // The new one has the same line.
    assert_eq!(asks(&mut service, "upgrade"), "sockets 0, said false");
    service.tell("stop");
}

#[test]
#[ignore = "run by other tests as a process of its own"]
fn child_main() {
    let Some((role, parent)) = child::role() else { return };
    let form = if role == "Blocking" { Form::Blocking } else { tokio_form() };
    child::tell(format!("sockets {}, said {}", sockets(), std::env::var("LISTEN_FDS").is_ok()));
    play(form, parent);
}

#[cfg(feature = "tokio")]
fn tokio_form() -> Form {
    Form::Tokio
}

#[cfg(not(feature = "tokio"))]
fn tokio_form() -> Form {
    unreachable!("there is one form")
}

/// How many sockets this process has, without the line.
fn sockets() -> usize {
    let links =
        std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    let line = std::fs::read_link("/proc/self/fd/0").unwrap();
    links.filter(|link| *link != line && link.to_string_lossy().starts_with("socket:")).count()
}

/// Does what it is told, and says what came of it.
fn play(form: Form, mut parent: Parent) {
    let mut starting = form.start(config(&parent.path)).unwrap();
    let mut held: Vec<Box<dyn std::any::Any>> = Vec::new();
    loop {
        let what = parent.hear();
        match what.as_str() {
            "ready" => break,
            _ => match take(&mut starting, &what, &mut held) {
                Ok(said) => child::tell(said),
                Err(error) => child::tell(format!("error {error}")),
            },
        }
    }
    let handoff = starting.ready().unwrap();
    child::tell(format!("generation {}", handoff.generation()));
    serve(handoff, parent);
}

fn take(starting: &mut Starting, what: &str, held: &mut Vec<Box<dyn std::any::Any>>) -> Result<String> {
    let mut words = what.split(' ');
    let mut word = || words.next().unwrap_or_default();
    let (kind, name, at) = (word(), word(), word());
    Ok(match kind {
        "tcp" => {
            let door = starting.tcp_with(name, at.parse().unwrap(), |_| Ok(()))?;
            let said = format!("took {}", door.inode());
            held.push(Box::new(door));
            said
        }
        "unix" => {
            held.push(Box::new(starting.unix(name, at)?));
            "took it".to_owned()
        }
        "seqpacket" => {
            held.push(Box::new(starting.seqpacket(name, at, |_| Ok(()))?));
            "took it".to_owned()
        }
        "udp" => {
            held.push(Box::new(starting.udp_at(name, at.parse().unwrap())?));
            "took it".to_owned()
        }
        "all" => {
            let doors = starting.listeners(name)?;
            let said = doors.iter().fold("at".to_owned(), |said, door| format!("{said} {}", door.addr()));
            held.push(Box::new(doors));
            said
        }
        other => unreachable!("{other}"),
    })
}

fn serve(mut handoff: Handoff, mut parent: Parent) {
    let handle = handoff.handle();
    std::thread::spawn(move || {
        loop {
            match parent.hear().as_str() {
                "upgrade" => drop(handle.upgrade()),
                _ => handle.stop(),
            }
        }
    });
    while handoff.run().unwrap() == Finish::Resume {}
}
