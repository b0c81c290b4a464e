//! State on its way between generations: a sealed memfd, and the codec that fills it.
//!
//! The state is written once into a memfd, which the kernel hands over as a descriptor: there is no limit from
//! a socket's buffer, and the receiver maps it instead of copying it. See `memfd_create(2)` and the seals in
//! `fcntl(2)`.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

#[cfg(feature = "bincode")]
pub(crate) mod shape;

#[cfg(feature = "bincode")]
use shape::Shape;

use crate::core::Packet;
use crate::core::wire::{MAX_STATE, StateInfo};
use crate::error::{Result, StateError};
use crate::sys::file;

/// How much is collected before it is written.
const BUFFER: usize = 256 * 1024;

/// The codec's name for bytes that only the application understands.
const RAW: &str = "raw";
/// The codec's name for `bincode` 2 through its own traits, `bincode::config::standard()`.
#[cfg(feature = "bincode")]
const BINCODE: &str = "bincode2";
/// How much one value of a state of this many bytes may take in memory, a thousand times its size: a length
/// that is read from garbage is not to be allocated. bincode knows its limits at compile time, so there are two.
#[cfg(feature = "bincode")]
const SMALL: (usize, usize) = (1 << 20, 1 << 30);
/// How much a larger one may take: bounds that keep arithmetic and allocator in their range.
#[cfg(feature = "bincode")]
const LARGE: usize = isize::MAX as usize >> 12;
/// The codec's name for `bincode` 2 through serde's traits, `bincode::config::standard()`.
#[cfg(feature = "bincode")]
const BINCODE_SERDE: &str = "bincode2+serde";

type Encoder =
    Box<dyn FnOnce(&mut dyn Write) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> + Send>;

/// A state to hand over. It is encoded only when the library asks for it, in the async form on a thread for
/// blocking work.
pub struct State {
    schema: u32,
    /// What derives the fingerprint of its shape from its type.
    fingerprint: Option<Fingerprint>,
    codec: &'static str,
    write: Encoder,
}

type Fingerprint = fn() -> Result<u64, StateError>;

impl State {
    /// A value, through serde's traits. Encoding a value through [`State::bincode`] is several times as fast.
    ///
    /// Its fields are written one after the other, without their names. So that no state is read as another type than it was
    /// written as, it goes with a fingerprint of the type's shape: the names of its structures, fields and variants, their
    /// types and their order. [`Received::serde`] reads it only as a type of that shape, so a field that moves, or is renamed, is
    /// an error and not a wrong number. With a [schema](State::schema) of the application's own there is no fingerprint.
    ///
    /// The shape is what the type's `Deserialize` asks for when it is fed values that mean nothing. All that serde derives is
    /// seen. What somebody has written is seen as far as these values lead it: one that decides by a value what it reads next is
    /// seen on one of its ways, and has to be numbered. One that reads nothing but particular texts hides what comes after it in a
    /// tuple or a map, and one that asks the format what comes (`#[serde(untagged)]`) cannot be read by this codec at all: such a
    /// type fails the handoff with [`StateError::Unseen`] until it has a schema, and [`Config::reads`](crate::Config::reads) finds
    /// that out at the start. What a number means is no part of its shape: name a field anew that means something else.
    #[cfg(feature = "bincode")]
    pub fn serde<T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static>(value: T) -> State {
        let state = State::write(BINCODE_SERDE, move |out| {
            let mut out = out;
            bincode::serde::encode_into_std_write(value, &mut out, bincode::config::standard())?;
            Ok(())
        });
        State { fingerprint: Some(|| Ok(shape_of::<T>()?.fingerprint())), ..state }
    }

    /// A value, through bincode's own traits (`#[derive(bincode::Encode)]`), which show nothing of the type's shape: `schema`
    /// is the application's number for it, from 1, see [`State::schema`]. Change it whenever the type changes.
    #[cfg(feature = "bincode")]
    pub fn bincode<T: bincode::Encode + Send + 'static>(schema: u32, value: T) -> State {
        let state = State::write(BINCODE, move |out| {
            let mut out = out;
            bincode::encode_into_std_write(value, &mut out, bincode::config::standard())?;
            Ok(())
        });
        state.schema(schema)
    }

    /// Bytes from any other codec.
    pub fn bytes(bytes: impl AsRef<[u8]> + Send + 'static) -> State {
        State::write(RAW, move |out| Ok(out.write_all(bytes.as_ref())?))
    }

    /// Whatever `write` writes: a large state need not stand in memory twice.
    pub fn writer<E>(write: impl FnOnce(&mut dyn Write) -> std::result::Result<(), E> + Send + 'static) -> State
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        State::write(RAW, move |out| Ok(write(out)?))
    }

    /// The application's number for the shape of this state; 0 where it says none. A successor names the
    /// schemas that it reads with [`Config::schemas`](crate::Config::schemas).
    ///
    /// A state from `State::serde` needs none, until a new version is to read it under another name. With one, it is for the
    /// application to know which type each number stands for.
    #[must_use]
    pub fn schema(mut self, schema: u32) -> State {
        self.schema = schema;
        self
    }

    fn write(
        codec: &'static str,
        write: impl FnOnce(&mut dyn Write) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>
        + Send
        + 'static,
    ) -> State {
        State { schema: 0, fingerprint: None, codec, write: Box::new(write) }
    }

    /// The fingerprint of its shape, where the application has no number for it. A codec of ours without either is not
    /// to be read by anybody.
    // M142
    fn fingerprint(&self) -> Result<Option<u64>, StateError> {
        match (self.schema, self.fingerprint) {
            (0, Some(derive)) => derive().map(Some),
            (0, None) if self.codec != RAW => Err(StateError::NoSchema { codec: self.codec.to_owned() }),
            _ => Ok(None),
        }
    }

    /// Encodes into a sealed memfd. Takes as long as the codec takes.
    // M60, M103
    pub(crate) fn seal(self) -> Result<Packet<OwnedFd>, StateError> {
        let fingerprint = self.fingerprint()?;
        let memfd = file::memfd(c"fd-handoff state").map_err(StateError::io("memfd_create"))?;
        encode_into(&memfd, self.write)?;
        let length = memfd.metadata().map_err(StateError::io("fstat"))?.len();
        if length > MAX_STATE {
            return Err(StateError::TooLarge { length });
        }
        file::seal(&memfd).map_err(StateError::io("fcntl(F_ADD_SEALS)"))?;
        let info = StateInfo { length, schema: self.schema, codec: self.codec.to_owned(), fingerprint };
        Ok(Packet { info, memfd: memfd.into() })
    }
}

fn encode_into(file: &File, write: Encoder) -> Result<(), StateError> {
    let mut sink = Sink { file, failed: None };
    let mut out = BufWriter::with_capacity(BUFFER, &mut sink);
    let encoded = caught(|| write(&mut out)).unwrap_or_else(|panic| Err(panic.into()));
    let flushed = if encoded.is_ok() { out.flush() } else { Ok(()) };
    // Whatever is left in it could not be written, or is not wanted.
    drop(out.into_parts());
    // A codec makes an error of its own of this one, in which the kernel's is hard to find.
    if let Some(source) = sink.failed {
        return Err(StateError::Io { call: "write to a memfd", source });
    }
    encoded.map_err(StateError::Encode)?;
    flushed.map_err(StateError::io("write to a memfd"))
}

/// Writes to a file, and keeps what the kernel said when it would not.
struct Sink<'a> {
    file: &'a File,
    failed: Option<io::Error>,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).inspect_err(|error| {
            let lasting = error.kind() != io::ErrorKind::Interrupted;
            self.failed = error.raw_os_error().filter(|_| lasting).map(io::Error::from_raw_os_error);
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs code of the application's. A panic in it is an error of what it was to do, not the end of the service.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> std::result::Result<T, String> {
    // What it leaves half done is the application's own, which sees its own panic.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run))
        .map_err(|panic| format!("the application panicked: {}", panic_message(&*panic)))
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no message".to_owned())
}

#[cfg(feature = "bincode")]
pub(crate) fn shape_of<T: serde::de::DeserializeOwned>() -> Result<Shape, StateError> {
    Shape::of::<T>().map_err(|problem| StateError::Unseen { type_name: std::any::type_name::<T>(), problem })
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("schema", &self.schema).field("codec", &self.codec).finish_non_exhaustive()
    }
}

/// A state that arrived: bytes, mapped from the sender's memfd where its seals make that safe.
pub struct Received {
    info: StateInfo,
    bytes: Bytes,
}

enum Bytes {
    Mapped(memmap2::Mmap),
    Read(Vec<u8>),
}

impl Received {
    /// Opens what arrived, and checks its schema and length against what was said before anything is allocated.
    // M61, M63, M102, M103
    pub(crate) fn open(packet: Packet<OwnedFd>, schemas: &[u32]) -> Result<Received, StateError> {
        let Packet { info, memfd } = packet;
        if !schemas.contains(&info.schema) {
            return Err(StateError::Schema { found: info.schema, accepted: schemas.to_vec() });
        }
        let memfd = File::from(memfd);
        // Before the length is looked at: what is sealed keeps it.
        let sealed = file::is_sealed(memfd.as_fd());
        let metadata = memfd.metadata().map_err(StateError::io("fstat"))?;
        if !metadata.is_file() {
            return Err(StateError::NotAFile);
        }
        if metadata.len() != info.length {
            return Err(StateError::Length { announced: info.length, found: metadata.len() });
        }
        let bytes = if sealed && info.length > 0 {
            Bytes::Mapped(file::map(&memfd).map_err(StateError::io("mmap"))?)
        } else {
            Bytes::Read(read_exactly(&memfd, info.length)?)
        };
        Ok(Received { info, bytes })
    }

    /// The application's schema number.
    pub fn schema(&self) -> u32 {
        self.info.schema
    }

    /// How it is encoded: `bincode2`, `bincode2+serde`, or `raw`.
    // M64
    pub fn codec(&self) -> &str {
        &self.info.codec
    }

    /// The value that [`State::serde`] was given. A program that reads several types tries one after the other.
    ///
    /// # Errors
    ///
    /// [`StateError::Codec`] where it is encoded otherwise, [`StateError::Shape`] where it was written as a type of another
    /// shape, [`StateError::NoSchema`] where nothing says which, [`StateError::Decode`] where the bytes are not such a value,
    /// or more than one.
    // M142
    #[cfg(feature = "bincode")]
    pub fn serde<T: serde::de::DeserializeOwned>(&self) -> Result<T, StateError> {
        self.expect_codec(BINCODE_SERDE)?;
        if let Some(found) = self.info.fingerprint {
            let shape = shape_of::<T>()?;
            let wanted = shape.fingerprint();
            if found != wanted {
                return Err(StateError::Shape { found, wanted, shape: shape.to_string() });
            }
        }
        let config = bincode::config::standard();
        self.whole(match self.len() <= SMALL.0 {
            true => bincode::serde::decode_from_slice(self, config.with_limit::<{ SMALL.1 }>()),
            false => bincode::serde::decode_from_slice(self, config.with_limit::<LARGE>()),
        })
    }

    /// The value that [`State::bincode`] was given.
    ///
    /// # Errors
    ///
    /// As for [`Received::serde`], but that only its [schema](Received::schema) tells which type it is.
    #[cfg(feature = "bincode")]
    pub fn bincode<T: bincode::Decode<()>>(&self) -> Result<T, StateError> {
        self.expect_codec(BINCODE)?;
        let config = bincode::config::standard();
        self.whole(match self.len() <= SMALL.0 {
            true => bincode::decode_from_slice(self, config.with_limit::<{ SMALL.1 }>()),
            false => bincode::decode_from_slice(self, config.with_limit::<LARGE>()),
        })
    }

    #[cfg(feature = "bincode")]
    fn expect_codec(&self, wanted: &'static str) -> Result<(), StateError> {
        let (codec, schema, fingerprint) = (self.info.codec.clone(), self.info.schema, self.info.fingerprint);
        match schema == 0 && fingerprint.is_none() {
            _ if codec != wanted => Err(StateError::Codec { found: codec, wanted }),
            true => Err(StateError::NoSchema { codec }),
            false => Ok(()),
        }
    }

    #[cfg(feature = "bincode")]
    fn whole<T>(&self, decoded: std::result::Result<(T, usize), bincode::error::DecodeError>) -> Result<T, StateError> {
        let (value, used) = decoded.map_err(|error| StateError::Decode(Box::new(error)))?;
        if used != self.len() {
            return Err(StateError::Trailing { left: self.len() - used });
        }
        Ok(value)
    }
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Read(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Received").field(&self.info).finish()
    }
}

/// Reads a state that cannot be mapped safely. A file may be as long as its sender likes without a byte in it, so that
/// there may be no memory for it.
// M62, M104
fn read_exactly(file: &File, length: u64) -> Result<Vec<u8>, StateError> {
    let mut bytes = Vec::new();
    let reserved = usize::try_from(length).is_ok_and(|length| bytes.try_reserve_exact(length).is_ok());
    if !reserved {
        return Err(StateError::TooMuchToCopy { length });
    }
    let mut chunk = vec![0; BUFFER];
    while (bytes.len() as u64) < length {
        let left = length - bytes.len() as u64;
        let room = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
        // pread: the offset is shared with the sender.
        match file.read_at(&mut chunk[..room], bytes.len() as u64) {
            Ok(0) => return Err(StateError::Length { announced: length, found: bytes.len() as u64 }),
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(StateError::Io { call: "pread", source }),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every write to it says ENOSPC.
    fn full() -> File {
        File::options().write(true).open("/dev/full").unwrap()
    }

    fn told(state: State) -> String {
        encode_into(&full(), state.write).unwrap_err().to_string()
    }

    #[test]
    fn a_memfd_that_takes_no_more_is_told_by_call_and_limit_whatever_the_codec_makes_of_it() {
        let wanted = "cannot move the state: write to a memfd: No space left on device (os error 28): no space is left";
        let large = vec![7_u8; 2 * BUFFER];
        assert!(told(State::bytes(large.clone())).starts_with(wanted), "{}", told(State::bytes(large)));
        // It is in the buffer until the end.
        assert!(told(State::bytes("little")).starts_with(wanted), "{}", told(State::bytes("little")));
        #[cfg(feature = "bincode")]
        assert!(told(State::bincode(1, vec![7_u8; 2 * BUFFER])).starts_with(wanted));
    }

    #[test]
    fn what_the_application_says_is_told_as_it_is() {
        let failed = State::writer(|_| Err(io::Error::other("no such record")));
        assert_eq!(told(failed), "cannot encode the state: no such record");
    }
}
