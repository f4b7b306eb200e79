//! Keeps one subscriber's stream continuous: sequence numbers, timestamps, picture ids, TL0PICIDX, frame numbers.
//!
//! It is told what is forwarded and what is left out, and from which source; it decides nothing. A *source* is one
//! encoding of one uptrack. Whenever the source changes, or forwarding resumes after a pause, `switch_source` is called
//! and the next forwarded packet begins where the last one ended.

use super::renumber::{PICTURE_WINDOW, Place, Renumber};
use crate::codec::{PacketMeta, PictureId};
use crate::ids::SeqNo;

/// Least distance of two frames across a switch, as a share of a second: timestamps must rise (RFC 3550 §5.1).
const MIN_STEP_DIVISOR: u32 = 1_000;

/// What to write in place of what the publisher sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Extended: the roll-over count is part of it.
    pub seq: SeqNo,
    pub timestamp: u32,
    pub patch: PayloadPatch,
    /// Add to a dependency descriptor's frame number.
    pub frame_number_offset: u16,
}

/// Changes inside the payload, all of the same length as what they replace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PayloadPatch {
    pub picture_id: Option<(PictureId, u16)>,
    pub tl0: Option<(u8, u8)>,
}

impl PayloadPatch {
    pub fn is_empty(&self) -> bool {
        self.picture_id.is_none() && self.tl0.is_none()
    }

    /// Writes the changes into a copy of the payload that the patch was made from.
    #[inline]
    pub fn apply(&self, payload: &mut [u8]) {
        if let Some((id, value)) = self.picture_id {
            id.write(payload, value);
        }
        if let Some((value, offset)) = self.tl0
            && let Some(place) = payload.get_mut(usize::from(offset))
        {
            *place = value;
        }
    }
}

/// Where a source's clock stands against the stream already sent, for the first packet after a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// The timestamp that the packet has on the subscriber's time line, by sender reports of both sources.
    Known(u32),
    /// Ticks that have passed since the last forwarded frame, by the arrival of packets.
    Elapsed(u32),
}

pub struct Munger {
    seqs: Renumber,
    pictures: Renumber,
    /// Last input picture id, extended.
    picture_high: Option<u64>,
    tl0_offset: u8,
    tl0_last: u8,
    timestamp_offset: u32,
    timestamp_last: Option<u32>,
    frame_number_offset: u16,
    frame_number_last: u16,
    switching: bool,
}

impl Munger {
    /// `seq`, `timestamp`: where the subscriber's numbering begins (random, RFC 3550 §5.1); `window`: packets that may
    /// still find their place, a power of two.
    pub fn new(seq: u16, timestamp: u32, window: usize) -> Self {
        Self {
            seqs: Renumber::new(u64::from(seq), window),
            pictures: Renumber::new(u64::from(timestamp & 0x7fff), PICTURE_WINDOW),
            picture_high: None,
            tl0_offset: 0,
            tl0_last: timestamp as u8,
            timestamp_offset: timestamp,
            timestamp_last: None,
            frame_number_offset: 0,
            frame_number_last: 0,
            switching: true,
        }
    }

    /// The next forwarded packet is of another source, or the first after a pause.
    pub fn switch_source(&mut self) {
        self.seqs.switch();
        self.pictures.switch();
        self.picture_high = None;
        self.switching = true;
    }

    /// A number kept for a packet of the present source that has not come. `place`: how far the search is, from zero on.
    pub fn hole(&self, place: &mut usize) -> Option<SeqNo> {
        self.seqs.hole(place).map(SeqNo)
    }

    /// The packet of the present source for which this number, the latest that ends so, is kept.
    pub fn awaited(&self, seq: u16) -> Option<SeqNo> {
        let next = self.seqs.next();
        let output = next.checked_sub(u64::from((next as u16).wrapping_sub(seq)))?;
        self.seqs.awaited(output).map(SeqNo)
    }

    /// Highest timestamp handed out so far; `None` before the first.
    pub fn last_timestamp(&self) -> Option<u32> {
        self.timestamp_last
    }

    /// What is to be added to the source's timestamps at present (for sender reports).
    pub fn timestamp_offset(&self) -> u32 {
        self.timestamp_offset
    }

    /// Next sequence number in order, without handing it out.
    pub fn next_seq(&self) -> SeqNo {
        SeqNo(self.seqs.next())
    }

    /// Numbers a packet. `None`: a duplicate, or too late to have a place.
    ///
    /// `align` is asked only for the first packet after a switch; `clock_rate` in Hz.
    #[inline]
    pub fn forward(
        &mut self,
        seq: SeqNo,
        timestamp: u32,
        meta: &PacketMeta,
        frame_number: Option<u16>,
        clock_rate: u32,
        align: impl FnOnce() -> Alignment,
    ) -> Option<Rewrite> {
        let Place::At { output, again: false } = self.seqs.forward(seq.0) else { return None };
        if self.switching {
            self.join(timestamp, meta, frame_number, clock_rate, align);
        }
        let timestamp = timestamp.wrapping_add(self.timestamp_offset);
        if self.timestamp_last.is_none_or(|last| timestamp.wrapping_sub(last) < 1 << 31) {
            self.timestamp_last = Some(timestamp);
        }
        if let Some(number) = frame_number {
            let number = number.wrapping_add(self.frame_number_offset);
            if number.wrapping_sub(self.frame_number_last) < 1 << 15 {
                self.frame_number_last = number;
            }
        }
        let patch = PayloadPatch { picture_id: self.picture(meta), tl0: self.tl0(meta) };
        Some(Rewrite { seq: SeqNo(output), timestamp, patch, frame_number_offset: self.frame_number_offset })
    }

    /// Leaves a packet of the present source out. A number that had been kept for it is returned: nothing will ever come
    /// there, so that the caller fills it with padding, or else the subscriber asks for it in vain.
    #[inline]
    pub fn leave_out(&mut self, seq: SeqNo, meta: &PacketMeta) -> Option<SeqNo> {
        if self.switching {
            return None;
        }
        // A picture whose layers are all left out leaves no number; one that was begun keeps its own. Where references
        // are told as distances, its number stays a gap: nothing that is forwarded refers to it.
        if meta.start_of_frame
            && meta.spatial.0 == 0
            && let Some(id) = meta.picture_id
        {
            let extended = self.extend_picture(id);
            if !meta.refers_by_picture_id {
                self.pictures.leave_out(extended);
            }
        }
        self.seqs.leave_out(seq.0).map(SeqNo)
    }

    fn join(
        &mut self,
        timestamp: u32,
        meta: &PacketMeta,
        frame_number: Option<u16>,
        clock_rate: u32,
        align: impl FnOnce() -> Alignment,
    ) {
        self.switching = false;
        if let Some(last) = self.timestamp_last {
            let least = (clock_rate / MIN_STEP_DIVISOR).max(1);
            let wanted = match align() {
                Alignment::Known(at) => at.wrapping_sub(last),
                Alignment::Elapsed(ticks) => ticks,
            };
            // A step back, or one of hours, is a clock gone wrong: take the smallest step forward.
            let step = if (least..1 << 30).contains(&wanted) { wanted } else { least };
            self.timestamp_offset = last.wrapping_add(step).wrapping_sub(timestamp);
        } else {
            self.timestamp_offset = self.timestamp_offset.wrapping_sub(timestamp);
        }
        if let Some((value, _)) = meta.tl0 {
            self.tl0_offset = self.tl0_last.wrapping_add(1).wrapping_sub(value);
        }
        if let Some(number) = frame_number {
            self.frame_number_offset = self.frame_number_last.wrapping_add(1).wrapping_sub(number);
        }
    }

    fn picture(&mut self, meta: &PacketMeta) -> Option<(PictureId, u16)> {
        let id = meta.picture_id?;
        let extended = self.extend_picture(id);
        match self.pictures.forward(extended) {
            Place::At { output, .. } => Some((id, output as u16 & id.mask())),
            // Its lower layers were left out, which this one does not need; or it is older than the window, and lost for
            // the decoder anyway.
            Place::None => {
                let output = self.pictures.take_back(extended).map_or(id.value, |output| output as u16 & id.mask());
                Some((id, output))
            }
        }
    }

    fn tl0(&mut self, meta: &PacketMeta) -> Option<(u8, u8)> {
        let (value, offset) = meta.tl0?;
        let value = value.wrapping_add(self.tl0_offset);
        if value.wrapping_sub(self.tl0_last) < 128 {
            self.tl0_last = value;
        }
        Some((value, offset))
    }

    fn extend_picture(&mut self, id: PictureId) -> u64 {
        let mask = u64::from(id.mask());
        let period = mask + 1;
        let Some(high) = self.picture_high else {
            // One period of room below, for pictures that arrive late.
            let extended = u64::from(id.value) + period;
            self.picture_high = Some(extended);
            return extended;
        };
        let ahead = (u64::from(id.value) + period - (high & mask)) & mask;
        if ahead < period / 2 {
            self.picture_high = Some(high + ahead);
            high + ahead
        } else {
            high + ahead - period
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Spatial, Temporal};

    fn vp8(picture: u16, tl0: u8, temporal: u8, start: bool) -> PacketMeta {
        PacketMeta {
            spatial: Spatial(0),
            temporal: Temporal(temporal),
            keyframe: false,
            start_of_frame: start,
            end_of_frame: true,
            temporal_sync: false,
            switches_up: false,
            spatial_sync: false,
            picture_id: Some(PictureId { value: picture, bits: 15, offset: 2 }),
            refers_by_picture_id: false,
            tl0: Some((tl0, 4)),
        }
    }

    fn elapsed() -> Alignment {
        Alignment::Elapsed(3000)
    }

    #[test]
    fn a_picture_whose_lower_layer_is_left_out_has_its_place_all_the_same() {
        let mut munger = Munger::new(0, 0, 512);
        let upper = |picture| PacketMeta { spatial: Spatial(1), ..vp8(picture, 0, 0, true) };
        let mut ids = Vec::new();
        for (seq, picture) in (100u64..).step_by(2).zip(7_000u16..7_010) {
            let _ = munger.leave_out(SeqNo(seq), &vp8(picture, 0, 0, true));
            if picture == 7_000 || picture % 3 > 0 {
                let rewrite = munger.forward(SeqNo(seq + 1), 0, &upper(picture), None, 90_000, elapsed).unwrap();
                ids.push(rewrite.patch.picture_id.unwrap().1);
            } else {
                let _ = munger.leave_out(SeqNo(seq + 1), &upper(picture));
            }
        }
        assert!(ids.len() > 6 && ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ids:?}");
    }

    /// S-27, F-42
    #[test]
    fn numbers_go_on_across_wraps_and_sources() {
        let mut munger = Munger::new(65_534, u32::MAX - 1500, 512);
        let mut last: Option<Rewrite> = None;
        let mut step = |munger: &mut Munger, seq: u64, ts: u32, meta: PacketMeta| {
            let rewrite = munger.forward(SeqNo(seq), ts, &meta, Some(seq as u16), 90_000, elapsed).unwrap();
            if let Some(last) = last {
                assert_eq!(rewrite.seq.0, last.seq.0 + 1);
                assert_eq!(rewrite.timestamp.wrapping_sub(last.timestamp), 3000);
                let (id, before) = (rewrite.patch.picture_id.unwrap().1, last.patch.picture_id.unwrap().1);
                assert_eq!(id, (before + 1) & 0x7fff);
                assert_eq!(rewrite.patch.tl0.unwrap().0, last.patch.tl0.unwrap().0.wrapping_add(1));
            }
            last = Some(rewrite);
        };
        for frame in 0..5u16 {
            step(
                &mut munger,
                100 + u64::from(frame),
                7 + 3000 * u32::from(frame),
                vp8((32_766 + frame) & 0x7fff, 254u8.wrapping_add(frame as u8), 0, true),
            );
        }
        munger.switch_source();
        for frame in 0..5u16 {
            step(
                &mut munger,
                9_000 + u64::from(frame),
                1_000_000 + 3000 * u32::from(frame),
                vp8(5 + frame, 77 + frame as u8, 0, true),
            );
        }
    }

    #[test]
    fn left_out_frames_leave_no_gap_in_picture_ids() {
        let mut munger = Munger::new(0, 0, 512);
        let mut out = Vec::new();
        for frame in 0..8u16 {
            for packet in 0..2u64 {
                let meta = vp8(100 + frame, 10, (frame % 2) as u8, packet == 0);
                let seq = SeqNo(u64::from(frame) * 2 + packet);
                if frame % 2 == 1 {
                    assert_eq!(munger.leave_out(seq, &meta), None);
                } else {
                    let rewrite = munger.forward(seq, u32::from(frame) * 3000, &meta, None, 90_000, elapsed).unwrap();
                    out.push((rewrite.seq.0, rewrite.patch.picture_id.unwrap().1));
                }
            }
        }
        assert_eq!(out, [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (7, 3)]);
    }

    /// VP9 in flexible mode, as Chromium sends SVC.
    #[test]
    fn picture_ids_keep_their_distances_where_references_are_told_by_them() {
        let mut munger = Munger::new(0, 0x7ffe, 512);
        let meta = |picture: u16, spatial| PacketMeta {
            spatial: Spatial(spatial),
            refers_by_picture_id: true,
            tl0: None,
            ..vp8(picture & 0x7fff, 0, u8::from(!picture.is_multiple_of(4)), true)
        };
        let mut ids = Vec::new();
        for (seq, picture) in (100u64..).step_by(2).zip(32_764u16..32_780) {
            // Of the base pictures both layers, of every fifth of the others the upper one alone.
            for spatial in 0..2u8 {
                let (seq, meta) = (SeqNo(seq + u64::from(spatial)), meta(picture, spatial));
                if picture.is_multiple_of(4) || spatial == 1 && picture.is_multiple_of(5) {
                    let rewrite = munger.forward(seq, 0, &meta, None, 90_000, elapsed).unwrap();
                    ids.push((picture, rewrite.patch.picture_id.unwrap().1));
                } else {
                    assert_eq!(munger.leave_out(seq, &meta), None);
                }
            }
        }
        let (first, as_first) = ids[0];
        for (picture, id) in ids {
            assert_eq!(id, as_first.wrapping_add(picture - first) & 0x7fff, "picture {picture}");
        }
        // Another stream begins right behind.
        munger.switch_source();
        let next = munger.forward(SeqNo(7), 0, &meta(4, 0), None, 90_000, elapsed).unwrap();
        assert_eq!(next.patch.picture_id.unwrap().1, (as_first + 13) & 0x7fff);
    }

    #[test]
    fn the_clock_of_another_source_is_aligned_and_never_runs_back() {
        let meta = PacketMeta::sound();
        for (alignment, expected) in [
            (Alignment::Known(10_000 + 4_321), 4_321),
            (Alignment::Known(9_000), 90),
            (Alignment::Elapsed(1_800), 1_800),
            (Alignment::Elapsed(0), 90),
            (Alignment::Elapsed(u32::MAX), 90),
        ] {
            let mut munger = Munger::new(0, 10_000, 512);
            let first = munger.forward(SeqNo(1), 55, &meta, None, 90_000, || unreachable!()).unwrap();
            assert_eq!(first.timestamp, 10_000);
            munger.switch_source();
            let next = munger.forward(SeqNo(1), 777, &meta, None, 90_000, || alignment).unwrap();
            assert_eq!(next.timestamp - first.timestamp, expected, "{alignment:?}");
        }
    }

    /// F-04
    #[test]
    fn duplicates_are_not_forwarded_twice() {
        let mut munger = Munger::new(0, 0, 512);
        let meta = PacketMeta::sound();
        assert!(munger.forward(SeqNo(5), 0, &meta, None, 48_000, elapsed).is_some());
        assert!(munger.forward(SeqNo(5), 0, &meta, None, 48_000, elapsed).is_none());
    }

    #[test]
    fn a_patch_changes_only_what_it_names() {
        let mut payload = [0x90, 0xe0, 0x92, 0x34, 0x07, 0xa5];
        let id = PictureId { value: 0x1234, bits: 15, offset: 2 };
        PayloadPatch { picture_id: Some((id, 0x0102)), tl0: Some((9, 4)) }.apply(&mut payload);
        assert_eq!(payload, [0x90, 0xe0, 0x81, 0x02, 0x09, 0xa5]);
        assert!(PayloadPatch::default().is_empty());
    }
}
