//! Every limit of the data plane, with its unit, default and the reason to raise it.
//!
//! Values only; bounds are enforced where settings are read (signaling). Zero never means "without limit".

use std::time::Duration;

use crate::allocator::guard::GuardConfig;
use crate::bwe::BweConfig;
use crate::ice::IceConfig;
use crate::overload::OverloadConfig;

#[derive(Clone, Debug)]
pub struct Config {
    /// Transports on this worker. Raise it on machines with memory to spare; an idle one costs about 60 KB.
    pub max_transports: usize,
    /// Consent and paths.
    pub ice: IceConfig,
    /// A transport that has not finished ICE and DTLS by then is freed. Raise it for clients behind very slow links.
    pub connect_timeout: Duration,
    /// Life of an unfinished DTLS handshake. Raise it for links with round trips of seconds.
    pub dtls_handshake_timeout: Duration,
    /// Unfinished DTLS handshakes at once; each may hold some 64 KiB. Raise it if thousands join in one second.
    pub max_dtls_handshakes: usize,
    /// Streams (ssrcs) tracked per transport, RTX included. Raise it for clients that publish dozens of tracks.
    pub max_ssrcs: usize,
    /// Tracks (up and down) on one transport. Raise it for rooms where one client watches hundreds.
    pub max_tracks: usize,

    /// Largest data-channel message taken or sent. Clients are told it in SDP and cut above it.
    pub max_message_bytes: usize,
    /// Undelivered data of one association while messages are put together. At least one message.
    pub sctp_receive_buffer_bytes: usize,
    /// Open channels of one association. Raise it for applications with channels of their own.
    pub max_channels: usize,
    /// Data-channel messages a second that one transport may send, data tracks among them; two seconds' worth at once. Raise it
    /// for applications that send thousands of small ones; the one signaling process reads them all.
    pub data_messages_per_second: u32,
    /// The same in bytes. Raise it for files over links of more than 60 Mbit/s; so much waits, for each second that
    /// signaling is held up.
    pub data_bytes_per_second: u32,
    /// Unsent reliable data of one receiver before it counts as stalled. Raise it for bulk transfer to slow readers.
    pub reliable_buffer_bytes: usize,
    /// How long a reliable receiver may stay over its cap before its channel is reset.
    pub reliable_stall: Duration,
    /// Unsent lossy data of one receiver; the oldest messages give way. Raise it for bursts of large messages.
    pub lossy_buffer_bytes: usize,

    /// Packets of one stream kept for retransmission. 512 is about 2 s of a 2 Mbit/s layer. Raise it for long round trips.
    pub history_packets: usize,
    /// Least time between two key-frame requests to one stream. Lower it for faster joins, at the publisher's cost.
    pub keyframe_interval: Duration,
    /// The same where a subscriber waits for his first picture. libwebrtc answers no two requests within 300 ms.
    pub first_picture_interval: Duration,
    /// Requests for first pictures beyond one each `keyframe_interval`. Raise it for long storms of joins.
    pub first_picture_burst: u32,
    /// A first picture may be a key frame this old, sent with what followed it, instead of one that is asked for. Lower it to
    /// have pictures begin with less to catch up on, at the publisher's cost.
    pub first_picture_max_age: Duration,
    /// How long a lower demand must last before the publisher is told (dynacast).
    pub demand_dwell: Duration,
    /// Time without packets after which a layer counts as not sent.
    pub layer_timeout: Duration,
    /// Silence of a client that answered what it is sent, until signaling is told. Raise it for clients that stand still
    /// for seconds; a network that has closed is left that much later.
    pub unanswered_after: Duration,
    /// Time between connection-quality reports.
    pub quality_interval: Duration,
    /// Receiver estimated maximum bitrate told to publishers that negotiated only `goog-remb`.
    pub remb_bps: u64,
    /// Time between transport-wide feedback packets to a publisher.
    pub twcc_interval: Duration,
    /// Time between receiver reports, sender reports and their SDES.
    pub report_interval: Duration,

    /// Estimate each subscriber's link from his feedback, and send no more than it carries.
    pub congestion_control: bool,
    /// First, least and largest estimate of a subscriber's link.
    pub bwe: BweConfig,
    /// When layers may climb again.
    pub guard: GuardConfig,
    /// Feedback that was negotiated and has not come by then, although reports do, is not waited for; where none do,
    /// after four times as long. Raise it for round trips of seconds.
    pub feedback_patience: Duration,
    /// Video leaves at this multiple of the estimate. Raise it for quicker key frames, at the cost of queues on the link.
    pub pacing_factor: f64,
    /// Least time between two pings to a subscriber whose link limits what he gets. Raise it to spend fewer packets on them;
    /// a link that falls is noticed that much later.
    pub ping_interval: Duration,
    /// Video that would wait longer, a key frame four times as long, is dropped and begun anew. Raise it for streams
    /// without temporal layers on slow links.
    pub max_pacer_delay: Duration,

    /// Microphones that everybody in a room hears at once: the loudest. Raise it for choirs; each one more costs every
    /// subscriber some 40 kbit/s and 50 packets a second.
    pub loudest_microphones: usize,

    /// What is given up when there is more to do than one core can.
    pub overload: OverloadConfig,

    /// Padding bytes that may be added to a packet so that a frame's packets form one segmented send.
    pub max_segment_padding: u8,
    /// Packets of one segmented send; the kernel takes 64 at most (`UDP_MAX_SEGMENTS`). 1 switches segmentation off.
    pub max_segments: usize,

    /// Traces that are recorded at once. Raise it for several operators who look into one worker's rooms.
    pub max_traces: usize,
    /// The longest trace. Raise it for what happens rarely.
    pub trace_max_time: Duration,
    /// A trace that has grown to this ends. A subscriber of 2.5 Mbit/s makes about 30 KB a second.
    pub trace_max_bytes: usize,

    /// Lets commands damage transports on purpose. Only for tests of what such damage costs.
    pub fault_injection: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_transports: 20_000,
            ice: IceConfig::default(),
            connect_timeout: Duration::from_secs(15),
            dtls_handshake_timeout: Duration::from_secs(10),
            max_dtls_handshakes: 2_000,
            max_ssrcs: 64,
            max_tracks: 1_000,
            max_message_bytes: 64 * 1024,
            sctp_receive_buffer_bytes: 1024 * 1024,
            max_channels: 64,
            data_messages_per_second: 2_000,
            data_bytes_per_second: 8_000_000,
            reliable_buffer_bytes: 1024 * 1024,
            reliable_stall: Duration::from_secs(10),
            lossy_buffer_bytes: 128 * 1024,
            history_packets: 512,
            keyframe_interval: Duration::from_millis(1_000),
            first_picture_interval: Duration::from_millis(300),
            first_picture_burst: 20,
            first_picture_max_age: Duration::from_secs(1),
            demand_dwell: Duration::from_secs(3),
            layer_timeout: Duration::from_millis(1_500),
            unanswered_after: Duration::from_secs(3),
            quality_interval: Duration::from_secs(5),
            remb_bps: 20_000_000,
            twcc_interval: Duration::from_millis(100),
            report_interval: Duration::from_secs(1),
            congestion_control: true,
            bwe: BweConfig::default(),
            guard: GuardConfig::default(),
            feedback_patience: Duration::from_millis(1_500),
            pacing_factor: 1.1,
            ping_interval: Duration::from_millis(10),
            max_pacer_delay: Duration::from_millis(1_500),
            loudest_microphones: 50,
            overload: OverloadConfig::default(),
            max_segment_padding: 1,
            max_segments: 64,
            max_traces: 4,
            trace_max_time: Duration::from_secs(300),
            trace_max_bytes: 32 * 1024 * 1024,
            fault_injection: false,
        }
    }
}
