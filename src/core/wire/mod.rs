//! The control protocol's frames: text to types and back.
//!
//! A frame is one JSON object on one line, with its kind in `type`. This module knows what a frame
//! looks like and how large it may be; what may follow what is decided in the roles. Nothing
//! here does I/O. The specification is `protocol.md`.

mod manifest;
mod reader;
mod shape;
mod strict;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};

pub use reader::{FrameReader, Line};

/// The longest line, in bytes with its newline.
pub const MAX_LINE: usize = 131_072;
/// The most descriptors one handoff may move, the control listener among them.
pub const MAX_DESCRIPTORS: usize = 16_384;
/// The most descriptors one batch may carry. The kernel's own limit is 253 a message (`SCM_MAX_FD`).
pub const MAX_BATCH: usize = 252;
/// How many batches may be on their way unacknowledged. Two keep both sides busy, and stay far below the kernel's
/// limit of descriptors in flight, which is `RLIMIT_NOFILE` for each user.
pub const MAX_UNACKNOWLEDGED: u32 = 2;
/// The longest descriptor name, in bytes.
pub const MAX_NAME: usize = 64;
/// The longest free text (a reason, a message, a version), in bytes.
pub const MAX_TEXT: usize = 1_024;
/// The longest text that stands for one of several values (a kind, a code, a phase), in bytes.
pub const MAX_WORD: usize = 64;
/// The longest address of a socket as text, in bytes. The kernel's longest is an abstract name of 107 bytes; where
/// none of them is UTF-8, each is shown as three.
pub const MAX_ADDR: usize = 512;
/// How deep objects and lists may be nested in a line. The frames of this version take four.
pub const MAX_DEPTH: usize = 32;
/// The largest state, in bytes: 1 TiB.
pub const MAX_STATE: u64 = 1 << 40;
/// The most schemas a successor may name, and the most fingerprints.
pub const MAX_SCHEMAS: usize = 64;
/// The most services a successor may name.
pub const MAX_SERVICES: usize = 16;
/// The longest name of an instance, in bytes: that of a container is 64 hexadecimal digits.
pub const MAX_INSTANCE: usize = 128;
/// How many superseded instances a service remembers.
pub const MAX_SUPERSEDED: usize = 64;
/// The longest file name of a control socket, in bytes: a longer path is reached through
/// `/proc/self/fd/N/NAME`, and a socket address holds 107 bytes. See `unix(7)`.
pub const MAX_FILE_NAME: usize = 80;
/// How many attempts `history` keeps.
pub const MAX_HISTORY: usize = 16;
/// The most farewells one generation may say: its own, and those that it relays unread.
pub const MAX_FAREWELLS: usize = 64;

/// The protocol versions that this library speaks.
pub const PROTOCOL: VersionRange = VersionRange { min: 1, max: 1 };

/// The name of the control listener among the descriptors. Names that begin with `@` are the protocol's own.
pub const CONTROL_NAME: &str = "@control";

/// The name of the file whose lock the process holds that accepts.
pub const OWNER_NAME: &str = "@owner";

/// An inclusive range of protocol versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VersionRange {
    /// The lowest version.
    pub min: u32,
    /// The highest version.
    pub max: u32,
}

impl VersionRange {
    /// The highest version in both ranges.
    // M39
    pub fn negotiate(self, other: VersionRange) -> Option<u32> {
        let highest = self.max.min(other.max);
        (highest >= self.min.max(other.min)).then_some(highest)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max { write!(f, "{}", self.min) } else { write!(f, "{} to {}", self.min, self.max) }
    }
}

/// The name of a descriptor: 1 to 64 bytes of UTF-8 without control characters.
/// Cloning it is cheap: with thousands of listeners it is in several tables on either side.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Name(Arc<str>);

/// As text, so that a map by name is asked by text: both compare alike.
impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Name {
    /// The name of the control listener, `@control`.
    pub fn control() -> Name {
        Name(CONTROL_NAME.into())
    }

    /// The name of the file whose lock the process holds that accepts, `@owner`.
    pub fn owner() -> Name {
        Name(OWNER_NAME.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for Name {
    type Error = NameError;

    // M27
    fn try_from(name: &str) -> Result<Name, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > MAX_NAME {
            return Err(NameError::TooLong(name.len()));
        }
        if name.chars().any(char::is_control) {
            return Err(NameError::ControlCharacter(name.escape_debug().to_string()));
        }
        Ok(Name(name.into()))
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(name: String) -> Result<Name, NameError> {
        Name::try_from(name.as_str())
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0.as_ref().to_owned()
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        deserializer.deserialize_str(NameVisitor)
    }
}

/// Reads a name from where it stands, without a copy in between.
struct NameVisitor;

impl Visitor<'_> for NameVisitor {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Name, E> {
        Name::try_from(name).map_err(E::custom)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text cannot name a descriptor.
#[derive(Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// It has no characters.
    #[error("a descriptor's name must not be empty")]
    Empty,
    /// It has this many bytes, more than 64.
    #[error("a descriptor's name has {0} bytes; at most {MAX_NAME} are allowed")]
    TooLong(usize),
    /// It holds a control character.
    #[error("the descriptor name \"{0}\" has a control character in it")]
    ControlCharacter(String),
    /// It begins with `@`, which is the protocol's own.
    #[error("the descriptor name \"{0}\" begins with @; such names are reserved")]
    Reserved(String),
}

/// What a descriptor is, as the kernel tells it.
// M17
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// A listening TCP socket.
    TcpListener,
    /// Any other TCP socket.
    TcpStream,
    /// A UDP socket.
    UdpSocket,
    /// A listening Unix stream socket.
    UnixListener,
    /// Any other Unix stream socket.
    UnixStream,
    /// A Unix datagram socket.
    UnixDatagram,
    /// A listening Unix seqpacket socket.
    UnixSeqpacketListener,
    /// Any other Unix seqpacket socket.
    UnixSeqpacket,
    /// A regular file.
    File,
    /// A pipe or FIFO.
    Pipe,
    /// Anything else: a device, a directory, a timer, a socket of another family.
    #[serde(other)]
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::TcpListener => "TCP listener",
            Kind::TcpStream => "TCP stream",
            Kind::UdpSocket => "UDP socket",
            Kind::UnixListener => "Unix listener",
            Kind::UnixStream => "Unix stream",
            Kind::UnixDatagram => "Unix datagram socket",
            Kind::UnixSeqpacketListener => "Unix seqpacket listener",
            Kind::UnixSeqpacket => "Unix seqpacket socket",
            Kind::File => "file",
            Kind::Pipe => "pipe",
            Kind::Other => "descriptor of another kind",
        })
    }
}

/// A file's identity, from `fstat(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileId {
    /// The device.
    pub dev: u64,
    /// The inode.
    pub ino: u64,
}

/// One line of the manifest: a descriptor's name, and what the kernel says of it on the sender's side.
/// The receiver reads the same facts from what arrived, and the two must agree.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// The name.
    pub name: Name,
    /// Its place among the descriptors of this name, from 0.
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "strict::or_default")]
    pub index: u32,
    /// What it is.
    #[serde(deserialize_with = "strict::word")]
    pub kind: Kind,
    /// A socket's local address: `IP:PORT`, a path, or `@` and an abstract name. Absent where it has none.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "strict::optional_text::<MAX_ADDR, _>"
    )]
    pub addr: Option<String>,
    /// A socket's `SO_COOKIE`: no two sockets of one kernel share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<u64>,
    /// The `SO_NETNS_COOKIE` of the network namespace that a socket lives in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<u64>,
    /// The identity of anything that is not a socket.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "strict::optional_object")]
    pub file: Option<FileId>,
    /// What a Unix socket's path leads to, where the service itself has bound it: it is the service's to remove. Absent
    /// for one that was passed to it, and for everything else.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "strict::optional_object")]
    pub path: Option<FileId>,
    /// Whether it was passed to the service by whoever started it, who holds it still: what an application does not know is
    /// kept for the next one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not", deserialize_with = "strict::or_default")]
    pub passed: bool,
}

// serde's skip_serializing_if hands over a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(index: &u32) -> bool {
    *index == 0
}

/// What the service is doing, as `hello` and `status` say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Phase {
    /// It serves, and no handoff is under way.
    Serving,
    /// It serves, and gives copies of its descriptors to a successor.
    Offering,
    /// It serves, and the successor that has everything initialises.
    Initialising,
    /// It has stopped accepting and waits for the successor's `active`.
    Released,
    /// It serves nobody: its successor is silent, may be serving, and cannot be ended from here.
    Stranded,
    /// Its successor serves; its last connections end.
    Draining,
    /// A keeper has the service: nobody serves, and connections wait.
    Kept,
    /// A phase that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What is wrong, in a word that programs can compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// The peer's credentials are not allowed here.
    Denied,
    /// Another handoff is under way.
    Busy,
    /// No protocol version in common.
    Version,
    /// Not a frame: not JSON, a field missing or out of bounds, an unknown word.
    Malformed,
    /// A line longer than 131,072 bytes.
    TooLong,
    /// A frame of a type that this version does not know.
    UnknownType,
    /// A frame that may not come now.
    OutOfOrder,
    /// Known, but not offered by this service.
    Unsupported,
    /// A state whose schema or shape the successor does not read.
    Schema,
    /// A service of another name than those that the successor takes over.
    Name,
    /// The successor is an instance that another one has superseded.
    Superseded,
    /// Descriptors did not arrive, or are not what the manifest says.
    Descriptors,
    /// The peer took too long.
    Timeout,
    /// The service gave this connection's place to a newer one.
    Evicted,
    /// The peer's application gave up.
    Application,
    /// A code that this version does not know.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The wire form is the readable form; it is a bare JSON string.
        let text = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        f.write_str(text.trim_matches('"'))
    }
}

/// A description of one state: its memfd is attached to the frame that carries this.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StateInfo {
    /// Its length in bytes.
    pub length: u64,
    /// The application's schema number.
    pub schema: u32,
    /// How it is encoded; `raw` where only the application knows.
    #[serde(deserialize_with = "strict::text::<MAX_TEXT, _>")]
    pub codec: String,
    /// The fingerprint of its shape, where that was derived from its type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<u64>,
}

/// How one attempt at a handoff ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The successor serves.
    Completed,
    /// The successor took over from a predecessor that died.
    Orphaned,
    /// The predecessor never stopped serving.
    Failed,
    /// The predecessor had released, and serves again.
    TakenBack,
    /// The predecessor had released, and cannot tell who serves.
    OwnerUnknown,
    /// An outcome that this version does not know.
    #[serde(other)]
    Unknown,
}

/// One attempt at a handoff, for `history`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Attempt {
    /// The generation that gave, or would have given.
    pub from: u64,
    /// The successor's process id, as it sees itself.
    pub successor_pid: u32,
    /// The successor's instance, if it has said one.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "strict::optional_text::<MAX_INSTANCE, _>"
    )]
    pub instance: Option<String>,
    /// How it ended.
    #[serde(deserialize_with = "strict::word")]
    pub outcome: Outcome,
    /// Why, where it did not complete.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "strict::optional_text::<MAX_TEXT, _>"
    )]
    pub reason: Option<String>,
    /// When it began, in milliseconds since the Unix epoch.
    pub began_unix_ms: u64,
    /// From `receive` to the end of the attempt, in microseconds.
    pub total_us: u64,
    /// From `receive` until the successor had everything, in microseconds; absent, like each that follows, where
    /// it was not reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer_us: Option<u64>,
    /// From there to `ready`: the successor's initialisation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initialise_us: Option<u64>,
    /// From `ready` to the predecessor's `release`: its application stops accepting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_us: Option<u64>,
    /// From `release` to the successor's `active`, when neither accepted; absent as well where the two clocks
    /// cannot be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_us: Option<u64>,
    /// From `active` until the predecessor had said its last farewell, was gone, or had passed its drain deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_us: Option<u64>,
}

/// What happened, in an [`Event`]. Where a frame of the protocol is the news, it has that frame's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum News {
    /// Somebody asked for an upgrade.
    Upgrade,
    /// The service has started a new process.
    Spawned,
    /// The service waits for a new process that somebody else starts.
    Awaited,
    /// A successor asks for the service.
    Receive,
    /// A successor was turned away before anything was given.
    Refused,
    /// The successor has the descriptors and the snapshot, and initialises.
    Transferred,
    /// The successor says how its initialisation goes.
    Progress,
    /// The successor can serve.
    Ready,
    /// The service is the successor's: the predecessor accepts no more.
    Release,
    /// The successor serves.
    Active,
    /// The predecessor has connections left.
    Draining,
    /// The predecessor has drained.
    Farewell,
    /// The successor has stopped in good order, or another process serves after it.
    Settled,
    /// The handoff failed; the predecessor never stopped serving.
    Failed,
    /// The handoff failed after its release, and the predecessor serves again.
    TakenBack,
    /// The handoff failed after its release, and the predecessor cannot tell who serves.
    OwnerUnknown,
    /// The successor is silent, may be serving, and cannot be ended.
    Stranded,
    /// A keeper has everything, for the case that this process ends; or has the service, since this process ends.
    Kept,
    /// The service was told to stop.
    Stop,
    /// The control path does not lead to this process any more.
    PathLost,
    /// It leads here again.
    PathRestored,
    /// News that this version does not know.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As with the error codes.
        let text = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        f.write_str(text.trim_matches('"'))
    }
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As with the error codes.
        let text = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        f.write_str(text.trim_matches('"'))
    }
}

/// Defines a family of frames: the enum, its serialisation with `type` first, and a parser that looks at
/// `type` once and then reads the fields straight into their struct (serde's own internally tagged form
/// would buffer every field on the way in). A frame `by` a module is written there, and read there before anybody
/// looks at `type`.
macro_rules! frames {
    ($(#[$doc:meta])* $family:ident { $($(#[$variant_doc:meta])* $tag:literal => $variant:ident $(by $hand:ident)?,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
        #[serde(tag = "type")]
        #[non_exhaustive]
        pub enum $family {
            $($(#[$variant_doc])* #[serde(rename = $tag)] $variant($variant),)*
        }

        impl $family {
            /// The frame's `type`.
            pub fn tag(&self) -> &'static str {
                match self {
                    $($family::$variant(_) => $tag,)*
                }
            }
        }

        impl Frame for $family {
            fn tag(&self) -> &'static str {
                $family::tag(self)
            }

            // M14, M15, M16
            fn from_object(tag: &str, line: &str) -> Result<Self, WireError> {
                match tag {
                    $($tag => serde_json::from_str(line).map($family::$variant).map_err(|error| malformed(&error)),)*
                    other => Err(WireError::UnknownType(shorten(other, MAX_NAME))),
                }
            }

            fn by_hand(_line: &str) -> Option<Self> {
                $($(if let Some(frame) = $hand::read(_line) {
                    return Some(frame.into());
                })?)*
                None
            }

            fn to_object(&self) -> Vec<u8> {
                $($(if let $family::$variant(frame) = self {
                    return $hand::write(frame);
                })?)*
                // Every frame is a struct of numbers, texts and lists: nothing in it can fail to serialise.
                serde_json::to_vec(self).unwrap_or_default()
            }
        }

        $(impl From<$variant> for $family {
            fn from(frame: $variant) -> $family {
                $family::$variant(frame)
            }
        })*
    };
}

/// A family of frames: what one side sends and the other reads.
pub trait Frame: Serialize + Sized {
    /// The frame's `type`.
    fn tag(&self) -> &'static str;

    /// Reads a frame of the one kind that is written by hand, if the line is exactly as it is written here.
    fn by_hand(line: &str) -> Option<Self>;

    /// Reads the fields of a frame whose `type` is `tag`.
    fn from_object(tag: &str, line: &str) -> Result<Self, WireError>;

    /// The JSON object that is this frame.
    fn to_object(&self) -> Vec<u8>;

    /// Parses one line, without its newline.
    ///
    /// # Errors
    ///
    /// [`WireError`] says what is wrong with it.
    fn parse(line: &[u8]) -> Result<Self, WireError> {
        if line.len() >= MAX_LINE {
            return Err(WireError::TooLong);
        }
        let line = std::str::from_utf8(line).map_err(|_| WireError::Malformed("not UTF-8".to_owned()))?;
        if let Some(frame) = Self::by_hand(line) {
            return Ok(frame);
        }
        shape::check(line)?;
        let tagged: Tagged<'_> = serde_json::from_str(line).map_err(|error| malformed(&error))?;
        Self::from_object(&tagged.tag, line)
    }

    /// The line that carries this frame, with its newline.
    // M10
    fn to_line(&self) -> Vec<u8> {
        let mut line = self.to_object();
        line.push(b'\n');
        line
    }
}

/// What any frame has.
#[derive(Deserialize)]
struct Tagged<'a> {
    #[serde(rename = "type", borrow)]
    tag: std::borrow::Cow<'a, str>,
}

frames! {
    /// What a client of the control socket sends: a person's words and a successor's frames.
    ClientFrame {
        /// Asks for the words that work here.
        "help" => Help,
        /// Asks what the service is doing.
        "status" => GetStatus,
        /// Asks for events as they happen.
        "watch" => Watch,
        /// Asks the service to replace itself.
        "upgrade" => Upgrade,
        /// Asks the service to stop.
        "stop" => Stop,
        /// Asks for the service: begins a handoff.
        "receive" => Receive,
        /// Acknowledges a batch of descriptors.
        "received" => Received,
        /// Says how the successor's initialisation goes, and asks for more time.
        "progress" => Progress,
        /// The successor can serve.
        "ready" => Ready,
        /// The successor serves.
        "active" => Active,
        /// The successor stops in good order: nobody is to take back.
        "settled" => Settled,
        /// Gives up, with the reason.
        "abort" => Abort,
    }
}

frames! {
    /// What the process behind a control socket sends.
    ServerFrame {
        /// The greeting.
        "hello" => Hello,
        /// The words that work here.
        "help" => HelpText,
        /// What the service is doing.
        "status" => Status,
        /// What was wrong with a request.
        "error" => Failure,
        /// Something happened.
        "event" => Event,
        /// How the upgrade ended that this client asked for.
        "outcome" => Concluded,
        /// The service stops, as it was asked to.
        "stopping" => Stopping,
        /// What a handoff will carry. The predecessor's pidfd is attached where `pidfd` says so.
        "offer" => Offer,
        /// One batch of descriptors, attached in the order of the entries.
        "descriptors" => Descriptors by manifest,
        /// The snapshot. Its memfd is attached.
        "state" => Snapshot,
        /// What a keeper has is not what is served any more.
        "renew" => Renew,
        /// The predecessor has stopped accepting: the commit point. The final state's memfd is attached, if there is one.
        "release" => Release,
        /// How many connections the predecessor still has.
        "draining" => Draining,
        /// The predecessor has drained. The last state's memfd is attached, if there is one.
        "farewell" => Farewell,
        /// Gives up, with the reason.
        "abort" => Abort,
    }
}

macro_rules! empty_frames {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        $($(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub struct $name {})*
    };
}

empty_frames! {
    /// The fields of `help`, asked.
    Help,
    /// The fields of `status`, asked.
    GetStatus,
    /// The fields of `watch`.
    Watch,
    /// The fields of `stop`.
    Stop,
    /// The fields of `stopping`.
    Stopping,
    /// The fields of `ready`.
    Ready,
    /// The fields of `active`.
    Active,
    /// The fields of `renew`.
    Renew,
}

/// The fields of `settled`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Settled {
    /// Why the successor's end will be no reason to take back.
    #[serde(deserialize_with = "strict::word")]
    pub ending: Ending,
}

/// How a process leaves a service in good order. Whatever is neither is a crash, and is not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ending {
    /// It was told to stop: nobody is to serve.
    Stopped,
    /// Its own successor serves, and is past its probation.
    HandedOver,
    /// An ending that this version does not know.
    #[serde(other)]
    Unknown,
}

/// The fields of `upgrade`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Upgrade {
    /// How long the new process may take until it asks for the service, in milliseconds, where that is to be another
    /// time than the service's own deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// The fields of `receive`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Receive {
    /// The protocol versions that the successor speaks.
    #[serde(deserialize_with = "strict::object")]
    pub protocol: VersionRange,
    /// Its process id, as it sees itself.
    pub pid: u32,
    /// The application's version.
    pub version: String,
    /// The state schemas that it reads.
    pub schemas: Vec<u32>,
    /// The fingerprints of the shapes that it reads; absent where it looks at what comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprints: Option<Vec<u64>>,
    /// The names of the services that it takes over; absent where it takes any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<String>>,
    /// Whether it is a keeper: it holds everything, serves nobody, and gives it to the next process.
    #[serde(default, skip_serializing_if = "std::ops::Not::not", deserialize_with = "strict::or_default")]
    pub standby: bool,
    /// Who it is to its operator: its container, its unit. Absent where nothing is certain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Whether it takes the service though it was superseded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not", deserialize_with = "strict::or_default")]
    pub take: bool,
}

/// The fields of `received`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Received {
    /// The batch that arrived whole.
    pub batch: u32,
}

/// The fields of `progress`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Progress {
    /// What the successor is doing, for people.
    pub message: String,
}

/// The fields of `abort`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Abort {
    /// What kind of reason.
    #[serde(deserialize_with = "strict::word")]
    pub code: ErrorCode,
    /// The reason, for people.
    pub reason: String,
}

/// The fields of `hello`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Hello {
    /// The protocol versions that the service speaks.
    #[serde(deserialize_with = "strict::object")]
    pub protocol: VersionRange,
    /// The service's name.
    #[serde(deserialize_with = "strict::text::<MAX_TEXT, _>")]
    pub name: String,
    /// The application's version.
    #[serde(deserialize_with = "strict::text::<MAX_TEXT, _>")]
    pub version: String,
    /// Its process id, as it sees itself.
    pub pid: u32,
    /// Its generation, from 1.
    pub generation: u64,
    /// What it is doing.
    #[serde(deserialize_with = "strict::word")]
    pub phase: Phase,
    /// Whether somebody has chosen the name; `false` where it is merely the program's. Absent: yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<bool>,
    /// The instance that serves; of a kept service, the one that has served last.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "strict::optional_text::<MAX_INSTANCE, _>"
    )]
    pub instance: Option<String>,
}

/// The fields of the answer to `help`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HelpText {
    /// Each word and what it does.
    pub words: std::collections::BTreeMap<String, String>,
}

/// One descriptor in `status`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FdStatus {
    /// Its name.
    pub name: Name,
    /// What it is.
    #[serde(deserialize_with = "strict::word")]
    pub kind: Kind,
    /// Its local address, where it has one.
    #[serde(default, deserialize_with = "strict::optional_text::<MAX_ADDR, _>")]
    pub addr: Option<String>,
    /// The `SO_NETNS_COOKIE` of the network namespace that it lives in, where it is an internet socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<u64>,
}

/// The handoff under way, in `status`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SuccessorStatus {
    /// The successor's process id, as it sees itself.
    pub pid: u32,
    /// The application's version.
    #[serde(deserialize_with = "strict::text::<MAX_TEXT, _>")]
    pub version: String,
    /// Its last word on how its initialisation goes.
    #[serde(default, deserialize_with = "strict::optional_text::<MAX_TEXT, _>")]
    pub progress: Option<String>,
    /// Its instance, if it has said one.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "strict::optional_text::<MAX_INSTANCE, _>"
    )]
    pub instance: Option<String>,
}

/// The drain of the generation before this one, in `status`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PredecessorStatus {
    /// The predecessor's process id, as it sees itself.
    pub pid: u32,
    /// How many connections it still has, as it last said.
    pub connections: Option<u64>,
}

/// Who keeps the service for the case that its process ends, in `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KeeperStatus {
    /// The keeper's process id, as it sees itself.
    pub pid: u32,
    /// Whether it has everything that is served now.
    pub holds: bool,
}

/// A service that a keeper has, in `status`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct KeptStatus {
    /// For how many milliseconds nobody has served.
    pub for_ms: u64,
    /// Why, for people.
    #[serde(deserialize_with = "strict::text::<MAX_TEXT, _>")]
    pub reason: String,
    /// How many connections wait at its TCP listeners, as the kernel counts them.
    pub waiting: u64,
}

/// The fields of the answer to `status`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// The service's name.
    #[serde(deserialize_with = "strict::text::<MAX_TEXT, _>")]
    pub name: String,
    /// The application's version.
    #[serde(deserialize_with = "strict::text::<MAX_TEXT, _>")]
    pub version: String,
    /// Its process id, as it sees itself.
    pub pid: u32,
    /// Its generation, from 1.
    pub generation: u64,
    /// What it is doing.
    #[serde(deserialize_with = "strict::word")]
    pub phase: Phase,
    /// Milliseconds since it became able to serve.
    pub uptime_ms: u64,
    /// The descriptors that it has named: as many as fit the line.
    #[serde(deserialize_with = "strict::objects")]
    pub fds: Vec<FdStatus>,
    /// How many it has named.
    pub fd_count: u64,
    /// The last attempts at a handoff, oldest first.
    #[serde(deserialize_with = "strict::objects")]
    pub history: Vec<Attempt>,
    /// The handoff under way.
    #[serde(default, deserialize_with = "strict::optional_object")]
    pub successor: Option<SuccessorStatus>,
    /// The generation before, while it drains.
    #[serde(default, deserialize_with = "strict::optional_object")]
    pub predecessor: Option<PredecessorStatus>,
    /// Why nobody reaches the service's sockets, if their network namespace has no way out any more.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "strict::optional_text::<MAX_TEXT, _>"
    )]
    pub cut_off: Option<String>,
    /// Who keeps the service for the case that this process ends.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "strict::optional_object")]
    pub keeper: Option<KeeperStatus>,
    /// As in `hello`.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "strict::optional_text::<MAX_INSTANCE, _>"
    )]
    pub instance: Option<String>,
    /// What is known of a service that this process, a keeper, has, and that nobody serves.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "strict::optional_object")]
    pub kept: Option<KeptStatus>,
    /// Why the control path does not lead to this process, if it does not: nobody finds it there, and no upgrade begins.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "strict::optional_text::<MAX_TEXT, _>"
    )]
    pub path_lost: Option<String>,
}

/// The fields of `event`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// What happened.
    #[serde(deserialize_with = "strict::word")]
    pub event: News,
    /// The generation that gives, or that drains.
    pub generation: u64,
    /// The process that it is about, as that sees its id: the one that takes, or that drains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// That process's instance, if it has said one.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "strict::optional_text::<MAX_INSTANCE, _>"
    )]
    pub instance: Option<String>,
    /// Microseconds since the handoff began, with `receive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elapsed_us: Option<u64>,
    /// How many connections are left, where it drains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// The same for people, with whatever else is to be said.
    #[serde(deserialize_with = "strict::text::<MAX_TEXT, _>")]
    pub message: String,
}

/// The fields of `outcome`: the attempt, as `history` has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Concluded {
    /// The attempt.
    #[serde(flatten)]
    pub attempt: Attempt,
}

/// The fields of `error`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of error.
    #[serde(deserialize_with = "strict::word")]
    pub code: ErrorCode,
    /// What is wrong and what to do, for people.
    pub message: String,
}

/// The fields of `offer`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Offer {
    /// The protocol version that both speak from here on.
    pub protocol: u32,
    /// The predecessor's generation.
    pub generation: u64,
    /// The predecessor's process id, as it sees itself.
    pub pid: u32,
    /// Whether its pidfd is attached to this frame.
    pub pidfd: bool,
    /// How many descriptors will come.
    pub descriptors: u32,
    /// In how many batches.
    pub batches: u32,
    /// The snapshot that will come after them, if any.
    #[serde(default, deserialize_with = "strict::optional_object")]
    pub state: Option<StateInfo>,
    /// The identity of the control socket's path, so that nobody removes a path that is not the service's.
    #[serde(default, deserialize_with = "strict::optional_object")]
    pub path: Option<FileId>,
    /// How long the successor has from here to `ready`, or to its next `progress`, in milliseconds.
    pub ready_timeout_ms: u64,
    /// How long it has from `release` to `active`, in milliseconds.
    pub active_timeout_ms: u64,
    /// How long the predecessor may drain, in milliseconds.
    pub drain_timeout_ms: u64,
    /// The last attempts at a handoff, oldest first.
    #[serde(deserialize_with = "strict::objects")]
    pub history: Vec<Attempt>,
    /// The instance that serves, or has served last.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "strict::optional_text::<MAX_INSTANCE, _>"
    )]
    pub instance: Option<String>,
    /// Those that were superseded, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "strict::or_default")]
    pub superseded: Vec<String>,
}

/// The fields of `descriptors`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Descriptors {
    /// The batch's number, from 0.
    pub batch: u32,
    /// The manifest of the attached descriptors, in their order.
    #[serde(deserialize_with = "strict::objects")]
    pub entries: Vec<Arc<Entry>>,
}

/// The fields of `state`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Snapshot {
    /// What is attached.
    #[serde(deserialize_with = "strict::object")]
    pub state: StateInfo,
}

/// The fields of `release`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Release {
    /// The final state, if there is one.
    #[serde(default, deserialize_with = "strict::optional_object")]
    pub state: Option<StateInfo>,
    /// When the predecessor released, in microseconds of its `CLOCK_MONOTONIC`.
    pub monotonic_us: u64,
    /// The id of its time namespace, without which the clocks cannot be compared.
    pub timens: Option<u64>,
}

/// The fields of `draining`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Draining {
    /// How many connections are left.
    pub connections: u64,
}

/// The fields of `farewell`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Farewell {
    /// The last state, if there is one.
    #[serde(default, deserialize_with = "strict::optional_object")]
    pub state: Option<StateInfo>,
    /// Whether another farewell follows.
    pub more: bool,
}

/// What is wrong with a line.
#[derive(Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// It has 131,072 bytes or more.
    #[error("a line is longer than {MAX_LINE} bytes")]
    TooLong,
    /// It is not a frame.
    #[error("not a frame: {0}")]
    Malformed(String),
    /// It is a `receive`, and malformed: whoever sends it is a successor, which is not to be left waiting.
    #[error("not a frame: {0}")]
    MalformedReceive(String),
    /// Its `type` is not known to this version.
    #[error("no frame has the type \"{0}\"")]
    UnknownType(String),
    /// Descriptors came with it, or between frames, where none belong.
    #[error("descriptors came where none belong")]
    StrayDescriptors,
    /// The kernel could not deliver all the descriptors that were sent (`MSG_CTRUNC`).
    #[error(
        "the kernel dropped descriptors on the way (MSG_CTRUNC): this process is at its limit of open files, or a security module forbids them"
    )]
    Truncated,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl WireError {
    /// Whether the lines behind this one can still be read.
    pub fn leaves_the_stream_whole(&self) -> bool {
        matches!(self, WireError::Malformed(_) | WireError::UnknownType(_))
    }

    /// The code that tells it to the peer.
    pub fn code(&self) -> ErrorCode {
        match self {
            WireError::TooLong => ErrorCode::TooLong,
            WireError::Malformed(_) | WireError::MalformedReceive(_) => ErrorCode::Malformed,
            WireError::UnknownType(_) => ErrorCode::UnknownType,
            WireError::StrayDescriptors | WireError::Truncated => ErrorCode::Descriptors,
            WireError::Broken(_) => ErrorCode::Application,
        }
    }
}

fn malformed(error: &serde_json::Error) -> WireError {
    WireError::Malformed(shorten(&error.to_string(), MAX_TEXT / 2))
}

/// The beginning of `text`, at most `max` bytes of it, without control characters.
pub fn shorten(text: &str, max: usize) -> String {
    let mut short = String::with_capacity(text.len().min(max));
    for character in text.chars() {
        if short.len() + character.len_utf8() > max {
            break;
        }
        short.push(if character.is_control() { ' ' } else { character });
    }
    short
}

/// A line from a client: a frame, or one of the words that people type.
///
/// # Errors
///
/// [`WireError`] says what is wrong with it.
// M18
pub fn parse_client_line(line: &[u8]) -> Result<ClientFrame, WireError> {
    let line = trim(line);
    if line.first() == Some(&b'{') {
        return ClientFrame::parse(line).map_err(|error| match error {
            WireError::Malformed(problem) if is_receive(line) => WireError::MalformedReceive(problem),
            error => error,
        });
    }
    match line {
        b"help" => Ok(Help {}.into()),
        b"status" => Ok(GetStatus {}.into()),
        b"watch" => Ok(Watch {}.into()),
        b"upgrade" => Ok(Upgrade::default().into()),
        b"stop" => Ok(Stop {}.into()),
        other => Err(WireError::Malformed(format!(
            "\"{}\" is neither a JSON object nor one of the words help, status, watch, upgrade, stop",
            shorten(&String::from_utf8_lossy(other), MAX_NAME)
        ))),
    }
}

/// Whether what is wrong with a line is not its `type`, and that is `receive`.
// M99
fn is_receive(line: &[u8]) -> bool {
    serde_json::from_slice::<Tagged<'_>>(line).is_ok_and(|tagged| tagged.tag == "receive")
}

/// A line without the white space at its ends. White space is what it is in JSON, and nothing else: space, tab, carriage
/// return, line feed.
// M94
fn trim(line: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    let Some(start) = line.iter().position(is_text) else { return &[] };
    let end = line.iter().rposition(is_text).unwrap_or(start);
    &line[start..=end]
}
