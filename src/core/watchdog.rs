//! When a service manager is to get a sign of life: from whoever serves, and only where one is wanted.

use std::time::{Duration, Instant};

/// How many times in the interval to look again whether a service lives that has just given no sign of it.
const AGAIN: u32 = 8;

/// The signs of life of one generation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Watchdog {
    /// How often; never where nobody waits for them.
    every: Option<Duration>,
    next: Option<Instant>,
}

impl Watchdog {
    /// One that gives a sign so often, once this process serves.
    pub fn new(every: Option<Duration>) -> Watchdog {
        Watchdog { every, next: None }
    }

    /// This process serves: the first sign is due at once, whenever the predecessor has given its last one.
    pub fn serves(&mut self, now: Instant) {
        self.next = self.every.map(|_| now);
    }

    /// Another process serves, and gives them.
    pub fn superseded(&mut self) {
        self.next = None;
    }

    /// When to look.
    pub fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Whether to look now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.next.is_some_and(|next| next <= now)
    }

    /// Whether the service was found alive, and a sign given. One that is late gives it as soon as it can, rather than an
    /// interval later.
    pub fn looked(&mut self, now: Instant, alive: bool) {
        self.next = self.every.map(|every| now + if alive { every } else { every / AGAIN });
    }
}
