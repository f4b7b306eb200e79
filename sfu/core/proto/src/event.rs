//! What a worker tells signaling: the upward half of the border. Encoded as [`crate::command`] is.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::ids::{DowntrackId, RoomId, Spatial, TransportId, UptrackId};
use crate::trace::End;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// Every change of a transport's state. `Closed` is the last word about it.
    TransportState {
        transport: TransportId,
        state: TransportState,
        reason: String,
    },
    /// A client that answered what it is sent has fallen silent; told once a silence, long before `Disconnected`.
    Unanswered {
        transport: TransportId,
    },
    /// The path in use and what protects it; sent on the first connect and whenever the path's protocol changes.
    TransportPath {
        transport: TransportId,
        protocol: PathProtocol,
        cipher: String,
        dtls_version: String,
    },

    DataChannelOpen {
        transport: TransportId,
        label: String,
    },
    DataMessage {
        transport: TransportId,
        label: String,
        payload: ByteBuf,
    },
    /// A reliable reader stayed over its buffer cap; its channel was reset.
    DataChannelStalled {
        transport: TransportId,
        label: String,
    },

    /// First media of the uptrack, and whenever the set of live layers or the codec changes.
    UptrackMedia {
        uptrack: UptrackId,
        mime: String,
        layers: Vec<Spatial>,
    },
    /// The highest layer that any subscriber may need; `None`: nobody needs video. Up at once, down after a dwell.
    UptrackDemand {
        uptrack: UptrackId,
        max_spatial: Option<Spatial>,
    },
    /// A subscriber's copy was paused or resumed by the core, not by its own wish.
    DowntrackState {
        downtrack: DowntrackId,
        active: bool,
        reason: String,
    },
    /// The first packet of a downtrack has left.
    DowntrackStarted {
        downtrack: DowntrackId,
    },

    /// What the worker gives up from now on: for want of CPU, `overload::Level` as a number, and for want of memory, as
    /// [`crate::command::Command::SetMemoryPressure`] has said.
    Overload {
        level: u8,
        memory: u8,
    },
    /// Changes only; `active: false` ends a speaker.
    Speakers {
        room: RoomId,
        speakers: Vec<Speaker>,
    },
    /// Every few seconds for all connected transports together.
    Quality {
        reports: Vec<TransportQuality>,
    },

    Snapshot(Snapshot),
    RoomStats {
        request: u64,
        room: RoomId,
        transports: Vec<TransportStats>,
        uptracks: Vec<UptrackStats>,
        downtracks: Vec<DowntrackStats>,
    },
    /// What a trace has become longer by: whole lines of JSON (`trace.rs`). With `end` it is over.
    Trace {
        trace: u64,
        lines: ByteBuf,
        end: Option<TraceEnd>,
    },
    /// A command could not be applied. `subject` is the id it named.
    Rejected {
        command: String,
        subject: u64,
        code: String,
        message: String,
    },
}

/// Why a trace is over, or never began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceEnd {
    /// It has lasted as long as was asked for.
    Time,
    /// It has grown as large as it may.
    Size,
    Stopped,
    /// The transport is closed.
    Closed,
    UnknownTransport,
    /// As many are recorded as may be, or this transport's already.
    TooMany,
}

impl From<End> for TraceEnd {
    fn from(end: End) -> Self {
        match end {
            End::Time => Self::Time,
            End::Size => Self::Size,
            End::Stopped => Self::Stopped,
            End::Closed => Self::Closed,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransportState {
    /// Waiting for the first authenticated check.
    New,
    /// Checks arrive; DTLS is under way.
    Connecting,
    Connected,
    /// No check for a while; media is still sent until it fails.
    Disconnected,
    /// Consent is gone or DTLS failed: nothing is sent any more.
    Failed,
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathProtocol {
    Udp,
    Tcp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speaker {
    pub uptrack: UptrackId,
    /// 0.0 – 1.0, smoothed.
    pub level: f32,
    pub active: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TransportQuality {
    pub transport: TransportId,
    pub rtt_ms: f32,
    /// Share of packets lost, 0.0 – 1.0, from the client to us, and from us to the client.
    pub loss_up: f32,
    pub loss_down: f32,
    pub jitter_up_ms: f32,
    pub jitter_down_ms: f32,
    /// Bits a second in the last interval, media only.
    pub bitrate_up_bps: u64,
    pub bitrate_down_bps: u64,
    /// False where no media flowed in either direction: then the loss figures mean nothing.
    pub has_media: bool,
    /// Some video of this client is sent below what it wants.
    pub limited: bool,
}

/// All that lives on the worker, so that a new signaling process can take over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub transports: Vec<TransportSummary>,
    pub uptracks: Vec<UptrackSummary>,
    pub downtracks: Vec<DowntrackSummary>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransportSummary {
    pub transport: TransportId,
    pub room: RoomId,
    pub state: TransportState,
    pub channels: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UptrackSummary {
    pub uptrack: UptrackId,
    pub transport: TransportId,
    pub mime: String,
    pub layers: Vec<Spatial>,
    pub max_spatial: Option<Spatial>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DowntrackSummary {
    pub downtrack: DowntrackId,
    pub uptrack: UptrackId,
    pub transport: TransportId,
    pub active: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TransportStats {
    pub quality: TransportQuality,
    pub state: String,
    pub cipher: String,
    pub protocol: String,
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub packets_up: u64,
    pub packets_down: u64,
    /// Send-side estimate; 0 before there is one, and while nothing limits what is sent.
    pub estimate_bps: u64,
    /// What limits the estimate: `start`, `growth`, `delay`, `loss`, `probe`, `trust`, `remb`, `silence`; a circuit
    /// breaker's `media_timeout`, `report_timeout`, `tcp_throughput`, `unusable`; empty without one.
    pub estimate_limit: String,
    /// What the client confirmed lately.
    pub acknowledged_bps: u64,
    /// What the layers chosen for it need, sound included, and what all useful ones would.
    pub allocated_bps: u64,
    pub wanted_bps: u64,
    /// Waiting on the link, and waiting here.
    pub link_queue_ms: f32,
    pub pacer_queue_ms: f32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UptrackStats {
    pub uptrack: UptrackId,
    pub mime: String,
    pub packets: u64,
    pub bytes: u64,
    pub lost: u64,
    pub nacks: u64,
    pub plis: u64,
    pub keyframes: u64,
    /// Bits a second of each spatial layer, lowest first; 0 = not sent now.
    pub layer_bitrates_bps: Vec<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DowntrackStats {
    pub downtrack: DowntrackId,
    pub uptrack: UptrackId,
    pub packets: u64,
    pub bytes: u64,
    pub retransmitted: u64,
    pub nacks: u64,
    pub plis: u64,
    pub current_spatial: Option<Spatial>,
    pub target_spatial: Option<Spatial>,
    pub max_spatial: Option<Spatial>,
    pub current_temporal: u8,
    /// Why it is sent as it is: the reason of the last decision.
    pub reason: String,
    /// Why the allocation chose its layer: `best`, `budget`, `held_back`, `overload`, `no_room`, `no_layers`; empty where nothing
    /// limits.
    pub allocation: String,
    /// Bits a second that the chosen layer needs.
    pub target_bps: u64,
}
