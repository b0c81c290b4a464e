//! O_NONBLOCK belongs to the open file description, which every process that has a copy shares: a successor that clears it
//! freezes nobody, and what one that fails has changed is put right.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use common::child::{self, Child, Parent};
use common::raw::Raw;
use common::{Form, Place, config, forms, pairings, place};
use fd_handoff::client::{Client, Status};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde_json::json;

forms! {
    a_successor_that_makes_everything_blocking_and_fails
    a_successor_that_makes_everything_blocking_and_dies_after_the_release
}
pairings! {
    a_successor_of_ours_leaves_the_flag_alone
}

/// How long a request may take, on a machine that has other things to do as well.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A service on one thread: while that one blocks, nobody is served.
fn serve(form: Form, mut parent: Parent) {
    match form {
        Form::Blocking => serve_blocking(&mut parent),
        #[cfg(feature = "tokio")]
        Form::Tokio => {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build().unwrap().block_on(serve_on_tokio(&mut parent));
        }
    }
}

fn serve_blocking(parent: &mut Parent) {
    let mut starting = fd_handoff::Handoff::builder(config(&parent.path)).start().unwrap();
    let listener = starting.tcp_listener("http", ([127, 0, 0, 1], 0).into()).unwrap();
    let mut handoff = starting.ready().unwrap();
    parent.tell(listener.local_addr().unwrap());
    std::thread::scope(|scope| {
        loop {
            scope.spawn(|| {
                while let Some((mut stream, _)) = listener.accept().unwrap() {
                    stream.write_all(b"served").unwrap();
                }
            });
            handoff.superseded();
            assert_eq!(handoff.finish().unwrap(), fd_handoff::Finish::Resume);
        }
    });
}

#[cfg(feature = "tokio")]
async fn serve_on_tokio(parent: &mut Parent) {
    use tokio::io::AsyncWriteExt;

    let mut starting = fd_handoff::tokio::Handoff::builder(config(&parent.path)).start().await.unwrap();
    let listener = starting.tcp_listener("http", ([127, 0, 0, 1], 0).into()).unwrap();
    let mut handoff = starting.ready().await.unwrap();
    parent.tell(listener.local_addr().unwrap());
    loop {
        let superseded = handoff.superseded();
        while let Some((mut stream, _)) = listener.accept().await.unwrap() {
            stream.write_all(b"served").await.unwrap();
        }
        superseded.await;
        assert_eq!(handoff.finish(handoff.handle().drained()).await.unwrap(), fd_handoff::Finish::Resume);
    }
}

/// A predecessor that runs, and where it serves.
fn predecessor(form: Form, path: &Path) -> (Child, SocketAddr) {
    let role = if form == Form::Blocking { "serve" } else { "serve on tokio" };
    let mut child = Child::start(role, path);
    let addr = child.hear().parse().unwrap();
    (child, addr)
}

/// Requests one after the other, each of which finds an empty queue behind the one before, and a look at the service.
fn assert_serves(addr: SocketAddr, path: &Path) {
    for _ in 0..20 {
        let began = Instant::now();
        let mut answer = String::new();
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(AT_ONCE)).unwrap();
        stream.read_to_string(&mut answer).expect("the predecessor is frozen");
        assert_eq!(answer, "served");
        status(path);
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    }
}

fn status(path: &Path) -> Status {
    Client::connect(path).unwrap().status().unwrap()
}

fn is_nonblocking(fd: impl AsFd) -> bool {
    OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap()).contains(OFlag::O_NONBLOCK)
}

/// The listeners among them: the control socket and the application's.
fn listeners(taken: Vec<OwnedFd>) -> Vec<OwnedFd> {
    let listens = |fd: &OwnedFd| socket2::SockRef::from(fd).is_listener().unwrap_or(false);
    let listeners: Vec<_> = taken.into_iter().filter(listens).collect();
    assert_eq!(listeners.len(), 2);
    listeners
}

fn make_blocking(listeners: &[OwnedFd]) {
    for listener in listeners {
        assert!(is_nonblocking(listener));
        socket2::SockRef::from(listener).set_nonblocking(false).unwrap();
    }
}

// M137, M138
fn a_successor_that_makes_everything_blocking_and_fails(form: Form) {
    let Place { directory: _directory, path } = place();
    let (_predecessor, addr) = predecessor(form, &path);
    let mut raw = Raw::receive(&path);
    let listeners = listeners(raw.take_offer());
    make_blocking(&listeners);
    assert_serves(addr, &path);

    raw.say(&json!({"type": "abort", "code": "application", "reason": "it fails"}));
    common::await_attempts(&path, 1);
    assert!(listeners.iter().all(is_nonblocking));
    // One that is still alive may do so at any time.
    make_blocking(&listeners);
    assert_serves(addr, &path);
    drop(listeners);
    assert_serves(addr, &path);
}

// M137, M138
fn a_successor_that_makes_everything_blocking_and_dies_after_the_release(form: Form) {
    let Place { directory: _directory, path } = place();
    let (_predecessor, addr) = predecessor(form, &path);
    let mut raw = Raw::receive(&path);
    let listeners = listeners(raw.take_offer());
    raw.say(&json!({"type": "ready"}));
    raw.expect("release");
    make_blocking(&listeners);
    raw.say(&json!({"type": "abort", "code": "application", "reason": "it fails"}));
    common::await_attempts(&path, 1);
    assert!(listeners.iter().all(is_nonblocking));
    make_blocking(&listeners);
    assert_serves(addr, &path);
}

/// Neither taking a listener nor the control socket clears it while the predecessor uses them.
fn a_successor_of_ours_leaves_the_flag_alone(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let (_predecessor, addr) = predecessor(old, &path);
    let mut inheritance = new.receive(config(&path)).unwrap();
    let listener: TcpListener = inheritance.take("http").unwrap().unwrap();
    assert!(is_nonblocking(&listener));
    assert_serves(addr, &path);
    drop(inheritance);
    common::await_attempts(&path, 1);
    assert!(is_nonblocking(&listener));
}

#[test]
#[ignore = "run by other tests as a process of its own"]
fn child_main() {
    let Some((role, parent)) = child::role() else { return };
    match role.as_str() {
        "serve" => serve(Form::Blocking, parent),
        "serve on tokio" => serve(Form::last(), parent),
        other => panic!("no role {other}"),
    }
}
