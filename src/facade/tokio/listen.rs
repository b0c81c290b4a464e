//! The predecessor's side on tokio.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use ::tokio::task::JoinHandle;

use super::{Watched, seal};
use crate::core::Leave;
use crate::core::wire::Ending;
use crate::driver::child::Spawned;
use crate::driver::generation::{Generation, SETTLE};
use crate::driver::giving::{Giving, Milestone, Offer};
use crate::driver::reception::{Next, Reception};
use crate::error::{Error, Failure, Owner, Result, StateError};
use crate::state::{Received, State};
use crate::sys::event::Poller;

/// The control socket of a generation that serves. A task serves those who look.
///
/// Dropped before the service has been handed over, it is the end of a process that has crashed, as [`crate::Control`] is.
#[derive(Debug)]
pub struct Control {
    generation: Arc<Generation>,
    arrivals: Watched<Arrivals>,
    farewells: Watched<Farewells>,
    let_go: Watched<LetGo>,
    background: JoinHandle<()>,
}

/// A count of a generation, as a descriptor that tokio can hold.
macro_rules! counts {
    ($($name:ident: $signal:ident,)*) => {$(
        #[derive(Debug)]
        struct $name(Arc<Generation>);

        impl AsFd for $name {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.0.$signal.as_fd()
            }
        }

        impl AsRawFd for $name {
            fn as_raw_fd(&self) -> RawFd {
                self.as_fd().as_raw_fd()
            }
        }
    )*};
}

counts! {
    Arrivals: arrivals,
    Farewells: farewells,
    Departed: departed,
    LetGo: let_go,
}

impl Control {
    pub(super) fn inner(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// Starts the task that serves the control socket.
    pub(super) fn begin(generation: Arc<Generation>, reception: Reception) -> Result<Control> {
        let poller = Watched::new(Arc::clone(reception.poller()))?;
        Ok(Control {
            arrivals: Watched::new(Arrivals(Arc::clone(&generation)))?,
            farewells: Watched::new(Farewells(Arc::clone(&generation)))?,
            let_go: Watched::new(LetGo(Arc::clone(&generation)))?,
            generation,
            background: ::tokio::spawn(run(reception, poller)),
        })
    }

    /// [`crate::Control::accept`] on tokio. Cancelling it loses nothing.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn accept(&self) -> Result<Successor> {
        loop {
            if let Some(arrival) = self.generation.try_accept() {
                let giving = Giving::new(Arc::clone(&self.generation), arrival?);
                return Successor::new(giving.inspect_err(|_| self.generation.no_successor())?);
            }
            self.arrivals.wait(None).await;
        }
    }

    /// This process's generation, from 1.
    pub fn generation(&self) -> u64 {
        self.generation.number
    }

    /// [`crate::Control::register`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register(&self, name: &str, fd: &impl AsFd) -> Result<()> {
        self.generation.register(name, fd)
    }

    /// [`crate::Control::final_state`]: bytes, to be decoded with [`decode`](super::decode).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn final_state(&self) -> Result<Option<Received>, StateError> {
        self.generation.take_final_state()
    }

    /// [`crate::Control::farewell`] on tokio. Cancelling it loses nothing.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn farewell(&self) -> Result<Option<Received>> {
        loop {
            if let Some(farewell) = self.generation.try_farewell() {
                return Ok(farewell?);
            }
            self.farewells.wait(None).await;
        }
    }

    /// [`crate::Control::close`] on tokio.
    pub async fn close(self) {
        if !self.generation.is_accepting() {
            return;
        }
        self.generation.wind_up(Ending::Stopped);
        let until = Instant::now() + SETTLE + SETTLE;
        while !self.generation.has_let_go() && Instant::now() < until {
            self.let_go.wait(Some(until)).await;
        }
        self.generation.leave(Leave::Stopped);
        self.ended().await;
    }

    /// [`crate::Control::fail`] on tokio.
    pub async fn fail(self, reason: impl std::fmt::Display) {
        self.generation.fail(&reason.to_string());
        self.ended().await;
    }

    /// Waits for the background, which has been told to end.
    pub(super) async fn ended(mut self) {
        // It has nothing to say, and a panic in it has been printed.
        let _ = (&mut self.background).await;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.generation.leave(Leave::Crashed);
    }
}

/// The background task.
async fn run(mut reception: Reception, poller: Watched<Arc<Poller>>) {
    loop {
        match reception.step(Instant::now()) {
            Next::Wait(deadline) => poller.wait(deadline).await,
            Next::Exit => return,
        }
    }
}

/// A [`Giving`] that can be waited for.
#[derive(Debug)]
struct Driven {
    giving: Giving,
    poller: Watched<Arc<Poller>>,
}

impl Driven {
    /// Waits until a milestone is reached, or the handoff is over before.
    async fn wait_for(&mut self, table: &[BorrowedFd<'_>], reached: fn(&Milestone) -> bool) -> Result<(), Failure> {
        loop {
            match self.giving.poll(table) {
                Some(Milestone::Over(failure)) => return Err(failure),
                Some(milestone) if reached(&milestone) => return Ok(()),
                Some(_) => {}
                None => self.wait().await,
            }
        }
    }

    async fn wait(&self) {
        self.poller.wait(self.giving.deadline()).await;
    }

    /// Waits until this process's own predecessor has said its farewells.
    async fn await_predecessor(&mut self) -> Result<(), Failure> {
        let departed = Departed(Arc::clone(self.giving.generation()));
        let departed = Watched::new(departed).map_err(|error| Failure::new(Owner::Successor, error))?;
        while self.giving.awaits_predecessor() {
            if let Some(Milestone::Over(failure)) = self.giving.poll(&[]) {
                return Err(failure);
            }
            ::tokio::select! {
                () = departed.wait(None) => {}
                () = self.wait() => {}
            }
        }
        Ok(())
    }
}

/// A successor that asks for the service.
#[derive(Debug)]
pub struct Successor(Driven);

impl Successor {
    pub(super) fn new(giving: Giving) -> Result<Successor> {
        let poller = Watched::new(Arc::clone(giving.poller()))?;
        Ok(Successor(Driven { giving, poller }))
    }

    /// The successor's process id, as it sees itself.
    pub fn pid(&self) -> u32 {
        self.0.giving.successor().pid
    }

    /// The successor's version of the application.
    pub fn version(&self) -> &str {
        &self.0.giving.successor().version
    }

    /// Says that the successor is this process's own child, which is then ended (SIGTERM, and SIGKILL after
    /// [`Timeouts::end`](crate::Timeouts)) and reaped if it does not take the service.
    #[must_use]
    pub fn with_child(mut self, child: Spawned) -> Successor {
        self.0.giving.with_child(child);
        self
    }

    /// [`crate::Successor::offer`] on tokio. Cancelling it turns the successor away.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn offer(mut self, mut offer: Offer<'_>) -> Result<Ready, Failure> {
        let driven = &mut self.0;
        let snapshot = seal(offer.take_state()).await.map_err(Error::from);
        let table = snapshot.and_then(|snapshot| driven.giving.offer(offer, snapshot));
        let table = table.map_err(|error| driven.giving.give_up(error))?;
        driven.wait_for(&table, |milestone| matches!(milestone, Milestone::Ready)).await?;
        Ok(Ready(self.0))
    }

    /// Turns the successor away.
    pub fn refuse(mut self, reason: &str) {
        self.0.giving.abort(reason);
    }
}

/// A successor that can serve. Stop accepting, then release.
#[derive(Debug)]
pub struct Ready(Driven);

impl Ready {
    /// [`crate::Ready::release`] on tokio. **Stop accepting before this call**, and do not cancel it: nobody
    /// would watch over the service.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn release(mut self, state: Option<State>) -> Result<Released, Failure> {
        let driven = &mut self.0;
        let state = seal(state).await.map_err(|error| driven.giving.give_up(error.into()))?;
        driven.giving.release(state);
        driven.wait_for(&[], |milestone| matches!(milestone, Milestone::Active)).await?;
        Ok(Released(self.0))
    }

    /// Keeps the service, and turns the successor away.
    pub fn refuse(mut self, reason: &str) {
        self.0.giving.abort(reason);
    }
}

/// The service is the successor's. Drain, then say farewell.
#[derive(Debug)]
pub struct Released(Driven);

impl Released {
    /// [`crate::Released::draining`].
    pub fn draining(&mut self, connections: u64) {
        self.0.giving.draining(connections);
        self.0.giving.push();
    }

    /// Waits until the successor is lost: this process owns the service again, and should accept. To be
    /// selected against the drain. Cancelling it loses nothing.
    pub async fn lost(&mut self) -> Failure {
        loop {
            match self.0.giving.poll(&[]) {
                Some(Milestone::Over(failure)) => return failure,
                Some(_) => {}
                None => self.0.wait().await,
            }
        }
    }

    /// [`crate::Released::farewell`] on tokio.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn farewell(mut self, state: Option<State>) -> Result<(), Failure> {
        let driven = &mut self.0;
        let sealed = seal(state).await;
        driven.await_predecessor().await?;
        let lost = driven.giving.farewell(sealed);
        loop {
            match driven.giving.poll(&[]) {
                Some(Milestone::Over(failure)) => return Err(failure),
                Some(_) => {}
                None if driven.giving.is_done() => {
                    driven.giving.generation().leave(Leave::HandedOver);
                    return lost.map_or(Ok(()), Err);
                }
                None => driven.wait().await,
            }
        }
    }
}
