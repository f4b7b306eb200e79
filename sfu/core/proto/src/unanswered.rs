//! Notices that a client which answered what it is sent has fallen silent altogether: its network lets nothing through
//! any more, or it is gone. Checks alone would tell much later, for some clients make one in five seconds only
//! (RFC 7675 §5.1); signaling can ask for another path as soon as this is known.

/// What was sent may well need no answer if it was fewer packets than this.
const ENOUGH: u64 = 20;

/// One transport's silence, in ticks that were really made: time in which we did not listen ourselves does not count.
#[derive(Debug, Default)]
pub struct Watch {
    heard: u64,
    sent: u64,
    ticks: u32,
    is_told: bool,
}

impl Watch {
    /// `heard`, `sent`: packets so far. True once in each silence of `limit` ticks in which enough was sent.
    pub fn tick(&mut self, heard: u64, sent: u64, limit: u32) -> bool {
        if heard != self.heard {
            *self = Self { heard, sent, ..Self::default() };
            return false;
        }
        self.ticks = self.ticks.saturating_add(1);
        let is_due = !self.is_told && self.ticks >= limit && sent.saturating_sub(self.sent) >= ENOUGH;
        self.is_told |= is_due;
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In which ticks a silence was told of; each tick: packets heard and sent in it.
    fn told(ticks: &[(u64, u64)]) -> Vec<usize> {
        let (mut watch, mut heard, mut sent) = (Watch::default(), 0, 0);
        let mut told = Vec::new();
        for (number, (more_heard, more_sent)) in ticks.iter().enumerate() {
            heard += more_heard;
            sent += more_sent;
            if watch.tick(heard, sent, 5) {
                told.push(number);
            }
        }
        told
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
}
