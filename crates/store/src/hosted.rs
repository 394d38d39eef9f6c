//! Whom this installation serves: what the relay asks before it takes an event.

use nexus_core::{AgentConfig, Npub};

use crate::batch::Value;
use crate::{Result, Store};

/// Keys that one question names at most; more are not looked up.
pub const MAX_KEYS: usize = 128;

/// An agent that lives here, and what wakes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosted {
    pub npub: Npub,
    pub config: AgentConfig,
}

/// The agents among these keys, in the order of their keys: who then locks them does so in one order.
pub async fn agents_among(store: &Store, keys: &[Npub]) -> Result<Vec<Hosted>> {
    let Some((places, params)) = places(keys) else { return Ok(Vec::new()) };
    let sql = format!("SELECT npub, config FROM agent WHERE npub IN ({places}) AND moved_to IS NULL ORDER BY npub");
    store
        .rows("find hosted agents", sql, params, |row| {
            Ok(Hosted { npub: row.get()?, config: row.parse(|json| serde_json::from_str(json).ok())? })
        })
        .await
}

/// The members of accounts among these keys.
pub async fn members_among(store: &Store, keys: &[Npub]) -> Result<Vec<Npub>> {
    let Some((places, params)) = places(keys) else { return Ok(Vec::new()) };
    let sql = format!("SELECT DISTINCT npub FROM member WHERE npub IN ({places})");
    store.rows("find members of accounts", sql, params, |row| row.get()).await
}

fn places(keys: &[Npub]) -> Option<(String, Vec<Value>)> {
    let keys = &keys[..keys.len().min(MAX_KEYS)];
    if keys.is_empty() {
        return None;
    }
    let places: Vec<String> = (1..=keys.len()).map(|place| format!("?{place}")).collect();
    Some((places.join(", "), keys.iter().map(|key| Value::from(*key)).collect()))
}
