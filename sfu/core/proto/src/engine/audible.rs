//! Who is heard where only the loudest microphones of a room are: the edge between the engine and `registers::loudest`.
//!
//! A microphone that is not heard costs nothing a subscriber: its packets stop before the fan-out. One that enters begins with
//! what was said a moment before, from the history. One that leaves says goodbye with a packet of Opus silence, so that
//! receivers wait for it as after a sender's own silence instead of concealing a loss. Every subscriber's numbering
//! goes on without a gap and with the publisher's clock. Sound of screens, and tracks that a subscriber asked for before others,
//! are always heard.

use std::time::Instant;

use super::Engine;
use super::write::leave_out;
use crate::codec::{Codec, red};
use crate::command::{Content, MediaKind};
use crate::counters::Withheld;
use crate::downtrack::{Packet, Verdict};
use crate::ids::{SeqNo, Spatial};
use crate::pacer::{Unit, Waiting};
use crate::registers::loudest::Standing;
use crate::rtp::{AudioLevel, RtpHeader};

/// Lost packets between those that an entering microphone begins with.
const MAX_GAP: u64 = 8;

/// State of a microphone towards its subscribers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    /// Not heard any more; the next packet says so.
    Closing,
    #[default]
    Closed,
}

/// Who gets a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    All,
    /// Those who asked for the track before others.
    Favoured,
    /// All, as silence: the payload was replaced by so many bytes.
    Farewell {
        bytes: usize,
    },
    Nobody,
}

impl Engine {
    /// Who gets a packet that has just come. Makes it a farewell where one is due, and sends what was said before it where its
    /// microphone enters.
    pub(super) fn audience(
        &mut self,
        now: Instant,
        slot: usize,
        seq: SeqNo,
        level: Option<u8>,
        payload: &mut [u8],
    ) -> Audience {
        let uptrack = &mut self.uptracks[slot];
        if uptrack.kind == MediaKind::Video || uptrack.content == Content::Screen || uptrack.muted {
            return Audience::All;
        }
        if payload.is_empty() {
            // Padding of the publisher's probes only takes a number, where numbers are taken.
            return if uptrack.gate == Gate::Open { Audience::All } else { Audience::Favoured };
        }
        let (room, id) = (uptrack.room, uptrack.id);
        let publisher = self.transports.get(uptrack.transport).map(|transport| transport.id);
        let (Some(room), Some(publisher)) = (self.rooms.get_mut(&room), publisher) else { return Audience::All };
        let level = level.and_then(|level| AudioLevel::read(&[level]));
        match room.loudest.observe(now, publisher, id, &mut uptrack.voice, level, payload.len()) {
            Standing::Heard => return Audience::All,
            Standing::Enters { since, instead_of } => {
                if let Some(other) = instead_of.and_then(|id| self.uptrack_slot(id).ok()) {
                    self.close_gate(other);
                }
                self.open_gate(now, slot, seq, since);
                return Audience::All;
            }
            Standing::Unheard => {}
        }
        let favours = |d: &&usize| self.downtracks.get(**d).is_some_and(|d| d.is_favoured());
        if uptrack.has_favoured && uptrack.downtracks.iter().any(|d| favours(&d)) {
            uptrack.gate = Gate::Closed;
            return Audience::Favoured;
        }
        if std::mem::replace(&mut uptrack.gate, Gate::Closed) == Gate::Closing
            && !uptrack.encrypted
            && let Some(bytes) = uptrack.current_codec.and_then(|codec| silence(uptrack.codecs[codec].codec, payload))
        {
            return Audience::Farewell { bytes };
        }
        self.counters.withheld[Withheld::NotLoudest as usize] += uptrack.downtracks.len() as u64;
        Audience::Nobody
    }

    /// A microphone is muted or gone: another may be heard in its place.
    pub(super) fn leave_loudest(&mut self, slot: usize) {
        let Some(uptrack) = self.uptracks.get_mut(slot) else { return };
        if uptrack.kind == MediaKind::Audio {
            uptrack.gate = Gate::Closed;
            if let Some(room) = self.rooms.get_mut(&uptrack.room) {
                room.loudest.leave(uptrack.id);
            }
        }
    }

    /// A subscriber's wish for a microphone has changed: one that he wants before others begins anew where it was not heard.
    pub(super) fn favour(&mut self, slot: usize) {
        let Some(downtrack) = self.downtracks.get_mut(slot) else { return };
        let Some(uptrack) = self.uptracks.get_mut(downtrack.uptrack) else { return };
        let is_favoured = downtrack.is_favoured();
        if is_favoured && !downtrack.was_favoured && uptrack.gate != Gate::Open {
            downtrack.selector.restart();
        }
        downtrack.was_favoured = is_favoured;
        uptrack.has_favoured |= is_favoured;
    }

    fn close_gate(&mut self, slot: usize) {
        let Some(uptrack) = self.uptracks.get_mut(slot) else { return };
        uptrack.gate = Gate::Closing;
        for &downtrack in &uptrack.downtracks {
            if let Some(downtrack) = self.downtracks.get_mut(downtrack).filter(|d| !d.is_favoured()) {
                downtrack.reason = "not_among_loudest";
            }
        }
    }

    /// Subscribers get what has been kept since `since`, up to the packet before `seq`.
    fn open_gate(&mut self, now: Instant, slot: usize, seq: SeqNo, since: Instant) {
        let uptrack = &mut self.uptracks[slot];
        uptrack.gate = Gate::Open;
        let history = &uptrack.encodings[0].history;
        let (mut first, mut at) = (seq.0, seq.0);
        while at > 0 && first - at <= MAX_GAP {
            at -= 1;
            match history.get(SeqNo(at)) {
                Some((_, arrived)) if arrived >= since => first = at,
                Some(_) => break,
                None => {}
            }
        }
        for index in 0..self.uptracks[slot].downtracks.len() {
            let index = self.uptracks[slot].downtracks[index];
            let Some(downtrack) = self.downtracks.get_mut(index).filter(|d| !d.is_favoured()) else { continue };
            downtrack.selector.restart();
            // What he has had is not sent twice.
            let had = downtrack.source.and_then(|_| downtrack.sent.recent(0)).map_or(0, |sent| sent.source.0 + 1);
            for seq in first.max(had)..seq.0 {
                self.catch_up(now, slot, index, SeqNo(seq));
            }
        }
    }

    /// Sends a subscriber one kept packet of a microphone.
    fn catch_up(&mut self, now: Instant, slot: usize, index: usize, seq: SeqNo) {
        let (Some(uptrack), Some(downtrack)) = (self.uptracks.get(slot), self.downtracks.get_mut(index)) else {
            return;
        };
        let Some((packet, received)) = uptrack.encodings[0].history.get(seq) else { return };
        // It was parsed when it came.
        let Ok(header) = RtpHeader::parse(packet) else { return };
        let Some(super::up::PtUse::Media(codec)) = uptrack.pt(header.pt) else { return };
        let Some(meta) = uptrack.codecs[codec].codec.parse(header.payload(), header.marker) else { return };
        let mut unit = Unit {
            encoding: 0,
            codec,
            seq,
            timestamp: header.timestamp,
            marker: header.marker,
            meta,
            frame_number: None,
            switched: false,
            received,
        };
        if header.payload().is_empty() {
            // What is kept is told in order: no number was kept for it.
            let _ = leave_out(downtrack, &unit);
            return;
        }
        let selected = Packet { encoding: Spatial(0), meta: &meta, marker: header.marker, descriptor: None };
        let Verdict::Forward { switched, .. } = downtrack.selector.select(selected, false) else { return };
        unit.switched = switched;
        let bytes = header.payload().len() as u32;
        let transport = downtrack.transport;
        self.send_waiting(now, transport, &Waiting { downtrack: index, unit, bytes });
    }
}

/// Turns a payload into silence of the same codec; its new length. `None`: the codec has none that can be made here.
///
/// Opus: a frame without data is silence that lasts until the next packet (RFC 6716 §3.1, RFC 7587 §3.1.3); RED around it keeps its
/// last block alone (RFC 2198 §3).
fn silence(codec: Codec, payload: &mut [u8]) -> Option<usize> {
    let block = match codec {
        Codec::Opus => 0,
        Codec::Red => {
            let newest = red::primary(payload)?.start;
            let toc = *payload.get(newest)?;
            payload[0] = payload[red::older(payload).count() * 4];
            // The block's first byte moves up to the one header that is left.
            payload[1] = toc;
            1
        }
        _ => return None,
    };
    // One frame, of no bytes.
    *payload.get_mut(block)? &= 0xfc;
    Some(block + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_keeps_the_configuration_of_what_it_replaces() {
        let mut opus = [0x7b, 3, 1, 2, 3];
        assert_eq!((silence(Codec::Opus, &mut opus), opus[0]), (Some(1), 0x78));
        // Two redundant blocks of 2 and 3 bytes, then the primary.
        let mut red = [0x80 | 111, 0, 0, 2, 0x80 | 111, 0, 0, 3, 111, 1, 1, 2, 2, 2, 0x7f, 9, 9];
        assert_eq!(silence(Codec::Red, &mut red), Some(2));
        assert_eq!(red[..2], [111, 0x7c]);
        for bad in [&mut [][..], &mut [0x80], &mut [0x80, 0, 0, 9, 111], &mut [111]] {
            assert_eq!(silence(Codec::Red, bad), None, "{bad:?}");
        }
        assert_eq!(silence(Codec::Opus, &mut []), None);
        assert_eq!(silence(Codec::Pcmu, &mut [1, 2]), None);
    }
}
