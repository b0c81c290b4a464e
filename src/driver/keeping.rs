//! The owner's side of a keeper: a process that has copies of everything, for the case that this one ends.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use crate::core::wire::{Entry, ErrorCode, Receive};
use crate::core::{Cause, Packet, Predecessor, PredecessorCommand as Command, PredecessorEvent as Event};
use crate::driver::channel::Link;
use crate::driver::descriptor::Attachment;
use crate::driver::generation::{Arrival, Generation};
use crate::driver::{gift, giving};
use crate::error::Result;
use crate::sys::event::Poller;

/// One keeper, from its `receive` until it is gone, or until the service is given up to it.
#[derive(Debug)]
pub(crate) struct Keeping {
    pub(super) generation: Arc<Generation>,
    pub(super) link: Link<Predecessor<Attachment>>,
    pub(super) receive: Receive,
    began: Instant,
    offered: bool,
    holds: bool,
}

impl Keeping {
    pub(crate) fn new(generation: Arc<Generation>, arrival: Arrival) -> Result<Keeping> {
        let Arrival { channel, receive, pidfd, began, .. } = arrival;
        let mut link = giving::link_to(&generation, &receive, channel, pidfd, "watch a keeper")?;
        link.span = tracing::error_span!(
            "keeper",
            generation = generation.number,
            owner = std::process::id(),
            keeper = receive.pid
        );
        Ok(Keeping { generation, link, receive, began, offered: false, holds: false })
    }

    pub(crate) fn poller(&self) -> &Arc<Poller> {
        self.link.poller()
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.link.deadline()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.receive.pid
    }

    /// Whether it is to be given everything.
    pub(crate) fn awaits_offer(&self) -> bool {
        !self.offered
    }

    /// Whether it has everything.
    pub(crate) fn holds(&self) -> bool {
        self.holds
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Gives it everything.
    pub(crate) fn offer(
        &mut self,
        descriptors: VecDeque<(Arc<Entry>, Attachment)>,
        snapshot: Option<Packet<OwnedFd>>,
    ) -> Result<()> {
        self.offered = true;
        let gift = gift::wrap(&self.generation, &self.receive, descriptors, snapshot)?;
        self.link.command(Command::Offer(Box::new(gift)));
        Ok(())
    }

    /// Gives it a newer snapshot.
    pub(crate) fn checkpoint(&mut self, snapshot: Packet<OwnedFd>) {
        self.link.command(Command::Checkpoint(gift::attach(snapshot)));
    }

    /// What it has is not what is served any more: it is to ask again.
    pub(crate) fn renew(mut self) {
        self.link.command(Command::Renew);
        while self.link.step(Instant::now(), &[]).is_some() {}
    }

    pub(crate) fn give_up(mut self, reason: &str) {
        self.link.command(Command::Abort(ErrorCode::Application, reason.to_owned()));
        while self.link.step(Instant::now(), &[]).is_some() {}
    }

    /// Does all that can be done now. `Some`: there is no keeper any more, and why.
    pub(crate) fn poll(&mut self) -> Option<Cause> {
        while let Some(event) = self.link.step(Instant::now(), &[]) {
            match event {
                Event::Ready => {
                    self.holds = true;
                    self.generation.keeper_holds(self.receive.pid);
                }
                Event::Failed(cause) => return Some(cause),
                // What else there is comes after a release.
                _ => {}
            }
        }
        None
    }
}
