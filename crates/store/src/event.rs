//! Events of an agent: `seq` without gaps, a hash chain over all of them, and the outbox.
//!
//! Each append raises `event_seq` and folds the event's digest into `event_head` in the transaction of whatever the
//! event tells. The outbox is every event whose `relayed` flag is off: a flag, not a cursor, because transactions
//! may commit out of the order in which they took their numbers.

use nexus_core::event::{AgentEvent, EventBody};
use nexus_core::{Generation, Hash32, Npub, UnixMs};

use crate::{Result, Statement, Store};

/// Most events of one page.
pub const MAX_PAGE: u32 = 1_000;

/// An event to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub at: UnixMs,
    pub body: EventBody,
    /// What only a reader may see, under the view key.
    pub sealed: Option<Vec<u8>>,
}

impl NewEvent {
    pub fn new(at: UnixMs, body: EventBody) -> Self {
        Self { at, body, sealed: None }
    }
}

/// A stored event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    pub event: AgentEvent,
    pub sealed: Option<Vec<u8>>,
    /// The chain's head after this event.
    pub hash: Hash32,
}

/// What [`verify_chain`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chain {
    /// `events` of them follow from the pruned head to the head.
    Intact { events: u64, first_seq: i64, head: Hash32 },
    /// The first event that does not follow, or the head that is not reached.
    Broken { seq: i64, why: &'static str },
}

/// Appends outside a tick, by the control plane; returns their numbers.
pub async fn append(store: &Store, npub: Npub, events: Vec<NewEvent>) -> Result<Vec<i64>> {
    todo!()
}

/// Events with `seq` above `after`, in order.
pub async fn after(store: &Store, npub: Npub, after: i64, limit: u32) -> Result<Vec<StoredEvent>> {
    todo!()
}

/// The outbox: events not yet announced on the bus, at most `limit`.
pub async fn unrelayed(store: &Store, limit: u32) -> Result<Vec<(Npub, i64)>> {
    todo!()
}

/// Takes announced events out of the outbox. Announcing twice is harmless, so this comes after the announcement.
pub async fn mark_relayed(store: &Store, events: &[(Npub, i64)]) -> Result<()> {
    todo!()
}

/// Deletes the relayed events before `before`, oldest first without leaving a gap, at most `limit`; the hash of the
/// last one deleted is kept, so that the chain still verifies. Returns how many.
pub async fn prune(store: &Store, npub: Npub, before: UnixMs, limit: u32) -> Result<u64> {
    todo!()
}

/// Walks the whole chain of one agent, page by page.
pub async fn verify_chain(store: &Store, npub: Npub) -> Result<Chain> {
    todo!()
}

/// The two statements of one append. With `generation`, stale unless the agent stands at it.
pub(crate) fn append_statements(npub: Npub, generation: Option<Generation>, event: &NewEvent) -> [Statement; 2] {
    todo!()
}
