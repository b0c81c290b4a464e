//! The blocking form: a thread serves the control socket, and the calls wait with `poll(2)`.

pub(crate) mod accept;
pub(super) mod form;
mod handle;
mod handoff;
mod listen;
mod receive;
mod starting;

pub use accept::{Accepted, Acceptor, Connection, Counted, Listener};
pub use handle::Handle;
pub use handoff::Handoff;
pub(crate) use listen::pause;
pub use listen::{Control, Ready, Released, Successor};
pub use receive::{Inheritance, handoff_listen, handoff_receive};
pub use starting::Starting;
