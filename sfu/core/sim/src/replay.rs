//! A trace played again: what came in goes to the core's own estimator and allocation in virtual time, and what they decide
//! now is held against what was decided then.
//!
//! With the same code and settings nothing differs. With others it shows what would have been decided of the same input:
//! the subscriber's link answers as it did then, not as it would have.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::time::{Duration, Instant};

use callyard_peer::base;
use callyard_proto::allocator::guard::Guard;
use callyard_proto::breaker::Watch;
use callyard_proto::bwe::Arrival;
use callyard_proto::config::Config;
use callyard_proto::downlink::Downlink;
use callyard_proto::downtrack::Layer;
use callyard_proto::engine::allot::{Allotment, Means, Outcome, Situation, choose};
use callyard_proto::ids::{DowntrackId, UptrackId};
use callyard_proto::moment::instant;
use callyard_proto::remb_sum::Told;
use callyard_proto::trace::{self, Bounds, Cause, End, Line, Recorder, Settings, VERSION};

/// A trace as it was and as it is now.
#[derive(Debug)]
pub struct Played {
    pub before: Vec<Line>,
    pub after: Vec<Line>,
    /// `after`, as a trace.
    pub text: Vec<u8>,
    /// Some setting is another than then.
    pub is_changed: bool,
}

impl Played {
    /// The first decisions that differ: of then and of now, `None` where there is no further one.
    ///
    /// A trace may end in the middle of a moment: what is decided within it and was not recorded is no difference.
    pub fn difference(&self) -> Option<(Option<&Line>, Option<&Line>)> {
        let end_ns = self.before.last().map_or(0, Line::at_ns);
        let (mut before, mut after) = (decisions(&self.before), decisions(&self.after));
        loop {
            match (before.next(), after.next()) {
                (None, None) => return None,
                (None, Some(now)) if now.at_ns() >= end_ns => return None,
                (a, b) if a == b => {}
                differing => return Some(differing),
            }
        }
    }
}

fn decisions(lines: &[Line]) -> impl Iterator<Item = &Line> {
    lines.iter().filter(|line| line.is_decision())
}

/// Plays a trace. `changes`: settings as `name=value`, by the names in its first line.
pub fn play(text: &str, changes: &[String]) -> Result<Played, String> {
    let origin = base();
    let before = trace::read(text, origin)?;
    let mut core = None;
    let mut settings = None;
    for line in &before {
        match line {
            Line::Header { version: VERSION, settings: recorded, .. } => settings = Some(recorded.clone()),
            Line::Header { version, .. } => {
                return Err(format!("the trace is of version {version}; this reads {VERSION}"));
            }
            Line::State { downlink, allotment, watches, .. } => {
                let config = changed(settings.as_ref().ok_or("there is no header")?, changes)?.config();
                let mut downlink = trace::read_downlink(downlink, origin)?;
                downlink.reconfigure(config.bwe);
                core = Some(Core::new(origin, config, downlink, *allotment, watches));
                break;
            }
            _ => {}
        }
    }
    let mut core = core.ok_or("there is no state to begin with")?;
    let mut end = None;
    for (index, line) in before.iter().enumerate() {
        core.take(line, &before[index + 1..])?;
        end = instant(origin, line.at_ns()).max(end);
    }
    let text = core.finish(end.unwrap_or(origin));
    let after = trace::read(std::str::from_utf8(&text).map_err(|e| e.to_string())?, origin)?;
    Ok(Played { before, after, text, is_changed: !changes.is_empty() })
}

fn changed(settings: &Settings, changes: &[String]) -> Result<Settings, String> {
    let mut plain = serde_json::to_value(settings).map_err(|e| e.to_string())?;
    for change in changes {
        let (name, value) = change.split_once('=').ok_or_else(|| format!("{change} is not NAME=VALUE"))?;
        let names = plain.as_object_mut().ok_or("settings are a map")?;
        let known = names.keys().cloned().collect::<Vec<_>>().join(", ");
        let place = names.get_mut(name).ok_or_else(|| format!("no setting is called {name}; there are: {known}"))?;
        *place = serde_json::from_str(value).map_err(|_| format!("{name} takes no {value}"))?;
    }
    serde_json::from_value(plain).map_err(|e| format!("a setting takes no such value: {e}"))
}

/// The part of the core that decides for one subscriber, and what surrounds it there.
struct Core {
    origin: Instant,
    config: Config,
    downlink: Downlink,
    allotment: Allotment,
    watches: HashMap<DowntrackId, Watch>,
    tracks: HashMap<DowntrackId, Memory>,
    /// The tracks as they were seen last.
    situation: Situation,
}

/// What became of a track, then and now.
#[derive(Default)]
struct Memory {
    uptrack: UptrackId,
    then: Option<Option<Layer>>,
    target: Option<Layer>,
    paused: Option<Instant>,
    guard: Guard,
}

impl Core {
    fn new(
        origin: Instant,
        config: Config,
        mut downlink: Downlink,
        allotment: Allotment,
        watches: &[(DowntrackId, Watch)],
    ) -> Self {
        let bounds = Bounds { time: Duration::MAX / 4, bytes: usize::MAX };
        let recorder = Recorder::new(0, origin, bounds, &config, &downlink, allotment, watches.to_vec());
        downlink.begin_trace(recorder);
        Self {
            origin,
            config,
            downlink,
            allotment,
            watches: watches.iter().copied().collect(),
            tracks: HashMap::new(),
            situation: Situation::default(),
        }
    }

    /// Takes one line; `rest` is what follows it. Does what the engine does at that point.
    fn take(&mut self, line: &Line, rest: &[Line]) -> Result<(), String> {
        let at = |at_ns: i64| instant(self.origin, at_ns).ok_or_else(|| format!("{at_ns} ns is no time"));
        let now = at(line.at_ns())?;
        match line {
            Line::Sent { packets, .. } => {
                for &(after, bytes, flow, is_numbered, probe) in packets {
                    self.downlink.sent(now + Duration::from_nanos(after), flow, bytes as usize, is_numbered, probe);
                }
            }
            Line::Feedback { arrivals, .. } => {
                let arrival =
                    |&(number, at): &(u64, Option<u64>)| Arrival { number, received: at.map(Duration::from_micros) };
                self.downlink.answered(now, &arrivals.iter().map(arrival).collect::<Vec<_>>());
                self.estimate_changed(now, rest);
            }
            &Line::Remb { bps: bitrate_bps, is_beside_sound, .. } => {
                self.downlink.remb(now, Told { bitrate_bps, is_beside_sound });
                self.estimate_changed(now, rest);
            }
            Line::RoundTrip { rtt_ns, .. } => self.downlink.round_trip(Duration::from_nanos(*rtt_ns)),
            Line::Reported { downtrack, report, fraction_lost, rtt_ns, .. } => {
                let rtt = rtt_ns.map(Duration::from_nanos);
                if let Some(recorder) = self.downlink.recorder() {
                    recorder.report(*downtrack, *report, *fraction_lost, rtt);
                }
                let tripped = self.watches.entry(*downtrack).or_default().report(*report, rtt);
                self.downlink.reported(now);
                if let Some(trip) = tripped.filter(|_| self.config.congestion_control) {
                    self.downlink.trip(now, trip);
                    self.estimate_changed(now, rest);
                }
            }
            Line::Promised { .. } => self.downlink.promise_feedback(),
            Line::BeganAnew { keeps_estimate, .. } => self.downlink.begin_anew(*keeps_estimate),
            Line::Bounded { max_bps, .. } => {
                self.downlink.send_at_most(*max_bps);
                self.estimate_changed(now, rest);
            }
            Line::Tick { .. } => {
                self.downlink.tick(now, self.config.feedback_patience);
                if self.allotment.has_video {
                    if self.allotment.is_old(now) {
                        self.choose(now, Cause::Clock, rest);
                    }
                    self.estimate_changed(now, rest);
                }
            }
            Line::Situation { cause: Cause::Wish, situation, .. } => {
                self.situation = situation.clone();
                self.choose_of_these(now, Cause::Wish);
            }
            Line::Situation { situation, .. } => self.situation = situation.clone(),
            Line::CanProbe { can_probe, .. } => {
                if let Some(recorder) = self.downlink.recorder() {
                    recorder.could_probe(now, *can_probe);
                }
                self.allotment.probe(now, &mut self.downlink, *can_probe);
            }
            Line::Outcome { outcome, .. } => self.note_then(outcome),
            _ => {}
        }
        Ok(())
    }

    fn finish(mut self, now: Instant) -> Vec<u8> {
        let Some(mut recorder) = self.downlink.end_trace() else { return Vec::new() };
        recorder.stop(now, End::Stopped);
        recorder.take(now)
    }

    fn estimate_changed(&mut self, now: Instant, rest: &[Line]) {
        self.set_pace(now);
        if self.allotment.has_video && self.allotment.is_outdated(now, &self.downlink) {
            self.choose(now, Cause::Estimate, rest);
        }
    }

    fn set_pace(&mut self, now: Instant) {
        let rate = self.allotment.pace_bps(now, &self.downlink, self.config.pacing_factor);
        if let Some(recorder) = self.downlink.recorder() {
            recorder.pace(now, rate);
        }
    }

    /// Chooses of the tracks as they were seen at this moment, if they were; else as they were last.
    fn choose(&mut self, now: Instant, cause: Cause, rest: &[Line]) {
        let at_ns = callyard_proto::moment::nanos(self.origin, now);
        let seen = rest.iter().take_while(|line| line.at_ns() == at_ns).find_map(|line| match line {
            Line::Situation { situation, cause: then, .. } if *then == cause => Some(situation),
            _ => None,
        });
        if let Some(seen) = seen {
            self.situation = seen.clone();
        }
        self.choose_of_these(now, cause);
    }

    fn choose_of_these(&mut self, now: Instant, cause: Cause) {
        let mut situation = self.situation.clone();
        for track in &mut situation.tracks {
            // What was changed from outside since the last choice counts as it was recorded.
            let memory = self.tracks.get(&track.downtrack).filter(|memory| {
                memory.uptrack == track.uptrack
                    && memory.then.is_some_and(|then| (track.target, track.paused.is_some()) == (then, then.is_none()))
            });
            if let Some(memory) = memory {
                (track.target, track.paused) = (memory.target, memory.paused);
                track.guard = memory.guard.clone();
            }
        }
        if let Some(recorder) = self.downlink.recorder() {
            recorder.situation(now, cause, &situation);
        }
        let means = Means { downlink: &self.downlink, before: self.allotment, guard: &self.config.guard };
        let outcome = choose(now, &means, &mut situation);
        if let Some(recorder) = self.downlink.recorder() {
            recorder.outcome(now, &outcome);
        }
        self.allotment = outcome.allotment;
        self.set_pace(now);
        for (track, choice) in situation.tracks.into_iter().zip(&outcome.choices) {
            let memory = self.tracks.entry(track.downtrack).or_default();
            if memory.uptrack != track.uptrack {
                (memory.uptrack, memory.then) = (track.uptrack, None);
            }
            memory.target = choice.layer;
            memory.paused = if choice.layer.is_none() { track.paused.or(Some(now)) } else { None };
            memory.guard = track.guard;
        }
    }

    fn note_then(&mut self, outcome: &Outcome) {
        for choice in &outcome.choices {
            self.tracks.entry(choice.downtrack).or_default().then = Some(choice.layer);
        }
    }
}

/// For people: every decision of now, and how it stands to those of then.
pub fn report(played: &Played) -> String {
    let mut text = String::new();
    for line in decisions(&played.after) {
        text.push_str(&described(line));
        text.push('\n');
    }
    if let Some(Line::End { reason: End::Size, .. }) = played.before.last() {
        text.push_str("\nthe trace ended early, for its size\n");
    }
    let count = decisions(&played.before).count();
    match played.difference() {
        None => {
            let _ = writeln!(text, "\nall {count} decisions are the same");
        }
        Some((then, now)) => {
            let same = decisions(&played.before).zip(decisions(&played.after)).take_while(|(a, b)| a == b).count();
            let told = |line: Option<&Line>| line.map_or("nothing more".to_owned(), described);
            let why = if played.is_changed { "under the changed settings" } else { "by another core" };
            let _ = writeln!(text, "\n{same} of {count} decisions are the same; the first that differs {why}:");
            let _ = writeln!(text, "then: {}\nnow:  {}", told(then), told(now));
            let _ = writeln!(text, "\n{:<24}{:>12}{:>12}", "", "then", "now");
            let (then, now) = (Summary::of(&played.before), Summary::of(&played.after));
            for ((name, then), (_, now)) in then.rows().into_iter().zip(now.rows()) {
                let _ = writeln!(text, "{name:<24}{then:>12}{now:>12}");
            }
        }
    }
    text
}

fn described(line: &Line) -> String {
    let mut text = format!("{:9.3} s  ", line.at_ns() as f64 / 1e9);
    let rate = |bps: Option<u64>| bps.map_or("unlimited".to_owned(), |bps| format!("{} kbit/s", bps / 1_000));
    let _ = match line {
        Line::Estimate { judgement, .. } => write!(
            text,
            "estimate {} ({}), acknowledged {}, queue {:.0} ms",
            rate(judgement.estimate_bps),
            judgement.limit,
            judgement.acknowledged_bps.map_or("nothing yet".to_owned(), |bps| rate(Some(bps))),
            judgement.link_queue_ms
        ),
        Line::Pace { bps, .. } => write!(text, "pace {}", rate(*bps)),
        Line::Probe { cluster, .. } => {
            write!(text, "probe {} of {} bytes at least", rate(Some(cluster.bitrate_bps)), cluster.min_bytes)
        }
        Line::Tripped { trip, .. } => write!(text, "circuit breaker: {}", trip.as_str()),
        Line::Outcome { outcome, .. } => {
            let _ = write!(text, "layers within {}:", rate(outcome.budget_bps));
            for choice in &outcome.choices {
                let reason = choice.reason.map_or("no_estimate", |reason| reason.as_str());
                let _ = match choice.layer {
                    Some(layer) => write!(
                        text,
                        " [{} S{}T{} {} kbit/s {reason}",
                        choice.downtrack,
                        layer.spatial,
                        layer.temporal,
                        choice.bps / 1_000
                    ),
                    None => write!(text, " [{} paused {reason}", choice.downtrack),
                };
                for spatial in &choice.barred {
                    let _ = write!(text, " bars S{spatial}");
                }
                text.push(']');
            }
            Ok(())
        }
        other => write!(text, "{other:?}"),
    };
    text
}

/// A trace in a few figures.
#[derive(Default)]
struct Summary {
    seconds: f64,
    estimate_bits: f64,
    used_bits: f64,
    paused_seconds: f64,
    layer_seconds: BTreeMap<u8, f64>,
    switches: u64,
    probes: u64,
}

impl Summary {
    fn of(lines: &[Line]) -> Self {
        let mut summary = Self::default();
        let (mut at, mut estimate, mut used) = (0, 0, 0);
        let mut layers: BTreeMap<DowntrackId, Option<Layer>> = BTreeMap::new();
        for line in lines {
            let seconds = (line.at_ns() - at).max(0) as f64 / 1e9;
            at = at.max(line.at_ns());
            summary.seconds += seconds;
            summary.estimate_bits += estimate as f64 * seconds;
            summary.used_bits += used as f64 * seconds;
            for layer in layers.values() {
                match layer {
                    Some(layer) => *summary.layer_seconds.entry(layer.spatial.0).or_default() += seconds,
                    None => summary.paused_seconds += seconds,
                }
            }
            match line {
                Line::Estimate { judgement, .. } => estimate = judgement.estimate_bps.unwrap_or(0),
                Line::Probe { .. } => summary.probes += 1,
                Line::Outcome { outcome, .. } => {
                    used = outcome.allotment.used_bps;
                    let chosen = outcome.choices.iter().map(|choice| (choice.downtrack, choice.layer));
                    let before = std::mem::replace(&mut layers, chosen.collect());
                    let differs = |(id, layer): (&DowntrackId, &Option<Layer>)| {
                        before.get(id).is_some_and(|b| b.map(|l| l.spatial) != layer.map(|l| l.spatial))
                    };
                    summary.switches += layers.iter().filter(|pair| differs(*pair)).count() as u64;
                }
                _ => {}
            }
        }
        summary
    }

    fn rows(&self) -> Vec<(String, String)> {
        let mean = |bits: f64| format!("{:.0}", bits / self.seconds.max(0.001) / 1_000.0);
        let mut rows = vec![
            ("estimate, kbit/s".to_owned(), mean(self.estimate_bits)),
            ("allotted, kbit/s".to_owned(), mean(self.used_bits)),
        ];
        for spatial in 0..=3 {
            let seconds = self.layer_seconds.get(&spatial).copied().unwrap_or_default();
            rows.push((format!("at layer {spatial}, s"), format!("{seconds:.1}")));
        }
        rows.push(("paused, s".to_owned(), format!("{:.1}", self.paused_seconds)));
        rows.push(("changes of layer".to_owned(), self.switches.to_string()));
        rows.push(("probes".to_owned(), self.probes.to_string()));
        rows
    }
}
