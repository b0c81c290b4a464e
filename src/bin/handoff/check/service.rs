//! Who runs there already, compared with who a successor started from here would be.

use std::fs;

use fd_handoff::Kind;
use fd_handoff::client::{Client, FdStatus, Status, own_network};
use nix::unistd::geteuid;

use super::Finding;
use crate::systemd::{Properties, Unit};

/// `foreign_netns`: whether the successor allows sockets of another network namespace.
pub(super) fn look(mut service: Option<&mut Client>, foreign_netns: bool) -> Vec<Finding> {
    let network = network(service.as_deref_mut(), foreign_netns);
    let service = service.as_deref();
    let user = service.map(|service| judge_user(service.uid(), geteuid().as_raw()));
    user.into_iter().chain([network]).chain(unit(service)).chain(service.and_then(watchdog)).collect()
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

fn network(service: Option<&mut Client>, allowed: bool) -> Finding {
    let own = fs::read_link("/proc/self/ns/net");
    let own = own.map_or_else(|error| format!("unknown ({error})"), |link| link.to_string_lossy().into_owned());
    let Some(service) = service else { return judge_network(&own, Sockets::NoService, allowed) };
    let process = link_of(service, "ns/net");
    let status = service.status().ok();
    judge_network(&own, sockets(status.as_ref(), own_network(), process), allowed)
}

/// Where the sockets of the service that runs there live, seen from here.
#[derive(Debug, PartialEq, Eq)]
enum Sockets {
    NoService,
    /// It has none that belongs to a network namespace.
    None,
    Here,
    /// So many of them, one for example.
    Elsewhere(usize, String),
    /// In one that nobody reaches.
    CutOff(String),
    /// The service does not say; its process is in this namespace.
    Unsaid(Option<String>),
}

/// The kernel's word for the sockets, whoever holds them: the process may be in another namespace than what it serves.
fn sockets(status: Option<&Status>, own: Option<u64>, process: Option<String>) -> Sockets {
    let Some(status) = status else { return Sockets::Unsaid(process) };
    if let Some(why) = &status.cut_off {
        return Sockets::CutOff(why.clone());
    }
    let is_inet = |kind| matches!(kind, Kind::TcpListener | Kind::TcpStream | Kind::UdpSocket);
    let inet: Vec<&FdStatus> = status.fds.iter().filter(|fd| is_inet(fd.kind)).collect();
    if inet.is_empty() {
        return Sockets::None;
    }
    let Some(own) = own.filter(|_| inet.iter().any(|fd| fd.netns.is_some())) else { return Sockets::Unsaid(process) };
    let elsewhere: Vec<&&FdStatus> = inet.iter().filter(|fd| fd.netns.is_some_and(|netns| netns != own)).collect();
    let Some(one) = elsewhere.first() else { return Sockets::Here };
    Sockets::Elsewhere(elsewhere.len(), format!("{} at {}", one.name, one.addr.as_deref().unwrap_or("no address")))
}

fn judge_network(own: &str, sockets: Sockets, allowed: bool) -> Finding {
    const CHECK: &str = "network";
    const STAYS: &str = "a socket stays in the namespace where it was made";
    const SHARE: &str =
        "start the successor in that network namespace: host networking, one Pod, network_mode: \"service:...\"";
    match sockets {
        Sockets::NoService => Finding::ok(
            CHECK,
            format!(
                "{own}: {STAYS}, so old and new have to share this one (host networking, one Pod, network_mode: \"service:...\")"
            ),
        ),
        Sockets::None => {
            Finding::ok(CHECK, format!("{own}; the service that runs there names no socket of any network"))
        }
        Sockets::Here => Finding::ok(CHECK, format!("{own}, like the sockets of the service that runs there")),
        Sockets::CutOff(why) => Finding::failed(CHECK, format!("{own}; {why}"), "stop it, and start it anew"),
        Sockets::Elsewhere(..) | Sockets::Unsaid(_) if allowed => Finding::ok(
            CHECK,
            format!("{own}; sockets of another one are allowed, and whoever owns that one has to outlive them"),
        ),
        Sockets::Elsewhere(count, one) => Finding::failed(
            CHECK,
            format!(
                "{own}, and {count} of the sockets of the service there ({one}) live in another one: {STAYS}, and the successor \
                 refuses them"
            ),
            format!(
                "{SHARE}; or, where whoever owns that one outlives them, as a keeper does, let the service allow it \
                 (Config::allow_foreign_netns), and say --foreign-netns here"
            ),
        ),
        Sockets::Unsaid(Some(process)) if process == own => {
            Finding::ok(CHECK, format!("{own}, like the service that runs there"))
        }
        Sockets::Unsaid(Some(process)) => {
            Finding::failed(CHECK, format!("{own}, and the service there runs in {process}: {STAYS}"), SHARE)
        }
        Sockets::Unsaid(None) => Finding::warning(
            CHECK,
            format!("{own}; in which one the sockets of the service there live, it does not say: {STAYS}"),
            "see that old and new share one: host networking, one Pod, network_mode: \"service:...\"",
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
    use serde_json::json;

    use super::super::Verdict;
    use super::*;

    #[test]
    fn another_user_is_a_warning() {
        assert_eq!(judge_user(1000, 1000).verdict, Verdict::Ok);
        let other = judge_user(1000, 0);
        assert_eq!(other.verdict, Verdict::Warning);
        assert!(other.advice.unwrap().contains("as user 1000"));
    }

    #[test]
    fn what_counts_is_where_the_sockets_live() {
        let (here, elsewhere) = (Some(7), Some(8));
        let with = |fds: &[(&str, Option<u64>)], cut_off: Option<&str>| -> Status {
            let fd = |(kind, netns): &(&str, Option<u64>)| json!({ "name": "http", "kind": kind, "addr": "0.0.0.0:80", "netns": netns });
            serde_json::from_value(json!({
                "name": "http", "version": "1", "pid": 1, "generation": 1, "phase": "serving", "uptime_ms": 0, "history": [],
                "fds": fds.iter().map(fd).collect::<Vec<_>>(), "fd_count": fds.len(), "successor": null, "predecessor": null,
                "cut_off": cut_off,
            }))
            .unwrap()
        };
        let one = "http at 0.0.0.0:80".to_owned();
        for (status, wanted) in [
            (with(&[("tcp_listener", here), ("udp_socket", here)], None), Sockets::Here),
            (with(&[("tcp_listener", here), ("udp_socket", elsewhere)], None), Sockets::Elsewhere(1, one)),
            (with(&[("unix_listener", None), ("file", None)], None), Sockets::None),
            (with(&[("tcp_listener", elsewhere)], Some("gone")), Sockets::CutOff("gone".to_owned())),
            // An older service, or an older kernel.
            (with(&[("tcp_listener", None)], None), Sockets::Unsaid(Some("net:[1]".to_owned()))),
        ] {
            assert_eq!(sockets(Some(&status), here, Some("net:[1]".to_owned())), wanted);
        }
        assert_eq!(sockets(None, here, None), Sockets::Unsaid(None));
    }

    #[test]
    fn sockets_of_another_network_are_a_failure_unless_they_are_allowed() {
        let unsaid = |process: Option<&str>| Sockets::Unsaid(process.map(str::to_owned));
        let elsewhere = || Sockets::Elsewhere(2, "http at 0.0.0.0:80".to_owned());
        for (sockets, allowed, wanted) in [
            (Sockets::NoService, false, Verdict::Ok),
            (Sockets::None, false, Verdict::Ok),
            (Sockets::Here, false, Verdict::Ok),
            (elsewhere(), false, Verdict::Failed),
            (elsewhere(), true, Verdict::Ok),
            (Sockets::CutOff("gone".to_owned()), true, Verdict::Failed),
            (unsaid(Some("net:[1]")), false, Verdict::Ok),
            (unsaid(Some("net:[2]")), false, Verdict::Failed),
            (unsaid(Some("net:[2]")), true, Verdict::Ok),
            (unsaid(None), false, Verdict::Warning),
        ] {
            let found = judge_network("net:[1]", sockets, allowed);
            assert_eq!(found.verdict, wanted, "{found:?}");
        }
        let advice = judge_network("net:[1]", elsewhere(), false).advice.unwrap();
        assert!(advice.contains("Config::allow_foreign_netns"), "{advice}");
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
