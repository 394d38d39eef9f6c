//! Signed events on their way to relays. Journaled before they leave; published until a relay takes them.

use nexus_core::{Hash32, Npub, TickId, UnixMs};

use crate::{Fence, Result, Store};

/// An event to publish. `json` is the signed event; a direct message in it is ciphertext.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPublication {
    pub event_id: Hash32,
    pub kind: u16,
    pub json: String,
    pub relays: Vec<String>,
    /// When to try first, or again if the first round fails silently.
    pub next_attempt_at: UnixMs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    pub npub: Npub,
    pub event_id: Hash32,
    pub kind: u16,
    pub json: String,
    pub relays: Vec<String>,
    pub tick: Option<TickId>,
    pub done: bool,
    /// JSON: each relay's last answer.
    pub results: String,
    pub attempts: u32,
    pub next_attempt_at: UnixMs,
    pub created_at: UnixMs,
}

/// Publications of this worker's agents that are due.
pub async fn due(store: &Store, fence: Fence, now: UnixMs, limit: u32) -> Result<Vec<Publication>> {
    todo!()
}

/// All publications of an agent that no relay has taken.
pub async fn pending(store: &Store, npub: Npub) -> Result<Vec<Publication>> {
    todo!()
}

pub async fn get(store: &Store, npub: Npub, event_id: Hash32) -> Result<Option<Publication>> {
    todo!()
}

/// Forgets finished ones from before `before`. Returns how many.
pub async fn purge(store: &Store, before: UnixMs, limit: u32) -> Result<u64> {
    todo!()
}
