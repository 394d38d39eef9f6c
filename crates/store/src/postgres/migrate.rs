//! The same migrations in PostgreSQL's words. Two processes that migrate at once take turns.

use std::time::Duration;

use super::session::Dialer;
use super::wire::{Failure, Wire};
use crate::dialect;
use crate::error::StoreError;
use crate::migrate::{MIGRATIONS, known};

/// What each migration needs here beside the common text, by its place.
const OWN: &[&str] = &[include_str!("../../migrations/0001_start.postgres.sql")];
/// "nexus" on a telephone: the advisory lock of whoever migrates.
const LOCK: i64 = 63_987;
/// A migration may rewrite a table, and a twin waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// Brings the schema to what this program knows, one transaction for each step; or, without `migrate`, looks whether it
/// is there.
pub(crate) async fn run(dialer: &Dialer, migrate: bool) -> Result<(), StoreError> {
    go(dialer, migrate, known()).await
}

/// The same, as far as `last`.
pub(crate) async fn run_to(dialer: &Dialer, last: i64) -> Result<(), StoreError> {
    go(dialer, true, last).await
}

async fn go(dialer: &Dialer, migrate: bool, last: i64) -> Result<(), StoreError> {
    let mut wire = dialer.owner().await.map_err(|failure| dialer.unreachable(&failure))?;
    wire.be_patient(PATIENCE);
    loop {
        let found = version(&mut wire).await.map_err(|failure| failed(0, &failure))?;
        if found > known() {
            return Err(StoreError::NewerSchema { found, known: known() });
        }
        if found >= last {
            wire.close().await;
            return Ok(());
        }
        if !migrate {
            return Err(StoreError::OlderSchema { found, known: known() });
        }
        step(&mut wire).await?;
    }
}

/// One step, whichever is next once it is our turn.
async fn step(wire: &mut Wire) -> Result<(), StoreError> {
    let begun = wire.simple(&format!("BEGIN; SELECT pg_advisory_xact_lock({LOCK})")).await;
    begun.map_err(|failure| failed(0, &failure))?;
    let found = version(wire).await.map_err(|failure| failed(0, &failure))?;
    let next = usize::try_from(found).unwrap_or(usize::MAX);
    let migration = MIGRATIONS.get(next).map(|migration| {
        let own = OWN.get(next).copied().unwrap_or_default();
        format!("{}{own}", dialect::postgres_ddl(migration))
    });
    let Some(migration) = migration else {
        // A twin was faster; if it knew more than we do, the caller's next look says so.
        return wire.simple("ROLLBACK").await.map(drop).map_err(|failure| failed(found, &failure));
    };
    let version = found + 1;
    let sql = format!(
        "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL); {migration} DELETE FROM schema_version; \
         INSERT INTO schema_version (version) VALUES ({version}); COMMIT"
    );
    wire.simple(&sql).await.map_err(|failure| failed(version, &failure))?;
    tracing::info!(version, "schema migrated");
    Ok(())
}

/// 0 for an empty database.
pub(crate) async fn version(wire: &mut Wire) -> Result<i64, Failure> {
    let there = wire.simple("SELECT to_regclass('schema_version') IS NOT NULL").await?;
    if there != ["t"] {
        return Ok(0);
    }
    let found = wire.simple("SELECT version FROM schema_version").await?;
    let unreadable = || Failure::Lost("schema_version holds no number".into());
    found.first().and_then(|text| text.parse().ok()).ok_or_else(unreadable)
}

fn failed(version: i64, failure: &Failure) -> StoreError {
    StoreError::Migration { version, message: failure.to_string() }
}
