//! Replaces a real HTTP service five times under load, and counts what was lost.
//!
//! ```text
//! cargo run --release --example zero_downtime
//! ```
//!
//! Exit status 1 if a request was refused, reset or failed, or if the counter is not exact.

#[path = "http.rs"]
mod http;

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use clap::Parser;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

type Error = Box<dyn std::error::Error + Send + Sync>;

const REPLACEMENTS: u64 = 5;
const BETWEEN: Duration = Duration::from_secs(3);
/// Clients that open a connection for each request, and clients that keep theirs.
const NEW_CONNECTION_CLIENTS: usize = 4;
const KEEP_ALIVE_CLIENTS: usize = 8;
/// How long a client rests between two requests: enough load to be interrupted, and few enough connections to
/// leave the machine's ports alone.
const REST: Duration = Duration::from_millis(5);
/// No request takes this long unless it is lost.
const LOST_AFTER: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<ExitCode, Error> {
    // The service is this same program, so that one command builds and runs both.
    if std::env::args().nth(1).as_deref() == Some("http") {
        http::run(http::Args::parse_from(std::env::args_os().skip(1))).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let directory = tempfile::tempdir()?;
    let control = directory.path().join("http.sock");
    let report = demonstrate(&control).await?;
    report.print();
    Ok(if report.nothing_lost() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn demonstrate(control: &Path) -> Result<Report, Error> {
    let mut current = Service::start("127.0.0.1:0".parse()?, control)?;
    let addr = current.addr;
    println!(
        "generation 1 (pid {}) serves http://{addr}/ with its control socket at {}",
        current.pid(),
        control.display()
    );

    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for client in 0..NEW_CONNECTION_CLIENTS + KEEP_ALIVE_CLIENTS {
        let keep_alive = client >= NEW_CONNECTION_CLIENTS;
        clients.spawn(client_loop(addr, keep_alive, Arc::clone(&stop)));
    }
    println!("{NEW_CONNECTION_CLIENTS} clients open a connection per request, {KEEP_ALIVE_CLIENTS} keep theirs open");

    let mut windows = Vec::new();
    for replacement in 1..=REPLACEMENTS {
        show_load(replacement).await;
        let began = Instant::now();
        let next = tokio::task::block_in_place(|| Service::start(addr, control))?;
        let ready = began.elapsed();
        let old = std::mem::replace(&mut current, next);
        tokio::task::block_in_place(|| old.finished())?;
        windows.push((began, Instant::now()));
        println!(
            "\rreplacement {replacement} of {REPLACEMENTS}: generation {} (pid {}) ready after {:.1} ms, the old process gone after {:.0} ms",
            replacement + 1,
            current.pid(),
            millis(ready),
            millis(began.elapsed()),
        );
    }
    tokio::time::sleep(BETWEEN).await;
    stop.store(true, SeqCst);
    let samples: Vec<Sample> = clients.join_all().await.into_iter().flatten().collect();

    let answered = samples.iter().filter(|sample| sample.result.is_ok()).count() as u64;
    let found = Connection::open(addr).await?.request().await?;
    let pauses = pauses(control)?;
    current.stop()?;
    Ok(Report { samples, windows, expected: answered + 1, found, pauses })
}

/// Three seconds of load, with a sign of life.
async fn show_load(replacement: u64) {
    for tick in 0..BETWEEN.as_millis() / 500 {
        print!("\rload before replacement {replacement}{:<8}", ".".repeat(tick as usize + 1));
        let _ = io::stdout().flush();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A generation of the service.
struct Service {
    child: Child,
    addr: SocketAddr,
}

impl Service {
    /// Starts one, and returns once it serves.
    fn start(listen: SocketAddr, control: &Path) -> Result<Service, Error> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["http", "--listen", &listen.to_string(), "--control"])
            .arg(control)
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("the service has no standard output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let addr =
            line.trim().rsplit_once("listen=").ok_or_else(|| format!("the service did not get ready: {line:?}"))?;
        Ok(Service { addr: addr.1.parse()?, child })
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a generation that was replaced has drained and exited.
    fn finished(mut self) -> Result<(), Error> {
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the old process ended with {status}").into()) }
    }

    fn stop(self) -> Result<(), Error> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        self.finished()
    }
}

/// One request, as a client saw it.
struct Sample {
    began: Instant,
    took: Duration,
    result: Result<(), Loss>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    Refused,
    Reset,
    Failed,
}

async fn client_loop(addr: SocketAddr, keep_alive: bool, stop: Arc<AtomicBool>) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut kept = None;
    while !stop.load(SeqCst) {
        let began = Instant::now();
        let asked = tokio::time::timeout(LOST_AFTER, ask(addr, kept.take())).await;
        let result = match asked {
            Ok(Ok(connection)) => {
                kept = connection.filter(|_| keep_alive);
                Ok(())
            }
            Ok(Err(error)) => Err(classify(&error)),
            Err(_) => Err(Loss::Failed),
        };
        samples.push(Sample { began, took: began.elapsed(), result });
        tokio::time::sleep(REST).await;
    }
    samples
}

/// Asks once, and returns the connection if the server keeps it.
async fn ask(addr: SocketAddr, kept: Option<Connection>) -> Result<Option<Connection>, Error> {
    let mut connection = match kept {
        Some(connection) => connection,
        None => Connection::open(addr).await?,
    };
    connection.request().await?;
    Ok(Some(connection).filter(|connection| !connection.closing))
}

/// A client's connection.
struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    /// The server has said `Connection: close`.
    closing: bool,
}

#[derive(Deserialize)]
struct Answer {
    requests: u64,
}

impl Connection {
    async fn open(addr: SocketAddr) -> Result<Connection, Error> {
        let (sender, connection) = handshake(TokioIo::new(TcpStream::connect(addr).await?)).await?;
        tokio::spawn(connection);
        Ok(Connection { sender, closing: false })
    }

    /// Asks, and returns the count of requests in the answer.
    async fn request(&mut self) -> Result<u64, Error> {
        let request = Request::get("/").header(header::HOST, "localhost").body(Empty::new())?;
        let response = self.sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(format!("status {}", response.status()).into());
        }
        self.closing = response.headers().get(header::CONNECTION).is_some_and(|value| value == "close");
        let body = response.into_body().collect().await?.to_bytes();
        Ok(serde_json::from_slice::<Answer>(&body)?.requests)
    }
}

fn classify(error: &Error) -> Loss {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
    while let Some(error) = source {
        match error.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => return Loss::Refused,
            Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => return Loss::Reset,
            _ => source = error.source(),
        }
    }
    Loss::Failed
}

/// How long nobody accepted in each handoff, from the service's own history.
fn pauses(control: &Path) -> Result<Vec<Duration>, Error> {
    #[derive(Deserialize)]
    struct Status {
        history: Vec<Attempt>,
    }
    #[derive(Deserialize)]
    struct Attempt {
        pause_us: Option<u64>,
    }
    let mut stream = UnixStream::connect(control)?;
    stream.write_all(b"status\n")?;
    let mut lines = BufReader::new(stream).lines();
    let _hello = lines.next();
    let status: Status = serde_json::from_str(&lines.next().ok_or("no status")??)?;
    Ok(status.history.iter().filter_map(|attempt| attempt.pause_us).map(Duration::from_micros).collect())
}

struct Report {
    samples: Vec<Sample>,
    /// From the start of each new process to the exit of the old one.
    windows: Vec<(Instant, Instant)>,
    expected: u64,
    found: u64,
    pauses: Vec<Duration>,
}

impl Report {
    fn lost(&self, kind: Loss) -> usize {
        self.samples.iter().filter(|sample| sample.result == Err(kind)).count()
    }

    fn nothing_lost(&self) -> bool {
        let every_handoff = self.pauses.len() as u64 == REPLACEMENTS;
        self.samples.iter().all(|sample| sample.result.is_ok()) && self.expected == self.found && every_handoff
    }

    fn print(&self) {
        let (inside, outside): (Vec<&Sample>, Vec<&Sample>) =
            self.samples.iter().filter(|sample| sample.result.is_ok()).partition(|sample| self.is_inside(sample));
        let longest = self.pauses.iter().max().copied().unwrap_or_default();
        println!("\nrequests                     {:>10}", self.samples.len());
        println!("refused                      {:>10}", self.lost(Loss::Refused));
        println!("reset                        {:>10}", self.lost(Loss::Reset));
        println!("failed                       {:>10}", self.lost(Loss::Failed));
        println!("counter expected             {:>10}", self.expected);
        println!("counter found                {:>10}", self.found);
        println!("latency, ms                         p50      p99      max");
        print_latency("  inside the replacements", &inside);
        print_latency("  outside", &outside);
        println!("nobody accepted, longest     {:>10.3} ms (of {} handoffs)", millis(longest), self.pauses.len());
        println!("{}", if self.nothing_lost() { "nothing was lost" } else { "SOMETHING WAS LOST" });
    }

    fn is_inside(&self, sample: &Sample) -> bool {
        let end = sample.began + sample.took;
        self.windows.iter().any(|(from, to)| sample.began <= *to && end >= *from)
    }
}

fn print_latency(label: &str, samples: &[&Sample]) {
    let mut took: Vec<Duration> = samples.iter().map(|sample| sample.took).collect();
    took.sort_unstable();
    let at = |share: f64| took.get(((took.len() as f64 * share) as usize).min(took.len().saturating_sub(1)));
    let shown = |took: Option<&Duration>| took.map_or_else(|| "-".to_owned(), |took| format!("{:.3}", millis(*took)));
    println!("{label:<32} {:>7}  {:>7}  {:>7}", shown(at(0.5)), shown(at(0.99)), shown(took.last()));
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
