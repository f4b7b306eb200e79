//! Which layer of every wanted track a subscriber is sent: bitrate in, layers out.
//!
//! Pure: no clock, no state; same input, same output. What must be remembered between calls (dwell, back-off after a
//! failed upgrade) is in [`guard`], what a layer is worth in [`utility`], the search in [`knapsack`]; whether sound has room for
//! RED in [`redundancy`]. It does not pace, probe or select packets. The algorithm as prose: `docs/concepts/allocation.md`.

pub mod guard;
mod knapsack;
pub mod redundancy;
pub mod utility;

use serde::{Deserialize, Serialize};

use crate::ids::{DowntrackId, Spatial, Temporal};
use knapsack::Item;

/// One wanted video track of one subscriber.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub downtrack: DowntrackId,
    /// Served first where not all can be: larger first.
    pub priority: u32,
    /// Every layer that could be sent now, in any order.
    pub options: Vec<LayerOption>,
    /// Index into `options` of what is being sent; `None`: nothing.
    pub current: Option<usize>,
}

/// One (spatial, temporal) point of a track.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerOption {
    pub spatial: Spatial,
    pub temporal: Temporal,
    /// Measured, RTP header included, retransmissions not.
    pub bitrate_bps: u64,
    /// What it is worth to the viewer; see [`utility::of`]. Must be positive and finite.
    pub utility: f64,
    /// What is lost by switching to it from the layer being sent: a key frame, a change of size on the screen.
    pub switch_cost: f64,
    /// False while a dwell or back-off forbids it. The layer being sent and cheaper ones are always allowed.
    pub allowed: bool,
}

/// What one track gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub downtrack: DowntrackId,
    /// Index into the candidate's options; `None`: paused.
    pub option: Option<usize>,
    pub reason: Reason,
}

/// Why a track is sent as it is; the label of the metric and of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The most valuable layer there is.
    Best,
    /// A better layer is worth less than what its bits give elsewhere, or does not fit.
    Budget,
    /// A better layer would fit but is held back by dwell or back-off.
    HeldBack,
    /// The best layer that the worker has the CPU for.
    Overload,
    /// Not even the smallest layer fits.
    NoRoom,
    /// The publisher sends nothing that could be forwarded.
    NoLayers,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Best => "best",
            Reason::Budget => "budget",
            Reason::HeldBack => "held_back",
            Reason::Overload => "overload",
            Reason::NoRoom => "no_room",
            Reason::NoLayers => "no_layers",
        }
    }
}

/// Chooses one layer per track so that the sum fits `budget_bps` and the sum of utilities is as large as can be found.
///
/// First every track gets its cheapest layer, in order of priority (a lower one is never shown in place of a starved higher
/// one); what is left is a multiple-choice knapsack over the layers, exact for the sizes of real calls.
///
/// `budget_bps`: what the link carries for video: the estimate less audio and the retransmission reserve.
pub fn allocate(budget_bps: u64, candidates: &[Candidate]) -> Vec<Decision> {
    let mut chosen: Vec<Option<usize>> = vec![None; candidates.len()];
    let mut left = budget_bps;
    for index in in_order_of_service(candidates) {
        let Some(floor) = cheapest(&candidates[index]) else { continue };
        let bitrate = candidates[index].options[floor].bitrate_bps;
        if bitrate > left {
            // Whoever comes later may still fit: leaving him out would not make room for this one.
            continue;
        }
        left -= bitrate;
        chosen[index] = Some(floor);
    }
    improve(candidates, &mut chosen, left);
    candidates.iter().zip(chosen).map(|(candidate, option)| decision(candidate, option, budget_bps)).collect()
}

/// Sum of utilities less switch costs of a set of decisions: what [`allocate`] maximises.
pub fn value(candidates: &[Candidate], decisions: &[Decision]) -> f64 {
    candidates
        .iter()
        .zip(decisions)
        .filter_map(|(candidate, decision)| decision.option.map(|option| worth(candidate, option)))
        .sum()
}

fn in_order_of_service(candidates: &[Candidate]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|&index| {
        let candidate = &candidates[index];
        let floor = cheapest(candidate).map_or(u64::MAX, |option| candidate.options[option].bitrate_bps);
        // Among equals the cheapest first: more people are seen. A tie keeps who is already shown.
        (std::cmp::Reverse(candidate.priority), floor, candidate.current.is_none(), candidate.downtrack)
    });
    order
}

fn cheapest(candidate: &Candidate) -> Option<usize> {
    let options = candidate.options.iter().enumerate();
    options.min_by_key(|(_, option)| (option.bitrate_bps, option.spatial, option.temporal)).map(|(index, _)| index)
}

fn worth(candidate: &Candidate, option: usize) -> f64 {
    let layer = &candidate.options[option];
    if candidate.current == Some(option) { layer.utility } else { layer.utility - layer.switch_cost }
}

/// Spends `left` bits a second on top of the floors in `chosen`.
fn improve(candidates: &[Candidate], chosen: &mut [Option<usize>], left: u64) {
    let mut items = Vec::with_capacity(candidates.len());
    for (index, candidate) in candidates.iter().enumerate() {
        let Some(floor) = chosen[index] else { continue };
        let base = candidate.options[floor].bitrate_bps;
        let mut item = Item::new(index, floor, worth(candidate, floor));
        for (option, layer) in candidate.options.iter().enumerate() {
            if option != floor && (layer.allowed || candidate.current == Some(option)) {
                item.offer(option, layer.bitrate_bps - base, worth(candidate, option));
            }
        }
        items.push(item);
    }
    for (index, option) in knapsack::solve(left, items) {
        chosen[index] = Some(option);
    }
}

fn decision(candidate: &Candidate, option: Option<usize>, budget_bps: u64) -> Decision {
    let best = candidate.options.iter().map(|layer| layer.utility).fold(f64::NEG_INFINITY, f64::max);
    let reason = match option {
        _ if candidate.options.is_empty() => Reason::NoLayers,
        None => Reason::NoRoom,
        Some(option) if candidate.options[option].utility >= best => Reason::Best,
        Some(option) => {
            let chosen = &candidate.options[option];
            let held = candidate
                .options
                .iter()
                .any(|layer| !layer.allowed && layer.utility > chosen.utility && layer.bitrate_bps <= budget_bps);
            if held { Reason::HeldBack } else { Reason::Budget }
        }
    };
    Decision { downtrack: candidate.downtrack, option, reason }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn option(spatial: u8, temporal: u8, bitrate_bps: u64, utility: f64) -> LayerOption {
        LayerOption {
            spatial: Spatial(spatial),
            temporal: Temporal(temporal),
            bitrate_bps,
            utility,
            switch_cost: 0.0,
            allowed: true,
        }
    }

    fn track(id: u64, priority: u32, options: Vec<LayerOption>) -> Candidate {
        Candidate { downtrack: DowntrackId(id), priority, options, current: None }
    }

    fn bits(candidates: &[Candidate], decisions: &[Decision]) -> u64 {
        let chosen = candidates.iter().zip(decisions);
        chosen.filter_map(|(c, d)| d.option.map(|option| c.options[option].bitrate_bps)).sum()
    }

    /// The camera of `allocation.md`: 180p, 360p, 720p with three temporal layers each.
    fn camera(id: u64) -> Candidate {
        let mut options = Vec::new();
        for (spatial, (bitrate, pixels)) in
            [(165_000, 57_600), (530_000, 230_400), (1_800_000, 921_600)].into_iter().enumerate()
        {
            for (temporal, (share, fps)) in [(0.45, 7.5), (0.65, 15.0), (1.0, 30.0)].into_iter().enumerate() {
                let bitrate = (f64::from(bitrate) * share) as u64;
                options.push(option(
                    spatial as u8,
                    temporal as u8,
                    bitrate,
                    f64::log2(f64::from(pixels) / 14_400.0) * fps / 30.0,
                ));
            }
        }
        track(id, 0, options)
    }

    #[test]
    fn frame_rate_is_kept_before_size() {
        // At 1 Mbit/s a peer shows 720p at 7.5 fps; 360p at 30 fps is worth more and fits with room to spare.
        let decisions = allocate(1_000_000, &[camera(1)]);
        let chosen = camera(1).options[decisions[0].option.unwrap()];
        assert_eq!((chosen.spatial, chosen.temporal), (Spatial(1), Temporal(2)));
        assert_eq!(decisions[0].reason, Reason::Budget);
    }

    #[test]
    fn everybody_is_seen_before_anybody_is_seen_better() {
        let candidates: Vec<_> = (0..10).map(camera).collect();
        let decisions = allocate(900_000, &candidates);
        assert!(decisions.iter().all(|decision| decision.option.is_some()));
        assert!(bits(&candidates, &decisions) <= 900_000);
    }

    #[test]
    fn a_higher_priority_is_never_starved_for_a_lower_one_that_would_make_room() {
        let share = track(1, 10, vec![option(0, 0, 500_000, 6.0)]);
        let thumb = track(2, 1, vec![option(0, 0, 100_000, 2.0)]);
        // A share that does not fit by itself blacks out nobody.
        let decisions = allocate(400_000, &[thumb.clone(), share.clone()]);
        assert_eq!(decisions.iter().map(|d| d.option).collect::<Vec<_>>(), [Some(0), None]);
        assert_eq!(decisions[1].reason, Reason::NoRoom);
        let decisions = allocate(550_000, &[thumb, share]);
        assert_eq!(decisions.iter().map(|d| d.option).collect::<Vec<_>>(), [None, Some(0)]);
    }

    #[test]
    fn what_is_held_back_is_not_chosen_and_says_so() {
        let mut candidate = track(1, 0, vec![option(0, 0, 100_000, 1.0), option(1, 0, 300_000, 2.0)]);
        candidate.current = Some(0);
        candidate.options[1].allowed = false;
        assert_eq!(allocate(1_000_000, &[candidate.clone()])[0].reason, Reason::HeldBack);
        candidate.options[1].allowed = true;
        assert_eq!(
            allocate(1_000_000, &[candidate])[0],
            Decision { downtrack: DowntrackId(1), option: Some(1), reason: Reason::Best }
        );
    }

    /// S-25
    #[test]
    fn a_switch_must_be_worth_its_cost() {
        let mut candidate = track(1, 0, vec![option(0, 0, 100_000, 1.0), option(1, 0, 300_000, 1.1)]);
        candidate.current = Some(0);
        candidate.options[1].switch_cost = 0.2;
        assert_eq!(allocate(1_000_000, &[candidate.clone()])[0].option, Some(0));
        candidate.current = Some(1);
        candidate.options[0].switch_cost = 0.2;
        assert_eq!(allocate(1_000_000, &[candidate])[0].option, Some(1));
    }

    #[test]
    fn nothing_to_send_is_said_so() {
        assert_eq!(allocate(1_000_000, &[track(1, 0, vec![])])[0].reason, Reason::NoLayers);
        assert_eq!(allocate(0, &[camera(1)])[0].reason, Reason::NoRoom);
        assert_eq!(allocate(1_000_000, &[]), []);
    }

    // --- oracles: brute force, and the loops of three peers from their description, on the same input ---

    fn brute_force(budget: u64, candidates: &[Candidate], from: usize) -> f64 {
        let Some(candidate) = candidates.get(from) else { return 0.0 };
        (0..candidate.options.len())
            .filter(|&option| candidate.options[option].bitrate_bps <= budget)
            .map(|option| {
                worth(candidate, option)
                    + brute_force(budget - candidate.options[option].bitrate_bps, candidates, from + 1)
            })
            .fold(f64::NEG_INFINITY, f64::max)
    }

    fn ladder(candidate: &Candidate) -> Vec<usize> {
        let mut order: Vec<usize> = (0..candidate.options.len()).collect();
        order.sort_by_key(|&o| (candidate.options[o].spatial, candidate.options[o].temporal));
        order
    }

    fn raise(candidates: &[Candidate], chosen: &mut [Option<usize>], index: usize, option: usize, budget: u64) -> bool {
        let used: u64 =
            candidates.iter().zip(chosen.iter()).filter_map(|(c, o)| o.map(|o| c.options[o].bitrate_bps)).sum();
        let own = chosen[index].map_or(0, |o| candidates[index].options[o].bitrate_bps);
        let fits = used - own + candidates[index].options[option].bitrate_bps <= budget;
        if fits {
            chosen[index] = Some(option);
        }
        fits
    }

    fn sum(candidates: &[Candidate], chosen: &[Option<usize>]) -> f64 {
        candidates.iter().zip(chosen).filter_map(|(c, o)| o.map(|o| worth(c, o))).sum()
    }

    /// LiveKit: water filling, spatial low to high, within it temporal low to high, every track in turn.
    fn water_filling(budget: u64, candidates: &[Candidate]) -> f64 {
        let mut chosen = vec![None; candidates.len()];
        for (spatial, temporal) in (0..3).flat_map(|s| (0..3).map(move |t| (Spatial(s), Temporal(t)))) {
            for (index, candidate) in candidates.iter().enumerate() {
                if let Some(o) = candidate.options.iter().position(|l| (l.spatial, l.temporal) == (spatial, temporal)) {
                    raise(candidates, &mut chosen, index, o, budget);
                }
            }
        }
        sum(candidates, &chosen)
    }

    /// Jitsi: raise each source one layer in turn until nobody can grow.
    /// mediasoup: the same after a first round of one layer each; `steps` layers a turn.
    fn turns(budget: u64, candidates: &[Candidate], steps: usize) -> f64 {
        let ladders: Vec<_> = candidates.iter().map(ladder).collect();
        let mut chosen = vec![None; candidates.len()];
        let mut rung = vec![0; candidates.len()];
        let mut grew = true;
        while std::mem::take(&mut grew) {
            for index in 0..candidates.len() {
                for _ in 0..if rung[index] == 0 { 1 } else { steps } {
                    let Some(&o) = ladders[index].get(rung[index]) else { break };
                    if !raise(candidates, &mut chosen, index, o, budget) {
                        break;
                    }
                    rung[index] += 1;
                    grew = true;
                }
            }
        }
        sum(candidates, &chosen)
    }

    fn arbitrary_track(id: u64) -> impl Strategy<Value = Candidate> {
        proptest::collection::vec((20_000u64..2_000_000, 1u32..1000), 1..=9).prop_map(move |mut raw| {
            // A real ladder costs more the higher one climbs; its worth need not follow a nice curve.
            raw.sort_unstable();
            let mut utilities: Vec<u32> = raw.iter().map(|(_, utility)| *utility).collect();
            utilities.sort_unstable();
            let options = raw.iter().zip(utilities).enumerate().map(|(index, ((bitrate, _), utility))| {
                option(index as u8 / 3, index as u8 % 3, *bitrate, f64::from(utility) / 100.0)
            });
            track(id, 0, options.collect())
        })
    }

    fn arbitrary_call(most: usize) -> impl Strategy<Value = Vec<Candidate>> {
        (1..=most).prop_flat_map(|count| (0..count as u64).map(arbitrary_track).collect::<Vec<_>>())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn small_calls_are_solved_exactly(candidates in arbitrary_call(4), budget in 50_000u64..6_000_000) {
            let floors: u64 = candidates.iter().map(|c| c.options[cheapest(c).unwrap()].bitrate_bps).sum();
            prop_assume!(floors <= budget);
            let decisions = allocate(budget, &candidates);
            prop_assert!(bits(&candidates, &decisions) <= budget);
            let best = brute_force(budget, &candidates, 0);
            prop_assert!((value(&candidates, &decisions) - best).abs() < 1e-9, "{} of {best}", value(&candidates, &decisions));
        }

        #[test]
        fn no_peer_does_better_on_the_same_input(candidates in arbitrary_call(30), budget in 50_000u64..30_000_000) {
            let decisions = allocate(budget, &candidates);
            prop_assert!(bits(&candidates, &decisions) <= budget);
            let floors: u64 = candidates.iter().map(|c| c.options[cheapest(c).unwrap()].bitrate_bps).sum();
            if floors <= budget {
                let ours = value(&candidates, &decisions);
                for theirs in [water_filling(budget, &candidates), turns(budget, &candidates, 1), turns(budget, &candidates, 3)] {
                    prop_assert!(ours >= theirs - 1e-9, "{ours} < {theirs}");
                }
            }
        }

        #[test]
        fn more_budget_is_never_worth_less(candidates in arbitrary_call(3), budget in 50_000u64..4_000_000, more in 0u64..2_000_000) {
            // Once everybody is seen: before that, more room may buy one more face instead of a sharper one.
            let floors: u64 = candidates.iter().map(|c| c.options[cheapest(c).unwrap()].bitrate_bps).sum();
            prop_assume!(floors <= budget);
            let less = value(&candidates, &allocate(budget, &candidates));
            prop_assert!(value(&candidates, &allocate(budget + more, &candidates)) >= less - 1e-9);
        }
    }
}
