//! `handoff stop`: tells the service to stop, and waits until it has.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use fd_handoff::Error;
use fd_handoff::client::{Client, Hello, Status, Step, Steps};

use crate::Service;
use crate::after::{After, look};
use crate::format::{clean, parse_duration, span};
use crate::output::Output;
use crate::problem::{Problem, connect, explain};
use crate::watch::{died, news};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    service: Service,
    /// How long to wait until it has stopped, such as 500ms, 30s or 2m; else as long as it takes. The service goes on
    /// stopping after that
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
}

pub(crate) fn run(options: Options, out: &mut Output) -> Result<(), Problem> {
    let path = options.service.path();
    // Before it is asked: this connection stays open for as long as the service lives, and tells how it goes.
    let (status, steps) = connect(&path)?.watch().map_err(|error| explain(&path, error))?;
    let asked = Instant::now();
    ask(&path, &status)?;
    out.line(format_args!("process {} was told to stop", status.pid))?;
    let deadline = options.timeout.and_then(|timeout| asked.checked_add(timeout));
    listen(&path, &status, steps, deadline, out)?;
    conclude(&path, &status, out)
}

fn ask(path: &Path, status: &Status) -> Result<(), Problem> {
    let client = connect(path)?;
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

/// Until the service has closed the connection.
fn listen(
    path: &Path,
    status: &Status,
    mut steps: Steps,
    deadline: Option<Instant>,
    out: &mut Output,
) -> Result<(), Problem> {
    loop {
        let step = match deadline {
            Some(deadline) => steps.next_within(deadline.saturating_duration_since(Instant::now())),
            None => steps.next(),
        };
        match step {
            None => return Ok(()),
            Some(Ok(Step::Event(event))) => {
                out.line(format_args!("{}  {}", news(event.event), clean(&event.message)))?
            }
            Some(Ok(_)) => {}
            Some(Err(Error::NoAnswer { .. })) => {
                return Err(Problem::failed(format!(
                    "process {} has not stopped in time, and may still be ending its connections: handoff status {}",
                    status.pid,
                    path.display()
                )));
            }
            Some(Err(error)) => return Err(explain(path, error)),
        }
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
