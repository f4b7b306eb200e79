//! The fan-out: each pending packet to each subscriber, straight into the arena. No allocation, no look-up by id.
//!
//! Downtrack by downtrack, so that a frame's packets to one subscriber lie side by side and leave as one segmented send.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::{Datagram, Engine};
use crate::codec::PacketMeta;
use crate::codec::dd::Descriptor;
use crate::command::{LayerMode, MediaKind};
use crate::counters::Withheld;
use crate::downlink::Downlink;
use crate::downtrack::{Alignment, Packet, PayloadPatch, SentPacket, Verdict};
use crate::event::Event;
use crate::extension_ids::ExtensionIds;
use crate::ids::{SeqNo, Spatial};
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
    /// Resolved against the structure of the packet's stream.
    pub descriptor: Option<Descriptor>,
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
    pub(super) fn forward_pending(&mut self, now: Instant, batch: &mut [Datagram<'_>]) {
        for touched in 0..self.touched.len() {
            let uptrack = self.touched[touched];
            let Some(first) = self.uptracks.get_mut(uptrack).and_then(|u| u.first_pending.take()) else { continue };
            if self.config.max_segment_padding > 0 {
                self.pad_run(first, batch);
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
    fn pad_run(&mut self, first: usize, batch: &mut [Datagram<'_>]) {
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
                let missing = high - packet.payload.len();
                if packet.next != end && missing > 0 && !packet.payload.is_empty() {
                    // The padding goes where the packet's tag was.
                    let (from, to) = (packet.payload.end, packet.payload.end + missing);
                    if let Some([zeros @ .., count]) = batch[packet.batch].payload.get_mut(from..to) {
                        zeros.fill(0);
                        *count = missing as u8;
                        packet.payload.end = to;
                        packet.padding = missing as u8;
                    }
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

    fn forward_run(&mut self, now: Instant, first: usize, slot: usize, batch: &mut [Datagram<'_>]) {
        let Some(downtrack) = self.downtracks.get_mut(slot) else { return };
        let Some(transport) = self.transports.get_mut(downtrack.transport) else { return };
        let Some(path) = transport.path.filter(|_| transport.may_send()) else {
            self.counters.withheld[Withheld::NotConnected as usize] += 1;
            return;
        };
        let Some(protection) = &transport.protection else { return };
        let Some(uptrack) = self.uptracks.get(downtrack.uptrack) else { return };
        let is_svc = uptrack.mode == LayerMode::Svc;
        let since_start = now.saturating_duration_since(self.start);
        let mut room = [0; 256];
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
            let structure = uptrack.encodings[packet.encoding].structure.as_ref();
            let selected = Packet {
                encoding: Spatial(packet.encoding as u8),
                meta: &packet.meta,
                marker: packet.marker,
                descriptor: packet.descriptor.as_ref().zip(structure),
            };
            // Bare padding only takes a number; it is left out like a packet of a layer that is not sent.
            let verdict = if packet.payload.is_empty() {
                Err("padding")
            } else {
                match downtrack.selector.select(selected, is_svc) {
                    Verdict::Forward { switched, marker } => Ok((switched, marker)),
                    Verdict::Drop(reason) => Err(reason.as_str()),
                }
            };
            let (switched, marker) = match verdict {
                Ok(verdict) => verdict,
                Err(reason) => {
                    downtrack.reason = reason;
                    self.counters.withheld[Withheld::NotSelected as usize] += 1;
                    if downtrack.source == Some(packet.encoding) && downtrack.selector.current().is_some() {
                        // A number kept for it stays a hole, which the subscriber's next key frame ends.
                        let _ = downtrack.munger.leave_out(packet.seq, &packet.meta);
                    }
                    continue;
                }
            };
            let previous = downtrack.source.replace(packet.encoding);
            if switched || previous != Some(packet.encoding) || downtrack.last_codec != Some(packet.codec) {
                downtrack.munger.switch_source();
                downtrack.last_codec = Some(packet.codec);
                downtrack.reason = "forwarding";
                has_switched = true;
            }
            let frame_number = packet.descriptor.as_ref().map(|d| d.frame_number);
            let (last_sent, offset) = (downtrack.last_sent, downtrack.munger.timestamp_offset());
            let rewrite = downtrack.munger.forward(
                packet.seq,
                packet.timestamp,
                &packet.meta,
                frame_number,
                sent_as.clock_rate,
                || {
                    let before = previous.and_then(|e| uptrack.encodings.get(e)).and_then(|e| e.clock);
                    let after = uptrack.encodings[packet.encoding].clock;
                    match before.zip(after) {
                        Some((before, after)) => Alignment::Known(
                            after.translate(packet.timestamp, &before, sent_as.clock_rate).wrapping_add(offset),
                        ),
                        None => Alignment::Elapsed(ticks(
                            last_sent.map_or(Duration::ZERO, |at| now.saturating_duration_since(at)),
                            sent_as.clock_rate,
                        )),
                    }
                },
            );
            let Some(rewrite) = rewrite else { continue };
            let datagram: &mut [u8] = batch[packet.batch].payload;
            // Every subscriber's patch replaces the same bytes, so the packet is changed where it lies and sealed from there.
            rewrite.patch.apply(&mut datagram[packet.payload.clone()]);
            let datagram: &[u8] = datagram;
            let outgoing = Outgoing {
                fields: HeaderFields {
                    marker,
                    pt: sent_as.pt,
                    seq: rewrite.seq.0 as u16,
                    timestamp: rewrite.timestamp,
                    ssrc: downtrack.ssrc,
                    padding: packet.padding > 0,
                },
                seq: rewrite.seq,
                mid: (downtrack.mid_left > 0).then_some(downtrack.mid.as_bytes()),
                carried: &packet.carried,
                descriptor: descriptor(&mut room, &packet.carried, datagram, rewrite.frame_number_offset),
                since_start,
            };
            let body = &datagram[packet.payload.clone()];
            let written = write_packet(
                &mut self.arena,
                &protection.outbound,
                &mut transport.downlink,
                &downtrack.extensions,
                now,
                &outgoing,
                Payload::from(body),
            );
            let Some(len) = written else {
                self.counters.withheld[Withheld::Unprotected as usize] += 1;
                continue;
            };
            if let Some(kept) = &mut downtrack.kept {
                kept.keep(rewrite.seq.0 as u16, &self.arena.reserve(len)[..len]);
            }
            self.arena.commit(path, len);
            let sent = SentPacket {
                seq: rewrite.seq,
                encoding: Spatial(packet.encoding as u8),
                source: packet.seq,
                timestamp: rewrite.timestamp,
                marker,
                patch: rewrite.patch,
                frame_number_offset: rewrite.frame_number_offset,
                codec: packet.codec as u8,
            };
            downtrack.sent.push(sent, len);
            downtrack.mid_left = downtrack.mid_left.saturating_sub(1);
            downtrack.packets += 1;
            downtrack.bytes += len as u64;
            downtrack.octets += (packet.payload.len() - usize::from(packet.padding)) as u64;
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
            let id = downtrack.id;
            if is_first {
                self.emit(Event::DowntrackStarted { downtrack: id });
            } else {
                self.counters.layer_switches += 1;
            }
        }
    }
}

/// The largest start of a payload that is rewritten: a descriptor up to its last counter.
pub(super) const MAX_PREFIX_BYTES: usize = 16;

/// All that a header needs besides what the transport adds.
pub(super) struct Outgoing<'a> {
    pub fields: HeaderFields,
    pub seq: SeqNo,
    pub mid: Option<&'a [u8]>,
    pub carried: &'a Carried,
    pub descriptor: &'a [u8],
    pub since_start: Duration,
}

/// The dependency descriptor as the subscriber is to see it: with a frame number that runs on. `room` holds a changed copy.
pub(super) fn descriptor<'a>(room: &'a mut [u8; 256], carried: &Carried, packet: &'a [u8], offset: u16) -> &'a [u8] {
    let (at, len) = carried.dependency_descriptor;
    let original = packet.get(usize::from(at)..usize::from(at) + usize::from(len)).unwrap_or_default();
    if offset == 0 || original.len() < 3 {
        return original;
    }
    let copy = &mut room[..original.len()];
    copy.copy_from_slice(original);
    let number = u16::from_be_bytes([copy[1], copy[2]]).wrapping_add(offset);
    Descriptor::write_frame_number(copy, number);
    copy
}

/// Copies the start of a payload as far as the patch changes it; how many bytes of the body that replaces.
#[inline]
pub(super) fn patched_prefix(prefix: &mut [u8; MAX_PREFIX_BYTES], body: &[u8], patch: &PayloadPatch) -> usize {
    let picture_end = patch.picture_id.map_or(0, |(id, _)| usize::from(id.offset) + 2);
    let tl0_end = patch.tl0.map_or(0, |(_, offset)| usize::from(offset) + 1);
    let end = picture_end.max(tl0_end).min(body.len()).min(MAX_PREFIX_BYTES);
    prefix[..end].copy_from_slice(&body[..end]);
    patch.apply(&mut prefix[..end]);
    end
}

fn ticks(time: Duration, clock_rate: u32) -> u32 {
    (time.as_micros() as u64 * u64::from(clock_rate) / 1_000_000) as u32
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
    Some(header_len + sealed)
}
