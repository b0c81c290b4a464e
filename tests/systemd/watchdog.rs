//! The watchdog: whoever serves gives signs of life, and one that hangs is ended.

use std::time::{Duration, Instant};

use crate::load::Load;
use crate::{Check, Debian, Machine, SOCKET, main_pid, report, require, shipped, until};

#[test]
#[ignore = "needs systemd"]
fn ten_upgrades_are_alive_for_the_watchdog_and_what_hangs_is_ended() {
    let files = shipped(&[], "[Service]\nWatchdogSec=1\nTimeoutAbortSec=1\nRestart=no\n");
    let machine = Machine::boot(Debian::Trixie, &files);
    report(&machine, watched(&machine));
}

fn watched(machine: &Machine) -> Check<String> {
    machine.does(&["start", "app.service"])?;
    let load = Load::start(machine, 2);
    let began = Instant::now();
    for _ in 0..10 {
        load.goes_on()?;
        machine.does(&["reload", "app.service"])?;
    }
    // For longer than two intervals the last one serves, which was started by none that systemd has.
    until("two intervals are over", || (began.elapsed() > Duration::from_secs(3)).then_some(()))?;
    load.goes_on()?;
    load.none_lost()?;
    let status = machine.status(SOCKET)?;
    require(status["generation"] == 11, || format!("it was started anew: {status}"))?;
    require(status["pid"] == main_pid(machine), || "systemd takes another one for the main process".to_owned())?;

    machine.does(&["kill", "--kill-whom=main", "--signal=STOP", "app.service"])?;
    until("the watchdog has ended it", || (machine.property("app.service", "ActiveState") == "failed").then_some(()))?;
    let result = machine.property("app.service", "Result");
    require(result == "watchdog", || format!("the result is {result}"))?;
    Ok("ten upgrades, and the watchdog content; one that hangs was ended".to_owned())
}
