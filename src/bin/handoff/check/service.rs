//! Who runs there already, compared with who a successor started from here would be.

use std::fs;

use fd_handoff::client::Client;
use nix::unistd::geteuid;

use super::Finding;
use crate::systemd::{Properties, Unit};

pub(super) fn look(service: Option<&Client>) -> Vec<Finding> {
    let user = service.map(|service| judge_user(service.uid(), geteuid().as_raw()));
    user.into_iter().chain([network(service)]).chain(unit(service)).chain(service.and_then(watchdog)).collect()
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
fn unit(service: Option<&Client>) -> Vec<Finding> {
    let pid = service.and_then(|service| service.process()?.id());
    let unit = Unit::running(pid).and_then(|unit| Some((unit.properties()?, unit.name)));
    unit.map_or_else(Vec::new, |(properties, name)| judge_unit(&name, &properties))
}

/// A process that was started with another one's WATCHDOG_PID gives no signs of life, and its unit is ended for that.
fn watchdog(service: &Client) -> Option<Finding> {
    const CHECK: &str = "watchdog";
    let process = service.process()?;
    let pid = process.id()?;
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = |name: &[u8]| {
        let mut variables = environment.split(|byte| *byte == 0);
        variables
            .find_map(|variable| variable.strip_prefix(name).map(|value| String::from_utf8_lossy(value).into_owned()))
    };
    let (_, stale) = value(b"WATCHDOG_USEC=").zip(value(b"WATCHDOG_PID=").filter(|told| *told != pid.to_string()))?;
    Some(Finding::warning(
        CHECK,
        format!(
            "process {pid} was told that process {stale} gives the watchdog its signs of life, and gives none itself"
        ),
        "start the successor without WATCHDOG_PID, as this library does",
    ))
}

fn judge_unit(unit: &str, properties: &Properties) -> Vec<Finding> {
    const CHECK: &str = "systemd";
    let [kind, access] = ["Type", "NotifyAccess"].map(|name| properties.get(name));
    let found = format!("{unit} has Type={kind} and NotifyAccess={access}");
    let doubts = doubts(unit, properties);
    if doubts.is_empty() {
        return vec![Finding::ok(CHECK, found)];
    }
    let warning = |(doubt, advice)| Finding::warning(CHECK, format!("{found}: {doubt}"), advice);
    doubts.into_iter().map(warning).collect()
}

/// What is wrong with a unit, and what to do about it. `handoff unit` writes one that has none of it.
fn doubts(unit: &str, properties: &Properties) -> Vec<(&'static str, &'static str)> {
    let is = |name: &str, value: &str| properties.get(name) == value;
    let notifies = is("Type", "notify") || is("Type", "notify-reload");
    let template = unit.contains('@');
    let mut doubts = Vec::new();
    let mut doubt = |found: bool, what: &'static str, advice: &'static str| {
        if found {
            doubts.push((what, advice));
        }
    };
    doubt(
        !notifies,
        "systemd does not follow an upgrade within this unit, and ends the new process when the old one ends",
        "set Type=notify and NotifyAccess=all, and build the service with the feature systemd; where each generation is a unit \
         of its own, nothing",
    );
    doubt(
        notifies && !is("NotifyAccess", "all"),
        "systemd does not hear an old process that takes the service back after its successor has crashed",
        "set NotifyAccess=all",
    );
    doubt(
        properties.get("ExecStop").is_empty(),
        "after an upgrade, stop and restart kill the service at once, since systemd has not started its main process",
        "set ExecStop=handoff stop SOCKET, with the command's whole path: handoff unit writes it",
    );
    doubt(
        template && is("Restart", "always"),
        "an instance that was replaced is started again, and takes the service back",
        "set Restart=on-failure",
    );
    doubt(
        template && !properties.get("RuntimeDirectory").is_empty() && is("RuntimeDirectoryPreserve", "no"),
        "the end of one instance removes the control socket of the next with its directory",
        "set RuntimeDirectoryPreserve=yes",
    );
    doubts
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
    fn a_unit_is_doubted_for_what_will_not_do() {
        let judge = |unit, changes: &[(&str, &str)]| {
            let good = [
                ("Type", "notify"),
                ("NotifyAccess", "all"),
                ("ExecStop", "{ path=/usr/bin/handoff }"),
                ("Restart", "no"),
            ];
            judge_unit(unit, &good.iter().chain(changes).map(|(name, value)| format!("{name}={value}\n")).collect())
        };
        let is_good = |found: Vec<Finding>| matches!(&found[..], [finding] if finding.verdict == Verdict::Ok);
        assert!(is_good(judge("app.service", &[])));
        assert!(is_good(judge("app.service", &[("Type", "notify-reload")])));
        assert!(is_good(judge("app.service", &[("Restart", "always")])));
        for (unit, changes, advice) in [
            ("app.service", &[("NotifyAccess", "main")][..], "NotifyAccess=all"),
            ("app.service", &[("Type", "simple"), ("NotifyAccess", "none")], "Type=notify"),
            ("app.service", &[("ExecStop", "")], "ExecStop=handoff stop"),
            ("app@blue.service", &[("Restart", "always")], "Restart=on-failure"),
            (
                "app@blue.service",
                &[("RuntimeDirectory", "app"), ("RuntimeDirectoryPreserve", "no")],
                "RuntimeDirectoryPreserve=yes",
            ),
        ] {
            let found = judge(unit, changes);
            let [Finding { verdict: Verdict::Warning, advice: Some(given), .. }] = &found[..] else {
                panic!("{found:?}")
            };
            assert!(given.contains(advice), "{changes:?}: {given}");
        }
        assert_eq!(judge("app.service", &[("NotifyAccess", "main"), ("ExecStop", "")]).len(), 2);
    }
}
