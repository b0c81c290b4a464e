//! `handoff stop`: tells the service to stop, and waits until its process has ended.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use fd_handoff::Error;
use fd_handoff::client::{Client, Hello, News, Phase, Process, Status, Step, Steps};

use crate::Service;
use crate::after::{After, look};
use crate::format::{clean, parse_duration, span};
use crate::output::Output;
use crate::problem::{Problem, connect, explain};
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
}

pub(crate) fn run(options: Options, out: &mut Output) -> Result<(), Problem> {
    let path = options.service.path();
    // Before it is asked: this connection stays open for as long as the service lives, and tells how it goes.
    let client = connect(&path)?;
    let process = client.process();
    let (status, steps) = client.watch().map_err(|error| explain(&path, error))?;
    let asked = Instant::now();
    ask(&path, &status)?;
    out.line(format_args!("process {} was told to stop", status.pid))?;
    if options.no_wait {
        return Ok(());
    }
    let deadline = options.timeout.and_then(|timeout| asked.checked_add(timeout));
    let service = Stopping { path: &path, status: &status, deadline };
    let kept = service.listen(steps, out)?;
    if let Some(process) = process {
        service.wait_for_end(&process, out)?;
    }
    if kept {
        // Whatever has taken over from the keeper meanwhile: this process has stopped.
        let pid = status.pid;
        return out.line(format_args!("process {pid} has stopped; a keeper has the service, for the next process"));
    }
    conclude(&path, &status, out)
}

fn ask(path: &Path, status: &Status) -> Result<(), Problem> {
    let client = connect(path)?;
    if status.phase == Phase::Kept {
        return Err(Problem::failed(format!(
            "nobody serves: process {} keeps the service for the next process; to give the service up, end that one",
            status.pid
        )));
    }
    if !is_same(client.hello(), status) {
        return Err(Problem::failed("the service has just been replaced, and was not told to stop: try again"));
    }
    client.stop().map(drop).map_err(|error| match error {
        Error::Refused { code: fd_handoff::ErrorCode::Unsupported, message } => Problem::failed(format!(
            "this service does not take such requests over its control socket ({message}): use what started it, or end \
             process {}",
            status.pid
        )),
        other => explain(path, other),
    })
}

fn is_same(hello: &Hello, status: &Status) -> bool {
    (hello.generation, hello.pid) == (status.generation, status.pid)
}

/// A service that was told to stop.
struct Stopping<'a> {
    path: &'a Path,
    status: &'a Status,
    /// When to wait no longer.
    deadline: Option<Instant>,
}

impl Stopping<'_> {
    /// Until the service has closed the connection. Returns whether a keeper has got the service.
    fn listen(&self, mut steps: Steps, out: &mut Output) -> Result<bool, Problem> {
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
                Some(Err(Error::NoAnswer { .. })) => return Err(self.too_late()),
                Some(Err(error)) => return Err(explain(self.path, error)),
            }
        }
    }

    /// Until the process itself has ended: what it held is free only then.
    fn wait_for_end(&self, process: &Process, out: &mut Output) -> Result<(), Problem> {
        let ended = |timeout| process.wait_for_end(timeout).map_err(|error| Problem::failed(error.to_string()));
        if ended(Some(self.rest().unwrap_or(SOON).min(SOON)))? {
            return Ok(());
        }
        out.line(format_args!(
            "process {} has closed its control socket; waiting for the process to end",
            self.status.pid
        ))?;
        if ended(self.rest())? { Ok(()) } else { Err(self.too_late()) }
    }

    fn rest(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn too_late(&self) -> Problem {
        Problem::late(format!(
            "process {} has not ended in time, and goes on stopping: see what it does with handoff status {}, or end it by \
             hand",
            self.status.pid,
            self.path.display()
        ))
    }
}

fn conclude(path: &Path, status: &Status, out: &mut Output) -> Result<(), Problem> {
    let (pid, up) = (status.pid, span(Duration::from_millis(status.uptime_ms)));
    match look(path) {
        After::Stopped => out.line(format_args!("process {pid} has stopped, after it had been up for {up}")),
        After::Died => Err(died(path, pid)),
        After::Serving(client) => someone_serves(path, status, &client, out),
        After::Unclear(error) => Err(Problem::failed(format!(
            "process {pid} has closed the connection, and what is at {} now cannot be told: {error}",
            path.display()
        ))),
    }
}

fn someone_serves(path: &Path, status: &Status, client: &Client, out: &mut Output) -> Result<(), Problem> {
    let (before, hello) = (status.pid, client.hello());
    let (generation, pid) = (hello.generation, hello.pid);
    if generation <= status.generation {
        return out.line(format_args!(
            "process {before} has stopped; something has started the service anew: generation {generation}, process {pid}"
        ));
    }
    Err(Problem::failed(format!(
        "process {before} has ended, but it was being replaced: generation {generation}, process {pid}, serves; stop that \
         one: handoff stop {}",
        path.display()
    )))
}
