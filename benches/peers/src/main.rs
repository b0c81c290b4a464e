//! Measures fd-handoff and its peers on the same work in the same run, next to the physical floor.
//!
//! ```text
//! cargo run --release                 everything, and writes docs/benchmarks.md with its pictures
//! cargo run --release -- --quick      the ratios alone, in three minutes; exit status 1 where one is clearly broken
//! cargo run --release -- --only gap   one measurement (or several, with commas), printed only
//! ```

mod client;
mod contestant;
mod draw;
mod figures;
mod load;
mod machine;
mod measure;
mod options;
mod proc;
mod report;
mod run;

use std::error::Error;
use std::path::Path;
use std::process::{Command, ExitCode};

use options::Options;
use report::{Section, Verdict};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let options = Options::parse();
    build_services()?;
    let mut sections = Vec::new();
    for (name, measure) in MEASUREMENTS.iter().filter(|(name, _)| options.wants(name)) {
        eprintln!("measuring: {name}");
        let section = measure(&options);
        println!("## {}\n\n{}", section.title, section.text);
        sections.push(section);
    }
    println!("{}", report::goals(&sections));
    if options.is_whole() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        report::write(&sections, &docs)?;
    }
    if !options.quick {
        return Ok(ExitCode::SUCCESS);
    }
    let verdicts = sections.iter().flat_map(|section| &section.verdicts);
    let broken: Vec<&Verdict> = verdicts.filter(|verdict| verdict.is_broken()).collect();
    // Last, where one looks for the reason of an exit status.
    broken.iter().for_each(|verdict| eprintln!("clearly broken: {verdict}"));
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

type Measurement = fn(&Options) -> Section;

const MEASUREMENTS: &[(&str, Measurement)] = &[
    ("upgrade", measure::upgrade::section),
    ("lost", measure::lost::section),
    ("gap", measure::gap::section),
    ("state", measure::state::section),
    ("rest", measure::rest::section),
    ("protocol", measure::protocol::section),
    ("timeline", measure::timeline::section),
];

/// `cargo run` builds this program alone.
fn build_services() -> Result<(), Box<dyn Error>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let mut build = Command::new(cargo);
    build.args(["build", "--release", "--bins", "--quiet", "--manifest-path"]).arg(manifest);
    if cfg!(not(feature = "pingora")) {
        build.arg("--no-default-features");
    }
    let built = build.status()?;
    if built.success() { Ok(()) } else { Err("the services cannot be built".into()) }
}
