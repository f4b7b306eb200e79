//! Pings between the reports: where the link is what limits, a fall of it shows in an answer that is late before it can show
//! in any report, and sound stands behind all that has left meanwhile.
//!
//! A ping is answered at once (a report waits for its turn), so it can be foretold when: after what others lately took, and
//! what stood before it on the link. Nothing that can wait is sent from that moment on, until an answer is in time again. It
//! bears on nothing else: what the link carries, reports tell.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::downlink::WIRE_OVERHEAD_BYTES;
use crate::stun::PING_LEN;

/// No more than this share of the estimate is spent on pings.
const SHARE: f64 = 0.012;
/// Of which so many may be owed at once, or be saved.
const BURST: f64 = 4.0;
/// So seldom they would tell no more than reports do.
const SELDOM: Duration = Duration::from_millis(50);
/// While pictures are held back, what is left of the link is the sound's.
const HELD_INTERVAL: Duration = Duration::from_millis(60);
/// Without pictures there is nothing to hold back.
const WITHOUT_PICTURES: Duration = Duration::from_millis(500);
/// Later than usual by so much, and so many mean deviations (RFC 6298 §2.3 has four as well).
const SLACK: Duration = Duration::from_millis(2);
const DEVIATIONS: u32 = 4;
/// Of so many answers the newest counts for one.
const WEIGHT: u32 = 16;
/// What is usual is not known before.
const LEARNING: u32 = 24;
/// An answer that has not come is no more waited for than that: it is lost, or reports tell by now.
const PATIENCE: Duration = Duration::from_millis(300);
/// Where answers vary by more, reports tell as soon: pings are few then, and hold nothing back.
const VAGUE: Duration = Duration::from_millis(15);
const VAGUE_FACTOR: u32 = 10;
/// If answers stay late for so long, this is how the link is now.
const RESIGNED: Duration = Duration::from_millis(400);
const MAX_OPEN: usize = 32;

#[derive(Clone, Copy)]
struct Open {
    left: Instant,
    /// What stood before it on the link then, as far as it was sent here.
    behind: Duration,
}

#[derive(Default)]
pub struct Pings {
    is_on: bool,
    rate_bps: u64,
    /// What is on the link of our own, at that moment.
    queued_bytes: f64,
    queued: Option<Instant>,
    open: VecDeque<Open>,
    /// How long answers take without the queue that is of our own.
    mean: Duration,
    deviation: Duration,
    heard: u32,
    last: Option<Instant>,
    /// Pings that may leave, at that moment.
    credit: f64,
    credited: Option<Instant>,
    /// A picture's packet has left since the last ping.
    has_pictured: bool,
    pictured: Option<Instant>,
    /// If the newest answer was late: from when it came until what it stood behind has left, too.
    late: Option<Range<Instant>>,
    late_since: Option<Instant>,
}

impl Pings {
    /// Whether the link limits what is sent, and bits a second that it is believed to carry.
    pub fn set(&mut self, is_on: bool, rate_bps: u64) {
        if self.is_on && !is_on {
            *self = Self::default();
        }
        (self.is_on, self.rate_bps) = (is_on, rate_bps.max(1));
    }

    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Something has left. `bytes`: on the wire.
    #[inline]
    pub fn sent(&mut self, now: Instant, bytes: usize, is_picture: bool) {
        if !self.is_on {
            return;
        }
        self.queued_bytes = self.queued_at(now) + bytes as f64;
        self.queued = Some(now);
        if is_picture {
            (self.pictured, self.has_pictured) = (Some(now), true);
        }
    }

    fn queued_at(&self, now: Instant) -> f64 {
        let since = self.queued.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        (self.queued_bytes - since.as_secs_f64() * self.rate_bps as f64 / 8.0).max(0.0)
    }

    /// There is something that could be held back.
    pub fn is_looking(&self, now: Instant) -> bool {
        self.is_on && self.pictured.is_some_and(|at| now.saturating_duration_since(at) < WITHOUT_PICTURES)
    }

    /// A ping should leave now. `least`: time between two.
    pub fn is_due(&mut self, now: Instant, least: Duration) -> bool {
        let per_second = SHARE * self.rate_bps.max(1) as f64 / 8.0 / (PING_LEN + WIRE_OVERHEAD_BYTES) as f64;
        if !self.is_looking(now) || per_second * SELDOM.as_secs_f64() < 1.0 {
            return false;
        }
        let since = self.credited.replace(now).map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.credit = (self.credit + since.as_secs_f64() * per_second).min(BURST);
        let is_held = self.hold(true).is_some_and(|hold| hold.contains(&now));
        let interval = match is_held {
            true => HELD_INTERVAL,
            false if self.is_vague() => least * VAGUE_FACTOR,
            false => least,
        };
        let has_rested = self.last.is_none_or(|at| now.saturating_duration_since(at) >= interval);
        has_rested && (is_held || self.has_pictured && self.credit >= 1.0)
    }

    /// It has left.
    pub fn pinged(&mut self, now: Instant) {
        let behind = Duration::from_secs_f64(self.queued_at(now) * 8.0 / self.rate_bps.max(1) as f64);
        if self.open.len() >= MAX_OPEN {
            self.open.pop_front();
        }
        self.open.push_back(Open { left: now, behind });
        self.last = Some(now);
        self.credit -= 1.0;
        self.sent(now, PING_LEN + WIRE_OVERHEAD_BYTES, false);
        self.has_pictured = false;
    }

    /// The one that left at `left` is answered. Those before it are lost, or overtaken.
    pub fn answered(&mut self, now: Instant, left: Instant) {
        let Some(index) = self.open.iter().position(|ping| ping.left == left) else { return };
        let Open { behind, .. } = self.open[index];
        self.open.drain(..=index);
        let took = now.saturating_duration_since(left).saturating_sub(behind);
        let usual = self.usual();
        let is_late = self.heard >= LEARNING && took > usual;
        self.late = is_late.then(|| now..now + (took.saturating_sub(self.mean) * 2).min(PATIENCE));
        let late_since = self.late_since.filter(|_| is_late).unwrap_or(now);
        self.late_since = is_late.then_some(late_since);
        if self.heard == 0 || now.saturating_duration_since(late_since) > RESIGNED {
            (self.heard, self.mean, self.deviation) = (0, took, took / 2);
            (self.late, self.late_since) = (None, None);
        }
        // A fall must not become usual as it comes.
        let took = if is_late { took.min(usual + SLACK) } else { took };
        self.deviation = (self.deviation * (WEIGHT - 1) + self.mean.abs_diff(took)) / WEIGHT;
        self.mean = (self.mean * (WEIGHT - 1) + took) / WEIGHT;
        self.heard += 1;
    }

    /// A report tells of a packet that left at `left`: what is older has arrived before it, and its answer is lost if it does
    /// not come.
    pub fn overtaken(&mut self, left: Instant) {
        while self.open.front().is_some_and(|ping| ping.left < left) {
            self.open.pop_front();
        }
    }

    fn is_vague(&self) -> bool {
        self.deviation * DEVIATIONS > VAGUE
    }

    fn usual(&self) -> Duration {
        self.mean + self.deviation * DEVIATIONS + SLACK
    }

    /// Nothing that can wait should be sent within this time.
    ///
    /// `is_missed`: an answer that has not come yet was probably not lost.
    pub fn hold(&self, is_missed: bool) -> Option<Range<Instant>> {
        if self.is_vague() {
            return None;
        }
        let oldest = self.open.front().filter(|_| is_missed && self.heard >= LEARNING);
        let missing = oldest.map(|ping| {
            let due = ping.left + ping.behind + self.usual();
            due..due + PATIENCE
        });
        match (self.late.clone(), missing) {
            (Some(late), Some(missing)) if missing.start <= late.end => {
                Some(late.start.min(missing.start)..missing.end)
            }
            (late, missing) => late.or(missing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::origin;

    const MS: Duration = Duration::from_millis(1);
    const LEAST: Duration = Duration::from_millis(10);

    /// 1 Mbit/s, on which pictures of a small packet leave each 20 ms, and pings with them; answers take 40 ms, and `jitter` of
    /// the number of the ping more.
    fn watched(start: Instant, jitter: impl Fn(u32) -> Duration) -> (Pings, Instant) {
        let (mut pings, mut now) = (Pings::default(), start);
        pings.set(true, 1_000_000);
        let mut asked: VecDeque<(Instant, Instant)> = VecDeque::new();
        for number in 0..60 {
            now += 20 * MS;
            while let Some(&(left, back)) = asked.front().filter(|(_, back)| *back <= now) {
                asked.pop_front();
                pings.answered(back, left);
            }
            pings.sent(now, 25, true);
            pings.pinged(now);
            asked.push_back((now, now + 40 * MS + jitter(number)));
        }
        for (left, back) in asked {
            now = back;
            pings.answered(back, left);
        }
        pings.credit = BURST;
        (pings, now)
    }

    #[test]
    fn an_answer_that_is_not_there_when_due_holds_back_until_it_comes() {
        let (mut pings, now) = watched(origin(), |_| Duration::ZERO);
        assert_eq!(pings.hold(true), None);
        pings.pinged(now);
        let due = now + 40 * MS;
        assert!(!pings.hold(true).unwrap().contains(&due));
        assert!(pings.hold(true).unwrap().contains(&(due + 4 * MS)));
        assert_eq!(pings.hold(false), None, "it may be lost");
        // A tenth of a second late: of what stood before it as much again stands behind it.
        pings.answered(now + 140 * MS, now);
        let hold = pings.hold(false).unwrap();
        assert!(hold.contains(&(now + 300 * MS)) && !hold.contains(&(now + 350 * MS)), "{:?}", hold.end - now);
        pings.pinged(now + 200 * MS);
        pings.answered(now + 240 * MS, now + 200 * MS);
        assert_eq!(pings.hold(true), None, "in time again");
    }

    #[test]
    fn what_stands_before_it_of_our_own_is_foretold() {
        let (mut pings, now) = watched(origin(), |_| Duration::ZERO);
        pings.sent(now, 2_500, true);
        pings.pinged(now + 5 * MS);
        let due = pings.hold(true).unwrap().start - now;
        assert!((59 * MS..66 * MS).contains(&due), "5 and 40, and 15 of the queue: {due:?}");
        pings.answered(now + 60 * MS, now + 5 * MS);
        assert_eq!(pings.hold(true), None);
    }

    #[test]
    fn one_that_was_lost_is_forgotten_with_the_next_and_with_a_report() {
        let (mut pings, now) = watched(origin(), |_| Duration::ZERO);
        pings.pinged(now);
        pings.pinged(now + 20 * MS);
        pings.answered(now + 60 * MS, now + 20 * MS);
        assert_eq!(pings.hold(true), None);
        pings.answered(now + 90 * MS, now);
        assert_eq!(pings.hold(true), None, "overtaken");
        pings.pinged(now + 100 * MS);
        pings.overtaken(now + 100 * MS);
        assert!(pings.hold(true).is_some(), "what left with it says nothing of it");
        pings.overtaken(now + 101 * MS);
        assert_eq!(pings.hold(true), None);
    }

    #[test]
    fn a_link_that_stays_late_is_learnt_anew() {
        let (mut pings, start) = watched(origin(), |_| Duration::ZERO);
        let mut held = Duration::ZERO;
        for number in 0..100 {
            let left = start + HELD_INTERVAL * number;
            pings.pinged(left);
            pings.answered(left + 120 * MS, left);
            held += if pings.hold(true).is_some() { HELD_INTERVAL } else { Duration::ZERO };
        }
        assert!((240 * MS..500 * MS).contains(&held), "{held:?}");
        let left = start + HELD_INTERVAL * 100;
        pings.pinged(left);
        let due = pings.hold(true).unwrap().start - left;
        assert!((120 * MS..150 * MS).contains(&due), "{due:?}");
    }

    #[test]
    fn answers_that_vary_hold_nothing_back_and_are_asked_for_seldom() {
        let (mut pings, now) = watched(origin(), |number| if number % 2 == 0 { 20 * MS } else { Duration::ZERO });
        pings.pinged(now);
        assert_eq!(pings.hold(true), None);
        pings.sent(now, 25, true);
        pings.is_due(now, LEAST);
        pings.sent(now + 90 * MS, 25, true);
        assert!(!pings.is_due(now + 90 * MS, LEAST));
        pings.sent(now + 100 * MS, 25, true);
        assert!(pings.is_due(now + 100 * MS, LEAST));
    }

    #[test]
    fn pings_go_with_pictures_and_cost_a_small_share() {
        let start = origin();
        let sent = |rate_bps: u64, is_picture: bool| {
            let (mut pings, mut sent) = (Pings::default(), 0);
            pings.set(true, rate_bps);
            for number in 0..2_000 {
                let now = start + 5 * MS * number;
                pings.sent(now, 100, is_picture);
                if pings.is_due(now, LEAST) {
                    pings.pinged(now);
                    sent += 1;
                    pings.answered(now + MS, now);
                }
            }
            sent
        };
        assert_eq!(sent(1_000_000, false), 0, "there is nothing to hold back");
        let at_one_megabit = sent(1_000_000, true);
        assert!((260..=272).contains(&at_one_megabit), "1.2 % in ten seconds: {at_one_megabit}");
        assert!((990..=1_001).contains(&sent(10_000_000, true)), "no more often than is set");
        assert_eq!(sent(500_000, true), 0, "fewer would tell no more than reports");
    }

    #[test]
    fn nothing_is_held_before_it_is_known_what_is_usual_nor_where_the_link_does_not_limit() {
        let mut pings = Pings::default();
        let now = origin();
        pings.set(true, 1_000_000);
        pings.sent(now, 100, true);
        pings.pinged(now);
        assert_eq!(pings.hold(true), None);
        let (mut pings, now) = watched(now, |_| Duration::ZERO);
        pings.pinged(now);
        assert!(pings.hold(true).is_some());
        pings.set(false, 0);
        assert!(pings.hold(true).is_none() && !pings.is_looking(now));
    }
}
