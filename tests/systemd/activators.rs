//! Whoever passes a socket: systemd's own activator for the command line, with a name and without.

use crate::load::Load;
use crate::{Check, Debian, Machine, SOCKET, report, require, until};

#[test]
#[ignore = "needs systemd"]
fn what_systemd_socket_activate_passes_is_taken() {
    let machine = Machine::boot(Debian::Trixie, &[]);
    report(&machine, activated(&machine));
}

fn activated(machine: &Machine) -> Check<String> {
    for name in [&["--fdname=http"][..], &[]] {
        // A parent within the machine: a process without one starts no successor, which its end might take along.
        let mut activator = machine.command("sh");
        activator.args(["-c", "systemd-socket-activate \"$@\" & wait", "sh", "--listen=127.0.0.1:8080"]).args(name);
        activator.args(["/srv/bin/http", "--listen", "127.0.0.1:8080", "--control", SOCKET, "--drain", "100"]);
        std::fs::create_dir_all(machine.path("/run/app")).unwrap();
        let log = std::fs::File::create(machine.path("/run/activator")).unwrap();
        activator.stdout(log.try_clone().unwrap()).stderr(log);
        // It becomes the service once somebody connects. With the machine it ends in any case.
        let service = std::thread::spawn(move || activator.status());
        let said = || std::fs::read_to_string(machine.path("/run/activator")).unwrap_or_default();
        until("the activator listens", || said().contains("Listening on 127.0.0.1:8080").then_some(()))?;
        let load = Load::start(machine, 2);
        load.goes_on()?;
        let handoff =
            |what: &str| machine.command("/srv/bin/handoff").args([what, SOCKET]).output().unwrap().status.success();
        require(handoff("upgrade"), || format!("no upgrade: {}", said()))?;
        load.goes_on()?;
        load.none_lost()?;
        require(handoff("stop"), || format!("no stop: {}", said()))?;
        let ended = service.join().unwrap().map_err(|error| error.to_string())?;
        require(ended.success(), || format!("{ended}: {}", said()))?;
    }
    Ok("activated with a name and without, upgraded, and stopped".to_owned())
}
