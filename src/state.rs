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
    codec: &'static str,
    write: Encoder,
}

impl State {
    /// A value, through serde's traits. Encoding a value through [`State::bincode`] is several times as fast.
    ///
    /// Its fields are written one after the other, without their names: number the shape of the type with
    /// [`State::schema`], and change the number whenever the type changes.
    #[cfg(feature = "bincode")]
    pub fn serde<T: serde::Serialize + Send + 'static>(value: T) -> State {
        State::write(BINCODE_SERDE, move |out| {
            let mut out = out;
            bincode::serde::encode_into_std_write(value, &mut out, bincode::config::standard())?;
            Ok(())
        })
    }

    /// A value, through bincode's own traits (`#[derive(bincode::Encode)]`).
    #[cfg(feature = "bincode")]
    pub fn bincode<T: bincode::Encode + Send + 'static>(value: T) -> State {
        State::write(BINCODE, move |out| {
            let mut out = out;
            bincode::encode_into_std_write(value, &mut out, bincode::config::standard())?;
            Ok(())
        })
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
    /// Without it, two fields of one type that change places between two versions decode into each other, and nothing
    /// notices.
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
        State { schema: 0, codec, write: Box::new(write) }
    }

    /// Encodes into a sealed memfd. Takes as long as the codec takes.
    // M60, M103
    pub(crate) fn seal(self) -> Result<Packet<OwnedFd>, StateError> {
        let memfd = file::memfd(c"fd-handoff state").map_err(StateError::io("memfd_create"))?;
        encode_into(&memfd, self.write)?;
        let length = memfd.metadata().map_err(StateError::io("fstat"))?.len();
        if length > MAX_STATE {
            return Err(StateError::TooLarge { length });
        }
        file::seal(&memfd).map_err(StateError::io("fcntl(F_ADD_SEALS)"))?;
        let info = StateInfo { length, schema: self.schema, codec: self.codec.to_owned() };
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

    /// The value that [`State::serde`] was given.
    ///
    /// # Errors
    ///
    /// [`StateError::Codec`] where it is encoded otherwise, [`StateError::Decode`] where the bytes are not such
    /// a value, or more than one.
    #[cfg(feature = "bincode")]
    pub fn serde<T: serde::de::DeserializeOwned>(&self) -> Result<T, StateError> {
        self.expect_codec(BINCODE_SERDE)?;
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
    /// As for [`Received::serde`].
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
        if self.info.codec == wanted {
            return Ok(());
        }
        Err(StateError::Codec { found: self.info.codec.clone(), wanted })
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
        assert!(told(State::bincode(vec![7_u8; 2 * BUFFER])).starts_with(wanted));
    }

    #[test]
    fn what_the_application_says_is_told_as_it_is() {
        let failed = State::writer(|_| Err(io::Error::other("no such record")));
        assert_eq!(told(failed), "cannot encode the state: no such record");
    }
}
