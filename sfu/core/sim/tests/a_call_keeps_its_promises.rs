//! Short calls in virtual time: what must hold whatever the link does, and that one seed is one call.

use callyard_proto::config::Config;
use callyard_sim::call::Call;
use callyard_sim::link::{LinkSpec, Rival};
use callyard_sim::metrics;
use callyard_sim::profile::Rate;
use callyard_sim::receiver::video::Faults;
use callyard_sim::scenario::{Publisher, Scenario, Subscriber, Targets, Video};

fn constant(kbps: f64) -> Option<Rate> {
    Some(Rate::Constant { kbps })
}

fn publisher(video: &[Video]) -> Publisher {
    Publisher { video: video.to_vec(), audio: true, muted: Vec::new(), count: None }
}

fn scenario(seconds: f64, publishers: Vec<Publisher>, links: &[LinkSpec]) -> Scenario {
    let subscriber = |link: &LinkSpec| Subscriber { link: link.clone(), tiles: Vec::new(), count: None };
    Scenario {
        name: "short".to_owned(),
        title: "short".to_owned(),
        seconds,
        publishers,
        subscribers: links.iter().map(subscriber).collect(),
        targets: Targets::default(),
    }
}

fn run(scenario: &Scenario, seed: u64) -> Call {
    let mut call = Call::new(scenario, seed, Config::default());
    call.run();
    call
}

/// No number with two contents, no picture id or base-layer count that goes back, no size torn without a key frame.
fn assert_sound(call: &Call) {
    for screen in &call.screens {
        assert_eq!(screen.video.faults, Faults::default(), "subscriber {}", screen.subscriber);
        for pair in screen.video.shown.windows(2) {
            // A climb may begin with the picture that was seen smaller a moment ago.
            let goes_on = pair[0].frame < pair[1].frame || pair[0].frame == pair[1].frame && pair[1].is_key;
            assert!(goes_on, "every picture once, in the order it was taken: {pair:?}");
        }
        assert!(screen.video.shown.first().is_none_or(|first| first.is_key));
    }
}

#[test]
fn a_link_with_room_shows_everything_and_never_takes_back_a_climb() {
    let link = LinkSpec { rate: constant(8_000.0), ..LinkSpec::default() };
    for seed in [1, 2] {
        let call = run(&scenario(20.0, vec![publisher(&[Video::Camera])], std::slice::from_ref(&link)), seed);
        assert_sound(&call);
        let metrics = metrics::of(&call);
        assert!(metrics.utility > 0.95, "{metrics:?}");
        assert_eq!((metrics.reversals_per_min, metrics.longest_freeze_ms), (0.0, 0.0), "{metrics:?}");
        assert!(metrics.concealed_percent < 0.1, "{metrics:?}");
        assert_eq!(call.subscriber(0).client.holes(call.screens[0].ssrc), 0, "no number is left out");
    }
}

/// F-01
#[test]
fn streams_stay_sound_over_steps_losses_mutes_and_rivals() {
    let steps = Rate::Steps { steps: vec![(0.0, 3_000.0), (5.0, 400.0), (12.0, 3_000.0)] };
    let rival = Some(Rival::Constant { kbps: 1_500.0, from_s: 6.0, to_s: 12.0 });
    let links = [
        LinkSpec { rate: Some(steps), ..LinkSpec::default() },
        LinkSpec { rate: constant(3_000.0), loss: 0.1, ..LinkSpec::default() },
        LinkSpec { rate: constant(3_000.0), loss: 0.05, burst: 8.0, jitter_ms: 10.0, ..LinkSpec::default() },
        LinkSpec { rate: constant(2_500.0), rival, ..LinkSpec::default() },
        LinkSpec { rate: Some(Rate::Lte { mean_kbps: 1_500.0 }), delay_ms: 60.0, ..LinkSpec::default() },
    ];
    let of = |videos: [&[Video]; 2]| {
        let mut publishers = videos.map(publisher).to_vec();
        publishers[1].muted = vec![(8.0, 10.0)];
        scenario(15.0, publishers, &links)
    };
    let calls =
        [of([&[Video::Camera, Video::Screen], &[Video::CameraSvc]]), of([&[Video::CameraAv1], &[Video::CameraAv1Svc]])];
    for (scenario, seed) in calls.iter().flat_map(|scenario| [(scenario, 1), (scenario, 2)]) {
        let call = run(scenario, seed);
        assert_sound(&call);
        for subscriber in 0..links.len() {
            let screens = call.screens.iter().filter(|screen| screen.subscriber == subscriber);
            let shown: Vec<usize> = screens.map(|screen| screen.video.shown.len()).collect();
            assert!(shown.iter().any(|count| *count > 100), "subscriber {subscriber} sees something: {shown:?}");
        }
        assert_eq!(call.counters().panics, 0);
    }
}

#[test]
fn one_seed_is_one_call() {
    let steps = Rate::Steps { steps: vec![(0.0, 2_000.0), (4.0, 500.0)] };
    let link = LinkSpec { rate: Some(steps), loss: 0.01, ..LinkSpec::default() };
    let scenario = scenario(10.0, vec![publisher(&[Video::Camera])], &[link]);
    let record = || {
        let mut call = Call::recorded(&scenario, 7, Config::default(), 0, 0.0);
        call.run();
        call.trace
    };
    let trace = record();
    assert!(trace.len() > 10_000);
    assert!(trace == record(), "byte for byte");
}
