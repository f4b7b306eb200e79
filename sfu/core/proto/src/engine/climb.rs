//! A climb to a larger size where the link takes long for its key frame: the present size's picture of that moment is sent
//! first, or the viewer has none until the key frame is whole.
//!
//! libwebrtc's encoder makes a moment's pictures one after the other, the largest first, and key frames of all sizes at once;
//! so the larger one begins to come before the smaller one. Until that is whole the larger one is left in the history,
//! and then sent from there.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use super::Engine;
use super::down::Downtrack;
use super::forward::Pending;
use super::kept::KeptPacket;
use super::up::Uptrack;
use crate::command::LayerMode;
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
    /// Its moment by the clock of the size being sent, of so many ticks a second.
    moment: u32,
    clock_rate: u32,
    since: Instant,
    /// The smaller picture of that moment is whole, or none comes.
    is_due: bool,
}

impl Climb {
    /// Whether a picture of the size being sent was taken before that moment, in it, or later.
    fn place(&self, timestamp: u32) -> Ordering {
        let apart = f64::from(timestamp.wrapping_sub(self.moment) as i32) / f64::from(self.clock_rate);
        if apart.abs() < SAME_MOMENT.as_secs_f64() { Ordering::Equal } else { apart.total_cmp(&0.0) }
    }
}

impl Downtrack {
    /// Whether a packet of a video is left in the history for now, or is of a smaller picture that comes too late.
    #[inline]
    pub fn keeps_back(&mut self, now: Instant, packet: &Pending, uptrack: &Uptrack, transport: &Transport) -> bool {
        (self.is_climbing || packet.meta.begins_key_frame())
            && uptrack.mode != LayerMode::Svc
            && self.is_left_for_later(now, packet, uptrack, transport)
    }

    #[cold]
    fn is_left_for_later(&mut self, now: Instant, packet: &Pending, uptrack: &Uptrack, transport: &Transport) -> bool {
        let Some(mut climb) = self.kept_key() else {
            let begun = self.climb_with(now, packet, uptrack, transport);
            self.set_climb(begun);
            return self.is_climbing;
        };
        let is_larger = packet.encoding == climb.encoding;
        let is_next = match is_larger {
            true => packet.timestamp != climb.timestamp && packet.seq > climb.seq,
            false => self.source == Some(packet.encoding) && climb.place(packet.timestamp).is_gt(),
        };
        climb.is_due |= is_next;
        self.set_climb(Some(climb));
        is_larger || is_next
    }

    /// What begins with a packet and should wait for the smaller picture of its moment.
    fn climb_with(&self, now: Instant, packet: &Pending, uptrack: &Uptrack, transport: &Transport) -> Option<Climb> {
        let (current, target) = (self.selector.encoding()?, self.selector.target()?.spatial);
        let source = self.source.filter(|source| *source == usize::from(current.0))?;
        let is_lively = self.last_sent.is_some_and(|at| now.saturating_duration_since(at) < LIVELY);
        let is_narrow = transport.allotment.is_below_best && transport.pacer.delay() <= MOST_WAITING;
        let climbs = packet.encoding == usize::from(target.0) && target > current && packet.meta.begins_key_frame();
        if !(climbs && is_lively && is_narrow) {
            return None;
        }
        let &Pending { encoding, seq, timestamp, .. } = packet;
        let clock_rate = self.sent_as(packet.codec)?.clock_rate;
        let moment = uptrack.translate(timestamp, encoding, source, clock_rate)?;
        let climb = Climb { encoding, seq, timestamp, moment, clock_rate, since: now, is_due: false };
        let last = self.munger.last_timestamp()?.wrapping_sub(self.munger.timestamp_offset());
        let is_whole = self.sent.recent(0).is_some_and(|last| last.marker);
        match climb.place(last) {
            Ordering::Less => Some(climb),
            Ordering::Equal => Some(climb).filter(|_| !is_whole),
            Ordering::Greater => None,
        }
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
    pub fn ends_picture(&mut self, timestamp: u32) {
        if let Some(climb) = &mut self.climb {
            climb.is_due |= climb.place(timestamp).is_ge();
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
        for seq in climb.seq.0..=last.0 {
            // What is missing finds its place when it comes.
            let Some(packet) = KeptPacket::read(uptrack, climb.encoding, SeqNo(seq)) else { continue };
            let verdict = packet.choose(&mut downtrack.selector, uptrack);
            let (switched, marker) = verdict.unwrap_or_default();
            let bytes = if verdict.is_some() { packet.payload as u32 } else { 0 };
            let unit = Unit { switched, ..packet.unit(marker) };
            downtrack.wait(now, &mut transport.pacer, Waiting { downtrack: slot, unit, bytes });
        }
        self.counters.climbs_in_two += 1;
        self.list_paced(now, transport_slot);
        self.release(now, transport_slot);
    }
}
