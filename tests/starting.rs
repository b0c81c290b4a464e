//! What a program has while it starts: listeners that it brings along, and a handle before it serves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread::{JoinHandle, spawn};

use common::raw::inode;
use common::service::{Handoff, Starting};
use common::{Form, Place, config, forms, pairings, place};
use fd_handoff::client::{Client, Outcome, Status};
use fd_handoff::{Error, ErrorCode, Finish, Kind, State};
use socket2::{Domain, Socket, Type};

pairings! {
    a_listener_that_the_program_brings_is_accepted_on_and_inherited
    a_handle_from_before_ready_is_the_services
    a_stop_before_ready_ends_the_start
    a_stop_while_ready_waits_ends_the_start
}

forms! {
    a_stop_of_a_cold_start_leaves_nothing_behind
    what_does_not_listen_is_no_listener
    a_name_that_stands_for_another_kind
}

/// Serves on a thread of its own until it is to exit.
fn serve(mut handoff: Handoff) -> JoinHandle<()> {
    spawn(move || while handoff.run().unwrap() == Finish::Resume {})
}

fn start(form: Form, path: &Path) -> Starting {
    form.start(config(path)).unwrap()
}

/// With a backlog of its own, as it may also have come from a service manager.
fn listener(backlog: i32) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(backlog).unwrap();
    socket.into()
}

fn a_listener_that_the_program_brings_is_accepted_on_and_inherited(old: Form, new: Form) {
    let Place { directory, path } = place();
    let at = directory.path().join("unix.sock");
    let brought = listener(7);
    let (addr, number) = (brought.local_addr().unwrap(), inode(brought.as_fd()));
    let mut first = start(old, &path);
    let tcp = first.tcp_or_else("tcp", || Ok(brought)).unwrap();
    let unix = first.unix_or_else("unix", || UnixListener::bind(&at)).unwrap();
    let first = serve(first.ready().unwrap());
    let _clients = (TcpStream::connect(addr).unwrap(), UnixStream::connect(&at).unwrap());
    assert!(tcp.accept().is_some() && unix.accepts());

    let mut second = start(new, &path);
    let inherited = second.tcp_or_else("tcp", || unreachable!("it is inherited")).unwrap();
    let inherited_unix = second.unix_or_else("unix", || unreachable!("it is inherited")).unwrap();
    let second = second.ready().unwrap();
    // It counts what it accepts, and has stopped.
    first.join().unwrap();
    assert!(tcp.accept().is_none() && !unix.accepts());
    assert_eq!((inherited.addr(), inherited.inode()), (addr, number));
    let _clients = (TcpStream::connect(addr).unwrap(), UnixStream::connect(&at).unwrap());
    let accepted = inherited.accept().unwrap();
    assert!(inherited_unix.accepts());
    assert_eq!(second.handle().connections(), 1);
    drop(accepted);
    second.handle().stop();
    serve(second).join().unwrap();
}

fn what_does_not_listen_is_no_listener(form: Form) {
    let Place { directory: _directory, path } = place();
    let mut starting = start(form, &path);
    let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    bound.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let refused = starting.tcp_or_else("tcp", || Ok(bound.into())).err();
    assert!(matches!(refused, Some(Error::WrongKind { found: Kind::TcpStream, .. })), "{refused:?}");
}

fn a_name_that_stands_for_another_kind(form: Form) {
    let Place { directory: _directory, path } = place();
    let mut first = start(form, &path);
    let _door = first.tcp("it").unwrap();
    let first = first.ready().unwrap();
    let handle = first.handle();
    let first = serve(first);
    let refused = start(form, &path).unix_or_else("it", || unreachable!("it is inherited")).err();
    assert!(matches!(refused, Some(Error::WrongKind { found: Kind::TcpListener, .. })), "{refused:?}");
    handle.stop();
    first.join().unwrap();
}

fn status(path: &Path) -> Status {
    Client::connect(path).unwrap().status().unwrap()
}

fn a_handle_from_before_ready_is_the_services(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let first = start(old, &path);
    let handle = first.handle();
    let (kept, given_up) = (listener(1), listener(1));
    handle.register("kept", &kept).unwrap();
    handle.register("given up", &given_up).unwrap();
    assert!(handle.forget("given up"));
    let refused = handle.upgrade().unwrap_err();
    assert!(matches!(refused, Error::Refused { code: ErrorCode::Busy, .. }), "{refused:?}");
    let counted = handle.count();
    let first = first.ready().unwrap();
    assert_eq!(first.handle().connections(), 1);
    assert_eq!(status(&path).fds.iter().map(|fd| fd.name.as_str()).collect::<Vec<_>>(), ["kept"]);
    drop(counted);
    let first = serve(first);

    let mut second = start(new, &path);
    let inherited: Vec<TcpListener> = second.take_all("kept").unwrap();
    assert_eq!(inode(inherited[0].as_fd()), inode(kept.as_fd()));
    assert!(!handle.is_superseded());
    let before = second.handle();
    let second = second.ready().unwrap();
    first.join().unwrap();
    assert!(handle.is_superseded() && !before.is_superseded());
    before.stop();
    serve(second).join().unwrap();
    assert!(before.is_superseded());
}

/// The predecessor serves on, and knows why.
fn assert_serves_on(path: &Path) {
    let status = status(path);
    assert_eq!(status.generation, 1);
    let [attempt] = &status.history[..] else { panic!("{:?}", status.history) };
    assert_eq!(attempt.outcome, Outcome::Failed);
    let reason = attempt.reason.as_deref().unwrap();
    assert!(reason.contains("told to stop before it served"), "{reason}");
}

fn a_stop_before_ready_ends_the_start(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let first = start(old, &path).ready().unwrap();
    let handle = first.handle();
    let first = serve(first);
    let second = start(new, &path);
    second.handle().stop();
    let refused = second.ready().err();
    assert!(matches!(refused, Some(Error::Stopped)), "{refused:?}");
    common::await_attempts(&path, 1);
    assert_serves_on(&path);
    handle.stop();
    first.join().unwrap();
}

/// The predecessor is about to release: its last state takes its time.
fn a_stop_while_ready_waits_ends_the_start(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let ((asks, asked), (give, given)) = (channel(), channel());
    let mut first = start(old, &path);
    first.on_release(move || {
        asks.send(()).unwrap();
        given.recv().unwrap();
        None::<State>
    });
    let first = first.ready().unwrap();
    let handle = first.handle();
    let first = serve(first);
    let second = start(new, &path);
    let early = second.handle();
    let second = spawn(move || second.ready().err());
    asked.recv().unwrap();
    early.stop();
    let refused = second.join().unwrap();
    assert!(matches!(refused, Some(Error::Stopped)), "{refused:?}");
    common::await_attempts(&path, 1);
    assert_serves_on(&path);
    give.send(()).unwrap();
    handle.stop();
    first.join().unwrap();
}

fn a_stop_of_a_cold_start_leaves_nothing_behind(form: Form) {
    let Place { directory: _directory, path } = place();
    let starting = start(form, &path);
    starting.handle().stop();
    let refused = starting.ready().err();
    assert!(matches!(refused, Some(Error::Stopped)), "{refused:?}");
    assert!(!path.exists());
}

/// Tasks that are set up before this process serves wait for the end of its service.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn a_task_from_before_ready_hears_of_the_end() {
    let Place { directory: _directory, path } = place();
    let starting = fd_handoff::tokio::Handoff::builder(config(&path)).start().await.unwrap();
    let handle = starting.handle();
    let drained = tokio::spawn(handle.drained());
    let superseded = tokio::spawn(handle.superseded());
    let mut handoff = starting.ready().await.unwrap();
    handle.stop();
    handoff.superseded().await;
    superseded.await.unwrap();
    assert_eq!(handoff.finish(drained).await.unwrap(), Finish::Exit);
}
