//! `docs/observability.md` says which events there are: its tables, the sources and a real handoff agree.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::scope;
use std::time::Instant;

use common::{PATIENCE, Place, config, place};
use fd_handoff::{Finish, Handoff, Starting, State};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// A row of the document's tables, or a call in the sources.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Documented {
    event: String,
    level: String,
    fields: BTreeSet<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The words between backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = String> + '_ {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// The rows of the tables of events, by the heading that they stand under.
fn documented() -> BTreeMap<String, Vec<Documented>> {
    let text = fs::read_to_string(root().join("docs/observability.md")).unwrap();
    let (mut heading, mut of_events) = (String::new(), false);
    let mut tables: BTreeMap<String, Vec<Documented>> = BTreeMap::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            title.clone_into(&mut heading);
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        match cells[..] {
            ["", "event", "level", "fields", "when", ""] => of_events = true,
            ["", event, level, fields, _when, ""] if of_events && event.starts_with('`') => {
                let event = quoted(event).next().unwrap();
                let row = Documented { event, level: level.to_owned(), fields: quoted(fields).collect() };
                tables.entry(heading.clone()).or_default().push(row);
            }
            [""] => of_events = false,
            _ => {}
        }
    }
    tables
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

/// The arguments of a macro call that `text` begins inside of.
fn arguments(text: &str) -> Vec<String> {
    let (mut arguments, mut depth, mut in_string) = (vec![String::new()], 0, false);
    for char in text.chars() {
        match char {
            '"' => in_string = !in_string,
            '(' | '[' | '{' if !in_string => depth += 1,
            ')' if !in_string && depth == 0 => break,
            ')' | ']' | '}' if !in_string => depth -= 1,
            ',' if !in_string && depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        arguments.last_mut().unwrap().push(char);
    }
    arguments.iter().map(|argument| argument.trim().to_owned()).collect()
}

/// Every call that logs, in every source.
fn logged() -> Vec<(String, Documented)> {
    let mut calls = Vec::new();
    for path in sources(&root().join("src")) {
        let text = fs::read_to_string(&path).unwrap();
        for level in ["error", "warn", "info", "debug", "trace"] {
            for after in text.split(&format!("tracing::{level}!(")).skip(1) {
                let (mut event, mut fields) = (String::new(), BTreeSet::new());
                // Behind the text stands what is shown in it.
                for argument in arguments(after).iter().take_while(|argument| !argument.starts_with('"')) {
                    match argument.split_once(" = ") {
                        Some(("event", name)) => name.trim_matches('"').clone_into(&mut event),
                        Some((field, _)) => drop(fields.insert(field.to_owned())),
                        None if argument.is_empty() => {}
                        None => drop(fields.insert(argument.trim_start_matches(['%', '?']).to_owned())),
                    }
                }
                let place = format!("{}: tracing::{level}!({}", path.display(), after.lines().next().unwrap_or(""));
                calls.push((place, Documented { event, level: level.to_owned(), fields }));
            }
        }
    }
    calls
}

#[test]
fn the_document_lists_what_the_sources_log() {
    let documented: BTreeSet<Documented> = documented().into_values().flatten().collect();
    let mut logs = BTreeSet::new();
    for (place, call) in logged() {
        assert!(!call.event.is_empty(), "{place}\nhas no field `event`: name it, and list it in docs/observability.md");
        assert!(documented.contains(&call), "{place}\nis not listed so in docs/observability.md: {call:?}");
        logs.insert(call);
    }
    let stale: Vec<_> = documented.difference(&logs).collect();
    assert!(stale.is_empty(), "docs/observability.md lists events that nothing logs so: {stale:?}");
}

type Fields = BTreeMap<String, String>;

/// An event as a subscriber saw it.
#[derive(Debug, Clone)]
struct Seen {
    level: String,
    fields: Fields,
    /// The span of the handoff that it belongs to.
    span: Option<Fields>,
}

/// What was seen, and a way to wait for more.
#[derive(Debug, Clone, Default)]
struct Recorder(Arc<(Mutex<Vec<Seen>>, Condvar)>);

struct Collect<'a>(&'a mut Fields);

impl Visit for Collect<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::new();
        attributes.record(&mut Collect(&mut fields));
        context.span(id).unwrap().extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        values.record(&mut Collect(span.extensions_mut().get_mut().unwrap()));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if !event.metadata().target().starts_with("fd_handoff") {
            return;
        }
        let mut fields = Fields::new();
        event.record(&mut Collect(&mut fields));
        let span = context.event_span(event).map(|span| {
            assert_eq!(span.name(), "handoff");
            span.extensions().get::<Fields>().unwrap().clone()
        });
        let level = event.metadata().level().as_str().to_lowercase();
        self.0.0.lock().unwrap().push(Seen { level, fields, span });
        self.0.1.notify_all();
    }
}

impl Recorder {
    fn seen(&self) -> Vec<Seen> {
        self.0.0.lock().unwrap().clone()
    }

    /// The first event of this name that `fits`.
    fn wait_for(&self, event: &str, fits: impl Fn(&Seen) -> bool) -> Seen {
        let began = Instant::now();
        let mut seen = self.0.0.lock().unwrap();
        loop {
            let found = seen.iter().find(|it| it.fields.get("event").is_some_and(|name| name == event) && fits(it));
            if let Some(found) = found {
                return found.clone();
            }
            let left = PATIENCE.checked_sub(began.elapsed());
            let left = left.unwrap_or_else(|| panic!("no {event} in {seen:#?}"));
            seen = self.0.1.wait_timeout(seen, left).unwrap().0;
        }
    }
}

fn start(path: &Path) -> Starting {
    let mut starting = Handoff::builder(config(path)).start().unwrap();
    starting.tcp_listener("http", "127.0.0.1:0".parse().unwrap()).unwrap();
    starting.on_offer(|| State::bytes("snapshot"));
    starting
}

/// Serves until it is superseded or told to stop.
fn run(mut service: Handoff) {
    service.superseded();
    assert_eq!(service.finish().unwrap(), Finish::Exit);
}

#[test]
fn a_handoff_logs_what_the_document_says() {
    let recorder = Recorder::default();
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(recorder.clone())).unwrap();
    let tables = documented();
    let Place { directory: _directory, path } = place();

    let first = start(&path).ready().unwrap();
    let cold = recorder.wait_for("serving", |_| true);
    assert!(cold.span.is_none() && cold.fields["generation"] == "1", "{cold:?}");
    scope(|scope| {
        scope.spawn(move || run(first));
        drop(start(&path));
        let failed = recorder.wait_for("failed", |_| true);
        assert_eq!((failed.level.as_str(), failed.fields["phase"].as_str()), ("warn", "initialising"));
        assert!(failed.fields["reason"].contains("gave up") && failed.fields.contains_key("total_us"), "{failed:?}");

        let mut starting = start(&path);
        starting.progress("almost there");
        let second = starting.ready().unwrap();
        let departed = recorder.wait_for("departed", |_| true);
        assert_eq!(departed.fields["how"], "Farewell");
        let handle = second.handle();
        scope.spawn(move || run(second));
        handle.stop();
        recorder.wait_for("stop", |seen| seen.fields["generation"] == "2");
    });

    let pid = std::process::id().to_string();
    for (role, generation) in [("predecessor", "1"), ("successor", "2")] {
        for row in &tables[&format!("A handoff: the {role}")] {
            let ours = |seen: &Seen| seen.span.as_ref().is_some_and(|span| span["role"] == role);
            let whole = |seen: &Seen| row.fields.iter().all(|field| seen.fields.contains_key(field));
            let seen = recorder.wait_for(&row.event, |seen| ours(seen) && whole(seen));
            assert_eq!(seen.level, row.level, "{row:?}");
            let span = seen.span.unwrap();
            assert_eq!(span["generation"], generation, "{row:?}");
            assert!(span["predecessor"] == pid && span["successor"] == pid, "{row:?}, {span:?}");
        }
    }
    let everything: Vec<Documented> = tables.into_values().flatten().collect();
    for Seen { level, fields, .. } in recorder.seen() {
        let listed = everything.iter().find(|row| row.event == fields["event"] && row.level == level);
        let listed = listed.unwrap_or_else(|| panic!("{fields:?} is not in docs/observability.md"));
        let known = |field: &str| matches!(field, "event" | "message") || listed.fields.contains(field);
        assert!(fields.keys().all(|field| known(field)), "{fields:?} against {listed:?}");
        assert!(fields.contains_key("message"), "{fields:?} says nothing to people");
    }
}
