//! Whole handoffs, in every pairing of the blocking and the tokio form.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::thread::scope;
use std::time::Duration;

use common::child::{self, Child, Parent};
use common::raw::{Raw, inode};
use common::{
    Form, Inheritance, Place, Service, allow_files, cause, config, forms, pairings, pipe, place, tcp_listener, text,
};
use fd_handoff::client::Client;
use fd_handoff::{Cause, Error, ErrorCode, Kind, NameError, Offer, Owner, Peer, State, StateError};
use socket2::{Domain, SockAddr, Socket, Type};

pairings! {
    snapshot_final_and_farewell
    three_generations_with_farewells_that_chain
    farewells_chain_though_the_control_socket_is_let_go
    every_kind_of_descriptor
    a_group_keeps_its_order
    three_hundred_descriptors
    a_thousand_descriptors
    what_nobody_takes_is_closed_at_ready
    strict_mode_refuses_to_leave_descriptors
    a_successor_that_gives_up
    a_successor_that_gives_up_says_why
    a_predecessor_that_refuses
    a_late_successor
}

forms! {
    takes_work_once_and_check_the_kind
    giving_up_a_cold_start
    an_address_that_changed
    offers_that_cannot_be_made
    a_successor_without_room
    a_predecessor_without_room
}

fn snapshot_final_and_farewell(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let http = tcp_listener();
    let addr = http.local_addr().unwrap();
    let control = old.listen(config(&path)).unwrap();
    assert_eq!(control.generation(), 1);
    assert!(control.farewell().unwrap().is_none(), "nobody came before");

    scope(|scope| {
        let successor = scope.spawn(|| {
            let mut inheritance = new.receive(config(&path)).unwrap();
            assert!(!inheritance.is_cold_start());
            assert_eq!(inheritance.generation(), 2);
            assert_eq!(inheritance.text().as_deref(), Some("snapshot"));
            inheritance.progress("nearly there");
            let http: TcpListener = inheritance.take("http").unwrap().unwrap();
            (http, inheritance.ready().unwrap())
        });
        let asking = control.accept().unwrap();
        assert_eq!((asking.pid(), asking.version()), (std::process::id(), "1.2.3"));
        let offer = Offer::new().descriptor("http", &http).state(State::bytes("snapshot"));
        let ready = asking.offer(offer).unwrap();
        let mut released = ready.release(Some(State::bytes("final"))).unwrap();
        assert!(matches!(control.accept(), Err(Error::Closed)));
        released.draining(1);
        drop(http);
        // It waits in the queue: nobody accepts at this moment.
        let mut client = TcpStream::connect(addr).unwrap();
        released.farewell(Some(State::bytes("farewell"))).unwrap();
        drop(control);

        let (http, control) = successor.join().unwrap();
        assert_eq!(control.generation(), 2);
        assert_eq!(text(&control.final_state().unwrap().unwrap()), "final");
        assert!(control.final_state().unwrap().is_none(), "it is taken once");
        assert_eq!(text(&control.farewell().unwrap().unwrap()), "farewell");
        assert!(control.farewell().unwrap().is_none());
        assert!(control.farewell().unwrap().is_none(), "and none comes after none");

        let (mut accepted, _) = http.accept().unwrap();
        accepted.write_all(b"served").unwrap();
        drop(accepted);
        let mut heard = String::new();
        client.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "served");

        let mut raw = Raw::connect(&path);
        assert_eq!(raw.expect("hello")["generation"], 2);
        let status = raw.ask("status");
        let attempt = &status["history"][0];
        assert_eq!((&attempt["from"], &attempt["outcome"]), (&1.into(), &"completed".into()), "{status}");
        assert!(attempt["total_us"].is_u64() && attempt["pause_us"].is_u64(), "{status}");
        assert_eq!(status["fds"][0]["name"], "http", "{status}");
        assert_eq!(status["predecessor"], serde_json::Value::Null, "{status}");
    });
}

/// Two upgrades back to back: the second one does not wait for the first one's drain, and what the first
/// generation says last still arrives, through the second, which has not read it.
fn three_generations_with_farewells_that_chain(old: Form, new: Form) {
    farewells_chain(old, new, false);
}

fn farewells_chain_though_the_control_socket_is_let_go(old: Form, new: Form) {
    farewells_chain(old, new, true);
}

fn farewells_chain(old: Form, new: Form, let_go: bool) {
    let Place { directory: _directory, path } = place();
    let first = old.listen(config(&path)).unwrap();
    scope(|scope| {
        let second = scope.spawn(|| new.receive(config(&path)).unwrap().ready().unwrap());
        let first_released = first.give(Offer::new(), None).unwrap();
        let second = second.join().unwrap();

        let third = scope.spawn(|| old.receive(config(&path)).unwrap().ready().unwrap());
        let second_released = second.give(Offer::new(), None).unwrap();
        let third = third.join().unwrap();
        assert_eq!(third.generation(), 3);

        let second = (!let_go).then_some(second);
        let parting = scope.spawn(|| second_released.farewell(Some(State::bytes("second"))));
        first_released.farewell(Some(State::bytes("first"))).unwrap();
        parting.join().unwrap().unwrap();
        assert_eq!(text(&third.farewell().unwrap().unwrap()), "first");
        assert_eq!(text(&third.farewell().unwrap().unwrap()), "second");
        assert!(third.farewell().unwrap().is_none());
        let history = Raw::greeted(&path).ask("status")["history"].clone();
        let outcomes: Vec<_> = history.as_array().unwrap().iter().map(|attempt| &attempt["outcome"]).collect();
        assert_eq!(outcomes, ["completed", "completed"]);
        drop(second);
    });
}

fn every_kind_of_descriptor(old: Form, new: Form) {
    let Place { directory, path } = place();
    let beside = |name: &str| directory.path().join(name);
    let tcp = tcp_listener();
    let stream = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    let (mut stream_peer, _) = tcp.accept().unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let unix = UnixListener::bind(beside("unix")).unwrap();
    let (unix_stream, mut unix_peer) = UnixStream::pair().unwrap();
    let datagram = UnixDatagram::bind(beside("datagram")).unwrap();
    let (seqpacket, seqpacket_peer) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    let seqpacket_listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    seqpacket_listener.bind(&SockAddr::unix(beside("seqpacket")).unwrap()).unwrap();
    seqpacket_listener.listen(4).unwrap();
    let mut file = File::create_new(beside("file")).unwrap();
    file.write_all(b"half").unwrap();
    let (mut pipe_out, pipe_in) = pipe();
    let other: OwnedFd = common::raw::own_pidfd();
    let v6 = TcpListener::bind("[::1]:0").ok();

    let mut offer = Offer::new()
        .descriptor("tcp", &tcp)
        .descriptor("stream", &stream)
        .descriptor("udp", &udp)
        .descriptor("unix", &unix)
        .descriptor("unix stream", &unix_stream)
        .descriptor("datagram", &datagram)
        .descriptor("seqpacket", &seqpacket)
        .descriptor("seqpacket listener", &seqpacket_listener)
        .descriptor("file", &file)
        .descriptor("pipe", &pipe_in)
        .descriptor("other", &other);
    if let Some(v6) = &v6 {
        offer = offer.descriptor("v6", v6);
    }

    let (seqpacket_path, at) = (beside("seqpacket"), path.clone());
    let control = old.listen(config(&path)).unwrap();
    let successor = std::thread::spawn(move || {
        let mut inheritance = new.receive(config(&at)).unwrap();
        let tcp: TcpListener = inheritance.take("tcp").unwrap().unwrap();
        let mut stream: TcpStream = inheritance.take("stream").unwrap().unwrap();
        let udp: UdpSocket = inheritance.take("udp").unwrap().unwrap();
        let unix: UnixListener = inheritance.take("unix").unwrap().unwrap();
        let mut unix_stream: UnixStream = inheritance.take("unix stream").unwrap().unwrap();
        let datagram: UnixDatagram = inheritance.take("datagram").unwrap().unwrap();
        let seqpacket: OwnedFd = inheritance.take("seqpacket").unwrap().unwrap();
        let seqpacket_listener: OwnedFd = inheritance.take("seqpacket listener").unwrap().unwrap();
        let mut file: File = inheritance.take("file").unwrap().unwrap();
        let mut pipe_in: File = inheritance.take("pipe").unwrap().unwrap();
        let other: OwnedFd = inheritance.take("other").unwrap().unwrap();
        if let Some(v6) = inheritance.take::<TcpListener>("v6").unwrap() {
            assert!(v6.local_addr().unwrap().is_ipv6());
        }
        let control = inheritance.ready().unwrap();

        let _client = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        tcp.accept().unwrap();
        stream.write_all(b"stream").unwrap();
        udp.send_to(b"udp", udp.local_addr().unwrap()).unwrap();
        assert_eq!(udp.recv(&mut [0; 8]).unwrap(), 3);
        let _client = UnixStream::connect(unix.local_addr().unwrap().as_pathname().unwrap()).unwrap();
        unix.accept().unwrap();
        unix_stream.write_all(b"unix stream").unwrap();
        datagram.send_to_addr(b"datagram", &datagram.local_addr().unwrap()).unwrap();
        assert_eq!(datagram.recv(&mut [0; 16]).unwrap(), 8);
        Socket::from(seqpacket).send(b"seqpacket").unwrap();
        let client = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        client.connect(&SockAddr::unix(seqpacket_path).unwrap()).unwrap();
        Socket::from(seqpacket_listener).accept().unwrap();
        file.write_all(b" and half").unwrap();
        pipe_in.write_all(b"pipe").unwrap();
        (control, inode(other))
    });
    control.give(offer, None).unwrap().farewell(None).unwrap();
    let (control, other_inode) = successor.join().unwrap();
    assert_eq!(other_inode, inode(&other));
    drop((stream, unix_stream, seqpacket, pipe_in));
    assert_eq!(read_all(&mut stream_peer), "stream");
    assert_eq!(read_all(&mut unix_peer), "unix stream");
    let mut packet = [0; 16];
    let length = (&seqpacket_peer).read(&mut packet).unwrap();
    assert_eq!(&packet[..length], b"seqpacket");
    file.rewind().unwrap();
    assert_eq!(std::fs::read_to_string(beside("file")).unwrap(), "half and half", "the offset is shared");
    assert_eq!(read_all(&mut pipe_out), "pipe");

    let status = Raw::greeted(&path).ask("status");
    let kind = |name: &str| {
        let fds = status["fds"].as_array().unwrap();
        fds.iter().find(|fd| fd["name"] == name).unwrap()["kind"].as_str().unwrap().to_owned()
    };
    assert_eq!(kind("tcp"), "tcp_listener");
    assert_eq!(kind("stream"), "tcp_stream");
    assert_eq!(kind("udp"), "udp_socket");
    assert_eq!(kind("unix"), "unix_listener");
    assert_eq!(kind("unix stream"), "unix_stream");
    assert_eq!(kind("datagram"), "unix_datagram");
    assert_eq!(kind("seqpacket"), "unix_seqpacket");
    assert_eq!(kind("seqpacket listener"), "unix_seqpacket_listener");
    assert_eq!(kind("file"), "file");
    assert_eq!(kind("pipe"), "pipe");
    assert_eq!(kind("other"), "other");
    drop(control);
}

fn read_all(from: &mut impl Read) -> String {
    let mut read = String::new();
    from.read_to_string(&mut read).unwrap();
    read
}

fn a_group_keeps_its_order(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let group: Vec<TcpListener> = (0..20).map(|_| tcp_listener()).collect();
    let addrs =
        |group: &[TcpListener]| -> Vec<SocketAddr> { group.iter().map(|it| it.local_addr().unwrap()).collect() };
    let control = old.listen(config(&path)).unwrap();
    scope(|scope| {
        let successor = scope.spawn(|| {
            let mut inheritance = new.receive(config(&path)).unwrap();
            match inheritance.take::<TcpListener>("group") {
                Err(Error::Several { name, count }) => assert_eq!((name.as_str(), count), ("group", 20)),
                other => panic!("{other:?}"),
            }
            assert!(inheritance.take_all::<TcpListener>("nothing").unwrap().is_empty());
            let group = inheritance.take_all::<TcpListener>("group").unwrap();
            assert!(inheritance.take_all::<TcpListener>("group").unwrap().is_empty(), "a take works once");
            (group, inheritance.ready().unwrap())
        });
        let first: Vec<&TcpListener> = group.iter().collect();
        let offer = Offer::new().group("group", first).group("empty", Vec::<&TcpListener>::new());
        control.give(offer, None).unwrap().farewell(None).unwrap();
        assert_eq!(addrs(&successor.join().unwrap().0), addrs(&group));
    });
}

fn three_hundred_descriptors(old: Form, new: Form) {
    many_descriptors(old, new, 300);
}

fn a_thousand_descriptors(old: Form, new: Form) {
    many_descriptors(old, new, 1000);
}

fn many_descriptors(old: Form, new: Form, count: usize) {
    // Several of these run at once.
    if !allow_files(8192) {
        return;
    }
    let Place { directory: _directory, path } = place();
    let pipes: Vec<_> = (0..count / 2).map(|_| pipe()).collect();
    let inodes: Vec<u64> = pipes.iter().flat_map(|(out, into)| [inode(out), inode(into)]).collect();
    let control = old.listen(config(&path)).unwrap();
    scope(|scope| {
        let successor = scope.spawn(|| {
            let mut inheritance = new.receive(config(&path)).unwrap();
            let pipes = inheritance.take_all::<File>("pipes").unwrap();
            (pipes, inheritance.ready().unwrap())
        });
        let fds: Vec<_> = pipes.iter().flat_map(|(out, into)| [out.as_fd(), into.as_fd()]).collect();
        control.give(Offer::new().group("pipes", &fds), None).unwrap().farewell(None).unwrap();
        let (taken, _control) = successor.join().unwrap();
        assert_eq!(taken.iter().map(inode).collect::<Vec<_>>(), inodes);
    });
}

/// Both sides in processes of their own: each needs most of the files that it may open.
#[test]
fn sixteen_thousand_descriptors() {
    if !allow_files(16_200) {
        return;
    }
    let Place { directory: _directory, path } = place();
    let mut old = Child::start("give 16000", &path);
    assert_eq!(old.hear(), "listening");
    let mut new = Child::start("take 16000", &path);
    assert_eq!(new.hear(), "took 16000");
    assert_eq!(old.hear(), "done");
}

fn give_many(mut parent: Parent) {
    let control = Form::Blocking.listen(config(&parent.path)).unwrap();
    parent.tell("listening");
    let listener = tcp_listener();
    let offer = Offer::new().group("many", std::iter::repeat_n(&listener, 16_000));
    control.give(offer, None).unwrap().farewell(None).unwrap();
    parent.tell("done");
}

fn take_many(mut parent: Parent) {
    let mut inheritance = Form::Blocking.receive(config(&parent.path)).unwrap();
    let many = inheritance.take_all::<TcpListener>("many").unwrap();
    let _control = inheritance.ready().unwrap();
    parent.tell(format!("took {}", many.len()));
}

fn what_nobody_takes_is_closed_at_ready(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let (mut out, into) = pipe();
    let control = old.listen(config(&path)).unwrap();
    let log = Log::default();
    scope(|scope| {
        let successor = scope.spawn(|| {
            let subscriber = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).finish();
            tracing::subscriber::with_default(subscriber, || {
                let inheritance = new.receive(config(&path)).unwrap();
                inheritance.ready().unwrap()
            })
        });
        let released = control.give(Offer::new().descriptor("left alone", &into), None).unwrap();
        drop(into);
        // The end of the pipe: neither side holds the other end any more.
        assert_eq!(read_all(&mut out), "");
        released.farewell(None).unwrap();
        let control = successor.join().unwrap();
        assert_eq!(Raw::greeted(&path).ask("status")["fds"], serde_json::json!([]));
        drop(control);
    });
    let log = log.text();
    assert!(log.contains("WARN") && log.contains("nobody took") && log.contains("left alone"), "{log}");
}

/// What is logged, kept.
#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        text(&self.0.lock().unwrap())
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Log {
    type Writer = Log;

    fn make_writer(&self) -> Log {
        self.clone()
    }
}

fn strict_mode_refuses_to_leave_descriptors(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let service = Service::start(old, config(&path), &path);
    let inheritance = new.receive(config(&path).strict(true)).unwrap();
    match inheritance.ready() {
        Err(Error::Unclaimed(names)) => assert_eq!(names, ["http"]),
        other => panic!("{:?}", other.err()),
    }
    let failure = service.failure();
    assert_eq!(failure.owner(), Owner::StillUs);
    assert!(matches!(cause(&failure), Cause::Aborted { peer: Peer::Successor, .. }), "{failure}");
    service.assert_unharmed();
}

fn a_successor_that_gives_up(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let service = Service::start(old, config(&path), &path);
    drop(new.receive(config(&path)).unwrap());
    let failure = service.failure();
    assert!(failure.may_serve());
    assert_eq!(failure.owner(), Owner::StillUs);
    match cause(&failure) {
        Cause::Aborted { peer: Peer::Successor, code: ErrorCode::Application, reason } => {
            assert!(reason.contains("gave up"), "{reason}");
        }
        other => panic!("{other}"),
    }
    let history = service.connect().ask("status")["history"].clone();
    assert_eq!(history[0]["outcome"], "failed", "{history}");
    assert!(history[0]["reason"].as_str().unwrap().contains("gave up"), "{history}");
    service.assert_unharmed();
}

/// A `main` that returns the error of a call drops what it has inherited.
fn a_successor_that_gives_up_says_why(old: Form, new: Form) {
    type Way<'a> = &'a dyn Fn(Inheritance);
    let Place { directory: _directory, path } = place();
    let service = Service::start(old, config(&path), &path);
    let occupied = tcp_listener();
    let addr = occupied.local_addr().unwrap();
    let bind = |it: &mut Inheritance| drop(it.tcp_listener("admin", addr).unwrap_err());
    let decode = |it: &Inheritance| drop(it.state_with(|_| Err::<(), _>(mistake())).unwrap_err());
    let cannot_bind = format!("cannot make \"admin\": {addr}: Address already in use");
    let ways: [(Way<'_>, &str); 11] = [
        (&|it| it.fail("the cache\nis cold"), "the cache is cold"),
        (&|mut it| bind(&mut it), &cannot_bind),
        (&|it| decode(&it), "cannot decode the state: a field is missing"),
        (&|mut it| drop(it.take::<UdpSocket>("http").unwrap_err()), "\"http\" is a TCP listener"),
        (
            &|mut it| drop(it.tcp_listener("http", "127.0.0.2:0".parse().unwrap()).unwrap_err()),
            "\"http\" was inherited at",
        ),
        (&|it| drop(it.ready().map(drop).unwrap_err()), "nobody took the inherited descriptors [\"http\"]"),
        (&|mut it| (bind(&mut it), it.fail("no other port")).1, "no other port"),
        // What it goes on after was no reason.
        (&|mut it| (bind(&mut it), it.progress("so without admin")).1, "the successor's application gave up"),
        (&|mut it| (bind(&mut it), drop(it.take::<TcpListener>("http"))).1, "the successor's application gave up"),
        (&|it| panics_with(it), "the successor's application panicked"),
        (&|mut it| (bind(&mut it), panics_with(it)).1, &cannot_bind),
    ];
    for (gives_up, why) in ways {
        gives_up(new.receive(config(&path).strict(true)).unwrap());
        match cause(&service.failure()) {
            Cause::Aborted { peer: Peer::Successor, code: ErrorCode::Application, reason } => {
                assert!(reason.starts_with(why), "{reason:?} instead of {why:?}");
            }
            other => panic!("{other} instead of {why:?}"),
        }
        let history = service.connect().ask("status")["history"].clone();
        let attempt = history.as_array().unwrap().last().unwrap();
        assert_eq!(attempt["outcome"], "failed", "{attempt}");
        assert!(attempt["reason"].as_str().unwrap().contains(why), "{attempt} instead of {why:?}");
    }
    service.assert_unharmed();
}

fn mistake() -> StateError {
    StateError::Decode("a field is missing".into())
}

fn panics_with(inheritance: Inheritance) {
    let panics = move || {
        let _inheritance = inheritance;
        panic!("a mistake in the new version");
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).unwrap_err();
}

fn giving_up_a_cold_start(form: Form) {
    let Place { directory: _directory, path } = place();
    form.receive(config(&path)).unwrap().fail("no such luck");
    let control = form.receive(config(&path)).unwrap().ready().unwrap();
    assert_eq!(control.generation(), 1);
}

fn a_predecessor_that_refuses(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let control = old.listen(config(&path)).unwrap();
    scope(|scope| {
        let refused = scope.spawn(|| new.receive(config(&path)).map(drop).unwrap_err());
        control.accept().unwrap().refuse("not today");
        assert_refused(&refused.join().unwrap(), "not today");

        let refused = scope.spawn(|| new.receive(config(&path)).unwrap().ready().map(drop).unwrap_err());
        control.accept().unwrap().offer(Offer::new()).unwrap().refuse("too late in the evening");
        assert_refused(&refused.join().unwrap(), "too late in the evening");

        // Dropping a step refuses as well.
        let refused = scope.spawn(|| new.receive(config(&path)).unwrap().ready().map(drop).unwrap_err());
        drop(control.accept().unwrap().offer(Offer::new()).unwrap());
        assert_refused(&refused.join().unwrap(), "gave up");

        let successor = scope.spawn(|| new.receive(config(&path)).unwrap().ready().unwrap());
        control.give(Offer::new(), None).unwrap().farewell(None).unwrap();
        assert_eq!(successor.join().unwrap().generation(), 2);
    });
}

fn assert_refused(error: &Error, why: &str) {
    match error {
        Error::Handoff(Cause::Aborted { peer: Peer::Predecessor, code: ErrorCode::Application, reason }) => {
            assert!(reason.contains(why), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

fn a_late_successor(old: Form, new: Form) {
    let Place { directory: _directory, path } = place();
    let hasty = config(&path).timeouts(|waits| waits.ready = Duration::from_millis(50));
    let service = Service::start(old, hasty, &path);
    let inheritance = new.receive(config(&path)).unwrap();
    let failure = service.failure();
    assert_eq!(failure.owner(), Owner::StillUs);
    match cause(&failure) {
        Cause::Late { peer: Peer::Successor, awaited, .. } => assert_eq!(*awaited, "ready"),
        other => panic!("{other}"),
    }
    match inheritance.ready().err() {
        Some(Error::Handoff(Cause::Aborted { peer: Peer::Predecessor, code: ErrorCode::Timeout, .. })) => {}
        other => panic!("{other:?}"),
    }
    // A proper successor is as fast as the machine allows; this one is given the time.
    assert_eq!(service.connect().ask("status")["phase"], "serving");
}

fn takes_work_once_and_check_the_kind(form: Form) {
    let Place { directory: _directory, path } = place();
    let listener = tcp_listener();
    let (_out, into) = pipe();
    let control = form.listen(config(&path)).unwrap();
    scope(|scope| {
        let successor = scope.spawn(|| {
            let mut inheritance = form.receive(config(&path)).unwrap();
            match inheritance.take::<UdpSocket>("http") {
                Err(Error::WrongKind { name, found, wanted }) => {
                    assert_eq!((name.as_str(), found, wanted), ("http", Kind::TcpListener, &[Kind::UdpSocket][..]));
                }
                other => panic!("{other:?}"),
            }
            assert!(matches!(inheritance.take::<TcpStream>("http"), Err(Error::WrongKind { .. })));
            assert!(matches!(inheritance.take::<UnixListener>("http"), Err(Error::WrongKind { .. })));
            assert!(matches!(inheritance.take::<File>("http"), Err(Error::WrongKind { .. })));
            assert!(matches!(inheritance.take_all::<TcpListener>("mixed"), Err(Error::WrongKind { .. })));
            assert!(matches!(
                inheritance.take::<OwnedFd>("@control"),
                Err(Error::Name(NameError::Reserved(name))) if name == "@control"
            ));
            assert!(inheritance.take::<TcpListener>("https").unwrap().is_none());
            // A wrong take takes nothing.
            assert!(inheritance.take::<TcpListener>("http").unwrap().is_some());
            assert!(inheritance.take::<TcpListener>("http").unwrap().is_none());
            assert_eq!(inheritance.take_all::<OwnedFd>("mixed").unwrap().len(), 2);
            inheritance.ready().unwrap()
        });
        let mixed = [listener.as_fd(), into.as_fd()];
        let offer = Offer::new().descriptor("http", &listener).group("mixed", &mixed);
        control.give(offer, None).unwrap().farewell(None).unwrap();
        successor.join().unwrap();
    });
}

fn an_address_that_changed(form: Form) {
    let Place { directory: _directory, path } = place();
    let (http, udp) = (tcp_listener(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let (addr, any): (SocketAddr, SocketAddr) = (http.local_addr().unwrap(), "127.0.0.1:0".parse().unwrap());
    let control = form.listen(config(&path)).unwrap();
    scope(|scope| {
        let successor = scope.spawn(|| {
            let mut inheritance = form.receive(config(&path)).unwrap();
            let elsewhere: SocketAddr = "127.0.0.2:0".parse().unwrap();
            match inheritance.tcp_listener("http", elsewhere) {
                Err(Error::AddressChanged { name, found, wanted }) => {
                    assert_eq!((name.as_str(), found, wanted), ("http", addr.to_string(), elsewhere.to_string()));
                }
                other => panic!("{other:?}"),
            }
            let other_port = SocketAddr::new(addr.ip(), addr.port() ^ 1);
            assert!(matches!(inheritance.tcp_listener("http", other_port), Err(Error::AddressChanged { .. })));
            assert!(matches!(inheritance.udp_socket("udp", elsewhere), Err(Error::AddressChanged { .. })));
            assert!(matches!(inheritance.udp_socket("http", any), Err(Error::WrongKind { .. })));
            assert_eq!(inheritance.tcp_listener("http", addr).unwrap().local_addr().unwrap(), addr);
            assert_eq!(inheritance.udp_socket("udp", any).unwrap().local_addr().unwrap().ip(), any.ip());
            // A new name is a new socket, and `status` knows both.
            let admin = inheritance.tcp_listener("admin", any).unwrap();
            match inheritance.tcp_listener("taken", admin.local_addr().unwrap()) {
                Err(Error::Io { source, .. }) => assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse),
                other => panic!("{other:?}"),
            }
            (admin, inheritance.ready().unwrap())
        });
        let offer = Offer::new().descriptor("http", &http).descriptor("udp", &udp);
        control.give(offer, None).unwrap().farewell(None).unwrap();
        let (_admin, control) = successor.join().unwrap();
        let status = Raw::greeted(&path).ask("status");
        let names: Vec<_> = status["fds"].as_array().unwrap().iter().map(|fd| &fd["name"]).collect();
        assert_eq!(names, ["http", "udp", "admin"]);
        drop(control);
    });
}

/// Each offer that cannot be made is an error on this side, a clear word on the other, and no harm.
fn offers_that_cannot_be_made(form: Form) {
    let Place { directory: _directory, path } = place();
    let control = form.listen(config(&path)).unwrap();
    let fd = tcp_listener();
    let long = "n".repeat(65);
    let fail = |offer: Offer<'_>| {
        scope(|scope| {
            let refused = scope.spawn(|| Form::Blocking.receive(config(&path)).map(drop).unwrap_err());
            let failure = control.give(offer, None).map(drop).unwrap_err();
            assert_eq!(failure.owner(), Owner::StillUs);
            assert_refused(&refused.join().unwrap(), "");
            assert_eq!(Raw::greeted(&path).ask("status")["phase"], "serving");
            failure
        })
    };
    // The control listener and the lock of the owner are two more.
    let failure = fail(Offer::new().group("many", std::iter::repeat_n(&fd, 16_383)));
    assert!(matches!(failure.cause(), Error::TooManyDescriptors { count: 16_385 }), "{failure}");
    let failure = fail(Offer::new().descriptor("a", &fd).descriptor("b", &fd).descriptor("a", &fd));
    assert!(matches!(failure.cause(), Error::DuplicateName(name) if name.as_str() == "a"), "{failure}");
    let failure = fail(Offer::new().descriptor("@control", &fd));
    assert!(matches!(failure.cause(), Error::Name(NameError::Reserved(_))), "{failure}");
    let failure = fail(Offer::new().descriptor("", &fd));
    assert!(matches!(failure.cause(), Error::Name(NameError::Empty)), "{failure}");
    let failure = fail(Offer::new().descriptor(&long, &fd));
    assert!(matches!(failure.cause(), Error::Name(NameError::TooLong(65))), "{failure}");
    let failure = fail(Offer::new().descriptor("a\nb", &fd));
    assert!(matches!(failure.cause(), Error::Name(NameError::ControlCharacter(_))), "{failure}");

    scope(|scope| {
        let successor = scope.spawn(|| form.receive(config(&path)).unwrap().ready().unwrap());
        control.give(Offer::new().descriptor("a", &fd), None).unwrap().farewell(None).unwrap();
        assert_eq!(successor.join().unwrap().generation(), 2);
    });
}

fn a_successor_without_room(form: Form) {
    let Place { directory: _directory, path } = place();
    let listener = tcp_listener();
    let control = form.listen(config(&path)).unwrap();
    let mut child = Child::start(if form == Form::Blocking { "no room" } else { "no room on tokio" }, &path);
    let many = Offer::new().group("many", std::iter::repeat_n(&listener, 300));
    let failure = control.give(many, None).map(drop).unwrap_err();
    assert_eq!(failure.owner(), Owner::StillUs);
    let said = child.hear();
    assert!(said.contains("the limit is 100 (RLIMIT_NOFILE"), "{said}");
    match cause(&failure) {
        Cause::Aborted { peer: Peer::Successor, code: ErrorCode::Descriptors, reason } => {
            assert!(reason.contains("the limit is 100"), "{reason}");
        }
        other => panic!("{other}"),
    }
    scope(|scope| {
        let successor = scope.spawn(|| form.receive(config(&path)).unwrap().ready().unwrap());
        control.give(Offer::new(), None).unwrap().farewell(None).unwrap();
        assert_eq!(successor.join().unwrap().generation(), 2);
    });
}

fn receive_without_room(form: Form, mut parent: Parent) {
    limit_files(100);
    let error = form.receive(config(&parent.path)).map(drop).unwrap_err();
    parent.tell(format!("{error:?}"));
}

/// What it needs was put aside when there was room.
fn a_predecessor_without_room(form: Form) {
    let Place { directory: _directory, path } = place();
    let mut old =
        Child::start(if form == Form::Blocking { "give without room" } else { "give without room on tokio" }, &path);
    assert_eq!(old.hear(), "listening");
    for _ in 0..3 {
        assert_eq!(Client::connect(&path).unwrap().status().unwrap().generation, 1);
    }
    let mut inheritance = Form::Blocking.receive(config(&path)).unwrap();
    assert_eq!(inheritance.take_all::<TcpListener>("many").unwrap().len(), 300);
    assert_eq!(&**inheritance.received().unwrap(), b"state");
    let control = inheritance.ready().unwrap();
    assert_eq!((control.generation(), old.hear().as_str()), (2, "done"));
}

fn give_without_room(form: Form, mut parent: Parent) {
    limit_files(100);
    let listener = tcp_listener();
    let control = form.listen(config(&parent.path)).unwrap();
    let _all = every_descriptor_that_is_left(&listener);
    parent.tell("listening");
    let many = Offer::new().group("many", std::iter::repeat_n(&listener, 300)).state(State::bytes("state"));
    control.give(many, None).unwrap().farewell(None).unwrap();
    parent.tell("done");
}

fn every_descriptor_that_is_left(any: &impl AsFd) -> Vec<OwnedFd> {
    std::iter::from_fn(|| any.as_fd().try_clone_to_owned().ok()).collect()
}

fn limit_files(count: u64) {
    use nix::sys::resource::{Resource, setrlimit};
    setrlimit(Resource::RLIMIT_NOFILE, count, count).unwrap();
}

/// The soft limit is this library's to raise.
#[test]
fn a_successor_with_a_low_soft_limit_makes_room() {
    let Place { directory: _directory, path } = place();
    let listener = tcp_listener();
    let control = Form::Blocking.listen(config(&path)).unwrap();
    let mut child = Child::start("low soft limit", &path);
    let many = Offer::new().group("many", std::iter::repeat_n(&listener, 300));
    control.give(many, None).unwrap().farewell(None).unwrap();
    assert_eq!(child.hear(), "took 300");
}

fn receive_with_a_low_soft_limit(mut parent: Parent) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 100, hard).unwrap();
    let mut inheritance = Form::Blocking.receive(config(&parent.path)).unwrap();
    let many = inheritance.take_all::<TcpListener>("many").unwrap();
    let _control = inheritance.ready().unwrap();
    parent.tell(format!("took {}", many.len()));
}

/// For what a handoff opens besides, its state above all, before anything is offered.
#[test]
fn a_predecessor_with_a_low_soft_limit_makes_room() {
    let Place { directory: _directory, path } = place();
    let mut old = Child::start("give with a low soft limit", &path);
    assert_eq!(old.hear(), "listening");
    let inheritance = Form::Blocking.receive(config(&path)).unwrap();
    assert_eq!(&**inheritance.received().unwrap(), b"state");
    inheritance.ready().unwrap();
    assert_eq!(old.hear(), "done");
}

fn give_with_a_low_soft_limit(mut parent: Parent) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let control = Form::Blocking.listen(config(&parent.path)).unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64 - 1;
    // The connection, and a pidfd of whoever connects.
    setrlimit(Resource::RLIMIT_NOFILE, open + 2, hard).unwrap();
    parent.tell("listening");
    control.give(Offer::new().state(State::bytes("state")), None).unwrap().farewell(None).unwrap();
    parent.tell("done");
}

/// Children that are started at any moment of a handoff inherit nothing of it.
#[test]
fn processes_that_start_meanwhile_see_no_descriptor() {
    let Place { directory: _directory, path } = place();
    let pipes: Vec<_> = (0..100).map(|_| pipe()).collect();
    let fds: Vec<_> = pipes.iter().flat_map(|(out, into)| [out.as_fd(), into.as_fd()]).collect();
    let inodes: Vec<u64> = fds.iter().map(inode).collect();
    let done = std::sync::atomic::AtomicBool::new(false);
    let path = &path;
    scope(|scope| {
        let spawner = scope.spawn(|| {
            let mut children = 0;
            while !done.load(std::sync::atomic::Ordering::SeqCst) || children < 5 {
                let mut child = Child::start("list descriptors", path);
                let seen = child.hear();
                children += 1;
                assert!(!inodes.iter().any(|inode| seen.contains(&format!("pipe:[{inode}]"))), "{seen}");
            }
        });
        for round in 0..20 {
            let (old, new) =
                if round % 2 == 0 { (Form::Blocking, Form::last()) } else { (Form::last(), Form::Blocking) };
            let control = old.listen(config(path)).unwrap();
            let successor = scope.spawn(move || {
                let mut inheritance = new.receive(config(path)).unwrap();
                let taken = inheritance.take_all::<File>("pipes").unwrap();
                (taken, inheritance.ready().unwrap())
            });
            control
                .give(Offer::new().group("pipes", &fds).state(State::bytes("state")), None)
                .unwrap()
                .farewell(None)
                .unwrap();
            let (taken, control) = successor.join().unwrap();
            for fd in &taken {
                let flags = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
                assert_eq!(flags & nix::libc::FD_CLOEXEC, nix::libc::FD_CLOEXEC);
            }
            control.close();
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        spawner.join().unwrap();
    });
}

fn list_descriptors(mut parent: Parent) {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links: Vec<String> =
        links.filter_map(|fd| Some(std::fs::read_link(fd.path()).ok()?.display().to_string())).collect();
    parent.tell(links.join(" "));
}

#[test]
#[ignore = "run by other tests as a process of its own"]
fn child_main() {
    let Some((role, parent)) = child::role() else { return };
    match role.as_str() {
        "give 16000" => give_many(parent),
        "take 16000" => take_many(parent),
        "no room" => receive_without_room(Form::Blocking, parent),
        "no room on tokio" => receive_without_room(Form::last(), parent),
        "give without room" => give_without_room(Form::Blocking, parent),
        "give without room on tokio" => give_without_room(Form::last(), parent),
        "low soft limit" => receive_with_a_low_soft_limit(parent),
        "give with a low soft limit" => give_with_a_low_soft_limit(parent),
        "list descriptors" => list_descriptors(parent),
        other => panic!("no role {other}"),
    }
}
