//! The successor: it takes, and serves once its predecessor has released or is dead.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::role::expect_descriptors;
use super::{CLOSE_GRACE, Cause, Input, Output, Packet, Peer, Role, Waits};
use crate::core::wire::{
    Abort, Active, ClientFrame, Descriptors, Ending, Entry, ErrorCode, Farewell, Hello, MAX_BATCH, MAX_DESCRIPTORS,
    MAX_FAREWELLS, MAX_HISTORY, MAX_INSTANCE, MAX_STATE, MAX_SUPERSEDED, MAX_TEXT, Name, Offer, PROTOCOL, Progress,
    Ready, Receive, Received, Release, ServerFrame, Settled, Snapshot, StateInfo, shorten,
};

/// The taking side of one handoff.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Successor<F> {
    step: Step,
    waits: Waits,
    /// The names of the services that this side takes over, where it does not take any.
    services: Option<Vec<String>>,
    /// It keeps the service, and serves nobody.
    standby: bool,
    manifest: Manifest,
    farewells: usize,
    settled: Option<Ending>,
    /// The kernel will tell us of the predecessor's death: its pidfd came with the offer.
    sees_death: bool,
    /// The predecessor closed its end.
    closed: bool,
    /// The predecessor is dead.
    dead: bool,
    /// What came with the release, while the lock of the owner is being taken.
    claim: Option<Claim<F>>,
    deadline: Option<Instant>,
    outputs: VecDeque<Output<ClientFrame, F, SuccessorEvent<F>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    /// `receive` is sent; `hello` and `offer` are to come.
    Requested,
    /// Batches are to come.
    Receiving,
    /// The snapshot is to come.
    AwaitingState,
    /// Everything is here; the application initialises.
    Initialising,
    /// `ready` is sent; the predecessor has to release.
    Readied,
    /// The service is ours. The predecessor drains.
    Serving,
    /// The service is ours. The predecessor has said farewell or is overdue, and until it closes it takes back
    /// if we die.
    Watched,
    /// The service is ours, and the predecessor is gone.
    Alone,
    /// The handoff failed; nothing more will happen.
    Over,
}

/// What this side takes the lock of the owner for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Claim<F> {
    /// The predecessor has released.
    Released(Option<Packet<F>>, Release),
    /// It died without a word.
    Orphaned,
}

/// What the offer announced, and how much of it has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Manifest {
    descriptors: u32,
    batches: u32,
    state: Option<StateInfo>,
    next_batch: u32,
    arrived: u32,
    /// How many descriptors of each name have come.
    names: BTreeMap<Name, u32>,
}

/// What the application asks of a successor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SuccessorCommand {
    /// Tell the predecessor how the initialisation goes, and ask for more time.
    Progress(String),
    /// The application can serve.
    Ready,
    /// This side's end will be no reason to take back.
    Settle(Ending),
    /// The service is this side's, and it cannot serve: it does not accept, and the predecessor is to take back.
    Relinquish(String),
    /// Give up.
    Abort(Cause),
}

/// How the predecessor went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Departure {
    /// It said farewell.
    Farewell,
    /// It died or closed the connection without a farewell.
    Lost,
    /// It passed its drain deadline.
    Overdue,
}

/// What a successor tells its application.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SuccessorEvent<F> {
    /// The greeting.
    Hello(Hello),
    /// The offer, with the predecessor's pidfd.
    Offered(Box<Offer>, Option<F>),
    /// Descriptors that agree with the offer in number; their facts have to be checked.
    Batch(Vec<(Arc<Entry>, F)>),
    /// Everything is here.
    Complete(Option<Packet<F>>),
    /// A keeper is to have this snapshot in the place of the one before.
    Checkpoint(Packet<F>),
    /// The service is ours: accept.
    Released {
        /// The final state.
        state: Option<Packet<F>>,
        /// When the predecessor stopped accepting; absent where it died without a word.
        release: Option<Release>,
    },
    /// The predecessor still has so many connections.
    Draining(u64),
    /// The predecessor's last state, or one that it relays unread.
    Farewell(Packet<F>),
    /// The predecessor is gone.
    Departed(Departure),
    /// The handoff failed; this side must not serve what it received.
    Failed(Cause),
}

impl<F> Successor<F> {
    /// Begins a handoff by saying `receive`.
    pub fn new(receive: Receive, waits: Waits, now: Instant) -> Self {
        Successor {
            step: Step::Requested,
            waits,
            services: receive.services.clone(),
            standby: receive.standby,
            manifest: Manifest::default(),
            farewells: 0,
            settled: None,
            sees_death: false,
            closed: false,
            dead: false,
            claim: None,
            deadline: Some(now + waits.offer),
            outputs: VecDeque::from([Output::Send(receive.into(), vec![])]),
        }
    }

    /// Whether every descriptor and the snapshot have arrived: from here on the predecessor's death does
    /// not lose the service.
    pub fn has_everything(&self) -> bool {
        matches!(self.step, Step::Initialising | Step::Readied | Step::Serving | Step::Watched | Step::Alone)
    }

    /// Whether there is nothing more to hear from the predecessor or to say to it. Until then the connection
    /// has to be kept: without `settled` on it, the predecessor takes our end for a crash.
    // M82
    pub fn is_over(&self) -> bool {
        matches!(self.step, Step::Alone | Step::Over)
    }

    // M49
    fn command(&mut self, now: Instant, command: SuccessorCommand) {
        match (command, self.step) {
            (SuccessorCommand::Progress(message), Step::Initialising) => {
                self.send(Progress { message: shorten(&message, MAX_TEXT) });
            }
            (SuccessorCommand::Ready, Step::Initialising) if self.dead && self.claim.is_none() => self.take_over(),
            (SuccessorCommand::Ready, Step::Initialising) => {
                self.send(Ready {});
                self.step = Step::Readied;
                self.wait_for_release(now);
            }
            (SuccessorCommand::Settle(ending), Step::Serving | Step::Watched)
                if self.settled.is_none() || (ending == Ending::Stopped && self.settled != Some(ending)) =>
            {
                self.settled = Some(ending);
                self.send(Settled { ending });
            }
            (SuccessorCommand::Relinquish(reason), Step::Serving | Step::Watched) => {
                self.outputs.push_back(Output::Disclaim);
                let reason = shorten(&reason, MAX_TEXT);
                self.send(Abort { code: ErrorCode::Application, reason });
                self.step = Step::Alone;
                self.deadline = None;
            }
            // Nobody is there to hear it, and others may wait for the lock.
            (SuccessorCommand::Relinquish(_), Step::Alone) => self.outputs.push_back(Output::Disclaim),
            (SuccessorCommand::Abort(cause), _) => self.fail(cause),
            _ => {}
        }
    }

    // M53, M98
    fn frame(&mut self, now: Instant, frame: ServerFrame, fds: Vec<F>) -> Result<(), Cause> {
        let tag = frame.tag();
        match (frame, self.step) {
            (ServerFrame::Offer(offer), Step::Requested) => self.offer(now, offer, fds),
            (ServerFrame::Descriptors(batch), Step::Receiving) => self.batch(now, batch, fds),
            (ServerFrame::Snapshot(snapshot), Step::AwaitingState) => self.snapshot(snapshot, fds),
            (ServerFrame::Snapshot(snapshot), Step::Readied) if self.standby => self.checkpoint(snapshot, fds),
            (ServerFrame::Release(release), Step::Readied) => self.release(release, fds),
            (ServerFrame::Farewell(farewell), Step::Serving) => self.farewell(farewell, fds),
            (frame, step) => {
                // Order comes before number: a frame in the wrong place may well carry what it says.
                let may_come = match &frame {
                    ServerFrame::Hello(_) => step == Step::Requested,
                    ServerFrame::Draining(_) => step == Step::Serving,
                    ServerFrame::Renew(_) => self.standby && step != Step::Serving,
                    frame => matches!(frame, ServerFrame::Failure(_) | ServerFrame::Abort(_)),
                };
                if !may_come {
                    return Err(Cause::OutOfOrder { peer: Peer::Predecessor, frame: tag });
                }
                expect_descriptors(tag, 0, &fds)?;
                self.plain_frame(frame, step)
            }
        }
    }

    /// A frame that carries no descriptors.
    // M40, M81, M100, M144
    fn plain_frame(&mut self, frame: ServerFrame, step: Step) -> Result<(), Cause> {
        match (frame, step) {
            (ServerFrame::Hello(hello), Step::Requested) => {
                if hello.protocol.negotiate(PROTOCOL).is_none() {
                    return Err(Cause::Refused {
                        code: ErrorCode::Version,
                        message: format!("the service speaks protocol {}, this program {PROTOCOL}", hello.protocol),
                    });
                }
                if let Some(wanted) = self.services.take_if(|services| is_other(services, &hello)) {
                    return Err(Cause::OtherService { found: hello.name, wanted });
                }
                self.event(SuccessorEvent::Hello(hello));
                Ok(())
            }
            (ServerFrame::Draining(draining), Step::Serving) => {
                self.event(SuccessorEvent::Draining(draining.connections));
                Ok(())
            }
            // It refuses something that we said late; we serve all the same.
            (ServerFrame::Failure(_) | ServerFrame::Abort(_), Step::Serving) => Ok(()),
            (ServerFrame::Renew(_), _) => {
                self.end(Cause::Renewed);
                Ok(())
            }
            (ServerFrame::Failure(error), _) => {
                Err(Cause::Refused { code: error.code, message: shorten(&error.message, MAX_TEXT) })
            }
            (ServerFrame::Abort(abort), _) => Err(Cause::Aborted {
                peer: Peer::Predecessor,
                code: abort.code,
                reason: shorten(&abort.reason, MAX_TEXT),
            }),
            (frame, _) => Err(Cause::OutOfOrder { peer: Peer::Predecessor, frame: frame.tag() }),
        }
    }

    fn offer(&mut self, now: Instant, offer: Offer, fds: Vec<F>) -> Result<(), Cause> {
        expect_descriptors("offer", usize::from(offer.pidfd), &fds)?;
        check_offer(&offer)?;
        self.sees_death = offer.pidfd;
        self.manifest.descriptors = offer.descriptors;
        self.manifest.batches = offer.batches;
        self.manifest.state = offer.state.clone();
        self.waits.drain = Duration::from_millis(offer.drain_timeout_ms);
        self.event(SuccessorEvent::Offered(Box::new(offer), fds.into_iter().next()));
        self.next(now);
        Ok(())
    }

    // M101
    fn batch(&mut self, now: Instant, batch: Descriptors, fds: Vec<F>) -> Result<(), Cause> {
        expect_descriptors("descriptors", batch.entries.len(), &fds)?;
        self.manifest.take(&batch).map_err(violation)?;
        self.send(Received { batch: batch.batch });
        self.event(SuccessorEvent::Batch(batch.entries.into_iter().zip(fds).collect()));
        self.next(now);
        Ok(())
    }

    // M46
    fn snapshot(&mut self, snapshot: Snapshot, fds: Vec<F>) -> Result<(), Cause> {
        expect_descriptors("state", 1, &fds)?;
        if Some(&snapshot.state) != self.manifest.state.as_ref() {
            return Err(violation("the state is not the one that the offer announced"));
        }
        let memfd = fds.into_iter().next();
        self.complete(memfd.map(|memfd| Packet { info: snapshot.state, memfd }));
        Ok(())
    }

    /// The length has to be one that may come; what the offer announced was the one before.
    // M171
    fn checkpoint(&mut self, snapshot: Snapshot, fds: Vec<F>) -> Result<(), Cause> {
        expect_descriptors("state", 1, &fds)?;
        if let Some(packet) = packet(Some(snapshot.state), fds)? {
            self.event(SuccessorEvent::Checkpoint(packet));
        }
        Ok(())
    }

    /// What is still to come after the offer or a batch.
    fn next(&mut self, now: Instant) {
        self.deadline = Some(now + self.waits.transfer);
        if self.manifest.next_batch < self.manifest.batches {
            self.step = Step::Receiving;
        } else if self.manifest.state.is_some() {
            self.step = Step::AwaitingState;
        } else {
            self.complete(None);
        }
    }

    fn complete(&mut self, state: Option<Packet<F>>) {
        self.step = Step::Initialising;
        self.deadline = None;
        self.event(SuccessorEvent::Complete(state));
    }

    // M54
    fn release(&mut self, release: Release, fds: Vec<F>) -> Result<(), Cause> {
        expect_descriptors("release", usize::from(release.state.is_some()), &fds)?;
        let state = packet(release.state.clone(), fds)?;
        self.claim(Claim::Released(state, release));
        Ok(())
    }

    /// The predecessor is dead, or about to be, if it has closed without a word: it would have said so if it served on.
    fn wait_for_release(&mut self, now: Instant) {
        if self.standby {
            // The owner releases when it stops, which may be never.
            self.deadline = None;
            return;
        }
        let blind = self.closed && !self.sees_death;
        self.deadline = Some(now + if blind { CLOSE_GRACE } else { self.waits.release });
    }

    fn claim(&mut self, claim: Claim<F>) {
        self.deadline = None;
        self.claim = Some(claim);
        self.outputs.push_back(Output::Claim);
    }

    /// Whether the service is this side's now. Where the predecessor died, another heir of its may have been faster.
    // M123, M124
    fn claimed(&mut self, now: Instant, ours: bool) {
        match self.claim.take() {
            Some(Claim::Released(state, release)) if ours => {
                self.send(Active {});
                self.step = Step::Serving;
                self.deadline = Some(now + self.waits.drain);
                self.event(SuccessorEvent::Released { state, release: Some(release) });
            }
            Some(Claim::Orphaned) if ours => {
                self.step = Step::Alone;
                self.event(SuccessorEvent::Released { state: None, release: None });
                self.event(SuccessorEvent::Departed(Departure::Lost));
            }
            Some(_) => self.fail(Cause::Outrun(Peer::Predecessor)),
            None => {}
        }
    }

    /// What cannot be sent before this side owns the service fails the handoff. What comes later is tried again.
    fn unsent(&mut self, frame: &'static str, reason: String) {
        if !matches!(self.step, Step::Serving | Step::Watched | Step::Alone | Step::Over) {
            self.outputs.push_back(Output::Withdraw);
            self.fail(Cause::Unsent { frame, reason });
        }
    }

    // M86
    fn farewell(&mut self, farewell: Farewell, fds: Vec<F>) -> Result<(), Cause> {
        expect_descriptors("farewell", usize::from(farewell.state.is_some()), &fds)?;
        self.farewells += 1;
        if farewell.more && self.farewells >= MAX_FAREWELLS {
            return Err(violation(format!("more than {MAX_FAREWELLS} farewells")));
        }
        if let Some(packet) = packet(farewell.state, fds)? {
            self.event(SuccessorEvent::Farewell(packet));
        }
        if !farewell.more {
            self.stop_listening(Departure::Farewell);
        }
        Ok(())
    }

    /// The predecessor died with the offer complete and without releasing: nobody else can serve.
    // M72
    fn take_over(&mut self) {
        self.claim(Claim::Orphaned);
    }

    // M67, M69, M71, M176
    fn eof(&mut self, now: Instant) {
        self.closed = true;
        match self.step {
            Step::Requested | Step::Receiving | Step::AwaitingState => {
                self.end(Cause::Closed(Peer::Predecessor));
            }
            // A keeper does not decide by itself who is next.
            Step::Initialising | Step::Readied if self.standby && self.claim.is_none() => {
                self.end(Cause::Closed(Peer::Predecessor));
            }
            // Dead is what the kernel says. If it lives, it serves, and we must not.
            Step::Readied if self.claim.is_none() && !self.sees_death => self.wait_for_release(now),
            Step::Readied => {}
            Step::Serving => self.depart(Departure::Lost),
            Step::Watched => self.step = Step::Alone,
            Step::Initialising | Step::Alone | Step::Over => {}
        }
    }

    // M71, M72, M176
    fn died(&mut self) {
        self.dead = true;
        match self.step {
            Step::Requested | Step::Receiving | Step::AwaitingState => {
                self.end(Cause::Died(Peer::Predecessor));
            }
            Step::Initialising | Step::Readied if self.standby && self.claim.is_none() => {
                self.end(Cause::Died(Peer::Predecessor));
            }
            Step::Readied if self.claim.is_none() => self.take_over(),
            Step::Readied => {}
            Step::Serving => self.depart(Departure::Lost),
            Step::Watched => self.step = Step::Alone,
            Step::Initialising | Step::Alone | Step::Over => {}
        }
    }

    // M73, M87
    fn timeout(&mut self, now: Instant) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.deadline = None;
        match self.step {
            Step::Requested => self.fail(late("offer", self.waits.offer)),
            Step::Receiving => self.fail(late("descriptors", self.waits.transfer)),
            Step::AwaitingState => self.fail(late("state", self.waits.transfer)),
            Step::Readied if self.closed => self.end(Cause::Closed(Peer::Predecessor)),
            Step::Readied => self.fail(late("release", self.waits.release)),
            Step::Serving => self.stop_listening(Departure::Overdue),
            Step::Initialising | Step::Watched | Step::Alone | Step::Over => {}
        }
    }

    /// Gives up, and says so. Once we serve, what the predecessor says can no longer fail us: it is merely
    /// not listened to any more.
    // M80, M81, M88
    fn fail(&mut self, cause: Cause) {
        match self.step {
            Step::Serving => self.depart(Departure::Lost),
            Step::Watched => self.step = Step::Alone,
            Step::Alone | Step::Over => {}
            _ => {
                // What it was about to take is for whoever takes back.
                if self.claim.take().is_some() {
                    self.outputs.push_back(Output::Disclaim);
                }
                let reason = shorten(&cause.to_string(), MAX_TEXT);
                self.send(Abort { code: cause.code(), reason });
                self.end(cause);
            }
        }
    }

    fn depart(&mut self, how: Departure) {
        self.stop_listening(how);
        self.step = Step::Alone;
    }

    /// The predecessor has no more to say that matters, and still takes back if we die.
    fn stop_listening(&mut self, how: Departure) {
        self.step = Step::Watched;
        self.deadline = None;
        self.event(SuccessorEvent::Departed(how));
    }

    fn end(&mut self, cause: Cause) {
        self.step = Step::Over;
        self.deadline = None;
        self.event(SuccessorEvent::Failed(cause));
    }

    fn send(&mut self, frame: impl Into<ClientFrame>) {
        self.outputs.push_back(Output::Send(frame.into(), vec![]));
    }

    fn event(&mut self, event: SuccessorEvent<F>) {
        self.outputs.push_back(Output::Event(event));
    }
}

impl<F> Role for Successor<F> {
    type Fd = F;
    type Incoming = ServerFrame;
    type Outgoing = ClientFrame;
    type Command = SuccessorCommand;
    type Event = SuccessorEvent<F>;

    #[cfg(feature = "fault-injection")]
    fn give_up(reason: &str) -> SuccessorCommand {
        SuccessorCommand::Abort(Cause::Here(reason.to_owned()))
    }

    // M65
    fn handle(&mut self, now: Instant, input: Input<Self>) {
        match input {
            Input::Frame(..) if matches!(self.step, Step::Watched | Step::Alone | Step::Over) => {}
            Input::Frame(frame, fds) => {
                if let Err(cause) = self.frame(now, frame, fds) {
                    self.fail(cause);
                }
            }
            Input::Garbled(error) => self.fail(Cause::Garbled(Peer::Predecessor, error)),
            Input::Eof => self.eof(now),
            Input::Died => self.died(),
            Input::Timeout => self.timeout(now),
            // Only a predecessor ends its peer.
            Input::Fenced(_) => {}
            Input::Claimed(ours) => self.claimed(now, ours),
            Input::Unsent { frame, reason } => self.unsent(frame, reason),
            Input::Command(command) => self.command(now, command),
        }
    }

    fn poll_output(&mut self) -> Option<Output<ClientFrame, F, SuccessorEvent<F>>> {
        self.outputs.pop_front()
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

impl Manifest {
    /// Counts a batch in, if it is the next one and within what the offer announced.
    // M45, M58
    fn take(&mut self, batch: &Descriptors) -> Result<(), String> {
        let count = batch.entries.len();
        if batch.batch != self.next_batch {
            return Err(format!("batch {} came where {} was due", batch.batch, self.next_batch));
        }
        if count == 0 || count > MAX_BATCH {
            return Err(format!("a batch has {count} descriptors; 1 to {MAX_BATCH} are allowed"));
        }
        self.next_batch += 1;
        self.arrived += count as u32;
        let last = self.next_batch == self.batches;
        if self.arrived > self.descriptors || (last && self.arrived < self.descriptors) {
            return Err(format!("{} descriptors came; the offer announced {}", self.arrived, self.descriptors));
        }
        // Those of one name come together as a rule, and are looked up together.
        for group in batch.entries.chunk_by(|one, next| one.name == next.name) {
            let seen = self.names.entry(group[0].name.clone()).or_default();
            for entry in group {
                if entry.index != *seen {
                    return Err(format!("the name \"{}\" came twice with index {}", entry.name, entry.index));
                }
                *seen += 1;
            }
        }
        Ok(())
    }
}

/// Whether a service is none of these. A name that nobody has chosen says nothing: it changes with the file's.
fn is_other(services: &[String], hello: &Hello) -> bool {
    hello.named != Some(false) && !services.contains(&hello.name)
}

// M27, M42
fn check_offer(offer: &Offer) -> Result<(), Cause> {
    if offer.protocol < PROTOCOL.min || offer.protocol > PROTOCOL.max {
        let message = format!("the offer is for protocol {}, this program speaks {PROTOCOL}", offer.protocol);
        return Err(Cause::Refused { code: ErrorCode::Version, message });
    }
    if offer.descriptors as usize > MAX_DESCRIPTORS {
        let message = format!("{} descriptors are offered; at most {MAX_DESCRIPTORS} can move", offer.descriptors);
        return Err(violation(message));
    }
    if offer.batches > offer.descriptors || (offer.batches == 0) != (offer.descriptors == 0) {
        return Err(violation(format!("{} descriptors in {} batches", offer.descriptors, offer.batches)));
    }
    if offer.history.len() > MAX_HISTORY {
        return Err(violation(format!("a history of {} attempts", offer.history.len())));
    }
    // It goes on into our own status and offers, which have to fit a line.
    if offer.history.iter().flat_map(|attempt| &attempt.reason).any(|reason| reason.len() > MAX_TEXT) {
        return Err(violation(format!("a reason of more than {MAX_TEXT} bytes in the history")));
    }
    if offer.superseded.len() > MAX_SUPERSEDED || offer.superseded.iter().any(|instance| instance.len() > MAX_INSTANCE)
    {
        return Err(violation("too many superseded instances, or too long a name of one"));
    }
    if offer.generation == 0 || offer.generation == u64::MAX {
        return Err(violation(format!("generation {}", offer.generation)));
    }
    offer.state.as_ref().map_or(Ok(()), check_state)
}

fn check_state(info: &StateInfo) -> Result<(), Cause> {
    if info.length > MAX_STATE {
        return Err(violation(format!("a state of {} bytes; at most {MAX_STATE} are allowed", info.length)));
    }
    if info.codec.len() > MAX_TEXT {
        return Err(violation("a codec's name is too long"));
    }
    Ok(())
}

fn packet<F>(info: Option<StateInfo>, fds: Vec<F>) -> Result<Option<Packet<F>>, Cause> {
    let Some(info) = info else { return Ok(None) };
    check_state(&info)?;
    Ok(fds.into_iter().next().map(|memfd| Packet { info, memfd }))
}

fn violation(message: impl Into<String>) -> Cause {
    Cause::Violation(Peer::Predecessor, message.into())
}

fn late(awaited: &'static str, after: Duration) -> Cause {
    Cause::Late { peer: Peer::Predecessor, awaited, after }
}
