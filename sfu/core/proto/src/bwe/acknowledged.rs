//! Bitrate that the other end confirms, on its own clock: what the link has carried, whatever was sent.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Long enough for a rate from frames at 10 a second, short enough to follow a step down within a round trip or two.
const WINDOW: Duration = Duration::from_millis(500);
/// More are never kept: a receiver whose clock stands still would have all of them kept. So many full packets are [`MIN_SPAN`]
/// of 1 Gbit/s, and three windows of 50 Mbit/s.
const CAPACITY: usize = 16_384;
/// What has come through since the link narrowed: short, for the moment when the rate must fall.
const RECENT: Duration = Duration::from_millis(200);
/// Less than this says nothing about a rate.
const MIN_SPAN: Duration = Duration::from_millis(150);
/// A packet that has waited so long has come from a link that was busy; one that has not, from one that may have stood idle.
const WAITED: Duration = Duration::from_millis(10);
/// A busy link is measured as soon as a few packets have come.
const MIN_BUSY: Duration = Duration::from_millis(50);

#[derive(Default, Serialize, Deserialize)]
pub(super) struct AcknowledgedBitrate {
    arrivals: VecDeque<(Duration, u32)>,
    bytes: u64,
    /// Since when every packet has waited for others.
    busy_since: Option<Duration>,
}

impl AcknowledgedBitrate {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// `waited`: in the link's queue.
    pub(super) fn add(&mut self, received: Duration, bytes: u32, waited: Duration) {
        if self.arrivals.back().is_some_and(|(newest, _)| newest.saturating_sub(received) > WINDOW) {
            // No reordering is that long: its clock has stepped back, or had leapt ahead.
            *self = Self::default();
        }
        self.busy_since = (waited >= WAITED).then(|| self.busy_since.unwrap_or(received));
        let newest = self.arrivals.back().map_or(received, |(at, _)| (*at).max(received));
        self.arrivals.push_back((received, bytes));
        self.bytes += u64::from(bytes);
        while let Some((at, bytes)) = self.arrivals.front().copied()
            && (newest.saturating_sub(at) > WINDOW || self.arrivals.len() > CAPACITY)
        {
            self.arrivals.pop_front();
            self.bytes -= u64::from(bytes);
        }
    }

    pub(super) fn bitrate_bps(&self) -> Option<u64> {
        let (first, last) = (self.arrivals.front()?, self.arrivals.back()?);
        rate(last.0.saturating_sub(first.0), self.bytes - u64::from(first.1), MIN_SPAN)
    }

    /// Over the last moments only.
    pub(super) fn recent_bps(&self) -> Option<u64> {
        self.since(self.recent()?, MIN_SPAN)
    }

    /// Over those of the last moments in which the link was busy without a break: what it carries, whatever was sent.
    pub(super) fn busy_bps(&self) -> Option<u64> {
        self.since(self.busy_since?.max(self.recent()?), MIN_BUSY)
    }

    /// The first arrival within those times, and the bytes that came after it.
    pub(super) fn train(&self, span: Range<Duration>) -> Option<(Duration, u64)> {
        let mut found = None;
        let mut bytes = 0;
        for (at, len) in self.arrivals.iter().rev().take_while(|(at, _)| *at >= span.start) {
            if *at < span.end {
                found = Some((*at, bytes));
                bytes += u64::from(*len);
            }
        }
        found
    }

    fn recent(&self) -> Option<Duration> {
        Some(self.arrivals.back()?.0.saturating_sub(RECENT))
    }

    fn since(&self, from: Duration, min_span: Duration) -> Option<u64> {
        let newest = self.arrivals.back()?.0;
        let (mut bytes, mut first) = (0, None);
        for (at, len) in self.arrivals.iter().rev().take_while(|(at, _)| *at >= from) {
            bytes += u64::from(*len);
            first = Some((*at, *len));
        }
        let (at, len) = first?;
        rate(newest.saturating_sub(at), bytes - u64::from(len), min_span)
    }
}

/// The first packet opens the interval: its bytes arrived before it and are not among `bytes`.
fn rate(span: Duration, bytes: u64, min_span: Duration) -> Option<u64> {
    (span >= min_span).then(|| (bytes as f64 * 8.0 / span.as_secs_f64()) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_the_rate_within_its_window() {
        let mut acknowledged = AcknowledgedBitrate::new();
        assert_eq!(acknowledged.bitrate_bps(), None);
        for index in 0..100u64 {
            acknowledged.add(Duration::from_millis(index * 10), 1250, Duration::ZERO);
        }
        assert_eq!(acknowledged.bitrate_bps(), Some(1_000_000));
        for index in 0..60u64 {
            acknowledged.add(Duration::from_millis(1000 + index * 10), 625, Duration::ZERO);
            if index == 25 {
                assert!(acknowledged.bitrate_bps() > Some(700_000));
                assert_eq!(acknowledged.recent_bps(), Some(500_000));
            }
        }
        assert_eq!(acknowledged.bitrate_bps(), Some(500_000));
    }

    #[test]
    fn a_clock_that_leaps_or_steps_back_is_followed_within_moments() {
        let hours = Duration::from_secs(10 * 3_600);
        for (leap, back_to) in [(Some(hours * 2), hours), (None, Duration::ZERO)] {
            let mut acknowledged = AcknowledgedBitrate::new();
            (0..100).for_each(|index| acknowledged.add(hours + Duration::from_millis(index), 9_000, WAITED));
            if let Some(leap) = leap {
                acknowledged.add(leap, 1_250, WAITED);
            }
            for index in 0..30u64 {
                acknowledged.add(back_to + Duration::from_millis(100 + index * 10), 1_250, WAITED);
            }
            let known = (acknowledged.bitrate_bps(), acknowledged.busy_bps());
            assert_eq!(known, (Some(1_000_000), Some(1_000_000)), "{leap:?}");
        }
    }

    #[test]
    fn a_clock_that_stands_still_makes_nothing_grow() {
        let mut acknowledged = AcknowledgedBitrate::new();
        (0..100_000).for_each(|_| acknowledged.add(Duration::from_secs(5), 1_250, Duration::ZERO));
        assert_eq!((acknowledged.arrivals.len(), acknowledged.bytes), (CAPACITY, 1_250 * CAPACITY as u64));
    }

    #[test]
    fn a_train_is_measured_from_its_first_arrival() {
        let mut acknowledged = AcknowledgedBitrate::new();
        (0..10u64).for_each(|index| acknowledged.add(Duration::from_millis(index * 10), 1_000, Duration::ZERO));
        let train = |from, to| acknowledged.train(Duration::from_millis(from)..Duration::from_millis(to));
        assert_eq!(train(65, 90), Some((Duration::from_millis(70), 1_000)));
        assert_eq!(train(70, 95), Some((Duration::from_millis(70), 2_000)));
        assert_eq!(train(71, 80), None);
    }

    /// A large frame meets an idle link of 2 Mbit/s: what has come through before it says nothing of what that carries.
    #[test]
    fn a_link_is_measured_while_it_is_busy() {
        let mut acknowledged = AcknowledgedBitrate::new();
        (0..20u64).for_each(|index| acknowledged.add(Duration::from_millis(index * 20), 500, Duration::ZERO));
        assert_eq!(acknowledged.busy_bps(), None, "it never was");
        for index in 0..15u64 {
            acknowledged.add(Duration::from_millis(400 + index * 4), 1_000, WAITED);
            assert_eq!(acknowledged.busy_bps().is_some(), index >= 13, "{index}");
        }
        assert_eq!(acknowledged.busy_bps(), Some(2_000_000));
        assert!(acknowledged.recent_bps() < Some(1_000_000));
        acknowledged.add(Duration::from_millis(480), 500, Duration::ZERO);
        assert_eq!(acknowledged.busy_bps(), None, "it is empty again");
    }
}
