//! A description's parts. `sfu/sdp.py` has the same types for Python; a contract test holds the two together.

use serde::{Deserialize, Serialize};

use crate::command::Fingerprint;

/// A whole description. ICE and DTLS given for the session hold where a section is silent; direction and mixed
/// extensions are read into its sections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub origin: Origin,
    pub name: String,
    pub groups: Vec<Group>,
    pub ice_lite: bool,
    pub ice_ufrag: Option<String>,
    pub ice_pwd: Option<String>,
    pub ice_options: Vec<String>,
    pub setup: Option<Setup>,
    pub fingerprints: Vec<Fingerprint>,
    pub extmap_allow_mixed: bool,
    pub msid_semantic: Option<String>,
    pub media: Vec<Media>,
}

/// RFC 8866 §5.2. `session_id` stays the same and `session_version` grows through a session's life (RFC 8829 §5.2.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub username: String,
    pub session_id: u64,
    pub session_version: u64,
    pub address: String,
}

impl Default for Origin {
    fn default() -> Self {
        Self { username: "-".into(), session_id: 0, session_version: 0, address: "127.0.0.1".into() }
    }
}

/// RFC 5888; `BUNDLE` per RFC 9143.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    pub semantics: String,
    pub mids: Vec<String>,
}

/// One m= section. `formats` is the m-line's list where `protocol` is not RTP; RTP sections have `codecs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    /// `audio`, `video`, `application`, or something we reject.
    pub kind: String,
    /// 0 = rejected, unless `bundle_only` (RFC 9143 §6).
    pub port: u16,
    pub protocol: String,
    pub formats: Vec<String>,
    pub mid: Option<String>,
    pub direction: Direction,
    pub ice_ufrag: Option<String>,
    pub ice_pwd: Option<String>,
    pub ice_options: Vec<String>,
    pub candidates: Vec<Candidate>,
    pub end_of_candidates: bool,
    pub setup: Option<Setup>,
    pub fingerprints: Vec<Fingerprint>,
    pub bundle_only: bool,
    pub rtcp_mux: bool,
    pub rtcp_rsize: bool,
    pub extmap_allow_mixed: bool,
    pub codecs: Vec<Codec>,
    pub extensions: Vec<Extension>,
    pub rids: Vec<Rid>,
    pub simulcast: Option<Simulcast>,
    pub msids: Vec<Msid>,
    pub ssrcs: Vec<Ssrc>,
    pub ssrc_groups: Vec<SsrcGroup>,
    pub sctp_port: Option<u16>,
    /// Bytes; 0 = any size (RFC 8841 §6.1).
    pub max_message_size: Option<u64>,
}

impl Media {
    /// Whether `formats` are payload types (RFC 4566 `RTP/…` profiles).
    pub fn is_rtp(&self) -> bool {
        self.protocol.contains("RTP/")
    }
}

/// Media direction as the description's own side sees it (RFC 8866 §6.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    #[default]
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

impl Direction {
    pub(super) const ALL: [(&'static str, Self); 4] = [
        ("sendrecv", Self::SendRecv),
        ("sendonly", Self::SendOnly),
        ("recvonly", Self::RecvOnly),
        ("inactive", Self::Inactive),
    ];

    /// The same direction as the other side sees it.
    pub fn reversed(self) -> Self {
        match self {
            Self::SendOnly => Self::RecvOnly,
            Self::RecvOnly => Self::SendOnly,
            both => both,
        }
    }
}

/// DTLS role offered or chosen (RFC 8842 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Setup {
    ActPass,
    Active,
    Passive,
    HoldConn,
}

impl Setup {
    pub(super) const ALL: [(&'static str, Self); 4] = [
        ("actpass", Self::ActPass),
        ("active", Self::Active),
        ("passive", Self::Passive),
        ("holdconn", Self::HoldConn),
    ];
}

/// An ICE candidate (RFC 8839 §5.1). Extension attributes other than `tcptype` are dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    pub foundation: String,
    pub component: u16,
    /// Lower case: `udp`, `tcp`.
    pub protocol: String,
    pub priority: u32,
    /// An IP address or a name (`….local`).
    pub address: String,
    pub port: u16,
    /// `host`, `srflx`, `prflx`, `relay`.
    #[serde(rename = "type")]
    pub typ: String,
    pub related_address: Option<String>,
    pub related_port: Option<u16>,
    /// `active`, `passive`, `so` (RFC 6544 §4.5).
    pub tcp_type: Option<String>,
}

/// One payload type of a section: rtpmap, fmtp and rtcp-fb together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Codec {
    pub pt: u8,
    pub name: String,
    /// Hz.
    pub clock_rate: u32,
    pub channels: u8,
    pub fmtp: String,
    pub feedback: Vec<String>,
}

/// A header extension (RFC 8285 §5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    pub id: u16,
    pub uri: String,
    pub direction: Option<Direction>,
    pub attributes: String,
}

/// RFC 8851.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rid {
    pub id: String,
    pub direction: RidDirection,
    /// `pt=96;max-width=640`, verbatim.
    pub restrictions: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RidDirection {
    Send,
    Recv,
}

/// RFC 8853 §5.1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Simulcast {
    pub send: Vec<SimulcastStream>,
    pub recv: Vec<SimulcastStream>,
}

/// One stream of a simulcast: alternatives in order of preference, and whether it starts paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimulcastStream {
    pub rids: Vec<String>,
    pub paused: bool,
}

/// RFC 8830 §2; `stream` is `-` for "no stream".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msid {
    pub stream: String,
    pub track: Option<String>,
}

/// The attributes of one source (RFC 5576 §4.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ssrc {
    pub ssrc: u32,
    pub cname: Option<String>,
    pub msid: Option<Msid>,
}

/// `FID` pairs a source with its retransmissions (RFC 5576 §4.2, 4588 §8.1); `SIM` lists simulcast layers (legacy).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SsrcGroup {
    pub semantics: String,
    pub ssrcs: Vec<u32>,
}
