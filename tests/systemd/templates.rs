//! Instances of a template, each of which takes over from the one before.

use crate::load::Load;
use crate::{Check, Debian, Machine, SOCKET, report, require, shipped, until};

#[test]
#[ignore = "needs systemd"]
fn two_instances_in_turn_lose_nothing_and_leave_each_other_alone() {
    let machine = Machine::boot(Debian::Trixie, &shipped(&["--template"], ""));
    report(&machine, in_turn(&machine));
}

fn in_turn(machine: &Machine) -> Check<String> {
    let instance = |turn: u64| if turn % 2 == 0 { "app@green.service" } else { "app@blue.service" };
    machine.does(&["start", instance(1)])?;
    let load = Load::start(machine, 3);
    for turn in 2..=11 {
        load.goes_on()?;
        machine.does(&["start", instance(turn)])?;
        // It has ended by itself, which is no reason to stop the one that serves.
        until("the instance before has ended", || {
            (machine.property(instance(turn - 1), "ActiveState") == "inactive").then_some(())
        })?;
        let status = machine.status(SOCKET)?;
        require(status["generation"] == turn, || format!("generation {turn} does not serve: {status}"))?;
        let main = machine.property(instance(turn), "MainPID");
        require(status["pid"].as_u64() == main.parse().ok(), || format!("process {main} is the main one: {status}"))?;
    }
    // Nothing has been started again meanwhile.
    for name in [instance(0), instance(1)] {
        let restarts = machine.property(name, "NRestarts");
        require(restarts == "0", || format!("{name} was started again {restarts} times"))?;
    }
    load.goes_on()?;
    let answered = load.none_lost()?;
    machine.does(&["stop", instance(11)])?;
    Ok(format!("ten instances in turn, {answered} requests, none lost"))
}
