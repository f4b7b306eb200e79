//! The fan-out: each pending packet to each subscriber, straight into the arena. No allocation, no look-up by id.
//!
//! Downtrack by downtrack, so that a frame's packets to one subscriber lie side by side and leave as one segmented send.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::up::Uptrack;
use super::write::{
    Carried, Desk, Outgoing, descriptor, fill, fill_holes, leave_out, leaves_source, number, remember, write_packet,
};
use super::{Datagram, Engine};
use crate::codec::PacketMeta;
use crate::codec::dd::Descriptor;
use crate::command::{LayerMode, MediaKind};
use crate::counters::Withheld;
use crate::downlink::Flow;
use crate::downtrack::{Packet, Verdict};
use crate::ids::{SeqNo, Spatial, Temporal};
use crate::pacer::{Unit, Waiting};
use crate::rtp::{HeaderFields, RtpHeader};
use crate::srtp::Payload;

/// With more than this waiting only the base temporal layer is let in, until little waits.
const THIN_ABOVE: Duration = Duration::from_millis(150);
const FULL_BELOW: Duration = Duration::from_millis(40);
/// What is too late is begun anew with a key frame: if that is what is late, only after so many times as long. The next
/// one would take no less.
const KEY_PATIENCE: u32 = 4;

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
    /// Otherwise only those who asked for this track before others get it.
    pub is_for_all: bool,
    /// Of RED, an encoding of a packet that has not come: for those alone who get no RED.
    pub is_repair: bool,
    /// Where RED's newest encoding begins in the payload; `None`: not RED, or none that can be read.
    pub newest: Option<usize>,
    /// RTP padding that makes the packet as long as its frame's others.
    pub padding: u8,
    pub received: Instant,
}

/// How far the fan-out of a batch has come: uptracks that are done, and subscribers of the next.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    uptrack: usize,
    subscriber: usize,
}

impl Pending {
    /// (first of another stream, marker), as the selector said.
    #[inline]
    fn unit(&self, (switched, marker): (bool, bool)) -> Unit {
        Unit {
            encoding: self.encoding,
            codec: self.codec,
            seq: self.seq,
            timestamp: self.timestamp,
            marker,
            meta: self.meta,
            frame_number: self.descriptor.as_ref().map(|d| d.frame_number),
            switched,
            received: self.received,
        }
    }
}

/// Whether it is a packet of its stream's last key frame, by the publisher's own time stamps.
fn is_of_newest_key(uptrack: &Uptrack, unit: &Unit) -> bool {
    let Some(encoding) = uptrack.encodings.get(unit.encoding) else { return false };
    let header = encoding.history.get(unit.seq).and_then(|(packet, _)| RtpHeader::parse(packet).ok());
    header.zip(encoding.last_key).is_some_and(|(header, key)| header.timestamp == key.timestamp)
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

    /// Writes subscribers' copies of what the batch has brought; `in_pieces`: until enough of them waits to be sent.
    /// True if there is more.
    pub(super) fn forward(&mut self, now: Instant, batch: &mut [Datagram<'_>], in_pieces: bool) -> bool {
        let Progress { mut uptrack, mut subscriber } = std::mem::take(&mut self.progress);
        while let Some(&slot) = self.touched.get(uptrack) {
            let first = self.uptracks.get(slot).and_then(|uptrack| uptrack.first_pending);
            if let Some(first) = first {
                if subscriber == 0 && self.config.max_segment_padding > 0 {
                    self.pad_run(first, batch);
                }
                while let Some(&downtrack) = self.uptracks.get(slot).and_then(|u| u.downtracks.get(subscriber)) {
                    if in_pieces && self.arena.is_full() {
                        self.progress = Progress { uptrack, subscriber };
                        return true;
                    }
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
            if let Some(uptrack) = self.uptracks.get_mut(slot) {
                uptrack.first_pending = None;
            }
            (uptrack, subscriber) = (uptrack + 1, 0);
        }
        self.touched.clear();
        self.pending.clear();
        if !self.climbers.is_empty() {
            self.climb(now);
        }
        if !self.beginners.is_empty() {
            self.begin_pictures(now);
        }
        false
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
                // Behind one encoding of RED lies the next.
                if packet.next != end && missing > 0 && !packet.payload.is_empty() && !packet.is_repair {
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
        if transport.protection.is_none() {
            return;
        }
        let Some(uptrack) = self.uptracks.get(downtrack.uptrack) else { return };
        let is_svc = uptrack.mode == LayerMode::Svc;
        let is_video = downtrack.kind == MediaKind::Video;
        let flow = if is_video { Flow::Video } else { Flow::Audio };
        let since_start = now.saturating_duration_since(self.start);
        if downtrack.selector.ceiling().is_some() && transport.pacer.delay() < FULL_BELOW {
            downtrack.selector.set_ceiling(None);
        }
        let mut room = [0; 256];
        let (mut has_switched, mut is_overdue) = (false, false);
        let mut at = Some(first);
        while let Some(index) = at {
            let packet = &self.pending[index];
            at = packet.next;
            if !packet.is_for_all && !downtrack.is_favoured() {
                self.counters.withheld[Withheld::NotLoudest as usize] += 1;
                continue;
            }
            let Some(agreed) = downtrack.now_sent_as(packet.codec) else {
                downtrack.reason = "no_codec";
                self.counters.withheld[Withheld::NoCodec as usize] += 1;
                continue;
            };
            let found = agreed.of_packet(packet.newest.is_some(), transport.redundancy.is_withheld());
            let sent_as = found.unwrap_or(agreed);
            if packet.is_repair && !sent_as.unwraps_red {
                continue;
            }
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
            } else if found.is_none() {
                Err("unreadable_red")
            } else if is_video && downtrack.keeps_back(now, packet, uptrack, transport) {
                Err("climbing")
            } else {
                match downtrack.selector.select(selected, is_svc) {
                    Verdict::Forward { switched, marker } => Ok((switched, marker)),
                    Verdict::Drop(reason) => Err(reason.as_str()),
                }
            };
            let unit = packet.unit(verdict.unwrap_or_default());
            if let Err(reason) = verdict {
                downtrack.reason = reason;
                self.counters.withheld[Withheld::NotSelected as usize] += 1;
                if downtrack.waiting > 0 {
                    downtrack.wait(now, &mut transport.pacer, Waiting { downtrack: slot, unit, bytes: 0 });
                } else if let Some(seq) = leave_out(downtrack, &unit) {
                    let mut desk = Desk { arena: &mut self.arena, counters: &mut self.counters, since_start };
                    let timestamp = unit.timestamp.wrapping_add(downtrack.munger.timestamp_offset());
                    fill(now, &mut desk, transport, downtrack, (sent_as, timestamp), seq);
                }
                continue;
            }
            if downtrack.is_climbing && unit.marker {
                downtrack.ends_picture(unit.timestamp);
            }
            if is_video && !transport.pacer.admits(now, !unit.meta.start_of_frame) {
                if unit.switched && downtrack.waiting > 0 {
                    // What waits of the other stream is useless now.
                    self.counters.pacer_dropped += transport.pacer.forget(slot) as u64;
                    downtrack.waiting = 0;
                }
                let delay = transport.pacer.delay();
                if delay > THIN_ABOVE {
                    downtrack.selector.set_ceiling(Some(Temporal(0)));
                }
                let longest = self.config.max_pacer_delay;
                let since = downtrack.waiting_since.filter(|_| downtrack.waiting > 0);
                let waits = since.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
                if waits.min(delay) > longest && unit.meta.start_of_frame && !unit.switched {
                    let is_key = transport.pacer.first_of(slot).is_some_and(|first| is_of_newest_key(uptrack, first));
                    is_overdue = !is_key || waits > longest * KEY_PATIENCE;
                    if is_overdue {
                        break;
                    }
                }
                self.counters.pacer_held += 1;
                let bytes = packet.payload.len() as u32;
                downtrack.wait(now, &mut transport.pacer, Waiting { downtrack: slot, unit, bytes });
                continue;
            }
            if leaves_source(downtrack, &unit) {
                let mut desk = Desk { arena: &mut self.arena, counters: &mut self.counters, since_start };
                fill_holes(now, &mut desk, transport, downtrack);
            }
            let Some(rewrite) = number(now, downtrack, uptrack, &unit, sent_as, &mut has_switched) else { continue };
            let datagram: &mut [u8] = batch[packet.batch].payload;
            // Every subscriber's patch replaces the same bytes, so the packet is changed where it lies and sealed from there.
            rewrite.patch.apply(&mut datagram[packet.payload.clone()]);
            let datagram: &[u8] = datagram;
            let outgoing = Outgoing {
                fields: HeaderFields {
                    marker: unit.marker,
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
            let mut body = &datagram[packet.payload.clone()];
            if let Some(newest) = packet.newest.filter(|_| !packet.is_repair) {
                if agreed.lean_pt.is_some() {
                    transport.downlink.redundant(newest);
                }
                if sent_as.unwraps_red {
                    body = body.get(newest..).unwrap_or_default();
                }
            }
            let Some(protection) = &transport.protection else { return };
            let written = write_packet(
                &mut self.arena,
                &protection.outbound,
                &transport.downlink,
                &downtrack.extensions,
                &outgoing,
                Payload::from(body),
            );
            let Some(len) = written else {
                self.counters.withheld[Withheld::Unprotected as usize] += 1;
                continue;
            };
            downtrack.keep(sent_as, rewrite.seq, &mut self.arena, len);
            self.arena.commit(path, len);
            let octets = body.len() - usize::from(packet.padding);
            remember(now, downtrack, transport, &unit, &rewrite, (len, octets), flow);
            match downtrack.kind {
                MediaKind::Audio => self.counters.down.audio.add(len),
                MediaKind::Video => self.counters.down.video.add(len),
            }
        }
        if downtrack.is_climbing && !self.climbers.contains(&slot) {
            self.climbers.push(slot);
        }
        let is_stuck = downtrack.selector.take_stuck();
        let transport_slot = downtrack.transport;
        if !transport.pacer.is_idle() && !transport.pacer.is_listed {
            self.list_paced(now, transport_slot);
        }
        if has_switched {
            self.tell_switch(slot);
        }
        if is_stuck {
            self.needs_keyframe(slot);
        }
        if is_overdue {
            self.empty_queue(now, slot);
        }
    }
}
