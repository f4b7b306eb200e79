//! The engine's counters as a map for Python: arrays get the names of their places, so that no index crosses over.

use std::collections::BTreeMap;

use callyard_proto::counters::{Counters, Direction, Feedback, LATENCY_BOUNDS_US, Traffic, Withheld};
use callyard_proto::downtrack::Refused;
use callyard_proto::overload::Level;
use serde::Serialize;

#[derive(Serialize)]
pub(crate) struct CountersView {
    up: BTreeMap<&'static str, TrafficView>,
    down: BTreeMap<&'static str, TrafficView>,
    dropped: BTreeMap<&'static str, u64>,
    withheld: BTreeMap<&'static str, u64>,
    feedback_in: BTreeMap<&'static str, u64>,
    feedback_out: BTreeMap<&'static str, u64>,
    retransmitted: u64,
    retransmission_missed: u64,
    nacks_refused: BTreeMap<&'static str, u64>,
    forward_latency: LatencyView,
    ciphers: BTreeMap<&'static str, u64>,
    transports: BTreeMap<&'static str, u64>,
    rooms: u64,
    uptracks: u64,
    downtracks: u64,
    dtls_handshakes: u64,
    dtls_failed: u64,
    dtls_refused: u64,
    data_messages_in: TrafficView,
    data_messages_out: TrafficView,
    data_messages_dropped: u64,
    data_channels_stalled: u64,
    panics: u64,
    commands: u64,
    commands_rejected: u64,
    events: u64,
    path_switches: u64,
    layer_switches: u64,
    pictures_from_kept: u64,
    climbs_in_two: u64,
    pacer_held: u64,
    pacer_dropped: u64,
    probes: u64,
    allocations: u64,
    bandwidth_pauses: u64,
    redundancy_withheld: u64,
    resent_unasked: u64,
    pings: u64,
    pongs: u64,
    overload_level: u64,
    overload_seconds: BTreeMap<&'static str, f64>,
    breaker_trips: u64,
    unanswered: u64,
    traces: u64,
    traces_cut: u64,
}

#[derive(Serialize)]
struct TrafficView {
    packets: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct LatencyView {
    bounds_us: Vec<u64>,
    buckets: Vec<u64>,
    sum_us: u64,
    count: u64,
}

impl From<&Counters> for CountersView {
    fn from(counters: &Counters) -> Self {
        let latency = &counters.forward_latency;
        let ciphers = &counters.ciphers;
        let transports = &counters.transports;
        Self {
            up: by_kind(&counters.up),
            down: by_kind(&counters.down),
            dropped: counters.dropped.iter().map(|(reason, count)| (reason.as_str(), count)).collect(),
            withheld: Withheld::ALL.iter().map(|reason| reason.as_str()).zip(counters.withheld).collect(),
            feedback_in: feedback(&counters.feedback_in),
            feedback_out: feedback(&counters.feedback_out),
            retransmitted: counters.retransmitted,
            retransmission_missed: counters.retransmission_missed,
            nacks_refused: Refused::ALL.iter().map(|reason| reason.as_str()).zip(counters.nacks_refused).collect(),
            forward_latency: LatencyView {
                bounds_us: LATENCY_BOUNDS_US.to_vec(),
                buckets: latency.buckets.to_vec(),
                sum_us: latency.sum_us,
                count: latency.count,
            },
            ciphers: BTreeMap::from([
                ("aead_aes_128_gcm", ciphers.aead_aes_128_gcm),
                ("aead_aes_256_gcm", ciphers.aead_aes_256_gcm),
                ("aes128_cm_sha1_80", ciphers.aes128_cm_sha1_80),
            ]),
            transports: BTreeMap::from([
                ("new", transports.new),
                ("connecting", transports.connecting),
                ("connected", transports.connected),
                ("disconnected", transports.disconnected),
                ("failed", transports.failed),
            ]),
            rooms: counters.rooms,
            uptracks: counters.uptracks,
            downtracks: counters.downtracks,
            dtls_handshakes: counters.dtls_handshakes,
            dtls_failed: counters.dtls_failed,
            dtls_refused: counters.dtls_refused,
            data_messages_in: counters.data_messages_in.into(),
            data_messages_out: counters.data_messages_out.into(),
            data_messages_dropped: counters.data_messages_dropped,
            data_channels_stalled: counters.data_channels_stalled,
            panics: counters.panics,
            commands: counters.commands,
            commands_rejected: counters.commands_rejected,
            events: counters.events,
            path_switches: counters.path_switches,
            layer_switches: counters.layer_switches,
            pictures_from_kept: counters.pictures_from_kept,
            climbs_in_two: counters.climbs_in_two,
            pacer_held: counters.pacer_held,
            pacer_dropped: counters.pacer_dropped,
            probes: counters.probes,
            allocations: counters.allocations,
            bandwidth_pauses: counters.bandwidth_pauses,
            redundancy_withheld: counters.redundancy_withheld,
            resent_unasked: counters.resent_unasked,
            pings: counters.pings,
            pongs: counters.pongs,
            overload_level: counters.overload_level,
            overload_seconds: Level::ALL
                .iter()
                .map(|level| (level.as_str(), counters.overload_us[*level as usize] as f64 / 1e6))
                .collect(),
            breaker_trips: counters.breaker_trips,
            unanswered: counters.unanswered,
            traces: counters.traces,
            traces_cut: counters.traces_cut,
        }
    }
}

impl From<Traffic> for TrafficView {
    fn from(traffic: Traffic) -> Self {
        Self { packets: traffic.packets, bytes: traffic.bytes }
    }
}

fn by_kind(direction: &Direction) -> BTreeMap<&'static str, TrafficView> {
    direction.by_kind().into_iter().map(|(kind, traffic)| (kind, traffic.into())).collect()
}

fn feedback(feedback: &Feedback) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([
        ("nack", feedback.nack),
        ("pli", feedback.pli),
        ("fir", feedback.fir),
        ("remb", feedback.remb),
        ("twcc", feedback.twcc),
        ("sender_report", feedback.sender_report),
        ("receiver_report", feedback.receiver_report),
    ])
}
