//! A whole call in virtual time: one real core, modelled publishers and receivers, a link each way for each of them.
//!
//! It runs and remembers; what a run was worth is computed by `metrics`.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use callyard_peer::client::{Client, Outgoing, Rtx};
use callyard_peer::gaps::LIBWEBRTC;
use callyard_peer::media::{self, TWCC_ID};
use callyard_peer::twcc::TwccReporter;
use callyard_peer::{ROOM, base, certificate, rtcp};
use callyard_proto::command::{
    CodecSpec, Command, DowntrackSpec, DtlsRole, ExtensionSpec, Fingerprint, IceCredentials, LayerMode, LayerSpec,
    MediaKind, Remote, SsrcSpec, UptrackSpec, Want,
};
use callyard_proto::config::Config;
use callyard_proto::counters::Counters;
use callyard_proto::engine::{Datagram, Engine};
use callyard_proto::event::{DowntrackStats, Event};
use callyard_proto::ids::{DowntrackId, Spatial, Ssrc, TransportId, UptrackId};
use callyard_proto::transmit::Path;

use crate::dependency::{DESCRIPTOR, DESCRIPTOR_ID};
use crate::format::{AUDIO_WIRE_BPS, Codec};
use crate::link::{Link, LinkSpec};
use crate::publisher::{Encoder, OPUS_PT, RIDS, Voice, pt};
use crate::random::Random;
use crate::receiver::audio::AudioReceiver;
use crate::receiver::video::VideoReceiver;
use crate::scenario::{Publisher, Scenario, Subscriber};

/// Connections are up and publishers send before subscribers join: joining is measured, shaking hands is not.
pub const JOIN: Duration = Duration::from_secs(4);
const PUBLISH: Duration = Duration::from_secs(2);
/// Everything happens on this grid: a worker's thread wakes no more often.
const STEP_NS: u128 = 1_000_000;
/// Time between looks at the room's figures.
const LOOK: Duration = Duration::from_millis(100);
const PUBLISHER_DELAY_MS: f64 = 10.0;
const DOWN_AUDIO_PT: u8 = 63;
const TRACE: u64 = 1;

pub struct Peer {
    pub client: Client,
    pub up: Link<Vec<u8>>,
    pub down: Link<Vec<u8>>,
}

/// One video track of a publisher.
pub struct Camera {
    pub peer: usize,
    pub uptrack: UptrackId,
    pub encoder: Encoder,
    /// Key frames made before anybody joined.
    pub keyframes_before: u64,
    /// Changes of the demand it was told: second since join, highest layer.
    pub demands: Vec<(f64, Option<u8>)>,
}

struct Microphone {
    peer: usize,
    uptrack: UptrackId,
    voice: Voice,
}

/// A video track as one subscriber has it.
pub struct Screen {
    pub subscriber: usize,
    pub camera: usize,
    pub downtrack: DowntrackId,
    pub ssrc: u32,
    pub tile: Option<(u32, u32)>,
    pub video: VideoReceiver,
    /// Pauses and resumptions by the core: second, whether it is active, why.
    pub states: Vec<(f64, bool, String)>,
}

pub struct Speaker {
    pub subscriber: usize,
    pub ssrc: u32,
    pub audio: AudioReceiver,
}

/// The core's own figures at one moment.
pub struct Look {
    pub at: f64,
    /// By subscriber.
    pub estimates: Vec<u64>,
    pub waits: Vec<f64>,
    /// By screen.
    pub tracks: Vec<DowntrackStats>,
    /// Payload bytes that each stream of each camera had made by then.
    pub made: Vec<Vec<u64>>,
}

pub struct Call {
    pub scenario: Scenario,
    pub seconds: f64,
    pub peers: Vec<Peer>,
    /// Index of the first subscriber among the peers.
    pub first_subscriber: usize,
    pub cameras: Vec<Camera>,
    pub screens: Vec<Screen>,
    pub speakers: Vec<Speaker>,
    pub looks: Vec<Look>,
    /// The core's trace of one subscriber, if one was asked for.
    pub trace: Vec<u8>,
    engine: Engine,
    now: Instant,
    epoch: Instant,
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
    microphones: Vec<Microphone>,
    server_fingerprint: Fingerprint,
    by_address: HashMap<SocketAddr, usize>,
    next_look: Instant,
    next_reports: Instant,
    looks_asked: u64,
    /// The subscriber whose trace is recorded, and from when on, seconds after the join.
    traced: Option<(usize, f64)>,
}

impl Call {
    /// A call that is ready to run.
    pub fn new(scenario: &Scenario, seed: u64, config: Config) -> Self {
        let certificate = certificate();
        let server_fingerprint = certificate.fingerprint();
        let (publishers, subscribers) = scenario.expanded();
        let engine = Engine::new(config, certificate, [seed as u8; 32], base(), Duration::from_secs(1_700_000_000));
        let mut call = Self {
            scenario: scenario.clone(),
            seconds: scenario.seconds,
            peers: Vec::new(),
            first_subscriber: publishers.len(),
            cameras: Vec::new(),
            screens: Vec::new(),
            speakers: Vec::new(),
            looks: Vec::new(),
            trace: Vec::new(),
            traced: None,
            engine,
            now: base(),
            epoch: base(),
            publishers,
            subscribers,
            microphones: Vec::new(),
            server_fingerprint,
            by_address: HashMap::new(),
            next_look: base() + JOIN + LOOK,
            next_reports: base() + PUBLISH,
            looks_asked: 0,
        };
        for index in 0..call.publishers.len() {
            let link = LinkSpec { delay_ms: PUBLISHER_DELAY_MS, ..LinkSpec::default() };
            call.add_peer(seed, link.clone(), link);
            call.peers[index].client.twcc_id = Some(TWCC_ID);
        }
        for index in 0..call.subscribers.len() {
            let down = call.subscribers[index].link.clone();
            let up = LinkSpec { rate: None, rival: None, ..down.clone() };
            let peer = call.add_peer(seed, up, down);
            let client = &mut call.peers[peer].client;
            client.repair = LIBWEBRTC;
            client.report_interval = Some(Duration::from_secs(1));
            client.feedback = Some(TwccReporter::new(base(), TWCC_ID));
        }
        call.make_media(seed);
        call
    }

    /// As [`Call::new`], with the core's trace of one subscriber from that second after the join on.
    pub fn recorded(scenario: &Scenario, seed: u64, config: Config, subscriber: usize, from_s: f64) -> Self {
        Self { traced: Some((subscriber, from_s)), ..Self::new(scenario, seed, config) }
    }

    /// Runs to the end.
    pub fn run(&mut self) {
        self.run_until(self.epoch + PUBLISH);
        for peer in &self.peers {
            assert!(peer.client.is_connected, "everybody connects before the call begins");
        }
        self.publish();
        self.run_until(self.epoch + JOIN);
        if self.traced.is_some_and(|(_, from_s)| from_s <= 0.0) {
            self.start_trace();
        }
        self.subscribe();
        for camera in &mut self.cameras {
            camera.keyframes_before = camera.encoder.keyframes;
        }
        if let Some((_, from_s)) = self.traced.filter(|(_, from_s)| *from_s > 0.0) {
            self.run_until(self.epoch + JOIN + Duration::from_secs_f64(from_s.min(self.seconds)));
            self.start_trace();
        }
        self.run_until(self.epoch + JOIN + Duration::from_secs_f64(self.seconds));
        if self.traced.is_some() {
            self.apply(Command::StopTrace { trace: TRACE });
        }
        let end = self.since_join(self.now);
        for screen in &mut self.screens {
            screen.video.freezes.end(end);
        }
        for speaker in &mut self.speakers {
            speaker.audio.play_until(end);
        }
    }

    fn start_trace(&mut self) {
        if let Some((subscriber, _)) = self.traced {
            let transport = TransportId((self.first_subscriber + subscriber) as u64 + 1);
            self.apply(Command::StartTrace { trace: TRACE, transport, seconds: self.seconds + 1.0 });
        }
    }

    pub fn counters(&self) -> &Counters {
        self.engine.counters()
    }

    /// The subscriber's peer.
    pub fn subscriber(&self, index: usize) -> &Peer {
        &self.peers[self.first_subscriber + index]
    }

    pub fn subscribers(&self) -> usize {
        self.subscribers.len()
    }

    /// Bits a second of voices on every subscriber's link.
    pub fn audio_bps(&self) -> f64 {
        self.microphones.len() as f64 * AUDIO_WIRE_BPS
    }

    fn add_peer(&mut self, seed: u64, up: LinkSpec, down: LinkSpec) -> usize {
        let index = self.peers.len();
        let certificate = certificate();
        let local = IceCredentials { ufrag: format!("client{index}"), pwd: format!("client-password-{index:08}") };
        let server = IceCredentials { ufrag: format!("server{index}"), pwd: format!("server-password-{index:08}") };
        let address = SocketAddr::from((Ipv4Addr::new(198, 51, 100, 1), 10_000 + index as u16));
        let remote =
            Remote { ice: local.clone(), fingerprints: vec![certificate.fingerprint()], role: DtlsRole::Server };
        let fingerprints = vec![self.server_fingerprint.clone()];
        let client = Client::new(base(), address, local, server.clone(), DtlsRole::Client, certificate, fingerprints);
        let start = self.epoch + JOIN;
        let link = |spec, way| Link::new(spec, start, self.seconds, Random::new(seed, 100 + 2 * index as u64 + way));
        self.peers.push(Peer { client, up: link(up, 0), down: link(down, 1) });
        self.by_address.insert(address, index);
        let transport = TransportId(index as u64 + 1);
        let command = Command::AddTransport { transport, room: ROOM, local: server, remote: Some(remote) };
        self.engine.apply(self.now, command);
        index
    }

    fn make_media(&mut self, seed: u64) {
        let start = self.epoch + PUBLISH;
        let mut track = 0;
        for (peer, publisher) in self.publishers.iter().enumerate() {
            for &video in &publisher.video {
                track += 1;
                let ssrc = 1_000 * track as u32;
                let random = Random::new(seed, 10_000 + track);
                let encoder = Encoder::new(video, format!("v{track}"), ssrc, start, random);
                for stream in &encoder.streams {
                    let rtx = Rtx { ssrc: stream.ssrc + 1, pt: pt(encoder.format.codec) + 1 };
                    self.peers[peer].client.send_rtx.insert(stream.ssrc, rtx);
                }
                let uptrack = UptrackId(track);
                self.cameras.push(Camera { peer, uptrack, encoder, keyframes_before: 0, demands: Vec::new() });
            }
            if publisher.audio {
                track += 1;
                let mut random = Random::new(seed, 10_000 + track);
                let voice = Voice::new(format!("a{track}"), 1_000 * track as u32, start, &mut random);
                self.microphones.push(Microphone { peer, uptrack: UptrackId(track), voice });
            }
        }
        let mut downtrack = 0;
        for subscriber in 0..self.subscribers.len() {
            let client = self.first_subscriber + subscriber;
            for camera in 0..self.cameras.len() {
                downtrack += 1;
                let ssrc = 1_000_000 + 10 * downtrack as u32;
                let format = &self.cameras[camera].encoder.format;
                let rtx = Rtx { ssrc, pt: down_pt(format.codec) };
                self.peers[client].client.receive_rtx.insert(ssrc + 1, rtx);
                self.screens.push(Screen {
                    subscriber,
                    camera,
                    downtrack: DowntrackId(downtrack),
                    ssrc,
                    tile: self.subscribers[subscriber].tile(camera),
                    video: VideoReceiver::new(format),
                    states: Vec::new(),
                });
            }
            for microphone in 0..self.microphones.len() {
                let ssrc = 2_000_000 + 1_000 * subscriber as u32 + microphone as u32;
                self.speakers.push(Speaker { subscriber, ssrc, audio: AudioReceiver::default() });
            }
        }
    }

    fn publish(&mut self) {
        let videos = self.cameras.iter().map(|camera| {
            let format = &camera.encoder.format;
            let is_simulcast = format.layers.len() > 1 && !format.is_svc;
            let layers = format.layers.iter().zip(0..).map(|(shape, spatial)| LayerSpec {
                spatial: Spatial(spatial),
                width: shape.width,
                height: shape.height,
                bitrate_bps: shape.bps as u32,
            });
            let only = &camera.encoder.streams[0];
            let ssrc = SsrcSpec { ssrc: Ssrc(only.ssrc), rtx_ssrc: Some(Ssrc(only.ssrc + 1)), rid: None };
            UptrackSpec {
                uptrack: camera.uptrack,
                transport: TransportId(camera.peer as u64 + 1),
                kind: MediaKind::Video,
                content: format.content,
                mode: match (is_simulcast, format.is_svc) {
                    (true, _) => LayerMode::Simulcast,
                    (_, true) => LayerMode::Svc,
                    _ => LayerMode::Single,
                },
                mid: format!("v{}", camera.uptrack.0),
                codecs: vec![codec(format.codec, pt(format.codec))],
                extensions: extensions(),
                rids: RIDS[..format.layers.len()].iter().filter(|_| is_simulcast).map(|r| (*r).to_owned()).collect(),
                ssrcs: if is_simulcast { Vec::new() } else { vec![ssrc] },
                layers: layers.collect(),
                muted: false,
                encrypted: false,
            }
        });
        let audios = self.microphones.iter().map(|microphone| UptrackSpec {
            uptrack: microphone.uptrack,
            transport: TransportId(microphone.peer as u64 + 1),
            kind: MediaKind::Audio,
            content: callyard_proto::command::Content::Camera,
            mode: LayerMode::Single,
            mid: format!("a{}", microphone.uptrack.0),
            codecs: vec![media::opus(OPUS_PT)],
            extensions: extensions(),
            rids: Vec::new(),
            ssrcs: vec![SsrcSpec { ssrc: Ssrc(microphone.voice.ssrc), rtx_ssrc: None, rid: None }],
            layers: Vec::new(),
            muted: false,
            encrypted: false,
        });
        for spec in videos.chain(audios).collect::<Vec<_>>() {
            self.apply(Command::AddUptrack(spec));
        }
    }

    fn subscribe(&mut self) {
        let spec = |transport: usize, id: u64, uptrack, ssrc: u32, codec: CodecSpec, want| DowntrackSpec {
            downtrack: DowntrackId(id),
            uptrack,
            transport: TransportId(transport as u64 + 1),
            mid: id.to_string(),
            ssrc: Ssrc(ssrc),
            rtx_ssrc: codec.rtx_pt.map(|_| Ssrc(ssrc + 1)),
            codecs: vec![codec],
            extensions: extensions(),
            want,
        };
        let mut specs = Vec::new();
        for screen in &self.screens {
            let (width, height) = screen.tile.unwrap_or_default();
            let want = Want { width, height, ..Want::default() };
            let camera = &self.cameras[screen.camera];
            let codec = codec(camera.encoder.format.codec, down_pt(camera.encoder.format.codec));
            let peer = self.first_subscriber + screen.subscriber;
            let spec = spec(peer, screen.downtrack.0, camera.uptrack, screen.ssrc, codec, want);
            specs.push((screen.subscriber, spec));
        }
        for (index, speaker) in self.speakers.iter().enumerate() {
            let peer = self.first_subscriber + speaker.subscriber;
            let uptrack = self.microphones[index % self.microphones.len()].uptrack;
            let id = 100_000 + index as u64;
            let spec = spec(peer, id, uptrack, speaker.ssrc, media::opus(DOWN_AUDIO_PT), Want::default());
            specs.push((speaker.subscriber, spec));
        }
        specs.sort_by_key(|(subscriber, _)| *subscriber);
        for (_, spec) in specs {
            self.apply(Command::AddDowntrack(spec));
        }
    }

    fn apply(&mut self, command: Command) {
        if let Command::UpdateUptrack { uptrack, muted, .. } = &command {
            // Signaling tells everybody of it.
            let cameras = &self.cameras;
            for screen in self.screens.iter_mut().filter(|s| cameras[s.camera].uptrack == *uptrack) {
                screen.video.paused(*muted);
            }
        }
        self.engine.apply(self.now, command);
        self.collect();
    }

    fn run_until(&mut self, end: Instant) {
        while self.now < end {
            self.now = self.next_time(end);
            self.step();
        }
    }

    fn next_time(&self, end: Instant) -> Instant {
        let mut next = end.min(self.next_look).min(self.next_reports);
        let mut sooner = |at: Option<Instant>| next = at.map_or(next, |at| next.min(at));
        sooner(self.engine.deadline());
        for peer in &self.peers {
            sooner(peer.up.next_arrival());
            sooner(peer.down.next_arrival());
            sooner(peer.client.deadline());
        }
        self.cameras.iter().for_each(|camera| sooner(Some(camera.encoder.deadline())));
        self.microphones.iter().for_each(|microphone| sooner(Some(microphone.voice.deadline())));
        let shown = self.screens.iter().filter_map(|screen| screen.video.deadline()).min_by(f64::total_cmp);
        sooner(shown.map(|at| self.epoch + JOIN + Duration::from_secs_f64(at.max(0.0))));
        let since = (next - self.epoch).as_nanos().max((self.now - self.epoch).as_nanos() + 1);
        (self.epoch + Duration::from_nanos((since.div_ceil(STEP_NS) * STEP_NS) as u64)).min(end)
    }

    fn step(&mut self) {
        let now = self.now;
        let mut arrived = Vec::new();
        for peer in &mut self.peers {
            while let Some((_, datagram)) = peer.up.receive(now) {
                arrived.push((peer.client.address, datagram));
            }
        }
        let mut batch: Vec<Datagram<'_>> =
            arrived.iter_mut().map(|(source, payload)| Datagram { source: *source, payload, received: now }).collect();
        self.engine.receive(now, &mut batch);
        if self.engine.deadline().is_some_and(|at| at <= now) {
            self.engine.timeout(now);
        }
        self.collect();
        for peer in &mut self.peers {
            while let Some((at, datagram)) = peer.down.receive(now) {
                peer.client.receive(at, &datagram);
            }
            if peer.client.deadline().is_some_and(|at| at <= now) {
                peer.client.timeout(now);
            }
        }
        self.send_media();
        self.watch();
        if self.next_reports <= now {
            self.next_reports = now + Duration::from_secs(1);
            self.report();
        }
        if self.next_look <= now {
            self.next_look = now + LOOK;
            self.looks_asked += 1;
            self.engine.apply(now, Command::GetRoomStats { request: self.looks_asked, room: ROOM });
            self.collect();
        }
        for peer in &mut self.peers {
            while let Some(datagram) = peer.client.poll_datagram() {
                peer.up.send(now, datagram.len(), datagram);
            }
        }
    }

    fn send_media(&mut self) {
        if self.now < self.epoch + PUBLISH {
            return;
        }
        self.mute();
        for index in 0..self.cameras.len() {
            let camera = &mut self.cameras[index];
            let asked = &mut self.peers[camera.peer].client.keyframes_asked;
            let streams = &camera.encoder.streams;
            let is_ours = |ssrc: &u32| streams.iter().any(|s| s.ssrc == *ssrc);
            if asked.iter().any(is_ours) {
                asked.retain(|ssrc| !is_ours(ssrc));
                camera.encoder.ask_key(self.now);
            }
            let peer = camera.peer;
            for packet in camera.encoder.poll(self.now, self.epoch) {
                self.send(peer, packet);
            }
        }
        for index in 0..self.microphones.len() {
            let peer = self.microphones[index].peer;
            for packet in self.microphones[index].voice.poll(self.now) {
                self.send(peer, packet);
            }
        }
    }

    fn send(&mut self, peer: usize, packet: Outgoing) {
        self.peers[peer].client.send_rtp(packet);
    }

    fn mute(&mut self) {
        let t = self.since_join(self.now);
        let mut commands = Vec::new();
        for camera in &mut self.cameras {
            let muted = self.publishers[camera.peer].muted.iter().any(|(from, to)| (*from..*to).contains(&t));
            if muted != camera.encoder.is_muted {
                camera.encoder.is_muted = muted;
                if !muted {
                    camera.encoder.ask_key(self.now);
                }
                commands.push(Command::UpdateUptrack { uptrack: camera.uptrack, muted, layers: None });
            }
        }
        commands.into_iter().for_each(|command| self.apply(command));
    }

    /// Gives receivers what came, and sends what they ask for.
    fn watch(&mut self) {
        let (start, now) = (self.epoch + JOIN, self.since_join(self.now));
        let seconds = |at: Instant| at.saturating_duration_since(start).as_secs_f64();
        for subscriber in 0..self.subscribers.len() {
            let client = &mut self.peers[self.first_subscriber + subscriber].client;
            client.rtcp.clear();
            let received = std::mem::take(&mut client.received);
            for packet in &received {
                if packet.pt != DOWN_AUDIO_PT {
                    let screen = self.screens.iter_mut().find(|s| s.ssrc == packet.ssrc && s.subscriber == subscriber);
                    if let Some(screen) = screen {
                        screen.video.packet(seconds(packet.at), packet);
                    }
                } else if let Some(speaker) = self.speakers.iter_mut().find(|s| s.ssrc == packet.ssrc) {
                    speaker.audio.packet(seconds(packet.at), packet.timestamp);
                }
            }
        }
        for screen in &mut self.screens {
            if screen.video.poll(now) {
                let pli = rtcp::pli(screen.ssrc);
                self.peers[self.first_subscriber + screen.subscriber].client.send_rtcp(&pli);
            }
        }
    }

    /// Sender reports of the publishers.
    fn report(&mut self) {
        let since = self.now - self.epoch;
        let ntp = ((2_208_988_800.0 + since.as_secs_f64()) * 4_294_967_296.0) as u64;
        for camera in &self.cameras {
            for (index, stream) in camera.encoder.streams.iter().enumerate() {
                let report = rtcp::sender_report(stream.ssrc, ntp, camera.encoder.timestamp(index, since));
                self.peers[camera.peer].client.send_rtcp(&report);
            }
        }
    }

    fn collect(&mut self) {
        for (destination, datagram) in self.engine.transmits().datagrams() {
            if let Path::Udp(address) = destination
                && let Some(&peer) = self.by_address.get(&address)
            {
                self.peers[peer].down.send(self.now, datagram.len(), datagram.to_vec());
            }
        }
        self.engine.clear_transmits();
        while let Some(event) = self.engine.poll_event() {
            self.heed(event);
        }
    }

    fn heed(&mut self, event: Event) {
        let t = self.since_join(self.now);
        match event {
            Event::UptrackDemand { uptrack, max_spatial } => {
                let max = max_spatial.map(|s| s.0);
                if let Some(camera) = self.cameras.iter_mut().find(|c| c.uptrack == uptrack) {
                    camera.demands.push((t, max));
                    camera.encoder.demand(self.now, max);
                }
            }
            Event::DowntrackState { downtrack, active, reason } => {
                if let Some(screen) = self.screens.iter_mut().find(|s| s.downtrack == downtrack) {
                    screen.states.push((t, active, reason));
                    screen.video.paused(!active);
                }
            }
            Event::RoomStats { transports, downtracks, .. } => self.look(t, &transports, &downtracks),
            Event::Trace { lines, .. } => self.trace.extend_from_slice(&lines),
            Event::Rejected { command, code, message, .. } => panic!("{command} was refused: {code}: {message}"),
            _ => {}
        }
    }

    fn look(&mut self, at: f64, transports: &[callyard_proto::event::TransportStats], downtracks: &[DowntrackStats]) {
        let subscribers = self.first_subscriber..self.peers.len();
        let estimate = |peer: usize| {
            let id = TransportId(peer as u64 + 1);
            transports.iter().find(|t| t.quality.transport == id).map_or(0, |t| t.estimate_bps)
        };
        let track =
            |screen: &Screen| downtracks.iter().find(|d| d.downtrack == screen.downtrack).cloned().unwrap_or_default();
        self.looks.push(Look {
            at,
            estimates: subscribers.clone().map(estimate).collect(),
            waits: subscribers.map(|peer| self.peers[peer].down.wait(self.now)).collect(),
            tracks: self.screens.iter().map(track).collect(),
            made: self.cameras.iter().map(|c| c.encoder.layers.iter().map(|l| l.bytes).collect()).collect(),
        });
    }

    fn since_join(&self, at: Instant) -> f64 {
        (at - self.epoch).as_secs_f64() - JOIN.as_secs_f64()
    }
}

fn codec(codec: Codec, pt: u8) -> CodecSpec {
    let mime = match codec {
        Codec::Vp8 => "video/VP8",
        Codec::Vp9 => "video/VP9",
        Codec::Av1 => "video/AV1",
    };
    CodecSpec { mime: mime.to_owned(), ..media::vp8(pt) }
}

/// Payload type towards subscribers.
fn down_pt(codec: Codec) -> u8 {
    match codec {
        Codec::Vp8 => 100,
        Codec::Vp9 => 102,
        Codec::Av1 => 106,
    }
}

/// Dependency descriptors are negotiated in every session, as clients do.
fn extensions() -> Vec<ExtensionSpec> {
    let mut all = media::extensions();
    all.push(ExtensionSpec { id: DESCRIPTOR_ID, uri: DESCRIPTOR.to_owned() });
    all
}
