//! A subscriber's first picture: from what is kept of the stream where that serves, else by a key frame that is asked for.
//!
//! Every stream's last seconds are kept for retransmissions anyway. A subscriber who comes shortly after a key frame is sent
//! that one, and what followed it, at the pace of his link; the publisher hears nothing of it. What is live meanwhile comes
//! behind it in the pacer's order.

use std::time::{Duration, Instant};

use super::Engine;
use super::kept::KeptPacket;
use crate::command::LayerMode;
use crate::ids::{SeqNo, Temporal};
use crate::pacer::{Unit, Waiting};

/// So much of his link's time, or of what he is trusted with, may be spent on what followed the key frame: an ordinary key
/// frame costs as much to wait for, and whatever comes behind is later for it.
const CATCHING_UP: Duration = Duration::from_millis(300);
/// Pictures that were captured before now are told as captured right before the present one, so many a second. A receiver
/// takes how far arrivals are apart from captures for the link's doing, and would keep all pictures back by their age.
const PICTURES_PER_SECOND: u32 = 1_000;

/// What is kept of a stream from its last key frame on.
struct KeptPicture {
    encoding: usize,
    seqs: std::ops::RangeInclusive<u64>,
    /// Of the latest packet.
    timestamp: u32,
    pictures: u32,
}

impl Engine {
    /// A downtrack needs a key frame. What has come in is passed on first.
    pub(super) fn needs_keyframe(&mut self, downtrack: usize) {
        if !self.beginners.contains(&downtrack) {
            self.beginners.push(downtrack);
        }
    }

    /// A client has shown that it is there: by the time its handshake is over, two round trips later, the key frames that it
    /// needs have come as well, or are about to.
    pub(super) fn foresee_pictures(&mut self, now: Instant, slot: usize) {
        let half = self.config.first_picture_max_age / 2;
        for index in self.transports[slot].downtracks.clone() {
            let Some(downtrack) = self.downtracks.get_mut(index) else { continue };
            let Some(uptrack) = self.uptracks.get(downtrack.uptrack) else { continue };
            let Some(stream) = downtrack.selector.waits_for_keyframe(uptrack.mode == LayerMode::Svc) else { continue };
            let encoding = &uptrack.encodings[uptrack.index_of(stream)];
            if encoding.last_key.is_none_or(|key| now.saturating_duration_since(key.at) > half) {
                let is_first = uptrack.owes_first_picture(downtrack);
                downtrack.is_foreseen = true;
                let uptrack = downtrack.uptrack;
                self.request_keyframe(now, uptrack, stream, is_first);
            }
        }
    }

    /// Sees to those who need a key frame. Nothing may be pending: what is kept would be sent before it, and then again.
    pub(super) fn begin_pictures(&mut self, now: Instant) {
        debug_assert!(self.pending.is_empty());
        for slot in std::mem::take(&mut self.beginners) {
            self.guarded(now, |engine| {
                engine.acting = engine.downtracks.get(slot).map(|downtrack| downtrack.transport);
                let has_come = engine.downtracks.get_mut(slot).is_some_and(|one| one.kept_key().is_some());
                if !has_come && !engine.begin_from_kept(now, slot) {
                    engine.ask_for_keyframe(now, slot);
                }
            });
        }
    }

    /// False: what is kept does not serve.
    fn begin_from_kept(&mut self, now: Instant, slot: usize) -> bool {
        let Some(kept) = self.kept_picture(now, slot) else { return false };
        self.forget_waiting(slot);
        let Some(downtrack) = self.downtracks.get_mut(slot) else { return false };
        let transport_slot = downtrack.transport;
        let Some(transport) = self.transports.get_mut(transport_slot) else { return false };
        let Some(uptrack) = self.uptracks.get(downtrack.uptrack) else { return false };
        // Higher frame rates begin with what is live, at a sync point, once little waits.
        downtrack.selector.set_ceiling(Some(Temporal(0)));
        let (mut left, mut previous) = (kept.pictures, None);
        for seq in kept.seqs.clone() {
            let Some(packet) = KeptPacket::read(uptrack, kept.encoding, SeqNo(seq)) else { break };
            if previous.replace(packet.timestamp) != Some(packet.timestamp) {
                left = left.saturating_sub(1);
            }
            let verdict = packet.choose(&mut downtrack.selector, uptrack);
            if downtrack.waiting == 0 && verdict.is_none() {
                downtrack.selector.restart();
                return false;
            }
            let clock_rate = downtrack.sent_as(packet.codec).map_or(90_000, |s| s.clock_rate);
            let back = (clock_rate / PICTURES_PER_SECOND).max(1) * left;
            let (switched, marker) = verdict.unwrap_or_default();
            let unit = Unit {
                timestamp: kept.timestamp.wrapping_sub(kept.timestamp.wrapping_sub(packet.timestamp).min(back)),
                switched,
                received: now,
                ..packet.unit(marker)
            };
            let bytes = if verdict.is_some() { packet.payload as u32 } else { 0 };
            downtrack.wait(now, &mut transport.pacer, Waiting { downtrack: slot, unit, bytes });
        }
        self.counters.pictures_from_kept += 1;
        self.list_paced(now, transport_slot);
        self.release(now, transport_slot);
        true
    }

    /// What a downtrack that is sent nothing could begin with, if all of it is there, and young and small enough.
    fn kept_picture(&self, now: Instant, slot: usize) -> Option<KeptPicture> {
        let downtrack = self.downtracks.get(slot).filter(|downtrack| downtrack.selector.current().is_none())?;
        let uptrack = self.uptracks.get(downtrack.uptrack)?;
        let is_svc = uptrack.mode == LayerMode::Svc;
        let stream = downtrack.selector.waits_for_keyframe(is_svc)?;
        let spatial = downtrack.selector.target()?.spatial;
        let transport = self.transports.get(downtrack.transport).filter(|t| t.may_send() && t.path.is_some())?;
        let index = uptrack.index_of(stream);
        let encoding = &uptrack.encodings[index];
        let key = encoding.last_key?;
        if now.saturating_duration_since(key.at) > self.config.first_picture_max_age {
            return None;
        }
        // What was seen since, of whatever size, is younger: nobody is shown the past again.
        if downtrack.last_sent.is_some_and(|at| at >= key.at) {
            return None;
        }
        let bps = transport.downlink.estimate_bps().unwrap_or(0).max(transport.allotment.used_bps);
        let bps = bps.max(downtrack.target_bps);
        let most = (bps as f64 / 8.0 * CATCHING_UP.as_secs_f64()) as u64;
        let most = most.saturating_sub(transport.pacer.waiting_bytes());
        let seqs = key.seq.0..=encoding.nacks.highest()?.0;
        let (mut bytes, mut pictures, mut timestamp) = (0, 0, None);
        for seq in seqs.clone() {
            let packet = KeptPacket::read(uptrack, index, SeqNo(seq))?;
            downtrack.sent_as(packet.codec)?;
            if timestamp != Some(packet.timestamp) {
                // Captured in another order than sent: no time can be told that keeps both.
                if timestamp.is_some_and(|before| packet.timestamp.wrapping_sub(before) >= 1 << 31) {
                    return None;
                }
                timestamp = Some(packet.timestamp);
                pictures += 1;
            }
            let is_sent = packet.meta.temporal == Temporal(0) && !(is_svc && packet.meta.spatial > spatial);
            if is_sent && pictures > 1 {
                bytes += packet.payload as u64;
            }
            if bytes > most {
                return None;
            }
        }
        Some(KeptPicture { encoding: index, seqs, timestamp: timestamp?, pictures })
    }
}
