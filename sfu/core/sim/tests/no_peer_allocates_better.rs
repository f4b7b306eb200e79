//! The allocator beside brute force and the greedy loops of its peers, on the same random calls.

use callyard_proto::allocator::{Candidate, LayerOption, allocate, value};
use callyard_proto::ids::{DowntrackId, Spatial, Temporal};
use callyard_sim::peers::{Choice, bits, brute_force, jitsi, livekit, mediasoup, worth};
use proptest::prelude::*;

fn ladder(id: u64, priority: u32) -> impl Strategy<Value = Candidate> {
    let layer = (20_000u64..2_000_000, 1u32..1_000, 0u32..30);
    (proptest::collection::vec(layer, 1..=12), any::<Option<prop::sample::Index>>()).prop_map(
        move |(mut raw, current)| {
            // Costs rise with the layers; what a layer is worth need not follow a nice curve.
            raw.sort_unstable_by_key(|(bitrate, ..)| *bitrate);
            raw.dedup_by_key(|(bitrate, ..)| *bitrate);
            let mut utilities: Vec<u32> = raw.iter().map(|(_, utility, _)| *utility).collect();
            utilities.sort_unstable();
            let options: Vec<LayerOption> = raw
                .iter()
                .zip(utilities)
                .enumerate()
                .map(|(index, ((bitrate_bps, _, cost), utility))| LayerOption {
                    spatial: Spatial(index as u8 / 3),
                    temporal: Temporal(index as u8 % 3),
                    bitrate_bps: *bitrate_bps,
                    utility: f64::from(utility) / 100.0,
                    switch_cost: f64::from(*cost) / 100.0,
                    allowed: true,
                })
                .collect();
            let current = current.map(|index| index.index(options.len()));
            Candidate { downtrack: DowntrackId(id), priority, options, current }
        },
    )
}

fn call(most: usize, priorities: u32) -> impl Strategy<Value = Vec<Candidate>> {
    proptest::collection::vec(0..priorities, 1..=most)
        .prop_flat_map(|all| all.into_iter().zip(0u64..).map(|(p, id)| ladder(id, p)).collect::<Vec<_>>())
}

fn ours(budget: u64, candidates: &[Candidate]) -> Choice {
    allocate(budget, candidates).iter().map(|decision| decision.option).collect()
}

fn floors(candidates: &[Candidate]) -> u64 {
    candidates.iter().map(|c| c.options[0].bitrate_bps).sum()
}

/// Somebody is not seen who would be, if those of lower priority were not.
fn is_inverted(budget: u64, candidates: &[Candidate], choice: &Choice) -> bool {
    let left = budget - bits(candidates, choice);
    let room_below = |priority: u32| -> u64 {
        let lower = candidates.iter().zip(choice).filter(|(c, _)| c.priority < priority);
        lower.filter_map(|(c, o)| o.map(|o| c.options[o].bitrate_bps)).sum()
    };
    candidates.iter().zip(choice).any(|(c, o)| o.is_none() && c.options[0].bitrate_bps <= left + room_below(c.priority))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn handfuls_are_solved_exactly(candidates in call(4, 3), budget in 50_000u64..8_000_000) {
        let choice = ours(budget, &candidates);
        prop_assert!(bits(&candidates, &choice) <= budget);
        match brute_force(budget, &candidates) {
            Some(best) => prop_assert!((worth(&candidates, &choice) - best).abs() < 1e-9, "of {best}"),
            None => prop_assert!(floors(&candidates) > budget && choice.contains(&None)),
        }
    }

    #[test]
    fn no_greedy_loop_is_worth_more(candidates in call(40, 3), budget in 50_000u64..40_000_000) {
        let decisions = allocate(budget, &candidates);
        let choice = ours(budget, &candidates);
        prop_assert!(bits(&candidates, &choice) <= budget);
        prop_assert!(!is_inverted(budget, &candidates, &choice));
        for theirs in [livekit(budget, &candidates), jitsi(budget, &candidates), mediasoup(budget, &candidates)] {
            prop_assert!(bits(&candidates, &theirs) <= budget, "the peers are written fairly");
            if theirs.iter().all(Option::is_some) {
                let (ours, theirs) = (value(&candidates, &decisions), worth(&candidates, &theirs));
                prop_assert!(ours >= theirs - 1e-9, "{ours} < {theirs}");
            }
        }
    }
}
