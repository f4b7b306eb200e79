//! H.265 payloads: single units, aggregation and fragmentation packets (RFC 7798 §4.4), without DONL, which nobody negotiates.
//!
//! A key picture begins with its video parameter set, not with its IRAP slices: whoever joins there knows the parameters from
//! nowhere else. Any other picture begins with its first slice segment. Temporal layers are named by every unit.

use super::PacketMeta;
use crate::ids::Temporal;

/// Pictures at which one may climb to their temporal layer: TSA and STSA (ITU-T H.265 §7.4.2.2).
const SUBLAYER_ACCESS: std::ops::RangeInclusive<u8> = 2..=5;
const LAST_SLICE: u8 = 31;
const IRAP: std::ops::RangeInclusive<u8> = 16..=23;
const VPS: u8 = 32;
const SPS: u8 = 33;
const AGGREGATION: u8 = 48;
const FRAGMENTATION: u8 = 49;
/// More units than this in one packet are not looked at.
const MAX_UNITS: usize = 64;

pub(super) fn parse(payload: &[u8], marker: bool) -> Option<PacketMeta> {
    let (&[first, second], rest) = payload.split_first_chunk::<2>()?;
    let temporal = (second & 0x07).checked_sub(1)?;
    let said = match kind(first) {
        AGGREGATION => aggregate(rest)?,
        FRAGMENTATION => {
            let (&header, rest) = rest.split_first()?;
            if header & 0x80 != 0 { unit(header & 0x3f, rest) } else { Said::default() }
        }
        kind @ 0..=47 => unit(kind, rest),
        _ => return None, // PACI, or reserved
    };
    Some(PacketMeta {
        temporal: Temporal(temporal),
        temporal_sync: temporal == 0 || said.sync,
        ..PacketMeta::single(said.keyframe, said.start, marker)
    })
}

/// What the units of a packet say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Said {
    /// They belong to a key picture.
    keyframe: bool,
    /// A picture begins with one of them.
    start: bool,
    /// One may climb to their temporal layer here.
    sync: bool,
}

fn kind(header: u8) -> u8 {
    header >> 1 & 0x3f
}

/// `body`: what follows the unit's header of two bytes.
fn unit(kind: u8, body: &[u8]) -> Said {
    // `first_slice_segment_in_pic_flag` is a slice header's first bit (ITU-T H.265 §7.3.6.1).
    let is_first_slice = body.first().is_some_and(|byte| byte & 0x80 != 0);
    match kind {
        VPS => Said { keyframe: true, start: true, sync: true },
        SPS => Said { keyframe: true, ..Said::default() },
        kind if IRAP.contains(&kind) => Said { keyframe: true, ..Said::default() },
        0..=LAST_SLICE => Said { start: is_first_slice, sync: SUBLAYER_ACCESS.contains(&kind), keyframe: false },
        _ => Said::default(),
    }
}

fn aggregate(mut units: &[u8]) -> Option<Said> {
    let mut all = Said::default();
    for _ in 0..MAX_UNITS {
        let Some((size, rest)) = units.split_first_chunk::<2>() else { break };
        let size = usize::from(u16::from_be_bytes(*size));
        let (&[header, _], body) = rest.get(..size)?.split_first_chunk::<2>()?;
        let one = unit(kind(header), body);
        all = Said { keyframe: all.keyframe | one.keyframe, start: all.start | one.start, sync: all.sync | one.sync };
        units = &rest[size..];
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAIL_R: u8 = 1 << 1;
    const TSA_R: u8 = 3 << 1;
    const IDR: u8 = 19 << 1;
    const CRA: u8 = 21 << 1;
    const AP: u8 = 48 << 1;
    const FU: u8 = 49 << 1;

    #[test]
    fn a_key_picture_begins_with_its_parameters_in_every_packetization() {
        let read = |payload: &[u8]| parse(payload, false).map(|meta| (meta.keyframe, meta.start_of_frame));
        assert_eq!(read(&[32 << 1, 1, 0x0c]), Some((true, true)), "parameters alone");
        assert_eq!(read(&[33 << 1, 1, 0x01]), Some((true, false)), "the sequence's, behind them");
        assert_eq!(read(&[34 << 1, 1, 0xc1]), Some((false, false)), "and the picture's");
        assert_eq!(read(&[AP, 1, 0, 3, 32 << 1, 1, 0x0c, 0, 3, 33 << 1, 1, 0x01]), Some((true, true)));
        assert_eq!(read(&[AP, 1, 0, 2, 35 << 1, 1, 0, 3, 32 << 1, 1, 0x0c]), Some((true, true)), "behind a delimiter");
        assert_eq!(read(&[AP, 1, 0, 3, 32 << 1, 1, 0x0c, 0, 3, IDR, 1, 0xaf]), Some((true, true)), "with the picture");
        for irap in [&[IDR, 1, 0xaf][..], &[CRA, 1, 0xaf], &[FU, 1, 0x80 | 19, 0xaf], &[AP, 1, 0, 3, IDR, 1, 0xaf]] {
            assert_eq!(read(irap), Some((true, false)), "nobody can begin here: {irap:?}");
        }
        assert_eq!(read(&[FU, 1, 19, 0xaf]), Some((false, false)), "the middle of it");
    }

    #[test]
    fn other_pictures_begin_with_their_first_slice_segment() {
        let start = |payload: &[u8]| parse(payload, false).map(|meta| (meta.keyframe, meta.start_of_frame));
        assert_eq!(start(&[TRAIL_R, 1, 0xd0]), Some((false, true)));
        assert_eq!(start(&[TRAIL_R, 1, 0x50]), Some((false, false)), "a later one");
        assert_eq!(start(&[FU, 1, 0x80 | 1, 0xd0]), Some((false, true)));
        assert_eq!(start(&[FU, 1, 0x80 | 1, 0x50]), Some((false, false)));
        assert_eq!(start(&[FU, 1, 0x40 | 1, 0xd0]), Some((false, false)), "the end of one");
        assert_eq!(start(&[AP, 1, 0, 3, 39 << 1, 1, 5, 0, 3, TRAIL_R, 1, 0xd0]), Some((false, true)));
        assert_eq!(start(&[39 << 1, 1, 5]), Some((false, false)), "what is said about it");
    }

    #[test]
    fn one_climbs_to_a_temporal_layer_where_it_can_be_entered() {
        let layer = |payload: &[u8]| parse(payload, false).map(|meta| (meta.temporal.0, meta.temporal_sync));
        assert_eq!(layer(&[TRAIL_R, 1, 0xd0]), Some((0, true)));
        assert_eq!(layer(&[TRAIL_R, 2, 0xd0]), Some((1, false)), "may refer to its own layer");
        assert_eq!(layer(&[TSA_R, 2, 0xd0]), Some((1, true)));
        assert_eq!(layer(&[FU, 3, 0x80 | 4, 0xd0]), Some((2, true)));
        assert_eq!(layer(&[AP, 3, 0, 3, 5 << 1, 3, 0xd0]), Some((2, true)));
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        for broken in [
            &[][..],
            &[2],
            &[2, 0],
            &[FU, 1],
            &[AP, 1, 0, 9, 1],
            &[AP, 1, 0, 1, IDR],
            &[AP, 1, 0, 0],
            &[50 << 1, 1],
            &[63 << 1, 1],
        ] {
            assert_eq!(parse(broken, false), None, "{broken:?}");
        }
    }
}
