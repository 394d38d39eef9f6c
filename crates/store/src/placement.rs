//! The reconciler's side of placement: its term, its snapshot, and the carrying out of a plan.
//!
//! Raising a generation locks the fence row of the agent's worker first, then compares and sets (worker, generation):
//! a worker's transaction that is under way ends before the generation moves, and none begins after.

use std::collections::BTreeSet;

use nexus_core::event::EventBody;
use nexus_core::placement::{AgentView, Failover, Step};
use nexus_core::status::{Purpose, Reason};
use nexus_core::{AgentConfig, Generation, Npub, UnixMs, WorkerId};

use crate::batch::params;
use crate::dialect::in_order;
use crate::draft::{Draft, rev};
use crate::event::NewEvent;
use crate::row::Columns;
use crate::worker::MAX_TOGETHER;
use crate::{Batch, Conflict, Fence, Lock, Result, Statement, Store, Verdict};

/// Agents of one snapshot at most; the rest waits for the next.
pub const MAX_PAGE: u32 = 10_000;

/// Steps of one transaction at most: it holds the writer for about 20 ms. Fewer than may share a revision.
pub const MAX_STEPS: usize = 250;

/// Whether the agent is still with the worker of a parameter that may be null.
macro_rules! held_by {
    ($worker:literal) => {
        concat!("((worker_id IS NULL AND ", $worker, " IS NULL) OR worker_id = ", $worker, ")")
    };
}

macro_rules! view_columns {
    ($needs:literal) => {
        concat!(
            "SELECT a.npub, a.generation, ",
            $needs,
            ", a.worker_id, a.last_worker_id, a.region, a.pool,
                a.reader_version, a.config FROM agent a"
        )
    };
}

/// Agents with something to resolve, found from what there is to resolve: it is little, agents are many. Payments that are
/// open are named as their index names them.
macro_rules! to_resolve {
    ($now:literal) => {
        concat!(
            "(SELECT npub FROM payment WHERE state IN ('reserved', 'dispatched', 'pending', 'unknown') AND state <> 'reserved'
              UNION SELECT npub FROM publication WHERE done = 0
              UNION SELECT npub FROM wallet_request WHERE outcome IS NULL AND expires_at > ",
            $now,
            "
              UNION SELECT npub FROM invoice_watch WHERE until_at > ",
            $now,
            "
              UNION SELECT npub FROM tick WHERE status = 'open')"
        )
    };
}

const SHOULD_RUN: &str = concat!(
    view_columns!("'run'"),
    " WHERE a.worker_id IS NULL AND a.desired = 'running' AND a.npub > ?1 ORDER BY a.npub LIMIT ?2"
);
const NEEDS_SERVICE: &str = concat!(
    view_columns!("'service'"),
    " WHERE a.npub IN ",
    to_resolve!("?1"),
    " AND a.worker_id IS NULL AND a.desired <> 'running' AND a.moved_to IS NULL
      ORDER BY a.npub LIMIT ?2"
);
const LEAVES: &str = concat!(
    view_columns!("CASE WHEN a.desired = 'running' THEN 'run' ELSE 'service' END"),
    " WHERE a.worker_id IN (SELECT w.worker_id FROM worker w WHERE w.draining = 1 OR w.dead = 1)
        AND NOT (EXISTS (SELECT 1 FROM tick t WHERE t.npub = a.npub AND t.status = 'open')
            AND EXISTS (SELECT 1 FROM worker w WHERE w.worker_id = a.worker_id AND w.dead = 0))
        AND (a.desired = 'running' OR a.npub IN ",
    to_resolve!("?1"),
    ") LIMIT ?2"
);

/// The right to place: a number that only one reconciler holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term(pub i64);

/// Takes the next term from whoever holds the current one.
///
/// # Errors
/// `Stale` when another took it at the same moment.
pub async fn take_term(store: &Store, holder: &str, now: UnixMs) -> Result<Term> {
    let attempted = "take the reconciler's term";
    let sql = "SELECT term FROM reconciler WHERE id = 1";
    let current: i64 = store.row(attempted, sql, params![], |row| row.get()).await?.unwrap_or(0);
    let statement = Statement::write(
        "UPDATE reconciler SET term = term + 1, holder = ?2, beat = 0, seen_at = ?3 WHERE id = 1 AND term = ?1",
        params![current, holder.to_owned(), now],
    );
    store.write(Batch::new(attempted).with(statement.one_or(Verdict::Stale))).await?;
    Ok(Term(current + 1))
}

/// Gives the term back: nobody holds it, and whoever takes the next one need not wait. `Stale` when it is over anyway.
pub async fn resign_term(store: &Store, term: Term, now: UnixMs) -> Result<()> {
    let statement = Statement::write(
        "UPDATE reconciler SET beat = -1, seen_at = ?2 WHERE id = 1 AND term = ?1",
        params![term.0, now],
    );
    store.write(Batch::new("resign as reconciler").with(statement.one_or(Verdict::Stale))).await.map(|_| ())
}

/// The current term and its holder's beat, for standbys that watch it; none when nobody holds one.
pub async fn current_term(store: &Store) -> Result<Option<(Term, i64)>> {
    let sql = "SELECT term, beat FROM reconciler WHERE id = 1 AND term > 0 AND beat >= 0";
    store.row("read the reconciler's term", sql, params![], |row| Ok((Term(row.get()?), row.get()?))).await
}

/// The holder's sign of life. `Stale` when the term is over.
pub async fn beat_term(store: &Store, term: Term, now: UnixMs) -> Result<()> {
    let statement = Statement::write(
        "UPDATE reconciler SET beat = beat + 1, seen_at = ?2 WHERE id = 1 AND term = ?1",
        params![term.0, now],
    );
    store.write(Batch::new("beat as reconciler").with(statement.one_or(Verdict::Stale))).await.map(|_| ())
}

/// Agents that need a worker and have none, or whose worker is dead or draining (but for ticks that it still ends), at most `limit`, in npub order: desired running
/// (purpose `run`), or with unresolved payments, pending publications or a wallet request (purpose `service`).
pub async fn unplaced(store: &Store, now: UnixMs, limit: u32) -> Result<Vec<AgentView>> {
    unplaced_after(store, now, None, limit).await
}

/// The same, with those that only should run taken from behind `after`: so that agents for whom there is no room keep
/// nobody behind them from being seen. Those that need a service or leave a worker are few, and come with every page.
pub async fn unplaced_after(store: &Store, now: UnixMs, after: Option<Npub>, limit: u32) -> Result<Vec<AgentView>> {
    let attempted = "find agents to place";
    let limit = limit.min(MAX_PAGE);
    let mut found = store.rows(attempted, NEEDS_SERVICE, params![now, limit], view_row).await?;
    if (found.len() as u32) < limit {
        found.extend(store.rows(attempted, LEAVES, params![now, limit - found.len() as u32], view_row).await?);
    }
    if (found.len() as u32) < limit {
        let after = after.map_or_else(Vec::new, |npub| npub.as_bytes().to_vec());
        found.extend(store.rows(attempted, SHOULD_RUN, params![after, limit - found.len() as u32], view_row).await?);
    }
    found.sort_by_key(|view| view.npub);
    found.dedup_by_key(|view| view.npub);
    Ok(found)
}

/// Agents that are placed and need it no more (stopped, nothing to resolve, no open tick), in npub order.
pub async fn idle(store: &Store, now: UnixMs, limit: u32) -> Result<Vec<(Npub, Generation, WorkerId)>> {
    let sql = "SELECT a.npub, a.generation, a.worker_id FROM agent a
        WHERE a.desired = 'stopped' AND a.worker_id IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM payment p WHERE p.npub = a.npub
                AND p.state IN ('reserved', 'dispatched', 'pending', 'unknown'))
            AND NOT EXISTS (SELECT 1 FROM publication p WHERE p.npub = a.npub AND p.done = 0)
            AND NOT EXISTS (SELECT 1 FROM wallet_request w WHERE w.npub = a.npub
                AND w.outcome IS NULL AND w.expires_at > ?1)
            AND NOT EXISTS (SELECT 1 FROM invoice_watch v WHERE v.npub = a.npub AND v.until_at > ?1)
            AND NOT EXISTS (SELECT 1 FROM tick t WHERE t.npub = a.npub AND t.status = 'open')
        ORDER BY a.npub LIMIT ?2";
    let row = |row: &mut Columns| Ok((row.get()?, row.get()?, row.get()?));
    store.rows("find agents to unplace", sql, params![now, limit.min(MAX_PAGE)], row).await
}

/// Agents placed, by worker.
pub async fn loads(store: &Store) -> Result<Vec<(WorkerId, u32)>> {
    let sql = "SELECT worker_id, COUNT(*) FROM agent WHERE worker_id IS NOT NULL GROUP BY worker_id";
    store.rows("count placed agents", sql, params![], |row| Ok((row.get()?, row.get()?))).await
}

/// Carries out one step: next generation, on the new worker, with a `placed` event. Returns the new generation.
///
/// # Errors
/// `Stale` when the term is over; `Conflict::Version` when the agent has changed since the snapshot;
/// `Conflict::NoWorker` when the worker is gone.
pub async fn place(store: &Store, term: Term, step: &Step, now: UnixMs) -> Result<Generation> {
    let mut draft = Draft::new("place an agent");
    draft.push(term_holds(term));
    if let Some(from) = step.from {
        draft.lock_fence(from);
    }
    draft.push(takes_agents(step.to));
    draft.next_rev();
    let generation = place_step(&mut draft, step, now);
    draft.write(store).await?;
    Ok(generation)
}

/// Carries out many steps in one transaction that shares one revision, at most [`MAX_STEPS`], in npub order. All or none.
///
/// # Errors
/// As [`place`]: the first step that does not hold fails them all. Then carry them out one by one.
pub async fn place_all(store: &Store, term: Term, steps: &[Step], now: UnixMs) -> Result<()> {
    let mut steps: Vec<&Step> = steps.iter().take(MAX_STEPS).collect();
    steps.sort_by_key(|step| step.npub);
    let mut draft = Draft::new("place agents");
    draft.push(term_holds(term));
    let from: BTreeSet<WorkerId> = steps.iter().filter_map(|step| step.from).collect();
    for worker in from {
        draft.lock_fence(worker);
    }
    let to: BTreeSet<WorkerId> = steps.iter().map(|step| step.to).collect();
    for worker in to {
        draft.push(takes_agents(worker));
    }
    draft.next_rev();
    for step in steps {
        place_step(&mut draft, step, now);
    }
    draft.write(store).await.map(|_| ())
}

/// Takes an agent off its worker at the next generation. Errors as [`place`].
pub async fn unplace(
    store: &Store,
    term: Term,
    npub: Npub,
    generation: Generation,
    from: WorkerId,
    reason: Option<Reason>,
) -> Result<Generation> {
    let mut draft = Draft::new("unplace an agent");
    draft.push(term_holds(term));
    draft.lock_fence(from);
    draft.next_rev();
    draft.push(leave_statement(npub, generation, from, reason).one_or_conflict(Conflict::Version));
    draft.write(store).await?;
    Ok(Generation(generation.0 + 1))
}

/// Declares a worker dead, if it still stands at this incarnation and beat: its fence goes, and with it every write
/// that it may still try. Then its agents become unplaced at the next generation, in npub order, page by page (a crash
/// in between is met by [`unplaced`], which names the agents of dead workers too). Returns how many.
pub async fn declare_dead(
    store: &Store,
    term: Term,
    worker: WorkerId,
    incarnation: i64,
    beat: i64,
    now: UnixMs,
) -> Result<u64> {
    let mut batch = Batch::new("declare a worker dead");
    batch.push(term_holds(term));
    let sql = "SELECT 1 FROM worker_fence WHERE worker_id = ?1";
    batch.push(Statement::read(sql, params![worker]).lock(Lock::Update));
    batch.push(
        Statement::write(
            "UPDATE worker SET dead = 1, incarnation = incarnation + 1, seen_at = seen_at
             WHERE worker_id = ?1 AND incarnation = ?2 AND beat = ?3 AND dead = 0",
            params![worker, incarnation, beat],
        )
        .one_or_conflict(Conflict::Version),
    );
    batch.push(Statement::write("DELETE FROM worker_fence WHERE worker_id = ?1", params![worker]));
    store.write(batch).await?;
    let mut released = 0;
    loop {
        let some = release_some(store, term, worker, now).await?;
        released += some;
        if some < u64::from(MAX_TOGETHER) {
            return Ok(released);
        }
    }
}

/// Hands one agent back by its own worker (drain). Returns the new generation.
pub async fn give_up(store: &Store, fence: Fence, npub: Npub, generation: Generation) -> Result<Generation> {
    let mut draft = Draft::hosted("give an agent up", fence, npub, generation);
    draft.lock_fence(fence.worker);
    draft.next_rev();
    draft.push(leave_statement(npub, generation, fence.worker, None).one_or(Verdict::Stale));
    draft.write(store).await?;
    Ok(Generation(generation.0 + 1))
}

/// Notes why an unplaced agent waits, and when it is looked at again. Changes nothing else.
pub async fn note_waiting(
    store: &Store,
    term: Term,
    npub: Npub,
    generation: Generation,
    reason: Reason,
    next_attempt_at: UnixMs,
) -> Result<()> {
    let mut batch = Batch::new("note why an agent waits");
    batch.push(term_holds(term));
    batch.push(
        Statement::write(
            "UPDATE agent SET reason_code = ?3, reason_text = ?4, next_attempt_at = ?5 WHERE npub = ?1 AND generation = ?2",
            params![npub, generation, reason.code, reason.text, next_attempt_at],
        )
        .one_or_conflict(Conflict::Version),
    );
    store.write(batch).await.map(|_| ())
}

/// The reconciler's own fence: its term, locked shared where the engine has row locks.
fn term_holds(term: Term) -> Statement {
    let sql = "SELECT 1 FROM reconciler WHERE id = 1 AND term = ?1";
    Statement::read(sql, params![term.0]).lock(Lock::Share).one_or(Verdict::Stale)
}

fn takes_agents(worker: WorkerId) -> Statement {
    let sql = "SELECT 1 FROM worker WHERE worker_id = ?1 AND dead = 0 AND draining = 0";
    Statement::read(sql, params![worker]).one_or_conflict(Conflict::NoWorker)
}

/// The agent's move and its event. Returns the new generation.
fn place_step(draft: &mut Draft, step: &Step, now: UnixMs) -> Generation {
    let generation = Generation(step.generation.0 + 1);
    draft.push(
        Statement::write(
            concat!(
                "UPDATE agent SET generation = generation + 1, prev_worker_id = worker_id, worker_id = ?4,
                    last_worker_id = ?4, placed_incarnation = (SELECT incarnation FROM worker WHERE worker_id = ?4),
                    placement = 'placed', purpose = CASE WHEN desired = 'running' THEN 'run' ELSE ?5 END,
                    away = CASE WHEN region IS NULL OR region = (SELECT w.region FROM worker w WHERE w.worker_id = ?4)
                        THEN 0 ELSE 1 END,
                    reason_code = NULL, reason_text = NULL, next_attempt_at = NULL, updated_at = ?6, desired_rev = ",
                rev!(),
                " WHERE npub = ?1 AND generation = ?2 AND ",
                held_by!("?3")
            ),
            params![step.npub, step.generation, step.from, step.to, step.purpose.as_str(), now],
        )
        .one_or_conflict(Conflict::Version),
    );
    draft.event(step.npub, &NewEvent::new(now, EventBody::Placed { worker: step.to, generation }));
    generation
}

/// Off its worker, at the next generation.
fn leave_statement(npub: Npub, generation: Generation, from: WorkerId, reason: Option<Reason>) -> Statement {
    let (code, text) = reason.map_or((None, None), |reason| (Some(reason.code), Some(reason.text)));
    Statement::write(
        concat!(
            "UPDATE agent SET generation = generation + 1, prev_worker_id = worker_id, worker_id = NULL,
                placed_incarnation = NULL, placement = 'unplaced', away = 0, reason_code = COALESCE(?4, reason_code),
                reason_text = COALESCE(?5, reason_text), desired_rev = ",
            rev!(),
            " WHERE npub = ?1 AND generation = ?2 AND worker_id = ?3"
        ),
        params![npub, generation, from, code, text],
    )
}

/// Some agents of a dead worker; none if it has registered again meanwhile.
async fn release_some(store: &Store, term: Term, worker: WorkerId, now: UnixMs) -> Result<u64> {
    let mut draft = Draft::new("release a dead worker's agents");
    draft.push(term_holds(term));
    draft.next_rev();
    draft.push(Statement::write(
        concat!(
            "UPDATE agent SET generation = generation + 1, prev_worker_id = worker_id, worker_id = NULL,
                placed_incarnation = NULL, placement = 'unplaced', away = 0, updated_at = ?2, desired_rev = ",
            rev!(),
            " WHERE worker_id = ?1 AND npub IN (SELECT npub FROM agent WHERE npub IN
                (SELECT a.npub FROM agent a JOIN worker w ON w.worker_id = a.worker_id
                 WHERE a.worker_id = ?1 AND w.dead = 1 ORDER BY a.desired_rev LIMIT ?3)
              ORDER BY npub ",
            in_order!(),
            ")"
        ),
        params![worker, now, MAX_TOGETHER],
    ));
    let outputs = store.write(draft.into_batch()).await?;
    Ok(outputs.last().map_or(0, |output| output.affected))
}

pub(crate) fn view_row(row: &mut Columns) -> Result<AgentView> {
    let mut view = AgentView {
        npub: row.get()?,
        generation: row.get()?,
        purpose: row.parse(Purpose::parse)?,
        from: row.get()?,
        last: row.get()?,
        region: row.get()?,
        failover: Failover::default(),
        pool: row.get()?,
        version: row.get()?,
    };
    view.failover = row.parse(|config| serde_json::from_str::<AgentConfig>(config).ok())?.failover;
    Ok(view)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many agents and payments there are, a round reads its page of them.
    #[tokio::test]
    async fn no_round_reads_all_agents_or_payments() {
        let store = Store::open_memory().unwrap();
        for (sql, params) in [
            (SHOULD_RUN, params![Vec::new(), 1_000]),
            (NEEDS_SERVICE, params![UnixMs(0), 1_000]),
            (LEAVES, params![UnixMs(0), 1_000]),
        ] {
            let plan = format!("EXPLAIN QUERY PLAN {sql}");
            let read =
                |row: &mut Columns| Ok((row.get::<i64>()?, row.get::<i64>()?, row.get::<i64>()?, row.get::<String>()?));
            let steps = store.rows("explain", plan, params, read).await.unwrap();
            let steps: Vec<String> = steps.into_iter().map(|(_, _, _, step)| step).collect();
            let whole = |step: &String| {
                ["SCAN a", "SCAN payment", "TEMP B-TREE FOR ORDER BY"].iter().any(|scan| step.ends_with(scan))
            };
            assert!(!steps.iter().any(whole), "{steps:#?}");
        }
    }
}
