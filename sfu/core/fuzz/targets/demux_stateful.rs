//! A worker with transports that nobody has connected to: checks good and bad from many addresses, and whatever else. Only a
//! check of one who knows the password is answered, and nothing else is taken from anywhere before it.
#![no_main]

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use callyard_peer::stun::{Check, request};
use callyard_peer::world::{ROOM, base, certificate};
use callyard_proto::command::{Command, DtlsRole, IceCredentials, Remote};
use callyard_proto::config::Config;
use callyard_proto::dtls::Certificate;
use callyard_proto::engine::{Datagram, Engine};
use callyard_proto::ids::TransportId;
use callyard_proto::transmit::Path;
use libfuzzer_sys::fuzz_target;

const TRANSPORTS: u64 = 3;

fuzz_target!(|ops: Vec<(u8, u8, u16, Vec<u8>)>| {
    static CERTIFICATE: OnceLock<Certificate> = OnceLock::new();
    let certificate = CERTIFICATE.get_or_init(certificate);
    let (mut now, unix) = (base(), Duration::from_secs(1_700_000_000));
    let mut engine = Engine::new(Config::default(), certificate.clone(), [7; 32], now, unix);
    for number in 0..TRANSPORTS {
        let local = IceCredentials { ufrag: format!("server{number}"), pwd: format!("server-password-{number:08}") };
        let ice = IceCredentials { ufrag: format!("client{number}"), pwd: format!("client-password-{number:08}") };
        let remote = Remote { ice, fingerprints: vec![certificate.fingerprint()], role: DtlsRole::Server };
        engine.apply(
            now,
            Command::AddTransport { transport: TransportId(number), room: ROOM, local, remote: Some(remote) },
        );
    }
    let mut checked = HashSet::new();
    for (what, peer, time, bytes) in ops.into_iter().take(256) {
        now += Duration::from_millis(u64::from(time % 2_000));
        let address = SocketAddr::from((Ipv4Addr::new(198, 51, 100, peer % 8), 5_000));
        let mut datagram = match what % 4 {
            0 | 1 => {
                let number = u64::from(what >> 4) % TRANSPORTS;
                let mut transaction = [0; 12];
                transaction[..2].copy_from_slice(&time.to_be_bytes());
                transaction[2..2 + bytes.len().min(10)].copy_from_slice(&bytes[..bytes.len().min(10)]);
                let mut check = request(&Check {
                    username: &format!("server{number}:client{number}"),
                    password: &format!("server-password-{number:08}"),
                    transaction,
                    use_candidate: what & 8 != 0,
                });
                if what % 4 == 0 {
                    checked.insert(address);
                } else if let Some(change) = bytes.first().filter(|change| **change != 0) {
                    let place = usize::from(time) % check.len();
                    check[place] ^= change;
                } else {
                    continue;
                }
                check
            }
            _ => bytes,
        };
        let mut batch = [Datagram { source: address, payload: &mut datagram, received: now }];
        engine.receive(now, &mut batch);
        engine.timeout(now);
        for (destination, _) in engine.transmits().datagrams() {
            let Path::Udp(destination) = destination else { panic!("nobody has come over TCP") };
            assert!(checked.contains(&destination), "{destination} has shown nothing");
        }
        engine.clear_transmits();
        while engine.poll_event().is_some() {}
    }
});
