//! Which faults there are, and what has to follow from each.

use std::fmt;

use crate::process::Program;

/// What goes on around the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scene {
    /// One handoff.
    Handoff,
    /// One handoff of so many descriptors that they go in three batches.
    Batches,
    /// The successor serves, and is told to stop.
    Stop,
    /// One handoff, while the predecessor's own predecessor still drains.
    Grandparent,
}

/// The process that the fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Grandparent,
    Predecessor,
    Successor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill,
    Exit,
    Error,
    Return,
    Panic,
    Term,
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
    /// Nobody: the service was told to stop, and has.
    Nobody,
    /// The predecessor, where the successor still counts as one that initialises, or else nobody.
    InTime,
    /// The predecessor's own predecessor, again.
    Grandparent,
    /// The successor, to which the grandparent has handed over once it had taken back.
    Grandchild,
    /// The grandparent or the successor, whichever was first.
    Heir,
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
    /// Every request of its own, and none that the dead predecessor had answered.
    Before,
    /// Every request of its own, from 0.
    Anew,
    /// Nothing: it keeps no count.
    Nothing,
}

/// One fault, and what has to follow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) scene: Scene,
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

const PREDECESSOR: [(&str, &str, Stage); 18] = [
    ("before-send", "hello", Nothing),
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

const SUCCESSOR: [(&str, &str, Stage); 17] = [
    ("before-send", "receive", Nothing),
    ("after-send", "receive", Transfer),
    ("after-receive", "hello", Transfer),
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

/// Where a process ends as `main` does, or by a panic: once in each stage. What follows is the same as where it is killed,
/// and here destructors run that could say otherwise.
const ENDINGS: [(&str, &str); 18] = [
    ("after-receive", "receive"),
    ("after-send", "descriptors"),
    ("after-send", "state"),
    ("after-receive", "ready"),
    ("before-send", "release"),
    ("after-send", "release"),
    ("after-receive", "active"),
    ("before-send", "farewell"),
    ("after-send", "farewell"),
    ("after-receive", "hello"),
    ("after-receive", "descriptors"),
    ("after-receive", "state"),
    ("after-send", "ready"),
    ("after-receive", "release"),
    ("before-send", "active"),
    ("after-send", "active"),
    ("after-receive", "draining"),
    ("after-receive", "farewell"),
];

/// Where `main` returns in good order as well: with the new one initialising, about to serve, and serving.
const RETURNS: [(&str, &str); 5] = [
    ("after-send", "state"),
    ("after-receive", "ready"),
    ("after-receive", "active"),
    ("after-send", "active"),
    ("after-receive", "draining"),
];

/// Where the middle one of three batches is.
const PREDECESSOR_BATCHES: [(&str, &str); 3] =
    [("before-send", "descriptors#2"), ("after-send", "descriptors#2"), ("after-receive", "received#2")];
const SUCCESSOR_BATCHES: [(&str, &str); 3] =
    [("after-receive", "descriptors#2"), ("before-send", "received#2"), ("after-send", "received#2")];

/// The rows of a program, scene by scene, in the order of a handoff.
pub(crate) fn of(program: Program) -> Vec<Row> {
    match program {
        Program::Http => [handoff(program), batches(program), stop(), grandparent()].concat(),
        Program::Echo => {
            // It has no state, and nothing to say of its initialisation.
            let stateless = [handoff(program), batches(program)].concat().into_iter();
            let stateless = stateless.filter(|row| row.frame != "state" && row.frame != "progress");
            stateless.map(|row| Row { count: Count::Nothing, ..row }).collect()
        }
    }
}

fn handoff(program: Program) -> Vec<Row> {
    let mut rows = Vec::new();
    for (point, frame, stage) in PREDECESSOR {
        // Without a snapshot to come, everything has arrived with the descriptors.
        let whole = matches!((point, frame), ("after-send", "descriptors") | ("after-receive", "received"));
        let stage = if program == Program::Echo && whole { Complete } else { stage };
        // No role says hello, and once the release is decided, a predecessor does not give up any more.
        let gives_up = frame != "hello" && frame != "release" && stage <= Ready;
        for fault in faults(program, point, frame, gives_up) {
            rows.push(predecessor(point, frame, stage, fault));
        }
        if let (Program::Http, Some(row)) = (program, predecessor_told_to_stop(point, frame)) {
            rows.push(row);
        }
    }
    for (point, frame, stage) in SUCCESSOR {
        // Once it has read the release, a successor does not give up any more.
        for fault in faults(program, point, frame, stage <= Ready) {
            rows.push(successor(point, frame, stage, fault));
        }
        if let (Program::Http, Some(row)) = (program, successor_told_to_stop(point, frame)) {
            rows.push(row);
        }
    }
    rows
}

fn faults(program: Program, point: &'static str, frame: &'static str, gives_up: bool) -> Vec<Fault> {
    let mut faults = vec![Fault::Kill, Fault::Exit];
    if ENDINGS.contains(&(point, frame)) {
        // In the blocking program, `main` is within a call of the library's: it cannot return.
        let returns = program == Program::Http && !is_claiming(point, frame);
        faults.extend(returns.then_some(Fault::Error));
        faults.extend((returns && RETURNS.contains(&(point, frame))).then_some(Fault::Return));
        faults.push(Fault::Panic);
    }
    faults.push(Fault::Stop);
    faults.extend(gives_up.then_some(Fault::Abort));
    faults
}

/// Nothing comes between a release that was read and what follows from it but a panic.
fn is_claiming(point: &str, frame: &str) -> bool {
    (point, frame) == ("after-receive", "release")
}

fn predecessor(point: &'static str, frame: &'static str, stage: Stage, fault: Fault) -> Row {
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
        _ if fault.ends() && stage < Drained => Loss::Held,
        _ => Loss::None,
    };
    let deadline = match (point, frame, stage) {
        ("after-receive", "receive", _) | ("before-send", "offer" | "hello", _) => Some("offer"),
        (_, _, Transfer) => Some("transfer"),
        (_, _, Complete | Ready) => Some("release"),
        (_, _, Released | Draining | Drained) => Some("drain"),
        (_, _, Nothing | Farewell) => None,
    };
    Row { scene: Scene::Handoff, side: Side::Predecessor, point, frame, fault, then, loss, count, deadline }
}

/// A handoff to a process that somebody else has started goes on.
fn predecessor_told_to_stop(point: &'static str, frame: &'static str) -> Option<Row> {
    const POINTS: [(&str, &str); 6] = [
        ("after-receive", "receive"),
        ("after-send", "state"),
        ("after-receive", "ready"),
        ("after-send", "release"),
        ("after-receive", "active"),
        ("before-send", "farewell"),
    ];
    POINTS.contains(&(point, frame)).then(|| {
        let (then, loss, count) = (Then::Successor, Loss::None, Count::Exact);
        let (scene, side, fault) = (Scene::Handoff, Side::Predecessor, Fault::Term);
        Row { scene, side, point, frame, fault, then, loss, count, deadline: None }
    })
}

fn successor(point: &'static str, frame: &'static str, stage: Stage, fault: Fault) -> Row {
    let then = match (fault, stage) {
        (Fault::Stop, Nothing | Draining | Drained | Farewell) => Then::Successor,
        (Fault::Stop, Ready | Released) => Then::Fenced,
        // It is the background that hears these, which goes on.
        (Fault::Panic, Drained | Farewell) => Then::Successor,
        _ => Then::Predecessor,
    };
    let has_served = then == Then::Predecessor && stage >= Drained;
    let (loss, count) = if has_served { (Loss::Held, Count::Own) } else { (Loss::None, Count::Exact) };
    let deadline = match (point, frame, stage) {
        // The predecessor has nothing more to wait for but its initialisation.
        ("after-send", "received", _) | (_, _, Complete) => Some("ready"),
        (_, _, Transfer) => Some("transfer"),
        (_, _, Ready | Released) => Some("active"),
        (_, _, Nothing | Draining | Drained | Farewell) => None,
    };
    Row { scene: Scene::Handoff, side: Side::Successor, point, frame, fault, then, loss, count, deadline }
}

/// It ends while it initialises, and stops the service once that is its own.
fn successor_told_to_stop(point: &'static str, frame: &'static str) -> Option<Row> {
    let (then, loss, count) = match (point, frame) {
        ("after-send", "progress") => (Then::Predecessor, Loss::None, Count::Exact),
        ("after-receive", "release") | ("before-send", "active") => (Then::InTime, Loss::Outage, Count::Exact),
        _ => return None,
    };
    let (scene, side, fault) = (Scene::Handoff, Side::Successor, Fault::Term);
    Some(Row { scene, side, point, frame, fault, then, loss, count, deadline: None })
}

fn batches(program: Program) -> Vec<Row> {
    const FAULTS: [Fault; 4] = [Fault::Kill, Fault::Exit, Fault::Stop, Fault::Abort];

    let mut rows = Vec::new();
    for (point, frame) in PREDECESSOR_BATCHES {
        // With the first word the last batch has gone.
        let whole = program == Program::Echo && frame == "received#2";
        let stage = if whole { Complete } else { Transfer };
        rows.extend(FAULTS.map(|fault| predecessor(point, frame, stage, fault)));
    }
    for (point, frame) in SUCCESSOR_BATCHES {
        rows.extend(FAULTS.map(|fault| successor(point, frame, Transfer, fault)));
    }
    rows.into_iter().map(|row| Row { scene: Scene::Batches, ..row }).collect()
}

/// Its predecessor watches it all the while.
fn stop() -> Vec<Row> {
    let row = |side, point, fault, then| {
        let (loss, count) = match then {
            Then::Nobody => (Loss::Outage, Count::Anew),
            _ => (Loss::None, Count::Own),
        };
        Row { scene: Scene::Stop, side, point, frame: "settled", fault, then, loss, count, deadline: None }
    };
    let mut rows = Vec::new();
    for fault in [Fault::Kill, Fault::Exit, Fault::Error] {
        rows.push(row(Side::Successor, "before-send", fault, Then::Predecessor));
    }
    for fault in [Fault::Kill, Fault::Exit, Fault::Error, Fault::Stop] {
        rows.push(row(Side::Successor, "after-send", fault, Then::Nobody));
    }
    for fault in [Fault::Kill, Fault::Exit, Fault::Error, Fault::Panic, Fault::Stop] {
        rows.push(row(Side::Predecessor, "after-receive", fault, Then::Nobody));
    }
    rows
}

/// The grandparent drains a connection that its client keeps until all is over.
fn grandparent() -> Vec<Row> {
    let row = |side, point, frame, fault, then| {
        let (loss, count) = match (side, then, frame) {
            (Side::Successor, _, "draining") => (Loss::Held, Count::Own),
            (Side::Successor, ..) | (_, Then::Predecessor, _) => (Loss::None, Count::Exact),
            (Side::Grandparent, ..) => (Loss::None, Count::Exact),
            // By then it has no connections, and its farewell waits for the grandparent's.
            (Side::Predecessor, Then::Successor, "settled") => (Loss::None, Count::Release),
            (Side::Predecessor, Then::Successor, _) => (Loss::Held, Count::Release),
            (Side::Predecessor, ..) => (Loss::Held, Count::Before),
        };
        Row { scene: Scene::Grandparent, side, point, frame, fault, then, loss, count, deadline: None }
    };
    let mut rows = Vec::new();
    for fault in [Fault::Kill, Fault::Error] {
        rows.push(row(Side::Predecessor, "after-receive", "receive", fault, Then::Grandchild));
        rows.push(row(Side::Predecessor, "after-send", "state", fault, Then::Grandparent));
        rows.push(row(Side::Predecessor, "after-receive", "ready", fault, Then::Heir));
        rows.push(row(Side::Predecessor, "before-send", "release", fault, Then::Heir));
        rows.push(row(Side::Predecessor, "after-send", "release", fault, Then::Heir));
        rows.push(row(Side::Predecessor, "after-receive", "active", fault, Then::Successor));
        rows.push(row(Side::Predecessor, "before-send", "settled", fault, Then::Successor));
        rows.push(row(Side::Predecessor, "after-send", "settled", fault, Then::Successor));
    }
    for fault in [Fault::Kill, Fault::Error] {
        rows.push(row(Side::Successor, "after-receive", "descriptors", fault, Then::Predecessor));
        rows.push(row(Side::Successor, "after-receive", "state", fault, Then::Predecessor));
        rows.push(row(Side::Successor, "after-send", "ready", fault, Then::Predecessor));
        rows.push(row(Side::Successor, "before-send", "active", fault, Then::Predecessor));
        rows.push(row(Side::Successor, "after-send", "active", fault, Then::Predecessor));
        rows.push(row(Side::Successor, "after-receive", "draining", fault, Then::Predecessor));
    }
    rows.push(row(Side::Grandparent, "after-receive", "settled", Fault::Kill, Then::Successor));
    rows
}

impl Fault {
    /// Whether it ends the process, unless only its background panics.
    pub(crate) fn ends(self) -> bool {
        matches!(self, Fault::Kill | Fault::Exit | Fault::Error | Fault::Return | Fault::Panic)
    }
}

impl Row {
    /// What to ask the process for.
    pub(crate) fn order(&self) -> String {
        format!("{} {} {}", self.point, self.frame, self.fault)
    }

    /// Whether nothing is there yet that could be given up.
    pub(crate) fn leaves_no_trace(&self) -> bool {
        self.side == Side::Successor && self.point == "before-send" && self.frame == "receive"
    }

    /// Whether only the background panics, which goes on with the next thing.
    pub(crate) fn is_caught(&self) -> bool {
        self.fault == Fault::Panic && self.side == Side::Successor && self.then == Then::Successor
    }

    /// What has followed where it was one of two things.
    pub(crate) fn decided(self, nobody: bool) -> Row {
        let (then, loss, count) = match (self.then, nobody) {
            (Then::InTime, true) => (Then::Nobody, Loss::Outage, Count::Anew),
            (Then::InTime, false) => (Then::Predecessor, Loss::None, Count::Exact),
            _ => return self,
        };
        Row { then, loss, count, ..self }
    }

    /// Whether the process ends of it, before anybody lets it.
    pub(crate) fn dies(&self) -> bool {
        let initialises = self.side == Side::Successor && self.then == Then::Predecessor;
        self.fault.ends() && !self.is_caught() || self.fault == Fault::Term && initialises
    }

    /// Its line of the table.
    pub(crate) fn line(&self) -> String {
        let Row { side, point, frame, fault, then, loss, count, .. } = self;
        let (frame, number) = frame.split_once('#').unwrap_or((frame, ""));
        let which = if number.is_empty() { String::new() } else { format!(", number {number}") };
        format!("| {side} | {point} `{frame}`{which} | {fault} | {then} | {loss} | {count} |")
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
        Grandparent => "grandparent",
        Predecessor => "predecessor",
        Successor => "successor",
    }
    Fault {
        Kill => "kill",
        Exit => "exit",
        Error => "error",
        Return => "return",
        Panic => "panic",
        Term => "term",
        Stop => "stop",
        Abort => "abort",
    }
    Then {
        Predecessor => "predecessor",
        Fenced => "predecessor, which killed the successor",
        Successor => "successor",
        Orphan => "successor, orphaned",
        Anew => "successor, begun anew",
        Nobody => "nobody, as it was told to",
        InTime => "predecessor, or nobody",
        Grandparent => "grandparent",
        Grandchild => "grandparent, then successor",
        Heir => "grandparent or successor",
    }
    Loss {
        None => "none",
        Held => "held by the dead",
        Outage => "while nobody served",
    }
    Count {
        Exact => "exact",
        Snapshot => "from the snapshot on",
        Release => "from the release on",
        Own => "without the dead's own",
        Before => "as far as the survivor had it",
        Anew => "anew",
        Nothing => "-",
    }
}
