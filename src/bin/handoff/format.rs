//! Times, durations and words, for people. Nothing here prints.

use std::time::Duration;

use clap::builder::styling::Style;
use fd_handoff::client::{Attempt, Outcome, Phase};

use crate::style::{BAD, DOUBTFUL, GOOD};

/// A text from the service with nothing in it that a terminal would act on.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// The text in this style.
pub(crate) fn painted(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// A duration that was measured in microseconds, to three digits.
pub(crate) fn micros(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => three_digits(micros, 1_000, "ms"),
        1_000_000..60_000_000 => three_digits(micros, 1_000_000, "s"),
        _ => span(Duration::from_micros(micros)),
    }
}

/// `micros` in a unit of so many of them, cut off after three digits, so that it never seems to have reached the next
/// unit.
fn three_digits(micros: u64, unit: u64, name: &str) -> String {
    let (whole, thousandths) = (micros / unit, micros % unit * 1_000 / unit);
    match whole {
        0..10 => format!("{whole}.{:02} {name}", thousandths / 10),
        10..100 => format!("{whole}.{} {name}", thousandths / 100),
        _ => format!("{whole} {name}"),
    }
}

/// A length of time in its two largest units.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{minutes} min {} s", seconds % 60),
        3_600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// How long ago a moment was. Two clocks may disagree: what seems to come is now.
pub(crate) fn ago(now_unix_ms: u64, then_unix_ms: u64) -> String {
    let seconds = now_unix_ms.saturating_sub(then_unix_ms) / 1_000;
    match seconds {
        0 => "now".to_owned(),
        1..60 => format!("{seconds} s ago"),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..86_400 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// A duration as people type it: a number and its unit, or seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    const HELP: &str = "seconds, or a number with a unit, are wanted: 30, 500ms, 2m, 1h";
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| HELP)?;
    let unit = match unit.trim() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(HELP.to_owned()),
    };
    match number.checked_mul(unit) {
        Some(0) => Err("that is no time at all".to_owned()),
        Some(millis) => Ok(Duration::from_millis(millis)),
        None => Err("that is too long".to_owned()),
    }
}

/// What a phase means.
pub(crate) fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Serving => "it serves, and no handoff is under way",
        Phase::Offering => "it serves, and is giving its sockets to a new process",
        Phase::Initialising => "it serves, while the new process, which has everything, initialises",
        Phase::Released => "it has stopped accepting, and waits for the new process to serve",
        Phase::Stranded => {
            "nobody is known to serve: the new process is silent, and cannot be ended from here; end it by hand"
        }
        Phase::Draining => "the new process serves; the last connections of this one end",
        Phase::Kept => "nobody serves; this process keeps the service, and connections wait for the next one",
        _ => "something that this version of the command does not know",
    }
}

pub(crate) fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "completed",
        Outcome::Orphaned => "orphaned",
        Outcome::Failed => "failed",
        Outcome::TakenBack => "taken back",
        Outcome::OwnerUnknown => "owner unknown",
        _ => "unknown",
    }
}

pub(crate) fn outcome_style(outcome: Outcome) -> Style {
    match outcome {
        Outcome::Completed => GOOD,
        Outcome::Failed | Outcome::TakenBack | Outcome::OwnerUnknown => BAD,
        _ => DOUBTFUL,
    }
}

/// From which generation to which. One that failed led nowhere.
pub(crate) fn generations(attempt: &Attempt) -> String {
    match attempt.outcome {
        Outcome::Completed | Outcome::Orphaned => format!("{} → {}", attempt.from, attempt.from.saturating_add(1)),
        _ => attempt.from.to_string(),
    }
}

/// The id of a process, if there was one: an attempt that began none has 0 in its place.
pub(crate) fn some_process(pid: u32) -> Option<u32> {
    Some(pid).filter(|pid| *pid != 0)
}

/// A process by its id.
pub(crate) fn process(pid: u32) -> String {
    some_process(pid).map_or_else(|| "no process".to_owned(), |pid| format!("process {pid}"))
}

/// A process by its id and, where it has said one, its instance: in containers the id alone is 1 everywhere.
pub(crate) fn process_of(pid: u32, named: Option<&str>) -> String {
    let of = named.map(|named| format!(" of instance {}", instance(named))).unwrap_or_default();
    process(pid) + &of
}

/// An instance in as few words as tell one from the other: of a container's id what `docker ps` shows of it.
pub(crate) fn instance(named: &str) -> String {
    const SHORT: usize = 12;
    let is_id = named.len() == 64 && named.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_id { named[..SHORT].to_owned() } else { clean(named) }
}

/// How an attempt went, in one line.
pub(crate) fn summary(attempt: &Attempt) -> String {
    let next = attempt.from.saturating_add(1);
    let successor = process_of(attempt.successor_pid, attempt.instance.as_deref());
    let total = micros(attempt.total_us);
    let reason = attempt.reason.as_deref().map_or_else(|| "no reason is given".to_owned(), clean);
    match attempt.outcome {
        Outcome::Completed => format!("generation {next}, {successor}, serves after {total}{}", laps(attempt)),
        Outcome::Orphaned => {
            format!("generation {next}, {successor}, took over from a process that had died: {reason}")
        }
        Outcome::Failed => format!("generation {} was not replaced: {reason}", attempt.from),
        Outcome::TakenBack => format!("generation {} had to take the service back: {reason}", attempt.from),
        Outcome::OwnerUnknown => {
            format!("generation {} gave the service up, and nobody knows who serves: {reason}", attempt.from)
        }
        _ => format!("the attempt ended in a way that this version of the command does not know: {reason}"),
    }
}

fn laps(attempt: &Attempt) -> String {
    let laps =
        [("transfer", attempt.transfer_us), ("initialise", attempt.initialise_us), ("release", attempt.release_us)];
    let mut parts: Vec<String> =
        laps.into_iter().filter_map(|(name, lap)| Some(format!("{name} {}", micros(lap?)))).collect();
    parts.extend(attempt.pause_us.map(|pause| format!("nobody accepted for {}", micros(pause))));
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_durations_have_three_digits_and_never_the_next_unit() {
        let shown = [0, 80, 999, 1_000, 5_992, 45_678, 153_400, 999_999, 1_234_567, 59_999_999, 75_000_000].map(micros);
        let wanted =
            ["0 µs", "80 µs", "999 µs", "1.00 ms", "5.99 ms", "45.6 ms", "153 ms", "999 ms", "1.23 s", "59.9 s"];
        assert_eq!(shown[..10], wanted);
        assert_eq!(shown[10], "1 min 15 s");
    }

    #[test]
    fn the_longest_duration_of_the_wire_is_shown() {
        assert_eq!(micros(u64::MAX), "213503982 d 8 h");
    }

    #[test]
    fn spans_have_two_units() {
        let shown =
            [0, 59, 60, 3_599, 3_600, 86_399, 86_400, 100_000].map(|seconds| span(Duration::from_secs(seconds)));
        let wanted = ["0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "23 h 59 min", "1 d 0 h", "1 d 3 h"];
        assert_eq!(shown, wanted);
    }

    #[test]
    fn ages_have_one_unit_and_are_never_to_come() {
        let now = 10_000_000_000;
        let shown = [now + 5_000, now, now - 1_000, now - 61_000, now - 7_200_000, now - 172_800_000];
        assert_eq!(shown.map(|then| ago(now, then)), ["now", "now", "1 s ago", "1 min ago", "2 h ago", "2 d ago"]);
    }

    #[test]
    fn durations_are_a_number_and_a_unit_or_seconds() {
        for (text, millis) in
            [("500ms", 500), ("30", 30_000), ("30s", 30_000), ("30 s", 30_000), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in
            ["", " ", "s", "-1s", "1.5s", "1d", "1s2", "0s", "0", "18446744073709551615h", "99999999999999999999s"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        assert_eq!(clean("a\x1b[2J\nb\tc\u{9b}d"), "a [2J b c d");
        assert_eq!(clean("µ is left alone →"), "µ is left alone →");
    }

    fn attempt(outcome: Outcome) -> Attempt {
        serde_json::from_value(serde_json::json!({
            "from": 3, "successor_pid": 41, "outcome": outcome, "began_unix_ms": 0, "total_us": 153_000,
        }))
        .unwrap()
    }

    #[test]
    fn a_completed_attempt_is_summed_up_with_what_was_measured() {
        let bare = attempt(Outcome::Completed);
        assert_eq!(summary(&bare), "generation 4, process 41, serves after 153 ms");
        let mut timed = bare;
        (timed.transfer_us, timed.pause_us) = (Some(900), Some(80));
        assert_eq!(
            summary(&timed),
            "generation 4, process 41, serves after 153 ms (transfer 900 µs, nobody accepted for 80 µs)"
        );
    }

    #[test]
    fn a_container_is_named_as_docker_does_and_others_whole() {
        let id = "3f1c0a5be6f94d7d8c2a1b0e9f8d7c6b5a493827160504f3e2d1c0b9a8f7e6d5";
        assert_eq!(process_of(1, Some(id)), "process 1 of instance 3f1c0a5be6f9");
        assert_eq!(process_of(1, Some("app@blue\n")), "process 1 of instance app@blue ");
        assert_eq!(process_of(1, None), "process 1");
        let mut completed = attempt(Outcome::Completed);
        completed.instance = Some(id.to_owned());
        assert_eq!(summary(&completed), "generation 4, process 41 of instance 3f1c0a5be6f9, serves after 153 ms");
    }

    #[test]
    fn there_is_no_process_0() {
        for outcome in
            [Outcome::Completed, Outcome::Orphaned, Outcome::Failed, Outcome::TakenBack, Outcome::OwnerUnknown]
        {
            let mut unstarted = attempt(outcome);
            unstarted.successor_pid = 0;
            let summary = summary(&unstarted);
            assert!(!summary.contains("process 0"), "{summary}");
        }
        assert_eq!((process(0), process(41)), ("no process".to_owned(), "process 41".to_owned()));
    }

    #[test]
    fn a_failed_attempt_is_summed_up_with_its_reason() {
        let mut failed = attempt(Outcome::Failed);
        failed.reason = Some("it\ndied".to_owned());
        assert_eq!(summary(&failed), "generation 3 was not replaced: it died");
        let back = attempt(Outcome::TakenBack);
        assert_eq!(summary(&back), "generation 3 had to take the service back: no reason is given");
        assert_eq!((generations(&failed), generations(&attempt(Outcome::Orphaned))), ("3".into(), "3 → 4".into()));
    }
}
