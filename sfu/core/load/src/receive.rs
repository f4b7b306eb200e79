//! The receive side of one stream: what came, what came twice or late, what is missing and asked for again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use callyard_proto::ids::Ssrc;
use callyard_proto::rtcp::ReportBlock;

/// Numbers further back than this are forgotten; what comes of them counts as a duplicate.
const WINDOW: u64 = 2_048;
/// Missing packets kept; a longer gap is a new start of the publisher, not loss that could be repaired.
const MAX_MISSING: usize = 512;
const MAX_TRIES: u8 = 10;
/// Reordering within this time is none of NACK's business.
const FIRST_NACK_AFTER: Duration = Duration::from_millis(10);
const NEXT_NACK_AFTER: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    New,
    Reordered,
    Duplicate,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    seq: u64,
    tries: u8,
    next: Instant,
}

/// Counts of one window.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    pub received: u64,
    pub bytes: u64,
    pub recovered: u64,
    pub duplicates: u64,
    pub reordered: u64,
}

pub(crate) struct ReceiveStream {
    pub ssrc: u32,
    pub is_video: bool,
    pub window: Window,
    clock_rate: u32,
    base: Instant,
    first: u64,
    highest: u64,
    /// Where this window began.
    window_start: u64,
    seen: Box<[u64; (WINDOW / 64) as usize]>,
    missing: VecDeque<Missing>,
    unique: u64,
    transit: Option<i64>,
    jitter: f32,
    reported: (u64, u64),
    last_sr: Option<(u32, Instant)>,
}

impl ReceiveStream {
    pub(crate) fn new(now: Instant, ssrc: u32, is_video: bool, clock_rate: u32, seq: u16) -> Self {
        // One cycle of head room for packets from before the first.
        let first = (1 << 16) | u64::from(seq);
        Self {
            ssrc,
            is_video,
            window: Window::default(),
            clock_rate,
            base: now,
            first,
            highest: first - 1,
            window_start: first,
            seen: Box::new([0; (WINDOW / 64) as usize]),
            missing: VecDeque::new(),
            unique: 0,
            transit: None,
            jitter: 0.0,
            reported: (first - 1, 0),
            last_sr: None,
        }
    }

    pub(crate) fn on_packet(&mut self, now: Instant, seq: u16, timestamp: u32, len: usize, was_rtx: bool) -> Seen {
        let seq = self.highest.saturating_add_signed(i64::from(seq.wrapping_sub(self.highest as u16) as i16));
        if seq > self.highest {
            for number in (self.highest + 1..=seq).rev().take(WINDOW as usize) {
                self.mark(number, number == seq);
            }
            let gap = self.highest + 1..seq;
            if gap.end - gap.start <= MAX_MISSING as u64 {
                self.missing.extend(gap.map(|seq| Missing { seq, tries: 0, next: now + FIRST_NACK_AFTER }));
                let surplus = self.missing.len().saturating_sub(MAX_MISSING);
                self.missing.drain(..surplus);
            }
            self.highest = seq;
            if !was_rtx {
                self.note_jitter(now, timestamp);
            }
            self.count(len, was_rtx);
            return Seen::New;
        }
        if seq < self.first || self.highest - seq >= WINDOW || self.is_marked(seq) {
            self.window.duplicates += 1;
            return Seen::Duplicate;
        }
        self.mark(seq, true);
        self.missing.retain(|m| m.seq != seq);
        self.count(len, was_rtx);
        if was_rtx {
            return Seen::New;
        }
        self.window.reordered += 1;
        Seen::Reordered
    }

    pub(crate) fn on_sender_report(&mut self, now: Instant, ntp: u64) {
        self.last_sr = Some(((ntp >> 16) as u32, now));
    }

    /// Numbers to ask for now.
    pub(crate) fn take_nacks(&mut self, now: Instant, out: &mut Vec<u16>) {
        self.missing.retain_mut(|missing| {
            if missing.next <= now && out.len() < 200 {
                out.push(missing.seq as u16);
                missing.tries += 1;
                missing.next = now + NEXT_NACK_AFTER;
            }
            missing.tries < MAX_TRIES
        });
    }

    pub(crate) fn next_nack(&self) -> Option<Instant> {
        self.missing.iter().map(|m| m.next).min()
    }

    pub(crate) fn report(&mut self, now: Instant) -> ReportBlock {
        let expected = self.highest - self.reported.0;
        let lost = expected.saturating_sub(self.unique - self.reported.1);
        self.reported = (self.highest, self.unique);
        let total = self.highest + 1 - self.first;
        let (last_sr, delay) = self.last_sr.map_or((0, 0), |(ntp, at)| {
            let delay = now.saturating_duration_since(at).as_micros() as u64 * 65_536 / 1_000_000;
            (ntp, delay as u32)
        });
        ReportBlock {
            ssrc: Ssrc(self.ssrc),
            fraction_lost: (lost * 256).checked_div(expected).unwrap_or(0).min(255) as u8,
            cumulative_lost: total.saturating_sub(self.unique).min(0x7f_ffff) as i32,
            highest_seq: (self.highest - (1 << 16)) as u32,
            jitter: self.jitter as u32,
            last_sr,
            delay_since_last_sr: delay,
        }
    }

    /// Expected and never arrived, of this window.
    pub(crate) fn expected_and_lost(&self) -> (u64, u64) {
        let expected = (self.highest + 1).saturating_sub(self.window_start);
        (expected, expected.saturating_sub(self.window.received))
    }

    pub(crate) fn begin_window(&mut self) {
        self.window = Window::default();
        self.window_start = self.highest + 1;
    }

    fn count(&mut self, len: usize, was_rtx: bool) {
        self.unique += 1;
        self.window.received += 1;
        self.window.bytes += len as u64;
        self.window.recovered += u64::from(was_rtx);
    }

    fn note_jitter(&mut self, now: Instant, timestamp: u32) {
        let since = now.saturating_duration_since(self.base).as_micros() as u64;
        let arrival = (since * u64::from(self.clock_rate) / 1_000_000) as u32;
        let transit = i64::from(arrival.wrapping_sub(timestamp) as i32);
        if let Some(before) = self.transit.replace(transit) {
            let difference = (transit - before).unsigned_abs().min(u64::from(self.clock_rate)) as f32;
            self.jitter += (difference - self.jitter) / 16.0;
        }
    }

    fn mark(&mut self, seq: u64, is_seen: bool) {
        let (word, bit) = ((seq / 64 % (WINDOW / 64)) as usize, 1 << (seq % 64));
        if is_seen {
            self.seen[word] |= bit;
        } else {
            self.seen[word] &= !bit;
        }
    }

    fn is_marked(&self, seq: u64) -> bool {
        self.seen[(seq / 64 % (WINDOW / 64)) as usize] & (1 << (seq % 64)) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "one base instant; all others are reckoned from it")]
    fn base() -> Instant {
        Instant::now()
    }

    fn stream(now: Instant, seq: u16) -> ReceiveStream {
        ReceiveStream::new(now, 1, true, 90_000, seq)
    }

    #[test]
    fn loss_repair_duplicates_and_reordering_are_told_apart_across_the_wrap() {
        let now = base();
        let mut stream = stream(now, 65_533);
        let seen: Vec<Seen> = [(65_533, false), (65_534, false), (1, false), (0, false), (65_535, true), (1, false)]
            .into_iter()
            .map(|(seq, rtx)| stream.on_packet(now, seq, 0, 10, rtx))
            .collect();
        use Seen::{Duplicate, New, Reordered};
        assert_eq!(seen, [New, New, New, Reordered, New, Duplicate]);
        let window = stream.window;
        assert_eq!((window.received, window.recovered, window.reordered, window.duplicates), (5, 1, 1, 1));
        assert_eq!(stream.expected_and_lost(), (5, 0));
        stream.on_packet(now, 5, 0, 10, false);
        assert_eq!(stream.expected_and_lost(), (9, 3));
        assert_eq!(stream.report(now).cumulative_lost, 3);
    }

    #[test]
    fn what_is_missing_is_asked_for_a_bounded_number_of_times() {
        let mut now = base();
        let mut stream = stream(now, 10);
        stream.on_packet(now, 10, 0, 10, false);
        stream.on_packet(now, 13, 0, 10, false);
        let mut asked = Vec::new();
        stream.take_nacks(now, &mut asked);
        assert!(asked.is_empty(), "reordering gets its time");
        for _ in 0..100 {
            now += NEXT_NACK_AFTER;
            stream.take_nacks(now, &mut asked);
        }
        assert_eq!(asked.len(), 2 * usize::from(MAX_TRIES));
        assert_eq!(stream.next_nack(), None);
    }

    #[test]
    fn a_window_counts_from_its_beginning() {
        let now = base();
        let mut stream = stream(now, 0);
        for seq in [0, 1, 4] {
            stream.on_packet(now, seq, 0, 10, false);
        }
        stream.begin_window();
        assert_eq!(stream.expected_and_lost(), (0, 0));
        stream.on_packet(now, 5, 0, 10, false);
        stream.on_packet(now, 7, 0, 10, false);
        assert_eq!(stream.expected_and_lost(), (3, 1));
    }
}
