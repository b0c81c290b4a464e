//! `handoff watch`: what happens, from one generation to the next.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::styling::Style;
use fd_handoff::Error;
use fd_handoff::client::{Client, Event, News, Status, Step, Steps};

use crate::Service;
use crate::after::{After, look};
use crate::format::{clean, generations, micros, outcome, painted, summary};
use crate::output::{Line, Output};
use crate::problem::{Problem, connect, explain};
use crate::status::headline;
use crate::style::{BAD, DOUBTFUL, GOOD};

/// How often to see whether somebody still reads, while there is nothing to write.
const LOOK_FOR_READER: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    service: Service,
    /// Print one JSON object a line: the `status` of each generation, then its events
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: Options, out: &mut Output) -> Result<(), Problem> {
    let path = options.service.path();
    let client = connect(&path)?;
    let mut watcher = Watcher { path, json: options.json, out };
    watcher.follow(client)
}

struct Watcher<'a> {
    path: PathBuf,
    json: bool,
    out: &'a mut Output,
}

impl Watcher<'_> {
    /// From this generation on to the last one.
    fn follow(&mut self, mut client: Client) -> Result<(), Problem> {
        let mut before: Option<Status> = None;
        loop {
            let (status, steps) = client.watch().map_err(|error| explain(&self.path, error))?;
            self.introduce(&status, before.as_ref())?;
            self.show(steps)?;
            if self.out.is_unread() {
                return Ok(());
            }
            let Some(next) = self.next(&status)? else { return Ok(()) };
            (client, before) = (next, Some(status));
        }
    }

    fn introduce(&mut self, status: &Status, before: Option<&Status>) -> Result<(), Problem> {
        if self.json {
            return self.out.json(&Line::Status(status));
        }
        let Some(before) = before else { return self.note(&headline(status)) };
        if status.generation <= before.generation {
            self.note(&format!("the service was started anew: {}", headline(status)))?;
        } else {
            self.missed(status, before)?;
            self.note(&format!("the service was replaced: {}", headline(status)))?;
        }
        Ok(())
    }

    /// Handoffs from one generation to the next while this command still listened to the one before.
    fn missed(&mut self, status: &Status, before: &Status) -> Result<(), Problem> {
        for attempt in status.history.iter().filter(|attempt| attempt.from > before.generation) {
            let (which, how) = (generations(attempt), outcome(attempt.outcome));
            self.note(&format!("meanwhile, handoff {which} {how}: {}", summary(attempt)))?;
        }
        Ok(())
    }

    /// Until the service closes the connection, or nobody reads any more.
    fn show(&mut self, mut steps: Steps) -> Result<(), Problem> {
        while !self.out.is_unread() {
            match steps.next_within(LOOK_FOR_READER) {
                None => return Ok(()),
                Some(Ok(Step::Event(event))) => self.event(&event)?,
                // Outcomes are for those who ask for an upgrade; and nothing may happen for a long time.
                Some(Ok(_) | Err(Error::NoAnswer { .. })) => {}
                Some(Err(error)) => return Err(explain(&self.path, error)),
            }
        }
        Ok(())
    }

    fn event(&mut self, event: &Event) -> Result<(), Problem> {
        if self.json {
            return self.out.json(&Line::Event(event));
        }
        self.out.line(event_line(&time_of_day(), event))
    }

    /// Who serves after the connection was closed; nobody, where the service has stopped.
    fn next(&mut self, before: &Status) -> Result<Option<Client>, Problem> {
        let mut waiting = false;
        while !self.out.is_unread() {
            match look(&self.path) {
                After::Serving(client) => return Ok(Some(*client)),
                After::Stopped => {
                    if !self.json {
                        self.note("the service has stopped, and nobody listens any more")?;
                    }
                    return Ok(None);
                }
                After::Died => return Err(died(&self.path, before.pid)),
                // A successor has the socket from a predecessor that died, and initialises.
                After::Unclear(Error::NoAnswer { .. }) => {
                    if !waiting && !self.json {
                        self.note("the connection was closed, and nobody answers yet; waiting")?;
                    }
                    waiting = true;
                }
                After::Unclear(error) => return Err(explain(&self.path, error)),
            }
        }
        Ok(None)
    }

    fn note(&mut self, text: &str) -> Result<(), Problem> {
        self.out.line(format_args!("{}  {text}", time_of_day()))
    }
}

pub(crate) fn died(path: &Path, pid: u32) -> Problem {
    Problem::failed(format!(
        "{}: process {pid} ended, and left its socket behind: it crashed or was killed; look at its log, and start the \
         service again",
        path.display()
    ))
}

fn time_of_day() -> String {
    jiff::Zoned::now().strftime("%H:%M:%S%.3f").to_string()
}

/// An event: when, how long into the handoff, what, and the message for people.
fn event_line(time: &str, event: &Event) -> String {
    let elapsed = event.elapsed_us.map(|elapsed| format!("+{}", micros(elapsed))).unwrap_or_default();
    format!("{time}  {elapsed:>9}  {}  {}", news(event.event), clean(&event.message))
}

/// The event's name, padded, in its colour.
pub(crate) fn news(news: News) -> String {
    painted(style(news), &format!("{:<11}", news.to_string()))
}

fn style(news: News) -> Style {
    match news {
        News::Active | News::Farewell | News::Settled | News::PathRestored => GOOD,
        News::Failed | News::TakenBack | News::OwnerUnknown | News::Stranded | News::PathLost => BAD,
        News::Refused | News::Stop => DOUBTFUL,
        _ => Style::new().bold(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(event: News, elapsed_us: Option<u64>, message: &str) -> String {
        let event = serde_json::from_value(serde_json::json!({
            "event": event, "generation": 1, "pid": 42, "elapsed_us": elapsed_us, "message": message,
        }));
        let event: Event = event.unwrap();
        anstream::adapter::strip_str(&event_line("14:03:22.123", &event)).to_string()
    }

    #[test]
    fn events_line_up() {
        assert_eq!(
            shown(News::Transferred, Some(900), "the successor has everything"),
            "14:03:22.123    +900 µs  transferred  the successor has everything"
        );
        assert_eq!(
            shown(News::Upgrade, None, "a new process is to take over"),
            "14:03:22.123             upgrade      a new process is to take over"
        );
    }

    #[test]
    fn an_event_is_one_line() {
        assert_eq!(shown(News::Progress, None, "a\nb\x1b[1m"), "14:03:22.123             progress     a b [1m");
    }
}
