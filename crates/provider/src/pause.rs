//! Pauses between attempts: doubling, and each drawn between half and all of it, so that many don't come together.

use std::sync::Arc;
use std::time::Duration;

use nexus_core::Entropy;
use nexus_core::time::random;

pub(crate) struct Backoff {
    bounds_ms: (u64, u64),
    next_ms: u64,
    entropy: Arc<dyn Entropy>,
}

impl Backoff {
    /// First and longest pause in ms.
    pub(crate) fn new(bounds_ms: (u64, u64), entropy: Arc<dyn Entropy>) -> Self {
        Self { bounds_ms, next_ms: bounds_ms.0, entropy }
    }

    pub(crate) fn reset(&mut self) {
        self.next_ms = self.bounds_ms.0;
    }

    pub(crate) async fn wait(&mut self) {
        let pause_ms = self.draw();
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }

    fn draw(&mut self) -> u64 {
        let full = self.next_ms;
        self.next_ms = full.saturating_mul(2).min(self.bounds_ms.1);
        let half = full / 2;
        half + u64::from(u32::from_le_bytes(random(&*self.entropy))) % (full - half + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nexus_testkit::SeededEntropy;

    #[test]
    fn pauses_double_within_bounds() {
        let mut backoff = Backoff::new((100, 350), Arc::new(SeededEntropy::new(1)));
        for full in [100, 200, 350, 350] {
            let drawn = backoff.draw();
            assert!((full / 2..=full).contains(&drawn), "{drawn} of {full}");
        }
        backoff.reset();
        assert!(backoff.draw() <= 100);
    }
}
