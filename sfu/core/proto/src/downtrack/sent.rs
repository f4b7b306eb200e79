//! What was sent to one subscriber under which number, so that a retransmission is the very same packet.
//!
//! Answers NACKs within a budget: no number more often than [`MAX_TIMES`], not twice within a round trip, and in all not
//! more than a share of the stream, so that a storm of requests costs the others nothing.

use std::time::{Duration, Instant};

use super::munger::PayloadPatch;
use crate::ids::{SeqNo, Spatial, Temporal};

/// Two seconds of a 1.8 Mbit/s stream in full packets, and more than any round trip needs; 64 bytes each.
pub const VIDEO_WINDOW: usize = 512;
/// As many as the uptrack's history of an audio stream keeps: more than a second.
pub const AUDIO_WINDOW: usize = 64;
const MAX_TIMES: u8 = 5;
/// Share of the stream's bytes that may be sent again (`reliability.md` S-19), saved up for a burst of loss.
const SHARE: f64 = 0.15;
/// What may be sent again before anything is saved up: a lost first key frame.
const BURST_BYTES: f64 = 64_000.0;

/// How a packet went out: enough to make it again from the uptrack's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentPacket {
    pub seq: SeqNo,
    /// Where the original is kept: encoding and number on the uptrack.
    pub encoding: Spatial,
    pub source: SeqNo,
    pub timestamp: u32,
    pub marker: bool,
    pub patch: PayloadPatch,
    pub frame_number_offset: u16,
    /// Index of the uptrack's codec.
    pub codec: u8,
    pub temporal: Temporal,
}

#[derive(Clone, Copy)]
struct Entry {
    packet: SentPacket,
    last: Option<Instant>,
    times: u8,
}

/// Why a NACK was not answered; labels the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// Never sent, or too long ago.
    Unknown,
    /// Asked again within a round trip.
    TooSoon,
    TooOften,
    OverBudget,
    /// Of a layer that the subscriber is not sent any more.
    Useless,
}

impl Refused {
    pub const ALL: [Refused; 5] = [Self::Unknown, Self::TooSoon, Self::TooOften, Self::OverBudget, Self::Useless];

    pub const fn as_str(self) -> &'static str {
        match self {
            Refused::Unknown => "unknown",
            Refused::TooSoon => "too_soon",
            Refused::TooOften => "too_often",
            Refused::OverBudget => "over_budget",
            Refused::Useless => "useless",
        }
    }
}

pub struct SentHistory {
    mask: usize,
    entries: Vec<Option<Entry>>,
    highest: Option<SeqNo>,
    budget_bytes: f64,
}

impl SentHistory {
    /// `window`: packets remembered, rounded up to a power of two; a stream that is never sent costs nothing.
    pub fn new(window: usize) -> Self {
        Self { mask: window.next_power_of_two() - 1, entries: Vec::new(), highest: None, budget_bytes: BURST_BYTES }
    }

    /// Remembers a packet that leaves now; `bytes` as on the wire.
    #[inline]
    pub fn push(&mut self, packet: SentPacket, bytes: usize) {
        if self.entries.is_empty() {
            self.entries = vec![None; self.mask + 1];
        }
        self.highest = self.highest.max(Some(packet.seq));
        self.entries[packet.seq.0 as usize & self.mask] = Some(Entry { packet, last: None, times: 0 });
        self.budget_bytes = (self.budget_bytes + bytes as f64 * SHARE).min(BURST_BYTES * 4.0);
    }

    /// The packet that was sent under `seq`.
    pub fn get(&self, seq: u16) -> Option<SentPacket> {
        let highest = self.highest?;
        let extended = highest.0.checked_sub(u64::from((highest.0 as u16).wrapping_sub(seq)))?;
        let entry = self.entries.get(extended as usize & self.mask)?.as_ref()?;
        (entry.packet.seq.0 == extended).then_some(entry.packet)
    }

    /// The packet that a subscriber's NACK for `seq` asks for, if it may be sent again.
    ///
    /// `is_useful`: whether it can still be shown to him.
    pub fn ask(
        &mut self,
        now: Instant,
        seq: u16,
        rtt: Duration,
        is_useful: impl FnOnce(&SentPacket) -> bool,
    ) -> Result<SentPacket, Refused> {
        let highest = self.highest.ok_or(Refused::Unknown)?;
        let back = u64::from((highest.0 as u16).wrapping_sub(seq));
        let extended = highest.0.checked_sub(back).ok_or(Refused::Unknown)?;
        let entry = self.entries[extended as usize & self.mask].as_mut().filter(|entry| entry.packet.seq.0 == extended);
        let entry = entry.ok_or(Refused::Unknown)?;
        if !is_useful(&entry.packet) {
            return Err(Refused::Useless);
        }
        if entry.times >= MAX_TIMES {
            return Err(Refused::TooOften);
        }
        if entry.last.is_some_and(|at| now.saturating_duration_since(at) < rtt) {
            return Err(Refused::TooSoon);
        }
        // What is left when little is left goes to the frames that the others need.
        let reserve = match entry.packet.temporal {
            Temporal(0) => 0.0,
            Temporal(1) => BURST_BYTES / 4.0,
            _ => BURST_BYTES / 2.0,
        };
        if self.budget_bytes <= reserve {
            return Err(Refused::OverBudget);
        }
        entry.times += 1;
        entry.last = Some(now);
        Ok(entry.packet)
    }

    /// What was sent as the `back`th before the last: the most likely to be missed, where something must be sent anyway.
    pub fn recent(&self, back: u64) -> Option<SentPacket> {
        let seq = self.highest?.0.checked_sub(back)?;
        let entry = self.entries.get(seq as usize & self.mask)?.as_ref()?;
        (entry.packet.seq.0 == seq).then_some(entry.packet)
    }

    /// Takes what was sent again out of the budget.
    pub fn spend(&mut self, bytes: usize) {
        self.budget_bytes -= bytes as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(seq: u64) -> SentPacket {
        SentPacket {
            seq: SeqNo(seq),
            encoding: Spatial(0),
            source: SeqNo(seq + 1000),
            timestamp: 0,
            marker: false,
            patch: PayloadPatch::default(),
            frame_number_offset: 0,
            codec: 0,
            temporal: Temporal(0),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the origin of virtual time")]
    fn origin() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_packet_is_found_by_its_wrapped_number() {
        let (mut sent, now, rtt) = (SentHistory::new(VIDEO_WINDOW), origin(), Duration::from_millis(50));
        for seq in 65_500..65_600 {
            sent.push(packet(seq), 1200);
        }
        assert_eq!(sent.ask(now, 65_530, rtt, |_| true).unwrap().source, SeqNo(66_530));
        assert_eq!(sent.ask(now, 20, rtt, |_| true).unwrap().source, SeqNo(65_556 + 1000));
        assert_eq!(sent.ask(now, 65_499, rtt, |_| true), Err(Refused::Unknown));
        assert_eq!(sent.ask(now, 64, rtt, |_| true), Err(Refused::Unknown), "not sent yet");
    }

    #[test]
    fn nobody_gets_the_same_too_soon_too_often_or_beyond_the_budget() {
        let (mut sent, mut now, rtt) = (SentHistory::new(VIDEO_WINDOW), origin(), Duration::from_millis(50));
        sent.push(packet(1), 1200);
        for times in 1..=MAX_TIMES {
            assert!(sent.ask(now, 1, rtt, |_| true).is_ok());
            let refused = if times < MAX_TIMES { Refused::TooSoon } else { Refused::TooOften };
            assert_eq!(sent.ask(now + rtt / 2, 1, rtt, |_| true), Err(refused));
            now += rtt;
        }
        assert_eq!(sent.ask(now, 1, rtt, |_| true), Err(Refused::TooOften));
        sent.push(packet(2), 1200);
        sent.spend(70_000);
        assert_eq!(sent.ask(now, 2, rtt, |_| true), Err(Refused::OverBudget));
        for seq in 3..100 {
            sent.push(packet(seq), 1200);
        }
        assert!(sent.ask(now, 2, rtt, |_| true).is_ok(), "the stream earns its repairs");
        sent.push(SentPacket { temporal: Temporal(2), ..packet(200) }, 1200);
        assert_eq!(sent.ask(now, 200, rtt, |_| true), Err(Refused::OverBudget), "the base comes first");
    }
}
