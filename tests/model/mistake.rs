//! Mistakes that a driver or an application could make. The checker has to find what each one breaks.

/// One mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// The link reports a closed connection as a death.
    TakesEofForDeath,
    /// The link reports the death before the frames that were sent before it.
    ReportsDeathFirst,
    /// The link looks at the deadline before it looks at what has arrived.
    TimesOutUnread,
    /// The predecessor's link does not report a death while draining.
    MissesDeathInDrain,
    /// The successor's link does not report the predecessor's death.
    MissesPredecessorsDeath,
    /// The successor takes silence for death.
    TakesSilenceForDeath,
    /// The predecessor does not read `settled`.
    MissesSettled,
    /// The predecessor takes back at the deadline, without ending its successor.
    TakesBackUnfenced,
    /// The predecessor takes back once the kernel has taken the signal.
    CallsTheFencedDead,
    /// The predecessor takes back where it may not end its successor.
    CallsTheUnfencedDead,
    /// The predecessor's application accepts until it hears `active`.
    ReleasesBeforeItStops,
    /// The predecessor's application does not accept again after a failure.
    StaysOutAfterFailure,
    /// The successor's application serves when it says `ready`.
    ServesAtReady,
    /// The successor's application does not read the final state.
    DropsTheFinalState,
    /// The inspector is never told of the handoff under way.
    IsNeverBusy,
    /// The successor closes its connection at the farewell, though its predecessor still watches over it.
    HangsUpAtFarewell,
    /// A generation hands over while its own predecessor would still take back, and without a lock that keeps it from that.
    HandsOverUnsettled,
    /// The successor's application does not read the farewell's state.
    DropsTheFarewell,
    /// The predecessor takes back without the lock of the owner.
    TakesBackUnclaimed,
    /// The successor accepts at the release without that lock.
    AcceptsUnclaimed,
    /// An orphan accepts without it.
    SucceedsUnclaimed,
    /// The predecessor keeps it when it releases.
    KeepsTheLock,
    /// A service that stops ends before its predecessors have let their copies go.
    StopsUnwaited,
    /// A generation with the lock settles before it makes its offer, though the handoff may fail.
    SettlesEarly,
    /// A predecessor closes its copies when its successor serves, though it would take back.
    LetsGoEarly,
    /// A predecessor whose release could not be sent does not accept again.
    GivesUpUnsent,
    /// A keeper claims the service before the predecessors that would take it back have ended.
    KeepsBeforeOthers,
}
