//! How long agents are without a worker when theirs is lost.
//!
//! Two workers and the reconciler in one process, on one database. The lost worker's runtime is taken away between two
//! instructions, as a killed process would be: nothing of it runs again, nothing is handed over.

use std::time::Duration;

use anyhow::{Context, bail};
use nexus_core::UnixMs;
use rusqlite::{Connection, OpenFlags, params};
use serde::Serialize;

use super::idle::row;
use super::resting::{Crowd, Place};
use super::{World, place};
use crate::cli::FailoverArgs;
use crate::output::{Output, group};

/// The lease that a worker is given by default, and what may follow it.
const LEASE_MS: u64 = 5_000;
const GOAL_AFTER_LEASE_MS: u64 = 2_000;
const LOOK: Duration = Duration::from_millis(10);
const MOST_MS: u64 = 120_000;
const HEARTBEAT_SECS: u32 = 60;

#[derive(Debug, Serialize)]
pub struct Failover {
    agents: usize,
    lease_ms: u64,
    cores: usize,
    /// From the loss to the worker being declared dead.
    declared_ms: u64,
    /// From the loss to the last agent being placed elsewhere.
    placed_ms: u64,
    /// From the loss until every heartbeat that came due before the last agent was placed had been met.
    ticking_ms: u64,
    /// How many heartbeats came due meanwhile.
    overdue: u64,
}

pub async fn run(world: &World, args: &FailoverArgs) -> anyhow::Result<Failover> {
    let directory = place(&args.directory()?)?;
    let agents = args.agents as usize;
    let grace = 5_000 + i64::from(args.agents);
    let due_ms = grace..grace + i64::from(HEARTBEAT_SECS) * 1_000;
    let crowd = Crowd { agents, heartbeat_secs: HEARTBEAT_SECS, due_ms };
    let (host, _) = Place::open(world, directory.path())?.fill(&crowd).await?;
    let reconciler = host.reconciler()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let doomed = host.worker_on(runtime.handle());
    host.wait_placed(&doomed, agents, 60_000, Duration::from_millis(50)).await?;
    let heir = host.worker();
    // Both beat, and the first heartbeats are met.
    tokio::time::sleep(Duration::from_secs(2)).await;

    let (lost, lost_at) = (world.clock.mono(), world.clock.now());
    runtime.shutdown_background();
    while !is_dead(&host.path, doomed.id.as_bytes())? {
        if world.clock.mono().since(lost) > MOST_MS {
            bail!("the lost worker was not declared dead");
        }
        tokio::time::sleep(LOOK).await;
    }
    let declared_ms = world.clock.mono().since(lost);
    host.wait_placed(&heir, agents, MOST_MS, LOOK).await?;
    let placed_ms = world.clock.mono().since(lost);
    let placed_at = world.clock.now();
    while overdue(&host.path, placed_at)? > 0 {
        if world.clock.mono().since(lost) > MOST_MS {
            bail!("{} heartbeats are still overdue", overdue(&host.path, placed_at)?);
        }
        tokio::time::sleep(LOOK).await;
    }
    let ticking_ms = world.clock.mono().since(lost);
    let overdue = met(&host.path, lost_at, placed_at)?;
    heir.stop().await;
    reconciler.stop().await;
    Ok(Failover {
        agents,
        lease_ms: LEASE_MS,
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        declared_ms,
        placed_ms,
        ticking_ms,
        overdue,
    })
}

fn open(path: &std::path::Path) -> anyhow::Result<Connection> {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).context("opening the database")
}

fn is_dead(path: &std::path::Path, worker: &[u8]) -> anyhow::Result<bool> {
    Ok(open(path)?.query_row("SELECT dead FROM worker WHERE worker_id = ?1", [worker], |row| row.get(0))?)
}

fn overdue(path: &std::path::Path, at: UnixMs) -> anyhow::Result<i64> {
    Ok(open(path)?.query_row("SELECT COUNT(*) FROM agent WHERE next_tick_at <= ?1", [at.0], |row| row.get(0))?)
}

fn met(path: &std::path::Path, from: UnixMs, until: UnixMs) -> anyhow::Result<u64> {
    let sql = "SELECT COUNT(*) FROM agent WHERE next_tick_at - ?3 BETWEEN ?1 AND ?2";
    let count: i64 =
        open(path)?.query_row(sql, params![from.0, until.0, i64::from(HEARTBEAT_SECS) * 1_000], |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

impl Failover {
    pub fn text(&self, output: &Output) -> String {
        let goal = self.lease_ms + GOAL_AFTER_LEASE_MS;
        let goal_text = group(goal);
        let rows = [
            row("agents", group(self.agents as u64), "", None, output),
            row("lease, ms", group(self.lease_ms), "", None, output),
            row("declared dead after, ms", group(self.declared_ms), "", None, output),
            row(
                "all placed elsewhere after, ms",
                group(self.placed_ms),
                &goal_text,
                Some(self.placed_ms <= goal),
                output,
            ),
            row("overdue heartbeats meanwhile", group(self.overdue), "", None, output),
            row("all of them met after, ms", group(self.ticking_ms), &goal_text, Some(self.ticking_ms <= goal), output),
        ];
        output.table(["", "here", "goal", ""], rows)
    }
}
