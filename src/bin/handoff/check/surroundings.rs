//! The limits, and the pid namespace.

use std::fs;

use fd_handoff::client::own_container;
use nix::sys::resource::{Resource, getrlimit};

use super::Finding;

/// The most descriptors that one handoff moves.
const MOST: u64 = 16_384;
/// Of these, the protocol's own: the control socket, and the lock of the owner.
const OWN: u64 = 2;
/// What a process needs besides: its standard streams, control connections, states, the files that it reads.
const SPARE: u64 = 64;
/// Fewer than this many are soon used up by connections alone.
const FEW: u64 = 1_024;
/// The inode of the first pid namespace, which the kernel gives the same number at each start: `PROC_PID_INIT_INO`.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";
/// What a container runtime does where it cannot leave it to the kernel.
const ENDS: &str = "when a container's first process ends, its runtime ends every process in there";
const BESIDE: &str = "let the next container take over, with the socket's directory mounted in both: a service that is process 1 or a \
    container's first process, or that such an init (docker run --init) runs, starts no successor in there";
/// Programs that go on as process 1 when a service ends.
const INITS: [&str; 4] = ["systemd", "init", "s6-svscan", "runit"];

pub(super) fn look() -> Vec<Finding> {
    vec![proc_mount(), open_files(), process_one()]
}

fn proc_mount() -> Finding {
    const CHECK: &str = "/proc";
    match fs::read_dir("/proc/self/fd") {
        Ok(_) => Finding::ok(CHECK, "mounted"),
        Err(error) => Finding::failed(
            CHECK,
            format!("/proc/self/fd cannot be read: {error}"),
            "mount proc at /proc: sockets with long paths, modes and limits go through it",
        ),
    }
}

fn open_files() -> Finding {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => judge_limit(soft, hard),
        Err(error) => Finding::warning("RLIMIT_NOFILE", format!("cannot be read: {error}"), "allow getrlimit(2)"),
    }
}

fn judge_limit(soft: u64, hard: u64) -> Finding {
    const CHECK: &str = "RLIMIT_NOFILE";
    let movable = hard.saturating_sub(SPARE).min(MOST).saturating_sub(OWN);
    let found = format!(
        "soft {soft}, hard {hard}: a process with these limits can be handed at most {movable} descriptors, for which the \
         soft one is raised as far as needed"
    );
    if hard < FEW {
        return Finding::warning(
            CHECK,
            found,
            "raise the hard limit: LimitNOFILE= in systemd, --ulimit nofile= in Docker",
        );
    }
    Finding::ok(CHECK, found)
}

/// Whether this is a container, as far as can be seen from inside.
pub(super) fn is_container() -> bool {
    own_container().is_some() || link("/proc/self/ns/pid") != FIRST_PID_NAMESPACE
}

fn process_one() -> Finding {
    let namespace = link("/proc/self/ns/pid");
    if namespace == FIRST_PID_NAMESPACE && own_container().is_some() {
        return Finding::warning(
            "pid namespace",
            format!("{namespace}, the host's own, in a container: {ENDS}"),
            BESIDE,
        );
    }
    let first = fs::read_to_string("/proc/1/comm").ok();
    judge_process_one(std::process::id(), &namespace, first.as_deref().map(str::trim))
}

/// In a pid namespace of its own, the end of process 1 is the end of all.
fn judge_process_one(own: u32, namespace: &str, first: Option<&str>) -> Finding {
    const CHECK: &str = "pid namespace";
    if own != 1 && namespace == FIRST_PID_NAMESPACE {
        return Finding::ok(CHECK, format!("{namespace}, the host's own: a successor outlives who started it"));
    }
    if let Some(init) = first.filter(|first| own != 1 && INITS.contains(first)) {
        return Finding::ok(
            CHECK,
            format!("{namespace}, with {init} as process 1: a successor outlives who started it"),
        );
    }
    let who = match (own, first) {
        (1, _) => "this is process 1".to_owned(),
        (_, Some(first)) => format!("process 1 is {first}"),
        (_, None) => "process 1 cannot be seen".to_owned(),
    };
    Finding::warning(
        CHECK,
        format!("{namespace}, a container's: {who}, and when process 1 ends, the kernel ends every process in there"),
        BESIDE,
    )
}

fn link(path: &str) -> String {
    fs::read_link(path).map_or_else(|error| format!("unknown ({error})"), |link| link.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_low_hard_limit_is_a_warning() {
        let low = judge_limit(256, 512);
        assert_eq!(low.verdict, Verdict::Warning);
        assert!(low.found.contains("at most 446 descriptors"), "{}", low.found);
        let high = judge_limit(1_024, 524_288);
        assert_eq!(high.verdict, Verdict::Ok);
        assert!(high.found.contains("at most 16382 descriptors"), "{}", high.found);
    }

    #[test]
    fn a_container_is_a_warning_unless_its_init_goes_on() {
        let verdict = |own, namespace, first| judge_process_one(own, namespace, first).verdict;
        assert_eq!(verdict(40, FIRST_PID_NAMESPACE, Some("anything")), Verdict::Ok);
        assert_eq!(verdict(40, "pid:[4026532300]", Some("systemd")), Verdict::Ok);
        assert_eq!(verdict(40, "pid:[4026532300]", Some("tini")), Verdict::Warning, "it ends with its service");
        assert_eq!(verdict(40, "pid:[4026532300]", Some("http")), Verdict::Warning);
        assert_eq!(verdict(40, "pid:[4026532300]", None), Verdict::Warning);
        assert_eq!(verdict(1, "pid:[4026532300]", Some("systemd")), Verdict::Warning);
    }
}
