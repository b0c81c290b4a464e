//! What the kernel offers.

use std::io;

use fd_handoff::client::Kernel;

use super::{Finding, Verdict};

/// A feature, and what its absence means.
struct Feature {
    name: &'static str,
    found: io::Result<()>,
    since: &'static str,
    /// How bad it is to be without it.
    without: Verdict,
    what_then: &'static str,
}

pub(super) fn look() -> Vec<Finding> {
    match Kernel::probe() {
        Ok(kernel) => features(kernel).into_iter().map(judge).collect(),
        Err(error) => vec![Finding::failed(
            "kernel",
            format!("cannot make Unix sockets: {error}"),
            "allow socketpair(2) where a filter of system calls forbids it",
        )],
    }
}

fn features(kernel: Kernel) -> [Feature; 6] {
    [
        Feature {
            name: "memfd sealing",
            found: kernel.memfd_sealing,
            since: "3.17",
            without: Verdict::Failed,
            what_then: "state cannot move without it",
        },
        Feature {
            name: "pidfd_open",
            found: kernel.pidfd_open,
            since: "5.3",
            without: Verdict::Failed,
            what_then: "the death of a process is not known for certain without it",
        },
        Feature {
            name: "SO_COOKIE",
            found: kernel.socket_cookie,
            since: "4.12",
            without: Verdict::Failed,
            what_then: "a socket that arrives cannot be told from another one without it",
        },
        Feature {
            name: "SO_PEERPIDFD",
            found: kernel.peer_pidfd,
            since: "6.5",
            without: Verdict::Warning,
            what_then: "keep old and new in one pid namespace: in another one, the death of a process is not seen \
                        without it",
        },
        Feature {
            name: "SO_NETNS_COOKIE",
            found: kernel.netns_cookie,
            since: "5.14",
            without: Verdict::Warning,
            what_then: "see to it that old and new share a network namespace: sockets of another one are not noticed \
                        without it",
        },
        Feature {
            name: "SO_PASSRIGHTS",
            found: kernel.pass_rights,
            since: "6.16",
            // The kernel then closes on arrival what it would otherwise not let in.
            without: Verdict::Ok,
            what_then: "nothing is missed: descriptors that nobody wants are closed on arrival instead",
        },
    ]
}

fn judge(feature: Feature) -> Finding {
    let Feature { name, found, since, without, what_then } = feature;
    let Err(error) = found else { return Finding::ok(name, "works") };
    let found = format!("not here (Linux {since} has it): {error}");
    match without {
        Verdict::Ok => Finding::ok(name, format!("{found}; {what_then}")),
        verdict => {
            let advice = format!("{what_then}; take a newer kernel, or allow it in the filter of system calls");
            Finding { check: name, verdict, found, advice: Some(advice) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(without: Verdict) -> Finding {
        let found = Err(io::Error::other("Protocol not available"));
        judge(Feature { name: "SO_X", found, since: "6.5", without, what_then: "so what" })
    }

    #[test]
    fn what_is_missing_is_as_bad_as_what_follows() {
        let found = "not here (Linux 6.5 has it): Protocol not available";
        let failed = missing(Verdict::Failed);
        assert_eq!((failed.verdict, failed.found.as_str()), (Verdict::Failed, found));
        assert!(failed.advice.unwrap().starts_with("so what; take a newer kernel"));
        let fine = missing(Verdict::Ok);
        assert_eq!((fine.verdict, fine.found, fine.advice), (Verdict::Ok, format!("{found}; so what"), None));
    }
}
