//! Who runs there already, compared with who a successor started from here would be.

use std::fs;
use std::process::{Command, Stdio};

use fd_handoff::client::Client;
use nix::unistd::geteuid;

use super::Finding;

pub(super) fn look(service: Option<&Client>) -> Vec<Finding> {
    let user = service.map(|service| judge_user(service.uid(), geteuid().as_raw()));
    user.into_iter().chain([network(service)]).chain(unit(service)).collect()
}

/// A link of a process's in `/proc`, such as `ns/net`. Nothing where it may not be read, or the process has ended.
fn link_of(service: &Client, name: &str) -> Option<String> {
    let process = service.process()?;
    let pid = process.id()?;
    let link = fs::read_link(format!("/proc/{pid}/{name}")).ok()?;
    // Nobody else has got its id meanwhile.
    process.id().map(|_| link.to_string_lossy().into_owned())
}

fn judge_user(service: u32, own: u32) -> Finding {
    const CHECK: &str = "user";
    if service == own {
        return Finding::ok(CHECK, format!("{own}, like the service that runs there"));
    }
    Finding::warning(
        CHECK,
        format!(
            "{own}, and the service there runs as user {service}: by default the two trust each other in one direction at the most"
        ),
        format!("run this, and the successor, as user {service}, or name both with PeerPolicy::allow_uid"),
    )
}

fn network(service: Option<&Client>) -> Finding {
    let own = fs::read_link("/proc/self/ns/net");
    let own = own.map_or_else(|error| format!("unknown ({error})"), |link| link.to_string_lossy().into_owned());
    judge_network(&own, service.and_then(|service| link_of(service, "ns/net")).as_deref())
}

fn judge_network(own: &str, service: Option<&str>) -> Finding {
    const CHECK: &str = "network";
    match service {
        Some(service) if service == own => Finding::ok(CHECK, format!("{own}, like the service that runs there")),
        Some(service) => Finding::failed(
            CHECK,
            format!(
                "{own}, and the service there runs in {service}: a socket stays in the namespace where it was made"
            ),
            "start the successor in that network namespace: host networking, one Pod, network_mode: \"service:...\"",
        ),
        None => Finding::ok(
            CHECK,
            format!(
                "{own}: a socket stays in the namespace where it was made, so old and new have to share this one (host \
                 networking, one Pod, network_mode: \"service:...\")"
            ),
        ),
    }
}

/// What systemd makes of an upgrade, where it runs the service, or else this command.
fn unit(service: Option<&Client>) -> Option<Finding> {
    let pid = service.and_then(|service| service.process()?.id());
    let cgroup = fs::read_to_string(pid.map_or("/proc/self/cgroup".to_owned(), |pid| format!("/proc/{pid}/cgroup")));
    let unit = Unit::of(&cgroup.ok()?)?;
    let properties = unit.properties()?;
    let property = |name: &str| {
        let line = properties.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.filter(|value| !value.is_empty())
    };
    Some(judge_unit(&unit.name, property("Type")?, property("NotifyAccess")?))
}

/// A unit of systemd's that runs a process.
#[derive(Debug, PartialEq, Eq)]
struct Unit {
    name: String,
    /// It belongs to a user's own service manager.
    user: bool,
}

impl Unit {
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
    fn properties(&self) -> Option<String> {
        let mut command = Command::new("systemctl");
        if self.user {
            command.arg("--user");
        }
        command.args(["show", "--property=Type", "--property=NotifyAccess", "--", &self.name]);
        let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn judge_unit(unit: &str, kind: &str, access: &str) -> Finding {
    const CHECK: &str = "systemd";
    let found = format!("{unit} has Type={kind} and NotifyAccess={access}");
    match (kind, access) {
        ("notify" | "notify-reload", "all") => Finding::ok(CHECK, found),
        ("notify" | "notify-reload", _) => Finding::warning(
            CHECK,
            format!("{found}: systemd does not hear the new process, and ends it when the old one ends"),
            "set NotifyAccess=all",
        ),
        _ => Finding::warning(
            CHECK,
            format!(
                "{found}: systemd does not follow an upgrade within this unit, and ends the new process when the old one ends"
            ),
            "set Type=notify and NotifyAccess=all, and build the service with the feature systemd; where each generation \
             is a unit of its own, nothing",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn another_user_is_a_warning_and_another_network_a_failure() {
        assert_eq!(judge_user(1000, 1000).verdict, Verdict::Ok);
        let other = judge_user(1000, 0);
        assert_eq!(other.verdict, Verdict::Warning);
        assert!(other.advice.unwrap().contains("as user 1000"));

        assert_eq!(judge_network("net:[1]", None).verdict, Verdict::Ok);
        assert_eq!(judge_network("net:[1]", Some("net:[1]")).verdict, Verdict::Ok);
        let foreign = judge_network("net:[1]", Some("net:[2]"));
        assert_eq!(foreign.verdict, Verdict::Failed);
        assert!(foreign.found.contains("runs in net:[2]"), "{}", foreign.found);
    }

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

    #[test]
    fn a_unit_that_does_not_let_the_new_process_speak_is_a_warning() {
        let judge = |kind, access| judge_unit("app.service", kind, access);
        assert_eq!(judge("notify", "all").verdict, Verdict::Ok);
        assert_eq!(judge("notify-reload", "all").verdict, Verdict::Ok);
        let main = judge("notify", "main");
        assert_eq!((main.verdict, main.advice.as_deref()), (Verdict::Warning, Some("set NotifyAccess=all")));
        assert!(judge("simple", "none").advice.unwrap().contains("Type=notify"));
    }
}
