//! What was sent under which transport-wide number, until the other end has told what became of it.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// One packet handed to the network.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// Transport-wide sequence number, unwrapped.
    pub number: u64,
    #[serde(with = "crate::moment")]
    pub at: Instant,
    /// Size on the wire without IP and UDP headers.
    pub bytes: u32,
    /// The probe cluster it belongs to.
    pub probe: Option<u32>,
    /// Set by the estimator: it meets the queue that a probe makes.
    pub shadowed: bool,
}

/// What the other end says of one number. `received` is on its own clock, from an arbitrary origin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    pub number: u64,
    pub received: Option<Duration>,
}

/// Longest unanswered tail: two seconds of 20 Mbit/s in full packets, 64 KiB of memory.
const CAPACITY: usize = 4096;
/// A packet reported missing may still come out of order: so many later ones are waited for.
const REORDERED: u64 = 256;
/// Nor is anything told any more of what left so much earlier than a packet that was told of: the feedback was lost, or the
/// other end did not listen yet.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a packet turned out to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Answer {
    Received(Sent),
    Lost(Sent),
    /// Was taken for lost before.
    Late,
}

/// One number, in a quarter of a cache line: of a fast stream a second's worth lies here for each subscriber.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Place {
    /// When it left, in nanoseconds since the history's origin.
    at: u64,
    /// The probe cluster it belongs to; they are counted from 1.
    probe: Option<NonZeroU32>,
    /// No datagram is longer.
    bytes: u16,
    shadowed: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
enum State {
    /// Answered for good, or never sent.
    Empty,
    Waiting,
    Missing,
}

const _: () = assert!(size_of::<Place>() == 16);

impl Place {
    const EMPTY: Self = Self { at: 0, probe: None, bytes: 0, shadowed: false, state: State::Empty };

    fn new(packet: &Sent, origin: Instant) -> Self {
        Self {
            at: packet.at.saturating_duration_since(origin).as_nanos() as u64,
            probe: packet.probe.and_then(NonZeroU32::new),
            bytes: packet.bytes.try_into().unwrap_or(u16::MAX),
            shadowed: packet.shadowed,
            state: State::Waiting,
        }
    }

    fn packet(&self, number: u64, origin: Instant) -> Sent {
        Sent {
            number,
            at: origin + Duration::from_nanos(self.at),
            bytes: u32::from(self.bytes),
            probe: self.probe.map(NonZeroU32::get),
            shadowed: self.shadowed,
        }
    }
}

#[derive(Default, Serialize, Deserialize)]
pub(super) struct SendHistory {
    /// `packets[i]` has number `first + i`.
    packets: VecDeque<Place>,
    first: u64,
    /// When the first packet of all left.
    #[serde(with = "crate::moment")]
    origin: Option<Instant>,
}

impl SendHistory {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn push(&mut self, packet: &Sent) {
        let origin = *self.origin.get_or_insert(packet.at);
        if self.packets.is_empty() {
            self.first = packet.number;
        }
        let next = self.first + self.packets.len() as u64;
        if packet.number < next || packet.number - next > CAPACITY as u64 {
            // Numbers are given out in order; a jump means the transport began anew.
            self.packets.clear();
            self.first = packet.number;
        } else {
            self.packets.extend(std::iter::repeat_n(Place::EMPTY, (packet.number - next) as usize));
        }
        self.packets.push_back(Place::new(packet, origin));
        while self.packets.len() > CAPACITY {
            self.packets.pop_front();
            self.first += 1;
        }
    }

    /// When the first packet left of those that are newer than `number` and were not told of yet.
    pub(super) fn left_after(&self, number: u64) -> Option<Instant> {
        let from = usize::try_from((number + 1).saturating_sub(self.first)).ok()?;
        let mut newer = self.packets.range(from.min(self.packets.len())..);
        let waiting = newer.find(|place| place.state == State::Waiting)?;
        Some(self.origin? + Duration::from_nanos(waiting.at))
    }

    /// What `arrival` says that was not known yet.
    pub(super) fn take(&mut self, arrival: &Arrival) -> Option<Answer> {
        let index = usize::try_from(arrival.number.checked_sub(self.first)?).ok()?;
        let place = self.packets.get_mut(index)?;
        let sent = place.packet(arrival.number, self.origin?);
        let (answer, state) = match (place.state, arrival.received) {
            (State::Waiting, Some(_)) => (Answer::Received(sent), State::Empty),
            (State::Missing, Some(_)) => (Answer::Late, State::Empty),
            (State::Waiting, None) => (Answer::Lost(sent), State::Missing),
            _ => return None,
        };
        place.state = state;
        let left = place.at;
        while let Some(front) = self.packets.front() {
            let is_behind = arrival.number.saturating_sub(self.first) > REORDERED;
            let is_over = match front.state {
                State::Empty => true,
                State::Missing => is_behind,
                State::Waiting => is_behind && left.saturating_sub(front.at) > PATIENCE.as_nanos() as u64,
            };
            if !is_over {
                break;
            }
            self.packets.pop_front();
            self.first += 1;
        }
        Some(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do as the origin of virtual time")]
    fn sent(number: u64) -> Sent {
        Sent { number, at: Instant::now(), bytes: 1200, probe: None, shadowed: false }
    }

    fn arrival(number: u64) -> Arrival {
        Arrival { number, received: Some(Duration::ZERO) }
    }

    fn missing(number: u64) -> Arrival {
        Arrival { number, received: None }
    }

    #[test]
    fn each_packet_is_answered_once_and_the_unsent_never() {
        let mut history = SendHistory::new();
        for number in [10, 11, 13] {
            history.push(&sent(number));
        }
        assert!(history.take(&arrival(9)).is_none());
        assert!(matches!(history.take(&arrival(11)), Some(Answer::Received(Sent { number: 11, .. }))));
        assert!(history.take(&arrival(11)).is_none());
        assert!(history.take(&arrival(12)).is_none());
        assert!(matches!(history.take(&missing(13)), Some(Answer::Lost(Sent { number: 13, .. }))));
        assert!(history.take(&missing(13)).is_none(), "lost once");
        assert!(matches!(history.take(&arrival(13)), Some(Answer::Late)));
        assert!(history.take(&arrival(u64::MAX)).is_none());
        assert!(matches!(history.take(&arrival(10)), Some(Answer::Received(Sent { number: 10, .. }))));
        assert!(history.packets.is_empty());
    }

    #[test]
    fn what_was_passed_over_is_not_waited_for() {
        let (mut history, start) = (SendHistory::new(), sent(0).at);
        // Nobody tells of the first ten, nor of one feedback's worth later on.
        let is_told = |number: u64| number >= 10 && !(5_000..5_010).contains(&number);
        for number in 0..10_000u64 {
            history.push(&Sent { at: start + Duration::from_millis(4) * number as u32, ..sent(number) });
            if is_told(number) {
                assert!(history.take(&arrival(number)).is_some());
            }
            assert!(history.packets.len() <= 300, "{} at {number}", history.packets.len());
        }
        assert!(history.packets.is_empty());
    }

    #[test]
    fn it_is_bounded_and_survives_a_jump() {
        let mut history = SendHistory::new();
        for number in 0..20_000 {
            history.push(&sent(number));
        }
        assert_eq!(history.packets.len(), CAPACITY);
        assert!(history.take(&arrival(0)).is_none());
        history.push(&sent(1 << 40));
        assert_eq!(history.packets.len(), 1);
        assert!(history.take(&arrival(1 << 40)).is_some());
    }
}
