//! Writes an RTP header into a caller's buffer, without allocation (RFC 3550 §5.1, RFC 8285).

use super::{FIXED_HEADER_LEN, ONE_BYTE, RtpHeader, TWO_BYTE};
use crate::ids::{Pt, Ssrc};

/// What the fixed part of a header carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderFields {
    pub marker: bool,
    pub pt: Pt,
    pub seq: u16,
    pub timestamp: u32,
    pub ssrc: Ssrc,
    /// The P bit; whoever sets it appends the padding ([`crate::srtp::Payload::padding_len`]).
    pub padding: bool,
}

impl From<&RtpHeader<'_>> for HeaderFields {
    fn from(header: &RtpHeader<'_>) -> Self {
        Self {
            marker: header.marker,
            pt: header.pt,
            seq: header.seq,
            timestamp: header.timestamp,
            ssrc: header.ssrc,
            padding: header.padding_len > 0,
        }
    }
}

/// A header being written: fields first, then extension elements, then [`finish`](Self::finish).
///
/// Elements are one-byte ones as long as they can be; the first id above 14 or length outside 1..=16 turns the block
/// into the two-byte form.
pub struct HeaderWriter<'a> {
    out: &'a mut [u8],
    /// Where the extension block's own header stands or would stand.
    block: usize,
    /// End of what is written.
    end: usize,
    two_byte: bool,
}

impl<'a> HeaderWriter<'a> {
    /// csrcs: a multiple of four bytes, at most 60. None if `out` is too short.
    #[inline]
    pub fn new(out: &'a mut [u8], fields: HeaderFields, csrcs: &[u8]) -> Option<Self> {
        let block = FIXED_HEADER_LEN + csrcs.len();
        if csrcs.len() > 60 || !csrcs.len().is_multiple_of(4) || out.len() < block {
            return None;
        }
        out[0] = 0x80 | u8::from(fields.padding) << 5 | (csrcs.len() / 4) as u8;
        out[1] = u8::from(fields.marker) << 7 | fields.pt.0 & 0x7f;
        out[2..4].copy_from_slice(&fields.seq.to_be_bytes());
        out[4..8].copy_from_slice(&fields.timestamp.to_be_bytes());
        out[8..12].copy_from_slice(&fields.ssrc.0.to_be_bytes());
        out[FIXED_HEADER_LEN..block].copy_from_slice(csrcs);
        Some(Self { out, block, end: block, two_byte: false })
    }

    /// Append an element. None, and nothing written, if the id is 0 or it does not fit the buffer or the form.
    #[inline]
    pub fn extension(&mut self, id: u8, data: &[u8]) -> Option<()> {
        if id == 0 || data.len() > 255 {
            return None;
        }
        let wide = id > 14 || !(1..=16).contains(&data.len());
        // Room for the block's header, the widest form of what is there, this element and the padding to 32 bits.
        if self.end + 4 + data.len() + 2 + 3 > self.out.len() {
            return None;
        }
        if self.end == self.block {
            self.out[0] |= 0x10;
            self.end += 4;
            self.two_byte = wide;
        } else if wide && !self.two_byte {
            self.widen()?;
        }
        if self.two_byte {
            self.out[self.end] = id;
            self.out[self.end + 1] = data.len() as u8;
            self.end += 2;
        } else {
            self.out[self.end] = id << 4 | (data.len() - 1) as u8;
            self.end += 1;
        }
        self.out[self.end..self.end + data.len()].copy_from_slice(data);
        self.end += data.len();
        Some(())
    }

    /// Close the extension block; the header's length.
    #[inline]
    pub fn finish(mut self) -> usize {
        if self.end > self.block {
            while !self.end.is_multiple_of(4) {
                self.out[self.end] = 0;
                self.end += 1;
            }
            let profile = if self.two_byte { TWO_BYTE } else { ONE_BYTE };
            let words = (self.end - self.block - 4) / 4;
            self.out[self.block..self.block + 2].copy_from_slice(&profile.to_be_bytes());
            self.out[self.block + 2..self.block + 4].copy_from_slice(&(words as u16).to_be_bytes());
        }
        self.end
    }

    /// Rewrite the elements so far in the two-byte form. At most 14 of them with 17 bytes each, unless an id repeats.
    #[cold]
    fn widen(&mut self) -> Option<()> {
        let start = self.block + 4;
        let mut old = [0u8; 512];
        let old = old.get_mut(..self.end - start)?;
        old.copy_from_slice(&self.out[start..self.end]);
        let elements = {
            let (mut count, mut at) = (0, 0);
            while at < old.len() {
                at += 2 + usize::from(old[at] & 0x0f);
                count += 1;
            }
            count
        };
        // The caller made sure of 9 bytes and its element; every element so far grows by one more.
        if self.end + elements + 3 + 2 + 255 > self.out.len() {
            return None;
        }
        let (mut from, mut to) = (0, start);
        while from < old.len() {
            let len = usize::from(old[from] & 0x0f) + 1;
            self.out[to] = old[from] >> 4;
            self.out[to + 1] = len as u8;
            self.out[to + 2..to + 2 + len].copy_from_slice(&old[from + 1..from + 1 + len]);
            from += 1 + len;
            to += 2 + len;
        }
        self.end = to;
        self.two_byte = true;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: HeaderFields =
        HeaderFields { marker: false, pt: Pt(96), seq: 1, timestamp: 2, ssrc: Ssrc(3), padding: false };

    #[test]
    fn a_wide_element_widens_the_earlier_ones() {
        let mut buffer = [0u8; 400];
        let mut writer = HeaderWriter::new(&mut buffer, FIELDS, &[]).unwrap();
        writer.extension(1, &[0xaa]).unwrap();
        writer.extension(2, &[0xbb, 0xcc]).unwrap();
        writer.extension(15, &[0xdd; 20]).unwrap();
        let len = writer.finish();
        assert_eq!(buffer[12..16], [0x10, 0x00, 0, 8]);
        let header = RtpHeader::parse(&buffer[..len]).unwrap();
        let got: Vec<_> = header.extensions().collect();
        assert_eq!(got, [(1, &[0xaa][..]), (2, &[0xbb, 0xcc][..]), (15, &[0xdd; 20][..])]);
    }

    #[test]
    fn no_buffer_is_overrun() {
        for len in 0..80 {
            let mut buffer = vec![0u8; len];
            let Some(mut writer) = HeaderWriter::new(&mut buffer, FIELDS, &[]) else {
                assert!(len < 12);
                continue;
            };
            for id in [1, 2, 14, 15, 200] {
                let _ = writer.extension(id, &[id; 9]);
            }
            let end = writer.finish();
            assert!(RtpHeader::parse(&buffer[..end]).is_ok());
        }
    }

    #[test]
    fn impossible_elements_are_refused() {
        let mut buffer = [0u8; 600];
        let mut writer = HeaderWriter::new(&mut buffer, FIELDS, &[]).unwrap();
        assert_eq!(writer.extension(0, &[1]), None);
        assert_eq!(writer.extension(3, &[0; 256]), None);
        assert_eq!(writer.finish(), 12);
    }
}
