//! What waits in the pacers leaves by the beat: retransmissions that have waited for video, video, other
//! retransmissions, then what a probe still needs; and the pings that tell whether the link still carries it.
//!
//! A probe is spent on retransmissions of recent packets where they fit, on bare padding where not, both on a downtrack's
//! retransmission stream (RFC 4588); a subscriber without one is never probed.

use std::time::Instant;

use super::Engine;
use super::down::Downtrack;
use super::paths::from_ice;
use super::write::{
    Carried, Desk, Kept, Outgoing, fill, fill_holes, leave_out, leaves_source, number, remember, withdraw, write_kept,
    write_packet,
};
use crate::command::MediaKind;
use crate::counters::Withheld;
use crate::downlink::Flow;
use crate::downtrack::Layer;
use crate::ids::{Pt, Spatial, Ssrc, Temporal};
use crate::overload::Level;
use crate::pacer::{BEAT, Waiting};
use crate::rtp::{HeaderFields, RtpHeader};
use crate::srtp::Payload;

/// Padding of one packet: a multiple of an AES block and in the count's one byte (RFC 3550 §5.1).
const MAX_PADDING: usize = 240;
/// From this size on a probe's packet may as well be a recent packet again.
const WORTH_REPEATING: usize = 400;
/// Packets that leave in one beat of one transport at most.
const MAX_A_BEAT: usize = 512;

impl Engine {
    /// Puts a transport on the list of those that are looked at by the beat.
    pub(super) fn list_paced(&mut self, now: Instant, slot: usize) {
        let Some(transport) = self.transports.get_mut(slot) else { return };
        if !std::mem::replace(&mut transport.pacer.is_listed, true) {
            self.paced.push(slot);
        }
        self.next_beat.get_or_insert(now + BEAT);
    }

    pub(super) fn pace(&mut self, now: Instant) {
        let mut index = 0;
        while let Some(&slot) = self.paced.get(index) {
            self.acting = Some(slot);
            if self.release(now, slot) {
                index += 1;
                continue;
            }
            self.paced.swap_remove(index);
            if let Some(transport) = self.transports.get_mut(slot) {
                transport.pacer.is_listed = false;
            }
        }
        self.next_beat = (!self.paced.is_empty()).then_some(now + BEAT);
    }

    /// Sends what may leave now; false once nothing waits any more.
    pub(super) fn release(&mut self, now: Instant, slot: usize) -> bool {
        for _ in 0..MAX_A_BEAT {
            let Some(transport) = self.transports.get_mut(slot) else { return false };
            if let Some(resend) = transport.pacer.release_resend(now) {
                self.resend_now(now, slot, resend.downtrack, resend.seq);
            } else if let Some(waiting) = transport.pacer.release(now) {
                self.send_waiting(now, slot, &waiting);
            } else if let Some(bytes) = transport.pacer.padding(now) {
                if !self.send_probe_packet(now, slot, bytes) {
                    self.transports[slot].pacer.end_probe();
                }
            } else {
                break;
            }
        }
        let looks_out = self.ping(now, slot);
        self.transports.get(slot).is_some_and(|transport| !transport.pacer.is_idle()) || looks_out
    }

    /// Sends a ping if one is due; false: none will be.
    fn ping(&mut self, now: Instant, slot: usize) -> bool {
        let has_no_cpu = self.gives_up(Level::Probes);
        let Some(transport) = self.transports.get_mut(slot) else { return false };
        if has_no_cpu || !transport.downlink.pings().is_looking(now) || transport.ice.pingable().is_none() {
            return false;
        }
        if transport.downlink.pings_mut().is_due(now, self.config.ping_interval)
            && let Some(path) = transport.ice.ping(now, &mut self.scratch)
        {
            self.counters.down.stun.add(self.scratch.len());
            self.arena.push(from_ice(path), &self.scratch);
            self.counters.pings += 1;
            transport.downlink.pings_mut().pinged(now);
            transport.heed_pings();
        }
        true
    }

    pub(super) fn send_waiting(&mut self, now: Instant, slot: usize, waiting: &Waiting) {
        let unit = &waiting.unit;
        let Some(downtrack) = self.downtracks.get_mut(waiting.downtrack) else { return };
        downtrack.waiting = downtrack.waiting.saturating_sub(1);
        let Some(transport) = self.transports.get_mut(slot) else { return };
        let Some(uptrack) = self.uptracks.get(downtrack.uptrack) else { return };
        let Some(path) = transport.path.filter(|_| transport.may_send()) else {
            self.counters.withheld[Withheld::NotConnected as usize] += 1;
            return;
        };
        let packet = uptrack.encodings.get(unit.encoding).and_then(|e| e.history.get(unit.seq));
        let sent_as = downtrack.sent_as(unit.codec);
        let newest = packet.filter(|_| downtrack.kind == MediaKind::Audio).and_then(|(packet, _)| {
            // What is in the history was parsed when it came.
            RtpHeader::parse(packet).ok().and_then(|header| uptrack.newest_of_red(unit.codec, header.payload()))
        });
        let sent_as =
            sent_as.and_then(|sent_as| sent_as.of_packet(newest.is_some(), transport.redundancy.is_withheld()));
        let is_forgotten = packet.is_none() && waiting.bytes > 0 && downtrack.kind == MediaKind::Video;
        let (Some((packet, _)), Some(sent_as), true) = (packet, sent_as, waiting.bytes > 0) else {
            if let (Some(seq), Some(sent_as)) = (leave_out(downtrack, unit), sent_as) {
                let since_start = now.saturating_duration_since(self.start);
                let mut desk = Desk { arena: &mut self.arena, counters: &mut self.counters, since_start };
                let timestamp = unit.timestamp.wrapping_add(downtrack.munger.timestamp_offset());
                fill(now, &mut desk, transport, downtrack, (sent_as, timestamp), seq);
            }
            if is_forgotten {
                // Nobody could tell that the picture has a hole.
                self.empty_queue(now, waiting.downtrack);
            }
            return;
        };
        let mut has_switched = false;
        if leaves_source(downtrack, unit) {
            let since_start = now.saturating_duration_since(self.start);
            let mut desk = Desk { arena: &mut self.arena, counters: &mut self.counters, since_start };
            fill_holes(now, &mut desk, transport, downtrack);
        }
        let Some(rewrite) = number(now, downtrack, uptrack, unit, sent_as, &mut has_switched) else { return };
        let kept = Kept {
            packet,
            marker: unit.marker,
            timestamp: rewrite.timestamp,
            patch: rewrite.patch,
            frame_number_offset: rewrite.frame_number_offset,
            pt: sent_as.pt,
            ssrc: downtrack.ssrc,
            seq: rewrite.seq,
            original: None,
            unwraps_red: sent_as.unwraps_red,
        };
        let since_start = now.saturating_duration_since(self.start);
        let mut desk = Desk { arena: &mut self.arena, counters: &mut self.counters, since_start };
        let Some(len) = write_kept(&mut desk, transport, downtrack, uptrack, &kept) else { return };
        downtrack.keep(sent_as, rewrite.seq, &mut self.arena, len);
        self.arena.commit(path, len);
        let (flow, traffic) = match downtrack.kind {
            MediaKind::Audio => (Flow::Audio, &mut self.counters.down.audio),
            MediaKind::Video => (Flow::Video, &mut self.counters.down.video),
        };
        traffic.add(len);
        remember(now, downtrack, transport, unit, &rewrite, (len, waiting.bytes as usize), flow);
        if has_switched {
            self.tell_switch(waiting.downtrack);
        }
    }

    /// Whatever waits for this downtrack is not to be sent any more.
    pub(super) fn forget_waiting(&mut self, slot: usize) {
        let Some(downtrack) = self.downtracks.get_mut(slot) else { return };
        downtrack.waiting = 0;
        if let Some(transport) = self.transports.get_mut(downtrack.transport) {
            self.counters.pacer_dropped += transport.pacer.forget(slot) as u64;
        }
    }

    /// Too much waits: it would be too late. The downtrack begins anew with a key frame.
    pub(super) fn empty_queue(&mut self, now: Instant, slot: usize) {
        self.forget_waiting(slot);
        let Some(downtrack) = self.downtracks.get_mut(slot) else { return };
        downtrack.selector.restart();
        downtrack.reason = "queue";
        let (uptrack, target) = (downtrack.uptrack, downtrack.selector.target());
        if let Some(target) = target {
            self.request_keyframe(now, uptrack, target.spatial, false);
        }
    }

    /// The link's queue grows: of our own only what others need is kept.
    pub(super) fn thin_queue(&mut self, slot: usize) {
        let Some(transport) = self.transports.get_mut(slot) else { return };
        let (downtracks, counters) = (&mut self.downtracks, &mut self.counters);
        transport.pacer.thin(|slot, unit| {
            counters.pacer_dropped += 1;
            if let Some(downtrack) = downtracks.get_mut(slot) {
                let temporal = Temporal(unit.meta.temporal.0.saturating_sub(1));
                withdraw(downtrack, unit, Layer { spatial: Spatial(u8::MAX), temporal });
            }
        });
    }

    /// Whether a probe can be sent: some downtrack has a retransmission stream whose packets are reported on.
    pub(super) fn can_probe(&self, slot: usize) -> bool {
        self.probe_stream(slot).is_some()
    }

    fn probe_stream(&self, slot: usize) -> Option<(usize, Pt, Ssrc)> {
        let streams = self.transports.get(slot)?.downtracks.iter().filter_map(|&index| {
            let downtrack = self.downtracks.get(index)?;
            let (pt, ssrc) = rtx_stream(downtrack)?;
            Some((index, pt, ssrc, downtrack.last_sent))
        });
        let (index, pt, ssrc, _) = streams.max_by_key(|(.., last_sent)| *last_sent)?;
        Some((index, pt, ssrc))
    }

    /// False: there is nothing it could be sent on.
    fn send_probe_packet(&mut self, now: Instant, slot: usize, bytes: usize) -> bool {
        let Some((index, pt, ssrc)) = self.probe_stream(slot) else { return false };
        if bytes >= WORTH_REPEATING {
            let back = u64::from(self.transports[slot].pacer.probe_packets());
            let recent = self.downtracks[index].sent.recent(back).map(|sent| sent.seq.0 as u16);
            if recent.is_some_and(|seq| self.write_again(now, slot, index, seq, Flow::Padding)) {
                return true;
            }
        }
        let (transport, downtrack) = (&mut self.transports[slot], &mut self.downtracks[index]);
        let (Some(path), Some(protection)) = (transport.path.filter(|_| transport.may_send()), &transport.protection)
        else {
            return false;
        };
        downtrack.rtx_seq.0 += 1;
        let carried = Carried::default();
        let outgoing = Outgoing {
            fields: HeaderFields {
                marker: false,
                pt,
                seq: downtrack.rtx_seq.0 as u16,
                timestamp: downtrack.munger.last_timestamp().unwrap_or_default(),
                ssrc,
                padding: true,
            },
            seq: downtrack.rtx_seq,
            mid: (downtrack.mid_left > 0).then_some(downtrack.mid.as_bytes()),
            carried: &carried,
            descriptor: &[],
            since_start: now.saturating_duration_since(self.start),
        };
        let payload = Payload { prefix: &[], body: &[], padding_len: bytes.clamp(16, MAX_PADDING) as u8 };
        let written = write_packet(
            &mut self.arena,
            &protection.outbound,
            &transport.downlink,
            &downtrack.extensions,
            &outgoing,
            payload,
        );
        let Some(len) = written else { return false };
        self.arena.commit(path, len);
        let probe = transport.pacer.probe();
        transport.pacer.spend_padding(len);
        transport.downlink.sent(now, Flow::Padding, len, true, probe);
        transport.bytes_down += len as u64;
        transport.packets_down += 1;
        self.counters.down.padding.add(len);
        true
    }
}

/// The stream on which a downtrack's packets are sent again, if the subscriber reports on it.
fn rtx_stream(downtrack: &Downtrack) -> Option<(Pt, Ssrc)> {
    if downtrack.kind != MediaKind::Video || !downtrack.promises_feedback() {
        return None;
    }
    let pt = downtrack.all_sent_as().find_map(|sent_as| sent_as.rtx_pt)?;
    Some((pt, downtrack.rtx_ssrc?))
}
