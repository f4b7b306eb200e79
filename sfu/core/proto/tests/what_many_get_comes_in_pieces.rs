//! A picture to many leaves piece by piece, each with its own time, and nobody misses anything between two of them.

use std::time::Duration;

use callyard_peer::World;
use callyard_peer::media::{Source, play, subscribe};
use callyard_peer::netem::LinkConfig;
use callyard_proto::command::{DtlsRole, Want};
use callyard_proto::config::Config;
use callyard_proto::engine::Datagram;

const SUBSCRIBERS: usize = 200;
const PACKETS: usize = 9;
const LEN: usize = 1_168;

#[test]
fn each_subscriber_gets_all_of_it_and_each_piece_is_bounded() {
    let link = LinkConfig { delay: Duration::from_millis(1), ..LinkConfig::default() };
    // Without pacing, which would leave the end of a picture for later.
    let mut world = World::with_config(1, Config { congestion_control: false, ..Config::default() });
    world.add_client(DtlsRole::Server, link.clone());
    for _ in 0..SUBSCRIBERS {
        world.add_client(DtlsRole::Server, link.clone());
    }
    world.connect();
    let mut camera = Source::video(0, 1, 1_000);
    camera.publish(&mut world);
    for client in 1..=SUBSCRIBERS {
        subscribe(&mut world, client, &camera, client as u64, 5_000, Want::default());
    }
    play(&mut world, &mut [&mut camera], Duration::from_secs(6));

    let mut sealed: Vec<Vec<u8>> = (0..PACKETS)
        .map(|index| {
            let mut packet = camera.next_packets(0).remove(0);
            packet.payload.resize(LEN, 0);
            packet.marker = index + 1 == PACKETS;
            world.clients[0].seal(&packet)
        })
        .collect();
    let source = world.clients[0].address;
    let mut batch: Vec<Datagram<'_>> =
        sealed.iter_mut().map(|payload| Datagram { source, payload, received: world.now }).collect();
    let before = world.engine.counters().forward_latency;
    let (began, mut now) = (world.now, world.now);
    let mut copies = vec![0; SUBSCRIBERS + 1];
    let mut is_more = world.engine.receive_some(now, &mut batch);
    let mut pieces = 0;
    loop {
        pieces += 1;
        let arena = world.engine.transmits();
        let longest = PACKETS * (LEN + 100);
        assert!(arena.bytes().len() < (256 << 10) + longest, "{} bytes at once", arena.bytes().len());
        for (destination, datagram) in arena.datagrams() {
            let path = |client: &callyard_peer::client::Client| {
                callyard_proto::transmit::Path::Udp(client.address) == destination
            };
            let client = world.clients.iter().position(path).expect("one of them");
            copies[client] += usize::from(datagram.len() > LEN);
        }
        world.engine.clear_transmits();
        if !is_more {
            break;
        }
        now += Duration::from_millis(3);
        is_more = world.engine.go_on(now, &mut batch);
    }
    assert_eq!(copies[1..], vec![PACKETS; SUBSCRIBERS]);
    assert!(pieces >= 8, "{pieces} pieces of 2 MB");
    let after = &world.engine.counters().forward_latency;
    let waited = after.sum_us - before.sum_us;
    assert_eq!(waited, PACKETS as u64 * (now - began).as_micros() as u64, "told with the time of the last piece");
}
