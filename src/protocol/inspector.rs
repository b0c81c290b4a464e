//! A connection to the control socket before it says `receive`: somebody looks, or is about to take over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::wire::{
    ClientFrame, ErrorCode, Failure, HelpText, MAX_SCHEMAS, MAX_TEXT, PROTOCOL, Receive, ServerFrame, WireError,
};

/// How many connections may look at once. One more takes the place of the one that has been quiet longest.
pub const MAX_INSPECTORS: usize = 64;
/// How long a connection may go without a complete line.
pub const QUIET_LIMIT: Duration = Duration::from_secs(60);

/// One connection that looks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Inspector {
    last_line: Instant,
}

/// What to do about a line.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Send this.
    Reply(ServerFrame),
    /// Send the status.
    Status,
    /// Send this, and close.
    Close(ServerFrame),
    /// Begin a handoff.
    Begin(Receive),
}

impl Inspector {
    /// A connection that was accepted at `now`.
    pub fn new(now: Instant) -> Inspector {
        Inspector { last_line: now }
    }

    /// When it last said something, for choosing who has to make room.
    pub fn last_line(&self) -> Instant {
        self.last_line
    }

    /// When it has been quiet for too long.
    pub fn deadline(&self) -> Instant {
        self.last_line + QUIET_LIMIT
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

    /// Decides about one line. `busy_with` is the process id of the successor in a handoff under way.
    pub fn line(&mut self, now: Instant, line: Result<ClientFrame, WireError>, busy_with: Option<u32>) -> Answer {
        self.last_line = now;
        match line {
            Ok(ClientFrame::Help(_)) => Answer::Reply(help()),
            Ok(ClientFrame::GetStatus(_)) => Answer::Status,
            Ok(ClientFrame::Receive(receive)) => begin(receive, busy_with),
            Ok(frame @ (ClientFrame::Watch(_) | ClientFrame::Upgrade(_) | ClientFrame::Stop(_))) => {
                let message = format!("{} is not offered by this service", frame.tag());
                Answer::Reply(Failure { code: ErrorCode::Unsupported, message }.into())
            }
            Ok(frame) => {
                let message = format!("{} belongs to a handoff; say receive first", frame.tag());
                Answer::Reply(Failure { code: ErrorCode::OutOfOrder, message }.into())
            }
            // What follows cannot be told apart from the rest of the long line, nor from what the lost
            // descriptors belonged to.
            Err(error @ (WireError::TooLong | WireError::StrayDescriptors | WireError::Truncated)) => {
                Answer::Close(failure(&error))
            }
            Err(error) => Answer::Reply(failure(&error)),
        }
    }
}

fn begin(receive: Receive, busy_with: Option<u32>) -> Answer {
    if let Some(pid) = busy_with {
        let message = format!("a handoff to process {pid} is under way; try again when it is over");
        return Answer::Close(Failure { code: ErrorCode::Busy, message }.into());
    }
    if receive.protocol.negotiate(PROTOCOL).is_none() {
        let message = format!("this service speaks protocol {PROTOCOL}, the successor {}", receive.protocol);
        return Answer::Close(Failure { code: ErrorCode::Version, message }.into());
    }
    if receive.schemas.len() > MAX_SCHEMAS || receive.version.len() > MAX_TEXT {
        let message = format!("more than {MAX_SCHEMAS} schemas, or a version of more than {MAX_TEXT} bytes");
        return Answer::Close(Failure { code: ErrorCode::Malformed, message }.into());
    }
    Answer::Begin(receive)
}

fn failure(error: &WireError) -> ServerFrame {
    Failure { code: error.code(), message: error.to_string() }.into()
}

fn help() -> ServerFrame {
    let words = [
        ("help", "this list"),
        ("status", "what the service is doing"),
        ("watch", "events as they happen (not offered by this service)"),
        ("upgrade", "replace the service by a new process (not offered by this service)"),
        ("stop", "stop the service (not offered by this service)"),
    ];
    let words: BTreeMap<String, String> = words.map(|(word, does)| (word.to_owned(), does.to_owned())).into();
    HelpText { words }.into()
}
