//! Circuit breaker of one subscriber's media (RFC 8083): when to stop although nobody has said so.
//!
//! Only for who gives no transport-wide feedback: with it the estimator does better and sooner. [`Watch`] reads one stream's
//! receiver reports and says that a breaker has tripped; [`Breaker`] turns that into an upper bound of what is sent: a
//! tenth at first, next to nothing if that does not help (§4.5), and back in steps after a wait that grows. Video gives way within the
//! bound and says so; sound goes on as what reports can be about, until ICE consent is gone (RFC 7675).

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// What has tripped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trip {
    /// Reports come, and nothing new has arrived for the last of them (§4.1).
    MediaTimeout,
    /// Reports have come and do so no more (§4.2).
    ReportTimeout,
    /// More than ten times what TCP would send on this path (§4.3).
    #[serde(rename = "tcp_throughput")]
    Congestion,
    /// So much is lost that nobody can use the rest (§4.4).
    Unusable,
}

impl Trip {
    pub const fn as_str(self) -> &'static str {
        match self {
            Trip::MediaTimeout => "media_timeout",
            Trip::ReportTimeout => "report_timeout",
            Trip::Congestion => "tcp_throughput",
            Trip::Unusable => "unusable",
        }
    }
}

/// Reports in a row that must agree (§4.1, §4.3: three reporting intervals where they are longer than a few frames).
const REPORTS: u32 = 3;
/// Reports that come more often than this are taken together: some receivers send them with every feedback.
const MIN_INTERVAL: Duration = Duration::from_millis(900);
/// Fewer packets than this may all be under way still.
const MIN_PACKETS: u64 = 5;
/// §4.3: an order of magnitude above TCP is excess beyond doubt.
const TCP_FACTOR: f64 = 10.0;
/// Of the packets: neither retransmission nor concealment makes anything of what is left.
const UNUSABLE_LOSS: f64 = 0.5;
/// The longest deterministic interval (RFC 3550 §6.2), and three of them.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
const REPORT_TIMEOUT: Duration = Duration::from_secs(15);

/// One stream's receiver reports against what was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    last: Option<Report>,
    unmoved: u32,
    congested: u32,
    unusable: u32,
}

/// A report block and what had been sent of the stream by then.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    #[serde(with = "crate::moment")]
    pub at: Instant,
    pub highest_seq: u32,
    pub cumulative_lost: i32,
    /// Packets and bytes so far.
    pub packets: u64,
    pub bytes: u64,
}

impl Watch {
    /// `rtt` as known by then; `None`: nobody has measured it, and TCP's rate cannot be told.
    pub fn report(&mut self, report: Report, rtt: Option<Duration>) -> Option<Trip> {
        let Some(last) = self.last else {
            self.last = Some(report);
            return None;
        };
        let elapsed = report.at.saturating_duration_since(last.at);
        if elapsed < MIN_INTERVAL {
            return None;
        }
        self.last = Some(report);
        let (packets, bytes) = (report.packets.saturating_sub(last.packets), report.bytes.saturating_sub(last.bytes));
        if packets < MIN_PACKETS {
            (self.unmoved, self.congested, self.unusable) = (0, 0, 0);
            return None;
        }
        let expected = report.highest_seq.wrapping_sub(last.highest_seq);
        // A step back is another receiver's beginning.
        let expected = if expected < 1 << 31 { f64::from(expected) } else { 0.0 };
        let lost = f64::from(report.cumulative_lost.wrapping_sub(last.cumulative_lost).max(0));
        let loss = if expected > 0.0 { (lost / expected).min(1.0) } else { 0.0 };
        let seconds = elapsed.as_secs_f64();
        let is_beyond_tcp = rtt.is_some_and(|rtt| {
            let size = bytes as f64 * 8.0 / packets as f64;
            bytes as f64 * 8.0 / seconds > TCP_FACTOR * tcp_bps(size, rtt, loss)
        });
        let count = |counter: &mut u32, holds: bool| {
            *counter = if holds { *counter + 1 } else { 0 };
            *counter >= REPORTS
        };
        let unmoved = count(&mut self.unmoved, expected == 0.0);
        let congested = count(&mut self.congested, is_beyond_tcp);
        let unusable = count(&mut self.unusable, loss >= UNUSABLE_LOSS);
        let trip = [(unmoved, Trip::MediaTimeout), (congested, Trip::Congestion), (unusable, Trip::Unusable)]
            .into_iter()
            .find_map(|(has_tripped, trip)| has_tripped.then_some(trip));
        if trip.is_some() {
            *self = Self { last: self.last, ..Self::default() };
        }
        trip
    }
}

/// TCP's throughput by the simplified equation that §4.3 allows; `size` of a packet in bits.
fn tcp_bps(size: f64, rtt: Duration, loss: f64) -> f64 {
    size / (rtt.as_secs_f64().max(0.001) * (2.0 * loss / 3.0).sqrt())
}

/// After a first trip a tenth is sent (§4.5), and doubled so often.
const REDUCTION: u64 = 10;
const STEP: Duration = Duration::from_secs(4);
/// Nothing but sound is sent for this long after a second one, then twice as long, and so on.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LAST_PAUSE: Duration = Duration::from_secs(80);
/// So long without a trip, and what was before is forgotten.
const FORGIVEN: Duration = Duration::from_secs(60);

/// The bound of one transport.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Breaker {
    state: State,
    pause: Duration,
    #[serde(with = "crate::moment")]
    last_trip: Option<(Instant, Trip)>,
    #[serde(with = "crate::moment")]
    last_report: Option<Instant>,
    #[serde(default, with = "crate::moment")]
    last_sent: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    Closed,
    /// Up to `bound_bps`, doubled at `until`; from `full_bps` on nothing is bounded.
    Reduced {
        bound_bps: u64,
        full_bps: u64,
        #[serde(with = "crate::moment")]
        until: Instant,
    },
    Open {
        full_bps: u64,
        #[serde(with = "crate::moment")]
        until: Instant,
    },
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed, pause: FIRST_PAUSE, last_trip: None, last_report: None, last_sent: None }
    }
}

impl Breaker {
    /// The most that may be sent and why; `floor_bps` is what sound needs.
    pub fn bound(&self, floor_bps: u64) -> Option<(u64, Trip)> {
        let (_, trip) = self.last_trip?;
        match self.state {
            State::Closed => None,
            State::Reduced { bound_bps, .. } => Some((bound_bps.max(floor_bps), trip)),
            State::Open { .. } => Some((floor_bps, trip)),
        }
    }

    /// A report has come, whatever it says.
    pub fn reported(&mut self, now: Instant) {
        self.last_report = Some(now);
    }

    /// Media has left, now or lately. Who was sent nothing had nothing to report on: after a pause he has all the time again.
    pub fn sent(&mut self, now: Instant) {
        if !self.is_sending(now) {
            self.last_report = self.last_report.map(|at| at.max(now));
        }
        self.last_sent = Some(now);
    }

    fn is_sending(&self, now: Instant) -> bool {
        self.last_sent.is_some_and(|at| now.saturating_duration_since(at) < REPORT_INTERVAL)
    }

    /// A watch has tripped; `sent_bps` is what was sent to the subscriber in all.
    pub fn trip(&mut self, now: Instant, trip: Trip, sent_bps: u64) {
        let is_cut_off = matches!(trip, Trip::MediaTimeout | Trip::ReportTimeout);
        self.state = match self.state {
            State::Closed if !is_cut_off => {
                State::Reduced { bound_bps: sent_bps / REDUCTION, full_bps: sent_bps, until: now + STEP }
            }
            State::Open { .. } => return,
            State::Closed => self.open(now, sent_bps),
            State::Reduced { full_bps, .. } => self.open(now, full_bps),
        };
        self.last_trip = Some((now, trip));
    }

    fn open(&mut self, now: Instant, full_bps: u64) -> State {
        let until = now + self.pause;
        self.pause = (self.pause * 2).min(LAST_PAUSE);
        State::Open { full_bps, until }
    }

    /// By the clock, after [`Self::sent`]. `sent_bps`: what leaves of late.
    pub fn tick(&mut self, now: Instant, sent_bps: u64) {
        let is_overdue = self.last_report.is_some_and(|at| now.saturating_duration_since(at) >= REPORT_TIMEOUT);
        let is_silent = is_overdue && self.is_sending(now);
        if is_silent && !matches!(self.state, State::Open { .. }) {
            self.trip(now, Trip::ReportTimeout, sent_bps);
        }
        match self.state {
            State::Closed => {
                if self.last_trip.is_some_and(|(at, _)| now.saturating_duration_since(at) >= FORGIVEN) {
                    (self.pause, self.last_trip) = (FIRST_PAUSE, None);
                }
            }
            State::Reduced { bound_bps, full_bps, until } if now >= until => {
                let bound_bps = bound_bps.max(1_000) * 2;
                let reduced = State::Reduced { bound_bps, full_bps, until: now + STEP };
                self.state = if bound_bps >= full_bps { State::Closed } else { reduced };
            }
            State::Open { full_bps, until } if now >= until && !is_silent => {
                self.state = State::Reduced { bound_bps: full_bps / REDUCTION, full_bps, until: now + STEP };
            }
            State::Reduced { .. } | State::Open { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Stream {
        now: Instant,
        watch: Watch,
        report: Report,
    }

    impl Stream {
        fn new() -> Self {
            #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
            let now = Instant::now();
            let report = Report { at: now, highest_seq: 0, cumulative_lost: 0, packets: 0, bytes: 0 };
            let mut watch = Watch::default();
            assert_eq!(watch.report(report, None), None);
            Self { now, watch, report }
        }

        /// A second in which `packets` of 1 000 bytes were sent, `expected` of them spoken of, and `lost` of those.
        fn second(&mut self, packets: u64, expected: u32, lost: i32, rtt_ms: u64) -> Option<Trip> {
            self.now += Duration::from_secs(1);
            self.report.at = self.now;
            self.report.highest_seq = self.report.highest_seq.wrapping_add(expected);
            self.report.cumulative_lost += lost;
            self.report.packets += packets;
            self.report.bytes += packets * 1_000;
            self.watch.report(self.report, (rtt_ms > 0).then(|| Duration::from_millis(rtt_ms)))
        }

        fn after_reports(&mut self, packets: u64, expected: u32, lost: i32, rtt_ms: u64) -> [Option<Trip>; 3] {
            [0; 3].map(|_| self.second(packets, expected, lost, rtt_ms))
        }
    }

    #[test]
    fn each_breaker_needs_three_reports_that_agree() {
        let trips = |trip| [None, None, Some(trip)];
        let mut stream = Stream::new();
        assert_eq!(stream.after_reports(200, 0, 0, 50), trips(Trip::MediaTimeout));
        // 200 packets of 8 000 bits a second; TCP at 300 ms and 10 % of loss: 103 kbit/s.
        assert_eq!(stream.after_reports(200, 200, 20, 300), trips(Trip::Congestion));
        assert_eq!(stream.after_reports(200, 200, 120, 0), trips(Trip::Unusable));
        for (packets, expected, lost, rtt) in [(200, 200, 2, 50), (200, 200, 0, 2_000), (20, 20, 4, 100), (0, 0, 0, 50)]
        {
            for _ in 0..20 {
                assert_eq!(stream.second(packets, expected, lost, rtt), None, "{packets} {lost} {rtt}");
            }
        }
        for _ in 0..10 {
            assert_eq!(stream.second(200, 0, 0, 50), None);
            assert_eq!(stream.second(200, 0, 0, 50), None);
            assert_eq!(stream.second(200, 200, 0, 50), None, "interrupted");
        }
    }

    #[test]
    fn frequent_reports_are_taken_together() {
        let mut stream = Stream::new();
        for step in 1..=20u64 {
            stream.report.at = stream.now + Duration::from_millis(100 * step);
            stream.report.packets += 20;
            stream.report.bytes += 20_000;
            assert_eq!(stream.watch.report(stream.report, None), None, "two seconds are two reports");
        }
    }

    #[test]
    fn a_tenth_first_then_sound_alone_and_back_in_steps_after_growing_waits() {
        let now = Stream::new().now;
        let at = |seconds: u64| now + Duration::from_secs(seconds);
        let mut breaker = Breaker::default();
        assert_eq!(breaker.bound(50_000), None);
        breaker.trip(at(0), Trip::Congestion, 2_000_000);
        assert_eq!(breaker.bound(50_000), Some((200_000, Trip::Congestion)));
        breaker.trip(at(3), Trip::Congestion, 200_000);
        assert_eq!(breaker.bound(50_000), Some((50_000, Trip::Congestion)));
        breaker.tick(at(12), 50_000);
        assert_eq!(breaker.bound(50_000), Some((50_000, Trip::Congestion)), "a wait of ten seconds");
        breaker.tick(at(13), 50_000);
        assert_eq!(breaker.bound(50_000), Some((200_000, Trip::Congestion)));
        let mut bounds = Vec::new();
        for second in 14..30 {
            breaker.tick(at(second), 100_000);
            bounds.push(breaker.bound(50_000).map(|(bps, _)| bps));
        }
        bounds.dedup();
        assert_eq!(bounds, [Some(200_000), Some(400_000), Some(800_000), Some(1_600_000), None]);
        breaker.trip(at(31), Trip::MediaTimeout, 2_000_000);
        assert_eq!(breaker.bound(50_000), Some((50_000, Trip::MediaTimeout)), "nothing arrives: no tenth of it either");
        breaker.tick(at(50), 0);
        assert_eq!(breaker.bound(1), Some((1, Trip::MediaTimeout)), "twice as long");
        breaker.tick(at(52), 0);
        assert_eq!(breaker.bound(1), Some((200_000, Trip::MediaTimeout)));
    }

    /// A second each from `seconds.start` on, in which media leaves.
    fn send(breaker: &mut Breaker, from: Instant, seconds: std::ops::Range<u64>) {
        for second in seconds {
            let now = from + Duration::from_secs(second);
            breaker.sent(now);
            breaker.tick(now, 1_000_000);
        }
    }

    #[test]
    fn reports_that_stop_trip_and_those_that_never_came_do_not() {
        let now = Stream::new().now;
        let at = |seconds: u64| now + Duration::from_secs(seconds);
        let mut breaker = Breaker::default();
        send(&mut breaker, now, 0..101);
        assert_eq!(breaker.bound(0), None);
        breaker.reported(at(100));
        send(&mut breaker, now, 101..115);
        assert_eq!(breaker.bound(0), None);
        send(&mut breaker, now, 115..116);
        assert_eq!(breaker.bound(0), Some((0, Trip::ReportTimeout)));
        send(&mut breaker, now, 116..150);
        assert_eq!(breaker.bound(0), Some((0, Trip::ReportTimeout)), "until they come again");
        breaker.reported(at(151));
        send(&mut breaker, now, 151..152);
        assert_eq!(breaker.bound(0), Some((100_000, Trip::ReportTimeout)));
    }

    /// What is sent is smoothed: it is not yet 0 long after the last packet.
    #[test]
    fn who_is_sent_nothing_need_not_report() {
        let now = Stream::new().now;
        let at = |seconds: u64| now + Duration::from_secs(seconds);
        let mut breaker = Breaker::default();
        send(&mut breaker, now, 0..100);
        breaker.reported(at(99));
        (100..130).for_each(|second| breaker.tick(at(second), 1));
        assert_eq!(breaker.bound(0), None, "nothing is sent that could be reported on");
        send(&mut breaker, now, 130..145);
        assert_eq!(breaker.bound(0), None, "as long as after any report");
        send(&mut breaker, now, 145..146);
        assert_eq!(breaker.bound(0), Some((0, Trip::ReportTimeout)));
        (146..156).for_each(|second| breaker.tick(at(second), 0));
        assert_eq!(breaker.bound(0), Some((100_000, Trip::ReportTimeout)), "who is sent nothing is tried anew");
    }

    /// A lone packet now and then, or one every few seconds.
    #[test]
    fn reports_are_awaited_while_packets_come_often_enough() {
        for (every, trips) in [(4, true), (6, false)] {
            let now = Stream::new().now;
            let mut breaker = Breaker::default();
            breaker.reported(now);
            for second in (0..120).step_by(every) {
                breaker.sent(now + Duration::from_secs(second));
                breaker.tick(now + Duration::from_secs(second), 1_000);
            }
            assert_eq!(breaker.last_trip.is_some(), trips, "every {every} s");
        }
    }
}
