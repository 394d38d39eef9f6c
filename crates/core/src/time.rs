//! Time and randomness as parameters.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Wall-clock milliseconds since 1970 (UTC). For schedules, history and display; never for liveness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMs(pub i64);

impl UnixMs {
    pub const fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Whole seconds, the form of Nostr's `created_at`.
    pub const fn secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1000))
    }
}

impl fmt::Display for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Monotonic milliseconds since some moment of this process. For leases, deadlines and timeouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MonoMs(pub u64);

impl MonoMs {
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Where time comes from. The real one is made in the binary, a manual one in testkit.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> UnixMs;
    fn mono(&self) -> MonoMs;
}

/// Where randomness comes from. The real one reads the operating system's generator.
pub trait Entropy: Send + Sync + 'static {
    fn fill(&self, bytes: &mut [u8]);
}

/// A random array of some length.
pub fn random<const N: usize>(entropy: &dyn Entropy) -> [u8; N] {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes);
    bytes
}
