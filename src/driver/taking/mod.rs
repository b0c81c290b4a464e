//! The successor's side of one handoff, without the waiting: what the blocking and the tokio calls share. It looks for the
//! service, takes everything over, and serves once it may: a file each.

mod inherited;
mod ready;
mod search;
mod transfer;

pub(crate) use inherited::Inherited;
#[cfg(feature = "tokio")]
pub(crate) use ready::Readied;
pub(crate) use search::{Found, Search};
pub(crate) use transfer::Transfer;
