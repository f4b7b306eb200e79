//! Every figure that metrics read, as one plain struct: adding to it costs one instruction, reading it a copy.
//!
//! Totals only ever grow; gauges are named as such. Names and labels of the metrics are made in Python.

use crate::downtrack::Refused;
use crate::drop_reason::DropReason;
use crate::overload::Level;

/// Upper bounds of the forwarding-latency buckets in microseconds; one more bucket takes the rest.
pub const LATENCY_BOUNDS_US: [u64; 12] = [50, 100, 200, 300, 500, 750, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
}

impl Traffic {
    #[inline]
    pub fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// Traffic of one direction by kind; bytes are UDP payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    pub audio: Traffic,
    pub video: Traffic,
    pub rtx: Traffic,
    pub padding: Traffic,
    pub rtcp: Traffic,
    pub stun: Traffic,
    pub dtls: Traffic,
}

impl Direction {
    pub fn by_kind(&self) -> [(&'static str, Traffic); 7] {
        [
            ("audio", self.audio),
            ("video", self.video),
            ("rtx", self.rtx),
            ("padding", self.padding),
            ("rtcp", self.rtcp),
            ("stun", self.stun),
            ("dtls", self.dtls),
        ]
    }
}

/// Why a forwarded packet did not reach one subscriber. Not a fault: most are a selector's choice.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Withheld {
    /// No payload type was negotiated for the packet's codec.
    NoCodec,
    /// The subscriber's transport is not connected, or consent is gone.
    NotConnected,
    /// The selector did not want it.
    NotSelected,
    /// The publisher or the subscriber muted or paused.
    Paused,
    /// It could not be sealed.
    Unprotected,
    /// Of a microphone that is not among the loudest.
    NotLoudest,
}

impl Withheld {
    pub const ALL: [Withheld; 6] =
        [Self::NoCodec, Self::NotConnected, Self::NotSelected, Self::Paused, Self::Unprotected, Self::NotLoudest];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoCodec => "no_codec",
            Self::NotConnected => "not_connected",
            Self::NotSelected => "not_selected",
            Self::Paused => "paused",
            Self::Unprotected => "unprotected",
            Self::NotLoudest => "not_loudest",
        }
    }
}

/// Feedback messages by kind; "in" are those that came to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Feedback {
    /// Sequence numbers asked for again, not packets of RTCP.
    pub nack: u64,
    pub pli: u64,
    pub fir: u64,
    pub remb: u64,
    pub twcc: u64,
    pub sender_report: u64,
    pub receiver_report: u64,
}

/// Gauges: transports by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransportGauge {
    pub new: u64,
    pub connecting: u64,
    pub connected: u64,
    pub disconnected: u64,
    pub failed: u64,
}

/// Transports connected so far, by the profile that protects them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ciphers {
    pub aead_aes_128_gcm: u64,
    pub aead_aes_256_gcm: u64,
    pub aes128_cm_sha1_80: u64,
}

/// Time from a packet's arrival to its copies standing ready to be sent; one entry per received packet that was forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// One more than [`LATENCY_BOUNDS_US`]; not cumulative.
    pub buckets: [u64; LATENCY_BOUNDS_US.len() + 1],
    pub sum_us: u64,
    pub count: u64,
}

impl Latency {
    #[inline]
    pub fn observe(&mut self, us: u64) {
        let bucket = LATENCY_BOUNDS_US.iter().position(|&bound| us <= bound).unwrap_or(LATENCY_BOUNDS_US.len());
        self.buckets[bucket] += 1;
        self.sum_us += us;
        self.count += 1;
    }
}

impl Counters {
    /// Bytes of media towards subscribers, retransmissions and probes included.
    pub fn down_bytes(&self) -> u64 {
        self.down.audio.bytes + self.down.video.bytes + self.down.rtx.bytes + self.down.padding.bytes
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub up: Direction,
    pub down: Direction,
    /// Datagrams (or parts of them) thrown away, indexed by [`DropReason`].
    pub dropped: DropCounts,
    /// Copies not made, indexed by [`Withheld`].
    pub withheld: [u64; Withheld::ALL.len()],
    pub feedback_in: Feedback,
    pub feedback_out: Feedback,
    /// Packets sent again to subscribers, and numbers asked for that could not be sent again.
    pub retransmitted: u64,
    pub retransmission_missed: u64,
    /// Numbers asked for that were not to be sent again, indexed by [`Refused`].
    pub nacks_refused: [u64; Refused::ALL.len()],
    pub forward_latency: Latency,
    pub ciphers: Ciphers,
    pub transports: TransportGauge,
    /// Gauges.
    pub rooms: u64,
    pub uptracks: u64,
    pub downtracks: u64,

    pub dtls_handshakes: u64,
    pub dtls_failed: u64,
    pub dtls_refused: u64,
    pub data_messages_in: Traffic,
    pub data_messages_out: Traffic,
    pub data_messages_dropped: u64,
    pub data_channels_stalled: u64,
    pub panics: u64,
    pub commands: u64,
    pub commands_rejected: u64,
    pub events: u64,
    pub path_switches: u64,
    pub layer_switches: u64,
    /// First pictures, and those after a pause, that began with a key frame of the history.
    pub pictures_from_kept: u64,
    /// Climbs before whose key frame the picture of the size before was sent.
    pub climbs_in_two: u64,

    /// Packets that waited in a pacer, and those that were dropped there.
    pub pacer_held: u64,
    pub pacer_dropped: u64,
    /// Probe clusters sent.
    pub probes: u64,
    pub allocations: u64,
    /// Times that a circuit breaker (RFC 8083) has tripped by a receiver report.
    pub breaker_trips: u64,
    /// Clients that answered what they are sent and then fell silent.
    pub unanswered: u64,
    /// Traces begun, and those among them that ended for their size.
    pub traces: u64,
    pub traces_cut: u64,
    /// What is given up for want of CPU, and how long each level was held, indexed by [`Level`].
    pub overload_level: u64,
    pub overload_us: [u64; Level::ALL.len()],
    /// Downtracks paused for want of bandwidth so far.
    pub bandwidth_pauses: u64,
    /// Times that a subscriber had no room for what RED says again.
    pub redundancy_withheld: u64,
    /// Packets of pictures that left again because they were reported lost, before their subscriber had asked.
    pub resent_unasked: u64,
    /// Pings to subscribers whose links limit what they get, and how many were answered.
    pub pings: u64,
    pub pongs: u64,
}

/// An array with one place per [`DropReason`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropCounts(Vec<u64>);

impl Default for DropCounts {
    fn default() -> Self {
        Self(vec![0; DropReason::ALL.len()])
    }
}

impl DropCounts {
    #[inline]
    pub fn add(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }

    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.iter().map(|&reason| (reason, self.get(reason)))
    }

    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_falls_into_the_first_bucket_that_holds_it() {
        let mut latency = Latency::default();
        for us in [0, 50, 51, 50_000, 50_001] {
            latency.observe(us);
        }
        assert_eq!(latency.buckets, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((latency.sum_us, latency.count), (100_102, 5));
    }

    #[test]
    fn withheld_is_indexable() {
        for (i, w) in Withheld::ALL.iter().enumerate() {
            assert_eq!(*w as usize, i, "{}", w.as_str());
        }
    }
}
