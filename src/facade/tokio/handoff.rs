//! The facade on tokio. A task hears signals, requests and successors, from the first call of
//! [`Handoff::superseded`] on.

use std::sync::Arc;
use std::time::Duration;

use ::tokio::sync::oneshot;
use ::tokio::time::{MissedTickBehavior, interval, timeout};

use super::handle::Handle;
use super::listen::{Control, Ready, Released, Successor};
use super::{Watched, off_runtime};
use crate::config::Config;
use crate::driver::giving::Giving;
use crate::driver::steward::{Duty, Steward};
use crate::error::{Failure, Result, StateError};
use crate::facade::registry::{self, Registry};
use crate::facade::{Absorb, Announcer, Finish, HandoffBuilder, Hook, Hooks, TELL};
use crate::state::{Received, State};

/// How long connections may take to end once the drain deadline has passed.
const ENDING: Duration = Duration::from_secs(1);

/// [`crate::Handoff`] on tokio: a service that serves, hands itself over, and stops.
///
/// ```no_run
/// use fd_handoff::{Finish, SignalKind};
/// use fd_handoff::tokio::Handoff;
///
/// # async fn main_() -> Result<(), Box<dyn std::error::Error>> {
/// let mut starting = Handoff::builder("/run/app/handoff.sock")
///     .upgrade_on(SignalKind::hangup())
///     .stop_on(SignalKind::terminate())
///     .start()
///     .await?;
/// let listener = starting.tcp_listener("echo", "0.0.0.0:7777".parse()?)?;
/// let mut handoff = starting.ready().await?;
/// loop {
///     let superseded = handoff.superseded();
///     while let Some((mut stream, _)) = listener.accept().await? {    // `None` when superseded
///         tokio::spawn(async move {
///             let (mut read, mut write) = stream.split();
///             tokio::io::copy(&mut read, &mut write).await
///         });
///     }
///     superseded.await;
///     match handoff.finish(handoff.handle().drained()).await? {       // give the service up, and drain
///         Finish::Exit => return Ok(()),
///         Finish::Resume => continue,                                 // the successor was lost: accept again
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Handoff {
    pub(super) control: Option<Control>,
    pub(super) steward: Option<Stewarding>,
    pub(super) handle: Handle,
    pub(super) hooks: Hooks,
    pub(super) announcer: Announcer,
    pub(super) drain: Duration,
}

/// Where the steward is.
#[derive(Debug)]
pub(super) enum Stewarding {
    /// Here: nobody waits to be superseded yet.
    Idle(Steward),
    /// In its task, until this process is superseded.
    Busy(oneshot::Receiver<(Steward, Turn)>),
}

/// Why this process has stopped accepting.
#[derive(Debug)]
pub(super) enum Turn {
    Ready(Box<Ready>),
    Stop,
}

impl Handoff {
    /// [`crate::Handoff::builder`].
    pub fn builder(config: impl Into<Config>) -> HandoffBuilder<Handoff> {
        HandoffBuilder::new(config.into())
    }
}

impl Handoff {
    /// Completes when this process is to stop accepting: a successor is ready, or the service was told to stop.
    /// [`Acceptor`](super::Acceptor)s have stopped by then. End whatever else takes in work, and call
    /// [`Handoff::finish`].
    ///
    /// From the first call on, signals, requests and successors are attended to, whether the future is polled or not. A
    /// handoff that fails is logged and in `status`, and changes nothing.
    pub fn superseded(&mut self) -> impl Future<Output = ()> + Send + use<> {
        self.attend();
        self.handle.superseded()
    }

    /// Gives the service up, waits until `drain` has completed or the drain deadline has passed, and says farewell; or
    /// just drains, where the service was told to stop.
    ///
    /// `drain` is whatever ends when the accepted connections have: [`Handle::drained`], or a server's graceful
    /// shutdown. Where the successor is lost before that, it is dropped, so pass a `&mut` or a
    /// [`JoinHandle`](::tokio::task::JoinHandle) of what is to go on.
    ///
    /// Called while nobody has superseded this process, it stops the service as [`Handle::stop`] does. Called again after
    /// [`Finish::Exit`], it does nothing. Do not cancel it: nobody would watch over the service.
    ///
    /// # Errors
    ///
    /// Where nobody can tell who serves, or the last state could not be handed over: exit.
    pub async fn finish(&mut self, drain: impl Future) -> Result<Finish, Failure> {
        if self.steward.is_none() {
            return Ok(Finish::Exit);
        }
        let Some((mut steward, Turn::Ready(ready))) = self.turn().await else {
            self.stop(drain).await;
            return Ok(Finish::Exit);
        };
        match self.release(&mut steward, *ready, drain).await {
            Ok(()) => {
                self.close().await;
                Ok(Finish::Exit)
            }
            Err(failure) if failure.may_serve() => {
                self.resume(steward);
                Ok(Finish::Resume)
            }
            Err(failure) => {
                self.close().await;
                Err(failure)
            }
        }
    }

    /// Runs a server until this process is to exit: starts it, and again whenever a successor was lost after it had
    /// been told to end. `server` gets a [`Handle`], from which it takes what its graceful shutdown waits for. Gives
    /// what the last server gave, or `None` where the drain deadline has ended it: a server that can fail has its
    /// error in there.
    ///
    /// A connection that its client keeps is not idle to the drain. Say `Connection: close` once
    /// [`Handle::is_superseded`], as the [crate's page](crate#axum) shows: otherwise it holds this process until the drain
    /// deadline, and a request that is then on its way is lost.
    ///
    /// The service is given up as soon as its [`Acceptor`](super::Acceptor)s have stopped: for one that takes in work
    /// by other ways, such as a UDP socket, use [`Handoff::superseded`] and [`Handoff::finish`].
    ///
    /// ```no_run
    /// # #[cfg(feature = "axum")]
    /// # async fn serve(mut handoff: fd_handoff::tokio::Handoff, app: axum::Router,
    /// #     listener: fd_handoff::tokio::Acceptor<tokio::net::TcpListener>) -> Result<(), fd_handoff::Failure> {
    /// handoff.serve(|handle| {
    ///     axum::serve(listener.clone(), app.clone()).with_graceful_shutdown(handle.drained())
    /// }).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Handoff::finish`].
    pub async fn serve<F>(&mut self, mut server: impl FnMut(Handle) -> F) -> Result<Option<F::Output>, Failure>
    where
        F: IntoFuture,
        F::IntoFuture: Send + 'static,
        F::Output: Send + 'static,
    {
        loop {
            let superseded = self.superseded();
            let mut running = ::tokio::spawn(server(self.handle()).into_future());
            let ended = ::tokio::select! {
                () = superseded => None,
                ended = &mut running => Some(ended),
            };
            let mut done = ended;
            let drain = async {
                if done.is_none() {
                    done = Some((&mut running).await);
                }
            };
            // One that has ended on its own account takes the service with it.
            if self.finish(drain).await? == Finish::Exit {
                running.abort();
                // A panic in it has been printed.
                return Ok(done.and_then(Result::ok));
            }
        }
    }

    /// What other tasks can do with the service.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// This process's generation, from 1.
    pub fn generation(&self) -> u64 {
        self.handle.generation.number
    }

    /// [`crate::Handoff::final_state`]: bytes, to be decoded with [`decode`](super::decode).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn final_state(&self) -> Result<Option<Received>, StateError> {
        self.handle.generation.take_final_state()
    }

    /// [`crate::Handoff::absorb_farewells`], called on a thread for blocking work, from the first call of
    /// [`Handoff::superseded`] on. To be set before that.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn absorb_farewells(&mut self, absorb: impl FnMut(Received) + Send + 'static) -> Result<()> {
        self.hooks.absorb = Some(Absorb::new(absorb));
        match &mut self.steward {
            Some(Stewarding::Idle(steward)) => steward.absorb_farewells(),
            _ => Ok(()),
        }
    }

    /// Has the steward attend to what comes, on a task.
    fn attend(&mut self) {
        self.steward = match self.steward.take() {
            Some(Stewarding::Idle(steward)) => {
                let (hooks, handle) = (self.hooks.clone(), self.handle.clone());
                let (done, turn) = oneshot::channel();
                ::tokio::spawn(attend(steward, hooks, handle, done));
                Some(Stewarding::Busy(turn))
            }
            busy => busy,
        };
    }

    /// The steward, and why this process is superseded. Where it is not, it is told to stop.
    async fn turn(&mut self) -> Option<(Steward, Turn)> {
        if !self.handle.term().superseding.is_cancelled() {
            self.handle.stop();
            self.attend();
        }
        match self.steward.take()? {
            Stewarding::Busy(turn) => turn.await.ok(),
            Stewarding::Idle(_) => None,
        }
    }

    async fn release(&self, steward: &mut Steward, mut ready: Ready, drain: impl Future) -> Result<(), Failure> {
        let last = ready.check(call(&self.hooks.last).await)?;
        let mut released = ready.release(last).await?;
        self.drain(&mut released, drain).await?;
        released.await_predecessor().await?;
        while let Some(farewell) = steward.farewell() {
            absorb(&self.hooks, farewell).await;
        }
        let farewell = call(&self.hooks.farewell).await.unwrap_or_else(|error| {
            tracing::error!(event = "state_lost", %error, "the last state is lost");
            None
        });
        released.farewell(farewell).await
    }

    /// Drains, and tells the successor how it goes. Ends early when that is lost.
    async fn drain(&self, released: &mut Released, drain: impl Future) -> Result<(), Failure> {
        let mut drain = std::pin::pin!(self.in_time(drain));
        let mut tell = interval(TELL);
        tell.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut told, mut drained) = (None, false);
        loop {
            let left = self.handle.connections();
            if told.replace(left) != Some(left) {
                released.draining(left as u64);
            }
            if drained {
                return Ok(());
            }
            ::tokio::select! {
                () = &mut drain => drained = true,
                failure = released.lost() => return Err(failure),
                _ = tell.tick() => {}
            }
        }
    }

    /// Waits for `drain` until the drain deadline, and a little longer once that has been told to what is left.
    async fn in_time(&self, drain: impl Future) {
        let mut drain = std::pin::pin!(drain);
        if timeout(self.drain, &mut drain).await.is_ok() {
            return;
        }
        let connections = self.handle.connections();
        tracing::warn!(event = "overdue", connections, "the drain deadline has passed; ending what is left");
        self.handle.term().overdue.cancel();
        // What those that end now have changed is to be in the farewell.
        let ended = async {
            drain.await;
            self.handle.connections.wait().await;
        };
        let _ = timeout(ENDING, ended).await;
    }

    fn resume(&mut self, steward: Steward) {
        self.announcer.serving();
        self.handle.connections.reopen();
        self.handle.term.renew();
        self.steward = Some(Stewarding::Idle(steward));
        self.handle.registry.open();
    }

    async fn stop(&mut self, drain: impl Future) {
        self.announcer.stopping();
        let term = self.handle.shut();
        self.handle.tell(&term);
        self.in_time(drain).await;
        // As long as the control socket is there, nobody else begins to serve, and makes these anew.
        self.handle.registry.remove_paths();
        self.announcer.stopped();
        self.close().await;
    }

    async fn close(&mut self) {
        if let Some(control) = self.control.take() {
            control.close().await;
        }
    }
}

/// The steward's task, until this process is to stop accepting.
async fn attend(mut steward: Steward, hooks: Hooks, handle: Handle, done: oneshot::Sender<(Steward, Turn)>) {
    let turn = turn(&mut steward, &hooks, &handle.registry).await;
    let term = handle.shut();
    // Before anybody is told: who is then asks for it at once. They may have let the service go.
    let _ = done.send((steward, turn));
    handle.tell(&term);
}

/// Attends to what comes, until it is a reason to stop accepting.
async fn turn(steward: &mut Steward, hooks: &Hooks, registry: &Registry) -> Turn {
    let poller = match Watched::new(Arc::clone(steward.poller())) {
        Ok(poller) => poller,
        Err(error) => {
            tracing::error!(event = "attend_failed", %error, "cannot attend to signals and successors; stopping");
            return Turn::Stop;
        }
    };
    loop {
        match steward.poll() {
            None => poller.wait(steward.deadline()).await,
            Some(Duty::Absorb(farewell)) => absorb(hooks, farewell).await,
            Some(Duty::HandOver(giving)) => {
                if let Some(ready) = hand_over(*giving, hooks, registry).await {
                    return Turn::Ready(Box::new(ready));
                }
            }
            Some(Duty::Stop) => return Turn::Stop,
        }
    }
}

async fn hand_over(giving: Giving, hooks: &Hooks, registry: &Registry) -> Option<Ready> {
    let successor = Successor::new(giving)
        .inspect_err(|error| tracing::error!(event = "hand_over_failed", %error, "cannot hand over"))
        .ok()?;
    let snapshot = match call(&hooks.snapshot).await {
        Ok(snapshot) => snapshot,
        Err(error) => {
            successor.refuse(&error.to_string());
            return None;
        }
    };
    let table = registry.table();
    let offer = snapshot.into_iter().fold(registry::offer(&table), |offer, state| offer.state(state));
    // Why it failed is in the log and in `status`.
    successor.offer(offer).await.ok()
}

async fn call(hook: &Hook) -> Result<Option<State>, StateError> {
    if hook.is_none() {
        return Ok(None);
    }
    let hook = hook.clone();
    off_runtime(move || hook.call()).await
}

async fn absorb(hooks: &Hooks, farewell: Received) {
    let Some(absorb) = hooks.absorb.clone() else { return };
    let absorbed = off_runtime(move || {
        absorb.call(farewell);
        Ok(())
    });
    if let Err(error) = absorbed.await {
        tracing::error!(event = "farewell_lost", %error, "a farewell is lost");
    }
}
