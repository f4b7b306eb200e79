//! The RTCP that a client writes (RFC 3550 §6.4, 4585 §6, draft-alvestrand-rmcat-remb-03), apart from the server's codec.
//!
//! Reading is left to the client; transport-wide feedback is in [`crate::twcc`].

/// What one report block says (RFC 3550 §6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    pub ssrc: u32,
    /// Of 256, since the last report.
    pub fraction_lost: u8,
    /// Truncated to 24 bits.
    pub cumulative_lost: i32,
    pub highest_seq: u32,
    /// In the stream's timestamp units.
    pub jitter: u32,
    pub last_sr: u32,
    /// In 1/65536 s.
    pub delay_since_last_sr: u32,
}

pub fn nack(ssrc: u32, seq: u16) -> Vec<u8> {
    nacks(ssrc, &[seq])
}

/// One NACK for many packets; `seqs` rise, modulo their wrap.
pub fn nacks(ssrc: u32, seqs: &[u16]) -> Vec<u8> {
    let mut body = Vec::new();
    let mut at = 0;
    while let Some(&pid) = seqs.get(at) {
        let mut mask = 0u16;
        at += 1;
        while let Some(ahead) = seqs.get(at).map(|seq| seq.wrapping_sub(pid)).filter(|ahead| (1..=16).contains(ahead)) {
            mask |= 1 << (ahead - 1);
            at += 1;
        }
        body.extend_from_slice(&pid.to_be_bytes());
        body.extend_from_slice(&mask.to_be_bytes());
    }
    feedback(205, 1, ssrc, &body)
}

pub fn pli(ssrc: u32) -> Vec<u8> {
    feedback(206, 1, ssrc, &[])
}

/// RFC 5104 §4.3.1.1: the target stands in the entry, and a command that is repeated keeps its `number`.
pub fn fir(ssrc: u32, number: u8) -> Vec<u8> {
    let mut entry = ssrc.to_be_bytes().to_vec();
    entry.extend_from_slice(&[number, 0, 0, 0]);
    feedback(206, 4, 0, &entry)
}

/// The most that the receiver believes to be able to take, all `ssrcs` together.
pub fn remb(ssrcs: &[u32], bits_per_second: u64) -> Vec<u8> {
    let exponent = (64 - bits_per_second.leading_zeros()).saturating_sub(18);
    let mantissa = (bits_per_second >> exponent) as u32;
    let mut body = b"REMB".to_vec();
    body.extend_from_slice(&((ssrcs.len() as u32) << 24 | exponent << 18 | mantissa).to_be_bytes());
    ssrcs.iter().for_each(|ssrc| body.extend_from_slice(&ssrc.to_be_bytes()));
    feedback(206, 15, 0, &body)
}

/// A sender report without blocks.
pub fn sender_report(ssrc: u32, ntp: u64, rtp: u32) -> Vec<u8> {
    let mut out = vec![0x80, 200, 0, 6];
    out.extend_from_slice(&ssrc.to_be_bytes());
    out.extend_from_slice(&ntp.to_be_bytes());
    out.extend_from_slice(&rtp.to_be_bytes());
    out.extend_from_slice(&[0; 8]);
    out
}

/// At most 31 blocks.
pub fn receiver_report(sender: u32, blocks: &[Block]) -> Vec<u8> {
    let mut out = vec![0x80 | blocks.len() as u8, 201];
    out.extend_from_slice(&(1 + 6 * blocks.len() as u16).to_be_bytes());
    out.extend_from_slice(&sender.to_be_bytes());
    for block in blocks {
        let lost = u32::from(block.fraction_lost) << 24 | block.cumulative_lost as u32 & 0xff_ffff;
        for word in [block.ssrc, lost, block.highest_seq, block.jitter, block.last_sr, block.delay_since_last_sr] {
            out.extend_from_slice(&word.to_be_bytes());
        }
    }
    out
}

/// `body` is whole words.
pub(crate) fn feedback(kind: u8, format: u8, ssrc: u32, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80 | format, kind];
    out.extend_from_slice(&(2 + body.len() as u16 / 4).to_be_bytes());
    out.extend_from_slice(&1u32.to_be_bytes());
    out.extend_from_slice(&ssrc.to_be_bytes());
    out.extend_from_slice(body);
    out
}

#[cfg(test)]
mod tests {
    use callyard_proto::rtcp::{Packet, compound};

    use super::*;

    #[test]
    fn the_servers_reader_understands_what_is_written() {
        let packet = nacks(7, &[65_534, 65_535, 0, 15, 16]);
        let Some(Ok(Packet::Nack(nack))) = compound(&packet).unwrap().next() else { panic!("a NACK") };
        assert_eq!(nack.seqs().collect::<Vec<_>>(), [65_534, 65_535, 0, 15, 16].map(|seq: u16| seq));
        assert_eq!(packet.len(), 20, "16 is too far from 65534 for one mask");
        for bps in [0, 1, 300_000, 262_143, 262_144, 20_000_000] {
            let packet = remb(&[1, 2], bps);
            let Some(Ok(Packet::Remb(remb))) = compound(&packet).unwrap().next() else { panic!("a REMB") };
            assert!(remb.bitrate_bps <= bps && remb.bitrate_bps >= bps - bps / 100, "{} for {bps}", remb.bitrate_bps);
        }
        let block = Block { ssrc: 9, fraction_lost: 64, cumulative_lost: -3, highest_seq: 70_000, ..Block::default() };
        let packet = receiver_report(5, &[block, block]);
        let Some(Ok(Packet::ReceiverReport { blocks, .. })) = compound(&packet).unwrap().next() else {
            panic!("a receiver report")
        };
        let read: Vec<_> = blocks.map(|b| (b.ssrc.0, b.fraction_lost, b.cumulative_lost, b.highest_seq)).collect();
        assert_eq!(read, [(9, 64, -3, 70_000); 2]);
    }
}
