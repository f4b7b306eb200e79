//! Simulcast: the wished layer, switched at key frames without a break; what is missing is replaced; what nobody wants is told.

use std::collections::BTreeMap;
use std::time::Duration;

use callyard_peer::client::{Outgoing, Received, Rtx};
use callyard_peer::media::{
    Source, TWCC_ID, content, downtrack_spec, is_key, picture_id, play, quality, subscribe, watched,
};
use callyard_peer::netem::LinkConfig;
use callyard_peer::{ROOM, World};
use callyard_proto::command::{Command, DtlsRole, LayerMode, Want};
use callyard_proto::config::Config;
use callyard_proto::event::Event;
use callyard_proto::ids::{DowntrackId, Spatial, UptrackId};
use callyard_proto::transmit::Path;

fn call(seed: u64, link: LinkConfig) -> (World, Source) {
    let mut world = World::new(seed);
    world.add_client(DtlsRole::Server, link.clone());
    world.add_client(DtlsRole::Server, link);
    world.run(Duration::from_secs(4));
    let camera = Source::simulcast(0, 1, 1_000);
    camera.publish(&mut world);
    (world, camera)
}

fn want(world: &mut World, want: Want) {
    world.apply(Command::SetDowntrack { downtrack: DowntrackId(11), want });
}

/// Numbers, times and picture ids run on, and each change of layer begins with a key frame.
fn assert_continuous(packets: &[&Received]) {
    for pair in packets.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        assert_eq!(b.seq, a.seq.wrapping_add(1), "no hole, no repetition");
        let step = b.timestamp.wrapping_sub(a.timestamp) as i32;
        assert!((0..=900_000).contains(&step), "time goes on, by {step}");
        let pictures = picture_id(&b.payload).wrapping_sub(picture_id(&a.payload)) & 0x7fff;
        assert!(pictures <= 1, "picture ids go on, by {pictures}");
        let (from, to) = (content(&a.payload), content(&b.payload));
        assert!(from.0 == to.0 || is_key(&b.payload), "layer {} to {} at a key frame", from.0, to.0);
    }
}

fn layers(packets: &[&Received]) -> Vec<u8> {
    // Padding alone stands where a packet of a layer that was left is still missing.
    let mut out: Vec<u8> = packets.iter().filter(|p| !p.payload.is_empty()).map(|p| content(&p.payload).0).collect();
    out.dedup();
    out
}

/// S-27
#[test]
fn switches_happen_at_key_frames_and_nothing_breaks() {
    let (mut world, mut camera) = call(1, LinkConfig::default());
    subscribe(&mut world, 1, &camera, 11, 5_000, quality(2));
    for wish in [quality(0), quality(1), Want { width: 1_280, height: 720, ..Want::default() }, quality(0), quality(2)]
    {
        play(&mut world, &mut [&mut camera], Duration::from_secs(3));
        want(&mut world, wish);
    }
    play(&mut world, &mut [&mut camera], Duration::from_secs(3));
    world.run(Duration::from_millis(300));
    let packets = world.clients[1].in_order(5_000);
    assert!(is_key(&packets[0].payload));
    assert_continuous(&packets);
    assert_eq!(layers(&packets), [0, 2, 0, 1, 2, 0, 2], "small first, then as wished");
    assert_eq!(world.engine.counters().layer_switches, 6);
}

#[test]
fn the_wishes_of_one_batch_are_weighed_once() {
    let (mut world, mut camera) = call(3, LinkConfig::default());
    subscribe(&mut world, 1, &camera, 11, 5_000, quality(2));
    play(&mut world, &mut [&mut camera], Duration::from_secs(3));
    let before = world.engine.counters().allocations;
    let wishes = (0..100u8).map(|n| quality(n % 3)).chain([quality(1)]);
    let commands = wishes.map(|want| Command::SetDowntrack { downtrack: DowntrackId(11), want });
    world.engine.apply_all(world.now, commands);
    assert_eq!(world.engine.counters().allocations, before + 1);
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    world.run(Duration::from_millis(300));
    let packets = world.clients[1].in_order(5_000);
    assert_continuous(&packets);
    assert_eq!(layers(&packets), [0, 2, 1], "the last of them holds");
    want(&mut world, quality(0));
    assert!(world.engine.counters().allocations > before + 1, "and one by one as before");
}

/// F-04
#[test]
fn switches_survive_a_bad_link() {
    let link = LinkConfig { loss: 0.03, jitter: Duration::from_millis(10), reorder: 0.01, ..LinkConfig::default() };
    for seed in 1..=4 {
        let (mut world, mut camera) = call(seed, link.clone());
        subscribe(&mut world, 1, &camera, 11, 5_000, quality(0));
        for wish in [2, 1, 0, 2, 0, 1] {
            play(&mut world, &mut [&mut camera], Duration::from_secs(4));
            want(&mut world, quality(wish));
        }
        world.set_loss(0.0);
        play(&mut world, &mut [&mut camera], Duration::from_secs(4));
        world.run(Duration::from_millis(500));
        let packets = world.clients[1].in_order(5_000);
        // What his own link lost of a layer is not sent again once it was left.
        let holes = world.clients[1].holes(5_000);
        assert!(holes <= 6, "seed {seed}: {holes} holes at six switches");
        assert_eq!(layers(&packets).last(), Some(&1), "seed {seed}: {:?}", layers(&packets));
    }
}

#[test]
fn a_layer_that_stops_is_replaced_by_a_lower_one_and_comes_back() {
    let (mut world, mut camera) = call(2, LinkConfig::default());
    subscribe(&mut world, 1, &camera, 11, 5_000, quality(2));
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    camera.streams[2].is_sent = false;
    play(&mut world, &mut [&mut camera], Duration::from_secs(5));
    assert_eq!(layers(&world.clients[1].in_order(5_000)), [0, 2, 1]);
    camera.streams[2].is_sent = true;
    play(&mut world, &mut [&mut camera], Duration::from_secs(4));
    let packets = world.clients[1].in_order(5_000);
    assert_eq!(layers(&packets), [0, 2, 1, 2]);
    assert_continuous(&packets);
    let told: Vec<Vec<u8>> = world
        .events
        .iter()
        .filter_map(|e| match e {
            Event::UptrackMedia { layers, .. } => Some(layers.iter().map(|s| s.0).collect()),
            _ => None,
        })
        .collect();
    assert_eq!(told.last(), Some(&vec![0, 1, 2]));
    assert!(told.contains(&vec![0, 1]), "{told:?}");
}

/// Encoders there are that send nothing of the small sizes.
#[test]
fn who_wants_a_layer_that_does_not_flow_gets_the_next_one_above() {
    for has_feedback in [true, false] {
        let (mut world, mut camera) = call(12, LinkConfig::default());
        if !has_feedback {
            world.clients[1].feedback = None;
        }
        (camera.streams[0].is_sent, camera.streams[1].is_sent) = (false, false);
        let mut spec = downtrack_spec(1, &camera, 11, 5_000, quality(0));
        spec.extensions.retain(|extension| has_feedback || extension.id != TWCC_ID);
        world.apply(Command::AddDowntrack(spec));
        world.clients[1].receive_rtx.insert(5_001, Rtx { ssrc: 5_000, pt: 100 });
        play(&mut world, &mut [&mut camera], Duration::from_secs(3));
        let packets = world.clients[1].in_order(5_000);
        assert_eq!(layers(&packets), [2], "a picture that is too large is better than none");
        assert!(packets.len() > 120, "{} packets", packets.len());
        camera.streams[0].is_sent = true;
        play(&mut world, &mut [&mut camera], Duration::from_secs(3));
        let packets = world.clients[1].in_order(5_000);
        assert_eq!(layers(&packets), [2, 0], "and what was wished as soon as it flows");
        assert_continuous(&packets);
    }
}

/// F-43
#[test]
fn pause_mute_and_republishing_keep_the_stream_whole() {
    let (mut world, mut camera) = call(3, LinkConfig::default());
    subscribe(&mut world, 1, &camera, 11, 5_000, quality(1));
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));

    want(&mut world, Want { disabled: true, ..Want::default() });
    world.run(Duration::from_millis(100));
    let paused = world.clients[1].received.len();
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    assert_eq!(world.clients[1].received.len(), paused, "a paused track sends nothing");
    want(&mut world, quality(1));
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));

    let mute = |muted| Command::UpdateUptrack { uptrack: UptrackId(1), muted, layers: None };
    world.apply(mute(true));
    world.run(Duration::from_millis(100));
    let muted = world.clients[1].received.len();
    assert!(muted > paused + 50);
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    assert_eq!(world.clients[1].received.len(), muted);
    world.apply(mute(false));
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));

    let mut again = Source::simulcast(0, 2, 9_000);
    again.publish(&mut world);
    world.apply(Command::SwitchDowntrack { downtrack: DowntrackId(11), uptrack: UptrackId(2) });
    play(&mut world, &mut [&mut again], Duration::from_secs(2));
    world.run(Duration::from_millis(300));
    let packets = world.clients[1].in_order(5_000);
    assert!(packets.len() > muted + 80);
    assert_continuous(&packets);
}

#[test]
fn a_publisher_that_begins_anew_under_another_ssrc_goes_on_for_its_subscribers() {
    let (mut world, mut camera) = call(4, LinkConfig::default());
    subscribe(&mut world, 1, &camera, 11, 5_000, quality(2));
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    let before = world.clients[1].received.len();
    for (i, stream) in camera.streams.iter_mut().enumerate() {
        stream.ssrc = 70_000 + 10 * i as u32;
        stream.seq = 3;
        stream.timestamp = 17;
        stream.picture_id = 5;
        stream.wants_key = true;
    }
    play(&mut world, &mut [&mut camera], Duration::from_secs(3));
    world.run(Duration::from_millis(300));
    let packets = world.clients[1].in_order(5_000);
    assert!(packets.len() > before + 200, "{} after {before}", packets.len());
    assert_continuous(&packets);
}

/// What was under way when a publisher began anew bears numbers of the stream that is over.
#[test]
fn a_late_retransmission_of_a_stream_that_is_over_silences_nothing() {
    let (mut world, mut camera) = watched(Config::default(), 1);
    let late = camera.next_packets(0).remove(0);
    let payload = [&late.seq.to_be_bytes()[..], &late.payload[..]].concat();
    let late = Outgoing { ssrc: 1_001, pt: 97, seq: 900, payload, ..late };
    let stream = &mut camera.streams[0];
    (stream.ssrc, stream.seq, stream.wants_key) = (70_000, stream.seq.wrapping_sub(20_000), true);
    world.clients[0].send_rtx.insert(70_000, Rtx { ssrc: 70_001, pt: 97 });
    play(&mut world, &mut [&mut camera], Duration::from_secs(1));
    world.clients[0].send_rtp(late);
    let before = world.clients[1].in_order(5_000).len();
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    let packets = world.clients[1].in_order(5_000).len() - before;
    assert!(packets > 55, "{packets} packets in 2 s");
    // Retransmissions of the new one are taken.
    world.up[0].config.loss = 0.1;
    play(&mut world, &mut [&mut camera], Duration::from_secs(4));
    world.up[0].config.loss = 0.0;
    play(&mut world, &mut [&mut camera], Duration::from_secs(1));
    let packets = world.clients[1].in_order(5_000);
    assert_continuous(&packets);
    assert!(world.clients[0].resent > 3, "{} sent again", world.clients[0].resent);
}

/// The numbers of a publisher who begins anew may be those that he had before.
#[test]
fn what_is_sent_again_is_what_was_sent() {
    let mut world = World::new(14);
    for _ in 0..2 {
        world.add_client(DtlsRole::Server, LinkConfig::default());
    }
    world.connect();
    let mut camera = Source::video(0, 1, 1_000);
    camera.streams[0].seq = 30_000;
    camera.publish(&mut world);
    // Who does not report transport-wide may ask for what came before the last key frame.
    let mut spec = downtrack_spec(1, &camera, 11, 5_000, Want::default());
    spec.extensions.retain(|extension| extension.id != TWCC_ID);
    world.apply(Command::AddDowntrack(spec));
    world.clients[1].receive_rtx.insert(5_001, Rtx { ssrc: 5_000, pt: 100 });
    play(&mut world, &mut [&mut camera], Duration::from_secs(1));
    let numbers: Vec<u16> = world.clients[1].in_order(5_000).iter().map(|packet| packet.seq).collect();
    let stream = &mut camera.streams[0];
    (stream.ssrc, stream.seq, stream.wants_key) = (70_000, 30_000, true);
    play(&mut world, &mut [&mut camera], Duration::from_secs(1));
    assert!(world.clients[1].in_order(5_000).len() > numbers.len() + 20);
    world.clients[1].send_rtcp(&callyard_peer::rtcp::nacks(5_000, &numbers));
    world.flush();
    world.run(Duration::from_millis(500));
    let mut payloads = BTreeMap::new();
    for packet in world.clients[1].of(5_000) {
        assert_eq!(*payloads.entry(packet.seq).or_insert(&packet.payload), &packet.payload, "{}", packet.seq);
    }
}

#[test]
fn demand_is_the_highest_wish_at_once_up_and_later_down() {
    let (mut world, mut camera) = call(5, LinkConfig::default());
    world.take_events();
    let demands = |world: &mut World| -> Vec<Option<u8>> {
        world
            .take_events()
            .into_iter()
            .filter_map(|e| match e {
                Event::UptrackDemand { max_spatial, .. } => Some(max_spatial.map(|s| s.0)),
                _ => None,
            })
            .collect()
    };
    subscribe(&mut world, 1, &camera, 11, 5_000, quality(0));
    assert_eq!(demands(&mut world), [Some(0)]);
    want(&mut world, quality(2));
    assert_eq!(demands(&mut world), [Some(2)]);
    want(&mut world, quality(1));
    play(&mut world, &mut [&mut camera], Duration::from_millis(2_800));
    assert_eq!(demands(&mut world), []);
    play(&mut world, &mut [&mut camera], Duration::from_millis(400));
    assert_eq!(demands(&mut world), [Some(1)]);
    world.apply(Command::RemoveDowntrack { downtrack: DowntrackId(11) });
    play(&mut world, &mut [&mut camera], Duration::from_millis(3_300));
    assert_eq!(demands(&mut world), [None]);
}

/// S-20
#[test]
fn key_frame_requests_are_throttled_however_many_ask() {
    let mut world = World::new(6);
    for _ in 0..6 {
        world.add_client(DtlsRole::Server, LinkConfig::default());
    }
    world.connect();
    let mut camera = Source::video(0, 1, 1_000);
    camera.publish(&mut world);
    for client in 1..6 {
        subscribe(&mut world, client, &camera, 10 + client as u64, 5_000, Want::default());
    }
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    let before = world.engine.counters().feedback_out.pli;
    for _ in 0..100 {
        for client in 1..6 {
            world.clients[client].send_rtcp(&callyard_peer::rtcp::pli(5_000));
        }
        play(&mut world, &mut [&mut camera], Duration::from_millis(50));
    }
    let asked = world.engine.counters().feedback_out.pli - before;
    assert!((4..=6).contains(&asked), "{asked} requests in 5 s for 500 asked");
}

/// S-20
#[test]
fn a_fir_that_is_sent_again_asks_for_nothing_new() {
    let (mut world, mut camera) = watched(Config::default(), 1);
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    for (number, asks) in [(7, 1), (7, 0), (7, 0), (8, 1), (8, 0), (7, 1), (255, 1), (0, 1)] {
        let before = world.engine.counters().feedback_out.pli;
        world.clients[1].send_rtcp(&callyard_peer::rtcp::fir(5_000, number));
        play(&mut world, &mut [&mut camera], Duration::from_millis(1_500));
        assert_eq!(world.engine.counters().feedback_out.pli - before, asks, "FIR {number}");
    }
    assert_eq!(world.engine.counters().feedback_in.fir, 8);
}

/// S-25
#[test]
fn wishes_that_flap_cost_the_publisher_no_storm() {
    let mut world = World::new(6);
    for _ in 0..2 {
        world.add_client(DtlsRole::Server, LinkConfig::default());
    }
    world.connect();
    let mut camera = Source::simulcast(0, 1, 1_000);
    camera.publish(&mut world);
    subscribe(&mut world, 1, &camera, 11, 5_000, Want::default());
    play(&mut world, &mut [&mut camera], Duration::from_secs(3));
    let (pli, first) = (world.engine.counters().feedback_out.pli, world.clients[1].received.len());
    for frame in 0..300u32 {
        let want = Want { quality: Some((frame % 3) as u8), ..Want::default() };
        world.apply(Command::SetDowntrack { downtrack: DowntrackId(11), want });
        play(&mut world, &mut [&mut camera], Duration::from_millis(33));
    }
    let asked = world.engine.counters().feedback_out.pli - pli;
    assert!(asked <= 33, "{asked} requests in 10 s for three layers");
    let layers: Vec<u8> = world.clients[1].received[first..].iter().map(|p| content(&p.payload).0).collect();
    let switches = layers.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(switches <= 30, "{switches} switches for 300 wishes");
    assert_eq!(world.clients[1].holes(5_000), 0);
}

#[test]
fn who_joins_after_others_does_not_wait_a_second_for_the_first_picture() {
    // What is kept of the stream would serve most of them.
    let config = Config { first_picture_max_age: Duration::ZERO, ..Config::default() };
    let mut world = World::with_config(6, config);
    for _ in 0..13 {
        world.add_client(DtlsRole::Server, LinkConfig::default());
    }
    world.connect();
    let mut camera = Source::video(0, 1, 1_000);
    camera.publish(&mut world);
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    let before = world.engine.counters().feedback_out.pli;
    for client in 1..13 {
        subscribe(&mut world, client, &camera, 10 + client as u64, 5_000, Want::default());
        play(&mut world, &mut [&mut camera], Duration::from_millis(100));
    }
    let asked = world.engine.counters().feedback_out.pli - before;
    assert!((4..=5).contains(&asked), "{asked} requests in 1.2 s for 12 who came");
    play(&mut world, &mut [&mut camera], Duration::from_millis(400));
    for client in 1..13 {
        assert!(world.clients[client].of(5_000).count() > 0, "client {client} has no picture");
    }
}

/// Safari and others are asked for SVC by an encoding for each layer, and send one stream, named as the largest.
#[test]
fn the_one_stream_of_svc_goes_by_any_name() {
    let mut world = World::new(15);
    for _ in 0..2 {
        world.add_client(DtlsRole::Server, LinkConfig::default());
    }
    world.connect();
    let mut camera = Source::simulcast(0, 1, 1_000);
    (camera.streams[0].is_sent, camera.streams[1].is_sent) = (false, false);
    let mut spec = camera.spec();
    (spec.mode, spec.rids) = (LayerMode::Svc, Vec::new());
    world.apply(Command::AddUptrack(spec));
    subscribe(&mut world, 1, &camera, 11, 5_000, quality(0));
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    let packets = world.clients[1].in_order(5_000).len();
    assert!(packets > 150, "{packets} packets in 2 s");
    assert_eq!(world.clients[1].holes(5_000), 0);
}

/// S-24
#[test]
fn one_rooms_tracks_stay_in_the_room() {
    let mut world = World::new(7);
    world.add_client(DtlsRole::Server, LinkConfig::default());
    world.add_client_in(callyard_proto::ids::RoomId(2), DtlsRole::Server, LinkConfig::default());
    world.connect();
    let camera = Source::video(0, 1, 1_000);
    camera.publish(&mut world);
    world.take_events();
    subscribe(&mut world, 1, &camera, 11, 5_000, Want::default());
    let events = world.take_events();
    assert!(matches!(&events[..], [Event::Rejected { code, subject: 11, .. }] if code == "other_room"), "{events:?}");
}

#[test]
fn a_frame_to_one_subscriber_is_one_send() {
    let (mut world, mut camera) = call(8, LinkConfig::default());
    subscribe(&mut world, 1, &camera, 11, 5_000, quality(2));
    play(&mut world, &mut [&mut camera], Duration::from_secs(6));
    world.sends.clear();
    for index in 0..30 {
        // Sizes within a frame differ by a byte, as Chromium's do.
        let mut packets = camera.next_packets(2);
        for (i, packet) in packets.iter_mut().enumerate() {
            packet.payload.truncate(600 - (i + index) % 2);
        }
        for packet in packets {
            world.clients[0].send_rtp(packet);
        }
        world.flush();
        world.run(Duration::from_millis(33));
    }
    world.run(Duration::from_millis(100));
    let bob = Path::Udp(world.clients[1].address);
    let frames = world.sends.iter().filter(|(to, segments)| *to == bob && *segments == 3).count();
    assert_eq!(frames, 30, "{:?}", world.sends);
    let packets = world.clients[1].in_order(5_000);
    assert!(packets.iter().all(|p| p.payload.len() == 600 || p.payload.len() == 599), "padding is not payload");
}

#[test]
fn bare_padding_is_no_bitrate_of_a_layer() {
    let (mut world, mut camera) = call(10, LinkConfig::default());
    subscribe(&mut world, 1, &camera, 11, 5_000, quality(2));
    play(&mut world, &mut [&mut camera], Duration::from_secs(3));
    let mut lowest = || {
        world.take_events();
        world.apply(Command::GetRoomStats { request: 6, room: ROOM });
        let stats = world.take_events().into_iter().find_map(|e| match e {
            Event::RoomStats { uptracks, .. } => Some(uptracks[0].layer_bitrates_bps[0]),
            _ => None,
        });
        let found = stats.expect("figures");
        // A probe of the publisher's own link, on the lowest layer's stream.
        for _ in 0..60 {
            for _ in 0..20 {
                for mut packet in camera.next_packets(0) {
                    packet.payload.clear();
                    world.clients[0].send_rtp(packet);
                }
            }
            play(&mut world, &mut [&mut camera], Duration::from_millis(33));
        }
        found
    };
    let (before, after) = (lowest(), lowest());
    assert!(after < before * 3 / 2, "{before} bit/s became {after}");
}

#[test]
fn figures_snapshot_and_quality_say_what_is() {
    let (mut world, mut camera) = call(9, LinkConfig::default());
    subscribe(&mut world, 1, &camera, 11, 5_000, quality(1));
    play(&mut world, &mut [&mut camera], Duration::from_secs(11));
    let reports = world.events.iter().rev().find_map(|e| match e {
        Event::Quality { reports } => Some(reports.clone()),
        _ => None,
    });
    let reports = reports.expect("a report every five seconds");
    assert_eq!(reports.len(), 2);
    assert!(reports.iter().all(|r| r.has_media && r.loss_up == 0.0 && !r.limited), "{reports:?}");
    assert!(reports[0].bitrate_up_bps > 500_000 && reports[1].bitrate_down_bps > 200_000, "{reports:?}");

    world.take_events();
    world.apply(Command::Snapshot);
    world.apply(Command::GetRoomStats { request: 5, room: ROOM });
    let events = world.take_events();
    let [Event::Overload { level: 0, memory: 0 }, Event::Snapshot(snapshot), figures] = &events[..] else {
        panic!("{events:?}")
    };
    let Event::RoomStats { request: 5, uptracks, downtracks, .. } = figures else { panic!("{events:?}") };
    assert_eq!((snapshot.transports.len(), snapshot.uptracks.len(), snapshot.downtracks.len()), (2, 1, 1));
    assert_eq!(snapshot.uptracks[0].layers, [Spatial(0), Spatial(1), Spatial(2)]);
    assert_eq!(snapshot.uptracks[0].mime, "video/VP8");
    assert_eq!(snapshot.uptracks[0].max_spatial, Some(Spatial(1)));
    assert_eq!(uptracks[0].layer_bitrates_bps.len(), 3);
    assert!(uptracks[0].layer_bitrates_bps.windows(2).all(|w| w[0] < w[1]), "{:?}", uptracks[0].layer_bitrates_bps);
    assert_eq!((downtracks[0].current_spatial, downtracks[0].target_spatial), (Some(Spatial(1)), Some(Spatial(1))));
    assert!(downtracks[0].packets > 600);
}

/// An encoder that has no room for its upper layer makes a key frame of each of the others whenever one is asked for.
#[test]
fn a_layer_that_has_stopped_is_not_asked_for_key_frames_again_and_again() {
    let (mut world, mut camera) = call(8, LinkConfig::default());
    subscribe(&mut world, 1, &camera, 11, 5_000, quality(2));
    play(&mut world, &mut [&mut camera], Duration::from_secs(3));
    camera.streams[2].is_sent = false;
    let before = world.engine.counters().feedback_out.pli;
    world.clients[1].send_rtcp(&callyard_peer::rtcp::pli(5_000));
    world.flush();
    play(&mut world, &mut [&mut camera], Duration::from_secs(8));
    let asked = world.engine.counters().feedback_out.pli - before;
    // Once for who asked, and once more for the lower layer that he gets instead.
    assert!((1..=3).contains(&asked), "{asked} times in 8 s");
    // It is asked for again as soon as there is somebody to answer.
    camera.streams[2].is_sent = true;
    camera.streams[2].wants_key = false;
    play(&mut world, &mut [&mut camera], Duration::from_secs(3));
    let packets = world.clients[1].in_order(5_000);
    assert_eq!(content(&packets.last().expect("it flows").payload).0, 2);
}

/// A publisher whose right to publish is taken and given back, again and again, under new ssrcs and under old ones.
#[test]
fn tracks_that_come_and_go_never_use_up_the_room_for_streams() {
    let (mut world, mut camera) = call(9, LinkConfig::default());
    subscribe(&mut world, 1, &camera, 11, 5_000, quality(0));
    play(&mut world, &mut [&mut camera], Duration::from_secs(1));
    for round in 0..80u64 {
        let mut other = Source::video(0, 100 + round, 20_000 + 10 * round as u32);
        other.publish(&mut world);
        subscribe(&mut world, 1, &other, 200 + round, 900_000 + 10 * round as u32, Want::default());
        play(&mut world, &mut [&mut camera, &mut other], Duration::from_millis(100));
        world.apply(Command::RemoveUptrack { uptrack: other.uptrack });
        // What is still under way belongs to nobody.
        play(&mut world, &mut [&mut camera, &mut other], Duration::from_millis(70));
        assert!(world.clients[1].of(900_000 + 10 * round as u32).count() > 1, "round {round}");
    }
    let before = world.clients[1].in_order(5_000).len();
    play(&mut world, &mut [&mut camera], Duration::from_secs(1));
    assert!(world.clients[1].in_order(5_000).len() > before + 20);
}

/// The place of a removed uptrack is given to the next, which has fewer encodings.
#[test]
fn what_was_missing_of_an_uptrack_goes_with_it() {
    let (mut world, mut camera) = call(10, LinkConfig::default());
    subscribe(&mut world, 1, &camera, 11, 5_000, quality(2));
    play(&mut world, &mut [&mut camera], Duration::from_secs(1));
    // One packet of the top layer never leaves, and cannot be had again.
    let lost = camera.streams[2].seq;
    camera.streams[2].seq = lost.wrapping_add(1);
    camera.send(&mut world);
    world.run(Duration::from_millis(60));
    world.apply(Command::RemoveUptrack { uptrack: camera.uptrack });
    let mut microphone = Source::audio(0, 2, 60_000);
    microphone.publish(&mut world);
    subscribe(&mut world, 1, &microphone, 12, 61_000, Want::default());
    play(&mut world, &mut [&mut microphone], Duration::from_secs(1));
    assert_eq!(world.engine.counters().panics, 0);
    assert!(world.clients[1].in_order(61_000).len() > 40);
}

/// More than anybody remembers: the numbers that subscribers see go on, and nothing tells them that pictures are missing.
#[test]
fn after_a_long_gap_a_key_frame_is_asked_for() {
    let (mut world, mut camera) = call(11, LinkConfig::default());
    subscribe(&mut world, 1, &camera, 11, 5_000, quality(0));
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    let before = world.engine.counters().feedback_out.pli;
    camera.streams[0].seq = camera.streams[0].seq.wrapping_add(1_500);
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    assert!(world.engine.counters().feedback_out.pli > before);
}
