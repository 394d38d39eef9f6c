//! What a database server is like: asked by whoever checks an installation, before anything is opened.

use super::config::PostgresConfig;
use super::session::OLDEST;
use super::tls;
use super::wire::{Failure, Wire};
use crate::error::StoreError;
use crate::migrate::known;

/// What was found, fit or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Host or socket, port and database.
    pub place: String,
    /// As PostgreSQL counts, such as 150004.
    pub version: i64,
    /// What `fsync`, `full_page_writes` and `synchronous_commit` are set to.
    pub fsync: bool,
    pub full_page_writes: bool,
    pub synchronous_commit: String,
    /// A standby takes no writes.
    pub standby: bool,
    /// Its clock, in milliseconds since 1970.
    pub clock_ms: i64,
    /// The schema in the database (0 for none), and the one that this program knows.
    pub schema: i64,
    pub known_schema: i64,
    /// Connections that it takes, and those in use.
    pub max_connections: i64,
    pub connections: i64,
}

impl Server {
    pub const fn is_old(&self) -> bool {
        self.version < OLDEST
    }

    /// Whether a commit that was answered survives a power cut. Connections of ours turn `synchronous_commit` on where it
    /// is `off` or `local`.
    pub const fn is_durable(&self) -> bool {
        self.fsync && self.full_page_writes
    }
}

/// Asks over a connection of its own, which is closed again. Changes nothing.
pub(crate) async fn look(config: PostgresConfig) -> Result<Server, StoreError> {
    config.check()?;
    let tls = tls::prepare(&config).map_err(|message| StoreError::Settings { message })?;
    let unreachable =
        |failure: Failure| StoreError::Unreachable { place: config.place(), message: failure.to_string() };
    let timeout = config.statement_timeout_ms;
    let settings = format!("SET statement_timeout = {timeout}");
    let mut wire = Wire::connect(&config, tls.as_ref(), timeout, &settings).await.map_err(unreachable)?;
    let found = ask(&mut wire, config.place()).await.map_err(unreachable)?;
    wire.close().await;
    Ok(found)
}

async fn ask(wire: &mut Wire, place: String) -> Result<Server, Failure> {
    let there = text(wire, "SELECT to_regclass('schema_version') IS NOT NULL").await? == "t";
    let schema = if there { number(wire, "SELECT version FROM schema_version").await? } else { 0 };
    let setting = |name: &str| format!("SELECT current_setting('{name}')");
    Ok(Server {
        place,
        version: number(wire, &setting("server_version_num")).await?,
        fsync: text(wire, &setting("fsync")).await? == "on",
        full_page_writes: text(wire, &setting("full_page_writes")).await? == "on",
        synchronous_commit: text(wire, &setting("synchronous_commit")).await?,
        standby: text(wire, "SELECT pg_is_in_recovery()").await? == "t",
        clock_ms: number(wire, "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)").await?,
        schema,
        known_schema: known(),
        max_connections: number(wire, &setting("max_connections")).await?,
        connections: number(wire, "SELECT COUNT(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
            .await?,
    })
}

async fn text(wire: &mut Wire, sql: &str) -> Result<String, Failure> {
    let found = wire.simple(sql).await?;
    found.into_iter().last().ok_or_else(|| Failure::Lost("an answer without a row".into()))
}

async fn number(wire: &mut Wire, sql: &str) -> Result<i64, Failure> {
    text(wire, sql).await?.parse().map_err(|_| Failure::Lost("a number was expected".into()))
}
