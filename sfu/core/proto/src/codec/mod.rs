//! What a payload says about its frame: layer, key frame, borders, picture ids. Reads descriptors, never pictures.
//!
//! One parser per codec, all giving the same [`PacketMeta`]. Bounded, no allocation, no panic on any bytes: a payload that
//! cannot be read gives `None` and is dropped by the caller. End-to-end encrypted payloads keep their descriptors where
//! the format allows (VP8, VP9), or carry a dependency descriptor ([`dd`]) beside them.

pub mod av1;
pub mod dd;
pub mod h264;
pub mod h265;
pub mod red;
pub mod vp8;
pub mod vp9;

use crate::ids::{Spatial, Temporal};

/// A payload format we can forward with knowledge of its frames, or `Other`: forwarded as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    Opus,
    Red,
    Pcmu,
    Pcma,
    Vp8,
    Vp9,
    H264,
    H265,
    Av1,
    Other,
}

impl Codec {
    /// From `video/VP8`, `audio/opus` …, compared without case; the type may be left out.
    pub fn from_mime(mime: &str) -> Self {
        let name = mime.rsplit('/').next().unwrap_or(mime);
        const NAMES: [(&str, Codec); 9] = [
            ("opus", Codec::Opus),
            ("red", Codec::Red),
            ("pcmu", Codec::Pcmu),
            ("pcma", Codec::Pcma),
            ("vp8", Codec::Vp8),
            ("vp9", Codec::Vp9),
            ("h264", Codec::H264),
            ("h265", Codec::H265),
            ("av1", Codec::Av1),
        ];
        NAMES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map_or(Codec::Other, |(_, codec)| *codec)
    }

    pub fn is_video(self) -> bool {
        matches!(self, Codec::Vp8 | Codec::Vp9 | Codec::H264 | Codec::H265 | Codec::Av1)
    }

    /// Reads the payload's descriptor; `marker` is the RTP header's. `None`: the payload breaks its format.
    #[inline]
    pub fn parse(self, payload: &[u8], marker: bool) -> Option<PacketMeta> {
        match self {
            Codec::Vp8 => vp8::parse(payload, marker),
            Codec::Vp9 => vp9::parse(payload, marker),
            Codec::H264 => h264::parse(payload, marker),
            Codec::H265 => h265::parse(payload, marker),
            Codec::Av1 => av1::parse(payload, marker),
            // Those who take it get it as it is, readable or not.
            Codec::Red | Codec::Opus | Codec::Pcmu | Codec::Pcma | Codec::Other => Some(PacketMeta::sound()),
        }
    }
}

/// What one packet is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketMeta {
    /// Layer within this stream (SVC); 0 where the stream has one size.
    pub spatial: Spatial,
    pub temporal: Temporal,
    /// Part of a picture that can be decoded from nothing.
    pub keyframe: bool,
    /// First packet of a frame (of a layer's frame, in SVC).
    pub start_of_frame: bool,
    /// Last packet of a frame (of a layer's frame, in SVC).
    pub end_of_frame: bool,
    /// From this frame on, its temporal layer can be decoded by one who had the lower ones only.
    pub temporal_sync: bool,
    /// Pictures after this one refer to none before it of a higher temporal layer than its own (VP9's U, RFC 9628
    /// §4.2). By libwebrtc's understanding it refers itself to lower layers alone.
    pub switches_up: bool,
    /// In SVC: this layer's frame refers to no earlier picture, so one may climb to its layer here.
    pub spatial_sync: bool,
    /// The picture id and where it stands in the payload.
    pub picture_id: Option<PictureId>,
    /// It names what it refers to by how many picture ids that is back, so that those must keep their distances (VP9's
    /// flexible mode, RFC 9628 §4.2).
    pub refers_by_picture_id: bool,
    /// TL0PICIDX and its offset in the payload.
    pub tl0: Option<(u8, u8)>,
}

impl PacketMeta {
    /// The first packet of a key frame.
    #[inline]
    pub fn begins_key_frame(&self) -> bool {
        self.keyframe && self.start_of_frame
    }

    /// As the dependency descriptor beside the payload says, which knows the layer of every packet. `parsed`: what the payload
    /// says, if it can be read at all.
    pub fn described(parsed: Option<Self>, by: &dd::Descriptor) -> Self {
        Self {
            spatial: Spatial(by.spatial),
            temporal: Temporal(by.temporal),
            keyframe: by.structure.is_some() || parsed.is_some_and(|meta| meta.keyframe),
            start_of_frame: by.start_of_frame,
            end_of_frame: by.end_of_frame,
            temporal_sync: parsed.is_some_and(|meta| meta.temporal_sync),
            switches_up: parsed.is_some_and(|meta| meta.switches_up),
            spatial_sync: parsed.is_some_and(|meta| meta.spatial_sync),
            picture_id: parsed.and_then(|meta| meta.picture_id),
            refers_by_picture_id: parsed.is_some_and(|meta| meta.refers_by_picture_id),
            tl0: parsed.and_then(|meta| meta.tl0),
        }
    }
}

/// A picture id inside a payload descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureId {
    pub value: u16,
    /// 7 or 15.
    pub bits: u8,
    /// Bytes from the payload's beginning.
    pub offset: u8,
}

impl PictureId {
    pub fn mask(self) -> u16 {
        if self.bits == 15 { 0x7fff } else { 0x7f }
    }

    /// Writes `value` in this one's place and width; payloads too short are left alone.
    pub fn write(self, payload: &mut [u8], value: u16) {
        let at = usize::from(self.offset);
        if self.bits == 15 {
            if let Some(place) = payload.get_mut(at..at + 2) {
                place.copy_from_slice(&(value & 0x7fff | 0x8000).to_be_bytes());
            }
        } else if let Some(place) = payload.get_mut(at) {
            *place = (value & 0x7f) as u8;
        }
    }

    /// Reads a 7- or 15-bit id with its extension bit at `offset`.
    fn read(payload: &[u8], offset: usize) -> Option<Self> {
        let first = *payload.get(offset)?;
        let offset = u8::try_from(offset).ok()?;
        if first & 0x80 == 0 {
            return Some(Self { value: u16::from(first), bits: 7, offset });
        }
        let second = *payload.get(usize::from(offset) + 1)?;
        Some(Self { value: u16::from_be_bytes([first & 0x7f, second]), bits: 15, offset })
    }
}

impl PacketMeta {
    /// Sound and anything else without frames to choose from: every packet stands for itself.
    pub fn sound() -> Self {
        Self {
            spatial: Spatial(0),
            temporal: Temporal(0),
            keyframe: true,
            start_of_frame: true,
            end_of_frame: true,
            temporal_sync: true,
            switches_up: false,
            spatial_sync: true,
            picture_id: None,
            refers_by_picture_id: false,
            tl0: None,
        }
    }

    /// A packet of a stream with one layer.
    fn single(keyframe: bool, start_of_frame: bool, end_of_frame: bool) -> Self {
        Self {
            keyframe,
            start_of_frame,
            end_of_frame,
            spatial_sync: keyframe,
            temporal_sync: keyframe,
            ..Self::sound()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_read_without_case_or_type() {
        for (mime, codec) in [
            ("video/VP8", Codec::Vp8),
            ("VP9", Codec::Vp9),
            ("video/h264", Codec::H264),
            ("video/AV1", Codec::Av1),
            ("audio/opus", Codec::Opus),
            ("audio/red", Codec::Red),
            ("application/x", Codec::Other),
            ("", Codec::Other),
        ] {
            assert_eq!(Codec::from_mime(mime), codec, "{mime}");
        }
    }

    proptest! {
        /// S-27
        #[test]
        fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), marker: bool) {
            for codec in [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::H265, Codec::Av1, Codec::Opus] {
                if let Some(meta) = codec.parse(&bytes, marker) {
                    let mut copy = bytes.clone();
                    if let Some(id) = meta.picture_id {
                        id.write(&mut copy, 0x1234);
                        let again = codec.parse(&copy, marker).and_then(|meta| meta.picture_id).map(|id| id.value);
                        prop_assert_eq!(again, Some(0x1234 & id.mask()));
                    }
                }
            }
        }
    }
}
