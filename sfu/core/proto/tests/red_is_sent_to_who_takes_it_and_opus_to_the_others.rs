//! Redundant sound (RFC 2198): as it is to those who take it, its newest encoding to those who know Opus alone.

use std::time::Duration;

use callyard_peer::World;
use callyard_peer::client::{Outgoing, Received};
use callyard_peer::media::{Source, downtrack_spec, opus};
use callyard_peer::netem::LinkConfig;
use callyard_proto::command::{CodecSpec, Command, DtlsRole, Want};
use callyard_proto::ids::Pt;

const SENT_RED: u8 = 63;
/// Received by one with the same numbers, by one without RED, and by one who calls Opus otherwise.
const SSRCS: [u32; 3] = [5_000, 6_000, 7_000];

fn red(pt: u8, inside: u8) -> CodecSpec {
    CodecSpec { pt: Pt(pt), mime: "audio/red".to_owned(), fmtp: format!("{inside}/{inside}"), ..opus(inside) }
}

struct Call {
    world: World,
    microphone: Source,
    /// Encodings that were made, oldest first, and the RTP time stamp of each.
    made: Vec<(Vec<u8>, u32)>,
}

impl Call {
    fn new() -> Self {
        Self::with_encryption(false)
    }

    /// `encrypted`: end to end, as it was announced.
    fn with_encryption(encrypted: bool) -> Self {
        let mut world = World::new(1);
        for _ in 0..4 {
            world.add_client(DtlsRole::Server, LinkConfig::default());
        }
        world.connect();
        let microphone = Source::audio(0, 1, 1_000);
        let mut spec = microphone.spec();
        spec.codecs = vec![red(SENT_RED, 111), opus(111)];
        spec.encrypted = encrypted;
        world.apply(Command::AddUptrack(spec));
        let takes = [vec![red(70, 111), opus(111)], vec![opus(96)], vec![red(63, 109), opus(109)]];
        for ((client, ssrc), codecs) in (1..).zip(SSRCS).zip(takes) {
            let spec = downtrack_spec(client, &microphone, 10 + client as u64, ssrc, Want::default());
            world.apply(Command::AddDowntrack(callyard_proto::command::DowntrackSpec { codecs, ..spec }));
        }
        Self { world, microphone, made: Vec::new() }
    }

    /// The next packet, with the two encodings before its own.
    fn next(&mut self) -> Outgoing {
        let mut packet = self.microphone.next_packets(0).remove(0);
        packet.pt = SENT_RED;
        let number = self.made.len() as u8;
        // Lengths differ by one: a run of such packets is padded to one length.
        let len = 4 + usize::from(number % 2);
        self.made.push(([&[0x78][..], &[number; 4]].concat()[..len].to_vec(), packet.timestamp));
        let last = self.made.len().saturating_sub(3);
        let blocks = &self.made[last..];
        let mut payload = Vec::new();
        for (block, timestamp) in &blocks[..blocks.len() - 1] {
            let age = packet.timestamp.wrapping_sub(*timestamp) as u16;
            payload.push(0x80 | 111);
            payload.extend_from_slice(&(age << 2 | (block.len() >> 8) as u16).to_be_bytes());
            payload.push(block.len() as u8);
        }
        payload.push(111);
        blocks.iter().for_each(|(block, _)| payload.extend_from_slice(block));
        packet.payload = payload;
        packet
    }

    fn send(&mut self, packet: Outgoing) {
        self.world.clients[0].send_rtp(packet);
        self.world.flush();
        self.world.run(Duration::from_millis(20));
    }

    fn heard(&self, client: usize) -> Vec<&Received> {
        self.world.clients[client].in_order(SSRCS[client - 1])
    }
}

fn spacing(packets: &[&Received]) -> Vec<u32> {
    packets.windows(2).map(|pair| pair[1].timestamp.wrapping_sub(pair[0].timestamp)).collect()
}

#[test]
fn red_passes_whole_and_who_lacks_it_hears_opus() {
    let mut call = Call::new();
    let mut sent = Vec::new();
    for _ in 0..20 {
        let packet = call.next();
        sent.push(packet.payload.clone());
        call.send(packet);
    }
    call.world.run(Duration::from_millis(100));
    let whole = call.heard(1);
    assert_eq!(whole.iter().map(|p| &p.payload).collect::<Vec<_>>(), sent.iter().collect::<Vec<_>>());
    assert!(whole.iter().all(|p| p.pt == 70));
    for (client, pt) in [(2, 96), (3, 109)] {
        let heard = call.heard(client);
        let newest: Vec<_> = heard.iter().map(|p| &p.payload).collect();
        assert_eq!(newest, call.made.iter().map(|(block, _)| block).collect::<Vec<_>>());
        assert!(heard.iter().all(|p| p.pt == pt), "{:?}", heard[0]);
        assert_eq!(spacing(&heard), [960; 19]);
        assert_eq!(call.world.clients[client].holes(SSRCS[client - 1]), 0);
    }
}

/// F-02
#[test]
fn what_is_lost_on_the_way_up_is_made_good_from_what_is_said_again() {
    let mut call = Call::new();
    let mut late = None;
    for number in 0..30 {
        let packet = call.next();
        match number {
            // One is lost, two in a row, and one comes after those that say it again.
            5 | 12 | 13 => {}
            20 => late = Some(packet),
            _ => {
                call.send(packet);
                if number == 21 {
                    call.send(late.take().expect("it was held back"));
                }
            }
        }
    }
    call.world.run(Duration::from_millis(100));
    for client in [2, 3] {
        let heard = call.heard(client);
        assert_eq!(heard.len(), call.world.clients[client].of(SSRCS[client - 1]).count(), "nothing comes twice");
        assert_eq!(
            heard.iter().map(|p| &p.payload).collect::<Vec<_>>(),
            call.made.iter().map(|(block, _)| block).collect::<Vec<_>>()
        );
        assert_eq!(spacing(&heard), [960; 29]);
    }
    assert_eq!(call.heard(1).len(), 27, "who takes RED makes it good himself");
}

#[test]
fn encrypted_end_to_end_it_passes_whole_and_nothing_is_taken_out_of_it() {
    let mut call = Call::with_encryption(true);
    let mut sent = Vec::new();
    for number in 0..10 {
        // Readable or not, by chance.
        let mut packet = call.next();
        if number % 2 > 0 {
            packet.payload = vec![0x80 | 111, number, 0xff, number];
        }
        sent.push(packet.payload.clone());
        // What one says again of a lost one is not read either.
        if number != 5 {
            call.send(packet);
        }
    }
    call.world.run(Duration::from_millis(100));
    sent.remove(5);
    assert_eq!(call.heard(1).iter().map(|p| p.payload.clone()).collect::<Vec<_>>(), sent);
    assert_eq!((call.heard(2).len(), call.heard(3).len()), (0, 0), "they take Opus alone");
}

#[test]
fn what_is_no_red_reaches_those_alone_who_take_it_and_bombs_of_blocks_cost_little() {
    let mut call = Call::new();
    let first = call.next();
    call.send(first);
    let unreadable =
        [vec![0x80 | 111], vec![0x80 | 111, 0, 0, 9, 111, 1], vec![0x80; 400], vec![0x80 | 111, 0, 0, 1, 96, 1, 1]];
    for payload in &unreadable {
        let packet = Outgoing { payload: payload.clone(), ..call.next() };
        call.send(packet);
    }
    let last = call.next();
    call.send(last);
    call.world.run(Duration::from_millis(100));
    let whole: Vec<_> = call.heard(1).iter().map(|p| p.payload.clone()).collect();
    assert_eq!(whole[1..5], unreadable);
    for client in [2, 3] {
        let heard: Vec<_> = call.heard(client).iter().map(|p| p.payload.clone()).collect();
        assert_eq!(heard, [call.made[0].0.clone(), call.made[5].0.clone()], "as if the others had not been");
        assert_eq!(call.world.clients[client].holes(SSRCS[client - 1]), 0);
    }
    // Three hundred encodings of nothing, and of one byte each.
    let sent = call.world.sends.len();
    for len in [0, 1] {
        let mut payload = [0x80 | 111, 0, 4, len].repeat(200);
        payload.push(111);
        payload.resize(payload.len() + 200 * usize::from(len) + 3, 0x78);
        let packet = Outgoing { payload, ..call.next() };
        call.send(packet);
    }
    call.world.run(Duration::from_millis(100));
    assert!(call.heard(2).len() <= 4, "{}", call.heard(2).len());
    assert!(call.world.sends.len() - sent < 40);
    assert_eq!(call.world.engine.counters().panics, 0);
}
