//! Things that may be used once: NIP-98 events, proofs, WebSocket tickets.

use nexus_core::{Hash32, UnixMs};

use crate::{Result, Statement, Store};

/// Marks `id` as used until `expires_at`; `false` when it was used before. Durable before it answers.
pub async fn use_once(store: &Store, kind: &'static str, id: Hash32, expires_at: UnixMs) -> Result<bool> {
    todo!()
}

/// The same as a statement for another batch: `Duplicate` when it was used before.
pub fn use_once_statement(kind: &'static str, id: Hash32, expires_at: UnixMs) -> Statement {
    todo!()
}

/// Forgets what expired before `now`. Returns how many.
pub async fn purge(store: &Store, now: UnixMs) -> Result<u64> {
    todo!()
}

/// Something handed out, to be taken back once: a WebSocket ticket (stored by its hash).
pub async fn put_ticket(store: &Store, hash: Hash32, body: String, expires_at: UnixMs) -> Result<()> {
    todo!()
}

/// Takes the ticket's body; none if unknown, expired or taken.
pub async fn take_ticket(store: &Store, hash: Hash32, now: UnixMs) -> Result<Option<String>> {
    todo!()
}
