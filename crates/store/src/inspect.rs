//! Looking at a whole database, for checks of what must hold. Nothing here is on a hot path.

use nexus_core::budget::{Counter, Window};
use nexus_core::{Generation, Hash32, Npub, TickId, UnixMs, WorkerId};

use crate::batch::params;
use crate::{Batch, Fence, Result, Statement, Store, dialect};

/// Rows of one answer at most.
const MAX_ROWS: u32 = 10_000;

/// What is seen of an agent from outside: two equal marks mean that nothing of it was changed in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub npub: Npub,
    pub worker: Option<WorkerId>,
    pub generation: Generation,
    pub event_seq: i64,
    pub state_version: i64,
    /// What a worker shows or plans: reason, next attempt, next tick, balance, custody, one text.
    pub shown: String,
    pub ticks: i64,
    pub journal: i64,
    /// Grows or falls with every arrow of a payment.
    pub payments: i64,
    pub handled: i64,
    pub claimed: i64,
    pub publications: i64,
    pub attempts: i64,
}

/// A trigger that was stored, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    pub external_id: String,
    pub handled: bool,
    pub tick: Option<TickId>,
    /// Why it was settled without a tick.
    pub note: Option<String>,
}

/// Every agent's mark, in npub order.
pub async fn marks(store: &Store) -> Result<Vec<Mark>> {
    let sql = "SELECT a.npub, a.worker_id, a.generation, a.event_seq,
            COALESCE((SELECT s.version FROM agent_state s WHERE s.npub = a.npub), 0),
            COALESCE(a.reason_code, '') || '|' || COALESCE(CAST(a.next_attempt_at AS TEXT), '') || '|' ||
                COALESCE(CAST(a.next_tick_at AS TEXT), '') || '|' || COALESCE(CAST(a.balance_msat AS TEXT), '') || '|' ||
                a.custody || '|' || a.lifecycle,
            (SELECT COUNT(*) FROM tick t WHERE t.npub = a.npub),
            (SELECT COUNT(*) FROM journal j JOIN tick t ON t.tick_id = j.tick_id WHERE t.npub = a.npub AND t.status = 'open'),
            (SELECT CAST(COALESCE(SUM(CASE p.state WHEN 'reserved' THEN 1 WHEN 'dispatched' THEN 3 WHEN 'pending' THEN 7
                WHEN 'unknown' THEN 15 WHEN 'settled' THEN 31 WHEN 'failed' THEN 63 ELSE 127 END), 0) AS BIGINT)
                FROM payment p WHERE p.npub = a.npub),
            (SELECT COUNT(*) FROM inbox i WHERE i.npub = a.npub AND i.handled = 1),
            (SELECT COUNT(*) FROM inbox i WHERE i.npub = a.npub AND i.tick_id IS NOT NULL),
            (SELECT COUNT(*) FROM publication b WHERE b.npub = a.npub),
            (SELECT CAST(COALESCE(SUM(b.attempts + b.done), 0) AS BIGINT) FROM publication b WHERE b.npub = a.npub)
        FROM agent a ORDER BY a.npub LIMIT ?1";
    store
        .rows("look at all agents", sql, params![MAX_ROWS], |row| {
            Ok(Mark {
                npub: row.get()?,
                worker: row.get()?,
                generation: row.get()?,
                event_seq: row.get()?,
                state_version: row.get()?,
                shown: row.get()?,
                ticks: row.get()?,
                journal: row.get()?,
                payments: row.get()?,
                handled: row.get()?,
                claimed: row.get()?,
                publications: row.get()?,
                attempts: row.get()?,
            })
        })
        .await
}

/// Whether a worker's fence holds now.
pub async fn fence_holds(store: &Store, fence: Fence) -> Result<bool> {
    let statement = Statement::read(dialect::FENCE, params![fence.worker, fence.incarnation]);
    let outputs = store.read(Batch::new("look at a fence").with(statement)).await?;
    Ok(outputs.first().is_some_and(|output| output.affected > 0))
}

/// Every trigger that an agent's inbox remembers, oldest first.
pub async fn triggers(store: &Store, npub: Npub) -> Result<Vec<Trigger>> {
    let sql = "SELECT external_id, handled, tick_id, note FROM inbox WHERE npub = ?1 ORDER BY id LIMIT ?2";
    store
        .rows("look at an inbox", sql, params![npub, MAX_ROWS], |row| {
            Ok(Trigger { external_id: row.get()?, handled: row.get()?, tick: row.get()?, note: row.get()? })
        })
        .await
}

/// Every budget window of an agent, by its key.
pub async fn windows(store: &Store, npub: Npub) -> Result<Vec<(Window, Counter)>> {
    let sql = "SELECT win, settled_msat, held_msat FROM budget WHERE npub = ?1 ORDER BY win LIMIT ?2";
    store
        .rows("look at budgets", sql, params![npub, MAX_ROWS], |row| {
            let window = row.parse(Window::parse)?;
            Ok((window, Counter { settled: row.get()?, held: row.get()? }))
        })
        .await
}

/// One line of the hosting ledger, with what its entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub key: String,
    pub kind: String,
    pub npub: Option<Npub>,
    pub at: UnixMs,
    pub book: String,
    pub amount_msat: i64,
}

/// Every line of the hosting ledger, entry by entry.
pub async fn ledger(store: &Store) -> Result<Vec<Line>> {
    let sql = "SELECT e.entry_key, e.kind, e.npub, e.at, l.book, l.amount_msat
        FROM ledger_entry e JOIN ledger_line l ON l.entry_key = e.entry_key ORDER BY e.at, e.entry_key, l.book LIMIT ?1";
    store
        .rows("look at the hosting ledger", sql, params![MAX_ROWS], |row| {
            Ok(Line {
                key: row.get()?,
                kind: row.get()?,
                npub: row.get()?,
                at: row.get()?,
                book: row.get()?,
                amount_msat: row.get()?,
            })
        })
        .await
}

/// An invoice for an agent's own rent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedRent {
    pub hash: Hash32,
    pub npub: Npub,
    /// Which month, as it was named.
    pub month: String,
    pub state: String,
}

/// Every invoice for rent.
pub async fn rents(store: &Store) -> Result<Vec<AskedRent>> {
    let sql = "SELECT payment_hash, npub, rent_month, state FROM hosting_invoice WHERE origin = 'rent'
        ORDER BY created_at, payment_hash LIMIT ?1";
    store
        .rows("look at rents", sql, params![MAX_ROWS], |row| {
            Ok(AskedRent { hash: row.get()?, npub: row.get()?, month: row.get()?, state: row.get()? })
        })
        .await
}
