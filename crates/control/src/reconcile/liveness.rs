//! Who is alive, without anyone's wall clock: a counter that moved, seen from here.
//!
//! The same rule serves workers (their beat) and the term of the reconciler (its holder's beat). An observer starts
//! from zero: what it has not yet seen move is neither alive nor dead.

use std::collections::HashMap;
use std::hash::Hash;

use nexus_core::MonoMs;

/// What an observer knows of one counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// Not seen to move yet, and not still for a whole lease either.
    Unknown,
    /// It moved within the lease.
    Alive,
    /// It stood still for the whole lease, while we watched.
    Dead,
}

#[derive(Debug, Clone, Copy)]
struct Seen<C> {
    counter: C,
    /// When it was first seen at this value, on our own monotonic clock.
    since: MonoMs,
    moved: bool,
}

/// Watches counters by key.
#[derive(Debug)]
pub struct Observer<K, C> {
    lease_ms: u64,
    seen: HashMap<K, Seen<C>>,
}

impl<K: Eq + Hash + Copy, C: PartialEq + Copy> Observer<K, C> {
    pub fn new(lease_ms: u64) -> Self {
        Self { lease_ms, seen: HashMap::new() }
    }

    /// Notes what a counter reads now, and says what that means.
    pub fn observe(&mut self, key: K, counter: C, now: MonoMs) -> Sign {
        let first = Seen { counter, since: now, moved: false };
        let seen = self.seen.entry(key).or_insert(first);
        if seen.counter != counter {
            *seen = Seen { counter, since: now, moved: true };
        }
        match (now.since(seen.since) >= self.lease_ms, seen.moved) {
            (true, _) => Sign::Dead,
            (false, true) => Sign::Alive,
            (false, false) => Sign::Unknown,
        }
    }

    /// Forgets all but these.
    pub fn keep(&mut self, wanted: impl Fn(&K) -> bool) {
        self.seen.retain(|key, _| wanted(key));
    }

    /// Starts again from zero: after not having looked for a while, standing still proves nothing.
    pub fn forget(&mut self) {
        self.seen.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lease_of_stillness_under_our_eyes_is_death() {
        let mut observer = Observer::new(5_000);
        assert_eq!(observer.observe(1, 7, MonoMs(0)), Sign::Unknown);
        assert_eq!(observer.observe(1, 8, MonoMs(1_000)), Sign::Alive);
        assert_eq!(observer.observe(1, 8, MonoMs(5_999)), Sign::Alive);
        assert_eq!(observer.observe(1, 8, MonoMs(6_000)), Sign::Dead);
        assert_eq!(observer.observe(1, 9, MonoMs(6_001)), Sign::Alive);
        // Another one, that never moved.
        assert_eq!(observer.observe(2, 0, MonoMs(6_000)), Sign::Unknown);
        assert_eq!(observer.observe(2, 0, MonoMs(11_000)), Sign::Dead);
        observer.forget();
        assert_eq!(observer.observe(1, 9, MonoMs(90_000)), Sign::Unknown);
    }
}
