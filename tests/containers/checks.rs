//! What `handoff check` says from within another container.

use crate::Row;
use crate::harness::{Engine, Place};
use crate::load::{Load, Sum};

pub(crate) const ROWS: &[Row] = &[("handoff check: network, pids, volume", checks)];

/// Its exit code, and what it says, without the ends of lines.
fn check(place: &Place<'_>, options: &[&str], more: &[&str]) -> (i32, String) {
    let container = place.start(options, &[&["/handoff", "check"], more].concat());
    let code = container.ended();
    let said = container.logs();
    container.remove();
    (code, said.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn checks(engine: &Engine) -> Sum {
    let place = engine.place();
    let app = place.serve(1, &[], &[]);
    app.is_ready();
    let load = Load::start(place.port);
    // A start is refused where it says so, and succeeds where it does not.
    let (code, said) = check(&place, &["--network", "none"], &[]);
    assert!(code == 1 && said.contains("1 of the sockets of the service there (http at 127.0.0.1:"), "{said}");
    let listen = format!("127.0.0.1:{}", place.port);
    let refused = place.start(&["--network", "none"], &["/http", "--listen", &listen]);
    assert_eq!(refused.ended(), 1);
    assert!(refused.logs().contains("lives in another network namespace"), "{}", refused.logs());
    let (code, said) = check(&place, &["--network", "none"], &["--foreign-netns"]);
    assert!(code == 0 && said.contains("ok volume /run/app is mounted"), "{said}");
    let (code, said) = check(&place, &["--network", "host", "--pid", "host"], &[]);
    assert!(code == 0 && said.contains("like the sockets of the service that runs there"), "{said}");
    assert!(said.contains("warning pid namespace pid:[4026531836], the host's own, in a container"), "{said}");
    let (code, said) = check(&place, &["--network", "host"], &["/run/elsewhere.sock"]);
    assert!(code == 0 && said.contains("no other container finds the service there"), "{said}");
    load.goes_on(20);
    load.lost_nothing()
}
