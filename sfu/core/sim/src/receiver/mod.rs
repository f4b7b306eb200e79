//! Modelled receivers: what of the packets that came is seen and heard, and when.

pub mod audio;
pub mod freeze;
pub mod video;

use std::collections::VecDeque;

/// Lateness of what came recently against the least late of it: what a jitter buffer is set by. Seconds.
#[derive(Default)]
pub struct Lateness {
    window: VecDeque<(f64, f64)>,
}

impl Lateness {
    /// Notes something with media time `media` that was whole at `at`; things older than `keep` are forgotten.
    pub fn note(&mut self, at: f64, media: f64, keep: f64) {
        self.window.push_back((at, at - media));
        while self.window.front().is_some_and(|(then, _)| *then < at - keep) {
            self.window.pop_front();
        }
    }

    /// Time of arrival less media time of the least late.
    pub fn base(&self) -> Option<f64> {
        self.window.iter().map(|(_, transit)| *transit).min_by(f64::total_cmp)
    }

    /// The lateness that `share` of all do not exceed.
    pub fn quantile(&self, share: f64) -> f64 {
        let Some(base) = self.base() else { return 0.0 };
        let mut sorted: Vec<f64> = self.window.iter().map(|(_, transit)| transit - base).collect();
        let index = ((sorted.len() - 1) as f64 * share).round() as usize;
        *sorted.select_nth_unstable_by(index, f64::total_cmp).1
    }
}

/// Unwraps 32-bit timestamps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwrap(Option<i64>);

impl Unwrap {
    pub fn next(&mut self, value: u32) -> i64 {
        let last = self.0.unwrap_or(i64::from(value));
        let full = last + i64::from(value.wrapping_sub(last as u32) as i32);
        self.0 = Some(self.0.map_or(full, |last| last.max(full)));
        full
    }
}
