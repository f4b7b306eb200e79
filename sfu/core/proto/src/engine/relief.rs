//! What the engine gives up at each level of overload (`overload`), and takes back.

use std::cmp::Reverse;
use std::time::Instant;

use super::Engine;
use super::allot::{Situation, Track};
use super::up::{Uptrack, most_history};
use crate::command::{Content, LayerMode};
use crate::event::Event;
use crate::ids::Spatial;
use crate::overload::{Level, Reading};
use crate::trace::Cause;

/// Why a video is paused, in figures and towards signaling.
pub(super) const OVERLOAD: &str = "overload";

/// From this level of memory pressure on, packets are kept only as long as pacers need them: a large key frame comes at once
/// and waits on narrow links.
const NO_CACHES: u8 = 2;
const LEAST_HISTORY: usize = 128;

impl Engine {
    /// The packet thread was so loaded in the interval that ends now.
    pub fn loaded(&mut self, now: Instant, reading: Reading) {
        let before = self.overload.level();
        self.counters.overload_us[before as usize] += reading.elapsed.as_micros() as u64;
        let Some(level) = self.overload.note(now, reading) else { return };
        self.counters.overload_level = level as u64;
        self.tell_overload();
        let acts = |level: Level| level.clamp(Level::Probes, Level::ManyVideos);
        if acts(level) != acts(before) {
            self.guarded(now, |engine| engine.choose_for_all(now));
        }
    }

    pub(super) fn tell_overload(&mut self) {
        self.emit(Event::Overload { level: self.overload.level() as u8, memory: self.memory_pressure });
    }

    /// Memory is as scarce from now on. Without its caches a worker goes on; what is lost is not sent again for so long.
    pub(super) fn set_memory_pressure(&mut self, level: u8) {
        self.memory_pressure = level;
        let uptracks: Vec<usize> = self.uptracks.iter().map(|(slot, _)| slot).collect();
        for slot in uptracks {
            self.limit_history(slot);
        }
        self.tell_overload();
    }

    /// Keeps no more of an uptrack's packets than there is memory for.
    pub(super) fn limit_history(&mut self, slot: usize) {
        let is_scarce = self.memory_pressure >= NO_CACHES;
        let Some(uptrack) = self.uptracks.get_mut(slot) else { return };
        let packets = most_history(uptrack.kind, &self.config);
        let packets = if is_scarce { packets.min(LEAST_HISTORY) } else { packets };
        uptrack.encodings.iter_mut().for_each(|encoding| encoding.history.limit(packets));
    }

    /// What may be sent is found anew, once for each subscriber.
    fn choose_for_all(&mut self, now: Instant) {
        let downtracks: Vec<usize> = self.downtracks.iter().map(|(slot, _)| slot).collect();
        for slot in downtracks {
            self.bound(slot);
        }
        for slot in self.occupied() {
            self.acting = Some(slot);
            self.allot(now, slot, Cause::Load);
        }
        self.acting = None;
        let uptracks: Vec<usize> = self.uptracks.iter().map(|(slot, _)| slot).collect();
        for slot in uptracks {
            self.update_demand(now, slot);
        }
    }

    pub(super) fn gives_up(&self, level: Level) -> bool {
        self.overload.level() >= level
    }

    /// The highest layer that anybody gets of an uptrack. Screens are kept: their small layers cannot be read.
    pub(super) fn most_of(&self, uptrack: &Uptrack) -> Spatial {
        let top = uptrack.top_spatial();
        let has_less = uptrack.mode != LayerMode::Single && uptrack.content == Content::Camera;
        if has_less && self.gives_up(Level::TopLayers) { Spatial(top.0.saturating_sub(1)) } else { top }
    }

    /// Takes those of one subscriber's videos out of the situation that are too many, and gives their slots.
    pub(super) fn leave_out(&self, slots: &mut Vec<usize>, situation: &mut Situation) -> Vec<usize> {
        let videos = self.config.overload.videos;
        if !self.gives_up(Level::ManyVideos) || slots.len() <= videos {
            return Vec::new();
        }
        let mut both: Vec<(usize, Track)> = slots.drain(..).zip(situation.tracks.drain(..)).collect();
        // Stable: among equals the first to be subscribed to.
        both.sort_by_key(|(_, track)| Reverse(worth(track)));
        let (left_out, ids) = both.drain(videos..).map(|(slot, track)| (slot, track.downtrack)).unzip();
        situation.left_out = ids;
        (*slots, situation.tracks) = both.into_iter().unzip();
        left_out
    }
}

/// Screens first, then by what the subscriber says, who speaks, and the size of the tile; what is seen already stays.
fn worth(track: &Track) -> (bool, u32, bool, u64, bool) {
    let tile = u64::from(track.want.width) * u64::from(track.want.height);
    let is_seen = track.paused.is_none() && track.current.is_some();
    (track.content == Content::Screen, track.want.priority, track.is_speaking, tile, is_seen)
}
