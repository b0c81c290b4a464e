//! Clients that make requests all the time, and what a test of real processes says that went wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What went wrong, if anything.
pub(crate) type Check<T = ()> = Result<T, String>;

/// How long anything may take that has to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn require(holds: bool, message: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(message()) }
}

/// Waits until `look` finds something. For what can be seen and not be waited for.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Check<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("waited in vain until {what}"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Clients at work, each of which notes what became of its requests.
pub(crate) struct Clients<S> {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<S>>>,
}

impl<S: Send + 'static> Clients<S> {
    /// Each gets to know when it is to stop, and counts the answers.
    pub(crate) fn all<C>(clients: impl Iterator<Item = C>) -> Clients<S>
    where
        C: FnOnce(&AtomicBool, &AtomicU64) -> Vec<S> + Send + 'static,
    {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let start = |client: C| {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            std::thread::spawn(move || client(&stop, &answered))
        };
        Clients { clients: clients.map(start).collect(), stop, answered }
    }

    /// How many requests have been answered.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(SeqCst)
    }

    /// Waits until so many more requests have been answered.
    pub(crate) fn goes_on(&self, more: u64) -> Check {
        let goal = self.answered() + more;
        until("requests are answered", || (self.answered() >= goal).then_some(()))
    }

    pub(crate) fn stop(self) -> Vec<S> {
        self.stop.store(true, SeqCst);
        self.clients.into_iter().flat_map(|client| client.join().unwrap_or_default()).collect()
    }
}
