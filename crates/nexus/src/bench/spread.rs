//! How times are spread: what a run of measurements comes to.

use serde::Serialize;

/// Percentiles of a run, in milliseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Spread {
    pub count: u64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Spread {
    /// Of samples in microseconds.
    pub fn of(mut samples: Vec<u64>) -> Self {
        samples.sort_unstable();
        let at = |percent: usize| {
            let place = (samples.len() * percent / 100).min(samples.len().saturating_sub(1));
            samples.get(place).map_or(0.0, |us| *us as f64 / 1_000.0)
        };
        Self {
            count: samples.len() as u64,
            p50_ms: at(50),
            p90_ms: at(90),
            p99_ms: at(99),
            max_ms: samples.last().map_or(0.0, |us| *us as f64 / 1_000.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_samples() {
        let spread = Spread::of((1..=100).rev().map(|ms| ms * 1_000).collect());
        assert_eq!((spread.count, spread.p50_ms, spread.p99_ms, spread.max_ms), (100, 51.0, 100.0, 100.0));
        assert_eq!(Spread::of(Vec::new()).max_ms, 0.0);
    }
}
