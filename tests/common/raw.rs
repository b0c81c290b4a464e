//! Peers that speak the protocol by hand: JSON lines over a Unix stream, and descriptors with them.

use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::stat::fstat;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use sendfd::SendWithFd;
use serde_json::{Value, json};

use super::PATIENCE;

/// One end of a control connection.
pub(crate) struct Raw {
    stream: UnixStream,
}

impl Raw {
    pub(crate) fn new(stream: UnixStream) -> Raw {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Raw { stream }
    }

    pub(crate) fn connect(path: &Path) -> Raw {
        Raw::new(UnixStream::connect(path).unwrap())
    }

    /// For whoever goes on without frames.
    pub(crate) fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Connects as a stranger does, and reads the greeting.
    pub(crate) fn greeted(path: &Path) -> Raw {
        let mut raw = Raw::connect(path);
        raw.expect("hello");
        raw
    }

    /// Connects, reads the greeting, and asks for the service.
    pub(crate) fn receive(path: &Path) -> Raw {
        let mut raw = Raw::greeted(path);
        raw.say(&json!({
            "type": "receive", "protocol": {"min": 1, "max": 1}, "pid": 4242, "version": "raw", "schemas": [0],
        }));
        raw
    }

    /// Takes everything that is offered, up to where the successor initialises.
    pub(crate) fn take_offer(&mut self) -> Vec<OwnedFd> {
        let offer = self.expect("offer");
        self.take_offered(&offer)
    }

    /// Takes what this offer has announced.
    pub(crate) fn take_offered(&mut self, offer: &Value) -> Vec<OwnedFd> {
        let mut taken = Vec::new();
        for batch in 0..offer["batches"].as_u64().unwrap() {
            taken.extend(self.line().unwrap().1);
            self.say(&json!({"type": "received", "batch": batch}));
        }
        if !offer["state"].is_null() {
            self.expect("state");
        }
        taken
    }

    pub(crate) fn say(&mut self, frame: &Value) {
        self.write(format!("{frame}\n").as_bytes());
    }

    /// A peer that is gone does not hear it.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub(crate) fn say_with(&mut self, frame: &Value, fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        let line = format!("{frame}\n");
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let sent = self.stream.send_with_fd(line.as_bytes(), &raw)?;
        self.stream.write_all(&line.as_bytes()[sent..])
    }

    /// The next line and its descriptors; `None` at the end. Byte by byte: descriptors come with the byte that
    /// they ride on.
    pub(crate) fn line(&mut self) -> Option<(Value, Vec<OwnedFd>)> {
        let (mut line, mut fds) = (Vec::new(), Vec::new());
        loop {
            let byte = self.byte(&mut fds)?;
            if byte == b'\n' {
                let frame = serde_json::from_slice(&line).expect("a frame is a JSON object");
                return Some((frame, fds));
            }
            line.push(byte);
        }
    }

    /// One byte, and the descriptors on it; `None` at the end.
    pub(crate) fn byte(&self, fds: &mut Vec<OwnedFd>) -> Option<u8> {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut byte)];
        match rustix::net::recvmsg(&self.stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) if message.bytes == 0 => return None,
            // What was said to a peer that closed without reading it.
            Err(rustix::io::Errno::CONNRESET) => return None,
            Err(rustix::io::Errno::INTR) => return self.byte(fds),
            received => drop(received.expect("nothing came for a long time")),
        }
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                fds.extend(rights);
            }
        }
        Some(byte[0])
    }

    /// The next frame, which is of this type.
    pub(crate) fn expect(&mut self, tag: &str) -> Value {
        let (frame, _) = self.line().unwrap_or_else(|| panic!("{tag} was due; the connection was closed"));
        assert_eq!(frame["type"], tag, "{frame}");
        frame
    }

    /// The next frame is an error or an abort with this code. Returns what it says.
    pub(crate) fn expect_error(&mut self, tag: &str, code: &str) -> String {
        let frame = self.expect(tag);
        assert_eq!(frame["code"], code, "{frame}");
        let text = if tag == "abort" { &frame["reason"] } else { &frame["message"] };
        assert_ne!(text.as_str().unwrap(), "");
        text.as_str().unwrap().to_owned()
    }

    pub(crate) fn close_for_writing(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    pub(crate) fn expect_end(&mut self) {
        let line = self.line();
        assert!(line.is_none(), "{line:?}");
    }

    /// Says a word, and returns the answer to it.
    pub(crate) fn ask(&mut self, word: &str) -> Value {
        self.write(format!("{word}\n").as_bytes());
        self.line().expect("an answer").0
    }

    /// The process that the kernel names as the one that serves this connection.
    pub(crate) fn server_pid(&self) -> u32 {
        let peer = nix::sys::socket::getsockopt(&self.stream, nix::sys::socket::sockopt::PeerCredentials).unwrap();
        peer.pid().unsigned_abs()
    }
}

/// A service by hand: its control socket, and the connection of the successor that is to be fooled.
pub(crate) struct RawPredecessor {
    pub(crate) path: std::path::PathBuf,
    pub(crate) listener: UnixListener,
}

impl RawPredecessor {
    pub(crate) fn new(path: &Path) -> RawPredecessor {
        RawPredecessor { path: path.to_owned(), listener: UnixListener::bind(path).unwrap() }
    }

    pub(crate) fn accept(&self) -> Raw {
        Raw::new(self.listener.accept().unwrap().0)
    }

    /// The manifest's line for the control listener.
    pub(crate) fn control_entry(&self) -> Value {
        json!({"name": "@control", "kind": "unix_listener", "addr": self.path})
    }

    /// Greets a successor, and hears its `receive`.
    pub(crate) fn greet(&self) -> Raw {
        let mut raw = self.accept();
        raw.say(&hello());
        raw.expect("receive");
        raw
    }

    /// Gives a successor the control listener and nothing else, and the pidfd of this process.
    pub(crate) fn give(&self, raw: &mut Raw, state: &Value) {
        let pidfd = own_pidfd();
        raw.say_with(&offer(1, 1, state, true), &[pidfd.as_fd()]).unwrap();
        raw.say_with(&batch(0, &[self.control_entry()]), &[self.listener.as_fd()]).unwrap();
        raw.expect("received");
    }
}

pub(crate) fn hello() -> Value {
    json!({
        "type": "hello", "protocol": {"min": 1, "max": 1}, "name": "tested", "version": "0", "pid": std::process::id(),
        "generation": 1, "phase": "serving",
    })
}

pub(crate) fn offer(descriptors: u32, batches: u32, state: &Value, pidfd: bool) -> Value {
    json!({
        "type": "offer", "protocol": 1, "generation": 1, "pid": std::process::id(), "pidfd": pidfd,
        "descriptors": descriptors, "batches": batches, "state": state, "path": null, "ready_timeout_ms": 60000,
        "active_timeout_ms": 60000, "drain_timeout_ms": 60000, "history": [],
    })
}

pub(crate) fn batch(number: u32, entries: &[Value]) -> Value {
    json!({"type": "descriptors", "batch": number, "entries": entries})
}

pub(crate) fn state_info(length: usize, schema: u32, codec: &str) -> Value {
    json!({"length": length, "schema": schema, "codec": codec})
}

pub(crate) fn own_pidfd() -> OwnedFd {
    rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty()).unwrap()
}

/// What identifies an open file, as `/proc/PID/fd` shows it for sockets and pipes.
pub(crate) fn inode(fd: impl AsFd) -> u64 {
    fstat(fd).unwrap().st_ino
}
