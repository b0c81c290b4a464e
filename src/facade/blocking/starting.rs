//! A service that initialises, blocking.

use std::sync::Arc;
use std::time::Duration;

use crate::driver::early_stop::EarlyStop;
use crate::driver::signals::Caught;
use crate::error::{Result, StateError};
use crate::facade::HandoffBuilder;
use crate::facade::blocking::handoff::Handoff;
use crate::facade::blocking::receive::handoff_receive;
use crate::facade::form::{self, Blocking};
use crate::facade::keeper::{self, Keeper};
use crate::facade::starting::Parts;
use crate::state::Received;

/// A service that initialises. On an upgrade its predecessor serves meanwhile.
///
/// Dropping it gives the handoff up; the predecessor goes on serving. What does not wait is said once for both
/// forms, by [`form::Starting`]: what it takes and binds, and how to give up with a reason.
pub type Starting = form::Starting<Blocking>;

impl HandoffBuilder<Handoff> {
    /// Takes over from the process that runs at the control socket, or begins a cold start.
    ///
    /// An instance that another one has superseded ([`Config::instance`](crate::Config::instance)) does not come back: it waits here as a
    /// [`Keeper`](crate::Keeper), until this process ends.
    ///
    /// # Errors
    ///
    /// As [`handoff_receive`].
    pub fn start(self) -> Result<Starting> {
        let (config, how) = self.plan()?;
        let caught = Caught::new(&how.operation.stop_on, &how.operation.upgrade_on)?;
        let early = EarlyStop::begin(Arc::new(caught))?;
        match handoff_receive(config.clone()) {
            Err(error) if keeper::is_superseded(&error) => Err(Keeper::instead_of(config, &error).for_ever()),
            received => Starting::begin(received?, how, early),
        }
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

    /// Says that this process can serve, and waits until the service is its own: accept when it returns. All that can
    /// fail is done before it says so.
    ///
    /// # Errors
    ///
    /// As [`Inheritance::ready`](crate::Inheritance::ready), and [`Error::Stopped`](crate::Error::Stopped) where
    /// [`Handle::stop`](crate::form::Handle::stop) was called before this process served.
    pub fn ready(mut self) -> Result<Handoff> {
        self.keep_passed();
        let Starting { inheritance, handle, hooks, launch, announcer, drain, early } = self;
        early.is_ready();
        let parts = Parts { handle: handle.clone(), hooks, launch, announcer, drain };
        // Nobody can tell a thread that blocks to end its connection.
        let steward = Starting::steward(parts, None, Duration::ZERO);
        let (control, mut steward) = inheritance.ready_with(Some(Arc::clone(early.caught())), steward)?;
        drop(early);
        steward.announce();
        let generation = Arc::clone(control.inner());
        Ok(Handoff { control: Some(control), generation, steward, handle, superseded: false })
    }
}
