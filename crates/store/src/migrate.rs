//! Forward-only migrations, embedded. A schema from the future is refused untouched.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use crate::dialect;
use crate::error::StoreError;

/// Every migration in order; its number is its place, counted from 1. Never edit one that was released.
pub(crate) const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/0001_start.sql"),
    include_str!("../migrations/0002_rest.sql"),
    include_str!("../migrations/0003_fleet.sql"),
    include_str!("../migrations/0004_blobs.sql"),
    include_str!("../migrations/0005_moving.sql"),
    include_str!("../migrations/0006_approvals.sql"),
    include_str!("../migrations/0007_placing.sql"),
    include_str!("../migrations/0008_invoices.sql"),
    include_str!("../migrations/0009_restore.sql"),
    include_str!("../migrations/0010_hooks.sql"),
    include_str!("../migrations/0011_notices.sql"),
    include_str!("../migrations/0012_schedules.sql"),
    include_str!("../migrations/0013_hosting.sql"),
    include_str!("../migrations/0014_webhooks.sql"),
    include_str!("../migrations/0015_addresses.sql"),
    include_str!("../migrations/0016_wallets.sql"),
    include_str!("../migrations/0017_disputes.sql"),
    include_str!("../migrations/0018_subaccounts.sql"),
    include_str!("../migrations/0019_hosting_limits.sql"),
    include_str!("../migrations/0020_renewal.sql"),
];

/// The newest schema this program knows.
pub(crate) fn known() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Brings the schema to [`known`], one transaction for each step.
pub(crate) fn run(connection: &mut Connection) -> Result<(), StoreError> {
    run_to(connection, known())
}

/// The same, as far as `last`.
pub(crate) fn run_to(connection: &mut Connection, last: i64) -> Result<(), StoreError> {
    let found = version(connection).map_err(|error| failed(0, &error))?;
    if found > known() {
        return Err(StoreError::NewerSchema { found, known: known() });
    }
    for (version, migration) in (1_i64..).zip(MIGRATIONS) {
        if version > found && version <= last {
            step(connection, version, migration).map_err(|error| failed(version, &error))?;
            tracing::info!(version, "schema migrated");
        }
    }
    Ok(())
}

fn failed(version: i64, error: &rusqlite::Error) -> StoreError {
    StoreError::Migration { version, message: error.to_string() }
}

/// 0 for an empty database.
fn version(connection: &Connection) -> rusqlite::Result<i64> {
    let there: Option<i64> = connection
        .query_row("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema_version'", [], |row| row.get(0))
        .optional()?;
    match there {
        None => Ok(0),
        Some(_) => connection.query_row("SELECT version FROM schema_version", [], |row| row.get(0)),
    }
}

fn step(connection: &mut Connection, version: i64, migration: &str) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)")?;
    transaction.execute_batch(&dialect::sqlite_ddl(migration))?;
    transaction.execute("DELETE FROM schema_version", [])?;
    transaction.execute("INSERT INTO schema_version (version) VALUES (?1)", [version])?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrates_once_and_refuses_the_future() {
        let mut connection = Connection::open_in_memory().unwrap();
        run(&mut connection).unwrap();
        run(&mut connection).unwrap();
        assert_eq!(version(&connection).unwrap(), known());
        connection.execute("UPDATE schema_version SET version = 99", []).unwrap();
        let error = run(&mut connection).unwrap_err();
        assert_eq!(error, StoreError::NewerSchema { found: 99, known: known() });
        assert!(error.to_string().contains("schema 99"), "{error}");
    }

    #[test]
    fn a_failed_step_leaves_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        assert!(step(&mut connection, 1, "CREATE TABLE one (id BIGINT); CREATE TABLE one (id BIGINT);").is_err());
        assert_eq!(version(&connection).unwrap(), 0);
    }
}
