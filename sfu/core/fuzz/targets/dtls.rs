//! A handshake of two honest ends with the fuzzer between them: whatever comes, no panic, no keys that differ, and no more
//! answers than a handshake has.
#![no_main]

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use callyard_peer::world::certificate;
use callyard_proto::command::DtlsRole;
use callyard_proto::dtls::{Certificate, DimplEngine, DtlsEngine, DtlsOutput, SrtpKeys, dimpl_config};
use libfuzzer_sys::fuzz_target;

struct End {
    dtls: DimplEngine,
    keys: Option<SrtpKeys>,
    is_over: bool,
}

impl End {
    fn outputs(&mut self, out: &mut VecDeque<Vec<u8>>) {
        let mut buffer = Vec::new();
        while !self.is_over {
            match self.dtls.poll(&mut buffer) {
                Ok(DtlsOutput::Packet(packet)) => out.push_back(packet.to_vec()),
                Ok(DtlsOutput::Connected(keys)) => self.keys = Some(keys),
                Ok(DtlsOutput::Data(_)) => assert!(self.keys.is_some(), "data before keys"),
                Ok(DtlsOutput::Wait(_)) => return,
                Ok(DtlsOutput::Closed) | Err(_) => self.is_over = true,
            }
        }
    }
}

fuzz_target!(|ops: Vec<(u8, u16, Vec<u8>)>| {
    static BEFORE: OnceLock<(Instant, Certificate, Certificate)> = OnceLock::new();
    let (start, first, second) = BEFORE.get_or_init(|| (Instant::now(), certificate(), certificate()));
    let mut now = *start;
    let config = dimpl_config(Duration::from_secs(10));
    let end = |own: &Certificate, other: &Certificate, role| End {
        dtls: DimplEngine::new(config.clone(), own, role, vec![other.fingerprint()], now),
        keys: None,
        is_over: false,
    };
    let mut ends = [end(first, second, DtlsRole::Server), end(second, first, DtlsRole::Client)];
    let mut datagrams = 0;
    for (what, at, bytes) in ops.into_iter().take(48) {
        now += Duration::from_millis(u64::from(at % 300));
        for from in 0..2 {
            let mut flight = VecDeque::new();
            ends[from].is_over |= ends[from].dtls.timeout(now).is_err();
            ends[from].outputs(&mut flight);
            datagrams += flight.len();
            match what % 8 {
                0..=2 => {}
                3 => flight.clear(),
                4 => flight.extend(flight.clone()),
                5 => flight.push_back(bytes.clone()),
                6 => flight.make_contiguous().reverse(),
                _ => {
                    for datagram in &mut flight {
                        let place = usize::from(at) % datagram.len();
                        let until = datagram.len().min(place + bytes.len());
                        datagram[place..until].copy_from_slice(&bytes[..until - place]);
                    }
                }
            }
            for datagram in flight {
                if !ends[1 - from].is_over {
                    ends[1 - from].is_over = ends[1 - from].dtls.receive(now, &datagram).is_err();
                }
            }
        }
    }
    if let [Some(ours), Some(theirs)] = ends.map(|end| end.keys) {
        assert_eq!((&ours.local_key, &ours.remote_key), (&theirs.remote_key, &theirs.local_key));
    }
    assert!(datagrams <= 48 * 64, "{datagrams} datagrams");
});
