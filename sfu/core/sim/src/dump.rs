//! A captured published stream, forwarded by the real core to one viewer whose wishes change at random.
//!
//! What the viewer got is written down for a real decoder to judge (`tests/sfu/test_decodability.py`). Key frames come where
//! the capture has them: nobody answers the core's requests.

use std::time::Duration;

use callyard_peer::World;
use callyard_peer::client::{Outgoing, Received, Rtx};
use callyard_peer::media::{MID_ID, TWCC_ID};
use callyard_peer::netem::LinkConfig;
use callyard_peer::twcc::TwccReporter;
use callyard_proto::command::{
    CodecSpec, Command, Content, DowntrackSpec, DtlsRole, ExtensionSpec, LayerMode, LayerSpec, MediaKind, SsrcSpec,
    UptrackSpec, Want,
};
use callyard_proto::event::Event;
use callyard_proto::ids::{DowntrackId, Ssrc, UptrackId};
use callyard_proto::rtp::RtpHeader;
use serde::{Deserialize, Serialize};

use crate::dependency::{DESCRIPTOR, DESCRIPTOR_ID};
use crate::random::Random;

/// The first line of a capture.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    pub codec: CodecSpec,
    pub mode: LayerMode,
    pub extensions: Vec<ExtensionSpec>,
    pub layers: Vec<LayerSpec>,
}

/// One packet: when it came, and itself in clear.
#[derive(Clone, Debug)]
pub struct Captured {
    pub at: Duration,
    pub packet: Vec<u8>,
}

/// A JSON line, then for each packet microseconds (4 bytes), length (2 bytes) and bytes, in network order.
#[derive(Clone, Debug)]
pub struct Dump {
    pub head: Head,
    pub packets: Vec<Captured>,
}

impl Dump {
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let end = bytes.iter().position(|b| *b == b'\n').ok_or("a capture begins with a line")?;
        let head = serde_json::from_slice(&bytes[..end]).map_err(|e| e.to_string())?;
        let mut rest = &bytes[end + 1..];
        let mut packets = Vec::new();
        while !rest.is_empty() {
            let (at, after) = rest.split_first_chunk::<4>().ok_or("cut short")?;
            let (len, after) = after.split_first_chunk::<2>().ok_or("cut short")?;
            let (packet, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*len))).ok_or("cut short")?;
            let at = Duration::from_micros(u64::from(u32::from_be_bytes(*at)));
            packets.push(Captured { at, packet: packet.to_vec() });
            rest = after;
        }
        Ok(Self { head, packets })
    }
}

/// What is done to the stream on its way.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    /// Of the publisher's link: loss that is repaired, and jitter.
    pub loss: f64,
    pub jitter: Duration,
    /// The viewer's link changes between widths that carry from next to nothing up to everything.
    pub narrows: bool,
}

const UPTRACK: UptrackId = UptrackId(1);
const DOWNTRACK: DowntrackId = DowntrackId(1);
const SSRC: u32 = 7_000;

/// Forwards the whole capture; what the viewer got, by sequence number, each packet as sent.
///
/// `seed` decides every wish, mute and width. The last two seconds are calm.
pub fn forward(dump: &Dump, seed: u64, trouble: Trouble) -> Vec<Vec<u8>> {
    let mut random = Random::new(seed, 0);
    let mut world = World::new(seed);
    let up = LinkConfig { loss: 0.0, jitter: trouble.jitter, ..LinkConfig::default() };
    // Nothing is lost on the way down, only late: what the core leaves out is to be judged, not what a link does.
    let down = LinkConfig { queue: Duration::from_secs(60), ..LinkConfig::default() };
    let publisher = world.add_client(DtlsRole::Server, up);
    let viewer = world.add_client(DtlsRole::Server, down);
    world.connect();
    let now = world.now;
    world.clients[viewer].feedback = Some(TwccReporter::new(now, TWCC_ID));
    world.up[publisher].config.loss = trouble.loss;
    add_tracks(&mut world, dump, publisher, viewer);

    let start = world.now;
    let length = dump.packets.last().map_or(Duration::ZERO, |last| last.at);
    let calm = length.saturating_sub(Duration::from_secs(2));
    let mut next_change = Duration::ZERO;
    let mut muted = false;
    for captured in &dump.packets {
        while next_change <= captured.at {
            wait_until(&mut world, start + next_change);
            if next_change >= calm {
                set(&mut world, Want { quality: Some(2), ..Want::default() }, false);
                world.down[viewer].config.rate_bps = None;
                break;
            }
            if trouble.narrows {
                let bps = (20_000.0 * 20f64.powf(random.uniform())) as u64;
                world.down[viewer].config.rate_bps = (random.uniform() < 0.8).then_some(bps);
            }
            muted = random.uniform() < if muted { 0.4 } else { 0.1 };
            let want = Want {
                disabled: random.uniform() < 0.08,
                quality: Some((random.uniform() * 3.0) as u8),
                fps: [0, 0, 4, 8][(random.uniform() * 4.0) as usize],
                ..Want::default()
            };
            set(&mut world, want, muted);
            next_change += Duration::from_millis(150 + (random.uniform() * 900.0) as u64);
        }
        wait_until(&mut world, start + captured.at);
        if let Some(packet) = outgoing(&captured.packet, &dump.head) {
            world.clients[publisher].send_rtp(packet);
            world.flush();
        }
    }
    world.run(Duration::from_secs(3));
    if let Some(event) = world.events.iter().find(|event| matches!(event, Event::Rejected { .. })) {
        panic!("a command was refused: {event:?}");
    }
    let ordered = world.clients[viewer].in_order(SSRC);
    ordered.into_iter().map(record).collect()
}

fn wait_until(world: &mut World, at: std::time::Instant) {
    let pause = at.saturating_duration_since(world.now);
    if !pause.is_zero() {
        world.run(pause);
    }
}

fn set(world: &mut World, want: Want, muted: bool) {
    world.apply(Command::SetDowntrack { downtrack: DOWNTRACK, want });
    world.apply(Command::UpdateUptrack { uptrack: UPTRACK, muted, layers: None });
}

/// Ssrcs of the capture in the order of their streams' sizes: that of their first packets' rids is the publisher's.
fn ssrcs(dump: &Dump) -> Vec<u32> {
    let mut found: Vec<(u32, u64)> = Vec::new();
    for captured in &dump.packets {
        let Ok(header) = RtpHeader::parse(&captured.packet) else { continue };
        let bytes = captured.packet.len() as u64;
        match found.iter_mut().find(|(ssrc, _)| *ssrc == header.ssrc.0) {
            Some((_, sum)) => *sum += bytes,
            None => found.push((header.ssrc.0, bytes)),
        }
    }
    found.sort_by_key(|(_, bytes)| *bytes);
    found.into_iter().map(|(ssrc, _)| ssrc).collect()
}

fn add_tracks(world: &mut World, dump: &Dump, publisher: usize, viewer: usize) {
    let Head { codec, mode, extensions, layers } = &dump.head;
    let ssrcs = ssrcs(dump);
    for (ssrc, rtx) in ssrcs.iter().zip(90_000..) {
        if let Some(pt) = codec.rtx_pt {
            world.clients[publisher].send_rtx.insert(*ssrc, Rtx { ssrc: rtx, pt: pt.0 });
        }
    }
    let specs = ssrcs.iter().zip(90_000..);
    world.apply(Command::AddUptrack(UptrackSpec {
        uptrack: UPTRACK,
        transport: World::transport(publisher),
        kind: MediaKind::Video,
        content: Content::Camera,
        mode: *mode,
        mid: "0".to_owned(),
        codecs: vec![codec.clone()],
        extensions: extensions.clone(),
        rids: Vec::new(),
        ssrcs: specs.map(|(s, rtx)| SsrcSpec { ssrc: Ssrc(*s), rtx_ssrc: Some(Ssrc(rtx)), rid: None }).collect(),
        layers: layers.clone(),
        muted: false,
        encrypted: false,
    }));
    let mut down = callyard_peer::media::extensions();
    down.retain(|e| e.id == TWCC_ID || e.id == MID_ID);
    down.push(ExtensionSpec { id: DESCRIPTOR_ID, uri: DESCRIPTOR.to_owned() });
    world.apply(Command::AddDowntrack(DowntrackSpec {
        downtrack: DOWNTRACK,
        uptrack: UPTRACK,
        transport: World::transport(viewer),
        mid: "0".to_owned(),
        ssrc: Ssrc(SSRC),
        rtx_ssrc: Some(Ssrc(SSRC + 1)),
        codecs: vec![codec.clone()],
        extensions: down,
        want: Want::default(),
    }));
    world.clients[viewer].receive_rtx.insert(SSRC + 1, Rtx { ssrc: SSRC, pt: codec.pt.0 });
}

/// A captured packet as the publisher sends it; what names sections and numbers is left out, as ssrcs are announced.
fn outgoing(packet: &[u8], head: &Head) -> Option<Outgoing> {
    let header = RtpHeader::parse(packet).ok()?;
    let is_kept = |id: u8| head.extensions.iter().any(|e| e.id == id);
    Some(Outgoing {
        ssrc: header.ssrc.0,
        pt: header.pt.0,
        seq: header.seq,
        timestamp: header.timestamp,
        marker: header.marker,
        payload: header.payload().to_vec(),
        extensions: header.extensions().filter(|(id, _)| is_kept(*id)).map(|(id, data)| (id, data.to_vec())).collect(),
    })
}

/// Sequence number, timestamp, marker, length of the dependency descriptor and itself, payload.
fn record(packet: &Received) -> Vec<u8> {
    let descriptor = packet.extensions.iter().find(|(id, _)| *id == DESCRIPTOR_ID);
    let descriptor = descriptor.map(|(_, data)| data.as_slice()).unwrap_or_default();
    let mut out = Vec::with_capacity(packet.payload.len() + descriptor.len() + 8);
    out.extend_from_slice(&packet.seq.to_be_bytes());
    out.extend_from_slice(&packet.timestamp.to_be_bytes());
    // A header extension is at most 255 bytes long.
    out.extend_from_slice(&[u8::from(packet.marker), descriptor.len() as u8]);
    out.extend_from_slice(descriptor);
    out.extend_from_slice(&packet.payload);
    out
}
