//! Bearer tokens: stored hashed, with scopes and an expiry.

use nexus_core::status::Scope;
use nexus_core::{AccountId, Hash32, UnixMs};

use crate::{Audit, Result, Store};

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
    todo!()
}

/// The live token with this hash.
pub async fn find(store: &Store, hash: Hash32, now: UnixMs) -> Result<Option<Token>> {
    todo!()
}

/// Notes that it was used; at most once a minute is enough.
pub async fn touch(store: &Store, hash: Hash32, now: UnixMs) -> Result<()> {
    todo!()
}

/// The account's live tokens, oldest first.
pub async fn list(store: &Store, account: AccountId, now: UnixMs) -> Result<Vec<Token>> {
    todo!()
}

/// # Errors
/// [`crate::Conflict::NotFound`] when the account has no such token.
pub async fn revoke(store: &Store, account: AccountId, id: &str, audit: Audit) -> Result<()> {
    todo!()
}
