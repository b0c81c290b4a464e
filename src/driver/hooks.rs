//! What an application gives of its state, and when.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::StateError;
use crate::state::{Received, State, caught};

/// Gives a state when it is asked for one.
#[derive(Clone, Default)]
pub(crate) struct Hook(Option<Arc<Mutex<Give>>>);

type Give = dyn FnMut() -> Option<State> + Send;

/// Takes a farewell of the predecessor.
#[derive(Clone)]
pub(crate) struct Absorb(Arc<Mutex<dyn FnMut(Received) + Send>>);

/// The three chances to hand over state, and what takes the predecessor's last one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hooks {
    pub(crate) snapshot: Hook,
    pub(crate) last: Hook,
    pub(crate) farewell: Hook,
    pub(crate) absorb: Option<Absorb>,
}

impl Hooks {
    /// Whether the application gives nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.snapshot.is_none() && self.last.is_none() && self.farewell.is_none()
    }
}

impl Absorb {
    pub(crate) fn new(absorb: impl FnMut(Received) + Send + 'static) -> Absorb {
        Absorb(Arc::new(Mutex::new(absorb)))
    }

    /// Gives the application one. Where it panics, the update is lost, and the service goes on.
    pub(crate) fn call(&self, farewell: Received) {
        let mut absorb = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(panic) = caught(|| absorb(farewell)) {
            tracing::error!(event = "farewell_lost", error = %panic, "a farewell is lost");
        }
    }
}

impl fmt::Debug for Absorb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Absorb")
    }
}

impl Hook {
    pub(crate) fn new<S: Into<Option<State>>>(mut give: impl FnMut() -> S + Send + 'static) -> Hook {
        Hook(Some(Arc::new(Mutex::new(move || give().into()))))
    }

    /// Whether the application has nothing to give.
    pub(crate) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Asks the application.
    ///
    /// # Errors
    ///
    /// [`StateError::Encode`] where it panicked.
    pub(crate) fn call(&self) -> Result<Option<State>, StateError> {
        let Some(give) = &self.0 else { return Ok(None) };
        let mut give = give.lock().unwrap_or_else(PoisonError::into_inner);
        caught(&mut *give).map_err(|panic| StateError::Encode(panic.into()))
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Some" } else { "None" })
    }
}
