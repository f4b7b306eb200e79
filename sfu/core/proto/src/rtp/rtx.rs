//! Retransmission payloads (RFC 4588 §4): the original sequence number in front of the original payload.
//!
//! Not here: which packets to send again, or when.

use super::{FIXED_HEADER_LEN, RtpHeader};
use crate::drop_reason::DropReason;
use crate::ids::{Pt, Ssrc};

/// Bytes to put in front of the payload: [`crate::srtp::Payload::prefix`].
#[inline]
pub fn osn(original: u16) -> [u8; 2] {
    original.to_be_bytes()
}

/// Split a retransmission's payload into original sequence number and payload.
///
/// A payload of nothing (padding only, as probes are) is no retransmission: `RtxTooShort`.
pub fn unwrap(payload: &[u8]) -> Result<(u16, &[u8]), DropReason> {
    match payload.split_first_chunk::<2>() {
        Some((number, rest)) => Ok((u16::from_be_bytes(*number), rest)),
        None => Err(DropReason::RtxTooShort),
    }
}

/// Turn a clear RTX packet back into the original one, in place; the offset at which it now begins.
///
/// Only the header moves (by two bytes), not the payload.
pub fn restore(packet: &mut [u8], pt: Pt, ssrc: Ssrc) -> Result<usize, DropReason> {
    let header = RtpHeader::parse(packet)?;
    let (original, _) = unwrap(header.payload())?;
    let header_len = header.header_len;
    packet.copy_within(..header_len, 2);
    let restored = &mut packet[2..2 + FIXED_HEADER_LEN];
    restored[1] = restored[1] & 0x80 | pt.0 & 0x7f;
    restored[2..4].copy_from_slice(&original.to_be_bytes());
    restored[8..12].copy_from_slice(&ssrc.0.to_be_bytes());
    Ok(2)
}

#[cfg(test)]
mod tests {
    use super::super::{HeaderFields, HeaderWriter};
    use super::*;
    use proptest::prelude::*;

    fn packet(fields: HeaderFields, extension: &[u8], payload: &[&[u8]]) -> Vec<u8> {
        let mut buffer = [0u8; 400];
        let mut writer = HeaderWriter::new(&mut buffer, fields, &[]).unwrap();
        if !extension.is_empty() {
            writer.extension(4, extension).unwrap();
        }
        let len = writer.finish();
        [&buffer[..len], &payload.concat()].concat()
    }

    proptest! {
        /// S-17
        #[test]
        fn restore_undoes_the_wrapping(
            seq: u16, rtx_seq: u16, marker: bool, timestamp: u32,
            extension in prop::collection::vec(any::<u8>(), 0..9),
            payload in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let media =
                HeaderFields { marker, pt: Pt(96), seq, timestamp, ssrc: Ssrc(1), padding: false };
            let rtx = HeaderFields { pt: Pt(97), seq: rtx_seq, ssrc: Ssrc(2), ..media };
            let original = packet(media, &extension, &[&payload]);
            let mut wrapped = packet(rtx, &extension, &[&osn(seq), &payload]);
            let start = restore(&mut wrapped, Pt(96), Ssrc(1)).unwrap();
            prop_assert_eq!(&wrapped[start..], &original[..]);
        }
    }

    #[test]
    fn padding_only_is_no_retransmission() {
        let fields = HeaderFields { marker: false, pt: Pt(97), seq: 1, timestamp: 0, ssrc: Ssrc(2), padding: true };
        let mut probe = packet(fields, &[], &[&[0, 0, 0, 4]]);
        assert_eq!(restore(&mut probe, Pt(96), Ssrc(1)), Err(DropReason::RtxTooShort));
        assert_eq!(unwrap(&[7]), Err(DropReason::RtxTooShort));
    }
}
