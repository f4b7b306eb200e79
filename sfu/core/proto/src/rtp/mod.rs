//! RTP packets: the header parsed once, borrowing the packet (RFC 3550 §5.1, RFC 8285), and written anew.
//!
//! Not here: what the payload means, sequence-number arithmetic, encryption.

mod extension;
pub mod rtx;
mod writer;

pub use extension::{
    AbsCaptureTime, AbsSendTime, AudioLevel, PlayoutDelay, TransportSeq, VideoOrientation, read_sdes_text,
};
pub use writer::{HeaderFields, HeaderWriter};

use crate::drop_reason::DropReason;
use crate::ids::{Pt, Ssrc};

/// Length of the header without CSRCs and extensions.
pub const FIXED_HEADER_LEN: usize = 12;

/// "defined by profile" of the one-byte form (RFC 8285 §4.2).
const ONE_BYTE: u16 = 0xbede;
/// The same of the two-byte form without its four application bits (RFC 8285 §4.3).
const TWO_BYTE: u16 = 0x1000;

/// A parsed header with the packet it came from.
#[derive(Clone, Copy, Debug)]
pub struct RtpHeader<'a> {
    pub marker: bool,
    pub pt: Pt,
    pub seq: u16,
    pub timestamp: u32,
    pub ssrc: Ssrc,
    /// Where the payload begins.
    pub header_len: usize,
    /// Bytes of padding at the end, count byte included.
    pub padding_len: usize,
    packet: &'a [u8],
    extension_profile: u16,
    extension_data: &'a [u8],
}

/// Length of the header, CSRCs and extension block included; at least [`FIXED_HEADER_LEN`] bytes are there.
///
/// Works on encrypted packets, whose padding cannot be looked at yet.
#[inline]
pub fn header_len(packet: &[u8]) -> Result<usize, DropReason> {
    Ok(layout(packet)?.1)
}

/// Where the CSRCs end and where the header ends.
#[inline]
fn layout(packet: &[u8]) -> Result<(usize, usize), DropReason> {
    if packet.len() < FIXED_HEADER_LEN {
        return Err(DropReason::RtpTruncated);
    }
    if packet[0] >> 6 != 2 {
        return Err(DropReason::RtpVersion);
    }
    let csrc_end = FIXED_HEADER_LEN + usize::from(packet[0] & 0x0f) * 4;
    let end = if packet[0] & 0x10 == 0 {
        csrc_end
    } else {
        let Some(head) = packet.get(csrc_end..csrc_end + 4) else { return Err(DropReason::RtpTruncated) };
        csrc_end + 4 + usize::from(u16::from_be_bytes([head[2], head[3]])) * 4
    };
    if packet.len() < end { Err(DropReason::RtpTruncated) } else { Ok((csrc_end, end)) }
}

impl<'a> RtpHeader<'a> {
    /// Parse a clear packet. Padding is validated; extension elements are, when they are looked at.
    #[inline]
    pub fn parse(packet: &'a [u8]) -> Result<Self, DropReason> {
        let (csrc_end, header_len) = layout(packet)?;
        let padding_len = if packet[0] & 0x20 == 0 {
            0
        } else {
            // layout() has shown that the packet is not empty.
            let count = usize::from(packet[packet.len() - 1]);
            if count == 0 || count > packet.len() - header_len {
                return Err(DropReason::RtpPadding);
            }
            count
        };
        let (extension_profile, extension_data) = if packet[0] & 0x10 == 0 {
            (0, &[][..])
        } else {
            (u16::from_be_bytes([packet[csrc_end], packet[csrc_end + 1]]), &packet[csrc_end + 4..header_len])
        };
        Ok(Self {
            marker: packet[1] & 0x80 != 0,
            pt: Pt(packet[1] & 0x7f),
            seq: u16::from_be_bytes([packet[2], packet[3]]),
            timestamp: u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]),
            ssrc: Ssrc(u32::from_be_bytes([packet[8], packet[9], packet[10], packet[11]])),
            header_len,
            padding_len,
            packet,
            extension_profile,
            extension_data,
        })
    }

    /// The payload without padding.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.packet[self.header_len..self.packet.len() - self.padding_len]
    }

    /// The whole packet.
    pub fn packet(&self) -> &'a [u8] {
        self.packet
    }

    /// Contributing sources, at most 15.
    pub fn csrcs(&self) -> impl Iterator<Item = Ssrc> + use<'a> {
        self.csrc_bytes().chunks_exact(4).map(|c| Ssrc(u32::from_be_bytes([c[0], c[1], c[2], c[3]])))
    }

    /// The CSRC list as it is on the wire.
    pub fn csrc_bytes(&self) -> &'a [u8] {
        &self.packet[FIXED_HEADER_LEN..FIXED_HEADER_LEN + usize::from(self.packet[0] & 0x0f) * 4]
    }

    /// Extension elements in the order of the wire. An element that overruns the block ends the iteration.
    #[inline]
    pub fn extensions(&self) -> Extensions<'a> {
        let form = match self.extension_profile {
            ONE_BYTE => Form::OneByte,
            profile if profile & 0xfff0 == TWO_BYTE => Form::TwoByte,
            _ => Form::Unknown,
        };
        Extensions { form, rest: self.extension_data }
    }

    /// The first element with this id.
    #[inline]
    pub fn extension(&self, id: u8) -> Option<&'a [u8]> {
        self.extensions().find(|(element, _)| *element == id).map(|(_, data)| data)
    }
}

#[derive(Clone, Copy, Debug)]
enum Form {
    OneByte,
    TwoByte,
    /// Another protocol's extension (RFC 3550 §5.3.1): not ours to read.
    Unknown,
}

/// Iterator over `(id, data)`.
#[derive(Clone, Debug)]
pub struct Extensions<'a> {
    form: Form,
    rest: &'a [u8],
}

impl<'a> Iterator for Extensions<'a> {
    type Item = (u8, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (&first, tail) = self.rest.split_first()?;
            let (id, len, tail) = match self.form {
                Form::OneByte => {
                    // RFC 8285 §4.2: 0 pads; 15 stops all processing, so does a 0 with a length.
                    match first >> 4 {
                        0 if first == 0 => {
                            self.rest = tail;
                            continue;
                        }
                        0 | 15 => {
                            self.rest = &[];
                            return None;
                        }
                        id => (id, usize::from(first & 0x0f) + 1, tail),
                    }
                }
                Form::TwoByte => {
                    if first == 0 {
                        self.rest = tail;
                        continue;
                    }
                    let (&len, tail) = tail.split_first()?;
                    (first, usize::from(len), tail)
                }
                Form::Unknown => return None,
            };
            let Some((data, tail)) = tail.split_at_checked(len) else {
                self.rest = &[];
                return None;
            };
            self.rest = tail;
            return Some((id, data));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::hex;
    use proptest::prelude::*;

    #[test]
    fn a_plain_packet() {
        let packet = hex("90e0 1234 89abcdef 01020304 bede0002 10ff 32000102 00 00 aabbcc".replace(' ', "").as_str());
        let header = RtpHeader::parse(&packet).unwrap();
        assert!(header.marker);
        assert_eq!((header.pt, header.seq), (Pt(96), 0x1234));
        assert_eq!((header.timestamp, header.ssrc), (0x89ab_cdef, Ssrc(0x0102_0304)));
        assert_eq!(header.extension(1), Some(&[0xff][..]));
        assert_eq!(header.extension(3), Some(&[0, 1, 2][..]));
        assert_eq!(header.extension(2), None);
        assert_eq!(header.payload(), [0xaa, 0xbb, 0xcc]);
    }

    /// S-17
    #[test]
    fn bombs_are_dropped_with_their_reason() {
        let fixed = "1234 89abcdef 01020304";
        let table = [
            ("".to_owned(), DropReason::RtpTruncated),
            (format!("8060 {}", &fixed[..20]), DropReason::RtpTruncated),
            (format!("0060 {fixed}"), DropReason::RtpVersion),
            (format!("c060 {fixed}"), DropReason::RtpVersion),
            (format!("8f60 {fixed}"), DropReason::RtpTruncated),
            (format!("9060 {fixed}"), DropReason::RtpTruncated),
            (format!("9060 {fixed} bede"), DropReason::RtpTruncated),
            (format!("9060 {fixed} bede ffff 00000000"), DropReason::RtpTruncated),
            (format!("a060 {fixed}"), DropReason::RtpPadding),
            (format!("a060 {fixed} 00"), DropReason::RtpPadding),
            (format!("a060 {fixed} 02"), DropReason::RtpPadding),
            (format!("a060 {fixed} aaaaff"), DropReason::RtpPadding),
        ];
        for (packet, reason) in table {
            assert_eq!(RtpHeader::parse(&hex(&packet)).err(), Some(reason), "{packet}");
        }
        let all_padding = hex(&format!("a060 {fixed} 000003"));
        assert!(RtpHeader::parse(&all_padding).unwrap().payload().is_empty());
    }

    #[test]
    fn malformed_extension_elements_end_the_list() {
        // (profile and block, elements seen)
        let table: [(&str, Vec<(u8, usize)>); 8] = [
            ("bede0001 10aa 20bb", vec![(1, 1), (2, 1)]),
            ("bede0001 10aa 2fbb", vec![(1, 1)]),
            ("bede0001 f0aa 20bb", vec![]),
            ("bede0001 01aa 20bb", vec![]),
            ("bede0001 00 00 20bb", vec![(2, 1)]),
            ("10000001 0100 02ff", vec![(1, 0)]),
            ("10050001 0102 aabb", vec![(1, 2)]),
            ("abcd0001 10aa 20bb", vec![]),
        ];
        for (block, want) in table {
            let packet = hex(&format!("9060 0001 00000000 00000001 {block}"));
            let header = RtpHeader::parse(&packet).unwrap();
            let got: Vec<_> = header.extensions().map(|(id, data)| (id, data.len())).collect();
            assert_eq!(got, want, "{block}");
        }
    }

    proptest! {
        /// S-17
        #[test]
        fn parse_never_panics(packet in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(header) = RtpHeader::parse(&packet) {
                let _ = (header.payload(), header.csrcs().count(), header.extensions().count());
            }
        }

        #[test]
        fn what_is_written_is_read(
            marker: bool, pt in 0u8..128, seq: u16, timestamp: u32, ssrc: u32,
            csrcs in prop::collection::vec(any::<u32>(), 0..16),
            elements in prop::collection::btree_map(1u8..20, prop::collection::vec(any::<u8>(), 0..30), 0..8),
            payload in prop::collection::vec(any::<u8>(), 0..40), padding_len in 0u8..20,
        ) {
            let csrc_bytes: Vec<u8> = csrcs.iter().flat_map(|c| c.to_be_bytes()).collect();
            let fields = HeaderFields {
                marker, pt: Pt(pt), seq, timestamp, ssrc: Ssrc(ssrc), padding: padding_len > 0,
            };
            let mut buffer = [0u8; 1500];
            let mut writer = HeaderWriter::new(&mut buffer, fields, &csrc_bytes).unwrap();
            for (id, data) in &elements {
                writer.extension(*id, data).unwrap();
            }
            let header_len = writer.finish();
            let mut packet = buffer[..header_len].to_vec();
            packet.extend(&payload);
            packet.resize(packet.len() + usize::from(padding_len), padding_len);

            let header = RtpHeader::parse(&packet).unwrap();
            prop_assert_eq!(header.header_len, header_len);
            prop_assert_eq!(header_len % 4, 0);
            prop_assert_eq!((header.marker, header.pt, header.seq), (marker, Pt(pt), seq));
            prop_assert_eq!((header.timestamp, header.ssrc), (timestamp, Ssrc(ssrc)));
            prop_assert_eq!(header.csrcs().map(|c| c.0).collect::<Vec<_>>(), csrcs);
            let got: Vec<_> = header.extensions().map(|(id, data)| (id, data.to_vec())).collect();
            prop_assert_eq!(got, elements.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(header.payload(), &payload[..]);

            // And once more: a parsed header written again is the same bytes.
            let mut again = [0u8; 1500];
            let mut writer = HeaderWriter::new(&mut again, HeaderFields::from(&header), header.csrc_bytes()).unwrap();
            for (id, data) in header.extensions() {
                writer.extension(id, data).unwrap();
            }
            let len = writer.finish();
            prop_assert_eq!(&again[..len], &packet[..header_len]);
        }
    }
}
