//! What the tests share: both forms of the library behind one set of calls, and a service that runs in a thread.

#![allow(dead_code, unused_imports, unused_macros, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

pub(crate) mod child;
pub(crate) mod raw;
pub(crate) mod service;
pub(crate) mod world;

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fd_handoff::{Config, Error, Failure, Inheritable, Offer, Received, Result, State, StateError};
use raw::Raw;
use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;
#[cfg(feature = "tokio")]
use tokio::runtime::Runtime;

/// How long anything may take that has to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One of the library's two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Blocking,
    #[cfg(feature = "tokio")]
    Tokio,
}

/// Makes a test for each pairing of predecessor and successor out of a function of two forms.
macro_rules! pairings {
    ($($body:ident)*) => {$(
        mod $body {
            #[test]
            fn blocking_to_blocking() {
                crate::$body(crate::common::Form::Blocking, crate::common::Form::Blocking);
            }
            #[cfg(feature = "tokio")]
            #[test]
            fn blocking_to_tokio() {
                crate::$body(crate::common::Form::Blocking, crate::common::Form::Tokio);
            }
            #[cfg(feature = "tokio")]
            #[test]
            fn tokio_to_blocking() {
                crate::$body(crate::common::Form::Tokio, crate::common::Form::Blocking);
            }
            #[cfg(feature = "tokio")]
            #[test]
            fn tokio_to_tokio() {
                crate::$body(crate::common::Form::Tokio, crate::common::Form::Tokio);
            }
        }
    )*};
}
pub(crate) use pairings;

/// Makes a test for each form out of a function of one form.
macro_rules! forms {
    ($($body:ident)*) => {$(
        mod $body {
            #[test]
            fn blocking() {
                crate::$body(crate::common::Form::Blocking);
            }
            #[cfg(feature = "tokio")]
            #[test]
            fn tokio() {
                crate::$body(crate::common::Form::Tokio);
            }
        }
    )*};
}
pub(crate) use forms;

macro_rules! sides {
    ($($name:ident)*) => {$(
        pub(crate) enum $name {
            Blocking(fd_handoff::$name),
            // The runtime goes last.
            #[cfg(feature = "tokio")]
            Tokio(fd_handoff::tokio::$name, Arc<Runtime>),
        }
    )*};
}
pub(crate) use sides;
sides! { Control Inheritance Successor Ready Released }

/// Calls what does not wait.
macro_rules! call {
    ($self:ident, $it:ident => $call:expr) => {
        match $self {
            Self::Blocking($it) => $call,
            #[cfg(feature = "tokio")]
            Self::Tokio($it, _) => $call,
        }
    };
}

/// Calls what waits.
macro_rules! drive {
    ($self:ident, $it:ident => $call:expr) => {
        match $self {
            Self::Blocking($it) => $call,
            #[cfg(feature = "tokio")]
            Self::Tokio($it, runtime) => runtime.block_on($call),
        }
    };
}

/// Calls what waits and gives the next step.
macro_rules! step {
    ($self:ident, $it:ident => $call:expr, $next:ident) => {
        match $self {
            Self::Blocking($it) => $call.map($next::Blocking),
            #[cfg(feature = "tokio")]
            Self::Tokio($it, runtime) => {
                let next = runtime.block_on($call);
                next.map(|next| $next::Tokio(next, Arc::clone(&runtime)))
            }
        }
    };
}

impl Form {
    /// Tokio's, where there is one.
    pub(crate) fn last() -> Form {
        #[cfg(feature = "tokio")]
        return Form::Tokio;
        #[cfg(not(feature = "tokio"))]
        Form::Blocking
    }

    pub(crate) fn listen(self, config: impl Into<Config>) -> Result<Control> {
        match self {
            Form::Blocking => fd_handoff::handoff_listen(config).map(Control::Blocking),
            #[cfg(feature = "tokio")]
            Form::Tokio => {
                let runtime = runtime();
                let control = runtime.block_on(fd_handoff::tokio::handoff_listen(config));
                control.map(|control| Control::Tokio(control, runtime))
            }
        }
    }

    pub(crate) fn receive(self, config: impl Into<Config>) -> Result<Inheritance> {
        match self {
            Form::Blocking => fd_handoff::handoff_receive(config).map(Inheritance::Blocking),
            #[cfg(feature = "tokio")]
            Form::Tokio => {
                let runtime = runtime();
                let inheritance = runtime.block_on(fd_handoff::tokio::handoff_receive(config));
                inheritance.map(|inheritance| Inheritance::Tokio(inheritance, runtime))
            }
        }
    }
}

#[cfg(feature = "tokio")]
pub(crate) fn runtime() -> Arc<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Arc::new(builder.worker_threads(1).enable_all().build().unwrap())
}

impl Control {
    pub(crate) fn accept(&self) -> Result<Successor> {
        step!(self, it => it.accept(), Successor)
    }

    pub(crate) fn generation(&self) -> u64 {
        call!(self, it => it.generation())
    }

    pub(crate) fn register(&self, name: &str, fd: &impl std::os::fd::AsFd) -> Result<()> {
        call!(self, it => it.register(name, fd))
    }

    pub(crate) fn final_state(&self) -> Result<Option<Received>, StateError> {
        call!(self, it => it.final_state())
    }

    pub(crate) fn farewell(&self) -> Result<Option<Received>> {
        drive!(self, it => it.farewell())
    }

    /// Stops in good order, and returns when the predecessor has been told.
    pub(crate) fn close(self) {
        match self {
            Control::Blocking(control) => control.close(),
            #[cfg(feature = "tokio")]
            Control::Tokio(control, runtime) => runtime.block_on(control.close()),
        }
    }
}

impl Control {
    /// Goes through one handoff up to where the successor serves.
    pub(crate) fn give(&self, offer: Offer<'_>, last: Option<State>) -> Result<Released, Failure> {
        self.accept().unwrap().offer(offer)?.release(last)
    }
}

impl Inheritance {
    pub(crate) fn is_cold_start(&self) -> bool {
        call!(self, it => it.is_cold_start())
    }

    pub(crate) fn generation(&self) -> u64 {
        call!(self, it => it.generation())
    }

    pub(crate) fn take<T: Inheritable>(&mut self, name: &str) -> Result<Option<T>> {
        call!(self, it => it.take(name))
    }

    pub(crate) fn take_all<T: Inheritable>(&mut self, name: &str) -> Result<Vec<T>> {
        call!(self, it => it.take_all(name))
    }

    pub(crate) fn tcp_listener(&mut self, name: &str, addr: std::net::SocketAddr) -> Result<TcpListener> {
        match self {
            Inheritance::Blocking(it) => it.tcp_listener(name, addr),
            #[cfg(feature = "tokio")]
            Inheritance::Tokio(it, runtime) => {
                let _inside = runtime.enter();
                it.tcp_listener(name, addr).map(|listener| listener.into_std().unwrap())
            }
        }
    }

    pub(crate) fn udp_socket(&mut self, name: &str, addr: std::net::SocketAddr) -> Result<std::net::UdpSocket> {
        match self {
            Inheritance::Blocking(it) => it.udp_socket(name, addr),
            #[cfg(feature = "tokio")]
            Inheritance::Tokio(it, runtime) => {
                let _inside = runtime.enter();
                it.udp_socket(name, addr).map(|socket| socket.into_std().unwrap())
            }
        }
    }

    pub(crate) fn received(&self) -> Option<&Received> {
        call!(self, it => it.received())
    }

    /// The snapshot's bytes as text.
    pub(crate) fn text(&self) -> Option<String> {
        self.received().map(|state| text(state))
    }

    #[cfg(feature = "bincode")]
    pub(crate) fn state<T: serde::de::DeserializeOwned + Send + 'static>(&self) -> Result<Option<T>, StateError> {
        drive!(self, it => it.state())
    }

    pub(crate) fn state_with<T: Send + 'static>(
        &self,
        decode: impl FnOnce(&Received) -> Result<T, StateError> + Send + 'static,
    ) -> Result<Option<T>, StateError> {
        drive!(self, it => it.state_with(decode))
    }

    pub(crate) fn progress(&mut self, message: &str) {
        call!(self, it => it.progress(message));
    }

    pub(crate) fn fail(self, reason: &str) {
        call!(self, it => it.fail(reason));
    }

    pub(crate) fn ready(self) -> Result<Control> {
        step!(self, it => it.ready(), Control)
    }
}

impl Successor {
    pub(crate) fn pid(&self) -> u32 {
        call!(self, it => it.pid())
    }

    pub(crate) fn version(&self) -> &str {
        call!(self, it => it.version())
    }

    pub(crate) fn with_child(self, child: fd_handoff::Spawned) -> Successor {
        match self {
            Self::Blocking(it) => Self::Blocking(it.with_child(child)),
            #[cfg(feature = "tokio")]
            Self::Tokio(it, runtime) => Self::Tokio(it.with_child(child), runtime),
        }
    }

    pub(crate) fn offer(self, offer: Offer<'_>) -> Result<Ready, Failure> {
        step!(self, it => it.offer(offer), Ready)
    }

    pub(crate) fn refuse(self, reason: &str) {
        call!(self, it => it.refuse(reason));
    }
}

impl Ready {
    pub(crate) fn release(self, state: Option<State>) -> Result<Released, Failure> {
        step!(self, it => it.release(state), Released)
    }

    pub(crate) fn refuse(self, reason: &str) {
        call!(self, it => it.refuse(reason));
    }
}

impl Released {
    pub(crate) fn draining(&mut self, connections: u64) {
        call!(self, it => it.draining(connections));
    }

    pub(crate) fn lost(&mut self, until: Option<Instant>) -> Option<Failure> {
        match self {
            Released::Blocking(it) => it.lost(until),
            #[cfg(feature = "tokio")]
            Released::Tokio(it, runtime) => match until {
                None => Some(runtime.block_on(it.lost())),
                Some(until) => {
                    let lost = async { tokio::time::timeout_at(until.into(), it.lost()).await };
                    runtime.block_on(lost).ok()
                }
            },
        }
    }

    pub(crate) fn farewell(self, state: Option<State>) -> Result<(), Failure> {
        drive!(self, it => it.farewell(state))
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A directory for one test, and the control socket's path in it.
pub(crate) struct Place {
    pub(crate) directory: TempDir,
    pub(crate) path: PathBuf,
}

pub(crate) fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    Place { directory, path }
}

/// A configuration whose waits do not end on a slow machine. At the end of `active` a predecessor kills its
/// successor, which in most tests is this very process.
pub(crate) fn config(path: &Path) -> Config {
    Config::new(path).name("tested").version("1.2.3").timeouts(|waits| {
        waits.active = PATIENCE;
        waits.transfer = PATIENCE;
        // A test that is about it says so.
        waits.probation = Duration::ZERO;
    })
}

/// What a service that was killed leaves at its path. This one has never listened: a child that another test starts
/// holds a copy of every descriptor until it has become its program, and a listener would live on in it.
pub(crate) fn stale_socket(path: &Path) {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::unix(path).unwrap()).unwrap();
}

pub(crate) fn tcp_listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// The reading and the writing end.
pub(crate) fn pipe() -> (File, File) {
    let (out, into) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    (File::from(out), File::from(into))
}

/// The cause of a failed handoff on the predecessor's side.
pub(crate) fn cause(failure: &Failure) -> &fd_handoff::Cause {
    match failure.cause() {
        Error::Handoff(cause) => cause,
        other => panic!("not the successor's doing: {other}"),
    }
}

/// A service of generation 1, in a thread of its own: it gives a TCP listener named `http` and the snapshot
/// `snapshot` to each successor that asks, until one of them serves.
pub(crate) struct Service {
    config: Config,
    path: PathBuf,
    failures: Receiver<Failure>,
    thread: JoinHandle<()>,
}

impl Service {
    pub(crate) fn start(form: Form, config: Config, path: &Path) -> Service {
        Service::start_with(form, config, path, |listener| {
            Offer::new().descriptor("http", listener).state(State::bytes("snapshot"))
        })
    }

    pub(crate) fn start_with(
        form: Form,
        config: Config,
        path: &Path,
        offer: impl Fn(&TcpListener) -> Offer<'_> + Send + 'static,
    ) -> Service {
        let control = form.listen(config.clone()).unwrap();
        let (failed, failures) = channel();
        let thread = std::thread::spawn(move || serve(&control, &offer, &failed));
        Service { config, path: path.to_owned(), failures, thread }
    }

    /// The next handoff that fails.
    pub(crate) fn failure(&self) -> Failure {
        self.failures.recv_timeout(PATIENCE).expect("no handoff failed")
    }

    /// Connects as a stranger does, and reads the greeting.
    pub(crate) fn connect(&self) -> Raw {
        Raw::greeted(&self.path)
    }

    /// A successor in good order takes the service over.
    pub(crate) fn hand_over(self, new: Form) -> Control {
        let mut inheritance = new.receive(self.config).expect("the service gives itself to a successor");
        assert_eq!(inheritance.text().as_deref(), Some("snapshot"));
        let listener: TcpListener = inheritance.take("http").unwrap().unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let control = inheritance.ready().expect("the service is released");
        let (_accepted, addr) = listener.accept().unwrap();
        assert_eq!(addr, client.local_addr().unwrap());
        self.thread.join().unwrap();
        control
    }

    /// Whatever was done to it: it answers, serves, and hands itself over.
    pub(crate) fn assert_unharmed(self) {
        let status = self.connect().ask("status");
        assert_eq!((&status["phase"], &status["generation"]), (&"serving".into(), &1.into()), "{status}");
        assert_eq!(status["successor"], serde_json::Value::Null, "{status}");
        let control = self.hand_over(Form::Blocking);
        assert_eq!(control.generation(), 2);
    }
}

fn serve(control: &Control, offer: &impl Fn(&TcpListener) -> Offer<'_>, failed: &std::sync::mpsc::Sender<Failure>) {
    let listener = tcp_listener();
    loop {
        let successor = match control.accept() {
            Ok(successor) => successor,
            Err(Error::Closed) => return,
            Err(error) => panic!("{error}"),
        };
        let released = successor.offer(offer(&listener)).and_then(|ready| ready.release(None));
        match released.and_then(|released| released.farewell(None)) {
            Ok(()) => return,
            // Nobody may be listening.
            Err(failure) => drop(failed.send(failure)),
        }
    }
}

/// Raises this process's limit of open files to `count`, if it may.
pub(crate) fn allow_files(count: u64) -> bool {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let allowed = soft >= count || (hard >= count && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok());
    if !allowed {
        eprintln!("skipped: needs {count} open files; the hard limit is {hard}");
    }
    allowed
}

/// Whether this process may become another user.
pub(crate) fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can run a process of another user");
    }
    root
}

/// Waits until the predecessor has put an attempt into its history.
pub(crate) fn await_attempts(path: &Path, count: usize) {
    let began = Instant::now();
    while fd_handoff::client::Client::connect(path).unwrap().status().unwrap().history.len() < count {
        assert!(began.elapsed() < PATIENCE, "no attempt has ended");
    }
}
