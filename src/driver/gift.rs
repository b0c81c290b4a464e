//! What an owner gives, to a successor or to a keeper.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::core::wire::{self, Entry, MAX_BATCH, MAX_DESCRIPTORS, MAX_UNACKNOWLEDGED, Name, Receive};
use crate::core::{Gift, Packet};
use crate::driver::descriptor::{Attachment, Shared, describe, entry};
use crate::driver::generation::Generation;
use crate::driver::place::Control;
use crate::error::{Error, Result};
use crate::sys::{limits, process};

/// How many descriptors may be in flight at once.
const IN_FLIGHT: usize = MAX_BATCH * MAX_UNACKNOWLEDGED as usize;

/// What is given to this successor: the application's descriptors and snapshot, and what belongs to the service itself.
// M55
pub(super) fn wrap(
    generation: &Generation,
    receive: &Receive,
    mut descriptors: VecDeque<(Arc<Entry>, Attachment)>,
    snapshot: Option<Packet<OwnedFd>>,
) -> Result<Gift<Attachment>> {
    let own = own_descriptors(generation)?;
    let count = descriptors.len() + own.len();
    if count > MAX_DESCRIPTORS {
        return Err(Error::TooManyDescriptors { count });
    }
    // What is in flight counts against the sender's limit as well; the kernel says so where it is too much (ETOOMANYREFS).
    limits::allow(count.min(IN_FLIGHT) as u64);
    own.into_iter().rev().for_each(|descriptor| descriptors.push_front(descriptor));
    Ok(Gift {
        offer: announcement(generation, receive),
        pidfd: process::own_pidfd().ok().map(Attachment::from),
        descriptors,
        snapshot: snapshot.map(attach),
    })
}

/// What is handed over besides the application's: the control listener, and what the owner of the service holds.
// M125
fn own_descriptors(generation: &Generation) -> Result<Vec<(Arc<Entry>, Attachment)>> {
    let control: Shared = Arc::new(ControlListener(generation.control()));
    let facts = describe(control.as_fd()).map_err(Error::io("examine the control socket"))?;
    let mut own = vec![(Arc::new(entry(Name::control(), 0, facts)), Attachment::Shared(control))];
    if let Some(arbiter) = &generation.arbiter {
        let owner = Attachment::Own(Arc::clone(arbiter.shared()));
        let facts = describe(arbiter.shared().as_fd()).map_err(Error::io("examine the lock of the owner"))?;
        own.push((Arc::new(entry(Name::owner(), 0, facts)), owner));
    }
    Ok(own)
}

// M151
fn announcement(generation: &Generation, receive: &Receive) -> wire::Offer {
    let timeouts = &generation.config.timeouts;
    wire::Offer {
        protocol: wire::PROTOCOL.negotiate(receive.protocol).unwrap_or(wire::PROTOCOL.max),
        generation: generation.number,
        pid: std::process::id(),
        pidfd: false,
        descriptors: 0,
        batches: 0,
        state: None,
        path: generation.control().path,
        ready_timeout_ms: millis(timeouts.ready),
        active_timeout_ms: millis(timeouts.active),
        drain_timeout_ms: millis(timeouts.drain),
        history: generation.history(),
        instance: generation.lineage.instance().map(str::to_owned),
        superseded: generation.lineage.superseded().to_vec(),
    }
}

/// The control listener, as it is offered.
struct ControlListener(Arc<Control>);

impl AsFd for ControlListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.listener.as_fd()
    }
}

pub(super) fn attach(packet: Packet<OwnedFd>) -> Packet<Attachment> {
    Packet { info: packet.info, memfd: packet.memfd.into() }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}
