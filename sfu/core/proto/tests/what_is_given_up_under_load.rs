//! A worker with more to do than its core can: what it gives up, in which order, and that everything comes back.

mod call;

use std::time::Duration;

use call::{Call, Camera, VIEWER, VOICE};
use callyard_peer::netem::LinkConfig;
use callyard_proto::command::{Command, Want};
use callyard_proto::event::Event;
use callyard_proto::ids::Spatial;
use callyard_proto::overload::{Level, Reading};

const SECOND: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_millis(500);

/// The packet thread is so busy from now on, for `seconds`.
fn loaded(call: &mut Call, busy: f64, seconds: f64) {
    for _ in 0..(seconds / INTERVAL.as_secs_f64()) as usize {
        call.run(INTERVAL);
        let now = call.world.now;
        call.world.engine.loaded(now, Reading { elapsed: INTERVAL, busy, wait: Duration::ZERO });
        call.run(Duration::from_millis(1));
    }
}

fn level_events(call: &mut Call) -> Vec<u8> {
    let told = |event| if let Event::Overload { level, .. } = event { Some(level) } else { None };
    call.world.take_events().into_iter().filter_map(told).collect()
}

fn voice_since(call: &Call, since: std::time::Instant) -> usize {
    call.world.clients[VIEWER].of(VOICE).filter(|packet| packet.at >= since).count()
}

/// F-32
#[test]
fn probes_go_first() {
    for (busy, are_sent) in [(0.5, true), (0.82, false)] {
        let narrow = LinkConfig { rate_bps: Some(400_000), ..LinkConfig::default() };
        let mut call = Call::new(1, narrow, vec![Camera::new(1, 1_000)]);
        loaded(&mut call, 0.5, 10.0);
        loaded(&mut call, busy, 1.0);
        let before = call.world.engine.counters().probes;
        call.carries(5_000_000);
        loaded(&mut call, busy, 10.0);
        assert_eq!(call.world.engine.counters().probes > before, are_sent, "at a load of {busy}");
        let since = call.world.now;
        loaded(&mut call, 0.5, 20.0);
        assert_eq!(call.layers(0, since + SECOND * 15), [2], "in the end all the same");
    }
}

/// F-32
#[test]
fn who_has_no_picture_yet_is_given_one_without_a_probe() {
    let mut call = Call::new(6, LinkConfig::default(), vec![Camera::single(1, 1_000, 600_000)]);
    loaded(&mut call, 0.82, 10.0);
    let since = call.world.now;
    loaded(&mut call, 0.82, 5.0);
    assert!(call.fps(0, since) > 28.0);
    assert_eq!(call.world.engine.counters().bandwidth_pauses, 0, "from the first one on");
    assert_eq!(call.world.engine.counters().probes, 0);
}

/// F-32
#[test]
fn what_was_paused_comes_back_without_a_probe_where_there_is_room_and_does_not_where_there_is_none() {
    for (rate_bps, comes_back) in [(5_000_000, true), (300_000, false)] {
        let mut call = Call::new(7, LinkConfig::default(), vec![Camera::single(1, 1_000, 600_000)]);
        loaded(&mut call, 0.5, 5.0);
        call.carries(200_000);
        loaded(&mut call, 0.5, 5.0);
        assert!(call.world.engine.counters().bandwidth_pauses > 0);
        loaded(&mut call, 0.82, 1.0);
        call.carries(rate_bps);
        let probes = call.world.engine.counters().probes;
        loaded(&mut call, 0.82, 10.0);
        let since = call.world.now;
        loaded(&mut call, 0.82, 20.0);
        assert_eq!(call.fps(0, since) > 28.0, comes_back, "at {rate_bps} bit/s: {}", call.fps(0, since));
        assert!(comes_back || call.fps(0, since) < 6.0, "a trial now and then: {}", call.fps(0, since));
        assert_eq!(call.world.engine.counters().probes, probes);
    }
}

/// F-32
#[test]
fn then_the_largest_layers_go_for_everybody_and_their_publisher_is_told() {
    let mut call = Call::new(2, LinkConfig::default(), vec![Camera::new(1, 1_000), Camera::screen(2, 2_000, 500_000)]);
    loaded(&mut call, 0.5, 5.0);
    let full = call.world.now;
    loaded(&mut call, 0.5, 1.0);
    assert_eq!(call.layers(0, full), [2]);
    call.world.take_events();
    loaded(&mut call, 0.87, 5.0);
    let demands = call.world.take_events().into_iter().filter_map(|event| match event {
        Event::UptrackDemand { max_spatial, .. } => max_spatial,
        _ => None,
    });
    assert_eq!(demands.collect::<Vec<_>>(), [Spatial(1)]);
    let since = call.world.now;
    loaded(&mut call, 0.87, 5.0);
    assert_eq!(call.layers(0, since), [1]);
    assert!(call.fps(0, since) > 29.0);
    assert!(call.fps(1, since) > 4.0, "a screen stays as it is");
    let (_, downtracks) = call.stats();
    let camera = downtracks.iter().find(|stats| stats.downtrack.0 == 11).expect("the camera's");
    assert_eq!((camera.allocation.as_str(), camera.max_spatial), ("overload", Some(Spatial(1))));
    loaded(&mut call, 0.3, 5.0);
    let back = call.world.now;
    call.run(SECOND);
    assert_eq!(call.layers(0, back), [2]);
}

/// F-32
#[test]
fn then_all_but_the_first_few_videos_pause_and_say_so_and_no_sound_is_missing() {
    let cameras = (1..=6).map(|number| Camera::single(number, number as u32 * 1_000, 200_000)).collect();
    let mut call = Call::new(3, LinkConfig::default(), cameras);
    call.want(4, Want { width: 1_280, height: 720, ..Want::default() });
    call.want(5, Want { priority: 1, ..Want::default() });
    loaded(&mut call, 0.5, 5.0);
    call.world.take_events();
    let since = call.world.now;
    loaded(&mut call, 0.91, 5.0);
    let told: Vec<(u64, bool, String)> = call
        .world
        .take_events()
        .into_iter()
        .filter_map(|event| match event {
            Event::DowntrackState { downtrack, active, reason } => Some((downtrack.0, active, reason)),
            _ => None,
        })
        .collect();
    // Of four, one is asked for most and one has the largest tile; of the others the first two stay.
    assert_eq!(told, [(13, false, "overload".to_owned()), (14, false, "overload".to_owned())]);
    let later = call.world.now;
    loaded(&mut call, 0.91, 2.0);
    let fps: Vec<bool> = (0..6).map(|camera| call.fps(camera, later) > 28.0).collect();
    assert_eq!(fps, [true, true, false, false, true, true]);
    assert!(call.seen(2, later).is_empty());
    loaded(&mut call, 0.2, 6.0);
    let back = call.world.now;
    call.run(SECOND);
    assert!((0..6).all(|camera| call.fps(camera, back) > 28.0));
    let seconds = (call.world.now - since).as_secs_f64();
    assert!(voice_since(&call, since) as f64 >= seconds * 50.0 - 3.0, "each packet of the voice came");
}

/// F-32
#[test]
fn signaling_hears_of_every_level_and_of_the_way_back() {
    let mut call = Call::new(4, LinkConfig::default(), vec![Camera::new(1, 1_000)]);
    level_events(&mut call);
    loaded(&mut call, 0.95, 1.0);
    loaded(&mut call, 1.0, 2.0);
    assert_eq!(level_events(&mut call), [4, 5]);
    loaded(&mut call, 0.1, 10.0);
    assert_eq!(level_events(&mut call), [4, 3, 2, 1, 0], "within ten seconds");
    let counters = call.world.engine.counters();
    assert_eq!(counters.overload_level, 0);
    assert!(counters.overload_us[Level::Joins as usize] >= 2_000_000, "{:?}", counters.overload_us);
}

/// F-32
#[test]
fn who_comes_meanwhile_is_served_as_everybody_is() {
    let mut call = Call::new(5, LinkConfig::default(), vec![Camera::new(1, 1_000)]);
    loaded(&mut call, 0.87, 1.0);
    call.want(0, Want { disabled: true, ..Want::default() });
    loaded(&mut call, 0.87, 1.0);
    call.want(0, Want::default());
    loaded(&mut call, 0.87, 3.0);
    let since = call.world.now;
    loaded(&mut call, 0.87, 2.0);
    assert_eq!(call.layers(0, since), [1]);
}

/// F-31
#[test]
fn without_caches_everything_goes_on_and_what_is_lost_is_not_sent_again_for_so_long() {
    let mut call = Call::new(6, LinkConfig::default(), vec![Camera::single(1, 1_000, 2_000_000)]);
    call.run(SECOND * 3);
    let told = |call: &mut Call, level| {
        call.world.take_events();
        call.world.apply(Command::SetMemoryPressure { level });
        call.world.take_events()
    };
    assert_eq!(told(&mut call, 2), [Event::Overload { level: 0, memory: 2 }]);
    let since = call.world.now;
    call.run(SECOND * 5);
    assert!(call.fps(0, since) > 29.0);
    assert_eq!(call.world.clients[VIEWER].holes(call::CAMERA), 0);
    assert_eq!(told(&mut call, 0), [Event::Overload { level: 0, memory: 0 }]);
    call.world.down[VIEWER].config.loss = 0.05;
    let (since, before) = (call.world.now, call.world.engine.counters().retransmitted);
    call.run(SECOND * 5);
    assert!(call.world.engine.counters().retransmitted > before, "and caches are kept again");
    assert!(call.fps(0, since) > 28.0);
}
