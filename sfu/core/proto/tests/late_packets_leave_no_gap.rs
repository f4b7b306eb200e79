//! Numbers that were kept for packets still to come: what comes late and is not sent any more leaves no gap either.

mod call;

use std::time::Duration;

use call::{CAMERA, Call, Camera, VIEWER};
use callyard_peer::netem::LinkConfig;
use callyard_proto::command::Want;
use proptest::prelude::*;

/// A publisher's link that loses and reorders; what is lost is asked for and sent again.
fn rough(loss: f64, reorder: f64) -> LinkConfig {
    LinkConfig { delay: Duration::from_millis(40), loss, reorder, ..LinkConfig::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// One size, so that no key frame ends a gap, and a frame rate that is wished now high, now low.
    #[test]
    fn no_gap_that_the_link_has_not_made(
        seed in 1u64..1_000,
        loss in 0.0..0.04f64,
        reorder in 0.0..0.06f64,
        rates in proptest::collection::vec((0usize..4, 80u64..700), 12..24),
    ) {
        let mut call = Call::new(seed, LinkConfig::default(), vec![Camera::new(1, 1_000)]);
        call.want(0, Want { quality: Some(0), ..Want::default() });
        call.run(Duration::from_secs(2));
        call.world.up[0].config = rough(loss, reorder);
        for (rate, ms) in rates {
            call.want(0, Want { quality: Some(0), fps: [0, 4, 8, 15][rate], ..Want::default() });
            call.run(Duration::from_millis(ms));
        }
        call.world.up[0].config = rough(0.0, 0.0);
        call.run(Duration::from_secs(1));
        let viewer = &call.world.clients[VIEWER];
        let packets = viewer.in_order(CAMERA);
        prop_assert!(packets.len() > 80, "{}", packets.len());
        let parted = packets.windows(2).filter(|pair| pair[1].seq != pair[0].seq.wrapping_add(1));
        let parted: Vec<_> = parted.map(|pair| (pair[0].seq, pair[1].seq)).collect();
        prop_assert!(parted.is_empty(), "{parted:?}");
    }
}
