//! RTCP: compound packets read as an iterator over typed views, and builders (RFC 3550 §6, RFC 4585, RFC 5104).
//!
//! Reduced-size packets are welcome (RFC 5506). Not here: when to send what. Nothing is copied while reading.

mod build;
mod read;
mod twcc;

pub use build::{CompoundWriter, MAX_SDES_TEXT_LEN};
pub use read::{
    Bye, Compound, FirEntries, Nack, NackEntries, Packet, Remb, ReportBlock, ReportBlocks, SdesCnames, SenderInfo,
    compound,
};
pub use twcc::{Arrival, MAX_TWCC_STATUSES, TwccFeedback, TwccStatuses, write_twcc};

/// Longest compound packet that is read: nobody fragments RTCP, so longer ones are attacks.
pub const MAX_RTCP_LEN: usize = 1500;

pub(crate) const SR: u8 = 200;
pub(crate) const RR: u8 = 201;
pub(crate) const SDES: u8 = 202;
pub(crate) const BYE: u8 = 203;
pub(crate) const APP: u8 = 204;
/// Transport-layer feedback (RFC 4585 §6.2): FMT 1 NACK, FMT 15 transport-wide feedback.
pub(crate) const RTPFB: u8 = 205;
/// Payload-specific feedback (RFC 4585 §6.3): FMT 1 PLI, FMT 4 FIR, FMT 15 REMB.
pub(crate) const PSFB: u8 = 206;
pub(crate) const XR: u8 = 207;

pub(crate) const FMT_NACK: u8 = 1;
pub(crate) const FMT_TWCC: u8 = 15;
pub(crate) const FMT_PLI: u8 = 1;
pub(crate) const FMT_FIR: u8 = 4;
pub(crate) const FMT_APPLICATION: u8 = 15;

#[inline]
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drop_reason::DropReason;
    use crate::ids::Ssrc;
    use crate::testing::hex;
    use proptest::prelude::*;

    fn walk(bytes: &[u8]) -> usize {
        let Ok(packets) = compound(bytes) else { return 0 };
        let mut work = 0;
        for packet in packets {
            work += 1;
            match packet {
                Ok(Packet::SenderReport { blocks, .. } | Packet::ReceiverReport { blocks, .. }) => {
                    work += blocks.count();
                }
                Ok(Packet::Sdes(cnames)) => work += cnames.count(),
                Ok(Packet::Bye(bye)) => work += bye.ssrcs().count() + bye.reason().map_or(0, <[u8]>::len),
                Ok(Packet::Nack(nack)) => work += nack.seqs().count(),
                Ok(Packet::Fir { entries, .. }) => work += entries.count(),
                Ok(Packet::Remb(remb)) => work += remb.ssrcs().count(),
                Ok(Packet::Twcc(feedback)) => work += feedback.statuses().count(),
                Ok(Packet::Pli { .. } | Packet::Other { .. }) => {}
                Err(_) => break,
            }
        }
        work
    }

    #[test]
    fn feedback_is_read_as_libwebrtc_pads_it_by_less_than_a_word_and_before_other_packets() {
        let bytes = hex("afcd0005 00000001 00000002 00010001 00000000 20010401 80c90001 00000001");
        let packets: Vec<_> = compound(&bytes).map(Iterator::collect).unwrap_or_default();
        assert!(matches!(&packets[..], [Ok(Packet::Twcc(_)), Ok(_)]), "{packets:?}");
    }

    #[test]
    fn built_packets_are_read_back() {
        let mut buffer = [0u8; MAX_RTCP_LEN];
        let mut out = CompoundWriter::new(&mut buffer);
        let info = SenderInfo { ntp: 0x0123_4567_89ab_cdef, rtp_timestamp: 7, packets: 8, octets: 9 };
        let block = ReportBlock {
            ssrc: Ssrc(2),
            fraction_lost: 3,
            cumulative_lost: -4,
            highest_seq: 0x0005_0006,
            jitter: 6,
            last_sr: 7,
            delay_since_last_sr: 8,
        };
        out.sender_report(Ssrc(1), info, &[block, ReportBlock { cumulative_lost: 0x7f_ffff, ..block }]).unwrap();
        out.receiver_report(Ssrc(1), &[block]).unwrap();
        out.sdes_cname(Ssrc(1), "callyard").unwrap();
        out.nack(Ssrc(1), Ssrc(2), [10, 11, 26, 27, 65_535, 0].into_iter()).unwrap();
        out.pli(Ssrc(1), Ssrc(2)).unwrap();
        out.fir(Ssrc(1), &[(Ssrc(2), 3), (Ssrc(4), 5)]).unwrap();
        out.remb(Ssrc(1), 5_000_000, &[Ssrc(2), Ssrc(3)]).unwrap();
        out.bye(&[Ssrc(1), Ssrc(2)]).unwrap();
        let len = out.len();

        let packets: Vec<_> = compound(&buffer[..len]).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(packets.len(), 8);
        let Packet::SenderReport { sender, info: got, blocks } = packets[0] else { panic!("{:?}", packets[0]) };
        assert_eq!((sender, got), (Ssrc(1), info));
        assert_eq!(blocks.collect::<Vec<_>>(), [block, ReportBlock { cumulative_lost: 0x7f_ffff, ..block }]);
        let Packet::ReceiverReport { blocks, .. } = packets[1] else { panic!("{:?}", packets[1]) };
        assert_eq!(blocks.collect::<Vec<_>>(), [block]);
        let Packet::Sdes(cnames) = packets[2].clone() else { panic!("{:?}", packets[2]) };
        assert_eq!(cnames.collect::<Vec<_>>(), [(Ssrc(1), &b"callyard"[..])]);
        let Packet::Nack(nack) = packets[3] else { panic!("{:?}", packets[3]) };
        assert_eq!((nack.sender, nack.media), (Ssrc(1), Ssrc(2)));
        assert_eq!(nack.seqs().collect::<Vec<_>>(), [10, 11, 26, 27, 65_535, 0]);
        assert!(matches!(packets[4], Packet::Pli { sender: Ssrc(1), media: Ssrc(2) }));
        let Packet::Fir { entries, .. } = packets[5].clone() else { panic!("{:?}", packets[5]) };
        assert_eq!(entries.collect::<Vec<_>>(), [(Ssrc(2), 3), (Ssrc(4), 5)]);
        let Packet::Remb(remb) = packets[6] else { panic!("{:?}", packets[6]) };
        assert!((4_990_000..=5_000_000).contains(&remb.bitrate_bps));
        assert_eq!(remb.ssrcs().collect::<Vec<_>>(), [Ssrc(2), Ssrc(3)]);
        let Packet::Bye(bye) = packets[7] else { panic!("{:?}", packets[7]) };
        assert_eq!(bye.ssrcs().collect::<Vec<_>>(), [Ssrc(1), Ssrc(2)]);
        assert_eq!(bye.reason(), None);
    }

    #[test]
    fn a_full_buffer_refuses_the_whole_packet() {
        let mut buffer = [0u8; 20];
        let mut out = CompoundWriter::new(&mut buffer);
        out.pli(Ssrc(1), Ssrc(2)).unwrap();
        assert_eq!(out.pli(Ssrc(1), Ssrc(2)), None);
        assert_eq!(out.len(), 12);
    }

    /// S-18
    #[test]
    fn bombs_are_dropped_with_their_reason() {
        let table = [
            ("80c9ffff 00000001", DropReason::RtcpTruncated),
            ("80c90001", DropReason::RtcpTruncated),
            ("40c90001 00000001", DropReason::RtcpVersion),
            ("9fc90001 00000001", DropReason::RtcpTruncated),
            ("9fc80006 00000001 00000000 00000000 00000000 00000000 00000000", DropReason::RtcpTruncated),
            ("9fcb0001 00000001", DropReason::RtcpTruncated),
            ("81cd0001 00000001", DropReason::RtcpTruncated),
            ("84ce0001 00000001", DropReason::RtcpTruncated),
            // REMB that claims 255 SSRCs.
            ("8fce0004 00000001 00000000 52454d42 ff000001", DropReason::RtcpTruncated),
            // Padding of 0 and of more than the packet.
            ("a0c90002 00000001 00000000", DropReason::RtcpPadding),
            ("a0c90002 00000001 000000ff", DropReason::RtcpPadding),
            // Transport-wide feedback: more statuses than the bound; reserved symbol 3; chunks that never come.
            ("8fcd0004 00000001 00000002 0000ffff 00000000", DropReason::TwccMalformed),
            ("8fcd0005 00000001 00000002 00000001 00000000 60010000", DropReason::TwccMalformed),
            ("8fcd0004 00000001 00000002 00000001 00000000", DropReason::RtcpTruncated),
        ];
        for (packet, reason) in table {
            let bytes = hex(packet);
            let first_error = compound(&bytes).ok().and_then(|mut packets| packets.find_map(Result::err));
            assert_eq!(first_error, Some(reason), "{packet}");
        }
        assert_eq!(compound(&[0x80; MAX_RTCP_LEN + 1]).err(), Some(DropReason::RtcpTooLong));
        assert_eq!(compound(&[]).err(), Some(DropReason::RtcpTruncated));
    }

    /// S-23
    #[test]
    fn the_statuses_of_a_whole_datagram_are_bounded() {
        let feedback = hex("8fcd0005 00000001 00000002 0000 0800 00000000 0800 0000");
        assert_eq!(walk(&feedback.repeat(2)), 2 + MAX_TWCC_STATUSES);
        let bytes = feedback.repeat(3);
        let last = compound(&bytes).unwrap().last();
        assert_eq!(last.and_then(Result::err), Some(DropReason::TwccMalformed));
    }

    #[test]
    fn an_unterminated_sdes_ends_quietly() {
        for packet in ["9fca0001 00000001", "81ca0002 00000001 01ff6161", "81ca0002 00000001 02016101"] {
            let bytes = hex(packet);
            let parsed: Vec<_> = compound(&bytes).unwrap().collect();
            let Ok(Packet::Sdes(cnames)) = &parsed[0] else { panic!("{parsed:?}") };
            assert_eq!(cnames.clone().count(), 0, "{packet}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// S-18
        #[test]
        fn reading_never_panics_and_is_bounded(
            mut bytes in prop::collection::vec(any::<u8>(), 0..400),
            pt in 198u8..210, count in 0u8..32, words in 0u16..100,
        ) {
            if bytes.len() >= 4 {
                bytes[0] = 0x80 | count;
                bytes[1] = pt;
                bytes[2..4].copy_from_slice(&words.to_be_bytes());
            }
            // A NACK entry names at most 17 numbers with 4 bytes, a TWCC chunk 8 191 with 2, up to its own bound.
            prop_assert!(walk(&bytes) <= bytes.len() * 17 + MAX_TWCC_STATUSES);
        }

        #[test]
        fn nacked_numbers_survive(seqs in prop::collection::btree_set(any::<u16>(), 1..200)) {
            let mut buffer = [0u8; MAX_RTCP_LEN];
            let mut out = CompoundWriter::new(&mut buffer);
            out.nack(Ssrc(1), Ssrc(2), seqs.iter().copied()).unwrap();
            let len = out.len();
            let Some(Ok(Packet::Nack(nack))) = compound(&buffer[..len]).unwrap().next() else { panic!("no NACK") };
            prop_assert_eq!(nack.seqs().collect::<Vec<_>>(), seqs.into_iter().collect::<Vec<_>>());
        }
    }
}
