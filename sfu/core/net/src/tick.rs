//! When to sleep without looking at the socket, so that packets share wakes.
//!
//! Waking costs more CPU than forwarding (docs/adr/0001-packet-pump.md). Below one wake a tick every packet is taken
//! at once; above, the thread looks once a tick. Which of the two, the last interval decides. No clock in here.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Tick {
    length: Duration,
    interval_start: Instant,
    /// Passes of this interval that found datagrams.
    busy_passes: u32,
    ticking: bool,
}

/// Long enough to hold a video frame or two, short enough to follow a call that starts.
const INTERVAL: Duration = Duration::from_millis(50);

impl Tick {
    pub(crate) fn new(length: Duration, now: Instant) -> Self {
        Self { length, interval_start: now, busy_passes: 0, ticking: false }
    }

    /// How long to sleep with closed eyes; `None`: wait for the socket.
    pub(crate) fn pause(&mut self, now: Instant) -> Option<Duration> {
        self.roll(now);
        self.ticking.then_some(self.length)
    }

    /// A pass ended at `now` and had taken this many datagrams.
    pub(crate) fn note(&mut self, now: Instant, datagrams: usize) {
        self.roll(now);
        self.busy_passes += u32::from(datagrams > 0);
    }

    fn roll(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.interval_start);
        if elapsed < INTERVAL {
            return;
        }
        // How many ticks the interval could have held, against how many passes found something to do. Half of them
        // while ticking, all of them while not: the gap keeps a steady load from flapping.
        let possible = (elapsed.as_nanos() / self.length.as_nanos().max(1)).min(u128::from(u32::MAX)) as u32;
        let enough = if self.ticking { possible / 2 } else { possible };
        self.ticking = !self.length.is_zero() && self.busy_passes > enough.max(1);
        self.busy_passes = 0;
        self.interval_start = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "one base instant; all others are reckoned from it")]
    fn base() -> Instant {
        Instant::now()
    }

    /// Passes every `gap` for a second; returns whether the last one would pause.
    fn after_a_second_of(tick: &mut Tick, start: Instant, gap: Duration) -> bool {
        let mut now = start;
        while now < start + Duration::from_secs(1) {
            now += gap;
            tick.note(now, 1);
        }
        tick.pause(now).is_some()
    }

    #[test]
    fn light_load_never_waits_and_heavy_load_shares_wakes() {
        let start = base();
        let tick = || Tick::new(Duration::from_millis(1), start);
        assert!(!after_a_second_of(&mut tick(), start, Duration::from_millis(4)));
        assert!(!after_a_second_of(&mut tick(), start, Duration::from_micros(1100)));
        assert!(after_a_second_of(&mut tick(), start, Duration::from_micros(300)));
    }

    #[test]
    fn ticking_goes_on_while_most_ticks_find_something_and_ends_when_they_do_not() {
        let start = base();
        let mut tick = Tick::new(Duration::from_millis(1), start);
        assert!(after_a_second_of(&mut tick, start, Duration::from_micros(300)));
        let later = start + Duration::from_secs(1);
        assert!(after_a_second_of(&mut tick, later, Duration::from_micros(1060)));
        let latest = later + Duration::from_secs(1);
        assert!(!after_a_second_of(&mut tick, latest, Duration::from_millis(4)));
    }

    #[test]
    fn a_zero_tick_never_pauses() {
        let start = base();
        let mut tick = Tick::new(Duration::ZERO, start);
        assert!(!after_a_second_of(&mut tick, start, Duration::from_micros(50)));
    }
}
