//! Loss as a sign of congestion: only where a queue grew, or where sending less made the loss go away.
//!
//! Radio links lose packets, in bursts too, at any rate; giving up a layer for that gains nothing. A shallow policer
//! drops without ever queueing; there the loss grows with what is sent. draft-ietf-rmcat-gcc-02 §6 with that doubt added.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// One point of the record.
const SLICE: Duration = Duration::from_millis(500);
/// Slices kept: what the link was like lately.
const SLICES: usize = 40;
/// Below this share nothing is done (gcc-02 §6).
const TOLERATED: f64 = 0.10;
/// Below this share the link counts as clean for probing.
const CLEAN: f64 = 0.10;
/// Fewer packets than this say nothing about a share.
const MIN_PACKETS: u32 = 20;

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Slice {
    packets: u32,
    lost: u32,
    bytes: u64,
}

impl Slice {
    fn share(&self) -> f64 {
        if self.packets == 0 { 0.0 } else { f64::from(self.lost) / f64::from(self.packets) }
    }

    fn bitrate_bps(&self) -> f64 {
        self.bytes as f64 * 8.0 / SLICE.as_secs_f64()
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct LossControl {
    slices: VecDeque<Slice>,
    open: Slice,
    #[serde(with = "crate::moment")]
    opened: Option<Instant>,
    /// When something was last counted; a feedback tells of many packets at one moment.
    #[serde(skip)]
    counted: Option<Instant>,
    #[serde(with = "crate::moment")]
    acted: Option<Instant>,
}

impl LossControl {
    pub(super) fn new() -> Self {
        Self {
            slices: VecDeque::with_capacity(SLICES + 1),
            open: Slice::default(),
            opened: None,
            counted: None,
            acted: None,
        }
    }

    pub(super) fn received(&mut self, now: Instant, bytes: u32) {
        self.count(now, bytes, false);
    }

    pub(super) fn lost(&mut self, now: Instant, bytes: u32) {
        self.count(now, bytes, true);
    }

    /// One that was counted as lost has come after all.
    pub(super) fn found(&mut self) {
        let lost = std::iter::once(&mut self.open).chain(self.slices.iter_mut().rev()).find(|slice| slice.lost > 0);
        if let Some(slice) = lost {
            slice.lost -= 1;
        }
    }

    /// True if the last second gives no reason to hold a probe back.
    pub(super) fn clean(&self) -> bool {
        self.recent(2).share() <= CLEAN || !self.grows_with_rate()
    }

    /// True if of all that was sent in the last twenty seconds nothing was lost.
    pub(super) fn is_lossless(&self) -> bool {
        let all = self.recent(SLICES);
        all.lost == 0 && all.packets >= MIN_PACKETS
    }

    /// An upper bound for the rate, if loss is taken for congestion.
    pub(super) fn bound(
        &mut self,
        now: Instant,
        estimate_bps: u64,
        acknowledged_bps: Option<u64>,
        queueing: bool,
    ) -> Option<u64> {
        let recent = self.recent(2);
        let share = recent.share();
        if recent.packets < MIN_PACKETS || share <= TOLERATED || !(queueing || self.grows_with_rate()) {
            return None;
        }
        if self.acted.is_some_and(|at| now.saturating_duration_since(at) < SLICE) {
            return None;
        }
        self.acted = Some(now);
        let reduced = estimate_bps as f64 * (1.0 - 0.5 * share);
        // What came through is known to fit: no reason to go below it.
        Some(reduced.max(acknowledged_bps.unwrap_or(0) as f64 * 0.95) as u64)
    }

    /// Was there clearly less loss while clearly less was sent?
    fn grows_with_rate(&self) -> bool {
        let recent = self.recent(2);
        let rate = recent.bitrate_bps() / 2.0;
        let mut slower = Slice::default();
        for slice in self.slices.iter().filter(|slice| slice.packets > 0 && slice.bitrate_bps() < 0.8 * rate) {
            slower.packets += slice.packets;
            slower.lost += slice.lost;
        }
        slower.packets >= MIN_PACKETS && recent.share() > 2.0 * slower.share() + 0.05
    }

    fn recent(&self, slices: usize) -> Slice {
        self.slices.iter().rev().take(slices).fold(self.open, |sum, slice| Slice {
            packets: sum.packets + slice.packets,
            lost: sum.lost + slice.lost,
            bytes: sum.bytes + slice.bytes,
        })
    }

    fn count(&mut self, now: Instant, bytes: u32, lost: bool) {
        if self.counted.replace(now) != Some(now) {
            self.turn(now);
        }
        self.open.packets += 1;
        self.open.lost += u32::from(lost);
        self.open.bytes += u64::from(bytes);
    }

    /// Begins the next slice where it is time.
    fn turn(&mut self, now: Instant) {
        let opened = *self.opened.get_or_insert(now);
        if now.saturating_duration_since(opened) >= SLICE {
            self.slices.push_back(std::mem::take(&mut self.open));
            if self.slices.len() > SLICES {
                self.slices.pop_front();
            }
            self.opened = Some(now);
        }
    }
}
