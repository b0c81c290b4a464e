//! `handoff check`: is this place fit for a control socket?

mod kernel;
mod place;
mod service;
mod strays;
mod surroundings;
mod trial;

use std::path::Path;

use clap::Args;
use clap::builder::styling::Style;
use fd_handoff::client::Client;
use serde::Serialize;

pub(crate) use trial::successor;

use crate::Service;
use crate::format::clean;
use crate::output::Output;
use crate::problem::Problem;
use crate::style::{BAD, DOUBTFUL, GOOD};
use crate::table::{Cell, Table};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    service: Service,
    /// The service allows sockets of another network namespace: Config::allow_foreign_netns
    #[arg(long)]
    foreign_netns: bool,
    /// Print one JSON object: the path, whether nothing failed, and what was found
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: Options, out: &mut Output) -> Result<(), Problem> {
    let path = options.service.path();
    let mut findings = kernel::look();
    findings.extend(surroundings::look());
    // Once: somebody who does not answer takes his time.
    let mut running = Client::connect(&path);
    findings.extend(service::look(running.as_mut().ok(), options.foreign_netns));
    findings.extend(place::look(&path, running));
    findings.push(trial::attempt(&path));
    let failed = findings.iter().filter(|finding| finding.verdict == Verdict::Failed).count();
    if options.json {
        out.json(&Report { path: path.to_string_lossy().into_owned(), fit: failed == 0, checks: &findings })?;
    } else {
        lines(&findings).iter().try_for_each(|line| out.line(line))?;
    }
    match failed {
        0 => Ok(()),
        1 => Err(Problem::failed(format!("{} is not fit for a control socket: 1 check failed", path.display()))),
        count => {
            Err(Problem::failed(format!("{} is not fit for a control socket: {count} checks failed", path.display())))
        }
    }
}

/// Who listens on a socket that had this path once, where nobody can be reached there.
pub(crate) fn lost_by(path: &Path) -> Option<String> {
    strays::of(path, None).first().map(strays::Stray::who)
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    path: String,
    fit: bool,
    checks: &'a [Finding],
}

/// What one check has found.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Warning,
    Failed,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Finding {
        Finding { check, verdict: Verdict::Ok, found: found.into(), advice: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { check, verdict: Verdict::Warning, found: found.into(), advice: Some(advice.into()) }
    }

    fn failed(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding { check, verdict: Verdict::Failed, found: found.into(), advice: Some(advice.into()) }
    }
}

impl Verdict {
    fn shown(self) -> (&'static str, Style) {
        match self {
            Verdict::Ok => ("ok", GOOD),
            Verdict::Warning => ("warning", DOUBTFUL),
            Verdict::Failed => ("failed", BAD.bold()),
        }
    }
}

/// Lines for each finding, and more with the advice where there is some.
fn lines(findings: &[Finding]) -> Vec<String> {
    let mut table = Table::new();
    for finding in findings {
        let (word, style) = finding.verdict.shown();
        table.row(vec![Cell::new(word).style(style), Cell::new(finding.check), Cell::new(clean(&finding.found))]);
    }
    let pairs = table.rows().zip(findings);
    pairs
        .flat_map(|(lines, finding)| lines.into_iter().chain(finding.advice.as_deref().map_or_else(Vec::new, advice)))
        .collect()
}

fn advice(text: &str) -> Vec<String> {
    let mut table = Table::new();
    table.row(vec![Cell::new("       "), Cell::new("->").style(DOUBTFUL), Cell::new(clean(text))]);
    table.lines().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_follows_what_it_is_about() {
        let findings =
            [Finding::ok("memfd", "works"), Finding::failed("directory", "/nowhere does not exist", "create it")];
        let wanted = "\
ok      memfd      works
failed  directory  /nowhere does not exist
         ->  create it";
        let found = lines(&findings).join("\n");
        assert_eq!(anstream::adapter::strip_str(&found).to_string(), wanted);
    }
}
