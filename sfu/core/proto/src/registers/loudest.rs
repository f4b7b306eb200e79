//! Which microphones of a room are heard where only the loudest of them are.
//!
//! A microphone enters with the first packet in which somebody speaks, if one of those heard is silent: whoever was
//! silent longest gives way. While all of them speak, it must be clearly louder than the least of them for a moment.
//! Nobody leaves by himself, so that a room with no more microphones than are heard is never touched, and a pause for
//! breath costs no place. A publisher of many microphones that speak all the time has no more of the places than his
//! share where others speak, too. Asked once a packet of a microphone, with the work of looking through those heard;
//! nothing grows with the room.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use crate::ids::{TransportId, UptrackId};
use crate::rtp::AudioLevel;

/// −dBov at which sound counts as speech whatever its sender thinks of it, and up to which his own word counts (RFC 6464 §3).
const LOUD_DBOV: u8 = 45;
const VOICE_DBOV: u8 = 65;
/// Payloads up to this size are Opus' silence (RFC 6716 §3.1): what tells speech where no level is sent.
const SILENCE_BYTES: usize = 3;
/// Speech goes on over gaps shorter than this: between words and sentences of one speaker.
const PAUSE: Duration = Duration::from_millis(700);
/// Before a spurt counts as such, its first sound was too soft to count: breath and plosives.
const LEAD: Duration = Duration::from_millis(60);
/// What is older than this is not made up for: it would have to be played behind the others.
const LOOK_BACK: Duration = Duration::from_millis(200);
/// Who speaks among speakers is let in when louder by this (twice as loud to the ear is 10 dB), for this long, and not before
/// the one who gives way had his place for a while.
const MARGIN_DB: f32 = 6.0;
const RISE: Duration = Duration::from_millis(100);
const DWELL: Duration = Duration::from_secs(1);
/// Weight of a packet in the loudness: voices are known soon and not forgotten between syllables.
const ATTACK: f32 = 0.25;
const RELEASE: f32 = 0.05;

/// What one microphone sounded like lately; kept with its uptrack.
#[derive(Clone, Copy, Debug, Default)]
pub struct Voice {
    /// dB above digital silence, smoothed.
    loudness: f32,
    /// When the present or last spurt began, and its last sound.
    onset: Option<Instant>,
    last: Option<Instant>,
}

impl Voice {
    /// Takes one packet; whether somebody speaks in it. `level`: what the packet says of itself; `bytes` of its payload.
    fn hear(&mut self, now: Instant, level: Option<AudioLevel>, bytes: usize) -> bool {
        let (speaks, level_dbov) = match level {
            Some(AudioLevel { voice, level_dbov }) => {
                (level_dbov <= LOUD_DBOV || voice && level_dbov <= VOICE_DBOV, level_dbov)
            }
            None => (bytes > SILENCE_BYTES, if bytes > SILENCE_BYTES { LOUD_DBOV } else { 127 }),
        };
        let heard = 127.0 - f32::from(level_dbov.min(127));
        if speaks {
            if !self.is_speaking(now) {
                self.onset = Some(now);
                self.loudness = heard;
            }
            self.last = Some(now);
        }
        self.loudness += (heard - self.loudness) * if heard > self.loudness { ATTACK } else { RELEASE };
        speaks
    }

    fn is_speaking(&self, now: Instant) -> bool {
        self.last.is_some_and(|at| now.saturating_duration_since(at) < PAUSE)
    }

    /// Least first: the silent by how long they have been, then the speaking by loudness.
    fn rank(&self, other: &Self, now: Instant) -> Ordering {
        match (self.is_speaking(now), other.is_speaking(now)) {
            (false, false) => self.last.cmp(&other.last),
            (true, true) => self.loudness.total_cmp(&other.loudness),
            (speaks, other) => speaks.cmp(&other),
        }
    }
}

/// What a packet means for its microphone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Heard,
    Unheard,
    /// Heard from now on, with what was said since `since`; another may have given way.
    Enters {
        since: Instant,
        instead_of: Option<UptrackId>,
    },
}

/// Those heard in one room.
#[derive(Debug)]
pub struct Loudest {
    limit: usize,
    heard: Vec<Member>,
    /// How many of them each publisher has, if any.
    held: Vec<(TransportId, usize)>,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    uptrack: UptrackId,
    publisher: TransportId,
    voice: Voice,
    since: Instant,
}

impl Loudest {
    /// `limit`: microphones heard at once, 1 at least.
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), heard: Vec::new(), held: Vec::new() }
    }

    /// Takes a packet of a microphone that is not muted; `level` and `bytes` as the packet and its payload have them.
    pub fn observe(
        &mut self,
        now: Instant,
        publisher: TransportId,
        uptrack: UptrackId,
        voice: &mut Voice,
        level: Option<AudioLevel>,
        bytes: usize,
    ) -> Standing {
        let speaks = voice.hear(now, level, bytes);
        if let Some(member) = self.heard.iter_mut().find(|member| member.uptrack == uptrack) {
            member.voice = *voice;
            return Standing::Heard;
        }
        let entering = Member { uptrack, publisher, voice: *voice, since: now };
        let onset = voice.onset.filter(|_| speaks);
        let earliest = now.checked_sub(LOOK_BACK).unwrap_or(now);
        let since = onset.map_or(now, |at| at.checked_sub(LEAD).unwrap_or(at).max(earliest));
        if self.heard.len() < self.limit {
            self.heard.push(entering);
            self.gains(publisher);
            return Standing::Enters { since, instead_of: None };
        }
        let Some(place) = onset.and_then(|onset| self.gives_way(now, &entering, onset)) else {
            return Standing::Unheard;
        };
        let left = std::mem::replace(&mut self.heard[place], entering);
        self.loses(left.publisher);
        self.gains(publisher);
        Standing::Enters { since, instead_of: Some(left.uptrack) }
    }

    /// A microphone is muted or gone: its place is free.
    pub fn leave(&mut self, uptrack: UptrackId) {
        if let Some(place) = self.heard.iter().position(|member| member.uptrack == uptrack) {
            let left = self.heard.remove(place);
            self.loses(left.publisher);
        }
    }

    /// Where all places are taken: the one for a microphone in which somebody has been speaking since `onset`, if any
    /// is.
    ///
    /// The silent give way to anybody. Where all speak, publishers have equal shares: who has fewer places than that
    /// gets one of whoever has most, at once and however loud that one is; who has as many or more takes them from
    /// himself alone.
    fn gives_way(&self, now: Instant, entering: &Member, onset: Instant) -> Option<usize> {
        let least = self.least(now, None)?;
        if !self.heard[least].voice.is_speaking(now) {
            return Some(least);
        }
        let own = self.held.iter().find(|(publisher, _)| *publisher == entering.publisher).map_or(0, |(_, held)| *held);
        let share = (self.limit / (self.held.len() + usize::from(own == 0))).max(1);
        let &(richest, most) = self.held.iter().max_by_key(|(_, held)| *held)?;
        if own < share && most > share {
            return self.least(now, Some(richest));
        }
        let place = if own < share { least } else { self.least(now, Some(entering.publisher))? };
        let other = &self.heard[place];
        let is_louder = entering.voice.loudness >= other.voice.loudness + MARGIN_DB
            && now.saturating_duration_since(onset) >= RISE
            && now.saturating_duration_since(other.since) >= DWELL;
        is_louder.then_some(place)
    }

    /// The place of the least of all that are heard, or of one publisher's.
    fn least(&self, now: Instant, of: Option<TransportId>) -> Option<usize> {
        let members = self.heard.iter().enumerate();
        let members = members.filter(|(_, member)| of.is_none_or(|publisher| publisher == member.publisher));
        members.min_by(|(_, a), (_, b)| a.voice.rank(&b.voice, now)).map(|(place, _)| place)
    }

    fn gains(&mut self, publisher: TransportId) {
        match self.held.iter_mut().find(|(other, _)| *other == publisher) {
            Some((_, held)) => *held += 1,
            None => self.held.push((publisher, 1)),
        }
    }

    fn loses(&mut self, publisher: TransportId) {
        if let Some((_, held)) = self.held.iter_mut().find(|(other, _)| *other == publisher) {
            *held -= 1;
        }
        self.held.retain(|(_, held)| *held > 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACKET: Duration = Duration::from_millis(20);
    const QUIET: Option<AudioLevel> = Some(AudioLevel { voice: false, level_dbov: 80 });

    fn speech(level_dbov: u8) -> Option<AudioLevel> {
        Some(AudioLevel { voice: true, level_dbov })
    }

    struct Room {
        now: Instant,
        loudest: Loudest,
        voices: Vec<Voice>,
        /// Of each microphone; everybody has one unless said otherwise.
        publishers: Vec<TransportId>,
        entries: Vec<(Instant, usize, Instant)>,
    }

    impl Room {
        fn new(limit: usize, microphones: usize) -> Self {
            #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
            let now = Instant::now() + Duration::from_secs(10);
            Self {
                now,
                loudest: Loudest::new(limit),
                voices: vec![Voice::default(); microphones],
                publishers: (0..microphones as u64).map(TransportId).collect(),
                entries: Vec::new(),
            }
        }

        /// One packet of everybody, `times` times.
        fn run(&mut self, times: usize, level: impl Fn(usize) -> Option<AudioLevel>) {
            for _ in 0..times {
                self.now += PACKET;
                for index in 0..self.voices.len() {
                    self.packet(index, level(index));
                }
            }
        }

        fn packet(&mut self, index: usize, level: Option<AudioLevel>) -> Standing {
            let id = UptrackId(index as u64);
            let publisher = self.publishers[index];
            let standing = self.loudest.observe(self.now, publisher, id, &mut self.voices[index], level, 80);
            if let Standing::Enters { since, instead_of } = standing {
                assert!(instead_of.is_none_or(|id| !self.is_heard(id.0 as usize)));
                assert!(since <= self.now && self.now - since <= LOOK_BACK);
                self.entries.push((self.now, index, since));
            }
            standing
        }

        fn is_heard(&self, index: usize) -> bool {
            self.loudest.heard.iter().any(|member| member.uptrack == UptrackId(index as u64))
        }
    }

    #[test]
    fn a_small_room_is_never_touched() {
        let mut room = Room::new(3, 3);
        room.run(1, |_| QUIET);
        room.run(500, |index| speech(20 + 20 * index as u8));
        assert_eq!(room.entries.len(), 3);
    }

    #[test]
    fn whoever_begins_to_speak_is_heard_from_his_first_packet_and_a_little_before() {
        let mut room = Room::new(3, 6);
        room.run(100, |_| QUIET);
        for turn in 0..12 {
            let speaker = turn % 6;
            room.now += PACKET;
            match room.packet(speaker, speech(40)) {
                Standing::Heard => assert!(turn < 3, "the last three were others"),
                Standing::Enters { since, .. } => assert_eq!(since, room.now - LEAD),
                Standing::Unheard => panic!("{speaker} is not heard"),
            }
            room.run(75, |index| if index == speaker { speech(40) } else { QUIET });
            assert!(room.is_heard(speaker));
        }
    }

    #[test]
    fn among_speakers_only_a_clearly_louder_one_gets_in_and_nobody_alternates() {
        let mut room = Room::new(3, 4);
        room.run(200, |index| if index < 3 { speech(30) } else { QUIET });
        room.run(200, |index| speech(if index == 3 { 28 } else { 30 }));
        assert!(!room.is_heard(3), "a little louder is not enough");
        room.entries.clear();
        let shouting = room.now;
        room.run(200, |index| speech(if index == 3 { 15 } else { 30 }));
        assert!(room.is_heard(3));
        let [(at, 3, since)] = room.entries[..] else { panic!("{:?}", room.entries) };
        assert!(at - shouting <= Duration::from_millis(400), "{:?}", at - shouting);
        assert_eq!(at - since, LOOK_BACK, "he had been speaking");
    }

    #[test]
    fn a_place_is_kept_over_a_breath_and_given_up_by_a_mute() {
        let mut room = Room::new(1, 2);
        room.run(100, |index| if index == 0 { speech(30) } else { QUIET });
        room.run(20, |_| QUIET);
        room.now += PACKET;
        assert_eq!(room.packet(1, speech(30)), Standing::Unheard, "400 ms are a breath");
        room.loudest.leave(UptrackId(0));
        assert!(matches!(room.packet(1, speech(30)), Standing::Enters { instead_of: None, .. }));
    }

    #[test]
    fn without_levels_the_size_of_the_packet_tells() {
        let mut room = Room::new(1, 2);
        room.packet(0, QUIET);
        let (loudest, publisher) = (&mut room.loudest, room.publishers[1]);
        let mut standing = |bytes| loudest.observe(room.now, publisher, UptrackId(1), &mut room.voices[1], None, bytes);
        assert_eq!(standing(1), Standing::Unheard);
        assert!(matches!(standing(80), Standing::Enters { .. }));
    }

    #[test]
    fn who_has_many_loud_microphones_takes_no_place_from_those_who_speak() {
        let mut room = Room::new(3, 6);
        room.publishers = [0, 0, 0, 0, 1, 2].map(TransportId).to_vec();
        let shouting = |index: usize| if index < 4 { speech(0) } else { QUIET };
        room.run(100, shouting);
        assert!((0..3).all(|index| room.is_heard(index)), "places that nobody needs");
        for _ in 0..3 {
            for speaker in [4, 5] {
                room.now += PACKET;
                assert!(matches!(room.packet(speaker, speech(40)), Standing::Enters { .. } | Standing::Heard));
            }
            room.run(100, |index| if index < 4 { speech(0) } else { speech(40) });
            assert!(room.is_heard(4) && room.is_heard(5), "also while all speak");
            assert_eq!((0..4).filter(|index| room.is_heard(*index)).count(), 1, "and his share stays his");
            room.run(100, shouting);
        }
    }

    proptest! {
        /// However many microphones one client has, and however loud: the others are heard as soon as they speak.
        #[test]
        fn nobody_is_silenced_by_who_has_many(
            limit in 3usize..6,
            script in prop::collection::vec((0usize..8, 0u8..127, any::<bool>(), 1u8..60, any::<bool>()), 1..200),
        ) {
            let mut room = Room::new(limit, 8);
            room.publishers = [0, 0, 0, 0, 0, 0, 1, 2].map(TransportId).to_vec();
            let mut levels = [QUIET; 8];
            for (index, level_dbov, voice, packets, leaves) in script {
                levels[index] = Some(AudioLevel { voice, level_dbov });
                if leaves {
                    room.loudest.leave(UptrackId(index as u64));
                }
                for _ in 0..packets {
                    room.now += PACKET;
                    for (index, level) in levels.iter().enumerate() {
                        room.packet(index, *level);
                        let publisher = room.publishers[index];
                        let heard = &room.loudest.heard;
                        let own = heard.iter().filter(|member| member.publisher == publisher).count();
                        if level.is_some_and(|level| level.level_dbov <= LOUD_DBOV) {
                            prop_assert!(own > 0, "{index} speaks");
                        }
                        let held = room.loudest.held.iter().find(|(other, _)| *other == publisher);
                        prop_assert_eq!(held.map_or(0, |(_, held)| *held), own);
                        prop_assert!(heard.len() <= limit);
                    }
                }
            }
        }

        /// Whatever happens: never more than so many; while no more speak than are heard, all of them are; and who came in by
        /// speaking does not go and come again within a pause.
        #[test]
        fn never_too_many_and_never_the_only_speaker_missing(
            limit in 1usize..5,
            script in prop::collection::vec((0usize..8, 0u8..127, any::<bool>(), 1u8..60), 1..200),
        ) {
            let mut room = Room::new(limit, 8);
            let mut levels = [QUIET; 8];
            let mut spoke = [None; 8];
            for (index, level_dbov, voice, packets) in script {
                levels[index] = Some(AudioLevel { voice, level_dbov });
                for _ in 0..packets {
                    room.now += PACKET;
                    for (index, level) in levels.iter().enumerate() {
                        let was_heard = room.is_heard(index);
                        let before = room.entries.len();
                        room.packet(index, *level);
                        prop_assert!(room.loudest.heard.len() <= limit);
                        if level.is_some_and(|l| l.level_dbov <= LOUD_DBOV) {
                            spoke[index] = Some(room.now);
                        }
                        if room.entries.len() > before {
                            prop_assert!(!was_heard);
                        }
                    }
                    let speaking = |i: &usize| room.voices[*i].is_speaking(room.now);
                    let speakers: Vec<usize> = (0..8).filter(speaking).collect();
                    if speakers.len() <= limit {
                        for index in speakers.iter().filter(|i| spoke[**i] == Some(room.now)) {
                            prop_assert!(room.is_heard(*index), "{index} of {speakers:?}");
                        }
                    }
                }
            }
            let mut last_entry = [None::<Instant>; 8];
            for (at, index, _) in room.entries.iter().filter(|(at, _, since)| since < at) {
                if let Some(before) = last_entry[*index].replace(*at) {
                    prop_assert!(*at - before >= PAUSE.min(DWELL), "{index} in and out within {:?}", *at - before);
                }
            }
        }
    }
}
