//! AV1 aggregation header and the first OBU's header (AV1 RTP specification §4.4). Layers come from the OBU extension
//! where there is one; a dependency descriptor beside the payload knows more and wins ([`super::dd`]).

use super::PacketMeta;
use crate::ids::{Spatial, Temporal};

const SEQUENCE_HEADER: u8 = 1;
const MAX_LEB128: usize = 8;

pub(super) fn parse(payload: &[u8], marker: bool) -> Option<PacketMeta> {
    let aggregation = *payload.first()?;
    let continues = aggregation & 0x80 != 0;
    let continued = aggregation & 0x40 != 0;
    let new_sequence = aggregation & 0x08 != 0;
    let count = aggregation >> 4 & 0x03;
    let (mut spatial, mut temporal, mut has_sequence_header) = (0, 0, false);
    let mut rest = &payload[1..];
    // W = 0: every element has a length; else all but the last.
    if count != 1 && !rest.is_empty() {
        let (_, used) = leb128(rest)?;
        rest = &rest[used..];
    }
    if !continues && let Some(&header) = rest.first() {
        has_sequence_header = header >> 3 & 0x0f == SEQUENCE_HEADER;
        if header & 0x04 != 0 {
            let extension = *rest.get(1)?;
            temporal = extension >> 5;
            spatial = extension >> 3 & 0x03;
        }
    }
    let keyframe = !continues && (new_sequence || has_sequence_header);
    Some(PacketMeta {
        spatial: Spatial(spatial),
        temporal: Temporal(temporal),
        keyframe,
        start_of_frame: !continues,
        end_of_frame: marker && !continued,
        temporal_sync: keyframe,
        switches_up: false,
        spatial_sync: keyframe,
        picture_id: None,
        refers_by_picture_id: false,
        tl0: None,
    })
}

fn leb128(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(MAX_LEB128).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregation_headers_of_every_shape() {
        let new_sequence = parse(&[0x18, SEQUENCE_HEADER << 3], false).unwrap();
        assert!(new_sequence.keyframe && new_sequence.start_of_frame);
        // frame OBU (6) with extension: T2 S1
        let upper = parse(&[0x10, 6 << 3 | 4, 2 << 5 | 1 << 3], true).unwrap();
        assert_eq!((upper.spatial, upper.temporal, upper.keyframe), (Spatial(1), Temporal(2), false));
        assert!(upper.end_of_frame);
        let continued = parse(&[0x90, 0xff], false).unwrap();
        assert!(!continued.start_of_frame && !continued.keyframe);
        // W = 0: a length stands first
        assert!(parse(&[0x00, 2, SEQUENCE_HEADER << 3, 0], false).unwrap().keyframe);
        assert!(parse(&[0x00, 0x80], false).is_none());
        assert!(parse(&[], false).is_none());
    }
}
