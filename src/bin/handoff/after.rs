//! What has become of a service that closed the connection.

use std::path::Path;

use fd_handoff::client::Client;
use fd_handoff::{Error, PathProblem};

use crate::problem::is_socket;

/// How often to connect anew where the connection is closed at once: the service was just ending.
const ATTEMPTS: usize = 5;

/// What is at the path now.
pub(crate) enum After {
    /// Somebody serves: the next generation, or a new start.
    Serving(Box<Client>),
    /// The path is gone, as a service that stops in good order leaves it.
    Stopped,
    /// The socket is there, and nobody listens: the service did not end in good order.
    Died,
    /// Nobody can tell.
    Unclear(Error),
}

/// Looks at the path again.
pub(crate) fn look(path: &Path) -> After {
    let mut last = Error::Disconnected;
    for _ in 0..ATTEMPTS {
        match Client::connect(path) {
            Ok(client) => return After::Serving(Box::new(client)),
            Err(Error::Disconnected) => last = Error::Disconnected,
            Err(Error::Path { problem: PathProblem::NobodyThere, .. }) if is_socket(path) => return After::Died,
            Err(Error::Path { problem: PathProblem::NobodyThere | PathProblem::NoDirectory, .. }) => {
                return After::Stopped;
            }
            Err(error) => return After::Unclear(error),
        }
    }
    After::Unclear(last)
}
