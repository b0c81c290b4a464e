//! What a new generation begins with, while its application initialises.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::kept::Left;
use crate::config::Config;
use crate::core::wire::{self, Entry, FileId, Name};
use crate::core::{Cause, Lineage, Packet, Successor, SuccessorCommand as Command, SuccessorEvent as Event};
use crate::driver::arbiter::Arbiter;
use crate::driver::channel::Link;
use crate::driver::descriptor::{Inheritable, Unclaimed, named, serves};
use crate::driver::early_stop::LastWords;
use crate::driver::laps::Laps;
use crate::driver::named::Named;
use crate::driver::place::{Lock, Place};
use crate::error::{Error, Result};
use crate::state::Received;

/// What a new generation begins with, while it initialises.
#[derive(Debug)]
pub(crate) struct Inherited {
    pub(super) config: Config,
    pub(super) place: Place,
    pub(super) control: UnixListener,
    pub(super) unclaimed: Unclaimed,
    pub(super) state: Option<Arc<Received>>,
    /// The snapshot, where this process keeps it for others.
    pub(super) unread: Option<Packet<OwnedFd>>,
    /// The service's name, where somebody has chosen it, and its version.
    pub(super) service: Option<(Option<String>, String)>,
    /// What the application has named so far.
    pub(super) named: Named,
    /// Whether somebody will take requests to upgrade and to stop.
    pub(crate) operated: bool,
    /// What the owner of the service holds.
    pub(super) arbiter: Option<Arc<Arbiter>>,
    pub(super) source: Source,
}

/// Where a generation gets the service from.
#[derive(Debug)]
pub(super) enum Source {
    /// From nobody: a cold start, and the lock that makes it the only one.
    Cold(ColdStart),
    /// From a predecessor that still serves, as far as is known.
    Predecessor(Box<Claim>),
    /// From nobody who lives: a keeper has taken it.
    Left(Left),
}

/// The right to be the first. A start that fails before it serves takes its socket away again, while nobody else can bind.
#[derive(Debug)]
pub(super) struct ColdStart {
    pub(super) path: PathBuf,
    /// What the path leads to, until somebody serves there.
    pub(super) ours: Option<FileId>,
    /// Until it listens, and serves.
    pub(super) lock: Option<Lock>,
}

impl Drop for ColdStart {
    fn drop(&mut self) {
        if let Some(ours) = self.ours {
            let _ = Place::open(&self.path).map(|place| place.remove(ours));
        }
    }
}

/// A complete transfer that has not come to its end. Dropped before that, it is given up, and says why.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) offer: Box<wire::Offer>,
    /// What the path led to when this process connected there.
    pub(super) found_at: Option<FileId>,
    pub(super) laps: Laps,
    /// Absent once the handoff has come to its end.
    pub(super) link: Option<Link<Successor<OwnedFd>>>,
    /// How the handoff ended, where that was heard before ready, which reports it.
    pub(super) failed: Option<Cause>,
    /// What the application's last call failed of, if it did: the reason, should it now give up.
    pub(super) last_error: Mutex<Option<String>>,
}

impl Claim {
    pub(super) fn say(&mut self, command: Command) {
        if let Some(link) = &mut self.link {
            link.command(command);
            while let Some(event) = link.step(Instant::now(), &[]) {
                if let Event::Failed(cause) = event {
                    self.failed = Some(cause);
                }
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let last_error = self.last_error.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let reason = last_error.unwrap_or_else(|| {
            let how = if std::thread::panicking() { "panicked" } else { "gave up" };
            format!("the successor's application {how}")
        });
        self.say(Command::Abort(Cause::Here(reason)));
    }
}

impl Inherited {
    pub(super) fn nothing(config: Config, place: Place, control: UnixListener, lock: Lock) -> Inherited {
        let (path, ours) = (place.path().to_owned(), place.look().ok().flatten());
        let source = Source::Cold(ColdStart { path, ours, lock: Some(lock) });
        Inherited {
            config,
            place,
            control,
            unclaimed: Unclaimed::default(),
            state: None,
            unread: None,
            service: None,
            named: Named::default(),
            operated: false,
            arbiter: None,
            source,
        }
    }

    /// How long an initialisation may take from the last progress on.
    pub(crate) fn ready_timeout(&self) -> Duration {
        self.config.timeouts.ready
    }

    /// What a process leaves behind that is told to stop while it initialises.
    pub(crate) fn last_words(&self) -> LastWords {
        let path = match &self.source {
            Source::Cold(cold) => cold.ours.map(|ours| (cold.path.clone(), ours)),
            Source::Predecessor(_) | Source::Left(_) => None,
        };
        // Without it the end of this process says as much.
        LastWords { predecessor: self.source.link().and_then(|link| link.try_clone().ok()), path }
    }

    pub(crate) fn is_cold_start(&self) -> bool {
        self.source.is_cold()
    }

    /// Whether the application has schemas of its own.
    #[cfg(feature = "bincode")]
    pub(crate) fn names_schemas(&self) -> bool {
        self.config.schemas != [0]
    }

    /// The generation that this process is about to be.
    pub(crate) fn generation(&self) -> u64 {
        self.source.generation()
    }

    /// The address of what was inherited under a name and has not been taken. What was passed without a name is given this one if
    /// `wanted` says that its address is the one.
    pub(crate) fn address(&mut self, name: &str, wanted: impl Fn(&str) -> bool) -> Result<Option<&str>> {
        self.unclaimed.name_passed(name, wanted)?;
        Ok(self.unclaimed.address(name))
    }

    pub(crate) fn state(&self) -> Option<&Arc<Received>> {
        self.state.as_ref()
    }

    /// What whoever started this process has passed to it is there to be taken as what a predecessor has offered. Of two of one
    /// name the predecessor's is the one that serves.
    pub(crate) fn add_passed(&mut self, passed: Vec<(String, OwnedFd)>) -> Result<()> {
        self.unclaimed.add_passed(passed)
    }

    /// What was passed and not taken.
    pub(crate) fn unknown_and_passed(&mut self) -> Vec<(Name, Vec<OwnedFd>)> {
        let unknown = self.unclaimed.remove_passed();
        unknown.iter().flat_map(|(_, group)| group).for_each(|(entry, _)| self.named.add(entry));
        let fds = |group: Vec<(_, OwnedFd)>| group.into_iter().map(|(_, fd)| fd).collect();
        unknown.into_iter().map(|(name, group)| (name, fds(group))).collect()
    }

    /// Whether what nobody takes is a mistake.
    pub(crate) fn is_strict(&self) -> bool {
        self.config.strict
    }

    pub(crate) fn take_all<T: Inheritable>(&mut self, name: &str) -> Result<Vec<T>> {
        Ok(self.take_group(name)?.into_iter().map(|(_, fd)| fd).collect())
    }

    /// [`Inherited::take_all`], and what the kernel says of them.
    pub(crate) fn take_group<T: Inheritable>(&mut self, name: &str) -> Result<Vec<(Arc<Entry>, T)>> {
        let taken = self.unclaimed.take_all(name)?;
        taken.iter().for_each(|(entry, _)| self.named.add(entry));
        Ok(taken)
    }

    pub(crate) fn take<T: Inheritable>(&mut self, name: &str) -> Result<Option<T>> {
        let taken = self.unclaimed.take(name)?;
        Ok(taken.map(|(entry, fd)| self.claimed(&entry, fd)))
    }

    pub(crate) fn take_or_else<T, E>(&mut self, name: &str, make: impl FnOnce() -> Result<T, E>) -> Result<T>
    where
        T: Inheritable + AsFd,
        E: Into<std::io::Error>,
    {
        self.take_or_make(name, make).map(|(_, taken)| taken)
    }

    /// [`Inherited::take_or_else`], and what the kernel says of it.
    pub(crate) fn take_or_make<T, E>(
        &mut self,
        name: &str,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<(Arc<Entry>, T)>
    where
        T: Inheritable + AsFd,
        E: Into<std::io::Error>,
    {
        let (entry, taken) = match self.unclaimed.take(name)? {
            Some(inherited) => inherited,
            None => {
                let made = make().map_err(|error| Error::io(format!("make \"{name}\""))(error.into()))?;
                (Arc::new(named(name, &made)?), made)
            }
        };
        self.named.add(&entry);
        Ok((entry, taken))
    }

    /// The inherited socket of this name if it is bound to `wanted`, or else a new one.
    pub(crate) fn take_bound<T>(
        &mut self,
        name: &str,
        wanted: SocketAddr,
        bind: impl FnOnce(SocketAddr) -> std::io::Result<T>,
    ) -> Result<(Arc<Entry>, T)>
    where
        T: Inheritable + AsFd,
    {
        self.unclaimed.name_passed(name, |addr| addr.parse().is_ok_and(|bound| serves(bound, wanted)))?;
        if let Some(found) = self.unclaimed.address(name) {
            if !found.parse().is_ok_and(|bound| serves(bound, wanted)) {
                let (name, found, wanted) = (name.to_owned(), found.to_owned(), wanted.to_string());
                return Err(Error::AddressChanged { name, found, wanted });
            }
        }
        self.take_or_make(name, || {
            bind(wanted).map_err(|error| std::io::Error::new(error.kind(), format!("{wanted}: {error}")))
        })
    }

    pub(crate) fn register(&mut self, name: &str, fd: &impl AsFd) -> Result<()> {
        self.named.add(&named(name, fd)?);
        Ok(())
    }

    pub(super) fn claimed<T>(&mut self, entry: &Entry, fd: T) -> T {
        self.named.add(entry);
        fd
    }

    /// Remembers what a call of the application's failed of. One that goes well later tells that it was no reason to
    /// give up.
    pub(crate) fn noted<T, E: fmt::Display>(&self, done: Result<T, E>) -> Result<T, E> {
        self.source.noted(done)
    }

    /// Gives the handoff up. On a cold start there is nobody to tell.
    pub(crate) fn fail(self, reason: &str) {
        let _ = self.noted::<(), _>(Err(reason));
    }

    pub(crate) fn progress(&mut self, message: &str) {
        if let Source::Predecessor(claim) = &mut self.source {
            claim.last_error = Mutex::default();
            claim.say(Command::Progress(message.to_owned()));
        }
    }
}

impl Source {
    pub(super) fn is_cold(&self) -> bool {
        matches!(self, Source::Cold(_))
    }

    pub(super) fn link(&self) -> Option<&Link<Successor<OwnedFd>>> {
        match self {
            Source::Predecessor(claim) => claim.link.as_ref(),
            Source::Cold(_) | Source::Left(_) => None,
        }
    }

    pub(super) fn noted<T, E: fmt::Display>(&self, done: Result<T, E>) -> Result<T, E> {
        if let Source::Predecessor(claim) = self {
            let last_error = done.as_ref().err().map(ToString::to_string);
            *claim.last_error.lock().unwrap_or_else(PoisonError::into_inner) = last_error;
        }
        done
    }

    pub(super) fn generation(&self) -> u64 {
        match self {
            Source::Cold(_) => 1,
            Source::Predecessor(claim) => claim.offer.generation + 1,
            Source::Left(left) => left.generation,
        }
    }

    /// Whose the service is to be, and was: a keeper changes nothing about that.
    pub(super) fn lineage(&self, config: &Config) -> Lineage {
        let before = match self {
            Source::Cold(_) => Lineage::default(),
            Source::Left(left) => left.lineage.clone(),
            Source::Predecessor(claim) => Lineage::new(claim.offer.instance.clone(), claim.offer.superseded.clone()),
        };
        if config.standby { before.kept() } else { before.taken_over_by(config.own_instance()) }
    }

    /// What the path leads to while it is ours: what a cold start has bound; or what the predecessor says, and what this
    /// process has found there, which may see the same file as another one.
    pub(super) fn paths(&self) -> [Option<FileId>; 2] {
        match self {
            Source::Cold(cold) => [cold.ours, None],
            Source::Predecessor(claim) => [claim.offer.path, claim.found_at],
            Source::Left(left) => left.paths,
        }
    }
}
