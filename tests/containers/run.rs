//! `handoff run` as process 1 of a single container.

use std::process::Command;

use crate::Row;
use crate::harness::{Container, Engine, Place};
use crate::load::{Load, Sum};

pub(crate) const ROWS: &[Row] =
    &[("handoff run: handoff upgrade", upgrades), ("handoff run: the service is killed", crashes)];

/// One container, whose process 1 starts the service and keeps it.
fn start(place: &Place<'_>) -> Container {
    let command = ["/handoff", "run", "/run/app/handoff.sock", "--"].map(str::to_owned);
    let checkpoint = ["--checkpoint", "50"].map(str::to_owned);
    let command: Vec<String> = command.into_iter().chain(place.service()).chain(checkpoint).collect();
    let app = place.start(&["--network", "host"], &command.iter().map(String::as_str).collect::<Vec<_>>());
    app.is_ready();
    app.is_kept();
    app
}

fn upgrades(engine: &Engine) -> Sum {
    let place = engine.place();
    let app = start(&place);
    let load = Load::start(place.port);
    for _ in 0..5 {
        load.goes_on(50);
        let (code, said) = app.exec(&["/handoff", "upgrade"]);
        assert_eq!(code, Some(0), "{said}");
        app.is_kept();
    }
    load.goes_on(50);
    let sum = load.lost_nothing();
    ends_well(&app);
    sum
}

fn crashes(engine: &Engine) -> Sum {
    let place = engine.place();
    let app = start(&place);
    let load = Load::start(place.port);
    for _ in 0..3 {
        load.goes_on(50);
        let before = app.status()["pid"].clone();
        // The one that serves, by its number outside.
        let top = Command::new("docker").args(["top", &app.name, "-eo", "pid,comm"]).output().unwrap();
        let top = String::from_utf8(top.stdout).unwrap();
        let http = top.lines().rfind(|line| line.ends_with("http")).unwrap();
        let pid = http.split_whitespace().next().unwrap();
        assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success());
        app.until("another process serves", || {
            let status = app.status();
            status["phase"] == "serving" && status["pid"] != before && status["keeper"]["holds"] == true
        });
    }
    load.goes_on(50);
    let sum = load.lost_what_was_in_flight(3);
    ends_well(&app);
    sum
}

/// It ends with the service's own code, within the grace.
fn ends_well(app: &Container) {
    app.stop();
    assert_eq!(app.ended(), 0, "{}", app.logs());
}
