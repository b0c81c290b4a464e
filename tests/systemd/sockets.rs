//! With a socket unit nobody is refused: not at a restart, nor after a crash.

use crate::load::Load;
use crate::{Check, Debian, Machine, main_pid, report, require, shipped, until};

const CLIENTS: usize = 4;
const TIMES: usize = 5;

#[test]
#[ignore = "needs systemd"]
fn nobody_is_refused_where_systemd_holds_the_socket() {
    let files = shipped(&["--socket", "http=127.0.0.1:8080"], "[Unit]\nStartLimitIntervalSec=0\n");
    let machine = Machine::boot(Debian::Trixie, &files);
    report(&machine, restarts_and_crashes(&machine));
}

fn restarts_and_crashes(machine: &Machine) -> Check<String> {
    machine.does(&["start", "app-http.socket"])?;
    // The first of them activates the service.
    let load = Load::start(machine, CLIENTS);
    load.goes_on()?;
    for _ in 0..TIMES {
        machine.does(&["restart", "app.service"])?;
        load.goes_on()?;
        machine.does(&["reload", "app.service"])?;
        load.goes_on()?;
    }
    let answered = load.none_lost()?;
    let load = Load::start(machine, CLIENTS);
    for _ in 0..TIMES {
        load.goes_on()?;
        crash(machine)?;
        load.goes_on()?;
    }
    let samples = load.stop();
    let bad: Vec<_> = samples.iter().filter_map(|sample| sample.as_ref().err()).collect();
    require(bad.iter().all(|bad| !bad.starts_with("refused")), || format!("refused: {bad:?}"))?;
    // What the process had accepted, or was in its hands, goes with it.
    require(bad.len() <= TIMES * CLIENTS, || format!("{} lost in {TIMES} crashes: {bad:?}", bad.len()))?;
    machine.does(&["stop", "app.service", "app-http.socket"])?;
    let lost = bad.len();
    Ok(format!(
        "{TIMES} restarts and reloads, {answered} requests, none lost; {TIMES} crashes: none refused, {lost} in flight"
    ))
}

fn crash(machine: &Machine) -> Check {
    let before = main_pid(machine);
    machine.does(&["kill", "--kill-whom=main", "--signal=KILL", "app.service"])?;
    until("another process serves", || {
        let now = main_pid(machine);
        (now != 0 && now != before && machine.property("app.service", "ActiveState") == "active").then_some(())
    })
}
