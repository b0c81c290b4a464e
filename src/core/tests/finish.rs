//! The way out of the service, step by step, and with inputs in any order.

use std::time::{Duration, Instant};

use super::pair::SECOND;
use crate::core::wire::Ending;
use crate::core::{Finish, FinishInput as Input, FinishOutput as Output, FinishWaits};

const WAITS: FinishWaits = FinishWaits {
    hook: Duration::from_secs(5),
    drain: Duration::from_secs(30),
    ending: SECOND,
    settle: Duration::from_secs(2),
};

/// A way out under a clock of its own.
struct Walk {
    now: Instant,
    finish: Finish,
}

impl Walk {
    fn hand_over() -> Walk {
        Walk { now: Instant::now(), finish: Finish::hand_over(WAITS) }
    }

    fn stop(superseded: bool) -> Walk {
        let now = Instant::now();
        Walk { now, finish: Finish::stop(now, WAITS, superseded) }
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.finish.poll_output()).collect()
    }

    fn on(&mut self, input: Input) -> Vec<Output> {
        self.finish.handle(self.now, input);
        self.outputs()
    }

    /// All of them, one after the other; what comes out of the last one.
    fn through(&mut self, inputs: impl IntoIterator<Item = Input>) -> Vec<Output> {
        inputs.into_iter().fold(vec![], |_, input| self.on(input))
    }

    fn wait(&mut self, by: Duration) -> Vec<Output> {
        self.now += by;
        self.on(Input::Timeout)
    }

    /// The successor has been released to.
    fn released() -> Walk {
        let mut walk = Walk::hand_over();
        walk.outputs();
        assert_eq!(walk.through([given(), Input::Ready, Input::Proceed, given()]), [Output::Release]);
        walk
    }

    fn draining() -> Walk {
        let mut walk = Walk::released();
        assert_eq!(walk.on(Input::Active), [Output::Drain]);
        walk
    }

    fn parting() -> Walk {
        let mut walk = Walk::draining();
        assert_eq!(walk.through([Input::Drained, Input::Followed, given()]), [Output::Farewell]);
        walk
    }
}

fn given() -> Input {
    Input::Given(Ok(()))
}

fn refused(why: &str) -> Input {
    Input::Given(Err(why.to_owned()))
}

#[test]
fn one_thing_follows_the_other() {
    let mut walk = Walk::hand_over();
    assert_eq!(walk.outputs(), [Output::Offer]);
    assert_eq!(walk.on(given()), []);
    assert!(!walk.finish.has_superseded());
    assert_eq!(walk.on(Input::Ready), [Output::Supersede]);
    assert!(walk.finish.has_superseded());
    assert_eq!(walk.on(Input::Proceed), [Output::AskFinal]);
    assert_eq!(walk.on(given()), [Output::Release]);
    assert_eq!(walk.finish.deadline(), None, "the role has one");
    assert_eq!(walk.on(Input::Active), [Output::Drain]);
    assert!(walk.finish.is_draining());
    assert_eq!(walk.on(Input::Drained), [Output::Follow]);
    assert!(walk.finish.awaits_predecessor());
    assert_eq!(walk.on(Input::Followed), [Output::AskFarewell]);
    assert_eq!(walk.on(given()), [Output::Farewell]);
    assert_eq!(walk.on(Input::Departed), [Output::Exit]);
    assert_eq!(walk.finish.deadline(), None);
}

#[test]
fn an_application_that_proceeds_early_is_told_all_the_same() {
    let mut walk = Walk::hand_over();
    walk.outputs();
    assert_eq!(walk.through([given(), Input::Proceed]), []);
    assert_eq!(walk.on(Input::Ready), [Output::Supersede, Output::AskFinal]);
}

#[test]
fn connections_that_ended_early_are_not_waited_for() {
    let mut walk = Walk::released();
    assert_eq!(walk.on(Input::Drained), []);
    assert_eq!(walk.on(Input::Active), [Output::Drain, Output::Follow]);
}

#[test]
fn a_hook_that_fails_before_release_gives_the_handoff_up() {
    let mut walk = Walk::hand_over();
    walk.outputs();
    assert_eq!(walk.on(refused("no snapshot")), [Output::GiveUp("no snapshot".to_owned())]);
    assert_eq!(walk.on(Input::Kept), [Output::Resume]);

    let mut walk = Walk::hand_over();
    walk.outputs();
    let last = walk.through([given(), Input::Ready, Input::Proceed, refused("no state")]);
    assert_eq!(last, [Output::GiveUp("no state".to_owned())]);
    assert_eq!(walk.on(Input::Kept), [Output::Resume]);
}

#[test]
fn a_hook_that_takes_too_long_before_release_gives_the_handoff_up() {
    let mut walk = Walk::hand_over();
    walk.outputs();
    walk.through([given(), Input::Ready]);
    assert_eq!(walk.wait(4 * SECOND), [], "not yet");
    assert!(matches!(&walk.wait(SECOND)[..], [Output::GiveUp(why)] if why.contains("finish within 5s")));

    let mut walk = Walk::hand_over();
    walk.outputs();
    walk.through([given(), Input::Ready, Input::Proceed]);
    assert!(matches!(&walk.wait(5 * SECOND)[..], [Output::GiveUp(why)] if why.contains("on_release")));
}

/// The word of its end is on its way by then.
#[test]
fn nothing_is_asked_or_released_once_the_handoff_is_given_up() {
    let mut late_to_proceed = Walk::hand_over();
    late_to_proceed.outputs();
    late_to_proceed.through([given(), Input::Ready]);
    late_to_proceed.wait(5 * SECOND);

    let mut late_with_its_state = Walk::hand_over();
    late_with_its_state.outputs();
    late_with_its_state.through([given(), Input::Ready, Input::Proceed]);
    late_with_its_state.wait(5 * SECOND);

    for mut walk in [late_to_proceed, late_with_its_state] {
        for input in [Input::Proceed, given(), Input::Ready, refused("late")] {
            assert_eq!(walk.on(input), []);
        }
        assert_eq!(walk.wait(100 * SECOND), []);
        assert_eq!(walk.on(Input::Kept), [Output::Resume]);
    }
}

#[test]
fn a_handoff_that_fails_is_over_at_every_step() {
    for done in 0..8 {
        for (end, said) in [(Input::Kept, Output::Resume), (Input::Unknown, Output::Fail)] {
            let mut walk = Walk::hand_over();
            walk.outputs();
            let steps = [
                given(),
                Input::Ready,
                Input::Proceed,
                given(),
                Input::Active,
                Input::Drained,
                Input::Followed,
                given(),
            ];
            walk.through(steps.into_iter().take(done));
            assert_eq!(walk.on(end), [said], "after {done} steps");
            for input in [Input::Kept, Input::Unknown, Input::LetGo, Input::Departed, Input::Active, Input::EndNow] {
                assert_eq!(walk.on(input), [], "over is over");
            }
        }
    }
}

#[test]
fn a_drain_that_takes_too_long_has_its_connections_ended() {
    let mut walk = Walk::draining();
    assert_eq!(walk.wait(29 * SECOND), []);
    assert_eq!(walk.wait(SECOND), [Output::EndConnections]);
    assert!(walk.finish.is_draining());
    assert_eq!(walk.wait(SECOND), [Output::Follow], "those that do not end are left");
    let mut walk = Walk::draining();
    walk.wait(30 * SECOND);
    assert_eq!(walk.on(Input::Drained), [Output::Follow]);
}

/// What its connections were sent while it was stopped comes before the end of the time that it did not have.
#[test]
fn a_process_that_was_stopped_past_its_drain_deadline_hears_its_connections_first() {
    let mut walk = Walk::draining();
    assert_eq!(walk.wait(30 * SECOND + SECOND / 4), []);
    assert!(walk.finish.is_draining());
    assert_eq!(walk.on(Input::Drained), [Output::Follow]);
    let mut walk = Walk::draining();
    assert_eq!(walk.wait(30 * SECOND + SECOND / 4), []);
    assert_eq!(walk.wait(SECOND / 2), [Output::EndConnections], "once");
    assert_eq!(walk.wait(SECOND), [Output::Follow]);
    let mut walk = Walk::draining();
    assert_eq!(walk.wait(3600 * SECOND), []);
    assert_eq!(walk.wait(SECOND), [Output::EndConnections], "a second at the most");
    let mut walk = Walk::draining();
    assert_eq!(walk.wait(3600 * SECOND), []);
    assert_eq!(walk.on(Input::EndNow), [Output::Follow, Output::AskFarewell]);
}

#[test]
fn told_again_it_waits_for_no_connection() {
    let mut walk = Walk::draining();
    assert_eq!(walk.on(Input::EndNow), [Output::Follow, Output::AskFarewell]);
    assert_eq!(walk.on(Input::Given(Ok(()))), [Output::Farewell]);
    assert_eq!(walk.on(Input::Timeout), [Output::Exit], "nor for the end of probation");
    let mut walk = Walk::draining();
    walk.wait(30 * SECOND);
    assert_eq!(walk.on(Input::EndNow), [Output::Follow, Output::AskFarewell]);
    let mut walk = Walk::draining();
    assert_eq!(walk.on(Input::Drained), [Output::Follow]);
    assert_eq!(walk.on(Input::EndNow), [Output::AskFarewell], "nor for its own predecessor");
    let mut walk = Walk::released();
    assert_eq!(walk.on(Input::EndNow), [], "nobody knows yet whose the service is");
    let mut walk = Walk::stop(true);
    assert_eq!(walk.outputs(), [Output::Drain]);
    assert_eq!(walk.on(Input::EndNow), [Output::Settle]);
}

#[test]
fn a_farewell_hook_that_is_late_or_fails_keeps_nobody_waiting() {
    for late in [true, false] {
        let mut walk = Walk::draining();
        assert_eq!(walk.through([Input::Drained, Input::Followed]), [Output::AskFarewell]);
        let said = if late { walk.wait(5 * SECOND) } else { walk.on(refused("no state")) };
        assert_eq!(said, [Output::Farewell]);
        assert_eq!(walk.on(given()), [], "too late");
        assert_eq!(walk.on(Input::Departed), [Output::Exit]);
    }
}

#[test]
fn a_stop_ends_with_everybody_letting_go() {
    let mut walk = Walk::stop(false);
    assert_eq!(walk.outputs(), [Output::Supersede]);
    assert!(walk.finish.has_superseded());
    assert_eq!(walk.on(Input::Proceed), [Output::Drain], "there is nobody to give a final state to");
    assert_eq!(walk.on(Input::Drained), [Output::Settle]);
    assert!(walk.finish.awaits_letting_go());
    assert_eq!(walk.on(Input::LetGo), [Output::Exit]);
}

#[test]
fn a_stop_does_not_wait_for_ever_that_everybody_lets_go() {
    let mut walk = Walk::stop(true);
    assert_eq!(walk.through([Input::Drained]), [Output::Drain, Output::Settle]);
    assert_eq!(walk.wait(2 * SECOND), [Output::Exit]);
}

#[test]
fn a_stop_has_a_drain_deadline_too() {
    let mut walk = Walk::stop(true);
    walk.outputs();
    assert_eq!(walk.wait(30 * SECOND), [Output::EndConnections]);
    assert_eq!(walk.wait(SECOND), [Output::Settle]);
}

/// Its successor has stopped in good order: the service ends, and so does this process once its connections have.
#[test]
fn a_successor_that_stops_leaves_nobody_to_say_farewell_to() {
    let stopped = || Input::Settled(Ending::Stopped);

    let mut walk = Walk::draining();
    assert_eq!(walk.on(stopped()), []);
    assert_eq!(walk.on(Input::Departed), [], "it has let go, and still drains");
    assert_eq!(walk.on(Input::Drained), [Output::Settle]);
    assert_eq!(walk.on(Input::LetGo), [Output::Exit]);

    let mut walk = Walk::draining();
    walk.wait(30 * SECOND);
    walk.on(stopped());
    assert_eq!(walk.wait(SECOND), [Output::Settle]);

    let mut walk = Walk::draining();
    walk.on(Input::Drained);
    walk.on(stopped());
    assert_eq!(walk.on(Input::Followed), [Output::Settle]);

    let mut walk = Walk::draining();
    walk.through([Input::Drained, Input::Followed, stopped()]);
    assert_eq!(walk.on(given()), [Output::Settle]);

    let mut walk = Walk::draining();
    walk.through([Input::Drained, Input::Followed, stopped()]);
    assert_eq!(walk.wait(5 * SECOND), [Output::Settle]);

    let mut walk = Walk::parting();
    assert_eq!(walk.on(stopped()), []);
    assert_eq!(walk.on(Input::Departed), [Output::Exit], "once it has let go");
}

#[test]
fn a_successor_that_hands_over_still_hears_the_farewell() {
    let mut walk = Walk::draining();
    assert_eq!(walk.on(Input::Settled(Ending::HandedOver)), []);
    assert_eq!(walk.through([Input::Drained, Input::Followed]), [Output::AskFarewell]);
}

/// Numbers that look random, and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn input(&mut self) -> Input {
        match self.roll(16) {
            0..=2 => given(),
            3 => refused("no"),
            4 | 5 => Input::Ready,
            6 | 7 => Input::Proceed,
            8 => Input::Active,
            9 => Input::Settled(Ending::Stopped),
            10 => Input::Drained,
            11 => Input::EndNow,
            12 => Input::Followed,
            13 => Input::Departed,
            14 => Input::LetGo,
            _ => [Input::Kept, Input::Unknown, Input::Settled(Ending::HandedOver)][self.roll(3) as usize].clone(),
        }
    }
}

/// What has been said and heard on a way out with inputs in any order.
#[derive(Default)]
struct Heard {
    said: Vec<Output>,
    proceeded: bool,
    active: bool,
}

impl Heard {
    fn has(&self, output: &Output) -> bool {
        self.said.contains(output)
    }

    fn check(&mut self, outputs: Vec<Output>, stops: bool) {
        for output in outputs {
            let over = |said: &Output| matches!(said, Output::Exit | Output::Resume | Output::Fail);
            assert!(!self.said.iter().any(over), "{output:?} after the end: {:?}", self.said);
            let may = match &output {
                Output::Offer => self.said.is_empty(),
                Output::Supersede => !self.has(&Output::Supersede),
                Output::AskFinal => !stops && self.has(&Output::Supersede) && self.proceeded,
                Output::Release => self.has(&Output::AskFinal) && !self.has(&Output::Release) && !self.gave_up(),
                Output::GiveUp(_) => !self.has(&Output::Release) && !self.gave_up(),
                Output::Drain if stops => self.has(&Output::Supersede) && self.proceeded,
                Output::Drain => {
                    self.has(&Output::Release) && self.active || self.proceeded && !self.has(&Output::Release)
                }
                Output::EndConnections | Output::Follow => self.has(&Output::Drain),
                Output::AskFarewell => self.has(&Output::Follow),
                Output::Farewell => self.has(&Output::AskFarewell) && !self.has(&Output::Farewell),
                Output::Settle => self.has(&Output::Drain) && !self.has(&Output::Settle),
                Output::Exit => self.has(&Output::Farewell) || self.has(&Output::Settle),
                Output::Resume | Output::Fail => true,
            };
            assert!(may, "{output:?} after {:?}", self.said);
            self.said.push(output);
        }
    }

    fn gave_up(&self) -> bool {
        self.said.iter().any(|said| matches!(said, Output::GiveUp(_)))
    }

    /// Whose turn it is, where nothing more comes out by itself.
    fn waits_for_another(&self, stops: bool) -> bool {
        match self.said.last() {
            // The application's snapshot, the successor, the own predecessor.
            Some(Output::Offer | Output::Release | Output::Follow | Output::Farewell | Output::GiveUp(_)) => true,
            // Nobody but the application is kept waiting.
            Some(Output::Supersede) => stops,
            _ => false,
        }
    }
}

#[test]
fn in_whatever_order_things_happen_each_step_waits_for_the_one_before() {
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let mut ways_out = 0;
    for round in 0..200_000 {
        let stops = round % 3 == 0;
        let mut walk = if stops { Walk::stop(false) } else { Walk::hand_over() };
        let mut heard = Heard::default();
        heard.check(walk.outputs(), stops);
        for _ in 0..dice.roll(24) {
            let input = dice.input();
            heard.proceeded |= input == Input::Proceed;
            let waits = heard.has(&Output::Release);
            heard.active |= waits && input == Input::Active;
            let outputs = if dice.roll(8) == 0 { walk.wait(WAITS.drain) } else { walk.on(input) };
            heard.check(outputs, stops);
        }
        // From here on nothing happens but that time passes.
        for _ in 0..8 {
            heard.check(walk.wait(WAITS.drain), stops);
        }
        assert_eq!(walk.finish.deadline(), None);
        let over = matches!(heard.said.last(), Some(Output::Exit | Output::Resume | Output::Fail));
        assert!(over || heard.waits_for_another(stops), "stuck after {:?}", heard.said);
        ways_out += usize::from(heard.has(&Output::Exit));
    }
    assert!(ways_out > 1_000, "only {ways_out} came to the end");
}
