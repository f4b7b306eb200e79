//! One subscriber's copy of an uptrack: what it wants, its selector and munger, and how its packets look on the wire.
//!
//! State and look-ups; packets are put through it by `forward`, feedback by `feedback`.

use std::time::Instant;

use super::climb::Climb;
use super::up::Uptrack;
use crate::allocator::guard::Guard;
use crate::breaker::Watch;
use crate::codec::Codec;
use crate::command::{CodecSpec, DowntrackSpec, MediaKind, Want};
use crate::downtrack::{AUDIO_WINDOW, Munger, Selector, SentHistory, VIDEO_WINDOW};
use crate::entropy::Entropy;
use crate::extension_ids::ExtensionIds;
use crate::ids::{DowntrackId, Pt, SeqNo, Spatial, Ssrc};
use crate::pacer::{Pacer, Waiting};
use crate::transmit::TransmitArena;

/// The mid rides along until the subscriber reports on the stream, or for so many packets (RFC 9143 §15).
pub(super) const MID_PACKETS: u32 = 150;

/// How one codec of the uptrack is sent on this downtrack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SentAs {
    pub pt: Pt,
    pub rtx_pt: Option<Pt>,
    pub clock_rate: u32,
    /// RED, of which the subscriber gets the newest encoding alone.
    pub unwraps_red: bool,
    /// RED that he takes whole: as what its newest encoding would be sent.
    pub lean_pt: Option<Pt>,
}

impl SentAs {
    /// How one packet is sent. `is_readable`: its encodings can be told apart; `is_lean`: the subscriber has no room for what
    /// RED says again. `None`: there is nothing in it that he takes.
    #[inline]
    pub fn of_packet(self, is_readable: bool, is_lean: bool) -> Option<Self> {
        match self.lean_pt {
            Some(pt) if is_lean && is_readable => Some(Self { pt, unwraps_red: true, lean_pt: None, ..self }),
            _ => (is_readable || !self.unwraps_red).then_some(self),
        }
    }
}

/// What the subscriber reported last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reported {
    pub fraction_lost: f32,
    pub jitter_ms: f32,
    pub at: Option<Instant>,
}

/// Sealed packets of codecs for which the subscriber has no RTX: a nonce must never seal two different packets, so what
/// is sent again are the very bytes (RFC 7714 §8.1).
pub(super) struct KeptDatagrams {
    ring: Vec<(u16, Vec<u8>)>,
    packets: usize,
}

/// Half a second of a 2 Mbit/s stream.
const KEPT_VIDEO: usize = 128;
/// Half a second and more of 20 ms packets.
const KEPT_AUDIO: usize = 32;

impl KeptDatagrams {
    /// `packets`: a power of two, so that places do not jump where the number wraps.
    pub fn new(packets: usize) -> Self {
        Self { ring: Vec::new(), packets }
    }

    /// `datagram`: empty where there is RTX for it, so that nothing of an earlier round is taken for it.
    pub fn keep(&mut self, seq: u16, datagram: &[u8]) {
        let place = usize::from(seq) & (self.packets - 1);
        while self.ring.len() <= place {
            self.ring.push((seq.wrapping_add(1), Vec::new()));
        }
        let (kept, bytes) = &mut self.ring[place];
        *kept = seq;
        bytes.clear();
        bytes.extend_from_slice(datagram);
    }

    pub fn get(&self, seq: u16) -> Option<&[u8]> {
        let (kept, bytes) = self.ring.get(usize::from(seq) & (self.packets - 1))?;
        (*kept == seq && !bytes.is_empty()).then_some(bytes)
    }
}

/// What the fan-out touches of it for each packet comes first, and in this order: it lies cold by then, and each cache line
/// less is a wait less.
#[repr(C)]
pub(super) struct Downtrack {
    pub transport: usize,
    pub uptrack: usize,
    pub kind: MediaKind,
    /// `climb` is there: that lies further off.
    pub is_climbing: bool,
    pub mid_left: u32,
    pub ssrc: Ssrc,
    /// Packets of it in the pacer, those left out among them.
    pub waiting: usize,
    pub selector: Selector,
    pub extensions: ExtensionIds,
    /// What was last found there: each packet of each subscriber asks.
    current_codec: Option<(usize, SentAs)>,
    /// Encoding of the last packet sent.
    pub source: Option<usize>,
    pub last_codec: Option<usize>,
    pub last_sent: Option<Instant>,
    pub munger: Munger,
    pub sent: SentHistory,
    pub packets: u64,
    /// Payload bytes, as a sender report counts them.
    pub octets: u64,
    pub bytes: u64,
    /// Only where the subscriber may ask again and has no RTX, for some codec.
    pub kept: Option<KeptDatagrams>,
    pub id: DowntrackId,
    pub mid: String,
    pub rtx_ssrc: Option<Ssrc>,
    pub rtx_seq: SeqNo,
    pub spec: DowntrackSpec,
    /// By the uptrack's codec index.
    sent_as: Vec<Option<SentAs>>,
    pub want: Want,
    /// The last wish was for this microphone before others.
    pub was_favoured: bool,
    /// The highest layer that the subscriber's wish allows, and the one that he may be sent.
    pub wished_spatial: Option<Spatial>,
    pub max_spatial: Option<Spatial>,
    /// Who may climb when.
    pub guard: Guard,
    /// What the allocation gives it, and why; empty where nothing is allocated.
    pub target_bps: u64,
    pub allocation: &'static str,
    /// Since when there is no room for it, and what for there was none last.
    pub paused: Option<Instant>,
    pub paused_for: &'static str,
    /// Since when any wait.
    pub waiting_since: Option<Instant>,
    /// The larger size's key frame that waits for the present size's picture.
    pub climb: Option<Climb>,
    pub has_started: bool,
    /// A key frame was asked for before it could be sent.
    pub is_foreseen: bool,
    /// Its picture stands until a key frame, which was asked for.
    pub is_broken: bool,
    /// Where the last key picture begins: what is missing from before it breaks nothing any more.
    pub whole_since: SeqNo,
    pub active: Option<bool>,
    pub reason: &'static str,
    pub retransmitted: u64,
    pub nacks: u64,
    pub plis: u64,
    /// Sender and number of the last FIR.
    pub last_fir: Option<(Ssrc, u8)>,
    pub reported: Reported,
    /// Reads the reports for the circuit breaker.
    pub watch: Watch,
}

impl Downtrack {
    pub fn new(
        spec: DowntrackSpec,
        transport: usize,
        uptrack_slot: usize,
        uptrack: &Uptrack,
        entropy: &mut Entropy,
    ) -> Self {
        let window = if uptrack.kind == MediaKind::Video { VIDEO_WINDOW } else { AUDIO_WINDOW };
        let mut downtrack = Self {
            id: spec.downtrack,
            uptrack: uptrack_slot,
            transport,
            kind: uptrack.kind,
            is_climbing: false,
            mid: spec.mid.clone(),
            ssrc: spec.ssrc,
            rtx_ssrc: spec.rtx_ssrc,
            // The upper half of the range stays free, so that a first packet arriving late is not taken for a wrap.
            rtx_seq: SeqNo(u64::from(entropy.next_u32() & 0x7fff)),
            extensions: ExtensionIds::new(&spec.extensions),
            sent_as: Vec::new(),
            current_codec: None,
            want: spec.want.clone(),
            was_favoured: false,
            selector: Selector::new(uptrack.kind),
            munger: Munger::new(entropy.next_u32() as u16 & 0x7fff, entropy.next_u32(), window),
            sent: SentHistory::new(window),
            wished_spatial: None,
            max_spatial: None,
            guard: Guard::default(),
            target_bps: 0,
            allocation: "",
            paused: None,
            paused_for: "",
            waiting: 0,
            waiting_since: None,
            climb: None,
            has_started: false,
            is_foreseen: false,
            is_broken: false,
            whole_since: SeqNo(0),
            mid_left: MID_PACKETS,
            active: None,
            reason: "waiting",
            last_codec: None,
            last_sent: None,
            packets: 0,
            octets: 0,
            bytes: 0,
            retransmitted: 0,
            nacks: 0,
            plis: 0,
            last_fir: None,
            reported: Reported::default(),
            watch: Watch::default(),
            kept: None,
            source: None,
            spec,
        };
        downtrack.match_codecs(uptrack);
        let has_rtx = |c: &CodecSpec| downtrack.rtx_ssrc.is_some() && c.rtx_pt.is_some();
        let asks_again = |c: &CodecSpec| c.feedback.iter().any(|f| f.eq_ignore_ascii_case("nack"));
        if downtrack.spec.codecs.iter().any(|c| asks_again(c) && !has_rtx(c)) {
            let is_video = downtrack.kind == MediaKind::Video;
            downtrack.kept = Some(KeptDatagrams::new(if is_video { KEPT_VIDEO } else { KEPT_AUDIO }));
        }
        downtrack
    }

    /// Keeps the next packet, which lies in the arena, as far as it could not be sent again otherwise.
    #[inline]
    pub fn keep(&mut self, sent_as: SentAs, seq: SeqNo, arena: &mut TransmitArena, len: usize) {
        if let Some(kept) = &mut self.kept {
            let has_rtx = self.rtx_ssrc.is_some() && sent_as.rtx_pt.is_some();
            kept.keep(seq.0 as u16, if has_rtx { &[] } else { &arena.reserve(len)[..len] });
        }
    }

    /// Puts one of its packets behind what waits.
    pub fn wait(&mut self, now: Instant, pacer: &mut Pacer, waiting: Waiting) {
        if self.waiting == 0 {
            self.waiting_since = Some(now);
        }
        self.waiting += 1;
        pacer.hold(waiting);
    }

    /// The subscriber reports on its packets transport-wide.
    pub fn promises_feedback(&self) -> bool {
        let reports = |c: &CodecSpec| c.feedback.iter().any(|f| f.eq_ignore_ascii_case("transport-cc"));
        self.extensions.transport_seq.is_some() && self.spec.codecs.iter().any(reports)
    }

    /// Another uptrack takes over; numbering goes on.
    pub fn join(&mut self, slot: usize, uptrack: &Uptrack) {
        self.uptrack = slot;
        self.match_codecs(uptrack);
        self.selector.restart();
        // The originals are kept with the uptrack that is left.
        self.sent.forget();
        self.last_codec = None;
        self.source = None;
        self.waiting = 0;
        self.set_climb(None);
        self.guard = Guard::default();
    }

    /// A microphone that its subscriber wants to hear before others, however loud those are.
    #[inline]
    pub fn is_favoured(&self) -> bool {
        self.want.priority > 0
    }

    /// The subscriber would be sent a larger layer but for want of CPU.
    pub fn is_capped(&self) -> bool {
        self.max_spatial < self.wished_spatial
    }

    /// Less is sent than the subscriber's wish allows.
    pub fn is_limited(&self) -> bool {
        self.kind == MediaKind::Video
            && (self.paused.is_some()
                || self
                    .selector
                    .current()
                    .is_some_and(|now| self.wished_spatial.is_some_and(|wish| now.spatial < wish)))
    }

    /// How the uptrack's codec with this index is sent; `None`: the subscriber does not take it.
    pub fn sent_as(&self, codec: usize) -> Option<SentAs> {
        self.sent_as.get(codec).copied().flatten()
    }

    /// The same, found sooner if it was asked for last.
    #[inline]
    pub fn now_sent_as(&mut self, codec: usize) -> Option<SentAs> {
        match self.current_codec {
            Some((current, sent_as)) if current == codec => Some(sent_as),
            _ => {
                let found = self.sent_as(codec);
                self.current_codec = found.map(|sent_as| (codec, sent_as));
                found
            }
        }
    }

    /// The same of all codecs that the subscriber takes, of the one being sent first.
    pub fn all_sent_as(&self) -> impl Iterator<Item = SentAs> {
        let current = self.last_codec.and_then(|codec| self.sent_as(codec));
        current.into_iter().chain(self.sent_as.iter().copied().flatten())
    }

    fn match_codecs(&mut self, uptrack: &Uptrack) {
        self.current_codec = None;
        self.sent_as = uptrack
            .codecs
            .iter()
            .map(|up| {
                let same = |down: &&CodecSpec| {
                    down.mime.eq_ignore_ascii_case(&up.spec.mime) && down.clock_rate == up.spec.clock_rate
                };
                // H.264 and VP9 may be offered several times: the one with the publisher's parameters comes first.
                let candidates = || self.spec.codecs.iter().filter(same);
                let sent_as = |down: &CodecSpec| SentAs {
                    pt: down.pt,
                    rtx_pt: down.rtx_pt,
                    clock_rate: down.clock_rate,
                    unwraps_red: false,
                    lean_pt: None,
                };
                let exact = candidates().find(|down| same_profile(up.codec, &down.fmtp, &up.spec.fmtp));
                if up.codec == Codec::Red {
                    // Its blocks bear the publisher's payload types, which must mean the same to the subscriber.
                    let is_opus = |down: &&CodecSpec| {
                        Codec::from_mime(&down.mime) == Codec::Opus && down.clock_rate == up.spec.clock_rate
                    };
                    // Encrypted end to end, nothing can be taken out of it.
                    let opus = self.spec.codecs.iter().find(is_opus).filter(|_| !uptrack.encrypted);
                    let whole = exact.map(|down| SentAs { lean_pt: opus.map(|opus| opus.pt), ..sent_as(down) });
                    return whole.or(opus.map(|opus| SentAs { unwraps_red: true, ..sent_as(opus) }));
                }
                exact.or_else(|| candidates().next()).map(sent_as)
            })
            .collect();
    }
}

/// Whether two format-parameter lines describe streams that one decoder takes: profile, and H.264's packetization mode.
fn same_profile(codec: Codec, a: &str, b: &str) -> bool {
    let parameter = |line: &str, name: &str, default: &str| {
        line.split(';')
            .filter_map(|p| p.trim().split_once('='))
            .find(|(key, _)| key.trim().eq_ignore_ascii_case(name))
            .map_or_else(|| default.to_owned(), |(_, value)| value.trim().to_ascii_lowercase())
    };
    let same = |name: &str, default: &str| parameter(a, name, default) == parameter(b, name, default);
    match codec {
        // The first four digits are profile and constraints; the rest is the level, which may differ (RFC 6184 §8.2.2).
        Codec::H264 => {
            let profile =
                |line: &str| parameter(line, "profile-level-id", "420010").chars().take(4).collect::<String>();
            profile(a) == profile(b) && same("packetization-mode", "0")
        }
        Codec::Vp9 => same("profile-id", "0"),
        Codec::H265 => same("profile-id", "1"),
        // RFC 2198 §4: the payload types of its blocks.
        Codec::Red => a.trim() == b.trim(),
        Codec::Av1 => same("profile", "0"),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_must_agree_and_levels_need_not() {
        let table = [
            (
                Codec::H264,
                "profile-level-id=42e01f;packetization-mode=1",
                "packetization-mode=1;profile-level-id=42e034",
                true,
            ),
            (Codec::H264, "profile-level-id=42e01f;packetization-mode=1", "profile-level-id=42e01f", false),
            (
                Codec::H264,
                "profile-level-id=640c1f;packetization-mode=1",
                "profile-level-id=42e01f;packetization-mode=1",
                false,
            ),
            (Codec::Vp9, "", "profile-id=0", true),
            (Codec::Vp9, "profile-id=2", "profile-id=0", false),
            (Codec::Vp8, "anything=1", "", true),
        ];
        for (codec, a, b, same) in table {
            assert_eq!(same_profile(codec, a, b), same, "{a} and {b}");
        }
    }
}
