//! Is the link's queue growing? Groups of packets, one-way delay gradient, trend line, adaptive threshold.
//!
//! draft-ietf-rmcat-gcc-02 §5 with the trend-line filter in place of the Kalman filter; constants of the deployed
//! implementation, as published in "Analysis and Design of the Google Congestion Control" (MMSys 2016) and after.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Usage {
    Normal,
    Over,
    Under,
}

/// Packets sent within this time are one group: a pacer's burst (gcc-02 §5.2).
const BURST: Duration = Duration::from_millis(5);
/// Of packets that have caught up with each other on their way, too, but not for longer than this.
const LONGEST_GROUP: Duration = Duration::from_millis(100);
/// Points of the regression.
const WINDOW: usize = 20;
const SMOOTHING: f64 = 0.9;
/// Gain of the trend in the comparison with the threshold.
const GAIN: f64 = 4.0;
const MAX_SAMPLES_IN_GAIN: f64 = 60.0;
/// Threshold in milliseconds and how fast it follows the signal up and down (gcc-02 §5.4).
const THRESHOLD_START: f64 = 12.5;
const THRESHOLD_MIN: f64 = 6.0;
const THRESHOLD_MAX: f64 = 600.0;
const FOLLOW_UP: f64 = 0.0087;
const FOLLOW_DOWN: f64 = 0.039;
/// A signal this far above the threshold is an outlier, not news.
const OUTLIER_MS: f64 = 15.0;
/// Overuse must last this long.
const OVERUSE_MS: f64 = 10.0;
/// Window of the smallest one-way delay: the empty queue.
const BASE_WINDOW: Duration = Duration::from_secs(30);

/// The queue is the least delay of what arrived within this time: a receiver that was held up reads all it missed at once,
/// and the last of it has hardly waited; behind a full link every packet has.
const QUEUE_WINDOW: Duration = Duration::from_millis(60);

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Group {
    #[serde(with = "crate::moment")]
    first_sent: Instant,
    #[serde(with = "crate::moment")]
    last_sent: Instant,
    last_received: Duration,
}

#[derive(Serialize, Deserialize)]
pub(super) struct DelaySignal {
    current: Option<Group>,
    previous: Option<Group>,
    #[serde(with = "crate::moment")]
    origin: Option<(Instant, Duration)>,
    accumulated_ms: f64,
    smoothed_ms: f64,
    /// (arrival in ms, smoothed accumulated delay in ms)
    points: VecDeque<(f64, f64)>,
    samples: u32,
    threshold_ms: f64,
    last_threshold_update: Option<Duration>,
    over_for_ms: f64,
    previous_trend: f64,
    usage: Usage,
    /// (arrival, one-way delay against the origin in ms), rising: the front is the smallest of the window.
    base: VecDeque<(Duration, f64)>,
    /// Likewise, of the last moments.
    recent: VecDeque<(Duration, f64)>,
    queue_ms: f64,
}

impl DelaySignal {
    pub(super) fn new() -> Self {
        Self {
            current: None,
            previous: None,
            origin: None,
            accumulated_ms: 0.0,
            smoothed_ms: 0.0,
            points: VecDeque::with_capacity(WINDOW + 1),
            samples: 0,
            threshold_ms: THRESHOLD_START,
            last_threshold_update: None,
            over_for_ms: 0.0,
            previous_trend: 0.0,
            usage: Usage::Normal,
            base: VecDeque::new(),
            recent: VecDeque::new(),
            queue_ms: 0.0,
        }
    }

    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// Delay above the smallest of the last half minute: how full the link's queue is, not whether it grows.
    pub(super) fn standing_queue(&self) -> Duration {
        Duration::from_secs_f64(self.queue_ms.max(0.0) / 1000.0)
    }

    /// A packet of a probe, or from its shadow: the queue it meets is of our making and says nothing about the link. Returns, as
    /// [`Self::add`] does, what it alone has waited, by the measure of [`Self::standing_queue`].
    pub(super) fn pass_over(&mut self, sent: Instant, received: Duration) -> Duration {
        let waited = self.measure_queue(sent, received);
        (self.current, self.previous) = (None, None);
        self.points.clear();
        (self.accumulated_ms, self.smoothed_ms, self.previous_trend) = (0.0, 0.0, 0.0);
        self.over_for_ms = 0.0;
        self.usage = Usage::Normal;
        waited
    }

    pub(super) fn add(&mut self, sent: Instant, received: Duration) -> Duration {
        self.group(sent, received);
        self.measure_queue(sent, received)
    }

    fn group(&mut self, sent: Instant, received: Duration) {
        let Some(current) = &mut self.current else {
            self.current = Some(Group::open(sent, received));
            return;
        };
        if sent < current.first_sent {
            return; // reordered over a group's border: it would measure the reordering
        }
        let since_first = sent.duration_since(current.first_sent);
        let is_burst = || {
            received.saturating_sub(current.last_received) <= BURST
                && since_first < LONGEST_GROUP
                && ms(received) - ms(current.last_received) < ms(sent.saturating_duration_since(current.last_sent))
        };
        if since_first <= BURST || is_burst() {
            current.last_sent = current.last_sent.max(sent);
            current.last_received = current.last_received.max(received);
            return;
        }
        let complete = *current;
        self.current = Some(Group::open(sent, received));
        if let Some(previous) = self.previous.replace(complete) {
            let sent_ms = ms(complete.last_sent.saturating_duration_since(previous.last_sent));
            let received_ms = ms(complete.last_received) - ms(previous.last_received);
            self.gradient(received_ms - sent_ms, sent_ms, complete.last_received);
        }
    }

    fn measure_queue(&mut self, sent: Instant, received: Duration) -> Duration {
        let (origin_sent, origin_received) = *self.origin.get_or_insert((sent, received));
        let delay = ms(received) - ms(origin_received) - signed_ms(sent, origin_sent);
        push_rising(&mut self.base, received, delay);
        while self.base.front().is_some_and(|(at, _)| received.saturating_sub(*at) > BASE_WINDOW) {
            self.base.pop_front();
        }
        push_rising(&mut self.recent, received, delay);
        while self.recent.front().is_some_and(|(at, _)| received.saturating_sub(*at) > QUEUE_WINDOW) {
            self.recent.pop_front();
        }
        let least = |window: &VecDeque<(Duration, f64)>| window.front().map_or(delay, |(_, least)| *least);
        let empty = least(&self.base);
        self.queue_ms = least(&self.recent) - empty;
        Duration::from_secs_f64((delay - empty).max(0.0) / 1000.0)
    }

    fn gradient(&mut self, change_ms: f64, sent_ms: f64, received: Duration) {
        self.samples += 1;
        self.accumulated_ms += change_ms;
        self.smoothed_ms = SMOOTHING * self.smoothed_ms + (1.0 - SMOOTHING) * self.accumulated_ms;
        self.points.push_back((ms(received), self.smoothed_ms));
        if self.points.len() > WINDOW {
            self.points.pop_front();
        }
        let trend = if self.points.len() == WINDOW { slope(&self.points) } else { self.previous_trend };
        let signal = trend * f64::from(self.samples).min(MAX_SAMPLES_IN_GAIN) * GAIN;
        self.detect(signal, trend, sent_ms);
        self.follow(signal, received);
        self.previous_trend = trend;
    }

    fn detect(&mut self, signal: f64, trend: f64, sent_ms: f64) {
        if signal > self.threshold_ms {
            self.over_for_ms += sent_ms;
            if self.over_for_ms > OVERUSE_MS && trend >= self.previous_trend {
                self.usage = Usage::Over;
            }
        } else {
            self.over_for_ms = 0.0;
            self.usage = if signal < -self.threshold_ms { Usage::Under } else { Usage::Normal };
        }
    }

    fn follow(&mut self, signal: f64, now: Duration) {
        let since = self.last_threshold_update.replace(now).map_or(0.0, |at| ms(now.saturating_sub(at)).min(100.0));
        let distance = signal.abs() - self.threshold_ms;
        if distance > OUTLIER_MS {
            return;
        }
        let speed = if distance < 0.0 { FOLLOW_DOWN } else { FOLLOW_UP };
        self.threshold_ms = (self.threshold_ms + speed * distance * since).clamp(THRESHOLD_MIN, THRESHOLD_MAX);
    }
}

/// Appends to a window whose front is its smallest.
fn push_rising<T>(window: &mut VecDeque<(T, f64)>, at: T, delay: f64) {
    while window.back().is_some_and(|(_, other)| *other >= delay) {
        window.pop_back();
    }
    window.push_back((at, delay));
}

impl Group {
    fn open(sent: Instant, received: Duration) -> Self {
        Self { first_sent: sent, last_sent: sent, last_received: received }
    }
}

fn slope(points: &VecDeque<(f64, f64)>) -> f64 {
    let count = points.len() as f64;
    let (mean_x, mean_y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / count, y + point.1 / count));
    let (mut covariance, mut variance) = (0.0, 0.0);
    for (x, y) in points {
        covariance += (x - mean_x) * (y - mean_y);
        variance += (x - mean_x) * (x - mean_x);
    }
    if variance > 0.0 { covariance / variance } else { 0.0 }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn signed_ms(later: Instant, earlier: Instant) -> f64 {
    if later >= earlier { ms(later - earlier) } else { -ms(earlier - later) }
}
