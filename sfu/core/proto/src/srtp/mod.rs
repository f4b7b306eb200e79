//! SRTP and SRTCP (RFC 3711, RFC 7714): key derivation, one inbound and one outbound context per transport.
//!
//! Not here: DTLS (who agrees on the keys), retransmission, any buffer. All crypto is aws-lc's.

mod cipher;
mod inbound;
mod kdf;
mod outbound;
mod replay;
#[cfg(test)]
mod tests;

pub(crate) use cipher::HmacSha1;
pub use inbound::{InboundSrtp, Unprotected};
pub use outbound::{OutboundSrtp, OutboundStream, Payload};
pub use replay::{REPLAY_WINDOW, ReplayWindow};

/// Most SSRCs one transport may bring before further ones are refused.
///
/// Default of the setting; raise it for publishers with more than ~20 simulcast tracks, costs 600 B an SSRC.
pub const DEFAULT_MAX_SSRCS: usize = 64;

/// Longest trailer any profile appends to RTP (GCM tag) or RTCP (GCM tag + index): room to leave in a buffer.
pub const MAX_TRAILER_LEN: usize = 20;

/// The protection profiles we accept, strongest and cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// RFC 7714, IANA {0x00, 0x07}.
    AeadAes128Gcm,
    /// RFC 7714, IANA {0x00, 0x08}.
    AeadAes256Gcm,
    /// RFC 3711 / 5764, IANA {0x00, 0x01}. Costs 5.5 times GCM.
    Aes128CmSha1_80,
}

impl Profile {
    /// Every profile, in order of preference.
    pub const ALL: [Profile; 3] = [Profile::AeadAes128Gcm, Profile::AeadAes256Gcm, Profile::Aes128CmSha1_80];

    /// Length of the master key, bytes.
    pub const fn key_len(self) -> usize {
        match self {
            Profile::AeadAes128Gcm | Profile::Aes128CmSha1_80 => 16,
            Profile::AeadAes256Gcm => 32,
        }
    }

    /// Length of the master salt, bytes.
    pub const fn salt_len(self) -> usize {
        match self {
            Profile::AeadAes128Gcm | Profile::AeadAes256Gcm => 12,
            Profile::Aes128CmSha1_80 => 14,
        }
    }

    /// Length of the authentication tag, bytes.
    pub const fn tag_len(self) -> usize {
        match self {
            Profile::AeadAes128Gcm | Profile::AeadAes256Gcm => 16,
            Profile::Aes128CmSha1_80 => 10,
        }
    }

    /// The number in the use_srtp extension (RFC 5764 §4.1.2, RFC 7714 §14.2).
    pub const fn id(self) -> u16 {
        match self {
            Profile::Aes128CmSha1_80 => 0x0001,
            Profile::AeadAes128Gcm => 0x0007,
            Profile::AeadAes256Gcm => 0x0008,
        }
    }

    /// Inverse of [`Profile::id`].
    pub const fn from_id(id: u16) -> Option<Profile> {
        match id {
            0x0001 => Some(Profile::Aes128CmSha1_80),
            0x0007 => Some(Profile::AeadAes128Gcm),
            0x0008 => Some(Profile::AeadAes256Gcm),
            _ => None,
        }
    }

    /// Label for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Profile::AeadAes128Gcm => "aead_aes_128_gcm",
            Profile::AeadAes256Gcm => "aead_aes_256_gcm",
            Profile::Aes128CmSha1_80 => "aes128_cm_sha1_80",
        }
    }
}

/// Why a context could not be made or a packet could not be protected. Ours alone: no peer can cause it.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SrtpError {
    #[error("the master key or salt has the wrong length for the profile")]
    KeyLength,
    #[error("the output buffer is too small for the packet and its tag")]
    BufferTooSmall,
    #[error("the packet is shorter than its own header")]
    Malformed,
    #[error("the key has protected as many packets as it may (RFC 3711 §9.2)")]
    KeyExhausted,
}
