//! Faults on request, for tests of real processes: with the feature `fault-injection`, a process does to itself
//! what the environment variable `FD_HANDOFF_FAULT` says, once. Its form is `POINT FRAME FAULT`, for instance
//! `after-send release kill`. Which role that is follows from the frame: only a predecessor sends `release`.
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
pub(crate) use striking::strike;

#[cfg(feature = "fault-injection")]
mod striking {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use nix::sys::signal::{Signal, raise};

    use super::Point;

    const VARIABLE: &str = "FD_HANDOFF_FAULT";

    static ASKED: LazyLock<Option<Asked>> = LazyLock::new(|| {
        let asked = std::env::var(VARIABLE).ok()?;
        Some(Asked::parse(&asked).unwrap_or_else(|| panic!("{VARIABLE} is not POINT FRAME FAULT: {asked:?}")))
    });
    /// A process that was stopped, or gave up, goes on, and comes by again.
    static STRUCK: AtomicBool = AtomicBool::new(false);

    struct Asked {
        point: Point,
        tag: String,
        fault: Fault,
    }

    #[derive(Clone, Copy)]
    enum Fault {
        Kill,
        Stop,
        Exit,
        Abort,
    }

    /// Does what was asked for at this point, if anything. `true`: the role is to give up.
    pub(crate) fn strike(point: Point, tag: &str) -> bool {
        let Some(asked) = ASKED.as_ref().filter(|asked| asked.point == point && asked.tag == tag) else {
            return false;
        };
        if STRUCK.swap(true, SeqCst) {
            return false;
        }
        match asked.fault {
            Fault::Kill => send_self(Signal::SIGKILL),
            Fault::Stop => send_self(Signal::SIGSTOP),
            Fault::Exit => std::process::exit(0),
            Fault::Abort => return true,
        }
        false
    }

    /// To this thread, so that it does not take another step before the signal has come.
    fn send_self(signal: Signal) {
        // Neither of the two can be blocked or refused.
        let _ = raise(signal);
    }

    impl Asked {
        fn parse(text: &str) -> Option<Asked> {
            let mut words = text.split(' ');
            let (point, tag, fault) = (words.next()?, words.next()?, words.next()?);
            let point = match point {
                "before-send" => Point::BeforeSend,
                "after-send" => Point::AfterSend,
                "after-receive" => Point::AfterReceive,
                _ => return None,
            };
            let fault = match fault {
                "kill" => Fault::Kill,
                "stop" => Fault::Stop,
                "exit" => Fault::Exit,
                "abort" => Fault::Abort,
                _ => return None,
            };
            words.next().is_none().then(|| Asked { point, tag: tag.to_owned(), fault })
        }
    }
}
