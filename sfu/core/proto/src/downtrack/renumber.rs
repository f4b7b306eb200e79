//! Gapless renumbering of a sequence from which some members are left out: RTP sequence numbers, picture ids.
//!
//! Members arrive out of order, twice or never. A number that has not arrived keeps its place, so that it may still be
//! forwarded into it; a number that was left out in order leaves no hole. Works on extended numbers; widths are the
//! caller's.

/// Pictures that a late packet may belong to: two seconds at 60 a second.
pub const PICTURE_WINDOW: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Not seen; its place is kept.
    Missing,
    Forwarded,
    Left,
}

/// One remembered member, in eight bytes: a subscriber's slots are touched once a packet and are cold by then.
///
/// Low halves are enough: inputs lie within a window of the highest, outputs below the next.
#[derive(Clone, Copy, Default)]
struct Slot {
    input: u32,
    /// The fate in the two highest bits (0: nothing is remembered), the output's low bits in the others.
    fate_and_output: u32,
}

const OUTPUT_BITS: u32 = 30;
const OUTPUT_MASK: u32 = (1 << OUTPUT_BITS) - 1;

impl Slot {
    fn new(input: u64, output: u64, fate: Fate) -> Self {
        Self { input: input as u32, fate_and_output: (fate as u32 + 1) << OUTPUT_BITS | output as u32 & OUTPUT_MASK }
    }

    fn fate(self) -> Option<Fate> {
        match self.fate_and_output >> OUTPUT_BITS {
            1 => Some(Fate::Missing),
            2 => Some(Fate::Forwarded),
            3 => Some(Fate::Left),
            _ => None,
        }
    }

    /// `next`: the next number to be handed out, which is above all that were.
    fn output(self, next: u64) -> u64 {
        next - u64::from((next as u32).wrapping_sub(self.fate_and_output) & OUTPUT_MASK)
    }
}

/// What becomes of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Its number, and whether it was handed out before.
    At { output: u64, again: bool },
    /// Too old, or left out before: there is no place for it.
    None,
}

/// State of one sequence; eight bytes a member of its window once in use.
pub struct Renumber {
    slots: Vec<Slot>,
    window: usize,
    /// First member of the present source: what is older belongs to another.
    first: u64,
    highest: Option<u64>,
    /// Next number to hand out.
    next: u64,
}

impl Renumber {
    /// `start`: the first number handed out; `window`: members remembered, a power of two.
    pub fn new(start: u64, window: usize) -> Self {
        debug_assert!(window.is_power_of_two());
        Self { slots: Vec::new(), window, first: 0, highest: None, next: start }
    }

    /// The number that the next member in order will get.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Another source begins with its next member, whatever its number; ours go on without a gap.
    pub fn switch(&mut self) {
        self.highest = None;
        self.slots.fill(Slot::default());
    }

    /// The next number that was kept for a member which has not come. `place`: how far the search is, from zero on.
    pub fn hole(&self, place: &mut usize) -> Option<u64> {
        let rest = self.slots.get(*place..)?;
        let found = rest.iter().position(|slot| slot.fate() == Some(Fate::Missing))?;
        *place += found + 1;
        Some(rest[found].output(self.next))
    }

    /// The member for which `output` is kept.
    pub fn awaited(&self, output: u64) -> Option<u64> {
        let highest = self.highest?;
        let (mut low, mut high) = (self.first.max((highest + 1).saturating_sub(self.window as u64)), highest + 1);
        // Numbers rise with members; where several have the same, all but the last were left out.
        while low < high {
            let middle = low + (high - low) / 2;
            match self.find(middle) {
                Some((found, _)) if found > output => high = middle,
                _ => low = middle + 1,
            }
        }
        let input = low.checked_sub(1)?;
        (self.find(input) == Some((output, Fate::Missing))).then_some(input)
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
            self.put(input, output, Fate::Forwarded);
            return Place::At { output, again: false };
        }
        match self.find(input) {
            Some((output, Fate::Missing)) => {
                self.put(input, output, Fate::Forwarded);
                Place::At { output, again: false }
            }
            Some((output, Fate::Forwarded)) => Place::At { output, again: true },
            _ => Place::None,
        }
    }

    /// Leaves `input` out. A number that was kept for it is returned: it is now a hole, to be filled with padding.
    pub fn leave_out(&mut self, input: u64) -> Option<u64> {
        self.highest?; // until something of this source was forwarded there is nothing to leave a gap in
        if self.advance(input) {
            self.put(input, self.next, Fate::Left);
            return None;
        }
        let (output, fate) = self.find(input)?;
        if fate != Fate::Missing {
            return None;
        }
        self.put(input, output, Fate::Left);
        Some(output)
    }

    /// Gives the newest member its number after all, though it was left out: a further part of it is forwarded.
    pub fn take_back(&mut self, input: u64) -> Option<u64> {
        let (output, fate) = self.find(input)?;
        if fate != Fate::Left || self.highest != Some(input) || output != self.next {
            return None;
        }
        self.put(input, output, Fate::Forwarded);
        self.next += 1;
        Some(output)
    }

    /// If `input` is the newest so far: keeps places for those between, and returns true.
    fn advance(&mut self, input: u64) -> bool {
        let Some(highest) = self.highest else {
            self.first = input;
            self.highest = Some(input);
            self.slots.resize(self.window, Slot::default());
            return true;
        };
        if input <= highest {
            return false;
        }
        let missing = input - highest - 1;
        if missing >= self.window as u64 {
            // A jump, not a loss: whatever is in between is not waited for.
            self.slots.fill(Slot::default());
            self.first = input;
        } else {
            for late in highest + 1..input {
                let output = self.next;
                self.next += 1;
                self.put(late, output, Fate::Missing);
            }
        }
        self.highest = Some(input);
        true
    }

    fn put(&mut self, input: u64, output: u64, fate: Fate) {
        let place = input as usize & (self.window - 1);
        self.slots[place] = Slot::new(input, output, fate);
    }

    fn find(&self, input: u64) -> Option<(u64, Fate)> {
        if input < self.first {
            return None;
        }
        let slot = self.slots.get(input as usize & (self.window - 1)).filter(|slot| slot.input == input as u32)?;
        Some((slot.output(self.next), slot.fate()?))
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
        let mut numbers = Renumber::new(1000, 512);
        assert_eq!(numbers.forward(7), at(1000));
        assert_eq!(numbers.leave_out(8), None);
        assert_eq!(numbers.forward(9), at(1001));
        assert_eq!(numbers.forward(9), Place::At { output: 1001, again: true });
        assert_eq!(numbers.forward(8), Place::None, "it was left out");
    }

    #[test]
    fn what_is_late_finds_its_place() {
        let mut numbers = Renumber::new(0, 512);
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
        let mut numbers = Renumber::new(0, 512);
        numbers.forward(50_000);
        numbers.switch();
        assert_eq!(numbers.leave_out(11), None, "not begun yet");
        assert_eq!(numbers.forward(12), at(1));
        assert_eq!(numbers.forward(11), Place::None);
        assert_eq!(numbers.forward(50_001), at(2), "a jump is one step");
    }

    /// F-42
    #[test]
    fn numbers_beyond_four_thousand_million_are_told_apart() {
        let start = u64::from(u32::MAX) - 1;
        let mut numbers = Renumber::new(start, 64);
        assert_eq!(numbers.forward(start), at(start));
        assert_eq!(numbers.forward(start + 3), at(start + 3));
        assert_eq!(numbers.forward(start + 2), at(start + 2), "across the low half's wrap");
        assert_eq!(numbers.leave_out(start + 1), Some(start + 1));
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
            let mut numbers = Renumber::new(60_000, 512);
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
