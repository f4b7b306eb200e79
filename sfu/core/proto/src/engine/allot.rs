//! From one subscriber's estimate to the layer of each of his video tracks: the edge between engine and allocator.
//!
//! Gathers what could be sent and what it costs, asks `allocator`, carries out the answer: targets, pauses, key frames, and
//! what a probe should aim at. Without an estimate everybody gets what he asks for.

use std::time::{Duration, Instant};

use super::Engine;
use super::down::Downtrack;
use super::ladder::{Rung, TOP_TEMPORAL, ladder};
use super::up::Uptrack;
use crate::allocator::utility::{self, View};
use crate::allocator::{Candidate, Decision, LayerOption, Reason, allocate};
use crate::command::{Content, LayerMode, MediaKind};
use crate::downlink::Flow;
use crate::downtrack::Layer;
use crate::event::Event;
use crate::ids::Spatial;
use crate::transport::{Allotment, Transport};

/// A costlier layer must fit with this to spare; the one being sent may grow into it.
const MARGIN_UP: f64 = 1.08;
const MARGIN_STAY: f64 = 0.97;
/// What was paused comes back with more to spare, and not at once.
const MARGIN_RESUME: f64 = 1.2;
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// In doublings of the seen pixels: a key frame and a jump on the screen, a change within a stream, of frame rate only.
const COST_KEYFRAME: f64 = 0.25;
const COST_SPATIAL: f64 = 0.1;
const COST_TEMPORAL: f64 = 0.03;
/// A layer with less than this share of the best layer's frames is worth less for it. Clients' own ladders go down to just
/// this (30, 20 and 15 frames a second), so that nothing may jump here.
const FALLS_BEHIND: f32 = 0.5;
/// A climb that asked for too much leaves an estimate somewhat below it; one below this share of what was sent is another
/// link, and no climb has failed.
const NARROWED: f64 = 0.65;
/// If the climb was too much, that would have shown by then.
const HELD: Duration = Duration::from_secs(2);
/// Before anything is measured, nobody is kept waiting for the estimate: the first pictures are sent.
const START: Duration = Duration::from_millis(1_200);
/// One voice, until it is measured.
const VOICE_BPS: u64 = 40_000;
/// Retransmissions are reserved for up to this share of the estimate.
const RESENT_SHARE: u64 = 7;
/// How often layers are chosen anew while some could be better, and while all are at their best.
const INTERVAL_LIMITED: Duration = Duration::from_millis(300);
const INTERVAL_FULL: Duration = Duration::from_secs(1);

/// A downtrack with what it could be sent.
struct Entry {
    slot: usize,
    rungs: Vec<Rung>,
}

impl Engine {
    /// Chooses anew for all video of one subscriber.
    pub(super) fn allot(&mut self, now: Instant, slot: usize) {
        let Some(transport) = self.transports.get(slot) else { return };
        let estimate = transport.downlink.estimate_bps();
        let Allotment { began, used_bps: used_before, .. } = transport.allotment;
        self.counters.allocations += 1;
        let (entries, candidates) = self.candidates(now, slot, estimate.is_some());
        let mut allotment = Allotment { at: Some(now), began, has_video: !entries.is_empty(), ..Allotment::default() };
        if entries.is_empty() {
            self.allotted(now, slot, allotment);
            return;
        }
        allotment.began = began.or(Some(now));
        allotment.is_limited = estimate.is_some();
        let Some(estimate) = estimate else {
            self.allotted(now, slot, allotment);
            for entry in &entries {
                let best = entry.rungs.iter().max_by_key(|rung| (rung.layer.spatial, rung.layer.temporal));
                self.give(now, entry.slot, best.map(|rung| (rung.layer, rung.bps)), "", &entry.rungs, 0);
            }
            return;
        };
        let transport = &self.transports[slot];
        let audio = self.audio_reserve(slot);
        let resent = transport.downlink.bitrate_bps(Flow::Resent).min(estimate / RESENT_SHARE);
        let mut budget = estimate.saturating_sub(audio + resent);
        if is_start(transport, allotment.began, now) {
            let floor = |c: &Candidate| c.options.iter().map(|option| option.bitrate_bps).min().unwrap_or(0);
            budget = budget.max(candidates.iter().map(floor).sum());
        }
        let decisions = allocate(budget, &candidates);
        let used: u64 = chosen_bps(&entries, &decisions).sum();
        self.aim(now, &mut allotment, &entries, &candidates, &decisions, used);
        for total in [&mut allotment.used_bps, &mut allotment.next_bps, &mut allotment.total_bps] {
            *total += audio + resent;
        }
        self.allotted(now, slot, allotment);
        self.blame_the_last(&entries, &decisions);
        let spare = budget.saturating_sub(used);
        let has_narrowed = (estimate as f64) < NARROWED * used_before as f64;
        for (entry, decision) in entries.iter().zip(&decisions) {
            let guard = &mut self.downtracks[entry.slot].guard;
            let had_held = guard.climbed_at().is_some_and(|at| now.saturating_duration_since(at) >= HELD);
            if has_narrowed && had_held {
                guard.forgive();
            }
            let rung = decision.option.map(|option| &entry.rungs[option]);
            let given = rung.map(|rung| (rung.layer, rung.bps));
            self.give(now, entry.slot, given, decision.reason.as_str(), &entry.rungs, spare);
        }
    }

    fn allotted(&mut self, now: Instant, slot: usize, allotment: Allotment) {
        self.transports[slot].allotment = allotment;
        self.set_pace(now, slot);
    }

    /// Of those that must go down now only who climbed last has failed: the others were carried until then.
    fn blame_the_last(&mut self, entries: &[Entry], decisions: &[Decision]) {
        let last = entries.iter().filter_map(|entry| self.downtracks[entry.slot].guard.climbed_at()).max();
        for (entry, decision) in entries.iter().zip(decisions) {
            let downtrack = &mut self.downtracks[entry.slot];
            let then = decision.option.map(|option| entry.rungs[option].layer.spatial);
            let now = downtrack.selector.target().map(|layer| layer.spatial);
            if then < now {
                downtrack.guard.falls_with(last);
            }
        }
    }

    /// The estimate has moved, or may have: layers and pacing follow it where that changes anything.
    pub(super) fn estimate_changed(&mut self, now: Instant, slot: usize) {
        self.set_pace(now, slot);
        let Some(transport) = self.transports.get_mut(slot) else { return };
        let estimate = transport.downlink.estimate_bps();
        let (allotment, is_overusing) = (transport.allotment, transport.downlink.is_overusing());
        if !allotment.has_video {
            return;
        }
        if is_overusing && transport.pacer.has_video_waiting() {
            self.thin_queue(slot);
        }
        let since = allotment.at.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        let is_due = match estimate {
            Some(bps) if bps < allotment.used_bps => since >= Duration::from_millis(20),
            Some(bps) if allotment.next_bps > allotment.used_bps && bps >= allotment.next_bps => {
                since >= Duration::from_millis(100)
            }
            estimate => estimate.is_some() != allotment.is_limited,
        };
        if is_due {
            self.allot(now, slot);
        }
        self.probe(now, slot);
    }

    fn set_pace(&mut self, now: Instant, slot: usize) {
        let factor = self.config.pacing_factor;
        if let Some(transport) = self.transports.get_mut(slot) {
            // What is given on trust, so that there are pictures, leaves as quickly as it comes.
            let trusted =
                if is_start(transport, transport.allotment.began, now) { transport.allotment.used_bps } else { 0 };
            let rate = transport.downlink.estimate_bps().map(|bps| bps.max(trusted) as f64 * factor);
            transport.pacer.set_rate(now, rate.map(|bps| bps as u64));
            transport.pacer.set_hold(transport.downlink.hold());
        }
    }

    /// Ten times a second.
    pub(super) fn tick_downlink(&mut self, now: Instant, slot: usize) {
        let patience = self.config.feedback_patience;
        let Some(transport) = self.transports.get_mut(slot) else { return };
        transport.downlink.tick(now, patience);
        let allotment = transport.allotment;
        if !allotment.has_video {
            return;
        }
        let could_be_better = allotment.total_bps > allotment.used_bps;
        let interval = if could_be_better { INTERVAL_LIMITED } else { INTERVAL_FULL };
        if allotment.is_limited && allotment.at.is_none_or(|at| now.saturating_duration_since(at) >= interval) {
            self.allot(now, slot);
        }
        self.estimate_changed(now, slot);
    }

    /// Sends a cluster if it is time to learn whether the link carries more.
    pub(super) fn probe(&mut self, now: Instant, slot: usize) {
        let Some(transport) = self.transports.get(slot) else { return };
        let Allotment { next_bps, total_bps, .. } = transport.allotment;
        let is_enough = transport.downlink.estimate_bps().is_none_or(|bps| bps >= total_bps);
        if is_enough || transport.pacer.probe().is_some() || !transport.may_send() {
            return;
        }
        let can_probe = self.can_probe(slot);
        let transport = &mut self.transports[slot];
        if let Some(cluster) = transport.downlink.want(now, next_bps, total_bps, can_probe) {
            transport.pacer.begin_probe(now, cluster);
            self.counters.probes += 1;
            self.list_paced(now, slot);
            self.release(now, slot);
        }
    }

    fn audio_reserve(&self, slot: usize) -> u64 {
        let transport = &self.transports[slot];
        let measured = transport.downlink.bitrate_bps(Flow::Audio) * 11 / 10;
        if measured > VOICE_BPS / 4 || transport.downlink.is_proven() {
            return measured;
        }
        let voices = transport.downtracks.iter().filter(|&&d| self.downtracks[d].kind == MediaKind::Audio).count();
        VOICE_BPS * voices.min(3) as u64
    }

    fn candidates(&self, now: Instant, slot: usize, is_limited: bool) -> (Vec<Entry>, Vec<Candidate>) {
        let (mut entries, mut candidates) = (Vec::new(), Vec::new());
        for &index in &self.transports[slot].downtracks {
            let Some(downtrack) = self.downtracks.get(index) else { continue };
            let Some(uptrack) = self.uptracks.get(downtrack.uptrack) else { continue };
            let (MediaKind::Video, Some(max), false) = (downtrack.kind, downtrack.max_spatial, uptrack.muted) else {
                continue;
            };
            let rungs = ladder(now, uptrack, max, downtrack.want.fps);
            if is_limited {
                candidates.push(self.candidate(now, downtrack, uptrack, &rungs));
            }
            entries.push(Entry { slot: index, rungs });
        }
        (entries, candidates)
    }

    fn candidate(&self, now: Instant, downtrack: &Downtrack, uptrack: &Uptrack, rungs: &[Rung]) -> Candidate {
        let is_speaking = uptrack.content == Content::Camera && self.is_speaking(uptrack);
        let target = downtrack.selector.target();
        let current = target.and_then(|target| {
            let same = |rung: &Rung| rung.layer == target;
            // A temporal layer that is not measured any more was the top.
            let top = || rungs.iter().rposition(|rung| rung.layer.spatial == target.spatial);
            rungs.iter().position(same).or_else(top)
        });
        let current_bps = current.map(|index| rungs[index].bps);
        let want = &downtrack.want;
        let view = View {
            content: uptrack.content,
            tile_pixels: want.width.saturating_mul(want.height),
            speaking: is_speaking,
        };
        let option = |(index, rung): (usize, &Rung)| {
            let margin = match current_bps {
                _ if current == Some(index) => MARGIN_STAY,
                Some(bps) if rung.bps > bps => MARGIN_UP,
                None if downtrack.paused.is_some() && downtrack.has_started => MARGIN_RESUME,
                _ => 1.0,
            };
            let is_new = target.is_none_or(|target| target.spatial != rung.layer.spatial);
            LayerOption {
                spatial: rung.layer.spatial,
                temporal: rung.layer.temporal,
                bitrate_bps: (rung.bps as f64 * margin) as u64,
                utility: utility::of(view, rung.pixels, rung.fps, full_fps(rungs, rung.layer.spatial)),
                switch_cost: match (target, uptrack.mode) {
                    (None, _) => 0.0,
                    (Some(_), LayerMode::Simulcast) if is_new => COST_KEYFRAME,
                    (Some(_), _) if is_new => COST_SPATIAL,
                    _ => COST_TEMPORAL,
                },
                allowed: downtrack.guard.allows(
                    &self.config.guard,
                    now,
                    target.map(|target| target.spatial),
                    rung.layer.spatial,
                ),
            }
        };
        let priority = match (want.priority, uptrack.content) {
            (1.., _) => want.priority,
            (0, Content::Screen) => 255,
            (0, Content::Camera) => 1,
        };
        // Who has seen nothing yet does not see anything come and go.
        let rests =
            downtrack.has_started && downtrack.paused.is_some_and(|at| now.saturating_duration_since(at) < MIN_PAUSE);
        Candidate {
            downtrack: downtrack.id,
            priority: priority.saturating_mul(2).saturating_add(u32::from(is_speaking)),
            options: if rests { Vec::new() } else { rungs.iter().enumerate().map(option).collect() },
            current,
        }
    }

    /// What the next useful layer would need, and what all useful ones would.
    fn aim(
        &self,
        now: Instant,
        allotment: &mut Allotment,
        entries: &[Entry],
        candidates: &[Candidate],
        decisions: &[Decision],
        used: u64,
    ) {
        (allotment.used_bps, allotment.next_bps, allotment.total_bps) = (used, used, used);
        let mut least = u64::MAX;
        for ((entry, candidate), decision) in entries.iter().zip(candidates).zip(decisions) {
            let guard = &self.downtracks[entry.slot].guard;
            let chosen = decision.option.map(|option| &candidate.options[option]);
            let (utility, bps) = chosen.map_or((0.0, 0), |option| (option.utility, option.bitrate_bps));
            let better = candidate.options.iter().filter(|option| {
                option.utility > utility + option.switch_cost && !guard.is_barred(now, option.spatial)
            });
            let best = better.clone().max_by(|a, b| a.utility.total_cmp(&b.utility));
            // Not yet for what rests; it will be a candidate soon.
            let resumed = |rung: &Rung| (rung.bps as f64 * MARGIN_RESUME) as u64;
            let rested = candidate.options.is_empty().then(|| entry.rungs.first().map_or(0, resumed));
            least = better
                .map(|option| option.bitrate_bps.saturating_sub(bps))
                .chain(rested)
                .min()
                .unwrap_or(u64::MAX)
                .min(least);
            let gain = best.map(|option| option.bitrate_bps.saturating_sub(bps)).or(rested).unwrap_or(0);
            allotment.total_bps += (gain as f64 * MARGIN_UP) as u64;
        }
        if least < u64::MAX {
            allotment.next_bps += (least as f64 * MARGIN_UP) as u64;
        }
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

    /// Carries out one decision. `spare`: bits a second that nobody else was given.
    fn give(
        &mut self,
        now: Instant,
        slot: usize,
        given: Option<(Layer, u64)>,
        reason: &'static str,
        rungs: &[Rung],
        spare: u64,
    ) {
        let Some(downtrack) = self.downtracks.get_mut(slot) else { return };
        downtrack.allocation = reason;
        downtrack.target_bps = given.map_or(0, |(_, bps)| bps);
        let id = downtrack.id;
        let Some((layer, bps)) = given else {
            downtrack.paused.get_or_insert(now);
            downtrack.reason = "bandwidth";
            downtrack.selector.set_target(None);
            if downtrack.active.replace(false) != Some(false) {
                self.counters.bandwidth_pauses += 1;
                self.emit(Event::DowntrackState { downtrack: id, active: false, reason: "bandwidth".to_owned() });
            }
            self.forget_waiting(slot);
            return;
        };
        downtrack.paused = None;
        let Some(uptrack) = self.uptracks.get(downtrack.uptrack) else { return };
        let (mode, uptrack_slot) = (uptrack.mode, downtrack.uptrack);
        let before = downtrack.selector.target();
        let was_possible = before.is_some_and(|b| rungs.iter().any(|rung| rung.layer.spatial == b.spatial));
        downtrack.guard.settle(&self.config.guard, now);
        if before != Some(layer) {
            let spatial = before.map(|layer| layer.spatial);
            // Encoders that fall behind make another layer the better one; that says nothing of the link.
            let is_choice = reason == Reason::Best.as_str() || still_fits(rungs, before, bps + spare);
            if spatial > Some(layer.spatial) && is_choice {
                downtrack.guard.forgive();
            }
            // A layer that is gone, or not wished any more, is no failed climb.
            if !reason.is_empty() && (was_possible || spatial < Some(layer.spatial)) {
                downtrack.guard.changed(&self.config.guard, now, spatial, Some(layer.spatial));
            }
            downtrack.selector.set_target(Some(layer));
            if mode == LayerMode::Svc && spatial > Some(layer.spatial) {
                let transport = self.transports.get_mut(downtrack.transport);
                let dropped = transport.map_or(0, |transport| transport.pacer.lower(slot, layer.spatial));
                self.counters.pacer_dropped += dropped as u64;
            }
            if mode == LayerMode::Simulcast && !reason.is_empty() {
                step_down(downtrack, layer.spatial, bps + spare, rungs);
            }
        }
        if downtrack.active == Some(false) {
            downtrack.active = Some(true);
            self.emit(Event::DowntrackState { downtrack: id, active: true, reason: "bandwidth".to_owned() });
        }
        self.ask_for_keyframe(now, slot, uptrack_slot, mode);
    }

    /// The key frame that a downtrack needs to reach its target, if its subscriber is there to get it.
    fn ask_for_keyframe(&mut self, now: Instant, slot: usize, uptrack: usize, mode: LayerMode) {
        let Some(downtrack) = self.downtracks.get(slot) else { return };
        let is_up = self.transports.get(downtrack.transport).is_some_and(|t| t.may_send());
        if is_up && let Some(stream) = downtrack.selector.waits_for_keyframe(mode == LayerMode::Svc) {
            let is_first = downtrack.packets == 0;
            self.request_keyframe(now, uptrack, stream, is_first);
        }
    }
}

/// What the frame rates of one spatial layer are a share of: its own full rate, unless its encoder clearly falls behind the
/// others'. Measured rates of layers that are captured together differ by chance.
fn full_fps(rungs: &[Rung], spatial: Spatial) -> f32 {
    let most = rungs.iter().map(|rung| rung.fps).fold(1.0, f32::max);
    let own = rungs.iter().filter(|rung| rung.layer.spatial == spatial).map(|rung| rung.fps).fold(0.0, f32::max);
    let least = most * FALLS_BEHIND;
    if own >= least { own } else { least * least / own.max(1.0) }
}

/// Nothing has been measured that speaks against the first pictures.
fn is_start(transport: &Transport, began: Option<Instant>, now: Instant) -> bool {
    transport.downlink.is_climbing() && began.is_none_or(|at| now.saturating_duration_since(at) < START)
}

/// Whether the layer that was sent could go on.
fn still_fits(rungs: &[Rung], before: Option<Layer>, room_bps: u64) -> bool {
    rungs.iter().any(|rung| Some(rung.layer) == before && rung.bps <= room_bps)
}

/// Until the key frame of a smaller layer comes, the larger one goes on as far as it fits: at its base frame rate, or not.
fn step_down(downtrack: &mut Downtrack, to: Spatial, fits_bps: u64, rungs: &[Rung]) {
    let Some(current) = downtrack.selector.current().filter(|current| current.spatial > to) else { return };
    let base = rungs.iter().find(|rung| rung.layer.spatial == current.spatial);
    match base {
        Some(rung) if rung.bps <= fits_bps => downtrack.selector.set_interim(rung.layer.temporal.min(TOP_TEMPORAL)),
        _ => downtrack.selector.restart(),
    }
}

fn chosen_bps(entries: &[Entry], decisions: &[Decision]) -> impl Iterator<Item = u64> {
    entries.iter().zip(decisions).filter_map(|(entry, decision)| decision.option.map(|option| entry.rungs[option].bps))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Temporal;

    fn rung(spatial: u8, bps: u64, fps: f32) -> Rung {
        Rung { layer: Layer { spatial: Spatial(spatial), temporal: Temporal(0) }, bps, pixels: 1, fps }
    }

    #[test]
    fn a_layer_is_measured_by_its_own_frame_rate_unless_it_falls_behind() {
        let rungs = [rung(0, 1, 7.0), rung(0, 1, 14.0), rung(1, 1, 12.0), rung(2, 1, 5.0)];
        assert_eq!(full_fps(&rungs, Spatial(0)), 14.0);
        assert_eq!(full_fps(&rungs, Spatial(1)), 12.0);
        assert!((full_fps(&rungs, Spatial(2)) - 9.8).abs() < 0.01, "half of its worth is left");
    }

    #[test]
    fn the_slowest_layer_of_a_clients_own_ladder_loses_little_by_a_frame_less() {
        let share = |own: f32| own / full_fps(&[rung(0, 1, own), rung(2, 1, 30.0)], Spatial(0));
        assert_eq!(share(15.0), 1.0);
        assert!((0.93..1.0).contains(&share(14.6)), "{}", share(14.6));
        assert!(share(7.5) <= 0.25, "but much by half of its frames");
    }

    #[test]
    fn what_would_still_fit_is_left_by_choice() {
        let rungs = [rung(0, 100, 15.0), rung(1, 400, 20.0)];
        let before = Some(rungs[1].layer);
        assert!(still_fits(&rungs, before, 400));
        assert!(!still_fits(&rungs, before, 399));
        assert!(!still_fits(&rungs[..1], before, 1_000), "nor what is not there any more");
        assert!(!still_fits(&rungs, None, 1_000));
    }
}
