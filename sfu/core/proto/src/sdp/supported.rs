//! The section we offer where we make the offer: every codec and header extension we can send, under fixed numbers.
//!
//! The payload types are those browsers choose themselves, so that traces read alike.

use super::agree::{EXTENSIONS_AUDIO, EXTENSIONS_BOTH, EXTENSIONS_VIDEO};
use super::types::*;

const AUDIO: [(u8, &str, u32, u8, &str); 4] = [
    (111, "opus", 48_000, 2, "minptime=10;useinbandfec=1"),
    (63, "red", 48_000, 2, "111/111"),
    (0, "PCMU", 8_000, 1, ""),
    (8, "PCMA", 8_000, 1, ""),
];

/// Payload type, RTX payload type, name, parameters.
const VIDEO: [(u8, u8, &str, &str); 11] = [
    (96, 97, "VP8", ""),
    (98, 99, "VP9", "profile-id=0"),
    (100, 101, "VP9", "profile-id=2"),
    (45, 46, "AV1", "level-idx=5;profile=0;tier=0"),
    (108, 109, "H264", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"),
    (102, 103, "H264", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42001f"),
    (123, 118, "H264", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=640c1f"),
    (114, 115, "H264", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=64001f"),
    (39, 40, "H264", "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=4d001f"),
    (49, 50, "H265", "level-id=180;profile-id=1;tier-flag=0;tx-mode=SRST"),
    (51, 52, "H265", "level-id=180;profile-id=2;tier-flag=0;tx-mode=SRST"),
];

const VIDEO_FEEDBACK: [&str; 5] = ["goog-remb", "transport-cc", "ccm fir", "nack", "nack pli"];

/// A section of `kind` (`audio` or `video`) without mid, transport or direction.
pub fn supported(kind: &str) -> Media {
    let (codecs, of_kind) = if kind == "audio" {
        (audio_codecs(), EXTENSIONS_AUDIO.as_slice())
    } else {
        (video_codecs(), EXTENSIONS_VIDEO.as_slice())
    };
    Media {
        kind: kind.to_owned(),
        port: 9,
        protocol: "UDP/TLS/RTP/SAVPF".into(),
        codecs,
        extensions: extensions(of_kind),
        ..Media::default()
    }
}

/// One number per URI over all sections, as BUNDLE wants (RFC 9143 §9.1).
fn extensions(of_kind: &[&str]) -> Vec<Extension> {
    let mut uris: Vec<&str> = Vec::new();
    for uri in EXTENSIONS_BOTH.iter().chain(&EXTENSIONS_AUDIO).chain(&EXTENSIONS_VIDEO) {
        if !uris.contains(uri) {
            uris.push(uri);
        }
    }
    let wanted = |uri: &&str| EXTENSIONS_BOTH.contains(uri) || of_kind.contains(uri);
    (1..)
        .zip(uris)
        .filter(|(_, uri)| wanted(uri))
        .map(|(id, uri)| Extension { id, uri: uri.to_owned(), direction: None, attributes: String::new() })
        .collect()
}

fn audio_codecs() -> Vec<Codec> {
    AUDIO
        .iter()
        .map(|(pt, name, clock_rate, channels, fmtp)| Codec {
            pt: *pt,
            name: (*name).to_owned(),
            clock_rate: *clock_rate,
            channels: *channels,
            fmtp: (*fmtp).to_owned(),
            feedback: if *name == "opus" { vec!["transport-cc".into(), "nack".into()] } else { Vec::new() },
        })
        .collect()
}

fn video_codecs() -> Vec<Codec> {
    VIDEO
        .iter()
        .flat_map(|(pt, rtx_pt, name, fmtp)| {
            let codec = |pt, name: &str, fmtp: String, feedback: &[&str]| Codec {
                pt,
                name: name.to_owned(),
                clock_rate: 90_000,
                channels: 1,
                fmtp,
                feedback: feedback.iter().map(|&feedback| feedback.to_owned()).collect(),
            };
            [codec(*pt, name, (*fmtp).to_owned(), &VIDEO_FEEDBACK), codec(*rtx_pt, "rtx", format!("apt={pt}"), &[])]
        })
        .collect()
}
