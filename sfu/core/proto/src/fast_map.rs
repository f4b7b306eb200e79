//! A hash map for small keys on the packet path: one multiplication a word, keyed so that peers cannot aim for collisions.
//!
//! Not for keys of unbounded length.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

pub type FastMap<K, V> = HashMap<K, V, Keyed>;

/// Hashes with a secret; make one from the engine's entropy.
#[derive(Clone, Copy, Debug)]
pub struct Keyed(u64);

impl Keyed {
    pub fn new(key: u64) -> Self {
        Self(key)
    }
}

impl BuildHasher for Keyed {
    type Hasher = Folded;

    #[inline]
    fn build_hasher(&self) -> Folded {
        Folded(self.0)
    }
}

pub struct Folded(u64);

impl Folded {
    #[inline]
    fn mix(&mut self, word: u64) {
        // Folded multiplication as in wyhash; the constant is its first secret.
        let product = u128::from(self.0 ^ word) * 0xa076_1d64_78bd_642f_u128;
        self.0 = (product as u64) ^ ((product >> 64) as u64) ^ self.0.rotate_left(23);
    }
}

impl Hasher for Folded {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    #[inline]
    fn write_u8(&mut self, n: u8) {
        self.mix(n.into());
    }

    #[inline]
    fn write_u16(&mut self, n: u16) {
        self.mix(n.into());
    }

    #[inline]
    fn write_u32(&mut self, n: u32) {
        self.mix(n.into());
    }

    #[inline]
    fn write_u64(&mut self, n: u64) {
        self.mix(n);
    }

    #[inline]
    fn write_usize(&mut self, n: usize) {
        self.mix(n as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::net::{Ipv4Addr, SocketAddr};

    #[test]
    fn neighbouring_addresses_spread_over_the_low_and_the_high_bits() {
        let keyed = Keyed::new(42);
        let hashes: Vec<u64> = (0..4_096u16)
            .map(|port| keyed.hash_one(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 1_024 + port))))
            .collect();
        // 4 096 balls in 4 096 bins leave about 63 % of them filled.
        let low: HashSet<u64> = hashes.iter().map(|h| h & 0xfff).collect();
        let high: HashSet<u64> = hashes.iter().map(|h| h >> 52).collect();
        assert!(low.len() > 2_300 && high.len() > 2_300, "{} and {} bins", low.len(), high.len());
    }

    #[test]
    fn the_key_changes_the_hash() {
        assert_ne!(Keyed::new(1).hash_one(7u32), Keyed::new(2).hash_one(7u32));
    }
}
