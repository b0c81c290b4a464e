//! Containers that somebody else puts together: a Pod, a Swarm.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::Row;
use crate::harness::{Engine, PATIENCE, docker, example};
use crate::load::{Load, Sum};

pub(crate) const ROWS: &[Row] =
    &[("Pod: two app containers in turn", pod), ("Swarm: three updates and a rollback", swarm)];

/// What `pod.yaml` is: containers of one network namespace, which belongs to the one that does not end.
fn pod(engine: &Engine) -> Sum {
    let place = engine.place();
    let port = format!("127.0.0.1:{}:8080", place.port);
    let keeper = place.start(&["--publish", &port], &["/handoff", "keep", "--listen", "http=0.0.0.0:8080"]);
    let network = format!("container:{}", keeper.name);
    let start = |version| {
        let service = ["/http", "--listen", "0.0.0.0:8080", "--drain", "5000"];
        place.start_version(version, &["--network", &network], &service)
    };
    let mut app = start(1);
    app.is_ready();
    app.is_kept();
    let load = Load::start(place.port);
    for round in 0..4 {
        load.goes_on(50);
        let next = start(1 + round % 2);
        next.is_ready();
        app.ends_well();
        app = next;
        app.is_kept();
    }
    load.goes_on(50);
    load.lost_nothing()
}

/// Leaves the swarm that this test has made.
struct Swarm {
    stack: String,
    /// The engine had the network that it makes for a swarm, and leaves behind.
    bridged: bool,
}

const BRIDGE: &str = "docker_gwbridge";

impl Drop for Swarm {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["stack", "rm", &self.stack]).output();
        let _ = Command::new("docker").args(["swarm", "leave", "--force"]).output();
        // Its tasks' containers go first, in their time.
        let volume = format!("{}_socket", self.stack);
        let remove = || Command::new("docker").args(["volume", "rm", "--force", &volume]).output();
        let began = Instant::now();
        while began.elapsed() < PATIENCE && !remove().is_ok_and(|done| done.status.success()) {
            std::thread::sleep(Duration::from_millis(200));
        }
        if !self.bridged {
            let _ = Command::new("docker")
                .args(["network", "disconnect", "--force", BRIDGE, "gateway_ingress-sbox"])
                .output();
            let _ = Command::new("docker").args(["network", "rm", BRIDGE]).output();
        }
    }
}

fn swarm(engine: &Engine) -> Sum {
    if docker(&["info", "--format", "{{.Swarm.LocalNodeState}}"]).trim() != "inactive" {
        println!("skipped: this engine is in a swarm already");
        return Sum::default();
    }
    let bridged = docker(&["network", "ls", "--format", "{{.Name}}"]).lines().any(|network| network == BRIDGE);
    let swarm = Swarm { stack: engine.name(), bridged };
    docker(&["swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1"]);
    let place = engine.place();
    let deployed = Command::new("docker")
        .args(["stack", "deploy", "--compose-file"])
        .arg(example("swarm.yaml"))
        .arg(&swarm.stack)
        .env("IMAGE", engine.image(1))
        .env("PORT", place.port.to_string())
        .output()
        .unwrap();
    assert!(deployed.status.success(), "{}", String::from_utf8_lossy(&deployed.stderr));
    let service = format!("{}_app", swarm.stack);
    wait_until_answered(place.port);
    let load = Load::start(place.port);
    for version in [2, 1, 2] {
        load.goes_on(100);
        docker(&["service", "update", "--quiet", "--image", &engine.image(version), &service]);
    }
    load.goes_on(100);
    docker(&["service", "rollback", "--quiet", &service]);
    load.goes_on(100);
    load.lost_nothing()
}

fn wait_until_answered(port: u16) {
    let began = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(began.elapsed() < PATIENCE, "the stack does not serve");
        std::thread::sleep(Duration::from_millis(100));
    }
}
