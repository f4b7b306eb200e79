//! Additive increase near what the link has carried before, multiplicative elsewhere, decrease to what it carries now.
//!
//! draft-ietf-rmcat-gcc-02 §5.5.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::delay::Usage;

/// After overuse: this share of what is acknowledged.
pub(super) const DECREASE: f64 = 0.85;
/// Multiplicative growth per second while far from any known limit.
const GROWTH_PER_SECOND: f64 = 1.08;
/// Never grow beyond this multiple of what is acknowledged: an estimate must be backed by traffic or by a probe.
const BACKED: f64 = 1.5;
const BACKED_BPS: f64 = 10_000.0;
/// Weight of a new sample in the memory of the link's capacity.
const MEMORY: f64 = 0.05;

#[derive(Serialize, Deserialize)]
pub(super) struct RateControl {
    bitrate_bps: f64,
    #[serde(with = "crate::moment")]
    last_update: Option<Instant>,
    #[serde(with = "crate::moment")]
    last_decrease: Option<Instant>,
    /// Mean and variance (relative) of the acknowledged rate at overuse, in kilobits a second.
    capacity: Option<(f64, f64)>,
}

impl RateControl {
    pub(super) fn new(start_bps: u64) -> Self {
        Self { bitrate_bps: start_bps as f64, last_update: None, last_decrease: None, capacity: None }
    }

    pub(super) fn bitrate_bps(&self) -> u64 {
        self.bitrate_bps as u64
    }

    /// Takes a rate found another way: a probe, loss, silence.
    pub(super) fn set(&mut self, bitrate_bps: u64) {
        if self.capacity.is_some_and(|(mean, _)| bitrate_bps as f64 / 1000.0 > mean * 1.5) {
            self.capacity = None;
        }
        self.bitrate_bps = bitrate_bps as f64;
    }

    /// `decrease`: after overuse, this share of what is acknowledged.
    pub(super) fn update(
        &mut self,
        now: Instant,
        usage: Usage,
        acknowledged_bps: Option<u64>,
        rtt: Duration,
        decrease: f64,
    ) -> u64 {
        let elapsed = self.last_update.replace(now).map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        match usage {
            Usage::Over => self.decrease(now, acknowledged_bps, rtt, decrease),
            Usage::Under => {} // the queue is emptying: let it
            Usage::Normal => self.increase(elapsed.min(1.0), acknowledged_bps, rtt),
        }
        self.bitrate_bps()
    }

    fn decrease(&mut self, now: Instant, acknowledged_bps: Option<u64>, rtt: Duration, share: f64) {
        let Some(acknowledged) = acknowledged_bps else { return };
        // One reaction a round trip: the effect of the last one must be seen first, unless it was far from enough.
        let acknowledged = acknowledged as f64;
        let recent = self
            .last_decrease
            .is_some_and(|at| now.saturating_duration_since(at) < rtt.max(Duration::from_millis(100)));
        if recent && self.bitrate_bps < acknowledged * 1.3 {
            return;
        }
        let target = share * acknowledged;
        self.remember(acknowledged / 1000.0);
        if target < self.bitrate_bps {
            self.bitrate_bps = target;
        }
        self.last_decrease = Some(now);
    }

    fn increase(&mut self, elapsed: f64, acknowledged_bps: Option<u64>, rtt: Duration) {
        let grown = if self.near_capacity(acknowledged_bps) {
            // About one packet a round trip plus the time the detector needs.
            let response = rtt.as_secs_f64() + 0.1;
            self.bitrate_bps + (9_600.0 / response).max(4_000.0) * elapsed
        } else {
            self.bitrate_bps * GROWTH_PER_SECOND.powf(elapsed) + 1_000.0 * elapsed
        };
        let backed = acknowledged_bps.map_or(self.bitrate_bps, |acked| acked as f64 * BACKED + BACKED_BPS);
        if grown <= backed {
            self.bitrate_bps = grown;
        }
    }

    fn near_capacity(&mut self, acknowledged_bps: Option<u64>) -> bool {
        let (Some((mean, variance)), Some(acknowledged)) = (self.capacity, acknowledged_bps) else { return false };
        let deviation = (variance * mean).sqrt();
        let kbps = acknowledged as f64 / 1000.0;
        if kbps > mean + 3.0 * deviation {
            self.capacity = None; // the link has become wider
            return false;
        }
        kbps > mean - 3.0 * deviation
    }

    fn remember(&mut self, kbps: f64) {
        let Some((mean, variance)) = self.capacity else {
            self.capacity = Some((kbps, 0.4));
            return;
        };
        if kbps < mean - 3.0 * (variance * mean).sqrt() {
            self.capacity = Some((kbps, 0.4)); // the link has become narrower
            return;
        }
        let new_mean = (1.0 - MEMORY) * mean + MEMORY * kbps;
        let error = (new_mean - kbps).powi(2) / new_mean.max(1.0);
        self.capacity = Some((new_mean, ((1.0 - MEMORY) * variance + MEMORY * error).clamp(0.4, 2.5)));
    }
}
