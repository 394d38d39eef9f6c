//! Ticks: begun, committed or skipped, each in one batch under the fence.

use nexus_core::trigger::Trigger;
use nexus_core::{Generation, Msat, Npub, TickId, UnixMs};

use crate::agent::Change;
use crate::event::NewEvent;
use crate::inbox::Item;
use crate::journal::Record;
use crate::{Fence, Result, Side, Store};

/// Most ticks of one page.
pub const MAX_PAGE: u32 = 200;

/// How far a tick got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TickStatus {
    Open,
    Completed,
    Failed,
    Skipped,
}

/// A row of the history. Texts that people read are in `sealed`, under the view key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick {
    pub id: TickId,
    pub npub: Npub,
    pub trigger: Trigger,
    pub status: TickStatus,
    /// Why it failed or was skipped.
    pub reason: Option<String>,
    pub generation: Generation,
    pub started_at: UnixMs,
    pub ended_at: Option<UnixMs>,
    /// Spent, fees included.
    pub cost: Msat,
    /// JSON array of the API's actions.
    pub actions: String,
    /// JSON array of steps: names, times, outcomes; no text.
    pub steps: String,
    pub sealed: Option<Vec<u8>>,
}

/// The start of a tick.
#[derive(Debug, Clone)]
pub struct Begin {
    pub fence: Fence,
    pub npub: Npub,
    pub generation: Generation,
    pub tick: TickId,
    pub trigger: Trigger,
    pub at: UnixMs,
    /// Inbox rows it takes; each must be unclaimed.
    pub inbox: Vec<i64>,
    /// The first journal records.
    pub records: Vec<Record>,
    pub events: Vec<NewEvent>,
    pub side: Vec<Side>,
}

/// The end of a tick: journal deleted, its inbox rows handled.
#[derive(Debug, Clone)]
pub struct Commit {
    pub fence: Fence,
    pub npub: Npub,
    pub generation: Generation,
    pub tick: TickId,
    pub at: UnixMs,
    /// None: completed. Some: failed, with why.
    pub failed: Option<String>,
    /// The new encrypted state; none leaves it.
    pub state: Option<NewState>,
    pub cost: Msat,
    pub actions: String,
    pub steps: String,
    pub sealed: Option<Vec<u8>>,
    /// Lifecycle, balance, next tick, reason.
    pub change: Change,
    pub events: Vec<NewEvent>,
    pub side: Vec<Side>,
}

/// Encrypted state to store. `version` must be one above the stored one (1 for the first).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewState {
    pub version: i64,
    pub blob: Vec<u8>,
}

/// A refusal of the gate, recorded and visible.
#[derive(Debug, Clone)]
pub struct Skip {
    pub fence: Fence,
    pub npub: Npub,
    pub generation: Generation,
    pub tick: TickId,
    pub trigger: Trigger,
    pub at: UnixMs,
    pub reason: String,
    /// Inbox rows that the refusal settles; rows left out wait for the next wake-up.
    pub discard: Vec<i64>,
    pub change: Change,
    pub events: Vec<NewEvent>,
}

/// A tick that a crash or a hand-over left open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTick {
    pub tick: Tick,
    pub records: Vec<Record>,
    pub inbox: Vec<Item>,
}

/// Returns the numbers of appended events.
///
/// # Errors
/// `Stale`; `Conflict::TickOpen` when the agent has an open tick; `Conflict::InboxGone` when a row was claimed or
/// handled before; conflicts of side effects. In each case nothing was changed.
pub async fn begin(store: &Store, begin: Begin) -> Result<Vec<i64>> {
    todo!()
}

/// Returns the numbers of appended events.
///
/// # Errors
/// `Stale`; `Conflict::TickNotOpen` (it was committed before: read it back); `Conflict::Version` when the stored state
/// is not the one that this tick read. In each case nothing was changed.
pub async fn commit(store: &Store, commit: Commit) -> Result<Vec<i64>> {
    todo!()
}

pub async fn skip(store: &Store, skip: Skip) -> Result<Vec<i64>> {
    todo!()
}

/// The open tick of an agent with its journal and inbox rows.
pub async fn open(store: &Store, npub: Npub) -> Result<Option<OpenTick>> {
    todo!()
}

/// Newest first, started before the tick `before`.
pub async fn list(store: &Store, npub: Npub, before: Option<TickId>, limit: u32) -> Result<Vec<Tick>> {
    todo!()
}

pub async fn get(store: &Store, npub: Npub, tick: TickId) -> Result<Option<Tick>> {
    todo!()
}

/// Ticks that really ran (not skipped) since `since`: for the hourly limit.
pub async fn count_since(store: &Store, npub: Npub, since: UnixMs) -> Result<u32> {
    todo!()
}

/// Spent by ticks since `since`, and the earliest of them: for the runway.
pub async fn spent_since(store: &Store, npub: Npub, since: UnixMs) -> Result<(Msat, Option<UnixMs>)> {
    todo!()
}

/// When the last tick was committed.
pub async fn last_committed(store: &Store, npub: Npub) -> Result<Option<Tick>> {
    todo!()
}

/// Deletes closed ticks that started before `before`. Returns how many.
pub async fn purge(store: &Store, before: UnixMs, limit: u32) -> Result<u64> {
    todo!()
}
