//! `Idempotency-Key`: the answer to a retry is the first answer.

use nexus_core::{AccountId, Hash32, UnixMs};

use crate::{Result, Statement, Store};

/// Hours that an answer is kept.
pub const KEEP_HOURS: i64 = 24;

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
        todo!()
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
    todo!()
}

pub async fn purge(store: &Store, now: UnixMs) -> Result<u64> {
    todo!()
}
