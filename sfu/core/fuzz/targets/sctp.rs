//! Two ends of an association, and the fuzzer between them: packets lost, repeated, changed and made up, messages of any
//! length. Whatever comes, channels and messages keep their bounds.
#![no_main]

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use callyard_proto::command::{ChannelSpec, DtlsRole};
use callyard_proto::config::Config;
use callyard_proto::sctp::{Sctp, SctpEvent};
use libfuzzer_sys::fuzz_target;

struct Ends {
    now: Instant,
    ends: [Sctp; 2],
    events: [Vec<SctpEvent>; 2],
}

impl Ends {
    fn new() -> Self {
        static START: OnceLock<Instant> = OnceLock::new();
        let config = Config::default();
        let ends = [Sctp::new(&config, DtlsRole::Server), Sctp::new(&config, DtlsRole::Client)];
        Self { now: *START.get_or_init(Instant::now), ends, events: [Vec::new(), Vec::new()] }
    }

    /// Lets them talk; `change` decides what becomes of each packet.
    fn run(&mut self, steps: usize, mut change: impl FnMut(&mut VecDeque<Vec<u8>>)) {
        for _ in 0..steps {
            self.now += Duration::from_millis(20);
            for from in 0..2 {
                self.ends[from].timeout(self.now);
                let mut packets = VecDeque::new();
                self.ends[from].poll_packet(self.now, &mut packets);
                let mut packets = packets.iter().map(|packet| packet.to_vec()).collect();
                change(&mut packets);
                for packet in packets {
                    self.ends[1 - from].receive(self.now, &packet);
                }
                self.events[from].extend(std::iter::from_fn(|| self.ends[from].poll_event()));
            }
        }
    }
}

fuzz_target!(|ops: Vec<(u8, u16, Vec<u8>)>| {
    let mut world = Ends::new();
    let spec = |label: &str, max_retransmits: Option<u16>| ChannelSpec {
        label: label.to_owned(),
        ordered: max_retransmits.is_none(),
        max_retransmits,
    };
    let now = world.now;
    world.ends[1].open(now, [spec("_reliable", None), spec("_lossy", Some(0))]);
    world.ends[1].connect(now);
    world.run(20, |_| {});
    assert!(world.ends[0].is_open("_reliable") && world.ends[0].is_open("_lossy"));
    for (what, at, bytes) in ops.into_iter().take(64) {
        let to = usize::from(what >> 7);
        match what & 0x7f {
            0..=31 => {
                let label = if what & 1 == 0 { "_reliable" } else { "_lossy" };
                let now = world.now;
                world.ends[1 - to].send(now, label, &vec![what; usize::from(at)]);
            }
            32..=63 => {
                // Made up, under a checksum that holds.
                let mut packet = bytes;
                if packet.len() >= 12 {
                    seal(&mut packet);
                }
                let now = world.now;
                world.ends[to].receive(now, &packet);
            }
            64..=95 => world.run(1, |packets| {
                for packet in packets.iter_mut().filter(|packet| packet.len() > 12) {
                    // The verification tag stays: the change is of one who knows it.
                    let place = 12 + usize::from(at) % (packet.len() - 12);
                    let end = packet.len().min(place + bytes.len());
                    packet[place..end].copy_from_slice(&bytes[..end - place]);
                    seal(packet);
                }
            }),
            96..=111 => world.run(1, VecDeque::clear),
            _ => world.run(1, |packets| packets.extend(packets.clone())),
        }
    }
    world.run(4, |_| {});
    let config = Config::default();
    for (end, events) in world.ends.iter().zip(&world.events) {
        assert!(end.open_labels().count() <= config.max_channels);
        for event in events {
            if let SctpEvent::Message { payload, .. } = event {
                assert!(payload.len() <= config.max_message_bytes);
            }
        }
    }
});

/// CRC32c (RFC 9260 §6.8) in its place, little end first.
fn seal(packet: &mut [u8]) {
    packet[8..12].fill(0);
    let crc = !packet.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    });
    packet[8..12].copy_from_slice(&crc.to_le_bytes());
}
