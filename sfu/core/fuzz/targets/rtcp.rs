//! Compound packets: every list walked to its end.
#![no_main]

use callyard_proto::rtcp::{Packet, compound};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    let Ok(packets) = compound(datagram) else { return };
    let mut work = 0;
    for packet in packets {
        work += 1 + match packet {
            Ok(Packet::SenderReport { blocks, .. } | Packet::ReceiverReport { blocks, .. }) => blocks.count(),
            Ok(Packet::Sdes(cnames)) => cnames.count(),
            Ok(Packet::Bye(bye)) => bye.ssrcs().count() + bye.reason().map_or(0, <[u8]>::len),
            Ok(Packet::Nack(nack)) => nack.seqs().count(),
            Ok(Packet::Fir { entries, .. }) => entries.count(),
            Ok(Packet::Remb(remb)) => remb.ssrcs().count(),
            Ok(Packet::Twcc(feedback)) => {
                let count = feedback.statuses().count();
                assert_eq!(count, usize::from(feedback.status_count), "parse() promised all statuses");
                0
            }
            _ => 0,
        };
    }
    assert!(work <= datagram.len() * 5, "work grows with the datagram only");
});
