//! What `status` says of the descriptors that a generation has named.

use crate::core::wire::{Entry, FdStatus, MAX_LINE};
use crate::driver::descriptor::status_of;

/// The descriptors that `status` names.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// As many as leave the status line within its limit.
    pub(super) shown: Vec<FdStatus>,
    /// How long they are on the line, at the most.
    length: usize,
    /// How many there are.
    pub(super) count: u64,
}

impl Named {
    /// Takes a name off the list, which stood for so many.
    pub(crate) fn remove(&mut self, name: &str, count: usize) {
        self.count = self.count.saturating_sub(count as u64);
        self.shown.retain(|shown| shown.name.as_str() != name);
    }

    pub(crate) fn add(&mut self, entry: &Entry) {
        // What a status line needs besides: a full history with the longest reasons is the most of it.
        const ROOM: usize = MAX_LINE / 2;

        self.count += 1;
        let length = 128 + 6 * (entry.name.as_str().len() + entry.addr.as_ref().map_or(0, String::len));
        // Once one does not fit, the list ends, rather than going on with shorter ones.
        self.length = (self.length + length).min(ROOM);
        if self.length < ROOM {
            self.shown.push(status_of(entry));
        }
    }
}
