//! One subscriber's view of a stream: which encoding passes, and the numbers it passes under.
//!
//! Sequence number, timestamp and VP8's counters run on whatever is switched, muted or dropped.

use std::time::{Duration, Instant};

use crate::command::MediaKind;
use crate::ids::{SeqNo, Spatial, Temporal};
use crate::registers::codec::{PacketMeta, Vp8Counters};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Forward,
    /// Forward, and this encoding takes over from here.
    Switch,
    Drop(&'static str),
}

/// Picks the encoding that passes; changes it only at a key frame.
#[derive(Debug)]
pub struct Selector {
    kind: MediaKind,
    current: Option<u8>,
    target: Option<u8>,
    max_spatial_svc: u8,
    temporal: u8,
}

impl Selector {
    pub fn new(kind: MediaKind) -> Self {
        Self { kind, current: None, target: None, max_spatial_svc: 7, temporal: 0 }
    }

    /// Another source: nothing is being sent yet.
    pub fn restart(&mut self) {
        self.current = None;
    }

    /// `None` pauses.
    pub fn set_target(&mut self, target: Option<u8>) {
        self.target = target;
        if target.is_none() {
            self.current = None;
        }
    }

    /// For streams that hold several spatial layers: those above are left out at picture bounds.
    pub fn set_max_svc(&mut self, spatial: u8) {
        self.max_spatial_svc = spatial;
    }

    pub fn needs_keyframe(&self) -> bool {
        self.kind == MediaKind::Video && self.target.is_some() && self.current != self.target
    }

    pub fn wanted_spatial(&self) -> Option<Spatial> {
        self.target.or(self.current).map(Spatial)
    }

    pub fn current_spatial(&self) -> Option<Spatial> {
        self.current.map(Spatial)
    }

    pub fn target_spatial(&self) -> Option<Spatial> {
        self.target.map(Spatial)
    }

    pub fn current_temporal(&self) -> Temporal {
        Temporal(self.temporal)
    }

    pub fn decide(&mut self, encoding: u8, meta: &PacketMeta) -> Decision {
        let Some(target) = self.target else { return Decision::Drop("paused") };
        if self.current == Some(encoding) {
            self.temporal = self.temporal.max(meta.temporal);
            return Decision::Forward;
        }
        if encoding == target && (self.kind == MediaKind::Audio || meta.is_keyframe) {
            self.current = Some(encoding);
            return Decision::Switch;
        }
        Decision::Drop(if encoding == target { "waiting_for_keyframe" } else { "other_layer" })
    }
}

/// A packet's new numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Munged {
    pub seq: SeqNo,
    pub timestamp: u32,
    pub vp8: Option<(u16, u8)>,
}

/// Rewrites numbers so that the subscriber sees one stream.
#[derive(Debug)]
pub struct Munger {
    last_seq: u64,
    last_timestamp: u32,
    last_at: Option<Instant>,
    last_picture_id: u16,
    last_tl0: u8,
    /// The source that passes now: its first number, and what to add to its numbers.
    first_seq: u64,
    highest_in: u64,
    seq_offset: i64,
    timestamp_offset: u32,
    picture_id_offset: u16,
    tl0_offset: u8,
    is_switching: bool,
}

impl Munger {
    pub fn new(seq: u16, timestamp: u32) -> Self {
        Self {
            last_seq: u64::from(seq),
            last_timestamp: timestamp,
            last_at: None,
            last_picture_id: seq & 0x7fff,
            last_tl0: seq as u8,
            first_seq: 0,
            highest_in: 0,
            seq_offset: 0,
            timestamp_offset: 0,
            picture_id_offset: 0,
            tl0_offset: 0,
            is_switching: true,
        }
    }

    pub fn switch_source(&mut self) {
        self.is_switching = true;
    }

    /// What to add to the current source's timestamps.
    pub fn timestamp_offset(&self) -> Option<u32> {
        (!self.is_switching).then_some(self.timestamp_offset)
    }

    /// `None`: the packet is from before the point where this source took over.
    pub fn forward(
        &mut self,
        now: Instant,
        seq: SeqNo,
        timestamp: u32,
        vp8: Option<Vp8Counters>,
        clock_rate: u32,
    ) -> Option<Munged> {
        let vp8 = vp8.unwrap_or_default();
        if self.is_switching {
            self.take_over(now, seq, timestamp, vp8, clock_rate);
        }
        if seq.0 < self.first_seq {
            return None;
        }
        let out = SeqNo(seq.0.saturating_add_signed(self.seq_offset));
        let timestamp = timestamp.wrapping_add(self.timestamp_offset);
        let picture_id = vp8.picture_id.map_or(0, |(_, is_long, id)| {
            id.wrapping_add(self.picture_id_offset) & if is_long { 0x7fff } else { 0x7f }
        });
        let tl0 = vp8.tl0.map_or(0, |(_, tl0)| tl0.wrapping_add(self.tl0_offset));
        if seq.0 >= self.highest_in {
            self.highest_in = seq.0;
            self.last_seq = out.0;
            self.last_timestamp = timestamp;
            self.last_at = Some(now);
            if vp8.picture_id.is_some() {
                self.last_picture_id = picture_id;
            }
            if vp8.tl0.is_some() {
                self.last_tl0 = tl0;
            }
        }
        let has_counters = vp8.picture_id.is_some() || vp8.tl0.is_some();
        Some(Munged { seq: out, timestamp, vp8: has_counters.then_some((picture_id, tl0)) })
    }

    fn take_over(&mut self, now: Instant, seq: SeqNo, timestamp: u32, vp8: Vp8Counters, clock_rate: u32) {
        self.is_switching = false;
        self.first_seq = seq.0;
        self.highest_in = seq.0;
        self.seq_offset = self.last_seq as i64 + 1 - seq.0 as i64;
        let elapsed = self.last_at.map_or(0, |at| {
            (now.saturating_duration_since(at).as_micros() as u64 * u64::from(clock_rate) / 1_000_000).max(1) as u32
        });
        self.timestamp_offset = self.last_timestamp.wrapping_add(elapsed).wrapping_sub(timestamp);
        if let Some((_, _, id)) = vp8.picture_id {
            self.picture_id_offset = self.last_picture_id.wrapping_add(1).wrapping_sub(id);
        }
        if let Some((_, tl0)) = vp8.tl0 {
            self.tl0_offset = self.last_tl0.wrapping_add(1).wrapping_sub(tl0);
        }
    }
}

/// Where each sent number came from, so that it can be sent again out of the uptrack's history.
#[derive(Debug)]
pub struct SentHistory {
    ring: Vec<SentEntry>,
}

#[derive(Clone, Copy, Debug)]
pub struct SentEntry {
    out: u64,
    pub source: SeqNo,
    pub encoding: u8,
    pub codec: u8,
    pub munged: Munged,
    resends: u8,
    last: Option<Instant>,
}

const REMEMBERED: usize = 1_024;

impl SentHistory {
    pub fn new() -> Self {
        Self { ring: Vec::new() }
    }

    pub fn insert(&mut self, source: SeqNo, encoding: u8, codec: u8, munged: Munged) {
        let entry = SentEntry { out: munged.seq.0, source, encoding, codec, munged, resends: 0, last: None };
        let place = munged.seq.0 as usize % REMEMBERED;
        while self.ring.len() <= place {
            self.ring.push(SentEntry { out: u64::MAX, ..entry });
        }
        self.ring[place] = entry;
    }

    /// The entry of a 16-bit number if it may be sent again now: at most `max` times, once per `rtt`.
    pub fn take(&mut self, now: Instant, seq: u16, rtt: Duration, max: u8) -> Option<SentEntry> {
        // REMEMBERED divides 2^16, so the place follows from the 16 bits alone.
        let entry = self.ring.get_mut(usize::from(seq) % REMEMBERED)?;
        if entry.out as u16 != seq || entry.out == u64::MAX || entry.resends >= max {
            return None;
        }
        if entry.last.is_some_and(|at| now.saturating_duration_since(at) < rtt) {
            return None;
        }
        entry.resends += 1;
        entry.last = Some(now);
        Some(*entry)
    }
}
