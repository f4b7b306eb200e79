//! What happens by the clock: ten times a second for everything, and a finer beat while packets are missing.
//!
//! One wake for all transports: timers of their own are only kept where DTLS and SCTP need them.

use std::time::{Duration, Instant};

use super::Engine;
use crate::event::{Event, TransportState};
use crate::ids::Ssrc;
use crate::rtcp::{CompoundWriter, ReportBlock, SenderInfo};
use crate::unanswered;

pub(super) const TICK: Duration = Duration::from_millis(100);
/// So much sooner where the worker is awake anyway: about as far as the frames of common video are apart.
pub(super) const EARLY: Duration = Duration::from_millis(35);
/// How soon a missing packet is noticed and asked for.
pub(super) const FINE_TICK: Duration = Duration::from_millis(10);
/// Until reports tell better.
const DEFAULT_RTT: Duration = Duration::from_millis(100);
/// RTCP is written into a buffer of an ordinary packet's size.
const RTCP_BYTES: usize = 1_200;
/// A feedback speaks of the whole transport; some ssrc must stand there.
const TWCC_PACKETS_PER_TICK: usize = 8;

impl Engine {
    pub(super) fn occupied(&self) -> Vec<usize> {
        self.transports.iter().map(|(slot, _)| slot).collect()
    }

    pub(super) fn tick(&mut self, now: Instant) {
        self.tick_ice(now);
        for slot in self.occupied() {
            self.acting = Some(slot);
            self.tick_transport(now, slot);
        }
        self.acting = None;
        if self.pending.is_empty() && !self.climbers.is_empty() {
            self.climb(now);
        }
        let uptracks: Vec<usize> = self.uptracks.iter().map(|(slot, _)| slot).collect();
        for slot in uptracks {
            self.tick_uptrack(now, slot);
        }
        let rooms: Vec<_> = self.rooms.keys().copied().collect();
        for room in rooms {
            let speakers = self.room(room).speakers.poll(now);
            if !speakers.is_empty() {
                self.emit(Event::Speakers { room, speakers });
            }
        }
        if now >= self.next_quality {
            let interval = self.config.quality_interval;
            self.next_quality = now + interval;
            self.report_quality(now, interval);
        }
    }

    /// Tells signaling of a client that has fallen silent.
    fn listen(&mut self, slot: usize) {
        let ticks = |time: Duration| (time.as_secs_f64() / TICK.as_secs_f64()).ceil() as u32;
        let (limit, second) = (ticks(self.config.unanswered_after), ticks(Duration::from_secs(1)));
        let transport = &mut self.transports[slot];
        let sums = unanswered::Sums {
            heard: transport.packets_up + transport.reports_up + transport.checks_up,
            checks: transport.checks_up,
            sent: transport.packets_down,
            is_answering: transport.downlink.is_answered(),
        };
        if transport.unanswered.tick(sums, limit, second) {
            let transport = transport.id;
            self.counters.unanswered += 1;
            self.emit(Event::Unanswered { transport });
        }
    }

    fn tick_transport(&mut self, now: Instant, slot: usize) {
        self.hand_over_trace(now, slot);
        let transport = &self.transports[slot];
        let is_young = matches!(transport.state, TransportState::New | TransportState::Connecting);
        if is_young && transport.remote_since.is_some_and(|at| now >= at + self.config.connect_timeout) {
            return self.close_transport(now, slot, "connect_timeout");
        }
        if transport.state == TransportState::Connecting && !transport.has_dtls() {
            // A handshake that found the worker's half-open limit reached.
            self.start_dtls(now, slot);
            self.settle(now, slot);
            return;
        }
        if !transport.may_send() {
            return;
        }
        self.tick_downlink(now, slot);
        self.listen(slot);
        let transport = &mut self.transports[slot];
        let reports = is_due(now, &mut transport.next_report, self.config.report_interval);
        if is_due(now, &mut transport.next_twcc, self.config.twcc_interval) {
            self.send_twcc(slot);
        }
        if reports {
            self.send_receiver_reports(now, slot);
            self.send_sender_reports(now, slot);
        }
    }

    fn send_twcc(&mut self, slot: usize) {
        for _ in 0..TWCC_PACKETS_PER_TICK {
            let transport = &mut self.transports[slot];
            let (ours, media) = (transport.rtcp_ssrc, Ssrc(transport.streams.keys().next().copied().unwrap_or(0)));
            let (count, after) = (transport.twcc.feedback_count, transport.twcc.told());
            let arrivals = transport.twcc.arrivals(self.late_since);
            if arrivals.is_empty() {
                return;
            }
            let mut buffer = [0; RTCP_BYTES];
            let mut writer = CompoundWriter::new(&mut buffer);
            let Some(told) = writer.twcc(ours, media, count, after, arrivals) else { return };
            let len = writer.len();
            transport.twcc.forget(told);
            transport.twcc.feedback_count = count.wrapping_add(1);
            self.counters.feedback_out.twcc += 1;
            self.send_rtcp(slot, &mut buffer, len);
        }
    }

    fn send_receiver_reports(&mut self, now: Instant, slot: usize) {
        let mut blocks = Vec::new();
        let mut remb = Vec::new();
        for &uptrack in &self.transports[slot].uptracks {
            let Some(uptrack) = self.uptracks.get_mut(uptrack) else { continue };
            let wants_remb = uptrack.feedback_codec().is_some_and(|c| c.has_remb && !c.has_twcc);
            for encoding in &mut uptrack.encodings {
                let Some(ssrc) = encoding.ssrc else { continue };
                let Some(figures) = encoding.stats.report(now) else { continue };
                if wants_remb {
                    remb.push(ssrc);
                }
                blocks.push(ReportBlock {
                    ssrc,
                    fraction_lost: figures.fraction_lost,
                    cumulative_lost: figures.cumulative_lost,
                    highest_seq: figures.highest_seq,
                    jitter: figures.jitter,
                    last_sr: figures.last_sr,
                    delay_since_last_sr: figures.delay_since_last_sr,
                });
            }
        }
        let ours = self.transports[slot].rtcp_ssrc;
        for chunk in blocks.chunks(31) {
            let mut buffer = [0; RTCP_BYTES];
            let mut writer = CompoundWriter::new(&mut buffer);
            writer.receiver_report(ours, chunk);
            writer.sdes_cname(ours, CNAME);
            if !remb.is_empty() {
                writer.remb(ours, self.config.remb_bps, &remb);
                self.counters.feedback_out.remb += 1;
                remb.clear();
            }
            let len = writer.len();
            self.counters.feedback_out.receiver_report += 1;
            self.send_rtcp(slot, &mut buffer, len);
        }
    }

    /// A subscriber's clock pairs are the publisher's own, moved on to now: audio and video of one publisher stay in step.
    fn send_sender_reports(&mut self, now: Instant, slot: usize) {
        let our_ntp = self.ntp(now);
        let mut buffer = [0; RTCP_BYTES];
        let mut written = 0;
        for index in 0..self.transports[slot].downtracks.len() {
            let downtrack = &self.downtracks[self.transports[slot].downtracks[index]];
            let Some(uptrack) = self.uptracks.get(downtrack.uptrack) else { continue };
            let is_fresh = downtrack
                .last_sent
                .is_some_and(|at| now.saturating_duration_since(at) < 5 * self.config.report_interval);
            let encoding = downtrack.source.unwrap_or(0);
            let clock = uptrack.encodings.get(encoding).and_then(|e| e.clock);
            let rate = downtrack.last_codec.and_then(|c| downtrack.sent_as(c)).map(|s| s.clock_rate);
            let offset = self.transports.get(uptrack.transport).and_then(|t| t.ntp_offset);
            let shift = downtrack.munger.timestamp_offset();
            let (true, Some(clock), Some(rate), Some(offset)) = (is_fresh, clock, rate, offset) else {
                continue;
            };
            let ntp = our_ntp.wrapping_sub(offset as u64);
            let passed = (i128::from(ntp.wrapping_sub(clock.ntp) as i64) * i128::from(rate)) >> 32;
            let info = SenderInfo {
                ntp: our_ntp,
                rtp_timestamp: clock.rtp.wrapping_add(passed as u32).wrapping_add(shift),
                packets: downtrack.packets as u32,
                octets: downtrack.octets as u32,
            };
            let ssrc = downtrack.ssrc;
            let mut writer = CompoundWriter::new(&mut buffer[written..]);
            if writer.sender_report(ssrc, info, &[]).and_then(|()| writer.sdes_cname(ssrc, CNAME)).is_some() {
                written += writer.len();
                self.counters.feedback_out.sender_report += 1;
            }
            if written > RTCP_BYTES - 100 {
                self.send_rtcp(slot, &mut buffer, written);
                written = 0;
            }
        }
        self.send_rtcp(slot, &mut buffer, written);
    }

    fn tick_uptrack(&mut self, now: Instant, slot: usize) {
        let encodings = self.uptracks.get(slot).map_or(0, |uptrack| uptrack.encodings.len());
        for index in 0..encodings {
            let uptrack = &mut self.uptracks[slot];
            // What does not flow has no key frame to give, and others of the simulcast would each give one at every request.
            let flows = encodings == 1 || uptrack.layers.is_live(now, index);
            if flows && uptrack.encodings[index].keyframes.poll(now) {
                self.send_keyframe_request(slot, index);
            }
        }
        self.announce_media(now, slot);
        self.update_demand(now, slot);
    }

    /// Tells of a change in what flows, and gives subscribers the best of what is left.
    pub(super) fn announce_media(&mut self, now: Instant, slot: usize) {
        let Some(uptrack) = self.uptracks.get_mut(slot) else { return };
        let Some(codec) = uptrack.current_codec else { return };
        let live = uptrack.layers.live(now);
        if uptrack.announced.as_ref().is_some_and(|(c, layers)| *c == codec && *layers == live) {
            return;
        }
        uptrack.announced = Some((codec, live.clone()));
        let (id, mime) = (uptrack.id, uptrack.codecs[codec].spec.mime.clone());
        self.emit(Event::UptrackMedia { uptrack: id, mime, layers: live });
        self.retarget_all(now, slot);
    }

    /// Asks publishers for the key frames that first pictures wait for.
    pub(super) fn keyframe_tick(&mut self, now: Instant) {
        let mut waiting = std::mem::take(&mut self.first_pictures);
        waiting.retain(|&(slot, index)| {
            let encoding = self.uptracks.get_mut(slot).and_then(|uptrack| uptrack.encodings.get_mut(index));
            let Some(encoding) = encoding else { return false };
            match encoding.keyframes.hurries() {
                Some(at) if at > now => self.wake_for_keyframe(at),
                Some(_) if encoding.keyframes.poll(now) => self.send_keyframe_request(slot, index),
                _ => {}
            }
            self.uptracks[slot].encodings[index].keyframes.hurries().is_some()
        });
        self.first_pictures = waiting;
    }

    pub(super) fn wake_for_keyframe(&mut self, at: Instant) {
        self.next_keyframe = Some(self.next_keyframe.map_or(at, |next| next.min(at)));
    }

    /// Asks publishers for what is missing.
    pub(super) fn fine_tick(&mut self, now: Instant) {
        let mut still_missing = std::mem::take(&mut self.incomplete);
        still_missing.retain(|&(slot, encoding)| self.send_nacks(now, slot, encoding));
        self.incomplete = still_missing;
        if !self.incomplete.is_empty() {
            self.next_fine_tick = Some(now + FINE_TICK);
        }
    }

    /// False if nothing is missing any more.
    fn send_nacks(&mut self, now: Instant, slot: usize, index: usize) -> bool {
        let Some(uptrack) = self.uptracks.get_mut(slot) else { return false };
        let Some(transport) = self.transports.get(uptrack.transport) else { return false };
        let rtt = transport.rtt.smoothed().unwrap_or(DEFAULT_RTT);
        let (ours, transport) = (transport.rtcp_ssrc, uptrack.transport);
        let Some(encoding) = uptrack.encodings.get_mut(index) else { return false };
        let Some(ssrc) = encoding.ssrc else { return false };
        self.seqs.clear();
        let gave_up = encoding.nacks.take(now, rtt, &mut self.seqs);
        let is_incomplete = !encoding.nacks.is_complete();
        uptrack.nacks_sent += self.seqs.len() as u64;
        self.counters.feedback_out.nack += self.seqs.len() as u64;
        for index in (0..self.seqs.len()).step_by(250) {
            let mut buffer = [0; RTCP_BYTES];
            let mut writer = CompoundWriter::new(&mut buffer);
            writer.nack(ours, ssrc, self.seqs[index..].iter().take(250).copied());
            let len = writer.len();
            self.send_rtcp(transport, &mut buffer, len);
        }
        if gave_up {
            // Nobody can repair what depends on it: only a new beginning helps, for whoever watches this stream.
            self.repair_by_keyframe(now, slot, index);
        }
        is_incomplete
    }
}

/// Whether it is time for what happens every `interval`, and when it is next. A tick may be early without missing its turn.
fn is_due(now: Instant, next: &mut Option<Instant>, interval: Duration) -> bool {
    if next.is_some_and(|at| at > now + EARLY) {
        return false;
    }
    let turn = next.filter(|at| now < *at + interval).unwrap_or(now);
    *next = Some(turn + interval);
    true
}

/// One name for all that this server sends; it says nothing about anybody.
const CNAME: &str = "callyard";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::origin;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn early_ticks_make_neither_more_nor_fewer_turns() {
        let start = origin();
        // The n-th tick is due at n times 100 ms, and comes up to 35 ms before.
        let ticks = (0..100u32).map(|n| start + MS * (100 * n + 100 - n * 13 % 36)).collect::<Vec<_>>();
        for (interval, turns) in [(100, 100), (1_000, 10), (50, 100)] {
            let mut next = None;
            let count = ticks.iter().filter(|at| is_due(**at, &mut next, MS * interval)).count();
            assert_eq!(count, turns, "every {interval} ms");
        }
    }

    #[test]
    fn what_was_missed_is_not_made_up_for() {
        let (mut next, start) = (None, origin());
        assert!(is_due(start, &mut next, 100 * MS));
        assert!(is_due(start + 950 * MS, &mut next, 100 * MS));
        assert!(!is_due(start + 960 * MS, &mut next, 100 * MS));
        assert_eq!(next, Some(start + 1_050 * MS));
    }
}
