//! Payments of agents: one intent for each payable step, moved by compare-and-set, and the budget counters.

use nexus_core::budget::{Counter, Window};
use nexus_core::payment::PaymentState;
use nexus_core::{Generation, Hash32, Msat, Npub, TickId, UnixMs};

use crate::batch::{Lock, params, words};
use crate::row::Columns;
use crate::side::PaymentMove;
use crate::{Conflict, Fence, Result, Statement, Store, Verdict};

/// Most payments of one page.
pub const MAX_PAGE: u32 = 500;

macro_rules! payment_columns {
    () => {
        "SELECT npub, hash, step, purpose, bolt11, amount_msat, max_fee_msat, fee_msat, state, attempt, dispatched_by,
            tick_id, windows, payee, preimage, note, expires_at, created_at, updated_at FROM payment"
    };
}

/// A payment to be made, with its budget held by `Side::ReserveBudget` in the same batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPayment {
    pub hash: Hash32,
    /// The payable step: `job:<tick>:<attempt>`, `zap:<event id>`, `withdrawal:<id>`. At most one open intent each.
    pub step: String,
    /// `inference`, `zap`, `withdrawal`.
    pub purpose: String,
    pub bolt11: String,
    pub amount: Msat,
    pub max_fee: Msat,
    pub expires_at: UnixMs,
    /// The windows that hold `amount + max_fee` for it.
    pub windows: Vec<Window>,
    pub payee: Option<Npub>,
}

/// A stored payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    pub npub: Npub,
    pub hash: Hash32,
    pub step: String,
    pub purpose: String,
    pub bolt11: String,
    pub amount: Msat,
    pub max_fee: Msat,
    pub fee: Msat,
    pub state: PaymentState,
    /// Counts from 1.
    pub attempt: u32,
    /// The generation that sent it; none while reserved.
    pub dispatched_by: Option<Generation>,
    pub tick: Option<TickId>,
    pub windows: Vec<Window>,
    pub payee: Option<Npub>,
    pub preimage: Option<Vec<u8>>,
    pub note: Option<String>,
    pub expires_at: UnixMs,
    pub created_at: UnixMs,
    pub updated_at: UnixMs,
}

impl Payment {
    /// What each window holds for it while it is open.
    pub fn hold(&self) -> Msat {
        self.amount.saturating_add(self.max_fee)
    }
}

pub async fn get(store: &Store, npub: Npub, hash: Hash32) -> Result<Option<Payment>> {
    let sql = concat!(payment_columns!(), " WHERE npub = ?1 AND hash = ?2");
    store.row("read a payment", sql, params![npub, hash], payment_row).await
}

/// Payments that recovery owes an answer (dispatched, pending, unknown), oldest first.
pub async fn unresolved(store: &Store, npub: Npub) -> Result<Vec<Payment>> {
    let sql = concat!(
        payment_columns!(),
        " WHERE npub = ?1 AND state IN ('dispatched', 'pending', 'unknown') ORDER BY created_at, hash LIMIT ?2"
    );
    store.rows("read unresolved payments", sql, params![npub, MAX_PAGE], payment_row).await
}

/// Payments still open: also `reserved` ones, which a crash may have left between the hold and the dispatch.
pub async fn open(store: &Store, npub: Npub) -> Result<Vec<Payment>> {
    let sql = concat!(
        payment_columns!(),
        " WHERE npub = ?1 AND state IN ('reserved', 'dispatched', 'pending', 'unknown')
          ORDER BY created_at, hash LIMIT ?2"
    );
    store.rows("read open payments", sql, params![npub, MAX_PAGE], payment_row).await
}

/// Agents of this worker with unresolved payments.
pub async fn agents_unresolved(store: &Store, fence: Fence, limit: u32) -> Result<Vec<Npub>> {
    let sql = "SELECT DISTINCT p.npub FROM payment p CROSS JOIN agent a
        WHERE p.state IN ('reserved', 'dispatched', 'pending', 'unknown')
            AND p.state <> 'reserved' AND a.npub = p.npub AND a.worker_id = ?1
        ORDER BY p.npub LIMIT ?2";
    store.rows("find unresolved payments", sql, params![fence.worker, limit], |row| row.get()).await
}

/// Newest first.
pub async fn list(store: &Store, npub: Npub, before: Option<UnixMs>, limit: u32) -> Result<Vec<Payment>> {
    let sql =
        concat!(payment_columns!(), " WHERE npub = ?1 AND created_at < ?2 ORDER BY created_at DESC, hash LIMIT ?3");
    let before = before.unwrap_or(UnixMs(i64::MAX));
    store.rows("list payments", sql, params![npub, before, limit.min(MAX_PAGE)], payment_row).await
}

/// The window's counters, zero if it was never used.
pub async fn counter(store: &Store, npub: Npub, window: Window) -> Result<Counter> {
    let sql = "SELECT settled_msat, held_msat FROM budget WHERE npub = ?1 AND win = ?2";
    let found = store
        .row("read a budget counter", sql, params![npub, window.key()], |row| {
            Ok(Counter { settled: row.get()?, held: row.get()? })
        })
        .await?;
    Ok(found.unwrap_or_default())
}

fn payment_row(row: &mut Columns) -> Result<Payment> {
    Ok(Payment {
        npub: row.get()?,
        hash: row.get()?,
        step: row.get()?,
        purpose: row.get()?,
        bolt11: row.get()?,
        amount: row.get()?,
        max_fee: row.get()?,
        fee: row.get()?,
        state: row.parse(PaymentState::parse)?,
        attempt: row.get()?,
        dispatched_by: row.get()?,
        tick: row.get()?,
        windows: row.parse(|text| text.split(',').filter(|key| !key.is_empty()).map(Window::parse).collect())?,
        payee: row.get()?,
        preimage: row.get()?,
        note: row.get()?,
        expires_at: row.get()?,
        created_at: row.get()?,
        updated_at: row.get()?,
    })
}

/// How many payments an agent began since.
pub async fn begun_since(store: &Store, npub: Npub, since: UnixMs) -> Result<u32> {
    let sql = "SELECT COUNT(*) FROM payment WHERE npub = ?1 AND created_at > ?2";
    Ok(store.row("count payments", sql, params![npub, since], |row| row.get()).await?.unwrap_or(0))
}

/// Refuses the batch when `most` were begun since. Whoever begins another waits for this one.
pub(crate) fn fewer_than(npub: Npub, since: UnixMs, most: u32) -> Vec<Statement> {
    let count = "SELECT 1 WHERE (SELECT COUNT(*) FROM payment WHERE npub = ?1 AND created_at > ?2) < ?3";
    vec![
        Statement::read("SELECT 1 FROM agent WHERE npub = ?1", params![npub])
            .lock(Lock::Update)
            .one_or_conflict(Conflict::NoAgent),
        Statement::read(count, params![npub, since, most])
            .one_or_conflict(Conflict::Budget { window: "payments_per_hour".to_owned() }),
    ]
}

impl NewPayment {
    /// Asks first, so that each refusal has its name; the unique indexes stand behind the asking.
    pub(crate) fn statements(&self, npub: Npub, tick: Option<TickId>, now: UnixMs) -> Vec<Statement> {
        let step_free = Statement::read(
            "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM payment
                WHERE npub = ?1 AND step = ?2 AND state NOT IN ('failed', 'canceled'))",
            params![npub, self.step.clone()],
        );
        let hash_free = Statement::read(
            "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM payment WHERE npub = ?1 AND hash = ?2)",
            params![npub, self.hash],
        );
        let windows: Vec<String> = self.windows.iter().map(Window::key).collect();
        let insert = Statement::write(
            "INSERT INTO payment (npub, hash, step, purpose, bolt11, amount_msat, max_fee_msat, fee_msat, state, attempt,
                tick_id, windows, payee, expires_at, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, 'reserved', 1, ?8, ?9, ?10, ?11, ?12, ?12) ON CONFLICT DO NOTHING",
            params![
                npub,
                self.hash,
                self.step.clone(),
                self.purpose.clone(),
                self.bolt11.clone(),
                self.amount,
                self.max_fee,
                tick,
                windows.join(","),
                self.payee,
                self.expires_at,
                now
            ],
        );
        vec![
            step_free.one_or_conflict(Conflict::PaymentStep),
            hash_free.one_or_conflict(Conflict::PaymentHash),
            insert.one_or(Verdict::Duplicate),
        ]
    }
}

impl PaymentMove {
    pub(crate) fn statements(&self, npub: Npub, generation: Generation) -> Result<Vec<Statement>, Conflict> {
        if !self.from.may_become(self.to) {
            return Err(Conflict::PaymentArrow { from: self.from.as_str(), to: self.to.as_str() });
        }
        let mut statements = Vec::with_capacity(2);
        if self.to == PaymentState::Reserved {
            // The next attempt of a failed payment, unless its step has another intent by now.
            statements.push(
                Statement::read(
                    "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM payment other JOIN payment this ON this.npub = other.npub
                        AND this.step = other.step AND this.hash <> other.hash
                        WHERE this.npub = ?1 AND this.hash = ?2 AND other.state NOT IN ('failed', 'canceled'))",
                    params![npub, self.hash],
                )
                .one_or_conflict(Conflict::PaymentStep),
            );
        }
        let dispatched_by = (self.to == PaymentState::Dispatched).then_some(generation);
        statements.push(
            Statement::write(
                "UPDATE payment SET state = ?4, updated_at = ?5, attempt = attempt + ?6,
                    dispatched_by = COALESCE(?7, dispatched_by), fee_msat = COALESCE(?8, fee_msat),
                    preimage = COALESCE(?9, preimage), note = COALESCE(?10, note)
                 WHERE npub = ?1 AND hash = ?2 AND state = ?3",
                params![
                    npub,
                    self.hash,
                    self.from.as_str(),
                    self.to.as_str(),
                    self.at,
                    self.to == PaymentState::Reserved,
                    dispatched_by,
                    self.fee,
                    self.preimage.clone(),
                    self.note.clone().map(words)
                ],
            )
            .one_or_conflict(Conflict::PaymentState { expected: self.from.as_str().to_owned() }),
        );
        Ok(statements)
    }
}
