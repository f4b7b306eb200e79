//! ICE over the life of a transport: restart, a client that moves, a client that falls silent and comes back.

use std::net::SocketAddr;
use std::time::Duration;

use callyard_peer::media::{Source, is_key, play, subscribe};
use callyard_peer::netem::LinkConfig;
use callyard_peer::{ROOM, World};
use callyard_proto::command::{Command, DtlsRole, IceCredentials, Want};
use callyard_proto::event::TransportState::{Closed, Connected, Connecting, Disconnected, Failed};
use callyard_proto::event::{Event, PathProtocol};
use callyard_proto::ids::TransportId;
use callyard_proto::transmit::TcpId;

/// Alice publishes a camera that Bob watches.
fn call(seed: u64) -> (World, usize, usize, Source) {
    let mut world = World::new(seed);
    let alice = world.add_client(DtlsRole::Server, LinkConfig::default());
    let bob = world.add_client(DtlsRole::Server, LinkConfig::default());
    world.connect();
    let mut camera = Source::video(alice, 1, 1_000);
    camera.publish(&mut world);
    subscribe(&mut world, bob, &camera, 11, 5_000, Want::default());
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    (world, alice, bob, camera)
}

#[test]
fn a_client_that_moves_keeps_its_keys_and_its_media() {
    let (mut world, alice, bob, mut camera) = call(1);
    for (client, address) in [(bob, "203.0.113.9:4000"), (alice, "[2001:db8::1]:5000")] {
        world.clients[client].address = address.parse().expect("an address");
        let now = world.now;
        world.clients[client].check_now(now);
        play(&mut world, &mut [&mut camera], Duration::from_secs(3));
    }
    world.run(Duration::from_millis(500));
    let bob_saw = world.clients[bob].in_order(5_000).len();
    assert!(bob_saw > 230, "{bob_saw} of about 240 pictures in 8 s");
    assert_eq!(world.states(bob), [Connecting, Connected], "moving is no change of state");
    assert_eq!(world.engine.counters().path_switches, 2);
}

/// S-13
#[test]
fn media_from_an_address_without_a_check_is_not_taken() {
    let (mut world, alice, bob, mut camera) = call(2);
    world.run(Duration::from_millis(200));
    let packet = camera.next_packets(0).remove(0);
    let sealed = world.clients[alice].seal(&packet);
    let before = world.clients[bob].received.len();
    world.inject("203.0.113.66:1".parse().expect("an address"), &sealed);
    world.run(Duration::from_millis(200));
    assert_eq!(world.clients[bob].received.len(), before);
    assert_eq!(world.strays, 0, "and nothing is answered");
}

#[test]
fn ice_restarts_without_a_gap() {
    let (mut world, _, bob, mut camera) = call(3);
    let ours = IceCredentials { ufrag: "server-again".into(), pwd: "server-password-again".into() };
    let theirs = IceCredentials { ufrag: "client-again".into(), pwd: "client-password-again".into() };
    world.apply(Command::RestartIce {
        transport: World::transport(bob),
        local: ours.clone(),
        remote: Some(theirs.clone()),
    });
    // The client still knows nothing of it: its old checks count.
    play(&mut world, &mut [&mut camera], Duration::from_secs(4));
    let client = &mut world.clients[bob];
    (client.local, client.server) = (theirs, ours);
    client.address = "203.0.113.10:4001".parse().expect("an address");
    let now = world.now;
    world.clients[bob].check_now(now);
    play(&mut world, &mut [&mut camera], Duration::from_secs(4));
    assert_eq!(world.states(bob), [Connecting, Connected]);
    let pictures = world.clients[bob].in_order(5_000).len();
    assert!(pictures > 290, "{pictures} of about 300 pictures in 10 s");
    assert_eq!(world.clients[bob].holes(5_000), 0);
}

/// Signaling restarts ICE at a client's wish, and whether he follows is his affair.
#[test]
fn restarts_that_nobody_follows_leave_nothing_behind() {
    let (mut world, _, bob, mut camera) = call(11);
    let again = |n: u64| IceCredentials { ufrag: format!("again{n}"), pwd: "server-password-again".into() };
    let transport = World::transport(bob);
    for n in 0..1_000 {
        world.apply(Command::RestartIce { transport, local: again(n), remote: None });
    }
    let used = world.clients[bob].server.clone();
    // What leads to nobody may be another's.
    let mut is_taken = |local: IceCredentials| {
        let transport = TransportId(1_000);
        world.take_events();
        world.apply(Command::AddTransport { transport, room: ROOM, local, remote: None });
        let events = world.take_events();
        world.apply(Command::RemoveTransport { transport });
        events.iter().any(|event| matches!(event, Event::Rejected { code, .. } if code == "duplicate_ufrag"))
    };
    let taken: Vec<u64> = (0..1_000).filter(|n| is_taken(again(*n))).collect();
    assert_eq!(taken, [999], "the last, which he may still follow");
    assert!(is_taken(used), "and the one that he uses");
    let before = world.clients[bob].in_order(5_000).len();
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    world.clients[bob].server = again(999);
    let now = world.now;
    world.clients[bob].check_now(now);
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    let pictures = world.clients[bob].in_order(5_000).len() - before;
    assert!(pictures > 110, "{pictures} of about 120 pictures in 4 s");
    assert_eq!(world.clients[bob].holes(5_000), 0);
}

/// S-08
#[test]
fn a_silent_client_gets_nothing_more_and_may_come_back() {
    let (mut world, _, bob, mut camera) = call(4);
    (world.clients[bob].is_checking, world.clients[bob].is_answering) = (false, false);
    play(&mut world, &mut [&mut camera], Duration::from_secs(16));
    assert_eq!(world.states(bob), [Connecting, Connected, Disconnected, Failed]);
    world.run(Duration::from_millis(200));
    let before = (world.clients[bob].received.len(), world.clients[bob].rtcp.len());
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    assert_eq!((world.clients[bob].received.len(), world.clients[bob].rtcp.len()), before, "not one packet");

    world.clients[bob].is_checking = true;
    let now = world.now;
    world.clients[bob].check_now(now);
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    assert_eq!(world.states(bob), [Connecting, Connected, Disconnected, Failed, Connected]);
    let since = &world.clients[bob].received[before.0..];
    assert!(since.len() > 40, "media flows again");
    let first = since.iter().find(|packet| !packet.payload.is_empty()).expect("a picture");
    assert!(is_key(&first.payload), "from a key frame");
}

/// As Pion before ICE v4 does: while packets pass it sees no need to check.
#[test]
fn a_client_that_checks_no_more_but_answers_keeps_its_call() {
    let (mut world, _, bob, mut camera) = call(4);
    world.clients[bob].is_checking = false;
    play(&mut world, &mut [&mut camera], Duration::from_secs(40));
    assert_eq!(world.states(bob), [Connecting, Connected]);
    let before = world.clients[bob].received.len();
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    assert!(world.clients[bob].received.len() > before + 40, "media flows on");
}

#[test]
fn a_client_that_says_goodbye_is_gone_at_once() {
    let (mut world, _, bob, mut camera) = call(5);
    let now = world.now;
    world.clients[bob].close(now);
    world.run(Duration::from_millis(100));
    assert_eq!(world.states(bob).last(), Some(&Closed));
    let before = world.clients[bob].received.len();
    play(&mut world, &mut [&mut camera], Duration::from_secs(1));
    assert_eq!(world.clients[bob].received.len(), before);
}

/// S-30
#[test]
fn one_who_never_connects_is_freed() {
    let mut world = World::new(6);
    let client = world.add_client(DtlsRole::Server, LinkConfig::default());
    world.clients[client].is_checking = false;
    world.run(Duration::from_secs(14));
    assert_eq!(world.states(client), []);
    world.run(Duration::from_secs(2));
    assert_eq!(world.states(client), [Closed]);
    assert_eq!(world.engine.counters().rooms, 0);
    assert_eq!(world.engine.deadline(), None, "an empty engine sleeps");
}

#[test]
fn removing_a_transport_tells_the_client() {
    let (mut world, alice, bob, _) = call(7);
    world.apply(Command::RemoveTransport { transport: World::transport(bob) });
    world.run(Duration::from_millis(100));
    assert!(world.clients[bob].is_closed, "DTLS close_notify arrives");
    let check = world.clients[bob].check();
    let address: SocketAddr = world.clients[bob].address;
    let answers = world.clients[bob].responses;
    world.inject(address, &check);
    world.run(Duration::from_millis(100));
    assert_eq!(world.clients[bob].responses, answers, "its ufrag is forgotten");
    assert_eq!(world.states(alice), [Connecting, Connected]);
}

#[test]
fn tcp_carries_a_call_and_gives_way_to_another_connection() {
    let mut world = World::new(8);
    let alice = world.add_client(DtlsRole::Server, LinkConfig::default());
    let bob = world.add_client(DtlsRole::Client, LinkConfig::default());
    world.tcp.insert(bob, TcpId(7));
    world.connect();
    let told = world.events.iter().any(|e| {
        matches!(e, Event::TransportPath { transport, protocol: PathProtocol::Tcp, .. } if *transport == World::transport(bob))
    });
    assert!(told);
    let mut camera = Source::video(alice, 1, 1_000);
    camera.publish(&mut world);
    subscribe(&mut world, bob, &camera, 11, 5_000, Want::default());
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));

    let now = world.now;
    world.engine.tcp_closed(now, TcpId(7));
    world.tcp.insert(bob, TcpId(8));
    world.clients[bob].address.set_port(20_000);
    world.clients[bob].check_now(now);
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    world.run(Duration::from_millis(200));
    assert_eq!(world.states(bob), [Connecting, Connected]);
    let pictures = world.clients[bob].in_order(5_000).len();
    assert!(pictures > 110, "{pictures} of about 120 pictures in 4 s");
    assert_eq!(world.strays, 0, "nothing is written to the closed connection");
}

/// How often each of two clients was told of as not answering.
fn unanswered(world: &mut World, clients: [usize; 2]) -> [usize; 2] {
    let events = world.take_events();
    clients.map(|client| {
        let told = Event::Unanswered { transport: World::transport(client) };
        events.iter().filter(|event| **event == told).count()
    })
}

#[test]
fn a_viewer_behind_a_network_that_has_closed_is_told_of_long_before_its_consent_ends() {
    let (mut world, alice, bob, mut camera) = call(7);
    play(&mut world, &mut [&mut camera], Duration::from_secs(5));
    assert_eq!(unanswered(&mut world, [alice, bob]), [0, 0]);
    world.up[bob].config.loss = 1.0;
    play(&mut world, &mut [&mut camera], Duration::from_millis(2_800));
    assert_eq!(unanswered(&mut world, [alice, bob]), [0, 0], "not for a moment's silence");
    play(&mut world, &mut [&mut camera], Duration::from_millis(500));
    assert_eq!(unanswered(&mut world, [alice, bob]), [0, 1]);
    play(&mut world, &mut [&mut camera], Duration::from_secs(4));
    assert_eq!(unanswered(&mut world, [alice, bob]), [0, 0], "once is enough");
    world.up[bob].config.loss = 0.0;
    play(&mut world, &mut [&mut camera], Duration::from_secs(4));
    world.up[bob].config.loss = 1.0;
    play(&mut world, &mut [&mut camera], Duration::from_secs(4));
    assert_eq!(unanswered(&mut world, [alice, bob]), [0, 1], "and again the next time");
}

/// F-10
#[test]
fn one_who_only_publishes_is_told_of_when_two_of_his_checks_are_missing() {
    let (mut world, alice, bob, mut camera) = call(9);
    play(&mut world, &mut [&mut camera], Duration::from_secs(10));
    assert_eq!(unanswered(&mut world, [alice, bob]), [0, 0]);
    // Muted, he is not heard from but for his checks, and that is no silence.
    world.run(Duration::from_secs(20));
    assert_eq!(unanswered(&mut world, [alice, bob]), [0, 0]);
    play(&mut world, &mut [&mut camera], Duration::from_secs(2));
    world.up[alice].config.loss = 1.0;
    play(&mut world, &mut [&mut camera], Duration::from_secs(7));
    assert_eq!(unanswered(&mut world, [alice, bob]), [0, 0], "one of his checks may be late");
    play(&mut world, &mut [&mut camera], Duration::from_millis(1_700));
    assert_eq!(unanswered(&mut world, [alice, bob]), [1, 0]);
    assert!(world.states(alice).is_empty(), "long before his consent ends");
}

/// Nothing is sent to him that he could report on: how long he needs to send again what was lost is found out by asking.
#[test]
fn the_round_trip_of_one_who_only_publishes_is_known() {
    let mut world = World::new(12);
    let alice =
        world.add_client(DtlsRole::Server, LinkConfig { delay: Duration::from_millis(140), ..LinkConfig::default() });
    world.connect();
    let mut camera = Source::video(alice, 1, 1_000);
    camera.publish(&mut world);
    play(&mut world, &mut [&mut camera], Duration::from_secs(10));
    let reports = world.take_events().into_iter().filter_map(|event| match event {
        Event::Quality { reports, .. } => Some(reports),
        _ => None,
    });
    let told = reports.flatten().rfind(|report| report.transport == World::transport(alice));
    let told = told.expect("quality is reported").rtt_ms;
    assert!((275.0..290.0).contains(&told), "{told} ms");
}
