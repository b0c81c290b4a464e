//! A service that initialises, blocking.

use std::sync::Arc;

use crate::driver::steward::Steward;
use crate::error::{Result, StateError};
use crate::facade::HandoffBuilder;
use crate::facade::blocking::form::Term;
use crate::facade::blocking::handle::Handle;
use crate::facade::blocking::handoff::Handoff;
use crate::facade::blocking::receive::handoff_receive;
use crate::facade::form::{self, Blocking};
use crate::state::Received;

/// A service that initialises. On an upgrade its predecessor serves meanwhile.
///
/// Dropping it gives the handoff up; the predecessor goes on serving. What does not wait is said once for both
/// forms, by [`form::Starting`]: what it takes and binds, and how to give up with a reason.
pub type Starting = form::Starting<Blocking>;

impl HandoffBuilder<Handoff> {
    /// Takes over from the process that runs at the control socket, or begins a cold start.
    ///
    /// # Errors
    ///
    /// As [`handoff_receive`].
    pub fn start(self) -> Result<Starting> {
        let (config, how) = self.plan();
        Starting::begin(handoff_receive(config)?, how)
    }
}

impl Starting {
    /// The snapshot, if there is one, as [`State::serde`](crate::State::serde) was given it.
    ///
    /// # Errors
    ///
    /// As [`Received::serde`].
    #[cfg(feature = "bincode")]
    pub fn state<T: serde::de::DeserializeOwned>(&self) -> Result<Option<T>, StateError> {
        self.inheritance.state()
    }

    /// The snapshot, if there is one, as `decode` reads it.
    ///
    /// # Errors
    ///
    /// What `decode` says.
    pub fn state_with<T>(
        &self,
        decode: impl FnOnce(&Received) -> Result<T, StateError>,
    ) -> Result<Option<T>, StateError> {
        self.inheritance.state_with(decode)
    }

    /// Says that this process can serve, and waits until the service is its own: accept when it returns.
    ///
    /// The signals of the builder are caught from here on.
    ///
    /// # Errors
    ///
    /// As [`Inheritance::ready`](crate::Inheritance::ready).
    pub fn ready(self) -> Result<Handoff> {
        let Starting { inheritance, registry, connections, hooks, operation, announcer, drain } = self;
        let steward = inheritance.inherited.noted(Steward::prepare(operation))?;
        let control = inheritance.ready()?;
        let generation = Arc::clone(control.inner());
        let steward = steward.appoint(Arc::clone(&generation))?;
        announcer.serving();
        let handle = Handle { registry, connections, generation, term: Term::default() };
        Ok(Handoff { control: Some(control), steward, handle, hooks, announcer, drain, turn: None })
    }
}
