//! The fan-out without sending: one publisher's frames of 1 200-byte packets to many subscribers, AES-GCM.
//!
//! Reported per forwarded packet (criterion's "elements"): header, seal, bookkeeping, and the share of receiving once.
//! The bare loop (rewrite and seal, no protocol) takes 216–236 ns on a machine of this kind.

use std::hint::black_box;
use std::time::{Duration, Instant};

use callyard_peer::World;
use callyard_peer::media::{Source, play, subscribe};
use callyard_peer::netem::LinkConfig;
use callyard_proto::bwe::BweConfig;
use callyard_proto::command::{DtlsRole, Want};
use callyard_proto::config::Config;
use callyard_proto::engine::Datagram;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Packets of one frame, as a 2.5 Mbit/s camera sends them.
const FRAME_PACKETS: usize = 8;

/// Nobody's link is estimated; or everybody's is, and paced, with room for what is sent.
fn configs() -> [(&'static str, Config); 2] {
    let bps = 50_000_000;
    let estimated = Config { bwe: BweConfig { start_bps: bps, min_bps: bps, max_bps: bps }, ..Config::default() };
    [("free", Config { congestion_control: false, ..Config::default() }), ("estimated", estimated)]
}

fn fanout(c: &mut Criterion) {
    let mut group = c.benchmark_group("fanout_1200B_gcm");
    for (subscribers, (name, config)) in [50, 500].into_iter().flat_map(|n| configs().map(|config| (n, config))) {
        let link = LinkConfig { delay: Duration::from_millis(1), ..LinkConfig::default() };
        let mut world = World::with_config(1, config);
        world.add_client(DtlsRole::Server, link.clone());
        for _ in 0..subscribers {
            world.add_client(DtlsRole::Server, link.clone());
        }
        world.connect();
        let mut camera = Source::video(0, 1, 1_000);
        camera.publish(&mut world);
        for client in 1..=subscribers {
            subscribe(&mut world, client, &camera, client as u64, 5_000, Want::default());
        }
        // Long enough for the mid to be left out of the headers.
        play(&mut world, &mut [&mut camera], Duration::from_secs(6));
        group.throughput(Throughput::Elements((FRAME_PACKETS * subscribers) as u64));
        group.bench_function(BenchmarkId::new(name, subscribers), |b| {
            b.iter_custom(|iterations| {
                let mut spent = Duration::ZERO;
                for _ in 0..iterations {
                    let mut sealed: Vec<Vec<u8>> = (0..FRAME_PACKETS)
                        .map(|i| {
                            let mut packet = camera.next_packets(0).remove(0);
                            packet.payload.resize(1_200 - 12 - 20, 0);
                            packet.marker = i + 1 == FRAME_PACKETS;
                            world.clients[0].seal(&packet)
                        })
                        .collect();
                    world.now += Duration::from_millis(5);
                    let source = world.clients[0].address;
                    let mut batch: Vec<Datagram<'_>> =
                        sealed.iter_mut().map(|payload| Datagram { source, payload, received: world.now }).collect();
                    #[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
                    let began = Instant::now();
                    world.engine.receive(world.now, &mut batch);
                    spent += began.elapsed();
                    assert_eq!(black_box(world.engine.transmits().transmits().len()), subscribers);
                    world.engine.clear_transmits();
                }
                spent
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4)).sample_size(20);
    targets = fanout
}
criterion_main!(benches);
