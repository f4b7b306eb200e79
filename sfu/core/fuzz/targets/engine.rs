//! A call that is up, and one of its clients gone mad: RTP, RTCP, data and datagrams of any content under its own keys, and
//! the commands of a room that changes meanwhile. Nothing panics, and those who behave see each other to the end.
#![no_main]

use std::time::Duration;

use callyard_peer::World;
use callyard_peer::client::Outgoing;
use callyard_peer::media::{Source, play, quality, subscribe};
use callyard_peer::netem::LinkConfig;
use callyard_proto::command::{Command, DtlsRole, Want};
use callyard_proto::ids::DowntrackId;
use libfuzzer_sys::fuzz_target;

const MAD: usize = 2;

fuzz_target!(|ops: Vec<(u8, u16, Vec<u8>)>| {
    let mut world = World::new(1);
    for _ in 0..3 {
        world.add_client(DtlsRole::Server, LinkConfig::default());
    }
    world.connect();
    let mut camera = Source::simulcast(0, 1, 1_000);
    let own = Source::video(MAD, 2, 9_000);
    camera.publish(&mut world);
    own.publish(&mut world);
    subscribe(&mut world, 1, &camera, 11, 5_000, Want::default());
    subscribe(&mut world, MAD, &camera, 12, 6_000, Want::default());
    subscribe(&mut world, 1, &own, 13, 7_000, Want::default());
    for (what, number, bytes) in ops.into_iter().take(128) {
        match what % 8 {
            0 | 1 => {
                let packet = Outgoing {
                    ssrc: if what & 8 == 0 { 9_000 + u32::from(what >> 7) } else { u32::from(what >> 4) },
                    pt: if what & 16 == 0 { 96 + (what >> 7) } else { what >> 1 & 0x7f },
                    seq: number,
                    timestamp: u32::from(number) * 3_000,
                    marker: what & 32 != 0,
                    payload: bytes,
                    extensions: Vec::new(),
                };
                let sealed = world.clients[MAD].seal(&packet);
                world.clients[MAD].send_raw(sealed);
            }
            2 | 3 => {
                let mut packet = vec![0x80 | what >> 3, 200 + (number % 8) as u8, 0, 0];
                packet.extend_from_slice(&bytes);
                packet.resize(packet.len().next_multiple_of(4).max(8), 0);
                let words = (packet.len() / 4 - 1) as u16;
                packet[2..4].copy_from_slice(&words.to_be_bytes());
                world.clients[MAD].send_rtcp(&packet);
            }
            4 => {
                let now = world.now;
                world.clients[MAD].send_data(now, "_reliable", &bytes);
            }
            5 => {
                let address = world.clients[MAD].address;
                world.inject(address, &bytes);
            }
            6 => world.apply(Command::SetDowntrack {
                downtrack: DowntrackId(12),
                want: Want { disabled: what & 128 != 0, ..quality((number % 4) as u8) },
            }),
            _ => play(&mut world, &mut [&mut camera], Duration::from_millis(u64::from(number % 500))),
        }
        world.flush();
    }
    let before = world.clients[1].of(5_000).count();
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    assert_eq!(world.engine.counters().panics, 0);
    assert!(world.clients[1].of(5_000).count() > before + 30, "who behaves goes on seeing");
    assert_eq!(world.strays, 0, "nothing goes to anybody else");
});
