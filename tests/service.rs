//! The facade within one process: sockets by name, hooks, farewells, watchers, and how a service ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use common::raw::inode;
use common::service::{Handoff, Plan, Starting};
use common::{Form, PATIENCE, Place, config, forms, pairings, pipe, place};
use fd_handoff::client::{Client, News, Outcome, Step};
use fd_handoff::{Error, ErrorCode, Failure, Finish, Received, State, StateError};
use socket2::{Domain, Socket, Type};

pairings! {
    every_kind_of_socket_is_bound_once_and_then_inherited
    a_partial_stop_leaves_the_rest
    a_path_that_was_passed_in_is_never_removed
    a_path_that_nobody_wants_goes_with_the_last_who_could_serve_there
    what_is_registered_at_run_time_is_offered
    a_farewell_that_is_absorbed_is_absorbed_once
    farewells_that_nobody_absorbs_are_relayed
    a_last_state_that_cannot_be_encoded_holds_up_no_other
    finishing_twice_does_nothing
    a_new_service_that_cannot_start_says_why
}

forms! {
    a_new_address_needs_a_new_name
    a_name_is_given_once
    a_stale_unix_path_is_replaced
    a_live_unix_path_is_left_alone
    a_unix_path_is_removed_at_a_stop
    a_connection_that_is_forgotten_leaves_its_listener_the_path
    an_abstract_unix_socket_is_inherited
    finishing_without_being_superseded_stops
    a_pidfile_that_cannot_be_written_is_tried_again
    a_state_that_panics_fails_the_handoff
    a_stop_answers_whoever_waits_for_an_upgrade
    no_upgrade_begins_while_the_service_stops
    a_service_that_is_dropped_answers_whoever_waits_for_an_upgrade
    a_successor_from_elsewhere_is_awaited
    a_successor_from_elsewhere_that_does_not_come
    a_drain_without_a_deadline
    what_is_asked_of_a_service_that_drains_changes_nothing
    a_watcher_sees_a_handoff_in_order
    of_much_progress_the_last_is_told
    a_watcher_that_never_reads_is_let_go
    sixty_four_watchers
}

/// Serves on a thread of its own until it is to exit.
fn serve(mut handoff: Handoff) -> JoinHandle<Result<(), Failure>> {
    spawn(move || {
        while handoff.run()? == Finish::Resume {}
        Ok(())
    })
}

fn ended(serving: JoinHandle<Result<(), Failure>>) {
    serving.join().unwrap().unwrap();
}

fn start(form: Form, path: &Path) -> Starting {
    form.start(config(path)).unwrap()
}

fn elsewhere(form: Form, path: &Path) -> Handoff {
    let plan = Plan { elsewhere: true, ..Plan::default() };
    form.start_with(config(path), plan).unwrap().ready().unwrap()
}

fn reuse_port() -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.into()
}

fn every_kind_of_socket_is_bound_once_and_then_inherited(old: Form, new: Form) {
    let Place { directory, path } = place();
    let at = |name: &str| directory.path().join(name);
    let hooked = AtomicUsize::new(0);
    let bind = |starting: &mut Starting| {
        let options = |socket: &Socket| {
            hooked.fetch_add(1, SeqCst);
            socket.set_keepalive(true).or(Ok(()))
        };
        let tcp = starting.tcp_with("tcp", "127.0.0.1:0".parse().unwrap(), options).unwrap();
        let udp = starting.udp_with("udp", options).unwrap();
        let unix = starting.unix("unix", at("unix.sock")).unwrap();
        let datagram = starting.unix_datagram("datagram", at("datagram.sock")).unwrap();
        let seqpacket = starting.seqpacket("seqpacket", at("seqpacket.sock"), options).unwrap();
        let made = || Ok(pipe().0);
        let file: File = starting.take_or_else("pipe", made).unwrap();
        ((tcp, unix), [inode(udp), inode(datagram), inode(seqpacket), inode(file)])
    };
    let mut first = start(old, &path);
    let ((tcp, _unix), before) = bind(&mut first);
    let group = [reuse_port(), reuse_port()];
    let first = first.ready().unwrap();
    first.handle().register_group("group", &group).unwrap();
    let first = serve(first);
    assert_eq!(hooked.load(SeqCst), 3);

    let mut second = start(new, &path);
    let ((inherited, unix), after) = bind(&mut second);
    assert_eq!((inherited.addr(), before), (tcp.addr(), after));
    let inherited_group: Vec<UdpSocket> = second.take_all("group").unwrap();
    assert_eq!(inherited_group.iter().map(inode).collect::<Vec<_>>(), group.iter().map(inode).collect::<Vec<_>>());
    assert_eq!(hooked.load(SeqCst), 3, "an inherited socket is not bound again");
    let second = second.ready().unwrap();
    ended(first);
    assert!(tcp.accept().is_none(), "the old one has stopped");
    let _clients = (TcpStream::connect(tcp.addr()).unwrap(), UnixStream::connect(at("unix.sock")).unwrap());
    assert!(inherited.accept().is_some() && unix.accepts());
    assert!(at("datagram.sock").exists());
    second.handle().stop();
    ended(serve(second));
    assert!(!at("unix.sock").exists() && !at("datagram.sock").exists());
}

fn a_new_address_needs_a_new_name(form: Form) {
    let Place { directory, path } = place();
    let mut first = start(form, &path);
    let door = first.tcp("http").unwrap();
    first.unix("unix", directory.path().join("unix.sock")).unwrap();
    let first = first.ready().unwrap();
    let handle = first.handle();
    let first = serve(first);
    let mut second = start(form, &path);
    match second.tcp_with("http", "127.0.0.2:0".parse().unwrap(), |_| Ok(())).err() {
        Some(Error::AddressChanged { found, wanted, .. }) => {
            assert_eq!((found, wanted.as_str()), (door.addr().to_string(), "127.0.0.2:0"));
        }
        other => panic!("{other:?}"),
    }
    let elsewhere = second.unix("unix", directory.path().join("other.sock")).err();
    assert!(matches!(elsewhere, Some(Error::AddressChanged { .. })), "{elsewhere:?}");
    assert!(!directory.path().join("other.sock").exists());
    drop(second);
    let _client = TcpStream::connect(door.addr()).unwrap();
    assert!(door.accept().is_some(), "the old one serves on");
    handle.stop();
    ended(first);
}

/// Of two listeners with one name, a successor would get one.
fn a_name_is_given_once(form: Form) {
    let Place { directory: _directory, path } = place();
    let mut starting = start(form, &path);
    let _door = starting.tcp("http").unwrap();
    let again = starting.tcp("http").err();
    assert!(matches!(again, Some(Error::DuplicateName(_))), "{again:?}");
}

fn a_stale_unix_path_is_replaced(form: Form) {
    let Place { directory, path } = place();
    let at = |name: &str| directory.path().join(name);
    drop(UnixListener::bind(at("stream")).unwrap());
    drop(UnixDatagram::bind(at("datagram")).unwrap());
    let mut starting = start(form, &path);
    let door = starting.unix("stream", at("stream")).unwrap();
    let datagram = starting.unix_datagram("datagram", at("datagram")).unwrap();
    let _client = UnixStream::connect(at("stream")).unwrap();
    assert!(door.accepts());
    UnixDatagram::unbound().unwrap().send_to(b"hello", at("datagram")).unwrap();
    datagram.set_nonblocking(false).unwrap();
    assert_eq!(datagram.recv(&mut [0; 16]).unwrap(), 5);
}

fn a_live_unix_path_is_left_alone(form: Form) {
    let Place { directory, path } = place();
    let at = |name: &str| directory.path().join(name);
    let _stream = UnixListener::bind(at("stream")).unwrap();
    let _datagram = UnixDatagram::bind(at("datagram")).unwrap();
    fs::write(at("file"), "precious").unwrap();
    let mut starting = start(form, &path);
    for name in ["stream", "datagram", "file"] {
        for error in [
            starting.unix("unix", at(name)).map(drop).unwrap_err(),
            starting.unix_datagram("unix", at(name)).map(drop).unwrap_err(),
        ] {
            assert!(error.to_string().contains(name), "{error}");
        }
    }
    UnixStream::connect(at("stream")).unwrap();
    UnixDatagram::unbound().unwrap().connect(at("datagram")).unwrap();
    assert_eq!(fs::read_to_string(at("file")).unwrap(), "precious");
}

fn a_unix_path_is_removed_at_a_stop(form: Form) {
    let Place { directory, path } = place();
    let at = |name: &str| directory.path().join(name);
    let mut starting = start(form, &path);
    for name in ["ours", "replaced"] {
        starting.unix(name, at(name)).unwrap();
    }
    let mut handoff = starting.ready().unwrap();
    fs::remove_file(at("replaced")).unwrap();
    let _foreign = UnixListener::bind(at("replaced")).unwrap();
    assert_eq!(handoff.finish().unwrap(), Finish::Exit);
    assert!(!at("ours").exists());
    assert!(at("replaced").exists(), "somebody else's is left alone");
}

// M134
fn a_connection_that_is_forgotten_leaves_its_listener_the_path(form: Form) {
    let Place { directory, path } = place();
    let at = directory.path().join("unix.sock");
    // The application's own, whose connections show its path as their address.
    let listener = UnixListener::bind(&at).unwrap();
    let handoff = start(form, &path).ready().unwrap();
    let handle = handoff.handle();
    let _client = UnixStream::connect(&at).unwrap();
    let (connection, _) = listener.accept().unwrap();
    handle.register("session", &connection).unwrap();
    assert!(handle.forget("session"));
    assert!(at.exists(), "forgotten is the connection");
    handle.register("session", &connection).unwrap();
    handle.stop();
    ended(serve(handoff));
    assert!(at.exists(), "it is the application's, and may be in use");
}

// M134
fn a_path_that_was_passed_in_is_never_removed(old: Form, new: Form) {
    let Place { directory, path } = place();
    let at = |name: &str| directory.path().join(name);
    // As a service manager does.
    let (passed, brought) = (UnixListener::bind(at("passed")).unwrap(), UnixListener::bind(at("brought")).unwrap());
    let mut first = start(old, &path);
    let passed = first.take_or_else("passed", || Ok(passed)).unwrap();
    let first = first.ready().unwrap();
    first.handle().register("brought", &brought).unwrap();
    let first = serve(first);
    let mut second = start(new, &path);
    let _door = second.unix("brought", at("brought")).unwrap();
    let _inherited: UnixListener = second.take_or_else("passed", || panic!("it is inherited")).unwrap();
    let second = second.ready().unwrap();
    ended(first);
    drop((passed, brought));
    assert!(second.handle().forget("passed"));
    assert!(at("passed").exists(), "though it is given up");
    second.handle().stop();
    ended(serve(second));
    assert!(at("brought").exists(), "though the service has stopped");
}

// M134, M135
fn a_path_that_nobody_wants_goes_with_the_last_who_could_serve_there(old: Form, new: Form) {
    let Place { directory, path } = place();
    let at = |name: &str| directory.path().join(name);
    let mut first = start(old, &path);
    for name in ["bound", "replaced"] {
        first.unix(name, at(name)).unwrap();
    }
    first.unix_datagram("datagram", at("datagram")).unwrap();
    let passed = UnixListener::bind(at("passed")).unwrap();
    first.take_or_else("passed", || Ok(passed)).unwrap();
    let first = first.ready().unwrap();
    let last = first.handle().count();
    let first = serve(first);
    // Inherited once, so that the second generation has bound none of them itself.
    let mut second = start(new, &path);
    for name in ["bound", "replaced"] {
        second.unix(name, at(name)).unwrap();
    }
    second.unix_datagram("datagram", at("datagram")).unwrap();
    let _passed: UnixListener = second.take_or_else("passed", || panic!("it is inherited")).unwrap();
    let second = second.ready().unwrap();
    drop(last);
    ended(first);
    let last = second.handle().count();
    let second = serve(second);

    let third = start(old, &path).ready().unwrap();
    assert!(at("bound").exists() && at("datagram").exists(), "the second may take back, and serves there then");
    fs::remove_file(at("replaced")).unwrap();
    let _foreign = UnixListener::bind(at("replaced")).unwrap();
    drop(last);
    ended(second);
    wait_for(|| !at("bound").exists() && !at("datagram").exists());
    assert!(at("passed").exists() && at("replaced").exists(), "those are others'");
    third.handle().stop();
    ended(serve(third));
    assert!(at("passed").exists() && at("replaced").exists());
}

fn an_abstract_unix_socket_is_inherited(form: Form) {
    let Place { directory, path } = place();
    let name = directory.path().to_str().unwrap();
    let mut first = start(form, &path);
    let _door = first.unix("unix", format!("\0{name}")).unwrap();
    let _other = first.unix("other", format!("\0{name}")).err().expect("it is in use");
    let first = serve(first.ready().unwrap());
    let mut second = start(form, &path);
    let door = second.unix("unix", format!("\0{name}")).unwrap();
    let _second = second.ready().unwrap();
    ended(first);
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
    assert!(door.accepts());
}

fn a_partial_stop_leaves_the_rest(old: Form, new: Form) {
    let Place { directory, path } = place();
    let at = |name: &str| directory.path().join(name);
    let mut first = start(old, &path);
    let (kept, given_up) = (first.tcp("kept").unwrap(), first.tcp("given up").unwrap());
    let unix = first.unix("unix", at("unix.sock")).unwrap();
    let first = first.ready().unwrap();
    let handle = first.handle();
    let first = serve(first);
    let waiting = {
        let door = given_up.clone();
        spawn(move || door.accept().is_none())
    };
    assert!(handle.forget("given up") && handle.forget("unix"));
    assert!(!handle.forget("given up"), "once");
    assert!(waiting.join().unwrap() && !unix.accepts());
    assert!(!at("unix.sock").exists());
    let _client = TcpStream::connect(kept.addr()).unwrap();
    assert!(kept.accept().is_some(), "the rest goes on");
    assert_eq!(names(&path), ["kept"], "status tells so at once");

    let mut second = start(new, &path);
    assert_eq!(second.tcp("kept").unwrap().addr(), kept.addr());
    assert_ne!(second.tcp("given up").unwrap().addr(), given_up.addr(), "a new one");
    drop(second);
    handle.stop();
    ended(first);
}

/// The names in `status`.
fn names(path: &Path) -> Vec<String> {
    let status = Client::connect(path).unwrap().status().unwrap();
    assert_eq!(status.fd_count as usize, status.fds.len());
    status.fds.iter().map(|fd| fd.name.to_string()).collect()
}

fn what_is_registered_at_run_time_is_offered(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let mut first = start(old, &path);
    let _door = first.tcp("http").unwrap();
    let first = first.ready().unwrap();
    let handle = first.handle();
    let first = serve(first);
    let (reading, _writing) = pipe();
    handle.register("pipe", &pipe().0).unwrap();
    handle.register("pipe", &reading).unwrap();
    handle.register("@not a name", &reading).unwrap_err();
    assert_eq!(names(&path), ["http", "pipe"], "in the place of the one before");
    let mut second = start(new, &path);
    let inherited: File = second.take_or_else("pipe", || panic!("it is inherited")).unwrap();
    assert_eq!(inode(inherited), inode(&reading));
    drop(second);
    handle.stop();
    ended(first);
}

/// A service that counts: the total goes along, and what its last connections add comes as a farewell.
fn counting(form: Form, path: &Path, late: &str) -> Starting {
    let mut starting = start(form, path);
    let late = late.to_owned();
    starting.on_farewell(move || (!late.is_empty()).then(|| State::bytes(late.clone())));
    starting
}

/// Collects farewells.
fn absorbing(handoff: &mut Handoff) -> Arc<Mutex<Vec<String>>> {
    let absorbed = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&absorbed);
    handoff.absorb_farewells(move |farewell: Received| into.lock().unwrap().push(common::text(&farewell)));
    absorbed
}

fn a_farewell_that_is_absorbed_is_absorbed_once(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let first = counting(old, &path, "1").ready().unwrap();
    let last_of_first = first.handle().count();
    let first = serve(first);
    // The first drains still when the second hands over.
    let mut second = counting(new, &path, "2").ready().unwrap();
    let absorbed = absorbing(&mut second);
    let second = serve(second);
    let mut third = counting(old, &path, "").ready().unwrap();
    let at_last = absorbing(&mut third);
    drop(last_of_first);
    ended(first);
    ended(second);
    let handle = third.handle();
    let third = serve(third);
    wait_for(|| !at_last.lock().unwrap().is_empty());
    handle.stop();
    ended(third);
    assert_eq!(*absorbed.lock().unwrap(), ["1"]);
    assert_eq!(*at_last.lock().unwrap(), ["2"]);
}

fn wait_for(mut holds: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "it does not come");
        std::thread::yield_now();
    }
}

fn farewells_that_nobody_absorbs_are_relayed(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let first = serve(counting(old, &path, "1").ready().unwrap());
    let second = serve(counting(new, &path, "2").ready().unwrap());
    ended(first);
    let mut third = counting(old, &path, "").ready().unwrap();
    let absorbed = absorbing(&mut third);
    let handle = third.handle();
    let third = serve(third);
    ended(second);
    wait_for(|| absorbed.lock().unwrap().len() == 2);
    assert_eq!(*absorbed.lock().unwrap(), ["1", "2"], "the oldest first");
    handle.stop();
    ended(third);
}

fn a_last_state_that_cannot_be_encoded_holds_up_no_other(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let first = serve(counting(old, &path, "1").ready().unwrap());
    let mut second = start(new, &path);
    second.on_farewell(|| State::writer(|_| -> std::io::Result<()> { panic!("no state today") }));
    let second = serve(second.ready().unwrap());
    ended(first);
    let mut third = start(old, &path).ready().unwrap();
    let absorbed = absorbing(&mut third);
    let handle = third.handle();
    let third = serve(third);
    let failure = second.join().unwrap().unwrap_err();
    assert!(!failure.may_serve() && failure.to_string().contains("no state today"), "{failure}");
    wait_for(|| absorbed.lock().unwrap().len() == 1);
    assert_eq!(*absorbed.lock().unwrap(), ["1"]);
    handle.stop();
    ended(third);
}

fn finishing_twice_does_nothing(old: Form, new: Form) {
    let Place { directory, path } = place();
    let at = |name: &str| directory.path().join(name);
    let begin = |form: Form| {
        let plan = Plan { pidfile: Some(at("pid")), ..Plan::default() };
        let mut starting = form.start_with(config(&path), plan).unwrap();
        starting.unix("unix", at("unix.sock")).unwrap();
        starting
    };
    let mut first = begin(old).ready().unwrap();
    let first = spawn(move || {
        assert_eq!(first.run().unwrap(), Finish::Exit);
        first.superseded();
        assert_eq!(first.finish().unwrap(), Finish::Exit);
    });
    let second = begin(new).ready().unwrap();
    first.join().unwrap();
    assert!(at("unix.sock").exists() && at("pid").exists() && path.exists(), "they are the successor's");
    second.handle().stop();
    ended(serve(second));
    assert!(!at("unix.sock").exists() && !at("pid").exists() && !path.exists());
}

fn a_pidfile_that_cannot_be_written_is_tried_again(form: Form) {
    let Place { directory, path } = place();
    let (missing, pidfile) = (directory.path().join("missing"), directory.path().join("missing/pid"));
    let plan = Plan { pidfile: Some(pidfile.clone()), ..Plan::default() };
    let handoff = form.start_with(config(&path), plan).unwrap().ready().unwrap();
    let handle = handoff.handle();
    let service = serve(handoff);
    std::fs::create_dir(&missing).unwrap();
    wait_for(|| pidfile.exists());
    assert_eq!(std::fs::read_to_string(&pidfile).unwrap().trim(), std::process::id().to_string());
    assert_eq!(std::fs::read_dir(&missing).unwrap().count(), 1, "nothing is left over beside it");
    handle.stop();
    ended(service);
    assert!(!pidfile.exists());
}

fn finishing_without_being_superseded_stops(form: Form) {
    let Place { directory: _directory, path } = place();
    let mut starting = start(form, &path);
    let door = starting.tcp("http").unwrap();
    let mut handoff = starting.ready().unwrap();
    let handle = handoff.handle();
    let waiting = {
        let door = door.clone();
        spawn(move || door.accept().is_none())
    };
    assert_eq!(handoff.finish().unwrap(), Finish::Exit);
    assert!(waiting.join().unwrap(), "nothing more is accepted");
    assert!(handle.is_superseded() && !path.exists());
    assert_eq!(handoff.finish().unwrap(), Finish::Exit);
}

/// The way of a `main` that returns its errors, and of one that names its reason.
fn a_new_service_that_cannot_start_says_why(old: Form, new: Form) {
    type Way<'a> = &'a dyn Fn(Starting);
    let Place { directory, path } = place();
    let mut first = start(old, &path);
    let door = first.tcp("http").unwrap();
    first.on_offer(|| State::bytes("not what it was"));
    let first = first.ready().unwrap();
    let handle = first.handle();
    let first = serve(first);
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = occupied.local_addr().unwrap();
    let cannot_bind = format!("cannot make \"admin\": {addr}: Address already in use");
    let at = directory.path().join("no such directory").join("unix.sock");
    let cannot_bind_unix = format!("cannot make \"unix\": {}: No such file", at.display());
    let ways: [(Way<'_>, &str); 5] = [
        (&|it| it.fail("the database has an older schema"), "the database has an older schema"),
        (&|mut it| drop(it.tcp_with("admin", addr, |_| Ok(())).err().unwrap()), &cannot_bind),
        (&|mut it| drop(it.unix("unix", &at).err().unwrap()), &cannot_bind_unix),
        (
            &|mut it| drop((it.tcp("http").unwrap(), it.tcp("http").err().unwrap())),
            "the name \"http\" is offered twice",
        ),
        (
            &|it| {
                let decoded = it.state_with(|_| Err::<(), _>(StateError::Decode("a field is missing".into())));
                drop(decoded.unwrap_err());
            },
            "cannot decode the state: a field is missing",
        ),
    ];
    for (count, (gives_up, why)) in ways.into_iter().enumerate() {
        gives_up(start(new, &path));
        let history = || Client::connect(&path).unwrap().status().unwrap().history;
        // The successor does not wait for it.
        wait_for(|| history().len() > count);
        let attempt = history().pop().unwrap();
        assert_eq!(attempt.outcome, Outcome::Failed);
        let reason = attempt.reason.unwrap();
        assert!(reason.contains(why), "{reason:?} instead of {why:?}");
    }
    let _client = TcpStream::connect(door.addr()).unwrap();
    assert!(door.accept().is_some(), "the old one serves on");
    handle.stop();
    ended(first);
}

/// Each of the ways in which an application may fail to give its state.
fn a_state_that_panics_fails_the_handoff(form: Form) {
    type Spoil = fn(&mut Starting);
    let spoils: [Spoil; 4] = [
        |it| it.on_offer(|| -> State { panic!("no state today\nnor tomorrow") }),
        |it| it.on_offer(|| State::writer(|_| -> std::io::Result<()> { panic!("no state today\nnor tomorrow") })),
        |it| it.on_release(|| -> State { panic!("no state today\nnor tomorrow") }),
        |it| it.on_release(|| State::writer(|_| -> std::io::Result<()> { panic!("no state today\nnor tomorrow") })),
    ];
    for spoil in spoils {
        let Place { directory: _directory, path } = place();
        let mut starting = start(form, &path);
        let door = starting.tcp("http").unwrap();
        spoil(&mut starting);
        let first = starting.ready().unwrap();
        let handle = first.handle();
        let first = serve(first);
        let successor = Form::Blocking.start(config(&path)).and_then(Starting::ready);
        let error = successor.err().expect("it is turned away").to_string();
        assert!(error.contains("no state today"), "{error}");
        // The successor hears of it first.
        let attempt = || Client::connect(&path).unwrap().status().unwrap().history.pop();
        wait_for(|| attempt().is_some());
        let attempt = attempt().unwrap();
        let reason = attempt.reason.unwrap();
        assert_eq!(attempt.outcome, Outcome::Failed);
        assert!(reason.contains("no state today nor tomorrow"), "{reason:?}");
        // It accepts again, if it had stopped.
        wait_for(|| !handle.is_superseded());
        let _client = TcpStream::connect(door.addr()).unwrap();
        wait_for(|| door.accept().is_some());
        handle.stop();
        ended(first);
    }
}

/// An upgrade that waits for its new process is over when the service stops.
fn a_stop_answers_whoever_waits_for_an_upgrade(form: Form) {
    let Place { directory: _directory, path } = place();
    let handoff = elsewhere(form, &path);
    let handle = handoff.handle();
    let service = serve(handoff);
    let asked = handle.clone();
    let (_, mut watching) = Client::connect(&path).unwrap().watch().unwrap();
    let upgrade = spawn(move || asked.upgrade().unwrap());
    assert_eq!(next(&mut watching), News::Upgrade);
    handle.stop();
    let attempt = upgrade.join().unwrap();
    assert_eq!(attempt.outcome, Outcome::Failed);
    assert!(attempt.reason.unwrap().contains("stop"));
    ended(service);
}

fn no_upgrade_begins_while_the_service_stops(form: Form) {
    let Place { directory: _directory, path } = place();
    let handoff = elsewhere(form, &path);
    let handle = handoff.handle();
    let connection = handle.count();
    let service = serve(handoff);
    handle.stop();
    assert_busy(handle.upgrade().map(drop), "stop");
    let asked = Client::connect(&path).unwrap().upgrade(None).unwrap().next().unwrap();
    assert_busy(asked.map(drop), "stop");
    drop(connection);
    ended(service);
    assert_busy(handle.upgrade().map(drop), "stopped");
}

fn assert_busy(refused: Result<(), Error>, why: &str) {
    match refused {
        Err(Error::Refused { code: ErrorCode::Busy, message }) => assert!(message.contains(why), "{message}"),
        other => panic!("{other:?}"),
    }
}

fn a_service_that_is_dropped_answers_whoever_waits_for_an_upgrade(form: Form) {
    let Place { directory: _directory, path } = place();
    let handoff = elsewhere(form, &path);
    let handle = handoff.handle();
    let (_, mut watching) = Client::connect(&path).unwrap().watch().unwrap();
    let upgrade = spawn(move || handle.upgrade().unwrap());
    assert_eq!(next(&mut watching), News::Upgrade);
    drop(handoff);
    assert_eq!(upgrade.join().unwrap().outcome, Outcome::Failed);
}

fn next(steps: &mut impl Iterator<Item = Result<Step, Error>>) -> News {
    match steps.next().unwrap().unwrap() {
        Step::Event(event) => event.event,
        other => panic!("{other:?}"),
    }
}

fn a_successor_from_elsewhere_is_awaited(form: Form) {
    let Place { directory: _directory, path } = place();
    let first = serve(elsewhere(form, &path));
    let mut steps = Client::connect(&path).unwrap().upgrade(None).unwrap();
    while next(&mut steps) != News::Awaited {}
    assert_busy(Client::connect(&path).unwrap().upgrade(None).unwrap().next().unwrap().map(drop), "under way");
    let _second = start(form, &path).ready().unwrap();
    let outcome = steps.find_map(|step| match step.unwrap() {
        Step::Outcome(attempt) => Some(attempt),
        _ => None,
    });
    assert_eq!(outcome.unwrap().outcome, Outcome::Completed);
    ended(first);
}

fn a_successor_from_elsewhere_that_does_not_come(form: Form) {
    let Place { directory: _directory, path } = place();
    let handoff = elsewhere(form, &path);
    let handle = handoff.handle();
    let service = serve(handoff);
    let steps = Client::connect(&path).unwrap().upgrade(Some(Duration::from_millis(50))).unwrap();
    let steps: Vec<_> = steps.map(Result::unwrap).collect();
    match &steps[..] {
        [.., Step::Event(failed), Step::Outcome(attempt)] => {
            assert_eq!(
                (failed.event, attempt.outcome),
                (News::Failed, Outcome::Failed),
                "the outcome is the last word"
            );
            assert_eq!(attempt.reason.as_deref(), Some("nobody asked for the service in time"));
        }
        other => panic!("{other:?}"),
    }
    handle.stop();
    ended(service);
}

/// The longest duration is no reason to panic after the release.
fn a_drain_without_a_deadline(form: Form) {
    let Place { directory: _directory, path } = place();
    let patient = || Plan { drain: Some(Duration::MAX), ..Plan::default() };
    let first = form.start_with(config(&path), patient()).unwrap().ready().unwrap();
    let connection = first.handle().count();
    let first = serve(first);
    let mut second = form.start_with(config(&path), patient()).unwrap().ready().unwrap();
    drop(connection);
    ended(first);
    assert_eq!(second.finish().unwrap(), Finish::Exit);
}

/// Its successor serves: there is nothing to upgrade here, and nothing to stop but the drain.
fn what_is_asked_of_a_service_that_drains_changes_nothing(form: Form) {
    let Place { directory: _directory, path } = place();
    let first = start(form, &path).ready().unwrap();
    let handle = first.handle();
    let connection = handle.count();
    let client = Client::connect(&path).unwrap();
    let first = serve(first);
    let second = start(form, &path).ready().unwrap();
    assert_busy(handle.upgrade().map(drop), "under way");
    assert_busy(client.upgrade(None).unwrap().next().unwrap().map(drop), "under way");
    handle.stop();
    assert_eq!(Client::connect(&path).unwrap().status().unwrap().generation, 2);
    assert!(!first.is_finished() && handle.connections() == 1);
    drop(connection);
    ended(first);
    assert!(path.exists());
    drop(second);
}

/// The library gives the application a moment after the drain deadline, and waits for what that does with it.
#[cfg(feature = "tokio")]
#[test]
fn what_a_connection_does_when_it_is_overdue_is_in_the_farewell() {
    let Place { directory: _directory, path } = place();
    let plan = Plan { drain: Some(Duration::from_millis(50)), ..Plan::default() };
    let mut first = Form::Tokio.start_with(config(&path), plan).unwrap();
    let total = Arc::new(AtomicUsize::new(0));
    first.on_farewell({
        let total = Arc::clone(&total);
        move || State::bytes(total.load(SeqCst).to_string())
    });
    let first = first.ready().unwrap();
    let common::service::Handle::Tokio(handle, runtime) = first.handle() else { unreachable!() };
    let (connection, overdue) = (handle.count(), handle.overdue());
    runtime.spawn(async move {
        overdue.await;
        tokio::task::yield_now().await;
        total.store(7, SeqCst);
        drop(connection);
    });
    let first = serve(first);
    let mut second = start(Form::Tokio, &path).ready().unwrap();
    let absorbed = absorbing(&mut second);
    let handle = second.handle();
    let second = serve(second);
    ended(first);
    wait_for(|| !absorbed.lock().unwrap().is_empty());
    assert_eq!(*absorbed.lock().unwrap(), ["7"]);
    handle.stop();
    ended(second);
}

/// A server that knows nothing of handoffs ends when it is told to, and again after it was started again.
#[cfg(feature = "axum")]
#[test]
fn a_server_runs_until_the_service_is_handed_over() {
    let Place { directory: _directory, path } = place();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut starting =
        runtime.block_on(async { fd_handoff::tokio::Handoff::builder(config(&path)).start().await.unwrap() });
    let listener = {
        let _inside = runtime.enter();
        starting.tcp_listener("http", "127.0.0.1:0".parse().unwrap()).unwrap()
    };
    let addr = listener.local_addr().unwrap();
    let mut handoff = runtime.block_on(starting.ready()).unwrap();
    let started = Arc::new(AtomicUsize::new(0));
    let starts = Arc::clone(&started);
    let serving = runtime.spawn(async move {
        let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
        let server = |handle: fd_handoff::tokio::Handle| {
            starts.fetch_add(1, SeqCst);
            axum::serve(listener.clone(), app.clone()).with_graceful_shutdown(handle.drained())
        };
        handoff.serve(server).await.unwrap().map(Result::unwrap)
    });
    let get = || {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("hello"), "{answer}");
    };
    get();
    // It says that it is ready, and then that it does not serve.
    let mut raw = common::raw::Raw::receive(&path);
    raw.take_offer();
    raw.say(&serde_json::json!({"type": "ready"}));
    raw.expect("release");
    raw.say(&serde_json::json!({"type": "abort", "code": "application", "reason": "no"}));
    wait_for(|| started.load(SeqCst) == 2);
    get();
    let second = start(Form::Blocking, &path).ready().unwrap();
    assert_eq!(runtime.block_on(serving).unwrap(), Some(()));
    drop(second);
}

fn a_watcher_sees_a_handoff_in_order(form: Form) {
    let Place { directory: _directory, path } = place();
    let first = start(form, &path).ready().unwrap();
    let connection = first.handle().count();
    let first = serve(first);
    let (status, mut watching) = Client::connect(&path).unwrap().watch().unwrap();
    assert_eq!(status.generation, 1);
    let mut second = start(form, &path);
    second.progress("halfway");
    let second = second.ready().unwrap();
    use News::{Active, Draining, Farewell, Progress, Ready, Receive, Release, Transferred};
    let seen: Vec<News> = (0..7).map(|_| next(&mut watching)).collect();
    assert_eq!(seen, [Receive, Transferred, Progress, Ready, Release, Active, Draining]);
    drop(connection);
    let rest: Vec<News> = std::iter::from_fn(|| watching.next())
        .map(|step| match step.unwrap() {
            Step::Event(event) => event.event,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(rest, [Draining, Farewell], "and then the connection ends");
    ended(first);
    drop(second);
}

// M147
fn of_much_progress_the_last_is_told(form: Form) {
    let Place { directory: _directory, path } = place();
    let first = serve(start(form, &path).ready().unwrap());
    let (_, watching) = Client::connect(&path).unwrap().watch().unwrap();
    let mut second = start(form, &path);
    (1..=1000).for_each(|step| second.progress(&step.to_string()));
    let second = second.ready().unwrap();
    let events = watching.map(|step| match step.unwrap() {
        Step::Event(event) => event,
        other => panic!("{other:?}"),
    });
    let told: Vec<String> = events
        .take_while(|event| event.event != News::Ready)
        .filter_map(|event| (event.event == News::Progress).then_some(event.message))
        .collect();
    assert_eq!(told.last().map(String::as_str), Some("1000"));
    assert!(told.len() < 500, "told of {}", told.len());
    ended(first);
    drop(second);
}

fn a_watcher_that_never_reads_is_let_go(form: Form) {
    const MANY: usize = 4000;
    let Place { directory: _directory, path } = place();
    let first = serve(start(form, &path).ready().unwrap());
    let mut deaf = UnixStream::connect(&path).unwrap();
    deaf.set_read_timeout(Some(PATIENCE)).unwrap();
    deaf.write_all(b"watch\n").unwrap();
    let second = start(form, &path);
    for _ in 0..MANY {
        assert!(common::raw::Raw::receive(&path).expect_error("error", "busy").contains("is under way"));
    }
    let second = second.ready().unwrap();
    ended(first);
    drop(second);
    let mut heard = Vec::new();
    deaf.read_to_end(&mut heard).unwrap();
    let refused = heard.windows(9).filter(|window| window == b"\"refused\"").count();
    assert!(refused < MANY, "all {refused} were kept for it");
}

fn sixty_four_watchers(form: Form) {
    let Place { directory: _directory, path } = place();
    let first = serve(start(form, &path).ready().unwrap());
    let mut watching: Vec<_> = (0..64).map(|_| Client::connect(&path).unwrap().watch().unwrap().1).collect();
    let second = start(form, &path).ready().unwrap();
    ended(first);
    drop(second);
    // The successor took the place of the one that has been quiet longest.
    let evicted = watching.remove(0).next().unwrap();
    assert!(matches!(evicted, Err(Error::Refused { code: ErrorCode::Evicted, .. })), "{evicted:?}");
    for steps in watching {
        let last = steps
            .map(|step| match step.unwrap() {
                Step::Event(event) => event.event,
                other => panic!("{other:?}"),
            })
            .last();
        assert_eq!(last, Some(News::Farewell));
    }
}
