//! `nexus migrate`: brings a database to this program's schema. Nothing else does, but for `nexus dev` with its own.

use anyhow::Context;
use serde_json::json;

use super::base;
use crate::config::{DatabaseKind, Loaded};
use crate::output::Output;

pub async fn run(loaded: Loaded, output: Output) -> anyhow::Result<()> {
    let kind = match loaded.config.database.kind {
        DatabaseKind::Sqlite => "SQLite",
        DatabaseKind::Postgres => "PostgreSQL",
    };
    base::migrate(&loaded.config).await.with_context(|| format!("migrating the {kind} database"))?;
    output.either(&json!({ "migrated": true, "database": loaded.config.database.kind }), || {
        format!("The {kind} database has this program's schema.")
    });
    Ok(())
}
