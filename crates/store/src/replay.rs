//! Things that may be used once: NIP-98 events, proofs, WebSocket tickets.

use nexus_core::{Hash32, UnixMs};

use crate::batch::params;
use crate::{Batch, Result, Statement, Store, Verdict};

/// Marks `id` as used until `expires_at`; `false` when it was used before. Durable before it answers.
pub async fn use_once(store: &Store, kind: &'static str, id: Hash32, expires_at: UnixMs) -> Result<bool> {
    let batch = Batch::new("use something once").with(use_once_statement(kind, id, expires_at));
    match store.write(batch).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_duplicate() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The same as a statement for another batch: `Duplicate` when it was used before.
pub fn use_once_statement(kind: &'static str, id: Hash32, expires_at: UnixMs) -> Statement {
    use_statement(kind, id, expires_at).one_or(Verdict::Duplicate)
}

/// Affects no row when it was used before.
pub(crate) fn use_statement(kind: &'static str, id: Hash32, expires_at: UnixMs) -> Statement {
    let sql = "INSERT INTO replay (kind, id, expires_at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
    Statement::write(sql, params![kind, id, expires_at])
}

/// Forgets what expired before `now`, at most `limit` of each kind. Returns how many.
pub async fn purge(store: &Store, now: UnixMs, limit: u32) -> Result<u64> {
    let mut batch = Batch::new("purge used ids");
    let used = "DELETE FROM replay WHERE (kind, id) IN
        (SELECT kind, id FROM replay WHERE expires_at < ?1 ORDER BY expires_at LIMIT ?2)";
    batch.push(Statement::write(used, params![now, limit]));
    let tickets = "DELETE FROM ticket WHERE hash IN
        (SELECT hash FROM ticket WHERE expires_at < ?1 ORDER BY expires_at LIMIT ?2)";
    batch.push(Statement::write(tickets, params![now, limit]));
    Ok(store.write(batch).await?.iter().map(|output| output.affected).sum())
}

/// Something handed out, to be taken back once: a WebSocket ticket (stored by its hash).
pub async fn put_ticket(store: &Store, hash: Hash32, body: String, expires_at: UnixMs) -> Result<()> {
    let sql = "INSERT INTO ticket (hash, body, expires_at) VALUES (?1, ?2, ?3)";
    store.change("store a ticket", Statement::write(sql, params![hash, body, expires_at])).await.map(|_| ())
}

/// Takes the ticket's body; none if unknown, expired or taken.
pub async fn take_ticket(store: &Store, hash: Hash32, now: UnixMs) -> Result<Option<String>> {
    let attempted = "take a ticket";
    let sql = "DELETE FROM ticket WHERE hash = ?1 RETURNING body, expires_at";
    let outputs = store.write(Batch::new(attempted).with(Statement::write(sql, params![hash]))).await?;
    let Some(row) = outputs.into_iter().flat_map(|output| output.rows).next() else { return Ok(None) };
    let mut row = row.columns(attempted);
    let (body, expires_at): (String, UnixMs) = (row.get()?, row.get()?);
    Ok((expires_at >= now).then_some(body))
}
