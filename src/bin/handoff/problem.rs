//! Why the command cannot do what it was asked: in one line, with what to do about it.

use std::fmt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::ExitCode;

use clap::builder::styling::AnsiColor;
use fd_handoff::client::Client;
use fd_handoff::{Error, ErrorCode, PathProblem};

use crate::check::lost_by;
use crate::format::clean;

/// The end of the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    kind: Kind,
    message: String,
}

/// What the exit code tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The service said no, or it failed.
    Failed,
    /// There is no service to speak with.
    Unreachable,
    /// It was not done within the time that was given, and may still be.
    Late,
}

impl Problem {
    pub(crate) fn failed(message: impl Into<String>) -> Problem {
        Problem { kind: Kind::Failed, message: message.into() }
    }

    pub(crate) fn unreachable(message: impl Into<String>) -> Problem {
        Problem { kind: Kind::Unreachable, message: message.into() }
    }

    pub(crate) fn late(message: impl Into<String>) -> Problem {
        Problem { kind: Kind::Late, message: message.into() }
    }

    pub(crate) fn report(&self) -> ExitCode {
        let red = AnsiColor::Red.on_default().bold();
        anstream::eprintln!("{red}error:{red:#} {self}");
        ExitCode::from(match self.kind {
            Kind::Failed => 1,
            Kind::Unreachable => 3,
            Kind::Late => 4,
        })
    }
}

impl fmt::Display for Problem {
    /// One line, whatever was in the messages that it was made of.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&clean(&self.message))
    }
}

/// Connects, or says what is in the way.
pub(crate) fn connect(path: &Path) -> Result<Client, Problem> {
    Client::connect(path).map_err(|error| explain(path, error))
}

/// What an error means for whoever typed the command.
pub(crate) fn explain(path: &Path, error: Error) -> Problem {
    let at = path.display();
    match error {
        Error::Path { problem, .. } => Problem::unreachable(path_problem(path, &problem)),
        Error::Refused { code, message } => refused(path, code, &message),
        Error::NoAnswer { after } => Problem::unreachable(format!(
            "{at}: no answer within {after:?}; the service is stopped or hangs, or a successor there is not ready yet: \
             look at its process"
        )),
        Error::Disconnected => Problem::unreachable(format!(
            "{at}: the connection was closed before an answer came; the service may just be ending: try again"
        )),
        Error::Garbled(what) => Problem::unreachable(format!(
            "{at}: what listens there is no fd-handoff service ({what}); pass the path of the control socket"
        )),
        other => Problem::unreachable(format!("{at}: {other}")),
    }
}

fn refused(path: &Path, code: ErrorCode, message: &str) -> Problem {
    let at = path.display();
    match code {
        ErrorCode::Denied => Problem::unreachable(format!(
            "{at}: the service does not admit this user ({message}); run this as the service's user or as root"
        )),
        ErrorCode::Busy => {
            Problem::failed(format!("the service is busy: {message}; see how it goes: handoff watch {at}"))
        }
        ErrorCode::Unsupported => Problem::failed(format!(
            "this service does not take such requests over its control socket ({message}): use what started it"
        )),
        ErrorCode::Malformed | ErrorCode::UnknownType => Problem::failed(format!(
            "this service does not understand the request ({message}); it is built on another version of fd-handoff"
        )),
        code => Problem::failed(format!("the service refused ({code}): {message}")),
    }
}

fn path_problem(path: &Path, problem: &PathProblem) -> String {
    let at = path.display();
    if let Some(who) = lost_by(path).filter(|_| matches!(problem, PathProblem::NobodyThere | PathProblem::NoDirectory))
    {
        return format!(
            "{at}: {who} listens on a socket that had this path, and the path does not lead to it any more: its log says why \
             it does not put it back"
        );
    }
    match problem {
        PathProblem::NobodyThere if is_socket(path) => format!(
            "{at}: nobody listens there; the socket is left over from a service that died: start the service, which \
             replaces it, or pass the right path"
        ),
        PathProblem::NobodyThere => format!(
            "{at}: nobody listens there, and there is no socket: start the service, or pass the path that it was \
             started with"
        ),
        PathProblem::NoDirectory => {
            format!("{at}: there is no such directory: pass the path that the service was started with")
        }
        PathProblem::Permission => {
            format!("{at}: permission denied{}: run this as the service's user or as root", owner(path))
        }
        PathProblem::NotASocket => {
            format!("{at}: that is not a socket: pass the path of the service's control socket")
        }
        other => format!("{at}: {other}"),
    }
}

pub(crate) fn is_socket(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket())
}

fn owner(path: &Path) -> String {
    match path.symlink_metadata() {
        Ok(found) => format!(" (it belongs to user {}, mode {:04o})", found.uid(), found.mode() & 0o7777),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn told(error: Error) -> (Kind, String) {
        let problem = explain(Path::new("/run/app.sock"), error);
        (problem.kind, problem.to_string())
    }

    fn refusal(code: ErrorCode) -> (Kind, String) {
        told(Error::Refused { code, message: "because".to_owned() })
    }

    #[test]
    fn each_refusal_has_its_exit_code_and_its_advice() {
        for (code, kind, advice) in [
            (ErrorCode::Busy, Kind::Failed, "handoff watch /run/app.sock"),
            (ErrorCode::Unsupported, Kind::Failed, "use what started it"),
            (ErrorCode::Malformed, Kind::Failed, "another version"),
            (ErrorCode::Evicted, Kind::Failed, "refused (evicted)"),
            (ErrorCode::Denied, Kind::Unreachable, "as root"),
        ] {
            let (found, message) = refusal(code);
            assert_eq!(found, kind, "{message}");
            assert!(message.contains(advice) && message.contains("because"), "{message}");
        }
    }

    #[test]
    fn no_answer_says_for_how_long_it_was_waited() {
        let (kind, message) = told(Error::NoAnswer { after: Duration::from_secs(5) });
        assert_eq!(kind, Kind::Unreachable);
        assert!(message.contains("within 5s"), "{message}");
    }

    #[test]
    fn a_problem_is_one_line() {
        assert_eq!(Problem::failed("two\nlines and \x1b[31mred").to_string(), "two lines and  [31mred");
    }
}
