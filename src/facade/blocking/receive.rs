//! The successor's side, blocking.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use crate::config::Config;
use crate::driver::generation::Generation;
use crate::driver::signals::Caught;
use crate::driver::taking::{Found, Inherited, Search, Transfer};
use crate::error::{Error, PathProblem, Result, StateError};
use crate::facade::blocking::listen::Control;
use crate::facade::form::{self, Blocking};
use crate::state::Received;
use crate::sys::event::wait_readable;

/// Begins to listen at a control socket for a service that inherits nothing: generation 1.
///
/// The socket is there when this returns, with mode 0600 unless the configuration says otherwise. A stale
/// socket is replaced.
///
/// # Errors
///
/// [`PathProblem::AlreadyRunning`] where a service listens there, and whatever else is wrong with the path.
pub fn handoff_listen(config: impl Into<Config>) -> Result<Control> {
    // Nothing but a cold start is left to a program that inherits nothing.
    let mut search = Search::new(config.into().cold_start(true));
    loop {
        match search.look()? {
            Found::Nobody(inherited) => return Inheritance::from(*inherited).ready(),
            Found::Service(transfer) => return Err(transfer.place_problem(PathProblem::AlreadyRunning)),
            Found::Starting(again) => wait_until(again),
        }
    }
}

/// Takes copies of everything from the service that runs at this control socket; where nobody runs there,
/// begins a cold start.
///
/// Returns when everything has arrived. The predecessor goes on serving until [`Inheritance::ready`].
///
/// # Errors
///
/// [`Error::Refused`] where the running service refuses (`busy`, `denied`, `version`), [`Error::Handoff`] where
/// what arrived is not what was announced, and whatever else is wrong with the path. A service that dies on the
/// way is looked for again; [`Error::PredecessorLost`] comes only where that is of no use.
pub fn handoff_receive(config: impl Into<Config>) -> Result<Inheritance> {
    let mut search = Search::new(config.into());
    loop {
        match search.look()? {
            Found::Nobody(inherited) => return Ok(Inheritance::from(*inherited)),
            Found::Starting(again) => wait_until(again),
            Found::Service(transfer) => match receive(*transfer) {
                Err(error) if search.may_look_again(&error) => {
                    tracing::warn!(event = "looking_again", %error, "looking for the service again");
                }
                done => return Ok(Inheritance::from(done?)),
            },
        }
    }
}

fn receive(mut transfer: Transfer) -> Result<Inherited> {
    loop {
        if let Some(arrived) = transfer.poll() {
            return Ok(transfer.finish(arrived?));
        }
        wait_readable(&[transfer.link().poller().as_fd()], transfer.link().deadline()).map_err(Error::io("wait"))?;
    }
}

/// What a new generation begins with: descriptors by name, and the snapshot. Empty on a cold start.
///
/// Dropping it gives the handoff up; the predecessor goes on serving. What does not wait is said once for both
/// forms, by [`form::Inheritance`]: what it takes and binds, and how to give up with a reason.
pub type Inheritance = form::Inheritance<Blocking>;

impl Inheritance {
    /// The snapshot, if there is one, as [`State::serde`](crate::State::serde) was given it.
    ///
    /// # Errors
    ///
    /// As [`Received::serde`]. On a cold start [`StateError::Unseen`], where no other schemas were named with
    /// [`Config::schemas`]: no later start could read the state.
    #[cfg(feature = "bincode")]
    pub fn state<T: serde::de::DeserializeOwned>(&self) -> Result<Option<T>, StateError> {
        self.check_shape::<T>()?;
        self.state_with(Received::serde)
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
        self.inherited.noted(self.received().map(decode).transpose())
    }

    /// Says that this process can serve, and waits until the predecessor has stopped accepting. When it
    /// returns, the service is this process's: accept.
    ///
    /// Descriptors that were not taken are closed, with a warning that names them.
    ///
    /// # Errors
    ///
    /// [`Error::Handoff`] where the predecessor gave up or was too slow: it still serves, and this process must
    /// not. [`Error::Unclaimed`] in strict mode.
    pub fn ready(self) -> Result<Control> {
        self.ready_with(None, |_| Ok(())).map(|(control, ())| control)
    }

    /// [`Inheritance::ready`], with what else is to be there before this process says that it is.
    pub(in crate::facade) fn ready_with<T>(
        self,
        signals: Option<Arc<Caught>>,
        acquire: impl FnOnce(&Arc<Generation>) -> Result<T>,
    ) -> Result<(Control, T)> {
        let (prepared, reception) = self.inherited.prepare(signals)?;
        let acquired = prepared.noted(acquire(prepared.generation()))?;
        // If the handoff fails, dropping it ends the background again.
        let control = prepared.noted(Control::begin(Arc::clone(prepared.generation()), reception))?;
        let mut readied = prepared.say_ready();
        loop {
            if let Some(takeover) = readied.poll() {
                readied.own(takeover?);
                return Ok((control, acquired));
            }
            if let Some(link) = readied.link() {
                let waited = wait_readable(&[link.poller().as_fd()], link.deadline());
                readied.noted(waited.map_err(Error::io("wait")))?;
            }
        }
    }
}

/// For a lock that another process holds.
fn wait_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}
