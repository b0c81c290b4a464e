//! The protocol alone: from connect to active, between two processes that are there already.

use std::error::Error;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use peers::bare::{BATCH, ENTRY, FRAME, expect, receive, send};

use crate::figures::Figures;
use crate::options::Options;
use crate::report::{Section, Table, Verdict};
use crate::run::{Giver, Outcome, program};

const SIZES: &[(&str, usize)] = &[
    ("listeners", 1),
    ("listeners", 100),
    ("listeners", 1_000),
    ("listeners", 10_000),
    ("pipes", 1),
    ("pipes", 1_000),
    ("pipes", 10_000),
    ("pipes", 16_000),
];
const QUICK_SIZES: &[(&str, usize)] = &[("listeners", 1), ("pipes", 1_000)];
const FORMS: [&str; 3] = ["blocking", "tokio", "bare"];
/// How many times the bare calls one listener may take, and many descriptors.
const ONE: f64 = 3.0;
const MANY: f64 = 2.0;

/// What a descriptor costs by callgrind, as last looked at. Where a newer compiler, or a change that is worth it, moves
/// that, this moves along.
const INSTRUCTIONS: f64 = 3_800.0;
const MORE_INSTRUCTIONS: f64 = 1.15;

const COUNTED: &str = "\
Instructions in user space, of both sides together, by callgrind, which noise does not touch: ";
const ABOUT: &str = "\
Two processes that run already: one connects, receives descriptors and says *ready*, is released and says *active*. The \
floor is the same bytes and descriptors in the same order by the bare system calls. A pipe is checked with one system \
call on arrival (`fstat`: type, device, inode), a listener with three (its state, its address, its cookie). The cost of \
one is what lies between one and that many, divided.\n\n";

pub(crate) fn section(options: &Options) -> Section {
    let sizes = if options.quick { QUICK_SIZES } else { SIZES };
    let columns =
        ["", "blocking, ms", "tokio, ms", "floor, ms", "blocking, µs each", "tokio, µs each", "floor, µs each"];
    let (mut table, mut verdicts) = (Table::new(&columns), Vec::new());
    let rows: Vec<Row> = sizes.iter().map(|(kind, count)| Row::measure(kind, *count, options)).collect();
    for row in &rows {
        let one = rows.iter().find(|one| one.kind == row.kind && one.count == 1);
        table.row(&row.cells(one));
        verdicts.extend(row.judge());
    }
    let counted = match instructions() {
        Ok([one, each]) => {
            let what = "instructions for a descriptor / when they were last looked at".to_owned();
            verdicts.push(Verdict::of_counts(what, each / INSTRUCTIONS, MORE_INSTRUCTIONS));
            format!("{one:.0} for a handoff of one pipe, and {each:.0} for each one more")
        }
        Err(trouble) => format!("not counted: {trouble}"),
    };
    let text = format!("{ABOUT}{table}\n{COUNTED}{counted}.\n");
    Section { title: "The protocol alone", text, verdicts, ..Section::default() }
}

/// Of a whole handoff of one pipe, and of each one more: in user space, of both sides.
fn instructions() -> Outcome<[f64; 2]> {
    const MANY: usize = 1_001;
    let (one, many) = (collected(1)?, collected(MANY)?);
    Ok([one, (many - one) / (MANY - 1) as f64])
}

fn collected(count: usize) -> Outcome<f64> {
    let mut callgrind = Command::new("valgrind");
    callgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    let output = callgrind.arg(program("instructions")).arg(count.to_string()).output();
    let output = output.map_err(|error| format!("valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let number = said.lines().find_map(|line| line.split("Collected :").nth(1)?.trim().parse().ok());
    number.ok_or_else(|| format!("valgrind counted nothing: {}", said.lines().last().unwrap_or_default()))
}

struct Row {
    kind: &'static str,
    count: usize,
    /// By form.
    figures: [Figures; 3],
}

impl Row {
    fn measure(kind: &'static str, count: usize, options: &Options) -> Row {
        let mut row = Row { kind, count, figures: Default::default() };
        for _ in 0..options.rounds(15, 11) {
            for (form, figures) in FORMS.iter().zip(&mut row.figures) {
                figures.add(once(form, kind, count));
            }
        }
        row
    }

    fn name(&self) -> String {
        let kind = if self.count == 1 { self.kind.trim_end_matches('s') } else { self.kind };
        format!("{} {kind}", self.count)
    }

    fn cells(&self, one: Option<&Row>) -> Vec<String> {
        let each = |form: usize| -> Option<f64> {
            let many = self.figures[form].median()?;
            let one = one.filter(|one| one.count < self.count)?.figures[form].median()?;
            Some(many.saturating_sub(one).as_secs_f64() * 1e6 / (self.count - 1) as f64)
        };
        let each = (0..3).map(|form| each(form).map_or("–".to_owned(), |each| format!("{each:.2}")));
        [self.name()].into_iter().chain(self.figures.iter().map(Figures::to_string)).chain(each).collect()
    }

    fn judge(&self) -> Vec<Verdict> {
        let [blocking, tokio, bare] = &self.figures;
        let goal = if self.count == 1 { ONE } else { MANY };
        let verdict = |form, figures: &Figures| {
            let what = format!("{}, {form}: connect to active / bare calls", self.name());
            Some(Verdict::of_times(what, figures.ratio(bare)?, goal))
        };
        [verdict("blocking", blocking), verdict("tokio", tokio)].into_iter().flatten().collect()
    }
}

/// One handoff, from connect to active.
fn once(form: &'static str, kind: &str, count: usize) -> Outcome<Duration> {
    let giver = Giver::start(form, kind, count)?;
    let (took, fds) = match form {
        "blocking" => take(&giver.control()),
        "tokio" => take_on_tokio(&giver.control()),
        _ => take_bare(&giver.control(), count),
    }
    .map_err(|error| error.to_string())?;
    if fds.len() == count { Ok(took) } else { Err(format!("{} of {count} arrived", fds.len())) }
}

type Taken = Result<(Duration, Vec<OwnedFd>), Box<dyn Error>>;

fn take(control: &Path) -> Taken {
    let began = Instant::now();
    let mut inheritance = fd_handoff::handoff_receive(control)?;
    let fds = inheritance.take_all("fd")?;
    let control = inheritance.ready()?;
    let took = began.elapsed();
    // In good order: the giver is not to take back.
    control.close();
    Ok((took, fds))
}

fn take_on_tokio(control: &Path) -> Taken {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let began = Instant::now();
        let mut inheritance = fd_handoff::tokio::handoff_receive(control).await?;
        let fds = inheritance.take_all("fd")?;
        let control = inheritance.ready().await?;
        let took = began.elapsed();
        control.close().await;
        Ok((took, fds))
    })
}

fn take_bare(control: &Path, count: usize) -> Taken {
    let mut fds = Vec::new();
    let began = Instant::now();
    let stream = UnixStream::connect(control)?;
    expect(&stream, FRAME)?;
    send(&stream, FRAME, &[])?;
    receive(&stream, FRAME, &mut fds)?;
    for first in (0..count).step_by(BATCH) {
        receive(&stream, FRAME + ENTRY * BATCH.min(count - first), &mut fds)?;
        send(&stream, FRAME, &[])?;
    }
    send(&stream, FRAME, &[])?;
    expect(&stream, FRAME)?;
    send(&stream, FRAME, &[])?;
    let took = began.elapsed();
    // The first one stands for the process id's, which ours receives as well.
    Ok((took, fds.split_off(1)))
}
