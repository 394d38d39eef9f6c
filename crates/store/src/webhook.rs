//! Outgoing webhooks: which events of an account's agents go where, what was delivered, and what could not be.
//!
//! A delivery is a row that names an event; what is sent is made of the event when it is sent. Rows and the cursor that says
//! up to where there are rows move in one batch, so that no event is left out and none has two.

use nexus_core::{AccountId, Npub, UnixMs};

use crate::batch::{Lock, params};
use crate::row::Columns;
use crate::{Audit, Batch, Conflict, Result, Statement, Store};

/// Webhooks of one account at most.
pub const MAX_WEBHOOKS: i64 = 16;
/// Most rows of one page.
pub const MAX_PAGE: u32 = 500;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    pub id: String,
    pub account: AccountId,
    pub url: String,
    /// Kinds of events; none for all.
    pub kinds: Vec<String>,
    /// Opens with the operator's key, for this id alone.
    pub sealed_key: Vec<u8>,
    pub created_at: UnixMs,
    /// The receiver said that it is gone: nothing is sent any more.
    pub gone_at: Option<UnixMs>,
}

/// Whose events a webhook has not got to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    pub npub: Npub,
    pub after: i64,
}

/// An event on its way to a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub webhook: String,
    pub npub: Npub,
    pub seq: i64,
    pub kind: String,
    /// `pending`, `delivered` or `dead`.
    pub state: String,
    pub attempts: u32,
    pub next_at: UnixMs,
    /// What came of the last attempt.
    pub said: Option<String>,
    pub at: UnixMs,
}

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Delivered,
    Again(UnixMs),
    Dead,
    /// Dead, and the webhook gets nothing any more.
    Gone,
}

/// How many deliveries wait, and how many are given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Level {
    pub pending: i64,
    pub dead: i64,
}

macro_rules! webhook_columns {
    () => {
        "SELECT webhook_id, account_id, url, kinds, sealed_key, created_at, gone_at FROM webhook"
    };
}

macro_rules! delivery_columns {
    () => {
        "SELECT d.webhook_id, d.npub, d.seq, d.kind, d.state, d.attempts, d.next_at, d.said, d.at FROM webhook_delivery d"
    };
}

/// Begins with what happens from now on.
///
/// # Errors
/// [`Conflict::TooMany`] above [`MAX_WEBHOOKS`].
pub async fn create(store: &Store, webhook: Webhook, audit: Audit) -> Result<()> {
    let mut batch = Batch::new("make a webhook");
    let account = Statement::read("SELECT 1 FROM account WHERE account_id = ?1", params![webhook.account]);
    batch.push(account.lock(Lock::Update).one_or_conflict(Conflict::NoAccount));
    batch.push(
        Statement::write(
            "INSERT INTO webhook (webhook_id, account_id, url, kinds, sealed_key, created_at)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE (SELECT COUNT(*) FROM webhook WHERE account_id = ?2) < ?7",
            params![
                webhook.id.clone(),
                webhook.account,
                webhook.url,
                webhook.kinds.join(" "),
                webhook.sealed_key,
                webhook.created_at,
                MAX_WEBHOOKS
            ],
        )
        .one_or_conflict(Conflict::TooMany),
    );
    batch.push(Statement::write(
        "INSERT INTO webhook_cursor (webhook_id, npub, seq) SELECT ?1, npub, event_seq FROM agent WHERE account_id = ?2",
        params![webhook.id, webhook.account],
    ));
    batch.push(audit.statement());
    store.write(batch).await.map(|_| ())
}

/// An account's, oldest first.
pub async fn list(store: &Store, account: AccountId) -> Result<Vec<Webhook>> {
    let sql = concat!(webhook_columns!(), " WHERE account_id = ?1 ORDER BY created_at, webhook_id LIMIT ?2");
    store.rows("list webhooks", sql, params![account, MAX_WEBHOOKS], webhook_row).await
}

/// The account's own webhook of this id.
pub async fn find(store: &Store, account: AccountId, id: &str) -> Result<Option<Webhook>> {
    let sql = concat!(webhook_columns!(), " WHERE webhook_id = ?1 AND account_id = ?2");
    store.row("find a webhook", sql, params![id.to_owned(), account], webhook_row).await
}

/// Whoever's it is.
pub async fn get(store: &Store, id: &str) -> Result<Option<Webhook>> {
    let sql = concat!(webhook_columns!(), " WHERE webhook_id = ?1");
    store.row("read a webhook", sql, params![id.to_owned()], webhook_row).await
}

/// A page of all that something may be sent to, after this one.
pub async fn live(store: &Store, after: &str, limit: u32) -> Result<Vec<Webhook>> {
    let sql = concat!(webhook_columns!(), " WHERE gone_at IS NULL AND webhook_id > ?1 ORDER BY webhook_id LIMIT ?2");
    store.rows("list live webhooks", sql, params![after.to_owned(), limit.min(MAX_PAGE)], webhook_row).await
}

/// # Errors
/// [`Conflict::NotFound`] when the account has no such webhook.
pub async fn remove(store: &Store, account: AccountId, id: &str, audit: Audit) -> Result<()> {
    let mut batch = Batch::new("remove a webhook");
    let sql = "DELETE FROM webhook WHERE webhook_id = ?1 AND account_id = ?2";
    batch.push(Statement::write(sql, params![id.to_owned(), account]).one_or_conflict(Conflict::NotFound));
    for sql in
        ["DELETE FROM webhook_cursor WHERE webhook_id = ?1", "DELETE FROM webhook_delivery WHERE webhook_id = ?1"]
    {
        batch.push(Statement::write(sql, params![id.to_owned()]));
    }
    batch.push(audit.statement());
    store.write(batch).await.map(|_| ())
}

/// The account's agents of which something has happened since.
pub async fn behind(store: &Store, webhook: &Webhook, limit: u32) -> Result<Vec<Behind>> {
    // What was pruned before anybody got to it is gone.
    let sql = "SELECT a.npub, CASE WHEN COALESCE(c.seq, 0) < a.pruned_seq THEN a.pruned_seq ELSE COALESCE(c.seq, 0) END
        FROM agent a LEFT JOIN webhook_cursor c ON c.webhook_id = ?1 AND c.npub = a.npub
        WHERE a.account_id = ?2 AND a.event_seq > COALESCE(c.seq, 0) ORDER BY a.npub LIMIT ?3";
    let read = |row: &mut Columns| Ok(Behind { npub: row.get()?, after: row.get()? });
    store.rows("find events for a webhook", sql, params![webhook.id.clone(), webhook.account, limit], read).await
}

/// Puts deliveries of an agent's events, and moves the cursor past all that were looked at.
pub async fn put(
    store: &Store,
    webhook: &str,
    npub: Npub,
    events: &[(i64, &str)],
    upto: i64,
    at: UnixMs,
) -> Result<()> {
    let mut batch = Batch::new("put deliveries of a webhook");
    let there = Statement::read("SELECT 1 FROM webhook WHERE webhook_id = ?1", params![webhook.to_owned()]);
    batch.push(there.lock(Lock::Update).one_or_conflict(Conflict::NotFound));
    for (seq, kind) in events {
        batch.push(Statement::write(
            "INSERT INTO webhook_delivery (webhook_id, npub, seq, kind, state, attempts, next_at, at)
             VALUES (?1, ?2, ?3, ?4, 'pending', 0, ?5, ?5) ON CONFLICT DO NOTHING",
            params![webhook.to_owned(), npub, *seq, (*kind).to_owned(), at],
        ));
    }
    batch.push(Statement::write(
        "INSERT INTO webhook_cursor (webhook_id, npub, seq) VALUES (?1, ?2, ?3)
         ON CONFLICT (webhook_id, npub) DO UPDATE SET seq = CASE WHEN excluded.seq > webhook_cursor.seq
            THEN excluded.seq ELSE webhook_cursor.seq END",
        params![webhook.to_owned(), npub, upto],
    ));
    store.write(batch).await.map(|_| ())
}

/// A webhook's deliveries whose time has come, oldest first.
pub async fn due(store: &Store, webhook: &str, now: UnixMs, limit: u32) -> Result<Vec<Delivery>> {
    let sql = concat!(
        delivery_columns!(),
        " WHERE d.webhook_id = ?1 AND d.state = 'pending' AND d.next_at <= ?2 ORDER BY d.next_at, d.seq LIMIT ?3"
    );
    let params = params![webhook.to_owned(), now, limit.min(MAX_PAGE)];
    store.rows("find deliveries that are due", sql, params, delivery_row).await
}

/// A webhook's, newest first.
pub async fn deliveries(store: &Store, webhook: &str, state: Option<&str>, limit: u32) -> Result<Vec<Delivery>> {
    let sql = concat!(
        delivery_columns!(),
        " WHERE d.webhook_id = ?1 AND (?2 IS NULL OR d.state = ?2) ORDER BY d.at DESC, d.npub, d.seq DESC LIMIT ?3"
    );
    let params = params![webhook.to_owned(), state.map(str::to_owned), limit.min(MAX_PAGE)];
    store.rows("list deliveries", sql, params, delivery_row).await
}

/// How many wait and how many were given up.
pub async fn level(store: &Store, webhook: &str) -> Result<Level> {
    let sql = "SELECT CAST(COALESCE(SUM(CASE WHEN state = 'pending' THEN 1 ELSE 0 END), 0) AS BIGINT),
        CAST(COALESCE(SUM(CASE WHEN state = 'dead' THEN 1 ELSE 0 END), 0) AS BIGINT)
        FROM webhook_delivery WHERE webhook_id = ?1";
    let read = |row: &mut Columns| Ok(Level { pending: row.get()?, dead: row.get()? });
    Ok(store.row("count deliveries", sql, params![webhook.to_owned()], read).await?.unwrap_or_default())
}

/// Notes what came of an attempt; of one that somebody else made meanwhile, nothing.
pub async fn tried(store: &Store, delivery: &Delivery, fate: Fate, said: &str, now: UnixMs) -> Result<()> {
    let (state, next) = match fate {
        Fate::Delivered => ("delivered", now),
        Fate::Again(at) => ("pending", at),
        Fate::Dead | Fate::Gone => ("dead", now),
    };
    let mut batch = Batch::new("note an attempt to deliver");
    batch.push(Statement::write(
        "UPDATE webhook_delivery SET state = ?5, attempts = attempts + 1, next_at = ?6, said = ?7
         WHERE webhook_id = ?1 AND npub = ?2 AND seq = ?3 AND attempts = ?4 AND state = 'pending'",
        params![
            delivery.webhook.clone(),
            delivery.npub,
            delivery.seq,
            i64::from(delivery.attempts),
            state,
            next,
            said.to_owned()
        ],
    ));
    if fate == Fate::Gone {
        let sql = "UPDATE webhook SET gone_at = ?2 WHERE webhook_id = ?1 AND gone_at IS NULL";
        batch.push(Statement::write(sql, params![delivery.webhook.clone(), now]));
    }
    store.write(batch).await.map(|_| ())
}

/// What was given up is tried again from the start, and a receiver that was gone is believed to be back. Returns how many.
pub async fn retry(store: &Store, webhook: &str, now: UnixMs, audit: Audit) -> Result<u64> {
    let mut batch = Batch::new("deliver again");
    batch.push(Statement::write(
        "UPDATE webhook_delivery SET state = 'pending', attempts = 0, next_at = ?2
         WHERE webhook_id = ?1 AND state = 'dead'",
        params![webhook.to_owned(), now],
    ));
    batch
        .push(Statement::write("UPDATE webhook SET gone_at = NULL WHERE webhook_id = ?1", params![webhook.to_owned()]));
    batch.push(audit.statement());
    let outputs = store.write(batch).await?;
    Ok(outputs.first().map_or(0, |output| output.affected))
}

/// Forgets what was delivered or given up before. Returns how many.
pub async fn purge(store: &Store, before: UnixMs, limit: u32) -> Result<u64> {
    let sql = "DELETE FROM webhook_delivery WHERE (webhook_id, npub, seq) IN
        (SELECT webhook_id, npub, seq FROM webhook_delivery WHERE state <> 'pending' AND at < ?1 LIMIT ?2)";
    store.change("forget deliveries", Statement::write(sql, params![before, limit])).await
}

fn webhook_row(row: &mut Columns) -> Result<Webhook> {
    let (id, account, url) = (row.get()?, row.get()?, row.get()?);
    let kinds: String = row.get()?;
    Ok(Webhook {
        id,
        account,
        url,
        kinds: kinds.split_whitespace().map(str::to_owned).collect(),
        sealed_key: row.get()?,
        created_at: row.get()?,
        gone_at: row.get()?,
    })
}

fn delivery_row(row: &mut Columns) -> Result<Delivery> {
    let (webhook, npub, seq, kind, state) = (row.get()?, row.get()?, row.get()?, row.get()?, row.get()?);
    let attempts: i64 = row.get()?;
    Ok(Delivery {
        webhook,
        npub,
        seq,
        kind,
        state,
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        next_at: row.get()?,
        said: row.get()?,
        at: row.get()?,
    })
}
