//! Replay list of RFC 3711 §3.3.2 as a ring of bits, shared by SRTP and SRTCP.
//!
//! Checking and committing are two steps: nothing may change before the tag has been verified.

use crate::drop_reason::DropReason;

const WORDS: usize = 32;

/// How far behind the newest index a packet may arrive. One word of the ring is always the one being cleared.
pub const REPLAY_WINDOW: u64 = (WORDS as u64 - 1) * 64;

/// Which of the last [`REPLAY_WINDOW`] indices have been seen.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    highest: Option<u64>,
    bits: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { highest: None, bits: [0; WORDS] }
    }
}

impl ReplayWindow {
    /// The newest committed index.
    pub fn highest(&self) -> Option<u64> {
        self.highest
    }

    /// May this index be received? Changes nothing.
    #[inline]
    pub fn check(&self, index: u64) -> Result<(), DropReason> {
        let Some(highest) = self.highest else { return Ok(()) };
        if index > highest {
            return Ok(());
        }
        if highest - index >= REPLAY_WINDOW {
            return Err(DropReason::SrtpTooOld);
        }
        if self.bits[word(index)] & bit(index) != 0 { Err(DropReason::SrtpReplay) } else { Ok(()) }
    }

    /// Mark an index that [`check`](Self::check) allowed as received, after its packet was authenticated.
    #[inline]
    pub fn commit(&mut self, index: u64) {
        match self.highest {
            Some(highest) if index <= highest => {}
            Some(highest) => {
                let steps = (index / 64 - highest / 64).min(WORDS as u64);
                for step in 1..=steps {
                    self.bits[word(highest + step * 64)] = 0;
                }
                self.highest = Some(index);
            }
            None => self.highest = Some(index),
        }
        self.bits[word(index)] |= bit(index);
    }
}

fn word(index: u64) -> usize {
    (index / 64) as usize % WORDS
}

fn bit(index: u64) -> u64 {
    1 << (index % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// The rule said naively: a set of everything ever seen and the newest index.
    #[derive(Default)]
    struct Oracle {
        seen: HashSet<u64>,
        highest: Option<u64>,
    }

    impl Oracle {
        fn receive(&mut self, index: u64) -> Result<(), DropReason> {
            if self.highest.is_some_and(|h| index + REPLAY_WINDOW <= h) {
                return Err(DropReason::SrtpTooOld);
            }
            if !self.seen.insert(index) {
                return Err(DropReason::SrtpReplay);
            }
            self.highest = self.highest.max(Some(index));
            Ok(())
        }
    }

    /// S-11
    #[test]
    fn window_meets_the_floor() {
        const { assert!(REPLAY_WINDOW >= 1024) };
    }

    proptest! {
        // 64 sequences of 4 096 operations: 262 144 operations a run.
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// S-11
        #[test]
        fn agrees_with_the_oracle(
            start in 0u64..200_000,
            steps in prop::collection::vec(prop_oneof![
                8 => -40i64..8, 2 => -2100i64..200, 1 => -33_000i64..33_000, 1 => Just(0i64)], 4096),
        ) {
            let (mut window, mut oracle) = (ReplayWindow::default(), Oracle::default());
            let mut cursor = start;
            for step in steps {
                let index = cursor.saturating_add_signed(step);
                let want = oracle.receive(index);
                let got = window.check(index);
                prop_assert_eq!(got, want, "index {}", index);
                if got.is_ok() {
                    window.commit(index);
                }
                cursor = window.highest().unwrap_or(cursor) + 1;
            }
        }
    }
}
