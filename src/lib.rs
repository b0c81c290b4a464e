//! Replace a running network service by a new process without refusing a connection, dropping a request or
//! losing an update of in-memory state.
//!
//! The running process, the *predecessor*, listens on a control socket. The new one, the *successor*, connects,
//! receives copies of the listening sockets and the state, initialises while the predecessor goes on serving, and
//! says ready. That tells the predecessor to stop accepting, give up the last of its state, drain and exit.
//!
//! # The two calls
//!
//! [`handoff_receive`] takes over from whoever runs at the control socket, or begins a cold start;
//! [`handoff_listen`] is for a program that never inherits. Both take a path or a [`Config`]. The same calls for
//! tokio are in [`mod@tokio`].
//!
//! ```no_run
//! use fd_handoff::{Acceptor, Offer, handoff_receive};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut inheritance = handoff_receive("/run/app/handoff.sock")?;              // empty on a cold start
//! let listener = inheritance.tcp_listener("http", "0.0.0.0:8080".parse()?)?;    // inherited by name, else bound
//! let acceptor = Acceptor::new(listener)?;
//! // ... slow initialisation; the predecessor is serving ...
//! let control = inheritance.ready()?;                                           // returns once the service is ours
//! loop {
//!     # fn start_accepting(_: &Acceptor<std::net::TcpListener>) {}
//!     start_accepting(&acceptor);                                               // on threads of your own
//!     let successor = control.accept()?;                                        // an allowed peer said `receive`
//!     let offer = Offer::new().descriptor("http", acceptor.listener());
//!     let Ok(ready) = successor.offer(offer) else { continue };                 // it failed; still serving
//!     acceptor.stop();
//!     match ready.release(None) {
//!         Ok(released) => return Ok(released.farewell(None)?),                  // drain before the farewell
//!         Err(failure) if failure.may_serve() => acceptor.resume(),             // it died; the service is ours again
//!         Err(failure) => return Err(failure.into()),
//!     }
//! }
//! # }
//! ```
//!
//! # Who owns the service when something fails
//!
//! | what happens | what follows |
//! | --- | --- |
//! | the successor dies, gives up or is late before *ready* | the predecessor never stopped serving; [`Owner::StillUs`] |
//! | the predecessor dies before everything has arrived | the successor looks for it again, then starts cold |
//! | the predecessor dies after that, before *release* | the successor takes over with the snapshot |
//! | the successor dies after *release* | the predecessor takes the service back; [`Owner::UsAgain`] |
//! | the successor is silent after *release* | it is killed through its pidfd, then the service is taken back; where that is not allowed, the predecessor stays out |
//! | the successor dies while the predecessor drains | the predecessor takes the service back |
//! | the predecessor dies while it drains | the successor is unaffected |
//! | another successor connects | it is told `busy` |
//!
//! "Dead" is what the kernel says through a pidfd, not a guess from a closed connection.
//!
//! # State
//!
//! A [`State`] can go with the offer (the snapshot, taken while serving), with the release (what changed since), and
//! with the farewell (what the last connections changed). It travels in a sealed memfd, and is mapped where it
//! arrives as [`Received`].
//!
//! # Features
//!
//! - `tokio` (default): [`mod@tokio`]. Without it nothing links tokio.
//! - `bincode` (default): `State::serde`, `State::bincode` and their counterparts. Any other codec hands over bytes.
//! - `cli`: the command `handoff`, made of [`client`]. It adds nothing to the library.
//!
//! # SIGPIPE
//!
//! Nothing here raises it, even in a program that has set it back to its default action.

#[cfg(not(target_os = "linux"))]
compile_error!("fd-handoff needs Linux: it rests on SCM_RIGHTS, memfd, pidfd and SO_PEERCRED as Linux has them");

mod accept;
mod channel;
pub mod client;
mod config;
mod control_socket;
mod descriptor;
mod error;
mod generation;
mod giving;
mod history;
mod kernel;
mod listen;
#[doc(hidden)]
pub mod protocol;
mod receive;
mod reception;
mod service;
mod spawn;
mod state;
mod sys;
mod taking;
#[cfg(feature = "tokio")]
pub mod tokio;
#[doc(hidden)]
pub mod wire;

pub use accept::{Accepted, Acceptor, Connection, Counted, Listener};
pub use config::{Config, PeerPolicy, Timeouts};
pub use descriptor::Inheritable;
pub use error::{Error, Failure, Owner, PathProblem, Result, StateError};
pub use giving::Offer;
pub use listen::{Control, Ready, Released, Successor, handoff_listen};
pub use protocol::{Cause, Peer};
pub use receive::{Inheritance, handoff_receive};
pub use service::{Finish, Handle, Handoff, HandoffBuilder, SignalKind, Starting};
pub use spawn::Spawned;
pub use state::{Received, State};
pub use wire::{ErrorCode, Kind, Name, NameError};

/// The README's program, compiled.
#[cfg(all(doctest, feature = "tokio", feature = "bincode"))]
#[doc = include_str!("../README.md")]
struct Readme;
