//! A systemd of its own: Debian's, in a root that is kept between runs, booted in namespaces and a cgroup of its own. All of
//! that is gone when the machine is dropped, and when the process that has it is killed.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use tempfile::TempDir;

use crate::clients::{Check, PATIENCE, until};
use crate::example;

/// Which Debian has which systemd.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Debian {
    /// 252.
    Bookworm,
    /// 257.
    Trixie,
}

impl Debian {
    fn suite(self) -> &'static str {
        match self {
            Debian::Bookworm => "bookworm",
            Debian::Trixie => "trixie",
        }
    }

    /// Its root, made where it is not there yet: that takes half a minute.
    fn root(self) -> PathBuf {
        let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME or XDG_CACHE_HOME is set")).join(".cache");
        let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("fd-handoff/systemd");
        fs::create_dir_all(&cache).unwrap();
        let root = cache.join(self.suite());
        let lock = File::create(cache.join(format!("{}.lock", self.suite()))).unwrap();
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap();
        if !root.exists() {
            let unfinished = cache.join(format!("{}.unfinished", self.suite()));
            let _ = fs::remove_dir_all(&unfinished);
            let include = "--include=systemd,systemd-sysv";
            let mut debootstrap = Command::new("debootstrap");
            debootstrap.args(["--variant=minbase", include, self.suite()]).arg(&unfinished);
            let made = debootstrap.stdin(Stdio::null()).output().expect("debootstrap is installed");
            assert!(made.status.success(), "debootstrap: {}", said(&made));
            fs::rename(unfinished, &root).unwrap();
        }
        root
    }
}

/// What would only be in the way, or reach out of the machine.
const MASKED: [&str; 8] = [
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
    "systemd-resolved.service",
    "systemd-networkd.service",
    "systemd-timesyncd.service",
    "systemd-logind.service",
    "console-getty.service",
    "getty.target",
];

pub(crate) struct Machine {
    /// What has made the namespaces. With it, process 1 in there is killed, and with that everything.
    unshare: Child,
    /// Process 1, as seen from here.
    init: u32,
    cgroup: PathBuf,
    /// `units/`, `bin/` and `scratch/`.
    shared: TempDir,
}

impl Machine {
    /// Boots one with these units and with the example `http` and the command in `/srv/bin`. To be kept by the thread that
    /// has called this: with that, it ends.
    pub(crate) fn boot(debian: Debian, units: &[(String, String)]) -> Machine {
        let root = debian.root();
        let shared = tempfile::tempdir().unwrap();
        for directory in ["units", "bin", "scratch"] {
            fs::create_dir(shared.path().join(directory)).unwrap();
        }
        for masked in MASKED {
            symlink("/dev/null", shared.path().join("units").join(masked)).unwrap();
        }
        for (name, text) in units {
            let file = shared.path().join("units").join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let name = shared.path().file_name().unwrap().to_string_lossy().into_owned();
        remove_left_cgroups();
        let cgroup = cgroups().join(format!("{CGROUP}{}{name}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        let console = File::create(shared.path().join("console")).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd/boot.sh");
        let mut unshare = Command::new("setpriv");
        unshare.args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--fork",
            "--kill-child",
            "--pid",
            "--mount",
            "--uts",
            "--ipc",
        ]);
        unshare.args(["--net", "sh"]).arg(script).arg(&cgroup).arg(root).arg(shared.path());
        unshare.stdin(Stdio::null()).stdout(console.try_clone().unwrap()).stderr(console);
        let unshare = unshare.spawn().expect("setpriv and unshare are installed");
        let mut machine = Machine { unshare, init: 0, cgroup, shared };
        machine.install_example();
        machine.install("handoff", Path::new(env!("CARGO_BIN_EXE_handoff")));
        machine.await_boot();
        machine
    }

    fn await_boot(&mut self) {
        let children = format!("/proc/{0}/task/{0}/children", self.unshare.id());
        let booted = until("systemd has booted", || {
            if let Some(status) = self.unshare.try_wait().unwrap() {
                panic!("the machine has ended ({status}): {}", self.console());
            }
            self.init = fs::read_to_string(&children).ok()?.trim().parse().ok()?;
            fs::metadata(self.path("/run/systemd/private")).ok()
        });
        booted.unwrap_or_else(|error| panic!("{error}: {}", self.console()));
        let state = self.systemctl(&["is-system-running", "--wait"]);
        // Whatever else may have failed in there, that it has booted is what counts.
        assert!(matches!(said(&state).trim(), "running" | "degraded"), "{}", said(&state));
    }

    fn console(&self) -> String {
        fs::read_to_string(self.shared.path().join("console")).unwrap_or_default()
    }

    /// A file of the machine's, seen from here.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// Puts a program into `/srv/bin`, in the place of one that may run.
    pub(crate) fn install(&self, name: &str, program: &Path) {
        let bin = self.shared.path().join("bin");
        fs::copy(program, bin.join(".new")).unwrap();
        fs::rename(bin.join(".new"), bin.join(name)).unwrap();
    }

    /// The service.
    pub(crate) fn install_example(&self) {
        self.install("http", &example::program("http"));
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.shared.path().join("bin").join(name)).unwrap();
    }

    /// A script in the place of a program.
    pub(crate) fn install_script(&self, name: &str, script: &str) {
        let new = self.shared.path().join("script");
        fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        self.install(name, &new);
    }

    /// A command within the machine.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--all", "--wdns=/", "--", program]);
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn systemctl(&self, args: &[&str]) -> Output {
        self.command("systemctl").args(args).output().unwrap()
    }

    /// One that has to succeed.
    pub(crate) fn does(&self, args: &[&str]) -> Check {
        let done = self.systemctl(args);
        if done.status.success() {
            return Ok(());
        }
        let unit = args.last().copied().unwrap_or_default();
        let status = said(&self.systemctl(&["status", "--lines=30", "--full", "--no-pager", unit]));
        Err(format!("systemctl {}: {}\n{status}", args.join(" "), said(&done)))
    }

    /// What the journal has of the units.
    pub(crate) fn journal(&self) -> String {
        said(&self.command("journalctl").args(["--no-pager", "-o", "short-precise", "-u", "app*"]).output().unwrap())
    }

    /// What `systemctl show` says.
    pub(crate) fn property(&self, unit: &str, name: &str) -> String {
        said(&self.systemctl(&["show", "--value", "--property", name, unit])).trim().to_owned()
    }

    /// What the service itself says.
    pub(crate) fn status(&self, socket: &str) -> Check<Value> {
        let output = self.command("/srv/bin/handoff").args(["status", "--json", socket]).output().unwrap();
        serde_json::from_slice(&output.stdout).map_err(|_| format!("handoff status: {}", said(&output)))
    }

    pub(crate) fn network(&self) -> Network {
        Network(PathBuf::from(format!("/proc/{}/ns/net", self.init)))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        // Its process 1 was killed with it, and the kernel ends the others: a cgroup can be removed once they are gone.
        let began = Instant::now();
        while let Err(error) = remove_cgroup(&self.cgroup) {
            if began.elapsed() > PATIENCE {
                eprintln!("{} is left behind: {error}", self.cgroup.display());
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What a cgroup of a machine's is called: then comes the process id of the test.
const CGROUP: &str = "fd-handoff.";

/// Those of tests that were killed. Nobody is in them any more.
fn remove_left_cgroups() {
    for entry in fs::read_dir(cgroups()).unwrap().filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(CGROUP).and_then(|rest| rest.split('.').next());
        // One that nobody has reaped has no program any more.
        if pid.is_some_and(|pid| fs::read_link(Path::new("/proc").join(pid).join("exe")).is_err()) {
            // Another test may do so at the same time.
            let _ = remove_cgroup(&entry.path());
        }
    }
}

/// From the leaves on: the kernel lets nobody remove one with others in it.
fn remove_cgroup(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// Where the hierarchy is mounted that systemd wants.
fn cgroups() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let cgroup2 = mounts.lines().find_map(|mount| {
        let mut words = mount.split(' ').skip(1);
        let (path, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    });
    cgroup2.expect("cgroup2 is mounted")
}

/// A network namespace, for threads of this process.
#[derive(Clone)]
pub(crate) struct Network(PathBuf);

impl Network {
    /// From here on, what this thread opens is in there.
    pub(crate) fn enter(&self) {
        setns(File::open(&self.0).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
    }
}

/// What a command has said.
pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Where the services in the machines serve.
pub(crate) fn served_at() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}
