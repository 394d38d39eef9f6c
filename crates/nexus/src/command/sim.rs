//! Replays seeds of the simulation.

use std::sync::atomic::{AtomicU64, Ordering};

use nexus_sim::{Report, Seeds, Summary, Totals, run_many};
use serde_json::{Value, json};

use crate::cli::SimArgs;
use crate::output::Output;
use crate::prompt;

/// Seeds between two words on how far it is.
const PROGRESS: u64 = 500;

/// Something that must never be happened in a seed.
#[derive(Debug, thiserror::Error)]
#[error("seed {seed}: {what}\n  next: `nexus sim --seed {seed}` replays it")]
struct Violated {
    seed: u64,
    what: String,
}

pub async fn run(args: SimArgs, output: Output) -> anyhow::Result<()> {
    let (first, count, threads) = (args.seed, args.seeds, usize::from(args.threads));
    let seeds = Seeds { first, count, threads, stop_at_violation: true };
    // Each seed is computation and nothing else.
    let summary = tokio::task::spawn_blocking(move || {
        let done = AtomicU64::new(0);
        let only = std::sync::Mutex::new(None);
        let summary = run_many(seeds, |report| {
            let done = done.fetch_add(1, Ordering::SeqCst) + 1;
            if done.is_multiple_of(PROGRESS) {
                prompt::say(format!("{done} of {count} seeds, seed {} among the last", report.seed));
            }
            if count == 1
                && let Ok(mut only) = only.lock()
            {
                *only = Some(report.clone());
            }
        });
        summary.map(|summary| (summary, only.into_inner().ok().flatten()))
    });
    let (summary, only) = summary.await?.map_err(|error| anyhow::anyhow!("the simulation: {error}"))?;
    let shown = only.as_ref().or(summary.violated.first());
    output.either(&document(first, &summary, shown), || text(&summary, shown));
    match summary.violated.first() {
        None => Ok(()),
        Some(report) => Err(Violated { seed: report.seed, what: report.violations.join("; ") }.into()),
    }
}

fn document(first: u64, summary: &Summary, shown: Option<&Report>) -> Value {
    let report = |report: &Report| json!({ "seed": report.seed, "hash": report.hash, "violations": report.violations, "tail": report.tail });
    json!({
        "first": first,
        "seeds": summary.seeds,
        "violated": summary.violated.iter().map(|report| report.seed).collect::<Vec<_>>(),
        "report": shown.map(report),
        "totals": totals(&summary.totals),
    })
}

fn totals(totals: &Totals) -> Value {
    json!({
        "ticks": totals.ticks,
        "triggers": totals.triggers,
        "payments": totals.payments,
        "lasted_ms": totals.lasted_ms,
        "counts": totals.counts.iter().map(|(name, count)| (name.to_owned(), count.into())).collect::<serde_json::Map<_, _>>(),
    })
}

fn text(summary: &Summary, shown: Option<&Report>) -> String {
    let mut lines = Vec::new();
    if let Some(report) = shown {
        lines.extend(report.tail.iter().cloned());
        lines.push(format!("seed {}, trace {}", report.seed, report.hash));
        lines.extend(report.violations.iter().map(|what| format!("violated: {what}")));
    }
    let Totals { ticks, triggers, payments, lasted_ms, .. } = &summary.totals;
    let secs = lasted_ms / 1_000;
    lines.push(format!(
        "{} seeds, {secs} s of their time: {ticks} ticks, {triggers} triggers, {payments} payments",
        summary.seeds
    ));
    let counts = summary.totals.counts.iter().filter(|(_, count)| *count > 0);
    lines.extend(counts.map(|(name, count)| format!("{count:>8}  {name}")));
    lines.join("\n")
}
