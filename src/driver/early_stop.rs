//! A process that is told to stop before it serves ends, and whoever serves meanwhile hears why.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;

use crate::core::wire::{Abort, ClientFrame, ErrorCode, FileId, Frame};
use crate::driver::place::Place;
use crate::driver::signals::Caught;
use crate::error::{Error, Result};
use crate::sys::event::{Signal, is_readable, wait_readable};
use crate::sys::socket;

/// Hears the signals that stop a service while its application initialises, which knows nothing of them: on a thread of its
/// own, which is gone when the service is this process's.
#[derive(Debug)]
pub(crate) struct EarlyStop {
    caught: Arc<Caught>,
    last_words: Arc<Mutex<LastWords>>,
    quit: Arc<Signal>,
}

/// What to leave behind.
#[derive(Debug, Default)]
pub(crate) struct LastWords {
    /// The connection to the predecessor.
    pub(crate) predecessor: Option<UnixStream>,
    /// The path of a control socket that nobody has connected to yet.
    pub(crate) path: Option<(PathBuf, FileId)>,
}

impl EarlyStop {
    pub(crate) fn begin(caught: Arc<Caught>) -> Result<EarlyStop> {
        let quit = Arc::new(Signal::new().map_err(Error::io("make an eventfd descriptor"))?);
        let early = EarlyStop { caught, last_words: Arc::default(), quit };
        if early.caught.can_stop() {
            let (caught, quit) = (Arc::clone(&early.caught), Arc::clone(&early.quit));
            let last_words = Arc::clone(&early.last_words);
            let thread = Builder::new().name("fd-handoff-start".to_owned());
            let thread = thread.spawn(move || listen(&caught, &quit, &last_words));
            thread.map_err(Error::io("start a thread that hears signals"))?;
        }
        Ok(early)
    }

    pub(crate) fn caught(&self) -> &Arc<Caught> {
        &self.caught
    }

    /// This process is about to say that it is ready, and may own the service any moment: from here on only its end counts,
    /// since the lock of the owner is free by then. A word that came before would be heard while it is held.
    pub(crate) fn is_ready(&self) {
        self.last_words.lock().unwrap_or_else(PoisonError::into_inner).predecessor = None;
    }

    pub(crate) fn leave_behind(&self, last_words: LastWords) {
        *self.last_words.lock().unwrap_or_else(PoisonError::into_inner) = last_words;
    }
}

impl Drop for EarlyStop {
    /// Nobody waits for the thread: the service is this process's, and clients wait. It looks at nothing else any more, and
    /// where it has just heard a signal, the process ends, and its predecessor takes the service back.
    fn drop(&mut self) {
        self.quit.raise();
    }
}

fn listen(caught: &Caught, quit: &Signal, last_words: &Mutex<LastWords>) {
    loop {
        if is_readable(quit.as_fd()) {
            return;
        }
        if caught.stop.came() {
            if is_readable(quit.as_fd()) {
                // The service has become this process's meanwhile, and whoever hears signals now is to hear it.
                return caught.stop.put_back();
            }
            tracing::info!(event = "stop", "told to stop before this process serves");
            last_words.lock().unwrap_or_else(PoisonError::into_inner).say();
            caught.end_process();
        }
        if wait_readable(&[caught.stop.as_fd(), quit.as_fd()], None).is_err() {
            // The kernel is out of memory: it is asked again.
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl LastWords {
    fn say(&self) {
        if let Some(predecessor) = &self.predecessor {
            let reason = "it was told to stop while it initialised".to_owned();
            let abort = ClientFrame::from(Abort { code: ErrorCode::Application, reason });
            // Where it does not get through, the end of this process says as much.
            let _ = socket::send(predecessor, &abort.to_line());
        }
        if let Some((path, ours)) = &self.path {
            let _ = Place::open(path).map(|place| place.remove(*ours));
        }
    }
}
