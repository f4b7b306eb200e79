//! A climb to a larger size where the link takes long for its key frame: the present size's picture of that moment is sent
//! first, or the viewer has none until the key frame is whole.
//!
//! libwebrtc's encoder makes a moment's pictures one after the other, the largest first, and key frames of all sizes at once;
//! so the larger one begins to come before the smaller one. Until that is whole the larger one is left in the history,
//! and then sent from there.

use std::time::{Duration, Instant};

use super::Engine;
use super::down::Downtrack;
use super::forward::Pending;
use super::kept::KeptPacket;
use super::up::Uptrack;
use crate::command::LayerMode;
use crate::downtrack::Verdict;
use crate::ids::SeqNo;
use crate::pacer::{Unit, Waiting};
use crate::transport::Transport;

/// The smaller picture is waited for so long: pictures of one moment come as far apart as their sender's link takes for them.
const PATIENCE: Duration = Duration::from_millis(60);
/// What was sent longer ago than this is no stream that another picture soon comes of.
const LIVELY: Duration = Duration::from_millis(150);
/// With more than this waiting the picture that has just come would not be seen soon.
const MOST_WAITING: Duration = Duration::from_millis(40);
/// Pictures less far apart are of one moment.
const SAME_MOMENT: Duration = Duration::from_millis(5);

/// A larger size's key frame that has begun to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Climb {
    encoding: usize,
    seq: SeqNo,
    timestamp: u32,
    since: Instant,
    /// The smaller picture is whole, or none comes.
    is_due: bool,
}

impl Downtrack {
    /// Whether a packet of a video is left in the history for now.
    #[inline]
    pub fn keeps_back(&mut self, now: Instant, packet: &Pending, uptrack: &Uptrack, transport: &Transport) -> bool {
        let begins = packet.meta.keyframe && packet.meta.start_of_frame;
        (self.is_climbing || begins)
            && uptrack.mode != LayerMode::Svc
            && self.is_left_for_later(now, packet, uptrack, transport)
    }

    #[cold]
    fn is_left_for_later(&mut self, now: Instant, packet: &Pending, uptrack: &Uptrack, transport: &Transport) -> bool {
        let (Some(current), Some(target)) = (self.selector.encoding(), self.selector.target()) else {
            self.set_climb(None);
            return false;
        };
        let target = usize::from(target.spatial.0);
        self.set_climb(self.climb.filter(|climb| climb.encoding == target));
        if packet.encoding != target || target <= usize::from(current.0) {
            return false;
        }
        if let Some(climb) = &mut self.climb {
            climb.is_due |= packet.timestamp != climb.timestamp && packet.seq > climb.seq;
            return true;
        }
        let has_room = !transport.allotment.is_below_best || transport.pacer.delay() > MOST_WAITING;
        let begins = packet.meta.keyframe && packet.meta.start_of_frame;
        let is_lively = self.last_sent.is_some_and(|at| now.saturating_duration_since(at) < LIVELY);
        if begins && !has_room && is_lively && !self.is_up_to(now, packet, uptrack) {
            let Pending { encoding, seq, timestamp, .. } = *packet;
            self.set_climb(Some(Climb { encoding, seq, timestamp, since: now, is_due: false }));
        }
        self.is_climbing
    }

    /// Of the moment at which a packet of another encoding was captured, everything has been sent.
    fn is_up_to(&self, now: Instant, packet: &Pending, uptrack: &Uptrack) -> bool {
        if !self.sent.recent(0).is_some_and(|last| last.marker) {
            return false;
        }
        let clock = |encoding: usize| uptrack.encodings.get(encoding).and_then(|encoding| encoding.clock);
        let clocks = clock(packet.encoding).zip(self.source.and_then(clock));
        let (Some((own, before)), Some(last)) = (clocks, self.munger.last_timestamp()) else {
            return self.last_sent.is_some_and(|at| now.saturating_duration_since(at) < SAME_MOMENT);
        };
        let clock_rate = self.sent_as(packet.codec).map_or(90_000, |sent_as| sent_as.clock_rate);
        let at = own.translate(packet.timestamp, &before, clock_rate).wrapping_add(self.munger.timestamp_offset());
        let apart = (f64::from(clock_rate) * SAME_MOMENT.as_secs_f64()) as i32;
        (at.wrapping_sub(last) as i32) < apart
    }

    /// The key frame that it needs has come, and is kept.
    pub fn kept_key(&mut self) -> Option<Climb> {
        let target = self.selector.target().map(|target| usize::from(target.spatial.0));
        let is_on = self.selector.encoding().is_some();
        self.set_climb(self.climb.filter(|climb| is_on && Some(climb.encoding) == target));
        self.climb
    }

    pub fn set_climb(&mut self, climb: Option<Climb>) {
        (self.is_climbing, self.climb) = (climb.is_some(), climb);
    }

    /// A picture of the size being sent is whole.
    pub fn ends_picture(&mut self) {
        if let Some(climb) = &mut self.climb {
            climb.is_due = true;
        }
    }
}

impl Engine {
    /// Sends the key frames that are due. Whatever comes in looks here, of anybody; nothing may be pending, or it would be sent
    /// twice.
    pub(super) fn climb(&mut self, now: Instant) {
        debug_assert!(self.pending.is_empty());
        for slot in std::mem::take(&mut self.climbers) {
            self.guarded(now, |engine| {
                let Some(downtrack) = engine.downtracks.get_mut(slot) else { return };
                engine.acting = Some(downtrack.transport);
                let Some(climb) = downtrack.kept_key() else { return };
                if climb.is_due || now.saturating_duration_since(climb.since) >= PATIENCE {
                    downtrack.set_climb(None);
                    engine.send_kept_key(now, slot, climb);
                } else {
                    engine.climbers.push(slot);
                }
            });
        }
    }

    fn send_kept_key(&mut self, now: Instant, slot: usize, climb: Climb) {
        let Some(downtrack) = self.downtracks.get_mut(slot) else { return };
        let transport_slot = downtrack.transport;
        let Some(transport) = self.transports.get_mut(transport_slot) else { return };
        let Some(uptrack) = self.uptracks.get(downtrack.uptrack) else { return };
        let Some(last) = uptrack.encodings.get(climb.encoding).and_then(|encoding| encoding.nacks.highest()) else {
            return;
        };
        if downtrack.waiting == 0 {
            downtrack.waiting_since = Some(now);
        }
        for seq in climb.seq.0..=last.0 {
            // What is missing finds its place when it comes.
            let Some(packet) = KeptPacket::read(uptrack, climb.encoding, SeqNo(seq)) else { continue };
            let verdict = match packet.payload {
                0 => None,
                _ => match downtrack.selector.select(packet.selected(uptrack), false) {
                    Verdict::Forward { switched, marker } => Some((switched, marker)),
                    Verdict::Drop(_) => None,
                },
            };
            let (switched, marker) = verdict.unwrap_or_default();
            let bytes = if verdict.is_some() { packet.payload as u32 } else { 0 };
            downtrack.waiting += 1;
            let unit = Unit { switched, ..packet.unit(marker) };
            transport.pacer.hold(Waiting { downtrack: slot, unit, bytes });
        }
        self.counters.climbs_in_two += 1;
        self.list_paced(now, transport_slot);
        self.release(now, transport_slot);
    }
}
