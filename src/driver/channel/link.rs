//! A role on its channel: moves frames between the two and watches the peer live. Still without waiting: a
//! driver steps it, and waits for [`Link::poller`] or [`Link::deadline`] in between.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Span;

#[cfg(feature = "fault-injection")]
use super::fault::{Strike, strike};
use super::{Carried, Channel, Fill, Point, Stuck};
use crate::core::wire::{Frame, WireError};
use crate::core::{Input, Output, Role};
use crate::driver::arbiter::{Arbiter, Claim};
use crate::driver::pace::Pace;
use crate::sys::event::{Interest, Poller};
use crate::sys::process;

const STREAM: u64 = 0;
const PEER: u64 = 1;
/// How many inputs are taken in before it is the others' turn, and the deadline's: no peer puts it off by talking. At once, as
/// many as may have come while this process was stopped; and every two milliseconds, more than a handoff of 16,384
/// descriptors has.
const INPUTS_AT_ONCE: u32 = 1024;
const INPUTS_A_TURN: u32 = 64;
/// For how long, and how often, a lock is tried that somebody else holds: a child of the dead owner's has it until it has
/// become another program (`execve(2)`).
const CLAIM_FOR: Duration = Duration::from_millis(50);
const CLAIM_AGAIN: Duration = Duration::from_millis(5);
/// How soon to try again what the kernel would not take: descriptors of others are in flight, or memory is short.
const RETRY: Duration = Duration::from_millis(10);
/// For how long.
const RETRY_FOR: Duration = Duration::from_secs(5);

/// A role and its connection.
#[derive(Debug)]
pub(crate) struct Link<R: Role> {
    pub(crate) role: R,
    channel: Channel<R::Fd>,
    poller: Arc<Poller>,
    peer: Option<OwnedFd>,
    /// What was handed to the role already.
    said_eof: bool,
    said_dead: bool,
    garbled: bool,
    /// What the poller waits for.
    interest: Interest,
    /// Since when the kernel takes nothing, and when to try again.
    stuck: Option<(Instant, Instant)>,
    /// Since when the lock is tried that somebody else holds, and when to try again.
    claiming: Option<(Instant, Instant)>,
    pace: Pace,
    /// Until when nothing more is taken in.
    paused_until: Option<Instant>,
    /// When the service became this process's, if it has.
    claimed: Option<Instant>,
    /// What the owner of the service holds.
    pub(crate) arbiter: Option<Arc<Arbiter>>,
    /// The handoff that this connection is for. Entered in steps, which do not wait, and held by whoever logs about it.
    pub(crate) span: Span,
    /// A fault that a test has asked for ends the process, and nothing is to happen before.
    #[cfg(feature = "fault-injection")]
    frozen: bool,
}

impl<R: Role> Link<R>
where
    R::Fd: Carried,
{
    pub(crate) fn new(role: R, channel: Channel<R::Fd>, peer: Option<OwnedFd>) -> io::Result<Link<R>> {
        let poller = Poller::new()?;
        poller.add(channel.as_fd(), STREAM, Interest::Read)?;
        let mut link = Link {
            role,
            channel,
            poller: Arc::new(poller),
            peer: None,
            said_eof: false,
            said_dead: false,
            garbled: false,
            interest: Interest::Read,
            stuck: None,
            claiming: None,
            pace: Pace::new(INPUTS_A_TURN, INPUTS_AT_ONCE),
            paused_until: None,
            claimed: None,
            arbiter: None,
            span: Span::none(),
            #[cfg(feature = "fault-injection")]
            frozen: false,
        };
        if let Some(pidfd) = peer {
            link.watch(pidfd)?;
        }
        Ok(link)
    }

    /// Watches the process behind `pidfd` as the peer.
    pub(crate) fn watch(&mut self, pidfd: OwnedFd) -> io::Result<()> {
        self.poller.add(pidfd.as_fd(), PEER, Interest::Read)?;
        self.peer = Some(pidfd);
        Ok(())
    }

    /// The pidfd of the process at the other end, if there is one.
    pub(crate) fn peer(&self) -> Option<&OwnedFd> {
        self.peer.as_ref()
    }

    /// When the service became this process's, if it has, and before the peer was told.
    pub(crate) fn claimed(&self) -> Option<Instant> {
        self.claimed
    }

    /// Another descriptor of the connection.
    pub(crate) fn try_clone(&self) -> io::Result<std::os::unix::net::UnixStream> {
        self.channel.try_clone()
    }

    /// What to wait for between two steps.
    pub(crate) fn poller(&self) -> &Arc<Poller> {
        &self.poller
    }

    /// When to step at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let retry = self.stuck.or(self.claiming).map(|(_, again)| again);
        self.role.deadline().into_iter().chain(retry).chain(self.paused_until).min()
    }

    pub(crate) fn command(&mut self, command: R::Command) {
        self.thaw();
        self.follow(command);
    }

    /// A command that follows from a frame by itself: a fault at that frame still stands.
    pub(crate) fn follow(&mut self, command: R::Command) {
        self.role.handle(Instant::now(), Input::Command(command));
    }

    /// Whether all that was said is out.
    pub(crate) fn is_flushed(&self) -> bool {
        self.channel.queued() == 0
    }

    /// Does all that can be done now. Returns the first event; `None`: wait, then step again.
    // M68
    pub(crate) fn step(&mut self, now: Instant, table: &[BorrowedFd<'_>]) -> Option<R::Event> {
        let span = self.span.clone();
        let _entered = span.enter();
        self.paused_until = self.paused_until.filter(|until| now < *until);
        loop {
            if let Some(event) = self.carry_out(now, table) {
                return Some(event);
            }
            if self.claiming.is_some() {
                return None;
            }
            // What has come counts before the time does: a process that was stopped for a while finds its
            // deadline passed, and in the same moment the word that it waited for.
            if self.paused_until.is_none() && self.take_in(now) {
                self.paused_until = self.pace.take(now);
                continue;
            }
            if self.is_late(now) {
                self.time_out(now);
                continue;
            }
            self.rearm();
            return None;
        }
    }

    /// Says what is to be said, and takes nothing in. Returns the first event.
    pub(crate) fn push(&mut self, now: Instant, table: &[BorrowedFd<'_>]) -> Option<R::Event> {
        let span = self.span.clone();
        let _entered = span.enter();
        let event = self.carry_out(now, table);
        if event.is_none() {
            self.rearm();
        }
        event
    }

    fn is_late(&self, now: Instant) -> bool {
        self.role.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// A peer that reads nothing cannot answer what it has not been sent.
    fn time_out(&mut self, now: Instant) {
        if let Some(frame) = self.channel.unsent() {
            self.role.handle(now, Input::Unsent { frame, reason: "the peer reads nothing".to_owned() });
        }
        if self.is_late(now) {
            self.role.handle(now, Input::Timeout);
        }
    }

    /// Does what the role wants done, up to the first event.
    fn carry_out(&mut self, now: Instant, table: &[BorrowedFd<'_>]) -> Option<R::Event> {
        // What was left over for want of room.
        self.flush(now, table);
        if let Some((since, _)) = self.claiming.filter(|(_, again)| *again <= now) {
            self.claim(now, since);
        }
        while self.claiming.is_none() {
            if self.is_frozen() {
                return None;
            }
            match self.role.poll_output()? {
                Output::Send(frame, fds) => self.send(now, table, &frame, fds),
                Output::Event(event) => return Some(event),
                Output::Fence => self.fence(now),
                Output::Claim => self.claim(now, now),
                Output::Disclaim => self.arbiter.iter().for_each(|arbiter| arbiter.disclaim()),
                Output::Withdraw => self.channel.withdraw(),
            }
        }
        None
    }

    /// The role waits for the answer, and hears nothing else meanwhile.
    fn claim(&mut self, now: Instant, since: Instant) {
        let claim = self.arbiter.as_ref().map_or(Claim::Ours, |arbiter| arbiter.claim());
        if claim == Claim::Held && now.duration_since(since) < CLAIM_FOR {
            self.claiming = Some((since, now + CLAIM_AGAIN));
            return;
        }
        self.claiming = None;
        // Before the peer is told, who then has things to do, and may get this thread's processor.
        self.claimed = (claim == Claim::Ours).then(Instant::now);
        self.role.handle(now, Input::Claimed(claim == Claim::Ours));
    }

    /// One frame is on its way while the next is written.
    fn send(&mut self, now: Instant, table: &[BorrowedFd<'_>], frame: &R::Outgoing, fds: Vec<R::Fd>) {
        self.reach(now, Point::BeforeSend, frame.tag());
        if self.is_frozen() {
            return;
        }
        self.channel.queue(frame, fds);
        self.flush(now, table);
        if self.is_flushed() {
            self.reach(now, Point::AfterSend, frame.tag());
        }
    }

    fn flush(&mut self, now: Instant, table: &[BorrowedFd<'_>]) {
        match self.channel.flush(table) {
            Ok(()) => self.stuck = None,
            Err(Stuck::Unsent { frame, error }) => self.stick(now, frame, &error),
            Err(Stuck::Broken(error)) => self.garble(now, WireError::Broken(sending(&error))),
        }
    }

    /// The role hears of it each time that it was tried, and decides whether it is tried again.
    fn stick(&mut self, now: Instant, frame: &'static str, error: &io::Error) {
        let (since, again) = self.stuck.unwrap_or((now, now));
        if now < again {
            return;
        }
        if now.duration_since(since) > RETRY_FOR {
            self.stuck = None;
            self.channel.withdraw();
            return self.garble(now, WireError::Broken(sending(error)));
        }
        tracing::warn!(event = "unsent", frame, %error, "a frame cannot be sent now");
        self.stuck = Some((since, now + RETRY));
        self.role.handle(now, Input::Unsent { frame, reason: sending(error) });
    }

    /// Hands the role one thing that has happened. Returns whether there was one.
    // M66
    fn take_in(&mut self, now: Instant) -> bool {
        if self.garbled {
            return self.look_at_peer(now, false);
        }
        match self.channel.next_frame(R::Incoming::parse) {
            Some(Ok((frame, fds))) => {
                let tag = frame.tag();
                let fds = fds.into_iter().map(R::Fd::from).collect();
                self.role.handle(now, Input::Frame(frame, fds));
                self.reach(now, Point::AfterReceive, tag);
                return true;
            }
            Some(Err(error)) if error.leaves_the_stream_whole() => {
                self.role.handle(now, Input::Garbled(error));
                return true;
            }
            Some(Err(error)) => {
                self.garble(now, error);
                return true;
            }
            None => {}
        }
        // Looked at before the last receive: what a peer said before it died is read before it counts as dead.
        let dead = self.is_dead();
        match self.channel.fill() {
            Fill::Some => true,
            Fill::Closed if !self.said_eof => {
                self.hang_up();
                self.role.handle(now, Input::Eof);
                true
            }
            Fill::Closed | Fill::Nothing => self.look_at_peer(now, dead),
        }
    }

    fn look_at_peer(&mut self, now: Instant, seen_dead: bool) -> bool {
        if self.said_dead || !(seen_dead || self.garbled && self.is_dead()) {
            return false;
        }
        if let Some(pidfd) = &self.peer {
            self.poller.remove(pidfd.as_fd());
        }
        self.said_dead = true;
        self.role.handle(now, Input::Died);
        true
    }

    fn is_dead(&self) -> bool {
        !self.said_dead && self.peer.as_ref().is_some_and(|pidfd| process::is_dead(pidfd.as_fd()))
    }

    /// Nothing that comes from here on can be understood: the peer counts as silent.
    fn garble(&mut self, now: Instant, error: WireError) {
        if !self.garbled {
            self.garbled = true;
            self.role.handle(now, Input::Garbled(error));
            self.hang_up();
            self.role.handle(now, Input::Eof);
        }
    }

    fn hang_up(&mut self) {
        self.said_eof = true;
        self.poller.remove(self.channel.as_fd());
    }

    fn fence(&mut self, now: Instant) {
        let killed = match &self.peer {
            Some(pidfd) => process::kill(pidfd.as_fd()),
            None => Err(io::Error::new(io::ErrorKind::Unsupported, "no pidfd of it")),
        };
        match killed {
            // Dead already (ESRCH) is as good: its pidfd will say so.
            Err(error) if error.raw_os_error() != Some(nix::libc::ESRCH) => {
                tracing::error!(event = "not_fenced", %error, "the successor is silent and cannot be ended from here");
                self.role.handle(now, Input::Fenced(false));
            }
            _ => self.role.handle(now, Input::Fenced(true)),
        }
    }

    /// Waits for room to send while something is queued, and for what comes unless the peer has said too much at once.
    fn rearm(&mut self) {
        // Where the kernel takes nothing for another reason, there may well be room.
        let sends = self.stuck.is_none() && !self.is_flushed();
        let wanted = match (self.paused_until.is_none(), sends) {
            (true, true) => Interest::Both,
            (true, false) => Interest::Read,
            (false, true) => Interest::Write,
            (false, false) => Interest::HangUp,
        };
        if wanted != self.interest && !self.said_eof {
            // The stream is in the set until hang_up, so this does not fail.
            let _ = self.poller.change(self.channel.as_fd(), STREAM, wanted);
            self.interest = wanted;
        }
    }
}

/// Why a send failed, and what to do.
fn sending(error: &io::Error) -> String {
    format!("sendmsg: {}", crate::error::advised(error))
}

/// Where a test may have asked for a fault.
#[cfg(feature = "fault-injection")]
impl<R: Role> Link<R> {
    pub(crate) fn reach(&mut self, now: Instant, point: Point, tag: &str) {
        match strike(point, tag) {
            Strike::No => {}
            Strike::Abort => self.role.handle(now, Input::Command(R::give_up("a fault that a test has asked for"))),
            Strike::Freeze => self.frozen = true,
        }
    }

    fn is_frozen(&self) -> bool {
        self.frozen
    }

    fn thaw(&mut self) {
        self.frozen = false;
    }
}

/// Where a test may have asked for a fault, in a build that has them. This one has none.
#[cfg(not(feature = "fault-injection"))]
impl<R: Role> Link<R> {
    #[inline(always)]
    pub(crate) fn reach(&mut self, _now: Instant, _point: Point, _tag: &str) {}

    #[inline(always)]
    fn is_frozen(&self) -> bool {
        false
    }

    #[inline(always)]
    fn thaw(&mut self) {}
}
