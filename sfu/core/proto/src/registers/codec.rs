//! What an SFU must know of a payload: where pictures begin, which are key frames, which layer a packet belongs to.
//!
//! Reads descriptors only, never pictures. RFC 7741 (VP8), 9628 (VP9), 6184 (H.264), 7798 (H.265), AV1 RTP.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    Vp8,
    Vp9,
    H264,
    H265,
    Av1,
    /// Every packet stands alone.
    Audio,
}

impl Codec {
    pub fn from_mime(mime: &str) -> Self {
        match mime.to_ascii_lowercase().as_str() {
            "video/vp8" => Self::Vp8,
            "video/vp9" => Self::Vp9,
            "video/h264" => Self::H264,
            "video/h265" | "video/hevc" => Self::H265,
            "video/av1" => Self::Av1,
            _ => Self::Audio,
        }
    }
}

/// VP8's counters, which must run on for a subscriber whatever is dropped or switched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vp8Counters {
    /// Offset of the picture id in the payload, and whether it has 15 bits.
    pub picture_id: Option<(usize, bool, u16)>,
    pub tl0: Option<(usize, u8)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketMeta {
    /// Belongs to the start of a picture that needs no other.
    pub is_keyframe: bool,
    pub starts_frame: bool,
    pub spatial: u8,
    pub temporal: u8,
    pub vp8: Option<Vp8Counters>,
}

pub fn read(codec: Codec, payload: &[u8]) -> PacketMeta {
    match codec {
        Codec::Vp8 => vp8(payload).unwrap_or_default(),
        Codec::Vp9 => vp9(payload).unwrap_or_default(),
        Codec::H264 => PacketMeta { is_keyframe: h264(payload), ..PacketMeta::default() },
        Codec::H265 => PacketMeta { is_keyframe: h265(payload), ..PacketMeta::default() },
        // N: first packet of a coded video sequence (AV1 RTP §4.4).
        Codec::Av1 => {
            PacketMeta { is_keyframe: payload.first().is_some_and(|b| b & 0x08 != 0), ..PacketMeta::default() }
        }
        Codec::Audio => PacketMeta { is_keyframe: true, starts_frame: true, ..PacketMeta::default() },
    }
}

fn vp8(payload: &[u8]) -> Option<PacketMeta> {
    let first = *payload.first()?;
    let mut at = 1;
    let mut meta = PacketMeta { starts_frame: first & 0x10 != 0 && first & 0x07 == 0, ..PacketMeta::default() };
    let mut counters = Vp8Counters::default();
    if first & 0x80 != 0 {
        let extension = *payload.get(at)?;
        at += 1;
        if extension & 0x80 != 0 {
            let byte = *payload.get(at)?;
            if byte & 0x80 != 0 {
                let low = *payload.get(at + 1)?;
                counters.picture_id = Some((at, true, u16::from_be_bytes([byte & 0x7f, low])));
                at += 2;
            } else {
                counters.picture_id = Some((at, false, u16::from(byte)));
                at += 1;
            }
        }
        if extension & 0x40 != 0 {
            counters.tl0 = Some((at, *payload.get(at)?));
            at += 1;
        }
        if extension & 0x30 != 0 {
            meta.temporal = *payload.get(at)? >> 6;
            at += 1;
        }
    }
    meta.is_keyframe = meta.starts_frame && payload.get(at)? & 1 == 0;
    meta.vp8 = Some(counters);
    Some(meta)
}

fn vp9(payload: &[u8]) -> Option<PacketMeta> {
    let first = *payload.first()?;
    let mut at = 1;
    if first & 0x80 != 0 {
        at += if payload.get(at)? & 0x80 != 0 { 2 } else { 1 };
    }
    let mut meta = PacketMeta { starts_frame: first & 0x08 != 0, ..PacketMeta::default() };
    if first & 0x20 != 0 {
        let layer = *payload.get(at)?;
        meta.temporal = layer >> 5;
        meta.spatial = layer >> 1 & 7;
    }
    meta.is_keyframe = first & 0x40 == 0 && meta.starts_frame && meta.spatial == 0;
    Some(meta)
}

fn h264(payload: &[u8]) -> bool {
    const IDR: u8 = 5;
    const SPS: u8 = 7;
    let is_key = |nal: u8| matches!(nal & 0x1f, IDR | SPS);
    match payload.first().map(|b| b & 0x1f) {
        // STAP-A: aggregated units, each with its 16-bit size.
        Some(24) => {
            let mut rest = &payload[1..];
            while rest.len() > 2 {
                if is_key(rest[2]) {
                    return true;
                }
                let size = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
                rest = rest.get(2 + size..).unwrap_or_default();
            }
            false
        }
        // FU-A: only the first fragment counts.
        Some(28) => payload.get(1).is_some_and(|fu| fu & 0x80 != 0 && is_key(*fu)),
        Some(nal) => is_key(nal),
        None => false,
    }
}

fn h265(payload: &[u8]) -> bool {
    let is_key = |nal: u8| matches!(nal, 16..=21 | 32..=34);
    match payload.first().map(|b| b >> 1 & 0x3f) {
        Some(48) => payload.get(4).is_some_and(|b| is_key(b >> 1 & 0x3f)),
        Some(49) => payload.get(2).is_some_and(|fu| fu & 0x80 != 0 && is_key(fu & 0x3f)),
        Some(nal) => is_key(nal),
        None => false,
    }
}
