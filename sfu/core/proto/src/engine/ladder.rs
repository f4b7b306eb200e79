//! What one uptrack could be sent as: its layers by size and frame rate, each with its measured bitrate.
//!
//! Look-ups and arithmetic; what a rung is worth and who gets it is decided elsewhere.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::up::Uptrack;
use crate::command::LayerMode;
use crate::downtrack::Layer;
use crate::ids::{Spatial, Temporal};
use crate::registers::layers::Rate;

/// More temporal layers than any encoder here makes.
pub(super) const TOP_TEMPORAL: Temporal = Temporal(3);
/// The size of the smallest layer where the publisher said nothing; each further one is twice as large each way.
const DEFAULT_PIXELS: u32 = 320 * 180;
/// Before anything is measured or said: bits of a pixel and frame, as an ordinary camera needs them.
const BITS_A_PIXEL: f64 = 0.08;
const DEFAULT_FPS: f32 = 30.0;

/// One way to be sent a track.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rung {
    pub layer: Layer,
    pub bps: u64,
    /// Over seconds: what it will cost whoever climbs to it.
    pub mean_bps: u64,
    pub pixels: u32,
    pub fps: f32,
}

/// All rungs up to spatial layer `max`, smaller and slower ones first; never empty. `max_fps`: 0 = any.
///
/// Where none of those flows but a larger encoding does, its rungs: a picture that is too large is better than none.
pub(super) fn ladder(now: Instant, uptrack: &Uptrack, max: Spatial, max_fps: u32) -> Vec<Rung> {
    let mut rungs = Vec::with_capacity(9);
    let spatials = if uptrack.mode == LayerMode::Single { 0..=0 } else { 0..=max.0 };
    // In SVC what lies below is part of what is sent.
    let mut below: Vec<Rate> = Vec::new();
    // Where nothing flows: what flowed last, and what was announced of the rest.
    let is_silent = !spatials.clone().any(|spatial| uptrack.layers.is_live(now, usize::from(spatial)));
    if is_silent && let Some((spatial, rates)) = lowest_above(now, uptrack, max) {
        climb(&mut rungs, spatial, pixels(uptrack, spatial), &rates, max_fps);
        if !rungs.is_empty() {
            return rungs;
        }
    }
    for spatial in spatials.clone().map(Spatial) {
        let index = usize::from(spatial.0);
        if !is_silent && !uptrack.layers.is_live(now, index) {
            continue;
        }
        let pixels = pixels(uptrack, spatial);
        let Some(mut rates) = uptrack.layers.temporal_rates(now, index) else {
            rungs.push(unmeasured(uptrack, spatial, pixels));
            continue;
        };
        if uptrack.mode == LayerMode::Svc {
            for (rate, lower) in rates.iter_mut().zip(&below) {
                rate.bps += lower.bps;
                rate.mean_bps += lower.mean_bps;
            }
            below.clone_from(&rates);
        }
        climb(&mut rungs, spatial, pixels, &rates, max_fps);
    }
    if rungs.is_empty() {
        // All of it is above the wished frame rate.
        rungs.extend(spatials.map(Spatial).map(|s| unmeasured(uptrack, s, pixels(uptrack, s))));
    }
    rungs
}

/// The smallest encoding above `max` that has flowed for a while: at the beginning the smaller ones may be about to
/// come.
fn lowest_above(now: Instant, uptrack: &Uptrack, max: Spatial) -> Option<(Spatial, Vec<Rate>)> {
    if uptrack.mode != LayerMode::Simulcast {
        return None;
    }
    let mut above = uptrack.layers.live(now).into_iter().filter(|spatial| *spatial > max);
    above.find_map(|spatial| Some((spatial, uptrack.layers.temporal_rates(now, usize::from(spatial.0))?)))
}

/// The rungs of one spatial layer, temporal layers added one by one.
fn climb(rungs: &mut Vec<Rung>, spatial: Spatial, pixels: u32, rates: &[Rate], max_fps: u32) {
    let (mut bps, mut mean_bps, mut fps) = (0, 0, 0.0);
    for (temporal, rate) in rates.iter().enumerate() {
        bps += rate.bps;
        mean_bps += rate.mean_bps;
        fps += rate.fps;
        // A fifth more than was asked for is not worth a lower rate.
        if temporal > 0 && max_fps > 0 && fps > max_fps as f32 * 1.2 {
            return;
        }
        if rate.bps == 0 && temporal + 1 < rates.len() {
            continue;
        }
        let temporal = if temporal + 1 == rates.len() { TOP_TEMPORAL } else { Temporal(temporal as u8) };
        rungs.push(Rung { layer: Layer { spatial, temporal }, bps: bps.max(1), mean_bps, pixels, fps });
    }
}

fn unmeasured(uptrack: &Uptrack, spatial: Spatial, pixels: u32) -> Rung {
    let said = uptrack.declared.iter().find(|l| l.spatial == spatial).map_or(0, |l| u64::from(l.bitrate_bps));
    let guess = (f64::from(pixels) * f64::from(DEFAULT_FPS) * BITS_A_PIXEL) as u64;
    let bps = if said > 0 { said } else { guess };
    Rung { layer: Layer { spatial, temporal: TOP_TEMPORAL }, bps, mean_bps: bps, pixels, fps: DEFAULT_FPS }
}

fn pixels(uptrack: &Uptrack, spatial: Spatial) -> u32 {
    let size = |l: &crate::command::LayerSpec| l.width.saturating_mul(l.height);
    let said = if uptrack.mode == LayerMode::Single {
        uptrack.declared.iter().map(size).max()
    } else {
        uptrack.declared.iter().find(|l| l.spatial == spatial).map(size)
    };
    said.filter(|pixels| *pixels > 0).unwrap_or(DEFAULT_PIXELS << (2 * spatial.0.min(6)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporal_layers_are_added_one_by_one_up_to_the_wished_rate() {
        let rates = [(100, 7.5), (50, 7.5), (80, 15.0)].map(|(bps, fps)| Rate { bps, mean_bps: bps, fps });
        let told = |max_fps| {
            let mut rungs = Vec::new();
            climb(&mut rungs, Spatial(1), 1, &rates, max_fps);
            rungs.iter().map(|r| (r.layer.temporal.0, r.bps, r.fps)).collect::<Vec<_>>()
        };
        assert_eq!(told(0), [(0, 100, 7.5), (1, 150, 15.0), (3, 230, 30.0)]);
        assert_eq!(told(15), [(0, 100, 7.5), (1, 150, 15.0)]);
        assert_eq!(told(1), [(0, 100, 7.5)], "never nothing");
    }
}
