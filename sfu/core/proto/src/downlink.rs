//! The way down to one subscriber: transport-wide numbering, what the feedback says of it, and the bitrates that flow.
//!
//! Holds the bandwidth estimator and says how much may be sent, or that nothing limits it. It does not choose layers
//! (`engine::allot`) nor hold packets back (`pacer`).

use std::ops::Range;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::breaker::{Breaker, Trip};
use crate::bwe::{Arrival, BweConfig, Estimator, Limit, Pings, ProbeCluster, Sent};
use crate::remb_sum::{self, Told};
use crate::rtcp::TwccFeedback;
use crate::trace::{Judgement, Recorder};
use crate::under_way::{Left, UnderWay};

/// IPv4 and UDP headers: what the link carries besides the datagram.
pub const WIRE_OVERHEAD_BYTES: usize = 28;
/// Reference times of the feedback are in multiples of this (draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1).
const REFERENCE_US: i64 = 64_000;
const TICK_US: i64 = 250;
/// Receivers' estimates stop growing at 1.5 times what comes in, and 10 kbit/s.
const ECHO: f64 = 1.5;
const ECHO_FLOOR_BPS: f64 = 20_000.0;
/// More than the next step needs, where media itself is the probe: about as much as a voice varies.
const TRIED: f64 = 1.1;
/// Where not even a report has come, what is missing may be the path: feedback is waited for so many times as long.
const UNHEARD: u32 = 4;
/// Where the receiver's clock begins for us: far enough from zero that a first step back stays positive.
const CLOCK_ORIGIN_US: i64 = 1 << 40;

/// What a packet to the subscriber is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    Audio,
    Video,
    Resent,
    Padding,
}

/// Where the knowledge of the link comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Source {
    /// Nothing is known and nothing was promised: nothing limits.
    None,
    /// Feedback was negotiated and has not come yet.
    Promised,
    /// Promised and never come: as if nothing had been promised.
    Broken,
    Feedback,
    Remb,
}

/// Bitrate of one kind of packets, smoothed over about a second.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Meter {
    bytes: u64,
    bps: f64,
}

impl Meter {
    fn tick(&mut self, elapsed: Duration) {
        let now = std::mem::take(&mut self.bytes) as f64 * 8.0 / elapsed.as_secs_f64().max(0.001);
        self.bps += (now - self.bps) * elapsed.as_secs_f64().min(1.0);
    }
}

#[derive(Serialize, Deserialize)]
pub struct Downlink {
    config: BweConfig,
    estimator: Option<Box<Estimator>>,
    source: Source,
    /// Set from outside.
    most_bps: Option<u64>,
    next_number: u64,
    /// When the first packet left that feedback must speak of.
    #[serde(with = "crate::moment")]
    first_numbered: Option<Instant>,
    /// The last receiver report.
    #[serde(default, with = "crate::moment")]
    reported: Option<Instant>,
    /// The estimate when feedback was given up: where it begins if it comes after all.
    #[serde(default)]
    given_up_bps: Option<u64>,
    /// Unwrapped reference time of the last feedback, in its units.
    reference: Option<i64>,
    #[serde(skip)]
    arrivals: Vec<Arrival>,
    received: u64,
    lost: u64,
    breaker: Breaker,
    meters: [Meter; 4],
    /// What RED says again, sent or left out.
    #[serde(skip)]
    redundant: Meter,
    /// Sound without transport-wide numbers beside packets that have them: Firefox agrees to them for video alone.
    #[serde(default)]
    unnumbered: Meter,
    /// The last REMB; sound is beside it.
    #[serde(default, with = "crate::moment")]
    remb_at: Option<Instant>,
    #[serde(default)]
    is_beside_sound: bool,
    #[serde(with = "crate::moment")]
    metered: Option<Instant>,
    #[serde(skip)]
    pings: Pings,
    #[serde(skip)]
    under_way: UnderWay,
    #[serde(skip)]
    recorder: Option<Box<Recorder>>,
}

impl Downlink {
    pub fn new(config: BweConfig) -> Self {
        Self {
            config,
            estimator: None,
            source: Source::None,
            most_bps: None,
            next_number: 0,
            first_numbered: None,
            reported: None,
            given_up_bps: None,
            reference: None,
            arrivals: Vec::new(),
            received: 0,
            lost: 0,
            breaker: Breaker::default(),
            meters: [Meter::default(); 4],
            redundant: Meter::default(),
            unnumbered: Meter::default(),
            remb_at: None,
            is_beside_sound: false,
            metered: None,
            pings: Pings::default(),
            under_way: UnderWay::default(),
            recorder: None,
        }
    }

    /// A section was negotiated whose packets the subscriber must report on.
    pub fn promise_feedback(&mut self) {
        self.record(|recorder| recorder.promised());
        if self.source == Source::None {
            self.source = Source::Promised;
            self.estimator.get_or_insert_with(|| Box::new(Estimator::new(self.config)));
        }
    }

    /// The client is on another path: what was measured is of another link. `keeps_estimate`: as a first guess only.
    pub fn begin_anew(&mut self, keeps_estimate: bool) {
        self.record(|recorder| recorder.began_anew(keeps_estimate));
        self.pings = Pings::default();
        self.under_way.clear();
        let Some(estimator) = &self.estimator else { return };
        let start_bps = if keeps_estimate { estimator.estimate_bps() } else { self.config.start_bps };
        if self.source != Source::Remb {
            self.estimator = Some(Box::new(Estimator::new(BweConfig { start_bps, ..self.config })));
        }
        if self.source == Source::Feedback {
            (self.source, self.first_numbered) = (Source::Promised, None);
        }
    }

    /// Sends no more than that from now on; `None`: what the link carries.
    pub fn send_at_most(&mut self, max_bps: Option<u64>) {
        self.record(|recorder| recorder.bounded(max_bps));
        self.most_bps = max_bps;
        if let Some(now) = self.recorder().map(|recorder| recorder.last()) {
            self.tell(now);
        }
    }

    /// The client has told of packets' arrival, so it is expected to do so.
    pub fn is_answered(&self) -> bool {
        self.source == Source::Feedback
    }

    /// Bits a second that may be sent in all, headers included; `None`: nothing is known that would limit it.
    pub fn estimate_bps(&self) -> Option<u64> {
        let estimate = self.estimator.as_ref().filter(|_| self.is_estimated()).map(|e| e.estimate_bps());
        let estimate = estimate.map(|bps| bps.saturating_add(self.beside_bps()));
        [estimate, self.bound().map(|(bps, _)| bps), self.most_bps].into_iter().flatten().min()
    }

    /// Bits a second that flow beside what the estimator speaks of: sound changes while no REMB comes.
    fn beside_bps(&self) -> u64 {
        match self.source {
            Source::Remb if self.is_beside_sound => self.bitrate_bps(Flow::Audio),
            Source::Promised | Source::Feedback => self.unnumbered.bps as u64,
            _ => 0,
        }
    }

    fn is_estimated(&self) -> bool {
        matches!(self.source, Source::Promised | Source::Feedback | Source::Remb)
    }

    /// Who reports transport-wide has the estimator; for others the breaker stands in.
    fn bound(&self) -> Option<(u64, Trip)> {
        self.breaker.bound(self.config.min_bps).filter(|_| self.source != Source::Feedback)
    }

    /// Receiver reports say that less must be sent.
    pub fn trip(&mut self, now: Instant, trip: Trip) {
        self.record(|recorder| recorder.tripped(now, trip));
        if self.source != Source::Feedback {
            self.breaker.trip(now, trip, self.sent_bps());
        }
        self.tell(now);
    }

    /// Writes down from now on what comes in and what follows from it.
    pub fn begin_trace(&mut self, recorder: Recorder) {
        self.recorder = Some(Box::new(recorder));
    }

    pub fn end_trace(&mut self) -> Option<Box<Recorder>> {
        self.recorder.take()
    }

    pub fn recorder(&mut self) -> Option<&mut Recorder> {
        self.recorder.as_deref_mut()
    }

    pub fn is_traced(&self) -> bool {
        self.recorder.is_some()
    }

    #[inline]
    fn record(&mut self, write: impl FnOnce(&mut Recorder)) {
        if let Some(recorder) = &mut self.recorder {
            write(recorder);
        }
    }

    /// Tells the trace of an estimate that has changed.
    pub(crate) fn tell(&mut self, now: Instant) {
        if self.recorder.is_none() {
            return;
        }
        let judgement = Judgement {
            estimate_bps: self.estimate_bps(),
            limit: self.limit().unwrap_or_default().to_owned(),
            acknowledged_bps: self.estimator().and_then(Estimator::acknowledged_bps),
            link_queue_ms: self.estimator().map_or(0.0, |e| e.standing_queue().as_secs_f64() * 1_000.0),
        };
        self.record(|recorder| recorder.judgement(now, judgement));
    }

    /// With other settings from now on, as far as state does not hold what followed from the old ones.
    pub fn reconfigure(&mut self, config: BweConfig) {
        self.config = config;
        if let Some(estimator) = &mut self.estimator {
            estimator.reconfigure(config);
        }
    }

    /// A receiver report has come.
    pub fn reported(&mut self, now: Instant) {
        self.reported = Some(now);
        self.breaker.reported(now);
    }

    fn sent_bps(&self) -> u64 {
        self.meters.iter().map(|meter| meter.bps).sum::<f64>() as u64
    }

    pub fn estimator(&self) -> Option<&Estimator> {
        self.estimator.as_deref()
    }

    /// False while the estimate is a first guess that nothing has confirmed.
    pub fn is_proven(&self) -> bool {
        self.estimator.as_ref().is_none_or(|e| e.is_proven())
    }

    /// Why no more may be sent than the estimate.
    pub fn limit(&self) -> Option<&'static str> {
        let estimator = self.estimator.as_ref().filter(|_| self.is_estimated());
        match (estimator, self.bound()) {
            (Some(estimator), Some((bound, _))) if estimator.estimate_bps() <= bound => {
                Some(estimator.limit().as_str())
            }
            (_, Some((_, trip))) => Some(trip.as_str()),
            (estimator, None) => estimator.map(|e| e.limit().as_str()),
        }
    }

    pub fn is_overusing(&self) -> bool {
        self.is_estimated() && self.estimator.as_ref().is_some_and(|e| e.is_congested())
    }

    /// While nothing that can wait should be sent: see [`Estimator::hold`].
    pub fn hold(&self) -> Option<Range<Instant>> {
        self.estimator.as_ref().filter(|_| self.source == Source::Feedback)?.hold()
    }

    /// Likewise, as pings tell.
    pub fn ping_hold(&self) -> Option<Range<Instant>> {
        self.pings.hold(self.estimator.as_ref()?.is_missed())
    }

    pub fn pings(&self) -> &Pings {
        &self.pings
    }

    pub fn pings_mut(&mut self) -> &mut Pings {
        &mut self.pings
    }

    /// Whether the link limits what is sent, so that a fall of it is to be looked out for.
    pub fn watch(&mut self, is_narrow: bool) {
        let rate_bps = self.estimate_bps().filter(|_| is_narrow && self.source == Source::Feedback);
        self.pings.set(rate_bps.is_some(), rate_bps.unwrap_or_default());
    }

    /// Nothing yet has shown where the link ends: the estimate is still being climbed to.
    pub fn is_climbing(&self) -> bool {
        self.estimator.as_ref().is_some_and(|e| e.is_climbing())
    }

    /// The estimate is known to be all that the link carries.
    pub fn is_at_end(&self) -> bool {
        self.estimator.as_ref().is_some_and(|e| e.is_at_end())
    }

    /// The estimate stands where it does for want of packets, not of room.
    pub fn is_untried(&self) -> bool {
        let limit = self.estimator.as_ref().map(|e| e.limit());
        self.bound().is_none()
            && limit.is_none_or(|limit| matches!(limit, Limit::Start | Limit::Growth | Limit::Trust | Limit::Remb))
    }

    /// The number of the next packet; it goes into its header.
    #[inline]
    pub fn next_number(&self) -> u16 {
        self.next_number as u16
    }

    /// A packet has left under [`Self::next_number`], or without a number. `bytes`: the datagram.
    #[inline]
    pub fn sent(&mut self, now: Instant, flow: Flow, bytes: usize, is_numbered: bool, probe: Option<u32>) {
        if let Some(recorder) = &mut self.recorder {
            recorder.sent(now, flow, bytes, is_numbered, probe);
        }
        let bytes = bytes + WIRE_OVERHEAD_BYTES;
        self.meters[flow as usize].bytes += bytes as u64;
        self.pings.sent(now, bytes, flow == Flow::Video);
        if !is_numbered {
            if flow == Flow::Audio && self.next_number > 0 {
                self.unnumbered.bytes += bytes as u64;
            }
            return;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.first_numbered.get_or_insert(now);
        if self.source == Source::Broken {
            return;
        }
        if let Some(estimator) = &mut self.estimator {
            estimator.sent(Sent { number, at: now, bytes: bytes as u32, probe, shadowed: false });
        }
    }

    /// What has left last, with a number; told of by [`Self::feedback`] if it is lost.
    #[inline]
    pub fn left(&mut self, left: impl FnOnce() -> Option<Left>) {
        if self.under_way.is_awake()
            && let Some((number, left)) = self.next_number.checked_sub(1).zip(left())
        {
            self.under_way.left(number, left);
        }
    }

    /// So many bytes of RED say again what was said before, whether they are sent to this subscriber or not.
    #[inline]
    pub fn redundant(&mut self, bytes: usize) {
        self.redundant.bytes += bytes as u64;
    }

    pub fn redundant_bps(&self) -> u64 {
        self.redundant.bps as u64
    }

    /// Takes transport-wide feedback. Numbers that were never sent are a lie, or too late, and change nothing.
    ///
    /// Returns what is lost by it and may be missed, where the link loses packets.
    pub fn feedback(&mut self, now: Instant, feedback: &TwccFeedback<'_>) -> Vec<Left> {
        if self.next_number == 0 {
            return Vec::new();
        }
        let last = self.next_number - 1;
        let reference = self.unwrap_reference(feedback.reference_time);
        let mut at = CLOCK_ORIGIN_US + reference * REFERENCE_US;
        self.arrivals.clear();
        for (seq, delta) in feedback.statuses() {
            if let Some(delta) = delta {
                at += i64::from(delta) * TICK_US;
            }
            let Some(number) = last.checked_sub(u64::from((last as u16).wrapping_sub(seq))) else { continue };
            let received = delta.and_then(|_| u64::try_from(at).ok()).map(Duration::from_micros);
            self.arrivals.push(Arrival { number, received });
        }
        let arrivals = std::mem::take(&mut self.arrivals);
        self.answered(now, &arrivals);
        let lost = self.under_way.lost(now, &arrivals);
        self.arrivals = arrivals;
        lost
    }

    /// Takes feedback whose numbers and times are whole already.
    pub fn answered(&mut self, now: Instant, arrivals: &[Arrival]) {
        self.record(|recorder| recorder.feedback(now, arrivals));
        let received = arrivals.iter().filter(|arrival| arrival.received.is_some()).count() as u64;
        self.received += received;
        self.lost += arrivals.len() as u64 - received;
        if self.source != Source::Feedback {
            if matches!(self.source, Source::None | Source::Broken) {
                // What was sent meanwhile was not remembered.
                let start_bps = self.given_up_bps.unwrap_or(self.config.start_bps);
                self.estimator = Some(Box::new(Estimator::new(BweConfig { start_bps, ..self.config })));
            }
            self.source = Source::Feedback;
        }
        if let Some(left) = self.estimator.as_mut().and_then(|estimator| estimator.feedback(now, arrivals)) {
            self.pings.overtaken(left);
        }
        self.tell(now);
    }

    pub fn remb(&mut self, now: Instant, told: Told) {
        self.record(|recorder| recorder.remb(now, told));
        (self.remb_at, self.is_beside_sound) = (Some(now), told.is_beside_sound);
        self.estimator.get_or_insert_with(|| Box::new(Estimator::new(self.config))).remb(now, told.bitrate_bps);
        if self.source != Source::Feedback {
            self.source = Source::Remb;
        }
        self.tell(now);
    }

    pub fn round_trip(&mut self, rtt: Duration) {
        self.record(|recorder| recorder.round_trip(rtt));
        if let Some(estimator) = &mut self.estimator {
            estimator.round_trip(rtt);
        }
    }

    /// By the clock, about ten times a second: meters, silence, promises not kept within `patience`.
    pub fn tick(&mut self, now: Instant, patience: Duration) {
        self.record(|recorder| recorder.tick(now));
        if self.meters.iter().any(|meter| meter.bytes > 0) {
            self.breaker.sent(now);
        }
        if let Some(before) = self.metered.replace(now) {
            let elapsed = now.saturating_duration_since(before);
            let meters = self.meters.iter_mut().chain([&mut self.redundant, &mut self.unnumbered]);
            meters.for_each(|meter| meter.tick(elapsed));
        }
        self.under_way.tick(now);
        self.breaker.tick(now, self.sent_bps());
        let patience = if self.reported > self.first_numbered { patience } else { patience * UNHEARD };
        if self.source == Source::Promised
            && self.first_numbered.is_some_and(|at| now.saturating_duration_since(at) > patience)
        {
            self.source = Source::Broken;
            self.given_up_bps = self.estimator.take().map(|estimator| estimator.estimate_bps());
        }
        if let Some(estimator) = &mut self.estimator
            && estimator.deadline().is_some_and(|at| at <= now)
        {
            estimator.timeout(now);
        }
        self.tell(now);
    }

    /// Says what could be used, and whether a probe can be sent; the cluster that should leave now, if any.
    pub fn want(&mut self, now: Instant, next_bps: u64, total_bps: u64, can_probe: bool) -> Option<ProbeCluster> {
        if self.estimate_bps()? >= self.most_bps.unwrap_or(u64::MAX) {
            return None;
        }
        let beside_bps = self.beside_bps();
        let (next_bps, total_bps) = (next_bps.saturating_sub(beside_bps), total_bps.saturating_sub(beside_bps));
        let sent_bps = self.sent_bps().saturating_sub(beside_bps) as f64;
        let estimator = self.estimator.as_mut()?;
        estimator.want(now, next_bps, total_bps);
        let cluster = estimator.poll_probe(now)?;
        if can_probe && self.source != Source::Remb {
            return Some(cluster);
        }
        // Media itself must be the probe: up to the next step at once, or it could never be taken. A REMB well above what is
        // sent is no mere echo of it: whoever says that has measured it, or was told. One that is not repeated, as nothing is
        // sent that it could be about, says nothing any more.
        let is_fresh = self.remb_at.is_some_and(|at| now.saturating_duration_since(at) < remb_sum::LIFETIME);
        let is_measured = |remb| remb as f64 > ECHO * sent_bps + ECHO_FLOOR_BPS;
        if is_fresh && estimator.remb_alone().is_some_and(is_measured) {
            return None;
        }
        // Sound that grows meanwhile must not take what is on trial.
        let tried = (next_bps.min(total_bps) as f64 * TRIED) as u64;
        estimator.trust(now, tried.max(estimator.estimate_bps()));
        None
    }

    pub fn bitrate_bps(&self, flow: Flow) -> u64 {
        self.meters[flow as usize].bps as u64
    }

    /// Share of numbered packets lost so far, as the subscriber's feedback says.
    pub fn loss(&self) -> Option<f32> {
        let total = self.received + self.lost;
        (total > 0).then(|| self.lost as f32 / total as f32)
    }

    fn unwrap_reference(&mut self, reference: i32) -> i64 {
        let reference = i64::from(reference);
        let unwrapped = match self.reference {
            None => reference,
            // The nearest value with the same 24 bits.
            Some(before) => before + (((reference - before) << 40) >> 40),
        };
        self.reference = Some(unwrapped);
        unwrapped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{SeqNo, Ssrc};
    use crate::rtcp::{self, CompoundWriter, Packet};

    fn now() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        Instant::now()
    }

    /// Feedback that all of `seqs` came, `spacing` apart.
    fn report(downlink: &mut Downlink, now: Instant, seqs: std::ops::Range<u64>, spacing: Duration) {
        let arrivals: Vec<_> = seqs
            .map(|seq| rtcp::Arrival { seq: SeqNo(seq), at_us: 1_000_000 + (seq as i64) * spacing.as_micros() as i64 })
            .collect();
        let mut buffer = [0; 1_200];
        let mut writer = CompoundWriter::new(&mut buffer);
        writer.twcc(Ssrc(1), Ssrc(2), 0, None, &arrivals).unwrap();
        let len = writer.len();
        let Some(Ok(Packet::Twcc(feedback))) = rtcp::compound(&buffer[..len]).unwrap().next() else { panic!() };
        downlink.feedback(now, &feedback);
    }

    fn of_all(bitrate_bps: u64) -> Told {
        Told { bitrate_bps, is_beside_sound: false }
    }

    #[test]
    fn nothing_limits_who_promised_nothing() {
        let mut downlink = Downlink::new(BweConfig::default());
        let now = now();
        (0..100).for_each(|_| downlink.sent(now, Flow::Video, 1_000, true, None));
        assert_eq!(downlink.estimate_bps(), None);
    }

    #[test]
    fn a_promise_that_is_not_kept_stops_limiting() {
        let mut downlink = Downlink::new(BweConfig::default());
        let (now, patience) = (now(), Duration::from_secs(2));
        downlink.promise_feedback();
        assert_eq!(downlink.estimate_bps(), Some(BweConfig::default().start_bps));
        downlink.tick(now + patience * 2, patience);
        assert!(downlink.estimate_bps().is_some(), "nothing was sent that it could report on");
        downlink.sent(now, Flow::Audio, 100, true, None);
        downlink.tick(now + patience * 2, patience);
        assert!(downlink.estimate_bps().is_some(), "nothing has shown that the path is there");
        downlink.reported(now + patience * 2);
        downlink.tick(now + patience * 2, patience);
        assert_eq!(downlink.estimate_bps(), None);
        // It comes after all.
        for seq in 1..60u64 {
            downlink.sent(now + Duration::from_millis(seq * 10), Flow::Video, 1_000, true, None);
        }
        report(&mut downlink, now + Duration::from_secs(1), 1..60, Duration::from_millis(10));
        assert!(downlink.estimate_bps().is_some());
    }

    #[test]
    fn where_nothing_at_all_comes_feedback_is_awaited_longer_and_begins_where_it_was_given_up() {
        let guess = BweConfig { start_bps: 500_000, ..BweConfig::default() };
        let (mut downlink, now, patience) = (Downlink::new(guess), now(), Duration::from_secs(2));
        downlink.promise_feedback();
        downlink.reconfigure(BweConfig::default());
        downlink.reported(now);
        downlink.sent(now + Duration::from_millis(1), Flow::Video, 1_000, true, None);
        for (times, expected) in [(2, Some(500_000)), (4, Some(500_000)), (5, None)] {
            downlink.tick(now + patience * times, patience);
            assert_eq!(downlink.estimate_bps(), expected, "after {times} times as long");
        }
        downlink.sent(now + patience * 5, Flow::Video, 1_000, true, None);
        report(&mut downlink, now + patience * 5, 1..2, Duration::from_millis(10));
        assert_eq!(downlink.estimate_bps(), Some(500_000));
    }

    #[test]
    fn feedback_finds_its_packets_across_the_wraps_of_number_and_clock() {
        let mut downlink = Downlink::new(BweConfig::default());
        downlink.promise_feedback();
        let start = now();
        let mut told = 0;
        for step in 0..1_000u64 {
            let at = start + Duration::from_millis(step * 100);
            (0..70).for_each(|_| downlink.sent(at, Flow::Video, 1_000, true, None));
            report(&mut downlink, at, told..told + 70, Duration::from_micros(1_428));
            told += 70;
        }
        assert_eq!(downlink.loss(), Some(0.0));
        assert_eq!(downlink.received, 70_000);
        let acked = downlink.estimator().and_then(|e| e.acknowledged_bps()).unwrap();
        assert!((5_000_000..6_500_000).contains(&acked), "{acked}");
    }

    #[test]
    fn a_bound_holds_whatever_is_known_of_the_link() {
        let mut downlink = Downlink::new(BweConfig::default());
        downlink.send_at_most(Some(100_000));
        assert_eq!(downlink.estimate_bps(), Some(100_000));
        downlink.remb(now(), of_all(700_000));
        assert_eq!(downlink.estimate_bps(), Some(100_000));
        assert_eq!(downlink.want(now(), 900_000, 900_000, true), None, "nothing to be learned");
        downlink.send_at_most(Some(900_000));
        assert_eq!(downlink.estimate_bps(), Some(700_000));
        downlink.send_at_most(None);
        assert_eq!(downlink.estimate_bps(), Some(700_000));
    }

    #[test]
    fn remb_serves_those_who_report_nothing_else() {
        let mut downlink = Downlink::new(BweConfig::default());
        downlink.remb(now(), of_all(700_000));
        assert_eq!((downlink.estimate_bps(), downlink.limit()), (Some(700_000), Some("remb")));
    }

    /// A receiver that sends REMB alone, after the deployed receive-side control: 0.85 of what arrives where that is too
    /// much, else 4 % a second more, but not above half as much again as arrives.
    fn received(remb: f64, sent_bps: f64, link_bps: f64) -> f64 {
        if sent_bps > link_bps { link_bps * 0.85 } else { (remb * 1.02).min((sent_bps * 1.5 + 10e3).max(remb)) }
    }

    /// Every half second for a minute: audio always flows, video of 300 kbit/s while the estimate covers it. How long it did.
    fn seconds_of_video(link_bps: f64, first_remb: f64) -> f64 {
        let (mut downlink, start) = (Downlink::new(BweConfig::default()), now());
        let (audio, video, mut remb, mut flows, mut flowed) = (30e3, 300e3, first_remb, false, 0.0);
        for half in 0..120u32 {
            let at = start + Duration::from_millis(500) * half;
            downlink.remb(at, of_all(remb as u64));
            downlink.tick(at, Duration::from_secs(2));
            downlink.sent(at, Flow::Audio, (audio / 16.0) as usize, false, None);
            if flows {
                downlink.sent(at, Flow::Video, (video / 16.0) as usize, false, None);
            }
            assert_eq!(downlink.want(at, (audio + video) as u64, (audio + video) as u64, false), None);
            flows = downlink.estimate_bps().unwrap() as f64 >= audio + video;
            flowed += if flows { 0.5 } else { 0.0 };
            remb = received(remb, if flows { audio + video } else { audio }, link_bps);
        }
        flowed
    }

    #[test]
    fn a_remb_of_one_who_gets_next_to_nothing_does_not_keep_him_there() {
        assert!(seconds_of_video(5e6, 24e3) > 57.0);
    }

    #[test]
    fn a_link_that_is_as_narrow_as_its_remb_says_is_tried_seldom() {
        let flowed = seconds_of_video(50e3, 40e3);
        assert!((0.5..10.0).contains(&flowed), "{flowed}");
    }

    #[test]
    fn a_remb_well_above_what_is_sent_is_obeyed() {
        assert_eq!(seconds_of_video(5e6, 200e3), 0.0);
    }

    /// Half a second of sound, and of pictures where they are sent; by the clock as the engine does it.
    fn half_a_second(downlink: &mut Downlink, at: Instant, sound_bps: usize, video_bps: usize) {
        downlink.sent(at, Flow::Audio, sound_bps / 16 - WIRE_OVERHEAD_BYTES, false, None);
        downlink.sent(at, Flow::Video, video_bps / 16, false, None);
        downlink.tick(at + Duration::from_millis(500), Duration::from_secs(2));
    }

    #[test]
    fn sound_is_added_as_it_is_now_to_what_is_told_of_pictures_alone() {
        let (mut downlink, start) = (Downlink::new(BweConfig::default()), now());
        let mut at = start;
        let mut after = |sound_bps, downlink: &mut Downlink| {
            for _ in 0..20 {
                half_a_second(downlink, at, sound_bps, 300_000);
                at += Duration::from_millis(500);
            }
            downlink.estimate_bps().unwrap()
        };
        downlink.remb(start, Told { bitrate_bps: 500_000, is_beside_sound: true });
        assert!((570_000..=580_000).contains(&after(80_000, &mut downlink)));
        assert!((530_000..=533_000).contains(&after(32_000, &mut downlink)), "though nothing was told meanwhile");
        downlink.remb(at, of_all(500_000));
        assert_eq!(downlink.estimate_bps(), Some(500_000));
    }

    #[test]
    fn sound_without_numbers_is_added_to_what_is_known_of_the_rest() {
        let (mut downlink, mut at) = (Downlink::new(BweConfig::default()), now());
        downlink.promise_feedback();
        let start_bps = BweConfig::default().start_bps;
        let mut play = |downlink: &mut Downlink, has_video: bool| {
            for _ in 0..40 {
                downlink.sent(at, Flow::Audio, 80_000 / 16 - WIRE_OVERHEAD_BYTES, false, None);
                if has_video {
                    downlink.sent(at, Flow::Video, 1_000, true, None);
                }
                at += Duration::from_millis(500);
                downlink.tick(at, Duration::from_secs(60));
            }
            downlink.estimate_bps().unwrap()
        };
        assert_eq!(play(&mut downlink, false), start_bps, "nothing has a number");
        let estimate_bps = play(&mut downlink, true);
        assert!((start_bps + 79_000..=start_bps + 80_000).contains(&estimate_bps), "{estimate_bps}");
    }

    /// Everybody is muted for half a minute; who hears nothing reports on nothing.
    #[test]
    fn reports_are_missed_only_while_something_is_sent() {
        let (mut downlink, mut at) = (Downlink::new(BweConfig::default()), now());
        let mut play = |downlink: &mut Downlink, halves: u32, is_sent: bool, is_reported: bool| {
            for _ in 0..halves {
                if is_sent {
                    downlink.sent(at, Flow::Video, 600_000, false, None);
                }
                if is_reported {
                    downlink.reported(at);
                }
                at += Duration::from_millis(500);
                downlink.tick(at, Duration::from_secs(2));
            }
            downlink.limit()
        };
        assert_eq!(play(&mut downlink, 60, true, true), None);
        assert_eq!(play(&mut downlink, 60, false, false), None, "nothing could be reported on");
        assert_eq!(play(&mut downlink, 28, true, false), None, "it has only just begun");
        assert_eq!(play(&mut downlink, 4, true, false), Some("report_timeout"));
    }

    /// aiortc after a stall: little came at last, its pictures were paused for that, and without them it tells nothing more.
    #[test]
    fn what_is_not_repeated_as_nothing_comes_keeps_nobody_waiting() {
        let (mut downlink, start) = (Downlink::new(BweConfig::default()), now());
        downlink.remb(start, Told { bitrate_bps: 60_000, is_beside_sound: true });
        let (mut at, next_bps) = (start, 300_000);
        while downlink.estimate_bps().unwrap() < next_bps {
            half_a_second(&mut downlink, at, 80_000, 0);
            at += Duration::from_millis(500);
            assert_eq!(downlink.want(at, next_bps, next_bps, false), None);
            assert!(at < start + Duration::from_secs(5), "still at {:?}", downlink.estimate_bps());
        }
        assert!(at >= start + remb_sum::LIFETIME, "what was just measured is obeyed");
    }
}
