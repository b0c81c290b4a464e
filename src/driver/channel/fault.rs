//! Faults on request, for tests of real processes: with the feature `fault-injection`, a process does to itself
//! what the environment variable `FD_HANDOFF_FAULT` says, once. Its form is `POINT FRAME FAULT`, for instance
//! `after-send release kill`, or `after-send descriptors#2 kill` for the second such frame. Which role that is follows
//! from the frame: only a predecessor sends `release`.
//!
//! Of the faults, `error` and `return` are endings of `main`, which is not in here: the process gets SIGUSR1, and is to
//! end as the variable says. Until its application says something to the role, as its destructors may, the connection
//! stands still, so that nothing else happens first.
//!
//! Without the feature, nothing of it is in the program.

/// Where a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "fault-injection"), allow(dead_code, reason = "named where faults would be"))]
pub(crate) enum Point {
    /// Its turn has come; nothing of it is out.
    BeforeSend,
    /// The kernel has all of it.
    AfterSend,
    /// The role has taken it in, and nothing that follows from it has happened.
    AfterReceive,
}

#[cfg(feature = "fault-injection")]
pub(crate) use striking::{Strike, strike};

/// Where a frame is that no role sends. There is no handoff yet that could be given up.
#[cfg(feature = "fault-injection")]
pub(crate) fn pass(point: Point, tag: &str) {
    let _ = strike(point, tag);
}

/// Where a frame is that no role sends, in a build without faults.
#[cfg(not(feature = "fault-injection"))]
#[inline(always)]
pub(crate) fn pass(_point: Point, _tag: &str) {}

#[cfg(feature = "fault-injection")]
mod striking {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use nix::sys::signal::{Signal, raise};

    use super::Point;

    const VARIABLE: &str = "FD_HANDOFF_FAULT";

    static ASKED: LazyLock<Option<Asked>> = LazyLock::new(|| {
        let asked = std::env::var(VARIABLE).ok()?;
        Some(Asked::parse(&asked).unwrap_or_else(|| panic!("{VARIABLE} is not POINT FRAME FAULT: {asked:?}")))
    });
    /// How often it was here. A process that was stopped, or gave up, goes on, and comes by again.
    static PASSED: AtomicU32 = AtomicU32::new(0);

    struct Asked {
        point: Point,
        tag: String,
        /// The how manieth of these frames, from 1.
        number: u32,
        fault: Fault,
    }

    #[derive(Clone, Copy)]
    enum Fault {
        Kill,
        Stop,
        Exit,
        Abort,
        /// SIGTERM, which the application may have asked the library to hear.
        Term,
        /// Here: of the thread or task that goes on with the handoff.
        Panic,
        /// Of `main`.
        Ending,
    }

    /// What the connection does next.
    #[must_use]
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Strike {
        /// It goes on.
        No,
        /// Its role gives up.
        Abort,
        /// It stands still.
        Freeze,
    }

    /// Does what was asked for at this point, if anything.
    pub(crate) fn strike(point: Point, tag: &str) -> Strike {
        let Some(asked) = ASKED.as_ref().filter(|asked| asked.point == point && asked.tag == tag) else {
            return Strike::No;
        };
        if PASSED.fetch_add(1, SeqCst) + 1 != asked.number {
            return Strike::No;
        }
        match asked.fault {
            Fault::Kill => send_self(Signal::SIGKILL),
            Fault::Stop => send_self(Signal::SIGSTOP),
            Fault::Term => send_self(Signal::SIGTERM),
            Fault::Exit => std::process::exit(0),
            Fault::Panic => panic!("a fault that a test has asked for"),
            Fault::Abort => return Strike::Abort,
            Fault::Ending => {
                send_self(Signal::SIGUSR1);
                return Strike::Freeze;
            }
        }
        Strike::No
    }

    /// To this thread, so that it does not take another step before the signal has come.
    fn send_self(signal: Signal) {
        // None of them is blocked, and none can be refused.
        let _ = raise(signal);
    }

    impl Asked {
        fn parse(text: &str) -> Option<Asked> {
            let mut words = text.split(' ');
            let (point, frame, fault) = (words.next()?, words.next()?, words.next()?);
            let point = match point {
                "before-send" => Point::BeforeSend,
                "after-send" => Point::AfterSend,
                "after-receive" => Point::AfterReceive,
                _ => return None,
            };
            let (tag, number) = frame.split_once('#').unwrap_or((frame, "1"));
            let (tag, number) = (tag.to_owned(), number.parse().ok()?);
            let fault = match fault {
                "kill" => Fault::Kill,
                "stop" => Fault::Stop,
                "exit" => Fault::Exit,
                "abort" => Fault::Abort,
                "term" => Fault::Term,
                "panic" => Fault::Panic,
                "error" | "return" => Fault::Ending,
                _ => return None,
            };
            words.next().is_none().then_some(Asked { point, tag, number, fault })
        }
    }
}
