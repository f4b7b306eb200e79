//! Which header-extension ids one section negotiated, by meaning (RFC 8285 §5: the id is a section's own choice).

use crate::command::ExtensionSpec;

/// Ids of the extensions that are read or written here; `None`: not negotiated. Others are not forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtensionIds {
    pub mid: Option<u8>,
    pub rid: Option<u8>,
    pub repaired_rid: Option<u8>,
    pub audio_level: Option<u8>,
    pub transport_seq: Option<u8>,
    pub abs_send_time: Option<u8>,
    pub abs_capture_time: Option<u8>,
    pub dependency_descriptor: Option<u8>,
    pub video_orientation: Option<u8>,
    pub playout_delay: Option<u8>,
}

impl ExtensionIds {
    pub fn new(specs: &[ExtensionSpec]) -> Self {
        let mut ids = Self::default();
        for spec in specs {
            let place = match spec.uri.as_str() {
                "urn:ietf:params:rtp-hdrext:sdes:mid" => &mut ids.mid,
                "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id" => &mut ids.rid,
                "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id" => &mut ids.repaired_rid,
                "urn:ietf:params:rtp-hdrext:ssrc-audio-level" => &mut ids.audio_level,
                "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01" => &mut ids.transport_seq,
                "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time" => &mut ids.abs_send_time,
                "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time" => &mut ids.abs_capture_time,
                "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension" => {
                    &mut ids.dependency_descriptor
                }
                "urn:3gpp:video-orientation" => &mut ids.video_orientation,
                "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay" => &mut ids.playout_delay,
                _ => continue,
            };
            *place = Some(spec.id);
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_uris_find_their_place_and_others_none() {
        let spec = |id, uri: &str| ExtensionSpec { id, uri: uri.to_owned() };
        let ids = ExtensionIds::new(&[
            spec(4, "urn:ietf:params:rtp-hdrext:sdes:mid"),
            spec(3, "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"),
            spec(9, "urn:example:unknown"),
        ]);
        assert_eq!(ids, ExtensionIds { mid: Some(4), transport_seq: Some(3), ..ExtensionIds::default() });
    }
}
