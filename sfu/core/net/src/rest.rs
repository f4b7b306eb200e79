//! When the subscribers' reports are looked at: beside whatever else has woken the thread, and alone only where nothing has.
//!
//! Estimates that change over tenths of a second are made of them, and each of them would wake an idle core
//! (docs/adr/0001-packet-pump.md). No clock in here.

use std::time::{Duration, Instant};

/// Between two looks in company.
const SHORTEST: Duration = Duration::from_millis(5);
/// Nothing else has come for so long: they are looked at alone. Longer than the frames of common video are apart.
const LONGEST: Duration = Duration::from_millis(40);

/// The first report after a silence wakes at once; from then on they wait for company, until a whole rest brings none.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// `None`: the socket itself wakes the thread.
    rest: Option<Span>,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    /// When they may be looked at in company.
    from: Instant,
    /// When they are looked at alone.
    until: Instant,
}

impl Rest {
    /// When to wake for them; `None`: as soon as one comes.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.rest.map(|rest| rest.until)
    }

    /// The thread is awake at `now`. `is_ready`: the socket said so, or was not asked.
    pub(crate) fn is_due(&self, now: Instant, is_ready: bool) -> bool {
        self.rest.map_or(is_ready, |rest| now >= rest.from)
    }

    /// They were looked at, and there were so many. `hurries`: somebody waits for what the next ones say.
    pub(crate) fn looked(&mut self, now: Instant, reports: usize, hurries: bool) {
        let is_alone = self.rest.is_none_or(|rest| now >= rest.until);
        let longest = if hurries { SHORTEST } else { LONGEST };
        self.rest = (reports > 0 || !is_alone).then(|| Span { from: now + SHORTEST, until: now + longest });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[expect(clippy::disallowed_methods, reason = "one base instant; all others are reckoned from it")]
    fn base() -> Instant {
        Instant::now()
    }

    #[test]
    fn the_first_wakes_and_those_after_it_wait_for_company() {
        let (mut rest, start) = (Rest::default(), base());
        assert_eq!(rest.deadline(), None);
        assert!(rest.is_due(start, true) && !rest.is_due(start, false));
        rest.looked(start, 1, false);
        assert!(!rest.is_due(start + 4 * MS, true), "looked at a moment ago");
        assert!(rest.is_due(start + 5 * MS, false), "in company");
        assert_eq!(rest.deadline(), Some(start + 40 * MS));
        rest.looked(start + 5 * MS, 1, true);
        assert_eq!(rest.deadline(), Some(start + 10 * MS), "a first picture waits for them");
    }

    #[test]
    fn where_media_flows_no_report_wakes() {
        let (mut rest, mut now) = (Rest::default(), base());
        rest.looked(now, 1, false);
        for frame in 0..90 {
            now += 33 * MS;
            assert!(rest.is_due(now, false));
            assert!(rest.deadline().is_some_and(|at| at > now), "nothing has woken for them");
            rest.looked(now, usize::from(frame % 3 == 0), false);
        }
    }

    #[test]
    fn a_rest_that_brings_nothing_is_the_last() {
        let (mut rest, start) = (Rest::default(), base());
        rest.looked(start, 3, false);
        rest.looked(start + 40 * MS, 1, false);
        assert_eq!(rest.deadline(), Some(start + 80 * MS));
        rest.looked(start + 80 * MS, 0, false);
        assert_eq!(rest.deadline(), None);
        rest.looked(start + 90 * MS, 0, false);
        assert_eq!(rest.deadline(), None, "a look for nothing begins no rest");
    }
}
