//! The edge between the engine and `allot`: gathers what is known of a subscriber's tracks, and carries out what was chosen:
//! targets, pauses, key frames, pace and probes.

use std::time::Instant;

use super::Engine;
use super::allot::{Choice, Means, Meanwhile, Situation, Track, choose};
use super::down::Downtrack;
use super::ladder::ladder;
use super::relief::OVERLOAD;
use super::up::Uptrack;
use super::write::withdraw;
use crate::command::{Content, LayerMode, MediaKind};
use crate::downtrack::Layer;
use crate::event::Event;
use crate::ids::Temporal;
use crate::overload::Level;
use crate::pacer::Width;
use crate::trace::Cause;

/// Why a video is paused, in figures and towards signaling.
const BANDWIDTH: &str = "bandwidth";

impl Engine {
    /// Chooses anew for all video of one subscriber.
    pub(super) fn allot(&mut self, now: Instant, slot: usize, cause: Cause) {
        if !self.transports.contains(slot) {
            return;
        }
        self.counters.allocations += 1;
        let (mut slots, mut situation) = self.situation(now, slot);
        let left_out = self.leave_out(&mut slots, &mut situation);
        let transport = &mut self.transports[slot];
        if let Some(recorder) = transport.downlink.recorder() {
            recorder.situation(now, cause, &situation);
        }
        let means = Means { downlink: &transport.downlink, before: transport.allotment, guard: &self.config.guard };
        let outcome = choose(now, &means, &mut situation);
        if let Some(recorder) = transport.downlink.recorder() {
            recorder.outcome(now, &outcome);
        }
        transport.allotment = outcome.allotment;
        self.set_pace(now, slot);
        for ((index, track), choice) in slots.into_iter().zip(situation.tracks).zip(&outcome.choices) {
            if let Some(downtrack) = self.downtracks.get_mut(index) {
                downtrack.guard = track.guard;
                self.give(now, index, choice);
            }
        }
        for index in left_out {
            self.pause(now, index, OVERLOAD);
        }
    }

    /// The estimate has moved, or may have: layers and pacing follow it where that changes anything.
    pub(super) fn estimate_changed(&mut self, now: Instant, slot: usize) {
        self.set_pace(now, slot);
        let Some(transport) = self.transports.get_mut(slot) else { return };
        if !transport.allotment.has_video {
            return;
        }
        let is_outdated = transport.allotment.is_outdated(now, &transport.downlink);
        if transport.downlink.is_overusing() && transport.pacer.has_video_waiting() {
            self.thin_queue(slot);
        }
        if is_outdated {
            self.allot(now, slot, Cause::Estimate);
        }
        self.probe(now, slot);
    }

    fn set_pace(&mut self, now: Instant, slot: usize) {
        let factor = self.config.pacing_factor;
        if let Some(transport) = self.transports.get_mut(slot) {
            let rate = transport.allotment.pace_bps(now, &transport.downlink, factor);
            if let Some(recorder) = transport.downlink.recorder() {
                recorder.pace(now, rate);
            }
            let width = transport.allotment.width(&transport.downlink);
            transport.pacer.set_rate(now, rate, width);
            transport.pacer.set_hold(transport.downlink.hold());
            transport.downlink.watch(width == Width::Narrow);
            transport.heed_pings();
            if transport.downlink.pings().is_looking(now) && transport.ice.pingable().is_some() {
                self.list_paced(now, slot);
            }
        }
    }

    /// Ten times a second.
    pub(super) fn tick_downlink(&mut self, now: Instant, slot: usize) {
        let patience = self.config.feedback_patience;
        let Some(transport) = self.transports.get_mut(slot) else { return };
        transport.downlink.tick(now, patience);
        if transport.allotment.has_video {
            if transport.allotment.is_old(now) {
                self.allot(now, slot, Cause::Clock);
            }
            self.estimate_changed(now, slot);
        }
        self.weigh_redundancy(now, slot);
    }

    /// Sound goes on with what RED says again, or without.
    fn weigh_redundancy(&mut self, now: Instant, slot: usize) {
        let Some(transport) = self.transports.get_mut(slot) else { return };
        let redundant_bps = transport.downlink.redundant_bps();
        if redundant_bps == 0 {
            return;
        }
        let withheld_bps = if transport.redundancy.is_withheld() { redundant_bps } else { 0 };
        let room = transport.allotment.room(&transport.downlink, withheld_bps);
        self.counters.redundancy_withheld += u64::from(transport.redundancy.weigh(now, &room));
    }

    /// Sends a cluster if it is time to learn whether the link carries more.
    pub(super) fn probe(&mut self, now: Instant, slot: usize) {
        let Some(transport) = self.transports.get(slot) else { return };
        if transport.pacer.has_probe() || !transport.may_send() {
            return;
        }
        // Who has no picture, or will soon have none, cannot do without: what he waits for is taken on trust.
        let has_no_cpu = self.gives_up(Level::Probes);
        if has_no_cpu && !self.is_short_of_pictures(now, slot) {
            return;
        }
        let is_traced = transport.downlink.is_traced();
        if !is_traced && !transport.allotment.wants_more(&transport.downlink) {
            return;
        }
        let can_probe = !has_no_cpu && self.can_probe(slot);
        let transport = &mut self.transports[slot];
        if let Some(recorder) = transport.downlink.recorder() {
            recorder.could_probe(now, can_probe);
        }
        if let Some(cluster) = transport.allotment.probe(now, &mut transport.downlink, can_probe) {
            transport.pacer.begin_probe(now, cluster);
            self.counters.probes += 1;
            self.list_paced(now, slot);
            self.release(now, slot);
        }
    }

    /// A video is paused for want of room, or is sent although nothing has shown yet that there is any.
    fn is_short_of_pictures(&self, now: Instant, slot: usize) -> bool {
        let Some(transport) = self.transports.get(slot) else { return false };
        let is_paused = |&index: &usize| self.downtracks.get(index).is_some_and(|d| d.paused_for == BANDWIDTH);
        transport.allotment.is_unproved(now, &transport.downlink) || transport.downtracks.iter().any(is_paused)
    }

    /// What is known of the video that one subscriber wants, with the slots of his downtracks.
    fn situation(&mut self, now: Instant, slot: usize) -> (Vec<usize>, Situation) {
        let (mut slots, mut situation) = (Vec::new(), Situation::default());
        for position in 0..self.transports[slot].downtracks.len() {
            let index = self.transports[slot].downtracks[position];
            let Some(downtrack) = self.downtracks.get(index) else { continue };
            situation.voices += usize::from(downtrack.kind == MediaKind::Audio);
            let Some(uptrack) = self.uptracks.get(downtrack.uptrack) else { continue };
            let (MediaKind::Video, Some(max), false) = (downtrack.kind, downtrack.max_spatial, uptrack.muted) else {
                continue;
            };
            let mut track = Track {
                downtrack: downtrack.id,
                uptrack: uptrack.id,
                content: uptrack.content,
                mode: uptrack.mode,
                want: downtrack.want.clone(),
                is_speaking: uptrack.content == Content::Camera && self.is_speaking(uptrack),
                has_started: downtrack.has_started,
                target: downtrack.selector.target(),
                current: downtrack.selector.current(),
                paused: downtrack.paused,
                guard: Default::default(),
                is_capped: downtrack.is_capped(),
                rungs: ladder(now, uptrack, max, downtrack.want.fps),
            };
            if let Some(downtrack) = self.downtracks.get_mut(index) {
                track.guard = std::mem::take(&mut downtrack.guard);
            }
            slots.push(index);
            situation.tracks.push(track);
        }
        (slots, situation)
    }

    fn is_speaking(&self, uptrack: &Uptrack) -> bool {
        let (Some(room), Some(publisher)) = (self.rooms.get(&uptrack.room), self.transports.get(uptrack.transport))
        else {
            return false;
        };
        publisher
            .uptracks
            .iter()
            .filter_map(|&index| self.uptracks.get(index))
            .any(|other| other.kind == MediaKind::Audio && !other.muted && room.speakers.is_speaking(other.id))
    }

    /// Carries out one choice.
    fn give(&mut self, now: Instant, slot: usize, choice: &Choice) {
        let Some(downtrack) = self.downtracks.get_mut(slot) else { return };
        downtrack.allocation = choice.reason.map_or("", |reason| reason.as_str());
        downtrack.target_bps = choice.bps;
        let id = downtrack.id;
        let Some(layer) = choice.layer else { return self.pause(now, slot, BANDWIDTH) };
        downtrack.paused = None;
        let Some(uptrack) = self.uptracks.get(downtrack.uptrack) else { return };
        let mode = uptrack.mode;
        let before = downtrack.selector.target();
        if before != Some(layer) {
            downtrack.selector.set_target(Some(layer));
            if mode == LayerMode::Svc
                && before.map(|layer| layer.spatial) > Some(layer.spatial)
                && let Some(transport) = self.transports.get_mut(downtrack.transport)
            {
                let below = Layer { spatial: layer.spatial, temporal: Temporal(u8::MAX) };
                transport.pacer.lower(slot, layer.spatial, |unit| {
                    self.counters.pacer_dropped += 1;
                    withdraw(downtrack, unit, below);
                });
            }
            wait_for_keyframe(downtrack, choice.meanwhile);
        }
        if downtrack.active == Some(false) {
            downtrack.active = Some(true);
            let reason = downtrack.paused_for.to_owned();
            self.emit(Event::DowntrackState { downtrack: id, active: true, reason });
        }
        if self.downtracks[slot].selector.waits_for_keyframe(mode == LayerMode::Svc).is_some() {
            self.needs_keyframe(slot);
        }
    }

    /// Sends nothing of it until there is room again, and tells so. `why` stands in figures and in what is told.
    fn pause(&mut self, now: Instant, slot: usize, why: &'static str) {
        let Some(downtrack) = self.downtracks.get_mut(slot) else { return };
        downtrack.paused.get_or_insert(now);
        (downtrack.reason, downtrack.paused_for) = (why, why);
        downtrack.selector.set_target(None);
        if downtrack.active.replace(false) != Some(false) {
            self.counters.bandwidth_pauses += u64::from(why == BANDWIDTH);
            let id = downtrack.id;
            self.emit(Event::DowntrackState { downtrack: id, active: false, reason: why.to_owned() });
        }
        self.forget_waiting(slot);
    }

    /// The key frame that a downtrack needs to reach its target, if its subscriber is there to get it.
    pub(super) fn ask_for_keyframe(&mut self, now: Instant, slot: usize) {
        let Some(downtrack) = self.downtracks.get_mut(slot) else { return };
        let (id, slot) = (downtrack.id, downtrack.uptrack);
        let Some(uptrack) = self.uptracks.get(slot) else { return };
        let is_first = uptrack.owes_first_picture(downtrack);
        let is_svc = uptrack.mode == LayerMode::Svc;
        let Some(stream) = downtrack.selector.waits_for_keyframe(is_svc) else { return };
        let Some(transport) = self.transports.get_mut(downtrack.transport).filter(|t| t.may_send()) else { return };
        downtrack.is_foreseen = false;
        if let Some(recorder) = transport.downlink.recorder() {
            recorder.keyframe(now, id, stream);
        }
        self.request_keyframe(now, slot, stream, is_first);
    }
}

fn wait_for_keyframe(downtrack: &mut Downtrack, meanwhile: Meanwhile) {
    match meanwhile {
        Meanwhile::GoesOn => {}
        Meanwhile::Thinned(temporal) => downtrack.selector.set_interim(temporal),
        Meanwhile::Stops => downtrack.selector.restart(),
    }
}
