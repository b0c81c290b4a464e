//! What both roles in a handoff have in common.
//!
//! Each role is a state machine that does no I/O and reads no clock. There is one way in,
//! [`Role::handle`], and one way out, [`Role::poll_output`]: after each input, drain the outputs until
//! there are none, then wait for bytes, for the peer's death or for [`Role::deadline`], whichever comes
//! first. The machines are generic over the descriptor, so that tests, the model and the fuzzer run them
//! with plain numbers.
//!
//! The one invariant: **a predecessor accepts until it says `release`, and again only after the kernel
//! said that its successor is dead, or the successor itself said `abort`; a successor accepts only after it
//! has read `release`, or after the kernel said that its predecessor died without saying it.**

use std::time::{Duration, Instant};

use crate::core::wire::{ErrorCode, Frame, StateInfo, WireError};

/// How long a peer that closed its connection is given to turn out dead rather than alive. The kernel
/// closes a dying process's descriptors before it marks it dead.
pub const CLOSE_GRACE: Duration = Duration::from_millis(250);

/// A role in a handoff, as a state machine.
pub trait Role: Sized {
    /// A descriptor.
    type Fd;
    /// What the peer sends.
    type Incoming: Frame;
    /// What this side sends.
    type Outgoing: Frame;
    /// What the application asks for.
    type Command;
    /// What the application is told.
    type Event;

    /// The command to give up.
    #[cfg(feature = "fault-injection")]
    fn give_up(reason: &str) -> Self::Command;

    /// Takes in one input. The only way in.
    fn handle(&mut self, now: Instant, input: Input<Self>);

    /// The next thing to do. The only way out.
    fn poll_output(&mut self) -> Option<Output<Self::Outgoing, Self::Fd, Self::Event>>;

    /// When to hand in [`Input::Timeout`], if nothing else happens before.
    fn deadline(&self) -> Option<Instant>;
}

/// What can happen to a role.
#[derive(Debug)]
pub enum Input<R: Role> {
    /// A frame arrived, with its descriptors.
    Frame(R::Incoming, Vec<R::Fd>),
    /// Something arrived that is not a frame, or the connection broke. Nothing more will be read.
    Garbled(WireError),
    /// The peer closed its end, after everything that it sent was handed in.
    Eof,
    /// The kernel says that the peer is dead, after everything that it sent was handed in.
    Died,
    /// The deadline has passed.
    Timeout,
    /// How [`Output::Fence`] went: whether the kernel took the signal.
    Fenced(bool),
    /// How [`Output::Claim`] went: `false` where another process owns the service.
    Claimed(bool),
    /// Of this frame not a byte has left, and the kernel will not take it now. It stays in the queue, to be tried again,
    /// unless the role [withdraws](Output::Withdraw) it.
    Unsent {
        /// The frame's type.
        frame: &'static str,
        /// What the kernel says, or that the peer reads nothing.
        reason: String,
    },
    /// The application wants something.
    Command(R::Command),
}

/// What a role wants done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Output<Frame, Fd, Event> {
    /// Send this frame, with these descriptors on its first byte.
    Send(Frame, Vec<Fd>),
    /// Tell the application.
    Event(Event),
    /// End the peer through its pidfd, and say how that went with [`Input::Fenced`].
    Fence,
    /// Take the lock that the owner of the service holds, and say how that went with [`Input::Claimed`]: at once, before
    /// anything else is handed in. Where there is no such lock, it was taken.
    Claim,
    /// Give that lock up: this side does not accept.
    Disclaim,
    /// Forget the frames in the queue of which not a byte has left.
    Withdraw,
}

/// A state on its way: its description and its memfd.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Packet<F> {
    /// What it is.
    pub info: StateInfo,
    /// Where it is.
    pub memfd: F,
}

/// How long each side waits for the other. The defaults are those of [`crate::Timeouts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Waits {
    /// The successor, from `receive` to `offer`.
    pub offer: Duration,
    /// Either side, for the next step of the transfer.
    pub transfer: Duration,
    /// The predecessor, from the end of the transfer or the last `progress` to `ready`.
    pub ready: Duration,
    /// The successor, from `ready` to `release`.
    pub release: Duration,
    /// The predecessor, from `release` to `active`.
    pub active: Duration,
    /// How long the predecessor may drain.
    pub drain: Duration,
    /// How long after `active` the predecessor goes on watching its successor, though it has drained.
    pub probation: Duration,
}

/// Why a handoff ended, in one side's eyes.
#[derive(Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The kernel says that the peer is dead.
    #[error("the {0} died")]
    Died(Peer),
    /// The peer closed the connection without a word, and lives, as far as the kernel can tell.
    #[error("the {0} closed the connection without a word")]
    Closed(Peer),
    /// The peer gave up.
    #[error("the {peer} gave up ({code}): {reason}")]
    Aborted {
        /// Who gave up.
        peer: Peer,
        /// What kind of reason it gave.
        code: ErrorCode,
        /// The reason.
        reason: String,
    },
    /// The other side refused the request.
    #[error("{message}")]
    Refused {
        /// What kind of refusal.
        code: ErrorCode,
        /// What it said.
        message: String,
    },
    /// The peer did not do in time what it was to do next.
    #[error("the {peer} did not say {awaited} within {after:?}")]
    Late {
        /// Who was late.
        peer: Peer,
        /// What it was to say.
        awaited: &'static str,
        /// How long it had.
        after: Duration,
    },
    /// The peer sent something that is not a frame, or the connection broke.
    #[error("cannot go on with the {0}: {1}")]
    Garbled(Peer, WireError),
    /// The peer sent a frame that may not come now.
    #[error("the {peer} sent {frame} out of order")]
    OutOfOrder {
        /// Who sent it.
        peer: Peer,
        /// Its type.
        frame: &'static str,
    },
    /// A frame came with more or fewer descriptors than it says.
    #[error(
        "{frame} arrived with {arrived} of {expected} descriptors: something between the two processes \
         does not pass descriptors on (a relay such as socat, or a security module)"
    )]
    DescriptorsLost {
        /// The frame's type.
        frame: &'static str,
        /// How many it was to carry.
        expected: usize,
        /// How many came.
        arrived: usize,
    },
    /// The peer passed a documented limit, or contradicts itself.
    #[error("the {0} broke the protocol: {1}")]
    Violation(Peer, String),
    /// What arrived is not what the manifest says, or may not be used here.
    #[error("{0}")]
    Mismatch(String),
    /// The successor reads other schemas than the one offered.
    #[error(
        "the state has schema {offered}; the successor reads {accepted:?}: have it read that one too, and say so with \
         Config::schemas"
    )]
    Schema {
        /// The schema of the state.
        offered: u32,
        /// The schemas that the successor named.
        accepted: Vec<u32>,
    },
    /// The successor reads types of other shapes than the one offered.
    #[error(
        "the state has a shape of fingerprint {offered:016x}; the successor reads {accepted:016x?}: its type has changed between \
         the two versions. Have the successor read the type of before as well, and say so with Config::reads; or number \
         the shapes with State::schema and Config::schemas"
    )]
    Fingerprint {
        /// The fingerprint of the state's shape.
        offered: u64,
        /// Those that the successor named.
        accepted: Vec<u64>,
    },
    /// The service that runs at the control socket is another one than those that this program takes over.
    #[error(
        "the service that runs here is {found:?}, and this program takes over {wanted:?} alone: is it the right control \
         socket? If so, have it say Config::replaces({found:?})"
    )]
    OtherService {
        /// The name of the service that runs.
        found: String,
        /// The names of those that this program takes over.
        wanted: Vec<String>,
    },
    /// A frame could not be sent: not a byte of it has left.
    #[error("cannot send {frame}: {reason}")]
    Unsent {
        /// Its type.
        frame: &'static str,
        /// What the kernel says.
        reason: String,
    },
    /// What this keeper has is not what is served any more.
    #[error("what this keeper has is not what is served any more")]
    Renewed,
    /// The other side is dead, and another process that could take its place was faster.
    #[error("the {0} died, and another process serves in its place: start again, to take over from that one")]
    Outrun(Peer),
    /// The application, or the library on its behalf, gave up here.
    #[error("{0}")]
    Here(String),
}

impl Cause {
    /// The code that tells it to the peer.
    pub fn code(&self) -> ErrorCode {
        match self {
            Cause::Died(_)
            | Cause::Closed(_)
            | Cause::Here(_)
            | Cause::Unsent { .. }
            | Cause::Renewed
            | Cause::Outrun(_) => ErrorCode::Application,
            Cause::Aborted { code, .. } | Cause::Refused { code, .. } => *code,
            Cause::Late { .. } => ErrorCode::Timeout,
            Cause::Garbled(_, error) => error.code(),
            Cause::OutOfOrder { .. } => ErrorCode::OutOfOrder,
            Cause::DescriptorsLost { .. } | Cause::Mismatch(_) => ErrorCode::Descriptors,
            Cause::Violation(..) => ErrorCode::Malformed,
            Cause::Schema { .. } | Cause::Fingerprint { .. } => ErrorCode::Schema,
            Cause::OtherService { .. } => ErrorCode::Name,
        }
    }
}

/// One of the two roles, in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// The process that gives.
    Predecessor,
    /// The process that takes.
    Successor,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Peer::Predecessor => "predecessor",
            Peer::Successor => "successor",
        })
    }
}

/// Checks that a frame came with as many descriptors as it says.
// M25
pub(super) fn expect_descriptors<F>(frame: &'static str, expected: usize, fds: &[F]) -> Result<(), Cause> {
    if fds.len() == expected {
        return Ok(());
    }
    Err(Cause::DescriptorsLost { frame, expected, arrived: fds.len() })
}
