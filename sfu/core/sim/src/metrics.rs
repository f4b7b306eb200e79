//! What a call was worth, as `allocation.md` defines it: computed from what the receivers saw, heard and what the links did.
//!
//! Figures of several subscribers: mean utility and freezes, worst of all else.

use callyard_proto::command::Content;
use serde::Serialize;

use crate::call::{Call, Screen};
use crate::link::Passage;
use crate::optimum::{Optimum, Track};

/// Utility is counted from here: joining has figures of its own.
const WARM_UP_S: f64 = 5.0;
/// A climb taken back within this time is a reversal.
const REVERSAL_S: f64 = 10.0;
const BIN_S: f64 = 0.1;

#[derive(Clone, Debug, Default, Serialize)]
pub struct Metrics {
    /// Worth of what was seen ÷ worth of the best that fits the known capacity.
    pub utility: f64,
    pub frozen_ms_per_min: f64,
    pub longest_freeze_ms: f64,
    pub queue_p95_ms: f64,
    /// Offered bits ÷ capacity of the worst second.
    pub worst_offered: f64,
    pub concealed_percent: f64,
    /// After a fall of the rate: until what is sent fits and the queue is below 50 ms. Absent: never, or no fall.
    pub down_s: Option<f64>,
    /// After a rise: until 90 % of the optimum is seen.
    pub up_s: Option<f64>,
    pub falls: usize,
    pub rises: usize,
    /// Changes of size, pauses and resumptions, per track and minute.
    pub switches_per_min: f64,
    pub reversals_per_min: f64,
    /// Seconds during which tracks of less weight had what one of more weight, that had nothing, could have been sent with.
    pub inversion_s: f64,
    pub keyframes_per_min: f64,
    pub plis_per_min: f64,
    /// Of the last track of the slowest subscriber. Absent: never.
    pub first_frame_ms: Option<f64>,
    /// Until 90 % of the optimum is seen for the first time.
    pub target_layer_s: Option<f64>,
    pub wasted_percent: f64,
    /// Share of the offered bits that the queue dropped.
    pub dropped_percent: f64,
    /// Mean of the core's estimate ÷ free capacity after the warm-up.
    pub estimate_share: f64,
}

/// What is drawn: one subscriber over time, in steps of 100 ms.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Series {
    pub t: Vec<f64>,
    pub capacity: Vec<f64>,
    pub free: Vec<f64>,
    pub estimate: Vec<f64>,
    pub sent: Vec<f64>,
    pub queue_ms: Vec<f64>,
    pub utility: Vec<f64>,
    pub optimum: Vec<f64>,
    /// By track: seen size (-1: nothing), frames a second over the last second, why.
    pub tracks: Vec<TrackSeries>,
    pub freezes: Vec<(f64, f64)>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct TrackSeries {
    pub height: Vec<i64>,
    pub fps: Vec<f64>,
    pub reasons: Vec<String>,
}

/// One subscriber's side of a call.
struct View<'a> {
    call: &'a Call,
    subscriber: usize,
    screens: Vec<&'a Screen>,
    tracks: Vec<Track>,
    optimum: Optimum,
    /// Offered bits by tenth of a second.
    offered: Vec<f64>,
}

pub fn of(call: &Call) -> Metrics {
    let mut all: Vec<Metrics> =
        (0..call.subscribers()).map(|subscriber| View::new(call, subscriber).metrics()).collect();
    let count = all.len().max(1) as f64;
    let mut sum = all.pop().unwrap_or_default();
    for one in all {
        let later = |a: Option<f64>, b: Option<f64>| Some(a?.max(b?));
        let slower = |(a, of_a): (Option<f64>, usize), (b, of_b): (Option<f64>, usize)| match (of_a, of_b) {
            (0, _) => b,
            (_, 0) => a,
            _ => later(a, b),
        };
        sum = Metrics {
            utility: sum.utility + one.utility,
            frozen_ms_per_min: sum.frozen_ms_per_min + one.frozen_ms_per_min,
            longest_freeze_ms: sum.longest_freeze_ms.max(one.longest_freeze_ms),
            queue_p95_ms: sum.queue_p95_ms.max(one.queue_p95_ms),
            worst_offered: sum.worst_offered.max(one.worst_offered),
            concealed_percent: sum.concealed_percent.max(one.concealed_percent),
            down_s: slower((sum.down_s, sum.falls), (one.down_s, one.falls)),
            up_s: slower((sum.up_s, sum.rises), (one.up_s, one.rises)),
            falls: sum.falls + one.falls,
            rises: sum.rises + one.rises,
            switches_per_min: sum.switches_per_min + one.switches_per_min,
            reversals_per_min: sum.reversals_per_min + one.reversals_per_min,
            inversion_s: sum.inversion_s.max(one.inversion_s),
            first_frame_ms: later(sum.first_frame_ms, one.first_frame_ms),
            target_layer_s: later(sum.target_layer_s, one.target_layer_s),
            dropped_percent: sum.dropped_percent.max(one.dropped_percent),
            estimate_share: sum.estimate_share + one.estimate_share,
            ..sum
        };
    }
    let minutes = call.seconds / 60.0;
    let cameras = call.cameras.len().max(1) as f64;
    let keyframes: u64 = call.cameras.iter().map(|c| c.encoder.keyframes - c.keyframes_before).sum();
    let plis: u64 = call.screens.iter().map(|s| s.video.plis).sum();
    Metrics {
        utility: sum.utility / count,
        frozen_ms_per_min: sum.frozen_ms_per_min / count,
        switches_per_min: sum.switches_per_min / count,
        reversals_per_min: sum.reversals_per_min / count,
        estimate_share: sum.estimate_share / count,
        keyframes_per_min: keyframes as f64 / cameras / minutes,
        plis_per_min: plis as f64 / cameras / minutes,
        wasted_percent: wasted(call),
        ..sum
    }
}

pub fn series(call: &Call, subscriber: usize) -> Series {
    View::new(call, subscriber).series()
}

impl<'a> View<'a> {
    fn new(call: &'a Call, subscriber: usize) -> Self {
        let screens: Vec<&Screen> = call.screens.iter().filter(|s| s.subscriber == subscriber).collect();
        let tracks: Vec<Track> = screens
            .iter()
            .map(|screen| {
                let format = call.cameras[screen.camera].encoder.format;
                Track { format, needed: format.layer_for(screen.tile) }
            })
            .collect();
        let mut offered = vec![0.0; (call.seconds / BIN_S).ceil() as usize];
        for Passage { at, bytes, .. } in &call.subscriber(subscriber).down.passages {
            if let Some(bin) = offered.get_mut((at / BIN_S) as usize) {
                *bin += *bytes as f64 * 8.0;
            }
        }
        Self { call, subscriber, optimum: Optimum::new(&tracks), screens, tracks, offered }
    }

    fn metrics(mut self) -> Metrics {
        let (seconds, track_minutes) = (self.call.seconds, self.screens.len().max(1) as f64 * self.call.seconds / 60.0);
        let warm_up = WARM_UP_S.min(seconds / 3.0);
        let windows: Vec<f64> = (0..).map(|i| warm_up + f64::from(i)).take_while(|t| t + 1.0 <= seconds).collect();
        let (mut seen, mut best) = (0.0, 0.0);
        for t in windows {
            seen += self.seen(t, 1.0);
            best += self.best(t, 1.0);
        }
        let down = &self.call.subscriber(self.subscriber).down;
        let mut waits: Vec<f64> = down.passages.iter().filter_map(|p| p.wait).collect();
        waits.sort_by(f64::total_cmp);
        let freezes: Vec<f64> = self.freezes().map(|(_, length)| length).collect();
        let jumps = down.free.jumps().filter(|(at, ..)| *at < seconds - 2.0);
        let (falls, rises): (Vec<_>, Vec<_>) = jumps.partition(|(_, from, to)| to < from);
        let falls: Vec<f64> = falls.iter().map(|(at, ..)| *at).collect();
        let rises: Vec<f64> = rises.iter().map(|(at, ..)| *at).collect();
        // Only steps are followed: where the rate changes all the time there is nothing to converge to.
        let apart = |times: &[f64]| times.windows(2).all(|pair| pair[1] - pair[0] > 5.0);
        let is_stepped = apart(&falls) && apart(&rises);
        let slowest = |times: &[f64], of: &dyn Fn(f64) -> Option<f64>| {
            let all: Option<Vec<f64>> = times.iter().map(|t| of(*t)).collect();
            all.filter(|_| is_stepped)?.into_iter().reduce(f64::max)
        };
        let down_s = slowest(&falls, &|t| self.fits_after(t));
        let reached: Vec<Option<f64>> = rises.iter().map(|t| self.reaches_after(*t)).collect();
        let up_s = slowest(&rises, &|t| reached[rises.iter().position(|r| *r == t)?]);
        let target_layer_s = self.reaches_after(0.0);
        let first = self.screens.iter().map(|s| Some(s.video.shown.first()?.at));
        let first_frame = first.collect::<Option<Vec<f64>>>().and_then(|times| times.into_iter().reduce(f64::max));
        let (switches, reversals) = self.switches();
        let dropped: usize = down.passages.iter().filter(|p| p.wait.is_none()).map(|p| p.bytes).sum();
        let all: usize = down.passages.iter().map(|p| p.bytes).sum();
        let looks = self.call.looks.iter().filter(|l| l.at >= warm_up);
        let shares: Vec<f64> = looks.map(|l| l.estimates[self.subscriber] as f64 / down.free.at(l.at)).collect();
        Metrics {
            utility: if best > 0.0 { seen / best } else { 1.0 },
            frozen_ms_per_min: freezes.iter().fold(0.0, |sum, length| sum + length) * 1e3 / track_minutes,
            longest_freeze_ms: freezes.iter().copied().fold(0.0, f64::max) * 1e3,
            queue_p95_ms: waits.get(waits.len() * 95 / 100).copied().unwrap_or(0.0) * 1e3,
            worst_offered: self.worst_offered(),
            concealed_percent: self.concealed() * 100.0,
            down_s,
            up_s,
            falls: if is_stepped { falls.len() } else { 0 },
            rises: if is_stepped { rises.len() } else { 0 },
            switches_per_min: switches as f64 / track_minutes,
            reversals_per_min: reversals as f64 / track_minutes,
            inversion_s: self.inversion(),
            first_frame_ms: first_frame.map(|s| s * 1e3),
            target_layer_s,
            dropped_percent: dropped as f64 * 100.0 / all.max(1) as f64,
            estimate_share: shares.iter().sum::<f64>() / shares.len().max(1) as f64,
            ..Metrics::default()
        }
    }

    fn series(mut self) -> Series {
        let mut series = Series::default();
        let down = &self.call.subscriber(self.subscriber).down;
        series.tracks.resize(self.screens.len(), TrackSeries::default());
        for (index, look) in self.call.looks.iter().enumerate().take(self.offered.len()) {
            let t = look.at;
            series.t.push((t * 1e3).round() / 1e3);
            series.capacity.push(down.profile.at(t));
            series.free.push(down.free.at(t));
            series.estimate.push(look.estimates[self.subscriber] as f64);
            let window = &self.offered[index.saturating_sub(4)..=index];
            series.sent.push(window.iter().sum::<f64>() / (window.len() as f64 * BIN_S));
            series.queue_ms.push((look.waits[self.subscriber] * 1e4).round() / 10.0);
        }
        for t in series.t.clone() {
            let from = (t - 1.0).max(0.0);
            let span = (t - from).max(BIN_S);
            let (seen, best) = (self.seen(from, span), self.best(from, span));
            series.utility.push(seen);
            series.optimum.push(best);
            for (index, screen) in self.screens.iter().enumerate() {
                let shown = &screen.video.shown;
                let end = shown.partition_point(|s| s.at < t);
                let recent = &shown[shown.partition_point(|s| s.at < from)..end];
                let height = recent
                    .last()
                    .map_or(-1, |s| i64::from(self.tracks[index].format.layers[usize::from(s.spatial)].height));
                series.tracks[index].height.push(height);
                series.tracks[index].fps.push(recent.len() as f64 / span);
            }
        }
        for look in self.call.looks.iter().take(series.t.len()) {
            let ours = self.call.screens.iter().zip(&look.tracks).filter(|(s, _)| s.subscriber == self.subscriber);
            for (index, (_, stats)) in ours.enumerate() {
                series.tracks[index].reasons.push(stats.reason.clone());
            }
        }
        series.freezes = self.freezes().collect();
        series
    }

    /// Worth of what was seen in a window, by the mean over its time.
    fn seen(&self, from: f64, span: f64) -> f64 {
        let mut sum = 0.0;
        for (screen, track) in self.screens.iter().zip(&self.tracks) {
            let shown = &screen.video.shown;
            let range = shown.partition_point(|s| s.at < from)..shown.partition_point(|s| s.at < from + span);
            // A burst of frames that had waited is not seen frame by frame.
            let most = (track.format.fps * span).ceil() as usize + 2;
            let worths = shown[range].iter().take(most).map(|s| track.worth(usize::from(s.spatial)));
            sum += worths.sum::<f64>() / (track.format.fps * span);
        }
        sum
    }

    /// Worth of the best that fits in a window; tracks that are muted then have none.
    fn best(&mut self, from: f64, span: f64) -> f64 {
        let free = &self.call.subscriber(self.subscriber).down.free;
        self.optimum.at(free.bits(from, from + span) / span - self.call.audio_bps())
    }

    fn freezes(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.screens.iter().flat_map(|screen| screen.video.freezes.found.iter().copied())
    }

    fn worst_offered(&self) -> f64 {
        let free = &self.call.subscriber(self.subscriber).down.free;
        let ratios = self.offered.windows(10).enumerate().map(|(index, window)| {
            let from = index as f64 * BIN_S;
            window.iter().sum::<f64>() / free.bits(from, from + 1.0)
        });
        ratios.fold(0.0, f64::max)
    }

    fn concealed(&self) -> f64 {
        let voices = self.call.speakers.iter().filter(|s| s.subscriber == self.subscriber);
        voices.map(|s| s.audio.concealed()).fold(0.0, f64::max)
    }

    /// Time from `t` until a second begins that is offered no more than it carries, with a short queue.
    fn fits_after(&self, t: f64) -> Option<f64> {
        let free = &self.call.subscriber(self.subscriber).down.free;
        let start = (t / BIN_S).round() as usize;
        (start..self.offered.len().saturating_sub(10)).find_map(|bin| {
            let from = bin as f64 * BIN_S;
            let fits = self.offered[bin..bin + 10].iter().sum::<f64>() <= free.bits(from, from + 1.0);
            let mut looks = self.call.looks.iter().filter(|l| (from..from + 1.0).contains(&l.at));
            (fits && looks.all(|l| l.waits[self.subscriber] < 0.05)).then_some(from - t)
        })
    }

    /// Time from `t` until a second begins in which 90 % of the optimum is seen.
    fn reaches_after(&mut self, t: f64) -> Option<f64> {
        let mut from = t;
        while from + 1.0 <= self.call.seconds {
            if self.seen(from, 1.0) >= 0.9 * self.best(from, 1.0) {
                return Some(from - t);
            }
            from += BIN_S;
        }
        None
    }

    fn switches(&self) -> (usize, usize) {
        let (mut switches, mut reversals) = (0, 0);
        for screen in &self.screens {
            let seen = screen.video.shown.iter().map(|s| (s.at, i32::from(s.spatial)));
            let paused = screen.states.iter().filter(|(_, active, _)| !active).map(|(at, ..)| (*at, -1));
            let mut levels: Vec<(f64, i32)> = seen.chain(paused).collect();
            levels.sort_by(|a, b| a.0.total_cmp(&b.0));
            let mut climbed: Option<f64> = None;
            for pair in levels.windows(2) {
                let ((_, from), (at, to)) = (pair[0], pair[1]);
                switches += usize::from(from != to);
                if to > from {
                    climbed = Some(at);
                } else if to < from && climbed.take().is_some_and(|climbed| at - climbed < REVERSAL_S) {
                    reversals += 1;
                }
            }
        }
        (switches, reversals)
    }

    /// From two seconds on: until then somebody has to be first.
    fn inversion(&self) -> f64 {
        let weight = |screen: &Screen| match self.call.cameras[screen.camera].encoder.format.content {
            Content::Screen => 1,
            Content::Camera => 0,
        };
        let inverted = |look: &&crate::call::Look| {
            let ours = || self.call.screens.iter().zip(&look.tracks).filter(|(s, _)| s.subscriber == self.subscriber);
            ours().filter(|(_, stats)| stats.current_spatial.is_none()).any(|(starved, _)| {
                let lower = ours().filter(|(s, _)| weight(s) < weight(starved));
                let taken: u64 = lower.map(|(_, stats)| stats.target_bps).sum();
                let least = self.call.cameras[starved.camera].encoder.format.wire_bps(0, 0);
                taken as f64 >= least
            })
        };
        self.call.looks.iter().filter(|l| l.at >= 2.0).filter(inverted).count() as f64 * BIN_S
    }
}

/// Share of the published bits of layers that nobody was being sent, after five seconds.
fn wasted(call: &Call) -> f64 {
    let (mut all, mut wasted) = (0, 0);
    for pair in call.looks.windows(2).filter(|pair| pair[0].at >= 5.0) {
        for (index, camera) in call.cameras.iter().enumerate() {
            let used: Vec<u8> = call
                .screens
                .iter()
                .zip(&pair[1].tracks)
                .filter(|(screen, _)| screen.camera == index)
                .filter_map(|(_, stats)| stats.current_spatial.map(|s| s.0))
                .collect();
            let is_used = |layer: usize| match camera.encoder.format.is_svc {
                true => used.iter().any(|used| layer <= usize::from(*used)),
                false => used.contains(&(layer as u8)),
            };
            for layer in 0..camera.encoder.layers.len() {
                let bytes = pair[1].made[index][layer] - pair[0].made[index][layer];
                all += bytes;
                wasted += if is_used(layer) { 0 } else { bytes };
            }
        }
    }
    wasted as f64 * 100.0 / all.max(1) as f64
}
