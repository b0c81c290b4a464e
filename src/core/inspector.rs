//! A connection to the control socket before it says `receive`: somebody looks, or is about to take over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::lineage::comes_back;
use crate::core::wire::{
    ClientFrame, ErrorCode, Failure, HelpText, MAX_INSTANCE, MAX_SCHEMAS, MAX_SERVICES, MAX_TEXT, PROTOCOL, Receive,
    ServerFrame, Stopping, WireError, shorten,
};

/// How many connections may look at once. One more takes the place of the one that has been quiet longest.
pub const MAX_INSPECTORS: usize = 64;
/// How long a connection may go without a complete line.
pub const QUIET_LIMIT: Duration = Duration::from_secs(60);

/// One connection that looks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Inspector {
    last_line: Instant,
    /// It wants to hear everything.
    watches: bool,
    /// It waits for the outcome of its upgrade.
    upgrades: bool,
}

/// What the service offers and does, as far as an answer depends on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Desk<'a> {
    /// Whether it can be told to upgrade and to stop.
    pub operable: bool,
    /// The process id of the successor in a handoff under way.
    pub successor: Option<u32>,
    /// The process id of the keeper, or else of whoever is in a keeper's way.
    pub keeper: Option<u32>,
    /// Whether that one has closed its connection: its handoff is about to end.
    pub lost: bool,
    /// Whether an upgrade has been asked for whose successor has not come yet.
    pub upgrading: bool,
    /// Whether the service was told to stop.
    pub stopping: bool,
    /// The service's name, where somebody has chosen it.
    pub name: Option<&'a str>,
    /// The instances that have served before this one, and are not to come back by themselves.
    pub superseded: &'a [String],
}

/// What to do about a line.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Send this.
    Reply(ServerFrame),
    /// Send the status.
    Status,
    /// Send the status, then events as they happen.
    Watch,
    /// Begin an upgrade; send events as they happen, and its outcome.
    Upgrade(Option<Duration>),
    /// Send this, and stop.
    Stop(ServerFrame),
    /// Send this, and close.
    Close(ServerFrame),
    /// The successor with this process id cannot have the service: send why, and close.
    Refuse(u32, Failure),
    /// Begin a handoff.
    Begin(Receive),
    /// Give this keeper everything.
    Keep(Receive),
    /// Hand this in again once the handoff under way has ended.
    Wait(Receive),
}

impl Inspector {
    /// A connection that was accepted at `now`.
    pub fn new(now: Instant) -> Inspector {
        Inspector { last_line: now, watches: false, upgrades: false }
    }

    /// For choosing who has to make room: the least of these, one that waits for nothing and has been quiet longest.
    // M38
    pub fn rank(&self) -> (bool, Instant) {
        (self.listens(), self.last_line)
    }

    /// Whether it is told events as they happen.
    pub fn listens(&self) -> bool {
        self.watches || self.upgrades
    }

    /// It has heard how its upgrade ended.
    pub fn concluded(&mut self) {
        self.upgrades = false;
    }

    /// When it has been quiet for too long. One that listens may be quiet for ever.
    // M37
    pub fn deadline(&self) -> Option<Instant> {
        (!self.listens()).then(|| self.last_line + QUIET_LIMIT)
    }

    /// The last word to a connection that has been quiet for too long.
    pub fn timeout() -> ServerFrame {
        let message = format!("no complete line for {} seconds", QUIET_LIMIT.as_secs());
        Failure { code: ErrorCode::Timeout, message }.into()
    }

    /// The last word to a connection that makes room for a newer one.
    pub fn evicted() -> ServerFrame {
        let message = format!("more than {MAX_INSPECTORS} connections; this one has been quiet longest");
        Failure { code: ErrorCode::Evicted, message }.into()
    }

    /// The last word to a connection that makes room where the process has no descriptor left.
    pub fn out_of_files() -> ServerFrame {
        let message = "this process is at its limit of open files; this connection has been quiet longest".to_owned();
        Failure { code: ErrorCode::Evicted, message }.into()
    }

    /// Decides about one line.
    // M31, M33, M34, M35, M99, M148
    pub fn line(&mut self, now: Instant, line: Result<ClientFrame, WireError>, desk: Desk<'_>) -> Answer {
        self.last_line = now;
        match line {
            Ok(ClientFrame::Help(_)) => Answer::Reply(help(desk)),
            Ok(ClientFrame::GetStatus(_)) => Answer::Status,
            Ok(ClientFrame::Watch(_)) => {
                self.watches = true;
                Answer::Watch
            }
            Ok(ClientFrame::Receive(receive)) if desk.lost && !receive.standby => Answer::Wait(receive),
            Ok(ClientFrame::Receive(receive)) => begin(receive, desk),
            Ok(frame @ (ClientFrame::Upgrade(_) | ClientFrame::Stop(_))) if !desk.operable => {
                let message = format!("{} is not offered by this service", frame.tag());
                Answer::Reply(Failure { code: ErrorCode::Unsupported, message }.into())
            }
            Ok(ClientFrame::Upgrade(upgrade)) => self.upgrade(upgrade.timeout_ms.map(Duration::from_millis), desk),
            Ok(ClientFrame::Stop(_)) => Answer::Stop(Stopping {}.into()),
            Ok(frame) => {
                let message = format!("{} belongs to a handoff; say receive first", frame.tag());
                Answer::Reply(Failure { code: ErrorCode::OutOfOrder, message }.into())
            }
            // What follows cannot be told apart from the rest of the long line, nor from what the lost
            // descriptors belonged to.
            Err(error @ (WireError::TooLong | WireError::StrayDescriptors | WireError::Truncated)) => {
                Answer::Close(failure(&error))
            }
            // A person mistypes and goes on. A successor has been told no.
            Err(error @ WireError::MalformedReceive(_)) => Answer::Close(failure(&error)),
            Err(error) => Answer::Reply(failure(&error)),
        }
    }

    fn upgrade(&mut self, timeout: Option<Duration>, desk: Desk<'_>) -> Answer {
        if let Some(message) = desk.busy() {
            return Answer::Reply(Failure { code: ErrorCode::Busy, message }.into());
        }
        self.upgrades = true;
        Answer::Upgrade(timeout)
    }
}

impl Desk<'_> {
    /// Why no upgrade can begin now, if so.
    // M90
    pub fn busy(self) -> Option<String> {
        match (self.successor, self.upgrading) {
            (Some(pid), _) => Some(busy_with(pid)),
            (None, true) => Some("an upgrade is under way; try again when it is over".to_owned()),
            (None, false) => self.stopping.then(|| "the service was told to stop".to_owned()),
        }
    }
}

fn busy_with(pid: u32) -> String {
    format!("a handoff to process {pid} is under way; try again when it is over")
}

// M27, M39, M41, M143, M170
fn begin(receive: Receive, desk: Desk<'_>) -> Answer {
    let refuse = |code, message| match receive.standby {
        // Nothing depends on it, and it looks again.
        true => Answer::Close(Failure { code, message }.into()),
        false => Answer::Refuse(receive.pid, Failure { code, message }),
    };
    match (receive.standby, desk.successor, desk.keeper) {
        (true, ..) if !desk.operable => {
            return refuse(ErrorCode::Unsupported, "this service gives nothing to a keeper".to_owned());
        }
        (true, _, Some(pid)) => return refuse(ErrorCode::Busy, format!("process {pid} is in the way; try again")),
        (false, Some(pid), _) => return refuse(ErrorCode::Busy, busy_with(pid)),
        (true, _, None) | (false, None, _) => {}
    }
    if receive.protocol.negotiate(PROTOCOL).is_none() {
        let message = format!("this service speaks protocol {PROTOCOL}, the successor {}", receive.protocol);
        return refuse(ErrorCode::Version, message);
    }
    if exceeds_limits(&receive) {
        let message = format!(
            "more than {MAX_SCHEMAS} schemas or fingerprints, more than {MAX_SERVICES} services, a version or name of more \
             than {MAX_TEXT} bytes, or an instance of more than {MAX_INSTANCE}"
        );
        return refuse(ErrorCode::Malformed, message);
    }
    if let (Some(name), Some(services)) = (desk.name, &receive.services) {
        if !services.iter().any(|service| service == name) {
            let message =
                format!("this is the service {name:?}, and process {} takes over {services:?} alone", receive.pid);
            return refuse(ErrorCode::Name, shorten(&message, MAX_TEXT));
        }
    }
    if comes_back(&receive, desk.superseded) {
        let message = format!(
            "instance {} was superseded by another one, which serves: to roll back to it, start it with HANDOFF_TAKE=1 \
             (Config::take), or under another HANDOFF_INSTANCE",
            receive.instance.as_deref().unwrap_or_default()
        );
        return refuse(ErrorCode::Superseded, shorten(&message, MAX_TEXT));
    }
    if receive.standby { Answer::Keep(receive) } else { Answer::Begin(receive) }
}

fn exceeds_limits(receive: &Receive) -> bool {
    let services = receive.services.as_deref().unwrap_or_default();
    receive.schemas.len() > MAX_SCHEMAS
        || receive.fingerprints.as_ref().is_some_and(|fingerprints| fingerprints.len() > MAX_SCHEMAS)
        || services.len() > MAX_SERVICES
        || services.iter().chain([&receive.version]).any(|text| text.len() > MAX_TEXT)
        || receive.instance.as_ref().is_some_and(|instance| instance.len() > MAX_INSTANCE)
}

fn failure(error: &WireError) -> ServerFrame {
    Failure { code: error.code(), message: error.to_string() }.into()
}

fn help(desk: Desk<'_>) -> ServerFrame {
    let offered = if desk.operable { "" } else { " (not offered by this service)" };
    let words = [
        ("help", "this list".to_owned()),
        ("status", "what the service is doing".to_owned()),
        ("watch", "what the service is doing, then events as they happen".to_owned()),
        ("upgrade", format!("replace the service by a new process, and hear how it goes{offered}")),
        ("stop", format!("stop the service{offered}")),
    ];
    let words: BTreeMap<String, String> = words.map(|(word, does)| (word.to_owned(), does)).into();
    HelpText { words }.into()
}
