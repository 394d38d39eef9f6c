//! Many seeds, on several threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::run::{Fault, Report, Totals, run};

/// Which seeds to run, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seeds {
    pub first: u64,
    pub count: u64,
    pub threads: usize,
    /// Begins no other seed after a violation.
    pub stop_at_violation: bool,
}

/// What came of many seeds.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Seeds that were run to their end.
    pub seeds: u64,
    pub totals: Totals,
    /// Reports of seeds in which something did not hold, by seed.
    pub violated: Vec<Report>,
}

/// Reports with violations that are kept.
const MAX_VIOLATED: usize = 100;

/// Runs seeds, and tells `each` of every report as it comes.
pub fn run_many(seeds: Seeds, each: impl Fn(&Report) + Sync) -> Result<Summary, Fault> {
    run_each(seeds, run, each)
}

pub(crate) fn run_each(
    seeds: Seeds,
    run: impl Fn(u64) -> Result<Report, Fault> + Sync,
    each: impl Fn(&Report) + Sync,
) -> Result<Summary, Fault> {
    let (next, stop) = (AtomicU64::new(seeds.first), AtomicBool::new(false));
    let summary = Mutex::new(Summary::default());
    let end = seeds.first.saturating_add(seeds.count);
    let work = || -> Result<(), Fault> {
        while !stop.load(Ordering::SeqCst) {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= end {
                break;
            }
            // What the code logs of its simulated troubles is nobody's news.
            let silent = tracing::subscriber::NoSubscriber::default();
            let report = catch_unwind(AssertUnwindSafe(|| tracing::subscriber::with_default(silent, || run(seed))))
                .unwrap_or_else(|_| Err(format!("seed {seed} panicked").into()))
                .inspect_err(|_| stop.store(true, Ordering::SeqCst))?;
            each(&report);
            let mut summary = locked(&summary);
            summary.seeds += 1;
            summary.totals += report.totals.clone();
            if !report.violations.is_empty() {
                stop.fetch_or(seeds.stop_at_violation, Ordering::SeqCst);
                if summary.violated.len() < MAX_VIOLATED {
                    summary.violated.push(report);
                }
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..seeds.threads.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())))
    })?;
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.violated.sort_by_key(|report| report.seed);
    Ok(summary)
}

fn locked(summary: &Mutex<Summary>) -> MutexGuard<'_, Summary> {
    summary.lock().unwrap_or_else(PoisonError::into_inner)
}
