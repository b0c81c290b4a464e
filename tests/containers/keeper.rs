//! A container that keeps the service while no other one serves it.

use std::process::Command;

use crate::Row;
use crate::harness::{Container, Engine, Place, example};
use crate::load::{Load, Sum};

pub(crate) const ROWS: &[Row] = &[
    ("keeper: docker-compose up -d, docker restart", compose),
    ("keeper: the only container is killed", crashes),
    ("keeper: hardened, and without a network", hardened),
    ("keeper: is killed itself", restless_keeper),
];

/// `compose.keeper.yaml`, in a project of its own that is gone at the end.
struct Project<'a> {
    place: &'a Place<'a>,
    name: String,
}

impl Project<'_> {
    fn compose(&self, version: u32, args: &[&str]) {
        let engine = self.place.engine;
        let done = Command::new("docker-compose")
            .args(["--project-name", &self.name, "--file"])
            .arg(example("compose.keeper.yaml"))
            .args(args)
            .env("IMAGE", engine.image(version))
            .env("KEEPER_IMAGE", engine.image(1))
            .env("PORT", self.place.port.to_string())
            .output()
            .unwrap();
        assert!(done.status.success(), "docker-compose {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    fn container(&self, service: &str) -> Container {
        Container::named(&format!("{}_{service}_1", self.name))
    }
}

impl Drop for Project<'_> {
    fn drop(&mut self) {
        self.compose(1, &["down", "--volumes", "--timeout", "1"]);
    }
}

fn compose(engine: &Engine) -> Sum {
    let place = engine.place();
    // What compose makes of a name in its containers' has no dashes of its own there.
    let project = Project { place: &place, name: engine.name() };
    project.compose(1, &["up", "--detach"]);
    let app = project.container("app");
    app.is_ready();
    app.is_kept();
    let load = Load::start(place.port);
    for round in 0..5 {
        load.goes_on(50);
        project.compose(if round % 2 == 0 { 2 } else { 1 }, &["up", "--detach"]);
        app.is_ready();
        app.is_kept();
    }
    for _ in 0..3 {
        load.goes_on(50);
        app.restart();
        app.is_ready();
        app.is_kept();
    }
    load.goes_on(50);
    load.lost_nothing()
}

/// A keeper in the host's network, which nobody's end takes away.
fn keep(place: &Place<'_>, options: &[&str]) -> Container {
    let listen = format!("http=127.0.0.1:{}", place.port);
    place.start(
        &[&["--network", "host", "--restart", "unless-stopped"], options].concat(),
        &["/handoff", "keep", "--listen", &listen],
    )
}

fn crashes(engine: &Engine) -> Sum {
    const TIMES: u64 = 10;
    let place = engine.place();
    let _keeper = keep(&place, &[]);
    let app = place.serve(1, &["--restart", "unless-stopped"], &["--checkpoint", "50"]);
    app.is_ready();
    app.is_kept();
    let load = Load::start(place.port);
    for time in 0..TIMES {
        load.goes_on(50);
        let before = app.inspect("{{.State.StartedAt}}");
        // The engine starts it again, after a pause that doubles each time; what `docker kill` ends is the operator's to start.
        if time % 2 == 0 {
            app.crash()
        } else {
            app.kill_and_start()
        }
        app.until("it was started again", || app.inspect("{{.State.StartedAt}}") != before);
        app.is_ready();
        app.is_kept();
    }
    load.goes_on(50);
    load.lost_what_was_in_flight(TIMES)
}

fn hardened(engine: &Engine) -> Sum {
    const HARDENED: [&str; 13] = [
        "--user",
        "65532:65532",
        "--read-only",
        "--cap-drop",
        "ALL",
        "--security-opt",
        "no-new-privileges",
        "--pids-limit",
        "16",
        "--ulimit",
        "nofile=128:128",
        "--memory",
        "64m",
    ];
    let place = engine.place();
    let _keeper = keep(&place, &HARDENED);
    let start = |version| {
        let listen = format!("127.0.0.1:{}", place.port);
        let command = ["/http", "--listen", &listen, "--foreign-netns", "--drain", "5000"];
        place.start_version(version, &[&["--network", "none"], &HARDENED[..]].concat(), &command)
    };
    let mut app = start(1);
    app.is_ready();
    app.is_kept();
    let load = Load::start(place.port);
    for round in 0..4 {
        load.goes_on(50);
        // By turns beside the old one, and after it.
        let next = if round % 2 == 0 {
            let next = start(2);
            next.is_ready();
            next
        } else {
            app.stop();
            let next = start(1);
            next.is_ready();
            next
        };
        app.ends_well();
        app = next;
        app.is_kept();
    }
    load.goes_on(50);
    load.lost_nothing()
}

fn restless_keeper(engine: &Engine) -> Sum {
    let place = engine.place();
    let keeper = keep(&place, &[]);
    let app = place.serve(1, &["--restart", "unless-stopped"], &["--checkpoint", "50"]);
    app.is_ready();
    let load = Load::start(place.port);
    for round in 0..5 {
        load.goes_on(10 * round);
        let before = keeper.inspect("{{.State.StartedAt}}");
        keeper.crash();
        keeper.until("it was started again", || keeper.inspect("{{.State.StartedAt}}") != before);
        app.is_kept();
    }
    // A second after it was there again, what it is there for happens.
    let before = app.inspect("{{.State.StartedAt}}");
    app.crash();
    app.until("it was started again", || app.inspect("{{.State.StartedAt}}") != before);
    app.is_ready();
    load.goes_on(50);
    load.lost_what_was_in_flight(1)
}
