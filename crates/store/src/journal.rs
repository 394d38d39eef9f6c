//! The durable list of a tick's effects and outcomes: written under the fence, before and after each effect.

use nexus_core::{Generation, Hash32, Npub, TickId, UnixMs};

use crate::batch::params;
use crate::draft::Draft;
use crate::{Fence, Result, Side, Statement, Store, Verdict};

/// One record. `seq` counts from 1 in each tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub seq: i64,
    pub kind: String,
    pub version: i32,
    /// `repeat`, `resolve` or `none`: how the effect that follows may be repeated.
    pub class: String,
    /// SHA-256 of the clear record.
    pub digest: Hash32,
    /// The record under the agent's data key.
    pub blob: Vec<u8>,
}

/// An append to an open tick.
#[derive(Debug, Clone)]
pub struct Append {
    pub fence: Fence,
    pub npub: Npub,
    pub generation: Generation,
    pub tick: TickId,
    pub at: UnixMs,
    pub records: Vec<Record>,
    pub side: Vec<Side>,
}

/// Appends, with its side effects, in one batch. Returns the numbers of appended events.
///
/// # Errors
/// `Stale` when the fence or the generation moved on; `Duplicate` when a record of this number is there already;
/// `Conflict` of a side effect. In each case nothing was changed.
pub async fn append(store: &Store, append: Append) -> Result<Vec<i64>> {
    let Append { fence, npub, generation, tick, at, records, side } = append;
    let mut draft = Draft::hosted("append to the journal", fence, npub, generation);
    draft.tick_open(npub, tick);
    draft.sides(&side, npub, generation, Some(tick), at)?;
    for record in records {
        draft.push(record.statement(tick, generation));
    }
    draft.write(store).await
}

/// The records of a tick, in order.
pub async fn load(store: &Store, tick: TickId) -> Result<Vec<Record>> {
    let sql = "SELECT seq, kind, version, idem_class, digest, blob FROM journal WHERE tick_id = ?1 ORDER BY seq";
    store
        .rows("read a journal", sql, params![tick], |row| {
            Ok(Record {
                seq: row.get()?,
                kind: row.get()?,
                version: row.get()?,
                class: row.get()?,
                digest: row.get()?,
                blob: row.get()?,
            })
        })
        .await
}

/// Side effects outside a tick: recovery resolves payments and publishes. Returns the numbers of appended events.
pub async fn apply(
    store: &Store,
    fence: Fence,
    npub: Npub,
    generation: Generation,
    at: UnixMs,
    side: Vec<Side>,
) -> Result<Vec<i64>> {
    let mut draft = Draft::hosted("record an outcome", fence, npub, generation);
    draft.sides(&side, npub, generation, None, at)?;
    draft.write(store).await
}

impl Record {
    /// `Duplicate` when the tick has a record of this number.
    pub(crate) fn statement(self, tick: TickId, generation: Generation) -> Statement {
        Statement::write(
            "INSERT INTO journal (tick_id, seq, generation, kind, version, idem_class, digest, blob)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
            params![tick, self.seq, generation, self.kind, self.version, self.class, self.digest, self.blob],
        )
        .one_or(Verdict::Duplicate)
    }
}
