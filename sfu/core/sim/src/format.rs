//! What encoders make: sizes, rates, temporal patterns, and how one marks a packet so that the far end knows what it got.

use callyard_proto::command::Content;

use crate::link::IP_UDP_BYTES;
use crate::scenario::Video;

/// One spatial layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    pub width: u32,
    pub height: u32,
    /// Of the encoder: payloads alone.
    pub bps: f64,
}

#[derive(Clone, Copy, Debug)]
pub struct Format {
    pub content: Content,
    pub fps: f64,
    pub layers: &'static [Shape],
    pub temporal: &'static Temporal,
    pub codec: Codec,
    /// All layers in one stream; in VP9 an upper one refers to the one below in key pictures only (`L3T3_KEY`).
    pub is_svc: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    #[default]
    Vp8,
    Vp9,
    /// With a dependency descriptor beside each packet.
    Av1,
}

/// How frames follow each other in time.
#[derive(Debug)]
pub struct Temporal {
    /// Temporal layer of each frame of a cycle, and whether it refers to the base layer alone.
    pub cycle: &'static [(u8, bool)],
    /// Share of the rate of all layers up to each (libwebrtc's allocation).
    pub rates: &'static [f64],
}

const SINGLE: Temporal = Temporal { cycle: &[(0, true)], rates: &[1.0] };
/// 0 2 1 2: a quarter, half and all of the frames.
const THREE: Temporal = Temporal { cycle: &[(0, true), (2, true), (1, true), (2, false)], rates: &[0.4, 0.6, 1.0] };

const CAMERA: [Shape; 3] = [
    Shape { width: 320, height: 180, bps: 165_000.0 },
    Shape { width: 640, height: 360, bps: 530_000.0 },
    Shape { width: 1_280, height: 720, bps: 1_800_000.0 },
];
const SCREEN: [Shape; 1] = [Shape { width: 1_920, height: 1_080, bps: 800_000.0 }];

pub const fn of(video: Video) -> Format {
    match video {
        Video::Camera => camera(Codec::Vp8, false),
        Video::CameraSvc => camera(Codec::Vp9, true),
        Video::CameraAv1 => camera(Codec::Av1, false),
        Video::CameraAv1Svc => camera(Codec::Av1, true),
        Video::Screen => Format {
            content: Content::Screen,
            fps: 5.0,
            layers: &SCREEN,
            temporal: &SINGLE,
            codec: Codec::Vp8,
            is_svc: false,
        },
    }
}

const fn camera(codec: Codec, is_svc: bool) -> Format {
    Format { content: Content::Camera, fps: 30.0, layers: &CAMERA, temporal: &THREE, codec, is_svc }
}

/// Largest payload of a packet.
pub const MTU: usize = 1_100;
/// RTP header, extensions and authentication tag of a typical packet.
const RTP_BYTES: f64 = 12.0 + 16.0 + 16.0;
/// A camera's mean packet is smaller than the largest one: frames are cut into equal parts.
const FILL: f64 = 0.8;
/// Opus at 71 kbit/s on the wire, 50 packets a second.
pub const AUDIO_WIRE_BPS: f64 = 71_000.0;
pub const AUDIO_PAYLOAD: usize = 177 - IP_UDP_BYTES - 12 - 8 - 16;

impl Format {
    /// Bits a second on the wire of one spatial layer with its temporal layers up to `temporal`.
    pub fn wire_bps(&self, spatial: usize, temporal: usize) -> f64 {
        let payload = self.layers[spatial].bps * self.temporal.rates[temporal];
        let per_frame = payload / self.fps_of(temporal) / 8.0;
        let packets = (per_frame / (MTU as f64 * FILL)).max(1.0);
        payload + packets * self.fps_of(temporal) * (RTP_BYTES + IP_UDP_BYTES as f64) * 8.0
    }

    /// Bits a second that an encoder spends on one layer: without those below it, where they are of one stream.
    pub fn own_bps(&self, spatial: usize) -> f64 {
        let below = spatial.checked_sub(1).filter(|_| self.is_svc).map_or(0.0, |below| self.layers[below].bps);
        self.layers[spatial].bps - below
    }

    pub fn fps_of(&self, temporal: usize) -> f64 {
        let frames = self.temporal.cycle.iter().filter(|(t, _)| usize::from(*t) <= temporal).count();
        self.fps * frames as f64 / self.temporal.cycle.len() as f64
    }

    /// The smallest layer that covers a tile; the largest where none does or the tile is not known.
    pub fn layer_for(&self, tile: Option<(u32, u32)>) -> usize {
        let top = self.layers.len() - 1;
        let Some((width, height)) = tile else { return top };
        self.layers.iter().position(|l| l.width >= width && l.height >= height).unwrap_or(top)
    }

    /// Doublings over 160 × 90 pixels, as `allocation.md` counts them.
    pub fn worth(&self, spatial: usize) -> f64 {
        let shape = &self.layers[spatial];
        (f64::from(shape.width * shape.height) / 14_400.0).log2()
    }
}

/// What a video packet is, written into its payload behind the codec's own bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub spatial: u8,
    pub temporal: u8,
    pub frame: u32,
}

impl Mark {
    pub const LEN: usize = 6;

    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.spatial, self.temporal]);
        out.extend_from_slice(&self.frame.to_be_bytes());
    }

    pub fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::LEN] = bytes.first_chunk()?;
        let [spatial, temporal, frame @ ..] = *bytes;
        Some(Self { spatial, temporal, frame: u32::from_be_bytes(frame) })
    }
}

/// What a packet's payload descriptor says, in VP8 (RFC 7741 §4.2, with a 15-bit picture id) or VP9 (RFC 9628 §4.2). In AV1,
/// whose payload tells none of it, it stands behind what does not change on the way: an aggregation header and the
/// header of the first OBU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// First packet of a layer's frame.
    pub starts: bool,
    /// Last packet of a layer's frame; VP8 does not tell.
    pub ends: bool,
    pub picture_id: u16,
    pub tl0: u8,
    pub temporal: u8,
    /// Layer within the stream.
    pub spatial: u8,
    /// The frame refers to the base layer alone.
    pub is_sync: bool,
    /// VP8 tells it where the frame starts, VP9 in every packet.
    pub is_key: bool,
}

const VP8_DESCRIPTOR: usize = 6;
const VP8_FRAME_TAG: usize = 10;
const VP9_DESCRIPTOR: usize = 5;
const AV1_DESCRIPTOR: usize = 8;
const SEQUENCE_HEADER: u8 = 1;
const FRAME: u8 = 6;

impl Head {
    /// `layers`: sizes of the stream's layers, lowest first.
    pub fn write(&self, codec: Codec, layers: &[Shape], out: &mut Vec<u8>) {
        let [high, low] = (self.picture_id | 0x8000).to_be_bytes();
        let flag = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        if codec == Codec::Av1 {
            let begins = self.is_key && self.starts && self.spatial == 0;
            let aggregation = flag(!self.starts, 0x80) | flag(!self.ends, 0x40) | 0x10 | flag(begins, 0x08);
            let obu = if begins { SEQUENCE_HEADER } else { FRAME };
            let flags = flag(self.starts, 8) | flag(self.ends, 4) | flag(self.is_sync, 2) | u8::from(self.is_key);
            let layer = self.temporal << 5 | self.spatial << 3;
            out.extend_from_slice(&[aggregation, obu << 3 | 4, layer, flags, high, low, self.tl0, 0]);
            return;
        }
        if codec == Codec::Vp9 {
            let has_sizes = self.is_key && self.starts && self.spatial == 0;
            let flags = flag(!self.is_key, 0x40) | flag(self.starts, 0x08) | flag(self.ends, 0x04);
            let refers_below = self.is_key && self.spatial > 0;
            let layer = self.temporal << 5 | flag(self.is_sync, 0x10) | self.spatial << 1 | u8::from(refers_below);
            out.extend_from_slice(&[0xa0 | flags | flag(has_sizes, 0x02), high, low, layer, self.tl0]);
            if has_sizes {
                out.push((layers.len() as u8 - 1) << 5 | 0x10);
                for size in layers.iter().flat_map(|shape| [shape.width, shape.height]) {
                    out.extend_from_slice(&(size as u16).to_be_bytes());
                }
            }
            return;
        }
        let layer = self.temporal << 6 | flag(self.is_sync, 0x20);
        out.extend_from_slice(&[0x80 | flag(self.starts, 0x10), 0xe0, high, low, self.tl0, layer]);
        if self.starts {
            // The frame tag (RFC 6386 §9.1): not a key frame, start code, width and height.
            let ([w0, w1], [h0, h1]) =
                ((layers[0].width as u16).to_le_bytes(), (layers[0].height as u16).to_le_bytes());
            out.extend_from_slice(&[u8::from(!self.is_key), 0, 0, 0x9d, 0x01, 0x2a, w0, w1, h0, h1]);
        }
    }

    /// The descriptor and the mark behind it.
    pub fn read(codec: Codec, payload: &[u8]) -> Option<(Self, Mark)> {
        if codec == Codec::Av1 {
            let &[_, _, layer, flags, high, low, tl0, _] = payload.first_chunk::<AV1_DESCRIPTOR>()?;
            let head = Self {
                starts: flags & 8 != 0,
                ends: flags & 4 != 0,
                picture_id: u16::from_be_bytes([high & 0x7f, low]),
                tl0,
                temporal: layer >> 5,
                spatial: layer >> 3 & 3,
                is_sync: flags & 2 != 0,
                is_key: flags & 1 != 0,
            };
            return Some((head, Mark::read(payload.get(AV1_DESCRIPTOR..)?)?));
        }
        if codec == Codec::Vp9 {
            let &[first, high, low, layer, tl0] = payload.first_chunk::<VP9_DESCRIPTOR>()?;
            let mut at = VP9_DESCRIPTOR;
            if first & 0x02 != 0 {
                at += 1 + 4 * (usize::from(payload.get(at)? >> 5) + 1);
            }
            let head = Self {
                starts: first & 0x08 != 0,
                ends: first & 0x04 != 0,
                picture_id: u16::from_be_bytes([high & 0x7f, low]),
                tl0,
                temporal: layer >> 5,
                spatial: layer >> 1 & 7,
                is_sync: layer & 0x10 != 0,
                is_key: first & 0x40 == 0,
            };
            return Some((head, Mark::read(payload.get(at..)?)?));
        }
        let &[first, 0xe0, high, low, tl0, layer] = payload.first_chunk::<VP8_DESCRIPTOR>()? else { return None };
        let starts = first & 0x10 != 0;
        let mark = payload.get(if starts { VP8_DESCRIPTOR + VP8_FRAME_TAG } else { VP8_DESCRIPTOR }..)?;
        let head = Self {
            starts,
            ends: false,
            picture_id: u16::from_be_bytes([high & 0x7f, low]),
            tl0,
            temporal: layer >> 6,
            spatial: 0,
            is_sync: layer & 0x20 != 0,
            is_key: starts && payload.get(VP8_DESCRIPTOR)? & 1 == 0,
        };
        Some((head, Mark::read(mark)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_says_what_it_is() {
        let all = [Codec::Vp8, Codec::Vp9, Codec::Av1].map(|codec| [(codec, true), (codec, false)]);
        for (codec, starts) in all.into_iter().flatten() {
            let tells_more = codec != Codec::Vp8;
            let spatial = if tells_more && !starts { 2 } else { 0 };
            let (picture_id, tl0, temporal) = (0x7abc, 9, 2);
            let head =
                Head { starts, ends: tells_more, picture_id, tl0, temporal, spatial, is_sync: true, is_key: starts };
            let mark = Mark { spatial: 2, temporal: 2, frame: 77 };
            let mut payload = Vec::new();
            head.write(codec, &CAMERA, &mut payload);
            mark.write(&mut payload);
            assert_eq!(Head::read(codec, &payload), Some((head, mark)));
        }
    }

    #[test]
    fn the_ladder_is_that_of_the_measurement() {
        let camera = of(Video::Camera);
        assert_eq!([0, 1, 2].map(|t| camera.fps_of(t)), [7.5, 15.0, 30.0]);
        assert_eq!([0, 1, 2].map(|s| camera.worth(s)), [2.0, 4.0, 6.0]);
        let wire = camera.wire_bps(2, 2);
        assert!((1.9e6..2.0e6).contains(&wire), "{wire}");
        assert_eq!(
            [None, Some((320, 180)), Some((321, 180)), Some((4_000, 1))].map(|t| camera.layer_for(t)),
            [2, 0, 1, 2]
        );
    }
}
