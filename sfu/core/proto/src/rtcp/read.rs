//! Reading: each packet of a compound is validated when the iterator reaches it; its lists are read lazily.

use super::twcc::TwccFeedback;
use super::{
    APP, BYE, FMT_APPLICATION, FMT_FIR, FMT_NACK, FMT_PLI, FMT_TWCC, MAX_RTCP_LEN, MAX_TWCC_STATUSES, PSFB, RR, RTPFB,
    SDES, SR, XR, be16, be32,
};
use crate::drop_reason::DropReason;
use crate::ids::Ssrc;

/// One packet of a compound.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub enum Packet<'a> {
    SenderReport {
        sender: Ssrc,
        info: SenderInfo,
        blocks: ReportBlocks<'a>,
    },
    ReceiverReport {
        sender: Ssrc,
        blocks: ReportBlocks<'a>,
    },
    /// The CNAMEs of a source description; other items are skipped.
    Sdes(SdesCnames<'a>),
    Bye(Bye<'a>),
    Nack(Nack<'a>),
    Pli {
        sender: Ssrc,
        media: Ssrc,
    },
    Fir {
        sender: Ssrc,
        entries: FirEntries<'a>,
    },
    Remb(Remb<'a>),
    Twcc(TwccFeedback<'a>),
    /// APP, XR and whatever we do not speak: skipped by its length.
    Other {
        packet_type: u8,
        format: u8,
    },
}

/// Sender information of an SR (RFC 3550 §6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderInfo {
    /// 32.32 fixed point, seconds since 1900.
    pub ntp: u64,
    pub rtp_timestamp: u32,
    pub packets: u32,
    pub octets: u32,
}

/// Report block (RFC 3550 §6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportBlock {
    pub ssrc: Ssrc,
    /// Of 256, since the last report.
    pub fraction_lost: u8,
    /// 24 bits signed; negative when duplicates outnumber losses.
    pub cumulative_lost: i32,
    /// Sequence number with the count of cycles above it.
    pub highest_seq: u32,
    /// In the stream's timestamp units.
    pub jitter: u32,
    /// Middle 32 bits of the NTP time of the last SR.
    pub last_sr: u32,
    /// In 1/65536 s.
    pub delay_since_last_sr: u32,
}

/// Start reading a compound or reduced-size packet.
pub fn compound(bytes: &[u8]) -> Result<Compound<'_>, DropReason> {
    match bytes.len() {
        0 => Err(DropReason::RtcpTruncated),
        1..=MAX_RTCP_LEN => Ok(Compound { rest: bytes, statuses_left: MAX_TWCC_STATUSES }),
        _ => Err(DropReason::RtcpTooLong),
    }
}

/// Iterator over a compound's packets; ends after the first error.
#[derive(Clone, Debug)]
pub struct Compound<'a> {
    rest: &'a [u8],
    /// What transport-wide feedback may still speak of: many small bombs are as bad as a large one.
    statuses_left: usize,
}

impl<'a> Iterator for Compound<'a> {
    type Item = Result<Packet<'a>, DropReason>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let packet = self.take().and_then(|(head, body)| parse(head, body)).and_then(|packet| self.charge(packet));
        if packet.is_err() {
            self.rest = &[];
        }
        Some(packet)
    }
}

impl<'a> Compound<'a> {
    fn charge(&mut self, packet: Packet<'a>) -> Result<Packet<'a>, DropReason> {
        if let Packet::Twcc(feedback) = &packet {
            let left = self.statuses_left.checked_sub(feedback.status_count.into());
            self.statuses_left = left.ok_or(DropReason::TwccMalformed)?;
        }
        Ok(packet)
    }

    /// The next packet's header word and its body without padding.
    fn take(&mut self) -> Result<([u8; 4], &'a [u8]), DropReason> {
        let (head, tail) = self.rest.split_first_chunk::<4>().ok_or(DropReason::RtcpTruncated)?;
        if head[0] >> 6 != 2 {
            return Err(DropReason::RtcpVersion);
        }
        let (mut body, rest) =
            tail.split_at_checked(usize::from(be16(head, 2)) * 4).ok_or(DropReason::RtcpTruncated)?;
        if head[0] & 0x20 != 0 {
            let count = usize::from(*body.last().ok_or(DropReason::RtcpPadding)?);
            // RFC 3550 §6.4.1 wants a multiple of four on the last packet only; libwebrtc pads transport-wide feedback by
            // one to three bytes wherever it stands.
            if count == 0 || count > body.len() {
                return Err(DropReason::RtcpPadding);
            }
            body = &body[..body.len() - count];
        }
        self.rest = rest;
        Ok((*head, body))
    }
}

fn parse(head: [u8; 4], body: &[u8]) -> Result<Packet<'_>, DropReason> {
    let (count, packet_type) = (head[0] & 0x1f, head[1]);
    let need = |len: usize| if body.len() < len { Err(DropReason::RtcpTruncated) } else { Ok(()) };
    let blocks = |from: usize| {
        let end = from + usize::from(count) * ReportBlocks::LEN;
        body.get(from..end).map(|rest| ReportBlocks { rest }).ok_or(DropReason::RtcpTruncated)
    };
    Ok(match (packet_type, count) {
        (SR, _) => {
            need(24)?;
            let info = SenderInfo {
                ntp: u64::from(be32(body, 4)) << 32 | u64::from(be32(body, 8)),
                rtp_timestamp: be32(body, 12),
                packets: be32(body, 16),
                octets: be32(body, 20),
            };
            Packet::SenderReport { sender: Ssrc(be32(body, 0)), info, blocks: blocks(24)? }
        }
        (RR, _) => {
            need(4)?;
            Packet::ReceiverReport { sender: Ssrc(be32(body, 0)), blocks: blocks(4)? }
        }
        (SDES, chunks) => Packet::Sdes(SdesCnames { chunks_left: chunks, rest: body }),
        (BYE, sources) => {
            let (ssrcs, rest) = body.split_at_checked(usize::from(sources) * 4).ok_or(DropReason::RtcpTruncated)?;
            Packet::Bye(Bye { ssrcs, rest })
        }
        (RTPFB, FMT_NACK) => {
            need(8)?;
            Packet::Nack(Nack { sender: Ssrc(be32(body, 0)), media: Ssrc(be32(body, 4)), entries: &body[8..] })
        }
        (RTPFB, FMT_TWCC) => Packet::Twcc(TwccFeedback::parse(body)?),
        (PSFB, FMT_PLI) => {
            need(8)?;
            Packet::Pli { sender: Ssrc(be32(body, 0)), media: Ssrc(be32(body, 4)) }
        }
        (PSFB, FMT_FIR) => {
            need(8)?;
            Packet::Fir { sender: Ssrc(be32(body, 0)), entries: FirEntries { rest: &body[8..] } }
        }
        (PSFB, FMT_APPLICATION) if body.get(8..12) == Some(b"REMB") => {
            need(16)?;
            let (word, end) = (be32(body, 12), 16 + usize::from(body[12]) * 4);
            let ssrcs = body.get(16..end).ok_or(DropReason::RtcpTruncated)?;
            let (exponent, mantissa) = (word >> 18 & 0x3f, u128::from(word & 0x3_ffff));
            // 18 bits shifted by up to 63 exceed u64: more than anybody can mean, so the top is as good.
            let bitrate_bps = u64::try_from(mantissa << exponent).unwrap_or(u64::MAX);
            Packet::Remb(Remb { sender: Ssrc(be32(body, 0)), bitrate_bps, ssrcs })
        }
        (APP | XR | RTPFB | PSFB, format) => Packet::Other { packet_type, format },
        (_, format) => Packet::Other { packet_type, format },
    })
}

/// Iterator over report blocks.
#[derive(Clone, Copy, Debug)]
pub struct ReportBlocks<'a> {
    rest: &'a [u8],
}

impl ReportBlocks<'_> {
    const LEN: usize = 24;
}

impl Iterator for ReportBlocks<'_> {
    type Item = ReportBlock;

    fn next(&mut self) -> Option<ReportBlock> {
        let (b, rest) = self.rest.split_at_checked(Self::LEN)?;
        self.rest = rest;
        Some(ReportBlock {
            ssrc: Ssrc(be32(b, 0)),
            fraction_lost: b[4],
            // Sign extension of 24 bits.
            cumulative_lost: (be32(b, 4) << 8) as i32 >> 8,
            highest_seq: be32(b, 8),
            jitter: be32(b, 12),
            last_sr: be32(b, 16),
            delay_since_last_sr: be32(b, 20),
        })
    }
}

/// Iterator over `(source, CNAME)`; ends quietly where the packet is malformed.
#[derive(Clone, Debug)]
pub struct SdesCnames<'a> {
    chunks_left: u8,
    rest: &'a [u8],
}

impl<'a> Iterator for SdesCnames<'a> {
    type Item = (Ssrc, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while self.chunks_left > 0 {
            self.chunks_left -= 1;
            let (source, items) = self.rest.split_first_chunk::<4>()?;
            let (mut at, mut cname) = (0, None);
            loop {
                match *items.get(at)? {
                    0 => break,
                    kind => {
                        let len = usize::from(*items.get(at + 1)?);
                        let text = items.get(at + 2..at + 2 + len)?;
                        if kind == 1 {
                            cname = Some(text);
                        }
                        at += 2 + len;
                    }
                }
            }
            // RFC 3550 §6.5: the list ends with one to four zeros, up to the next 32-bit boundary.
            self.rest = items.get(at / 4 * 4 + 4..)?;
            if let Some(text) = cname {
                return Some((Ssrc(u32::from_be_bytes(*source)), text));
            }
        }
        None
    }
}

/// Leaving sources (RFC 3550 §6.6).
#[derive(Clone, Copy, Debug)]
pub struct Bye<'a> {
    ssrcs: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Bye<'a> {
    pub fn ssrcs(&self) -> impl Iterator<Item = Ssrc> + use<'a> {
        ssrc_list(self.ssrcs)
    }

    /// The reason given, if one is there and whole.
    pub fn reason(&self) -> Option<&'a [u8]> {
        let (&len, text) = self.rest.split_first()?;
        text.get(..usize::from(len))
    }
}

/// Generic NACK (RFC 4585 §6.2.1).
#[derive(Clone, Copy, Debug)]
pub struct Nack<'a> {
    pub sender: Ssrc,
    pub media: Ssrc,
    entries: &'a [u8],
}

impl<'a> Nack<'a> {
    /// The missing sequence numbers, at most 17 an entry.
    pub fn seqs(&self) -> NackEntries<'a> {
        NackEntries { rest: self.entries, base: 0, mask: 0 }
    }
}

/// Iterator over the sequence numbers of a [`Nack`].
#[derive(Clone, Debug)]
pub struct NackEntries<'a> {
    rest: &'a [u8],
    base: u16,
    /// Bit n: base + 1 + n is still to be told.
    mask: u16,
}

impl Iterator for NackEntries<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        if self.mask != 0 {
            let bit = self.mask.trailing_zeros() as u16;
            self.mask &= self.mask - 1;
            return Some(self.base.wrapping_add(1 + bit));
        }
        let (entry, rest) = self.rest.split_first_chunk::<4>()?;
        self.rest = rest;
        (self.base, self.mask) = (be16(entry, 0), be16(entry, 2));
        Some(self.base)
    }
}

/// Iterator over `(media source, command sequence number)` of a FIR (RFC 5104 §4.3.1).
#[derive(Clone, Debug)]
pub struct FirEntries<'a> {
    rest: &'a [u8],
}

impl Iterator for FirEntries<'_> {
    type Item = (Ssrc, u8);

    fn next(&mut self) -> Option<Self::Item> {
        let (entry, rest) = self.rest.split_first_chunk::<8>()?;
        self.rest = rest;
        Some((Ssrc(be32(entry, 0)), entry[4]))
    }
}

/// Receiver estimated maximum bitrate (draft-alvestrand-rmcat-remb-03 §2.2).
#[derive(Clone, Copy, Debug)]
pub struct Remb<'a> {
    pub sender: Ssrc,
    pub bitrate_bps: u64,
    ssrcs: &'a [u8],
}

impl<'a> Remb<'a> {
    pub fn ssrcs(&self) -> impl Iterator<Item = Ssrc> + use<'a> {
        ssrc_list(self.ssrcs)
    }
}

fn ssrc_list(bytes: &[u8]) -> impl Iterator<Item = Ssrc> + use<'_> {
    bytes.chunks_exact(4).map(|b| Ssrc(be32(b, 0)))
}
