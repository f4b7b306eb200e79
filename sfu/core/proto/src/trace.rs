//! What one subscriber's layers were decided from, what was decided and why, line by line: recorded from a running core,
//! played again by the simulator.
//!
//! One JSON object a line. `state` is where it begins; lines up to `can_probe` in [`Line`] are what came in, the rest is what
//! followed. Whoever gives the first to the same code gets the second. It holds sizes and times, never media or addresses.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::allocator::guard::GuardConfig;
use crate::breaker::{Report, Trip, Watch};
use crate::bwe::{Arrival, BweConfig, ProbeCluster};
use crate::config::Config;
use crate::downlink::{Downlink, Flow};
use crate::engine::allot::{Allotment, Outcome, Situation};
use crate::ids::{DowntrackId, Spatial};
use crate::moment::{self, nanos};
use crate::remb_sum::Told;

/// Of the format; raised where an older reader would misunderstand.
pub const VERSION: u32 = 1;
/// Packets sent are written down together, at the latest when there are so many.
const MAX_SENT: usize = 1_024;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case")]
pub enum Line {
    /// The first line.
    Header {
        version: u32,
        core: String,
        settings: Settings,
    },
    /// Signaling's: whose trace it is, and which tracks the numbers stand for.
    Names(serde_json::Map<String, serde_json::Value>),
    /// All that is remembered when the trace begins. Made by [`Recorder::new`], read by [`State::read`].
    State {
        at_ns: i64,
        downlink: serde_json::Value,
        allotment: Allotment,
        watches: Vec<(DowntrackId, Watch)>,
    },

    /// Packets that left: nanoseconds after `at_ns`, bytes of the datagram, what it is, whether it has a transport-wide number
    /// (one more than the one before), the probe it belongs to.
    Sent {
        at_ns: i64,
        packets: Vec<(u64, u32, Flow, bool, Option<u32>)>,
    },
    /// Transport-wide feedback: number, and when it arrived in microseconds by the receiver's clock; without: lost.
    Feedback {
        at_ns: i64,
        arrivals: Vec<(u64, Option<u64>)>,
    },
    Remb {
        at_ns: i64,
        bps: u64,
        #[serde(default)]
        is_beside_sound: bool,
    },
    RoundTrip {
        at_ns: i64,
        rtt_ns: u64,
    },
    /// A receiver report's block about one track, and what had been sent of it.
    Reported {
        at_ns: i64,
        downtrack: DowntrackId,
        report: Report,
        fraction_lost: f32,
        rtt_ns: Option<u64>,
    },
    /// A section was negotiated whose packets the subscriber reports on.
    Promised {
        at_ns: i64,
    },
    /// The subscriber is on another path.
    BeganAnew {
        at_ns: i64,
        keeps_estimate: bool,
    },
    /// The most that may be sent, set from outside.
    Bounded {
        at_ns: i64,
        max_bps: Option<u64>,
    },
    Tick {
        at_ns: i64,
    },
    /// The tracks and what they could be sent as, whenever layers are chosen.
    Situation {
        at_ns: i64,
        cause: Cause,
        situation: Situation,
    },
    /// Nothing stood in the way of a probe; and whether there is a stream to send it on.
    CanProbe {
        at_ns: i64,
        can_probe: bool,
    },

    /// The estimate has changed, or what limits it.
    Estimate {
        at_ns: i64,
        #[serde(flatten)]
        judgement: Judgement,
    },
    /// Layers were chosen.
    Outcome {
        at_ns: i64,
        outcome: Outcome,
    },
    /// Bits a second at which video leaves; `None`: as it comes.
    Pace {
        at_ns: i64,
        bps: Option<u64>,
    },
    Probe {
        at_ns: i64,
        cluster: ProbeCluster,
    },
    /// A circuit breaker.
    Tripped {
        at_ns: i64,
        trip: Trip,
    },
    /// A key frame is needed for the layer chosen. Whether the publisher is asked again depends on others' requests.
    Keyframe {
        at_ns: i64,
        downtrack: DowntrackId,
        spatial: Spatial,
    },

    /// The last line.
    End {
        at_ns: i64,
        reason: End,
    },
}

/// Why layers are chosen anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A wish, a mute, a subscription, or what flows.
    Wish,
    Estimate,
    Clock,
    /// The worker gives something up for want of CPU, or takes it back.
    Load,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It has lasted as long as was asked for.
    Time,
    /// It has grown as large as it may.
    Size,
    /// Nobody wants it any more.
    Stopped,
    /// The subscriber's transport is closed.
    Closed,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// `None`: nothing limits.
    pub estimate_bps: Option<u64>,
    pub limit: String,
    pub acknowledged_bps: Option<u64>,
    pub link_queue_ms: f64,
}

/// The settings that decide, under their names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub congestion_control: bool,
    pub estimate_start_bps: u64,
    pub estimate_min_bps: u64,
    pub estimate_max_bps: u64,
    pub feedback_patience_seconds: f64,
    pub pacing_factor: f64,
    pub layer_dwell_seconds: f64,
    pub layer_reversal_seconds: f64,
    pub layer_backoff_min_seconds: f64,
    pub layer_backoff_max_seconds: f64,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        let Config { bwe, guard, .. } = config;
        Self {
            congestion_control: config.congestion_control,
            estimate_start_bps: bwe.start_bps,
            estimate_min_bps: bwe.min_bps,
            estimate_max_bps: bwe.max_bps,
            feedback_patience_seconds: config.feedback_patience.as_secs_f64(),
            pacing_factor: config.pacing_factor,
            layer_dwell_seconds: guard.dwell.as_secs_f64(),
            layer_reversal_seconds: guard.reversal.as_secs_f64(),
            layer_backoff_min_seconds: guard.backoff_min.as_secs_f64(),
            layer_backoff_max_seconds: guard.backoff_max.as_secs_f64(),
        }
    }
}

impl Settings {
    /// The same as a configuration, all else by default.
    pub fn config(&self) -> Config {
        let seconds = |value: f64| Duration::try_from_secs_f64(value).unwrap_or_default();
        Config {
            congestion_control: self.congestion_control,
            bwe: BweConfig {
                start_bps: self.estimate_start_bps,
                min_bps: self.estimate_min_bps,
                max_bps: self.estimate_max_bps.max(self.estimate_min_bps),
            },
            feedback_patience: seconds(self.feedback_patience_seconds),
            pacing_factor: self.pacing_factor,
            guard: GuardConfig {
                dwell: seconds(self.layer_dwell_seconds),
                reversal: seconds(self.layer_reversal_seconds),
                backoff_min: seconds(self.layer_backoff_min_seconds),
                backoff_max: seconds(self.layer_backoff_max_seconds),
            },
            ..Config::default()
        }
    }
}

impl Line {
    /// Nanoseconds since the trace began.
    pub fn at_ns(&self) -> i64 {
        match self {
            Line::Header { .. } | Line::Names(_) => 0,
            Line::State { at_ns, .. }
            | Line::Sent { at_ns, .. }
            | Line::Feedback { at_ns, .. }
            | Line::Remb { at_ns, .. }
            | Line::RoundTrip { at_ns, .. }
            | Line::Reported { at_ns, .. }
            | Line::Promised { at_ns }
            | Line::BeganAnew { at_ns, .. }
            | Line::Bounded { at_ns, .. }
            | Line::Tick { at_ns }
            | Line::Situation { at_ns, .. }
            | Line::CanProbe { at_ns, .. }
            | Line::Estimate { at_ns, .. }
            | Line::Outcome { at_ns, .. }
            | Line::Pace { at_ns, .. }
            | Line::Probe { at_ns, .. }
            | Line::Tripped { at_ns, .. }
            | Line::Keyframe { at_ns, .. }
            | Line::End { at_ns, .. } => *at_ns,
        }
    }

    /// It says what was decided, and the same code must say the same.
    pub fn is_decision(&self) -> bool {
        matches!(
            self,
            Line::Estimate { .. }
                | Line::Outcome { .. }
                | Line::Pace { .. }
                | Line::Probe { .. }
                | Line::Tripped { .. }
        )
    }
}

/// All lines of a text; instants in them become time since `origin`. The error names the line.
pub fn read(text: &str, origin: Instant) -> Result<Vec<Line>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    moment::since(origin, || {
        lines
            .map(|(index, line)| serde_json::from_str(line).map_err(|error| format!("line {}: {error}", index + 1)))
            .collect()
    })
}

/// The downlink of a `state` line.
pub fn read_downlink(value: &serde_json::Value, origin: Instant) -> Result<Downlink, String> {
    moment::since(origin, || serde_json::from_value(value.clone())).map_err(|error| format!("state: {error}"))
}

/// How long a trace may become.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub time: Duration,
    pub bytes: usize,
}

/// Writes one subscriber's trace, up to its bounds. What is written waits until it is handed over.
pub struct Recorder {
    id: u64,
    origin: Instant,
    last: Instant,
    until: Instant,
    text: Vec<u8>,
    left_bytes: usize,
    sent_since: Instant,
    sent: Vec<(u64, u32, Flow, bool, Option<u32>)>,
    judgement: Option<Judgement>,
    pace: Option<Option<u64>>,
    end: Option<End>,
}

impl Recorder {
    /// `id`: whose it is; it comes back with what is handed over.
    pub fn new(
        id: u64,
        now: Instant,
        bounds: Bounds,
        config: &Config,
        downlink: &Downlink,
        allotment: Allotment,
        watches: Vec<(DowntrackId, Watch)>,
    ) -> Self {
        let mut recorder = Self {
            id,
            origin: now,
            last: now,
            until: now + bounds.time,
            text: Vec::new(),
            left_bytes: bounds.bytes,
            sent_since: now,
            sent: Vec::new(),
            judgement: None,
            pace: None,
            end: None,
        };
        let settings = Settings::from(config);
        let core = env!("CARGO_PKG_VERSION").to_owned();
        recorder.push(now, |_| Line::Header { version: VERSION, core, settings });
        // What cannot be written is no state that could be played from; reading says so.
        let downlink = moment::since(now, || serde_json::to_value(downlink)).unwrap_or_default();
        recorder.push(now, |at_ns| Line::State { at_ns, downlink, allotment, watches });
        recorder
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// When something was written last.
    pub fn last(&self) -> Instant {
        self.last
    }

    /// Why nothing more is written.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Ends it by a last line, unless it has ended.
    pub fn stop(&mut self, now: Instant, reason: End) {
        self.flush();
        if self.end.is_none() {
            self.end = Some(reason);
            self.write(&Line::End { at_ns: nanos(self.origin, now), reason });
        }
    }

    /// What was written since the last time: whole lines. Ends it where its time has come.
    pub fn take(&mut self, now: Instant) -> Vec<u8> {
        self.flush();
        if now >= self.until {
            self.stop(now, End::Time);
        }
        std::mem::take(&mut self.text)
    }

    pub(crate) fn sent(&mut self, now: Instant, flow: Flow, bytes: usize, is_numbered: bool, probe: Option<u32>) {
        if self.end.is_some() {
            return;
        }
        self.last = self.last.max(now);
        if self.sent.is_empty() {
            self.sent_since = now;
        }
        let after = now.saturating_duration_since(self.sent_since).as_nanos() as u64;
        self.sent.push((after, bytes as u32, flow, is_numbered, probe));
        if self.sent.len() >= MAX_SENT {
            self.flush();
        }
    }

    pub(crate) fn feedback(&mut self, now: Instant, arrivals: &[Arrival]) {
        let plain = |arrival: &Arrival| (arrival.number, arrival.received.map(|at| at.as_micros() as u64));
        self.push(now, |at_ns| Line::Feedback { at_ns, arrivals: arrivals.iter().map(plain).collect() });
    }

    pub(crate) fn remb(&mut self, now: Instant, told: Told) {
        let Told { bitrate_bps: bps, is_beside_sound } = told;
        self.push(now, |at_ns| Line::Remb { at_ns, bps, is_beside_sound });
    }

    pub(crate) fn round_trip(&mut self, rtt: Duration) {
        self.push(self.last, |at_ns| Line::RoundTrip { at_ns, rtt_ns: rtt.as_nanos() as u64 });
    }

    pub fn report(&mut self, downtrack: DowntrackId, report: Report, fraction_lost: f32, rtt: Option<Duration>) {
        let rtt_ns = rtt.map(|rtt| rtt.as_nanos() as u64);
        self.push(report.at, |at_ns| Line::Reported { at_ns, downtrack, report, fraction_lost, rtt_ns });
    }

    pub(crate) fn promised(&mut self) {
        self.push(self.last, |at_ns| Line::Promised { at_ns });
    }

    pub(crate) fn began_anew(&mut self, keeps_estimate: bool) {
        self.push(self.last, |at_ns| Line::BeganAnew { at_ns, keeps_estimate });
    }

    pub(crate) fn bounded(&mut self, max_bps: Option<u64>) {
        self.push(self.last, |at_ns| Line::Bounded { at_ns, max_bps });
    }

    pub(crate) fn tick(&mut self, now: Instant) {
        self.push(now, |at_ns| Line::Tick { at_ns });
    }

    pub fn situation(&mut self, now: Instant, cause: Cause, situation: &Situation) {
        self.push(now, |at_ns| Line::Situation { at_ns, cause, situation: situation.clone() });
    }

    pub fn could_probe(&mut self, now: Instant, can_probe: bool) {
        self.push(now, |at_ns| Line::CanProbe { at_ns, can_probe });
    }

    pub(crate) fn judgement(&mut self, now: Instant, judgement: Judgement) {
        let same =
            |before: &Judgement| (before.estimate_bps, &before.limit) == (judgement.estimate_bps, &judgement.limit);
        if !self.judgement.as_ref().is_some_and(same) {
            self.judgement = Some(judgement.clone());
            self.push(now, |at_ns| Line::Estimate { at_ns, judgement });
        }
    }

    pub fn outcome(&mut self, now: Instant, outcome: &Outcome) {
        self.push(now, |at_ns| Line::Outcome { at_ns, outcome: outcome.clone() });
    }

    pub fn pace(&mut self, now: Instant, bps: Option<u64>) {
        if self.pace.replace(bps) != Some(bps) {
            self.push(now, |at_ns| Line::Pace { at_ns, bps });
        }
    }

    pub(crate) fn cluster(&mut self, now: Instant, cluster: ProbeCluster) {
        self.push(now, |at_ns| Line::Probe { at_ns, cluster });
    }

    pub(crate) fn tripped(&mut self, now: Instant, trip: Trip) {
        self.push(now, |at_ns| Line::Tripped { at_ns, trip });
    }

    pub(crate) fn keyframe(&mut self, now: Instant, downtrack: DowntrackId, spatial: Spatial) {
        self.push(now, |at_ns| Line::Keyframe { at_ns, downtrack, spatial });
    }

    fn push(&mut self, now: Instant, line: impl FnOnce(i64) -> Line) {
        self.flush();
        if self.end.is_some() {
            return;
        }
        self.last = self.last.max(now);
        self.write(&line(nanos(self.origin, now)));
        if self.left_bytes == 0 {
            self.stop(now, End::Size);
        }
    }

    /// What left comes before what follows.
    fn flush(&mut self) {
        if self.sent.is_empty() || self.end.is_some() {
            return;
        }
        let packets = std::mem::take(&mut self.sent);
        self.write(&Line::Sent { at_ns: nanos(self.origin, self.sent_since), packets });
    }

    fn write(&mut self, line: &Line) {
        let before = self.text.len();
        // Into memory nothing fails but a value that is no JSON; half a line is none.
        match moment::since(self.origin, || serde_json::to_writer(&mut self.text, line)) {
            Ok(()) => self.text.push(b'\n'),
            Err(_) => self.text.truncate(before),
        }
        self.left_bytes = self.left_bytes.saturating_sub(self.text.len() - before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder(now: Instant, bytes: usize) -> Recorder {
        let config = Config::default();
        let bounds = Bounds { time: Duration::from_secs(10), bytes };
        let downlink = Downlink::new(config.bwe);
        Recorder::new(5, now, bounds, &config, &downlink, Allotment::default(), Vec::new())
    }

    fn now() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        Instant::now()
    }

    fn lines(text: &[u8], origin: Instant) -> Vec<Line> {
        read(std::str::from_utf8(text).unwrap(), origin).unwrap()
    }

    #[test]
    fn what_left_stands_before_what_followed() {
        let start = now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut recorder = recorder(start, 1 << 20);
        recorder.sent(at(1), Flow::Audio, 100, true, None);
        recorder.sent(at(3), Flow::Video, 1_200, true, Some(4));
        recorder.remb(at(5), Told { bitrate_bps: 300_000, is_beside_sound: true });
        recorder.sent(at(6), Flow::Padding, 240, false, None);
        let written = lines(&recorder.take(at(7)), start);
        let [Line::Header { version: VERSION, .. }, Line::State { .. }, Line::Sent { at_ns, packets }, remb, last] =
            &written[..]
        else {
            panic!("{written:?}")
        };
        assert_eq!(*at_ns, 1_000_000);
        let second = (2_000_000, 1_200, Flow::Video, true, Some(4));
        assert_eq!(packets[..], [(0, 100, Flow::Audio, true, None), second]);
        assert_eq!(*remb, Line::Remb { at_ns: 5_000_000, bps: 300_000, is_beside_sound: true });
        assert!(matches!(last, Line::Sent { at_ns: 6_000_000, .. }));
        assert!(recorder.take(at(8)).is_empty(), "once");
    }

    #[test]
    fn it_ends_at_its_time_or_size_and_writes_nothing_more() {
        let start = now();
        for (bytes, reason) in [(1 << 20, End::Time), (10_000, End::Size)] {
            let mut recorder = recorder(start, bytes);
            for step in 0..400 {
                recorder.tick(start + Duration::from_millis(step));
            }
            let mut text = recorder.take(start + Duration::from_secs(10));
            assert_eq!(recorder.end(), Some(reason));
            recorder.sent(start + Duration::from_secs(11), Flow::Audio, 1, true, None);
            recorder.tick(start + Duration::from_secs(11));
            recorder.stop(start + Duration::from_secs(11), End::Stopped);
            text.extend(recorder.take(start + Duration::from_secs(11)));
            assert!(text.len() < bytes + 1_000);
            let written = lines(&text, start);
            assert_eq!(written.iter().filter(|line| matches!(line, Line::End { .. })).count(), 1);
            assert!(matches!(written.last(), Some(Line::End { reason: last, .. }) if *last == reason));
        }
    }

    #[test]
    fn settings_are_the_configuration_that_they_were_taken_from() {
        let config = Config { pacing_factor: 1.7, congestion_control: false, ..Config::default() };
        let settings = Settings::from(&config);
        assert_eq!(Settings::from(&settings.config()), settings);
        assert_eq!(settings.config().guard.backoff_max, config.guard.backoff_max);
    }

    #[test]
    fn what_is_no_line_is_an_error_that_names_it() {
        let error = read("{\"line\":\"tick\",\"at_ns\":1}\n\n{\"line\":\"tock\"}", now()).unwrap_err();
        assert!(error.starts_with("line 3: "), "{error}");
    }
}
