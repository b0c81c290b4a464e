//! Looking for the running service.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::{Inherited, Transfer};
use crate::config::Config;
use crate::driver::place::Place;
use crate::error::{Error, PathProblem, Result};
use crate::sys::{file, process, socket};

/// How many times to look for the service again when the one that was found is lost on the way.
const ATTEMPTS: u32 = 3;

/// How soon to look again for a service whose process is about to end.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Looks for the running service, and finds it or the right to be the first.
#[derive(Debug)]
pub(crate) struct Search {
    config: Config,
    began: Instant,
    attempts: u32,
    /// The process that had the service when it was last found.
    found: Option<OwnedFd>,
}

/// What a look found.
#[derive(Debug)]
pub(crate) enum Found {
    /// A service runs here.
    Service(Box<Transfer>),
    /// Nobody does, and nobody else can begin to while the lock is held.
    Nobody(Box<Inherited>),
    /// Another process is starting; look again at this moment.
    Starting(Instant),
}

impl Search {
    pub(crate) fn new(config: Config) -> Search {
        Search { config, began: Instant::now(), attempts: 0, found: None }
    }

    // M1, M3
    pub(crate) fn look(&mut self) -> Result<Found> {
        // Before anybody depends on it, also where nobody is there.
        self.config.fingerprints()?;
        let place = Place::open(&self.config.path)?;
        let before = place.look()?;
        if let Some(stream) = place.connect()? {
            self.attempts += 1;
            self.found = other_process(&stream);
            let found_at = place.look()?.filter(|found| before == Some(*found));
            let transfer = Transfer::begin(self.config.clone(), place, found_at, stream.into())?;
            return Ok(Found::Service(Box::new(transfer)));
        }
        // Nobody answers for it any more, and it still has every address: it is about to end.
        let lingers = self.found.as_ref().is_some_and(|pidfd| !process::is_dead(pidfd.as_fd()));
        if lingers && self.began.elapsed() < self.config.timeouts.lock {
            return Ok(Found::Starting(Instant::now() + LOOK_AGAIN));
        }
        if !self.config.cold_start {
            return Err(place.problem(PathProblem::NobodyThere));
        }
        let Some(lock) = place.try_lock()? else {
            return Ok(Found::Starting(place.retry_lock_at(self.began, self.config.timeouts.lock)?));
        };
        // Somebody may have started between the look and the lock.
        if place.connect()?.is_some() {
            drop(lock);
            return self.look();
        }
        let listener = place.bind(self.config.mode)?;
        // No release, one day, is to wait for it.
        file::time_namespace();
        Ok(Found::Nobody(Box::new(Inherited::nothing(self.config.clone(), place, listener, lock))))
    }

    /// Whether a failed transfer is a reason to look again: the service died on the way, and by now there may
    /// be another one, or nobody.
    pub(crate) fn may_look_again(&self, error: &Error) -> bool {
        matches!(error, Error::PredecessorLost(_)) && self.config.cold_start && self.attempts < ATTEMPTS
    }
}

/// The process at the other end, if it is another one.
fn other_process(stream: &std::os::unix::net::UnixStream) -> Option<OwnedFd> {
    let peer = socket::peer_credentials(stream).ok()?;
    let is_other = u32::try_from(peer.pid()).ok() != Some(std::process::id());
    is_other.then(|| socket::peer_pidfd(stream).ok()).flatten()
}
