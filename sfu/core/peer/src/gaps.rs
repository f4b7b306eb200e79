//! What a receiver has of one stream and what it misses: asking again (RFC 4585), and its report block (RFC 3550 §6.4.1).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::rtcp::Block;

/// When a missing packet is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Repair {
    /// After its loss was noticed: time for reordered packets to come.
    pub first: Duration,
    pub again: Duration,
    pub tries: u32,
}

impl Default for Repair {
    fn default() -> Self {
        Self { first: Duration::from_millis(20), again: Duration::from_millis(60), tries: 20 }
    }
}

/// As libwebrtc does it while it does not know the round trip.
pub const LIBWEBRTC: Repair = Repair { first: Duration::ZERO, again: Duration::from_millis(100), tries: 10 };

/// More than this and a stream is not repaired but begun anew (libwebrtc's bound).
const MOST_MISSING: usize = 1_000;

#[derive(Default)]
pub struct Gaps {
    highest: Option<u64>,
    first: u64,
    /// Tries so far and the time of the next one.
    missing: BTreeMap<u64, (u32, Instant)>,
    received: u64,
    told: (u64, u64),
    transit: Option<i64>,
    jitter: f64,
    last_sr: Option<(u32, Instant)>,
}

impl Gaps {
    /// Notes a packet; false if it was noted before.
    pub fn arrived(&mut self, now: Instant, seq: u16, repair: Repair) -> bool {
        let seq = extend(self.highest, seq);
        let Some(highest) = self.highest else {
            (self.highest, self.first, self.received) = (Some(seq), seq, 1);
            return true;
        };
        if seq <= highest {
            let was_missing = self.missing.remove(&seq).is_some();
            self.received += u64::from(was_missing);
            return was_missing;
        }
        self.missing.extend((highest + 1..seq).map(|missing| (missing, (0, now + repair.first))));
        if self.missing.len() > MOST_MISSING {
            self.missing.clear();
        }
        self.highest = Some(seq);
        self.received += 1;
        true
    }

    /// Interarrival jitter (RFC 3550 §A.8); `rate` is the clock's in Hz.
    pub fn timed(&mut self, since_epoch: Duration, timestamp: u32, rate: u32) {
        let arrival = since_epoch.as_micros() as i64 * i64::from(rate) / 1_000_000;
        let transit = i64::from((arrival as u32).wrapping_sub(timestamp) as i32);
        if let Some(before) = self.transit {
            self.jitter += ((transit - before).unsigned_abs() as f64 - self.jitter) / 16.0;
        }
        self.transit = Some(transit);
    }

    pub fn sender_report(&mut self, now: Instant, ntp: u64) {
        self.last_sr = Some(((ntp >> 16) as u32, now));
    }

    /// When something must be asked for.
    pub fn deadline(&self) -> Option<Instant> {
        self.missing.values().map(|(_, at)| *at).min()
    }

    /// What is to be asked for now; given up after the last try.
    pub fn due(&mut self, now: Instant, repair: Repair) -> Vec<u16> {
        let mut due = Vec::new();
        self.missing.retain(|seq, (tries, at)| {
            if *at > now {
                return true;
            }
            if *tries >= repair.tries {
                return false;
            }
            due.push(*seq as u16);
            (*tries, *at) = (*tries + 1, now + repair.again);
            true
        });
        due
    }

    /// Nothing before `seq` is worth asking for any more.
    pub fn give_up_before(&mut self, seq: u16) {
        let seq = extend(self.highest, seq);
        self.missing = self.missing.split_off(&seq);
    }

    pub fn missing(&self) -> usize {
        self.missing.len()
    }

    pub fn block(&mut self, now: Instant, ssrc: u32) -> Option<Block> {
        let highest = self.highest?;
        let expected = highest - self.first + 1;
        let (of, got) = (expected - self.told.0, self.received - self.told.1);
        self.told = (expected, self.received);
        let (last_sr, since) = self.last_sr.unzip();
        let delay = since.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        Some(Block {
            ssrc,
            fraction_lost: (of.saturating_sub(got) * 256).checked_div(of).unwrap_or(0).min(255) as u8,
            cumulative_lost: (expected as i64 - self.received as i64) as i32,
            highest_seq: (highest - (1 << 20)) as u32,
            jitter: self.jitter as u32,
            last_sr: last_sr.unwrap_or(0),
            delay_since_last_sr: (delay * 65_536.0) as u32,
        })
    }
}

/// The 64-bit number nearest to `highest` that ends in `seq`; the first one starts high enough to have predecessors.
pub fn extend(highest: Option<u64>, seq: u16) -> u64 {
    match highest {
        None => (1 << 20) | u64::from(seq),
        Some(highest) => highest.saturating_add_signed(i64::from(seq.wrapping_sub(highest as u16) as i16)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_asked_for_until_given_up() {
        let start = crate::base();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let repair = Repair { tries: 2, ..Repair::default() };
        let mut gaps = Gaps::default();
        assert!(gaps.arrived(at(0), 65_534, repair));
        assert!(gaps.arrived(at(0), 2, repair));
        assert_eq!(gaps.deadline(), Some(at(20)));
        assert!(gaps.due(at(19), repair).is_empty());
        assert_eq!(gaps.due(at(20), repair), [65_535, 0, 1]);
        assert!(gaps.arrived(at(30), 0, repair) && !gaps.arrived(at(31), 0, repair), "once");
        let block = gaps.block(at(40), 7).unwrap();
        assert_eq!((block.fraction_lost, block.cumulative_lost), ((2 * 256 / 5) as u8, 2));
        assert_eq!(block.highest_seq, (1 << 16) + 2);
        assert_eq!(gaps.due(at(80), repair), [65_535, 1]);
        gaps.give_up_before(1);
        assert_eq!(gaps.missing(), 1);
        assert!(gaps.due(at(140), repair).is_empty());
        assert_eq!(gaps.missing(), 0);
    }
}
