//! `handoff stop`: tells the service to stop, and waits until its process has ended. By hand, and as a unit's `ExecStop=`.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use fd_handoff::client::{Client, Hello, News, Phase, Process, Status, Step, Steps};
use fd_handoff::{Error, ErrorCode, PathProblem};

use crate::Service;
use crate::after::{After, look};
use crate::format::{clean, parse_duration, span};
use crate::output::Output;
use crate::problem::{Problem, connect, explain};
use crate::systemd::UnitStop;
use crate::watch::{died, news};

/// How long a process may take to end after it has closed its control socket, until that is worth a line.
const SOON: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    service: Service,
    /// How long to wait until it has ended, such as 30 (seconds), 500ms or 2m; else as long as it takes. The service goes
    /// on stopping after that, and the exit code is 4
    #[arg(long, value_name = "SECONDS", value_parser = parse_duration, conflicts_with = "no_wait")]
    timeout: Option<Duration>,
    /// Tell it to stop, and do not wait until it has
    #[arg(long)]
    no_wait: bool,
    /// Tell it twice: it drains nothing, and ends at once
    #[arg(long)]
    now: bool,
}

pub(crate) fn run(options: Options, out: &mut Output) -> Result<(), Problem> {
    let deadline = options.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let (now, waits, path) = (options.now, !options.no_wait, options.service.path());
    let stop = Stop { path: &path, now, waits, deadline, unit: UnitStop::under_way() };
    let mut draining = Vec::new();
    while stop.has_to_go_on(&mut draining, out)? {}
    draining.iter().try_for_each(|(process, pid)| stop.wait_for_end(process, *pid, out))
}

/// A stop of a service, whichever of its processes serves.
struct Stop<'a> {
    path: &'a Path,
    /// Drain nothing.
    now: bool,
    /// Until it has ended.
    waits: bool,
    /// When to wait no longer.
    deadline: Option<Instant>,
    /// The unit that is being stopped.
    unit: Option<UnitStop>,
}

impl Stop<'_> {
    /// Stops the process that serves. Returns whether another one does now, which has to be stopped as well; the one before
    /// it then still drains.
    fn has_to_go_on(&self, draining: &mut Vec<(Process, u32)>, out: &mut Output) -> Result<bool, Problem> {
        // Before it is asked: this connection stays open for as long as the service lives, and tells how it goes.
        let client = match Client::connect(self.path) {
            Ok(client) => client,
            Err(error) => return self.nobody(error, out).map(|()| false),
        };
        if self.unit.as_ref().is_some_and(|unit| unit.is_elsewhere(&client)) {
            return self.superseded(&client, out).map(|()| false);
        }
        let process = client.process();
        let (status, steps) = client.watch().map_err(|error| explain(self.path, error))?;
        if status.phase == Phase::Kept {
            return self.kept(&status, out).map(|()| false);
        }
        if !self.ask(&status)? {
            return Ok(true);
        }
        out.line(format_args!("process {} was told to stop", status.pid))?;
        if !self.waits {
            return Ok(false);
        }
        if self.listen(steps, status.pid, out)? {
            // Whatever has taken over from the keeper meanwhile: this process stops.
            process.iter().try_for_each(|process| self.wait_for_end(process, status.pid, out))?;
            let pid = status.pid;
            out.line(format_args!("process {pid} has stopped; a keeper has the service, for the next process"))?;
            return Ok(false);
        }
        if self.is_replaced(&status, out)? {
            draining.extend(process.map(|process| (process, status.pid)));
            return Ok(true);
        }
        if let Some(process) = process {
            self.wait_for_end(&process, status.pid, out)?;
        }
        self.conclude(&status, out)
    }

    /// A unit whose process has ended by itself is stopped as well.
    fn nobody(&self, error: Error, out: &mut Output) -> Result<(), Problem> {
        match (&self.unit, &error) {
            (Some(_), Error::Path { problem: PathProblem::NobodyThere | PathProblem::NoDirectory, .. }) => {
                out.line("nobody serves there, and there is nothing to stop")
            }
            _ => Err(explain(self.path, error)),
        }
    }

    /// Nobody serves, and the sockets are the keeper's to close.
    fn kept(&self, status: &Status, out: &mut Output) -> Result<(), Problem> {
        let text = format!("nobody serves: process {} keeps the service for the next process", status.pid);
        match &self.unit {
            Some(_) => out.line(text),
            None => Err(Problem::failed(format!("{text}; to give the service up, end that one"))),
        }
    }

    /// Another unit's process serves. What is left of this unit drains.
    fn superseded(&self, client: &Client, out: &mut Output) -> Result<(), Problem> {
        let pid = client.hello().pid;
        out.line(format_args!("process {pid}, of another unit, serves, and is not stopped with this one"))?;
        match self.unit.as_ref().and_then(UnitStop::main_process) {
            Some(main) if !self.ended(&main, self.rest())? => Err(self.too_late(main.id().unwrap_or_default())),
            _ => Ok(()),
        }
    }

    /// Returns whether it has heard: it may just have been replaced.
    fn ask(&self, status: &Status) -> Result<bool, Problem> {
        let Some(client) = self.same(status)? else { return Ok(false) };
        client.stop().map_err(|error| match error {
            Error::Refused { code: ErrorCode::Unsupported, message } => Problem::failed(format!(
                "this service does not take such requests over its control socket ({message}): use what started it, or \
                 end process {}",
                status.pid
            )),
            other => explain(self.path, other),
        })?;
        if self.now {
            // One that has ended since then has nothing more to hear.
            let _ = self.same(status).map(|client| client.map(Client::stop));
        }
        Ok(true)
    }

    /// A connection of its own to the process with this status, if that serves still.
    fn same(&self, status: &Status) -> Result<Option<Client>, Problem> {
        let client = connect(self.path)?;
        Ok(is_same(client.hello(), status).then_some(client))
    }

    /// Until the service has closed the connection. Returns whether a keeper has got it.
    fn listen(&self, mut steps: Steps, pid: u32, out: &mut Output) -> Result<bool, Problem> {
        let mut kept = false;
        loop {
            let step = match self.rest() {
                Some(rest) => steps.next_within(rest),
                None => steps.next(),
            };
            match step {
                None => return Ok(kept),
                Some(Ok(Step::Event(event))) => {
                    kept |= event.event == News::Kept;
                    out.line(format_args!("{}  {}", news(event.event), clean(&event.message)))?
                }
                Some(Ok(_)) => {}
                Some(Err(Error::NoAnswer { .. })) => return Err(self.too_late(pid)),
                Some(Err(error)) => return Err(explain(self.path, error)),
            }
        }
    }

    /// Until the process itself has ended: what it held is free only then.
    fn wait_for_end(&self, process: &Process, pid: u32, out: &mut Output) -> Result<(), Problem> {
        if self.ended(process, Some(self.rest().unwrap_or(SOON).min(SOON)))? {
            return Ok(());
        }
        out.line(format_args!("process {pid} has closed its control socket; waiting for the process to end"))?;
        if self.ended(process, self.rest())? { Ok(()) } else { Err(self.too_late(pid)) }
    }

    fn ended(&self, process: &Process, timeout: Option<Duration>) -> Result<bool, Problem> {
        process.wait_for_end(timeout).map_err(|error| Problem::failed(error.to_string()))
    }

    fn rest(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn too_late(&self, pid: u32) -> Problem {
        Problem::late(format!(
            "process {pid} has not ended in time, and goes on stopping: see what it does with handoff status {}, or end it \
             by hand",
            self.path.display()
        ))
    }

    /// Whether the upgrade that was under way came to its end first.
    fn is_replaced(&self, before: &Status, out: &mut Output) -> Result<bool, Problem> {
        let Ok(client) = Client::connect(self.path) else { return Ok(false) };
        let Hello { generation, pid, .. } = *client.hello();
        if generation <= before.generation {
            return Ok(false);
        }
        out.line(format_args!(
            "process {} was being replaced: generation {generation}, process {pid}, serves",
            before.pid
        ))?;
        Ok(true)
    }

    /// Returns whether its successor serves.
    fn conclude(&self, status: &Status, out: &mut Output) -> Result<bool, Problem> {
        let (pid, up) = (status.pid, span(Duration::from_millis(status.uptime_ms)));
        match look(self.path) {
            After::Stopped => out.line(format_args!("process {pid} has stopped, after it had been up for {up}"))?,
            After::Died => return Err(died(self.path, pid)),
            After::Serving(client) if client.hello().generation > status.generation => return Ok(true),
            After::Serving(client) => out.line(format_args!(
                "process {pid} has stopped; something has started the service anew: generation {}, process {}",
                client.hello().generation,
                client.hello().pid
            ))?,
            After::Unclear(error) => {
                return Err(Problem::failed(format!(
                    "process {pid} has closed the connection, and what is at {} now cannot be told: {error}",
                    self.path.display()
                )));
            }
        }
        Ok(false)
    }
}

fn is_same(hello: &Hello, status: &Status) -> bool {
    (hello.generation, hello.pid) == (status.generation, status.pid)
}
