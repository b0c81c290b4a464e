//! The successor's side of one handoff, without the waiting: what the blocking and the tokio calls share. It looks for the
//! service, takes everything over, and serves once it may: a file each. A keeper has everything, and serves nobody: `kept`.

mod inherited;
mod kept;
mod ready;
mod search;
mod transfer;

pub(crate) use inherited::Inherited;
pub(crate) use kept::{Kept, again, share};
pub(crate) use ready::Readied;
pub(crate) use search::{Found, Search};
pub(crate) use transfer::Transfer;
