//! What a service and those who may ask for it notice of a user who may not, and who connects to its control socket in a
//! loop, on four threads. Measured beside the same without that user, in turn in one run; it needs root, to be another user.
//!
//! ```text
//! cargo bench --bench floods
//! ```
//!
//! The ratio is of the slowest request in a hundred with the flood and without it, in the round that other load has touched
//! least; the goal is 2. Other figures are of all rounds. Exit status 1 says that one is clearly beyond its goal.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use fd_handoff::client::Client;
use fd_handoff::{Acceptor, Config, Finish, Handoff, SignalKind};

/// How many threads connect in a loop.
const THREADS: usize = 4;
/// How often each is measured, in turn, and for how long.
const ROUNDS: usize = 4;
const ROUND: Duration = Duration::from_secs(2);
/// How long the client of the service rests between two requests.
const REST: Duration = Duration::from_millis(1);
/// How often somebody asks for the status.
const ASK: Duration = Duration::from_millis(50);
/// How many times as slow the service may be for one request in a hundred.
const SLOWER: f64 = 2.0;
/// How soon the status has to be there.
const STATUS: Duration = Duration::from_millis(100);
/// How far beyond its goal a figure has to be to count as broken.
const ROOM: u32 = 5;
/// A user who may do nothing.
const NOBODY: u32 = 65534;
const FORMS: [&str; 4] = ["tokio-one", "tokio-several", "blocking-one", "blocking-several"];

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["flood", path] => flood(Path::new(path)),
        ["serve", form, path, listen] => serve(form, path, listen),
        // Run by `cargo test --benches`: only show that it works.
        _ => measure(args.iter().any(|arg| arg == "--bench")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(whole: bool) -> Result {
    if !nix::unistd::geteuid().is_root() {
        println!("not measured: it takes root to be another user");
        return Ok(());
    }
    let (rounds, round) = if whole { (ROUNDS, ROUND) } else { (1, ROUND / 10) };
    println!("                       p50 (flooded)         p99 (flooded)  ratio  status p50 (worst)   upgrade");
    let broken = FORMS.map(|form| Figures::of(form, rounds, round).map(|figures| !figures.print(form)));
    let broken = broken.into_iter().collect::<Result<Vec<bool>>>()?.contains(&true);
    if broken && whole { Err("a figure is far beyond its goal".into()) } else { Ok(()) }
}

/// What was measured of one form.
#[derive(Default)]
struct Figures {
    /// How long requests took in each round, without the flood and with it.
    calm: Vec<Vec<Duration>>,
    flooded: Vec<Vec<Duration>>,
    status: Vec<Duration>,
    upgrades: Vec<Duration>,
}

impl Figures {
    fn of(form: &str, rounds: usize, round: Duration) -> Result<Figures> {
        let directory = tempfile::tempdir()?;
        // Everybody may come as far as the control socket.
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755))?;
        let path = directory.path().join("control.sock");
        let mut service = Service::start(form, &path, "127.0.0.1:0")?;
        let mut figures = Figures::default();
        for _ in 0..rounds {
            figures.calm.push(requests(service.listen, round)?);
            let flood = Flood::start(&path)?;
            figures.add_flooded(service.listen, &path, round)?;
            let began = Instant::now();
            let next = Service::start(form, &path, &service.listen.to_string())?;
            figures.upgrades.push(began.elapsed());
            drop(flood);
            std::mem::replace(&mut service, next).ends()?;
        }
        Ok(figures)
    }

    fn add_flooded(&mut self, listen: SocketAddr, path: &Path, round: Duration) -> Result {
        let path = path.to_owned();
        let asking = std::thread::spawn(move || ask(&path, round).map_err(|error| error.to_string()));
        self.flooded.push(requests(listen, round)?);
        self.status.append(&mut asking.join().expect("asking does not panic")?);
        Ok(())
    }

    /// Returns whether they are anywhere near their goals.
    fn print(mut self, form: &str) -> bool {
        let ratio = quietest(&mut self.flooded).as_secs_f64() / quietest(&mut self.calm).as_secs_f64();
        let [mut calm, mut flooded] = [self.calm.concat(), self.flooded.concat()];
        let both = |percent, calm: &mut [Duration], flooded: &mut [Duration]| {
            format!("{:.1?} ({:.1?})", at(calm, percent), at(flooded, percent))
        };
        let (typical, slow) = (both(50, &mut calm, &mut flooded), both(99, &mut calm, &mut flooded));
        let status = format!("{:.1?} ({:.1?})", at(&mut self.status, 50), at(&mut self.status, 100));
        let (slowest, upgrade) = (at(&mut self.status, 100), format!("{:.1?}", at(&mut self.upgrades, 50)));
        println!("{form:<17}{typical:>22}{slow:>22}{ratio:>7.2}{status:>20}{upgrade:>10}");
        ratio <= SLOWER * f64::from(ROOM) && slowest <= STATUS * ROOM
    }
}

/// The slowest request in a hundred, in the round in which that was fastest.
fn quietest(rounds: &mut [Vec<Duration>]) -> Duration {
    rounds.iter_mut().map(|samples| at(samples, 99)).min().unwrap_or_default()
}

fn at(samples: &mut [Duration], percent: usize) -> Duration {
    samples.sort_unstable();
    samples.get((samples.len() * percent / 100).min(samples.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// How long requests take, each on a connection of its own.
fn requests(listen: SocketAddr, time: Duration) -> Result<Vec<Duration>> {
    let (end, mut samples) = (Instant::now() + time, Vec::new());
    while Instant::now() < end {
        let began = Instant::now();
        let mut stream = TcpStream::connect(listen)?;
        stream.write_all(b"request\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer != "request\n" {
            return Err(format!("a request was answered with {answer:?}").into());
        }
        samples.push(began.elapsed());
        std::thread::sleep(REST);
    }
    Ok(samples)
}

/// How long the status takes, asked for as the command does.
fn ask(path: &Path, time: Duration) -> fd_handoff::Result<Vec<Duration>> {
    let (end, mut samples) = (Instant::now() + time, Vec::new());
    while Instant::now() < end {
        let began = Instant::now();
        Client::connect(path)?.status()?;
        samples.push(began.elapsed());
        std::thread::sleep(ASK);
    }
    Ok(samples)
}

/// Connects in a loop until it is killed.
fn flood(path: &Path) -> Result {
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    drop(UnixStream::connect(path))
                }
            });
        }
    });
    Ok(())
}

/// A user who connects in a loop, until this is dropped.
struct Flood(Child);

impl Flood {
    fn start(path: &Path) -> Result<Flood> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("flood").arg(path).uid(NOBODY).gid(NOBODY);
        let flood = Flood(command.spawn()?);
        std::thread::sleep(ROUND / 10);
        Ok(flood)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One process of the service.
struct Service {
    process: Child,
    listen: SocketAddr,
    _stdout: BufReader<ChildStdout>,
}

impl Service {
    fn start(form: &str, path: &Path, listen: &str) -> Result<Service> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("serve").arg(form).arg(path).arg(listen).stdout(Stdio::piped());
        // It logs as any service does, to where nobody looks.
        let mut process = command.env("RUST_LOG", "info").stderr(Stdio::null()).spawn()?;
        let mut stdout = BufReader::new(process.stdout.take().ok_or("it has an output")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let listen = line.trim_end().parse().map_err(|_| format!("{form} does not serve: {line:?}"))?;
        Ok(Service { process, listen, _stdout: stdout })
    }

    /// It has been replaced.
    fn ends(mut self) -> Result {
        let status = self.process.wait()?;
        if status.success() { Ok(()) } else { Err(format!("the old process: {status}").into()) }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn serve(form: &str, path: &str, listen: &str) -> Result {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let config = Config::new(PathBuf::from(path)).name("floods").mode(0o666);
    let (form, threads) = form.split_once('-').ok_or("no such form")?;
    let several = threads == "several";
    if form == "blocking" {
        return serve_blocking(config, listen.parse()?, several);
    }
    let mut builder = tokio::runtime::Builder::new_current_thread();
    if several {
        builder = tokio::runtime::Builder::new_multi_thread();
    }
    builder.enable_all().build()?.block_on(serve_on_tokio(config, listen.parse()?))
}

async fn serve_on_tokio(config: Config, listen: SocketAddr) -> Result {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut starting = fd_handoff::tokio::Handoff::builder(config).stop_on(SignalKind::terminate()).start().await?;
    let listener = starting.tcp_listener("service", listen)?;
    let listen = listener.local_addr()?;
    let mut handoff = starting.ready().await?;
    println!("{listen}");
    loop {
        let superseded = handoff.superseded();
        let acceptor = listener.clone();
        tokio::spawn(async move {
            while let Ok(Some((mut connection, _))) = acceptor.accept().await {
                tokio::spawn(async move {
                    let mut request = [0; 8];
                    connection.read_exact(&mut request).await?;
                    connection.write_all(&request).await
                });
            }
        });
        superseded.await;
        let drained = handoff.handle().drained();
        if handoff.finish(drained).await? == Finish::Exit {
            return Ok(());
        }
    }
}

fn serve_blocking(config: Config, listen: SocketAddr, several: bool) -> Result {
    let mut starting = Handoff::builder(config).stop_on(SignalKind::terminate()).start()?;
    let listener = starting.tcp_listener("service", listen)?;
    let listen = listener.local_addr()?;
    let mut handoff = starting.ready()?;
    println!("{listen}");
    loop {
        let acceptor = listener.clone();
        std::thread::spawn(move || accept(&acceptor, several));
        handoff.superseded();
        if handoff.finish()? == Finish::Exit {
            return Ok(());
        }
    }
}

/// One connection after the other, or each on a thread.
fn accept(acceptor: &Acceptor<std::net::TcpListener>, several: bool) {
    while let Ok(Some((connection, _))) = acceptor.accept() {
        if several {
            std::thread::spawn(move || answer(connection));
        } else {
            let _ = answer(connection);
        }
    }
}

fn answer(mut connection: impl Read + Write) -> std::io::Result<()> {
    let mut request = [0; 8];
    connection.read_exact(&mut request)?;
    connection.write_all(&request)
}
