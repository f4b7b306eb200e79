//! How loaded the packet thread is, interval by interval. No clock in here.

use std::time::{Duration, Instant};

use callyard_proto::overload::Reading;

/// Short enough to give way before sound suffers; one alone gives nothing up (`callyard_proto::overload`).
const INTERVAL: Duration = Duration::from_millis(250);
/// Of fewer batches a mean says nothing: a single packet that came in a bad moment is no overload.
const MIN_BATCHES: u32 = 8;

#[derive(Debug)]
pub(crate) struct Load {
    since: Instant,
    asleep_since: Option<Instant>,
    idle: Duration,
    waited: Duration,
    batches: u32,
}

impl Load {
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, asleep_since: None, idle: Duration::ZERO, waited: Duration::ZERO, batches: 0 }
    }

    pub(crate) fn sleeps(&mut self, now: Instant) {
        self.asleep_since = Some(now);
    }

    pub(crate) fn wakes(&mut self, now: Instant) {
        if let Some(since) = self.asleep_since.take() {
            self.idle += now.saturating_duration_since(since);
        }
    }

    /// Something was done that would have waited for anything else.
    pub(crate) fn spare(&mut self, time: Duration) {
        self.idle += time;
    }

    /// A batch was handed over whose oldest datagram had waited so long.
    pub(crate) fn received(&mut self, waited: Duration) {
        self.waited += waited;
        self.batches += 1;
    }

    /// The interval, if it is over.
    pub(crate) fn roll(&mut self, now: Instant) -> Option<Reading> {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < INTERVAL {
            return None;
        }
        let busy = elapsed.saturating_sub(self.idle).as_secs_f64() / elapsed.as_secs_f64();
        let wait = if self.batches < MIN_BATCHES { Duration::ZERO } else { self.waited / self.batches };
        *self = Self::new(now);
        Some(Reading { elapsed, busy, wait })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_and_spare_time_are_no_load_and_waiting_is_a_mean() {
        #[expect(clippy::disallowed_methods, reason = "one base instant; all others are reckoned from it")]
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut load = Load::new(start);
        load.sleeps(at(0));
        load.wakes(at(200));
        load.wakes(at(210));
        for _ in 0..4 {
            load.received(Duration::from_millis(30));
            load.received(Duration::from_millis(10));
        }
        load.spare(Duration::from_millis(100));
        assert_eq!(load.roll(at(249)), None);
        let reading = load.roll(at(600)).expect("the interval is over");
        assert_eq!((reading.elapsed, reading.wait), (Duration::from_millis(600), Duration::from_millis(20)));
        assert!((reading.busy - 0.5).abs() < 1e-9, "{reading:?}");
        load.received(Duration::from_millis(600));
        let next = load.roll(at(1_200)).expect("the next one");
        assert_eq!((next.busy, next.wait), (1.0, Duration::ZERO), "each begins anew, and one batch is no mean");
    }
}
