//! This installation: made once, at the first start.

use nexus_core::UnixMs;

use crate::batch::params;
use crate::{Batch, Result, Statement, Store};

/// What one database belongs to. `epoch` is raised by a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// 16 random bytes as hex.
    pub id: String,
    pub epoch: i64,
    pub created_at: UnixMs,
}

/// The installation; made from `random` when there is none yet.
pub async fn ensure(store: &Store, random: [u8; 16], now: UnixMs) -> Result<Installation> {
    let attempted = "read the installation";
    let mut batch = Batch::new(attempted);
    batch.push(Statement::write(
        "INSERT INTO installation (id, installation, epoch, created_at) VALUES (1, ?1, 1, ?2) ON CONFLICT DO NOTHING",
        params![hex::encode(random), now],
    ));
    batch.push(Statement::read("SELECT installation, epoch, created_at FROM installation WHERE id = 1", params![]));
    let outputs = store.write(batch).await?;
    let row = outputs.into_iter().nth(1).and_then(|output| output.rows.into_iter().next()).unwrap_or_default();
    let mut row = row.columns(attempted);
    Ok(Installation { id: row.get()?, epoch: row.get()?, created_at: row.get()? })
}

/// The installation, if it was made.
pub async fn this(store: &Store) -> Result<Option<Installation>> {
    let sql = "SELECT installation, epoch, created_at FROM installation WHERE id = 1";
    let read =
        |row: &mut crate::row::Columns| Ok(Installation { id: row.get()?, epoch: row.get()?, created_at: row.get()? });
    store.row("read the installation", sql, params![], read).await
}

/// A public value of the installation (the pool document, the runner's sealed key), by name.
pub async fn get(store: &Store, name: &str) -> Result<Option<String>> {
    let sql = "SELECT value FROM installation_value WHERE name = ?1";
    store.row("read an installation value", sql, params![name.to_owned()], |row| row.get()).await
}

/// Stores a value, replacing an older one.
pub async fn put(store: &Store, name: &str, value: String) -> Result<()> {
    let sql = "INSERT INTO installation_value (name, value) VALUES (?1, ?2)
        ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    let statement = Statement::write(sql, params![name.to_owned(), value]);
    store.change("store an installation value", statement).await.map(|_| ())
}

/// Stores a value unless there is one; returns the one that stands. For keys that the first worker makes.
pub async fn put_first(store: &Store, name: &str, value: String) -> Result<String> {
    let attempted = "store an installation value once";
    let mut batch = Batch::new(attempted);
    batch.push(Statement::write(
        "INSERT INTO installation_value (name, value) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
        params![name.to_owned(), value],
    ));
    let sql = "SELECT value FROM installation_value WHERE name = ?1";
    batch.push(Statement::read(sql, params![name.to_owned()]));
    let outputs = store.write(batch).await?;
    let row = outputs.into_iter().nth(1).and_then(|output| output.rows.into_iter().next()).unwrap_or_default();
    row.columns(attempted).get()
}
