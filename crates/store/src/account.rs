//! Accounts and their members.

use nexus_core::status::Hosting;
use nexus_core::{AccountId, Npub, UnixMs};

use crate::{Audit, Result, Store};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub id: AccountId,
    /// The first member, role `owner`.
    pub owner: Npub,
    pub name: String,
    /// `local` in development: always paid.
    pub plan: String,
    pub hosting: Hosting,
    pub created_at: UnixMs,
}

/// What a member may do; one owner today.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub account: AccountId,
    pub npub: Npub,
    pub role: String,
}

/// Makes the account and its owner's membership, or returns the one that this owner already has (then without an
/// audit row).
pub async fn ensure(store: &Store, account: Account, audit: Audit) -> Result<Account> {
    todo!()
}

pub async fn get(store: &Store, id: AccountId) -> Result<Option<Account>> {
    todo!()
}

/// The account that this key is a member of (the oldest, if several).
pub async fn by_member(store: &Store, npub: Npub) -> Result<Option<(Account, Member)>> {
    todo!()
}

/// Renames it or moves it to another plan or standing.
pub async fn update(store: &Store, account: Account, audit: Audit) -> Result<()> {
    todo!()
}
