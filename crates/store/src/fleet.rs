//! The fleet as a whole: who could move, what is needed where, and who waits for what. Read by the reconciler and by
//! operators.

use nexus_core::placement::{AgentView, Need};
use nexus_core::status::Placement;
use nexus_core::{Npub, UnixMs, WorkerId};

use crate::batch::params;
use crate::placement::view_row;
use crate::row::Columns;
use crate::{Result, Store};

/// Agents of one answer at most.
pub const MAX_PAGE: u32 = 1_000;
/// Different reasons that are told apart.
const MAX_REASONS: u32 = 64;
/// An agent whose next tick is this near is not moved.
const BUSY_MS: i64 = 2_000;

/// An agent that does nothing right now and could be moved without anyone noticing: nothing is due and nothing waits, or
/// it is parked and not due to be tried again. One that finds no provider looks again every few seconds, which is nothing to
/// wait for.
macro_rules! movable {
    ($where:literal) => {
        concat!(
            "SELECT a.npub, a.generation, a.purpose, a.worker_id, a.last_worker_id, a.region, a.pool, a.reader_version,
                a.config FROM agent a WHERE ",
            $where,
            " AND a.desired = 'running' AND (a.next_tick_at IS NULL OR a.next_tick_at > ?1
                  OR (a.reason_code IS NOT NULL AND (a.next_attempt_at > ?1 OR a.reason_code = 'no_provider')))
              AND NOT EXISTS (SELECT 1 FROM tick t WHERE t.npub = a.npub AND t.status = 'open')
              AND NOT EXISTS (SELECT 1 FROM payment p WHERE p.npub = a.npub
                  AND p.state IN ('reserved', 'dispatched', 'pending', 'unknown'))
              AND (NOT EXISTS (SELECT 1 FROM inbox i WHERE i.npub = a.npub AND i.handled = 0)
                  OR (a.reason_code IS NOT NULL AND (a.next_attempt_at > ?1 OR a.reason_code = 'no_provider')))
              AND NOT EXISTS (SELECT 1 FROM wallet_request w WHERE w.npub = a.npub
                  AND w.outcome IS NULL AND w.expires_at > ?1)"
        )
    };
}

/// Why agents do nothing, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// A reason's code.
    pub code: String,
    pub text: String,
    pub agents: u64,
    /// One of them.
    pub example: Npub,
}

/// Placed agents that do nothing right now, on this worker, those longest there first.
pub async fn movable(
    store: &Store,
    worker: WorkerId,
    homeless_only: bool,
    now: UnixMs,
    limit: u32,
) -> Result<Vec<AgentView>> {
    let sql =
        concat!(movable!("a.worker_id = ?2 AND (?3 = 0 OR a.region IS NULL)"), " ORDER BY a.desired_rev LIMIT ?4");
    let params = params![now.plus_ms(BUSY_MS), worker, homeless_only, limit.min(MAX_PAGE)];
    store.rows("find agents to move", sql, params, view_row).await
}

/// Placed agents that do nothing right now and are not in their home region, in npub order from behind `after`.
pub async fn away(store: &Store, after: Option<Npub>, now: UnixMs, limit: u32) -> Result<Vec<AgentView>> {
    let sql = concat!(movable!("a.away = 1 AND a.npub > ?2 AND a.worker_id IS NOT NULL"), " ORDER BY a.npub LIMIT ?3");
    let after = after.map_or_else(Vec::new, |npub| npub.as_bytes().to_vec());
    store
        .rows("find agents away from home", sql, params![now.plus_ms(BUSY_MS), after, limit.min(MAX_PAGE)], view_row)
        .await
}

/// Agents that should run, by pool and home.
pub async fn needs(store: &Store) -> Result<Vec<Need>> {
    let sql = "SELECT pool, region, COUNT(*) FROM agent WHERE desired = 'running' GROUP BY pool, region";
    let read = |row: &mut Columns| Ok(Need { pool: row.get()?, region: row.get()?, agents: row.get()? });
    store.rows("count agents that should run", sql, params![], read).await
}

/// Agents that should run and have a reason not to, by reason, most first.
pub async fn waiting(store: &Store) -> Result<Vec<Waiting>> {
    let sql = "SELECT reason_code, MIN(reason_text), COUNT(*), (SELECT b.npub FROM agent b
                WHERE b.desired = 'running' AND b.reason_code = a.reason_code LIMIT 1)
        FROM agent a WHERE desired = 'running' AND reason_code IS NOT NULL GROUP BY reason_code
        ORDER BY COUNT(*) DESC, reason_code LIMIT ?1";
    let read = |row: &mut Columns| {
        let (code, text): (String, Option<String>) = (row.get()?, row.get()?);
        Ok(Waiting { code, text: text.unwrap_or_default(), agents: row.get()?, example: row.get()? })
    };
    store.rows("count agents that wait", sql, params![MAX_REASONS], read).await
}

/// An agent that should run and has a reason not to, or no worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    pub npub: Npub,
    pub pool: String,
    pub region: Option<String>,
    pub placement: Placement,
    pub worker: Option<WorkerId>,
    /// None for one that waits for a worker and for nothing else.
    pub reason: Option<(String, String)>,
    pub next_attempt_at: Option<UnixMs>,
}

/// Such agents of all accounts, in npub order from behind `after`; with `code`, those with that reason alone (empty: those
/// without one).
pub async fn parked(store: &Store, code: Option<&str>, after: Option<Npub>, limit: u32) -> Result<Vec<Parked>> {
    let sql = "SELECT npub, pool, region, placement, worker_id, reason_code, reason_text, next_attempt_at FROM agent
        WHERE npub > ?1 AND desired = 'running' AND (reason_code IS NOT NULL OR worker_id IS NULL)
            AND (?2 = 0 OR COALESCE(reason_code, '') = ?3)
        ORDER BY npub LIMIT ?4";
    let after = after.map_or_else(Vec::new, |npub| npub.as_bytes().to_vec());
    let params = params![after, code.is_some(), code.unwrap_or_default().to_owned(), limit.min(MAX_PAGE)];
    let read = |row: &mut Columns| {
        let (npub, pool, region) = (row.get()?, row.get()?, row.get()?);
        let (placement, worker) = (row.parse(Placement::parse)?, row.get()?);
        let (code, text): (Option<String>, Option<String>) = (row.get()?, row.get()?);
        let reason = code.map(|code| (code, text.unwrap_or_default()));
        Ok(Parked { npub, pool, region, placement, worker, reason, next_attempt_at: row.get()? })
    };
    store.rows("list agents that wait", sql, params, read).await
}

/// Who places agents, by the row that its term is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub term: i64,
    pub name: String,
    /// When its beat was written last; it is no liveness.
    pub seen_at: UnixMs,
}

/// None before the first term, and after one that ended in order.
pub async fn holder(store: &Store) -> Result<Option<Holder>> {
    let sql = "SELECT term, holder, seen_at FROM reconciler WHERE id = 1 AND term > 0 AND beat >= 0";
    let read = |row: &mut Columns| Ok(Holder { term: row.get()?, name: row.get()?, seen_at: row.get()? });
    store.row("read who places agents", sql, params![], read).await
}

/// Agents by where they are placed, `unplaced`, `placed` or `draining`, that should run or not.
pub async fn placements(store: &Store) -> Result<Vec<(Placement, bool, u64)>> {
    let sql =
        "SELECT placement, CASE WHEN desired = 'running' THEN CAST(1 AS BIGINT) ELSE CAST(0 AS BIGINT) END AS wanted,
            COUNT(*) FROM agent GROUP BY placement, wanted ORDER BY placement, wanted";
    let read = |row: &mut Columns| Ok((row.parse(Placement::parse)?, row.get()?, row.get()?));
    store.rows("count agents by placement", sql, params![], read).await
}

/// Everyone, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    pub agents: u64,
    /// That should run.
    pub running: u64,
    /// Of those, without a worker.
    pub unplaced: u64,
    /// On a worker outside their home region.
    pub away: u64,
    /// Whose heartbeat was due before the moment asked for, and for which no reason stands but the want of a worker.
    pub overdue: u64,
}

pub async fn census(store: &Store, before: UnixMs) -> Result<Census> {
    let sql = "SELECT COUNT(*),
            CAST(COALESCE(SUM(CASE WHEN desired = 'running' THEN 1 ELSE 0 END), 0) AS BIGINT),
            CAST(COALESCE(SUM(CASE WHEN desired = 'running' AND worker_id IS NULL THEN 1 ELSE 0 END), 0) AS BIGINT),
            CAST(COALESCE(SUM(away), 0) AS BIGINT),
            CAST(COALESCE(SUM(CASE WHEN desired = 'running' AND next_tick_at < ?1
                AND lifecycle IN ('active', 'low_balance')
                AND (reason_code IS NULL OR worker_id IS NULL) THEN 1 ELSE 0 END), 0) AS BIGINT)
        FROM agent";
    let read = |row: &mut Columns| {
        let (agents, running, unplaced) = (row.get()?, row.get()?, row.get()?);
        Ok(Census { agents, running, unplaced, away: row.get()?, overdue: row.get()? })
    };
    Ok(store.row("count agents", sql, params![before], read).await?.unwrap_or_default())
}

/// Whether the database answers.
pub async fn ping(store: &Store) -> Result<()> {
    store.row("ask the database whether it is there", "SELECT 1", params![], |row| row.get::<i64>()).await.map(drop)
}
