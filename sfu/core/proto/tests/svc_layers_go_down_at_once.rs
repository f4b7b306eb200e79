//! VP9 SVC behind a link that becomes narrow: the upper spatial layers go at once, without a key frame, and come back at the
//! next picture that allows it. What breaks a picture on the way is mended.

use std::time::{Duration, Instant};

use callyard_peer::client::{Outgoing, Rtx};
use callyard_peer::media::{MID_ID, extensions, quality};
use callyard_peer::netem::LinkConfig;
use callyard_peer::world::World;
use callyard_proto::command::{
    CodecSpec, Command, Content, DowntrackSpec, DtlsRole, ExtensionSpec, LayerMode, LayerSpec, MediaKind, SsrcSpec,
    UptrackSpec, Want,
};
use callyard_proto::ids::{DowntrackId, Pt, Spatial, Ssrc, UptrackId};

const SSRC: u32 = 5_000;
/// Bytes of each spatial layer's frame: 150, 350 and 1 000 kbit/s at 30 pictures a second.
const FRAME_BYTES: [usize; 3] = [625, 1_050, 4_160];
const PICTURE: Duration = Duration::from_micros(33_333);
const DESCRIPTOR_ID: u8 = 13;
const DESCRIPTOR: &str = "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";

fn vp9(pt: u8) -> CodecSpec {
    CodecSpec {
        pt: Pt(pt),
        mime: "video/VP9".to_owned(),
        clock_rate: 90_000,
        fmtp: "profile-id=0".to_owned(),
        rtx_pt: Some(Pt(pt + 1)),
        feedback: ["nack", "nack pli", "transport-cc"].map(str::to_owned).to_vec(),
    }
}

struct Publisher {
    seq: u16,
    timestamp: u32,
    picture: u16,
    wants_key: bool,
    keyframes: u32,
    /// Number of the next frame, where packets have dependency descriptors.
    frame: Option<u16>,
}

impl Publisher {
    /// One picture of three spatial layers; a key picture where asked for.
    fn send(&mut self, world: &mut World) {
        let asked = std::mem::take(&mut world.clients[0].keyframes_asked);
        self.wants_key |= !asked.is_empty();
        let is_key = std::mem::take(&mut self.wants_key);
        self.keyframes += u32::from(is_key);
        self.picture = (self.picture + 1) & 0x7fff;
        self.timestamp = self.timestamp.wrapping_add(3_000);
        for (spatial, bytes) in (0u8..).zip(FRAME_BYTES) {
            let parts = bytes.div_ceil(1_100);
            for part in 0..parts {
                let (begins, ends) = (part == 0, part + 1 == parts);
                // I, P, L, B and E of the payload descriptor, non-flexible mode (RFC 9628 §4.2).
                let flags = 0x80 | u8::from(!is_key) << 6 | 0x20 | u8::from(begins) << 3 | u8::from(ends) << 2;
                let id = self.picture | 0x8000;
                let layer = spatial << 1 | u8::from(spatial > 0);
                let mut payload = vec![flags, (id >> 8) as u8, id as u8, layer, self.picture as u8, spatial];
                payload.resize(bytes / parts, 0x5a);
                let mut extensions = vec![(MID_ID, b"1".to_vec())];
                if let Some(frame) = self.frame {
                    extensions.push((DESCRIPTOR_ID, descriptor(spatial, frame, is_key, begins, ends)));
                }
                let packet = Outgoing {
                    ssrc: 1_000,
                    pt: 98,
                    seq: self.seq,
                    timestamp: self.timestamp,
                    marker: ends && spatial == 2,
                    payload,
                    extensions,
                };
                self.seq = self.seq.wrapping_add(1);
                world.clients[0].send_rtp(packet);
            }
            self.frame = self.frame.map(|frame| frame.wrapping_add(1));
        }
        world.flush();
    }

    fn play(&mut self, world: &mut World, time: Duration) {
        let end = world.now + time;
        while world.now < end {
            self.send(world);
            world.run(PICTURE);
        }
    }
}

#[derive(Default)]
struct Bits(Vec<bool>);

impl Bits {
    fn put(&mut self, count: u32, value: u32) -> &mut Self {
        self.0.extend((0..count).rev().map(|bit| value >> bit & 1 == 1));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let byte = |bits: &[bool]| bits.iter().zip((0..8).rev()).fold(0, |byte, (bit, at)| byte | u8::from(*bit) << at);
        self.0.chunks(8).map(byte).collect()
    }
}

/// Of one packet (AV1 RTP specification, Appendix A): a decode target and a chain for each spatial layer, three frames
/// a picture.
fn descriptor(spatial: u8, frame: u16, is_key: bool, begins: bool, ends: bool) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.put(1, begins.into()).put(1, ends.into()).put(6, spatial.into()).put(16, frame.into());
    if is_key {
        let is_base = spatial == 0;
        // Structure, active targets, and what is told otherwise than by the template: indications, references, chains.
        let has_structure = is_base && begins;
        bits.put(1, has_structure.into()).put(2, 0).put(1, 1).put(1, is_base.into());
        if has_structure {
            structure(&mut bits);
        }
        // The frame below alone, if there is one.
        if !is_base {
            bits.put(2, 1).put(4, 0);
        }
        bits.put(2, 0);
        if is_base {
            bits.put(24, 0);
        }
    }
    bits.bytes()
}

fn structure(bits: &mut Bits) {
    bits.put(6, 0).put(5, 2);
    for next in [2, 2, 3] {
        bits.put(2, next);
    }
    const SWITCH: u32 = 2;
    const REQUIRED: u32 = 3;
    for indication in [SWITCH, REQUIRED, REQUIRED, 0, SWITCH, REQUIRED, 0, 0, SWITCH] {
        bits.put(2, indication);
    }
    // The layer's last frame, and the layer below.
    for references in [&[3][..], &[3, 1], &[3, 1]] {
        for back in references {
            bits.put(1, 1).put(4, back - 1);
        }
        bits.put(1, 0);
    }
    // Three chains, one a target: ns(4), ns(3).
    bits.put(2, 3).put(1, 0).put(2, 0b10).put(2, 0b11);
    for back in [3, 2, 1, 1, 1, 1, 2, 1, 1] {
        bits.put(4, back);
    }
    bits.put(1, 0);
}

/// Spatial layers of the pictures that came since `since`: how many pictures had each one on top.
fn tops(world: &World, since: Instant) -> [usize; 3] {
    let mut pictures = std::collections::BTreeMap::new();
    for packet in world.clients[1].of(SSRC).filter(|p| p.at >= since && !p.payload.is_empty()) {
        let top = pictures.entry(packet.timestamp).or_insert(0);
        *top = packet.payload[5].max(*top);
    }
    let mut counts = [0; 3];
    pictures.values().for_each(|top| counts[usize::from(*top)] += 1);
    counts
}

/// A publisher of three layers, and one subscriber who wants them all.
fn call(has_descriptors: bool) -> (World, Publisher) {
    let mut world = World::new(1);
    world.add_client(DtlsRole::Server, LinkConfig::default());
    world.add_client(DtlsRole::Server, LinkConfig::default());
    world.connect();
    let mut extensions = extensions();
    if has_descriptors {
        extensions.push(ExtensionSpec { id: DESCRIPTOR_ID, uri: DESCRIPTOR.to_owned() });
    }
    let layer = |i: u8| LayerSpec { spatial: Spatial(i), width: 320 << i, height: 180 << i, bitrate_bps: 0 };
    world.apply(Command::AddUptrack(UptrackSpec {
        uptrack: UptrackId(1),
        transport: World::transport(0),
        kind: MediaKind::Video,
        content: Content::Camera,
        mode: LayerMode::Svc,
        mid: "1".to_owned(),
        codecs: vec![vp9(98)],
        extensions: extensions.clone(),
        rids: Vec::new(),
        ssrcs: vec![SsrcSpec { ssrc: Ssrc(1_000), rtx_ssrc: None, rid: None }],
        layers: (0..3).map(layer).collect(),
        muted: false,
        encrypted: false,
    }));
    world.apply(Command::AddDowntrack(DowntrackSpec {
        downtrack: DowntrackId(11),
        uptrack: UptrackId(1),
        transport: World::transport(1),
        mid: "11".to_owned(),
        ssrc: Ssrc(SSRC),
        rtx_ssrc: Some(Ssrc(SSRC + 1)),
        codecs: vec![vp9(100)],
        extensions,
        want: Want::default(),
    }));
    let frame = has_descriptors.then_some(65_000);
    let publisher = Publisher { seq: 65_000, timestamp: 7, picture: 0x7ff0, wants_key: true, keyframes: 0, frame };
    (world, publisher)
}

#[test]
fn svc_layers_go_down_at_once_and_need_no_key_frame() {
    let (mut world, mut publisher) = call(false);
    publisher.play(&mut world, Duration::from_secs(5));
    let then = world.now;
    publisher.play(&mut world, Duration::from_secs(5));
    let [low, medium, high] = tops(&world, then);
    assert!(high > 145 && low + medium < 3, "all layers on a free link: {low} {medium} {high}");

    let keyframes = publisher.keyframes;
    world.down[1].config.rate_bps = Some(800_000);
    publisher.play(&mut world, Duration::from_secs(1));
    let then = world.now;
    publisher.play(&mut world, Duration::from_secs(4));
    let [low, medium, high] = tops(&world, then);
    assert_eq!(publisher.keyframes, keyframes, "down without a key frame");
    assert!(high < 3 && low + medium > 110, "{low} {medium} {high}");
    assert!(medium > low, "the middle layer fits: {low} {medium} {high}");

    world.down[1].config.rate_bps = None;
    publisher.play(&mut world, Duration::from_secs(12));
    let then = world.now;
    publisher.play(&mut world, Duration::from_secs(4));
    let [low, medium, high] = tops(&world, then);
    assert!(high > 115, "and back: {low} {medium} {high}");
    // The marker ends each picture as the subscriber gets it (RFC 9628 §4.1).
    let packets = world.clients[1].in_order(SSRC);
    for pair in packets.windows(2) {
        assert_eq!(pair[0].marker, pair[0].timestamp != pair[1].timestamp, "at {}", pair[0].seq);
    }
}

/// A picture that is lost as its upper layers are left cannot be repaired by them: a key frame is asked for, each time
/// anew.
#[test]
fn a_picture_that_breaks_as_layers_are_left_is_mended_every_time() {
    for has_descriptors in [false, true] {
        let (mut world, mut publisher) = call(has_descriptors);
        world.clients[1].receive_rtx.insert(SSRC + 1, Rtx { ssrc: SSRC, pt: 100 });
        let want = |world: &mut World, want| world.apply(Command::SetDowntrack { downtrack: DowntrackId(11), want });
        for round in 0..3 {
            want(&mut world, quality(2));
            publisher.play(&mut world, Duration::from_secs(6));
            let then = world.now - Duration::from_secs(1);
            assert!(tops(&world, then)[2] > 25, "{has_descriptors} {round}: {:?}", tops(&world, then));
            let before = world.engine.counters().feedback_out.pli;
            world.down[1].config.loss = 1.0;
            publisher.send(&mut world);
            world.run(PICTURE);
            world.down[1].config.loss = 0.0;
            want(&mut world, quality(0));
            publisher.play(&mut world, Duration::from_secs(3));
            let asked = world.engine.counters().feedback_out.pli - before;
            assert_eq!(asked, 1, "with descriptors: {has_descriptors}, round {round}");
        }
    }
}
