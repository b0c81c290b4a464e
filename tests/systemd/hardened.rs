//! A service that may do next to nothing is upgraded and stopped as any other.

use crate::load::{Kept, Load};
use crate::{Check, Debian, Machine, SOCKET, report, require, shipped, until};

const HARDENED: &str = "\
[Service]
DynamicUser=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
NoNewPrivileges=yes
SystemCallFilter=@system-service
SystemCallArchitectures=native
MemoryDenyWriteExecute=yes
ProtectProc=invisible
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
LockPersonality=yes
CapabilityBoundingSet=
";

#[test]
#[ignore = "needs systemd"]
fn a_hardened_unit_reloads_restarts_and_stops() {
    let machine = Machine::boot(Debian::Trixie, &shipped(&[], HARDENED));
    report(&machine, hardened(&machine));
}

fn hardened(machine: &Machine) -> Check<String> {
    machine.does(&["start", "app.service"])?;
    let load = Load::start(machine, 2);
    for generation in 2..=6 {
        load.goes_on()?;
        machine.does(&["reload", "app.service"])?;
        let status = machine.status(SOCKET)?;
        require(status["generation"] == generation, || format!("generation {generation} does not serve: {status}"))?;
    }
    let answered = load.none_lost()?;
    for how in ["restart", "stop"] {
        machine.does(&["reload", "app.service"])?;
        let kept = Kept::open(machine, 2)?;
        machine.does(&["--no-block", how, "app.service"])?;
        until("the service stops", || {
            machine.property("app.service", "StatusText").starts_with("stopping").then_some(())
        })?;
        kept.into_iter().try_for_each(Kept::answered_once_more)?;
        let state = if how == "stop" { "inactive" } else { "active" };
        until("it has stopped, or serves again", || {
            let serves_anew = !machine.property("app.service", "StatusText").starts_with("stopping");
            (serves_anew && machine.property("app.service", "ActiveState") == state).then_some(())
        })?;
    }
    let result = machine.property("app.service", "Result");
    require(result == "success", || format!("the result is {result}"))?;
    Ok(format!("five reloads, {answered} requests, none lost; a restart and a stop that drain"))
}
