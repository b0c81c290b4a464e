//! `handoff status`: a page about the service.

use std::time::{Duration, SystemTime};

use clap::Args;
use clap::builder::styling::Style;
use fd_handoff::client::{Attempt, FdStatus, Phase, Status};

use crate::Service;
use crate::format::{
    ago, clean, generations, instance, micros, outcome, outcome_style, painted, phase, process, process_of,
    some_process, span,
};
use crate::output::Output;
use crate::problem::{Problem, connect, explain};
use crate::style::{BAD, DOUBTFUL, GOOD};
use crate::table::{Cell, Table};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    service: Service,
    /// Print one JSON object: the fields of the protocol's `status`
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: Options, out: &mut Output) -> Result<(), Problem> {
    let path = options.service.path();
    let status = connect(&path)?.status().map_err(|error| explain(&path, error))?;
    if options.json {
        return out.json(&status);
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    page(&status, now).iter().try_for_each(|line| out.line(line))
}

/// What runs, in one line.
pub(crate) fn headline(status: &Status) -> String {
    format!(
        "{}, generation {}, {}, up {}: {}",
        title(status),
        status.generation,
        process_of(status.pid, status.instance.as_deref()),
        span(Duration::from_millis(status.uptime_ms)),
        phase(status.phase)
    )
}

fn title(status: &Status) -> String {
    clean(&format!("{} {}", status.name, status.version))
}

/// The page. `now` is the time since the Unix epoch.
fn page(status: &Status, now: Duration) -> Vec<String> {
    let mut lines = vec![painted(BOLD, &title(status))];
    lines.extend(facts(status).lines());
    lines.push(String::new());
    lines.extend(descriptors(status));
    lines.push(String::new());
    lines.extend(history(&status.history, now));
    lines
}

fn facts(status: &Status) -> Table {
    let mut table = Table::new();
    let mut fact = |name: &str, value: Cell| table.row(vec![Cell::new(""), Cell::new(name).style(DIM), value]);
    fact("generation", Cell::new(status.generation.to_string()));
    fact("process", Cell::new(status.pid.to_string()));
    if let Some(instance) = &status.instance {
        fact("instance", Cell::new(clean(instance)));
    }
    fact("up", Cell::new(span(Duration::from_millis(status.uptime_ms))));
    let style = if status.phase == Phase::Serving { GOOD } else { DOUBTFUL };
    fact("phase", Cell::new(phase(status.phase)).style(style));
    if let Some(kept) = &status.kept {
        let since = span(Duration::from_millis(kept.for_ms));
        fact("kept", Cell::new(clean(&format!("for {since}: {}", kept.reason))).style(DOUBTFUL));
        fact("waiting", Cell::new(waiting(kept.waiting)));
    }
    if let Some(lost) = &status.path_lost {
        let text = format!("the control path does not lead to it, and no upgrade begins: {lost}");
        fact("path", Cell::new(clean(&text)).style(BAD));
    }
    if let Some(keeper) = &status.keeper {
        let holds = if keeper.holds { "has everything" } else { "is receiving everything" };
        fact("keeper", Cell::new(format!("{} {holds}", process(keeper.pid))));
    }
    if let Some(cut_off) = &status.cut_off {
        fact("network", Cell::new(clean(cut_off)).style(BAD));
    }
    if let Some(successor) = &status.successor {
        let progress = successor.progress.as_deref().unwrap_or("it has not said how it goes");
        let who = process_of(successor.pid, successor.instance.as_deref());
        let text = format!("{who}, version {}: {progress}", successor.version);
        fact("successor", Cell::new(clean(&text)));
    }
    if let Some(predecessor) = &status.predecessor {
        let left =
            predecessor.connections.map_or_else(|| "it has not said how many connections are left".to_owned(), left);
        fact("predecessor", Cell::new(format!("{} drains: {left}", process(predecessor.pid))));
    }
    table
}

fn waiting(connections: u64) -> String {
    match connections {
        1 => "1 connection waits".to_owned(),
        count => format!("{count} connections wait"),
    }
}

fn left(connections: u64) -> String {
    match connections {
        1 => "1 connection is left".to_owned(),
        count => format!("{count} connections are left"),
    }
}

fn descriptors(status: &Status) -> Vec<String> {
    if status.fd_count == 0 {
        return vec!["It has named no listeners or other descriptors.".to_owned()];
    }
    let mut table = Table::new();
    table.row(headings(&["NAME", "KIND", "ADDRESS"]));
    status.fds.iter().for_each(|fd| table.row(descriptor(fd)));
    let mut lines: Vec<String> = table.lines().collect();
    let unshown = status.fd_count.saturating_sub(status.fds.len() as u64);
    if unshown > 0 {
        lines.push(format!("and {unshown} more"));
    }
    lines
}

fn descriptor(fd: &FdStatus) -> Vec<Cell> {
    let address = fd.addr.as_deref().map_or_else(|| "-".to_owned(), clean);
    vec![Cell::new(fd.name.to_string()), Cell::new(fd.kind.to_string()), Cell::new(address)]
}

fn history(attempts: &[Attempt], now: Duration) -> Vec<String> {
    if attempts.is_empty() {
        return vec!["No handoff has been tried yet.".to_owned()];
    }
    let mut table = Table::new();
    table.row(headings(&["HANDOFF", "TO PROCESS", "OUTCOME", "WHEN", "REASON"]));
    attempts.iter().for_each(|attempt| table.row(entry(attempt, now)));
    let mut lines: Vec<String> = table.lines().collect();
    lines.push(String::new());
    lines.extend(durations(attempts));
    lines
}

fn entry(attempt: &Attempt, now: Duration) -> Vec<Cell> {
    vec![
        Cell::new(generations(attempt)),
        // It was not started, or never asked for the service.
        Cell::new(successor(attempt)),
        Cell::new(outcome(attempt.outcome)).style(outcome_style(attempt.outcome)),
        Cell::new(ago(now.as_millis() as u64, attempt.began_unix_ms)),
        Cell::new(attempt.reason.as_deref().map(clean).unwrap_or_default()),
    ]
}

/// In containers each process is 1: what tells them apart is whose it was.
fn successor(attempt: &Attempt) -> String {
    let Some(pid) = some_process(attempt.successor_pid) else { return "no process".to_owned() };
    attempt.instance.as_deref().map_or_else(|| pid.to_string(), |named| format!("{pid} of {}", instance(named)))
}

/// How long each step of each attempt took.
fn durations(attempts: &[Attempt]) -> Vec<String> {
    let mut table = Table::new();
    let mut top = headings(&["HANDOFF"]);
    let steps = ["TOTAL", "TRANSFER", "INITIALISE", "RELEASE", "PAUSE", "DRAIN"];
    top.extend(headings(&steps).into_iter().map(Cell::right));
    table.row(top);
    attempts.iter().for_each(|attempt| table.row(laps(attempt)));
    table.lines().collect()
}

fn laps(attempt: &Attempt) -> Vec<Cell> {
    let laps = [
        Some(attempt.total_us),
        attempt.transfer_us,
        attempt.initialise_us,
        attempt.release_us,
        attempt.pause_us,
        attempt.drain_us,
    ];
    let mut row = vec![Cell::new(generations(attempt))];
    row.extend(laps.map(|lap| Cell::new(lap.map_or_else(|| "-".to_owned(), micros)).right()));
    row
}

fn headings(names: &[&str]) -> Vec<Cell> {
    names.iter().map(|name| Cell::new(*name).style(DIM)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000);

    /// The status of a service that has just started, with these fields instead of its own.
    fn status(fields: Value) -> Status {
        let mut status = json!({
            "name": "http", "version": "0.1.0", "pid": 41, "generation": 1, "phase": "serving", "uptime_ms": 192_000,
            "fds": [], "fd_count": 0, "history": [], "successor": null, "predecessor": null,
        });
        for (name, value) in fields.as_object().unwrap() {
            status[name] = value.clone();
        }
        serde_json::from_value(status).unwrap()
    }

    fn shown(status: &Status) -> String {
        let page = page(status, NOW).join("\n");
        anstream::adapter::strip_str(&page).to_string()
    }

    #[test]
    fn a_service_that_has_lost_its_path() {
        let shown = shown(&status(json!({ "path_lost": "another process listens there" })));
        let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        let wanted = "path the control path does not lead to it, and no upgrade begins: another process listens there";
        assert!(words.contains(wanted), "{shown}");
    }

    #[test]
    fn a_service_that_is_kept_and_one_that_nobody_serves() {
        let words = |fields| shown(&status(fields)).split_whitespace().collect::<Vec<_>>().join(" ");
        let kept = words(json!({ "keeper": { "pid": 12, "holds": true } }));
        assert!(kept.contains("keeper process 12 has everything"), "{kept}");
        let reason = "process 41 has crashed";
        let kept = words(json!({ "phase": "kept", "kept": { "for_ms": 2_500, "reason": reason, "waiting": 7 } }));
        let wanted = "phase nobody serves; this process keeps the service, and connections wait for the next one \
                      kept for 2 s: process 41 has crashed waiting 7 connections wait";
        assert!(kept.contains(wanted), "{kept}");
    }

    #[test]
    fn a_service_in_containers_is_told_by_its_instances() {
        let [old, new] = ["3f1c", "77ab"].map(|start| format!("{start}{}", "0".repeat(60)));
        let attempt = json!({
            "from": 1, "successor_pid": 1, "outcome": "completed", "began_unix_ms": 999_880_000, "total_us": 1, "instance": old,
        });
        let status = status(json!({
            "pid": 1, "generation": 2, "instance": old, "history": [attempt],
            "successor": { "pid": 1, "version": "0.2.0", "progress": null, "instance": new },
        }));
        let words = shown(&status).split_whitespace().collect::<Vec<_>>().join(" ");
        for wanted in [
            &*format!("instance {old}"),
            "process 1 of instance 77ab00000000, version 0.2.0",
            "1 → 2 1 of 3f1c00000000 completed",
        ] {
            assert!(words.contains(wanted), "{words}");
        }
        assert!(
            headline(&status).contains("generation 2, process 1 of instance 3f1c00000000, up"),
            "{}",
            headline(&status)
        );
    }

    #[test]
    fn a_service_that_has_just_started() {
        let wanted = "\
http 0.1.0
  generation  1
  process     41
  up          3 min 12 s
  phase       it serves, and no handoff is under way

It has named no listeners or other descriptors.

No handoff has been tried yet.";
        assert_eq!(shown(&status(json!({}))), wanted);
    }

    #[test]
    fn a_service_about_which_there_is_everything_to_say() {
        let completed = json!({
            "from": 1, "successor_pid": 41, "outcome": "completed", "began_unix_ms": 999_880_000, "total_us": 153_000,
            "transfer_us": 900, "initialise_us": 150_000, "release_us": 1_020, "pause_us": 80, "drain_us": 2_500_000,
        });
        let failed = json!({
            "from": 2, "successor_pid": 0, "outcome": "failed", "began_unix_ms": 999_990_000, "total_us": 7_000,
            "reason": "cannot start /usr/bin/http: nothing has that name: check the path",
        });
        let status = status(json!({
            "generation": 2, "phase": "initialising", "history": [completed, failed],
            "fds": [{ "name": "http", "kind": "tcp_listener", "addr": "127.0.0.1:80" }], "fd_count": 3,
            "successor": { "pid": 43, "version": "0.2.0", "progress": "warming up" },
            "predecessor": { "pid": 40, "connections": 1 },
        }));
        let wanted = "\
http 0.1.0
  generation   2
  process      41
  up           3 min 12 s
  phase        it serves, while the new process, which has everything,
               initialises
  successor    process 43, version 0.2.0: warming up
  predecessor  process 40 drains: 1 connection is left

NAME  KIND          ADDRESS
http  TCP listener  127.0.0.1:80
and 2 more

HANDOFF  TO PROCESS  OUTCOME    WHEN       REASON
1 → 2    41          completed  2 min ago
2        no process  failed     10 s ago   cannot start /usr/bin/http: nothing
                                           has that name: check the path

HANDOFF    TOTAL  TRANSFER  INITIALISE  RELEASE  PAUSE   DRAIN
1 → 2     153 ms    900 µs      150 ms  1.02 ms  80 µs  2.50 s
2        7.00 ms         -           -        -      -       -";
        assert_eq!(shown(&status), wanted);
    }

    #[test]
    fn what_a_service_calls_itself_does_nothing_to_the_terminal() {
        let status = status(json!({ "name": "http\x1b]0;title\x07" }));
        assert_eq!(title(&status), "http ]0;title  0.1.0");
        assert!(
            headline(&status).starts_with("http ]0;title  0.1.0, generation 1, process 41, up 3 min 12 s: it serves")
        );
    }
}
