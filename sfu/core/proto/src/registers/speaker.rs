//! Who speaks: audio levels of a room's uptracks, smoothed, and told when they change.
//!
//! A level counts by how much of an interval it was heard in; one loud packet makes no speaker.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::event::Speaker;
use crate::ids::UptrackId;

const INTERVAL: Duration = Duration::from_millis(400);
/// −dBov: louder than this counts as speech.
const THRESHOLD_DBOV: u8 = 45;
/// Share of an interval's packets that must be loud.
const MIN_LOUD_PERCENT: u32 = 30;

#[derive(Default)]
struct Voice {
    packets: u32,
    loud: u32,
    /// Least attenuation heard in the interval.
    peak_dbov: u8,
    smoothed: f32,
    told: f32,
}

#[derive(Default)]
pub struct Speakers {
    voices: BTreeMap<UptrackId, Voice>,
    next: Option<Instant>,
}

impl Speakers {
    pub fn observe(&mut self, now: Instant, uptrack: UptrackId, level_dbov: u8) {
        self.next.get_or_insert(now + INTERVAL);
        let voice = self.voices.entry(uptrack).or_default();
        if voice.packets == 0 || level_dbov < voice.peak_dbov {
            voice.peak_dbov = level_dbov;
        }
        voice.packets += 1;
        voice.loud += u32::from(level_dbov <= THRESHOLD_DBOV);
    }

    pub fn forget(&mut self, uptrack: UptrackId) -> Option<Speaker> {
        let voice = self.voices.remove(&uptrack)?;
        (voice.told > 0.0).then_some(Speaker { uptrack, level: 0.0, active: false })
    }

    pub fn is_speaking(&self, uptrack: UptrackId) -> bool {
        self.voices.get(&uptrack).is_some_and(|voice| voice.told > 0.0)
    }

    /// What changed since the last interval; empty in between.
    pub fn poll(&mut self, now: Instant) -> Vec<Speaker> {
        if self.next.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.next = Some(now + INTERVAL);
        let mut changes = Vec::new();
        for (&uptrack, voice) in &mut self.voices {
            let is_loud = voice.packets > 0 && voice.loud * 100 >= voice.packets * MIN_LOUD_PERCENT;
            let heard = if is_loud { 1.0 - f32::from(voice.peak_dbov.min(127)) / 127.0 } else { 0.0 };
            voice.smoothed += (heard - voice.smoothed) * 0.5;
            (voice.packets, voice.loud) = (0, 0);
            // Steps of an eighth, so that a steady voice is told once.
            let level = if voice.smoothed < 0.1 { 0.0 } else { (voice.smoothed * 8.0).ceil() / 8.0 };
            if level != voice.told {
                voice.told = level;
                changes.push(Speaker { uptrack, level, active: level > 0.0 });
            }
        }
        changes
    }
}
