//! The control path: what is put back, what is left in peace, and when it is looked at again.

use std::time::{Duration, Instant};

use crate::core::wire::FileId;
use crate::core::{PathStep, Reachability, Sight};

const STRANGER: FileId = FileId { dev: 1, ino: 7 };
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn what_is_gone_is_put_back_at_once() {
    let (mut reachability, now) = (Reachability::default(), Instant::now());
    assert_eq!(reachability.saw(now, Sight::Ours), PathStep::Nothing);
    assert_eq!(reachability.saw(now, Sight::Nothing), PathStep::PutBack);
    reachability.restored();
    assert_eq!((reachability.lost(), reachability.deadline()), (None, None));
}

// M132
#[test]
fn a_socket_that_nobody_listens_on_is_given_time_to_listen() {
    let (mut reachability, now) = (Reachability::default(), Instant::now());
    assert_eq!(reachability.saw(now, Sight::Stale(STRANGER)), PathStep::Lost);
    assert_eq!(reachability.saw(now + SECOND / 2, Sight::Stale(STRANGER)), PathStep::Nothing, "whoever asks");
    let other = FileId { ino: 8, ..STRANGER };
    assert_eq!(reachability.saw(now + SECOND, Sight::Stale(other)), PathStep::Nothing, "it is another one");
    assert_eq!(reachability.saw(now + 2 * SECOND, Sight::Stale(other)), PathStep::PutBack);
}

// M132
#[test]
fn somebody_else_is_left_in_peace_and_looked_at_ever_less() {
    let (mut reachability, mut now) = (Reachability::default(), Instant::now());
    assert!(reachability.may_probe(now, STRANGER));
    assert_eq!(reachability.saw(now, Sight::Taken(STRANGER)), PathStep::Lost);
    assert_eq!(reachability.lost(), Some("another process listens there"));
    let mut pauses = Vec::new();
    for _ in 0..8 {
        assert!(!reachability.may_probe(now, STRANGER));
        let at = reachability.deadline().unwrap();
        pauses.push((at - now).as_secs());
        now = at;
        assert!(reachability.may_probe(now, STRANGER));
        assert_eq!(reachability.saw(now, Sight::Taken(STRANGER)), PathStep::Nothing, "it was said once");
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(reachability.saw(now, Sight::Nothing), PathStep::PutBack, "it has gone");
}

#[test]
fn what_has_failed_is_tried_again_later_and_not_for_its_own_traces() {
    let (mut reachability, now) = (Reachability::default(), Instant::now());
    assert_eq!(reachability.saw(now, Sight::Nothing), PathStep::PutBack);
    assert!(reachability.heeds_changes());
    assert_eq!(reachability.failed(now, "read-only"), PathStep::Lost);
    assert!(!reachability.heeds_changes());
    assert_eq!(reachability.deadline(), Some(now + SECOND));
    assert_eq!(reachability.failed(now + SECOND, "read-only"), PathStep::Nothing);
    assert_eq!(reachability.failed(now + SECOND, "full"), PathStep::Lost, "for another reason");
    assert_eq!(reachability.deadline(), Some(now + 3 * SECOND), "and no sooner for it");
    assert_eq!(reachability.saw(now + SECOND, Sight::Barred("no directory".to_owned())), PathStep::Lost);
    assert!(reachability.heeds_changes(), "it may appear");
    assert_eq!(reachability.saw(now + SECOND, Sight::Ours), PathStep::Found);
    assert_eq!(reachability.lost(), None);
}
