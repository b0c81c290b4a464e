//! The main process is killed at each phase of an upgrade, and the service is up afterwards.

use crate::load::Load;
use crate::{Check, Debian, Machine, SOCKET, main_pid, report, require, shipped, until};

#[test]
#[ignore = "needs systemd"]
fn the_service_is_up_after_the_main_process_was_killed() {
    let files = shipped(&["--socket", "http=127.0.0.1:8080"], "[Unit]\nStartLimitIntervalSec=0\n");
    let mut files = files;
    for (name, text) in &mut files {
        if name == "app.service" {
            *text = text.replace("--drain", "--slow-start 300 --drain");
        }
    }
    let machine = Machine::boot(Debian::Trixie, &files);
    report(&machine, crashes(&machine));
}

/// When the main process is killed.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Initialising,
    /// The new one has just taken over, and the old one drains.
    Active,
    /// The new one is alone.
    Settled,
}

fn crashes(machine: &Machine) -> Check<String> {
    machine.does(&["start", "app-http.socket", "app.service"])?;
    for phase in [Phase::Initialising, Phase::Active, Phase::Settled] {
        let load = Load::start(machine, 3);
        load.goes_on()?;
        crash(machine, phase).map_err(|error| format!("{phase:?}: {error}"))?;
        load.goes_on().map_err(|error| format!("{phase:?}: {error}"))?;
        let bad: Vec<_> = load.stop().into_iter().filter_map(Result::err).collect();
        require(bad.iter().all(|bad| !bad.starts_with("refused")), || format!("{phase:?}: {bad:?}"))?;
        // The next upgrade is as any.
        machine.does(&["reload", "app.service"])?;
        until("systemd knows who serves", || {
            machine.status(SOCKET).is_ok_and(|status| status["pid"] == main_pid(machine)).then_some(())
        })?;
    }
    machine.does(&["stop", "app.service"])?;
    Ok("killed while initialising, active and settled: nobody was refused".to_owned())
}

fn crash(machine: &Machine, phase: Phase) -> Check {
    machine.does(&["--no-block", "reload", "app.service"])?;
    let generation = machine.status(SOCKET)?["generation"].as_u64().unwrap_or_default();
    until("the phase has come", || {
        let status = machine.status(SOCKET).ok()?;
        let has_come = match phase {
            Phase::Initialising => status["phase"] == "initialising",
            Phase::Active => status["generation"] == generation + 1,
            Phase::Settled => status["generation"] == generation + 1 && status["predecessor"].is_null(),
        };
        has_come.then_some(())
    })?;
    let killed = main_pid(machine);
    machine.does(&["kill", "--kill-whom=main", "--signal=KILL", "app.service"])?;
    until("another process serves", || {
        let status = machine.status(SOCKET).ok()?;
        let active = machine.property("app.service", "ActiveState") == "active";
        (active && status["pid"] != killed && status["pid"] == main_pid(machine)).then_some(())
    })
}
