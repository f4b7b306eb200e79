//! Numbers that were kept for packets still to come: what comes late and is not sent any more leaves no gap either.

mod call;

use std::time::Duration;

use call::{CAMERA, Call, Camera, VIEWER};
use callyard_peer::client::{Received, Rtx};
use callyard_peer::media::{TWCC_ID, downtrack_spec};
use callyard_peer::netem::LinkConfig;
use callyard_proto::command::{Command, Want};
use callyard_proto::ids::DowntrackId;
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
        let packets = call.world.clients[VIEWER].in_order(CAMERA);
        prop_assert!(packets.len() > 80, "{}", packets.len());
        prop_assert_eq!(parted(&packets), vec![]);
    }

    /// What is missing of the size that is left is not sent any more when the new one begins.
    #[test]
    fn nor_one_between_two_sizes(
        seed in 1u64..1_000,
        loss in 0.0..0.2f64,
        sizes in proptest::collection::vec((0u8..3, 0usize..8, 80u64..700), 12..24),
    ) {
        let mut call = Call::new(seed, LinkConfig::default(), vec![Camera::new(1, 1_000)]);
        call.run(Duration::from_secs(2));
        call.world.up[0].config = rough(loss, 0.0);
        for (quality, mood, ms) in sizes {
            call.want(0, Want { quality: Some(quality), disabled: mood == 0, ..Want::default() });
            call.run(Duration::from_millis(ms));
        }
        call.world.up[0].config = rough(0.0, 0.0);
        call.want(0, Want::default());
        call.run(Duration::from_secs(2));
        let packets = call.world.clients[VIEWER].in_order(CAMERA);
        prop_assert!(packets.len() > 80, "{}", packets.len());
        prop_assert_eq!(parted(&packets), vec![]);
    }

    /// Who does not report transport-wide waits for every packet, whatever has come since: he gets what he asks for, also of
    /// the size that was left, and what was filled.
    #[test]
    fn what_simple_receivers_ask_for_is_sent_whatever_has_come_since(
        seed in 1u64..1_000,
        sizes in proptest::collection::vec((0u8..3, 300u64..1_500), 4..10),
    ) {
        let mut call = Call::new(seed, LinkConfig::default(), vec![Camera::new(1, 1_000)]);
        call.world.clients[VIEWER].feedback = None;
        call.world.apply(Command::RemoveDowntrack { downtrack: DowntrackId(11) });
        let camera = CAMERA + 10;
        let mut spec = downtrack_spec(VIEWER, &call.cameras[0].source, 12, camera, Want::default());
        spec.extensions.retain(|extension| extension.id != TWCC_ID);
        call.world.apply(Command::AddDowntrack(spec));
        call.world.clients[VIEWER].receive_rtx.insert(camera + 1, Rtx { ssrc: camera, pt: 100 });
        call.run(Duration::from_secs(2));
        call.world.up[0].config = rough(0.03, 0.0);
        call.world.down[VIEWER].config = rough(0.05, 0.0);
        for (quality, ms) in sizes {
            let want = Want { quality: Some(quality), ..Want::default() };
            call.world.apply(Command::SetDowntrack { downtrack: DowntrackId(12), want });
            call.run(Duration::from_millis(ms));
        }
        call.world.up[0].config = rough(0.0, 0.0);
        call.world.down[VIEWER].config = rough(0.0, 0.0);
        call.run(Duration::from_secs(2));
        let packets = call.world.clients[VIEWER].in_order(camera);
        prop_assert!(packets.len() > 80, "{}", packets.len());
        prop_assert_eq!(parted(&packets), vec![]);
    }
}

/// Numbers between which some are missing.
fn parted(packets: &[&Received]) -> Vec<(u16, u16)> {
    let parted = packets.windows(2).filter(|pair| pair[1].seq != pair[0].seq.wrapping_add(1));
    parted.map(|pair| (pair[0].seq, pair[1].seq)).collect()
}
