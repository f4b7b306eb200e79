//! Behind links of all kinds: the best layers that fit, quickly up and down, sound first, nothing flooded.

mod call;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use call::{CAMERA, Call, Camera, VIEWER, VOICE, layer};
use callyard_peer::client::Received;
use callyard_peer::media::{Source, TWCC_ID, downtrack_spec, extensions, vp8};
use callyard_peer::netem::LinkConfig;
use callyard_peer::rtcp::remb;
use callyard_peer::world::World;
use callyard_proto::command::{Command, DowntrackSpec, LayerSpec, Want};
use callyard_proto::event::Event;
use callyard_proto::ids::{DowntrackId, Spatial, Ssrc};

const SECOND: Duration = Duration::from_secs(1);

fn link(bps: u64) -> LinkConfig {
    LinkConfig { rate_bps: Some(bps), ..LinkConfig::default() }
}

fn one_camera() -> Vec<Camera> {
    vec![Camera::new(1, 1_000)]
}

#[test]
fn on_a_free_link_the_picture_is_there_at_once_and_at_its_best_within_two_seconds() {
    let mut call = Call::new(1, LinkConfig::default(), one_camera());
    let start = call.world.now;
    call.run(SECOND * 2);
    let first = call.seen(0, start)[0].at - start;
    assert!(first < Duration::from_millis(300), "{first:?}");
    assert_eq!(call.layers(0, start), [0, 2], "small first, then the best");
    let then = call.world.now;
    call.run(SECOND * 20);
    assert_eq!(call.layers(0, then), [2]);
    assert!(call.fps(0, then) > 29.0, "{}", call.fps(0, then));
    assert_eq!(call.world.clients[VIEWER].holes(CAMERA), 0);
    let probes = call.world.engine.counters().probes;
    assert!(probes < 10, "what is known is not asked again: {probes}");
}

#[test]
fn a_first_picture_that_is_long_in_coming_is_sent_at_once_when_it_comes() {
    let mut call = Call::new(1, LinkConfig::default(), vec![Camera::single(1, 1_000, 700_000)]);
    call.cameras[0].source.streams[0].wants_key = false;
    for _ in 0..600 {
        // The publisher sends, but no key frame: it has just been asked for others.
        call.world.clients[0].keyframes_asked.clear();
        call.run(Duration::from_millis(5));
    }
    let then = call.world.now;
    assert!(call.seen(0, then - SECOND * 3).is_empty());
    call.run(Duration::from_millis(1_300));
    let first = call.seen(0, then)[0].at - then;
    assert!(first < Duration::from_millis(1_200), "{first:?}");
    assert!(call.fps(0, then + first) > 28.0, "{}", call.fps(0, then + first));
    let paused = |event: &&Event| matches!(event, Event::DowntrackState { active: false, .. });
    assert_eq!(call.world.events.iter().find(paused), None, "nothing was measured that speaks against it");
}

#[test]
fn at_one_megabit_frame_rate_is_kept_before_size() {
    let mut call = Call::new(2, link(1_000_000), one_camera());
    let start = call.world.now;
    call.run(SECOND * 4);
    let then = call.world.now;
    call.run(SECOND * 30);
    assert_eq!(call.layers(0, then), [1], "since the start {:?}", call.layers(0, start));
    assert!(call.fps(0, then) > 29.0, "{}", call.fps(0, then));
    assert!(call.longest_gap(0, then) < Duration::from_millis(200), "{:?}", call.longest_gap(0, then));
    let (transport, downtracks) = call.stats();
    assert!((600_000..1_100_000).contains(&transport.estimate_bps), "{transport:?}");
    assert_eq!(downtracks.iter().find(|d| d.downtrack.0 == 11).unwrap().allocation, "budget");
}

/// Pictures of one camera that came whole: when, of which layer, and their time stamps.
fn pictures(call: &Call, since: Instant) -> Vec<(Duration, u8, u32)> {
    let packets = call.world.clients[VIEWER].in_order(CAMERA);
    let filled = packets.iter().filter(|p| p.at >= since && !p.payload.is_empty());
    filled.filter(|p| p.marker).map(|p| (p.at - since, layer(&p.payload), p.timestamp)).collect()
}

/// The key frame of the larger size takes longer on this link than a picture may stand, if nothing is shown before it.
#[test]
fn who_climbs_sees_the_smaller_picture_of_that_moment_first() {
    for (seed, is_largest_first) in [(1, true), (2, true), (3, false)] {
        let mut call = Call::new(seed, link(1_000_000), vec![Camera::new(1, 1_000).ordered(is_largest_first)]);
        let start = call.world.now;
        call.run(SECOND * 5);
        assert_eq!(call.layers(0, start), [0, 1], "seed {seed}");
        let shown = pictures(&call, start);
        let climb = shown.windows(2).find(|pair| (pair[0].1, pair[1].1) == (0, 1)).expect("it climbed");
        let step = climb[1].2.wrapping_sub(climb[0].2);
        assert!((1..=90).contains(&step), "of one moment, {step} ticks apart, seed {seed}");
        let worst = shown.windows(2).map(|pair| pair[1].0 - pair[0].0).max().unwrap();
        assert!(worst < Duration::from_millis(180), "{worst:?} without a picture, seed {seed}");
        assert_eq!(call.world.clients[VIEWER].holes(CAMERA), 0);
        assert_eq!(call.world.engine.counters().climbs_in_two, u64::from(is_largest_first), "seed {seed}");
    }
}

#[test]
fn a_larger_size_does_not_wait_for_a_smaller_one_that_has_ended() {
    let mut call = Call::new(4, link(1_000_000), vec![Camera::new(1, 1_000).ordered(true)]);
    call.want(0, Want { quality: Some(0), ..Want::default() });
    call.run(SECOND * 3);
    let then = call.world.now;
    call.want(0, Want { quality: Some(1), ..Want::default() });
    call.cameras[0].source.streams[0].is_sent = false;
    call.run(SECOND);
    let first = pictures(&call, then).into_iter().find(|(_, layer, _)| *layer == 1).expect("it climbed");
    assert!(first.0 < Duration::from_millis(550), "{first:?}");
    assert_eq!(call.world.clients[VIEWER].holes(CAMERA), 0);
}

/// F-05
#[test]
fn a_step_down_is_followed_at_once_and_a_step_up_within_seconds() {
    let mut call = Call::new(3, link(3_000_000), one_camera());
    call.run(SECOND * 10);
    let before = call.world.now;
    call.run(SECOND * 5);
    assert_eq!(call.layers(0, before), [2]);
    call.carries(500_000);
    let narrow = call.world.now;
    call.run(SECOND);
    let sent = call.world.sends.len();
    let then = call.world.now;
    call.run(SECOND * 20);
    let layers = call.layers(0, then);
    assert!(layers.iter().all(|l| *l < 2), "{layers:?}");
    assert!(call.world.sends.len() > sent);
    let gap = call.longest_gap(0, narrow);
    assert!(gap < Duration::from_millis(900), "{gap:?}");
    call.carries(3_000_000);
    call.run(SECOND * 4);
    let back = call.world.now;
    call.run(SECOND * 5);
    assert_eq!(call.layers(0, back), [2]);
}

#[test]
fn loss_without_a_queue_costs_no_layer() {
    for (loss, burst) in [(0.05, 1), (0.10, 1), (0.05, 8)] {
        let config = LinkConfig { loss, loss_burst: burst, ..LinkConfig::default() };
        let mut call = Call::new(4, LinkConfig::default(), one_camera());
        call.run(SECOND * 4);
        call.world.down[VIEWER].config = config;
        let then = call.world.now;
        call.run(SECOND * 20);
        assert_eq!(call.layers(0, then), [2], "{loss} in bursts of {burst}");
        call.world.down[VIEWER].config.loss = 0.0;
        call.run(SECOND);
        let holes = call.world.clients[VIEWER].holes(CAMERA);
        let packets = call.seen(0, then).len();
        assert!(holes * 100 < packets, "{holes} of {packets} never came at {loss} in bursts of {burst}");
    }
}

/// F-06
#[test]
fn when_only_sound_fits_the_picture_is_paused_and_comes_back() {
    let mut call = Call::new(5, link(2_000_000), one_camera());
    call.run(SECOND * 5);
    call.world.take_events();
    call.carries(90_000);
    call.run(SECOND * 3);
    let then = call.world.now;
    call.run(SECOND * 20);
    let states = |call: &mut Call| -> Vec<(bool, String)> {
        let events = call.world.take_events();
        let state = |e: Event| match e {
            Event::DowntrackState { active, reason, .. } => Some((active, reason)),
            _ => None,
        };
        events.into_iter().filter_map(state).collect()
    };
    assert_eq!(states(&mut call), [(false, "bandwidth".to_owned())]);
    let voice = call.world.clients[VIEWER].of(VOICE).filter(|p| p.at >= then).count();
    assert!(voice > 990, "{voice} of 1 000 voice packets");
    call.carries(2_000_000);
    let wide = call.world.now;
    call.run(SECOND * 4);
    let back = call.seen(0, wide);
    assert!(!back.is_empty(), "{:?}", call.stats());
    assert_eq!(states(&mut call), [(true, "bandwidth".to_owned())]);
}

/// A machine that is busy reads nothing for a while, then all that came at once.
#[test]
fn a_receiver_that_is_held_up_now_and_then_loses_no_layer() {
    let mut call = Call::new(10, link(5_000_000), one_camera());
    call.run(SECOND * 4);
    let (then, delay) = (call.world.now, call.world.down[VIEWER].config.delay);
    for pause in [90, 230, 40, 300, 150, 210, 60, 260, 120, 180].map(Duration::from_millis).into_iter().cycle().take(40)
    {
        call.run(Duration::from_millis(350));
        let until = call.world.now + pause;
        while call.world.now < until {
            call.world.down[VIEWER].config.delay = delay + (until - call.world.now);
            call.run(Duration::from_millis(2));
        }
        call.world.down[VIEWER].config.delay = delay;
    }
    assert_eq!(call.layers(0, then), [2]);
}

#[test]
fn clients_that_report_nothing_get_what_they_ask_for() {
    // Nothing transport-wide, and nothing at all: that may be the path's doing, and takes longer to be believed.
    for (reports, seconds) in [(Some(SECOND), 4), (None, 8)] {
        let mut call = Call::new(7, LinkConfig::default(), one_camera());
        let now = call.world.now;
        call.world.clients[VIEWER].feedback = None;
        call.world.clients[VIEWER].report_every(now, reports);
        call.run(SECOND * seconds);
        let then = call.world.now;
        call.run(SECOND * 5);
        assert_eq!(call.layers(0, then), [2]);
        let (transport, _) = call.stats();
        assert_eq!((transport.estimate_bps, transport.estimate_limit.as_str()), (0, ""));
    }
}

#[test]
fn remb_is_kept_to_where_there_is_nothing_better() {
    let mut call = Call::new(8, LinkConfig::default(), one_camera());
    call.world.clients[VIEWER].feedback = None;
    let report = |call: &mut Call, bps: u64| {
        for _ in 0..10 {
            call.world.clients[VIEWER].send_rtcp(&remb(&[CAMERA], bps));
            call.run(SECOND);
        }
    };
    report(&mut call, 1_000_000);
    let then = call.world.now;
    report(&mut call, 1_000_000);
    assert_eq!(call.layers(0, then).iter().max(), Some(&1), "{:?}", call.layers(0, then));
    report(&mut call, 5_000_000);
    let then = call.world.now;
    report(&mut call, 5_000_000);
    assert_eq!(call.layers(0, then), [2]);
}

#[test]
fn rembs_of_several_receivers_add_up() {
    let mut call = Call::new(8, LinkConfig::default(), vec![Camera::new(1, 1_000), Camera::new(2, 2_000)]);
    call.world.clients[VIEWER].feedback = None;
    let estimate = |call: &mut Call, of_receivers: [&[u32]; 2]| {
        for _ in 0..20 {
            for ssrcs in of_receivers {
                call.world.clients[VIEWER].send_rtcp(&remb(ssrcs, 1_000_000));
            }
            call.run(SECOND);
        }
        call.stats().0.estimate_bps
    };
    let of_pictures = estimate(&mut call, [&[CAMERA], &[CAMERA + 10]]);
    assert!((2_030_000..2_100_000).contains(&of_pictures), "{of_pictures}: sound comes beside them");
    let of_all = estimate(&mut call, [&[CAMERA, VOICE], &[CAMERA + 10]]);
    assert!((1_900_000..=2_000_000).contains(&of_all), "{of_all}");
}

/// The viewer's camera again, under a section without a retransmission stream.
fn without_rtx(call: &mut Call) {
    call.world.apply(Command::RemoveDowntrack { downtrack: DowntrackId(11) });
    let mut codec = vp8(100);
    codec.rtx_pt = None;
    call.world.apply(Command::AddDowntrack(DowntrackSpec {
        downtrack: DowntrackId(11),
        uptrack: call.cameras[0].source.uptrack,
        transport: World::transport(VIEWER),
        mid: "11".to_owned(),
        ssrc: Ssrc(CAMERA),
        rtx_ssrc: None,
        codecs: vec![codec],
        extensions: extensions(),
        want: Want::default(),
    }));
}

#[test]
fn who_cannot_be_probed_climbs_on_trust() {
    let mut call = Call::new(9, LinkConfig::default(), one_camera());
    without_rtx(&mut call);
    let before = call.world.engine.counters().probes;
    call.run(SECOND * 6);
    let then = call.world.now;
    call.run(SECOND * 5);
    assert_eq!(call.layers(0, then), [2], "{:?}", call.stats());
    assert_eq!(call.world.engine.counters().probes, before);

    let mut call = Call::new(9, link(1_000_000), one_camera());
    without_rtx(&mut call);
    call.run(SECOND * 20);
    let then = call.world.now;
    call.run(SECOND * 40);
    let larger = call.seen(0, then).iter().filter(|p| call::layer(&p.payload) == 2).count();
    assert!(larger * 10 < call.seen(0, then).len(), "{larger} of {}", call.seen(0, then).len());
    assert!(call.fps(0, then) > 24.0, "{}", call.fps(0, then));
}

#[test]
fn three_cameras_and_a_share_start_at_once_and_fill_two_megabits() {
    let cameras =
        vec![Camera::new(1, 1_000), Camera::new(2, 2_000), Camera::new(3, 3_000), Camera::screen(4, 4_000, 400_000)];
    let mut call = Call::new(6, link(2_000_000), cameras);
    let start = call.world.now;
    call.run(SECOND * 2);
    for camera in 0..4 {
        let first = call.seen(camera, start)[0].at - start;
        assert!(first < SECOND, "camera {camera} after {first:?}");
    }
    call.run(SECOND * 4);
    let then = call.world.now;
    call.run(SECOND * 20);
    assert!(call.fps(3, then) > 4.5, "the share is sharp and whole: {}", call.fps(3, then));
    let layers: Vec<_> = (0..3).map(|camera| call.layers(camera, then)).collect();
    let medium = layers.iter().filter(|l| l.contains(&1)).count();
    assert!(medium >= 2, "{layers:?}, {:?}", call.stats());
    for camera in 0..3 {
        assert!(call.fps(camera, then) > 14.0, "{camera}: {}", call.fps(camera, then));
    }
}

/// Firefox agrees to transport-wide numbers for video alone.
#[test]
fn sound_without_numbers_leaves_video_as_much_as_sound_with_them() {
    let watch = |is_numbered: bool| {
        let mut call = Call::new(17, link(500_000), one_camera());
        call.world.apply(Command::RemoveDowntrack { downtrack: DowntrackId(90) });
        let voice = Source::audio(0, 90, 9_000);
        for index in 0..3u32 {
            let mut spec = downtrack_spec(VIEWER, &voice, 91 + u64::from(index), VOICE + index, Want::default());
            spec.extensions.retain(|extension| is_numbered || extension.id != TWCC_ID);
            call.world.apply(Command::AddDowntrack(spec));
        }
        call.run(SECOND * 10);
        let then = call.world.now;
        call.run(SECOND * 20);
        (call.layers(0, then), call.fps(0, then), call.stats().0.estimate_bps)
    };
    for is_numbered in [true, false] {
        let (layers, fps, estimate_bps) = watch(is_numbered);
        assert_eq!(layers, [0], "{is_numbered}");
        assert!(fps > 29.0, "{is_numbered}: {fps}");
        // Probes between packets of sound that they know nothing of find somewhat too much.
        assert!((425_000..650_000).contains(&estimate_bps), "{is_numbered}: {estimate_bps}");
    }
}

/// Many sources send a frame of a screen only when something changes: 2.5 Mbit/s are announced, and hardly any is sent.
#[test]
fn a_screen_that_stands_still_costs_what_it_takes_and_all_its_slides_arrive() {
    for (bps, seconds_of_motion) in [(3_000_000, 8), (1_500_000, 8), (1_500_000, 0)] {
        let mut call = Call::new(12, link(bps), vec![Camera::new(1, 1_000), Camera::screen(2, 2_000, 100_000)]);
        let layer = LayerSpec { spatial: Spatial(0), width: 1_920, height: 1_080, bitrate_bps: 2_500_000 };
        let uptrack = call.cameras[1].source.uptrack;
        call.world.apply(Command::UpdateUptrack { uptrack, muted: false, layers: Some(vec![layer]) });
        call.run(SECOND * seconds_of_motion);
        call.world.take_events();
        call.cameras[1].every = 120;
        call.run(SECOND * 13 - SECOND * seconds_of_motion);
        if seconds_of_motion == 0 {
            // It is not known at once that what was announced does not come.
            call.world.take_events();
        }
        let (then, shown) = (call.world.now, call.cameras[1].source.streams[0].frames);
        call.run(SECOND * 40);
        let slides = call.seen(1, then).iter().filter(|p| p.marker).count();
        assert_eq!(slides as u32, call.cameras[1].source.streams[0].frames - shown, "{bps}");
        assert_eq!(slides, 10);
        let paused = |event: &&Event| matches!(event, Event::DowntrackState { active: false, .. });
        assert_eq!(call.world.events.iter().find(paused), None, "{bps}");
        let layers = call.layers(0, then);
        assert!(layers.iter().all(|layer| *layer == if bps > 2_000_000 { 2 } else { 1 }), "{bps}: {layers:?}");
    }
}

/// The first camera's next picture is a key frame of so many bytes, and others follow two seconds apart. Its number,
/// once it was sent.
fn show_large(call: &mut Call, key_bytes: usize) -> u32 {
    let camera = &mut call.cameras[0];
    (camera.every, camera.key_bytes, camera.source.streams[0].wants_key) = (60, Some(key_bytes), true);
    while call.cameras[0].source.streams[0].wants_key {
        call.run(Duration::from_millis(5));
    }
    call.cameras[0].source.streams[0].frames
}

/// Packets of one picture that have come.
fn packets_of(call: &Call, number: u32) -> usize {
    let is_of_it = |p: &&Received| p.payload.get(18..22) == Some(&number.to_be_bytes()[..]);
    let packets = call.world.clients[VIEWER].of(CAMERA).filter(is_of_it);
    packets.map(|p| p.seq).collect::<BTreeSet<_>>().len()
}

/// Shows a picture of so many bytes and waits until the viewer has all of it.
fn show_all(call: &mut Call, bytes: usize, patience: Duration) {
    let number = show_large(call, bytes);
    let (until, parts) = (call.world.now + patience, bytes.div_ceil(1_100));
    while packets_of(call, number) < parts {
        call.run(Duration::from_millis(20));
        let came = packets_of(call, number);
        assert!(call.world.now < until, "{came} of {parts} packets of {bytes} bytes");
    }
}

#[test]
fn what_is_lost_of_a_large_picture_is_repaired_while_the_rest_of_it_waits() {
    for seed in 13..16 {
        let mut call = Call::new(seed, link(1_000_000), vec![Camera::screen(1, 1_000, 700_000)]);
        call.run(SECOND * 10);
        call.world.down[VIEWER].config.loss = 0.02;
        let lost = call.world.down[VIEWER].lost;
        let resent = call.world.engine.counters().retransmitted;
        show_all(&mut call, 150_000, SECOND * 4);
        let lost = call.world.down[VIEWER].lost - lost;
        let resent = call.world.engine.counters().retransmitted - resent;
        assert!(resent * 2 <= lost * 3, "{resent} for {lost} with seed {seed}");
    }
}

/// A first slide, or one after a loss, over a link that takes seconds for it.
#[test]
fn a_key_frame_that_takes_seconds_is_not_asked_for_again_meanwhile() {
    let mut call = Call::new(16, link(500_000), vec![Camera::screen(1, 1_000, 300_000)]);
    call.run(SECOND * 15);
    let asked = call.world.engine.counters().feedback_out.pli;
    show_all(&mut call, 250_000, SECOND * 6);
    let asked = call.world.engine.counters().feedback_out.pli - asked;
    assert!(asked <= 2, "{asked}");
}

/// S-21
#[test]
fn the_link_is_never_flooded() {
    for (bps, seed) in [(150_000, 1), (300_000, 2), (600_000, 3), (1_000_000, 4), (2_500_000, 5)] {
        let mut call = Call::new(seed, link(bps), one_camera());
        let mut worst = 0.0f64;
        let mut bytes = call.world.engine.counters().down_bytes();
        for second in 0..30 {
            call.run(SECOND);
            let now = call.world.engine.counters().down_bytes();
            let share = ((now - bytes) * 8) as f64 / bps as f64;
            bytes = now;
            worst = worst.max(share);
            // The first guess is twice the narrowest link; the first probe corrects it.
            let most = if second == 0 && bps < 300_000 { 2.0 } else { 1.5 };
            assert!(share < most, "{share} of {bps} in second {second}");
        }
        assert!(worst > 0.2, "{worst}");
    }
}

#[test]
fn a_bound_from_outside_holds_until_it_is_taken_off() {
    let mut call = Call::new(9, LinkConfig::default(), one_camera());
    call.run(SECOND * 4);
    let transport = World::transport(VIEWER);
    call.world.apply(Command::BoundDownlink { transport, max_bps: Some(300_000) });
    call.run(SECOND * 2);
    let then = call.world.now;
    call.run(SECOND * 5);
    assert_eq!(call.layers(0, then), [0]);
    call.world.apply(Command::BoundDownlink { transport, max_bps: None });
    call.run(SECOND * 8);
    let then = call.world.now;
    call.run(SECOND * 4);
    assert_eq!(call.layers(0, then), [2]);
}
