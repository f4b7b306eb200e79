//! VP8 payload descriptor and the first bytes of the frame (RFC 7741 §4.2, §4.3).

use super::{PacketMeta, PictureId};
use crate::ids::{Spatial, Temporal};

pub(super) fn parse(payload: &[u8], marker: bool) -> Option<PacketMeta> {
    let first = *payload.first()?;
    let start_of_partition = first & 0x10 != 0;
    let partition = first & 0x07;
    let mut at = 1;
    let (mut picture_id, mut tl0, mut temporal, mut sync) = (None, None, 0, false);
    if first & 0x80 != 0 {
        let present = *payload.get(at)?;
        at += 1;
        if present & 0x80 != 0 {
            let id = PictureId::read(payload, at)?;
            at += if id.bits == 15 { 2 } else { 1 };
            picture_id = Some(id);
        }
        if present & 0x40 != 0 {
            tl0 = Some((*payload.get(at)?, u8::try_from(at).ok()?));
            at += 1;
        }
        if present & 0x30 != 0 {
            let byte = *payload.get(at)?;
            at += 1;
            if present & 0x20 != 0 {
                temporal = byte >> 6;
                sync = byte & 0x20 != 0;
            }
        }
    }
    let start_of_frame = start_of_partition && partition == 0;
    // P bit of the frame header: 0 is a key frame. It is there only in the first packet of the frame.
    let keyframe = start_of_frame && *payload.get(at)? & 0x01 == 0;
    payload.get(at)?;
    Some(PacketMeta {
        spatial: Spatial(0),
        temporal: Temporal(temporal),
        keyframe,
        start_of_frame,
        end_of_frame: marker,
        temporal_sync: keyframe || sync,
        switches_up: false,
        spatial_sync: keyframe,
        picture_id,
        refers_by_picture_id: false,
        tl0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_every_shape() {
        // X, I (15 bit), L, T with TID 2 and Y, K; key frame
        let meta = parse(&[0x90, 0xf0, 0x92, 0x34, 0x07, 0xa5, 0x00, 0x9d], false).unwrap();
        assert_eq!(meta.picture_id, Some(PictureId { value: 0x1234, bits: 15, offset: 2 }));
        assert_eq!(meta.tl0, Some((7, 4)));
        assert_eq!((meta.temporal, meta.temporal_sync, meta.keyframe), (Temporal(2), true, true));
        assert!(meta.start_of_frame && !meta.end_of_frame);
        // 7-bit id, interframe, end of frame
        let meta = parse(&[0x90, 0x80, 0x7f, 0x01], true).unwrap();
        assert_eq!(meta.picture_id, Some(PictureId { value: 0x7f, bits: 7, offset: 2 }));
        assert!(!meta.keyframe && meta.end_of_frame);
        // no extension; a later partition is never the start of a frame
        assert!(parse(&[0x11, 0x00], false).is_some_and(|meta| !meta.start_of_frame && !meta.keyframe));
        assert!(parse(&[0x10, 0x00], false).is_some_and(|meta| meta.keyframe));
        for short in [&[][..], &[0x90], &[0x90, 0x80], &[0x90, 0x80, 0x80], &[0x90, 0x40], &[0x90, 0x20], &[0x10]] {
            assert_eq!(parse(short, false), None, "{short:?}");
        }
    }
}
