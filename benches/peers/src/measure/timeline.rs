//! A timeline: one upgrade under load, and one plain restart.

use std::thread::sleep;
use std::time::Duration;

use crate::client::Sample;
use crate::contestant::{ALL, Contestant};
use crate::draw::{Mark, Panel, timeline};
use crate::load::{Clients, Load, Losses};
use crate::options::Options;
use crate::report::Section;
use crate::run::{Outcome, Run, end_of};

const SHOWN: &[&str] = &["fd-handoff (tokio)", "plain restart"];
const INIT: Duration = Duration::from_millis(300);
/// Few enough requests for each to be seen: with a rest, and each on a connection of its own.
const CLIENTS: Clients = Clients { new: 4, kept: 0, rest: Duration::from_millis(1) };
/// The picture begins this long before the trigger, and ends this long after the upgrade.
const BEFORE: Duration = Duration::from_millis(150);
const AFTER: Duration = Duration::from_millis(200);

pub(crate) fn section(options: &Options) -> Section {
    let title = "A timeline";
    // There is no goal in it.
    if options.quick {
        return Section { title, text: "Not in a quick run.\n".to_owned(), ..Section::default() };
    }
    let shown = ALL.iter().filter(|contestant| SHOWN.contains(&contestant.name));
    let panels = match shown.map(panel).collect::<Outcome<Vec<Panel>>>() {
        Ok(panels) => panels,
        Err(trouble) => return Section { title, text: format!("{trouble}\n"), ..Section::default() },
    };
    let span = (-in_millis(BEFORE), in_millis(INIT + AFTER));
    let picture = timeline("Requests during one upgrade, and during one plain restart", span, &panels);
    Section { title, text: about(), pictures: vec![("timeline.svg".to_owned(), picture)], ..Section::default() }
}

fn about() -> String {
    format!(
        "Four clients ask over connections of their own, with a rest of a millisecond, while a service is replaced by one \
         that initialises for {} ms: by an upgrade, and by a plain restart. After an upgrade the old process stays for a \
         second, the probation time, in which it takes the service back where the new one dies.\n\n\
         ![requests over time](timeline.svg)\n",
        INIT.as_millis()
    )
}

fn panel(contestant: &Contestant) -> Outcome<Panel> {
    let mut run = Run::start(contestant, |args| args.init = INIT)?;
    let addr = run.args.addresses().next().ok_or("no address")?;
    let old = run.pid;
    let old_end = end_of(old)?;
    let load = Load::begin(addr, CLIENTS);
    sleep(BEFORE);
    let upgrade = run.upgrade()?;
    sleep(AFTER);
    let samples = load.end();

    let from_trigger = |at: Duration| in_millis(at) - in_millis(upgrade.triggered);
    let started = from_trigger(run.wait("main", |pid| pid == upgrade.pid)?.at);
    let stopped = from_trigger(run.wait("stopped", |pid| pid == old)?.at);
    let serving = from_trigger(upgrade.serving);
    let ended = from_trigger(old_end.join().map_err(|_| "nobody saw the old process end")?);
    let mut marks = vec![
        Mark { at: 0.0, what: "trigger" },
        Mark { at: started, what: "new process in main" },
        Mark { at: stopped, what: "old one stops accepting" },
        Mark { at: serving, what: "new one serves" },
        Mark { at: ended, what: "old one has ended" },
    ];
    marks.sort_by(|mark, next| mark.at.total_cmp(&next.at));

    let points = |answered: bool| {
        let chosen = samples.iter().filter(|sample| sample.result.is_ok() == answered);
        chosen.map(|sample| (from_trigger(sample.began), in_millis(sample.took))).collect()
    };
    Ok(Panel {
        heading: heading(contestant, &samples),
        answered: points(true),
        lost: points(false),
        marks,
        initialises: (started, serving),
        nobody: (stopped, serving),
    })
}

fn heading(contestant: &Contestant, samples: &[Sample]) -> String {
    let (answered, losses) = (samples.iter().filter(|sample| sample.result.is_ok()).count(), Losses::of(samples));
    let Losses { refused, reset, failed } = losses;
    format!("{}: {answered} requests answered, {refused} refused, {reset} reset, {failed} failed", contestant.name)
}

fn in_millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
