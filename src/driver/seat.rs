//! Where handles find the generation that this process is about to be: they are there before it is.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::core::wire::{Attempt, Entry, ErrorCode};
use crate::core::{Lifecycle, Packet};
use crate::driver::generation::Generation;
use crate::error::{Error, Result};

/// The place of a generation. What is said before it is taken is kept for it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seat(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    generation: OnceLock<Arc<Generation>>,
    early: Mutex<Early>,
}

/// What was said before there was a generation.
#[derive(Debug, Default)]
struct Early {
    /// The start is to end.
    stop: bool,
    renamed: Vec<Renamed>,
    checkpoint: Option<Packet<OwnedFd>>,
}

#[derive(Debug)]
struct Renamed {
    name: String,
    others: usize,
    entries: Vec<Entry>,
}

impl Seat {
    fn early(&self) -> MutexGuard<'_, Early> {
        self.0.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The generation takes its place, and what was said before is said to it.
    ///
    /// # Errors
    ///
    /// [`Error::Stopped`] where there is to be none.
    pub(crate) fn take(&self, generation: &Arc<Generation>) -> Result<()> {
        let mut early = self.early();
        if early.stop {
            return Err(Error::Stopped);
        }
        for Renamed { name, others, entries } in early.renamed.drain(..) {
            generation.rename(&name, others, &entries);
        }
        early.checkpoint.take().into_iter().for_each(|packet| generation.checkpoint(packet));
        // Nobody else takes it.
        self.0.generation.get_or_init(|| Arc::clone(generation));
        Ok(())
    }

    /// [`Generation::ask_stop`]; before there is a generation, there will be none.
    pub(crate) fn ask_stop(&self) {
        let mut early = self.early();
        match self.0.generation.get() {
            Some(generation) => {
                drop(early);
                generation.ask_stop();
            }
            None => early.stop = true,
        }
    }

    /// [`Generation::call_upgrade`].
    pub(crate) fn call_upgrade(&self, tell: Box<dyn FnOnce(Attempt) + Send>) -> Result<()> {
        match self.0.generation.get() {
            Some(generation) => generation.call_upgrade(tell),
            None => Err(Error::Refused { code: ErrorCode::Busy, message: Lifecycle::NOT_YET.to_owned() }),
        }
    }

    /// [`Generation::checkpoint`].
    pub(crate) fn checkpoint(&self, packet: Packet<OwnedFd>) {
        let mut early = self.early();
        match self.0.generation.get() {
            Some(generation) => {
                drop(early);
                generation.checkpoint(packet);
            }
            None => early.checkpoint = Some(packet),
        }
    }

    /// [`Generation::rename`].
    pub(crate) fn rename(&self, name: &str, others: usize, entries: Vec<Entry>) {
        let mut early = self.early();
        match self.0.generation.get() {
            Some(generation) => {
                drop(early);
                generation.rename(name, others, &entries);
            }
            None => early.renamed.push(Renamed { name: name.to_owned(), others, entries }),
        }
    }
}
