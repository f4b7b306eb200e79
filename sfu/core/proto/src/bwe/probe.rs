//! Probing: short clusters sent faster than the estimate, to learn whether the link carries the next useful layer.
//!
//! A cluster is aimed at what the subscriber could use next, never at an abstract multiple; it is sent once the link
//! has been clean for a while, and less and less often where it keeps failing.

use std::time::{Duration, Instant};

use super::history::Sent;

/// What the pacer should send, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeCluster {
    pub id: u32,
    pub bitrate_bps: u64,
    /// At least so many bytes in at least so many packets; media and retransmissions that wait count first.
    pub min_bytes: u32,
    pub min_packets: u32,
}

impl ProbeCluster {
    /// Size of a padding packet: small on a narrow link, where five full ones would be a queue of their own.
    pub fn packet_bytes(&self) -> u32 {
        (self.min_bytes / self.min_packets.max(1)).clamp(200, 1200)
    }
}

/// Shortest cluster: long enough that the jitter of one packet does not decide the result.
const DURATION: Duration = Duration::from_millis(20);
const MIN_PACKETS: u32 = 5;
/// Aim this much above what is wanted: the result must cover it with room for what flows beside.
const HEADROOM: f64 = 1.15;
/// One step of climbing: never more than this over the estimate at once, so that a failed probe is a short queue. A
/// success is followed by the next step at once.
const MAX_STEP: f64 = 2.0;
/// Of a result, believe this much.
const TRUST: f64 = 0.95;
/// Below this share of what was sent, the link was full and what arrived is its capacity.
const FULL: f64 = 0.9;
/// The first wait of a clean link, and after each failure twice as long.
const INTERVAL_MIN: Duration = Duration::from_millis(400);
/// Short enough that a link that has become wide is noticed within seconds.
const INTERVAL_MAX: Duration = Duration::from_secs(3);
/// Feedback on a cluster that has not come by then never will.
const PATIENCE: Duration = Duration::from_secs(1);

struct Running {
    id: u32,
    began: Option<Instant>,
    last_sent: Option<Instant>,
    sent_packets: u32,
    sent_bytes: u64,
    last_sent_bytes: u32,
    first_received: Option<(Duration, u32)>,
    last_received: Duration,
    received_bytes: u64,
    received_packets: u32,
    expires: Instant,
}

pub(super) struct Prober {
    next_id: u32,
    waiting: Option<ProbeCluster>,
    running: Option<Running>,
    clean_since: Option<Instant>,
    interval: Duration,
    not_before: Option<Instant>,
}

impl Prober {
    pub(super) fn new() -> Self {
        Self { next_id: 1, waiting: None, running: None, clean_since: None, interval: INTERVAL_MIN, not_before: None }
    }

    pub(super) fn want(&mut self, now: Instant, wanted_bps: u64, estimate_bps: u64, clean: bool) {
        if !clean {
            self.clean_since = None;
            self.waiting = None;
            return;
        }
        let since = *self.clean_since.get_or_insert(now);
        if self.running.as_ref().is_some_and(|running| now >= running.expires) {
            self.running = None;
        }
        let due = now.saturating_duration_since(since) >= self.interval && self.not_before.is_none_or(|at| now >= at);
        if wanted_bps <= estimate_bps || self.running.is_some() || self.waiting.is_some() || !due {
            return;
        }
        let aim = (wanted_bps as f64 * HEADROOM).min(estimate_bps as f64 * MAX_STEP);
        self.waiting = Some(ProbeCluster {
            id: self.next_id,
            bitrate_bps: aim as u64,
            min_bytes: (aim * DURATION.as_secs_f64() / 8.0) as u32,
            min_packets: MIN_PACKETS,
        });
        self.next_id = self.next_id.wrapping_add(1);
    }

    pub(super) fn poll(&mut self, now: Instant) -> Option<ProbeCluster> {
        let cluster = self.waiting.take()?;
        self.running = Some(Running {
            id: cluster.id,
            began: None,
            last_sent: None,
            sent_packets: 0,
            sent_bytes: 0,
            last_sent_bytes: 0,
            first_received: None,
            last_received: Duration::ZERO,
            received_bytes: 0,
            received_packets: 0,
            expires: now + PATIENCE,
        });
        Some(cluster)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.running.as_ref().map(|running| running.expires)
    }

    pub(super) fn sent(&mut self, packet: &Sent) {
        let Some(running) = self.running.as_mut().filter(|running| packet.probe == Some(running.id)) else { return };
        running.began.get_or_insert(packet.at);
        running.last_sent = Some(packet.at);
        running.sent_packets += 1;
        running.sent_bytes += u64::from(packet.bytes);
        running.last_sent_bytes = packet.bytes;
    }

    pub(super) fn received(&mut self, packet: &Sent, at: Duration) {
        let Some(running) = self.running.as_mut().filter(|running| packet.probe == Some(running.id)) else { return };
        running.first_received.get_or_insert((at, packet.bytes));
        running.last_received = running.last_received.max(at);
        running.received_bytes += u64::from(packet.bytes);
        running.received_packets += 1;
    }

    /// What the running cluster has shown, once enough of it has come back.
    pub(super) fn result(&mut self, now: Instant) -> Option<u64> {
        let running = self.running.as_ref()?;
        let enough = running.sent_packets >= MIN_PACKETS && running.received_packets * 10 >= running.sent_packets * 8;
        if !enough {
            return None;
        }
        let (first_at, first_bytes) = running.first_received?;
        let sending = running.last_sent?.saturating_duration_since(running.began?).as_secs_f64();
        let receiving = running.last_received.saturating_sub(first_at).as_secs_f64();
        if sending <= 0.0 || receiving <= 0.0 {
            self.running = None;
            return None;
        }
        // An interval between n packets has carried n - 1 of them.
        let sent_bps = (running.sent_bytes - u64::from(running.last_sent_bytes)) as f64 * 8.0 / sending;
        let received_bps = (running.received_bytes - u64::from(first_bytes)) as f64 * 8.0 / receiving;
        self.running = None;
        self.not_before = Some(now + self.interval);
        if received_bps < FULL * sent_bps {
            self.failed(now);
            return Some((received_bps * TRUST) as u64);
        }
        self.interval = INTERVAL_MIN;
        self.not_before = None;
        Some((sent_bps.min(received_bps) * TRUST) as u64)
    }

    /// The link turned out full: wait longer before the next try.
    pub(super) fn failed(&mut self, now: Instant) {
        self.interval = (self.interval * 2).min(INTERVAL_MAX);
        self.not_before = Some(now + self.interval);
        self.clean_since = None;
        self.waiting = None;
    }
}
