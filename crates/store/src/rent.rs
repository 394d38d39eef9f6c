//! Rent that agents pay themselves: hosting invoices that are for one agent's next month.
//!
//! At most one of an agent may still be paid at any time. What came for one stays that agent's until its month is charged:
//! no other month of the account, and no refund, is taken from it.

use nexus_core::{AccountId, Hash32, Msat, Npub, UnixMs};

use crate::batch::{Lock, params};
use crate::draft::Draft;
use crate::row::Columns;
use crate::{Conflict, Result, Statement, Store};

/// After its expiry an invoice that the node calls dead is left alone for so long before another is made.
pub const MARGIN_MS: i64 = 60_000;

/// An invoice for an agent's next month.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRent {
    pub hash: Hash32,
    pub account: AccountId,
    pub npub: Npub,
    /// Which month: `<start>:<number>`.
    pub month: String,
    /// The version of the policy that it was made under.
    pub policy: i64,
    pub amount: Msat,
    pub memo: String,
    /// Closed under the operator's key.
    pub sealed_preimage: Vec<u8>,
    pub created_at: UnixMs,
    pub expires_at: UnixMs,
}

/// The last one of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rent {
    pub hash: Hash32,
    pub month: String,
    pub policy: i64,
    pub amount: Msat,
    pub memo: String,
    pub sealed_preimage: Vec<u8>,
    /// Empty until the node has made it.
    pub bolt11: String,
    pub created_at: UnixMs,
    pub expires_at: UnixMs,
    /// `open`, `paid` or `expired`.
    pub state: String,
    /// Of those made for this month, how many nobody paid.
    pub unpaid: u32,
}

impl Rent {
    /// Whether money may still come for it: then there is no other.
    pub fn may_be_paid(&self, now: UnixMs) -> bool {
        match self.state.as_str() {
            "paid" => false,
            "expired" => now < self.expires_at.plus_ms(MARGIN_MS),
            _ => true,
        }
    }
}

/// Stores one before the node is asked for it.
///
/// # Errors
/// [`Conflict::TooMany`] while another of this agent may be paid; [`Conflict::NoAgent`].
pub async fn put(store: &Store, rent: NewRent) -> Result<()> {
    let mut draft = Draft::new("store an invoice for rent");
    let agent = Statement::read(
        "SELECT 1 FROM agent WHERE npub = ?1 AND account_id = ?2 AND moved_to IS NULL",
        params![rent.npub, rent.account],
    );
    draft.push(agent.lock(Lock::Update).one_or_conflict(Conflict::NoAgent));
    draft.push(
        Statement::write(
            "INSERT INTO hosting_invoice (payment_hash, account_id, amount_msat, memo, sealed_preimage, bolt11,
                created_at, expires_at, state, look_at, origin, npub, rent_month,
                rent_policy)
             SELECT ?1, ?2, ?3, ?4, ?5, '', ?6, ?7, 'open', ?6, 'rent', ?8, ?9, ?11
             WHERE NOT EXISTS (SELECT 1 FROM hosting_invoice WHERE npub = ?8
                AND (state = 'open' OR (state = 'expired' AND expires_at > ?10)))",
            params![
                rent.hash,
                rent.account,
                rent.amount,
                rent.memo,
                rent.sealed_preimage,
                rent.created_at,
                rent.expires_at,
                rent.npub,
                rent.month,
                rent.created_at.plus_ms(-MARGIN_MS),
                rent.policy
            ],
        )
        .one_or_conflict(Conflict::TooMany),
    );
    draft.write(store).await.map(|_| ())
}

/// The one that was made last for an agent.
pub async fn latest(store: &Store, npub: Npub) -> Result<Option<Rent>> {
    let sql = "SELECT i.payment_hash, i.rent_month, COALESCE(i.rent_policy, 0), i.amount_msat, i.memo, i.sealed_preimage, i.bolt11, i.created_at,
            i.expires_at, i.state, (SELECT COUNT(*) FROM hosting_invoice o WHERE o.npub = ?1
                AND o.rent_month = i.rent_month AND o.state = 'expired')
        FROM hosting_invoice i WHERE i.npub = ?1 ORDER BY i.created_at DESC, i.payment_hash LIMIT 1";
    let read = |row: &mut Columns| {
        Ok(Rent {
            hash: row.get()?,
            month: row.get()?,
            policy: row.get()?,
            amount: row.get()?,
            memo: row.get()?,
            sealed_preimage: row.get()?,
            bolt11: row.get()?,
            created_at: row.get()?,
            expires_at: row.get()?,
            state: row.get()?,
            unpaid: row.get()?,
        })
    };
    store.row("read an agent's last rent", sql, params![npub], read).await
}

/// What agents of an account have paid for months of their own that are not charged yet.
pub async fn unused(store: &Store, account: AccountId) -> Result<Vec<(Npub, Msat)>> {
    let sql = "SELECT npub, CAST(SUM(paid_msat) AS BIGINT) FROM hosting_invoice
        WHERE account_id = ?1 AND npub IS NOT NULL AND used = 0 AND state = 'paid' GROUP BY npub";
    store.rows("read rent that is not used", sql, params![account], |row| Ok((row.get()?, row.get()?))).await
}

/// What its worker last said of rent, if it was not paid. What is asked is not kept long.
pub async fn last_refusal(store: &Store, npub: Npub) -> Result<Option<String>> {
    let sql = "SELECT outcome, answer FROM wallet_request WHERE npub = ?1 AND kind = 'rent' AND outcome IS NOT NULL
        ORDER BY created_at DESC LIMIT 1";
    let read = |row: &mut Columns| {
        let (outcome, answer): (String, Option<String>) = (row.get()?, row.get()?);
        Ok((outcome == "failed").then_some(answer).flatten())
    };
    Ok(store.row("read what was said of rent", sql, params![npub], read).await?.flatten())
}

/// Refuses the batch when it would take what others' rent paid for: `amount` is for this agent, or for none.
pub(crate) fn leaves_others(draft: &mut Draft, account: AccountId, npub: Option<Npub>, amount: Msat) {
    // Locked first: what was credited in between is seen by the question after it.
    let lock = Statement::read("SELECT 1 FROM account WHERE account_id = ?1", params![account]);
    draft.push(lock.lock(Lock::Update).one_or_conflict(Conflict::NoAccount));
    draft.push(
        Statement::read(
            "SELECT 1 FROM account WHERE account_id = ?1 AND credit_msat - ?3 >=
                (SELECT COALESCE(SUM(paid_msat), 0) FROM hosting_invoice WHERE account_id = ?1 AND npub IS NOT NULL
                    AND used = 0 AND state = 'paid' AND (?2 IS NULL OR npub <> ?2))",
            params![account, npub, amount],
        )
        .one_or_conflict(Conflict::NoCredit),
    );
}

/// An agent's month is charged, or it is gone: what its rent paid for is that of everyone.
pub(crate) fn used(draft: &mut Draft, npub: Npub) {
    draft.push(Statement::write(
        "UPDATE hosting_invoice SET used = 1 WHERE npub = ?1 AND used = 0 AND state = 'paid'",
        params![npub],
    ));
}

/// Makes an agent due for a look at its hosting: something that counts for it has changed.
pub async fn look_now(store: &Store, npub: Npub) -> Result<()> {
    let sql = "UPDATE agent SET hosting_look_at = 0 WHERE npub = ?1 AND moved_to IS NULL";
    store.change("look at an agent's hosting", Statement::write(sql, params![npub])).await.map(|_| ())
}
