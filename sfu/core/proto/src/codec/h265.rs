//! H.265 payloads: single units, aggregation and fragmentation packets (RFC 7798 §4.4). A key frame is an IRAP picture.

use super::PacketMeta;
use crate::ids::Temporal;

const AGGREGATION: u8 = 48;
const FRAGMENTATION: u8 = 49;
const MAX_UNITS: usize = 64;

pub(super) fn parse(payload: &[u8], marker: bool) -> Option<PacketMeta> {
    let (&first, &second) = (payload.first()?, payload.get(1)?);
    let temporal = (second & 0x07).checked_sub(1)?;
    let (keyframe, start) = match first >> 1 & 0x3f {
        AGGREGATION => (aggregate_has_key(&payload[2..])?, true),
        FRAGMENTATION => {
            let header = *payload.get(2)?;
            let start = header & 0x80 != 0;
            (start && is_key(header & 0x3f), start)
        }
        kind @ 0..=47 => (is_key(kind), true),
        _ => return None,
    };
    Some(PacketMeta {
        temporal: Temporal(temporal),
        temporal_sync: true,
        ..PacketMeta::single(keyframe, start, marker)
    })
}

/// IRAP pictures are 16–23; parameter sets 32–34 come right before one.
fn is_key(kind: u8) -> bool {
    matches!(kind, 16..=23 | 32..=34)
}

fn aggregate_has_key(mut units: &[u8]) -> Option<bool> {
    let mut key = false;
    for _ in 0..MAX_UNITS {
        let Some((size, rest)) = units.split_first_chunk::<2>() else { break };
        let size = usize::from(u16::from_be_bytes(*size));
        let unit = rest.get(..size)?;
        key |= is_key(unit.first()? >> 1 & 0x3f);
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
        assert_eq!(key(&[19 << 1, 1, 0]), Some((true, true)));
        assert_eq!(key(&[1 << 1, 1, 0]), Some((false, true)));
        assert_eq!(key(&[48 << 1, 1, 0, 2, 32 << 1, 1]), Some((true, true)));
        assert_eq!(key(&[49 << 1, 1, 0x80 | 19]), Some((true, true)));
        assert_eq!(key(&[49 << 1, 1, 19]), Some((false, false)));
        for broken in [&[][..], &[2], &[2, 0], &[49 << 1, 1], &[48 << 1, 1, 0, 9, 1], &[63 << 1, 1]] {
            assert_eq!(key(broken), None, "{broken:?}");
        }
    }
}
