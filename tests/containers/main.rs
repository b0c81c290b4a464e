//! Services in containers, on a real Docker engine and under load: replaced, restarted, crashed and kept.
//!
//! ```text
//! cargo test --test containers -- --ignored
//! ```
//!
//! The files in `examples/containers/` are what is run here.

#![cfg(all(feature = "cli", feature = "tokio", feature = "bincode"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod checks;
#[path = "../common/example.rs"]
mod example;
mod harness;
mod keeper;
mod load;
mod next;
mod run;
mod together;

use harness::Engine;
use load::Sum;

/// How many rows run at once: most of them wait most of the time.
const AT_ONCE: usize = 3;

type Row = (&'static str, fn(&Engine) -> Sum);

#[test]
#[ignore = "needs docker"]
fn containers() {
    let engine = Engine::new();
    let rows: Vec<Row> = [keeper::ROWS, next::ROWS, run::ROWS, together::ROWS, checks::ROWS].concat();
    let wanted = std::env::var("ROW").unwrap_or_default();
    let rows: Vec<Row> =
        rows.into_iter().filter(|(name, _)| wanted.split('|').any(|part| name.contains(part))).collect();
    println!("\n{:<44} {:>8} {:>7} {:>4} {:>8} {:>7}", "", "answered", "refused", "lost", "longest", "took");
    let next = std::sync::Mutex::new(rows.iter());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    // Not under the lock while it runs.
                    let row = next.lock().unwrap().next();
                    let Some((name, run)) = row else { return };
                    let began = std::time::Instant::now();
                    let seen = run(&engine);
                    let Sum { answered, refused, lost, longest } = seen;
                    let (longest, took) = (longest.as_millis(), began.elapsed().as_secs_f64());
                    println!("{name:<44} {answered:>8} {refused:>7} {lost:>4} {longest:>5} ms {took:>5.1} s");
                }
            });
        }
    });
}
