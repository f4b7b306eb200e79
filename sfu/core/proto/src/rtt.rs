//! Round-trip time as report blocks tell it, smoothed as TCP does (RFC 6298 §2).

use std::time::Duration;

#[derive(Clone, Copy, Debug, Default)]
pub struct Rtt(Option<Duration>);

impl Rtt {
    pub fn observe(&mut self, sample: Duration) {
        self.0 = Some(self.0.map_or(sample, |smoothed| (smoothed * 7 + sample) / 8));
    }

    /// `None` before the first sample.
    pub fn smoothed(&self) -> Option<Duration> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F-07
    #[test]
    fn the_first_sample_counts_whole_and_later_ones_an_eighth() {
        let mut rtt = Rtt::default();
        rtt.observe(Duration::from_millis(80));
        rtt.observe(Duration::from_millis(160));
        assert_eq!(rtt.smoothed(), Some(Duration::from_millis(90)));
    }
}
