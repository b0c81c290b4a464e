//! What a keeper does, as it happens: for the log, and for whoever runs it.

use std::fmt;

/// What a keeper does, see [`Keeper::on_event`](crate::Keeper::on_event). Shown, it is a line for people.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeeperEvent {
    /// A process serves, and everything is here for the case that it ends.
    StandingBy {
        /// Its id, as it sees itself.
        pid: u32,
        /// Its generation.
        generation: u64,
    },
    /// Nobody serves, and connections wait.
    Keeping(KeptSince),
    /// Another process serves, and has everything.
    Given {
        /// Its id, as it sees itself.
        pid: u32,
    },
    /// A process was to take over, and did not.
    NotTaken {
        /// Its id, as it sees itself.
        pid: u32,
        /// Why.
        reason: String,
    },
    /// So many processes in a row have died of the state, and the next one does not get it.
    StateLeftOut {
        /// How many.
        tries: u32,
    },
    /// The service cannot be kept now, and why. It is tried again.
    NotKept {
        /// Why.
        reason: String,
    },
    /// The keeper was told to stop while nobody served: the sockets are closed.
    Closed {
        /// How many connections waited at its TCP listeners, and are reset.
        waiting: u64,
    },
}

/// Since when nobody serves a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeptSince {
    /// No process has served yet.
    TheBeginning,
    /// The last one has stopped in good order, and has given its final state.
    Stop {
        /// Its id, as it sees itself.
        pid: u32,
    },
    /// The last one has crashed.
    Crash {
        /// Its id, as it sees itself.
        pid: u32,
    },
}

impl fmt::Display for KeptSince {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeptSince::TheBeginning => f.write_str("no process has served yet"),
            KeptSince::Stop { pid } => write!(f, "process {pid} has stopped"),
            KeptSince::Crash { pid } => write!(f, "process {pid} has crashed"),
        }
    }
}

impl fmt::Display for KeeperEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeeperEvent::StandingBy { pid, generation } => {
                write!(
                    f,
                    "process {pid}, generation {generation}, serves; everything is kept for the case that it ends"
                )
            }
            KeeperEvent::Keeping(since) => write!(f, "{since}; connections wait for the next process"),
            KeeperEvent::Given { pid } => write!(f, "process {pid} has taken over"),
            KeeperEvent::NotTaken { pid, reason } => write!(f, "process {pid} has not taken over: {reason}"),
            KeeperEvent::StateLeftOut { tries } => {
                write!(f, "{tries} processes in a row have died of the state; the next one gets the sockets alone")
            }
            KeeperEvent::NotKept { reason } => write!(f, "cannot keep the service now: {reason}"),
            KeeperEvent::Closed { waiting } => {
                write!(f, "told to stop while nobody serves: the sockets are closed, and {waiting} connections reset")
            }
        }
    }
}

impl KeeperEvent {
    pub(super) fn log(&self) {
        match self {
            KeeperEvent::StandingBy { pid, generation } => {
                tracing::info!(event = "standing_by", owner = pid, generation, "{self}");
            }
            KeeperEvent::Keeping(KeptSince::Crash { pid }) => {
                tracing::warn!(event = "keeping", owner = pid, "{self}");
            }
            KeeperEvent::Keeping(_) => tracing::info!(event = "keeping", "{self}"),
            KeeperEvent::Given { pid } => tracing::info!(event = "given", successor = pid, "{self}"),
            KeeperEvent::NotTaken { pid, reason } => {
                tracing::warn!(event = "not_taken", successor = pid, reason, "{self}");
            }
            KeeperEvent::StateLeftOut { tries } => tracing::error!(event = "state_left_out", tries, "{self}"),
            KeeperEvent::NotKept { reason } => tracing::warn!(event = "not_kept", reason, "{self}"),
            KeeperEvent::Closed { waiting } => tracing::warn!(event = "kept_closed", waiting, "{self}"),
        }
    }
}
