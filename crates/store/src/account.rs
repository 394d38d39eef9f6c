//! Accounts and their members.

use nexus_core::status::Hosting;
use nexus_core::{AccountId, Hash32, Npub, UnixMs};

use crate::batch::params;
use crate::dialect::in_order;
use crate::row::Columns;
use crate::{Audit, Batch, Conflict, Result, Statement, Store, Verdict, replay};

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
    ensure_invited(store, account, None, audit).await
}

/// The same with an invitation, which is spent in the same batch: once, and by nobody whose account is not made.
///
/// # Errors
/// [`Conflict::Invite`] when it was spent before, by the maker of another account.
pub async fn ensure_invited(store: &Store, account: Account, invite: Option<Hash32>, audit: Audit) -> Result<Account> {
    let attempted = "make an account";
    if let Some(found) = by_owner(store, account.owner).await? {
        return Ok(found);
    }
    let mut batch = Batch::new(attempted);
    batch.push(
        Statement::write(
            "INSERT INTO account (account_id, owner, name, plan, hosting, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO NOTHING",
            params![
                account.id,
                account.owner,
                account.name.clone(),
                account.plan.clone(),
                account.hosting.as_str(),
                account.created_at
            ],
        )
        .one_or(Verdict::Duplicate),
    );
    batch.push(Statement::write(
        "INSERT INTO member (account_id, npub, role, created_at) VALUES (?1, ?2, 'owner', ?3)",
        params![account.id, account.owner, account.created_at],
    ));
    if let Some(invite) = invite {
        batch.push(replay::use_statement("invite", invite, UnixMs(i64::MAX)).one_or_conflict(Conflict::Invite));
    }
    batch.push(audit.statement());
    match store.write(batch).await {
        Ok(_) => Ok(account),
        // A twin of this call was faster.
        Err(error) if error.is_duplicate() => by_owner(store, account.owner).await?.ok_or(error),
        Err(error) => Err(error),
    }
}

pub async fn get(store: &Store, id: AccountId) -> Result<Option<Account>> {
    let sql = "SELECT account_id, owner, name, plan, hosting, created_at FROM account WHERE account_id = ?1";
    store.row("read an account", sql, params![id], account_row).await
}

/// The account that this key is a member of (the oldest, if several).
pub async fn by_member(store: &Store, npub: Npub) -> Result<Option<(Account, Member)>> {
    let sql = "SELECT a.account_id, a.owner, a.name, a.plan, a.hosting, a.created_at, m.role
        FROM member m JOIN account a ON a.account_id = m.account_id
        WHERE m.npub = ?1 ORDER BY m.created_at, a.account_id LIMIT 1";
    store
        .row("find an account by its member", sql, params![npub], |row| {
            let account = account_row(row)?;
            let member = Member { account: account.id, npub, role: row.get()? };
            Ok((account, member))
        })
        .await
}

/// Renames it or moves it to another plan or standing.
pub async fn update(store: &Store, account: Account, audit: Audit) -> Result<()> {
    let mut batch = Batch::new("change an account");
    batch.push(
        Statement::write(
            "UPDATE account SET name = ?2, plan = ?3, hosting = ?4 WHERE account_id = ?1",
            params![account.id, account.name, account.plan, account.hosting.as_str()],
        )
        .one_or_conflict(Conflict::NoAccount),
    );
    // Its agents follow: the gate reads their rows.
    batch.push(Statement::write(
        concat!(
            "UPDATE agent SET hosting = ?2 WHERE hosting <> ?2 AND npub IN
                (SELECT npub FROM agent WHERE account_id = ?1 AND hosting <> ?2 ORDER BY npub ",
            in_order!(),
            ")"
        ),
        params![account.id, account.hosting.as_str()],
    ));
    batch.push(audit.statement());
    store.write(batch).await.map(|_| ())
}

async fn by_owner(store: &Store, owner: Npub) -> Result<Option<Account>> {
    let sql = "SELECT account_id, owner, name, plan, hosting, created_at FROM account WHERE owner = ?1";
    store.row("find an account by its owner", sql, params![owner], account_row).await
}

fn account_row(row: &mut Columns) -> Result<Account> {
    Ok(Account {
        id: row.get()?,
        owner: row.get()?,
        name: row.get()?,
        plan: row.get()?,
        hosting: row.parse(Hosting::parse)?,
        created_at: row.get()?,
    })
}
