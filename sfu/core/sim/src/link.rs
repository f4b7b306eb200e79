//! One direction of a subscriber's access: a drop-tail queue before a changing rate, delay, jitter, loss, and a rival.
//!
//! It carries any value; only its size on the wire matters. What it did is kept for the metrics.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::profile::{Profile, Rate};
use crate::random::Random;

/// IPv4 and UDP headers: links carry them too.
pub const IP_UDP_BYTES: usize = 28;
/// A queue is never shorter than this rate would need, bits a second: an outage holds packets, it does not drop them.
const LEAST_QUEUE_RATE: f64 = 300_000.0;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkSpec {
    pub rate: Option<Rate>,
    pub queue_ms: u64,
    /// One way.
    pub delay_ms: f64,
    /// Uniform, added to the delay; order is kept.
    pub jitter_ms: f64,
    /// Now and then whoever receives is held up, and reads at once what has come meanwhile.
    pub held_up: Option<HeldUp>,
    /// Share of packets lost behind the queue, both ways.
    pub loss: f64,
    /// Mean packets lost in a row (Gilbert's two states); 1: each on its own.
    pub burst: f64,
    pub rival: Option<Rival>,
}

impl Default for LinkSpec {
    fn default() -> Self {
        Self {
            rate: None,
            queue_ms: 300,
            delay_ms: 20.0,
            jitter_ms: 0.0,
            held_up: None,
            loss: 0.0,
            burst: 1.0,
            rival: None,
        }
    }
}

/// A machine with other work, or a radio that sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldUp {
    /// Seconds from one to the next, on average (exponential).
    pub every_s: f64,
    /// Uniform, down to nothing.
    pub longest_ms: f64,
}

/// Who else uses the link, towards the subscriber.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Rival {
    /// A flow that yields to nobody.
    Constant { kbps: f64, from_s: f64, to_s: f64 },
    /// One TCP download that halves its window on loss (RFC 5681).
    Reno { from_s: f64, to_s: f64 },
}

/// One packet's fate in the queue.
#[derive(Clone, Copy, Debug)]
pub struct Passage {
    /// Seconds since the link's start.
    pub at: f64,
    pub bytes: usize,
    /// Seconds in the queue; `None`: it was full.
    pub wait: Option<f64>,
}

pub struct Link<T> {
    pub profile: Profile,
    /// What is there for media: the profile less a rival's fixed rate, or half of it beside a rival that yields.
    pub free: Profile,
    pub passages: Vec<Passage>,
    pub lost: u64,
    spec: LinkSpec,
    start: Instant,
    random: Random,
    busy_until: f64,
    in_bad_state: bool,
    last_arrival: f64,
    /// When the next time of being held up begins and ends.
    held_up: (f64, f64),
    in_flight: BTreeMap<(Instant, u64), T>,
    next_id: u64,
    rival: Option<Flow>,
}

impl<T> Link<T> {
    /// `start` is second 0 of the profile; before it the rate of second 0 holds and nothing is lost.
    pub fn new(spec: LinkSpec, start: Instant, seconds: f64, mut random: Random) -> Self {
        let profile = spec.rate.as_ref().map_or_else(Profile::unlimited, |r| Profile::new(r, seconds, &mut random));
        let free = match spec.rival {
            Some(Rival::Constant { kbps, from_s, to_s }) => profile.between(from_s, to_s, |rate| rate - kbps * 1e3),
            Some(Rival::Reno { from_s, to_s }) => profile.between(from_s, to_s, |rate| rate / 2.0),
            None => profile.clone(),
        };
        let rival = spec.rival.clone().map(Flow::new);
        Self {
            profile,
            free,
            passages: Vec::new(),
            lost: 0,
            spec,
            start,
            random,
            busy_until: f64::NEG_INFINITY,
            in_bad_state: false,
            last_arrival: f64::NEG_INFINITY,
            held_up: (f64::NEG_INFINITY, f64::NEG_INFINITY),
            in_flight: BTreeMap::new(),
            next_id: 0,
            rival,
        }
    }

    pub fn send(&mut self, now: Instant, size: usize, packet: T) {
        let at = self.seconds(now);
        self.run_rival(at);
        let bytes = size + IP_UDP_BYTES;
        let leaves = self.enqueue(at, bytes);
        if at >= 0.0 {
            self.passages.push(Passage { at, bytes, wait: leaves.map(|(wait, _)| wait) });
        }
        let Some((_, leaves)) = leaves else { return };
        if at >= 0.0 && self.is_lost() {
            self.lost += 1;
            return;
        }
        let arrives = leaves + (self.spec.delay_ms + self.spec.jitter_ms * self.random.uniform()) / 1e3;
        self.last_arrival = self.read_at(arrives.max(self.last_arrival));
        self.next_id += 1;
        self.in_flight.insert((self.instant(self.last_arrival), self.next_id), packet);
    }

    /// The next packet that has arrived by `now`, with its time.
    pub fn receive(&mut self, now: Instant) -> Option<(Instant, T)> {
        let entry = self.in_flight.first_entry().filter(|entry| entry.key().0 <= now)?;
        let at = entry.key().0;
        Some((at, entry.remove()))
    }

    pub fn next_arrival(&self) -> Option<Instant> {
        self.in_flight.first_key_value().map(|(key, _)| key.0)
    }

    /// Seconds that a packet would wait now.
    pub fn wait(&self, now: Instant) -> f64 {
        (self.busy_until - self.seconds(now)).max(0.0)
    }

    /// When a packet is read that arrives at `at`, not before any other.
    fn read_at(&mut self, at: f64) -> f64 {
        let Some(spec) = self.spec.held_up else { return at };
        while self.held_up.1 < at {
            let from = self.held_up.1.max(0.0) - spec.every_s * (1.0 - self.random.uniform()).ln();
            self.held_up = (from, from + spec.longest_ms / 1e3 * self.random.uniform());
        }
        if at >= self.held_up.0 { self.held_up.1 } else { at }
    }

    /// Packets in the queue with their bits, as time to wait and time of leaving; `None` if it is full.
    fn enqueue(&mut self, at: f64, bytes: usize) -> Option<(f64, f64)> {
        let starts = self.busy_until.max(at);
        let backlog = self.profile.bits(at, starts);
        let room = self.spec.queue_ms as f64 / 1e3 * self.profile.at(at).max(LEAST_QUEUE_RATE);
        if backlog > room {
            return None;
        }
        self.busy_until = self.profile.done(starts, bytes as f64 * 8.0);
        Some((starts - at, self.busy_until))
    }

    /// Gilbert: a good state that loses nothing, a bad one that loses all.
    fn is_lost(&mut self) -> bool {
        let (loss, burst) = (self.spec.loss, self.spec.burst.max(1.0));
        if loss <= 0.0 {
            return false;
        }
        self.in_bad_state = if self.in_bad_state && burst > 1.0 {
            !self.random.chance(1.0 / burst)
        } else {
            self.random.chance(if burst > 1.0 { loss / (burst * (1.0 - loss)) } else { loss })
        };
        self.in_bad_state
    }

    fn run_rival(&mut self, until: f64) {
        let Some(mut rival) = self.rival.take() else { return };
        let round_trip = 2.0 * self.spec.delay_ms / 1e3;
        while let Some(at) = rival.next(until) {
            let fate = self.enqueue(at, Flow::BYTES);
            rival.sent(at, fate.map(|(_, leaves)| leaves + round_trip), round_trip);
        }
        self.rival = Some(rival);
    }

    fn seconds(&self, now: Instant) -> f64 {
        match now.checked_duration_since(self.start) {
            Some(after) => after.as_secs_f64(),
            None => -(self.start - now).as_secs_f64(),
        }
    }

    fn instant(&self, seconds: f64) -> Instant {
        if seconds >= 0.0 {
            self.start + Duration::from_secs_f64(seconds)
        } else {
            self.start - Duration::from_secs_f64(-seconds)
        }
    }
}

/// The rival's sender.
struct Flow {
    spec: Rival,
    due: f64,
    window: f64,
    threshold: f64,
    /// When packets under way are told of: their acknowledgement, or that they were lost.
    under_way: VecDeque<(f64, bool)>,
    recovers_until: f64,
}

impl Flow {
    const BYTES: usize = 1_500;

    fn new(spec: Rival) -> Self {
        let due = match spec {
            Rival::Constant { from_s, .. } | Rival::Reno { from_s, .. } => from_s,
        };
        let under_way = VecDeque::new();
        Self { spec, due, window: 10.0, threshold: 1e9, under_way, recovers_until: f64::NEG_INFINITY }
    }

    /// When the next packet leaves, if by `until`.
    fn next(&mut self, until: f64) -> Option<f64> {
        match self.spec {
            Rival::Constant { kbps, to_s, .. } => {
                let at = self.due;
                self.due += Self::BYTES as f64 * 8.0 / (kbps * 1e3);
                if at > until {
                    self.due = at;
                    return None;
                }
                (at < to_s).then_some(at)
            }
            Rival::Reno { to_s, .. } => loop {
                if (self.under_way.len() as f64) < self.window && self.due <= until && self.due < to_s {
                    return Some(self.due);
                }
                let &(at, was_lost) = self.under_way.front()?;
                if at > until {
                    return None;
                }
                self.under_way.pop_front();
                self.due = self.due.max(at);
                self.told(at, was_lost);
            },
        }
    }

    fn told(&mut self, at: f64, was_lost: bool) {
        if !was_lost {
            self.window += if self.window < self.threshold { 1.0 } else { 1.0 / self.window };
        } else if at > self.recovers_until {
            self.threshold = (self.window / 2.0).max(2.0);
            self.window = self.threshold;
            self.recovers_until = at + 0.1;
        }
    }

    fn sent(&mut self, at: f64, acknowledged: Option<f64>, round_trip: f64) {
        let last = self.under_way.back().map_or(at, |(at, _)| *at);
        let told = acknowledged.unwrap_or(at + round_trip).max(last);
        self.under_way.push_back((told, acknowledged.is_none()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(spec: LinkSpec) -> (Link<usize>, Instant) {
        let start = callyard_peer::base();
        (Link::new(spec, start, 60.0, Random::new(1, 1)), start)
    }

    fn constant(kbps: f64) -> Option<Rate> {
        Some(Rate::Constant { kbps })
    }

    #[test]
    fn the_queue_holds_its_time_and_drops_the_tail() {
        let (mut link, start) = link(LinkSpec { rate: constant(1_000.0), queue_ms: 100, ..LinkSpec::default() });
        for i in 0..20 {
            link.send(start, 1_250 - IP_UDP_BYTES, i);
        }
        let dropped = link.passages.iter().filter(|p| p.wait.is_none()).count();
        assert_eq!(dropped, 20 - 11, "each takes 10 ms; who would wait longer than 100 ms is dropped");
        let (at, first) = link.receive(start + Duration::from_secs(1)).unwrap();
        assert_eq!((at - start, first), (Duration::from_millis(30), 0));
        let rest: Vec<_> = std::iter::from_fn(|| link.receive(start + Duration::from_secs(1))).collect();
        assert_eq!(rest.last().unwrap().0 - start, Duration::from_millis(130));
    }

    #[test]
    fn who_is_held_up_reads_all_at_once() {
        let held_up = Some(HeldUp { every_s: 0.3, longest_ms: 20.0 });
        let (mut link, start) = link(LinkSpec { held_up, ..LinkSpec::default() });
        (0..60_000u64).for_each(|ms| link.send(start + Duration::from_millis(ms), 100, ms as usize));
        let late: Vec<f64> = std::iter::from_fn(|| link.receive(start + Duration::from_secs(100)))
            .map(|(at, sent_ms)| (at - start).as_secs_f64() * 1e3 - sent_ms as f64 - 20.0)
            .collect();
        let share = late.iter().filter(|late| **late > 0.1).count() as f64 / late.len() as f64;
        assert!((0.025..0.04).contains(&share), "10 of 310 ms on average: {share}");
        assert!(late.iter().all(|late| (-0.01..20.0).contains(late)), "never before its time, nor later than that");
        assert!(late.windows(2).all(|two| two[1] > two[0] - 1.01), "in order");
    }

    #[test]
    fn bursts_lose_the_same_share_as_single_losses() {
        for burst in [1.0, 8.0] {
            let (mut link, start) = link(LinkSpec { loss: 0.05, burst, ..LinkSpec::default() });
            let count = 100_000u64;
            for i in 0..count {
                link.send(start + Duration::from_micros(i * 100), 100, 0);
            }
            let share = link.lost as f64 / count as f64;
            assert!((0.045..0.055).contains(&share), "{share} in bursts of {burst}");
        }
    }

    #[test]
    fn a_download_fills_the_link_and_a_fixed_rival_takes_its_part() {
        let rival = Some(Rival::Reno { from_s: 0.0, to_s: 60.0 });
        let (mut greedy, start) = link(LinkSpec { rate: constant(2_000.0), rival, ..LinkSpec::default() });
        let mut waits = 0.0;
        for ms in 0..20_000 {
            greedy.run_rival(f64::from(ms) / 1e3);
            waits += greedy.wait(start + Duration::from_millis(ms as u64));
        }
        assert!(waits / 20_000.0 > 0.1, "the queue stands: {}", waits / 20_000.0);
        let rival = Some(Rival::Constant { kbps: 500.0, from_s: 0.0, to_s: 60.0 });
        let (fixed, _) = link(LinkSpec { rate: constant(2_000.0), rival, ..LinkSpec::default() });
        assert_eq!(fixed.free.at(1.0), 1.5e6);
    }
}
