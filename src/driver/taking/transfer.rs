//! A transfer: what the predecessor gives, and the check of it.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tracing::field::Empty;

use super::Inherited;
use super::inherited::{Claim, Source};
use crate::config::Config;
use crate::core::wire::{self, FileId, PROTOCOL, Receive};
use crate::core::{Cause, Packet, Successor, SuccessorCommand as Command, SuccessorEvent as Event};
use crate::driver::arbiter::{Arbiter, or_none};
use crate::driver::channel::{Channel, Link};
use crate::driver::descriptor::{Unclaimed, check};
use crate::driver::laps::Laps;
use crate::driver::named::Named;
use crate::driver::place::Place;
use crate::error::{Error, PathProblem, Result};
use crate::state::Received;
use crate::sys::{file, limits, socket};

/// A transfer under way: everything is still on its way here.
#[derive(Debug)]
pub(crate) struct Transfer {
    link: Link<Successor<OwnedFd>>,
    /// What has come; it is whole when the transfer is.
    parts: Option<Parts>,
    /// Our own finding that made us give up, more exact than the cause that the peer hears.
    error: Option<Error>,
}

#[derive(Debug)]
struct Parts {
    config: Config,
    place: Place,
    found_at: Option<FileId>,
    began: Instant,
    /// Our own network namespace, where sockets of another one are to be refused.
    netns: Option<u64>,
    offer: Option<Box<wire::Offer>>,
    /// The service's name, where somebody has chosen it, and its version.
    service: Option<(Option<String>, String)>,
    unclaimed: Unclaimed,
}

impl Transfer {
    // M29
    pub(super) fn begin(config: Config, place: Place, found_at: Option<FileId>, stream: OwnedFd) -> Result<Transfer> {
        let stream = std::os::unix::net::UnixStream::from(stream);
        let peer = socket::peer_credentials(&stream).map_err(Error::io("read the service's credentials"))?;
        config.peers.check(&peer)?;
        let netns = socket::netns_cookie(stream.as_fd()).ok().filter(|_| !config.foreign_netns);
        let channel = Channel::new(stream, true).map_err(Error::io("set up the control connection"))?;
        let receive = Receive {
            protocol: PROTOCOL,
            pid: std::process::id(),
            version: wire::shorten(&config.version, wire::MAX_TEXT),
            schemas: config.schemas.clone(),
            fingerprints: config.fingerprints()?,
            services: config.services(),
            standby: config.standby,
            // A keeper is nobody's instance.
            instance: config.own_instance().filter(|_| !config.standby),
            take: config.takes(),
        };
        let instance = receive.instance.clone();
        let began = Instant::now();
        let role = Successor::new(receive, config.timeouts.waits(), began);
        let mut link = Link::new(role, channel, None).map_err(Error::io("watch the control connection"))?;
        link.span = tracing::error_span!(
            "handoff",
            role = "successor",
            generation = Empty,
            predecessor = Empty,
            successor = std::process::id(),
            instance
        );
        let parts = Parts {
            config,
            place,
            found_at,
            began,
            netns,
            offer: None,
            service: None,
            unclaimed: Unclaimed::default(),
        };
        Ok(Transfer { link, parts: Some(parts), error: None })
    }

    pub(crate) fn link(&self) -> &Link<Successor<OwnedFd>> {
        &self.link
    }

    pub(crate) fn place_problem(&self, problem: PathProblem) -> Error {
        // The parts are whole until the transfer is, which it cannot be before the first poll.
        self.parts.as_ref().map_or(Error::Closed, |parts| parts.place.problem(problem))
    }

    /// Does all that can be done now. `Some`: the transfer is over, one way or the other.
    pub(crate) fn poll(&mut self) -> Option<Result<Arrived>> {
        let span = self.link.span.clone();
        let _entered = span.enter();
        while let Some(event) = self.link.step(Instant::now(), &[]) {
            // What was on its way here before we gave up, a complete transfer above all, counts no more.
            if self.error.is_some() && !matches!(event, Event::Failed(_)) {
                continue;
            }
            match self.note(event) {
                Ok(None) => {}
                Ok(Some(arrived)) => return Some(Ok(arrived)),
                Err(error) => {
                    // The peer hears the reason before the connection closes.
                    self.link.command(Command::Abort(Cause::Mismatch(error.to_string())));
                    self.error.get_or_insert(error);
                }
            }
        }
        // The answer is on its way. It will be needed when nobody accepts, and then it is here.
        file::time_namespace();
        // An error that the role has no event for (it was over already) still ends the transfer.
        if self.parts.is_none() { self.error.take().map(Err) } else { None }
    }

    // M56, M59
    fn note(&mut self, event: Event<OwnedFd>) -> Result<Option<Arrived>> {
        let Some(parts) = &mut self.parts else { return Ok(None) };
        match event {
            Event::Hello(hello) => {
                let span = &self.link.span;
                span.record("predecessor", hello.pid).record("generation", hello.generation.saturating_add(1));
                tracing::info!(event = "found", version = hello.version, "found the running service");
                parts.service = Some(((hello.named != Some(false)).then_some(hello.name), hello.version));
            }
            Event::Offered(offer, pidfd) => {
                let descriptors = offer.descriptors as usize;
                limits::make_room(offer.descriptors.into())
                    .map_err(|limits::TooFewFiles { needed, hard }| Error::TooFewFiles { needed, hard })?;
                drop(limits::widen_table(offer.descriptors.into(), offer.descriptors.into()));
                parts.unclaimed.reserve(descriptors);
                if let Some(pidfd) = pidfd {
                    self.link.watch(pidfd).map_err(Error::io("watch the predecessor"))?;
                }
                parts.offer = Some(offer);
            }
            Event::Batch(batch) => {
                for (entry, fd) in &batch {
                    check(entry, fd.as_fd(), parts.netns)
                        .map_err(|mismatch| Error::Handoff(Cause::Mismatch(mismatch.to_string())))?;
                }
                parts.unclaimed.insert(batch);
            }
            Event::Complete(snapshot) => {
                let missing = || Error::Handoff(Cause::Mismatch("the control listener did not come".to_owned()));
                let control = parts.unclaimed.take_control().ok_or_else(missing)?;
                let generation = parts.offer.as_ref().map_or(1, |offer| offer.generation.saturating_add(1));
                let (standby, schemas) = (parts.config.standby, &parts.config.schemas);
                let open = if standby { Arbiter::kept } else { Arbiter::inherited };
                let arbiter = parts.unclaimed.take_owner().map(|owner| open(owner, generation));
                self.link.arbiter = arbiter.and_then(or_none);
                // A keeper reads nothing.
                let (unread, snapshot) = if standby { (snapshot, None) } else { (None, snapshot) };
                let state = snapshot.map(|packet| Received::open(packet, schemas)).transpose()?;
                let Some(parts) = self.parts.take() else { return Ok(None) };
                return Ok(Some(Arrived { parts, control, state, unread }));
            }
            Event::Failed(cause) => {
                self.parts = None;
                self.error.get_or_insert_with(|| Error::from_cause(cause, false));
            }
            Event::Checkpoint(_)
            | Event::Released { .. }
            | Event::Draining(_)
            | Event::Farewell(_)
            | Event::Departed(_) => {}
        }
        Ok(None)
    }

    /// Puts what arrived together with the connection it came over.
    pub(crate) fn finish(self, arrived: Arrived) -> Inherited {
        let Arrived { parts, control, state, unread } = arrived;
        let Parts { config, place, found_at, began, offer, service, unclaimed, .. } = parts;
        let offer = offer.expect("nothing is complete before there was an offer");
        let laps = Laps { transferred: Some(Instant::now()), ..Laps::new(began) };
        let (transfer_us, descriptors) = (laps.transfer_us(), offer.descriptors);
        self.link
            .span
            .in_scope(|| tracing::info!(event = "arrived", transfer_us, descriptors, "everything has arrived"));
        Inherited {
            config,
            place,
            control: UnixListener::from(control),
            unclaimed,
            state: state.map(Arc::new),
            unread,
            service,
            named: Named::default(),
            operated: false,
            arbiter: self.link.arbiter.clone(),
            source: Source::Predecessor(Box::new(Claim {
                offer,
                found_at,
                laps,
                link: Some(self.link),
                failed: None,
                last_error: Mutex::default(),
            })),
        }
    }
}

/// Everything that a transfer brings.
#[derive(Debug)]
pub(crate) struct Arrived {
    parts: Parts,
    control: OwnedFd,
    state: Option<Received>,
    /// The state, where this process keeps it for others.
    unread: Option<Packet<OwnedFd>>,
}
