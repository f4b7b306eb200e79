//! The fan-out: each pending packet to each subscriber, straight into the arena. No allocation, no look-up by id.
//!
//! Downtrack by downtrack, so that a frame's packets to one subscriber lie side by side and leave as one segmented send.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::{Datagram, Engine};
use crate::command::MediaKind;
use crate::counters::Withheld;
use crate::downlink::Downlink;
use crate::event::Event;
use crate::extension_ids::ExtensionIds;
use crate::ids::SeqNo;
use crate::registers::codec::PacketMeta;
use crate::registers::downtrack::{Decision, Munged};
use crate::rtp::{AbsSendTime, HeaderFields, HeaderWriter};
use crate::srtp::{MAX_TRAILER_LEN, OutboundSrtp, Payload};
use crate::transmit::TransmitArena;

/// Room for the largest header written here: fixed part, and extensions of at most 255 + some short ones.
pub(super) const MAX_HEADER_BYTES: usize = 512;

/// Header extensions that are carried on to subscribers who negotiated them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Carried {
    pub audio_level: Option<u8>,
    pub video_orientation: Option<u8>,
    pub playout_delay: Option<[u8; 3]>,
    pub capture_time: ([u8; 16], u8),
    /// Offset and length in the datagram.
    pub dependency_descriptor: (u16, u8),
}

/// A received packet on its way to the subscribers of its uptrack.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// Index of the datagram in its batch.
    pub batch: usize,
    pub next: Option<usize>,
    pub encoding: usize,
    pub codec: usize,
    pub seq: SeqNo,
    pub timestamp: u32,
    pub marker: bool,
    /// Of the datagram.
    pub payload: Range<usize>,
    pub meta: PacketMeta,
    pub carried: Carried,
    /// RTP padding that makes the packet as long as its frame's others.
    pub padding: u8,
    pub received: Instant,
}

impl Engine {
    pub(super) fn push_pending(&mut self, uptrack_slot: usize, pending: Pending) {
        let Some(uptrack) = self.uptracks.get_mut(uptrack_slot) else { return };
        let index = self.pending.len();
        match uptrack.first_pending {
            None => {
                uptrack.first_pending = Some(index);
                self.touched.push(uptrack_slot);
            }
            Some(_) => self.pending[uptrack.last_pending].next = Some(index),
        }
        uptrack.last_pending = index;
        self.pending.push(pending);
    }

    /// Writes every subscriber's copies of what the batch has brought.
    pub(super) fn forward_pending(&mut self, now: Instant, batch: &[Datagram<'_>]) {
        for touched in 0..self.touched.len() {
            let uptrack = self.touched[touched];
            let Some(first) = self.uptracks.get_mut(uptrack).and_then(|u| u.first_pending.take()) else { continue };
            if self.config.max_segment_padding > 0 {
                self.pad_run(first);
            }
            let mut subscriber = 0;
            while let Some(&downtrack) = self.uptracks.get(uptrack).and_then(|u| u.downtracks.get(subscriber)) {
                subscriber += 1;
                // As in `guarded`: a panic costs the subscriber whose copy was being written, the others lose nothing.
                self.acting = self.downtracks.get(downtrack).map(|d| d.transport);
                let write = AssertUnwindSafe(|| self.forward_run(now, first, downtrack, batch));
                if catch_unwind(write).is_err() {
                    self.after_panic(now);
                    // The one that was closed has left the list.
                    if !self.downtracks.contains(downtrack) {
                        subscriber -= 1;
                    }
                }
            }
            self.after_run(now, first);
        }
        self.touched.clear();
        self.pending.clear();
    }

    /// Chromium's packets of one frame differ by a byte or so: padded to one length they leave in one send.
    fn pad_run(&mut self, first: usize) {
        let most = usize::from(self.config.max_segment_padding);
        let mut start = Some(first);
        while let Some(head) = start {
            let (mut low, mut high) = (self.pending[head].payload.len(), self.pending[head].payload.len());
            let mut end = self.pending[head].next;
            while let Some(at) = end {
                let len = self.pending[at].payload.len();
                if high.max(len) - low.min(len) > most {
                    break;
                }
                (low, high) = (low.min(len), high.max(len));
                end = self.pending[at].next;
            }
            let mut at = Some(head);
            while at != end
                && let Some(index) = at
            {
                let packet = &mut self.pending[index];
                // The last of a run may stay shorter; whatever follows cannot join it anyway.
                if packet.next != end {
                    packet.padding = (high - packet.payload.len()) as u8;
                }
                at = packet.next;
            }
            start = end;
        }
    }

    fn after_run(&mut self, now: Instant, first: usize) {
        let mut at = Some(first);
        while let Some(index) = at {
            let packet = &self.pending[index];
            let waited = now.saturating_duration_since(packet.received);
            self.counters.forward_latency.observe(waited.as_micros() as u64);
            at = packet.next;
        }
    }

    fn forward_run(&mut self, now: Instant, first: usize, slot: usize, batch: &[Datagram<'_>]) {
        let Some(downtrack) = self.downtracks.get_mut(slot) else { return };
        let Some(transport) = self.transports.get_mut(downtrack.transport) else { return };
        let Some(path) = transport.path.filter(|_| transport.may_send()) else {
            self.counters.withheld[Withheld::NotConnected as usize] += 1;
            return;
        };
        let Some(protection) = &transport.protection else { return };
        let mut has_switched = false;
        let mut at = Some(first);
        while let Some(index) = at {
            let packet = &self.pending[index];
            at = packet.next;
            let Some(sent_as) = downtrack.sent_as.get(packet.codec).copied().flatten() else {
                downtrack.reason = "no_codec";
                self.counters.withheld[Withheld::NoCodec as usize] += 1;
                continue;
            };
            match downtrack.selector.decide(packet.encoding as u8, &packet.meta) {
                Decision::Forward => {}
                Decision::Switch => {
                    downtrack.munger.switch_source();
                    downtrack.reason = "forwarding";
                    has_switched = true;
                }
                Decision::Drop(reason) => {
                    downtrack.reason = reason;
                    self.counters.withheld[Withheld::NotSelected as usize] += 1;
                    continue;
                }
            }
            if downtrack.last_codec.replace(packet.codec) != Some(packet.codec) {
                has_switched = true;
            }
            let munged =
                downtrack.munger.forward(now, packet.seq, packet.timestamp, packet.meta.vp8, sent_as.clock_rate);
            let Some(munged) = munged else { continue };
            downtrack.sent.insert(packet.seq, packet.encoding as u8, packet.codec as u8, munged);
            let datagram: &[u8] = batch[packet.batch].payload;
            let outgoing = Outgoing {
                fields: HeaderFields {
                    marker: packet.marker,
                    pt: sent_as.pt,
                    seq: munged.seq.0 as u16,
                    timestamp: munged.timestamp,
                    ssrc: downtrack.ssrc,
                    padding: packet.padding > 0,
                },
                seq: munged.seq,
                mid: (downtrack.mid_left > 0).then_some(downtrack.mid.as_bytes()),
                carried: &packet.carried,
                descriptor: descriptor(&packet.carried, datagram),
                since_start: now.saturating_duration_since(self.start),
            };
            let body = &datagram[packet.payload.clone()];
            let mut prefix = [0; MAX_PREFIX_BYTES];
            let prefix_len = rewrite_vp8(&mut prefix, body, &packet.meta, &munged);
            let payload =
                Payload { prefix: &prefix[..prefix_len], body: &body[prefix_len..], padding_len: packet.padding };
            let written = write_packet(
                &mut self.arena,
                &protection.outbound,
                &mut transport.downlink,
                &downtrack.extensions,
                now,
                &outgoing,
                payload,
            );
            let Some(len) = written else {
                self.counters.withheld[Withheld::Unprotected as usize] += 1;
                continue;
            };
            self.arena.commit(path, len);
            downtrack.mid_left = downtrack.mid_left.saturating_sub(1);
            downtrack.packets += 1;
            downtrack.bytes += len as u64;
            downtrack.octets += packet.payload.len() as u64;
            downtrack.last_sent = Some(now);
            transport.packets_down += 1;
            transport.bytes_down += len as u64;
            match downtrack.kind {
                MediaKind::Audio => self.counters.down.audio.add(len),
                MediaKind::Video => self.counters.down.video.add(len),
            }
        }
        if has_switched {
            let is_first = !std::mem::replace(&mut downtrack.has_started, true);
            let (id, is_needed) = (downtrack.id, downtrack.selector.needs_keyframe());
            if is_first {
                self.emit(Event::DowntrackStarted { downtrack: id });
            } else {
                self.counters.layer_switches += 1;
            }
            if is_needed {
                self.retarget(now, slot);
            }
        }
    }
}

/// The largest start of a payload that is rewritten: VP8's descriptor.
pub(super) const MAX_PREFIX_BYTES: usize = 8;

/// All that a header needs besides what the transport adds.
pub(super) struct Outgoing<'a> {
    pub fields: HeaderFields,
    pub seq: SeqNo,
    pub mid: Option<&'a [u8]>,
    pub carried: &'a Carried,
    pub descriptor: &'a [u8],
    pub since_start: Duration,
}

pub(super) fn descriptor<'a>(carried: &Carried, packet: &'a [u8]) -> &'a [u8] {
    let (offset, len) = carried.dependency_descriptor;
    packet.get(usize::from(offset)..usize::from(offset) + usize::from(len)).unwrap_or_default()
}

/// Copies VP8's descriptor up to its last counter with the subscriber's numbers; how many bytes of the body that replaces.
pub(super) fn rewrite_vp8(
    prefix: &mut [u8; MAX_PREFIX_BYTES],
    body: &[u8],
    meta: &PacketMeta,
    munged: &Munged,
) -> usize {
    let (Some(counters), Some((picture_id, tl0))) = (meta.vp8, munged.vp8) else { return 0 };
    let picture_end = counters.picture_id.map_or(0, |(at, is_long, _)| at + if is_long { 2 } else { 1 });
    let end = counters.tl0.map_or(picture_end, |(at, _)| at + 1);
    let (Some(prefix), Some(original)) = (prefix.get_mut(..end), body.get(..end)) else { return 0 };
    prefix.copy_from_slice(original);
    match counters.picture_id {
        Some((at, true, _)) => prefix[at..at + 2].copy_from_slice(&(picture_id | 0x8000).to_be_bytes()),
        Some((at, false, _)) => prefix[at] = picture_id as u8 & 0x7f,
        None => {}
    }
    if let Some((at, _)) = counters.tl0 {
        prefix[at] = tl0;
    }
    end
}

/// Writes header, payload and tag into the arena's next place; how long the datagram became. It is not committed yet.
#[inline]
pub(super) fn write_packet(
    arena: &mut TransmitArena,
    outbound: &OutboundSrtp,
    downlink: &mut Downlink,
    ids: &ExtensionIds,
    now: Instant,
    outgoing: &Outgoing<'_>,
    payload: Payload<'_>,
) -> Option<usize> {
    let out = arena.reserve(MAX_HEADER_BYTES + payload.len() + MAX_TRAILER_LEN);
    let (head, _) = out.split_at_mut(MAX_HEADER_BYTES);
    let mut writer = HeaderWriter::new(head, outgoing.fields, &[])?;
    if let Some(id) = ids.transport_seq {
        let number = downlink.number(now, payload.len());
        writer.extension(id, &number.to_be_bytes())?;
    }
    if let Some(id) = ids.abs_send_time {
        writer.extension(id, &AbsSendTime::from_duration(outgoing.since_start).write())?;
    }
    if let (Some(id), Some(mid)) = (ids.mid, outgoing.mid) {
        writer.extension(id, mid)?;
    }
    let carried = outgoing.carried;
    if let (Some(id), Some(level)) = (ids.audio_level, carried.audio_level) {
        writer.extension(id, &[level])?;
    }
    if let (Some(id), Some(orientation)) = (ids.video_orientation, carried.video_orientation) {
        writer.extension(id, &[orientation])?;
    }
    if let (Some(id), Some(delay)) = (ids.playout_delay, carried.playout_delay) {
        writer.extension(id, &delay)?;
    }
    if let (Some(id), (time, len @ 1..)) = (ids.abs_capture_time, &carried.capture_time) {
        writer.extension(id, &time[..usize::from(*len)])?;
    }
    if let (Some(id), [_, ..]) = (ids.dependency_descriptor, outgoing.descriptor) {
        writer.extension(id, outgoing.descriptor)?;
    }
    let header_len = writer.finish();
    let (header, rest) = out.split_at_mut(header_len);
    let sealed = outbound.protect_rtp_into(header, payload, rest, outgoing.fields.ssrc, outgoing.seq).ok()?;
    downlink.count(now, header_len + sealed);
    Some(header_len + sealed)
}
