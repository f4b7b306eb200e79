//! Freezes as getStats counts them: a frame that stays longer than max(3 × mean, mean + 150 ms) of the last 30 intervals
//! (W3C webrtc-stats, `freezeCount`, `totalFreezesDuration`).

use std::collections::VecDeque;

const FRAMES: usize = 30;

#[derive(Clone, Debug, Default)]
pub struct Freezes {
    intervals: VecDeque<f64>,
    last: Option<f64>,
    /// `(from, length)` in seconds.
    pub found: Vec<(f64, f64)>,
}

impl Freezes {
    pub fn shown(&mut self, at: f64) {
        if let Some(last) = self.last {
            self.interval(last, at - last);
            self.intervals.push_back(at - last);
            if self.intervals.len() > FRAMES {
                self.intervals.pop_front();
            }
        }
        self.last = Some(at);
    }

    /// The picture was taken away on purpose: what follows is no freeze.
    pub fn interrupted(&mut self) {
        self.last = None;
    }

    /// Counts what stands still at the end.
    pub fn end(&mut self, at: f64) {
        if let Some(last) = self.last.take() {
            self.interval(last, at - last);
        }
    }

    fn interval(&mut self, from: f64, length: f64) {
        if self.intervals.is_empty() {
            return;
        }
        let mean = self.intervals.iter().sum::<f64>() / self.intervals.len() as f64;
        if length > (3.0 * mean).max(mean + 0.15) {
            self.found.push((from, length));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_from_three_intervals_or_150_ms_more() {
        for (fps, gap, counts) in [(30.0, 0.18, false), (30.0, 0.19, true), (5.0, 0.59, false), (5.0, 0.61, true)] {
            let mut freezes = Freezes::default();
            let end = (0..60).map(f64::from).map(|i| i / fps).inspect(|at| freezes.shown(*at)).last().unwrap();
            freezes.shown(end + gap);
            assert_eq!(!freezes.found.is_empty(), counts, "{gap} at {fps}");
        }
        let mut freezes = Freezes::default();
        (0..60).for_each(|i| freezes.shown(f64::from(i) / 30.0));
        freezes.interrupted();
        freezes.shown(10.0);
        assert!(freezes.found.is_empty());
        freezes.end(12.0);
        assert_eq!(freezes.found, [(10.0, 2.0)]);
    }
}
