//! What comes in: invoices of agents that the operator's node makes, and the money that is paid on them.

use nexus_core::{Hash32, Msat, Npub, UnixMs};

use super::{Book, Entry, open_statement};
use crate::batch::params;
use crate::draft::{Draft, rev};
use crate::invoice_watch::InvoiceWatch;
use crate::row::Columns;
use crate::{Audit, Conflict, Result, Statement, Store, StoreError, Verdict};

/// Most invoices of one page.
const MAX_PAGE: u32 = 500;
/// How long the agent's worker looks for money that has come, in ms: it is told at once as well.
const TOLD_MS: i64 = 3_600_000;

/// An invoice to be made, stored before the node is asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInvoice {
    pub node: String,
    pub hash: Hash32,
    pub npub: Npub,
    pub amount: Msat,
    /// Closed under the operator's key.
    pub sealed_preimage: Vec<u8>,
    pub created_at: UnixMs,
    pub expires_at: UnixMs,
}

/// What new invoices may lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Of one agent: what it has and what is open.
    pub agent: Msat,
    /// Of all agents together.
    pub total: Msat,
    /// Open invoices of one agent.
    pub open: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoice {
    pub node: String,
    pub hash: Hash32,
    pub npub: Npub,
    pub amount: Msat,
    pub sealed_preimage: Vec<u8>,
    /// Empty until the node has made it.
    pub bolt11: String,
    pub created_at: UnixMs,
    pub expires_at: UnixMs,
    /// `open`, `paid` or `expired`.
    pub state: String,
    /// What came, which may be more than was asked.
    pub paid: Option<Msat>,
    pub paid_at: Option<UnixMs>,
    /// Once it is paid.
    pub preimage: Option<Hash32>,
}

macro_rules! invoice_columns {
    () => {
        "SELECT node, payment_hash, npub, amount_msat, sealed_preimage, bolt11, created_at, expires_at, state, paid_msat,
            paid_at, preimage FROM sub_invoice"
    };
}

/// Stores an invoice before the node is asked for it. Whoever stores another waits: the sums are read behind the counter.
///
/// # Errors
/// [`Conflict::SubCap`], [`Conflict::SubTotal`] when what is there and what is open would pass a cap with it;
/// [`Conflict::TooMany`]; [`Conflict::NoAgent`].
pub async fn put_invoice(store: &Store, invoice: NewInvoice, caps: Caps, audit: Option<Audit>) -> Result<()> {
    let NewInvoice { node, hash, npub, amount, sealed_preimage, created_at, expires_at } = invoice;
    let mut draft = Draft::new("store an agent's invoice");
    draft.next_rev();
    draft.push(
        Statement::read("SELECT 1 FROM agent WHERE npub = ?1 AND moved_to IS NULL", params![npub])
            .one_or_conflict(Conflict::NoAgent),
    );
    draft.push(open_statement(&node, npub));
    let few = "SELECT 1 WHERE (SELECT COUNT(*) FROM sub_invoice WHERE node = ?1 AND npub = ?2 AND state = 'open') < ?3";
    draft.push(
        Statement::read(few, params![node.clone(), npub, i64::from(caps.open)]).one_or_conflict(Conflict::TooMany),
    );
    let own = "SELECT 1 WHERE
        (SELECT available_msat + held_msat FROM sub_account WHERE node = ?1 AND npub = ?2)
        + (SELECT CAST(COALESCE(SUM(amount_msat), 0) AS BIGINT) FROM sub_invoice
            WHERE node = ?1 AND npub = ?2 AND state = 'open') + ?3 <= ?4";
    draft.push(Statement::read(own, params![node.clone(), npub, amount, caps.agent]).one_or_conflict(Conflict::SubCap));
    let all = "SELECT 1 WHERE
        (SELECT CAST(COALESCE(SUM(available_msat + held_msat), 0) AS BIGINT) FROM sub_account WHERE node = ?1)
        + (SELECT CAST(COALESCE(SUM(amount_msat), 0) AS BIGINT) FROM sub_invoice WHERE node = ?1 AND state = 'open')
        + ?2 <= ?3";
    draft.push(Statement::read(all, params![node.clone(), amount, caps.total]).one_or_conflict(Conflict::SubTotal));
    draft.push(
        Statement::write(
            "INSERT INTO sub_invoice (payment_hash, node, npub, amount_msat, sealed_preimage, bolt11, created_at,
                expires_at, state, look_at)
             VALUES (?1, ?2, ?3, ?4, ?5, '', ?6, ?7, 'open', ?6) ON CONFLICT DO NOTHING",
            params![hash, node, npub, amount, sealed_preimage, created_at, expires_at],
        )
        .one_or(Verdict::Duplicate),
    );
    if let Some(audit) = audit {
        draft.push(audit.statement());
    }
    draft.write(store).await.map(|_| ())
}

/// What the node made of it; from then on the agent's worker looks for its money.
pub async fn made(store: &Store, npub: Npub, bolt11: &str, expires_at: UnixMs, watch: InvoiceWatch) -> Result<()> {
    let mut draft = Draft::new("keep an agent's invoice");
    draft.next_rev();
    draft.push(
        Statement::write(
            concat!("UPDATE agent SET desired_rev = ", rev!(), " WHERE npub = ?1 AND moved_to IS NULL"),
            params![npub],
        )
        .one_or_conflict(Conflict::NoAgent),
    );
    let sql = "UPDATE sub_invoice SET bolt11 = ?2, expires_at = ?3 WHERE payment_hash = ?1";
    draft.push(
        Statement::write(sql, params![watch.hash, bolt11.to_owned(), expires_at]).one_or_conflict(Conflict::NotFound),
    );
    draft.push(watch.statement(npub));
    draft.write(store).await.map(|_| ())
}

pub async fn invoice(store: &Store, hash: Hash32) -> Result<Option<Invoice>> {
    let sql = concat!(invoice_columns!(), " WHERE payment_hash = ?1");
    store.row("read an agent's invoice", sql, params![hash], invoice_row).await
}

/// Whether a payment of this hash is an agent's, if it comes.
pub async fn expects(store: &Store, hash: Hash32) -> Result<bool> {
    Ok(invoice(store, hash).await?.is_some())
}

/// Those of a node that it is to be asked about now: open ones, and for a while expired ones.
pub async fn to_look_at(store: &Store, node: &str, now: UnixMs, limit: u32) -> Result<Vec<Invoice>> {
    let sql = concat!(
        invoice_columns!(),
        " WHERE state <> 'paid' AND look_at <= ?1 AND node = ?2 ORDER BY look_at, payment_hash LIMIT ?3"
    );
    store.rows("find agents' invoices to look up", sql, params![now, node.to_owned(), limit], invoice_row).await
}

/// What came to a node since a moment, after the given one: to be compared with the node.
pub async fn received_since(
    store: &Store,
    node: &str,
    since: UnixMs,
    after: Option<Hash32>,
    limit: u32,
) -> Result<Vec<Invoice>> {
    let after = after.map_or_else(Vec::new, |hash| hash.as_bytes().to_vec());
    let sql = concat!(
        invoice_columns!(),
        " WHERE state = 'paid' AND paid_at >= ?1 AND payment_hash > ?2 AND node = ?3 ORDER BY payment_hash LIMIT ?4"
    );
    let params = params![since, after, node.to_owned(), limit.min(MAX_PAGE)];
    store.rows("list what agents received", sql, params, invoice_row).await
}

/// Not paid yet: looked at again then, for the last time if none.
pub async fn look_later(store: &Store, hash: Hash32, expired: bool, at: Option<UnixMs>) -> Result<()> {
    let state = if expired { "expired" } else { "open" };
    let at = at.unwrap_or(UnixMs(i64::MAX));
    let sql = "UPDATE sub_invoice SET look_at = ?3, state = ?2 WHERE payment_hash = ?1 AND state <> 'paid'";
    store.change("look at an agent's invoice later", Statement::write(sql, params![hash, state, at])).await.map(|_| ())
}

/// The node says that it was paid: the agent's, once, whatever came and however late, over every cap. False: it was known.
///
/// # Errors
/// [`Conflict::NotFound`] when no such invoice is an agent's: see [`unexplained`].
pub async fn received(store: &Store, hash: Hash32, came: Msat, preimage: Option<Hash32>, at: UnixMs) -> Result<bool> {
    let Some(found) = invoice(store, hash).await? else {
        return Err(StoreError::Conflict { attempted: "credit an agent", conflict: Conflict::NotFound });
    };
    let mut draft = Draft::new("credit an agent");
    push_paid(&mut draft, &found, came, preimage, at);
    let amount = came.as_i64();
    let entry = Entry {
        node: &found.node,
        key: paid_key(hash),
        kind: "received",
        npub: Some(found.npub),
        at,
        lines: vec![(Book::Lightning, amount), (Book::Available(found.npub), -amount)],
    };
    entry.push_to(&mut draft);
    match draft.write(store).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_duplicate() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The key of what comes for a hash, from outside or from another agent: it comes once.
pub(super) fn paid_key(hash: Hash32) -> String {
    format!("paid:{hash}")
}

/// The invoice is paid, which it was not; its agent's worker hears of it, also when nobody looked any more.
pub(super) fn push_paid(draft: &mut Draft, invoice: &Invoice, came: Msat, preimage: Option<Hash32>, at: UnixMs) {
    draft.next_rev();
    draft.push(Statement::write(
        concat!("UPDATE agent SET desired_rev = ", rev!(), " WHERE npub = ?1 AND moved_to IS NULL"),
        params![invoice.npub],
    ));
    draft.push(open_statement(&invoice.node, invoice.npub));
    draft.push(
        Statement::write(
            "UPDATE sub_invoice SET state = 'paid', paid_msat = ?2, paid_at = ?3, preimage = ?4
             WHERE payment_hash = ?1 AND state <> 'paid'",
            params![invoice.hash, came, at, preimage],
        )
        .one_or(Verdict::Duplicate),
    );
    draft.push(Statement::write(
        "INSERT INTO invoice_watch (npub, payment_hash, made_at, until_at)
         SELECT npub, ?2, ?3, ?4 FROM agent WHERE npub = ?1 AND moved_to IS NULL
         ON CONFLICT (npub, payment_hash) DO UPDATE SET until_at = excluded.until_at",
        params![invoice.npub, invoice.hash, invoice.created_at, at.plus_ms(TOLD_MS)],
    ));
}

/// Money that came to the node for an invoice that is not here: kept apart, once, for the operator to find out. False: known.
pub async fn unexplained(store: &Store, node: &str, hash: Hash32, came: Msat, at: UnixMs) -> Result<bool> {
    let mut draft = Draft::new("keep a payment to the node that nothing explains");
    let amount = came.as_i64();
    let entry = Entry {
        node,
        key: paid_key(hash),
        kind: "unknown",
        npub: None,
        at,
        lines: vec![(Book::Lightning, amount), (Book::Suspense, -amount)],
    };
    entry.push_to(&mut draft);
    match draft.write(store).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_duplicate() => Ok(false),
        Err(error) => Err(error),
    }
}

fn invoice_row(row: &mut Columns) -> Result<Invoice> {
    Ok(Invoice {
        node: row.get()?,
        hash: row.get()?,
        npub: row.get()?,
        amount: row.get()?,
        sealed_preimage: row.get()?,
        bolt11: row.get()?,
        created_at: row.get()?,
        expires_at: row.get()?,
        state: row.get()?,
        paid: row.get()?,
        paid_at: row.get()?,
        preimage: row.get()?,
    })
}
