//! H.264 payloads: single NAL units, STAP-A and FU-A (RFC 6184 §5.6–5.8). One layer.
//!
//! A key picture begins with its sequence parameter set, not with its IDR slices: whoever joins there knows the parameters from
//! nowhere else. Any other picture begins with the slice of its first macroblock.
//!
//! Parameters that a publisher does not repeat, or tells in its description alone, are not put before a key picture here: every
//! encoder of libwebrtc's repeats them, and what end-to-end encryption leaves readable of a frame it authenticates, so that a
//! frame with more before it could not be decrypted. The same holds for H.265.

use super::PacketMeta;

const SLICE: u8 = 1;
const IDR: u8 = 5;
const SPS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;
/// More NAL units than this in one packet are not looked at.
const MAX_UNITS: usize = 64;

pub(super) fn parse(payload: &[u8], marker: bool) -> Option<PacketMeta> {
    let (&first, rest) = payload.split_first()?;
    let (keyframe, start) = match first & 0x1f {
        STAP_A => aggregate(rest)?,
        FU_A => {
            let (&header, rest) = rest.split_first()?;
            if header & 0x80 != 0 { unit(header & 0x1f, rest) } else { (false, false) }
        }
        kind @ 1..=23 => unit(kind, rest),
        _ => return None, // reserved, or interleaved modes that nobody negotiates
    };
    Some(PacketMeta::single(keyframe, start, marker))
}

/// Whether a NAL unit belongs to a key picture, and whether a picture begins with it.
fn unit(kind: u8, body: &[u8]) -> (bool, bool) {
    // `first_mb_in_slice` is an Exp-Golomb code (ITU-T H.264 §7.3.3): zero is a single bit, one.
    let is_first_slice = body.first().is_some_and(|byte| byte & 0x80 != 0);
    match kind {
        SPS => (true, true),
        IDR => (true, false),
        SLICE => (false, is_first_slice),
        _ => (false, false),
    }
}

fn aggregate(mut units: &[u8]) -> Option<(bool, bool)> {
    let (mut keyframe, mut start) = (false, false);
    for _ in 0..MAX_UNITS {
        let Some((size, rest)) = units.split_first_chunk::<2>() else { break };
        let size = usize::from(u16::from_be_bytes(*size));
        let (&header, body) = rest.get(..size)?.split_first()?;
        let (is_key, starts) = unit(header & 0x1f, body);
        (keyframe, start) = (keyframe | is_key, start | starts);
        units = &rest[size..];
    }
    Some((keyframe, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_picture_begins_with_its_parameters_in_every_packetization() {
        let read = |payload: &[u8]| parse(payload, false).map(|meta| (meta.keyframe, meta.start_of_frame));
        assert_eq!(read(&[0x67, 0x42]), Some((true, true)), "parameters alone");
        assert_eq!(read(&[0x68, 0xce]), Some((false, false)), "and the picture's, behind them");
        assert_eq!(read(&[0x78, 0, 2, 0x67, 0x42, 0, 1, 0x68]), Some((true, true)));
        assert_eq!(read(&[0x78, 0, 2, 0x67, 0x42, 0, 2, 0x65, 0x88]), Some((true, true)), "with the picture");
        assert_eq!(read(&[0x78, 0, 1, 0x09, 0, 2, 0x67, 0x42]), Some((true, true)), "behind a delimiter");
        for idr in [&[0x65, 0x88][..], &[0x7c, 0x85, 0x88], &[0x78, 0, 2, 0x65, 0x88]] {
            assert_eq!(read(idr), Some((true, false)), "nobody can begin here: {idr:?}");
        }
        assert_eq!(read(&[0x7c, 0x05, 0x88]), Some((false, false)), "the middle of it");
    }

    #[test]
    fn other_pictures_begin_with_their_first_slice() {
        let start = |payload: &[u8]| parse(payload, false).map(|meta| (meta.keyframe, meta.start_of_frame));
        assert_eq!(start(&[0x41, 0x9a]), Some((false, true)));
        assert_eq!(start(&[0x41, 0x04]), Some((false, false)), "a later slice");
        assert_eq!(start(&[0x7c, 0x81, 0x9a]), Some((false, true)));
        assert_eq!(start(&[0x7c, 0x81, 0x04]), Some((false, false)));
        assert_eq!(start(&[0x78, 0, 2, 0x06, 0x05, 0, 2, 0x41, 0x9a]), Some((false, true)));
        assert_eq!(start(&[0x06, 0x05]), Some((false, false)), "what is said about it");
    }

    #[test]
    fn what_is_cut_short_is_refused() {
        for broken in [&[][..], &[0x7c], &[0x78, 0, 9, 1], &[0x78, 0, 0], &[0x1f], &[0x00]] {
            assert_eq!(parse(broken, false), None, "{broken:?}");
        }
    }
}
