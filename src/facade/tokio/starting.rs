//! A service that initialises, on tokio.

use std::sync::Arc;

use super::form::{Terms, Tokio};
use super::handle::Handle;
use super::handoff::{Handoff, Stewarding};
use super::receive::handoff_receive;
use crate::driver::steward::Steward;
use crate::error::{Result, StateError};
use crate::facade::{HandoffBuilder, form};
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
        let (config, how) = self.plan();
        Starting::begin(handoff_receive(config).await?, how)
    }
}

impl Starting {
    /// [`crate::Starting::state`], decoded on a thread for blocking work.
    ///
    /// # Errors
    ///
    /// As there.
    #[cfg(feature = "bincode")]
    pub async fn state<T: serde::de::DeserializeOwned + Send + 'static>(&self) -> Result<Option<T>, StateError> {
        self.inheritance.state().await
    }

    /// [`crate::Starting::state_with`], decoded on a thread for blocking work.
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
    pub async fn ready(self) -> Result<Handoff> {
        let Starting { inheritance, registry, connections, hooks, operation, announcer, drain } = self;
        let steward = inheritance.inherited.noted(Steward::prepare(operation))?;
        let control = inheritance.ready().await?;
        let generation = Arc::clone(control.inner());
        let steward = Some(Stewarding::Idle(steward.appoint(Arc::clone(&generation))?));
        announcer.serving();
        let handle = Handle { registry, connections, generation, term: Terms::default() };
        Ok(Handoff { control: Some(control), steward, handle, hooks, announcer, drain })
    }
}
