//! Many join at once: a few handshakes at a time, the first to come first, and none is begun twice for having waited.

use std::time::Duration;

use callyard_peer::World;
use callyard_peer::netem::LinkConfig;
use callyard_proto::command::DtlsRole;
use callyard_proto::config::Config;
use callyard_proto::drop_reason::DropReason;

const MILLISECOND: Duration = Duration::from_millis(1);

fn prompt() -> LinkConfig {
    LinkConfig { delay: Duration::ZERO, ..LinkConfig::default() }
}

fn dropped(world: &World, reason: DropReason) -> u64 {
    world.engine.counters().dropped.get(reason)
}

#[test]
fn the_first_are_done_while_the_last_still_wait() {
    let mut world = World::new(1);
    for _ in 0..60 {
        world.add_client(DtlsRole::Server, prompt());
    }
    let mut done = Vec::new();
    for ms in 0..1_000 {
        world.run(MILLISECOND);
        let connected = world.clients.iter().filter(|client| client.is_connected).count();
        if done.last().is_none_or(|&(_, before)| connected > before) {
            done.push((ms, connected));
        }
    }
    let (first, _) = *done.iter().find(|(_, connected)| *connected > 0).expect("some connect");
    let (last, connected) = *done.last().expect("some connect");
    assert_eq!(connected, 60);
    assert!(done.windows(2).all(|pair| pair[1].1 - pair[0].1 <= 3), "a few in each pass: {done:?}");
    assert!(last > 3 * first, "{done:?}");
    assert_eq!(dropped(&world, DropReason::DtlsRepeated), 0);
    assert_eq!(world.engine.counters().dtls_handshakes, 60);
}

#[test]
fn a_description_may_come_after_the_clients_first_flight() {
    let mut world = World::new(2);
    let (client, description) = world.add_undescribed_client(DtlsRole::Server, prompt());
    world.run(Duration::from_millis(150));
    assert!(!world.clients[client].is_connected);
    world.apply(description);
    world.run(Duration::from_millis(20));
    assert!(world.clients[client].is_connected, "its flight was kept: it need not come again after 200 ms");
}

#[test]
fn what_comes_again_while_it_waits_is_dropped() {
    let mut world = World::new(3);
    let (client, description) = world.add_undescribed_client(DtlsRole::Server, prompt());
    world.run(Duration::from_secs(2));
    let repeated = dropped(&world, DropReason::DtlsRepeated);
    assert!(repeated >= 2, "the client has sent its flight again {repeated} times");
    world.apply(description);
    world.run(Duration::from_millis(20));
    assert!(world.clients[client].is_connected);
}

#[test]
fn those_for_whom_there_is_no_room_wait_for_it() {
    let mut world = World::with_config(4, Config { max_dtls_handshakes: 1, ..Config::default() });
    for _ in 0..20 {
        world.add_client(DtlsRole::Server, LinkConfig { delay: Duration::from_millis(20), ..LinkConfig::default() });
    }
    world.run(Duration::from_millis(500));
    let connected = world.clients.iter().filter(|client| client.is_connected).count();
    assert!((2..15).contains(&connected), "one after the other: {connected}");
    world.run(Duration::from_secs(4));
    assert!(world.clients.iter().all(|client| client.is_connected));
    assert!(world.engine.counters().dtls_refused > 0);
}

#[test]
fn who_leaves_while_he_waits_is_forgotten() {
    let mut world = World::with_config(5, Config { max_dtls_handshakes: 1, ..Config::default() });
    for _ in 0..4 {
        world.add_client(DtlsRole::Server, LinkConfig { delay: Duration::from_millis(20), ..LinkConfig::default() });
    }
    world.run(Duration::from_millis(50));
    for client in 0..3 {
        world.apply(callyard_proto::command::Command::RemoveTransport { transport: World::transport(client) });
    }
    world.run(Duration::from_secs(2));
    assert!(world.clients[3].is_connected, "no place is kept for those who are gone");
}
