//! The one place where the real clock and the real randomness are made.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nexus_core::time::{Clock, Entropy, MonoMs, UnixMs};

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock(Instant);

impl SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the real clock is made here and nowhere else")]
    pub fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the real clock is read here and nowhere else")]
    fn now(&self) -> UnixMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn mono(&self) -> MonoMs {
        MonoMs(u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

/// The operating system's generator.
#[derive(Debug, Clone, Copy)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, reason = "the real randomness is read here and nowhere else")]
    fn fill(&self, bytes: &mut [u8]) {
        if let Err(error) = getrandom::fill(bytes) {
            // A key made without randomness would be worse than no process.
            tracing::error!(%error, "the operating system gives no randomness");
            std::process::abort();
        }
    }
}
