//! A seeded link in virtual time: delay, jitter, loss (even or in bursts), reordering, duplication, and a rate with a queue.
//!
//! The same seed gives the same fate to the same packets. It carries any value; only its size matters here.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub struct LinkConfig {
    pub delay: Duration,
    /// Uniform, added to `delay`; order is kept unless `reorder` says otherwise.
    pub jitter: Duration,
    /// Share of packets lost, 0.0 – 1.0.
    pub loss: f64,
    /// Packets lost in a row once one is lost.
    pub loss_burst: u32,
    /// Share of packets that overtake or are overtaken.
    pub reorder: f64,
    /// Share of packets that arrive twice.
    pub duplicate: f64,
    /// Bits a second; `None`: no limit.
    pub rate_bps: Option<u64>,
    /// Time that a packet may wait for the rate before it is dropped.
    pub queue: Duration,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(20),
            jitter: Duration::ZERO,
            loss: 0.0,
            loss_burst: 1,
            reorder: 0.0,
            duplicate: 0.0,
            rate_bps: None,
            queue: Duration::from_millis(300),
        }
    }
}

pub struct Link<T> {
    pub config: LinkConfig,
    seed: u64,
    in_flight: BTreeMap<(Instant, u64), T>,
    next_id: u64,
    busy_until: Option<Instant>,
    last_arrival: Option<Instant>,
    burst_left: u32,
    pub lost: u64,
}

impl<T: Clone> Link<T> {
    pub fn new(config: LinkConfig, seed: u64) -> Self {
        Self {
            config,
            seed: seed ^ 0x9e37_79b9_7f4a_7c15,
            in_flight: BTreeMap::new(),
            next_id: 0,
            busy_until: None,
            last_arrival: None,
            burst_left: 0,
            lost: 0,
        }
    }

    pub fn send(&mut self, now: Instant, size: usize, packet: T) {
        if self.is_lost() {
            self.lost += 1;
            return;
        }
        let mut leaves = now;
        if let Some(rate) = self.config.rate_bps {
            let starts = self.busy_until.map_or(now, |b| b.max(now));
            if starts - now > self.config.queue {
                self.lost += 1;
                return;
            }
            leaves = starts + Duration::from_secs_f64((size * 8) as f64 / rate as f64);
            self.busy_until = Some(leaves);
        }
        let copies = if self.chance(self.config.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let mut arrives = leaves + self.config.delay + self.config.jitter.mul_f64(self.uniform());
            if self.chance(self.config.reorder) {
                arrives += Duration::from_millis(5) + self.config.delay.mul_f64(self.uniform() * 0.5);
            } else {
                arrives = self.last_arrival.map_or(arrives, |last| last.max(arrives));
                self.last_arrival = Some(arrives);
            }
            self.next_id += 1;
            self.in_flight.insert((arrives, self.next_id), packet.clone());
        }
    }

    /// The next packet that has arrived by `now`.
    pub fn receive(&mut self, now: Instant) -> Option<T> {
        let key = *self.in_flight.first_key_value()?.0;
        if key.0 > now { None } else { self.in_flight.remove(&key) }
    }

    pub fn next_arrival(&self) -> Option<Instant> {
        self.in_flight.first_key_value().map(|(key, _)| key.0)
    }

    fn is_lost(&mut self) -> bool {
        if self.burst_left > 0 {
            self.burst_left -= 1;
            return true;
        }
        // A burst begins less often by as much as it is longer, so that `loss` stays the share.
        let starts = self.config.loss / f64::from(self.config.loss_burst.max(1));
        if self.chance(starts) {
            self.burst_left = self.config.loss_burst.saturating_sub(1);
            return true;
        }
        false
    }

    fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.uniform() < share
    }

    fn uniform(&mut self) -> f64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}
