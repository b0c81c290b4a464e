//! A thread that the application's own code runs on, so that nothing else waits for it.

use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;

use crate::sys::event::Signal;

type Job = Box<dyn FnOnce() + Send>;

/// What surrounds a job: the tokio form's runtime is to be found from within.
pub(crate) type Surround = Arc<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

/// One thread, which is there before it is needed. It ends when this is dropped, and the last job has returned.
#[derive(Debug)]
pub(crate) struct Worker {
    jobs: Sender<Job>,
    done: Arc<Signal>,
}

/// What a job will give.
#[derive(Debug)]
pub(crate) struct Pending<T>(Arc<Mutex<Option<T>>>);

impl Worker {
    /// # Errors
    ///
    /// There is no thread to be had: RLIMIT_NPROC, `TasksMax=` of a unit, no memory for its stack.
    pub(crate) fn start(done: &Arc<Signal>, surround: Option<Surround>) -> io::Result<Worker> {
        let (jobs, queue) = channel::<Job>();
        Builder::new().name("fd-handoff-hook".to_owned()).spawn(move || {
            for job in queue {
                let mut job = Some(job);
                let mut run = || job.take().into_iter().for_each(|job| job());
                match &surround {
                    Some(surround) => surround(&mut run),
                    None => run(),
                }
            }
        })?;
        Ok(Worker { jobs, done: Arc::clone(done) })
    }

    /// Runs this after what was asked for before. `done` is raised when it has returned.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Pending<T> {
        let given = Arc::new(Mutex::new(None));
        let (give, done) = (Arc::clone(&given), Arc::clone(&self.done));
        // The thread lives as long as this does, and whoever asked may have gone.
        let _ = self.jobs.send(Box::new(move || {
            let it = job();
            *give.lock().unwrap_or_else(PoisonError::into_inner) = Some(it);
            done.raise();
        }));
        Pending(given)
    }
}

impl<T> Pending<T> {
    /// What it gave, if it has.
    pub(crate) fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
