//! Pictures that stand aside while sound, checks and reports overtake them: what a thread does first that is late.
//!
//! The kernel's buffer knows one order. Once packets have waited in it for [`LATE`], it is emptied, what cannot wait is
//! done at once, and the rest lies here in its order. Where nothing is late nothing comes here. No clock, no socket.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use callyard_proto::engine::Datagram;

/// Longer than a picture to a few hundred people takes, shorter than what a jitter buffer makes of sound.
pub(crate) const LATE: Duration = Duration::from_millis(10);
/// Done before the socket is looked at again: as many as take between these, which depends on how many get them.
const SHORT: Duration = Duration::from_micros(500);
const LONG: Duration = Duration::from_millis(2);
const MOST_AT_ONCE: usize = 64;

/// A datagram that owns its bytes.
#[derive(Debug)]
pub(crate) struct Held {
    source: SocketAddr,
    received: Instant,
    bytes: Box<[u8]>,
}

impl Held {
    pub(crate) fn datagram(&mut self) -> Datagram<'_> {
        Datagram { source: self.source, payload: &mut self.bytes, received: self.received }
    }
}

#[derive(Debug)]
pub(crate) struct Behind {
    held: VecDeque<Held>,
    bytes: usize,
    most_bytes: usize,
    few: usize,
}

impl Behind {
    /// Beyond `most_bytes` everything waits in the kernel, and what does not fit there is lost.
    pub(crate) fn new(most_bytes: usize) -> Self {
        Self { held: VecDeque::new(), bytes: 0, most_bytes, few: 8 }
    }

    /// When the first of them came.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.held.front().map(|held| held.received)
    }

    /// Nothing more is to be taken from the kernel: whatever came could not stand aside.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= self.most_bytes
    }

    pub(crate) fn push(&mut self, datagram: &Datagram<'_>) {
        self.bytes += datagram.payload.len();
        let bytes = Box::from(&*datagram.payload);
        self.held.push_back(Held { source: datagram.source, received: datagram.received, bytes });
    }

    /// The oldest few into `few`, which is emptied first.
    pub(crate) fn take(&mut self, few: &mut Vec<Held>) {
        few.clear();
        few.extend(self.held.drain(..self.few.min(self.held.len())));
        self.bytes -= few.iter().map(|held| held.bytes.len()).sum::<usize>();
    }

    /// Those that were taken last are done.
    pub(crate) fn took(&mut self, time: Duration) {
        if time > LONG {
            self.few = (self.few / 2).max(1);
        } else if time < SHORT {
            self.few = (self.few * 2).min(MOST_AT_ONCE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_aside_comes_back_whole_and_in_its_order_and_is_bounded() {
        #[expect(clippy::disallowed_methods, reason = "one base instant; all others are reckoned from it")]
        let start = Instant::now();
        let source: SocketAddr = "192.0.2.1:9".parse().expect("a literal address");
        let (mut behind, mut few, mut back) = (Behind::new(8_000), Vec::new(), Vec::new());
        assert_eq!(behind.oldest(), None);
        for number in 0..20u8 {
            let received = start + Duration::from_millis(number.into());
            behind.push(&Datagram { source, payload: &mut [number; 3], received });
        }
        let mut since = Vec::new();
        while let Some(at) = behind.oldest() {
            since.push((at - start).as_millis());
            behind.take(&mut few);
            back.extend(few.iter_mut().map(|held| {
                let datagram = held.datagram();
                (datagram.source, datagram.payload.to_vec())
            }));
        }
        assert_eq!(since, [0, 8, 16]);
        assert_eq!(back, (0..20).map(|number| (source, vec![number; 3])).collect::<Vec<_>>());

        for (micros, few) in [(1_000, 8), (100, 16), (100, 32), (100, 64), (100, 64), (3_000, 32)] {
            behind.took(Duration::from_micros(micros));
            assert_eq!(behind.few, few);
        }
        (0..9).for_each(|_| behind.took(Duration::from_millis(50)));
        assert_eq!(behind.few, 1);

        let mut large = [0; 1_000];
        for _ in 0..8 {
            assert!(!behind.is_full());
            behind.push(&Datagram { source, payload: &mut large, received: start });
        }
        assert!(behind.is_full());
        behind.take(&mut few);
        assert!(!behind.is_full() && few.len() == 1);
    }
}
