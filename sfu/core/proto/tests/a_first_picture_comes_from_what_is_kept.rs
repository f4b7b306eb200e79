//! Who comes shortly after a key frame is sent that one and what followed it: whole, once, in order, and in no picture's place.

mod call;

use std::time::{Duration, Instant};

use call::{CAMERA, Call, Camera, VIEWER};
use callyard_peer::World;
use callyard_peer::client::Received;
use callyard_peer::media::{Source, content, is_key, play, subscribe};
use callyard_peer::netem::LinkConfig;
use callyard_proto::command::{Command, DtlsRole, Want};
use callyard_proto::ids::DowntrackId;
use proptest::prelude::*;

/// What a packet of [`Camera`] says of its frame: layer, temporal layer and number.
fn frame(packet: &Received) -> (u8, u8, u32) {
    let body = &packet.payload[16..];
    (body[0], body[1], u32::from_be_bytes([body[2], body[3], body[4], body[5]]))
}

/// Nothing is missing in what a decoder is given, and it can decode all of it.
///
/// `is_lossy`: of a frame that nothing refers to, what came late may have been left out, or be all that was sent;
/// of the last one before another key frame too, whether its beginning or its end is missing.
fn assert_decodable(packets: &[&Received], is_lossy: bool) {
    assert!(is_key(&packets[0].payload), "begins with a key frame");
    let parted = packets.windows(2).filter(|pair| pair[1].seq != pair[0].seq.wrapping_add(1));
    assert_eq!(parted.count(), 0, "no hole");
    let mut base: Option<(u8, u32)> = None;
    let mut previous: Option<(&Received, (u8, u8, u32))> = None;
    // Bare padding stands where something that came late was left out.
    let filled: Vec<&Received> = packets.iter().copied().filter(|packet| !packet.payload.is_empty()).collect();
    for (at, packet) in filled.iter().enumerate() {
        let now @ (layer, temporal, number) = frame(packet);
        let begins = packet.payload[0] & 0x10 != 0;
        if let Some((before, of)) = previous {
            // What follows `of` if its end is missing, and `now` if its beginning is.
            let follows = filled[at..].iter().find(|packet| packet.payload[0] & 0x10 != 0);
            let is_anew = follows.is_some_and(|packet| is_key(&packet.payload));
            let may_be_partial = is_lossy && (of.1 > 0 || temporal > 0 || is_anew);
            assert!(begins == before.marker || may_be_partial, "{of:?} is whole before {now:?} begins");
            if begins || of != now {
                assert!((1..1 << 31).contains(&packet.timestamp.wrapping_sub(before.timestamp)), "time goes on");
            } else {
                assert_eq!((of, packet.timestamp), (now, before.timestamp), "of one frame");
            }
        }
        previous = Some((packet, now));
        if !begins {
            continue;
        }
        let is_key = is_key(&packet.payload);
        match (base, temporal) {
            // Base frames are four apart, but for key frames; the others refer to the base frame before them.
            (Some((of, last)), 0) => assert!(is_key || (of, last + 4) == (layer, number), "{base:?} then {now:?}"),
            (Some((of, last)), _) => assert!(of == layer && (1..4).contains(&(number - last)), "{base:?} then {now:?}"),
            (None, _) => assert!(is_key),
        }
        if temporal == 0 {
            base = Some((layer, number));
        }
    }
}

/// The viewer comes anew: another subscription of the first camera.
fn come(call: &mut Call, turn: u32, want: Want) -> u32 {
    let ssrc = CAMERA + 1_000 * (turn + 1);
    subscribe(&mut call.world, VIEWER, &call.cameras[0].source, 1_000 + u64::from(turn), ssrc, want);
    ssrc
}

fn leave(call: &mut Call, turn: u32) {
    call.world.apply(Command::RemoveDowntrack { downtrack: DowntrackId(1_000 + u64::from(turn)) });
}

/// One comes and goes, wishing for the layer `turns.0` for `turns.2` milliseconds after a pause of `turns.1`; the camera's link
/// loses and reorders, the viewer's carries `rate`.
fn assert_whenever(seed: u64, (loss, reorder): (f64, f64), rate: Option<u64>, turns: &[(u8, u64, u64)]) {
    let mut call = Call::new(seed, LinkConfig { rate_bps: rate, ..LinkConfig::default() }, vec![Camera::new(1, 1_000)]);
    call.run(Duration::from_secs(2));
    let calm = LinkConfig { delay: Duration::from_millis(40), ..LinkConfig::default() };
    let mut streams = Vec::new();
    for (turn, (quality, pause, stay)) in (0u32..).zip(turns.iter().copied()) {
        call.world.up[0].config = LinkConfig { loss, reorder, ..calm };
        call.run(Duration::from_millis(pause));
        streams.push(come(&mut call, turn, Want { quality: Some(quality), ..Want::default() }));
        call.run(Duration::from_millis(stay));
        // What is late, or waits for the pace, comes before one leaves.
        call.world.up[0].config = calm.clone();
        call.run(Duration::from_millis(500));
        leave(&mut call, turn);
    }
    call.run(Duration::from_millis(500));
    let viewer = &call.world.clients[VIEWER];
    let mut judged = 0;
    let all = streams.len();
    for ssrc in streams {
        let packets = viewer.in_order(ssrc);
        let own = viewer.of(ssrc).filter(|p| !p.was_rtx).count();
        let distinct = packets.iter().filter(|p| !p.was_rtx).count();
        assert_eq!(own, distinct, "each once");
        // What a link has lost last may not be repaired before one leaves.
        if !packets.is_empty() && (viewer.holes(ssrc) == 0 || rate.is_none() && loss == 0.0) {
            assert_decodable(&packets, loss > 0.0 || reorder > 0.0 || rate.is_some());
            judged += 1;
        }
    }
    assert!(judged > all / 2, "{} of {}", judged, all);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn whenever_one_comes_all_of_it_can_be_decoded(
        seed in 1u64..1_000,
        loss in prop_oneof![Just(0.0), 0.0..0.03f64],
        reorder in 0.0..0.05f64,
        rate in prop_oneof![Just(None), (900_000u64..5_000_000).prop_map(Some)],
        turns in proptest::collection::vec((0u8..3, 0u64..150, 150u64..500), 12..20),
    ) {
        assert_whenever(seed, (loss, reorder), rate, &turns);
    }
}

#[test]
fn a_frame_whose_beginning_came_too_late_stands_before_a_key_frame() {
    let turns = [(1, 7, 196), (2, 119, 396), (1, 74, 429), (0, 117, 237), (1, 54, 199), (0, 45, 448), (2, 51, 234)];
    let rest = [(1, 48, 179), (2, 79, 338), (0, 146, 461), (0, 26, 339), (0, 49, 388)];
    assert_whenever(150, (0.0, 0.02228624377354787), Some(3_913_004), &[&turns[..], &rest].concat());
}

/// Clients in a room with a camera of one size that has just sent a key frame.
fn room(seed: u64, viewers: usize) -> (World, Source) {
    let mut world = World::new(seed);
    for _ in 0..=viewers {
        world.add_client(DtlsRole::Server, LinkConfig::default());
    }
    world.connect();
    let mut camera = Source::video(0, 1, 1_000);
    camera.publish(&mut world);
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    (world, camera)
}

/// From the client's first check on the handshake takes two round trips. What has followed the key frame by then is sent after
/// it, as far as a link may be trusted with it; of a stream of one size that is soon too much.
#[test]
fn a_first_picture_is_asked_for_before_the_handshake_is_over() {
    for (delay, kept, requests, most) in [(30, 1, 1, 80), (100, 0, 2, 220)] {
        let (mut world, mut camera) = room(8, 1);
        let delay = Duration::from_millis(delay);
        let newcomer = world.add_client(DtlsRole::Server, LinkConfig { delay, ..LinkConfig::default() });
        let (before, kept_before) = (asked(&world), world.engine.counters().pictures_from_kept);
        subscribe(&mut world, newcomer, &camera, 12, 5_000, Want::default());
        let shaken = world.engine.counters().dtls_handshakes;
        let until = world.now + Duration::from_secs(3);
        while world.engine.counters().dtls_handshakes == shaken {
            play(&mut world, &mut [&mut camera], Duration::from_millis(5));
            assert!(world.now < until);
        }
        assert!(asked(&world) > before && world.clients[newcomer].of(5_000).next().is_none(), "{delay:?}");
        let secured = world.now;
        play(&mut world, &mut [&mut camera], Duration::from_millis(500));
        let first = first(&world, newcomer, secured).0;
        assert!(first < Duration::from_millis(most), "{first:?}");
        assert_eq!(world.engine.counters().pictures_from_kept, kept_before + kept, "{delay:?}");
        assert_eq!(asked(&world) - before, requests, "{delay:?}");
    }
}

fn asked(world: &World) -> u64 {
    world.engine.counters().feedback_out.pli
}

fn first(world: &World, client: usize, since: Instant) -> (Duration, u32) {
    let packet = world.clients[client].of(5_000).next().expect("a picture");
    assert!(is_key(&packet.payload));
    (packet.at - since, content(&packet.payload).1)
}

#[test]
fn a_storm_of_joins_costs_the_publisher_few_key_frames() {
    let (mut world, mut camera) = room(1, 40);
    let before = asked(&world);
    let mut latest = Duration::ZERO;
    for client in 1..=40 {
        let since = world.now;
        subscribe(&mut world, client, &camera, 10 + client as u64, 5_000, Want::default());
        play(&mut world, &mut [&mut camera], Duration::from_millis(50));
        if client > 1 && world.clients[client].of(5_000).next().is_some() {
            latest = latest.max(first(&world, client, since).0);
        }
    }
    play(&mut world, &mut [&mut camera], Duration::from_millis(500));
    assert!(asked(&world) - before <= 4, "{} requests in 2 s", asked(&world) - before);
    assert!(latest <= Duration::from_millis(50), "{latest:?}");
    for client in 1..=40 {
        let numbers: Vec<u32> = world.clients[client].in_order(5_000).iter().map(|p| content(&p.payload).1).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "client {client}: {numbers:?}");
    }
}

#[test]
fn nobody_is_shown_again_what_he_has_seen() {
    let (mut world, mut camera) = room(6, 1);
    subscribe(&mut world, 1, &camera, 11, 5_000, Want::default());
    play(&mut world, &mut [&mut camera], Duration::from_millis(150));
    let before = world.engine.counters().pictures_from_kept;
    for disabled in [true, false] {
        let want = Want { disabled, ..Want::default() };
        world.apply(Command::SetDowntrack { downtrack: DowntrackId(11), want });
        play(&mut world, &mut [&mut camera], Duration::from_millis(40));
    }
    play(&mut world, &mut [&mut camera], Duration::from_millis(1_500));
    assert_eq!(
        world.engine.counters().pictures_from_kept,
        before,
        "its key frame is older than what he was shown last"
    );
    let numbers: Vec<u32> = world.clients[1].in_order(5_000).iter().map(|p| content(&p.payload).1).collect();
    assert!(world.clients[1].in_order(5_000).iter().filter(|p| is_key(&p.payload)).count() > 1, "he went on");
    assert!(numbers.is_sorted_by(|before, after| before < after), "{numbers:?}");
}

#[test]
fn what_is_old_is_asked_for_anew() {
    let (mut world, mut camera) = room(2, 2);
    subscribe(&mut world, 1, &camera, 11, 5_000, Want::default());
    play(&mut world, &mut [&mut camera], Duration::from_millis(900));
    let (before, since) = (asked(&world), world.now);
    play(&mut world, &mut [&mut camera], Duration::from_millis(300));
    subscribe(&mut world, 2, &camera, 12, 5_000, Want::default());
    assert_eq!(asked(&world), before + 1, "older than a second");
    play(&mut world, &mut [&mut camera], Duration::from_millis(500));
    assert!(first(&world, 2, since).0 > Duration::from_millis(300));
}

#[test]
fn what_is_more_than_the_link_may_carry_at_once_is_asked_for_anew() {
    let link = LinkConfig::default();
    let mut call = Call::new(3, link, vec![Camera::single(1, 1_000, 3_000_000)]);
    call.run(Duration::from_secs(2));
    leave_first(&mut call);
    call.run(Duration::from_millis(1_500));
    // The key frame that this one asks for is the next one's too; half a second of 3 Mbit/s is more than 0.3 s may carry.
    come(&mut call, 0, Want::default());
    call.run(Duration::from_millis(500));
    leave(&mut call, 0);
    let (asked_before, kept) = (asked(&call.world), call.world.engine.counters().pictures_from_kept);
    call.carries(400_000);
    call.run(Duration::from_millis(400));
    let stream = come(&mut call, 1, Want::default());
    assert_eq!(call.world.engine.counters().pictures_from_kept, kept);
    call.run(Duration::from_millis(1_500));
    assert!(asked(&call.world) > asked_before);
    assert!(is_key(&call.world.clients[VIEWER].in_order(stream)[0].payload));
}

fn leave_first(call: &mut Call) {
    call.world.apply(Command::RemoveDowntrack { downtrack: DowntrackId(11) });
}

#[test]
fn what_is_lost_of_it_is_sent_again() {
    // A seed with which the very first packet arrives: nobody asks for what came before the first he has.
    let mut call = Call::new(6, LinkConfig::default(), vec![Camera::new(1, 1_000)]);
    call.run(Duration::from_secs(3));
    leave_first(&mut call);
    call.run(Duration::from_millis(1_200));
    let first = come(&mut call, 0, Want { quality: Some(1), ..Want::default() });
    call.run(Duration::from_millis(600));
    assert!(call.world.clients[VIEWER].of(first).next().is_some());
    leave(&mut call, 0);
    let kept = call.world.engine.counters().pictures_from_kept;
    call.world.down[VIEWER].config.loss = 0.3;
    let stream = come(&mut call, 1, Want { quality: Some(1), ..Want::default() });
    assert_eq!(call.world.engine.counters().pictures_from_kept, kept + 1);
    call.run(Duration::from_millis(200));
    call.world.down[VIEWER].config.loss = 0.0;
    call.run(Duration::from_millis(900));
    let viewer = &call.world.clients[VIEWER];
    assert!(viewer.of(stream).any(|packet| packet.was_rtx), "some of the first were lost");
    assert_eq!(viewer.holes(stream), 0);
    assert_decodable(&viewer.in_order(stream), false);
}

#[test]
fn a_picture_is_told_as_young_as_it_is_shown() {
    let (mut world, mut camera) = room(5, 2);
    subscribe(&mut world, 1, &camera, 11, 5_000, Want::default());
    play(&mut world, &mut [&mut camera], Duration::from_millis(500));
    let before = asked(&world);
    subscribe(&mut world, 2, &camera, 12, 5_000, Want::default());
    play(&mut world, &mut [&mut camera], Duration::from_millis(300));
    assert_eq!(asked(&world), before);
    let packets = world.clients[2].in_order(5_000);
    let times: Vec<u32> = packets.windows(2).map(|pair| pair[1].timestamp.wrapping_sub(pair[0].timestamp)).collect();
    let live =
        times.iter().position(|ticks| *ticks == 3_000).expect("live ones are as far apart as they were captured");
    assert!(live >= 10, "{times:?}");
    assert!(times[..live].iter().all(|ticks| *ticks == 90), "those before them a millisecond: {times:?}");
    assert!(times[live..].iter().all(|ticks| *ticks == 3_000), "{times:?}");
}
