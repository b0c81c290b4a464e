//! The control path: what is put back, what is left in peace, and when it is looked at again.

use std::time::{Duration, Instant};

use crate::core::wire::FileId;
use crate::core::{Keeper, Keeping, Sight};

const STRANGER: FileId = FileId { dev: 1, ino: 7 };
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn what_is_gone_is_put_back_at_once() {
    let (mut keeper, now) = (Keeper::default(), Instant::now());
    assert_eq!(keeper.saw(now, Sight::Ours), Keeping::Nothing);
    assert_eq!(keeper.saw(now, Sight::Nothing), Keeping::PutBack);
    keeper.restored();
    assert_eq!((keeper.lost(), keeper.deadline()), (None, None));
}

// M132
#[test]
fn a_socket_that_nobody_listens_on_is_given_time_to_listen() {
    let (mut keeper, now) = (Keeper::default(), Instant::now());
    assert_eq!(keeper.saw(now, Sight::Stale(STRANGER)), Keeping::Lost);
    assert_eq!(keeper.saw(now + SECOND / 2, Sight::Stale(STRANGER)), Keeping::Nothing, "whoever asks");
    let other = FileId { ino: 8, ..STRANGER };
    assert_eq!(keeper.saw(now + SECOND, Sight::Stale(other)), Keeping::Nothing, "it is another one");
    assert_eq!(keeper.saw(now + 2 * SECOND, Sight::Stale(other)), Keeping::PutBack);
}

// M132
#[test]
fn somebody_else_is_left_in_peace_and_looked_at_ever_less() {
    let (mut keeper, mut now) = (Keeper::default(), Instant::now());
    assert!(keeper.may_probe(now, STRANGER));
    assert_eq!(keeper.saw(now, Sight::Taken(STRANGER)), Keeping::Lost);
    assert_eq!(keeper.lost(), Some("another process listens there"));
    let mut pauses = Vec::new();
    for _ in 0..8 {
        assert!(!keeper.may_probe(now, STRANGER));
        let at = keeper.deadline().unwrap();
        pauses.push((at - now).as_secs());
        now = at;
        assert!(keeper.may_probe(now, STRANGER));
        assert_eq!(keeper.saw(now, Sight::Taken(STRANGER)), Keeping::Nothing, "it was said once");
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(keeper.saw(now, Sight::Nothing), Keeping::PutBack, "it has gone");
}

#[test]
fn what_has_failed_is_tried_again_later_and_not_for_its_own_traces() {
    let (mut keeper, now) = (Keeper::default(), Instant::now());
    assert_eq!(keeper.saw(now, Sight::Nothing), Keeping::PutBack);
    assert!(keeper.heeds_changes());
    assert_eq!(keeper.failed(now, "read-only"), Keeping::Lost);
    assert!(!keeper.heeds_changes());
    assert_eq!(keeper.deadline(), Some(now + SECOND));
    assert_eq!(keeper.failed(now + SECOND, "read-only"), Keeping::Nothing);
    assert_eq!(keeper.failed(now + SECOND, "full"), Keeping::Lost, "for another reason");
    assert_eq!(keeper.deadline(), Some(now + 3 * SECOND), "and no sooner for it");
    assert_eq!(keeper.saw(now + SECOND, Sight::Barred("no directory".to_owned())), Keeping::Lost);
    assert!(keeper.heeds_changes(), "it may appear");
    assert_eq!(keeper.saw(now + SECOND, Sight::Ours), Keeping::Found);
    assert_eq!(keeper.lost(), None);
}
