//! The contract in one model: who owns the service, whatever fails, and whenever.
//!
//! The model holds the very state machines of `fd_handoff::core`, one predecessor's and one successor's at
//! the two ends of each connection, and lets the checker try every order in which frames are read, deadlines
//! pass, applications go on and processes die, stop, fall silent and are ended. Its world is the kernel's:
//! streams keep their order and lose nothing, the end of a stream is seen after what was sent before it, and a
//! death after the end of the stream, as in `channel::Link`. Descriptors on their way keep what they stand for
//! alive. The lock of the owner is one that the kernel takes from whoever dies.
//!
//! A process may end at any step: it crashes (an error, a return, a panic, a signal: nobody is told), is told to stop (it
//! says so, everybody lets go, and then it ends), finds that it cannot serve (and gives the service back), or hands over.
//! Up to three generations live at once.
//!
//! Nothing is said about malformed frames (the fuzzer's part), about full socket buffers, or about frames that do not leave
//! other than the release: before it they fail the handoff, which successors that give up show, and after it they come
//! late, as everything may. What an application does within a step is the part of `core::finish` and of its tests.
//!
//! Each setting is explored to the end. `cargo test --test model -- --nocapture` prints how large each one is,
//! and the shortest way in which each mistake of [`mistake::Mistake`] breaks a promise.

mod giver;
mod handoff;
mod mistake;
mod setting;
mod taker;
mod world;

use std::time::Instant;

use fd_handoff::core::wire::{Active, Ending, Settled};
use fd_handoff::core::{Input, Output, Predecessor, PredecessorEvent, Role};
use stateright::{Checker, HasDiscoveries, Model, Path};

use handoff::{Handoff, Step, describe, owners};
use mistake::Mistake;
use setting::Setting;
use world::{World, promise};

/// One successor that may try twice, and everything that may go wrong, as often as it can.
const PAIR: Setting = Setting {
    name: "a pair",
    attempts: &[2],
    pidfds: true,
    may_fence: true,
    arbiter: true,
    faults: Setting::ANY_NUMBER,
    crashes: true,
    failures: true,
    jams: true,
    silences: true,
    stops: true,
    hang_ups: true,
    chains: false,
    keeper: false,
    reports: true,
    mistake: None,
};

/// The same without the lock of the owner: a predecessor of before it had one, or a system without `/proc`.
const LOCKLESS: Setting = Setting { name: "a pair without the lock", arbiter: false, ..PAIR };

/// Two successors that compete. None closes its connection without a word and lives on: a successor that holds a
/// complete offer could not tell a predecessor that did so, handed over to the other, and exited, from one that
/// was killed. That is why `abort` comes before every deliberate close.
///
/// Left out: owners that cannot serve and releases that do not leave, which are in the settings of a pair and of a chain; and
/// reports of how far each side is, which are in those of a pair.
const RIVALS: Setting = Setting {
    name: "two rivals",
    attempts: &[1, 1],
    hang_ups: false,
    failures: false,
    jams: false,
    reports: false,
    ..PAIR
};

/// Two successors, one after the other: the first one hands over while its own predecessor may still drain.
const CHAIN: Setting =
    Setting { name: "a chain", attempts: &[1, 1], chains: true, failures: true, jams: true, ..RIVALS };

/// A successor, and a keeper, which may look for the service twice. One thing goes wrong, besides deadlines that pass.
const KEPT: Setting = Setting {
    name: "a keeper",
    attempts: &[1, 2],
    chains: true,
    keeper: true,
    hang_ups: false,
    failures: false,
    reports: false,
    silences: false,
    jams: false,
    faults: 1,
    ..PAIR
};

const LOCKLESS_CHAIN: Setting = Setting { name: "a chain without the lock", arbiter: false, ..CHAIN };

#[test]
fn a_pair_keeps_every_promise() {
    assert_kept(PAIR);
    assert_kept(LOCKLESS);
    assert_kept(Setting { name: "a pair, the successor cannot be ended", may_fence: false, ..PAIR });
    assert_kept(Setting { name: "a pair without pidfds", pidfds: false, ..PAIR });
}

#[test]
fn rivals_keep_every_promise() {
    assert_kept(RIVALS);
    // Nobody falls silent here: that, and a second attempt, are together in the settings of a pair.
    assert_kept(Setting { name: "two rivals, one of them tries twice", attempts: &[2, 1], silences: false, ..RIVALS });
}

#[test]
fn rivals_that_cannot_be_ended_keep_every_promise() {
    assert_kept(Setting { name: "two rivals that cannot be ended", may_fence: false, ..RIVALS });
    assert_kept(Setting { name: "two rivals without pidfds", pidfds: false, ..RIVALS });
}

#[test]
fn a_chain_keeps_every_promise() {
    assert_kept(CHAIN);
    assert_kept(LOCKLESS_CHAIN);
}

#[test]
fn a_chain_in_which_a_handoff_may_be_tried_again_keeps_every_promise() {
    // One thing goes wrong, besides deadlines that pass. The chain in which each tries once has no such bound.
    assert_kept(Setting { name: "a chain, the last tries twice", attempts: &[1, 2], faults: 1, ..CHAIN });
}

#[test]
fn a_chain_that_cannot_be_ended_keeps_every_promise() {
    assert_kept(Setting { name: "a chain that cannot be ended", may_fence: false, ..CHAIN });
}

#[test]
fn with_a_keeper_every_promise_is_kept() {
    assert_kept(Setting { silences: true, jams: true, ..KEPT });
}

/// Each mistake, where it is made, and the promise that it breaks. Where there is a lock, it keeps two from accepting whatever
/// else is wrong, so that most of what a role could do wrong is looked for without.
const MISTAKES: [(Mistake, Setting, &str); 36] = [
    (Mistake::TakesEofForDeath, LOCKLESS, promise::ONE),
    (Mistake::TakesEofForDeath, LOCKLESS, promise::ORPHAN),
    (Mistake::ReportsDeathFirst, LOCKLESS, promise::SETTLED),
    (Mistake::ReportsDeathFirst, LOCKLESS, promise::FINAL),
    (Mistake::TimesOutUnread, LOCKLESS, promise::ORPHAN),
    (Mistake::MissesDeathInDrain, PAIR, promise::SERVED),
    (Mistake::MissesPredecessorsDeath, PAIR, promise::ORPHAN),
    (Mistake::TakesSilenceForDeath, LOCKLESS, promise::ONE),
    (Mistake::TakesSilenceForDeath, LOCKLESS, promise::ORPHAN),
    (Mistake::MissesSettled, PAIR, promise::SETTLED),
    (Mistake::TakesBackUnfenced, LOCKLESS, promise::ONE),
    (Mistake::CallsTheFencedDead, LOCKLESS, promise::ONE),
    (Mistake::CallsTheUnfencedDead, Setting { may_fence: false, ..LOCKLESS }, promise::ONE),
    (Mistake::ReleasesBeforeItStops, PAIR, promise::ONE),
    (Mistake::StaysOutAfterFailure, PAIR, promise::FAILED),
    (Mistake::StaysOutAfterFailure, PAIR, promise::SERVED),
    (Mistake::ServesAtReady, PAIR, promise::ONE),
    (Mistake::DropsTheFinalState, PAIR, promise::FINAL),
    (Mistake::DropsTheFarewell, PAIR, promise::FAREWELL),
    (Mistake::IsNeverBusy, RIVALS, promise::BUSY),
    (Mistake::IsNeverBusy, Setting { arbiter: false, ..RIVALS }, promise::ONE),
    (Mistake::HangsUpAtFarewell, PAIR, promise::SETTLED),
    (Mistake::HandsOverUnsettled, LOCKLESS_CHAIN, promise::ONE),
    (Mistake::TakesBackUnclaimed, PAIR, promise::LOCK),
    (Mistake::TakesBackUnclaimed, CHAIN, promise::ONE),
    (Mistake::AcceptsUnclaimed, PAIR, promise::LOCK),
    (Mistake::AcceptsUnclaimed, CHAIN, promise::ONE),
    (Mistake::SucceedsUnclaimed, PAIR, promise::LOCK),
    (Mistake::SucceedsUnclaimed, CHAIN, promise::ONE),
    (Mistake::KeepsTheLock, PAIR, promise::OUTRUN),
    (Mistake::StopsUnwaited, PAIR, promise::STOPPED),
    (Mistake::StopsUnwaited, CHAIN, promise::STOPPED),
    (Mistake::SettlesEarly, CHAIN, promise::SERVED),
    (Mistake::LetsGoEarly, PAIR, promise::LET_GO),
    (Mistake::GivesUpUnsent, PAIR, promise::FAILED),
    (Mistake::KeepsBeforeOthers, KEPT, promise::FINAL),
];

#[test]
fn every_mistake_is_found() {
    for (mistake, setting, promise) in MISTAKES {
        let setting = Setting { mistake: Some(mistake), ..setting };
        let Some(path) = shortest_counterexample(setting, promise) else {
            panic!("{mistake:?} went unnoticed: \"{promise}\" holds with it");
        };
        println!("{mistake:?} breaks \"{promise}\":");
        print_trace(path);
    }
}

#[test]
fn every_promise_is_broken_by_some_mistake() {
    let model = Handoff { setting: PAIR, only: None };
    for property in model.properties() {
        assert!(MISTAKES.iter().any(|(_, _, promise)| *promise == property.name), "{}", property.name);
    }
}

/// Found by the checker: the signal of a fence is on its way while the successor serves after all, and stops in
/// good order or hands over. The predecessor took back when it saw it dead.
#[test]
fn a_successor_that_settles_while_it_is_being_ended_is_not_taken_back_from() {
    let mut predecessor = World::released();
    predecessor.handle(world::later(), Input::Timeout);
    assert_eq!(predecessor.poll_output(), Some(Output::Fence));
    predecessor.handle(world::later(), Input::Fenced(true));
    predecessor.handle(world::later(), Input::Frame(Active {}.into(), vec![]));
    predecessor.handle(world::later(), Input::Frame(Settled { ending: Ending::Stopped }.into(), vec![]));
    predecessor.handle(world::later(), Input::Eof);
    predecessor.handle(world::later(), Input::Died);
    assert_eq!(events(&mut predecessor), [PredecessorEvent::Active, PredecessorEvent::Settled(Ending::Stopped)]);
}

fn events(predecessor: &mut Predecessor<world::Fd>) -> Vec<PredecessorEvent> {
    let outputs = std::iter::from_fn(|| predecessor.poll_output());
    outputs.filter_map(|output| if let Output::Event(event) = output { Some(event) } else { None }).collect()
}

/// Explores a setting to its end.
fn assert_kept(setting: Setting) {
    let began = Instant::now();
    let checker = Handoff { setting, only: None }.checker().spawn_bfs().join();
    let (states, depth, took) = (checker.unique_state_count(), checker.max_depth(), began.elapsed());
    println!("{}: {states} states, {depth} deep, in {took:.1?}", setting.name);
    let broken = checker.discoveries();
    let names: Vec<_> = broken.keys().copied().collect();
    for (promise, path) in broken {
        println!("\"{promise}\" is broken:");
        print_trace(path);
    }
    assert!(names.is_empty(), "broken: {names:?}");
}

/// The shortest way to break a promise, with as few mishaps as it takes.
fn shortest_counterexample(setting: Setting, promise: &'static str) -> Option<Path<World, Step>> {
    (0..=3).find_map(|faults| {
        let model = Handoff { setting: Setting { faults, ..setting }, only: Some(promise) };
        model.checker().finish_when(HasDiscoveries::Any).spawn_bfs().join().discovery(promise)
    })
}

/// One line for each step, with who accepts after it.
fn print_trace(path: Path<World, Step>) {
    let path = path.into_vec();
    for pair in path.windows(2) {
        if let [(world, Some(step)), (next, _)] = pair {
            println!("  {:<52} accepting: {}", describe(world, *step), owners(next));
        }
    }
}
