//! Which instances have served a service, one after the other: one that was superseded does not take it back by coming back.

use super::wire::{MAX_SUPERSEDED, Receive};

/// The instance that serves, and those that it has superseded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Lineage {
    instance: Option<String>,
    /// The oldest first.
    superseded: Vec<String>,
}

impl Lineage {
    /// As an offer says it.
    pub fn new(instance: Option<String>, superseded: Vec<String>) -> Lineage {
        Lineage { instance, superseded }
    }

    /// That of a service which a keeper has: it is nobody's instance.
    // M153
    #[must_use]
    pub fn kept(self) -> Lineage {
        self
    }

    /// That of a service which this instance has taken over. One without a name supersedes nobody, and is superseded by nobody.
    // M152
    #[must_use]
    pub fn taken_over_by(self, instance: Option<String>) -> Lineage {
        let Some(own) = instance else { return Lineage { instance: None, superseded: self.superseded } };
        let before = self.instance.into_iter();
        let mut superseded: Vec<String> = self.superseded.into_iter().chain(before).filter(|one| *one != own).collect();
        superseded.dedup();
        // The newest are kept: the oldest are least likely to come back.
        superseded.drain(..superseded.len().saturating_sub(MAX_SUPERSEDED));
        Lineage { instance: Some(own), superseded }
    }

    /// The instance that serves, or that has served last.
    pub fn instance(&self) -> Option<&str> {
        self.instance.as_deref()
    }

    /// Those that it has superseded.
    pub fn superseded(&self) -> &[String] {
        &self.superseded
    }
}

/// Whether a successor is an instance that was superseded, and does not say that it is to take the service all the same.
// M150
pub(super) fn comes_back(receive: &Receive, superseded: &[String]) -> bool {
    let instance = receive.instance.as_ref().filter(|_| !receive.take && !receive.standby);
    instance.is_some_and(|instance| superseded.contains(instance))
}
