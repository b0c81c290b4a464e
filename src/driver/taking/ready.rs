//! A new generation that can serve: all that it needs is there before it says so.

use std::collections::VecDeque;
use std::hint::black_box;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Span;

use super::Inherited;
use super::inherited::Source;
use crate::core::record::remember;
use crate::core::wire::{
    Active, Attempt, ClientFrame, Frame, Outcome, PredecessorStatus, Release, ServerFrame, StateInfo,
};
use crate::core::{Packet, Successor, SuccessorCommand as Command, SuccessorEvent as Event};
use crate::driver::arbiter::{Arbiter, or_none};
use crate::driver::channel::Link;
use crate::driver::generation::{Generation, Legacy, Origin};
use crate::driver::place;
use crate::driver::reception::Reception;
use crate::driver::signals::Caught;
use crate::error::{Error, Result};
use crate::sys::event::Interest;
use crate::sys::{file, limits, process};

/// Beside the link's own.
const REQUESTS: u64 = u64::MAX;

impl Inherited {
    /// Closes what nobody took, and acquires all that it takes to own the service. The reception is to be driven from here
    /// on, and [`Prepared::say_ready`] called once whatever else the caller needs is there.
    pub(crate) fn prepare(self, signals: Option<Arc<Caught>>) -> Result<(Prepared, Reception)> {
        let unclaimed = self.unclaimed.names();
        if !unclaimed.is_empty() {
            if self.config.strict {
                return self.source.noted(Err(Error::Unclaimed(unclaimed)));
            }
            tracing::warn!(event = "unclaimed", names = ?unclaimed, "closing inherited descriptors that nobody took");
        }
        let unwanted = self.unclaimed.paths();
        drop(self.unclaimed);
        let (number, paths, lineage) =
            (self.source.generation(), self.source.paths(), self.source.lineage(&self.config));
        let arbiter = self.arbiter.or_else(|| or_none(Arbiter::new(number)));
        let origin = Origin { number, paths, unwanted, named: self.named, operated: self.operated, arbiter, lineage };
        let generation = Generation::new(self.config, self.place, self.control, origin)
            .map_err(Error::io("set up the new generation"));
        let generation = Arc::new(self.source.noted(generation)?);
        if self.source.is_cold() {
            // Now, rather than when a child is started for the first upgrade: twice what a generation needs itself, since
            // its table will be made with room for that of the next.
            drop(limits::widen_table(generation.named(), limits::OWN));
            place::listen(generation.control().listener.as_fd()).map_err(Error::io("listen on the control socket"))?;
        }
        let predecessor = self.source.link().map(Link::poller);
        let reception = Reception::new(Arc::clone(&generation), signals, predecessor.map(AsRef::as_ref))
            .map_err(Error::io("set up the control socket"));
        let reception = self.source.noted(reception)?;
        if let Some(link) = self.source.link() {
            // Whoever tells this process to stop before it serves is heard where the release is waited for.
            let watched = link.poller().add(generation.requests.as_fd(), REQUESTS, Interest::Read);
            self.source.noted(watched.map_err(Error::io("watch for a stop")))?;
        }
        Ok((Prepared { generation, source: self.source }, reception))
    }
}

/// A new generation that lacks nothing, but has not said so.
#[derive(Debug)]
pub(crate) struct Prepared {
    generation: Arc<Generation>,
    source: Source,
}

impl Prepared {
    pub(crate) fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// What to wait for once it has said so; nothing on a cold start.
    #[cfg(feature = "tokio")]
    pub(crate) fn poller(&self) -> Option<Arc<crate::sys::event::Poller>> {
        self.source.link().map(|link| Arc::clone(link.poller()))
    }

    /// [`Inherited::noted`].
    pub(crate) fn noted<T>(&self, done: Result<T>) -> Result<T> {
        self.source.noted(done)
    }

    /// Says that this process can serve.
    pub(crate) fn say_ready(self) -> Readied {
        let Prepared { generation, mut source } = self;
        if let Source::Predecessor(claim) = &mut source {
            rehearse();
            claim.laps.ready = Some(Instant::now());
            if let Some(link) = &mut claim.link {
                let initialise_us = claim.laps.initialise_us();
                link.span.in_scope(|| tracing::info!(event = "initialised", initialise_us, "this process can serve"));
                link.command(Command::Ready);
            }
        }
        let mut readied = Readied { generation, source, outcome: None, checkpoint: None };
        // The word is on its way while the caller sets the reception up.
        readied.outcome = readied.advance();
        readied
    }
}

/// A new generation that can serve, and waits for the service to be released to it.
#[derive(Debug)]
pub(crate) struct Readied {
    generation: Arc<Generation>,
    source: Source,
    outcome: Option<Result<Takeover>>,
    /// The last snapshot that came since.
    checkpoint: Option<Packet<OwnedFd>>,
}

/// How the service came to this process.
#[derive(Debug)]
pub(crate) struct Takeover {
    state: Option<Packet<OwnedFd>>,
    release: Option<Release>,
}

impl Readied {
    /// [`Inherited::noted`].
    pub(crate) fn noted<T>(&self, done: Result<T>) -> Result<T> {
        self.source.noted(done)
    }

    /// What to wait for; nothing on a cold start.
    pub(crate) fn link(&self) -> Option<&Link<Successor<OwnedFd>>> {
        self.source.link()
    }

    /// The newest snapshot, where this process keeps the service, and one has come.
    pub(crate) fn take_checkpoint(&mut self) -> Option<Packet<OwnedFd>> {
        self.checkpoint.take()
    }

    /// Does all that can be done now. `Some`: this process owns the service, or the handoff failed.
    pub(crate) fn poll(&mut self) -> Option<Result<Takeover>> {
        self.outcome.take().or_else(|| self.advance())
    }

    fn advance(&mut self) -> Option<Result<Takeover>> {
        let nothing = Takeover { state: None, release: None };
        let Source::Predecessor(claim) = &mut self.source else { return Some(Ok(nothing)) };
        if let Some(cause) = claim.failed.take() {
            return Some(Err(Error::from_cause(cause, true)));
        }
        let Some(link) = &mut claim.link else { return Some(Ok(nothing)) };
        if self.generation.is_stopping() {
            return Some(self.source.noted(Err(Error::Stopped)));
        }
        while let Some(event) = link.step(Instant::now(), &[]) {
            match event {
                Event::Released { state, release } => return Some(Ok(Takeover { state, release })),
                Event::Failed(cause) => return Some(Err(Error::from_cause(cause, true))),
                Event::Checkpoint(packet) => self.checkpoint = Some(packet),
                _ => {}
            }
        }
        None
    }

    /// Begins the new generation.
    // M9, M122
    pub(crate) fn own(self, takeover: Takeover) {
        let Readied { generation, mut source, .. } = self;
        if let Source::Cold(cold) = &mut source {
            cold.ours = None;
            // Before anybody looks whether the path is still there, who needs it to put that back.
            cold.lock = None;
        }
        let span = match &source {
            Source::Predecessor(claim) => claim.link.as_ref().map_or_else(Span::none, |link| link.span.clone()),
            Source::Cold(_) | Source::Left(_) => Span::none(),
        };
        let _entered = span.enter();
        let mut pause_us = None;
        // The predecessor's is held already; one of its own this process takes now.
        if let Some(arbiter) = generation.arbiter.as_ref().filter(|arbiter| !arbiter.is_inherited()) {
            arbiter.claim();
        }
        let mut legacy = Legacy { final_state: takeover.state, ..Legacy::default() };
        if let Source::Left(mut left) = source {
            let attempt = left.laps.attempt(left.generation - 1, std::process::id(), Outcome::Orphaned);
            legacy.history = left.history.drain(..).collect();
            remember(&mut legacy.history, attempt);
            generation.listens_alone();
        } else if let Source::Predecessor(mut claim) = source {
            let orphaned = takeover.release.is_none();
            let mut history: VecDeque<Attempt> = claim.offer.history.drain(..).collect();
            let outcome = if orphaned { Outcome::Orphaned } else { Outcome::Completed };
            claim.laps.active = claim.link.as_ref().and_then(Link::claimed);
            let since = takeover.release.as_ref().and_then(|release| since(release, file::time_namespace()));
            claim.laps.released = since.and_then(|since| Instant::now().checked_sub(since));
            let attempt = Attempt {
                instance: generation.lineage.instance().filter(|_| !generation.config.standby).map(str::to_owned),
                ..claim.laps.attempt(claim.offer.generation, std::process::id(), outcome)
            };
            pause_us = attempt.pause_us;
            remember(&mut history, attempt);

            generation.listens_alone();
            legacy.history = history;
            let link = claim.link.take();
            // From here on they are the steward's.
            link.iter().for_each(|link| link.poller().remove(generation.requests.as_fd()));
            if orphaned {
                tracing::warn!(
                    event = "orphaned",
                    "the predecessor died; this process took over without its final state"
                );
            } else {
                legacy.predecessor =
                    link.map(|link| (PredecessorStatus { pid: claim.offer.pid, connections: None }, link));
            }
        }
        tracing::info!(event = "serving", generation = generation.number, pause_us, "this process serves");
        generation.own(legacy);
    }
}

/// Reads a release, and writes what answers it, before anybody waits for that: the pages of the program that do so are in memory
/// then, and in the caches.
fn rehearse() {
    let state = StateInfo { length: 1, schema: 0, codec: "raw".to_owned(), fingerprint: Some(1) };
    let release = ServerFrame::from(Release { state: Some(state), monotonic_us: 1, timens: Some(1) }).to_line();
    let _ = black_box(ServerFrame::parse(&release[..release.len() - 1]));
    black_box(ClientFrame::from(Active {}).to_line());
}

/// How long ago the predecessor released, where its clock is ours.
fn since(release: &Release, ours: Option<u64>) -> Option<Duration> {
    if ours.is_none() || ours != release.timens {
        return None;
    }
    process::monotonic().checked_sub(Duration::from_micros(release.monotonic_us))
}
