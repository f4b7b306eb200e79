//! What signaling asks of a worker: the downward half of the border.
//!
//! Values only, encoded as msgpack maps with a `type` field; `sfu/control.py` has the same types for Python and a
//! contract test holds the two together. Commands are applied in order and not acknowledged: ids are chosen by
//! signaling, and a command that cannot be applied comes back as [`crate::event::Event::Rejected`].
//! Nothing here knows a role, a name or a token.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::ids::{DataUptrackId, DowntrackId, Pt, RoomId, Spatial, Ssrc, TransportId, UptrackId};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Command {
    /// Opens an ICE-lite, DTLS-SRTP transport that waits for its client's first check.
    AddTransport {
        transport: TransportId,
        room: RoomId,
        local: IceCredentials,
        remote: Option<Remote>,
    },
    /// What the client's description says; may come after the first check. DTLS starts only once it is known.
    SetRemote {
        transport: TransportId,
        remote: Remote,
    },
    /// New credentials on both sides; keys, tracks and the old path live on (RFC 8445 §9).
    RestartIce {
        transport: TransportId,
        local: IceCredentials,
        remote: Option<IceCredentials>,
    },
    /// Closes the transport with all its uptracks, downtracks and channels. DTLS close_notify is sent.
    RemoveTransport {
        transport: TransportId,
    },

    /// Opens data channels from our side as soon as SCTP is up (in-band DCEP, RFC 8832).
    OpenDataChannels {
        transport: TransportId,
        channels: Vec<ChannelSpec>,
    },
    /// Sends one message to many; a transport whose channel is not open is skipped and counted.
    SendData {
        transports: Vec<TransportId>,
        label: String,
        payload: ByteBuf,
    },

    /// A section on which the client sends: one codec's encodings of one published track.
    AddUptrack(UptrackSpec),
    /// `muted` stops forwarding and keeps every subscriber's continuity. `layers` replaces the declared sizes.
    UpdateUptrack {
        uptrack: UptrackId,
        muted: bool,
        layers: Option<Vec<LayerSpec>>,
    },
    /// Ends the uptrack and all its downtracks.
    RemoveUptrack {
        uptrack: UptrackId,
    },
    /// Asks the publisher for a key frame, within the throttle.
    RequestKeyframe {
        uptrack: UptrackId,
    },

    /// Sends the transport's client no more than that, whatever its link carries; `None`: what it carries.
    BoundDownlink {
        transport: TransportId,
        max_bps: Option<u64>,
    },

    /// Starts forwarding `uptrack` to `transport` as soon as both are up; video starts at a key frame.
    AddDowntrack(DowntrackSpec),
    /// What the subscriber wants to see from now on.
    SetDowntrack {
        downtrack: DowntrackId,
        want: Want,
    },
    /// Joins the downtrack to another uptrack (backup codec, republished track) without a break in its numbering.
    SwitchDowntrack {
        downtrack: DowntrackId,
        uptrack: UptrackId,
    },
    RemoveDowntrack {
        downtrack: DowntrackId,
    },

    /// `_data_track` packets with `pub_handle` from `transport` are this data track.
    AddDataUptrack {
        data_uptrack: DataUptrackId,
        transport: TransportId,
        pub_handle: u16,
    },
    RemoveDataUptrack {
        data_uptrack: DataUptrackId,
    },
    /// Forwards the data track to `transport` under `handle`; the same pair again changes the handle.
    AddDataDowntrack {
        data_uptrack: DataUptrackId,
        transport: TransportId,
        handle: u16,
    },
    RemoveDataDowntrack {
        data_uptrack: DataUptrackId,
        transport: TransportId,
    },

    /// Answered by [`crate::event::Event::Overload`] and [`crate::event::Event::Snapshot`].
    Snapshot,
    /// How scarce memory is, as the process sees it: 0 enough, 1 for newcomers, 2 for retransmissions, 3 for all.
    SetMemoryPressure {
        level: u8,
    },
    /// Answered by [`crate::event::Event::RoomStats`]: the figures behind every track of a room, for people.
    GetRoomStats {
        request: u64,
        room: RoomId,
    },
    /// Writes down for so long what the transport's client is sent layers by, and why. Answered by
    /// [`crate::event::Event::Trace`] until it ends; `trace` is chosen by signaling.
    StartTrace {
        trace: u64,
        transport: TransportId,
        seconds: f64,
    },
    StopTrace {
        trace: u64,
    },
    /// Test hook for the fault tests; refused unless the worker was started with fault injection on.
    InjectFault {
        transport: TransportId,
        fault: Fault,
    },
}

/// ICE user fragment and password (RFC 8839 §5.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceCredentials {
    pub ufrag: String,
    pub pwd: String,
}

/// The client's side of a transport, as its description gives it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Remote {
    pub ice: IceCredentials,
    /// Any one of them may match the client's certificate (RFC 8122 §5).
    pub fingerprints: Vec<Fingerprint>,
    /// The role *we* take; `Server` wherever the client leaves the choice.
    pub role: DtlsRole,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Lower-case hash name: `sha-256`.
    pub algorithm: String,
    /// Upper-case hex bytes joined by colons.
    pub value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DtlsRole {
    Server,
    Client,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelSpec {
    pub label: String,
    pub ordered: bool,
    /// `None`: reliable. 0: send once.
    pub max_retransmits: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaKind {
    Audio,
    Video,
}

/// What the pictures are for: decides whether size or frame rate is given up first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    #[default]
    Camera,
    Screen,
}

/// How an uptrack's spatial layers arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerMode {
    /// One stream, one size.
    #[default]
    Single,
    /// One stream (ssrc) per spatial layer.
    Simulcast,
    /// All spatial layers in one stream.
    Svc,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UptrackSpec {
    pub uptrack: UptrackId,
    pub transport: TransportId,
    pub kind: MediaKind,
    pub content: Content,
    pub mode: LayerMode,
    /// The section's mid: packets are matched by mid/rid extension, then by ssrc (RFC 9143 §9.2).
    pub mid: String,
    pub codecs: Vec<CodecSpec>,
    pub extensions: Vec<ExtensionSpec>,
    /// Simulcast rids, lowest layer first; empty without rids.
    pub rids: Vec<String>,
    /// Known ssrcs, lowest layer first where several; may be empty.
    pub ssrcs: Vec<SsrcSpec>,
    /// Declared layers, lowest first; may be empty for audio.
    pub layers: Vec<LayerSpec>,
    pub muted: bool,
    /// Payloads are encrypted end to end: none can be made here.
    #[serde(default)]
    pub encrypted: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CodecSpec {
    pub pt: Pt,
    /// `video/VP8`, `audio/opus`, `audio/red`, …; compared without case.
    pub mime: String,
    /// Hz.
    pub clock_rate: u32,
    /// Format parameters as in the fmtp line, `;`-separated; empty if none.
    pub fmtp: String,
    pub rtx_pt: Option<Pt>,
    /// `nack`, `nack pli`, `ccm fir`, `transport-cc`, `goog-remb` as negotiated.
    pub feedback: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionSpec {
    pub id: u8,
    pub uri: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SsrcSpec {
    pub ssrc: Ssrc,
    pub rtx_ssrc: Option<Ssrc>,
    pub rid: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerSpec {
    pub spatial: Spatial,
    /// Pixels; 0 if the publisher did not say.
    pub width: u32,
    pub height: u32,
    pub bitrate_bps: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DowntrackSpec {
    pub downtrack: DowntrackId,
    pub uptrack: UptrackId,
    pub transport: TransportId,
    pub mid: String,
    pub ssrc: Ssrc,
    pub rtx_ssrc: Option<Ssrc>,
    /// Payload types negotiated with the subscriber; packets of other codecs are not forwarded.
    pub codecs: Vec<CodecSpec>,
    pub extensions: Vec<ExtensionSpec>,
    pub want: Want,
}

/// What a subscriber asks of one track (`track_setting`). Width and height win over quality.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Nothing is sent.
    pub disabled: bool,
    /// 0 low, 1 medium, 2 high: mapped to the layers present.
    pub quality: Option<u8>,
    /// Pixels of the tile; 0 = not said. The smallest layer that covers it is chosen.
    pub width: u32,
    pub height: u32,
    /// Frames a second at most; 0 = not said.
    pub fps: u32,
    /// Larger = more important; 0 = not said.
    pub priority: u32,
}

/// Deliberate damage, for the tests that prove what it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fault {
    /// Panics inside the transport's next input: must cost that transport only.
    Panic,
}
