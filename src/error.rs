//! What can go wrong: what was being done, whose fault it is, and what to do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::core::Cause;
use crate::core::wire::{ErrorCode, Kind, MAX_DESCRIPTORS, MAX_STATE, Name, NameError, WireError};

/// A result with this library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The control socket's path cannot be used.
    #[error("control socket {}: {problem}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        problem: PathProblem,
    },
    /// The other process is not one that this one trusts.
    #[error("the control socket's other end is uid {uid}, gid {gid}, which the peer policy does not allow")]
    PeerDenied {
        /// Its user.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// The running service refused the request.
    #[error("the running service refused ({code}): {message}")]
    Refused {
        /// What kind of refusal.
        code: ErrorCode,
        /// What it said.
        message: String,
    },
    /// The predecessor was lost before every descriptor had arrived.
    #[error("lost the running service before everything had arrived: {0}")]
    PredecessorLost(Cause),
    /// The handoff failed, and this process must not serve what it received.
    #[error("the handoff failed: {0}")]
    Handoff(Cause),
    /// More descriptors than this process may open.
    #[error("{needed} open files are needed, and the limit is {hard} (RLIMIT_NOFILE, the hard limit): raise it")]
    TooFewFiles {
        /// How many are needed in all.
        needed: u64,
        /// The hard limit.
        hard: u64,
    },
    /// More descriptors than one handoff can move.
    #[error("{count} descriptors are offered; at most {MAX_DESCRIPTORS} can move")]
    TooManyDescriptors {
        /// How many.
        count: usize,
    },
    /// A text cannot name a descriptor.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A name was offered twice. Sockets that share a name are offered together.
    #[error("the name \"{0}\" is offered twice; offer sockets that share a name with one call of Offer::group")]
    DuplicateName(Name),
    /// A descriptor was taken as something that it is not.
    #[error("\"{name}\" is a {found}; it was to be taken as one of {wanted:?}")]
    WrongKind {
        /// Its name.
        name: Name,
        /// What it is.
        found: Kind,
        /// What it was to be.
        wanted: &'static [Kind],
    },
    /// One descriptor was to be taken where there are several.
    #[error("{count} descriptors have the name \"{name}\"; take them with take_all")]
    Several {
        /// Their name.
        name: Name,
        /// How many there are.
        count: usize,
    },
    /// The inherited socket is bound to another address than this program wants.
    #[error("\"{name}\" was inherited at {found}, and this program wants {wanted}: use a new name for a new address")]
    AddressChanged {
        /// Its name.
        name: String,
        /// Where it is bound.
        found: String,
        /// Where it was to be bound.
        wanted: String,
    },
    /// In strict mode: descriptors were handed over that this program did not take.
    #[error("nobody took the inherited descriptors {0:?}")]
    Unclaimed(Vec<String>),
    /// A state could not be handed over or read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The service closed the connection.
    #[error("the service closed the connection")]
    Disconnected,
    /// Whoever listens at the control socket does not answer.
    #[error("no answer within {after:?}: the service is stopped, or something else listens there")]
    NoAnswer {
        /// How long it had.
        after: Duration,
    },
    /// Whoever listens at the control socket says something that is not of this protocol.
    #[error("this is no fd-handoff service: {0}")]
    Garbled(WireError),
    /// The control object was closed, or its service has been handed over.
    #[error("this generation no longer owns the control socket")]
    Closed,
}

/// What is wrong with a control socket's path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PathProblem {
    /// It has no file name.
    #[error("it does not end in a file name")]
    NoName,
    /// Its directory does not exist.
    #[error("there is no such directory; create it")]
    NoDirectory,
    /// This user may not use it.
    #[error("permission denied; check the owner and mode of the directory and the socket")]
    Permission,
    /// Something else than a socket is there.
    #[error("something that is not a socket is there; move it away or choose another path")]
    NotASocket,
    /// Its last component is longer than a socket address holds.
    #[error("its file name has {0} bytes; a socket's name can have at most {max}", max = crate::core::wire::MAX_FILE_NAME)]
    NameTooLong(usize),
    /// A service listens there already.
    #[error("a service is running there; take it over with handoff_receive, or stop it")]
    AlreadyRunning,
    /// Nobody listens there, and the configuration forbids a cold start.
    #[error("nobody listens there, and the configuration forbids a cold start")]
    NobodyThere,
    /// Another process has been starting for longer than the lock timeout.
    #[error("another process has been starting here for {0:?}; see who holds the lock file beside it")]
    Starting(Duration),
    /// A system call failed.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What is wrong with a state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The memfd could not be made, sealed, read or mapped.
    #[error("cannot move the state: {0}")]
    Io(#[source] io::Error),
    /// The application's value could not be encoded.
    #[error("cannot encode the state: {0}")]
    Encode(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The bytes are not a value of the wanted type.
    #[error("cannot decode the state: {0}")]
    Decode(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The value ends before the bytes do.
    #[error("the state goes on for {left} bytes after the value: it was written by another version")]
    Trailing {
        /// How many bytes are left.
        left: usize,
    },
    /// It is encoded with another codec.
    #[error("the state is encoded as {found}; this program wants {wanted}")]
    Codec {
        /// The codec of the state.
        found: String,
        /// The codec of the call.
        wanted: &'static str,
    },
    /// It is longer or shorter than the peer said.
    #[error("the state has {found} bytes; {announced} were announced")]
    Length {
        /// What the peer said.
        announced: u64,
        /// What there is.
        found: u64,
    },
    /// It is not sealed, has to be copied for that, and there is no memory for so much.
    #[error(
        "there is no memory for a copy of {length} bytes, which the state needs since it is not sealed: have its sender seal \
         it (F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE), and it is mapped instead"
    )]
    TooMuchToCopy {
        /// Its length.
        length: u64,
    },
    /// What came is not a regular file: a pipe, a socket, a directory.
    #[error(
        "what was attached as state is not a regular file; its sender has to write it into a memfd (memfd_create(2))"
    )]
    NotAFile,
    /// It is larger than the protocol allows.
    #[error("the state has {length} bytes; at most {MAX_STATE} are allowed")]
    TooLarge {
        /// Its length.
        length: u64,
    },
    /// Its schema is not one that this program reads.
    #[error("the state has schema {found}; this program reads {accepted:?}")]
    Schema {
        /// The schema of the state.
        found: u32,
        /// The schemas that the configuration names.
        accepted: Vec<u32>,
    },
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
            cause @ (Cause::Died(_) | Cause::Closed(_)) if !had_everything => Error::PredecessorLost(cause),
            cause => Error::Handoff(cause),
        }
    }
}

/// A handoff that this predecessor did not complete, and who owns the service now.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct Failure {
    owner: Owner,
    #[source]
    cause: Error,
}

/// Who owns the service after a failed handoff.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Owner {
    /// This process, without a gap: it never stopped being the one that accepts.
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
