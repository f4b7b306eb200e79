//! How much a worker gives up when there is more to do than one core can: one level after the other, sound last of all.
//!
//! The packet thread says how an interval was, a level comes out. No clock, no socket; `engine::relief` acts on it.

use std::time::{Duration, Instant};

/// What is given up, each level with all before it. Sound, handshakes, checks and signaling never are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    #[default]
    Nothing,
    /// Probes and padding: nobody's estimate climbs.
    Probes,
    /// The largest layer of cameras that have several.
    TopLayers,
    /// All but the first few videos of each subscriber.
    ManyVideos,
    /// New video, which signaling refuses.
    NewVideos,
    /// Newcomers, whom signaling refuses.
    Joins,
}

impl Level {
    pub const ALL: [Self; 6] =
        [Self::Nothing, Self::Probes, Self::TopLayers, Self::ManyVideos, Self::NewVideos, Self::Joins];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Probes => "probes",
            Self::TopLayers => "top_layers",
            Self::ManyVideos => "many_videos",
            Self::NewVideos => "new_videos",
            Self::Joins => "joins",
        }
    }

    fn below(self) -> Self {
        Self::ALL[(self as usize).saturating_sub(1)]
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OverloadConfig {
    /// Load from which each level after [`Level::Nothing`] is reached, provided that those before it are. 1.0 is a thread
    /// that never sleeps, or packets that wait for `full_wait`.
    pub thresholds: [f64; Level::ALL.len() - 1],
    /// Packets that wait so long before they are read are a full load however much the thread sleeps.
    pub full_wait: Duration,
    /// The load must stay well below a level for so long until it is left.
    pub dwell: Duration,
    /// A level that came back soon after it was left is kept twice as long each time, up to this.
    pub backoff_max: Duration,
    /// Videos that each subscriber keeps at [`Level::ManyVideos`].
    pub videos: usize,
}

impl Default for OverloadConfig {
    fn default() -> Self {
        Self {
            thresholds: [0.8, 0.85, 0.9, 0.94, 0.97],
            full_wait: Duration::from_millis(50),
            dwell: Duration::from_millis(1_250),
            backoff_max: Duration::from_secs(30),
            videos: 4,
        }
    }
}

impl OverloadConfig {
    fn called_for(&self, load: f64) -> Level {
        let reached = self.thresholds.iter().take_while(|threshold| load >= **threshold).count();
        Level::ALL[reached]
    }
}

/// One interval of the packet thread.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    pub elapsed: Duration,
    /// Share of it in which the thread did not sleep, without what waits behind media: 0.0 – 1.0.
    pub busy: f64,
    /// Mean time that the oldest packet of a batch had waited for its turn.
    pub wait: Duration,
}

/// A level is left only where the load is below this share of what it is reached at.
const CALM: f64 = 0.9;
/// A level reached again within this time after it was left was left too early.
const REVERSAL: Duration = Duration::from_secs(10);
/// Much less than what the relief alone had brought: what there was too much of is gone.
const GONE: f64 = 0.6;
/// Within this time after a level is reached its relief is felt; what the load is then is what it brought.
const FELT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub struct Overload {
    config: OverloadConfig,
    level: Level,
    /// Of the interval before: one alone may be a machine that stood still.
    last: f64,
    dwell: Duration,
    reached_at: Option<Instant>,
    /// The load in spite of all that the level gives up, while that is not enough.
    held: f64,
    /// Since when the load is well below the level, and the most it was since, or before in spite of the relief.
    calm: Option<(Instant, f64)>,
    left_at: Option<Instant>,
}

impl Overload {
    pub fn new(config: OverloadConfig) -> Self {
        Self {
            config,
            level: Level::Nothing,
            last: 0.0,
            dwell: config.dwell,
            reached_at: None,
            held: 0.0,
            calm: None,
            left_at: None,
        }
    }

    pub fn level(&self) -> Level {
        self.level
    }

    /// Takes the interval that ends now. The new level, if it is another: up after two intervals, down one by one.
    pub fn note(&mut self, now: Instant, reading: Reading) -> Option<Level> {
        let wait = reading.wait.as_secs_f64() / self.config.full_wait.as_secs_f64().max(0.001);
        let load = reading.busy.max(wait);
        let lasting = load.min(std::mem::replace(&mut self.last, load));
        let called = self.config.called_for(lasting);
        if called > self.level {
            if self.left_at.is_some_and(|at| now.saturating_duration_since(at) < REVERSAL) {
                self.dwell = (self.dwell * 2).min(self.config.backoff_max).max(self.config.dwell);
            }
            (self.calm, self.reached_at, self.held) = (None, Some(now), 0.0);
            self.level = called;
            return Some(called);
        }
        if self.level == Level::Nothing {
            self.forgive(now);
            return None;
        }
        if load >= CALM * self.config.thresholds[self.level as usize - 1] {
            self.calm = None;
            if self.reached_at.is_some_and(|at| now.saturating_duration_since(at) >= FELT) {
                self.held = load;
            }
            return None;
        }
        let (since, most) = self.calm.unwrap_or((now, load.max(self.held)));
        if load < GONE * most {
            self.dwell = self.config.dwell;
        }
        self.calm = Some((since, most.max(load)));
        if now.saturating_duration_since(since) < self.dwell {
            return None;
        }
        (self.calm, self.held) = (Some((now, load)), 0.0);
        self.left_at = Some(now);
        self.level = self.level.below();
        Some(self.level)
    }

    fn forgive(&mut self, now: Instant) {
        if self.left_at.is_none_or(|at| now.saturating_duration_since(at) >= REVERSAL) {
            (self.dwell, self.left_at) = (self.config.dwell, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STEP: Duration = Duration::from_millis(500);

    #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
    fn base() -> Instant {
        Instant::now()
    }

    fn busy(busy: f64) -> Reading {
        Reading { elapsed: STEP, busy, wait: Duration::ZERO }
    }

    struct Run {
        overload: Overload,
        start: Instant,
        now: Instant,
    }

    impl Run {
        fn new() -> Self {
            let start = base();
            Self { overload: Overload::new(OverloadConfig::default()), start, now: start }
        }

        fn goes_on(&mut self, load: f64, seconds: f64) -> Level {
            for _ in 0..(seconds / STEP.as_secs_f64()) as usize {
                self.now += STEP;
                self.overload.note(self.now, busy(load));
            }
            self.overload.level()
        }

        /// Seconds until nothing is given up any more.
        fn recovers(&mut self, load: f64) -> f64 {
            let since = self.now;
            while self.goes_on(load, 0.5) != Level::Nothing {
                assert!(self.now < self.start + Duration::from_secs(3_600));
            }
            (self.now - since).as_secs_f64()
        }
    }

    #[test]
    fn each_level_is_reached_in_two_intervals_of_its_load() {
        let table = [
            (0.0, Level::Nothing),
            (0.79, Level::Nothing),
            (0.80, Level::Probes),
            (0.85, Level::TopLayers),
            (0.93, Level::ManyVideos),
            (0.95, Level::NewVideos),
            (0.97, Level::Joins),
            (1.0, Level::Joins),
        ];
        for (load, level) in table {
            let mut run = Run::new();
            assert_eq!(run.goes_on(load, 0.5), Level::Nothing, "one may be a hiccup");
            assert_eq!(run.goes_on(0.0, 0.5), Level::Nothing);
            run.goes_on(load, 0.5);
            assert_eq!(run.goes_on(load, 0.5), level, "{load}");
        }
    }

    #[test]
    fn packets_that_wait_are_load_however_much_the_thread_sleeps() {
        let mut run = Run::new();
        let wait = |ms| Reading { wait: Duration::from_millis(ms), ..busy(0.2) };
        assert_eq!(run.overload.note(run.now, wait(30)), None);
        assert_eq!(run.overload.note(run.now, wait(41)), None);
        assert_eq!(run.overload.note(run.now, wait(400)), Some(Level::Probes));
        assert_eq!(run.overload.note(run.now, wait(400)), Some(Level::Joins));
    }

    #[test]
    fn a_level_whose_order_is_broken_is_reached_after_those_before_it() {
        let config = OverloadConfig { thresholds: [0.9, 0.5, 0.95, 0.96, 0.97], ..OverloadConfig::default() };
        assert_eq!(config.called_for(0.6), Level::Nothing);
        assert_eq!(config.called_for(0.91), Level::TopLayers);
    }

    #[test]
    fn everything_is_back_within_ten_seconds() {
        let mut run = Run::new();
        assert_eq!(run.goes_on(1.0, 30.0), Level::Joins);
        let seconds = run.recovers(0.1);
        assert!((6.25..=8.0).contains(&seconds), "{seconds}");
    }

    #[test]
    fn a_load_just_below_a_level_leaves_it_nowhere() {
        let mut run = Run::new();
        assert_eq!(run.goes_on(0.97, 1.0), Level::Joins);
        assert_eq!(run.goes_on(0.9, 60.0), Level::Joins, "not well below what the level is reached at");
        assert_eq!(run.goes_on(0.86, 60.0), Level::NewVideos, "and then not below that of the next");
    }

    /// A load of 150 %: what is given up brings it to 60 %, and taken back it is there again.
    #[test]
    fn what_was_taken_back_too_early_is_kept_longer_each_time_and_no_longer_when_the_load_is_gone() {
        let mut run = Run::new();
        let mut changes = Vec::new();
        let mut before = Level::Nothing;
        for _ in 0..240 {
            let load = if run.overload.level() >= Level::ManyVideos { 0.6 } else { 1.0 };
            let level = run.goes_on(load, 0.5);
            if level == Level::Joins && before != Level::Joins {
                changes.push((run.now - run.start).as_secs_f64());
            }
            before = level;
        }
        assert!(changes.len() < 7, "{changes:?}");
        let pauses: Vec<f64> = changes.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.windows(2).all(|pair| pair[1] >= pair[0]), "{pauses:?}");
        run.goes_on(0.6, 1.0);
        let seconds = run.recovers(0.05);
        assert!(seconds <= 10.0, "{seconds}");
    }

    /// More than anything given up could bring down, and the second time soon after the first.
    #[test]
    fn a_load_that_goes_at_once_is_no_reason_to_wait_longer() {
        let mut run = Run::new();
        for _ in 0..2 {
            assert_eq!(run.goes_on(1.0, 5.0), Level::Joins);
            let seconds = run.recovers(0.1);
            assert!((6.25..=8.0).contains(&seconds), "{seconds}");
        }
    }

    proptest! {
        #[test]
        fn it_goes_down_one_by_one_and_comes_back_from_everything(loads in prop::collection::vec(0.0..2.0f64, 1..200)) {
            let mut run = Run::new();
            let (mut before, mut last) = (Level::Nothing, 0.0);
            for load in loads {
                let level = run.goes_on(load, 0.5);
                prop_assert!(level >= run.overload.config.called_for(load.min(last)));
                last = load;
                prop_assert!(level >= before || level == before.below());
                before = level;
            }
            prop_assert!(run.recovers(0.0) <= 5.0 * 30.0 + 1.0);
        }
    }
}
