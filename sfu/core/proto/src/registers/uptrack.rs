//! Registers of one received stream: what came, what is missing, what was asked for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::ids::SeqNo;
use crate::rtcp::Arrival;

/// Receiver statistics of one stream (RFC 3550 §6.4.1, appendix A).
#[derive(Debug)]
pub struct ReceiveStats {
    clock_rate: u32,
    first: Option<u64>,
    highest: u64,
    received: u64,
    jitter: f32,
    transit: Option<i64>,
    base: Option<Instant>,
    interval: (u64, u64),
    report: (u64, u64),
    last_sr: Option<(u32, Instant)>,
}

/// Figures of one report block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportFigures {
    pub fraction_lost: u8,
    pub cumulative_lost: i32,
    pub highest_seq: u32,
    pub jitter: u32,
    pub last_sr: u32,
    pub delay_since_last_sr: u32,
}

impl ReceiveStats {
    pub fn new(clock_rate: u32) -> Self {
        Self {
            clock_rate,
            first: None,
            highest: 0,
            received: 0,
            jitter: 0.0,
            transit: None,
            base: None,
            interval: (0, 0),
            report: (0, 0),
            last_sr: None,
        }
    }

    /// The extended number nearest to the highest seen.
    pub fn extend(&self, seq: u16) -> SeqNo {
        match self.first {
            // One cycle of head room for packets from before the first.
            None => SeqNo((1 << 16) | u64::from(seq)),
            Some(_) => {
                SeqNo(self.highest.saturating_add_signed(i64::from(seq.wrapping_sub(self.highest as u16) as i16)))
            }
        }
    }

    pub fn on_packet(&mut self, now: Instant, seq: SeqNo, timestamp: u32) {
        self.received += 1;
        let base = *self.base.get_or_insert(now);
        if self.first.is_none() {
            self.first = Some(seq.0);
            self.highest = seq.0;
            self.interval = (seq.0 - 1, 0);
            self.report = (seq.0 - 1, 0);
        }
        self.highest = self.highest.max(seq.0);
        let arrival =
            (now.saturating_duration_since(base).as_micros() as u64 * u64::from(self.clock_rate) / 1_000_000) as u32;
        let transit = i64::from(arrival.wrapping_sub(timestamp) as i32);
        if let Some(before) = self.transit.replace(transit) {
            let difference = (transit - before).unsigned_abs().min(u64::from(self.clock_rate)) as f32;
            self.jitter += (difference - self.jitter) / 16.0;
        }
    }

    pub fn on_sender_report(&mut self, now: Instant, ntp: u64) {
        self.last_sr = Some(((ntp >> 16) as u32, now));
    }

    pub fn lost(&self) -> u64 {
        self.first.map_or(0, |first| (self.highest + 1 - first).saturating_sub(self.received))
    }

    pub fn jitter_ms(&self) -> f32 {
        self.jitter * 1_000.0 / self.clock_rate.max(1) as f32
    }

    pub fn begin_interval(&mut self) {
        self.interval = (self.highest, self.received);
    }

    /// Packets expected and lost since [`Self::begin_interval`].
    pub fn interval_loss(&self) -> (u64, u64) {
        if self.first.is_none() {
            return (0, 0);
        }
        let expected = self.highest.saturating_sub(self.interval.0);
        (expected, expected.saturating_sub(self.received.saturating_sub(self.interval.1)))
    }

    /// The next report block's figures; `None` before the first packet.
    pub fn report(&mut self, now: Instant) -> Option<ReportFigures> {
        self.first?;
        let expected = self.highest.saturating_sub(self.report.0);
        let lost = expected.saturating_sub(self.received - self.report.1);
        self.report = (self.highest, self.received);
        let (last_sr, delay) = self.last_sr.map_or((0, 0), |(ntp, at)| {
            (ntp, (now.saturating_duration_since(at).as_micros() * 65_536 / 1_000_000) as u32)
        });
        Some(ReportFigures {
            fraction_lost: (lost * 256).checked_div(expected).unwrap_or(0).min(255) as u8,
            cumulative_lost: self.lost().min(0x7f_ffff) as i32,
            highest_seq: (self.highest - (1 << 16)) as u32,
            jitter: self.jitter as u32,
            last_sr,
            delay_since_last_sr: delay,
        })
    }
}

/// Most numbers that may be missing at once; a larger jump is a new beginning.
const MAX_MISSING: u64 = 1_000;
const MAX_NACKS: u8 = 10;
/// A retransmission is of what has come or is missing; a sender's padding may repeat what was lost at the very end,
/// which lies as far ahead as the packets of a picture.
const MAX_AHEAD: u64 = 100;
const FIRST_NACK_AFTER: Duration = Duration::from_millis(10);

/// Numbers still missing and when each was last asked for (RFC 4585 §6.2.1).
///
/// Kept as runs, so that a gap costs the same whatever its length, and never more than the last [`MAX_MISSING`] numbers,
/// also of a stream whose publisher is never asked for anything.
#[derive(Debug, Default)]
pub struct NackRegister {
    highest: Option<u64>,
    /// By their first numbers.
    missing: BTreeMap<u64, Run>,
    /// Something was too old to be asked for again since the last [`Self::take`].
    gave_up: bool,
}

/// Numbers in a row of which all is the same.
#[derive(Clone, Copy, Debug)]
struct Run {
    last: u64,
    at: Instant,
    tries: u8,
}

/// What a packet is to the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    New,
    /// One that was missing.
    Recovered,
    /// Had it, or gave it up.
    Useless,
}

impl NackRegister {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn on_packet(&mut self, now: Instant, seq: SeqNo) -> Arrived {
        let Some(highest) = self.highest else {
            self.highest = Some(seq.0);
            return Arrived::New;
        };
        if seq.0 > highest {
            if seq.0 - highest > MAX_MISSING {
                self.missing.clear();
                self.gave_up = true;
            } else if seq.0 - highest > 1 {
                self.missing.insert(highest + 1, Run { last: seq.0 - 1, at: now, tries: 0 });
            }
            self.highest = Some(seq.0);
            self.forget_before(seq.0.saturating_sub(MAX_MISSING));
            return Arrived::New;
        }
        if self.remove(seq.0) { Arrived::Recovered } else { Arrived::Useless }
    }

    /// Takes a packet that is sent again. One that is far ahead belongs to a numbering that is over: it would take
    /// another's place, or have all that comes count as old.
    pub fn on_rtx(&mut self, now: Instant, seq: SeqNo) -> Arrived {
        match self.highest {
            Some(highest) if seq.0 > highest + MAX_AHEAD => Arrived::Useless,
            _ => self.on_packet(now, seq),
        }
    }

    fn forget_before(&mut self, oldest: u64) {
        while let Some(run) = self.missing.first_entry()
            && *run.key() < oldest
        {
            let run = run.remove();
            self.gave_up = true;
            if run.last >= oldest {
                self.missing.insert(oldest, run);
            }
        }
    }

    /// Whether it was missing.
    fn remove(&mut self, seq: u64) -> bool {
        let Some((&first, &run)) = self.missing.range(..=seq).next_back().filter(|(_, run)| seq <= run.last) else {
            return false;
        };
        if first == seq {
            self.missing.remove(&first);
        } else {
            self.missing.insert(first, Run { last: seq - 1, ..run });
        }
        if seq < run.last {
            self.missing.insert(seq + 1, run);
        }
        true
    }

    /// The highest number that has come.
    pub fn highest(&self) -> Option<SeqNo> {
        self.highest.map(SeqNo)
    }

    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && !self.gave_up
    }

    /// Numbers to ask for now, oldest first; none sooner than `rtt` after the last time. True if one was given up.
    pub fn take(&mut self, now: Instant, rtt: Duration, out: &mut Vec<u16>) -> bool {
        let mut gave_up = std::mem::take(&mut self.gave_up);
        self.missing.retain(|first, run| {
            let pause = if run.tries == 0 { FIRST_NACK_AFTER } else { rtt.max(Duration::from_millis(20)) };
            if now.saturating_duration_since(run.at) < pause {
                return true;
            }
            if run.tries >= MAX_NACKS {
                gave_up = true;
                return false;
            }
            run.at = now;
            run.tries += 1;
            out.extend((*first..=run.last).map(|seq| seq as u16));
            true
        });
        gave_up
    }
}

/// How often one stream may be asked for key frames.
#[derive(Clone, Copy, Debug)]
pub struct KeyframePace {
    /// Between two requests.
    pub interval: Duration,
    /// The same, where somebody waits for his first picture.
    pub first_picture: Duration,
    /// So many requests for first pictures beyond one an `interval`; they are earned back one an `interval`.
    pub burst: u32,
}

/// Throttle of key-frame requests to one stream: the first at once, later ones gathered; none where one comes by itself.
#[derive(Debug)]
pub struct KeyframeRequest {
    pace: KeyframePace,
    last: Option<Instant>,
    is_wanted: bool,
    /// By somebody who sees nothing yet.
    is_first_picture: bool,
    /// What is wanted was asked for.
    is_asked: bool,
    /// All requests so far, one an interval, last until then.
    spent_until: Option<Instant>,
    /// The last key frame, and how long after its predecessor it came by itself.
    seen: Option<Instant>,
    period: Option<Duration>,
    /// A key frame that comes by itself is awaited until then.
    awaited: Option<Instant>,
}

/// A key frame that comes by itself this soon is awaited.
const NATURAL_WAIT: Duration = Duration::from_millis(300);
/// Encoders with a period keep it this well.
const PERIOD_SLACK: Duration = Duration::from_millis(100);

impl KeyframeRequest {
    pub fn new(pace: KeyframePace) -> Self {
        Self {
            pace,
            last: None,
            is_wanted: false,
            is_first_picture: false,
            is_asked: false,
            spent_until: None,
            seen: None,
            period: None,
            awaited: None,
        }
    }

    /// Whether to ask the publisher now; otherwise [`Self::poll`] says when.
    pub fn request(&mut self, now: Instant, is_first_picture: bool) -> bool {
        if !self.is_wanted {
            self.is_wanted = true;
            let next = self.seen.zip(self.period).map(|(seen, period)| seen + period);
            self.awaited =
                next.filter(|at| *at + PERIOD_SLACK > now && *at < now + NATURAL_WAIT).map(|at| at + PERIOD_SLACK);
        }
        self.is_first_picture |= is_first_picture;
        self.poll(now)
    }

    /// When to ask on behalf of somebody who waits for his first picture; for all others it is enough to poll now and then.
    pub fn hurries(&self) -> Option<Instant> {
        self.due().filter(|_| self.is_wanted && self.is_first_picture && !self.is_asked)
    }

    /// From when on the publisher may be asked; `None`: at once.
    fn due(&self) -> Option<Instant> {
        let KeyframePace { interval, first_picture, burst } = self.pace;
        let allowed = self.last.map(|last| {
            // What was asked for may be on its way: it is not asked for again any sooner.
            if !self.is_first_picture || self.is_asked {
                return last + interval;
            }
            let earned = self.spent_until.and_then(|at| at.checked_sub(interval * burst));
            earned.map_or(last, |at| at.max(last)).max(last + first_picture).min(last + interval)
        });
        allowed.max(self.awaited)
    }

    pub fn poll(&mut self, now: Instant) -> bool {
        if !self.is_wanted || self.due().is_some_and(|at| now < at) {
            return false;
        }
        self.last = Some(now);
        self.spent_until = Some(self.spent_until.map_or(now, |at| at.max(now)) + self.pace.interval);
        self.is_asked = true;
        self.awaited = None;
        true
    }

    pub fn on_keyframe(&mut self, now: Instant) {
        let was_asked = self.is_wanted && self.awaited.is_none();
        let since = self.seen.replace(now).map(|at| now.saturating_duration_since(at));
        // Two unasked ones in a row make a period; one that was asked for breaks the count.
        self.period = since.filter(|since| !was_asked && *since > self.pace.interval);
        self.is_wanted = false;
        self.is_first_picture = false;
        self.is_asked = false;
        self.awaited = None;
    }
}

/// Arrivals of transport-wide numbered packets until the next feedback.
#[derive(Debug, Default)]
pub struct TwccRecorder {
    base: Option<Instant>,
    highest: u64,
    told: u64,
    arrivals: Vec<Arrival>,
    pub feedback_count: u8,
}

/// More than any link brings between two feedbacks.
const MAX_ARRIVALS: usize = 8_192;

impl TwccRecorder {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn record(&mut self, now: Instant, seq: u16) {
        let seq = match self.base {
            None => (1 << 16) | u64::from(seq),
            Some(_) => self.highest.saturating_add_signed(i64::from(seq.wrapping_sub(self.highest as u16) as i16)),
        };
        let base = *self.base.get_or_insert(now);
        self.highest = self.highest.max(seq);
        if self.arrivals.len() < MAX_ARRIVALS && seq > self.told {
            let at_us = now.saturating_duration_since(base).as_micros() as i64;
            self.arrivals.push(Arrival { seq: SeqNo(seq), at_us });
        }
    }

    /// The last number that was told.
    pub fn told(&self) -> Option<SeqNo> {
        (self.told > 0).then_some(SeqNo(self.told))
    }

    /// What arrived before `end`, by rising number, none twice.
    pub fn arrivals(&mut self, end: Option<Instant>) -> &[Arrival] {
        self.arrivals.sort_unstable_by_key(|a| a.seq.0);
        self.arrivals.dedup_by_key(|a| a.seq.0);
        let (Some(end), Some(base)) = (end, self.base) else { return &self.arrivals };
        let end_us = end.saturating_duration_since(base).as_micros() as i64;
        let count = self.arrivals.iter().take_while(|arrival| arrival.at_us < end_us).count();
        &self.arrivals[..count]
    }

    /// The first `count` of them are told.
    pub fn forget(&mut self, count: usize) {
        if let Some(last) = self.arrivals.get(count.wrapping_sub(1)) {
            self.told = last.seq.0;
        }
        self.arrivals.drain(..count.min(self.arrivals.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_missing_is_asked_for_by_the_round_trip_and_then_given_up() {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let rtt = Duration::from_millis(50);
        let mut nacks = NackRegister::new();
        let take = |nacks: &mut NackRegister, ms: u64| {
            let mut asked = Vec::new();
            let gave_up = nacks.take(at(ms), rtt, &mut asked);
            (asked, gave_up)
        };
        for seq in [65_534, 65_536, 65_539] {
            assert_eq!(nacks.on_packet(at(0), SeqNo(seq)), Arrived::New);
        }
        assert_eq!(take(&mut nacks, 9), (vec![], false), "it may only be late");
        assert_eq!(nacks.on_packet(at(9), SeqNo(65_537)), Arrived::Recovered);
        assert_eq!(take(&mut nacks, 10), (vec![65_535, 2], false));
        assert_eq!(take(&mut nacks, 59), (vec![], false), "the answer is on its way");
        assert_eq!(take(&mut nacks, 60), (vec![65_535, 2], false));
        assert_eq!(nacks.on_packet(at(100), SeqNo(65_535)), Arrived::Recovered);
        assert_eq!(nacks.on_packet(at(101), SeqNo(65_535)), Arrived::Useless, "it has come twice");
        for again in 2..u64::from(MAX_NACKS) {
            assert_eq!(take(&mut nacks, 10 + 50 * again), (vec![2], false), "{again}");
        }
        assert_eq!(take(&mut nacks, 600), (vec![], true), "only now is a key frame asked for");
        assert_eq!(take(&mut nacks, 650), (vec![], false));
        assert!(nacks.is_complete());
        assert_eq!(nacks.on_packet(at(700), SeqNo(65_538)), Arrived::Useless, "too late");
    }

    #[test]
    fn what_is_sent_again_lies_never_far_ahead() {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        let now = Instant::now();
        let mut nacks = NackRegister::new();
        nacks.on_packet(now, SeqNo(70_000));
        for (seq, arrived) in [
            (70_002, Arrived::New),
            (70_001, Arrived::Recovered),
            (70_001, Arrived::Useless),
            (70_103, Arrived::Useless),
            (80_000, Arrived::Useless),
            (70_102, Arrived::New),
            (70_050, Arrived::Recovered),
        ] {
            assert_eq!(nacks.on_rtx(now, SeqNo(seq)), arrived, "{seq}");
        }
        assert_eq!(nacks.on_packet(now, SeqNo(70_103)), Arrived::New, "nothing is held back by it");
    }

    /// One by one, as a register without runs would have it.
    #[derive(Default)]
    struct Plain {
        highest: Option<u64>,
        missing: BTreeMap<u64, (Instant, u8)>,
    }

    impl Plain {
        fn on_packet(&mut self, now: Instant, seq: u64) -> Arrived {
            let highest = self.highest.unwrap_or(seq - 1);
            if seq <= highest {
                return if self.missing.remove(&seq).is_some() { Arrived::Recovered } else { Arrived::Useless };
            }
            if seq - highest > MAX_MISSING {
                self.missing.clear();
            } else {
                self.missing.extend((highest + 1..seq).map(|seq| (seq, (now, 0))));
            }
            self.missing.retain(|missing, _| seq - missing <= MAX_MISSING);
            self.highest = Some(seq);
            Arrived::New
        }

        fn take(&mut self, now: Instant, rtt: Duration, out: &mut Vec<u16>) {
            self.missing.retain(|seq, (at, tries)| {
                let pause = if *tries == 0 { FIRST_NACK_AFTER } else { rtt.max(Duration::from_millis(20)) };
                let is_due = now.saturating_duration_since(*at) >= pause;
                if is_due && *tries < MAX_NACKS {
                    (*at, *tries) = (now, *tries + 1);
                    out.push(*seq as u16);
                    return true;
                }
                !is_due
            });
        }
    }

    proptest! {
        /// What is missing and asked for is the same as number by number, whatever comes in whatever order.
        #[test]
        fn runs_are_the_numbers_they_stand_for(
            steps in proptest::collection::vec((-1_200i64..1_200, 0u64..40, any::<bool>()), 1..300),
        ) {
            #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
            let mut now = Instant::now();
            let rtt = Duration::from_millis(30);
            let (mut runs, mut plain) = (NackRegister::new(), Plain::default());
            let mut seq = 100_000;
            for (step, pause, asks) in steps {
                now += Duration::from_millis(pause);
                // Mostly a little ahead, sometimes far ahead or behind.
                let near = if step % 3 == 0 { step } else { step % 7 };
                let came = (seq as i64 + near).max(1) as u64;
                seq = seq.max(came);
                prop_assert_eq!(runs.on_packet(now, SeqNo(came)), plain.on_packet(now, came));
                if asks {
                    let (mut asked, mut expected) = (Vec::new(), Vec::new());
                    runs.take(now, rtt, &mut asked);
                    plain.take(now, rtt, &mut expected);
                    prop_assert_eq!(asked, expected);
                    prop_assert_eq!(runs.is_complete(), plain.missing.is_empty());
                }
            }
        }
    }

    /// S-23: a microphone is never asked for anything, and its losses are remembered all the same.
    #[test]
    fn what_is_never_asked_for_does_not_grow() {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        let now = Instant::now();
        for step in [2, 3, 999, 1_000] {
            let mut nacks = NackRegister::new();
            for packet in 0..100_000u64 {
                nacks.on_packet(now, SeqNo(70_000 + packet * step));
            }
            assert!(
                nacks.missing.len() as u64 <= MAX_MISSING / step + 1,
                "{} runs, every {step}th came",
                nacks.missing.len()
            );
        }
    }

    #[test]
    fn a_key_frame_that_comes_by_itself_soon_is_awaited() {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut request = KeyframeRequest::new(PACE);
        assert!(request.request(at(0), false));
        request.on_keyframe(at(100));
        for ms in [2_100, 4_100, 6_100] {
            request.on_keyframe(at(ms));
        }
        assert!(!request.request(at(7_900), false), "one comes at 8 100");
        assert!(!request.request(at(8_100), false));
        request.on_keyframe(at(8_110));
        assert!(request.request(at(8_500), false), "the next one is far");
        request.on_keyframe(at(8_600));
        assert!(!request.poll(at(20_000)));
        assert!(request.request(at(10_090), false), "an asked one breaks the period");
        request.on_keyframe(at(10_200));
        request.on_keyframe(at(12_200));
        assert!(!request.request(at(14_000), false));
        assert!(request.poll(at(14_301)), "it did not come");
    }
    const PACE: KeyframePace =
        KeyframePace { interval: Duration::from_secs(1), first_picture: Duration::from_millis(300), burst: 4 };

    /// Times in milliseconds at which requests leave, when somebody wants a key frame every 20 ms and each comes 50 ms after.
    fn asked(first_picture: bool, during: std::ops::Range<u64>) -> Vec<u64> {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        let start = Instant::now();
        let mut request = KeyframeRequest::new(PACE);
        let (mut asked, mut coming) = (Vec::new(), None);
        for ms in (during.start..during.end).step_by(10) {
            let now = start + Duration::from_millis(ms);
            if coming == Some(ms) {
                request.on_keyframe(now);
            }
            let wants = ms % 20 == 0;
            if wants && request.request(now, first_picture) || request.poll(now) {
                asked.push(ms);
                coming = Some(ms + 50);
            }
        }
        asked
    }

    #[test]
    fn first_pictures_hurry_for_a_while_and_everything_else_keeps_the_interval() {
        assert_eq!(asked(false, 0..3_500), [0, 1_000, 2_000, 3_000]);
        let hurried = asked(true, 0..30_000);
        assert_eq!(hurried[..5], [0, 300, 600, 900, 1_200], "everybody is waited for together");
        assert!(hurried.windows(2).all(|pair| pair[1] - pair[0] >= 300));
        assert!(hurried.len() <= 30 + 1 + PACE.burst as usize, "in the long run one an interval: {hurried:?}");
        assert!(hurried.windows(2).all(|pair| pair[1] - pair[0] <= 1_020), "and never less");
    }

    #[test]
    fn what_was_asked_for_is_not_asked_for_again_before_the_interval_is_over() {
        #[expect(clippy::disallowed_methods, reason = "the base of virtual time")]
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut request = KeyframeRequest::new(PACE);
        assert!(request.request(at(0), true));
        assert!(!request.request(at(400), true), "it may be on its way");
        assert!(!request.poll(at(990)) && request.poll(at(1_000)));
        request.on_keyframe(at(1_050));
        assert!(!request.request(at(1_060), true), "another one, who came after it");
        assert_eq!(request.hurries(), Some(at(1_300)));
    }
}
