//! A voice at the receiver, after NetEq: a buffer set by the lateness of what came, stretched and squeezed towards it, and
//! what had to be concealed.

use std::collections::BTreeSet;

use super::{Lateness, Unwrap};
use crate::publisher::Voice;

/// The buffer is made so long that this share of packets is in time, as seen over the last seconds.
const IN_TIME: f64 = 0.97;
const WINDOW_S: f64 = 5.0;
const LEAST_S: f64 = 0.02;
const MOST_S: f64 = 0.5;
/// Time-stretching changes the length of what is played by so much.
const STRETCH: f64 = 0.15;

#[derive(Default)]
pub struct AudioReceiver {
    unwrap: Unwrap,
    lateness: Lateness,
    /// Frames that came and were not played yet.
    waiting: BTreeSet<i64>,
    /// The frame to be played next, and when; `None` before the first one came.
    next: Option<(i64, f64)>,
    /// Seconds gained (above 0) or spent by stretching that do not make a frame yet.
    stretched: f64,
    frames: u64,
    concealed: u64,
}

impl AudioReceiver {
    /// A packet came at `at` seconds.
    pub fn packet(&mut self, at: f64, timestamp: u32) {
        self.play_until(at);
        let frame = self.unwrap.next(timestamp) / 960;
        self.lateness.note(at, frame as f64 * Voice::FRAME.as_secs_f64(), WINDOW_S);
        let (next, _) = *self.next.get_or_insert((frame, at + LEAST_S));
        if frame >= next {
            self.waiting.insert(frame);
        }
    }

    /// Plays what is due before `now`.
    pub fn play_until(&mut self, now: f64) {
        let length = Voice::FRAME.as_secs_f64();
        while let Some((mut frame, at)) = self.next.filter(|(_, at)| *at < now) {
            self.frames += 1;
            if self.waiting.remove(&frame) {
                frame += 1;
                frame += self.stretch(frame, length);
            } else {
                self.concealed += 1;
                // Later ones came: it is lost. Otherwise all are late, and so is what is heard from now on.
                frame += i64::from(!self.waiting.is_empty());
            }
            self.waiting = self.waiting.split_off(&frame);
            self.next = Some((frame, at + length));
        }
    }

    /// Towards the length that the buffer should have: frames to skip (1) or to repeat (-1).
    fn stretch(&mut self, next: i64, length: f64) -> i64 {
        let wished = self.lateness.quantile(IN_TIME).clamp(LEAST_S, MOST_S) + length;
        let waiting = self.waiting.last().map_or(0, |last| last + 1 - next) as f64 * length;
        if waiting > wished * 1.25 + length {
            self.stretched += STRETCH * length;
        } else if waiting < wished * 0.75 {
            self.stretched -= STRETCH * length;
        }
        if self.stretched >= length && self.waiting.remove(&next) {
            self.stretched -= length;
            return 1;
        }
        if self.stretched <= -length && self.waiting.insert(next - 1) {
            self.stretched += length;
            return -1;
        }
        0
    }

    /// Share of what was heard that was made up.
    pub fn concealed(&self) -> f64 {
        self.concealed as f64 / self.frames.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(fate: impl Fn(u32) -> Option<f64>) -> f64 {
        let frame = |i: u32| Some((f64::from(i) * 0.02 + fate(i)?, (u32::MAX - 5_000).wrapping_add(960 * i)));
        let mut packets: Vec<(f64, u32)> = (0..3_000).filter_map(frame).collect();
        packets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut audio = AudioReceiver::default();
        packets.iter().for_each(|(at, timestamp)| audio.packet(*at, *timestamp));
        audio.concealed()
    }

    #[test]
    fn what_is_lost_is_concealed_and_jitter_is_not() {
        assert_eq!(play(|_| Some(0.0)), 0.0);
        let lost = play(|i| (i % 50 != 49).then_some(0.0));
        assert!((lost - 0.02).abs() < 0.003, "{lost}");
        let jitter = play(|i| Some(f64::from(i * 7 % 10) * 0.005));
        assert!(jitter < 0.003, "{jitter}");
    }

    #[test]
    fn a_gap_is_concealed_once_and_its_packets_are_played_after_it() {
        let gap = play(|i| Some(if (1_000..1_015).contains(&i) { 0.3 - f64::from(i - 1_000) * 0.02 } else { 0.0 }));
        let seconds = gap * 60.0;
        assert!((0.15..0.35).contains(&seconds), "{seconds}");
    }
}
