//! Replace a running network service by a new process without refusing a connection, dropping a request or
//! losing an update of in-memory state.
//!
//! # The problem
//!
//! A service that is stopped and started refuses connections in between, and resets those that waited in the kernel's
//! queue. Two that listen side by side with SO_REUSEPORT still lose the queue of the one that closes. A child that
//! inherits sockets through `exec` has to be a child, and its parent cannot know whether it is going to work.
//!
//! Here the running process, the *predecessor*, listens on a control socket: a Unix socket at a path. The new one, the
//! *successor*, connects, receives copies of the listening sockets and the state, initialises while the predecessor goes
//! on serving, and says *ready*. The predecessor stops accepting and says *release*, with the last of its state; the
//! successor says *active*, and the predecessor drains and exits. Exactly one process accepts at every moment. What comes
//! in between waits in the kernel's queue.
//!
//! # A service
//!
//! [`tokio::Handoff`] is a whole service in a few lines, and [`Handoff`] is the same for threads:
//!
#![cfg_attr(feature = "tokio", doc = "```no_run")]
#![cfg_attr(not(feature = "tokio"), doc = "```ignore")]
//! use fd_handoff::{Finish, SignalKind, tokio::Handoff};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let mut starting = Handoff::builder("/run/app/handoff.sock")
//!         .upgrade_on(SignalKind::hangup())
//!         .stop_on(SignalKind::terminate())
//!         .start()                                                        // takes over, or starts cold
//!         .await?;
//!     let listener = starting.tcp_listener("echo", "0.0.0.0:7777".parse()?)?; // inherited by name, or bound
//!     // ... slow initialisation; the predecessor is serving ...
//!     let mut handoff = starting.ready().await?;                          // returns once the service is ours
//!     loop {
//!         let superseded = handoff.superseded();
//!         while let Some((mut stream, _)) = listener.accept().await? {    // `None` when superseded
//!             tokio::spawn(async move {
//!                 let (mut read, mut write) = stream.split();
//!                 tokio::io::copy(&mut read, &mut write).await
//!             });
//!         }
//!         superseded.await;
//!         if handoff.finish(handoff.handle().drained()).await? == Finish::Exit {
//!             return Ok(());                                              // replaced, or told to stop, and drained
//!         }                                                               // else: the successor was lost; accept again
//!     }
//! }
//! ```
//!
//! Start it. Put a new binary in its place, and send it SIGHUP, or just start it again: the new process takes over. What
//! it takes to be safe:
//!
//! - **The name finds the socket**, not the address. A new address needs a new name.
//! - **Sockets that are passed** by systemd or another activator (`LISTEN_FDS`) are taken by the ordinary calls, by their names,
//!   with the feature `systemd`.
//! - **A listener of your own**, made in another way, goes through [`Starting::listener_or_else`].
//! - **Accept with the [`Acceptor`]** that `tcp_listener` gives. It stops by itself, and counts connections, so the drain
//!   knows when the last one has ended. Whatever else takes in work is to end on [`Handle::is_superseded`];
//!   [`Starting::handle`] has one for tasks that are set up before `ready`.
//! - **Connections that are kept** belong to the process that accepted them. Tell the client that this is the last
//!   answer once `is_superseded`, with `Connection: close` in HTTP/1.1: otherwise they are cut at the drain deadline,
//!   and a request that is just on its way is lost.
//! - **What has one owner**, such as a lock on a file, is taken after `ready` has returned and given up before `finish`.
//! - **An error of `accept`** mostly concerns one connection, or passes (too many open files): a service that has to
//!   stay up waits a little and goes on, in the place of the `?`.
//! - **Install a `tracing` subscriber**, or a handoff that fails does so in silence: see [below](#observing-it).
//!
//! ## axum
//!
//! With the feature `axum`, the acceptor goes into `axum::serve`. [`tokio::Handoff::serve`] runs a server, and again
//! where the successor was lost:
//!
#![cfg_attr(feature = "axum", doc = "```no_run")]
#![cfg_attr(not(feature = "axum"), doc = "```ignore")]
//! use axum::middleware::map_response_with_state;
//! use fd_handoff::tokio::{Acceptor, Handoff, last_answer};
//!
//! # async fn serve(mut handoff: Handoff, listener: Acceptor<tokio::net::TcpListener>, app: axum::Router)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! let app = app.layer(map_response_with_state(handoff.handle(), last_answer));
//! let served = handoff.serve(|handle| {
//!     axum::serve(listener.clone(), app.clone()).with_graceful_shutdown(handle.drained())
//! });
//! served.await?.transpose()?;                                             // the server's own error is one of `main`
//! # Ok(())
//! # }
//! ```
//!
//! The examples `axum`, `tonic`, `actix` and `threads` are whole services of at most 80 lines.
//!
//! # The two calls
//!
//! The service above is made of two calls, which are there for programs with a life cycle of their own.
//! [`handoff_receive`] takes over from whoever runs at the control socket, or begins a cold start;
//! [`handoff_listen`] is for a program that never inherits. Both take a path or a [`Config`]. The same calls for
//! tokio are in [`tokio`][on-tokio]. They hear no signals and start no process; to stop, close the sockets and call
//! [`Control::close`].
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
//!     # fn stops() -> bool { false }
//!     if stops() {                                                              // whatever it is that says so
//!         drop(acceptor);                                                       // and those of the threads
//!         return Ok(control.close());                                           // stopped; without this, a crash
//!     }
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
//! | the predecessor's application panics, or is late, before *release*; or *release* cannot be sent | the handoff fails, and the predecessor serves; [`Owner::StillUs`] |
//! | the predecessor dies before everything has arrived | the successor looks for it again, then starts cold |
//! | the predecessor dies after that, before *release* | the successor takes over with the snapshot, once it is ready |
//! | the successor dies after *release* | the predecessor takes the service back; [`Owner::UsAgain`] |
//! | the successor is silent after *release* | it is killed through its pidfd, then the service is taken back; where that is not allowed, the predecessor stays out |
//! | the successor dies while the predecessor drains, or says that it cannot serve ([`Handoff::fail`]) | the predecessor takes the service back |
//! | its own handoff to a third process has failed before | the same |
//! | the owner dies, and several processes could take its place | the kernel chooses one of them, by a lock; the others do not serve |
//! | the predecessor dies while it drains | the successor is unaffected |
//! | the service is told to stop | nobody takes back: predecessors that drain close their listeners, so that a start finds every address free |
//! | another successor connects | it is told `busy` |
//!
//! "Dead" is what the kernel says through a pidfd, not a guess from a closed connection. [`Handoff`] acts on all of it:
//! what is left to the application is [`Finish::Resume`]. The deadlines are in [`Timeouts`]; that for the application's own
//! part is [`Timeouts::hook`].
//!
//! ## How a process ends
//!
//! A process has *stopped* if it was told to, or has called [`Handoff::finish`] or [`Control::close`]; it has *handed over* when
//! its successor serves. **Everything else is a crash**: an error that `main` returns, a `main` that just returns, a panic,
//! `exit`, a signal that nobody catches, a [`Handoff`] or [`Control`] that is dropped. Nobody is told anything then; whoever has
//! copies of the sockets takes the service, once the kernel says that this process is dead. So, in `main`:
//!
//! - **Return errors**, with `?`, at any place. Before `ready` has returned, the predecessor serves on, and its log has the
//!   error. After that, one that drains takes the service back; where there is none, nobody serves until whoever supervises the
//!   service starts it anew.
//! - **Say what is wrong with [`Handoff::fail`]** where this process finds that it cannot serve after all, such as with a final state
//!   that it cannot decode: a predecessor that drains hears the reason, and takes the service back at once.
//! - **Do not go on without a [`Handoff`].** It is what hears signals and successors; once it is dropped, this process accepts
//!   nothing, and should end.
//!
//! ## Signals
//!
//! Those that [`HandoffBuilder::stop_on`] and [`HandoffBuilder::upgrade_on`] name are caught from `start` on, also in a process 1,
//! and do what they do by default again after [`Finish::Exit`].
//!
//! | told to stop | then |
//! | --- | --- |
//! | a process that initialises | it ends; the predecessor hears why, and serves on. By [`Handle::stop`]: `ready` gives [`Error::Stopped`] |
//! | one that serves | it drains, and [`Handoff::finish`] gives [`Finish::Exit`] |
//! | one whose successor initialises | a successor that it has started is ended, and the upgrade cancelled; one that was started elsewhere takes over if it is ready within the drain time |
//! | one that drains | it goes on; told a second time, it ends now |
//!
//! # State
//!
//! A [`State`] has three chances. Ignore those that you do not need; with all three a counter is exact.
//!
//! | | given by | taken by |
//! | --- | --- | --- |
//! | the **snapshot**, while serving: make it large | [`Starting::on_offer`] | [`Starting::state`] |
//! | the **final state**, when nothing is accepted any more: what changed since | [`Starting::on_release`] | [`Handoff::final_state`] |
//! | the **farewell**, when the last connections have ended: what they changed | [`Starting::on_farewell`] | [`Handoff::absorb_farewells`] |
//!
//! It travels in a sealed memfd, and is mapped where it arrives as [`Received`]: it costs no second copy. Each is asked for on a
//! thread of its own; a final state that takes longer than [`Timeouts::hook`] fails the handoff, a farewell that does is lost.
//!
#![cfg_attr(feature = "bincode", doc = "```no_run")]
#![cfg_attr(not(feature = "bincode"), doc = "```ignore")]
//! use fd_handoff::{Config, Handoff, State};
//! use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
//!
//! static SERVED: AtomicU64 = AtomicU64::new(0);
//! static FAILED: AtomicU64 = AtomicU64::new(0);
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Counts {
//!     served: u64,
//!     failed: u64,
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::new("/run/app/handoff.sock").name("app").reads::<Counts>();
//! let mut starting = Handoff::builder(config).start()?;
//! if let Some(counts) = starting.state::<Counts>()? {                       // none on a cold start
//!     SERVED.store(counts.served, SeqCst);
//!     FAILED.store(counts.failed, SeqCst);
//! }
//! starting.on_offer(|| {
//!     State::serde(Counts { served: SERVED.load(SeqCst), failed: FAILED.load(SeqCst) })
//! });
//! # Ok(())
//! # }
//! ```
//!
//! ## When its type changes
//!
//! The codec writes the fields one after the other, without their names: where a new version has `failed` before `served`, it
//! would read each as the other. So `State::serde` sends a fingerprint of the type's shape along: the names and types of all that is
//! in it, and their order. Whoever reads it as a type of another shape gets [`StateError::Shape`]: while this process
//! initialises, the upgrade fails, and the predecessor serves on.
//!
//! - **Name the types that are read** with `Config::reads`. A final state comes when the service is this process's already: one of a type
//!   that is not named fails the handoff before anything is given up.
//! - **A new version reads the type of the last one, too**: it keeps that type, under its name (`#[serde(rename)]`), and tries it second.
//! - **Or number the shapes**, with [`State::schema`] and [`Config::schemas`], and ask [`Received::schema`] which it is: where a
//!   field is merely renamed, or a type hides its shape. `State::bincode` needs a number, since its traits show nothing.
//! - What a number means is no part of its shape: give a field another name when it means something else.
//!
//! # Another program at the same path
//!
//! A service that has a [name](Config::name) is taken over by no program that has another one, and the other way round: it is told
//! which one it has found, and the service goes on. [`Config::replaces`] is for a service that was renamed. Where nobody has chosen a
//! name, it is that of the program's file, and compared with nothing.
//!
//! # Operating it
//!
//! Any of these asks a running service for an upgrade, and is told how it ends:
//!
//! - a signal, if [`HandoffBuilder::upgrade_on`] names it (and the log tells);
//! - `handoff upgrade /run/app/handoff.sock`, the command that comes with the feature `cli`: also `status`, `watch`,
//!   `stop` and `check`;
//! - `socat - UNIX-CONNECT:/run/app/handoff.sock`, and the word `upgrade`: one may type `help`, `status`, `watch`, `stop`;
//! - the [`client`] module, for deployment tools, and [`Handle::upgrade`] in the service itself.
//!
//! The service then starts [its own program](HandoffBuilder::successor) anew. Or start the new process yourself, in
//! whatever way: it finds the service by the path. Under systemd and in containers this is all there is to do:
//!
//! - **systemd**: the feature `systemd`, and in the unit `Type=notify`, `RuntimeDirectory=app`,
//!   `ExecReload=handoff upgrade /run/app/handoff.sock` and `ExecStop=handoff stop /run/app/handoff.sock`, with the command's
//!   whole path. `systemctl reload` is an upgrade, which waits and fails as that does; the main process changes with it.
//! - **containers**: share one network namespace and mount the control socket's *directory* into both; start the new
//!   container, and the old one's process ends with 0 when it has drained. A process 1, or one that `tini` or its like runs
//!   (`docker run --init`), starts no successor, which would end with it: an upgrade that is asked for waits for the new
//!   container.
//!
//! The path and a lock file beside it are made by the service, in a directory that has to exist. The path goes when the
//! service stops; the lock file stays, and means nothing.
//!
//! # Observing it
//!
//! Events go to [`tracing`](https://docs.rs/tracing), each with a stable name in the field `event`, in one span for each
//! handoff. `tracing_subscriber::fmt::init()` at the top of `main` shows them. A new process that gives up says why: what the
//! last call of its [`Starting`] failed of, or what it gives to [`Starting::fail`]. `status` at the control socket has the
//! last attempts, with how long each step took: `pause_us` is the time in which nobody accepted. `docs/observability.md`
//! lists all of it.
//!
//! # Features
//!
//! - `tokio` (default): [`tokio`][on-tokio]. Without it nothing links tokio.
//! - `bincode` (default): `State::serde`, `State::bincode` and their counterparts. Any other codec hands over bytes.
//! - `axum`: [`tokio::Acceptor`] can be given to `axum::serve`.
//! - `systemd`: the service manager is told which process serves, how upgrades go and how long things take; see `sd_notify(3)`.
//!   Without `NOTIFY_SOCKET` in the environment it does nothing. And the sockets that it passes are taken by name; see
//!   `sd_listen_fds(3)`.
//! - `cli`: the command `handoff`, made of [`client`]: `cargo install --path . --features cli` in a checkout. It adds nothing
//!   to the library.
//!
//! # SIGPIPE
//!
//! Nothing here raises it, even in a program that has set it back to its default action.
//!
//! # Platform
//!
//! Linux, 5.3 or later, where a process's death is seen through a pidfd. From 6.5 on that is certain in any pid namespace
//! (`SO_PEERPIDFD`); before, a successor in another one cannot be ended from outside if it falls silent after *release*.
//! Rust 1.85 or later.
//!
#![cfg_attr(feature = "tokio", doc = "[on-tokio]: mod@tokio")]
// What a build without the feature does not have is named all the same, and leads to the list of features.
#![cfg_attr(not(feature = "tokio"), doc = "[on-tokio]: #features")]
#![cfg_attr(not(feature = "tokio"), doc = "[`tokio::Handoff`]: #features")]
#![cfg_attr(not(feature = "tokio"), doc = "[`tokio::Handoff::serve`]: #features")]
#![cfg_attr(not(feature = "tokio"), doc = "[`tokio::Acceptor`]: #features")]
#![cfg_attr(not(feature = "bincode"), doc = "[`Starting::state`]: #features")]
// Other pages name it, too; that their links lead somewhere is checked where every feature is there.
#![cfg_attr(not(all(feature = "tokio", feature = "bincode")), allow(rustdoc::broken_intra_doc_links))]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(target_os = "linux"))]
compile_error!("fd-handoff needs Linux: it rests on SCM_RIGHTS, memfd, pidfd and SO_PEERCRED as Linux has them");

pub mod client;
mod config;
// The model, the fuzzer and the tests step the very machines that run, and look at the frames.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod core;
#[cfg(not(feature = "internals"))]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "it is public to those who test it")]
mod core;
mod driver;
mod error;
mod facade;
mod kernel;
mod state;
mod sys;

pub use crate::core::wire::{ErrorCode, Kind, Name, NameError, WireError};
pub use crate::core::{Cause, Peer};
pub use config::{Config, PeerPolicy, Timeouts};
pub use driver::{Inheritable, Offer, SignalKind, Spawned};
pub use error::{Error, Failure, Owner, PathProblem, Result, StateError};
pub use facade::blocking::{
    Accepted, Acceptor, Connection, Control, Counted, Handle, Handoff, Inheritance, Listener, Ready, Released,
    Starting, Successor, handoff_listen, handoff_receive,
};
#[cfg(feature = "tokio")]
pub use facade::tokio;
pub use facade::{Finish, HandoffBuilder, Heartbeat, Keeper, KeeperEvent, KeptSince, RunningKeeper, form};
/// Whose `Socket` is given options by [`Starting::tcp_listener_with`] and its kin.
pub use socket2;
pub use state::{Received, State};

/// The README's program, compiled.
#[cfg(all(doctest, feature = "tokio", feature = "bincode"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// The programs of those who come from ecdysis, compiled.
#[cfg(all(doctest, feature = "tokio"))]
#[doc = include_str!("../docs/coming-from-ecdysis.md")]
struct ComingFromEcdysis;

/// The programs of those who come from shellflip, compiled.
#[cfg(all(doctest, feature = "tokio", feature = "bincode"))]
#[doc = include_str!("../docs/coming-from-shellflip.md")]
struct ComingFromShellflip;
