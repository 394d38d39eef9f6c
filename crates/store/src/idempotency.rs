//! `Idempotency-Key`: the answer to a retry is the first answer.

use nexus_core::{AccountId, Hash32, UnixMs};

use crate::batch::params;
use crate::{Result, Statement, Store, Verdict};

/// A finished call: stored in the same batch as what it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    pub account: AccountId,
    pub route: String,
    pub key: String,
    /// SHA-256 of the request body.
    pub request: Hash32,
    pub status: u16,
    /// The answer's body, verbatim.
    pub body: String,
    pub expires_at: UnixMs,
}

impl Idempotency {
    /// `Duplicate` when the key is taken (a concurrent twin): look it up with [`find`] then.
    pub fn statement(&self) -> Statement {
        Statement::write(
            "INSERT INTO idempotency (account_id, route, idempotency_key, request, status, body, expires_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
            params![
                self.account,
                self.route.clone(),
                self.key.clone(),
                self.request,
                self.status,
                self.body.clone(),
                self.expires_at
            ],
        )
        .one_or(Verdict::Duplicate)
    }
}

/// What an earlier call under the same key left. Compare `request`: another body is a client's error (422).
pub async fn find(
    store: &Store,
    account: AccountId,
    route: &str,
    key: &str,
    now: UnixMs,
) -> Result<Option<Idempotency>> {
    let sql = "SELECT request, status, body, expires_at FROM idempotency
        WHERE account_id = ?1 AND route = ?2 AND idempotency_key = ?3 AND expires_at > ?4";
    let params = params![account, route.to_owned(), key.to_owned(), now];
    store
        .row("look up an idempotency key", sql, params, |row| {
            Ok(Idempotency {
                account,
                route: route.to_owned(),
                key: key.to_owned(),
                request: row.get()?,
                status: row.get()?,
                body: row.get()?,
                expires_at: row.get()?,
            })
        })
        .await
}

/// Forgets what expired, at most `limit`. Returns how many.
pub async fn purge(store: &Store, now: UnixMs, limit: u32) -> Result<u64> {
    let sql = "DELETE FROM idempotency WHERE (account_id, route, idempotency_key) IN
        (SELECT account_id, route, idempotency_key FROM idempotency WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)";
    store.change("purge idempotency keys", Statement::write(sql, params![now, limit])).await
}
