//! A video decoder as far as packets decide: which frames are whole, which can be decoded, and when each one is seen.
//!
//! The model of libwebrtc: frames wait for their time in a jitter buffer, a newer decodable frame replaces older ones that
//! are not whole when its time comes, and a key frame is asked for when nothing could be decoded for long.

use std::collections::BTreeMap;

use callyard_peer::client::Received;
use callyard_proto::codec::dd::{Descriptor, Structure};

use super::freeze::Freezes;
use super::{Lateness, Unwrap};
use crate::dependency::DESCRIPTOR_ID;
use crate::format::{Codec, Format, Head, Mark};

/// Lateness that this share of frames keeps within sets the jitter buffer.
const IN_TIME: f64 = 0.95;
const WINDOW_S: f64 = 3.0;
const LEAST_S: f64 = 0.01;
const MOST_S: f64 = 1.0;
/// libwebrtc asks for a key frame after so long without a decodable frame: before the first one, and later.
const WAIT_FOR_KEY_S: f64 = 0.2;
const WAIT_FOR_FRAME_S: f64 = 3.0;
/// A stream without packets for so long has been paused by the sender: nothing is asked for.
const QUIET_S: f64 = 1.0;
/// Frames that later ones may refer to: more than any encoder keeps.
const REMEMBERED: usize = 64;

/// A frame that was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shown {
    pub at: f64,
    pub spatial: u8,
    pub temporal: u8,
    pub is_key: bool,
    pub frame: u32,
}

#[derive(Clone, Debug)]
struct Frame {
    /// Of its first packet, layers taken together.
    head: Head,
    /// Of its highest layer.
    mark: Mark,
    first: Option<i64>,
    last: Option<i64>,
    seqs: Vec<i64>,
    /// By dependency descriptors: numbers of its layers' frames, and of those that they refer to.
    numbers: Vec<u16>,
    references: Vec<u16>,
    whole_at: Option<f64>,
}

/// What has been decoded, as far as later frames refer to it.
#[derive(Clone, Debug, Default)]
struct Decoded {
    tl0: u8,
    /// Picture ids since the last base-layer frame, that one included.
    pictures: Vec<u16>,
    time: i64,
    spatial: u8,
    /// By dependency descriptors: frames since the last key frame.
    numbers: Vec<u16>,
}

#[derive(Default)]
pub struct VideoReceiver {
    codec: Codec,
    /// All layers come in one stream.
    is_svc: bool,
    structure: Option<Structure>,
    seqs: Unwrap16,
    times: Unwrap,
    lateness: Lateness,
    frames: BTreeMap<i64, Frame>,
    decoded: Option<Decoded>,
    last_packet: Option<f64>,
    waits_since: Option<f64>,
    pub freezes: Freezes,
    pub shown: Vec<Shown>,
    pub plis: u64,
    /// The sender says that it has paused.
    pub is_paused: bool,
    pub faults: Faults,
}

/// What must never happen, whatever the link does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The same sequence number with two contents.
    pub contradictions: u64,
    /// Picture ids or base-layer counts that go back while time goes on.
    pub backward: u64,
    /// The size changed at a frame that is no key frame (in SVC: grew).
    pub torn: u64,
    /// A dependency descriptor that does not lead to the frames that its encoder meant, or cannot be read.
    pub astray: u64,
}

impl VideoReceiver {
    pub fn new(format: &Format) -> Self {
        Self { codec: format.codec, is_svc: format.is_svc, ..Self::default() }
    }

    pub fn packet(&mut self, at: f64, packet: &Received) {
        // Padding carries nothing.
        let Some((head, mark)) = Head::read(self.codec, &packet.payload) else { return };
        self.last_packet = Some(at);
        self.waits_since.get_or_insert(at);
        let (seq, time) = (self.seqs.next(packet.seq), self.times.next(packet.timestamp));
        if self.decoded.as_ref().is_some_and(|decoded| time <= decoded.time) {
            return;
        }
        let frame = self.frames.entry(time).or_insert_with(|| Frame {
            head,
            mark,
            first: None,
            last: None,
            seqs: Vec::new(),
            numbers: Vec::new(),
            references: Vec::new(),
            whole_at: None,
        });
        let is_same = frame.mark.frame == mark.frame && frame.head.picture_id == head.picture_id;
        self.faults.contradictions += u64::from(!is_same || frame.mark.spatial != mark.spatial && !self.is_svc);
        if frame.whole_at.is_some() || frame.seqs.contains(&seq) {
            return;
        }
        if self.codec == Codec::Av1 && head.starts {
            let bytes = packet.extensions.iter().find(|(id, _)| *id == DESCRIPTOR_ID).map(|(_, bytes)| bytes);
            match bytes.and_then(|bytes| Descriptor::parse(bytes, self.structure.as_ref())) {
                Some(descriptor) => {
                    frame.numbers.push(descriptor.frame_number);
                    frame.references.extend(descriptor.references());
                    if let Some(structure) = descriptor.structure {
                        self.structure = Some(structure);
                    }
                }
                None => self.faults.astray += u64::from(self.structure.is_some() || head.is_key && head.spatial == 0),
            }
        }
        frame.seqs.push(seq);
        frame.mark.spatial = frame.mark.spatial.max(mark.spatial);
        frame.head.is_key |= head.is_key;
        frame.first = frame.first.or((head.starts && head.spatial == 0).then_some(seq));
        frame.last = frame.last.or(packet.marker.then_some(seq));
        if let (Some(first), Some(last)) = (frame.first, frame.last)
            && frame.seqs.len() as i64 == last - first + 1
        {
            frame.whole_at = Some(at);
            self.lateness.note(at, time as f64 / 90_000.0, WINDOW_S);
        }
    }

    /// Shows what is due; true if a key frame must be asked for.
    pub fn poll(&mut self, now: f64) -> bool {
        while let Some((time, at)) = self.next().filter(|(_, at)| *at <= now) {
            self.show(time, at);
        }
        let is_quiet = self.is_paused || self.last_packet.is_none_or(|at| now - at > QUIET_S);
        if is_quiet {
            self.waits_since = None;
            return false;
        }
        let patience = if self.decoded.is_none() { WAIT_FOR_KEY_S } else { WAIT_FOR_FRAME_S };
        let asks = self.waits_since.is_some_and(|since| now - since >= patience);
        if asks {
            self.waits_since = Some(now);
            self.plis += 1;
        }
        asks
    }

    /// When something will be due that is whole already.
    pub fn deadline(&self) -> Option<f64> {
        self.next().map(|(_, at)| at)
    }

    /// The first frame in time that is whole and decodable, and when it is seen.
    fn next(&self) -> Option<(i64, f64)> {
        let base = self.lateness.base()?;
        let (&time, frame) = self.frames.iter().find(|(_, f)| f.whole_at.is_some() && self.is_decodable(f))?;
        let buffer = self.lateness.quantile(IN_TIME).clamp(LEAST_S, MOST_S);
        let due = time as f64 / 90_000.0 + base + buffer;
        // Where the buffer has just become shorter, the next frame follows at once, but it does follow.
        let after = self.shown.last().map_or(f64::NEG_INFINITY, |last| last.at);
        Some((time, frame.whole_at.map_or(due, |whole| whole.max(due)).max(after)))
    }

    fn is_decodable(&self, frame: &Frame) -> bool {
        let Head { is_key, tl0, temporal, is_sync, picture_id, .. } = frame.head;
        if is_key {
            return true;
        }
        let Some(decoded) = &self.decoded else { return false };
        if self.codec == Codec::Av1 {
            return frame.references.iter().all(|r| decoded.numbers.contains(r) || frame.numbers.contains(r));
        }
        if frame.mark.spatial > decoded.spatial {
            return false;
        }
        if temporal == 0 {
            return tl0 == decoded.tl0.wrapping_add(1);
        }
        let base = decoded.pictures[0];
        let since = picture_id.wrapping_sub(base) & 0x7fff;
        tl0 == decoded.tl0 && (is_sync || usize::from(since) == decoded.pictures.len())
    }

    fn show(&mut self, time: i64, at: f64) {
        let Some(frame) = self.frames.remove(&time) else { return };
        self.frames = self.frames.split_off(&time);
        let Head { tl0, picture_id, temporal, is_key, .. } = frame.head;
        let last = self.shown.last();
        if let (Some(last), Some(decoded)) = (last, &self.decoded) {
            let shrinks = self.is_svc && frame.mark.spatial < last.spatial;
            self.faults.torn += u64::from(!is_key && last.spatial != frame.mark.spatial && !shrinks);
            let ahead = |a: u16, b: u16| (a.wrapping_sub(b) & 0x7fff) < 0x4000;
            let newest = decoded.pictures.last().copied().unwrap_or(picture_id);
            let goes_back =
                match (self.codec, decoded.numbers.iter().max_by_key(|n| n.wrapping_sub(decoded.numbers[0]))) {
                    (Codec::Av1, Some(newest)) => {
                        frame.numbers.iter().any(|n| !(1..1 << 15).contains(&n.wrapping_sub(*newest)))
                    }
                    _ => !ahead(picture_id, newest) || picture_id == newest || tl0.wrapping_sub(decoded.tl0) > 128,
                };
            self.faults.backward += u64::from(goes_back);
            // Nobody rewrites what these say on the way.
            let is_meant = tl0 == decoded.tl0.wrapping_add(u8::from(temporal == 0));
            self.faults.astray += u64::from(self.codec == Codec::Av1 && !is_key && !is_meant);
        }
        let decoded = self.decoded.get_or_insert_default();
        if temporal == 0 || is_key {
            decoded.pictures.clear();
        }
        if is_key {
            decoded.numbers.clear();
        }
        let forgotten = decoded.numbers.len().saturating_sub(REMEMBERED);
        decoded.numbers.drain(..forgotten);
        decoded.numbers.extend(&frame.numbers);
        decoded.tl0 = tl0;
        decoded.time = time;
        decoded.spatial = frame.mark.spatial;
        decoded.pictures.push(picture_id);
        self.waits_since = Some(at);
        self.freezes.shown(at);
        if self.is_paused {
            // What was under way when the pause was told.
            self.freezes.interrupted();
        }
        let Mark { spatial, temporal, frame } = frame.mark;
        self.shown.push(Shown { at, spatial, temporal, is_key, frame });
    }

    /// The sender has said whether the stream is paused.
    pub fn paused(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
        if is_paused {
            self.freezes.interrupted();
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Unwrap16(Option<i64>);

impl Unwrap16 {
    fn next(&mut self, value: u16) -> i64 {
        let last = self.0.unwrap_or(i64::from(value));
        let full = last + i64::from(value.wrapping_sub(last as u16) as i16);
        self.0 = Some(last.max(full));
        full
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{self, Shape};
    use crate::scenario::Video;

    const SHAPE: Shape = format::of(Video::Camera).layers[0];

    /// Frames of two packets in the pattern 0 2 1 2; the first is a key frame.
    fn packets(count: u32) -> Vec<Received> {
        let cycle = format::of(Video::Camera).temporal.cycle;
        let (mut tl0, mut seq) = (255u8, 65_530u16);
        let mut all = Vec::new();
        for frame in 0..count {
            let (temporal, is_sync) = cycle[frame as usize % 4];
            tl0 = tl0.wrapping_add(u8::from(temporal == 0));
            for part in 0..2 {
                let picture_id = (0x7ffe + frame as u16) & 0x7fff;
                let is_sync = is_sync && temporal > 0;
                let is_key = frame == 0;
                let (starts, ends, spatial) = (part == 0, false, 0);
                let head = Head { starts, ends, picture_id, tl0, temporal, spatial, is_sync, is_key };
                let mut payload = Vec::new();
                head.write(Codec::Vp8, &[SHAPE], &mut payload);
                Mark { spatial: 0, temporal, frame }.write(&mut payload);
                all.push(Received {
                    at: callyard_peer::base(),
                    ssrc: 1,
                    pt: 96,
                    seq,
                    timestamp: frame * 3_000,
                    marker: part == 1,
                    payload,
                    extensions: Vec::new(),
                    was_rtx: false,
                });
                seq = seq.wrapping_add(1);
            }
        }
        all
    }

    /// Plays packets that come at their time, except those that `fate` delays (by seconds) or loses.
    fn play(count: u32, fate: impl Fn(usize) -> Option<f64>) -> VideoReceiver {
        let mut arrivals: Vec<(f64, Received)> = packets(count)
            .into_iter()
            .enumerate()
            .filter_map(|(i, packet)| Some((f64::from(packet.timestamp) / 90_000.0 + fate(i)?, packet)))
            .collect();
        arrivals.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut video = VideoReceiver::default();
        for (at, packet) in arrivals {
            video.poll(at);
            video.packet(at, &packet);
        }
        video.poll(1e3);
        video
    }

    #[test]
    fn all_that_comes_is_shown_once_and_in_time() {
        let video = play(120, |_| Some(0.0));
        assert_eq!(video.shown.iter().map(|s| s.frame).collect::<Vec<_>>(), (0..120).collect::<Vec<_>>());
        assert_eq!((video.freezes.found.len(), &video.faults), (0, &Faults::default()));
    }

    #[test]
    fn an_upper_layer_costs_itself_and_a_base_frame_costs_all_until_it_comes() {
        // Frame 41 (second of its cycle, layer 2) loses a packet.
        let video = play(120, |i| (i != 83).then_some(0.0));
        let shown: Vec<u32> = video.shown.iter().map(|s| s.frame).collect();
        assert_eq!((0..120).filter(|f| !shown.contains(f)).collect::<Vec<_>>(), [41, 43], "43 refers to it");
        // Frame 40 (base layer) is whole 300 ms late.
        let video = play(120, |i| Some(if i == 80 { 0.3 } else { 0.0 }));
        assert_eq!(video.shown.len(), 120);
        assert_eq!(video.freezes.found.len(), 1);
        // It never comes: the picture stands.
        let video = play(120, |i| (i != 80).then_some(0.0));
        assert_eq!(video.shown.last().unwrap().frame, 39);
    }
}
