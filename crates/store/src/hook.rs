//! Incoming webhooks: under which id an agent takes them, and the key that signs them, closed under the operator's.

use nexus_core::{Npub, UnixMs};

use crate::batch::{Lock, params};
use crate::row::Columns;
use crate::{Audit, Batch, Conflict, Result, Statement, Store};

/// Hooks of one agent at most.
pub const MAX_HOOKS: i64 = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Part of its address.
    pub id: String,
    pub npub: Npub,
    /// What the agent is told that it comes from.
    pub name: String,
    /// Opens with the operator's key, for this id alone.
    pub sealed_key: Vec<u8>,
    pub created_at: UnixMs,
    pub last_used_at: Option<UnixMs>,
}

macro_rules! hook_columns {
    () => {
        "SELECT hook_id, npub, name, sealed_key, created_at, last_used_at FROM hook"
    };
}

/// # Errors
/// [`Conflict::TooMany`] above [`MAX_HOOKS`]; [`Conflict::NoAgent`].
pub async fn create(store: &Store, hook: Hook, audit: Audit) -> Result<()> {
    let mut batch = Batch::new("make a hook");
    // Two connections must not both count before either has inserted.
    let agent = Statement::read("SELECT 1 FROM agent WHERE npub = ?1 AND moved_to IS NULL", params![hook.npub]);
    batch.push(agent.lock(Lock::Update).one_or_conflict(Conflict::NoAgent));
    batch.push(
        Statement::write(
            "INSERT INTO hook (hook_id, npub, name, sealed_key, created_at)
             SELECT ?1, ?2, ?3, ?4, ?5 WHERE (SELECT COUNT(*) FROM hook WHERE npub = ?2) < ?6",
            params![hook.id, hook.npub, hook.name, hook.sealed_key, hook.created_at, MAX_HOOKS],
        )
        .one_or_conflict(Conflict::TooMany),
    );
    batch.push(audit.statement());
    store.write(batch).await.map(|_| ())
}

/// Oldest first.
pub async fn list(store: &Store, npub: Npub) -> Result<Vec<Hook>> {
    let sql = concat!(hook_columns!(), " WHERE npub = ?1 ORDER BY created_at, hook_id LIMIT ?2");
    store.rows("list hooks", sql, params![npub, MAX_HOOKS], hook_row).await
}

/// The agent's own hook of this id.
pub async fn find(store: &Store, npub: Npub, id: &str) -> Result<Option<Hook>> {
    let sql = concat!(hook_columns!(), " WHERE hook_id = ?1 AND npub = ?2");
    store.row("find a hook", sql, params![id.to_owned(), npub], hook_row).await
}

/// Notes that it was used: for the batch that takes what came.
pub fn touch_statement(id: &str, now: UnixMs) -> Statement {
    Statement::write("UPDATE hook SET last_used_at = ?2 WHERE hook_id = ?1", params![id.to_owned(), now])
}

/// # Errors
/// [`Conflict::NotFound`] when the agent has no such hook.
pub async fn remove(store: &Store, npub: Npub, id: &str, audit: Audit) -> Result<()> {
    let mut batch = Batch::new("remove a hook");
    let delete = Statement::write("DELETE FROM hook WHERE hook_id = ?1 AND npub = ?2", params![id.to_owned(), npub]);
    batch.push(delete.one_or_conflict(Conflict::NotFound));
    batch.push(audit.statement());
    store.write(batch).await.map(|_| ())
}

fn hook_row(row: &mut Columns) -> Result<Hook> {
    Ok(Hook {
        id: row.get()?,
        npub: row.get()?,
        name: row.get()?,
        sealed_key: row.get()?,
        created_at: row.get()?,
        last_used_at: row.get()?,
    })
}
