//! Clocks and randomness for tests.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nexus_core::time::{Clock, Entropy, MonoMs, UnixMs};
use rand::{RngCore, SeedableRng};

/// A clock that moves only when told.
#[derive(Debug)]
pub struct ManualClock {
    wall: AtomicI64,
    mono: AtomicU64,
}

impl ManualClock {
    pub fn at(now: UnixMs) -> Self {
        Self { wall: AtomicI64::new(now.0), mono: AtomicU64::new(0) }
    }

    /// Moves both clocks forward.
    pub fn advance_ms(&self, ms: u64) {
        self.wall.fetch_add(i64::try_from(ms).unwrap_or(i64::MAX), Ordering::SeqCst);
        self.mono.fetch_add(ms, Ordering::SeqCst);
    }

    /// Moves the wall clock alone, either way, as an administrator or NTP would.
    pub fn jump_wall_ms(&self, ms: i64) {
        self.wall.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixMs {
        UnixMs(self.wall.load(Ordering::SeqCst))
    }

    fn mono(&self) -> MonoMs {
        MonoMs(self.mono.load(Ordering::SeqCst))
    }
}

/// The machine's own clock, for tests against real servers.
#[derive(Debug)]
pub struct TestClock(Instant);

impl Default for TestClock {
    #[expect(clippy::disallowed_methods, reason = "the one ambient clock of the tests")]
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for TestClock {
    #[expect(clippy::disallowed_methods, reason = "the one ambient clock of the tests")]
    fn now(&self) -> UnixMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn mono(&self) -> MonoMs {
        MonoMs(u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// The machine's own clock, whose wall time can be moved ahead. Clones move together.
#[derive(Debug, Clone, Default)]
pub struct AheadClock {
    clock: Arc<TestClock>,
    ahead_ms: Arc<AtomicI64>,
}

impl AheadClock {
    pub fn advance_ms(&self, ms: i64) {
        self.ahead_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for AheadClock {
    fn now(&self) -> UnixMs {
        self.clock.now().plus_ms(self.ahead_ms.load(Ordering::SeqCst))
    }

    fn mono(&self) -> MonoMs {
        self.clock.mono()
    }
}

/// Repeatable randomness.
pub struct SeededEntropy(Mutex<rand::rngs::StdRng>);

impl SeededEntropy {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(rand::rngs::StdRng::seed_from_u64(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().expect("no panic while held").fill_bytes(bytes);
    }
}

/// The operating system's randomness, for tests that share a real server.
#[derive(Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, reason = "the one ambient randomness of the tests")]
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system has randomness");
    }
}
