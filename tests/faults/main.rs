//! Faults in real processes: at every step of a handoff under load, either side dies, exits, ends as `main` does, panics,
//! stops, is told to stop, or gives up.
//!
//! ```text
//! cargo test --features fault-injection --test faults
//! FD_HANDOFF_WRITE=1 cargo test --features fault-injection --test faults    # writes docs/fault-matrix.md
//! FD_HANDOFF_ROWS='release kill' cargo test ...                             # the rows that have this in their order
//! FD_HANDOFF_ROWS=soak cargo test ...                                       // many handoffs in a row alone
//! ```
//!
//! This program is the service as well, so that one build has both.

mod ancestors;
mod case;
#[path = "../common/clients.rs"]
mod clients;
#[path = "../../examples/echo.rs"]
mod echo;
#[path = "../../examples/http.rs"]
mod http;
mod keepers;
mod load;
mod process;
mod rows;
mod soak;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use case::Seen;
use clap::Parser;
use clients::Check;
use process::{Place, Program};
use rows::{Row, Scene, Then};
use tokio::signal::unix::{SignalKind, signal};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/fault-matrix.md");
/// How many rows run at once: most of them wait for a deadline most of the time.
const AT_ONCE: usize = 4;
const PROGRAMS: [Program; 2] = [Program::Http, Program::Echo];

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("http") => ended(serve()),
        Some("echo") => ended(echo::run(args)),
        Some("keep") => ended(keep(args)),
        // What test runners ask of every test program; nothing here is ignored.
        Some("--list" | "--ignored") => ExitCode::SUCCESS,
        _ => test(),
    }
}

/// The service, in a process of its own, whose `main` ends as a fault says.
#[tokio::main(worker_threads = 2)]
async fn serve() -> Result<(), http::Error> {
    let mut fault = signal(SignalKind::user_defined1())?;
    tokio::select! {
        // What ends it may overtake the signal.
        done = http::run(http::Args::parse_from(std::env::args_os().skip(1))) => match ending() {
            Some(_) => fault.recv().await,
            None => return done,
        },
        done = fault.recv() => done,
    };
    match ending().as_deref() {
        Some("return") => Ok(()),
        _ => Err("a fault that a test has asked for".into()),
    }
}

/// How `main` is to end at the fault, where that is what the fault is.
fn ending() -> Option<String> {
    let asked = std::env::var("FD_HANDOFF_FAULT").ok()?;
    let fault = asked.rsplit(' ').next()?;
    matches!(fault, "error" | "return").then(|| fault.to_owned())
}

/// A keeper of the service at this path.
fn keep(mut args: impl Iterator<Item = String>) -> fd_handoff::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let path = args.next().unwrap_or_default();
    let config =
        fd_handoff::Config::new(path).timeouts(|timeouts| timeouts.active = std::time::Duration::from_secs(60));
    fd_handoff::Keeper::new(config).run()
}

fn ended(result: Result<(), impl std::fmt::Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the service failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn test() -> ExitCode {
    let began = Instant::now();
    let wanted = std::env::var("FD_HANDOFF_ROWS").unwrap_or_default();
    let all = PROGRAMS.into_iter().flat_map(|program| rows::of(program).into_iter().map(move |row| (program, row)));
    let rows: Vec<(Program, Row)> = all.filter(|(_, row)| row.line().contains(&wanted)).collect();
    let results = run_all(rows.len(), |number| run(number, rows[number]));
    for ((program, row), result) in rows.iter().zip(&results) {
        println!("| {program:?} {} {}", row.line(), shown(result));
    }
    let failed = results.iter().filter(|result| result.is_err()).count();
    let kept: Vec<keepers::Row> = keepers::rows().into_iter().filter(|row| row.line().contains(&wanted)).collect();
    let results = run_all(kept.len(), |number| run_keeper(number, kept[number]));
    for (row, result) in kept.iter().zip(&results) {
        let shown = result.as_ref().map_or_else(|error| format!("FAILED: {error}"), |()| "ok".to_owned());
        println!("{} {shown} |", row.line());
    }
    let failed = failed + results.iter().filter(|result| result.is_err()).count();
    println!("{} rows, {failed} failed, {:.0} s", rows.len() + kept.len(), began.elapsed().as_secs_f64());
    let soaked = if wanted.is_empty() || wanted == "soak" { soak() } else { Ok(()) };
    if let Err(error) = &soaked {
        println!("many handoffs in a row: FAILED: {error}");
    }
    let documented = if wanted.is_empty() && failed == 0 { document() } else { Ok(()) };
    if let Err(error) = &documented {
        println!("{error}");
    }
    if failed == 0 && soaked.is_ok() && documented.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn shown(result: &Check<Seen>) -> String {
    match result {
        Ok(Seen { answered, refused, lost }) => format!("ok: {answered} answered, {refused} refused, {lost} lost |"),
        Err(error) => format!("FAILED: {error} |"),
    }
}

/// Runs so many, several at once, and returns their results in order.
fn run_all<T: Send>(count: usize, run: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = Mutex::new(0..count);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(number) = take(&next) {
                    let result = run(number);
                    results.lock().expect("no row panics").push((number, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no row panics");
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

fn run_keeper(number: usize, row: keepers::Row) -> Check {
    /// Behind all those of the other rows.
    const FIRST: usize = 250 * 200;
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let place = place(Program::Http, FIRST + number, directory.path());
    keepers::run(row, place.clone()).map_err(|error| with_log(&error, &place))
}

fn take(numbers: &Mutex<std::ops::Range<usize>>) -> Option<usize> {
    numbers.lock().expect("no row panics").next()
}

fn run(number: usize, (program, row): (Program, Row)) -> Check<Seen> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let place = Place { more: extra(&row), slow: initialisation(&row), ..place(program, number, directory.path()) };
    let result = match row.scene {
        Scene::Grandparent => ancestors::run(row, place.clone()),
        _ => case::run(row, place.clone()),
    };
    result.map_err(|error| with_log(&error, &place))
}

fn with_log(error: &str, place: &Place) -> String {
    let log = std::fs::read_to_string(&place.log).unwrap_or_default();
    format!("{error}\n{log}")
}

/// An address of its own, from which no client connects: nobody else can have the port while nobody listens.
fn place(program: Program, number: usize, directory: &Path) -> Place {
    let listen = SocketAddr::from(([127, 77, (number / 250) as u8, (number % 250 + 1) as u8], 0));
    // Long enough to have something to say of it.
    let slow = 1;
    Place { program, listen, control: directory.join("http.sock"), log: directory.join("log"), slow, more: 0 }
}

/// Enough for three batches.
fn extra(row: &Row) -> usize {
    if row.scene == Scene::Batches { 600 } else { 0 }
}

/// Where there are two heirs, the younger of them is not to be ready by chance.
fn initialisation(row: &Row) -> u64 {
    if row.then == Then::Grandparent { 1_000 } else { 1 }
}

fn soak() -> Check {
    let began = Instant::now();
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let place = place(Program::Http, 250 * 250, directory.path());
    let done = soak::run(place.clone()).map_err(|error| with_log(&error, &place));
    let soak::Summary { completed, failed, answered } = done?;
    let took = began.elapsed().as_secs_f64();
    println!("{completed} handoffs and {failed} that failed in a row: {answered} answered, 0 lost, {took:.0} s");
    Ok(())
}

/// Writes the table, or compares it with what is written.
fn document() -> Check {
    let text = table();
    if std::env::var_os("FD_HANDOFF_WRITE").is_some() {
        return std::fs::write(DOCUMENT, text).map_err(|error| format!("cannot write {DOCUMENT}: {error}"));
    }
    let found = std::fs::read_to_string(DOCUMENT).unwrap_or_default();
    clients::require(found == text, || format!("{DOCUMENT} is not what this test does: run it with FD_HANDOFF_WRITE=1"))
}

fn table() -> String {
    let mut text = include_str!("fault-matrix.md").to_owned();
    for program in PROGRAMS {
        for rows in rows::of(program).chunk_by(|one, next| one.scene == next.scene) {
            text.push_str(heading(program, rows[0].scene));
            text.push_str("| side | point | fault | serves then | requests lost | count |\n");
            text.push_str("| --- | --- | --- | --- | --- | --- |\n");
            for row in rows {
                text.push_str(&row.line());
                text.push('\n');
            }
        }
    }
    text.push_str("\n## A service with a keeper\n\n| the service | side | point | fault | serves then |\n");
    text.push_str("| --- | --- | --- | --- | --- |\n");
    for row in keepers::rows() {
        text.push_str(&row.line());
        text.push('\n');
    }
    text
}

fn heading(program: Program, scene: Scene) -> &'static str {
    match (program, scene) {
        (Program::Http, Scene::Handoff) => "\n## examples/http.rs: on tokio, with state\n\n",
        (Program::Echo, Scene::Handoff) => "\n## examples/echo.rs: blocking, without state\n\n",
        (_, Scene::Batches) => "\n### With 600 descriptors more, in three batches\n\n",
        (_, Scene::Stop) => "\n### The successor is told to stop\n\n",
        (_, Scene::Grandparent) => "\n### With a grandparent that drains\n\n",
    }
}
