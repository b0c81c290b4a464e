//! A service in a process of its own, which starts its successors itself: this test binary, run again. All of its
//! generations share one line to the test, and end when the test ends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use fd_handoff::client::{Attempt, Client, Phase, Status, Step};
use fd_handoff::{Config, Error, Finish, Result, State};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::json;

use super::child::{self, Child};
use super::raw::Raw;
use super::service::{Handle, Plan};
use super::{Form, PATIENCE, Place, config, place};

/// A service, from outside.
pub(crate) struct World {
    pub(crate) child: Child,
    pub(crate) place: Place,
    pub(crate) addr: SocketAddr,
}

pub(crate) fn role_of(form: Form) -> String {
    format!("serve {form:?}")
}

impl World {
    pub(crate) fn start(form: Form) -> World {
        World::start_with(form, &[])
    }

    /// `settings`: file names beside the control socket, and what is in them.
    pub(crate) fn start_with(form: Form, settings: &[(&str, &str)]) -> World {
        World::run(form, settings, |place| child::command(&role_of(form), &place.path))
    }

    pub(crate) fn run(form: Form, settings: &[(&str, &str)], command: impl FnOnce(&Place) -> Command) -> World {
        let place = place();
        for (name, value) in settings {
            std::fs::write(place.directory.path().join(name), value).unwrap();
        }
        let mut child = Child::run(command(&place));
        let said = child.hear();
        let addr = said.strip_prefix("serving 1 ").unwrap_or_else(|| panic!("{said}")).parse().unwrap();
        let world = World { child, place, addr };
        world.next(&role_of(form));
        world
    }

    /// Waits until the generations have said all of this, in any order: they are processes of their own.
    pub(crate) fn hears(&mut self, expected: &[&str]) {
        let mut missing = expected.to_vec();
        while !missing.is_empty() {
            let said = self.child.hear();
            let known = missing.iter().position(|expected| said.starts_with(expected));
            missing.remove(known.unwrap_or_else(|| panic!("{said:?}, and not one of {missing:?}")));
        }
    }

    /// What the next new process is to do.
    pub(crate) fn next(&self, role: &str) {
        self.set("next", role);
    }

    pub(crate) fn set(&self, name: &str, value: &str) {
        std::fs::write(self.place.directory.path().join(name), value).unwrap();
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.place.path).unwrap()
    }

    pub(crate) fn status(&self) -> Status {
        self.client().status().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.status().pid
    }

    /// Has a new process take over, and waits for the outcome.
    pub(crate) fn upgrade(&self, timeout: Option<Duration>) -> Attempt {
        outcome(self.client().upgrade(timeout).unwrap())
    }

    /// A connection, and the generation that serves it.
    pub(crate) fn connect(&self) -> (TcpStream, u64, u64) {
        use std::io::{BufRead, BufReader};
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        let numbers: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
        (stream, numbers[0], numbers[1])
    }

    pub(crate) fn serves(&self, generation: u64) {
        assert_eq!(self.connect().1, generation);
        let status = self.status();
        assert_eq!((status.generation, status.phase), (generation, Phase::Serving));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    /// The process id in the pidfile.
    pub(crate) fn pidfile(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.place.directory.path().join("pid")).ok()?;
        Some(text.trim().parse().unwrap())
    }

    /// Waits until nothing is left of the first process's attempts: no child, no zombie, no more descriptors.
    pub(crate) fn is_clean(&self, descriptors: usize) {
        let pid = self.child.pid();
        wait_for("its children have been reaped", || children(pid).is_empty());
        // The thread that heard signals while it initialised may have had its own when they were counted.
        wait_for("its descriptors are closed", || open_files(pid) <= descriptors);
    }
}

pub(crate) fn outcome(steps: impl Iterator<Item = Result<Step>>) -> Attempt {
    let steps = steps.map(Result::unwrap);
    let mut outcomes = steps.filter_map(|step| if let Step::Outcome(attempt) = step { Some(attempt) } else { None });
    outcomes.next().expect("an upgrade has an outcome")
}

pub(crate) fn kill(pid: u32, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

/// Waits for what no event tells of.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "in vain: {what}");
        // Looking costs the others time.
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// The children of a process, dead ones that nobody has reaped among them.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|it| it.ok()?.file_name().to_str()?.parse().ok());
    let parent = |process: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    processes.filter(|process| parent(process) == Some(pid)).collect()
}

pub(crate) fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// In `child_main`: plays a role of this file.
pub(crate) fn play(role: &str, path: &Path) {
    end_with_the_test();
    match role {
        "serve Blocking" => serve(Form::Blocking, path),
        "serve Tokio" => serve(Form::last(), path),
        "waits to serve Blocking" => serve_when_told(Form::Blocking, path),
        "waits to serve Tokio" => serve_when_told(Form::last(), path),
        "exits at once" => std::process::exit(3),
        "hangs before receive" => hang(),
        "hangs after receive" => {
            let mut starting = Form::Blocking.start(config(path)).unwrap();
            loop {
                starting.progress("nearly there");
                // Not so often that a slow watcher is let go.
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
        "panics" => {
            let _starting = Form::Blocking.start(config(path)).unwrap();
            panic!("a mistake in the new version\nof two lines");
        }
        "speaks another version" => speak_another_version(path),
        "speaks another version and stays" => {
            speak_another_version(path);
            hang();
        }
        other => panic!("no role {other}"),
    }
}

fn speak_another_version(path: &Path) {
    let mut raw = Raw::greeted(path);
    let pid = std::process::id();
    raw.say(&json!({
        "type": "receive", "protocol": {"min": 7, "max": 9}, "pid": pid, "version": "future", "schemas": [0],
    }));
    raw.expect_error("error", "version");
}

fn hang() {
    loop {
        std::thread::park();
    }
}

/// However the test ends: its end of the line is closed then.
fn end_with_the_test() {
    std::thread::spawn(|| {
        let stdin = std::io::stdin();
        loop {
            let mut line = [PollFd::new(stdin.as_fd(), PollFlags::empty())];
            if nix::poll::poll(&mut line, PollTimeout::NONE).is_ok() {
                std::process::exit(9);
            }
        }
    });
}

/// The command for the next generation, as the file `next` says.
fn successor(directory: &Path, path: &Path) -> Command {
    let next = std::fs::read_to_string(directory.join("next")).unwrap();
    match next.as_str() {
        "does not exist" => Command::new(directory.join("no such program")),
        "is not executable" => Command::new(directory.join("next")),
        "panics before it is started" => panic!("no command today"),
        role => child::command(role, path),
    }
}

fn serve(form: Form, path: &Path) {
    serve_after(form, path, |_| {});
}

/// Initialises until there is a file `go`.
fn serve_when_told(form: Form, path: &Path) {
    serve_after(form, path, |directory| wait_for("it is told to go", || directory.join("go").exists()));
}

fn serve_after(form: Form, path: &Path, initialise: impl FnOnce(&Path)) {
    let directory = path.parent().unwrap().to_owned();
    let setting = |name: &str| std::fs::read_to_string(directory.join(name)).ok();
    let millis = |name: &str| Some(Duration::from_millis(setting(name)?.parse().unwrap()));
    let config: Config = config(path).timeouts(|waits| {
        waits.end = millis("end").unwrap_or(PATIENCE);
        waits.probation = millis("probation").unwrap_or_default();
    });
    let by_itself = setting("by itself").is_some();
    let plan = Plan {
        drain: Some(millis("drain").unwrap_or(PATIENCE)),
        pidfile: Some(directory.join("pid")),
        signals: true,
        successor: (!by_itself).then(|| {
            let (directory, path) = (directory.clone(), path.to_owned());
            Box::new(move || successor(&directory, &path)) as Box<dyn FnMut() -> Command + Send>
        }),
        elsewhere: false,
    };
    let mut starting = form.start_with(config, plan).unwrap();
    let door = starting.tcp("http").unwrap();
    let snapshot: u64 = starting.text().map_or(0, |text| text.parse().unwrap());
    let total = Arc::new(AtomicU64::new(snapshot));
    let released = Arc::new(AtomicU64::new(0));
    starting.on_offer({
        let total = Arc::clone(&total);
        move || State::bytes(total.load(SeqCst).to_string())
    });
    starting.on_release({
        let (total, released) = (Arc::clone(&total), Arc::clone(&released));
        move || {
            released.store(total.load(SeqCst), SeqCst);
            State::bytes(released.load(SeqCst).to_string())
        }
    });
    starting.on_farewell({
        let (total, released) = (Arc::clone(&total), Arc::clone(&released));
        move || State::bytes((total.load(SeqCst) - released.load(SeqCst)).to_string())
    });
    initialise(&directory);
    let mut handoff = starting.ready().unwrap();
    if let Some(text) = handoff.final_text() {
        total.store(text.parse().unwrap(), SeqCst);
    }
    handoff.absorb_farewells({
        let total = Arc::clone(&total);
        move |farewell| {
            total.fetch_add(super::text(&farewell).parse::<u64>().unwrap(), SeqCst);
        }
    });
    let (generation, handle) = (handoff.generation(), handoff.handle());
    child::tell(format!("serving {generation} {}", door.addr()));
    loop {
        let accepting = {
            let (door, total, handle) = (door.clone(), Arc::clone(&total), handle.clone());
            std::thread::spawn(move || {
                while let Some((stream, counted)) = door.accept() {
                    let (total, handle) = (Arc::clone(&total), handle.clone());
                    std::thread::spawn(move || answer(generation, stream, &total, &handle, counted));
                }
            })
        };
        handoff.superseded();
        accepting.join().unwrap();
        match handoff.finish().unwrap() {
            Finish::Exit => return child::tell(format!("exits {generation}")),
            Finish::Resume => child::tell(format!("resumes {generation}")),
        }
    }
}

/// Says which generation this is and what the total is; each byte that comes adds one to that. A `u` asks for an upgrade,
/// and an `s` for a stop.
fn answer(
    generation: u64,
    mut stream: TcpStream,
    total: &AtomicU64,
    handle: &Handle,
    counted: super::service::Counted,
) {
    let _ = stream.write_all(format!("{generation} {}\n", total.load(SeqCst)).as_bytes());
    let mut bytes = [0; 64];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        match bytes[0] {
            b'u' => match handle.upgrade() {
                Ok(attempt) => child::tell(format!("{:?}", attempt.outcome).to_lowercase()),
                Err(Error::Refused { code, .. }) => child::tell(code),
                Err(error) => child::tell(error),
            },
            b's' => handle.stop(),
            _ => drop(total.fetch_add(count as u64, SeqCst)),
        }
        let _ = stream.write_all(&bytes[..count]);
    }
    drop(counted);
}

/// Where a copy of this test binary is put for a service that runs from there.
pub(crate) fn install(at: &Path) -> PathBuf {
    // Written by another process: one that this process is starting at the same time would hold it open for writing, and
    // it could not be run (ETXTBSY).
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(at).status().unwrap();
    assert!(copied.success());
    at.to_owned()
}
