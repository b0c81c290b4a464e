//! Who takes part, and how each is told to upgrade.

use rustix::process::Signal;

/// One library, or one way without a library.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contestant {
    /// As the tables call it.
    pub(crate) name: &'static str,
    /// The service's program, in `src/bin`.
    pub(crate) program: &'static str,
    pub(crate) environment: &'static [(&'static str, &'static str)],
    pub(crate) trigger: Trigger,
    /// More than that it cannot have, for the reason given.
    pub(crate) most_listeners: (usize, &'static str),
    /// It takes `--state`.
    pub(crate) gives_state: bool,
}

impl Contestant {
    /// Whether it is this project's, and so has goals to meet.
    pub(crate) fn is_ours(&self) -> bool {
        self.name.starts_with("fd-handoff")
    }

    pub(crate) fn is_floor(&self) -> bool {
        self.program == FLOOR.program
    }

    /// Whether it is somebody else's library.
    pub(crate) fn is_peer(&self) -> bool {
        !self.is_ours() && !self.is_floor() && self.program != "restart"
    }
}

/// How an upgrade begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trigger {
    /// The generation that serves is sent this, and sees to the rest.
    Signal(Signal),
    /// The process that was started first is sent this: it serves nothing itself, and sees to the rest.
    SignalSupervisor(Signal),
    /// A second process is started, and the running one is sent this at once.
    #[cfg(feature = "pingora")]
    StartAndSignal(Signal),
    /// A second process is started, and when it serves, the running one is sent this.
    StartThenSignal(Signal),
    /// The running process is sent this, and when it has ended, the second one is started.
    SignalThenStart(Signal),
}

const ANY: (usize, &str) = (usize::MAX, "");
const TWO_EACH: &str = "two descriptors for each listener, of 20,000 in all";

/// All of them, ours first and the floor last.
pub(crate) const ALL: &[Contestant] = &[
    Contestant {
        name: "fd-handoff (tokio)",
        program: "ours",
        environment: &[],
        trigger: Trigger::Signal(Signal::HUP),
        most_listeners: ANY,
        gives_state: true,
    },
    Contestant {
        name: "fd-handoff (blocking)",
        program: "ours_blocking",
        environment: &[],
        trigger: Trigger::Signal(Signal::HUP),
        most_listeners: (9_700, TWO_EACH),
        gives_state: true,
    },
    Contestant {
        name: "ecdysis",
        program: "ecdysis",
        environment: &[],
        trigger: Trigger::Signal(Signal::HUP),
        most_listeners: (9_900, TWO_EACH),
        gives_state: false,
    },
    Contestant {
        name: "shellflip",
        program: "shellflip",
        environment: &[],
        trigger: Trigger::Signal(Signal::USR1),
        most_listeners: ANY,
        gives_state: true,
    },
    Contestant {
        name: "beyond-handoff",
        program: "beyond",
        environment: &[],
        trigger: Trigger::SignalSupervisor(Signal::HUP),
        most_listeners: (9_990, "a child has each one twice while it starts, and may have 20,000 descriptors"),
        gives_state: false,
    },
    #[cfg(feature = "pingora")]
    Contestant {
        name: "pingora-core",
        program: "pingora",
        environment: &[],
        trigger: Trigger::StartAndSignal(Signal::QUIT),
        most_listeners: (32, "the new one gives up with ENOBUFS, and the old one ends all the same"),
        gives_state: false,
    },
    Contestant {
        name: "SO_REUSEPORT",
        program: "restart",
        environment: &[("REUSEPORT", "1")],
        trigger: Trigger::StartThenSignal(Signal::TERM),
        most_listeners: ANY,
        gives_state: false,
    },
    Contestant {
        name: "plain restart",
        program: "restart",
        environment: &[],
        trigger: Trigger::SignalThenStart(Signal::TERM),
        most_listeners: ANY,
        gives_state: false,
    },
    FLOOR,
];

/// What no library can go below: the same server, and the bare system calls.
pub(crate) const FLOOR: Contestant = Contestant {
    name: "floor",
    program: "floor",
    environment: &[],
    trigger: Trigger::Signal(Signal::HUP),
    most_listeners: ANY,
    gives_state: true,
};
