//! Other ways to choose layers, beside `callyard_proto::allocator` on the same input: brute force, and the greedy loops of
//! LiveKit, Jitsi and mediasoup as `allocation.md` describes them.
//!
//! Each returns the option of every candidate. They know nothing of utilities: that is what is compared.

use std::hint::black_box;
use std::time::{Duration, Instant};

use callyard_proto::allocator::{Candidate, Decision, LayerOption, Reason, allocate, value};
use callyard_proto::ids::{DowntrackId, Spatial, Temporal};

use crate::random::Random;

pub type Choice = Vec<Option<usize>>;

/// Sum of utilities less switch costs, as the allocator counts it.
pub fn worth(candidates: &[Candidate], choice: &Choice) -> f64 {
    let decision = |(candidate, option): (&Candidate, &Option<usize>)| Decision {
        downtrack: candidate.downtrack,
        option: *option,
        reason: Reason::Budget,
    };
    value(candidates, &candidates.iter().zip(choice).map(decision).collect::<Vec<_>>())
}

pub fn bits(candidates: &[Candidate], choice: &Choice) -> u64 {
    candidates.iter().zip(choice).filter_map(|(c, o)| o.map(|o| c.options[o].bitrate_bps)).sum()
}

/// The best of all choices that show every track; `None` if the cheapest of each do not fit. For a handful of tracks.
pub fn brute_force(budget: u64, candidates: &[Candidate]) -> Option<f64> {
    let Some((candidate, rest)) = candidates.split_first() else { return Some(0.0) };
    let worths = candidate.options.iter().enumerate().filter_map(|(index, option)| {
        let left = budget.checked_sub(option.bitrate_bps)?;
        let own = worth(std::slice::from_ref(candidate), &vec![Some(index)]);
        Some(own + brute_force(left, rest)?)
    });
    worths.max_by(f64::total_cmp)
}

/// LiveKit: by priority; spatial layers from the lowest, temporal ones within them, each track in turn while it lasts.
pub fn livekit(budget: u64, candidates: &[Candidate]) -> Choice {
    let mut pour = Pour::new(budget, candidates);
    let mut layers: Vec<(Spatial, Temporal)> = candidates.iter().flat_map(|c| c.options.iter().map(layer)).collect();
    layers.sort_unstable();
    layers.dedup();
    for wanted in layers {
        for index in by_priority(candidates) {
            if let Some(option) = candidates[index].options.iter().position(|o| layer(o) == wanted) {
                pour.give(index, option);
            }
        }
    }
    pour.choice
}

/// Jitsi: large sizes at low frame rates are left out; who is on stage climbs to 360p first, then each one layer in turn.
pub fn jitsi(budget: u64, candidates: &[Candidate]) -> Choice {
    let mut pour = Pour::new(budget, candidates);
    let ladders: Vec<Vec<usize>> = candidates
        .iter()
        .map(|candidate| {
            let top = |spatial| candidate.options.iter().filter(|o| o.spatial == spatial).map(|o| o.temporal).max();
            let mut ladder = ladder(candidate);
            ladder.retain(|&o| {
                let option = &candidate.options[o];
                option.spatial == Spatial(0) || Some(option.temporal) == top(option.spatial)
            });
            ladder
        })
        .collect();
    let stage = candidates.iter().map(|c| c.priority).max();
    let is_staged = candidates.iter().any(|c| Some(c.priority) != stage);
    let mut rungs = vec![0; candidates.len()];
    let order = by_priority(candidates);
    for &index in order.iter().filter(|&&i| is_staged && Some(candidates[i].priority) == stage) {
        while let Some(&option) = ladders[index].get(rungs[index]) {
            if candidates[index].options[option].spatial > Spatial(1) || !pour.give(index, option) {
                break;
            }
            rungs[index] += 1;
        }
    }
    take_turns(&mut pour, &order, &ladders, &mut rungs, |_| 1);
    pour.choice
}

/// mediasoup: one layer each by priority; then up to `priority` steps each, until nobody can grow.
pub fn mediasoup(budget: u64, candidates: &[Candidate]) -> Choice {
    let mut pour = Pour::new(budget, candidates);
    let ladders: Vec<Vec<usize>> = candidates.iter().map(ladder).collect();
    let mut rungs = vec![0; candidates.len()];
    let order = by_priority(candidates);
    for &index in &order {
        if let Some(&option) = ladders[index].first()
            && pour.give(index, option)
        {
            rungs[index] = 1;
        }
    }
    take_turns(&mut pour, &order, &ladders, &mut rungs, |index| candidates[index].priority.max(1));
    pour.choice
}

fn take_turns(
    pour: &mut Pour<'_>,
    order: &[usize],
    ladders: &[Vec<usize>],
    rungs: &mut [usize],
    steps: impl Fn(usize) -> u32,
) {
    let mut grew = true;
    while std::mem::take(&mut grew) {
        for &index in order {
            for _ in 0..steps(index) {
                let Some(&option) = ladders[index].get(rungs[index]) else { break };
                if !pour.give(index, option) {
                    break;
                }
                rungs[index] += 1;
                grew = true;
            }
        }
    }
}

/// A budget being poured over tracks.
struct Pour<'a> {
    candidates: &'a [Candidate],
    choice: Choice,
    left: u64,
}

impl<'a> Pour<'a> {
    fn new(budget: u64, candidates: &'a [Candidate]) -> Self {
        Self { candidates, choice: vec![None; candidates.len()], left: budget }
    }

    /// Gives a track this layer in place of what it has, if that fits.
    fn give(&mut self, index: usize, option: usize) -> bool {
        let options = &self.candidates[index].options;
        let had = self.choice[index].map_or(0, |o| options[o].bitrate_bps);
        let fits = options[option].bitrate_bps <= self.left + had;
        if fits {
            self.left = self.left + had - options[option].bitrate_bps;
            self.choice[index] = Some(option);
        }
        fits
    }
}

fn layer(option: &LayerOption) -> (Spatial, Temporal) {
    (option.spatial, option.temporal)
}

fn ladder(candidate: &Candidate) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidate.options.len()).collect();
    order.sort_by_key(|&o| layer(&candidate.options[o]));
    order
}

fn by_priority(candidates: &[Candidate]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(candidates[index].priority));
    order
}

/// A call whose ladders are as unlike as those of real encoders.
pub fn random_call(tracks: u64, layers: u64, random: &mut Random) -> Vec<Candidate> {
    let track = |id| {
        let (mut bitrate, mut utility) = (30_000 + random.bits() % 80_000, 1.0);
        let options = (0..layers).map(|layer| {
            bitrate += 20_000 + random.bits() % 150_000;
            utility += random.uniform();
            LayerOption {
                spatial: Spatial((layer / 3) as u8),
                temporal: Temporal((layer % 3) as u8),
                bitrate_bps: bitrate,
                utility,
                switch_cost: 0.05,
                allowed: true,
            }
        });
        Candidate { downtrack: DowntrackId(id), priority: 0, options: options.collect(), current: None }
    };
    (0..tracks).map(track).collect()
}

/// Prints what one allocation costs on this machine, and what the four ways make of the same calls.
pub fn report_cost() {
    println!("tracks x layers  budget   median    p95      worth of LiveKit's, Jitsi's, mediasoup's ÷ ours");
    for (tracks, layers) in [(5, 9), (20, 12), (50, 12)] {
        for share in [30, 60, 90] {
            let mut random = Random::new(1, tracks);
            let (mut times, mut ratios) = (Vec::new(), [0.0; 3]);
            let runs = 300;
            for _ in 0..runs {
                let call = random_call(tracks, layers, &mut random);
                let top: u64 = call.iter().filter_map(|c| c.options.last()).map(|o| o.bitrate_bps).sum();
                let budget = top * share / 100;
                let start = clock();
                let decisions = black_box(allocate(black_box(budget), black_box(&call)));
                times.push(clock().duration_since(start));
                let ours = value(&call, &decisions);
                let theirs = [livekit(budget, &call), jitsi(budget, &call), mediasoup(budget, &call)];
                for (ratio, choice) in ratios.iter_mut().zip(&theirs) {
                    *ratio += worth(&call, choice) / ours / f64::from(runs);
                }
            }
            times.sort_unstable();
            let us = |time: Duration| time.as_secs_f64() * 1e6;
            let (median, p95) = (us(times[times.len() / 2]), us(times[times.len() * 95 / 100]));
            let [a, b, c] = ratios;
            println!("{tracks:>6} x {layers:<6} {share:>5} % {median:>7.1} us {p95:>7.1} us   {a:.3}  {b:.3}  {c:.3}");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a cost is measured, nothing is decided by it")]
fn clock() -> Instant {
    Instant::now()
}
