//! `systemctl stop` and `restart` drain, however often the service has been upgraded.

use std::time::{Duration, Instant};

use crate::load::Kept;
use crate::{Check, Debian, Machine, main_pid, report, require, shipped, until};

#[test]
#[ignore = "needs systemd"]
fn stop_and_restart_drain_after_upgrades() {
    let machine = Machine::boot(Debian::Trixie, &shipped(&[], "[Service]\nTimeoutStopSec=1\n"));
    report(&machine, stops(&machine));
}

#[test]
#[ignore = "needs systemd"]
fn stop_and_restart_drain_after_upgrades_under_an_older_systemd() {
    let machine = Machine::boot(Debian::Bookworm, &shipped(&[], "[Service]\nTimeoutStopSec=1\n"));
    report(&machine, stops(&machine));
}

fn stops(machine: &Machine) -> Check<String> {
    for (upgrades, beside_predecessor) in [(0, false), (1, false), (1, true), (3, false), (3, true)] {
        let failed = |error| format!("after {upgrades} upgrades ({beside_predecessor}): {error}");
        machine.does(&["start", "app.service"])?;
        drains(machine, upgrades, beside_predecessor, "restart").map_err(failed)?;
        until("the unit is active again", || is(machine, "active").then_some(()))?;
        drains(machine, upgrades, beside_predecessor, "stop").map_err(failed)?;
        until("the unit is inactive", || is(machine, "inactive").then_some(()))?;
    }
    // Nobody says anything on this one until the drain deadline, which is beyond TimeoutStopSec=.
    machine.does(&["start", "app.service"])?;
    machine.does(&["reload", "app.service"])?;
    until("the predecessor has ended", || (processes(machine) == 1).then_some(()))?;
    let (idle, began) = (Kept::open(machine, 1)?, Instant::now());
    machine.does(&["stop", "app.service"])?;
    let (took, result) = (began.elapsed(), machine.property("app.service", "Result"));
    drop(idle);
    require(took > Duration::from_secs(2) && result == "success", || format!("{result} after {took:?}"))?;
    Ok(format!("5 stops and 5 restarts, all drained; one drained for {took:?}, with TimeoutStopSec=1"))
}

fn drains(machine: &Machine, upgrades: u64, beside_predecessor: bool, how: &str) -> Check {
    let mut kept = Vec::new();
    for _ in 0..upgrades {
        if beside_predecessor {
            kept = Kept::open(machine, 1)?;
        }
        machine.does(&["reload", "app.service"])?;
    }
    if !beside_predecessor {
        // systemd then has no other process of the unit's to wait for than the one that it has not started.
        until("the predecessor has ended", || (processes(machine) == 1).then_some(()))?;
    }
    kept.extend(Kept::open(machine, 3)?);
    let before = main_pid(machine);
    machine.does(&["--no-block", how, "app.service"])?;
    until("the service stops", || machine.property("app.service", "StatusText").starts_with("stopping").then_some(()))?;
    kept.into_iter().try_for_each(Kept::answered_once_more)?;
    until("the process has ended", || (main_pid(machine) != before).then_some(()))?;
    let result = machine.property("app.service", "Result");
    require(result == "success", || format!("the unit's result after a {how} is {result}"))
}

/// How many processes the unit has.
fn processes(machine: &Machine) -> usize {
    let processes = machine.path("/sys/fs/cgroup/system.slice/app.service/cgroup.procs");
    std::fs::read_to_string(processes).unwrap_or_default().lines().count()
}

fn is(machine: &Machine, state: &str) -> bool {
    machine.property("app.service", "ActiveState") == state
}
