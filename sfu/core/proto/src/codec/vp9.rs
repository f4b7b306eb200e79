//! VP9 payload descriptor, flexible and non-flexible mode, with its scalability structure (RFC 9628 §4.2).

use super::{PacketMeta, PictureId};
use crate::ids::{Spatial, Temporal};

const I: u8 = 0x80;
const P: u8 = 0x40;
const L: u8 = 0x20;
const F: u8 = 0x10;
const B: u8 = 0x08;
const E: u8 = 0x04;

pub(super) fn parse(payload: &[u8], _marker: bool) -> Option<PacketMeta> {
    let first = *payload.first()?;
    let mut at = 1;
    let mut picture_id = None;
    if first & I != 0 {
        let id = PictureId::read(payload, at)?;
        at += if id.bits == 15 { 2 } else { 1 };
        picture_id = Some(id);
    }
    let (mut temporal, mut spatial, mut switching_up, mut tl0) = (0, 0, false, None);
    if first & L != 0 {
        let layers = *payload.get(at)?;
        at += 1;
        temporal = layers >> 5;
        switching_up = layers & 0x10 != 0;
        spatial = layers >> 1 & 0x07;
        if first & F == 0 {
            tl0 = Some((*payload.get(at)?, u8::try_from(at).ok()?));
        }
    }
    let refers_back = first & P != 0;
    let is_start = first & B != 0;
    Some(PacketMeta {
        spatial: Spatial(spatial),
        temporal: Temporal(temporal),
        // A key picture refers to no earlier one; its upper layers refer to its lower ones only.
        keyframe: !refers_back && spatial == 0,
        start_of_frame: is_start,
        end_of_frame: first & E != 0,
        temporal_sync: !refers_back,
        switches_up: switching_up,
        spatial_sync: !refers_back,
        picture_id,
        refers_by_picture_id: first & F != 0,
        tl0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_every_shape() {
        // non-flexible: I 15 bit, L, B, E; T1 U S2 D, TL0
        let meta = parse(&[I | P | L | B | E, 0x81, 0x02, 0x35, 0x09, 0xff], true).unwrap();
        assert_eq!(meta.picture_id, Some(PictureId { value: 0x0102, bits: 15, offset: 1 }));
        assert_eq!((meta.spatial, meta.temporal), (Spatial(2), Temporal(1)));
        assert!(meta.switches_up && !meta.temporal_sync && !meta.spatial_sync && !meta.keyframe);
        assert!(meta.start_of_frame && meta.end_of_frame);
        assert_eq!(meta.tl0, Some((9, 4)));
        assert!(!meta.refers_by_picture_id);
        // flexible mode has no TL0PICIDX, and P_DIFF instead
        let flexible = parse(&[I | P | L | F | B, 0x05, 0x00, 0x02, 0xff], false).unwrap();
        assert_eq!((flexible.tl0, flexible.refers_by_picture_id), (None, true));
        // a key picture: base layer, and its upper layer which one may climb to
        assert!(parse(&[I | L | B, 0x05, 0x00, 0x01, 0xff], false).unwrap().keyframe);
        let upper = parse(&[I | L | B, 0x05, 0x03, 0x01, 0xff], false).unwrap();
        assert!(!upper.keyframe && upper.spatial_sync);
        for short in [&[][..], &[I], &[I, 0x80], &[L], &[L, 0x00]] {
            assert_eq!(parse(short, false), None, "{short:?}");
        }
    }
}
