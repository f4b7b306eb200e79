//! Any order of packets forwarded, left out and switched: no number is given twice, and none before its turn.
#![no_main]

use std::collections::HashSet;

use callyard_proto::codec::{PacketMeta, PictureId};
use callyard_proto::downtrack::munger::{Alignment, Munger};
use callyard_proto::ids::{SeqNo, Spatial, Temporal};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, u32, Vec<(u8, i8, u16)>)| {
    let (first_seq, first_timestamp, ops) = input;
    let mut munger = Munger::new(first_seq, first_timestamp, 512);
    let mut given = HashSet::new();
    let (mut seq, mut timestamp) = (1u64 << 20, 0u32);
    for (what, step, number) in ops {
        seq = seq.saturating_add_signed(i64::from(step));
        timestamp = timestamp.wrapping_add(u32::from(number));
        let meta = PacketMeta {
            spatial: Spatial(what >> 6 & 1),
            temporal: Temporal(what >> 4 & 3),
            keyframe: false,
            start_of_frame: what & 8 != 0,
            end_of_frame: what & 4 != 0,
            temporal_sync: false,
            switches_up: false,
            spatial_sync: false,
            picture_id: (what & 128 != 0).then_some(PictureId { value: number & 0x7fff, bits: 15, offset: 2 }),
            refers_by_picture_id: what & 32 != 0,
            tl0: (what & 128 != 0).then_some((number as u8, 4)),
        };
        match what & 3 {
            0 | 1 => {
                let align = || Alignment::Elapsed(u32::from(number));
                let next = munger.next_seq();
                let rewrite = munger.forward(SeqNo(seq), timestamp, &meta, Some(number), 90_000, align);
                let Some(rewrite) = rewrite else { continue };
                assert!(given.insert(rewrite.seq.0), "{} twice", rewrite.seq.0);
                assert!(munger.next_seq() >= next && rewrite.seq < munger.next_seq());
                assert_eq!(rewrite.patch.picture_id.is_some(), meta.picture_id.is_some());
            }
            2 => {
                if let Some(filled) = munger.leave_out(SeqNo(seq), &meta) {
                    assert!(given.insert(filled.0), "{} twice", filled.0);
                }
            }
            _ => munger.switch_source(),
        }
    }
});
