//! Cost of one packet for one subscriber before it is written: selection, numbering, rewriting its descriptor. At most 60 ns.
//!
//! Packets were parsed before, once for all subscribers. Every subscriber's state is touched in turn, as the fan-out does.

use std::hint::black_box;

use callyard_proto::codec::{Codec, PacketMeta};
use callyard_proto::command::MediaKind;
use callyard_proto::downtrack::{AUDIO_WINDOW, Alignment, Layer, Munger, Packet, Selector, VIDEO_WINDOW, Verdict};
use callyard_proto::ids::{SeqNo, Spatial, Temporal};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

/// Subscribers and packets of one round: more state than the first cache holds.
const SUBSCRIBERS: usize = 50;
const PACKETS: usize = 120;

struct Step {
    encoding: Spatial,
    seq: SeqNo,
    timestamp: u32,
    marker: bool,
    meta: PacketMeta,
    payload: Vec<u8>,
}

fn step(codec: Codec, (encoding, seq, timestamp, marker): (u8, usize, u32, bool), payload: Vec<u8>) -> Step {
    // Written here, in the codec's own format.
    let meta = codec.parse(&payload, marker).expect("a sound payload");
    Step { encoding: Spatial(encoding), seq: SeqNo(1 << 16 | seq as u64), timestamp, marker, meta, payload }
}

/// VP8 with three temporal layers, two packets a frame, a key frame first (RFC 7741 §4.2).
fn vp8() -> Vec<Step> {
    let frames = (0..PACKETS / 2).flat_map(|frame| {
        let temporal = [0u8, 2, 1, 2][frame % 4];
        let id = 0x8000 | frame as u16;
        (0..2).map(move |part| {
            let start = u8::from(part == 0) << 4;
            let layer = temporal << 6 | u8::from(temporal > 0) << 5;
            let mut payload = vec![0x80 | start, 0xe0, (id >> 8) as u8, id as u8, frame as u8 / 4, layer];
            payload.extend_from_slice(&[u8::from(frame > 0), 0, 0, 0x9d, 0x01, 0x2a, 64, 1, 180, 0]);
            payload.resize(1_100, 0xaa);
            step(Codec::Vp8, (0, 2 * frame + part, 3_000 * frame as u32, part == 1), payload)
        })
    });
    frames.collect()
}

/// VP9 with three layers of each kind in one stream, one packet a layer's frame (RFC 9628 §4.2).
fn vp9() -> Vec<Step> {
    let pictures = (0..PACKETS / 3).flat_map(|picture| {
        let temporal = [0u8, 2, 1, 2][picture % 4];
        let id = 0x8000 | picture as u16;
        (0..3u8).map(move |spatial| {
            let flags = 0xac | u8::from(picture > 0) << 6;
            let layer = temporal << 5 | 0x10 | spatial << 1 | u8::from(spatial > 0);
            let mut payload = vec![flags, (id >> 8) as u8, id as u8, layer, picture as u8 / 4];
            payload.resize(1_100, 0xaa);
            let at = (0, 3 * picture + usize::from(spatial), 3_000 * picture as u32, spatial == 2);
            step(Codec::Vp9, at, payload)
        })
    });
    pictures.collect()
}

fn opus() -> Vec<Step> {
    (0..PACKETS).map(|n| step(Codec::Opus, (0, n, 960 * n as u32, false), vec![0x78; 120])).collect()
}

fn subscribers(kind: MediaKind, layer: Layer) -> Vec<(Selector, Munger)> {
    let window = if kind == MediaKind::Video { VIDEO_WINDOW } else { AUDIO_WINDOW };
    let subscriber = |seed: u16| {
        let mut selector = Selector::new(kind);
        selector.set_target(Some(layer));
        (selector, Munger::new(seed, u32::from(seed) * 77, window))
    };
    (0..SUBSCRIBERS as u16).map(subscriber).collect()
}

/// Every packet to every subscriber, as `engine::forward` has them.
fn round(steps: &mut [Step], subscribers: &mut [(Selector, Munger)], is_svc: bool) -> u64 {
    let mut sum = 0;
    for step in steps {
        for (selector, munger) in subscribers.iter_mut() {
            let packet = Packet { encoding: step.encoding, meta: &step.meta, marker: step.marker, descriptor: None };
            match selector.select(packet, is_svc) {
                Verdict::Forward { switched, .. } => {
                    if switched {
                        munger.switch_source();
                    }
                    let align = || Alignment::Elapsed(3_000);
                    let rewrite = munger.forward(step.seq, step.timestamp, &step.meta, None, 90_000, align);
                    if let Some(rewrite) = rewrite {
                        rewrite.patch.apply(&mut step.payload);
                        sum += rewrite.seq.0 ^ u64::from(rewrite.timestamp);
                    }
                }
                Verdict::Drop(_) => {
                    let _ = munger.leave_out(step.seq, &step.meta);
                }
            }
        }
    }
    sum
}

fn bench(c: &mut Criterion) {
    let layer = |spatial, temporal| Layer { spatial: Spatial(spatial), temporal: Temporal(temporal) };
    let cases = [
        ("vp8, all temporal layers", vp8(), MediaKind::Video, layer(0, 2), false),
        ("vp8, half of the frames", vp8(), MediaKind::Video, layer(0, 1), false),
        ("vp9 svc, all layers", vp9(), MediaKind::Video, layer(2, 2), true),
        ("vp9 svc, the middle layer", vp9(), MediaKind::Video, layer(1, 2), true),
        ("opus", opus(), MediaKind::Audio, layer(0, 0), false),
    ];
    let mut group = c.benchmark_group("select_and_munge");
    group.throughput(Throughput::Elements((SUBSCRIBERS * PACKETS) as u64));
    for (name, mut steps, kind, layer, is_svc) in cases {
        group.bench_function(name, |b| {
            let fresh = || {
                let mut made = subscribers(kind, layer);
                // The first packet, a key frame, allocates the registers.
                round(&mut step_first(is_svc, kind), &mut made, is_svc);
                made
            };
            b.iter_batched_ref(fresh, |made| round(black_box(&mut steps), made, is_svc), BatchSize::LargeInput);
        });
    }
    group.finish();
}

fn step_first(is_svc: bool, kind: MediaKind) -> Vec<Step> {
    let mut steps = match (kind, is_svc) {
        (MediaKind::Audio, _) => opus(),
        (MediaKind::Video, true) => vp9(),
        (MediaKind::Video, false) => vp8(),
    };
    steps.truncate(1);
    steps[0].seq = SeqNo(steps[0].seq.0 - 1);
    steps
}

criterion_group!(benches, bench);
criterion_main!(benches);
