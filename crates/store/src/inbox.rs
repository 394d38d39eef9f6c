//! The durable inbox: acknowledged means stored here.
//!
//! One row for each (npub, class, external id). Bounded: [`MAX_ROWS`] rows or [`MAX_BYTES`] that no tick has handled,
//! enforced by the insert itself. Handled rows stay, emptied, as the memory of what was seen.

use nexus_core::trigger::{Class, Trigger};
use nexus_core::{Npub, TickId, UnixMs};

use crate::{Fence, Output, Result, Statement, Store};

/// Unhandled rows of one agent at most.
pub const MAX_ROWS: i64 = 1_000;
/// Unhandled payload bytes of one agent at most.
pub const MAX_BYTES: i64 = 1_048_576;

/// A wake-up to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewItem {
    pub npub: Npub,
    pub external_id: String,
    /// What it seems to be from outside (a gift wrap says `dm`). Its class is part of the key.
    pub trigger: Trigger,
    pub sender: Option<Npub>,
    pub received_at: UnixMs,
    /// A Nostr event as it came, or bytes sealed to the agent. Never private text in clear.
    pub payload: Vec<u8>,
}

/// A stored row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub id: i64,
    pub npub: Npub,
    pub class: Class,
    pub external_id: String,
    pub trigger: Trigger,
    pub sender: Option<Npub>,
    pub received_at: UnixMs,
    pub payload: Vec<u8>,
    /// The open tick that has it.
    pub tick: Option<TickId>,
}

/// What became of a wake-up. All but `Full` and `NoAgent` may be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Stored,
    Duplicate,
    Full,
    /// Nobody of this npub lives here.
    NoAgent,
}

pub async fn put(store: &Store, item: NewItem) -> Result<Put> {
    todo!()
}

/// Statements that store an item in someone else's batch, [`PUT_STATEMENTS`] of them. The batch is refused with
/// `Conflict::NoAgent` or `Conflict::InboxFull`; a duplicate changes nothing and refuses nothing: see [`put_outcome`].
pub fn put_statements(item: &NewItem) -> [Statement; PUT_STATEMENTS] {
    todo!()
}

pub const PUT_STATEMENTS: usize = 3;

/// Reads `Stored` or `Duplicate` off the outputs of [`put_statements`].
pub fn put_outcome(outputs: &[Output]) -> Put {
    todo!()
}

/// Rows that no tick has claimed, oldest first. `None` for the clock of nobody: no lock is taken.
pub async fn pending(store: &Store, npub: Npub, limit: u32) -> Result<Vec<Item>> {
    todo!()
}

/// The rows that an open tick claimed.
pub async fn claimed(store: &Store, tick: TickId) -> Result<Vec<Item>> {
    todo!()
}

/// How many rows and bytes wait.
pub async fn level(store: &Store, npub: Npub) -> Result<(i64, i64)> {
    todo!()
}

/// Agents of this worker that have unclaimed rows, for when the bus lost a message.
pub async fn waiting(store: &Store, fence: Fence, limit: u32) -> Result<Vec<Npub>> {
    todo!()
}

/// Marks unclaimed rows as handled without a tick: the filter refused them. Rows already handled or claimed are left.
/// Returns how many.
pub async fn discard(
    store: &Store,
    fence: Fence,
    npub: Npub,
    generation: nexus_core::Generation,
    ids: &[i64],
    why: &'static str,
) -> Result<u64> {
    todo!()
}

/// Forgets handled rows received before `before`; a repetition after that would be new. Returns how many.
pub async fn purge(store: &Store, before: UnixMs, limit: u32) -> Result<u64> {
    todo!()
}
