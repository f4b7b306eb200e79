//! A worker's configuration as Python gives it: a msgpack map with a unit in every name.
//!
//! Bounds are those of `sfu/settings.py`; here only what would break the worker is refused, and unknown keys are.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use callyard_net::{PumpOptions, TcpOptions, UdpOptions};
use callyard_proto::allocator::guard::GuardConfig;
use callyard_proto::bwe::BweConfig;
use callyard_proto::config::Config;
use callyard_proto::ice::IceConfig;
use callyard_proto::overload::OverloadConfig;
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
    engine: EngineConfig,
}

/// Limits of the engine, times in seconds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EngineConfig {
    max_transports: usize,
    connect_timeout_seconds: f64,
    dtls_handshake_timeout_seconds: f64,
    max_dtls_handshakes: usize,
    max_ssrcs: usize,
    max_tracks: usize,
    max_message_bytes: usize,
    sctp_receive_buffer_bytes: usize,
    max_channels: usize,
    data_messages_per_second: u32,
    data_bytes_per_second: u32,
    reliable_buffer_bytes: usize,
    reliable_stall_seconds: f64,
    lossy_buffer_bytes: usize,
    history_packets: usize,
    keyframe_interval_seconds: f64,
    first_picture_interval_seconds: f64,
    first_picture_burst: u32,
    first_picture_max_age_seconds: f64,
    demand_dwell_seconds: f64,
    layer_timeout_seconds: f64,
    unanswered_after_seconds: f64,
    quality_interval_seconds: f64,
    remb_bps: u64,
    twcc_interval_seconds: f64,
    report_interval_seconds: f64,
    congestion_control: bool,
    estimate_start_bps: u64,
    estimate_min_bps: u64,
    estimate_max_bps: u64,
    feedback_patience_seconds: f64,
    pacing_factor: f64,
    ping_interval_seconds: f64,
    max_pacer_delay_seconds: f64,
    layer_dwell_seconds: f64,
    layer_reversal_seconds: f64,
    layer_backoff_min_seconds: f64,
    layer_backoff_max_seconds: f64,
    loudest_microphones: usize,
    overload_no_probes: f64,
    overload_no_top_layers: f64,
    overload_few_videos: f64,
    overload_no_new_videos: f64,
    overload_no_joins: f64,
    overload_full_wait_seconds: f64,
    overload_dwell_seconds: f64,
    overload_backoff_max_seconds: f64,
    overload_videos: usize,
    max_segment_padding: u8,
    max_segments: usize,
    ice_disconnected_after_seconds: f64,
    ice_failed_after_seconds: f64,
    ice_max_paths: usize,
    ice_switch_interval_seconds: f64,
    ice_path_lifetime_seconds: f64,
    max_traces: usize,
    trace_max_seconds: f64,
    trace_max_bytes: usize,
    fault_injection: bool,
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

    pub(crate) fn engine_config(&self) -> Config {
        let engine = &self.engine;
        Config {
            max_transports: engine.max_transports,
            connect_timeout: seconds(engine.connect_timeout_seconds),
            dtls_handshake_timeout: seconds(engine.dtls_handshake_timeout_seconds),
            max_dtls_handshakes: engine.max_dtls_handshakes,
            max_ssrcs: engine.max_ssrcs,
            max_tracks: engine.max_tracks,
            max_message_bytes: engine.max_message_bytes,
            sctp_receive_buffer_bytes: engine.sctp_receive_buffer_bytes,
            max_channels: engine.max_channels,
            data_messages_per_second: engine.data_messages_per_second,
            data_bytes_per_second: engine.data_bytes_per_second,
            reliable_buffer_bytes: engine.reliable_buffer_bytes,
            reliable_stall: seconds(engine.reliable_stall_seconds),
            lossy_buffer_bytes: engine.lossy_buffer_bytes,
            history_packets: engine.history_packets,
            keyframe_interval: seconds(engine.keyframe_interval_seconds),
            first_picture_interval: seconds(engine.first_picture_interval_seconds),
            first_picture_burst: engine.first_picture_burst,
            first_picture_max_age: seconds(engine.first_picture_max_age_seconds),
            demand_dwell: seconds(engine.demand_dwell_seconds),
            layer_timeout: seconds(engine.layer_timeout_seconds),
            unanswered_after: seconds(engine.unanswered_after_seconds),
            quality_interval: seconds(engine.quality_interval_seconds),
            remb_bps: engine.remb_bps,
            twcc_interval: seconds(engine.twcc_interval_seconds),
            report_interval: seconds(engine.report_interval_seconds),
            congestion_control: engine.congestion_control,
            bwe: BweConfig {
                start_bps: engine.estimate_start_bps,
                min_bps: engine.estimate_min_bps,
                // An estimate must have somewhere to be.
                max_bps: engine.estimate_max_bps.max(engine.estimate_min_bps),
            },
            feedback_patience: seconds(engine.feedback_patience_seconds),
            pacing_factor: engine.pacing_factor,
            ping_interval: seconds(engine.ping_interval_seconds),
            max_pacer_delay: seconds(engine.max_pacer_delay_seconds),
            guard: GuardConfig {
                dwell: seconds(engine.layer_dwell_seconds),
                reversal: seconds(engine.layer_reversal_seconds),
                backoff_min: seconds(engine.layer_backoff_min_seconds),
                backoff_max: seconds(engine.layer_backoff_max_seconds),
            },
            loudest_microphones: engine.loudest_microphones,
            overload: OverloadConfig {
                thresholds: [
                    engine.overload_no_probes,
                    engine.overload_no_top_layers,
                    engine.overload_few_videos,
                    engine.overload_no_new_videos,
                    engine.overload_no_joins,
                ],
                full_wait: seconds(engine.overload_full_wait_seconds),
                dwell: seconds(engine.overload_dwell_seconds),
                backoff_max: seconds(engine.overload_backoff_max_seconds),
                videos: engine.overload_videos,
            },
            max_segment_padding: engine.max_segment_padding,
            max_segments: engine.max_segments,
            ice: IceConfig {
                disconnected_after: seconds(engine.ice_disconnected_after_seconds),
                failed_after: seconds(engine.ice_failed_after_seconds),
                max_paths: engine.ice_max_paths,
                switch_interval: seconds(engine.ice_switch_interval_seconds),
                path_lifetime: seconds(engine.ice_path_lifetime_seconds),
            },
            max_traces: engine.max_traces,
            trace_max_time: seconds(engine.trace_max_seconds),
            trace_max_bytes: engine.trace_max_bytes,
            fault_injection: engine.fault_injection,
        }
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

/// Negative, infinite or not a number: zero, which no limit accepts upstream.
fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}
