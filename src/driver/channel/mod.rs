//! Frames and descriptors in order over one Unix stream, without waiting.

mod fault;
mod link;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};

pub(crate) use fault::{Point, pass};
pub(crate) use link::Link;

use crate::core::wire::{Frame, FrameReader, WireError, shorten};
use crate::sys::{limits, socket};

/// How much one receive takes at the most: of a batch's manifest, and of what people and successors say.
const LARGE_CHUNK: usize = 65_536;
const SMALL_CHUNK: usize = 4_096;

/// A descriptor that a role sends: its own, or a place in a table that the caller holds.
pub(crate) trait Carried: From<OwnedFd> {
    fn resolve<'a>(&'a self, table: &'a [BorrowedFd<'a>]) -> BorrowedFd<'a>;
}

impl Carried for OwnedFd {
    fn resolve<'a>(&'a self, _table: &'a [BorrowedFd<'a>]) -> BorrowedFd<'a> {
        self.as_fd()
    }
}

/// One end of a control connection.
#[derive(Debug)]
pub(crate) struct Channel<F> {
    stream: Arc<UnixStream>,
    reader: FrameReader<OwnedFd>,
    outbox: VecDeque<Message<F>>,
    /// What a receive with descriptors fills. It is there where they are welcome; where they are not, there is no room for
    /// them, and the kernel closes them.
    chunk: Option<Box<[u8]>>,
    closed: bool,
}

#[derive(Debug)]
struct Message<F> {
    frame: &'static str,
    bytes: Vec<u8>,
    sent: usize,
    /// They ride on the first byte, and are forgotten once it is sent.
    descriptors: Vec<F>,
}

/// Why a frame is still in the queue.
#[derive(Debug)]
pub(crate) enum Stuck {
    /// The kernel would not take the first byte of this one now.
    Unsent { frame: &'static str, error: io::Error },
    /// It broke in the middle of a frame.
    Broken(io::Error),
}

impl Stuck {
    pub(crate) fn into_error(self) -> io::Error {
        match self {
            Stuck::Unsent { error, .. } | Stuck::Broken(error) => error,
        }
    }
}

/// What a receive found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    Some,
    Nothing,
    Closed,
}

impl<F: Carried> Channel<F> {
    pub(crate) fn new(stream: UnixStream, takes_descriptors: bool) -> io::Result<Channel<F>> {
        stream.set_nonblocking(true)?;
        let reader = FrameReader::default();
        let chunk = takes_descriptors.then(|| vec![0; LARGE_CHUNK].into_boxed_slice());
        Ok(Channel { stream: Arc::new(stream), reader, outbox: VecDeque::new(), chunk, closed: false })
    }

    /// Puts a frame in the queue.
    pub(crate) fn queue(&mut self, frame: &impl Frame, descriptors: Vec<F>) {
        let bytes = frame.to_line();
        tracing::trace!(event = "sent", descriptors = descriptors.len(), frame = %shown(&bytes), "sent");
        self.outbox.push_back(Message { frame: frame.tag(), bytes, sent: 0, descriptors });
    }

    /// How many bytes wait to be sent.
    pub(crate) fn queued(&self) -> usize {
        self.outbox.iter().map(|message| message.bytes.len() - message.sent).sum()
    }

    /// Sends as much as goes without waiting. Once the peer has closed its end, there is nobody to send to,
    /// and the queue is dropped: what the peer said before is still to be read.
    ///
    /// # Errors
    ///
    /// What the kernel does not take stays in the queue if it has not begun to leave.
    pub(crate) fn flush(&mut self, table: &[BorrowedFd<'_>]) -> Result<(), Stuck> {
        while let Some(message) = self.outbox.front_mut() {
            match message.send(&self.stream, table) {
                Ok(true) => drop(self.outbox.pop_front()),
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_hangup(&error) => {
                    self.outbox.clear();
                    return Ok(());
                }
                Err(error) if message.sent == 0 => return Err(Stuck::Unsent { frame: message.frame, error }),
                Err(error) => {
                    self.outbox.clear();
                    return Err(Stuck::Broken(error));
                }
            }
        }
        Ok(())
    }

    /// The frame that waits for room of which not a byte has left.
    pub(crate) fn unsent(&self) -> Option<&'static str> {
        self.outbox.front().filter(|message| message.sent == 0).map(|message| message.frame)
    }

    /// Forgets the frames of which not a byte has left.
    pub(crate) fn withdraw(&mut self) {
        self.outbox.retain(|message| message.sent > 0);
    }

    /// Receives once without waiting.
    // M24, M26
    pub(crate) fn fill(&mut self) -> Fill {
        if self.closed {
            return Fill::Closed;
        }
        let mut small;
        let (chunk, received, what_truncated) = match &mut self.chunk {
            Some(large) => {
                // For a state. What takes more room is announced before, and room is made for it.
                limits::make_room_for_one();
                let received = socket::receive_with_fds(&self.stream, large);
                (&**large, received, WireError::Truncated)
            }
            None => {
                small = [0; SMALL_CHUNK];
                let received = socket::receive_bytes(&self.stream, &mut small);
                (&small[..], received, WireError::StrayDescriptors)
            }
        };
        match received {
            Ok(received) if received.bytes == 0 => self.close(),
            Ok(received) if received.truncated => {
                // Those that did arrive are closed: nobody can tell which they are.
                self.reader.push_spoilt(&chunk[..received.bytes], what_truncated);
                Fill::Some
            }
            Ok(received) => {
                self.reader.push(&chunk[..received.bytes], received.fds);
                Fill::Some
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Fill::Nothing,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Fill::Some,
            Err(error) if is_hangup(&error) => self.close(),
            Err(error) => {
                self.reader.end(WireError::Broken(format!("recvmsg: {}", crate::error::advised(&error))));
                self.close()
            }
        }
    }

    /// The next frame that is here.
    pub(crate) fn next_frame<T>(
        &mut self,
        parse: impl Fn(&[u8]) -> Result<T, WireError>,
    ) -> Option<Result<(T, Vec<OwnedFd>), WireError>> {
        let (line, descriptors) = match self.reader.next_line()? {
            Ok(line) => line,
            Err(error) => return Some(Err(error)),
        };
        tracing::trace!(event = "received", descriptors = descriptors.len(), frame = %shown(line), "received");
        Some(parse(line).map(|frame| (frame, descriptors)))
    }

    fn close(&mut self) -> Fill {
        self.closed = true;
        Fill::Closed
    }
}

impl<F> Channel<F> {
    /// Another descriptor of the connection.
    /// The connection, for whoever asks whether it is there still.
    pub(crate) fn watched(&self) -> Weak<UnixStream> {
        Arc::downgrade(&self.stream)
    }

    pub(crate) fn try_clone(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }
}

impl<F> AsFd for Channel<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl<F: Carried> Message<F> {
    /// Sends once. Returns whether that was all of it.
    // M19, M20
    fn send(&mut self, stream: &UnixStream, table: &[BorrowedFd<'_>]) -> io::Result<bool> {
        let rest = &self.bytes[self.sent..];
        let sent = if self.descriptors.is_empty() {
            socket::send(stream, rest)?
        } else {
            let fds: Vec<BorrowedFd<'_>> = self.descriptors.iter().map(|fd| fd.resolve(table)).collect();
            socket::send_with_fds(stream, rest, &fds)?
        };
        self.sent += sent;
        if sent > 0 {
            self.descriptors.clear();
        }
        Ok(self.sent == self.bytes.len())
    }
}

fn is_hangup(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected)
}

/// A line for the log, shown only where `trace` is on.
fn shown(line: &[u8]) -> impl std::fmt::Display {
    struct Shown<'a>(&'a [u8]);
    impl std::fmt::Display for Shown<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(&shorten(String::from_utf8_lossy(self.0).trim_end(), 4096))
        }
    }
    Shown(line)
}
