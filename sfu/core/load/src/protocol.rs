//! What the generator is told and what it answers: msgpack maps with a `type` field, twins of `sfu/load.py`.
//!
//! Framed as on a worker's control socket. Commands are obeyed in order; ids are chosen by whoever asks.

use callyard_proto::command::{DtlsRole, Fingerprint, IceCredentials};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::histogram::Summary;

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Command {
    /// First of all.
    Setup(Setup),
    /// A client that begins to check at once.
    Open(Open),
    /// A datagram of a handshake that is made elsewhere.
    SendDtls {
        transport: u64,
        datagram: ByteBuf,
    },
    /// The outcome of a handshake that was made elsewhere.
    SetKeys(Keys),
    Publish(Publish),
    /// Which encodings of a stream are sent, lowest first; those that are not named are sent.
    SetEncodings {
        stream: u64,
        active: Vec<bool>,
    },
    /// What the server may send to this client. Again: what it says replaces what was said.
    Receive(Receive),
    /// Ends a client without a word to the server if `abrupt`.
    Close {
        transport: u64,
        abrupt: bool,
    },
    /// Answered by [`Report::Stats`]; `reset` begins a new window after the answer.
    GetStats {
        request: u64,
        reset: bool,
    },
    /// Opens sockets that only count what they get, for the measurement of the limit. Answered by [`Report::Sinks`].
    OpenSinks {
        request: u64,
        count: usize,
    },
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Setup {
    pub certificate_der: ByteBuf,
    pub key_der: ByteBuf,
    /// How long the generator sleeps with closed eyes between two looks at its sockets: a server is then never charged for
    /// waking it.
    pub tick_us: u64,
    /// Take runs of datagrams from the kernel unsegmented.
    pub gro: bool,
    /// Time between transport-wide feedback packets of a client.
    pub feedback_ms: u64,
    pub receive_buffer_bytes: usize,
    /// Share of media packets, in each direction, that never arrive.
    #[serde(default)]
    pub loss: f64,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Open {
    pub transport: u64,
    pub local: IceCredentials,
    pub remote: IceCredentials,
    pub fingerprints: Vec<Fingerprint>,
    /// Ours.
    pub role: DtlsRole,
    /// Our role in ICE: true unless a full agent made the offer (RFC 8445 §6.1.1).
    pub controlling: bool,
    /// `ip:port`.
    pub address: String,
    /// DTLS is made elsewhere: its datagrams go up as [`Report::DtlsDatagram`].
    pub external_dtls: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Keys {
    pub transport: u64,
    /// Number of the profile (RFC 5764 §4.1.2).
    pub profile: u16,
    pub local_key: ByteBuf,
    pub local_salt: ByteBuf,
    pub remote_key: ByteBuf,
    pub remote_salt: ByteBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Codec {
    Vp8,
    Vp9,
    H264,
    Opus,
}

impl Codec {
    pub(crate) fn is_video(self) -> bool {
        self != Self::Opus
    }

    /// Hz.
    pub(crate) fn clock_rate(self) -> u32 {
        if self.is_video() { 90_000 } else { 48_000 }
    }
}

/// Header extension ids; `None`: not negotiated.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ExtensionIds {
    pub mid: Option<u8>,
    pub rid: Option<u8>,
    pub repaired_rid: Option<u8>,
    pub transport_seq: Option<u8>,
    pub abs_send_time: Option<u8>,
    pub audio_level: Option<u8>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Publish {
    pub transport: u64,
    pub stream: u64,
    pub codec: Codec,
    pub pt: u8,
    pub rtx_pt: Option<u8>,
    pub mid: String,
    pub extensions: ExtensionIds,
    /// Video: pictures; audio: packets.
    pub frames_per_second: f64,
    /// First picture this long after the command, so that many publishers do not send in step.
    pub phase_us: u64,
    /// Lowest layer first.
    pub encodings: Vec<Encoding>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Encoding {
    pub rid: Option<String>,
    pub ssrc: u32,
    pub rtx_ssrc: Option<u32>,
    pub packets_per_second: f64,
    /// Of an RTP payload, descriptor included. Of a picture's packets every second is one byte shorter, as Chromium's are.
    pub payload_bytes: usize,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Receive {
    pub transport: u64,
    pub codecs: Vec<ReceiveCodec>,
    pub extensions: ExtensionIds,
    /// Which stream a retransmission stream repairs.
    pub repairs: Vec<Repair>,
    /// Ask for what is missing.
    pub nack: bool,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct ReceiveCodec {
    pub pt: u8,
    pub codec: Codec,
    pub rtx_pt: Option<u8>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Repair {
    pub rtx_ssrc: u32,
    pub ssrc: u32,
}

#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Report {
    /// `cipher` is empty unless connected. `ice_us` and `dtls_us` are counted from [`Command::Open`].
    TransportState {
        transport: u64,
        state: State,
        reason: String,
        cipher: String,
        ice_us: u64,
        dtls_us: u64,
    },
    /// The first media came, this long after [`Command::Open`]: audio's first packet, the end of video's first picture.
    FirstMedia {
        transport: u64,
        video: bool,
        after_us: u64,
    },
    DtlsDatagram {
        transport: u64,
        datagram: ByteBuf,
    },
    Stats(Box<StatsReport>),
    Sinks {
        request: u64,
        addresses: Vec<String>,
    },
    /// A command that makes no sense, or a socket that could not be had.
    Refused {
        command: String,
        subject: u64,
        message: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// An ICE check was answered; DTLS may begin.
    Checked,
    Connected,
    Failed,
    /// The server closed.
    Closed,
}

/// Since the last reset, except `transports`, `connected` and `streams`, which are now.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct StatsReport {
    pub request: u64,
    pub elapsed_us: u64,
    pub transports: u64,
    pub connected: u64,
    pub audio: MediaStats,
    pub video: MediaStats,
    pub nacks_sent: u64,
    pub nacked_received: u64,
    pub resent: u64,
    pub keyframes_asked: u64,
    pub twcc_sent: u64,
    pub twcc_received: u64,
    pub srtp_refused: u64,
    pub rtx_unknown: u64,
    /// What the kernel dropped because a socket of ours was full: the generator, not the server, lost it.
    pub socket_overflows: u64,
    pub send_failed: u64,
    /// How late the generator sent its pictures: high figures mean that it was the bottleneck.
    pub send_lateness: Summary,
    pub sink_datagrams: u64,
    pub ice_time: Summary,
    pub dtls_time: Summary,
    pub first_media_time: Summary,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct MediaStats {
    pub sent_packets: u64,
    pub sent_bytes: u64,
    /// Streams that have brought something.
    pub streams: u64,
    pub received_packets: u64,
    pub received_bytes: u64,
    /// By sequence numbers: what should have come.
    pub expected: u64,
    /// Never came, not even again.
    pub lost: u64,
    /// Came only when asked for again.
    pub recovered: u64,
    pub duplicates: u64,
    pub reordered: u64,
    /// From just before the publisher's send call to the kernel's time stamp at the receiver.
    pub latency: Summary,
}
