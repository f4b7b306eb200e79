//! A picture's packet that a report calls lost is not waited for until its subscriber asks for it, or asks again.

mod call;

use std::time::Duration;

use call::{CAMERA, Call, Camera, VIEWER};
use callyard_peer::gaps::LIBWEBRTC;
use callyard_peer::netem::LinkConfig;

const SECOND: Duration = Duration::from_secs(1);

/// Half a minute with a viewer behind a link that has room for all.
fn call(seed: u64, reports: bool, trouble: impl FnOnce(&mut Call)) -> Call {
    let mut call = Call::new(seed, LinkConfig::default(), vec![Camera::new(1, 1_000)]);
    let viewer = &mut call.world.clients[VIEWER];
    viewer.repair = LIBWEBRTC;
    if !reports {
        viewer.feedback = None;
    }
    call.run(SECOND * 2);
    trouble(&mut call);
    call.run(SECOND * 30);
    call
}

/// Packets that came so late that they must have been asked for twice, or as late.
fn late(call: &Call) -> usize {
    let seen = call.world.clients[VIEWER].in_order(CAMERA);
    let captured = |timestamp: u32| Duration::from_secs_f64(f64::from(timestamp) / 90_000.0);
    let round_trip = LinkConfig::default().delay * 2;
    let quickest = seen.iter().map(|p| p.at - captured(p.timestamp)).min().unwrap();
    seen.iter().filter(|p| p.at - captured(p.timestamp) - quickest >= LIBWEBRTC.again + round_trip).count()
}

fn compare(trouble: impl Fn(&mut Call) + Copy) {
    let (mut reported, mut unreported) = (0, 0);
    for seed in 1..=6 {
        let (with, without) = (call(seed, true, trouble), call(seed, false, trouble));
        assert!(with.world.engine.counters().resent_unasked >= 8);
        assert_eq!(without.world.engine.counters().resent_unasked, 0);
        reported += late(&with);
        unreported += late(&without);
    }
    assert!(unreported > 60 && reported * 2 < unreported, "{reported}, without reports {unreported}");
}

/// F-01
#[test]
fn a_retransmission_that_is_lost() {
    compare(|call| call.world.down[VIEWER].config.loss = 0.05);
}

#[test]
fn what_was_asked_for_in_vain() {
    compare(|call| {
        call.world.down[VIEWER].config.loss = 0.02;
        call.world.up[VIEWER].config.loss = 0.2;
    });
}

#[test]
fn what_only_comes_late_is_not_sent_again_for_that() {
    for seed in 1..=4 {
        let call = call(seed, true, |call| call.world.down[VIEWER].config.reorder = 0.05);
        let counters = call.world.engine.counters();
        let asked = counters.feedback_in.nack;
        assert!(asked > 200 && counters.resent_unasked * 20 < asked, "{} and {asked}", counters.resent_unasked);
    }
}
