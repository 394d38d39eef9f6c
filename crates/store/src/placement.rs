//! The reconciler's side of placement: its term, its snapshot, and the carrying out of a plan.
//!
//! Raising a generation locks the fence row of the agent's worker first, then compares and sets (worker, generation):
//! a worker's transaction that is under way ends before the generation moves, and none begins after.

use nexus_core::placement::{AgentView, Step};
use nexus_core::status::Reason;
use nexus_core::{Generation, Npub, UnixMs, WorkerId};

use crate::{Fence, Result, Store};

/// The right to place: a number that only one reconciler holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term(pub i64);

/// Takes the next term from whoever holds the current one.
///
/// # Errors
/// `Stale` when another took it at the same moment.
pub async fn take_term(store: &Store, holder: &str, now: UnixMs) -> Result<Term> {
    todo!()
}

/// The current term and its holder's beat, for standbys that watch it.
pub async fn current_term(store: &Store) -> Result<Option<(Term, i64)>> {
    todo!()
}

/// The holder's sign of life. `Stale` when the term is over.
pub async fn beat_term(store: &Store, term: Term, now: UnixMs) -> Result<()> {
    todo!()
}

/// Agents that need a worker and have none, or whose worker is draining, at most `limit`, in npub order: desired running
/// (purpose `run`), or with unresolved payments, pending publications or a wallet request (purpose `service`).
pub async fn unplaced(store: &Store, now: UnixMs, limit: u32) -> Result<Vec<AgentView>> {
    todo!()
}

/// Agents that are placed and need it no more (stopped, nothing to resolve, no open tick), in npub order.
pub async fn idle(store: &Store, now: UnixMs, limit: u32) -> Result<Vec<(Npub, Generation, WorkerId)>> {
    todo!()
}

/// Agents placed, by worker.
pub async fn loads(store: &Store) -> Result<Vec<(WorkerId, u32)>> {
    todo!()
}

/// Carries out one step: next generation, on the new worker, with a `placed` event. Returns the new generation.
///
/// # Errors
/// `Stale` when the term is over; `Conflict::Version` when the agent has changed since the snapshot;
/// `Conflict::NoWorker` when the worker is gone.
pub async fn place(store: &Store, term: Term, step: &Step, now: UnixMs) -> Result<Generation> {
    todo!()
}

/// Takes an agent off its worker at the next generation. Errors as [`place`].
pub async fn unplace(
    store: &Store,
    term: Term,
    npub: Npub,
    generation: Generation,
    from: WorkerId,
    reason: Option<Reason>,
) -> Result<Generation> {
    todo!()
}

/// Declares a worker dead, if it still stands at this incarnation and beat: its fence goes, and with it every write
/// that it may still try. Its agents become unplaced at the next generation, in npub order, all in this batch.
/// Returns how many.
pub async fn declare_dead(
    store: &Store,
    term: Term,
    worker: WorkerId,
    incarnation: i64,
    beat: i64,
    now: UnixMs,
) -> Result<u64> {
    todo!()
}

/// Hands one agent back by its own worker (drain). Returns the new generation.
pub async fn give_up(store: &Store, fence: Fence, npub: Npub, generation: Generation) -> Result<Generation> {
    todo!()
}

/// Notes why an unplaced agent waits, and when it is looked at again. Changes nothing else.
pub async fn note_waiting(
    store: &Store,
    term: Term,
    npub: Npub,
    generation: Generation,
    reason: Reason,
    next_attempt_at: UnixMs,
) -> Result<()> {
    todo!()
}
