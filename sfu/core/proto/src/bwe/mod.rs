//! Send-side bandwidth estimation for one subscriber transport: transport-wide feedback in, bits a second out.
//!
//! Delay-based control after draft-ietf-rmcat-gcc-02 with the trend-line filter of its deployed successor, an
//! acknowledged bitrate, probe clusters, and a loss controller that asks for queueing before it believes loss is
//! congestion. REMB replaces the feedback where a client knows nothing better. It does not pace or choose layers.
//! Prose and the origin of each constant: `docs/concepts/bandwidth-estimation.md`.

mod acknowledged;
mod answers;
mod delay;
mod history;
mod loss;
mod pings;
mod probe;
mod rate_control;
mod trial;

use std::ops::Range;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use history::{Arrival, Sent};
pub use pings::Pings;
pub use probe::ProbeCluster;

use acknowledged::AcknowledgedBitrate;
use answers::Answers;
use delay::{DelaySignal, Usage};
use history::{Answer, SendHistory};
use loss::LossControl;
use probe::{Prober, Sight};
use rate_control::{DECREASE, RateControl};
use trial::Trial;

/// Settings of the estimator.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct BweConfig {
    /// First guess, before anything is known; the first probe takes a tenth of a second to replace it. Raise it where
    /// nearly every client has a fast line: a first picture is then larger; on a slow line it costs a queue.
    pub start_bps: u64,
    /// Never below: the audio of a small room and RTCP.
    pub min_bps: u64,
    /// Never above: what one subscriber may take of the node. Raise it for wall-sized 4K views.
    pub max_bps: u64,
}

impl Default for BweConfig {
    fn default() -> Self {
        Self { start_bps: 300_000, min_bps: 50_000, max_bps: 50_000_000 }
    }
}

/// Why the estimate is what it is: a label of the trace and the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Limit {
    Start,
    /// Grown as far as what is sent allows to know.
    Growth,
    Delay,
    Loss,
    Probe,
    /// Taken on trust, for want of a stream that a probe could be sent on.
    Trust,
    Remb,
    /// No feedback at all: RFC 8083's circuit breaker.
    Silence,
}

impl Limit {
    pub fn as_str(self) -> &'static str {
        match self {
            Limit::Start => "start",
            Limit::Growth => "growth",
            Limit::Delay => "delay",
            Limit::Loss => "loss",
            Limit::Probe => "probe",
            Limit::Trust => "trust",
            Limit::Remb => "remb",
            Limit::Silence => "silence",
        }
    }
}

/// Feedback is expected several times a second; without any for this long, while something is sent that it could speak of, the
/// path is taken to carry nothing.
const SILENCE: Duration = Duration::from_millis(1500);
/// After a pause of sending the last packets before it are not waited for: what was lost of them is never spoken of. Voices
/// that say nothing (DTX) send every 400 ms.
const PAUSE: Duration = Duration::from_millis(1000);
/// Each further silent interval halves the rate (RFC 8083 §4.3 asks to cease; consent checks do that soon after).
const SILENCE_STEP: Duration = Duration::from_millis(1000);
/// A fall so long ago, after which nothing was wanted that could have shown whether there is more again, says nothing.
const FORGOTTEN: Duration = Duration::from_secs(5);
/// A window of overuse this recent makes loss count as congestion.
const QUEUE_MEMORY: Duration = Duration::from_secs(2);

/// The estimator of one transport.
#[derive(Serialize, Deserialize)]
pub struct Estimator {
    config: BweConfig,
    history: SendHistory,
    acknowledged: AcknowledgedBitrate,
    delay: DelaySignal,
    rate: RateControl,
    loss: LossControl,
    prober: Prober,
    limit: Limit,
    estimate_bps: u64,
    remb_bps: Option<u64>,
    trial: Trial,
    rtt: Duration,
    #[serde(with = "crate::moment")]
    last_feedback: Option<Instant>,
    #[serde(with = "crate::moment")]
    last_sent: Option<Instant>,
    /// When the first packet left that feedback must still speak of.
    #[serde(default, with = "crate::moment")]
    unanswered_since: Option<Instant>,
    #[serde(with = "crate::moment")]
    silenced: Option<Instant>,
    before_silence: u64,
    #[serde(with = "crate::moment")]
    last_queueing: Option<Instant>,
    /// The queue when it last changed clearly, and how often in a row it has become longer.
    last_queue: Duration,
    rising: u32,
    /// Something but growth has spoken for the estimate.
    is_proven: bool,
    /// Packets sent until then meet the queue that a probe has left.
    #[serde(with = "crate::moment")]
    shadow_until: Option<Instant>,
    carried: Carried,
    answers: Answers,
    /// When the rate last fell for a queue.
    #[serde(with = "crate::moment")]
    lowered: Option<Instant>,
    /// When more than the estimate was last wanted.
    #[serde(default, with = "crate::moment")]
    wanted: Option<Instant>,
    /// Where the last probe that found the link full has met its end.
    end_bps: Option<u64>,
    /// That probe has said less than the estimate.
    is_doubted: bool,
}

/// The most that was acknowledged lately while no queue stood.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Carried {
    now: u64,
    before: u64,
    #[serde(with = "crate::moment")]
    since: Option<Instant>,
}

impl Carried {
    const SPAN: Duration = Duration::from_secs(2);

    fn note(&mut self, now: Instant, bitrate_bps: Option<u64>) {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= Self::SPAN {
            (self.before, self.now, self.since) = (self.now, 0, Some(now));
        }
        self.now = self.now.max(bitrate_bps.unwrap_or(0));
    }

    fn most(&self, now: Instant) -> u64 {
        let is_fresh = self.since.is_some_and(|at| now.saturating_duration_since(at) < Self::SPAN * 2);
        if is_fresh { self.now.max(self.before) } else { 0 }
    }

    fn forget(&mut self) {
        *self = Self::default();
    }
}

/// Less than this is jitter: what was sent before still fits.
const REAL_QUEUE: Duration = Duration::from_millis(40);
/// With so much waiting on the link the rate does not grow.
const FULL_QUEUE: Duration = Duration::from_millis(100);
/// A queue that each of so many feedbacks finds longer by this, and longer than this, is a link that became narrow.
const SURGES: u32 = 3;
const RISE: Duration = Duration::from_millis(8);
const SURGE_QUEUE: Duration = Duration::from_millis(80);
/// A link that has carried less than this share of what it can stood idle in between: its queue is a burst's, and goes by
/// itself while no more than this share is sent.
const FILLED: f64 = 0.95;
/// Answers that have been late for so long are no jitter.
const LATE: Duration = Duration::from_millis(50);
/// A failed probe of twice the link's rate and 30 ms has left the link's queue by then.
const SHADOW: Duration = Duration::from_millis(60);
/// So much of a queue is a full link, whoever filled it.
const MAX_SHADOW_QUEUE: Duration = Duration::from_millis(200);

impl Estimator {
    pub fn new(config: BweConfig) -> Self {
        Self {
            config,
            history: SendHistory::new(),
            acknowledged: AcknowledgedBitrate::new(),
            delay: DelaySignal::new(),
            rate: RateControl::new(config.start_bps),
            loss: LossControl::new(),
            prober: Prober::new(),
            limit: Limit::Start,
            estimate_bps: config.start_bps,
            remb_bps: None,
            trial: Trial::new(),
            rtt: Duration::from_millis(200),
            last_feedback: None,
            last_sent: None,
            unanswered_since: None,
            silenced: None,
            before_silence: 0,
            last_queueing: None,
            last_queue: Duration::ZERO,
            rising: 0,
            is_proven: false,
            shadow_until: None,
            carried: Carried::default(),
            answers: Answers::default(),
            lowered: None,
            wanted: None,
            end_bps: None,
            is_doubted: false,
        }
    }

    pub fn reconfigure(&mut self, config: BweConfig) {
        self.config = config;
    }

    /// Bits a second the link is believed to carry, everything included.
    pub fn estimate_bps(&self) -> u64 {
        self.estimate_bps
    }

    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// What the other end confirmed lately; `None` before there is enough of it.
    pub fn acknowledged_bps(&self) -> Option<u64> {
        self.acknowledged.bitrate_bps()
    }

    /// True while the link's queue is growing: the pacer then empties its own queue first.
    pub fn overusing(&self) -> bool {
        self.delay.usage() == Usage::Over
    }

    /// True if more is sent than the link carries: its queue grows and is not merely jitter.
    pub fn is_congested(&self) -> bool {
        self.overusing() && self.standing_queue() > REAL_QUEUE
    }

    /// While nothing that can wait should be sent: answers are late, and more would only queue.
    pub fn hold(&self) -> Option<Range<Instant>> {
        self.answers.hold(self.is_missed())
    }

    /// What has not come yet was probably not lost.
    pub fn is_missed(&self) -> bool {
        self.standing_queue() > RISE || self.loss.is_lossless()
    }

    /// How full the link's queue is: delay above the smallest of the last half minute.
    pub fn standing_queue(&self) -> Duration {
        self.delay.standing_queue()
    }

    /// False while the estimate is a first guess.
    pub fn is_proven(&self) -> bool {
        self.is_proven
    }

    /// False from the first probe on that has met the link's end, or the first queue.
    pub fn is_climbing(&self) -> bool {
        self.prober.is_climbing() && self.end_bps.is_none()
    }

    /// A probe has met the link's end, and the estimate is there or beyond.
    pub fn is_at_end(&self) -> bool {
        self.end_bps.is_some_and(|end| self.estimate_bps >= end)
    }

    /// True once anything was reported to have arrived.
    pub fn has_feedback(&self) -> bool {
        self.last_feedback.is_some()
    }

    pub fn rtt(&self) -> Duration {
        self.rtt
    }

    /// Tells of a packet that leaves now under transport-wide number `packet.number`.
    pub fn sent(&mut self, mut packet: Sent) {
        let before = self.last_sent.replace(packet.at);
        if before.is_some_and(|at| packet.at.saturating_duration_since(at) > PAUSE) {
            self.unanswered_since = None;
        }
        self.unanswered_since.get_or_insert(packet.at);
        if packet.probe.is_some() {
            self.shadow_until = Some(packet.at + SHADOW);
            self.prober.sent(&packet);
        }
        packet.shadowed = self.shadow_until.is_some_and(|until| packet.at < until);
        self.history.push(&packet);
    }

    /// Tells of a round trip measured by RTCP.
    pub fn round_trip(&mut self, rtt: Duration) {
        self.rtt = if self.last_feedback.is_none() { rtt } else { (self.rtt * 7 + rtt) / 8 };
    }

    /// Takes one transport-wide feedback message. Reports on numbers never sent are ignored (a lying receiver). When the newest
    /// packet left that it says has arrived.
    pub fn feedback(&mut self, now: Instant, arrivals: &[Arrival]) -> Option<Instant> {
        let (mut newest, mut newest_queued) = (None, Duration::ZERO);
        for arrival in arrivals {
            match self.history.take(arrival) {
                Some(Answer::Received(sent)) => {
                    let Some(received) = arrival.received else { continue };
                    newest = newest.max(Some((sent.number, sent.at)));
                    let waited = if sent.shadowed {
                        self.delay.pass_over(sent.at, received)
                    } else {
                        self.delay.add(sent.at, received)
                    };
                    // A queue that has only just begun, or jitter; behind a probe it is of our making.
                    newest_queued = if sent.shadowed { Duration::ZERO } else { waited };
                    self.acknowledged.add(received, sent.bytes, newest_queued);
                    if self.is_news(&sent) {
                        self.loss.received(now, sent.bytes);
                    }
                    self.prober.received(&sent, received, waited, &self.acknowledged);
                }
                Some(Answer::Late) => self.loss.found(),
                Some(Answer::Lost(sent)) if self.is_news(&sent) => self.loss.lost(now, sent.bytes),
                Some(Answer::Lost(_)) => {}
                None => continue,
            }
            self.prober.answered(arrival.number);
        }
        let (newest, left) = newest?;
        // What is older and was not told of is lost, or its feedback is: nobody waits for it.
        self.unanswered_since = self.history.left_after(newest);
        self.answers.told(now, self.unanswered_since, newest_queued);
        let queue = self.standing_queue();
        if queue > self.last_queue + RISE {
            (self.rising, self.last_queue) = (self.rising + 1, queue);
        } else if queue + RISE < self.last_queue {
            (self.rising, self.last_queue) = (0, queue);
        }
        self.last_feedback = Some(now);
        if self.silenced.take().is_some() {
            // The path is back; it was not necessarily narrow.
            self.rate.set(self.estimate_bps.max(self.before_silence / 2));
        }
        if self.delay.usage() == Usage::Over || self.delay.standing_queue() > Duration::from_millis(60) {
            self.last_queueing = Some(now);
        }
        self.update(now);
        Some(left)
    }

    /// Takes a REMB: the estimate of clients that send no transport-wide feedback, an upper bound of others.
    pub fn remb(&mut self, now: Instant, bitrate_bps: u64) {
        self.remb_bps = Some(bitrate_bps);
        if self.last_feedback.is_none() {
            self.judge_trial(now, bitrate_bps);
        }
    }

    /// The REMB, where it is all there is.
    pub fn remb_alone(&self) -> Option<u64> {
        self.remb_bps.filter(|_| self.last_feedback.is_none())
    }

    /// What the subscriber could use: drives probing. `wanted_bps` is the sum of the next useful layers.
    ///
    /// `next_bps` is enough for the next useful layer alone.
    pub fn want(&mut self, now: Instant, next_bps: u64, wanted_bps: u64) {
        let sight = Sight {
            is_clean: self.delay.usage() == Usage::Normal && self.loss.clean(),
            is_drained: self.standing_queue() < RISE && self.answers.late_since().is_none(),
        };
        if wanted_bps > self.estimate_bps {
            let wanted = self.wanted.replace(now);
            let is_past = |at: Option<Instant>| at.is_none_or(|at| now.saturating_duration_since(at) > FORGOTTEN);
            let has_fallen = self.lowered.is_some() && is_past(self.lowered);
            let guess = self.config.start_bps.min(self.remb_bps.unwrap_or(u64::MAX));
            if guess > self.estimate_bps && has_fallen && is_past(wanted) && sight.is_clean && sight.is_drained {
                self.forget_fall(guess);
            }
        }
        self.prober.want(now, next_bps, wanted_bps, self.estimate_bps, sight);
    }

    /// The first guess is as good as what is left of the rate, and probing begins as at first.
    fn forget_fall(&mut self, guess_bps: u64) {
        self.prober.begin_anew();
        (self.end_bps, self.is_doubted) = (None, false);
        self.rate.set(guess_bps);
        self.set(guess_bps, Limit::Start);
    }

    /// Takes a rate on trust, where no probe can be sent: media itself will show whether the link carries it.
    pub fn trust(&mut self, now: Instant, bitrate_bps: u64) {
        if let Some(remb) = self.remb_alone() {
            self.trial.begin(now, bitrate_bps, remb);
            self.judge_trial(now, remb);
        } else {
            self.rate.set(bitrate_bps);
            self.set(bitrate_bps, Limit::Trust);
        }
    }

    fn judge_trial(&mut self, now: Instant, remb_bps: u64) {
        self.trial.look(now, remb_bps);
        match self.trial.bitrate_bps() {
            Some(tried) => self.set(tried, Limit::Trust),
            None => self.set(remb_bps, Limit::Remb),
        }
    }

    /// A cluster that should leave now, if any; the pacer sends it and marks its packets with `id`.
    pub fn poll_probe(&mut self, now: Instant) -> Option<ProbeCluster> {
        self.prober.poll(now)
    }

    pub fn deadline(&self) -> Option<Instant> {
        [self.silent_at(), self.prober.deadline(), self.trial.deadline()].into_iter().flatten().min()
    }

    pub fn timeout(&mut self, now: Instant) {
        if let Some(remb) = self.remb_alone()
            && self.trial.deadline().is_some_and(|at| now >= at)
        {
            self.judge_trial(now, remb);
        }
        if self.silent_at().is_some_and(|at| now >= at) {
            if self.silenced.is_none() {
                self.before_silence = self.estimate_bps;
            }
            self.silenced = Some(now + SILENCE_STEP);
            self.rate.set(self.estimate_bps / 2);
            self.set(self.estimate_bps / 2, Limit::Silence);
        }
    }

    /// When silence costs the rate a half, unless somebody speaks before, or nothing is sent any more that could be spoken of.
    fn silent_at(&self) -> Option<Instant> {
        let since = self.unanswered_since?.max(self.last_feedback?);
        let at = self.silenced.unwrap_or(since).max(since + SILENCE);
        (self.last_sent? + PAUSE > at).then_some(at)
    }

    fn update(&mut self, now: Instant) {
        let acknowledged = self.acknowledged.bitrate_bps();
        let mut limit = Limit::Growth;
        if self.standing_queue() < REAL_QUEUE {
            self.carried.note(now, acknowledged);
        }
        let mut proven = acknowledged;
        if let Some(probed) = self.prober.result(now) {
            proven = proven.max(Some(probed.bitrate_bps));
            if probed.is_full {
                // What was carried without a queue is not doubted for a cluster's sake, nor a better result for one alone:
                // a receiver that was held up for a moment looks like a full link.
                let level = probed.bitrate_bps.max(self.carried.most(now));
                let is_certain = !self.is_proven || std::mem::replace(&mut self.is_doubted, true);
                if level > self.estimate_bps || is_certain {
                    self.rate.set(level);
                    limit = Limit::Probe;
                }
                self.end_bps = Some(level.max(self.rate.bitrate_bps()));
            } else {
                (self.is_doubted, self.end_bps) = (false, None);
                if probed.bitrate_bps > self.estimate_bps && self.delay.usage() != Usage::Over {
                    self.rate.set(probed.bitrate_bps);
                    limit = Limit::Probe;
                }
            }
        }
        let mut usage = self.usage(now);
        if usage == Usage::Over && self.standing_queue() < REAL_QUEUE
            || usage == Usage::Normal && self.standing_queue() > FULL_QUEUE
        {
            // Nothing to be got rid of yet, or something before more may be sent.
            usage = Usage::Under;
        }
        let mut decrease = DECREASE;
        if usage == Usage::Over {
            (proven, decrease) = self.overused(proven, acknowledged);
        }
        let before = self.rate.bitrate_bps();
        if usage == Usage::Normal && self.end_bps.is_some_and(|end| before >= end && acknowledged < Some(end)) {
            // A probe has met the link's end; growing on would be a guess against better knowledge.
            usage = Usage::Under;
        }
        let rate = self.rate.update(now, usage, proven, self.rtt, decrease);
        if rate < before {
            limit = Limit::Delay;
            self.lowered = Some(now);
            self.carried.forget();
            self.prober.fell(now, before, rate);
        }
        let queueing = self.last_queueing.is_some_and(|at| now.saturating_duration_since(at) < QUEUE_MEMORY);
        let mut result = rate;
        if let Some(bound) = self.loss.bound(now, self.estimate_bps, acknowledged, queueing)
            && bound < result
        {
            result = bound;
            limit = Limit::Loss;
            self.rate.set(bound);
        }
        if let Some(remb) = self.remb_bps
            && remb < result
        {
            result = remb;
            limit = Limit::Remb;
        }
        self.set(result, limit);
    }

    /// Bits a second that an overused link carries, and the share of them to fall to. What a filled one carries is its end.
    fn overused(&mut self, proven: Option<u64>, acknowledged: Option<u64>) -> (Option<u64>, f64) {
        // What came through before the link narrowed says nothing about what it carries now.
        let recent = proven.min(self.acknowledged.recent_bps().or(proven));
        let Some(busy) = self.acknowledged.busy_bps() else { return (recent, DECREASE) };
        // It may be a large frame's, which has found the link idle.
        let is_filled = acknowledged.is_none_or(|mean| mean as f64 >= FILLED * busy as f64);
        if is_filled {
            self.end_bps = Some(self.end_bps.map_or(busy, |end| end.min(busy)));
        }
        if self.standing_queue() >= SURGE_QUEUE {
            // To be got rid of quickly. How little was sent before such a frame says nothing of the link.
            return (if is_filled { recent.min(Some(busy)) } else { Some(busy) }, DECREASE);
        }
        (Some(busy), if is_filled { DECREASE } else { FILLED })
    }

    /// What was lost before the rate fell was paid for by its fall.
    fn is_news(&self, sent: &Sent) -> bool {
        self.lowered.is_none_or(|at| sent.at >= at)
    }

    fn usage(&self, now: Instant) -> Usage {
        let in_shadow = self.shadow_until.is_some_and(|until| now < until + SHADOW + self.rtt);
        let is_full = in_shadow && self.delay.standing_queue() > MAX_SHADOW_QUEUE;
        // A link that became much narrower fills its queue faster than a trend is seen; a burst of jitter falls as it came.
        let is_surging = self.rising >= SURGES && self.standing_queue() > SURGE_QUEUE && !in_shadow;
        // What is held back does not make the queue grow any more; that it had to be says enough.
        let is_late = self.answers.late_since().is_some_and(|at| now.saturating_duration_since(at) >= LATE)
            && self.standing_queue() > REAL_QUEUE
            && !in_shadow;
        if is_full || is_surging || is_late { Usage::Over } else { self.delay.usage() }
    }

    fn set(&mut self, bitrate_bps: u64, limit: Limit) {
        self.is_proven |= !matches!(limit, Limit::Start | Limit::Growth);
        self.estimate_bps = bitrate_bps.clamp(self.config.min_bps, self.config.max_bps);
        self.limit = limit;
    }
}

#[cfg(test)]
mod tests;
