//! Data channels in both directions, whoever opens them, and data tracks from publisher to subscribers.

use std::time::Duration;

use callyard_peer::World;
use callyard_peer::netem::LinkConfig;
use callyard_proto::command::{ChannelSpec, Command, DtlsRole};
use callyard_proto::event::Event;
use callyard_proto::ids::DataUptrackId;
use callyard_proto::sctp::SctpEvent;
use serde_bytes::ByteBuf;

fn channels() -> Vec<ChannelSpec> {
    let lossy = |label: &str| ChannelSpec { label: label.into(), ordered: false, max_retransmits: Some(0) };
    let reliable = ChannelSpec { label: "_reliable".into(), ordered: true, max_retransmits: None };
    vec![reliable, lossy("_lossy"), lossy("_data_track")]
}

fn messages(events: &[SctpEvent]) -> Vec<(&str, &[u8])> {
    events
        .iter()
        .filter_map(|e| match e {
            SctpEvent::Message { label, payload } => Some((label.as_str(), payload.as_slice())),
            _ => None,
        })
        .collect()
}

#[test]
fn either_side_opens_channels_in_either_dtls_role() {
    for role in [DtlsRole::Server, DtlsRole::Client] {
        for server_opens in [true, false] {
            let mut world = World::new(1);
            let bob = world.add_client(role, LinkConfig::default());
            world.connect();
            let transport = World::transport(bob);
            if server_opens {
                world.apply(Command::OpenDataChannels { transport, channels: channels() });
            } else {
                let now = world.now;
                world.clients[bob].sctp.as_mut().expect("connected").open(now, channels());
            }
            world.run(Duration::from_secs(3));
            let mut opened: Vec<&str> = world
                .events
                .iter()
                .filter_map(|e| match e {
                    Event::DataChannelOpen { label, .. } => Some(label.as_str()),
                    _ => None,
                })
                .collect();
            opened.sort_unstable();
            assert_eq!(opened, ["_data_track", "_lossy", "_reliable"], "{role:?}, server opens: {server_opens}");

            let now = world.now;
            world.clients[bob].send_data(now, "_reliable", b"up");
            world.apply(Command::SendData {
                transports: vec![transport],
                label: "_lossy".into(),
                payload: ByteBuf::from(b"down"),
            });
            world.run(Duration::from_secs(1));
            assert_eq!(messages(&world.clients[bob].sctp_events), [("_lossy", &b"down"[..])]);
            let up = Event::DataMessage { transport, label: "_reliable".into(), payload: ByteBuf::from(b"up") };
            assert!(world.events.contains(&up));
        }
    }
}

#[test]
fn a_large_reliable_message_survives_a_bad_link() {
    let link = LinkConfig { loss: 0.1, reorder: 0.05, duplicate: 0.05, ..LinkConfig::default() };
    let mut world = World::new(2);
    let bob = world.add_client(DtlsRole::Server, link);
    world.run(Duration::from_secs(5));
    let now = world.now;
    world.clients[bob].sctp.as_mut().expect("connected").open(now, channels());
    world.run(Duration::from_secs(5));
    assert!(world.clients[bob].sctp.as_ref().expect("connected").is_open("_reliable"), "{:?}", world.events);
    let payload: Vec<u8> = (0..60_000u32).map(|i| i as u8).collect();
    world.apply(Command::SendData {
        transports: vec![World::transport(bob)],
        label: "_reliable".into(),
        payload: ByteBuf::from(payload.clone()),
    });
    world.run(Duration::from_secs(20));
    let events = &world.clients[bob].sctp_events;
    assert!(messages(events) == [("_reliable", payload.as_slice())], "{} messages came", messages(events).len());
}

#[test]
fn data_tracks_reach_their_subscribers_under_the_subscribers_handles() {
    let mut world = World::new(3);
    let clients: Vec<usize> = (0..3).map(|_| world.add_client(DtlsRole::Server, LinkConfig::default())).collect();
    world.connect();
    for &client in &clients {
        let now = world.now;
        world.clients[client].sctp.as_mut().expect("connected").open(now, channels());
    }
    world.run(Duration::from_secs(3));
    let track = DataUptrackId(9);
    world.apply(Command::AddDataUptrack { data_uptrack: track, transport: World::transport(0), pub_handle: 7 });
    world.apply(Command::AddDataDowntrack { data_uptrack: track, transport: World::transport(1), handle: 0x1234 });
    world.apply(Command::AddDataDowntrack { data_uptrack: track, transport: World::transport(2), handle: 0x5678 });
    let packet = |handle: u16| {
        let mut bytes = vec![0x18, 0];
        bytes.extend_from_slice(&handle.to_be_bytes());
        bytes.extend_from_slice(&[0, 1, 0, 2, 0, 0, 0, 3]);
        bytes.extend_from_slice(b"payload");
        bytes
    };
    let now = world.now;
    world.clients[0].send_data(now, "_data_track", &packet(7));
    world.clients[0].send_data(now, "_data_track", &packet(8));
    world.run(Duration::from_secs(1));
    assert_eq!(messages(&world.clients[1].sctp_events), [("_data_track", packet(0x1234).as_slice())]);
    assert_eq!(messages(&world.clients[2].sctp_events), [("_data_track", packet(0x5678).as_slice())]);
    assert_eq!(messages(&world.clients[0].sctp_events), []);
    assert_eq!(world.engine.counters().data_messages_dropped, 1, "the handle nobody published");
}
