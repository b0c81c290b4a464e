//! What a role needs of the world, without waiting: sockets, processes, signals, and the control socket's background. The
//! forms in [`crate::facade`] step what is in here, and wait in between.

pub(crate) mod arbiter;
pub(crate) mod bound;
pub(crate) mod channel;
pub(crate) mod child;
pub(crate) mod descriptor;
pub(crate) mod early_stop;
pub(crate) mod flags;
pub(crate) mod generation;
mod gift;
pub(crate) mod giving;
pub(crate) mod hooks;
pub(crate) mod keeping;
pub(crate) mod laps;
pub(crate) mod launch;
pub(crate) mod named;
mod pace;
pub(crate) mod place;
pub(crate) mod reception;
pub(crate) mod seat;
pub(crate) mod signals;
pub(crate) mod steward;
pub(crate) mod taking;
pub(crate) mod worker;

pub use child::Spawned;
pub use descriptor::Inheritable;
pub use giving::Offer;
pub use signals::SignalKind;
