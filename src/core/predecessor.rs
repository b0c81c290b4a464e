//! The predecessor: it gives, and answers for the service until its successor does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{CLOSE_GRACE, Cause, Input, Output, Packet, Peer, Role, Waits};
use crate::core::wire::{
    Abort, ClientFrame, Descriptors, Draining, Ending, Entry, ErrorCode, Failure, Farewell, MAX_BATCH, MAX_FAREWELLS,
    MAX_LINE, MAX_TEXT, MAX_UNACKNOWLEDGED, Offer, Receive, Received, Release, Renew, ServerFrame, Settled, Snapshot,
    StateInfo, WireError, shorten,
};

/// The giving side of one handoff, from `receive` on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Predecessor<F> {
    step: Step,
    successor: Receive,
    waits: Waits,
    /// Whether the kernel will tell us of the successor's death: whether there is a pidfd.
    sees_death: bool,
    /// Descriptors that have not been sent.
    descriptors: VecDeque<(Arc<Entry>, F)>,
    snapshot: Option<Packet<F>>,
    /// The successor closed its end.
    closed: bool,
    /// What the lock of the owner is being taken for.
    claim: Option<Claim>,
    /// How many frames were refused after release: whoever sends more of them hears nothing more.
    refused: u8,
    deadline: Option<Instant>,
    outputs: VecDeque<Output<ServerFrame, F, PredecessorEvent>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    /// The application has not made its offer.
    Requested,
    /// Batches are on their way.
    Transferring { sent: u32, acknowledged: u32 },
    /// The successor has everything.
    Initialising,
    /// It said ready; the application has to release.
    Ready,
    /// Nobody accepts here. The successor may.
    Released,
    /// The successor is being ended.
    Fencing,
    /// The successor may be serving, is silent, and cannot be ended.
    Stranded,
    /// The successor serves.
    Draining { probation_ends: Instant, settled: Option<Ending> },
    /// The farewell has been said; only probation goes on.
    Parting { probation_ends: Instant },
    /// Nothing more will happen.
    Over,
}

/// What this side takes the lock of the owner for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Claim {
    /// The successor is lost.
    TakeBack(Cause),
    /// The release could not be sent, so nothing was given up.
    Keep(Cause),
}

/// How many frames that may not come are refused by name after release.
const MAX_REFUSED: u8 = 16;

/// What an offer gives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gift<F> {
    /// The offer; the machine fills in the counts and the state's description.
    pub offer: Offer,
    /// The predecessor's own pidfd.
    pub pidfd: Option<F>,
    /// The descriptors, in order.
    pub descriptors: VecDeque<(Arc<Entry>, F)>,
    /// The snapshot.
    pub snapshot: Option<Packet<F>>,
}

/// What the application asks of a predecessor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PredecessorCommand<F> {
    /// Make the offer.
    Offer(Box<Gift<F>>),
    /// The application has stopped accepting.
    Release {
        /// The final state.
        state: Option<Packet<F>>,
        /// See [`Release::monotonic_us`].
        monotonic_us: u64,
        /// See [`Release::timens`].
        timens: Option<u64>,
    },
    /// The keeper is to have a newer snapshot.
    Checkpoint(Packet<F>),
    /// What the keeper has is not what is served any more.
    Renew,
    /// So many connections are left.
    Draining(u64),
    /// The application has drained. The states are its predecessor's that it did not read, then its own.
    Farewell(Vec<Packet<F>>),
    /// This side has let everything go, since the successor has stopped: nobody will take back.
    LetGo,
    /// Give up.
    Abort(ErrorCode, String),
}

/// What a predecessor tells its application.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PredecessorEvent {
    /// The successor has everything, and initialises.
    Transferred,
    /// How that goes.
    Progress(String),
    /// The successor can serve: stop accepting, and release.
    Ready,
    /// The successor serves.
    Active,
    /// Nobody may know whether the successor serves; it could not be ended. Stay out.
    Stranded,
    /// The successor has been watched for as long as it had to be.
    ProbationOver,
    /// The successor's end will be no reason to take back: let copies go. Where it has
    /// [stopped](Ending::Stopped), it waits until that is done, see [`PredecessorCommand::LetGo`].
    Settled(Ending),
    /// The handoff failed; this side never stopped serving.
    Failed(Cause),
    /// This side released, and owns the service again.
    TakenBack(Cause),
    /// This side released, and will never know what became of the service. Stay out.
    Unknown(Cause),
    /// The handoff is over, and this side is free to exit.
    Departed,
}

impl<F> Predecessor<F> {
    /// Begins a handoff to the successor that said `receive`. `sees_death` says whether the kernel will
    /// report its death (whether there is a pidfd of it).
    pub fn new(successor: Receive, mut waits: Waits, sees_death: bool) -> Self {
        if successor.standby {
            // It serves nobody, and there is nothing to watch it for: this side gives the service up because it stops.
            waits.probation = Duration::ZERO;
        }
        Predecessor {
            step: Step::Requested,
            successor,
            waits,
            sees_death,
            descriptors: VecDeque::new(),
            snapshot: None,
            closed: false,
            claim: None,
            refused: 0,
            deadline: None,
            outputs: VecDeque::new(),
        }
    }

    // M50
    fn command(&mut self, now: Instant, command: PredecessorCommand<F>) {
        match (command, self.step) {
            (PredecessorCommand::Offer(gift), Step::Requested) => self.offer(now, *gift),
            (PredecessorCommand::Release { state, monotonic_us, timens }, Step::Ready) => {
                self.release(now, state, monotonic_us, timens);
            }
            // M171
            (PredecessorCommand::Checkpoint(packet), Step::Ready) if self.successor.standby => {
                self.send(Snapshot { state: packet.info }, vec![packet.memfd]);
            }
            // M172
            (PredecessorCommand::Renew, _) if self.successor.standby && self.has_not_released() => {
                self.send(Renew {}, vec![]);
                self.end(PredecessorEvent::Failed(Cause::Renewed));
            }
            (PredecessorCommand::Draining(connections), Step::Draining { .. }) => {
                self.send(Draining { connections }, vec![]);
            }
            // It hears nothing more, and waits until this side has let go.
            (PredecessorCommand::Farewell(_), Step::Draining { settled: Some(Ending::Stopped), .. }) => {}
            (PredecessorCommand::Farewell(states), Step::Draining { probation_ends, settled }) => {
                if !self.closed {
                    self.farewell(states);
                }
                if settled.is_some() {
                    return self.depart();
                }
                self.part(now, probation_ends);
            }
            (PredecessorCommand::LetGo, Step::Draining { settled: Some(Ending::Stopped), .. }) => self.depart(),
            (PredecessorCommand::Abort(code, reason), _) if self.has_not_released() => {
                self.send(Abort { code, reason: shorten(&reason, MAX_TEXT) }, vec![]);
                self.end(PredecessorEvent::Failed(Cause::Here(reason)));
            }
            // The successor's death or abort ended the handoff while the application was on its way here,
            // and the event already says so.
            _ => {}
        }
    }

    // M43, M141
    fn offer(&mut self, now: Instant, gift: Gift<F>) {
        let Gift { mut offer, pidfd, descriptors, snapshot } = gift;
        if let Some(cause) = self.unread(snapshot.as_ref()) {
            return self.fail(cause);
        }
        offer.descriptors = descriptors.len() as u32;
        offer.batches = count_batches(&descriptors);
        self.descriptors = descriptors;
        offer.pidfd = pidfd.is_some();
        offer.state = snapshot.as_ref().map(|packet| packet.info.clone());
        self.snapshot = snapshot;
        self.send(offer, pidfd.into_iter().collect());
        self.transfer(now, 0, 0);
    }

    /// Gives the service up, unless there is nobody to take it: while nothing is given up, a mistake costs
    /// nothing.
    // M52, M120, M141
    fn release(&mut self, now: Instant, state: Option<Packet<F>>, monotonic_us: u64, timens: Option<u64>) {
        if self.closed {
            return self.fail(Cause::Closed(Peer::Successor));
        }
        if let Some(cause) = self.unread(state.as_ref()) {
            return self.fail(cause);
        }
        let (info, fds) = unpack(state);
        self.outputs.push_back(Output::Disclaim);
        self.send(Release { state: info, monotonic_us, timens }, fds);
        self.step = Step::Released;
        self.deadline = Some(now + self.waits.active);
    }

    /// What to say where the successor does not read this state.
    fn unread(&self, state: Option<&Packet<F>>) -> Option<Cause> {
        // M177
        if self.successor.standby {
            // It passes states on, and reads none.
            return None;
        }
        let StateInfo { schema, fingerprint, .. } = state?.info;
        let schemas = &self.successor.schemas;
        if !schemas.contains(&schema) {
            return Some(Cause::Schema { offered: schema, accepted: schemas.clone() });
        }
        let (offered, accepted) = (fingerprint?, self.successor.fingerprints.as_ref()?);
        (!accepted.contains(&offered)).then(|| Cause::Fingerprint { offered, accepted: accepted.clone() })
    }

    /// Sends as many batches as may be on their way, and the snapshot once all of them have arrived.
    // M44
    fn transfer(&mut self, now: Instant, mut sent: u32, acknowledged: u32) {
        while sent - acknowledged < MAX_UNACKNOWLEDGED && !self.descriptors.is_empty() {
            let count = next_batch(self.descriptors.iter().map(|(entry, _)| entry));
            let (entries, fds) = self.descriptors.drain(..count).unzip();
            self.send(Descriptors { batch: sent, entries }, fds);
            sent += 1;
        }
        if acknowledged < sent {
            self.step = Step::Transferring { sent, acknowledged };
            self.wait_for_successor(now + self.waits.transfer);
            return;
        }
        if let Some(packet) = self.snapshot.take() {
            self.send(Snapshot { state: packet.info }, vec![packet.memfd]);
        }
        self.step = Step::Initialising;
        self.wait_for_successor(now + self.waits.ready);
        self.event(PredecessorEvent::Transferred);
    }

    /// Sets the deadline, save where the successor has closed its end: it cannot answer, and what is left of
    /// the close grace is all that there is to wait for.
    fn wait_for_successor(&mut self, until: Instant) {
        if !self.closed {
            self.deadline = Some(until);
        }
    }

    // M85, M86
    fn farewell(&mut self, mut states: Vec<Packet<F>>) {
        // The newest are kept: as many generations as there are places have left the oldest unread.
        states.drain(..states.len().saturating_sub(MAX_FAREWELLS));
        let Some(last) = states.pop() else {
            return self.send(Farewell { state: None, more: false }, vec![]);
        };
        for packet in states {
            self.send(Farewell { state: Some(packet.info), more: true }, vec![packet.memfd]);
        }
        self.send(Farewell { state: Some(last.info), more: false }, vec![last.memfd]);
    }

    // M47, M65, M76
    fn frame(&mut self, now: Instant, frame: ClientFrame) {
        match (frame, self.step) {
            (_, Step::Over) => {}
            (ClientFrame::Received(Received { batch }), Step::Transferring { sent, acknowledged })
                if batch == acknowledged =>
            {
                self.transfer(now, sent, acknowledged + 1);
            }
            (ClientFrame::Progress(progress), Step::Initialising) if progress.message.len() > MAX_TEXT => {
                let message = format!("a progress message of {} bytes", progress.message.len());
                self.fail(Cause::Violation(Peer::Successor, message));
            }
            (ClientFrame::Progress(progress), Step::Initialising) => {
                self.deadline = Some(now + self.waits.ready);
                self.event(PredecessorEvent::Progress(progress.message));
            }
            (ClientFrame::Ready(_), Step::Initialising) => {
                self.step = Step::Ready;
                self.deadline = None;
                self.event(PredecessorEvent::Ready);
            }
            (ClientFrame::Active(_), Step::Released | Step::Stranded) => {
                let probation_ends = now + self.waits.probation;
                self.step = Step::Draining { probation_ends, settled: None };
                self.deadline = Some(probation_ends);
                self.event(PredecessorEvent::Active);
            }
            // One that hands over and is told to stop says it twice, and what says more counts.
            (ClientFrame::Settled(Settled { ending }), Step::Draining { settled: Some(before), .. })
                if ending != Ending::Stopped || before == Ending::Stopped => {}
            (ClientFrame::Settled(Settled { ending }), Step::Draining { probation_ends, .. }) => {
                self.settled(probation_ends, ending);
            }
            (ClientFrame::Settled(Settled { ending }), Step::Parting { probation_ends }) => {
                self.settled(probation_ends, ending);
                if ending != Ending::Stopped {
                    self.depart();
                }
            }
            // A successor that is being ended cannot change its mind by saying that it serves.
            (ClientFrame::Active(_), Step::Fencing) => {}
            // It did serve before the signal reached it, and has stopped in good order, or handed over itself:
            // another generation may accept.
            (ClientFrame::Settled(Settled { ending }), Step::Fencing) => {
                self.event(PredecessorEvent::Active);
                self.settled(now, ending);
            }
            (ClientFrame::Abort(abort), _) => self.lost(Cause::Aborted {
                peer: Peer::Successor,
                code: abort.code,
                reason: shorten(&abort.reason, MAX_TEXT),
            }),
            (frame, _) => self.out_of_order(frame.tag()),
        }
    }

    /// A frame that may not come now. Before release it ends the handoff. After release the successor may
    /// be serving, so the frame is refused and everything else stays as it is.
    // M77
    fn out_of_order(&mut self, frame: &'static str) {
        let cause = Cause::OutOfOrder { peer: Peer::Successor, frame };
        if self.has_not_released() {
            return self.fail(cause);
        }
        self.refuse(cause.code(), cause.to_string());
    }

    /// Garbage before release ends the handoff. After it, the successor may be serving all the same: only
    /// its death, its word or the deadline decides.
    // M77
    fn garbled(&mut self, error: WireError) {
        if self.has_not_released() {
            return self.fail(Cause::Garbled(Peer::Successor, error));
        }
        self.refuse(error.code(), shorten(&error.to_string(), MAX_TEXT));
    }

    /// Says that a frame means nothing, and reads the next.
    // M128
    fn refuse(&mut self, code: ErrorCode, message: String) {
        if self.step != Step::Over && self.refused < MAX_REFUSED {
            self.refused += 1;
            self.send(Failure { code, message }, vec![]);
        }
    }

    /// Nobody takes back from here on. A successor that has stopped waits until everybody has let go, however far this
    /// side's drain is.
    fn settled(&mut self, probation_ends: Instant, ending: Ending) {
        self.step = Step::Draining { probation_ends, settled: Some(ending) };
        self.deadline = None;
        self.event(PredecessorEvent::Settled(ending));
    }

    /// Stays until probation is over. A successor that has closed without a word has crashed, and is about to die: this side
    /// stays for that as long as a drain may take, if the kernel will tell.
    fn part(&mut self, now: Instant, probation_ends: Instant) {
        self.step = Step::Parting { probation_ends };
        let dying = self.closed && self.sees_death;
        let until = if dying { probation_ends.max(now + self.waits.drain) } else { probation_ends };
        self.deadline = Some(until);
        if until <= now {
            self.depart();
        }
    }

    /// Not a byte of a frame has left, and it cannot be sent now. Before release that ends the handoff, and so it does
    /// where it is the release: nothing was given up. What comes later is tried again.
    // M121
    fn unsent(&mut self, frame: &'static str, reason: String) {
        let cause = Cause::Unsent { frame, reason };
        if self.has_not_released() {
            self.outputs.push_back(Output::Withdraw);
            self.fail(cause);
        } else if self.step == Step::Released && frame == "release" && self.claim.is_none() {
            self.outputs.push_back(Output::Withdraw);
            self.claim(Claim::Keep(cause));
        }
    }

    fn claim(&mut self, claim: Claim) {
        self.deadline = None;
        self.claim = Some(claim);
        self.outputs.push_back(Output::Claim);
    }

    /// Whether the service is this side's now. Where another process was faster, it is that one's.
    // M124
    fn claimed(&mut self, ours: bool) {
        match (self.claim.take(), ours, self.step) {
            (Some(Claim::TakeBack(cause)), true, _) => self.end(PredecessorEvent::TakenBack(cause)),
            (Some(Claim::Keep(cause)), true, _) => self.fail(cause),
            (Some(_), false, Step::Draining { probation_ends, .. }) => {
                self.settled(probation_ends, Ending::HandedOver);
            }
            (Some(_), false, Step::Parting { probation_ends }) => {
                self.settled(probation_ends, Ending::HandedOver);
                self.depart();
            }
            (Some(Claim::TakeBack(cause) | Claim::Keep(cause)), false, _) => {
                self.end(PredecessorEvent::Unknown(cause));
            }
            (None, ..) => {}
        }
    }

    // M48, M77, M78
    fn timeout(&mut self, now: Instant) {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        self.deadline = None;
        match self.step {
            _ if self.closed && self.has_not_released() => self.fail(Cause::Closed(Peer::Successor)),
            Step::Transferring { .. } => self.fail(late("received", self.waits.transfer)),
            Step::Initialising => self.fail(late("ready", self.waits.ready)),
            Step::Released => {
                self.step = Step::Fencing;
                self.outputs.push_back(Output::Fence);
            }
            Step::Parting { .. } => self.depart(),
            Step::Draining { .. } => self.event(PredecessorEvent::ProbationOver),
            Step::Requested | Step::Ready | Step::Fencing | Step::Stranded | Step::Over => {}
        }
    }

    // M67, M77
    fn eof(&mut self, now: Instant) {
        self.closed = true;
        if self.has_not_released() {
            // Dead or alive, it can no longer take over. Which of the two makes the better message.
            let grace = if self.sees_death { CLOSE_GRACE } else { Duration::ZERO };
            self.deadline = Some(now + grace);
            return;
        }
        if let Step::Parting { probation_ends } = self.step {
            self.part(now, probation_ends);
        }
        self.give_up_if_blind();
    }

    /// The kernel took the signal, and the successor's death will follow; or it may not be ended from here.
    // M79
    fn fenced(&mut self, ended: bool) {
        if self.step == Step::Fencing && !ended {
            self.step = Step::Stranded;
            self.event(PredecessorEvent::Stranded);
            self.give_up_if_blind();
        }
    }

    /// Where the kernel cannot report the successor's death, a closed connection is the last thing that
    /// this side will ever learn. It proves nothing, so this side stays out.
    // M69, M79
    fn give_up_if_blind(&mut self) {
        if self.closed && !self.sees_death && self.step == Step::Stranded {
            self.end(PredecessorEvent::Unknown(Cause::Closed(Peer::Successor)));
        }
    }

    /// The successor is dead, or has said that it does not serve: the service is this side's.
    // M70, M74, M75, M76, M78
    fn lost(&mut self, cause: Cause) {
        match self.step {
            Step::Over => {}
            Step::Draining { settled: Some(_), .. } => self.deadline = None,
            Step::Released | Step::Fencing | Step::Stranded | Step::Draining { .. } | Step::Parting { .. } => {
                if self.claim.is_none() {
                    self.claim(Claim::TakeBack(cause));
                }
            }
            Step::Requested | Step::Transferring { .. } | Step::Initialising | Step::Ready => {
                self.end(PredecessorEvent::Failed(cause));
            }
        }
    }

    /// Ends a handoff before release, and says why to the successor.
    // M88
    fn fail(&mut self, cause: Cause) {
        let reason = shorten(&cause.to_string(), MAX_TEXT);
        self.send(Abort { code: cause.code(), reason }, vec![]);
        self.end(PredecessorEvent::Failed(cause));
    }

    fn depart(&mut self) {
        self.end(PredecessorEvent::Departed);
    }

    fn end(&mut self, event: PredecessorEvent) {
        self.step = Step::Over;
        self.deadline = None;
        self.descriptors.clear();
        self.snapshot = None;
        self.event(event);
    }

    fn has_not_released(&self) -> bool {
        matches!(self.step, Step::Requested | Step::Transferring { .. } | Step::Initialising | Step::Ready)
    }

    fn send(&mut self, frame: impl Into<ServerFrame>, fds: Vec<F>) {
        self.outputs.push_back(Output::Send(frame.into(), fds));
    }

    fn event(&mut self, event: PredecessorEvent) {
        self.outputs.push_back(Output::Event(event));
    }
}

impl<F> Role for Predecessor<F> {
    type Fd = F;
    type Incoming = ClientFrame;
    type Outgoing = ServerFrame;
    type Command = PredecessorCommand<F>;
    type Event = PredecessorEvent;

    #[cfg(feature = "fault-injection")]
    fn give_up(reason: &str) -> PredecessorCommand<F> {
        PredecessorCommand::Abort(ErrorCode::Application, reason.to_owned())
    }

    fn handle(&mut self, now: Instant, input: Input<Self>) {
        match input {
            Input::Frame(frame, fds) if fds.is_empty() => self.frame(now, frame),
            Input::Frame(..) => self.garbled(WireError::StrayDescriptors),
            Input::Garbled(error) => self.garbled(error),
            Input::Eof => self.eof(now),
            Input::Died => self.lost(Cause::Died(Peer::Successor)),
            Input::Timeout => self.timeout(now),
            Input::Fenced(ended) => self.fenced(ended),
            Input::Claimed(ours) => self.claimed(ours),
            Input::Unsent { frame, reason } => self.unsent(frame, reason),
            Input::Command(command) => self.command(now, command),
        }
    }

    fn poll_output(&mut self) -> Option<Output<ServerFrame, F, PredecessorEvent>> {
        self.outputs.pop_front()
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

fn late(awaited: &'static str, after: Duration) -> Cause {
    Cause::Late { peer: Peer::Successor, awaited, after }
}

fn unpack<F>(state: Option<Packet<F>>) -> (Option<StateInfo>, Vec<F>) {
    match state {
        Some(packet) => (Some(packet.info), vec![packet.memfd]),
        None => (None, vec![]),
    }
}

/// In how many batches the descriptors go.
fn count_batches<F>(descriptors: &VecDeque<(Arc<Entry>, F)>) -> u32 {
    let mut sent = 0;
    let mut batches = 0;
    while sent < descriptors.len() {
        sent += next_batch(descriptors.range(sent..).map(|(entry, _)| entry));
        batches += 1;
    }
    batches
}

/// How many of these make the next batch: as many as fit a message and a line.
// M11, M21
fn next_batch<'a>(entries: impl Iterator<Item = &'a Arc<Entry>>) -> usize {
    // The frame around the entries: {"type":"descriptors","batch":16384,"entries":[]} and a newline.
    const FRAME: usize = 64;

    let mut length = FRAME;
    let fits = |entry: &&Arc<Entry>| {
        length += entry_length(entry);
        length <= MAX_LINE
    };
    entries.take(MAX_BATCH).take_while(fits).count()
}

/// An upper bound of an entry's length on the wire. Escaping makes a byte six at the most.
fn entry_length(entry: &Entry) -> usize {
    // Every field's key and the longest numbers.
    const FIXED: usize = 256;
    let texts = entry.name.as_str().len() + entry.addr.as_ref().map_or(0, String::len);
    FIXED + 6 * texts
}
