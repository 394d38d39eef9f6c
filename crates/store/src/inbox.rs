//! The durable inbox: acknowledged means stored here.
//!
//! One row for each (npub, class, external id). Bounded: [`MAX_ROWS`] rows or [`MAX_BYTES`] that no tick has handled,
//! enforced by the insert itself. Handled rows stay, emptied, as the memory of what was seen.

use nexus_core::trigger::{Class, Trigger};
use nexus_core::{Npub, TickId, UnixMs};

use crate::batch::{Lock, params};
use crate::draft::Draft;
use crate::row::Columns;
use crate::{Batch, Conflict, Fence, Output, Result, Statement, Store};

/// Ticks that may take a message and buy nothing, before it counts as handled.
pub const MAX_TRIES: i64 = 3;
/// Unhandled rows of one agent at most.
pub const MAX_ROWS: i64 = 1_000;
/// Unhandled payload bytes of one agent at most.
pub const MAX_BYTES: i64 = 1_048_576;

/// Most rows of one page, of one tick and of one discard.
pub const MAX_PAGE: u32 = 256;

macro_rules! item_columns {
    () => {
        "SELECT id, npub, class, external_id, cause, sender, received_at, payload, tick_id FROM inbox"
    };
}

/// A wake-up to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewItem {
    pub npub: Npub,
    pub external_id: String,
    /// What it seems to be from outside (a gift wrap says `dm`). Its class is part of the key.
    pub trigger: Trigger,
    pub sender: Option<Npub>,
    pub received_at: UnixMs,
    /// A Nostr event as it came, or bytes sealed to the agent. Never private text in clear.
    pub payload: Vec<u8>,
}

/// A stored row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub id: i64,
    pub npub: Npub,
    pub class: Class,
    pub external_id: String,
    pub trigger: Trigger,
    pub sender: Option<Npub>,
    pub received_at: UnixMs,
    pub payload: Vec<u8>,
    /// The open tick that has it.
    pub tick: Option<TickId>,
}

/// What became of a wake-up. All but `Full` and `NoAgent` may be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Stored,
    Duplicate,
    Full,
    /// Nobody of this npub lives here.
    NoAgent,
}

pub async fn put(store: &Store, item: NewItem) -> Result<Put> {
    let mut batch = Batch::new("store a trigger");
    batch.extend(put_statements(&item));
    match store.write(batch).await {
        Ok(outputs) => Ok(put_outcome(&outputs)),
        Err(error) => match error.conflict() {
            Some(Conflict::InboxFull) => Ok(Put::Full),
            Some(Conflict::NoAgent) => Ok(Put::NoAgent),
            _ => Err(error),
        },
    }
}

/// Statements that store an item in someone else's batch, [`PUT_STATEMENTS`] of them. The batch is refused with
/// `Conflict::NoAgent` or `Conflict::InboxFull`; a duplicate changes nothing and refuses nothing: see [`put_outcome`].
pub fn put_statements(item: &NewItem) -> [Statement; PUT_STATEMENTS] {
    let class = item.trigger.class().as_str();
    let bytes = i64::try_from(item.payload.len()).unwrap_or(i64::MAX);
    // Locked, so that two connections do not both count before either has inserted.
    let hosted = "SELECT 1 FROM agent WHERE npub = ?1 AND moved_to IS NULL";
    let hosted = Statement::read(hosted, params![item.npub]).lock(Lock::Update);
    let insert = Statement::write(
        "INSERT INTO inbox (npub, class, external_id, cause, sender, received_at, payload, bytes, handled)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0
         WHERE (SELECT COUNT(*) FROM inbox WHERE npub = ?1 AND handled = 0) < ?9
           AND (SELECT COALESCE(SUM(bytes), 0) FROM inbox WHERE npub = ?1 AND handled = 0) + ?8 <= ?10
         ON CONFLICT (npub, class, external_id) DO NOTHING",
        params![
            item.npub,
            class,
            item.external_id.clone(),
            item.trigger.to_string(),
            item.sender,
            item.received_at,
            item.payload.clone(),
            bytes,
            MAX_ROWS,
            MAX_BYTES
        ],
    );
    // Not there after the insert means that there was no room.
    let there = Statement::read(
        "SELECT 1 FROM inbox WHERE npub = ?1 AND class = ?2 AND external_id = ?3",
        params![item.npub, class, item.external_id.clone()],
    );
    [hosted.one_or_conflict(Conflict::NoAgent), insert, there.one_or_conflict(Conflict::InboxFull)]
}

pub const PUT_STATEMENTS: usize = 3;

/// Reads `Stored` or `Duplicate` off the outputs of [`put_statements`].
pub fn put_outcome(outputs: &[Output]) -> Put {
    if outputs.get(1).is_some_and(|insert| insert.affected == 1) { Put::Stored } else { Put::Duplicate }
}

/// Rows that no tick has claimed, oldest first.
pub async fn pending(store: &Store, npub: Npub, limit: u32) -> Result<Vec<Item>> {
    let sql = concat!(item_columns!(), " WHERE npub = ?1 AND handled = 0 AND tick_id IS NULL ORDER BY id LIMIT ?2");
    store.rows("read the inbox", sql, params![npub, limit.min(MAX_PAGE)], item_row).await
}

/// The rows that an open tick claimed, oldest first.
pub async fn claimed(store: &Store, npub: Npub, tick: TickId) -> Result<Vec<Item>> {
    let sql = concat!(item_columns!(), " WHERE npub = ?1 AND handled = 0 AND tick_id = ?2 ORDER BY id");
    store.rows("read a tick's triggers", sql, params![npub, tick], item_row).await
}

/// How many rows and bytes wait.
pub async fn level(store: &Store, npub: Npub) -> Result<(i64, i64)> {
    let sql = "SELECT COUNT(*), CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM inbox WHERE npub = ?1 AND handled = 0";
    let level = store.row("measure the inbox", sql, params![npub], |row| Ok((row.get()?, row.get()?))).await?;
    Ok(level.unwrap_or((0, 0)))
}

/// Agents of this worker that have unclaimed rows, for when the bus lost a message.
pub async fn waiting(store: &Store, fence: Fence, limit: u32) -> Result<Vec<Npub>> {
    // Rows that wait are few, agents many: a cross join is walked as it is written.
    let sql = "SELECT DISTINCT i.npub FROM inbox i CROSS JOIN agent a
        WHERE i.handled = 0 AND i.tick_id IS NULL AND a.npub = i.npub AND a.worker_id = ?1
        ORDER BY i.npub LIMIT ?2";
    store.rows("find waiting inboxes", sql, params![fence.worker, limit], |row| row.get()).await
}

/// Marks unclaimed rows as handled without a tick: the filter refused them. Rows already handled or claimed are left.
/// Returns how many.
pub async fn discard(
    store: &Store,
    fence: Fence,
    npub: Npub,
    generation: nexus_core::Generation,
    ids: &[i64],
    why: &'static str,
) -> Result<u64> {
    let mut draft = Draft::hosted("discard triggers", fence, npub, generation);
    let first = draft.len();
    for id in ids.iter().take(MAX_PAGE as usize) {
        draft.push(settle_statement(npub, *id, why.to_owned()));
    }
    let outputs = store.write(draft.into_batch()).await?;
    Ok(outputs.iter().skip(first).map(|output| output.affected).sum())
}

/// Forgets handled rows received before `before`; a repetition after that would be new. Returns how many.
pub async fn purge(store: &Store, before: UnixMs, limit: u32) -> Result<u64> {
    let sql = "DELETE FROM inbox WHERE id IN
        (SELECT id FROM inbox WHERE handled = 1 AND received_at < ?1 ORDER BY received_at LIMIT ?2)";
    store.change("purge handled triggers", Statement::write(sql, params![before, limit])).await
}

fn item_row(row: &mut Columns) -> Result<Item> {
    Ok(Item {
        id: row.get()?,
        npub: row.get()?,
        class: row.parse(parse_class)?,
        external_id: row.get()?,
        trigger: row.parse(|text| text.parse().ok())?,
        sender: row.get()?,
        received_at: row.get()?,
        payload: row.get()?,
        tick: row.get()?,
    })
}

fn parse_class(text: &str) -> Option<Class> {
    [Class::Nostr, Class::Webhook, Class::Schedule, Class::Manual, Class::Approval]
        .into_iter()
        .find(|class| class.as_str() == text)
}

/// Claims one row for a tick that begins.
pub(crate) fn claim_statement(npub: Npub, id: i64, tick: TickId) -> Statement {
    let sql = "UPDATE inbox SET tick_id = ?3 WHERE id = ?2 AND npub = ?1 AND handled = 0 AND tick_id IS NULL";
    Statement::write(sql, params![npub, id, tick]).one_or_conflict(Conflict::InboxGone)
}

/// Settles one unclaimed row without a tick of its own.
pub(crate) fn settle_statement(npub: Npub, id: i64, why: String) -> Statement {
    let sql = "UPDATE inbox SET handled = 1, payload = ?4, bytes = 0, note = ?3
        WHERE id = ?2 AND npub = ?1 AND handled = 0 AND tick_id IS NULL";
    Statement::write(sql, params![npub, id, why, Vec::<u8>::new()])
}

/// Gives back what a tick claimed, unless that was done [`MAX_TRIES`] times before.
pub(crate) fn released_statement(npub: Npub, tick: TickId) -> Statement {
    let sql = "UPDATE inbox SET tick_id = NULL, tries = tries + 1
        WHERE npub = ?1 AND handled = 0 AND tick_id = ?2 AND tries < ?3";
    Statement::write(sql, params![npub, tick, MAX_TRIES])
}

/// Marks everything that a tick claimed as handled; what it said is forgotten, that it came is not.
pub(crate) fn handled_statement(npub: Npub, tick: TickId) -> Statement {
    let sql = "UPDATE inbox SET handled = 1, payload = ?3, bytes = 0
        WHERE npub = ?1 AND handled = 0 AND tick_id = ?2";
    Statement::write(sql, params![npub, tick, Vec::<u8>::new()])
}
