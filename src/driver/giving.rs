//! The predecessor's side of one handoff, without the waiting: what the blocking and the tokio calls share.

use std::collections::{HashSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Span;

use crate::core::record::micros;
use crate::core::wire::{self, Ending, Entry, ErrorCode, FileId, Name, News, Outcome, Receive};
use crate::core::{
    Cause, Leave, Lifecycle, Packet, Predecessor, PredecessorCommand as Command, PredecessorEvent as Event,
};
use crate::driver::channel::{Channel, Link, Point};
use crate::driver::child::Spawned;
use crate::driver::descriptor::{Attachment, Shared, application_name, examine};
use crate::driver::flags::{Flags, restore};
use crate::driver::generation::{Arrival, Generation, Word};
use crate::driver::gift::{self, attach};
use crate::driver::keeping::Keeping;
use crate::driver::laps::Laps;
use crate::driver::named::Named;
use crate::driver::place;
use crate::error::{Error, Failure, Owner, Result, StateError};
use crate::state::State;
use crate::sys::event::{Interest, Poller};
use crate::sys::{file, process};

/// What a predecessor gives: named descriptors and a snapshot of its state.
///
/// The descriptors are lent: they stay open and in use here, since this process goes on serving, and takes the
/// service back if its successor dies.
///
/// O_NONBLOCK belongs to the open file description, which both processes share. A successor that fails before it is ready has what it
/// changed put right; after [`Ready::release`](crate::Ready::release), set the flag again where you serve again, unless an
/// [`Acceptor`](crate::Acceptor) does.
#[derive(Debug, Default)]
pub struct Offer<'fd> {
    descriptors: VecDeque<(Arc<Entry>, Attachment)>,
    names: HashSet<Name>,
    /// What `status` will show of them.
    named: Named,
    fds: Vec<BorrowedFd<'fd>>,
    flags: Flags,
    state: Option<State>,
    /// The first thing that was wrong; it comes out when the offer is made.
    error: Option<Error>,
}

impl<'fd> Offer<'fd> {
    /// An offer of nothing.
    pub fn new() -> Offer<'fd> {
        Offer::default()
    }

    /// Adds a descriptor of any kind: a socket, a file, a pipe, anything. What it is, is the kernel's to say.
    /// A name has 1 to 64 bytes, no control characters, and does not begin with `@`.
    #[must_use]
    pub fn descriptor(self, name: &str, fd: &'fd impl AsFd) -> Offer<'fd> {
        self.group(name, [fd])
    }

    /// Adds several descriptors under one name, such as the sockets of an SO_REUSEPORT group or the
    /// connections of a session table. The successor takes them in this order.
    #[must_use]
    pub fn group<T: AsFd + 'fd>(mut self, name: &str, fds: impl IntoIterator<Item = &'fd T>) -> Offer<'fd> {
        if self.error.is_none() {
            self.error = self.add(name, fds).err();
        }
        self
    }

    /// Has room for so many at once.
    pub(crate) fn with_capacity(count: usize) -> Offer<'fd> {
        Offer { descriptors: VecDeque::with_capacity(count + 2), ..Offer::default() }
    }

    /// Adds a descriptor that was examined before and cannot have changed, under a name that nothing else has.
    #[must_use]
    pub(crate) fn known(mut self, entry: &Arc<Entry>, fd: &Shared) -> Offer<'fd> {
        // An acceptor has it, and has made it so.
        self.flags.share(fd, true);
        self.push(Arc::clone(entry), Attachment::Shared(Arc::clone(fd)));
        self
    }

    /// Adds descriptors that this process goes on using, under a name that nothing else has. `path` is what the path of the
    /// first leads to, where this service has bound it; `passed`, whether whoever started it has passed them.
    // M134
    #[must_use]
    pub(crate) fn shared(mut self, name: &str, fds: &[Shared], mut path: Option<FileId>, passed: bool) -> Offer<'fd> {
        let examined = application_name(name).map_err(Error::from).and_then(|name| {
            fds.iter().enumerate().try_for_each(|(index, fd)| {
                let entry = Entry { path: path.take(), passed, ..examine(name.clone(), index as u32, fd.as_fd())? };
                self.flags.share(fd, file::is_nonblocking(fd.as_fd()).map_err(Error::io("read a descriptor's flags"))?);
                self.push(Arc::new(entry), Attachment::Shared(Arc::clone(fd)));
                Ok(())
            })
        });
        self.error = self.error.or(examined.err());
        self
    }

    /// What a predecessor gave, as it described it.
    pub(crate) fn relayed(sockets: &[(Arc<Entry>, Shared)]) -> Offer<'static> {
        sockets.iter().fold(Offer::with_capacity(sockets.len()), |mut offer, (entry, fd)| {
            offer.push(Arc::clone(entry), Attachment::Shared(Arc::clone(fd)));
            offer
        })
    }

    /// Adds the snapshot of the application's state.
    #[must_use]
    pub fn state(mut self, state: State) -> Offer<'fd> {
        self.state = Some(state);
        self
    }

    fn add<T: AsFd + 'fd>(&mut self, name: &str, fds: impl IntoIterator<Item = &'fd T>) -> Result<()> {
        let name = application_name(name)?;
        if !self.names.insert(name.clone()) {
            return Err(Error::DuplicateName(name));
        }
        for (index, fd) in fds.into_iter().enumerate() {
            let fd = fd.as_fd();
            let entry = Arc::new(examine(name.clone(), index as u32, fd)?);
            self.flags.lend(file::is_nonblocking(fd).map_err(Error::io("read a descriptor's flags"))?);
            self.push(entry, Attachment::Lent(self.fds.len()));
            self.fds.push(fd);
        }
        Ok(())
    }

    fn push(&mut self, entry: Arc<Entry>, fd: Attachment) {
        self.named.add(&entry);
        self.descriptors.push_back((entry, fd));
    }

    /// What it holds, for a keeper.
    ///
    /// # Errors
    ///
    /// The first thing that was wrong with it.
    pub(crate) fn into_descriptors(self) -> Result<VecDeque<(Arc<Entry>, Attachment)>> {
        self.error.map_or(Ok(self.descriptors), Err)
    }

    /// Takes the state out, to be encoded where that may take its time.
    pub(crate) fn take_state(&mut self) -> Option<State> {
        self.state.take()
    }
}

/// The giving side of one handoff.
#[derive(Debug)]
pub(crate) struct Giving {
    generation: Arc<Generation>,
    /// There until this is dropped.
    link: Option<Link<Predecessor<Attachment>>>,
    successor: Receive,
    span: Span,
    /// This process has let everything go, and the role knows.
    has_let_go: bool,
    laps: Laps,
    over: bool,
    held: Option<Milestone>,
    /// What a successor that fails may have changed.
    flags: Flags,
    /// Progress that nobody was told of, and when it is time.
    untold: Option<String>,
    tell_progress: Option<Instant>,
    /// The successor's process, where it is our child.
    child: Option<Spawned>,
}

/// A point that a handoff has reached.
#[derive(Debug)]
pub(crate) enum Milestone {
    Ready,
    Active,
    /// The successor's end will be no reason to take back.
    Settled(Ending),
    Departed,
    Over(Failure),
}

/// How often those who listen, and the log, are told of progress: of what the successor says meanwhile, the last counts.
const TELL_PROGRESS: Duration = Duration::from_millis(50);

/// Beside the link's own.
const LET_GO: u64 = u64::MAX;

/// The connection to whoever is given everything, a successor or a keeper.
pub(super) fn link_to(
    generation: &Generation,
    receive: &Receive,
    channel: Channel<Attachment>,
    pidfd: Option<OwnedFd>,
    doing: &'static str,
) -> Result<Link<Predecessor<Attachment>>> {
    let role = Predecessor::new(receive.clone(), generation.config.timeouts.waits(), pidfd.is_some());
    let mut link = Link::new(role, channel, pidfd).map_err(Error::io(doing))?;
    link.arbiter.clone_from(&generation.arbiter);
    // Where the other side stops, this one goes once it has let everything go.
    link.poller().add(generation.let_go.as_fd(), LET_GO, Interest::Read).map_err(Error::io(doing))?;
    Ok(link)
}

impl Giving {
    pub(crate) fn new(generation: Arc<Generation>, arrival: Arrival) -> Result<Giving> {
        let Arrival { channel, receive, pidfd, began, .. } = arrival;
        let mut link = link_to(&generation, &receive, channel, pidfd, "watch the successor")?;
        let (successor, number, predecessor) = (receive.pid, generation.number, std::process::id());
        let instance = receive.instance.as_deref();
        link.span = tracing::error_span!(
            "handoff",
            role = "predecessor",
            generation = number,
            predecessor,
            successor,
            instance
        );
        // Whole before anything can panic: what happens to its successor then is said where it is dropped.
        let span = link.span.clone();
        let mut giving = Giving::along(generation, link, span, receive, Laps::new(began));
        giving.begin();
        Ok(giving)
    }

    /// A stop with a keeper, which has everything, and is ready.
    pub(crate) fn of_keeper(keeping: Keeping) -> Giving {
        let began = keeping.began();
        let Keeping { generation, link, receive, .. } = keeping;
        generation.receives(&receive);
        generation.transferred();
        let now = Instant::now();
        let span = tracing::error_span!(
            "handoff",
            role = "predecessor",
            generation = generation.number,
            predecessor = std::process::id(),
            keeper = receive.pid
        );
        let laps = Laps { transferred: Some(now), ..Laps::new(began) };
        Giving::along(generation, link, span, receive, laps)
    }

    /// One that nothing has happened in yet.
    fn along(
        generation: Arc<Generation>,
        link: Link<Predecessor<Attachment>>,
        span: Span,
        successor: Receive,
        laps: Laps,
    ) -> Giving {
        Giving {
            generation,
            link: Some(link),
            successor,
            span,
            has_let_go: false,
            laps,
            over: false,
            held: None,
            flags: Flags::default(),
            untold: None,
            tell_progress: None,
            child: None,
        }
    }

    /// Whether it is a keeper that gets the service.
    pub(crate) fn is_to_keeper(&self) -> bool {
        self.successor.standby
    }

    /// A keeper has everything but the newest snapshot, and is ready.
    pub(crate) fn complete(&mut self, snapshot: Option<Packet<OwnedFd>>) {
        if let Some(snapshot) = snapshot {
            self.link_mut().command(Command::Checkpoint(attach(snapshot)));
        }
        self.laps.ready = Some(Instant::now());
        self.held = Some(Milestone::Ready);
    }

    fn begin(&mut self) {
        // The background has heard it, before there was a link.
        self.link_mut().reach(Instant::now(), Point::AfterReceive, "receive");
        let Receive { pid, version, instance, .. } = &self.successor;
        let of = instance.as_ref().map(|instance| format!(" of instance {instance}")).unwrap_or_default();
        self.span.in_scope(|| tracing::info!(event = "receive", version, "a successor asks for the service"));
        self.tell(News::Receive, &format!("process {pid}{of}, version {version}, asks for the service"));
    }

    fn link(&self) -> &Link<Predecessor<Attachment>> {
        self.link.as_ref().expect("it is there until this is dropped")
    }

    fn link_mut(&mut self) -> &mut Link<Predecessor<Attachment>> {
        self.link.as_mut().expect("it is there until this is dropped")
    }

    /// The successor's process.
    pub(crate) fn successor_pidfd(&self) -> Option<OwnedFd> {
        self.link().peer().and_then(|peer| peer.try_clone().ok())
    }

    pub(crate) fn successor(&self) -> &Receive {
        &self.successor
    }

    pub(crate) fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    pub(crate) fn poller(&self) -> &Arc<Poller> {
        self.link().poller()
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let progress = self.tell_progress.filter(|_| self.untold.is_some());
        self.link().deadline().into_iter().chain(progress).min()
    }

    /// From here on the successor's process is ended and reaped if it does not take the service.
    pub(crate) fn with_child(&mut self, child: Spawned) {
        self.generation.has_own_child();
        self.child = Some(child);
    }

    /// Makes the offer. Returns the table of lent descriptors, to be held until `Ready`.
    pub(crate) fn offer<'fd>(
        &mut self,
        offer: Offer<'fd>,
        snapshot: Option<Packet<OwnedFd>>,
    ) -> Result<Vec<BorrowedFd<'fd>>> {
        let Offer { descriptors, named, fds, flags, error, .. } = offer;
        error.map_or(Ok(()), Err)?;
        let state_bytes = snapshot.as_ref().map(|packet| packet.info.length);
        let gift = gift::wrap(&self.generation, &self.successor, descriptors, snapshot)?;
        self.generation.name(named);
        self.flags = flags;
        let descriptors = gift.descriptors.len();
        self.span.in_scope(|| tracing::debug!(event = "offer", descriptors, state_bytes, "offering"));
        self.link_mut().follow(Command::Offer(Box::new(gift)));
        Ok(fds)
    }

    /// Releases: from here on, until this side is told otherwise, it does not accept.
    // M51
    pub(crate) fn release(&mut self, state: Option<Packet<OwnedFd>>) {
        self.generation.release();
        let monotonic_us = process::monotonic().as_micros() as u64;
        self.laps.released = Some(Instant::now());
        let release_us = self.laps.release_us();
        self.span.in_scope(|| tracing::info!(event = "release", release_us, "this process has stopped accepting"));
        let heard = self.generation.publish_later(self.event(News::Release, "this process has stopped accepting"));
        let state = state.map(attach);
        self.link_mut().command(Command::Release { state, monotonic_us, timens: file::time_namespace() });
        // Nobody accepts: whoever listens is told once the word is out.
        self.push();
        if heard {
            self.generation.wake.raise();
        }
    }

    pub(crate) fn draining(&mut self, connections: u64) {
        self.tell_of_drain(News::Draining, Some(connections), left(connections));
        self.link_mut().command(Command::Draining(connections));
    }

    /// Says farewell: with the predecessor's own last states that nobody here has read, then with ours. Where ours could
    /// not be encoded, the others go all the same.
    // M85
    pub(crate) fn farewell(&mut self, state: Result<Option<Packet<OwnedFd>>, StateError>) -> Option<Failure> {
        let (state, lost) = match state {
            Ok(state) => (state, None),
            Err(error) => (None, Some(Failure::new(Owner::Successor, error.into()))),
        };
        let unread = self.generation.unread_farewells();
        let (drain_us, passed_on) = (self.laps.active.map(|active| micros(active.elapsed())), unread.len());
        self.span.in_scope(|| tracing::info!(event = "farewell", drain_us, passed_on, "this process has drained"));
        self.tell_of_drain(News::Farewell, None, "this process has drained".to_owned());
        let states = unread.into_iter().chain(state).map(attach);
        self.link_mut().command(Command::Farewell(states.collect()));
        lost
    }

    /// Whether this generation's own predecessor still has to say farewell.
    // M84
    pub(crate) fn awaits_predecessor(&self) -> bool {
        self.generation.has_predecessor()
    }

    pub(crate) fn abort(&mut self, reason: &str) {
        self.cut_short(ErrorCode::Application, reason);
        while self.poll(&[]).is_some() {}
    }

    /// Gives up, if nothing has been released; what follows is found by the next poll.
    pub(crate) fn cut_short(&mut self, code: ErrorCode, reason: &str) {
        self.link_mut().command(Command::Abort(code, reason.to_owned()));
    }

    /// Gives up before release because of something on this side.
    pub(crate) fn give_up(&mut self, error: Error) -> Failure {
        self.abort(&error.to_string());
        Failure::new(Owner::StillUs, error)
    }

    /// Sends what is queued. What comes of it is kept for the next poll.
    pub(crate) fn push(&mut self) {
        self.held = self.held.take().or_else(|| {
            let event = self.link_mut().push(Instant::now(), &[])?;
            let span = self.span.clone();
            let _entered = span.enter();
            self.note(event, &[])
        });
    }

    /// Whether this process may exit: the farewell is said, and all of it is out.
    pub(crate) fn is_done(&self) -> bool {
        self.over && self.link().is_flushed()
    }

    /// Does all that can be done now. Returns the next milestone; `None`: wait, then ask again.
    pub(crate) fn poll(&mut self, table: &[BorrowedFd<'_>]) -> Option<Milestone> {
        if let Some(held) = self.held.take() {
            return Some(held);
        }
        let span = self.span.clone();
        let _entered = span.enter();
        loop {
            self.note_letting_go();
            // Each time: a successor that talks without end puts it off no longer than one that is silent.
            let Some(event) = self.link_mut().step(Instant::now(), table) else {
                self.tell_progress();
                return None;
            };
            if let Some(milestone) = self.note(event, table) {
                return Some(milestone);
            }
        }
    }

    fn note_letting_go(&mut self) {
        if !self.has_let_go && self.generation.has_let_go() {
            self.has_let_go = true;
            // It stays readable for good.
            self.link().poller().remove(self.generation.let_go.as_fd());
            self.link_mut().command(Command::LetGo);
        }
    }

    /// Tells of the last progress, if it is time.
    fn tell_progress(&mut self) {
        let now = Instant::now();
        if self.tell_progress.is_none_or(|at| at <= now) {
            self.tell_last_progress();
        }
    }

    // M147
    fn tell_last_progress(&mut self) {
        if let Some(message) = self.untold.take() {
            tracing::info!(event = "progress", progress = message, "the successor initialises");
            self.tell(News::Progress, &message);
            self.tell_progress = Some(Instant::now() + TELL_PROGRESS);
        }
    }

    // M92
    fn note(&mut self, event: Event, table: &[BorrowedFd<'_>]) -> Option<Milestone> {
        if !matches!(event, Event::Progress(_)) {
            self.tell_last_progress();
        }
        match event {
            Event::Transferred => {
                self.laps.transferred = Some(Instant::now());
                let transfer_us = self.laps.transfer_us();
                tracing::info!(event = "transferred", transfer_us, "the successor has everything, and initialises");
                self.tell(News::Transferred, "the successor has everything, and initialises");
                self.generation.transferred();
                None
            }
            Event::Progress(message) => {
                self.generation.progress(message.clone());
                self.untold = Some(message);
                None
            }
            Event::Ready => {
                self.laps.ready = Some(Instant::now());
                tracing::info!(event = "ready", initialise_us = self.laps.initialise_us(), "the successor can serve");
                self.tell(News::Ready, "the successor can serve");
                Some(Milestone::Ready)
            }
            Event::Active => {
                self.laps.active = Some(Instant::now());
                let attempt = self.attempt(Outcome::Completed);
                let (pause_us, total_us) = (attempt.pause_us, attempt.total_us);
                tracing::info!(event = "active", pause_us, total_us, "the successor serves");
                let event = match self.is_to_keeper() {
                    true => self.event(News::Kept, "a keeper has the service: connections wait for the next process"),
                    false => self.event(News::Active, "the successor serves"),
                };
                self.generation.conclude(attempt, event, Lifecycle::hand_over);
                Some(Milestone::Active)
            }
            Event::Stranded => {
                const STRANDED: &str = "released to a successor that is silent and cannot be ended from here: it may \
                     be serving, so this process must not; end that process by hand, and this one takes the service back";
                tracing::error!(event = "stranded", "{STRANDED}");
                self.tell(News::Stranded, STRANDED);
                self.generation.strand();
                None
            }
            Event::ProbationOver => {
                // Whoever watches this process has nobody to take back from any more: this one watches its successor.
                self.generation.say_to_predecessor(Word::Settle(Ending::HandedOver));
                None
            }
            Event::Settled(ending) => {
                let text = match ending {
                    Ending::Stopped => "the successor has stopped: the service is to end",
                    _ => "another process serves after the successor",
                };
                tracing::info!(event = "settled", "{text}");
                self.tell(News::Settled, text);
                self.generation.wind_up(ending);
                // It may have, for a reason before this one.
                self.has_let_go = false;
                Some(Milestone::Settled(ending))
            }
            Event::Departed => {
                self.over = true;
                Some(Milestone::Departed)
            }
            Event::Failed(cause) => Some(self.end(Owner::StillUs, Outcome::Failed, cause, table)),
            Event::TakenBack(cause) => Some(self.end(Owner::UsAgain, Outcome::TakenBack, cause, table)),
            Event::Unknown(cause) => Some(self.end(Owner::Unknown, Outcome::OwnerUnknown, cause, table)),
        }
    }

    // M139
    fn end(&mut self, owner: Owner, outcome: Outcome, cause: Cause, table: &[BorrowedFd<'_>]) -> Milestone {
        self.over = true;
        if owner != Owner::Unknown {
            self.put_right(table);
        }
        let reason = wire::shorten(&cause.to_string(), wire::MAX_TEXT);
        let news = match outcome {
            Outcome::TakenBack => News::TakenBack,
            Outcome::OwnerUnknown => News::OwnerUnknown,
            _ => News::Failed,
        };
        let event = self.event(news, &reason);
        let attempt = wire::Attempt { reason: Some(reason), ..self.attempt(outcome) };
        let (total_us, phase) = (attempt.total_us, self.generation.phase());
        if owner == Owner::Unknown {
            self.generation.conclude(attempt, event, Lifecycle::conclude);
        } else {
            self.resume(attempt, event);
        }
        let reason = &cause;
        match owner {
            Owner::StillUs => {
                const TEXT: &str = "the handoff failed; this process went on serving";
                tracing::warn!(event = "failed", %reason, %phase, total_us, "{TEXT}");
            }
            Owner::UsAgain => {
                const TEXT: &str = "the handoff failed; this process takes the service back";
                tracing::warn!(event = "taken_back", %reason, %phase, total_us, "{TEXT}");
            }
            Owner::Unknown | Owner::Successor => {
                const TEXT: &str = "the handoff failed, and nobody knows who serves";
                tracing::error!(event = "owner_unknown", %reason, %phase, total_us, "{TEXT}");
            }
        }
        if owner != Owner::Unknown {
            self.end_child();
        }
        Milestone::Over(Failure::new(owner, Error::Handoff(cause)))
    }

    /// A successor that has failed may have left O_NONBLOCK changed.
    // M138
    fn put_right(&mut self, table: &[BorrowedFd<'_>]) {
        // Where this process has let everything go, something else has the numbers.
        if !self.generation.has_let_go() {
            std::mem::take(&mut self.flags).restore(table);
            restore(self.generation.control().listener.as_fd(), true);
        }
    }

    /// A child that did not take the service has no further use.
    fn end_child(&mut self) {
        if let Some(child) = self.child.take() {
            child.end_in_background(self.generation.config.timeouts.end);
        }
    }

    /// The control socket is this side's again.
    fn resume(&self, attempt: wire::Attempt, event: wire::Event) {
        let released = !self.generation.is_accepting();
        self.generation.conclude(attempt, event, Lifecycle::keep);
        if released {
            self.generation.sign();
            // The successor may have called listen, and would be named as the one that serves.
            let _ = place::listen(self.generation.control().listener.as_fd());
        }
    }

    fn attempt(&self, outcome: Outcome) -> wire::Attempt {
        let instance = self.successor.instance.clone();
        wire::Attempt { instance, ..self.laps.attempt(self.generation.number, self.successor.pid, outcome) }
    }

    /// As the successor tells of it.
    fn tell_of_drain(&self, event: News, connections: Option<u64>, message: String) {
        self.generation.publish(wire::Event {
            event,
            generation: self.generation.number,
            pid: Some(std::process::id()),
            instance: self.generation.lineage.instance().map(str::to_owned),
            elapsed_us: Some(micros(self.laps.began.elapsed())),
            connections,
            message,
        });
    }

    fn tell(&self, news: News, message: &str) {
        self.generation.publish(self.event(news, message));
    }

    fn event(&self, news: News, message: &str) -> wire::Event {
        let event = self.generation.event(news, Some(self.successor.pid), Some(self.laps.began), message);
        wire::Event { instance: self.successor.instance.clone(), ..event }
    }
}

impl Drop for Giving {
    /// Dropped before it has come to an end, this is the end of the process as a rule, and nobody is told anything: the
    /// successor takes over once this process is dead. Where it goes on, the background tells.
    fn drop(&mut self) {
        if self.generation.left() == Some(Leave::Stopped) {
            // Nobody is to take over from a service that has stopped.
            return self.abort("the service has stopped");
        }
        if self.over || self.laps.released.is_some() || self.generation.left().is_some() {
            return;
        }
        self.put_right(&[]);
        let reason = "the predecessor's application gave up".to_owned();
        let attempt = wire::Attempt { reason: Some(reason.clone()), ..self.attempt(Outcome::Failed) };
        let event = self.event(News::Failed, &reason);
        self.generation.conclude(attempt, event, Lifecycle::keep);
        self.end_child();
        if let Some(link) = self.link.take() {
            self.generation.drop_handoff(link);
        }
    }
}

/// How far a drain is, for people.
pub(crate) fn left(connections: u64) -> String {
    match connections {
        1 => "1 connection is left".to_owned(),
        count => format!("{count} connections are left"),
    }
}
