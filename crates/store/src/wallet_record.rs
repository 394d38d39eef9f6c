//! What wallet drivers keep: quotes, proofs, signed requests, a connection. Ciphertext, written by whoever holds the agent.

use nexus_core::{Generation, Hash32, Npub, UnixMs};

use crate::batch::params;
use crate::draft::Draft;
use crate::row::Columns;
use crate::{Conflict, Fence, Result, Statement, Store};

/// Records of one agent that are listed at most.
pub const MAX_RECORDS: u32 = 20_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalletRecord {
    pub space: String,
    pub name: Hash32,
    pub blob: Vec<u8>,
}

/// Part of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Stores, whether or not there was something.
    Put(WalletRecord),
    /// Stores what is new.
    Insert(WalletRecord),
    /// Forgets; what is not there stays so.
    Delete { space: String, name: Hash32 },
}

impl WalletRecord {
    pub(crate) fn insert_statement(self, npub: Npub, at: UnixMs) -> Statement {
        Statement::write(
            "INSERT INTO wallet_record (npub, space, name, blob, updated_at) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO NOTHING",
            params![npub, self.space, self.name, self.blob, at],
        )
    }
}

impl Write {
    fn statement(self, npub: Npub, at: UnixMs) -> Statement {
        match self {
            Self::Put(record) => Statement::write(
                "INSERT INTO wallet_record (npub, space, name, blob, updated_at) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT (npub, space, name) DO UPDATE SET blob = excluded.blob, updated_at = excluded.updated_at",
                params![npub, record.space, record.name, record.blob, at],
            ),
            Self::Insert(record) => record.insert_statement(npub, at).one_or_conflict(Conflict::WalletRecord),
            Self::Delete { space, name } => Statement::write(
                "DELETE FROM wallet_record WHERE npub = ?1 AND space = ?2 AND name = ?3",
                params![npub, space, name],
            ),
        }
    }
}

/// All of a space.
pub async fn list(store: &Store, npub: Npub, space: &str) -> Result<Vec<WalletRecord>> {
    let sql = "SELECT space, name, blob FROM wallet_record WHERE npub = ?1 AND space = ?2 ORDER BY name LIMIT ?3";
    store.rows("list a wallet's records", sql, params![npub, space.to_owned(), MAX_RECORDS], record).await
}

/// Whatever is kept of an agent's wallet.
pub async fn all(store: &Store, npub: Npub) -> Result<Vec<WalletRecord>> {
    let sql = "SELECT space, name, blob FROM wallet_record WHERE npub = ?1 ORDER BY space, name LIMIT ?2";
    store.rows("list all of a wallet's records", sql, params![npub, MAX_RECORDS], record).await
}

pub async fn get(store: &Store, npub: Npub, space: &str, name: Hash32) -> Result<Option<WalletRecord>> {
    let sql = "SELECT space, name, blob FROM wallet_record WHERE npub = ?1 AND space = ?2 AND name = ?3";
    store.row("read a wallet's record", sql, params![npub, space.to_owned(), name], record).await
}

fn record(row: &mut Columns) -> Result<WalletRecord> {
    Ok(WalletRecord { space: row.get()?, name: row.get()?, blob: row.get()? })
}

/// All of it or nothing, under the fence.
///
/// # Errors
/// [`Conflict::WalletRecord`] when something to be inserted is there already.
pub async fn write(
    store: &Store,
    fence: Fence,
    npub: Npub,
    generation: Generation,
    at: UnixMs,
    writes: Vec<Write>,
) -> Result<()> {
    let mut draft = Draft::hosted("keep a wallet's records", fence, npub, generation);
    for write in writes {
        draft.push(write.statement(npub, at));
    }
    draft.write(store).await.map(|_| ())
}

pub(crate) fn forget_statement(npub: Npub) -> Statement {
    Statement::write("DELETE FROM wallet_record WHERE npub = ?1", params![npub])
}
