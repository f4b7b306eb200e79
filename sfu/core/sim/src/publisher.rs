//! Modelled senders: a simulcast encoder with key frames on request and layers on demand, and a voice.
//!
//! They make RTP in clear; the client of `callyard-peer` seals and resends it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use callyard_peer::client::Outgoing;
use callyard_peer::media::{LEVEL_ID, MID_ID, RID_ID};

use crate::dependency::{DESCRIPTOR_ID, Dependencies, Described};
use crate::format::{self, AUDIO_PAYLOAD, Codec, Format, Head, MTU, Mark};
use crate::random::Random;
use crate::scenario::Video;

pub const VP8_PT: u8 = 96;
pub const VP9_PT: u8 = 98;
pub const AV1_PT: u8 = 104;
pub const OPUS_PT: u8 = 111;
pub const RIDS: [&str; 3] = ["q", "h", "f"];

/// From the capture of a picture to its first packet, and from a request to the first frame that can heed it.
const ENCODE: Duration = Duration::from_millis(12);
/// A key frame is so many mean frames large; what it costs is saved on the frames that follow.
const KEY_FRAMES: f64 = 4.0;
/// Share of a frame that may be saved to pay for a key frame.
const SAVING: f64 = 0.15;
/// libwebrtc's pacer sends this many times the target rate.
const PACING: f64 = 2.5;
/// Frames of one layer differ by so much (log-normal deviation).
const SPREAD: f64 = 0.18;

/// One camera or screen.
pub struct Encoder {
    pub format: Format,
    /// One per simulcast layer, or one for all layers.
    pub streams: Vec<Stream>,
    pub layers: Vec<Layer>,
    pub is_muted: bool,
    pub keyframes: u64,
    mid: String,
    random: Random,
    frame: u32,
    next_frame: Instant,
    /// A key frame is due on all streams from then on: libvpx makes them together.
    key_from: Option<Instant>,
    in_cycle: usize,
    out: BTreeMap<(Instant, u64), Outgoing>,
    queued: u64,
    paced_until: Instant,
}

pub struct Stream {
    pub ssrc: u32,
    seq: u16,
    offset: u32,
    picture_id: u16,
    tl0: u8,
    dependencies: Dependencies,
}

/// A spatial layer.
#[derive(Default)]
pub struct Layer {
    pub is_off: bool,
    /// Payload bytes made.
    pub bytes: u64,
    debt: f64,
}

/// One frame of one layer.
#[derive(Clone, Copy)]
struct Frame {
    layer: usize,
    temporal: u8,
    is_sync: bool,
    is_key: bool,
    /// The highest layer of its picture.
    top: usize,
}

impl Encoder {
    pub fn new(video: Video, mid: String, ssrc: u32, start: Instant, mut random: Random) -> Self {
        let format = format::of(video);
        let count = if format.is_svc { 1 } else { format.layers.len() as u32 };
        let mut streams = (0..count)
            .map(|layer| Stream {
                ssrc: ssrc + 10 * layer,
                // Near their wraps.
                seq: 65_000u16.wrapping_add(random.bits() as u16 % 1_000),
                offset: u32::MAX - 90_000 * (random.bits() % 20) as u32,
                picture_id: 0x7f00 + random.bits() as u16 % 256,
                tl0: 200 + random.bits() as u8 % 56,
                dependencies: Dependencies::new(u16::MAX - 500),
            })
            .collect::<Vec<_>>();
        if format.codec == Codec::Av1 {
            // Nobody rewrites them on the way: streams that a switch joins must agree.
            let (picture_id, tl0) = (streams[0].picture_id, streams[0].tl0);
            streams.iter_mut().for_each(|stream| (stream.picture_id, stream.tl0) = (picture_id, tl0));
        }
        Self {
            next_frame: start + Duration::from_secs_f64(random.uniform() / format.fps),
            format,
            streams,
            layers: format.layers.iter().map(|_| Layer::default()).collect(),
            is_muted: false,
            keyframes: 0,
            mid,
            random,
            frame: 0,
            key_from: Some(start),
            in_cycle: 0,
            out: BTreeMap::new(),
            queued: 0,
            paced_until: start,
        }
    }

    /// A picture loss indication has come.
    pub fn ask_key(&mut self, now: Instant) {
        self.key_from.get_or_insert(now + ENCODE);
    }

    /// What anybody needs: layers above it are switched off; a layer that comes back begins with a key frame.
    pub fn demand(&mut self, now: Instant, max_spatial: Option<u8>) {
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let is_off = max_spatial.is_none_or(|max| index > usize::from(max));
            if layer.is_off && !is_off {
                self.key_from.get_or_insert(now + ENCODE);
            }
            layer.is_off = is_off;
        }
    }

    /// RTP timestamp of a stream's picture taken at `since` the start of the call.
    pub fn timestamp(&self, stream: usize, since: Duration) -> u32 {
        self.streams[stream].offset.wrapping_add((since.as_secs_f64() * 90_000.0) as u64 as u32)
    }

    pub fn deadline(&self) -> Instant {
        self.out.first_key_value().map_or(self.next_frame, |((at, _), _)| self.next_frame.min(*at))
    }

    /// Packets that leave by `now`; `epoch` is the start of the call.
    pub fn poll(&mut self, now: Instant, epoch: Instant) -> Vec<Outgoing> {
        while self.next_frame <= now {
            let at = self.next_frame;
            self.next_frame = at + Duration::from_secs_f64(1.0 / self.format.fps);
            if !self.is_muted {
                self.encode(at, at - epoch);
            }
        }
        let mut packets = Vec::new();
        while let Some(entry) = self.out.first_entry().filter(|entry| entry.key().0 <= now) {
            packets.push(entry.remove());
        }
        packets
    }

    fn encode(&mut self, at: Instant, since: Duration) {
        let is_key = self.key_from.is_some_and(|from| from <= at) && self.layers.iter().any(|l| !l.is_off);
        if is_key {
            (self.key_from, self.in_cycle) = (None, 0);
            self.keyframes += 1;
        }
        let cycle = self.format.temporal.cycle;
        let (temporal, is_sync) = cycle[self.in_cycle % cycle.len()];
        self.in_cycle += 1;
        self.frame += 1;
        let on: Vec<usize> = (0..self.layers.len()).filter(|&layer| !self.layers[layer].is_off).collect();
        let rate = |&layer: &usize| self.format.own_bps(layer);
        let pace = on.iter().map(rate).sum::<f64>() * PACING;
        self.paced_until = self.paced_until.max(at + ENCODE);
        for stream in &mut self.streams {
            stream.picture_id = (stream.picture_id + 1) & 0x7fff;
            stream.tl0 = stream.tl0.wrapping_add(u8::from(temporal == 0));
        }
        let mut order = on.clone();
        if self.format.codec == Codec::Vp8 {
            // libwebrtc's hands over the largest of a moment's pictures first (measured).
            order.reverse();
        }
        for &layer in &order {
            let top = *on.last().filter(|_| self.format.is_svc).unwrap_or(&layer);
            let bytes = self.frame_bytes(layer, temporal, is_key);
            self.packetize(Frame { layer, temporal, is_sync, is_key, top }, bytes, since, pace);
        }
    }

    fn frame_bytes(&mut self, layer: usize, temporal: u8, is_key: bool) -> usize {
        let Format { fps, temporal: pattern, .. } = self.format;
        let mean = self.format.own_bps(layer) / fps;
        let spread = (SPREAD * self.random.normal() - SPREAD * SPREAD / 2.0).exp();
        let layer = &mut self.layers[layer];
        if is_key {
            layer.debt += (KEY_FRAMES - 1.0) * mean;
            return (KEY_FRAMES * mean * spread / 8.0) as usize;
        }
        let t = usize::from(temporal);
        let share = pattern.rates[t] - t.checked_sub(1).map_or(0.0, |below| pattern.rates[below]);
        let count = pattern.cycle.iter().filter(|(other, _)| *other == temporal).count();
        let bits = mean * pattern.cycle.len() as f64 * share / count as f64 * spread;
        let saved = (bits * SAVING).min(layer.debt);
        layer.debt -= saved;
        ((bits - saved) / 8.0) as usize
    }

    fn packetize(&mut self, frame: Frame, bytes: usize, since: Duration, pace_bps: f64) {
        let Frame { layer, temporal, is_sync, is_key, top } = frame;
        let Format { codec, is_svc, .. } = self.format;
        let index = if is_svc { 0 } else { layer };
        let timestamp = self.timestamp(index, since);
        let stream = &mut self.streams[index];
        let sizes = if is_svc { self.format.layers } else { &self.format.layers[layer..=layer] };
        let count = bytes.div_ceil(MTU).max(1);
        let spatial = if is_svc { layer as u8 } else { 0 };
        let top = if is_svc { top } else { 0 };
        let described = Described { spatial, temporal, is_sync, is_key, layers: sizes, top: top as u8 };
        let numbered = stream.dependencies.number(described);
        for part in 0..count {
            let head = Head {
                starts: part == 0,
                ends: part + 1 == count,
                picture_id: stream.picture_id,
                tl0: stream.tl0,
                temporal,
                spatial,
                is_sync: is_sync && temporal > 0,
                is_key,
            };
            let mut payload = Vec::with_capacity(MTU + 32);
            head.write(codec, sizes, &mut payload);
            Mark { spatial: layer as u8, temporal, frame: self.frame }.write(&mut payload);
            let size = bytes / count + usize::from(part < bytes % count);
            payload.resize(size.max(payload.len()), 0xaa);
            self.layers[layer].bytes += payload.len() as u64;
            self.paced_until += Duration::from_secs_f64(payload.len() as f64 * 8.0 / pace_bps);
            let mut extensions = vec![(MID_ID, self.mid.as_bytes().to_vec())];
            if self.format.layers.len() > 1 && !is_svc {
                extensions.push((RID_ID, RIDS[layer].as_bytes().to_vec()));
            }
            if codec == Codec::Av1 {
                extensions.push((DESCRIPTOR_ID, numbered.descriptor(head.starts, head.ends)));
            }
            let packet = Outgoing {
                ssrc: stream.ssrc,
                pt: pt(codec),
                seq: stream.seq,
                timestamp,
                marker: usize::from(spatial) == top && part + 1 == count,
                payload,
                extensions,
            };
            stream.seq = stream.seq.wrapping_add(1);
            self.queued += 1;
            self.out.insert((self.paced_until, self.queued), packet);
        }
    }
}

/// Payload type that a publisher uses.
pub fn pt(codec: Codec) -> u8 {
    match codec {
        Codec::Vp8 => VP8_PT,
        Codec::Vp9 => VP9_PT,
        Codec::Av1 => AV1_PT,
    }
}

/// A microphone that always hears something.
pub struct Voice {
    pub ssrc: u32,
    pub is_muted: bool,
    mid: String,
    seq: u16,
    timestamp: u32,
    next: Instant,
}

impl Voice {
    pub const FRAME: Duration = Duration::from_millis(20);

    pub fn new(mid: String, ssrc: u32, start: Instant, random: &mut Random) -> Self {
        Self {
            ssrc,
            is_muted: false,
            mid,
            seq: 65_000u16.wrapping_add(random.bits() as u16 % 1_000),
            timestamp: u32::MAX - 48_000,
            next: start + Self::FRAME.mul_f64(random.uniform()),
        }
    }

    pub fn deadline(&self) -> Instant {
        self.next
    }

    pub fn poll(&mut self, now: Instant) -> Vec<Outgoing> {
        let mut packets = Vec::new();
        while self.next <= now {
            self.next += Self::FRAME;
            self.timestamp = self.timestamp.wrapping_add(960);
            if self.is_muted {
                continue;
            }
            packets.push(Outgoing {
                ssrc: self.ssrc,
                pt: OPUS_PT,
                seq: self.seq,
                timestamp: self.timestamp,
                marker: false,
                payload: vec![0xaa; AUDIO_PAYLOAD],
                extensions: vec![(MID_ID, self.mid.as_bytes().to_vec()), (LEVEL_ID, vec![0x80 | 30])],
            });
            self.seq = self.seq.wrapping_add(1);
        }
        packets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoder_keeps_its_rates_and_heeds_requests() {
        let epoch = callyard_peer::base();
        for video in [Video::Camera, Video::CameraSvc, Video::CameraAv1, Video::CameraAv1Svc] {
            let mut encoder = Encoder::new(video, "1".into(), 1_000, epoch, Random::new(1, 1));
            let mut last_key = 0;
            for ms in (0..60_000).step_by(5) {
                let now = epoch + Duration::from_millis(ms);
                if ms == 30_000 {
                    encoder.ask_key(now);
                    encoder.ask_key(now);
                }
                for packet in encoder.poll(now, epoch) {
                    assert!(packet.payload.len() <= MTU + 1);
                    if Head::read(encoder.format.codec, &packet.payload).unwrap().0.is_key {
                        last_key = ms;
                    }
                }
            }
            assert_eq!(encoder.keyframes, 2, "one at the start, one for two requests");
            assert!((30_012..30_150).contains(&last_key), "{last_key}");
            for (index, layer) in encoder.layers.iter().enumerate() {
                let (rate, wished) = (layer.bytes as f64 * 8.0 / 60.0, encoder.format.own_bps(index));
                assert!((rate / wished - 1.0).abs() < 0.06, "{rate} of {wished}");
            }
        }
    }
}
