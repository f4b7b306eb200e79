//! Where only the loudest microphones of a room are heard: never more, no first syllable lost, no gap to ask for or conceal.

use std::time::{Duration, Instant};

use callyard_peer::World;
use callyard_peer::client::{Outgoing, Received};
use callyard_peer::media::{LEVEL_ID, Source, subscribe};
use callyard_peer::netem::LinkConfig;
use callyard_proto::command::{Command, Content, DtlsRole, Want};
use callyard_proto::config::Config;
use callyard_proto::ids::DowntrackId;

const PEOPLE: usize = 6;
const LIMIT: usize = 3;
const PACKET: Duration = Duration::from_millis(20);
const SPEECH: u8 = 0x80 | 30;
const QUIET: u8 = 80;

/// Six people with a microphone each; everybody hears everybody else.
struct Meeting {
    world: World,
    sources: Vec<Source>,
    /// When each packet of each microphone was sent, and its level.
    sent: Vec<Vec<(Instant, u8)>>,
}

impl Meeting {
    fn new(seed: u64, link: &LinkConfig, screen: Option<usize>) -> Self {
        let mut world = World::with_config(seed, Config { loudest_microphones: LIMIT, ..Config::default() });
        for _ in 0..PEOPLE {
            world.add_client(DtlsRole::Server, link.clone());
        }
        world.connect();
        let sources: Vec<Source> =
            (0..PEOPLE).map(|person| Source::audio(person, 1 + person as u64, 9_000 + person as u32)).collect();
        for (person, source) in sources.iter().enumerate() {
            let mut spec = source.spec();
            spec.content = if screen == Some(person) { Content::Screen } else { Content::Camera };
            world.apply(Command::AddUptrack(spec));
        }
        for listener in 0..PEOPLE {
            for source in sources.iter().filter(|s| s.client != listener) {
                let (id, ssrc) = Self::ids(listener, source.client);
                subscribe(&mut world, listener, source, id, ssrc, Want::default());
            }
        }
        Self { world, sources, sent: vec![Vec::new(); PEOPLE] }
    }

    /// Downtrack and ssrc of one person's microphone for another.
    fn ids(listener: usize, speaker: usize) -> (u64, u32) {
        (100 + 10 * listener as u64 + speaker as u64, 4_000 + 10 * listener as u32 + speaker as u32)
    }

    fn run(&mut self, time: Duration, level: impl Fn(usize) -> u8) {
        let end = self.world.now + time;
        while self.world.now < end {
            for (person, source) in self.sources.iter_mut().enumerate() {
                let level = level(person);
                for mut packet in source.next_packets(0) {
                    packet.extensions.retain(|(id, _)| *id != LEVEL_ID);
                    packet.extensions.push((LEVEL_ID, vec![level]));
                    packet.payload[0] = 0x78;
                    let padding = Outgoing { seq: packet.seq.wrapping_add(1), payload: Vec::new(), ..packet.clone() };
                    self.world.clients[person].send_rtp(packet);
                    // A publisher's probe now and then: bare padding in numbers of the same stream.
                    if self.sent[person].len() % 5 == 3 {
                        source.streams[0].seq = source.streams[0].seq.wrapping_add(1);
                        self.world.clients[person].send_rtp(padding);
                    }
                }
                self.sent[person].push((self.world.now, level));
            }
            self.world.flush();
            self.world.run(PACKET);
        }
        // What is under way arrives.
        self.world.run(Duration::from_millis(100));
    }

    fn got(&self, listener: usize, speaker: usize) -> Vec<&Received> {
        self.world.clients[listener].of(Self::ids(listener, speaker).1).collect()
    }
}

/// Number of a packet among all that its microphone sent, from 0; `None`: it is a goodbye.
fn frame(packet: &Received) -> Option<usize> {
    let bytes = packet.payload.get(1..5)?;
    Some(u32::from_be_bytes(bytes.try_into().unwrap()) as usize - 1)
}

/// What a receiver needs so that he neither asks again nor conceals.
fn is_continuous(packets: &[&Received]) {
    for pair in packets.windows(2) {
        assert_eq!(pair[1].seq, pair[0].seq.wrapping_add(1), "no number is missing");
        let step = pair[1].timestamp.wrapping_sub(pair[0].timestamp);
        assert!(step < 1 << 31 && step % 960 == 0, "{step}");
        if let (Some(a), Some(b)) = (frame(pair[0]), frame(pair[1])) {
            assert_eq!(step as usize, (b - a) * 960, "the publisher's clock goes on");
            assert_eq!(b, a + 1, "what is left out begins with a goodbye");
        }
    }
}

#[test]
fn everybody_who_speaks_in_turn_is_heard_from_the_first_syllable() {
    let mut meeting = Meeting::new(7, &LinkConfig::default(), None);
    meeting.run(Duration::from_secs(1), |_| QUIET);
    for turn in 0..2 * PEOPLE {
        meeting.run(Duration::from_millis(1_500), |person| if person == turn % PEOPLE { SPEECH } else { QUIET });
    }
    for listener in 0..PEOPLE {
        for speaker in (0..PEOPLE).filter(|s| *s != listener) {
            let packets = meeting.got(listener, speaker);
            is_continuous(&packets);
            let frames: Vec<usize> = packets.iter().filter_map(|p| frame(p)).collect();
            for (number, (_, level)) in meeting.sent[speaker].iter().enumerate() {
                if *level == SPEECH {
                    assert!(frames.contains(&number), "packet {number} of {speaker} is missing for {listener}");
                }
            }
        }
        let sent = meeting.sent[0].len();
        let heard: usize =
            (0..PEOPLE).filter(|s| *s != listener).flat_map(|s| meeting.got(listener, s)).filter_map(frame).count();
        assert!(heard <= sent * LIMIT + 4 * PEOPLE * 2, "{heard} packets for {sent} sent by each");
        assert_eq!(meeting.world.clients[listener].resent, 0);
    }
}

#[test]
fn never_more_than_so_many_however_many_speak() {
    let link = LinkConfig { delay: Duration::from_millis(20), loss: 0.03, ..LinkConfig::default() };
    let mut meeting = Meeting::new(11, &link, None);
    // Each louder than the next by more than the margin: whoever comes first where a packet is lost gives way in time.
    meeting.run(Duration::from_secs(3), |person| 0x80 | (20 + 7 * person as u8));
    meeting.run(Duration::from_secs(2), |person| 0x80 | (55 - 7 * person as u8));
    for listener in 0..PEOPLE {
        let mut by_time: Vec<(Instant, usize)> = (0..PEOPLE)
            .filter(|s| *s != listener)
            .flat_map(|s| meeting.got(listener, s).into_iter().filter(|p| frame(p).is_some()).map(move |p| (p.at, s)))
            .collect();
        by_time.sort_unstable();
        let end = meeting.world.now;
        let last = |since: Duration, until: Duration| {
            let mut speakers: Vec<usize> =
                by_time.iter().filter(|(at, _)| *at >= end - since && *at < end - until).map(|(_, s)| *s).collect();
            speakers.sort_unstable();
            speakers.dedup();
            speakers
        };
        let expected = |of: [usize; LIMIT]| of.into_iter().filter(|s| *s != listener).collect::<Vec<_>>();
        assert_eq!(last(Duration::from_secs(3), Duration::from_millis(2_100)), expected([0, 1, 2]), "the loud ones");
        assert_eq!(last(Duration::from_millis(500), Duration::ZERO), expected([3, 4, 5]), "then the others are louder");
    }
}

#[test]
fn screens_and_favoured_voices_are_always_heard() {
    let mut meeting = Meeting::new(3, &LinkConfig::default(), Some(5));
    let loud_are_first = |person: usize| if person < LIMIT { SPEECH } else { QUIET };
    meeting.run(Duration::from_secs(1), loud_are_first);
    assert_eq!(meeting.got(0, 4).len(), 0, "not among the loudest");
    assert_eq!(meeting.got(0, 5).len(), meeting.sent[5].len(), "a screen's sound is no microphone");
    let (downtrack, _) = Meeting::ids(0, 4);
    let favour = |priority| Command::SetDowntrack {
        downtrack: DowntrackId(downtrack),
        want: Want { priority, ..Want::default() },
    };
    for priority in [1, 0, 1] {
        meeting.world.apply(favour(priority));
        let before = (meeting.got(0, 4).len(), meeting.got(1, 4).len());
        meeting.run(Duration::from_secs(1), loud_are_first);
        let more = (meeting.got(0, 4).len() - before.0, meeting.got(1, 4).len() - before.1);
        assert_eq!(more, (if priority > 0 { 50 } else { 0 }, 0), "only for who asked");
    }
    let numbers: Vec<u16> = meeting.got(0, 4).iter().map(|p| p.seq).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)), "{numbers:?}");
    // Now he speaks, while the others are silent: nobody gets a packet twice.
    meeting.run(Duration::from_secs(1), |person| if person == 4 { SPEECH } else { QUIET });
    let frames: Vec<usize> = meeting.got(0, 4).iter().filter_map(|p| frame(p)).collect();
    assert!(frames.windows(2).all(|pair| pair[1] > pair[0]), "{frames:?}");
    assert!(meeting.got(1, 4).len() >= 50);
}

#[test]
fn one_client_with_many_microphones_silences_nobody() {
    let mut world = World::with_config(13, Config { loudest_microphones: LIMIT, ..Config::default() });
    for _ in 0..4 {
        world.add_client(DtlsRole::Server, LinkConfig::default());
    }
    world.connect();
    let many = LIMIT + 2;
    let mut sources: Vec<Source> = (0..many as u64).map(|i| Source::audio(0, 1 + i, 9_000 + i as u32)).collect();
    sources.extend([Source::audio(1, 20, 9_100), Source::audio(2, 21, 9_200)]);
    let (listener, ssrc) = (3, |index: usize| 4_000 + index as u32);
    for (index, source) in sources.iter().enumerate() {
        source.publish(&mut world);
        subscribe(&mut world, listener, source, 30 + index as u64, ssrc(index), Want::default());
    }
    // Each turn begins with the two who are silent.
    for turn in 0..6 {
        let (began, speaks) = (world.now, turn % 2 == 1);
        while world.now < began + Duration::from_secs(1) {
            for (index, source) in sources.iter_mut().enumerate() {
                let level = match index < many {
                    true => 0x80,
                    false if speaks => SPEECH,
                    false => QUIET,
                };
                for mut packet in source.next_packets(0) {
                    packet.extensions.retain(|(id, _)| *id != LEVEL_ID);
                    packet.extensions.push((LEVEL_ID, vec![level]));
                    packet.payload[0] = 0x78;
                    world.clients[source.client].send_rtp(packet);
                }
            }
            world.flush();
            world.run(PACKET);
        }
        let heard = |index: usize| world.clients[listener].of(ssrc(index)).filter(move |packet| packet.at >= began);
        if speaks {
            for person in [many, many + 1] {
                let first = heard(person).next().expect("a sound").at;
                assert!(first - began < Duration::from_millis(300), "{:?} in turn {turn}", first - began);
                assert!(heard(person).count() >= 45, "{} packets in turn {turn}", heard(person).count());
            }
        }
        assert!((0..many).map(|index| heard(index).count()).sum::<usize>() >= 45, "he is heard as well");
    }
}

#[test]
fn a_mute_frees_the_place_and_who_comes_back_is_heard_again() {
    let mut meeting = Meeting::new(5, &LinkConfig::default(), None);
    meeting.run(Duration::from_secs(1), |person| if person < LIMIT { SPEECH } else { QUIET });
    let mute = |person: u64, muted| Command::UpdateUptrack {
        uptrack: callyard_proto::ids::UptrackId(1 + person),
        muted,
        layers: None,
    };
    meeting.world.apply(mute(0, true));
    meeting.run(Duration::from_secs(1), |person| if (1..=LIMIT).contains(&person) { SPEECH } else { QUIET });
    assert!(meeting.got(5, 3).len() >= 50, "the next one has the free place");
    let before = meeting.got(5, 0).len();
    meeting.world.apply(mute(0, false));
    meeting.run(Duration::from_secs(2), |person| if person == 0 { SPEECH } else { QUIET });
    assert!(meeting.got(5, 0).len() >= before + 60, "and gives way again");
    let numbers: Vec<u16> = meeting.got(5, 0).iter().map(|p| p.seq).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)), "{numbers:?}");
}
