//! Format parameters and what makes two codecs the same: profiles, packetisation, retransmission.
//!
//! RFC 6184 §8.1 (H.264), 9628 §6 (VP9), 7798 §7.1 (H.265), AV1 RTP payload §7, 4588 §8.1 (RTX), 3551 §6 (static types).

use super::types::Codec;

/// The codec of a payload type before its rtpmap is read: empty name for dynamic ones.
pub(super) fn static_codec(pt: u8) -> Codec {
    let (name, clock_rate) = match pt {
        0 => ("PCMU", 8000),
        8 => ("PCMA", 8000),
        9 => ("G722", 8000),
        13 => ("CN", 8000),
        _ => ("", 0),
    };
    Codec { pt, name: name.into(), clock_rate, channels: 1, fmtp: String::new(), feedback: Vec::new() }
}

/// The value of a parameter in `a=1;b=2`; names are compared without case (RFC 6838 §4.3).
pub(super) fn parameter<'a>(fmtp: &'a str, name: &str) -> Option<&'a str> {
    fmtp.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// What we forward, told apart as far as a decoder would care. Two codecs are the same if these are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Opus,
    Red,
    Pcmu,
    Pcma,
    Vp8,
    /// By profile-id.
    Vp9(u8),
    H264(H264Profile),
    /// By profile-id: 1 main, 2 main 10.
    H265(u8),
    /// By profile.
    Av1(u8),
}

/// H.264 profiles of RFC 6184 table 5, as decoders know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum H264Profile {
    ConstrainedBaseline,
    Baseline,
    Main,
    ConstrainedHigh,
    High,
}

/// The format of a codec; `None`: not one we forward. `kind` is `audio` or `video`.
pub(super) fn format(kind: &str, name: &str, clock_rate: u32, fmtp: &str) -> Option<Format> {
    let number = |name: &str, default: u8| parameter(fmtp, name).map_or(Some(default), |value| value.parse().ok());
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    match (kind, clock_rate) {
        ("audio", 48_000) if is("opus") => Some(Format::Opus),
        ("audio", 48_000) if is("red") => Some(Format::Red),
        ("audio", 8_000) if is("PCMU") => Some(Format::Pcmu),
        ("audio", 8_000) if is("PCMA") => Some(Format::Pcma),
        ("video", 90_000) if is("VP8") => Some(Format::Vp8),
        // Profiles 1 and 3 (4:2:2, 4:4:4) are not sent by any browser.
        ("video", 90_000) if is("VP9") => number("profile-id", 0).filter(|id| [0, 2].contains(id)).map(Format::Vp9),
        // Only non-interleaved mode: single-NAL mode cannot carry a frame of more than one packet. An absent profile is
        // taken for constrained baseline, as browsers do, and not for the baseline of RFC 6184 that nobody sends.
        ("video", 90_000) if is("H264") => (parameter(fmtp, "packetization-mode") == Some("1"))
            .then(|| parameter(fmtp, "profile-level-id").map_or(Some(H264Profile::ConstrainedBaseline), h264_profile))
            .flatten()
            .map(Format::H264),
        ("video", 90_000) if is("H265") => number("profile-id", 1).filter(|id| [1, 2].contains(id)).map(Format::H265),
        ("video", 90_000) if is("AV1") => number("profile", 0).filter(|id| *id == 0).map(Format::Av1),
        _ => None,
    }
}

/// profile_idc and constraint flags to a profile (RFC 6184 table 5). Levels are not compared: we only forward.
fn h264_profile(id: &str) -> Option<H264Profile> {
    if id.len() != 6 || !id.is_ascii() {
        return None;
    }
    let value = u32::from_str_radix(id, 16).ok()?;
    let (profile_idc, flags) = ((value >> 16) as u8, (value >> 8) as u8);
    let set = |mask: u8, expected: u8| flags & mask == expected;
    match profile_idc {
        // x1xx0000, then x0xx0000.
        0x42 if set(0x4f, 0x40) => Some(H264Profile::ConstrainedBaseline),
        0x42 if set(0x4f, 0x00) => Some(H264Profile::Baseline),
        // 1xxx0000, then 0x0x0000.
        0x4d if set(0x8f, 0x80) => Some(H264Profile::ConstrainedBaseline),
        0x4d if set(0xaf, 0x00) => Some(H264Profile::Main),
        // 11xx0000, then 10xx0000.
        0x58 if set(0xcf, 0xc0) => Some(H264Profile::ConstrainedBaseline),
        0x58 if set(0xcf, 0x80) => Some(H264Profile::Baseline),
        0x64 if flags == 0x00 => Some(H264Profile::High),
        0x64 if flags == 0x0c => Some(H264Profile::ConstrainedHigh),
        _ => None,
    }
}

impl H264Profile {
    /// Whether a decoder of `self` decodes a stream of `stream` (RFC 6184 §8.1, sub-profiles).
    fn decodes(self, stream: Self) -> bool {
        use H264Profile::*;
        self == stream
            || match self {
                ConstrainedBaseline => false,
                Baseline | Main | ConstrainedHigh => stream == ConstrainedBaseline,
                High => matches!(stream, ConstrainedBaseline | Main | ConstrainedHigh),
            }
    }
}

impl Format {
    /// Whether a receiver that negotiated `self` can take a stream that is `stream`.
    pub(super) fn takes(self, stream: Self) -> bool {
        match (self, stream) {
            (Self::H264(receiver), Self::H264(stream)) => receiver.decodes(stream),
            _ => self == stream,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h264_profile_level_ids_name_the_profiles_of_rfc_6184() {
        let table = [
            ("42e01f", Some(H264Profile::ConstrainedBaseline)),
            ("42001f", Some(H264Profile::Baseline)),
            ("42C02A", Some(H264Profile::ConstrainedBaseline)),
            ("4d801f", Some(H264Profile::ConstrainedBaseline)),
            ("4d001f", Some(H264Profile::Main)),
            ("58f01f", Some(H264Profile::ConstrainedBaseline)),
            ("58a01f", Some(H264Profile::Baseline)),
            ("64001f", Some(H264Profile::High)),
            ("640c34", Some(H264Profile::ConstrainedHigh)),
            ("f4001f", None),
            ("42e0", None),
            ("zzzzzz", None),
            ("+42e01", None),
        ];
        for (id, profile) in table {
            assert_eq!(h264_profile(id), profile, "{id}");
        }
    }

    #[test]
    fn a_format_is_told_apart_by_its_profile_only() {
        let of = |kind: &str, name: &str, rate, fmtp: &str| format(kind, name, rate, fmtp);
        assert_eq!(of("video", "vp9", 90_000, ""), Some(Format::Vp9(0)));
        assert_eq!(of("video", "VP9", 90_000, "profile-id=2"), Some(Format::Vp9(2)));
        assert_eq!(of("video", "VP9", 90_000, "profile-id=1"), None);
        assert_eq!(of("video", "AV1", 90_000, "level-idx=5;profile=0;tier=0"), Some(Format::Av1(0)));
        assert_eq!(of("video", "AV1", 90_000, "level-idx=5;profile=1;tier=0"), None);
        assert_eq!(of("video", "H264", 90_000, "packetization-mode=0;profile-level-id=42e01f"), None);
        assert_eq!(of("video", "H265", 90_000, "level-id=93; profile-id=1"), Some(Format::H265(1)));
        assert_eq!(of("audio", "VP8", 90_000, ""), None);
        assert_eq!(of("audio", "opus", 16_000, ""), None);
    }

    #[test]
    fn a_high_profile_decoder_takes_its_sub_profiles_and_not_the_other_way() {
        let high = Format::H264(H264Profile::High);
        let main = Format::H264(H264Profile::Main);
        let constrained = Format::H264(H264Profile::ConstrainedBaseline);
        assert!(high.takes(main) && high.takes(constrained) && main.takes(constrained));
        assert!(!main.takes(high) && !constrained.takes(Format::H264(H264Profile::Baseline)));
        assert!(!Format::Vp8.takes(Format::Vp9(0)));
    }
}
