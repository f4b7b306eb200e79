//! Between two reports a ping tells that the link has fallen: what sound stands behind is less then.

mod call;

use std::time::{Duration, Instant};

use call::{Call, Camera, VIEWER, VOICE};
use callyard_peer::netem::LinkConfig;

const SECOND: Duration = Duration::from_secs(1);

fn link(rate_bps: Option<u64>) -> LinkConfig {
    LinkConfig { rate_bps, queue: SECOND, ..LinkConfig::default() }
}

fn call(seed: u64, rate_bps: Option<u64>, takes_pings: bool) -> Call {
    let mut call = Call::new(seed, link(rate_bps), vec![Camera::new(1, 1_000)]);
    call.world.clients[VIEWER].takes_pings = takes_pings;
    call.run(SECOND * 6);
    call
}

/// How much longer than the quickest a packet of the voice took that arrived since then.
fn latest_sound(call: &Call, since: Instant) -> Duration {
    let took = |at: Instant, timestamp: u32| at - Duration::from_secs_f64(f64::from(timestamp) / 48_000.0);
    let heard = call.world.clients[VIEWER].in_order(VOICE);
    let quickest = heard.iter().map(|p| took(p.at, p.timestamp)).min().unwrap();
    let latest = heard.iter().filter(|p| p.at >= since).map(|p| took(p.at, p.timestamp)).max().unwrap();
    latest - quickest
}

#[test]
fn they_go_to_whom_the_link_limits_if_he_answers_them() {
    let pings = |call: &Call| (call.world.engine.counters().pings, call.world.engine.counters().pongs);
    let mut narrow = call(1, Some(1_000_000), true);
    let (before, _) = pings(&narrow);
    narrow.run(SECOND * 10);
    let (sent, answered) = pings(&narrow);
    assert!((100..280).contains(&(sent - before)), "1.2 % of the link: {}", sent - before);
    assert!(answered + 4 >= sent, "{answered} of {sent}");
    assert_eq!(u64::from(narrow.world.clients[VIEWER].pings) - answered, 0);

    let mut silent = call(1, Some(1_000_000), false);
    silent.run(SECOND * 10);
    assert_eq!(pings(&silent), (0, 0));
    let mut wide = call(1, None, true);
    let (before, _) = pings(&wide);
    wide.run(SECOND * 10);
    assert_eq!(pings(&wide).0, before, "nothing limits");
}

#[test]
fn after_a_fall_to_what_sound_takes_less_stands_before_it() {
    let fall = |takes_pings| {
        let falls = (1..=12u64).map(|seed| {
            let mut call = call(seed, Some(1_000_000), takes_pings);
            // Wherever in a picture it comes.
            call.run(Duration::from_millis(7) * seed as u32);
            call.carries(120_000);
            let then = call.world.now;
            call.run(SECOND * 3);
            latest_sound(&call, then)
        });
        falls.sum::<Duration>() / 12
    };
    let (with, without) = (fall(true), fall(false));
    assert!(with < without * 3 / 4, "{with:?}, without {without:?}");
}
