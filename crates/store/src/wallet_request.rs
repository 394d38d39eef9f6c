//! Requests of the control plane to an agent's wallet, which only a worker can open.

use nexus_core::{Generation, Npub, UnixMs};

use crate::{Audit, Fence, Result, Store};

/// Waiting requests of one agent at most.
pub const MAX_WAITING: i64 = 16;

/// A request. `body` and `answer` are JSON; a BOLT11 is no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalletRequest {
    pub id: String,
    pub npub: Npub,
    /// `invoice`, `balance`.
    pub kind: String,
    pub body: String,
    pub created_at: UnixMs,
    pub expires_at: UnixMs,
    pub answer: Option<Answer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done(String),
    /// A code or words for the caller.
    Failed(String),
}

/// Stores a request and raises the agent's revision, so that its worker sees it at the next beat.
///
/// # Errors
/// `Conflict::TooMany` above [`MAX_WAITING`]; `Conflict::NoAgent`.
pub async fn put(store: &Store, request: WalletRequest, audit: Option<Audit>) -> Result<()> {
    todo!()
}

/// Unanswered requests of an agent that have not expired.
pub async fn waiting(store: &Store, npub: Npub, now: UnixMs) -> Result<Vec<WalletRequest>> {
    todo!()
}

/// Answers under the fence. `Conflict::NotFound` when it was answered or deleted before.
pub async fn answer(
    store: &Store,
    fence: Fence,
    npub: Npub,
    generation: Generation,
    id: &str,
    answer: Answer,
) -> Result<()> {
    todo!()
}

pub async fn get(store: &Store, npub: Npub, id: &str) -> Result<Option<WalletRequest>> {
    todo!()
}

pub async fn purge(store: &Store, now: UnixMs) -> Result<u64> {
    todo!()
}
