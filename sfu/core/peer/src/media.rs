//! Publishers and subscribers of the tests: sections as descriptions would give them, and streams of VP8 and Opus packets.

use std::time::Duration;

use callyard_proto::command::{
    CodecSpec, Command, Content, DowntrackSpec, DtlsRole, ExtensionSpec, LayerMode, LayerSpec, MediaKind, SsrcSpec,
    UptrackSpec, Want,
};
use callyard_proto::config::Config;
use callyard_proto::ids::{DowntrackId, Pt, Spatial, Ssrc, UptrackId};

use crate::World;
use crate::client::{Outgoing, Rtx};
use crate::netem::LinkConfig;

pub const MID_ID: u8 = 4;
pub const RID_ID: u8 = 10;
pub const REPAIRED_RID_ID: u8 = 11;
pub const TWCC_ID: u8 = 3;
pub const LEVEL_ID: u8 = 1;

pub fn extensions() -> Vec<ExtensionSpec> {
    let spec = |id, uri: &str| ExtensionSpec { id, uri: uri.to_owned() };
    vec![
        spec(MID_ID, "urn:ietf:params:rtp-hdrext:sdes:mid"),
        spec(RID_ID, "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"),
        spec(REPAIRED_RID_ID, "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id"),
        spec(TWCC_ID, "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"),
        spec(LEVEL_ID, "urn:ietf:params:rtp-hdrext:ssrc-audio-level"),
    ]
}

pub fn vp8(pt: u8) -> CodecSpec {
    CodecSpec {
        pt: Pt(pt),
        mime: "video/VP8".to_owned(),
        clock_rate: 90_000,
        fmtp: String::new(),
        rtx_pt: Some(Pt(pt + 1)),
        feedback: ["nack", "nack pli", "ccm fir", "transport-cc"].map(str::to_owned).to_vec(),
    }
}

pub fn opus(pt: u8) -> CodecSpec {
    CodecSpec {
        pt: Pt(pt),
        mime: "audio/opus".to_owned(),
        clock_rate: 48_000,
        fmtp: "minptime=10;useinbandfec=1".to_owned(),
        rtx_pt: None,
        feedback: vec!["transport-cc".to_owned()],
    }
}

/// A published track of `layers` simulcast encodings; stream ssrcs are `ssrc + 10 × layer`, their RTX one above.
#[derive(Clone, Debug)]
pub struct Source {
    pub client: usize,
    pub uptrack: UptrackId,
    pub kind: MediaKind,
    pub mid: String,
    pub ssrc: u32,
    pub layers: usize,
    /// Streams found by mid and rid instead of by announced ssrc.
    pub by_rid: bool,
    pub streams: Vec<Stream>,
}

#[derive(Clone, Copy, Debug)]
pub struct Stream {
    pub ssrc: u32,
    pub seq: u16,
    pub timestamp: u32,
    pub picture_id: u16,
    pub tl0: u8,
    pub frames: u32,
    pub is_sent: bool,
    pub wants_key: bool,
}

const RIDS: [&str; 3] = ["q", "h", "f"];

impl Source {
    pub fn new(client: usize, uptrack: u64, kind: MediaKind, ssrc: u32, layers: usize) -> Self {
        let streams = (0..layers as u32)
            .map(|i| Stream {
                ssrc: ssrc + 10 * i,
                // Near the wrap, so that every test goes over it.
                seq: 65_400u16.wrapping_add(i as u16 * 77),
                timestamp: u32::MAX - 30_000 + i * 1_000,
                picture_id: 0x7ff0 + i as u16,
                tl0: 250,
                frames: 0,
                is_sent: true,
                wants_key: true,
            })
            .collect();
        let mid = uptrack.to_string();
        Self { client, uptrack: UptrackId(uptrack), kind, mid, ssrc, layers, by_rid: layers > 1, streams }
    }

    pub fn audio(client: usize, uptrack: u64, ssrc: u32) -> Self {
        Self::new(client, uptrack, MediaKind::Audio, ssrc, 1)
    }

    pub fn video(client: usize, uptrack: u64, ssrc: u32) -> Self {
        Self::new(client, uptrack, MediaKind::Video, ssrc, 1)
    }

    pub fn simulcast(client: usize, uptrack: u64, ssrc: u32) -> Self {
        Self::new(client, uptrack, MediaKind::Video, ssrc, 3)
    }

    pub fn spec(&self) -> UptrackSpec {
        let is_simulcast = self.layers > 1;
        let is_video = self.kind == MediaKind::Video;
        let ssrcs = self.streams.iter().map(|s| SsrcSpec {
            ssrc: Ssrc(s.ssrc),
            rtx_ssrc: is_video.then_some(Ssrc(s.ssrc + 1)),
            rid: None,
        });
        UptrackSpec {
            uptrack: self.uptrack,
            transport: World::transport(self.client),
            kind: self.kind,
            content: Content::Camera,
            mode: if is_simulcast { LayerMode::Simulcast } else { LayerMode::Single },
            mid: self.mid.clone(),
            codecs: vec![if is_video { vp8(96) } else { opus(111) }],
            extensions: extensions(),
            rids: if is_simulcast { RIDS[..self.layers].iter().map(|r| (*r).to_owned()).collect() } else { Vec::new() },
            ssrcs: if self.by_rid { Vec::new() } else { ssrcs.collect() },
            layers: (0..self.layers as u8)
                .map(|i| LayerSpec {
                    spatial: Spatial(i),
                    width: 320 << i,
                    height: 180 << i,
                    bitrate_bps: 150_000 << (2 * i),
                })
                .collect(),
            muted: false,
            encrypted: false,
        }
    }

    pub fn publish(&self, world: &mut World) {
        world.apply(Command::AddUptrack(self.spec()));
        if self.kind == MediaKind::Video {
            for stream in &self.streams {
                world.clients[self.client].send_rtx.insert(stream.ssrc, Rtx { ssrc: stream.ssrc + 1, pt: 97 });
            }
        }
    }

    /// Sends one picture of every layer, or one audio packet; key frames where asked for.
    pub fn send(&mut self, world: &mut World) {
        let asked = std::mem::take(&mut world.clients[self.client].keyframes_asked);
        for index in 0..self.streams.len() {
            self.streams[index].wants_key |= asked.contains(&self.streams[index].ssrc);
        }
        // What was asked of other sources of the same client is theirs to see.
        let own: Vec<u32> = self.streams.iter().map(|s| s.ssrc).collect();
        world.clients[self.client].keyframes_asked.extend(asked.into_iter().filter(|ssrc| !own.contains(ssrc)));
        for index in 0..self.streams.len() {
            for packet in self.next_packets(index) {
                world.clients[self.client].send_rtp(packet);
            }
        }
        world.flush();
    }

    /// The packets of the next picture of one layer: the top layer's are three, the others' fewer.
    pub fn next_packets(&mut self, layer: usize) -> Vec<Outgoing> {
        let stream = &mut self.streams[layer];
        let is_video = self.kind == MediaKind::Video;
        let count = if is_video { layer + 1 } else { 1 };
        let is_key = is_video && stream.wants_key && stream.is_sent;
        stream.timestamp = stream.timestamp.wrapping_add(if is_video { 3_000 } else { 960 });
        if !stream.is_sent {
            return Vec::new();
        }
        stream.wants_key &= !is_key;
        stream.frames += 1;
        stream.picture_id = (stream.picture_id + 1) & 0x7fff;
        stream.tl0 = stream.tl0.wrapping_add(1);
        (0..count)
            .map(|part| {
                let mut payload = Vec::new();
                if is_video {
                    payload.extend_from_slice(&vp8_descriptor(part == 0, stream.picture_id, stream.tl0));
                    if part == 0 {
                        // Frame tag: bit 0 clear is a key frame (RFC 6386 §9.1), then start code and 16 × 16 pixels.
                        payload.extend_from_slice(&[u8::from(!is_key), 0, 0, 0x9d, 0x01, 0x2a, 16, 0, 16, 0]);
                    }
                }
                payload.push(layer as u8);
                payload.extend_from_slice(&stream.frames.to_be_bytes());
                payload.push(part as u8);
                payload.resize(if is_video { 600 } else { 80 }, 0xaa);
                let seq = stream.seq;
                stream.seq = stream.seq.wrapping_add(1);
                let mut extensions = vec![(MID_ID, self.mid.as_bytes().to_vec())];
                if self.layers > 1 {
                    extensions.push((RID_ID, RIDS[layer].as_bytes().to_vec()));
                }
                if !is_video {
                    extensions.push((LEVEL_ID, vec![0x80 | 30]));
                }
                Outgoing {
                    ssrc: stream.ssrc,
                    pt: if is_video { 96 } else { 111 },
                    seq,
                    timestamp: stream.timestamp,
                    marker: is_video && part + 1 == count,
                    payload,
                    extensions,
                }
            })
            .collect()
    }
}

/// VP8 payload descriptor with 15-bit picture id, TL0PICIDX and TID 0 (RFC 7741 §4.2).
fn vp8_descriptor(starts: bool, picture_id: u16, tl0: u8) -> [u8; 6] {
    let id = picture_id | 0x8000;
    [0x80 | u8::from(starts) << 4, 0xe0, (id >> 8) as u8, id as u8, tl0, 0]
}

/// Picture id of a received VP8 packet of ours.
pub fn picture_id(payload: &[u8]) -> u16 {
    u16::from_be_bytes([payload[2], payload[3]]) & 0x7fff
}

/// Layer, frame number and part that [`Source`] wrote into a video packet.
pub fn content(payload: &[u8]) -> (u8, u32, u8) {
    let body = if payload[0] & 0x10 != 0 { &payload[16..] } else { &payload[6..] };
    (body[0], u32::from_be_bytes([body[1], body[2], body[3], body[4]]), body[5])
}

pub fn is_key(payload: &[u8]) -> bool {
    payload[0] & 0x10 != 0 && payload[6] & 1 == 0
}

/// A call of a second: client 0 has a camera, which `viewers` others watch as downtracks 11, 12, … under SSRCs 5 000, 6 000, …
pub fn watched(config: Config, viewers: usize) -> (World, Source) {
    let mut world = World::with_config(1, config);
    for _ in 0..=viewers {
        world.add_client(DtlsRole::Server, LinkConfig::default());
    }
    world.connect();
    let mut camera = Source::video(0, 1, 1_000);
    camera.publish(&mut world);
    for viewer in 1..=viewers {
        let (downtrack, ssrc) = (10 + viewer as u64, 4_000 + 1_000 * viewer as u32);
        subscribe(&mut world, viewer, &camera, downtrack, ssrc, Want::default());
    }
    play(&mut world, &mut [&mut camera], Duration::from_secs(1));
    (world, camera)
}

/// Subscribes `client` to a source; packets come with `ssrc`, their RTX one above.
pub fn subscribe(world: &mut World, client: usize, source: &Source, downtrack: u64, ssrc: u32, want: Want) {
    world.apply(Command::AddDowntrack(downtrack_spec(client, source, downtrack, ssrc, want)));
    if source.kind == MediaKind::Video {
        world.clients[client].receive_rtx.insert(ssrc + 1, Rtx { ssrc, pt: 100 });
    }
}

/// What [`subscribe`] asks for, to be changed.
pub fn downtrack_spec(client: usize, source: &Source, downtrack: u64, ssrc: u32, want: Want) -> DowntrackSpec {
    let is_video = source.kind == MediaKind::Video;
    DowntrackSpec {
        downtrack: DowntrackId(downtrack),
        uptrack: source.uptrack,
        transport: World::transport(client),
        mid: downtrack.to_string(),
        ssrc: Ssrc(ssrc),
        rtx_ssrc: is_video.then_some(Ssrc(ssrc + 1)),
        codecs: vec![if is_video { vp8(100) } else { opus(63) }],
        extensions: extensions(),
        want,
    }
}

/// The wish for a certain layer of a [`Source::simulcast`].
pub fn quality(quality: u8) -> Want {
    Want { quality: Some(quality), ..Want::default() }
}

/// Lets sources send for `time`: video every 33 ms, audio every 20 ms.
pub fn play(world: &mut World, sources: &mut [&mut Source], time: Duration) {
    let end = world.now + time;
    let mut next: Vec<_> = sources.iter().map(|_| world.now).collect();
    while world.now < end {
        for (source, due) in sources.iter_mut().zip(&mut next) {
            if *due <= world.now {
                source.send(world);
                *due += Duration::from_millis(if source.kind == MediaKind::Video { 33 } else { 20 });
            }
        }
        let pause = next.iter().copied().min().unwrap_or(end).min(end).saturating_duration_since(world.now);
        world.run(pause.max(Duration::from_millis(1)));
    }
}
