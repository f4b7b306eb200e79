//! Associations of two ends over a link of virtual time, and against peers that lie.

use super::*;

struct Ends {
    now: Instant,
    ours: Sctp,
    theirs: Sctp,
    our_events: Vec<SctpEvent>,
    their_events: Vec<SctpEvent>,
    is_cut: bool,
}

impl Ends {
    fn new(config: &Config) -> Self {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        let now = Instant::now();
        Self {
            now,
            ours: Sctp::new(config, DtlsRole::Server),
            theirs: Sctp::new(config, DtlsRole::Client),
            our_events: Vec::new(),
            their_events: Vec::new(),
            is_cut: false,
        }
    }

    /// Lets both ends say what they have to say `step` later; `on_way` may change it, or lose it.
    fn pass(&mut self, step: Duration, mut on_way: impl FnMut(Vec<u8>) -> Option<Vec<u8>>) {
        self.now += step;
        let mut packets = VecDeque::new();
        for to_us in [true, false] {
            let (from, to) =
                if to_us { (&mut self.theirs, &mut self.ours) } else { (&mut self.ours, &mut self.theirs) };
            from.timeout(self.now);
            from.poll_packet(self.now, &mut packets);
            for packet in packets.drain(..).filter_map(|packet| on_way(packet.to_vec())) {
                to.receive(self.now, &packet);
            }
        }
    }

    /// Lets both ends talk over a lossless path of 10 ms each way.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let is_cut = self.is_cut;
            self.pass(Duration::from_millis(10), |packet| Some(packet).filter(|_| !is_cut));
            self.our_events.extend(std::iter::from_fn(|| self.ours.poll_event()));
            self.their_events.extend(std::iter::from_fn(|| self.theirs.poll_event()));
        }
    }
}

fn reliable() -> ChannelSpec {
    ChannelSpec { label: "_reliable".to_owned(), ordered: true, max_retransmits: None }
}

fn lossy() -> ChannelSpec {
    ChannelSpec { label: "_lossy".to_owned(), ordered: false, max_retransmits: Some(0) }
}

fn open(label: &str) -> SctpEvent {
    SctpEvent::ChannelOpen { label: label.to_owned() }
}

fn message(label: &str, payload: &[u8]) -> SctpEvent {
    SctpEvent::Message { label: label.to_owned(), payload: payload.to_vec() }
}

#[test]
fn either_side_opens_and_messages_pass_both_ways() {
    for ours_opens in [true, false] {
        let mut ends = Ends::new(&Config::default());
        let now = ends.now;
        if ours_opens { &mut ends.ours } else { &mut ends.theirs }.open(now, [reliable(), lossy()]);
        ends.run(Duration::from_secs(2));
        let mut expected = vec![open("_lossy"), open("_reliable")];
        for events in [&mut ends.our_events, &mut ends.their_events] {
            events.sort_by_key(|e| format!("{e:?}"));
            assert_eq!(*events, expected);
            events.clear();
        }
        let now = ends.now;
        let big = vec![7; 60_000];
        assert_eq!(ends.ours.send(now, "_reliable", &big), Sent::Queued);
        assert_eq!(ends.ours.send(now, "_reliable", b""), Sent::Queued);
        assert_eq!(ends.theirs.send(now, "_lossy", b"up"), Sent::Queued);
        assert_eq!(ends.ours.send(now, "_other", b"x"), Sent::NoChannel);
        assert_eq!(ends.ours.send(now, "_reliable", &vec![0; 65_537]), Sent::TooLarge);
        ends.run(Duration::from_secs(1));
        assert_eq!(ends.our_events, [message("_lossy", b"up")]);
        assert_eq!(ends.their_events, [message("_reliable", &big), message("_reliable", b"")]);
        expected.clear();
    }
}

/// CRC32c, bit by bit (RFC 9260 Appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

#[test]
fn rfc_3720_b4_crc32c() {
    let ascending: Vec<u8> = (0..32).collect();
    let descending: Vec<u8> = (0..32).rev().collect();
    let vectors: [(&[u8], [u8; 4]); 5] = [
        (&[0; 32], [0xaa, 0x36, 0x91, 0x8a]),
        (&[0xff; 32], [0x43, 0xab, 0xa8, 0x62]),
        (&ascending, [0x4e, 0x79, 0xdd, 0x46]),
        (&descending, [0x5c, 0xdb, 0x3f, 0x11]),
        (b"123456789", [0x83, 0x92, 0x06, 0xe3]),
    ];
    for (bytes, on_the_wire) in vectors {
        assert_eq!(crc32c(bytes).to_le_bytes(), on_the_wire);
    }
}

#[test]
fn packets_bear_their_checksum_and_without_it_are_nothing() {
    for is_broken in [false, true] {
        let config = Config::default();
        let mut ends = Ends::new(&config);
        let now = ends.now;
        ends.theirs.open(now, [reliable()]);
        ends.theirs.connect(now);
        let mut seen = 0;
        for _ in 0..50 {
            ends.pass(Duration::from_millis(20), |mut packet| {
                let (claimed, _) = packet[8..].split_first_chunk::<4>().expect("a common header");
                let claimed = *claimed;
                packet[8..12].fill(0);
                assert_eq!(crc32c(&packet).to_le_bytes(), claimed);
                packet[8..12].copy_from_slice(&claimed);
                packet[8] ^= u8::from(is_broken);
                seen += 1;
                Some(packet)
            });
        }
        assert!(seen > if is_broken { 0 } else { 4 }, "{seen}");
        assert_eq!(ends.ours.is_open("_reliable"), !is_broken);
    }
}

#[test]
fn crossing_associations_end_in_one() {
    let mut ends = Ends::new(&Config::default());
    let now = ends.now;
    ends.ours.open(now, [reliable()]);
    ends.theirs.open(now, [lossy()]);
    ends.ours.connect(now);
    ends.theirs.connect(now);
    ends.run(Duration::from_secs(5));
    assert!(ends.ours.is_open("_reliable") && ends.ours.is_open("_lossy"), "{:?}", ends.our_events);
    assert!(ends.theirs.is_open("_reliable") && ends.theirs.is_open("_lossy"), "{:?}", ends.their_events);
}

/// S-29, F-37
#[test]
fn lossy_drops_its_oldest_and_reliable_is_reset_when_its_reader_stalls() {
    let config = Config::default();
    let mut ends = Ends::new(&config);
    let now = ends.now;
    ends.theirs.open(now, [reliable(), lossy()]);
    ends.run(Duration::from_secs(2));
    ends.our_events.clear();
    ends.is_cut = true;
    let now = ends.now;
    let mut displaced = 0;
    for _ in 0..40 {
        if let Sent::Displaced(n) = ends.ours.send(now, "_lossy", &[1; 10_000]) {
            displaced += n;
        }
        ends.ours.send(now, "_reliable", &[1; 50_000]);
    }
    assert!(displaced > 15, "{displaced} messages gave way");
    ends.run(Duration::from_secs(9));
    assert_eq!(ends.our_events, []);
    ends.run(Duration::from_secs(2));
    assert_eq!(ends.our_events, [SctpEvent::Stalled { label: "_reliable".to_owned() }]);
    assert!(!ends.ours.is_open("_reliable"));
}

/// S-29
#[test]
fn a_reliable_queue_never_outgrows_its_hard_cap() {
    let config = Config::default();
    let mut ends = Ends::new(&config);
    let now = ends.now;
    ends.theirs.open(now, [reliable()]);
    ends.run(Duration::from_secs(2));
    ends.is_cut = true;
    let now = ends.now;
    let outcomes: Vec<Sent> = (0..200).map(|_| ends.ours.send(now, "_reliable", &[1; 50_000])).collect();
    let accepted = outcomes.iter().filter(|s| **s == Sent::Queued).count();
    assert!(accepted * 50_000 < 5 * 1024 * 1024, "{accepted} accepted");
    assert_eq!(outcomes.last(), Some(&Sent::NoChannel));
}

/// S-28
#[test]
fn garbage_and_floods_of_init_leave_an_association_up() {
    let mut ends = Ends::new(&Config::default());
    let now = ends.now;
    ends.theirs.open(now, [reliable()]);
    ends.run(Duration::from_secs(2));
    for i in 0..100u8 {
        let mut other = Sctp::new(&Config::default(), DtlsRole::Client);
        other.connect(ends.now);
        let mut packets = VecDeque::new();
        other.poll_packet(ends.now, &mut packets);
        for packet in packets {
            ends.ours.receive(ends.now, &packet);
        }
        ends.ours.receive(ends.now, &vec![i; usize::from(i)]);
    }
    let now = ends.now;
    ends.theirs.send(now, "_reliable", b"still here");
    ends.our_events.clear();
    ends.run(Duration::from_secs(1));
    assert_eq!(ends.our_events, [message("_reliable", b"still here")]);
}

/// One that puts DATA of its own making under the association of `theirs`.
struct Forger {
    header: Vec<u8>,
    next: u32,
}

impl Forger {
    fn new(ends: &mut Ends) -> Self {
        let mut packets = VecDeque::new();
        ends.theirs.send(ends.now, "_reliable", b"true");
        ends.theirs.poll_packet(ends.now, &mut packets);
        let packet = packets.pop_front().expect("a message is sent at once");
        assert_eq!((packets.len(), packet[12]), (0, 0), "one chunk of DATA");
        assert_eq!(ends.ours.receive(ends.now, &packet), None);
        let tsn = u32::from_be_bytes([packet[16], packet[17], packet[18], packet[19]]);
        Self { header: packet[..8].to_vec(), next: tsn.wrapping_add(1) }
    }

    fn data(&mut self, flags: u8, stream: u16, ssn: u16, bytes: usize) -> Vec<u8> {
        let mut chunk = vec![0, flags];
        chunk.extend_from_slice(&(16 + bytes as u16).to_be_bytes());
        chunk.extend_from_slice(&self.next.to_be_bytes());
        chunk.extend_from_slice(&stream.to_be_bytes());
        chunk.extend_from_slice(&ssn.to_be_bytes());
        chunk.extend_from_slice(&[0, 0, 0, 53]);
        chunk.resize((16 + bytes).next_multiple_of(4), 0);
        self.next = self.next.wrapping_add(1);
        chunk
    }

    fn packet(&self, chunks: &[Vec<u8>]) -> Vec<u8> {
        let mut packet = [&self.header[..], &[0; 4], &chunks.concat()].concat();
        let checksum = crc32c(&packet).to_le_bytes();
        packet[8..12].copy_from_slice(&checksum);
        packet
    }
}

/// Packets of `chunks` for so long, 10 ms apart; what became of them. What is sent back is not listened to.
fn flood(
    ends: &mut Ends,
    seconds: u32,
    packets_at_once: usize,
    mut chunks: impl FnMut(&mut Forger) -> Vec<Vec<u8>>,
) -> HashMap<Option<DropReason>, usize> {
    ends.theirs.open(ends.now, [reliable()]);
    ends.run(Duration::from_secs(2));
    let mut forger = Forger::new(ends);
    ends.our_events.clear();
    let (mut became, mut out) = (HashMap::new(), VecDeque::new());
    for _ in 0..seconds * 100 {
        ends.now += Duration::from_millis(10);
        ends.ours.timeout(ends.now);
        for _ in 0..packets_at_once {
            let before = forger.next;
            let chunks = chunks(&mut forger);
            let reason = ends.ours.receive(ends.now, &forger.packet(&chunks));
            if reason == Some(DropReason::DataOverRate) {
                // As one who sends again what is not acknowledged.
                forger.next = before;
            }
            *became.entry(reason).or_default() += 1;
            ends.ours.poll_packet(ends.now, &mut out);
            out.clear();
            if ends.ours.is_lost {
                break;
            }
        }
        ends.our_events.extend(std::iter::from_fn(|| ends.ours.poll_event()));
        if ends.ours.is_lost {
            break;
        }
    }
    became
}

const UNORDERED: u8 = 4;
const BEGINNING: u8 = 2;
const ENDING: u8 = 1;

/// S-28
#[test]
fn data_without_data_and_of_streams_never_offered_is_not_taken() {
    let mut ends = Ends::new(&Config::default());
    let mut number = 0;
    let became = flood(&mut ends, 1, 40, |forger| {
        number += 1;
        let (stream, bytes) = [(0, 0), (held::STREAMS, 5), (u16::MAX, 5)][number % 3];
        (0..58).map(|_| forger.data(UNORDERED | BEGINNING, stream, 0, bytes)).collect()
    });
    assert_eq!(became, HashMap::from([(Some(DropReason::DataMalformed), 4_000)]));
    let now = ends.now;
    ends.theirs.send(now, "_reliable", b"still here");
    ends.run(Duration::from_secs(1));
    assert_eq!(ends.our_events.last(), Some(&message("_reliable", b"still here")));
}

/// S-28
#[test]
fn messages_without_end_are_taken_slowly_and_end_the_association() {
    let floods: [fn(&mut Forger, u16) -> Vec<u8>; 5] = [
        |forger, _| forger.data(UNORDERED | BEGINNING, 0, 0, 1),
        |forger, n| forger.data(if n == 0 { UNORDERED | BEGINNING } else { UNORDERED }, 0, 0, 1),
        |forger, n| forger.data(BEGINNING, 0, n + 3, 1),
        |forger, n| forger.data(BEGINNING | ENDING, 0, n + 3, 1),
        |forger, n| forger.data(UNORDERED | BEGINNING, n % 1_024, 0, 40),
    ];
    for (which, make) in floods.into_iter().enumerate() {
        let mut ends = Ends::new(&Config::default());
        let (mut first, mut number) = (None, 0);
        let became = flood(&mut ends, 20, 4, |forger| {
            number = forger.next.wrapping_sub(*first.get_or_insert(forger.next)) as u16;
            (0..30).map(|more| make(forger, number + more)).collect()
        });
        assert_eq!(became.get(&Some(DropReason::DataTooMuch)), Some(&1), "{which}: {became:?}");
        assert!(became.contains_key(&Some(DropReason::DataOverRate)), "{which}: {became:?}");
        assert!((4_000..4_300).contains(&number), "{which}: {number}");
        assert_eq!(ends.our_events.last(), Some(&SctpEvent::Lost), "{which}");
        assert!(ends.ours.association.is_none() && ends.ours.deadline().is_none());
    }
}

/// S-28
#[test]
fn behind_what_is_missing_only_so_much_is_taken() {
    let mut ends = Ends::new(&Config::default());
    let mut first = None;
    let became = flood(&mut ends, 10, 1, |forger| {
        let first = *first.get_or_insert(forger.next);
        if forger.next == first {
            forger.next += 1;
        }
        (0..30).map(|_| forger.data(UNORDERED | BEGINNING | ENDING, 0, 0, 1)).collect()
    });
    // The first packet is followed by no more than what it takes to tell of what is missing.
    assert_eq!(became.get(&None), Some(&(2_048 / 30)), "{became:?}");
    assert!(became.len() == 2 && became.contains_key(&Some(DropReason::DataOverRate)), "{became:?}");
}

/// S-28
#[test]
fn nothing_hides_behind_a_chunk_that_says_it_is_longer() {
    let mut ends = Ends::new(&Config::default());
    let mut number = 0;
    let became = flood(&mut ends, 1, 4, |forger| {
        let hidden: Vec<u8> = (0..20).flat_map(|_| forger.data(UNORDERED | BEGINNING, 0, 0, 1)).collect();
        number += 1;
        // HEARTBEAT, COOKIE ACK, SHUTDOWN, RECONFIG with a response, INIT ACK, SACK.
        let fields: &[u8] = match number % 6 {
            0 => &[4, 0, 0, 0, 0, 1, 0, 4],
            1 => &[11, 0, 0, 0],
            2 => &[7, 0, 0, 0, 0, 0, 0, 0],
            3 => &[130, 0, 0, 0, 0, 16, 0, 255, 0, 0, 0, 0, 0, 0, 0, 0],
            4 => &[2, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 0, 4, 0, 4, 0, 0, 0, 0, 9],
            _ => &[3, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        };
        let mut chunk = [fields, &hidden].concat();
        let len = chunk.len() as u16;
        chunk[2..4].copy_from_slice(&len.to_be_bytes());
        vec![chunk]
    });
    assert_eq!(became, HashMap::from([(Some(DropReason::DataMalformed), 400)]));
}

#[test]
fn an_abort_is_the_peers_end_and_an_error_is_none() {
    let mut ends = Ends::new(&Config::default());
    // An unknown cause.
    let became = flood(&mut ends, 1, 1, |_| vec![vec![9, 0, 0, 8, 0, 99, 0, 4]]);
    assert_eq!(became, HashMap::from([(None, 100)]));
    let now = ends.now;
    ends.theirs.send(now, "_reliable", b"still here");
    ends.run(Duration::from_secs(1));
    assert_eq!(ends.our_events.last(), Some(&message("_reliable", b"still here")));

    let mut ends = Ends::new(&Config::default());
    let became = flood(&mut ends, 1, 1, |_| vec![vec![6, 0, 0, 4]]);
    assert_eq!(became, HashMap::from([(None, 1)]));
    assert_eq!(ends.our_events.last(), Some(&SctpEvent::Ended));
}

/// S-28
#[test]
fn a_large_transfer_with_losses_arrives_whole_and_leaves_nothing_behind() {
    for spec in [reliable(), ChannelSpec { label: "_reliable".to_owned(), ordered: false, max_retransmits: Some(0) }] {
        let mut ends = Ends::new(&Config::default());
        let now = ends.now;
        let is_lossy = spec.max_retransmits.is_some();
        ends.theirs.open(now, [spec]);
        ends.run(Duration::from_secs(2));
        ends.our_events.clear();
        let (mut packets, mut late, mut back) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        let (mut number, mut most, mut sent) = (1u32, 0.0f64, 0);
        for step in 0..3_500 {
            ends.now += Duration::from_millis(10);
            if sent < 250 && step % 10 == 0 {
                let now = ends.now;
                ends.theirs.send(now, "_reliable", &vec![sent as u8; 2_000 + 60_000 * (sent & 1)]);
                sent += 1;
            }
            ends.theirs.timeout(ends.now);
            ends.ours.timeout(ends.now);
            ends.theirs.poll_packet(ends.now, &mut packets);
            packets.extend(late.drain(..));
            for packet in packets.drain(..) {
                number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                match number >> 16 & 31 {
                    0 => {}
                    1 => late.push_back(packet),
                    _ => assert_eq!(ends.ours.receive(ends.now, &packet), None),
                }
                most = most.max(ends.ours.held.chunks());
                ends.ours.poll_packet(ends.now, &mut back);
            }
            ends.ours.poll_packet(ends.now, &mut back);
            for packet in back.drain(..) {
                ends.theirs.receive(ends.now, &packet);
            }
            ends.our_events.extend(std::iter::from_fn(|| ends.ours.poll_event()));
        }
        assert!(is_lossy || ends.our_events.len() == 250, "{} came", ends.our_events.len());
        assert!((20.0..1_100.0).contains(&most), "{most}");
        assert!(ends.ours.held.chunks() < 1.0, "{}", ends.ours.held.chunks());
    }
}
