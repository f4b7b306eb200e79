//! Transport-wide feedback as a libwebrtc receiver gives it (draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1).
//!
//! Every packet since the last report is told once, missing ones as missing; one that comes late is told with all that
//! followed it. Written with two-bit chunks only, which every reader must know.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::gaps::extend;
use crate::rtcp::feedback;

/// libwebrtc's least pause between reports, which a receiver with little to send keeps to.
pub const INTERVAL: Duration = Duration::from_millis(50);
/// Arrivals older than this are not told again.
const WINDOW: Duration = Duration::from_millis(500);
/// Statuses of one report: keeps it within a datagram.
const MOST_STATUSES: u64 = 400;

/// Arrivals that the sender has not been told of yet.
pub struct TwccReporter {
    /// Id of the extension that carries the number.
    pub extension_id: u8,
    pub interval: Duration,
    epoch: Instant,
    next: Option<Instant>,
    arrivals: BTreeMap<u64, Instant>,
    highest: Option<u64>,
    /// Number with which the next report begins.
    begin: Option<u64>,
    count: u8,
}

impl TwccReporter {
    pub fn new(now: Instant, extension_id: u8) -> Self {
        Self {
            extension_id,
            interval: INTERVAL,
            epoch: now,
            next: None,
            arrivals: BTreeMap::new(),
            highest: None,
            begin: None,
            count: 0,
        }
    }

    pub fn arrived(&mut self, now: Instant, number: u16) {
        let number = extend(self.highest, number);
        self.highest = self.highest.max(Some(number));
        self.arrivals.entry(number).or_insert(now);
        self.begin = Some(self.begin.map_or(number, |begin| begin.min(number)));
        self.next.get_or_insert(now + self.interval);
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Reports that are due, whole RTCP packets.
    pub fn poll(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut reports = Vec::new();
        if self.next.is_none_or(|at| at > now) {
            return reports;
        }
        self.next = None;
        while let Some(begin) = self.begin
            && let Some((&first, &at)) = self.arrivals.range(begin..).next()
        {
            // A hole of hundreds at the front is a new beginning, not a report.
            let begin = begin.max(first.saturating_sub(MOST_STATUSES / 2));
            let (body, end) = self.report(begin, at);
            reports.push(feedback(205, 15, 0, &body));
            self.count = self.count.wrapping_add(1);
            self.begin = Some(end);
        }
        self.arrivals.retain(|_, at| now.saturating_duration_since(*at) < WINDOW);
        reports
    }

    /// A report that begins with `begin`, whose first arrival was at `first`, and the number that it ends before.
    fn report(&self, begin: u64, first: Instant) -> (Vec<u8>, u64) {
        let us = |at: Instant| at.saturating_duration_since(self.epoch).as_micros() as i64;
        let reference = us(first) / 64_000;
        let mut ticks = reference * 256;
        let (mut symbols, mut deltas): (Vec<u16>, Vec<u8>) = (Vec::new(), Vec::new());
        for (&number, &at) in self.arrivals.range(begin..begin + MOST_STATUSES) {
            let Ok(delta) = i16::try_from(us(at) / 250 - ticks) else { break };
            ticks = us(at) / 250;
            symbols.resize((number - begin) as usize, 0);
            if let Ok(small) = u8::try_from(delta) {
                symbols.push(1);
                deltas.push(small);
            } else {
                symbols.push(2);
                deltas.extend_from_slice(&delta.to_be_bytes());
            }
        }
        let mut body = Vec::new();
        body.extend_from_slice(&(begin as u16).to_be_bytes());
        body.extend_from_slice(&(symbols.len() as u16).to_be_bytes());
        body.extend_from_slice(&((reference as u32) << 8 | u32::from(self.count)).to_be_bytes());
        for chunk in symbols.chunks(7) {
            let bits = chunk.iter().enumerate().fold(0xc000, |word, (n, symbol)| word | symbol << (12 - 2 * n));
            body.extend_from_slice(&bits.to_be_bytes());
        }
        body.extend_from_slice(&deltas);
        body.resize(body.len().next_multiple_of(4), 0);
        (body, begin + symbols.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use callyard_proto::rtcp::{Packet, compound};

    use super::*;

    /// Numbers told, with milliseconds since the epoch where they arrived.
    fn told(packet: &[u8]) -> Vec<(u16, Option<f64>)> {
        let Some(Ok(Packet::Twcc(report))) = compound(packet).unwrap().next() else { panic!("a report") };
        let mut quarters = i64::from(report.reference_time) * 256;
        let mut times = Vec::new();
        for (number, delta) in report.statuses() {
            times.push((
                number,
                delta.map(|delta| {
                    quarters += i64::from(delta);
                    quarters as f64 / 4.0
                }),
            ));
        }
        times
    }

    #[test]
    fn holes_are_told_late_ones_again_and_the_wrap_is_no_hole() {
        let epoch = crate::base();
        let at = |ms: u64| epoch + Duration::from_millis(ms);
        let mut reporter = TwccReporter::new(epoch, 3);
        for (ms, number) in [(100, 65_534), (103, 65_535), (130, 1)] {
            reporter.arrived(at(ms), number);
        }
        assert_eq!(reporter.deadline(), Some(at(150)));
        assert!(reporter.poll(at(149)).is_empty());
        let reports = reporter.poll(at(150));
        let expected = [(65_534, Some(100.0)), (65_535, Some(103.0)), (0, None), (1, Some(130.0))];
        assert_eq!(told(&reports[0]), expected);
        assert!(reporter.deadline().is_none() && reports.len() == 1);
        // The first of the next report is lost, and an old one comes late.
        reporter.arrived(at(160), 3);
        assert_eq!(told(&reporter.poll(at(210))[0]), [(2, None), (3, Some(160.0))]);
        reporter.arrived(at(215), 0);
        let expected = [(0, Some(215.0)), (1, Some(130.0)), (2, None), (3, Some(160.0))];
        assert_eq!(told(&reporter.poll(at(265))[0]), expected, "arrivals before it have negative deltas");
    }

    #[test]
    fn a_flood_is_told_in_several_reports_each_number_once() {
        let epoch = crate::base();
        let mut reporter = TwccReporter::new(epoch, 3);
        for n in 0..1_500u16 {
            reporter.arrived(epoch + Duration::from_micros(u64::from(n) * 20), n);
        }
        let reports = reporter.poll(epoch + INTERVAL);
        assert!(reports.iter().all(|report| report.len() < 1_200));
        let numbers: Vec<u16> = reports.iter().flat_map(|report| told(report)).map(|(n, _)| n).collect();
        assert_eq!(numbers, (0..1_500).collect::<Vec<u16>>());
    }
}
