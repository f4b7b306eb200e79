//! What a peer sends us: SRTP and SRTCP verified and decrypted in place, without allocation once an SSRC is known.
//!
//! No state changes before the tag has been verified: a forged packet leaves roll-over counts, replay windows and
//! the table of SSRCs as they were (RFC 3711 §3.3).

use super::cipher::{Cipher, E_BIT, RTCP_CLEAR};
use super::kdf::Label;
use super::outbound::session_cipher;
use super::replay::ReplayWindow;
use super::{Profile, SrtpError};
use crate::drop_reason::DropReason;
use crate::ids::{SeqNo, Ssrc};
use crate::rtp;

/// A decrypted packet: the first `len` bytes of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unprotected {
    pub len: usize,
    /// Sequence number extended by the roll-over counter.
    pub seq: SeqNo,
}

/// One transport's receiving context.
pub struct InboundSrtp {
    profile: Profile,
    rtp: Cipher,
    rtcp: Cipher,
    rtp_streams: Streams,
    rtcp_streams: Streams,
}

impl InboundSrtp {
    /// key, salt: the peer's master key and salt (RFC 5764 §4.2). max_ssrcs: see [`super::DEFAULT_MAX_SSRCS`].
    pub fn new(profile: Profile, key: &[u8], salt: &[u8], max_ssrcs: usize) -> Result<Self, SrtpError> {
        let rtp_labels = [Label::RtpEncryption, Label::RtpAuthentication, Label::RtpSalt];
        let rtcp_labels = [Label::RtcpEncryption, Label::RtcpAuthentication, Label::RtcpSalt];
        Ok(Self::from_ciphers(
            profile,
            session_cipher(profile, key, salt, rtp_labels)?,
            session_cipher(profile, key, salt, rtcp_labels)?,
            max_ssrcs,
        ))
    }

    pub(super) fn from_ciphers(profile: Profile, rtp: Cipher, rtcp: Cipher, max_ssrcs: usize) -> Self {
        let rtcp_streams = Streams::new(max_ssrcs * RTCP_SSRCS_PER_RTP_SSRC);
        Self { profile, rtp, rtcp, rtp_streams: Streams::new(max_ssrcs), rtcp_streams }
    }

    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Verify and decrypt in place. On an error the packet's bytes are undefined and nothing else has changed.
    pub fn unprotect_rtp(&mut self, packet: &mut [u8]) -> Result<Unprotected, DropReason> {
        let header_len = rtp::header_len(packet)?;
        let tag_len = self.rtp.tag_len();
        if packet.len() < header_len + tag_len {
            return Err(DropReason::SrtpTooShort);
        }
        // header_len() has shown that the fixed 12 bytes are there.
        let seq = u16::from_be_bytes([packet[2], packet[3]]);
        let ssrc = u32::from_be_bytes([packet[8], packet[9], packet[10], packet[11]]);
        let slot = self.rtp_streams.find(ssrc)?;
        let index = match slot.and_then(|i| self.rtp_streams.windows[i].highest()) {
            Some(highest) => estimate_index(highest, seq).ok_or(DropReason::SrtpTooOld)?,
            None => seq.into(),
        };
        if let Some(i) = slot {
            self.rtp_streams.windows[i].check(index)?;
        }
        if !self.rtp.open_rtp(packet, header_len, ssrc, index) {
            return Err(DropReason::SrtpAuth);
        }
        self.rtp_streams.commit(slot, ssrc, index);
        Ok(Unprotected { len: packet.len() - tag_len, seq: SeqNo(index) })
    }

    /// Verify and decrypt a compound packet in place; its clear length.
    pub fn unprotect_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, DropReason> {
        if packet.len() < RTCP_CLEAR + 4 + self.rtcp.tag_len() {
            return Err(DropReason::SrtpTooShort);
        }
        let word = self.rtcp.rtcp_index_word(packet);
        if word & E_BIT == 0 {
            return Err(DropReason::SrtcpNotEncrypted);
        }
        let index = u64::from(word & !E_BIT);
        let ssrc = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
        let slot = self.rtcp_streams.find(ssrc)?;
        if let Some(i) = slot {
            self.rtcp_streams.windows[i].check(index)?;
        }
        let len = self.rtcp.open_rtcp(packet, ssrc, word).ok_or(DropReason::SrtpAuth)?;
        self.rtcp_streams.commit(slot, ssrc, index);
        Ok(len)
    }

    /// Keep this SSRC's place in the bounded table until it is released. Any other may have to give way to a new one, the
    /// one that was silent for longest first.
    ///
    /// Hold no more than the table has room for.
    pub fn hold(&mut self, ssrc: Ssrc) {
        self.rtp_streams.hold(ssrc.0);
    }

    /// The end of [`Self::hold`]. Roll-over count and replay window stay while there is room: the key is the same, and so may
    /// the SSRC be when it is used again.
    pub fn release(&mut self, ssrc: Ssrc) {
        self.rtp_streams.release(ssrc.0);
    }

    /// How many SSRCs are held or have sent authenticated RTP, those that gave way aside.
    pub fn tracked_ssrcs(&self) -> usize {
        self.rtp_streams.ssrcs.len()
    }
}

/// RFC 3711 §3.3.1 and App. A: the index nearest to the newest one; None if it would lie before the first.
#[inline]
fn estimate_index(highest: u64, seq: u16) -> Option<u64> {
    let (roc, newest) = (highest >> 16, (highest & 0xffff) as u16);
    let roc = if newest < 0x8000 {
        if i32::from(seq) - i32::from(newest) > 0x8000 { roc.checked_sub(1)? } else { roc }
    } else if i32::from(newest) - 0x8000 > i32::from(seq) {
        roc + 1
    } else {
        roc
    };
    Some(roc << 16 | u64::from(seq))
}

/// Receivers may report under an SSRC of their own for each stream, and ask for repairs under another.
const RTCP_SSRCS_PER_RTP_SSRC: usize = 4;

/// Replay windows by SSRC. At most some hundred entries: a scan over packed numbers beats hashing.
struct Streams {
    max: usize,
    ssrcs: Vec<u32>,
    windows: Vec<ReplayWindow>,
    /// Beside each window.
    uses: Vec<Use>,
    commits: u64,
}

#[derive(Clone, Copy, Default)]
struct Use {
    is_held: bool,
    /// How many packets had come when its last one did.
    last: u64,
}

impl Streams {
    fn new(max: usize) -> Self {
        Self { max, ssrcs: Vec::new(), windows: Vec::new(), uses: Vec::new(), commits: 0 }
    }

    fn place(&self, ssrc: u32) -> Option<usize> {
        self.ssrcs.iter().position(|&s| s == ssrc)
    }

    /// The SSRC's slot; `Ok(None)` if it is new and there is room, or one that may give way.
    #[inline]
    fn find(&self, ssrc: u32) -> Result<Option<usize>, DropReason> {
        match self.place(ssrc) {
            None if self.ssrcs.len() >= self.max && self.uses.iter().all(|one| one.is_held) => {
                Err(DropReason::SrtpTooManySsrcs)
            }
            slot => Ok(slot),
        }
    }

    #[inline]
    fn commit(&mut self, slot: Option<usize>, ssrc: u32, index: u64) {
        let Some(slot) = slot.or_else(|| self.enter(ssrc)) else { return };
        self.commits += 1;
        self.uses[slot].last = self.commits;
        self.windows[slot].commit(index);
    }

    /// A place for a new SSRC, if need be that of the one that was silent for longest; `None` where all are held.
    fn enter(&mut self, ssrc: u32) -> Option<usize> {
        if self.ssrcs.len() < self.max {
            self.ssrcs.push(ssrc);
            self.windows.push(ReplayWindow::default());
            self.uses.push(Use::default());
            return Some(self.ssrcs.len() - 1);
        }
        let silent = (0..self.uses.len()).filter(|&i| !self.uses[i].is_held).min_by_key(|&i| self.uses[i].last)?;
        (self.ssrcs[silent], self.windows[silent], self.uses[silent]) = (ssrc, ReplayWindow::default(), Use::default());
        Some(silent)
    }

    fn hold(&mut self, ssrc: u32) {
        if let Some(slot) = self.place(ssrc).or_else(|| self.enter(ssrc)) {
            self.uses[slot].is_held = true;
        }
    }

    fn release(&mut self, ssrc: u32) {
        if let Some(slot) = self.place(ssrc) {
            self.uses[slot].is_held = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_estimate_follows_appendix_a() {
        // (newest index, sequence number, index)
        let table = [
            (0, 1, Some(1)),
            (0, 0x8000, Some(0x8000)),
            (0, 0x8001, None),
            (0xffff, 0, Some(0x1_0000)),
            (0xfffe, 0xffff, Some(0xffff)),
            (0x1_0000, 0xffff, Some(0xffff)),
            (0x1_7fff, 0xffff, Some(0x1_ffff)),
            (0x1_7ffe, 0xffff, Some(0xffff)),
            (0x1_8000, 0, Some(0x1_0000)),
            (0x1_8001, 0, Some(0x2_0000)),
            (0x1_8001, 1, Some(0x1_0001)),
            (0xffff_0000_ffff, 1, Some(0xffff_0001_0001)),
        ];
        for (highest, seq, want) in table {
            assert_eq!(estimate_index(highest, seq), want, "newest {highest:#x}, seq {seq:#x}");
        }
    }
}
