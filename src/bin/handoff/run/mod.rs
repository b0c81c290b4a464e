//! `handoff run`: starts a service, keeps it while nobody serves, and starts it again.

mod children;
mod policy;
mod signals;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Instant;

use clap::Args;
use fd_handoff::client::{Client, Step};
use fd_handoff::{Keeper, KeeperEvent, KeptSince};

use crate::problem::{Problem, explain};
use children::Children;
use policy::{After, Ending, Policy, Restart};
use signals::Told;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The path of the service's control socket; the command finds it in HANDOFF_SOCKET
    #[arg(value_name = "SOCKET")]
    socket: PathBuf,
    /// When to start the command again
    #[arg(long, value_enum, default_value_t = Restart::OnFailure)]
    restart: Restart,
    /// How many processes in a row may die of the same state before it is left out
    #[arg(long, value_name = "N", default_value_t = 3)]
    state_tries: u32,
    /// The command that starts the service
    #[arg(value_name = "COMMAND", required = true, last = true)]
    command: Vec<OsString>,
}

/// Something has happened.
#[derive(Debug)]
enum News {
    Told(Told),
    Kept(KeeperEvent),
    /// How a request of this command's to the service went, where that was not well.
    Failed(String),
}

pub(crate) fn run(options: Options) -> Result<u8, Problem> {
    let (tell, news) = channel();
    // Before there is a child whose end could be missed.
    signals::listen(&tell).map_err(|error| Problem::failed(format!("cannot catch signals: {error}")))?;
    let children = Children::adopt().map_err(|error| Problem::failed(format!("cannot adopt processes: {error}")))?;
    let path = std::path::absolute(&options.socket).unwrap_or_else(|_| options.socket.clone());
    let told = tell.clone();
    let keeper = Keeper::new(&path).state_tries(options.state_tries).on_event(move |event| {
        // It ends only together with this command.
        let _ = told.send(News::Kept(event.clone()));
    });
    let keeper = keeper.start().map_err(|error| explain(&path, error))?;
    let policy = Policy::new(options.restart);
    let command = options.command;
    let mut service = Service { path, command, children, policy, tell, owner: None, began: Instant::now(), ends: None };
    let ended = service.run(&news);
    // Nobody is to wait for a service that nobody will start.
    keeper.stop().map_err(|error| explain(&service.path, error))?;
    ended
}

/// The service, whichever of its processes serves.
struct Service {
    path: PathBuf,
    command: Vec<OsString>,
    children: Children,
    policy: Policy,
    tell: Sender<News>,
    /// The process that serves, or was started to.
    owner: Option<u32>,
    began: Instant,
    /// It is over, and this process's code is what this command ends with, once all of them have ended.
    ends: Option<u32>,
}

impl Service {
    /// Until it has ended for good. Returns the code of its last process.
    fn run(&mut self, news: &Receiver<News>) -> Result<u8, Problem> {
        self.start()?;
        let mut again: Option<Instant> = None;
        loop {
            let happened = match again {
                Some(at) => news.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => news.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let ended = match happened {
                Err(RecvTimeoutError::Timeout) => {
                    again = None;
                    self.start()?;
                    None
                }
                Err(RecvTimeoutError::Disconnected) => return Err(Problem::failed("nobody hears signals any more")),
                Ok(News::Told(Told::Child)) => self.reap(again.is_some()),
                Ok(News::Told(Told::Stop)) if again.is_some() => {
                    self.policy.told_to_stop();
                    Some((Ending::Stopped, self.owner))
                }
                Ok(News::Told(told)) => {
                    self.obey(told);
                    None
                }
                Ok(News::Kept(event)) => self.hear(&event),
                Ok(News::Failed(reason)) => {
                    note(&reason);
                    None
                }
            };
            if let Some((how, pid)) = ended {
                match self.policy.ended(how, self.began.elapsed()) {
                    After::Start(pause) => again = Some(Instant::now() + pause),
                    After::End => (self.ends, again) = (Some(pid.unwrap_or_default()), None),
                }
            }
            if let Some(code) = self.ends.and_then(|pid| self.children.code_once_all_have_ended(pid)) {
                return Ok(code);
            }
        }
    }

    fn start(&mut self) -> Result<(), Problem> {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).env("HANDOFF_SOCKET", &self.path);
        let program = Path::new(&self.command[0]).display();
        let started = self.children.start(&mut command);
        let pid = started.map_err(|error| Problem::failed(format!("cannot start {program}: {error}")))?;
        note(&format!("started process {pid}"));
        self.owner = Some(pid);
        self.began = Instant::now();
        Ok(())
    }

    /// Whoever has ended is reaped. The service has ended with them where none is left and this command does not keep it; another
    /// container's process may serve, or keep it.
    fn reap(&mut self, waits: bool) -> Option<(Ending, Option<u32>)> {
        let last = self.children.reap()?;
        if waits || self.ends.is_some() || self.children.any() {
            return None;
        }
        // This command's own keeper has it, and says how it came to that; where not, the last process has said so with its code.
        let answers = Client::connect(&self.path).ok().and_then(|client| client.process()?.id());
        let how = if last.code == 0 { Ending::Stopped } else { Ending::Crashed };
        (answers != Some(std::process::id())).then_some((how, Some(last.pid)))
    }

    fn hear(&mut self, event: &KeeperEvent) -> Option<(Ending, Option<u32>)> {
        note(&event.to_string());
        match event {
            KeeperEvent::StandingBy { pid, .. } | KeeperEvent::Given { pid } => {
                self.owner = Some(*pid);
                None
            }
            KeeperEvent::Keeping(KeptSince::Stop { pid }) => Some((Ending::Stopped, Some(*pid))),
            KeeperEvent::Keeping(KeptSince::Crash { pid }) => Some((Ending::Crashed, Some(*pid))),
            _ => None,
        }
    }

    fn obey(&mut self, told: Told) {
        match told {
            Told::Child => {}
            Told::Stop if self.policy.told_to_stop() => Children::terminate(),
            Told::Stop => self.ask("stop", |client| client.stop()),
            Told::Upgrade => self.ask("upgrade", |client| client.upgrade(None)),
        }
    }

    /// Says a word to the service, and waits for what comes of it, beside everything else.
    fn ask<S>(&self, word: &'static str, ask: fn(Client) -> fd_handoff::Result<S>)
    where
        S: Iterator<Item = fd_handoff::Result<Step>> + 'static,
    {
        let (path, tell) = (self.path.clone(), self.tell.clone());
        std::thread::spawn(move || {
            let done = Client::connect(&path).and_then(ask).and_then(outcome);
            let Err(error) = done else { return };
            match word {
                // It initialises, or is a program of another kind.
                "stop" => Children::terminate(),
                // Whoever would hear it ends together with this command.
                _ => drop(tell.send(News::Failed(format!("no {word}: {}", explain(&path, error))))),
            }
        });
    }
}

/// Waits until it is over.
fn outcome(mut steps: impl Iterator<Item = fd_handoff::Result<Step>>) -> fd_handoff::Result<()> {
    steps.try_for_each(|step| step.map(drop))
}

fn note(message: &str) {
    anstream::eprintln!("handoff: {message}");
}
