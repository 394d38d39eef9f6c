//! How a turn ends when it does not end well.

use nexus_store::{ObjectProblem, StoreError};

/// Why a turn was cut short. None of these loses anything: the journal says where to go on.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    /// Someone else is responsible for this agent now. It is dropped, not retried.
    #[error("the agent is no longer this worker's")]
    Stale,
    /// The database failed; the turn is taken again.
    #[error(transparent)]
    Store(StoreError),
    /// The agent cannot run as it is. Shown with its reason, and tried again later.
    #[error("{text}")]
    Parked { code: &'static str, text: String, retry_ms: u64 },
    /// Written by a later release than this worker's: left as it is, and given to one that reads it.
    #[error("{what} has version {version}")]
    Newer { what: String, version: u32 },
    /// The worker shuts down, or the owner said stop at once. The tick stays in its journal.
    #[error("interrupted")]
    Interrupted,
}

impl From<StoreError> for TurnError {
    fn from(error: StoreError) -> Self {
        match error.object() {
            Some(problem) => object(problem),
            None if error.is_stale() => Self::Stale,
            None => Self::Store(error),
        }
    }
}

/// Until an object that is not as it should be is asked for again: somebody has to act first.
const OBJECT_RETRY_MS: u64 = 60_000;
/// Until an object store that did not answer is asked again.
const OBJECTS_RETRY_MS: u64 = 10_000;

/// What an object store does not give parks the agent. Its tick stays in its journal.
fn object(problem: ObjectProblem) -> TurnError {
    let (code, text, retry_ms) = match problem {
        ObjectProblem::Missing => (
            "state_missing",
            "the agent's state is missing from the object store: the operator has to restore it there",
            OBJECT_RETRY_MS,
        ),
        ObjectProblem::Damaged => (
            "state_refused",
            "what the object store holds as the agent's state is not what was put there: the operator has to restore it",
            OBJECT_RETRY_MS,
        ),
        ObjectProblem::Unreachable => {
            ("object_store_unreachable", "the object store does not answer; it is tried again", OBJECTS_RETRY_MS)
        }
        ObjectProblem::NotConfigured => (
            "object_store_unset",
            "the agent's state is in an object store, and its worker has none configured",
            OBJECT_RETRY_MS,
        ),
    };
    TurnError::parked(code, text, retry_ms)
}

impl TurnError {
    pub fn parked(code: &'static str, text: impl Into<String>, retry_ms: u64) -> Self {
        Self::Parked { code, text: text.into(), retry_ms }
    }
}

/// Why a worker does not start or ends.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("registering this worker: {0}")]
    Register(StoreError),
    #[error("the installation's runner key: {0}")]
    Runner(String),
}
