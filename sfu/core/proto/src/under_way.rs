//! Pictures under way to a subscriber whose link loses some, so that what a report calls lost leaves again without being asked
//! for. Mostly that is a retransmission: its receiver asks again when the answer is overdue, and one that sends no media knows
//! of no round trip; libwebrtc waits 100 ms then, a picture as good as frozen. Or it is what was asked for in vain, where the
//! link loses packets on the way up, too.

use std::time::{Duration, Instant};

use crate::bwe::Arrival;
use crate::ids::Ssrc;

/// Packets remembered, a power of two: a second of 5 Mbit/s, and reports take a tenth and a round trip.
const PLACES: usize = 512;
/// More than that at once is no loss but an outage: what of it is still wanted its receiver knows better.
const OUTAGE: usize = 32;
/// Nothing is written down where nothing has been lost for so long.
const LOSSLESS: Duration = Duration::from_secs(10);

/// One that has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// What repairs its stream, and its number there.
    pub repairs: Ssrc,
    pub seq: u16,
    /// How often it had been sent again by then.
    pub times: u8,
}

#[derive(Default)]
pub struct UnderWay {
    /// By transport-wide number, whose low half stands beside; empty while nothing is lost.
    places: Vec<(u32, Option<Left>)>,
    lossless_at: Option<Instant>,
}

impl UnderWay {
    /// Whether it is worth knowing what leaves.
    #[inline]
    pub fn is_awake(&self) -> bool {
        !self.places.is_empty()
    }

    /// Remembers what has left under `number`.
    pub fn left(&mut self, number: u64, left: Left) {
        if let Some(place) = self.places.get_mut(number as usize % PLACES) {
            *place = (number as u32, Some(left));
        }
    }

    /// What is lost by a report, each once; nothing in an outage.
    pub fn lost(&mut self, now: Instant, arrivals: &[Arrival]) -> Vec<Left> {
        let mut lost = Vec::new();
        for arrival in arrivals.iter().filter(|arrival| arrival.received.is_none()) {
            self.lossless_at = Some(now + LOSSLESS);
            match self.places.get_mut(arrival.number as usize % PLACES) {
                Some((number, left)) if *number == arrival.number as u32 => lost.extend(left.take()),
                Some(_) => {}
                None => self.places = vec![Default::default(); PLACES],
            }
        }
        if lost.len() > OUTAGE {
            lost.clear();
        }
        lost
    }

    /// By the clock: gives the memory back.
    pub fn tick(&mut self, now: Instant) {
        if self.lossless_at.is_some_and(|at| at <= now) {
            self.clear();
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::origin;

    fn told(number: u64, has_come: bool) -> Arrival {
        Arrival { number, received: has_come.then_some(Duration::ZERO) }
    }

    fn left(seq: u16) -> Left {
        Left { repairs: Ssrc(1), seq, times: 0 }
    }

    #[test]
    fn what_is_lost_is_told_once_and_what_has_come_never() {
        let (mut under_way, now) = (UnderWay::default(), origin());
        let base = u64::from(u32::MAX);
        under_way.left(base, left(7));
        assert_eq!(under_way.lost(now, &[told(base, true)]), []);
        assert!(!under_way.is_awake(), "nothing is lost here");
        assert_eq!(under_way.lost(now, &[told(base, false)]), [], "it was not written down");
        for number in 1..=4u16 {
            under_way.left(base + u64::from(number), left(number));
        }
        let report = [told(base + 1, false), told(base + 2, true), told(base + 3, false), told(base + 5, false)];
        assert_eq!(under_way.lost(now, &report), [left(1), left(3)]);
        assert_eq!(under_way.lost(now, &report), []);
        under_way.clear();
        assert_eq!(under_way.lost(now, &[told(base + 4, false)]), []);
    }

    #[test]
    fn an_outage_is_left_to_its_receiver() {
        for (len, told_of) in [(OUTAGE as u64, OUTAGE), (OUTAGE as u64 + 1, 0)] {
            let (mut under_way, now) = (UnderWay::default(), origin());
            under_way.lost(now, &[told(0, false)]);
            (1..=len).for_each(|number| under_way.left(number, left(number as u16)));
            let report: Vec<Arrival> = (1..=len).map(|number| told(number, false)).collect();
            assert_eq!(under_way.lost(now, &report).len(), told_of);
        }
    }

    #[test]
    fn what_nobody_reports_on_makes_room_and_sleep_comes_with_the_last_loss_long_ago() {
        let (mut under_way, now) = (UnderWay::default(), origin());
        under_way.lost(now, &[told(0, false)]);
        for number in 1..=2 * PLACES as u64 {
            under_way.left(number, left(number as u16));
        }
        let places = PLACES as u64;
        assert_eq!(under_way.lost(now, &[told(1, false), told(places, false)]), []);
        let report = [told(places + 1, false), told(2 * places, false)];
        assert_eq!(under_way.lost(now, &report), [left(PLACES as u16 + 1), left(2 * PLACES as u16)]);
        under_way.tick(now + LOSSLESS - Duration::from_millis(1));
        assert!(under_way.is_awake());
        under_way.tick(now + LOSSLESS);
        assert!(!under_way.is_awake());
    }
}
