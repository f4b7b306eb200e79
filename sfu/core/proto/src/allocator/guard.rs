//! Who may climb, and when: dwell after a change, growing back-off after a climb that had to be taken back.
//!
//! One [`Guard`] per downtrack. It says which layers are allowed; it does not choose.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::ids::Spatial;

/// Constants of the guard, all settings.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct GuardConfig {
    /// No climb sooner than this after any change of the spatial layer.
    pub dwell: Duration,
    /// A climb taken back within this time has failed.
    pub reversal: Duration,
    /// First wait after a failed climb to a layer; doubles with each further failure.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            dwell: Duration::from_secs(1),
            // What users notice as flapping, and what the reversal metric counts (`allocation.md`).
            reversal: Duration::from_secs(10),
            backoff_min: Duration::from_secs(2),
            backoff_max: Duration::from_secs(60),
        }
    }
}

/// Memory of one downtrack's climbs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    #[serde(with = "crate::moment")]
    changed: Option<Instant>,
    #[serde(with = "crate::moment")]
    climbed: Option<(Instant, Spatial)>,
    /// Per spatial layer: failures in a row, and until when it is barred.
    #[serde(with = "crate::moment")]
    failures: Vec<(u32, Option<Instant>)>,
}

impl Guard {
    /// True if `layer` may be chosen at `now` while `current` is being sent. Going down is always allowed.
    pub fn allows(&self, config: &GuardConfig, now: Instant, current: Option<Spatial>, layer: Spatial) -> bool {
        let Some(current) = current else { return true };
        if layer <= current {
            return true;
        }
        let dwelt = self.changed.is_none_or(|at| now.saturating_duration_since(at) >= config.dwell);
        dwelt && self.barred_until(layer).is_none_or(|until| now >= until)
    }

    /// True while a failed climb forbids `layer`: it is of no use to know whether the link would carry it.
    pub fn is_barred(&self, now: Instant, layer: Spatial) -> bool {
        self.barred_until(layer).is_some_and(|until| now < until)
    }

    /// Tells of a change of what is sent, for lack of bandwidth or for a gain of it.
    pub fn changed(&mut self, config: &GuardConfig, now: Instant, from: Option<Spatial>, to: Option<Spatial>) {
        if from == to {
            return;
        }
        self.changed = Some(now);
        if to > from {
            self.climbed = to.map(|layer| (now, layer));
            return;
        }
        if let Some((at, layer)) = self.climbed.take()
            && now.saturating_duration_since(at) < config.reversal
        {
            self.fail(config, now, layer);
        }
    }

    /// When the last climb began that has neither failed nor held yet.
    pub fn climbed_at(&self) -> Option<Instant> {
        self.climbed.map(|(at, _)| at)
    }

    /// Tells, before a fall, when the last of all the subscriber's climbs began: who climbed before was carried until then,
    /// and has not failed.
    pub fn falls_with(&mut self, last: Option<Instant>) {
        if self.climbed_at() < last {
            self.forgive();
        }
    }

    /// The last climb did not fail, whatever follows: another layer has become the better one, and there is room for both.
    pub fn forgive(&mut self) {
        self.climbed = None;
    }

    /// Tells that the layer being sent has been held: after the reversal time the climb has succeeded.
    pub fn settle(&mut self, config: &GuardConfig, now: Instant) {
        if let Some((at, layer)) = self.climbed
            && now.saturating_duration_since(at) >= config.reversal
        {
            self.climbed = None;
            if let Some(entry) = self.failures.get_mut(usize::from(layer.0)) {
                *entry = (0, None);
            }
        }
    }

    /// When the next bar or dwell ends, if any: the allocator should be asked again then.
    pub fn deadline(&self, config: &GuardConfig, now: Instant) -> Option<Instant> {
        let dwell = self.changed.map(|at| at + config.dwell);
        let bars = self.failures.iter().filter_map(|(_, until)| *until);
        bars.chain(dwell).filter(|at| *at > now).min()
    }

    fn barred_until(&self, layer: Spatial) -> Option<Instant> {
        // A bar on a layer bars the larger ones too: what failed for less will fail for more.
        self.failures.iter().take(usize::from(layer.0) + 1).filter_map(|(_, until)| *until).max()
    }

    fn fail(&mut self, config: &GuardConfig, now: Instant, layer: Spatial) {
        let index = usize::from(layer.0);
        if self.failures.len() <= index {
            self.failures.resize(index + 1, (0, None));
        }
        let (count, until) = &mut self.failures[index];
        let wait = config.backoff_min.saturating_mul(1 << (*count).min(16)).min(config.backoff_max);
        *count += 1;
        *until = Some(now + wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::origin;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_failed_climb_waits_longer_each_time_and_success_forgives() {
        let (config, mut now, mut guard) = (GuardConfig::default(), origin(), Guard::default());
        let (low, high) = (Some(Spatial(0)), Some(Spatial(1)));
        for expected in [2, 4, 8, 16, 32, 60, 60] {
            guard.changed(&config, now, low, high);
            now += SECOND;
            guard.changed(&config, now, high, low);
            assert!(!guard.allows(&config, now + SECOND * (expected - 1), low, Spatial(1)));
            assert!(!guard.allows(&config, now + SECOND * (expected - 1), low, Spatial(2)), "nor anything above");
            assert!(guard.allows(&config, now + SECOND * expected, low, Spatial(1)));
            assert_eq!(guard.deadline(&config, now + SECOND), Some(now + SECOND * expected));
            now += SECOND * expected;
        }
        guard.changed(&config, now, low, high);
        guard.settle(&config, now + SECOND * 10);
        now += SECOND * 60;
        guard.changed(&config, now, high, low);
        assert!(guard.allows(&config, now + SECOND, low, Spatial(1)), "a climb that held is no failure");
    }

    #[test]
    fn a_change_of_mind_bars_nothing() {
        let (config, now, mut guard) = (GuardConfig::default(), origin(), Guard::default());
        guard.changed(&config, now, Some(Spatial(0)), Some(Spatial(2)));
        guard.forgive();
        guard.changed(&config, now + SECOND, Some(Spatial(2)), Some(Spatial(1)));
        assert!(!guard.is_barred(now + SECOND, Spatial(2)));
        assert!(guard.allows(&config, now + SECOND + config.dwell, Some(Spatial(1)), Spatial(2)));
    }

    #[test]
    fn of_those_that_go_down_together_the_last_to_climb_has_failed() {
        let (config, now) = (GuardConfig::default(), origin());
        let (low, high) = (Some(Spatial(0)), Some(Spatial(1)));
        let mut guards = [Guard::default(), Guard::default()];
        guards[0].changed(&config, now, low, high);
        guards[1].changed(&config, now + SECOND * 4, low, high);
        let fall = now + SECOND * 5;
        let last = guards.iter().filter_map(Guard::climbed_at).max();
        for guard in &mut guards {
            guard.falls_with(last);
            guard.changed(&config, fall, high, low);
        }
        assert!(!guards[0].is_barred(fall, Spatial(1)));
        assert!(guards[1].is_barred(fall, Spatial(1)));
    }

    #[test]
    fn going_down_and_starting_are_always_allowed() {
        let (config, now, mut guard) = (GuardConfig::default(), origin(), Guard::default());
        guard.changed(&config, now, None, Some(Spatial(2)));
        assert!(guard.allows(&config, now, Some(Spatial(2)), Spatial(0)));
        assert!(guard.allows(&config, now, None, Spatial(2)));
        assert!(!guard.allows(&config, now, Some(Spatial(0)), Spatial(1)), "dwell");
        assert!(guard.allows(&config, now + config.dwell, Some(Spatial(0)), Spatial(1)));
    }
}
