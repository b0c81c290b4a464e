//! An HTTP service that is replaced without losing a request or a count.
//!
//! Start it; start it again with the same arguments, and the new process takes over:
//!
//! ```text
//! cargo run --example http -- --listen 127.0.0.1:8080 --control /tmp/http.sock
//! curl http://127.0.0.1:8080/
//! ```

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use clap::Parser;
use fd_handoff::tokio::{Control, Ready, Released, Successor, handoff_receive};
use fd_handoff::{Config, Failure, Offer, State, Timeouts};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Response, server};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// An HTTP service that hands itself over.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Where to serve HTTP.
    #[arg(long)]
    listen: SocketAddr,
    /// The path of the control socket.
    #[arg(long)]
    control: PathBuf,
    /// Milliseconds of initialisation to simulate.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    slow_start: u64,
    /// Milliseconds after which a replaced process ends what is left of its connections.
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    drain: u64,
    /// Other deadlines than the library's, for tests: `active=500`.
    #[arg(long, value_name = "NAME=MS", value_delimiter = ',', hide = true)]
    timeouts: Vec<Timeout>,
}

/// One of the library's deadlines.
#[derive(Debug, Clone)]
struct Timeout {
    name: String,
    duration: Duration,
}

impl FromStr for Timeout {
    type Err = Error;

    fn from_str(text: &str) -> Result<Timeout, Error> {
        let (name, millis) = text.split_once('=').ok_or("not NAME=MS")?;
        Ok(Timeout { name: name.to_owned(), duration: Duration::from_millis(millis.parse()?) })
    }
}

impl Timeout {
    fn set(&self, timeouts: &mut Timeouts) {
        let timeout = match self.name.as_str() {
            "offer" => &mut timeouts.offer,
            "transfer" => &mut timeouts.transfer,
            "ready" => &mut timeouts.ready,
            "release" => &mut timeouts.release,
            "active" => &mut timeouts.active,
            "drain" => &mut timeouts.drain,
            "probation" => &mut timeouts.probation,
            unknown => return tracing::warn!(unknown, "no such deadline"),
        };
        *timeout = self.duration;
    }
}

#[allow(dead_code, reason = "unused where another example runs this service")]
#[tokio::main]
async fn main() -> Result<(), Error> {
    run(Args::parse()).await
}

/// The whole life of one generation.
pub(crate) async fn run(args: Args) -> Result<(), Error> {
    log_to_stderr();
    let drain = Duration::from_millis(args.drain);
    let config = Config::new(&args.control).name("http").version(env!("CARGO_PKG_VERSION"));
    // The successor waits for our farewell a little longer than we drain.
    let config = config.timeouts(|timeouts| {
        timeouts.drain = drain + Duration::from_secs(2);
        args.timeouts.iter().for_each(|timeout| timeout.set(timeouts));
    });

    let mut inheritance = handoff_receive(config).await?;
    let listener = inheritance.tcp_listener("http", args.listen)?;
    let listen = listener.local_addr()?;
    let snapshot = inheritance.state::<u64>().await?.unwrap_or(0);
    warm_up(args.slow_start, |message| inheritance.progress(message)).await;
    // Before ready: nothing may come between owning the service and answering for it.
    let mut terminate = signal(SignalKind::terminate())?;
    let control = Arc::new(inheritance.ready().await?);

    // The final state is newer than the snapshot. There is none if the predecessor died before it released.
    let total = control.final_state()?.map_or(Ok(snapshot), |state| state.serde())?;
    let service = Arc::new(Service::new(listener, control.generation(), total));
    let farewells = tokio::spawn(collect_farewells(Arc::clone(&control), Arc::clone(&service)));
    let accepting = service.accept();
    println!("ready generation={} pid={} listen={listen}", control.generation(), std::process::id());
    let mut life = Life { service, control, farewells: Some(farewells), drain };
    life.serve(accepting, &mut terminate).await?;
    life.close().await;
    Ok(())
}

/// Initialisation that takes its time, and says so.
async fn warm_up(millis: u64, mut progress: impl FnMut(&str)) {
    const STEP: u64 = 500;
    for done in (0..millis).step_by(STEP as usize) {
        progress(&format!("warming up, {done} of {millis} ms"));
        sleep(Duration::from_millis(STEP.min(millis - done))).await;
    }
}

/// What the generations before counted after they had released.
async fn collect_farewells(control: Arc<Control>, service: Arc<Service>) {
    loop {
        match control.farewell().await {
            Ok(Some(late)) => match late.serde::<u64>() {
                Ok(late) => drop(service.requests.fetch_add(late, SeqCst)),
                Err(error) => tracing::error!(%error, "cannot read a farewell"),
            },
            Ok(None) => return,
            Err(error) => tracing::error!(%error, "a farewell is lost"),
        }
    }
}

struct Life {
    service: Arc<Service>,
    control: Arc<Control>,
    /// Absent once the predecessor's farewells are all in.
    farewells: Option<JoinHandle<()>>,
    drain: Duration,
}

impl Life {
    async fn serve(&mut self, mut accepting: Accepting, terminate: &mut Signal) -> Result<(), Error> {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                successor = self.control.accept() => match self.hand_over(successor?, accepting).await {
                    Handover::Done => return Ok(()),
                    Handover::StillServing(still) => accepting = still,
                    Handover::StayOut(failure) => return Err(failure.into()),
                },
            }
        }
        self.stop_accepting(accepting).await;
        self.finish_connections(std::future::pending::<()>()).await;
        Ok(())
    }

    async fn hand_over(&mut self, successor: Successor, accepting: Accepting) -> Handover {
        let count = self.service.requests.load(SeqCst);
        let offer = Offer::new().descriptor("http", &self.service.listener).state(State::serde(count));
        match successor.offer(offer).await {
            Ok(ready) => self.release(ready, accepting).await,
            Err(_logged) => Handover::StillServing(accepting),
        }
    }

    async fn release(&mut self, ready: Ready, accepting: Accepting) -> Handover {
        self.stop_accepting(accepting).await;
        // What is counted from here on goes along with the farewell.
        let total = self.service.requests.load(SeqCst);
        let failure = match ready.release(Some(State::serde(total))).await {
            Ok(released) => match self.drain(released, total).await {
                Ok(()) => return Handover::Done,
                Err(failure) => failure,
            },
            Err(failure) => failure,
        };
        if !failure.may_serve() {
            return Handover::StayOut(failure);
        }
        Handover::StillServing(self.service.accept())
    }

    /// From here on nothing is accepted, and each response closes its connection. [`Service::accept`] makes everything
    /// go on.
    async fn stop_accepting(&self, accepting: Accepting) {
        accepting.stop().await;
        self.service.draining.store(true, SeqCst);
    }

    async fn drain(&mut self, mut released: Released, handed_over: u64) -> Result<(), Failure> {
        if let Some(failure) = self.finish_connections_telling(&mut released).await {
            return Err(failure);
        }
        // Our predecessor's farewell comes before ours, so that its count is in ours.
        if let Some(farewells) = self.farewells.take() {
            let _ = farewells.await;
        }
        let late = self.service.requests.load(SeqCst) - handed_over;
        released.farewell(Some(State::serde(late))).await
    }

    /// Lets the control socket go, and returns when a predecessor that still drains knows that this was no crash.
    async fn close(self) {
        if let Some(farewells) = self.farewells {
            farewells.abort();
            let _ = farewells.await;
        }
        if let Some(control) = Arc::into_inner(self.control) {
            control.close().await;
        }
    }

    /// Ends the connections in good order, and tells the successor how it goes. Returns early when the
    /// successor is lost.
    async fn finish_connections_telling(&self, released: &mut Released) -> Option<Failure> {
        released.draining(self.service.connections.len() as u64);
        self.finish_connections(released.lost()).await
    }

    /// Waits until the connections have ended, and at the drain deadline ends what is left. Returns early with
    /// what `interrupted` gives.
    async fn finish_connections<T>(&self, interrupted: impl Future<Output = T>) -> Option<T> {
        let deadline = Instant::now() + self.drain;
        self.service.connections.close();
        tokio::select! {
            () = self.service.connections.wait() => None,
            interruption = interrupted => Some(interruption),
            () = sleep_until(deadline) => {
                tracing::warn!(left = self.service.connections.len(), "drain deadline: ending what is left");
                self.service.end.notify_waiters();
                self.service.connections.wait().await;
                None
            }
        }
    }
}

enum Handover {
    Done,
    StillServing(Accepting),
    StayOut(Failure),
}

/// What answers requests.
struct Service {
    listener: TcpListener,
    generation: u64,
    requests: AtomicU64,
    /// Whether each response closes its connection.
    draining: AtomicBool,
    connections: TaskTracker,
    /// Ends the connections that there are, and none that come when the service is taken back after that.
    end: Notify,
}

impl Service {
    fn new(listener: TcpListener, generation: u64, requests: u64) -> Service {
        Service {
            listener,
            generation,
            requests: AtomicU64::new(requests),
            draining: AtomicBool::new(false),
            connections: TaskTracker::new(),
            end: Notify::new(),
        }
    }

    /// Begins to accept, at the start or after a drain whose successor was lost.
    fn accept(self: &Arc<Self>) -> Accepting {
        self.connections.reopen();
        self.draining.store(false, SeqCst);
        let stop = CancellationToken::new();
        let service = Arc::clone(self);
        let task = tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                match service.listener.accept().await {
                    Ok((stream, _)) => drop(service.connections.spawn(Arc::clone(&service).connection(stream))),
                    Err(error) => {
                        // Out of descriptors, most likely: they come back as connections end.
                        tracing::warn!(%error, "cannot accept");
                        sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        }));
        Accepting { stop, task }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let answer = service_fn(|_request| async { Ok::<_, Infallible>(self.answer()) });
        let connection = server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
        tokio::select! {
            done = connection => if let Err(error) = done {
                tracing::debug!(%error, "a connection failed");
            },
            () = self.end.notified() => {}
        }
    }

    /// Once draining, each response closes its connection. An idle connection is left open until then: closing
    /// it would race with the request that its client is just sending.
    fn answer(&self) -> Response<Full<Bytes>> {
        let requests = self.requests.fetch_add(1, SeqCst) + 1;
        let body =
            format!("{{\"pid\":{},\"generation\":{},\"requests\":{requests}}}\n", std::process::id(), self.generation);
        let mut response = Response::new(Full::new(Bytes::from(body)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.draining.load(SeqCst) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// The task that accepts.
struct Accepting {
    stop: CancellationToken,
    task: JoinHandle<Option<()>>,
}

impl Accepting {
    /// Returns when nothing more is accepted. Connections that wait in the kernel's queue stay there.
    async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

fn log_to_stderr() {
    let level = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).try_init();
}
