//! Workers: registration, beats, fences.

use nexus_core::status::Purpose;
use nexus_core::{Generation, Npub, UnixMs, WorkerId};

use crate::agent::Agent;
use crate::{Fence, Result, Store};

/// Agents told in one beat at most; the rest comes with the next.
pub const MAX_CHANGED: u32 = 1_000;

/// A worker as it introduces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewWorker {
    pub id: WorkerId,
    pub region: String,
    pub pool: String,
    /// Agents it takes at most.
    pub capacity: u32,
    /// What it can read.
    pub version: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    pub id: WorkerId,
    pub region: String,
    pub pool: String,
    pub capacity: u32,
    pub version: u32,
    pub incarnation: i64,
    /// Raised each second by the worker. Compare it with what you saw, on your own monotonic clock.
    pub beat: i64,
    pub draining: bool,
    /// Declared dead: its fence is gone until it registers again.
    pub dead: bool,
    /// For display.
    pub seen_at: UnixMs,
}

/// An agent that changed: still the worker's (`agent.worker == me`), or one to drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    pub npub: Npub,
    pub worker: Option<WorkerId>,
    pub generation: Generation,
    pub purpose: Purpose,
    pub rev: i64,
}

/// Boot: a new incarnation, so that every write of an earlier one is stale.
pub async fn register(store: &Store, worker: NewWorker, now: UnixMs) -> Result<Fence> {
    todo!()
}

/// One beat; returns the agents whose revision is above `applied`, in the order of their revisions.
///
/// # Errors
/// `Stale` when this incarnation was replaced or declared dead: drop all agents, register again.
pub async fn beat(store: &Store, fence: Fence, applied: i64, now: UnixMs) -> Result<Vec<Changed>> {
    todo!()
}

/// Every agent that is placed on this worker now, in npub order: at boot, and after a lost beat.
pub async fn hosted(store: &Store, worker: WorkerId) -> Result<Vec<Agent>> {
    todo!()
}

/// Says that it hands its agents over, or that it takes them again.
pub async fn set_draining(store: &Store, fence: Fence, draining: bool) -> Result<()> {
    todo!()
}

pub async fn list(store: &Store) -> Result<Vec<Worker>> {
    todo!()
}

pub async fn get(store: &Store, id: WorkerId) -> Result<Option<Worker>> {
    todo!()
}
