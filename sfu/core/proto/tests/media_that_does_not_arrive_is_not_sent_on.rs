//! Circuit breakers (RFC 8083): a subscriber who gives no transport-wide feedback is not flooded for ever.

mod call;

use std::time::Duration;

use call::{CAMERA, Call, Camera, VIEWER, VOICE};
use callyard_peer::netem::LinkConfig;

/// A viewer whose only word is a receiver report a second.
fn reports_only(link: LinkConfig) -> Call {
    let mut call = Call::new(9, link, vec![Camera::new(1, 1_000)]);
    let now = call.world.now;
    let viewer = &mut call.world.clients[VIEWER];
    viewer.feedback = None;
    viewer.report_every(now, Some(Duration::from_secs(1)));
    call
}

fn free() -> LinkConfig {
    LinkConfig { delay: Duration::from_millis(20), ..LinkConfig::default() }
}

/// Bits a second of (camera, voice) that left for the viewer.
fn sent_bps(call: &mut Call, time: Duration) -> (u64, u64) {
    let bytes = |call: &mut Call| {
        let (_, downtracks) = call.stats();
        let of = |ssrc: u64| downtracks.iter().find(|d| d.downtrack.0 == ssrc).map_or(0, |d| d.bytes);
        (of(11), of(90))
    };
    let before = bytes(call);
    call.run(time);
    let after = bytes(call);
    let bps = |bytes: u64| bytes * 8_000 / time.as_millis() as u64;
    (bps(after.0 - before.0), bps(after.1 - before.1))
}

#[test]
fn on_a_good_link_nothing_trips() {
    let mut call = reports_only(free());
    call.run(Duration::from_secs(40));
    let (camera, _) = sent_bps(&mut call, Duration::from_secs(5));
    assert!(camera > 1_500_000, "{camera}");
    assert_eq!(call.world.engine.counters().breaker_trips, 0);
    assert_eq!(call.stats().0.estimate_limit, "");
}

#[test]
fn what_does_not_arrive_is_stopped_and_tried_again_once_the_link_is_back() {
    let mut call = reports_only(free());
    call.run(Duration::from_secs(8));
    call.world.down[VIEWER].config.loss = 1.0;
    call.run(Duration::from_secs(8));
    let (camera, voice) = sent_bps(&mut call, Duration::from_secs(3));
    assert_eq!(camera, 0, "video is stopped");
    assert!(voice > 20_000, "sound goes on: {voice}");
    assert_eq!(call.stats().0.estimate_limit, "media_timeout");
    call.world.down[VIEWER].config.loss = 0.0;
    call.run(Duration::from_secs(30));
    let seen = call.seen(0, call.world.now - Duration::from_secs(3)).len();
    assert!(seen > 100, "the camera is back: {seen} packets of {CAMERA} and {VOICE}");
    call.run(Duration::from_secs(20));
    assert_eq!(call.stats().0.estimate_limit, "", "and nothing bounds it any more");
}

#[test]
fn a_link_that_drops_most_of_it_is_sent_a_tenth() {
    let queue = LinkConfig { rate_bps: Some(300_000), ..free() };
    let mut call = reports_only(queue);
    call.run(Duration::from_millis(5_500));
    let (camera, voice) = sent_bps(&mut call, Duration::from_millis(2_500));
    assert!(camera + voice < 450_000, "{camera} {voice}");
    let (transport, _) = call.stats();
    assert!(["tcp_throughput", "unusable"].contains(&transport.estimate_limit.as_str()), "{transport:?}");
    assert!(call.world.engine.counters().breaker_trips > 0);
    let (camera, voice) = sent_bps(&mut call, Duration::from_secs(60));
    assert!(camera + voice < 700_000, "not what was sent at first, for ever: {camera} {voice}");
}

#[test]
fn whoever_stops_reporting_is_not_sent_video_for_ever() {
    let mut call = reports_only(free());
    call.run(Duration::from_secs(8));
    let now = call.world.now;
    call.world.clients[VIEWER].report_every(now, None);
    call.run(Duration::from_secs(17));
    let (camera, voice) = sent_bps(&mut call, Duration::from_secs(3));
    assert_eq!(camera, 0);
    assert!(voice > 20_000, "{voice}");
    assert_eq!(call.stats().0.estimate_limit, "report_timeout");
}
