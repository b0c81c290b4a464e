//! `handoff ready`: for health checks, whether the process that serves is one of this container, by its instance, or by its pid namespace
//! and its cgroup.

use clap::Args;
use fd_handoff::client::{Hello, Phase, Process, own_instance};

use crate::Service;
use crate::format::process_of;
use crate::output::Output;
use crate::problem::{Problem, connect};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    service: Service,
}

pub(crate) fn run(options: Options, out: &mut Output) -> Result<(), Problem> {
    let client = connect(&options.service.path())?;
    let hello = client.hello();
    let own = own_instance();
    // A process of this instance is one of ours, whatever its pid namespace is.
    let is_ours = own.is_some() && hello.instance == own;
    let is_in_here = client.process().as_ref().and_then(Process::is_in_own_container);
    judge(hello, if is_ours { Some(true) } else { is_in_here })?;
    out.line(format_args!("ready: process {}, generation {}, serves", hello.pid, hello.generation))
}

/// Whoever answers at the control socket owns the service; but it may be the old container's process still.
fn judge(hello: &Hello, is_in_here: Option<bool>) -> Result<(), Problem> {
    let Hello { pid, generation, phase, instance, .. } = hello;
    if !matches!(phase, Phase::Serving | Phase::Offering | Phase::Initialising) {
        return Err(Problem::failed(format!(
            "not ready: process {pid}, generation {generation}, does not serve ({phase})"
        )));
    }
    match is_in_here {
        Some(true) => Ok(()),
        Some(false) => Err(Problem::failed(format!(
            "not ready: generation {generation} serves, {} of another container",
            process_of(*pid, instance.as_deref())
        ))),
        None => Err(Problem::failed(format!(
            "generation {generation} serves, process {pid}, and whether that is a process of this container cannot be told: that \
             takes Linux 6.5, /proc, and a control socket that nothing relays"
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;

    fn hello(phase: &str) -> Hello {
        let line = format!(
            r#"{{"protocol":{{"min":1,"max":1}},"name":"a","version":"1","pid":7,"generation":2,"phase":"{phase}"}}"#
        );
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn ready_is_one_of_ours_that_serves() {
        for phase in ["serving", "offering", "initialising"] {
            assert_eq!(judge(&hello(phase), Some(true)), Ok(()));
        }
        for phase in ["released", "draining", "stranded", "something new"] {
            assert!(judge(&hello(phase), Some(true)).unwrap_err().to_string().contains("does not serve"));
        }
        assert!(judge(&hello("serving"), Some(false)).unwrap_err().to_string().contains("another container"));
        assert!(judge(&hello("serving"), None).unwrap_err().to_string().contains("cannot be told"));
    }
}
