//! The control protocol's decisions: who may say what when, and who owns the service.
//!
//! Nothing in here does I/O, reads a clock, starts a thread or names tokio: the model, the fuzzer and the drivers share it.

mod finish;
mod inspector;
mod keeper;
mod lifecycle;
mod lineage;
mod predecessor;
mod reachability;
pub(crate) mod record;
mod role;
mod successor;
#[cfg(test)]
mod tests;
mod watchdog;
pub mod wire;

pub use finish::{Finish, FinishInput, FinishOutput, FinishWaits};
pub use inspector::{Answer, Desk, Inspector, MAX_INSPECTORS, QUIET_LIMIT};
pub use keeper::StateTries;
pub use lifecycle::{Leave, Leaving, Lifecycle};
pub use lineage::Lineage;
pub use predecessor::{Gift, Predecessor, PredecessorCommand, PredecessorEvent};
pub use reachability::{PathStep, Reachability, Sight};
pub use role::{CLOSE_GRACE, Cause, Input, Output, Packet, Peer, Role, Waits};
pub use successor::{Departure, Successor, SuccessorCommand, SuccessorEvent};
pub use watchdog::Watchdog;
