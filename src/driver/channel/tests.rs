//! Frames and descriptors over a real stream.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::{Channel, Fill, Link};
use crate::core::wire::{ClientFrame, Frame, PROTOCOL, Progress, Receive, ServerFrame, WireError};
use crate::core::{
    Predecessor, PredecessorCommand, PredecessorEvent, Successor, SuccessorCommand, SuccessorEvent, Waits,
};

const WAIT: Duration = Duration::from_secs(10);
const WAITS: Waits =
    Waits { offer: WAIT, transfer: WAIT, ready: WAIT, release: WAIT, active: WAIT, drain: WAIT, probation: WAIT };

fn receive() -> Receive {
    Receive {
        protocol: PROTOCOL,
        pid: 1,
        version: "1".to_owned(),
        schemas: vec![0],
        fingerprints: None,
        services: None,
        standby: false,
        instance: None,
        take: false,
    }
}

fn progress(length: usize) -> ClientFrame {
    Progress { message: "x".repeat(length) }.into()
}

fn file() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

fn send(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
    assert_eq!(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap(), bytes.len());
}

fn next(channel: &mut Channel<OwnedFd>) -> Option<Result<(ClientFrame, Vec<OwnedFd>), WireError>> {
    channel.next_frame(ClientFrame::parse)
}

// M19, M20
#[test]
fn a_frame_that_goes_out_in_parts_takes_its_descriptors_once() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut sender: Channel<OwnedFd> = Channel::new(ours, false).unwrap();
    let mut receiver: Channel<OwnedFd> = Channel::new(theirs, true).unwrap();
    for _ in 0..8 {
        sender.queue(&progress(100_000), vec![file()]);
    }
    sender.flush(&[]).unwrap();
    assert!(sender.queued() > 0, "more than the socket holds");
    let mut frames = 0;
    while frames < 8 {
        sender.flush(&[]).unwrap();
        while let Some(frame) = next(&mut receiver) {
            let (frame, fds) = frame.unwrap();
            assert_eq!((frame, fds.len()), (progress(100_000), 1));
            frames += 1;
        }
        assert_ne!(receiver.fill(), Fill::Closed);
    }
}

// M26
#[test]
fn a_channel_without_room_for_descriptors_keeps_none() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (null, mut end) = (file(), [0; 1]);
    let (mut reader, writer) = std::io::pipe().unwrap();
    send(&ours, b"{\"type\":\"help\"}\n", &[]);
    send(&ours, b"{\"type\":\"ready\"}\n", &[null.as_fd(), writer.as_fd()]);
    drop(writer);
    let mut receiver: Channel<OwnedFd> = Channel::new(theirs, false).unwrap();
    assert_eq!(receiver.fill(), Fill::Some);
    assert!(matches!(next(&mut receiver), Some(Ok((ClientFrame::Help(_), fds))) if fds.is_empty()));
    assert_eq!(next(&mut receiver).unwrap().unwrap_err(), WireError::StrayDescriptors, "the frame is not acted on");
    assert_eq!(reader.read(&mut end).unwrap(), 0, "nobody holds the other end of the pipe");
}

fn link_of_predecessor() -> (Link<Predecessor<OwnedFd>>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let channel = Channel::new(ours, false).unwrap();
    (Link::new(Predecessor::new(receive(), WAITS, false), channel, None).unwrap(), theirs)
}

fn gift() -> crate::core::Gift<OwnedFd> {
    let offer = crate::core::wire::Offer {
        protocol: 1,
        generation: 1,
        pid: 1,
        pidfd: false,
        descriptors: 0,
        batches: 0,
        state: None,
        path: None,
        ready_timeout_ms: 1,
        active_timeout_ms: 1,
        drain_timeout_ms: 10_000,
        history: vec![],
        instance: None,
        superseded: vec![],
    };
    crate::core::Gift { offer, pidfd: None, descriptors: VecDeque::new(), snapshot: None }
}

// M68
#[test]
fn what_has_come_counts_before_a_deadline_that_has_passed() {
    let (mut link, mut peer) = link_of_predecessor();
    let now = Instant::now();
    link.command(PredecessorCommand::Offer(Box::new(gift())));
    assert_eq!(link.step(now, &[]), Some(PredecessorEvent::Transferred));
    peer.write_all(b"{\"type\":\"ready\"}\n").unwrap();
    // The process was stopped for an hour.
    let later = now + Duration::from_secs(3600);
    assert_eq!(link.step(later, &[]), Some(PredecessorEvent::Ready));
    link.command(PredecessorCommand::Release { state: None, monotonic_us: 0, timens: None });
    peer.write_all(b"{\"type\":\"active\"}\n").unwrap();
    assert_eq!(link.step(later + Duration::from_secs(3600), &[]), Some(PredecessorEvent::Active));
}

#[test]
fn a_deadline_that_has_passed_counts_when_nothing_has_come() {
    let (mut link, _peer) = link_of_predecessor();
    let now = Instant::now();
    link.command(PredecessorCommand::Offer(Box::new(gift())));
    assert_eq!(link.step(now, &[]), Some(PredecessorEvent::Transferred));
    let event = link.step(now + Duration::from_secs(3600), &[]);
    assert!(matches!(event, Some(PredecessorEvent::Failed(_))));
}

// M66
#[test]
fn what_a_predecessor_said_before_it_died_is_read_first() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut child = child();
    let pidfd = crate::sys::process::pidfd_of(child.id() as i32).unwrap();
    let role: Successor<OwnedFd> = Successor::new(receive(), WAITS, Instant::now());
    let mut link = Link::new(role, Channel::new(ours, true).unwrap(), Some(pidfd)).unwrap();
    theirs.write_all(&ServerFrame::from(gift().offer).to_line()).unwrap();
    assert!(matches!(link.step(Instant::now(), &[]), Some(SuccessorEvent::Offered(..))));
    assert_eq!(event_name(link.step(Instant::now(), &[])), "complete");
    link.command(SuccessorCommand::Ready);
    assert_eq!(event_name(link.step(Instant::now(), &[])), "none");

    theirs.write_all(b"{\"type\":\"release\",\"state\":null,\"monotonic_us\":0,\"timens\":null}\n").unwrap();
    drop(theirs);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(event_name(link.step(Instant::now(), &[])), "released");
}

/// A process that lives until it is killed, or we end: this test binary.
fn child() -> std::process::Child {
    let mut command = std::process::Command::new("/proc/self/exe");
    command.args(["--exact", "driver::channel::tests::child_main", "--ignored"]);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap()
}

#[test]
#[ignore = "run by another test as a process of its own"]
fn child_main() {
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn event_name(event: Option<SuccessorEvent<OwnedFd>>) -> &'static str {
    match event {
        None => "none",
        Some(SuccessorEvent::Complete(_)) => "complete",
        Some(SuccessorEvent::Released { release: Some(_), .. }) => "released",
        Some(SuccessorEvent::Released { release: None, .. }) => "orphaned",
        Some(_) => "another",
    }
}
