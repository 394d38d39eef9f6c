//! What drivers of wallets keep that control itself speaks to: the wallets of owners who have connected one. Ciphertext.
//!
//! No fence: whoever stores a request to pay inserts it, and of several one succeeds.

use nexus_core::{Hash32, UnixMs};

use crate::batch::params;
use crate::draft::Draft;
use crate::row::Columns;
use crate::wallet_record::{WalletRecord, Write};
use crate::{Conflict, Result, Statement, Store};

/// Records of one space that are listed at most.
pub const MAX_RECORDS: u32 = 20_000;

/// All of a space.
pub async fn list(store: &Store, scope: &str, space: &str) -> Result<Vec<WalletRecord>> {
    let sql = "SELECT space, name, blob FROM operator_record WHERE scope = ?1 AND space = ?2 ORDER BY name LIMIT ?3";
    let params = params![scope.to_owned(), space.to_owned(), MAX_RECORDS];
    store.rows("list a connected wallet's records", sql, params, record).await
}

pub async fn get(store: &Store, scope: &str, space: &str, name: Hash32) -> Result<Option<WalletRecord>> {
    let sql = "SELECT space, name, blob FROM operator_record WHERE scope = ?1 AND space = ?2 AND name = ?3";
    let params = params![scope.to_owned(), space.to_owned(), name];
    store.row("read a connected wallet's record", sql, params, record).await
}

/// All of it or nothing.
///
/// # Errors
/// [`Conflict::WalletRecord`] when something to be inserted is there already.
pub async fn write(store: &Store, scope: &str, at: UnixMs, writes: Vec<Write>) -> Result<()> {
    let mut draft = Draft::new("keep a connected wallet's records");
    for write in writes {
        draft.push(statement(scope.to_owned(), at, write));
    }
    draft.write(store).await.map(|_| ())
}

fn statement(scope: String, at: UnixMs, write: Write) -> Statement {
    match write {
        Write::Put(record) => Statement::write(
            "INSERT INTO operator_record (scope, space, name, blob, updated_at) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (scope, space, name) DO UPDATE SET blob = excluded.blob, updated_at = excluded.updated_at",
            params![scope, record.space, record.name, record.blob, at],
        ),
        Write::Insert(record) => Statement::write(
            "INSERT INTO operator_record (scope, space, name, blob, updated_at) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO NOTHING",
            params![scope, record.space, record.name, record.blob, at],
        )
        .one_or_conflict(Conflict::WalletRecord),
        Write::Delete { space, name } => Statement::write(
            "DELETE FROM operator_record WHERE scope = ?1 AND space = ?2 AND name = ?3",
            params![scope, space, name],
        ),
    }
}

fn record(row: &mut Columns) -> Result<WalletRecord> {
    Ok(WalletRecord { space: row.get()?, name: row.get()?, blob: row.get()? })
}
