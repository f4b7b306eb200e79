//! Attackers off and on the path, and a fault inside: nobody else notices.

use std::net::SocketAddr;
use std::time::Duration;

use callyard_peer::World;
use callyard_peer::media::{Source, downtrack_spec, play, watched};
use callyard_peer::netem::LinkConfig;
use callyard_proto::command::{Command, DtlsRole, ExtensionSpec, Fault, Fingerprint, Want};
use callyard_proto::config::Config;
use callyard_proto::event::{Event, TransportState};
use proptest::prelude::*;

const STRANGER: &str = "203.0.113.66:6666";

fn call(config: Config) -> (World, Source) {
    watched(config, 2)
}

/// S-03
#[test]
fn a_stranger_gets_not_one_byte() {
    let (mut world, _) = call(Config::default());
    let stranger: SocketAddr = STRANGER.parse().expect("an address");
    let mut tried = 0;
    let real = world.clients[0].check();
    // Another ufrag, a broken tag, every way of being cut, and all that is not STUN.
    let mut other = real.clone();
    other[24] ^= 1;
    let mut broken = real.clone();
    let tag = broken.len() - 20;
    broken[tag] ^= 1;
    let mut datagrams = vec![other, broken];
    datagrams.extend((0..real.len()).map(|len| real[..len].to_vec()));
    for first in 0..=255u8 {
        datagrams.push([&[first][..], &[first; 60]].concat());
    }
    for datagram in datagrams {
        world.inject(stranger, &datagram);
        tried += 1;
    }
    assert_eq!(world.strays, 0, "after {tried} datagrams");
    let dropped = world.engine.counters().dropped.total();
    assert!(dropped >= tried - 2, "{dropped} of {tried} counted");
}

/// S-10
#[test]
fn forged_and_replayed_packets_leave_the_stream_as_it_was() {
    let (mut world, mut camera) = call(Config::default());
    let address = world.clients[0].address;
    let packet = camera.next_packets(0).remove(0);
    let sealed = world.clients[0].send_rtp(packet);
    world.flush();
    world.run(Duration::from_millis(100));
    let before = world.clients[1].received.len();
    let uptrack = |world: &mut World| {
        world.take_events();
        world.apply(Command::GetRoomStats { request: 1, room: callyard_peer::ROOM });
        match world.take_events().pop() {
            Some(Event::RoomStats { mut uptracks, .. }) => uptracks.remove(0),
            other => panic!("no figures: {other:?}"),
        }
    };
    let stats = uptrack(&mut world);
    for i in 0..sealed.len() {
        let mut forged = sealed.clone();
        forged[i] ^= 0x40;
        world.inject(address, &forged);
        world.inject(address, &sealed[..i]);
    }
    for _ in 0..50 {
        world.inject(address, &sealed);
    }
    let after = uptrack(&mut world);
    assert_eq!(
        (after.packets, after.bytes, after.lost, after.nacks, after.keyframes),
        (stats.packets, stats.bytes, stats.lost, stats.nacks, stats.keyframes)
    );
    assert_eq!(world.clients[1].received.len(), before);
    play(&mut world, &mut [&mut camera], Duration::from_secs(1));
    world.run(Duration::from_millis(100));
    assert_eq!(world.clients[1].holes(5_000), 0);
    assert!(world.clients[1].received.len() > before + 25, "the stream goes on");
}

/// S-02
#[test]
fn clear_dtls_records_from_the_clients_own_address_end_nothing() {
    let (mut world, mut camera) = call(Config::default());
    let address = world.clients[1].address;
    let record = |kind: u8, body: &[u8]| {
        let mut out = vec![kind, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9];
        out.extend_from_slice(&(body.len() as u16).to_be_bytes());
        out.extend_from_slice(body);
        out
    };
    for datagram in
        [record(21, &[2, 40]), record(21, &[1, 0]), record(20, &[1]), record(22, &[1; 80]), record(23, &[0; 40])]
    {
        world.inject(address, &datagram);
    }
    let before = world.clients[1].received.len();
    play(&mut world, &mut [&mut camera], Duration::from_secs(1));
    assert_eq!(world.states(1), [TransportState::Connecting, TransportState::Connected]);
    assert!(world.clients[1].received.len() > before + 25);
}

/// S-14
#[test]
fn a_wrong_fingerprint_fails_in_both_roles_and_no_media_passes() {
    for role in [DtlsRole::Server, DtlsRole::Client] {
        let mut world = World::new(3);
        let index = world.add_client(role, LinkConfig::default());
        let transport = World::transport(index);
        let ice = world.clients[index].local.clone();
        let wrong = Fingerprint { algorithm: "sha-256".into(), value: world.server_fingerprint.value.clone() };
        let weak = Fingerprint { algorithm: "sha-1".into(), value: "00".into() };
        let fingerprints = vec![wrong, weak];
        world.apply(Command::SetRemote {
            transport,
            remote: callyard_proto::command::Remote { ice, fingerprints, role },
        });
        world.run(Duration::from_secs(1));
        assert_eq!(world.states(index), [TransportState::Connecting, TransportState::Failed], "{role:?}");
        let reason = world.events.iter().find_map(|e| match e {
            Event::TransportState { state: TransportState::Failed, reason, .. } => Some(reason.as_str()),
            _ => None,
        });
        assert_eq!(reason, Some("dtls_fingerprint_mismatch"));
    }
}

#[test]
fn a_panic_costs_its_own_transport_alone() {
    let (mut world, mut camera) = call(Config { fault_injection: true, ..Config::default() });
    world.apply(Command::InjectFault { transport: World::transport(1), fault: Fault::Panic });
    play(&mut world, &mut [&mut camera], Duration::from_secs(1));
    world.clients[1].send_rtcp(&callyard_peer::rtcp::pli(5_000));
    play(&mut world, &mut [&mut camera], Duration::from_secs(3));
    world.run(Duration::from_millis(100));
    let closed = world.events.iter().any(|e| {
        matches!(e, Event::TransportState { transport, state: TransportState::Closed, reason }
            if *transport == World::transport(1) && reason == "panic")
    });
    assert!(closed, "{:?}", world.events);
    assert_eq!(world.engine.counters().panics, 1);
    let pictures = world.clients[2].in_order(6_000).len();
    assert!(pictures > 145 && world.clients[2].holes(6_000) == 0, "{pictures} pictures of 150");
}

#[test]
fn fault_injection_is_refused_unless_switched_on() {
    let (mut world, _) = call(Config::default());
    world.take_events();
    world.apply(Command::InjectFault { transport: World::transport(1), fault: Fault::Panic });
    let refusals = world.take_events();
    assert!(matches!(&refusals[..], [Event::Rejected { code, .. }] if code == "fault_injection_off"), "{refusals:?}");
}

/// S-26
#[test]
fn a_publisher_holds_pictures_back_for_no_longer_than_players_wait() {
    let delay = ExtensionSpec { id: 9, uri: "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay".into() };
    let mut world = World::new(1);
    for _ in 0..2 {
        world.add_client(DtlsRole::Server, LinkConfig::default());
    }
    world.connect();
    let mut camera = Source::video(0, 1, 1_000);
    let mut published = camera.spec();
    published.extensions.push(delay.clone());
    world.apply(Command::AddUptrack(published));
    let mut wanted = downtrack_spec(1, &camera, 11, 5_000, Want::default());
    wanted.extensions.push(delay);
    world.apply(Command::AddDowntrack(wanted));
    play(&mut world, &mut [&mut camera], Duration::from_secs(1));
    world.run(Duration::from_millis(200));
    let bytes = |min: u32, max: u32| (min << 12 | max).to_be_bytes()[1..].to_vec();
    // In steps of 10 ms; a minimum beyond the maximum says nothing.
    for (said, passed) in [
        (bytes(0, 40), Some(bytes(0, 40))),
        (bytes(1_000, 1_000), Some(bytes(1_000, 1_000))),
        (bytes(0, 4_095), Some(bytes(0, 1_000))),
        (bytes(4_000, 4_095), Some(bytes(1_000, 1_000))),
        (bytes(50, 40), None),
        (vec![0xff], None),
    ] {
        let seen = world.clients[1].received.len();
        for mut packet in camera.next_packets(0) {
            packet.extensions.push((9, said.clone()));
            world.clients[0].send_rtp(packet);
        }
        world.flush();
        world.run(Duration::from_millis(200));
        let mut came = world.clients[1].received[seen..].iter().filter(|packet| packet.ssrc == 5_000).peekable();
        assert!(came.peek().is_some());
        for packet in came {
            let said = packet.extensions.iter().find(|(id, _)| *id == 9).map(|(_, data)| data.clone());
            assert_eq!(said, passed);
        }
    }
}

/// S-24
#[test]
fn a_flood_of_streams_is_bounded() {
    let (mut world, mut camera) = call(Config::default());
    let before = world.engine.counters().dropped.total();
    for ssrc in 0..500 {
        let packet = callyard_peer::client::Outgoing {
            ssrc: 100_000 + ssrc,
            pt: 96,
            seq: 1,
            timestamp: 0,
            marker: true,
            payload: vec![0; 20],
            extensions: Vec::new(),
        };
        let sealed = world.clients[2].seal(&packet);
        world.clients[2].send_raw(sealed);
    }
    world.flush();
    play(&mut world, &mut [&mut camera], Duration::from_secs(1));
    assert_eq!(
        world.engine.counters().dropped.total() - before,
        500,
        "no section claims them, and 64 at most are kept"
    );
    assert_eq!(world.engine.counters().panics, 0);
}

/// S-19
#[test]
fn asking_again_and_again_is_answered_five_times() {
    let (mut world, _camera) = call(Config::default());
    let seq = world.clients[1].in_order(5_000)[10].seq;
    for _ in 0..200 {
        for _ in 0..20 {
            world.clients[1].send_rtcp(&callyard_peer::rtcp::nack(5_000, seq));
        }
        world.run(Duration::from_millis(5));
    }
    world.run(Duration::from_millis(200));
    let again = world.clients[1].of(5_000).filter(|p| p.was_rtx && p.seq == seq).count();
    assert_eq!(again, 5, "of 4 000 requests");
    assert_eq!(world.engine.counters().retransmitted, 5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// S-23, S-26.
    /// Authenticated, but nonsense: any RTCP and any RTP of a client is taken without a panic and costs the others nothing.
    #[test]
    fn a_hostile_publisher_hurts_nobody(
        rtcp in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
        rtp in prop::collection::vec((any::<u8>(), any::<u16>(), 0..4u32, prop::collection::vec(any::<u8>(), 0..60)), 0..20),
    ) {
        let (mut world, mut camera) = call(Config::default());
        for mut packet in rtcp {
            let mut head = vec![0x80 | packet.len() as u8 & 0x1f, 200 + packet.len() as u8 % 8, 0, 0];
            packet.truncate(packet.len() / 4 * 4);
            head[3] = (packet.len() / 4) as u8;
            head.extend_from_slice(&packet);
            if head.len() >= 8 {
                world.clients[2].send_rtcp(&head);
            }
        }
        for (pt, seq, ssrc, payload) in rtp {
            let packet = callyard_peer::client::Outgoing {
                ssrc: 1_000 + ssrc, pt: pt & 0x7f, seq, timestamp: 0, marker: false, payload, extensions: Vec::new(),
            };
            let sealed = world.clients[2].seal(&packet);
            world.clients[2].send_raw(sealed);
        }
        world.flush();
        play(&mut world, &mut [&mut camera], Duration::from_secs(1));
        world.run(Duration::from_millis(100));
        prop_assert_eq!(world.engine.counters().panics, 0);
        prop_assert_eq!(world.clients[1].holes(5_000), 0);
    }
}
