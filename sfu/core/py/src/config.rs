//! A worker's configuration as Python gives it: a msgpack map with a unit in every name.
//!
//! Bounds are those of `sfu/settings.py`; here only what would break the worker is refused, and unknown keys are.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use callyard_net::{PumpOptions, TcpOptions, UdpOptions};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WorkerConfig {
    bind: IpAddr,
    udp_port: u16,
    receive_buffer_bytes: usize,
    send_buffer_bytes: usize,
    pin_source: bool,
    tick_microseconds: u64,
    pub(crate) queue_capacity: usize,
    tcp: bool,
    tcp_max_connections: usize,
    tcp_unauthenticated_timeout_ms: u64,
    tcp_max_queue_bytes: usize,
}

#[derive(Debug, thiserror::Error)]
#[error("the worker's configuration is not valid: {0}")]
pub(crate) struct ConfigError(#[from] rmp_serde::decode::Error);

impl WorkerConfig {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ConfigError> {
        // Addresses are written as people write them.
        let mut decoder = rmp_serde::Deserializer::new(bytes).with_human_readable();
        Ok(Self::deserialize(&mut decoder)?)
    }

    pub(crate) fn pump_options(&self) -> PumpOptions {
        let bind = SocketAddr::new(self.bind, self.udp_port);
        PumpOptions {
            udp: UdpOptions {
                bind,
                receive_buffer_bytes: self.receive_buffer_bytes,
                send_buffer_bytes: self.send_buffer_bytes,
                pin_source: self.pin_source,
            },
            tcp: self.tcp.then(|| TcpOptions {
                bind,
                max_connections: self.tcp_max_connections,
                unauthenticated_timeout: Duration::from_millis(self.tcp_unauthenticated_timeout_ms),
                max_queue_bytes: self.tcp_max_queue_bytes,
            }),
            tick: Duration::from_micros(self.tick_microseconds),
        }
    }
}
