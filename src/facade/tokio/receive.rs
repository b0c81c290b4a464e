//! The successor's side on tokio.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::listen::Control;
use super::{Watched, off_runtime};
use crate::config::Config;
use crate::driver::channel::Link;
use crate::driver::generation::Generation;
use crate::driver::signals::Caught;
use crate::driver::taking::{Found, Inherited, Readied, Search, Transfer};
use crate::error::{Error, PathProblem, Result, StateError};
use crate::facade::form::{self, Tokio};
use crate::state::Received;
use crate::sys::event::Poller;

/// [`crate::handoff_listen`] on tokio.
///
/// # Errors
///
/// As there.
pub async fn handoff_listen(config: impl Into<Config>) -> Result<Control> {
    let mut search = Search::new(config.into().cold_start(true));
    loop {
        match search.look()? {
            Found::Nobody(inherited) => return Inheritance::from(*inherited).ready().await,
            Found::Service(transfer) => return Err(transfer.place_problem(PathProblem::AlreadyRunning)),
            Found::Starting(again) => ::tokio::time::sleep_until(again.into()).await,
        }
    }
}

/// [`crate::handoff_receive`] on tokio.
///
/// # Errors
///
/// As there.
pub async fn handoff_receive(config: impl Into<Config>) -> Result<Inheritance> {
    let mut search = Search::new(config.into());
    loop {
        match search.look()? {
            Found::Nobody(inherited) => return Ok(Inheritance::from(*inherited)),
            Found::Starting(again) => ::tokio::time::sleep_until(again.into()).await,
            Found::Service(transfer) => match receive(*transfer).await {
                Err(error) if search.may_look_again(&error) => {
                    tracing::warn!(event = "looking_again", %error, "looking for the service again");
                }
                done => return Ok(Inheritance::from(done?)),
            },
        }
    }
}

async fn receive(mut transfer: Transfer) -> Result<Inherited> {
    let poller = Watched::new(Arc::clone(transfer.link().poller()))?;
    loop {
        if let Some(arrived) = transfer.poll() {
            return Ok(transfer.finish(arrived?));
        }
        poller.wait(transfer.link().deadline()).await;
    }
}

/// [`crate::Inheritance`] on tokio: what a new generation begins with. Empty on a cold start.
///
/// Dropping it gives the handoff up; the predecessor goes on serving. What does not wait is said once for both
/// forms, by [`form::Inheritance`]: what it takes and binds, and how to give up with a reason.
pub type Inheritance = form::Inheritance<Tokio>;

impl Inheritance {
    /// [`crate::Inheritance::state`], decoded on a thread of its own.
    ///
    /// # Errors
    ///
    /// As there.
    #[cfg(feature = "bincode")]
    pub async fn state<T: serde::de::DeserializeOwned + Send + 'static>(&self) -> Result<Option<T>, StateError> {
        self.check_shape::<T>()?;
        self.state_with(Received::serde).await
    }

    /// [`crate::Inheritance::state_with`], decoded on a thread of its own.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn state_with<T: Send + 'static>(
        &self,
        decode: impl FnOnce(&Received) -> Result<T, StateError> + Send + 'static,
    ) -> Result<Option<T>, StateError> {
        let Some(state) = self.inherited.state().cloned() else { return Ok(None) };
        let decoded = off_runtime(StateError::Decode, move || decode(&state)).await;
        self.inherited.noted(decoded.map(Some))
    }

    /// [`crate::Inheritance::ready`] on tokio. Cancelling it gives the handoff up.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn ready(self) -> Result<Control> {
        self.ready_with(None, |_| Ok(())).await.map(|(control, ())| control)
    }

    /// [`Inheritance::ready`], with what else is to be there before this process says that it is.
    pub(super) async fn ready_with<T>(
        self,
        signals: Option<Arc<Caught>>,
        acquire: impl FnOnce(&Arc<Generation>) -> Result<T>,
    ) -> Result<(Control, T)> {
        let (prepared, reception) = self.inherited.prepare(signals)?;
        let acquired = prepared.noted(acquire(prepared.generation()))?;
        // If the handoff fails, dropping it ends the background again.
        let control = prepared.noted(Control::begin(Arc::clone(prepared.generation()), reception))?;
        let poller = prepared.noted(prepared.poller().map(Watched::new).transpose())?;
        TakingOver::begin(prepared.say_ready()).end(poller).await?;
        Ok((control, acquired))
    }
}

/// A process that is ready, until the service is its own. Dropped before that, it gives the handoff up.
struct TakingOver(Arc<Mutex<Option<Readied>>>);

impl TakingOver {
    fn begin(readied: Readied) -> TakingOver {
        TakingOver(Arc::new(Mutex::new(Some(readied))))
    }

    /// On a task, since nobody accepts meanwhile: the thread that hears of the release carries on at once, and need not wake
    /// the one that waits here.
    async fn end(self, poller: Option<Watched<Arc<Poller>>>) -> Result<()> {
        let Some(poller) = poller else { return TakingOver::step(&self.0).unwrap_or(Ok(())) };
        let shared = Arc::clone(&self.0);
        let task = ::tokio::spawn(async move {
            loop {
                if let Some(done) = TakingOver::step(&shared) {
                    return done;
                }
                poller.wait(TakingOver::deadline(&shared)).await;
            }
        });
        match task.await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime is on its way out.
                Err(_) => Err(Error::Closed),
            },
        }
    }

    /// Does all that can be done now. `Some`: this process owns the service, or it never will.
    fn step(shared: &Mutex<Option<Readied>>) -> Option<Result<()>> {
        // Locked to the end, so that whoever is dropped now has either given up before or owns the service.
        let mut slot = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut readied) = slot.take() else { return Some(Err(Error::Closed)) };
        match readied.poll() {
            Some(taken) => Some(taken.map(|takeover| readied.own(takeover))),
            None => {
                *slot = Some(readied);
                None
            }
        }
    }

    fn deadline(shared: &Mutex<Option<Readied>>) -> Option<Instant> {
        let readied = shared.lock().unwrap_or_else(PoisonError::into_inner);
        readied.as_ref().and_then(Readied::link).and_then(Link::deadline)
    }
}

impl Drop for TakingOver {
    fn drop(&mut self) {
        let given_up = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(given_up);
    }
}
