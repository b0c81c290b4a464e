//! When a service is started again: a decision without a clock, a process or a signal.

use std::time::Duration;

use clap::ValueEnum;

/// When to start the command again after its service has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Restart {
    /// After a crash
    OnFailure,
    /// After a crash, and after a stop that nobody told this command of
    Always,
    /// Never
    No,
}

/// How a service has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It was told to, or its processes have ended with 0.
    Stopped,
    Crashed,
}

/// What to do after an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Start the command again, that much later.
    Start(Duration),
    /// End as the service has.
    End,
}

/// One that lived so long begins anew: it has worked.
const LONG: Duration = Duration::from_secs(10);
/// The first pause, which doubles with each crash in a row.
const FIRST: Duration = Duration::from_millis(100);
/// How many crashes in a row are enough.
const MOST: u32 = 10;
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(10);

/// See above.
#[derive(Debug)]
pub(crate) struct Policy {
    restart: Restart,
    /// Crashes in a row, none of which was long after its start.
    crashes: u32,
    /// This command was told to stop.
    stopping: bool,
}

impl Policy {
    pub(crate) fn new(restart: Restart) -> Policy {
        Policy { restart, crashes: 0, stopping: false }
    }

    /// Returns whether it was told before.
    pub(crate) fn told_to_stop(&mut self) -> bool {
        std::mem::replace(&mut self.stopping, true)
    }

    /// The service has ended, that long after it was started.
    pub(crate) fn ended(&mut self, how: Ending, lived: Duration) -> After {
        let again = match (self.restart, how) {
            _ if self.stopping => false,
            (Restart::No, _) | (Restart::OnFailure, Ending::Stopped) => false,
            (Restart::Always, _) | (Restart::OnFailure, Ending::Crashed) => true,
        };
        if !again {
            return After::End;
        }
        if lived >= LONG {
            self.crashes = 0;
        }
        if self.crashes == MOST {
            return After::End;
        }
        // Who waits for the service after the first crash waits no longer than he has to.
        let pause = if self.crashes == 0 { Duration::ZERO } else { FIRST * 2_u32.pow(self.crashes - 1) };
        self.crashes += 1;
        After::Start(pause.min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(1);

    #[test]
    fn a_stop_is_an_end_unless_it_is_always_to_run() {
        for (restart, again) in [(Restart::OnFailure, false), (Restart::Always, true), (Restart::No, false)] {
            let after = Policy::new(restart).ended(Ending::Stopped, SHORT);
            assert_eq!(after != After::End, again, "{restart:?}");
        }
    }

    #[test]
    fn a_crash_is_an_end_where_nothing_is_started_again() {
        for (restart, again) in [(Restart::OnFailure, true), (Restart::Always, true), (Restart::No, false)] {
            let after = Policy::new(restart).ended(Ending::Crashed, SHORT);
            assert_eq!(after != After::End, again, "{restart:?}");
        }
    }

    #[test]
    fn whoever_was_told_to_stop_starts_nothing_again() {
        let mut policy = Policy::new(Restart::Always);
        assert!(!policy.told_to_stop());
        assert!(policy.told_to_stop());
        assert_eq!(policy.ended(Ending::Crashed, SHORT), After::End);
    }

    #[test]
    fn crashes_in_a_row_take_longer_and_longer_and_are_enough_one_day() {
        let mut policy = Policy::new(Restart::OnFailure);
        let mut pauses = Vec::new();
        while let After::Start(pause) = policy.ended(Ending::Crashed, SHORT) {
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
        assert_eq!(policy.ended(Ending::Crashed, LONG), After::Start(Duration::ZERO), "it has worked");
    }
}
