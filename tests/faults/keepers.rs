//! A service that a keeper keeps, and a fault in either of the two: while the keeper gets everything, and when the service stops.

use nix::sys::signal::Signal;

use crate::case::SOME;
use crate::clients::{Check, require, until};
use crate::load::{Load, Miss};
use crate::process::{Place, Process};

/// What the service is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It gives the keeper everything, and serves.
    Keeping,
    /// It was told to stop, and has a keeper.
    Stopping,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Service,
    Keeper,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The service, as if nothing had happened, and another keeper gets everything.
    Service,
    /// Nobody; the keeper has it, and the next process takes over from that.
    Keeper,
    /// Nobody: the next start is a cold one.
    Nobody,
}

/// One fault, and what has to follow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    phase: Phase,
    side: Side,
    /// As `FD_HANDOFF_FAULT` has it, without the fault.
    point: &'static str,
    fault: &'static str,
    then: Then,
}

pub(crate) fn rows() -> Vec<Row> {
    let row = |phase, side, point, fault, then| Row { phase, side, point, fault, then };
    let mut rows = Vec::new();
    for fault in ["kill", "abort"] {
        for point in [
            "before-send received",
            "after-send received",
            "after-receive state",
            "before-send ready",
            "after-send ready",
        ] {
            rows.push(row(Phase::Keeping, Side::Keeper, point, fault, Then::Service));
        }
    }
    for point in ["before-send offer", "after-send offer", "after-send descriptors", "before-send state"] {
        rows.push(row(Phase::Keeping, Side::Service, point, "kill", Then::Nobody));
    }
    rows.push(row(Phase::Keeping, Side::Service, "after-receive ready", "kill", Then::Keeper));
    for point in [
        "before-send state#2",
        "after-send state#2",
        "before-send release",
        "after-send release",
        "after-receive active",
        "before-send farewell",
        "after-send farewell",
    ] {
        rows.push(row(Phase::Stopping, Side::Service, point, "kill", Then::Keeper));
    }
    // It takes the service back from a keeper that gives up, and stops: what the keeper has then is nobody's.
    rows.push(row(Phase::Stopping, Side::Keeper, "after-receive release", "abort", Then::Keeper));
    // And from one that is dead, or silent.
    for (point, faults) in [("after-receive release", &["kill", "stop"]), ("before-send active", &["kill", "stop"])] {
        rows.extend(faults.iter().map(|fault| row(Phase::Stopping, Side::Keeper, point, fault, Then::Nobody)));
    }
    rows.push(row(Phase::Stopping, Side::Keeper, "after-send active", "kill", Then::Nobody));
    rows
}

impl Row {
    /// As the document has it.
    pub(crate) fn line(&self) -> String {
        let phase = match self.phase {
            Phase::Keeping => "gives the keeper everything",
            Phase::Stopping => "is told to stop",
        };
        let side = match self.side {
            Side::Service => "service",
            Side::Keeper => "keeper",
        };
        let then = match self.then {
            Then::Service => "the service; another keeper gets everything",
            Then::Keeper => "nobody; the keeper has it, and the next process takes over from that",
            Then::Nobody => "nobody; the next start is a cold one",
        };
        let point = match self.point.split_once('#') {
            Some((point, number)) => format!("{}, number {number}", named(point)),
            None => named(self.point),
        };
        format!("| {phase} | {side} | {point} | `{}` | {then} |", self.fault)
    }

    fn order(&self, side: Side) -> Option<String> {
        (self.side == side).then(|| format!("{} {}", self.point, self.fault))
    }
}

/// `before-send release`: before `release` is sent.
fn named(point: &str) -> String {
    let (point, frame) = point.split_once(' ').unwrap_or((point, ""));
    match point {
        "before-send" => format!("before `{frame}` is sent"),
        "after-send" => format!("after `{frame}` is sent"),
        _ => format!("`{frame}` received"),
    }
}

pub(crate) fn run(row: Row, mut place: Place) -> Check {
    // A keeper that is silent when the service is to be its own is given up soon; nothing else has a deadline here.
    let timeouts = if row.fault == "stop" { "active=300" } else { "active=60000" };
    let mut service = Process::start(&place, timeouts, row.order(Side::Service).as_deref())?;
    place.listen = service.serves()?.listen;
    let load = Load::start(&place);
    load.goes_on(SOME)?;
    let mut keeper = Process::keep(&place, row.order(Side::Keeper).as_deref())?;
    if row.phase == Phase::Stopping {
        holds(&place, &keeper)?;
        service.signal(Signal::SIGTERM);
    }
    match (row.side, row.fault) {
        (Side::Service, _) => service.killed(Signal::SIGKILL)?,
        (Side::Keeper, "kill") => keeper.killed(Signal::SIGKILL)?,
        // The service ends it.
        (Side::Keeper, "stop") => keeper.killed(Signal::SIGKILL)?,
        (Side::Keeper, _) => {}
    }
    match row.then {
        Then::Service => {
            // One that has given up comes again by itself.
            let again = if row.fault == "kill" { Process::keep(&place, None)? } else { keeper };
            holds(&place, &again)?;
            load.goes_on(SOME)?;
            let lost = load.stop().iter().filter(|sample| sample.result.is_err()).count();
            require(lost == 0, || format!("{lost} requests were lost"))?;
            require(place.status()?["pid"] == service.pid(), || "the service serves on".to_owned())
        }
        Then::Keeper => {
            until("the keeper has it", || {
                let status = place.status().ok()?;
                (status["pid"] == keeper.pid() && status["phase"] == "kept").then_some(())
            })?;
            let mut next = Process::start(&place, "", None)?;
            next.serves()?;
            load.goes_on(SOME)?;
            let refused = load.stop().iter().filter(|sample| matches!(sample.result, Err(Miss::Refused))).count();
            require(refused == 0, || format!("{refused} requests were refused"))?;
            holds(&place, &keeper)
        }
        Then::Nobody => {
            if row.side == Side::Keeper {
                service.ended_well()?;
            }
            let mut next = Process::start(&place, "", None)?;
            let generation = next.serves()?.generation;
            require(generation == 1, || format!("generation {generation} is no cold start"))?;
            load.goes_on(SOME)?;
            load.stop();
            Ok(())
        }
    }
}

fn holds(place: &Place, keeper: &Process) -> Check {
    let held = until("the keeper has everything", || {
        let found = place.status().ok()?["keeper"].clone();
        (found["pid"] == keeper.pid() && found["holds"] == true).then_some(())
    });
    held.map_err(|error| format!("{error}: {:?}", place.status()))
}
