//! Sealed blobs that may be too large for a row. Such a one is an object, and the row keeps its hash and length.
//!
//! An object is *promised* by a row of `blob` before it is put, by whoever holds the agent; the batch that names it *keeps*
//! it, by compare-and-set, and *drops* the one that it replaces. What was promised or dropped and not kept for a while is
//! *claimed*, then deleted, then forgotten. So whatever crashes in between, every object that ever was has its row, and no
//! object that is named is ever deleted: a claim and a keep are changes of one row, and only one of them finds it.

use futures_util::{StreamExt, TryStreamExt};
use nexus_core::{Generation, Hash32, Npub, UnixMs};

use crate::batch::params;
use crate::draft::Draft;
use crate::object::ObjectProblem;
use crate::row::Columns;
use crate::{Batch, Conflict, Fence, Result, Statement, Store, StoreError};

/// Most blobs of one collection.
pub const MAX_COLLECTED: u32 = 1_000;
/// Objects deleted side by side.
const WIDTH: usize = 8;

/// Sealed bytes on their way to a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blob {
    /// In the row itself.
    Row(Vec<u8>),
    /// An object that was put by [`stage`]; the row names it.
    Object { hash: Hash32, size: u64 },
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Row(bytes)
    }
}

impl Blob {
    /// SHA-256 of the sealed bytes.
    pub fn digest(&self) -> Hash32 {
        match self {
            Self::Row(bytes) => Hash32::sha256(bytes),
            Self::Object { hash, .. } => *hash,
        }
    }

    /// What stands in the row: bytes, hash and length.
    pub(crate) fn columns(&self) -> (Vec<u8>, Option<Hash32>, Option<i64>) {
        match self {
            Self::Row(bytes) => (bytes.clone(), None, None),
            Self::Object { hash, size } => (Vec::new(), Some(*hash), i64::try_from(*size).ok()),
        }
    }

    /// For the batch that names it: an object is kept from now on.
    pub(crate) fn keep_statement(&self, npub: Npub) -> Option<Statement> {
        let Self::Object { hash, .. } = self else { return None };
        let sql = "UPDATE blob SET dropped_at = NULL WHERE npub = ?1 AND hash = ?2 AND claimed = 0";
        Some(Statement::write(sql, params![npub, *hash]).one_or_conflict(Conflict::BlobGone))
    }
}

/// Puts a blob where it belongs: one that is large goes to the object store, under the promise that a batch will name it.
/// After a crash in between it is deleted, some time later.
///
/// # Errors
/// `Stale`; [`StoreError::Object`] when the object store fails; `Conflict::BlobGone` when putting took longer than what is
/// not named is kept. Then nothing may name it.
pub async fn stage(
    store: &Store,
    fence: Fence,
    npub: Npub,
    generation: Generation,
    at: UnixMs,
    bytes: Vec<u8>,
) -> Result<Blob> {
    let Some(objects) = store.objects().filter(|objects| objects.takes(bytes.len())) else {
        return Ok(Blob::Row(bytes));
    };
    let (hash, size) = (Hash32::sha256(&bytes), bytes.len() as u64);
    let mut draft = Draft::hosted("promise a blob", fence, npub, generation);
    draft.push(
        Statement::write(
            "INSERT INTO blob (npub, hash, size, dropped_at, claimed) VALUES (?1, ?2, ?3, ?4, 0)
             ON CONFLICT (npub, hash) DO UPDATE SET dropped_at =
                CASE WHEN blob.dropped_at IS NULL THEN NULL ELSE excluded.dropped_at END WHERE blob.claimed = 0",
            params![npub, hash, i64::try_from(size).unwrap_or(i64::MAX), at],
        )
        .one_or_conflict(Conflict::BlobGone),
    );
    draft.write(store).await?;
    let failed = |problem| StoreError::Object { attempted: "put a blob", problem };
    objects.put(npub, hash, bytes).await.map_err(failed)?;
    // Put so slowly that its promise was collected meanwhile: nobody would delete it.
    let sql = "SELECT 1 FROM blob WHERE npub = ?1 AND hash = ?2 AND claimed = 0";
    let promised = store.row("look at a promise", sql, params![npub, hash], |row| row.get::<i64>()).await?;
    if promised.is_none() {
        objects.delete(npub, hash).await.map_err(failed)?;
        return Err(StoreError::Conflict { attempted: "put a blob", conflict: Conflict::BlobGone });
    }
    Ok(Blob::Object { hash, size })
}

/// The bytes that a row holds or names.
pub(crate) async fn fetch(store: &Store, npub: Npub, row: Named) -> Result<Vec<u8>> {
    let Named { bytes, hash, size } = row;
    let Some(hash) = hash else { return Ok(bytes) };
    let failed = |problem| StoreError::Object { attempted: "read a blob", problem };
    let objects = store.objects().ok_or(failed(ObjectProblem::NotConfigured))?;
    let size = size.and_then(|size| u64::try_from(size).ok()).unwrap_or(u64::MAX);
    objects.get(npub, hash, size).await.map_err(failed)
}

/// What a row holds of a blob.
pub(crate) struct Named {
    pub bytes: Vec<u8>,
    pub hash: Option<Hash32>,
    pub size: Option<i64>,
}

impl Named {
    pub(crate) fn read(row: &mut Columns) -> Result<Self> {
        Ok(Self { bytes: row.get()?, hash: row.get()?, size: row.get()? })
    }
}

/// Deletes objects that were dropped, or promised and not kept, before `before`; at most `limit`. Returns how many. Any
/// number of processes may do so at once.
///
/// # Errors
/// [`StoreError::Object`] when the object store fails: what was not deleted stays claimed, and the next one goes on.
pub async fn collect(store: &Store, before: UnixMs, limit: u32) -> Result<u64> {
    let Some(objects) = store.objects() else { return Ok(0) };
    let limit = limit.min(MAX_COLLECTED);
    store.change("claim dropped blobs", Statement::write(CLAIM, params![before, limit])).await?;
    let sql = "SELECT npub, hash FROM blob WHERE claimed = 1 ORDER BY npub, hash LIMIT ?1";
    let claimed: Vec<(Npub, Hash32)> =
        store.rows("find claimed blobs", sql, params![limit], |row| Ok((row.get()?, row.get()?))).await?;
    if claimed.is_empty() {
        return Ok(0);
    }
    let failed = |problem| StoreError::Object { attempted: "delete a blob", problem };
    objects.ready().await.map_err(failed)?;
    let delete = |(npub, hash): &(Npub, Hash32)| objects.delete(*npub, *hash);
    let deleted = futures_util::stream::iter(claimed.iter().map(delete)).buffer_unordered(WIDTH);
    let deleted = deleted.try_collect::<Vec<()>>().await;
    deleted.map_err(failed)?;
    let mut batch = Batch::new("forget deleted blobs");
    for (npub, hash) in &claimed {
        let sql = "DELETE FROM blob WHERE npub = ?1 AND hash = ?2 AND claimed = 1";
        batch.push(Statement::write(sql, params![*npub, *hash]));
    }
    let outputs = store.write(batch).await?;
    Ok(outputs.iter().map(|output| output.affected).sum())
}

/// The last question is asked again of the row as it is when it is changed. None that is named should have been dropped;
/// if one is, it stays.
const CLAIM: &str = "UPDATE blob SET claimed = 1
    WHERE claimed = 0 AND dropped_at < ?1
        AND (npub, hash) IN (SELECT b.npub, b.hash FROM blob b WHERE b.claimed = 0 AND b.dropped_at < ?1
            AND NOT EXISTS (SELECT 1 FROM agent_state s WHERE s.npub = b.npub AND s.object = b.hash)
            AND NOT EXISTS (SELECT 1 FROM tick t WHERE t.npub = b.npub AND t.object = b.hash)
            ORDER BY b.dropped_at LIMIT ?2)";

/// The object that an agent's state is, if it is one, is not needed any more.
pub(crate) fn drop_state_statement(npub: Npub, at: UnixMs) -> Statement {
    Statement::write(
        "UPDATE blob SET dropped_at = ?2
         WHERE npub = ?1 AND hash = (SELECT object FROM agent_state WHERE npub = ?1) AND dropped_at IS NULL",
        params![npub, at],
    )
}

/// An object is not needed any more.
pub(crate) fn drop_statement(npub: Npub, hash: Hash32, at: UnixMs) -> Statement {
    let sql = "UPDATE blob SET dropped_at = ?3 WHERE npub = ?1 AND hash = ?2 AND dropped_at IS NULL";
    Statement::write(sql, params![npub, hash, at])
}

/// Nothing of a deleted agent is needed.
pub(crate) fn drop_all_statement(npub: Npub, at: UnixMs) -> Statement {
    Statement::write("UPDATE blob SET dropped_at = ?2 WHERE npub = ?1 AND dropped_at IS NULL", params![npub, at])
}
