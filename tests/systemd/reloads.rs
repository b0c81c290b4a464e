//! `systemctl reload` is an upgrade. `NotifyAccess=main`, the default, is enough for it.

use std::time::{Duration, Instant};

use crate::load::Load;
use crate::{Check, Debian, Machine, SOCKET, main_pid, report, require, unit, until};

/// `reload` asks by the command, which waits, and says how it went.
const BY_COMMAND: &str = "Type=notify\nExecReload=/srv/bin/handoff upgrade /run/app/handoff.sock";

#[test]
#[ignore = "needs systemd"]
fn fifty_reloads_lose_nothing() {
    let machine = Machine::boot(Debian::Trixie, &unit(BY_COMMAND));
    report(&machine, reloads(&machine, 50));
}

#[test]
#[ignore = "needs systemd"]
fn twenty_reloads_lose_nothing_where_systemd_asks_by_signal() {
    let notify_reload = "Type=notify-reload\nReloadSignal=SIGHUP";
    let machine = Machine::boot(Debian::Trixie, &unit(notify_reload));
    report(&machine, reloads(&machine, 20));
}

#[test]
#[ignore = "needs systemd"]
fn ten_reloads_lose_nothing_under_an_older_systemd() {
    let machine = Machine::boot(Debian::Bookworm, &unit(BY_COMMAND));
    report(&machine, reloads(&machine, 10));
}

#[test]
#[ignore = "needs systemd"]
fn a_reload_waits_until_the_new_process_serves_and_one_that_fails_says_so() {
    let machine = Machine::boot(Debian::Trixie, &unit(BY_COMMAND));
    report(&machine, failing_reloads(&machine));
}

#[test]
#[ignore = "needs systemd"]
fn a_reload_by_signal_that_fails_ends() {
    let notify_reload = "Type=notify-reload\nReloadSignal=SIGHUP";
    let machine = Machine::boot(Debian::Trixie, &unit(notify_reload));
    report(&machine, failing_reload_by_signal(&machine));
}

#[test]
#[ignore = "needs systemd"]
fn a_start_and_a_reload_that_say_how_far_they_are_may_take_longer_than_systemd_waits() {
    let mut slow = unit(&format!("{BY_COMMAND}\nTimeoutStartSec=1"));
    slow[0].1 = slow[0].1.replace("--drain", "--slow-start 2500 --drain");
    let machine = Machine::boot(Debian::Trixie, &slow);
    report(&machine, slow_reload(&machine));
}

fn slow_reload(machine: &Machine) -> Check<String> {
    machine.does(&["start", "app.service"])?;
    let began = Instant::now();
    machine.does(&["reload", "app.service"])?;
    let took = began.elapsed();
    serves(machine, 2)?;
    require(took > Duration::from_millis(2500), || format!("the reload returned after {took:?}"))?;
    Ok(format!("a reload of {took:?} with TimeoutStartSec=1"))
}

fn reloads(machine: &Machine, times: u64) -> Check<String> {
    machine.does(&["start", "app.service"])?;
    let load = Load::start(machine, 4);
    for generation in 2..times + 2 {
        load.goes_on()?;
        machine.does(&["reload", "app.service"])?;
        serves(machine, generation)?;
    }
    load.goes_on()?;
    let answered = load.none_lost()?;
    machine.does(&["stop", "app.service"])?;
    Ok(format!("{times} reloads, {answered} requests, none lost"))
}

/// Who serves, and that systemd knows it.
fn serves(machine: &Machine, generation: u64) -> Check {
    let status = machine.status(SOCKET)?;
    require(status["generation"] == generation, || format!("generation {generation} does not serve: {status}"))?;
    // The old process tells systemd at once, and whoever looks may be faster.
    until("systemd knows who serves", || (status["pid"] == main_pid(machine)).then_some(()))?;
    let state = machine.property("app.service", "ActiveState");
    require(state == "active", || format!("the unit is {state}"))
}

fn failing_reloads(machine: &Machine) -> Check<String> {
    let reload = || machine.systemctl(&["reload", "app.service"]).status.success();
    machine.does(&["start", "app.service"])?;
    let load = Load::start(machine, 2);
    for (broken, says) in BROKEN {
        install_broken(machine, broken);
        require(!reload(), || format!("a reload with {broken:?} succeeded"))?;
        serves(machine, 1)?;
        says_why(machine, says)?;
    }
    machine.install_example();
    require(reload(), || "the reload after it failed".to_owned())?;
    serves(machine, 2)?;
    load.goes_on()?;
    let answered = load.none_lost()?;
    Ok(format!("three reloads that fail, and one that does not; {answered} requests, none lost"))
}

/// Programs that crash, hang, or are not there, and what is said of them.
const BROKEN: [(Option<&str>, &str); 3] =
    [(Some("exit 3"), "exit status: 3"), (Some("exec sleep 1000"), "in time"), (None, "No such file")];

fn install_broken(machine: &Machine, script: Option<&str>) {
    match script {
        Some(script) => machine.install_script("http", script),
        None => machine.remove("http"),
    }
}

fn says_why(machine: &Machine, why: &str) -> Check {
    let text = machine.property("app.service", "StatusText");
    require(text.contains("the upgrade failed") && text.contains(why), || format!("StatusText is {text:?}"))
}

/// systemd does not say then that it has failed: the status does.
fn failing_reload_by_signal(machine: &Machine) -> Check<String> {
    machine.does(&["start", "app.service"])?;
    let load = Load::start(machine, 2);
    for (broken, says) in BROKEN {
        install_broken(machine, broken);
        machine.does(&["reload", "app.service"])?;
        serves(machine, 1)?;
        says_why(machine, says)?;
    }
    machine.install_example();
    machine.does(&["reload", "app.service"])?;
    serves(machine, 2)?;
    load.goes_on()?;
    let answered = load.none_lost()?;
    Ok(format!("three reloads by signal that fail, and one that does not; {answered} requests, none lost"))
}
