//! `handoff upgrade`: has the service replace itself, and shows how it goes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use fd_handoff::client::{Attempt, Event, Hello, News, Outcome, Step, Steps};
use fd_handoff::{Error, ErrorCode};
use indicatif::{ProgressBar, ProgressStyle};

use crate::Service;
use crate::after::{After, look};
use crate::format::{clean, micros, painted, parse_duration, process_of, span, summary};
use crate::output::{Line, Output, is_interactive};
use crate::problem::{Problem, connect, explain};
use crate::style::GOOD;
use crate::watch::news;

/// How long the first word may take: the service says at once that it was asked.
const FIRST_WORD: Duration = Duration::from_secs(5);
/// How often the spinner turns.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    service: Service,
    /// How long the new process may take to get ready, such as 30 (seconds), 500ms or 2m; else what the service is
    /// configured with. This command waits 10 seconds longer, and then gives up itself with exit code 4
    #[arg(long, value_name = "SECONDS", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Print one JSON object a line: events, then the outcome
    #[arg(long)]
    json: bool,
    /// How much longer than that this command waits: for what the service does after its deadline
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "10s", hide = true)]
    grace: Duration,
}

pub(crate) fn run(options: Options, out: &mut Output) -> Result<(), Problem> {
    let path = options.service.path();
    let client = connect(&path)?;
    let mut upgrade = Upgrade {
        path: &path,
        hello: client.hello().clone(),
        asked: Instant::now(),
        patience: options.timeout.map(|timeout| timeout.saturating_add(options.grace)),
        last: None,
        view: View { json: options.json, spinner: spinner(options.json), out },
    };
    let steps = client.upgrade(options.timeout).map_err(|error| explain(&path, error))?;
    let attempt = upgrade.follow(steps)?;
    upgrade.conclude(&attempt)
}

struct Upgrade<'a> {
    path: &'a PathBuf,
    hello: Hello,
    asked: Instant,
    /// How long to wait for the outcome.
    patience: Option<Duration>,
    /// The last thing heard.
    last: Option<Event>,
    view: View<'a>,
}

impl Upgrade<'_> {
    fn follow(&mut self, mut steps: Steps) -> Result<Attempt, Problem> {
        loop {
            let step = match self.rest() {
                Some(rest) => steps.next_within(rest),
                None => steps.next(),
            };
            match step {
                Some(Ok(Step::Outcome(attempt))) => return Ok(attempt),
                Some(Ok(Step::Event(event))) => {
                    self.view.event(self.asked.elapsed(), &event)?;
                    self.last = Some(event);
                }
                Some(Ok(_)) => {}
                Some(Err(Error::NoAnswer { after })) => return Err(self.too_late(after)),
                Some(Err(error)) => return Err(self.broken(error)),
                None => return Err(self.without_outcome()),
            }
        }
    }

    /// How long to wait for the next step.
    fn rest(&self) -> Option<Duration> {
        let rest = self.patience.map(|patience| patience.saturating_sub(self.asked.elapsed()));
        if self.last.is_some() {
            return rest;
        }
        Some(rest.unwrap_or(FIRST_WORD).min(FIRST_WORD))
    }

    fn conclude(mut self, attempt: &Attempt) -> Result<(), Problem> {
        self.view.outcome(self.asked.elapsed(), attempt)?;
        if attempt.outcome == Outcome::Completed {
            return Ok(());
        }
        Err(Problem::failed(format!("the upgrade failed: {}", summary(attempt))))
    }

    fn too_late(&self, after: Duration) -> Problem {
        let at = self.path.display();
        if self.last.is_none() {
            return Problem::unreachable(format!(
                "{at}: no answer within {after:?}; process {} is stopped or hangs, and may still do what it was asked \
                 for when it goes on",
                self.hello.pid
            ));
        }
        Problem::late(format!(
            "no outcome after {}; {}; the upgrade goes on without this command: handoff status {at}",
            span(self.asked.elapsed()),
            self.last_news()
        ))
    }

    /// The service says no, or something that nobody understands.
    fn broken(&self, error: Error) -> Problem {
        if let Error::Refused { code: ErrorCode::Unsupported, message } = error {
            return Problem::failed(format!(
                "this service does not take such requests over its control socket ({message}): start a new process the way \
                 the service is started, and it takes over"
            ));
        }
        if self.last.is_none() || matches!(error, Error::Refused { .. }) {
            return explain(self.path, error);
        }
        Problem::failed(format!(
            "cannot follow the upgrade any further ({error}); {}; see how it ends: handoff status {}",
            self.last_news(),
            self.path.display()
        ))
    }

    fn without_outcome(&self) -> Problem {
        Problem::failed(format!(
            "process {} closed the connection without an outcome; {}; {}",
            self.hello.pid,
            self.last_news(),
            who_serves(self.path)
        ))
    }

    fn last_news(&self) -> String {
        match &self.last {
            Some(event) => format!("the last news was \"{}\"", event.message),
            None => "it said nothing about the upgrade".to_owned(),
        }
    }
}

/// What is known now that the service is gone.
fn who_serves(path: &Path) -> String {
    let at = path.display();
    match look(path) {
        After::Serving(client) => {
            let hello = client.hello();
            let who = process_of(hello.pid, hello.instance.as_deref());
            format!("generation {}, {who}, answers there now: handoff status {at}", hello.generation)
        }
        After::Stopped => format!("nobody listens at {at} any more, and the socket is gone: start the service"),
        After::Died => format!("nobody listens at {at} any more: start the service"),
        After::Unclear(error) => format!("nothing is known of what is there now ({error}): handoff status {at}"),
    }
}

/// What is shown meanwhile.
struct View<'a> {
    json: bool,
    /// On a terminal only.
    spinner: Option<ProgressBar>,
    out: &'a mut Output,
}

impl View<'_> {
    fn event(&mut self, elapsed: Duration, event: &Event) -> Result<(), Problem> {
        if self.json {
            return self.out.json(&Line::Event(event));
        }
        if let Some(spinner) = &self.spinner {
            spinner.set_message(clean(&event.message));
            // Each would be a line, and the spinner shows the last one.
            if event.event == News::Progress {
                return Ok(());
            }
        }
        self.line(&step_line(elapsed, &news(event.event), &event.message))
    }

    fn outcome(&mut self, elapsed: Duration, attempt: &Attempt) -> Result<(), Problem> {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
        if self.json {
            return self.out.json(&Line::Outcome(attempt));
        }
        // In any other case the last word is on stderr.
        if attempt.outcome != Outcome::Completed {
            return Ok(());
        }
        self.out.line(step_line(elapsed, &painted(GOOD, &format!("{:<11}", "completed")), &summary(attempt)))
    }

    fn line(&mut self, line: &str) -> Result<(), Problem> {
        match &self.spinner {
            Some(spinner) => spinner.suspend(|| self.out.line(line)),
            None => self.out.line(line),
        }
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

fn step_line(elapsed: Duration, name: &str, message: &str) -> String {
    let elapsed = micros(elapsed.as_micros().try_into().unwrap_or(u64::MAX));
    format!("{elapsed:>10}  {name}  {}", clean(message))
}

fn spinner(json: bool) -> Option<ProgressBar> {
    if json || !is_interactive() {
        return None;
    }
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{elapsed:>10}  {spinner} {wide_msg}") {
        spinner.set_style(style);
    }
    spinner.set_message("asking");
    spinner.enable_steady_tick(TICK);
    Some(spinner)
}
