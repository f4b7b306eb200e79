//! What one worker and one client may have: taken up to the limit, refused beyond it, and nobody else notices.

use std::time::Duration;

use callyard_peer::World;
use callyard_peer::media::{Source, play, subscribe, watched};
use callyard_peer::netem::LinkConfig;
use callyard_proto::command::{ChannelSpec, Command, DtlsRole, Want};
use callyard_proto::config::Config;
use callyard_proto::drop_reason::DropReason;
use callyard_proto::event::Event;

const VIEWER: u32 = 5_000;

/// A camera and one who watches it.
fn call(config: Config) -> (World, Source) {
    let (mut world, camera) = watched(config, 1);
    world.take_events();
    (world, camera)
}

fn goes_on(world: &mut World, camera: &mut Source) {
    let before = world.clients[1].in_order(VIEWER).len();
    play(world, &mut [camera], Duration::from_secs(1));
    assert!(world.clients[1].in_order(VIEWER).len() > before + 20);
    assert_eq!(world.clients[1].holes(VIEWER), 0);
}

/// Codes of what was refused since the last time, each with a sentence.
fn refusals(world: &mut World) -> Vec<String> {
    let refused = world.take_events().into_iter().filter_map(|event| match event {
        Event::Rejected { code, message, .. } => {
            assert!(message.ends_with('.') && message.contains(' '), "{message}");
            Some(code)
        }
        _ => None,
    });
    refused.collect()
}

/// S-30
#[test]
fn a_worker_carries_so_many_transports_and_the_next_when_one_has_gone() {
    let (mut world, mut camera) = call(Config { max_transports: 3, ..Config::default() });
    world.add_client(DtlsRole::Server, LinkConfig::default());
    assert!(refusals(&mut world).is_empty());
    world.add_client(DtlsRole::Server, LinkConfig::default());
    assert_eq!(refusals(&mut world), ["too_many_transports"]);
    goes_on(&mut world, &mut camera);
    assert!(world.states(3).is_empty());
    world.apply(Command::RemoveTransport { transport: World::transport(2) });
    world.take_events();
    world.add_client(DtlsRole::Server, LinkConfig::default());
    assert!(refusals(&mut world).is_empty());
    let now = world.engine.counters().transports;
    assert_eq!((now.connected, now.new), (2, 1));
}

/// S-30
#[test]
fn a_transport_carries_so_many_tracks_both_ways_together() {
    let (mut world, mut camera) = call(Config { max_tracks: 3, ..Config::default() });
    let (second, third) = (Source::video(0, 2, 2_000), Source::video(0, 3, 3_000));
    second.publish(&mut world);
    third.publish(&mut world);
    subscribe(&mut world, 1, &second, 12, 6_000, Want::default());
    subscribe(&mut world, 1, &third, 13, 7_000, Want::default());
    assert!(refusals(&mut world).is_empty());
    Source::video(0, 4, 4_000).publish(&mut world);
    Source::video(1, 5, 8_000).publish(&mut world);
    subscribe(&mut world, 1, &camera, 14, 9_000, Want::default());
    assert_eq!(refusals(&mut world), ["too_many_tracks"; 3]);
    assert_eq!((world.engine.counters().uptracks, world.engine.counters().downtracks), (3, 3));
    goes_on(&mut world, &mut camera);
}

/// S-28
#[test]
fn a_client_has_so_many_data_channels_and_no_more() {
    let (mut world, mut camera) = call(Config { max_channels: 4, ..Config::default() });
    let channels = (0..6).map(|n| ChannelSpec { label: format!("c{n}"), ordered: true, max_retransmits: None });
    let now = world.now;
    world.clients[1].sctp.as_mut().expect("connected").open(now, channels.collect::<Vec<_>>());
    world.run(Duration::from_secs(3));
    let opened = world.take_events().into_iter().filter(|e| matches!(e, Event::DataChannelOpen { .. })).count();
    assert_eq!(opened, 4);
    goes_on(&mut world, &mut camera);
}

/// F-08: what the network had to cut up on its way here is not kept at that length, nor sent to everybody.
#[test]
fn a_packet_is_no_longer_than_a_path_carries() {
    let (mut world, mut camera) = call(Config::default());
    let long = |camera: &mut Source, bytes: usize| {
        let mut packet = camera.next_packets(0).remove(0);
        packet.payload.resize(bytes, 0xaa);
        packet
    };
    let (fits, too_long) = (long(&mut camera, 1_900), long(&mut camera, 30_000));
    world.clients[0].send_rtp(too_long);
    world.clients[0].send_rtp(fits);
    world.flush();
    world.run(Duration::from_millis(200));
    assert_eq!(world.engine.counters().dropped.get(DropReason::RtpTooLong), 1);
    let longest = world.clients[1].of(VIEWER).map(|packet| packet.payload.len()).max();
    assert_eq!(longest, Some(1_900));
}
