//! What the sockets and the pump count. Totals since the start, except where a field says otherwise.

use serde::Serialize;

/// Read at scrape time; each field becomes one sample of `sfu/metrics.py`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NetCounters {
    pub udp_received_datagrams: u64,
    pub udp_received_bytes: u64,
    pub udp_receive_calls: u64,
    pub udp_receive_failed: u64,
    pub udp_received_truncated: u64,
    /// Pictures' datagrams that stood aside for sound, as the thread was late.
    pub udp_received_aside: u64,
    /// Datagrams the kernel dropped because our receive buffer was full.
    pub udp_receive_overflows: u64,
    pub udp_sent_datagrams: u64,
    pub udp_sent_bytes: u64,
    /// Messages handed to the kernel; a run of segments is one.
    pub udp_sent_messages: u64,
    pub udp_send_calls: u64,
    pub udp_send_failed: u64,
    /// Messages dropped because the send buffer stayed full.
    pub udp_send_would_block: u64,
    pub udp_send_no_buffers: u64,
    /// Runs the route refused to segment; they were sent datagram by datagram.
    pub udp_segmentation_refused: u64,

    pub tcp_accepted: u64,
    /// Connections closed at once because the limit was reached.
    pub tcp_refused: u64,
    /// Closed because no authenticated check came in time, or nothing was sent to them for long.
    pub tcp_idle_closed: u64,
    pub tcp_malformed: u64,
    pub tcp_received_frames: u64,
    pub tcp_received_bytes: u64,
    pub tcp_sent_frames: u64,
    pub tcp_sent_bytes: u64,
    /// Frames dropped because a connection's write queue was full.
    pub tcp_send_dropped: u64,
    /// Open now.
    pub tcp_connections: u64,

    pub wakes: u64,
    /// Of them, those at the end of a tick: packets that arrived meanwhile shared one wake.
    pub ticks: u64,
    pub commands: u64,
    pub events: u64,
    /// Events lost because Python did not take them; the controller must take a snapshot.
    pub events_dropped: u64,
    /// CPU time of the packet thread.
    pub cpu_microseconds: u64,
    /// Longest single pass since the last reading, sleeping excluded: what a packet may have waited for.
    pub longest_pass_microseconds: u64,
}
