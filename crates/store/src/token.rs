//! Bearer tokens: stored hashed, with scopes and an expiry.

use nexus_core::status::Scope;
use nexus_core::{AccountId, Hash32, UnixMs};

use crate::batch::{Lock, params};
use crate::row::Columns;
use crate::{Audit, Batch, Conflict, Result, Statement, Store};

/// Live tokens of one account at most.
pub const MAX_TOKENS: i64 = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Public id, for listing and revoking.
    pub id: String,
    pub account: AccountId,
    /// SHA-256 of the token.
    pub hash: Hash32,
    pub name: String,
    pub scopes: Vec<Scope>,
    pub created_at: UnixMs,
    pub expires_at: UnixMs,
    pub last_used_at: Option<UnixMs>,
}

/// # Errors
/// [`crate::Conflict::TooMany`] above [`MAX_TOKENS`].
pub async fn create(store: &Store, token: Token, audit: Audit) -> Result<()> {
    let mut batch = Batch::new("make a token");
    // Two connections must not both count before either has inserted.
    let sql = "SELECT 1 FROM account WHERE account_id = ?1";
    batch.push(Statement::read(sql, params![token.account]).lock(Lock::Update));
    batch.push(
        Statement::write(
            "INSERT INTO token (token_id, account_id, hash, name, scopes, created_at, expires_at)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7
             WHERE (SELECT COUNT(*) FROM token WHERE account_id = ?2 AND expires_at > ?6) < ?8",
            params![
                token.id,
                token.account,
                token.hash,
                token.name,
                scopes_text(&token.scopes),
                token.created_at,
                token.expires_at,
                MAX_TOKENS
            ],
        )
        .one_or_conflict(Conflict::TooMany),
    );
    batch.push(audit.statement());
    store.write(batch).await.map(|_| ())
}

/// The live token with this hash.
pub async fn find(store: &Store, hash: Hash32, now: UnixMs) -> Result<Option<Token>> {
    let sql = "SELECT token_id, account_id, hash, name, scopes, created_at, expires_at, last_used_at FROM token
        WHERE hash = ?1 AND expires_at > ?2";
    store.row("find a token", sql, params![hash, now], token_row).await
}

/// Notes that it was used; at most once a minute is enough.
pub async fn touch(store: &Store, hash: Hash32, now: UnixMs) -> Result<()> {
    let sql = "UPDATE token SET last_used_at = ?2 WHERE hash = ?1";
    store.change("note a token's use", Statement::write(sql, params![hash, now])).await.map(|_| ())
}

/// The account's live tokens, oldest first.
pub async fn list(store: &Store, account: AccountId, now: UnixMs) -> Result<Vec<Token>> {
    let sql = "SELECT token_id, account_id, hash, name, scopes, created_at, expires_at, last_used_at FROM token
        WHERE account_id = ?1 AND expires_at > ?2 ORDER BY created_at, token_id LIMIT ?3";
    store.rows("list tokens", sql, params![account, now, MAX_TOKENS], token_row).await
}

/// # Errors
/// [`crate::Conflict::NotFound`] when the account has no such token.
pub async fn revoke(store: &Store, account: AccountId, id: &str, audit: Audit) -> Result<()> {
    let mut batch = Batch::new("revoke a token");
    batch.push(
        Statement::write("DELETE FROM token WHERE token_id = ?1 AND account_id = ?2", params![id.to_owned(), account])
            .one_or_conflict(Conflict::NotFound),
    );
    batch.push(audit.statement());
    store.write(batch).await.map(|_| ())
}

fn scopes_text(scopes: &[Scope]) -> String {
    scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(",")
}

fn token_row(row: &mut Columns) -> Result<Token> {
    Ok(Token {
        id: row.get()?,
        account: row.get()?,
        hash: row.get()?,
        name: row.get()?,
        scopes: row.parse(|text| text.split(',').filter(|scope| !scope.is_empty()).map(Scope::parse).collect())?,
        created_at: row.get()?,
        expires_at: row.get()?,
        last_used_at: row.get()?,
    })
}
