//! Random numbers from the seed that the engine is given: for identifiers that must not repeat, not for keys.

/// SplitMix64 (Steele, Lea, Flood 2014) over a 256-bit seed folded into its state.
#[derive(Clone, Debug)]
pub struct Entropy(u64);

impl Entropy {
    pub fn new(seed: [u8; 32]) -> Self {
        let mut state = Self(0);
        for word in seed.chunks_exact(8) {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(word);
            state.0 ^= u64::from_le_bytes(bytes);
            state.0 = state.next_u64();
        }
        state
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }
}
