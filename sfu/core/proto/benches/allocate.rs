//! Cost of one allocation: 50 tracks of 12 layers must take less than 100 µs.

use std::hint::black_box;

use callyard_proto::allocator::{Candidate, LayerOption, allocate};
use callyard_proto::ids::{DowntrackId, Spatial, Temporal};
use criterion::{Criterion, criterion_group, criterion_main};

fn call(tracks: u64, layers: u64) -> Vec<Candidate> {
    let mut seed = 1u64;
    let mut random = move |bound: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % bound
    };
    (0..tracks)
        .map(|id| {
            let mut bitrate = 50_000;
            let mut utility = 1.0;
            let options = (0..layers)
                .map(|layer| {
                    bitrate += 20_000 + random(150_000);
                    utility += random(100) as f64 / 100.0;
                    LayerOption {
                        spatial: Spatial((layer / 3) as u8),
                        temporal: Temporal((layer % 3) as u8),
                        bitrate_bps: bitrate,
                        utility,
                        switch_cost: 0.05,
                        allowed: true,
                    }
                })
                .collect();
            Candidate { downtrack: DowntrackId(id), priority: 0, options, current: None }
        })
        .collect()
}

fn bench(c: &mut Criterion) {
    for (tracks, layers) in [(5, 9), (50, 12)] {
        let candidates = call(tracks, layers);
        for share in [30, 60, 90] {
            let top: u64 = candidates.iter().map(|c| c.options.last().map_or(0, |o| o.bitrate_bps)).sum();
            let budget = top * share / 100;
            c.bench_function(&format!("allocate {tracks} x {layers}, {share} % of the top"), |b| {
                b.iter(|| allocate(black_box(budget), black_box(&candidates)));
            });
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
