//! Gapless renumbering of a sequence from which some members are left out: RTP sequence numbers, picture ids.
//!
//! Members arrive out of order, twice or never. A number that has not arrived keeps its place, so that it may still be
//! forwarded into it; a number that was left out in order leaves no hole. Works on extended numbers; widths are the
//! caller's.

/// How far back a late member still finds its place.
const WINDOW: u64 = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Not seen; its place is kept.
    Missing,
    Forwarded,
    Left,
}

#[derive(Clone, Copy)]
struct Slot {
    input: u64,
    output: u64,
    fate: Fate,
}

/// What becomes of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Its number, and whether it was handed out before.
    At { output: u64, again: bool },
    /// Too old, or left out before: there is no place for it.
    None,
}

/// State of one sequence; about 12 KiB once in use.
#[derive(Default)]
pub struct Renumber {
    slots: Vec<Option<Slot>>,
    /// First member of the present source: what is older belongs to another.
    first: u64,
    highest: Option<u64>,
    /// Next number to hand out.
    next: u64,
}

impl Renumber {
    /// `start`: the first number handed out.
    pub fn new(start: u64) -> Self {
        Self { slots: Vec::new(), first: 0, highest: None, next: start }
    }

    /// The number that the next member in order will get.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Another source begins with its next member, whatever its number; ours go on without a gap.
    pub fn switch(&mut self) {
        self.highest = None;
        self.slots.iter_mut().for_each(|slot| *slot = None);
    }

    /// True until a member was seen since the last [`Renumber::switch`].
    pub fn is_fresh(&self) -> bool {
        self.highest.is_none()
    }

    /// Gives `input` its number.
    pub fn forward(&mut self, input: u64) -> Place {
        if self.advance(input) {
            let output = self.next;
            self.next += 1;
            self.put(Slot { input, output, fate: Fate::Forwarded });
            return Place::At { output, again: false };
        }
        match self.slot(input) {
            Some(slot) if slot.fate == Fate::Missing => {
                slot.fate = Fate::Forwarded;
                Place::At { output: slot.output, again: false }
            }
            Some(slot) if slot.fate == Fate::Forwarded => Place::At { output: slot.output, again: true },
            _ => Place::None,
        }
    }

    /// Leaves `input` out. A number that was kept for it is returned: it is now a hole, to be filled with padding.
    pub fn leave_out(&mut self, input: u64) -> Option<u64> {
        self.highest?; // until something of this source was forwarded there is nothing to leave a gap in
        if self.advance(input) {
            self.put(Slot { input, output: self.next, fate: Fate::Left });
            return None;
        }
        let slot = self.slot(input).filter(|slot| slot.fate == Fate::Missing)?;
        slot.fate = Fate::Left;
        Some(slot.output)
    }

    /// If `input` is the newest so far: keeps places for those between, and returns true.
    fn advance(&mut self, input: u64) -> bool {
        let Some(highest) = self.highest else {
            self.first = input;
            self.highest = Some(input);
            if self.slots.is_empty() {
                self.slots = vec![None; WINDOW as usize];
            }
            return true;
        };
        if input <= highest {
            return false;
        }
        let missing = input - highest - 1;
        if missing >= WINDOW {
            // A jump, not a loss: whatever is in between is not waited for.
            self.slots.iter_mut().for_each(|slot| *slot = None);
            self.first = input;
        } else {
            for late in highest + 1..input {
                let output = self.next;
                self.next += 1;
                self.put(Slot { input: late, output, fate: Fate::Missing });
            }
        }
        self.highest = Some(input);
        true
    }

    fn put(&mut self, slot: Slot) {
        self.slots[(slot.input % WINDOW) as usize] = Some(slot);
    }

    fn slot(&mut self, input: u64) -> Option<&mut Slot> {
        if input < self.first {
            return None;
        }
        self.slots.get_mut((input % WINDOW) as usize)?.as_mut().filter(|slot| slot.input == input)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn at(output: u64) -> Place {
        Place::At { output, again: false }
    }

    #[test]
    fn what_is_left_out_in_order_leaves_no_gap() {
        let mut numbers = Renumber::new(1000);
        assert_eq!(numbers.forward(7), at(1000));
        assert_eq!(numbers.leave_out(8), None);
        assert_eq!(numbers.forward(9), at(1001));
        assert_eq!(numbers.forward(9), Place::At { output: 1001, again: true });
        assert_eq!(numbers.forward(8), Place::None, "it was left out");
    }

    #[test]
    fn what_is_late_finds_its_place() {
        let mut numbers = Renumber::new(0);
        assert_eq!(numbers.forward(100), at(0));
        assert_eq!(numbers.forward(103), at(3));
        assert_eq!(numbers.forward(101), at(1));
        assert_eq!(numbers.leave_out(102), Some(2), "a hole to be filled");
        assert_eq!(numbers.leave_out(102), None);
        assert_eq!(numbers.forward(104), at(4));
        assert_eq!(numbers.forward(99), Place::None, "older than the source's first");
    }

    #[test]
    fn another_source_goes_on_without_a_gap() {
        let mut numbers = Renumber::new(0);
        numbers.forward(50_000);
        numbers.switch();
        assert_eq!(numbers.leave_out(11), None, "not begun yet");
        assert_eq!(numbers.forward(12), at(1));
        assert_eq!(numbers.forward(11), Place::None);
        assert_eq!(numbers.forward(50_001), at(2), "a jump is one step");
    }

    proptest! {
        /// Any order, any loss, any repetition: numbers are unique, in the order of the input, and their holes are
        /// exactly the members that never came, or came before the first that was forwarded.
        #[test]
        fn holes_are_losses_and_nothing_else(
            keep in proptest::collection::vec(0u8..10, 1..400),
            swaps in proptest::collection::vec((0usize..400, 1usize..12), 0..60),
        ) {
            let mut order: Vec<usize> = (0..keep.len()).filter(|&i| keep[i] != 0).collect();
            for (at, by) in swaps {
                if at + by < order.len() { order.swap(at, at + by); }
            }
            let mut numbers = Renumber::new(60_000);
            let mut handed: BTreeMap<u64, u64> = BTreeMap::new();
            let mut filled: BTreeSet<u64> = BTreeSet::new();
            let mut too_early: BTreeSet<u64> = BTreeSet::new();
            for &input in &order {
                let input = input as u64;
                if keep[input as usize] <= 3 {
                    if numbers.is_fresh() { too_early.insert(input); }
                    filled.extend(numbers.leave_out(input));
                } else if let Place::At { output, again } = numbers.forward(input) {
                    prop_assert!(!again);
                    prop_assert!(handed.insert(input, output).is_none());
                }
            }
            let outputs: Vec<u64> = handed.values().copied().collect();
            prop_assert!(outputs.windows(2).all(|pair| pair[0] < pair[1]), "in the order of the input");
            let (Some(first), Some(last)) = (handed.keys().next(), handed.keys().last()) else { return Ok(()) };
            let lost = (*first..*last).filter(|i| keep[*i as usize] == 0 || too_early.contains(i)).count() as u64;
            let span = outputs.last().unwrap() - outputs.first().unwrap() + 1;
            let inside = filled.iter().filter(|o| outputs.first() < Some(o) && Some(*o) < outputs.last()).count() as u64;
            prop_assert_eq!(span, outputs.len() as u64 + lost + inside);
        }
    }
}
