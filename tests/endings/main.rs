//! One owner, whatever ends: real processes that end in every way there is, on either side of a handoff and around it.
//!
//! ```text
//! cargo test --test endings                  # all rows
//! cargo test --test endings -- 'P returns'   # those that have this in their names
//! ```
//!
//! This program is the service as well. P gives, S takes over from it, T would take over from S; O came before P.

#[path = "../common/clients.rs"]
mod clients;
mod crashes;
mod failures;
mod generations;
mod instances;
mod keepers;
mod load;
mod process;
#[path = "../common/raw.rs"]
#[allow(dead_code, reason = "shared with other tests")]
#[allow(clippy::unwrap_used, reason = "a peer that cannot go on panics, in a process of its own")]
mod raw;
mod service;
mod soak;
mod stops;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use clients::{Check, PATIENCE};
use process::{Form, World};

/// How many rows run at once: most of them wait most of the time.
const AT_ONCE: usize = 4;

/// What is done and what has to follow. Says what was measured, if anything.
pub(crate) struct Row {
    name: String,
    run: Box<dyn Fn() -> Check<String> + Send + Sync>,
}

/// Adds rows of one subject.
#[derive(Default)]
pub(crate) struct Rows(Vec<Row>);

impl Rows {
    /// In both forms.
    pub(crate) fn add(&mut self, name: &str, run: impl Fn(&World) -> Check<String> + Send + Sync + Clone + 'static) {
        for form in [Form::Blocking, Form::Tokio] {
            self.add_in(form, name, run.clone());
        }
    }

    /// In one form.
    pub(crate) fn add_in(
        &mut self,
        form: Form,
        name: &str,
        run: impl Fn(&World) -> Check<String> + Send + Sync + 'static,
    ) {
        self.add_alone(form, name, move || World::new(form), run);
    }

    /// In both forms, by a user whom limits bind.
    pub(crate) fn add_limited(
        &mut self,
        name: &str,
        run: impl Fn(&World) -> Check<String> + Send + Sync + Clone + 'static,
    ) {
        for form in [Form::Blocking, Form::Tokio] {
            self.add_alone(form, name, move || World::of_another_user(form), run.clone());
        }
    }

    fn add_alone(
        &mut self,
        form: Form,
        name: &str,
        world: impl Fn() -> Check<World> + Send + Sync + 'static,
        run: impl Fn(&World) -> Check<String> + Send + Sync + 'static,
    ) {
        let run = move || {
            let world = world()?;
            let done = catch_unwind(AssertUnwindSafe(|| run(&world)));
            let done = done.unwrap_or_else(|_| Err("the row has panicked".to_owned()));
            done.map_err(|error| format!("{error}\n{}", world.log()))
        };
        self.0.push(Row { name: format!("{form:?}: {name}"), run: Box::new(run) });
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("serve") => service::run(),
        Some("keep") => keepers::run(),
        Some("raw successor") => failures::successor_by_hand(args),
        Some("hog") => failures::hog(),
        // What test runners ask of every test program; nothing here is ignored.
        Some("--list" | "--ignored") => ExitCode::SUCCESS,
        filter => test(filter.filter(|word| !word.starts_with('-')).unwrap_or_default()),
    }
}

fn test(filter: &str) -> ExitCode {
    let began = Instant::now();
    // Under nohup(1) it is ignored, and would be by the services; what is caught here has its default action there.
    let caught = signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::default());
    caught.expect("SIGHUP can be caught");
    let mut rows = Rows::default();
    soak::rows(&mut rows);
    stops::rows(&mut rows);
    generations::rows(&mut rows);
    instances::rows(&mut rows);
    keepers::rows(&mut rows);
    crashes::rows(&mut rows);
    failures::rows(&mut rows);
    let rows: Vec<Row> = rows.0.into_iter().filter(|row| row.name.contains(filter)).collect();
    let failed = run_all(&rows);
    println!("{} rows, {failed} failed, {:.0} s", rows.len(), began.elapsed().as_secs_f64());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the rows, several at once, and returns how many have failed.
fn run_all(rows: &[Row]) -> usize {
    let next = Mutex::new(rows.iter());
    let failed = Mutex::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(row) = take(&next) {
                    if !run(row) {
                        *failed.lock().expect("no row panics here") += 1;
                    }
                }
            });
        }
    });
    failed.into_inner().expect("no row panics here")
}

fn take<'a>(rows: &Mutex<std::slice::Iter<'a, Row>>) -> Option<&'a Row> {
    rows.lock().expect("no row panics here").next()
}

fn run(row: &Row) -> bool {
    let began = Instant::now();
    let result = (row.run)();
    let took = began.elapsed().as_secs_f64();
    match &result {
        Ok(seen) => println!("ok      {} ({took:.1} s) {seen}", row.name),
        Err(error) => println!("FAILED  {} ({took:.1} s): {error}", row.name),
    }
    result.is_ok()
}
