//! What all of a client's REMBs say together (draft-alvestrand-rmcat-remb-03 §2.2): each bounds the sum of the streams that
//! it names. Browsers send one for everything; stacks with an estimator a receiver (aiortc) send one for each.

use std::time::{Duration, Instant};

/// Clients repeat a REMB at least this often while they receive what it is about.
const LIFETIME: Duration = Duration::from_secs(3);

/// The latest REMB about some streams; no stream stands in two.
#[derive(Debug)]
struct Part {
    at: Instant,
    bitrate_bps: u64,
    ssrcs: Vec<u32>,
}

/// Bounded by the streams that the client is sent: nothing is kept of others.
#[derive(Debug, Default)]
pub struct RembSum {
    parts: Vec<Part>,
}

impl RembSum {
    /// Takes a REMB and returns what the client can receive in all. One that names nothing that is sent speaks of
    /// everything.
    pub fn take(
        &mut self,
        now: Instant,
        bitrate_bps: u64,
        ssrcs: impl Iterator<Item = u32>,
        is_sent: impl Fn(u32) -> bool,
    ) -> u64 {
        let mut ssrcs: Vec<u32> = ssrcs.filter(|ssrc| is_sent(*ssrc)).collect();
        ssrcs.sort_unstable();
        ssrcs.dedup();
        if ssrcs.is_empty() {
            self.parts.clear();
            return bitrate_bps;
        }
        self.parts.retain(|part| {
            let is_fresh = now.saturating_duration_since(part.at) < LIFETIME;
            is_fresh && part.ssrcs.iter().all(|ssrc| is_sent(*ssrc) && ssrcs.binary_search(ssrc).is_err())
        });
        self.parts.push(Part { at: now, bitrate_bps, ssrcs });
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.bitrate_bps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        Instant::now()
    }

    fn all(_: u32) -> bool {
        true
    }

    #[test]
    fn one_for_everything_is_the_whole_and_the_latest_counts() {
        let (mut sum, now) = (RembSum::default(), now());
        assert_eq!(sum.take(now, 900, [1, 2].into_iter(), all), 900);
        assert_eq!(sum.take(now, 700, [1, 2, 3].into_iter(), all), 700);
        assert_eq!(sum.take(now, 800, [3, 3, 1].into_iter(), all), 800);
    }

    #[test]
    fn those_of_several_receivers_add_up_while_they_are_fresh() {
        let (mut sum, now) = (RembSum::default(), now());
        assert_eq!(sum.take(now, 500, [1, 11].into_iter(), all), 500);
        assert_eq!(sum.take(now, 400, [2, 12].into_iter(), all), 900);
        assert_eq!(sum.take(now + LIFETIME / 2, 600, [1, 11].into_iter(), all), 1_000);
        assert_eq!(sum.take(now + LIFETIME, 650, [1, 11].into_iter(), all), 650, "the other one has stopped");
        assert_eq!(sum.take(now + LIFETIME, u64::MAX, [2].into_iter(), all), u64::MAX);
    }

    #[test]
    fn what_is_not_sent_or_not_sent_any_more_does_not_count() {
        let (mut sum, now) = (RembSum::default(), now());
        assert_eq!(sum.take(now, 500, [1].into_iter(), all), 500);
        assert_eq!(sum.take(now, 400, [2].into_iter(), |ssrc| ssrc == 2), 400, "1 has ended");
        for stranger in 100..10_000 {
            assert_eq!(sum.take(now, 300, [stranger].into_iter(), |ssrc| ssrc == 2), 300);
        }
        assert!(sum.parts.is_empty());
    }
}
