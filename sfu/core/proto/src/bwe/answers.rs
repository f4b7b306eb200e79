//! How long answers take. A link that has suddenly become narrow keeps them waiting before any trend can be seen.
//!
//! What was sent and not yet told of grows by all that is sent meanwhile; so it is held back from the moment at which an
//! answer is later than any was lately, until answers come as they used to. That bounds the queue of a step down by the
//! time it takes to notice one, and empties it before more is put in. It says when to hold; the pacer does. An answer that
//! does not come at all is waited for where the last one has shown a queue, or nothing was lost lately: otherwise it probably
//! was itself.
//!
//! An answer that is in time may show by itself that the next ones will not be: what was told of last has come later than
//! any lately. All that was sent after it stands behind it, so it is held back until the next answers; no more is concluded.

use std::ops::Range;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Later than the latest of the last seconds by so much: the jitter of a good link stays below it.
const SLACK: Duration = Duration::from_millis(25);
/// Likewise for the time between two answers: a timer on the other side decides it.
const GAP_SLACK: Duration = Duration::from_millis(10);
/// What is usual is the latest answer of some such spans; the newest two do not count, or a rise would become usual as it comes.
const SPAN: Duration = Duration::from_millis(500);
const SPANS: usize = 6;
/// Nothing is unusual before that.
const LEARNING: Duration = Duration::from_millis(1_500);
/// If answers stay late for so long, somebody else keeps the queue full, or this is how the link is now.
const PATIENCE: Duration = Duration::from_millis(600);
/// Without any answer for so long, it is the way back that has lost some: what was sent may well have arrived. A receiver
/// that got nothing between two of its reports skips one.
const SILENCE: Duration = Duration::from_millis(150);

#[derive(Default, Serialize, Deserialize)]
pub(super) struct Answers {
    /// How long after it was sent something was told of.
    waits: Usual,
    /// How long the newest packet that an answer told of had waited on the link.
    delays: Usual,
    /// How long after the one before it an answer came.
    #[serde(default)]
    gaps: Usual,
    #[serde(with = "crate::moment")]
    span_began: Option<Instant>,
    #[serde(with = "crate::moment")]
    began: Option<Instant>,
    /// When the first packet left of those that nothing was told of yet.
    #[serde(with = "crate::moment")]
    unanswered: Option<Instant>,
    /// Since when answers are late.
    #[serde(with = "crate::moment")]
    late_since: Option<Instant>,
    /// The last answer, if the newest packet that it told of had waited longer than any lately.
    #[serde(with = "crate::moment")]
    behind: Option<Instant>,
    #[serde(with = "crate::moment")]
    last: Option<Instant>,
}

/// The most that something was within the last spans.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Usual {
    /// The newest first.
    most: [Duration; SPANS],
}

impl Usual {
    /// More than this is unusual.
    fn limit(&self, slack: Duration) -> Duration {
        self.most[2..].iter().copied().max().unwrap_or_default() + slack
    }

    fn note(&mut self, value: Duration) {
        self.most[0] = self.most[0].max(value);
    }

    fn turn(&mut self) {
        self.most.rotate_right(1);
        self.most[0] = Duration::ZERO;
    }
}

impl Answers {
    /// An answer has come; `unanswered`: when the first packet left that it does not speak of; `delay`: what the newest one that
    /// it does speak of had waited on the link.
    pub(super) fn told(&mut self, now: Instant, unanswered: Option<Instant>, delay: Duration) {
        let began = *self.began.get_or_insert(now);
        let has_learnt = now.saturating_duration_since(began) >= LEARNING;
        let gap = self.last.replace(now).map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let waited = self.unanswered.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let usual = self.waits.limit(SLACK);
        self.unanswered = unanswered;
        self.behind = (has_learnt && delay > self.delays.limit(SLACK)).then_some(now);
        let is_late = unanswered.is_some_and(|at| now.saturating_duration_since(at) > usual);
        if is_late && has_learnt {
            self.late_since.get_or_insert(now - waited.saturating_sub(usual));
        } else {
            self.late_since = None;
        }
        if self.late_since.is_none_or(|since| now.saturating_duration_since(since) > PATIENCE) {
            if self.late_since.take().is_some() {
                (self.waits.most, self.delays.most) = ([waited; SPANS], [delay; SPANS]);
                self.gaps.most = [gap; SPANS];
            }
            self.learn(now, waited, delay, gap);
        }
    }

    /// Nothing that can wait should be sent within this time.
    ///
    /// `is_missed`: an answer that has not come yet was probably not lost.
    pub(super) fn hold(&self, is_missed: bool) -> Option<Range<Instant>> {
        if let (None, Some(at)) = (self.late_since, self.behind) {
            return Some(at..at + SILENCE);
        }
        let by_wait = self.unanswered? + self.waits.limit(SLACK);
        let by_gap = self.last? + self.gaps.limit(GAP_SLACK);
        let expected = by_wait.min(by_gap).max(self.began? + LEARNING);
        let from = self.late_since.or_else(|| is_missed.then_some(expected))?;
        Some(from..(from + PATIENCE).min(self.last? + SILENCE))
    }

    /// Since when answers have been late that still are.
    pub(super) fn late_since(&self) -> Option<Instant> {
        self.late_since
    }

    fn learn(&mut self, now: Instant, waited: Duration, delay: Duration, gap: Duration) {
        let since = *self.span_began.get_or_insert(now);
        if now.saturating_duration_since(since) >= SPAN {
            self.waits.turn();
            self.delays.turn();
            self.gaps.turn();
            self.span_began = Some(now);
        }
        self.waits.note(waited);
        self.delays.note(delay);
        self.gaps.note(gap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::origin;

    const MS: Duration = Duration::from_millis(1);

    /// Two seconds of answers every 50 ms, each to all that was sent up to 40 ms before it.
    fn usual(start: Instant) -> (Answers, Instant) {
        let (mut answers, mut now) = (Answers::default(), start);
        for _ in 0..40 {
            now += 50 * MS;
            answers.told(now, Some(now - 40 * MS), Duration::ZERO);
            assert!(!answers.hold(true).is_some_and(|hold| hold.contains(&now)));
        }
        (answers, now)
    }

    #[test]
    fn what_is_late_is_waited_for_and_no_longer_than_it_is_late() {
        let (mut answers, now) = usual(origin());
        let hold = answers.hold(true).unwrap();
        assert_eq!(
            hold,
            now + 60 * MS..now + 150 * MS,
            "an answer comes each 50 ms; the unanswered has waited 40 of 90 + 25"
        );
        // The link has become narrow: of 110 ms only 20 were answered.
        answers.told(now + 110 * MS, Some(now - 30 * MS), Duration::ZERO);
        assert_eq!(answers.late_since(), Some(now + 75 * MS));
        assert!(answers.hold(true).unwrap().contains(&(now + 110 * MS)));
        // The queue is empty.
        answers.told(now + 300 * MS, Some(now + 260 * MS), Duration::ZERO);
        assert_eq!(answers.late_since(), None);
        assert!(!answers.hold(true).unwrap().contains(&(now + 310 * MS)));
    }

    #[test]
    fn a_link_that_stays_late_is_not_waited_for() {
        let (mut answers, start) = usual(origin());
        let late = |now: Instant| Some(now - 200 * MS);
        let mut held = 0;
        for step in 1..40 {
            let now = start + 50 * MS * step;
            answers.told(now, late(now), Duration::ZERO);
            held += u32::from(answers.hold(true).unwrap().contains(&now));
        }
        assert!((10..14).contains(&held), "{held}");
    }

    #[test]
    fn an_answer_that_does_not_come_is_no_queue() {
        let (mut answers, now) = usual(origin());
        assert_eq!(answers.hold(false), None, "it was lost, as long as nothing has queued");
        answers.told(now + 110 * MS, Some(now - 30 * MS), Duration::ZERO);
        assert!(answers.hold(false).is_some(), "one that has come and is late is late");
    }

    #[test]
    fn what_stands_behind_a_packet_that_came_late_waits_for_the_next_answer() {
        let (mut answers, now) = usual(origin());
        answers.told(now + 50 * MS, Some(now + 10 * MS), 20 * MS);
        assert!(!answers.hold(true).unwrap().contains(&(now + 60 * MS)), "jitter");
        answers.told(now + 100 * MS, Some(now + 60 * MS), 40 * MS);
        assert_eq!(answers.hold(false), Some(now + 100 * MS..now + 250 * MS));
        assert_eq!(answers.late_since(), None, "which by itself is no overuse");
        answers.told(now + 150 * MS, Some(now + 110 * MS), 5 * MS);
        assert!(!answers.hold(true).unwrap().contains(&(now + 160 * MS)), "it was held up alone");
    }

    #[test]
    fn a_queue_that_is_always_there_is_usual() {
        let (mut answers, mut now) = usual(origin());
        let mut held = 0;
        for step in 0..100u32 {
            now += 50 * MS;
            answers.told(now, Some(now - 40 * MS), if step % 10 < 5 { 60 * MS } else { Duration::ZERO });
            held += u32::from(answers.hold(false).is_some_and(|hold| hold.contains(&now)));
        }
        assert!((5..20).contains(&held), "somebody else fills it, {held}");
    }

    #[test]
    fn answers_that_are_seldom_are_waited_for_as_they_come() {
        let (mut answers, mut now) = (Answers::default(), origin());
        for _ in 0..20 {
            now += 120 * MS;
            answers.told(now, Some(now - 10 * MS), Duration::ZERO);
        }
        assert_eq!(answers.hold(true), Some(now + 130 * MS..now + 150 * MS));
    }

    #[test]
    fn who_sends_nothing_waits_for_nothing() {
        let (mut answers, now) = usual(origin());
        answers.told(now + 50 * MS, None, Duration::ZERO);
        assert_eq!(answers.hold(true), None);
    }
}
