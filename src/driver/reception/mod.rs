//! Serves the control socket in the background: greets, answers those who look, and hands a successor that
//! says `receive` to the application. It also hears signals, and the predecessor while that one drains.
//!
//! Nothing here waits; a driver steps it and waits for its poller in between.

mod denials;
mod lookout;
mod predecessor;
mod session;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::wire::{Ending, ErrorCode, Failure, Frame, ServerFrame};
use crate::core::{Inspector, Leave, MAX_INSPECTORS, Predecessor, PredecessorCommand};
use crate::driver::channel::{Link, Point, pass};
use crate::driver::descriptor::Attachment;
use crate::driver::generation::{Arrival, Asker, Generation, Watch, Word};
use crate::driver::pace::Pace;
use crate::driver::place::{self, BACKLOG};
use crate::driver::signals::Caught;
use crate::error::Error;
use crate::state::panic_message;
use crate::sys::event::{Interest, Poller};
use crate::sys::limits::{self, Reserve};
use crate::sys::{process, socket};
use denials::Denials;
use lookout::Lookout;
use predecessor::Followed;
use session::{Session, Turn};

const LISTENER: u64 = 0;
const WAKE: u64 = 1;
const PREDECESSOR: u64 = 2;
const STOP: u64 = 3;
const UPGRADE: u64 = 4;
const PATH: u64 = 5;
const FIRST_SESSION: u64 = 6;

/// What a handoff opens here: its connection and the pidfd of its successor, a poller, our own pidfd, a memfd for each of the
/// states, and what it takes to start a child.
const HANDOFF_FILES: usize = 12;
/// How many connections are accepted every two milliseconds: at this pace whoever comes behind a full backlog of somebody else's
/// ([`BACKLOG`]) has his answer within a fraction of a tenth of a second.
const ACCEPTS_A_TURN: u32 = 8;
/// How many connections may wait at a control socket whose path was lost: the kernel lets in one more than it was told.
const MAX_WAITING: usize = BACKLOG as usize + 1;
/// How long to leave the listener alone when the process is out of descriptors.
const OUT_OF_FILES_PAUSE: Duration = Duration::from_millis(100);
/// How long a handoff that was dropped has to turn out as the end of this process.
const DROP_GRACE: Duration = Duration::from_millis(100);
/// How often in a row the background may panic before it gives up.
const MAX_PANICS: u32 = 8;

#[derive(Debug)]
pub(crate) struct Reception {
    generation: Arc<Generation>,
    poller: Arc<Poller>,
    /// Looks after the control path.
    lookout: Lookout,
    /// The signals that it hears. Their default actions come back when this is dropped.
    signals: Option<Arc<Caught>>,
    hears_signals: bool,
    sessions: HashMap<u64, Session>,
    /// Those whose turn ended before everything that they said was answered.
    unfinished: Vec<u64>,
    next_session: u64,
    predecessor: Option<Followed>,
    /// Handoffs that were dropped, and when their successors are told.
    dropped: Vec<(Link<Predecessor<Attachment>>, Instant)>,
    /// Whether the poller watches the listener.
    listening: bool,
    /// Until when it does not, though it should.
    paused_until: Option<Instant>,
    pace: Pace,
    denials: Denials,
    /// How often in a row it has panicked.
    panics: u32,
    /// For when the limit of open files is reached.
    reserve: Reserve,
}

/// What to do after a step.
pub(crate) enum Next {
    /// Wait for the poller, or until this moment.
    Wait(Option<Instant>),
    /// Nothing: it is over.
    Exit,
}

impl Reception {
    /// Everything is in its poller from here on, so that nothing that comes later can fail: the listener, and the
    /// connection to the predecessor, which it does not hear yet.
    pub(crate) fn new(
        generation: Arc<Generation>,
        signals: Option<Arc<Caught>>,
        predecessor: Option<&Poller>,
    ) -> io::Result<Reception> {
        let poller = Poller::new()?;
        poller.add(generation.wake.as_fd(), WAKE, Interest::Read)?;
        poller.add(generation.control().listener.as_fd(), LISTENER, Interest::HangUp)?;
        if let Some(predecessor) = predecessor {
            poller.add(predecessor.as_fd(), PREDECESSOR, Interest::HangUp)?;
        }
        if let Some(signals) = &signals {
            poller.add(signals.stop.as_fd(), STOP, Interest::HangUp)?;
            poller.add(signals.upgrade.as_fd(), UPGRADE, Interest::HangUp)?;
        }
        let poller = Arc::new(poller);
        let lookout = Lookout::new(Arc::clone(&generation), Arc::clone(&poller));
        Ok(Reception {
            generation,
            poller,
            lookout,
            signals,
            hears_signals: false,
            sessions: HashMap::new(),
            unfinished: Vec::new(),
            next_session: FIRST_SESSION,
            predecessor: None,
            dropped: Vec::new(),
            listening: false,
            paused_until: None,
            pace: Pace::new(ACCEPTS_A_TURN, ACCEPTS_A_TURN),
            denials: Denials::default(),
            panics: 0,
            reserve: Reserve::keep(),
        })
    }

    pub(crate) fn poller(&self) -> &Arc<Poller> {
        &self.poller
    }

    /// Does all that can be done now. A panic in it, in a subscriber of `tracing` for instance, ends what it was about and
    /// nothing else; where it comes again and again, whoever operates the service is told that nobody hears any more.
    pub(crate) fn step(&mut self, now: Instant) -> Next {
        match catch_unwind(AssertUnwindSafe(|| self.try_step(now))) {
            Ok(next) => {
                self.panics = 0;
                next
            }
            Err(_) if self.panics < MAX_PANICS => {
                self.panics += 1;
                // What it has left undone is looked at again.
                Next::Wait(Some(now + DROP_GRACE))
            }
            Err(panic) => {
                self.generation.break_down(panic_message(&*panic));
                Next::Exit
            }
        }
    }

    fn try_step(&mut self, now: Instant) -> Next {
        let mut ready = self.poller.ready().unwrap_or_default();
        let mut unfinished = std::mem::take(&mut self.unfinished);
        unfinished.extend(self.waiting());
        ready.extend(unfinished.into_iter().filter(|token| !ready.contains(token)).collect::<Vec<_>>());
        for token in ready {
            match token {
                WAKE => self.generation.wake.lower(),
                LISTENER => self.accept(now),
                PATH => self.lookout.stir(),
                PREDECESSOR | STOP | UPGRADE => {}
                session => self.serve(session, now),
            }
        }
        self.hear_signals();
        self.follow_predecessor(now);
        self.end_dropped(now);
        self.expire(now);
        self.let_go(now);
        self.keep_path(now);
        self.watch_listener(now);
        self.denials.tell(now, self.generation.number);
        // Looked at first: what happened before the application was done is passed on.
        let done = self.generation.is_done();
        self.pass_on_news();
        if done {
            self.leave(now);
            return Next::Exit;
        }
        self.reserve.refill();
        if !self.unfinished.is_empty() {
            // Nothing else tells of what has been received already.
            self.generation.wake.raise();
        }
        Next::Wait(self.deadline())
    }

    /// Those who ask for the service and wait until the one before them is gone, in the order in which they came.
    fn waiting(&self) -> Vec<u64> {
        let waiting = self.sessions.iter().filter(|(_, session)| session.waits.is_some());
        let mut waiting: Vec<u64> = waiting.map(|(token, _)| *token).collect();
        waiting.sort_unstable();
        waiting
    }

    /// From the moment that the service is this process's: before, they are for whoever initialises.
    fn hear_signals(&mut self) {
        if self.generation.left().is_some() {
            // Nothing is left for them to say.
            return self.forget_signals();
        }
        let Some(signals) = self.signals.as_ref().filter(|_| self.generation.has_owned()) else { return };
        if !std::mem::replace(&mut self.hears_signals, true) {
            // They are in the set, so this does not fail.
            let _ = self.poller.change(signals.stop.as_fd(), STOP, Interest::Read);
            let _ = self.poller.change(signals.upgrade.as_fd(), UPGRADE, Interest::Read);
        }
        if signals.stop.came() {
            self.generation.ask_stop();
        }
        if signals.upgrade.came() {
            if let Err(busy) = self.generation.ask_upgrade(None, Asker::Nobody) {
                let generation = self.generation.number;
                tracing::warn!(event = "busy", generation, reason = %busy, "a signal asked for an upgrade in vain");
            }
        }
    }

    fn forget_signals(&mut self) {
        if let Some(signals) = self.signals.take() {
            self.poller.remove(signals.stop.as_fd());
            self.poller.remove(signals.upgrade.as_fd());
        }
    }

    /// Listens to the predecessor, from the moment that the service is ours until it is gone.
    fn follow_predecessor(&mut self, now: Instant) {
        if let Some(link) = self.generation.take_link() {
            self.predecessor =
                Some(Followed::new(Arc::clone(&self.generation), Arc::clone(&self.poller), PREDECESSOR, link));
        }
        // It may have said farewell and watch us still: what we have to say to it goes over this connection.
        let ended = self.predecessor.as_mut().is_some_and(|predecessor| !predecessor.step(now));
        if ended {
            self.predecessor = None;
            self.generation.unwatched();
        }
    }

    /// A handoff that was dropped is given up by this process, if that goes on: its successor hears so.
    fn end_dropped(&mut self, now: Instant) {
        let dropped = self.generation.take_dropped();
        self.dropped.extend(dropped.into_iter().map(|link| (link, now + DROP_GRACE)));
        if self.generation.left().is_some_and(|how| how != Leave::Stopped) {
            return self.dropped.clear();
        }
        for (link, _) in self.dropped.iter_mut().filter(|(_, at)| *at <= now) {
            let reason = "the predecessor's application gave up".to_owned();
            link.command(PredecessorCommand::Abort(ErrorCode::Application, reason));
            while link.step(now, &[]).is_some() {}
        }
        self.dropped.retain(|(_, at)| *at > now);
    }

    /// Closes this process's copies of everything, once it is time to.
    fn let_go(&mut self, now: Instant) {
        if !self.generation.is_to_let_go(now) {
            return;
        }
        self.poller.remove(self.generation.control().listener.as_fd());
        self.listening = false;
        self.generation.let_go();
    }

    /// Where the path was lost and put back, those who have connected before are heard as well.
    fn keep_path(&mut self, now: Instant) {
        let Some(replaced) = self.lookout.step(now) else { return };
        // The new one is watched as the old one was.
        self.listening = false;
        let waiting = std::iter::from_fn(|| place::accept(&replaced.listener).ok());
        for stream in waiting.take(MAX_WAITING) {
            if let Err(error) = self.greet(stream, now) {
                tracing::debug!(event = "connection_lost", %error, "a control connection went away at once");
            }
        }
    }

    /// The application is done: the predecessor is told how, unless this is a crash.
    fn leave(&mut self, now: Instant) {
        // What was said between the last look and the end.
        self.pass_on_news();
        if self.generation.left() == Some(Leave::Stopped) {
            // This end is none to take over from.
            self.dropped.iter_mut().for_each(|(_, at)| *at = now);
        }
        self.end_dropped(now);
        self.follow_predecessor(now);
        self.poller.remove(self.generation.control().listener.as_fd());
    }

    fn deadline(&self) -> Option<Instant> {
        let sessions = self.sessions.values().filter_map(|session| session.inspector.deadline());
        let predecessor = self.predecessor.as_ref().and_then(Followed::deadline);
        let dropped = self.dropped.iter().map(|(_, at)| *at);
        let lets_go = self.generation.lets_go_at().into_iter().chain(self.lookout.deadline());
        sessions
            .chain(predecessor)
            .chain(dropped)
            .chain(lets_go)
            .chain(self.paused_until)
            .chain(self.denials.deadline())
            .min()
    }

    /// Watches the listener exactly while it is ours to accept on.
    fn watch_listener(&mut self, now: Instant) {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        let wanted = self.paused_until.is_none() && self.generation.is_accepting() && !self.generation.has_let_go();
        if wanted == self.listening {
            return;
        }
        let interest = if wanted { Interest::Read } else { Interest::HangUp };
        // It is in the set until it is let go, so this does not fail.
        let _ = self.poller.change(self.generation.control().listener.as_fd(), LISTENER, interest);
        self.listening = wanted;
    }

    fn accept(&mut self, now: Instant) {
        while self.paused_until.is_none() {
            let Some(accepted) = self.generation.accept() else { return };
            match accepted {
                Ok(stream) => {
                    self.paused_until = self.pace.take(now);
                    if let Err(error) = self.greet(stream, now) {
                        tracing::debug!(event = "connection_lost", %error, "a control connection went away at once");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if self.makes_way(&error) => {}
                Err(error) if is_out_of_files(&error) => {
                    tracing::warn!(event = "accept_failed", %error, "cannot accept on the control socket");
                    self.paused_until = Some(now + OUT_OF_FILES_PAUSE);
                    return;
                }
                Err(error) => {
                    tracing::debug!(event = "connection_lost", %error, "a control connection failed");
                    return;
                }
            }
        }
    }

    // M28, M30, M38
    fn greet(&mut self, stream: UnixStream, now: Instant) -> Result<(), Error> {
        let peer = socket::peer_credentials(&stream).map_err(Error::io("read a peer's credentials"))?;
        if let Err(denied) = self.generation.config.peers.check(&peer) {
            self.denials.note(peer);
            let word = ServerFrame::from(Failure { code: ErrorCode::Denied, message: denied.to_string() });
            // Who has no room for it does without: nobody waits for those who may not connect.
            return socket::send(&stream, &word.to_line()).map(drop).map_err(Error::io("turn somebody away"));
        }
        // Best effort: without it the kernel closes what is sent here on arrival.
        let _ = socket::refuse_descriptors(stream.as_fd());
        let pidfd = self.pidfd_of(&stream, peer.pid());
        let token = self.next_session;
        self.next_session += 1;
        let mut session = Session::new(stream, token, pidfd, now)?;
        pass(Point::BeforeSend, "hello");
        session.say(&ServerFrame::from(self.generation.hello()));
        if self.sessions.len() >= MAX_INSPECTORS {
            self.dismiss_quietest(Inspector::evicted());
        }
        self.poller.add(session.channel.as_fd(), token, Interest::Read).map_err(Error::io("watch a connection"))?;
        self.sessions.insert(token, session);
        // A successor speaks first, and needs no further wake-up.
        self.serve(token, now);
        Ok(())
    }

    /// A successor whose death we cannot see is a worse one: those who look make room for its pidfd.
    fn pidfd_of(&mut self, stream: &UnixStream, pid: i32) -> Option<OwnedFd> {
        loop {
            match socket::peer_pidfd(stream).or_else(|_| process::pidfd_of(pid)) {
                Ok(pidfd) => return Some(pidfd),
                Err(error) if self.makes_way(&error) => {}
                Err(_) => return None,
            }
        }
    }

    /// Where a descriptor could not be opened for want of room: finds some, first where it costs nobody anything. What a
    /// handoff needs of the reserve is spent last.
    fn makes_way(&mut self, error: &io::Error) -> bool {
        let at_limit = limits::is_at_limit(error);
        (at_limit && (limits::raise() || limits::spend(HANDOFF_FILES)))
            || (is_out_of_files(error) && self.dismiss_quietest(Inspector::out_of_files()))
            || (at_limit && limits::spend(0))
    }

    /// Sees to it that those who look leave a handoff the descriptors that it needs.
    fn spare_files(&mut self) {
        while self.reserve.refill() < HANDOFF_FILES {
            if !limits::raise() && !self.dismiss_quietest(Inspector::out_of_files()) {
                return;
            }
        }
    }

    /// Ends the session that has been quiet longest. Returns whether there was one.
    // M38
    fn dismiss_quietest(&mut self, word: ServerFrame) -> bool {
        // Several that came in one step share a moment; tokens tell which was first.
        let quietest = self.sessions.iter().min_by_key(|(token, session)| (session.inspector.rank(), **token));
        let Some(token) = quietest.map(|(token, _)| *token) else { return false };
        self.dismiss(token, word);
        true
    }

    fn dismiss(&mut self, token: u64, word: ServerFrame) {
        if let Some(mut session) = self.sessions.remove(&token) {
            self.poller.remove(session.channel.as_fd());
            session.last_word(word);
        }
    }

    /// Tells those who listen what has happened. One that does not read what it asked for is let go.
    // M89
    fn pass_on_news(&mut self) {
        let notices = self.generation.take_notices();
        if notices.is_empty() {
            return;
        }
        self.sessions.retain(|_, session| {
            if !session.inspector.listens() {
                return true;
            }
            notices.iter().for_each(|notice| session.hear(notice));
            session.flush();
            let stays = !session.is_spent();
            if stays {
                session.rearm(&self.poller)
            } else {
                self.poller.remove(session.channel.as_fd())
            }
            stays
        });
        // Some may have gone since they were last counted.
        let listening = self.sessions.values().filter(|session| session.inspector.listens()).count();
        self.generation.listening(listening);
    }

    // M37
    fn expire(&mut self, now: Instant) {
        let is_late = |session: &Session| session.inspector.deadline().is_some_and(|deadline| deadline <= now);
        let late = self.sessions.iter().filter(|(_, session)| is_late(session));
        let late: Vec<u64> = late.map(|(token, _)| *token).collect();
        for token in late {
            self.dismiss(token, Inspector::timeout());
        }
    }

    /// Reads from one session once, and answers what is whole.
    fn serve(&mut self, token: u64, now: Instant) {
        let Some(mut session) = self.sessions.remove(&token) else {
            // It waits for the application, and the only thing that is listened for is its end.
            if self.generation.withdraw(token) {
                session::hung_up(&self.generation);
            }
            return;
        };
        match session.turn(&self.generation, now) {
            stays @ (Turn::Stays | Turn::Unfinished) => {
                if matches!(stays, Turn::Unfinished) {
                    self.unfinished.push(token);
                }
                session.rearm(&self.poller);
                self.sessions.insert(token, session);
            }
            Turn::Ends => self.poller.remove(session.channel.as_fd()),
            Turn::Begins(receive) if receive.standby => {
                let Session { channel, pidfd, .. } = session;
                self.poller.remove(channel.as_fd());
                let watched = Watch { poller: Arc::clone(&self.poller), token };
                self.generation.keeper_arrives(Arrival { channel, receive, pidfd, began: now, watched });
            }
            Turn::Begins(receive) => {
                self.settle_unless_arbitrated();
                self.follow_predecessor(now);
                self.spare_files();
                let Session { channel, pidfd, .. } = session;
                // Until the application accepts it, it may hang up. The connection is in the set, so this does not fail.
                let _ = self.poller.change(channel.as_fd(), token, Interest::HangUp);
                let watched = Watch { poller: Arc::clone(&self.poller), token };
                self.generation.arrive(Arrival { channel, receive, pidfd, began: now, watched });
            }
        }
    }

    /// A predecessor without the lock that the owner holds is not to take back from here on: it could not tell that another
    /// process serves by then.
    // M83
    fn settle_unless_arbitrated(&self) {
        let arbitrated = self.generation.arbiter.as_ref().is_some_and(|arbiter| arbiter.is_inherited());
        if !arbitrated {
            self.generation.say_to_predecessor(Word::Settle(Ending::HandedOver));
        }
    }
}

impl Drop for Reception {
    /// A runtime that shuts down drops its tasks where they are. An application that let the service go before that has
    /// said how, and its predecessor hears it all the same.
    fn drop(&mut self) {
        if self.generation.left().is_some() {
            // It may never have got to run.
            self.follow_predecessor(Instant::now());
        }
    }
}

fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::EMFILE | nix::libc::ENFILE))
}
