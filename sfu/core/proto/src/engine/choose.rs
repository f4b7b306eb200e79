//! From a subscriber's wish to the highest layer that he may get, and from all wishes to what the publisher must send.
//!
//! The wish is an upper bound; what the link carries of it is the business of `allot`.

use std::time::Instant;

use super::Engine;
use super::ladder::TOP_TEMPORAL;
use crate::command::{LayerSpec, MediaKind, Want};
use crate::downtrack::Layer;
use crate::event::Event;
use crate::ids::{Spatial, UptrackId};
use crate::trace::Cause;

impl Engine {
    /// A wish or a mute has changed: what may be sent is found anew.
    pub(super) fn retarget(&mut self, now: Instant, slot: usize) {
        self.choose(now, slot);
        if let Some(downtrack) = self.downtracks.get(slot) {
            self.update_demand(now, downtrack.uptrack);
        }
    }

    /// What flows of an uptrack has changed: the same for everybody who watches it.
    pub(super) fn retarget_all(&mut self, now: Instant, uptrack: usize) {
        let downtracks = self.uptracks.get(uptrack).map(|uptrack| uptrack.downtracks.clone()).unwrap_or_default();
        for downtrack in downtracks {
            self.choose(now, downtrack);
        }
        self.update_demand(now, uptrack);
    }

    fn choose(&mut self, now: Instant, slot: usize) {
        let Some(downtrack) = self.downtracks.get_mut(slot) else { return };
        let transport = downtrack.transport;
        let Some(uptrack) = self.uptracks.get(downtrack.uptrack) else { return };
        let is_on = !downtrack.want.disabled && !uptrack.muted;
        if !is_on {
            downtrack.reason = if uptrack.muted { "muted" } else { "disabled" };
            downtrack.selector.set_target(None);
            downtrack.paused = None;
            self.forget_waiting(slot);
        } else if downtrack.kind == MediaKind::Audio {
            downtrack.selector.set_target(Some(Layer { spatial: Spatial(0), temporal: TOP_TEMPORAL }));
            self.favour(slot);
        }
        self.bound(slot);
        if self.downtracks[slot].kind == MediaKind::Video {
            self.learning_until = Some(now + super::LEARNING);
            match &mut self.wishers {
                Some(wishers) => {
                    wishers.insert(transport);
                }
                None => self.grant(now, transport),
            }
        }
    }

    /// What a subscriber wishes for has changed.
    pub(super) fn grant(&mut self, now: Instant, slot: usize) {
        self.allot(now, slot, Cause::Wish);
        self.probe(now, slot);
    }

    /// The highest layer that a downtrack may be sent: as wished, and as far as the worker keeps up.
    pub(super) fn bound(&mut self, slot: usize) {
        let Some(downtrack) = self.downtracks.get(slot) else { return };
        let Some(uptrack) = self.uptracks.get(downtrack.uptrack) else { return };
        let wished = allowed(&uptrack.declared, &downtrack.want, uptrack.top_spatial());
        let wished = (!downtrack.want.disabled).then_some(wished);
        let max = wished.min(Some(self.most_of(uptrack)));
        if let Some(downtrack) = self.downtracks.get_mut(slot) {
            (downtrack.wished_spatial, downtrack.max_spatial) = (wished, max);
        }
    }

    /// Tells the publisher's side what is needed, once that has changed for long enough.
    pub(super) fn update_demand(&mut self, now: Instant, slot: usize) {
        let dwell = self.config.demand_dwell;
        let Some(uptrack) = self.uptracks.get_mut(slot) else { return };
        if uptrack.kind != MediaKind::Video {
            return;
        }
        let wanted = uptrack.downtracks.iter().filter_map(|&d| self.downtracks.get(d)?.max_spatial).max();
        if let Some(max_spatial) = uptrack.demand.update(now, wanted, dwell) {
            let id = uptrack.id;
            self.emit(Event::UptrackDemand { uptrack: id, max_spatial });
        }
    }

    pub(super) fn update_uptrack(&mut self, now: Instant, slot: usize, muted: bool, layers: Option<Vec<LayerSpec>>) {
        let uptrack = &mut self.uptracks[slot];
        uptrack.muted = muted;
        if muted {
            self.leave_loudest(slot);
        }
        let uptrack = &mut self.uptracks[slot];
        if let Some(layers) = layers {
            uptrack.declared = layers;
        }
        for downtrack in self.uptracks[slot].downtracks.clone() {
            self.retarget(now, downtrack);
        }
    }

    pub(super) fn forget_speaker(&mut self, room: crate::ids::RoomId, uptrack: UptrackId) {
        let ended = self.rooms.get_mut(&room).and_then(|r| r.speakers.forget(uptrack));
        if let Some(speaker) = ended {
            self.emit(Event::Speakers { room, speakers: vec![speaker] });
        }
    }
}

/// The highest layer that a wish asks for: the smallest that covers the size, else by quality, else the top.
fn allowed(declared: &[LayerSpec], want: &Want, top: Spatial) -> Spatial {
    let has_sizes = declared.iter().any(|l| l.width > 0 && l.height > 0);
    if want.width > 0 && want.height > 0 && has_sizes {
        // A tile turned by a quarter asks for the same pixels.
        let (long, short) = (want.width.max(want.height), want.width.min(want.height));
        let covers = |l: &&LayerSpec| l.width.max(l.height) >= long && l.width.min(l.height) >= short;
        let smallest = declared.iter().filter(covers).min_by_key(|l| u64::from(l.width) * u64::from(l.height));
        return smallest.map_or(top, |l| l.spatial).min(top);
    }
    want.quality.map_or(top, |quality| Spatial(quality).min(top))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_wins_over_quality_and_both_are_bounded_by_what_there_is() {
        let layers: Vec<LayerSpec> = [(320, 180), (640, 360), (1_280, 720)]
            .into_iter()
            .zip(0..)
            .map(|((width, height), i)| LayerSpec { spatial: Spatial(i), width, height, bitrate_bps: 0 })
            .collect();
        let want = |width, height, quality| Want { width, height, quality, ..Want::default() };
        let table = [
            (want(0, 0, None), 2),
            (want(0, 0, Some(0)), 0),
            (want(0, 0, Some(1)), 1),
            (want(0, 0, Some(9)), 2),
            (want(320, 180, Some(2)), 0),
            (want(321, 180, Some(0)), 1),
            (want(180, 320, None), 0),
            (want(4_000, 4_000, Some(0)), 2),
        ];
        for (want, spatial) in table {
            assert_eq!(allowed(&layers, &want, Spatial(2)), Spatial(spatial), "{want:?}");
        }
        assert_eq!(allowed(&layers[..2], &want(0, 0, Some(2)), Spatial(1)), Spatial(1));
        assert_eq!(allowed(&[], &want(100, 100, Some(1)), Spatial(2)), Spatial(1), "without sizes quality counts");
    }
}
