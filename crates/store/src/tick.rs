//! Ticks: begun, committed or skipped, each in one batch under the fence.

use nexus_core::budget::Window;
use nexus_core::trigger::Trigger;
use nexus_core::{Generation, Hash32, Msat, Npub, TickId, UnixMs};

use crate::agent::Change;
use crate::batch::{Value, params, words};
use crate::blob::{Blob, Named};
use crate::draft::Draft;
use crate::event::NewEvent;
use crate::inbox::Item;
use crate::journal::Record;
use crate::row::Columns;
use crate::{Batch, Conflict, Fence, Result, Side, Statement, Store, Verdict, agent, blob, inbox, journal};

/// Most ticks of one page.
pub const MAX_PAGE: u32 = 200;

macro_rules! tick_columns {
    () => {
        "SELECT tick_id, npub, cause, status, reason, generation, started_at, ended_at, cost_msat, actions, steps, sealed,
            object, object_size FROM tick"
    };
}

/// How far a tick got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TickStatus {
    Open,
    Completed,
    Failed,
    Skipped,
}

/// A row of the history. Texts that people read are in `sealed`, under the view key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick {
    pub id: TickId,
    pub npub: Npub,
    pub trigger: Trigger,
    pub status: TickStatus,
    /// Why it failed or was skipped.
    pub reason: Option<String>,
    pub generation: Generation,
    pub started_at: UnixMs,
    pub ended_at: Option<UnixMs>,
    /// Spent, fees included.
    pub cost: Msat,
    /// JSON array of the API's actions.
    pub actions: String,
    /// JSON array of steps: names, times, outcomes; no text.
    pub steps: String,
    /// A large one is an object, which [`get`] brings and [`list`] and [`open`] leave where it is.
    pub sealed: Option<Vec<u8>>,
    /// Bytes of `sealed`, wherever it is.
    pub sealed_size: u64,
}

/// The start of a tick.
#[derive(Debug, Clone)]
pub struct Begin {
    pub fence: Fence,
    pub npub: Npub,
    pub generation: Generation,
    pub tick: TickId,
    pub trigger: Trigger,
    pub at: UnixMs,
    /// Inbox rows it takes; each must be unclaimed.
    pub inbox: Vec<i64>,
    /// The first journal records.
    pub records: Vec<Record>,
    pub events: Vec<NewEvent>,
    pub side: Vec<Side>,
}

/// The end of a tick: journal deleted, its inbox rows handled.
#[derive(Debug, Clone)]
pub struct Commit {
    pub fence: Fence,
    pub npub: Npub,
    pub generation: Generation,
    pub tick: TickId,
    pub at: UnixMs,
    /// None: completed. Some: failed, with why.
    pub failed: Option<String>,
    /// Nothing was bought or done: what it claimed is taken by another tick, some times.
    pub again: bool,
    /// The new encrypted state; none leaves it.
    pub state: Option<NewState>,
    pub cost: Msat,
    pub actions: String,
    pub steps: String,
    pub sealed: Option<Blob>,
    /// Lifecycle, balance, next tick, reason.
    pub change: Change,
    pub events: Vec<NewEvent>,
    pub side: Vec<Side>,
}

/// Encrypted state to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewState {
    /// Above `after`; one above, except where an older state was accepted in spite of a later anchor.
    pub version: i64,
    /// The stored version that it follows; 0 for none.
    pub after: i64,
    pub blob: Blob,
}

/// A refusal of the gate, recorded and visible.
#[derive(Debug, Clone)]
pub struct Skip {
    pub fence: Fence,
    pub npub: Npub,
    pub generation: Generation,
    pub tick: TickId,
    pub trigger: Trigger,
    pub at: UnixMs,
    pub reason: String,
    /// Inbox rows that the refusal settles; rows left out wait for the next wake-up.
    pub discard: Vec<i64>,
    pub change: Change,
    pub events: Vec<NewEvent>,
}

/// A tick that a crash or a hand-over left open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTick {
    pub tick: Tick,
    pub records: Vec<Record>,
    pub inbox: Vec<Item>,
}

/// Returns the numbers of appended events.
///
/// # Errors
/// `Stale`; `Conflict::TickOpen` when the agent has an open tick; `Conflict::InboxGone` when a row was claimed or
/// handled before; conflicts of side effects. In each case nothing was changed.
pub async fn begin(store: &Store, begin: Begin) -> Result<Vec<i64>> {
    let Begin { fence, npub, generation, tick, trigger, at, inbox, records, events, side } = begin;
    let mut draft = Draft::hosted("begin a tick", fence, npub, generation);
    draft.push(
        Statement::write(
            "INSERT INTO tick (tick_id, npub, cause, status, generation, started_at, cost_msat, actions, steps)
             VALUES (?1, ?2, ?3, 'open', ?4, ?5, 0, '[]', '[]') ON CONFLICT DO NOTHING",
            params![tick, npub, trigger.to_string(), generation, at],
        )
        .one_or_conflict(Conflict::TickOpen),
    );
    for id in inbox {
        draft.push(inbox::claim_statement(npub, id, tick));
    }
    for record in records {
        draft.push(record.statement(tick, generation));
    }
    draft.sides(&side, npub, generation, Some(tick), at)?;
    draft.events(npub, &events);
    draft.write(store).await
}

/// Returns the numbers of appended events.
///
/// # Errors
/// `Stale`; `Conflict::TickNotOpen` (it was committed before: read it back); `Conflict::Version` when the stored state
/// is not the one that this tick read. In each case nothing was changed.
pub async fn commit(store: &Store, commit: Commit) -> Result<Vec<i64>> {
    let Commit { fence, npub, generation, tick, at, .. } = commit;
    let mut draft = Draft::hosted("commit a tick", fence, npub, generation);
    draft.push(commit.close_statement());
    if let Some(kept) = commit.sealed.as_ref().and_then(|sealed| sealed.keep_statement(npub)) {
        draft.push(kept);
    }
    if let Some(state) = &commit.state {
        for statement in agent::state_statements(store, npub, generation, state, at) {
            draft.push(statement);
        }
    }
    draft.push(Statement::write("DELETE FROM journal WHERE tick_id = ?1", params![tick]));
    if commit.again {
        draft.push(inbox::released_statement(npub, tick));
    }
    draft.push(inbox::handled_statement(npub, tick));
    draft.push(commit.change.statement(npub, at));
    draft.sides(&commit.side, npub, generation, Some(tick), at)?;
    draft.events(npub, &commit.events);
    draft.write(store).await
}

pub async fn skip(store: &Store, skip: Skip) -> Result<Vec<i64>> {
    let Skip { fence, npub, generation, tick, trigger, at, reason, discard, change, events } = skip;
    let reason = words(reason);
    let mut draft = Draft::hosted("skip a tick", fence, npub, generation);
    draft.push(
        Statement::write(
            "INSERT INTO tick (tick_id, npub, cause, status, reason, generation, started_at, ended_at, cost_msat, actions,
                steps)
             VALUES (?1, ?2, ?3, 'skipped', ?4, ?5, ?6, ?6, 0, '[]', '[]') ON CONFLICT DO NOTHING",
            params![tick, npub, trigger.to_string(), reason.clone(), generation, at],
        )
        .one_or(Verdict::Duplicate),
    );
    for id in discard {
        draft.push(inbox::settle_statement(npub, id, reason.clone()));
    }
    draft.push(change.statement(npub, at));
    draft.events(npub, &events);
    draft.write(store).await
}

/// The open tick of an agent with its journal and inbox rows.
pub async fn open(store: &Store, npub: Npub) -> Result<Option<OpenTick>> {
    let sql = concat!(tick_columns!(), " WHERE npub = ?1 AND status = 'open'");
    let Some(tick) = store.row("find the open tick", sql, params![npub], tick_row).await? else { return Ok(None) };
    let records = journal::load(store, tick.id).await?;
    let inbox = inbox::claimed(store, npub, tick.id).await?;
    Ok(Some(OpenTick { tick, records, inbox }))
}

/// Newest first, started before the tick `before`.
pub async fn list(store: &Store, npub: Npub, before: Option<TickId>, limit: u32) -> Result<Vec<Tick>> {
    let sql = concat!(tick_columns!(), " WHERE npub = ?1 AND tick_id < ?2 ORDER BY tick_id DESC LIMIT ?3");
    let before = before.map_or_else(|| vec![0xff; 17], |tick| tick.as_bytes().to_vec());
    store.rows("list ticks", sql, params![npub, before, limit.min(MAX_PAGE)], tick_row).await
}

/// # Errors
/// [`StoreError::Object`] when its sealed part is an object that cannot be had, or is not the one that was put.
pub async fn get(store: &Store, npub: Npub, tick: TickId) -> Result<Option<Tick>> {
    let sql = concat!(tick_columns!(), " WHERE tick_id = ?1 AND npub = ?2");
    let row = store.row("read a tick", sql, params![tick, npub], tick_and_object).await?;
    let Some((mut tick, named)) = row else { return Ok(None) };
    if named.hash.is_some() {
        tick.sealed = Some(blob::fetch(store, npub, named).await?);
    }
    Ok(Some(tick))
}

/// Ticks that really ran (not skipped) since `since`: for the hourly limit.
pub async fn count_since(store: &Store, npub: Npub, since: UnixMs) -> Result<u32> {
    let sql =
        "SELECT COUNT(*) FROM tick WHERE npub = ?1 AND tick_id >= ?2 AND started_at >= ?3 AND status <> 'skipped'";
    let count = store.row("count ticks", sql, params![npub, floor(since), since], |row| row.get()).await?;
    Ok(count.unwrap_or(0))
}

/// Spent by ticks since `since`, and the earliest of them: for the runway.
pub async fn spent_since(store: &Store, npub: Npub, since: UnixMs) -> Result<(Msat, Option<UnixMs>)> {
    let sql = "SELECT CAST(COALESCE(SUM(cost_msat), 0) AS BIGINT), MIN(started_at) FROM tick
        WHERE npub = ?1 AND tick_id >= ?2 AND started_at >= ?3 AND status <> 'skipped'";
    let params = params![npub, floor(since), since];
    let spent = store.row("sum up spending", sql, params, |row| Ok((row.get()?, row.get()?))).await?;
    Ok(spent.unwrap_or((Msat::ZERO, None)))
}

/// When the last tick was committed.
pub async fn last_committed(store: &Store, npub: Npub) -> Result<Option<Tick>> {
    let sql = concat!(
        tick_columns!(),
        " WHERE npub = ?1 AND status IN ('completed', 'failed') ORDER BY tick_id DESC LIMIT 1"
    );
    store.row("find the last tick", sql, params![npub], tick_row).await
}

/// Agents with ticks older than their plan keeps, with the moment before which those go.
pub async fn agents_past_plan(store: &Store, now: UnixMs, limit: u32) -> Result<Vec<(Npub, UnixMs)>> {
    let sql = "SELECT a.npub, a.retention_days FROM agent a WHERE a.retention_days IS NOT NULL
            AND (SELECT t.started_at FROM tick t WHERE t.npub = a.npub ORDER BY t.tick_id LIMIT 1)
                < ?1 - (a.retention_days + 1) * 86400000
        ORDER BY a.npub LIMIT ?2";
    let read = |row: &mut Columns| Ok((row.get()?, crate::event::before(now, row.get()?)));
    store.rows("look for ticks that a plan does not keep", sql, params![now, limit.min(MAX_PAGE)], read).await
}

/// Deletes closed ticks that started before `before`, with their concluded payments and the budget windows that hold
/// nothing, oldest first, at most `limit` and [`MAX_PAGE`]. Returns how many ticks. Without those of agents whose plan says
/// how long theirs are kept.
pub async fn purge(store: &Store, before: UnixMs, limit: u32) -> Result<u64> {
    let sql = "SELECT tick_id, npub, started_at, ended_at, status, object FROM tick
        WHERE tick_id < ?1 AND status <> 'open' AND NOT EXISTS
            (SELECT 1 FROM agent a WHERE a.npub = tick.npub AND a.retention_days IS NOT NULL)
        ORDER BY tick_id LIMIT ?2";
    purge_found(store, sql, params![floor(before), limit.min(MAX_PAGE)], before).await
}

/// The same of one agent, whatever its plan.
pub async fn purge_of(store: &Store, npub: Npub, before: UnixMs, limit: u32) -> Result<u64> {
    let sql = "SELECT tick_id, npub, started_at, ended_at, status, object FROM tick
        WHERE npub = ?3 AND tick_id < ?1 AND status <> 'open' ORDER BY tick_id LIMIT ?2";
    purge_found(store, sql, params![floor(before), limit.min(MAX_PAGE), npub], before).await
}

async fn purge_found(store: &Store, sql: &'static str, found: Vec<Value>, before: UnixMs) -> Result<u64> {
    let read = |row: &mut Columns| {
        let (tick, npub, started, ended): (TickId, Npub, UnixMs, Option<UnixMs>) =
            (row.get()?, row.get()?, row.get()?, row.get()?);
        let status = row.parse(TickStatus::parse)?;
        let object: Option<Hash32> = row.get()?;
        Ok((tick, npub, started, ended, status, object))
    };
    let old = store.rows("find old ticks", sql, found, read).await?;
    if old.is_empty() {
        return Ok(0);
    }
    let mut batch = Batch::new("purge ticks");
    let mut deletions = Vec::with_capacity(old.len());
    for (tick, npub, started, ended, status, object) in old {
        if let Some(object) = object {
            batch.push(blob::drop_statement(npub, object, before));
        }
        // A skipped one paid nothing.
        if status != TickStatus::Skipped {
            batch.push(Statement::write(
                "DELETE FROM payment WHERE npub = ?1 AND created_at >= ?2 AND created_at <= ?3 AND tick_id = ?4
                    AND state IN ('settled', 'failed', 'canceled')",
                params![npub, started, ended.unwrap_or(started), tick],
            ));
            batch.push(Statement::write(
                "DELETE FROM budget WHERE npub = ?1 AND win IN (?2, ?3) AND held_msat = 0",
                params![npub, Window::Tick(tick).key(), Window::day_of(started).key()],
            ));
        }
        batch.push(Statement::write("DELETE FROM tick WHERE tick_id = ?1 AND status <> 'open'", params![tick]));
        deletions.push(batch.len() - 1);
    }
    let outputs = store.write(batch).await?;
    Ok(deletions.into_iter().filter_map(|place| outputs.get(place)).map(|output| output.affected).sum())
}

impl TickStatus {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Open, Self::Completed, Self::Failed, Self::Skipped].into_iter().find(|status| status.as_str() == text)
    }
}

impl Commit {
    fn close_statement(&self) -> Statement {
        let (sealed, object, size) = match &self.sealed {
            Some(Blob::Row(bytes)) => (Some(bytes.clone()), None, None),
            Some(Blob::Object { hash, size }) => (None, Some(*hash), i64::try_from(*size).ok()),
            None => (None, None, None),
        };
        let status = if self.failed.is_some() { TickStatus::Failed } else { TickStatus::Completed };
        Statement::write(
            "UPDATE tick SET status = ?3, reason = ?4, ended_at = ?5, cost_msat = ?6, actions = ?7, steps = ?8, sealed = ?9,
                object = ?10, object_size = ?11
             WHERE tick_id = ?1 AND npub = ?2 AND status = 'open'",
            params![
                self.tick,
                self.npub,
                status.as_str(),
                self.failed.clone().map(words),
                self.at,
                self.cost,
                self.actions.clone(),
                self.steps.clone(),
                sealed,
                object,
                size
            ],
        )
        .one_or_conflict(Conflict::TickNotOpen)
    }
}

/// The smallest tick id of a moment: ids begin with their milliseconds (RFC 9562, UUIDv7), so they are an index by time.
fn floor(at: UnixMs) -> Vec<u8> {
    let ms = u64::try_from(at.0).unwrap_or(0);
    ms.to_be_bytes().into_iter().skip(2).chain([0; 10]).collect()
}

fn tick_row(row: &mut Columns) -> Result<Tick> {
    tick_and_object(row).map(|(tick, _)| tick)
}

fn tick_and_object(row: &mut Columns) -> Result<(Tick, Named)> {
    let mut tick = Tick {
        id: row.get()?,
        npub: row.get()?,
        trigger: row.parse(|text| text.parse().ok())?,
        status: row.parse(TickStatus::parse)?,
        reason: row.get()?,
        generation: row.get()?,
        started_at: row.get()?,
        ended_at: row.get()?,
        cost: row.get()?,
        actions: row.get()?,
        steps: row.get()?,
        sealed: row.get()?,
        sealed_size: 0,
    };
    let named = Named { bytes: Vec::new(), hash: row.get()?, size: row.get()? };
    let in_row = tick.sealed.as_ref().map_or(0, |sealed| sealed.len() as u64);
    tick.sealed_size = named.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(in_row);
    Ok((tick, named))
}
