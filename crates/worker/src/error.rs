//! How a turn ends when it does not end well.

use nexus_store::StoreError;

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
        if error.is_stale() { Self::Stale } else { Self::Store(error) }
    }
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
