//! A histogram of durations with buckets of 3 % of their value, in a fixed array: recording is an addition.

use std::time::Duration;

use serde::Serialize;

/// Buckets per power of two.
const SUB: u64 = 32;
const SUB_BITS: u32 = SUB.trailing_zeros();
/// Up to 2^40 ns, 18 minutes; longer ones count as that.
const BUCKETS: usize = ((40 - SUB_BITS as usize) + 1) * SUB as usize;

#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    buckets: Box<[u64; BUCKETS]>,
    count: u64,
    sum_ns: u64,
    max_ns: u64,
}

/// Nanoseconds; all zero if nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    pub count: u64,
    pub mean_ns: u64,
    pub p50_ns: u64,
    pub p90_ns: u64,
    pub p99_ns: u64,
    pub p999_ns: u64,
    pub max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), count: 0, sum_ns: 0, max_ns: 0 }
    }
}

impl Histogram {
    pub(crate) fn record(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(ns)] += 1;
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    pub(crate) fn summary(&self) -> Summary {
        Summary {
            count: self.count,
            mean_ns: self.sum_ns.checked_div(self.count).unwrap_or(0),
            p50_ns: self.quantile(500),
            p90_ns: self.quantile(900),
            p99_ns: self.quantile(990),
            p999_ns: self.quantile(999),
            max_ns: self.max_ns,
        }
    }

    /// The upper end of the bucket that holds the value at this rank, but not above the largest value.
    fn quantile(&self, per_mille: u64) -> u64 {
        let rank = (self.count * per_mille).div_ceil(1_000);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if rank > 0 && seen >= rank {
                return upper(index).min(self.max_ns);
            }
        }
        0
    }
}

fn bucket(ns: u64) -> usize {
    if ns < SUB {
        return ns as usize;
    }
    let exponent = 63 - ns.leading_zeros();
    let sub = (ns >> (exponent - SUB_BITS)) - SUB;
    ((u64::from(exponent - SUB_BITS + 1) * SUB + sub) as usize).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn upper(index: usize) -> u64 {
    let (row, sub) = (index as u64 / SUB, index as u64 % SUB);
    if row == 0 { sub } else { ((SUB + sub + 1) << (row - 1)) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_of_three_percent() {
        for ns in (0..200).chain((8..40).flat_map(|e| [(1 << e) - 1, 1 << e, (1 << e) + 12_345])) {
            let upper = upper(bucket(ns));
            assert!(ns >= 1 << 40 || (upper >= ns && upper - ns <= ns / 32 + 1), "{ns}: {upper}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.summary(), Summary::default());
        for us in 1..=1_000 {
            histogram.record(Duration::from_micros(us));
        }
        let summary = histogram.summary();
        for (got, us) in [(summary.p50_ns, 500), (summary.p90_ns, 900), (summary.p99_ns, 990), (summary.p999_ns, 999)] {
            assert!(got.abs_diff(us * 1_000) <= us * 1_000 / 30, "{got} for {us} µs");
        }
        assert_eq!((summary.count, summary.max_ns, summary.mean_ns), (1_000, 1_000_000, 500_500));
    }
}
