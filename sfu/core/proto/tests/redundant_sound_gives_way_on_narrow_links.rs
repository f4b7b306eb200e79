//! What RED says again is left out for who has no room for it, and comes back when he has; his stream goes on without a seam.

mod call;

use std::time::Duration;

use call::{Call, Camera, OPUS, RED, VIEWER, VOICE};
use callyard_peer::client::Received;
use callyard_peer::netem::LinkConfig;
use callyard_peer::rtcp::nack;
use callyard_proto::codec::red;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn link(bps: u64) -> LinkConfig {
    LinkConfig { rate_bps: Some(bps), ..LinkConfig::default() }
}

/// Payload types of the voice's packets since `since`, as they were sent, each run once.
fn sent_as(call: &Call, since: std::time::Instant) -> Vec<u8> {
    let heard = call.world.clients[VIEWER].in_order(VOICE);
    let mut out: Vec<u8> = heard.iter().filter(|p| p.at >= since).map(|p| p.pt).collect();
    out.dedup();
    out
}

/// Number of the moment that a packet is about.
fn moment(packet: &Received) -> u32 {
    let newest = if packet.pt == RED { red::primary(&packet.payload).unwrap().start } else { 0 };
    u32::from_be_bytes(packet.payload[newest + 1..newest + 5].try_into().unwrap())
}

/// Every packet that came is about its own moment, at its own time: nothing came under a number that was something else's.
fn assert_seamless(call: &Call) {
    let heard = call.world.clients[VIEWER].in_order(VOICE);
    let first = heard[0];
    for packet in &heard {
        let back = moment(packet) - moment(first);
        assert_eq!(packet.seq.wrapping_sub(first.seq), back as u16, "{packet:?}");
        assert_eq!(packet.timestamp.wrapping_sub(first.timestamp), 960 * back, "{packet:?}");
        assert!(packet.pt == RED || packet.pt == OPUS && packet.payload.len() == 80, "{packet:?}");
    }
}

#[test]
fn where_there_is_room_it_is_always_sent_and_loss_does_not_change_that() {
    for cameras in [vec![], vec![Camera::new(1, 1_000)]] {
        let lossy = LinkConfig { loss: 0.1, loss_burst: 3, ..LinkConfig::default() };
        let mut call = Call::with_redundant_voice(1, lossy, cameras);
        let start = call.world.now;
        call.run(SECOND * 30);
        assert_eq!(sent_as(&call, start), [RED]);
        assert_eq!(call.world.engine.counters().redundancy_withheld, 0);
        assert_seamless(&call);
    }
}

#[test]
fn beside_a_picture_that_needs_the_room_it_is_left_out_until_the_link_is_wide_again() {
    let mut call = Call::with_redundant_voice(2, link(3_000_000), vec![Camera::new(1, 1_000)]);
    let start = call.world.now;
    call.run(SECOND * 10);
    assert_eq!(sent_as(&call, start), [RED]);
    call.carries(230_000);
    call.run(SECOND * 5);
    let narrow = call.world.now;
    call.run(SECOND * 20);
    assert_eq!(sent_as(&call, narrow), [OPUS]);
    assert!(call.fps(0, narrow) > 5.0, "{}", call.fps(0, narrow));
    call.carries(3_000_000);
    let wide = call.world.now;
    call.run(SECOND * 9);
    assert_eq!(sent_as(&call, wide), [OPUS], "not at once");
    call.run(SECOND * 10);
    let back = call.world.now;
    call.run(SECOND * 10);
    assert_eq!(sent_as(&call, back), [RED]);
    assert_eq!(sent_as(&call, start), [RED, OPUS, RED], "it went once");
    assert_eq!(call.world.engine.counters().redundancy_withheld, 1);
    assert_seamless(&call);
}

#[test]
fn a_link_that_carries_a_voice_once_is_seldom_asked_to_carry_it_twice() {
    let mut call = Call::with_redundant_voice(3, link(72_000), vec![]);
    call.run(SECOND * 10);
    let then = call.world.now;
    call.run(SECOND * 120);
    let heard: Vec<&Received> = call.world.clients[VIEWER].of(VOICE).filter(|p| p.at >= then).collect();
    let redundant = heard.iter().filter(|p| p.pt == RED).count();
    assert!(heard.len() > 5_700, "{} of 6 000", heard.len());
    assert!(redundant * 6 < heard.len(), "{redundant} of {}", heard.len());
    let times = call.world.engine.counters().redundancy_withheld;
    assert!((2..6).contains(&times), "tried {times} times");
    assert_seamless(&call);
}

#[test]
fn what_is_asked_for_again_comes_as_it_was_sent() {
    let mut call = Call::with_redundant_voice(4, LinkConfig::default(), vec![Camera::new(1, 1_000)]);
    call.world.clients[VIEWER].repairs = false;
    call.run(SECOND * 5);
    call.carries(200_000);
    call.world.down[VIEWER].config.loss = 0.5;
    let heard_as = |call: &Call, pt| -> Vec<u16> {
        call.world.clients[VIEWER].in_order(VOICE).iter().filter(|p| p.pt == pt).map(|p| p.seq).collect()
    };
    while heard_as(&call, OPUS).is_empty() {
        call.run(Duration::from_millis(20));
    }
    let whole = heard_as(&call, RED);
    let missing = whole.windows(2).rev().find(|pair| pair[1].wrapping_sub(pair[0]) > 1).unwrap()[0].wrapping_add(1);
    (call.world.down[VIEWER].config.loss, call.world.down[VIEWER].config.rate_bps) = (0.0, None);
    call.world.clients[VIEWER].send_rtcp(&nack(VOICE, missing));
    call.world.flush();
    call.run(SECOND / 2);
    let copies: Vec<&Received> = call.world.clients[VIEWER].of(VOICE).filter(|p| p.seq == missing).collect();
    assert_eq!(copies.iter().map(|p| p.pt).collect::<Vec<_>>(), [RED]);
    assert_seamless(&call);
    assert_eq!(call.world.engine.counters().retransmitted, 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn whatever_the_link_does_the_stream_has_no_seam(
        links in prop::collection::vec((prop_oneof![Just(60_000u64), Just(75_000), Just(120_000), Just(5_000_000)], 2u64..16), 1..6),
        loss in prop_oneof![Just(0.0), Just(0.1)],
        has_camera: bool,
    ) {
        // Two seconds at least: the first key frame fills a link of 60 kbit/s for half of the first one.
        let cameras = if has_camera { vec![Camera::single(1, 1_000, 100_000)] } else { vec![] };
        let mut call = Call::with_redundant_voice(5, link(links[0].0), cameras);
        call.world.down[VIEWER].config.loss = loss;
        for (bps, seconds) in links {
            call.carries(bps);
            call.run(SECOND * seconds as u32);
        }
        prop_assert!(call.world.clients[VIEWER].of(VOICE).count() > 20);
        assert_seamless(&call);
        prop_assert_eq!(call.world.engine.counters().panics, 0);
    }
}
