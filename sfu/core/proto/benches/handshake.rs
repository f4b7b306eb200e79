//! What one DTLS handshake costs the worker, its client's half left out.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use callyard_peer::certificate;
use callyard_proto::command::{DtlsRole, Fingerprint};
use callyard_proto::dtls::{Certificate, DimplEngine, DtlsEngine, DtlsOutput, dimpl_config};
use criterion::{Criterion, criterion_group, criterion_main};

/// Datagrams that one side has to say, and whether it is done.
fn drain(engine: &mut DimplEngine, buffer: &mut Vec<u8>, out: &mut Vec<Vec<u8>>) -> bool {
    let mut is_connected = false;
    loop {
        // Both sides are ours: neither refuses the other.
        match engine.poll(buffer).expect("a sound handshake") {
            DtlsOutput::Packet(packet) => out.push(packet.to_vec()),
            DtlsOutput::Connected(_) => is_connected = true,
            DtlsOutput::Wait(_) => return is_connected,
            DtlsOutput::Data(_) | DtlsOutput::Closed => {}
        }
    }
}

/// Both have one certificate, as a process has.
struct Sides {
    config: Arc<dimpl::Config>,
    certificate: Certificate,
    fingerprint: Fingerprint,
}

/// One whole handshake; returns the server's time.
fn shake_hands(sides: &Sides, now: Instant, buffer: &mut Vec<u8>) -> Duration {
    let engine =
        |role| DimplEngine::new(sides.config.clone(), &sides.certificate, role, vec![sides.fingerprint.clone()], now);
    let mut client = engine(DtlsRole::Client);
    client.timeout(now).expect("a first flight");
    let timer = clock();
    let mut server = engine(DtlsRole::Server);
    server.timeout(now).expect("nothing to do");
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    drain(&mut server, buffer, &mut to_client);
    let mut spent = timer.elapsed();
    loop {
        for datagram in to_client.drain(..) {
            client.receive(now, &datagram).expect("a sound flight");
        }
        let is_done = drain(&mut client, buffer, &mut to_server);
        if is_done {
            return spent;
        }
        let timer = clock();
        for datagram in to_server.drain(..) {
            server.receive(now, black_box(&datagram)).expect("a sound flight");
        }
        drain(&mut server, buffer, &mut to_client);
        spent += timer.elapsed();
    }
}

fn handshake(c: &mut Criterion) {
    let certificate = certificate();
    let fingerprint = certificate.fingerprint();
    let sides = Sides { config: dimpl_config(Duration::from_secs(10)), certificate, fingerprint };
    let mut buffer = Vec::new();
    c.bench_function("dtls/handshake", |b| {
        b.iter_custom(|iterations| (0..iterations).map(|_| shake_hands(&sides, clock(), &mut buffer)).sum())
    });
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn clock() -> Instant {
    Instant::now()
}

criterion_group!(benches, handshake);
criterion_main!(benches);
