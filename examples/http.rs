//! An HTTP service that is replaced without losing a request or a count.
//!
//! Start it; start it again with the same arguments, and the new process takes over:
//!
//! ```text
//! cargo run --example http -- --listen 127.0.0.1:8080 --control /tmp/http.sock
//! curl http://127.0.0.1:8080/
//! ```

use std::convert::Infallible;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use clap::Parser;
use fd_handoff::tokio::{Acceptor, Connection, Handle, Handoff, Starting};
use fd_handoff::{Config, Finish, SignalKind, State, Timeouts};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Response, server};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// An HTTP service that hands itself over.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Where to serve HTTP.
    #[arg(long)]
    listen: SocketAddr,
    /// The path of the control socket.
    #[arg(long, env = "HANDOFF_SOCKET")]
    control: PathBuf,
    /// Take over sockets of another network namespace, which somebody else keeps alive.
    #[arg(long)]
    foreign_netns: bool,
    /// Milliseconds of initialisation to simulate.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    slow_start: u64,
    /// Milliseconds after which a replaced process ends what is left of its connections.
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    drain: u64,
    /// Milliseconds between two snapshots for a keeper, if one keeps this service.
    #[arg(long, value_name = "MS")]
    checkpoint: Option<u64>,
    /// Other deadlines than the library's, for tests: `active=500`.
    #[arg(long, value_name = "NAME=MS", value_delimiter = ',', hide = true)]
    timeouts: Vec<Timeout>,
    /// So many more descriptors that go along, for tests.
    #[arg(long, default_value_t = 0, hide = true)]
    more: usize,
}

impl Args {
    fn drain(&self) -> Duration {
        let other = self.timeouts.iter().find(|timeout| timeout.name == "drain");
        other.map_or(Duration::from_millis(self.drain), |timeout| timeout.duration)
    }
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
            "probation" => &mut timeouts.probation,
            "drain" => return,
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
    let config = Config::new(&args.control)
        .name("http")
        .version(env!("CARGO_PKG_VERSION"))
        .reads::<u64>()
        .allow_foreign_netns(args.foreign_netns);
    let config = config.timeouts(|timeouts| args.timeouts.iter().for_each(|timeout| timeout.set(timeouts)));
    let mut starting = Handoff::builder(config)
        .upgrade_on(SignalKind::hangup())
        .stop_on(SignalKind::terminate())
        .drain(args.drain())
        .start()
        .await?;

    let listener = starting.tcp_listener("http", args.listen)?;
    let listen = listener.local_addr()?;
    let more = more(starting.take_all("more")?, args.more)?;
    let count = Arc::new(Count::from(starting.state::<u64>().await?.unwrap_or(0)));
    count.goes_along_with(&mut starting);
    warm_up(args.slow_start, |message| starting.progress(message)).await;
    let mut handoff = starting.ready().await?;

    // The final state is newer than the snapshot. There is none if the predecessor died before it released.
    if let Some(state) = handoff.final_state()? {
        count.total.store(state.serde()?, SeqCst);
    }
    handoff.absorb_farewells({
        let count = Arc::clone(&count);
        move |late| match late.serde::<u64>() {
            Ok(late) => drop(count.total.fetch_add(late, SeqCst)),
            Err(error) => tracing::error!(%error, "cannot read a farewell"),
        }
    });
    if args.more > 0 {
        handoff.handle().register_group("more", &more)?;
    }
    drop(more);
    if let Some(millis) = args.checkpoint {
        tokio::spawn(Arc::clone(&count).checkpoints(handoff.handle(), Duration::from_millis(millis)));
    }
    let service = Arc::new(Service { count, generation: handoff.generation(), handle: handoff.handle() });
    println!("ready generation={} pid={} listen={listen}", handoff.generation(), std::process::id());
    loop {
        let superseded = handoff.superseded();
        tokio::spawn(Arc::clone(&service).accept(listener.clone()));
        superseded.await;
        match handoff.finish(service.handle.drained()).await? {
            Finish::Exit => return Ok(()),
            Finish::Resume => {}
        }
    }
}

/// What was inherited, or else new ones.
fn more(inherited: Vec<File>, wanted: usize) -> std::io::Result<Vec<File>> {
    let missing = wanted.saturating_sub(inherited.len());
    let new = (0..missing).map(|_| File::open("/dev/null"));
    inherited.into_iter().map(Ok).chain(new).collect()
}

/// Initialisation that takes its time, and says so.
async fn warm_up(millis: u64, mut progress: impl FnMut(&str)) {
    const STEP: u64 = 500;
    for done in (0..millis).step_by(STEP as usize) {
        progress(&format!("warming up, {done} of {millis} ms"));
        sleep(Duration::from_millis(STEP.min(millis - done))).await;
    }
}

/// How many requests every generation together has answered.
struct Count {
    total: AtomicU64,
    /// As much of it as the successor was told with the release.
    handed_over: AtomicU64,
}

impl From<u64> for Count {
    fn from(total: u64) -> Count {
        Count { total: AtomicU64::new(total), handed_over: AtomicU64::new(0) }
    }
}

impl Count {
    /// A count that a successor begins with, the exact one when nothing is accepted here any more, and then what the
    /// last connections have added.
    fn goes_along_with(self: &Arc<Self>, starting: &mut Starting) {
        let count = Arc::clone(self);
        starting.on_offer(move || State::serde(count.total.load(SeqCst)));
        let count = Arc::clone(self);
        starting.on_release(move || {
            let total = count.total.load(SeqCst);
            count.handed_over.store(total, SeqCst);
            State::serde(total)
        });
        let count = Arc::clone(self);
        starting.on_farewell(move || State::serde(count.total.load(SeqCst) - count.handed_over.load(SeqCst)));
    }
}

impl Count {
    /// After a crash, the next process begins with the last of them.
    async fn checkpoints(self: Arc<Self>, handle: Handle, pause: Duration) {
        loop {
            sleep(pause).await;
            if let Err(error) = handle.checkpoint(State::serde(self.total.load(SeqCst))) {
                tracing::error!(%error, "a snapshot is lost");
            }
        }
    }
}

/// What answers requests.
struct Service {
    count: Arc<Count>,
    generation: u64,
    handle: Handle,
}

impl Service {
    /// Accepts until this process is superseded.
    async fn accept(self: Arc<Self>, listener: Acceptor<TcpListener>) {
        loop {
            match listener.accept().await {
                Ok(Some((connection, _))) => drop(tokio::spawn(Arc::clone(&self).serve(connection))),
                Ok(None) => return,
                Err(error) => {
                    // Out of descriptors, most likely: they come back as connections end.
                    tracing::warn!(%error, "cannot accept");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn serve(self: Arc<Self>, connection: Connection<TcpStream>) {
        let answer = service_fn(|_request| async { Ok::<_, Infallible>(self.answer()) });
        let served = server::conn::http1::Builder::new().serve_connection(TokioIo::new(connection), answer);
        tokio::select! {
            done = served => if let Err(error) = done {
                tracing::debug!(%error, "a connection failed");
            },
            () = self.handle.overdue() => {}
        }
    }

    /// Once draining, each response closes its connection. An idle connection is left open until then: closing
    /// it would race with the request that its client is just sending.
    fn answer(&self) -> Response<Full<Bytes>> {
        let requests = self.count.total.fetch_add(1, SeqCst) + 1;
        let body =
            format!("{{\"pid\":{},\"generation\":{},\"requests\":{requests}}}\n", std::process::id(), self.generation);
        let mut response = Response::new(Full::new(Bytes::from(body)));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.handle.is_superseded() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

fn log_to_stderr() {
    let level = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).try_init();
}
