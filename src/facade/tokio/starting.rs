//! A service that initialises, on tokio.

use std::sync::Arc;

use super::handoff::{ENDING, Handoff, Idle};
use super::receive::handoff_receive;
use crate::config::Config;
use crate::driver::early_stop::EarlyStop;
use crate::driver::generation::Generation;
use crate::driver::signals::Caught;
use crate::driver::worker::Surround;
use crate::error::{Error, Result, StateError};
use crate::facade::HandoffBuilder;
use crate::facade::form::{self, Tokio};
use crate::facade::keeper::{self, Keeper};
use crate::facade::starting::Parts;
use crate::state::Received;

/// [`crate::Starting`] on tokio: a service that initialises. On an upgrade its predecessor serves meanwhile.
///
/// Dropping it gives the handoff up; the predecessor goes on serving. What does not wait is said once for both
/// forms, by [`form::Starting`]: what it takes and binds, and how to give up with a reason.
pub type Starting = form::Starting<Tokio>;

impl HandoffBuilder<Handoff> {
    /// [`crate::HandoffBuilder::start`] on tokio.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn start(self) -> Result<Starting> {
        let (config, how) = self.plan()?;
        let caught = Caught::new(&how.operation.stop_on, &how.operation.upgrade_on)?;
        let early = EarlyStop::begin(Arc::new(caught))?;
        match handoff_receive(config.clone()).await {
            Err(error) if keeper::is_superseded(&error) => Err(keep_for_ever(config, &error).await),
            received => Starting::begin(received?, how, early),
        }
    }
}

/// For as long as this is waited for, or until it cannot be.
async fn keep_for_ever(config: Config, superseded: &Error) -> Error {
    let (alive, ended) = ::tokio::sync::oneshot::channel::<()>();
    let running = match Keeper::instead_of(config, superseded).start_telling(|| drop(alive)) {
        Ok(running) => running,
        Err(error) => return error,
    };
    // It says that nobody is there any more to say something.
    let _ = ended.await;
    running.stop().err().unwrap_or(Error::Stopped)
}

impl Starting {
    /// [`crate::Starting::state`], decoded on a thread of its own.
    ///
    /// # Errors
    ///
    /// As there.
    #[cfg(feature = "bincode")]
    pub async fn state<T: serde::de::DeserializeOwned + Send + 'static>(&self) -> Result<Option<T>, StateError> {
        self.inheritance.state().await
    }

    /// [`crate::Starting::state_with`], decoded on a thread of its own.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn state_with<T: Send + 'static>(
        &self,
        decode: impl FnOnce(&Received) -> Result<T, StateError> + Send + 'static,
    ) -> Result<Option<T>, StateError> {
        self.inheritance.state_with(decode).await
    }

    /// [`crate::Starting::ready`] on tokio. Cancelling it gives the handoff up.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn ready(mut self) -> Result<Handoff> {
        self.keep_passed();
        let Starting { inheritance, handle, hooks, launch, announcer, drain, early } = self;
        early.is_ready();
        let parts = Parts { handle: handle.clone(), hooks, launch, announcer, drain };
        let steward = Starting::steward(parts, Some(within_runtime()), ENDING);
        let steward = |generation: &Arc<Generation>| Idle::new(steward(generation)?);
        let (control, mut idle) = inheritance.ready_with(Some(Arc::clone(early.caught())), steward).await?;
        drop(early);
        idle.steward.announce();
        Ok(Handoff::new(control, idle, handle))
    }
}

/// The application's hooks find the runtime, though they run on a thread that is none of its own.
fn within_runtime() -> Surround {
    let runtime = ::tokio::runtime::Handle::current();
    Arc::new(move |job| {
        let _within = runtime.enter();
        job();
    })
}
