//! The service manager that runs a service, or this command.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::process::{Command, Stdio};

use fd_handoff::client::{Client, Process};

/// The stop of a unit that runs this command as its `ExecStop=`.
#[derive(Debug)]
pub(crate) struct UnitStop {
    unit: Option<Unit>,
}

impl UnitStop {
    /// systemd tells `ExecStop=`, and nothing that it runs before, how the service has ended so far: see `systemd.exec(5)`.
    pub(crate) fn under_way() -> Option<UnitStop> {
        env::var_os("SERVICE_RESULT").map(|_| UnitStop { unit: Unit::running(None) })
    }

    /// Whether another unit runs the service now, as the next instance of a template does. What cannot be seen is ours.
    pub(crate) fn is_elsewhere(&self, service: &Client) -> bool {
        let unit = service.process().and_then(|process| Unit::running(Some(process.id()?)));
        unit.is_some() && self.unit.is_some() && unit != self.unit
    }

    /// What systemd takes for the unit's main process, if that has not ended.
    pub(crate) fn main_process(&self) -> Option<Process> {
        Process::open(env::var("MAINPID").ok()?.parse().ok()?).ok()
    }
}

/// A unit of systemd's that runs a process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) name: String,
    /// It belongs to a user's own service manager.
    user: bool,
}

impl Unit {
    /// The one that runs this process, or else this command.
    pub(crate) fn running(pid: Option<u32>) -> Option<Unit> {
        let cgroup = pid.map_or("/proc/self/cgroup".to_owned(), |pid| format!("/proc/{pid}/cgroup"));
        Unit::of(&fs::read_to_string(cgroup).ok()?)
    }

    /// The service unit that a process with this `/proc/PID/cgroup` is in. A scope (a login, a container) is none.
    fn of(cgroup: &str) -> Option<Unit> {
        cgroup.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            matches!(controllers, "" | "name=systemd").then(|| Unit::at(path))?
        })
    }

    fn at(path: &str) -> Option<Unit> {
        let mut parts = path.rsplit('/');
        let name = parts.find(|part| part.ends_with(".service") || part.ends_with(".scope"))?;
        let user = parts.any(|part| part.starts_with("user@"));
        name.ends_with(".service").then(|| Unit { name: name.to_owned(), user })
    }

    /// What `systemctl show` says of it; nothing where it cannot be asked.
    pub(crate) fn properties(&self) -> Option<Properties> {
        let mut command = Command::new("systemctl");
        if self.user {
            command.arg("--user");
        }
        command.args(["show", ASKED, "--", &self.name]);
        let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        let properties: Properties = output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())?;
        // An answer that has nothing in it is none.
        (!properties.get("Type").is_empty()).then_some(properties)
    }
}

const ASKED: &str = "--property=Type,NotifyAccess,ExecStop,Restart,RuntimeDirectory,RuntimeDirectoryPreserve";

/// Settings of a unit, as `systemctl show` says them. The last one of a name counts.
#[derive(Debug)]
pub(crate) struct Properties(HashMap<String, String>);

impl Properties {
    /// Empty where it is not set.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

impl FromIterator<String> for Properties {
    fn from_iter<I: IntoIterator<Item = String>>(lines: I) -> Properties {
        let split =
            |line: String| line.trim_end().split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        Properties(lines.into_iter().filter_map(split).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_of_a_process_is_found_in_either_hierarchy() {
        let found = |cgroup: &str| Unit::of(cgroup).map(|unit| (unit.name, unit.user));
        let named = |name: &str, user| Some((name.to_owned(), user));
        assert_eq!(found("0::/system.slice/app.service\n"), named("app.service", false));
        assert_eq!(found("0::/system.slice/app.service/payload\n"), named("app.service", false));
        assert_eq!(
            found("4:memory:/x.service\n1:name=systemd:/system.slice/app.service\n"),
            named("app.service", false)
        );
        let own = "/user.slice/user-1000.slice/user@1000.service";
        assert_eq!(found(&format!("0::{own}/app.slice/app.service\n")), named("app.service", true));
        assert_eq!(found(&format!("0::{own}/app.slice/terminal.scope\n")), None);
        assert_eq!(found("0::/user.slice/user-1000.slice/session-3.scope\n"), None);
        assert_eq!(found("1:name=systemd:/\n0::/system.slice/app.service\n"), named("app.service", false));
        assert_eq!(found("0::/\n"), None);
        assert_eq!(found(""), None);
    }
}
