//! RTCP both ways: what subscribers report and ask for, what publishers report, and the requests passed on to them.
//!
//! Key-frame requests are throttled per stream, retransmissions per downtrack: no subscriber can make a publisher or this
//! server work at its will. RFC 3550 §6, 4585, 4588, 5104.

use std::time::{Duration, Instant};

use super::Engine;
use super::down::SentAs;
use super::kept::KeptPacket;
use super::up::SenderClock;
use super::write::{Desk, Kept, write_filling, write_kept};
use crate::breaker;
use crate::command::MediaKind;
use crate::downlink::Flow;
use crate::downtrack::{Refused, SentPacket, Use};
use crate::drop_reason::DropReason;
use crate::ids::{SeqNo, Spatial, Ssrc, Temporal};
use crate::pacer::{Resend, Waiting};
use crate::registers::history::KEPT;
use crate::rtcp::{self, CompoundWriter, Packet, ReportBlock};
use crate::rtp::rtx;
use crate::srtp::MAX_TRAILER_LEN;
use crate::transport::{StreamUse, Transport};
use crate::under_way::Left;

/// RTCP is written into a buffer of an ordinary packet's size.
const RTCP_BYTES: usize = 1_200;

/// Numbers that one datagram may ask for again; no more are kept of a stream, and six thousand have room in it.
const MAX_NACKS: usize = 512;

impl Engine {
    pub(super) fn receive_rtcp(&mut self, now: Instant, slot: usize, datagram: &mut [u8]) {
        let transport = &mut self.transports[slot];
        let Some(protection) = &mut transport.protection else {
            return self.counters.dropped.add(DropReason::UnvalidatedPath);
        };
        let len = match protection.inbound.unprotect_rtcp(datagram) {
            Ok(len) => len,
            Err(reason) => return self.counters.dropped.add(reason),
        };
        transport.reports_up += 1;
        let packets = match rtcp::compound(&datagram[..len]) {
            Ok(packets) => packets,
            Err(reason) => return self.counters.dropped.add(reason),
        };
        let mut nacks_left = MAX_NACKS;
        for packet in packets {
            match packet {
                Ok(packet) => self.receive_rtcp_packet(now, slot, packet, &mut nacks_left),
                Err(reason) => self.counters.dropped.add(reason),
            }
        }
    }

    fn receive_rtcp_packet(&mut self, now: Instant, slot: usize, packet: Packet<'_>, nacks_left: &mut usize) {
        let counters = &mut self.counters.feedback_in;
        match packet {
            Packet::SenderReport { sender, info, blocks } => {
                counters.sender_report += 1;
                self.sender_reported(now, slot, sender, info.ntp, info.rtp_timestamp);
                blocks.for_each(|block| self.subscriber_reported(now, slot, &block));
            }
            Packet::ReceiverReport { blocks, .. } => {
                counters.receiver_report += 1;
                blocks.for_each(|block| self.subscriber_reported(now, slot, &block));
            }
            Packet::Nack(nack) => {
                let Some(sent) = self.transports[slot].sent_streams.get(&nack.media.0).copied() else { return };
                if !sent.is_rtx {
                    for seq in nack.seqs().take(*nacks_left) {
                        *nacks_left -= 1;
                        self.asked_again(now, slot, sent.downtrack, seq);
                    }
                }
            }
            Packet::Pli { media, .. } => {
                counters.pli += 1;
                self.subscriber_needs_keyframe(now, slot, media);
            }
            Packet::Fir { sender, entries } => {
                for (media, number) in entries {
                    self.counters.feedback_in.fir += 1;
                    if self.is_new_fir(slot, sender, media, number) {
                        self.subscriber_needs_keyframe(now, slot, media);
                    }
                }
            }
            Packet::Remb(remb) => {
                counters.remb += 1;
                if self.config.congestion_control {
                    let Transport { rembs, downlink, sent_streams, .. } = &mut self.transports[slot];
                    let ssrcs = remb.ssrcs().map(|ssrc| ssrc.0);
                    let sent = |ssrc| Some(self.downtracks.get(sent_streams.get(&ssrc)?.downtrack)?.kind);
                    let told = rembs.take(now, remb.bitrate_bps, ssrcs, sent);
                    downlink.remb(now, told);
                    self.estimate_changed(now, slot);
                }
            }
            Packet::Twcc(feedback) => {
                counters.twcc += 1;
                if self.config.congestion_control {
                    let lost = self.transports[slot].downlink.feedback(now, &feedback);
                    self.estimate_changed(now, slot);
                    for left in lost {
                        self.reported_lost(now, slot, left);
                    }
                }
            }
            _ => {}
        }
    }

    fn sender_reported(&mut self, now: Instant, slot: usize, sender: Ssrc, ntp: u64, rtp: u32) {
        let our_ntp = self.ntp(now);
        let transport = &mut self.transports[slot];
        let Some(StreamUse::Media { uptrack, encoding }) = transport.streams.get(&sender.0).copied() else { return };
        // One offset for all of a publisher's streams keeps them in step with each other; the least delayed report wins.
        let offset = our_ntp.wrapping_sub(ntp) as i64;
        let known = transport.ntp_offset.get_or_insert(offset);
        *known = (*known).min(offset);
        let encoding = &mut self.uptracks[uptrack].encodings[encoding];
        encoding.clock = Some(SenderClock { ntp, rtp });
        encoding.stats.on_sender_report(now, ntp);
    }

    fn subscriber_reported(&mut self, now: Instant, slot: usize, block: &ReportBlock) {
        let ntp = (self.ntp(now) >> 16) as u32;
        let transport = &mut self.transports[slot];
        let Some(sent) = transport.sent_streams.get(&block.ssrc.0).copied() else { return };
        if sent.is_rtx {
            return;
        }
        if block.last_sr != 0 {
            let rtt = ntp.wrapping_sub(block.last_sr).wrapping_sub(block.delay_since_last_sr);
            // A larger one is a lie or a wrapped clock.
            if rtt < 30 << 16 {
                let rtt = Duration::from_micros((u64::from(rtt) * 1_000_000) >> 16);
                transport.rtt.observe(rtt);
                transport.downlink.round_trip(rtt);
            }
        }
        let Some(downtrack) = self.downtracks.get_mut(sent.downtrack) else { return };
        // The subscriber knows the stream: its section need not be named any more.
        downtrack.mid_left = 0;
        downtrack.reported.fraction_lost = f32::from(block.fraction_lost) / 256.0;
        let rate = downtrack.last_codec.and_then(|c| downtrack.sent_as(c)).map_or(90_000, |s| s.clock_rate);
        downtrack.reported.jitter_ms = block.jitter as f32 * 1_000.0 / rate as f32;
        downtrack.reported.at = Some(now);
        let report = breaker::Report {
            at: now,
            highest_seq: block.highest_seq,
            cumulative_lost: block.cumulative_lost,
            packets: downtrack.packets,
            bytes: downtrack.bytes,
        };
        let rtt = self.transports[slot].rtt.smoothed();
        let (id, fraction_lost) = (downtrack.id, downtrack.reported.fraction_lost);
        let tripped = downtrack.watch.report(report, rtt);
        if let Some(recorder) = self.transports[slot].downlink.recorder() {
            recorder.report(id, report, fraction_lost, rtt);
        }
        self.transports[slot].downlink.reported(now);
        if let Some(trip) = tripped.filter(|_| self.config.congestion_control) {
            self.transports[slot].downlink.trip(now, trip);
            self.counters.breaker_trips += 1;
            self.estimate_changed(now, slot);
        }
    }

    fn asked_again(&mut self, now: Instant, slot: usize, index: usize, seq: u16) {
        self.counters.feedback_in.nack += 1;
        if let Some(downtrack) = self.downtracks.get_mut(index) {
            downtrack.nacks += 1;
        }
        self.resend(now, slot, index, seq, true);
    }

    fn reported_lost(&mut self, now: Instant, slot: usize, Left { repairs, seq, times }: Left) {
        let Some(index) = self.transports[slot].sent_streams.get(&repairs.0).map(|sent| sent.downtrack) else { return };
        // What has left once more since then may have come.
        if self.downtracks.get(index).is_some_and(|downtrack| downtrack.sent.times(seq) == Some(times)) {
            self.resend(now, slot, index, seq, false);
        }
    }

    /// A number that a subscriber misses: sent again now, or as soon as the pacer lets it, if it is still of use to him.
    ///
    /// `is_asked`: he says so himself; else a report says that it is lost.
    fn resend(&mut self, now: Instant, slot: usize, index: usize, seq: u16, is_asked: bool) {
        let transport = &mut self.transports[slot];
        let Some(downtrack) = self.downtracks.get_mut(index) else { return };
        if !transport.may_send() || transport.pacer.renew_resend(now, index, seq) {
            return;
        }
        let round_trip = transport.rtt.smoothed().unwrap_or(Duration::from_millis(50)).max(Duration::from_millis(10));
        let pause = if is_asked { round_trip } else { Duration::ZERO };
        let current = downtrack.selector.current();
        // Receivers that do not report transport-wide wait for every packet, whatever has come since.
        let misses_all = downtrack.kind != MediaKind::Video || downtrack.extensions.transport_seq.is_none();
        let is_paused = downtrack.paused.is_some();
        // What an SVC stream is being lowered to is as good as sent.
        let spatial = current.zip(downtrack.selector.target()).map(|(now, then)| now.spatial.min(then.spatial));
        let whole_since = downtrack.whole_since;
        let use_of = |sent: &SentPacket| {
            // Of a layer that was left since, it would only be thrown away; on a full link the base matters alone.
            let is_left = is_paused
                || current.is_some_and(|c| sent.temporal > c.temporal)
                || downtrack.source != Some(usize::from(sent.encoding.0));
            match misses_all || sent.is_filling() {
                true => Use::Shown,
                false if is_left => Use::None,
                false if spatial.is_none_or(|spatial| sent.spatial <= spatial) => Use::Shown,
                // Receivers decode a picture whole, and the next ones of the base layer upon it, until a key picture.
                false if sent.temporal == Temporal(0) && sent.seq >= whole_since => Use::Missed,
                false => Use::None,
            }
        };
        let asked = downtrack.sent.ask(now, seq, pause, use_of);
        if !is_asked {
            if asked.is_err() {
                return;
            }
            self.counters.resent_unasked += 1;
        }
        if asked == Err(Refused::Unknown) && self.send_passed_over(now, slot, index, seq) {
            return;
        }
        let Some(downtrack) = self.downtracks.get_mut(index) else { return };
        if let Err(refused) = asked {
            self.counters.nacks_refused[refused as usize] += 1;
            if refused == Refused::Broken && !std::mem::replace(&mut downtrack.is_broken, true) {
                let uptrack = downtrack.uptrack;
                self.request_keyframe(now, uptrack, Spatial(0), false);
            }
            return;
        }
        let is_video = downtrack.kind == MediaKind::Video;
        let Some(transport) = self.transports.get_mut(slot) else { return };
        let resend = Resend { downtrack: index, seq, asked: now };
        if is_video && transport.pacer.holds_resend(now, resend) {
            self.list_paced(now, slot);
            return;
        }
        self.resend_now(now, slot, index, seq);
    }

    /// Sends what had come before the subscriber's stream began with an earlier packet: a key frame's first came late, the rest
    /// of it had been passed over. False: nothing is kept for that number, or it has not come.
    fn send_passed_over(&mut self, now: Instant, slot: usize, index: usize, seq: u16) -> bool {
        let Some(downtrack) = self.downtracks.get_mut(index) else { return false };
        let Some(uptrack) = self.uptracks.get(downtrack.uptrack) else { return false };
        let Some(transport) = self.transports.get_mut(slot) else { return false };
        let source = downtrack.source.filter(|_| downtrack.selector.current().is_some());
        let Some((encoding, awaited)) = source.zip(downtrack.munger.awaited(seq)) else { return false };
        let Some(packet) = KeptPacket::read(uptrack, encoding, awaited) else { return false };
        if transport.pacer.holds(index, encoding, awaited) {
            return true;
        }
        let Some((false, marker)) = packet.choose(&mut downtrack.selector, uptrack) else { return false };
        let waiting = Waiting { downtrack: index, unit: packet.unit(marker), bytes: packet.payload as u32 };
        if transport.pacer.admits(now, true) {
            self.send_waiting(now, slot, &waiting);
            return true;
        }
        downtrack.wait(now, &mut transport.pacer, waiting);
        self.list_paced(now, slot);
        true
    }

    pub(super) fn resend_now(&mut self, now: Instant, slot: usize, index: usize, seq: u16) {
        let Some(downtrack) = self.downtracks.get_mut(index) else { return };
        downtrack.sent.again(now, seq);
        if !self.write_again(now, slot, index, seq, Flow::Resent) {
            self.counters.retransmission_missed += 1;
        }
    }

    /// Sends one packet again: as RTX where negotiated for its codec (RFC 4588), else the very bytes that were sent
    /// before. False: it is not kept any more. `flow`: for the subscriber's sake, or for a probe's.
    pub(super) fn write_again(&mut self, now: Instant, slot: usize, index: usize, seq: u16, flow: Flow) -> bool {
        let (Some(transport), Some(downtrack)) = (self.transports.get_mut(slot), self.downtracks.get_mut(index)) else {
            return false;
        };
        let Some(uptrack) = self.uptracks.get(downtrack.uptrack) else { return false };
        let Some(path) = transport.path.filter(|_| transport.may_send()) else { return false };
        let is_numbered = downtrack.extensions.transport_seq.is_some();
        // A probe learns nothing of bytes that bear an old number.
        let kept = downtrack.kept.as_ref().filter(|_| flow != Flow::Padding);
        if let Some(datagram) = kept.and_then(|kept| kept.get(seq)) {
            self.arena.push(path, datagram);
            downtrack.sent.spend(datagram.len());
            transport.pacer.spend(datagram.len());
            // The bytes carry their old number: nothing new can be learnt from it.
            transport.downlink.sent(now, flow, datagram.len(), false, None);
            downtrack.retransmitted += 1;
            self.counters.retransmitted += 1;
            self.counters.down.rtx.add(datagram.len());
            return true;
        }
        let Some(entry) = downtrack.sent.get(seq) else { return false };
        let sent_as = downtrack.sent_as(usize::from(entry.codec));
        let (Some(SentAs { rtx_pt: Some(pt), .. }), Some(ssrc)) = (sent_as, downtrack.rtx_ssrc) else { return false };
        let since_start = now.saturating_duration_since(self.start);
        let mut desk = Desk { arena: &mut self.arena, counters: &mut self.counters, since_start };
        let rtx_seq = SeqNo(downtrack.rtx_seq.0 + 1);
        let written = if entry.is_filling() {
            let as_sent = (pt, ssrc, rtx_seq);
            write_filling(&mut desk, transport, downtrack, as_sent, entry.timestamp, &rtx::osn(seq))
        } else {
            let encoding = &uptrack.encodings[uptrack.index_of(entry.encoding)];
            let kept = encoding.history.get(entry.source).filter(|(_, at)| now.saturating_duration_since(*at) < KEPT);
            let Some((packet, _)) = kept else { return false };
            let kept = Kept {
                packet,
                marker: entry.marker,
                timestamp: entry.timestamp,
                patch: entry.patch,
                frame_number_offset: entry.frame_number_offset,
                pt,
                ssrc,
                seq: rtx_seq,
                original: Some(seq),
                // Of sound nothing is sent in other bytes than before.
                unwraps_red: false,
            };
            write_kept(&mut desk, transport, downtrack, uptrack, &kept)
        };
        let Some(len) = written else { return false };
        downtrack.rtx_seq = rtx_seq;
        self.arena.commit(path, len);
        let probe = transport.pacer.probe();
        transport.downlink.sent(now, flow, len, is_numbered, probe);
        if is_numbered && flow == Flow::Resent {
            transport.downlink.left(|| Some(Left { repairs: ssrc, seq, times: downtrack.sent.times(seq)? }));
        }
        transport.bytes_down += len as u64;
        transport.packets_down += 1;
        if flow == Flow::Padding {
            transport.pacer.spend_padding(len);
            self.counters.down.padding.add(len);
            return true;
        }
        transport.pacer.spend(len);
        downtrack.sent.spend(len);
        downtrack.retransmitted += 1;
        self.counters.retransmitted += 1;
        self.counters.down.rtx.add(len);
        true
    }

    /// A FIR says by its number whether it is a new command or the last one sent again (RFC 5104 §4.3.1.1).
    fn is_new_fir(&mut self, slot: usize, sender: Ssrc, media: Ssrc, number: u8) -> bool {
        let Some(sent) = self.transports[slot].sent_streams.get(&media.0) else { return false };
        let Some(downtrack) = self.downtracks.get_mut(sent.downtrack) else { return false };
        downtrack.last_fir.replace((sender, number)) != Some((sender, number))
    }

    /// A PLI or FIR of a subscriber concerns the layer that it gets, or waits for.
    fn subscriber_needs_keyframe(&mut self, now: Instant, slot: usize, media: Ssrc) {
        let Some(sent) = self.transports[slot].sent_streams.get(&media.0).copied() else { return };
        let Some(downtrack) = self.downtracks.get_mut(sent.downtrack) else { return };
        downtrack.plis += 1;
        let uptrack = downtrack.uptrack;
        let is_first = self.uptracks.get(uptrack).is_some_and(|uptrack| uptrack.owes_first_picture(downtrack));
        let spatial = downtrack.selector.target().map(|layer| layer.spatial);
        if let Some(spatial) = spatial {
            self.request_keyframe(now, uptrack, spatial, is_first);
        }
    }

    /// A packet of this stream will never come.
    pub(super) fn repair_by_keyframe(&mut self, now: Instant, uptrack: usize, index: usize) {
        let watched = self.uptracks[uptrack].downtracks.iter().any(|&d| {
            self.downtracks.get(d).is_some_and(|d| d.source == Some(index) && d.selector.current().is_some())
        });
        if watched {
            self.request_keyframe(now, uptrack, Spatial(index as u8), false);
        }
    }

    pub(super) fn request_all_keyframes(&mut self, now: Instant, uptrack: usize) {
        for index in 0..self.uptracks[uptrack].encodings.len() {
            self.request_keyframe(now, uptrack, Spatial(index as u8), false);
        }
    }

    /// Asks the publisher for a key frame of the stream that carries `spatial`; the register says whether it may be asked now.
    ///
    /// `is_first`: somebody waits for his first picture.
    pub(super) fn request_keyframe(&mut self, now: Instant, uptrack_slot: usize, spatial: Spatial, is_first: bool) {
        let Some(uptrack) = self.uptracks.get_mut(uptrack_slot) else { return };
        if uptrack.kind != MediaKind::Video {
            return;
        }
        let index = uptrack.index_of(spatial);
        let keyframes = &mut uptrack.encodings[index].keyframes;
        let (is_now, hurries) = (keyframes.request(now, is_first), keyframes.hurries());
        if is_now {
            self.send_keyframe_request(uptrack_slot, index);
        } else if let Some(at) = hurries {
            if !self.first_pictures.contains(&(uptrack_slot, index)) {
                self.first_pictures.push((uptrack_slot, index));
            }
            self.wake_for_keyframe(at);
        }
    }

    pub(super) fn send_keyframe_request(&mut self, uptrack_slot: usize, index: usize) {
        let Some(uptrack) = self.uptracks.get_mut(uptrack_slot) else { return };
        let codec = uptrack.feedback_codec();
        let (has_pli, has_fir) = codec.map_or((true, false), |c| (c.has_pli, c.has_fir));
        let Some(ssrc) = uptrack.encodings[index].ssrc else { return };
        uptrack.plis_sent += 1;
        let mut buffer = [0; RTCP_BYTES];
        let mut writer = CompoundWriter::new(&mut buffer);
        let transport = uptrack.transport;
        let ours = self.transports.get(transport).map_or(Ssrc(1), |t| t.rtcp_ssrc);
        if has_pli || !has_fir {
            self.counters.feedback_out.pli += 1;
            writer.pli(ours, ssrc);
        } else {
            let encoding = &mut self.uptracks[uptrack_slot].encodings[index];
            encoding.fir_seq = encoding.fir_seq.wrapping_add(1);
            self.counters.feedback_out.fir += 1;
            writer.fir(ours, &[(ssrc, encoding.fir_seq)]);
        }
        let len = writer.len();
        self.send_rtcp(transport, &mut buffer, len);
    }

    /// Protects the first `len` bytes of `buffer` and sends them.
    pub(super) fn send_rtcp(&mut self, slot: usize, buffer: &mut [u8; RTCP_BYTES], len: usize) {
        let Some(transport) = self.transports.get_mut(slot) else { return };
        if len == 0 || !transport.may_send() {
            return;
        }
        let (Some(path), Some(protection)) = (transport.path, &mut transport.protection) else { return };
        let out = self.arena.reserve(RTCP_BYTES + MAX_TRAILER_LEN);
        out[..len].copy_from_slice(&buffer[..len]);
        if let Ok(len) = protection.outbound.protect_rtcp(out, len) {
            self.counters.down.rtcp.add(len);
            self.arena.commit(path, len);
        }
    }

    /// NTP time in 32.32 fixed point, seconds since 1900 (RFC 3550 §4).
    pub(super) fn ntp(&self, now: Instant) -> u64 {
        const SECONDS_1900_TO_1970: u64 = 2_208_988_800;
        let unix = self.start_unix + now.saturating_duration_since(self.start);
        ((unix.as_secs() + SECONDS_1900_TO_1970) << 32) | ((u64::from(unix.subsec_nanos()) << 32) / 1_000_000_000)
    }
}
