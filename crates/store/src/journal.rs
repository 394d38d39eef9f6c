//! The durable list of a tick's effects and outcomes: written under the fence, before and after each effect.

use nexus_core::{Generation, Hash32, Npub, TickId, UnixMs};

use crate::{Fence, Result, Side, Store};

/// One record. `seq` counts from 1 in each tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub seq: i64,
    pub kind: String,
    pub version: i32,
    /// `repeat`, `resolve` or `none`: how the effect that follows may be repeated.
    pub class: String,
    /// SHA-256 of the clear record.
    pub digest: Hash32,
    /// The record under the agent's data key.
    pub blob: Vec<u8>,
}

/// An append to an open tick.
#[derive(Debug, Clone)]
pub struct Append {
    pub fence: Fence,
    pub npub: Npub,
    pub generation: Generation,
    pub tick: TickId,
    pub at: UnixMs,
    pub records: Vec<Record>,
    pub side: Vec<Side>,
}

/// Appends, with its side effects, in one batch. Returns the numbers of appended events.
///
/// # Errors
/// `Stale` when the fence or the generation moved on; `Duplicate` when a record of this number is there already;
/// `Conflict` of a side effect. In each case nothing was changed.
pub async fn append(store: &Store, append: Append) -> Result<Vec<i64>> {
    todo!()
}

/// The records of a tick, in order.
pub async fn load(store: &Store, tick: TickId) -> Result<Vec<Record>> {
    todo!()
}

/// Side effects outside a tick: recovery resolves payments and publishes. Returns the numbers of appended events.
pub async fn apply(
    store: &Store,
    fence: Fence,
    npub: Npub,
    generation: Generation,
    at: UnixMs,
    side: Vec<Side>,
) -> Result<Vec<i64>> {
    todo!()
}
