//! Time in microseconds, and what a run comes to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::shape::APPENDS;

/// A monotonic stopwatch. [`nexus_core::Clock`] counts milliseconds, which are too coarse here.
#[derive(Debug, Clone, Copy)]
pub struct Watch(Instant);

impl Watch {
    #[expect(clippy::disallowed_methods, reason = "a measurement is about the real clock")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// The counted part of a run: from the end of the warm-up to the end, and to the end of the first tick if that is later,
/// so that a slow disk gives a low figure instead of none.
#[derive(Debug, Clone)]
pub struct Window {
    watch: Watch,
    from: Duration,
    until: Duration,
    /// Whether a tick was counted.
    counted: Arc<AtomicBool>,
}

/// Ticks of a run.
#[derive(Debug, Default)]
pub struct Samples {
    /// Latencies of ticks that ended in the window, in microseconds.
    counted: Vec<u64>,
    /// All ticks, those of the warm-up too.
    pub all: u64,
    /// When the last counted one ended.
    last: Duration,
}

/// A run's figures.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    pub ticks: u64,
    pub ticks_per_second: f64,
    pub appends_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Mean size of a group that shared one commit.
    pub appends_per_commit: f64,
}

impl Window {
    pub fn open(warm_up: Duration, counted: Duration) -> Self {
        Self { watch: Watch::start(), from: warm_up, until: warm_up + counted, counted: Arc::default() }
    }

    pub fn warm_up(&self) -> Duration {
        self.from
    }

    pub fn now(&self) -> Duration {
        self.watch.elapsed()
    }

    pub fn over(&self) -> bool {
        self.now() >= self.until && self.counted.load(Ordering::Relaxed)
    }
}

impl Samples {
    /// A tick that began at `began` and ends now.
    pub fn add(&mut self, window: &Window, began: Duration) {
        let now = window.now();
        self.all += 1;
        if now >= window.from && (now < window.until || !window.counted.load(Ordering::Relaxed)) {
            window.counted.store(true, Ordering::Relaxed);
            self.last = now;
            self.counted.push(u64::try_from((now - began).as_micros()).unwrap_or(u64::MAX));
        }
    }

    pub fn join(&mut self, other: Self) {
        self.counted.extend(other.counted);
        self.all += other.all;
        self.last = self.last.max(other.last);
    }

    /// `commits`: of all ticks.
    pub fn figures(mut self, window: &Window, commits: u64) -> Figures {
        self.counted.sort_unstable();
        let seconds = (self.last.max(window.until) - window.from).as_secs_f64();
        let ticks_per_second = self.counted.len() as f64 / seconds;
        Figures {
            ticks: self.counted.len() as u64,
            ticks_per_second,
            appends_per_second: ticks_per_second * APPENDS as f64,
            p50_ms: self.percentile(50),
            p99_ms: self.percentile(99),
            appends_per_commit: (self.all * APPENDS as u64) as f64 / commits.max(1) as f64,
        }
    }

    /// In milliseconds; of sorted samples.
    fn percentile(&self, percent: usize) -> f64 {
        let last = self.counted.len().saturating_sub(1);
        let place = (self.counted.len() * percent / 100).min(last);
        self.counted.get(place).map_or(0.0, |us| *us as f64 / 1_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_samples() {
        let counted = (1..=100).map(|ms| ms * 1_000).collect();
        let samples = Samples { counted, all: 100, last: Duration::ZERO };
        assert_eq!((samples.percentile(50), samples.percentile(99)), (51.0, 100.0));
        assert_eq!(Samples::default().percentile(50), 0.0);
    }

    #[test]
    fn a_run_lasts_until_a_tick_was_counted() {
        let window = Window::open(Duration::ZERO, Duration::ZERO);
        assert!(!window.over());
        let mut samples = Samples::default();
        for _ in 0..2 {
            samples.add(&window, Duration::ZERO);
        }
        assert!(window.over());
        let figures = samples.figures(&window, 2);
        assert_eq!(figures.ticks, 1, "the second came after the end");
        assert!(figures.ticks_per_second > 0.0 && figures.ticks_per_second.is_finite());
    }
}
