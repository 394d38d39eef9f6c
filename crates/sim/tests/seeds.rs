//! Many small worlds, each decided by a seed. `NEXUS_SIM_SEEDS` says how many, `NEXUS_SIM_FROM` where to begin.

use nexus_sim::{Report, Seeds, run, run_many};

/// Seeds of every test run.
const SEEDS: u64 = 800;
const THREADS: usize = 2;
/// Lines of a failed seed's trace that are shown.
const SHOWN: usize = 60;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn show(report: &Report) -> String {
    let tail = &report.tail[report.tail.len().saturating_sub(SHOWN)..];
    format!(
        "seed {seed}: {}\nreplay it: cargo run -- sim --seed {seed}\n{}",
        report.violations.join("; "),
        tail.join("\n"),
        seed = report.seed
    )
}

#[test]
fn what_must_hold_holds_in_every_seed() {
    let count = number("NEXUS_SIM_SEEDS", SEEDS);
    let seeds = Seeds { first: number("NEXUS_SIM_FROM", 0), count, threads: THREADS, stop_at_violation: false };
    let summary = run_many(seeds, |report| {
        if !report.violations.is_empty() {
            println!("{}", show(report));
        }
    })
    .unwrap();
    let never: Vec<&str> = summary.totals.counts.iter().filter(|(_, n)| *n == 0).map(|(name, _)| name).collect();
    println!("{} seeds: {:#?}", summary.seeds, summary.totals);
    let violated: Vec<u64> = summary.violated.iter().map(|report| report.seed).collect();
    assert!(violated.is_empty(), "seeds {violated:?}\n{}", show(&summary.violated[0]));
    assert_eq!(summary.seeds, count);
    // A fault that never happens is not withstood, and an operation that nobody does is not tried.
    assert!(never.is_empty() || count < SEEDS, "in {count} seeds there was never: {never:?}");
    assert!(summary.totals.payments > count && summary.totals.ticks > count, "{:?}", summary.totals);
}

/// Alone, again, and beside others on another thread: one trace.
#[test]
fn a_seed_gives_one_trace() {
    let first = number("NEXUS_SIM_FROM", 0);
    let alone: Vec<Report> = (first..first + 6).map(|seed| run(seed).unwrap()).collect();
    let beside = std::sync::Mutex::new(Vec::new());
    let seeds = Seeds { first, count: 6, threads: THREADS, stop_at_violation: false };
    run_many(seeds, |report| beside.lock().unwrap().push(report.clone())).unwrap();
    let mut beside = beside.into_inner().unwrap();
    beside.sort_by_key(|report| report.seed);
    for (one, other) in alone.iter().zip(&beside) {
        let differ = one.tail.iter().zip(&other.tail).find(|(a, b)| a != b);
        assert_eq!(one.hash, other.hash, "seed {} has two traces: {differ:?}", one.seed);
    }
    let mut hashes: Vec<&String> = alone.iter().map(|report| &report.hash).collect();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), alone.len(), "two seeds have one trace");
}
