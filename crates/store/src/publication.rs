//! Signed events on their way to relays. Journaled before they leave; published until a relay takes them.

use nexus_core::{Hash32, Npub, TickId, UnixMs};

use crate::batch::params;
use crate::row::Columns;
use crate::{Conflict, Fence, Result, Statement, Store};

/// Most publications of one page.
pub const MAX_PAGE: u32 = 500;
/// Longest pause between two attempts. A next attempt further ahead was planned by a clock that was wrong.
pub const MAX_PAUSE_MS: i64 = 600_000;

macro_rules! publication_columns {
    () => {
        "SELECT p.npub, p.event_id, p.kind, p.json, p.relays, p.tick_id, p.done, p.results, p.attempts,
            p.next_attempt_at, p.created_at FROM publication p"
    };
}

/// An event to publish. `json` is the signed event; a direct message in it is ciphertext.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPublication {
    pub event_id: Hash32,
    pub kind: u16,
    pub json: String,
    pub relays: Vec<String>,
    /// When to try first, or again if the first round fails silently.
    pub next_attempt_at: UnixMs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    pub npub: Npub,
    pub event_id: Hash32,
    pub kind: u16,
    pub json: String,
    pub relays: Vec<String>,
    pub tick: Option<TickId>,
    pub done: bool,
    /// JSON: each relay's last answer.
    pub results: String,
    pub attempts: u32,
    pub next_attempt_at: UnixMs,
    pub created_at: UnixMs,
}

/// Publications of this worker's agents that are due, or further ahead than any pause is.
pub async fn due(store: &Store, fence: Fence, now: UnixMs, limit: u32) -> Result<Vec<Publication>> {
    let sql = concat!(
        publication_columns!(),
        " JOIN agent a ON a.npub = p.npub
          WHERE p.done = 0 AND (p.next_attempt_at <= ?2 OR p.next_attempt_at > ?4) AND a.worker_id = ?1
          ORDER BY p.next_attempt_at LIMIT ?3"
    );
    let params = params![fence.worker, now, limit.min(MAX_PAGE), now.plus_ms(MAX_PAUSE_MS)];
    store.rows("find due publications", sql, params, publication_row).await
}

/// All publications of an agent that no relay has taken.
pub async fn pending(store: &Store, npub: Npub) -> Result<Vec<Publication>> {
    let sql = concat!(publication_columns!(), " WHERE p.npub = ?1 AND p.done = 0 ORDER BY p.created_at LIMIT ?2");
    store.rows("read pending publications", sql, params![npub, MAX_PAGE], publication_row).await
}

pub async fn get(store: &Store, npub: Npub, event_id: Hash32) -> Result<Option<Publication>> {
    let sql = concat!(publication_columns!(), " WHERE p.npub = ?1 AND p.event_id = ?2");
    store.row("read a publication", sql, params![npub, event_id], publication_row).await
}

/// What was put on its way of this kind with a tick; the first, if there are several.
pub async fn of_tick(store: &Store, npub: Npub, tick: TickId, kind: u16) -> Result<Option<Hash32>> {
    let sql =
        "SELECT event_id FROM publication WHERE npub = ?1 AND tick_id = ?2 AND kind = ?3 ORDER BY created_at LIMIT 1";
    store.row("find a tick's publication", sql, params![npub, tick, kind], |row| row.get()).await
}

/// Forgets finished ones from before `before`, but for those of a tick that is open: whoever goes on with it, however late,
/// notes there what became of them. Returns how many.
pub async fn purge(store: &Store, before: UnixMs, limit: u32) -> Result<u64> {
    let sql = "DELETE FROM publication WHERE (npub, event_id) IN
        (SELECT p.npub, p.event_id FROM publication p WHERE p.done = 1 AND p.created_at < ?1
            AND NOT EXISTS (SELECT 1 FROM tick t WHERE t.tick_id = p.tick_id AND t.status = 'open')
         ORDER BY p.created_at LIMIT ?2)";
    store.change("purge publications", Statement::write(sql, params![before, limit])).await
}

fn publication_row(row: &mut Columns) -> Result<Publication> {
    Ok(Publication {
        npub: row.get()?,
        event_id: row.get()?,
        kind: row.get()?,
        json: row.get()?,
        relays: row.parse(|text| serde_json::from_str(text).ok())?,
        tick: row.get()?,
        done: row.get()?,
        results: row.get()?,
        attempts: row.get()?,
        next_attempt_at: row.get()?,
        created_at: row.get()?,
    })
}

impl NewPublication {
    /// The same event again changes nothing.
    pub(crate) fn statement(&self, npub: Npub, tick: Option<TickId>, now: UnixMs) -> Statement {
        let relays = serde_json::to_string(&self.relays).unwrap_or_default();
        Statement::write(
            "INSERT INTO publication (npub, event_id, kind, json, relays, tick_id, done, results, attempts,
                next_attempt_at, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, '{}', 0, ?7, ?8) ON CONFLICT DO NOTHING",
            params![npub, self.event_id, self.kind, self.json.clone(), relays, tick, self.next_attempt_at, now],
        )
    }
}

/// One round's outcome. Done is never undone.
pub(crate) fn result_statement(
    npub: Npub,
    event_id: Hash32,
    done: bool,
    results: String,
    next_attempt_at: Option<UnixMs>,
) -> Statement {
    Statement::write(
        "UPDATE publication SET done = CASE WHEN ?3 = 1 THEN 1 ELSE done END, results = ?4, attempts = attempts + 1,
            next_attempt_at = COALESCE(?5, next_attempt_at)
         WHERE npub = ?1 AND event_id = ?2",
        params![npub, event_id, done, results, next_attempt_at],
    )
    .one_or_conflict(Conflict::NotFound)
}
