//! What an idle agent costs: memory on its worker, the time to place it, and the lag of its heartbeats.

use std::time::Duration;

use comfy_table::Cell;
use nexus_core::UnixMs;
use rusqlite::{Connection, OpenFlags, params};
use serde::Serialize;

use super::resting::{Crowd, Place, wait_until};
use super::spread::Spread;
use super::{World, memory, place};
use crate::cli::IdleArgs;
use crate::output::{Output, group};

const GOAL_BYTES: f64 = 1_024.0;
const GOAL_PLACED_MS: u64 = 120_000;
const GOAL_LAG_MS: f64 = 1_000.0;
/// The rate at which agents have to be placed to reach the goal, with room: their heartbeats begin after that.
const PLACING_US: i64 = 140;
const MOST_MS: u64 = 1_800_000;

#[derive(Debug, Serialize)]
pub struct Idle {
    agents: usize,
    heartbeat_secs: u32,
    cores: usize,
    /// Of the whole process: reconciler, worker, store.
    rss_none_bytes: u64,
    rss_placed_bytes: u64,
    rss_after_bytes: u64,
    bytes_per_agent: f64,
    made_ms: u64,
    placed_ms: u64,
    placed_per_second: f64,
    counted_seconds: u64,
    heartbeats_per_second: f64,
    /// Heartbeats of the counted time that were not met at all by its end.
    missed: u64,
    lag: Spread,
}

pub async fn run(world: &World, args: &IdleArgs) -> anyhow::Result<Idle> {
    let agents = args.agents as usize;
    let rss_none = {
        let directory = place(&args.directory()?)?;
        let none = Place::open(world, directory.path())?;
        let (reconciler, worker) = (none.reconciler()?, none.worker());
        tokio::time::sleep(Duration::from_secs(args.seconds.min(3))).await;
        let rss = memory::resident()?;
        worker.stop().await;
        reconciler.stop().await;
        rss
    };
    let directory = place(&args.directory()?)?;
    let began = world.clock.mono();
    let grace = 3_000 + i64::from(args.agents) * PLACING_US / 1_000;
    let heartbeat = i64::from(args.heartbeat) * 1_000;
    let crowd = Crowd { agents, heartbeat_secs: args.heartbeat, due_ms: grace..grace + heartbeat };
    let (filled, made_at) = Place::open(world, directory.path())?.fill(&crowd).await?;
    let made_ms = world.clock.mono().since(began);

    let (reconciler, worker) = (filled.reconciler()?, filled.worker());
    let look = Duration::from_millis((agents as u64 / 1_000).clamp(20, 1_000));
    let placed_ms = filled.wait_placed(&worker, agents, MOST_MS, look).await?;
    // The last are heard of in the answer to the next beat.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let rss_placed = memory::resident()?;

    let from = made_at.plus_ms(grace).max(world.clock.now());
    wait_until(world, from).await;
    let until = from.plus_ms(i64::try_from(args.seconds)? * 1_000);
    wait_until(world, until.plus_ms(1_500)).await;
    let rss_after = memory::resident()?;
    worker.stop().await;
    reconciler.stop().await;
    let path = filled.path.clone();
    drop(filled);
    let (lag, missed) = tokio::task::spawn_blocking(move || lag(&path, from, until, heartbeat)).await??;
    Ok(Idle {
        agents,
        heartbeat_secs: args.heartbeat,
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        rss_none_bytes: rss_none,
        rss_placed_bytes: rss_placed,
        rss_after_bytes: rss_after,
        bytes_per_agent: rss_after.max(rss_placed).saturating_sub(rss_none) as f64 / agents as f64,
        made_ms,
        placed_ms,
        placed_per_second: agents as f64 * 1_000.0 / placed_ms.max(1) as f64,
        counted_seconds: args.seconds,
        heartbeats_per_second: lag.count as f64 / args.seconds as f64,
        missed,
        lag,
    })
}

/// From due to begun, of the heartbeats due in that time. Each agent's beats stay on their grid, so that one beat back
/// from the next is the one that was met.
fn lag(path: &std::path::Path, from: UnixMs, until: UnixMs, heartbeat: i64) -> anyhow::Result<(Spread, u64)> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut statement = connection.prepare(
        "SELECT MAX(0, t.started_at - (a.next_tick_at - ?3)) FROM tick t JOIN agent a ON a.npub = t.npub
         WHERE a.next_tick_at - ?3 >= ?1 AND a.next_tick_at - ?3 < ?2 AND t.started_at >= ?1",
    )?;
    let rows = statement.query_map(params![from.0, until.0, heartbeat], |row| row.get::<_, i64>(0))?;
    let samples = rows.map(|ms| ms.map(|ms| ms.unsigned_abs() * 1_000)).collect::<Result<_, _>>()?;
    let sql = "SELECT COUNT(*) FROM agent WHERE next_tick_at >= ?1 AND next_tick_at < ?2";
    let missed: i64 = connection.query_row(sql, params![from.0, until.0], |row| row.get(0))?;
    Ok((Spread::of(samples), missed.unsigned_abs()))
}

impl Idle {
    pub fn text(&self, output: &Output) -> String {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / 1_048_576.0);
        let mut rows = vec![
            row("agents", group(self.agents as u64), "", None, output),
            row("memory without them", mib(self.rss_none_bytes), "", None, output),
            row("memory when placed", mib(self.rss_placed_bytes), "", None, output),
            row("memory after their heartbeats", mib(self.rss_after_bytes), "", None, output),
            row(
                "bytes for each",
                format!("{:.0}", self.bytes_per_agent),
                "1,024",
                Some(self.bytes_per_agent < GOAL_BYTES),
                output,
            ),
            row(
                "all placed, s",
                format!("{:.1}", self.placed_ms as f64 / 1_000.0),
                "120",
                Some(self.placed_ms < GOAL_PLACED_MS),
                output,
            ),
            row("placed a second", group(self.placed_per_second as u64), "", None, output),
            row("heartbeats a second", group(self.heartbeats_per_second as u64), "", None, output),
        ];
        let reached = self.lag.p99_ms < GOAL_LAG_MS && self.missed == 0;
        rows.push(row("their lag, p50 ms", format!("{:.0}", self.lag.p50_ms), "", None, output));
        rows.push(row("their lag, p99 ms", format!("{:.0}", self.lag.p99_ms), "1,000", Some(reached), output));
        rows.push(row("not met in time", group(self.missed), "0", Some(self.missed == 0), output));
        output.table(["", "here", "goal", ""], rows)
    }
}

/// A line of a table of figures and goals.
pub fn row(name: &str, figure: String, goal: &str, reached: Option<bool>, output: &Output) -> [Cell; 4] {
    let reached = reached.map_or(Cell::new(""), |reached| output.state(if reached { "ok" } else { "warn" }));
    [Cell::new(name), Cell::new(figure), Cell::new(goal), reached]
}
