//! Building: packets are appended to one caller's buffer; one that does not fit leaves it as it was.

use super::twcc::{Arrival, write_twcc};
use super::{
    BYE, FMT_APPLICATION, FMT_FIR, FMT_NACK, FMT_PLI, FMT_TWCC, PSFB, RR, RTPFB, ReportBlock, SDES, SR, SenderInfo,
};
use crate::ids::{SeqNo, Ssrc};

/// Longest text of an SDES item (RFC 3550 §6.5).
pub const MAX_SDES_TEXT_LEN: usize = 255;

/// A compound packet being written. Every method returns None, and writes nothing, if the packet does not fit.
pub struct CompoundWriter<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl<'a> CompoundWriter<'a> {
    pub fn new(out: &'a mut [u8]) -> Self {
        Self { out, len: 0 }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// At most 31 blocks.
    pub fn sender_report(&mut self, sender: Ssrc, info: SenderInfo, blocks: &[ReportBlock]) -> Option<()> {
        self.packet(report_count(blocks)?, SR, |out| {
            out.u32(sender.0)?;
            out.bytes(&info.ntp.to_be_bytes())?;
            out.u32(info.rtp_timestamp)?;
            out.u32(info.packets)?;
            out.u32(info.octets)?;
            report_blocks(out, blocks)
        })
    }

    /// At most 31 blocks.
    pub fn receiver_report(&mut self, sender: Ssrc, blocks: &[ReportBlock]) -> Option<()> {
        self.packet(report_count(blocks)?, RR, |out| {
            out.u32(sender.0)?;
            report_blocks(out, blocks)
        })
    }

    /// One source's CNAME, at most [`MAX_SDES_TEXT_LEN`] bytes.
    pub fn sdes_cname(&mut self, source: Ssrc, cname: &str) -> Option<()> {
        let len = u8::try_from(cname.len()).ok()?;
        self.packet(1, SDES, |out| {
            out.u32(source.0)?;
            out.bytes(&[1, len])?;
            out.bytes(cname.as_bytes())?;
            // At least one zero ends the list, then up to the 32-bit boundary.
            let zeros = 4 - (2 + cname.len()) % 4;
            out.bytes(&[0; 4][..zeros])
        })
    }

    /// At most 31 sources.
    pub fn bye(&mut self, sources: &[Ssrc]) -> Option<()> {
        let count = u8::try_from(sources.len()).ok().filter(|n| *n <= 31)?;
        self.packet(count, BYE, |out| sources.iter().try_for_each(|s| out.u32(s.0)))
    }

    /// seqs: in sending order, so that neighbours share an entry.
    pub fn nack(&mut self, sender: Ssrc, media: Ssrc, seqs: impl Iterator<Item = u16>) -> Option<()> {
        self.packet(FMT_NACK, RTPFB, |out| {
            out.u32(sender.0)?;
            out.u32(media.0)?;
            let mut entry: Option<(u16, u16)> = None;
            for seq in seqs {
                if let Some((base, mask)) = &mut entry {
                    let bit = seq.wrapping_sub(*base).wrapping_sub(1);
                    if bit < 16 {
                        *mask |= 1 << bit;
                        continue;
                    }
                    out.u32(u32::from(*base) << 16 | u32::from(*mask))?;
                }
                entry = Some((seq, 0));
            }
            let (base, mask) = entry?;
            out.u32(u32::from(base) << 16 | u32::from(mask))
        })
    }

    pub fn pli(&mut self, sender: Ssrc, media: Ssrc) -> Option<()> {
        self.packet(FMT_PLI, PSFB, |out| {
            out.u32(sender.0)?;
            out.u32(media.0)
        })
    }

    /// entries: media source and its command sequence number, which rises with every new request (RFC 5104 §4.3.1.1).
    pub fn fir(&mut self, sender: Ssrc, entries: &[(Ssrc, u8)]) -> Option<()> {
        self.packet(FMT_FIR, PSFB, |out| {
            out.u32(sender.0)?;
            out.u32(0)?;
            for (media, command) in entries {
                out.u32(media.0)?;
                out.bytes(&[*command, 0, 0, 0])?;
            }
            Some(())
        })
    }

    /// The bitrate is rounded down to 18 significant bits.
    pub fn remb(&mut self, sender: Ssrc, bitrate_bps: u64, sources: &[Ssrc]) -> Option<()> {
        let count = u8::try_from(sources.len()).ok()?;
        self.packet(FMT_APPLICATION, PSFB, |out| {
            out.u32(sender.0)?;
            out.u32(0)?;
            out.bytes(b"REMB")?;
            let exponent = (64 - bitrate_bps.leading_zeros()).saturating_sub(18);
            out.u32(u32::from(count) << 24 | exponent << 18 | (bitrate_bps >> exponent) as u32)?;
            sources.iter().try_for_each(|s| out.u32(s.0))
        })
    }

    /// Transport-wide feedback about as many of `arrivals` as one packet can tell; how many that were.
    ///
    /// See [`write_twcc`] for the order and the units.
    pub fn twcc(
        &mut self,
        sender: Ssrc,
        media: Ssrc,
        feedback_count: u8,
        after: Option<SeqNo>,
        arrivals: &[Arrival],
    ) -> Option<usize> {
        let mut told = 0;
        self.packet(FMT_TWCC, RTPFB, |out| {
            out.u32(sender.0)?;
            out.u32(media.0)?;
            let (len, count) = write_twcc(&mut out.out[out.len..], feedback_count, after, arrivals)?;
            out.len += len;
            told = count;
            Some(())
        })?;
        Some(told)
    }

    fn packet(&mut self, count: u8, packet_type: u8, body: impl FnOnce(&mut Self) -> Option<()>) -> Option<()> {
        let start = self.len;
        let written = self.bytes(&[0x80 | count, packet_type, 0, 0]).and_then(|()| body(self)).and_then(|()| {
            let words = u16::try_from((self.len - start) / 4 - 1).ok()?;
            self.out[start + 2..start + 4].copy_from_slice(&words.to_be_bytes());
            Some(())
        });
        if written.is_none() {
            self.len = start;
        }
        written
    }

    fn u32(&mut self, value: u32) -> Option<()> {
        self.bytes(&value.to_be_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        self.out.get_mut(self.len..self.len + bytes.len())?.copy_from_slice(bytes);
        self.len += bytes.len();
        Some(())
    }
}

fn report_count(blocks: &[ReportBlock]) -> Option<u8> {
    u8::try_from(blocks.len()).ok().filter(|n| *n <= 31)
}

fn report_blocks(out: &mut CompoundWriter<'_>, blocks: &[ReportBlock]) -> Option<()> {
    for block in blocks {
        out.u32(block.ssrc.0)?;
        out.u32(u32::from(block.fraction_lost) << 24 | block.cumulative_lost as u32 & 0x00ff_ffff)?;
        out.u32(block.highest_seq)?;
        out.u32(block.jitter)?;
        out.u32(block.last_sr)?;
        out.u32(block.delay_since_last_sr)?;
    }
    Some(())
}
