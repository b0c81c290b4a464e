//! A predecessor that gives up while its successor initialises.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fd_handoff::{Cause, Config, Error, Offer, handoff_listen, handoff_receive};

/// Long enough for any machine; only a test that fails takes it.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn ready_reports_what_progress_has_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("handoff.sock");
    let impatient = Config::new(&path).timeouts(|timeouts| timeouts.ready = Duration::ZERO);
    let control = handoff_listen(impatient).expect("the first generation");
    let predecessor = thread::spawn(move || {
        let failure = control.accept().expect("a successor").offer(Offer::new()).err();
        (control, failure)
    });

    let mut inheritance = handoff_receive(&path).expect("the transfer is complete");
    let (_control, failure) = predecessor.join().expect("the predecessor goes on");
    assert!(failure.expect("no time for ready").may_serve());
    inheritance.progress("warming caches");

    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(inheritance.ready().map(drop)));
    let outcome = receiver.recv_timeout(PATIENCE).expect("ready returns");
    assert!(matches!(outcome, Err(Error::Handoff(Cause::Aborted { .. }))), "{outcome:?}");
}
