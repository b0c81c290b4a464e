//! What a program has while it starts: listeners that it brings along, and a handle before it serves.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::{JoinHandle, spawn};

use common::raw::inode;
use common::service::{Handoff, Starting};
use common::{Form, Place, config, forms, pairings, place};
use fd_handoff::{Error, Finish, Kind};
use socket2::{Domain, Socket, Type};

pairings! {
    a_listener_that_the_program_brings_is_accepted_on_and_inherited
}

forms! {
    what_does_not_listen_is_no_listener
    a_name_that_stands_for_another_kind
}

/// Serves on a thread of its own until it is to exit.
fn serve(mut handoff: Handoff) -> JoinHandle<()> {
    spawn(move || while handoff.run().unwrap() == Finish::Resume {})
}

fn start(form: Form, path: &std::path::Path) -> Starting {
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
