//! What the server puts on the wire: under no key a number twice, no packet too long for a network, no payload touched
//! that is none of its business, and streams that go on over every wrap.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use callyard_peer::World;
use callyard_peer::client::Outgoing;
use callyard_peer::media::{Source, play, quality, subscribe};
use callyard_peer::netem::LinkConfig;
use callyard_proto::command::{Command, DtlsRole, IceCredentials, MediaKind, Want};
use callyard_proto::ids::DowntrackId;

fn world(seed: u64, clients: usize) -> World {
    let mut world = World::new(seed);
    for client in 0..clients {
        let role = if client % 2 == 0 { DtlsRole::Server } else { DtlsRole::Client };
        world.add_client(role, LinkConfig::default());
    }
    world.connect();
    world
}

fn want(world: &mut World, downtrack: u64, want: Want) {
    world.apply(Command::SetDowntrack { downtrack: DowntrackId(downtrack), want });
}

/// S-16: a number used twice under one key gives the key stream away (RFC 7714 §8.1: ssrc, roll-over, sequence number).
#[test]
fn no_number_is_used_twice_under_a_key() {
    let mut world = world(1, 3);
    let mut camera = Source::simulcast(0, 1, 1_000);
    for stream in &mut camera.streams {
        stream.seq = 65_400;
    }
    camera.publish(&mut world);
    let mut voice = Source::audio(0, 2, 2_000);
    voice.publish(&mut world);
    for client in 1..3 {
        let base = 10 * client as u64;
        subscribe(&mut world, client, &camera, base + 1, 5_000, Want::default());
        subscribe(&mut world, client, &voice, base + 2, 6_000, Want::default());
    }
    world.wire = Some(Vec::new());
    world.set_loss(0.1);
    for round in 0..40u8 {
        want(&mut world, 11, quality(round % 3));
        want(&mut world, 12, Want { disabled: round % 7 == 0, ..Want::default() });
        if round % 10 == 5 {
            let ours = IceCredentials { ufrag: format!("again{round}"), pwd: "server-password-again".into() };
            let theirs = IceCredentials { ufrag: format!("client{round}"), pwd: "client-password-again".into() };
            let restart = Command::RestartIce {
                transport: World::transport(1),
                local: ours.clone(),
                remote: Some(theirs.clone()),
            };
            world.apply(restart);
            let client = &mut world.clients[1];
            (client.local, client.server) = (theirs, ours);
            client.address.set_port(20_000 + u16::from(round));
            let now = world.now;
            world.clients[1].check_now(now);
        }
        play(&mut world, &mut [&mut camera, &mut voice], Duration::from_millis(900));
    }
    let (mut rtp, mut rtcp) = (HashSet::new(), HashSet::new());
    let mut latest: HashMap<(usize, u32), i64> = HashMap::new();
    for (client, datagram) in world.wire.take().unwrap_or_default() {
        if !(128..192).contains(&datagram[0]) {
            continue;
        }
        let ssrc_at = if (192..224).contains(&datagram[1]) { 4 } else { 8 };
        let ssrc = u32::from_be_bytes(datagram[ssrc_at..ssrc_at + 4].try_into().expect("four bytes"));
        if ssrc_at == 4 {
            let index = u32::from_be_bytes(datagram[datagram.len() - 4..].try_into().expect("four bytes"));
            assert!(rtcp.insert((client, ssrc, index)), "an SRTCP index twice: {client} {ssrc} {index:x}");
            continue;
        }
        let seq = u16::from_be_bytes([datagram[2], datagram[3]]);
        let last = latest.entry((client, ssrc)).or_insert(i64::from(seq));
        let index = *last + i64::from(seq.wrapping_sub(*last as u16) as i16);
        *last = index.max(*last);
        assert!(rtp.insert((client, ssrc, index)), "a packet twice: to {client} {ssrc} {index}");
    }
    assert!(rtp.len() > 4_000 && rtcp.len() > 100, "{} and {}", rtp.len(), rtcp.len());
    let resent = rtp.iter().filter(|(_, ssrc, _)| *ssrc == 5_001).count();
    assert!(resent > 50, "retransmissions were among them: {resent}");
}

fn long_packet(seq: u16, len: usize) -> Outgoing {
    let mut payload = vec![0x10, 0x00, 0, 0, 0x9d, 0x01, 0x2a, 16, 0, 16, 0];
    // A key frame first: what was lost before one is not sent again.
    payload[1] = u8::from(seq > 0);
    payload.resize(len, 0x55);
    let extensions = vec![(callyard_peer::media::MID_ID, b"1".to_vec())];
    let timestamp = 3_000 * u32::from(seq);
    Outgoing { ssrc: 1_000, pt: 96, seq, timestamp, marker: true, payload, extensions }
}

/// F-08: packets as long as libwebrtc makes them (1 200 bytes) grow by a few extensions, a tag, and the number of RTX.
#[test]
fn no_datagram_is_longer_than_1250_bytes() {
    let mut world = World::new(2);
    for _ in 0..2 {
        world.add_client(DtlsRole::Server, LinkConfig::default());
    }
    world.wire = Some(Vec::new());
    world.connect();
    let camera = Source::video(0, 1, 1_000);
    camera.publish(&mut world);
    subscribe(&mut world, 1, &camera, 11, 5_000, Want::default());
    world.set_loss(0.05);
    for seq in 0..600 {
        // 12 of header and 8 of extensions.
        world.clients[0].send_rtp(long_packet(seq, 1_180));
        world.flush();
        world.run(Duration::from_millis(10));
    }
    world.run(Duration::from_secs(1));
    let wire = world.wire.take().unwrap_or_default();
    let longest = wire.iter().map(|(_, datagram)| datagram.len()).max().unwrap_or(0);
    assert!((1_200..=1_250).contains(&longest), "{longest}");
    assert!(world.clients[1].received.iter().any(|packet| packet.was_rtx), "the longest are those sent again");
}

/// S-31: of an encrypted payload every byte arrives as it was sent.
#[test]
fn an_encrypted_payload_arrives_byte_for_byte() {
    let mut world = world(3, 2);
    let voice = Source::new(0, 1, MediaKind::Audio, 1_000, 1);
    let mut spec = voice.spec();
    spec.encrypted = true;
    world.apply(Command::AddUptrack(spec));
    subscribe(&mut world, 1, &voice, 11, 5_000, Want::default());
    let payloads: Vec<Vec<u8>> = (0..200u32)
        .map(|n| (0..40 + n).map(|i| (i.wrapping_mul(n).wrapping_mul(2_654_435_761) >> 13) as u8).collect())
        .collect();
    for (seq, payload) in payloads.iter().enumerate() {
        let extensions = vec![(callyard_peer::media::MID_ID, b"1".to_vec())];
        let timestamp = 960 * seq as u32;
        let packet = Outgoing {
            ssrc: 1_000,
            pt: 111,
            seq: seq as u16,
            timestamp,
            marker: false,
            payload: payload.clone(),
            extensions,
        };
        world.clients[0].send_rtp(packet);
        world.flush();
        world.run(Duration::from_millis(20));
    }
    world.run(Duration::from_millis(200));
    let received: Vec<&[u8]> = world.clients[1].in_order(5_000).iter().map(|packet| &packet.payload[..]).collect();
    assert_eq!(received, payloads);
}

/// F-43: more than half of all sequence numbers pass while a subscriber is paused, another comes after several wraps.
#[test]
fn long_pauses_and_late_subscribers_miss_nothing() {
    let mut world = world(4, 3);
    let mut voice = Source::audio(0, 1, 1_000);
    voice.streams[0].seq = 65_500;
    voice.publish(&mut world);
    subscribe(&mut world, 1, &voice, 11, 5_000, Want::default());
    play(&mut world, &mut [&mut voice], Duration::from_secs(2));
    want(&mut world, 11, Want { disabled: true, ..Want::default() });
    world.run(Duration::from_millis(200));
    let heard = world.clients[1].received.len();
    for _ in 0..140_000 {
        voice.send(&mut world);
        world.run(Duration::from_millis(1));
    }
    assert_eq!(world.clients[1].received.len(), heard, "nothing while paused");
    want(&mut world, 11, Want::default());
    subscribe(&mut world, 2, &voice, 12, 6_000, Want::default());
    play(&mut world, &mut [&mut voice], Duration::from_secs(2));
    world.run(Duration::from_millis(100));
    assert_eq!(world.clients[1].holes(5_000), 0);
    assert!(world.clients[1].received.len() >= heard + 95, "it goes on at once");
    assert!(world.clients[2].of(6_000).count() >= 95, "the first packet is decrypted");
    assert_eq!(world.clients[2].holes(6_000), 0);
    assert_eq!(world.engine.counters().dropped.total(), 0);
}
