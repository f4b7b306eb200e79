//! First byte of a datagram → the protocol it belongs to (RFC 7983 §7, RFC 5761 §4).
//!
//! Not a validation: whoever gets the datagram still parses it.

use crate::drop_reason::DropReason;

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Stun,
    Dtls,
    Rtp,
    Rtcp,
    Drop(DropReason),
}

/// Sort one datagram. RTP and RTCP are told apart by the second byte: payload types 64..=95 are RTCP's
/// (packet types 192..=223, RFC 5761 §4).
#[inline]
pub fn classify(datagram: &[u8]) -> Kind {
    let Some(&first) = datagram.first() else { return Kind::Drop(DropReason::Empty) };
    match first {
        0..=3 => Kind::Stun,
        16..=19 => Kind::Drop(DropReason::Zrtp),
        20..=63 => Kind::Dtls,
        64..=79 => Kind::Drop(DropReason::TurnChannel),
        80..=127 | 192..=255 => Kind::Drop(DropReason::Quic),
        128..=191 => match datagram.get(1) {
            Some(192..=223) => Kind::Rtcp,
            Some(_) => Kind::Rtp,
            None => Kind::Drop(DropReason::RtpTruncated),
        },
        4..=15 => Kind::Drop(DropReason::UnknownProtocol),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_byte_has_one_place() {
        // RFC 7983 §7 as updated by RFC 9443 §3, as (first, last, kind); second byte 96 is an RTP payload type.
        let table = [
            (0, 3, Kind::Stun),
            (4, 15, Kind::Drop(DropReason::UnknownProtocol)),
            (16, 19, Kind::Drop(DropReason::Zrtp)),
            (20, 63, Kind::Dtls),
            (64, 79, Kind::Drop(DropReason::TurnChannel)),
            (80, 127, Kind::Drop(DropReason::Quic)),
            (128, 191, Kind::Rtp),
            (192, 255, Kind::Drop(DropReason::Quic)),
        ];
        let mut seen = 0;
        for (first, last, kind) in table {
            for byte in first..=last {
                assert_eq!(classify(&[byte, 96]), kind, "first byte {byte}");
                seen += 1;
            }
        }
        assert_eq!(seen, 256);
    }

    #[test]
    fn second_byte_tells_rtp_from_rtcp() {
        for second in 0..=255u8 {
            let want = if (64..=95).contains(&(second & 0x7f)) && second & 0x80 != 0 { Kind::Rtcp } else { Kind::Rtp };
            assert_eq!(classify(&[0x80, second]), want, "second byte {second}");
        }
    }

    #[test]
    fn nothing_and_half_a_header_are_dropped() {
        assert_eq!(classify(&[]), Kind::Drop(DropReason::Empty));
        assert_eq!(classify(&[0x80]), Kind::Drop(DropReason::RtpTruncated));
    }
}
