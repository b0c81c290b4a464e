//! What can go wrong: what was being done, whose fault it is, and what to do.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::libc;

use crate::core::Cause;
use crate::core::wire::{
    ErrorCode, Kind, MAX_DESCRIPTORS, MAX_FILE_NAME, MAX_STATE, MAX_TEXT, Name, NameError, WireError, shorten,
};

/// Has `Debug` print what `Display` does: a `main` that returns an error prints its `Debug`.
macro_rules! debug_as_display {
    ($($error:ty),* $(,)?) => {
        $(impl fmt::Debug for $error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        })*
    };
}

debug_as_display!(Error, PathProblem, StateError, Failure, NameError, WireError, Cause);

/// A result with this library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
///
/// `Display` says all of it in one line, and `Debug` says the same. [`source`](std::error::Error::source) is what is behind
/// the texts in that line, so that a report that prints the whole chain prints nothing twice.
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    Io {
        /// What was being done.
        doing: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The control socket's path cannot be used.
    Path {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        problem: PathProblem,
    },
    /// The other process is not one that this one trusts.
    PeerDenied {
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// The running service refused the request.
    Refused {
        /// What kind of refusal.
        code: ErrorCode,
        /// What it said.
        message: String,
    },
    /// The service that runs at the control socket is another one than those that this program takes over.
    OtherService {
        /// Its name.
        found: String,
        /// The names that the configuration has: [`Config::name`](crate::Config::name) and
        /// [`Config::replaces`](crate::Config::replaces).
        wanted: Vec<String>,
    },
    /// The predecessor was lost before every descriptor had arrived.
    PredecessorLost(Cause),
    /// The handoff failed, and this process must not serve what it received.
    Handoff(Cause),
    /// More descriptors than this process may open.
    TooFewFiles {
        /// How many are needed in all.
        needed: u64,
        /// The hard limit.
        hard: u64,
    },
    /// More descriptors than one handoff can move.
    TooManyDescriptors {
        /// How many.
        count: usize,
    },
    /// A text cannot name a descriptor.
    Name(NameError),
    /// A name was offered twice. Sockets that share a name are offered together.
    DuplicateName(Name),
    /// A descriptor was taken as something that it is not.
    WrongKind {
        /// Its name.
        name: Name,
        /// What it is.
        found: Kind,
        /// What it was to be.
        wanted: &'static [Kind],
    },
    /// One descriptor was to be taken where there are several.
    Several {
        /// Their name.
        name: Name,
        /// How many there are.
        count: usize,
    },
    /// The inherited socket is bound to another address than this program wants.
    AddressChanged {
        /// Its name.
        name: String,
        /// Where it is bound.
        found: String,
        /// Where it was to be bound.
        wanted: String,
    },
    /// In strict mode: descriptors were handed over that this program did not take.
    Unclaimed(Vec<String>),
    /// A state could not be handed over or read.
    State(StateError),
    /// The service closed the connection.
    Disconnected,
    /// Whoever listens at the control socket does not answer.
    NoAnswer {
        /// How long it had.
        after: Duration,
    },
    /// Whoever listens at the control socket says something that is not of this protocol.
    Garbled(WireError),
    /// The control object was closed, or its service has been handed over.
    Closed,
    /// This process was told to stop before it served, by [`Handle::stop`](crate::form::Handle::stop). Its predecessor serves on.
    Stopped,
}

/// What is wrong with a control socket's path.
#[non_exhaustive]
pub enum PathProblem {
    /// It has no file name.
    NoName,
    /// Its directory does not exist.
    NoDirectory,
    /// This user may not use it.
    Permission,
    /// Something else than a socket is there.
    NotASocket,
    /// Its last component is longer than a socket address holds.
    NameTooLong(usize),
    /// A service listens there already.
    AlreadyRunning,
    /// Nobody listens there, and the configuration forbids a cold start, or a client wants to speak with a service.
    NobodyThere,
    /// Another process has been starting for longer than the lock timeout.
    Starting(Duration),
    /// A system call failed.
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What is wrong with a state.
#[non_exhaustive]
pub enum StateError {
    /// The memfd could not be made, written, sealed, read or mapped.
    Io {
        /// The system call.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The application's value could not be encoded.
    Encode(Box<dyn StdError + Send + Sync>),
    /// The bytes are not a value of the wanted type.
    Decode(Box<dyn StdError + Send + Sync>),
    /// The value ends before the bytes do.
    Trailing {
        /// How many bytes are left.
        left: usize,
    },
    /// It is encoded with another codec.
    Codec {
        /// The codec of the state.
        found: String,
        /// The codec of the call.
        wanted: &'static str,
    },
    /// It is longer or shorter than the peer said.
    Length {
        /// What the peer said.
        announced: u64,
        /// What there is.
        found: u64,
    },
    /// It is not sealed, has to be copied for that, and there is no memory for so much.
    TooMuchToCopy {
        /// Its length.
        length: u64,
    },
    /// What came is not a regular file: a pipe, a socket, a directory.
    NotAFile,
    /// It is larger than the protocol allows.
    TooLarge {
        /// Its length.
        length: u64,
    },
    /// Its schema is not one that this program reads.
    Schema {
        /// The schema of the state.
        found: u32,
        /// The schemas that the configuration names.
        accepted: Vec<u32>,
    },
    /// It has another shape than the type that it was to be read as.
    Shape {
        /// The fingerprint of the state's shape.
        found: u64,
        /// That of the type's.
        wanted: u64,
        /// The type's shape.
        shape: String,
    },
    /// Of this type the shape cannot be seen, so that nobody could tell whether a state still has it.
    Unseen {
        /// The type.
        type_name: &'static str,
        /// Why.
        problem: String,
    },
    /// Nothing says which shape it has: it has no schema, and none was derived from its type.
    NoSchema {
        /// How it is encoded.
        codec: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { doing, source } => write!(f, "cannot {doing}: {}", advised(source)),
            Error::Path { path, problem } => write!(f, "control socket {}: {problem}", path.display()),
            Error::PeerDenied { uid, gid } => write!(
                f,
                "the control socket's other end is uid {uid}, gid {gid}, which the peer policy does not allow: run both as \
                 one user, or name that one with PeerPolicy::allow_uid"
            ),
            Error::Refused { code, message } => write!(f, "the running service refused ({code}): {message}"),
            Error::OtherService { found, wanted } => {
                let (found, wanted) = (found.clone(), wanted.clone());
                Cause::OtherService { found, wanted }.fmt(f)
            }
            Error::PredecessorLost(cause) => {
                write!(f, "lost the running service before everything had arrived: {cause}")
            }
            Error::Handoff(cause) => write!(f, "the handoff failed: {cause}"),
            Error::TooFewFiles { needed, hard } => write!(
                f,
                "{needed} open files are needed, and the limit is {hard} (RLIMIT_NOFILE, the hard limit): raise it"
            ),
            Error::TooManyDescriptors { count } => {
                write!(f, "{count} descriptors are offered; at most {MAX_DESCRIPTORS} can move")
            }
            Error::Name(problem) => problem.fmt(f),
            Error::DuplicateName(name) => {
                write!(
                    f,
                    "the name \"{name}\" is offered twice; offer sockets that share a name with one call of Offer::group"
                )
            }
            Error::WrongKind { name, found, wanted } => {
                let wanted: Vec<_> = wanted.iter().map(Kind::to_string).collect();
                write!(f, "\"{name}\" is a {found}; it was to be taken as a {}", wanted.join(" or a "))
            }
            Error::Several { name, count } => {
                write!(f, "{count} descriptors have the name \"{name}\"; take them with take_all")
            }
            Error::AddressChanged { name, found, wanted } => write!(
                f,
                "\"{name}\" was inherited at {found}, and this program wants {wanted}: use a new name for a new address, or \
                 correct the socket unit that passes it"
            ),
            Error::Unclaimed(names) => write!(f, "nobody took the inherited descriptors {names:?}"),
            Error::State(problem) => problem.fmt(f),
            Error::Disconnected => f.write_str("the service closed the connection"),
            Error::NoAnswer { after } => {
                write!(f, "no answer within {after:?}: the service is stopped, or something else listens there")
            }
            Error::Garbled(what) => write!(f, "this is no fd-handoff service: {what}"),
            Error::Closed => f.write_str("this generation no longer owns the control socket"),
            Error::Stopped => f.write_str("this process was told to stop before it served"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Error::Io { source, .. } => source.source(),
            Error::Path { problem, .. } => problem.source(),
            Error::State(problem) => problem.source(),
            _ => None,
        }
    }
}

impl From<NameError> for Error {
    fn from(problem: NameError) -> Error {
        Error::Name(problem)
    }
}

impl From<StateError> for Error {
    fn from(problem: StateError) -> Error {
        Error::State(problem)
    }
}

impl fmt::Display for PathProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathProblem::NoName => f.write_str("it does not end in a file name"),
            PathProblem::NoDirectory => f.write_str("there is no such directory; create it"),
            PathProblem::Permission => f.write_str(
                "permission denied; check the owner and mode of the directory, the socket and the lock file beside it",
            ),
            PathProblem::NotASocket => {
                f.write_str("something that is not a socket is there; move it away or choose another path")
            }
            PathProblem::NameTooLong(length) => {
                write!(f, "its file name has {length} bytes; a socket's name can have at most {MAX_FILE_NAME}")
            }
            PathProblem::AlreadyRunning => {
                f.write_str("a service is running there; take it over with handoff_receive, or stop it")
            }
            PathProblem::NobodyThere => f.write_str("nobody listens there; start the service, or allow a cold start"),
            PathProblem::Starting(after) => {
                write!(f, "another process has been starting here for {after:?}; see who holds the lock file beside it")
            }
            PathProblem::Io { doing, source } => write!(f, "cannot {doing}: {}", advised(source)),
        }
    }
}

impl StdError for PathProblem {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            PathProblem::Io { source, .. } => source.source(),
            _ => None,
        }
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StateError::Io { call, source } => write!(f, "cannot move the state: {call}: {}", advised(source)),
            StateError::Encode(error) => write!(f, "cannot encode the state: {error}"),
            StateError::Decode(error) => write!(f, "cannot decode the state: {error}"),
            StateError::Trailing { left } => {
                write!(f, "the state goes on for {left} bytes after the value: it was written by another version")
            }
            StateError::Codec { found, wanted } => {
                write!(f, "the state is encoded as {found}; this program wants {wanted}")
            }
            StateError::Length { announced, found } => {
                write!(f, "the state has {found} bytes; {announced} were announced")
            }
            StateError::TooMuchToCopy { length } => write!(
                f,
                "there is no memory for a copy of {length} bytes, which the state needs since it is not sealed: have its \
                 sender seal it (F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE), and it is mapped instead"
            ),
            StateError::NotAFile => f.write_str(
                "what was attached as state is not a regular file; its sender has to write it into a memfd \
                 (memfd_create(2))",
            ),
            StateError::TooLarge { length } => {
                write!(f, "the state has {length} bytes; at most {MAX_STATE} are allowed")
            }
            StateError::Schema { found, accepted } => {
                write!(
                    f,
                    "the state has schema {found}; this program reads {accepted:?}: have it read that one too, and say so with \
                     Config::schemas"
                )
            }
            StateError::Shape { found, wanted, shape } => write!(
                f,
                "the state has another shape (fingerprint {found:016x}) than {} (fingerprint {wanted:016x}), as which it was to be \
                 read: its type has changed between the two versions. Read it as the type of before and convert that; or \
                 number the shapes with State::schema and Config::schemas",
                shorten(shape, MAX_TEXT)
            ),
            StateError::Unseen { type_name, problem } => write!(
                f,
                "nobody sees the shape of {type_name}: {problem}. Number it: State::schema where it is given, and \
                 Config::schemas where it is read"
            ),
            StateError::NoSchema { codec } => write!(
                f,
                "nothing says which shape this state has, which is encoded as {codec}: number it, from 1 on, with State::schema \
                 where it is given, and name that with Config::schemas where it is read"
            ),
        }
    }
}

impl StdError for StateError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            StateError::Io { source, .. } => source.source(),
            StateError::Encode(error) | StateError::Decode(error) => error.source(),
            _ => None,
        }
    }
}

impl StateError {
    pub(crate) fn io(call: &'static str) -> impl FnOnce(io::Error) -> StateError {
        move |source| StateError::Io { call, source }
    }
}

impl Error {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let doing = doing.into();
        move |source| Error::Io { doing, source }
    }

    /// From the successor's side: a handoff that ended before this process owned the service.
    pub(crate) fn from_cause(cause: Cause, had_everything: bool) -> Error {
        match cause {
            Cause::Refused { code, message } => Error::Refused { code, message },
            Cause::OtherService { found, wanted } => Error::OtherService { found, wanted },
            cause @ (Cause::Died(_) | Cause::Closed(_)) if !had_everything => Error::PredecessorLost(cause),
            cause => Error::Handoff(cause),
        }
    }
}

/// A handoff that this predecessor did not complete, and who owns the service now.
pub struct Failure {
    owner: Owner,
    cause: Error,
}

/// Who owns the service after a failed handoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Owner {
    /// This process: it has not released the service, or its release never left.
    StillUs,
    /// This process again: it had released, and its successor is dead or said that it does not serve.
    UsAgain,
    /// The successor, which serves: only this process's last words to it failed.
    Successor,
    /// Nobody can tell. The successor may be serving; this process must not.
    Unknown,
}

impl Failure {
    pub(crate) fn new(owner: Owner, cause: Error) -> Failure {
        Failure { owner, cause }
    }

    /// Who owns the service now.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Whether this process is to accept connections.
    pub fn may_serve(&self) -> bool {
        matches!(self.owner, Owner::StillUs | Owner::UsAgain)
    }

    /// Why the handoff failed.
    pub fn cause(&self) -> &Error {
        &self.cause
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.source()
    }
}

/// What the kernel said, and what to do about it where that is known.
pub(crate) fn advised(error: &io::Error) -> impl fmt::Display + '_ {
    struct Advised<'a>(&'a io::Error);
    impl fmt::Display for Advised<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fmt(f)?;
            advice(self.0).map_or(Ok(()), |advice| write!(f, ": {advice}"))
        }
    }
    Advised(error)
}

/// What to do about an error of the kernel's, whatever was being done.
fn advice(error: &io::Error) -> Option<&'static str> {
    if let Some(errno) = error.raw_os_error() {
        return errno_advice(errno);
    }
    // One that was given an address has lost its number.
    match error.kind() {
        io::ErrorKind::AddrInUse => errno_advice(libc::EADDRINUSE),
        io::ErrorKind::AddrNotAvailable => errno_advice(libc::EADDRNOTAVAIL),
        io::ErrorKind::PermissionDenied => errno_advice(libc::EACCES),
        _ => None,
    }
}

fn errno_advice(errno: i32) -> Option<&'static str> {
    Some(match errno {
        libc::EMFILE => {
            "this process has as many descriptors open as RLIMIT_NOFILE allows: raise it (LimitNOFILE= in systemd, \
             --ulimit nofile= in Docker)"
        }
        libc::ENFILE => "the whole machine has as many files open as it may: raise the sysctl fs.file-max",
        libc::ETOOMANYREFS => {
            "more descriptors in flight than RLIMIT_NOFILE allows this user: raise it, or hand over when no other \
             process of this user sends descriptors"
        }
        libc::ENOMEM => "no memory is left, for this machine or for this control group (memory.max): raise the limit",
        libc::ENOSPC => {
            "no space is left where it was to be written: make room, or raise the limit of that file system"
        }
        libc::EFBIG => {
            "larger than RLIMIT_FSIZE allows, which counts for memfds, too: raise it (LimitFSIZE= in systemd)"
        }
        libc::EADDRINUSE => {
            "another process has it: find that one (ss -lntup, ss -lxp), and stop it or choose another address"
        }
        libc::EADDRNOTAVAIL => "no interface has this address here: correct it, or wait for the network to be up",
        libc::EACCES => {
            "this user may not: check owner and mode; a port below 1024 needs CAP_NET_BIND_SERVICE \
             (AmbientCapabilities= in systemd)"
        }
        libc::EPERM => {
            "a filter of system calls or a missing capability forbids it: handoff check says what works here"
        }
        libc::ENOSYS => {
            "this kernel does not have the call, or a filter forbids it: handoff check says what works here"
        }
        libc::EROFS => "the file system is read-only: choose a directory that can be written to",
        libc::ENOENT => "nothing has that name: check the path",
        libc::ENOEXEC => "that file is no program for this machine",
        libc::ETXTBSY => "the program is still being written: put it there with a rename instead of writing over it",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::mem::discriminant;

    use super::*;
    use crate::core::Peer;

    /// An error of the application's, with one behind it.
    #[derive(Debug, thiserror::Error)]
    #[error("the record is broken")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("its length is odd")]
    struct Inner;

    fn io() -> io::Error {
        io::Error::other(Outer(Inner))
    }

    fn boxed() -> Box<dyn StdError + Send + Sync> {
        Box::new(Outer(Inner))
    }

    fn path_problems() -> Vec<PathProblem> {
        let all = vec![
            PathProblem::NoName,
            PathProblem::NoDirectory,
            PathProblem::Permission,
            PathProblem::NotASocket,
            PathProblem::NameTooLong(81),
            PathProblem::AlreadyRunning,
            PathProblem::NobodyThere,
            PathProblem::Starting(Duration::from_secs(1)),
            PathProblem::Io { doing: "connect", source: io() },
        ];
        // Where a variant is missing here, one is missing above.
        match all[0] {
            PathProblem::NoName
            | PathProblem::NoDirectory
            | PathProblem::Permission
            | PathProblem::NotASocket
            | PathProblem::NameTooLong(_)
            | PathProblem::AlreadyRunning
            | PathProblem::NobodyThere
            | PathProblem::Starting(_)
            | PathProblem::Io { .. } => all,
        }
    }

    fn state_errors() -> Vec<StateError> {
        let all = vec![
            StateError::Io { call: "mmap", source: io() },
            StateError::Encode(boxed()),
            StateError::Decode(boxed()),
            StateError::Trailing { left: 1 },
            StateError::Codec { found: "raw".to_owned(), wanted: "bincode2" },
            StateError::Length { announced: 1, found: 2 },
            StateError::TooMuchToCopy { length: 1 },
            StateError::NotAFile,
            StateError::TooLarge { length: 1 },
            StateError::Schema { found: 1, accepted: vec![0] },
            StateError::Shape { found: 1, wanted: 2, shape: "Counts { served: u64 }".to_owned() },
            StateError::Unseen { type_name: "app::Counts", problem: "it panicked".to_owned() },
            StateError::NoSchema { codec: "bincode2".to_owned() },
        ];
        match all[0] {
            StateError::Io { .. }
            | StateError::Encode(_)
            | StateError::Decode(_)
            | StateError::Trailing { .. }
            | StateError::Codec { .. }
            | StateError::Length { .. }
            | StateError::TooMuchToCopy { .. }
            | StateError::NotAFile
            | StateError::TooLarge { .. }
            | StateError::Schema { .. }
            | StateError::Shape { .. }
            | StateError::Unseen { .. }
            | StateError::NoSchema { .. } => all,
        }
    }

    fn errors() -> Vec<Error> {
        let name = || Name::try_from("http").unwrap();
        let mut all = vec![
            Error::Io { doing: "wait".to_owned(), source: io() },
            Error::PeerDenied { uid: 1, gid: 1 },
            Error::Refused { code: ErrorCode::Busy, message: "later".to_owned() },
            Error::OtherService { found: "a".to_owned(), wanted: vec!["b".to_owned()] },
            Error::PredecessorLost(Cause::Died(Peer::Predecessor)),
            Error::Handoff(Cause::Garbled(Peer::Successor, WireError::Broken("gone".to_owned()))),
            Error::TooFewFiles { needed: 2, hard: 1 },
            Error::TooManyDescriptors { count: 20_000 },
            Error::Name(NameError::Empty),
            Error::DuplicateName(name()),
            Error::WrongKind { name: name(), found: Kind::Pipe, wanted: &[Kind::File] },
            Error::Several { name: name(), count: 2 },
            Error::AddressChanged { name: "http".to_owned(), found: "a".to_owned(), wanted: "b".to_owned() },
            Error::Unclaimed(vec!["http".to_owned()]),
            Error::Disconnected,
            Error::NoAnswer { after: Duration::from_secs(1) },
            Error::Garbled(WireError::TooLong),
            Error::Closed,
            Error::Stopped,
        ];
        all.extend(path_problems().into_iter().map(|problem| Error::Path { path: "/run/app.sock".into(), problem }));
        all.extend(state_errors().into_iter().map(Error::State));
        match all[0] {
            Error::Io { .. }
            | Error::Path { .. }
            | Error::PeerDenied { .. }
            | Error::Refused { .. }
            | Error::OtherService { .. }
            | Error::PredecessorLost(_)
            | Error::Handoff(_)
            | Error::TooFewFiles { .. }
            | Error::TooManyDescriptors { .. }
            | Error::Name(_)
            | Error::DuplicateName(_)
            | Error::WrongKind { .. }
            | Error::Several { .. }
            | Error::AddressChanged { .. }
            | Error::Unclaimed(_)
            | Error::State(_)
            | Error::Disconnected
            | Error::NoAnswer { .. }
            | Error::Garbled(_)
            | Error::Closed
            | Error::Stopped => all,
        }
    }

    /// Every public error, in every variant.
    fn every() -> Vec<Box<dyn StdError>> {
        let mut all: Vec<Box<dyn StdError>> = Vec::new();
        all.extend(path_problems().into_iter().map(|error| Box::new(error) as Box<dyn StdError>));
        all.extend(state_errors().into_iter().map(|error| Box::new(error) as Box<dyn StdError>));
        all.extend(
            errors().into_iter().map(|error| Box::new(Failure::new(Owner::StillUs, error)) as Box<dyn StdError>),
        );
        all.extend(errors().into_iter().map(|error| Box::new(error) as Box<dyn StdError>));
        for name in [
            NameError::Empty,
            NameError::TooLong(65),
            NameError::ControlCharacter("\\n".to_owned()),
            NameError::Reserved("@a".to_owned()),
        ] {
            all.push(Box::new(name));
        }
        all
    }

    #[test]
    fn the_lists_of_this_test_have_every_variant() {
        let kinds: HashSet<_> = errors().iter().map(discriminant).collect();
        assert_eq!(kinds.len(), 21);
        assert_eq!(path_problems().iter().map(discriminant).collect::<HashSet<_>>().len(), 9);
        assert_eq!(state_errors().iter().map(discriminant).collect::<HashSet<_>>().len(), 13);
    }

    #[test]
    fn a_main_that_returns_an_error_prints_what_people_read() {
        for error in every() {
            assert_eq!(format!("{error:?}"), error.to_string());
            assert_eq!(format!("{error:#?}"), error.to_string());
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_report_of_the_whole_chain_says_nothing_twice() {
        let mut behind = 0;
        for error in every() {
            let mut told = error.to_string();
            let mut next = error.source();
            while let Some(source) = next {
                assert!(!told.contains(&source.to_string()), "{source} is in: {told}");
                told = format!("{told}: {source}");
                next = source.source();
                behind += 1;
            }
        }
        // The call, the path's problem with and without its path, the three of a state, alone and as an error, and each
        // error once more as a failure.
        assert_eq!(behind, 1 + 3 + 2 * (1 + 1 + 3));
    }

    #[test]
    fn what_is_behind_a_text_is_still_found() {
        let error = Error::from(StateError::Decode(boxed()));
        assert_eq!(error.to_string(), "cannot decode the state: the record is broken");
        assert!(error.source().unwrap().is::<Inner>());
        let failure = Failure::new(Owner::UsAgain, Error::Io { doing: "wait".to_owned(), source: io() });
        assert_eq!(failure.to_string(), "cannot wait: the record is broken");
        assert!(failure.source().unwrap().is::<Inner>());
    }

    fn said(errno: i32) -> String {
        advised(&io::Error::from_raw_os_error(errno)).to_string()
    }

    #[test]
    fn what_the_kernel_said_is_followed_by_what_to_do() {
        assert!(said(libc::EMFILE).starts_with("Too many open files (os error 24): this process has as many"));
        assert!(said(libc::EMFILE).contains("RLIMIT_NOFILE"));
        assert!(said(libc::ETOOMANYREFS).contains("more descriptors in flight than RLIMIT_NOFILE allows this user"));
        assert_eq!(said(libc::EBADF), "Bad file descriptor (os error 9)");
        let without_number = io::Error::new(io::ErrorKind::AddrInUse, "127.0.0.1:80: Address in use");
        assert!(advised(&without_number).to_string().contains("another process has it"));
    }

    #[test]
    fn a_memfd_that_cannot_be_made_is_told_by_its_call_and_its_limit() {
        let told = |errno| StateError::io("memfd_create")(io::Error::from_raw_os_error(errno)).to_string();
        let start = "cannot move the state: memfd_create: ";
        for (errno, limit) in
            [(libc::ENOMEM, "memory.max"), (libc::ENFILE, "fs.file-max"), (libc::EMFILE, "RLIMIT_NOFILE")]
        {
            assert!(told(errno).starts_with(start) && told(errno).contains(limit), "{}", told(errno));
        }
    }
}
