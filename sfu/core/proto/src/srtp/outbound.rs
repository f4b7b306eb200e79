//! What we send: the header is written by the caller, the payload is sealed straight into the send buffer.
//!
//! One context serves all SSRCs of a transport, because the caller holds each stream's extended sequence number.
//! The caller must never use one (SSRC, number) twice with different bytes: AES-GCM would reveal its key.

use super::cipher::{Cipher, RTCP_CLEAR};
use super::kdf::{Label, derive};
use super::{Profile, SrtpError};
use crate::ids::{SeqNo, Ssrc};
use crate::rtp;

/// A packet's payload in up to three pieces, so that nobody has to build it in a scratch buffer first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Payload<'a> {
    /// Rewritten start of the payload: a codec's descriptor, or RTX's original sequence number.
    pub prefix: &'a [u8],
    pub body: &'a [u8],
    /// RTP padding to append, count byte included; the header must then carry the P bit.
    pub padding_len: u8,
}

impl<'a> From<&'a [u8]> for Payload<'a> {
    fn from(body: &'a [u8]) -> Self {
        Self { prefix: &[], body, padding_len: 0 }
    }
}

impl Payload<'_> {
    /// Length on the wire, without tag.
    #[inline]
    pub fn len(&self) -> usize {
        self.prefix.len() + self.body.len() + usize::from(self.padding_len)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Write the pieces into `out`, which is exactly [`len`](Self::len) long.
    pub(super) fn write_to(&self, out: &mut [u8]) {
        let (prefix, rest) = out.split_at_mut(self.prefix.len());
        prefix.copy_from_slice(self.prefix);
        let (body, padding) = rest.split_at_mut(self.body.len());
        body.copy_from_slice(self.body);
        if let Some((count, zeros)) = padding.split_last_mut() {
            zeros.fill(0);
            *count = self.padding_len;
        }
    }
}

/// The sequence number of one outgoing stream, extended so that it never wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboundStream {
    pub ssrc: Ssrc,
    /// The last number used.
    pub last: SeqNo,
}

impl OutboundStream {
    /// The extended number of `seq`, which is the nearest to the last one; the last one moves forward only.
    pub fn extend(&mut self, seq: u16) -> SeqNo {
        let delta = i64::from(seq.wrapping_sub(self.last.0 as u16) as i16);
        let extended = self.last.0.saturating_add_signed(delta);
        self.last.0 = self.last.0.max(extended);
        SeqNo(extended)
    }
}

/// One transport's sending context.
pub struct OutboundSrtp {
    profile: Profile,
    rtp: Cipher,
    rtcp: Cipher,
    next_rtcp_index: u32,
}

impl OutboundSrtp {
    /// key, salt: our master key and salt (RFC 5764 §4.2).
    pub fn new(profile: Profile, key: &[u8], salt: &[u8]) -> Result<Self, SrtpError> {
        let rtp_labels = [Label::RtpEncryption, Label::RtpAuthentication, Label::RtpSalt];
        let rtcp_labels = [Label::RtcpEncryption, Label::RtcpAuthentication, Label::RtcpSalt];
        Ok(Self::from_ciphers(
            profile,
            session_cipher(profile, key, salt, rtp_labels)?,
            session_cipher(profile, key, salt, rtcp_labels)?,
        ))
    }

    pub(super) fn from_ciphers(profile: Profile, rtp: Cipher, rtcp: Cipher) -> Self {
        Self { profile, rtp, rtcp, next_rtcp_index: 1 }
    }

    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Seal `payload` and its tag into the start of `out`; how many bytes were written.
    ///
    /// header: the RTP header as it goes on the wire, usually the bytes just before `out`. ssrc, seq: as in that
    /// header, with the roll-over count. Without prefix and padding nothing is copied; with them, once.
    #[inline]
    pub fn protect_rtp_into(
        &self,
        header: &[u8],
        payload: Payload<'_>,
        out: &mut [u8],
        ssrc: Ssrc,
        seq: SeqNo,
    ) -> Result<usize, SrtpError> {
        // RFC 3711 §9.2: at most 2^48 packets with one key.
        if seq.0 >> 48 != 0 {
            return Err(SrtpError::KeyExhausted);
        }
        let total = payload.len() + self.rtp.tag_len();
        let out = out.get_mut(..total).ok_or(SrtpError::BufferTooSmall)?;
        self.rtp.seal_rtp(header, payload, out, ssrc.0, seq.0);
        Ok(total)
    }

    /// Protect a whole packet; a new buffer. For tests, tools and rare packets.
    pub fn protect_rtp(&self, packet: &[u8], seq: SeqNo) -> Result<Vec<u8>, SrtpError> {
        let header_len = rtp::header_len(packet).map_err(|_| SrtpError::Malformed)?;
        let (header, payload) = packet.split_at(header_len);
        let ssrc = Ssrc(u32::from_be_bytes([packet[8], packet[9], packet[10], packet[11]]));
        let mut out = header.to_vec();
        out.resize(packet.len() + self.rtp.tag_len(), 0);
        self.protect_rtp_into(header, payload.into(), &mut out[header_len..], ssrc, seq)?;
        Ok(out)
    }

    /// Protect the compound packet `buffer[..len]` in place; the protected length.
    ///
    /// buffer: at least `len +` [`super::MAX_TRAILER_LEN`] bytes.
    pub fn protect_rtcp(&mut self, buffer: &mut [u8], len: usize) -> Result<usize, SrtpError> {
        if len < RTCP_CLEAR {
            return Err(SrtpError::Malformed);
        }
        let total = len + 4 + self.rtcp.tag_len();
        let packet = buffer.get_mut(..total).ok_or(SrtpError::BufferTooSmall)?;
        let index = self.next_rtcp_index;
        // RFC 3711 §9.2: at most 2^31 RTCP packets with one key.
        if index >> 31 != 0 {
            return Err(SrtpError::KeyExhausted);
        }
        // One counter for all SSRCs: each of them sees increasing indices, and no nonce repeats.
        self.next_rtcp_index += 1;
        let ssrc = u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
        self.rtcp.seal_rtcp(packet, len, ssrc, index);
        Ok(total)
    }
}

/// The session keys for RTP or for RTCP; labels: encryption, authentication, salt.
pub(super) fn session_cipher(
    profile: Profile,
    key: &[u8],
    salt: &[u8],
    [encryption, authentication, salting]: [Label; 3],
) -> Result<Cipher, SrtpError> {
    let mut session_key = [0u8; 32];
    let session_key = &mut session_key[..profile.key_len()];
    derive(profile, key, salt, encryption, session_key)?;
    match profile {
        Profile::AeadAes128Gcm | Profile::AeadAes256Gcm => {
            let mut session_salt = [0u8; 12];
            derive(profile, key, salt, salting, &mut session_salt)?;
            Cipher::gcm(session_key, session_salt)
        }
        Profile::Aes128CmSha1_80 => {
            let mut session_salt = [0u8; 14];
            derive(profile, key, salt, salting, &mut session_salt)?;
            let mut mac_key = [0u8; 20];
            derive(profile, key, salt, authentication, &mut mac_key)?;
            Cipher::cm(session_key, &mac_key, session_salt)
        }
    }
}
