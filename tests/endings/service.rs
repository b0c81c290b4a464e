//! The service that the rows play with, in both forms: it answers each line on a TCP connection with its process id, its
//! generation and how many lines were answered before, and ends in whatever way it is told to.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fd_handoff::form::Form;
use fd_handoff::{Acceptor, Config, Finish, HandoffBuilder, Received, SignalKind, State};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::sync::watch;

/// How a process is to behave: words with values, `form=tokio init=wait`.
pub(crate) const BEHAVIOUR: &str = "FD_HANDOFF_ENDINGS";
/// The file beside the control socket that says how the next process is to behave that the service starts itself.
pub(crate) const NEXT: &str = "next";
/// Enough for the clients of one row.
const SERVERS: usize = 16;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Behaviour(String);

impl Behaviour {
    /// Its words, or the file that has them: a service at its limits may be unable to read it for its child.
    pub(crate) fn of_this_process() -> Behaviour {
        let words = std::env::var(BEHAVIOUR).unwrap_or_default();
        Behaviour(if words.starts_with('/') { std::fs::read_to_string(words).unwrap_or_default() } else { words })
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    pub(crate) fn is(&self, key: &str, value: &str) -> bool {
        self.get(key) == Some(value)
    }

    fn millis(&self, key: &str) -> Option<Duration> {
        self.get(key).map(|text| Duration::from_millis(text.parse().expect("milliseconds")))
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.get("control").expect("where the control socket is").into()
    }

    fn config(&self) -> Config {
        Config::new(self.path()).name("endings").version("1").timeouts(|timeouts| {
            let set = |key, timeout: &mut Duration, usual| *timeout = self.millis(key).unwrap_or(usual);
            // Nothing of a row is to happen because a machine is slow.
            let long = Duration::from_secs(60);
            set("active", &mut timeouts.active, long);
            set("hook", &mut timeouts.hook, long);
            set("probation", &mut timeouts.probation, long);
            set("end", &mut timeouts.end, Duration::from_secs(5));
        })
    }

    fn plan<H>(&self, builder: HandoffBuilder<H>) -> HandoffBuilder<H> {
        let builder = builder.stop_on(SignalKind::terminate()).upgrade_on(SignalKind::hangup());
        let builder = builder.drain(self.millis("drain").unwrap_or(Duration::from_secs(60)));
        let path = self.path();
        let builder = if self.is("pidfile", "yes") { builder.pidfile(path.with_file_name("pid")) } else { builder };
        builder.successor(move || {
            let mut command = Command::new("/proc/self/exe");
            command.arg("serve").env(BEHAVIOUR, path.with_file_name(NEXT));
            command
        })
    }

    pub(crate) fn listen(&self) -> SocketAddr {
        self.get("listen").and_then(|text| text.parse().ok()).expect("where to listen")
    }
}

/// Tells the test what has happened. In one piece: all processes of a row say it on the same line.
pub(crate) fn report(behaviour: &Behaviour, what: impl std::fmt::Display) {
    let line = format!("{} {what}\n", behaviour.get("tag").unwrap_or("?"));
    let _ = nix::unistd::write(std::io::stdout(), line.as_bytes());
}

/// What the test has said so far: each word once.
#[derive(Clone)]
struct Orders(watch::Receiver<BTreeSet<String>>);

impl Orders {
    fn begin(behaviour: &Behaviour) -> Orders {
        let (tell, told) = watch::channel(BTreeSet::new());
        let (tag, behaviour) = (behaviour.get("tag").unwrap_or("?"), behaviour.clone());
        let socket = UnixDatagram::bind(behaviour.path().with_file_name(format!("{tag}.orders"))).expect("a socket");
        std::thread::spawn(move || {
            let mut word = [0; 64];
            while let Ok(length) = socket.recv(&mut word) {
                let word = String::from_utf8_lossy(&word[..length]).into_owned();
                if let Some(limit) = word.strip_prefix("limit ") {
                    crate::failures::limit_myself(limit);
                    report(&behaviour, "limited");
                }
                tell.send_modify(|told| {
                    told.insert(word);
                });
            }
        });
        Orders(told)
    }

    async fn told(&self, word: &str) {
        // Whoever hears the orders does so until the end.
        let _ = self.0.clone().wait_for(|told| told.contains(word)).await;
    }

    /// The ending that was ordered, when it has been.
    async fn end(&self) -> String {
        let mut told = self.0.clone();
        let found = told.wait_for(|told| told.iter().any(|word| word.starts_with("end "))).await;
        let found = found.expect("whoever hears the orders does so until the end");
        found.iter().find_map(|word| word.strip_prefix("end ")).unwrap_or_default().to_owned()
    }

    fn wait(&self, word: &str) {
        block_on(self.told(word));
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without a thread");
    runtime.block_on(future)
}

/// How many lines were answered.
#[derive(Debug, Default)]
struct Count {
    total: AtomicU64,
    /// What the successor knows of.
    told: AtomicU64,
}

impl Count {
    fn next(&self) -> u64 {
        self.total.fetch_add(1, SeqCst)
    }
}

fn encode(count: u64) -> State {
    State::bytes(count.to_le_bytes().to_vec())
}

fn decode(state: &Received) -> Result<u64, fd_handoff::StateError> {
    let bytes: &[u8] = state;
    Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
}

/// In a process of its own: plays the service.
pub(crate) fn run() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let behaviour = Behaviour::of_this_process();
    end_with_the_test();
    let orders = Orders::begin(&behaviour);
    report(&behaviour, "begins");
    let ended = match behaviour.get("form") {
        Some("tokio") => serve_on_tokio(&behaviour, &orders),
        _ => serve_blocking(&behaviour, &orders),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{} failed: {error}", behaviour.get("tag").unwrap_or("?"));
            ExitCode::FAILURE
        }
    }
}

/// However the test ends: its end of the line is closed then.
pub(crate) fn end_with_the_test() {
    std::thread::spawn(|| {
        let stdin = std::io::stdin();
        loop {
            let mut line = [PollFd::new(stdin.as_fd(), PollFlags::empty())];
            if nix::poll::poll(&mut line, PollTimeout::NONE).is_ok() {
                std::process::exit(9);
            }
        }
    });
}

/// Ends `main` in this way.
fn end(how: &str) -> Result<(), Error> {
    match how {
        "error" => Err("a mistake in the new version".into()),
        "return" => Ok(()),
        "panic" => panic!("a mistake of the new version's"),
        "exit0" => std::process::exit(0),
        "kill" => {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
            Ok(())
        }
        other => panic!("no ending {other}"),
    }
}

/// The hooks of either form.
fn install<F: Form<Term: Send, Connections: Send>>(
    starting: &mut fd_handoff::form::Starting<F>,
    behaviour: &Behaviour,
    orders: &Orders,
    count: &Arc<Count>,
) {
    checkpoints(starting.handle(), behaviour, orders, count);
    let hook = |name: &'static str| {
        let (behaviour, orders) = (behaviour.clone(), orders.clone());
        move || {
            report(&behaviour, format!("{name}s"));
            if behaviour.is(name, "wait") {
                orders.wait(name);
            }
        }
    };
    let (counted, offers) = (Arc::clone(count), hook("offer"));
    starting.on_offer(move || {
        offers();
        encode(counted.total.load(SeqCst))
    });
    let (counted, releases) = (Arc::clone(count), hook("release"));
    starting.on_release(move || {
        releases();
        let total = counted.total.load(SeqCst);
        counted.told.store(total, SeqCst);
        encode(total)
    });
    let counted = Arc::clone(count);
    starting.on_farewell(move || encode(counted.total.load(SeqCst) - counted.told.load(SeqCst)));
}

/// Whenever it is told to, once.
fn checkpoints<F: Form<Term: Send, Connections: Send>>(
    handle: fd_handoff::form::Handle<F>,
    behaviour: &Behaviour,
    orders: &Orders,
    count: &Arc<Count>,
) {
    let (behaviour, orders, count) = (behaviour.clone(), orders.clone(), Arc::clone(count));
    if !behaviour.is("checkpoint", "yes") {
        return;
    }
    std::thread::spawn(move || {
        orders.wait("checkpoint");
        handle.checkpoint(encode(count.total.load(SeqCst))).expect("eight bytes");
        report(&behaviour, "checkpointed");
    });
}

fn absorb(behaviour: &Behaviour, count: &Arc<Count>) -> impl FnMut(Received) + Send + 'static {
    let (behaviour, count) = (behaviour.clone(), Arc::clone(count));
    move |farewell| {
        let more = decode(&farewell).expect("eight bytes");
        count.total.fetch_add(more, SeqCst);
        report(&behaviour, format!("absorbs {more}"));
    }
}

fn answer_of(generation: u64, count: &Count) -> String {
    format!("{} {generation} {}\n", std::process::id(), count.next())
}

// ---- blocking

fn serve_blocking(behaviour: &Behaviour, orders: &Orders) -> Result<(), Error> {
    let mut starting = behaviour.plan(fd_handoff::Handoff::builder(behaviour.config())).start()?;
    let door = starting.tcp_listener("tcp", behaviour.listen())?;
    let count = Arc::new(Count::default());
    if let Some(inherited) = starting.state_with(decode)? {
        count.total.store(inherited, SeqCst);
    }
    install(&mut starting, behaviour, orders, &count);
    report(behaviour, "initialises");
    match behaviour.get("init") {
        None => {}
        Some("wait") => orders.wait("go"),
        Some("fail") => {
            starting.fail("this version does not fit");
            return Err("it does not fit".into());
        }
        Some(how) => return end(how),
    }
    let mut handoff = starting.ready()?;
    match behaviour.get("ready") {
        None => {}
        Some("fail") => {
            handoff.fail("this version cannot serve");
            return Err("it cannot serve".into());
        }
        Some(how) => return end(how),
    }
    if let Some(last) = handoff.final_state()? {
        count.total.store(decode(&last)?, SeqCst);
    }
    handoff.absorb_farewells(absorb(behaviour, &count));
    let addr = door.local_addr()?;
    let rounds = accept_on_threads(door, handoff.generation(), &count);
    let _ = rounds.send(());
    // The service runs on a thread of its own, so that `main` can end whenever it is told to.
    let (tell, over) = channel();
    let (told, running) = (tell.clone(), behaviour.clone());
    std::thread::spawn(move || {
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run_blocking(handoff, &running, &rounds)));
        let _ = told.send(outcome.map_or_else(|_| "panic".to_owned(), |error| error.unwrap_or_default()));
    });
    let orders = orders.clone();
    std::thread::spawn(move || tell.send(block_on(orders.end())));
    // From here on no thread is needed any more.
    report(behaviour, format!("serves {addr}"));
    match over.recv()? {
        over if over.is_empty() => {
            hang(behaviour);
            Ok(())
        }
        how => end(&how),
    }
}

/// Until the service has ended: `None`, or the way in which `main` is to end.
fn run_blocking(mut handoff: fd_handoff::Handoff, behaviour: &Behaviour, rounds: &Sender<()>) -> Option<String> {
    loop {
        handoff.superseded();
        report(behaviour, "superseded");
        match handoff.finish() {
            Ok(Finish::Exit) => {
                report(behaviour, "exits");
                return None;
            }
            Ok(Finish::Resume) => {
                report(behaviour, "resumes");
                let _ = rounds.send(());
            }
            Err(error) => {
                report(behaviour, format!("fails {error}"));
                return Some("error".to_owned());
            }
        }
    }
}

/// Threads that are there from the start: later there may be none to be had. Accepts once for each word.
fn accept_on_threads(door: Acceptor<TcpListener>, generation: u64, count: &Arc<Count>) -> Sender<()> {
    let (rounds, next) = channel();
    let (give, connections) = channel();
    let connections = Arc::new(Mutex::new(connections));
    for _ in 0..SERVERS {
        let (connections, count) = (Arc::clone(&connections), Arc::clone(count));
        std::thread::spawn(move || {
            while let Some(connection) = take(&connections) {
                let _ = answer(&connection, generation, &count);
            }
        });
    }
    std::thread::spawn(move || {
        while next.recv().is_ok() {
            while let Ok(Some((connection, _))) = door.accept() {
                let _ = give.send(connection);
            }
        }
    });
    rounds
}

fn take<T>(queue: &Mutex<Receiver<T>>) -> Option<T> {
    queue.lock().ok()?.recv().ok()
}

fn answer(stream: &fd_handoff::Connection<TcpStream>, generation: u64, count: &Count) -> std::io::Result<()> {
    let stream: &TcpStream = stream;
    stream.set_nodelay(true)?;
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        let mut stream = stream;
        stream.write_all(answer_of(generation, count).as_bytes())?;
        line.clear();
    }
    Ok(())
}

/// As a runtime that does not come to its end.
fn hang(behaviour: &Behaviour) {
    while behaviour.is("exit", "hang") {
        std::thread::park();
    }
}

// ---- tokio

fn serve_on_tokio(behaviour: &Behaviour, orders: &Orders) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let Some(service) = start_on_tokio(behaviour, orders).await? else { return Ok(()) };
        let ended = tokio::select! {
            ended = run_on_tokio(service, behaviour, orders) => ended?,
            how = orders.end() => return end(&how),
        };
        if let Some(how) = ended {
            return end(&how);
        }
        hang(behaviour);
        Ok(())
    })
}

struct OnTokio {
    handoff: fd_handoff::tokio::Handoff,
    door: fd_handoff::tokio::Acceptor<tokio::net::TcpListener>,
    count: Arc<Count>,
}

async fn start_on_tokio(behaviour: &Behaviour, orders: &Orders) -> Result<Option<OnTokio>, Error> {
    let mut starting = behaviour.plan(fd_handoff::tokio::Handoff::builder(behaviour.config())).start().await?;
    let door = starting.tcp_listener("tcp", behaviour.listen())?;
    let count = Arc::new(Count::default());
    if let Some(inherited) = starting.state_with(decode).await? {
        count.total.store(inherited, SeqCst);
    }
    install(&mut starting, behaviour, orders, &count);
    report(behaviour, "initialises");
    match behaviour.get("init") {
        None => {}
        Some("wait") => orders.told("go").await,
        Some("fail") => {
            starting.fail("this version does not fit");
            return Err("it does not fit".into());
        }
        Some(how) => return end(how).map(|()| None),
    }
    let mut handoff = starting.ready().await?;
    match behaviour.get("ready") {
        None => {}
        Some("fail") => {
            handoff.fail("this version cannot serve").await;
            return Err("it cannot serve".into());
        }
        Some(how) => return end(how).map(|()| None),
    }
    if let Some(last) = handoff.final_state()? {
        count.total.store(decode(&last)?, SeqCst);
    }
    handoff.absorb_farewells(absorb(behaviour, &count));
    Ok(Some(OnTokio { handoff, door, count }))
}

/// Until the service has ended: `None`, or the way in which `main` is to end.
async fn run_on_tokio(service: OnTokio, behaviour: &Behaviour, orders: &Orders) -> Result<Option<String>, Error> {
    let OnTokio { mut handoff, door, count } = service;
    let (generation, addr) = (handoff.generation(), door.local_addr()?);
    let server = behaviour.get("server").map(str::to_owned);
    if let Some(server) = server {
        report(behaviour, format!("serves {addr}"));
        let run = |handle: fd_handoff::tokio::Handle| {
            let (door, count, server) = (door.clone(), Arc::clone(&count), server.clone());
            async move {
                match server.as_str() {
                    "panic" => panic!("a mistake in the server"),
                    "ends" => {}
                    _ => {
                        accept(&door, generation, &count).await;
                        handle.drained().await;
                    }
                }
            }
        };
        tokio::select! {
            served = handoff.serve(run) => {
                served?;
                report(behaviour, "exits");
                return Ok(None);
            }
            () = orders.told("cancel") => report(behaviour, "cancelled"),
        }
        handoff.serve(run).await?;
        report(behaviour, "exits");
        return Ok(None);
    }
    let mut first = true;
    loop {
        let superseded = handoff.superseded();
        let accepting = tokio::spawn({
            let (door, count) = (door.clone(), Arc::clone(&count));
            async move { accept(&door, generation, &count).await }
        });
        if std::mem::take(&mut first) {
            report(behaviour, format!("serves {addr}"));
        }
        superseded.await;
        accepting.await?;
        report(behaviour, "superseded");
        let drained = handoff.handle().drained();
        let finished = tokio::select! {
            finished = handoff.finish(drained) => finished,
            () = orders.told("cancel") => {
                report(behaviour, "cancelled");
                orders.told("again").await;
                let drained = handoff.handle().drained();
                handoff.finish(drained).await
            }
        };
        match finished {
            Ok(Finish::Exit) => {
                report(behaviour, "exits");
                return Ok(None);
            }
            Ok(Finish::Resume) => report(behaviour, "resumes"),
            Err(error) => {
                report(behaviour, format!("fails {error}"));
                return Ok(Some("error".to_owned()));
            }
        }
    }
}

async fn accept(door: &fd_handoff::tokio::Acceptor<tokio::net::TcpListener>, generation: u64, count: &Arc<Count>) {
    while let Ok(Some((connection, _))) = door.accept().await {
        let count = Arc::clone(count);
        tokio::spawn(async move {
            let (read, mut write) = tokio::io::split(connection);
            let mut lines = tokio::io::BufReader::new(read).lines();
            while let Ok(Some(_)) = lines.next_line().await {
                if write.write_all(answer_of(generation, &count).as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// For the test: says a word to the process of this tag.
pub(crate) fn order(directory: &Path, tag: &str, word: &str) -> std::io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.send_to(word.as_bytes(), directory.join(format!("{tag}.orders"))).map(drop)
}
