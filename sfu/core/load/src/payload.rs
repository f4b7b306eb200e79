//! RTP payloads that a server takes for real: descriptors and starts of frames, then filler, then our trailer.
//!
//! The trailer stands at the end because servers rewrite descriptors, even to another length, but never what follows them.

use crate::protocol::Codec;

/// Marks a payload of ours.
const MAGIC: [u8; 4] = *b"CyLd";
pub(crate) const TRAILER_LEN: usize = 16;
/// Every payload has room for the longest start and the trailer.
pub(crate) const MIN_PAYLOAD_LEN: usize = 32 + TRAILER_LEN;

/// Where a packet stands in its stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    pub is_key: bool,
    /// First and last packet of its picture.
    pub is_first: bool,
    pub is_last: bool,
    pub picture_id: u16,
    pub tl0: u8,
    /// Rises by one with each packet.
    pub number: u32,
    /// Nanoseconds since the Unix epoch.
    pub sent_ns: u64,
}

/// Fills `payload`, which is at least [`MIN_PAYLOAD_LEN`] long.
pub(crate) fn write(payload: &mut [u8], codec: Codec, position: Position) {
    let start = match codec {
        Codec::Vp8 => vp8(payload, position),
        Codec::Vp9 => vp9(payload, position),
        Codec::H264 => h264(payload, position),
        Codec::Opus => opus(payload),
    };
    let end = payload.len() - TRAILER_LEN;
    payload[start..end].fill(0xa5);
    let trailer = &mut payload[end..];
    trailer[..4].copy_from_slice(&MAGIC);
    trailer[4..8].copy_from_slice(&position.number.to_be_bytes());
    trailer[8..].copy_from_slice(&position.sent_ns.to_be_bytes());
}

/// When a payload of ours was sent; `None` for anybody else's.
pub(crate) fn sent_ns(payload: &[u8]) -> Option<u64> {
    let trailer = payload.last_chunk::<TRAILER_LEN>()?;
    (trailer[..4] == MAGIC).then(|| u64::from_be_bytes(trailer[8..].try_into().unwrap_or_default()))
}

/// RFC 7741 §4.2: 15-bit picture id, TL0PICIDX, one temporal layer. A key frame begins as RFC 6386 §9.1 says, 1280 × 720.
fn vp8(out: &mut [u8], position: Position) -> usize {
    let id = position.picture_id | 0x8000;
    let descriptor = [0x80 | u8::from(position.is_first) << 4, 0xe0, (id >> 8) as u8, id as u8, position.tl0, 0];
    out[..6].copy_from_slice(&descriptor);
    if !position.is_first {
        return 6;
    }
    if position.is_key {
        out[6..16].copy_from_slice(&[0x10, 0, 0, 0x9d, 0x01, 0x2a, 0x00, 0x05, 0xd0, 0x02]);
        16
    } else {
        out[6..9].copy_from_slice(&[0x11, 0, 0]);
        9
    }
}

/// RFC 9628 §4.2: 15-bit picture id, not flexible, one layer; P is clear in key frames.
fn vp9(out: &mut [u8], position: Position) -> usize {
    let id = position.picture_id | 0x8000;
    let flags =
        0x80 | u8::from(!position.is_key) << 6 | u8::from(position.is_first) << 3 | u8::from(position.is_last) << 2;
    out[..3].copy_from_slice(&[flags, (id >> 8) as u8, id as u8]);
    3
}

/// RFC 6184: a key frame begins with SPS and PPS in a STAP-A; slices are cut into FU-A.
fn h264(out: &mut [u8], position: Position) -> usize {
    const SPS: [u8; 8] = [0x67, 0x42, 0xe0, 0x1f, 0x96, 0x54, 0x05, 0x01];
    const PPS: [u8; 4] = [0x68, 0xce, 0x3c, 0x80];
    const IDR: u8 = 5;
    const SLICE: u8 = 1;
    if position.is_key && position.is_first {
        // STAP-A: SPS, PPS, and all of the payload that is left as an IDR slice.
        out[0] = 0x78;
        let mut at = 1;
        for nal in [&SPS[..], &PPS[..]] {
            out[at..at + 2].copy_from_slice(&(nal.len() as u16).to_be_bytes());
            out[at + 2..at + 2 + nal.len()].copy_from_slice(nal);
            at += 2 + nal.len();
        }
        let rest = (out.len() - at - 2) as u16;
        out[at..at + 2].copy_from_slice(&rest.to_be_bytes());
        out[at + 2] = 0x60 | IDR;
        return at + 3;
    }
    let kind = if position.is_key { IDR } else { SLICE };
    if position.is_first && position.is_last {
        out[0] = 0x60 | kind;
        return 1;
    }
    out[..2].copy_from_slice(&[0x7c, u8::from(position.is_first) << 7 | u8::from(position.is_last) << 6 | kind]);
    2
}

/// RFC 6716 §3.1: SILK wideband, 20 ms, mono, one frame.
fn opus(out: &mut [u8]) -> usize {
    out[0] = 0x48;
    1
}

#[cfg(test)]
mod tests {
    use callyard_proto::codec::{Codec as Parsed, PacketMeta};

    use super::*;

    fn payload(codec: Codec, is_key: bool, is_first: bool) -> Vec<u8> {
        let mut payload = vec![0; 200];
        let position =
            Position { is_key, is_first, is_last: false, picture_id: 0x1234, tl0: 7, number: 9, sent_ns: 77 };
        write(&mut payload, codec, position);
        payload
    }

    #[test]
    fn the_trailer_is_read_back_and_foreign_payloads_are_told_apart() {
        for codec in [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Opus] {
            assert_eq!(sent_ns(&payload(codec, true, true)), Some(77));
        }
        assert_eq!(sent_ns(&[0xa5; 100]), None);
        assert_eq!(sent_ns(&[1, 2]), None);
    }

    #[test]
    fn a_server_sees_key_frames_and_their_starts() {
        for (codec, mime) in [(Codec::Vp8, "video/VP8"), (Codec::Vp9, "video/VP9"), (Codec::H264, "video/H264")] {
            for (is_key, is_first) in [(true, true), (false, true), (false, false)] {
                let meta: PacketMeta = Parsed::from_mime(mime)
                    .parse(&payload(codec, is_key, is_first), false)
                    .expect("the payload keeps its format");
                assert_eq!((meta.keyframe, meta.start_of_frame), (is_key, is_first), "{mime}");
            }
        }
    }
}
