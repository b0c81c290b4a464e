//! Hostile neighbours: whatever they do at the control socket, a handoff goes through beside them as if they were not
//! there, and costs the service neither descriptors nor memory.
//!
//! The service is a process of its own, so that what it has open and how large it is are its own. More of the kind is
//! in `peers.rs` (a thousand silent connections, descriptors for the predecessor, one that stops reading), in
//! `predecessors.rs` (false claims to a successor) and in `control_socket.rs` (links and other things at the path).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::child::{self, Child, NOBODY, Parent};
use common::raw::{Raw, RawPredecessor};
use common::{Control, Form, Place, config, forms, is_root, place, tcp_listener};
use fd_handoff::{Cause, Error, Offer, PathProblem, State};
use serde_json::{Value, json};

forms! {
    a_flood_of_questions_whose_answers_nobody_reads
    every_question_is_answered
    a_flood_of_garbage
    a_byte_at_a_time
    frames_of_an_earlier_handoff
    a_line_without_end
    one_that_stops_reading_and_one_that_waits
    a_receive_that_is_withdrawn
    more_connections_than_open_files
    a_predecessor_that_never_ends_its_line
    another_user_at_the_path
}

/// How much longer a handoff may take beside them. It takes a few milliseconds; what is asked for is less than 100
/// more, and what would fail here is one that waits for somebody, which takes a minute: the machine that runs this may
/// be busy itself.
const DELAY: Duration = Duration::from_secs(5);
/// How much a flood may cost the service in memory: what is queued and unfinished for each connection is bounded.
const MEMORY: u64 = 4 << 20;
/// After so many turns without a read the service has stopped reading: it takes fewer to answer what one read brings.
const FULL: usize = 100;
/// How often each is measured.
const ROUNDS: usize = 3;

/// A service in a process of its own, started anew for each round.
struct Victim {
    form: Form,
    place: Place,
    child: Child,
}

impl Victim {
    fn start(form: Form, role: &str) -> Victim {
        let place = place();
        let role = if form == Form::Blocking { role.to_owned() } else { format!("{role} on tokio") };
        let child = Child::start(&role, &place.path);
        Victim { form, place, child }
    }

    fn listens(&mut self) {
        self.child.tell("serve");
        assert_eq!(self.child.hear(), "listening");
    }

    /// Takes the service over. Returns how long that took.
    fn hand_over(&mut self) -> Duration {
        let began = Instant::now();
        let inheritance = self.form.receive(config(&self.place.path)).expect("the service gives itself");
        assert_eq!(inheritance.text().as_deref(), Some("snapshot"));
        let control = inheritance.ready().expect("the service is released");
        let took = began.elapsed();
        assert_eq!(self.child.hear(), "gone");
        assert_eq!(control.generation(), 2);
        control.close();
        took
    }

    fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.pid())).unwrap().count()
    }

    /// `RssAnon`, in bytes.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

/// Measures handoffs with nobody else there, and then beside what `disturb` starts, which goes on until it is dropped.
fn beside<T>(form: Form, what: &str, disturb: impl Fn(&Path) -> T) {
    let mut victim = Victim::start(form, "service");
    let mut calm: Vec<Duration> = Vec::new();
    for _ in 0..ROUNDS {
        victim.listens();
        calm.push(victim.hand_over());
    }
    let (files, memory) = (victim.files(), victim.memory());
    let (mut disturbed, mut grown) = (Vec::new(), 0);
    for _ in 0..ROUNDS {
        victim.listens();
        let disturbance = disturb(&victim.place.path);
        grown = victim.memory().saturating_sub(memory).max(grown);
        disturbed.push(victim.hand_over());
        grown = victim.memory().saturating_sub(memory).max(grown);
        drop(disturbance);
        assert_eq!(victim.files(), files, "descriptors are lost");
    }
    let (calm, disturbed) = (median(calm), median(disturbed));
    eprintln!("{what}, {form:?}: a handoff takes {disturbed:?} instead of {calm:?}; memory grew by {grown} bytes");
    assert!(disturbed < calm + DELAY, "{disturbed:?} instead of {calm:?}");
    assert!(grown < MEMORY, "{grown} bytes");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// A connection that is written to by a thread until the service closes it.
struct Flood {
    stream: UnixStream,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    /// Writes `text` over and over. Returns once the connection holds no more, or has answered a lot.
    fn start(path: &Path, text: &[u8], reads: bool) -> Flood {
        let stream = UnixStream::connect(path).unwrap();
        let mut threads = Vec::new();
        if reads {
            let (mut answers, (told, heard)) = (stream.try_clone().unwrap(), channel());
            threads.push(std::thread::spawn(move || {
                let (mut buffer, mut count) = ([0; 4096], 0);
                while let Ok(read @ 1..) = answers.read(&mut buffer) {
                    count += read;
                    // Nobody listens after the first time.
                    if count > 65_536 {
                        let _ = told.send(());
                    }
                }
            }));
            threads.push(write_on(&stream, text));
            // An error: the service has closed it, which is an answer, too.
            let _ = heard.recv_timeout(common::PATIENCE);
        } else {
            stream.set_nonblocking(true).unwrap();
            // An answer to another is a turn that this one had, too. Where it had many and still has no room, the
            // service has stopped reading from it.
            let (mut other, mut turns) = (Raw::greeted(path), 0);
            while turns < FULL {
                turns = if (&stream).write(text).is_ok() { 0 } else { turns + 1 };
                other.ask("status");
            }
            stream.set_nonblocking(false).unwrap();
            threads.push(write_on(&stream, text));
        }
        Flood { stream, threads }
    }
}

fn write_on(stream: &UnixStream, text: &[u8]) -> JoinHandle<()> {
    let (mut stream, text) = (stream.try_clone().unwrap(), text.to_owned());
    std::thread::spawn(move || while stream.write_all(&text).is_ok() {})
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

fn a_flood_of_questions_whose_answers_nobody_reads(form: Form) {
    let questions = b"status\n".repeat(1_000);
    beside(form, "floods of questions", |path| [(); 4].map(|()| Flood::start(path, &questions, false)));
}

/// However many wait, and though each answer is long: what is not answered in one turn is in a later one.
fn every_question_is_answered(form: Form) {
    const QUESTIONS: usize = 500;
    let Place { directory: _directory, path } = place();
    let control = form.listen(config(&path)).unwrap();
    let listener = tcp_listener();
    for number in 0..200 {
        control.register(&format!("{number:->64}"), &listener).unwrap();
    }
    let stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(common::PATIENCE / 2)).unwrap();
    (&stream).write_all(&b"status\n".repeat(QUESTIONS)).unwrap();
    let mut lines = BufReader::with_capacity(1 << 20, &stream).lines();
    assert!(lines.next().unwrap().unwrap().contains("hello"));
    for number in 0..QUESTIONS {
        assert!(lines.next().unwrap().unwrap().contains("\"status\""), "answer {number}");
    }
}

fn a_flood_of_garbage(form: Form) {
    let mut garbage = b"garbage\n{}\n{\"type\":\"dance\"}\n\xff\xfe\0\n[[[[\n".repeat(50);
    garbage.extend([&[b'{'; 5_000][..], b"\n"].concat());
    beside(form, "floods of garbage", |path| [(); 2].map(|()| Flood::start(path, &garbage, true)));
}

/// It says its next byte when another has got an answer, so that the service has looked at what it said so far.
fn a_byte_at_a_time(form: Form) {
    beside(form, "a byte at a time", |path| {
        let (mut slow, mut other) = (Raw::greeted(path), Raw::greeted(path));
        for byte in b"{\"type\":\"status\"}\n" {
            slow.write(&[*byte]);
            assert_eq!(other.ask("status")["type"], "status");
        }
        slow.expect("status");
        // Goes on beside the handoff, until that ends both connections.
        let mut other = UnixStream::connect(path).unwrap();
        std::thread::spawn(move || {
            let mut answer = [0; 4096];
            for byte in b"{\"type\":\"status\"}\n".iter().cycle() {
                slow.write(&[*byte]);
                if other.write_all(b"status\n").is_err() || !matches!(other.read(&mut answer), Ok(1..)) {
                    return;
                }
            }
        })
    });
}

/// Somebody has listened to a handoff, and says the same again, at the wrong time and in one go.
fn frames_of_an_earlier_handoff(form: Form) {
    let earlier: Vec<Value> = vec![
        json!({"type": "received", "batch": 0}),
        json!({"type": "received", "batch": 1}),
        json!({"type": "ready"}),
        json!({"type": "active"}),
        json!({"type": "settled", "ending": "handed_over"}),
    ];
    beside(form, "frames of an earlier handoff", |path| {
        // Without asking for the service.
        let mut stranger = Raw::greeted(path);
        for frame in &earlier {
            stranger.say(frame);
            stranger.expect_error("error", "out_of_order");
        }
        // Within a handoff of its own: a batch that has been acknowledged, and one that never comes.
        for last in [&earlier[0], &earlier[1], &earlier[3], &earlier[4]] {
            let mut raw = Raw::receive(path);
            drop(raw.take_offer());
            raw.say(last);
            raw.expect_error("abort", "out_of_order");
            raw.expect_end();
        }
        // The last of them before anything is offered.
        let mut raw = Raw::receive(path);
        for frame in earlier.iter().rev() {
            raw.say(frame);
        }
        while raw.line().is_some_and(|(frame, _)| frame["code"] != "out_of_order") {}
        raw.expect_end();
        stranger
    });
}

/// Megabytes, of which the service keeps no more than a line.
fn a_line_without_end(form: Form) {
    beside(form, "lines without end", |path| {
        let long = [(); 4].map(|()| Flood::start(path, &[b'x'; 65_536], true));
        // Just not too long, and never finished.
        let mut unfinished = Raw::greeted(path);
        unfinished.write(&[b'{'; 131_071]);
        // What claims to be large is still only a number.
        let mut claims = Raw::greeted(path);
        claims.write(b"{\"type\":\"received\",\"batch\":99999999999999999999}\n");
        claims.expect_error("error", "malformed");
        claims.write(format!("{{\"type\":\"receive\",\"schemas\":[{}0]}}\n", "0,".repeat(60_000)).as_bytes());
        claims.expect_error("error", "malformed");
        (long, unfinished, claims)
    });
}

/// The one in the way is in it until the transfer deadline, and not longer.
fn one_that_stops_reading_and_one_that_waits(form: Form) {
    let mut victim = Victim::start(form, "hasty");
    victim.listens();
    victim.hand_over();
    let files = victim.files();
    victim.listens();
    let path = victim.place.path.clone();
    let mut stuck = Raw::receive(&path);
    stuck.expect("offer");
    let mut fds = Vec::new();
    for _ in 0..100 {
        stuck.byte(&mut fds).unwrap();
    }
    let mut other = Raw::receive(&path);
    assert!(other.expect_error("error", "busy").contains("4242"));
    other.expect_end();
    let failure = victim.child.hear();
    assert!(failure.ends_with("the successor did not say received within 2s"), "{failure}");
    let took = victim.hand_over();
    eprintln!("after one that stopped reading, {form:?}: a handoff takes {took:?}");
    drop((stuck, fds));
    assert_eq!(victim.files(), files, "descriptors are lost");
}

/// One that has asked for the service and gone is in nobody's way, though the application has never looked.
fn a_receive_that_is_withdrawn(form: Form) {
    let Place { directory: _directory, path } = place();
    let control: Control = form.listen(config(&path)).unwrap();
    let mut looking = Raw::greeted(&path);
    for count in 1..=3 {
        let mut raw = Raw::receive(&path);
        assert_eq!(until(&mut looking, |status| !status["successor"].is_null())["phase"], "offering");
        // What it says before it goes is no reason to keep it, nor to look at it over and over.
        raw.write(b"{\"type\":\"abort\",\"code\":\"application\",\"reason\":\"never mind\"}\n");
        drop(raw);
        let status = until(&mut looking, |status| status["successor"].is_null());
        assert_eq!(status["phase"], "serving");
        let history = status["history"].as_array().unwrap();
        assert_eq!((history.len(), &history[count - 1]["outcome"]), (count, &json!("failed")), "{status}");
    }
    std::thread::scope(|scope| {
        let successor = scope.spawn(|| form.receive(config(&path)).unwrap().ready().unwrap());
        control.give(Offer::new(), None).unwrap().farewell(None).unwrap();
        assert_eq!(successor.join().unwrap().generation(), 2);
    });
}

/// Asks until the answer is this.
fn until(raw: &mut Raw, reached: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let status = raw.ask("status");
        if reached(&status) {
            return status;
        }
        assert!(began.elapsed() < common::PATIENCE, "{status}");
    }
}

/// Those who look leave the descriptors that a handoff needs.
fn more_connections_than_open_files(form: Form) {
    let mut victim = Victim::start(form, "poor");
    victim.listens();
    // Each costs two: the connection and a pidfd.
    let mut silent: Vec<Raw> = (0..40).map(|_| Raw::greeted(&victim.place.path)).collect();
    assert_eq!(silent.last_mut().unwrap().ask("status")["phase"], "serving");
    silent[0].expect_error("error", "evicted");
    silent[0].expect_end();
    let took = victim.hand_over();
    eprintln!("with no descriptor left, {form:?}: a handoff takes {took:?}");
    assert!(took < DELAY, "{took:?}");
}

/// A successor keeps no more of its predecessor's line than a line has, and says what is wrong.
fn a_predecessor_that_never_ends_its_line(form: Form) {
    let Place { directory: _directory, path } = place();
    let predecessor = RawPredecessor::new(&path);
    std::thread::scope(|scope| {
        let successor = scope.spawn(|| form.receive(config(&path)).map(drop).unwrap_err());
        let mut raw = predecessor.greet();
        // The rest is not read: the connection ends before all of it is written.
        for _ in 0..128 {
            raw.write(&[b' '; 65_536]);
        }
        match successor.join().unwrap() {
            Error::Handoff(Cause::Garbled(_, error)) => {
                assert_eq!(error.to_string(), "a line is longer than 131072 bytes")
            }
            other => panic!("{other:?}"),
        }
    });
}

/// Somebody else was there first: the service does not start, and a successor takes nothing from it.
fn another_user_at_the_path(form: Form) {
    if !is_root() {
        return;
    }
    let Place { directory, path } = place();
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
    let mut squatter = Child::start_as_nobody("squat", &path);
    assert_eq!(squatter.hear(), "listening");
    // It greets nobody, so that whoever waited for that would wait for long.
    match form.receive(config(&path)).map(drop).unwrap_err() {
        Error::PeerDenied { uid, .. } => assert_eq!(uid, NOBODY),
        other => panic!("{other:?}"),
    }
    match form.listen(config(&path)).map(drop).unwrap_err() {
        Error::Path { problem: PathProblem::AlreadyRunning, .. } => {}
        Error::PeerDenied { uid, .. } => assert_eq!(uid, NOBODY),
        other => panic!("{other:?}"),
    }
    // What it leaves behind is a stale socket like any other.
    squatter.kill();
    let control = form.listen(config(&path)).unwrap();
    assert_eq!((control.generation(), Raw::greeted(&path).ask("status")["generation"].as_u64()), (1, Some(1)));
}

fn squat(mut parent: Parent) {
    let listener = UnixListener::bind(&parent.path).unwrap();
    std::fs::set_permissions(&parent.path, Permissions::from_mode(0o666)).unwrap();
    parent.tell("listening");
    let held: Vec<UnixStream> = listener.incoming().map_while(Result::ok).collect();
    drop(held);
}

/// Serves anew whenever it is told to, until the service has been handed over.
fn serve(form: Form, hasty: bool, mut parent: Parent) {
    let path: PathBuf = parent.path.clone();
    let transfer = if hasty { Duration::from_secs(2) } else { common::PATIENCE };
    let listener = tcp_listener();
    let many = if hasty { 600 } else { 0 };
    loop {
        parent.hear();
        let control = form.listen(config(&path).timeouts(|waits| waits.transfer = transfer)).unwrap();
        parent.tell("listening");
        loop {
            let offer = Offer::new().descriptor("http", &listener).state(State::bytes("snapshot"));
            let offer = offer.group("many", std::iter::repeat_n(&listener, many));
            let released = control.accept().unwrap().offer(offer).and_then(|ready| ready.release(None));
            match released.and_then(|released| released.farewell(None)) {
                Ok(()) => break,
                Err(failure) if hasty => parent.tell(format!("failed: {}", failure.cause())),
                Err(_) => {}
            }
        }
        drop(control);
        parent.tell("gone");
    }
}

/// Leaves this process room for few more open files, and no way to get more.
fn few_files() {
    use nix::sys::resource::{Resource, setrlimit};
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    setrlimit(Resource::RLIMIT_NOFILE, open + 64, open + 64).unwrap();
}

#[test]
#[ignore = "run by other tests as a process of its own"]
fn child_main() {
    let Some((role, parent)) = child::role() else { return };
    let (role, form) = match role.strip_suffix(" on tokio") {
        Some(role) => (role.to_owned(), Form::last()),
        None => (role, Form::Blocking),
    };
    match role.as_str() {
        "service" => serve(form, false, parent),
        "hasty" => serve(form, true, parent),
        "poor" => {
            few_files();
            serve(form, false, parent);
        }
        "squat" => squat(parent),
        other => panic!("no role {other}"),
    }
}
