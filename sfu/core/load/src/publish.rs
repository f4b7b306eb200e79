//! The send side of one published track: pictures by the clock, packets by picture, and a history for retransmissions.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use callyard_proto::ids::{Pt, SeqNo, Ssrc};
use callyard_proto::rtp::{AbsSendTime, HeaderFields, HeaderWriter};

use crate::payload::{self, MIN_PAYLOAD_LEN, Position};
use crate::protocol::{Encoding, ExtensionIds, Publish};

/// Pictures sent late are sent; more than this many that are overdue are left out.
const MAX_BACKLOG: Duration = Duration::from_millis(500);
/// Packets kept for retransmission, about a second of a 2 Mbit/s layer.
const HISTORY: usize = 256;
/// Room for the longest header written here.
const MAX_HEADER_LEN: usize = 128;

/// A packet in clear, as it is to be sealed.
pub(crate) struct Clear<'a> {
    pub header: &'a [u8],
    pub payload: &'a [u8],
    pub ssrc: u32,
    pub seq: SeqNo,
}

struct Kept {
    seq: u16,
    timestamp: u32,
    marker: bool,
    payload: Vec<u8>,
}

struct Layer {
    spec: Encoding,
    seq: u64,
    rtx_seq: u64,
    number: u32,
    /// Packets due and not yet sent, as a fraction.
    credit: f64,
    picture_id: u16,
    tl0: u8,
    wants_key: bool,
    is_active: bool,
    history: VecDeque<Kept>,
    packets: u32,
    octets: u32,
}

pub(crate) struct Publisher {
    pub transport: usize,
    pub id: u64,
    pub next: Instant,
    pub is_video: bool,
    spec: Publish,
    interval: Duration,
    frames: u64,
    start: Instant,
    layers: Vec<Layer>,
    timestamp: u32,
    payload: Vec<u8>,
    /// The transport-wide number and mid are those of the client.
    header: [u8; MAX_HEADER_LEN],
}

/// What one picture was.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    pub packets: u64,
    pub bytes: u64,
}

impl Publisher {
    /// `Err` with a sentence if the specification makes no sense.
    pub(crate) fn new(now: Instant, transport: usize, spec: Publish) -> Result<Self, String> {
        let is_rate = |rate: f64| rate.is_finite() && (0.1..=10_000.0).contains(&rate);
        if !is_rate(spec.frames_per_second) || spec.encodings.is_empty() || spec.encodings.len() > 8 {
            return Err("a stream has 1 to 8 encodings and 0.1 to 10 000 frames a second".to_owned());
        }
        for encoding in &spec.encodings {
            if !is_rate(encoding.packets_per_second) || !(MIN_PAYLOAD_LEN..=1_400).contains(&encoding.payload_bytes) {
                return Err(format!("a payload has {MIN_PAYLOAD_LEN} to 1 400 bytes"));
            }
        }
        let start = now + Duration::from_micros(spec.phase_us);
        let layers = spec.encodings.iter().enumerate().map(|(index, encoding)| Layer {
            spec: encoding.clone(),
            seq: 100 + index as u64 * 1_000,
            rtx_seq: 1,
            number: 0,
            credit: 0.0,
            picture_id: 0x100 + index as u16,
            tl0: 0,
            wants_key: true,
            is_active: true,
            history: VecDeque::new(),
            packets: 0,
            octets: 0,
        });
        Ok(Self {
            transport,
            id: spec.stream,
            next: start,
            is_video: spec.codec.is_video(),
            interval: Duration::from_secs_f64(1.0 / spec.frames_per_second),
            frames: 0,
            start,
            layers: layers.collect(),
            timestamp: spec.encodings[0].ssrc.wrapping_mul(2_654_435_761),
            payload: Vec::new(),
            header: [0; MAX_HEADER_LEN],
            spec,
        })
    }

    /// Sends the next picture of every layer through `send`; `sent_ns` is the wall clock's time.
    pub(crate) fn send_picture(
        &mut self,
        now: Instant,
        sent_ns: u64,
        twcc: &mut u16,
        mut send: impl FnMut(Clear<'_>),
    ) -> Sent {
        let mut sent = Sent::default();
        self.frames += 1;
        let clock_rate = self.spec.codec.clock_rate();
        self.timestamp = self.timestamp.wrapping_add((f64::from(clock_rate) * self.interval.as_secs_f64()) as u32);
        self.next = self.start + self.interval.mul_f64(self.frames as f64);
        if now > self.next + MAX_BACKLOG {
            (self.start, self.frames, self.next) = (now, 0, now + self.interval);
        }
        let per_frame = |layer: &Layer| layer.spec.packets_per_second / self.spec.frames_per_second;
        for layer in &mut self.layers {
            layer.credit += per_frame(layer);
            let count = layer.credit as usize;
            layer.credit -= count as f64;
            if count == 0 || !layer.is_active {
                continue;
            }
            let is_key = std::mem::take(&mut layer.wants_key);
            layer.picture_id = (layer.picture_id + 1) & 0x7fff;
            layer.tl0 = layer.tl0.wrapping_add(1);
            for part in 0..count {
                layer.seq += 1;
                layer.number = layer.number.wrapping_add(1);
                let is_last = part + 1 == count;
                let len = layer.spec.payload_bytes - usize::from(self.is_video && part % 2 == 1);
                self.payload.resize(len.max(MIN_PAYLOAD_LEN), 0);
                let position = Position {
                    is_key,
                    is_first: part == 0,
                    is_last,
                    picture_id: layer.picture_id,
                    tl0: layer.tl0,
                    number: layer.number,
                    sent_ns,
                };
                payload::write(&mut self.payload, self.spec.codec, position);
                let marker = self.is_video && is_last;
                let fields = HeaderFields {
                    marker,
                    pt: Pt(self.spec.pt),
                    seq: layer.seq as u16,
                    timestamp: self.timestamp,
                    ssrc: Ssrc(layer.spec.ssrc),
                    padding: false,
                };
                let rid = (self.spec.extensions.rid, layer.spec.rid.as_deref());
                let len = write_header(&mut self.header, fields, &self.spec, rid, sent_ns, twcc);
                let clear = Clear {
                    header: &self.header[..len],
                    payload: &self.payload,
                    ssrc: layer.spec.ssrc,
                    seq: SeqNo(layer.seq),
                };
                sent.packets += 1;
                sent.bytes += (len + self.payload.len()) as u64;
                send(clear);
                layer.packets = layer.packets.wrapping_add(1);
                layer.octets = layer.octets.wrapping_add(self.payload.len() as u32);
                if layer.spec.rtx_ssrc.is_some() && self.spec.rtx_pt.is_some() {
                    keep(layer, self.timestamp, marker, &self.payload);
                }
            }
        }
        sent
    }

    /// Sends a packet again, on the stream's retransmission stream. False if it is not known any more.
    pub(crate) fn resend(
        &mut self,
        ssrc: u32,
        seq: u16,
        sent_ns: u64,
        twcc: &mut u16,
        send: impl FnOnce(Clear<'_>),
    ) -> bool {
        let (Some(rtx_pt), Some(layer)) = (self.spec.rtx_pt, self.layers.iter_mut().find(|l| l.spec.ssrc == ssrc))
        else {
            return false;
        };
        let (Some(rtx_ssrc), Some(kept)) = (layer.spec.rtx_ssrc, layer.history.iter().find(|k| k.seq == seq)) else {
            return false;
        };
        layer.rtx_seq += 1;
        self.payload.clear();
        self.payload.extend_from_slice(&seq.to_be_bytes());
        self.payload.extend_from_slice(&kept.payload);
        let fields = HeaderFields {
            marker: kept.marker,
            pt: Pt(rtx_pt),
            seq: layer.rtx_seq as u16,
            timestamp: kept.timestamp,
            ssrc: Ssrc(rtx_ssrc),
            padding: false,
        };
        let rid = (self.spec.extensions.repaired_rid, layer.spec.rid.as_deref());
        let len = write_header(&mut self.header, fields, &self.spec, rid, sent_ns, twcc);
        send(Clear { header: &self.header[..len], payload: &self.payload, ssrc: rtx_ssrc, seq: SeqNo(layer.rtx_seq) });
        true
    }

    /// The next picture of the layer with this ssrc will be a key frame. True if it is ours.
    pub(crate) fn ask_keyframe(&mut self, ssrc: u32) -> bool {
        let layer = self.layers.iter_mut().find(|l| l.spec.ssrc == ssrc && self.is_video);
        layer.map(|layer| layer.wants_key = true).is_some()
    }

    /// Pauses and resumes encodings, lowest first; one that is resumed begins with a key frame, as an encoder would.
    pub(crate) fn set_encodings(&mut self, active: &[bool]) {
        for (layer, &is_active) in self.layers.iter_mut().zip(active) {
            layer.wants_key |= is_active && !layer.is_active;
            layer.is_active = is_active;
        }
    }

    /// Ssrc, RTP timestamp now, packets and octets of each layer, for sender reports.
    pub(crate) fn reports(&self) -> impl Iterator<Item = (u32, u32, u32, u32)> {
        self.layers.iter().filter(|l| l.packets > 0).map(|l| (l.spec.ssrc, self.timestamp, l.packets, l.octets))
    }
}

fn keep(layer: &mut Layer, timestamp: u32, marker: bool, payload: &[u8]) {
    // The oldest one's allocation serves the newest.
    let mut room = if layer.history.len() < HISTORY { None } else { layer.history.pop_front() }
        .map_or_else(Vec::new, |kept| kept.payload);
    room.clear();
    room.extend_from_slice(payload);
    layer.history.push_back(Kept { seq: layer.seq as u16, timestamp, marker, payload: room });
}

fn write_header(
    out: &mut [u8; MAX_HEADER_LEN],
    fields: HeaderFields,
    spec: &Publish,
    (rid_id, rid): (Option<u8>, Option<&str>),
    sent_ns: u64,
    twcc: &mut u16,
) -> usize {
    let ExtensionIds { mid, transport_seq, abs_send_time, audio_level, .. } = spec.extensions;
    let Some(mut writer) = HeaderWriter::new(out, fields, &[]) else { return 0 };
    // An element that does not fit is left out, which no specification of sane length brings about.
    if let Some(id) = transport_seq {
        _ = writer.extension(id, &twcc.to_be_bytes());
        *twcc = twcc.wrapping_add(1);
    }
    if let Some(id) = abs_send_time {
        _ = writer.extension(id, &AbsSendTime::from_duration(Duration::from_nanos(sent_ns)).write());
    }
    if let Some(id) = mid {
        _ = writer.extension(id, spec.mid.as_bytes());
    }
    if let (Some(id), Some(rid)) = (rid_id, rid) {
        _ = writer.extension(id, rid.as_bytes());
    }
    if let Some(id) = audio_level {
        // Voice, −30 dBov.
        _ = writer.extension(id, &[0x80 | 30]);
    }
    writer.finish()
}

#[cfg(test)]
mod tests {
    use callyard_proto::rtp::RtpHeader;

    use super::*;
    use crate::protocol::Codec;

    fn publisher(fps: f64, encodings: Vec<Encoding>) -> Publisher {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        let now = Instant::now();
        let extensions = ExtensionIds { mid: Some(1), rid: Some(2), transport_seq: Some(3), ..ExtensionIds::default() };
        let spec = Publish {
            transport: 0,
            stream: 1,
            codec: Codec::Vp8,
            pt: 96,
            rtx_pt: Some(97),
            mid: "7".to_owned(),
            extensions,
            frames_per_second: fps,
            phase_us: 0,
            encodings,
        };
        Publisher::new(now, 0, spec).expect("the specification is sound")
    }

    fn encoding(ssrc: u32, packets_per_second: f64) -> Encoding {
        let (rid, rtx_ssrc) = (Some(format!("r{ssrc}")), Some(ssrc + 1));
        Encoding { rid, ssrc, rtx_ssrc, packets_per_second, payload_bytes: 1_000 }
    }

    #[test]
    fn a_second_has_as_many_packets_as_asked_for_and_numbers_run_on() {
        let mut publisher = publisher(30.0, vec![encoding(10, 260.0), encoding(20, 15.0)]);
        let (mut twcc, mut counts, mut markers) = (0, [0; 2], 0);
        let mut last = [None; 2];
        for _ in 0..30 {
            let now = publisher.next;
            publisher.send_picture(now, 5, &mut twcc, |clear| {
                let packet = [clear.header, clear.payload].concat();
                let header = RtpHeader::parse(&packet).expect("sound");
                let layer = usize::from(clear.ssrc == 20);
                assert_eq!(header.extension(2), Some(format!("r{}", clear.ssrc).as_bytes()));
                assert_eq!(header.extension(1), Some(&b"7"[..]));
                assert!(last[layer].replace(header.seq).is_none_or(|seq: u16| seq + 1 == header.seq));
                counts[layer] += 1;
                markers += usize::from(header.marker && layer == 0);
            });
        }
        assert!((259..=260).contains(&counts[0]) && (14..=15).contains(&counts[1]), "{counts:?}");
        assert_eq!((markers, usize::from(twcc)), (30, counts[0] + counts[1]));
    }

    #[test]
    fn a_paused_encoding_is_not_sent_and_comes_back_with_a_key_frame() {
        let mut publisher = publisher(30.0, vec![encoding(10, 30.0), encoding(20, 30.0)]);
        let sent = |publisher: &mut Publisher| {
            let mut ssrcs = Vec::new();
            let now = publisher.next;
            publisher.send_picture(now, 5, &mut 0, |clear| ssrcs.push(clear.ssrc));
            ssrcs
        };
        assert_eq!(sent(&mut publisher), [10, 20]);
        publisher.set_encodings(&[true, false]);
        assert_eq!(sent(&mut publisher), [10]);
        assert!(!publisher.layers[1].wants_key);
        publisher.set_encodings(&[true, true]);
        assert!(publisher.layers[1].wants_key && !publisher.layers[0].wants_key);
        assert_eq!(sent(&mut publisher), [10, 20]);
    }

    #[test]
    fn what_was_sent_can_be_had_again_and_what_was_not_cannot() {
        let mut publisher = publisher(30.0, vec![encoding(10, 60.0)]);
        let (mut twcc, mut first) = (0, None);
        let now = publisher.next;
        publisher.send_picture(now, 5, &mut twcc, |clear| {
            first.get_or_insert((clear.seq.0 as u16, clear.payload.to_vec()));
        });
        let (seq, payload) = first.expect("a picture has packets");
        let mut again = Vec::new();
        assert!(publisher.resend(10, seq, 6, &mut twcc, |clear| {
            assert_eq!(clear.ssrc, 11);
            again = clear.payload.to_vec();
        }));
        assert_eq!(again, [&seq.to_be_bytes()[..], &payload].concat());
        assert!(!publisher.resend(10, seq.wrapping_sub(1), 6, &mut twcc, |_| panic!("never sent")));
    }
}
