//! The receive side of a published track: its codecs, its encodings with their registers, and who subscribes to it.
//!
//! State and look-ups; packets are put through it by `ingress`, feedback by `feedback` and `tick`.

use std::time::{Duration, Instant};

use super::audible::Gate;
use super::commands::{Refusal, refuse};
use super::down::Downtrack;
use crate::codec::dd::Structure;
use crate::codec::{Codec, red};
use crate::command::{CodecSpec, Content, LayerMode, LayerSpec, MediaKind, UptrackSpec};
use crate::config::Config;
use crate::extension_ids::ExtensionIds;
use crate::ids::{Pt, RoomId, SeqNo, Spatial, Ssrc, UptrackId};
use crate::registers::history::History;
use crate::registers::layers::Layers;
use crate::registers::loudest::Voice;
use crate::registers::uptrack::{KeyframePace, KeyframeRequest, NackRegister, ReceiveStats};

/// More codecs than any description offers for one section.
const MAX_CODECS: usize = 32;

pub(super) struct UpCodec {
    pub spec: CodecSpec,
    pub codec: Codec,
    pub has_nack: bool,
    pub has_pli: bool,
    pub has_fir: bool,
    pub has_twcc: bool,
    pub has_remb: bool,
}

impl UpCodec {
    fn new(spec: CodecSpec) -> Self {
        let has = |name: &str| spec.feedback.iter().any(|f| f.eq_ignore_ascii_case(name));
        Self {
            codec: Codec::from_mime(&spec.mime),
            has_nack: has("nack"),
            has_pli: has("nack pli"),
            has_fir: has("ccm fir"),
            has_twcc: has("transport-cc"),
            has_remb: has("goog-remb"),
            spec,
        }
    }
}

/// What a payload type stands for on this section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PtUse {
    Media(usize),
    /// Retransmissions of the codec with this index.
    Rtx(usize),
}

/// Sender report of the publisher: the RTP clock against wall-clock time.
#[derive(Clone, Copy, Debug)]
pub(super) struct SenderClock {
    pub ntp: u64,
    pub rtp: u32,
}

impl SenderClock {
    /// The timestamp that another stream of the same publisher has at the moment of this stream's `timestamp`.
    fn translate(&self, timestamp: u32, other: &Self, clock_rate: u32) -> u32 {
        let apart = (i128::from(self.ntp.wrapping_sub(other.ntp) as i64) * i128::from(clock_rate)) >> 32;
        other.rtp.wrapping_add(timestamp.wrapping_sub(self.rtp)).wrapping_add(apart as u32)
    }
}

/// One stream of the track: a simulcast encoding, or all there is.
pub(super) struct Encoding {
    pub rid: Option<String>,
    pub ssrc: Option<Ssrc>,
    pub rtx_ssrc: Option<Ssrc>,
    pub stats: ReceiveStats,
    pub nacks: NackRegister,
    pub history: History,
    pub keyframes: KeyframeRequest,
    pub clock: Option<SenderClock>,
    /// Latest structure of its dependency descriptors, and the packet that brought it.
    pub structure: Option<Structure>,
    pub structure_seq: SeqNo,
    /// Where the last key frame begins.
    pub last_key: Option<KeyPicture>,
    pub fir_seq: u8,
}

/// A key frame that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyPicture {
    /// Of its first packet.
    pub seq: SeqNo,
    pub timestamp: u32,
    pub at: Instant,
}

pub(super) struct Uptrack {
    pub id: UptrackId,
    pub transport: usize,
    pub room: RoomId,
    pub kind: MediaKind,
    pub content: Content,
    pub mode: LayerMode,
    pub mid: String,
    pub codecs: Vec<UpCodec>,
    pub extensions: ExtensionIds,
    pub encodings: Vec<Encoding>,
    pub layers: Layers,
    pub declared: Vec<LayerSpec>,
    pub muted: bool,
    pub encrypted: bool,
    /// Of a microphone: what it sounds like, and whether it is heard.
    pub voice: Voice,
    pub gate: Gate,
    /// Some subscriber may have asked for it before others.
    pub has_favoured: bool,
    pub downtracks: Vec<usize>,
    /// Codec of the last packet.
    pub current_codec: Option<usize>,
    /// What was last told by `UptrackMedia`.
    pub announced: Option<(usize, Vec<Spatial>)>,
    pub demand: Demand,
    pub first_pending: Option<usize>,
    pub last_pending: usize,
    pub packets: u64,
    pub bytes: u64,
    pub nacks_sent: u64,
    pub plis_sent: u64,
    pub keyframes_seen: u64,
    by_pt: [Option<PtUse>; 128],
}

/// What the publisher was last told to send, and a lower wish that waits for its dwell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Demand {
    pub told: Option<Option<Spatial>>,
    pub lower_since: Option<Instant>,
}

impl Demand {
    /// What to tell now, if anything: a rise at once, a fall after `dwell`.
    pub fn update(&mut self, now: Instant, wanted: Option<Spatial>, dwell: Duration) -> Option<Option<Spatial>> {
        match self.told {
            Some(told) if wanted == told => {
                self.lower_since = None;
                return None;
            }
            told if wanted < told.unwrap_or(Some(Spatial(u8::MAX))) && wanted.is_none_or(|_| told.is_some()) => {
                let since = *self.lower_since.get_or_insert(now);
                if now.saturating_duration_since(since) < dwell {
                    return None;
                }
            }
            _ => {}
        }
        self.told = Some(wanted);
        self.lower_since = None;
        Some(wanted)
    }
}

impl Uptrack {
    /// The encoding that carries a stream; where there is but one, all are its layers.
    pub fn index_of(&self, stream: Spatial) -> usize {
        usize::from(stream.0).min(self.encodings.len() - 1)
    }

    /// A timestamp of one encoding on another one's clock; `None`: sender reports of both have not told yet.
    pub fn translate(&self, timestamp: u32, from: usize, to: usize, clock_rate: u32) -> Option<u32> {
        let clock = |encoding: usize| self.encodings.get(encoding)?.clock;
        Some(clock(from)?.translate(timestamp, &clock(to)?, clock_rate))
    }

    /// Whether its request for a key frame is one for a first picture. Whoever is alone has made the earlier ones himself, and is
    /// not held up by others', unless one was made for him in vain: too much has followed the key frame by the time he could
    /// be sent it.
    pub fn owes_first_picture(&self, downtrack: &Downtrack) -> bool {
        downtrack.packets == 0 && (self.downtracks.len() > 1 || downtrack.is_foreseen)
    }

    /// Where the newest encoding begins in a payload of this codec; `None`: it is not RED, or none that can be read.
    #[inline]
    pub fn newest_of_red(&self, codec: usize, payload: &[u8]) -> Option<usize> {
        if self.codecs[codec].codec != Codec::Red || self.encrypted {
            return None;
        }
        red::primary(payload).map(|newest| newest.start)
    }

    pub fn new(spec: UptrackSpec, transport: usize, room: RoomId, config: &Config) -> Result<Self, Refusal> {
        if spec.codecs.is_empty() || spec.codecs.len() > MAX_CODECS {
            return refuse("bad_codecs", format!("An uptrack needs 1 to {MAX_CODECS} codecs."));
        }
        let mut by_pt = [None; 128];
        for (index, codec) in spec.codecs.iter().enumerate() {
            for (pt, usage) in [(Some(codec.pt), PtUse::Media(index)), (codec.rtx_pt, PtUse::Rtx(index))] {
                let Some(Pt(pt)) = pt else { continue };
                match by_pt.get_mut(usize::from(pt)) {
                    Some(place) => *place = Some(usage),
                    None => return refuse("bad_payload_type", format!("Payload type {pt} is not below 128.")),
                }
            }
        }
        let is_simulcast = spec.mode == LayerMode::Simulcast;
        let count = if is_simulcast { spec.rids.len().max(spec.ssrcs.len()).clamp(1, 8) } else { 1 };
        let clock_rate = spec.codecs[0].clock_rate;
        let mut encodings: Vec<Encoding> =
            (0..count).map(|i| Encoding::new(spec.rids.get(i).cloned(), clock_rate, spec.kind, config)).collect();
        for (i, known) in spec.ssrcs.iter().enumerate() {
            let by_rid = known.rid.as_ref().and_then(|rid| spec.rids.iter().position(|r| r == rid));
            let index = by_rid.unwrap_or(if is_simulcast { i } else { 0 });
            if let Some(encoding) = encodings.get_mut(index)
                && encoding.ssrc.is_none()
            {
                encoding.ssrc = Some(known.ssrc);
                encoding.rtx_ssrc = known.rtx_ssrc;
            }
        }
        Ok(Self {
            id: spec.uptrack,
            transport,
            room,
            kind: spec.kind,
            content: spec.content,
            mode: spec.mode,
            mid: spec.mid,
            extensions: ExtensionIds::new(&spec.extensions),
            layers: Layers::new(config.layer_timeout, spec.content == Content::Screen),
            declared: spec.layers,
            codecs: spec.codecs.into_iter().map(UpCodec::new).collect(),
            encodings,
            muted: spec.muted,
            encrypted: spec.encrypted,
            voice: Voice::default(),
            gate: Gate::default(),
            has_favoured: false,
            downtracks: Vec::new(),
            current_codec: None,
            announced: None,
            demand: Demand::default(),
            first_pending: None,
            last_pending: 0,
            packets: 0,
            bytes: 0,
            nacks_sent: 0,
            plis_sent: 0,
            keyframes_seen: 0,
            by_pt,
        })
    }

    pub fn pt(&self, pt: Pt) -> Option<PtUse> {
        self.by_pt.get(usize::from(pt.0)).copied().flatten()
    }

    /// The encoding that a rid names; the only one there is needs no name.
    pub fn encoding_of_rid(&self, rid: Option<&str>) -> Option<usize> {
        match rid {
            Some(rid) => self
                .encodings
                .iter()
                .position(|e| e.rid.as_deref() == Some(rid))
                .or_else(|| (self.encodings.len() == 1 && self.encodings[0].rid.is_none()).then_some(0)),
            None => (self.encodings.len() == 1).then_some(0),
        }
    }

    pub fn top_spatial(&self) -> Spatial {
        match self.mode {
            LayerMode::Simulcast => Spatial((self.encodings.len() - 1) as u8),
            LayerMode::Single | LayerMode::Svc => self.declared.iter().map(|l| l.spatial).max().unwrap_or_default(),
        }
    }

    pub fn feedback_codec(&self) -> Option<&UpCodec> {
        self.codecs.get(self.current_codec.unwrap_or(0))
    }
}

/// Packets of one stream that are kept at most.
pub(super) fn most_history(kind: MediaKind, config: &Config) -> usize {
    match kind {
        MediaKind::Video => config.history_packets,
        // 20 ms a packet: what is older than this would come too late.
        MediaKind::Audio => config.history_packets.min(64),
    }
}

impl Encoding {
    /// Another numbering begins: what was missing or kept of the old one means nothing now.
    pub fn restart(&mut self, clock_rate: u32) {
        self.stats = ReceiveStats::new(clock_rate);
        self.nacks = NackRegister::new();
        self.history.clear();
        self.clock = None;
        (self.structure, self.structure_seq) = (None, SeqNo(0));
        self.last_key = None;
    }

    /// A structure is in force from its key frame on; that of an older one, repaired by now, has had its day.
    pub fn on_structure(&mut self, seq: SeqNo, structure: &Structure) {
        if seq >= self.structure_seq {
            (self.structure, self.structure_seq) = (Some(structure.clone()), seq);
        }
    }

    /// A packet with which a key frame begins; there may be several of one.
    pub fn on_key_start(&mut self, now: Instant, seq: SeqNo, timestamp: u32) {
        match &mut self.last_key {
            Some(last) if last.timestamp == timestamp => last.seq = last.seq.min(seq),
            Some(last) if seq < last.seq => {}
            last => *last = Some(KeyPicture { seq, timestamp, at: now }),
        }
    }

    fn new(rid: Option<String>, clock_rate: u32, kind: MediaKind, config: &Config) -> Self {
        Self {
            rid,
            ssrc: None,
            rtx_ssrc: None,
            stats: ReceiveStats::new(clock_rate),
            nacks: NackRegister::new(),
            history: History::new(most_history(kind, config)),
            keyframes: KeyframeRequest::new(KeyframePace {
                interval: config.keyframe_interval,
                first_picture: config.first_picture_interval,
                burst: config.first_picture_burst,
            }),
            clock: None,
            structure: None,
            structure_seq: SeqNo(0),
            last_key: None,
            fir_seq: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::dd::tests::l2t1_key;

    #[test]
    fn demand_rises_at_once_and_falls_after_its_dwell() {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let dwell = Duration::from_secs(3);
        let mut demand = Demand::default();
        let (low, high) = (Some(Spatial(0)), Some(Spatial(2)));
        let table = [
            (0, None, None),
            (10, low, Some(low)),
            (20, high, Some(high)),
            (30, low, None),
            (2_000, high, None),
            (2_010, low, None),
            (5_009, low, None),
            (5_010, low, Some(low)),
            (5_020, None, None),
            (8_020, None, Some(None)),
        ];
        for (ms, wanted, told) in table {
            assert_eq!(demand.update(at(ms), wanted, dwell), told, "at {ms} ms");
        }
    }

    #[test]
    fn a_late_key_frame_puts_no_old_structure_in_force() {
        let mut encoding = Encoding::new(None, 90_000, MediaKind::Video, &Config::default());
        let [mut older, mut newer] = [100, 200].map(|number| l2t1_key(0, number, true).structure.expect("a key frame"));
        (older.resolutions, newer.resolutions) = (vec![(640, 360)], vec![(1_280, 720)]);
        encoding.on_structure(SeqNo(70_000), &newer);
        encoding.on_structure(SeqNo(69_990), &older);
        assert_eq!(encoding.structure, Some(newer));
        encoding.restart(90_000);
        encoding.on_structure(SeqNo(65_600), &older);
        assert_eq!(encoding.structure, Some(older), "another numbering");
    }
}
