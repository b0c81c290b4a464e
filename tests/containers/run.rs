//! `handoff run` as process 1 of a single container.

use std::process::Command;

use crate::Row;
use crate::harness::Engine;
use crate::load::Load;

pub(crate) const ROWS: &[Row] = &[("crashes and upgrades inside one container, under handoff run", one_container)];

fn one_container(engine: &Engine) -> String {
    let place = engine.place();
    let listen = format!("127.0.0.1:{}", place.port);
    let command = ["/handoff", "run", "/run/app/handoff.sock", "--"];
    let service = ["/http", "--listen", &listen, "--drain", "5000"];
    let app = place.start(&["--network", "host"], &[&command[..], &service].concat());
    app.is_ready();
    app.is_kept();
    let load = Load::start(place.port);
    for _ in 0..5 {
        load.goes_on(50);
        let (code, said) = app.exec(&["/handoff", "upgrade"]);
        assert_eq!(code, Some(0), "{said}");
        app.is_kept();
    }
    load.goes_on(50);
    let upgraded = load.lost_nothing();
    let load = Load::start(place.port);
    for _ in 0..3 {
        load.goes_on(50);
        let before = app.status()["pid"].as_u64().unwrap();
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
    let crashed = load.lost_what_was_in_flight(3);
    app.stop();
    assert_eq!(app.ended(), 0, "{}", app.logs());
    format!("{upgraded}; {crashed}")
}
