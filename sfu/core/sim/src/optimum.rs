//! The best set of layers that fits a known capacity: what a call's utility is held against. Exact dynamic programming.
//!
//! It knows the link and pays for no switch: no real server can reach it at every moment.

use std::collections::HashMap;

use crate::format::Format;

/// Resolution of the capacity, bits a second.
const GRAIN: f64 = 5_000.0;

/// One track as a subscriber looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Track {
    pub format: Format,
    /// The smallest layer that fills its tile: more is worth no more.
    pub needed: usize,
}

impl Track {
    pub fn worth(&self, spatial: usize) -> f64 {
        self.format.worth(spatial.min(self.needed))
    }

    /// Bits and worth of every layer that makes sense, nothing included.
    fn options(&self) -> Vec<(f64, f64)> {
        let mut options = vec![(0.0, 0.0)];
        for spatial in 0..=self.needed {
            for temporal in 0..self.format.temporal.rates.len() {
                let share = self.format.fps_of(temporal) / self.format.fps;
                options.push((self.format.wire_bps(spatial, temporal), self.worth(spatial) * share));
            }
        }
        options
    }
}

/// Optima of one subscriber, remembered by capacity.
pub struct Optimum {
    options: Vec<Vec<(f64, f64)>>,
    known: HashMap<usize, f64>,
    most: usize,
}

impl Optimum {
    pub fn new(tracks: &[Track]) -> Self {
        let options: Vec<_> = tracks.iter().map(Track::options).collect();
        let top = |options: &Vec<(f64, f64)>| options.iter().map(|(bits, _)| (bits / GRAIN).ceil()).fold(0.0, f64::max);
        let most = options.iter().map(top).sum::<f64>() as usize;
        Self { options, known: HashMap::new(), most }
    }

    /// The largest sum of worths that `bps` carries.
    pub fn at(&mut self, bps: f64) -> f64 {
        let budget = ((bps.max(0.0) / GRAIN) as usize).min(self.most);
        let options = &self.options;
        *self.known.entry(budget).or_insert_with(|| best(options, budget))
    }
}

fn best(options: &[Vec<(f64, f64)>], budget: usize) -> f64 {
    let mut values = vec![0.0f64; budget + 1];
    for track in options {
        // From the largest budget down, so that a track counts once.
        for room in (0..=budget).rev() {
            let fits = track.iter().map(|(bits, worth)| ((bits / GRAIN).ceil() as usize, worth));
            let worths = fits.filter(|(bits, _)| *bits <= room).map(|(bits, worth)| values[room - bits] + worth);
            values[room] = worths.fold(0.0, f64::max);
        }
    }
    values[budget]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format;
    use crate::scenario::Video;

    fn camera(needed: usize) -> Track {
        Track { format: format::of(Video::Camera), needed }
    }

    #[test]
    fn the_optimum_of_one_camera_is_what_one_sees_in_its_ladder() {
        let mut optimum = Optimum::new(&[camera(2)]);
        // Nothing; 180p at 30; 360p at 30; 720p at 15 loses to 360p at 30; 720p at 30.
        let table = [(50_000.0, 0.0), (200_000.0, 2.0), (900_000.0, 4.0), (1_300_000.0, 4.0), (2_000_000.0, 6.0)];
        for (bps, worth) in table {
            assert_eq!(optimum.at(bps), worth, "at {bps}");
        }
    }

    #[test]
    fn several_tracks_share_and_no_brute_force_finds_more() {
        let tracks = [camera(2), camera(1), Track { format: format::of(Video::Screen), needed: 0 }];
        let mut optimum = Optimum::new(&tracks);
        let options: Vec<_> = tracks.iter().map(Track::options).collect();
        for bps in (0..40).map(|i| f64::from(i) * 100_000.0) {
            let mut brute = 0.0f64;
            for a in &options[0] {
                for b in &options[1] {
                    for c in &options[2] {
                        let bits = [a, b, c].map(|o| (o.0 / GRAIN).ceil()).iter().sum::<f64>();
                        if bits * GRAIN <= bps {
                            brute = brute.max(a.1 + b.1 + c.1);
                        }
                    }
                }
            }
            assert!((optimum.at(bps) - brute).abs() < 1e-9, "at {bps}");
        }
    }
}
