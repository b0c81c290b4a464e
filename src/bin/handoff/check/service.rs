//! Who runs there already, compared with who a successor started from here would be.

use std::fs;

use fd_handoff::client::Client;
use nix::unistd::geteuid;

use super::Finding;
use crate::systemd::Unit;

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
    let unit = Unit::running(pid)?;
    let properties = unit.properties()?;
    let property = |name: &str| {
        let line = properties.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.filter(|value| !value.is_empty())
    };
    Some(judge_unit(&unit.name, property("Type")?, property("NotifyAccess")?))
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
    fn a_unit_that_does_not_let_the_new_process_speak_is_a_warning() {
        let judge = |kind, access| judge_unit("app.service", kind, access);
        assert_eq!(judge("notify", "all").verdict, Verdict::Ok);
        assert_eq!(judge("notify-reload", "all").verdict, Verdict::Ok);
        let main = judge("notify", "main");
        assert_eq!((main.verdict, main.advice.as_deref()), (Verdict::Warning, Some("set NotifyAccess=all")));
        assert!(judge("simple", "none").advice.unwrap().contains("Type=notify"));
    }
}
