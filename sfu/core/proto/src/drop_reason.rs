//! Why a datagram, or a part of it, was thrown away. The same value labels the metric and the trace.
//!
//! Bytes from the network never panic and never raise: they end here.

use std::fmt;

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident => $label:literal,)*) => {
        /// One reason per way of being refused; [`DropReason::as_str`] is the metric's label and is stable.
        #[non_exhaustive]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DropReason {
            $($(#[$doc])* $name,)*
        }

        impl DropReason {
            /// Every reason, in the order of declaration: `ALL[r as usize] == r`, so counters may be an array.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)*];

            /// Label of the metric: lower case, stable across releases.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(DropReason::$name => $label,)*
                }
            }
        }
    };
}

drop_reasons! {
    /// A datagram of no bytes.
    Empty => "empty",
    /// First byte belongs to no protocol we speak (RFC 7983 §7).
    UnknownProtocol => "unknown_protocol",
    /// ZRTP (16..=19 in RFC 7983 §7): recognised, not spoken.
    Zrtp => "zrtp",
    /// TURN channel data (64..=79): we are no TURN server.
    TurnChannel => "turn_channel",
    /// QUIC long or short header range of RFC 9443.
    Quic => "quic",
    /// Not from a 5-tuple that passed an authenticated ICE check.
    UnvalidatedPath => "unvalidated_path",
    /// Part of a DTLS handshake that is waiting to be read already.
    DtlsRepeated => "dtls_repeated",
    /// More datagrams of one DTLS handshake than may wait.
    DtlsTooMany => "dtls_too_many",
    /// STUN that is not a well-formed message.
    StunMalformed => "stun_malformed",
    /// STUN of a class or method that an ICE-lite agent has no use for.
    StunUnexpected => "stun_unexpected",
    /// STUN without FINGERPRINT, or with a wrong one.
    StunFingerprint => "stun_fingerprint",
    /// Binding request without MESSAGE-INTEGRITY.
    StunNoIntegrity => "stun_no_integrity",
    /// MESSAGE-INTEGRITY does not verify.
    StunBadIntegrity => "stun_bad_integrity",
    /// USERNAME missing, or not `local:remote` of this transport.
    StunUsername => "stun_username",
    /// Binding request without PRIORITY, or with neither or both role attributes (RFC 8445 §7.1).
    StunIncomplete => "stun_incomplete",
    /// A comprehension-required attribute we do not know (answered with 420).
    StunUnknownAttribute => "stun_unknown_attribute",
    /// The peer claims the controlled role, which is ours (answered with 487).
    IceRoleConflict => "ice_role_conflict",
    /// A transaction id that was used from another path.
    IceReplay => "ice_replay",
    /// One 5-tuple more than the bound on validated paths.
    IceTooManyPaths => "ice_too_many_paths",
    /// A frame longer than the bound, or of length zero (RFC 4571).
    FramingLength => "framing_length",
    /// RTP shorter than its own header says.
    RtpTruncated => "rtp_truncated",
    /// RTP version is not 2.
    RtpVersion => "rtp_version",
    /// RTP padding count of zero or longer than the payload.
    RtpPadding => "rtp_padding",
    /// RTP longer than any path carries unfragmented: it would be kept, and sent to everybody, at that length.
    RtpTooLong => "rtp_too_long",
    /// RTX without an original sequence number (RFC 4588 §4).
    RtxTooShort => "rtx_too_short",
    /// SRTP or SRTCP too short for its tag.
    SrtpTooShort => "srtp_too_short",
    /// SRTP or SRTCP authentication failed.
    SrtpAuth => "srtp_auth",
    /// SRTP index already received.
    SrtpReplay => "srtp_replay",
    /// SRTP index older than the replay window.
    SrtpTooOld => "srtp_too_old",
    /// A new SSRC beyond the bound on tracked ones.
    SrtpTooManySsrcs => "srtp_too_many_ssrcs",
    /// SRTCP sent in clear (E = 0) although the profile encrypts.
    SrtcpNotEncrypted => "srtcp_not_encrypted",
    /// RTCP longer than one datagram of ordinary MTU.
    RtcpTooLong => "rtcp_too_long",
    /// RTCP packet with a wrong version.
    RtcpVersion => "rtcp_version",
    /// RTCP length field beyond the datagram, or a body shorter than its type needs.
    RtcpTruncated => "rtcp_truncated",
    /// RTCP padding count invalid.
    RtcpPadding => "rtcp_padding",
    /// A stream that no section claims, or one beyond the bound on tracked streams.
    UnclaimedStream => "unclaimed_stream",
    /// A payload type that the section did not negotiate.
    UnknownPayloadType => "unknown_payload_type",
    /// A payload that breaks its format.
    PayloadMalformed => "payload_malformed",
    /// A media packet that came before, or so late that it was given up.
    Duplicate => "duplicate",
    /// Transport-wide feedback with a reserved symbol, or more statuses than the bound.
    TwccMalformed => "twcc_malformed",
    /// Data-channel packets beyond what one client may send; not acknowledged, so that what is reliable comes again.
    DataOverRate => "data_over_rate",
    /// Data-channel packets that no sound stack sends: data that is none, or of streams that were never offered.
    DataMalformed => "data_malformed",
    /// A data-channel packet with pieces of messages beyond what one association keeps: it has ended.
    DataTooMuch => "data_too_much",
    /// A data-channel packet that ended its association, such as a piece of a message over the limit.
    DataFatal => "data_fatal",
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn labels_are_unique_and_indexable() {
        let labels: HashSet<_> = DropReason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(labels.len(), DropReason::ALL.len());
        for (i, r) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*r as usize, i);
            assert!(r.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit()));
        }
    }
}
