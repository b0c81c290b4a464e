//! The connection to a predecessor that drains: its last words are heard, and it is told how this process ends.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use crate::core::record::micros;
use crate::core::wire::{Event, News};
use crate::core::{Successor, SuccessorCommand, SuccessorEvent};
use crate::driver::channel::Link;
use crate::driver::generation::{Generation, Word};
use crate::driver::giving::left;
use crate::sys::event::{Interest, Poller};

/// The predecessor, from the moment that the service is ours until it is gone.
#[derive(Debug)]
pub(super) struct Followed {
    generation: Arc<Generation>,
    poller: Arc<Poller>,
    link: Link<Successor<OwnedFd>>,
    since: Instant,
    said: Option<Word>,
}

impl Followed {
    pub(super) fn new(
        generation: Arc<Generation>,
        poller: Arc<Poller>,
        token: u64,
        link: Link<Successor<OwnedFd>>,
    ) -> Followed {
        // It is in the set since before the service was ours, so this does not fail.
        let _ = poller.change(link.poller().as_fd(), token, Interest::Read);
        Followed { generation, poller, link, since: Instant::now(), said: None }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.link.deadline()
    }

    // M82
    /// Says what is to be said, and hears what has come. Returns whether there is more to hear or to say.
    pub(super) fn step(&mut self, now: Instant) -> bool {
        self.speak();
        self.hear(now);
        !self.link.role.is_over() || !self.link.is_flushed()
    }

    fn speak(&mut self) {
        let word = self.generation.word_to_predecessor();
        if word == self.said {
            return;
        }
        self.said.clone_from(&word);
        match word {
            Some(Word::Settle(ending)) => self.link.command(SuccessorCommand::Settle(ending)),
            Some(Word::Relinquish(reason)) => self.link.command(SuccessorCommand::Relinquish(reason)),
            None => {}
        }
    }

    fn hear(&mut self, now: Instant) {
        let span = self.link.span.clone();
        let _entered = span.enter();
        while let Some(event) = self.link.step(now, &[]) {
            match event {
                SuccessorEvent::Draining(connections) => {
                    self.tell(News::Draining, Some(connections), left(connections));
                    self.generation.predecessor_drains(connections);
                }
                SuccessorEvent::Farewell(packet) => self.generation.keep_farewell(packet),
                SuccessorEvent::Departed(how) => {
                    let drained = now - self.since;
                    tracing::info!(event = "departed", ?how, drain_us = micros(drained), "the predecessor is gone");
                    self.tell(News::Farewell, None, "the predecessor is gone".to_owned());
                    self.generation.predecessor_departed(Some(drained));
                }
                // The transfer is behind us.
                _ => {}
            }
        }
    }

    fn tell(&self, event: News, connections: Option<u64>, message: String) {
        let (generation, pid) = (self.generation.number - 1, self.generation.predecessor_pid());
        self.generation.publish(Event {
            event,
            generation,
            pid,
            instance: None,
            elapsed_us: None,
            connections,
            message,
        });
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.poller.remove(self.link.poller().as_fd());
    }
}
