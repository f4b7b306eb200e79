//! How much a link carries over time: a staircase of rates, written down or generated from a seed.

use serde::{Deserialize, Serialize};

use crate::random::Random;

/// A link's rate as a scenario gives it; kilobits and seconds since the subscriber's join.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Rate {
    Constant {
        kbps: f64,
    },
    /// `(from second, rate)`; the first begins at 0.
    Steps {
        steps: Vec<(f64, f64)>,
    },
    /// Up from `low` to `high` in a line, then down at once.
    Sawtooth {
        low: f64,
        high: f64,
        period_s: f64,
    },
    /// A mobile link: log-normal around its mean with a memory of seconds, and handovers that take most of it away.
    Lte {
        mean_kbps: f64,
    },
}

/// Bits a second over time; constant from each point to the next.
#[derive(Clone, Debug)]
pub struct Profile {
    points: Vec<(f64, f64)>,
}

/// Resolution of generated profiles, seconds.
const STEP: f64 = 0.1;
/// Time in which a mobile link forgets what it was, seconds; its deviation in log units.
const MEMORY: f64 = 3.0;
const DEVIATION: f64 = 0.45;
/// Handovers a second, and how long one takes.
const HANDOVERS: f64 = 0.04;
const HANDOVER_S: f64 = 0.3;

impl Profile {
    pub fn new(rate: &Rate, seconds: f64, random: &mut Random) -> Self {
        let ticks = (seconds / STEP).ceil() as usize + 1;
        let times = (0..ticks).map(|i| i as f64 * STEP);
        let points = match rate {
            Rate::Constant { kbps } => vec![(0.0, kbps * 1e3)],
            Rate::Steps { steps } => steps.iter().map(|(at, kbps)| (*at, kbps * 1e3)).collect(),
            Rate::Sawtooth { low, high, period_s } => {
                times.map(|t| (t, 1e3 * (low + (high - low) * (t % period_s) / period_s))).collect()
            }
            Rate::Lte { mean_kbps } => {
                let keep = (-STEP / MEMORY).exp();
                let (mut log, mut handover) = (DEVIATION * random.normal(), 0.0);
                times
                    .map(|t| {
                        log = log * keep + DEVIATION * (1.0 - keep * keep).sqrt() * random.normal();
                        if random.chance(HANDOVERS * STEP) {
                            handover = t + HANDOVER_S;
                        }
                        let share = (log - DEVIATION * DEVIATION / 2.0).exp().clamp(0.15, 2.5);
                        (t, mean_kbps * 1e3 * if t < handover { 0.1 } else { share })
                    })
                    .collect()
            }
        };
        Self { points }
    }

    /// As much as anybody could send.
    pub fn unlimited() -> Self {
        Self { points: vec![(0.0, 1e9)] }
    }

    /// Bits a second at second `t`; before the first point as at it.
    pub fn at(&self, t: f64) -> f64 {
        self.points[self.index(t)].1
    }

    /// Bits carried between two seconds.
    pub fn bits(&self, from: f64, to: f64) -> f64 {
        let (mut at, mut sum, mut index) = (from, 0.0, self.index(from));
        while at < to {
            let end = self.points.get(index + 1).map_or(to, |(next, _)| next.min(to));
            sum += self.points[index].1 * (end - at).max(0.0);
            at = end;
            index += 1;
        }
        sum
    }

    /// The second at which `bits` are through that are begun at `from`.
    pub fn done(&self, from: f64, mut bits: f64) -> f64 {
        let (mut at, mut index) = (from, self.index(from));
        loop {
            let rate = self.points[index].1.max(1.0);
            match self.points.get(index + 1) {
                Some((next, _)) if bits > rate * (next - at) => {
                    bits -= rate * (next - at);
                    at = *next;
                    index += 1;
                }
                _ => return at + bits / rate,
            }
        }
    }

    /// Seconds at which the rate changes to at most 0.7 or at least 1.4 of what it was.
    pub fn jumps(&self) -> impl Iterator<Item = (f64, f64, f64)> {
        self.points.windows(2).map(|pair| (pair[1].0, pair[0].1, pair[1].1)).filter(|(_, from, to)| {
            let share = to / from;
            share <= 0.7 || share >= 1.4
        })
    }

    /// The profile with another rate between two seconds.
    pub fn between(&self, from: f64, to: f64, rate: impl Fn(f64) -> f64) -> Self {
        let mut times: Vec<f64> = self.points.iter().map(|(at, _)| *at).chain([from, to]).collect();
        times.sort_by(f64::total_cmp);
        times.dedup();
        let at = |t: f64| if (from..to).contains(&t) { rate(self.at(t)).max(1.0) } else { self.at(t) };
        Self { points: times.into_iter().map(|t| (t, at(t))).collect() }
    }

    fn index(&self, t: f64) -> usize {
        self.points.partition_point(|(at, _)| *at <= t).saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_time_agree_over_steps() {
        let steps = Rate::Steps { steps: vec![(0.0, 1_000.0), (1.0, 500.0), (3.0, 2_000.0)] };
        let profile = Profile::new(&steps, 5.0, &mut Random::new(1, 1));
        assert_eq!(profile.at(-1.0), 1e6);
        assert_eq!(profile.bits(0.5, 3.5), 0.5e6 + 1e6 + 1e6);
        assert!((profile.done(0.5, 2.5e6) - 3.5).abs() < 1e-9);
        assert_eq!(profile.jumps().count(), 2);
        let less = profile.between(0.5, 2.0, |rate| rate - 4e5);
        assert_eq!([0.0, 0.5, 1.5, 2.0, 3.0].map(|t| less.at(t)), [1e6, 6e5, 1e5, 5e5, 2e6]);
    }

    #[test]
    fn a_mobile_link_keeps_near_its_mean_and_is_the_same_for_one_seed() {
        let make = |seed| Profile::new(&Rate::Lte { mean_kbps: 2_000.0 }, 600.0, &mut Random::new(seed, 7));
        let mean = make(1).bits(0.0, 600.0) / 600.0;
        assert!((1.4e6..2.6e6).contains(&mean), "{mean}");
        assert_eq!(make(1).points, make(1).points);
        assert_ne!(make(1).points, make(2).points);
    }
}
