//! The facade on tokio. A task hears requests and successors, and gives the service up, from the first call of
//! [`Handoff::superseded`] on.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::tokio::sync::Notify;

use super::Watched;
use super::handle::Handle;
use super::listen::Control;
use crate::config::Config;
use crate::driver::generation::Generation;
use crate::driver::steward::{Duty, Over, Steward};
use crate::error::{Failure, Result, StateError};
use crate::facade::{Finish, HandoffBuilder};
use crate::state::{Received, panic_message};
use crate::sys::event::Poller;

/// How long connections may take to end once the drain deadline has passed.
pub(super) const ENDING: Duration = Duration::from_secs(1);

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
///
/// Dropped before the service was handed over or stopped, it is the end of a process that has crashed, as
/// [`crate::Handoff`] is.
#[derive(Debug)]
pub struct Handoff {
    control: Option<Control>,
    generation: Arc<Generation>,
    /// There until this process first waits to be superseded.
    idle: Option<Idle>,
    desk: Arc<Desk>,
    handle: Handle,
}

/// A steward whose task has not begun, with all that it needs.
#[derive(Debug)]
pub(super) struct Idle {
    pub(super) steward: Steward,
    poller: Watched<Arc<Poller>>,
}

impl Idle {
    pub(super) fn new(steward: Steward) -> Result<Idle> {
        Ok(Idle { poller: Watched::new(Arc::clone(steward.poller()))?, steward })
    }
}

/// Where the steward's task and the application's calls meet. A call that is dropped leaves nothing undone.
#[derive(Debug, Default)]
struct Desk {
    state: Mutex<DeskState>,
    /// For the task: the application has said something.
    called: Notify,
    /// For the application: its connections are to end, or it is over.
    told: Notify,
}

#[derive(Debug, Default)]
struct DeskState {
    proceed: bool,
    drained: bool,
    /// The service has been given up, and connections are ending.
    draining: bool,
    over: Option<Over>,
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, DeskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it is over already, the application finds that, and its word is not for what comes next.
    fn proceed(&self) {
        let mut state = self.state();
        if state.over.is_none() {
            state.proceed = true;
            drop(state);
            self.called.notify_one();
        }
    }

    fn drained(&self) {
        self.state().drained = true;
        self.called.notify_one();
    }

    fn conclude(&self, over: Over) {
        let mut state = self.state();
        *state = DeskState { over: Some(over), ..DeskState::default() };
        drop(state);
        self.told.notify_one();
    }

    fn drains(&self) {
        if !std::mem::replace(&mut self.state().draining, true) {
            self.told.notify_one();
        }
    }

    /// Passes on what the application has said.
    fn tell(&self, steward: &mut Steward) {
        let (proceed, drained) = {
            let mut state = self.state();
            (std::mem::take(&mut state.proceed), std::mem::take(&mut state.drained))
        };
        if proceed {
            steward.proceed();
        }
        if drained {
            steward.drained();
        }
    }

    async fn ended(&self) -> Over {
        loop {
            if let Some(over) = self.state().over.take() {
                return over;
            }
            self.told.notified().await;
        }
    }

    /// Waits until connections are to end. Where it is over before that, the outcome stays.
    async fn draining(&self) {
        loop {
            {
                let state = self.state();
                if state.draining || state.over.is_some() {
                    return;
                }
            }
            self.told.notified().await;
        }
    }
}

impl Handoff {
    /// [`crate::Handoff::builder`].
    pub fn builder(config: impl Into<Config>) -> HandoffBuilder<Handoff> {
        HandoffBuilder::new(config.into())
    }

    pub(super) fn new(control: Control, steward: Idle, handle: Handle) -> Handoff {
        let generation = Arc::clone(control.inner());
        Handoff { control: Some(control), generation, idle: Some(steward), desk: Arc::default(), handle }
    }

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
    /// [`Finish::Exit`], it does nothing. Cancelling it loses nothing: the service is given up all the same, in the
    /// background, and whoever calls this again goes on where it was.
    ///
    /// # Errors
    ///
    /// Where nobody can tell who serves, or the last state could not be handed over: exit.
    ///
    /// # Panics
    ///
    /// Where nobody hears signals and answers at the control socket any more, since the library has panicked again and
    /// again.
    pub async fn finish(&mut self, drain: impl Future) -> Result<Finish, Failure> {
        if self.control.is_none() {
            return Ok(Finish::Exit);
        }
        self.attend();
        let superseded = self.handle.term().superseding.is_cancelled() || self.desk.state().over.is_some();
        // Told already, it is not to be told twice: that would end it at once.
        if !superseded && !self.generation.is_stopping() {
            self.handle.stop();
        }
        self.desk.proceed();
        match self.over(drain).await {
            Over::Resume => Ok(Finish::Resume),
            Over::Exit | Over::Dropped => {
                self.close().await;
                Ok(Finish::Exit)
            }
            Over::Failed(failure) => {
                self.close().await;
                Err(failure)
            }
            // The rule is that this process hears who tells it to stop, and answers for the service. It ends, and heirs
            // take over.
            Over::Broken(reason) => {
                panic!("the background of the control socket has panicked again and again: {reason}")
            }
        }
    }

    /// How giving the service up ends. Meanwhile the connections do.
    async fn over(&self, drain: impl Future) -> Over {
        let mut drained = std::pin::pin!(async {
            drain.await;
            // What those that are ended at the deadline have changed is to be in the farewell.
            if self.handle.term().overdue.is_cancelled() {
                self.handle.connections.wait().await;
            }
        });
        // Not before: a drain that begins earlier is in the way of the successor.
        self.desk.draining().await;
        let mut over = std::pin::pin!(self.desk.ended());
        ::tokio::select! {
            over = &mut over => return over,
            () = &mut drained => self.desk.drained(),
        }
        over.await
    }

    /// Runs a server until this process is to exit: starts it, and again whenever a successor was lost after it had
    /// been told to end. `server` gets a [`Handle`], from which it takes what its graceful shutdown waits for. Gives
    /// what the last server gave, or `None` where the drain deadline has ended it: a server that can fail has its
    /// error in there.
    ///
    /// A server that ends on its own account ends this call, and nothing else: the service has not stopped. Return from
    /// `main`, and it is a crash, which a predecessor that still drains makes good; or call [`Handoff::finish`] to stop in
    /// good order.
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
    /// #     listener: fd_handoff::tokio::Acceptor<tokio::net::TcpListener>) -> Result<(), Box<dyn std::error::Error>> {
    /// let served = handoff.serve(|handle| {
    ///     axum::serve(listener.clone(), app.clone()).with_graceful_shutdown(handle.drained())
    /// });
    /// served.await?.transpose()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Handoff::finish`].
    ///
    /// # Panics
    ///
    /// Where the server does, with what it says; and as [`Handoff::finish`].
    pub async fn serve<F>(&mut self, mut server: impl FnMut(Handle) -> F) -> Result<Option<F::Output>, Failure>
    where
        F: IntoFuture,
        F::IntoFuture: Send + 'static,
        F::Output: Send + 'static,
    {
        loop {
            let superseded = self.superseded();
            let mut running = ::tokio::spawn(server(self.handle()).into_future());
            let mut ended = ::tokio::select! {
                () = superseded => None,
                ended = &mut running => Some(handed_on(ended)),
            };
            // One that ends with its listener has been superseded.
            if ended.is_some() && !self.handle.term().superseding.is_cancelled() {
                return Ok(ended.flatten());
            }
            let drain = async {
                if ended.is_none() {
                    ended = Some(handed_on((&mut running).await));
                }
            };
            if self.finish(drain).await? == Finish::Exit {
                running.abort();
                return Ok(ended.flatten());
            }
        }
    }

    /// [`crate::Handoff::fail`] on tokio.
    pub async fn fail(mut self, reason: impl std::fmt::Display) {
        let term = self.handle.shut();
        self.handle.tell(&term);
        if let Some(control) = self.control.take() {
            control.fail(reason).await;
        }
    }

    /// What other tasks can do with the service.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// This process's generation, from 1.
    pub fn generation(&self) -> u64 {
        self.generation.number
    }

    /// [`crate::Handoff::final_state`]: bytes, to be decoded with [`decode`](super::decode).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn final_state(&self) -> Result<Option<Received>, StateError> {
        self.generation.take_final_state()
    }

    /// [`crate::Handoff::absorb_farewells`], from the first call of [`Handoff::superseded`] on. To be set before that.
    pub fn absorb_farewells(&mut self, absorb: impl FnMut(Received) + Send + 'static) {
        if let Some(idle) = &mut self.idle {
            idle.steward.absorb_farewells(absorb);
        }
    }

    /// Has the steward attend to what comes, on a task.
    fn attend(&mut self) {
        if let Some(Idle { steward, poller }) = self.idle.take() {
            let desk = Arc::clone(&self.desk);
            let handle = self.handle.clone();
            ::tokio::spawn(Attendant { steward, poller, desk, handle }.run());
        }
    }

    async fn close(&mut self) {
        // One that was told to end now does not wait for the predecessor's last words, for which the background may.
        if let Some(control) = self.control.take().filter(|control| control.inner().is_done()) {
            control.ended().await;
        }
    }
}

impl Drop for Handoff {
    /// Whoever would be accepted now would be lost with this process; in the queue he waits for the next one.
    fn drop(&mut self) {
        if self.control.is_some() {
            self.handle.registry.shut();
        }
    }
}

/// What a server gave; a panic of its own is one of whoever runs it. `None`: it was ended.
fn handed_on<T>(ended: Result<T, ::tokio::task::JoinError>) -> Option<T> {
    match ended {
        Ok(output) => Some(output),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_) => None,
        },
    }
}

/// The task that attends to what comes.
struct Attendant {
    steward: Steward,
    poller: Watched<Arc<Poller>>,
    desk: Arc<Desk>,
    handle: Handle,
}

impl Attendant {
    async fn run(mut self) {
        loop {
            self.desk.tell(&mut self.steward);
            let duty = self.poll();
            if self.steward.is_draining() {
                self.desk.drains();
            }
            match duty {
                None => self.wait().await,
                Some(Duty::Supersede) => self.supersede(),
                Some(Duty::EndConnections) => self.handle.term().overdue.cancel(),
                Some(Duty::Over(Over::Resume)) => self.resume(),
                Some(Duty::Over(over)) => return self.end(over),
            }
        }
    }

    /// A panic of the library's own is not to go unnoticed: the application ends with it.
    fn poll(&mut self) -> Option<Duty> {
        let polled = catch_unwind(AssertUnwindSafe(|| self.steward.poll()));
        polled.unwrap_or_else(|panic| Some(Duty::Over(Over::Broken(panic_message(&*panic)))))
    }

    async fn wait(&self) {
        ::tokio::select! {
            () = self.poller.wait(self.steward.deadline()) => {}
            () = self.desk.called.notified() => {}
        }
    }

    fn supersede(&self) {
        let term = self.handle.shut();
        self.handle.tell(&term);
    }

    fn resume(&mut self) {
        self.steward.announce();
        self.handle.connections.reopen();
        self.handle.term.renew();
        self.handle.registry.open();
        self.desk.conclude(Over::Resume);
    }

    fn end(self, over: Over) {
        let broken = matches!(over, Over::Broken(_));
        self.desk.conclude(over);
        if broken {
            // Whoever waits to be superseded finds out why.
            let term = self.handle.shut();
            self.handle.tell(&term);
        }
    }
}
