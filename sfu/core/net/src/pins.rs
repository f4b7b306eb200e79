//! Which of our addresses a peer talks to, so that it is answered from the same one.
//!
//! Only for sockets bound to every address of a machine that has several: the kernel would answer from the address of
//! the route, and a client drops what comes from elsewhere. Bounded; what is forgotten is learnt again from the
//! peer's next packet. Nothing here is trusted: a forged packet can only change where its own source is answered from.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

#[derive(Debug, Default)]
pub(crate) struct SourcePins {
    by_peer: HashMap<SocketAddr, IpAddr>,
}

/// More peers than a worker has transports; a flood of forged sources costs at most this memory.
const CAPACITY: usize = 65_536;

impl SourcePins {
    pub(crate) fn note(&mut self, peer: SocketAddr, local: IpAddr) {
        if self.by_peer.get(&peer) == Some(&local) {
            return;
        }
        if self.by_peer.len() >= CAPACITY {
            self.by_peer.clear();
        }
        self.by_peer.insert(peer, local);
    }

    pub(crate) fn get(&self, peer: SocketAddr) -> Option<IpAddr> {
        self.by_peer.get(&peer).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_address_counts_and_a_flood_is_bounded() {
        let peer: SocketAddr = "192.0.2.1:5000".parse().expect("a literal address");
        let (first, second): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut pins = SourcePins::default();
        assert_eq!(pins.get(peer), None);
        pins.note(peer, first);
        pins.note(peer, second);
        assert_eq!(pins.get(peer), Some(second));
        for index in 0..2 * CAPACITY as u32 {
            let [a, b, c, d] = index.to_be_bytes();
            pins.note(SocketAddr::from(([a, b, c, d], 9)), first);
            assert!(pins.by_peer.len() <= CAPACITY);
        }
    }
}
