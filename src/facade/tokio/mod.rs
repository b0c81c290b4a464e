//! [`Handoff`], a service in a few lines, and the two calls under it, for programs that run on tokio.
//!
//! Everything that decides is shared with the blocking form; what differs is how one waits. The control
//! socket is served by a task instead of a thread, and states are encoded and decoded on a thread of
//! their own.

mod accept;
#[cfg(feature = "axum")]
mod axum;
pub(super) mod form;
mod handle;
mod handoff;
mod listen;
mod receive;
mod starting;

use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;
use ::tokio::runtime::Handle as Runtime;
use ::tokio::sync::oneshot;

#[cfg(feature = "axum")]
pub use self::axum::last_answer;
pub use accept::{Accepted, Acceptor, Connection, Counted, Incoming, Listener};
pub use handle::Handle;
pub use handoff::Handoff;
pub use listen::{Control, Ready, Released, Successor};
pub use receive::{Inheritance, handoff_listen, handoff_receive};
pub use starting::Starting;

use crate::core::Packet;
use crate::error::{Error, Result, StateError};
use crate::state::{Received, State, caught};
use crate::sys::event::is_readable;

/// Decodes a large state on a thread of its own.
///
/// # Errors
///
/// What `codec` says.
pub async fn decode<T: Send + 'static>(
    state: Received,
    codec: impl FnOnce(&Received) -> Result<T, StateError> + Send + 'static,
) -> Result<T, StateError> {
    off_runtime(StateError::Decode, move || codec(&state)).await
}

/// A descriptor that one can wait for.
#[derive(Debug)]
struct Watched<T: AsFd + AsRawFd>(AsyncFd<T>);

impl<T: AsFd + AsRawFd> Watched<T> {
    // Deprecated in tokio 1.54 because a T might change or close its descriptor; none of ours can. Its
    // successor would ask every user for that tokio.
    #[allow(deprecated)]
    fn new(fd: T) -> Result<Watched<T>> {
        AsyncFd::with_interest(fd, Interest::READABLE).map(Watched).map_err(Error::io("watch a descriptor with tokio"))
    }

    /// Waits until the descriptor is readable, or the deadline has passed. Callers try first and wait then:
    /// what happens in between is not missed.
    async fn wait(&self, deadline: Option<Instant>) {
        // tokio hears of a change once. What is left from before (a connection is read from once a turn, so
        // that none starves the others) is no change.
        if is_readable(self.0.get_ref().as_fd()) {
            return ::tokio::task::yield_now().await;
        }
        let readable = async {
            // It fails only when the runtime shuts down, and then nobody waits any more.
            while let Ok(mut guard) = self.0.readable().await {
                guard.clear_ready();
                // It may have heard of what was taken meanwhile.
                if is_readable(self.0.get_ref().as_fd()) {
                    break;
                }
            }
        };
        match deadline {
            None => readable.await,
            Some(deadline) => {
                let _ = ::tokio::time::timeout_at(deadline.into(), readable).await;
            }
        }
    }
}

/// Encodes a state where it may take its time.
async fn seal(state: Option<State>) -> Result<Option<Packet<std::os::fd::OwnedFd>>, StateError> {
    let Some(state) = state else { return Ok(None) };
    off_runtime(StateError::Encode, move || state.seal()).await.map(Some)
}

/// Runs a codec on a thread of its own: tokio's own threads for blocking work panic where the system has none to give. A
/// panic in it is an error of the state, not of the service.
async fn off_runtime<T: Send + 'static>(
    panicked: fn(Box<dyn std::error::Error + Send + Sync>) -> StateError,
    codec: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, StateError> {
    let (give, given) = oneshot::channel();
    let runtime = Runtime::current();
    let run = move || {
        let _within = runtime.enter();
        // Whoever asked may have gone.
        let _ = give.send(caught(codec));
    };
    std::thread::Builder::new()
        .name("fd-handoff-state".to_owned())
        .spawn(run)
        .map_err(StateError::io("start a thread"))?;
    match given.await {
        Ok(Ok(done)) => done,
        Ok(Err(panic)) => Err(panicked(panic.into())),
        // It gives whatever happens.
        Err(gone) => Err(panicked(Box::new(gone))),
    }
}
