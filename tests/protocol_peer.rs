//! The wire as a peer in another language meets it: one end is the library, the other one reads and writes
//! lines and descriptors as `protocol.md` says.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use fd_handoff::core::wire::FrameReader;
use fd_handoff::{
    Config, Control, Error, ErrorCode, Inheritance, Offer, PathProblem, PeerPolicy, State, handoff_listen,
    handoff_receive,
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde_json::{Value, json};

/// Where a test would otherwise hang for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory with a place for a control socket.
struct Place {
    directory: tempfile::TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Place {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        Place { directory, path }
    }

    fn lock_file(&self) -> PathBuf {
        self.directory.path().join("control.sock.lock")
    }

    /// At the end of `active` a predecessor kills its successor, which is this very process.
    fn config(&self) -> Config {
        Config::new(&self.path).timeouts(|timeouts| timeouts.active = PATIENCE)
    }

    /// A configuration that does not wait for the lock.
    fn hasty(&self) -> Config {
        self.config().timeouts(|timeouts| timeouts.lock = Duration::ZERO)
    }

    fn inode(&self) -> u64 {
        fs::symlink_metadata(&self.path).unwrap().ino()
    }
}

/// One end of a control connection that knows nothing but lines and descriptors.
struct Peer {
    stream: UnixStream,
    reader: FrameReader<OwnedFd>,
}

impl Peer {
    fn new(stream: UnixStream) -> Peer {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Peer { stream, reader: FrameReader::default() }
    }

    fn connect(place: &Place) -> Peer {
        Peer::new(UnixStream::connect(&place.path).unwrap())
    }

    /// Connects, and reads `hello`.
    fn greeted(place: &Place) -> Peer {
        let mut peer = Peer::connect(place);
        peer.expect("hello");
        peer
    }

    fn say(&mut self, frame: &Value) {
        self.say_with(frame, &[]);
    }

    fn say_with(&mut self, frame: &Value, fds: &[BorrowedFd<'_>]) {
        let line = format!("{frame}\n");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        let sent = sendmsg(&self.stream, &[IoSlice::new(line.as_bytes())], &mut control, SendFlags::NOSIGNAL).unwrap();
        assert_eq!(sent, line.len());
    }

    /// The next frame and its descriptors; nothing at the end of the stream.
    fn next(&mut self) -> Option<(Value, Vec<OwnedFd>)> {
        loop {
            if let Some(line) = self.reader.next_line() {
                let (line, fds) = line.unwrap();
                return Some((serde_json::from_slice(line).unwrap(), fds));
            }
            let mut buffer = vec![0; 65_536];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received =
                recvmsg(&self.stream, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC);
            let received = match received {
                Ok(received) if received.bytes > 0 => received,
                Ok(_) | Err(rustix::io::Errno::CONNRESET) => return None,
                Err(error) => panic!("{error}"),
            };
            let mut fds = Vec::new();
            for part in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = part {
                    fds.extend(rights);
                }
            }
            self.reader.push(&buffer[..received.bytes], fds);
        }
    }

    /// The next frame, which is of this type.
    fn expect(&mut self, tag: &str) -> (Value, Vec<OwnedFd>) {
        let (frame, fds) = self.next().unwrap_or_else(|| panic!("{tag} was to come, and the stream ended"));
        assert_eq!(frame["type"], tag, "{frame}");
        (frame, fds)
    }

    fn expect_error(&mut self, code: &str) {
        assert_eq!(self.expect("error").0["code"], code);
    }

    /// A successor that gets everything, up to `ready`.
    fn take_all(&mut self) -> (Value, Vec<OwnedFd>) {
        self.say(&receive());
        let (offer, _) = self.expect("offer");
        let mut all = Vec::new();
        for batch in 0..offer["batches"].as_u64().unwrap() {
            all.extend(self.expect("descriptors").1);
            self.say(&json!({"type": "received", "batch": batch}));
        }
        (offer, all)
    }
}

fn receive() -> Value {
    json!({"type": "receive", "protocol": {"min": 1, "max": 1}, "pid": 1, "version": "1", "schemas": [0]})
}

/// A service that speaks the protocol by hand.
struct RawService {
    path: PathBuf,
    listener: UnixListener,
    peer: Option<Peer>,
}

impl RawService {
    fn new(place: &Place) -> RawService {
        RawService { path: place.path.clone(), listener: UnixListener::bind(&place.path).unwrap(), peer: None }
    }

    fn accept(&mut self) -> &mut Peer {
        let (stream, _) = self.listener.accept().unwrap();
        let peer = self.peer.insert(Peer::new(stream));
        peer.say(&json!({"type": "hello", "protocol": {"min": 1, "max": 1}, "name": "raw", "version": "1", "pid": 1,
            "generation": 7, "phase": "serving"}));
        peer.expect("receive");
        peer
    }

    fn peer(&mut self) -> &mut Peer {
        self.peer.as_mut().unwrap()
    }

    fn control_entry(&self) -> Value {
        json!({"name": "@control", "kind": "unix_listener", "addr": self.path})
    }

    /// Offers these descriptors, in one batch, and announces this state.
    fn offer(&mut self, entries: &[Value], fds: &[BorrowedFd<'_>], state: Option<&Value>) {
        let peer = self.peer.as_mut().unwrap();
        peer.say(&json!({"type": "offer", "protocol": 1, "generation": 7, "pid": 1, "pidfd": false,
            "descriptors": fds.len(), "batches": usize::from(!fds.is_empty()), "state": state, "path": null,
            "ready_timeout_ms": 60000, "active_timeout_ms": 60000, "drain_timeout_ms": 60000, "history": []}));
        if !fds.is_empty() {
            peer.say_with(&json!({"type": "descriptors", "batch": 0, "entries": entries}), fds);
        }
    }

    /// Offers the control listener and a state.
    fn offer_state(&mut self, state: &Value, memfd: &File) {
        self.accept();
        let (entries, listener) = ([self.control_entry()], self.listener.try_clone().unwrap());
        self.offer(&entries, &[listener.as_fd()], Some(state));
        self.peer().expect("received");
        self.peer().say_with(&json!({"type": "state", "state": state}), &[memfd.as_fd()]);
    }

    /// Hands over the control listener alone, up to the successor's `active`.
    fn hand_over(&mut self) {
        self.accept();
        let (entries, listener) = ([self.control_entry()], self.listener.try_clone().unwrap());
        self.offer(&entries, &[listener.as_fd()], None);
        self.peer().expect("received");
        self.peer().expect("ready");
        self.peer().say(&json!({"type": "release", "state": null, "monotonic_us": 0, "timens": null}));
        self.peer().expect("active");
    }
}

/// A generation that took over from a service that speaks by hand.
fn second_generation(place: &Place) -> (RawService, Control) {
    let mut service = RawService::new(place);
    let config = place.config();
    let successor = std::thread::spawn(move || handoff_receive(config).unwrap().ready().unwrap());
    service.hand_over();
    (service, successor.join().unwrap())
}

fn receiving(place: &Place) -> JoinHandle<fd_handoff::Result<Inheritance>> {
    let config = place.config();
    std::thread::spawn(move || handoff_receive(config))
}

fn problem<T>(result: fd_handoff::Result<T>) -> PathProblem {
    match result {
        Err(Error::Path { problem, .. }) => problem,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was to fail"),
    }
}

// M1
#[test]
fn who_holds_the_lock_may_start() {
    let place = Place::new();
    let lock = nix::fcntl::Flock::lock(File::create(place.lock_file()).unwrap(), nix::fcntl::FlockArg::LockExclusive);
    assert!(matches!(problem(handoff_listen(place.hasty())), PathProblem::Starting(_)));
    drop(lock);
    let starting = handoff_receive(place.config()).unwrap();
    assert!(matches!(problem(handoff_listen(place.hasty())), PathProblem::Starting(_)), "until it listens");
    let _serving = starting.ready().unwrap();
    assert!(matches!(problem(handoff_listen(place.hasty())), PathProblem::AlreadyRunning));
}

// M2
#[test]
fn the_lock_file_stays() {
    let place = Place::new();
    handoff_listen(place.config()).unwrap().close();
    let lock = fs::symlink_metadata(place.lock_file()).unwrap();
    assert_eq!(lock.permissions().mode() & 0o777, 0o600);
    assert!(!place.path.exists(), "the socket goes");
}

// M3
#[test]
fn a_live_socket_is_not_replaced() {
    let place = Place::new();
    let _serving = handoff_listen(place.config()).unwrap();
    let inode = place.inode();
    assert!(matches!(problem(handoff_listen(place.config())), PathProblem::AlreadyRunning));
    assert_eq!(place.inode(), inode);
    Peer::greeted(&place);
}

// M4
#[test]
fn a_stale_socket_is_replaced_and_nothing_is_left_behind() {
    let place = Place::new();
    drop(UnixListener::bind(&place.path).unwrap());
    let stale = place.inode();
    // Renamed over: the stale inode is held by a link, so that its number is not used again.
    fs::hard_link(&place.path, place.directory.path().join("stale")).unwrap();
    let _serving = handoff_listen(place.config()).unwrap();
    assert_ne!(place.inode(), stale);
    Peer::greeted(&place);
    let mut names: Vec<_> = fs::read_dir(place.directory.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["control.sock", "control.sock.lock", "stale"]);
}

// M5
#[test]
fn what_is_not_a_socket_is_left_alone() {
    let place = Place::new();
    fs::write(&place.path, "precious").unwrap();
    assert!(matches!(problem(handoff_listen(place.config())), PathProblem::NotASocket));
    assert_eq!(fs::read_to_string(&place.path).unwrap(), "precious");

    for target in ["nothing.sock", "socket.sock"] {
        let place = Place::new();
        drop(UnixListener::bind(place.directory.path().join("socket.sock")).unwrap());
        std::os::unix::fs::symlink(target, &place.path).unwrap();
        assert!(matches!(problem(handoff_listen(place.config())), PathProblem::NotASocket), "a link to {target}");
        assert_eq!(fs::read_link(&place.path).unwrap(), Path::new(target));
    }
}

// M6
#[test]
fn the_path_has_its_mode_before_anybody_can_connect() {
    for (config_mode, expected) in [(None, 0o600), (Some(0o660), 0o660)] {
        let place = Place::new();
        let config = config_mode.map_or(place.config(), |mode| place.config().mode(mode));
        let _starting = handoff_receive(config).unwrap();
        assert_eq!(fs::symlink_metadata(&place.path).unwrap().permissions().mode() & 0o777, expected);
        assert!(UnixStream::connect(&place.path).is_err(), "it does not listen yet");
    }
}

// M7
#[test]
fn a_path_that_is_somebody_elses_is_not_removed() {
    let place = Place::new();
    let control = handoff_listen(place.config()).unwrap();
    fs::rename(&place.path, place.directory.path().join("moved")).unwrap();
    let _other = UnixListener::bind(&place.path).unwrap();
    let inode = place.inode();
    drop(control);
    assert_eq!(place.inode(), inode);
}

// M8
#[test]
fn a_path_may_be_longer_than_a_socket_address() {
    let directory = tempfile::tempdir().unwrap();
    let deep = directory.path().join("d".repeat(100)).join("e".repeat(100));
    fs::create_dir_all(&deep).unwrap();
    let _serving = handoff_listen(deep.join("control.sock")).unwrap();
    assert!(matches!(problem(handoff_listen(deep.join("control.sock"))), PathProblem::AlreadyRunning));
    // As the specification tells others to reach it.
    let open = File::open(&deep).unwrap();
    let short = format!("/proc/self/fd/{}/control.sock", std::os::fd::AsRawFd::as_raw_fd(&open));
    Peer::new(UnixStream::connect(short).unwrap()).expect("hello");
}

// M28
#[test]
fn a_client_that_is_not_allowed_hears_nothing_else() {
    let place = Place::new();
    let _serving = handoff_listen(place.config().peers(PeerPolicy::nobody())).unwrap();
    let mut peer = Peer::connect(&place);
    peer.expect_error("denied");
    assert!(peer.next().is_none());
}

// M29
#[test]
fn a_service_that_is_not_trusted_hears_nothing() {
    let place = Place::new();
    let listener = UnixListener::bind(&place.path).unwrap();
    let received = handoff_receive(place.config().peers(PeerPolicy::nobody()));
    assert!(matches!(received, Err(Error::PeerDenied { .. })));
    let mut said = Vec::new();
    listener.accept().unwrap().0.read_to_end(&mut said).unwrap();
    assert_eq!(said, b"");
}

// M30, M32
#[test]
fn a_client_is_greeted_and_may_ask() {
    let place = Place::new();
    // It may be a container's, where these tests run in one.
    let control = handoff_listen(place.config().name("app").version("1.4.2").instance("")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    control.register("http", &listener).unwrap();
    let mut peer = Peer::connect(&place);
    let (hello, _) = peer.expect("hello");
    let pid = std::process::id();
    let expected = json!({"type": "hello", "protocol": {"min": 1, "max": 1}, "name": "app", "version": "1.4.2",
        "pid": pid, "generation": 1, "phase": "serving"});
    assert_eq!(hello, expected);

    peer.stream.write_all(b"status\r\n").unwrap();
    let (mut status, _) = peer.expect("status");
    assert!(status["uptime_ms"].take().is_u64());
    let mut fd = json!({"name": "http", "kind": "tcp_listener", "addr": listener.local_addr().unwrap().to_string()});
    // The kernel may not say.
    if let Some(netns) = fd_handoff::client::own_network() {
        fd["netns"] = json!(netns);
    }
    let fds = [fd];
    let expected = json!({"type": "status", "name": "app", "version": "1.4.2", "pid": pid, "generation": 1,
        "phase": "serving", "uptime_ms": null, "fds": fds, "fd_count": 1, "history": [], "successor": null,
        "predecessor": null});
    assert_eq!(status, expected);
}

#[test]
fn texts_of_the_configuration_keep_to_their_limit() {
    let place = Place::new();
    let _serving = handoff_listen(place.config().name("n".repeat(200_000)).version("v\n".repeat(1_000))).unwrap();
    let (hello, _) = Peer::connect(&place).expect("hello");
    assert_eq!(hello["name"].as_str().unwrap().len(), 1_024);
    assert_eq!(hello["version"].as_str().unwrap().len(), 1_024);
}

// M36
#[test]
fn silent_and_halting_clients_do_not_delay_a_handoff() {
    let place = Place::new();
    let control = handoff_listen(place.config()).unwrap();
    let mut looking: Vec<Peer> = (0..60).map(|_| Peer::connect(&place)).collect();
    for peer in looking.iter_mut().step_by(2) {
        peer.stream.write_all(b"{\"type\":\"stat").unwrap();
    }
    let successor = receiving(&place);
    let ready = std::thread::spawn(move || successor.join().unwrap().unwrap().ready().unwrap());
    let released = control.accept().unwrap().offer(Offer::new()).unwrap().release(None).unwrap();
    released.farewell(None).unwrap();
    assert_eq!(ready.join().unwrap().generation(), 2);
}

// M38
#[test]
fn the_quietest_client_makes_room() {
    let place = Place::new();
    let _serving = handoff_listen(place.config()).unwrap();
    let mut peers: Vec<Peer> = (0..64).map(|_| Peer::greeted(&place)).collect();
    // The second is quietest once the first has said something.
    peers[0].say(&json!({"type": "status"}));
    peers[0].expect("status");
    peers.push(Peer::greeted(&place));
    let mut evicted = peers.remove(1);
    evicted.expect_error("evicted");
    assert!(evicted.next().is_none());
    for peer in &mut peers {
        peer.say(&json!({"type": "help"}));
        peer.expect("help");
    }
}

// M26
#[test]
fn a_service_takes_no_descriptors() {
    let place = Place::new();
    let _serving = handoff_listen(place.config()).unwrap();
    let mut peer = Peer::greeted(&place);
    let (mut end, writer) = std::io::pipe().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [writer.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    match sendmsg(&peer.stream, &[IoSlice::new(b"status\n")], &mut control, SendFlags::NOSIGNAL) {
        // SO_PASSRIGHTS.
        Err(error) => assert_eq!(error, rustix::io::Errno::PERM),
        Ok(_) => {
            peer.expect_error("descriptors");
            assert!(peer.next().is_none());
        }
    }
    drop(writer);
    assert_eq!(end.read(&mut [0]).unwrap(), 0, "nobody keeps it");
}

// M41
#[test]
fn a_second_successor_is_told_that_the_first_is_under_way() {
    let place = Place::new();
    let control = handoff_listen(place.config()).unwrap();
    let mut first = Peer::greeted(&place);
    first.say(&receive());
    let successor = control.accept().unwrap();
    let mut second = Peer::greeted(&place);
    second.say(&receive());
    second.expect_error("busy");
    assert!(second.next().is_none());
    let offering = std::thread::spawn(move || successor.offer(Offer::new()).map(|_ready| ()));
    first.expect("offer");
    drop(first);
    assert!(offering.join().unwrap().is_err());
}

// M19, M51, M55, M60
#[test]
fn a_successor_by_hand_gets_the_service() {
    let place = Place::new();
    let control = handoff_listen(place.config()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let giving = std::thread::spawn(move || {
        let offer = Offer::new().descriptor("http", &listener).state(State::bytes(*b"snapshot"));
        let ready = control.accept().unwrap().offer(offer).unwrap();
        let released = ready.release(Some(State::bytes(*b"final"))).unwrap();
        released.farewell(Some(State::bytes(*b"farewell"))).unwrap();
    });

    let mut peer = Peer::greeted(&place);
    peer.say(&receive());
    let (offer, pidfd) = peer.expect("offer");
    assert_eq!((&offer["protocol"], &offer["generation"], &offer["descriptors"]), (&json!(1), &json!(1), &json!(3)));
    assert_eq!(offer["pidfd"].as_bool(), Some(pidfd.len() == 1));
    let (batch, fds) = peer.expect("descriptors");
    let (path, addr) = (place.path.to_str(), addr.to_string());
    let facts = |place: usize| (&batch["entries"][place]["name"], &batch["entries"][place]["kind"]);
    assert_eq!(facts(0), (&json!("@control"), &json!("unix_listener")));
    assert_eq!(facts(1), (&json!("@owner"), &json!("file")));
    assert_eq!(facts(2), (&json!("http"), &json!("tcp_listener")));
    assert_eq!(batch["entries"][0]["addr"].as_str(), path);
    assert_eq!(batch["entries"][2]["addr"].as_str(), Some(&addr[..]));
    peer.say(&json!({"type": "received", "batch": 0}));
    let (state, memfd) = peer.expect("state");
    assert_eq!(state["state"], offer["state"]);
    assert_state(&state["state"], &memfd, b"snapshot");

    peer.say(&json!({"type": "progress", "message": "by hand"}));
    peer.say(&json!({"type": "ready"}));
    let (release, memfd) = peer.expect("release");
    assert_state(&release["state"], &memfd, b"final");
    let control = UnixListener::from(fds.into_iter().next().unwrap());
    let flags = nix::fcntl::fcntl(&control, nix::fcntl::FcntlArg::F_GETFL).unwrap();
    assert!(nix::fcntl::OFlag::from_bits_truncate(flags).contains(nix::fcntl::OFlag::O_NONBLOCK));
    // It connects to whoever accepts, and only we do.
    let _client = UnixStream::connect(&place.path).unwrap();
    control.accept().expect("the predecessor has left it to us");

    peer.say(&json!({"type": "active"}));
    let (farewell, memfd) = peer.expect("farewell");
    assert_eq!(farewell["more"], false);
    assert_state(&farewell["state"], &memfd, b"farewell");
    giving.join().unwrap();
    assert!(peer.next().is_none());
}

fn assert_state(info: &Value, memfd: &[OwnedFd], expected: &[u8]) {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    assert_eq!(info, &json!({"length": expected.len(), "schema": 0, "codec": "raw"}));
    let [memfd] = memfd else { panic!("one memfd") };
    let seals = SealFlag::from_bits_truncate(fcntl(memfd, FcntlArg::F_GET_SEALS).unwrap());
    assert!(
        seals
            .contains(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL)
    );
    let mut bytes = vec![0; expected.len()];
    File::from(memfd.try_clone().unwrap()).read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, expected);
}

// M57
#[test]
fn an_application_cannot_offer_a_reserved_name() {
    let place = Place::new();
    let control = handoff_listen(place.config()).unwrap();
    let mut peer = Peer::greeted(&place);
    peer.say(&receive());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let failure = control.accept().unwrap().offer(Offer::new().descriptor("@http", &listener)).map(|_| ()).unwrap_err();
    assert!(matches!(failure.cause(), Error::Name(_)));
    assert_eq!(peer.expect("abort").0["code"], "application");
}

// M56
#[test]
fn a_handoff_without_the_control_listener_fails() {
    let place = Place::new();
    let mut service = RawService::new(&place);
    let successor = receiving(&place);
    service.accept();
    service.offer(&[], &[], None);
    assert_eq!(service.peer().expect("abort").0["code"], "descriptors");
    assert!(matches!(successor.join().unwrap(), Err(Error::Handoff(_))));
}

// M59
#[test]
fn descriptors_that_are_not_what_was_said_fail_the_handoff() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap().to_string();
    let file = File::open("/dev/null").unwrap();
    let cases = [
        (json!({"name": "x", "kind": "tcp_stream", "addr": addr}), socket.as_fd()),
        (json!({"name": "x", "kind": "tcp_listener", "addr": "127.0.0.1:1"}), socket.as_fd()),
        (json!({"name": "x", "kind": "tcp_listener"}), socket.as_fd()),
        (json!({"name": "x", "kind": "tcp_listener", "addr": addr, "cookie": u64::MAX}), socket.as_fd()),
        (json!({"name": "x", "kind": "tcp_listener", "addr": addr}), file.as_fd()),
        (json!({"name": "x", "kind": "other", "file": {"dev": 1, "ino": u64::MAX}}), file.as_fd()),
    ];
    for (entry, fd) in cases {
        let place = Place::new();
        let mut service = RawService::new(&place);
        let successor = receiving(&place);
        service.accept();
        let (entries, listener) = ([service.control_entry(), entry.clone()], service.listener.try_clone().unwrap());
        service.offer(&entries, &[listener.as_fd(), fd], None);
        let mut answer = service.peer().next().unwrap().0;
        if answer["type"] == "received" {
            // It has arrived, which is all that this says.
            answer = service.peer().next().unwrap().0;
        }
        assert_eq!((&answer["type"], &answer["code"]), (&json!("abort"), &json!("descriptors")), "{entry}");
        assert!(successor.join().unwrap().is_err());
    }
}

// M101
#[test]
fn a_batch_is_acknowledged_when_it_is_whole_and_its_descriptors_are_examined_then() {
    let offered = |entries: &[Value], fds: usize| {
        let place = Place::new();
        let mut service = RawService::new(&place);
        let successor = receiving(&place);
        service.accept();
        let listener = service.listener.try_clone().unwrap();
        let peer = service.peer();
        // A second batch is still to come: what is wrong with this one does not wait for it.
        peer.say(&json!({"type": "offer", "protocol": 1, "generation": 7, "pid": 1, "pidfd": false,
            "descriptors": 3, "batches": 2, "state": null, "path": null, "ready_timeout_ms": 60000,
            "active_timeout_ms": 60000, "drain_timeout_ms": 60000, "history": []}));
        let entries: Vec<Value> = entries.iter().chain([&json!({"name": "x", "kind": "pipe"})]).cloned().collect();
        peer.say_with(&json!({"type": "descriptors", "batch": 0, "entries": entries}), &vec![listener.as_fd(); fds]);
        let answers = [peer.next().unwrap().0, peer.next().map_or(Value::Null, |(frame, _)| frame)];
        assert!(successor.join().unwrap().is_err());
        answers.map(|frame| (frame["type"].clone(), frame["code"].clone()))
    };
    let control = json!({"name": "@control", "kind": "unix_listener"});
    let not_whole = offered(std::slice::from_ref(&control), 1);
    assert_eq!(not_whole, [(json!("abort"), json!("descriptors")), (Value::Null, Value::Null)]);
    let twice = offered(&[json!({"name": "x", "kind": "pipe"})], 2);
    assert_eq!(twice, [(json!("abort"), json!("malformed")), (Value::Null, Value::Null)]);
    let not_as_said = offered(&[control], 2);
    assert_eq!(not_as_said, [(json!("received"), Value::Null), (json!("abort"), json!("descriptors"))]);
}

// M27
#[test]
fn the_longest_address_that_the_kernel_has_is_within_its_limit() {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};

    let place = Place::new();
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    // Not UTF-8, and nobody else's.
    let mut name = [0xff; 107];
    name[..4].copy_from_slice(&std::process::id().to_ne_bytes().map(|byte| byte | 0x80));
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &UnixAddr::new_abstract(&name).unwrap()).unwrap();
    listen(&socket, Backlog::new(1).unwrap()).unwrap();
    let control = handoff_listen(place.config()).unwrap();
    let giving = std::thread::spawn(move || {
        let ready = control.accept().unwrap().offer(Offer::new().descriptor("long", &socket)).unwrap();
        ready.release(None).unwrap().farewell(None).unwrap();
    });
    let mut inheritance = handoff_receive(place.config()).unwrap();
    assert!(inheritance.take::<UnixListener>("long").unwrap().is_some());
    inheritance.ready().unwrap().close();
    giving.join().unwrap();
}

/// The predecessor may live on, for its probation or for whatever else it does.
#[test]
fn a_drain_is_over_at_the_last_farewell() {
    let place = Place::new();
    let (mut service, _control) = second_generation(&place);
    let drained = || {
        let mut peer = Peer::greeted(&place);
        peer.say(&json!({"type": "status"}));
        peer.expect("status").0["history"][0]["drain_us"].clone()
    };
    assert_eq!(drained(), Value::Null);
    service.peer().say(&json!({"type": "farewell", "state": null, "more": false}));
    let since = std::time::Instant::now();
    while drained().is_null() {
        assert!(since.elapsed() < PATIENCE, "the connection is still open, and that is no reason");
    }
}

// M22
#[test]
fn what_arrives_is_closed_on_exec() {
    let place = Place::new();
    let mut service = RawService::new(&place);
    let successor = receiving(&place);
    let file = File::open("/dev/null").unwrap();
    service.accept();
    let (entries, listener) =
        ([service.control_entry(), json!({"name": "x", "kind": "other"})], service.listener.try_clone().unwrap());
    service.offer(&entries, &[listener.as_fd(), file.as_fd()], None);
    let mut inheritance = successor.join().unwrap().unwrap();
    let taken: OwnedFd = inheritance.take("x").unwrap().unwrap();
    assert!(rustix::io::fcntl_getfd(&taken).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
}

fn memfd(bytes: &[u8]) -> File {
    let flags = nix::sys::memfd::MFdFlags::MFD_ALLOW_SEALING;
    let mut memfd = File::from(nix::sys::memfd::memfd_create(c"state", flags).unwrap());
    memfd.write_all(bytes).unwrap();
    memfd
}

// M61, M62
#[test]
fn an_unsealed_state_is_copied_from_its_beginning() {
    let place = Place::new();
    let mut service = RawService::new(&place);
    let successor = receiving(&place);
    let mut state = memfd(b"counters");
    state.seek(SeekFrom::End(0)).unwrap();
    service.offer_state(&json!({"length": 8, "schema": 0, "codec": "anything"}), &state);
    let inheritance = successor.join().unwrap().unwrap();
    // A mapping would show this, and the next line would end the process with SIGBUS.
    state.write_all_at(b"scribble", 0).unwrap();
    state.set_len(0).unwrap();
    let received = inheritance.received().unwrap();
    assert_eq!((&received[..], received.codec()), (&b"counters"[..], "anything"));
}

// M63
#[test]
fn a_state_of_another_length_fails_the_handoff() {
    for length in [7, 9] {
        let place = Place::new();
        let mut service = RawService::new(&place);
        let successor = receiving(&place);
        service.offer_state(&json!({"length": length, "schema": 0, "codec": "raw"}), &memfd(b"counters"));
        service.peer().expect("abort");
        assert!(matches!(successor.join().unwrap(), Err(Error::State(_))));
    }
}

// M71
#[test]
fn a_predecessor_that_goes_away_in_the_transfer_leaves_nothing_to_serve() {
    let place = Place::new();
    let mut service = RawService::new(&place);
    let config = place.config().cold_start(false);
    let successor = std::thread::spawn(move || handoff_receive(config).map(|_| ()));
    service.accept();
    drop(service);
    assert!(matches!(successor.join().unwrap(), Err(Error::PredecessorLost(_))));
}

// M9, M82, M83
#[test]
fn a_generation_says_settled_before_it_hands_over() {
    for after_farewell in [false, true] {
        let place = Place::new();
        let (mut service, control) = second_generation(&place);
        if after_farewell {
            // It has drained, and is still on probation.
            service.peer().say(&json!({"type": "farewell", "state": null, "more": false}));
            assert!(control.farewell().unwrap().is_none());
        }
        let mut third = Peer::greeted(&place);
        third.say(&receive());
        // Nobody has accepted the third generation yet.
        let (settled, _) = service.peer().expect("settled");
        assert_eq!(settled["ending"], "handed_over");
        drop(control);
        assert!(service.peer().next().is_none(), "once is enough");
    }
}

#[test]
fn a_generation_that_stops_in_good_order_says_settled() {
    let place = Place::new();
    let (mut service, control) = second_generation(&place);
    let stopping = std::thread::spawn(move || control.close());
    let (settled, _) = service.peer().expect("settled");
    assert_eq!(settled["ending"], "stopped");
    // It waits until this side has let go, and says so by closing.
    drop(service);
    stopping.join().unwrap();
}

// M84, M85
#[test]
fn farewells_wait_for_those_of_the_generation_before() {
    let place = Place::new();
    let (mut service, control) = second_generation(&place);
    let giving = std::thread::spawn(move || {
        let released = control.accept().unwrap().offer(Offer::new()).unwrap().release(None).unwrap();
        released.farewell(Some(State::bytes(*b"second"))).unwrap();
    });
    let mut third = Peer::greeted(&place);
    third.take_all();
    third.say(&json!({"type": "ready"}));
    third.expect("release");
    third.say(&json!({"type": "active"}));
    // Only now does the first generation come to its end.
    let state = json!({"length": 5, "schema": 0, "codec": "raw"});
    service.peer().expect("settled");
    service.peer().say_with(&json!({"type": "farewell", "state": state, "more": false}), &[memfd(b"first").as_fd()]);

    let (farewell, _) = third.expect("farewell");
    assert_eq!((&farewell["state"], &farewell["more"]), (&state, &json!(true)));
    let (farewell, _) = third.expect("farewell");
    assert_eq!((&farewell["state"]["length"], &farewell["more"]), (&json!(6), &json!(false)));
    giving.join().unwrap();
}

#[test]
fn a_refusal_names_its_code() {
    let place = Place::new();
    let service = RawService::new(&place);
    let successor = receiving(&place);
    let mut peer = Peer::new(service.listener.accept().unwrap().0);
    peer.say(&json!({"type": "error", "code": "busy", "message": "later"}));
    assert!(matches!(successor.join().unwrap(), Err(Error::Refused { code: ErrorCode::Busy, .. })));
}

#[test]
fn timeouts_without_end_do_not_overflow() {
    let place = Place::new();
    let endless = || {
        place.config().timeouts(|timeouts| {
            timeouts.lock = Duration::MAX;
            timeouts.offer = Duration::MAX;
            timeouts.transfer = Duration::MAX;
            timeouts.ready = Duration::MAX;
            timeouts.release = Duration::MAX;
            timeouts.active = Duration::MAX;
            timeouts.hook = Duration::MAX;
            timeouts.drain = Duration::MAX;
            timeouts.probation = Duration::MAX;
        })
    };
    let control = handoff_listen(endless()).unwrap();
    let config = endless();
    let successor = std::thread::spawn(move || {
        let control = handoff_receive(config).unwrap().ready().unwrap();
        assert!(control.farewell().unwrap().is_none());
        // It stops in good order, which ends the probation.
        control.close();
    });
    let released = control.accept().unwrap().offer(Offer::new()).unwrap().release(None).unwrap();
    released.farewell(None).unwrap();
    successor.join().unwrap();
}

// M151
#[test]
fn an_offer_says_whose_the_service_is_and_was() {
    let place = Place::new();
    let first = handoff_receive(place.config().instance("a")).unwrap().ready().unwrap();
    let giving = {
        let control = first;
        std::thread::spawn(move || control.accept().unwrap().offer(Offer::new()).unwrap().release(None).unwrap())
    };
    let second = handoff_receive(place.config().instance("b")).unwrap().ready().unwrap();
    let _released = giving.join().unwrap();
    let offering = std::thread::spawn(move || drop(second.accept().unwrap().offer(Offer::new())));
    let mut peer = Peer::greeted(&place);
    peer.say(&json!({
        "type": "receive", "protocol": { "min": 1, "max": 1 }, "pid": 1, "version": "1", "schemas": [0], "instance": "c",
    }));
    let offer = peer.expect("offer").0;
    assert_eq!((&offer["instance"], &offer["superseded"]), (&json!("b"), &json!(["a"])));
    drop(peer);
    offering.join().unwrap();
}
