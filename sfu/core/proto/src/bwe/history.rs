//! What was sent under which transport-wide number, until the other end has told what became of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// One packet handed to the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sent {
    /// Transport-wide sequence number, unwrapped.
    pub number: u64,
    pub at: Instant,
    /// Size on the wire without IP and UDP headers.
    pub bytes: u32,
    /// The probe cluster it belongs to.
    pub probe: Option<u32>,
}

/// What the other end says of one number. `received` is on its own clock, from an arbitrary origin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    pub number: u64,
    pub received: Option<Duration>,
}

/// Longest unanswered tail: two seconds of 50 Mbit/s in full packets, 256 KiB of memory.
const CAPACITY: usize = 8192;

#[derive(Default)]
pub(super) struct SendHistory {
    /// `packets[i]` has number `first + i`; `None`: already answered or never sent.
    packets: VecDeque<Option<Sent>>,
    first: u64,
}

impl SendHistory {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn push(&mut self, packet: Sent) {
        if self.packets.is_empty() {
            self.first = packet.number;
        }
        let next = self.first + self.packets.len() as u64;
        if packet.number < next || packet.number - next > CAPACITY as u64 {
            // Numbers are given out in order; a jump means the transport began anew.
            self.packets.clear();
            self.first = packet.number;
        } else {
            self.packets.extend(std::iter::repeat_n(None, (packet.number - next) as usize));
        }
        self.packets.push_back(Some(packet));
        while self.packets.len() > CAPACITY {
            self.packets.pop_front();
            self.first += 1;
        }
    }

    /// Returns the packet that `arrival` speaks of. A received one is forgotten; a missing one may yet be reported.
    pub(super) fn take(&mut self, arrival: &Arrival) -> Option<Sent> {
        let index = usize::try_from(arrival.number.checked_sub(self.first)?).ok()?;
        let slot = self.packets.get_mut(index)?;
        let sent = slot.take();
        while let Some(None) = self.packets.front() {
            self.packets.pop_front();
            self.first += 1;
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the origin of virtual time")]
    fn sent(number: u64) -> Sent {
        Sent { number, at: Instant::now(), bytes: 1200, probe: None }
    }

    fn arrival(number: u64) -> Arrival {
        Arrival { number, received: Some(Duration::ZERO) }
    }

    #[test]
    fn each_packet_is_answered_once_and_the_unsent_never() {
        let mut history = SendHistory::new();
        for number in [10, 11, 13] {
            history.push(sent(number));
        }
        assert!(history.take(&arrival(9)).is_none());
        assert_eq!(history.take(&arrival(11)).unwrap().number, 11);
        assert!(history.take(&arrival(11)).is_none());
        assert!(history.take(&arrival(12)).is_none());
        assert_eq!(history.take(&arrival(13)).unwrap().number, 13);
        assert!(history.take(&arrival(u64::MAX)).is_none());
        assert_eq!(history.take(&arrival(10)).unwrap().number, 10);
    }

    #[test]
    fn it_is_bounded_and_survives_a_jump() {
        let mut history = SendHistory::new();
        for number in 0..20_000 {
            history.push(sent(number));
        }
        assert_eq!(history.packets.len(), CAPACITY);
        assert!(history.take(&arrival(0)).is_none());
        history.push(sent(1 << 40));
        assert_eq!(history.packets.len(), 1);
        assert!(history.take(&arrival(1 << 40)).is_some());
    }
}
