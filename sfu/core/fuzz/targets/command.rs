//! What comes over the control socket: a command that means the same after a round trip, or an error; an engine that is told
//! anything goes on.
#![no_main]

use std::sync::OnceLock;
use std::time::Duration;

use callyard_peer::world::{base, certificate};
use callyard_proto::command::Command;
use callyard_proto::config::Config;
use callyard_proto::dtls::Certificate;
use callyard_proto::engine::Engine;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|messages: Vec<Vec<u8>>| {
    static CERTIFICATE: OnceLock<Certificate> = OnceLock::new();
    let certificate = CERTIFICATE.get_or_init(certificate);
    let (mut now, unix) = (base(), Duration::from_secs(1_700_000_000));
    let mut engine = Engine::new(Config::default(), certificate.clone(), [7; 32], now, unix);
    for message in messages {
        let Ok(command) = rmp_serde::from_slice::<Command>(&message) else { continue };
        now += Duration::from_millis(100);
        engine.apply(now, command);
        engine.timeout(now);
        engine.clear_transmits();
        while engine.poll_event().is_some() {}
    }
});
