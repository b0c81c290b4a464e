//! What goes to stdout: without colours where it is no terminal, and quietly nowhere once nobody reads it.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use anstream::AutoStream;
use fd_handoff::client::{Attempt, Event, Status};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use crate::problem::Problem;

pub(crate) struct Output {
    stdout: AutoStream<io::Stdout>,
    unread: bool,
}

/// A line for programs.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Line<'a> {
    Status(&'a Status),
    Event(&'a Event),
    Outcome(&'a Attempt),
}

impl Output {
    pub(crate) fn new() -> Output {
        Output { stdout: AutoStream::auto(io::stdout()), unread: false }
    }

    pub(crate) fn line(&mut self, text: impl Display) -> Result<(), Problem> {
        self.text(format_args!("{text}\n"))
    }

    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Problem> {
        let line = serde_json::to_string(value).map_err(|error| Problem::failed(format!("no JSON: {error}")))?;
        self.line(line)
    }

    /// Text as it is. What nobody reads any more is no failure: the one that reads has seen enough.
    pub(crate) fn text(&mut self, text: impl Display) -> Result<(), Problem> {
        if self.unread {
            return Ok(());
        }
        match write!(self.stdout, "{text}").and_then(|()| self.stdout.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.unread = true;
                Ok(())
            }
            Err(error) => Err(Problem::failed(format!("cannot write to stdout: {error}"))),
        }
    }

    /// Whether nobody reads any more. A pipe without a reader says so before one writes to it.
    pub(crate) fn is_unread(&self) -> bool {
        let stdout = io::stdout();
        let mut pipe = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
        let broken = poll(&mut pipe, PollTimeout::ZERO).is_ok_and(|_| pipe[0].revents() == Some(PollFlags::POLLERR));
        self.unread || broken
    }
}

/// Whether somebody looks at what is shown while it lasts.
pub(crate) fn is_interactive() -> bool {
    io::stdout().is_terminal() && io::stderr().is_terminal()
}
