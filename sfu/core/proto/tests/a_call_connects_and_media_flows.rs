//! From the first check to pictures: both DTLS roles, audio and video, over clean and over bad links.

use std::time::Duration;

use callyard_peer::World;
use callyard_peer::client::{Client, Rtx};
use callyard_peer::media::{self, Source, content, downtrack_spec, is_key, picture_id, play, quality, subscribe};
use callyard_peer::netem::LinkConfig;
use callyard_proto::command::{CodecSpec, Command, DtlsRole, Want};
use callyard_proto::event::{Event, PathProtocol, TransportState};
use callyard_proto::ids::{Pt, Ssrc};
use callyard_proto::rtcp;

#[test]
fn both_dtls_roles_connect_and_say_so() {
    let mut world = World::new(1);
    world.add_client(DtlsRole::Server, LinkConfig::default());
    world.add_client(DtlsRole::Client, LinkConfig::default());
    world.connect();
    for client in 0..2 {
        assert_eq!(world.states(client), [TransportState::Connecting, TransportState::Connected]);
    }
    let paths: Vec<_> = world
        .events
        .iter()
        .filter_map(|e| match e {
            Event::TransportPath { protocol, cipher, .. } => Some((*protocol, cipher.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(paths, [(PathProtocol::Udp, "aead_aes_256_gcm"); 2]);
    assert_eq!(world.engine.counters().transports.connected, 2);
}

#[test]
fn audio_and_video_reach_their_subscriber_whole_and_in_order() {
    let mut world = World::new(2);
    let alice = world.add_client(DtlsRole::Server, LinkConfig::default());
    let bob = world.add_client(DtlsRole::Client, LinkConfig::default());
    world.connect();
    let mut camera = Source::video(alice, 1, 1_000);
    let mut microphone = Source::audio(alice, 2, 2_000);
    camera.publish(&mut world);
    microphone.publish(&mut world);
    subscribe(&mut world, bob, &camera, 11, 5_000, Want::default());
    subscribe(&mut world, bob, &microphone, 12, 6_000, Want::default());
    play(&mut world, &mut [&mut camera, &mut microphone], Duration::from_secs(10));
    world.run(Duration::from_millis(200));

    let video = world.clients[bob].in_order(5_000);
    assert!(is_key(&video[0].payload), "video starts at a key frame");
    let frames: Vec<u32> = video.iter().map(|p| content(&p.payload).1).collect();
    assert!(frames.windows(2).all(|w| w[1] == w[0] + 1), "every picture, once, in order");
    assert!(frames.len() > 290, "{} pictures", frames.len());
    assert!(video.windows(2).all(|w| w[1].seq == w[0].seq.wrapping_add(1)));
    assert!(video.windows(2).all(|w| w[1].timestamp == w[0].timestamp.wrapping_add(3_000)));
    assert!(video.windows(2).all(|w| picture_id(&w[1].payload) == (picture_id(&w[0].payload) + 1) & 0x7fff));
    assert!(video.iter().all(|p| p.pt == 100 && p.marker));
    let audio = world.clients[bob].in_order(6_000);
    assert!(audio.len() > 490 && audio.iter().all(|p| p.pt == 63 && p.payload.len() == 80));
    assert!(audio.iter().all(|p| p.extensions.contains(&(media::LEVEL_ID, vec![0x80 | 30]))), "levels are carried on");
    assert!(world.events.iter().any(|e| matches!(e, Event::Speakers { speakers, .. } if speakers[0].active)));
    assert_eq!(world.engine.counters().panics, 0);
    assert_eq!(world.strays, 0);
}

/// The links lose packets for twenty seconds; the last ones have time to come again.
fn play_until_repaired(world: &mut World, camera: &mut Source) {
    play(world, &mut [&mut *camera], Duration::from_secs(20));
    world.set_loss(0.0);
    play(world, &mut [camera], Duration::from_secs(2));
    world.run(Duration::from_millis(500));
}

#[test]
fn lost_packets_come_again_both_ways() {
    let link = LinkConfig {
        jitter: Duration::from_millis(5),
        loss: 0.05,
        reorder: 0.01,
        duplicate: 0.01,
        ..LinkConfig::default()
    };
    for seed in 1..=3 {
        let mut world = World::new(seed);
        let alice = world.add_client(DtlsRole::Server, link.clone());
        let bob = world.add_client(DtlsRole::Server, link.clone());
        world.connect();
        let mut camera = Source::simulcast(alice, 1, 1_000);
        camera.publish(&mut world);
        subscribe(&mut world, bob, &camera, 11, 5_000, quality(2));
        play_until_repaired(&mut world, &mut camera);
        let bob = &world.clients[bob];
        assert_eq!(bob.holes(5_000), 0, "seed {seed}: nothing is missing");
        let total = bob.in_order(5_000).len();
        assert!(total > 1_500, "seed {seed}: {total} packets");
        let counters = world.engine.counters();
        assert!(counters.retransmitted > 20, "seed {seed}: {} sent again", counters.retransmitted);
        assert!(world.clients[alice].resent > 20, "seed {seed}: the publisher was asked again");
        assert!(bob.of(5_000).any(|p| p.was_rtx));
    }
}

/// Every video has an ssrc for RTX, whether its subscriber takes any or not.
#[test]
fn lost_packets_come_again_also_to_who_takes_no_rtx() {
    let link = LinkConfig { jitter: Duration::from_millis(5), loss: 0.05, ..LinkConfig::default() };
    for (seed, rtx_ssrc) in [(1, Some(Ssrc(5_001))), (2, Some(Ssrc(5_001))), (3, None)] {
        let mut world = World::new(seed);
        let alice = world.add_client(DtlsRole::Server, link.clone());
        let bob = world.add_client(DtlsRole::Server, link.clone());
        world.connect();
        let mut camera = Source::video(alice, 1, 1_000);
        camera.publish(&mut world);
        let mut spec = downtrack_spec(bob, &camera, 11, 5_000, Want::default());
        spec.rtx_ssrc = rtx_ssrc;
        spec.codecs[0].rtx_pt = None;
        world.apply(Command::AddDowntrack(spec));
        play_until_repaired(&mut world, &mut camera);
        let bob = &world.clients[bob];
        assert_eq!(bob.holes(5_000), 0, "seed {seed}: nothing is missing");
        assert!(bob.in_order(5_000).len() > 600, "seed {seed}: {} packets", bob.in_order(5_000).len());
        let counters = world.engine.counters();
        assert!(counters.retransmitted > 20, "seed {seed}: {} sent again", counters.retransmitted);
        assert!(bob.received.iter().all(|packet| packet.ssrc == 5_000 && packet.pt == 100), "seed {seed}");
    }
}

/// A subscriber of two codecs with RTX for one alone: each is repaired in its way, also after a change between them.
#[test]
fn who_takes_rtx_for_some_codecs_is_sent_the_others_again_as_they_were() {
    let mut world = World::new(5);
    let alice = world.add_client(DtlsRole::Server, LinkConfig::default());
    let bob = world.add_client(DtlsRole::Server, LinkConfig { loss: 0.05, ..LinkConfig::default() });
    world.connect();
    let mut camera = Source::video(alice, 1, 1_000);
    let mut spec = camera.spec();
    // Another clock makes it another codec.
    let other = |pt, rtx_pt: Option<Pt>| CodecSpec { clock_rate: 45_000, rtx_pt, ..media::vp8(pt) };
    spec.codecs.push(other(98, Some(Pt(99))));
    world.apply(Command::AddUptrack(spec));
    world.clients[alice].send_rtx.insert(1_000, Rtx { ssrc: 1_001, pt: 97 });
    let mut spec = downtrack_spec(bob, &camera, 11, 5_000, Want::default());
    spec.codecs.push(other(102, None));
    world.apply(Command::AddDowntrack(spec));
    world.clients[bob].receive_rtx.insert(5_001, Rtx { ssrc: 5_000, pt: 100 });
    for pt in [96, 98, 96, 98] {
        let end = world.now + Duration::from_secs(5);
        while world.now < end {
            for mut packet in camera.next_packets(0) {
                packet.pt = pt;
                world.clients[alice].send_rtp(packet);
            }
            world.flush();
            world.run(Duration::from_millis(33));
        }
    }
    world.set_loss(0.0);
    play(&mut world, &mut [&mut camera], Duration::from_secs(1));
    world.run(Duration::from_millis(500));
    let bob = &world.clients[bob];
    assert_eq!(bob.holes(5_000), 0, "nothing is missing");
    let counts = [100, 102].map(|pt| {
        let of_pt: Vec<_> = bob.of(5_000).filter(|packet| packet.pt == pt).collect();
        (of_pt.len(), of_pt.iter().filter(|packet| packet.was_rtx).count())
    });
    let [(first, as_rtx), (second, none)] = counts;
    assert!(first > 250 && as_rtx > 5 && second > 250 && none == 0, "{counts:?}");
}

/// What is lost is asked for ten times, once a round trip, before the publisher pays for it with a key frame.
#[test]
fn a_key_frame_is_asked_for_when_a_packet_is_given_up() {
    let mut world = World::new(7);
    let alice = world.add_client(DtlsRole::Server, LinkConfig::default());
    let bob = world.add_client(DtlsRole::Server, LinkConfig::default());
    world.connect();
    let mut camera = Source::video(alice, 1, 1_000);
    camera.publish(&mut world);
    subscribe(&mut world, bob, &camera, 11, 5_000, Want::default());
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    // From now on nothing is sent again, and one frame is lost.
    world.clients[alice].send_rtx.clear();
    world.clients[bob].repairs = false;
    world.up[alice].config.loss = 1.0;
    camera.send(&mut world);
    world.up[alice].config.loss = 0.0;
    let asked = |world: &World| (world.engine.counters().feedback_out.nack, world.engine.counters().feedback_out.pli);
    let (nacks, plis) = asked(&world);
    play(&mut world, &mut [&mut camera], Duration::from_millis(200));
    let (more, none) = asked(&world);
    assert!(more > nacks && none == plis, "{nacks} {more}, {plis} {none}");
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    let (in_all, one) = asked(&world);
    assert_eq!((in_all - nacks, one - plis), (10, 1));
}

#[test]
fn a_senders_clock_is_carried_on_so_that_sound_and_picture_stay_in_step() {
    let mut world = World::new(4);
    let alice = world.add_client(DtlsRole::Server, LinkConfig::default());
    let bob = world.add_client(DtlsRole::Server, LinkConfig::default());
    world.connect();
    let mut camera = Source::video(alice, 1, 1_000);
    let mut microphone = Source::audio(alice, 2, 2_000);
    camera.publish(&mut world);
    microphone.publish(&mut world);
    subscribe(&mut world, bob, &camera, 11, 5_000, Want::default());
    subscribe(&mut world, bob, &microphone, 12, 6_000, Want::default());
    play(&mut world, &mut [&mut camera, &mut microphone], Duration::from_secs(1));
    // One moment of the publisher's clock, which is a century off, on both streams.
    let (video_rtp, audio_rtp) = (camera.streams[0].timestamp, microphone.streams[0].timestamp);
    world.clients[alice].send_rtcp(&callyard_peer::rtcp::sender_report(1_000, 7 << 32, video_rtp));
    world.clients[alice].send_rtcp(&callyard_peer::rtcp::sender_report(2_000, 7 << 32, audio_rtp));
    play(&mut world, &mut [&mut camera, &mut microphone], Duration::from_secs(3));

    let bob = &world.clients[bob];
    let offset = |ssrc: u32, original: u32| {
        let first = bob.in_order(ssrc)[0];
        let _ = original;
        first.timestamp
    };
    let report = |ssrc: u32| {
        bob.rtcp
            .iter()
            .flat_map(|c| reports(c))
            .rfind(|(s, ..)| *s == ssrc)
            .unwrap_or_else(|| panic!("no report of {ssrc}"))
    };
    let (_, video_ntp, video_at) = report(5_000);
    let (_, audio_ntp, audio_at) = report(6_000);
    // Seconds since the first packet, by each stream's own clock, at the same wall-clock moment.
    let seconds = |ntp: u64| ntp as f64 / (1u64 << 32) as f64;
    let video_elapsed = f64::from(video_at.wrapping_sub(offset(5_000, video_rtp))) / 90_000.0;
    let audio_elapsed = f64::from(audio_at.wrapping_sub(offset(6_000, audio_rtp))) / 48_000.0;
    let drift = (video_elapsed - seconds(video_ntp)) - (audio_elapsed - seconds(audio_ntp));
    assert!(drift.abs() < 0.06, "sound and picture are {drift} s apart");
}

#[test]
fn arrivals_are_told_to_publishers_and_packets_to_subscribers_are_numbered() {
    let mut world = World::new(5);
    let link = LinkConfig { loss: 0.02, ..LinkConfig::default() };
    let alice = world.add_client(DtlsRole::Server, link);
    let bob = world.add_client(DtlsRole::Server, LinkConfig::default());
    world.run(Duration::from_secs(4));
    let (mut camera, mut microphone) = numbered(&mut world, alice, bob);
    play(&mut world, &mut [&mut camera, &mut microphone], Duration::from_secs(5));
    world.run(Duration::from_millis(300));

    let (received, missing) = told(&world.clients[alice]);
    let sent = usize::from(world.clients[alice].twcc_next.wrapping_sub(65_500));
    assert!(received + missing >= sent * 9 / 10, "{received} and {missing} of {sent}");
    assert!(missing > 0 && missing < sent / 10, "{missing} of {sent} missing");

    let mut numbers: Vec<u16> = world.clients[bob]
        .received
        .iter()
        .filter_map(|p| p.extensions.iter().find(|(id, _)| *id == media::TWCC_ID))
        .map(|(_, data)| u16::from_be_bytes([data[0], data[1]]))
        .collect();
    numbers.sort_unstable();
    assert_eq!(
        numbers,
        (0..numbers.len() as u16).collect::<Vec<_>>(),
        "one numbering for all streams of the transport"
    );
    assert!(numbers.len() > 390);
}

/// A worker that is late: pictures stand aside for a quarter of a second, sound does not.
#[test]
fn sound_overtakes_pictures_where_the_worker_is_late_and_nothing_is_told_as_lost() {
    let mut world = World::new(6);
    let alice = world.add_client(DtlsRole::Server, LinkConfig::default());
    let bob = world.add_client(DtlsRole::Server, LinkConfig::default());
    world.connect();
    let (mut camera, mut microphone) = numbered(&mut world, alice, bob);
    let mut both = [&mut camera, &mut microphone];
    play(&mut world, &mut both, Duration::from_secs(2));
    for lag in [250, 0, 40, 0] {
        world.lag = Duration::from_millis(lag);
        let since = world.now;
        play(&mut world, &mut both, Duration::from_secs(1));
        let last = |ssrc| world.clients[bob].of(ssrc).filter(|packet| packet.at >= since).count();
        assert!(last(6_000) >= 49, "{} of 50 sounds within {lag} ms", last(6_000));
        let pictures = (1_000 - lag as usize) / 33;
        assert!((pictures..pictures + 12).contains(&last(5_000)), "{} of {pictures} pictures", last(5_000));
    }
    world.run(Duration::from_millis(300));
    for (ssrc, count) in [(5_000, 180), (6_000, 299)] {
        let numbers: Vec<u16> = world.clients[bob].of(ssrc).map(|packet| packet.seq).collect();
        assert!(numbers.len() >= count, "{} of {ssrc}", numbers.len());
        assert!(
            numbers.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)),
            "in order, none missing: {numbers:?}"
        );
    }
    let (received, missing) = told(&world.clients[alice]);
    assert_eq!(missing, 0);
    let sent = usize::from(world.clients[alice].twcc_next.wrapping_sub(65_500));
    assert!(received + 20 >= sent, "{received} of {sent}");
    assert_eq!(world.clients[alice].resent, 0, "nothing was asked for again");
}

/// A camera and a microphone of `alice`, who numbers all her packets, for `bob`, who gets them as 5 000 and 6 000.
fn numbered(world: &mut World, alice: usize, bob: usize) -> (Source, Source) {
    world.clients[alice].twcc_id = Some(media::TWCC_ID);
    let camera = Source::video(alice, 1, 1_000);
    let microphone = Source::audio(alice, 2, 2_000);
    camera.publish(world);
    microphone.publish(world);
    subscribe(world, bob, &camera, 11, 5_000, Want::default());
    subscribe(world, bob, &microphone, 12, 6_000, Want::default());
    (camera, microphone)
}

/// How many of a publisher's packets he was told to have come, and not to have.
fn told(publisher: &Client) -> (usize, usize) {
    let (mut received, mut missing) = (0, 0);
    for compound in &publisher.rtcp {
        for packet in rtcp::compound(compound).expect("whole").flatten() {
            if let rtcp::Packet::Twcc(feedback) = packet {
                feedback.statuses().for_each(|(_, delta)| if delta.is_some() { received += 1 } else { missing += 1 });
            }
        }
    }
    (received, missing)
}

/// `(ssrc, NTP, RTP timestamp)` of every sender report in a compound.
fn reports(mut compound: &[u8]) -> Vec<(u32, u64, u32)> {
    let mut out = Vec::new();
    while compound.len() >= 8 {
        let len = (usize::from(u16::from_be_bytes([compound[2], compound[3]])) + 1) * 4;
        let word = |at: usize| u32::from_be_bytes(compound[at..at + 4].try_into().expect("four bytes"));
        if compound[1] == 200 {
            out.push((word(4), u64::from(word(8)) << 32 | u64::from(word(12)), word(16)));
        }
        compound = &compound[len..];
    }
    out
}
