//! What was sent to one subscriber under which number, so that a retransmission is the very same packet.
//!
//! Answers NACKs within a budget: no number more often than [`MAX_TIMES`], not twice within a round trip, and in all not
//! more than a share of the stream, so that a storm of requests costs the others nothing.

use std::time::{Duration, Instant};

use super::munger::PayloadPatch;
use crate::codec::PictureId;
use crate::ids::{SeqNo, Spatial, Temporal};
use crate::registers::history::KEPT;

/// Two seconds of a 1.8 Mbit/s stream in full packets, and more than any round trip needs; 32 bytes each.
pub const VIDEO_WINDOW: usize = 512;
/// As many as the uptrack's history of an audio stream keeps: more than a second.
pub const AUDIO_WINDOW: usize = 64;
/// Packets remembered at first: most layers send fewer a second.
const FIRST_WINDOW: usize = 64;
/// As long as the uptrack's history keeps it, on the clock of video. Sound never grows beyond its first window.
const KEPT_TICKS: u32 = KEPT.as_millis() as u32 * 90;
const MAX_TIMES: u8 = 5;
/// Share of the stream's bytes that may be sent again (`reliability.md` S-19), saved up for a burst of loss.
const SHARE: f64 = 0.15;
/// What may be sent again before anything is saved up: a lost first key frame.
const BURST_BYTES: f64 = 64_000.0;

/// How a packet went out: enough to make it again from the uptrack's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentPacket {
    pub seq: SeqNo,
    /// Where the original is kept: encoding and number on the uptrack.
    pub encoding: Spatial,
    pub source: SeqNo,
    pub timestamp: u32,
    pub marker: bool,
    pub patch: PayloadPatch,
    pub frame_number_offset: u16,
    /// Index of the uptrack's codec.
    pub codec: u8,
    /// Within its stream.
    pub spatial: Spatial,
    pub temporal: Temporal,
}

/// [`SentPacket`] in half a cache line, and how often it was sent again.
#[derive(Clone, Copy, Default)]
struct Entry {
    source: u64,
    timestamp: u32,
    /// Low half: what is older lies in the same place, and is overwritten, long before it repeats.
    seq: u32,
    /// When it was last sent again, in microseconds since the stream's first retransmission; they come round in an
    /// hour, entries live for seconds.
    resent: u32,
    picture_id: u16,
    frame_number_offset: u16,
    picture_offset: u8,
    tl0: u8,
    tl0_offset: u8,
    encoding: u8,
    spatial: u8,
    codec: u8,
    flags: u8,
    /// Times sent again.
    times: u8,
}

const IS_USED: u8 = 1;
const HAS_MARKER: u8 = 2;
const HAS_PICTURE_ID: u8 = 4;
const HAS_WIDE_PICTURE_ID: u8 = 8;
const HAS_TL0: u8 = 16;
const TEMPORAL_SHIFT: u32 = 5;
const _: () = assert!(size_of::<Entry>() == 32);

impl Entry {
    fn new(packet: &SentPacket) -> Self {
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let (id, picture_id) = packet.patch.picture_id.unzip();
        let (tl0, tl0_offset) = packet.patch.tl0.unzip();
        Self {
            source: packet.source.0,
            timestamp: packet.timestamp,
            seq: packet.seq.0 as u32,
            resent: 0,
            picture_id: picture_id.unwrap_or_default(),
            frame_number_offset: packet.frame_number_offset,
            picture_offset: id.map_or(0, |id| id.offset),
            tl0: tl0.unwrap_or_default(),
            tl0_offset: tl0_offset.unwrap_or_default(),
            encoding: packet.encoding.0,
            spatial: packet.spatial.0,
            codec: packet.codec,
            flags: IS_USED
                | flag(packet.marker, HAS_MARKER)
                | flag(id.is_some(), HAS_PICTURE_ID)
                | flag(id.is_some_and(|id| id.bits == 15), HAS_WIDE_PICTURE_ID)
                | flag(tl0.is_some(), HAS_TL0)
                | packet.temporal.0 << TEMPORAL_SHIFT,
            times: 0,
        }
    }

    fn is(&self, seq: u64) -> bool {
        self.flags & IS_USED != 0 && self.seq == seq as u32
    }

    fn is_newer(&self, seq: SeqNo) -> bool {
        self.flags & IS_USED != 0 && self.seq.wrapping_sub(seq.0 as u32) as i32 > 0
    }

    fn packet(&self, seq: u64) -> SentPacket {
        let has = |flag: u8| self.flags & flag != 0;
        let bits = if has(HAS_WIDE_PICTURE_ID) { 15 } else { 7 };
        let id = PictureId { value: self.picture_id, bits, offset: self.picture_offset };
        SentPacket {
            seq: SeqNo(seq),
            encoding: Spatial(self.encoding),
            source: SeqNo(self.source),
            timestamp: self.timestamp,
            marker: has(HAS_MARKER),
            patch: PayloadPatch {
                picture_id: has(HAS_PICTURE_ID).then_some((id, self.picture_id)),
                tl0: has(HAS_TL0).then_some((self.tl0, self.tl0_offset)),
            },
            frame_number_offset: self.frame_number_offset,
            codec: self.codec,
            spatial: Spatial(self.spatial),
            temporal: Temporal(self.flags >> TEMPORAL_SHIFT),
        }
    }
}

impl SentPacket {
    /// Padding in a place where nothing will ever come.
    pub fn filling(seq: SeqNo, timestamp: u32, codec: u8) -> Self {
        Self {
            seq,
            encoding: FILLING,
            source: SeqNo(0),
            timestamp,
            marker: false,
            patch: PayloadPatch::default(),
            frame_number_offset: 0,
            codec,
            spatial: Spatial(0),
            temporal: Temporal(0),
        }
    }

    pub fn is_filling(&self) -> bool {
        self.encoding == FILLING
    }
}

/// No uptrack has so many encodings.
const FILLING: Spatial = Spatial(u8::MAX);

/// What a packet that is sent again is still good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Shown,
    /// It would not be shown, but nothing that follows can be without it.
    Missed,
    None,
}

/// Why a NACK was not answered; labels the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// Never sent, or too long ago.
    Unknown,
    /// Asked again within a round trip.
    TooSoon,
    TooOften,
    OverBudget,
    /// Of a layer that the subscriber is not sent any more, or from before his last key frame.
    Useless,
    /// Of a layer that he is not sent any more, and yet nothing can be shown without it: only a key frame helps.
    Broken,
}

impl Refused {
    pub const ALL: [Refused; 6] =
        [Self::Unknown, Self::TooSoon, Self::TooOften, Self::OverBudget, Self::Useless, Self::Broken];

    pub const fn as_str(self) -> &'static str {
        match self {
            Refused::Unknown => "unknown",
            Refused::TooSoon => "too_soon",
            Refused::TooOften => "too_often",
            Refused::OverBudget => "over_budget",
            Refused::Useless => "useless",
            Refused::Broken => "broken",
        }
    }
}

pub struct SentHistory {
    window: usize,
    /// A power of two; grows up to the window as long as what would be overwritten is younger than [`KEPT_TICKS`].
    entries: Vec<Entry>,
    highest: Option<SeqNo>,
    /// First packet of the last key frame, and its timestamp.
    key: Option<(SeqNo, u32)>,
    first_resent: Option<Instant>,
    budget_bytes: f64,
}

impl SentHistory {
    /// `window`: packets remembered at most, rounded up to a power of two; a stream that is never sent costs nothing.
    pub fn new(window: usize) -> Self {
        Self {
            window: window.next_power_of_two(),
            entries: Vec::new(),
            highest: None,
            key: None,
            first_resent: None,
            budget_bytes: BURST_BYTES,
        }
    }

    /// Remembers a packet that leaves now; `bytes` as on the wire.
    #[inline]
    pub fn push(&mut self, packet: SentPacket, bytes: usize) {
        let place = self.place(packet.seq.0);
        let is_full = self.entries.len() == self.window;
        match self.entries.get_mut(place) {
            // A late one does not take the place of what was sent since.
            Some(entry) if entry.is_newer(packet.seq) => {}
            Some(entry) if is_full || is_old(entry, &packet) => *entry = Entry::new(&packet),
            _ => self.grow(&packet),
        }
        self.highest = self.highest.max(Some(packet.seq));
        self.budget_bytes = (self.budget_bytes + bytes as f64 * SHARE).min(BURST_BYTES * 4.0);
    }

    #[cold]
    fn grow(&mut self, packet: &SentPacket) {
        let len = (self.entries.len() * 2).clamp(FIRST_WINDOW.min(self.window), self.window);
        let entries = std::mem::replace(&mut self.entries, vec![Entry::default(); len]);
        for entry in entries.into_iter().filter(|entry| entry.flags & IS_USED != 0) {
            self.entries[entry.seq as usize & (len - 1)] = entry;
        }
        self.entries[packet.seq.0 as usize & (len - 1)] = Entry::new(packet);
    }

    fn entry(&self, seq: u64) -> Option<&Entry> {
        self.entries.get(self.place(seq)).filter(|entry| entry.is(seq))
    }

    /// Where it lies, if anything is remembered.
    #[inline]
    fn place(&self, seq: u64) -> usize {
        seq as usize & self.entries.len().wrapping_sub(1)
    }

    /// The extended number that ends in `seq` and was sent last.
    fn extended(&self, seq: u16) -> Option<u64> {
        let highest = self.highest?.0;
        highest.checked_sub(u64::from((highest as u16).wrapping_sub(seq)))
    }

    /// What was sent cannot be sent again: its originals are out of reach.
    pub fn forget(&mut self) {
        self.entries.fill(Entry::default());
    }

    /// A key frame begins with `seq`, or another unit of the same frame: nothing before it is worth repairing.
    pub fn begin_anew(&mut self, seq: SeqNo, timestamp: u32) {
        if self.key.is_none_or(|(_, of)| of != timestamp) {
            self.key = Some((seq, timestamp));
        }
    }

    /// The packet that was sent under `seq`.
    pub fn get(&self, seq: u16) -> Option<SentPacket> {
        let extended = self.extended(seq)?;
        Some(self.entry(extended)?.packet(extended))
    }

    /// How often what was sent under `seq` was sent again.
    pub fn times(&self, seq: u16) -> Option<u8> {
        Some(self.entry(self.extended(seq)?)?.times)
    }

    /// The packet that a subscriber's NACK for `seq` asks for, if it may be sent again: [`Self::again`] tells that.
    ///
    /// `use_of`: whether it can still be shown to him.
    pub fn ask(
        &self,
        now: Instant,
        seq: u16,
        rtt: Duration,
        use_of: impl FnOnce(&SentPacket) -> Use,
    ) -> Result<SentPacket, Refused> {
        let extended = self.extended(seq).ok_or(Refused::Unknown)?;
        let entry = *self.entry(extended).ok_or(Refused::Unknown)?;
        let packet = entry.packet(extended);
        if self.key.is_some_and(|(key, _)| packet.seq < key) {
            return Err(Refused::Useless);
        }
        match use_of(&packet) {
            Use::None => return Err(Refused::Useless),
            Use::Missed => return Err(Refused::Broken),
            Use::Shown => {}
        }
        if entry.times >= MAX_TIMES {
            return Err(Refused::TooOften);
        }
        let since = self.since_first_resent(now).wrapping_sub(entry.resent);
        if entry.times > 0 && Duration::from_micros(u64::from(since)) < rtt {
            return Err(Refused::TooSoon);
        }
        // What is left when little is left goes to the frames that the others need.
        let reserve = match packet.temporal {
            Temporal(0) => 0.0,
            Temporal(1) => BURST_BYTES / 4.0,
            _ => BURST_BYTES / 2.0,
        };
        if self.budget_bytes <= reserve {
            return Err(Refused::OverBudget);
        }
        Ok(packet)
    }

    /// What was sent under `seq` leaves again now.
    pub fn again(&mut self, now: Instant, seq: u16) {
        self.first_resent.get_or_insert(now);
        let resent = self.since_first_resent(now);
        let Some(extended) = self.extended(seq) else { return };
        let place = self.place(extended);
        if let Some(entry) = self.entries.get_mut(place).filter(|entry| entry.is(extended)) {
            (entry.times, entry.resent) = (entry.times.saturating_add(1), resent);
        }
    }

    fn since_first_resent(&self, now: Instant) -> u32 {
        self.first_resent.map_or(0, |first| now.saturating_duration_since(first).as_micros() as u32)
    }

    /// What was sent as the `back`th before the last: the most likely to be missed, where something must be sent anyway.
    pub fn recent(&self, back: u64) -> Option<SentPacket> {
        let seq = self.highest?.0.checked_sub(back)?;
        Some(self.entry(seq)?.packet(seq))
    }

    /// Takes what was sent again out of the budget.
    pub fn spend(&mut self, bytes: usize) {
        self.budget_bytes -= bytes as f64;
    }
}

/// Whether an entry may be overwritten by `packet`. Before the first round of the ring places are empty.
fn is_old(entry: &Entry, packet: &SentPacket) -> bool {
    entry.flags & IS_USED == 0 || packet.timestamp.wrapping_sub(entry.timestamp) > KEPT_TICKS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::origin;

    fn packet(seq: u64) -> SentPacket {
        SentPacket {
            seq: SeqNo(seq),
            encoding: Spatial(0),
            source: SeqNo(seq + 1000),
            timestamp: 0,
            marker: false,
            patch: PayloadPatch::default(),
            frame_number_offset: 0,
            codec: 0,
            spatial: Spatial(0),
            temporal: Temporal(0),
        }
    }

    #[test]
    fn a_packet_is_found_by_its_wrapped_number() {
        let (mut sent, now, rtt) = (SentHistory::new(VIDEO_WINDOW), origin(), Duration::from_millis(50));
        for seq in 65_500..65_600 {
            sent.push(packet(seq), 1200);
        }
        assert_eq!(sent.ask(now, 65_530, rtt, |_| Use::Shown).unwrap().source, SeqNo(66_530));
        assert_eq!(sent.ask(now, 20, rtt, |_| Use::Shown).unwrap().source, SeqNo(65_556 + 1000));
        assert_eq!(sent.ask(now, 65_499, rtt, |_| Use::Shown), Err(Refused::Unknown));
        assert_eq!(sent.ask(now, 64, rtt, |_| Use::Shown), Err(Refused::Unknown), "not sent yet");
    }

    #[test]
    fn a_packet_comes_back_as_it_was_sent() {
        let mut sent = SentHistory::new(VIDEO_WINDOW);
        let patch = PayloadPatch {
            picture_id: Some((PictureId { value: 77, bits: 15, offset: 2 }, 0x7abc)),
            tl0: Some((250, 4)),
        };
        let odd = SentPacket {
            encoding: Spatial(2),
            source: SeqNo(1 << 40),
            timestamp: u32::MAX,
            marker: true,
            patch,
            frame_number_offset: 65_000,
            codec: 3,
            spatial: Spatial(3),
            temporal: Temporal(7),
            ..packet(1 << 33)
        };
        sent.push(odd, 1200);
        let got = sent.get(0).unwrap();
        let id = PictureId { value: 0x7abc, bits: 15, offset: 2 };
        let patch = PayloadPatch { picture_id: Some((id, 0x7abc)), ..patch };
        assert_eq!(got, SentPacket { patch, ..odd });
        sent.push(packet((1 << 33) + 1), 1200);
        assert_eq!(sent.get(1).unwrap(), packet((1 << 33) + 1), "nothing is patched");
    }

    #[test]
    fn as_much_is_remembered_as_is_kept() {
        let slow = |seq: u64| SentPacket { timestamp: (seq * 3_000) as u32, ..packet(seq) };
        let fast = |seq: u64| SentPacket { timestamp: (seq * 300) as u32, ..packet(seq) };
        let remembered = |of: &dyn Fn(u64) -> SentPacket| {
            let mut sent = SentHistory::new(VIDEO_WINDOW);
            (0..2_000).for_each(|seq| sent.push(of(seq), 1200));
            (0..2_000).filter(|seq| sent.get(*seq).is_some_and(|p| p.source.0 == u64::from(*seq) + 1000)).count()
        };
        assert_eq!(remembered(&slow), 128, "30 packets a second");
        assert_eq!(remembered(&fast), 512, "300 packets a second");
    }

    /// S-19, F-07
    #[test]
    fn nobody_gets_the_same_too_soon_too_often_or_beyond_the_budget() {
        let (mut sent, mut now, rtt) = (SentHistory::new(VIDEO_WINDOW), origin(), Duration::from_millis(50));
        sent.push(packet(1), 1200);
        for times in 1..=MAX_TIMES {
            assert!(sent.ask(now, 1, rtt, |_| Use::Shown).is_ok());
            assert!(sent.ask(now, 1, rtt, |_| Use::Shown).is_ok(), "it waits, and has not left");
            sent.again(now, 1);
            let refused = if times < MAX_TIMES { Refused::TooSoon } else { Refused::TooOften };
            assert_eq!(sent.ask(now + rtt / 2, 1, rtt, |_| Use::Shown), Err(refused));
            now += rtt;
        }
        assert_eq!(sent.ask(now, 1, rtt, |_| Use::Shown), Err(Refused::TooOften));
        sent.push(packet(2), 1200);
        sent.spend(70_000);
        assert_eq!(sent.ask(now, 2, rtt, |_| Use::Shown), Err(Refused::OverBudget));
        for seq in 3..100 {
            sent.push(packet(seq), 1200);
        }
        assert!(sent.ask(now, 2, rtt, |_| Use::Shown).is_ok(), "the stream earns its repairs");
        sent.push(SentPacket { temporal: Temporal(2), ..packet(200) }, 1200);
        assert_eq!(sent.ask(now, 200, rtt, |_| Use::Shown), Err(Refused::OverBudget), "the base comes first");
    }

    #[test]
    fn nothing_is_repaired_that_a_key_frame_or_a_lower_layer_has_made_useless() {
        let (mut sent, now, rtt) = (SentHistory::new(VIDEO_WINDOW), origin(), Duration::from_millis(50));
        (1..=4).for_each(|seq| sent.push(packet(seq), 1200));
        assert_eq!(sent.ask(now, 1, rtt, |_| Use::Missed), Err(Refused::Broken));
        assert_eq!(sent.ask(now, 1, rtt, |_| Use::None), Err(Refused::Useless));
        sent.begin_anew(SeqNo(3), 3_000);
        sent.begin_anew(SeqNo(4), 3_000);
        assert_eq!(sent.ask(now, 2, rtt, |_| Use::Missed), Err(Refused::Useless));
        assert!(sent.ask(now, 3, rtt, |_| Use::Shown).is_ok(), "a slice of the key frame itself");
    }
}
