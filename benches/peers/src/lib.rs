//! What the measured services share, so that only the library under each of them differs: their arguments, the
//! stamps by which the harness hears of them, their state, and the HTTP server.

mod args;
/// The benchmark of the library alone has it, too.
#[path = "../../bare/mod.rs"]
pub mod bare;
mod server;
mod stamp;
mod state;

pub use args::{Args, parsed};
pub use server::{Server, bind};
pub use stamp::{now, stamp};
pub use state::{resident, take_in, write_once};
