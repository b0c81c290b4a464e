//! Which faults there are, and what has to follow from each.

use std::fmt;

use crate::process::Program;

/// The process that the fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Predecessor,
    Successor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    Exit,
    Stop,
    Abort,
}

/// Who serves when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// The predecessor, as before or again.
    Predecessor,
    /// The predecessor, after it has ended a successor that was silent after the release.
    Fenced,
    /// The successor, as if nothing had happened.
    Successor,
    /// The successor, from a predecessor that died without releasing.
    Orphan,
    /// The successor, which began anew: not everything had arrived.
    Anew,
}

/// Which requests may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    None,
    /// Those on connections that the dead process had accepted: one for each client.
    Held,
    /// Those that came while there was no service as well.
    Outage,
}

/// What the survivor has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    /// Every request.
    Exact,
    /// Every request of its own, and those before the snapshot.
    Snapshot,
    /// Every request of its own, and those before the release.
    Release,
    /// Every request of its own, and none that the dead successor had answered.
    Own,
    /// Every request of its own, from 0.
    Anew,
    /// Nothing: it keeps no count.
    Nothing,
}

/// One fault, and what has to follow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) side: Side,
    pub(crate) point: &'static str,
    pub(crate) frame: &'static str,
    pub(crate) fault: Fault,
    pub(crate) then: Then,
    pub(crate) loss: Loss,
    pub(crate) count: Count,
    /// The deadline at which the other side gives one up that has stopped here, if it waits for it at all.
    pub(crate) deadline: Option<&'static str>,
}

/// How far the handoff is at a point, as far as it matters for what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// The successor is a connection like any other.
    Nothing,
    /// It has not got everything.
    Transfer,
    /// It has.
    Complete,
    /// It is ready, and its own word no longer stops the release.
    Ready,
    /// The predecessor has stopped accepting; the successor has not said that it serves.
    Released,
    /// It serves, and its predecessor drains.
    Draining,
    /// The predecessor has no connections left.
    Drained,
    /// The farewell is said.
    Farewell,
}

use Stage::*;

const PREDECESSOR: [(&str, &str, Stage); 17] = [
    ("after-receive", "receive", Transfer),
    ("before-send", "offer", Transfer),
    ("after-send", "offer", Transfer),
    ("before-send", "descriptors", Transfer),
    ("after-send", "descriptors", Transfer),
    ("after-receive", "received", Transfer),
    ("before-send", "state", Transfer),
    ("after-send", "state", Complete),
    ("after-receive", "progress", Complete),
    ("after-receive", "ready", Ready),
    // The release is decided, and not said.
    ("before-send", "release", Ready),
    ("after-send", "release", Draining),
    ("after-receive", "active", Draining),
    ("before-send", "draining", Draining),
    ("after-send", "draining", Draining),
    ("before-send", "farewell", Drained),
    ("after-send", "farewell", Farewell),
];

const SUCCESSOR: [(&str, &str, Stage); 16] = [
    ("before-send", "receive", Nothing),
    ("after-send", "receive", Transfer),
    ("after-receive", "offer", Transfer),
    ("after-receive", "descriptors", Transfer),
    ("before-send", "received", Transfer),
    ("after-send", "received", Transfer),
    ("after-receive", "state", Complete),
    ("before-send", "progress", Complete),
    ("after-send", "progress", Complete),
    ("before-send", "ready", Complete),
    ("after-send", "ready", Ready),
    ("after-receive", "release", Released),
    ("before-send", "active", Released),
    ("after-send", "active", Draining),
    // By then it may have served.
    ("after-receive", "draining", Drained),
    ("after-receive", "farewell", Farewell),
];

/// The rows of a program, in the order of a handoff.
pub(crate) fn of(program: Program) -> Vec<Row> {
    match program {
        Program::Http => all(false),
        Program::Echo => {
            // It has no state, and nothing to say of its initialisation.
            let stateless = all(true).into_iter().filter(|row| row.frame != "state" && row.frame != "progress");
            stateless.map(|row| Row { count: Count::Nothing, ..row }).collect()
        }
    }
}

fn all(stateless: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for (point, frame, stage) in PREDECESSOR {
        // Without a snapshot to come, everything has arrived with the descriptors.
        let whole = matches!((point, frame), ("after-send", "descriptors") | ("after-receive", "received"));
        let stage = if stateless && whole { Complete } else { stage };
        for fault in [Fault::Kill, Fault::Exit, Fault::Stop] {
            rows.push(predecessor(point, frame, stage, fault));
        }
        // Once the release is decided, a predecessor does not give up any more.
        if frame != "release" && stage <= Ready {
            rows.push(predecessor(point, frame, stage, Fault::Abort));
        }
    }
    for (point, frame, stage) in SUCCESSOR {
        for fault in [Fault::Kill, Fault::Exit, Fault::Stop] {
            rows.push(successor(point, frame, stage, fault));
        }
        // Once it has read the release, a successor does not give up any more.
        if stage <= Ready {
            rows.push(successor(point, frame, stage, Fault::Abort));
        }
    }
    rows
}

fn predecessor(point: &'static str, frame: &'static str, stage: Stage, fault: Fault) -> Row {
    let dies = matches!(fault, Fault::Kill | Fault::Exit);
    let (then, count) = match (fault, stage) {
        (_, Farewell) => (Then::Successor, Count::Exact),
        // A farewell that comes after its deadline is not waited for.
        (_, Released | Draining | Drained) => (Then::Successor, Count::Release),
        (Fault::Stop | Fault::Abort, _) => (Then::Predecessor, Count::Exact),
        (_, Complete | Ready) => (Then::Orphan, Count::Snapshot),
        (_, Nothing | Transfer) => (Then::Anew, Count::Anew),
    };
    let loss = match then {
        Then::Anew => Loss::Outage,
        _ if dies && stage < Drained => Loss::Held,
        _ => Loss::None,
    };
    let deadline = match (point, frame, stage) {
        ("after-receive", "receive", _) | ("before-send", "offer", _) => Some("offer"),
        (_, _, Transfer) => Some("transfer"),
        (_, _, Complete | Ready) => Some("release"),
        (_, _, Released | Draining | Drained) => Some("drain"),
        (_, _, Nothing | Farewell) => None,
    };
    Row { side: Side::Predecessor, point, frame, fault, then, loss, count, deadline }
}

fn successor(point: &'static str, frame: &'static str, stage: Stage, fault: Fault) -> Row {
    let dies = matches!(fault, Fault::Kill | Fault::Exit);
    let then = match (fault, stage) {
        (Fault::Stop, Nothing | Draining | Drained | Farewell) => Then::Successor,
        (Fault::Stop, Ready | Released) => Then::Fenced,
        _ => Then::Predecessor,
    };
    let has_served = dies && stage >= Drained;
    let (loss, count) = if has_served { (Loss::Held, Count::Own) } else { (Loss::None, Count::Exact) };
    let deadline = match (point, frame, stage) {
        // The predecessor has nothing more to wait for but its initialisation.
        ("after-send", "received", _) | (_, _, Complete) => Some("ready"),
        (_, _, Transfer) => Some("transfer"),
        (_, _, Ready | Released) => Some("active"),
        (_, _, Nothing | Draining | Drained | Farewell) => None,
    };
    Row { side: Side::Successor, point, frame, fault, then, loss, count, deadline }
}

impl Row {
    /// What to ask the process for.
    pub(crate) fn order(&self) -> String {
        format!("{} {} {}", self.point, self.frame, self.fault)
    }

    /// Whether the predecessor has nothing to tell of it.
    pub(crate) fn leaves_no_trace(&self) -> bool {
        self.side == Side::Successor && self.point == "before-send" && self.frame == "receive"
    }

    pub(crate) fn dies(&self) -> bool {
        matches!(self.fault, Fault::Kill | Fault::Exit)
    }

    /// Its line of the table.
    pub(crate) fn line(&self) -> String {
        let Row { side, point, frame, fault, then, loss, count, .. } = self;
        format!("| {side} | {point} `{frame}` | {fault} | {then} | {loss} | {count} |")
    }
}

/// Writes each value as its text.
macro_rules! texts {
    ($($kind:ident { $($value:ident => $text:literal,)* })*) => {$(
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $($kind::$value => $text,)*
                })
            }
        }
    )*};
}

texts! {
    Side {
        Predecessor => "predecessor",
        Successor => "successor",
    }
    Fault {
        Kill => "kill",
        Exit => "exit",
        Stop => "stop",
        Abort => "abort",
    }
    Then {
        Predecessor => "predecessor",
        Fenced => "predecessor, which killed the successor",
        Successor => "successor",
        Orphan => "successor, orphaned",
        Anew => "successor, begun anew",
    }
    Loss {
        None => "none",
        Held => "held by the dead",
        Outage => "until it began anew",
    }
    Count {
        Exact => "exact",
        Snapshot => "from the snapshot on",
        Release => "from the release on",
        Own => "without the dead's own",
        Anew => "anew",
        Nothing => "-",
    }
}
