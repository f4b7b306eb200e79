//! Which layers of a track flow, and how fast: bitrate and frame rate by spatial and temporal layer, measured.
//!
//! A key frame counts as an ordinary frame of its layer: it is spread by the pacer, and an allocation that followed each of
//! them would flap. What has fallen silent is remembered; frames that come one by one are measured by the time between.

use std::time::{Duration, Instant};

use crate::codec::PacketMeta;
use crate::downlink::WIRE_OVERHEAD_BYTES;
use crate::ids::{Spatial, Temporal};

const SPATIALS: usize = 8;
const TEMPORALS: usize = 4;
/// Authentication tag and the difference of headers; with the IP headers what a copy costs on the link.
const COPY_OVERHEAD_BYTES: usize = WIRE_OVERHEAD_BYTES + 16;
/// One measurement; the first one is shorter, so that a new layer is known soon.
const WINDOW: Duration = Duration::from_millis(500);
const FIRST_WINDOW: Duration = Duration::from_millis(250);
/// Weight of a new measurement; frames are few in a window, so that their number says less.
const NEWS: f64 = 0.4;
const NEWS_OF_FRAMES: f64 = 0.2;
/// The same of the mean over some five seconds, which has seen a key frame as well as what was saved to pay for it.
const NEWS_OF_MEAN: f64 = 0.1;

#[derive(Debug)]
pub struct Layers {
    timeout: Duration,
    may_stand: bool,
    flows: [Flow; SPATIALS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    last: Option<Instant>,
    since: Option<Instant>,
    /// Measurements since it last began to flow.
    measured: u32,
    /// There was one at all; it counts until the next.
    is_known: bool,
    in_keyframe: bool,
    rungs: [Rung; TEMPORALS],
}

/// One temporal layer of one spatial layer, by itself.
#[derive(Clone, Copy, Debug, Default)]
struct Rung {
    bytes: u64,
    frames: u32,
    key_bytes: u64,
    key_frames: u32,
    bps: f64,
    mean_bps: f64,
    fps: f64,
}

/// What one layer flows at, by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Now, a key frame counted as an ordinary one.
    pub bps: u64,
    /// Over seconds, key frames included.
    pub mean_bps: u64,
    pub fps: f32,
}

impl Layers {
    /// `may_stand`: nothing is sent while nothing changes, as of a screen. What it took counts for less by and by.
    pub fn new(timeout: Duration, may_stand: bool) -> Self {
        Self { timeout, may_stand, flows: [Flow::default(); SPATIALS] }
    }

    /// `bytes` of RTP; `meta` says which temporal layer and whether a frame begins. True once a spatial layer that
    /// began to flow is measured.
    #[inline]
    pub fn on_packet(
        &mut self,
        now: Instant,
        layer: (usize, Temporal),
        meta: &PacketMeta,
        is_key: bool,
        bytes: usize,
    ) -> bool {
        let (spatial, temporal) = layer;
        let Self { timeout, may_stand, ref mut flows } = *self;
        let Some(flow) = flows.get_mut(spatial) else { return false };
        let silence = flow.silence(now);
        if silence > Duration::ZERO && silence >= timeout {
            flow.begin_anew(now, if may_stand { share_after(silence, timeout) } else { 1.0 });
        }
        flow.last = Some(now);
        if meta.start_of_frame {
            flow.in_keyframe = is_key;
        }
        let rung = &mut flow.rungs[usize::from(temporal.0).min(TEMPORALS - 1)];
        let bytes = (bytes + COPY_OVERHEAD_BYTES) as u64;
        if flow.in_keyframe {
            rung.key_bytes += bytes;
            rung.key_frames += u32::from(meta.start_of_frame);
        } else {
            rung.bytes += bytes;
            rung.frames += u32::from(meta.start_of_frame);
        }
        let since = *flow.since.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since);
        if elapsed >= if flow.measured > 0 { WINDOW } else { FIRST_WINDOW } {
            flow.fold(elapsed);
            flow.since = Some(now);
            return flow.measured == 1;
        }
        false
    }

    pub fn is_live(&self, now: Instant, spatial: usize) -> bool {
        self.flows.get(spatial).and_then(|f| f.last).is_some_and(|at| now.saturating_duration_since(at) < self.timeout)
    }

    pub fn live(&self, now: Instant) -> Vec<Spatial> {
        (0..SPATIALS as u8).filter(|&i| self.is_live(now, usize::from(i))).map(Spatial).collect()
    }

    /// Lowest first, up to the highest that ever flowed; 0 where nothing flows now.
    pub fn bitrates_bps(&self, now: Instant) -> Vec<u64> {
        let count = self.flows.iter().rposition(|f| f.last.is_some()).map_or(0, |i| i + 1);
        let sum = |i: usize| self.flows[i].rungs.iter().map(|rung| rung.bps).sum::<f64>() as u64;
        (0..count).map(|i| if self.is_live(now, i) { sum(i) } else { 0 }).collect()
    }

    /// The temporal layers of one spatial layer, each by itself, lowest first, up to the highest that flows or
    /// did last; `None` before anything can be told.
    pub fn temporal_rates(&self, now: Instant, spatial: usize) -> Option<Vec<Rate>> {
        let mut flow = *self.flows.get(spatial)?;
        if !flow.is_known {
            // Nothing has come that would close the first window: a picture that stands still.
            let open = now.saturating_duration_since(flow.since?);
            if open < WINDOW {
                return None;
            }
            flow.fold(open);
        } else if self.may_stand {
            flow.fall(share_after(flow.silence(now), self.timeout));
        }
        let count = flow.rungs.iter().rposition(|rung| rung.bps > 0.0).unwrap_or(0) + 1;
        let rate = |rung: &Rung| Rate { bps: rung.bps as u64, mean_bps: rung.mean_bps as u64, fps: rung.fps as f32 };
        Some(flow.rungs[..count].iter().map(rate).collect())
    }
}

/// What remains of a rate after so long a silence.
fn share_after(silence: Duration, timeout: Duration) -> f64 {
    if silence > timeout { timeout.as_secs_f64() / silence.as_secs_f64() } else { 1.0 }
}

impl Flow {
    fn silence(&self, now: Instant) -> Duration {
        self.last.map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }

    /// Something comes after a silence. A frame that came alone is measured by the time until now; of what flowed,
    /// `share` is remembered until it is measured again.
    fn begin_anew(&mut self, now: Instant, share: f64) {
        match self.since.take() {
            Some(since) if self.measured == 0 => self.fold(now.saturating_duration_since(since)),
            _ => self.fall(share),
        }
        for rung in &mut self.rungs {
            (rung.bytes, rung.frames, rung.key_bytes, rung.key_frames) = (0, 0, 0, 0);
        }
        self.measured = 0;
    }

    fn fall(&mut self, share: f64) {
        for rung in &mut self.rungs {
            rung.bps *= share;
            rung.mean_bps *= share;
        }
    }

    fn fold(&mut self, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let is_first = self.measured == 0;
        let weight = |news: f64| if is_first { 1.0 } else { news };
        let news_of_mean = NEWS_OF_MEAN.max(1.0 / f64::from(self.measured + 1));
        for rung in &mut self.rungs {
            let frames = rung.frames + rung.key_frames;
            let bytes = if rung.frames > 0 {
                rung.bytes as f64 * f64::from(frames) / f64::from(rung.frames)
            } else {
                // Nothing to compare a key frame with: the last measurement, or itself.
                let (own, before) = ((rung.key_bytes + rung.bytes) as f64, rung.bps * seconds / 8.0);
                match (is_first, self.is_known) {
                    (true, false) => own,
                    (true, true) => own.min(before),
                    (false, _) => before,
                }
            };
            let (bps, fps) = if frames == 0 && rung.bytes == 0 {
                (0.0, 0.0)
            } else {
                (bytes * 8.0 / seconds, f64::from(frames) / seconds)
            };
            // A new layer begins with a key frame, from which no mean can be told yet.
            let all = if is_first { bps } else { (rung.bytes + rung.key_bytes) as f64 * 8.0 / seconds };
            rung.bps += weight(NEWS) * (bps - rung.bps);
            rung.mean_bps += news_of_mean * (all - rung.mean_bps);
            rung.fps += weight(NEWS_OF_FRAMES) * (fps - rung.fps);
            if rung.bps < 1_000.0 {
                rung.bps = 0.0;
            }
            (rung.bytes, rung.frames, rung.key_bytes, rung.key_frames) = (0, 0, 0, 0);
        }
        self.measured = self.measured.saturating_add(1);
        self.is_known = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(temporal: u8) -> PacketMeta {
        PacketMeta { temporal: Temporal(temporal), ..PacketMeta::sound() }
    }

    /// Half a minute of one layer at 30 frames of 1 000 bytes, a key frame of 5 000 every five seconds; after it the encoder
    /// saves a fifth of 20 frames to pay for it.
    #[test]
    fn the_mean_knows_of_key_frames_and_of_what_was_saved_for_them() {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        let start = Instant::now();
        let mut layers = Layers::new(Duration::from_secs(2), false);
        let (mut lowest, mut highest, mut least_mean) = (u64::MAX, 0, u64::MAX);
        for frame in 0..900u32 {
            let key = frame % 150 == 0;
            let bytes = if key {
                5_000
            } else if frame % 150 <= 20 {
                800
            } else {
                1_000
            };
            let now = start + Duration::from_micros(33_333) * frame;
            layers.on_packet(now, (0, Temporal(0)), &meta(0), key, bytes - COPY_OVERHEAD_BYTES);
            if frame > 450 {
                let rate = layers.temporal_rates(now, 0).unwrap()[0];
                (lowest, least_mean) = (lowest.min(rate.bps), least_mean.min(rate.mean_bps));
                highest = highest.max(rate.mean_bps);
            }
        }
        assert!(lowest < 220_000, "{lowest}: just after a key frame it looks cheaper than it is");
        assert!((225_000..240_000).contains(&least_mean), "{least_mean}");
        assert!(highest < 260_000, "{highest}");
    }

    #[test]
    fn bitrate_and_frame_rate_are_told_by_temporal_layer_and_key_frames_do_not_count_double() {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        let start = Instant::now();
        let mut layers = Layers::new(Duration::from_secs(2), false);
        for frame in 0..120u32 {
            let temporal = [0, 2, 1, 2][frame as usize % 4];
            let key = frame % 60 == 0;
            let bytes = if key { 50_000 } else { 1_000 - COPY_OVERHEAD_BYTES };
            let now = start + Duration::from_micros(33_333) * frame;
            layers.on_packet(now, (1, Temporal(temporal)), &meta(temporal), key, bytes);
        }
        let rates = layers.temporal_rates(start + Duration::from_secs(4), 1).unwrap();
        let expected = [(60_000, 7.5), (60_000, 7.5), (120_000, 15.0)];
        for (rate, (bps, fps)) in rates.iter().zip(expected) {
            assert!((rate.bps as f64 / f64::from(bps) - 1.0).abs() < 0.15, "{rates:?}");
            assert!((rate.fps - fps).abs() < 2.0, "{rates:?}");
        }
        assert_eq!(layers.temporal_rates(start + Duration::from_secs(4), 0), None);
        assert!(layers.bitrates_bps(start + Duration::from_secs(4))[1] > 200_000);
        assert_eq!(layers.live(start + Duration::from_secs(4)), [Spatial(1)]);
        assert!(layers.live(start + Duration::from_secs(7)).is_empty());
    }
    /// 12 500 bytes every four seconds, as a slide now and then: 25 kbit/s.
    #[test]
    fn frames_that_come_one_by_one_are_measured_by_how_far_they_are_apart() {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        for (may_stand, after_15_s) in [(false, 25_000), (true, 2_500)] {
            let mut layers = Layers::new(Duration::from_millis(1_500), may_stand);
            let bps = |layers: &Layers, ms| layers.temporal_rates(at(ms), 0).map(|rates| rates[0].bps);
            let show = |layers: &mut Layers, ms: u64| {
                // The first is a key frame, and so is the fourth.
                let (is_key, bytes) = (ms.is_multiple_of(12_000), if ms == 12_000 { 250_000 } else { 12_500 });
                layers.on_packet(at(ms), (0, Temporal(0)), &meta(0), is_key, bytes - COPY_OVERHEAD_BYTES);
            };
            show(&mut layers, 0);
            assert_eq!([0, 400, 1_000, 2_000].map(|ms| bps(&layers, ms)), [None, None, Some(100_000), Some(50_000)]);
            for slide in 1..5 {
                show(&mut layers, 4_000 * slide);
                assert_eq!(bps(&layers, 4_000 * slide + 1_000), Some(25_000), "slide {slide}");
            }
            assert_eq!(bps(&layers, 16_000 + 15_000), Some(after_15_s));
            show(&mut layers, 16_000 + 400_000);
            assert_eq!(bps(&layers, 16_000 + 400_000), Some(0), "next to nothing, and not unknown");
        }
    }

    #[test]
    fn what_flowed_is_remembered_until_it_is_measured_again() {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        let start = Instant::now();
        for (may_stand, after_6_s) in [(false, 100_000), (true, 25_000)] {
            let mut layers = Layers::new(Duration::from_millis(1_500), may_stand);
            let bps = |layers: &Layers, now| layers.temporal_rates(now, 0).map(|rates| rates[0].bps);
            // 100 kbit/s at five frames a second.
            let mut now = start;
            for frame in 0..20u32 {
                now = start + Duration::from_millis(200) * frame;
                layers.on_packet(now, (0, Temporal(0)), &meta(0), false, 2_500 - COPY_OVERHEAD_BYTES);
            }
            let near = |bps: Option<u64>, expected: u64| {
                let bps = bps.unwrap();
                assert!(bps.abs_diff(expected) < expected / 2, "{bps} instead of {expected}");
                bps
            };
            near(bps(&layers, now), 100_000);
            now += Duration::from_secs(6);
            let silent = near(bps(&layers, now), after_6_s);
            layers.on_packet(now, (0, Temporal(0)), &meta(0), false, 25_000 - COPY_OVERHEAD_BYTES);
            assert_eq!(bps(&layers, now), Some(silent), "one frame says nothing yet");
            for _ in 0..2 {
                now += Duration::from_millis(200);
                layers.on_packet(now, (0, Temporal(0)), &meta(0), false, 25_000 - COPY_OVERHEAD_BYTES);
            }
            assert!(bps(&layers, now).unwrap() >= 1_000_000, "what was before counts no more");
        }
    }
}
