//! H.264 payloads: single NAL units, STAP-A and FU-A (RFC 6184 §5.6–5.8). One layer; a key frame is an IDR or its SPS.

use super::PacketMeta;

const IDR: u8 = 5;
const SPS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;
/// More NAL units than this in one packet are not looked at.
const MAX_UNITS: usize = 64;

pub(super) fn parse(payload: &[u8], marker: bool) -> Option<PacketMeta> {
    let first = *payload.first()?;
    let (keyframe, start) = match first & 0x1f {
        STAP_A => (aggregate_has_key(&payload[1..])?, true),
        FU_A => {
            let header = *payload.get(1)?;
            let start = header & 0x80 != 0;
            (start && is_key(header & 0x1f), start)
        }
        kind @ 1..=23 => (is_key(kind), true),
        _ => return None, // reserved, or interleaved modes that nobody negotiates
    };
    // Where a frame starts cannot be told from one slice of several: the munger goes by the timestamp.
    Some(PacketMeta::single(keyframe, start, marker))
}

fn is_key(kind: u8) -> bool {
    kind == IDR || kind == SPS
}

fn aggregate_has_key(mut units: &[u8]) -> Option<bool> {
    let mut key = false;
    for _ in 0..MAX_UNITS {
        let Some((size, rest)) = units.split_first_chunk::<2>() else { break };
        let size = usize::from(u16::from_be_bytes(*size));
        let unit = rest.get(..size)?;
        key |= is_key(unit.first()? & 0x1f);
        units = &rest[size..];
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_frames_in_every_packetization() {
        let key = |payload: &[u8]| parse(payload, false).map(|meta| (meta.keyframe, meta.start_of_frame));
        assert_eq!(key(&[0x65, 0x88]), Some((true, true)));
        assert_eq!(key(&[0x41, 0x9a]), Some((false, true)));
        assert_eq!(key(&[0x78, 0, 2, 0x67, 0x42, 0, 1, 0x68]), Some((true, true)));
        assert_eq!(key(&[0x78, 0, 2, 0x41, 0x42]), Some((false, true)));
        assert_eq!(key(&[0x7c, 0x85]), Some((true, true)));
        assert_eq!(key(&[0x7c, 0x05]), Some((false, false)));
        for broken in [&[][..], &[0x7c], &[0x78, 0, 9, 1], &[0x78, 0, 0], &[0x1f], &[0x00]] {
            assert_eq!(key(broken), None, "{broken:?}");
        }
    }
}
