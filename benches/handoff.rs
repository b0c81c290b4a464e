//! How far a handoff is from the bare system calls it needs, measured in turn in one run.
//!
//! ```text
//! cargo bench
//! ```
//!
//! The floor is the same bytes and descriptors, in the same order, over a bare socket pair between two threads.
//! Ratios are of medians; absolute times on a shared machine mean little. Each ratio is shown with its goal. Exit
//! status 1 says that one is clearly broken: that of the fastest rounds, which other load touches least.

#[expect(unreachable_pub, reason = "the benchmark of the peers has it, too, as a part of its library")]
mod bare;

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bare::{BATCH, ENTRY, FRAME, expect, receive, send};
use fd_handoff::{Config, Control, Offer, State, handoff_listen, handoff_receive};

const ROUNDS: usize = 60;
/// How far beyond its goal the ratio of the fastest rounds has to be to count as broken.
const ROOM: f64 = 5.0;

fn main() -> ExitCode {
    // Run by `cargo test --benches`: only show that it works.
    let rounds = if std::env::args().any(|arg| arg == "--bench") { ROUNDS } else { 2 };
    let mut broken = false;
    broken |= !compare("TCP listener", &listeners(1), 5.0, rounds);
    broken |= !compare("pipes", &pipes(1_000), 3.0, rounds);
    // On arrival each socket is asked what it is, with three system calls, where the floor asks nothing. That alone
    // is more than the goal wherever system calls are slow.
    broken |= !compare("TCP listeners", &listeners(1_000), 3.0, rounds);
    broken |= !state_stands_in_memory_once(if rounds == ROUNDS { 1 << 30 } else { 1 << 20 });
    if broken && rounds == ROUNDS { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn listeners(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a loopback listener").into()).collect()
}

fn pipes(count: usize) -> Vec<OwnedFd> {
    let pipe = || nix::unistd::pipe().expect("a pipe");
    (0..count / 2).map(|_| pipe()).flat_map(|(reader, writer)| [reader, writer]).collect()
}

/// Both, in turn. Returns whether ours is anywhere near `goal` times the floor.
fn compare(kind: &str, fds: &[OwnedFd], goal: f64, rounds: usize) -> bool {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("bench.sock");
    let mut control = handoff_listen(config(&path)).expect("a control socket");

    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        floor.push(floor_of(fds).expect("the bare system calls"));
        let (took, next) = handoff(control, &path, fds);
        ours.push(took);
        control = next;
    }
    let fastest = ratio(ours.iter().min(), floor.iter().min());
    let (ours, floor) = (median(ours), median(floor));
    let ratio = ratio(Some(&ours), Some(&floor));
    let count = fds.len();
    println!("{count:>6} {kind:<14} ours {ours:>10.1?}  floor {floor:>10.1?}  ratio {ratio:.2} (goal {goal})");
    fastest <= goal * ROOM
}

/// Without probation: the next round begins when this one is over.
fn config(path: &Path) -> Config {
    Config::new(path).timeouts(|timeouts| timeouts.probation = Duration::ZERO)
}

/// One handoff between two threads, from the connection to `active`.
fn handoff(control: Control, path: &Path, fds: &[OwnedFd]) -> (Duration, Control) {
    let (waiting, waits) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let predecessor = scope.spawn(move || {
            // As a service would: what it offers does not depend on who asks.
            let offer = Offer::new().group("fd", fds);
            waiting.send(()).expect("somebody waits");
            let ready = control.accept().expect("a successor").offer(offer).expect("ready");
            ready.release(None).expect("active").farewell(None).expect("farewell");
        });
        waits.recv().expect("the predecessor runs");
        let began = Instant::now();
        let mut inheritance = handoff_receive(config(path)).expect("an inheritance");
        let taken = inheritance.take_all::<OwnedFd>("fd").expect("the descriptors");
        let control = inheritance.ready().expect("the service");
        let took = began.elapsed();
        assert_eq!(taken.len(), fds.len());
        drop(taken);
        predecessor.join().expect("the predecessor");
        (took, control)
    })
}

/// The same bytes and descriptors in the same order, with nothing looked at.
fn floor_of(fds: &[OwnedFd]) -> io::Result<Duration> {
    let (giver, taker) = UnixStream::pair()?;
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    let (waiting, waits) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let giver = scope.spawn(move || -> io::Result<()> {
            waiting.send(()).expect("somebody waits");
            expect(&giver, FRAME)?;
            send(&giver, FRAME, &[giver.as_fd()])?;
            for batch in borrowed.chunks(BATCH) {
                send(&giver, FRAME + ENTRY * batch.len(), batch)?;
                expect(&giver, FRAME)?;
            }
            expect(&giver, FRAME)?;
            send(&giver, FRAME, &[])?;
            expect(&giver, FRAME)
        });
        waits.recv().expect("the giver runs");
        let began = Instant::now();
        send(&taker, FRAME, &[])?;
        let mut received = Vec::new();
        receive(&taker, FRAME, &mut received)?;
        for batch in fds.chunks(BATCH) {
            receive(&taker, FRAME + ENTRY * batch.len(), &mut received)?;
            send(&taker, FRAME, &[])?;
        }
        send(&taker, FRAME, &[])?;
        expect(&taker, FRAME)?;
        send(&taker, FRAME, &[])?;
        let took = began.elapsed();
        assert_eq!(received.len(), fds.len() + 1);
        giver.join().expect("the giving thread")?;
        Ok(took)
    })
}

fn ratio(ours: Option<&Duration>, floor: Option<&Duration>) -> f64 {
    ours.zip(floor).map_or(f64::INFINITY, |(ours, floor)| ours.as_secs_f64() / floor.as_secs_f64())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Hands a large state over, and looks at this process's peak memory: the state's pages themselves are
/// shared, so a second copy would show as private memory.
fn state_stands_in_memory_once(length: usize) -> bool {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state.sock");
    let control = handoff_listen(&path).expect("a control socket");
    let write = move |out: &mut dyn io::Write| -> io::Result<()> {
        let chunk = vec![7_u8; 1 << 20];
        (0..length >> 20).try_for_each(|_| out.write_all(&chunk))
    };
    let before = private_memory();
    let (sum, during) = std::thread::scope(|scope| {
        scope.spawn(move || {
            let offer = Offer::new().state(State::writer(write));
            drop(control.accept().expect("a successor").offer(offer));
        });
        let inheritance = handoff_receive(&path).expect("an inheritance");
        let state = inheritance.received().expect("a state");
        let sum: u64 = state.iter().map(|byte| u64::from(*byte)).sum();
        (sum, private_memory())
    });
    assert_eq!(sum, 7 * length as u64);
    let grown = during.saturating_sub(before);
    println!("state of {} MiB: private memory grew by {:.1} MiB", length >> 20, grown as f64 / f64::from(1 << 20));
    grown < (length as u64 / 8).max(8 << 20)
}

/// `RssAnon` of `/proc/self/status`, in bytes.
fn private_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc/self/status");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon, Linux 4.5");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of kB") * 1024
}
