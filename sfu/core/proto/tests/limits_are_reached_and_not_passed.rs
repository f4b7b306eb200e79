//! What one worker and one client may have: taken up to the limit, refused beyond it, and nobody else notices.

use std::collections::VecDeque;
use std::time::Duration;

use callyard_peer::World;
use callyard_peer::media::{Source, play, subscribe, vp8, watched};
use callyard_peer::netem::LinkConfig;
use callyard_proto::command::{ChannelSpec, Command, DtlsRole, UptrackSpec, Want};
use callyard_proto::config::Config;
use callyard_proto::drop_reason::DropReason;
use callyard_proto::event::{Event, TransportState};
use callyard_proto::sctp::Sctp;

const VIEWER: u32 = 5_000;

/// A camera and one who watches it.
fn call(config: Config) -> (World, Source) {
    let (mut world, camera) = watched(config, 1);
    world.take_events();
    (world, camera)
}

fn goes_on(world: &mut World, camera: &mut Source) {
    let before = world.clients[1].in_order(VIEWER).len();
    play(world, &mut [camera], Duration::from_secs(1));
    assert!(world.clients[1].in_order(VIEWER).len() > before + 20);
    assert_eq!(world.clients[1].holes(VIEWER), 0);
}

/// Codes of what was refused since the last time, each with a sentence.
fn refusals(world: &mut World) -> Vec<String> {
    let refused = world.take_events().into_iter().filter_map(|event| match event {
        Event::Rejected { code, message, .. } => {
            assert!(message.ends_with('.') && message.contains(' '), "{message}");
            Some(code)
        }
        _ => None,
    });
    refused.collect()
}

/// S-30
#[test]
fn a_worker_carries_so_many_transports_and_the_next_when_one_has_gone() {
    let (mut world, mut camera) = call(Config { max_transports: 3, ..Config::default() });
    world.add_client(DtlsRole::Server, LinkConfig::default());
    assert!(refusals(&mut world).is_empty());
    world.add_client(DtlsRole::Server, LinkConfig::default());
    assert_eq!(refusals(&mut world), ["too_many_transports"]);
    goes_on(&mut world, &mut camera);
    assert!(world.states(3).is_empty());
    world.apply(Command::RemoveTransport { transport: World::transport(2) });
    world.take_events();
    world.add_client(DtlsRole::Server, LinkConfig::default());
    assert!(refusals(&mut world).is_empty());
    let now = world.engine.counters().transports;
    assert_eq!((now.connected, now.new), (2, 1));
}

/// S-30
#[test]
fn a_transport_carries_so_many_tracks_both_ways_together() {
    let (mut world, mut camera) = call(Config { max_tracks: 3, ..Config::default() });
    let (second, third) = (Source::video(0, 2, 2_000), Source::video(0, 3, 3_000));
    second.publish(&mut world);
    third.publish(&mut world);
    subscribe(&mut world, 1, &second, 12, 6_000, Want::default());
    subscribe(&mut world, 1, &third, 13, 7_000, Want::default());
    assert!(refusals(&mut world).is_empty());
    Source::video(0, 4, 4_000).publish(&mut world);
    Source::video(1, 5, 8_000).publish(&mut world);
    subscribe(&mut world, 1, &camera, 14, 9_000, Want::default());
    assert_eq!(refusals(&mut world), ["too_many_tracks"; 3]);
    assert_eq!((world.engine.counters().uptracks, world.engine.counters().downtracks), (3, 3));
    goes_on(&mut world, &mut camera);
}

/// S-28
#[test]
fn a_client_has_so_many_data_channels_and_no_more() {
    let (mut world, mut camera) = call(Config { max_channels: 4, ..Config::default() });
    let channels = (0..6).map(|n| ChannelSpec { label: format!("c{n}"), ordered: true, max_retransmits: None });
    let now = world.now;
    world.clients[1].sctp.as_mut().expect("connected").open(now, channels.collect::<Vec<_>>());
    world.run(Duration::from_secs(3));
    let opened = world.take_events().into_iter().filter(|e| matches!(e, Event::DataChannelOpen { .. })).count();
    assert_eq!(opened, 4);
    goes_on(&mut world, &mut camera);
}

/// F-08: what the network had to cut up on its way here is not kept at that length, nor sent to everybody.
#[test]
fn a_packet_is_no_longer_than_a_path_carries() {
    let (mut world, mut camera) = call(Config::default());
    let long = |camera: &mut Source, bytes: usize| {
        let mut packet = camera.next_packets(0).remove(0);
        packet.payload.resize(bytes, 0xaa);
        packet
    };
    let (fits, too_long) = (long(&mut camera, 1_900), long(&mut camera, 30_000));
    world.clients[0].send_rtp(too_long);
    world.clients[0].send_rtp(fits);
    world.flush();
    world.run(Duration::from_millis(200));
    assert_eq!(world.engine.counters().dropped.get(DropReason::RtpTooLong), 1);
    let longest = world.clients[1].of(VIEWER).map(|packet| packet.payload.len()).max();
    assert_eq!(longest, Some(1_900));
}

/// Numbers of the data messages of that client that have come up since the last time.
fn sent_up(world: &World, client: usize) -> Vec<u32> {
    let number = |payload: &[u8]| u32::from_be_bytes(payload.try_into().expect("a number"));
    let up = world.events.iter().filter_map(|event| match event {
        Event::DataMessage { transport, payload, .. } if *transport == World::transport(client) => Some(payload),
        _ => None,
    });
    up.map(|payload| number(payload)).collect()
}

/// S-28
#[test]
fn a_flood_of_small_messages_is_slowed_down_and_nobody_else_waits() {
    for max_retransmits in [None, Some(0)] {
        let mut world = World::with_config(1, Config { data_messages_per_second: 500, ..Config::default() });
        let (flood, other) = (0, 1);
        for client in [flood, other] {
            assert_eq!(world.add_client(DtlsRole::Server, LinkConfig::default()), client);
        }
        world.connect();
        let now = world.now;
        for client in &mut world.clients {
            let channel = ChannelSpec { label: "any".into(), ordered: max_retransmits.is_none(), max_retransmits };
            client.sctp.as_mut().expect("connected").open(now, [channel]);
        }
        world.run(Duration::from_secs(3));
        world.take_events();

        let began = world.now;
        for number in 0..4_000u32 {
            world.clients[flood].send_data(began, "any", &number.to_be_bytes());
        }
        let mut flooded = Vec::new();
        for step in 1..=300u32 {
            let now = world.now;
            world.clients[other].send_data(now, "any", &step.to_be_bytes());
            world.flush();
            world.run(Duration::from_millis(100));
            assert_eq!(sent_up(&world, other), [step], "{max_retransmits:?}");
            flooded.extend(sent_up(&world, flood));
            world.take_events();
            let may = 2 * 500 + 500 * step / 10 + 100;
            assert!(flooded.len() <= may as usize, "{} after {step} tenths", flooded.len());
        }
        assert!(world.engine.counters().dropped.get(DropReason::DataOverRate) > 0);
        assert!(flooded.len() >= 1_000 && flooded.is_sorted());
        if max_retransmits.is_none() {
            assert_eq!(flooded, (0..4_000).collect::<Vec<_>>(), "what is reliable comes later");
        }
        assert!(world.clients[flood].sctp.as_ref().is_some_and(|sctp| sctp.is_open("any")));
    }
}

/// S-28
#[test]
fn a_file_that_comes_too_fast_arrives_whole_and_later() {
    const PIECE: usize = 15_000;
    let mut world = World::with_config(1, Config { data_bytes_per_second: 300_000, ..Config::default() });
    world.add_client(DtlsRole::Server, LinkConfig::default());
    world.connect();
    let began = world.now;
    let channel = ChannelSpec { label: "_reliable".into(), ordered: true, max_retransmits: None };
    world.clients[0].sctp.as_mut().expect("connected").open(began, [channel]);
    world.run(Duration::from_secs(3));
    let began = world.now;
    (0..160u8).for_each(|piece| world.clients[0].send_data(began, "_reliable", &[piece; PIECE]));
    let mut pieces = Vec::new();
    while pieces.len() < 160 && world.now < began + Duration::from_secs(30) {
        world.run(Duration::from_millis(50));
        for event in world.take_events() {
            if let Event::DataMessage { payload, .. } = event {
                assert!(payload.len() == PIECE && payload.iter().all(|byte| *byte == payload[0]));
                pieces.push(payload[0]);
            }
        }
    }
    assert_eq!(pieces, (0..160).collect::<Vec<_>>());
    // 2.4 MB, of which 0.6 pass at once.
    let took = world.now - began;
    assert!((Duration::from_millis(5_500)..Duration::from_millis(8_000)).contains(&took), "{took:?}");
    assert!(world.engine.counters().dropped.get(DropReason::DataOverRate) > 0);
}

/// S-19: six thousand numbers have room in one datagram, and each is looked for.
#[test]
fn one_datagram_asks_for_so_many_numbers() {
    let (mut world, mut camera) = call(Config::default());
    let before = world.engine.counters().feedback_in.nack;
    let never_sent: Vec<u16> = (20_000..24_000).collect();
    world.clients[1].send_rtcp(&callyard_peer::rtcp::nacks(VIEWER, &never_sent));
    world.flush();
    world.run(Duration::from_millis(100));
    assert_eq!(world.engine.counters().feedback_in.nack - before, 512);
    goes_on(&mut world, &mut camera);
}

/// Each change of codec has everybody's layers chosen anew, and the room told.
#[test]
fn a_publisher_that_changes_its_codec_with_every_packet_is_told_of_now_and_then() {
    let (mut world, mut camera) = call(Config::default());
    let mut two = Source::video(0, 2, 2_000);
    let spec = two.spec();
    let codecs = vec![spec.codecs[0].clone(), vp8(98)];
    world.apply(Command::AddUptrack(UptrackSpec { codecs, ..spec }));
    world.take_events();
    for number in 0..1_000 {
        for mut packet in two.next_packets(0) {
            packet.pt = if number % 2 == 0 { 96 } else { 98 };
            world.clients[0].send_rtp(packet);
        }
        world.flush();
        world.run(Duration::from_millis(2));
    }
    let told = world.take_events().into_iter().filter(|event| matches!(event, Event::UptrackMedia { .. })).count();
    assert!((1..=25).contains(&told), "{told} times in two seconds");
    goes_on(&mut world, &mut camera);
}

/// A picture of which a part was forgotten while it waited for a narrow link: nobody is sent it as if it were whole.
#[test]
fn a_picture_that_is_longer_than_what_is_kept_is_asked_for_anew() {
    const PARTS: u16 = 300;
    let (mut world, mut camera) = call(Config::default());
    world.apply(Command::SetMemoryPressure { level: 2 });
    let (before, asked) = (world.clients[1].received.len(), world.engine.counters().feedback_out.pli);
    let mut packet = camera.next_packets(0).remove(0);
    packet.payload.resize(1_100, 0xaa);
    for part in 0..PARTS {
        packet.marker = part + 1 == PARTS;
        world.clients[0].send_rtp(packet.clone());
        packet.seq = packet.seq.wrapping_add(1);
        // The start of a VP8 partition is in the first alone.
        packet.payload[0] &= !0x10;
    }
    camera.streams[0].seq = packet.seq;
    world.flush();
    play(&mut world, &mut [&mut camera], Duration::from_secs(3));
    assert!(world.engine.counters().feedback_out.pli > asked);
    let parts: Vec<_> = world.clients[1].received[before..].iter().filter(|one| one.payload.len() == 1_100).collect();
    assert!(parts.len() < usize::from(PARTS), "it did not fit");
    assert!(parts.iter().all(|part| !part.marker), "{} parts look like a whole", parts.len());
    goes_on(&mut world, &mut camera);
}

/// Two clients with a channel each.
fn talking(config: Config) -> World {
    let mut world = World::with_config(1, config);
    for _ in 0..2 {
        world.add_client(DtlsRole::Server, LinkConfig::default());
    }
    world.connect();
    let now = world.now;
    for client in &mut world.clients {
        let roomy = Config { max_message_bytes: 100_000, ..Config::default() };
        let mut sctp = Sctp::new(&roomy, DtlsRole::Client);
        sctp.open(now, [ChannelSpec { label: "any".into(), ordered: true, max_retransmits: None }]);
        client.sctp = Some(sctp);
    }
    world.run(Duration::from_secs(3));
    world.take_events();
    world
}

/// Why the transport of the first client was closed, once it was; the other's data goes on.
fn how_it_ended(world: &mut World) -> Option<String> {
    let now = world.now;
    world.clients[1].send_data(now, "any", &7u32.to_be_bytes());
    world.flush();
    world.run(Duration::from_millis(100));
    assert_eq!(sent_up(world, 1), [7]);
    let mut ends = world.take_events().into_iter().filter_map(|event| match event {
        Event::TransportState { transport, state: TransportState::Closed, reason } => {
            assert_eq!(transport, World::transport(0));
            Some(reason)
        }
        _ => None,
    });
    ends.next()
}

/// S-28: his data was dead otherwise, and nobody knew.
#[test]
fn who_sends_a_message_over_the_limit_is_closed_and_told() {
    let mut world = talking(Config::default());
    let now = world.now;
    world.clients[0].send_data(now, "any", &[1; 60_000]);
    assert_eq!(how_it_ended(&mut world), None);
    let now = world.now;
    world.clients[0].send_data(now, "any", &[1; 70_000]);
    let ended = (0..10).find_map(|_| how_it_ended(&mut world));
    assert_eq!(ended.as_deref(), Some("data_lost"));
    assert_eq!(world.engine.counters().dropped.get(DropReason::DataFatal), 1);
    assert!(world.clients[0].is_closed);
    assert_eq!(how_it_ended(&mut world), None);
}

/// CRC32c (RFC 9260 §6.8) in its place, little end first.
fn seal(packet: &mut [u8]) {
    packet[8..12].fill(0);
    let bit = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    let crc = !packet.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit));
    packet[8..12].copy_from_slice(&crc.to_le_bytes());
}

/// S-28: each piece costs by all that are kept, and the window counts bytes alone.
#[test]
fn a_flood_of_pieces_of_messages_holds_up_nobody_else() {
    for (bytes, counted) in [(0, DropReason::DataMalformed), (1, DropReason::DataTooMuch)] {
        let mut world = talking(Config::default());
        let (now, mut packets) = (world.now, VecDeque::new());
        let sctp = world.clients[0].sctp.as_mut().expect("connected");
        sctp.send(now, "any", b"true");
        sctp.poll_packet(now, &mut packets);
        let model = packets.pop_front().expect("a message is sent at once").to_vec();
        let mut tsn = u32::from_be_bytes([model[16], model[17], model[18], model[19]]);
        world.clients[0].send_sctp(now, &model);
        let mut ended = None;
        for _ in 0..30 {
            let now = world.now;
            for _ in 0..4 {
                let mut packet = model[..12].to_vec();
                for _ in 0..50 {
                    tsn = tsn.wrapping_add(1);
                    // Unordered, the beginning of a message.
                    packet.extend_from_slice(&[0, 6, 0, 16 + bytes]);
                    packet.extend_from_slice(&tsn.to_be_bytes());
                    packet.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 53]);
                    packet.resize(packet.len() + usize::from(bytes).next_multiple_of(4), 0);
                }
                seal(&mut packet);
                if ended.is_none() {
                    world.clients[0].send_sctp(now, &packet);
                }
            }
            ended = ended.or_else(|| how_it_ended(&mut world));
        }
        assert_eq!(ended.as_deref(), (bytes > 0).then_some("data_lost"));
        let times = world.engine.counters().dropped.get(counted);
        assert_eq!(times, if bytes > 0 { 1 } else { 120 });
    }
}
