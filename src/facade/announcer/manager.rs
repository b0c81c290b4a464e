//! What the service manager is told of a service that is replaced, see `sd_notify(3)`. The process that it takes for the main one
//! says all of it, so that `NotifyAccess=main` is enough: who the next main process is, too, since nobody listens to that one
//! before.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::core::wire::{Event, News};
use crate::sys::process;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    Ready,
    /// An upgrade has begun. `Type=notify-reload` wants to know when, see `systemd.service(5)`.
    Reloading(Duration),
    Stopping,
    /// A sign of life, for the watchdog.
    Alive,
    MainPid(u32),
    Status(String),
    /// What is under way may take so long from here on.
    Extend(Duration),
}

/// What follows from an event of a predecessor's. A successor that reports has until `ready` from then on. `elsewhere`: another
/// unit runs it, as the next instance of a template does.
pub(super) fn words(event: &Event, ready: Duration, elsewhere: bool) -> Vec<Word> {
    let Event { event, pid, message, .. } = event;
    let status = || Word::Status(message.clone());
    match event {
        News::Upgrade | News::Receive => vec![Word::Reloading(process::monotonic()), status()],
        News::Progress => vec![Word::Extend(ready), status()],
        // A reload that has failed has ended, too.
        News::Failed => vec![Word::Ready, Word::Status(format!("the upgrade failed: {message}"))],
        // Another unit's main process is not this one's, which ends when this process does.
        News::Active if elsewhere => vec![Word::Ready, status()],
        // In one message: what this process says after it has given the main process away, nobody hears.
        News::Active => pid.iter().map(|pid| Word::MainPid(*pid)).chain([Word::Ready, status()]).collect(),
        News::Stranded | News::OwnerUnknown => vec![status()],
        _ => Vec::new(),
    }
}

/// What follows from the first moment at which this process serves, and from each at which it does again.
pub(super) fn serving(generation: u64) -> Vec<Word> {
    let status = format!("generation {generation} serves");
    vec![Word::MainPid(std::process::id()), Word::Ready, Word::Status(status)]
}

/// What follows from the word that the service is to stop, which takes so long at the most.
pub(super) fn stopping(limit: Duration) -> Vec<Word> {
    vec![Word::Stopping, Word::Extend(limit), Word::Status("stopping: connections are ending".to_owned())]
}

/// What follows from how far a start is, which has so long from here on. Where the predecessor has started this process, it says
/// so itself: nobody listens to this one yet.
pub(super) fn starting(message: &str, limit: Duration) -> Vec<Word> {
    // See systemd.exec(5): it names the process that systemd has started, and others inherit it.
    let started = std::env::var("SYSTEMD_EXEC_PID").ok().and_then(|pid| pid.parse().ok());
    if started.is_some_and(|started: u32| started != std::process::id()) {
        return Vec::new();
    }
    vec![Word::Extend(limit), Word::Status(message.to_owned())]
}

/// Whether another unit runs this process. What cannot be seen is ours.
pub(super) fn is_elsewhere(pid: u32) -> bool {
    let cgroup = |process: &str| std::fs::read_to_string(format!("/proc/{process}/cgroup")).ok();
    let units = cgroup("self").zip(cgroup(&pid.to_string()));
    units.and_then(|(own, other)| unit(&own).zip(unit(&other)).map(|(own, other)| own != other)).unwrap_or_default()
}

/// The unit that this content of `/proc/PID/cgroup` speaks of: see `cgroups(7)`.
fn unit(cgroup: &str) -> Option<&str> {
    let named = |line: &'_ &str| line.starts_with("0::") || line.contains(":name=systemd:");
    let end = |path: &str| path.rfind(".service").map(|end| end + ".service".len());
    cgroup.lines().filter(named).find_map(|line| Some(&line[..end(line)?]))
}

pub(super) fn notify(words: &[Word]) {
    if words.is_empty() {
        return;
    }
    let states: Vec<_> = words.iter().flat_map(states).collect();
    // Where no service manager waits to be told, this does nothing.
    if let Err(error) = sd_notify::notify(&states) {
        tracing::error!(event = "notify_failed", %error, "cannot notify the service manager");
    }
}

fn states(word: &Word) -> Vec<NotifyState<'_>> {
    match word {
        Word::Ready => vec![NotifyState::Ready],
        Word::Reloading(now) => vec![NotifyState::Reloading, NotifyState::MonotonicUsec(now.as_micros() as i128)],
        Word::Stopping => vec![NotifyState::Stopping],
        Word::Alive => vec![NotifyState::Watchdog],
        Word::MainPid(pid) => vec![NotifyState::MainPid(*pid)],
        Word::Status(text) => vec![NotifyState::Status(text)],
        Word::Extend(time) => vec![NotifyState::ExtendTimeoutUsec(time.as_micros().try_into().unwrap_or(u32::MAX))],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(event: News) -> Vec<Word> {
        let message = "how it goes".to_owned();
        let event =
            Event { event, generation: 1, pid: Some(7), instance: None, elapsed_us: None, connections: None, message };
        words(&event, Duration::from_secs(60), false)
    }

    #[test]
    fn a_reload_that_has_begun_ends_however_it_goes() {
        for begins in [News::Upgrade, News::Receive] {
            assert!(matches!(&told(begins)[..], [Word::Reloading(_), Word::Status(_)]));
        }
        assert_eq!(told(News::Failed), [Word::Ready, Word::Status("the upgrade failed: how it goes".to_owned())]);
        let status = Word::Status("how it goes".to_owned());
        assert_eq!(told(News::Active), [Word::MainPid(7), Word::Ready, status.clone()]);
        assert_eq!(told(News::Progress), [Word::Extend(Duration::from_secs(60)), status]);
        assert_eq!(told(News::Release), []);
    }

    #[test]
    fn a_process_of_another_unit_is_not_this_ones_main_process() {
        let message = "the successor serves".to_owned();
        let event = Event {
            event: News::Active,
            generation: 1,
            pid: Some(7),
            instance: None,
            elapsed_us: None,
            connections: None,
            message,
        };
        let told = words(&event, Duration::ZERO, true);
        assert_eq!(told, [Word::Ready, Word::Status("the successor serves".to_owned())]);

        let blue = "0::/system.slice/system-app.slice/app@blue.service\n";
        assert_ne!(unit(blue), unit("0::/system.slice/system-app.slice/app@green.service\n"));
        assert_eq!(unit(blue), unit("0::/system.slice/system-app.slice/app@blue.service/payload\n"));
        assert_eq!(unit("4:pids:/x.service\n1:name=systemd:/app.service\n"), Some("1:name=systemd:/app.service"));
        assert_eq!(unit("0::/user.slice/session-1.scope\n"), None);
        assert!(!is_elsewhere(std::process::id()));
    }
}
