//! Workers: registration, beats, fences.

use nexus_core::status::{Placement, Purpose};
use nexus_core::{Generation, Npub, UnixMs, WorkerId};

use crate::agent::{Agent, agent_columns, agent_row};
use crate::batch::params;
use crate::dialect::in_order;
use crate::draft::{Draft, rev};
use crate::rest::{self, at_rest};
use crate::row::Columns;
use crate::{Batch, Conflict, Fence, Result, Statement, Store, Verdict};

/// Agents told in one beat at most; the rest comes with the next.
pub const MAX_CHANGED: u32 = 1_000;
/// Agents that show in one transaction that their worker drains.
const DRAIN_PAGE: u32 = 2_000;
/// Agents that share one revision at most, so that a beat's page always holds one whole revision.
pub(crate) const MAX_TOGETHER: u32 = 500;

/// A page of a worker's agents above a revision, whether still its own or moved away, in the order of their revisions.
const CHANGED: &str = concat!(
    "SELECT c.npub, c.worker_id, c.generation, c.purpose, c.desired_rev,
        (SELECT CASE WHEN a.next_schedule_at < a.next_tick_at THEN a.next_schedule_at ELSE a.next_tick_at END FROM agent a WHERE a.npub = c.npub AND a.worker_id = ?1 AND ",
    at_rest!("?4", "?5"),
    ") FROM (SELECT npub, worker_id, generation, purpose, desired_rev FROM
          (SELECT * FROM (SELECT npub, worker_id, generation, purpose, desired_rev FROM agent
              WHERE worker_id = ?1 AND desired_rev > ?2 ORDER BY desired_rev LIMIT ?3) mine
           UNION ALL
           SELECT * FROM (SELECT npub, worker_id, generation, purpose, desired_rev FROM agent
              WHERE prev_worker_id = ?1 AND desired_rev > ?2 AND (worker_id IS NULL OR worker_id <> ?1)
              ORDER BY desired_rev LIMIT ?3) gone) both_kinds
        ORDER BY desired_rev, npub LIMIT ?3) c ORDER BY c.desired_rev, c.npub"
);

macro_rules! worker_columns {
    () => {
        "SELECT worker_id, region, pool, capacity, version, incarnation, beat, draining, dead, seen_at FROM worker"
    };
}

/// A worker as it introduces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewWorker {
    pub id: WorkerId,
    pub region: String,
    pub pool: String,
    /// Agents it takes at most.
    pub capacity: u32,
    /// What it can read.
    pub version: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    pub id: WorkerId,
    pub region: String,
    pub pool: String,
    pub capacity: u32,
    pub version: u32,
    pub incarnation: i64,
    /// Raised each second by the worker. Compare it with what you saw, on your own monotonic clock.
    pub beat: i64,
    pub draining: bool,
    /// Declared dead: its fence is gone until it registers again.
    pub dead: bool,
    /// For display.
    pub seen_at: UnixMs,
}

/// An agent that changed: still the worker's (`agent.worker == me`), or one to drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    pub npub: Npub,
    pub worker: Option<WorkerId>,
    pub generation: Generation,
    pub purpose: Purpose,
    pub rev: i64,
    /// Nothing waits for it before its next heartbeat at this time, which has nothing new. None: look at it now.
    pub rests_until: Option<UnixMs>,
}

/// Boot: a new incarnation, so that every write of an earlier one is stale. Agents that are still placed on this worker
/// stay with it at their next generation: it is the heir of what it was.
pub async fn register(store: &Store, worker: NewWorker, now: UnixMs) -> Result<Fence> {
    let attempted = "register a worker";
    let mut batch = Batch::new(attempted);
    batch.push(Statement::write(
        "INSERT INTO worker (worker_id, region, pool, capacity, version, incarnation, beat, draining, dead, seen_at)
         VALUES (?1, ?2, ?3, ?4, ?5, 1, 0, 0, 0, ?6)
         ON CONFLICT (worker_id) DO UPDATE SET region = excluded.region, pool = excluded.pool,
            capacity = excluded.capacity, version = excluded.version, incarnation = worker.incarnation + 1,
            beat = worker.beat + 1, draining = 0, dead = 0, seen_at = excluded.seen_at",
        params![worker.id, worker.region, worker.pool, worker.capacity, worker.version, now],
    ));
    batch.push(Statement::write(
        "INSERT INTO worker_fence (worker_id, incarnation)
         SELECT worker_id, incarnation FROM worker WHERE worker_id = ?1
         ON CONFLICT (worker_id) DO UPDATE SET incarnation = excluded.incarnation",
        params![worker.id],
    ));
    let sql = "SELECT incarnation FROM worker WHERE worker_id = ?1";
    batch.push(Statement::read(sql, params![worker.id]).one_or_conflict(Conflict::NoWorker));
    let mut outputs = store.write(batch).await?;
    let row = outputs.pop().and_then(|mut output| output.rows.pop()).unwrap_or_default();
    let fence = Fence { worker: worker.id, incarnation: row.columns(attempted).get()? };
    while renew_some(store, fence).await? == u64::from(MAX_TOGETHER) {}
    Ok(fence)
}

/// One beat; returns the agents whose revision is above `applied`, in the order of their revisions.
///
/// # Errors
/// `Stale` when this incarnation was replaced or declared dead: drop all agents, register again.
pub async fn beat(store: &Store, fence: Fence, applied: i64, now: UnixMs) -> Result<Vec<Changed>> {
    let mut batch = Batch::fenced("beat", fence);
    batch.push(
        Statement::write(
            "UPDATE worker SET beat = beat + 1, seen_at = ?3 WHERE worker_id = ?1 AND incarnation = ?2 AND dead = 0",
            params![fence.worker, fence.incarnation, now],
        )
        .one_or(Verdict::Stale),
    );
    batch.push(Statement::read(CHANGED, changed_params(fence.worker, applied, now)));
    let outputs = store.write(batch).await?;
    let rows = outputs.into_iter().nth(1).map(|output| output.rows).unwrap_or_default();
    let changed = rows.into_iter().map(|row| changed_row(&mut row.columns("beat"))).collect::<Result<_>>()?;
    Ok(whole_revisions(changed))
}

/// The next page after a full one of [`beat`], without beating. What the worker makes of it counts only as long as its
/// fence holds, which the next beat asks.
pub async fn changed(store: &Store, worker: WorkerId, applied: i64, now: UnixMs) -> Result<Vec<Changed>> {
    let params = changed_params(worker, applied, now);
    store.rows("read a worker's changed agents", CHANGED, params, changed_row).await.map(whole_revisions)
}

/// Every agent that is placed on this worker now, in npub order: at boot, and after a lost beat.
pub async fn hosted(store: &Store, worker: WorkerId) -> Result<Vec<Agent>> {
    let sql = concat!(agent_columns!(), " WHERE a.worker_id = ?1 ORDER BY a.npub");
    store.rows("list a worker's agents", sql, params![worker], agent_row).await
}

/// Says that it hands its agents over, or that it takes them again. From then on it gets no new ones; what its agents show
/// follows page by page.
pub async fn set_draining(store: &Store, fence: Fence, draining: bool) -> Result<()> {
    let mut batch = Batch::fenced("drain a worker", fence);
    batch.push(
        Statement::write("UPDATE worker SET draining = ?2 WHERE worker_id = ?1", params![fence.worker, draining])
            .one_or(Verdict::Stale),
    );
    store.write(batch).await?;
    let placement = if draining { Placement::Draining } else { Placement::Placed };
    let mut from = i64::MIN;
    loop {
        let revs = show_draining(store, fence, placement, from).await?;
        match revs.iter().max() {
            Some(last) if revs.len() >= DRAIN_PAGE as usize => from = *last,
            Some(_) | None => return Ok(()),
        }
    }
}

/// Some of its agents from this revision on that do not show it yet; returns their revisions.
async fn show_draining(store: &Store, fence: Fence, placement: Placement, from: i64) -> Result<Vec<i64>> {
    let attempted = "show that agents drain";
    let mut batch = Batch::fenced(attempted, fence);
    let sql = concat!(
        "UPDATE agent SET placement = ?2 WHERE worker_id = ?1 AND npub IN
            (SELECT npub FROM agent WHERE npub IN
                (SELECT npub FROM agent WHERE worker_id = ?1 AND desired_rev >= ?3 AND placement <> ?2
                 ORDER BY desired_rev LIMIT ?4)
             ORDER BY npub ",
        in_order!(),
        ") RETURNING desired_rev"
    );
    batch.push(Statement::write(sql, params![fence.worker, placement.as_str(), from, DRAIN_PAGE]));
    let rows = store.write(batch).await?.into_iter().flat_map(|output| output.rows);
    rows.map(|row| row.columns(attempted).get()).collect()
}

/// Signs a drained worker off: its fence goes, and with it every write that it may still try. Agents that are still placed
/// on it are found as those of a dead worker are.
pub async fn sign_off(store: &Store, fence: Fence) -> Result<()> {
    let mut batch = Batch::new("sign a worker off");
    let sql = "SELECT 1 FROM worker_fence WHERE worker_id = ?1 AND incarnation = ?2";
    let held = Statement::read(sql, params![fence.worker, fence.incarnation]).lock(crate::Lock::Update);
    batch.push(held.one_or(Verdict::Stale));
    batch.push(
        Statement::write(
            "UPDATE worker SET dead = 1, incarnation = incarnation + 1 WHERE worker_id = ?1 AND incarnation = ?2",
            params![fence.worker, fence.incarnation],
        )
        .one_or(Verdict::Stale),
    );
    batch.push(Statement::write("DELETE FROM worker_fence WHERE worker_id = ?1", params![fence.worker]));
    store.write(batch).await.map(|_| ())
}

/// Forgets workers that are dead, hold nothing and were last seen before `before`. Returns how many.
pub async fn purge(store: &Store, before: UnixMs) -> Result<u64> {
    let sql = "DELETE FROM worker WHERE dead = 1 AND seen_at < ?1
        AND NOT EXISTS (SELECT 1 FROM agent a WHERE a.worker_id = worker.worker_id)";
    store.change("forget dead workers", Statement::write(sql, params![before])).await
}

pub async fn list(store: &Store) -> Result<Vec<Worker>> {
    store
        .rows("list workers", concat!(worker_columns!(), " ORDER BY worker_id LIMIT 10000"), params![], worker_row)
        .await
}

pub async fn get(store: &Store, id: WorkerId) -> Result<Option<Worker>> {
    store.row("read a worker", concat!(worker_columns!(), " WHERE worker_id = ?1"), params![id], worker_row).await
}

/// Raises the generation of some agents that an earlier incarnation held, and with it their revision: those still to
/// come are always the first of the worker's. Returns how many.
async fn renew_some(store: &Store, fence: Fence) -> Result<u64> {
    let mut draft = Draft::new("take over an earlier incarnation's agents");
    draft.lock_fence(fence.worker);
    draft.next_rev();
    draft.push(Statement::write(
        concat!(
            "UPDATE agent SET generation = generation + 1, placed_incarnation = ?2, placement = 'placed',
                away = CASE WHEN pool = (SELECT w.pool FROM worker w WHERE w.worker_id = ?1)
                    AND (region IS NULL OR region = (SELECT w.region FROM worker w WHERE w.worker_id = ?1)) THEN 0 ELSE 1 END,
                desired_rev = ",
            rev!(),
            " WHERE worker_id = ?1 AND npub IN (SELECT npub FROM agent WHERE npub IN
                (SELECT npub FROM agent
                 WHERE worker_id = ?1 AND (placed_incarnation IS NULL OR placed_incarnation <> ?2)
                 ORDER BY desired_rev LIMIT ?3)
              ORDER BY npub ",
            in_order!(),
            ")"
        ),
        params![fence.worker, fence.incarnation, MAX_TOGETHER],
    ));
    let outputs = store.write(draft.into_batch()).await?;
    Ok(outputs.last().map_or(0, |output| output.affected))
}

fn changed_row(row: &mut Columns) -> Result<Changed> {
    Ok(Changed {
        npub: row.get()?,
        worker: row.get()?,
        generation: row.get()?,
        purpose: row.parse(Purpose::parse)?,
        rev: row.get()?,
        rests_until: row.get()?,
    })
}

fn changed_params(worker: WorkerId, applied: i64, now: UnixMs) -> Vec<crate::Value> {
    params![worker, applied, MAX_CHANGED + 1, now, rest::since(now)]
}

fn worker_row(row: &mut Columns) -> Result<Worker> {
    Ok(Worker {
        id: row.get()?,
        region: row.get()?,
        pool: row.get()?,
        capacity: row.get()?,
        version: row.get()?,
        incarnation: row.get()?,
        beat: row.get()?,
        draining: row.get()?,
        dead: row.get()?,
        seen_at: row.get()?,
    })
}

/// Cuts a page that was full before its last revision, so that `applied` never skips an agent of it.
fn whole_revisions(mut changed: Vec<Changed>) -> Vec<Changed> {
    if changed.len() > MAX_CHANGED as usize
        && let Some(last) = changed.last().map(|agent| agent.rev)
    {
        changed.retain(|agent| agent.rev < last);
    }
    changed
}
