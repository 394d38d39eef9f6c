//! Seeded randomness: the only source of chance in a run.

use std::sync::{Mutex, PoisonError};

use nexus_core::Entropy;

/// A stream of numbers that depends on its seed alone (SplitMix64).
#[derive(Debug)]
pub struct Dice(Mutex<u64>);

impl Dice {
    pub const fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    /// A stream of its own for one part, so that what one part draws does not depend on how often others drew.
    pub fn fork(&self, part: &str) -> Self {
        let salt = part
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self::new(self.next() ^ salt)
    }

    pub fn next(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// True in `permille` of a thousand.
    pub fn chance(&self, permille: u64) -> bool {
        self.next() % 1_000 < permille
    }

    /// One of these. There must be one.
    pub fn pick<'a, T>(&self, of: &'a [T]) -> &'a T {
        let last = u64::try_from(of.len()).unwrap_or(1).max(1) - 1;
        &of[usize::try_from(self.between(0, last)).unwrap_or(0)]
    }
}

impl Entropy for Dice {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.next().to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_parts_differ() {
        let draw = |seed| {
            let dice = Dice::new(seed);
            let part = dice.fork("a");
            (dice.next(), part.next(), part.between(3, 5), dice.fork("b").next())
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!((3..=5).contains(&draw(7).2));
    }
}
