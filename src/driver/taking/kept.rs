//! What a keeper has of a service: copies of everything that the last owner had, and no more of its process.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Instant;

use super::Inherited;
use super::inherited::Source;
use crate::config::Config;
use crate::core::wire::{Attempt, Entry, FileId, Receive};
use crate::core::{Lineage, Packet};
use crate::driver::arbiter::{Arbiter, Claim};
use crate::driver::descriptor::{Shared, Unclaimed};
use crate::driver::generation::Generation;
use crate::driver::giving::Offer;
use crate::driver::laps::Laps;
use crate::driver::named::Named;
use crate::driver::place::Place;
use crate::error::{Error, Result};
use crate::sys::{process, socket};

/// A service that nobody need serve: its sockets, its state, and the right to give both to the next process.
pub(crate) struct Kept {
    sockets: Vec<(Arc<Entry>, Shared)>,
    control: UnixListener,
    arbiter: Option<Arc<Arbiter>>,
    /// With what it claims the service.
    claimant: Option<Arc<Arbiter>>,
    owner: Owner,
    /// The owner's snapshot.
    pub(crate) snapshot: Option<Packet<Arc<OwnedFd>>>,
    /// What had changed since, if the owner stopped in good order.
    pub(crate) last: Option<Packet<Arc<OwnedFd>>>,
}

/// The process that has the service, as far as its keeper knows.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) generation: u64,
    pub(crate) pid: u32,
    /// The service's name, where somebody has chosen it.
    name: Option<String>,
    version: String,
    pidfd: Option<OwnedFd>,
    paths: [Option<FileId>; 2],
    history: Vec<Attempt>,
    lineage: Lineage,
    laps: Laps,
}

/// What a keeper leads a service with that nobody serves: everything is there, and nobody has to be waited for.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) generation: u64,
    pub(super) paths: [Option<FileId>; 2],
    pub(super) history: Vec<Attempt>,
    pub(super) lineage: Lineage,
    pub(super) laps: Laps,
}

impl Kept {
    /// What a keeper has received of a service that somebody serves. What stands by for that service is left.
    pub(crate) fn of(inherited: &mut Inherited) -> Result<Kept> {
        let again = Error::io("duplicate the control socket");
        let control = inherited.control.try_clone().map_err(again)?;
        let Source::Predecessor(claim) = &inherited.source else { return Err(Error::Closed) };
        let pidfd = claim.link.as_ref().and_then(|link| link.peer().and_then(|peer| peer.try_clone().ok()));
        let (name, version) = inherited.service.take().unwrap_or_default();
        let owner = Owner {
            generation: claim.offer.generation,
            pid: claim.offer.pid,
            name,
            version,
            pidfd,
            paths: [claim.offer.path, claim.found_at],
            history: claim.offer.history.clone(),
            lineage: Lineage::new(claim.offer.instance.clone(), claim.offer.superseded.clone()),
            laps: Laps::new(claim.laps.began),
        };
        let sockets = std::mem::take(&mut inherited.unclaimed).into_all();
        sockets.iter().for_each(|(entry, _)| inherited.named.add(entry));
        Ok(Kept {
            sockets: sockets.into_iter().map(|(entry, fd)| (entry, Arc::new(fd) as Shared)).collect(),
            control,
            arbiter: inherited.arbiter.clone(),
            claimant: None,
            owner,
            snapshot: inherited.unread.take().map(share),
            last: None,
        })
    }

    /// What a keeper has bound itself, for a service that nobody has served yet.
    pub(crate) fn bound(inherited: &Inherited, sockets: Vec<(Arc<Entry>, Shared)>) -> Result<Kept> {
        let again = Error::io("duplicate the control socket");
        Ok(Kept {
            sockets,
            control: inherited.control.try_clone().map_err(again)?,
            arbiter: None,
            claimant: None,
            owner: Owner {
                generation: 0,
                pid: 0,
                name: None,
                version: inherited.config.version.clone(),
                pidfd: None,
                paths: inherited.source.paths(),
                history: Vec::new(),
                lineage: Lineage::default(),
                laps: Laps::new(Instant::now()),
            },
            snapshot: None,
            last: None,
        })
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The service has gone on from this generation, this keeper's own, to the process that it was given to.
    ///
    /// # Errors
    ///
    /// What the kernel says where the control socket cannot be duplicated: what was there before stays.
    pub(crate) fn given_by(
        &mut self,
        generation: &Generation,
        to: &Receive,
        pidfd: Option<OwnedFd>,
    ) -> std::io::Result<()> {
        let control = generation.control();
        self.control = control.listener.try_clone()?;
        self.arbiter.clone_from(&generation.arbiter);
        self.claimant = None;
        self.owner.generation = generation.number.saturating_add(1);
        self.owner.pid = to.pid;
        self.owner.pidfd = pidfd;
        self.owner.lineage = generation.lineage.clone().taken_over_by(to.instance.clone());
        self.owner.paths = [control.path, None];
        self.owner.history = generation.history();
        Ok(())
    }

    /// Takes a service that nobody serves and nobody else is about to. `None`: somebody has it, or will.
    // M173
    ///
    /// # Errors
    ///
    /// What the kernel says where there is no descriptor, or no memory, to be had: then it is not claimed.
    pub(crate) fn claim(&mut self, config: &Config) -> Result<Option<Inherited>> {
        let generation = self.owner.generation.saturating_add(1);
        let is_free = match self.claimant(generation)? {
            Some(arbiter) => arbiter.claim_last() == Claim::Ours,
            None => self.owner.pidfd.as_ref().is_some_and(|pidfd| process::is_dead(pidfd.as_fd())),
        };
        if !is_free {
            return Ok(None);
        }
        // It goes along with the service, or is given up with what fails below.
        let arbiter = self.claimant.take();
        let mut named = Named::default();
        self.sockets.iter().for_each(|(entry, _)| named.add(entry));
        Ok(Some(Inherited {
            config: self.configured(config),
            place: Place::open(&config.path)?,
            control: self.control.try_clone().map_err(Error::io("duplicate the control socket"))?,
            unclaimed: Unclaimed::default(),
            state: None,
            unread: None,
            service: None,
            named,
            operated: false,
            arbiter,
            source: Source::Left(Left {
                generation,
                paths: self.owner.paths,
                history: self.owner.history.clone(),
                lineage: self.owner.lineage.clone(),
                laps: Laps { transferred: Some(Instant::now()), ..Laps::new(self.owner.laps.began) },
            }),
        }))
    }

    /// This process's own description of the lock, for the generation that it would be.
    fn claimant(&mut self, generation: u64) -> Result<Option<&Arc<Arbiter>>> {
        let Some(arbiter) = &self.arbiter else { return Ok(None) };
        if self.claimant.is_none() {
            let open = || Arbiter::kept(arbiter.shared().try_clone()?, generation);
            self.claimant = Some(Arc::new(open().map_err(Error::io("open the lock of the owner"))?));
        }
        Ok(self.claimant.as_ref())
    }

    /// What was received stands by under the name of the service that it was received from.
    pub(crate) fn name(&self, inherited: &mut Inherited) {
        inherited.config = self.configured(&inherited.config);
    }

    /// The keeper's own configuration, under the name of the service that it keeps.
    fn configured(&self, config: &Config) -> Config {
        Config { name: self.owner.name.clone(), version: self.owner.version.clone(), ..config.clone() }
    }

    /// Everything, for the next process.
    pub(crate) fn offer(&self) -> Offer<'static> {
        Offer::relayed(&self.sockets)
    }

    /// How many connections wait at the TCP listeners.
    pub(crate) fn waiting(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let sockets: Vec<Shared> = self.sockets.iter().map(|(_, fd)| Arc::clone(fd)).collect();
        move || sockets.iter().filter_map(|fd| socket::waiting(fd.as_fd())).map(u64::from).sum()
    }
}

/// So that it can be given again.
pub(crate) fn share(packet: Packet<OwnedFd>) -> Packet<Arc<OwnedFd>> {
    Packet { info: packet.info, memfd: Arc::new(packet.memfd) }
}

pub(crate) fn again(packet: &Packet<Arc<OwnedFd>>) -> std::io::Result<Packet<OwnedFd>> {
    Ok(Packet { info: packet.info.clone(), memfd: packet.memfd.try_clone()? })
}
