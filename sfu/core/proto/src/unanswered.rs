//! Notices that a client has fallen silent altogether: its network lets nothing through any more, or it is gone. The end
//! of its consent would tell much later (RFC 7675 §5.1); signaling can ask for another path as soon as this is known.
//!
//! Two things make sure of it: the client answered what it is sent and now does not; or, for one who is sent nothing, two
//! of its own checks in a row are missing. Chromium checks every 2.5 s, others every 5 s and a fifth more or less
//! (RFC 7675 §5.1), so how often this one does is learnt from it.

/// What was sent may well need no answer if it was fewer packets than this.
const ENOUGH: u64 = 20;
/// So many checks at a steady pace tell how often a client makes them.
const LEARNT: u32 = 3;
/// Seconds in which a client that keeps to RFC 7675 makes two checks, however they fall.
const TWO_CHECKS: u32 = 12;

/// Whoever checks more rarely than every so many seconds has lost its consent in between anyway.
const LONGEST: u32 = 15;

/// What was heard of and sent to a client so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    /// Packets of any kind, checks of the path in use among them.
    pub heard: u64,
    pub checks: u64,
    pub sent: u64,
    /// It tells of the arrival of what it is sent.
    pub is_answering: bool,
}

/// One transport's silence, in ticks that were really made: time in which we did not listen ourselves does not count.
#[derive(Debug, Default)]
pub struct Watch {
    heard: u64,
    sent: u64,
    ticks: u32,
    is_told: bool,
    checks: u64,
    since_check: u32,
    /// The longest ticks between checks of late, and how many of them were steady.
    interval: u32,
    learnt: u32,
}

impl Watch {
    /// True once in each silence: of `limit` ticks if enough was sent that is usually answered, else of a second more
    /// than two checks of the client can take. `second`: its ticks.
    pub fn tick(&mut self, sums: Sums, limit: u32, second: u32) -> bool {
        self.learn(sums.checks, second);
        if sums.heard != self.heard {
            (self.heard, self.sent, self.ticks, self.is_told) = (sums.heard, sums.sent, 0, false);
            return false;
        }
        self.ticks = self.ticks.saturating_add(1);
        let is_owed = sums.is_answering && sums.sent.saturating_sub(self.sent) >= ENOUGH;
        // The longest interval is half as long again as the shortest, and only short ones may have been seen.
        let two_checks = (self.interval * 3).min(TWO_CHECKS * second).max(self.interval * 2);
        let is_missed = self.learnt >= LEARNT && self.ticks > two_checks + second;
        let is_due = !self.is_told && self.ticks >= limit && (is_owed || is_missed);
        self.is_told |= is_due;
        is_due
    }

    fn learn(&mut self, checks: u64, second: u32) {
        self.since_check = self.since_check.saturating_add(1);
        if checks == self.checks {
            return;
        }
        let interval = std::mem::take(&mut self.since_check);
        // Those that follow each other faster belong to the search for a path; the first has none before it.
        let is_steady = self.checks > 0 && interval >= second;
        self.checks = checks;
        if is_steady {
            self.interval = interval.max(self.interval - self.interval / 8).min(LONGEST * second);
            self.learnt = self.learnt.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In which ticks of a tenth of a second a silence was told of; each tick: packets heard and sent, and checks.
    fn told_of(ticks: &[(u64, u64, u64)], is_answering: bool) -> Vec<usize> {
        let mut watch = Watch::default();
        let mut sums = Sums { is_answering, ..Sums::default() };
        let mut told = Vec::new();
        for (number, (heard, sent, checks)) in ticks.iter().enumerate() {
            sums.heard += heard + checks;
            sums.sent += sent;
            sums.checks += checks;
            if watch.tick(sums, 5, 10) {
                told.push(number);
            }
        }
        told
    }

    fn told(ticks: &[(u64, u64)]) -> Vec<usize> {
        told_of(&ticks.iter().map(|(heard, sent)| (*heard, *sent, 0)).collect::<Vec<_>>(), true)
    }

    /// `count` checks, each after so many ticks without.
    fn checks(count: usize, after: usize) -> Vec<(u64, u64, u64)> {
        let mut one = vec![(0, 0, 0); after];
        one.push((0, 0, 1));
        one.repeat(count)
    }

    #[test]
    fn a_silence_is_told_of_once_and_the_next_again() {
        let mut ticks = vec![(1, 5)];
        ticks.extend([(0, 5); 9]);
        ticks.push((1, 5));
        ticks.extend([(0, 5); 9]);
        assert_eq!(told(&ticks), [5, 15]);
    }

    #[test]
    fn who_is_sent_little_owes_no_answer() {
        let mut ticks = vec![(1, 5)];
        ticks.extend([(0, 1); 19]);
        assert!(told(&ticks).is_empty());
        ticks.push((0, 1));
        assert_eq!(told(&ticks), [20], "but it adds up");
    }

    #[test]
    fn one_packet_of_any_kind_is_an_answer() {
        let quiet = [(0, 5); 4];
        assert!(told(&[&[(1, 5)], &quiet[..], &[(1, 5)], &quiet[..]].concat()).is_empty());
    }

    #[test]
    fn two_missing_checks_tell_of_one_who_is_sent_nothing() {
        let steady = checks(5, 24);
        let quiet = [(0, 0, 0); 200];
        assert_eq!(
            told_of(&[&steady[..], &quiet].concat(), false),
            [steady.len() + 85],
            "three times 2.5 s, and one more"
        );
    }

    #[test]
    fn one_missing_check_is_none_and_packets_of_any_kind_stand_for_it() {
        let steady = checks(5, 24);
        let one_lost = [&steady[..], &checks(1, 49), &steady[..]].concat();
        assert!(told_of(&one_lost, false).is_empty());
        let media = [&steady[..], &[(1, 0, 0); 300]].concat();
        assert!(told_of(&media, false).is_empty());
    }

    #[test]
    fn how_often_somebody_checks_is_not_taken_from_his_search_for_a_path() {
        let search = checks(50, 1);
        let quiet = [(0, 0, 0); 200];
        assert!(told_of(&[&search[..], &quiet].concat(), false).is_empty());
        let rare = [&search[..], &checks(4, 59)].concat();
        assert_eq!(told_of(&[&rare[..], &quiet].concat(), false), [rare.len() + 130]);
    }

    proptest::proptest! {
        #[test]
        fn who_checks_as_he_always_did_is_never_told_of(
            gaps in proptest::collection::vec(40usize..=60, 4..40),
            lost in 0usize..40,
        ) {
            // RFC 7675: 5 s, jittered by a fifth; one may be lost now and then.
            let mut ticks = Vec::new();
            for (number, gap) in gaps.iter().enumerate() {
                ticks.extend(checks(1, *gap));
                if number == lost && number > 3 {
                    let len = ticks.len();
                    ticks[len - 1] = (0, 0, 0);
                }
            }
            proptest::prop_assert!(told_of(&ticks, false).is_empty());
        }
    }
}
