//! From one subscriber's estimate to the layer of each of his video tracks: what is known goes in as values, what is to be
//! done comes out as values.
//!
//! Weighs what could be sent and what it costs, asks `allocator`, remembers who may climb, and says what a probe should aim
//! at. Without an estimate everybody gets what he asks for. `give` gathers and carries out; a trace records both sides.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use super::ladder::Rung;
use super::ladder::TOP_TEMPORAL;
use crate::allocator::guard::{Guard, GuardConfig};
use crate::allocator::redundancy::Room;
use crate::allocator::utility::{self, View};
use crate::allocator::{Candidate, Decision, LayerOption, Reason, allocate};
use crate::bwe::ProbeCluster;
use crate::command::{Content, LayerMode, Want};
use crate::downlink::{Downlink, Flow};
use crate::downtrack::Layer;
use crate::ids::{DowntrackId, Spatial, Temporal, UptrackId};
use crate::pacer::Width;

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
const HELD: Duration = Duration::from_secs(1);
/// Before anything is measured, nobody is kept waiting for the estimate: the first pictures are sent.
const START: Duration = Duration::from_millis(1_200);
/// They are key frames, several times as large as what their streams' rates allow for.
const START_PACE: f64 = 2.0;
/// One voice, until it is measured.
const VOICE_BPS: u64 = 40_000;
/// Retransmissions are reserved for up to this share of the estimate.
const RESENT_SHARE: u64 = 7;
/// How often layers are chosen anew while some could be better, and while all are at their best.
const INTERVAL_LIMITED: Duration = Duration::from_millis(300);
const INTERVAL_FULL: Duration = Duration::from_secs(1);

/// What the last allocation came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Allotment {
    #[serde(with = "crate::moment")]
    pub at: Option<Instant>,
    /// When it was first seen that video is sent: until then a key frame was waited for, however long.
    #[serde(with = "crate::moment")]
    pub began: Option<Instant>,
    /// Bits a second in all that it needs, what the next useful layer would need, and what everything would.
    pub used_bps: u64,
    pub next_bps: u64,
    pub total_bps: u64,
    /// What the smallest sizes of all wanted video need at their full frame rate, and whether any is paused for want of room.
    #[serde(default)]
    pub floor_bps: u64,
    #[serde(default)]
    pub is_short: bool,
    pub has_video: bool,
    /// An estimate stood behind it.
    pub is_limited: bool,
    /// Not everything is at its best.
    #[serde(default)]
    pub is_below_best: bool,
}

/// What is known when layers are chosen, besides the link.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Situation {
    /// Audio tracks that the subscriber has.
    pub voices: usize,
    /// Every wanted video track.
    pub tracks: Vec<Track>,
    /// Those beside them that the worker has no CPU for.
    #[serde(default)]
    pub left_out: Vec<DowntrackId>,
}

/// One wanted video track.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Track {
    pub downtrack: DowntrackId,
    pub uptrack: UptrackId,
    pub content: Content,
    pub mode: LayerMode,
    pub want: Want,
    /// A camera whose owner speaks.
    pub is_speaking: bool,
    /// Something of it was sent before.
    pub has_started: bool,
    /// The layer that it is to have so far, and the one being sent.
    pub target: Option<Layer>,
    pub current: Option<Layer>,
    /// Since when there is no room for it.
    #[serde(with = "crate::moment")]
    pub paused: Option<Instant>,
    pub guard: Guard,
    /// Larger layers are left out of `rungs` for want of CPU.
    #[serde(default)]
    pub is_capped: bool,
    /// What it could be sent as, measured; never empty.
    pub rungs: Vec<Rung>,
}

/// What was chosen for all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What there was for video; `None`: nothing limits.
    pub budget_bps: Option<u64>,
    pub allotment: Allotment,
    /// One a track, in the situation's order.
    pub choices: Vec<Choice>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    pub downtrack: DowntrackId,
    /// `None`: paused.
    pub layer: Option<Layer>,
    /// Bits a second that it needs.
    pub bps: u64,
    /// `None`: nothing limits, everybody gets what he asks for.
    pub reason: Option<Reason>,
    pub meanwhile: Meanwhile,
    /// Layers that a failed climb forbids from now on.
    pub barred: Vec<Spatial>,
}

/// What becomes of the larger layer being sent until the key frame of the chosen one comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meanwhile {
    /// Nothing changes.
    GoesOn,
    /// It goes on up to this temporal layer.
    Thinned(Temporal),
    /// It does not fit at all.
    Stops,
}

/// What there is for one subscriber, and how careful he is to be with it.
pub struct Means<'a> {
    pub downlink: &'a Downlink,
    pub before: Allotment,
    pub guard: &'a GuardConfig,
}

/// Chooses for all video of one subscriber. The guards in `situation` take note of it.
pub fn choose(now: Instant, means: &Means<'_>, situation: &mut Situation) -> Outcome {
    let Means { downlink, before, .. } = *means;
    let tracks = &mut situation.tracks;
    let mut allotment =
        Allotment { at: Some(now), began: before.began, has_video: !tracks.is_empty(), ..Allotment::default() };
    if tracks.is_empty() {
        return Outcome { allotment, ..Outcome::default() };
    }
    allotment.began = before.began.or(tracks.iter().any(|track| track.has_started).then_some(now));
    let Some(estimate) = downlink.estimate_bps() else {
        return Outcome { budget_bps: None, allotment, choices: tracks.iter().map(unlimited).collect() };
    };
    allotment.is_limited = true;
    let audio = audio_reserve(downlink, situation.voices);
    let resent = downlink.bitrate_bps(Flow::Resent).min(estimate / RESENT_SHARE);
    let mut candidates: Vec<Candidate> = tracks.iter().map(|track| candidate(now, means.guard, track)).collect();
    charge_climbs(tracks, &mut candidates);
    let mut budget = estimate.saturating_sub(audio + resent);
    allotment.floor_bps = tracks.iter().map(|track| smallest_bps(&track.rungs)).sum();
    if allotment.is_start(now, downlink) {
        let floor = |c: &Candidate| c.options.iter().map(|option| option.bitrate_bps).min().unwrap_or(0);
        budget = budget.max(candidates.iter().map(floor).sum());
    }
    let decisions = allocate(budget, &candidates);
    allotment.is_below_best = decisions.iter().any(|decision| decision.reason != Reason::Best);
    let used: u64 = chosen_bps(tracks, &decisions).sum();
    blame_the_last(tracks, &decisions);
    let spare = budget.saturating_sub(used);
    // All that is sent could go on: who goes down makes room for somebody who is worth more now.
    let is_traded = current_bps(&candidates) <= budget;
    let has_narrowed = (estimate as f64) < NARROWED * before.used_bps as f64;
    let settled = tracks.iter_mut().zip(&decisions).map(|(track, decision)| {
        let had_held = track.guard.climbed_at().is_some_and(|at| now.saturating_duration_since(at) >= HELD);
        if has_narrowed && had_held {
            track.guard.forgive();
        }
        settle(now, means.guard, track, decision, spare, is_traded)
    });
    let choices: Vec<Choice> = settled.collect();
    allotment.is_short = choices.iter().any(|choice| choice.layer.is_none());
    // What has just failed is no aim any more.
    aim(now, &mut allotment, tracks, &candidates, &decisions, used);
    for total in [&mut allotment.used_bps, &mut allotment.next_bps, &mut allotment.total_bps] {
        *total += audio + resent;
    }
    Outcome { budget_bps: Some(budget), choices, allotment }
}

impl Allotment {
    /// The estimate has moved, or may have: whether layers should be chosen anew for it.
    pub fn is_outdated(&self, now: Instant, downlink: &Downlink) -> bool {
        let since = self.at.map_or(Duration::MAX, |at| now.saturating_duration_since(at));
        match downlink.estimate_bps() {
            Some(bps) if bps < self.used_bps => since >= Duration::from_millis(20),
            Some(bps) if self.next_bps > self.used_bps && bps >= self.next_bps => since >= Duration::from_millis(100),
            estimate => estimate.is_some() != self.is_limited,
        }
    }

    /// What decides whether sound has room for what RED says again. `withheld_bps`: what is not sent of it.
    pub fn room(&self, downlink: &Downlink, withheld_bps: u64) -> Room {
        let has_end = !downlink.is_climbing() && (self.wants_more(downlink) || !downlink.is_untried());
        Room {
            estimate_bps: downlink.estimate_bps(),
            is_end: has_end,
            sound_bps: downlink.bitrate_bps(Flow::Audio) + withheld_bps,
            video_bps: self.floor_bps + downlink.bitrate_bps(Flow::Resent),
            is_short: self.is_short,
        }
    }

    /// By the clock: whether they should be chosen anew although nothing was heard.
    pub fn is_old(&self, now: Instant) -> bool {
        let could_be_better = self.total_bps > self.used_bps;
        let interval = if could_be_better { INTERVAL_LIMITED } else { INTERVAL_FULL };
        self.is_limited && self.at.is_none_or(|at| now.saturating_duration_since(at) >= interval)
    }

    /// Whether it is of any use to know that the link carries more.
    pub fn wants_more(&self, downlink: &Downlink) -> bool {
        downlink.estimate_bps().is_some_and(|bps| bps < self.total_bps)
    }

    /// A cluster that should leave now, where it is of use to know that the link carries more. `can_probe`: there is a stream
    /// that it can be sent on.
    pub fn probe(&self, now: Instant, downlink: &mut Downlink, can_probe: bool) -> Option<ProbeCluster> {
        if !self.wants_more(downlink) {
            return None;
        }
        let cluster = downlink.want(now, self.next_bps, self.total_bps, can_probe);
        if let (Some(recorder), Some(cluster)) = (downlink.recorder(), cluster) {
            recorder.cluster(now, cluster);
        }
        downlink.tell(now);
        cluster
    }

    /// Bits a second at which video may leave; `None`: as it comes.
    pub fn pace_bps(&self, now: Instant, downlink: &Downlink, factor: f64) -> Option<u64> {
        // What is given on trust, so that there are pictures, leaves about as quickly as it comes.
        let trusted = if self.is_start(now, downlink) { self.used_bps as f64 * START_PACE } else { 0.0 };
        let factor = if self.is_below_best && downlink.is_at_end() { 1.0 } else { factor };
        downlink.estimate_bps().map(|bps| ((bps as f64).max(trusted) * factor) as u64)
    }

    /// What the link is believed to carry of what is wanted.
    pub fn width(&self, downlink: &Downlink) -> Width {
        match self.is_below_best {
            true if downlink.is_climbing() => Width::Untried,
            true => Width::Narrow,
            false => Width::Enough,
        }
    }

    /// First pictures flow that the estimate does not cover.
    pub fn is_unproved(&self, now: Instant, downlink: &Downlink) -> bool {
        self.is_start(now, downlink) && downlink.estimate_bps().is_some_and(|bps| bps < self.used_bps)
    }

    /// Nothing has been measured that speaks against the first pictures.
    fn is_start(&self, now: Instant, downlink: &Downlink) -> bool {
        downlink.is_climbing() && self.began.is_none_or(|at| now.saturating_duration_since(at) < START)
    }
}

fn unlimited(track: &Track) -> Choice {
    let best = track.rungs.iter().max_by_key(|rung| (rung.layer.spatial, rung.layer.temporal));
    Choice {
        downtrack: track.downtrack,
        layer: best.map(|rung| rung.layer),
        bps: best.map_or(0, |rung| rung.bps),
        reason: track.is_capped.then_some(Reason::Overload),
        meanwhile: Meanwhile::GoesOn,
        barred: Vec::new(),
    }
}

/// Of those that must go down now only who climbed last has failed: the others were carried until then.
fn blame_the_last(tracks: &mut [Track], decisions: &[Decision]) {
    let last = tracks.iter().filter_map(|track| track.guard.climbed_at()).max();
    for (track, decision) in tracks.iter_mut().zip(decisions) {
        let then = decision.option.map(|option| track.rungs[option].layer.spatial);
        let now = track.target.map(|layer| layer.spatial);
        if then < now {
            track.guard.falls_with(last);
        }
    }
}

fn audio_reserve(downlink: &Downlink, voices: usize) -> u64 {
    let measured = downlink.bitrate_bps(Flow::Audio) * 11 / 10;
    if measured > VOICE_BPS / 4 || downlink.is_proven() {
        return measured;
    }
    VOICE_BPS * voices.min(3) as u64
}

fn candidate(now: Instant, config: &GuardConfig, track: &Track) -> Candidate {
    let Track { rungs, target, want, .. } = track;
    let current = target.and_then(|target| {
        let same = |rung: &Rung| rung.layer == target;
        // A temporal layer that is not measured any more was the top.
        let top = || rungs.iter().rposition(|rung| rung.layer.spatial == target.spatial);
        rungs.iter().position(same).or_else(top)
    });
    let current_bps = current.map(|index| rungs[index].bps);
    let view = View {
        content: track.content,
        tile_pixels: want.width.saturating_mul(want.height),
        speaking: track.is_speaking,
    };
    let option = |(index, rung): (usize, &Rung)| {
        let (bps, margin) = match current_bps {
            _ if current == Some(index) => (rung.bps, MARGIN_STAY),
            Some(bps) if rung.bps > bps => (rung.bps.max(rung.mean_bps), MARGIN_UP),
            None if track.paused.is_some() && track.has_started => (rung.bps, MARGIN_RESUME),
            _ => (rung.bps, 1.0),
        };
        let is_new = target.is_none_or(|target| target.spatial != rung.layer.spatial);
        LayerOption {
            spatial: rung.layer.spatial,
            temporal: rung.layer.temporal,
            bitrate_bps: (bps as f64 * margin) as u64,
            utility: utility::of(view, rung.pixels, rung.fps, full_fps(rungs, rung.layer.spatial)),
            switch_cost: match (target, track.mode) {
                (None, _) => 0.0,
                (Some(_), LayerMode::Simulcast) if is_new => COST_KEYFRAME,
                (Some(_), _) if is_new => COST_SPATIAL,
                _ => COST_TEMPORAL,
            },
            allowed: track.guard.allows(config, now, target.map(|target| target.spatial), rung.layer.spatial),
        }
    };
    let priority = match (want.priority, track.content) {
        (1.., _) => want.priority,
        (0, Content::Screen) => 255,
        (0, Content::Camera) => 1,
    };
    // Who has seen nothing yet does not see anything come and go.
    let rests = track.has_started && track.paused.is_some_and(|at| now.saturating_duration_since(at) < MIN_PAUSE);
    Candidate {
        downtrack: track.downtrack,
        priority: priority.saturating_mul(2).saturating_add(u32::from(track.is_speaking)),
        options: if rests { Vec::new() } else { rungs.iter().enumerate().map(option).collect() },
        current,
    }
}

/// A climb to a larger picture must fit beside what the other tracks cost over seconds, not beside what they just happen to.
fn charge_climbs(tracks: &[Track], candidates: &mut [Candidate]) {
    let more = |track: &Track, candidate: &Candidate| {
        let current = candidate.current?;
        let (rung, option) = (track.rungs.get(current)?, candidate.options.get(current)?);
        Some((*option, rung.mean_bps as i64 - option.bitrate_bps as i64))
    };
    let all: i64 = tracks.iter().zip(&*candidates).filter_map(|(t, c)| more(t, c)).map(|(_, bps)| bps).sum();
    for (track, candidate) in tracks.iter().zip(candidates) {
        let Some((current, own)) = more(track, candidate) else { continue };
        let charge = (all - own).max(0) as u64;
        for option in &mut candidate.options {
            if option.spatial > current.spatial && option.bitrate_bps > current.bitrate_bps {
                option.bitrate_bps += charge;
            }
        }
    }
}

/// What the next useful layer would need, and what all useful ones would.
fn aim(
    now: Instant,
    allotment: &mut Allotment,
    tracks: &[Track],
    candidates: &[Candidate],
    decisions: &[Decision],
    used: u64,
) {
    (allotment.used_bps, allotment.next_bps, allotment.total_bps) = (used, used, used);
    let mut least = u64::MAX;
    for ((track, candidate), decision) in tracks.iter().zip(candidates).zip(decisions) {
        let chosen = decision.option.map(|option| &candidate.options[option]);
        let (utility, bps) = chosen.map_or((0.0, 0), |option| (option.utility, option.bitrate_bps));
        let better = candidate.options.iter().filter(|option| {
            option.utility > utility + option.switch_cost && !track.guard.is_barred(now, option.spatial)
        });
        let best = better.clone().max_by(|a, b| a.utility.total_cmp(&b.utility));
        // Not yet for what rests; it will be a candidate soon.
        let resumed = |rung: &Rung| (rung.bps as f64 * MARGIN_RESUME) as u64;
        let rested = candidate.options.is_empty().then(|| track.rungs.first().map_or(0, resumed));
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

/// Takes note of one decision. `spare`: bits a second that nobody else was given; `is_traded`: nobody had to go down.
fn settle(
    now: Instant,
    config: &GuardConfig,
    track: &mut Track,
    decision: &Decision,
    spare: u64,
    is_traded: bool,
) -> Choice {
    let rung = decision.option.map(|option| track.rungs[option]);
    let is_capped = track.is_capped && decision.reason == Reason::Best;
    let mut choice = Choice {
        downtrack: track.downtrack,
        layer: rung.map(|rung| rung.layer),
        bps: rung.map_or(0, |rung| rung.bps),
        reason: Some(if is_capped { Reason::Overload } else { decision.reason }),
        meanwhile: Meanwhile::GoesOn,
        barred: Vec::new(),
    };
    if let Some(Rung { layer, bps, .. }) = rung {
        let Track { rungs, guard, target: before, .. } = track;
        guard.settle(config, now);
        if *before != Some(layer) {
            let spatial = before.map(|layer| layer.spatial);
            let was_possible = spatial.is_some_and(|b| rungs.iter().any(|rung| rung.layer.spatial == b));
            // Encoders that fall behind make another layer the better one; that says nothing of the link.
            let is_choice = decision.reason == Reason::Best || is_traded || still_fits(rungs, *before, bps + spare);
            if spatial > Some(layer.spatial) && is_choice {
                guard.forgive();
            }
            // A layer that is gone, or not wished any more, is no failed climb.
            if was_possible || spatial < Some(layer.spatial) {
                guard.changed(config, now, spatial, Some(layer.spatial));
            }
            if track.mode == LayerMode::Simulcast {
                choice.meanwhile = meanwhile(track.current, layer.spatial, bps + spare, rungs);
            }
        }
    }
    for rung in &track.rungs {
        let spatial = rung.layer.spatial;
        if track.guard.is_barred(now, spatial) && choice.barred.last() != Some(&spatial) {
            choice.barred.push(spatial);
        }
    }
    choice
}

/// What the frame rates of one spatial layer are a share of: its own full rate, unless its encoder clearly falls behind the
/// others'. Measured rates of layers that are captured together differ by chance.
fn full_fps(rungs: &[Rung], spatial: Spatial) -> f32 {
    let most = rungs.iter().map(|rung| rung.fps).fold(1.0, f32::max);
    let own = rungs.iter().filter(|rung| rung.layer.spatial == spatial).map(|rung| rung.fps).fold(0.0, f32::max);
    let least = most * FALLS_BEHIND;
    if own >= least { own } else { least * least / own.max(1.0) }
}

/// Of the smallest size, at its full frame rate.
fn smallest_bps(rungs: &[Rung]) -> u64 {
    let size = rungs.iter().map(|rung| rung.layer.spatial).min();
    rungs.iter().filter(|rung| Some(rung.layer.spatial) == size).map(|rung| rung.bps).max().unwrap_or(0)
}

/// Whether the layer that was sent could go on.
fn still_fits(rungs: &[Rung], before: Option<Layer>, room_bps: u64) -> bool {
    rungs.iter().any(|rung| Some(rung.layer) == before && rung.bps <= room_bps)
}

/// Until the key frame of a smaller layer comes, the larger one goes on as far as it fits: at its base frame rate, or not.
fn meanwhile(current: Option<Layer>, to: Spatial, fits_bps: u64, rungs: &[Rung]) -> Meanwhile {
    let Some(current) = current.filter(|current| current.spatial > to) else { return Meanwhile::GoesOn };
    let base = rungs.iter().find(|rung| rung.layer.spatial == current.spatial);
    match base {
        Some(rung) if rung.bps <= fits_bps => Meanwhile::Thinned(rung.layer.temporal.min(TOP_TEMPORAL)),
        _ => Meanwhile::Stops,
    }
}

/// What is sent so far, as far as it is there to go on.
fn current_bps(candidates: &[Candidate]) -> u64 {
    candidates.iter().filter_map(|candidate| Some(candidate.options.get(candidate.current?)?.bitrate_bps)).sum()
}

fn chosen_bps(tracks: &[Track], decisions: &[Decision]) -> impl Iterator<Item = u64> {
    tracks.iter().zip(decisions).filter_map(|(track, decision)| decision.option.map(|option| track.rungs[option].bps))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remb_sum::Told;

    fn now() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        Instant::now()
    }

    fn rung(spatial: u8, bps: u64, fps: f32) -> Rung {
        Rung { layer: Layer { spatial: Spatial(spatial), temporal: Temporal(0) }, bps, mean_bps: bps, pixels: 1, fps }
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

    fn track(rungs: Vec<Rung>, target: Layer) -> Track {
        Track {
            downtrack: DowntrackId(1),
            uptrack: UptrackId(1),
            content: Content::Camera,
            mode: LayerMode::Simulcast,
            want: Want::default(),
            is_speaking: false,
            has_started: true,
            target: Some(target),
            current: Some(target),
            paused: None,
            guard: Guard::default(),
            is_capped: false,
            rungs,
        }
    }

    #[test]
    fn a_larger_picture_must_fit_beside_what_the_others_cost_over_seconds() {
        let (start, config) = (now(), GuardConfig::default());
        let charged = |means: [u64; 3]| {
            let tracks = means.map(|mean_bps| {
                let small = Rung { mean_bps, ..rung(0, 1_000, 30.0) };
                track(vec![small, rung(1, 4_000, 30.0)], small.layer)
            });
            let mut candidates = tracks.each_ref().map(|track| candidate(start, &config, track));
            charge_climbs(&tracks, &mut candidates);
            candidates.map(|c| [c.options[0].bitrate_bps, c.options[1].bitrate_bps])
        };
        // 970 of 1 000 is what the layers being sent are reckoned at, 4 320 a climb alone.
        assert_eq!(charged([1_270, 1_070, 870]), [[970, 4_320], [970, 4_520], [970, 4_720]]);
        assert_eq!(charged([900, 800, 700]), [[970, 4_320]; 3], "what is cheaper than usual is no gain");
    }

    #[test]
    fn a_layer_just_measured_low_is_reckoned_at_its_mean() {
        let large = Rung { mean_bps: 5_000, ..rung(1, 4_000, 30.0) };
        let small = rung(0, 1_000, 30.0);
        let of = |target| candidate(now(), &GuardConfig::default(), &track(vec![small, large], target)).options[1];
        assert_eq!(of(small.layer).bitrate_bps, 5_400, "to climb to");
        assert_eq!(of(large.layer).bitrate_bps, 3_880, "but not to stay at");
    }

    /// A link that seems to carry a layer for half a second at a time.
    #[test]
    fn what_failed_is_no_aim_for_a_time_that_grows_and_then_is_one_again() {
        let (start, config) = (now(), GuardConfig::default());
        let sized = |spatial, bps, pixels| Rung { pixels, ..rung(spatial, bps, 30.0) };
        let (small, large) = (sized(0, 200_000, 320 * 180), sized(1, 600_000, 640 * 360));
        let mut situation = Situation { tracks: vec![track(vec![small, large], small.layer)], ..Situation::default() };
        let mut downlink = Downlink::new(crate::bwe::BweConfig::default());
        let (mut before, mut at) = (Allotment::default(), start);
        let mut chosen = |at, bps, situation: &mut Situation, before: &mut Allotment| {
            downlink.remb(at, Told { bitrate_bps: bps, is_beside_sound: false });
            let outcome = choose(at, &Means { downlink: &downlink, before: *before, guard: &config }, situation);
            *before = outcome.allotment;
            situation.tracks[0].target = outcome.choices[0].layer;
            (outcome.choices[0].clone(), outcome.allotment.wants_more(&downlink))
        };
        for expected in [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            let (climb, _) = chosen(at, 1_000_000, &mut situation, &mut before);
            assert_eq!(climb.layer, Some(large.layer));
            at += Duration::from_millis(500);
            let fall = at;
            let (fallen, mut has_aim) = chosen(at, 300_000, &mut situation, &mut before);
            assert_eq!((fallen.layer, fallen.barred, has_aim), (Some(small.layer), vec![Spatial(1)], false));
            while !has_aim {
                at += INTERVAL_LIMITED;
                has_aim = chosen(at, 300_000, &mut situation, &mut before).1;
            }
            let waited = at.saturating_duration_since(fall).as_secs_f64();
            assert!((expected..expected + 0.5).contains(&waited), "{waited} instead of {expected}");
        }
    }

    /// The link carries one large picture beside a small one; each one's is large while he speaks.
    #[test]
    fn who_takes_turns_at_speaking_bars_nobodys_picture() {
        let (start, config) = (now(), GuardConfig::default());
        let sized = |spatial, bps, pixels| Rung { pixels, ..rung(spatial, bps, 30.0) };
        let (small, large) = (sized(0, 200_000, 320 * 180), sized(1, 600_000, 640 * 360));
        let of = |id| Track { downtrack: DowntrackId(id), ..track(vec![small, large], small.layer) };
        let mut situation = Situation { tracks: vec![of(1), of(2)], ..Situation::default() };
        let mut downlink = Downlink::new(crate::bwe::BweConfig::default());
        let mut before = Allotment::default();
        for step in 0..200u32 {
            let (at, speaker, since) = (start + INTERVAL_LIMITED * step, (step / 13 % 2) as usize, step % 13);
            for (index, track) in situation.tracks.iter_mut().enumerate() {
                track.is_speaking = index == speaker;
            }
            downlink.remb(at, Told { bitrate_bps: 1_000_000, is_beside_sound: false });
            let outcome = choose(at, &Means { downlink: &downlink, before, guard: &config }, &mut situation);
            before = outcome.allotment;
            for (track, choice) in situation.tracks.iter_mut().zip(&outcome.choices) {
                assert!(choice.barred.is_empty(), "{choice:?} in step {step}");
                (track.target, track.current) = (choice.layer, choice.layer);
            }
            let layers = [speaker, 1 - speaker].map(|index| outcome.choices[index].layer);
            assert!(since < 7 || layers == [Some(large.layer), Some(small.layer)], "{layers:?} in step {step}");
        }
    }

    #[test]
    fn first_pictures_leave_at_twice_their_rate_until_the_link_is_measured() {
        let start = now();
        let mut downlink = Downlink::new(crate::bwe::BweConfig::default());
        let first = Allotment { began: Some(start), used_bps: 800_000, ..Allotment::default() };
        assert_eq!(first.pace_bps(start, &downlink, 1.1), None, "nothing limits");
        downlink.promise_feedback();
        assert_eq!(first.pace_bps(start, &downlink, 1.1), Some(1_760_000));
        assert_eq!(first.pace_bps(start + START, &downlink, 1.1), Some(330_000), "for so long on trust");
        let small = Allotment { used_bps: 100_000, ..first };
        assert_eq!(small.pace_bps(start, &downlink, 1.1), Some(330_000), "what the estimate covers needs no trust");
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
