//! Cameras, voices and viewers with the bitrates of real ones, for the tests of what a narrow link is sent.
#![allow(dead_code, reason = "every behaviour's test uses a part of it")]

use std::time::{Duration, Instant};

use callyard_peer::World;
use callyard_peer::client::{Outgoing, Received};
use callyard_peer::media::{MID_ID, Source, downtrack_spec, opus, subscribe};
use callyard_peer::netem::LinkConfig;
use callyard_peer::rtcp::sender_report;
use callyard_peer::twcc::TwccReporter;
use callyard_proto::command::{CodecSpec, Command, Content, DtlsRole, Want};
use callyard_proto::event::{DowntrackStats, Event, TransportStats};
use callyard_proto::ids::{DowntrackId, Pt};

pub const VIEWER: usize = 1;
/// Of the viewer's first camera; the next ones follow in tens.
pub const CAMERA: u32 = 5_000;
pub const VOICE: u32 = 4_000;
/// Payload types of the voice where it is sent as RED, as the viewer knows them.
pub const RED: u8 = 70;
pub const OPUS: u8 = 111;

/// 720p, 360p and 180p at 30 frames a second in three temporal layers, VP8, as Chromium sends them.
const BITRATES: [u32; 3] = [165_000, 530_000, 1_800_000];
/// Shares of the bitrate of the four frames of a pattern, by temporal layer 0, 2, 1, 2.
const PATTERN: [(u8, f64); 4] = [(0, 0.45), (2, 0.175), (1, 0.20), (2, 0.175)];
/// A key frame is so many times an average frame.
const KEYFRAME: f64 = 8.0;
const PAYLOAD: usize = 1_100;
const FRAME: Duration = Duration::from_micros(33_333);

/// A published simulcast camera, or a screen of one size whose pictures are as large as at five a second.
pub struct Camera {
    pub source: Source,
    bitrates: Vec<u32>,
    is_screen: bool,
    frame: u64,
    ticks: u64,
    /// Pictures are so many thirtieths of a second apart.
    pub every: u64,
    /// Size of a key frame, where it is not [`KEYFRAME`] ordinary ones.
    pub key_bytes: Option<usize>,
    /// Temporal layers are sent.
    pub is_temporal: bool,
    /// As libwebrtc's VP8 encoder does: the largest of a moment's pictures first, and key frames of all sizes at once.
    pub is_largest_first: bool,
    /// Sender reports tell the time of all sizes.
    pub has_reports: bool,
}

impl Camera {
    pub fn new(uptrack: u64, ssrc: u32) -> Self {
        let source = Source::simulcast(0, uptrack, ssrc);
        Self::of(source, BITRATES.to_vec())
    }

    pub fn ordered(self, is_largest_first: bool) -> Self {
        Self { is_largest_first, has_reports: true, ..self }
    }

    pub fn single(uptrack: u64, ssrc: u32, bitrate: u32) -> Self {
        let source = Source::video(0, uptrack, ssrc);
        Self { is_temporal: false, ..Self::of(source, vec![bitrate]) }
    }

    pub fn screen(uptrack: u64, ssrc: u32, bitrate: u32) -> Self {
        let source = Source::video(0, uptrack, ssrc);
        Self { is_screen: true, every: 6, is_temporal: false, ..Self::of(source, vec![bitrate]) }
    }

    fn of(source: Source, bitrates: Vec<u32>) -> Self {
        Self {
            source,
            bitrates,
            is_screen: false,
            frame: 0,
            ticks: 0,
            every: 1,
            key_bytes: None,
            is_temporal: true,
            is_largest_first: false,
            has_reports: false,
        }
    }

    fn publish(&self, world: &mut World) {
        self.source.publish(world);
        if self.is_screen {
            world.apply(Command::RemoveUptrack { uptrack: self.source.uptrack });
            let mut spec = self.source.spec();
            spec.content = Content::Screen;
            (spec.layers[0].width, spec.layers[0].height) = (1_920, 1_080);
            world.apply(Command::AddUptrack(spec));
        }
    }

    /// The next frame of every layer.
    fn send(&mut self, world: &mut World) {
        let asked = &mut world.clients[0].keyframes_asked;
        for stream in &mut self.source.streams {
            stream.wants_key |= asked.contains(&stream.ssrc);
            asked.retain(|ssrc| *ssrc != stream.ssrc);
        }
        let beat = (self.frame % 4) as usize;
        self.frame += 1;
        let fps = if self.is_screen { 5.0 } else { 30.0 };
        if self.has_reports && self.frame % 15 == 1 {
            for stream in &self.source.streams {
                let ntp = (self.frame << 32) / 30;
                world.clients[0].send_rtcp(&sender_report(stream.ssrc, ntp, stream.timestamp));
            }
        }
        let mut layers: Vec<usize> = (0..self.bitrates.len()).collect();
        if self.is_largest_first {
            layers.reverse();
            let is_key = self.source.streams.iter().any(|stream| stream.wants_key);
            self.source.streams.iter_mut().for_each(|stream| stream.wants_key = is_key);
        }
        for layer in layers {
            let extensions = extensions(&self.source, layer);
            let stream = &mut self.source.streams[layer];
            let (temporal, share) = if self.is_temporal { PATTERN[beat] } else { (0, 0.25) };
            stream.timestamp = stream.timestamp.wrapping_add(3_000 * self.every as u32);
            if !stream.is_sent {
                continue;
            }
            let is_key = stream.wants_key && temporal == 0;
            stream.wants_key &= !is_key;
            let average = f64::from(self.bitrates[layer]) / 8.0 / fps;
            let bytes = if is_key { average * KEYFRAME } else { average * 4.0 * share } as usize;
            let bytes = self.key_bytes.filter(|_| is_key).unwrap_or(bytes);
            stream.frames += 1;
            stream.picture_id = (stream.picture_id + 1) & 0x7fff;
            if temporal == 0 {
                stream.tl0 = stream.tl0.wrapping_add(1);
            }
            let parts = bytes.div_ceil(PAYLOAD).max(1);
            for part in 0..parts {
                let id = stream.picture_id | 0x8000;
                // Every frame above the base refers to the base alone here, so each is a sync point (RFC 7741 §4.2).
                let tid = temporal << 6 | u8::from(temporal > 0) << 5;
                let start = u8::from(part == 0) << 4;
                let mut payload = vec![0x80 | start, 0xe0, (id >> 8) as u8, id as u8, stream.tl0, tid];
                payload.extend_from_slice(&[u8::from(!is_key), 0, 0, 0x9d, 0x01, 0x2a, 16, 0, 16, 0]);
                payload.extend_from_slice(&[layer as u8, temporal]);
                payload.extend_from_slice(&stream.frames.to_be_bytes());
                payload.resize((bytes / parts).max(30), 0xaa);
                let packet = Outgoing {
                    ssrc: stream.ssrc,
                    pt: 96,
                    seq: stream.seq,
                    timestamp: stream.timestamp,
                    marker: part + 1 == parts,
                    payload,
                    extensions: extensions.clone(),
                };
                stream.seq = stream.seq.wrapping_add(1);
                world.clients[0].send_rtp(packet);
            }
        }
        world.flush();
    }
}

fn extensions(source: &Source, layer: usize) -> Vec<(u8, Vec<u8>)> {
    let mut out = vec![(MID_ID, source.mid.as_bytes().to_vec())];
    if source.layers > 1 {
        out.push((callyard_peer::media::RID_ID, [&b"q"[..], b"h", b"f"][layer].to_vec()));
    }
    out
}

/// One publisher on a free link with a voice and cameras, one viewer behind the link of the test.
pub struct Call {
    pub world: World,
    pub cameras: Vec<Camera>,
    voice: Source,
    /// Of a voice that is sent as RED, what was said last.
    said: Option<Vec<u8>>,
    next_frame: Instant,
    next_voice: Instant,
}

impl Call {
    pub fn new(seed: u64, link: LinkConfig, cameras: Vec<Camera>) -> Self {
        let mut world = World::new(seed);
        world.add_client(DtlsRole::Server, LinkConfig { delay: Duration::from_millis(10), ..LinkConfig::default() });
        world.add_client(DtlsRole::Server, link);
        world.connect();
        let now = world.now;
        let viewer = &mut world.clients[VIEWER];
        viewer.feedback = Some(TwccReporter::new(now, callyard_peer::media::TWCC_ID));
        viewer.report_interval = Some(Duration::from_secs(1));
        let voice = Source::audio(0, 90, 9_000);
        voice.publish(&mut world);
        subscribe(&mut world, VIEWER, &voice, 90, VOICE, Want::default());
        for (index, camera) in cameras.iter().enumerate() {
            camera.publish(&mut world);
            let id = 11 + index as u64;
            subscribe(&mut world, VIEWER, &camera.source, id, CAMERA + 10 * index as u32, Want::default());
        }
        Self { cameras, voice, said: None, next_frame: now, next_voice: now, world }
    }

    /// The voice is sent as RED, each packet with the encoding before its own, and the viewer takes it so.
    pub fn with_redundant_voice(seed: u64, link: LinkConfig, cameras: Vec<Camera>) -> Self {
        let mut call = Self::new(seed, link, cameras);
        call.world.apply(Command::RemoveUptrack { uptrack: call.voice.uptrack });
        let codec = |pt, inside| CodecSpec {
            pt: Pt(pt),
            mime: "audio/red".to_owned(),
            fmtp: format!("{inside}/{inside}"),
            ..opus(inside)
        };
        let mut spec = call.voice.spec();
        spec.codecs = vec![codec(63, OPUS), opus(OPUS)];
        call.world.apply(Command::AddUptrack(spec));
        let mut spec = downtrack_spec(VIEWER, &call.voice, 91, VOICE, Want::default());
        spec.codecs = vec![codec(RED, OPUS), CodecSpec { feedback: vec!["nack".to_owned()], ..opus(OPUS) }];
        call.world.apply(Command::AddDowntrack(spec));
        call.said = Some(Vec::new());
        call
    }

    fn speak(&mut self) {
        for mut packet in self.voice.next_packets(0) {
            if let Some(said) = &mut self.said {
                let newest = std::mem::take(&mut packet.payload);
                if !said.is_empty() {
                    let [high, low] = (960u16 << 2).to_be_bytes();
                    packet.payload = vec![0x80 | OPUS, high, low, said.len() as u8];
                }
                packet.pt = 63;
                packet.payload.push(OPUS);
                packet.payload.append(said);
                packet.payload.extend_from_slice(&newest);
                *said = newest;
            }
            self.world.clients[0].send_rtp(packet);
        }
        self.world.flush();
    }

    /// What the link towards the viewer carries from now on.
    pub fn carries(&mut self, bps: u64) {
        self.world.down[VIEWER].config.rate_bps = Some(bps);
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.world.now + time;
        while self.world.now < end {
            if self.next_frame <= self.world.now {
                for camera in &mut self.cameras {
                    camera.tick(&mut self.world);
                }
                self.next_frame += FRAME;
            }
            if self.next_voice <= self.world.now {
                self.speak();
                self.next_voice += Duration::from_millis(20);
            }
            let pause = self.next_frame.min(self.next_voice).min(end).saturating_duration_since(self.world.now);
            self.world.run(pause.max(Duration::from_micros(500)));
        }
    }

    pub fn want(&mut self, camera: usize, want: Want) {
        self.world.apply(Command::SetDowntrack { downtrack: DowntrackId(11 + camera as u64), want });
    }

    /// Packets of one camera that reached the viewer since `since`, in the order of their coming.
    pub fn seen(&self, camera: usize, since: Instant) -> Vec<&Received> {
        let ssrc = CAMERA + 10 * camera as u32;
        self.world.clients[VIEWER].of(ssrc).filter(|p| p.at >= since).collect()
    }

    /// (layer, temporal layer) of the last packets that reached the viewer.
    pub fn layers(&self, camera: usize, since: Instant) -> Vec<u8> {
        let mut out: Vec<u8> = self.seen(camera, since).iter().map(|p| layer(&p.payload)).collect();
        out.dedup();
        out
    }

    /// Frames a second that reached the viewer whole since `since`.
    pub fn fps(&self, camera: usize, since: Instant) -> f64 {
        let mut frames: Vec<u32> = self.seen(camera, since).iter().map(|p| p.timestamp).collect();
        frames.sort_unstable();
        frames.dedup();
        frames.len() as f64 / self.world.now.duration_since(since).as_secs_f64()
    }

    /// Longest time without a new frame since `since`.
    pub fn longest_gap(&self, camera: usize, since: Instant) -> Duration {
        let mut times: Vec<Instant> = self.seen(camera, since).iter().filter(|p| p.marker).map(|p| p.at).collect();
        times.push(self.world.now);
        times
            .iter()
            .scan(since, |last, at| Some(at.duration_since(std::mem::replace(last, *at))))
            .max()
            .unwrap_or_default()
    }

    pub fn stats(&mut self) -> (TransportStats, Vec<DowntrackStats>) {
        self.world.take_events();
        self.world.apply(Command::GetRoomStats { request: 1, room: callyard_peer::ROOM });
        let stats = self.world.events.iter().find_map(|event| match event {
            Event::RoomStats { transports, downtracks, .. } => Some((transports.clone(), downtracks.clone())),
            _ => None,
        });
        let (mut transports, downtracks) = stats.expect("stats are answered");
        (transports.swap_remove(VIEWER), downtracks)
    }
}

impl Camera {
    /// Called thirty times a second.
    fn tick(&mut self, world: &mut World) {
        self.ticks += 1;
        if self.ticks % self.every == 1 % self.every {
            self.send(world);
        }
    }
}

/// Layer that a packet is of.
pub fn layer(payload: &[u8]) -> u8 {
    payload[16]
}
