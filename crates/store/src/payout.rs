//! Refunds of hosting credit, on their way out of the operator's node.
//!
//! What an account takes back leaves its credit in the batch that orders it, and stands in the book `refunds` until it is
//! paid or surely was not. Each step moves its row by compare-and-set and books under a key of its own: whoever repeats or
//! races it, it happens once.

use nexus_core::payment::PaymentState;
use nexus_core::{AccountId, Hash32, Msat, UnixMs, WorkerId};

use crate::batch::{Lock, params, words};
use crate::draft::Draft;
use crate::ledger::{Book, Kind, Transfer};
use crate::row::Columns;
use crate::{Conflict, Result, Statement, Store, rent};

/// After its last payment in, an account waits so long.
pub const WAIT_MS: i64 = 86_400_000;
/// Refunds of an account in a day at most.
pub const MAX_A_DAY: i64 = 3;
const DAY_MS: i64 = 86_400_000;
/// Most of one page.
pub const MAX_PAGE: u32 = 200;

/// A refund that is ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPayout {
    /// Of the invoice: what is ordered once.
    pub hash: Hash32,
    pub account: AccountId,
    pub bolt11: String,
    pub amount: Msat,
    pub max_fee: Msat,
    pub expires_at: UnixMs,
    /// What the payer believes, and nothing else.
    pub order: String,
    pub created_at: UnixMs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payout {
    pub hash: Hash32,
    pub account: AccountId,
    pub bolt11: String,
    pub amount: Msat,
    pub max_fee: Msat,
    pub fee: Msat,
    pub state: PaymentState,
    /// The payer that sent it; none while reserved.
    pub dispatched_by: Option<WorkerId>,
    pub order: String,
    pub note: Option<String>,
    pub expires_at: UnixMs,
    pub created_at: UnixMs,
    pub updated_at: UnixMs,
}

impl Payout {
    /// What stands in the book `refunds` for it while it is open.
    pub fn hold(&self) -> Msat {
        self.amount.saturating_add(self.max_fee)
    }
}

macro_rules! payout_columns {
    () => {
        "SELECT payment_hash, account_id, bolt11, amount_msat, max_fee_msat, fee_msat, state, dispatched_by, signed_order,
            note, expires_at, created_at, updated_at FROM hosting_payout"
    };
}

/// Orders a refund: the credit is held for it in the same batch.
///
/// # Errors
/// [`Conflict::PaymentHash`] when the invoice was met before; [`Conflict::Unresolved`] while another of this account is
/// open; [`Conflict::TooMany`] above [`MAX_A_DAY`]; [`Conflict::TooSoon`] within [`WAIT_MS`] of the last payment in;
/// [`Conflict::NoCredit`].
pub async fn order(store: &Store, new: NewPayout) -> Result<()> {
    let mut draft = Draft::new("order a refund");
    let (account, at) = (new.account, new.created_at);
    let lock = Statement::read("SELECT 1 FROM account WHERE account_id = ?1", params![account]);
    draft.push(lock.lock(Lock::Update).one_or_conflict(Conflict::NoAccount));
    let ask = |sql, params, conflict| Statement::read(sql, params).one_or_conflict(conflict);
    draft.push(ask(
        "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM hosting_payout WHERE payment_hash = ?1)
            AND NOT EXISTS (SELECT 1 FROM hosting_invoice WHERE payment_hash = ?1)",
        params![new.hash],
        Conflict::PaymentHash,
    ));
    draft.push(ask(
        "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM hosting_payout WHERE account_id = ?1
            AND state NOT IN ('settled', 'failed', 'canceled'))",
        params![account],
        Conflict::Unresolved,
    ));
    draft.push(ask(
        "SELECT 1 WHERE (SELECT COUNT(*) FROM hosting_payout WHERE account_id = ?1 AND created_at > ?2) < ?3",
        params![account, at.plus_ms(-DAY_MS), MAX_A_DAY],
        Conflict::TooMany,
    ));
    draft.push(ask(
        "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM hosting_invoice WHERE account_id = ?1 AND state = 'paid' AND paid_at > ?2)",
        params![account, at.plus_ms(-WAIT_MS)],
        Conflict::TooSoon,
    ));
    let hold = new.amount.saturating_add(new.max_fee);
    rent::leaves_others(&mut draft, account, None, hold);
    Transfer {
        key: reserve_key(new.hash),
        kind: Kind::Refund,
        account: Some(account),
        npub: None,
        note: format!("{} and up to {} of fee", new.amount, new.max_fee),
        at,
        from: Book::Refunds(account),
        to: Book::Credit(account),
        amount: hold,
    }
    .push_to(&mut draft);
    draft.push(Statement::write(
        "INSERT INTO hosting_payout (payment_hash, account_id, bolt11, amount_msat, max_fee_msat, fee_msat, state,
            signed_order, expires_at, created_at, updated_at, look_at)
         VALUES (?1, ?2, ?3, ?4, ?5, 0, 'reserved', ?6, ?7, ?8, ?8, ?8)",
        params![new.hash, account, new.bolt11, new.amount, new.max_fee, new.order, new.expires_at, at],
    ));
    draft.write(store).await.map(|_| ())
}

pub async fn get(store: &Store, hash: Hash32) -> Result<Option<Payout>> {
    let sql = concat!(payout_columns!(), " WHERE payment_hash = ?1");
    store.row("read a refund", sql, params![hash], payout_row).await
}

/// An account's, newest first.
pub async fn list(store: &Store, account: AccountId, limit: u32) -> Result<Vec<Payout>> {
    let sql = concat!(payout_columns!(), " WHERE account_id = ?1 ORDER BY created_at DESC, payment_hash LIMIT ?2");
    store.rows("list refunds", sql, params![account, limit.min(MAX_PAGE)], payout_row).await
}

/// What a payer is to look at now.
pub async fn due(store: &Store, now: UnixMs, limit: u32) -> Result<Vec<Payout>> {
    let sql = concat!(
        payout_columns!(),
        " WHERE state NOT IN ('settled', 'failed', 'canceled') AND look_at <= ?1 ORDER BY look_at, payment_hash LIMIT ?2"
    );
    store.rows("find refunds to pay", sql, params![now, limit.min(MAX_PAGE)], payout_row).await
}

/// An arrow that ends nothing: `dispatched` before the first byte leaves, `pending` and `unknown` after.
///
/// # Errors
/// [`Conflict::PaymentState`] when it does not stand as it was read: another payer has it.
pub async fn moved(
    store: &Store,
    payout: &Payout,
    to: PaymentState,
    by: WorkerId,
    at: UnixMs,
    look_at: UnixMs,
) -> Result<()> {
    let mut draft = Draft::new("move a refund");
    draft.push(cas(payout, to, Some(by), Msat::ZERO, None, at, look_at)?);
    draft.write(store).await.map(|_| ())
}

/// Looked at again then, and why not yet.
pub async fn look_later(store: &Store, payout: &Payout, note: Option<String>, look_at: UnixMs) -> Result<()> {
    let sql =
        "UPDATE hosting_payout SET look_at = ?3, note = COALESCE(?4, note) WHERE payment_hash = ?1 AND state = ?2";
    let params = params![payout.hash, payout.state.as_str(), look_at, note.map(words)];
    store.change("look at a refund later", Statement::write(sql, params)).await.map(|_| ())
}

/// Paid: what it cost leaves the node's book, what was held beyond that is credit again.
///
/// # Errors
/// [`Conflict::PaymentState`]; [`Conflict::NotFound`] when no credit was held for it.
pub async fn settled(store: &Store, payout: &Payout, fee: Msat, at: UnixMs) -> Result<()> {
    let mut draft = Draft::new("settle a refund");
    draft.push(cas(payout, PaymentState::Settled, None, fee, None, at, UnixMs(i64::MAX))?);
    draft.push(held(payout));
    let (account, spent) = (payout.account, payout.amount.saturating_add(fee));
    let within = spent.min(payout.hold());
    let transfer = |key: &str, kind, from, to, amount, note: &str| Transfer {
        key: format!("{key}:{}", payout.hash),
        kind,
        account: Some(account),
        npub: None,
        note: note.to_owned(),
        at,
        from,
        to,
        amount,
    };
    transfer("refund_paid", Kind::RefundPaid, Book::Lightning, Book::Refunds(account), within, "refund")
        .push_to(&mut draft);
    let rest = payout.hold().saturating_sub(within);
    if rest > Msat::ZERO {
        let back = Book::Credit(account);
        transfer("refund_rest", Kind::RefundBack, back, Book::Refunds(account), rest, "fee that was not needed")
            .push_to(&mut draft);
    }
    // More than the node was allowed: the operator's, not the account's.
    let excess = spent.saturating_sub(within);
    if excess > Msat::ZERO {
        transfer("refund_excess", Kind::RefundPaid, Book::Lightning, Book::Income, excess, "fee beyond the allowed")
            .push_to(&mut draft);
    }
    draft.write(store).await.map(|_| ())
}

/// Surely not paid: all that was held is credit again. `to` is `failed`, or `canceled` for what was never sent.
///
/// # Errors
/// As [`settled`].
pub async fn not_paid(store: &Store, payout: &Payout, to: PaymentState, why: String, at: UnixMs) -> Result<()> {
    let mut draft = Draft::new("give a refund back");
    draft.push(cas(payout, to, None, Msat::ZERO, Some(why), at, UnixMs(i64::MAX))?);
    draft.push(held(payout));
    Transfer {
        key: format!("refund_back:{}", payout.hash),
        kind: Kind::RefundBack,
        account: Some(payout.account),
        npub: None,
        note: "refund that was not paid".to_owned(),
        at,
        from: Book::Credit(payout.account),
        to: Book::Refunds(payout.account),
        amount: payout.hold(),
    }
    .push_to(&mut draft);
    draft.write(store).await.map(|_| ())
}

fn reserve_key(hash: Hash32) -> String {
    format!("refund:{hash}")
}

/// Exactly this was held: a row that nobody ordered, or ordered for less, gives nobody anything.
fn held(payout: &Payout) -> Statement {
    Statement::read(
        "SELECT 1 FROM ledger_line WHERE entry_key = ?1 AND book = 'refunds' AND account_id = ?2 AND amount_msat = ?3",
        params![reserve_key(payout.hash), payout.account, -payout.hold().as_i64()],
    )
    .one_or_conflict(Conflict::NotFound)
}

fn cas(
    payout: &Payout,
    to: PaymentState,
    by: Option<WorkerId>,
    fee: Msat,
    note: Option<String>,
    at: UnixMs,
    look_at: UnixMs,
) -> Result<Statement> {
    let from = payout.state;
    if !from.may_become(to) {
        let conflict = Conflict::PaymentArrow { from: from.as_str(), to: to.as_str() };
        return Err(crate::StoreError::Conflict { attempted: "move a refund", conflict });
    }
    let sent = (to == PaymentState::Dispatched).then_some(by).flatten();
    Ok(Statement::write(
        "UPDATE hosting_payout SET state = ?3, dispatched_by = COALESCE(?4, dispatched_by), fee_msat = ?5,
            note = COALESCE(?6, note), updated_at = ?7, look_at = ?8
         WHERE payment_hash = ?1 AND state = ?2",
        params![payout.hash, from.as_str(), to.as_str(), sent, fee, note.map(words), at, look_at],
    )
    .one_or_conflict(Conflict::PaymentState { expected: from.as_str().to_owned() }))
}

fn payout_row(row: &mut Columns) -> Result<Payout> {
    Ok(Payout {
        hash: row.get()?,
        account: row.get()?,
        bolt11: row.get()?,
        amount: row.get()?,
        max_fee: row.get()?,
        fee: row.get()?,
        state: row.parse(PaymentState::parse)?,
        dispatched_by: row.get()?,
        order: row.get()?,
        note: row.get()?,
        expires_at: row.get()?,
        created_at: row.get()?,
        updated_at: row.get()?,
    })
}
