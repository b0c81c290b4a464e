//! A service that an init of one program runs, as `docker run --init` has it, starts no successor that would end with it.

#![cfg(all(feature = "tokio", feature = "bincode"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod common;
#[path = "common/example.rs"]
mod example;

use std::path::Path;
use std::process::Command;

use common::{Place, place};
use example::Process;
use fd_handoff::client::{Client, News, Step};

/// A service that nobody here has started, or could wait for.
struct Stops<'a>(&'a Path);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        if let Ok(steps) = Client::connect(self.0).and_then(Client::stop) {
            steps.for_each(drop);
        }
    }
}

#[test]
fn an_upgrade_under_an_init_of_one_program_waits_for_a_process_from_elsewhere() {
    let Place { directory, path } = place();
    // What counts is the name that the kernel has for it.
    let tini = directory.path().join("tini");
    std::os::unix::fs::symlink("/bin/sh", &tini).unwrap();
    let control = path.to_str().unwrap();
    let service = format!(
        "{} --listen 127.0.0.1:0 --control {control} --timeouts probation=0 & wait",
        example::program("http").display()
    );
    let mut init = Process::begin(Command::new(tini).args(["-c", &service]));
    let _stops = Stops(&path);
    let mut upgrade = Client::connect(&path).unwrap().upgrade(None).unwrap();
    let said = upgrade.find_map(|step| match step.unwrap() {
        Step::Event(event) if event.event == News::Awaited => Some(event.message),
        Step::Event(_) => None,
        other => panic!("{other:?}"),
    });
    assert!(said.as_ref().is_some_and(|said| said.contains("tini runs this process")), "{said:?}");
    let next = Process::start("http", &["--listen", init.word("listen="), "--control", control]);
    let outcome = upgrade.map(|step| format!("{:?}", step.unwrap())).last().unwrap();
    assert!(outcome.contains("Completed"), "{outcome}");
    init.ends_well();
    let status = Client::connect(&path).unwrap().status().unwrap();
    assert_eq!((status.generation, status.pid), (2, next.child.id()));
}
