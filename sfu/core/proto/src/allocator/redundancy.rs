//! Whether one subscriber's sound is sent with what RED says again, or as its newest encodings alone.
//!
//! RED about doubles sound, which is nothing on an ordinary link and a picture, or the sound itself, on a narrow one. A value
//! that is told of the link and answers; it measures nothing and sends nothing. See `docs/concepts/allocation.md`.

use std::time::{Duration, Instant};

/// What sound may grow by meanwhile, as the allocator reserves for it.
const MARGIN: f64 = 1.1;
/// What was left out comes back with so much to spare, as video does after a pause.
const MARGIN_BACK: f64 = 1.2;
/// How long there must have been room for it before it comes back; doubles each time that it had to go again within as long.
const HOLD: Duration = Duration::from_secs(10);
const HOLD_MAX: Duration = Duration::from_secs(160);

/// What is known of one subscriber's link and of what he gets.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Bits a second that may be sent in all; `None`: nothing limits.
    pub estimate_bps: Option<u64>,
    /// The link carries no more. Otherwise no more has been tried.
    pub is_end: bool,
    /// Of all his sound, with all that RED says again, sent or not.
    pub sound_bps: u64,
    /// Of the smallest sizes of all video that he wants, and of retransmissions.
    pub video_bps: u64,
    /// Video that he wants is paused for want of bandwidth.
    pub is_short: bool,
}

impl Room {
    fn is_narrow(&self, margin: f64) -> bool {
        let needed = (self.sound_bps as f64 * MARGIN + self.video_bps as f64) * margin;
        self.is_end && self.estimate_bps.is_some_and(|bps| self.is_short || (bps as f64) < needed)
    }
}

/// Memory of one subscriber.
#[derive(Clone, Copy, Debug)]
pub struct Redundancy {
    /// When there was last no room for it; `None`: it is sent.
    narrow: Option<Instant>,
    returned: Option<Instant>,
    hold: Duration,
}

impl Default for Redundancy {
    fn default() -> Self {
        Self { narrow: None, returned: None, hold: HOLD }
    }
}

impl Redundancy {
    #[inline]
    pub fn is_withheld(&self) -> bool {
        self.narrow.is_some()
    }

    /// Decides anew; true if that made it go.
    pub fn weigh(&mut self, now: Instant, room: &Room) -> bool {
        let Some(narrow) = self.narrow else {
            if !room.is_narrow(1.0) {
                return false;
            }
            let has_flipped = self.returned.is_some_and(|at| now.saturating_duration_since(at) < self.hold);
            self.hold = if has_flipped { (self.hold * 2).min(HOLD_MAX) } else { HOLD };
            self.narrow = Some(now);
            return true;
        };
        if room.is_narrow(MARGIN_BACK) {
            self.narrow = Some(now);
        } else if now.saturating_duration_since(narrow) >= self.hold {
            (self.narrow, self.returned) = (None, Some(now));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::origin;

    const WIDE: Room =
        Room { estimate_bps: Some(1_000_000), is_end: true, sound_bps: 100_000, video_bps: 150_000, is_short: false };
    const NARROW: Room = Room { estimate_bps: Some(200_000), ..WIDE };

    /// Seconds after which it is back, with room from now on.
    fn back_after(redundancy: &mut Redundancy, now: &mut Instant) -> u64 {
        let began = *now;
        while redundancy.is_withheld() {
            *now += Duration::from_millis(100);
            redundancy.weigh(*now, &WIDE);
        }
        (*now - began).as_secs()
    }

    #[test]
    fn it_goes_where_there_is_no_room_for_it() {
        let cases = [
            (WIDE, false),
            (NARROW, true),
            (Room { is_end: false, ..NARROW }, false),
            (Room { estimate_bps: None, ..NARROW }, false),
            (Room { is_short: true, ..WIDE }, true),
            (Room { is_short: true, is_end: false, ..WIDE }, false),
            (Room { estimate_bps: Some(260_000), ..WIDE }, false),
            (Room { estimate_bps: Some(259_000), ..WIDE }, true),
            (Room { estimate_bps: Some(111_000), video_bps: 0, ..WIDE }, false),
            (Room { estimate_bps: Some(109_000), video_bps: 0, ..WIDE }, true),
        ];
        for (room, goes) in cases {
            let mut redundancy = Redundancy::default();
            assert_eq!(redundancy.weigh(origin(), &room), goes, "{room:?}");
            assert_eq!(redundancy.is_withheld(), goes, "{room:?}");
        }
    }

    #[test]
    fn it_comes_back_ten_seconds_after_the_need_and_later_each_time_that_it_flips() {
        let (mut redundancy, mut now) = (Redundancy::default(), origin());
        for seconds in [10, 20, 40, 80, 160, 160] {
            assert!(redundancy.weigh(now, &NARROW));
            assert_eq!(back_after(&mut redundancy, &mut now), seconds);
            now += Duration::from_secs(5);
        }
        // It has held for as long as it was waited for.
        now += Duration::from_secs(160);
        assert!(redundancy.weigh(now, &NARROW));
        assert_eq!(back_after(&mut redundancy, &mut now), 10);
    }

    #[test]
    fn what_was_left_out_needs_more_than_what_is_sent() {
        let (mut redundancy, mut now) = (Redundancy::default(), origin());
        redundancy.weigh(now, &NARROW);
        let just_enough = Room { estimate_bps: Some(300_000), ..WIDE };
        now += Duration::from_secs(60);
        redundancy.weigh(now, &just_enough);
        assert!(redundancy.is_withheld());
        assert_eq!(back_after(&mut redundancy, &mut now), 10);
        assert!(!redundancy.weigh(now, &just_enough));
    }

    proptest! {
        #[test]
        fn it_never_comes_back_sooner_than_ten_seconds(looks in prop::collection::vec((0u64..5_000, any::<bool>()), 1..200)) {
            let (mut redundancy, mut now) = (Redundancy::default(), origin());
            let mut went = None;
            for (ms, is_narrow) in looks {
                now += Duration::from_millis(ms);
                let was = redundancy.is_withheld();
                let goes = redundancy.weigh(now, if is_narrow { &NARROW } else { &WIDE });
                prop_assert_eq!(goes, !was && redundancy.is_withheld());
                if is_narrow {
                    prop_assert!(redundancy.is_withheld());
                    went = Some(now);
                } else if was && !redundancy.is_withheld() {
                    prop_assert!(went.is_some_and(|at| now - at >= HOLD));
                }
            }
        }
    }
}
