//! Relays of others that agents listen to: who listens where, and how far each relay was heard.

use nexus_core::{Npub, UnixMs};

use crate::batch::params;
use crate::hosted::Hosted;
use crate::{Result, Statement, Store};

/// Most agents of one page.
pub const MAX_PAGE: u32 = 500;
/// Relays that are remembered.
pub const MAX_RELAYS: u32 = 4_096;

/// A relay, as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    pub url: String,
    /// When it last said that it had sent all that it has: what is older was received.
    pub heard_at: Option<UnixMs>,
    /// Why nothing is heard from it now.
    pub problem: Option<String>,
    pub changed_at: UnixMs,
}

/// A page of the agents that live here and name relays, after this one.
pub async fn listening(store: &Store, after: Option<Npub>, limit: u32) -> Result<Vec<Hosted>> {
    // The very condition of the index.
    let sql = r#"SELECT npub, config FROM agent WHERE config LIKE '%"relays":["%' AND moved_to IS NULL AND npub > ?1
        ORDER BY npub LIMIT ?2"#;
    let after = after.map_or_else(Vec::new, |npub| npub.as_bytes().to_vec());
    store
        .rows("find agents that listen elsewhere", sql, params![after, limit.min(MAX_PAGE)], |row| {
            Ok(Hosted { npub: row.get()?, config: row.parse(|json| serde_json::from_str(json).ok())? })
        })
        .await
}

pub async fn all(store: &Store) -> Result<Vec<Outside>> {
    let sql = "SELECT url, heard_at, problem, changed_at FROM outside_relay ORDER BY url LIMIT ?1";
    store
        .rows("read relays of others", sql, params![MAX_RELAYS], |row| {
            Ok(Outside { url: row.get()?, heard_at: row.get()?, problem: row.get()?, changed_at: row.get()? })
        })
        .await
}

pub async fn get(store: &Store, url: &str) -> Result<Option<Outside>> {
    let sql = "SELECT url, heard_at, problem, changed_at FROM outside_relay WHERE url = ?1";
    store
        .row("read a relay of others", sql, params![url.to_owned()], |row| {
            Ok(Outside { url: row.get()?, heard_at: row.get()?, problem: row.get()?, changed_at: row.get()? })
        })
        .await
}

/// Notes how a relay is. What was heard is never taken back.
pub async fn note(store: &Store, outside: Outside) -> Result<()> {
    let sql = "INSERT INTO outside_relay (url, heard_at, problem, changed_at) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (url) DO UPDATE SET heard_at = COALESCE(excluded.heard_at, outside_relay.heard_at),
            problem = excluded.problem, changed_at = excluded.changed_at";
    let params = params![outside.url, outside.heard_at, outside.problem, outside.changed_at];
    store.change("note a relay of others", Statement::write(sql, params)).await.map(drop)
}

/// Forgets relays that nobody noted since.
pub async fn purge(store: &Store, before: UnixMs) -> Result<u64> {
    let sql = "DELETE FROM outside_relay WHERE changed_at < ?1";
    store.change("forget relays of others", Statement::write(sql, params![before])).await
}
