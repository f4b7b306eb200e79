//! Probing: short clusters sent faster than the estimate, to learn whether the link carries the next useful layer.
//!
//! A cluster is aimed at what the subscriber could use, never at an abstract multiple: at all of it in long strides while
//! nothing has failed, at the next step alone once the link's end has been met; and less often where it keeps failing. After a
//! steep fall it is aimed at what was there before it, soon and several times: a mobile link that changes its cell is narrow for
//! a moment only.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::acknowledged::AcknowledgedBitrate;
use super::history::Sent;

/// What the pacer should send, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeCluster {
    pub id: u32,
    pub bitrate_bps: u64,
    /// At least so many bytes in at least so many packets; media and retransmissions that leave meanwhile count.
    pub min_bytes: u32,
    pub min_packets: u32,
}

impl ProbeCluster {
    /// Size of a padding packet: small on a narrow link, where five full ones would be a queue of their own.
    pub fn packet_bytes(&self) -> u32 {
        (self.min_bytes / self.min_packets.max(1)).clamp(200, 1200)
    }
}

/// Shortest cluster: long enough that neither the jitter of one packet nor how many of somebody else's happen to lie between
/// decides the result.
const DURATION: Duration = Duration::from_millis(30);
const MIN_PACKETS: u32 = 5;
/// Aim this much above what is wanted: the result must cover it with room for what flows beside.
const HEADROOM: f64 = 1.15;
/// The very first cluster, before anything is known (the deployed implementation sends 3 and 6 times at once).
const FIRST_STEP: f64 = 4.0;
/// One step of climbing: never more than this over the estimate at once, so that a failed probe is a short queue. A
/// success is followed by the next step at once.
const MAX_STEP: f64 = 2.0;
/// Of a result, believe this much.
const TRUST: f64 = 0.95;
/// Below this share of what was sent, the link was full and what arrived is its capacity.
const FULL: f64 = 0.9;
/// While nothing has failed, the first cluster that finds the link full is followed by one of this much of what it was
/// delivered at: a packet that came late by a third of a cluster makes a wide link look full, and a link that is as narrow as it
/// seemed has a queue of 8 ms for it.
const CLOSELY: f64 = 1.25;
/// The first wait of a clean link, and after each failure twice as long.
const INTERVAL_MIN: Duration = Duration::from_millis(400);
/// Short enough that a link that has become wide is noticed within seconds.
const INTERVAL_MAX: Duration = Duration::from_millis(1_500);
/// A fall below this share may have been a moment's; for so long it is tried to get so much of it back (the deployed
/// implementation probes once, at 0.85 of what was there before a fall below 0.66, within five seconds).
const STEEP: f64 = 0.66;
const REGAIN: f64 = 0.85;
const REGAIN_WITHIN: Duration = Duration::from_secs(5);
/// The first try: a link that has become narrow for good has shown so by then. The wait after one that failed, doubling.
const REGAIN_AFTER: Duration = Duration::from_millis(300);
const REGAIN_WAIT: Duration = Duration::from_millis(200);
/// One step of it until one has succeeded: the link's queue has just become empty, or nearly.
const REGAIN_STEP: f64 = 1.4;
/// Less is no time to measure a rate over.
const SHORTEST: Duration = Duration::from_millis(1);
/// What is read at once after a receiver was held up is read within this time.
const LUMP: Duration = Duration::from_millis(1);
/// Feedback on a cluster that has not come by then never will.
const PATIENCE: Duration = Duration::from_secs(1);

/// A cluster under way. Both rates are those of the packets that arrived: loss between them says nothing.
#[derive(Serialize, Deserialize)]
struct Running {
    cluster: ProbeCluster,
    sent_packets: u32,
    sent_bytes: u64,
    last_number: u64,
    answered: u64,
    arrived: u32,
    bytes: u64,
    #[serde(with = "crate::moment")]
    first_sent: Option<Instant>,
    /// Last departure among those that arrived, and the bytes that left at that moment.
    #[serde(with = "crate::moment")]
    last_sent: Option<(Instant, u64)>,
    /// When the first would have arrived, had it been as quick as the quickest of the cluster, and its bytes.
    first_received: Option<(Duration, u64)>,
    /// Since when the link has carried nothing but what came before the cluster, and those bytes.
    ahead: Option<(Duration, u64)>,
    last_received: Duration,
    #[serde(with = "crate::moment")]
    expires: Instant,
}

impl Running {
    fn new(cluster: ProbeCluster, expires: Instant) -> Self {
        Self {
            cluster,
            sent_packets: 0,
            sent_bytes: 0,
            last_number: 0,
            answered: 0,
            arrived: 0,
            bytes: 0,
            first_sent: None,
            last_sent: None,
            first_received: None,
            ahead: None,
            last_received: Duration::ZERO,
            expires,
        }
    }

    fn is_sent(&self) -> bool {
        self.sent_packets >= self.cluster.min_packets && self.sent_bytes >= u64::from(self.cluster.min_bytes)
    }

    /// Sent and received bitrate.
    ///
    /// A receiver that was held up reads all it has missed at once, and a narrow link seems wide. So the cluster is taken to
    /// begin when its quickest packet says it would have begun, or its first as quick as any lately, whichever makes it longer;
    /// and it is no shorter than it ought to be.
    fn rates(&self) -> Option<(f64, f64)> {
        let ((last_sent, last_bytes), (first_received, first_bytes)) = (self.last_sent?, self.first_received?);
        let (began, ahead) = self.ahead?;
        // An interval between n packets has carried n - 1 of them; one that is too short to be measured, any number.
        let rate = |bytes: u64, span: Duration| {
            if span < SHORTEST { f64::INFINITY } else { bytes as f64 * 8.0 / span.as_secs_f64() }
        };
        let sent = rate(self.bytes - last_bytes, last_sent.saturating_duration_since(self.first_sent?));
        let by_itself = rate(self.bytes - first_bytes, self.last_received.saturating_sub(first_received));
        let on_its_link = rate(ahead + self.bytes, self.last_received.saturating_sub(began));
        Some((sent, by_itself.min(on_its_link).min(rate(self.bytes, DURATION))))
    }
}

/// What a cluster has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProbeResult {
    pub bitrate_bps: u64,
    /// The link carried less than was sent.
    pub is_full: bool,
}

/// A steep fall, after which the rate before it is sought.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Fall {
    before_bps: u64,
    #[serde(with = "crate::moment")]
    at: Instant,
    #[serde(with = "crate::moment")]
    not_before: Instant,
    wait: Duration,
    /// Some of it is back.
    #[serde(default)]
    is_regaining: bool,
}

impl Fall {
    fn new(now: Instant, before_bps: u64) -> Self {
        Self { before_bps, at: now, not_before: now + REGAIN_AFTER, wait: REGAIN_WAIT, is_regaining: false }
    }

    /// Bits a second to regain.
    fn aim_bps(&self) -> u64 {
        (self.before_bps as f64 * REGAIN) as u64
    }

    fn is_over(&self, now: Instant, estimate_bps: u64) -> bool {
        now.saturating_duration_since(self.at) > REGAIN_WITHIN || estimate_bps >= self.aim_bps()
    }

    fn failed(&mut self, now: Instant) {
        self.not_before = self.not_before.max(now + self.wait);
        self.wait *= 2;
        self.is_regaining = false;
    }
}

/// What the link looks like to somebody who would probe it.
#[derive(Clone, Copy)]
pub(super) struct Sight {
    /// Nothing speaks against a probe.
    pub is_clean: bool,
    /// Its queue is empty, and answers are in time.
    pub is_drained: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Prober {
    next_id: u32,
    waiting: Option<ProbeCluster>,
    running: Option<Running>,
    #[serde(with = "crate::moment")]
    clean_since: Option<Instant>,
    interval: Duration,
    #[serde(with = "crate::moment")]
    not_before: Option<Instant>,
    /// Nothing has failed since the last success: long strides are allowed.
    is_climbing: bool,
    /// The end of a link that is still climbed is being looked at for the second time.
    #[serde(default)]
    looks_again: bool,
    fall: Option<Fall>,
}

impl Prober {
    pub(super) fn new() -> Self {
        Self {
            next_id: 1,
            waiting: None,
            running: None,
            clean_since: None,
            interval: INTERVAL_MIN,
            not_before: None,
            is_climbing: true,
            looks_again: false,
            fall: None,
        }
    }

    /// `next_bps`: what the next useful layer needs in all; `total_bps`: what everything useful needs.
    pub(super) fn want(&mut self, now: Instant, next_bps: u64, total_bps: u64, estimate_bps: u64, sight: Sight) {
        if self.running.as_ref().is_some_and(|running| now >= running.expires) {
            self.running = None;
        }
        if self.fall.is_some_and(|fall| fall.is_over(now, estimate_bps)) {
            self.fall = None;
        }
        if let Some(fall) = self.fall {
            let aim = (fall.aim_bps() as f64).min(total_bps as f64 * HEADROOM);
            if sight.is_drained && now >= fall.not_before {
                let step = if fall.is_regaining { MAX_STEP } else { REGAIN_STEP };
                self.aim(estimate_bps, aim.min(estimate_bps as f64 * step));
            }
            return;
        }
        if !sight.is_clean {
            self.clean_since = None;
            self.waiting = None;
            return;
        }
        let is_first = self.next_id == 1;
        let since = *self.clean_since.get_or_insert(now);
        let wait = if self.is_climbing { Duration::ZERO } else { self.interval };
        let due = now.saturating_duration_since(since) >= wait && self.not_before.is_none_or(|at| now >= at);
        if total_bps <= estimate_bps || !due {
            return;
        }
        let wanted = if self.is_climbing { total_bps } else { next_bps.max(estimate_bps) };
        let stride = if is_first { FIRST_STEP } else { MAX_STEP };
        self.aim(estimate_bps, (wanted as f64 * HEADROOM).min(estimate_bps as f64 * stride));
    }

    /// Lets a cluster of that bitrate leave, unless one has not been answered yet or it would tell nothing new.
    fn aim(&mut self, estimate_bps: u64, aim: f64) {
        if self.running.is_some() || self.waiting.is_some() || aim <= estimate_bps as f64 {
            return;
        }
        self.send(aim);
    }

    fn send(&mut self, bitrate_bps: f64) {
        self.waiting = Some(ProbeCluster {
            id: self.next_id,
            bitrate_bps: bitrate_bps as u64,
            min_bytes: (bitrate_bps * DURATION.as_secs_f64() / 8.0) as u32,
            min_packets: MIN_PACKETS,
        });
        self.next_id = self.next_id.wrapping_add(1);
    }

    pub(super) fn poll(&mut self, now: Instant) -> Option<ProbeCluster> {
        let cluster = self.waiting.take()?;
        self.running = Some(Running::new(cluster, now + PATIENCE));
        Some(cluster)
    }

    /// What has failed says nothing any more.
    pub(super) fn begin_anew(&mut self) {
        (self.is_climbing, self.looks_again, self.interval) = (true, false, INTERVAL_MIN);
        (self.not_before, self.fall) = (None, None);
    }

    /// Nothing has failed since the last success.
    pub(super) fn is_climbing(&self) -> bool {
        self.is_climbing
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.running.as_ref().map(|running| running.expires)
    }

    pub(super) fn sent(&mut self, packet: &Sent) {
        let Some(running) = self.of(packet) else { return };
        running.last_number = packet.number;
        running.sent_packets += 1;
        running.sent_bytes += u64::from(packet.bytes);
    }

    /// `waited`: by how much later than the quickest packets it has come.
    pub(super) fn received(
        &mut self,
        packet: &Sent,
        at: Duration,
        waited: Duration,
        acknowledged: &AcknowledgedBitrate,
    ) {
        let Some(running) = self.of(packet) else { return };
        let bytes = u64::from(packet.bytes);
        running.arrived += 1;
        running.bytes += bytes;
        let after_first = packet.at.saturating_duration_since(*running.first_sent.get_or_insert(packet.at));
        running.last_sent = Some(match running.last_sent {
            Some((last, there)) if last == packet.at => (last, there + bytes),
            Some((last, there)) if last > packet.at => (last, there),
            _ => (packet.at, bytes),
        });
        let (first, _) = running.first_received.get_or_insert((at, bytes));
        *first = (*first).min(at.saturating_sub(after_first));
        running.ahead.get_or_insert_with(|| {
            let begins = at.saturating_sub(waited);
            acknowledged.train(begins..at.saturating_sub(LUMP)).unwrap_or((begins, 0))
        });
        running.last_received = running.last_received.max(at);
    }

    /// Feedback has come as far as `number`; receivers need not speak of what was lost before their first arrival.
    pub(super) fn answered(&mut self, number: u64) {
        if let Some(running) = &mut self.running {
            running.answered = running.answered.max(number);
        }
    }

    /// What the running cluster has shown, once all of it is answered.
    pub(super) fn result(&mut self, now: Instant) -> Option<ProbeResult> {
        let running = self.running.as_ref()?;
        if !running.is_sent() || running.answered < running.last_number {
            return None;
        }
        let running = self.running.take()?;
        let rates = (running.arrived >= MIN_PACKETS.min(running.sent_packets) - 1).then(|| running.rates()).flatten();
        let Some((sent_bps, received_bps)) = rates else {
            self.not_before = Some(now + self.interval);
            return None;
        };
        let aim = running.cluster.bitrate_bps as f64;
        // A key frame may have left at once beside the padding: only what was aimed at must come through.
        let is_full = received_bps < FULL * sent_bps.min(aim);
        if is_full && self.is_climbing && !std::mem::replace(&mut self.looks_again, true) {
            self.send(received_bps * CLOSELY);
            return None;
        }
        self.looks_again = false;
        if is_full {
            self.failed(now);
        } else {
            self.interval = INTERVAL_MIN;
            self.not_before = None;
            self.is_climbing = true;
            self.fall.iter_mut().for_each(|fall| fall.is_regaining = true);
        }
        Some(ProbeResult { bitrate_bps: (sent_bps.min(received_bps) * TRUST) as u64, is_full })
    }

    /// The rate has fallen for a queue, from `before_bps`.
    pub(super) fn fell(&mut self, now: Instant, before_bps: u64, rate_bps: u64) {
        self.failed(now);
        let before_bps = self.fall.map_or(before_bps, |fall| fall.before_bps.max(before_bps));
        if (rate_bps as f64) < STEEP * before_bps as f64 {
            self.fall = Some(Fall::new(now, before_bps));
        }
    }

    /// The link turned out full: wait longer before the next try.
    pub(super) fn failed(&mut self, now: Instant) {
        if let Some(fall) = &mut self.fall {
            fall.failed(now);
        }
        self.interval = (self.interval * 2).min(INTERVAL_MAX);
        self.not_before = Some(now + self.interval);
        self.clean_since = None;
        self.waiting = None;
        self.is_climbing = false;
    }

    fn of(&mut self, packet: &Sent) -> Option<&mut Running> {
        self.running.as_mut().filter(|running| packet.probe == Some(running.cluster.id))
    }
}
