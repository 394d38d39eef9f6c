//! This installation: made once, at the first start.

use nexus_core::UnixMs;

use crate::{Result, Store};

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
    todo!()
}

/// A public value of the installation (the pool document, the runner's sealed key), by name.
pub async fn get(store: &Store, name: &str) -> Result<Option<String>> {
    todo!()
}

/// Stores a value, replacing an older one.
pub async fn put(store: &Store, name: &str, value: String) -> Result<()> {
    todo!()
}

/// Stores a value unless there is one; returns the one that stands. For keys that the first worker makes.
pub async fn put_first(store: &Store, name: &str, value: String) -> Result<String> {
    todo!()
}
