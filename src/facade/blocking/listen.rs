//! The predecessor's side, blocking: the control socket, and one handoff from `accept` to `farewell`.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crate::core::Leave;
use crate::core::wire::Ending;
use crate::driver::child::Spawned;
use crate::driver::generation::Generation;
use crate::driver::generation::SETTLE;
use crate::driver::giving::{Giving, Milestone, Offer};
use crate::driver::reception::{Next, Reception};
use crate::error::{Error, Failure, Result, StateError};
use crate::state::{Received, State};
use crate::sys::event::wait_readable;

/// The control socket of a generation that serves. A thread named `fd-handoff` serves those who look.
///
/// Dropped before the service has been handed over, it is the end of a process that has crashed: nobody is told anything,
/// and whoever has copies of the sockets takes the service once this process is dead. To stop, call [`Control::close`].
#[derive(Debug)]
pub struct Control {
    generation: Arc<Generation>,
    background: Option<JoinHandle<()>>,
}

impl Control {
    pub(crate) fn inner(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// Starts the thread that serves the control socket.
    pub(crate) fn begin(generation: Arc<Generation>, reception: Reception) -> Result<Control> {
        let background = std::thread::Builder::new().name("fd-handoff".to_owned()).spawn(move || run(reception));
        let background = background.map_err(Error::io("start the thread that serves the control socket"))?;
        Ok(Control { generation, background: Some(background) })
    }

    /// Waits for an authorised successor that says `receive`.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] once the service has been handed over.
    pub fn accept(&self) -> Result<Successor> {
        loop {
            if let Some(arrival) = self.generation.try_accept() {
                let giving = Giving::new(Arc::clone(&self.generation), arrival?);
                return Ok(Successor { giving: giving.inspect_err(|_| self.generation.no_successor())? });
            }
            wait(&[self.generation.arrivals.as_fd()], None)?;
        }
    }

    /// This process's generation, from 1.
    pub fn generation(&self) -> u64 {
        self.generation.number
    }

    /// Names a socket or file in `status`. What is inherited or bound through
    /// [`Inheritance`](crate::Inheritance) is named already; an offer names what it holds.
    ///
    /// # Errors
    ///
    /// A name that is not allowed, or a descriptor that cannot be examined.
    pub fn register(&self, name: &str, fd: &impl AsFd) -> Result<()> {
        self.generation.register(name, fd)
    }

    /// The state that the predecessor sent with its release, once: what had changed since the snapshot.
    ///
    /// # Errors
    ///
    /// Where the state is not what was announced, or has a schema that the configuration does not name.
    pub fn final_state(&self) -> Result<Option<Received>, StateError> {
        self.generation.take_final_state()
    }

    /// Waits for the predecessor's last words: a state, as often as there is one, then `None` once it has
    /// drained, died, or passed its drain deadline. `None` at once where there was no predecessor.
    ///
    /// What is not read here is passed on to this generation's own successor.
    ///
    /// # Errors
    ///
    /// Where a state is not what was announced, or has a schema that the configuration does not name.
    pub fn farewell(&self) -> Result<Option<Received>> {
        loop {
            if let Some(farewell) = self.generation.try_farewell() {
                return Ok(farewell?);
            }
            wait(&[self.generation.farewells.as_fd()], None)?;
        }
    }

    /// Stops the service in good order: its predecessors, should any still drain, let go of their copies of the control
    /// socket, and of every listener that a [`Handoff`](crate::Handoff) accepts on; then the control socket is closed and its
    /// path removed. This takes two seconds at the most. Close your own sockets before, and a start that comes after this finds
    /// their addresses free. A predecessor that is made of these calls closes its sockets itself, at its end at the latest.
    ///
    /// After a handoff it does nothing more than to let go of this object: the service is another process's.
    pub fn close(self) {
        if !self.generation.is_accepting() {
            return;
        }
        self.generation.wind_up(Ending::Stopped);
        let until = Instant::now() + SETTLE + SETTLE;
        while !self.generation.has_let_go() && Instant::now() < until {
            pause(wait_readable(&[self.generation.let_go.as_fd()], Some(until)));
        }
        self.generation.leave(Leave::Stopped);
    }

    /// This process owns the service and cannot serve: it has stopped accepting, if it ever did. A predecessor that still
    /// drains, or watches, hears the reason and takes the service back at once.
    ///
    /// An error that is merely returned from `main` leads there as well, once the kernel says that this process is dead.
    pub fn fail(self, reason: impl std::fmt::Display) {
        self.generation.fail(&reason.to_string());
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.generation.leave(Leave::Crashed);
        if let Some(background) = self.background.take().filter(|_| self.generation.is_done()) {
            // It has nothing to say, and a panic in it has been printed.
            let _ = background.join();
        }
    }
}

/// A successor that asks for the service.
#[derive(Debug)]
pub struct Successor {
    pub(crate) giving: Giving,
}

impl Successor {
    /// The successor's process id, as it sees itself.
    pub fn pid(&self) -> u32 {
        self.giving.successor().pid
    }

    /// The successor's version of the application.
    pub fn version(&self) -> &str {
        &self.giving.successor().version
    }

    /// Says that the successor is this process's own child, which is then ended (SIGTERM, and SIGKILL after
    /// [`Timeouts::end`](crate::Timeouts)) and reaped if it does not take the service.
    #[must_use]
    pub fn with_child(mut self, child: Spawned) -> Successor {
        self.giving.with_child(child);
        self
    }

    /// Gives copies of the descriptors and the snapshot, and waits until the successor can serve. This
    /// process goes on serving all the while.
    ///
    /// # Errors
    ///
    /// A [`Failure`]; this process still owns the service.
    pub fn offer(mut self, mut offer: Offer<'_>) -> Result<Ready, Failure> {
        let snapshot = offer.take_state().map(State::seal).transpose();
        let table = snapshot.map_err(Error::from).and_then(|snapshot| self.giving.offer(offer, snapshot));
        let table = table.map_err(|error| self.giving.give_up(error))?;
        self.giving.wait_for(&table, |milestone| matches!(milestone, Milestone::Ready))?;
        Ok(Ready { giving: self.giving })
    }

    /// Turns the successor away.
    pub fn refuse(mut self, reason: &str) {
        self.giving.abort(reason);
    }
}

/// A successor that can serve. Stop accepting, then release.
#[derive(Debug)]
pub struct Ready {
    giving: Giving,
}

impl Ready {
    /// Releases the service, with what has changed since the snapshot, and waits until the successor serves.
    /// **Stop accepting before this call**: from here on the service is the successor's.
    ///
    /// # Errors
    ///
    /// A [`Failure`]. Where [`Failure::may_serve`] says so, accept again.
    pub fn release(mut self, state: Option<State>) -> Result<Released, Failure> {
        let state = state.map(State::seal).transpose();
        let state = state.map_err(|error| self.giving.give_up(error.into()))?;
        self.giving.release(state);
        self.giving.wait_for(&[], |milestone| matches!(milestone, Milestone::Active))?;
        Ok(Released { giving: self.giving })
    }

    /// Keeps the service, and turns the successor away.
    pub fn refuse(mut self, reason: &str) {
        self.giving.abort(reason);
    }
}

/// The service is the successor's. Drain, then say farewell.
#[derive(Debug)]
pub struct Released {
    giving: Giving,
}

impl Released {
    /// Tells the successor, and whoever looks, how many connections are left.
    pub fn draining(&mut self, connections: u64) {
        self.giving.draining(connections);
        // What happened in the meantime is found by the next wait.
        self.giving.push();
    }

    /// Waits until the successor is lost or `until` has passed: `Some` means that this process owns the service
    /// again, and should accept.
    pub fn lost(&mut self, until: Option<Instant>) -> Option<Failure> {
        loop {
            match self.giving.poll(&[]) {
                Some(Milestone::Over(failure)) => return Some(failure),
                Some(_) => {}
                // It has stopped, and nobody will take the service back.
                None if self.giving.is_done() => return None,
                None if until.is_some_and(|until| until <= Instant::now()) => return None,
                None => self.giving.wait(&[], until),
            }
        }
    }

    /// Says farewell, with what the last connections have changed, after this process's own predecessor has
    /// said its own. Returns when this process may exit.
    ///
    /// # Errors
    ///
    /// A [`Failure`]: the successor was lost, and this process owns the service again; or, with
    /// [`Owner::Successor`](crate::Owner::Successor), the state could not be encoded.
    pub fn farewell(mut self, state: Option<State>) -> Result<(), Failure> {
        let sealed = state.map(State::seal).transpose();
        self.await_predecessor()?;
        let lost = self.giving.farewell(sealed);
        loop {
            match self.giving.poll(&[]) {
                Some(Milestone::Over(failure)) => return Err(failure),
                Some(_) => {}
                None if self.giving.is_done() => {
                    self.giving.generation().leave(Leave::HandedOver);
                    return lost.map_or(Ok(()), Err);
                }
                None => self.giving.wait(&[], None),
            }
        }
    }
}

impl From<Giving> for Released {
    /// A handoff whose successor serves.
    fn from(giving: Giving) -> Released {
        Released { giving }
    }
}

impl Released {
    /// Waits until this process's own predecessor has said its farewells.
    pub(crate) fn await_predecessor(&mut self) -> Result<(), Failure> {
        let generation = Arc::clone(self.giving.generation());
        while self.giving.awaits_predecessor() {
            if let Some(Milestone::Over(failure)) = self.giving.poll(&[]) {
                return Err(failure);
            }
            if self.giving.awaits_predecessor() {
                self.giving.wait(&[generation.departed.as_fd()], None);
            }
        }
        Ok(())
    }
}

impl Giving {
    /// Blocks until a milestone is reached, or the handoff is over before.
    fn wait_for(&mut self, table: &[BorrowedFd<'_>], reached: fn(&Milestone) -> bool) -> Result<(), Failure> {
        loop {
            match self.poll(table) {
                Some(Milestone::Over(failure)) => return Err(failure),
                Some(milestone) if reached(&milestone) => return Ok(()),
                Some(_) => {}
                None => self.wait(&[], None),
            }
        }
    }

    /// Blocks until there may be something to do here or with one of the others, or the moment has come.
    pub(crate) fn wait(&self, also: &[BorrowedFd<'_>], until: Option<Instant>) {
        let mut fds = vec![self.poller().as_fd()];
        fds.extend_from_slice(also);
        pause(wait_readable(&fds, self.deadline().into_iter().chain(until).min()));
    }
}

/// The background thread.
fn run(mut reception: Reception) {
    loop {
        match reception.step(Instant::now()) {
            Next::Wait(deadline) => pause(wait_readable(&[reception.poller().as_fd()], deadline)),
            Next::Exit => return,
        }
    }
}

/// poll(2) on descriptors that are open fails only where the kernel is out of memory: try again a little later.
pub(crate) fn pause(waited: std::io::Result<()>) {
    if let Err(error) = waited {
        tracing::error!(event = "wait_failed", %error, "cannot wait");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn wait(fds: &[BorrowedFd<'_>], deadline: Option<Instant>) -> Result<()> {
    wait_readable(fds, deadline).map_err(Error::io("wait"))
}
