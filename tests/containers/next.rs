//! The next container beside the old one.

use std::process::{Child, Command, Stdio};

use crate::Row;
use crate::harness::{Container, Engine, Place, example};
use crate::load::{Load, Sum};

pub(crate) const ROWS: &[Row] = &[
    ("next container: ten times", ten_times),
    ("next container: rollout.sh, good and bad", rollouts),
    ("next container: restart: always on all", always),
    ("next container: --pid host on all", one_pid_namespace),
];

fn ten_times(engine: &Engine) -> Sum {
    let place = engine.place();
    let mut old = place.serve(1, &[], &[]);
    old.is_ready();
    let load = Load::start(place.port);
    for round in 0..10 {
        load.goes_on(30);
        let new = place.serve(1 + round % 2, &[], &[]);
        new.is_ready();
        old.ends_well();
        old = new;
    }
    load.goes_on(30);
    load.lost_nothing()
}

/// Whoever was superseded comes back, and is no use but as a keeper.
fn always(engine: &Engine) -> Sum {
    const RESTARTS: usize = 30;
    let place = engine.place();
    let start = |version| place.serve(version, &["--restart", "always"], &[]);
    let mut all = vec![start(1)];
    all[0].is_ready();
    let load = Load::start(place.port);
    let mut restarts = 0;
    while restarts < RESTARTS {
        load.goes_on(20);
        let newest = start(1 + all.len() as u32 % 2);
        newest.is_ready();
        // The engine has started it again by now, or will.
        let superseded = all.last().unwrap();
        superseded.until("it has come back", || superseded.inspect("{{.RestartCount}}") != "0");
        restarts += 1;
        all.push(newest);
        for old in &all[..all.len() - 1] {
            old.restart();
            restarts += 1;
        }
        let newest = all.last().unwrap();
        newest.is_kept();
        assert_eq!(newest.exec(&["/handoff", "ready"]).0, Some(0), "the newest serves: {}", newest.status());
        let instance = newest.inspect("{{.Id}}");
        assert_eq!(newest.status()["instance"], instance.as_str());
    }
    load.goes_on(20);
    load.lost_nothing()
}

/// Begins to replace a container by the next one.
fn roll(place: &Place<'_>, old: &Container, timeout: &str, more: &[&str]) -> (Container, Child) {
    let new = Container::named(&place.engine.name());
    let mut rollout = Command::new(example("rollout.sh"));
    rollout.args([&old.name, &new.name]).args(place.options()).arg(place.engine.image(2));
    rollout.args(place.service()).args(more).env("TIMEOUT", timeout).stdout(Stdio::null());
    (new, rollout.spawn().unwrap())
}

/// Where all see each other's processes, each is told from the others all the same, and none starts a successor that would end with it.
fn one_pid_namespace(engine: &Engine) -> Sum {
    const SHARED: [&str; 2] = ["--pid", "host"];
    let place = engine.place();
    let mut old = place.serve(1, &SHARED, &[]);
    old.is_ready();
    let load = Load::start(place.port);
    for _ in 0..2 {
        load.goes_on(30);
        let new = place.serve(2, &SHARED, &["--slow-start", "2000"]);
        old.until("the new one initialises", || old.status()["phase"] == "initialising");
        let (code, said) = new.exec(&["/handoff", "ready"]);
        assert!(code == Some(1) && said.contains("of another container"), "the old one serves: {said}");
        assert_eq!(old.exec(&["/handoff", "ready"]).0, Some(0));
        new.is_ready();
        old.ends_well();
        old = new;
    }
    let (code, said) = old.exec(&["/handoff", "upgrade", "--timeout", "1s"]);
    assert!(code == Some(1) && said.contains("awaited"), "nobody comes: {said}");
    load.goes_on(30);
    load.lost_nothing()
}

fn rollouts(engine: &Engine) -> Sum {
    let place = engine.place();
    let mut old = place.serve(1, &[], &[]);
    old.is_ready();
    let load = Load::start(place.port);
    let roll = |old: &Container, timeout: &str, more: &[&str]| roll(&place, old, timeout, more);
    for _ in 0..5 {
        load.goes_on(30);
        let (new, mut rollout) = roll(&old, "60s", &[]);
        assert!(rollout.wait().unwrap().success(), "{}", new.logs());
        old.ends_well();
        old = new;
    }
    let keeps = |what: &str, rollout: &mut Child| {
        assert_eq!(rollout.wait().unwrap().code(), Some(1), "{what}");
        load.goes_on(30);
        assert_eq!(old.exec(&["/handoff", "ready"]).0, Some(0), "{what}: {}", old.logs());
    };
    keeps("one that crashes", &mut roll(&old, "3s", &["--no-such-option"]).1);
    keeps("one that never gets ready", &mut roll(&old, "2s", &["--slow-start", "600000"]).1);
    let (new, mut rollout) = roll(&old, "60s", &["--slow-start", "600000"]);
    old.until("the new one initialises", || old.status()["phase"] == "initialising");
    new.stop();
    keeps("one that is stopped while it initialises", &mut rollout);
    let mut swapped = Command::new(example("rollout.sh"));
    swapped.args([&new.name, &old.name]).args(place.options()).arg(engine.image(2)).stdout(Stdio::null());
    keeps("the two names are swapped", &mut swapped.spawn().unwrap());
    load.lost_nothing()
}
