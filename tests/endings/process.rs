//! A place where one service lives, and its processes: this same program, which plays it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid};
use serde_json::Value;

use crate::clients::{Check, PATIENCE, require, until};
use crate::service::{self, BEHAVIOUR, NEXT};

/// How long clients may wait for the next owner, once the last one is dead. A tenth of it is what the contract says; the
/// rest is for a machine that has other things to do.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(1);

/// One of the library's two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Blocking,
    Tokio,
}

/// What the processes of a place have said: `TAG WORDS`.
#[derive(Default)]
struct Reports {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Reports {
    fn read(&self, pipe: OwnedFd) {
        for line in BufReader::new(File::from(pipe)).lines().map_while(Result::ok) {
            if let Ok(mut lines) = self.lines.lock() {
                lines.push(line);
            }
            self.more.notify_all();
        }
    }
}

/// Where one service is.
pub(crate) struct World {
    directory: tempfile::TempDir,
    pub(crate) control: PathBuf,
    /// An address from which no client connects: nobody else can have the port while nobody listens.
    pub(crate) addr: SocketAddr,
    form: Form,
    /// Who its processes run as, where that is somebody else.
    pub(crate) user: Option<u32>,
    reports: Arc<Reports>,
    output: OwnedFd,
    /// All processes end when this is closed.
    line: UnixStream,
    _ours: UnixStream,
}

/// One answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) pid: u32,
    pub(crate) generation: u64,
    /// How many there were before it.
    pub(crate) count: u64,
}

impl World {
    pub(crate) fn new(form: Form) -> Check<World> {
        World::make(form).map_err(|error| format!("cannot set up: {error}"))
    }

    /// As a user of its own, where this process may be somebody else. Limits do not bind root.
    pub(crate) fn of_another_user(form: Form) -> Check<World> {
        let mut world = World::new(form)?;
        if Uid::effective().is_root() {
            static USERS: AtomicU32 = AtomicU32::new(0);
            // What is in flight is counted for each user: another run of this test has others.
            let user = 20_000 + std::process::id() % 2_000 * 16 + USERS.fetch_add(1, SeqCst) % 16;
            let owner = (Some(Uid::from_raw(user)), Some(Gid::from_raw(user)));
            nix::unistd::chown(world.directory.path(), owner.0, owner.1).map_err(|error| error.to_string())?;
            world.user = Some(user);
        }
        Ok(world)
    }

    fn make(form: Form) -> std::io::Result<World> {
        static PLACES: AtomicU32 = AtomicU32::new(1);
        let number = PLACES.fetch_add(1, SeqCst);
        let directory = tempfile::tempdir()?;
        // One that nobody gets who asks for any port, and that is not another run's of this test either.
        let run = std::process::id();
        let host = [127, 64 + (run % 64) as u8, (number / 250) as u8, (number % 250 + 1) as u8];
        let addr = SocketAddr::from((host, 18_000 + (run / 64 % 10_000) as u16));
        let (read, output) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let reports = Arc::new(Reports::default());
        let reading = Arc::clone(&reports);
        std::thread::spawn(move || reading.read(read));
        let (ours, line) = UnixStream::pair()?;
        let control = directory.path().join("control.sock");
        Ok(World { directory, control, addr, form, user: None, reports, output, line, _ours: ours })
    }

    fn words(&self, tag: &str, words: &str) -> String {
        let form = match self.form {
            Form::Blocking => "blocking",
            Form::Tokio => "tokio",
        };
        // What comes first counts.
        format!("{words} tag={tag} form={form} listen={} control={}", self.addr, self.control.display())
    }

    /// How the process is to behave that the service starts itself.
    pub(crate) fn next(&self, tag: &str, words: &str) -> Check {
        std::fs::write(self.directory.path().join(NEXT), self.words(tag, words)).map_err(|error| error.to_string())
    }

    fn command(&self, command: &mut Command, tag: &str, words: &str) -> std::io::Result<()> {
        let log = File::options().create(true).append(true).open(self.directory.path().join("log"))?;
        command.env(BEHAVIOUR, self.words(tag, words));
        // It takes its time, when there is little of it: with this word a process that panics is about to end for a while.
        command.env("RUST_BACKTRACE", if words.contains("lingers") { "1" } else { "0" });
        command.stdin(OwnedFd::from(self.line.try_clone()?)).stdout(self.output.try_clone()?).stderr(log);
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        Ok(())
    }

    /// Starts a process.
    pub(crate) fn start(&self, tag: &str, words: &str) -> Check<Process> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("serve");
        self.run(command, tag, words)
    }

    /// Runs a process by this command.
    pub(crate) fn run(&self, mut command: Command, tag: &str, words: &str) -> Check<Process> {
        let started = self.command(&mut command, tag, words).and_then(|()| command.spawn());
        let child = started.map_err(|error| format!("cannot start {tag}: {error}"))?;
        Process::of(tag, child)
    }

    /// Starts a process, and waits until it serves.
    pub(crate) fn serving(&self, tag: &str, words: &str) -> Check<Process> {
        let process = self.start(tag, words)?;
        self.hears(tag, "serves")?;
        Ok(process)
    }

    /// Waits until this process has said this once, or so many times.
    pub(crate) fn hears(&self, tag: &str, word: &str) -> Check {
        self.hears_times(tag, word, 1)
    }

    pub(crate) fn hears_times(&self, tag: &str, word: &str, times: usize) -> Check {
        let wanted = format!("{tag} {word}");
        let said = |lines: &Vec<String>| lines.iter().filter(|line| line.starts_with(&wanted)).count() >= times;
        let lines = self.reports.lines.lock().map_err(|error| error.to_string())?;
        let waited = self.reports.more.wait_timeout_while(lines, PATIENCE, |lines| !said(lines));
        let (lines, waited) = waited.map_err(|error| error.to_string())?;
        require(!waited.timed_out(), || format!("waited in vain to hear {wanted:?}; heard {lines:?}"))
    }

    pub(crate) fn has_heard(&self, tag: &str, word: &str) -> bool {
        let wanted = format!("{tag} {word}");
        self.reports.lines.lock().is_ok_and(|lines| lines.iter().any(|line| line.starts_with(&wanted)))
    }

    /// Says a word to a process.
    pub(crate) fn tell(&self, tag: &str, word: &str) -> Check {
        service::order(self.directory.path(), tag, word).map_err(|error| format!("cannot tell {tag} {word:?}: {error}"))
    }

    pub(crate) fn connect(&self) -> Check<Client> {
        Client::open(self.addr).map_err(|error| format!("a client cannot connect: {error}"))
    }

    /// One request on a connection of its own.
    pub(crate) fn ask(&self) -> Check<Answer> {
        self.connect()?.ask()
    }

    /// Asks, and says how long after this moment there was an answer, which has to be by this process.
    pub(crate) fn answers_since(&self, dead: Instant, pid: u32) -> Check<String> {
        let answer = self.ask()?;
        let waited = dead.elapsed();
        require(answer.pid == pid, || format!("{answer:?}, and not process {pid}"))?;
        require(waited < AT_ONCE, || format!("clients waited {waited:?}"))?;
        Ok(format!("{:.1} ms", waited.as_secs_f64() * 1e3))
    }

    /// What the control socket says of a question.
    pub(crate) fn question(&self, question: &str) -> Check<Value> {
        self.try_question(question).map_err(|error| format!("no answer to {question}: {error}"))
    }

    fn try_question(&self, question: &str) -> std::io::Result<Value> {
        let mut lines = self.open(question)?;
        read(&mut lines)
    }

    /// Says a word to the control socket, and leaves the connection open: what follows can be read from it.
    pub(crate) fn open(&self, word: &str) -> std::io::Result<BufReader<UnixStream>> {
        let mut stream = UnixStream::connect(&self.control)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        writeln!(stream, "{word}")?;
        let mut lines = BufReader::new(stream);
        read(&mut lines)?;
        Ok(lines)
    }

    pub(crate) fn status(&self) -> Check<Value> {
        self.question("status")
    }

    /// Asks for an upgrade. Returns its outcome.
    pub(crate) fn upgrade(&self) -> Check<Value> {
        self.begin_upgrade()?.outcome()
    }

    pub(crate) fn begin_upgrade(&self) -> Check<Upgrade> {
        self.open("upgrade").map(Upgrade).map_err(|error| format!("cannot ask for an upgrade: {error}"))
    }

    /// Waits until the last attempt ended so, and returns why.
    pub(crate) fn attempt(&self, outcome: &str) -> Check<String> {
        let reason = until(&format!("an attempt has {outcome}"), || {
            let status = self.status().ok()?;
            let last = status["history"].as_array()?.last()?.clone();
            (last["outcome"] == outcome).then(|| last["reason"].as_str().unwrap_or_default().to_owned())
        });
        reason.map_err(|error| format!("{error}: {:?}", self.status()))
    }

    /// This process serves, at the control socket as well, and the path is there.
    pub(crate) fn owned_by(&self, process: &Process, generation: u64) -> Check {
        let status = self.status()?;
        let fits = status["pid"] == process.pid() && status["generation"] == generation && status["phase"] == "serving";
        require(fits, || format!("{} was to serve: {status}", process.tag))?;
        let answer = self.ask()?;
        let fits = (answer.pid, answer.generation) == (process.pid(), generation);
        require(fits, || format!("{} was to answer: {answer:?}", process.tag))
    }

    /// Waits until a process has said in its log that it was told to stop.
    pub(crate) fn has_told_to_stop(&self) -> Check {
        until("it has heard that it is to stop", || self.log().contains("event=\"stop\"").then_some(()))
    }

    /// Waits until this process has none of the service's listeners: their inodes are those of the process that serves.
    pub(crate) fn has_let_go(&self, process: &Process, serving: &Process) -> Check {
        // `st` of proc(5): 0A is LISTEN, and the inode is the tenth column.
        let table = std::fs::read_to_string("/proc/net/tcp").map_err(|error| error.to_string())?;
        let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let listening: HashSet<&str> = rows.filter(|row| row.get(3) == Some(&"0A")).map(|row| row[9]).collect();
        let listeners: Vec<String> =
            sockets(serving.pid()).into_iter().filter(|inode| listening.contains(&inode[..])).collect();
        require(!listeners.is_empty(), || "who serves listens".to_owned())?;
        until("it has let the listeners go", || {
            let left = sockets(process.pid());
            (!listeners.iter().any(|inode| left.contains(inode))).then_some(())
        })
    }

    pub(crate) fn log(&self) -> String {
        let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let said = self.reports.lines.lock().map(|lines| lines.join("; ")).unwrap_or_default();
        format!("{log}they said: {said}")
    }
}

/// The inodes of a process's sockets.
fn sockets(pid: u32) -> Vec<String> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = open.filter_map(|fd| Some(std::fs::read_link(fd.path()).ok()?.to_string_lossy().into_owned()));
    links.filter_map(|link| Some(link.strip_prefix("socket:[")?.trim_end_matches(']').to_owned())).collect()
}

fn read(lines: &mut BufReader<UnixStream>) -> std::io::Result<Value> {
    let mut line = String::new();
    if lines.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&line)?)
}

/// An upgrade that was asked for.
pub(crate) struct Upgrade(BufReader<UnixStream>);

impl Upgrade {
    pub(crate) fn outcome(&mut self) -> Check<Value> {
        loop {
            let line = read(&mut self.0).map_err(|error| format!("the upgrade has no outcome: {error}"))?;
            if line["type"] != "event" {
                return Ok(line);
            }
        }
    }
}

/// A client that keeps its connection.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) fn open(addr: SocketAddr) -> std::io::Result<Client> {
        let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Client(BufReader::new(stream)))
    }

    pub(crate) fn ask(&mut self) -> Check<Answer> {
        self.exchange().map_err(|error| format!("a client was not answered: {error}"))
    }

    pub(crate) fn exchange(&mut self) -> std::io::Result<Answer> {
        self.say()?;
        self.hear()
    }

    pub(crate) fn say(&mut self) -> std::io::Result<()> {
        self.0.get_mut().write_all(b"?\n")
    }

    pub(crate) fn hear(&mut self) -> std::io::Result<Answer> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let mut next = || numbers.next().and_then(Result::ok).ok_or_else(|| std::io::Error::other(line.clone()));
        Ok(Answer { pid: next()? as u32, generation: next()?, count: next()? })
    }
}

/// A process that the test has started. It is killed and reaped when this is dropped.
pub(crate) struct Process {
    pub(crate) tag: String,
    child: Child,
    /// What the kernel calls it outside, where it is not the child itself.
    pid: u32,
    pidfd: OwnedFd,
    ended: Option<ExitStatus>,
}

impl Process {
    fn of(tag: &str, child: Child) -> Check<Process> {
        let (pid, tag) = (child.id(), tag.to_owned());
        Ok(Process { pidfd: pidfd(pid)?, pid, child, tag, ended: None })
    }

    /// From here on the only child of what was started is meant.
    pub(crate) fn descend(&mut self) -> Check {
        let pid = until("it has a child", || children(self.pid).first().copied())?;
        self.pidfd = pidfd(pid)?;
        self.pid = pid;
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.pid as i32), signal);
    }

    pub(crate) fn is_alive(&self) -> bool {
        is_alive(&self.pidfd)
    }

    /// Waits for its end. Returns when that was.
    pub(crate) fn ended(&mut self) -> Check<(ExitStatus, Instant)> {
        let dead = wait_for_end(&self.pidfd).map_err(|error| format!("{}: {error}", self.tag))?;
        let status = match self.ended {
            Some(status) => status,
            None => self.child.wait().map_err(|error| error.to_string())?,
        };
        self.ended = Some(status);
        Ok((status, dead))
    }

    pub(crate) fn kill(&mut self) -> Check<Instant> {
        self.signal(Signal::SIGKILL);
        Ok(self.ended()?.1)
    }

    /// Waits for its end, with this code.
    pub(crate) fn exits_with(&mut self, code: i32) -> Check<Instant> {
        let (status, dead) = self.ended()?;
        require(status.code() == Some(code), || format!("{} ended with {status}, not with {code}", self.tag))?;
        Ok(dead)
    }

    /// Waits until this signal has ended it.
    pub(crate) fn ends_by(&mut self, signal: Signal) -> Check<Instant> {
        let (status, dead) = self.ended()?;
        let fits = status.signal() == Some(signal as i32);
        require(fits, || format!("{} ended with {status}, not by {signal}", self.tag))?;
        Ok(dead)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = kill(Pid::from_raw(self.pid as i32), Signal::SIGKILL);
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

pub(crate) fn pidfd(pid: u32) -> Check<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid as i32).ok_or("no process")?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).map_err(|error| format!("pidfd: {error}"))
}

pub(crate) fn is_alive(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO) == Ok(0)
}

/// Waits for the end of a process. Returns when that was.
pub(crate) fn wait_for_end(pidfd: &OwnedFd) -> Check<Instant> {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let patience = PollTimeout::from(PATIENCE.as_millis() as u16);
    let ended = poll(&mut fds, patience).map_err(|error| error.to_string())?;
    require(ended > 0, || "waited in vain for its end".to_owned())?;
    Ok(Instant::now())
}

/// The children of a process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten();
    let processes = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let parent = |process: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    processes.filter(|process| parent(process) == Some(pid)).collect()
}
