//! One service under measurement: its processes, and what they say.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use peers::{Args, now};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};
use rustix::time::Timespec;
use tempfile::TempDir;

use crate::contestant::{Contestant, Trigger};

/// After that a contestant counts as hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a measurement failed with, in words for the table.
pub(crate) type Outcome<T> = Result<T, String>;

/// An event that a process has stamped.
#[derive(Debug, Clone)]
pub(crate) struct Stamp {
    pub(crate) event: String,
    pub(crate) pid: u32,
    pub(crate) at: Duration,
}

/// When the steps of an upgrade were, by the clock of [`now`].
#[derive(Debug, Clone)]
pub(crate) struct Upgrade {
    pub(crate) triggered: Duration,
    /// The new generation's process.
    pub(crate) pid: u32,
    pub(crate) serving: Duration,
    pub(crate) told: Duration,
}

/// A running service. Whatever is left of it ends when this is dropped.
pub(crate) struct Run {
    contestant: Contestant,
    pub(crate) args: Args,
    /// The generation that serves.
    pub(crate) pid: u32,
    stamps: Receiver<Stamp>,
    heard: Vec<Stamp>,
    out: PipeWriter,
    children: Vec<Child>,
    _dir: TempDir,
}

impl Run {
    /// Starts the first generation, and waits until it serves.
    pub(crate) fn start(contestant: &Contestant, shape: impl FnOnce(&mut Args)) -> Outcome<Run> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut args = Args { dir: dir.path().into(), port: free_port(), ..Args::default() };
        shape(&mut args);
        let (reader, out) = std::io::pipe().map_err(|error| error.to_string())?;
        let stamps = read_stamps(reader);
        let mut run = Run {
            contestant: *contestant,
            args,
            pid: 0,
            stamps,
            heard: Vec::new(),
            out,
            children: Vec::new(),
            _dir: dir,
        };
        run.spawn(false)?;
        run.pid = run.wait("serving", |_| true)?.pid;
        Ok(run)
    }

    fn spawn(&mut self, upgrade: bool) -> Outcome<()> {
        let args = Args { upgrade, ..self.args.clone() };
        let out = self.out.try_clone().map_err(|error| error.to_string())?;
        let mut command = Command::new(program(self.contestant.program));
        command.args(args.to_vec()).envs(self.contestant.environment.iter().copied());
        // A group of its own, to be ended as a whole.
        command.stdin(Stdio::null()).stdout(out).stderr(stderr()).process_group(0);
        let child = command.spawn().map_err(|error| format!("{}: {error}", self.contestant.program))?;
        self.children.push(child);
        Ok(())
    }

    /// Has the next generation take over, and waits until both have said so.
    pub(crate) fn upgrade(&mut self) -> Outcome<Upgrade> {
        let triggered = self.begin_upgrade()?;
        self.end_upgrade(triggered)
    }

    /// The trigger, and when it was.
    pub(crate) fn begin_upgrade(&mut self) -> Outcome<Duration> {
        let triggered = now();
        self.trigger(self.pid)?;
        Ok(triggered)
    }

    /// The rest of an upgrade that was triggered then.
    pub(crate) fn end_upgrade(&mut self, triggered: Duration) -> Outcome<Upgrade> {
        let old = self.pid;
        let serving = self.wait_since(triggered, "serving", |pid| pid != old)?;
        if let Trigger::StartThenSignal(signal) = self.contestant.trigger {
            send(old, signal)?;
        }
        let told = self.wait("told", |pid| pid == old)?;
        self.pid = serving.pid;
        Ok(Upgrade { triggered, pid: serving.pid, serving: serving.at, told: told.at })
    }

    fn trigger(&mut self, old: u32) -> Outcome<()> {
        match self.contestant.trigger {
            Trigger::Signal(signal) => send(old, signal),
            Trigger::SignalSupervisor(signal) => send(self.children[0].id(), signal),
            Trigger::StartThenSignal(_) => self.spawn(true),
            #[cfg(feature = "pingora")]
            Trigger::StartAndSignal(signal) => {
                self.spawn(true)?;
                send(old, signal)
            }
            Trigger::SignalThenStart(signal) => {
                send(old, signal)?;
                let running = self.children.iter_mut().find(|child| child.id() == old).ok_or("not a child")?;
                running.wait().map_err(|error| error.to_string())?;
                self.spawn(true)
            }
        }
    }

    /// An event that a process has stamped by now.
    pub(crate) fn heard(&mut self, event: &str, by: impl Fn(u32) -> bool) -> Option<Stamp> {
        self.heard.extend(self.stamps.try_iter());
        self.heard.iter().find(|stamp| stamp.event == event && by(stamp.pid)).cloned()
    }

    /// Waits for an event of a process, which may have been heard while another one was waited for.
    pub(crate) fn wait(&mut self, event: &str, by: impl Fn(u32) -> bool) -> Outcome<Stamp> {
        self.wait_since(Duration::ZERO, event, by)
    }

    fn wait_since(&mut self, since: Duration, event: &str, by: impl Fn(u32) -> bool) -> Outcome<Stamp> {
        let wanted = |stamp: &&Stamp| stamp.at >= since && stamp.event == event && by(stamp.pid);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(stamp) = self.heard.iter().find(wanted) {
                return Ok(stamp.clone());
            }
            match self.stamps.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(stamp) => self.heard.push(stamp),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("no word `{event}` within {} s", PATIENCE.as_secs()));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(format!("it ended without the word `{event}`")),
            }
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let heard: BTreeSet<u32> = self.heard.iter().map(|stamp| stamp.pid).collect();
        let ends: Vec<_> = heard.iter().filter_map(|pid| end_of(*pid).ok()).collect();
        for child in &mut self.children {
            // Every generation is in the group of the process that was started here.
            let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
            let _ = child.kill();
            let _ = child.wait();
        }
        // What is measured next is not to share the machine with the end of these.
        ends.into_iter().for_each(|end| drop(end.join()));
    }
}

/// When a process has ended, from a thread that waits for that.
pub(crate) fn end_of(pid: u32) -> Outcome<JoinHandle<Duration>> {
    let pid = Pid::from_raw(pid as i32).ok_or("no such process")?;
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| error.to_string())?;
    let wait = move || {
        let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience));
        now()
    };
    Ok(std::thread::spawn(wait))
}

/// A process that gives descriptors once. Whatever is left of it ends when this is dropped.
pub(crate) struct Giver {
    child: Child,
    dir: TempDir,
}

impl Giver {
    /// Starts one, and waits until it can be asked.
    pub(crate) fn start(form: &str, kind: &str, count: usize) -> Outcome<Giver> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (reader, out) = std::io::pipe().map_err(|error| error.to_string())?;
        let stamps = read_stamps(reader);
        let mut command = Command::new(program("giver"));
        command.arg(dir.path()).args([form, kind, &count.to_string()]).stdout(out).stderr(stderr());
        let child = command.spawn().map_err(|error| format!("giver: {error}"))?;
        let giver = Giver { child, dir };
        // The command holds the pipe's other end, and with it the word that the process has ended.
        drop(command);
        stamps.recv_timeout(PATIENCE).map_err(|_| "the giver has not started".to_owned())?;
        Ok(giver)
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }
}

impl Drop for Giver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where `cargo` has put the services: beside this program.
pub(crate) fn program(name: &str) -> PathBuf {
    let harness = std::env::current_exe().expect("/proc/self/exe");
    harness.with_file_name(name)
}

/// The services are as silent as their libraries let them be; `PEERS_STDERR=1` shows what they say all the same.
fn stderr() -> Stdio {
    if std::env::var_os("PEERS_STDERR").is_some() { Stdio::inherit() } else { Stdio::null() }
}

fn send(pid: u32, signal: Signal) -> Outcome<()> {
    let pid = Pid::from_raw(pid as i32).ok_or("no such process")?;
    kill_process(pid, signal).map_err(|error| error.to_string())
}

/// Below the ports that the kernel gives to clients, and another one each time.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    15_000 + NEXT.fetch_add(1, Relaxed) % 15_000
}

fn read_stamps(reader: PipeReader) -> Receiver<Stamp> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(reader).lines().map_while(Result::ok) {
            let mut words = line.split(' ');
            let (Some(event), Some(pid), Some(at)) = (words.next(), words.next(), words.next()) else { continue };
            let (Ok(pid), Ok(at)) = (pid.parse(), at.parse()) else { continue };
            let _ = sender.send(Stamp { event: event.to_owned(), pid, at: Duration::from_nanos(at) });
        }
    });
    receiver
}
