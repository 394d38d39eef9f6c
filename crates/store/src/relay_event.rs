//! The relay's store: events as they were signed, and their single-letter tags.

use nexus_core::{Hash32, Npub, UnixMs};

use crate::batch::params;
use crate::row::Columns;
use crate::{Batch, Conflict, Result, Statement, Store, Value, Verdict};

/// Bytes of a text that an index holds as it is.
const MAX_INDEXED: usize = 1_000;
/// Events of one answer at most.
pub const MAX_LIMIT: u32 = 5_000;

/// An event to store; verified by the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRelayEvent {
    pub id: Hash32,
    pub pubkey: Npub,
    pub kind: u16,
    /// Seconds since 1970.
    pub created_at: i64,
    /// The `d` tag's value (NIP-01: empty when missing), for addressable kinds only.
    pub d: Option<String>,
    /// Seconds since 1970 (NIP-40).
    pub expires_at: Option<i64>,
    /// Single-letter tags with their first values.
    pub tags: Vec<(char, String)>,
    /// NIP-01 JSON.
    pub json: String,
    pub received_at: UnixMs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayEvent {
    /// Order of arrival.
    pub position: i64,
    pub id: Hash32,
    pub pubkey: Npub,
    pub kind: u16,
    pub created_at: i64,
    pub json: String,
}

/// One NIP-01 filter. Empty lists match everything; lists within one field are alternatives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub ids: Vec<Hash32>,
    pub authors: Vec<Npub>,
    pub kinds: Vec<u16>,
    /// Kinds that never match.
    pub not_kinds: Vec<u16>,
    pub tags: Vec<(char, Vec<String>)>,
    /// Seconds, inclusive.
    pub since: Option<i64>,
    /// Seconds, inclusive.
    pub until: Option<i64>,
    /// The last event of the page before: its seconds and id.
    pub after: Option<(i64, Hash32)>,
    /// [`MAX_LIMIT`] when none or above.
    pub limit: Option<u32>,
}

/// How a kind is kept (NIP-01).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    Regular,
    /// One for each (pubkey, kind).
    Replaceable,
    /// One for each (pubkey, kind, d).
    Addressable,
    /// Never stored.
    Ephemeral,
}

/// NIP-01's ranges.
pub const fn keeping(kind: u16) -> Keeping {
    match kind {
        0 | 3 | 10_000..=19_999 => Keeping::Replaceable,
        20_000..=29_999 => Keeping::Ephemeral,
        30_000..=39_999 => Keeping::Addressable,
        _ => Keeping::Regular,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    Stored,
    Duplicate,
    /// A newer event (or one of the same second with a lower id) holds its place, or its author deleted it.
    Superseded,
}

/// Stores an event and, in the same batch, what else must follow (inbox rows of hosted agents). `also` is not done when
/// the event is a duplicate or superseded.
pub async fn put(store: &Store, event: NewRelayEvent, also: Vec<Statement>) -> Result<Stored> {
    let mut batch = Batch::new("store a relay event");
    batch.push(event.absent_statement());
    batch.extend(event.make_room_statements());
    batch.push(event.insert_statement());
    batch.extend(event.tag_statements());
    batch.extend(also);
    match store.write(batch).await {
        Ok(_) => Ok(Stored::Stored),
        Err(error) if error.is_duplicate() => Ok(Stored::Duplicate),
        Err(error) if error.conflict() == Some(&Conflict::Superseded) => Ok(Stored::Superseded),
        Err(error) => Err(error),
    }
}

/// Matching events that have not expired, newest first (NIP-01: by created_at, then lowest id).
pub async fn query(store: &Store, filter: &Filter, now: UnixMs) -> Result<Vec<RelayEvent>> {
    let (sql, params) = filter.select(
        "SELECT e.position, e.id, e.pubkey, e.kind, e.created_at, e.json FROM relay_event e",
        now,
        " ORDER BY e.created_at DESC, e.id",
    );
    store.rows("query relay events", sql, params, event_row).await
}

/// How many match (NIP-45), without their bodies.
pub async fn count(store: &Store, filter: &Filter, now: UnixMs) -> Result<u64> {
    let (sql, params) = filter.select("SELECT e.id FROM relay_event e", now, "");
    let sql = format!("SELECT COUNT(*) FROM ({sql}) matching");
    Ok(store.row("count relay events", sql, params, |row| row.get()).await?.unwrap_or(0))
}

/// Deletes these events of this author (NIP-09) and remembers their ids, so that they do not come back. Returns how many
/// were there.
pub async fn delete(store: &Store, author: Npub, ids: &[Hash32], now: UnixMs) -> Result<u64> {
    let mut batch = Batch::new("delete relay events");
    let mut deletions = Vec::new();
    for id in ids.iter().take(MAX_LIMIT as usize) {
        batch.push(Statement::write(
            "INSERT INTO relay_deleted (pubkey, id, at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
            params![author, *id, now],
        ));
        batch.push(Statement::write(
            "DELETE FROM relay_tag WHERE event_id = ?2
                AND EXISTS (SELECT 1 FROM relay_event WHERE id = ?2 AND pubkey = ?1)",
            params![author, *id],
        ));
        let sql = "DELETE FROM relay_event WHERE id = ?2 AND pubkey = ?1";
        batch.push(Statement::write(sql, params![author, *id]));
        deletions.push(batch.len() - 1);
    }
    if batch.is_empty() {
        return Ok(0);
    }
    let outputs = store.write(batch).await?;
    Ok(deletions.into_iter().filter_map(|place| outputs.get(place)).map(|output| output.affected).sum())
}

/// Deletes the author's events at an address up to `until` seconds (NIP-09 `a` tags). Returns how many.
pub async fn delete_address(store: &Store, author: Npub, kind: u16, d: &str, until: i64) -> Result<u64> {
    let mut batch = Batch::new("delete an address");
    batch.push(Statement::write(
        "INSERT INTO relay_deleted_slot (pubkey, kind, slot, until) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (pubkey, kind, slot) DO UPDATE SET until = excluded.until
         WHERE relay_deleted_slot.until < excluded.until",
        params![author, kind, indexed(d), until],
    ));
    batch.push(Statement::write(
        "DELETE FROM relay_tag WHERE event_id IN (SELECT id FROM relay_event
            WHERE pubkey = ?1 AND kind = ?2 AND slot = ?3 AND created_at <= ?4)",
        params![author, kind, indexed(d), until],
    ));
    batch.push(Statement::write(
        "DELETE FROM relay_event WHERE pubkey = ?1 AND kind = ?2 AND slot = ?3 AND created_at <= ?4",
        params![author, kind, indexed(d), until],
    ));
    let outputs = store.write(batch).await?;
    Ok(outputs.last().map_or(0, |output| output.affected))
}

/// Deletes events that expired before `now`, at most `limit`. Returns how many.
pub async fn purge_expired(store: &Store, now: UnixMs, limit: u32) -> Result<u64> {
    macro_rules! expired {
        () => {
            "(SELECT id FROM relay_event WHERE expires_at IS NOT NULL AND expires_at <= ?1
                ORDER BY expires_at, position LIMIT ?2)"
        };
    }
    let mut batch = Batch::new("purge expired relay events");
    for sql in [
        concat!("DELETE FROM relay_tag WHERE event_id IN ", expired!()),
        concat!("DELETE FROM relay_event WHERE id IN ", expired!()),
    ] {
        batch.push(Statement::write(sql, params![now.secs(), limit]));
    }
    let outputs = store.write(batch).await?;
    Ok(outputs.last().map_or(0, |output| output.affected))
}

/// Where a walk over all events by arrival has got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Walk {
    position: i64,
    /// Nothing older lies ahead: begin again.
    pub done: bool,
}

/// Deletes regular events (those that no later one replaces) received before `before`, among the next `limit` after
/// `walk`. Returns how many, and how to go on.
pub async fn purge_old(store: &Store, before: UnixMs, walk: Walk, limit: u32) -> Result<(u64, Walk)> {
    let sql = "SELECT position, received_at, CAST(CASE WHEN slot IS NULL THEN 1 ELSE 0 END AS BIGINT), id FROM relay_event WHERE position > ?1
        ORDER BY position LIMIT ?2";
    let read = |row: &mut Columns| {
        let (position, at): (i64, UnixMs) = (row.get()?, row.get()?);
        Ok((position, at, row.get::<bool>()?, row.get::<Hash32>()?))
    };
    let limit = limit.min(MAX_LIMIT);
    let page = store.rows("look for old relay events", sql, params![walk.position, limit], read).await?;
    let full = page.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let old = page.iter().take_while(|(_, at, _, _)| *at < before);
    let mut next = Walk { position: walk.position, done: true };
    let mut batch = Batch::new("purge old relay events");
    let (mut deletions, mut seen) = (Vec::new(), 0);
    for (position, _, regular, id) in old {
        (next.position, seen) = (*position, seen + 1);
        if *regular {
            batch.push(Statement::write("DELETE FROM relay_tag WHERE event_id = ?1", params![*id]));
            batch.push(Statement::write("DELETE FROM relay_event WHERE id = ?1", params![*id]));
            deletions.push(batch.len() - 1);
        }
    }
    next.done = !full || seen < page.len();
    if next.done {
        next.position = 0;
    }
    if batch.is_empty() {
        return Ok((0, next));
    }
    let outputs = store.write(batch).await?;
    Ok((deletions.into_iter().filter_map(|place| outputs.get(place)).map(|output| output.affected).sum(), next))
}

/// Stored events and bytes of one author: for quotas.
pub async fn usage(store: &Store, author: Npub) -> Result<(u64, u64)> {
    let sql = "SELECT COUNT(*), CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM relay_event WHERE pubkey = ?1";
    let usage =
        store.row("measure an author's events", sql, params![author], |row| Ok((row.get()?, row.get()?))).await?;
    Ok(usage.unwrap_or((0, 0)))
}

/// At the address of ?1 to ?3, and (not) before an event of ?4 seconds and id ?5.
macro_rules! newer {
    ($not:literal) => {
        concat!(
            "pubkey = ?1 AND kind = ?2 AND slot = ?3 AND ",
            $not,
            "(created_at > ?4 OR (created_at = ?4 AND id < ?5))"
        )
    };
}

/// A tag's value or an address's name as it stands in an index, which holds rows of some 2,700 bytes: what is longer than
/// [`MAX_INDEXED`], or holds a zero byte, is cut or filled up to that length and ends with its hash. So it is longer than
/// anything that stands there as it is, and the two are never taken for each other.
fn indexed(value: &str) -> String {
    if value.len() <= MAX_INDEXED && !value.contains('\0') {
        return value.to_owned();
    }
    let end = (0..=MAX_INDEXED.min(value.len())).rev().find(|end| value.is_char_boundary(*end)).unwrap_or(0);
    let start = value[..end].replace('\0', " ");
    format!("{start:MAX_INDEXED$}#{}", Hash32::sha256(value.as_bytes()))
}

impl NewRelayEvent {
    /// The place that this event replaces others in: '' for replaceable kinds, its `d` for addressable ones.
    fn slot(&self) -> Option<String> {
        match keeping(self.kind) {
            Keeping::Replaceable => Some(String::new()),
            Keeping::Addressable => Some(indexed(self.d.as_deref().unwrap_or_default())),
            Keeping::Regular | Keeping::Ephemeral => None,
        }
    }

    fn absent_statement(&self) -> Statement {
        let sql = "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM relay_event WHERE id = ?1)";
        Statement::read(sql, params![self.id]).one_or(Verdict::Duplicate)
    }

    /// Refuses what its author deleted and what a newer event stands in for; deletes what this one replaces. Of the same
    /// second the lowest id stays (NIP-01).
    fn make_room_statements(&self) -> Vec<Statement> {
        let sql = "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM relay_deleted WHERE pubkey = ?1 AND id = ?2)";
        let not_deleted = Statement::read(sql, params![self.pubkey, self.id]).one_or_conflict(Conflict::Superseded);
        let mut statements = vec![not_deleted];
        let Some(slot) = self.slot() else { return statements };
        let address = || params![self.pubkey, self.kind, slot.clone(), self.created_at];
        statements.push(
            Statement::read(
                "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM relay_deleted_slot
                    WHERE pubkey = ?1 AND kind = ?2 AND slot = ?3 AND until >= ?4)",
                address(),
            )
            .one_or_conflict(Conflict::Superseded),
        );
        let with_id = || address().into_iter().chain([self.id.into()]).collect();
        statements.push(
            Statement::read(
                concat!("SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM relay_event WHERE ", newer!(""), ")"),
                with_id(),
            )
            .one_or_conflict(Conflict::Superseded),
        );
        statements.push(Statement::write(
            concat!("DELETE FROM relay_tag WHERE event_id IN (SELECT id FROM relay_event WHERE ", newer!("NOT "), ")"),
            with_id(),
        ));
        statements.push(Statement::write(concat!("DELETE FROM relay_event WHERE ", newer!("NOT ")), with_id()));
        statements
    }

    fn insert_statement(&self) -> Statement {
        Statement::write(
            "INSERT INTO relay_event (id, pubkey, kind, created_at, slot, expires_at, json, bytes, received_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING",
            params![
                self.id,
                self.pubkey,
                self.kind,
                self.created_at,
                self.slot(),
                self.expires_at,
                self.json.clone(),
                i64::try_from(self.json.len()).unwrap_or(i64::MAX),
                self.received_at
            ],
        )
        .one_or(Verdict::Duplicate)
    }

    fn tag_statements(&self) -> impl Iterator<Item = Statement> {
        let insert = |(name, value): &(char, String)| {
            Statement::write(
                "INSERT INTO relay_tag (name, value, created_at, event_id) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
                params![name.to_string(), indexed(value), self.created_at, self.id],
            )
        };
        self.tags.iter().map(insert)
    }
}

impl Filter {
    /// The statement for this filter. Its text depends on the filter's shape alone, values are parameters.
    fn select(&self, columns: &str, now: UnixMs, order: &str) -> (String, Vec<Value>) {
        let mut sql = format!("{columns} WHERE (e.expires_at IS NULL OR e.expires_at > ?1)");
        let mut params = params![now.secs()];
        one_of(&mut sql, &mut params, "e.id", &self.ids);
        one_of(&mut sql, &mut params, "e.pubkey", &self.authors);
        one_of(&mut sql, &mut params, "e.kind", &self.kinds);
        for (name, values) in &self.tags {
            params.push(name.to_string().into());
            sql += &format!(" AND e.id IN (SELECT t.event_id FROM relay_tag t WHERE t.name = ?{}", params.len());
            let values: Vec<String> = values.iter().map(|value| indexed(value)).collect();
            one_of(&mut sql, &mut params, "t.value", &values);
            sql += ")";
        }
        for (bound, test) in [(self.since, ">="), (self.until, "<=")] {
            if let Some(secs) = bound {
                params.push(secs.into());
                sql += &format!(" AND e.created_at {test} ?{}", params.len());
            }
        }
        for kind in &self.not_kinds {
            params.push((*kind).into());
            sql += &format!(" AND e.kind <> ?{}", params.len());
        }
        if let Some((secs, id)) = self.after {
            params.extend([secs.into(), id.into()]);
            let (secs, id) = (params.len() - 1, params.len());
            sql += &format!(" AND (e.created_at < ?{secs} OR (e.created_at = ?{secs} AND e.id > ?{id}))");
        }
        params.push(self.limit.unwrap_or(MAX_LIMIT).min(MAX_LIMIT).into());
        sql += &format!("{order} LIMIT ?{}", params.len());
        (sql, params)
    }
}

/// `AND column IN (…)`, unless there is nothing to choose from.
fn one_of<T: Clone + Into<Value>>(sql: &mut String, params: &mut Vec<Value>, column: &str, values: &[T]) {
    if values.is_empty() {
        return;
    }
    let first = params.len() + 1;
    params.extend(values.iter().cloned().map(Into::into));
    let places: Vec<String> = (first..=params.len()).map(|place| format!("?{place}")).collect();
    *sql += &format!(" AND {column} IN ({})", places.join(", "));
}

fn event_row(row: &mut Columns) -> Result<RelayEvent> {
    Ok(RelayEvent {
        position: row.get()?,
        id: row.get()?,
        pubkey: row.get()?,
        kind: row.get()?,
        created_at: row.get()?,
        json: row.get()?,
    })
}
