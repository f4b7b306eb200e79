//! The last packets of a received stream in clear, kept once for all subscribers' retransmissions.
//!
//! They lie one behind the other, in pieces that are written anew once all that is in them is too old: a stream needs
//! the memory of what it has sent lately and no more, and the next packet goes where the last one has gone.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::ids::SeqNo;

/// What is older is not sent again. A client whose address has changed is found at its next check, in libwebrtc up to 2.5 s
/// later, and receivers such as aiortc do not go on without all that was sent meanwhile.
pub const KEPT: Duration = Duration::from_secs(3);
/// Memory that nothing was written to for so long is given back. Until then a large key frame may be on its way over a
/// narrow link.
const GIVEN_BACK: Duration = Duration::from_secs(6);
/// Seven full packets, of whose room a fifteenth is lost on average at the end; a microphone needs two pieces.
const PIECE_BYTES: usize = 8 * 1024;

/// Everything younger than [`KEPT`], but not more packets than were asked for.
#[derive(Debug)]
pub struct History {
    /// `places[i]` is that of number `first + i`.
    places: VecDeque<Place>,
    first: u64,
    /// `pieces[i]` has number `first_piece + i`; the last one is being written.
    pieces: VecDeque<Piece>,
    first_piece: u32,
    capacity: usize,
}

/// Where a packet lies. One that has not come has no bytes.
#[derive(Clone, Copy, Debug)]
struct Place {
    at: Option<Instant>,
    piece: u32,
    start: u16,
    len: u16,
}

const NOT_COME: Place = Place { at: None, piece: 0, start: 0, len: 0 };

#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    /// When the last of its packets came, and the highest number among them.
    at: Instant,
    highest: u64,
}

impl History {
    pub fn new(packets: usize) -> Self {
        Self { places: VecDeque::new(), first: 0, pieces: VecDeque::new(), first_piece: 0, capacity: packets.max(1) }
    }

    /// Packets of more than 65 535 bytes, and those from before all that is kept, are not kept.
    pub fn insert(&mut self, now: Instant, seq: SeqNo, packet: &[u8]) {
        let Ok(len) = u16::try_from(packet.len()) else { return };
        if self.is_too_late(seq.0) {
            return;
        }
        let (piece, start) = self.write(now, seq.0, packet);
        if let Some(place) = self.place(seq.0) {
            *place = Place { at: Some(now), piece, start, len };
        }
    }

    pub fn clear(&mut self) {
        self.places.clear();
        self.first_piece = self.first_piece.wrapping_add(self.pieces.len() as u32);
        self.pieces.clear();
    }

    /// Keeps so many at most from now on; of more the last are left.
    pub fn limit(&mut self, packets: usize) {
        self.capacity = packets.max(1);
        self.forget_surplus();
        self.places.shrink_to_fit();
        while self.pieces.front().is_some_and(|piece| piece.highest < self.first) {
            self.drop_piece();
        }
        self.pieces.shrink_to_fit();
    }

    /// The packet, and when it came.
    pub fn get(&self, seq: SeqNo) -> Option<(&[u8], Instant)> {
        let place = self.places.get(usize::try_from(seq.0.checked_sub(self.first)?).ok()?)?;
        let at = place.at?;
        // That of a piece which is gone wraps around, far beyond the last one.
        let piece = self.pieces.get(place.piece.wrapping_sub(self.first_piece) as usize)?;
        let start = usize::from(place.start);
        Some((piece.bytes.get(start..start + usize::from(place.len))?, at))
    }

    /// Newer ones need the room.
    fn is_too_late(&self, seq: u64) -> bool {
        let free = self.capacity.saturating_sub(self.places.len()) as u64;
        !self.places.is_empty() && seq + free < self.first
    }

    /// Made, if there is none yet; `None`: too late.
    fn place(&mut self, seq: u64) -> Option<&mut Place> {
        if self.is_too_late(seq) {
            return None;
        }
        if self.places.is_empty() || seq >= self.first + (self.places.len() + self.capacity) as u64 {
            self.places.clear();
            self.first = seq;
        }
        while seq < self.first {
            self.places.push_front(NOT_COME);
            self.first -= 1;
        }
        while seq >= self.first + self.places.len() as u64 {
            self.places.push_back(NOT_COME);
        }
        self.forget_surplus();
        self.places.get_mut((seq - self.first) as usize)
    }

    fn forget_surplus(&mut self) {
        let surplus = self.places.len().saturating_sub(self.capacity);
        self.places.drain(..surplus);
        self.first += surplus as u64;
    }

    /// The number of the piece that took the packet, and where in it.
    fn write(&mut self, now: Instant, seq: u64, packet: &[u8]) -> (u32, u16) {
        let is_full = |piece: &Piece| piece.bytes.len() + packet.len() > PIECE_BYTES;
        if self.pieces.back().is_none_or(is_full) {
            self.begin_piece(now);
        }
        let number = self.first_piece.wrapping_add(self.pieces.len() as u32).wrapping_sub(1);
        let Some(piece) = self.pieces.back_mut() else { return (number, 0) };
        let start = piece.bytes.len() as u16;
        piece.bytes.extend_from_slice(packet);
        piece.at = now;
        piece.highest = piece.highest.max(seq);
        (number, start)
    }

    /// One that is over is written anew. Of several one more is given back, until there are as many as the stream needs.
    fn begin_piece(&mut self, now: Instant) {
        let mut bytes = self.take_over(now, KEPT).unwrap_or_else(|| Vec::with_capacity(PIECE_BYTES));
        bytes.clear();
        self.take_over(now, GIVEN_BACK);
        self.pieces.push_back(Piece { bytes, at: now, highest: 0 });
        // Places of what was written over.
        while let Some(place) = self.places.front()
            && (place.at.is_none() || place.piece.wrapping_sub(self.first_piece) as usize >= self.pieces.len())
        {
            self.places.pop_front();
            self.first += 1;
        }
    }

    /// The oldest piece, if nothing in it is to be kept: all of it is older than `age`, or there are enough later ones.
    fn take_over(&mut self, now: Instant, age: Duration) -> Option<Vec<u8>> {
        let piece = self.pieces.front()?;
        let is_over = piece.highest < self.first || now.saturating_duration_since(piece.at) >= age;
        if is_over { self.drop_piece() } else { None }
    }

    fn drop_piece(&mut self) -> Option<Vec<u8>> {
        let piece = self.pieces.pop_front()?;
        self.first_piece = self.first_piece.wrapping_add(1);
        Some(piece.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::origin;

    fn bytes_of(history: &History) -> usize {
        history.pieces.iter().map(|piece| piece.bytes.capacity()).sum()
    }

    #[test]
    fn a_stream_needs_the_memory_of_what_it_has_sent_lately() {
        let start = origin();
        for (per_second, kept) in [(5, 15), (20, 60), (80, 240), (2_000, 512)] {
            let mut history = History::new(512);
            let gap = Duration::from_secs(1) / per_second;
            let packet = |seq: u64| [seq as u8; 1_100];
            for seq in 0..5_000u64 {
                history.insert(start + gap * seq as u32, SeqNo(seq), &packet(seq));
                let back = (u64::from(per_second) * 3 - 1).min(511).min(seq);
                let (found, at) = history.get(SeqNo(seq - back)).expect("three seconds are always kept");
                assert_eq!((found, at), (&packet(seq - back)[..], start + gap * (seq - back) as u32));
                let pieces = kept * 1_100 / (PIECE_BYTES - 1_100) + 2;
                assert!(bytes_of(&history) <= pieces * PIECE_BYTES, "{} for {kept}", bytes_of(&history));
            }
            assert!(history.places.len() <= kept + 14, "{} at {per_second} a second", history.places.len());
        }
    }

    #[test]
    fn a_stream_that_has_become_small_gives_its_memory_back() {
        let (start, mut history) = (origin(), History::new(512));
        (0..500).for_each(|seq| history.insert(start, SeqNo(seq), &[0; 1_100]));
        assert!(bytes_of(&history) > 500 * 1_100);
        for step in 0..1_000u32 {
            history.insert(start + Duration::from_millis(100) * step, SeqNo(500 + u64::from(step)), &[0; 1_100]);
        }
        assert!(bytes_of(&history) <= 10 * PIECE_BYTES, "{}", bytes_of(&history));
    }

    #[test]
    fn what_comes_late_takes_the_place_of_nothing_newer() {
        let (now, mut history) = (origin(), History::new(32));
        (0..64u64).filter(|seq| *seq != 10).for_each(|seq| history.insert(now, SeqNo(seq), &seq.to_be_bytes()));
        history.insert(now, SeqNo(10), b"late");
        assert_eq!(history.get(SeqNo(42)).expect("it is newer").0, 42u64.to_be_bytes());
        assert!(history.get(SeqNo(10)).is_none());
    }

    #[test]
    fn one_that_is_limited_keeps_the_last_and_may_grow_again() {
        let (now, mut history) = (origin(), History::new(512));
        let insert = |history: &mut History, seqs: std::ops::Range<u64>| {
            seqs.for_each(|seq| history.insert(now, SeqNo(seq), &[seq as u8; 1_100]));
        };
        insert(&mut history, 0..500);
        history.limit(32);
        assert!(history.get(SeqNo(467)).is_none());
        for seq in 468..500 {
            assert_eq!(history.get(SeqNo(seq)).expect("the last 32").0, [seq as u8; 1_100]);
        }
        assert!(bytes_of(&history) <= 7 * PIECE_BYTES);
        insert(&mut history, 500..600);
        assert_eq!(history.places.len(), 32);
        history.limit(512);
        insert(&mut history, 600..800);
        assert!(history.get(SeqNo(600)).is_some());
    }

    proptest! {
        /// Against all packets in a map: what is found is what came, and of what came last nothing is missing.
        #[test]
        fn what_came_lately_is_found_as_it_came(
            start in 0u64..200,
            packets in proptest::collection::vec((-40i64..60, 0u64..120, 1usize..1_500), 1..300),
            capacity in 1usize..150,
        ) {
            let (mut history, mut came) = (History::new(capacity), BTreeMap::new());
            let (mut now, mut highest) = (origin(), start);
            for (n, (step, pause, len)) in packets.into_iter().enumerate() {
                now += Duration::from_millis(pause);
                let seq = highest.saturating_add_signed(step);
                let packet = vec![n as u8; len];
                history.insert(now, SeqNo(seq), &packet);
                let is_late = seq < highest;
                highest = highest.max(seq);
                if !is_late || history.get(SeqNo(seq)).is_some() {
                    came.insert(seq, (packet, now));
                }
                for (seq, (packet, at)) in &came {
                    match history.get(SeqNo(*seq)) {
                        Some(found) => prop_assert_eq!(found, (&packet[..], *at)),
                        None => prop_assert!(highest - seq >= capacity as u64 || now - *at >= KEPT, "{} of {}", seq, highest),
                    }
                }
                prop_assert!(history.places.len() <= capacity);
            }
        }
    }
}
