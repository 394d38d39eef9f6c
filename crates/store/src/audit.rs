//! Who changed what: one row in the same transaction as every mutating call of the control plane.

use nexus_core::{AccountId, UnixMs};

use crate::batch::params;
use crate::{Result, Statement, Store};

/// Most rows of one page.
pub const MAX_PAGE: u32 = 500;

/// One audit row. `detail` is JSON and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    pub at: UnixMs,
    pub account: Option<AccountId>,
    /// An npub, `token:<id>`, or the name of a role.
    pub actor: String,
    /// `agent.create`, `agent.start`, …
    pub action: String,
    /// What it was done to: an npub or an id.
    pub target: String,
    pub detail: String,
}

/// A stored row. `id` grows with time and is a page cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    pub id: i64,
    pub audit: Audit,
}

impl Audit {
    /// For the batch of whatever it records.
    pub fn statement(&self) -> Statement {
        Statement::write(
            "INSERT INTO audit (at, account_id, actor, action, target, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                self.at,
                self.account,
                self.actor.clone(),
                self.action.clone(),
                self.target.clone(),
                self.detail.clone()
            ],
        )
    }
}

/// Records something that changes no other row here.
pub async fn record(store: &Store, audit: Audit) -> Result<()> {
    store.change("record in the audit", audit.statement()).await.map(|_| ())
}

/// Forgets the oldest rows from before `before`, at most `limit`. Returns how many.
pub async fn purge(store: &Store, before: UnixMs, limit: u32) -> Result<u64> {
    // Ids grow with time, so that the oldest rows are looked at and no others.
    let sql = "DELETE FROM audit WHERE id IN
        (SELECT o.id FROM (SELECT id, at FROM audit ORDER BY id LIMIT ?2) o WHERE o.at < ?1)";
    store.change("purge the audit", Statement::write(sql, params![before, limit])).await
}

/// The account's rows with ids above `after`, oldest first, at most `limit` (and [`MAX_PAGE`]).
pub async fn list(store: &Store, account: AccountId, after: i64, limit: u32) -> Result<Vec<AuditRow>> {
    let sql = "SELECT id, at, account_id, actor, action, target, detail FROM audit
        WHERE account_id = ?1 AND id > ?2 ORDER BY id LIMIT ?3";
    store
        .rows("list the audit", sql, params![account, after, limit.min(MAX_PAGE)], |row| {
            Ok(AuditRow {
                id: row.get()?,
                audit: Audit {
                    at: row.get()?,
                    account: row.get()?,
                    actor: row.get()?,
                    action: row.get()?,
                    target: row.get()?,
                    detail: row.get()?,
                },
            })
        })
        .await
}
