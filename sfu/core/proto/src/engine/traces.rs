//! Traces of subscribers: begun and stopped by command, handed over ten times a second.

use std::time::{Duration, Instant};

use super::Engine;
use crate::event::{Event, TraceEnd};
use crate::ids::TransportId;
use crate::trace::{Bounds, End, Recorder};

impl Engine {
    /// Begins a trace. One that cannot begin ends at once, with the reason.
    pub(super) fn start_trace(&mut self, now: Instant, trace: u64, transport: TransportId, time: Duration) {
        let Some(&slot) = self.transport_slots.get(&transport) else {
            return self.refuse_trace(trace, TraceEnd::UnknownTransport);
        };
        let running = self.transports.iter().filter(|(_, t)| t.downlink.is_traced()).count();
        if running >= self.config.max_traces || self.transports[slot].downlink.is_traced() {
            return self.refuse_trace(trace, TraceEnd::TooMany);
        }
        let transport = &self.transports[slot];
        let watches = transport.downtracks.iter().filter_map(|&d| self.downtracks.get(d)).map(|d| (d.id, d.watch));
        let bounds = Bounds { time: time.min(self.config.trace_max_time), bytes: self.config.trace_max_bytes };
        let recorder = Recorder::new(
            trace,
            now,
            bounds,
            &self.config,
            &transport.downlink,
            transport.allotment,
            watches.collect(),
        );
        self.transports[slot].downlink.begin_trace(recorder);
        self.counters.traces += 1;
        self.hand_over_trace(now, slot);
    }

    pub(super) fn stop_trace(&mut self, now: Instant, trace: u64) {
        let is_it = |r: &mut Recorder| r.id() == trace;
        let found =
            self.transports.iter_mut().find_map(|(slot, t)| t.downlink.recorder().is_some_and(is_it).then_some(slot));
        if let Some(slot) = found {
            self.end_trace(now, slot, End::Stopped);
        }
    }

    /// Ends the transport's trace, if there is one.
    pub(super) fn end_trace(&mut self, now: Instant, slot: usize, reason: End) {
        if let Some(recorder) = self.transports.get_mut(slot).and_then(|t| t.downlink.recorder()) {
            recorder.stop(now, reason);
            self.hand_over_trace(now, slot);
        }
    }

    /// Gives away what was written.
    pub(super) fn hand_over_trace(&mut self, now: Instant, slot: usize) {
        let Some(transport) = self.transports.get_mut(slot) else { return };
        let Some(recorder) = transport.downlink.recorder() else { return };
        let (trace, lines, end) = (recorder.id(), recorder.take(now), recorder.end());
        if end.is_some() {
            transport.downlink.end_trace();
        }
        if end == Some(End::Size) {
            self.counters.traces_cut += 1;
        }
        if !lines.is_empty() || end.is_some() {
            self.emit(Event::Trace { trace, lines: lines.into(), end: end.map(TraceEnd::from) });
        }
    }

    fn refuse_trace(&mut self, trace: u64, why: TraceEnd) {
        self.emit(Event::Trace { trace, lines: Vec::new().into(), end: Some(why) });
    }
}
