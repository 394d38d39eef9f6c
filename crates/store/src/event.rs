//! Events of an agent: `seq` without gaps, a hash chain over all of them, and the outbox.
//!
//! Each append raises `event_seq` and folds the event's digest into `event_head` in the transaction of whatever the
//! event tells. The outbox is every event whose `relayed` flag is off: a flag, not a cursor, because transactions
//! may commit out of the order in which they took their numbers.

use nexus_core::event::{AgentEvent, EventBody};
use nexus_core::{Hash32, Npub, UnixMs};

use crate::batch::params;
use crate::draft::Draft;
use crate::{Batch, Conflict, Result, Statement, Store, StoreError};

/// Most events of one page.
pub const MAX_PAGE: u32 = 1_000;
/// Walks of a chain that is pruned meanwhile.
const MAX_WALKS: u32 = 3;
const READ: &str = "read events";

/// An event to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub at: UnixMs,
    pub body: EventBody,
    /// What only a reader may see, under the view key.
    pub sealed: Option<Vec<u8>>,
}

impl NewEvent {
    pub fn new(at: UnixMs, body: EventBody) -> Self {
        Self { at, body, sealed: None }
    }
}

/// A stored event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    pub event: AgentEvent,
    pub sealed: Option<Vec<u8>>,
    /// The chain's head after this event.
    pub hash: Hash32,
}

/// What [`verify_chain`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chain {
    /// `events` of them follow from the pruned head to the head.
    Intact { events: u64, first_seq: i64, head: Hash32 },
    /// The first event that does not follow, or the head that is not reached.
    Broken { seq: i64, why: &'static str },
}

/// Appends outside a tick, by the control plane; returns their numbers.
pub async fn append(store: &Store, npub: Npub, events: Vec<NewEvent>) -> Result<Vec<i64>> {
    let mut draft = Draft::new("append events");
    draft.events(npub, &events);
    draft.write(store).await
}

/// Events with `seq` above `after`, in order.
pub async fn after(store: &Store, npub: Npub, after: i64, limit: u32) -> Result<Vec<StoredEvent>> {
    let page = raw_after(store, npub, after, limit).await?;
    page.into_iter()
        .map(|raw| {
            let body = serde_json::from_str(&raw.body).map_err(|error| StoreError::Corrupt {
                attempted: READ,
                what: format!("event {}: {error}", raw.seq),
            })?;
            let event = AgentEvent { seq: raw.seq, at: raw.at, npub, body };
            Ok(StoredEvent { event, sealed: raw.sealed, hash: raw.hash })
        })
        .collect()
}

/// The outbox: events not yet announced on the bus, at most `limit`.
pub async fn unrelayed(store: &Store, limit: u32) -> Result<Vec<(Npub, i64)>> {
    let sql = "SELECT npub, seq FROM event WHERE relayed = 0 ORDER BY id LIMIT ?1";
    store.rows("read the outbox", sql, params![limit.min(MAX_PAGE)], |row| Ok((row.get()?, row.get()?))).await
}

/// Takes announced events out of the outbox. Announcing twice is harmless, so this comes after the announcement.
pub async fn mark_relayed(store: &Store, events: &[(Npub, i64)]) -> Result<()> {
    let mut batch = Batch::new("empty the outbox");
    for (npub, seq) in events {
        let sql = "UPDATE event SET relayed = 1 WHERE npub = ?1 AND seq = ?2";
        batch.push(Statement::write(sql, params![*npub, *seq]));
    }
    if batch.is_empty() {
        return Ok(());
    }
    store.write(batch).await.map(|_| ())
}

/// Deletes the relayed events before `before`, oldest first without leaving a gap, at most `limit`; the hash of the
/// last one deleted is kept, so that the chain still verifies. Returns how many.
pub async fn prune(store: &Store, npub: Npub, before: UnixMs, limit: u32) -> Result<u64> {
    let Some((pruned, until)) = prunable(store, npub, before, limit).await? else { return Ok(0) };
    let mut batch = Batch::new("prune events");
    batch.push(
        Statement::write(
            "UPDATE agent SET pruned_seq = ?3, pruned_head = (SELECT hash FROM event WHERE npub = ?1 AND seq = ?3)
             WHERE npub = ?1 AND pruned_seq = ?2 AND EXISTS (SELECT 1 FROM event WHERE npub = ?1 AND seq = ?3)",
            params![npub, pruned, until],
        )
        .one_or_conflict(Conflict::Version),
    );
    batch.push(Statement::write("DELETE FROM event WHERE npub = ?1 AND seq <= ?2", params![npub, until]));
    let outputs = store.write(batch).await?;
    Ok(outputs.last().map_or(0, |output| output.affected))
}

/// The last event that was pruned and the chain's head after it: what the first that is kept follows from. Number 0 and
/// the chain's beginning where nothing was.
pub async fn pruned(store: &Store, npub: Npub) -> Result<(i64, Hash32)> {
    ends(store, npub).await.map(|ends| (ends.pruned_seq, ends.pruned_head))
}

/// Agents that the oldest `limit` events before `before` belong to: whom to [`prune`]. Without those whose plan says how long
/// theirs are kept.
pub async fn agents_to_prune(store: &Store, before: UnixMs, limit: u32) -> Result<Vec<Npub>> {
    let sql = "SELECT DISTINCT o.npub FROM (SELECT e.npub, e.at FROM event e WHERE NOT EXISTS
            (SELECT 1 FROM agent a WHERE a.npub = e.npub AND a.retention_days IS NOT NULL) ORDER BY e.id LIMIT ?2) o
        WHERE o.at < ?1";
    store.rows("look for old events", sql, params![before, limit.min(MAX_PAGE)], |row| row.get()).await
}

/// Agents whose oldest event is a day past what their plan keeps, with the moment before which it goes.
pub async fn agents_past_plan(store: &Store, now: UnixMs, limit: u32) -> Result<Vec<(Npub, UnixMs)>> {
    let sql = "SELECT a.npub, a.retention_days FROM agent a WHERE a.retention_days IS NOT NULL
            AND (SELECT e.at FROM event e WHERE e.npub = a.npub ORDER BY e.seq LIMIT 1)
                < ?1 - (a.retention_days + 1) * 86400000
        ORDER BY a.npub LIMIT ?2";
    let read = |row: &mut crate::row::Columns| Ok((row.get()?, before(now, row.get()?)));
    store.rows("look for events that a plan does not keep", sql, params![now, limit.min(MAX_PAGE)], read).await
}

/// So many days before.
pub(crate) fn before(now: UnixMs, days: i64) -> UnixMs {
    UnixMs(now.0.saturating_sub(days.saturating_mul(86_400_000)))
}

/// Walks the whole chain of one agent, page by page.
pub async fn verify_chain(store: &Store, npub: Npub) -> Result<Chain> {
    let mut before = ends(store, npub).await?;
    for _ in 0..MAX_WALKS {
        let found = walk(store, npub, &before).await?;
        let after = ends(store, npub).await?;
        // Pruning under our feet looks like missing events: then look again.
        if matches!(found, Chain::Intact { .. }) || after.pruned_seq == before.pruned_seq {
            return Ok(found);
        }
        before = after;
    }
    walk(store, npub, &before).await
}

/// The two statements of one append; the second returns the event's number. Whether the agent stands at the writer's
/// generation is the batch's first question, not asked again here.
pub(crate) fn append_statements(npub: Npub, event: &NewEvent) -> [Statement; 2] {
    let body = serde_json::to_string(&event.body).unwrap_or_default();
    let digest = digest(event.at, &body, event.sealed.as_deref());
    let raise = Statement::write(
        "UPDATE agent SET event_seq = event_seq + 1, event_head = chain(event_head, ?2) WHERE npub = ?1",
        params![npub, digest],
    );
    let insert = Statement::write(
        // Not from a SELECT: an insert that may have many rows makes SQLite copy every page that it touches.
        "INSERT INTO event (npub, seq, at, body, sealed, hash, relayed)
         VALUES (?1, (SELECT event_seq FROM agent WHERE npub = ?1), ?2, ?3, ?4,
            (SELECT event_head FROM agent WHERE npub = ?1), 0) RETURNING seq",
        params![npub, event.at, body, event.sealed.clone()],
    );
    [raise.one_or_conflict(Conflict::NoAgent), insert.one_or_conflict(Conflict::NoAgent)]
}

/// Where an agent's chain begins.
pub(crate) fn genesis(npub: Npub) -> Hash32 {
    Hash32::sha256(&[b"nexus events of ".as_slice(), npub.as_bytes()].concat())
}

/// What one event adds to the chain: its time, its body as stored, its sealed part.
fn digest(at: UnixMs, body: &str, sealed: Option<&[u8]>) -> Hash32 {
    let mut bytes = at.0.to_be_bytes().to_vec();
    bytes.extend((body.len() as u64).to_be_bytes());
    bytes.extend(body.as_bytes());
    bytes.extend(sealed.unwrap_or_default());
    Hash32::sha256(&bytes)
}

fn chain(head: Hash32, digest: Hash32) -> Hash32 {
    Hash32::sha256(&[head.as_bytes().as_slice(), digest.as_bytes()].concat())
}

/// An event as its row holds it.
struct RawEvent {
    seq: i64,
    at: UnixMs,
    body: String,
    sealed: Option<Vec<u8>>,
    hash: Hash32,
}

async fn raw_after(store: &Store, npub: Npub, after: i64, limit: u32) -> Result<Vec<RawEvent>> {
    let sql = "SELECT seq, at, body, sealed, hash FROM event WHERE npub = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
    store
        .rows(READ, sql, params![npub, after, limit.min(MAX_PAGE)], |row| {
            Ok(RawEvent { seq: row.get()?, at: row.get()?, body: row.get()?, sealed: row.get()?, hash: row.get()? })
        })
        .await
}

/// Both ends of a chain as the agent's row holds them.
#[derive(PartialEq)]
struct Ends {
    pruned_seq: i64,
    pruned_head: Hash32,
    seq: i64,
    head: Hash32,
}

async fn ends(store: &Store, npub: Npub) -> Result<Ends> {
    let sql = "SELECT pruned_seq, pruned_head, event_seq, event_head FROM agent WHERE npub = ?1";
    let found = store
        .row(READ, sql, params![npub], |row| {
            Ok(Ends { pruned_seq: row.get()?, pruned_head: row.get()?, seq: row.get()?, head: row.get()? })
        })
        .await?;
    found.ok_or(StoreError::Conflict { attempted: READ, conflict: Conflict::NoAgent })
}

/// From one end to the other. Events appended meanwhile are beyond the end that was read first.
async fn walk(store: &Store, npub: Npub, ends: &Ends) -> Result<Chain> {
    let (mut seq, mut head) = (ends.pruned_seq, ends.pruned_head);
    if seq == 0 && head != genesis(npub) {
        return Ok(Chain::Broken { seq: 0, why: "the chain does not begin where this agent's begins" });
    }
    while seq < ends.seq {
        let page = raw_after(store, npub, seq, MAX_PAGE).await?;
        if page.is_empty() {
            return Ok(Chain::Broken { seq: seq + 1, why: "events are missing at the end" });
        }
        for event in page.into_iter().take_while(|event| event.seq <= ends.seq) {
            if event.seq != seq + 1 {
                return Ok(Chain::Broken { seq: seq + 1, why: "an event is missing" });
            }
            head = chain(head, digest(event.at, &event.body, event.sealed.as_deref()));
            if head != event.hash {
                return Ok(Chain::Broken { seq: event.seq, why: "the event is not the one that was stored" });
            }
            seq = event.seq;
        }
    }
    if head == ends.head {
        let events = u64::try_from(ends.seq - ends.pruned_seq).unwrap_or(0);
        Ok(Chain::Intact { events, first_seq: ends.pruned_seq + 1, head })
    } else {
        Ok(Chain::Broken { seq, why: "the last event is not the agent's head" })
    }
}

/// Up to where events may go: before the first that is too new or not announced.
async fn prunable(store: &Store, npub: Npub, before: UnixMs, limit: u32) -> Result<Option<(i64, i64)>> {
    let sql = "SELECT a.pruned_seq, COALESCE(
            (SELECT e.seq - 1 FROM event e WHERE e.npub = ?1 AND (e.at >= ?2 OR e.relayed = 0) ORDER BY e.seq LIMIT 1),
            a.event_seq)
        FROM agent a WHERE a.npub = ?1";
    let span = store.row(READ, sql, params![npub, before], |row| Ok((row.get::<i64>()?, row.get::<i64>()?))).await?;
    let bounded = span.map(|(pruned, until)| (pruned, until.min(pruned.saturating_add(i64::from(limit)))));
    Ok(bounded.filter(|(pruned, until)| until > pruned))
}
