//! What an agent remembers of compute providers.

use nexus_core::{Msat, Npub, UnixMs};

use crate::{Result, Store};

/// One thing that happened with a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    Done {
        latency_ms: i64,
        price: Msat,
    },
    /// Abandoned before payment: silent, too dear, not acceptable.
    Abandoned,
    /// Paid, and nothing came.
    Disputed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Score {
    pub provider: Npub,
    pub done: u32,
    pub abandoned: u32,
    pub disputed: u32,
    /// Of the last finished job.
    pub latency_ms: i64,
    pub price: Msat,
    pub updated_at: UnixMs,
}

/// The agent's memory of all providers it has met, at most 1,000.
pub async fn scores(store: &Store, npub: Npub) -> Result<Vec<Score>> {
    todo!()
}
