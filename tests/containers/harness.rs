//! An image, and what a row makes of it: all of it is gone when the test ends, however it ends.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::example::program;

/// How long anything may take that has to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The engine, with an image in two versions.
pub(crate) struct Engine {
    directory: tempfile::TempDir,
    /// What everything is labelled with, and named after.
    pub(crate) run: String,
    number: AtomicU32,
}

impl Engine {
    /// Builds the image: the example `http` and the command, with their libraries.
    pub(crate) fn new() -> Engine {
        let run = format!("fd-handoff-test-{}", std::process::id());
        let engine = Engine { directory: tempfile::tempdir().unwrap(), run, number: AtomicU32::new(0) };
        let context = engine.directory.path();
        fs::create_dir_all(context.join("run/app")).unwrap();
        fs::create_dir_all(context.join("root")).unwrap();
        for (name, program) in [("http", program("http")), ("handoff", env!("CARGO_BIN_EXE_handoff").into())] {
            add(&context.join("root"), &program, name);
        }
        fs::copy(example("Dockerfile"), context.join("Dockerfile")).unwrap();
        // Two versions that are different images, and do the same.
        for version in 1..=2 {
            let (tag, label) = (engine.image(version), format!("version={version}"));
            let directory = context.to_str().unwrap();
            docker(&["build", "--quiet", "--tag", &tag, "--label", &label, "--label", &engine.run, directory]);
        }
        engine
    }

    pub(crate) fn image(&self, version: u32) -> String {
        format!("{}:{version}", self.run)
    }

    /// A name that no other row has.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.run, self.number.fetch_add(1, SeqCst))
    }

    /// A place of its own for a row.
    pub(crate) fn place(&self) -> Place<'_> {
        let (volume, port) = (self.name(), free_port());
        docker(&["volume", "create", "--label", &self.run, &volume]);
        Place { engine: self, volume, port }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let label = format!("label={}", self.run);
        let remove = |list: &[&str], remove: &[&str]| {
            let found = try_docker(&[list, &["--quiet", "--filter", &label]].concat());
            let found = String::from_utf8_lossy(&found.stdout).into_owned();
            for one in found.split_whitespace() {
                try_docker(&[remove, &[one]].concat());
            }
        };
        remove(&["ps", "--all"], &["rm", "--force", "--volumes"]);
        remove(&["volume", "ls"], &["volume", "rm", "--force"]);
        remove(&["network", "ls"], &["network", "rm"]);
        for version in 1..=2 {
            try_docker(&["image", "rm", "--force", &self.image(version)]);
        }
    }
}

/// A volume for the control socket, and a port of the host's.
pub(crate) struct Place<'a> {
    pub(crate) engine: &'a Engine,
    volume: String,
    pub(crate) port: u16,
}

impl Place<'_> {
    /// Starts a container.
    pub(crate) fn start(&self, options: &[&str], command: &[&str]) -> Container {
        self.start_version(1, options, command)
    }

    pub(crate) fn start_version(&self, version: u32, options: &[&str], command: &[&str]) -> Container {
        let (name, image, volume) = (self.engine.name(), self.engine.image(version), self.volume());
        let own = ["run", "--detach", "--name", &name, "--label", &self.engine.run, "--volume", &volume];
        docker(&[&own, options, &[&image], command].concat());
        Container { name }
    }

    fn volume(&self) -> String {
        format!("{}:/run/app", self.volume)
    }

    /// The service, in the host's network.
    pub(crate) fn serve(&self, version: u32, options: &[&str], more: &[&str]) -> Container {
        let service = self.service();
        let command: Vec<&str> = service.iter().map(String::as_str).chain(more.iter().copied()).collect();
        self.start_version(version, &[&["--network", "host"], options].concat(), &command)
    }

    /// What `docker run` is told of the service in the host's network, before the image.
    pub(crate) fn options(&self) -> Vec<String> {
        let options = ["--network", "host", "--label", &self.engine.run, "--volume", &self.volume()];
        options.map(str::to_owned).to_vec()
    }

    /// And after it.
    pub(crate) fn service(&self) -> Vec<String> {
        ["/http", "--listen", &format!("127.0.0.1:{}", self.port), "--drain", "5000"].map(str::to_owned).to_vec()
    }
}

/// A container. It is removed with the engine's label at the end.
pub(crate) struct Container {
    pub(crate) name: String,
}

impl Container {
    pub(crate) fn named(name: &str) -> Container {
        Container { name: name.to_owned() }
    }

    /// Runs a program in it. Returns its exit code, and what it said.
    pub(crate) fn exec(&self, command: &[&str]) -> (Option<i32>, String) {
        let done = try_docker(&[&["exec", &self.name], command].concat());
        (
            done.status.code(),
            [done.stdout, done.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat(),
        )
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.exec(&["/handoff", "status", "--json"]).1).unwrap_or_default()
    }

    /// Waits until this container's own process serves.
    pub(crate) fn is_ready(&self) {
        self.until("it is ready", || self.exec(&["/handoff", "ready"]).0 == Some(0));
    }

    /// Waits until a keeper has everything of the service that is seen from here.
    pub(crate) fn is_kept(&self) {
        self.until("it is kept", || self.status()["keeper"]["holds"] == true);
    }

    pub(crate) fn until(&self, what: &str, mut look: impl FnMut() -> bool) {
        let began = Instant::now();
        while !look() {
            assert!(began.elapsed() < PATIENCE, "waited in vain until {what}\n{}\n{}", self.logs(), self.status());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn inspect(&self, format: &str) -> String {
        let done = docker(&["inspect", "--format", format, &self.name]);
        done.trim().to_owned()
    }

    /// Kills its process 1, as a crash would. What `docker kill` ends, the engine takes for the operator's wish, and does not start it
    /// again.
    pub(crate) fn crash(&self) {
        let pid = self.inspect("{{.State.Pid}}");
        // One that is just being started again has none.
        if pid != "0" {
            let _ = Command::new("kill").args(["-9", &pid]).status();
        }
    }

    pub(crate) fn kill_and_start(&self) {
        docker(&["kill", "--signal", "KILL", &self.name]);
        docker(&["start", &self.name]);
    }

    pub(crate) fn stop(&self) {
        docker(&["stop", "--time", "20", &self.name]);
    }

    pub(crate) fn restart(&self) {
        docker(&["restart", "--time", "20", &self.name]);
    }

    /// Waits for its end. Returns the exit code.
    pub(crate) fn ended(&self) -> i32 {
        docker(&["wait", &self.name]).trim().parse().unwrap()
    }

    /// Waits for its end in good order, and removes it.
    pub(crate) fn ends_well(&self) {
        assert_eq!(self.ended(), 0, "{}", self.logs());
        self.remove();
    }

    pub(crate) fn remove(&self) {
        docker(&["rm", "--force", &self.name]);
    }

    pub(crate) fn logs(&self) -> String {
        let done = try_docker(&["logs", "--tail", "40", &self.name]);
        [done.stdout, done.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat()
    }
}

/// A file that is shipped.
pub(crate) fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/containers").join(name)
}

/// Runs docker, and returns what it says.
#[track_caller]
pub(crate) fn docker(args: &[&str]) -> String {
    let done = try_docker(args);
    assert!(done.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn try_docker(args: &[&str]) -> Output {
    Command::new("docker").args(args).output().unwrap()
}

/// A program, and the libraries that it needs.
fn add(root: &Path, program: &Path, name: &str) {
    fs::copy(program, root.join(name)).unwrap();
    let needed = Command::new("ldd").arg(program).output().unwrap();
    for word in String::from_utf8(needed.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/')) {
        let inside = root.join(word.trim_start_matches('/'));
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::copy(OsStr::new(word), inside).unwrap();
    }
}

/// One that nobody has now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
