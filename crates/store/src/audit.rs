//! Who changed what: one row in the same transaction as every mutating call of the control plane.

use nexus_core::{AccountId, UnixMs};

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
    pub(crate) fn statement(&self) -> Statement {
        todo!()
    }
}

/// Records something that changes no other row here.
pub async fn record(store: &Store, audit: Audit) -> Result<()> {
    todo!()
}

/// The account's rows with ids above `after`, oldest first, at most `limit` (and [`MAX_PAGE`]).
pub async fn list(store: &Store, account: AccountId, after: i64, limit: u32) -> Result<Vec<AuditRow>> {
    todo!()
}
