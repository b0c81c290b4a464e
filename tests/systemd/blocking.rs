//! The blocking form: the example `threads` is reloaded, watched, restarted with its socket held, and stopped.

use std::time::{Duration, Instant};

use crate::load::{Kept, Load};
use crate::{Check, Debian, Machine, SOCKET, example, main_pid, report, require, shipped_for, until};

#[test]
#[ignore = "needs systemd"]
fn threads_are_reloaded_watched_restarted_and_stopped() {
    let changes = "[Service]\nWatchdogSec=1\n";
    let files = shipped_for("threads", &["127.0.0.1:8080", SOCKET], &["--socket", "http=127.0.0.1:8080"], changes);
    let machine = Machine::boot(Debian::Trixie, &files);
    machine.install("threads", &example::program("threads"));
    report(&machine, lives(&machine));
}

fn lives(machine: &Machine) -> Check<String> {
    machine.does(&["start", "app-http.socket", "app.service"])?;
    let load = Load::start(machine, 3);
    for generation in 2..=6 {
        load.goes_on()?;
        machine.does(&["reload", "app.service"])?;
        let status = machine.status(SOCKET)?;
        require(status["generation"] == generation, || format!("generation {generation} does not serve: {status}"))?;
    }
    let (began, main) = (Instant::now(), main_pid(machine));
    until("two intervals are over", || (began.elapsed() > Duration::from_secs(3)).then_some(()))?;
    require(main_pid(machine) == main, || "the watchdog has ended it".to_owned())?;
    machine.does(&["restart", "app.service"])?;
    load.goes_on()?;
    let answered = load.none_lost()?;

    machine.does(&["reload", "app.service"])?;
    let kept = Kept::open(machine, 3)?;
    machine.does(&["--no-block", "stop", "app.service"])?;
    until("the service stops", || machine.property("app.service", "StatusText").starts_with("stopping").then_some(()))?;
    kept.into_iter().try_for_each(Kept::answered_once_more)?;
    until("it has stopped", || (machine.property("app.service", "ActiveState") == "inactive").then_some(()))?;
    let result = machine.property("app.service", "Result");
    require(result == "success", || format!("the result is {result}"))?;
    Ok(format!("five reloads and a restart of threads, {answered} requests, none lost; a stop that drains"))
}
